package main

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
)

// ways are the ways to follow a group: whether it is let in, and which subscriptions it has then.
var ways = []struct {
	transport, method, query string
	header                   []string
}{
	{"read", http.MethodGet, "?offset=-1", nil},
	{"long-poll", http.MethodGet, "?offset=-1&live=long-poll", nil},
	{"sse", http.MethodGet, "?offset=-1&live=sse", nil},
	{"fork", http.MethodPut, "", []string{"Stream-Forked-From"}},
}

// opened is an answer whose body may go on. The end of the test closes it.
type opened struct{ *http.Response }

// open makes a request for the Durable Stream of a group, and returns before the body of the answer has ended.
func (s *server) open(method, group, query string, header ...string) opened {
	s.t.Helper()
	path := "/v1/stream/chat/" + group
	if method == http.MethodPut {
		header = append(header, path)
		path = "/v1/stream/copies/" + group
	}
	ctx, cancel := context.WithCancel(s.t.Context())
	s.t.Cleanup(cancel)
	r, err := http.NewRequestWithContext(ctx, method, s.url+path+query, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { resp.Body.Close() })
	return opened{resp}
}

// until reads a line at a time until one has a text.
func until(t *testing.T, resp opened, text string) {
	t.Helper()
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		if strings.Contains(lines.Text(), text) {
			return
		}
	}
	t.Fatalf("the body ended before %q", text)
}

// Who may not join a group is not given it by another way in, and whatever goes wrong with the hook refuses.
func TestAJoinThatIsRefusedIsRefusedOnEveryTransport(t *testing.T) {
	h := newHandler(t)
	h.start()
	s := serve(t, nil, kept(t, "--items-hook-timeout", "2s", "--items-triggers", triggerFileOf(t,
		"name: guard, events: [join], stream: chat, group: secret, url: '"+h.url+"/guard?answer=%7B%22unauthorized%22:true%7D'",
		"name: door, events: [join], stream: chat, group: room, url: '"+h.url+"/door?answer=%7B%7D'",
	))...)
	for _, group := range []string{"secret", "room", "open"} {
		s.set("chat", group, "m", `"said in `+group+`"`)
	}
	want := func(group string, refused bool) {
		t.Helper()
		c := s.socket("/v1/items/chat/" + group)
		frame := c.next("sync", "unauthorized")
		if strings.Contains(frame, "unauthorized") != refused || refused && strings.Contains(frame, "said") {
			t.Errorf("%s over a WebSocket: %s", group, frame)
		}
		for _, way := range ways {
			resp := s.open(way.method, group, way.query, way.header...)
			if !refused {
				if resp.StatusCode/100 != 2 || way.method == http.MethodGet && resp.Header.Get("Cache-Control") != "no-store" {
					t.Errorf("%s by %s: %s, Cache-Control: %s", group, way.transport, resp.Status, resp.Header.Get("Cache-Control"))
				}
				if way.method == http.MethodGet {
					until(t, resp, "said in "+group)
				}
				continue
			}
			body, err := io.ReadAll(resp.Body)
			if err != nil || resp.StatusCode != http.StatusForbidden || !strings.Contains(string(body), "the subscription was refused") || strings.Contains(string(body), "said") {
				t.Errorf("%s by %s: %s %s, %v", group, way.transport, resp.Status, body, err)
			}
		}
	}
	want("secret", true)
	want("room", false)
	for _, way := range ways {
		found := false
		for _, one := range h.told("/door") {
			found = found || strings.Contains(string(one.Body), `"transport":"`+way.transport+`"`)
		}
		if !found {
			t.Errorf("the hook was not asked about %s", way.transport)
		}
	}
	h.kill()
	want("room", true)
	want("open", false) // the hook that is gone is not about it
	if status, body := get(t, s.url+"/v1/items/chat/secret/m"); status != http.StatusOK || body != `"said in secret"` {
		t.Errorf("items are read by who has the scope: %d %s", status, body)
	}
}

// The auth function is asked about readers of a group's Durable Stream, too.
func TestTheAuthFunctionDecidesWhoReadsTheStreamOfAGroup(t *testing.T) {
	h := newHandler(t)
	s := serve(t, nil, kept(t, "--items-hook-timeout", "2s", "--items-connect-url", h.url+"/auth?answer=%7B%22context%22:%7B%22user%22:%22ann%22%7D%7D",
		"--items-join-url", h.url+"/join?answer=%7B%7D", "--items-leave-url", h.url+"/leave")...)
	s.set("chat", "room", "m", "1")
	for _, way := range ways {
		if resp := s.open(way.method, "room", way.query, way.header...); resp.StatusCode != http.StatusUnauthorized {
			t.Errorf("%s while the auth function is down: %s", way.transport, resp.Status)
		}
	}
	if status, _ := s.request(http.MethodPut, "/v1/stream/plain", ""); status != http.StatusCreated {
		t.Errorf("a stream that has no items: %d", status)
	}
	if status, _ := get(t, s.url+"/v1/stream/plain?offset=-1"); status != http.StatusOK {
		t.Errorf("a stream that has no items: %d", status)
	}
	h.start()
	for _, way := range ways {
		resp := s.open(way.method, "room", way.query, way.header...)
		if resp.StatusCode/100 != 2 {
			t.Errorf("%s: %s", way.transport, resp.Status)
		}
		if way.transport == "sse" {
			until(t, resp, `"value":1`)
		}
		resp.Body.Close()
		eventually(t, "the leave of "+way.transport+" is told", func() bool {
			for _, one := range h.told("/leave") {
				var left struct {
					Type      string          `json:"type"`
					Transport string          `json:"transport"`
					Group     string          `json:"group_id"`
					Context   json.RawMessage `json:"context"`
				}
				if err := json.Unmarshal(one.Body, &left); err != nil {
					t.Fatal(err)
				}
				if left.Type == "leave" && left.Transport == way.transport && left.Group == "room" && string(left.Context) == `{"user":"ann"}` {
					return true
				}
			}
			return false
		})
	}
}

