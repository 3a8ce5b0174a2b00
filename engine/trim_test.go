package engine_test

import (
	"testing"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/engine"
	"github.com/runnelhq/runnel/storage/memory"
)

func TestTrimmingWaitsForADeletionUnderWay(t *testing.T) {
	// The deletion is staged and not yet durable when a reader has the segment trimmed.
	bubble(t, func(t *testing.T) {
		w := inMemory(t)
		w.create("a", runnel.CreateOptions{Retention: runnel.Retention{Entries: 1}}, numbered("", 200)...)
		release := w.blocked("")
		deleted := later(func() error { return w.Delete(ctx, at("a")) })
		pending(t, deleted, "the deletion")
		if got := w.stat("a").Earliest; got != 199 {
			t.Fatalf("earliest %d", got)
		}
		pending(t, deleted, "the deletion") // never comes back if the trim spins
		release()
		wantError(t, <-deleted, nil)
		wantError(t, w.statErr("a"), runnel.ErrNotFound)
	})
}

func TestTrimmingKeepsWhatAForkOnItsWayReads(t *testing.T) {
	// The fork's claim on its source is staged and not yet durable when a reader has the source trimmed.
	bubble(t, func(t *testing.T) {
		w := newWorld(t, new(memory.Driver), engine.Config{TailCacheBytes: 1, SweepInterval: -1})
		w.create("a", runnel.CreateOptions{Retention: runnel.Retention{Age: time.Hour}}, numbered("", 200)...)
		pass(time.Hour - time.Second)
		release := w.blocked("")
		forked := later(func() error {
			o := forkOf("a", 200, 0)
			o.Retention.Age = 100 * time.Hour
			_, err := w.tryCreate("s/fork", o)
			return err
		})
		pending(t, forked, "the fork")
		pass(2 * time.Second)
		if got := w.stat("a").Earliest; got != 200 {
			t.Fatalf("earliest %d", got)
		}
		pending(t, forked, "the fork")
		release()
		wantError(t, <-forked, nil)
		pass(time.Second)
		w.wantFrom("s/fork", 0, numbered("", 200)...)
	})
}

func TestTheRowsOfTrimsThatLaterOnesReplaceAreGivenBack(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := inMemory(t)
		w.create("s/a", runnel.CreateOptions{Retention: runnel.Retention{Entries: 3}})
		for range 200 {
			w.append("s/a", numbered("", 100)...)
			w.stat("s/a")
			pass(0)
		}
		pass(time.Minute)
		if n := w.rows("s")["c"]; n > 100 {
			t.Errorf("%d rows are left of 200 trims", n)
		}
		w.want("s/a", "98", "99", "100")
	})
}
