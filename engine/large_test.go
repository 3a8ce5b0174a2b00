package engine_test

import (
	"bytes"
	"errors"
	"iter"
	"testing"
	"testing/synctest"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/engine"
	"github.com/runnelhq/runnel/storage/memory"
)

func TestReadersTakeTurnsInHavingALargeEntryInMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size = 6 << 20
		w := newWorld(t, new(memory.Driver), engine.Config{MaxReadBytes: 8 << 20, TailCacheBytes: 1 << 10})
		w.create("a", runnel.CreateOptions{})
		large := bytes.Repeat([]byte("x"), size)
		for range 2 {
			if _, err := w.Append(ctx, at("a"), runnel.AppendOptions{}, runnel.Record{Payload: large}); err != nil {
				t.Fatal(err)
			}
		}
		stalled := func() (func() (runnel.Batch, error, bool), func()) {
			v, err := w.Read(ctx, at("a"), 0, 0)
			if err != nil {
				t.Fatal(err)
			}
			return iter.Pull2(v.Stream)
		}
		next, stop := stalled()
		defer stop()
		if b, err, _ := next(); err != nil || len(b.Payload(0)) != size {
			t.Fatal(err)
		}
		other, otherStop := stalled()
		defer otherStop()
		if _, err, _ := other(); !errors.Is(err, runnel.ErrUnavailable) {
			t.Fatalf("a second reader of 6 MiB where 8 are allowed got %v", err)
		}
		otherStop()
		if b, err, _ := next(); err != nil || len(b.Payload(0)) != size {
			t.Fatalf("the one who waits for nobody goes on: %v", err)
		}
		stop()
		third, thirdStop := stalled()
		defer thirdStop()
		if _, err, _ := third(); err != nil {
			t.Fatalf("a reader after the first has gone: %v", err)
		}
		thirdStop()
		w.Close()
	})
}

func TestAnExpiryInTheYear9999DoesNotKeepReadersBusy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, new(memory.Driver), engine.Config{})
		w.create("a", runnel.CreateOptions{ExpiresAt: time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)})
		woken := make(chan error, 1)
		go func() {
			_, err := w.Wait(ctx, at("a"), 0, 0)
			woken <- err
		}()
		synctest.Wait() // never comes back if the waiter spins
		if _, err := w.Append(ctx, at("a"), runnel.AppendOptions{}, records("x")...); err != nil {
			t.Fatal(err)
		}
		if err := <-woken; err != nil {
			t.Fatal(err)
		}
		w.Close()
	})
}
