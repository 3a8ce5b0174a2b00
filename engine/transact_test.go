package engine_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/storage"
	"github.com/runnelhq/runnel/storage/faulty"
	"github.com/runnelhq/runnel/storage/memory"
)

// making makes the options of an append that creates its segment.
func making() runnel.AppendOptions {
	return runnel.AppendOptions{Create: &runnel.CreateOptions{ContentType: "text/plain"}}
}

func keyed(key string) runnel.AppendOptions {
	return runnel.AppendOptions{Key: key, Create: new(runnel.CreateOptions)}
}

func TestAnAppendMakesItsSegment(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := inMemory(t)
		for range 2 {
			a, err := w.tryAppend("s/a", making(), "1", "2")
			if err != nil || !a.Created || a.First != 1 || a.Tail != 2 {
				t.Fatalf("%+v, %v", a, err)
			}
			if a, err = w.tryAppend("s/a", making(), "3"); err != nil || a.Created || a.Tail != 3 {
				t.Fatalf("%+v, %v", a, err)
			}
			if got := w.stat("s/a").ContentType; got != "text/plain" {
				t.Fatal(got)
			}
			w.reopen()
			w.want("s/a", "1", "2", "3")
			w.delete("s/a")
		}
		// Also one whose time is over.
		short := making()
		short.Create.TTL = time.Minute
		for range 2 {
			if a, err := w.tryAppend("s/b", short, "1"); err != nil || !a.Created {
				t.Fatalf("%+v, %v", a, err)
			}
			pass(2 * time.Minute)
		}
	})
}

func TestAnAppendThatMakesItsSegmentIsCheckedAsAnyOther(t *testing.T) {
	w := inMemory(t)
	w.create("there", runnel.CreateOptions{}, "1")
	held := w.create("source", runnel.CreateOptions{}, "1")
	w.fork("fork", "source", held.Tail)
	w.delete("source")
	absent := making()
	absent.Absent = true
	for _, tc := range []struct {
		name, path string
		change     func(o *runnel.AppendOptions)
		want       error
	}{
		{"a producer begins at 0", "new", func(o *runnel.AppendOptions) { o.Producer = &runnel.Producer{ID: "p", Seq: 1} }, runnel.ErrProducerGap},
		{"there is no tail yet", "new", func(o *runnel.AppendOptions) { o.Expect = expecting(1) }, runnel.ErrTailMoved},
		{"the type is what it is made with", "new", func(o *runnel.AppendOptions) { o.ContentType = "text/html" }, runnel.ErrContentType},
		{"a record fits the retention", "new", func(o *runnel.AppendOptions) { o.Create.Retention.Bytes = 1 }, runnel.ErrTooLarge},
		{"it must be absent", "there", func(o *runnel.AppendOptions) { o.Absent = true }, runnel.ErrExists},
		{"it is held for its forks", "source", func(*runnel.AppendOptions) {}, runnel.ErrSoftDeleted},
		{"it cannot be closed", "new", func(o *runnel.AppendOptions) { o.Create.Closed = true }, runnel.ErrInvalid},
		{"absent needs something to make it with", "new", func(o *runnel.AppendOptions) { o.Create, o.Absent = nil, true }, runnel.ErrInvalid},
		{"its options are checked", "new", func(o *runnel.AppendOptions) { o.Create.TTL = -1 }, runnel.ErrInvalid},
	} {
		t.Run(tc.name, func(t *testing.T) {
			o := making()
			tc.change(&o)
			_, err := w.tryAppend(tc.path, o, "12")
			wantError(t, err, tc.want)
			wantError(t, w.statErr("new"), runnel.ErrNotFound)
		})
	}
	absent.Expect = expecting(0)
	if a, err := w.tryAppend("new", absent, "1"); err != nil || !a.Created {
		t.Fatalf("%+v, %v", a, err)
	}
}

