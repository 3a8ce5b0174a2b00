package pebblestore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/storage"
)

const (
	// maxBatchBytes bounds a batch, and with it a value. Pebble itself takes 4 GiB. A batch is in memory
	// twice while it commits, and one larger than half a memtable is flushed by itself; at this size that
	// still fits a small server, and what is larger should have been split.
	maxBatchBytes = 256 << 20

	// flushDelay is how long a dropped range may wait in the memtable.
	flushDelay = 10 * time.Second
	// scarceFlushDelay is the same for all that is removed when space has run out.
	scarceFlushDelay = time.Second
)

// Driver is an open database. It is exclusive: the directory is locked while it is open.
type Driver struct {
	db       *pebble.DB
	fence    *fence
	stop     *stop
	room     *room
	guards   guards
	underway sync.WaitGroup // commits, those that their callers gave up on included
	flushing atomic.Bool    // soon
	writes   atomic.Uint64  // that have been begun
}

var (
	_ storage.Driver = (*Driver)(nil)
	_ storage.Gauge  = (*Driver)(nil)
)

// Open opens the database in dir, made with its parents if need be, and recovers what was acknowledged
// before a crash. It fails if another Driver, in this or another process, has the directory open.
func Open(dir string, cfg Config) (*Driver, error) {
	cfg = cfg.withDefaults()
	stop := newStop(cfg.Logger)
	opts := cfg.options(stop)
	if opts.FS = cfg.FS; opts.FS == nil {
		opts.WithFSDefaults()
	}
	fence := &fence{
		FS: opts.FS, stop: stop,
		room: newRoom(opts.FS, dir, cfg.KeepFreeBytes, cfg.Logger),
		fill: int64(min(fillBytes, cfg.MemTableBytes)),
	}
	opts.FS = fence
	fence.room.open()

	db, err := open(dir, opts, stop)
	if err != nil {
		// Pebble may still be running. It must not meet whoever opens dir next.
		stop.seal(err)
		fence.drain()
		_ = fence.unlock()
		fence.room.close()
		return nil, fmt.Errorf("pebblestore: open %s: %w", dir, err)
	}
	return &Driver{db: db, fence: fence, stop: stop, room: fence.room}, nil
}

// open gives up on Pebble when the stop is set: the goroutine that met the error does not return.
func open(dir string, opts *pebble.Options, stop *stop) (*pebble.DB, error) {
	var db *pebble.DB
	done := make(chan error, 1)
	go func() {
		defer stop.recover()
		var err error
		db, err = pebble.Open(dir, opts)
		done <- err
	}()
	select {
	case err := <-done:
		return db, explain(err)
	case <-stop.ch:
		return nil, stop.err
	}
}

// Limits returns the bounds of a batch, and that the database is exclusive to the process.
func (d *Driver) Limits() storage.Limits {
	return storage.Limits{MaxValueBytes: maxBatchBytes, MaxBatchBytes: maxBatchBytes, Exclusive: true}
}

// Close waits for commits under way, syncs the log and releases everything. After a failure it returns
// an error that matches ErrFailed at once: it gives up the directory, which nothing will change any
// more, and leaves what Pebble holds in memory behind.
func (d *Driver) Close() error {
	d.room.close()
	if d.stop.cause() == nil {
		done := make(chan error, 1)
		go func() {
			defer d.stop.recover()
			d.underway.Wait()
			done <- d.db.Close()
		}()
		select {
		case err := <-done:
			if err != nil {
				return fmt.Errorf("pebblestore: close: %w", err)
			}
			return nil
		case <-d.stop.ch:
		}
	}
	d.fence.drain()
	return errors.Join(d.failed(), d.fence.unlock())
}

// Full returns nil while small batches are taken, and otherwise a *storage.FullError.
func (d *Driver) Full(reserve bool) error { return d.room.full(reserve) }

// Writes returns how many writes have been begun since Open. It never blocks.
func (d *Driver) Writes() uint64 { return d.writes.Load() }

// Metrics returns what Pebble measures. The caller owns the result. After a failure it may block.
func (d *Driver) Metrics() *pebble.Metrics { return d.db.Metrics() }

// DiskUsage returns the bytes that the database takes up on disk: tables, logs, and files that are
// waiting to be removed. After a failure it may block.
func (d *Driver) DiskUsage() uint64 { return d.db.Metrics().DiskSpaceUsage() }

// Compact writes all data out to the last level, so that DiskUsage tells what it takes at rest. It is
// for tests and measurements: a running database does this by itself, a little at a time.
func (d *Driver) Compact(ctx context.Context) error {
	end := bytes.Repeat([]byte{0xff}, storeLen+runnel.MaxSpaceBytes+1) // beyond every key
	done := make(chan error, 1)
	go func() {
		defer d.stop.recover()
		done <- d.db.Compact(ctx, []byte{0}, end, true)
	}()
	select {
	case err := <-done:
		return err
	case <-d.stop.ch:
		return d.failed()
	}
}

// failed returns the error of every commit after the stop.
func (d *Driver) failed() error {
	return fmt.Errorf("pebblestore: %w: %w", storage.ErrFailed, d.stop.cause())
}

// flushSoon sees to it that what was removed gives its space back when there is none to spare. It would
// wait in the memtable for other writes to push it out, which are refused.
func (d *Driver) flushSoon() {
	if !d.room.scarce() || !d.flushing.CompareAndSwap(false, true) {
		return
	}
	d.underway.Go(func() {
		defer d.stop.recover()
		select {
		case <-time.After(scarceFlushDelay):
		case <-d.room.closing:
		case <-d.stop.ch:
		}
		d.flushing.Store(false)
		if _, err := d.db.AsyncFlush(); err != nil {
			d.room.log.Error("pebblestore: flush", "error", err)
		}
	})
}
