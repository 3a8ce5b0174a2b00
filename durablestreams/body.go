package durablestreams

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/wire"
)

const (
	// exemptBytes is how large a body may be without counting as in flight: no larger than the buffers
	// that net/http holds for a connection anyway.
	exemptBytes = 4 << 10
	// firstBytes is the room a body gets before it has begun to arrive. It grows as the body does arrive,
	// so that nobody gets memory for a length that is only claimed: it doubles up to doubledBytes, and
	// grows by half from there on.
	firstBytes   = 64 << 10
	doubledBytes = 1 << 20
	// keptBytes and keptRecords bound what the pool keeps of one body.
	keptBytes   = 256 << 10
	keptRecords = 1 << 10
)

// body is a request body in memory, with the records it is made of. Release gives both back.
type body struct {
	bytes   []byte
	records []runnel.Record
	held    int64 // of Config.MaxInflightBytes
}

var bodies = sync.Pool{New: func() any { return new(body) }}

func (h *Handler) release(b *body) {
	if b.held > 0 {
		h.inflight.Release(b.held)
	}
	clear(b.records)
	b.bytes, b.records, b.held = b.bytes[:0], b.records[:0], 0
	if cap(b.bytes) > keptBytes {
		b.bytes = nil
	}
	if cap(b.records) > keptRecords {
		b.records = nil
	}
	bodies.Put(b)
}

// receive reads the body of a request, however it is framed. The caller releases the result.
func (h *Handler) receive(w http.ResponseWriter, r *http.Request) (*body, error) {
	if e := r.Header[headerEncoding]; len(e) > 0 && (len(e) > 1 || e[0] != "identity" && e[0] != "") {
		w.Header()["Accept-Encoding"] = []string{"identity"}
		return nil, &wire.Error{
			Status: http.StatusUnsupportedMediaType,
			Detail: wire.Detail{Code: wire.CodeContentEncoding, Message: "bodies are stored as they are sent; send them without Content-Encoding"},
		}
	}
	b, _ := bodies.Get().(*body)
	if err := h.fill(b, w, r); err != nil {
		h.release(b)
		if r.ProtoMajor == 1 {
			w.Header()[headerConnection] = valueClose // what is left of the body is not worth reading
		}
		return nil, err
	}
	return b, nil
}

func (h *Handler) fill(b *body, w http.ResponseWriter, r *http.Request) error {
	length := r.ContentLength
	if length > h.cfg.MaxBodyBytes {
		return h.bodyTooLarge()
	}
	if length == 0 {
		return nil
	}
	room := int64(firstBytes)
	if length > 0 {
		room = min(length, room)
	}
	if room > exemptBytes {
		if err := h.hold(r.Context(), b, room); err != nil {
			return err
		}
	}
	if int64(cap(b.bytes)) < room {
		b.bytes = make([]byte, 0, room)
	}
	rc := http.NewResponseController(w)
	pace := pace{progress: h.cfg.ProgressTimeout, rate: h.cfg.MinBodyRate, began: time.Now()}
	deadline, _ := pace.next(pace.began, 0)
	deadlines := rc.SetReadDeadline(deadline) == nil
	for {
		n, err := r.Body.Read(b.bytes[len(b.bytes):cap(b.bytes)])
		b.bytes = b.bytes[:len(b.bytes)+n]
		switch {
		case int64(len(b.bytes)) > h.cfg.MaxBodyBytes:
			return h.bodyTooLarge()
		case err == io.EOF || err == nil && int64(len(b.bytes)) == length:
			if deadlines {
				_ = rc.SetReadDeadline(time.Time{}) // it could be set a moment ago
			}
			return nil
		case errors.Is(err, os.ErrDeadlineExceeded):
			return pace.tooSlow(time.Now(), len(b.bytes))
		case err != nil:
			return wire.Invalid(wire.CodeInvalidRequest, fmt.Sprintf("the body broke off after %d bytes", len(b.bytes)))
		}
		if len(b.bytes) == cap(b.bytes) {
			if err := h.grow(r.Context(), b, length); err != nil {
				return err
			}
		}
		if now := time.Now(); n > 0 && deadline.Sub(now) < h.cfg.ProgressTimeout*3/4 {
			next, late := pace.next(now, len(b.bytes))
			if late {
				return pace.tooSlow(now, len(b.bytes))
			}
			if deadlines && next.After(deadline) {
				deadline = next
				deadlines = rc.SetReadDeadline(deadline) == nil
			}
		}
	}
}

