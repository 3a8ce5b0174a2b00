package engine_test

import (
	"context"
	"errors"
	"fmt"
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

// place returns the cursor of the subscription on a stream.
func (s *subscribed) place(path string) runnel.Cursor {
	s.Helper()
	c, err := s.Cursor(s.Context(), cursor(path, runnel.SubscriptionCursor("sub")))
	if err != nil {
		s.Fatal(err)
	}
	return c
}

// moveTo moves it by hand.
func (s *subscribed) moveTo(path string, to uint64, change ...func(*runnel.CursorMove)) error {
	name := cursor(path, runnel.SubscriptionCursor("sub"))
	m := runnel.CursorMove{Segment: name.Segment, Name: name.Name, Place: to}
	for _, f := range change {
		f(&m)
	}
	_, err := s.Transact(s.Context(), name.Space, runnel.Transaction{Cursors: []runnel.CursorMove{m}})
	return err
}

func rewind(m *runnel.CursorMove) { m.Rewind = true }

func TestAcksMoveTheCursorOfTheSubscription(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := subscribe(t, new(memory.Driver), "events/*")
		for range 3 {
			s.put("events/a")
		}
		if c := s.place("events/a"); c.Place != 0 || c.Lag() != 3 || c.LagBytes != 3 {
			t.Fatalf("%+v", c)
		}
		w := s.claim("one")
		s.ack(w, "events/a", 2, false)
		if c := s.place("events/a"); c.Place != 2 || c.End != 3 || c.Lag() != 1 || c.LagBytes != 1 || !c.Updated.Equal(time.Now()) {
			t.Fatalf("%+v", c)
		}
		for _, name := range []runnel.CursorName{
			cursor("events/a", runnel.SubscriptionCursor("other")), cursor("events/none", runnel.SubscriptionCursor("sub")),
			cursor("wake/pool", runnel.SubscriptionCursor("sub")),
		} {
			if _, err := s.Cursor(t.Context(), name); !errors.Is(err, runnel.ErrNotFound) {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}

func TestTheCursorsOfSubscriptionsAreListedAmongTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := subscribe(t, new(memory.Driver), "events/*")
		s.put("events/a")
		config := runnel.SubscriptionConfig{Type: runnel.PullWake, Streams: []string{"events/a"}, WakeStream: "wake/pool"}
		if _, _, err := s.CreateSubscription(t.Context(), noStore, "by/name", config); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"Z", "a", "__", "__e"} {
			move := runnel.CursorMove{Segment: "a", Name: name, Place: 1}
			if _, err := s.Transact(t.Context(), at("events/a").In(), runnel.Transaction{Cursors: []runnel.CursorMove{move}}); err != nil {
				t.Fatal(err)
			}
		}
		for _, c := range []struct {
			prefix, after string
			want          []string
		}{
			{"", "", []string{"Z", "__", "__ds/by/name", "__ds/sub", "__e", "a"}},
			{"__ds/", "", []string{"__ds/by/name", "__ds/sub"}},
			{"__ds/s", "", []string{"__ds/sub"}},
			{"__", "__ds/by/name", []string{"__ds/sub", "__e"}},
			{"", "__ds/sub", []string{"__e", "a"}},
			{"a", "", []string{"a"}},
		} {
			var got []string
			for cursor, err := range s.Cursors(t.Context(), at("events/a").In(), "a", c.prefix, c.after) {
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, cursor.Name)
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("%q behind %q: %q, want %q", c.prefix, c.after, got, c.want)
			}
		}
		for c, err := range s.Cursors(t.Context(), at("events/a").In(), "", "", "") {
			t.Error("subscriptions are of segments, not of spaces: ", c, err)
		}
	})
}

