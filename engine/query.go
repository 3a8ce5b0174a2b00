package engine

import (
	"context"
	"errors"
	"iter"
	"slices"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/record"
	"github.com/runnelhq/runnel/storage"
)

// Query yields the entries that a query selects, in batches: of a segment in the order of its sequences,
// of a space in the order of its positions, and of several spaces merged by time. Of a query that goes
// backwards the first entry of a batch is the latest.
//
// It fails with runnel.ErrInvalid, and with the errors of Read, Wait, ReadSpace and WaitSpace. A query of
// a segment renews its TTL when it reads entries, one of a space none.
func (e *Engine) Query(ctx context.Context, q runnel.Query) iter.Seq2[runnel.SpaceBatch, error] {
	return e.querySome(ctx, q, false)
}

func (e *Engine) querySome(ctx context.Context, q runnel.Query, parked bool) iter.Seq2[runnel.SpaceBatch, error] {
	return func(yield func(runnel.SpaceBatch, error) bool) {
		if err := q.Validate(); err != nil {
			yield(runnel.SpaceBatch{}, err)
			return
		}
		s := &selection{q: &q, left: q.Limit, yield: yield, parked: parked}
		if err := e.query(ctx, s); err != nil && !errors.Is(err, errEnough) {
			yield(runnel.SpaceBatch{}, err)
		}
	}
}

// errEnough ends a query that needs no more.
var errEnough = errors.New("engine: the query needs no more")

func (e *Engine) query(ctx context.Context, s *selection) error {
	if len(s.q.Sources) > 1 {
		return e.queryMerged(ctx, s)
	}
	var r reel
	if src := &s.q.Sources[0]; src.Segment != "" {
		r = &segmentReel{e: e, addr: src.Space.Segment(src.Segment), id: src.ID}
	} else {
		r = &spaceReel{e: e, space: src.Space, parked: s.parked}
		if s.q.Follow {
			sp, err := e.follow(ctx, src.Space)
			if err != nil {
				return err
			}
			defer sp.unfollow()
		}
	}
	return e.queryReel(ctx, s, r)
}

// selection lets through what a query selects.
type selection struct {
	q     *runnel.Query
	left  uint64 // of the limit
	taken bool   // something has been read
	yield func(runnel.SpaceBatch, error) bool
	// parked says that the query is one of several that are merged, of which each waits for its turn with
	// what it has read.
	parked bool
}

// take hands a batch to the consumer, as far as it is selected. Batches come in the order of their times,
// or against it. It returns errEnough when no batch after this one is wanted.
func (s *selection) take(b runnel.SpaceBatch) error {
	s.taken = true
	at := b.Entry(0).Time // all entries of a batch share it
	early, late := at.Before(s.q.Since), !s.q.Until.IsZero() && !at.Before(s.q.Until)
	switch {
	case early && s.q.Backwards, late && !s.q.Backwards:
		return errEnough
	case early, late:
		return nil
	}
	if b.Batch = s.q.Filter.Apply(b.Segment.Name, b.Batch); b.Batch == nil {
		return nil
	}
	if s.q.Backwards {
		b.Batch = &backwards{b.Batch}
	}
	if n := uint64(b.Len()); s.q.Limit > 0 && n >= s.left {
		if n > s.left {
			b.Batch = firstOf(b.Batch, int(s.left))
		}
		s.yield(b, nil)
		return errEnough
	} else if s.q.Limit > 0 {
		s.left -= n
	}
	if !s.yield(b, nil) {
		return errEnough
	}
	return nil
}

// reel is a segment or a timeline, as a query needs it. Places are sequences or positions.
type reel interface {
	// ends returns the first and the last place there are at this moment, and whether no more follow.
	ends(ctx context.Context) (first, last uint64, closed bool, err error)
	// beyond says that a place is beyond the last.
	beyond(after, last uint64) error
	// at returns the place before the first entry of a time or later.
	at(ctx context.Context, t time.Time) (uint64, error)
	// back returns a place before another one, which few entries lie between, or first.
	back(ctx context.Context, first, from uint64) (uint64, error)
	// read yields the entries after one place and through another.
	read(ctx context.Context, after, through uint64) iter.Seq2[runnel.SpaceBatch, error]
	// settle returns when everything that has been staged by now has an outcome.
	settle(ctx context.Context) error
	// wait returns when there may be something after a place.
	wait(ctx context.Context, after uint64) error
}

