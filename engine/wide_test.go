package engine_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

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

func TestACommitMayLookAtMoreRowsThanAreKeptInMemory(t *testing.T) {
	const parts = 5000
	soon, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	t.Run("cursors", func(t *testing.T) {
		w := inMemory(t)
		moves := make([]runnel.CursorMove, parts)
		for i := range moves {
			moves[i] = runnel.CursorMove{Name: fmt.Sprint(i)}
		}
		if _, err := w.Transact(soon, runnel.Space{Name: "s"}, runnel.Transaction{Cursors: moves}); err != nil {
			t.Fatal(err)
		}
		w.wantRows("s", map[string]int{"u": parts})
	})
	t.Run("idempotency keys", func(t *testing.T) {
		w := inMemory(t)
		writes := make([]runnel.Write, parts)
		for i := range writes {
			writes[i] = runnel.Write{Segment: fmt.Sprint(i), Records: records("x"), Options: runnel.AppendOptions{
				Key: "k", Create: new(runnel.CreateOptions),
			}}
		}
		for again := range 2 {
			done, err := w.Commit(soon, runnel.Space{Name: "s"}, writes...)
			if err != nil || done[parts-1].Duplicate != (again > 0) {
				t.Fatal(err)
			}
		}
	})
}
