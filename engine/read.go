package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"sync"
	"time"

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
		v := runnel.View{Info: st.info(addr), From: from, PayloadBytes: st.payloadBytes(from)}
		v.Batches = e.batches(ctx, seg.sp, addr, st, from, keep)
		v.Stream = e.batches(ctx, seg.sp, addr, st, from, borrow)
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
func (e *Engine) batches(ctx context.Context, sp *space, addr runnel.Segment, st *state, from runnel.Sequence, use use) iter.Seq2[runnel.Batch, error] {
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
		for run, err := range e.runs(ctx, sp, st, from, st.tail, use) {
			if err != nil {
				yield(nil, e.explain(ctx, addr, st, at, err))
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
func (e *Engine) explain(ctx context.Context, addr runnel.Segment, st *state, at runnel.Sequence, err error) error {
	if !errors.Is(err, errMissing) {
		return err
	}
	now, gone := e.Stat(ctx, addr)
	switch {
	case gone != nil:
		return gone
	case now.ID != st.inc.id:
		return &runnel.NotFoundError{Segment: addr}
	case at < now.Earliest:
		return &runnel.TrimmedError{Segment: addr, From: at, Earliest: now.Earliest}
	}
	return err
}

// errMissing says that entries which were durable are no longer in storage.
var errMissing = fmt.Errorf("%w: entries are missing", record.ErrCorrupt)

// moved turns an error of errMissing into errRetry, if another process has written to the space since
// its state was read.
func (sp *space) moved(ctx context.Context, err error) error {
	if !errors.Is(err, errMissing) || sp.e.limits.Exclusive {
		return err
	}
	version, _, gerr := sp.e.driver.Guard(ctx, sp.part)
	sp.mu.Lock()
	defer sp.mu.Unlock()
	if gerr == nil && (version != sp.version || !sp.loaded) {
		return errRetry
	}
	return err
}

// runs yields the runs that hold the entries of a state after one place and through another, cut to
// these bounds. It must run inside an operation of the engine.
func (e *Engine) runs(ctx context.Context, sp *space, st *state, after, through runnel.Sequence, use use) iter.Seq2[*record.Run, error] {
	return func(yield func(*record.Run, error) bool) {
		at := after
		for at < through {
			if cached := st.inc.cached(at, through); len(cached) > 0 {
				for _, run := range cached {
					if e.isClosing() {
						yield(nil, runnel.ErrShutdown)
						return
					}
					if run = run.After(at).Through(through); !yield(run, nil) {
						return
					}
					at = run.Last()
				}
				continue
			}
			extent := extentOf(sp, st, at)
			most := min(through, extent.through)
			next, more, err := e.scan(ctx, extent, at, most, use, yield)
			if err != nil {
				yield(nil, err)
				return
			}
			if !more {
				return
			}
			at = next
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
// to, and whether the consumer wants more. Storage is read a page at a time, and is not held while the
// consumer, who may be slow, works on a page.
func (e *Engine) scan(ctx context.Context, h holder, at, through runnel.Sequence, use use, yield func(*record.Run, error) bool) (runnel.Sequence, bool, error) {
	pg, _ := pages.Get().(*page)
	held := int64(0) // of e.large
	defer func() {
		pg.shrink()
		pages.Put(pg)
		e.large.Release(held)
	}()
	for at < through {
		if held > 0 {
			pg.shrink()
			e.large.Release(held)
			held = 0
		}
		if e.isClosing() {
			return at, false, runnel.ErrShutdown
		}
		need, err := pg.fill(ctx, e.driver, h, at, through, 0, pageBytes)
		if err == nil && need > 0 {
			if held, err = e.holdLarge(ctx, need); err == nil {
				_, err = pg.fill(ctx, e.driver, h, at, through, need, pageBytes)
			}
		}
		if err != nil {
			return at, false, err
		}
		start := 0
		for i := range pg.runs {
			if e.isClosing() {
				return at, false, runnel.ErrShutdown
			}
			value := pg.bytes[start:pg.runs[i].end:pg.runs[i].end]
			start = pg.runs[i].end
			if use == keep {
				value = bytes.Clone(value)
			}
			run, err := record.DecodeRun(pg.runs[i].last, value)
			if err != nil {
				return at, false, err
			}
			if run.First() > at+1 {
				return at, false, errMissing
			}
			if run = run.After(at); run == nil {
				continue
			}
			if run = run.Through(through); run == nil {
				break
			}
			at = run.Last()
			if !yield(run, nil) {
				return at, false, nil
			}
		}
		if len(pg.runs) == 0 {
			return at, false, errMissing
		}
	}
	return at, true, nil
}

// largePatience is how long a reader waits for room for a large entry.
const largePatience = 10 * time.Second

// holdLarge waits for room for a large entry, and returns how much of it is to be given back.
func (e *Engine) holdLarge(ctx context.Context, bytes int64) (int64, error) {
	bytes = min(bytes, e.cfg.MaxReadBytes)
	waiting, cancel := context.WithTimeout(ctx, largePatience)
	defer cancel()
	if err := e.large.Acquire(waiting, bytes); err != nil {
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
		return 0, &runnel.UnavailableError{
			Reason:     fmt.Sprintf("large entries being read are at the limit of %d bytes", e.cfg.MaxReadBytes),
			RetryAfter: time.Second,
		}
	}
	return bytes, nil
}

// use is what a reader does with a run that it gets.
type use bool

const (
	keep   use = true  // as long as it wants to
	borrow use = false // until it asks for the next one
)

// page is a piece of storage in memory.
type page struct {
	bytes []byte
	runs  []pageRun
}

// pageRun is a run whose value ends at end in the page's bytes, where the one before it ends.
type pageRun struct {
	last runnel.Sequence
	end  int
}

// pageBytes is how much is read from storage at once, unless a single run is larger.
const pageBytes = 256 << 10

var pages = sync.Pool{New: func() any { return &page{bytes: make([]byte, 0, pageBytes)} }}

// shrink gives back what a large entry needed.
func (pg *page) shrink() {
	if cap(pg.bytes) > largeBytes {
		pg.bytes = make([]byte, 0, pageBytes)
	}
}

// largeBytes is from where on an entry is large: readers take turns in having one in memory.
const largeBytes = 16 * pageBytes

// fill reads the runs that follow a place: the first of them, and more as long as they have no more than
// most bytes together. Where the first is large and allowed is not, it reads nothing, and says how many
// bytes it needs.
func (pg *page) fill(ctx context.Context, driver storage.Driver, h holder, at, through runnel.Sequence, allowed int64, most int) (need int64, err error) {
	pg.bytes, pg.runs = pg.bytes[:0], pg.runs[:0]
	r := storage.Range{From: runKey(nil, h.id, at+1), To: segmentKey(nil, keyRun, h.id+1)}
	fragments := 0
	for pair, err := range driver.Scan(ctx, h.part, r) {
		if err != nil {
			return 0, storageError(err)
		}
		value := pair.Value
		last := lastOfRunKey(pair.Key)
		if fragments == 0 && len(pg.runs) > 0 && len(pg.bytes)+len(value) > most {
			return 0, nil
		}
		if record.IsFragment(value) {
			count, part, err := record.DecodeFragment(value)
			if err != nil {
				return 0, err
			}
			if size := int64(count) * int64(len(value)); fragments == 0 && size > largeBytes {
				if len(pg.runs) > 0 {
					return 0, nil
				}
				if size > allowed {
					return size, nil
				}
				pg.bytes = slices.Grow(pg.bytes, int(size))
			}
			pg.bytes = append(pg.bytes, part...)
			if fragments++; fragments < count {
				continue
			}
			fragments = 0
		} else {
			pg.bytes = append(pg.bytes, value...)
		}
		pg.runs = append(pg.runs, pageRun{last: last, end: len(pg.bytes)})
		if last >= through {
			return 0, nil
		}
	}
	return 0, nil
}

// payloadBytes counts the bytes of the payloads after a place, or returns -1.
func (st *state) payloadBytes(from runnel.Sequence) int64 {
	switch from {
	case 0:
		return int64(st.bytes)
	case st.tail:
		return 0
	}
	if cached := st.inc.cached(from, from+1); len(cached) > 0 {
		if run := cached[0].After(from); run != nil {
			return int64(st.bytes - run.Place().BytesBefore)
		}
	}
	return -1
}
