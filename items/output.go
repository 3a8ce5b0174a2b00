package items

import (
	"encoding/binary"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/runnelhq/runnel/nowait"
)

// frameHead is the most bytes that stand before the content of a frame that a server sends.
const frameHead = 10

// begin returns a buffer for a frame, with room before what is appended to it.
func begin(size int) []byte { return make([]byte, frameHead, frameHead+size) }

// seal makes a frame of what was appended to a buffer of begin: a text, whole and not masked. Source: RFC
// 6455, section 5.2.
func seal(b []byte) []byte { return sealBefore(b, 0) }

// sealBefore makes the beginning of a frame that ends with so many more bytes.
func sealBefore(b []byte, more int) []byte {
	const text = 0x81
	n := len(b) - frameHead + more
	at := frameHead - 2
	switch {
	case n > 0xFFFF:
		at = 0
		b[1] = 127
		binary.BigEndian.PutUint64(b[2:], uint64(n))
	case n > 125:
		at = frameHead - 4
		b[at+1] = 126
		binary.BigEndian.PutUint16(b[at+2:], uint16(n))
	default:
		b[at+1] = byte(n)
	}
	b[at] = text
	return b[at:]
}

// content returns what is inside of a frame that seal has made.
func content(frame []byte) []byte {
	switch frame[1] {
	case 127:
		return frame[10:]
	case 126:
		return frame[4:]
	}
	return frame[2:]
}

// output is what is under a WebSocket. Two write to it: the library, which is left to write control frames,
// each in one call, and conn, which writes all others. Frames do not mix.
type output struct {
	net.Conn
	raw syscall.RawConn // nil if the connection cannot be written to without waiting

	mu   sync.Mutex // held while somebody writes
	rest []byte     // of a frame that was begun without waiting
	over bool       // a close frame was written, after which there is nothing

	last atomic.Pointer[time.Time] // when all is to be written
}

var writers = sync.Pool{New: func() any { return new(nowait.Writer) }}

// try writes what the connection takes of a frame at once. Begun says that it took some: the rest of the
// frame is then written before anything else, by the next write.
func (o *output) try(frame []byte) (begun, whole bool) {
	if o.raw == nil || !o.mu.TryLock() {
		return false, false
	}
	defer o.mu.Unlock()
	if o.over || len(o.rest) > 0 {
		return false, false
	}
	w, _ := writers.Get().(*nowait.Writer)
	n, err := w.Try(o.raw, frame)
	writers.Put(w)
	if err != nil || n == 0 {
		return false, false // a write that waits finds out what is wrong
	}
	o.rest = frame[n:]
	return true, n == len(frame)
}

// piece is the most that is written in one go, in bytes. Who takes so much within the time for it is slow, but
// there, however large the whole frame is.
const piece = 1 << 20

// send writes what is left of the last frame, and then a frame and its body, which may be nil. For each piece it
// waits no longer than for a time.
func (o *output) send(frame, body []byte, timeout time.Duration) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.over {
		return net.ErrClosed
	}
	if err := o.setDeadline(time.Now().Add(timeout)); err != nil {
		return err
	}
	if err := o.finish(); err != nil {
		return err
	}
	if body == nil {
		if _, err := o.Conn.Write(frame); err != nil {
			return err
		}
		return o.setDeadline(time.Time{})
	}
	first := body[:min(len(body), piece)]
	if _, err := (&net.Buffers{frame, first}).WriteTo(o.Conn); err != nil {
		return err
	}
	for next := range slices.Chunk(body[len(first):], piece) {
		if err := o.setDeadline(time.Now().Add(timeout)); err != nil {
			return err
		}
		if _, err := o.Conn.Write(next); err != nil {
			return err
		}
	}
	return o.setDeadline(time.Time{})
}

// endBy bounds everything that is written from then on, and what is being written.
func (o *output) endBy(last time.Time) {
	o.last.Store(&last)
	_ = o.SetWriteDeadline(last) // it fails where the connection is closed
}

// setDeadline bounds what is written next. The zero time is no bound.
func (o *output) setDeadline(at time.Time) error {
	if err := o.SetWriteDeadline(at); err != nil {
		return err
	}
	// Only then: whoever calls endBy after this look sets the deadline after it, too.
	if last := o.last.Load(); last != nil && (at.IsZero() || last.Before(at)) {
		return o.SetWriteDeadline(*last)
	}
	return nil
}

// finish writes what is left of a frame. The lock is held.
func (o *output) finish() error {
	if len(o.rest) == 0 {
		return nil
	}
	n, err := o.Conn.Write(o.rest)
	o.rest = o.rest[n:]
	if len(o.rest) == 0 {
		o.rest = nil
	}
	return err
}

// Write is what the library writes control frames with.
func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if err := o.finish(); err != nil {
		return 0, err
	}
	const closing = 0x88
	o.over = o.over || p[0] == closing
	return o.Conn.Write(p)
}
