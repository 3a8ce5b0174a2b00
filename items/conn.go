package items

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/wire"
)

// conn is one WebSocket connection. One goroutine reads from it. Who has something to tell writes it at once if
// the connection takes it; otherwise it waits in the queue, and another goroutine writes that while there is
// something to write.
type conn struct {
	h       *Handler
	ws      *websocket.Conn
	out     *output // under it
	id      uint64
	store   runnel.Store
	context json.RawMessage // what Connect has returned
	subject string          // who asks
	inject  bool
	ctx     context.Context //nolint:containedctx // carries who asks, and ends with the connection
	cancel  context.CancelFunc

	giveBack func() // of its seat

	joining sync.Mutex // held while subscriptions are given snapshots

	mu       sync.Mutex
	room     sync.Cond // of the queue
	subs     map[string]*subscription
	entering *subscription // the one that is being made
	queue    queue
	held     []held // while holding
	holding  bool
	bytes    int  // of what is held
	gap      bool // changes were dropped, so snapshots are due
	writing  bool
	begun    bool // the rest of a frame is to be written before what is queued
	closed   bool
}

// subscription is one that a connection has.
type subscription struct {
	Subscription
	seg  runnel.Segment // the group; without a name if several
	feed *feed
	cut  cut

	member  *member // nil for one that does not show itself
	revoked string  // why, of one that was revoked while it was made
}

// held is a change, or an event with its frame, that is kept back while a snapshot is read.
type held struct {
	change *change
	group  runnel.Segment // of the event
	event  *event
	frame  []byte
}

// cut is where a snapshot was: of one group, or of several.
type cut struct {
	id   uint64
	tail runnel.Sequence
	at   runnel.Position
}

// covers tells whether a change was part of the snapshot.
func (n cut) covers(ch *change) bool {
	return ch.Position <= n.at || ch.id < n.id || ch.id == n.id && ch.Sequence <= n.tail
}

// about tells whether the subscription wants a change.
func (s *subscription) about(ch *change) bool {
	if !ch.gone {
		return s.wants(ch.group, &ch.Key)
	}
	return s.seg.Space == ch.group.Space &&
		(s.seg.Name == ch.group.Name || s.seg.Name == "" && strings.HasPrefix(ch.group.Name, s.Prefix))
}

// wants tells whether the subscription is about an item of a group; nil is about none of its items.
func (s *subscription) wants(group runnel.Segment, item *string) bool {
	if s.seg.Space != group.Space {
		return false
	}
	switch {
	case s.seg.Name == "":
		return strings.HasPrefix(group.Name, s.Prefix)
	case s.seg.Name != group.Name:
		return false
	case s.Item != nil:
		return item != nil && *item == *s.Item
	case s.Prefix != "":
		return item == nil || strings.HasPrefix(*item, s.Prefix)
	}
	return true
}

// allowed tells whether a page of an origin may use the handler.
func (h *Handler) allowed(origin string) bool {
	if len(h.cfg.AllowedOrigins) == 0 {
		return true
	}
	for _, pattern := range h.cfg.AllowedOrigins {
		if pattern == "*" {
			return true
		}
		if ok, err := path.Match(strings.ToLower(pattern), strings.ToLower(origin)); ok && err == nil {
			return true
		}
	}
	return false
}

// bearerPrefix begins a sub-protocol that is a token; such a one is not sent back.
const bearerPrefix = "runnel.bearer."

// subprotocol is the one to agree on: the first that is offered. Browsers hang up if it is none, and a token
// that comes after it is not sent back.
func subprotocol(r *http.Request) []string {
	for _, line := range r.Header.Values("Sec-WebSocket-Protocol") {
		for name := range strings.SplitSeq(line, ",") {
			if name = strings.TrimSpace(name); name != "" && !strings.HasPrefix(name, bearerPrefix) {
				return []string{name}
			}
		}
	}
	return nil
}

