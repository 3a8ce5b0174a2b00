package faulty_test

import (
	"errors"
	"fmt"

	"github.com/runnelhq/runnel/storage"
	"github.com/runnelhq/runnel/storage/faulty"
	"github.com/runnelhq/runnel/storage/memory"
)

// A commit whose answer was lost is found by the id that it left in the guard.
func Example() {
	d := faulty.New(new(memory.Driver),
		faulty.Rule{When: faulty.Nth(faulty.Commit, 1), Then: faulty.After(storage.ErrUnknown)},
	)
	b := &storage.Batch{Guarded: true, ID: storage.CommitID{42}}
	b.Set([]byte("key"), nil, []byte("value"))

	_, err := d.Commit(ctx, here, b)
	fmt.Println("unknown:", errors.Is(err, storage.ErrUnknown))

	version, id, _ := d.Guard(ctx, here)
	fmt.Println("version", version, "is ours:", id == b.ID)
	// Output:
	// unknown: true
	// version 1 is ours: true
}
