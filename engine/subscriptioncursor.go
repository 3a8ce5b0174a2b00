package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/record"
)

// subscriptionCursor returns the cursor of a subscription on one of its streams.
func (e *Engine) subscriptionCursor(ctx context.Context, name runnel.CursorName, id string) (runnel.Cursor, error) {
	s, err := e.subscriber(ctx, name.Space.Store, id)
	if errors.Is(err, runnel.ErrNotFound) {
		return runnel.Cursor{}, &runnel.CursorNotFoundError{Cursor: name}
	}
	if err != nil {
		return runnel.Cursor{}, err
	}
	return s.readCursor(ctx, name)
}

// readCursor returns the durable cursor on a stream. It fails with runnel.ErrNotFound where there is no such
// stream, or none of the subscription.
func (s *subscriber) readCursor(ctx context.Context, name runnel.CursorName) (runnel.Cursor, error) {
	e, addr := s.of.e, name.Space.Segment(name.Segment)
	return retry(func() (found runnel.Cursor, err error) {
		err = e.withCursors(ctx, name.Space, name.Segment, func(_ *space, _ uint64, measure measure) error {
			at, err := s.stand(ctx, addr)
			if err != nil {
				return err
			}
			if !at.linked || at.id == 0 {
				return &runnel.CursorNotFoundError{Cursor: name}
			}
			control, err := e.enter(ctx, controlOf(s.of.store))
			if err != nil {
				return err
			}
			defer control.leave()
			if err := control.settled(ctx); err != nil {
				return err
			}
			found = cursorOf(name, &at.cursor)
			return measure(&found)
		})
		return found, err
	})
}

// eachSubscriptionCursor yields the cursors of the subscriptions that a segment belongs to, as Cursors does. It
// returns false when nobody wants more.
func (e *Engine) eachSubscriptionCursor(ctx context.Context, addr runnel.Segment, prefix, after string, yield func(runnel.Cursor, error) bool) bool {
	ss := e.subscriptions.of(addr.Store)
	if _, err := e.subscriber(ctx, addr.Store, ""); err != nil && !errors.Is(err, runnel.ErrNotFound) {
		yield(runnel.Cursor{}, err)
		return false
	}
	subs, _ := ss.match(addr.Path())
	slices.SortFunc(subs, func(a, b *subscriber) int { return strings.Compare(a.id, b.id) })
	for _, s := range subs {
		name := runnel.CursorName{Space: addr.In(), Segment: addr.Name, Name: runnel.SubscriptionCursor(s.id)}
		if !strings.HasPrefix(name.Name, prefix) || name.Name <= after {
			continue
		}
		c, err := s.readCursor(ctx, name)
		if errors.Is(err, runnel.ErrNotFound) {
			continue
		}
		if !yield(c, err) || err != nil {
			return false
		}
	}
	return true
}

// passed returns up to where all subscriptions of a segment have come for good, and no further than a place.
func (ss *subscribers) passed(ctx context.Context, addr runnel.Segment, upTo runnel.Sequence) (runnel.Sequence, error) {
	if err := ss.current(ctx); err != nil || ss.count.Load() == 0 {
		return upTo, err
	}
	subs, _ := ss.match(addr.Path())
	for _, s := range subs {
		at, err := s.stand(ctx, addr)
		if err != nil {
			return 0, err
		}
		if at.linked {
			upTo = min(upTo, runnel.Sequence(at.cursor.Place))
		}
	}
	if len(subs) == 0 {
		return upTo, nil
	}
	control, err := ss.e.enter(ctx, controlOf(ss.store))
	if err != nil {
		return 0, err
	}
	defer control.leave()
	return upTo, control.settled(ctx)
}

// seeks returns the subscription whose cursors a transaction moves, if it does. It can do nothing else then.
func seeks(tr *runnel.Transaction) (id string, ok bool, err error) {
	for i := range tr.Cursors {
		of, is := runnel.CursorName{Name: tr.Cursors[i].Name}.Subscription()
		if !is {
			continue
		}
		id, ok = of, true
		for j := range tr.Cursors {
			if tr.Cursors[j].Name != tr.Cursors[i].Name {
				ok = false
			}
		}
		if !ok || len(tr.Writes)+len(tr.Items)+len(tr.Fences) > 0 {
			return id, true, &runnel.InvalidError{What: "commit", Rule: fmt.Sprintf("moves cursors of subscription %q, and so can do nothing else", id)}
		}
		return id, true, nil
	}
	return "", false, nil
}

