package engine

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/record"
	"github.com/runnelhq/runnel/storage"
)

// cleaner does in the background what nobody has to wait for: it drops the data of deleted segments,
// takes back the references of deleted forks, writes down what retention has cut, and looks after
// segments whose time has come while nobody used them. Everything it has to do is written in the
// partitions; what it is told in memory only saves it from looking.
type cleaner struct {
	e      *Engine
	cancel context.CancelFunc
	done   chan struct{}
	wake   chan struct{}

	mu     sync.Mutex
	untidy map[storage.Partition]struct{}
	trims  map[trimKey]struct{}
	renews map[trimKey]int64              // accesses, in microseconds, that are not written down
	forks  map[storage.Partition]struct{} // may hold references that no fork names
	swept  bool                           // all partitions have been searched for such references
	vacuum vacuum
	// items says when an item of a partition is due, in microseconds, and nextItem the first of these times,
	// 0 for none. rewind is told when it has become earlier.
	items    map[storage.Partition]int64
	nextItem int64
	rewind   chan struct{}
}

type trimKey struct {
	addr runnel.Segment
	id   uint64
}

// sweepPage is how many due segments are looked at before the next partition has its turn.
const sweepPage = 1024

// orphanAge is how old a reference must be before it is asked for its fork: the fork may be on its way.
// A fork is not created on a reference that is half as old.
const orphanAge = time.Minute

func (c *cleaner) start(e *Engine) {
	c.e = e
	c.done = make(chan struct{})
	c.wake = make(chan struct{}, 1)
	c.untidy = make(map[storage.Partition]struct{})
	c.trims = make(map[trimKey]struct{})
	c.renews = make(map[trimKey]int64)
	c.forks = make(map[storage.Partition]struct{})
	c.items = make(map[storage.Partition]int64)
	c.rewind = make(chan struct{}, 1)
	ctx, cancel := context.WithCancel(e.ctx)
	c.cancel = cancel
	go c.run(ctx)
}

func (c *cleaner) stop() {
	c.cancel()
	<-c.done
}

// tidy asks for the leavings of deletions in a partition to be cleared.
func (c *cleaner) tidy(part storage.Partition) { c.note(func() { c.untidy[part] = struct{}{} }) }

// trim asks for what retention has cut of a segment to be written down and dropped.
func (c *cleaner) trim(addr runnel.Segment, id uint64) {
	c.note(func() { c.trims[trimKey{addr, id}] = struct{}{} })
}

// renew asks for an access to be written down that memory has lost.
func (c *cleaner) renew(addr runnel.Segment, id uint64, micros int64) {
	c.note(func() {
		key := trimKey{addr, id}
		c.renews[key] = max(c.renews[key], micros)
	})
}

// orphan says that a partition may hold a reference that no fork names.
func (c *cleaner) orphan(part storage.Partition) {
	c.mu.Lock()
	c.forks[part] = struct{}{}
	c.mu.Unlock()
}

