package items

import (
	"context"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/runnelhq/runnel"
)

// maxSendsWaiting is how many events of a trigger wait for its handler.
const maxSendsWaiting = 1000

// A hearing hands events to the handler of a trigger, one lane for each group.
type hearing struct {
	*Trigger
	mu      sync.Mutex
	lanes   map[string][]*TriggerEvent // what waits; a lane is here while a goroutine works on it
	waiting int
	dropped int // since one was last taken
	over    bool
	working sync.WaitGroup
}

// hear hands over events until ctx ends.
func (t *Trigger) hear(ctx context.Context, log Log) (*hearing, error) {
	h := &hearing{Trigger: t, lanes: make(map[string][]*TriggerEvent)}
	return h, log.HearItemEvents(ctx, t.space(), func(sent runnel.ItemEvent) { h.enqueue(ctx, &sent) })
}

// end waits for what is being handed over, when ctx has ended.
func (h *hearing) end() {
	h.mu.Lock()
	h.over = true
	h.mu.Unlock()
	h.working.Wait()
}

func (h *hearing) enqueue(ctx context.Context, s *runnel.ItemEvent) {
	if !h.isAbout(s.Segment.Name, s.Item) {
		return
	}
	e := &TriggerEvent{
		Key: h.Name + "/" + uuid.NewString(), Stream: h.Stream, Group: s.Segment.Name, Item: deref(s.Item), Kind: kindEvent,
		Value: s.Data, Type: s.Type, Attempt: 1,
		Frame: content((&event{item: s.Item, kind: s.Type, data: s.Data}).frame(s.Segment, time.Now().UnixMilli())),
	}
	if !h.lets(e) {
		return
	}
	name := h.lane(e)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.over {
		return
	}
	if h.waiting >= maxSendsWaiting {
		h.dropped++
		return
	}
	h.waiting++
	waiting, busy := h.lanes[name]
	h.lanes[name] = append(waiting, e)
	if !busy {
		h.working.Go(func() { h.work(ctx, name) })
	}
}

// work hands over the events of one lane until there are none.
func (h *hearing) work(ctx context.Context, name string) {
	for {
		h.mu.Lock()
		waiting := h.lanes[name]
		if len(waiting) == 0 || ctx.Err() != nil {
			delete(h.lanes, name)
			h.mu.Unlock()
			return
		}
		e, dropped := waiting[0], h.dropped
		h.lanes[name], h.dropped = waiting[1:], 0
		h.waiting--
		h.mu.Unlock()
		if dropped > 0 {
			h.Logger.Warn("events were not handed to a trigger: too many waited", "trigger", h.Name, "events", dropped, "limit", maxSendsWaiting)
		}
		if err := hook(ctx, h.Timeout, func(ctx context.Context) error { return h.Handle(ctx, e) }, nil); err != nil && ctx.Err() == nil {
			h.Logger.Warn("the handler of a trigger failed; an event is not tried again", "trigger", h.Name, "group", e.Group, "type", e.Type, "err", err)
		}
	}
}
