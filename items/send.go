package items

import (
	"context"
	"fmt"

	"github.com/runnelhq/runnel"
)

// maxEventType is the longest type of an event, in bytes.
const maxEventType = 256

// send hands an event to those who are subscribed now. It is not kept, and waits for nobody.
func (h *Handler) send(ctx context.Context, group runnel.Segment, e event) error {
	if n := len(e.kind); n > maxEventType {
		return &runnel.TooLargeError{What: "type of an event", Limit: maxEventType, Got: int64(n)}
	}
	if h.cfg.MaySend != nil {
		if err := h.cfg.MaySend(ctx, group, deref(e.item)); err != nil {
			return err
		}
	}
	if n := len(e.data) + len(e.kind); n > h.cfg.MaxQueueBytes/2 {
		return &runnel.TooLargeError{What: fmt.Sprintf("event of type %.40q", e.kind), Limit: int64(h.cfg.MaxQueueBytes / 2), Got: int64(n)}
	}
	h.mu.Lock()
	f := h.feeds[group.In()]
	h.mu.Unlock()
	if f == nil {
		if h.cfg.Sent != nil {
			h.cfg.Sent(group, e.frame(group, h.stamp(group)))
		}
		return nil
	}
	// Changes that were there before the event are told before it.
	info, err := h.cfg.Own.StatSpace(ctx, group.In())
	if err != nil {
		return err
	}
	f.afterChanges(info.Head, func() {
		frame := e.frame(group, h.stamp(group))
		f.mu.Lock()
		receivers := f.receivers(group.Name)
		f.mu.Unlock()
		for _, c := range receivers {
			c.event(group, &e, frame)
		}
		if h.cfg.Sent != nil {
			h.cfg.Sent(group, frame)
		}
	})
	return nil
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
