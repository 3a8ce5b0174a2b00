package engine_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"testing"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/engine"
	"github.com/runnelhq/runnel/storage"
	"github.com/runnelhq/runnel/storage/faulty"
	"github.com/runnelhq/runnel/storage/memory"
)

// news hands over what a watcher is told, one after the other. It is to be used in a bubble.
func (w *world) news(watch runnel.ItemWatch) (next func() (runnel.ItemNews, error)) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), time.Hour)
	pull, stop := iter.Pull2(w.WatchItems(ctx, watch))
	w.t.Cleanup(cancel)
	w.t.Cleanup(stop)
	return func() (runnel.ItemNews, error) {
		w.t.Helper()
		n, err, ok := pull()
		if !ok {
			w.t.Fatal("the watch has ended")
		}
		return n, err
	}
}

func (w *world) send(path string, typ string) {
	w.t.Helper()
	if err := w.SendItem(ctx, runnel.ItemEvent{Segment: at(path), Type: typ, Data: []byte("1")}); err != nil {
		w.t.Fatal(err)
	}
}

func TestAnEventToAGroupWithoutAnyChangeIsTold(t *testing.T) {
	for _, watch := range []runnel.ItemWatch{
		{Space: at("s/g").In()},
		{Space: at("s/g").In(), Group: "g"},
	} {
		t.Run(fmt.Sprintf("group %q", watch.Group), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t, new(memory.Driver), engine.Config{})
				defer w.Close()
				next := w.news(watch)
				if n, err := next(); err != nil || !n.Snapshot && !n.Complete {
					t.Fatalf("%+v, %v", n, err)
				}
				w.create("s/g", runnel.CreateOptions{Items: true})
				w.send("s/g", "hello")
				if n, err := next(); err != nil || n.Event == nil || n.Event.Type != "hello" {
					t.Fatalf("%+v, %v", n, err)
				}
			})
		})
	}
}

func TestAWatchOfSeveralGroupsEndsWhenItCannotLearnOfDeletions(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, new(memory.Driver), engine.Config{SweepInterval: -1})
		defer w.Close()
		w.set("s/g", "k", "1")
		w.driver.SetRules(faulty.Rule{When: faulty.On(faulty.Partitions), Then: faulty.Before(storage.ErrFailed)})
		next := w.news(runnel.ItemWatch{Space: at("s/g").In()})
		for {
			n, err := next()
			if err != nil {
				if errors.Is(err, context.DeadlineExceeded) {
					t.Fatal("the watch is silent of what it does not learn")
				}
				return
			}
			t.Logf("%+v", n)
		}
	})
}

func TestAViewOfASpaceHasWhatWasLetGoOfWhileItWasRead(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, new(memory.Driver), engine.Config{ItemHistory: time.Minute})
		defer w.Close()
		w.set("s/a", "k", "1")
		w.set("s/b", "k", "1")
		b, err := w.Stat(ctx, at("s/b"))
		if err != nil {
			t.Fatal(err)
		}
		slow := func(c faulty.Call) bool {
			return c.Op == faulty.Scan && len(c.Range.From) >= 9 && c.Range.From[0] == 'i' && binary.BigEndian.Uint64(c.Range.From[1:]) == b.ID
		}
		w.driver.SetRules(faulty.Rule{When: slow, Then: faulty.Wait(func(context.Context) error {
			w.driver.SetRules()
			w.set("s/a", "new", "2")
			for i := range 100 {
				w.set("s/a", "k", fmt.Sprintf(`{"n":%d,"pad":%s}`, i, wide(2000)))
			}
			pass(time.Hour)
			return w.CutHistory(ctx, at("s/a"))
		}, letThrough)})
		v, err := w.SpaceItems(ctx, at("s/a").In(), "", runnel.ItemQuery{})
		if err != nil || len(v.Groups) != 2 || len(v.Groups[0].Items) != 2 {
			t.Fatalf("%+v, %v", v, err)
		}
	})
}

func letThrough(ctx context.Context, _ faulty.Call, do func(context.Context) error) error {
	return do(ctx)
}
