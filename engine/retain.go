package engine

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/record"
	"github.com/runnelhq/runnel/storage"
)

// Retention is decided when somebody looks, from the log, the bounds and the clock alone: what is
// retained at a moment does not depend on whether a sweep has run. The cleaner follows when there is
// enough to do, writes the cut down, and gives back the space of what no fork reads.

// retained is how far retention has cut an incarnation.
type retained struct {
	earliest atomic.Uint64 // the place before the first entry kept

	mu sync.Mutex
	// known says that the fields below describe the first entry kept.
	known   bool
	through uint64 // payload bytes through earliest
	next    int64  // when the first entry kept was committed, microseconds
	// look is before when the history of an item segment need not be looked at again, in microseconds.
	look atomic.Int64
}

// start begins where storage left off.
func (r *retained) start(st *state) {
	at := runnel.Sequence(0)
	if f := st.desc.Fork; f != nil {
		at = f.Earliest
	}
	if m := st.mutable; m != nil {
		at = max(at, m.Earliest)
	}
	r.earliest.Store(uint64(at))
}

func (r *retained) get() runnel.Sequence { return runnel.Sequence(r.earliest.Load()) }

// move lets nobody read entries through a place any more.
func (r *retained) move(at runnel.Sequence) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.earliest.Store(max(r.earliest.Load(), uint64(at)))
}

// nextAge is when the first entry kept will be too old, or, where that is not known, a whole age hence.
func (r *retained) nextAge(st *state, micros int64) int64 {
	if !r.mu.TryLock() {
		return micros // a reader is at it; what it finds is known soon
	}
	defer r.mu.Unlock()
	from := micros
	if r.known && r.get() < st.tail {
		from = r.next
	}
	return from + st.desc.Retention.Age.Microseconds() + 1
}

// retain applies the bounds of a segment to its durable state, and returns the place before the first
// entry kept.
func (e *Engine) retain(ctx context.Context, seg *segment, st *state) (runnel.Sequence, error) {
	at, err := e.retainOnly(ctx, seg, st)
	if err == nil && st.worthTrimming(float64(at-st.trimmed()), float64(st.tail-at)) && st.desc.Retention != (runnel.Retention{}) {
		e.cleaner.trim(seg.addr(), st.inc.id)
	}
	return at, err
}