func (e *Engine) queryReel(ctx context.Context, s *selection, r reel) error {
	q := s.q
	first, last, closed, err := r.ends(ctx)
	if err != nil {
		return err
	}
	after := q.Sources[0].After
	switch {
	case after == 0:
		after = first
	case after == uint64(runnel.Latest):
		after = last
	case after > last:
		return r.beyond(after, last)
	}
	if !q.Since.IsZero() {
		since, err := r.at(ctx, q.Since)
		if err != nil {
			return err
		}
		after = max(after, min(since, last))
	}
	if q.Follow {
		return e.goOn(ctx, s, r, after, last, closed)
	}
	through := s.bound(last)
	if !q.Until.IsZero() {
		until, err := r.at(ctx, q.Until)
		if err != nil {
			return err
		}
		through = min(through, until)
	}
	if q.Last > 0 {
		if after, err = lastOf(ctx, r, after, through, q.Last); err != nil {
			return err
		}
	}
	if q.Backwards {
		return s.backwards(ctx, r, after, through)
	}
	return s.forwards(ctx, r, after, through)
}

// bound cuts a last place to the query's.
func (s *selection) bound(last uint64) uint64 {
	if most := s.q.Through; most > 0 {
		return min(last, most)
	}
	return last
}

// forwards yields what lies between two places. Where no place was asked for and the first entries go
// away before they are read, it begins with those that follow.
func (s *selection) forwards(ctx context.Context, r reel, after, through uint64) error {
	for {
		err := s.forwardsFrom(ctx, r, after, through)
		trimmed, ok := errors.AsType[*runnel.TrimmedError](err)
		if !ok || s.q.Sources[0].After != 0 || s.taken {
			return err
		}
		after = uint64(trimmed.Earliest)
	}
}

