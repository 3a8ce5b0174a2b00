package engine

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/record"
	"github.com/runnelhq/runnel/storage"
)

// A timeline is read from the rows that commits leave: they say which entries of which segments came
// next. The entries are then read from their segments, a page of rows at a time, so that what one
// segment brought to a page is found with one look at storage.

const (
	// timelineChanges and timelineEntries bound a page.
	timelineChanges = 4096
	timelineEntries = 64 << 10
	// aheadBytes is how much a page may hold of entries whose turn has yet to come, over all segments.
	aheadBytes = 1 << 20
	// recentChanges is how many appends a space keeps in memory for those who follow its timeline.
	recentChanges = 4096
)

// ReadSpace returns what the segments of a space hold after a place in its timeline, at this moment.
// From may be runnel.LatestPosition. It renews the TTL of no segment. A space that nobody has written
// to is empty.
//
// It fails with runnel.ErrBeyondTail when the place has not been given yet.
func (e *Engine) ReadSpace(ctx context.Context, space runnel.Space, from runnel.Position) (runnel.Timeline, error) {
	if err := space.Validate(); err != nil {
		return runnel.Timeline{}, err
	}
	head, err := e.head(ctx, space)
	if err != nil {
		return runnel.Timeline{}, err
	}
	if from == runnel.LatestPosition {
		from = head
	}
	if from > head {
		return runnel.Timeline{}, &runnel.BeyondHeadError{Space: space, From: from, Head: head}
	}
	t := runnel.Timeline{Space: space, From: from, Head: head}
	t.Batches = func(yield func(runnel.SpaceBatch, error) bool) {
		r := e.timelineReader(space, from)
		r.read(ctx, head, yield)
	}
	return t, nil
}

// StatSpace describes a space. One that nobody has written to is empty; asking does not make it.
func (e *Engine) StatSpace(ctx context.Context, space runnel.Space) (runnel.SpaceInfo, error) {
	if err := space.Validate(); err != nil {
		return runnel.SpaceInfo{}, err
	}
	sp, err := e.enter(ctx, space)
	if err != nil {
		return runnel.SpaceInfo{}, err
	}
	defer sp.leave()
	sp.mu.Lock()
	defer sp.mu.Unlock()
	in := runnel.SpaceInfo{Space: space, Head: sp.head}
	if sp.head > 0 {
		in.Time = time.UnixMicro(sp.headTime).UTC()
	}
	return in, nil
}

// head returns the last position of a space that is durable.
func (e *Engine) head(ctx context.Context, space runnel.Space) (runnel.Position, error) {
	sp, err := e.enter(ctx, space)
	if err != nil {
		return 0, err
	}
	defer sp.leave()
	sp.mu.Lock()
	defer sp.mu.Unlock()
	return sp.head, nil
}

// WaitSpace returns the head of a space when it is beyond a place: at once if it is so already. After
// may be runnel.LatestPosition, which is the head at the call. Not every change of the head is an entry.
//
// It fails with ctx.Err(), and with runnel.ErrShutdown when the engine closes.
func (e *Engine) WaitSpace(ctx context.Context, space runnel.Space, after runnel.Position) (runnel.Position, error) {
	if err := space.Validate(); err != nil {
		return 0, err
	}
	for {
		sp, err := e.enter(ctx, space)
		if err != nil {
			return 0, err
		}
		if after == runnel.LatestPosition {
			sp.mu.Lock()
			after = sp.head
			sp.mu.Unlock()
		}
		head, err := sp.waitHead(ctx, after)
		sp.leave()
		if err != nil || head > after {
			return head, err
		}
	}
}

