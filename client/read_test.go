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

func TestASegmentIsReadBySequenceLimitAndDirection(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		_, err := w.Publish(t.Context(), order1, numbered(1, 6)...)
		must(t, err)
		_, err = w.Publish(t.Context(), order1, numbered(7, 4)...)
		must(t, err)
		for name, c := range map[string]struct {
			query func(q *runnel.Query)
			want  string
		}{
			"everything":             {func(*runnel.Query) {}, "[1 2 3 4 5 6 7 8 9 10]"},
			"after a place":          {func(q *runnel.Query) { q.Sources[0].After = 7 }, "[8 9 10]"},
			"from the end":           {func(q *runnel.Query) { q.Sources[0].After = uint64(runnel.Latest) }, "[]"},
			"through a place":        {func(q *runnel.Query) { q.Through = 3 }, "[1 2 3]"},
			"through one before":     {func(q *runnel.Query) { q.Sources[0].After, q.Through = 5, 3 }, "[]"},
			"the first three":        {func(q *runnel.Query) { q.Limit = 3 }, "[1 2 3]"},
			"the last three":         {func(q *runnel.Query) { q.Last = 3 }, "[8 9 10]"},
			"backwards":              {func(q *runnel.Query) { q.Backwards, q.Limit = true, 4 }, "[10 9 8 7]"},
			"the last two backwards": {func(q *runnel.Query) { q.Backwards, q.Last = true, 2 }, "[10 9]"},
			"backwards from a place": {func(q *runnel.Query) { q.Backwards, q.Through = true, 2 }, "[2 1]"},
		} {
			q := client.Segment(order1, 0)
			c.query(&q)
			if got := fmt.Sprint(w.texts(q)); got != c.want {
				t.Errorf("%s: got %s, want %s", name, got, c.want)
			}
		}
		_, _, err = first(w.Consume(t.Context(), client.Segment(order1, 11)))
		beyond, ok := errors.AsType[*runnel.BeyondTailError](err)
		if !ok || *beyond != (runnel.BeyondTailError{Segment: order1, From: 11, Tail: 10}) {
			t.Fatalf("got %v", err)
		}
		_, _, err = first(w.Consume(t.Context(), client.Segment(order2, 0)))
		want(t, errors.Is(err, runnel.ErrNotFound), true)
	})
}

// first is the first thing a sequence yields.
func first[T any](all iter.Seq2[T, error]) (one T, ok bool, err error) {
	for one, err := range all {
		return one, true, err
	}
	return one, false, nil
}

func TestTimeBoundsFollowOneRule(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		var times []time.Time
		for i := range 4 {
			a, err := w.Publish(t.Context(), order1, numbered(i, 1)...)
			must(t, err)
			times = append(times, a.Time)
			for !time.Now().After(a.Time.Add(time.Millisecond)) {
			}
		}
		for name, q := range map[string]runnel.Query{"segment": client.Segment(order1, 0), "space": client.Space(orders, 0), "spaces": client.Spaces(orders, runnel.Space{Name: "other"})} {
			q.Since = times[1]
			want(t, name+fmt.Sprint(w.texts(q)), name+"[1 2 3]") // the moment itself is meant
			q.Since = times[1].Add(time.Microsecond)
			want(t, name+fmt.Sprint(w.texts(q)), name+"[2 3]")
			q.Since, q.Until = times[1], times[3]
			want(t, name+fmt.Sprint(w.texts(q)), name+"[1 2]") // and the end is not
			q.Since, q.Until = times[3].Add(time.Hour), time.Time{}
			want(t, name+fmt.Sprint(w.texts(q)), name+"[]")
		}
		at, err := w.SequenceAt(t.Context(), order1, times[2])
		must(t, err)
		want(t, at, 2)
		position, err := w.PositionAt(t.Context(), orders, times[2])
		must(t, err)
		want(t, w.texts(client.Space(orders, position)), []string{"2", "3"})
	})
}

func TestNamesThatBeginAlikeAreDifferentNames(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		for i, segment := range []runnel.Segment{
			{Space: "sp", Name: "seg1"}, {Space: "sp", Name: "seg10"}, {Space: "spx", Name: "seg1"}, {Space: "sp/seg1", Name: "x"}, {Name: "sp"},
		} {
			_, err := w.Publish(t.Context(), segment, numbered(100*i, i+1)...)
			must(t, err)
			last, err := w.Peek(t.Context(), segment)
			must(t, err)
			want(t, last.Sequence, i+1)
			want(t, len(w.texts(client.Segment(segment, 0))), i+1)
		}
		want(t, len(w.texts(client.Space(runnel.Space{Name: "sp"}, 0))), 3)
		var spaces []string
		for s, err := range w.Spaces(t.Context(), runnel.Store{}, "sp", "") {
			must(t, err)
			spaces = append(spaces, s.Name)
		}
		want(t, spaces, []string{"sp", "sp/seg1", "spx"})
	})
}

