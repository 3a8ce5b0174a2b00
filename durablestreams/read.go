package durablestreams

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/wire"
)

// read answers GET of a stream, in all three modes. Source: PROTOCOL.md, sections 5.6 to 5.8.
func (h *Handler) read(w http.ResponseWriter, r *http.Request, seg runnel.Segment) error {
	q, err := parseQuery(r.URL.RawQuery)
	if err != nil {
		return err
	}
	if q.live == wire.LiveSSE {
		return h.serveEvents(w, r, seg, q)
	}
	wait, err := h.waitFor(q)
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
	defer end()
	if q.live == wire.LiveLongPoll && v.Tail == v.From && v.State == nil {
		if v, err = h.await(served, w, r, seg, v, wait); err != nil {
			return err
		}
		if v.Tail == v.From {
			h.nothingYet(w, q, v.Info)
			return nil
		}
	}
	return h.send(w, r, q, v)
}

// open reads from a place.
func (h *Handler) open(ctx context.Context, seg runnel.Segment, p place) (runnel.View, error) {
	if p.start {
		return h.log.ReadStart(ctx, seg)
	}
	return h.log.Read(ctx, seg, 0, p.sequence())
}

// waitFor is how long a long-poll may wait: what the client asks for, but no longer than configured.
func (h *Handler) waitFor(q query) (time.Duration, error) {
	if !q.hasTime {
		return h.cfg.LongPollTimeout, nil
	}
	n, err := parseInteger("the parameter timeout", q.timeout, maxSeconds)
	return min(h.cfg.LongPollTimeout, time.Duration(n)*time.Second), err
}

// await waits until there is something after a view, and returns the view that shows it. At the end of
// the time, or when the reader is to come back, the view is as empty as before. Served ends when
// the reader may not be served any longer.
func (h *Handler) await(served context.Context, w http.ResponseWriter, r *http.Request, seg runnel.Segment, v runnel.View, wait time.Duration) (runnel.View, error) {
	if v.Closed {
		return v, nil
	}
	leave, err := h.enterReader(r)
	if err != nil {
		return v, err
	}
	defer leave()
	// The time-outs of the server are for requests that are under way, not for one that waits.
	rc := http.NewResponseController(w)
	_ = rc.SetReadDeadline(time.Time{})  // not every connection has one
	_ = rc.SetWriteDeadline(time.Time{}) // the same
	ctx, cancel := context.WithTimeout(r.Context(), wait)
	defer cancel()
	defer context.AfterFunc(h.ended, cancel)()
	defer context.AfterFunc(served, cancel)()
	info, err := h.log.Wait(ctx, seg, v.ID, v.From)
	if refused := refusal(served); refused != nil {
		return v, refused
	}
	switch {
	case err == nil && info.Tail > v.From:
		return h.log.Read(r.Context(), seg, v.ID, v.From)
	case err == nil:
		v.Info = info // closed without another entry
		return v, nil
	case r.Context().Err() == nil && ctx.Err() != nil && (errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)):
		return v, nil
	}
	return v, err
}

// nothingYet answers a long-poll that found nothing.
func (h *Handler) nothingYet(w http.ResponseWriter, q query, info runnel.Info) {
	header := w.Header()
	new(values).setOffset(header, info.Tail)
	header[wire.HeaderUpToDate] = valueTrue
	header[wire.HeaderCacheControl] = valueNoStore
	// As for events: a client that comes back sees whether the stream is still the one that it was.
	header[wire.HeaderETag] = []string{"W/" + entityTag(info, info.Tail)}
	if info.Closed {
		header[wire.HeaderClosed] = valueTrue
	} else {
		header[wire.HeaderCursor] = []string{string(nextCursor(time.Now(), q.cursor))}
	}
	w.WriteHeader(http.StatusNoContent)
}

// send answers with everything that a view holds. The tail of the view is where the response ends, so
// that all headers are known before the first byte; a body that cannot be finished is cut off in a way
// that the client sees.
func (h *Handler) send(w http.ResponseWriter, r *http.Request, q query, v runnel.View) error {
	header := w.Header()
	new(values).setOffset(header, v.Tail)
	if v.State != nil {
		header[wire.HeaderState] = valueTrue // it may lack what comes next, and so is not up to date
	} else {
		header[wire.HeaderUpToDate] = valueTrue
		if v.Closed {
			header[wire.HeaderClosed] = valueTrue
		}
	}
	if v.Earliest > 0 {
		header[wire.HeaderEarliestOffset] = []string{v.Earliest.Offset()}
	}
	if q.live != "" {
		header[wire.HeaderCursor] = []string{string(nextCursor(time.Now(), q.cursor))}
	}
	switch {
	case q.from.now, !h.keeps(&v.Info):
		header[wire.HeaderCacheControl] = valueNoStore
	case v.Tail == v.From && (!v.Closed || v.State != nil):
		header[wire.HeaderCacheControl] = h.cache.level
	default:
		header[wire.HeaderCacheControl] = h.cache.of(v.Info)
	}
	if !q.from.now {
		tag := entityTag(v.Info, v.From)
		header[wire.HeaderETag] = []string{tag}
		if v.State != nil {
			header[wire.HeaderETag] = []string{"W/" + tag} // its bytes depend on what has changed meanwhile
		}
		if match := r.Header[wire.HeaderIfNoneMatch]; len(match) > 0 && !noneMatch(match, tag) {
			w.WriteHeader(http.StatusNotModified)
			return nil
		}
	}
	header[wire.HeaderContentType] = []string{v.ContentType}
	if active(v.ContentType) {
		header[headerDisposition] = valueAttach
	}
	b, _ := outputs.Get().(*output)
	defer outputs.Put(b)
	*b = output{h: h, w: w, buffer: b.buffer[:0], json: isJSON(v.ContentType)}
	err := b.writeAll(v, h.weigh(r.Context()))
	if err != nil {
		for _, name := range [...]string{
			wire.HeaderNextOffset, wire.HeaderUpToDate, wire.HeaderClosed, wire.HeaderETag, wire.HeaderCursor,
			wire.HeaderEarliestOffset, wire.HeaderState, headerDisposition,
		} {
			delete(header, name)
		}
	}
	return err
}

