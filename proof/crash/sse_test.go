package crash

import (
	"bytes"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"
)

// eventStream is where a handler writes events to: a connection with a client at its end.
type eventStream struct {
	header http.Header
	code   int
	rest   []byte
	event  func(name, data string)
	client *client // nil for one that takes everything at once
	until  time.Time
}

// client is one that takes its time. What it does not take stays in the way of the server, which drops it
// in the end.
type client struct {
	mu   sync.Mutex
	room int           // bytes that it takes before it rests
	more chan struct{} // closed when it takes more
	gone bool
}

func newClient(room int) *client { return &client{room: room, more: make(chan struct{})} }

// take lets the client take so many bytes more.
func (c *client) take(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.room += n
	close(c.more)
	c.more = make(chan struct{})
}

// hangUp lets the client go.
func (c *client) hangUp() {
	c.take(0)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gone = true
	close(c.more)
	c.more = make(chan struct{})
}

// ready returns how many of n bytes the client takes now, or what to wait for.
func (c *client) ready(n int) (taken int, more <-chan struct{}, gone bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	taken = min(n, c.room)
	c.room -= taken
	return taken, c.more, c.gone
}

func (w *eventStream) Header() http.Header  { return w.header }
func (w *eventStream) WriteHeader(code int) { w.code = code }
func (w *eventStream) Flush()               {}

// SetWriteDeadline is for http.ResponseController.
func (w *eventStream) SetWriteDeadline(t time.Time) error {
	w.until = t
	return nil
}

// SetReadDeadline is for http.ResponseController, and of no consequence.
func (w *eventStream) SetReadDeadline(time.Time) error { return nil }

func (w *eventStream) Write(p []byte) (n int, err error) {
	for w.client != nil && w.code == http.StatusOK && n < len(p) {
		taken, more, gone := w.client.ready(len(p) - n)
		if gone {
			return n, os.ErrClosed
		}
		w.got(p[n : n+taken])
		if n += taken; taken > 0 {
			continue
		}
		late := time.NewTimer(time.Until(w.until))
		select {
		case <-more:
			late.Stop()
		case <-late.C:
			return n, os.ErrDeadlineExceeded
		}
	}
	w.got(p[n:])
	return len(p), nil
}

// got reads the events in what has come.
func (w *eventStream) got(p []byte) {
	w.rest = append(w.rest, p...)
	for w.code == http.StatusOK {
		one, rest, ok := bytes.Cut(w.rest, []byte("\n\n"))
		if !ok {
			break
		}
		w.rest = rest
		var name string
		var data []string
		for line := range strings.SplitSeq(string(one), "\n") {
			if v, ok := strings.CutPrefix(line, "event: "); ok {
				name = v
			}
			if v, ok := strings.CutPrefix(line, "data:"); ok {
				data = append(data, strings.TrimPrefix(v, " "))
			}
		}
		w.event(name, strings.Join(data, "\n"))
	}
}

// serve lets a handler answer, and tells whether it broke the connection off.
func serve(h http.Handler, w http.ResponseWriter, r *http.Request) (broken bool) {
	defer func() {
		if p := recover(); p != nil {
			if err, ok := p.(error); !ok || err != http.ErrAbortHandler { //nolint:errorlint // as net/http compares it
				panic(p)
			}
			broken = true
		}
	}()
	h.ServeHTTP(w, r)
	return false
}
