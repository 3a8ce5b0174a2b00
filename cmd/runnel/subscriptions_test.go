package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/runnelhq/runnel/durablestreams"
	"github.com/runnelhq/runnel/durablestreams/dsclient"
	"github.com/runnelhq/runnel/engine"
	"github.com/runnelhq/runnel/storage/memory"
	"github.com/runnelhq/runnel/webhook"
)

// subscribing is a server without a network, in fake time.
type subscribing struct {
	*testing.T
	driver  *memory.Driver
	eng     *engine.Engine
	handler *durablestreams.Handler
	host    string   // that requests are for
	to      receiver // of webhooks; nil: none are sent
	unsend  func()
}

func inBubble(t *testing.T, f func(s *subscribing)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := &subscribing{T: t, driver: new(memory.Driver), host: "localhost:4437"}
		s.start()
		defer s.stop()
		f(s)
	})
}

func (s *subscribing) start() {
	s.Helper()
	eng, err := engine.Open(s.driver, engine.Config{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		s.Fatal(err)
	}
	subs, err := webhook.NewSubscriptions(eng, webhook.SubscriptionsConfig{
		Send: webhook.Config{Timeout: time.Second, Transport: s.to, Grace: -1, Logger: slog.New(slog.DiscardHandler)},
	})
	if err != nil {
		s.Fatal(err)
	}
	s.eng = eng
	s.send(subs)
	s.handler = durablestreams.New(eng, durablestreams.Config{Subscriptions: subs, NoRegistry: true, Logger: slog.New(slog.DiscardHandler)})
}

// send sends webhooks until stop.
func (s *subscribing) send(subs *webhook.Subscriptions) {
	s.unsend = func() {}
	if s.to == nil {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		subs.Run(ctx)
	}()
	s.unsend = func() {
		cancel()
		<-done
	}
}

func (s *subscribing) stop() {
	s.unsend()
	_ = s.handler.Close()
	_ = s.eng.Close()
}

type object = map[string]any

// ask sends a request, wants a status, and returns what the body says.
func (s *subscribing) ask(method, path, token string, body any, want int) object {
	s.Helper()
	var sent io.Reader
	if text, ok := body.(string); ok {
		sent = strings.NewReader(text)
	} else if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			s.Fatal(err)
		}
		sent = bytes.NewReader(b)
	}
	r := httptest.NewRequest(method, "http://server.example/v1/stream/"+path, sent)
	r.Host = s.host
	r.Header.Set("Content-Type", "application/json")
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	w := httptest.NewRecorder()
	s.handler.ServeHTTP(w, r)
	if w.Code != want {
		s.Fatalf("%s %s: %d, want %d: %s", method, path, w.Code, want, w.Body)
	}
	synctest.Wait()
	var o object
	if strings.HasPrefix(strings.TrimSpace(w.Body.String()), "{") {
		if err := json.Unmarshal(w.Body.Bytes(), &o); err != nil {
			s.Fatal(err)
		}
	}
	return o
}

func (s *subscribing) wantCode(o object, code string) {
	s.Helper()
	if e, _ := o["error"].(object); e["code"] != code {
		s.Fatalf("%v, want the code %s", o, code)
	}
}

func (s *subscribing) stream(path string) { s.Helper(); s.ask("PUT", path, "", "[]", 201) }
func (s *subscribing) append(path string) { s.Helper(); s.ask("POST", path, "", `{"n":1}`, 204) }

const sub = "__ds/subscriptions/sub-1"

// pull makes the subscription sub-1 of type pull-wake.
func (s *subscribing) pull(more object) object {
	s.Helper()
	s.stream("wake/pool")
	config := object{"type": "pull-wake", "pattern": "events/*", "wake_stream": "wake/pool", "lease_ttl_ms": 1000}
	maps.Copy(config, more)
	return s.ask("PUT", sub, "", config, 201)
}

// wakes are the events of the wake stream.
func (s *subscribing) wakes() []object {
	s.Helper()
	synctest.Wait()
	r := httptest.NewRequest("GET", "http://server.example/v1/stream/wake/pool", nil)
	w := httptest.NewRecorder()
	s.handler.ServeHTTP(w, r)
	var all []object
	if err := json.Unmarshal(w.Body.Bytes(), &all); err != nil {
		s.Fatal(err, w.Body)
	}
	return all
}

func offsetAt(n int) string { return fmt.Sprintf("%016d_0000000000000000", n) }

