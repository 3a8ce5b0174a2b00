package crash

import (
	"context"
	"errors"
	"iter"
	"slices"
	"testing"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/record"
	"github.com/runnelhq/runnel/storage"
)

// TestTheMachineryCanSeeItems breaks items in ways that the simulator must notice.
func TestTheMachineryCanSeeItems(t *testing.T) { see(t, itemMutations, newItemWorld) }

// underItems is the workload that mistakes in items are looked for in.
var underItems = profile{name: "items"}

// itemMutations are ways in which items could be wrong. Rows of items begin with an i; see engine/keys.go.
var itemMutations = []mutation{
	{name: "the row of an item is not in the commit of its entry", under: underItems, make: brokenCommits(func(ctx context.Context, d storage.Driver, p storage.Partition, b *storage.Batch) (storage.Version, error) {
		rows := *b
		rows.Ops = slices.DeleteFunc(slices.Clone(b.Ops), func(o storage.Op) bool { return o.Key[0] != 'i' })
		if rest := len(b.Ops) - len(rows.Ops); len(rows.Ops) == 0 || rest == 0 {
			return d.Commit(ctx, p, b)
		}
		if _, err := without(func(o *storage.Op) bool { return o.Key[0] == 'i' })(ctx, d, p, b); err != nil {
			return 0, err
		}
		return d.Commit(ctx, p, &rows)
	})},
	{name: "a condition is checked against what is durable", under: underItems, make: brokenItems(func(l itemLog) itemLog { return hasty{l} })},
	{name: "writes to several groups are one commit each", under: underItems, make: brokenItems(func(l itemLog) itemLog { return piecemeal{l} })},
	{name: "a deleted item leaves nothing behind, by which a reader would tell that the deletion is not durable", under: underItems, make: brokenCommits(func(ctx context.Context, d storage.Driver, p storage.Partition, b *storage.Batch) (storage.Version, error) {
		c := copied(b)
		for i := range c.Ops {
			if o := &c.Ops[i]; o.Key[0] == 'i' && !o.Delete {
				if x, err := record.DecodeItem(slices.Concat(o.Head, o.Body)); err == nil && x.Deleted {
					*o = storage.Op{Key: o.Key, Delete: true}
				}
			}
		}
		return d.Commit(ctx, p, c)
	})},
	{name: "a deletion of an item does not reach the tail", under: underItems, make: brokenItems(func(l itemLog) itemLog { return undying{l} })},
	{name: "a write that is repeated under its key is done again", under: underItems, make: brokenItems(func(l itemLog) itemLog { return keyless{l} })},
	{name: "a new reader is given the state but for an item", under: underItems, make: brokenItems(func(l itemLog) itemLog { return leavingOut{l} })},
	{name: "stamps are reckoned from the clock again after a restart", under: underItems, make: brokenReads(func(key, value []byte, _ storage.Range) ([]byte, bool) {
		if key[0] != 'i' {
			return value, true
		}
		x, err := record.DecodeItem(value)
		must(err)
		x.Lead = 0
		return x.Append(nil), true
	})},
	{name: "an expiry is taken for over too early", under: underItems, make: brokenReads(func(key, value []byte, _ storage.Range) ([]byte, bool) {
		if key[0] != 'i' {
			return value, true
		}
		x, err := record.DecodeItem(value)
		must(err)
		if !x.Deleted && x.Expires > 0 {
			x.Expires -= 1_000_000
		}
		return x.Append(nil), true
	})},
	{name: "the place of a trigger is stored before its handler has returned", under: underItems, make: brokenItems(func(l itemLog) itemLog { return forward{l} })},
	{name: "a trigger is not told what a group had that is deleted", under: underItems, make: brokenItems(func(l itemLog) itemLog { return unremembering{l} })},
	{name: "a trigger is not told that a group was deleted", under: underItems, make: brokenItems(func(l itemLog) itemLog { return hushing{l} })},
	{name: "a trigger goes on from the end of the stream", under: underItems, make: brokenItems(func(l itemLog) itemLog { return forgetful{l} })},
}

// brokenItems makes a variant of the log below items.
func brokenItems(make func(itemLog) itemLog) func() variant {
	return func() variant { return variant{items: make} }
}

// hasty looks at an item before it writes, in place of saying what it expects.
type hasty struct{ itemLog }

