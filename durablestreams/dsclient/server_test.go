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
func newHandler(t testing.TB) *durablestreams.Handler {
	t.Helper()
	e, err := engine.Open(new(memory.Driver), engine.Config{})
	if err != nil {
		t.Fatal(err)
	}
	h := durablestreams.New(e, durablestreams.Config{LongPollTimeout: 150 * time.Millisecond})
	t.Cleanup(func() {
		if err := h.Shutdown(t.Context()); err != nil && t.Context().Err() == nil {
			t.Error(err)
		}
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	return h
}

// newClient returns a client of a new server.
func newClient(t testing.TB) *dsclient.Client {
	t.Helper()
	server := httptest.NewServer(newHandler(t))
	t.Cleanup(server.Close)
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
