package engine

import (
	"context"
	"errors"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/record"
)

// A TTL slides with every read and write, and no read may cost a write. So the last access is kept in
// memory, and written down together with a slack, an eighth of the window, half of which may pass before
// it is written again. A segment that is loaded after a crash is given the slack on top: it may live a
// little longer, and never shorter. What is written as a segment leaves memory has no slack and is exact,
// unless the segment was given some and was not used since.
// An expiry that somebody was told of is made durable first, so that it stays.

// maxAccessSlack bounds how much longer a segment can live after a crash.
const maxAccessSlack = time.Minute

func accessSlack(ttl time.Duration) time.Duration { return min(ttl/8, maxAccessSlack) }

// expired tells whether the segment's time is over.
func (st *state) expired(micros int64) bool {
	d := st.desc
	if d.ExpiresAt > 0 && micros >= d.ExpiresAt {
		return true
	}
	return d.TTL > 0 && st.inc.readers.Load() == 0 && micros-st.inc.lastUse() >= d.TTL.Microseconds()
}

// expiry is when the segment expires if nobody uses it again; ok is false if never.
func (st *state) expiry() (micros int64, ok bool) {
	d := st.desc
	switch {
	case d.ExpiresAt > 0:
		return d.ExpiresAt, true
	case d.TTL > 0:
		return st.inc.lastUse() + d.TTL.Microseconds(), true
	}
	return 0, false
}

// lastUse is where the TTL window begins, as far as anybody can know.
func (inc *incarnation) lastUse() int64 { return max(inc.accessed.Load(), inc.granted) }

// exactAccess is the last access as it is written when the segment leaves memory. What was granted and is
// not known to have been used stays slack: as an access it would be granted more each time that the segment
// is loaded.
func (inc *incarnation) exactAccess() (micros int64, slack time.Duration) {
	at := inc.accessed.Load()
	return at, time.Duration(max(inc.granted-at, 0)) * time.Microsecond
}

// renew starts the TTL window again.
func (inc *incarnation) renew(micros int64) {
	for {
		at := inc.accessed.Load()
		if at >= micros || inc.accessed.CompareAndSwap(at, micros) {
			return
		}
	}
}

// accessed renews the TTL of a segment that is being read, and now and then writes that down.
func (sp *space) accessed(seg *segment, st *state, micros int64) {
	if st.desc.TTL == 0 {
		return
	}
	st.inc.renew(micros)
	if st.accessUnsaved(false) {
		sp.mu.Lock()
		sp.stageAccess(seg, false)
		sp.mu.Unlock()
	}
}

// savedAccess is the last access according to storage, and the slack it has there.
func (st *state) savedAccess() (micros int64, slack time.Duration) {
	if m := st.mutable; m != nil && m.Accessed > 0 {
		return m.Accessed, m.Slack
	}
	return st.desc.Created, accessSlack(st.desc.TTL)
}

// accessUnsaved tells whether storage would soon have the segment expire too early, or, if exact, at
// another time than memory.
func (st *state) accessUnsaved(exact bool) bool {
	if st.desc == nil || st.desc.TTL == 0 {
		return false
	}
	saved, slack := st.savedAccess()
	if exact {
		at, rest := st.inc.exactAccess()
		return at > saved || rest != slack
	}
	at := st.inc.accessed.Load()
	return at > saved && at+accessSlack(st.desc.TTL).Microseconds()/2 > saved+slack.Microseconds()
}

// noteAccess puts the last access into a row that is about to be written.
func (st *state) noteAccess(m *record.Mutable) {
	if ttl := st.desc.TTL; ttl > 0 {
		m.Accessed, m.Slack = st.inc.accessed.Load(), accessSlack(ttl)
	}
}