// ack is the body of an ack for a claim.
func ackOf(claim object, done bool, at ...any) object {
	acks := []object{}
	for i := 0; i < len(at); i += 2 {
		acks = append(acks, object{"stream": at[i], "offset": offsetAt(at[i+1].(int))})
	}
	return object{"wake_id": claim["wake_id"], "generation": claim["generation"], "acks": acks, "done": done}
}

func (s *subscribing) claim(worker string) (object, string) {
	s.Helper()
	c := s.ask("POST", sub+"/claim", "", object{"worker": worker}, 200)
	return c, c["token"].(string)
}

func TestSection62PutCreatesConfirmsAndConflicts(t *testing.T) {
	inBubble(t, func(s *subscribing) {
		config := object{
			"type": "pull-wake", "pattern": "events/*", "streams": []string{"b", "/a/", "b"}, "wake_stream": "wake/pool",
			"description": "all", "lease_ttl_ms": 5000,
		}
		s.ask("PUT", sub, "", config, 201)
		same := object{
			"type": "pull-wake", "pattern": "/events/*", "streams": []string{"a", "b"}, "wake_stream": "wake/pool",
			"description": "all", "lease_ttl_ms": 5000,
		}
		s.ask("PUT", sub, "", same, 200)
		for field, other := range map[string]any{
			"pattern": "other/*", "streams": []string{"a"}, "wake_stream": "wake/other", "description": "none", "lease_ttl_ms": 6000,
		} {
			differs := maps.Clone(config)
			differs[field] = other
			s.wantCode(s.ask("PUT", sub, "", differs, 409), "SUBSCRIPTION_ALREADY_EXISTS")
		}
	})
}

func TestSection62WhatIsNoConfigurationIsRefused(t *testing.T) {
	inBubble(t, func(s *subscribing) {
		for _, bad := range []any{
			`{`, `[]`, `{}`,
			object{"type": "other", "pattern": "a"},
			object{"type": "pull-wake", "pattern": "a"},
			object{"type": "pull-wake", "wake_stream": "w"},
			object{"type": "pull-wake", "wake_stream": "w", "streams": []string{}},
			object{"type": "pull-wake", "wake_stream": "w", "streams": []any{1}},
			object{"type": "pull-wake", "wake_stream": "w", "streams": []string{"w"}},
			object{"type": "pull-wake", "wake_stream": "__ds/x", "pattern": "a"},
			object{"type": "pull-wake", "wake_stream": "w", "pattern": "a", "lease_ttl_ms": 999},
			object{"type": "pull-wake", "wake_stream": "w", "pattern": "a", "lease_ttl_ms": 600001},
			object{"type": "pull-wake", "wake_stream": "w", "pattern": "a", "lease_ttl_ms": 1000.5},
			object{"type": "pull-wake", "wake_stream": "w", "pattern": "a", "lease_ttl_ms": 1e18},
			object{"type": "webhook", "pattern": "a"},
			object{"type": "webhook", "pattern": "a", "webhook": object{}},
		} {
			s.wantCode(s.ask("PUT", sub, "", bad, 400), "INVALID_REQUEST")
		}
		for _, url := range []string{"http://example.com/", "https://10.0.0.1/", "https://[::1]/", "https://localhost/", "ftp://example.com", "https://169.254.169.254/"} {
			config := object{"type": "webhook", "pattern": "a", "webhook": object{"url": url}}
			s.wantCode(s.ask("PUT", sub, "", config, 400), "WEBHOOK_URL_REJECTED")
		}
		s.wantCode(s.ask("GET", sub, "", nil, 404), "SUBSCRIPTION_NOT_FOUND")
	})
}

func TestSection63ASubscriptionIsShownWithItsStreams(t *testing.T) {
	inBubble(t, func(s *subscribing) {
		s.stream("events/old")
		s.append("events/old")
		s.pull(object{"streams": []string{"events/old", "missing"}, "description": "d"})
		s.stream("events/new")
		s.append("events/new")
		got := s.ask("GET", sub, "", nil, 200)
		if got["id"] != "sub-1" || got["subscription_id"] != "sub-1" || got["type"] != "pull-wake" || got["status"] != "active" ||
			got["wake_stream"] != "wake/pool" || got["lease_ttl_ms"] != 1000.0 || got["description"] != "d" {
			t.Fatal(got)
		}
		want := []object{
			{"path": "events/new", "link_type": "glob", "acked_offset": offsetAt(0)},
			{"path": "events/old", "link_type": "explicit", "acked_offset": offsetAt(1)},
			{"path": "missing", "link_type": "explicit", "acked_offset": offsetAt(0)},
		}
		streams := got["streams"].([]any)
		if len(streams) != len(want) {
			t.Fatal(streams)
		}
		for i, w := range want {
			for k, v := range w {
				if streams[i].(object)[k] != v {
					t.Errorf("%v, want %v", streams[i], w)
				}
			}
		}
		s.ask("DELETE", sub, "", nil, 204)
		s.ask("DELETE", sub, "", nil, 204)
		s.ask("GET", sub, "", nil, 404)
	})
}

