package pebblestore

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"github.com/cockroachdb/pebble/v2"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/storage"
)

// Get returns a copy of the value of key, or ErrKeyNotFound.
func (d *Driver) Get(ctx context.Context, p storage.Partition, key []byte) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := checkPartition(p); err != nil {
		return nil, err
	}
	full := append(appendPrefix(make([]byte, 0, prefixLen(p)+len(key)), p, kindData), key...)
	value, closer, err := d.db.Get(full)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, storage.ErrKeyNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("pebblestore: get: %w", err)
	}
	defer func() { _ = closer.Close() }() // a read has nothing to lose
	return append([]byte{}, value...), nil
}

// Scan yields a range as it was when ranging began. What it reads from stays on disk and in memory
// until it ends, so a scan should not wait for slow readers.
func (d *Driver) Scan(ctx context.Context, p storage.Partition, r storage.Range) iter.Seq2[storage.Pair, error] {
	return func(yield func(storage.Pair, error) bool) {
		if err := checkPartition(p); err != nil {
			yield(storage.Pair{}, err)
			return
		}
		lower, upper, ok := bounds(p, r)
		if !ok {
			return
		}
		it, err := d.iter(ctx, lower, upper)
		if err != nil {
			yield(storage.Pair{}, err)
			return
		}
		defer func() { _ = it.Close() }() // what it could report, it.Error has

		first, next := it.First, it.Next
		if r.Reverse {
			first, next = it.Last, it.Prev
		}
		prefix, n := prefixLen(p), 0
		for ok := first(); ok; ok = next() {
			value, err := it.ValueAndErr()
			if err == nil {
				err = ctx.Err()
			}
			if err != nil {
				yield(storage.Pair{}, fmt.Errorf("pebblestore: scan: %w", err))
				return
			}
			if n++; !yield(storage.Pair{Key: it.Key()[prefix:], Value: value}, nil) || n == r.Limit {
				return
			}
		}
		if err := it.Error(); err != nil {
			yield(storage.Pair{}, fmt.Errorf("pebblestore: scan: %w", err))
		}
	}
}

// Stores yields every store that holds a key, ordered by id. It seeks past each store.
func (d *Driver) Stores(ctx context.Context) iter.Seq2[runnel.Store, error] {
	return func(yield func(runnel.Store, error) bool) {
		d.skip(ctx, nil, nil, func(p storage.Partition, err error) ([]byte, bool) {
			return afterStore(p.Store), yield(p.Store, err)
		})
	}
}

// Partitions yields the partitions of store that hold a key, ordered by name, beginning at from. It
// seeks past each partition.
func (d *Driver) Partitions(ctx context.Context, store runnel.Store, from string) iter.Seq2[storage.Partition, error] {
	return func(yield func(storage.Partition, error) bool) {
		lower := append(append(make([]byte, 0, storeLen+len(from)), store[:]...), from...)
		d.skip(ctx, lower, afterStore(store), func(p storage.Partition, err error) ([]byte, bool) {
			return afterPartition(p), yield(p, err)
		})
	}
}

// skip visits partitions that hold a key, between lower and upper. visit returns from where to go on,
// nil for nowhere, and whether to. An error is visited last.
func (d *Driver) skip(ctx context.Context, lower, upper []byte, visit func(storage.Partition, error) (next []byte, more bool)) {
	it, err := d.iter(ctx, lower, upper)
	if err != nil {
		visit(storage.Partition{}, err)
		return
	}
	defer func() { _ = it.Close() }() // what it could report, it.Error has
	for ok := it.First(); ok; {
		p, kind, err := splitKey(it.Key())
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			visit(storage.Partition{}, err)
			return
		}
		next, more := afterPartition(p), true
		if kind == kindData { // and not the guard, which is the first row only where nothing else is left
			next, more = visit(p, nil)
		}
		if !more || next == nil {
			return
		}
		ok = it.SeekGE(next)
	}
	if err := it.Error(); err != nil {
		visit(storage.Partition{}, fmt.Errorf("pebblestore: list: %w", err))
	}
}

// iter opens an iterator; nil bounds are the ends of the database.
func (d *Driver) iter(ctx context.Context, lower, upper []byte) (*pebble.Iterator, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	it, err := d.db.NewIterWithContext(ctx, &pebble.IterOptions{LowerBound: lower, UpperBound: upper})
	if err != nil {
		return nil, fmt.Errorf("pebblestore: open an iterator: %w", err)
	}
	return it, nil
}
