// Package memory keeps partitions in the memory of the process. It is the driver for tests, examples
// and data that may be lost, and the plainest reading of the contract of package storage: a commit is
// "durable" when it is in the map.
package memory

import (
	"bytes"
	"context"
	"fmt"
	"iter"
	"sync"

	"github.com/tidwall/btree"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/storage"
)

// Driver keeps everything in ordered maps. The zero Driver is ready and empty. It must not be copied,
// and its fields must not be changed once a method has been called.
//
// The data lives as long as the Driver: Close releases nothing, and all methods work after it. Handing
// out the same *Driver again is what opening again is for a driver that keeps files.
type Driver struct {
	// Shared says that several engines use this one Driver, as several processes would use one
	// distributed database. Limits.Exclusive is then false, and a commit without a guard is refused.
	Shared bool

	// Max bounds values and batches, so that an engine can be tried against the limits of another
	// driver. Zero fields mean no bound. Exclusive is ignored: Shared decides it.
	Max storage.Limits

	mu         sync.RWMutex
	partitions btree.Map[string, *partition] // by partitionKey
}

var _ storage.Driver = (*Driver)(nil)

// partition is never removed once it is there, so that a pointer taken from the map stays the only one.
type partition struct {
	name storage.Partition

	mu      sync.RWMutex
	version storage.Version
	id      storage.CommitID
	pairs   btree.Map[string, []byte] // values are never changed in place
}

// partitionKey orders partitions by store and then by the bytes of the name.
func partitionKey(p storage.Partition) string {
	return string(p.Store[:]) + p.Name
}

// Limits returns Max, with Exclusive according to Shared.
func (d *Driver) Limits() storage.Limits {
	l := d.Max
	l.Exclusive = !d.Shared
	return l
}

// Commit applies b under the lock of the partition. It never answers ErrUnknown or ErrFailed.
func (d *Driver) Commit(ctx context.Context, p storage.Partition, b *storage.Batch) (storage.Version, error) {
	if err := ctx.Err(); err != nil {
		return 0, fmt.Errorf("memory: %w: %w", storage.ErrRefused, err)
	}
	if err := d.check(b); err != nil {
		return 0, err
	}

	part := d.partition(p)
	part.mu.Lock()
	defer part.mu.Unlock()

	if b.Guarded && part.version != b.Expect {
		return 0, fmt.Errorf("memory: %w: the version is %d, not %d", storage.ErrConflict, part.version, b.Expect)
	}
	for i := range b.Ops {
		op := &b.Ops[i]
		if op.Delete {
			part.pairs.Delete(string(op.Key))
			continue
		}
		value := make([]byte, 0, len(op.Head)+len(op.Body))
		part.pairs.Set(string(op.Key), append(append(value, op.Head...), op.Body...))
	}
	if !b.Guarded {
		return 0, nil
	}
	part.version++
	part.id = b.ID
	return part.version, nil
}

// Guard returns the version of the partition and the id of its last guarded commit.
func (d *Driver) Guard(ctx context.Context, p storage.Partition) (storage.Version, storage.CommitID, error) {
	part := d.lookup(p)
	if part == nil {
		return 0, storage.CommitID{}, ctx.Err()
	}
	part.mu.RLock()
	defer part.mu.RUnlock()
	return part.version, part.id, ctx.Err()
}

// Get returns a copy of the value of key, or ErrKeyNotFound.
func (d *Driver) Get(ctx context.Context, p storage.Partition, key []byte) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	part := d.lookup(p)
	if part == nil {
		return nil, storage.ErrKeyNotFound
	}
	part.mu.RLock()
	value, ok := part.pairs.Get(string(key))
	part.mu.RUnlock()
	if !ok {
		return nil, storage.ErrKeyNotFound
	}
	return append([]byte{}, value...), nil
}

// Scan yields a range as it was when ranging began; it holds no lock while it yields. The slices of a
// pair are overwritten at the next step, so that a caller that keeps them too long is found out here
// and not on a driver that maps its files.
func (d *Driver) Scan(ctx context.Context, p storage.Partition, r storage.Range) iter.Seq2[storage.Pair, error] {
	return func(yield func(storage.Pair, error) bool) {
		if err := ctx.Err(); err != nil {
			yield(storage.Pair{}, err)
			return
		}
		part := d.lookup(p)
		if part == nil {
			return
		}
		pairs := part.snapshot()

		var pair storage.Pair
		n := 0
		visit := func(key string, value []byte) bool {
			if err := ctx.Err(); err != nil {
				yield(storage.Pair{}, err)
				return false
			}
			pair.Key = append(pair.Key[:0], key...)
			pair.Value = append(pair.Value[:0], value...)
			n++
			return yield(pair, nil) && (r.Limit == 0 || n < r.Limit)
		}
		each(pairs, r, visit)
	}
}

