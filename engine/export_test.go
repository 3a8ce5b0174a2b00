package engine

import (
	"context"

	"github.com/runnelhq/runnel"
)

// SetMaxChanged sets how many changed segments are remembered for a watcher, until the function it
// returns is called.
func SetMaxChanged(n int) (restore func()) {
	was := maxChanged
	maxChanged = n
	return func() { maxChanged = was }
}

// CutHistory lets go of what the log of an item segment need not hold.
func (e *Engine) CutHistory(ctx context.Context, addr runnel.Segment) error {
	info, err := e.Stat(ctx, addr)
	if err != nil {
		return err
	}
	return again(func() error { return e.trim(ctx, addr, info.ID) })
}

// HeldBytes is how many bytes the items of a segment are said to take.
func (e *Engine) HeldBytes(ctx context.Context, addr runnel.Segment) int64 {
	held, _ := retry(func() (int64, error) {
		seg, err := e.acquire(ctx, addr)
		if err != nil {
			return -1, err
		}
		defer seg.release()
		return seg.durable.Load().held, nil
	})
	return held
}
