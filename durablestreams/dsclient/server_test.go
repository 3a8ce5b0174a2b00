package dsclient_test

import (
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/runnelhq/runnel/durablestreams"
	"github.com/runnelhq/runnel/durablestreams/dsclient"
	"github.com/runnelhq/runnel/engine"
	"github.com/runnelhq/runnel/storage/memory"
)

// fast makes retries quick, so that tests with many of them are.
var fast = dsclient.Backoff{First: time.Millisecond, Most: 2 * time.Millisecond}

// newHandler returns the real server, in memory.
func newHandler(tb testing.TB) *durablestreams.Handler {
	tb.Helper()
	e, err := engine.Open(new(memory.Driver), engine.Config{})
	if err != nil {
		tb.Fatal(err)
	}
	h := durablestreams.New(e, durablestreams.Config{LongPollTimeout: 150 * time.Millisecond})
	tb.Cleanup(func() {
		if err := h.Shutdown(tb.Context()); err != nil && tb.Context().Err() == nil {
			tb.Error(err)
		}
		if err := e.Close(); err != nil {
			tb.Error(err)
		}
	})
	return h
}

// newClient returns a client of a new server.
func newClient(tb testing.TB) *dsclient.Client {
	tb.Helper()
	server := httptest.NewServer(newHandler(tb))
	tb.Cleanup(server.Close)
	return &dsclient.Client{Base: server.URL + "/v1/stream", Backoff: fast}
}

// unreliable is a network on which, by chance, requests are lost, answers are lost, bodies end early, and
// something in between asks to wait.
type unreliable struct {
	mu     sync.Mutex
	random *rand.Rand
	faults int
}

var errLost = errors.New("lost on the way")

func newUnreliable(seed uint64) *unreliable {
	return &unreliable{random: rand.New(rand.NewPCG(seed, 0))}
}

func (u *unreliable) chance(of int) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.random.IntN(of) > 0 {
		return false
	}
	u.faults++
	return true
}

func (u *unreliable) below(n int) int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.random.IntN(n)
}

func (u *unreliable) RoundTrip(r *http.Request) (*http.Response, error) {
	if u.chance(6) {
		if r.Body != nil {
			r.Body.Close()
		}
		return nil, errLost
	}
	if u.chance(8) {
		if r.Body != nil {
			r.Body.Close()
		}
		w := httptest.NewRecorder()
		w.WriteHeader(http.StatusServiceUnavailable)
		resp := w.Result()
		resp.Request = r
		return resp, nil
	}
	resp, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	if u.chance(5) {
		resp.Body.Close()
		return nil, errLost
	}
	if r.Method == http.MethodGet && u.chance(2) {
		resp.Body = &cut{ReadCloser: resp.Body, left: u.below(2000)}
	}
	return resp, nil
}

// cut is a body that ends early.
type cut struct {
	io.ReadCloser
	left int
}

func (c *cut) Read(b []byte) (int, error) {
	if c.left == 0 {
		return 0, io.ErrUnexpectedEOF
	}
	n, err := c.ReadCloser.Read(b[:min(len(b), c.left)])
	c.left -= n
	return n, err
}