// accept makes a connection of a request. Names, of a stream and a group and perhaps an item, are joined at
// once.
func (h *Handler) accept(w http.ResponseWriter, r *http.Request, store runnel.Store, names []string) error {
	if origin := r.Header.Get("Origin"); origin != "" && !h.allowed(origin) {
		return &wire.Error{Status: http.StatusForbidden, Detail: wire.Detail{Code: wire.CodeForbidden, Message: fmt.Sprintf("pages of the origin %.200q may not connect", origin)}}
	}
	var first *joinData
	if len(names) > 0 {
		if len(names) == 1 {
			return invalid("connect to a group: /stream/{stream}/{group}[/{item}]")
		}
		first = &joinData{ID: new("url"), Stream: &names[0], Group: &names[1]}
		if len(names) == 3 {
			first.Item = &names[2]
		}
		if since := r.URL.Query().Get("since"); since != "" {
			first.Since = since
		}
	}
	c := &conn{h: h, store: store, subject: h.cfg.Caller(r.Context()), inject: h.cfg.InjectID || r.URL.Query().Has("inject_id"), subs: make(map[string]*subscription)}
	c.room.L = &c.mu
	var admitted Admission
	if h.cfg.Connect != nil {
		var err error
		if admitted, err = h.connect(r); err != nil {
			return err
		}
		c.context = admitted.Context
	}
	c.ctx, c.cancel = h.cfg.Bind(context.WithoutCancel(r.Context()))
	if !admitted.Until.IsZero() {
		unbind := c.cancel
		var end context.CancelFunc
		c.ctx, end = context.WithDeadline(c.ctx, admitted.Until)
		c.cancel = func() {
			end()
			unbind()
		}
	}
	if err := h.enter(c); err != nil {
		c.cancel()
		return err
	}
	under := &smallBuffers{ResponseWriter: w}
	ws, err := websocket.Accept(under, r, &websocket.AcceptOptions{
		InsecureSkipVerify: true, // the origin was looked at above
		Subprotocols:       subprotocol(r),
		CompressionMode:    websocket.CompressionDisabled,
	})
	if err != nil {
		h.forget(c)
		c.cancel()
		h.cfg.Logger.Debug("no WebSocket was made", "err", err)
		return nil // it has been answered
	}
	ws.SetReadLimit(h.cfg.MaxFrameBytes)
	c.mu.Lock()
	c.ws, c.out = ws, under.out
	c.mu.Unlock()
	// A goroutine of its own: that of the request has a large stack by now.
	go c.serve(first)
	return nil
}

// enter counts a connection.
func (h *Handler) enter(c *conn) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.draining {
		return runnel.ErrShutdown
	}
	giveBack, err := h.cfg.Seats.Take(c.subject)
	if err != nil {
		return err
	}
	c.giveBack = giveBack
	h.lastConn++
	c.id = h.lastConn
	h.conns[c] = struct{}{}
	h.live.Add(1)
	return nil
}

func (h *Handler) forget(c *conn) {
	h.mu.Lock()
	delete(h.conns, c)
	h.mu.Unlock()
	c.giveBack()
	h.live.Done()
}

// connect asks the hook. Whatever goes wrong, the answer is no.
func (h *Handler) connect(r *http.Request) (Admission, error) {
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return Admission{}, invalid("the query is not percent-encoded: %v", err)
	}
	shake := Handshake{Headers: make(map[string]string, len(r.Header)), Path: r.URL.Path, QueryParams: query, Addr: r.RemoteAddr}
	for name, values := range r.Header {
		shake.Headers[strings.ToLower(name)] = values[len(values)-1]
	}
	shake.Headers["host"] = r.Host
	given := make(chan Admission, 1)
	refused := hook(r.Context(), h.cfg.HookTimeout, func(ctx context.Context) error {
		admitted, err := h.cfg.Connect(ctx, shake)
		given <- admitted
		return err
	}, nil)
	if refused == nil {
		admitted := <-given
		if admitted.Context == nil || json.Valid(admitted.Context) {
			return admitted, nil
		}
		refused = errors.New("the context is no JSON")
	}
	if known, ok := errors.AsType[*wire.Error](refused); ok {
		return Admission{}, known
	}
	h.cfg.Logger.Info("a connection was refused", "addr", r.RemoteAddr, "err", refused)
	return Admission{}, &wire.Error{Status: http.StatusUnauthorized, Detail: wire.Detail{Code: wire.CodeUnauthorized, Message: "the connection was refused"}, Cause: refused}
}

