package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/runnelhq/runnel/webhook"
)

// hook is a receiver of webhooks that believes what is signed.
type hook struct {
	*httptest.Server
	mu         sync.Mutex
	verifier   *webhook.Verifier
	answer     func(*webhook.Notification) (status int, body string)
	places     map[string]string // the furthest place that was answered with done, by stream
	generation uint64
	requests   int
	failures   []string
}

func newHook(t *testing.T) *hook {
	t.Helper()
	h := &hook{places: make(map[string]string), answer: func(*webhook.Notification) (int, string) { return 200, `{"done":true}` }}
	h.Server = httptest.NewServer(h)
	t.Cleanup(func() {
		h.CloseClientConnections()
		h.Close()
	})
	return h
}

// believe lets the hook verify what comes with the keys of a server.
func (h *hook) believe(s *server) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.verifier = webhook.NewVerifier(s.streams()+"/__ds/jwks.json", webhook.VerifierConfig{})
}

func (h *hook) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	verifier, answer := h.verifier, h.answer
	h.requests++
	h.mu.Unlock()
	if verifier != nil {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return // the server was killed
		}
		r.Body = io.NopCloser(strings.NewReader(string(body)))
	}
	n := new(webhook.Notification)
	if verifier == nil {
		_ = json.NewDecoder(r.Body).Decode(n)
	} else {
		var err error
		if n, err = verifier.Read(r); err != nil {
			h.mu.Lock()
			// The server may be gone before its keys could be fetched; a signature that does not hold is
			// another matter.
			if strings.Contains(err.Error(), "does not belong") {
				h.failures = append(h.failures, err.Error())
			}
			h.mu.Unlock()
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
	}
	status, body := answer(n)
	h.mu.Lock()
	defer h.mu.Unlock()
	if n.Generation < h.generation {
		h.failures = append(h.failures, fmt.Sprintf("generation %d came after %d", n.Generation, h.generation))
	}
	h.generation = max(h.generation, n.Generation)
	if status == http.StatusOK && strings.Contains(body, "true") {
		for _, s := range n.Streams {
			h.places[s.Path] = max(h.places[s.Path], s.TailOffset)
		}
	}
	w.WriteHeader(status)
	_, _ = io.WriteString(w, body)
}

// ask sends a request with a JSON body and returns the answer.
func ask(t *testing.T, method, url, body string) (int, http.Header, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := new(http.Client).Do(req)
	if err != nil {
		return 0, nil, ""
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, nil, ""
	}
	return resp.StatusCode, resp.Header, string(data)
}

// inTheEnd waits for a condition, looking again from time to time.
func inTheEnd(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.After(90 * time.Second)
	for !holds() {
		select {
		case <-time.After(50 * time.Millisecond):
		case <-deadline:
			t.Fatalf("%s does not hold after 90 seconds", what)
		}
	}
}

