package session

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"
	"github.com/xtaci/smux"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/seats"
	"github.com/runnelhq/runnel/session/internal/pb"
	"github.com/runnelhq/runnel/wire"
)

// Handler serves a log to the sessions that it accepts. It is mounted at any path, "GET /v1/session" by
// convention. What the context of the request that opens a connection holds, who it is for instance, the
// contexts of all its operations hold.
type Handler struct {
	log runnel.Log
	cfg Config

	mu    sync.Mutex
	conns map[*serverConn]struct{}
	seats *seats.Seats
	drain chan struct{} // closed when the server goes away
	gone  bool
	all   sync.WaitGroup // connections
}

// NewHandler returns a handler that serves a log.
func NewHandler(log runnel.Log, cfg Config) *Handler {
	cfg = cfg.withDefaults()
	return &Handler{
		log: log, cfg: cfg, conns: make(map[*serverConn]struct{}), drain: make(chan struct{}),
		seats: seats.New(seats.Config{What: "sessions", Max: cfg.MaxConnections, MaxEach: cfg.MaxConnectionsEach}),
	}
}

// ServeHTTP accepts a connection, and returns when that has ended.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	served, cancel := h.cfg.Bind(r.Context())
	defer cancel()
	c := &serverConn{h: h, caller: h.cfg.Caller(r.Context()), served: served}
	if err := h.enter(c); err != nil {
		wire.Refuse(w, err)
		return
	}
	defer h.leave(c)
	ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{
		Subprotocols:    []string{Subprotocol},
		OriginPatterns:  h.cfg.AllowedOrigins,
		CompressionMode: websocket.CompressionDisabled,
	})
	if err != nil {
		return // the client has been answered
	}
	defer func() { _ = ws.CloseNow() }()
	if ws.Subprotocol() != Subprotocol {
		_ = ws.Close(websocket.StatusPolicyViolation, "the subprotocol must be "+Subprotocol)
		return
	}
	session, err := smux.Server(newConn(r.Context(), ws), streamsConfig(h.cfg.StreamBytes, h.cfg.KeepAlive))
	if err != nil {
		h.cfg.Logger.Error("session refused", "error", err)
		return
	}
	c.serve(r.Context(), session, ws)
}

// enter counts a connection, unless there are too many.
func (h *Handler) enter(c *serverConn) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.gone {
		return wire.Unavailable(wire.CodeShutdown, "the server goes away", time.Second)
	}
	giveBack, err := h.seats.Take(c.caller)
	if err != nil {
		return err
	}
	c.giveBack = giveBack
	h.conns[c] = struct{}{}
	h.all.Add(1)
	return nil
}

func (h *Handler) leave(c *serverConn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.conns, c)
	c.giveBack()
	h.all.Done()
}

// Shutdown tells clients to come back, to another server or later, and lets what is under way end: reads
// and watches go on elsewhere, and writes are answered. When the context ends, connections are cut. It
// returns when there are none any more.
func (h *Handler) Shutdown(ctx context.Context) error {
	h.mu.Lock()
	if !h.gone {
		h.gone = true
		close(h.drain)
	}
	h.mu.Unlock()
	ended := make(chan struct{})
	go func() {
		h.all.Wait()
		close(ended)
	}()
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
	}
	h.mu.Lock()
	for c := range h.conns {
		c.cut()
	}
	h.mu.Unlock()
	<-ended
	return ctx.Err()
}

// serverConn is one connection.
type serverConn struct {
	h        *Handler
	caller   string
	giveBack func() // of its seat
	// served ends when the client may not be served any more. What is under way then may end by itself.
	served  context.Context //nolint:containedctx // the connection's, not an operation's
	streams sync.WaitGroup

	mu      sync.Mutex
	session *smux.Session
	open    int // streams
	working int // operations
	used    time.Time
}

// serve serves a connection until it ends.
func (c *serverConn) serve(ctx context.Context, session *smux.Session, ws *websocket.Conn) {
	ended := make(chan struct{})
	ctx, cancel := context.WithCancel(ctx)
	c.mu.Lock()
	c.session, c.used = session, time.Now()
	c.mu.Unlock()
	var looking sync.WaitGroup
	looking.Go(func() {
		if code, reason := c.look(ended); reason != "" {
			_ = ws.Close(code, reason) // the client may be gone
		}
		_ = session.Close()
	})
	for {
		stream, err := session.AcceptStream()
		if err != nil {
			break
		}
		c.streams.Go(func() { c.serveStream(ctx, stream) })
	}
	close(ended)
	cancel()
	_ = session.Close()
	c.streams.Wait()
	looking.Wait()
}