func TestSection64MembershipByName(t *testing.T) {
	inBubble(t, func(s *subscribing) {
		s.pull(nil)
		s.stream("manual/a")
		s.append("manual/a")
		s.ask("POST", sub+"/streams", "", object{"streams": []string{"manual/a", "events/x"}}, 204)
		s.ask("POST", sub+"/streams", "", object{"streams": []string{"manual/a"}}, 204)
		s.append("manual/a")
		s.ask("POST", sub+"/streams", "", object{"streams": []string{"manual/a"}}, 204)
		c, token := s.claim("w")
		if l := c["streams"].([]any)[0].(object); l["path"] != "manual/a" || l["acked_offset"] != offsetAt(1) || l["link_type"] != "explicit" {
			t.Fatal(c)
		}
		s.ask("POST", sub+"/ack", token, ackOf(c, true, "manual/a", 2), 200)
		s.stream("events/x")
		s.append("events/x")
		s.ask("DELETE", sub+"/streams/manual%2Fa", "", nil, 204)
		s.ask("DELETE", sub+"/streams/manual/a", "", nil, 204)
		s.ask("DELETE", sub+"/streams/events%2Fx", "", nil, 204)
		streams := s.ask("GET", sub, "", nil, 200)["streams"].([]any)
		if len(streams) != 1 || streams[0].(object)["path"] != "events/x" || streams[0].(object)["link_type"] != "glob" {
			t.Fatal(streams)
		}
		s.append("manual/a")
		if n := len(s.wakes()); n != 2 {
			t.Fatal(n)
		}
		s.ask("POST", "__ds/subscriptions/none/streams", "", object{"streams": []string{"a"}}, 404)
		s.ask("POST", sub+"/streams", "", object{}, 400)
	})
}

func TestSection65TheKeySet(t *testing.T) {
	inBubble(t, func(s *subscribing) {
		// A store has keys from its first webhook on.
		s.ask("PUT", sub, "", object{"type": "webhook", "pattern": "a", "webhook": object{"url": "https://example.com/hook"}}, 201)
		read := func() (string, http.Header) {
			w := httptest.NewRecorder()
			s.handler.ServeHTTP(w, httptest.NewRequest("GET", "http://server.example/v1/stream/__ds/jwks.json", nil))
			return w.Body.String(), w.Header()
		}
		keys, header := read()
		if header.Get("Content-Type") != "application/jwk-set+json" || header.Get("Cache-Control") != "public, max-age=300" {
			t.Fatal(header)
		}
		for _, part := range []string{`"OKP"`, `"Ed25519"`, `"kid"`, `"sig"`, `"EdDSA"`} {
			if !strings.Contains(keys, part) {
				t.Errorf("%s lacks %s", keys, part)
			}
		}
		s.stop()
		s.start()
		if again, _ := read(); again != keys {
			t.Errorf("%s after a restart, not %s", again, keys)
		}
	})
}

