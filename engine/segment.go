package engine

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/record"
	"github.com/runnelhq/runnel/storage"
)

// segment is a name of a space, in memory.
type segment struct {
	sp   *space
	name string

	loading gate // held while the state is read
	loaded  atomic.Bool
	stale   atomic.Bool // no longer what the space knows under the name
	used    atomic.Bool // since the last look for what can be given back

	// durable is all that readers may see. It is replaced, never changed.
	durable atomic.Pointer[state]

	// sp.mu guards the rest.
	pins   int
	staged *state
	batch  *batch // the last one that touches the segment, nil when staged is durable
	slot   int    // where in batch.touched
}

// state is a segment at one moment. It is never changed. A state without a descriptor says that there
// is no such segment.
type state struct {
	desc    *record.Descriptor
	mutable *record.Mutable // as last written; nil if it never was
	inc     *incarnation
	tail    runnel.Sequence
	bytes   uint64
	lead    int64 // what the stamps of an item segment are reckoned from
	held    int64 // bytes of the messages that would make the items of the segment, and no others
}

var absent = new(state)

// incarnation is one life of a name, from its creation to its deletion, in memory.
type incarnation struct {
	id uint64
	// fresh says that the segment was created by this engine, and so that storage holds no producer
	// that memory does not.
	fresh bool
	// accessed is when the TTL window was last renewed, in microseconds. granted is until when it may have
	// been renewed without a trace, before the segment was loaded or by another process.
	accessed atomic.Int64
	granted  int64
	// readers counts those who wait for entries; while there are any, the TTL does not run out.
	readers atomic.Int64

	retained retained
	marked   marked

	// producers holds what is staged of idempotent producers; sp.mu guards it.
	producers map[string]*producer
	forgotten uint64 // how many producers have left memory

	mu      sync.Mutex
	ended   bool          // by forgetting the space
	changed chan struct{} // closed at the next change; nil when nobody waits
	runs    []*keptRun    // the latest entries, through the durable tail
}

// wake tells everybody who waits for the incarnation to look again.
func (inc *incarnation) wake() {
	inc.mu.Lock()
	if inc.changed != nil {
		close(inc.changed)
		inc.changed = nil
	}
	inc.mu.Unlock()
}

// acquire returns a segment, in memory and with its state loaded. The caller releases it.
func (e *Engine) acquire(ctx context.Context, addr runnel.Segment) (*segment, error) {
	sp, err := e.enter(ctx, addr.In())
	if err != nil {
		return nil, err
	}
	return sp.acquire(ctx, addr.Name)
}

// acquire returns a segment of a space that the caller has entered. Releasing it leaves the space.
func (sp *space) acquire(ctx context.Context, name string) (*segment, error) {
	e := sp.e
	sp.mu.Lock()
	seg := sp.segments[name]
	if seg == nil {
		seg = &segment{sp: sp, name: name, loading: newGate(), staged: absent}
		sp.segments[name] = seg
		if sp.names.absent(name) {
			seg.durable.Store(absent)
			seg.loaded.Store(true)
		}
		defer e.makeRoom()
		e.resident.Add(1)
	}
	seg.pins++
	sp.mu.Unlock()
	if !seg.used.Load() {
		seg.used.Store(true)
	}
	if seg.loaded.Load() {
		return seg, nil
	}
	if err := seg.load(ctx); err != nil {
		seg.release()
		return nil, err
	}
	return seg, nil
}

// stagedID is the id of the incarnation that is staged, 0 if there is none.
func (seg *segment) stagedID() uint64 {
	seg.sp.mu.Lock()
	defer seg.sp.mu.Unlock()
	if inc := seg.staged.inc; inc != nil {
		return inc.id
	}
	return 0
}

func (seg *segment) release() {
	sp := seg.sp
	sp.mu.Lock()
	seg.pins--
	if seg.pins == 0 && !seg.loaded.Load() && sp.segments[seg.name] == seg {
		delete(sp.segments, seg.name)
		sp.e.resident.Add(-1)
	}
	sp.mu.Unlock()
	sp.leave()
}

