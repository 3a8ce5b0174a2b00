package engine_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/engine"
	"github.com/runnelhq/runnel/storage"
	"github.com/runnelhq/runnel/storage/memory"
)

func TestACommitToMoreSegmentsThanItsRowHoldsIsRefused(t *testing.T) {
	w := newWorld(t, &memory.Driver{Max: storage.Limits{MaxValueBytes: 4 << 10}}, engine.Config{})
	var writes []runnel.Write
	for i := range 2000 {
		w.create(fmt.Sprint("s/", i), runnel.CreateOptions{})
		writes = append(writes, writeTo(fmt.Sprint(i), runnel.AppendOptions{}, "x"))
	}
	if _, err := w.Commit(ctx, theSpace, writes...); !errors.Is(err, runnel.ErrInvalid) {
		t.Fatalf("got %v, want %v", err, runnel.ErrInvalid)
	}
	w.append("s/0", "after")
	w.want("s/0", "after")
}
