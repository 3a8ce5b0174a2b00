package engine_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/runnelhq/runnel"
)

func TestADeletedSegmentIsGoneForEverybody(t *testing.T) {
	w := inMemory(t)
	w.create("s/a", runnel.CreateOptions{}, "x")
	w.delete("s/a")
	for range 2 {
		wantError(t, w.statErr("s/a"), runnel.ErrNotFound)
		_, err := w.readErr("s/a", 0)
		wantError(t, err, runnel.ErrNotFound)
		_, err = w.tryAppend("s/a", runnel.AppendOptions{}, "x")
		wantError(t, err, runnel.ErrNotFound)
		_, err = w.Wait(ctx, at("s/a"), 0, 1)
		wantError(t, err, runnel.ErrNotFound)
		wantError(t, w.Delete(ctx, at("s/a")), runnel.ErrNotFound)
		_, err = w.tryCreate("f", runnel.CreateOptions{Fork: &runnel.ForkFrom{Source: at("s/a")}})
		wantError(t, err, runnel.ErrNotFound)
		for info := range w.List(ctx, runnel.Store{}, runnel.ListOptions{}) {
			t.Errorf("listed: %+v", info)
		}
		w.crash()
	}
	wantError(t, w.Delete(ctx, runnel.Segment{}), runnel.ErrInvalid)
}

func TestTheDataOfADeletedSegmentIsDropped(t *testing.T) {
	for _, entries := range []int{3, 100} {
		t.Run(fmt.Sprint(entries, " entries"), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := inMemory(t)
				w.create("s/a", runnel.CreateOptions{TTL: time.Hour})
				for i := range entries {
					o := producing(fmt.Sprint("p", i), 0, 0)
					o.HasStreamSeq, o.StreamSeq = true, fmt.Sprintf("%03d", i)
					if _, err := w.tryAppend("s/a", o, "x"); err != nil {
						t.Fatal(err)
					}
				}
				w.wantRows("s", map[string]int{"e": entries, "p": entries, "s": 1, "m": 1})
				w.delete("s/a")
				pass(time.Minute)
				w.wantRows("s", map[string]int{"e": 0, "p": 0, "s": 0, "m": 0, "t": 0, "r": 0, "o": 0})
				pass(2 * time.Hour)
				w.wantRows("s", map[string]int{"x": 0})
			})
		})
	}
}

func TestADeletedSegmentIsNotRememberedUntilItWouldHaveExpired(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := inMemory(t)
		for i := range 10 {
			w.create(fmt.Sprint("s/", i), runnel.CreateOptions{ExpiresAt: time.Now().Add(24 * 365 * time.Hour)}, "x")
			w.delete(fmt.Sprint("s/", i))
		}
		pass(time.Minute)
		w.wantRows("s", map[string]int{"x": 0, "m": 0, "e": 0})
	})
}

func TestWhatACrashKeptFromBeingDroppedIsDroppedLater(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := inMemory(t)
		w.create("s/a", runnel.CreateOptions{}, "x")
		w.create("s/b", runnel.CreateOptions{}, "y")
		release := w.blocked("s")
		gone := later(func() error { return w.Delete(ctx, at("s/a")) })
		pending(t, gone, "the deletion")
		wantError(t, w.statErr("s/a"), nil)
		release()
		wantError(t, <-gone, nil)
		w.crash()
		pass(time.Minute)
		w.wantRows("s", map[string]int{"e": 1, "t": 0})
		w.want("s/b", "y")
	})
}

func TestAReaderUnderwayIsToldThatTheSegmentIsGone(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := inMemory(t)
		w.cfg.TailCacheBytes = 1
		w.reopen()
		w.create("s/a", runnel.CreateOptions{}, "1")
		for range 99 {
			w.append("s/a", "x")
		}
		v, err := w.Read(ctx, at("s/a"), 0, 0)
		wantError(t, err, nil)
		w.delete("s/a")
		pass(time.Minute)
		_, err = entriesOf(v)
		if !errors.Is(err, runnel.ErrNotFound) {
			t.Fatalf("%v", err)
		}
	})
}

func TestDeletingWhileOthersWriteEndsThem(t *testing.T) {
	w := inMemory(t)
	for round := range 20 {
		w.create("s/a", runnel.CreateOptions{}, fmt.Sprint("round ", round))
		ended := later(func() error {
			for {
				if _, err := w.tryAppend("s/a", runnel.AppendOptions{}, fmt.Sprint("round ", round)); err != nil {
					return err
				}
			}
		})
		w.delete("s/a")
		wantError(t, <-ended, runnel.ErrNotFound)
	}
}
