package engine_test

import (
	"errors"
	"sync"
	"testing"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/engine"
	"github.com/runnelhq/runnel/storage/memory"
)

func TestAClosedEngineRefusesEverything(t *testing.T) {
	w := inMemory(t)
	w.create("a", runnel.CreateOptions{}, "x")
	view, err := w.Read(ctx, at("a"), 0, 0)
	wantError(t, err, nil)
	for range 2 {
		wantError(t, w.Close(), nil)
	}
	_, create := w.tryCreate("b", runnel.CreateOptions{})
	_, add := w.tryAppend("a", runnel.AppendOptions{}, "x")
	_, commit := w.Commit(ctx, theSpace, writeTo("a", runnel.AppendOptions{}, "x"))
	_, read := w.readErr("a", 0)
	_, wait := w.Wait(ctx, at("a"), 0, 0)
	_, held := entriesOf(view)
	var list, tail error
	for _, list = range w.List(ctx, runnel.Store{}, runnel.ListOptions{}) {
	}
	for _, tail = range w.Tail(ctx, at("a"), 0, 0) {
	}
	for i, err := range []error{create, add, commit, read, wait, w.statErr("a"), w.Delete(ctx, at("a")), list, tail, held} {
		if !errors.Is(err, runnel.ErrShutdown) {
			t.Errorf("%d: %v", i, err)
		}
	}
}

func TestClosingLetsStagedWritesBecomeDurable(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := inMemory(t)
		w.create("a", runnel.CreateOptions{})
		release := w.blocked("")
		first := later(func() error { _, err := w.tryAppend("a", runnel.AppendOptions{}, "1"); return err })
		pending(t, first, "the first append")
		second := later(func() error { _, err := w.tryAppend("a", runnel.AppendOptions{}, "2"); return err })
		pending(t, second, "the second append")
		waiter := w.waiting("a", 0, 0)
		pending(t, waiter, "waiting")

		closed := later(w.Close)
		again := later(w.Close)
		pending(t, closed, "closing")
		pending(t, again, "closing a second time")
		wantError(t, (<-waiter).err, runnel.ErrShutdown)
		_, err := w.tryAppend("a", runnel.AppendOptions{}, "3")
		wantError(t, err, runnel.ErrShutdown)
		release()
		wantError(t, <-first, nil)
		wantError(t, <-second, nil)
		wantError(t, <-closed, nil)
		wantError(t, <-again, nil)
		w.open()
		w.want("a", "1", "2")
	})
}

func TestClosingInTheMiddleOfEverythingLosesNothingThatWasAcknowledged(t *testing.T) {
	d := new(memory.Driver)
	for range 5 {
		w := newWorld(t, d, engine.Config{})
		if _, err := w.tryCreate("a", runnel.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		before := w.stat("a").Tail
		var acknowledged int
		var mu sync.Mutex
		closing := sync.OnceFunc(func() { _ = w.Close() })
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for {
					_, err := w.tryAppend("a", runnel.AppendOptions{}, "x")
					mu.Lock()
					if err == nil {
						acknowledged++
					}
					enough := acknowledged > 50
					mu.Unlock()
					if enough {
						wg.Go(closing)
					}
					if err != nil {
						if !errors.Is(err, runnel.ErrShutdown) {
							t.Error(err)
						}
						return
					}
				}
			})
		}
		wg.Wait()
		w.open()
		if got := int(w.stat("a").Tail - before); got != acknowledged {
			t.Fatalf("%d entries, %d were acknowledged", got, acknowledged)
		}
		_ = w.Close()
	}
}
