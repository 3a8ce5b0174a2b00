package engine_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/engine"
	"github.com/runnelhq/runnel/storage/memory"
)

func newExample() *engine.Engine {
	e, err := engine.Open(new(memory.Driver), engine.Config{})
	if err != nil {
		panic(err)
	}
	return e
}

func ExampleEngine_Append() {
	e := newExample()
	defer e.Close()
	ctx := context.Background()
	orders := runnel.Segment{Space: "orders", Name: "42"}
	if _, err := e.Create(ctx, orders, runnel.CreateOptions{ContentType: "application/json"}); err != nil {
		panic(err)
	}
	at, err := e.Append(ctx, orders, runnel.AppendOptions{}, runnel.Record{Payload: []byte(`"paid"`)})
	fmt.Println(at.Tail, err)

	// Somebody who has seen an older state is told, and nothing is written.
	old := runnel.Sequence(0)
	_, err = e.Append(ctx, orders, runnel.AppendOptions{Expect: &old}, runnel.Record{Payload: []byte(`"void"`)})
	fmt.Println(errors.Is(err, runnel.ErrTailMoved), err)
	// Output:
	// 1 <nil>
	// true runnel: the tail of segment "orders/42" is 1, not 0
}

func ExampleEngine_Commit() {
	e := newExample()
	defer e.Close()
	ctx := context.Background()
	bank := runnel.Space{Name: "bank"}
	for _, account := range []string{"alice", "bob"} {
		if _, err := e.Create(ctx, bank.Segment(account), runnel.CreateOptions{}); err != nil {
			panic(err)
		}
	}
	// Both, or neither.
	at, err := e.Commit(ctx, bank,
		runnel.Write{Segment: "alice", Records: []runnel.Record{{Payload: []byte("-10")}}},
		runnel.Write{Segment: "bob", Records: []runnel.Record{{Payload: []byte("+10")}}},
	)
	if err != nil {
		panic(err)
	}
	fmt.Println(at[0].Tail, at[1].Tail, at[0].Time.Equal(at[1].Time))
	// Output: 1 1 true
}
