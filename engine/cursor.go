package engine

import (
	"context"
	"fmt"
	"iter"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/record"
	"github.com/runnelhq/runnel/storage"
)

// A cursor is a row that says how far a named reader has come, and is kept where it has to commit. One that a
// reader moves itself commits with what the reader writes: it is in the space that is read, under the id of
// what is read and its own name. That of a subscription commits with its wakes, whatever spaces its streams
// are of: it is in the control partition of the store, under the instance of the subscription and the stream.
// Both are moved under one rule, which is advance.

// Cursor returns the stored place of a reader, or of a subscription. It fails with runnel.ErrNotFound when there
// is no such cursor, or no such segment.
func (e *Engine) Cursor(ctx context.Context, name runnel.CursorName) (runnel.Cursor, error) {
	if err := checkCursor(name); err != nil {
		return runnel.Cursor{}, err
	}
	if id, ok := name.Subscription(); ok {
		return e.subscriptionCursor(ctx, name, id)
	}
	return retry(func() (runnel.Cursor, error) {
		var found runnel.Cursor
		err := e.withCursors(ctx, name.Space, name.Segment, func(sp *space, id uint64, measure measure) error {
			value, err := sp.readRow(ctx, cursorKey(id, name.Name))
			if err != nil {
				return err
			}
			if value == nil {
				return &runnel.CursorNotFoundError{Cursor: name}
			}
			row, err := record.DecodeCursor(value)
			if err != nil {
				return err
			}
			found = cursorOf(name, &row)
			return measure(&found)
		})
		return found, err
	})
}

// measure finds out how far a cursor is behind. It is asked after the cursor has been read, so that none is
// beyond the end.
type measure func(c *runnel.Cursor) error

func cursorOf(name runnel.CursorName, row *record.Cursor) runnel.Cursor {
	c := runnel.Cursor{CursorName: name, Place: row.Place}
	if row.Updated > 0 {
		c.Updated = time.UnixMicro(row.Updated).UTC()
	}
	return c
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
	if id, ok := name.Subscription(); ok {
		if name.Segment == "" {
			return &runnel.InvalidError{What: "cursor name", Rule: fmt.Sprintf("must not begin with %s/ in a space: subscriptions are of segments", runnel.ReservedElement)}
		}
		return checkText("subscription id", id, runnel.MaxSubscriptionBytes)
	}
	return checkText("cursor name", name.Name, runnel.MaxCursorBytes)
}