func TestACursorOfASubscriptionThatIsMovedByHandEndsTheWake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		driver := new(memory.Driver)
		s := subscribe(t, driver, "events/*")
		s.put("events/a")
		s.put("events/a")
		w := s.claim("one")
		if err := s.moveTo("events/a", 1); !errors.Is(err, runnel.ErrLeaseHeld) {
			t.Fatal("a cursor was moved under somebody who works: ", err)
		} else if held := as[*runnel.LeaseHeldError](t, err); held.Lease.Holder != "one" || held.Lease.Number != 1 || held.Lease.Key != "__ds/sub" {
			t.Fatalf("%+v", held)
		}
		s.ack(w, "events/a", 2, true)
		wantError(t, s.moveTo("events/a", 1), runnel.ErrCursorMoved)
		wantError(t, s.moveTo("events/a", 3, rewind), runnel.ErrBeyondTail)
		wantError(t, s.moveTo("events/a", 1, rewind, func(m *runnel.CursorMove) { m.Expect = new(uint64(1)) }), runnel.ErrCursorMoved)
		wantError(t, s.moveTo("events/none", 0), runnel.ErrNotFound)
		wantError(t, s.moveTo("wake/pool", 0), runnel.ErrNotFound)
		wantError(t, s.DeleteCursor(t.Context(), cursor("events/a", "__ds/sub")), runnel.ErrInvalid)
		wakes := len(s.wakes())
		if err := s.moveTo("events/a", 1, rewind); err != nil {
			t.Fatal(err)
		}
		if c := s.place("events/a"); c.Place != 1 || c.Lag() != 1 {
			t.Fatalf("%+v", c)
		}
		if got := len(s.wakes()); got != wakes+1 {
			t.Fatalf("%d wakes after the cursor went back, want %d", got, wakes+1)
		}
		// Whoever was told of the wake in flight is fenced.
		if err := s.moveTo("events/a", 0, rewind); err != nil {
			t.Fatal(err)
		}
		s.wakes()
		s.Close()
		e, err := engine.Open(driver, engine.Config{})
		if err != nil {
			t.Fatal(err)
		}
		defer e.Close()
		s = &subscribed{t, e}
		next := s.claim("two")
		if next.Generation <= w.Generation+1 || next.Streams[0].Acked != 0 || next.Streams[0].Tail != 2 {
			t.Fatalf("%+v", next)
		}
	})
}

func TestACommitMovesCursorsOfASubscriptionAndNothingElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := subscribe(t, new(memory.Driver), "events/*")
		s.put("events/a")
		s.put("events/b")
		move := func(segment, name string) runnel.CursorMove {
			return runnel.CursorMove{Segment: segment, Name: name, Place: 1}
		}
		space := at("events/a").In()
		for _, tr := range []runnel.Transaction{
			{Cursors: []runnel.CursorMove{move("a", "__ds/sub"), move("a", "reader")}},
			{Cursors: []runnel.CursorMove{move("a", "reader"), move("a", "__ds/sub")}},
			{Cursors: []runnel.CursorMove{move("a", "__ds/sub"), move("b", "__ds/other")}},
			{Cursors: []runnel.CursorMove{move("a", "__ds/sub"), move("a", "__ds/sub")}},
			{Cursors: []runnel.CursorMove{move("", "__ds/sub")}},
			{Cursors: []runnel.CursorMove{move("a", "__ds/")}},
			{Cursors: []runnel.CursorMove{move("a", "__ds/sub")}, Writes: []runnel.Write{{Segment: "b", Records: []runnel.Record{{}}}}},
		} {
			if _, err := s.Transact(t.Context(), space, tr); !errors.Is(err, runnel.ErrInvalid) {
				t.Errorf("%+v: %v", tr, err)
			}
		}
		if _, err := s.Transact(t.Context(), space, runnel.Transaction{Cursors: []runnel.CursorMove{move("a", "__ds/sub"), move("b", "__ds/sub")}}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if _, err := s.ClaimWake(t.Context(), noStore, "sub", "one"); !errors.Is(err, runnel.ErrNoWork) {
			t.Fatal("the cursors are at the tails: ", err)
		}
	})
}

