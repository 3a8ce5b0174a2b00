package engine

import (
	"context"
	"iter"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/record"
	"github.com/runnelhq/runnel/storage"
)

// Cursor returns the stored place of a reader. It fails with runnel.ErrNotFound when there is no such
// cursor, or no such segment.
func (e *Engine) Cursor(ctx context.Context, name runnel.CursorName) (runnel.Cursor, error) {
	if err := checkCursor(name); err != nil {
		return runnel.Cursor{}, err
	}
	return retry(func() (runnel.Cursor, error) {
		var found runnel.Cursor
		err := e.withCursors(ctx, name.Space, name.Segment, func(sp *space, id uint64, end func() uint64) error {
			value, err := sp.readRow(ctx, cursorKey(id, name.Name))
			if err != nil {
				return err
			}
			if value == nil {
				return &runnel.CursorNotFoundError{Cursor: name}
			}
			found, err = cursorOf(name, value, end())
			return err
		})
		return found, err
	})
}

func cursorOf(name runnel.CursorName, value []byte, end uint64) (runnel.Cursor, error) {
	c, err := record.DecodeCursor(value)
	return runnel.Cursor{CursorName: name, Place: c.Place, Updated: time.UnixMicro(c.Updated).UTC(), End: end}, err
}

func checkCursor(name runnel.CursorName) error {
	if err := name.Space.Validate(); err != nil {
		return err
	}
	if name.Segment != "" {
		if err := name.Space.Segment(name.Segment).Validate(); err != nil {
			return err
		}
	}
	return checkText("cursor name", name.Name, runnel.MaxCursorBytes)
}

// withCursors runs f with what the cursors of a segment, or of a space where segment is empty, are kept
// under. Where what they are cursors of ends is asked after the cursors are read, so that none is beyond.
func (e *Engine) withCursors(ctx context.Context, part runnel.Space, segment string, f func(sp *space, id uint64, end func() uint64) error) error {
	if segment == "" {
		sp, err := e.enter(ctx, part)
		if err != nil {
			return err
		}
		defer sp.leave()
		return f(sp, 0, func() uint64 {
			sp.mu.Lock()
			defer sp.mu.Unlock()
			return uint64(sp.head)
		})
	}
	seg, err := e.acquire(ctx, part.Segment(segment))
	if err != nil {
		return err
	}
	defer seg.release()
	st := seg.durable.Load()
	if err := e.usable(ctx, seg, st, e.now()); err != nil {
		return err
	}
	return f(seg.sp, st.inc.id, func() uint64 {
		if now := seg.durable.Load(); now.inc == st.inc {
			return uint64(now.tail)
		}
		return uint64(st.tail)
	})
}

// Cursors yields the cursors of a segment, or of the timeline of the space where segment is empty, whose
// names have a prefix, in the order of their names, beginning behind the name after, which need not
// exist.
func (e *Engine) Cursors(ctx context.Context, space runnel.Space, segment, prefix, after string) iter.Seq2[runnel.Cursor, error] {
	return func(yield func(runnel.Cursor, error) bool) {
		after := after
		for {
			page, err := retry(func() ([]runnel.Cursor, error) { return e.cursorPage(ctx, space, segment, prefix, after) })
			if err != nil {
				yield(runnel.Cursor{}, err)
				return
			}
			for i := range page {
				after = page[i].Name
				if !yield(page[i], nil) {
					return
				}
			}
			if len(page) < listPage {
				return
			}
		}
	}
}

func (e *Engine) cursorPage(ctx context.Context, part runnel.Space, segment, prefix, after string) (page []runnel.Cursor, err error) {
	if err := checkCursor(runnel.CursorName{Space: part, Segment: segment, Name: "-"}); err != nil {
		return nil, err
	}
	err = e.withCursors(ctx, part, segment, func(sp *space, id uint64, end func() uint64) error {
		under := cursorKey(id, "")
		for pair, err := range e.driver.Scan(ctx, part, namedRange(under, prefix, after)) {
			if err != nil {
				return storageError(err)
			}
			name := runnel.CursorName{Space: part, Segment: segment, Name: string(pair.Key[len(under):])}
			c, err := cursorOf(name, pair.Value, 0)
			if err != nil {
				return err
			}
			page = append(page, c)
		}
		if err := sp.settled(ctx); err != nil {
			return err
		}
		last := end()
		for i := range page {
			page[i].End = last
		}
		return nil
	})
	return page, err
}

// DeleteCursor removes a cursor, and returns when that is durable. It fails with runnel.ErrNotFound.
func (e *Engine) DeleteCursor(ctx context.Context, name runnel.CursorName) error {
	if err := checkCursor(name); err != nil {
		return err
	}
	return again(func() error {
		return e.withCursors(ctx, name.Space, name.Segment, func(sp *space, id uint64, _ func() uint64) error {
			key := cursorKey(id, name.Name)
			if err := sp.loadRow(ctx, key); err != nil {
				return err
			}
			return sp.write(ctx, storage.MaxKeyBytes+rowBytes, 1, func(t *tx) error {
				r := t.row(key)
				if r == nil {
					return errRetry
				}
				if r.value == nil {
					t.dependOnRow(r)
					return &runnel.CursorNotFoundError{Cursor: name}
				}
				t.setRow(key, nil)
				return nil
			})
		})
	})
}

// moving is a move of a cursor on its way.
type moving struct {
	*runnel.CursorMove
	name runnel.CursorName
	seg  *segment // nil for the timeline of the space
	id   uint64
	key  []byte

	creates bool
}

func (m *moving) check(t *tx) error {
	end := uint64(t.sp.position)
	if m.seg != nil {
		if err := t.live(m.seg, m.seg.addr()); err != nil {
			return err
		}
		if m.seg.staged.inc.id != m.id {
			return errRetry
		}
		end = uint64(m.seg.staged.tail)
	}
	r := t.row(m.key)
	if r == nil {
		return errRetry
	}
	t.dependOnRow(r)
	m.creates = r.value == nil
	var at record.Cursor
	if r.value != nil {
		var err error
		if at, err = record.DecodeCursor(r.value); err != nil {
			return err
		}
	}
	switch {
	case m.Expect != nil && *m.Expect != at.Place:
		return &runnel.CursorMovedError{Cursor: m.name, Want: *m.Expect, Place: at.Place}
	case m.Place < at.Place && !m.Rewind:
		return &runnel.CursorMovedError{Cursor: m.name, Want: m.Place, Place: at.Place}
	case m.Place > end && m.seg != nil:
		t.dependOn(m.seg)
		return &runnel.BeyondTailError{Segment: m.seg.addr(), From: runnel.Sequence(m.Place), Tail: runnel.Sequence(end)}
	case m.Place > end:
		t.waitFor(t.sp.newest())
		return &runnel.BeyondHeadError{Space: t.sp.part, From: runnel.Position(m.Place), Head: runnel.Position(end)}
	}
	return nil
}

func (m *moving) stage(t *tx) {
	row := record.Cursor{Place: m.Place, Updated: t.micros}
	t.setRow(m.key, row.Append(nil))
}
