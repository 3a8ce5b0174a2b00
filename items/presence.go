package items

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/google/uuid"

	"github.com/runnelhq/runnel"
)

// presenceStream is where the members of a stream's groups are: a stream below it, so that what covers the one
// in access control covers the other.
const presenceStream = "/presence"

// member is a subscription that shows itself, as an item.
type member struct {
	ID      string          `json:"id"`
	Data    json.RawMessage `json:"data"`
	Context json.RawMessage `json:"context"`
	Joined  time.Time       `json:"joined"`

	seg runnel.Segment
}

// announce makes an item of a subscription, for as long as it lasts. The item expires by itself when nobody
// renews it: after a crash of the server.
func (c *conn) announce(s *subscription, data json.RawMessage) error {
	if s.seg.Name == "" {
		return &runnel.InvalidError{What: "presence", Rule: "is for a subscription to one group"}
	}
	seg, err := segment(c.store, s.Stream+presenceStream, s.Group)
	if err != nil {
		return err
	}
	m := &member{ID: uuid.NewString(), Data: data, Context: c.context, Joined: time.Now().UTC(), seg: seg}
	if m.Context == nil {
		m.Context = null
	}
	if err := c.h.keep(c.ctx, c.h.log, m, false); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	s.member = m
	return nil
}

// keep stores a member, or renews it.
func (h *Handler) keep(ctx context.Context, log Log, m *member, renew bool) error {
	_, err := log.WriteItems(ctx, m.seg.In(), runnel.ItemWrites{Segment: m.seg.Name, Writes: []runnel.ItemWrite{{
		ItemKey: runnel.ItemKey{Key: m.ID}, Value: encode(m), TTL: h.cfg.PresenceTTL, IfExists: renew,
	}}})
	return err
}

// goneFrom deletes a member.
func (h *Handler) goneFrom(m *member) {
	ctx, cancel := context.WithTimeout(context.Background(), h.cfg.HookTimeout)
	defer cancel()
	_, err := h.cfg.Own.WriteItems(ctx, m.seg.In(), runnel.ItemWrites{Segment: m.seg.Name, Writes: []runnel.ItemWrite{{ItemKey: runnel.ItemKey{Key: m.ID}}}})
	if err != nil && !errors.Is(err, runnel.ErrShutdown) {
		h.cfg.Logger.Warn("a member that has left is shown until it expires", "group", m.seg.String(), "err", err)
	}
}

// renewMembers keeps the members of all connections from expiring.
func (h *Handler) renewMembers() {
	tick := time.NewTicker(h.cfg.PresenceTTL / 3)
	defer tick.Stop()
	for {
		select {
		case <-h.ended.Done():
			return
		case <-tick.C:
		}
		var members []*member
		for _, c := range h.connections() {
			c.mu.Lock()
			for _, s := range c.subs {
				if s.member != nil {
					members = append(members, s.member)
				}
			}
			c.mu.Unlock()
		}
		for _, m := range members {
			err := h.keep(h.ended, h.cfg.Own, m, true)
			if err != nil && !errors.Is(err, runnel.ErrItemMoved) && h.ended.Err() == nil {
				h.cfg.Logger.Warn("a member was not renewed", "group", m.seg.String(), "err", err)
			}
		}
	}
}