// Drop removes the keys of r, a key at a time under the lock of the partition.
func (d *Driver) Drop(ctx context.Context, p storage.Partition, r storage.Range) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	part := d.lookup(p)
	if part == nil {
		return nil
	}
	part.mu.Lock()
	defer part.mu.Unlock()
	r.Reverse = false
	each(part.pairs.Copy(), r, func(key string, _ []byte) bool {
		part.pairs.Delete(key)
		return true
	})
	return nil
}

// Stores yields every store that holds a key, ordered by id.
func (d *Driver) Stores(ctx context.Context) iter.Seq2[runnel.Store, error] {
	return func(yield func(runnel.Store, error) bool) {
		var last runnel.Store
		first := true
		d.eachHeld(ctx, "", func(p storage.Partition, err error) bool {
			if err != nil {
				return yield(runnel.Store{}, err)
			}
			if !first && p.Store == last {
				return true
			}
			first, last = false, p.Store
			return yield(p.Store, nil)
		})
	}
}

// Partitions yields the partitions of store that hold a key, ordered by name, beginning at from.
func (d *Driver) Partitions(ctx context.Context, store runnel.Store, from string) iter.Seq2[storage.Partition, error] {
	return func(yield func(storage.Partition, error) bool) {
		start := partitionKey(storage.Partition{Store: store, Name: from})
		d.eachHeld(ctx, start, func(p storage.Partition, err error) bool {
			if err == nil && p.Store != store {
				return false
			}
			return yield(p, err)
		})
	}
}

// Close does nothing and returns nil; see Driver.
func (d *Driver) Close() error { return nil }

// check refuses what the contract or a limit forbids.
func (d *Driver) check(b *storage.Batch) error {
	refuse := func(format string, args ...any) error {
		return fmt.Errorf("memory: %w: "+format, append([]any{storage.ErrRefused}, args...)...)
	}
	if d.Shared && !b.Guarded {
		return refuse("a shared driver takes guarded batches only")
	}
	if limit := d.Max.MaxBatchOps; limit > 0 && len(b.Ops) > limit {
		return refuse("the batch has %d changes, the limit is %d", len(b.Ops), limit)
	}
	if size, limit := b.Size(), d.Max.MaxBatchBytes; limit > 0 && size > limit {
		return refuse("the batch has %d bytes, the limit is %d", size, limit)
	}
	for i := range b.Ops {
		op := &b.Ops[i]
		if n := len(op.Key); n == 0 || n > storage.MaxKeyBytes {
			return refuse("a key has %d bytes, it must have 1 to %d", n, storage.MaxKeyBytes)
		}
		if n, limit := len(op.Head)+len(op.Body), d.Max.MaxValueBytes; limit > 0 && n > limit {
			return refuse("a value has %d bytes, the limit is %d", n, limit)
		}
	}
	return nil
}

// lookup returns nil for a partition that has never been committed to.
func (d *Driver) lookup(p storage.Partition) *partition {
	d.mu.RLock()
	defer d.mu.RUnlock()
	part, _ := d.partitions.Get(partitionKey(p))
	return part
}

// partition returns the partition, made if need be.
func (d *Driver) partition(p storage.Partition) *partition {
	if part := d.lookup(p); part != nil {
		return part
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	key := partitionKey(p)
	part, ok := d.partitions.Get(key)
	if !ok {
		part = &partition{name: p}
		d.partitions.Set(key, part)
	}
	return part
}

// eachHeld visits the partitions that hold a key, from the partitionKey start on, until visit returns
// false. It holds no lock while visit runs.
func (d *Driver) eachHeld(ctx context.Context, start string, visit func(storage.Partition, error) bool) {
	d.mu.Lock() // and not RLock: Copy marks the original too
	partitions := d.partitions.Copy()
	d.mu.Unlock()
	partitions.Ascend(start, func(_ string, part *partition) bool {
		if err := ctx.Err(); err != nil {
			visit(storage.Partition{}, err)
			return false
		}
		part.mu.RLock()
		held := part.pairs.Len() > 0
		part.mu.RUnlock()
		return !held || visit(part.name, nil)
	})
}

// snapshot returns the pairs as they are now. It costs the same however many there are: later commits
// copy the nodes that they change.
func (p *partition) snapshot() *btree.Map[string, []byte] {
	p.mu.Lock() // and not RLock: Copy marks the original too
	defer p.mu.Unlock()
	return p.pairs.Copy()
}

// each visits the keys of r in its direction until visit returns false. It ignores r.Limit.
func each(pairs *btree.Map[string, []byte], r storage.Range, visit func(key string, value []byte) bool) {
	if r.From != nil && r.To != nil && bytes.Compare(r.From, r.To) >= 0 {
		return
	}
	from, to := string(r.From), string(r.To)
	if !r.Reverse {
		pairs.Ascend(from, func(key string, value []byte) bool {
			return (r.To == nil || key < to) && visit(key, value)
		})
		return
	}
	down := func(key string, value []byte) bool {
		if r.To != nil && key == to { // To itself is outside, and is where Descend starts
			return true
		}
		return key >= from && visit(key, value)
	}
	if r.To == nil {
		pairs.Reverse(down)
		return
	}
	pairs.Descend(to, down)
}