// withCursors runs f with what the cursors of a segment, or of a space where segment is empty, are kept
// under.
func (e *Engine) withCursors(ctx context.Context, part runnel.Space, segment string, f func(sp *space, id uint64, measure measure) error) error {
	if segment == "" {
		sp, err := e.enter(ctx, part)
		if err != nil {
			return err
		}
		defer sp.leave()
		return f(sp, 0, func(c *runnel.Cursor) error {
			sp.mu.Lock()
			defer sp.mu.Unlock()
			c.End, c.LagBytes = uint64(sp.head), -1
			return nil
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
	return f(seg.sp, st.inc.id, func(c *runnel.Cursor) error {
		now := st
		if latest := seg.durable.Load(); latest.inc == st.inc {
			now = latest
		}
		c.End = uint64(now.tail)
		c.LagBytes, err = e.bytesAfter(ctx, seg, now, runnel.Sequence(c.Place))
		return err
	})
}

// bytesAfter counts the payload bytes that a segment keeps after a place, at the price of reading one entry of
// storage at most.
func (e *Engine) bytesAfter(ctx context.Context, seg *segment, st *state, from runnel.Sequence) (int64, error) {
	earliest, err := e.retain(ctx, seg, st)
	if err != nil {
		return 0, err
	}
	if from = max(from, earliest); from >= st.tail {
		return 0, nil
	}
	if known := st.payloadBytes(from); known >= 0 {
		return known, nil
	}
	for run, err := range e.runs(ctx, seg.sp, st, from, from+1, borrow) {
		if err == nil {
			return int64(st.bytes - run.Place().BytesBefore), nil
		}
		if st.inc.retained.get() > from {
			return 0, errRetry // retention has overtaken it
		}
		return 0, e.explain(ctx, seg.addr(), st, from, seg.sp.moved(ctx, err))
	}
	return 0, nil
}

// Cursors yields the cursors of a segment, or of the timeline of the space where segment is empty, whose
// names have a prefix, in the order of their names, beginning behind the name after, which need not
// exist. Those of the subscriptions that a segment belongs to are among them.
func (e *Engine) Cursors(ctx context.Context, space runnel.Space, segment, prefix, after string) iter.Seq2[runnel.Cursor, error] {
	return func(yield func(runnel.Cursor, error) bool) {
		// No name of a reader's own lies between the names of subscriptions.
		reached := segment == ""
		for c, err := range e.ownCursors(ctx, space, segment, prefix, after) {
			if err == nil && !reached && c.Name > runnel.SubscriptionCursor("") {
				reached = true
				if !e.eachSubscriptionCursor(ctx, space.Segment(segment), prefix, after, yield) {
					return
				}
			}
			if !yield(c, err) || err != nil {
				return
			}
		}
		if !reached {
			e.eachSubscriptionCursor(ctx, space.Segment(segment), prefix, after, yield)
		}
	}
}

// ownCursors yields the cursors that readers move themselves.
func (e *Engine) ownCursors(ctx context.Context, space runnel.Space, segment, prefix, after string) iter.Seq2[runnel.Cursor, error] {
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
	err = e.withCursors(ctx, part, segment, func(sp *space, id uint64, measure measure) error {
		page = nil
		under := cursorKey(id, "")
		for pair, err := range e.driver.Scan(ctx, part, namedRange(under, prefix, after)) {
			if err != nil {
				return storageError(err)
			}
			name := runnel.CursorName{Space: part, Segment: segment, Name: string(pair.Key[len(under):])}
			row, err := record.DecodeCursor(pair.Value)
			if err != nil {
				return err
			}
			page = append(page, cursorOf(name, &row))
		}
		if err := sp.settled(ctx); err != nil {
			return err
		}
		for i := range page {
			if err := measure(&page[i]); err != nil {
				return err
			}
		}
		return nil
	})
	return page, err
}

// DeleteCursor removes a cursor, and returns when that is durable. It fails with runnel.ErrNotFound, and with
// runnel.ErrInvalid for that of a subscription, which goes with it.
func (e *Engine) DeleteCursor(ctx context.Context, name runnel.CursorName) error {
	if err := checkCursor(name); err != nil {
		return err
	}
	if id, ok := name.Subscription(); ok {
		return &runnel.InvalidError{What: "cursor", Rule: fmt.Sprintf("is that of subscription %q, and is deleted with it", id)}
	}
	return again(func() error {
		return e.withCursors(ctx, name.Space, name.Segment, func(sp *space, id uint64, _ measure) error {
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
	err := advance(m.name, at.Place, m.CursorMove, end)
	switch {
	case err == nil || m.Place <= end:
	case m.seg != nil:
		t.dependOn(m.seg)
	default:
		t.waitFor(t.sp.newest())
	}
	return err
}

// advance is the rule for moves of all cursors: it returns why one that is at a place is not to be moved so, nil
// if it is. There is nothing beyond the end.
func advance(name runnel.CursorName, at uint64, m *runnel.CursorMove, end uint64) error {
	switch {
	case m.Expect != nil && *m.Expect != at:
		return &runnel.CursorMovedError{Cursor: name, Want: *m.Expect, Place: at}
	case m.Place < at && !m.Rewind:
		return &runnel.CursorMovedError{Cursor: name, Want: m.Place, Place: at}
	case m.Place > end && name.Segment != "":
		return &runnel.BeyondTailError{Segment: name.Space.Segment(name.Segment), From: runnel.Sequence(m.Place), Tail: runnel.Sequence(end)}
	case m.Place > end:
		return &runnel.BeyondHeadError{Space: name.Space, From: runnel.Position(m.Place), Head: runnel.Position(end)}
	}
	return nil
}

func (m *moving) stage(t *tx) {
	row := record.Cursor{Place: m.Place, Updated: t.micros}
	t.setRow(m.key, row.Append(nil))
}
