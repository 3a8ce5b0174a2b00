package engine

import (
	"context"
	"errors"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/record"
)

// The log of an item segment is let go of where it has outlived its items: what they are is in their rows.
// What is left are the changes of the last while, for readers that come back, those that a stored place has
// yet to pass, and the last entry, which tells about the segment. Nothing that is kept changes: neither
// sequences, nor versions, nor a byte.
//
// It is decided when there is something to gain, and holds from the moment on when it is written down.

// historyGrain is how many times in the while that history is kept it is looked for what has become older.
const historyGrain = 16

// outlived asks for the history of an item segment to be cut, if it may be worth it.
func (e *Engine) outlived(seg *segment, st *state) {
	r := &st.inc.retained
	if e.cfg.ItemHistory < 0 || !st.outlived(st.bytes) || e.now() < r.look.Load() || !r.mu.TryLock() {
		return
	}
	through := r.through
	r.mu.Unlock()
	if st.outlived(st.bytes - min(through, st.bytes)) {
		e.cleaner.trim(seg.addr(), st.inc.id)
	}
}

// forget returns the place before the first entry of an item segment that is still to be kept. Where entries
// are in the way that are too young, it sees to it that somebody looks again.
func (e *Engine) forget(ctx context.Context, seg *segment, st *state) (runnel.Sequence, error) {
	r := &st.inc.retained
	at := min(r.get(), st.tail)
	if e.cfg.ItemHistory < 0 || at == st.tail {
		return at, nil
	}
	first, _, err := e.placeOf(ctx, seg.sp, st, at)
	if err != nil {
		return 0, seg.overtaken(ctx, st, at, err)
	}
	r.note(first)
	if !st.outlived(st.bytes - first.BytesBefore) {
		return at, nil
	}
	history := e.cfg.ItemHistory.Microseconds()
	now := e.now()
	cut, kept, err := e.unneeded(ctx, seg, st, at, now-history)
	if err != nil {
		return 0, err
	}
	r.note(kept)
	look := max(kept.Micros+history, now) + history/historyGrain + 1
	r.look.Store(look)
	if st.outlived(st.bytes - kept.BytesBefore) {
		return cut, e.lookAgain(ctx, seg, st.inc.id, look)
	}
	return cut, nil
}

// unneeded returns the last place at or after from before which no entry is younger than a time in microseconds, has
// yet to be passed by a stored place, or is the last, and the place of the run behind it.
func (e *Engine) unneeded(ctx context.Context, seg *segment, st *state, from runnel.Sequence, old int64) (at runnel.Sequence, kept record.Place, err error) {
	// Whoever reads by a stored place has moved it in the space before the cut is, or in its order after that.
	position, sequence, err := seg.sp.passed(ctx, st.inc.id)
	if err == nil {
		sequence, err = seg.sp.subs.passed(ctx, seg.addr(), sequence)
	}
	if err != nil {
		return 0, kept, err
	}
	at, kept, err = e.before(ctx, seg.sp, st, from, func(p record.Place, last runnel.Sequence) bool {
		return last < st.tail && last <= sequence && p.Position+runnel.Position(last-p.First) <= position && p.Micros <= old
	})
	if err != nil {
		return 0, kept, seg.overtaken(ctx, st, from, err)
	}
	return at, kept, nil
}

// overtaken turns an error of errMissing into errRetry, if the entries after a place have been let go of
// meanwhile.
func (seg *segment) overtaken(ctx context.Context, st *state, at runnel.Sequence, err error) error {
	if errors.Is(err, errMissing) && st.inc.retained.get() > at {
		return errRetry
	}
	return seg.sp.moved(ctx, err)
}

// note says what the first entry kept is.
func (r *retained) note(p record.Place) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.known, r.through, r.next = true, p.BytesBefore, p.Micros
}

// before finds by halving the last place at or after from before which every run fits, and the place of the run
// behind it. A run that does not fit is followed by none that does.
func (e *Engine) before(ctx context.Context, sp *space, st *state, from runnel.Sequence, fits func(p record.Place, last runnel.Sequence) bool) (at runnel.Sequence, kept record.Place, err error) {
	low, high := from, st.tail
	for low < high {
		place, last, err := e.placeOf(ctx, sp, st, low+(high-low)/2)
		if err != nil {
			return 0, kept, err
		}
		if fits(place, last) {
			low = last
		} else {
			high, kept = max(place.First-1, low), place
		}
	}
	return low, kept, nil
}

// passed returns up to where all stored places of a space, and of a segment of it, have come.
func (sp *space) passed(ctx context.Context, id uint64) (runnel.Position, runnel.Sequence, error) {
	position, err := sp.leastPlace(ctx, 0)
	if err != nil {
		return 0, 0, err
	}
	sequence, err := sp.leastPlace(ctx, id)
	return runnel.Position(position), runnel.Sequence(sequence), err
}

// lookAgain leaves word that a segment is to be looked at at a time, in microseconds.
func (e *Engine) lookAgain(ctx context.Context, seg *segment, id uint64, micros int64) error {
	return seg.sp.write(ctx, 2*rowBytes, 1, func(t *tx) error {
		if seg.stale.Load() {
			return errRetry
		}
		if st := seg.staged; st.desc != nil && st.inc.id == id {
			t.put(dueKey(micros, id), []byte(seg.name))
		}
		return nil
	})
}