// Every acknowledged append is part of a wake that is answered with done in the end, however often the server is
// killed while receivers fail, and generations never go back.
func TestNoWakeIsLostByKillsInTheMidstOfRetries(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := listener.Addr().String()
	_ = listener.Close()
	args := []string{"--addr", addr, "--data", t.TempDir(), "--webhook-development", "--webhook-timeout", "1s"}
	s := serve(t, nil, args...)
	h := newHook(t)
	h.believe(s)
	h.answer = func(*webhook.Notification) (int, string) {
		switch rand.IntN(4) {
		case 0:
			return 503, ""
		case 1:
			return 200, `{"done":false}`
		}
		return 200, `{"done":true}`
	}
	status, _, body := ask(t, http.MethodPut, s.streams()+"/__ds/subscriptions/all", fmt.Sprintf(`{"type":"webhook","pattern":"events/*","webhook":{"url":"%s/h"},"lease_ttl_ms":1000}`, h.URL))
	if status != http.StatusCreated {
		t.Fatalf("%d %s", status, body)
	}
	acked := make(map[string]string) // the place after the last acknowledged append
	for range 5 {
		stop := time.After(time.Duration(200+rand.IntN(1200)) * time.Millisecond)
		for n, going := 0, true; going; n++ {
			path := fmt.Sprintf("events/%d", n%7)
			method := http.MethodPost
			if acked[path] == "" {
				method = http.MethodPut
			}
			if status, header, _ := ask(t, method, s.streams()+"/"+path, `{"n":1}`); status/100 == 2 {
				acked[path] = header.Get("Stream-Next-Offset")
			}
			select {
			case <-stop:
				going = false
			case <-time.After(10 * time.Millisecond):
			}
		}
		s.kill()
		s = serve(t, nil, args...)
	}
	h.mu.Lock()
	h.answer = func(*webhook.Notification) (int, string) { return 200, `{"done":true}` }
	h.mu.Unlock()
	inTheEnd(t, "that every acknowledged append was told of", func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		for path, place := range acked {
			if h.places[path] < place {
				return false
			}
		}
		return true
	})
	inTheEnd(t, "that all streams are worked on", func() bool {
		_, _, body := ask(t, http.MethodGet, s.streams()+"/__ds/subscriptions/all", "")
		var sub struct {
			Streams []webhook.Stream `json:"streams"`
			Status  string           `json:"status"`
		}
		if err := json.Unmarshal([]byte(body), &sub); err != nil || len(sub.Streams) != len(acked) {
			t.Fatalf("%s: %v", body, err)
		}
		for _, stream := range sub.Streams {
			if stream.AckedOffset < acked[stream.Path] {
				return false
			}
		}
		return sub.Status == "active"
	})
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, failure := range h.failures {
		t.Error(failure)
	}
	t.Logf("%d requests, %d generations", h.requests, h.generation)
}

func TestAReceiverThatHangsDelaysNoOther(t *testing.T) {
	s := inMemory(t, "--webhook-development", "--webhook-concurrency", "2")
	good := newHook(t)
	release := make(chan struct{})
	bad := newHook(t)
	t.Cleanup(func() { close(release) })
	bad.answer = func(*webhook.Notification) (int, string) {
		<-release
		return 500, ""
	}
	for i := range 20 {
		ask(t, http.MethodPut, fmt.Sprintf("%s/__ds/subscriptions/bad%d", s.streams(), i), fmt.Sprintf(`{"type":"webhook","pattern":"bad/*","webhook":{"url":"%s/h%d"}}`, bad.URL, i))
	}
	ask(t, http.MethodPut, s.streams()+"/__ds/subscriptions/good", fmt.Sprintf(`{"type":"webhook","pattern":"good/*","webhook":{"url":"%s/h"}}`, good.URL))
	ask(t, http.MethodPut, s.streams()+"/bad/a", `{}`)
	begin := time.Now()
	ask(t, http.MethodPut, s.streams()+"/good/a", `{}`)
	inTheEnd(t, "that the receiver that answers is told", func() bool {
		good.mu.Lock()
		defer good.mu.Unlock()
		return good.requests > 0
	})
	// Those that hang give their places back after half a second.
	if took := time.Since(begin); took > 15*time.Second {
		t.Errorf("it took %s", took)
	}
}

