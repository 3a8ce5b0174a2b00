package engine

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/storage"
)

// Config tunes an engine. The zero Config is right for most programs.
type Config struct {
	// TailCacheBytes is how much memory the payloads of the latest entries may take, over all segments.
	// 0 means DefaultTailCacheBytes.
	TailCacheBytes int64
	// MaxSegments is how many segments may be in memory while nobody uses them. One takes about a
	// kilobyte. 0 means DefaultMaxSegments.
	MaxSegments int
	// MaxReadBytes bounds the memory for large entries that are being read from storage, over all
	// readers. A reader whose next entry finds no room waits for others, up to ten seconds, and then fails
	// with runnel.ErrUnavailable. An entry larger than the bound is read alone. 0 means
	// DefaultMaxReadBytes.
	MaxReadBytes int64
	// MaxSubscriptions is how many subscriptions a store may have. They are kept in memory, about 2 KiB each.
	// Those that are made at the same time may exceed it a little. 0 means DefaultMaxSubscriptions.
	MaxSubscriptions int
	// SweepInterval is how often expiry and retention of unused segments are looked after. It does not
	// decide what a reader sees, only when space is given back. 0 means DefaultSweepInterval; negative
	// means never.
	SweepInterval time.Duration
	// PollInterval is how often a waiting reader looks by itself when other processes share the driver.
	// 0 means DefaultPollInterval.
	PollInterval time.Duration
	// ItemHistory is for how long at least the changes of items are kept, for those who come back to go on
	// where they were. What is older is let go where the history is much longer than the items themselves.
	// 0 means DefaultItemHistory; negative means that all of it is kept.
	ItemHistory time.Duration
	// MaxViewBytes is how much the rows of items may take that one view holds, in bytes. A page of items ends before it has
	// more; a view that is no page fails with runnel.ErrTooLarge. 0 means DefaultMaxViewBytes.
	MaxViewBytes int64
	// Now is the clock, by default time.Now. Timestamps are kept from going back whatever it says.
	Now func() time.Time
	// Logger is told what happens in the background. Nil means slog.Default().
	Logger *slog.Logger
}

// Defaults of Config.
const (
	DefaultTailCacheBytes   = 32 << 20
	DefaultMaxSegments      = 16 << 10
	DefaultMaxReadBytes     = 256 << 20
	DefaultMaxSubscriptions = 100_000
	DefaultSweepInterval    = 10 * time.Second
	DefaultPollInterval     = 250 * time.Millisecond
	DefaultItemHistory      = 24 * time.Hour
	DefaultMaxViewBytes     = 64 << 20
)

func (c Config) withDefaults() Config {
	c.TailCacheBytes = cmp.Or(c.TailCacheBytes, DefaultTailCacheBytes)
	c.MaxSegments = cmp.Or(c.MaxSegments, DefaultMaxSegments)
	c.MaxReadBytes = cmp.Or(c.MaxReadBytes, DefaultMaxReadBytes)
	c.MaxSubscriptions = cmp.Or(c.MaxSubscriptions, DefaultMaxSubscriptions)
	c.SweepInterval = cmp.Or(c.SweepInterval, DefaultSweepInterval)
	c.PollInterval = cmp.Or(c.PollInterval, DefaultPollInterval)
	c.ItemHistory = cmp.Or(c.ItemHistory, DefaultItemHistory)
	c.MaxViewBytes = cmp.Or(c.MaxViewBytes, DefaultMaxViewBytes)
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return c
}

// Engine is the log over one driver. All methods may be called concurrently.
type Engine struct {
	driver     storage.Driver
	gauge      storage.Gauge // the driver, if it knows how much space it has
	limits     storage.Limits
	cfg        Config
	cache      *tailCache
	large      *semaphore.Weighted // bytes of large entries that are being read
	watch      watchers
	statuses   statuses
	itemEvents itemEvents
	id         [16]byte // tells this engine from every other

	// ctx ends when the engine closes; commits and background work run under it.
	ctx    context.Context //nolint:containedctx // the engine's own life, not an operation's
	cancel context.CancelFunc
	failed atomic.Pointer[failure]

	mu       sync.Mutex
	closing  bool
	spaces   map[storage.Partition]*space
	resident atomic.Int64 // segments in memory
	crowded  atomic.Int64 // how many there may be before room is looked for again

	// closed wakes everybody who waits when the engine closes. Then operations end, then committers.
	// Then done is closed.
	closed     chan struct{}
	done       chan struct{}
	operations sync.WaitGroup
	committers sync.WaitGroup

	cleaner       cleaner
	subscriptions subscriptions
	// unreference is held while a fork's claim on its source is taken back.
	unreference gate
}

