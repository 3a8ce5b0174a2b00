package engine_test

import (
	"context"
	"testing"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/engine"
	"github.com/runnelhq/runnel/storage/faulty"
	"github.com/runnelhq/runnel/storage/memory"
)

func TestWhoeverWaitsForALoadCanGiveUp(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := inMemory(t)
		w.create("a", runnel.CreateOptions{}, "x")
		w.reopen()
		let := make(chan struct{})
		w.driver.SetRules(faulty.Rule{
			When: faulty.On(faulty.Get),
			Then: faulty.Wait(func(context.Context) error { <-let; return nil }, faulty.Through),
		})
		loading := later(func() error { return w.statErr("a") })
		pending(t, loading, "the load")
		brief, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		waiting := later(func() error { _, err := w.Stat(brief, at("a")); return err })
		pass(time.Minute)
		select {
		case err := <-waiting:
			wantError(t, err, context.DeadlineExceeded)
		default:
			t.Error("it still waits for the load, long after its time is up")
		}
		close(let)
		wantError(t, <-loading, nil)
	})
}

func TestNoWriterWaitsForAReaderThatLooksForWhatIsRetained(t *testing.T) {
	w := newWorld(t, new(memory.Driver), engine.Config{TailCacheBytes: 1})
	w.create("a", runnel.CreateOptions{Retention: runnel.Retention{Bytes: 1000}}, "x")
	looks, let := make(chan struct{}), make(chan struct{})
	w.driver.SetRules(faulty.Rule{
		When: faulty.Nth(faulty.Scan, w.driver.Calls(faulty.Scan)+1),
		Then: faulty.Wait(func(context.Context) error { close(looks); <-let; return nil }, faulty.Through),
	})
	read := later(func() error { return w.statErr("a") })
	<-looks
	appended := later(func() error { _, err := w.tryAppend("a", runnel.AppendOptions{}, "y"); return err })
	select {
	case err := <-appended:
		wantError(t, err, nil)
	case <-time.After(10 * time.Second):
		t.Error("the append waits for a reader whom storage keeps waiting")
	}
	close(let)
	wantError(t, <-read, nil)
	w.want("a", "x", "y")
}
