package session

import (
	"context"
	"io"
	"sync"

	"github.com/xtaci/smux"
	"google.golang.org/protobuf/proto"

	"github.com/runnelhq/runnel/session/internal/pb"
)

// link is one connection of a client.
type link struct {
	session *smux.Session
	limit   int64  // of a response
	token   string // that the connection was opened with

	mu       sync.Mutex
	idle     []*channel
	draining bool // takes no operations any more
	working  int
}

// maxIdle is how many streams without an operation are kept for the next ones.
const maxIdle = 64

// channel is a stream of a link, which carries one operation at a time.
type channel struct {
	*smux.Stream
	in  *reader
	out []byte
}

// usable tells whether operations may begin.
func (l *link) usable() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.draining && !l.session.IsClosed()
}

// take returns a stream for an operation.
func (l *link) take() (*channel, error) {
	l.mu.Lock()
	l.working++
	if n := len(l.idle); n > 0 {
		ch := l.idle[n-1]
		l.idle = l.idle[:n-1]
		l.mu.Unlock()
		return ch, nil
	}
	l.mu.Unlock()
	stream, err := l.session.OpenStream()
	if err != nil {
		l.leave()
		return nil, err
	}
	return &channel{Stream: stream, in: newReader(stream, l.limit)}, nil
}

// give takes back a stream whose operation has been answered to its end.
func (l *link) give(ch *channel) {
	l.mu.Lock()
	if len(l.idle) < maxIdle && !l.draining {
		l.idle = append(l.idle, ch)
		ch = nil
	}
	l.mu.Unlock()
	if ch != nil {
		_ = ch.Close()
	}
	l.leave()
}

// drop ends a stream whose operation is not wanted any more.
func (l *link) drop(ch *channel) {
	_ = ch.Close()
	l.leave()
}

// leave ends the link after its last operation if it takes no more.
func (l *link) leave() {
	l.mu.Lock()
	l.working--
	over := l.draining && l.working == 0
	l.mu.Unlock()
	if over {
		_ = l.session.Close()
	}
}

// retire lets no more operations begin.
func (l *link) retire() {
	l.mu.Lock()
	l.draining = true
	over := l.working == 0
	l.mu.Unlock()
	if over {
		_ = l.session.Close()
	}
}

// ask writes a request. sent is false if the server cannot have got all of it.
func (ch *channel) ask(req *pb.Request) (sent bool, err error) {
	if ch.out, err = appendMessage(ch.out[:0], req); err != nil {
		return false, err
	}
	_, err = ch.Write(ch.out)
	if cap(ch.out) > 4*messageStep {
		ch.out = nil
	}
	return err == nil, err
}

// answer reads a response.
func (ch *channel) answer() (*pb.Response, error) {
	m := new(pb.Response)
	if err := ch.in.read(m); err != nil {
		if err == io.EOF { //nolint:errorlint // what a stream returns as it is
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	return m, nil
}

var _ proto.Message = (*pb.Response)(nil)

// until ends the channel with the context. The returned function undoes that, and returns false if it came
// too late.
func (ch *channel) until(ctx context.Context) (stop func() bool) {
	if ctx.Done() == nil {
		return func() bool { return true }
	}
	return context.AfterFunc(ctx, func() { _ = ch.Close() })
}
