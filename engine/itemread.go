package engine

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/record"
	message "github.com/runnelhq/runnel/state"
	"github.com/runnelhq/runnel/storage"
)

// Items are read from their rows, which storage may show before they are durable, some of them earlier
// than others. So a reader notes the durable tail, reads the rows, and brings them up to the durable tail of
// after that with the entries in between. A row of a later version than that is waited for first.

// Item returns an item. It fails with runnel.ErrNotFound when there is no such item, or no such segment,
// and with ErrInvalid when the segment is not one of items.
func (e *Engine) Item(ctx context.Context, addr runnel.Segment, key runnel.ItemKey) (runnel.Item, error) {
	key = key.WithDefaults()
	if err := message.CheckKey(key); err != nil {
		return runnel.Item{}, err
	}
	return retry(func() (runnel.Item, error) { return e.tryItem(ctx, addr, key) })
}

func (e *Engine) tryItem(ctx context.Context, addr runnel.Segment, key runnel.ItemKey) (runnel.Item, error) {
	seg, err := e.find(ctx, addr)
	if err != nil {
		return runnel.Item{}, err
	}
	defer seg.release()
	st, err := e.openItems(ctx, seg)
	if err != nil {
		return runnel.Item{}, err
	}
	if err := e.Err(); err != nil {
		return runnel.Item{}, err // storage may show what it failed to keep
	}
	row, err := seg.sp.readItem(ctx, st, key)
	if errors.Is(err, storage.ErrKeyNotFound) {
		return runnel.Item{}, &runnel.ItemNotFoundError{Segment: addr, Item: key}
	}
	if err != nil {
		return runnel.Item{}, err
	}
	if row.Version > st.tail {
		if err := seg.sp.settled(ctx); err != nil {
			return runnel.Item{}, err
		}
		now := seg.durable.Load()
		if now.inc != st.inc || row.Version > now.tail {
			return runnel.Item{}, errRetry
		}
	}
	switch {
	case row.Deleted:
		return runnel.Item{}, &runnel.ItemNotFoundError{Segment: addr, Item: key}
	case row.Expires > 0 && row.Expires <= e.now() && !st.desc.Closed:
		if err := e.expireItems(ctx, addr, []runnel.ItemKey{key}); err != nil {
			return runnel.Item{}, err
		}
		return runnel.Item{}, errRetry
	}
	return itemOf(key, &row), nil
}

// readItem reads the row of an item: from memory, where the latest one is if it was written not long ago, or
// from storage, which may show one that is not durable.
func (sp *space) readItem(ctx context.Context, st *state, key runnel.ItemKey) (record.Item, error) {
	at := itemKey(st.inc.id, key)
	var value []byte
	sp.mu.Lock()
	if r := sp.rows.known[string(at)]; r != nil {
		value = r.value
	}
	sp.mu.Unlock()
	if value != nil {
		if row, err := record.DecodeItem(value); err != nil || row.Version <= st.tail {
			return row, err
		}
	}
	value, err := sp.e.driver.Get(ctx, sp.part, at)
	if err != nil {
		return record.Item{}, storageError(err)
	}
	return record.DecodeItem(value)
}

// openItems returns the durable state of an item segment for a reader.
func (e *Engine) openItems(ctx context.Context, seg *segment) (*state, error) {
	from := runnel.Latest
	st, err := e.open(ctx, seg, 0, &from)
	if err != nil {
		return nil, err
	}
	if !st.desc.Items {
		return nil, notItems(seg.addr())
	}
	return st, nil
}

func notItems(addr runnel.Segment) error {
	return &runnel.InvalidError{What: fmt.Sprintf("segment %q", addr.String()), Rule: "is not an item segment"}
}