// load reads the state from storage. Nothing of the segment can be staged before it is loaded, so what
// storage holds is durable. It fails with errRetry when the space has forgotten the segment meanwhile.
func (seg *segment) load(ctx context.Context) error {
	if err := seg.loading.enter(ctx); err != nil {
		return err
	}
	defer seg.loading.leave()
	if seg.loaded.Load() {
		return nil
	}
	if err := seg.sp.e.Err(); err != nil {
		return err
	}
	st, err := seg.sp.read(ctx, seg.name)
	if err != nil {
		return err
	}
	seg.sp.mu.Lock()
	stale := seg.stale.Load()
	seg.staged = st
	seg.sp.mu.Unlock()
	if stale {
		return errRetry // the space was read anew meanwhile, and may have been written before all of this was read
	}
	seg.durable.Store(st)
	seg.loaded.Store(true)
	if st.desc == nil {
		seg.sp.missed()
	}
	return nil
}

// read builds the state of a segment from what storage holds.
func (sp *space) read(ctx context.Context, name string) (*state, error) {
	driver := sp.e.driver
	described, err := driver.Get(ctx, sp.part, descriptorKey(name))
	for {
		if errors.Is(err, storage.ErrKeyNotFound) {
			return absent, nil
		}
		if err != nil {
			return nil, storageError(err)
		}
		st, serr := sp.readDescribed(ctx, described)
		if serr != nil && !errors.Is(serr, errMissing) || sp.e.limits.Exclusive {
			return st, serr
		}
		// Another process may have closed or deleted it meanwhile. Only while the descriptor stays as it is
		// were all parts of the state there at one moment.
		var again []byte
		if again, err = driver.Get(ctx, sp.part, descriptorKey(name)); err == nil && bytes.Equal(again, described) {
			return st, serr
		}
		described = again
	}
}

// readDescribed builds the state of a segment that has a descriptor. On a driver that other processes
// write too, the last run is looked for before the row that is written before runs are dropped.
func (sp *space) readDescribed(ctx context.Context, described []byte) (*state, error) {
	desc, err := record.DecodeDescriptor(described)
	if err != nil {
		return nil, err
	}
	st := &state{desc: desc, inc: newIncarnation(desc.ID)}
	head, last, err := sp.lastRun(ctx, desc.ID)
	if err != nil {
		return nil, err
	}
	value, err := sp.e.driver.Get(ctx, sp.part, mutableKey(desc.ID))
	switch {
	case err == nil:
		m, err := record.DecodeMutable(value)
		if err != nil {
			return nil, err
		}
		st.mutable = &m
		st.tail, st.bytes = m.Tail, m.Bytes
	case !errors.Is(err, storage.ErrKeyNotFound):
		return nil, storageError(err)
	}
	if f := desc.Fork; f != nil && st.tail < f.Base {
		st.tail, st.bytes = f.Base, f.BaseBytes
	}
	if last > st.tail {
		st.tail, st.bytes = last, head.BytesThrough
	}
	accessed, slack := st.savedAccess()
	st.inc.accessed.Store(max(accessed, head.Micros))
	st.inc.granted = accessed + slack.Microseconds()
	if sp.e.limits.Exclusive {
		st.inc.granted = min(st.inc.granted, sp.e.now())
	}
	st.inc.retained.start(st)
	if desc.Items {
		return st, sp.readItemState(ctx, st)
	}
	return st, nil
}

func newIncarnation(id uint64) *incarnation {
	return &incarnation{id: id}
}

// lastRun finds the last run of a segment; last is 0 if there is none.
func (sp *space) lastRun(ctx context.Context, id uint64) (head record.Head, last runnel.Sequence, err error) {
	r := segmentRange(keyRun, id)
	r.Reverse, r.Limit = true, 1
	fragmented := false
	for pair, err := range sp.e.driver.Scan(ctx, sp.part, r) {
		if err != nil {
			return head, 0, storageError(err)
		}
		last = lastOfRunKey(pair.Key)
		if fragmented = record.IsFragment(pair.Value); fragmented {
			break
		}
		if head, err = record.DecodeHead(last, pair.Value); err != nil {
			return head, 0, err
		}
	}
	if fragmented {
		value, err := sp.e.driver.Get(ctx, sp.part, fragmentKey(nil, id, last, 0))
		if errors.Is(err, storage.ErrKeyNotFound) {
			return head, 0, errMissing
		}
		if err != nil {
			return head, 0, storageError(err)
		}
		if head, err = record.DecodeHead(last, value); err != nil {
			return head, 0, err
		}
	}
	return head, last, nil
}

