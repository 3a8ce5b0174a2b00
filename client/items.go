package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"hash/fnv"
	"time"

	"github.com/runnelhq/runnel"
)

// Items are the items of one stream: live, keyed values in groups. A stream is a space, a group is a segment
// of it, and an item is one JSON value under an id. An Items holds nothing itself and need not be closed.
//
// Values are given as anything that package encoding/json writes; a json.RawMessage is taken as it is. They
// are read with [Value].
//
// A write that was sent and whose answer was lost with the connection fails with runnel.ErrUnknown, unless
// ItemOptions.Key makes it safe to send it again.
type Items struct {
	c     *Client
	space runnel.Space
	o     ItemOptions
}

// ItemsIn returns the items of a stream, which need not exist yet.
func (c *Client) ItemsIn(space runnel.Space) Items { return Items{c: c, space: space} }

// ItemOptions are the conditions and effects of writes. The zero ItemOptions write whatever there is.
type ItemOptions struct {
	// Expect is about the item that is written: None, Exists, or At its version. Otherwise the write fails
	// with a [*runnel.ItemMovedError].
	Expect Expect
	// TTL is how long after the write the item goes away by itself. 0: never; but an update leaves the
	// expiry that the item has.
	TTL time.Duration
	// Key makes a write idempotent: repeated with the same key it changes nothing, and is answered with
	// ItemsWritten.Duplicate. With other writes it fails with runnel.ErrKeyReused. At most
	// runnel.MaxKeyBytes bytes.
	Key string
	// TxID is told with the changes, so that who wrote them knows them again. At most
	// runnel.MaxTxIDBytes bytes.
	TxID string
	// Partial keeps what operations of an update do although others fail. ItemResult.Failed has those.
	Partial bool
}

// With returns the same items with other options of writes.
func (it Items) With(o ItemOptions) Items {
	it.o = o
	return it
}

// Value reads the value of an item.
func Value[T any](item runnel.Item) (v T, err error) {
	err = json.Unmarshal(item.Value, &v)
	return v, err
}

