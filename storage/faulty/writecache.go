package faulty

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"iter"
	"maps"
	"slices"
	"sync"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/storage"
)

// WriteCache stands in front of a driver as a volatile cache stands in front of a disk. While it holds,
// a commit can be read at once, as with Pebble, but returns only when Sync has made it durable; Crash
// loses it instead. A cache that does not hold passes everything on.
//
// The cache outlives the drivers that Open returns, as a disk outlives a process.
type WriteCache struct {
	inner storage.Driver

	mu         sync.Mutex
	holding    bool
	generation int // counts crashes
	held       []*held
	overlays   map[storage.Partition]*overlay
}

// held is a change that inner does not have yet.
type held struct {
	p     storage.Partition
	batch *storage.Batch // nil for a drop
	drop  storage.Range
	done  chan error // with room for the answer; nil for a drop
}

// overlay is what the held changes do to a partition.
type overlay struct {
	pairs   map[string]row
	guarded bool // the two below count
	version storage.Version
	id      storage.CommitID
}

// row is what a key was set to last, if it was not deleted after.
type row struct {
	value   []byte
	deleted bool
}

// NewWriteCache returns a cache in front of inner that does not hold.
func NewWriteCache(inner storage.Driver) *WriteCache {
	return &WriteCache{inner: inner, overlays: map[storage.Partition]*overlay{}}
}

// Open returns a driver on the cache. After a crash all of its calls fail, as those of a process that
// is gone. Closing it closes nothing else.
func (c *WriteCache) Open() (storage.Driver, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return &cached{c: c, generation: c.generation}, nil
}

// Hold makes every change from now on wait for Sync. It must not be called while changes are under way.
func (c *WriteCache) Hold() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.holding = true
}

// Held returns how many changes, commits and drops, wait for Sync.
func (c *WriteCache) Held() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.held)
}

// Sync makes durable what is held, in order, and lets the commits return. The cache goes on holding.
func (c *WriteCache) Sync() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.settle(len(c.held))
}

// Release is Sync, and the end of holding.
func (c *WriteCache) Release() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.settle(len(c.held))
	c.holding = false
}

// Crash loses what is held, except for the oldest survivors changes, which a crash may well leave on the
// disk. All commits under way return ErrUnknown, and the drivers that were open fail. The cache goes on
// holding, if it did.
func (c *WriteCache) Crash(survivors int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.generation++
	for _, h := range c.held {
		h.answer(errCrashed)
	}
	c.settle(min(survivors, len(c.held)))
}

var errCrashed = fmt.Errorf("faulty: %w: the power went out", storage.ErrUnknown)

// settle hands the first n held changes to the inner driver, answers them unless they have an answer,
// and forgets the others. c.mu must be held.
func (c *WriteCache) settle(n int) {
	ctx := context.Background()
	for _, h := range c.held[:n] {
		if h.batch == nil {
			if err := c.inner.Drop(ctx, h.p, h.drop); err != nil {
				// The caller of Drop has long gone on. What the test then finds is the inner driver's fault.
				panic(fmt.Sprintf("faulty: a drop that was held back failed: %v", err))
			}
			continue
		}
		_, err := c.inner.Commit(ctx, h.p, h.batch)
		h.answer(err)
	}
	c.held = nil
	clear(c.overlays)
}

// answer gives the waiting commit its answer, of which the first counts.
func (h *held) answer(err error) {
	if h.done == nil {
		return
	}
	select {
	case h.done <- err:
	default:
	}
}

// overlay returns the overlay of a partition, made if need be. c.mu must be held.
func (c *WriteCache) overlay(p storage.Partition) *overlay {
	o := c.overlays[p]
	if o == nil {
		o = &overlay{pairs: map[string]row{}}
		c.overlays[p] = o
	}
	return o
}

// guard returns the guard as it can be read. c.mu must be held.
func (c *WriteCache) guard(ctx context.Context, p storage.Partition) (storage.Version, storage.CommitID, error) {
	if o := c.overlays[p]; o != nil && o.guarded {
		return o.version, o.id, nil
	}
	return c.inner.Guard(ctx, p)
}

