package engine

import (
	"context"
	"errors"
	"sync"

	"github.com/runnelhq/runnel"
)

// Events that are sent to groups of items are kept by nobody. Whoever watches items has a bounded queue of
// them, apart from its place in the log: one who cannot keep up misses events, and never a change.

// itemEvents are those who listen to events.
type itemEvents struct {
	mu  sync.Mutex
	all map[*itemListener]struct{}
}

// itemListener is one of them.
type itemListener struct {
	wants func(*runnel.ItemEvent) bool
	heard func(runnel.ItemEvent) // nil for one that takes events from the queue
	wake  chan struct{}          // has room for one

	mu      sync.Mutex
	queue   []runnel.ItemEvent
	queued  int    // bytes
	dropped uint64 // how many have left the queue
}

// maxEventsWaiting is how many bytes of events wait for a listener before it misses the oldest.
const maxEventsWaiting = 2 * runnel.MaxItemEventBytes

// SendItem tells those who watch a group, in this process, of an event, after the changes that are there. It
// waits for nobody, and the group need not exist. It fails with runnel.ErrInvalid or ErrTooLarge.
func (e *Engine) SendItem(ctx context.Context, event runnel.ItemEvent) error {
	if err := event.Validate(); err != nil {
		return err
	}
	select {
	case <-e.closed:
		return runnel.ErrShutdown
	default:
	}
	event.ID, event.Tail = 0, 0
	info, _, err := e.itemInfo(ctx, event.Segment)
	switch {
	case err == nil:
		event.ID, event.Tail = info.ID, info.Tail
	case !errors.Is(err, runnel.ErrNotFound) && !errors.Is(err, runnel.ErrSoftDeleted):
		return err
	}
	event.Data = append([]byte(nil), event.Data...)
	s := &e.itemEvents
	s.mu.Lock()
	defer s.mu.Unlock()
	for l := range s.all {
		if l.wants(&event) {
			l.add(&event)
		}
	}
	return nil
}

// eventBytes is about what an event takes.
func eventBytes(event *runnel.ItemEvent) int { return len(event.Data) + len(event.Type) + 256 }

// add puts an event behind the others, and drops the oldest when they are too many.
func (l *itemListener) add(event *runnel.ItemEvent) {
	if l.heard != nil {
		l.heard(*event)
		return
	}
	l.mu.Lock()
	l.queue = append(l.queue, *event)
	l.queued += eventBytes(event)
	for l.queued > maxEventsWaiting && len(l.queue) > 1 {
		l.drop()
	}
	l.mu.Unlock()
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// take returns the events for which due says yes, up to the first of which it does not, so that they stay
// in their order. There is one who takes. Nobody who adds waits while due looks.
func (l *itemListener) take(due func(*runnel.ItemEvent) bool) (events []runnel.ItemEvent) {
	for {
		l.mu.Lock()
		if len(l.queue) == 0 {
			l.mu.Unlock()
			return events
		}
		event, dropped := l.queue[0], l.dropped
		l.mu.Unlock()
		if !due(&event) {
			return events
		}
		events = append(events, event)
		l.mu.Lock()
		if l.dropped == dropped {
			l.drop()
		}
		l.mu.Unlock()
	}
}

// drop takes the oldest event away. It is called with l.mu held.
func (l *itemListener) drop() {
	l.queued -= eventBytes(&l.queue[0])
	l.queue = l.queue[1:]
	l.dropped++
}

func newItemListener(wants func(*runnel.ItemEvent) bool) *itemListener {
	return &itemListener{wants: wants, wake: make(chan struct{}, 1)}
}

func (e *Engine) listen(l *itemListener) {
	s := &e.itemEvents
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all == nil {
		s.all = make(map[*itemListener]struct{})
	}
	s.all[l] = struct{}{}
}

func (e *Engine) unlisten(l *itemListener) {
	s := &e.itemEvents
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.all, l)
}

// HearItemEvents calls heard for each event that is sent to groups of a space in this process, before SendItem
// returns, one at a time and in their order, until ctx is done. A call must not wait for anything. It fails with
// runnel.ErrInvalid or ErrShutdown.
func (e *Engine) HearItemEvents(ctx context.Context, space runnel.Space, heard func(runnel.ItemEvent)) error {
	if err := space.Validate(); err != nil {
		return err
	}
	select {
	case <-e.closed:
		return runnel.ErrShutdown
	default:
	}
	l := &itemListener{wants: func(event *runnel.ItemEvent) bool { return event.Segment.In() == space }, heard: heard}
	e.listen(l)
	context.AfterFunc(ctx, func() { e.unlisten(l) })
	return nil
}
