package client_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/client"
	"github.com/runnelhq/runnel/engine"
)

// What somebody asks for who reads the rules closely, or not at all.

func TestOddNamesAreNamesLikeOthers(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		names := []string{"*", "%", "%2F", " ", "-1", "...", "~", "a.b", "a%00b", `"`, `\`, "ü", "\U0001F980", "A", "a", strings.Repeat("n", runnel.MaxSegmentBytes)}
		for i, name := range names {
			segment := orders.Segment(name)
			a, err := w.Publish(t.Context(), segment, runnel.Record{Payload: []byte(name)})
			must(t, err)
			want(t, []any{i, a.Tail}, []any{i, 1})
		}
		for _, name := range names {
			segment := orders.Segment(name)
			last, err := w.another().Peek(t.Context(), segment)
			must(t, err)
			want(t, string(last.Payload), name)
			want(t, w.texts(client.Segment(segment, 0)), []string{name})
			s, _, err := first(w.WatchSegment(t.Context(), segment))
			must(t, err)
			want(t, s.Info.Segment, segment)
			reader := w.Reader(runnel.CursorName{Space: orders, Segment: name, Name: name[:min(len(name), runnel.MaxCursorBytes)]})
			e, _, err := first(reader.Consume(t.Context(), runnel.Query{}))
			must(t, err)
			must(t, reader.Commit(t.Context(), e))
		}
		var listed []string
		for info, err := range w.Segments(t.Context(), orders, "", "") {
			must(t, err)
			listed = append(listed, info.Segment.Name)
		}
		want(t, fmt.Sprintf("%q", listed), fmt.Sprintf("%q", slices.Sorted(slices.Values(names))))
		want(t, len(w.texts(client.Space(orders, 0))), len(names))
		for _, name := range []string{"", ".", "..", "a/b", "a\x00b", "a\nb", "\xff", strings.Repeat("n", runnel.MaxSegmentBytes+1)} {
			_, err := w.Publish(t.Context(), orders.Segment(name), records("x")...)
			if !errors.Is(err, runnel.ErrInvalid) {
				t.Errorf("%.20q: %v", name, err)
			}
			if _, _, err := first(w.WatchSegment(t.Context(), orders.Segment(name))); !errors.Is(err, runnel.ErrInvalid) {
				t.Errorf("%.20q is watched: %v", name, err)
			}
		}
	})
}

func TestBoundsHoldTogetherHoweverFarTheyAre(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		var times []time.Time
		for i := range 6 {
			r := runnel.Record{Payload: fmt.Append(nil, i+1), Metadata: map[string]string{"odd": fmt.Sprint(i%2 == 0)}}
			a, err := w.Publish(t.Context(), order1, r)
			must(t, err)
			times = append(times, a.Time)
			for !time.Now().After(a.Time.Add(time.Microsecond)) {
			}
		}
		far, long := time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(1, 1, 2, 0, 0, 0, 0, time.UTC)
		odd := runnel.Filter{Metadata: map[string]string{"odd": "true"}}
		for name, c := range map[string]struct {
			change func(q *runnel.Query)
			want   string
		}{
			"no more than there are":                {func(q *runnel.Query) { q.Limit, q.Through = math.MaxUint64, math.MaxUint64 }, "[1 2 3 4 5 6]"},
			"the last of more than there are":       {func(q *runnel.Query) { q.Last = math.MaxUint64 }, "[1 2 3 4 5 6]"},
			"all times":                             {func(q *runnel.Query) { q.Since, q.Until = long, far }, "[1 2 3 4 5 6]"},
			"times to come":                         {func(q *runnel.Query) { q.Since = far }, "[]"},
			"times long ago":                        {func(q *runnel.Query) { q.Until = long }, "[]"},
			"a moment without an end":               {func(q *runnel.Query) { q.Since, q.Until = times[2], times[2] }, "[]"},
			"a place and an earlier time":           {func(q *runnel.Query) { q.Sources[0].After, q.Since = 4, times[1] }, "[5 6]"},
			"a place and a later time":              {func(q *runnel.Query) { q.Sources[0].After, q.Since = 1, times[4] }, "[5 6]"},
			"a place and a time before it":          {func(q *runnel.Query) { q.Sources[0].After, q.Until = 4, times[1] }, "[]"},
			"a last place and a time":               {func(q *runnel.Query) { q.Through, q.Since = 5, times[3] }, "[4 5]"},
			"the last before a time":                {func(q *runnel.Query) { q.Last, q.Until = 2, times[4] }, "[3 4]"},
			"the first of the last":                 {func(q *runnel.Query) { q.Last, q.Limit = 4, 2 }, "[3 4]"},
			"the first of the last backwards":       {func(q *runnel.Query) { q.Last, q.Limit, q.Backwards = 4, 2, true }, "[6 5]"},
			"backwards between times":               {func(q *runnel.Query) { q.Since, q.Until, q.Backwards = times[1], times[4], true }, "[4 3 2]"},
			"backwards from the end":                {func(q *runnel.Query) { q.Sources[0].After, q.Backwards = uint64(runnel.Latest), true }, "[]"},
			"a filter, and then a limit":            {func(q *runnel.Query) { q.Filter, q.Limit = odd, 2 }, "[1 3]"},
			"the last, and then a filter":           {func(q *runnel.Query) { q.Filter, q.Last = odd, 3 }, "[5]"},
			"a filter, and then a limit, backwards": {func(q *runnel.Query) { q.Filter, q.Limit, q.Backwards = odd, 2, true }, "[5 3]"},
			"a filter that nothing passes":          {func(q *runnel.Query) { q.Filter.SegmentPrefix = "nobody" }, "[]"},
			"metadata that nobody has":              {func(q *runnel.Query) { q.Filter.Metadata = map[string]string{"": ""} }, "[]"},
			"metadata that begins anyhow":           {func(q *runnel.Query) { q.Filter.MetadataPrefix = map[string]string{"odd": ""} }, "[1 2 3 4 5 6]"},
		} {
			for of, q := range map[string]runnel.Query{"segment": client.Segment(order1, 0), "space": client.Space(orders, 0)} {
				if of == "space" && strings.Contains(name, "place") {
					continue // positions are others
				}
				c.change(&q)
				if got := fmt.Sprint(w.texts(q)); got != c.want {
					t.Errorf("of a %s, %s: got %s, want %s", of, name, got, c.want)
				}
			}
		}
	})
}

func TestSeveralSpacesAreMergedAlsoWithALimitAFilterAndATail(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		spaces := []runnel.Space{{Name: "a"}, {Name: "b"}, {Name: "c"}}
		write := func(i int) {
			a, err := w.another().Publish(ctx, spaces[i%3].Segment(fmt.Sprint("s", i%2)), numbered(i, 1)...)
			must(t, err)
			for !time.Now().After(a.Time.Add(time.Microsecond)) {
			}
		}
		for i := range 12 {
			write(i)
		}
		q := client.Spaces(spaces...)
		q.Limit = 5
		want(t, w.texts(q), []string{"0", "1", "2", "3", "4"})
		q.Filter.SegmentPrefix = "s1"
		want(t, w.texts(q), []string{"1", "3", "5", "7", "9"})
		q.Limit, q.Follow = 8, true // six, and two that are to come
		next, stop := iter.Pull2(w.Consume(ctx, q))
		defer stop()
		for i := range 6 {
			e, err, _ := next()
			must(t, err)
			want(t, string(e.Payload), 2*i+1)
		}
		for i := 12; i < 16; i++ {
			write(i)
		}
		var late []string // of two spaces, as they come
		for range 2 {
			e, err, _ := next()
			must(t, err)
			late = append(late, string(e.Payload))
		}
		want(t, slices.Sorted(slices.Values(late)), []string{"13", "15"})
		_, err, more := next()
		must(t, err)
		want(t, more, false)
		// Each goes on from its own place.
		q = client.Spaces(spaces...)
		q.Sources[0].After, q.Sources[2].After = uint64(runnel.LatestPosition), uint64(runnel.LatestPosition)
		want(t, w.texts(q), []string{"1", "4", "7", "10", "13"})
	})
}

func TestATailEndsWithItsSegmentAndThatOfASpaceGoesOn(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err := w.Publish(ctx, order1, records("old")...)
		must(t, err)
		ofSegment, stop := iter.Pull2(w.Tail(ctx, client.Segment(order1, 0)))
		defer stop()
		ofSpace, stop := iter.Pull2(w.Tail(ctx, client.Space(orders, 0)))
		defer stop()
		saw := func(next func() (client.Entry, error, bool)) string {
			t.Helper()
			e, err, _ := next()
			must(t, err)
			return fmt.Sprint(e.Sequence, string(e.Payload))
		}
		want(t, saw(ofSegment), "1old")
		want(t, saw(ofSpace), "1old")
		must(t, w.Delete(ctx, order1))
		_, err = w.Publish(ctx, order1, records("new")...)
		must(t, err)
		if e, err, _ := ofSegment(); !errors.Is(err, runnel.ErrNotFound) {
			t.Fatalf("the tail goes on with %q, %v", e.Payload, err) // it is another segment
		}
		want(t, saw(ofSpace), "1new")
		want(t, w.texts(client.Space(orders, 0)), []string{"new"})
	})
}

func TestPagesOfAListThatChangesLeaveOutNothingThatStays(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		make := func(name string) {
			_, err := w.Create(t.Context(), orders.Segment(name), runnel.CreateOptions{})
			must(t, err)
		}
		for i := range 60 {
			make(fmt.Sprintf("s%02d", i))
		}
		var seen []string
		after := ""
		for page := 0; ; page++ {
			n := 0
			for info, err := range w.another().List(t.Context(), runnel.Store{}, runnel.ListOptions{Prefix: "orders/", After: after, Limit: 7}) {
				must(t, err)
				seen = append(seen, info.Segment.Name)
				after = info.Segment.Path()
				n++
			}
			if n < 7 {
				break
			}
			must(t, w.Delete(t.Context(), orders.Segment(seen[len(seen)-1]))) // where the next page begins
			make(fmt.Sprintf("a%02d", page))                                  // before all
		}
		want(t, len(seen), 60)
		want(t, slices.IsSorted(seen), true)
	})
}

func TestWhateverWaitsEndsWithItsDeadline(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		_, err := w.Publish(t.Context(), order1, records("a")...)
		must(t, err)
		_, err = w.AcquireLease(t.Context(), orders, runnel.LeaseRequest{Key: "k", Holder: "a", TTL: time.Hour})
		must(t, err)
		waits := map[string]func(ctx context.Context) error{
			"a tail of a segment": func(ctx context.Context) error { return lastError(w.Tail(ctx, client.Segment(order1, 1))) },
			"a tail of a space":   func(ctx context.Context) error { return lastError(w.Tail(ctx, client.Space(orders, 0))) },
			"a tail of several": func(ctx context.Context) error {
				return lastError(w.Tail(ctx, client.Spaces(orders, runnel.Space{Name: "b"})))
			},
			"a watch":           func(ctx context.Context) error { return lastError(w.WatchSpace(ctx, orders)) },
			"a watch of leases": func(ctx context.Context) error { return lastError(w.WatchLeases(ctx, orders, "")) },
			"workers":           func(ctx context.Context) error { return lastError(w.Workers(ctx, orders)) },
			"a wait for a lease": func(ctx context.Context) error {
				_, err := w.AcquireLease(ctx, orders, runnel.LeaseRequest{Key: "k", Holder: "b", TTL: time.Hour, Wait: true})
				return err
			},
		}
		var all sync.WaitGroup
		for name, wait := range waits {
			all.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
				defer cancel()
				if err := wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("%s: %v", name, err)
				}
				gone, cancel := context.WithCancel(t.Context())
				cancel()
				if err := wait(gone); !errors.Is(err, context.Canceled) {
					t.Errorf("%s, given up before it began: %v", name, err)
				}
			})
		}
		all.Wait()
	})
}

func lastError[T any](all iter.Seq2[T, error]) (last error) {
	for _, err := range all {
		last = err
	}
	return last
}

func TestWhoeverWaitsForALeaseAndGoesAwayHasNotGotIt(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		held, err := w.AcquireLease(t.Context(), orders, runnel.LeaseRequest{Key: "k", Holder: "a", TTL: time.Minute})
		must(t, err)
		leaving := w.another()
		ctx, leave := context.WithCancel(t.Context())
		waited := make(chan error, 1)
		go func() {
			_, err := leaving.AcquireLease(ctx, orders, runnel.LeaseRequest{Key: "k", Holder: "b", TTL: time.Minute, Wait: true})
			waited <- err
		}()
		select {
		case err := <-waited:
			t.Fatalf("it does not wait: %v", err)
		case <-time.After(20 * time.Millisecond):
		}
		if w.remote {
			must(t, leaving.Close()) // as when its process ends
			must(t, leaving.Close())
			<-w.ended // until the server knows, the lease may still be given
		}
		leave()
		if err := <-waited; err == nil {
			t.Fatal("it was given to somebody who had gone")
		}
		must(t, w.ReleaseLease(t.Context(), orders, held.Fence()))
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		next, err := w.another().AcquireLease(ctx, orders, runnel.LeaseRequest{Key: "k", Holder: "c", TTL: time.Minute, Wait: true})
		must(t, err)
		want(t, next.Holder, "c")
	})
}

func TestACursorBehindWhatIsRetainedSaysSoAndCanBeMovedOn(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		_, err := w.Create(t.Context(), order1, runnel.CreateOptions{Retention: runnel.Retention{Entries: 2}})
		must(t, err)
		_, err = w.Publish(t.Context(), order1, numbered(1, 2)...)
		must(t, err)
		reader := w.Reader(runnel.CursorName{Space: orders, Segment: "1", Name: "slow"})
		e, _, err := first(reader.Consume(t.Context(), runnel.Query{}))
		must(t, err)
		must(t, reader.Commit(t.Context(), e))
		_, err = w.Publish(t.Context(), order1, numbered(3, 5)...)
		must(t, err)
		at, err := reader.Cursor(t.Context())
		must(t, err)
		want(t, []any{at.Place, at.End, at.Lag()}, []any{1, 7, 6})
		_, _, err = first(reader.Tail(t.Context(), runnel.Query{}))
		trimmed, ok := errors.AsType[*runnel.TrimmedError](err)
		if !ok || *trimmed != (runnel.TrimmedError{Segment: order1, From: 1, Earliest: 5}) {
			t.Fatalf("got %v", err)
		}
		_, err = w.Transact(t.Context(), orders, runnel.Transaction{Cursors: []runnel.CursorMove{{Segment: "1", Name: "slow", Place: uint64(trimmed.Earliest)}}})
		must(t, err)
		e, _, err = first(reader.Tail(t.Context(), runnel.Query{}))
		must(t, err)
		want(t, string(e.Payload), 6)
		_, err = w.Transact(t.Context(), orders, runnel.Transaction{Cursors: []runnel.CursorMove{{Segment: "1", Name: "slow", Place: 8}}})
		want(t, errors.Is(err, runnel.ErrBeyondTail), true)
		must(t, w.Delete(t.Context(), order1)) // and its cursors with it
		_, err = w.Cursor(t.Context(), runnel.CursorName{Space: orders, Segment: "1", Name: "slow"})
		want(t, errors.Is(err, runnel.ErrNotFound), true)
	})
}

func TestPublishesToOneSegmentFromSeveralProcessesAllSucceed(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		const writers, each = 4, 25
		var mu sync.Mutex
		taken := make(map[runnel.Sequence]bool)
		var all sync.WaitGroup
		for i := range writers {
			c := w.another()
			all.Go(func() {
				for n := range each {
					a, err := c.Publish(t.Context(), order1, numbered(100*i+n, 1)...)
					mu.Lock()
					if err != nil || taken[a.First] {
						t.Errorf("%+v, %v", a, err)
					}
					taken[a.First] = true
					mu.Unlock()
				}
			})
		}
		all.Wait()
		want(t, len(taken), writers*each)
		want(t, len(w.texts(client.Segment(order1, 0))), writers*each)
	})
}

func TestWhatIsUsedIsNotPutAwayForLackOfRoom(t *testing.T) {
	everywhereWith(t, engine.Config{MaxSegments: 1, TailCacheBytes: 1}, func(t *testing.T, w *world) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		p := w.Producer(order1, client.ProducerConfig{})
		_, err := p.Send(ctx, records("1")[0])
		must(t, err)
		must(t, p.Flush(ctx))
		next, stop := iter.Pull2(w.Tail(ctx, client.Segment(order1, 0)))
		defer stop()
		changes, stop := iter.Pull2(w.WatchSegment(ctx, order1))
		defer stop()
		_, err, _ = next()
		must(t, err)
		for range 2 { // as it is, and that this is all
			_, err, _ = changes()
			must(t, err)
		}
		lease, err := w.AcquireLease(ctx, orders, runnel.LeaseRequest{Key: "k", Holder: "h", TTL: time.Minute})
		must(t, err)
		for i := range 60 {
			_, err := w.another().Publish(ctx, runnel.Space{Name: fmt.Sprint("other", i)}.Segment("s"), records("x")...)
			must(t, err)
		}
		_, err = p.Send(ctx, records("2")[0])
		must(t, err)
		must(t, p.Close(ctx))
		e, err, _ := next()
		must(t, err)
		want(t, string(e.Payload), 2)
		s, err, _ := changes()
		must(t, err)
		want(t, s.Info.Tail, 2)
		_, err = w.another().RenewLease(ctx, orders, lease.Fence())
		must(t, err)
	})
}

func TestNoMetadataIsNilEverywhere(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		_, err := w.Publish(t.Context(), order1, runnel.Record{}, runnel.Record{Metadata: map[string]string{}})
		must(t, err)
		for e, err := range w.Consume(t.Context(), client.Segment(order1, 0)) {
			must(t, err)
			want(t, []any{e.Metadata == nil, len(e.Payload)}, []any{true, 0})
		}
		last, err := w.Peek(t.Context(), order1)
		must(t, err)
		want(t, last.Metadata == nil, true)
	})
}

func TestATransactionThatCannotBeIsRefusedAndWritesNothing(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		write := runnel.Write{Segment: "1", Options: client.Production{}.Options(), Records: records("x")}
		for name, tr := range map[string]runnel.Transaction{
			"the same segment twice":       {Writes: []runnel.Write{write, write}},
			"the same cursor twice":        {Writes: []runnel.Write{write}, Cursors: []runnel.CursorMove{{Name: "c"}, {Name: "c"}}},
			"a write of nothing":           {Writes: []runnel.Write{{Segment: "1", Options: client.Production{}.Options()}}},
			"a write without a name":       {Writes: []runnel.Write{{Records: records("x")}}},
			"a cursor without a name":      {Writes: []runnel.Write{write}, Cursors: []runnel.CursorMove{{}}},
			"a lease that nobody has":      {Writes: []runnel.Write{write}, Fences: []runnel.Fence{{Key: "k", Number: 1}}},
			"a lease without a key":        {Writes: []runnel.Write{write}, Fences: []runnel.Fence{{Number: 1}}},
			"a place that was never given": {Writes: []runnel.Write{write}, Cursors: []runnel.CursorMove{{Name: "c", Place: 1 << 40}}},
		} {
			if _, err := w.Transact(t.Context(), orders, tr); err == nil || errors.Is(err, runnel.ErrUnknown) {
				t.Errorf("%s: %v", name, err)
			}
		}
		_, err := w.Transact(t.Context(), orders, runnel.Transaction{}) // asks for nothing, and that can be done
		must(t, err)
		_, err = w.Stat(t.Context(), order1)
		want(t, errors.Is(err, runnel.ErrNotFound), true)
	})
}
