package items

import (
	"context"
	"errors"

	"github.com/runnelhq/runnel"
)

const (
	// maxLanes is how many groups a trigger works on at a time.
	maxLanes = 1000
	// laneRoom is how many events wait in a lane. What comes after them waits in the log.
	laneRoom = 16
)

// A lane is the events of one group, which are handed over one after the other by a goroutine of their own. A
// handler that hangs fills its lane and no other, and takes no more memory: what has no room is read again
// later, from the place that the lane remembers.
type lane struct {
	at    runnel.Position // of the event that is being handed over; 0: none
	queue []*TriggerEvent
	rest  []stretch // what comes behind the queue
}

// stretch is a part of one incarnation of a group.
type stretch struct {
	group string
	id    uint64
	// after and through bound it, and from is a position that is not after that of its first event.
	after, through runnel.Sequence
	from           runnel.Position
	// kept is the deletion of the group, which cannot be read again; nil for a stretch of changes.
	kept *TriggerEvent
}

// first is the position of the first event that is not done.
func (l *lane) first() runnel.Position {
	switch {
	case l.at > 0:
		return l.at
	case len(l.queue) > 0:
		return l.queue[0].Position
	case len(l.rest) > 0:
		return l.rest[0].from
	}
	return runnel.Position(^uint64(0))
}

// later leaves an event to be read again.
func (l *lane) later(e *TriggerEvent) {
	if e.Kind == kindGone {
		l.rest = append(l.rest, stretch{group: e.Group, id: e.id, from: e.Position, kept: e})
		return
	}
	if n := len(l.rest); n > 0 && l.rest[n-1].id == e.id && l.rest[n-1].group == e.Group && l.rest[n-1].kept == nil {
		l.rest[n-1].through = e.sequence
		return
	}
	l.rest = append(l.rest, stretch{group: e.Group, id: e.id, after: e.sequence - 1, through: e.sequence, from: e.Position})
}

// enqueue puts an event in its lane.
func (r *term) enqueue(ctx context.Context, e *TriggerEvent) {
	e.Fence = r.fence.Number
	name := r.lane(e)
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.lanes[name]
	for l == nil && len(r.lanes) >= maxLanes && ctx.Err() == nil {
		r.room.Wait()
	}
	if l == nil {
		l = new(lane)
		r.lanes[name] = l
		r.working.Go(func() { r.work(ctx, name, l) })
	}
	if len(l.rest) > 0 || len(l.queue) >= laneRoom {
		l.later(e)
		return
	}
	l.queue = append(l.queue, e)
}

// work hands over the events of one lane until there are none.
func (r *term) work(ctx context.Context, name string, l *lane) {
	for {
		e := r.next(ctx, name, l)
		if e == nil || !r.deliver(ctx, e) {
			return
		}
		r.mu.Lock()
		l.at = 0
		r.moved(ctx)
		r.mu.Unlock()
	}
}

// next takes the next event of a lane. It is nil when the lane is empty, and then gone, and when ctx ends.
func (r *term) next(ctx context.Context, name string, l *lane) *TriggerEvent {
	for ctx.Err() == nil {
		r.mu.Lock()
		if len(l.queue) > 0 {
			e := l.queue[0]
			l.queue[0] = nil
			l.queue = l.queue[1:]
			l.at = e.Position
			r.mu.Unlock()
			return e
		}
		if len(l.rest) == 0 {
			delete(r.lanes, name)
			r.room.Broadcast()
			r.mu.Unlock()
			return nil
		}
		s := l.rest[0]
		if s.kept != nil {
			l.queue, l.rest = append(l.queue, s.kept), l.rest[1:]
			r.mu.Unlock()
			continue
		}
		r.mu.Unlock()
		events, at, err := r.readAgain(ctx, name, s)
		if trimmed, ok := errors.AsType[*runnel.TrimmedError](err); ok {
			at = max(at, trimmed.Earliest)
		}
		if err != nil && ctx.Err() == nil {
			r.Logger.Warn("changes for a trigger could not be read again", "trigger", r.Name, "group", s.group, "err", err)
			pause(ctx, maxEventWait)
		}
		r.mu.Lock()
		l.queue = events
		if l.rest[0].after = max(l.rest[0].after, at); l.rest[0].after >= l.rest[0].through {
			l.rest = l.rest[1:]
		} else if n := len(events); n > 0 {
			l.rest[0].from = events[n-1].Position + 1
		}
		r.mu.Unlock()
	}
	return nil
}