// waitHead returns the head when it is beyond a place, or when it is time to look again.
func (sp *space) waitHead(ctx context.Context, after runnel.Position) (runnel.Position, error) {
	sp.mu.Lock()
	head := sp.head
	if sp.reached == nil {
		sp.reached = make(chan struct{})
	}
	reached := sp.reached
	sp.mu.Unlock()
	if head > after {
		return head, nil
	}
	var poll <-chan time.Time
	if !sp.e.limits.Exclusive {
		timer := time.NewTimer(sp.e.cfg.PollInterval)
		defer timer.Stop()
		poll = timer.C
	}
	select {
	case <-reached:
		return head, nil
	case <-poll: // entering the space again looks at what others have written
		return head, nil
	case <-sp.e.closed:
		return 0, runnel.ErrShutdown
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// TailSpace yields what a space holds after a place, and then everything that is appended to any of its
// segments, as it becomes durable, in the order of the positions and without a seam. It ends with the
// errors of ReadSpace and WaitSpace. From is as for ReadSpace.
func (e *Engine) TailSpace(ctx context.Context, space runnel.Space, from runnel.Position) iter.Seq2[runnel.SpaceBatch, error] {
	return func(yield func(runnel.SpaceBatch, error) bool) {
		t, err := e.ReadSpace(ctx, space, from)
		if err != nil {
			yield(runnel.SpaceBatch{}, err)
			return
		}
		sp, err := e.follow(ctx, space)
		if err != nil {
			yield(runnel.SpaceBatch{}, err)
			return
		}
		defer sp.unfollow()
		r := e.timelineReader(space, t.From)
		for head := t.Head; ; {
			if !r.read(ctx, head, yield) {
				return
			}
			if head, err = e.WaitSpace(ctx, space, head); err != nil {
				yield(runnel.SpaceBatch{}, err)
				return
			}
		}
	}
}

// follow keeps a space, and the latest of its timeline, in memory until unfollow.
func (e *Engine) follow(ctx context.Context, space runnel.Space) (*space, error) {
	sp, err := e.enter(ctx, space)
	if err != nil {
		return nil, err
	}
	defer sp.leave()
	sp.use()
	sp.mu.Lock()
	defer sp.mu.Unlock()
	if sp.followers == 0 {
		sp.recent = recent{after: sp.head}
	}
	sp.followers++
	return sp, nil
}

func (sp *space) unfollow() {
	sp.mu.Lock()
	if sp.followers--; sp.followers == 0 {
		sp.recent = recent{}
	}
	sp.mu.Unlock()
	sp.unuse()
}

// recent is the latest part of a timeline: the appends after a place.
type recent struct {
	after   runnel.Position
	changes []record.Change
}

// add takes in a durable commit.
func (r *recent) add(changes []record.Change) {
	if len(r.changes)+len(changes) > recentChanges {
		keep := min(len(r.changes), recentChanges/2)
		if gone := len(r.changes) - keep; gone > 0 {
			last := &r.changes[gone-1]
			r.after = last.End()
			r.changes = append(r.changes[:0:0], r.changes[gone:]...)
		}
	}
	for i := range changes {
		if changes[i].Kind == record.Appended {
			r.changes = append(r.changes, changes[i])
		}
	}
}

// advance moves the durable head of the space to the end of a batch. It is called with sp.mu held.
func (sp *space) advance(b *batch) {
	if b.last == 0 {
		return
	}
	if sp.followers > 0 {
		sp.recent.add(b.changes)
	}
	sp.reach(b.last, b.micros)
}

// reach moves the durable head, and wakes those who wait for that. It is called with sp.mu held.
func (sp *space) reach(head runnel.Position, micros int64) {
	sp.head, sp.headTime = head, micros
	if sp.reached != nil {
		close(sp.reached)
		sp.reached = nil
	}
}

// timelineReader goes over the timeline of a space.
type timelineReader struct {
	e     *Engine
	space runnel.Space
	at    runnel.Position
	names map[uint64]string // of segments, by id; they never change
	held  int64             // of e.large
	// parked readers wait for each other's consumers. None of them keeps the room for a large entry
	// longer than it takes to read it, or the others would never come to theirs.
	parked bool
	// ended says that entries of item segments are read that were deleted since, as long as they are kept.
	ended bool
}

// knownNames is how many names a reader remembers.
const knownNames = 16 << 10

func (e *Engine) timelineReader(space runnel.Space, from runnel.Position) *timelineReader {
	return &timelineReader{e: e, space: space, at: from, names: make(map[uint64]string)}
}

// read yields the entries through a head that is durable, and tells whether the consumer wants more.
func (r *timelineReader) read(ctx context.Context, head runnel.Position, yield func(runnel.SpaceBatch, error) bool) bool {
	for r.at < head {
		more, err := r.page(ctx, head, yield)
		switch {
		case errors.Is(err, errRetry): // r.at is beyond what was yielded
		case err != nil:
			yield(runnel.SpaceBatch{}, err)
			return false
		case !more:
			return false
		}
	}
	return true
}

// page yields the entries of some commits.
func (r *timelineReader) page(ctx context.Context, head runnel.Position, yield func(runnel.SpaceBatch, error) bool) (more bool, err error) {
	if err := r.e.begin(); err != nil {
		return false, err
	}
	defer r.e.operations.Done()
	defer r.letGo()
	changes, through, err := r.changes(ctx, head)
	if err != nil {
		return false, err
	}
	sources := make(map[uint64]*source)
	for i := range changes {
		ch := &changes[i]
		src := sources[ch.Segment]
		if src == nil {
			if src, err = r.open(ctx, ch.Segment); err != nil {
				return false, err
			}
			sources[ch.Segment] = src
		}
		src.through = ch.Last
	}
	ahead := max(aheadBytes/max(len(sources), 1), 4<<10)
	for i := range changes {
		more, err := r.change(ctx, sources[changes[i].Segment], &changes[i], ahead, yield)
		if err != nil || !more {
			return more, err
		}
	}
	r.at = through
	return true, nil
}

// changes returns appends to the space that follow the reader's place, and through which position they
// are all.
func (r *timelineReader) changes(ctx context.Context, head runnel.Position) ([]record.Change, runnel.Position, error) {
	if changes, ok := r.recent(head); ok {
		return changes, head, nil
	}
	if err := r.e.Err(); err != nil {
		return nil, 0, err // storage may show what it failed to keep
	}
	var changes []record.Change
	entries := uint64(0)
	rows := storage.Range{From: commitKey(nil, r.at+1), To: []byte{keyCommit + 1}} // the head may be inside the last one
	for pair, err := range r.e.driver.Scan(ctx, r.space, rows) {
		if err != nil {
			return nil, 0, storageError(err)
		}
		c, err := record.DecodeCommit(pair.Value)
		if err != nil {
			return nil, 0, err
		}
		for i := range c.Changes {
			if ch := &c.Changes[i]; ch.Kind == record.Appended && ch.End() > r.at && ch.Position <= head {
				changes = append(changes, *ch)
				entries += ch.Count
			}
		}
		through := runnel.Position(binary.BigEndian.Uint64(pair.Key[1:]))
		if through >= head {
			break
		}
		if len(changes) >= timelineChanges || entries >= timelineEntries {
			return changes, through, nil
		}
	}
	return changes, head, nil
}

// recent returns the appends between the reader's place and the head, if they are in memory.
func (r *timelineReader) recent(head runnel.Position) ([]record.Change, bool) {
	r.e.mu.Lock()
	sp := r.e.spaces[r.space]
	r.e.mu.Unlock()
	if sp == nil {
		return nil, false
	}
	sp.mu.Lock()
	defer sp.mu.Unlock()
	if sp.followers == 0 || !sp.loaded || sp.recent.after > r.at || sp.head < head {
		return nil, false
	}
	kept := sp.recent.changes
	from := len(kept)
	for from > 0 && kept[from-1].End() > r.at {
		from--
	}
	changes := make([]record.Change, 0, len(kept)-from)
	for i := from; i < len(kept) && kept[i].Position <= head; i++ {
		changes = append(changes, kept[i])
	}
	return changes, true
}

// change yields what one append brought, as far as the reader has not had it and it is retained.
func (r *timelineReader) change(ctx context.Context, src *source, ch *record.Change, ahead int, yield func(runnel.SpaceBatch, error) bool) (more bool, err error) {
	before := ch.Last - runnel.Sequence(ch.Count) // the sequence of position ch.Position-1
	for src.st != nil && r.at < ch.End() {
		if r.e.isClosing() {
			return false, runnel.ErrShutdown
		}
		at := max(before, src.earliest)
		if r.at >= ch.Position {
			at = max(at, before+runnel.Sequence(r.at-ch.Position)+1)
		}
		if at >= ch.Last {
			break
		}
		run, err := r.next(ctx, src, at, ahead)
		if errors.Is(err, errMissing) {
			if err = r.reopen(ctx, src); err == nil {
				continue
			}
		}
		if err != nil {
			return false, err
		}
		if run = run.After(at); run == nil || run.First() != at+1 || run.Last() > ch.Last || run.Place().Position != ch.Position+runnel.Position(at-before) {
			return false, fmt.Errorf("%w: the timeline of space %q and segment %q differ after sequence %d", record.ErrCorrupt, r.space.Name, src.addr.Name, at)
		}
		r.at = run.Place().Position + runnel.Position(run.Len()) - 1
		if run.Last() == src.runs[0].Last() {
			src.drop() // nobody but the consumer keeps it
		}
		if !yield(runnel.SpaceBatch{Segment: src.addr, ID: src.st.inc.id, Batch: run}, nil) {
			return false, nil
		}
	}
	r.at = max(r.at, ch.End())
	return true, nil
}

// source is a segment that has entries on a page.
type source struct {
	addr     runnel.Segment
	st       *state // nil when the segment is gone
	earliest runnel.Sequence
	ended    bool            // it was deleted, so its entries may go at any moment
	through  runnel.Sequence // the last entry that is on the page
	runs     []*record.Run   // in memory, in order
}

// drop forgets the first run.
func (src *source) drop() {
	src.runs[0] = nil
	src.runs = src.runs[1:]
}

// open looks at a segment as it is now.
func (r *timelineReader) open(ctx context.Context, id uint64) (*source, error) {
	src, err := r.openLive(ctx, id)
	if err != nil || src.st != nil || !r.ended {
		return src, err
	}
	sp, err := r.e.enter(ctx, r.space)
	if err != nil {
		return nil, err
	}
	defer sp.leave()
	row, err := sp.ended(ctx, id)
	if err != nil || row == nil {
		return src, err
	}
	src.addr, src.st = r.space.Segment(row.Name), &state{inc: &incarnation{id: id}}
	src.earliest, src.ended = row.Earliest, true
	return src, nil
}

func (r *timelineReader) openLive(ctx context.Context, id uint64) (*source, error) {
	src := new(source)
	name, ok := r.names[id]
	if !ok {
		var err error
		if name, err = r.name(ctx, id); name == "" || err != nil {
			return src, err
		}
		if len(r.names) >= knownNames {
			clear(r.names)
		}
		r.names[id] = name
	}
	src.addr = r.space.Segment(name)
	seg, err := r.e.acquire(ctx, src.addr)
	if err != nil {
		return nil, err
	}
	defer seg.release()
	st := seg.durable.Load()
	if st.inc == nil || st.inc.id != id {
		return src, nil
	}
	switch err := r.e.usable(ctx, seg, st, r.e.now()); {
	case errors.Is(err, runnel.ErrNotFound), errors.Is(err, runnel.ErrSoftDeleted):
		return src, nil
	case err != nil:
		return nil, err
	}
	if src.earliest, err = r.e.retain(ctx, seg, st); err != nil {
		return nil, err
	}
	src.st = st
	return src, nil
}

// reopen looks again at a segment whose entries were not there.
func (r *timelineReader) reopen(ctx context.Context, src *source) error {
	if src.ended {
		src.st = nil
		return nil
	}
	now, err := r.open(ctx, src.st.inc.id)
	if err != nil {
		return err
	}
	if now.st != nil && !now.ended && now.earliest <= src.earliest {
		return errMissing
	}
	src.st, src.earliest, src.ended, src.runs = now.st, now.earliest, now.ended, nil
	return nil
}

// name finds the name of a segment by its id. It is empty if the segment is gone.
func (r *timelineReader) name(ctx context.Context, id uint64) (string, error) {
	name, err := r.e.driver.Get(ctx, r.space, nameKey(id))
	if !errors.Is(err, storage.ErrKeyNotFound) {
		return string(name), wrapRead(err)
	}
	// Storage may show a deletion that is not durable yet.
	sp, err := r.e.enter(ctx, r.space)
	if err != nil {
		return "", err
	}
	defer sp.leave()
	if err := sp.barrier(ctx); err != nil {
		return "", err
	}
	name, err = r.e.driver.Get(ctx, r.space, nameKey(id))
	if errors.Is(err, storage.ErrKeyNotFound) {
		return "", r.e.Err()
	}
	return string(name), wrapRead(err)
}

func wrapRead(err error) error {
	if err == nil {
		return nil
	}
	return storageError(err)
}

// next returns the run that holds the entry after a place.
func (r *timelineReader) next(ctx context.Context, src *source, at runnel.Sequence, ahead int) (*record.Run, error) {
	for len(src.runs) > 0 && src.runs[0].Last() <= at {
		src.drop()
	}
	if len(src.runs) == 0 {
		if src.runs = src.st.inc.cached(at, src.through); len(src.runs) == 0 {
			if err := r.fill(ctx, src, at, ahead); err != nil {
				return nil, err
			}
		}
	}
	if src.runs[0].First() > at+1 {
		return nil, errMissing
	}
	return src.runs[0], nil
}

// fill reads runs of a segment from storage: the one after a place, and some more.
func (r *timelineReader) fill(ctx context.Context, src *source, at runnel.Sequence, ahead int) error {
	if err := r.e.Err(); err != nil {
		return err
	}
	r.letGo()
	pg, _ := pages.Get().(*page)
	defer func() {
		pg.shrink()
		pages.Put(pg)
	}()
	h := holder{part: r.space, id: src.st.inc.id, through: runnel.MaxSequence}
	need, err := pg.fill(ctx, r.e.driver, h, at, src.through, 0, ahead)
	if err == nil && need > 0 {
		if r.held, err = r.e.holdLarge(ctx, need); err == nil {
			_, err = pg.fill(ctx, r.e.driver, h, at, src.through, need, ahead)
		}
	}
	if err != nil {
		return err
	}
	bytes, start := bytes.Clone(pg.bytes), 0
	for _, p := range pg.runs {
		run, err := record.DecodeRun(p.last, bytes[start:p.end:p.end])
		if err != nil {
			return err
		}
		start = p.end
		src.runs = append(src.runs, run)
	}
	if r.parked {
		r.letGo()
	}
	if len(src.runs) == 0 {
		return errMissing
	}
	return nil
}

// letGo gives back the room for a large entry.
func (r *timelineReader) letGo() {
	r.e.large.Release(r.held)
	r.held = 0
}
