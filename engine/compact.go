package engine

import (
	"context"
	"math"

	"github.com/runnelhq/runnel"
)

// CompactItems lets go of the history of an item segment, however young it is: of all entries but the last, and those
// that a stored place of the segment or its space has yet to pass. Items, versions and sequences stay as they are.
// It returns the segment as it is then, whose Earliest says what is kept, when that is durable. Config.ItemHistory
// does not matter. It fails with runnel.ErrNotFound, and with runnel.ErrInvalid when the segment is not one of items.
func (e *Engine) CompactItems(ctx context.Context, addr runnel.Segment) (runnel.Info, error) {
	info, err := e.Stat(ctx, addr)
	if err != nil {
		return runnel.Info{}, err
	}
	if !info.Items {
		return runnel.Info{}, notItems(addr)
	}
	err = again(func() error { return e.trimTo(ctx, addr, info.ID, e.everything) })
	if err != nil {
		return runnel.Info{}, err
	}
	now, err := e.Stat(ctx, addr)
	if err == nil && now.ID != info.ID {
		err = &runnel.NotFoundError{Segment: addr}
	}
	return now, err
}

// everything returns the place before the first entry that is kept when history is not.
func (e *Engine) everything(ctx context.Context, seg *segment, st *state) (runnel.Sequence, error) {
	at := min(st.inc.retained.get(), st.tail)
	if at == st.tail {
		return at, nil
	}
	cut, kept, err := e.unneeded(ctx, seg, st, at, math.MaxInt64)
	if err != nil {
		return 0, err
	}
	if cut > at {
		st.inc.retained.note(kept)
	}
	return cut, nil
}