func TestLagInBytesIsOfWhatIsKept(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := inMemory(t)
		w.create("s/a", runnel.CreateOptions{}, "1", "22", "333", "4444")
		w.create("s/kept", runnel.CreateOptions{Retention: runnel.Retention{Entries: 2}}, "1", "22", "333", "4444")
		c, kept := cursor("s/a", "c"), cursor("s/kept", "c")
		for place, want := range []int64{10, 9, 7, 4, 0} {
			for _, name := range []runnel.CursorName{c, kept} {
				if err := w.move(name, uint64(place)); err != nil {
					t.Fatal(err)
				}
			}
			for range 2 {
				if got, err := w.Cursor(ctx, c); err != nil || got.LagBytes != want {
					t.Errorf("at %d: %+v, %v, want %d", place, got, err, want)
				}
				if got, err := w.Cursor(ctx, kept); err != nil || got.LagBytes != min(want, 7) {
					t.Errorf("at %d: %+v, %v, want %d", place, got, err, min(want, 7))
				}
				w.crash()
			}
		}
		space := runnel.CursorName{Space: at("s/a").In(), Name: "c"}
		if err := w.move(space, 1); err != nil {
			t.Fatal(err)
		}
		if got, err := w.Cursor(ctx, space); err != nil || got.LagBytes != -1 {
			t.Errorf("%+v, %v", got, err)
		}
	})
}

// The smallest batches that a driver may take hold every ack, whatever the number of streams.
func TestEverythingIsWorkedOnInBatchesOfTheSmallestDriver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		driver := &memory.Driver{Max: storage.Limits{MaxBatchOps: 16, MaxBatchBytes: 16 << 10, MaxValueBytes: 4 << 10}}
		s := subscribe(t, driver, "events/*")
		config := runnel.SubscriptionConfig{Type: runnel.Webhook, Pattern: "events/*", WebhookURL: "https://example.com", LeaseTTL: time.Second}
		for _, id := range []string{"hook", "dropped"} {
			if _, _, err := s.CreateSubscription(t.Context(), noStore, id, config); err != nil {
				t.Fatal(err)
			}
		}
		const streams = 40
		for i := range streams {
			s.put(fmt.Sprintf("events/%d", i))
		}
		synctest.Wait()
		for n := 0; ; n++ {
			w, err := s.ClaimWake(t.Context(), noStore, "sub", "one")
			if errors.Is(err, runnel.ErrNoWork) && n > 0 {
				break
			}
			if err != nil || n > streams {
				t.Fatal(err, n)
			}
			var acks []runnel.WakeAck
			for _, l := range w.Streams {
				acks = append(acks, runnel.WakeAck{Path: l.Path, Acked: l.Tail})
			}
			if _, err := s.AckWake(t.Context(), w.WakeRef, acks, true); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		for range streams {
			d, err := s.ClaimDelivery(t.Context(), noStore, "hook", time.Now().Add(time.Second))
			if errors.Is(err, runnel.ErrFenced) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if err := s.SettleDelivery(t.Context(), d, runnel.WebhookOutcome{Result: runnel.WebhookDone}); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		d, err := s.ClaimDelivery(t.Context(), noStore, "dropped", time.Now().Add(time.Second))
		if err != nil {
			t.Fatal(err)
		}
		if err := s.SettleDelivery(t.Context(), d, runnel.WebhookOutcome{Result: runnel.WebhookParked, Failures: 1}); err != nil {
			t.Fatal(err)
		}
		if err := s.DropDelivery(t.Context(), noStore, "dropped"); err != nil {
			t.Fatal(err)
		}
		for _, id := range []string{"sub", "hook", "dropped"} {
			n := 0
			for l, err := range s.SubscriptionLinks(t.Context(), noStore, id) {
				if n++; err != nil || l.Pending() {
					t.Fatal(id, l, err)
				}
			}
			if n != streams {
				t.Fatalf("%s has %d streams, want %d", id, n, streams)
			}
		}
		many := make([]runnel.WakeAck, 12)
		if _, err := s.AckWake(t.Context(), d.WakeRef, many, false); !errors.Is(err, runnel.ErrInvalid) {
			t.Fatal(err)
		}
		config.Streams = slices.Collect(func(yield func(string) bool) {
			for i := range 1000 {
				if !yield(fmt.Sprintf("a/stream/of/some/length/%d", i)) {
					return
				}
			}
		})
		if _, _, err := s.CreateSubscription(t.Context(), noStore, "large", config); !errors.Is(err, runnel.ErrTooLarge) {
			t.Fatal(err)
		}
	})
}

