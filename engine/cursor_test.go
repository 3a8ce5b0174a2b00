package engine_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/runnelhq/runnel"
)

func cursor(path, name string) runnel.CursorName {
	seg := at(path)
	return runnel.CursorName{Space: seg.In(), Segment: seg.Name, Name: name}
}

func (w *world) move(c runnel.CursorName, to uint64, change ...func(m *runnel.CursorMove)) error {
	m := runnel.CursorMove{Segment: c.Segment, Name: c.Name, Place: to}
	for _, f := range change {
		f(&m)
	}
	_, err := w.Transact(ctx, c.Space, runnel.Transaction{Cursors: []runnel.CursorMove{m}})
	return err
}

func (w *world) wantCursor(c runnel.CursorName, place, lag uint64) {
	w.t.Helper()
	got, err := w.Cursor(ctx, c)
	if err != nil || got.Place != place || got.Lag() != lag {
		w.t.Fatalf("cursor %s: %+v, lag %d, %v; want place %d, lag %d", c, got, got.Lag(), err, place, lag)
	}
}

func TestACursorKeepsAPlace(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := inMemory(t)
		w.create("s/a", runnel.CreateOptions{}, numbered("", 10)...)
		c := cursor("s/a", "reader")
		_, err := w.Cursor(ctx, c)
		wantError(t, err, runnel.ErrNotFound)
		pass(time.Second)
		if err := w.move(c, 4); err != nil {
			t.Fatal(err)
		}
		moved := time.Now()
		w.append("s/a", "11")
		for range 2 {
			w.wantCursor(c, 4, 7)
			if got, err := w.Cursor(ctx, c); err != nil || !got.Updated.Equal(moved) {
				t.Fatalf("%+v, %v, want %v", got, err, moved)
			}
			w.crash()
		}
		// A place is moved on, not back, but for one who says so.
		err = w.move(c, 3)
		wantError(t, err, runnel.ErrCursorMoved)
		if e := as[*runnel.CursorMovedError](t, err); e.Place != 4 || e.Want != 3 {
			t.Errorf("%+v", e)
		}
		if err := w.move(c, 3, func(m *runnel.CursorMove) { m.Rewind = true }); err != nil {
			t.Fatal(err)
		}
		wantError(t, w.move(c, 5, func(m *runnel.CursorMove) { m.Expect = new(uint64(4)) }), runnel.ErrCursorMoved)
		if err := w.move(c, 5, func(m *runnel.CursorMove) { m.Expect = new(uint64(3)) }); err != nil {
			t.Fatal(err)
		}
		wantError(t, w.move(c, 12), runnel.ErrBeyondTail)
		w.wantCursor(c, 5, 6)
		if err := w.DeleteCursor(ctx, c); err != nil {
			t.Fatal(err)
		}
		wantError(t, w.DeleteCursor(ctx, c), runnel.ErrNotFound)
		_, err = w.Cursor(ctx, c)
		wantError(t, err, runnel.ErrNotFound)
	})
}

func TestTheCursorsOfASegmentGoWithIt(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := inMemory(t)
		w.create("s/a", runnel.CreateOptions{}, "1", "2")
		if err := errors.Join(w.move(cursor("s/a", "c"), 2), w.move(runnel.CursorName{Space: at("s/a").In(), Name: "c"}, 1)); err != nil {
			t.Fatal(err)
		}
		w.delete("s/a")
		_, err := w.Cursor(ctx, cursor("s/a", "c"))
		wantError(t, err, runnel.ErrNotFound)
		w.create("s/a", runnel.CreateOptions{}, "1")
		_, err = w.Cursor(ctx, cursor("s/a", "c"))
		wantError(t, err, runnel.ErrNotFound)
		pass(time.Minute)
		w.wantRows("s", map[string]int{"u": 1}) // that of the space
	})
}

func TestCursorsAreListedByName(t *testing.T) {
	w := inMemory(t)
	w.create("s/a", runnel.CreateOptions{}, "1")
	w.create("s/b", runnel.CreateOptions{}, "1")
	var want []string
	for i := range 600 {
		name := fmt.Sprintf("c-%03d", i)
		want = append(want, name)
		if err := w.move(cursor("s/a", name), 1); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.move(cursor("s/a", "other"), 1), w.move(cursor("s/b", "c-1"), 1), w.move(cursor("s/a", "\xf4\x8f\xbf\xbf"), 1)); err != nil {
		t.Fatal(err)
	}
	list := func(prefix, after string) []string {
		var got []string
		for c, err := range w.Cursors(ctx, runnel.Space{Name: "s"}, "a", prefix, after) {
			if err != nil {
				t.Fatal(err)
			}
			if c.End != 1 || c.Place != 1 {
				t.Fatalf("%+v", c)
			}
			got = append(got, c.Name)
		}
		return got
	}
	if got := list("c-", ""); !slices.Equal(got, want) {
		t.Fatalf("%d cursors: %s", len(got), short(got))
	}
	if got := list("c-", "c-299"); !slices.Equal(got, want[300:]) {
		t.Fatalf("%d cursors: %s", len(got), short(got))
	}
	if got := list("", ""); len(got) != 602 || got[601] != "\xf4\x8f\xbf\xbf" {
		t.Fatalf("%d cursors", len(got))
	}
	if got := list("x", ""); len(got) != 0 {
		t.Fatal(got)
	}
}

func TestACursorOfASpaceFollowsItsTimeline(t *testing.T) {
	w := inMemory(t)
	w.create("s/a", runnel.CreateOptions{}, "1")
	w.create("s/b", runnel.CreateOptions{}, "2")
	all := w.timeline("s", 0)
	c := runnel.CursorName{Space: at("s/a").In(), Name: "reader"}
	if err := w.move(c, uint64(all[0].position)); err != nil {
		t.Fatal(err)
	}
	got, err := w.Cursor(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	if rest := placedTexts(w.timeline("s", runnel.Position(got.Place))); !slices.Equal(rest, []string{"b 2"}) {
		t.Fatal(rest)
	}
	wantError(t, w.move(c, got.End+1), runnel.ErrBeyondTail)
}

func TestACursorIsToldOfNoSoonerThanItIsDurable(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, pebbleInMemory(t), inMemory(t).cfg)
		w.create("s/a", runnel.CreateOptions{}, "1")
		c := cursor("s/a", "c")
		release := w.blocked("s")
		moved := later(func() error { return w.move(c, 1) })
		pending(t, moved, "the move")
		again := later(func() error { return w.move(c, 1, func(m *runnel.CursorMove) { m.Expect = new(uint64(0)) }) })
		pending(t, again, "a refusal that rests on it")
		release()
		if err := <-moved; err != nil {
			t.Fatal(err)
		}
		wantError(t, <-again, runnel.ErrCursorMoved)
	})
}