// retainOnly is retain without asking for what is cut to be written down, which whoever does that would be asked for
// over and over when it fails.
func (e *Engine) retainOnly(ctx context.Context, seg *segment, st *state) (runnel.Sequence, error) {
	r := &st.inc.retained
	bounds := st.desc.Retention
	if bounds == (runnel.Retention{}) {
		return r.get(), nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	micros := e.now()
	at := r.get()
	if at > st.tail {
		return 0, errRetry // somebody has seen a later state
	}
	c := cut{at: at}
	if !r.known || st.drops(r.through, r.next, micros) || st.outnumbered(at) {
		var err error
		if c, err = e.cut(ctx, seg.sp, st, at, micros); err != nil {
			return 0, seg.sp.moved(ctx, err)
		}
		r.known, r.through, r.next = c.known, c.through, c.next
	}
	if c.at > at {
		r.earliest.Store(uint64(c.at))
	}
	return c.at, nil
}

// cut is where retention cuts a segment.
type cut struct {
	at runnel.Sequence // the place before the first entry kept
	// known says that the first entry kept was looked at: through is the payload bytes before it, and next when
	// it was committed, in microseconds.
	known   bool
	through uint64
	next    int64
}

// cut applies the bounds of a segment to a durable state that is cut at a place already.
func (e *Engine) cut(ctx context.Context, sp *space, st *state, at runnel.Sequence, micros int64) (cut, error) {
	bounds := st.desc.Retention
	if st.outnumbered(at) {
		at = st.tail - runnel.Sequence(bounds.Entries)
	}
	if at >= st.tail || bounds.Bytes == 0 && bounds.Age == 0 {
		return cut{at: at}, nil
	}
	for run, err := range e.runs(ctx, sp, st, at, st.tail, borrow) {
		if err != nil {
			return cut{}, err
		}
		place := run.Place()
		through := place.BytesBefore
		for i := range run.Len() {
			if !st.drops(through, place.Micros, micros) {
				return cut{at: at, known: true, through: through, next: place.Micros}, nil
			}
			at = place.First + runnel.Sequence(i)
			through = run.BytesThrough(i)
		}
	}
	return cut{at: at}, nil
}

// outnumbered tells whether there are more entries after a place than are kept.
func (st *state) outnumbered(at runnel.Sequence) bool {
	n := runnel.Sequence(st.desc.Retention.Entries)
	return n > 0 && st.tail > n && st.tail-n > at
}

// drops tells whether the entry that follows so many payload bytes, and was committed then, is too old or has too
// many bytes after it.
func (st *state) drops(through uint64, committed, micros int64) bool {
	bounds := st.desc.Retention
	return bounds.Bytes > 0 && st.bytes-through > bounds.Bytes ||
		bounds.Age > 0 && micros-committed > bounds.Age.Microseconds()
}

// trimmed is the place before the first entry that storage is known to keep.
func (st *state) trimmed() runnel.Sequence {
	if st.mutable == nil {
		return 0
	}
	return st.mutable.Earliest
}

// What is worth a trim: an eighth of what is kept, unless that is very little.
const (
	trimEntries = 64
	trimBytes   = 1 << 20
)

// worthTrimming tells whether so many entries are enough to drop at once, beside those that are kept.
func (st *state) worthTrimming(cut, kept float64) bool {
	average := float64(st.bytes+1) / float64(st.tail+1)
	return cut >= max(1, kept/8, min(trimEntries, trimBytes/average))
}

// outgrown sees to it that a segment that is only written to is trimmed too.
func (e *Engine) outgrown(seg *segment) {
	st := seg.durable.Load()
	if st.desc == nil {
		return
	}
	if st.desc.Items {
		e.outlived(seg, st)
		return
	}
	bounds := st.desc.Retention
	if bounds.Bytes == 0 && bounds.Entries == 0 {
		return
	}
	r := &st.inc.retained
	if !r.mu.TryLock() {
		e.cleaner.trim(seg.addr(), st.inc.id) // a reader is at it, for which no writer waits
		return
	}
	at, through, known := r.get(), r.through, r.known
	r.mu.Unlock()
	if at >= st.tail {
		return
	}
	held, average := float64(st.tail-at), float64(st.bytes+1)/float64(st.tail+1)
	entries, size := float64(bounds.Entries), float64(bounds.Bytes)/average
	if bounds.Entries > 0 && st.worthTrimming(held-entries, entries) ||
		bounds.Bytes > 0 && (!known || st.worthTrimming(float64(st.bytes-through)/average-size, size)) {
		e.cleaner.trim(seg.addr(), st.inc.id)
	}
}

// trim writes down how far retention has cut a segment, and drops what nobody reads any more.
func (e *Engine) trim(ctx context.Context, addr runnel.Segment, id uint64) error {
	return e.trimTo(ctx, addr, id, func(ctx context.Context, seg *segment, st *state) (runnel.Sequence, error) {
		if st.desc.Items {
			return e.forget(ctx, seg, st)
		}
		return e.retainOnly(ctx, seg, st)
	})
}

// trimTo cuts a segment at a place that is to be found, before the first entry to be kept.
func (e *Engine) trimTo(ctx context.Context, addr runnel.Segment, id uint64, cut func(context.Context, *segment, *state) (runnel.Sequence, error)) error {
	seg, err := e.acquire(ctx, addr)
	if err != nil {
		return err
	}
	defer seg.release()
	st := seg.durable.Load()
	if st.desc == nil || st.inc.id != id {
		return nil
	}
	at, err := cut(ctx, seg, st)
	if err != nil {
		return err
	}
	var last runnel.Position // of an item segment's entries that are let go of
	if st.desc.Items && at > st.trimmed() {
		place, _, err := e.placeOf(ctx, seg.sp, st, at-1)
		if err != nil {
			return seg.overtaken(ctx, st, at-1, err)
		}
		last = place.Position + runnel.Position(at-place.First)
	}
	err = seg.sp.write(ctx, 5*rowBytes, 4, func(t *tx) error {
		st := seg.staged
		if seg.stale.Load() {
			return errRetry
		}
		if st.desc == nil || st.inc.id != id {
			t.dependOn(seg) // its end, which is staged, has yet to become durable
			return errRetry
		}
		m := st.mutableCopy()
		if m.Earliest >= at {
			return nil
		}
		m.Earliest, m.Tail, m.Bytes = at, st.tail, st.bytes
		st.noteAccess(&m)
		next := *st
		next.mutable = &m
		t.set(seg, &next)
		t.put(mutableKey(id), m.Append(nil))
		t.change(record.Trimmed, id, t.take(1), at, 0)
		if is := &t.sp.items; last > is.Cut {
			is.Cut = last
			t.put([]byte{keyItemSpace}, is.Append(nil))
		}
		return nil
	})
	if err != nil {
		return err
	}
	if st.desc.Items {
		st.inc.retained.move(at)
	}
	// A fork whose claim is staged by now is waited for; one that comes later begins after at.
	if err := seg.sp.barrier(ctx); err != nil {
		return err
	}
	keep, err := seg.sp.pinned(ctx, id)
	if err != nil {
		return err
	}
	e.cleaner.vacuum.note(seg.sp.part)
	dropped := storage.Range{From: runKey(nil, id, 0), To: runKey(nil, id, min(at, keep)+1)}
	keys, err := e.drop(ctx, seg.sp.part, dropped, nil)
	if err != nil {
		return err
	}
	return seg.sp.removeRows(ctx, keys)
}

// pinned is the place before the first entry that a fork of the segment may read.
func (sp *space) pinned(ctx context.Context, id uint64) (runnel.Sequence, error) {
	keep := runnel.MaxSequence
	for pair, err := range sp.e.driver.Scan(ctx, sp.part, segmentRange(keyReference, id)) {
		if err != nil {
			return 0, storageError(err)
		}
		ref, err := record.DecodeReference(pair.Value)
		if err != nil {
			return 0, err
		}
		keep = min(keep, ref.From)
	}
	return keep, nil
}
