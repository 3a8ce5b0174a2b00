package pebblestore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/cockroachdb/pebble/v2"

	"github.com/runnelhq/runnel/storage"
)

// Commit writes b as one Pebble batch and waits until the log is synced. A guarded commit holds the
// partition's guard from reading it to the sync, so guarded commits to one partition follow one
// another; all others share syncs.
//
// A context that has already ended gives ErrRefused. One that ends while the commit waits for the disk
// gives ErrUnknown, and the commit goes on: it is under way until Close.
func (d *Driver) Commit(ctx context.Context, p storage.Partition, b *storage.Batch) (storage.Version, error) {
	if err := d.admit(ctx, p); err != nil {
		return 0, err
	}
	if err := checkBatch(b); err != nil {
		return 0, err
	}
	if !b.Guarded {
		batch := d.newBatch(p, b)
		if len(b.Ops) == 0 {
			// Pebble leaves out a batch without content, and with it the sync that makes an earlier Drop
			// durable.
			_ = batch.LogData(nil, nil)
		}
		return 0, d.commit(ctx, batch, b, nil)
	}

	if err := d.guards.lock(ctx, d.stop, p); err != nil {
		return 0, d.admit(ctx, p)
	}
	release := func() { d.guards.unlock(p) }
	version, _, err := d.guard(p)
	if err != nil {
		release()
		return 0, fmt.Errorf("pebblestore: %w: reading the guard: %w", storage.ErrUnknown, err)
	}
	if version != b.Expect {
		release()
		return 0, fmt.Errorf("pebblestore: %w: the version is %d, not %d", storage.ErrConflict, version, b.Expect)
	}
	version++
	batch := d.newBatch(p, b)
	op := batch.SetDeferred(prefixLen(p), guardLen)
	appendPrefix(op.Key[:0], p, kindGuard)
	encodeGuard(op.Value, version, b.ID)
	_ = op.Finish()
	if err := d.commit(ctx, batch, b, release); err != nil {
		return 0, err
	}
	return version, nil
}

// Guard returns the version of the partition and the id of its last guarded commit. While a commit is
// under way it may already return that commit's.
func (d *Driver) Guard(ctx context.Context, p storage.Partition) (storage.Version, storage.CommitID, error) {
	if err := ctx.Err(); err != nil {
		return 0, storage.CommitID{}, err
	}
	if err := checkPartition(p); err != nil {
		return 0, storage.CommitID{}, err
	}
	return d.guard(p)
}

// Drop removes the range with one range deletion, whatever it holds. The deletion is in the log before
// Drop returns, and on disk with the next commit to any partition, because the log keeps its order.
func (d *Driver) Drop(ctx context.Context, p storage.Partition, r storage.Range) error {
	if err := d.admit(ctx, p); err != nil {
		return err
	}
	lower, upper, ok := bounds(p, r)
	if !ok {
		return nil
	}
	batch := d.db.NewBatch()
	if err := batch.DeleteRange(lower, upper, nil); err != nil {
		return fmt.Errorf("pebblestore: drop: %w", err)
	}
	if err := d.write(ctx, batch, pebble.NoSync, true, nil); err != nil {
		return err
	}
	d.flushSoon()
	return nil
}

// admit refuses to begin a change after a failure, after the end of ctx, or in a partition that cannot
// be.
func (d *Driver) admit(ctx context.Context, p storage.Partition) error {
	if d.stop.cause() != nil {
		return d.failed()
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("pebblestore: %w: %w", storage.ErrRefused, err)
	}
	return checkPartition(p)
}

func checkBatch(b *storage.Batch) error {
	refuse := func(what string, n, limit int) error {
		return fmt.Errorf("pebblestore: %w: %s has %d bytes, the limit is %d", storage.ErrRefused, what, n, limit)
	}
	size := 0
	for i := range b.Ops {
		op := &b.Ops[i]
		if len(op.Key) == 0 {
			return fmt.Errorf("pebblestore: %w: a key is empty", storage.ErrRefused)
		}
		if len(op.Key) > storage.MaxKeyBytes {
			return refuse("a key", len(op.Key), storage.MaxKeyBytes)
		}
		if n := len(op.Head) + len(op.Body); n > maxBatchBytes {
			return refuse("a value", n, maxBatchBytes)
		}
		if size += op.Size(); size > maxBatchBytes {
			return refuse("the batch", b.Size(), maxBatchBytes)
		}
	}
	return nil
}

