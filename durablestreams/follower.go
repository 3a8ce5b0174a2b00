package durablestreams

import (
	"context"
	"time"

	"github.com/runnelhq/runnel"
)

// outlet is where the events of one reader go.
type outlet interface {
	// frame and heartbeat return when the bytes are on their way, or the reader is lost.
	frame(f *frame) error
	heartbeat() error
	// attach hands a reader that is level over to its hub, if that can be done.
	attach(at runnel.Sequence) bool
}

// follower serves one reader from its place, by itself: first from the log, then with the frames of the
// hub, until it can be attached or its time is up.
type follower struct {
	hub    *hub
	out    outlet
	at     runnel.Sequence
	level  runnel.Sequence // the tail when the reader began: from there on it has missed nothing
	begun  bool            // it has had its first event
	cursor cursor          // no event may have a lesser one
	ends   time.Time       // zero for never
}

// follow returns true if the reader was attached, and false if it is over.
func (f *follower) follow(ctx context.Context, v runnel.View) bool {
	for {
		if ctx.Err() != nil || f.over() {
			return false
		}
		next := f.hub.next(f.at)
		switch {
		case len(next.frames) > 0:
			for _, frame := range next.frames {
				if f.send(frame) != nil || frame.closed {
					return false
				}
			}
		case next.ended:
			f.finish(ctx)
			return false
		case next.read > f.at:
			var err error
			if v.From != f.at || v.Tail < next.read {
				if v, err = f.hub.h.log.Read(ctx, f.hub.key.seg, f.hub.key.id, f.at); err != nil {
					return false
				}
			}
			if f.catchUp(ctx, v, next.read) != nil {
				return false
			}
		default:
			if !f.begun && f.send(f.hub.codec.control(f.at, f.number(), f.at >= f.level, false)) != nil {
				return false
			}
			if f.out.attach(f.at) {
				return true
			}
			if f.wait(ctx, next.wait) != nil {
				return false
			}
		}
	}
}

// over tells whether the reader's time is up. It is not before it has had an event.
func (f *follower) over() bool {
	return f.begun && !f.ends.IsZero() && time.Now().After(f.ends)
}

// number is the cursor of an event that is sent now.
func (f *follower) number() cursor {
	if now := cursorAt(time.Now()); f.cursor.less(now) {
		return now
	}
	return f.cursor
}

func (f *follower) send(frame *frame) error {
	if err := f.out.frame(frame.atLeast(f.cursor)); err != nil {
		return err
	}
	f.at, f.begun = frame.end, true
	return nil
}

// catchUp sends what a view holds up to a place.
func (f *follower) catchUp(ctx context.Context, v runnel.View, through runnel.Sequence) error {
	return f.hub.codec.frames(v, through, f.number(), func(frame *frame) error {
		if err := f.send(frame); err != nil {
			return err
		}
		if f.over() {
			return context.DeadlineExceeded
		}
		return ctx.Err()
	})
}

// finish sends what is left of a stream that its hub has come to the end of. If it is not closed, the
// reader finds out why when it comes back.
func (f *follower) finish(ctx context.Context) {
	v, err := f.hub.h.log.Read(ctx, f.hub.key.seg, f.hub.key.id, f.at)
	if err != nil || !v.Closed {
		return
	}
	if v.Tail == f.at {
		_ = f.send(f.hub.codec.control(f.at, "", true, true)) // nobody is left to tell
		return
	}
	_ = f.catchUp(ctx, v, v.Tail)
}

// wait returns when there may be something new, after a heartbeat if that takes long.
func (f *follower) wait(ctx context.Context, changed <-chan struct{}) error {
	var beat, end <-chan time.Time
	if d := f.hub.h.cfg.Heartbeat; d > 0 {
		t := time.NewTimer(d)
		defer t.Stop()
		beat = t.C
	}
	if !f.ends.IsZero() {
		t := time.NewTimer(time.Until(f.ends) + time.Millisecond)
		defer t.Stop()
		end = t.C
	}
	select {
	case <-changed:
	case <-end:
	case <-beat:
		return f.out.heartbeat()
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}