func TestSection72ClaimAckAndRelease(t *testing.T) {
	inBubble(t, func(s *subscribing) {
		s.pull(nil)
		s.wantCode(s.ask("POST", sub+"/claim", "", object{"worker": "one"}, 409), "NO_PENDING_WORK")
		s.ask("POST", sub+"/claim", "", object{}, 400)
		s.stream("events/a")
		s.append("events/a")
		event := s.wakes()[0]
		if event["type"] != "wake" || event["subscription_id"] != "sub-1" || event["stream"] != "events/a" || event["generation"] != 1.0 || event["ts"] == nil {
			t.Fatal(event)
		}
		c, token := s.claim("one")
		l := c["streams"].([]any)[0].(object)
		if c["generation"] != 1.0 || c["lease_ttl_ms"] != 1000.0 || l["tail_offset"] != offsetAt(1) || l["acked_offset"] != offsetAt(0) || l["has_pending"] != true {
			t.Fatal(c)
		}
		busy := s.ask("POST", sub+"/claim", "", object{"worker": "two"}, 409)
		s.wantCode(busy, "ALREADY_CLAIMED")
		if e := busy["error"].(object); e["current_holder"] != "one" || e["generation"] != 1.0 {
			t.Fatal(busy)
		}
		for _, bad := range []object{
			ackOf(c, true, "events/a", 2), ackOf(c, true, "other", 0), ackOf(c, true, "events/none", 0), ackOf(c, true, "events/a", 1, "other", 1),
		} {
			s.wantCode(s.ask("POST", sub+"/ack", token, bad, 409), "INVALID_OFFSET")
		}
		if got := s.ask("GET", sub, "", nil, 200)["streams"].([]any)[0].(object); got["acked_offset"] != offsetAt(0) {
			t.Fatal("a refused ack has moved something", got)
		}
		if got := s.ask("POST", sub+"/ack", token, ackOf(c, false, "events/a", 1), 200); got["ok"] != true || got["next_wake"] != false {
			t.Fatal(got)
		}
		s.wantCode(s.ask("POST", sub+"/ack", token, ackOf(c, false, "events/a", 0), 409), "INVALID_OFFSET")
		s.append("events/a")
		if got := s.ask("POST", sub+"/ack", token, ackOf(c, true), 200); got["next_wake"] != true {
			t.Fatal(got)
		}
		s.wantCode(s.ask("POST", sub+"/ack", token, ackOf(c, true), 409), "FENCED")
		s.wantCode(s.ask("POST", sub+"/release", token, ackOf(c, true), 409), "FENCED")
		if n := len(s.wakes()); n != 2 {
			t.Fatal(n)
		}
		c, token = s.claim("two")
		s.ask("POST", sub+"/release", token, ackOf(c, false), 204)
		if n := len(s.wakes()); n != 3 {
			t.Fatal("a release with work left wakes again", n)
		}
		c, token = s.claim("two")
		if c["generation"] != 3.0 {
			t.Fatal(c)
		}
		s.ask("POST", sub+"/ack", token, ackOf(c, true, "events/a", 2), 200)
		if n := len(s.wakes()); n != 3 {
			t.Fatal(n)
		}
	})
}

func TestSection73OnlyTheTokenOfTheCurrentWakeMovesAnything(t *testing.T) {
	inBubble(t, func(s *subscribing) {
		s.pull(nil)
		s.stream("events/a")
		s.append("events/a")
		c, token := s.claim("one")
		for _, bad := range []string{"", "x", token + "x", token[:len(token)-2]} {
			s.wantCode(s.ask("POST", sub+"/ack", bad, ackOf(c, true, "events/a", 1), 401), "TOKEN_INVALID")
			s.wantCode(s.ask("POST", sub+"/release", bad, ackOf(c, true), 401), "TOKEN_INVALID")
			s.wantCode(s.ask("POST", sub+"/callback", bad, ackOf(c, true), 401), "TOKEN_INVALID")
		}
		s.wantCode(s.ask("POST", sub+"/callback", token, ackOf(c, true), 401), "TOKEN_INVALID")
		s.wantCode(s.ask("POST", "__ds/subscriptions/other/ack", token, ackOf(c, true), 401), "TOKEN_INVALID")
		stale := ackOf(c, true, "events/a", 1)
		stale["generation"] = 2
		s.wantCode(s.ask("POST", sub+"/ack", token, stale, 409), "FENCED")
		stale = ackOf(c, true, "events/a", 1)
		stale["wake_id"] = "w_other"
		s.wantCode(s.ask("POST", sub+"/ack", token, stale, 409), "FENCED")
		time.Sleep(1100 * time.Millisecond) //nolint:forbidigo // time is fake
		s.wantCode(s.ask("POST", sub+"/ack", token, ackOf(c, true, "events/a", 1), 409), "FENCED")
		if n := len(s.wakes()); n != 2 {
			t.Fatal("a lease that ends with work left wakes again", n)
		}
		next, _ := s.claim("two")
		if l := next["streams"].([]any)[0].(object); l["acked_offset"] != offsetAt(0) || next["generation"] != 2.0 {
			t.Fatal(next)
		}
		s.ask("DELETE", sub, "", nil, 204)
		s.wantCode(s.ask("POST", sub+"/ack", token, ackOf(c, true), 404), "SUBSCRIPTION_NOT_FOUND")
		s.ask("PUT", sub, "", object{"type": "pull-wake", "pattern": "events/*", "wake_stream": "wake/pool"}, 201)
		s.wantCode(s.ask("POST", sub+"/ack", token, ackOf(c, true), 404), "SUBSCRIPTION_NOT_FOUND")
	})
}