// TestACursorIsMovedByHandFromWhereAnotherProcessHasBroughtIt lets another process make a stream again and work on all of
// it while its cursor is moved.
func TestACursorIsMovedByHandFromWhereAnotherProcessHasBroughtIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := overtake(t)
		s.put("events/a")
		s.put("events/a")
		s.with(func() {
			s.other.remake("events/a", 3)
			s.other.ack(s.other.claim("one"), "events/a", 3, true)
		})
		err := s.moveTo("events/a", 1, func(m *runnel.CursorMove) { m.Expect = new(uint64(0)) })
		if !errors.Is(err, runnel.ErrCursorMoved) || !s.was {
			t.Errorf("the move was overtaken: %v; and answered with %v", s.was, err)
		}
		if c := s.place("events/a"); c.Place != 3 || c.End != 3 {
			t.Errorf("%+v", c)
		}
	})
}

// Another process works everything off, and takes the mark of the stream away, when the one that moves the cursor back has
// looked at the stream so many times; then that one dies.
func TestACursorThatIsMovedBackWakesAlsoWhenAnotherProcessHasJustWorkedOff(t *testing.T) {
	for looks := range 2 {
		synctest.Test(t, func(t *testing.T) { movedBackByOneThatDies(t, looks) })
	}
}

func movedBackByOneThatDies(t *testing.T, looks int) {
	t.Helper()
	s := overtake(t)
	s.put("events/a")
	s.put("events/a")
	s.ack(s.claim("one"), "events/a", 1, true)
	synctest.Wait()
	s.driver.SetRules(faulty.Rule{
		When: func(c faulty.Call) bool {
			if c.Op != faulty.Guard || c.Partition.Name != "events" {
				return false
			}
			looks--
			return looks == -1
		},
		Then: func(ctx context.Context, _ faulty.Call, through func(context.Context) error) error {
			err := through(ctx)
			s.other.put("events/a")
			synctest.Wait()
			s.other.ack(s.other.claim("two"), "events/a", 3, true)
			synctest.Wait()
			return err
		},
	}, faulty.Rule{
		When: func(c faulty.Call) bool { return c.Op == faulty.Commit && c.Partition.Name == runnel.ReservedElement },
		Then: func(ctx context.Context, _ faulty.Call, through func(context.Context) error) error {
			err := through(ctx)
			if err == nil {
				s.driver.SetRules(faulty.Rule{Then: faulty.Before(storage.ErrFailed)})
			}
			return err
		},
	})
	if err := s.moveTo("events/a", 0, rewind); err != nil || looks >= 0 {
		t.Fatal(looks, err)
	}
	if err := s.other.Close(); err != nil {
		t.Fatal(err)
	}
	e, err := engine.Open(s.shared, engine.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	after := &subscribed{t, e}
	w := after.claim("three")
	if l := after.pending(&w, "events/a"); l.Acked != 0 || l.Tail != 3 {
		t.Errorf("%+v", l)
	}
}

func TestWhoLooksForDeliveriesIsToldOfAllThatWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := subscribe(t, new(memory.Driver), "events/*")
		for i := range 3 {
			config := runnel.SubscriptionConfig{Type: runnel.Webhook, Pattern: "events/*", WebhookURL: "https://example.com"}
			if _, _, err := s.CreateSubscription(t.Context(), noStore, fmt.Sprintf("hook-%d", i), config); err != nil {
				t.Fatal(err)
			}
		}
		s.put("events/a")
		synctest.Wait()
		waiting := func(most int) []string {
			ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			defer cancel()
			var got []string
			for p := range s.WebhookPending(ctx) { // which may repeat itself
				if !slices.Contains(got, p.Subscription) {
					got = append(got, p.Subscription)
				}
				if len(got) == most {
					break
				}
			}
			return got
		}
		if got := waiting(1); !slices.Equal(got, []string{"hook-0"}) {
			t.Fatal(got)
		}
		for range 2 {
			if got := waiting(0); !slices.Equal(got, []string{"hook-0", "hook-1", "hook-2"}) {
				t.Fatal("after somebody has looked: ", got)
			}
		}
		if _, err := s.ClaimDelivery(t.Context(), noStore, "hook-1", time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		if err := s.DeleteSubscription(t.Context(), noStore, "hook-2"); err != nil {
			t.Fatal(err)
		}
		if got := waiting(0); !slices.Equal(got, []string{"hook-0"}) {
			t.Fatal(got)
		}
	})
}

