package client_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"testing"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/client"
	"github.com/runnelhq/runnel/storage/faulty"
)

func TestAReaderGoesOnBehindWhatItHasCommitted(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		_, err := w.Publish(t.Context(), order1, numbered(1, 3)...)
		must(t, err)
		_, err = w.Publish(t.Context(), order2, numbered(4, 3)...)
		must(t, err)
		for _, segment := range []string{"", "1"} {
			name := runnel.CursorName{Space: orders, Segment: segment, Name: "billing"}
			reader := w.Reader(name)
			done, place := 0, uint64(0)
			for e, err := range reader.Consume(t.Context(), runnel.Query{}) {
				must(t, err)
				must(t, reader.Commit(t.Context(), e))
				if place = uint64(e.Position); segment != "" {
					place = uint64(e.Sequence)
				}
				if done++; done == 2 {
					break
				}
			}
			// Another process goes on under the same name.
			reader = w.another().Reader(name)
			e, _, err := first(reader.Tail(t.Context(), runnel.Query{}))
			must(t, err)
			want(t, string(e.Payload), 3)
			after, err := reader.Cursor(t.Context())
			must(t, err)
			want(t, []any{after.Place, after.Lag()}, []any{place, after.End - place})
			// Who is behind cannot move it back.
			err = w.Reader(name).Commit(t.Context(), client.Entry{Entry: runnel.Entry{Sequence: 1, Position: 1}})
			moved, ok := errors.AsType[*runnel.CursorMovedError](err)
			if !ok || moved.Cursor != name || moved.Place != place {
				t.Fatalf("got %v", err)
			}
		}
		n := 0
		for c, err := range w.Cursors(t.Context(), orders, "", "bill", "") {
			must(t, err)
			want(t, c.Name, "billing")
			n++
		}
		want(t, n, 1)
		must(t, w.DeleteCursor(t.Context(), runnel.CursorName{Space: orders, Name: "billing"}))
		_, err = w.Cursor(t.Context(), runnel.CursorName{Space: orders, Name: "billing"})
		if _, ok := errors.AsType[*runnel.CursorNotFoundError](err); !ok {
			t.Fatalf("got %v", err)
		}
	})
}

func TestACursorMovesWithWhatCameOfTheEntryOrNotAtAll(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		_, err := w.Publish(t.Context(), order1, records("a")...)
		must(t, err)
		reader := w.Reader(runnel.CursorName{Space: orders, Segment: "1", Name: "copy"})
		copyOf := func(e client.Entry, expect client.Expect) error {
			_, err := w.Transact(t.Context(), orders, runnel.Transaction{
				Writes:  []runnel.Write{{Segment: "2", Options: client.Production{Expect: expect}.Options(), Records: []runnel.Record{{Payload: e.Payload}}}},
				Cursors: []runnel.CursorMove{reader.Move(e)},
			})
			return err
		}
		e, _, err := first(reader.Consume(t.Context(), runnel.Query{}))
		must(t, err)
		want(t, errors.Is(copyOf(e, client.At(7)), runnel.ErrNotFound), true)
		cursor, err := reader.Cursor(t.Context())
		must(t, err)
		want(t, cursor.Place, 0)
		must(t, copyOf(e, client.None()))
		cursor, err = reader.Cursor(t.Context())
		must(t, err)
		want(t, []any{cursor.Place, w.texts(client.Segment(order2, 0))}, []any{1, []string{"a"}})
	})
}

func TestALeaseHasOneHolderAndOthersMayWait(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		leader := runnel.LeaseRequest{Key: "leader", TTL: time.Minute}
		inside := make(chan struct{})
		second := make(chan error, 1)
		err := w.WithLease(t.Context(), orders, leader, func(ctx context.Context, l runnel.Lease) error {
			other := w.another()
			err := other.WithLease(ctx, orders, leader, func(context.Context, runnel.Lease) error { return nil })
			heldBy, ok := errors.AsType[*runnel.LeaseHeldError](err)
			if !ok || heldBy.Lease.Holder != l.Holder || heldBy.Lease.Number != l.Number || !heldBy.Lease.Deadline.Equal(l.Deadline) {
				t.Errorf("got %v", err)
			}
			for held, err := range w.Leases(ctx, orders, "lead", "") {
				must(t, err)
				want(t, held.Number, l.Number)
			}
			go func() {
				waiting := leader
				waiting.Wait = true
				second <- other.WithLease(t.Context(), orders, waiting, func(_ context.Context, next runnel.Lease) error {
					if next.Number <= l.Number {
						t.Errorf("number %d follows %d", next.Number, l.Number)
					}
					close(inside)
					return nil
				})
			}()
			select {
			case <-inside:
				t.Error("two hold it")
			case <-time.After(20 * time.Millisecond):
			}
			return nil
		})
		must(t, err)
		<-inside
		must(t, <-second)
		for l, err := range w.Leases(t.Context(), orders, "", "") {
			must(t, err)
			t.Errorf("%q is still held", l.Key)
		}
	})
}

