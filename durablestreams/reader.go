package durablestreams

import (
	"context"
	"net"
	"net/http"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/runnelhq/runnel"
)

var (
	heartbeatText  = []byte(":\n\n")
	heartbeatChunk = []byte("3\r\n:\n\n\r\n")
	lastChunk      = []byte("0\r\n\r\n")
)

// reader is one SSE response under way on a connection that was taken over from net/http. While it is
// attached to its hub it is this struct, the connection, and a goroutine blocked in a read of it that
// notices when the client goes.
type reader struct {
	hub    *hub
	conn   net.Conn
	head   []byte          // of the response, until it goes out with the first write
	raw    syscall.RawConn // nil if the connection cannot be written to without waiting
	cursor cursor          // that the client may have been sent and that is ahead of the clock; empty if none
	ends   time.Time       // when the client is to come back; zero for never
	ctx    context.Context //nolint:containedctx // the reader outlives the request, and ends by itself
	cancel context.CancelFunc
	leave  func() // ends the count of it
	index  int    // in hub.attached, guarded by hub.mu; -1 if not there
	gone   atomic.Bool
	byte   [1]byte
}

// watch notices when the client goes. What it sends is of no interest, but not without end.
func (r *reader) watch() {
	for range 64 << 10 {
		if _, err := r.conn.Read(r.byte[:]); err != nil {
			break
		}
	}
	r.drop()
}

// drop closes the connection and forgets the reader. It may be called by anybody, any number of times.
func (r *reader) drop() {
	if r.gone.Swap(true) {
		return
	}
	r.cancel()
	_ = r.conn.Close() // nothing is promised to a reader
	r.hub.mu.Lock()
	r.hub.detach(r)
	r.hub.mu.Unlock()
	h := r.hub.h
	h.hubs.leave(r.hub)
	h.forget(r)
}

// end finishes a reader that is not to be served any more. One that follows by itself, and one that is
// about to be attached, see it from the context.
func (r *reader) end() {
	r.hub.mu.Lock()
	served := r.index >= 0
	r.hub.detach(r)
	r.hub.mu.Unlock()
	if served {
		r.finish()
	}
}

// finish ends the response so that the client sees that it is whole.
func (r *reader) finish() {
	out := connOutput{r: r}
	_ = out.write(lastChunk) // whoever is not there does not need it
	r.drop()
}

// resume goes on with a reader that the hub has let go because its connection was full.
func (r *reader) resume(rest []byte, at runnel.Sequence) {
	out := &connOutput{r: r}
	if out.write(rest) != nil {
		r.drop()
		return
	}
	f := follower{hub: r.hub, out: out, at: at, begun: true, cursor: r.cursor, ends: r.ends}
	r.follow(&f, runnel.View{})
}

// follow serves the reader until it is attached, or over.
func (r *reader) follow(f *follower, v runnel.View) {
	switch f.follow(r.ctx, v) {
	case attached:
	case over:
		r.finish()
	case lost:
		r.drop()
	}
}

// connOutput writes chunks to a connection that was taken over.
type connOutput struct{ r *reader }

func (o *connOutput) frame(f *frame) error { return o.write(f.chunk) }

func (o *connOutput) heartbeat() error { return o.write(heartbeatChunk) }

// attach hands the reader to its hub.
func (o *connOutput) attach(at runnel.Sequence) bool {
	if o.r.raw == nil || o.r.conn.SetWriteDeadline(time.Time{}) != nil {
		return false
	}
	return o.r.hub.attach(o.r, at)
}

// write sends p in pieces, each of which must arrive in time.
func (o *connOutput) write(p []byte) error {
	if o.r.head != nil { // in one write, so that a client sees the first event with the head
		p = append(o.r.head, p...)
		o.r.head = nil
	}
	for len(p) > 0 {
		n := min(len(p), pieceBytes)
		if err := o.r.conn.SetWriteDeadline(time.Now().Add(o.r.hub.h.cfg.ProgressTimeout)); err != nil {
			return err
		}
		if _, err := o.r.conn.Write(p[:n]); err != nil {
			return err
		}
		p = p[n:]
	}
	return nil
}

// streamOutput writes through net/http, where the connection cannot be taken over.
type streamOutput struct {
	h  *Handler
	w  http.ResponseWriter
	rc *http.ResponseController
}

func (o *streamOutput) frame(f *frame) error { return o.write(f.text) }

func (o *streamOutput) heartbeat() error { return o.write(heartbeatText) }

func (o *streamOutput) attach(runnel.Sequence) bool { return false }

func (o *streamOutput) write(p []byte) error {
	for len(p) > 0 {
		n := min(len(p), pieceBytes)
		_ = o.rc.SetWriteDeadline(time.Now().Add(o.h.cfg.ProgressTimeout)) // not every connection has one
		if _, err := o.w.Write(p[:n]); err != nil {
			return err
		}
		p = p[n:]
	}
	return o.rc.Flush()
}