func TestAStoreHasNoMoreSubscriptionsThanItMay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, err := engine.Open(new(memory.Driver), engine.Config{MaxSubscriptions: 2})
		if err != nil {
			t.Fatal(err)
		}
		defer e.Close()
		make := func(store runnel.Store, id string) error {
			config := runnel.SubscriptionConfig{Type: runnel.PullWake, Pattern: "**", WakeStream: "w"}
			_, _, err := e.CreateSubscription(t.Context(), store, id, config)
			return err
		}
		if err := errors.Join(make(noStore, "a"), make(noStore, "b"), make(noStore, "a"), make(runnel.Store{1}, "c")); err != nil {
			t.Fatal(err)
		}
		err = make(noStore, "c")
		wantError(t, err, runnel.ErrSubscriptionLimit)
		if limit := as[*runnel.SubscriptionLimitError](t, err); limit.Limit != 2 {
			t.Fatal(limit)
		}
		if err := errors.Join(e.DeleteSubscription(t.Context(), noStore, "a"), make(noStore, "c")); err != nil {
			t.Fatal(err)
		}
	})
}

func TestLagsSumUpEveryReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := subscribe(t, new(memory.Driver), "events/*")
		for range 2 {
			s.put("events/a")
			s.put("events/b")
		}
		for _, m := range []runnel.CursorMove{{Segment: "a", Name: "reader", Place: 1}, {Segment: "b", Name: "reader"}, {Segment: "b", Name: "idle", Place: 2}, {Name: "reader", Place: 4}} {
			if _, err := s.Transact(t.Context(), at("events/a").In(), runnel.Transaction{Cursors: []runnel.CursorMove{m}}); err != nil {
				t.Fatal(err)
			}
		}
		s.ack(s.claim("one"), "events/a", 1, false)
		want := []runnel.ReaderLag{
			{Cursor: "__ds/sub", Behind: 2, Entries: 3, Bytes: 3},
			{Space: "events", Cursor: "idle"},
			{Space: "events", Cursor: "reader", Behind: 3, Entries: 5, Bytes: 3},
		}
		var got []runnel.ReaderLag
		for l, err := range s.Lags(t.Context(), nil) {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, l)
		}
		if !slices.Equal(got, want) {
			t.Fatalf("%+v\nwant %+v", got, want)
		}
	})
}

func TestALookAtLagsMakesPausesWhichClosingTheEngineEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := subscribe(t, new(memory.Driver), "events/*")
		const spaces = 1000
		for i := range spaces {
			s.put(fmt.Sprintf("tenant/%d/a", i))
			move := runnel.CursorMove{Segment: "a", Name: "reader", Place: 1}
			if _, err := s.Transact(t.Context(), runnel.Space{Name: fmt.Sprintf("tenant/%d", i)}, runnel.Transaction{Cursors: []runnel.CursorMove{move}}); err != nil {
				t.Fatal(err)
			}
		}
		pauses := 0
		seen := make(map[string]bool)
		for l, err := range s.Lags(t.Context(), func(context.Context) error { pauses++; return nil }) {
			if err != nil || seen[l.Space+" "+l.Cursor] {
				t.Fatal(l, err)
			}
			seen[l.Space+" "+l.Cursor] = true
		}
		if len(seen) != spaces+1 || pauses < 2*spaces/256-1 {
			t.Errorf("%d readers were found with %d pauses", len(seen), pauses)
		}
		var last error
		for _, last = range s.Lags(t.Context(), func(ctx context.Context) error {
			go s.Close()
			<-ctx.Done()
			return ctx.Err()
		}) {
		}
		if !errors.Is(last, runnel.ErrShutdown) {
			t.Errorf("it ended with %v", last)
		}
	})
}
