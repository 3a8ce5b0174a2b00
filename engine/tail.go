package engine

import (
	"context"
	"iter"
	"time"

	"github.com/runnelhq/runnel"
)

// Wait returns when the segment holds an entry after a place, or is closed. It returns at once if that
// is so already. While somebody waits the segment's TTL does not run out. id is as for Read.
//
// It fails with ctx.Err(), with runnel.ErrShutdown when the engine closes, and with the errors of Read
// when the segment goes away or is cut beyond the place.
func (e *Engine) Wait(ctx context.Context, addr runnel.Segment, id uint64, after runnel.Sequence) (runnel.Info, error) {
	return retry(func() (runnel.Info, error) {
		seg, err := e.find(ctx, addr)
		if err != nil {
			return runnel.Info{}, err
		}
		defer seg.release()
		return e.wait(ctx, seg, addr, &id, &after)
	})
}

// wait fixes id and after, for when it has to be begun again.
func (e *Engine) wait(ctx context.Context, seg *segment, addr runnel.Segment, id *uint64, after *runnel.Sequence) (runnel.Info, error) {
	for {
		st, err := e.open(ctx, seg, *id, after)
		if err != nil {
			return runnel.Info{}, err
		}
		if st.tail > *after || st.desc.Closed {
			return st.info(addr), nil
		}
		*id = st.inc.id
		if err := e.waitChange(ctx, seg, st); err != nil {
			return runnel.Info{}, err
		}
	}
}

// waitChange waits until the durable state of a segment is no longer st.
func (e *Engine) waitChange(ctx context.Context, seg *segment, st *state) error {
	inc := st.inc
	inc.readers.Add(1)
	defer func() {
		inc.renew(e.now())
		inc.readers.Add(-1)
	}()
	inc.mu.Lock()
	if inc.ended || seg.stale.Load() {
		inc.mu.Unlock()
		return errRetry
	}
	if seg.durable.Load() != st {
		inc.mu.Unlock()
		return nil
	}
	if inc.changed == nil {
		inc.changed = make(chan struct{})
	}
	changed := inc.changed
	inc.mu.Unlock()

	var alarm <-chan time.Time
	if at := st.desc.ExpiresAt; at > 0 {
		// The longest alarm is short of what a duration holds: "never" is often written as the year 9999.
		timer := time.NewTimer(time.Duration(min(at-e.now(), time.Hour.Microseconds())) * time.Microsecond)
		defer timer.Stop()
		alarm = timer.C
	}
	var renew <-chan time.Time
	if ttl := st.desc.TTL; ttl > 0 {
		timer := time.NewTimer(max(accessSlack(ttl)/2, time.Millisecond))
		defer timer.Stop()
		renew = timer.C
	}
	var poll <-chan time.Time
	if !e.limits.Exclusive {
		timer := time.NewTimer(e.cfg.PollInterval)
		defer timer.Stop()
		poll = timer.C
	}
	select {
	case <-changed:
		return nil
	case <-alarm:
		return nil
	case <-renew:
		return nil // looking again writes down that somebody is there
	case <-poll:
		return errRetry // entering the space again looks at what others have written
	case <-e.closed:
		return runnel.ErrShutdown
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Tail yields what a segment holds after a place, and then every batch that is appended, as it becomes
// durable, without a seam. It ends cleanly after the last entry of a closed segment, and otherwise with
// the errors of Wait. id and from are as for Read.
func (e *Engine) Tail(ctx context.Context, addr runnel.Segment, id uint64, from runnel.Sequence) iter.Seq2[runnel.Batch, error] {
	return func(yield func(runnel.Batch, error) bool) {
		at := from
		for {
			v, err := e.Read(ctx, addr, id, at)
			if err != nil {
				yield(nil, err)
				return
			}
			id, at = v.ID, v.From
			for b, err := range v.Batches {
				if err != nil {
					yield(nil, err)
					return
				}
				if !yield(b, nil) {
					return
				}
				at = b.Last()
			}
			if v.Closed {
				return
			}
			if _, err := e.Wait(ctx, addr, id, at); err != nil {
				yield(nil, err)
				return
			}
		}
	}
}