// stageAccess stages the last access of a segment, if it is not on disk, for nobody to wait for. Exact
// says that the segment is about to leave memory, and that later accesses will not go unwritten. It is
// called with sp.mu held, and tells whether there was something to stage.
func (sp *space) stageAccess(seg *segment, exact bool) bool {
	st := seg.staged
	if seg.stale.Load() || !sp.loaded || sp.e.Err() != nil || !st.accessUnsaved(exact) {
		return false
	}
	if sp.e.full(true) != nil {
		return true // it stays in memory until there is space for it
	}
	const size = 4 * rowBytes
	t := tx{sp: sp, b: sp.room(size, 1), micros: max(sp.e.now(), sp.clock)}
	m := st.mutableCopy()
	st.noteAccess(&m)
	if exact {
		m.Accessed, m.Slack = st.inc.exactAccess()
	}
	next := *st
	next.mutable = &m
	t.set(seg, &next)
	t.put(mutableKey(st.inc.id), m.Append(nil))
	sp.startCommitter()
	return true
}

// renewAgain writes down an access to one incarnation of a name, unless the segment is gone.
func (e *Engine) renewAgain(ctx context.Context, addr runnel.Segment, id uint64, micros int64) error {
	seg, err := e.acquire(ctx, addr)
	if err != nil {
		return err
	}
	defer seg.release()
	if st := seg.durable.Load(); st.desc != nil && st.inc.id == id {
		seg.sp.accessed(seg, st, micros)
	}
	return nil
}

// flushAccess stages every last access that is only in memory. Nothing else is staged any more.
func (e *Engine) flushAccess() {
	if e.Err() != nil {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, sp := range e.spaces {
		sp.mu.Lock()
		for _, seg := range sp.segments {
			sp.stageAccess(seg, true)
		}
		sp.mu.Unlock()
	}
}

// live returns nil if the segment can be used, and otherwise why not. One whose time is over is ended
// by this very write, so that the answer stays true.
func (t *tx) live(seg *segment, addr runnel.Segment) error {
	st := seg.staged
	err := st.check(addr, t.micros)
	if err != nil && !t.expire(seg) {
		t.dependOn(seg)
	}
	return err
}

// expire stages the end of a segment whose time is over, and tells whether there was such.
func (t *tx) expire(seg *segment) bool {
	st := seg.staged
	if st.desc == nil || st.desc.SoftDeleted || !st.expired(t.micros) {
		return false
	}
	t.b.events = append(t.b.events, runnel.Event{Info: st.info(seg.addr()), Deleted: true})
	if st.desc.References > 0 {
		t.softDelete(seg)
	} else {
		t.end(seg)
	}
	return true
}

// usable returns nil if readers can use the state, and otherwise why not. An expiry is made durable
// before anybody is told of it.
func (e *Engine) usable(ctx context.Context, seg *segment, st *state, micros int64) error {
	addr := seg.addr()
	err := st.check(addr, micros)
	if err == nil || st.desc == nil || st.desc.SoftDeleted || e.Err() != nil {
		return err
	}
	werr := seg.sp.write(ctx, 2*rowBytes+endBytes+2*seg.descriptorBytes(), 10, func(t *tx) error {
		if seg.stale.Load() {
			return errRetry
		}
		if !t.expire(seg) {
			t.dependOn(seg)
			return errRetry // it was used, or ended, since
		}
		return nil
	})
	if werr != nil {
		return werr
	}
	e.cleaner.tidy(seg.sp.part)
	return err
}

// due is when somebody has to look at the segment although nobody uses it; ok is false if never.
func (st *state) due(micros int64) (int64, bool) {
	at, ok := st.expiry()
	if age := st.desc.Retention.Age; age > 0 {
		next := st.inc.retained.nextAge(st, micros)
		if !ok || next < at {
			at, ok = next, true
		}
	}
	return at, ok
}

// retry runs an operation until what it was built on stayed so.
func retry[T any](try func() (T, error)) (T, error) {
	for {
		v, err := try()
		if !errors.Is(err, errRetry) {
			return v, err
		}
	}
}
