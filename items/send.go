package items

import (
	"context"
	"fmt"
	"iter"

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

// hear tells subscribers of events, whichever way in they were sent.
func (f *feed) hear(ctx context.Context, events iter.Seq[runnel.ItemEvent]) {
	for sent := range events {
		// Changes that were there before the event are told before it.
		info, err := f.h.cfg.Own.StatSpace(ctx, f.space)
		if err != nil {
			continue // whoever is not told missed it, as if it had come later
		}
		group, e := sent.Segment, event{item: sent.Item, subscription: sent.Subscription, kind: sent.Type, data: sent.Data}
		f.afterChanges(info.Head, func() {
			frame := e.frame(group, f.h.stamp(group))
			f.mu.Lock()
			receivers := f.receivers(group.Name)
			f.mu.Unlock()
			for _, c := range receivers {
				c.event(group, &e, frame)
			}
		})
	}
}

// event queues an event if a subscription wants it, once.
func (c *conn) event(group runnel.Segment, e *event, frame []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || c.gap {
		return
	}
	for id, s := range c.subs {
		if e.subscription != nil && *e.subscription != id || !s.wants(group, e.item) {
			continue
		}
		c.queue.event(frame)
		c.bound()
		c.wake()
		return
	}
}
