package engine

import (
	"context"
	"encoding/binary"
	"errors"
	"math"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/record"
	"github.com/runnelhq/runnel/storage"
)

// Of an item segment that is deleted a row is left for a while, in the place of the deletion in the order of the
// space, by which those who follow its items are told. One row of the space says from where on nothing of that is
// missing, and from where on stamps are new: an item segment that is made under the name of one before
// goes on after its stamps, which may be ahead of the clock.

// gone stages that an item segment was deleted at a position.
func (t *tx) gone(seg *segment, at runnel.Position) {
	st := seg.staged
	// The deletion is stamped like an entry that follows the last one.
	stamp := runnel.ItemStamp(runnel.ItemLead(st.lead, st.tail+1, t.micros), st.tail+1)
	row := record.Gone{Segment: st.desc.ID, Name: seg.name, Stamp: stamp, Micros: t.micros}
	t.put(goneKey(at), row.Append(nil))
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

// goneBetween returns the item segments that were deleted after a position and through another.
func (sp *space) goneBetween(ctx context.Context, after, through runnel.Position) ([]goneSegment, error) {
	if sp.itemSpace().Gone <= after {
		return nil, nil
	}
	var all []goneSegment
	r := storage.Range{From: goneKey(after + 1), To: goneKey(through + 1)}
	for pair, err := range sp.e.driver.Scan(ctx, sp.part, r) {
		if err != nil {
			return nil, storageError(err)
		}
		row, err := record.DecodeGone(pair.Value)
		if err != nil {
			return nil, err
		}
		all = append(all, goneSegment{runnel.Position(binary.BigEndian.Uint64(pair.Key[1:])), row})
	}
	return all, nil
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
