package items

import (
	"bytes"
	"context"
	"encoding/json"
	"reflect"

	"github.com/runnelhq/runnel"
)

// Revoke ends the live subscriptions of this process that match, with an unauthorized frame that says why, and
// returns how many there were. One that is being made is let through or ended, and never missed. Match must not call
// the handler, which is locked meanwhile.
func (h *Handler) Revoke(match func(Subscription) bool, why string) int {
	n := h.revokeFollows(match, why)
	for _, c := range h.connections() {
		ended := c.revoke(match, why)
		n += len(ended)
		for _, s := range ended {
			c.left(s)
		}
	}
	return n
}

// Reconnect tells all connections to come back, which makes their subscriptions anew.
func (h *Handler) Reconnect() {
	h.endFollows()
	for _, c := range h.connections() {
		h.mu.Lock()
		_, here := h.conns[c]
		if here {
			h.live.Add(1)
		}
		h.mu.Unlock()
		if here {
			go func() {
				defer h.live.Done()
				c.goAway()
			}()
		}
	}
}

// connections returns those that there are.
func (h *Handler) connections() []*conn {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := make([]*conn, 0, len(h.conns))
	for c := range h.conns {
		all = append(all, c)
	}
	return all
}

// revoke takes subscriptions that match from the connection, and marks the one that is being made.
func (c *conn) revoke(match func(Subscription) bool, why string) (ended []*subscription) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.entering != nil && match(c.entering.Subscription) {
		c.entering.revoked = why
	}
	for id, s := range c.subs {
		if s == c.entering || !match(s.Subscription) {
			continue
		}
		delete(c.subs, id)
		c.queue.control(unauthorized(&s.Subscription, c.h.stamp(s.seg), why))
		ended = append(ended, s)
	}
	if len(ended) > 0 {
		c.wake()
	}
	return ended
}

// entered ends a subscription that was revoked while it was made.
func (c *conn) entered(s *subscription) {
	c.mu.Lock()
	c.entering = nil
	if s.revoked == "" || c.subs[s.ID] != s {
		c.mu.Unlock()
		return
	}
	delete(c.subs, s.ID)
	c.queue.control(unauthorized(&s.Subscription, c.h.stamp(s.seg), s.revoked))
	c.wake()
	c.mu.Unlock()
	c.left(s)
}

// callRevoke ends live subscriptions.
func (h *Handler) callRevoke(ctx context.Context, store runnel.Store, in *input) ([]byte, error) {
	if in.Stream == nil && in.Context == nil && in.Subscription == nil && in.Subject == nil {
		return nil, &inputError{"missing field stream_name, context, subscription_id or subject"}
	}
	if in.Group != nil && in.Stream == nil {
		return nil, &inputError{"missing field stream_name"}
	}
	of := runnel.Segment{Store: store, Space: deref(in.Stream), Name: deref(in.Group)}
	if h.cfg.MayRevoke != nil {
		if err := h.cfg.MayRevoke(ctx, of); err != nil {
			return nil, err
		}
	}
	why := in.Message
	if why == "" {
		why = "the subscription was revoked"
	}
	n := h.Revoke(func(s Subscription) bool {
		return s.Store == store && (in.Stream == nil || s.Stream == *in.Stream) && (in.Group == nil || s.Group == *in.Group) &&
			(in.Subscription == nil || s.ID == *in.Subscription) && (in.Subject == nil || s.Subject == *in.Subject) && (in.Context == nil || holds(s.Context, in.Context))
	}, why)
	return encode(struct {
		Revoked int `json:"revoked"`
	}{n}), nil
}

// holds tells whether a JSON text is another one, or an object with all of the other's fields.
func holds(text, want []byte) bool {
	all, ok := decoded(text)
	some, ok2 := decoded(want)
	if !ok || !ok2 {
		return false
	}
	fields, isObject := some.(map[string]any)
	of, is := all.(map[string]any)
	if !isObject || !is {
		return reflect.DeepEqual(all, some)
	}
	for name, value := range fields {
		if got, ok := of[name]; !ok || !reflect.DeepEqual(got, value) {
			return false
		}
	}
	return true
}

func decoded(text []byte) (value any, ok bool) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	return value, d.Decode(&value) == nil
}
