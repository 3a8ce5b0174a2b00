package engine

import (
	"context"
	"fmt"
	"iter"
	"strings"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/record"
	message "github.com/runnelhq/runnel/state"
)

// TailItems yields what has changed in an item segment after a place, and then every change, as it becomes
// durable, without a seam. An update that the log tells as a deletion and an insertion is one change. id
// and after are as for Read; those of a view from Items continue it. It ends as Tail does.
func (e *Engine) TailItems(ctx context.Context, addr runnel.Segment, id uint64, after runnel.Sequence) iter.Seq2[runnel.ItemBatch, error] {
	return func(yield func(runnel.ItemBatch, error) bool) {
		at := after
		for {
			v, err := e.Read(ctx, addr, id, at)
			if err == nil && !v.Items {
				err = notItems(addr)
			}
			lead := int64(0)
			if err == nil {
				var now runnel.Info
				if now, lead, err = e.itemInfo(ctx, addr); err == nil && now.ID != v.ID {
					err = &runnel.NotFoundError{Segment: addr} // another has been made, whose stamps are later
				}
			}
			if err != nil {
				yield(runnel.ItemBatch{}, err)
				return
			}
			id, at = v.ID, v.From
			c := changeReader{lead: lead}
			for b, err := range v.Batches {
				if err == nil {
					err = c.read(addr, id, b)
				}
				if err != nil {
					yield(runnel.ItemBatch{}, err)
					return
				}
				at = b.Last()
				if !c.give(yield) {
					return
				}
			}
			if !c.flush(yield) || v.Closed {
				return
			}
			if _, err := e.Wait(ctx, addr, id, at); err != nil {
				yield(runnel.ItemBatch{}, err)
				return
			}
		}
	}
}

// TailSpaceItems yields what has changed in the item segments of a space, whose names have a prefix, after
// a position, and then every change, as it becomes durable, in the order of the positions and without a
// seam. The position of a view from SpaceItems continues it. That a segment was deleted is told in its place; what has
// changed in it before, and was not told yet, is not told any more. It ends as TailSpace does, and with
// runnel.ErrTrimmed where changes after the position may have been let go of, which no stored place of the space has
// yet to pass.
func (e *Engine) TailSpaceItems(ctx context.Context, space runnel.Space, groups string, after runnel.Position) iter.Seq2[runnel.ItemBatch, error] {
	return e.tailSpaceItems(ctx, space, groups, after, false)
}

// FollowItems is TailSpaceItems for a reader that moves a cursor of the space, and has come to a position that is not
// before the stored one. It is told what has changed in segments before they were deleted, too: that is kept until
// all cursors of the space have passed the deletion, at most for Config.ItemHistory, or DefaultItemHistory where
// history is kept for ever. It fails with runnel.ErrNotFound when there is no such cursor.
func (e *Engine) FollowItems(ctx context.Context, place runnel.CursorName, groups string, after runnel.Position) iter.Seq2[runnel.ItemBatch, error] {
	return func(yield func(runnel.ItemBatch, error) bool) {
		at, err := e.Cursor(ctx, place)
		if err == nil && (place.Segment != "" || after < runnel.Position(at.Place)) {
			err = &runnel.InvalidError{What: "place", Rule: fmt.Sprintf("must be that of a space, and not beyond %d, from where on it is read", after)}
		}
		if err != nil {
			yield(runnel.ItemBatch{}, err)
			return
		}
		e.tailSpaceItems(ctx, place.Space, groups, after, true)(yield)
	}
}