func (c *cleaner) note(add func()) {
	c.mu.Lock()
	add()
	c.mu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

func (c *cleaner) run(ctx context.Context) {
	defer close(c.done)
	interval := c.e.cfg.SweepInterval
	timer := time.NewTimer(max(interval, 0))
	defer timer.Stop()
	if interval < 0 {
		timer.Stop()
	}
	items := time.NewTimer(time.Hour)
	defer items.Stop()
	for {
		if wait, ok := c.untilItem(); ok && interval >= 0 {
			items.Reset(wait)
		} else {
			items.Stop()
		}
		select {
		case <-ctx.Done():
			return
		case <-c.rewind:
		case <-items.C:
			c.itemsWork(ctx)
		case <-c.wake:
			c.work(ctx)
		case <-timer.C:
			began := time.Now()
			c.sweep(ctx)
			// A sweep over very many partitions takes its time; it must not take all of it.
			timer.Reset(max(interval, 20*time.Since(began)))
		}
	}
}

// work does what has been asked for.
func (c *cleaner) work(ctx context.Context) {
	c.mu.Lock()
	untidy, trims, renews := c.untidy, c.trims, c.renews
	c.untidy = make(map[storage.Partition]struct{})
	c.trims = make(map[trimKey]struct{})
	c.renews = make(map[trimKey]int64)
	c.mu.Unlock()
	// In a fixed order, so that a simulated run can be repeated.
	byPath := func(a, b trimKey) int { return strings.Compare(a.addr.String(), b.addr.String()) }
	for _, key := range slices.SortedFunc(maps.Keys(renews), byPath) {
		c.report(ctx, "renew", key.addr.String(), again(func() error { return c.e.renewAgain(ctx, key.addr, key.id, renews[key]) }))
	}
	for _, key := range slices.SortedFunc(maps.Keys(trims), byPath) {
		c.report(ctx, "trim", key.addr.String(), again(func() error { return c.e.trim(ctx, key.addr, key.id) }))
	}
	for _, part := range slices.SortedFunc(maps.Keys(untidy), comparePartitions) {
		c.report(ctx, "tidy", part.Name, c.clear(ctx, part))
	}
}

func comparePartitions(a, b storage.Partition) int {
	return cmp.Or(bytes.Compare(a.Store[:], b.Store[:]), strings.Compare(a.Name, b.Name))
}

func again(try func() error) error {
	_, err := retry(func() (struct{}, error) { return struct{}{}, try() })
	return err
}

func (c *cleaner) report(ctx context.Context, what, where string, err error) {
	if err != nil && ctx.Err() == nil && !errors.Is(err, runnel.ErrShutdown) && !errors.Is(err, runnel.ErrFailed) {
		c.e.cfg.Logger.Warn("background work failed; it will be tried again", "work", what, "at", where, "error", err)
	}
}

// sweep looks at every partition.
func (c *cleaner) sweep(ctx context.Context) {
	// What was in use when room was looked for last may not be any more.
	c.e.crowded.Store(0)
	c.e.makeRoom()
	for store, err := range c.e.driver.Stores(ctx) {
		if err != nil {
			c.report(ctx, "sweep", "", err)
			return
		}
		for part, err := range c.e.driver.Partitions(ctx, store, "") {
			if err != nil {
				c.report(ctx, "sweep", "", err)
				return
			}
			if ctx.Err() != nil {
				return
			}
			c.report(ctx, "tidy", part.Name, c.clear(ctx, part))
			c.report(ctx, "sweep", part.Name, c.due(ctx, part))
			c.report(ctx, "items", part.Name, c.sweepItems(ctx, part))
			c.report(ctx, "gone", part.Name, c.e.dropGone(ctx, part))
			c.report(ctx, "references", part.Name, c.references(ctx, part))
			c.report(ctx, "leases", part.Name, c.e.expiredLeases(ctx, part))
			c.report(ctx, "vacuum", part.Name, c.vacuum.run(ctx, c.e, part))
			c.report(ctx, "witnesses", part.Name, c.witnesses(ctx, part))
		}
	}
	c.swept = true
}

// clear drops the data of deleted segments, and takes back the references of deleted forks.
func (c *cleaner) clear(ctx context.Context, part storage.Partition) error {
	if err := c.e.freeEnded(ctx, part); err != nil {
		return err
	}
	var trash []uint64
	for pair, err := range c.e.driver.Scan(ctx, part, kindRange(keyTrash)) {
		if err != nil {
			return err
		}
		trash = append(trash, idOfKey(pair.Key))
	}
	releases := make(map[[16]byte]record.Release)
	for pair, err := range c.e.driver.Scan(ctx, part, kindRange(keyRelease)) {
		if err != nil {
			return err
		}
		release, err := record.DecodeRelease(pair.Value)
		if err != nil {
			return err
		}
		releases[[16]byte(pair.Key[1:])] = release
	}
	if len(trash) == 0 && len(releases) == 0 {
		return nil
	}
	sp, err := c.e.enter(ctx, part)
	if err != nil {
		return err
	}
	defer sp.leave()
	// Storage may show a deletion before it is durable, and what is dropped cannot be had back.
	if err := sp.barrier(ctx); err != nil {
		return err
	}
	if err := c.e.Err(); err != nil {
		return err
	}
	var done [][]byte
	for _, id := range trash {
		ended, err := sp.ended(ctx, id)
		if err != nil {
			return err
		}
		if ended != nil {
			continue // what forks have read until now is kept for others
		}
		if done, err = c.e.dropSegment(ctx, part, id, done); err != nil {
			return err
		}
		done = append(done, trashKey(id))
	}
	if len(trash) > 0 {
		c.vacuum.note(part)
	}
	for reference, release := range releases {
		source := runnel.Segment{Store: part.Store, Space: release.Space, Name: release.Segment}
		if err := c.e.dereference(ctx, source, release.SourceID, reference); err != nil {
			return err
		}
		done = append(done, releaseKey(reference))
	}
	return sp.removeRows(ctx, done)
}

// dropSegment removes the data of a segment from storage, and adds keys that the caller is to remove.
func (e *Engine) dropSegment(ctx context.Context, part storage.Partition, id uint64, keys [][]byte) ([][]byte, error) {
	for _, kind := range []byte{keyRun, keyProducer, keyReference, keyMutable, keyCursor, keyOnce, keyMark, keyItem, keyLink} {
		var err error
		if keys, err = e.drop(ctx, part, segmentRange(kind, id), keys); err != nil {
			return keys, err
		}
	}
	return keys, nil
}

// few is how many keys are removed one by one rather than as a range, which leaves a mark that costs
// every later read of its neighbourhood.
const few = 32

// drop removes the keys of a range from storage, or, if they are few, adds them to those that the caller
// is to remove.
func (e *Engine) drop(ctx context.Context, part storage.Partition, r storage.Range, keys [][]byte) ([][]byte, error) {
	found := keys
	look := r
	look.Limit = few + 1
	for pair, err := range e.driver.Scan(ctx, part, look) {
		if err != nil {
			return keys, err
		}
		found = append(found, append([]byte(nil), pair.Key...))
	}
	if len(found)-len(keys) <= few {
		return found, nil
	}
	return keys, e.driver.Drop(ctx, part, r)
}

// removeRows removes rows that nothing in memory mirrors.
func (sp *space) removeRows(ctx context.Context, keys [][]byte) error {
	most := 1024
	if limit := sp.e.limits.MaxBatchOps; limit > 0 {
		most = min(most, limit-commitRowOps)
	}
	if limit := sp.e.limits.MaxBatchBytes; limit > 0 {
		most = min(most, (limit-commitRowBytes)/(storage.MaxKeyBytes+rowBytes))
	}
	for len(keys) > 0 {
		page := keys[:min(len(keys), most)]
		keys = keys[len(page):]
		err := again(func() error {
			if err := sp.ensure(ctx); err != nil {
				return err
			}
			return sp.write(ctx, len(page)*storage.MaxKeyBytes, len(page), func(t *tx) error {
				for _, key := range page {
					t.remove(key)
				}
				return nil
			})
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// due looks at the segments whose time has come.
func (c *cleaner) due(ctx context.Context, part storage.Partition) error {
	until := c.e.now() // what becomes due meanwhile is for the next time
	for {
		rows, err := c.dueRows(ctx, part, until)
		if err != nil {
			return err
		}
		if err := c.lookAtAll(ctx, part, rows); err != nil || len(rows) < sweepPage {
			return err
		}
	}
}

// dueRow says that a segment is to be looked at.
type dueRow struct {
	key  []byte
	id   uint64
	name string
}

// dueRows reads a page of what is due.
func (c *cleaner) dueRows(ctx context.Context, part storage.Partition, until int64) ([]dueRow, error) {
	r := storage.Range{From: []byte{keyDue}, To: dueKey(until+1, 0), Limit: sweepPage}
	var rows []dueRow
	for pair, err := range c.e.driver.Scan(ctx, part, r) {
		if err != nil {
			return nil, err
		}
		rows = append(rows, dueRow{
			key:  append([]byte(nil), pair.Key...),
			id:   binary.BigEndian.Uint64(pair.Key[9:]),
			name: string(pair.Value),
		})
	}
	return rows, nil
}

// sweepers is how many segments are looked at side by side, so that what is found shares commits.
const sweepers = 64

func (c *cleaner) lookAtAll(ctx context.Context, part storage.Partition, rows []dueRow) error {
	var work sync.WaitGroup
	errs := make([]error, min(sweepers, len(rows)))
	for i := range errs {
		work.Go(func() {
			for j := i; j < len(rows) && errs[i] == nil; j += len(errs) {
				row := rows[j]
				errs[i] = again(func() error { return c.lookAt(ctx, part.Segment(row.name), row.id, row.key) })
			}
		})
	}
	work.Wait()
	return errors.Join(errs...)
}

// lookAt ends a segment whose time is over, trims one that has entries too old, and notes when to look
// again.
func (c *cleaner) lookAt(ctx context.Context, addr runnel.Segment, id uint64, key []byte) error {
	seg, err := c.e.acquire(ctx, addr)
	if err != nil {
		return err
	}
	defer seg.release()
	if st := seg.durable.Load(); st.desc != nil && st.inc.id == id && st.desc.Items {
		c.trim(addr, id)
	} else if st.desc != nil && st.inc.id == id && !st.expired(c.e.now()) {
		at, err := c.e.retain(ctx, seg, st)
		if err != nil {
			return err
		}
		if at > st.trimmed() {
			c.trim(addr, id)
		}
	}
	ended := false
	err = seg.sp.write(ctx, 6*rowBytes+endBytes+2*seg.descriptorBytes(), 12, func(t *tx) error {
		st := seg.staged
		if seg.stale.Load() {
			return errRetry
		}
		t.remove(key)
		if st.desc == nil || st.inc.id != id || st.desc.SoftDeleted {
			return nil
		}
		if ended = t.expire(seg); ended {
			return nil
		}
		if at, ok := st.due(t.micros); ok {
			// Never the same moment again: the row would be looked at without end.
			t.put(dueKey(max(at, t.micros+time.Second.Microseconds()), id), []byte(seg.name))
		}
		return nil
	})
	if ended {
		c.tidy(addr.In())
	}
	return err
}

// references asks every reference in a partition for the fork that holds it, once in the life of the
// engine and again when a fork was left half made.
func (c *cleaner) references(ctx context.Context, part storage.Partition) error {
	c.mu.Lock()
	_, told := c.forks[part]
	c.mu.Unlock()
	if c.swept && !told {
		return nil
	}
	young := false
	type row struct {
		id        uint64
		reference [16]byte
		record.Reference
	}
	var rows []row
	for pair, err := range c.e.driver.Scan(ctx, part, kindRange(keyReference)) {
		if err != nil {
			return err
		}
		ref, err := record.DecodeReference(pair.Value)
		if err != nil {
			return err
		}
		if c.e.now()-ref.Created < orphanAge.Microseconds() {
			young = true
			continue
		}
		rows = append(rows, row{idOfKey(pair.Key), [16]byte(pair.Key[9:]), ref})
	}
	for _, r := range rows {
		fork := runnel.Segment{Store: part.Store, Space: r.Space, Name: r.Segment}
		held, err := c.e.holds(ctx, fork, r.reference)
		if err != nil {
			return err
		}
		if held {
			continue
		}
		if err := c.e.dereference(ctx, part.Segment(r.Source), r.id, r.reference); err != nil {
			return err
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.forks, part)
	if young {
		c.forks[part] = struct{}{}
	}
	return nil
}

// holds tells whether a segment is the fork that a reference is for, or will ever be.
func (e *Engine) holds(ctx context.Context, fork runnel.Segment, reference [16]byte) (bool, error) {
	names := func() (bool, error) { return e.names(ctx, fork, reference) }
	held, err := retry(names)
	if held || err != nil {
		return held, err
	}
	// The fork's creation may be staged, here or in another process. A commit that changes nothing lets
	// those before it come to an end, and makes those that it overtakes begin again, when the reference
	// is too old for them.
	sp, err := e.enter(ctx, fork.In())
	if err != nil {
		return false, err
	}
	defer sp.leave()
	if err := sp.removeRows(ctx, [][]byte{referenceKey(0, reference)}); err != nil {
		return false, err
	}
	return retry(names)
}

// names tells whether a segment is the fork that a reference is for, or was and has left a release, by
// which the reference is taken back in order.
func (e *Engine) names(ctx context.Context, fork runnel.Segment, reference [16]byte) (bool, error) {
	seg, err := e.acquire(ctx, fork)
	if err != nil {
		return false, err
	}
	defer seg.release()
	if st := seg.durable.Load(); st.desc != nil && st.desc.Fork != nil && st.desc.Fork.Reference == reference {
		return true, nil
	}
	_, err = e.driver.Get(ctx, seg.sp.part, releaseKey(reference))
	if errors.Is(err, storage.ErrKeyNotFound) {
		return false, nil
	}
	return err == nil, err
}