// look returns when the connection is to be closed, and why: because nobody has used it for long, or because
// the server goes away or the client may not be served any more, and what was under way has ended. There is no
// reason if the connection has ended by itself.
func (c *serverConn) look(ended <-chan struct{}) (code websocket.StatusCode, reason string) {
	idle := c.h.cfg.IdleTimeout
	if idle <= 0 {
		idle = 1 << 62
	}
	timer := time.NewTimer(idle)
	defer timer.Stop()
	for {
		select {
		case <-ended:
			return 0, ""
		case <-c.served.Done():
			patience := time.NewTimer(lastAnswers)
			defer patience.Stop()
			c.waitForWork(ended, patience.C)
			return websocket.StatusPolicyViolation, reasonOf(context.Cause(c.served))
		case <-c.h.drain:
			c.waitForWork(ended, nil)
			return websocket.StatusServiceRestart, "the server goes away"
		case <-timer.C:
		}
		c.mu.Lock()
		left := idle
		if c.working == 0 {
			left = time.Until(c.used.Add(idle))
		}
		c.mu.Unlock()
		if left <= 0 {
			return websocket.StatusGoingAway, fmt.Sprintf("nothing was asked for %v", idle)
		}
		timer.Reset(left)
	}
}

// reasonOf is what an error says, as far as it fits into the end of a WebSocket. Source: RFC 6455, section 5.5.
func reasonOf(err error) string {
	const most = 123
	reason := err.Error()
	return strings.ToValidUTF8(reason[:min(len(reason), most)], "")
}

// lastAnswers is how long a client that may not be served any more has to take the answers that it is owed.
const lastAnswers = 5 * time.Second

// waitForWork returns when no operation is under way, when the connection has ended, or when patience is over.
func (c *serverConn) waitForWork(ended <-chan struct{}, patience <-chan time.Time) {
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for {
		c.mu.Lock()
		working := c.working
		c.mu.Unlock()
		if working == 0 {
			return
		}
		select {
		case <-ended:
			return
		case <-patience:
			return
		case <-ticker.C:
		}
	}
}

// cut ends the connection at once.
func (c *serverConn) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.session != nil {
		go func(s *smux.Session) { _ = s.Close() }(c.session)
	}
}

// serveStream serves one operation after the other. It reads on while one is under way, so as to be told
// when the client gives up: then the stream ends.
func (c *serverConn) serveStream(ctx context.Context, stream *smux.Stream) {
	ctx, cancel := context.WithCancel(ctx)
	var work sync.WaitGroup
	defer work.Wait()
	defer func() { _ = stream.Close() }() // which ends a write that waits
	defer cancel()
	fits := c.enterStream()
	defer c.leaveStream()
	in := newReader(stream, c.h.cfg.MaxMessageBytes)
	for {
		req := new(pb.Request)
		err := in.read(req)
		refused := asRefusal(err)
		if err != nil && refused == nil {
			return
		}
		if !fits && refused == nil {
			refused = &runnel.UnavailableError{
				Reason:     fmt.Sprintf("the connection has more than %d operations under way", c.h.cfg.MaxStreams),
				RetryAfter: time.Second,
			}
		}
		work.Wait() // the client asks when it has been answered
		out := newSender(stream)
		if refused != nil {
			out.end(errorResponse(refused))
			continue
		}
		if err := c.begin(); err != nil {
			out.end(lastResponse(nil, err))
			continue
		}
		work.Go(func() {
			defer c.finish()
			c.operate(ctx, req, out)
		})
	}
}

// asRefusal returns the error if it is one that the client is to be told, and the next request can be
// read.
func asRefusal(err error) error {
	if errors.Is(err, runnel.ErrInvalid) {
		return err
	}
	return nil
}

func (c *serverConn) enterStream() (fits bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open++
	return c.open <= c.h.cfg.MaxStreams
}

func (c *serverConn) leaveStream() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open--
}

// begin fails when no operation may begin any more.
func (c *serverConn) begin() error {
	if c.served.Err() != nil {
		return context.Cause(c.served)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case <-c.h.drain:
		return errComeBack
	default:
	}
	c.working++
	return nil
}

func (c *serverConn) finish() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.working--
	c.used = time.Now()
}

func errorResponse(err error) *pb.Response {
	return &pb.Response{Content: &pb.Response_Error{Error: putError(err)}}
}
