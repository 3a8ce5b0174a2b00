package items

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"
	"unicode/utf8"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/items/ops"
)

// maxSubscriptionID is the longest id that a client may give a subscription, in bytes.
const maxSubscriptionID = 256

// joinData is what a client says in a join or a leave.
type joinData struct {
	ID     *string `json:"subscriptionId"`
	Stream *string `json:"streamName"`
	Group  *string `json:"groupId"`
	Item   *string `json:"id"`
	// Prefix selects items of a group by the beginning of their ids.
	Prefix string `json:"prefix"`
	// GroupPrefix, in the place of groupId, selects groups by the beginning of their names.
	GroupPrefix *string `json:"groupPrefix"`
	// Since is a cursor that the client was given: it wants what came after, and no snapshot.
	Since string `json:"since"`
	// Presence shows the subscription as a member of the group, with this value.
	Presence json.RawMessage `json:"presence"`
}

// receive carries out what a client asks for.
func (c *conn) receive(frame []byte) {
	var in struct {
		Type string          `json:"type"`
		Data json.RawMessage `json:"data"`
	}
	var data joinData
	err := json.Unmarshal(frame, &in)
	if err == nil && in.Data != nil {
		err = json.Unmarshal(in.Data, &data)
	}
	mistyped, isMistyped := errors.AsType[*json.UnmarshalTypeError](err)
	switch {
	case isMistyped && mistyped.Field != "":
		c.refuse(&data, "invalid_frame", fmt.Sprintf("%s must not be a %s", mistyped.Field, mistyped.Value))
	case !utf8.Valid(frame), err != nil:
		c.refuse(&data, "invalid_frame", "a frame must be a JSON object with type and data")
	case in.Type != "join" && in.Type != "leave":
		c.refuse(&data, "unknown_type", fmt.Sprintf("the type of a frame is join or leave, got %.100q", in.Type))
	case data.ID == nil || data.Stream == nil || data.Group == nil && data.GroupPrefix == nil:
		c.refuse(&data, "missing_field", "subscriptionId, streamName and groupId are required; groupPrefix may stand for groupId")
	case in.Type == "join":
		c.join(&data)
	default:
		c.leave(&data)
	}
}