// Items returns items of a segment as of one moment, which Info.Tail of the view says: what follows that
// place is what has changed since. It renews the TTL. It fails with the errors of Item, and with
// runnel.ErrTooLarge when the items take more than a view may hold, and no page of them is asked for.
func (e *Engine) Items(ctx context.Context, addr runnel.Segment, q runnel.ItemQuery) (runnel.ItemView, error) {
	if q.Type == "" {
		q.Type = runnel.DefaultItemType
	}
	switch {
	case q.Type == runnel.AllItemTypes && q.After != "":
		return runnel.ItemView{}, &runnel.InvalidError{What: "listing of items of all types", Rule: "cannot continue after a key"}
	case len(q.Type) > runnel.MaxItemTypeBytes:
		return runnel.ItemView{}, &runnel.TooLargeError{What: "type of an item", Limit: runnel.MaxItemTypeBytes, Got: int64(len(q.Type))}
	case len(q.Prefix) > runnel.MaxItemKeyBytes || len(q.After) > runnel.MaxItemKeyBytes:
		return runnel.ItemView{}, &runnel.TooLargeError{What: "key of an item", Limit: runnel.MaxItemKeyBytes, Got: int64(max(len(q.Prefix), len(q.After)))}
	}
	return retry(func() (runnel.ItemView, error) { return e.tryItems(ctx, addr, &q) })
}

func (e *Engine) tryItems(ctx context.Context, addr runnel.Segment, q *runnel.ItemQuery) (runnel.ItemView, error) {
	seg, err := e.find(ctx, addr)
	if err != nil {
		return runnel.ItemView{}, err
	}
	defer seg.release()
	st, err := e.openItems(ctx, seg)
	if err != nil {
		return runnel.ItemView{}, err
	}
	tb := itemTable{q: q, id: st.inc.id}
	if err := tb.scan(ctx, seg.sp); err != nil {
		return runnel.ItemView{}, err
	}
	if tb.latest > st.tail || e.Err() != nil {
		if err := seg.sp.settled(ctx); err != nil {
			return runnel.ItemView{}, err
		}
	}
	// Entering once more brings what other processes have written meanwhile.
	again, err := e.acquire(ctx, addr)
	if err != nil {
		return runnel.ItemView{}, err
	}
	defer again.release()
	now := again.durable.Load()
	if now.inc == nil || now.inc.id != st.inc.id || tb.latest > now.tail {
		return runnel.ItemView{}, errRetry
	}
	for run, err := range e.runs(ctx, again.sp, now, st.tail, now.tail, keep) {
		if err != nil {
			return runnel.ItemView{}, again.overtaken(ctx, now, st.tail, err)
		}
		if err := tb.replay(run); err != nil {
			return runnel.ItemView{}, err
		}
	}
	micros := e.now()
	if now.desc.Closed {
		micros = 0 // no entry can tell of an expiry any more
	}
	v, over := tb.view(now.info(addr), now.lead, micros)
	if len(over) > 0 {
		if err := e.expireItems(ctx, addr, over); err != nil {
			return runnel.ItemView{}, err
		}
		return runnel.ItemView{}, errRetry
	}
	return v, nil
}

// itemTable is rows of the items of a segment, in memory.
type itemTable struct {
	q      *runnel.ItemQuery
	id     uint64
	rows   []itemRow // in the order of their keys
	latest runnel.Sequence
	// more says that there are rows behind end, which is the last one's key.
	more bool
	end  []byte
}

type itemRow struct {
	key []byte // in storage
	record.Item
}

// bounds are the keys in storage between which the table is.
func (tb *itemTable) bounds() storage.Range {
	if tb.q.Type == runnel.AllItemTypes {
		return segmentRange(keyItem, tb.id)
	}
	under := itemKey(tb.id, runnel.ItemKey{Type: tb.q.Type})
	r := namedRange(under, tb.q.Prefix, tb.q.After)
	r.Limit = 0
	return r
}

