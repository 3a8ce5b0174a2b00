package durablestreams

import (
	"cmp"
	"context"
	"errors"
	"net/http"

	"github.com/runnelhq/runnel"
)

// What Follow is asked for besides live reads.
const (
	// FollowRead is a read of what there is.
	FollowRead = "read"
	// FollowFork is a fork.
	FollowFork = "fork"
)

// follow asks whether a reader may have what a segment holds.
func (h *Handler) follow(r *http.Request, seg runnel.Segment, info *runnel.Info, live string) (served context.Context, end func(), err error) {
	if h.cfg.Follow == nil || !info.Items {
		return context.Background(), func() {}, nil
	}
	return h.cfg.Follow(r, seg, cmp.Or(live, FollowRead))
}

// mayFork asks whether what is forked may be read. A fork is read by a name of its own.
func (h *Handler) mayFork(r *http.Request, source runnel.Segment) error {
	if h.cfg.Follow == nil {
		return nil
	}
	info, err := h.log.Stat(r.Context(), source)
	switch {
	case errors.Is(err, runnel.ErrSoftDeleted):
		return nil // nobody forks it; a fork that is there already is only found
	case err != nil:
		return explainCreate(err, false)
	}
	_, end, err := h.follow(r, source, &info, FollowFork)
	if err == nil {
		end()
	}
	return err
}

// keeps tells whether caches may keep what is read of a segment.
func (h *Handler) keeps(info *runnel.Info) bool { return !h.cfg.ItemsNoStore || !info.Items }

// refusal is why a reader is not served any longer; nil if it is, or may come back.
func refusal(served context.Context) error {
	if err := context.Cause(served); !errors.Is(err, runnel.ErrShutdown) {
		return err
	}
	return nil
}
