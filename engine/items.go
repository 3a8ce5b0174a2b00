package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/record"
	message "github.com/runnelhq/runnel/state"
	"github.com/runnelhq/runnel/storage"
)

// Items are a fold of the entries of their segment. Whoever appends to one, in whatever way, has the rows
// of the items that the entries speak of in memory before the space is held, and stages the next rows in
// the commit of the entries. So a row and its entry are durable together, and a row tells by its version
// which entry that is: it is what readers may see as soon as the durable tail has come so far.
//
// What is deleted leaves a row without a value for a while, by which a reader tells that the deletion is
// durable, or is not.

// What the messages do not say about an item stands in the metadata of its entry.
const (
	// metaExpires is when the item goes away by itself, in microseconds since 1970.
	metaExpires = "item-expires"
	// metaExpired marks the deletion of an item whose time was over.
	metaExpired = "item-expired"
)

// tombstoneLife is how long the row of a deleted item is kept.
const tombstoneLife = 24 * time.Hour

// itemRowBytes bounds what a change of an item adds to a batch besides its value: the row, and what says
// when to look at it, which is removed from where it was.
const itemRowBytes = 4*rowBytes + 3*(runnel.MaxItemKeyBytes+runnel.MaxItemTypeBytes) + record.ItemHeaderBytes

// itemRowOps is how many operations a change of an item adds to a batch.
const itemRowOps = 3

// itemEntry is a message, as the fold sees it.
type itemEntry struct {
	message.Change
	expires int64 // microseconds since 1970; 0 for never
	expired bool  // a deletion by the clock
	// result is told the item that the entry makes; nil if nobody has asked for it.
	result *runnel.ItemResult
}

// parseEntry reads the entry of an item segment.
func parseEntry(payload []byte, metadata map[string]string) (itemEntry, error) {
	c, err := message.Parse(payload)
	if err != nil {
		return itemEntry{}, err
	}
	x := itemEntry{Change: c}
	if at, ok := metadata[metaExpires]; ok {
		if x.expires, err = strconv.ParseInt(at, 10, 64); err != nil || x.expires <= 0 {
			return itemEntry{}, &runnel.InvalidError{What: "metadata " + metaExpires, Rule: "must be microseconds since 1970"}
		}
	}
	_, x.expired = metadata[metaExpired]
	return x, nil
}

// parseEntries reads what is to be appended to an item segment.
func (e *Engine) parseEntries(records []runnel.Record) ([]itemEntry, error) {
	entries := make([]itemEntry, len(records))
	for i := range records {
		var err error
		if entries[i], err = parseEntry(records[i].Payload, records[i].Metadata); err != nil {
			return nil, fmt.Errorf("message %d of %d: %w", i+1, len(records), err)
		}
		if err := e.checkItemSize(len(entries[i].Value)); err != nil {
			return nil, err
		}
	}
	return entries, nil
}

// checkItemSize refuses a value that no row can hold.
func (e *Engine) checkItemSize(n int) error {
	if most := min(runnel.MaxItemBytes, e.fragment()-record.ItemHeaderBytes); n > most {
		return &runnel.TooLargeError{What: "value of an item", Limit: int64(most), Got: int64(n)}
	}
	return nil
}

// itemsCost bounds what the rows of some entries add to a batch.
func itemsCost(entries []itemEntry) (size, ops int) {
	for i := range entries {
		size += len(entries[i].Value) + itemRowBytes
	}
	return size, len(entries) * itemRowOps
}

// fold is what an entry makes of the row of its item; old is nil if there is none.
func (x *itemEntry) fold(old *record.Item, version runnel.Sequence, micros, lead int64) record.Item {
	next := record.Item{Version: version, Created: micros, Updated: micros, Lead: lead, Expires: x.expires, Row: x.Value}
	switch {
	case x.Operation == message.Delete:
		next.Deleted, next.Row = true, nil
		next.Expires = micros + tombstoneLife.Microseconds()
		next.Created = 0
		if old != nil && !old.Deleted && !x.expired {
			next.Created = old.Created
		}
	case old == nil:
	case !old.Deleted, replaced(old, version, micros):
		next.Created = old.Created
	}
	return next
}