// refuse sends an error notice.
func (c *conn) refuse(data *joinData, code, message string) {
	s := Subscription{ID: deref(data.ID), Stream: deref(data.Stream), Group: deref(data.Group)}
	c.tell(notice(&s, time.Now().UnixMilli(), "error", map[string]string{"code": code, "message": message}))
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// subscription checks what a client wants to join.
func (c *conn) subscription(data *joinData) (*subscription, error) {
	s := &subscription{Subscription: Subscription{
		ID: *data.ID, Store: c.store, Stream: *data.Stream, Item: data.Item, Prefix: data.Prefix, Context: c.context,
		Transport: OverWebSocket, Subject: c.subject, Connection: c.id,
	}}
	if n := len(s.ID); n > maxSubscriptionID {
		return nil, &runnel.TooLargeError{What: "subscriptionId", Limit: maxSubscriptionID, Got: int64(n)}
	}
	if data.Group == nil {
		if data.Item != nil || data.Prefix != "" || data.Since != "" {
			return nil, &runnel.InvalidError{What: "groupPrefix", Rule: "excludes id, prefix and since"}
		}
		s.Prefix = *data.GroupPrefix
		s.seg = runnel.Segment{Store: c.store, Space: s.Stream}
		if s.Stream == "" {
			return nil, &runnel.NameError{Kind: "stream", Rule: "must not be empty"}
		}
		return s, inOurWords(s.seg.In().Validate())
	}
	if data.Item != nil && data.Prefix != "" {
		return nil, &runnel.InvalidError{What: "prefix", Rule: "excludes id"}
	}
	s.Group = *data.Group
	var err error
	s.seg, err = segment(c.store, s.Stream, s.Group)
	return s, err
}

// join makes a subscription, and gives it a snapshot, or what came since a cursor.
func (c *conn) join(data *joinData) {
	s, err := c.subscription(data)
	if err != nil {
		c.refuse(data, "invalid_name", trim(err))
		return
	}
	c.mu.Lock()
	again := c.subs[s.ID]
	delete(c.subs, s.ID)
	full := len(c.subs) >= c.h.cfg.MaxSubscriptions
	c.entering = s
	c.mu.Unlock()
	defer c.entered(s)
	if again != nil {
		c.left(again)
	}
	if full {
		c.refuse(data, "too_many_subscriptions", fmt.Sprintf("a connection may have %d subscriptions", c.h.cfg.MaxSubscriptions))
		return
	}
	if err := c.h.permit(c.ctx, s.Subscription); err != nil {
		c.h.cfg.Logger.Debug("a join was refused", "stream", s.Stream, "group", s.Group, "err", err)
		c.tell(unauthorized(&s.Subscription, c.h.stamp(s.seg), "the subscription was refused"))
		return
	}
	if err := c.enterGroup(s, data.Since); err != nil {
		c.h.leave(s.Subscription)
		if errors.Is(err, runnel.ErrForbidden) || errors.Is(err, runnel.ErrUnauthorized) {
			c.tell(unauthorized(&s.Subscription, c.h.stamp(s.seg), trim(err)))
			return
		}
		c.fail(data, err)
		return
	}
	if data.Presence == nil {
		return
	}
	if err := c.announce(s, ops.Compact(data.Presence)); err != nil {
		c.fail(data, err)
	}
}

// fail sends an error notice.
func (c *conn) fail(data *joinData, err error) {
	f := c.h.failure(c.ctx, err)
	c.refuse(data, string(f.Detail.Code), f.Detail.Message)
}

func trim(err error) string {
	const own = "runnel: "
	if text := err.Error(); len(text) > len(own) && text[:len(own)] == own {
		return text[len(own):]
	}
	return err.Error()
}

// permit asks the hook. Whatever goes wrong, the answer is no.
func (h *Handler) permit(ctx context.Context, s Subscription) error {
	if h.cfg.Join == nil {
		return nil
	}
	return hook(ctx, h.cfg.HookTimeout,
		func(ctx context.Context) error { return h.cfg.Join(ctx, s) },
		func() { h.leave(s) },
	)
}

// snapshot is what a subscription is given first, for each group.
type snapshot struct {
	views []runnel.ItemView
	items *encodedItems   // of the only view, which then has none itself
	at    runnel.Position // of views of several groups
	// goesOn says that what has changed since, which may be nothing, is given in the place of a view, and gap, if
	// not empty, why it is not.
	goesOn bool
	since  []*change
	gap    string
}

func (n *snapshot) cut(s *subscription) cut {
	if s.seg.Name == "" {
		return cut{at: n.at}
	}
	if len(n.views) == 0 {
		return cut{}
	}
	return cut{id: n.views[0].ID, tail: n.views[0].Tail}
}

// enterGroup makes a subscription that is allowed.
func (c *conn) enterGroup(s *subscription, since string) error {
	c.joining.Lock()
	defer c.joining.Unlock()
	if !c.waitForRoom() {
		return runnel.ErrShutdown
	}
	// First receive, then look: what happens in between is held, and sorted out by its place.
	feed, err := c.h.attach(c.ctx, s.seg.In(), s.seg.Name, c)
	if err != nil {
		return err
	}
	s.feed = feed
	c.hold()
	snap, err := c.look(c.ctx, s, since)
	if err != nil {
		c.release(s, nil, nil)
		c.h.detach(feed, s.seg.Name, c)
		return err
	}
	if c.overlaps(s) {
		// What the snapshot covers is told to the other subscriptions before it.
		feed.caughtUp(c.ctx)
	}
	if !c.release(s, snap, func() {
		c.subs[s.ID] = s
		c.present(s, snap)
	}) {
		c.h.detach(feed, s.seg.Name, c)
		return runnel.ErrShutdown
	}
	return nil
}

// overlaps tells whether another subscription may want what s wants.
func (c *conn) overlaps(s *subscription) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, other := range c.subs {
		if other.seg.Space == s.seg.Space && (other.seg.Name == s.seg.Name || other.seg.Name == "" || s.seg.Name == "") {
			return true
		}
	}
	return false
}

// hold keeps changes back.
func (c *conn) hold() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.holding, c.bytes, c.gap = true, 0, c.gap && c.writing
}

// release delivers what was held: what the snapshot of a subscription covers, then the snapshot, then the
// rest. It tells whether the connection is still there.
func (c *conn) release(s *subscription, snap *snapshot, present func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	kept := c.held
	c.held, c.holding = nil, false
	if c.closed {
		return false
	}
	var later []held
	for _, one := range kept {
		switch {
		case one.event != nil && snap != nil && (len(later) > 0 || s.wants(one.group, one.event.item)),
			one.event == nil && snap != nil && s.about(one.change) && !snap.cut(s).covers(one.change):
			later = append(later, one)
		default:
			c.handOn(one)
		}
	}
	if present != nil {
		present()
	}
	for _, one := range later {
		c.handOn(one)
	}
	c.wake() // also where changes were dropped while they were held
	return true
}

