package durablestreams

import "context"

// heavyBytes is from which size on entries are weighed on their way to readers. What is smaller is little
// more than the buffers of a connection.
const heavyBytes = 1 << 20

// weigher waits until so many bytes may be in memory for a reader. The caller releases them, and asks the
// log for nothing while it has them: whoever reads an entry may hold a part of the log's own bound.
type weigher func(n int) (release func(), err error)

// weigh returns the weigher of a reader that waits no longer than ctx.
func (h *Handler) weigh(ctx context.Context) weigher {
	return func(n int) (func(), error) {
		weight := min(int64(n), h.cfg.MaxReadBytes)
		if err := h.heavy.Acquire(ctx, weight); err != nil {
			return nil, err
		}
		return func() { h.heavy.Release(weight) }, nil
	}
}