// messageBytes is how many bytes the message has that makes an item, 0 if there is none.
func messageBytes(key runnel.ItemKey, x *record.Item) int64 {
	const frame = len(`{"type":"","key":"","value":,"headers":{"operation":"insert"}}`)
	if x.Deleted {
		return 0
	}
	return int64(frame + len(key.Type) + len(key.Key) + len(x.Row))
}

// replaced tells whether an entry gives another value to an item that the entry before it, of the same
// commit, has deleted for that.
func replaced(old *record.Item, version runnel.Sequence, micros int64) bool {
	return old.Deleted && old.Created != 0 && old.Version+1 == version && old.Updated == micros
}

// itemOf shows a row.
func itemOf(key runnel.ItemKey, x *record.Item) runnel.Item {
	it := runnel.Item{
		ItemKey: key, Value: message.Unwrap(x.Row), Version: x.Version,
		Created: time.UnixMicro(x.Created).UTC(), Updated: time.UnixMicro(x.Updated).UTC(),
	}
	if x.Expires > 0 {
		it.Expires = time.UnixMicro(x.Expires).UTC()
	}
	return it
}

// WriteItems makes one commit that writes to items of segments of a space: all of it or nothing. It fails
// as Transact does.
func (e *Engine) WriteItems(ctx context.Context, space runnel.Space, writes ...runnel.ItemWrites) ([]runnel.ItemsWritten, error) {
	c, err := e.Transact(ctx, space, runnel.Transaction{Items: writes})
	return c.Items, err
}

// folding is what an append does to the items of its segment.
type folding struct {
	// id is the incarnation whose rows were loaded; 0 for none.
	id uint64
	// items says that the segment loaded was one of items.
	items bool
	// records are what is appended, and entries what they say, read when they are needed.
	records []runnel.Record
	entries []itemEntry
	err     error

	// writes is nil for an append of messages.
	writes *runnel.ItemWrites
	// expiring says that items are deleted only if their time is over.
	expiring bool
	// reserve is what room in the batch the entries of writes are given, and need what they were found to
	// need.
	reserve, need int
	// nothing says that the writes change nothing.
	nothing bool
	results []runnel.ItemResult
}

// ofItems is what a segment is made with by the first write to its items.
var ofItems = runnel.CreateOptions{Items: true}

// itemWriting checks what does not depend on the items, and prepares the writes as an append.
func (e *Engine) itemWriting(a *appending, w *runnel.ItemWrites) error {
	create := cmp.Or(w.Create, &ofItems)
	if !create.Items {
		return &runnel.InvalidError{What: "segment that is made by writes to items", Rule: "must be an item segment"}
	}
	if len(w.Writes) == 0 {
		return &runnel.InvalidError{What: "writes to items", Rule: "must be at least one"}
	}
	if len(w.TxID) > runnel.MaxTxIDBytes {
		return &runnel.TooLargeError{What: "transaction id", Limit: runnel.MaxTxIDBytes, Got: int64(len(w.TxID))}
	}
	if !utf8.ValidString(w.TxID) {
		return &runnel.InvalidError{What: "transaction id", Rule: "must be UTF-8"}
	}
	writes := *w
	writes.Writes = append([]runnel.ItemWrite(nil), w.Writes...)
	*a = appending{name: w.Segment, o: &runnel.AppendOptions{Create: create, Key: w.Key}, folding: folding{writes: &writes}}
	var seen distinct[runnel.ItemKey]
	for i := range writes.Writes {
		one := &writes.Writes[i]
		one.ItemKey = one.WithDefaults()
		if err := message.CheckKey(one.ItemKey); err != nil {
			return err
		}
		if !seen.add(one.ItemKey) {
			return &runnel.InvalidError{What: "writes to items", Rule: fmt.Sprintf("name item %s twice", one.ItemKey)}
		}
		if one.TTL < 0 || one.TTL > 0 && one.KeepTTL {
			return &runnel.InvalidError{What: "ttl of an item", Rule: "must not be negative, and not be given where it is kept"}
		}
		a.reserve += 256 + len(w.TxID) + 2*(len(one.Key)+len(one.Type)+len(one.Ops))
		if one.Ops != nil {
			if err := a.operate(i); err != nil {
				return err
			}
		}
		if one.Apply == nil && one.Value != nil {
			var err error
			if one.Value, err = message.CheckValue(one.Value); err != nil {
				return err
			}
			if err := e.checkItemSize(len(one.Value) + len(`{"value":}`)); err != nil {
				return err
			}
			a.reserve += 2 * len(one.Value)
		}
	}
	if len(w.Key) > runnel.MaxKeyBytes {
		return &runnel.TooLargeError{What: "idempotency key", Limit: runnel.MaxKeyBytes, Got: int64(len(w.Key))}
	}
	return a.checkCreate()
}