func TestAFencedWriteOfALateHolderIsRefused(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		request := runnel.LeaseRequest{Key: "leader", Holder: "a", TTL: time.Minute}
		old, err := w.AcquireLease(t.Context(), orders, request)
		must(t, err)
		fenced := func(c *client.Client, f runnel.Fence, text string) error {
			_, err := c.Transact(t.Context(), orders, runnel.Transaction{
				Writes: []runnel.Write{{Segment: "1", Options: client.Production{}.Options(), Records: records(text)}},
				Fences: []runnel.Fence{f},
			})
			return err
		}
		must(t, fenced(w.Client, old.Fence(), "first"))
		must(t, w.ReleaseLease(t.Context(), orders, old.Fence()))
		request.Holder = "b"
		next, err := w.another().AcquireLease(t.Context(), orders, request)
		must(t, err)
		err = fenced(w.Client, old.Fence(), "late")
		lost, ok := errors.AsType[*runnel.LeaseLostError](err)
		if !ok || *lost != (runnel.LeaseLostError{Key: "leader", Number: old.Number, Current: next.Number}) {
			t.Fatalf("got %v", err)
		}
		must(t, fenced(w.another(), next.Fence(), "second"))
		want(t, w.texts(client.Segment(order1, 0)), []string{"first", "second"})
	})
}

func TestTheHoldersContextEndsWhenTheLeaseIsTaken(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		request := runnel.LeaseRequest{Key: "leader", Holder: "me", TTL: 3 * time.Second}
		err := w.WithLease(t.Context(), orders, request, func(ctx context.Context, l runnel.Lease) error {
			_, err := w.another().AcquireLease(ctx, orders, request) // the same holder, elsewhere
			must(t, err)
			<-ctx.Done()
			lost, ok := errors.AsType[*runnel.LeaseLostError](context.Cause(ctx))
			if !ok || lost.Number != l.Number || lost.Current <= l.Number {
				t.Errorf("got %v", context.Cause(ctx))
			}
			return ctx.Err()
		})
		want(t, []bool{errors.Is(err, runnel.ErrLeaseLost), errors.Is(err, context.Canceled)}, []bool{true, true})
	})
}

func TestObserversSeeWhoIsThereAndWhoJoinsAndLeaves(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		early, err := w.Join(t.Context(), orders, client.Worker{ID: "early", Metadata: map[string]string{"zone": "a"}})
		must(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		next, stop := iter.Pull2(w.another().Workers(ctx, orders))
		defer stop()
		saw := func() string {
			e, err, _ := next()
			must(t, err)
			if e.Complete {
				return "complete"
			}
			return fmt.Sprintf("%s left=%v live=%v zone=%s", e.Worker.ID, e.Left, e.Live, e.Worker.Metadata["zone"])
		}
		want(t, saw(), "early left=false live=false zone=a")
		want(t, saw(), "complete")

		late, err := w.another().Join(ctx, orders, client.Worker{ID: "late"})
		must(t, err)
		want(t, saw(), "late left=false live=true zone=")

		// Who joins under the same id takes the place, and the other one is told.
		newer, err := w.another().Join(ctx, orders, client.Worker{ID: "early", Metadata: map[string]string{"zone": "b"}})
		must(t, err)
		want(t, saw(), "early left=true live=true zone=a")
		want(t, saw(), "early left=false live=true zone=b")
		want(t, errors.Is(early.Leave(), runnel.ErrLeaseLost), true)

		must(t, late.Leave())
		want(t, saw(), "late left=true live=true zone=")
		must(t, newer.Leave())
		want(t, saw(), "early left=true live=true zone=b")
	})
}

func TestAWorkerThatIsNotHeardOfLeavesByTheClockOfTheServer(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		ctx, crash := context.WithCancel(t.Context())
		defer crash()
		_, err := w.Join(ctx, orders, client.Worker{ID: "w", TTL: 2 * time.Second})
		must(t, err)
		next, stop := iter.Pull2(w.another().Workers(t.Context(), orders))
		defer stop()
		for _, wanted := range []bool{false, false, true} { // it is there, that is all, it has left
			e, err, _ := next()
			must(t, err)
			want(t, e.Left, wanted)
			if e.Complete {
				crash() // it is not renewed any more
			}
		}
	})
}

