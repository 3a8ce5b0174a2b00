package engine

import (
	"context"
	"encoding/binary"
	"errors"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/record"
	"github.com/runnelhq/runnel/storage"
)

// Times never go back inside a space, so the place of a time is found by halving.

// SequenceAt returns the place in a segment before the first entry of a time or later: the tail if there
// is none, and no place before the earliest that is retained. It does not renew the TTL. It fails with
// runnel.ErrNotFound or ErrSoftDeleted.
func (e *Engine) SequenceAt(ctx context.Context, addr runnel.Segment, t time.Time) (runnel.Sequence, error) {
	return retry(func() (runnel.Sequence, error) {
		seg, err := e.find(ctx, addr)
		if err != nil {
			return 0, err
		}
		defer seg.release()
		st := seg.durable.Load()
		if err := e.usable(ctx, seg, st, e.now()); err != nil {
			return 0, err
		}
		earliest, err := e.retain(ctx, seg, st)
		if err != nil {
			return 0, err
		}
		at, err := e.seek(ctx, seg.sp, st, earliest, ceilMicros(t))
		if err = seg.sp.moved(ctx, err); err != nil {
			err = e.explain(ctx, addr, st, earliest, err)
		}
		if errors.Is(err, runnel.ErrTrimmed) {
			err = errRetry // no place was asked for that is gone
		}
		return at, err
	})
}

// ceilMicros is the first whole microsecond that is not before a time.
func ceilMicros(t time.Time) int64 {
	micros := t.UnixMicro()
	if t.Nanosecond()%1000 > 0 {
		micros++
	}
	return micros
}

// seek finds the last place of a segment at or after from which no later entry precedes.
func (e *Engine) seek(ctx context.Context, sp *space, st *state, from runnel.Sequence, micros int64) (runnel.Sequence, error) {
	low, high := from, st.tail
	for low < high {
		place, last, err := e.placeOf(ctx, sp, st, low+(high-low)/2)
		if err != nil {
			return 0, err
		}
		if place.Micros < micros {
			low = min(last, high)
		} else {
			high = max(place.First-1, low)
		}
	}
	return low, nil
}

// placeOf returns the place, and the last sequence, of the run that holds the entry after a place.
func (e *Engine) placeOf(ctx context.Context, sp *space, st *state, at runnel.Sequence) (record.Place, runnel.Sequence, error) {
	return e.placeIn(ctx, extentOf(sp, st, at), st, at)
}

func (e *Engine) placeIn(ctx context.Context, h holder, st *state, at runnel.Sequence) (record.Place, runnel.Sequence, error) {
	if runs := st.inc.cached(at, at+1); len(runs) > 0 {
		return runs[0].Place(), runs[0].Last(), nil
	}
	if err := e.Err(); err != nil {
		return record.Place{}, 0, err
	}
	head, last, err := e.headAfter(ctx, h, at)
	if err == nil && head.First > at+1 {
		err = errMissing
	}
	return head.Place, min(last, h.through), err
}

// headAfter reads the head of the first run of a holder that reaches beyond a place.
func (e *Engine) headAfter(ctx context.Context, h holder, at runnel.Sequence) (head record.Head, last runnel.Sequence, err error) {
	r := storage.Range{From: runKey(nil, h.id, at+1), To: segmentKey(nil, keyRun, h.id+1), Limit: 1}
	for pair, err := range e.driver.Scan(ctx, h.part, r) {
		if err != nil {
			return head, 0, storageError(err)
		}
		value := pair.Value
		if record.IsFragment(value) {
			if _, value, err = record.DecodeFragment(value); err != nil {
				return head, 0, err
			}
		}
		last = lastOfRunKey(pair.Key)
		head, err = record.DecodeHead(last, value)
		return head, last, err
	}
	return head, 0, errMissing
}

// PositionAt returns the place in the timeline of a space before the first entry of a time or later: the
// head if there is none.
func (e *Engine) PositionAt(ctx context.Context, part runnel.Space, t time.Time) (runnel.Position, error) {
	if err := part.Validate(); err != nil {
		return 0, err
	}
	head, err := e.head(ctx, part)
	if err != nil {
		return 0, err
	}
	if err := e.begin(); err != nil {
		return 0, err
	}
	defer e.operations.Done()
	low, high := runnel.Position(0), head
	var boundary *record.Commit // the first one that ends at the time or later
	for low < high {
		if err := e.Err(); err != nil {
			return 0, err
		}
		c, last, err := e.commitAfter(ctx, part, low+(high-low)/2)
		switch {
		case errors.Is(err, errMissing):
			high = low + (high-low)/2 // the vacuum has removed what was there
		case err != nil:
			return 0, err
		case c.Micros < ceilMicros(t):
			low = min(last, high)
		default:
			boundary = c
			high = min(max(c.First-1, low), low+(high-low)/2)
		}
	}
	if boundary == nil {
		return low, nil
	}
	return e.seekIn(ctx, part, boundary, low, ceilMicros(t))
}

// seekIn moves a place beyond the entries of a commit that precede a time. A commit has the time of the
// last write in it, and each run that of its own.
func (e *Engine) seekIn(ctx context.Context, part runnel.Space, c *record.Commit, at runnel.Position, micros int64) (runnel.Position, error) {
	r := e.timelineReader(part, at)
	sources := make(map[uint64]*source)
	low, high := 0, len(c.Changes)
	for low < high {
		// What is gone has no time: the next change that has one decides.
		i, when, err := low+(high-low)/2, int64(0), errMissing
		for ; i < high; i++ {
			if when, err = r.timeOf(ctx, sources, &c.Changes[i]); !errors.Is(err, errMissing) {
				break
			}
		}
		switch {
		case i == high:
			high = low + (high-low)/2
		case err != nil:
			return 0, err
		case when < micros:
			low, at = i+1, max(at, c.Changes[i].End())
		default:
			high = low + (high-low)/2
		}
	}
	return at, nil
}

// timeOf returns the time of what an append brought, and errMissing if that is gone.
func (r *timelineReader) timeOf(ctx context.Context, sources map[uint64]*source, ch *record.Change) (int64, error) {
	if ch.Kind != record.Appended {
		return 0, errMissing
	}
	src := sources[ch.Segment]
	if src == nil {
		var err error
		if src, err = r.open(ctx, ch.Segment); err != nil {
			return 0, err
		}
		sources[ch.Segment] = src
	}
	before := ch.Last - runnel.Sequence(ch.Count)
	if src.st == nil || src.earliest >= ch.Last {
		return 0, errMissing
	}
	place, _, err := r.e.placeIn(ctx, holder{part: r.space, id: src.st.inc.id, through: ch.Last}, src.st, max(before, src.earliest))
	return place.Micros, err
}

// commitAfter reads the first commit of a space that reaches beyond a place.
func (e *Engine) commitAfter(ctx context.Context, part runnel.Space, at runnel.Position) (*record.Commit, runnel.Position, error) {
	r := storage.Range{From: commitKey(nil, at+1), To: []byte{keyCommit + 1}, Limit: 1}
	for pair, err := range e.driver.Scan(ctx, part, r) {
		if err != nil {
			return nil, 0, storageError(err)
		}
		c, err := record.DecodeCommit(pair.Value)
		return c, runnel.Position(binary.BigEndian.Uint64(pair.Key[1:])), err
	}
	return nil, 0, errMissing
}