// loadItems brings the rows of items that the append speaks of into memory.
func (a *appending) loadItems(ctx context.Context, rows *heldRows) error {
	sp := a.seg.sp
	sp.mu.Lock()
	st := a.seg.staged
	a.id, a.items = 0, a.o.Create != nil && a.o.Create.Items
	if st.desc != nil {
		a.id = st.inc.id
		a.items = a.items || st.desc.Items
	}
	sp.mu.Unlock()
	if !a.items {
		return nil
	}
	if a.writes == nil && a.entries == nil && a.err == nil {
		a.entries, a.err = sp.e.parseEntries(a.records)
	}
	if a.id == 0 || a.err != nil {
		return nil //nolint:nilerr // what is wrong with a message is told after what is wrong with the segment
	}
	if a.writes != nil {
		before := len(rows.rows)
		for i := range a.writes.Writes {
			if err := rows.load(ctx, itemKey(a.id, a.writes.Writes[i].ItemKey)); err != nil {
				return err
			}
		}
		// Items may become about what they are.
		a.reserve = max(a.reserve, 512*len(a.writes.Writes)+3*rows.bytes(before))
		return nil
	}
	for i := range a.entries {
		if err := rows.load(ctx, itemKey(a.id, a.entries[i].item())); err != nil {
			return err
		}
	}
	return nil
}

func (x *itemEntry) item() runnel.ItemKey { return runnel.ItemKey{Type: x.Type, Key: x.Key} }

// itemsRoom bounds what the fold adds to a batch.
func (a *appending) itemsRoom() (size, ops int) {
	if !a.items {
		return 0, 0
	}
	if a.writes == nil {
		return itemsCost(a.entries)
	}
	n := len(a.writes.Writes)
	a.reserve = max(a.reserve, a.need)
	return a.reserve + 2*n*itemRowBytes, n*(2*itemRowOps+1) + a.reserve/runBytes
}

// checkItems decides whether the items let the append happen, once the segment does.
func (a *appending) checkItems(t *tx, st *state) error {
	items := a.o.Create != nil && a.creates && a.o.Create.Items || !a.creates && st.desc.Items
	switch {
	case !items && a.writes != nil:
		return &runnel.InvalidError{What: "segment " + strconv.Quote(a.seg.addr().String()), Rule: "is not an item segment"}
	case !items:
		return nil
	case !a.items:
		return errRetry // it has become one since
	case a.err != nil:
		return a.err
	case !a.creates && st.inc.id != a.id:
		return errRetry
	}
	if a.writes != nil {
		return a.applyWrites(t, st)
	}
	if a.creates {
		return nil
	}
	for i := range a.entries {
		if _, err := a.stagedItem(t, a.entries[i].item()); err != nil {
			return err
		}
	}
	return nil
}

// stagedItem returns the row of an item as staged, nil if there is none.
func (a *appending) stagedItem(t *tx, key runnel.ItemKey) (*record.Item, error) {
	if a.creates {
		return nil, nil
	}
	r := t.row(itemKey(a.id, key))
	if r == nil {
		return nil, errRetry
	}
	if r.value == nil {
		return nil, nil
	}
	x, err := record.DecodeItem(r.value)
	if err != nil {
		return nil, err
	}
	return &x, nil
}

