package durablestreams

import (
	"bytes"
	"context"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/nowait"
	"github.com/runnelhq/runnel/wire"
)

// serveEvents answers a GET with live=sse. Source: PROTOCOL.md, section 5.8.
func (h *Handler) serveEvents(w http.ResponseWriter, r *http.Request, seg runnel.Segment, q query) error {
	told, err := resume(r.Header, &q)
	if err != nil {
		return err
	}
	v, err := h.open(r.Context(), seg, q.from)
	if err != nil {
		return err
	}
	served, end, err := h.follow(r, seg, &v.Info, q.live)
	if err != nil {
		return err
	}
	takenOver := false
	defer func() {
		if !takenOver {
			end()
		}
	}()
	header := w.Header()
	if v.From == v.Tail && v.State == nil { // else a client would take this for the place after what it has yet to get
		new(values).setOffset(header, v.Tail)
		header[wire.HeaderUpToDate] = valueTrue
		if v.Closed {
			header[wire.HeaderClosed] = valueTrue
		}
	}
	if v.State != nil {
		header[wire.HeaderState] = valueTrue
	}
	if v.Closed && v.From == v.Tail && told && v.State == nil {
		header[wire.HeaderCacheControl] = valueNoStore
		w.WriteHeader(http.StatusNoContent) // which is how an EventSource learns not to come back
		return nil
	}
	c := codecOf(v.ContentType)
	header[wire.HeaderContentType] = valueEvents
	header[wire.HeaderCacheControl] = valueNoCache
	if !h.keeps(&v.Info) {
		header[wire.HeaderCacheControl] = valueNoStore
	}
	// A client that comes back sees whether the stream is still the one that its offset is of. The tag is a
	// weak one, because what follows differs from response to response.
	header[wire.HeaderETag] = []string{"W/" + entityTag(v.Info, v.From)}
	header[headerBuffering] = valueNo
	if c == codecBinary {
		header[wire.HeaderSSEDataEncoding] = valueBase64
	}
	f := follower{at: v.From, level: v.Tail, fresh: v.State != nil, cursor: ownCursor(q.cursor), ends: h.rotation()}
	if v.Closed {
		h.serveClosed(w, r, c, &f, v)
		return nil
	}
	leave, err := h.enterReader(r)
	if err != nil {
		for _, name := range [...]string{wire.HeaderNextOffset, wire.HeaderUpToDate, wire.HeaderState, wire.HeaderETag, wire.HeaderSSEDataEncoding, headerBuffering} {
			delete(header, name)
		}
		return err
	}
	key := hubKey{seg: seg, id: v.ID}
	f.hub = h.hubs.join(key, c, v.Tail)
	if !h.cfg.KeepConnections && r.ProtoMajor == 1 && r.ProtoMinor == 1 {
		if conn, _, err := http.NewResponseController(w).Hijack(); err == nil {
			ctx, unbind := h.cfg.Bind(h.ended, r)
			ctx, unfollow := both(ctx, served)
			takenOver = true
			h.takeOver(ctx, func() { unfollow(); unbind(); end() }, leave, conn, responseHead(header), &f, v)
			return nil
		}
	}
	defer leave()
	defer h.hubs.leave(f.hub)
	ctx, unbind := h.cfg.Bind(r.Context(), r)
	defer unbind()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(h.ended, cancel)()
	defer context.AfterFunc(served, cancel)()
	f.out = h.stream(w)
	if f.follow(ctx, v) == lost {
		panic(http.ErrAbortHandler)
	}
	return nil
}

// resume lets a browser's EventSource go on where it was: the id of the last event that it got, which is
// that of a control event, goes before the offset in its URL. Told says that it has been told that the
// stream is closed.
func resume(header http.Header, q *query) (told bool, err error) {
	id := header.Get(wire.HeaderLastEventID)
	if id == "" {
		return false, nil
	}
	id, told = strings.CutSuffix(id, closedSuffix)
	at, err := runnel.ParseOffset(id)
	if err != nil {
		return false, wire.Invalid(wire.CodeInvalidOffset, "Last-Event-ID must be the id of an event of this server, not "+shown(id))
	}
	q.from = place{given: true, after: at}
	return told, nil
}

// ownCursor is the cursor that a reader needs for itself because it is ahead of the clock; else empty.
func ownCursor(client cursor) cursor {
	now := time.Now()
	if next := nextCursor(now, client); next != cursorAt(now) {
		return next
	}
	return ""
}

// rotation is when a response that begins now ends.
func (h *Handler) rotation() time.Time {
	d := h.cfg.SSERotation
	if d < 0 {
		return time.Time{}
	}
	return time.Now().Add(d + time.Duration((rand.Float64()-0.5)*float64(d)/10))
}

// stream prepares to write events through net/http.
func (h *Handler) stream(w http.ResponseWriter) *streamOutput {
	rc := http.NewResponseController(w)
	_ = rc.SetReadDeadline(time.Time{}) // not every connection has one
	w.WriteHeader(http.StatusOK)
	return &streamOutput{h: h, w: w, rc: rc}
}

// serveClosed sends what is left of a closed stream, and its end.
func (h *Handler) serveClosed(w http.ResponseWriter, r *http.Request, c codec, f *follower, v runnel.View) {
	out := h.stream(w)
	if v.State != nil && c.stateFrames(v, f.number(), h.weigh(r.Context()), out.frame) != nil {
		panic(http.ErrAbortHandler)
	}
	if v.Tail == v.From {
		if out.frame(c.control(v.Tail, "", true, true)) != nil {
			panic(http.ErrAbortHandler)
		}
	} else if c.frames(v, v.Tail, f.number(), h.weigh(r.Context()), out.frame) != nil {
		panic(http.ErrAbortHandler)
	}
	_ = out.rc.SetWriteDeadline(time.Time{}) // for the next request on the connection
}

// both returns a context that ends with one, and also with another one.
func both(ctx, other context.Context) (context.Context, context.CancelFunc) {
	if other.Done() == nil {
		return ctx, func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(other, cancel)
	return ctx, func() { stop(); cancel() }
}

// takeOver serves a reader on its bare connection. It returns when the reader is attached to its hub, or
// goes on in a goroutine of its own, so that all that net/http has built up for the request can go. The
// reader is served until the context ends, which unbind releases; leave ends the count of it.
func (h *Handler) takeOver(ctx context.Context, unbind, leave func(), conn net.Conn, head []byte, f *follower, v runnel.View) {
	r := &reader{hub: f.hub, conn: conn, head: head, raw: nowait.Raw(conn), cursor: f.cursor, ends: f.ends, leave: leave, index: -1}
	r.ctx, r.cancel = context.WithCancel(ctx)
	stop := func() bool { return true }
	if ctx != h.ended {
		stop = context.AfterFunc(ctx, r.end)
	}
	cancel := r.cancel
	r.cancel = func() { stop(); cancel(); unbind() }
	h.mu.Lock()
	h.readers[r] = struct{}{}
	h.mu.Unlock()
	go r.watch()
	f.out = &connOutput{r: r}
	if r.raw == nil {
		go r.follow(f, runnel.View{}) // the view ends with the request
		return
	}
	r.follow(f, v)
}

// responseHead is the head of a response that is written without net/http.
func responseHead(header http.Header) []byte {
	header[headerConnection] = valueClose
	header["Transfer-Encoding"] = []string{"chunked"}
	var b bytes.Buffer
	b.WriteString("HTTP/1.1 200 OK\r\n")
	_ = header.Write(&b) // a buffer takes everything
	b.WriteString("\r\n")
	return b.Bytes()
}