type failure struct{ err error }

// Open starts an engine over a driver. The driver stays the caller's, who closes it after the engine.
func Open(driver storage.Driver, cfg Config) (*Engine, error) {
	limits := driver.Limits()
	if most := limits.MaxBatchBytes; most > 0 && most < minBatchBytes {
		return nil, fmt.Errorf("engine: the driver takes batches of %d bytes, at least %d are needed", most, minBatchBytes)
	}
	if most := limits.MaxBatchOps; most > 0 && most < minBatchOps {
		return nil, fmt.Errorf("engine: the driver takes batches of %d operations, at least %d are needed", most, minBatchOps)
	}
	if most := limits.MaxValueBytes; most > 0 && most < minValueBytes {
		return nil, fmt.Errorf("engine: the driver takes values of %d bytes, at least %d are needed", most, minValueBytes)
	}
	e := &Engine{
		driver: driver,
		limits: limits,
		cfg:    cfg.withDefaults(),
		spaces: make(map[storage.Partition]*space),
		closed: make(chan struct{}),
		done:   make(chan struct{}),

		unreference: newGate(),
	}
	e.gauge, _ = driver.(storage.Gauge)
	_, _ = rand.Read(e.id[:]) // which never fails
	e.large = semaphore.NewWeighted(e.cfg.MaxReadBytes)
	e.cache = newTailCache(e.cfg.TailCacheBytes)
	e.ctx, e.cancel = context.WithCancel(context.Background())
	e.cleaner.start(e)
	e.subscriptions.start(e)
	return e, nil
}

// The smallest values and batches with which every operation of the engine can be committed at once.
const (
	minValueBytes = 4 << 10
	minBatchBytes = 16 << 10
	minBatchOps   = 16
)

// Close refuses new operations, ends those that wait, lets staged writes become durable, and writes
// down what was kept in memory to save writes. It does not close the driver.
func (e *Engine) Close() error {
	e.mu.Lock()
	if e.closing {
		e.mu.Unlock()
		<-e.done
		return e.Err()
	}
	e.closing = true
	e.mu.Unlock()
	defer close(e.done)
	close(e.closed)
	e.cleaner.stop()
	e.subscriptions.stop()
	e.operations.Wait()
	e.flushAccess()
	e.committers.Wait()
	e.cancel()
	return e.Err()
}

// begin marks the start of something that needs the driver open. Whoever began it calls
// e.operations.Done.
func (e *Engine) begin() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closing {
		return runnel.ErrShutdown
	}
	e.operations.Add(1)
	return nil
}

func (e *Engine) isClosing() bool {
	select {
	case <-e.closed:
		return true
	default:
		return false
	}
}

// Err returns nil while the engine can write, and afterwards an error that matches runnel.ErrFailed.
func (e *Engine) Err() error {
	if f := e.failed.Load(); f != nil {
		return f.err
	}
	return nil
}

// fail makes the engine refuse all writes for good.
func (e *Engine) fail(err error) {
	f := &failure{fmt.Errorf("%w: %w", runnel.ErrFailed, err)}
	if e.failed.CompareAndSwap(nil, f) {
		e.cfg.Logger.Error("storage failed; no further write is acknowledged", "error", err)
	}
}

func (e *Engine) now() int64 { return e.cfg.Now().UnixMicro() }

// storageError turns an error of the driver's read path into one for the caller.
func storageError(err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	if errors.Is(err, storage.ErrFailed) {
		return fmt.Errorf("%w: %w", runnel.ErrFailed, err)
	}
	return fmt.Errorf("runnel: reading storage: %w", err)
}
