package engine

import (
	"bytes"
	"context"

	"github.com/runnelhq/runnel"
)

// Peek returns the last entry of a segment, and the zero Entry when the segment is empty or retains
// nothing. It does not renew the TTL, so that looking on keeps nothing alive. It fails with
// runnel.ErrNotFound or ErrSoftDeleted.
func (e *Engine) Peek(ctx context.Context, addr runnel.Segment) (runnel.Entry, error) {
	return retry(func() (runnel.Entry, error) {
		seg, err := e.find(ctx, addr)
		if err != nil {
			return runnel.Entry{}, err
		}
		defer seg.release()
		st := seg.durable.Load()
		if err := e.usable(ctx, seg, st, e.now()); err != nil {
			return runnel.Entry{}, err
		}
		earliest, err := e.retain(ctx, seg, st)
		if err != nil || st.tail == 0 || earliest >= st.tail {
			return runnel.Entry{}, err
		}
		last, err := e.entryAt(ctx, seg, st, st.tail)
		if err != nil {
			err = e.explain(ctx, addr, st, st.tail-1, seg.sp.moved(ctx, err))
		}
		return last, err
	})
}

// entryAt returns an entry that a durable state holds.
func (e *Engine) entryAt(ctx context.Context, seg *segment, st *state, at runnel.Sequence) (runnel.Entry, error) {
	if run := st.inc.cachedAt(at); run != nil {
		return run.Entry(int(at - run.First())), nil
	}
	for run, err := range e.runs(ctx, seg.sp, st, at-1, at, borrow) {
		if err != nil {
			return runnel.Entry{}, err
		}
		entry := run.Entry(0)
		entry.Payload = bytes.Clone(entry.Payload)
		return entry, nil
	}
	return runnel.Entry{}, errMissing
}
