package engine

import (
	"context"
	"encoding/binary"
	"errors"
	"math"
	"slices"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/record"
	"github.com/runnelhq/runnel/storage"
)

// Of an item segment that is deleted a row is left for a while, in the place of the deletion in the order of the
// space, by which those who follow its items are told. Its entries are left, too, for those who read by stored
// places: until all of the space have passed the deletion, or for as long as history is kept. One row of the space
// says from where on nothing of that is missing, and from where on stamps are new: an item segment that is made
// under the name of one before goes on after its stamps, which may be ahead of the clock.

// gone stages that an item segment was deleted at a position.
func (t *tx) gone(seg *segment, at runnel.Position) {
	st := seg.staged
	// The deletion is stamped like an entry that follows the last one.
	stamp := runnel.ItemStamp(runnel.ItemLead(st.lead, st.tail+1, t.micros), st.tail+1)
	row := record.Gone{Segment: st.desc.ID, Name: seg.name, Stamp: stamp, Micros: t.micros}
	t.put(goneKey(at), row.Append(nil))
	ended := record.Ended{Name: seg.name, Earliest: st.trimmed(), Lead: st.lead}
	t.put(endedKey(row.Segment), ended.Append(nil))
	is := &t.sp.items
	is.Stamp, is.Gone = max(is.Stamp, stamp+1), at
	t.put([]byte{keyItemSpace}, is.Append(nil))
}

// itemSpace is what is staged of items that are no more.
func (sp *space) itemSpace() record.ItemSpace {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	return sp.items
}

// readItemSpace reads what the space keeps about items that are no more.
func (sp *space) readItemSpace(ctx context.Context) (record.ItemSpace, error) {
	value, err := sp.e.driver.Get(ctx, sp.part, []byte{keyItemSpace})
	if errors.Is(err, storage.ErrKeyNotFound) {
		return record.ItemSpace{}, nil
	}
	if err != nil {
		return record.ItemSpace{}, storageError(err)
	}
	return record.DecodeItemSpace(value)
}

// whole returns nil if no change of items after a position has been let go of, and otherwise an error that
// matches runnel.ErrTrimmed.
func (sp *space) whole(after runnel.Position) error {
	if cut := sp.itemSpace().Cut; cut > after {
		return &runnel.TrimmedError{Segment: sp.part.Segment(""), From: runnel.Sequence(after), Earliest: runnel.Sequence(cut)}
	}
	return nil
}

// goneSegment is an item segment that was deleted at a position.
type goneSegment struct {
	at runnel.Position
	record.Gone
}

// gonePage is how many deletions a reader holds in memory.
const gonePage = 256

// goneReader reads the deletions of item segments in their order, a page at a time.
type goneReader struct {
	sp      *space
	at      runnel.Position // all through it have been read
	through runnel.Position // of those that are durable
	page    []goneSegment
}

// first returns the first deletion that has not been taken, nil if there is none that is durable.
func (r *goneReader) first(ctx context.Context) (*goneSegment, error) {
	if len(r.page) == 0 && r.at < r.through {
		if err := r.fill(ctx); err != nil {
			return nil, err
		}
	}
	if len(r.page) == 0 {
		return nil, nil
	}
	return &r.page[0], nil
}

// take takes the first.
func (r *goneReader) take() { r.page = r.page[1:] }

func (r *goneReader) fill(ctx context.Context) error {
	after := r.at
	if r.sp.itemSpace().Gone <= after {
		r.at = r.through
		return nil
	}
	page, err := r.sp.readGone(ctx, after, r.through, gonePage)
	if err != nil {
		return err
	}
	// Asked after the page was read: what is missing in it had been let go of by then.
	if err := r.sp.whole(after); err != nil {
		return err
	}
	if r.page, r.at = page, r.through; len(page) == gonePage {
		r.at = page[len(page)-1].at
	}
	return nil
}

// readGone reads the first deletions of item segments after a position and through another.
func (sp *space) readGone(ctx context.Context, after, through runnel.Position, limit int) (page []goneSegment, err error) {
	r := storage.Range{From: goneKey(after + 1), To: goneKey(through + 1), Limit: limit}
	for pair, err := range sp.e.driver.Scan(ctx, sp.part, r) {
		if err != nil {
			return nil, storageError(err)
		}
		row, err := record.DecodeGone(pair.Value)
		if err != nil {
			return nil, err
		}
		page = append(page, goneSegment{runnel.Position(binary.BigEndian.Uint64(pair.Key[1:])), row})
	}
	return page, nil
}

// ended returns what is kept of an item segment that was deleted, nil if nothing is.
func (sp *space) ended(ctx context.Context, id uint64) (*record.Ended, error) {
	value, err := sp.e.driver.Get(ctx, sp.part, endedKey(id))
	if errors.Is(err, storage.ErrKeyNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, storageError(err)
	}
	ended, err := record.DecodeEnded(value)
	return &ended, err
}