func (e *Engine) tailSpaceItems(ctx context.Context, space runnel.Space, groups string, after runnel.Position, ended bool) iter.Seq2[runnel.ItemBatch, error] {
	return func(yield func(runnel.ItemBatch, error) bool) {
		fail := func(err error) { yield(runnel.ItemBatch{}, err) }
		t, err := e.ReadSpace(ctx, space, after)
		if err != nil {
			fail(err)
			return
		}
		sp, err := e.follow(ctx, space)
		if err != nil {
			fail(err)
			return
		}
		defer sp.unfollow()
		r := spaceItemReader{e: e, sp: sp, groups: groups, at: t.From, timeline: e.timelineReader(space, t.From), yield: yield}
		r.timeline.ended, r.gone = ended, goneReader{sp: sp, at: t.From}
		for head := t.Head; ; {
			more, err := r.read(ctx, head)
			if err != nil {
				fail(err)
			}
			if err != nil || !more {
				return
			}
			if head, err = e.WaitSpace(ctx, space, head); err != nil {
				fail(err)
				return
			}
		}
	}
}

// spaceItemReader tells what happens to the items of a space.
type spaceItemReader struct {
	e        *Engine
	sp       *space
	groups   string
	timeline *timelineReader
	yield    func(runnel.ItemBatch, error) bool

	at      runnel.Position // everything through it has been told, but for what changes holds back
	changes changeReader
	known   map[uint64]bool // whether the segment is one of items, asked again in each round for its lead
	leads   map[uint64]int64
	gone    goneReader // of deletions that have yet to be told
}

// read tells what there is through a head that is durable, and whether the consumer wants more.
func (r *spaceItemReader) read(ctx context.Context, head runnel.Position) (more bool, err error) {
	r.known, r.leads = make(map[uint64]bool), make(map[uint64]int64)
	r.gone.through = head
	more = r.timeline.read(ctx, head, func(b runnel.SpaceBatch, failed error) bool {
		if err = failed; err != nil {
			return false
		}
		var wants bool
		wants, err = r.batch(ctx, &b)
		return wants && err == nil
	})
	if err == nil {
		err = r.sp.whole(r.at)
	}
	if err != nil || !more {
		return false, err
	}
	if !r.changes.flush(r.yield) {
		return false, nil
	}
	if more, err = r.tellGone(ctx, head); err != nil || !more {
		return false, err
	}
	r.at = head
	return true, nil
}

// batch tells the changes of a batch, and before it what was deleted before.
func (r *spaceItemReader) batch(ctx context.Context, b *runnel.SpaceBatch) (bool, error) {
	// Asked after the batch was read: what is missing before it had been let go of by then.
	if err := r.sp.whole(r.at); err != nil {
		return false, err
	}
	first, last := b.Entry(0).Position, b.Entry(b.Len()-1).Position
	gone, err := r.gone.first(ctx)
	if err != nil {
		return false, err
	}
	if gone != nil && gone.at < first {
		if !r.changes.flush(r.yield) {
			return false, nil
		}
		if more, err := r.tellGone(ctx, first); err != nil || !more {
			return false, err
		}
	}
	r.at = last
	if !strings.HasPrefix(b.Segment.Name, r.groups) {
		return true, nil
	}
	items, told := r.known[b.ID]
	if !told {
		var lead int64
		if items, lead, err = r.look(ctx, b); err != nil {
			return false, err
		}
		r.known[b.ID], r.leads[b.ID] = items, lead
	}
	if !items {
		return true, nil
	}
	if held := r.changes.pending; held != nil && held.id != b.ID && !r.changes.flush(r.yield) {
		return false, nil
	}
	r.changes.lead = r.leads[b.ID]
	if err := r.changes.read(b.Segment, b.ID, b.Batch); err != nil {
		return false, err
	}
	return r.changes.give(r.yield), nil
}

// look tells whether a batch is of a segment of items that is to be told, and what its stamps are ahead.
func (r *spaceItemReader) look(ctx context.Context, b *runnel.SpaceBatch) (items bool, lead int64, err error) {
	info, lead, err := r.e.itemInfo(ctx, b.Segment)
	switch {
	case err != nil && !isGone(err):
		return false, 0, err
	case err == nil && info.ID == b.ID:
		return info.Items, lead, nil
	case !r.timeline.ended:
		return false, 0, nil
	}
	ended, err := r.sp.ended(ctx, b.ID)
	if err != nil || ended == nil {
		return false, 0, err
	}
	return true, ended.Lead, nil
}