func (s *selection) forwardsFrom(ctx context.Context, r reel, after, through uint64) error {
	if after >= through {
		return nil
	}
	for b, err := range r.read(ctx, after, through) {
		if err == nil {
			err = s.take(b)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *selection) backwards(ctx context.Context, r reel, after, through uint64) error {
	step := through // most places to go back at once
	for through > after {
		from, err := r.back(ctx, after, through)
		if err != nil {
			return err
		}
		from = max(from, through-min(step, through))
		page, fits, err := pageOf(ctx, r, from, through)
		if trimmed, ok := errors.AsType[*runnel.TrimmedError](err); ok && s.q.Sources[0].After == 0 {
			after = uint64(trimmed.Earliest) // the rest is gone
			continue
		}
		if err != nil {
			return err
		}
		if !fits {
			step = (through - from) / 2
			continue
		}
		for i, b := range slices.Backward(page) {
			page[i] = runnel.SpaceBatch{}
			if err := s.take(b); err != nil {
				return err
			}
		}
		step = max(step, 2*(through-from))
		through = from
	}
	return nil
}

// pageOf reads what lies between two places, unless that is several batches and more than backMost bytes.
func pageOf(ctx context.Context, r reel, from, through uint64) (page []runnel.SpaceBatch, fits bool, err error) {
	size := 0
	for b, err := range r.read(ctx, from, through) {
		if err != nil {
			return nil, false, err
		}
		size += len(b.Payloads())
		if size > backMost && through-from > 1 {
			return nil, false, nil
		}
		page = append(page, b)
	}
	return page, true, nil
}

// lastOf returns the place before the last n entries between two places.
func lastOf(ctx context.Context, r reel, after, through, n uint64) (uint64, error) {
	if _, ok := r.(*segmentReel); ok {
		return max(after, through-min(n, through)), nil
	}
	for through > after && n > 0 {
		from, err := r.back(ctx, after, through)
		if err != nil {
			return 0, err
		}
		var places []uint64
		for b, err := range r.read(ctx, from, through) {
			if err != nil {
				return 0, err
			}
			for i := range b.Len() {
				places = append(places, uint64(b.Entry(i).Position))
			}
		}
		if k := uint64(len(places)); k >= n {
			return places[k-n] - 1, nil
		}
		n -= uint64(len(places))
		through = from
	}
	return after, nil
}

// goOn yields what follows a place, and goes on as more comes.
func (e *Engine) goOn(ctx context.Context, s *selection, r reel, after, last uint64, closed bool) error {
	until := s.q.Until
	for {
		over := !until.IsZero() && !e.cfg.Now().Before(until) // then what there is now is all there will be
		if over {
			if err := r.settle(ctx); err != nil {
				return err
			}
			var err error
			if _, last, closed, err = r.ends(ctx); err != nil {
				return err
			}
		}
		if through := s.bound(last); through > after {
			if err := s.forwards(ctx, r, after, through); err != nil {
				return err
			}
			after = through
		}
		if over || closed || s.q.Through > 0 && after >= s.q.Through {
			return nil
		}
		if err := e.waitUntil(ctx, r, after, until); err != nil {
			return err
		}
		var err error
		if _, last, closed, err = r.ends(ctx); err != nil {
			return err
		}
	}
}

// waitUntil waits for something after a place, or for a time.
func (e *Engine) waitUntil(ctx context.Context, r reel, after uint64, until time.Time) error {
	if until.IsZero() {
		return r.wait(ctx, after)
	}
	waiting, cancel := context.WithTimeout(ctx, max(until.Sub(e.cfg.Now()), time.Millisecond))
	defer cancel()
	err := r.wait(waiting, after)
	if ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
		return nil
	}
	return err
}

// segmentReel is a segment. It stays with the incarnation that it has met first.
type segmentReel struct {
	e     *Engine
	addr  runnel.Segment
	id    uint64
	bytes uint64
}

func (r *segmentReel) ends(ctx context.Context) (first, last uint64, closed bool, err error) {
	info, err := r.e.Stat(ctx, r.addr)
	if err != nil {
		return 0, 0, false, err
	}
	if r.id != 0 && r.id != info.ID {
		return 0, 0, false, &runnel.NotFoundError{Segment: r.addr}
	}
	r.id, r.bytes = info.ID, info.Bytes/max(uint64(info.Tail), 1)
	return uint64(info.Earliest), uint64(info.Tail), info.Closed, nil
}

func (r *segmentReel) beyond(after, last uint64) error {
	return &runnel.BeyondTailError{Segment: r.addr, From: runnel.Sequence(after), Tail: runnel.Sequence(last)}
}

func (r *segmentReel) at(ctx context.Context, t time.Time) (uint64, error) {
	seq, err := r.e.SequenceAt(ctx, r.addr, t)
	return uint64(seq), err
}

// backBytes and backEntries are about how much a query that goes backwards reads at a time, and backMost
// is how much it keeps at most, unless one entry is larger.
const (
	backBytes   = 1 << 20
	backEntries = 4096
	backMost    = 4 * backBytes
)

func (r *segmentReel) back(_ context.Context, first, from uint64) (uint64, error) {
	n := min(max(backBytes/max(r.bytes, 1), 1), backEntries)
	return max(first, from-min(n, from)), nil
}

func (r *segmentReel) read(ctx context.Context, after, through uint64) iter.Seq2[runnel.SpaceBatch, error] {
	return func(yield func(runnel.SpaceBatch, error) bool) {
		v, err := r.e.Read(ctx, r.addr, r.id, runnel.Sequence(after))
		if err != nil {
			yield(runnel.SpaceBatch{}, err)
			return
		}
		for b, err := range v.Batches {
			if err == nil && uint64(b.Last()) > through {
				b = firstOf(b, int(through+1-uint64(b.First())))
			}
			if !yield(runnel.SpaceBatch{Segment: r.addr, ID: r.id, Batch: b}, err) || err != nil || uint64(b.Last()) >= through {
				return
			}
		}
	}
}

func (r *segmentReel) settle(ctx context.Context) error { return r.e.settle(ctx, r.addr.In()) }

func (r *segmentReel) wait(ctx context.Context, after uint64) error {
	_, err := r.e.Wait(ctx, r.addr, r.id, runnel.Sequence(after))
	return err
}

// spaceReel is the timeline of a space.
type spaceReel struct {
	e      *Engine
	space  runnel.Space
	reader *timelineReader // has come to where the last read ended
	parked bool            // the consumer keeps others waiting with what it has been given
}

func (r *spaceReel) ends(ctx context.Context) (first, last uint64, closed bool, err error) {
	head, err := r.e.head(ctx, r.space)
	return 0, uint64(head), false, err
}

func (r *spaceReel) beyond(after, last uint64) error {
	return &runnel.BeyondHeadError{Space: r.space, From: runnel.Position(after), Head: runnel.Position(last)}
}

func (r *spaceReel) at(ctx context.Context, t time.Time) (uint64, error) {
	p, err := r.e.PositionAt(ctx, r.space, t)
	return uint64(p), err
}

// backSpaceEntries is how many entries of a space, whose size nobody knows, are read backwards at a time.
const backSpaceEntries = 256

func (r *spaceReel) back(ctx context.Context, first, from uint64) (uint64, error) {
	if err := r.e.begin(); err != nil {
		return 0, err
	}
	defer r.e.operations.Done()
	// The commit that holds the place may end beyond it.
	_, last, err := r.e.commitAfter(ctx, r.space, runnel.Position(from-1))
	if errors.Is(err, errMissing) {
		return first, nil
	}
	if err != nil {
		return 0, err
	}
	rows := storage.Range{From: commitKey(nil, runnel.Position(first+1)), To: commitKey(nil, last+1), Reverse: true}
	entries := uint64(0)
	for pair, err := range r.e.driver.Scan(ctx, r.space, rows) {
		if err != nil {
			return 0, storageError(err)
		}
		c, err := record.DecodeCommit(pair.Value)
		if err != nil {
			return 0, err
		}
		for i := range c.Changes {
			entries += c.Changes[i].Count
		}
		if at := uint64(c.First) - 1; entries >= backSpaceEntries && at < from {
			return max(at, first), nil
		}
	}
	return first, nil
}

func (r *spaceReel) read(ctx context.Context, after, through uint64) iter.Seq2[runnel.SpaceBatch, error] {
	return func(yield func(runnel.SpaceBatch, error) bool) {
		if r.reader == nil || r.reader.at != runnel.Position(after) {
			r.reader = r.e.timelineReader(r.space, runnel.Position(after))
			r.reader.parked = r.parked
		}
		r.reader.read(ctx, runnel.Position(through), func(b runnel.SpaceBatch, err error) bool {
			if err != nil {
				return yield(b, err)
			}
			if first := uint64(b.Entry(0).Position); first+uint64(b.Len())-1 > through {
				b.Batch = firstOf(b.Batch, int(through+1-first))
			}
			return yield(b, nil)
		})
	}
}

func (r *spaceReel) settle(ctx context.Context) error { return r.e.settle(ctx, r.space) }

func (r *spaceReel) wait(ctx context.Context, after uint64) error {
	_, err := r.e.WaitSpace(ctx, r.space, runnel.Position(after))
	return err
}

func (e *Engine) settle(ctx context.Context, part runnel.Space) error {
	sp, err := e.enter(ctx, part)
	if err != nil {
		return err
	}
	defer sp.leave()
	return sp.settled(ctx)
}

// firstOf returns the first n entries of a batch that has more.
func firstOf(b runnel.Batch, n int) runnel.Batch {
	if run, ok := b.(*record.Run); ok {
		return run.Through(run.First() + runnel.Sequence(n) - 1)
	}
	return &headOf{b, n}
}

// headOf is the first n entries of a batch.
type headOf struct {
	runnel.Batch
	n int
}

func (b *headOf) Last() runnel.Sequence { return b.Entry(b.n - 1).Sequence }
func (b *headOf) Len() int              { return b.n }

func (b *headOf) Payloads() []byte { return payloads(b) }

// backwards is a batch with its last entry first.
type backwards struct{ runnel.Batch }

func (b *backwards) First() runnel.Sequence   { return b.Batch.Last() }
func (b *backwards) Last() runnel.Sequence    { return b.Batch.First() }
func (b *backwards) Payload(i int) []byte     { return b.Batch.Payload(b.Len() - 1 - i) }
func (b *backwards) Entry(i int) runnel.Entry { return b.Batch.Entry(b.Len() - 1 - i) }
func (b *backwards) Payloads() []byte         { return payloads(b) }

func payloads(b runnel.Batch) []byte {
	var all []byte
	for i := range b.Len() {
		all = append(all, b.Payload(i)...)
	}
	return all
}