func (l hasty) WriteItems(ctx context.Context, space runnel.Space, writes ...runnel.ItemWrites) ([]runnel.ItemsWritten, error) {
	for i := range writes {
		writes[i].Writes = slices.Clone(writes[i].Writes)
		for j := range writes[i].Writes {
			w := &writes[i].Writes[j]
			if w.IfVersion == nil {
				continue
			}
			it, err := l.Item(ctx, space.Segment(writes[i].Segment), w.ItemKey)
			if err != nil && !errors.Is(err, runnel.ErrNotFound) {
				return nil, err
			}
			if it.Version != *w.IfVersion {
				return nil, &runnel.ItemMovedError{Segment: space.Segment(writes[i].Segment), Item: w.ItemKey, Want: w.IfVersion, Have: it.Version}
			}
			w.IfVersion = nil
		}
	}
	return l.itemLog.WriteItems(ctx, space, writes...)
}

// piecemeal writes to one group after the other.
type piecemeal struct{ itemLog }

func (l piecemeal) WriteItems(ctx context.Context, space runnel.Space, writes ...runnel.ItemWrites) ([]runnel.ItemsWritten, error) {
	var all []runnel.ItemsWritten
	for _, w := range writes {
		done, err := l.itemLog.WriteItems(ctx, space, w)
		if err != nil {
			return nil, err
		}
		all = append(all, done...)
	}
	return all, nil
}

// undying tells nobody of deletions.
type undying struct{ itemLog }

func (l undying) TailItems(ctx context.Context, seg runnel.Segment, id uint64, after runnel.Sequence) iter.Seq2[runnel.ItemBatch, error] {
	return func(yield func(runnel.ItemBatch, error) bool) {
		for b, err := range l.itemLog.TailItems(ctx, seg, id, after) {
			b.Changes = slices.DeleteFunc(slices.Clone(b.Changes), func(c runnel.ItemChange) bool { return c.Op == runnel.ItemDeleted })
			if !yield(b, err) {
				return
			}
		}
	}
}

// forward stores a cursor further than it was told to.
type forward struct{ itemLog }

func (l forward) Transact(ctx context.Context, space runnel.Space, t runnel.Transaction) (runnel.Committed, error) {
	if info, err := l.StatSpace(ctx, space); err == nil {
		for i := range t.Cursors {
			t.Cursors[i].Place = uint64(info.Head)
		}
	}
	return l.itemLog.Transact(ctx, space, t)
}

// forgetful knows no cursor.
type forgetful struct{ itemLog }

func (forgetful) Cursor(context.Context, runnel.CursorName) (runnel.Cursor, error) {
	return runnel.Cursor{}, runnel.ErrNotFound
}

// unremembering follows as one who has no place.
type unremembering struct{ itemLog }

func (l unremembering) FollowItems(ctx context.Context, place runnel.CursorName, groups string, after runnel.Position) iter.Seq2[runnel.ItemBatch, error] {
	return l.TailSpaceItems(ctx, place.Space, groups, after)
}

// hushing tells nobody of deleted groups.
type hushing struct{ itemLog }

func (l hushing) FollowItems(ctx context.Context, place runnel.CursorName, groups string, after runnel.Position) iter.Seq2[runnel.ItemBatch, error] {
	return func(yield func(runnel.ItemBatch, error) bool) {
		for b, err := range l.itemLog.FollowItems(ctx, place, groups, after) {
			if !b.Deleted && !yield(b, err) {
				return
			}
		}
	}
}

// leavingOut gives new readers a state without its first item.
type leavingOut struct{ itemLog }

func (l leavingOut) ReadStart(ctx context.Context, seg runnel.Segment) (runnel.View, error) {
	v, err := l.itemLog.ReadStart(ctx, seg)
	if state := v.State; state != nil {
		v.State = func(yield func([]byte, error) bool) {
			first := true
			for payload, err := range state {
				if !first && !yield(payload, err) {
					return
				}
				first = false
			}
		}
	}
	return v, err
}

// keyless knows no idempotency keys.
type keyless struct{ itemLog }

func (l keyless) WriteItems(ctx context.Context, space runnel.Space, writes ...runnel.ItemWrites) ([]runnel.ItemsWritten, error) {
	writes = slices.Clone(writes)
	for i := range writes {
		writes[i].Key = ""
	}
	return l.itemLog.WriteItems(ctx, space, writes...)
}