// serve reads from the connection until it ends.
func (c *conn) serve(first *joinData) {
	defer c.h.forget(c)
	defer c.end()
	stop := context.AfterFunc(c.ctx, c.revoked)
	defer stop()
	if c.h.ended.Err() != nil {
		c.goAway()
	}
	if first != nil {
		apart(func() { c.join(first) })
	}
	for {
		_, frame, err := c.ws.Read(context.Background()) // it ends when the connection is closed
		if err != nil {
			return
		}
		// Who does not read what it is answered is not listened to either.
		if len(frame) > 0 && c.waitForRoom() {
			apart(func() { c.receive(frame) })
		}
	}
}

// apart calls a function on another stack, and returns when it has. What a connection that is idle keeps is
// mostly its stack, and this one stays small.
func apart(do func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		do()
	}()
	<-done
}

// revoked tells a client that it may not be served any longer.
func (c *conn) revoked() {
	if c.isClosed() {
		return
	}
	c.mu.Lock()
	c.queue.drop()
	for _, s := range c.subs {
		c.queue.control(unauthorized(&s.Subscription, c.h.stamp(s.seg), "authorization has ended"))
	}
	var last [][]byte
	for f, body := c.queue.take(); f != nil; f, body = c.queue.take() {
		if body == nil { // otherwise items, which it is not given any more
			last = append(last, f)
		}
	}
	c.closed = true // nothing is told after these
	c.room.Broadcast()
	c.mu.Unlock()
	c.out.endBy(time.Now().Add(time.Second)) // also for what is being written
	for _, f := range last {
		if c.out.send(f, nil, c.h.cfg.WriteTimeout) != nil {
			break
		}
	}
	_ = c.ws.Close(websocket.StatusPolicyViolation, "authorization has ended")
}

// goAway tells a client to come back later.
func (c *conn) goAway() {
	c.mu.Lock()
	ws := c.ws
	c.mu.Unlock()
	if ws == nil {
		return // it is not accepted yet, and sees so itself
	}
	_ = ws.Close(websocket.StatusServiceRestart, "the server restarts")
}

// hangUp cuts the connection off.
func (c *conn) hangUp() {
	c.mu.Lock()
	ws := c.ws
	c.mu.Unlock()
	if ws != nil {
		_ = ws.CloseNow()
	}
}

func (c *conn) isClosed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closed
}

// end gives back what the connection has, and tells of its leaves.
func (c *conn) end() {
	_ = c.ws.CloseNow()
	c.mu.Lock()
	c.closed = true
	subs := c.subs
	c.subs = nil
	c.queue = queue{}
	c.held = nil
	c.room.Broadcast()
	c.mu.Unlock()
	c.cancel()
	for _, s := range subs {
		c.left(s)
	}
}

// left pairs a join.
func (c *conn) left(s *subscription) {
	c.h.detach(s.feed, s.seg.Name, c)
	if s.member != nil {
		c.h.goneFrom(s.member)
	}
	c.h.leave(s.Subscription)
}

// leave tells the hook that a subscription has ended which it has accepted.
func (h *Handler) leave(s Subscription) {
	if h.cfg.Leave == nil {
		return
	}
	err := hook(context.Background(), h.cfg.HookTimeout, func(ctx context.Context) error {
		h.cfg.Leave(ctx, s)
		return nil
	}, nil)
	if err != nil {
		h.cfg.Logger.Warn("a leave was not taken note of", "stream", s.Stream, "group", s.Group, "err", err)
	}
}

// offer hands a change to the connection. It never waits.
func (c *conn) offer(ch *change) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || c.gap {
		return
	}
	if c.holding {
		c.keep(held{change: ch}, len(ch.Value)+len(ch.Old)+len(ch.Key))
		return
	}
	c.deliver(ch)
}

// keep keeps back what comes while a snapshot is read. The lock is held.
func (c *conn) keep(one held, size int) {
	c.held = append(c.held, one)
	if c.bytes += size + 128; c.bytes > c.h.cfg.MaxQueueBytes {
		c.held, c.gap = nil, true
	}
}

