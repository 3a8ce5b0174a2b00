package engine

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"slices"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/record"
	"github.com/runnelhq/runnel/storage"
)

// An item whose time is over is deleted by an entry of its own, which is durable before anybody is told. A
// reader who finds one writes that entry; and the cleaner does, at the time, for those who wait.

// expireItems deletes those of the items of a segment whose time is over. One of a closed segment stays.
func (e *Engine) expireItems(ctx context.Context, addr runnel.Segment, keys []runnel.ItemKey) error {
	for len(keys) > 0 {
		n := min(e.fewItems(), len(keys))
		w := runnel.ItemWrites{Segment: addr.Name}
		for _, key := range keys[:n] {
			w.Writes = append(w.Writes, runnel.ItemWrite{ItemKey: key})
		}
		keys = keys[n:]
		var a [1]appending
		if err := e.itemWriting(&a[0], &w); err != nil {
			return err
		}
		a[0].o, a[0].expiring = new(runnel.AppendOptions), true
		err := e.commitAll(ctx, addr.In(), &transaction{appends: a[:]})
		switch {
		case errors.Is(err, runnel.ErrNotFound), errors.Is(err, runnel.ErrSoftDeleted), errors.Is(err, runnel.ErrClosed):
			return nil
		case err != nil:
			return err
		}
	}
	return nil
}

// fewItems is how many items surely fit into one commit.
func (e *Engine) fewItems() int {
	n := 64
	if most := e.limits.MaxBatchOps; most > 0 {
		n = min(n, max((most-commitRowOps-16)/(2*itemRowOps+2), 1))
	}
	if most := e.limits.MaxBatchBytes; most > 0 {
		n = min(n, max(most/(4*itemRowBytes), 1))
	}
	return n
}

// farItem is how far ahead a time is that no timer is set for: sweeps come by more often.
const farItem = time.Hour