// moveSubscription moves cursors of a subscription by hand. The wake in flight ends, so that nobody who was told of it moves
// them on; another begins if there is work.
func (e *Engine) moveSubscription(ctx context.Context, space runnel.Space, id string, moves []runnel.CursorMove) error {
	names := make([]runnel.CursorName, len(moves))
	for i := range moves {
		names[i] = runnel.CursorName{Space: space, Segment: moves[i].Segment, Name: moves[i].Name}
		if err := checkCursor(names[i]); err != nil {
			return err
		}
		if slices.Contains(names[:i], names[i]) {
			return &runnel.InvalidError{What: "commit", Rule: fmt.Sprintf("moves cursor %s twice", names[i])}
		}
	}
	if most := e.maxAcks(); len(moves) > most {
		return &runnel.InvalidError{What: "commit", Rule: fmt.Sprintf("moves %d cursors of a subscription, the limit is %d", len(moves), most)}
	}
	s, err := e.subscriber(ctx, space.Store, id)
	if errors.Is(err, runnel.ErrNotFound) {
		return &runnel.CursorNotFoundError{Cursor: names[0]}
	}
	if err != nil {
		return err
	}
	if err := s.gate.enter(ctx); err != nil {
		return err
	}
	defer s.gate.leave()
	for overtaken := true; overtaken && err == nil; {
		overtaken, err = s.moveHeld(ctx, names, moves)
	}
	s.kick()
	return err
}

// moveHeld is moveSubscription under the gate. Nothing is moved where another process has overtaken it.
func (s *subscriber) moveHeld(ctx context.Context, names []runnel.CursorName, moves []runnel.CursorMove) (overtaken bool, err error) {
	at := make([]standing, len(moves))
	paths := make([]string, len(moves))
	for i := range moves {
		if at[i], err = s.remind(ctx, names[i]); err != nil {
			return false, err
		}
		paths[i] = at[i].cursor.Path
	}
	err = s.change(ctx, paths, func(c *change) error {
		c.expire()
		if err := c.free(names[0].Space); err != nil {
			return err
		}
		rows := make([]record.Cursor, len(moves))
		for i := range moves {
			have, err := c.cursor(paths[i])
			if err != nil {
				return err
			}
			if overtaken = !at[i].untouched(have); overtaken {
				return nil
			}
			rows[i] = at[i].cursor
			if err := advance(names[i], rows[i].Place, &moves[i], uint64(at[i].tail)); err != nil {
				return err
			}
			rows[i].Place = moves[i].Place
		}
		for i := range rows {
			c.setCursor(&rows[i])
		}
		c.clear()
		c.save()
		return nil
	})
	return overtaken, err
}

// free returns who works on the wake in flight, nil if nobody does.
func (c *change) free(space runnel.Space) error {
	r := &c.row
	held := r.Holder != "" || r.Accepted || c.s.attempting(r, c.t.micros)
	if r.WakeID == "" || !held {
		return nil
	}
	lease := runnel.Lease{
		Space: space, Key: runnel.SubscriptionCursor(c.s.id), Holder: r.Holder, Number: r.Generation, TTL: c.s.config.LeaseTTL,
		Deadline: time.UnixMicro(r.Deadline).UTC(),
	}
	if lease.Holder == "" {
		lease.Holder = string(runnel.Webhook)
	}
	return &runnel.LeaseHeldError{Lease: lease}
}

// remind sees to it that a stream is looked at after its cursor has been moved, also when the engine ends between
// the two, and returns how far the subscription had come on it before. Where processes share storage, another one can
// take away a mark that is believed to stand only when it has appended to the stream itself since, and all of that has
// been worked on, which moves the cursor: who moves it by hand looks whether it is where it was.
func (s *subscriber) remind(ctx context.Context, name runnel.CursorName) (at standing, err error) {
	addr := name.Space.Segment(name.Segment)
	err = again(func() error {
		if at, err = s.stand(ctx, addr); err != nil {
			return err
		}
		seg, err := s.of.e.acquire(ctx, addr)
		if err != nil {
			return err
		}
		defer seg.release()
		return seg.sp.write(ctx, markBytes+endBytes+2*seg.descriptorBytes(), 1+endOps, func(t *tx) error {
			if seg.stale.Load() {
				return errRetry
			}
			if err := t.live(seg, addr); err != nil {
				return err
			}
			if seg.staged.inc.id != at.id {
				t.dependOn(seg)
				return errRetry // another one has its name since
			}
			t.mark(seg)
			t.dependOn(seg)
			return nil
		})
	})
	if err == nil && !at.linked {
		err = &runnel.CursorNotFoundError{Cursor: name}
	}
	return at, err
}