func TestAWatcherOfSegmentsIsToldOfEachChange(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		_, err := w.Publish(t.Context(), order1, records("a")...)
		must(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		next, stop := iter.Pull2(w.another().WatchSpace(ctx, orders))
		defer stop()
		until := func(path string, tail runnel.Sequence, gone bool) {
			t.Helper()
			last := runnel.Sequence(0)
			for {
				s, err, _ := next()
				must(t, err)
				if s.Mark || s.Info.Segment.Path() != path {
					continue
				}
				if s.Gone == gone && s.Info.Tail == tail {
					return
				}
				if s.Info.Tail < last {
					t.Fatalf("the tail goes back from %d to %d", last, s.Info.Tail)
				}
				last = s.Info.Tail
			}
		}
		until("orders/1", 1, false)
		for i := range 20 {
			_, err := w.Publish(ctx, order2, numbered(i, 1)...)
			must(t, err)
		}
		until("orders/2", 20, false)
		must(t, w.Delete(ctx, order1))
		until("orders/1", 0, true)
	})
}

func TestAWatcherOfOneSegmentHearsOfNoOther(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		next, stop := iter.Pull2(w.WatchSegment(ctx, order1))
		defer stop()
		s, err, _ := next()
		must(t, err)
		want(t, []bool{s.Mark, s.Live}, []bool{true, true})
		_, err = w.Publish(ctx, orders.Segment("10"), records("x")...)
		must(t, err)
		_, err = w.Publish(ctx, order1, records("x")...)
		must(t, err)
		s, err, _ = next()
		must(t, err)
		want(t, s.Info.Segment.Path(), "orders/1")
	})
}

func TestASpaceIsListedAndWatchedWithoutThoseBelowIt(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		root := runnel.Space{}
		for _, path := range []string{"a", "b", "a/x", "a/y", "a/x/z", "ab/q"} {
			segment, err := runnel.ParsePath(runnel.Store{}, path)
			must(t, err)
			_, err = w.Publish(t.Context(), segment, records("1")...)
			must(t, err)
		}
		for i := range 200 { // which nobody asks for
			_, err := w.Publish(t.Context(), runnel.Space{Name: fmt.Sprintf("other/%d", i)}.Segment("s"), records("1")...)
			must(t, err)
		}
		listed := func(space runnel.Space, prefix, after string) (paths []string) {
			for info, err := range w.Segments(t.Context(), space, prefix, after) {
				must(t, err)
				paths = append(paths, info.Segment.Path())
			}
			return paths
		}
		want(t, listed(root, "", ""), []string{"a", "b"})
		want(t, listed(root, "", "a"), []string{"b"})
		want(t, listed(root, "b", ""), []string{"b"})
		want(t, listed(runnel.Space{Name: "a"}, "", ""), []string{"a/x", "a/y"})
		want(t, listed(runnel.Space{Name: "a"}, "x", ""), []string{"a/x"})
		want(t, listed(runnel.Space{Name: "a"}, "", "x"), []string{"a/y"})
		want(t, listed(runnel.Space{Name: "none"}, "", ""), []string{})

		before := w.drivers[0].Calls(faulty.Scan)
		next, stop := iter.Pull2(w.WatchSpace(t.Context(), root))
		defer stop()
		for _, path := range []string{"a", "b", ""} {
			s, err, _ := next()
			must(t, err)
			want(t, []any{s.Info.Segment.Path(), s.Mark}, []any{path, path == ""})
		}
		if scans := w.drivers[0].Calls(faulty.Scan) - before; scans > 100 {
			t.Errorf("a watch of one space has read all of them: %d scans", scans)
		}
		for _, segment := range []runnel.Segment{{Space: "a", Name: "x"}, {Space: "other/7", Name: "s"}, {Name: "b"}} {
			_, err := w.another().Publish(t.Context(), segment, records("2")...)
			must(t, err)
		}
		s, err, _ := next()
		must(t, err)
		want(t, []any{s.Info.Segment.Path(), s.Info.Tail}, []any{"b", 2})
	})
}

func TestWhatIsWatchedIsToldWhenItComesAndGoesAndComesAgain(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		next, stop := iter.Pull2(w.WatchSegment(ctx, order1))
		defer stop()
		saw := func() runnel.Status {
			t.Helper()
			s, err, _ := next()
			must(t, err)
			return s
		}
		want(t, saw().Mark, true) // it is not there yet
		var ids []uint64
		for range 3 {
			made, err := w.Create(ctx, order1, runnel.CreateOptions{})
			must(t, err)
			s := saw()
			want(t, []any{s.Info.Segment, s.Info.ID, s.Gone}, []any{order1, made.ID, false})
			ids = append(ids, s.Info.ID)
			must(t, w.Delete(ctx, order1))
			s = saw()
			want(t, []any{s.Info.Segment, s.Gone}, []any{order1, true})
		}
		want(t, ids[0] != ids[1] && ids[1] != ids[2], true)
		_, _, err := first(w.WatchSegment(ctx, orders.Segment("a/b")))
		want(t, errors.Is(err, runnel.ErrInvalid), true)
	})
}
