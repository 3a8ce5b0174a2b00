package client_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"
	"testing"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/client"
)

// What other logs of this kind are seen to get wrong, and is not a rule of its own elsewhere.

func TestSideBySidePublishesToDifferentSegmentsOfASpaceAllSucceed(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		const segments, each = 8, 25
		var all sync.WaitGroup
		for i := range segments {
			c := w.another()
			all.Go(func() {
				for n := range each {
					a, err := c.Publish(t.Context(), orders.Segment(fmt.Sprint(i)), numbered(n, 1)...)
					if err != nil || a.Tail != runnel.Sequence(n+1) {
						t.Errorf("segment %d, entry %d: %+v, %v", i, n+1, a, err)
						return
					}
				}
			})
		}
		all.Wait()
		want(t, len(w.texts(client.Space(orders, 0))), segments*each)
	})
}

func TestLookingForWhatIsNotThereMakesNothing(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		ghost := runnel.Space{Store: runnel.Store{1}, Name: "ghost"}
		_, err := w.Stat(t.Context(), ghost.Segment("s"))
		want(t, errors.Is(err, runnel.ErrNotFound), true)
		info, err := w.StatSpace(t.Context(), ghost)
		must(t, err)
		want(t, info.Head, 0)
		want(t, len(w.texts(client.Space(ghost, 0))), 0)
		for info, err := range w.List(t.Context(), ghost.Store, runnel.ListOptions{}) {
			t.Fatal(info, err)
		}
		for store, err := range w.Stores(t.Context(), runnel.Store{}) {
			t.Fatal(store, err)
		}
	})
}

func TestAnErrorInOneOfSeveralSpacesIsTold(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		_, err := w.Publish(t.Context(), order1, records("a")...)
		must(t, err)
		q := client.Spaces(orders, runnel.Space{Name: "other"})
		q.Sources[1].After = 99
		var last error
		for _, err := range w.Consume(t.Context(), q) {
			last = err
		}
		want(t, errors.Is(last, runnel.ErrBeyondTail), true)
	})
}

func TestAnUnendingWaitKeepsNobodyElseWaiting(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		held, err := w.AcquireLease(t.Context(), orders, runnel.LeaseRequest{Key: "k", Holder: "a", TTL: time.Minute})
		must(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		waiting := make(chan error, 1)
		go func() {
			_, err := w.AcquireLease(ctx, orders, runnel.LeaseRequest{Key: "k", Holder: "b", TTL: runnel.MinLeaseTTL, Wait: true})
			waiting <- err
		}()
		for i := range 20 {
			_, err := w.Publish(t.Context(), order1, numbered(i, 1)...)
			must(t, err)
		}
		cancel()
		if err := <-waiting; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		must(t, w.ReleaseLease(t.Context(), orders, held.Fence()))
		next, err := w.AcquireLease(t.Context(), orders, runnel.LeaseRequest{Key: "k", Holder: "c", TTL: time.Minute, Wait: true})
		must(t, err) // who gave up waiting has it no longer than its TTL, if it was given to him meanwhile
		if next.Number <= held.Number {
			t.Errorf("number %d follows %d", next.Number, held.Number)
		}
	})
}

func TestThousandsOfSegmentsAreWatchedAndNoChangeIsMissed(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		const segments = 1500
		for from := 0; from < segments; from += 100 {
			var tr runnel.Transaction
			for i := range 100 {
				tr.Writes = append(tr.Writes, runnel.Write{Segment: fmt.Sprintf("s%04d", from+i), Options: client.Production{}.Options(), Records: records("x")})
			}
			_, err := w.Transact(t.Context(), orders, tr)
			must(t, err)
		}
		next, stop := iter.Pull2(w.WatchSpace(t.Context(), orders))
		defer stop()
		last := ""
		for n := 0; ; n++ {
			s, err, _ := next()
			must(t, err)
			if s.Mark {
				want(t, n, segments)
				break
			}
			if s.Info.Segment.Name <= last {
				t.Fatalf("%q follows %q", s.Info.Segment.Name, last)
			}
			last = s.Info.Segment.Name
		}
		_, err := w.another().Publish(t.Context(), orders.Segment("s0777"), records("y")...)
		must(t, err)
		s, err, _ := next()
		must(t, err)
		want(t, []any{s.Info.Segment.Name, s.Info.Tail, s.Live}, []any{"s0777", 2, true})
	})
}

func TestAQueryThatCannotBeAnsweredIsRefused(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		for name, change := range map[string]func(q *runnel.Query){
			"backwards and on": func(q *runnel.Query) { q.Backwards, q.Follow = true, true },
			"a time that ends before it begins": func(q *runnel.Query) {
				q.Since, q.Until = time.Unix(2, 0), time.Unix(1, 0)
			},
			"a name that is none": func(q *runnel.Query) { q.Sources[0].Segment = "a\x00b" },
		} {
			q := client.Segment(order1, 0)
			change(&q)
			if _, _, err := first(w.Consume(t.Context(), q)); !errors.Is(err, runnel.ErrInvalid) {
				t.Errorf("%s: got %v", name, err)
			}
		}
	})
}
