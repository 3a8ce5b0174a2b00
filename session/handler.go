package session

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/coder/websocket"
	"github.com/xtaci/smux"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/session/internal/pb"
)

// Handler serves a log to the sessions that it accepts. It is mounted at any path, "GET /v1/session" by
// convention. What the context of the request that opens a connection holds, who it is for instance, the
// contexts of all its operations hold.
type Handler struct {
	log runnel.Log
	cfg Config

	mu    sync.Mutex
	conns map[*serverConn]struct{}
	drain chan struct{} // closed when the server goes away
	gone  bool
	all   sync.WaitGroup // connections
}

// NewHandler returns a handler that serves a log.
func NewHandler(log runnel.Log, cfg Config) *Handler {
	return &Handler{log: log, cfg: cfg.withDefaults(), conns: make(map[*serverConn]struct{}), drain: make(chan struct{})}
}

// ServeHTTP accepts a connection, and returns when that has ended.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	c := &serverConn{h: h}
	if !h.enter(c) {
		w.Header().Set("Retry-After", "1")
		http.Error(w, "the server goes away", http.StatusServiceUnavailable)
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
	session, err := smux.Server(newConn(ctx, ws), streamsConfig(h.cfg.StreamBytes, h.cfg.KeepAlive))
	if err != nil {
		h.cfg.Logger.Error("session refused", "error", err)
		return
	}
	c.serve(ctx, session)
}

func (h *Handler) enter(c *serverConn) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.gone {
		return false
	}
	h.conns[c] = struct{}{}
	h.all.Add(1)
	return true
}

func (h *Handler) leave(c *serverConn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.conns, c)
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
	h       *Handler
	streams sync.WaitGroup

	mu      sync.Mutex
	session *smux.Session
	open    int // streams
	working int // operations
	used    time.Time
}

// serve serves a connection until it ends.
func (c *serverConn) serve(ctx context.Context, session *smux.Session) {
	ctx, cancel := context.WithCancel(ctx)
	c.mu.Lock()
	c.session, c.used = session, time.Now()
	c.mu.Unlock()
	var looking sync.WaitGroup
	looking.Go(func() { c.look(ctx, session) })
	for {
		stream, err := session.AcceptStream()
		if err != nil {
			break
		}
		c.streams.Go(func() { c.serveStream(ctx, stream) })
	}
	cancel()
	_ = session.Close()
	c.streams.Wait()
	looking.Wait()
}

// look closes the connection when nobody has used it for long, or when the server goes away and everything
// that was under way has ended.
func (c *serverConn) look(ctx context.Context, session *smux.Session) {
	idle := c.h.cfg.IdleTimeout
	if idle <= 0 {
		idle = 1 << 62
	}
	timer := time.NewTimer(idle)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.h.drain:
			c.leaveWhenDone(ctx)
			_ = session.Close()
			return
		case <-timer.C:
		}
		c.mu.Lock()
		left := idle
		if c.working == 0 {
			left = time.Until(c.used.Add(idle))
		}
		c.mu.Unlock()
		if left <= 0 {
			_ = session.Close()
			return
		}
		timer.Reset(left)
	}
}

// leaveWhenDone returns when no operation is under way.
func (c *serverConn) leaveWhenDone(ctx context.Context) {
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
		case <-ctx.Done():
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
		if !c.begin() {
			out.end(&pb.Response{Content: &pb.Response_ComeBack{ComeBack: &pb.ComeBack{}}})
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

// begin returns false when no operation may begin any more.
func (c *serverConn) begin() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case <-c.h.drain:
		return false
	default:
	}
	c.working++
	return true
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
