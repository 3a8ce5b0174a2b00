package engine_test

import (
	"testing"

	"github.com/runnelhq/runnel"
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
