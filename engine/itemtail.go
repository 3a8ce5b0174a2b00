package engine

import (
	"context"
	"errors"
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
				_, lead, err = e.itemInfo(ctx, addr)
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
// seam. The position of a view from SpaceItems continues it. A segment that is deleted falls silent; one
// that is made again under its name has another ID. It ends as TailSpace does.
func (e *Engine) TailSpaceItems(ctx context.Context, space runnel.Space, groups string, after runnel.Position) iter.Seq2[runnel.ItemBatch, error] {
	return func(yield func(runnel.ItemBatch, error) bool) {
		t, err := e.ReadSpace(ctx, space, after)
		if err != nil {
			yield(runnel.ItemBatch{}, err)
			return
		}
		sp, err := e.follow(ctx, space)
		if err != nil {
			yield(runnel.ItemBatch{}, err)
			return
		}
		defer sp.unfollow()
		r := e.timelineReader(space, t.From)
		for head := t.Head; ; {
			if !e.tellSpace(ctx, r, groups, head, yield) {
				return
			}
			if head, err = e.WaitSpace(ctx, space, head); err != nil {
				yield(runnel.ItemBatch{}, err)
				return
			}
		}
	}
}

// tellSpace yields the changes through a head that is durable, and tells whether the consumer wants more.
func (e *Engine) tellSpace(ctx context.Context, r *timelineReader, groups string, head runnel.Position, yield func(runnel.ItemBatch, error) bool) bool {
	var c changeReader
	known := make(map[uint64]bool) // whether the segment is one of items, asked again in each round for its lead
	leads := make(map[uint64]int64)
	fail := func(err error) bool {
		yield(runnel.ItemBatch{}, err)
		return false
	}
	more := r.read(ctx, head, func(b runnel.SpaceBatch, err error) bool {
		if err != nil {
			return fail(err)
		}
		if !strings.HasPrefix(b.Segment.Name, groups) {
			return true
		}
		items, told := known[b.ID]
		if !told {
			info, lead, err := e.itemInfo(ctx, b.Segment)
			if err != nil && !errors.Is(err, runnel.ErrNotFound) && !errors.Is(err, runnel.ErrSoftDeleted) {
				return fail(err)
			}
			items = err == nil && info.Items && info.ID == b.ID
			known[b.ID], leads[b.ID] = items, lead
		}
		if !items {
			return true
		}
		if c.pending != nil && c.pending.id != b.ID && !c.flush(yield) {
			return false
		}
		c.lead = leads[b.ID]
		if err := c.read(b.Segment, b.ID, b.Batch); err != nil {
			return fail(err)
		}
		return c.give(yield)
	})
	return more && c.flush(yield)
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