// scan reads the rows.
func (tb *itemTable) scan(ctx context.Context, sp *space) error {
	live, size := 0, int64(0)
	for pair, err := range sp.e.driver.Scan(ctx, sp.part, tb.bounds()) {
		if err != nil {
			return storageError(err)
		}
		if tb.q.Type == runnel.AllItemTypes && !tb.holds(pair.Key) {
			continue
		}
		if tb.q.Limit > 0 && live == tb.q.Limit {
			tb.more = true
			break
		}
		size += int64(len(pair.Key) + len(pair.Value))
		if most := sp.e.cfg.MaxViewBytes; size > most && len(tb.rows) > 0 {
			if tb.q.Limit == 0 {
				return viewTooLarge(most, size)
			}
			tb.more = true
			break
		}
		row := itemRow{key: bytes.Clone(pair.Key)}
		if row.Item, err = record.DecodeItem(bytes.Clone(pair.Value)); err != nil {
			return err
		}
		tb.latest = max(tb.latest, row.Version)
		tb.rows = append(tb.rows, row)
		tb.end = row.key
		if !row.Deleted {
			live++
		}
	}
	return nil
}

// viewTooLarge says that a view would hold more than it may.
func viewTooLarge(most, got int64) error {
	return &runnel.TooLargeError{What: "items that are read at once, and not in pages", Limit: most, Got: got}
}

// holds tells whether a key in storage is one of the table's.
func (tb *itemTable) holds(key []byte) bool {
	if tb.more && bytes.Compare(key, tb.end) > 0 {
		return false
	}
	item := itemOfKey(key)
	return (tb.q.Type == runnel.AllItemTypes || item.Type == tb.q.Type) &&
		strings.HasPrefix(item.Key, tb.q.Prefix) && (tb.q.After == "" || item.Key > tb.q.After)
}

// replay brings the rows up to the entries of a run.
func (tb *itemTable) replay(run *record.Run) error {
	for i := range run.Len() {
		entry := run.Entry(i)
		x, err := parseEntry(entry.Payload, entry.Metadata)
		if err != nil {
			return fmt.Errorf("%w: entry %d of item segment %d: %w", record.ErrCorrupt, entry.Sequence, tb.id, err)
		}
		tb.apply(&x, entry.Sequence, entry.Time.UnixMicro())
	}
	return nil
}

// apply folds one entry into the table, which may hold it already.
func (tb *itemTable) apply(x *itemEntry, version runnel.Sequence, micros int64) {
	key := itemKey(tb.id, x.item())
	if !tb.holds(key) {
		return
	}
	at, found := slices.BinarySearchFunc(tb.rows, key, func(r itemRow, key []byte) int { return bytes.Compare(r.key, key) })
	if !found {
		next := x.fold(nil, version, micros, 0)
		tb.rows = slices.Insert(tb.rows, at, itemRow{key: key, Item: next})
		return
	}
	if row := &tb.rows[at]; row.Version < version {
		row.Item = x.fold(&row.Item, version, micros, 0)
	}
}

// view shows the table, and says whose time is over at a moment.
func (tb *itemTable) view(in runnel.Info, lead, micros int64) (v runnel.ItemView, over []runnel.ItemKey) {
	v = runnel.ItemView{Info: in, Lead: lead, More: tb.more}
	v.Items = make([]runnel.Item, 0, len(tb.rows))
	for i := range tb.rows {
		row := &tb.rows[i]
		if row.Deleted {
			continue
		}
		key := itemOfKey(row.key)
		if row.Expires > 0 && row.Expires <= micros {
			over = append(over, key)
		}
		v.Items = append(v.Items, itemOf(key, &row.Item))
	}
	if tb.more {
		v.Next = itemOfKey(tb.end).Key
	}
	return v, over
}

// SpaceItems returns the items of all item segments of a space whose names have a prefix, as of one
// position: what follows it in the space is what has changed since. It fails with the errors of Items.
func (e *Engine) SpaceItems(ctx context.Context, space runnel.Space, groups string, q runnel.ItemQuery) (runnel.SpaceItemView, error) {
	if q.Limit > 0 || q.After != "" {
		return runnel.SpaceItemView{}, &runnel.InvalidError{What: "items of a space", Rule: "are not read in pages"}
	}
	if q.Type == "" {
		q.Type = runnel.DefaultItemType
	}
	return retry(func() (runnel.SpaceItemView, error) { return e.trySpaceItems(ctx, space, groups, &q) })
}