// encode returns the JSON text of a value.
func encode(value any) ([]byte, error) {
	if raw, ok := value.(json.RawMessage); ok && raw != nil {
		return raw, nil // the log checks it
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(value); err != nil {
		return nil, &runnel.InvalidError{What: "value of an item", Rule: "must be one that JSON has: " + err.Error()}
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// write is the write of one item that the options describe.
func (it Items) write(id string) runnel.ItemWrite {
	w := runnel.ItemWrite{ItemKey: runnel.ItemKey{Key: id}, TTL: it.o.TTL}
	switch it.o.Expect.kind {
	case expectNone:
		w.IfVersion = new(runnel.Sequence)
	case expectExists:
		w.IfExists = true
	case expectAt:
		at := it.o.Expect.at
		w.IfVersion = &at
	case expectAny:
	}
	return w
}

// one commits a write of one item.
func (it Items) one(ctx context.Context, group string, w runnel.ItemWrite) (runnel.ItemResult, error) {
	written, err := it.Write(ctx, group, w)
	if err != nil {
		return runnel.ItemResult{}, err
	}
	return written.Results[0], nil
}

// Set gives an item a value, and makes the item and its group when there is none.
func (it Items) Set(ctx context.Context, group, id string, value any) (runnel.ItemResult, error) {
	w := it.write(id)
	var err error
	if w.Value, err = encode(value); err != nil {
		return runnel.ItemResult{}, err
	}
	return it.one(ctx, group, w)
}

// Get returns an item. It fails with runnel.ErrNotFound when there is none.
func (it Items) Get(ctx context.Context, group, id string) (runnel.Item, error) {
	return it.c.Item(ctx, it.space.Segment(group), runnel.ItemKey{Key: id})
}

// Delete removes an item. If there was none it succeeds, changes nothing, and the result has no Old.
func (it Items) Delete(ctx context.Context, group, id string) (runnel.ItemResult, error) {
	w := it.write(id)
	w.TTL = 0
	return it.one(ctx, group, w)
}

// Update changes an item by operations, in one step, whoever else writes: all of them, or it fails with an
// [*runnel.OperationsError]. An item that does not exist begins as {}.
func (it Items) Update(ctx context.Context, group, id string, ops ...Op) (runnel.ItemResult, error) {
	w := it.write(id)
	var err error
	if w.Ops, err = encode(append([]Op{}, ops...)); err != nil {
		return runnel.ItemResult{}, err
	}
	w.Partial, w.KeepTTL = it.o.Partial, w.TTL == 0
	return it.one(ctx, group, w)
}

// Write writes several items of a group in one commit: all of them, or none. Each write has its own
// condition, value and TTL; of the options only Key and TxID count. Items of several groups are written
// together with Transact.
func (it Items) Write(ctx context.Context, group string, writes ...runnel.ItemWrite) (runnel.ItemsWritten, error) {
	all := runnel.ItemWrites{Segment: group, TxID: it.o.TxID, Writes: writes}
	if it.o.Key != "" {
		all.Key, all.Sum = it.o.Key, sumOf(writes)
	}
	committed, err := it.c.Transact(ctx, it.space, runnel.Transaction{Items: []runnel.ItemWrites{all}})
	if err != nil {
		return runnel.ItemsWritten{}, err
	}
	if len(committed.Items) != 1 || len(committed.Items[0].Results) != len(writes) {
		return runnel.ItemsWritten{}, &runnel.InvalidError{What: "answer to a write of items", Rule: "must have one result for each"}
	}
	return committed.Items[0], nil
}

// sumOf tells writes from others under the same idempotency key.
func sumOf(writes []runnel.ItemWrite) uint64 {
	hash := fnv.New64a()
	e := json.NewEncoder(hash)
	for i := range writes {
		w := &writes[i]
		_ = e.Encode([]any{w.WithDefaults(), w.IfVersion, w.IfExists, w.Value, w.Ops, w.Partial, w.TTL, w.KeepTTL}) // never fails
	}
	return hash.Sum64()
}

// ItemList pages through a listing. The zero ItemList is all of it.
type ItemList struct {
	// Prefix is what the ids or names begin with.
	Prefix string
	// After continues behind an id or a name, which need not exist any more.
	After string
	// Limit is the most to return. 0: no limit.
	Limit int
}

// List returns items of a group as of one moment, in the order of their ids. A group that does not exist has
// none.
func (it Items) List(ctx context.Context, group string, l ItemList) (runnel.ItemView, error) {
	segment := it.space.Segment(group)
	view, err := it.c.Items(ctx, segment, runnel.ItemQuery{Prefix: l.Prefix, After: l.After, Limit: l.Limit})
	if errors.Is(err, runnel.ErrNotFound) {
		return runnel.ItemView{Info: runnel.Info{Segment: segment}}, nil
	}
	return view, err
}

// Groups returns the names of groups of the stream, in their order.
func (it Items) Groups(ctx context.Context, l ItemList) ([]string, error) {
	path := func(name string) string {
		if it.space.Name == "" {
			return name
		}
		return it.space.Name + "/" + name
	}
	o := runnel.ListOptions{Prefix: path(l.Prefix)}
	if l.After != "" {
		o.After = path(l.After)
	}
	var names []string
	for info, err := range it.c.Log.List(ctx, it.space.Store, o) {
		switch {
		case err != nil:
			return nil, err
		case info.Segment.In() != it.space || l.Limit > 0 && len(names) == l.Limit:
			return names, nil // what follows is below the stream, and not of it
		case info.Items:
			names = append(names, info.Segment.Name)
		}
	}
	return names, nil
}

// ItemStream is a stream with its groups.
type ItemStream struct {
	Space  runnel.Space
	Groups []string
}

// ItemStreams returns all streams of a store that have groups, with these, in the order of the names.
func (c *Client) ItemStreams(ctx context.Context, store runnel.Store) ([]ItemStream, error) {
	var all []ItemStream
	for info, err := range c.Log.List(ctx, store, runnel.ListOptions{}) {
		if err != nil {
			return nil, err
		}
		if !info.Items {
			continue
		}
		if n := len(all); n == 0 || all[n-1].Space != info.Segment.In() {
			all = append(all, ItemStream{Space: info.Segment.In()})
		}
		last := &all[len(all)-1]
		last.Groups = append(last.Groups, info.Segment.Name)
	}
	return all, nil
}

// DeleteGroup removes a group with all its items. It fails with runnel.ErrNotFound when there is none.
func (it Items) DeleteGroup(ctx context.Context, group string) error {
	return it.c.Log.Delete(ctx, it.space.Segment(group))
}

// DeleteGroups removes all groups of the stream, one after the other.
func (it Items) DeleteGroups(ctx context.Context) error {
	names, err := it.Groups(ctx, ItemList{})
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := it.DeleteGroup(ctx, name); err != nil && !errors.Is(err, runnel.ErrNotFound) && !errors.Is(err, runnel.ErrSoftDeleted) {
			return err
		}
	}
	return nil
}