// applyWrites turns writes to items into entries.
func (a *appending) applyWrites(t *tx, st *state) error {
	w := a.writes
	a.entries = slices.Grow(a.entries[:0], len(w.Writes))
	a.records = slices.Grow(a.records[:0], len(w.Writes))
	a.results = make([]runnel.ItemResult, len(w.Writes))
	for i := range w.Writes {
		if err := a.applyWrite(t, &w.Writes[i], i); err != nil {
			return err
		}
	}
	a.bodies, a.count, a.bytes, a.most = t.sp.e.bodies(a.records)
	a.need = 0
	for i := range a.records {
		a.need += len(a.records[i].Payload) + len(a.entries[i].Value) + 2*len(metaExpires) + 64
	}
	if a.need > a.reserve {
		return errRetry // with as much room as that
	}
	if a.nothing = a.count == 0; a.nothing {
		a.creates = false
		t.dependOn(a.seg)
	}
	return nil
}

// applyWrite turns one write into entries: none, one, or two.
func (a *appending) applyWrite(t *tx, w *runnel.ItemWrite, i int) error {
	row, err := a.stagedItem(t, w.ItemKey)
	if err != nil {
		return err
	}
	if row != nil && row.Deleted {
		row = nil
	}
	over := row != nil && row.Expires > 0 && row.Expires <= t.micros
	if a.expiring {
		if over {
			a.add(t, &itemEntry{Change: message.Change{Operation: message.Delete, OldValue: row.Row}, expired: true}, w.ItemKey)
		}
		return nil
	}
	expired := row
	if over {
		row = nil
	}
	var old *runnel.Item
	have := runnel.Sequence(0)
	if row != nil {
		old, have = new(itemOf(w.ItemKey, row)), row.Version
	}
	if w.IfVersion != nil && *w.IfVersion != have || w.IfExists && row == nil {
		return &runnel.ItemMovedError{Segment: a.seg.addr(), Item: w.ItemKey, Want: w.IfVersion, Have: have}
	}
	a.results[i].Old = old
	value := w.Value
	if w.Apply != nil {
		if value, err = w.Apply(old); err != nil {
			return err
		}
		if value != nil {
			if value, err = message.CheckValue(value); err != nil {
				return err
			}
		}
	}
	if over {
		a.add(t, &itemEntry{Change: message.Change{Operation: message.Delete, OldValue: expired.Row}, expired: true}, w.ItemKey)
	}
	if value == nil {
		if row != nil {
			a.add(t, &itemEntry{Change: message.Change{Operation: message.Delete, OldValue: row.Row}}, w.ItemKey)
		}
		return nil
	}
	next := itemEntry{Change: message.Change{Operation: message.Insert, Value: message.Wrap(value)}, result: &a.results[i]}
	if err := t.sp.e.checkItemSize(len(next.Value)); err != nil {
		return err
	}
	switch {
	case w.TTL > 0:
		next.expires = t.micros + max(w.TTL.Microseconds(), 1)
	case w.KeepTTL && row != nil:
		next.expires = row.Expires
	}
	if row != nil {
		if message.Drops(row.Row, next.Value) {
			// Clients that materialise the stream keep the fields that an update does not name.
			a.add(t, &itemEntry{Change: message.Change{Operation: message.Delete, OldValue: row.Row}}, w.ItemKey)
		} else {
			next.Operation = message.Update
		}
	}
	a.add(t, &next, w.ItemKey)
	return nil
}

// add puts an entry behind those that the writes have made.
func (a *appending) add(t *tx, x *itemEntry, key runnel.ItemKey) {
	x.Type, x.Key, x.Timestamp = key.Type, key.Key, time.UnixMicro(t.micros)
	if !x.expired {
		x.TxID = a.writes.TxID
	}
	rec := runnel.Record{Payload: x.Append(nil)}
	switch {
	case x.expires > 0:
		rec.Metadata = map[string]string{metaExpires: strconv.FormatInt(x.expires, 10)}
	case x.expired:
		rec.Metadata = map[string]string{metaExpired: ""}
	}
	a.entries = append(a.entries, *x)
	a.records = append(a.records, rec)
}