// pairs returns the pairs of a range as they can be read, in the order of the range. c.mu must be held.
func (c *WriteCache) pairs(ctx context.Context, p storage.Partition, r storage.Range) ([]storage.Pair, error) {
	all := map[string]row{}
	for kv, err := range c.inner.Scan(ctx, p, storage.Range{From: r.From, To: r.To}) {
		if err != nil {
			return nil, err
		}
		all[string(kv.Key)] = row{value: bytes.Clone(kv.Value)}
	}
	if o := c.overlays[p]; o != nil {
		for key, row := range o.pairs {
			if key >= string(r.From) && (r.To == nil || key < string(r.To)) {
				all[key] = row
			}
		}
	}
	var pairs []storage.Pair
	for _, key := range slices.Sorted(maps.Keys(all)) {
		if row := all[key]; !row.deleted {
			pairs = append(pairs, storage.Pair{Key: []byte(key), Value: bytes.Clone(row.value)})
		}
	}
	if r.Reverse {
		slices.Reverse(pairs)
	}
	if r.Limit > 0 {
		pairs = pairs[:min(r.Limit, len(pairs))]
	}
	return pairs, nil
}

// partitions returns the partitions that can be seen to hold a key, in order. c.mu must be held.
func (c *WriteCache) partitions(ctx context.Context) ([]storage.Partition, error) {
	candidates := map[storage.Partition]bool{}
	for store, err := range c.inner.Stores(ctx) {
		if err != nil {
			return nil, err
		}
		for p, err := range c.inner.Partitions(ctx, store, "") {
			if err != nil {
				return nil, err
			}
			candidates[p] = true
		}
	}
	for p := range c.overlays {
		candidates[p] = true
	}
	var holding []storage.Partition
	for p := range candidates {
		pairs, err := c.pairs(ctx, p, storage.Range{})
		if err != nil {
			return nil, err
		}
		if len(pairs) > 0 {
			holding = append(holding, p)
		}
	}
	slices.SortFunc(holding, func(a, b storage.Partition) int {
		return cmp.Or(bytes.Compare(a.Store[:], b.Store[:]), cmp.Compare(a.Name, b.Name))
	})
	return holding, nil
}

// cached is a driver on a cache, until the next crash.
type cached struct {
	c          *WriteCache
	generation int
}

var _ storage.Driver = (*cached)(nil)

// lock takes the cache's lock, unless the driver was lost in a crash or ctx has ended.
func (d *cached) lock(ctx context.Context) error {
	d.c.mu.Lock()
	err := ctx.Err()
	if d.generation != d.c.generation {
		err = fmt.Errorf("faulty: %w: the power went out", storage.ErrFailed)
	}
	if err != nil {
		d.c.mu.Unlock()
	}
	return err
}

func (d *cached) Limits() storage.Limits { return d.c.inner.Limits() }

func (d *cached) Commit(ctx context.Context, p storage.Partition, b *storage.Batch) (storage.Version, error) {
	if ctx.Err() != nil {
		return d.c.inner.Commit(ctx, p, b) // which knows how it refuses
	}
	if err := d.lock(ctx); err != nil {
		return 0, err
	}
	if !d.c.holding {
		d.c.mu.Unlock()
		return d.c.inner.Commit(ctx, p, b)
	}
	done, version, err := d.c.hold(ctx, p, b)
	d.c.mu.Unlock()
	if err != nil {
		return 0, err
	}
	select {
	case err := <-done:
		if err != nil {
			return 0, err
		}
		return version, nil
	case <-ctx.Done():
		return 0, fmt.Errorf("faulty: %w: %w", storage.ErrUnknown, ctx.Err())
	}
}

