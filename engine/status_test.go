package engine_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/engine"
	"github.com/runnelhq/runnel/storage"
	"github.com/runnelhq/runnel/storage/memory"
)

// toldStatuses collects what a watcher is told, as "path tail", "path gone", or a mark.
type toldStatuses struct {
	mu   sync.Mutex
	told []string
	err  error
	step chan struct{} // if not nil, the watcher takes one status for each
}

func (w *world) watchSegments(ctx context.Context, prefix string, step chan struct{}) *toldStatuses {
	seen := &toldStatuses{step: step}
	go func() {
		for s, err := range w.WatchSegments(ctx, runnel.Store{}, runnel.SegmentWatch{Prefix: prefix}) {
			if err != nil {
				seen.err = err
				return
			}
			if seen.step != nil {
				<-seen.step
			}
			seen.mu.Lock()
			seen.told = append(seen.told, statusText(s))
			seen.mu.Unlock()
		}
	}()
	return seen
}

func statusText(s runnel.Status) string {
	switch {
	case s.Mark && s.Live:
		return "complete"
	case s.Mark:
		return "again"
	case s.Gone:
		return s.Info.Segment.Path() + " gone"
	}
	return fmt.Sprint(s.Info.Segment.Path(), " ", s.Info.Tail)
}

// took checks in a bubble what the watcher was told since the last time.
func (seen *toldStatuses) took(t testing.TB, want ...string) {
	t.Helper()
	if told := seen.take(); !slices.Equal(told, want) {
		t.Fatalf("told %s, want %s", short(told), short(want))
	}
}

// take returns what the watcher was told since the last time, when nothing more is to come.
func (seen *toldStatuses) take() []string {
	synctest.Wait()
	seen.mu.Lock()
	defer seen.mu.Unlock()
	told := seen.told
	seen.told = nil
	return told
}

func TestAWatcherIsToldWhatThereIsAndThenWhatChanges(t *testing.T) {
	for name, open := range map[string]func() storage.Driver{
		"alone":  func() storage.Driver { return new(memory.Driver) },
		"shared": func() storage.Driver { return &memory.Driver{Shared: true} },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				driver := open()
				w := newWorld(t, driver, engine.Config{})
				w.create("s/a", runnel.CreateOptions{}, "1", "2")
				w.create("s/b", runnel.CreateOptions{TTL: time.Minute})
				w.create("other", runnel.CreateOptions{}, "1")
				c, cancel := context.WithCancel(ctx)
				seen := w.watchSegments(c, "s/", nil)
				seen.took(t, "s/a 2", "s/b 0", "complete")
				w.append("s/a", "3")
				seen.took(t, "s/a 3")
				w.append("other", "2")
				w.create("s/c", runnel.CreateOptions{}, "1")
				seen.took(t, "s/c 1")
				w.delete("s/a")
				seen.took(t, "s/a gone")
				pass(2 * time.Minute)
				seen.took(t, "s/b gone")
				w.create("s/a", runnel.CreateOptions{})
				seen.took(t, "s/a 0")
				cancel()
				synctest.Wait()
				wantError(t, seen.err, context.Canceled)
				last := w.watchSegments(ctx, "", nil)
				last.took(t, "other 2", "s/a 0", "s/c 1", "complete")
				if err := w.Close(); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				wantError(t, last.err, runnel.ErrShutdown)
			})
		})
	}
}

func TestAWatcherSeesWhatAnotherProcessWrites(t *testing.T) {
	bubble(t, func(t *testing.T) {
		shared := &memory.Driver{Shared: true}
		one, two := newWorld(t, shared, engine.Config{}), newWorld(t, shared, engine.Config{})
		one.create("s/a", runnel.CreateOptions{}, "1")
		seen := two.watchSegments(ctx, "", nil)
		seen.took(t, "s/a 1", "complete")
		one.append("s/a", "2")
		one.create("s/b", runnel.CreateOptions{})
		pass(time.Second)
		seen.took(t, "s/a 2", "s/b 0")
		one.delete("s/a")
		pass(time.Second)
		seen.took(t, "s/a gone")
		pass(time.Minute)
		seen.took(t)
	})
}

func TestASlowWatcherIsToldLessAndNothingOld(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := inMemory(t)
		w.create("a", runnel.CreateOptions{})
		w.create("b", runnel.CreateOptions{})
		step := make(chan struct{})
		seen := w.watchSegments(ctx, "", step)
		for range 3 {
			step <- struct{}{}
		}
		seen.took(t, "a 0", "b 0", "complete")
		for i := range 100 {
			w.append("a", fmt.Sprint(i))
		}
		w.append("b", "x")
		close(step)
		if told := seen.take(); len(told) > 4 || !slices.Contains(told[len(told)-2:], "b 1") || !slices.Contains(told, "a 100") {
			t.Fatal(short(told))
		}
	})
}

func TestAWatcherOfVeryManySegmentsMissesNone(t *testing.T) {
	defer engine.SetMaxChanged(100)()
	bubble(t, func(t *testing.T) {
		w := inMemory(t)
		const many = 2500
		for i := range many {
			w.create(fmt.Sprintf("s/%04d", i), runnel.CreateOptions{})
		}
		step := make(chan struct{})
		seen := w.watchSegments(ctx, "", step)
		for range many + 1 {
			step <- struct{}{}
		}
		if told := seen.take(); len(told) != many+1 || told[many] != "complete" {
			t.Fatal(len(told))
		}
		// More changes than are remembered: it is given everything again.
		for i := range 200 {
			w.append(fmt.Sprintf("s/%04d", i), "1")
		}
		w.delete("s/0000")
		close(step)
		told := seen.take()
		again := slices.Index(told, "again")
		if again < 0 {
			t.Fatal(short(told))
		}
		rest := told[again+1:] // a snapshot, and perhaps what changed meanwhile
		if len(rest) < many || rest[0] != "s/0001 1" || rest[199] != "s/0200 0" || rest[many-1] != "complete" {
			t.Fatal(len(rest), short(rest))
		}
	})
}
