package items

import (
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/runnelhq/runnel"
)

// send tells those who are subscribed now of an event. It is not kept, and waits for nobody.
func (h *Handler) send(ctx context.Context, group runnel.Segment, e event) error {
	if n := len(e.data) + len(e.kind); n > h.cfg.MaxQueueBytes/2 {
		return &runnel.TooLargeError{What: fmt.Sprintf("event of type %.40q", e.kind), Limit: int64(h.cfg.MaxQueueBytes / 2), Got: int64(n)}
	}
	sent := runnel.ItemEvent{Segment: group, Item: e.item, Subscription: e.subscription, Type: e.kind, Data: e.data}
	return h.log.SendItem(ctx, sent)
}

// heard takes in an event that is sent, whichever way in, before its sender is answered.
func (f *feed) heard(sent runnel.ItemEvent) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.groups[sent.Segment.Name]) == 0 && len(f.whole) == 0 {
		return
	}
	f.events = append(f.events, &waiting{sent: &sent, after: runnel.Position(math.MaxUint64)})
	f.size += eventBytes(&sent)
	for f.size > maxEventsWaiting {
		f.take(slices.IndexFunc(f.events, func(w *waiting) bool { return w.sent != nil }))
	}
	select {
	case f.awake <- struct{}{}:
	default:
	}
}

// eventBytes is about what an event takes.
func eventBytes(sent *runnel.ItemEvent) int { return len(sent.Data) + len(sent.Type) + 256 }

// hear tells subscribers of events.
func (f *feed) hear(ctx context.Context) {
	for {
		select {
		case <-f.awake:
		case <-ctx.Done():
			return
		}
		if f.tellEvents(); !f.waits() {
			continue
		}
		// An event of which it is not known whether the changes before it were told is told when all are.
		info, err := f.h.cfg.Own.StatSpace(ctx, f.space)
		f.mu.Lock()
		for _, w := range f.events {
			if w.sent != nil && w.after == runnel.Position(math.MaxUint64) {
				if w.after = info.Head; err != nil {
					w.due = true
				}
				wait := maxEventWait
				if _, known := f.places[w.sent.Segment.Name]; known {
					wait = inFlight // its changes are on their way
				}
				f.remind(w, wait)
			}
		}
		f.mu.Unlock()
		f.tellEvents()
	}
}

func (f *feed) waits() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.events) > 0
}

// tellEvent tells those who are subscribed.
func (f *feed) tellEvent(sent *runnel.ItemEvent) {
	e := event{item: sent.Item, subscription: sent.Subscription, kind: sent.Type, data: sent.Data}
	frame := e.frame(sent.Segment, f.h.stamp(sent.Segment))
	f.mu.Lock()
	receivers := f.receivers(sent.Segment.Name)
	f.mu.Unlock()
	for _, c := range receivers {
		c.event(sent.Segment, &e, frame)
	}
}

// event hands an event to the connection. It never waits.
func (c *conn) event(group runnel.Segment, e *event, frame []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.closed || c.gap:
	case c.holding: // it comes after changes that are held
		c.keep(held{group: group, event: e, frame: frame}, len(frame))
	default:
		c.deliverEvent(group, e, frame)
	}
}

// deliverEvent queues an event if a subscription wants it, once. The lock is held.
func (c *conn) deliverEvent(group runnel.Segment, e *event, frame []byte) {
	for id, s := range c.subs {
		if e.subscription != nil && *e.subscription != id || !s.wants(group, e.item) {
			continue
		}
		if c.level() && c.straight(frame) {
			return
		}
		c.queue.event(frame)
		c.bound()
		c.wake()
		return
	}
}