// readAgain reads events of a stretch, up to laneRoom of them, and tells how far it has come.
func (r *term) readAgain(ctx context.Context, name string, s stretch) (events []*TriggerEvent, at runnel.Sequence, err error) {
	events, at, err = r.readGroup(ctx, name, s)
	switch {
	case !errors.Is(err, runnel.ErrNotFound) && !errors.Is(err, runnel.ErrSoftDeleted):
		return events, at, err
	case len(events) > 0:
		return events, at, nil // it was deleted just now; the rest comes the next time
	}
	return r.readEnded(ctx, name, s)
}

// readEnded reads events of a group that was deleted since, in the order of the space, which they are kept for.
func (r *term) readEnded(ctx context.Context, name string, s stretch) (events []*TriggerEvent, at runnel.Sequence, err error) {
	at = s.after
	for batch, err := range r.changes(ctx, s.group, s.from-1) {
		switch {
		case err != nil:
			return events, at, err
		case batch.Segment.Name != s.group || batch.ID != s.id:
			continue
		case batch.Deleted:
			return events, s.through, nil
		}
		var more bool
		if events, at, more = r.take(events, at, name, &s, &batch); !more || at >= s.through {
			break
		}
	}
	return events, min(at, s.through), ctx.Err()
}

// take adds the events that a batch has for a lane to those of a stretch, while there is room for them, and tells how
// far it has come.
func (r *term) take(events []*TriggerEvent, at runnel.Sequence, name string, s *stretch, batch *runnel.ItemBatch) ([]*TriggerEvent, runnel.Sequence, bool) {
	for i := range batch.Changes {
		c := &change{group: batch.Segment, id: s.id, ItemChange: batch.Changes[i]}
		if c.Sequence <= s.after {
			continue
		}
		if c.Sequence > s.through || len(events) >= laneRoom {
			return events, at, false
		}
		if e := r.match(c); e != nil && r.lane(e) == name {
			e.Fence = r.fence.Number
			events = append(events, e)
		}
		at = c.Sequence
	}
	return events, batch.Last, true
}

func (r *term) readGroup(ctx context.Context, name string, s stretch) (events []*TriggerEvent, at runnel.Sequence, err error) {
	at = s.after
	group := r.space().Segment(s.group)
	for batch, err := range r.log.TailItems(ctx, group, s.id, s.after) {
		if err != nil {
			return events, at, err
		}
		var more bool
		if events, at, more = r.take(events, at, name, &s, &batch); !more || at >= s.through {
			break
		}
	}
	return events, min(at, s.through), ctx.Err()
}

// deliver calls the handler until it succeeds, or parks the event. It is false when ctx ends before.
func (r *term) deliver(ctx context.Context, e *TriggerEvent) bool {
	wait := r.Backoff
	for e.Attempt = 1; ; e.Attempt++ {
		err := hook(ctx, r.Timeout, func(ctx context.Context) error { return r.Handle(ctx, e) }, nil)
		if err == nil {
			return true
		}
		if ctx.Err() != nil {
			return false
		}
		if e.Attempt >= r.Attempts {
			if err = r.park(ctx, e, err); err == nil {
				return true
			}
			r.Logger.Warn("an event was not parked", "trigger", r.Name, "err", err)
		}
		if !pause(ctx, wait) {
			return false
		}
		wait = min(2*wait, maxTriggerBackoff)
	}
}
