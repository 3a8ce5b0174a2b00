package state_test

import (
	"fmt"

	"github.com/runnelhq/runnel/state"
)

func ExampleParse() {
	c, err := state.Parse([]byte(`{"type":"item","key":"ada","value":{"value":9007199254740993},"headers":{"operation":"insert"}}`))
	fmt.Println(c.Key, c.Operation, string(state.Unwrap(c.Value)), err)
	// Output: ada insert 9007199254740993 <nil>
}
