package engine

import (
	"context"
	"errors"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/record"
)

// Delete removes a segment and returns when that is durable: no reader sees any of it afterwards, but one of
// FollowItems that had not read it yet, and the name is free. A segment that forks read is only soft-deleted: its
// name stays taken, and its data is kept until the last fork is gone. The space of the data is given back later.
//
// It fails with runnel.ErrNotFound, or with ErrSoftDeleted if that has been done before.
func (e *Engine) Delete(ctx context.Context, addr runnel.Segment) error {
	if err := addr.Validate(); err != nil {
		return err
	}
	for {
		err := e.tryDelete(ctx, addr)
		if !errors.Is(err, errRetry) {
			return err
		}
	}
}

func (e *Engine) tryDelete(ctx context.Context, addr runnel.Segment) error {
	seg, err := e.acquire(ctx, addr)
	if err != nil {
		return err
	}
	defer seg.release()
	err = seg.sp.write(ctx, 2*rowBytes+endBytes+2*seg.descriptorBytes(), 10, func(t *tx) error {
		if seg.stale.Load() {
			return errRetry
		}
		st := seg.staged
		if err := t.live(seg, addr); err != nil {
			return err
		}
		t.b.events = append(t.b.events, runnel.Event{Info: st.info(addr), Deleted: true})
		if st.desc.References > 0 {
			t.softDelete(seg)
			return nil
		}
		t.end(seg)
		return nil
	})
	if err == nil {
		e.cleaner.tidy(seg.sp.part)
	}
	return err
}

// softDelete stages that a segment is gone for its users and kept for its forks.
func (t *tx) softDelete(seg *segment) {
	desc := *seg.staged.desc
	desc.SoftDeleted = true
	t.describe(seg, &desc)
	position := t.take(1)
	t.change(record.Deleted, desc.ID, position, seg.staged.tail, 0)
	if desc.Items {
		t.gone(seg, position)
	}
}

// What the end of a segment may add to a batch, besides what descriptorBytes says twice.
const (
	endBytes = 16*rowBytes + runnel.MaxSegmentBytes
	endOps   = 8
)

// end stages that a segment is no more. Its data is left to the cleaner, which finds it by the rows
// that are staged here.
func (t *tx) end(seg *segment) {
	st := seg.staged
	id := st.desc.ID
	t.remove(descriptorKey(seg.name))
	t.remove(nameKey(id))
	if st.mutable != nil {
		t.remove(mutableKey(id))
	}
	if at := st.desc.ExpiresAt; at > 0 {
		t.remove(dueKey(at, id))
	}
	if !st.desc.Items || st.desc.SoftDeleted {
		t.put(trashKey(id), nil)
	}
	if f := st.desc.Fork; f != nil {
		release := record.Release{Space: f.Space, Segment: f.Segment, SourceID: f.SourceID}
		t.put(releaseKey(f.Reference), release.Append(nil))
	}
	position := t.take(1)
	t.change(record.Deleted, id, position, st.tail, 0)
	if st.desc.Items && !st.desc.SoftDeleted {
		t.gone(seg, position)
	}
	t.set(seg, absent)
}
