package durablestreams

import (
	"context"
	"errors"
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
	level  runnel.Sequence // the tail when the reader began: before it nothing may call it up to date
	begun  bool            // it has had its first event
	fresh  bool            // it is to be given the state first
	cursor cursor          // no event may have a lesser one
	ends   time.Time       // zero for never
}

// outcome is how following by itself came to an end for a reader.
type outcome byte

const (
	attached outcome = iota // the hub serves it from now on
	over                    // it has had what it gets; the response is to end properly
	lost                    // something could not be written; the response must not look whole
)

// errLost is any error of an outlet.
var errLost = errors.New("durablestreams: the reader is lost")

// follow serves the reader, beginning with a view if it is of the right place.
func (f *follower) follow(ctx context.Context, v runnel.View) outcome {
	if err := f.serve(ctx, v); errors.Is(err, errLost) {
		return lost
	} else if err != nil {
		return over
	}
	return attached
}

// errOver says that the time of a reader is up, or that the stream has come to its end.
var errOver = errors.New("durablestreams: the reader is over")

// serve returns nil when the reader is attached. All errors but errLost end the response properly: whoever
// comes back learns what became of the stream.
func (f *follower) serve(ctx context.Context, v runnel.View) error {
	if f.fresh {
		if err := f.sendState(ctx, v); err != nil {
			return err
		}
		v = runnel.View{}
	}
	for {
		if ctx.Err() != nil || f.over() {
			return errOver
		}
		next := f.hub.next(f.at)
		if f.at < f.level && !next.ended {
			// The hub's frames may say that they reach the tail, and have done so before the reader began.
			next.frames, next.read = nil, max(next.read, f.level)
		}
		switch {
		case len(next.frames) > 0:
			for _, frame := range next.frames {
				if err := f.send(frame); err != nil {
					return err
				}
				if frame.closed {
					return errOver
				}
			}
		case next.ended:
			return f.finish(ctx)
		case next.read > f.at:
			if v.From != f.at || v.Tail < next.read {
				var err error
				if v, err = f.hub.h.own.Read(ctx, f.hub.key.seg, f.hub.key.id, f.at); err != nil {
					return err
				}
			}
			if err := f.catchUp(ctx, v, next.read); err != nil {
				return err
			}
		default:
			if !f.begun {
				if err := f.send(f.hub.codec.control(f.at, f.number(), f.at >= f.level, false)); err != nil {
					return err
				}
			}
			if f.out.attach(f.at) {
				return nil
			}
			if err := f.wait(ctx, next.wait); err != nil {
				return err
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
	if f.out.frame(frame.atLeast(f.cursor)) != nil {
		return errLost
	}
	f.at, f.begun = frame.end, true
	return nil
}

// sendState sends the state of a view, or, if the view has none, that of one of this moment. It must come whole
// or not at all.
func (f *follower) sendState(ctx context.Context, v runnel.View) error {
	own, key := f.hub.h.own, f.hub.key
	if v.State == nil {
		var err error
		if v, err = own.ReadStart(ctx, key.seg); err != nil {
			return err
		}
		if v.ID != key.id || v.State == nil {
			return &runnel.NotFoundError{Segment: key.seg}
		}
	}
	err := f.hub.codec.stateFrames(v, f.number(), f.hub.h.weigh(ctx), func(frame *frame) error {
		if err := f.out.frame(frame); err != nil {
			return err
		}
		return ctx.Err()
	})
	if err != nil {
		return errLost
	}
	// Only who has had what the state lacks may be called up to date.
	f.fresh, f.at = false, v.From
	v, err = own.Read(ctx, key.seg, key.id, f.at)
	f.level = v.Tail
	return err
}

// catchUp sends what a view holds up to a place.
func (f *follower) catchUp(ctx context.Context, v runnel.View, through runnel.Sequence) error {
	return f.hub.codec.frames(v, through, f.number(), f.hub.h.weigh(ctx), func(frame *frame) error {
		if err := f.send(frame); err != nil {
			return err
		}
		if f.over() {
			return errOver
		}
		return ctx.Err()
	})
}

// finish sends what is left of a stream that its hub has come to the end of. If it is not closed, the
// reader finds out why when it comes back.
func (f *follower) finish(ctx context.Context) error {
	v, err := f.hub.h.own.Read(ctx, f.hub.key.seg, f.hub.key.id, f.at)
	switch {
	case err != nil:
	case !v.Closed:
	case v.Tail == f.at:
		err = f.send(f.hub.codec.control(f.at, "", true, true))
	default:
		err = f.catchUp(ctx, v, v.Tail)
	}
	if err == nil {
		err = errOver
	}
	return err
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
		if f.out.heartbeat() != nil {
			return errLost
		}
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}