// hold lays a commit over what can be read, and returns where its answer will come from. What the inner
// driver refuses it refuses when it gets the batch. c.mu must be held.
func (c *WriteCache) hold(ctx context.Context, p storage.Partition, b *storage.Batch) (<-chan error, storage.Version, error) {
	var version storage.Version
	if b.Guarded {
		v, _, err := c.guard(ctx, p)
		if err != nil {
			return nil, 0, fmt.Errorf("faulty: %w: %w", storage.ErrUnknown, err)
		}
		if v != b.Expect {
			return nil, 0, fmt.Errorf("faulty: %w: the version is %d, not %d", storage.ErrConflict, v, b.Expect)
		}
		version = v + 1
	} else if !c.inner.Limits().Exclusive {
		return nil, 0, fmt.Errorf("faulty: %w: a shared driver takes guarded batches only", storage.ErrRefused)
	}

	kept := *b
	kept.Ops = slices.Clone(b.Ops)
	o := c.overlay(p)
	if b.Guarded {
		o.guarded, o.version, o.id = true, version, b.ID
	}
	for i := range kept.Ops {
		op := &kept.Ops[i]
		op.Key, op.Head, op.Body = bytes.Clone(op.Key), bytes.Clone(op.Head), bytes.Clone(op.Body)
		o.pairs[string(op.Key)] = row{value: slices.Concat(op.Head, op.Body), deleted: op.Delete}
	}
	h := &held{p: p, batch: &kept, done: make(chan error, 1)}
	c.held = append(c.held, h)
	return h.done, version, nil
}

func (d *cached) Guard(ctx context.Context, p storage.Partition) (storage.Version, storage.CommitID, error) {
	if err := d.lock(ctx); err != nil {
		return 0, storage.CommitID{}, err
	}
	defer d.c.mu.Unlock()
	return d.c.guard(ctx, p)
}

func (d *cached) Get(ctx context.Context, p storage.Partition, key []byte) ([]byte, error) {
	if err := d.lock(ctx); err != nil {
		return nil, err
	}
	defer d.c.mu.Unlock()
	if o := d.c.overlays[p]; o != nil {
		if row, ok := o.pairs[string(key)]; ok {
			if row.deleted {
				return nil, storage.ErrKeyNotFound
			}
			return bytes.Clone(row.value), nil
		}
	}
	return d.c.inner.Get(ctx, p, key)
}

func (d *cached) Scan(ctx context.Context, p storage.Partition, r storage.Range) iter.Seq2[storage.Pair, error] {
	return func(yield func(storage.Pair, error) bool) {
		yieldAll(ctx, d, yield, func() ([]storage.Pair, error) { return d.c.pairs(ctx, p, r) })
	}
}

func (d *cached) Drop(ctx context.Context, p storage.Partition, r storage.Range) error {
	if err := d.lock(ctx); err != nil {
		return err
	}
	defer d.c.mu.Unlock()
	if !d.c.holding {
		return d.c.inner.Drop(ctx, p, r)
	}
	r = storage.Range{From: bytes.Clone(r.From), To: bytes.Clone(r.To)}
	pairs, err := d.c.pairs(ctx, p, r)
	if err != nil {
		return err
	}
	o := d.c.overlay(p)
	for _, kv := range pairs {
		o.pairs[string(kv.Key)] = row{deleted: true}
	}
	d.c.held = append(d.c.held, &held{p: p, drop: r})
	return nil
}

func (d *cached) Stores(ctx context.Context) iter.Seq2[runnel.Store, error] {
	return func(yield func(runnel.Store, error) bool) {
		yieldAll(ctx, d, yield, func() (stores []runnel.Store, err error) {
			partitions, err := d.c.partitions(ctx)
			for _, p := range partitions {
				stores = append(stores, p.Store)
			}
			return slices.Compact(stores), err
		})
	}
}

func (d *cached) Partitions(ctx context.Context, store runnel.Store, from string) iter.Seq2[storage.Partition, error] {
	return func(yield func(storage.Partition, error) bool) {
		yieldAll(ctx, d, yield, func() ([]storage.Partition, error) {
			partitions, err := d.c.partitions(ctx)
			return slices.DeleteFunc(partitions, func(p storage.Partition) bool {
				return p.Store != store || p.Name < from
			}), err
		})
	}
}

// Close leaves the inner driver open, for the next that Open returns.
func (d *cached) Close() error { return nil }

// yieldAll reads under the lock and yields without it, until ctx ends.
func yieldAll[T any](ctx context.Context, d *cached, yield func(T, error) bool, read func() ([]T, error)) {
	var all []T
	err := d.lock(ctx)
	if err == nil {
		all, err = read()
		d.c.mu.Unlock()
	}
	for i := 0; err == nil && i < len(all); i++ {
		if !yield(all[i], nil) {
			return
		}
		err = ctx.Err()
	}
	if err != nil {
		var none T
		yield(none, err)
	}
}
