package engine_test

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/engine"
	"github.com/runnelhq/runnel/storage"
	"github.com/runnelhq/runnel/storage/faulty"
	"github.com/runnelhq/runnel/storage/memory"
)

// watched notes what a watcher is told, until the test ends. It is for a bubble.
func (w *world) watched(t *testing.T) (told func() []string) {
	t.Helper()
	events := make(chan string, 100)
	go func() {
		for event := range w.Watch(t.Context(), runnel.Store{}) {
			verb := "created "
			if event.Deleted {
				verb = "deleted "
			}
			events <- verb + event.Info.Segment.Path()
		}
	}()
	synctest.Wait()
	return func() (all []string) {
		synctest.Wait()
		for len(events) > 0 {
			all = append(all, <-events)
		}
		return all
	}
}

func TestNobodyIsToldOfWhatDidNotHappen(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := inMemory(t)
		w.create("there", runnel.CreateOptions{})
		told := w.watched(t)
		w.driver.SetRules(faulty.Rule{When: faulty.On(faulty.Commit), Then: faulty.Before(storage.ErrRefused)})
		_, err := w.tryCreate("new", runnel.CreateOptions{})
		wantError(t, err, runnel.ErrUnavailable)
		wantError(t, w.Delete(ctx, at("there")), runnel.ErrUnavailable)
		if got := told(); len(got) > 0 {
			t.Errorf("told %q, and nothing has happened", got)
		}
	})
}

func TestTheEndOfAnExpiredSourceIsToldWhenItGoesWithItsLastFork(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, new(memory.Driver), engine.Config{SweepInterval: -1})
		w.create("source", runnel.CreateOptions{TTL: time.Minute}, "x")
		o := forkOf("source", 1, 0)
		o.TTL = time.Hour
		w.create("fork", o)
		told := w.watched(t)
		pass(10 * time.Minute) // nobody looks at the source
		w.delete("fork")
		if got, want := told(), []string{"deleted fork", "deleted source"}; !slices.Equal(got, want) {
			t.Errorf("told %q, want %q", got, want)
		}
	})
}