// foldItems stages the rows that entries make, which have just been appended from first on, so that nobody else
// has the state that they have left.
func (t *tx) foldItems(seg *segment, entries []itemEntry, first runnel.Sequence) {
	st := seg.staged
	id := st.inc.id
	lead, held := runnel.ItemLead(st.lead, st.tail, t.micros), st.held
	for i := range entries {
		x := &entries[i]
		key := itemKey(id, x.item())
		var old *record.Item
		if r := t.row(key); r != nil && r.value != nil {
			was, _ := record.DecodeItem(r.value) // it was read when it was checked
			old = &was
		}
		next := x.fold(old, first+runnel.Sequence(i), t.micros, lead)
		held += messageBytes(x.item(), &next)
		if old != nil {
			held -= messageBytes(x.item(), old)
		}
		next.Held = held
		if old != nil && old.Expires > 0 {
			t.remove(itemDueKey(old.Expires, key))
		}
		if next.Expires > 0 {
			t.put(itemDueKey(next.Expires, key), nil)
			t.sp.e.cleaner.itemDue(t.sp.part, next.Expires)
		}
		value := next.Append(make([]byte, 0, record.ItemHeaderBytes+len(next.Row)))
		t.setRow(key, value)
		if x.result != nil {
			next.Row = value[len(value)-len(next.Row):] // which is nobody else's
			x.result.New = new(itemOf(x.item(), &next))
		}
	}
	st.lead, st.held = lead, held
}

// repeated answers writes whose key was used, with the items that are still as they made them.
func (a *appending) repeated(t *tx) error {
	if a.seg.staged.inc.id != a.id {
		return errRetry
	}
	a.results = make([]runnel.ItemResult, len(a.writes.Writes))
	for i := range a.writes.Writes {
		key := a.writes.Writes[i].ItemKey
		x, err := a.stagedItem(t, key)
		if err != nil {
			return err
		}
		if x != nil && !x.Deleted && x.Version >= a.result.First && x.Version <= a.result.Tail {
			a.results[i].New = new(itemOf(key, x))
			t.dependOn(a.seg)
		}
	}
	return nil
}

// readItemState finds what the row of the last entry tells about an item segment: what its stamps are reckoned
// from, and how much its items take.
func (sp *space) readItemState(ctx context.Context, st *state) error {
	if st.tail == 0 {
		st.lead = sp.itemSpace().Stamp
		return nil
	}
	for run, err := range sp.e.runs(ctx, sp, st, st.tail-1, st.tail, keep) {
		if err != nil {
			return err
		}
		entry := run.Entry(run.Len() - 1)
		x, err := parseEntry(entry.Payload, entry.Metadata)
		if err != nil {
			return fmt.Errorf("%w: the last entry of item segment %d: %w", record.ErrCorrupt, st.inc.id, err)
		}
		value, err := sp.e.driver.Get(ctx, sp.part, itemKey(st.inc.id, x.item()))
		if err != nil {
			if errors.Is(err, storage.ErrKeyNotFound) {
				return errMissing
			}
			return storageError(err)
		}
		row, err := record.DecodeItem(value)
		if err != nil {
			return err
		}
		if st.lead, st.held = row.Lead, row.Held; st.held < 0 {
			return sp.countItems(ctx, st)
		}
	}
	return nil
}

// countItems finds how much the items of a segment take whose rows do not tell.
func (sp *space) countItems(ctx context.Context, st *state) error {
	st.held = 0
	for pair, err := range sp.e.driver.Scan(ctx, sp.part, segmentRange(keyItem, st.inc.id)) {
		if err != nil {
			return storageError(err)
		}
		row, err := record.DecodeItem(pair.Value)
		if err != nil {
			return err
		}
		st.held += messageBytes(itemOfKey(pair.Key), &row)
	}
	return nil
}