func TestSubscriptionsAreManagedFromTheShell(t *testing.T) {
	s := inMemory(t, "--webhook-development")
	h := newHook(t)
	h.answer = func(*webhook.Notification) (int, string) { return 410, "" }
	sub := func(args ...string) outcome {
		t.Helper()
		return runnelIn(t, []string{"RUNNEL_URL=" + s.streams()}, nil, append([]string{"sub"}, args...)...)
	}
	must := func(o outcome) outcome {
		t.Helper()
		if o.code != 0 {
			t.Fatalf("%+v", o)
		}
		return o
	}
	must(sub("create", "a/b", "--pattern", "events/*", "--webhook", h.URL, "--description", "what for"))
	if o := must(sub("create", "a/b", "--pattern", "events/*", "--webhook", h.URL, "--description", "what for")); !strings.Contains(o.stderr, "already") {
		t.Errorf("%+v", o)
	}
	if o := sub("create", "a/b", "--pattern", "other/*", "--webhook", h.URL); o.code != 1 || !strings.Contains(o.stderr, "configuration") {
		t.Errorf("another configuration: %+v", o)
	}
	if o := sub("create", "c", "--pattern", "x", "--webhook", "https://10.0.0.1/"); o.code != 1 || !strings.Contains(o.stderr, "private network") {
		t.Errorf("a target inside: %+v", o)
	}
	if o := sub("create", "c", "--pattern", "x"); o.code != 2 {
		t.Errorf("no target: %+v", o)
	}
	must(sub("create", "pull", "--stream", "jobs/1", "--wake-stream", "wakes"))
	ask(t, http.MethodPut, s.streams()+"/events/1", `{}`)
	inTheEnd(t, "that the webhook is parked", func() bool { return strings.Contains(must(sub("ls", "--parked")).stdout, "a/b") })
	if o := must(sub("ls")); !strings.Contains(o.stdout, "pull-wake") || !strings.Contains(o.stdout, "410") {
		t.Errorf("%+v", o)
	}
	requests := func() int {
		h.mu.Lock()
		defer h.mu.Unlock()
		return h.requests
	}
	before := requests()
	must(sub("replay", "a/b"))
	inTheEnd(t, "that it is sent again", func() bool { return requests() > before })
	inTheEnd(t, "that it is parked again", func() bool { return strings.Contains(must(sub("ls", "--parked")).stdout, "a/b") })
	must(sub("drop", "a/b"))
	if o := must(sub("show", "a/b")); !strings.Contains(o.stdout, `"status": "active"`) || !strings.Contains(o.stdout, `"events/1"`) {
		t.Errorf("%+v", o)
	}
	must(sub("rm", "a/b", "pull", "never-there"))
	if o := must(sub("ls", "--json")); o.stdout != "" {
		t.Errorf("%+v", o)
	}
}

func TestAParkedDeliveryIsParkedAfterAKill(t *testing.T) {
	args := []string{"--addr", "127.0.0.1:0", "--data", t.TempDir(), "--webhook-development"}
	s := serve(t, nil, args...)
	h := newHook(t)
	h.answer = func(*webhook.Notification) (int, string) { return http.StatusGone, "" }
	s.must("", "create", "orders/1")
	s.must("", "sub", "create", "mail", "--pattern", "orders/*", "--webhook", h.URL)
	s.must("paid", "append", "orders/1")
	parked := func() bool { return strings.Contains(s.must("", "sub", "ls", "--parked"), "mail") }
	eventually(t, "the delivery is parked", parked)
	before := s.must("", "sub", "show", "mail")
	s.kill()
	s = serve(t, nil, args...)
	h.mu.Lock()
	requests := h.requests
	h.answer = func(*webhook.Notification) (int, string) { return http.StatusOK, `{"done":true}` }
	h.mu.Unlock()
	if !parked() {
		t.Fatal(s.must("", "sub", "show", "mail"))
	}
	// The port is another one, and with it the URL of the keys; all else is as it was.
	if after := s.must("", "sub", "show", "mail"); withoutKeys(after) != withoutKeys(before) {
		t.Errorf("%s\nwas before the kill\n%s", after, before)
	}
	h.mu.Lock()
	if h.requests != requests {
		t.Error("a parked delivery was tried")
	}
	h.mu.Unlock()
	s.must("", "sub", "replay", "mail")
	eventually(t, "it is worked on", func() bool { return strings.TrimSpace(s.must("", "cursor", "get", "orders/1", "__ds/mail")) == "1" })
}

// withoutKeys leaves out the line of a subscription that says where the keys are.
func withoutKeys(shown string) string {
	lines := strings.Split(shown, "\n")
	return strings.Join(slices.DeleteFunc(lines, func(line string) bool { return strings.Contains(line, "jwks_url") }), "\n")
}