// pace is how fast a body must arrive: something of it within progress, and, once progress has passed since
// it began, so many bytes a second on the average. Without the second one a body could hold its room for
// ever.
type pace struct {
	progress time.Duration
	rate     int64 // 0 or less: any
	began    time.Time
}

// enough is until when so many bytes are enough, the zero time for ever.
func (p pace) enough(n int) time.Time {
	if p.rate <= 0 {
		return time.Time{}
	}
	seconds := float64(n) / float64(p.rate)
	return p.began.Add(max(p.progress, time.Duration(min(seconds, maxPaceSeconds)*float64(time.Second))))
}

// maxPaceSeconds keeps a time in the range of a duration; no body takes as long.
const maxPaceSeconds = 1e9

// next returns until when more must have arrived, and whether what has arrived is too little already.
func (p pace) next(now time.Time, n int) (deadline time.Time, late bool) {
	deadline = now.Add(p.progress)
	enough := p.enough(n)
	if enough.IsZero() {
		return deadline, false
	}
	return earlier(deadline, enough), now.After(enough)
}

// tooSlow returns the failure of a body that has not kept the pace.
func (p pace) tooSlow(now time.Time, n int) error {
	message := fmt.Sprintf("nothing of the body arrived for %s, after %d bytes", p.progress, n)
	if enough := p.enough(n); n > 0 && !enough.IsZero() && !now.Before(enough) {
		message = fmt.Sprintf("only %d bytes of the body arrived in %s; after %s it must be %d a second",
			n, now.Sub(p.began).Round(time.Second), p.progress, p.rate)
	}
	return &wire.Error{
		Status: http.StatusRequestTimeout,
		Detail: wire.Detail{Code: wire.CodeBodyTimeout, Message: message},
	}
}

// grow makes more room for a body, up to its length or one byte over the limit.
func (h *Handler) grow(ctx context.Context, b *body, length int64) error {
	have := int64(cap(b.bytes))
	room := min(have+max(min(have, doubledBytes-have), have/2), h.cfg.MaxBodyBytes+1)
	if length > 0 {
		room = min(room, length)
	}
	if more := room - max(b.held, 0); more > 0 {
		if err := h.hold(ctx, b, more); err != nil {
			return err
		}
	}
	b.bytes = append(make([]byte, 0, room), b.bytes...)
	return nil
}

// hold counts bytes as in flight, waiting a bounded time for others to finish.
func (h *Handler) hold(ctx context.Context, b *body, n int64) error {
	n = min(n, h.cfg.MaxInflightBytes-b.held)
	if !h.inflight.TryAcquire(n) {
		ctx, cancel := context.WithTimeout(ctx, h.cfg.InflightTimeout)
		defer cancel()
		if err := h.inflight.Acquire(ctx, n); err != nil {
			return wire.Unavailable(wire.CodeUnavailable,
				fmt.Sprintf("nothing was written: request bodies in memory are at the limit of %d bytes", h.cfg.MaxInflightBytes), time.Second)
		}
	}
	b.held += n
	return nil
}

func (h *Handler) bodyTooLarge() error {
	return wire.TooLarge(fmt.Sprintf("the body is larger than the limit of %d bytes", h.cfg.MaxBodyBytes), h.cfg.MaxBodyBytes)
}
