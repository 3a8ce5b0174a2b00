package items

import (
	"context"
	"encoding/json"
	"sync"

	"github.com/google/uuid"

	"github.com/runnelhq/runnel"
)

// maxSendsWaiting is how many events of a trigger wait for its handler.
const maxSendsWaiting = 1000

// Sent is an event that was sent to a group.
type Sent struct {
	Group runnel.Segment
	// Item is nil if the event is about none.
	Item *string
	Type string
	Data json.RawMessage
	// Frame is the event as subscribers are given it.
	Frame json.RawMessage
}

// Sends hands the events that are sent through a handler to triggers of the same process. The zero Sends is
// ready; its Tell is for [Config.Sent].
type Sends struct {
	mu        sync.Mutex
	listeners map[*func(Sent)]runnel.Space
}

// Tell tells triggers of an event. It does not wait for them.
func (s *Sends) Tell(e Sent) {
	s.mu.Lock()
	var all []func(Sent)
	for listener, space := range s.listeners {
		if space == e.Group.In() {
			all = append(all, *listener)
		}
	}
	s.mu.Unlock()
	for _, tell := range all {
		tell(e)
	}
}

// listen calls tell with each event of a space until stop is called.
func (s *Sends) listen(space runnel.Space, tell func(Sent)) (stop func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.listeners == nil {
		s.listeners = make(map[*func(Sent)]runnel.Space)
	}
	s.listeners[&tell] = space
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.listeners, &tell)
	}
}

// A hearing hands events to the handler of a trigger, one lane for each group.
type hearing struct {
	*Trigger
	mu      sync.Mutex
	lanes   map[string][]*TriggerEvent // what waits; a lane is here while a goroutine works on it
	waiting int
	dropped int // since one was last taken
	working sync.WaitGroup
}

// hear hands over events until ctx ends.
func (t *Trigger) hear(ctx context.Context) {
	h := &hearing{Trigger: t, lanes: make(map[string][]*TriggerEvent)}
	stop := t.Sends.listen(t.space(), func(e Sent) { h.enqueue(ctx, &e) })
	<-ctx.Done()
	stop()
	h.mu.Lock()
	h.lanes = nil
	h.mu.Unlock()
	h.working.Wait()
}

func (h *hearing) enqueue(ctx context.Context, s *Sent) {
	if !h.isAbout(s.Group.Name, s.Item) {
		return
	}
	e := &TriggerEvent{
		Key: h.Name + "/" + uuid.NewString(), Stream: h.Stream, Group: s.Group.Name, Item: deref(s.Item), Kind: kindEvent,
		Value: s.Data, Type: s.Type, Frame: s.Frame, Attempt: 1,
	}
	if !h.lets(e) {
		return
	}
	name := h.lane(e)
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.lanes == nil:
		return
	case h.waiting >= maxSendsWaiting:
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
		if len(waiting) == 0 {
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