// handOn delivers what was held. The lock is held.
func (c *conn) handOn(one held) {
	if one.event != nil {
		c.deliverEvent(one.group, one.event, one.frame)
		return
	}
	c.deliver(one.change)
}

// look reads what a subscription is to be given first.
func (c *conn) look(ctx context.Context, s *subscription, since string) (*snapshot, error) {
	if s.seg.Name == "" {
		view, err := c.h.log.SpaceItems(ctx, s.seg.In(), s.Prefix, runnel.ItemQuery{})
		if err != nil && !errors.Is(err, runnel.ErrNotFound) {
			return nil, err
		}
		return &snapshot{views: view.Groups, at: view.At}, nil
	}
	snap := &snapshot{}
	if since != "" {
		var view runnel.ItemView
		var err error
		if snap.since, view, err = c.changesSince(ctx, s, since); err == nil {
			snap.goesOn, snap.views = true, []runnel.ItemView{view}
			return snap, nil
		}
		if errors.Is(err, runnel.ErrForbidden) || errors.Is(err, runnel.ErrUnauthorized) {
			return nil, err
		}
		snap.since, snap.gap = nil, trim(err)
	}
	var view runnel.ItemView
	var err error
	if s.Item == nil && s.Prefix == "" {
		view, snap.items, err = c.whole(ctx, s)
	} else {
		view, err = c.view(ctx, s)
	}
	snap.views = []runnel.ItemView{view}
	return snap, err
}

// view reads the items of a group that a subscription is about.
func (c *conn) view(ctx context.Context, s *subscription) (runnel.ItemView, error) {
	if s.Item == nil {
		return c.orNone(c.h.log.Items(ctx, s.seg, runnel.ItemQuery{Prefix: s.Prefix}))
	}
	// Whether the item may be read is for the log to say, and at which sequence it is for the view.
	if _, err := c.h.log.Item(ctx, s.seg, runnel.ItemKey{Key: *s.Item}); err != nil && !errors.Is(err, runnel.ErrNotFound) {
		return runnel.ItemView{}, err
	}
	view, err := c.orNone(c.h.cfg.Own.Items(ctx, s.seg, runnel.ItemQuery{Prefix: *s.Item, Limit: 1}))
	if len(view.Items) > 0 && view.Items[0].Key != *s.Item {
		view.Items = nil
	}
	return view, err
}

func (c *conn) orNone(view runnel.ItemView, err error) (runnel.ItemView, error) {
	if errors.Is(err, runnel.ErrNotFound) {
		return runnel.ItemView{}, nil
	}
	return view, err
}

// changesSince reads what happened after a cursor, and where the group then was.
func (c *conn) changesSince(ctx context.Context, s *subscription, since string) ([]*change, runnel.ItemView, error) {
	id, at, ok := parseCursor(since)
	if !ok {
		return nil, runnel.ItemView{}, &runnel.InvalidError{What: "since", Rule: "is no cursor that this server hands out"}
	}
	here := *s
	if here.Item == nil {
		// Whether the group may be read is asked for without reading all of it.
		if _, err := c.h.log.Items(ctx, s.seg, runnel.ItemQuery{Limit: 1}); err != nil && !errors.Is(err, runnel.ErrNotFound) {
			return nil, runnel.ItemView{}, err
		}
		here.Item = new(string)
	} else if _, err := c.view(ctx, s); err != nil {
		return nil, runnel.ItemView{}, err
	}
	view, err := c.h.cfg.Own.Items(ctx, s.seg, runnel.ItemQuery{Limit: 1})
	switch {
	case errors.Is(err, runnel.ErrNotFound) && id == 0:
		return nil, runnel.ItemView{}, nil // there was no group, and there is none
	case errors.Is(err, runnel.ErrNotFound):
		return nil, view, errors.New("the group was deleted since")
	case err != nil:
		return nil, view, err
	case id == 0:
		id = view.ID // all of the group has come to be since
	case view.ID != id || at > view.Tail:
		return nil, view, errors.New("the group was deleted since, or restored")
	}
	view.Items = nil
	var changes []*change
	size := 0
	for at < view.Tail {
		for batch, err := range c.h.cfg.Own.TailItems(ctx, s.seg, id, at) {
			if err != nil {
				return nil, view, err
			}
			at = batch.Last
			for i := range batch.Changes {
				ch := &change{group: s.seg, id: id, ItemChange: batch.Changes[i]}
				if ch.Sequence > view.Tail || ch.Type != runnel.DefaultItemType || !s.wants(ch.group, &ch.Key) {
					continue
				}
				if size += len(ch.Value) + 256; size > c.h.cfg.MaxQueueBytes {
					return nil, view, errors.New("more has changed since than a snapshot holds")
				}
				changes = append(changes, ch)
			}
			if at >= view.Tail {
				break
			}
		}
	}
	return changes, view, nil
}