func (e *Engine) trySpaceItems(ctx context.Context, space runnel.Space, groups string, q *runnel.ItemQuery) (runnel.SpaceItemView, error) {
	from, err := e.StatSpace(ctx, space)
	if err != nil {
		return runnel.SpaceItemView{}, err
	}
	found := make(map[uint64]*spaceGroup)
	size := int64(0)
	for info, err := range e.ItemGroups(ctx, space, groups, "") {
		if err != nil {
			return runnel.SpaceItemView{}, err
		}
		v, err := e.Items(ctx, info.Segment, *q)
		if errors.Is(err, runnel.ErrNotFound) || errors.Is(err, runnel.ErrSoftDeleted) {
			continue
		}
		if err != nil {
			return runnel.SpaceItemView{}, err
		}
		for i := range v.Items {
			size += int64(len(v.Items[i].Key) + len(v.Items[i].Value))
		}
		if most := e.cfg.MaxViewBytes; size > most {
			return runnel.SpaceItemView{}, viewTooLarge(most, size)
		}
		found[v.ID] = &spaceGroup{view: v}
	}
	// Each group is as of its own moment; what has happened since brings all to the same one.
	timeline, err := e.ReadSpace(ctx, space, from.Head)
	if err != nil {
		return runnel.SpaceItemView{}, err
	}
	for b, err := range timeline.Batches {
		if err != nil {
			return runnel.SpaceItemView{}, err
		}
		if !strings.HasPrefix(b.Segment.Name, groups) {
			continue
		}
		if err := e.replayGroup(ctx, found, &b, q); err != nil {
			return runnel.SpaceItemView{}, err
		}
	}
	if err := e.wholeSince(ctx, space, from.Head); err != nil {
		return runnel.SpaceItemView{}, err
	}
	all := runnel.SpaceItemView{Space: space, At: timeline.Head}
	for id, g := range found {
		info, lead, err := e.itemInfo(ctx, g.view.Segment)
		if err != nil && !errors.Is(err, runnel.ErrNotFound) && !errors.Is(err, runnel.ErrSoftDeleted) {
			return runnel.SpaceItemView{}, err
		}
		if err == nil && info.ID == id {
			all.Groups = append(all.Groups, g.done(lead))
		}
	}
	slices.SortFunc(all.Groups, func(a, b runnel.ItemView) int { return cmp.Compare(a.Segment.Name, b.Segment.Name) })
	return all, nil
}

// wholeSince returns errRetry if changes of items after a position may have been let go of.
func (e *Engine) wholeSince(ctx context.Context, space runnel.Space, after runnel.Position) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	sp, err := e.enter(ctx, space)
	if err != nil {
		return err
	}
	defer sp.leave()
	if sp.whole(after) != nil {
		return errRetry
	}
	return nil
}

// spaceGroup is a group that is being brought up to a position.
type spaceGroup struct {
	view  runnel.ItemView
	table *itemTable // nil while the view is as it was read
}

// replayGroup brings a group up to the entries of a batch.
func (e *Engine) replayGroup(ctx context.Context, found map[uint64]*spaceGroup, b *runnel.SpaceBatch, q *runnel.ItemQuery) error {
	g := found[b.ID]
	if g == nil {
		info, lead, err := e.itemInfo(ctx, b.Segment)
		if errors.Is(err, runnel.ErrNotFound) || errors.Is(err, runnel.ErrSoftDeleted) || err == nil && (!info.Items || info.ID != b.ID) {
			return nil
		}
		if err != nil {
			return err
		}
		info.Tail = 0
		g = &spaceGroup{view: runnel.ItemView{Info: info, Lead: lead}} // it was made meanwhile
		found[b.ID] = g
	}
	if b.Last() <= g.view.Tail {
		return nil
	}
	if g.table == nil {
		g.table = tableOf(&g.view, q)
	}
	for i := range b.Len() {
		entry := b.Entry(i)
		if entry.Sequence <= g.view.Tail {
			continue
		}
		x, err := parseEntry(entry.Payload, entry.Metadata)
		if err != nil {
			return fmt.Errorf("%w: entry %d of item segment %d: %w", record.ErrCorrupt, entry.Sequence, b.ID, err)
		}
		g.table.apply(&x, entry.Sequence, entry.Time.UnixMicro())
		g.view.Tail = entry.Sequence
	}
	return nil
}