// tellGone tells of deletions before a position or at it.
func (r *spaceItemReader) tellGone(ctx context.Context, through runnel.Position) (more bool, err error) {
	for {
		g, err := r.gone.first(ctx)
		if err != nil || g == nil || g.at > through {
			return err == nil, err
		}
		r.gone.take()
		if !strings.HasPrefix(g.Name, r.groups) {
			continue
		}
		b := runnel.ItemBatch{Segment: r.sp.part.Segment(g.Name), ID: g.Segment, LastPosition: g.at, Deleted: true, Stamp: g.Stamp}
		if !r.yield(b, nil) {
			return false, nil
		}
	}
}

// changeReader turns entries into changes. A deletion is held back until it is known whether an insertion
// of the same commit follows it.
type changeReader struct {
	lead    int64
	batch   runnel.ItemBatch
	pending *heldDelete
}

type heldDelete struct {
	addr        runnel.Segment
	id          uint64
	change      runnel.ItemChange
	transaction runnel.Position
	expired     bool
}

// read takes in the entries of a batch.
func (c *changeReader) read(addr runnel.Segment, id uint64, b runnel.Batch) error {
	c.batch = runnel.ItemBatch{Segment: addr, ID: id, Lead: c.lead, Changes: make([]runnel.ItemChange, 0, b.Len()+1)}
	for i := range b.Len() {
		entry := b.Entry(i)
		x, err := parseEntry(entry.Payload, entry.Metadata)
		if err != nil {
			return fmt.Errorf("%w: entry %d of item segment %d: %w", record.ErrCorrupt, entry.Sequence, id, err)
		}
		c.change(addr, id, &entry, &x)
	}
	return nil
}

func (c *changeReader) change(addr runnel.Segment, id uint64, entry *runnel.Entry, x *itemEntry) {
	next := runnel.ItemChange{
		ItemKey: x.item(), Sequence: entry.Sequence, Position: entry.Position, Time: entry.Time,
		TxID: x.TxID, Stamp: runnel.ItemStamp(c.lead, entry.Sequence),
	}
	held := c.pending
	c.pending = nil
	if x.Operation == message.Delete {
		if held != nil {
			c.add(held.change)
		}
		next.Op = runnel.ItemDeleted
		if x.OldValue != nil {
			next.Old = message.Unwrap(x.OldValue)
		}
		c.pending = &heldDelete{addr: addr, id: id, change: next, transaction: entry.Transaction, expired: x.expired}
		return
	}
	next.Op, next.Value = runnel.ItemUpdated, message.Unwrap(x.Value)
	if x.expires > 0 {
		next.Expires = time.UnixMicro(x.expires).UTC()
	}
	switch {
	case held == nil && x.Operation == message.Insert:
		next.Op = runnel.ItemCreated
	case held == nil:
	case held.id == id && held.change.ItemKey == next.ItemKey && held.transaction == entry.Transaction && !held.expired:
		next.Old = held.change.Old
	default:
		c.add(held.change)
		if x.Operation == message.Insert {
			next.Op = runnel.ItemCreated
		}
	}
	c.add(next)
}

func (c *changeReader) add(change runnel.ItemChange) {
	c.batch.Changes = append(c.batch.Changes, change)
	c.batch.Last, c.batch.LastPosition = change.Sequence, change.Position
}

// give yields what has been read, but for what is held back.
func (c *changeReader) give(yield func(runnel.ItemBatch, error) bool) bool {
	b := c.batch
	c.batch = runnel.ItemBatch{}
	return len(b.Changes) == 0 || yield(b, nil)
}

// flush yields what was held back, when nothing of its commit can follow any more.
func (c *changeReader) flush(yield func(runnel.ItemBatch, error) bool) bool {
	held := c.pending
	if held == nil {
		return true
	}
	c.pending = nil
	c.batch = runnel.ItemBatch{Segment: held.addr, ID: held.id, Lead: c.lead}
	c.add(held.change)
	return c.give(yield)
}