// present queues a snapshot. The lock is held.
func (c *conn) present(s *subscription, snap *snapshot) {
	at := snap.cut(s)
	if at == s.cut && at != (cut{}) {
		return // it has it already, and nothing has happened since
	}
	s.cut = at
	if snap.gap != "" {
		stamp := c.h.stamp(s.seg)
		if s.seg.Name != "" && at.id != 0 {
			stamp = snap.views[0].Stamp(at.tail)
		}
		c.queue.control(notice(&s.Subscription, stamp, "gap", map[string]string{"reason": snap.gap}))
	}
	if snap.goesOn {
		for _, ch := range snap.since {
			c.queue.push(ch, c.inject, c.h.cfg.MaxQueueBytes)
		}
		return
	}
	for i := range snap.views {
		v := &snap.views[i]
		group := s.seg
		if group.Name == "" {
			group = v.Segment
		}
		stamp := c.h.stamp(group)
		if v.ID != 0 {
			stamp = v.Stamp(v.Tail) + 1
			s.feed.told(group.Name, stamp)
		}
		c.queue.snapshot(syncFrame(s, group.Name, v, snap.items, stamp, c.inject))
	}
	if s.seg.Name == "" {
		c.queue.control(notice(&s.Subscription, c.h.stamp(s.seg), "complete", nil))
	}
}

// resync gives subscriptions snapshots again: all of the connection, or those to a space, or to a group.
func (c *conn) resync(space runnel.Space, group, why string) {
	c.h.mu.Lock()
	if c.h.draining {
		c.h.mu.Unlock()
		return
	}
	c.h.live.Add(1)
	c.h.mu.Unlock()
	go func() {
		defer c.h.live.Done()
		c.joining.Lock()
		defer c.joining.Unlock()
		if !c.waitForRoom() {
			return
		}
		c.mu.Lock()
		var due []*subscription
		for _, s := range c.subs {
			if c.gap || (space == runnel.Space{} || s.seg.In() == space) && (group == "" || s.seg.Name == "" || s.seg.Name == group) {
				due = append(due, s)
			}
		}
		c.mu.Unlock()
		c.mu.Lock()
		c.gap, c.holding, c.bytes = false, true, 0
		c.mu.Unlock()
		snaps := make([]*snapshot, len(due))
		for i, s := range due {
			snap, err := c.look(c.ctx, s, "")
			if err != nil {
				snap = &snapshot{}
				c.h.cfg.Logger.Warn("no snapshot could be made", "stream", s.Stream, "group", s.Group, "err", err)
				_ = c.ws.CloseNow() // the client comes back, and is told why not
			}
			snap.gap = why
			snaps[i] = snap
		}
		c.releaseAll(due, snaps)
	}()
}

func (c *conn) releaseAll(due []*subscription, snaps []*snapshot) {
	c.mu.Lock()
	defer c.mu.Unlock()
	kept := c.held
	c.held, c.holding = nil, false
	if c.closed {
		return
	}
	for i, s := range due {
		if c.subs[s.ID] == s {
			c.present(s, snaps[i])
		}
	}
	for _, one := range kept {
		covered := false
		for i, s := range due {
			covered = covered || one.change != nil && s.about(one.change) && snaps[i].cut(s).covers(one.change)
		}
		if !covered {
			c.handOn(one)
		}
	}
	c.wake()
}

// leave ends a subscription that the connection has.
func (c *conn) leave(data *joinData) {
	c.mu.Lock()
	s := c.subs[*data.ID]
	known := s != nil && s.Stream == *data.Stream && s.Group == deref(data.Group)
	if known {
		delete(c.subs, s.ID)
	}
	c.mu.Unlock()
	if !known {
		c.refuse(data, "unknown_subscription", "the connection has no such subscription to that group")
		return
	}
	c.left(s)
}