// tableOf turns a view back into the rows it came from.
func tableOf(v *runnel.ItemView, q *runnel.ItemQuery) *itemTable {
	tb := &itemTable{q: q, id: v.ID}
	for i := range v.Items {
		it := &v.Items[i]
		row := itemRow{key: itemKey(v.ID, it.ItemKey), Item: record.Item{
			Version: it.Version, Created: it.Created.UnixMicro(), Updated: it.Updated.UnixMicro(), Row: message.Wrap(it.Value),
		}}
		if !it.Expires.IsZero() {
			row.Expires = it.Expires.UnixMicro()
		}
		tb.rows = append(tb.rows, row)
	}
	return tb
}

func (g *spaceGroup) done(lead int64) runnel.ItemView {
	if g.table != nil {
		v, _ := g.table.view(g.view.Info, 0, 0)
		g.view.Items = v.Items
	}
	g.view.Lead = max(g.view.Lead, lead)
	return g.view
}

// itemInfo describes a segment, and says what its stamps are reckoned from.
func (e *Engine) itemInfo(ctx context.Context, addr runnel.Segment) (runnel.Info, int64, error) {
	var lead int64
	info, err := retry(func() (runnel.Info, error) {
		seg, err := e.find(ctx, addr)
		if err != nil {
			return runnel.Info{}, err
		}
		defer seg.release()
		st := seg.durable.Load()
		if err := e.usable(ctx, seg, st, e.now()); err != nil {
			return runnel.Info{}, err
		}
		lead = st.lead
		return st.info(addr), nil
	})
	return info, lead, err
}

// ItemGroups yields the item segments of a space whose names have a prefix, in the order of their names,
// beginning behind the name after, which need not exist.
func (e *Engine) ItemGroups(ctx context.Context, space runnel.Space, prefix, after string) iter.Seq2[runnel.Info, error] {
	return func(yield func(runnel.Info, error) bool) {
		if err := space.Validate(); err != nil {
			yield(runnel.Info{}, err)
			return
		}
		for info, err := range e.listSpace(ctx, space, prefix, after) {
			if err == nil && !info.Items {
				continue
			}
			if !yield(info, err) || err != nil {
				return
			}
		}
	}
}

// ItemSpaces yields the spaces of a store that have an item segment and whose names have a prefix, in the
// order of their names, beginning behind the name after, which need not exist.
func (e *Engine) ItemSpaces(ctx context.Context, store runnel.Store, prefix, after string) iter.Seq2[runnel.Space, error] {
	return func(yield func(runnel.Space, error) bool) {
		for space, err := range e.Spaces(ctx, store, prefix, after) {
			if err != nil {
				yield(space, err)
				return
			}
			for _, err := range e.ItemGroups(ctx, space, "", "") {
				if !yield(space, err) || err != nil {
					return
				}
				break
			}
		}
	}
}

// DeleteItemSpace deletes all item segments of a space, one after the other, and counts them. Other
// segments of the space stay.
func (e *Engine) DeleteItemSpace(ctx context.Context, space runnel.Space) (int, error) {
	n := 0
	for info, err := range e.ItemGroups(ctx, space, "", "") {
		if err != nil {
			return n, err
		}
		switch err := e.Delete(ctx, info.Segment); {
		case err == nil:
			n++
		case !errors.Is(err, runnel.ErrNotFound) && !errors.Is(err, runnel.ErrSoftDeleted):
			return n, err
		}
	}
	return n, nil
}