// Live readers are revoked like subscriptions of WebSockets, and end when what the auth function said is over.
func TestReadersOfAGroupAreRevokedAndExpire(t *testing.T) {
	h := newHandler(t)
	h.start()
	s := serve(t, nil, kept(t, "--items-connect-url", h.url+"/auth?answer=%7B%22context%22:%7B%22user%22:%22ann%22%7D%7D")...)
	s.set("chat", "room", "m", "1")
	revoke := func() {
		t.Helper()
		eventually(t, "the reader is revoked", func() bool {
			_, body := s.request(http.MethodPost, "/v1/items/call/revoke", `{"stream_name":"chat","group_id":"room","context":{"user":"ann"},"message":"banned"}`)
			return body == `{"revoked":1}`
		})
	}
	events := s.open(http.MethodGet, "room", "?offset=-1&live=sse")
	until(t, events, `"value":1`)
	revoke()
	if rest, err := io.ReadAll(events.Body); err != nil || strings.Contains(string(rest), `"value"`) {
		t.Errorf("after it was revoked: %s, %v", rest, err)
	}
	poll := make(chan string, 1)
	wait := func() {
		resp := s.open(http.MethodGet, "room", "?offset=now&live=long-poll")
		body, _ := io.ReadAll(resp.Body)
		poll <- resp.Status + " " + string(body)
	}
	go wait()
	revoke()
	if got := <-poll; !strings.HasPrefix(got, "403") || !strings.Contains(got, "banned") {
		t.Errorf("a long-poll that is revoked is answered %s", got)
	}

	s = serve(t, nil, kept(t, "--items-connect-url", h.url+"/auth?answer=%7B%22expires_in%22:0.5%7D")...)
	s.set("chat", "room", "m", "1")
	events = s.open(http.MethodGet, "room", "?offset=-1&live=sse")
	go wait()
	if _, err := io.ReadAll(events.Body); err != nil {
		t.Errorf("events that expire: %v", err)
	}
	if got := <-poll; !strings.HasPrefix(got, "401") || !strings.Contains(got, "the authorization has ended") {
		t.Errorf("a long-poll that expires is answered %s", got)
	}
}

// Live readers of all kinds share one bound, which is freed when they go.
func TestLiveReadersAreBoundedInAllAndBySubject(t *testing.T) {
	s := inMemory(t, "--max-live", "2")
	s.set("chat", "room", "m", "1")
	events := s.open(http.MethodGet, "room", "?offset=-1&live=sse")
	until(t, events, `"value":1`)
	c := s.socket("/v1/items/chat/room")
	c.next("sync")
	for _, query := range []string{"?offset=-1&live=sse", "?offset=now&live=long-poll"} {
		resp := s.open(http.MethodGet, "room", query)
		body, _ := io.ReadAll(resp.Body)
		if resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") != "5" || !strings.Contains(string(body), "the server has 2 live connections, which is its limit") {
			t.Errorf("%s: %s %s", query, resp.Status, body)
		}
	}
	if _, _, err := dialItems(t, s, "/v1/items/chat/room"); err == nil || !strings.Contains(err.Error(), "503") { //nolint:bodyclose // the library has read it
		t.Errorf("a WebSocket beyond the limit: %v", err)
	}
	if resp := s.open(http.MethodGet, "room", "?offset=-1&live=long-poll"); resp.StatusCode != http.StatusOK {
		t.Errorf("a long-poll that does not wait: %s", resp.Status)
	}
	events.Body.Close()
	_ = c.ws.CloseNow()
	eventually(t, "there is room again", func() bool {
		return s.open(http.MethodGet, "room", "?offset=-1&live=sse").StatusCode == http.StatusOK
	})

	file := t.TempDir() + "/tokens"
	ann := mustToken(t, "create", "--tokens", file, "ann", "runnel:write", "runnel:read")
	bob := mustToken(t, "create", "--tokens", file, "bob", "runnel:read")
	s = inMemory(t, "--tokens", file, "--max-live-each", "1")
	s.must("", "items", "set", "chat", "room", "m", "1", "--token", ann)
	c = s.socket("/stream/chat/room?token=" + ann)
	c.next("sync")
	resp := s.open(http.MethodGet, "room", "?offset=-1&live=sse", "Authorization", "Bearer "+ann)
	body, _ := io.ReadAll(resp.Body)
	if resp.StatusCode != http.StatusTooManyRequests || !strings.Contains(string(body), `\"ann\" has 1 live connections, which is the limit for one caller`) {
		t.Errorf("another one of ann: %s %s", resp.Status, body)
	}
	if resp := s.open(http.MethodGet, "room", "?offset=-1&live=sse", "Authorization", "Bearer "+bob); resp.StatusCode != http.StatusOK {
		t.Errorf("one of bob: %s", resp.Status)
	}
}
