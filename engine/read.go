package engine

import (
	"context"
	"fmt"
	"iter"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/record"
	"github.com/runnelhq/runnel/storage"
)

// Stat describes a segment. It does not renew the TTL. It fails with runnel.ErrNotFound or
// ErrSoftDeleted.
func (e *Engine) Stat(ctx context.Context, addr runnel.Segment) (runnel.Info, error) {
	return retry(func() (runnel.Info, error) {
		seg, err := e.find(ctx, addr)
		if err != nil {
			return runnel.Info{}, err
		}
		defer seg.release()
		st := seg.durable.Load()
		if err := e.usable(ctx, seg, st, e.now()); err != nil {
			return runnel.Info{}, err
		}
		if _, err := e.retain(ctx, seg, st); err != nil {
			return runnel.Info{}, err
		}
		return st.info(addr), nil
	})
}

// find acquires a segment under a name that has yet to be checked.
func (e *Engine) find(ctx context.Context, addr runnel.Segment) (*segment, error) {
	if err := addr.Validate(); err != nil {
		return nil, err
	}
	return e.acquire(ctx, addr)
}

// Read returns what a segment holds after a place, at this moment. It renews the TTL. id, if not 0, is
// the incarnation that is meant; another one is as good as none. From may be runnel.Latest.
//
// It fails with runnel.ErrNotFound, ErrSoftDeleted, ErrTrimmed when retention has dropped what follows
// the place, or ErrBeyondTail.
func (e *Engine) Read(ctx context.Context, addr runnel.Segment, id uint64, from runnel.Sequence) (runnel.View, error) {
	return retry(func() (runnel.View, error) {
		seg, err := e.find(ctx, addr)
		if err != nil {
			return runnel.View{}, err
		}
		defer seg.release()
		st, err := e.open(ctx, seg, id, &from)
		if err != nil {
			return runnel.View{}, err
		}
		v := runnel.View{Info: st.info(addr), From: from}
		v.Batches = e.batches(ctx, seg.sp, addr, st, from)
		return v, nil
	})
}

// open returns the durable state of a segment for a reader with a place.
func (e *Engine) open(ctx context.Context, seg *segment, id uint64, from *runnel.Sequence) (*state, error) {
	addr := seg.addr()
	st := seg.durable.Load()
	micros := e.now()
	if err := e.usable(ctx, seg, st, micros); err != nil {
		return nil, err
	}
	if id != 0 && st.inc.id != id {
		return nil, &runnel.NotFoundError{Segment: addr}
	}
	seg.sp.accessed(seg, st, micros)
	earliest, err := e.retain(ctx, seg, st)
	if err != nil {
		return nil, err
	}
	if *from == runnel.Latest {
		*from = st.tail
	}
	if *from > st.tail {
		return nil, &runnel.BeyondTailError{Segment: addr, From: *from, Tail: st.tail}
	}
	if *from < earliest {
		return nil, &runnel.TrimmedError{Segment: addr, From: *from, Earliest: earliest}
	}
	return st, nil
}

// batches yields the entries of a state that follow a place.
func (e *Engine) batches(ctx context.Context, sp *space, addr runnel.Segment, st *state, from runnel.Sequence) iter.Seq2[runnel.Batch, error] {
	return func(yield func(runnel.Batch, error) bool) {
		if from >= st.tail {
			return
		}
		if err := e.begin(); err != nil {
			yield(nil, err)
			return
		}
		defer e.operations.Done()
		at := from
		for run, err := range e.runs(ctx, sp, st, from, st.tail) {
			if err != nil {
				yield(nil, e.explain(addr, st, at, err))
				return
			}
			at = run.Last()
			if !yield(run, nil) {
				return
			}
		}
	}
}

// explain turns the end of a read that storage could not go on with into why that is.
func (e *Engine) explain(addr runnel.Segment, st *state, at runnel.Sequence, err error) error {
	if err != errMissing {
		return err
	}
	if earliest := st.inc.retained.get(); at < earliest {
		return &runnel.TrimmedError{Segment: addr, From: at, Earliest: earliest}
	}
	return &runnel.NotFoundError{Segment: addr}
}

// errMissing says that entries which were durable are no longer in storage.
var errMissing = fmt.Errorf("%w: entries are missing", record.ErrCorrupt)

// runs yields the runs that hold the entries of a state after one place and through another, cut to
// these bounds. It must run inside an operation of the engine.
func (e *Engine) runs(ctx context.Context, sp *space, st *state, after, through runnel.Sequence) iter.Seq2[*record.Run, error] {
	return func(yield func(*record.Run, error) bool) {
		at := after
		for at < through {
			if cached := st.inc.cached(at, through); len(cached) > 0 {
				for _, run := range cached {
					if run = run.After(at).Through(through); !yield(run, nil) {
						return
					}
					at = run.Last()
				}
				continue
			}
			extent := extentOf(sp, st, at)
			most := min(through, extent.through)
			next, err := e.scan(ctx, extent, at, most, yield)
			if err != nil {
				yield(nil, err)
				return
			}
			if next < 0 {
				return
			}
			at = runnel.Sequence(next)
		}
	}
}

// holder is where some of the entries of a segment are kept.
type holder struct {
	part    storage.Partition
	id      uint64
	through runnel.Sequence
}

// extentOf finds who holds the entry that follows a place.
func extentOf(sp *space, st *state, at runnel.Sequence) holder {
	if f := st.desc.Fork; f != nil && at < f.Base {
		for _, x := range f.Extents {
			if at < x.Through {
				return holder{part: storage.Partition{Store: sp.part.Store, Name: x.Space}, id: x.Segment, through: x.Through}
			}
		}
	}
	return holder{part: sp.part, id: st.inc.id, through: runnel.MaxSequence}
}

// scan yields the runs of a holder between two places from storage. It returns the place it has come
// to, or -1 when the consumer wants no more.
func (e *Engine) scan(ctx context.Context, h holder, at, through runnel.Sequence, yield func(*record.Run, error) bool) (int64, error) {
	r := segmentRange(keyRun, h.id)
	r.From = runKey(nil, h.id, at+1)
	var parts [][]byte
	for pair, err := range e.driver.Scan(ctx, h.part, r) {
		if err != nil {
			return 0, storageError(err)
		}
		last := lastOfRunKey(pair.Key)
		value := pair.Value
		if record.IsFragment(value) {
			count, part, err := record.DecodeFragment(value)
			if err != nil {
				return 0, err
			}
			parts = append(parts, append([]byte(nil), part...))
			if len(parts) < count {
				continue
			}
			value = join(parts)
			parts = nil
		} else {
			value = append(make([]byte, 0, len(value)), value...)
		}
		run, err := record.DecodeRun(last, value)
		if err != nil {
			return 0, err
		}
		if run.First() > at+1 {
			return 0, errMissing
		}
		if run = run.After(at); run == nil {
			continue
		}
		if run = run.Through(through); run == nil {
			break
		}
		at = run.Last()
		if !yield(run, nil) {
			return -1, nil
		}
		if at >= through {
			return int64(at), nil
		}
		select {
		case <-e.closed:
			return 0, runnel.ErrShutdown
		default:
		}
	}
	if at < through {
		return 0, errMissing
	}
	return int64(at), nil
}

func join(parts [][]byte) []byte {
	size := 0
	for _, p := range parts {
		size += len(p)
	}
	whole := make([]byte, 0, size)
	for _, p := range parts {
		whole = append(whole, p...)
	}
	return whole
}