// itemDue says when an item of a partition is to be looked at, in microseconds. It is called with the lock
// of the space held.
func (c *cleaner) itemDue(part storage.Partition, micros int64) {
	if micros > c.e.now()+farItem.Microseconds() {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if at, ok := c.items[part]; ok && at <= micros {
		return
	}
	c.items[part] = micros
	if c.nextItem == 0 || micros < c.nextItem {
		c.nextItem = micros
		select {
		case c.rewind <- struct{}{}:
		default:
		}
	}
}

// dueItems takes the partitions that have items to look at by now.
func (c *cleaner) dueItems(micros int64) []storage.Partition {
	c.mu.Lock()
	defer c.mu.Unlock()
	var due []storage.Partition
	c.nextItem = 0
	for part, at := range c.items {
		if at <= micros {
			due = append(due, part)
			delete(c.items, part)
			continue
		}
		if c.nextItem == 0 || at < c.nextItem {
			c.nextItem = at
		}
	}
	slices.SortFunc(due, comparePartitions) // so that a simulated run can be repeated
	return due
}

// untilItem is how long it is until an item is to be looked at; ok is false if there is none.
func (c *cleaner) untilItem() (wait time.Duration, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.nextItem == 0 {
		return 0, false
	}
	micros := min(max(c.nextItem-c.e.now(), 1000), time.Hour.Microseconds())
	return time.Duration(micros) * time.Microsecond, true
}

// itemsWork looks at the items whose time has come.
func (c *cleaner) itemsWork(ctx context.Context) {
	for _, part := range c.dueItems(c.e.now()) {
		c.report(ctx, "items", part.Name, c.sweepItems(ctx, part))
	}
}

// sweepItems looks at the items of a partition whose time has come, and notes when the next one's is.
func (c *cleaner) sweepItems(ctx context.Context, part storage.Partition) error {
	until := c.e.now()
	r := kindRange(keyItemDue)
	for {
		r.Limit = sweepPage
		var due [][]byte
		for pair, err := range c.e.driver.Scan(ctx, part, r) {
			if err != nil {
				return err
			}
			micros := int64(binary.BigEndian.Uint64(pair.Key[1:]))
			if micros > until {
				c.itemDue(part, micros)
				return c.lookAtItems(ctx, part, due)
			}
			due = append(due, bytes.Clone(pair.Key))
		}
		if err := c.lookAtItems(ctx, part, due); err != nil || len(due) < sweepPage {
			return err
		}
		r.From = append(due[len(due)-1], 0)
	}
}

// lookAtItems ends the items that rows say are due, and drops what is left of those that were deleted a
// while ago.
func (c *cleaner) lookAtItems(ctx context.Context, part storage.Partition, due [][]byte) error {
	byID := make(map[uint64][][]byte)
	var ids []uint64
	for _, key := range due {
		id := binary.BigEndian.Uint64(key[9:])
		if byID[id] == nil {
			ids = append(ids, id)
		}
		byID[id] = append(byID[id], key)
	}
	for _, id := range ids {
		if err := again(func() error { return c.lookAtGroup(ctx, part, id, byID[id]) }); err != nil {
			return err
		}
	}
	return nil
}

func (c *cleaner) lookAtGroup(ctx context.Context, part storage.Partition, id uint64, due [][]byte) error {
	sp, err := c.e.enter(ctx, part)
	if err != nil {
		return err
	}
	defer sp.leave()
	name, err := sp.readRow(ctx, nameKey(id))
	if err != nil {
		return err
	}
	if name == nil {
		return sp.removeRows(ctx, due) // the segment is gone
	}
	keys := make([]runnel.ItemKey, len(due))
	for i, key := range due {
		keys[i] = itemOfKey(append([]byte{keyItem}, key[9:]...))
	}
	if err := c.e.expireItems(ctx, part.Segment(string(name)), keys); err != nil {
		return err
	}
	return c.dropTombstones(ctx, part.Segment(string(name)), id, due)
}

// dropTombstones removes the rows of items that were deleted a while ago, and what says so. The row of the
// last entry stays, for what it says about the segment.
func (c *cleaner) dropTombstones(ctx context.Context, addr runnel.Segment, id uint64, due [][]byte) error {
	seg, err := c.e.acquire(ctx, addr)
	if err != nil {
		return err
	}
	defer seg.release()
	for len(due) > 0 {
		page := due[:min(len(due), c.e.fewItems())]
		due = due[len(page):]
		rows := heldRows{sp: seg.sp}
		defer rows.release()
		for _, key := range page {
			if err := rows.load(ctx, append([]byte{keyItem}, key[9:]...)); err != nil {
				return err
			}
		}
		// Two rows an item, and one more for the last of the segment.
		err := seg.sp.write(ctx, (2*len(page)+1)*storage.MaxKeyBytes+itemRowBytes, 2*len(page)+1, func(t *tx) error {
			st := seg.staged
			if seg.stale.Load() {
				return errRetry
			}
			if st.desc == nil || st.inc.id != id {
				return nil // the next sweep finds that it is gone
			}
			for _, key := range page {
				if err := t.dropTombstone(st, key); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// dropTombstone removes the row of an item that was deleted a while ago.
func (t *tx) dropTombstone(st *state, due []byte) error {
	key := append([]byte{keyItem}, due[9:]...)
	r := t.row(key)
	if r == nil {
		return errRetry
	}
	at := int64(binary.BigEndian.Uint64(due[1:]))
	if r.value == nil {
		t.remove(due)
		return nil
	}
	x, err := record.DecodeItem(r.value)
	switch {
	case err != nil:
		return err
	case x.Expires != at, !x.Deleted:
		if x.Expires != at || st.desc.Closed {
			t.remove(due) // the item has another time since, or none
		}
		return nil
	case x.Version == st.tail:
		x.Expires = t.micros + tombstoneLife.Microseconds()
		t.setRow(key, x.Append(nil))
		t.put(itemDueKey(x.Expires, key), nil)
	default:
		t.setRow(key, nil)
	}
	t.remove(due)
	return nil
}