func TestSection7StreamsThatGoAndComeAgain(t *testing.T) {
	inBubble(t, func(s *subscribing) {
		s.pull(nil)
		s.stream("events/a")
		s.append("events/a")
		s.append("events/a")
		c, token := s.claim("one")
		s.ask("POST", sub+"/ack", token, ackOf(c, true, "events/a", 2), 200)
		s.ask("DELETE", "events/a", "", nil, 204)
		if n := len(s.ask("GET", sub, "", nil, 200)["streams"].([]any)); n != 0 {
			t.Fatal(n)
		}
		s.stream("events/a")
		s.append("events/a")
		c, token = s.claim("one")
		if l := c["streams"].([]any)[0].(object); l["acked_offset"] != offsetAt(0) || l["tail_offset"] != offsetAt(1) {
			t.Fatal(c)
		}
		s.ask("DELETE", "events/a", "", nil, 204)
		if got := s.ask("POST", sub+"/ack", token, ackOf(c, true), 200); got["next_wake"] != false {
			t.Fatal(got)
		}
	})
}

func TestASubscriptionOfEverythingDoesNotWakeItself(t *testing.T) {
	inBubble(t, func(s *subscribing) {
		s.pull(object{"pattern": "**"})
		s.stream("a")
		s.append("a")
		c, token := s.claim("one")
		s.ask("POST", sub+"/ack", token, ackOf(c, true, "a", 1), 200)
		if n := len(s.wakes()); n != 1 {
			t.Fatal(n)
		}
	})
}

func TestReservedPathsAreNoStreams(t *testing.T) {
	inBubble(t, func(s *subscribing) {
		s.wantCode(s.ask("PUT", "__ds/x", "", "[]", 404), "SUBSCRIPTION_NOT_FOUND")
		s.ask("GET", "__ds", "", nil, 404)
		s.ask("POST", sub, "", nil, 405)
		s.ask("GET", sub+"/claim", "", nil, 405)
		s.ask("GET", "__ds/subscriptions/a%2Fb", "", nil, 404)
	})
}

// Two workers share the wakes of a subscription over the network, until everything has been worked on.
func TestWorkersShareASubscription(t *testing.T) {
	s := &subscribing{T: t, driver: new(memory.Driver)}
	s.start()
	defer s.stop()
	host := httptest.NewServer(s.handler)
	defer host.Close()
	client := &dsclient.Client{Base: host.URL + "/v1/stream"}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	_, err := client.Create(ctx, "wake/pool", dsclient.CreateOptions{ContentType: "application/json"})
	must(err)
	if code := run([]string{"sub", "create", "pool", "--pattern", "jobs/*", "--wake-stream", "wake/pool", "--url", client.Base}, stdio{out: io.Discard, err: io.Discard}); code != 0 {
		t.Fatal(code)
	}
	var mu sync.Mutex
	seen := make(map[string]dsclient.Offset)
	all := make(chan struct{})
	var workers sync.WaitGroup
	stopped, stop := context.WithCancel(ctx)
	for i := range 2 {
		workers.Go(func() {
			_ = client.Work(stopped, "pool", dsclient.WorkOptions{Worker: fmt.Sprint(i)}, func(_ context.Context, w *dsclient.Claim) error {
				mu.Lock()
				defer mu.Unlock()
				for _, l := range w.Streams {
					if l.Acked != cmp.Or(seen[l.Path], dsclient.Offset(offsetAt(0))) {
						t.Errorf("%+v, and %s was acknowledged", l, seen[l.Path])
					}
					seen[l.Path] = l.Tail
					w.Progress(l.Path, l.Tail)
				}
				if len(seen) == 3 && !slices.ContainsFunc(slices.Collect(maps.Values(seen)), func(o dsclient.Offset) bool { return o != dsclient.Offset(offsetAt(5)) }) {
					select {
					case <-all:
					default:
						close(all)
					}
				}
				return nil
			})
		})
	}
	for i := range 15 {
		path := fmt.Sprintf("jobs/%d", i%3)
		if i < 3 {
			_, err := client.Create(ctx, path, dsclient.CreateOptions{ContentType: "text/plain"})
			must(err)
		}
		_, err := client.Append(ctx, path, []byte("x"), dsclient.AppendOptions{ContentType: "text/plain"})
		must(err)
	}
	select {
	case <-all:
	case <-ctx.Done():
		t.Fatal("not everything was worked on")
	}
	stop()
	workers.Wait()
	var out bytes.Buffer
	for _, args := range [][]string{{"ls"}, {"show", "pool"}, {"replay", "pool"}, {"rm", "pool"}, {"ls", "--json"}} {
		if code := run(append([]string{"sub"}, append(args, "--url", client.Base)...), stdio{out: &out, err: &out}); code != 0 {
			t.Fatal(args, code, out.String())
		}
	}
	if !strings.Contains(out.String(), "jobs/1") {
		t.Fatal(out.String())
	}
}