func TestStoresAreApart(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		other := runnel.Space{Store: runnel.Store{15: 1}, Name: "orders"}
		_, err := w.Publish(t.Context(), order1, records("ours")...)
		must(t, err)
		_, err = w.Publish(t.Context(), other.Segment("1"), records("theirs")...)
		must(t, err)
		want(t, w.texts(client.Segment(other.Segment("1"), 0)), []string{"theirs"})
		want(t, w.texts(client.Space(orders, 0)), []string{"ours"})
		var stores []runnel.Store
		for s, err := range w.Stores(t.Context(), runnel.Store{}) {
			must(t, err)
			stores = append(stores, s)
		}
		want(t, stores, []runnel.Store{{}, other.Store})
	})
}

func TestListsArePagedAndMadeOfPrefixes(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		var writes []runnel.Write
		for i := range 700 {
			writes = append(writes, runnel.Write{Segment: fmt.Sprintf("s%03d", i), Options: client.Production{}.Options(), Records: records("x")})
		}
		for len(writes) > 0 {
			_, err := w.Transact(t.Context(), orders, runnel.Transaction{Writes: writes[:100]})
			must(t, err)
			writes = writes[100:]
		}
		list := func(o runnel.ListOptions) (paths []string) {
			for info, err := range w.List(t.Context(), runnel.Store{}, o) {
				must(t, err)
				paths = append(paths, info.Segment.Path())
			}
			return paths
		}
		want(t, len(list(runnel.ListOptions{})), 700)
		want(t, list(runnel.ListOptions{Prefix: "orders/s69", Limit: 2}), []string{"orders/s690", "orders/s691"})
		want(t, list(runnel.ListOptions{After: "orders/s698"}), []string{"orders/s699"})
		// A watch of them all begins with a snapshot, however many there are.
		n := 0
		for s, err := range w.WatchSpace(t.Context(), orders) {
			must(t, err)
			if s.Mark {
				break
			}
			n++
		}
		want(t, n, 700)
	})
}

func TestATailIsHistoryAndThenLiveWithoutASeam(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		const total = 600
		_, err := w.Publish(ctx, order1, numbered(1, 100)...)
		must(t, err)
		var all sync.WaitGroup
		defer all.Wait()
		writer := w.another()
		all.Go(func() {
			for i := 101; i <= total; i++ {
				if _, err := writer.Publish(ctx, order1, numbered(i, 1)...); err != nil {
					t.Error(err)
					return
				}
			}
		})
		for _, q := range []runnel.Query{client.Segment(order1, 0), client.Space(orders, 0), client.Spaces(orders, runnel.Space{Name: "silent"})} {
			next := 1
			for e, err := range w.Tail(ctx, q) {
				must(t, err)
				if e.Sequence != runnel.Sequence(next) || string(e.Payload) != fmt.Sprint(next) {
					t.Fatalf("entry %d is %d: %s", next, e.Sequence, e.Payload)
				}
				if next++; next > total {
					break
				}
			}
		}
	})
}

func TestATailOfASpaceMissesNothingOfManyBusySegments(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		const segments, each = 8, 60
		var all sync.WaitGroup
		defer all.Wait()
		for i := range segments {
			c := w.another()
			all.Go(func() {
				for n := range each {
					if _, err := c.Publish(ctx, orders.Segment(fmt.Sprintf("g%02d", i)), numbered(n+1, 1)...); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		// The reader comes back with its cursor after every few entries.
		seen := make(map[string]int)
		after, n := runnel.Position(0), 0
		for n < segments*each {
			q := client.Space(orders, after)
			q.Limit = 7
			for e, err := range w.Tail(ctx, q) {
				must(t, err)
				if e.Position <= after {
					t.Fatalf("position %d comes after %d", e.Position, after)
				}
				after = e.Position
				seen[e.Segment.Name]++
				if fmt.Sprint(seen[e.Segment.Name]) != string(e.Payload) {
					t.Fatalf("entry %d of %s is %s", seen[e.Segment.Name], e.Segment, e.Payload)
				}
				if n++; n == segments*each {
					break
				}
			}
		}
		want(t, len(seen), segments)
	})
}

func TestAQueryThatFollowsEndsWhereItSays(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err := w.Publish(ctx, order1, numbered(1, 3)...)
		must(t, err)
		count := func(change func(q *runnel.Query)) (n int) {
			q := client.Segment(order1, 0)
			change(&q)
			for _, err := range w.Tail(ctx, q) {
				must(t, err)
				n++
			}
			return n
		}
		want(t, count(func(q *runnel.Query) { q.Limit = 2 }), 2)
		want(t, count(func(q *runnel.Query) { q.Through = 3 }), 3)
		want(t, count(func(q *runnel.Query) { q.Until = time.Now().Add(50 * time.Millisecond) }), 3)
		_, err = w.Produce(ctx, order1, client.Production{Close: true})
		must(t, err)
		want(t, count(func(*runnel.Query) {}), 3) // of a closed segment, after its last entry
	})
}