func TestAKeyIsStoredOnce(t *testing.T) {
	for name, driver := range map[string]storage.Driver{"alone": new(memory.Driver), "shared": &memory.Driver{Shared: true}} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, driver, inMemory(t).cfg)
			first, err := w.tryAppend("a", keyed("k"), "1", "2")
			if err != nil || first.Duplicate {
				t.Fatalf("%+v, %v", first, err)
			}
			w.append("a", "3")
			for range 2 {
				again, err := w.tryAppend("a", keyed("k"), "1", "2")
				if err != nil || !again.Duplicate || again.First != 1 || again.Tail != 2 || again.Position != first.Position || !again.Time.Equal(first.Time) {
					t.Fatalf("%+v, %v, first %+v", again, err, first)
				}
				_, err = w.tryAppend("a", keyed("k"), "1", "other")
				wantError(t, err, runnel.ErrKeyReused)
				if e := as[*runnel.KeyReusedError](t, err); e.Key != "k" || e.First != 1 {
					t.Errorf("%+v", e)
				}
				w.crash()
			}
			w.want("a", "1", "2", "3")
			// Another life of the name knows nothing of it.
			w.delete("a")
			if a, err := w.tryAppend("a", keyed("k"), "other"); err != nil || a.Duplicate {
				t.Fatalf("%+v, %v", a, err)
			}
		})
	}
}

func TestAKeyIsAnsweredNoSoonerThanItsWrite(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := inMemory(t)
		w.create("s/a", runnel.CreateOptions{})
		release := w.blocked("s")
		write := func() error { _, err := w.tryAppend("s/a", keyed("k"), "1"); return err }
		first := later(write)
		pending(t, first, "the write")
		second := later(write)
		pending(t, second, "its repetition")
		release()
		if err := errors.Join(<-first, <-second); err != nil {
			t.Fatal(err)
		}
		w.want("s/a", "1")
	})
}

func TestARepeatedCommitIsAnsweredNoSoonerThanWhatItSpeaksOf(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := inMemory(t)
		w.create("s/a", runnel.CreateOptions{})
		w.create("s/b", runnel.CreateOptions{})
		commit := func() ([]runnel.Appended, error) {
			return w.Commit(ctx, runnel.Space{Name: "s"},
				runnel.Write{Segment: "a", Options: producing("p", 0, 0), Records: records("1")},
				runnel.Write{Segment: "b", Options: producing("p", 0, 0), Records: records("1")},
			)
		}
		if _, err := commit(); err != nil {
			t.Fatal(err)
		}
		commits := make(chan struct{}) // each lets one through
		one := func(context.Context) error { <-commits; return nil }
		w.driver.SetRules(faulty.Rule{When: func(c faulty.Call) bool { return c.Op == faulty.Commit }, Then: faulty.Wait(one, faulty.Through)})
		// Two batches: what is in flight, and what waits behind it. The first segment is in the second.
		inFlight := later(func() error { _, err := w.tryAppend("s/b", runnel.AppendOptions{}, "2"); return err })
		pending(t, inFlight, "the batch in flight")
		behind := later(func() error { _, err := w.tryAppend("s/a", runnel.AppendOptions{}, "2"); return err })
		pending(t, behind, "the batch behind it")
		repeated := later(func() []runnel.Appended { a, _ := commit(); return a })
		pending(t, repeated, "the repetition")
		commits <- struct{}{}
		pending(t, repeated, "the repetition, with the first batch durable,")
		commits <- struct{}{}
		if a := <-repeated; len(a) != 2 || !a[0].Duplicate || a[0].Tail != 2 || a[1].Tail != 2 {
			t.Fatalf("%+v", a)
		}
		if err := errors.Join(<-inFlight, <-behind); err != nil {
			t.Fatal(err)
		}
	})
}