const (
	// outputBytes is how much of a response is gathered before it is written.
	outputBytes = 64 << 10
	// pieceBytes is how much is written under one deadline.
	pieceBytes = 256 << 10
)

// output writes the body of a read.
type output struct {
	h       *Handler
	w       http.ResponseWriter
	rc      *http.ResponseController
	buffer  []byte
	length  int64 // of the body, -1 if it is not known
	json    bool
	started bool // the response has begun, so that there is no way back
}

var outputs = sync.Pool{New: func() any { return &output{buffer: make([]byte, 0, outputBytes)} }}

// writeAll writes the entries of a view. It returns an error only while nothing has been written.
func (o *output) writeAll(v runnel.View, weigh weigher) error {
	if o.json {
		o.buffer = append(o.buffer, '[')
	}
	if o.length = v.PayloadBytes; o.json && o.length >= 0 && v.Tail > v.From {
		o.length += int64(v.Tail-v.From) + 1 // the brackets, and a comma between two messages
	}
	first := true
	if v.State != nil {
		o.length = -1
		for message, err := range v.State {
			if err != nil {
				return o.abort(err)
			}
			if !first {
				o.buffer = append(o.buffer, ',')
			}
			first = false
			o.add(message, weigh)
		}
	}
	at := v.From
	for b, err := range v.Stream {
		if err != nil {
			return o.abort(err)
		}
		if !o.json {
			o.add(b.Payloads(), weigh)
		} else {
			for i := range b.Len() {
				if !first {
					o.buffer = append(o.buffer, ',')
				}
				first = false
				o.add(b.Payload(i), weigh)
			}
		}
		at = b.Last()
	}
	if at != v.Tail {
		return o.abort(errIncomplete)
	}
	if o.json {
		o.buffer = append(o.buffer, ']')
	}
	if !o.started {
		o.w.Header()[headerContentLength] = []string{strconv.Itoa(len(o.buffer))}
		o.w.WriteHeader(http.StatusOK)
		o.w.Write(o.buffer)
		return nil
	}
	o.flush()
	if err := o.rc.Flush(); err != nil {
		panic(http.ErrAbortHandler)
	}
	_ = o.rc.SetWriteDeadline(time.Time{}) // for the next request on the connection
	return nil
}

var errIncomplete = errors.New("durablestreams: a view ended before its tail")

// abort ends a response that cannot be finished. One that has begun is cut off, so that the client does
// not take a part for the whole.
func (o *output) abort(err error) error {
	if o.started {
		panic(http.ErrAbortHandler)
	}
	return err
}

// add writes p, sooner or later.
func (o *output) add(p []byte, weigh weigher) {
	if len(o.buffer)+len(p) > outputBytes {
		o.flush()
	}
	if len(p) > heavyBytes {
		release, err := weigh(len(p))
		if err != nil { // the client has gone
			panic(http.ErrAbortHandler)
		}
		defer release()
	}
	if len(p) >= outputBytes {
		o.write(p)
		return
	}
	o.buffer = append(o.buffer, p...)
}

func (o *output) flush() {
	o.write(o.buffer)
	o.buffer = o.buffer[:0]
}

// write sends p in pieces, each of which must arrive in time.
func (o *output) write(p []byte) {
	if !o.started {
		o.started = true
		o.rc = http.NewResponseController(o.w)
		if o.length >= 0 {
			o.w.Header()[headerContentLength] = []string{strconv.FormatInt(o.length, 10)}
		}
		o.w.WriteHeader(http.StatusOK)
	}
	for len(p) > 0 {
		n := min(len(p), pieceBytes)
		_ = o.rc.SetWriteDeadline(time.Now().Add(o.h.cfg.ProgressTimeout)) // not every connection has one
		if _, err := o.w.Write(p[:n]); err != nil {
			panic(http.ErrAbortHandler)
		}
		p = p[n:]
	}
}