// deliver queues a change if a subscription wants it, once. The lock is held.
func (c *conn) deliver(ch *change) {
	if ch.gone {
		c.deliverGone(ch)
		return
	}
	for _, s := range c.subs {
		if s.about(ch) && !s.cut.covers(ch) {
			if c.level() && c.straight(ch.frame(ch.Op, c.inject)) {
				return
			}
			c.queue.push(ch, c.inject, c.h.cfg.MaxQueueBytes)
			c.bound()
			c.wake()
			return
		}
	}
}

// deliverGone queues that a group was deleted, once, and that there is nothing, for each subscription. The lock
// is held.
func (c *conn) deliverGone(ch *change) {
	told := false
	for _, s := range c.subs {
		if !s.about(ch) || s.cut.covers(ch) {
			continue
		}
		if !told {
			c.queue.barrier(goneFrame(ch.group, ch.Stamp), nil)
			told = true
		}
		if s.seg.Name != "" {
			s.cut = cut{id: ch.id, tail: ch.Sequence}
		}
		c.queue.barrier(syncFrame(s, ch.group.Name, new(runnel.ItemView), nil, ch.Stamp+1, c.inject))
	}
	if told {
		c.bound()
		c.wake()
	}
}

// level tells whether nothing waits to be written. The lock is held.
func (c *conn) level() bool { return !c.writing && c.ws != nil && c.queue.len() == 0 }

// straight writes a frame to a connection that is level, if that takes it without waiting. The lock is held.
func (c *conn) straight(frame []byte) bool {
	begun, whole := c.out.try(frame)
	if begun && !whole {
		c.begun = true
		c.wake()
	}
	return begun
}

// bound drops changes when too much waits. Snapshots then take their place. The lock is held.
func (c *conn) bound() {
	if c.queue.live > c.h.cfg.MaxQueueBytes {
		c.queue.drop()
		c.gap = true
	}
}

// tell queues a frame that is not left out.
func (c *conn) tell(frame []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	c.queue.control(frame)
	c.wake()
}

// wake starts to write if nobody does. The lock is held.
func (c *conn) wake() {
	if !c.writing && c.ws != nil {
		c.writing = true
		go c.write()
	}
}

// write writes what waits, and ends when nothing does.
func (c *conn) write() {
	for {
		c.mu.Lock()
		frame, body := c.queue.take()
		c.room.Broadcast()
		begun := c.begun
		c.begun = false
		if frame == nil && !begun || c.closed {
			c.writing = false
			gap := c.gap && !c.closed && !c.holding
			c.mu.Unlock()
			if gap {
				c.resync(runnel.Space{}, "", "the connection was too slow; changes were left out")
			}
			return
		}
		c.mu.Unlock()
		if err := c.out.send(frame, body, c.h.cfg.WriteTimeout); err != nil {
			c.mu.Lock()
			c.closed = true
			c.room.Broadcast()
			c.mu.Unlock()
			_ = c.ws.CloseNow()
			return
		}
	}
}

// waitForRoom waits until little enough waits to be written that a snapshot may be added.
func (c *conn) waitForRoom() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for !c.closed && c.queue.size > c.h.cfg.MaxQueueBytes {
		c.room.Wait()
	}
	return !c.closed
}

// pingAll checks now and then that connections are still there. They are spread over the interval.
func (h *Handler) pingAll() {
	const slots = 16
	tick := time.NewTicker(max(h.cfg.PingInterval/slots, time.Millisecond))
	defer tick.Stop()
	for slot := uint64(0); ; slot = (slot + 1) % slots {
		select {
		case <-h.ended.Done():
			return
		case <-tick.C:
		}
		h.mu.Lock()
		var due []*conn
		for c := range h.conns {
			if c.id%slots == slot {
				due = append(due, c)
			}
		}
		h.mu.Unlock()
		for _, c := range due {
			c.mu.Lock()
			// While something is written a ping would wait for it, and WriteTimeout bounds that.
			ready := c.ws != nil && !c.closed && !c.writing
			c.mu.Unlock()
			if ready {
				go c.ping()
			}
		}
	}
}

func (c *conn) ping() {
	ctx, cancel := context.WithTimeout(c.ctx, c.h.cfg.WriteTimeout)
	defer cancel()
	if err := c.ws.Ping(ctx); err != nil && !c.isWriting() {
		_ = c.ws.CloseNow()
	}
}

func (c *conn) isWriting() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.writing
}