func TestFiltersAreForNamesAndMetadata(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		for i, kind := range []string{"paid", "paid/card", "sent", "paid"} {
			r := runnel.Record{Payload: fmt.Append(nil, i), Metadata: map[string]string{"type": kind}}
			_, err := w.Publish(t.Context(), orders.Segment(fmt.Sprintf("eu-%d", i%2)), r)
			must(t, err)
		}
		_, err := w.Publish(t.Context(), orders.Segment("us"), records("4")...)
		must(t, err)
		filtered := func(q runnel.Query, f runnel.Filter) []string {
			q.Filter = f
			return w.texts(q)
		}
		space := client.Space(orders, 0)
		want(t, filtered(space, runnel.Filter{SegmentPrefix: "eu-"}), []string{"0", "1", "2", "3"})
		want(t, filtered(space, runnel.Filter{Metadata: map[string]string{"type": "paid"}}), []string{"0", "3"})
		want(t, filtered(space, runnel.Filter{MetadataPrefix: map[string]string{"type": "paid"}}), []string{"0", "1", "3"})
		want(t, filtered(space, runnel.Filter{SegmentPrefix: "eu-1", MetadataPrefix: map[string]string{"type": "paid"}}), []string{"1", "3"})
	})
}

func TestSeveralSpacesAreMergedByTime(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		a, b := runnel.Space{Name: "a"}, runnel.Space{Name: "b"}
		var wanted []string
		for i := range 20 {
			space := []runnel.Space{a, b}[i%2]
			done, err := w.Publish(t.Context(), space.Segment("s"), numbered(i, 1)...)
			must(t, err)
			wanted = append(wanted, fmt.Sprint(i))
			for !time.Now().After(done.Time.Add(time.Microsecond)) {
			}
		}
		want(t, w.texts(client.Spaces(a, b)), wanted)
		_, _, err := first(w.Consume(t.Context(), runnel.Query{}))
		want(t, errors.Is(err, runnel.ErrInvalid), true) // no source is not an empty answer
	})
}

func TestAReaderWhoStopsNeedNotReadOn(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		_, err := w.Publish(t.Context(), order1, numbered(1, 20_000)...)
		must(t, err)
		for range 50 {
			e, _, err := first(w.Consume(t.Context(), client.Segment(order1, 0)))
			must(t, err)
			want(t, e.Sequence, 1)
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var last error
		for _, err := range w.Tail(ctx, client.Segment(order1, 20_000-1)) {
			last = err
			cancel()
		}
		want(t, errors.Is(last, context.Canceled), true)
	})
}

func TestADeadlineEndsWhatWaits(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		_, err := w.Publish(t.Context(), order1, records("a")...)
		must(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		var last error
		for _, err := range w.Tail(ctx, client.Segment(order1, 0)) {
			last = err
		}
		want(t, errors.Is(last, context.DeadlineExceeded), true)
	})
}

func TestAReadOfWhatRetentionHasDroppedIsTold(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		_, err := w.Create(t.Context(), order1, runnel.CreateOptions{Retention: runnel.Retention{Entries: 2}})
		must(t, err)
		_, err = w.Publish(t.Context(), order1, numbered(1, 5)...)
		must(t, err)
		_, _, err = first(w.Consume(t.Context(), client.Segment(order1, 1)))
		trimmed, ok := errors.AsType[*runnel.TrimmedError](err)
		if !ok || *trimmed != (runnel.TrimmedError{Segment: order1, From: 1, Earliest: 3}) {
			t.Fatalf("got %v", err)
		}
		want(t, w.texts(client.Segment(order1, 0)), []string{"4", "5"})
	})
}

func TestASegmentThatIsDeletedAndMadeAgainIsAnother(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		was, err := w.Create(t.Context(), order1, runnel.CreateOptions{ContentType: "text/plain", Records: records("old")})
		must(t, err)
		want(t, []any{was.Existed, was.Tail, was.ContentType}, []any{false, 1, "text/plain"})
		_, err = w.Create(t.Context(), order1, runnel.CreateOptions{ContentType: "text/html"})
		exists, ok := errors.AsType[*runnel.ExistsError](err)
		if !ok || exists.Field != "content type" {
			t.Fatalf("got %v", err)
		}
		must(t, w.Delete(t.Context(), order1))
		_, err = w.Stat(t.Context(), order1)
		want(t, errors.Is(err, runnel.ErrNotFound), true)
		_, err = w.Publish(t.Context(), order1, records("new")...)
		must(t, err)
		q := client.Segment(order1, 0)
		want(t, w.texts(q), []string{"new"})
		q.Sources[0].ID = was.ID
		_, _, err = first(w.Consume(t.Context(), q))
		want(t, errors.Is(err, runnel.ErrNotFound), true)
	})
}

func TestPeekOfAnEmptySegmentIsTheZeroEntry(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		_, err := w.Peek(t.Context(), order1)
		want(t, errors.Is(err, runnel.ErrNotFound), true)
		_, err = w.Create(t.Context(), order1, runnel.CreateOptions{})
		must(t, err)
		last, err := w.Peek(t.Context(), order1)
		must(t, err)
		want(t, last.Sequence, 0)
	})
}
