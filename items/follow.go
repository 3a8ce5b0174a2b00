package items

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/wire"
)

// follow is somebody who reads the Durable Stream of a group.
type follow struct {
	sub    Subscription
	joined bool // Join has accepted it
	end    context.CancelCauseFunc
}

// Follow asks Connect and Join whether who sent a request, which has been admitted, may read the Durable Stream of a
// group over a transport other than a WebSocket. Whatever goes wrong, the answer is an error.
//
// The reader is then a subscription like others, and may be served until the returned context ends, whose cause says
// why: a [*wire.Error] if it was revoked or its time is over, and [runnel.ErrShutdown] if it is to come back. End must
// be called once when the reader has been served; it tells Leave, without waiting.
func (h *Handler) Follow(r *http.Request, seg runnel.Segment, transport string) (served context.Context, end func(), err error) {
	if !h.Asks() && (transport == OverRead || transport == OverFork) {
		return context.Background(), func() {}, nil // it is over before it could be revoked
	}
	f := &follow{sub: Subscription{
		ID: transport, Store: seg.Store, Stream: seg.Space, Group: seg.Name, Transport: transport, Subject: h.cfg.Caller(r.Context()),
	}}
	served, f.end = context.WithCancelCause(context.Background())
	if err := h.begin(f); err != nil {
		f.end(err)
		return nil, nil, err
	}
	until, err := h.ask(r, f)
	if err == nil && served.Err() != nil {
		err = context.Cause(served)
	}
	if err != nil {
		h.finish(f)
		return nil, nil, err
	}
	if until.IsZero() {
		return served, func() { h.finish(f) }, nil
	}
	timed, stop := context.WithDeadlineCause(served, until, errAuthorizationEnded)
	return timed, func() {
		stop()
		h.finish(f)
	}, nil
}

// Asks tells whether there is anybody who could refuse a subscription.
func (h *Handler) Asks() bool { return h.cfg.Connect != nil || h.cfg.Join != nil }

var (
	errAuthorizationEnded = &wire.Error{
		Status: http.StatusUnauthorized, Detail: wire.Detail{Code: wire.CodeUnauthorized, Message: "the authorization has ended"},
	}
	errNoFollow = &wire.Error{
		Status: http.StatusForbidden, Detail: wire.Detail{Code: wire.CodeForbidden, Message: "the subscription was refused"},
	}
)

// ask asks the hooks. Until is when what Connect has admitted ends; zero: not by itself.
func (h *Handler) ask(r *http.Request, f *follow) (until time.Time, err error) {
	if h.cfg.Connect != nil {
		admitted, err := h.connect(r)
		if err != nil {
			return until, err
		}
		until = admitted.Until
		h.mu.Lock()
		f.sub.Context = admitted.Context
		h.mu.Unlock()
	}
	if err := h.permit(r.Context(), f.sub); err != nil {
		h.cfg.Logger.Debug("a reader was refused", "stream", f.sub.Stream, "group", f.sub.Group, "transport", f.sub.Transport, "err", err)
		if errors.Is(err, context.Canceled) && r.Context().Err() != nil {
			return until, err // who asked has gone
		}
		return until, errNoFollow
	}
	h.mu.Lock()
	f.joined = true
	h.mu.Unlock()
	return until, nil
}

// begin takes somebody in who is to be asked about.
func (h *Handler) begin(f *follow) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.draining {
		return runnel.ErrShutdown
	}
	h.lastConn++
	f.sub.Connection = h.lastConn
	h.follows[f] = struct{}{}
	h.live.Add(1)
	return nil
}

// finish forgets somebody, and tells of the leave if there was a join.
func (h *Handler) finish(f *follow) {
	f.end(nil)
	h.mu.Lock()
	delete(h.follows, f)
	joined := f.joined
	h.mu.Unlock()
	if !joined || h.cfg.Leave == nil {
		h.live.Done()
		return
	}
	go func() {
		defer h.live.Done()
		h.leave(f.sub)
	}()
}

// endFollows lets all who follow come back.
func (h *Handler) endFollows() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for f := range h.follows {
		f.end(runnel.ErrShutdown)
	}
}

// revokeFollows ends those who match, and tells how many of them had been let in.
func (h *Handler) revokeFollows(match func(Subscription) bool, why string) (n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for f := range h.follows {
		if !match(f.sub) {
			continue
		}
		delete(h.follows, f) // it counts once
		f.end(&wire.Error{Status: http.StatusForbidden, Detail: wire.Detail{Code: wire.CodeForbidden, Message: why}})
		if f.joined {
			n++
		}
	}
	return n
}