func TestATransactionIsAllOrNothing(t *testing.T) {
	space := runnel.Space{Name: "s"}
	w := inMemory(t)
	w.create("s/a", runnel.CreateOptions{}, "1")
	lease, err := w.AcquireLease(ctx, space, runnel.LeaseRequest{Key: "l", Holder: "me", TTL: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	good := func() runnel.Transaction {
		return runnel.Transaction{
			Writes:  []runnel.Write{{Segment: "a", Records: records("2")}, {Segment: "b", Options: making(), Records: records("3")}},
			Cursors: []runnel.CursorMove{{Segment: "a", Name: "c", Place: 1}, {Name: "c", Place: 1}},
			Fences:  []runnel.Fence{lease.Fence()},
		}
	}
	for _, tc := range []struct {
		name  string
		spoil func(tr *runnel.Transaction)
		want  error
	}{
		{"a write is refused", func(tr *runnel.Transaction) { tr.Writes[1].Options = runnel.AppendOptions{} }, runnel.ErrNotFound},
		{"a condition does not hold", func(tr *runnel.Transaction) { tr.Writes[0].Options.Expect = expecting(7) }, runnel.ErrTailMoved},
		{"a segment is named twice", func(tr *runnel.Transaction) { tr.Writes[1].Segment = "a" }, runnel.ErrInvalid},
		{"a cursor is named twice", func(tr *runnel.Transaction) { tr.Cursors[1].Segment = "a" }, runnel.ErrInvalid},
		{"a cursor would pass the end", func(tr *runnel.Transaction) { tr.Cursors[0].Place = 2 }, runnel.ErrBeyondTail},
		{"a cursor is of no segment", func(tr *runnel.Transaction) { tr.Cursors[0].Segment = "none" }, runnel.ErrNotFound},
		{"a cursor is elsewhere", func(tr *runnel.Transaction) { tr.Cursors[1].Expect = new(uint64(9)) }, runnel.ErrCursorMoved},
		{"a lease is not held", func(tr *runnel.Transaction) { tr.Fences[0].Number++ }, runnel.ErrLeaseLost},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tr := good()
			tc.spoil(&tr)
			_, err := w.Transact(ctx, space, tr)
			wantError(t, err, tc.want)
			w.want("s/a", "1")
			wantError(t, w.statErr("s/b"), runnel.ErrNotFound)
			for _, segment := range []string{"a", ""} {
				_, err := w.Cursor(ctx, runnel.CursorName{Space: space, Segment: segment, Name: "c"})
				wantError(t, err, runnel.ErrNotFound)
			}
		})
	}
	c, err := w.Transact(ctx, space, good())
	if err != nil || len(c.Appended) != 2 || c.Appended[0].Tail != 2 || !c.Appended[1].Created {
		t.Fatalf("%+v, %v", c, err)
	}
	w.reopen()
	w.want("s/a", "1", "2")
	w.want("s/b", "3")
	for _, segment := range []string{"a", ""} {
		if c, err := w.Cursor(ctx, runnel.CursorName{Space: space, Segment: segment, Name: "c"}); err != nil || c.Place != 1 {
			t.Fatalf("%+v, %v", c, err)
		}
	}
}

func TestARefusedCommitIsToldWhenWhatStandsForItIsDurable(t *testing.T) {
	one := runnel.Write{Segment: "new", Records: records("1")}
	for name, refused := range map[string]runnel.Transaction{
		"for its second write": {Writes: []runnel.Write{one, {Segment: "closed", Records: records("1")}}},
		"for its cursor":       {Writes: []runnel.Write{one}, Cursors: []runnel.CursorMove{{Name: "c", Expect: new(uint64(7))}}},
		"for its second cursor": {Cursors: []runnel.CursorMove{
			{Segment: "new", Name: "c"}, {Name: "c", Expect: new(uint64(7))},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := inMemory(t)
				w.create("s/closed", runnel.CreateOptions{Closed: true})
				release := w.blocked("s")
				created := later(func() error { _, err := w.tryCreate("s/new", runnel.CreateOptions{}); return err })
				pending(t, created, "the creation")
				// Without the segment that is being created, the commit would be refused for that.
				told := later(func() error { _, err := w.Transact(ctx, runnel.Space{Name: "s"}, refused); return err })
				pending(t, told, "the commit")
				release()
				if err := <-created; err != nil {
					t.Fatal(err)
				}
				if err := <-told; err == nil || errors.Is(err, runnel.ErrNotFound) {
					t.Fatal(err)
				}
			})
		})
	}
}
