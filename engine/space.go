package engine

import (
	"context"
	"encoding/binary"
	"errors"
	"sync"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/record"
	"github.com/runnelhq/runnel/storage"
)

// space orders the writes of one space and holds those of its segments that are in memory.
type space struct {
	e    *Engine
	part storage.Partition

	subs *subscribers // of the store

	users int // operations that hold the space; e.mu guards it

	loading gate // held while the head is read

	mu       sync.Mutex
	loaded   bool
	segments map[string]*segment
	names    names
	rows     rows
	// leaseWaits are those who wait for leases, by key.
	leaseWaits map[string]*leaseWait
	// leases is closed when a lease is given or released; nil when nobody watches.
	leases chan struct{}
	// position and clock are the last ones given, staged ones included.
	position runnel.Position
	clock    int64
	// queue holds the batches that are staged and not yet being committed, the open one last.
	queue []*batch
	// batches counts those that were begun.
	batches uint64
	// committing says that the committer runs, and inFlight is what it is committing.
	committing bool
	inFlight   *batch
	// head is the last position that is durable, and headTime when it was given, in microseconds; reached
	// is closed when they move, nil when nobody waits.
	head     runnel.Position
	headTime int64
	reached  chan struct{}
	// items is what is staged of items that are no more.
	items record.ItemSpace
	// followers counts those who follow the timeline, for whom its latest part is kept.
	followers int
	recent    recent
	// version is the guard's, on a driver that other processes may write too, and looked the time before
	// it was read last: what others had written by then is known.
	version storage.Version
	looked  int64
}

// gate lets one in at a time, who may take long. It is a lock that does not outlast a context.
type gate chan struct{}

func newGate() gate { return make(gate, 1) }

func (g gate) enter(ctx context.Context) error {
	select {
	case g <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (g gate) leave() { <-g }

// errRetry tells an operation that what it was built on is no longer so, that nothing of it was written,
// and that it should begin again.
var errRetry = errors.New("engine: state changed underneath")

// enter returns the space of a partition, in memory and up to date. The caller leaves it when done.
func (e *Engine) enter(ctx context.Context, part storage.Partition) (*space, error) {
	e.mu.Lock()
	if e.closing {
		e.mu.Unlock()
		return nil, runnel.ErrShutdown
	}
	sp := e.spaces[part]
	if sp == nil {
		sp = &space{e: e, part: part, subs: e.subscriptions.of(part.Store), loading: newGate(), segments: make(map[string]*segment)}
		e.spaces[part] = sp
	}
	sp.users++
	e.operations.Add(1)
	e.mu.Unlock()
	if err := sp.ensure(ctx); err != nil {
		sp.leave()
		return nil, err
	}
	return sp, nil
}

// leave ends the use of a space. One that holds nothing and that nobody uses is forgotten.
func (sp *space) leave() {
	sp.unuse()
	sp.e.operations.Done()
}

// use keeps the space in memory until unuse.
func (sp *space) use() {
	sp.e.mu.Lock()
	sp.users++
	sp.e.mu.Unlock()
}

func (sp *space) unuse() {
	e := sp.e
	e.mu.Lock()
	defer e.mu.Unlock()
	sp.users--
	if sp.users > 0 {
		return
	}
	sp.mu.Lock()
	defer sp.mu.Unlock()
	if len(sp.segments) == 0 && !sp.committing && len(sp.queue) == 0 && e.spaces[sp.part] == sp {
		delete(e.spaces, sp.part)
	}
}

// ensure reads the head of the space if it is not in memory, or no longer what storage holds.
func (sp *space) ensure(ctx context.Context) error {
	sp.mu.Lock()
	loaded := sp.loaded
	sp.mu.Unlock()
	if loaded && sp.e.limits.Exclusive {
		return nil
	}
	if err := sp.ensureSubscriptions(ctx); err != nil {
		return err
	}
	if err := sp.loading.enter(ctx); err != nil {
		return err
	}
	defer sp.loading.leave()
	var version storage.Version
	if !sp.e.limits.Exclusive {
		var err error
		if version, err = sp.refresh(ctx); err != nil {
			return err
		}
	}
	sp.mu.Lock()
	loaded = sp.loaded
	sp.mu.Unlock()
	if loaded {
		return nil
	}
	if err := sp.e.Err(); err != nil {
		return err
	}
	position, clock, err := sp.readHead(ctx)
	if err != nil {
		return err
	}
	items, err := sp.readItemSpace(ctx)
	if err != nil {
		return err
	}
	sp.mu.Lock()
	defer sp.mu.Unlock()
	sp.items = items
	sp.position, sp.clock, sp.version = position, max(clock, sp.clock), version
	sp.loaded = true
	sp.recent = recent{after: position}
	sp.reach(position, clock)
	return nil
}

// ensureSubscriptions reads those of the store, if they are not in memory or no longer what storage holds.
func (sp *space) ensureSubscriptions(ctx context.Context) error {
	if sp.part.Name == runnel.ReservedElement {
		return nil // what is there is not subscribed to
	}
	return sp.subs.current(ctx)
}

// refresh reads the guard, and forgets what is in memory if another process has written since.
func (sp *space) refresh(ctx context.Context) (storage.Version, error) {
	for {
		now := sp.time()
		version, _, err := sp.e.driver.Guard(ctx, sp.part)
		if err != nil {
			return 0, storageError(err)
		}
		sp.mu.Lock()
		flight := sp.inFlight
		if flight == nil && sp.loaded && sp.version < version {
			sp.forget(errRetry)
		}
		known := flight == nil || version <= flight.Expect
		if known {
			sp.looked = max(sp.looked, now)
		}
		sp.mu.Unlock()
		if known {
			return version, nil
		}
		// The batch in flight has happened, and others may have shown it, or somebody else has won against
		// it. Its committer will find out which.
		select {
		case <-flight.done:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

// time is what a commit would be given if it were staged now.
func (sp *space) time() int64 {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	return max(sp.e.now(), sp.clock)
}

// readHead finds the last position and time that the space has given.
func (sp *space) readHead(ctx context.Context) (position runnel.Position, clock int64, err error) {
	r := kindRange(keyCommit)
	r.Reverse, r.Limit = true, 1
	for pair, err := range sp.e.driver.Scan(ctx, sp.part, r) {
		if err != nil {
			return 0, 0, storageError(err)
		}
		c, err := record.DecodeCommit(pair.Value)
		if err != nil {
			return 0, 0, err
		}
		position = runnel.Position(binary.BigEndian.Uint64(pair.Key[1:]))
		clock = c.Micros
	}
	return position, clock, nil
}

// refuse answers everything that is staged and not in flight with an error. It is called with sp.mu
// held.
func (sp *space) refuse(err error) {
	for _, b := range sp.queue {
		b.err = err
		close(b.done)
	}
	sp.queue = nil
}

// forget drops everything in memory, staged writes included, which fail with err. It is called with
// sp.mu held and nothing in flight.
func (sp *space) forget(err error) {
	sp.refuse(err)
	for _, seg := range sp.segments {
		// A read's access that was to be written down, for nobody to wait for, is not lost with the rest.
		if st := seg.durable.Load(); st != nil && st.accessUnsaved(false) {
			sp.e.cleaner.renew(seg.addr(), st.inc.id, st.inc.accessed.Load())
		}
		seg.abandon()
	}
	sp.e.resident.Add(-int64(len(sp.segments)))
	sp.segments = make(map[string]*segment)
	sp.rows.forget()
	sp.loaded = false
}