// abandon ends the use of what is in memory: it is no longer what storage holds. It is called with
// sp.mu held.
func (seg *segment) abandon() {
	seg.stale.Store(true)
	for _, st := range []*state{seg.durable.Load(), seg.staged} {
		if st == nil || st.inc == nil {
			continue
		}
		st.inc.mu.Lock()
		st.inc.ended = true
		st.inc.mu.Unlock()
		seg.sp.e.cache.drop(st.inc)
		st.inc.wake()
	}
}

// life says what a state means for those who use the name at a moment.
type life int

const (
	lifeNone life = iota // there is no such segment
	lifeLive
	lifeSoftDeleted // gone for users, kept for forks
)

// life tells what the state means at a time.
func (st *state) life(micros int64) life {
	switch {
	case st.desc == nil:
		return lifeNone
	case st.desc.SoftDeleted:
		return lifeSoftDeleted
	case !st.expired(micros):
		return lifeLive
	case st.desc.References > 0:
		return lifeSoftDeleted
	}
	return lifeNone
}

// check returns nil if the segment can be used at a time, and otherwise the error that says why not.
func (st *state) check(addr runnel.Segment, micros int64) error {
	switch st.life(micros) {
	case lifeNone:
		return &runnel.NotFoundError{Segment: addr}
	case lifeSoftDeleted:
		return &runnel.SoftDeletedError{Segment: addr}
	}
	return nil
}

// descriptorBytes bounds what writing the descriptor again takes in a batch.
func (seg *segment) descriptorBytes() int {
	st := seg.durable.Load()
	if st.desc == nil {
		return 0
	}
	return descriptorBytes(st.desc)
}

func descriptorBytes(desc *record.Descriptor) int {
	size := 4*rowBytes + runnel.MaxSegmentBytes + runnel.MaxProducerBytes + len(desc.ContentType)
	if f := desc.Fork; f != nil {
		size += rowBytes + len(f.Space) + len(f.Segment)
		for i := range f.Extents {
			size += extentBytes + len(f.Extents[i].Space)
		}
	}
	return size
}

// extentBytes is what an extent of a fork takes in its descriptor besides the name of the space.
const extentBytes = 32

func (seg *segment) addr() runnel.Segment { return seg.sp.part.Segment(seg.name) }

// info describes a live state.
func (st *state) info(addr runnel.Segment) runnel.Info {
	d := st.desc
	in := runnel.Info{
		Segment:     addr,
		ID:          d.ID,
		ContentType: d.ContentType,
		Created:     time.UnixMicro(d.Created).UTC(),
		Tail:        st.tail,
		Earliest:    min(st.inc.retained.get(), st.tail),
		Bytes:       st.bytes,
		Closed:      d.Closed,
		TTL:         d.TTL,
		Retention:   d.Retention,
		Items:       d.Items,
	}
	if d.ExpiresAt > 0 {
		in.ExpiresAt = time.UnixMicro(d.ExpiresAt).UTC()
	}
	return in
}

// makeRoom gives back the memory of segments that nobody uses, when there are too many.
func (e *Engine) makeRoom() {
	if e.resident.Load() <= max(int64(e.cfg.MaxSegments), e.crowded.Load()) || e.Err() != nil {
		return
	}
	e.mu.Lock()
	spaces := make([]*space, 0, len(e.spaces))
	for _, sp := range e.spaces {
		sp.users++
		spaces = append(spaces, sp)
	}
	e.mu.Unlock()
	enough := int64(e.cfg.MaxSegments) - int64(e.cfg.MaxSegments/8)
	for _, sp := range spaces {
		if e.resident.Load() > enough {
			sp.evict(enough)
		}
		sp.unuse()
	}
	// Where too many are in use to find room, looking again is worth it only when there are more.
	e.crowded.Store(e.resident.Load() + int64(e.cfg.MaxSegments/8))
}

// evict gives back segments until few enough are in memory. One whose last access has yet to be written
// down stays until that is done.
func (sp *space) evict(enough int64) {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	for name, seg := range sp.segments {
		if sp.e.resident.Load() <= enough {
			break
		}
		if seg.pins > 0 || seg.batch != nil || !seg.loaded.Load() || seg.used.Swap(false) {
			continue
		}
		if st := seg.staged; st.inc != nil {
			if sp.stageAccess(seg, true) {
				continue
			}
			sp.e.cache.drop(st.inc)
		}
		delete(sp.segments, name)
		sp.e.resident.Add(-1)
	}
}