// newBatch copies the changes of b, each byte once, into a batch of Pebble's, which Pebble keeps a pool
// of.
func (d *Driver) newBatch(p storage.Partition, b *storage.Batch) *pebble.Batch {
	const perOp = 1 + 2*5 // the kind and two lengths, at most
	prefix := prefixLen(p)
	size := 64 + 2*perOp + prefix + guardLen
	for i := range b.Ops {
		size += perOp + prefix + b.Ops[i].Size()
	}
	batch := d.db.NewBatchWithSize(size)
	for i := range b.Ops {
		op := &b.Ops[i]
		if op.Delete {
			to := batch.DeleteDeferred(prefix + len(op.Key))
			copy(to.Key[len(appendPrefix(to.Key[:0], p, kindData)):], op.Key)
			_ = to.Finish() // fails only on an indexed batch
			continue
		}
		to := batch.SetDeferred(prefix+len(op.Key), len(op.Head)+len(op.Body))
		copy(to.Key[len(appendPrefix(to.Key[:0], p, kindData)):], op.Key)
		copy(to.Value[copy(to.Value, op.Head):], op.Body)
		_ = to.Finish()
	}
	return batch
}

// commit writes what was made of b.
func (d *Driver) commit(ctx context.Context, batch *pebble.Batch, b *storage.Batch, after func()) error {
	if err := d.write(ctx, batch, pebble.Sync, b.Reserve, after); err != nil {
		return err
	}
	if b.Reserve && slices.ContainsFunc(b.Ops, func(op storage.Op) bool { return op.Delete }) {
		d.flushSoon()
	}
	return nil
}

// write commits batch, which belongs to it from then on, if there is room for it, and calls after, if
// there is one, when the commit is over.
//
// Pebble and the file system are called on a goroutine of its own. A commit waits there for others, for stalls and for the
// disk, and after a failure for good; the caller can leave it behind.
func (d *Driver) write(ctx context.Context, batch *pebble.Batch, sync *pebble.WriteOptions, reserve bool, after func()) error {
	d.writes.Add(1)
	done := make(chan error, 1)
	d.underway.Go(func() {
		if after != nil {
			defer after()
		}
		defer d.stop.recover()
		need := int64(2 * batch.Len()) // in the log, and in a table
		if err := d.room.take(need, reserve); err != nil {
			done <- err
			_ = batch.Close()
			return
		}
		defer d.room.settle(need)
		if err := batch.Commit(sync); err != nil {
			done <- fmt.Errorf("%w: %w", storage.ErrRefused, err) // Pebble did not begin: it reports any later error as fatal
			return
		}
		done <- nil
		_ = batch.Close()
	})
	select {
	case err := <-done:
		if err != nil {
			return fmt.Errorf("pebblestore: %w", err)
		}
		return nil
	case <-d.stop.ch:
		return d.failed()
	case <-ctx.Done():
		return fmt.Errorf("pebblestore: %w: %w", storage.ErrUnknown, ctx.Err())
	}
}

func (d *Driver) guard(p storage.Partition) (storage.Version, storage.CommitID, error) {
	value, closer, err := d.db.Get(appendPrefix(make([]byte, 0, prefixLen(p)), p, kindGuard))
	if errors.Is(err, pebble.ErrNotFound) {
		return 0, storage.CommitID{}, nil
	}
	if err != nil {
		return 0, storage.CommitID{}, fmt.Errorf("pebblestore: guard: %w", err)
	}
	defer func() { _ = closer.Close() }() // a read has nothing to lose
	return decodeGuard(value)
}

// guards holds the partitions that a guarded commit is under way in. The zero guards holds none.
type guards struct {
	mu   sync.Mutex
	held map[storage.Partition]chan struct{} // closed when the partition is free
}

// lock takes the guard of p. It fails when ctx ends first, or everything stops.
func (g *guards) lock(ctx context.Context, stop *stop, p storage.Partition) error {
	for {
		g.mu.Lock()
		free, ok := g.held[p]
		if !ok {
			if g.held == nil {
				g.held = map[storage.Partition]chan struct{}{}
			}
			g.held[p] = make(chan struct{})
			g.mu.Unlock()
			return nil
		}
		g.mu.Unlock()
		select {
		case <-free:
		case <-ctx.Done():
			return ctx.Err()
		case <-stop.ch:
			return stop.err
		}
	}
}

func (g *guards) unlock(p storage.Partition) {
	g.mu.Lock()
	defer g.mu.Unlock()
	close(g.held[p])
	delete(g.held, p)
}