// freeEnded drops the data of item segments that were deleted, when all stored places of the space have passed the
// deletion, or it was a while ago.
func (e *Engine) freeEnded(ctx context.Context, part storage.Partition) error {
	value, err := e.driver.Get(ctx, part, []byte{keyItemSpace})
	if errors.Is(err, storage.ErrKeyNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	is, err := record.DecodeItemSpace(value)
	if err != nil || is.Freed >= is.Gone {
		return err
	}
	sp, err := e.enter(ctx, part)
	if err != nil {
		return err
	}
	defer sp.leave()
	for {
		more, err := e.freePage(ctx, sp)
		if err != nil || !more {
			return err
		}
	}
}

// freePage drops the data of some item segments, and tells whether there may be more.
func (e *Engine) freePage(ctx context.Context, sp *space) (more bool, err error) {
	is := sp.itemSpace()
	page, err := sp.readGone(ctx, is.Freed, is.Gone, gonePage)
	if err != nil {
		return false, err
	}
	passed, err := sp.leastPlace(ctx, 0)
	if err != nil {
		return false, err
	}
	more = len(page) == gonePage
	old := e.now() - e.itemHistory().Microseconds()
	if n := slices.IndexFunc(page, func(g goneSegment) bool { return uint64(g.at) > passed && g.Micros > old }); n >= 0 {
		page, more = page[:n], false
	}
	if len(page) == 0 {
		return false, nil
	}
	// Storage may show deletions and places before they are durable, and what is dropped cannot be had back.
	if err := sp.barrier(ctx); err != nil {
		return false, err
	}
	if err := e.Err(); err != nil {
		return false, err
	}
	var done [][]byte
	for i := range page {
		if done, err = e.freeSegment(ctx, sp, page[i].Segment, done); err != nil {
			return false, err
		}
	}
	e.cleaner.vacuum.note(sp.part)
	if err := sp.removeRows(ctx, done); err != nil {
		return false, err
	}
	freed := page[len(page)-1].at
	return more, again(func() error {
		if err := sp.ensure(ctx); err != nil {
			return err
		}
		return sp.write(ctx, 2*rowBytes, 1, func(t *tx) error {
			if is := &t.sp.items; freed > is.Freed {
				is.Freed = freed
				t.put([]byte{keyItemSpace}, is.Append(nil))
			}
			return nil
		})
	})
}

// freeSegment drops the data of an item segment that is kept, unless forks read it, and adds to the keys that the
// caller is to remove.
func (e *Engine) freeSegment(ctx context.Context, sp *space, id uint64, keys [][]byte) ([][]byte, error) {
	if ended, err := sp.ended(ctx, id); err != nil || ended == nil {
		return keys, err
	}
	_, err := e.driver.Get(ctx, sp.part, nameKey(id))
	if errors.Is(err, storage.ErrKeyNotFound) {
		keys, err = e.dropSegment(ctx, sp.part, id, keys)
	}
	return append(keys, endedKey(id)), err
}

// dropGone removes the rows of item segments that were deleted a while ago, and that all stored places of the
// space have passed.
func (e *Engine) dropGone(ctx context.Context, part storage.Partition) error {
	old := e.now() - e.itemHistory().Microseconds()
	var keys [][]byte
	r := kindRange(keyGone)
	r.Limit = sweepPage
	for pair, err := range e.driver.Scan(ctx, part, r) {
		if err != nil {
			return err
		}
		row, err := record.DecodeGone(pair.Value)
		if err != nil {
			return err
		}
		if row.Micros > old {
			break
		}
		keys = append(keys, append([]byte(nil), pair.Key...))
	}
	if len(keys) == 0 {
		return nil
	}
	sp, err := e.enter(ctx, part)
	if err != nil {
		return err
	}
	defer sp.leave()
	passed, err := sp.leastPlace(ctx, 0)
	if err != nil {
		return err
	}
	passed = min(passed, uint64(sp.itemSpace().Freed))
	n := 0
	for n < len(keys) && binary.BigEndian.Uint64(keys[n][1:]) <= passed {
		n++
	}
	if n == 0 {
		return nil
	}
	last := runnel.Position(binary.BigEndian.Uint64(keys[n-1][1:]))
	// Who has yet to read them is told so before they are not there.
	err = again(func() error {
		if err := sp.ensure(ctx); err != nil {
			return err
		}
		return sp.write(ctx, 2*rowBytes, 1, func(t *tx) error {
			if is := &t.sp.items; last > is.Cut {
				is.Cut = last
				t.put([]byte{keyItemSpace}, is.Append(nil))
			}
			return nil
		})
	})
	if err != nil {
		return err
	}
	return sp.removeRows(ctx, keys[:n])
}

// itemHistory is how long it is kept that an item segment was deleted.
func (e *Engine) itemHistory() time.Duration {
	if e.cfg.ItemHistory < 0 {
		return DefaultItemHistory
	}
	return e.cfg.ItemHistory
}

// leastPlace returns up to where all stored places of a segment, or of the space where id is 0, have come.
func (sp *space) leastPlace(ctx context.Context, id uint64) (uint64, error) {
	place := uint64(math.MaxUint64)
	for pair, err := range sp.e.driver.Scan(ctx, sp.part, segmentRange(keyCursor, id)) {
		if err != nil {
			return 0, storageError(err)
		}
		c, err := record.DecodeCursor(pair.Value)
		if err != nil {
			return 0, err
		}
		place = min(place, c.Place)
	}
	return place, nil
}
