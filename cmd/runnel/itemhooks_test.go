package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/coder/websocket"
)

// kept are the arguments of a server whose data stays, and which may call the handlers of a test.
func kept(t *testing.T, more ...string) []string {
	t.Helper()
	return append([]string{"--addr", "127.0.0.1:0", "--data", t.TempDir(), "--webhook-allow", "127.0.0.1"}, more...)
}

// socket is a WebSocket connection to a server.
type socket struct {
	t  *testing.T
	ws *websocket.Conn
}

func dialItems(t *testing.T, s *server, path string) (*websocket.Conn, *http.Response, error) {
	t.Helper()
	return websocket.Dial(t.Context(), s.url+path, nil)
}

func (s *server) socket(path string) *socket {
	s.t.Helper()
	ws, _, err := dialItems(s.t, s, path) //nolint:bodyclose // the library has read it
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = ws.CloseNow() })
	return &socket{s.t, ws}
}

func (c *socket) send(frame string) {
	c.t.Helper()
	if err := c.ws.Write(c.t.Context(), websocket.MessageText, []byte(frame)); err != nil {
		c.t.Fatal(err)
	}
}

// next returns the next frame of one of the kinds.
func (c *socket) next(kinds ...string) string {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), within)
	defer cancel()
	for {
		_, frame, err := c.ws.Read(ctx)
		if err != nil {
			c.t.Fatalf("no frame of %v: %v", kinds, err)
		}
		var f struct {
			Event struct {
				Type string `json:"type"`
			} `json:"event"`
		}
		if err := json.Unmarshal(frame, &f); err != nil {
			c.t.Fatal(err)
		}
		if slices.Contains(kinds, f.Event.Type) {
			return string(frame)
		}
	}
}

func value(_, _ string, data json.RawMessage) string { return string(data) }

// The process of a handler is killed in the middle of its calls, then the server, then both come back: each
// change has been handed over, in its order. A handler that hangs all the time holds up nobody else.
func TestATriggerSurvivesTheDeathOfItsHandlerAndOfTheServer(t *testing.T) {
	h := newHandler(t)
	args := kept(t, "--items-hook-secret", "secret", "--items-triggers", triggerFileOf(t,
		"name: hangs, stream: chat, timeout: 1m, url: '"+h.url+"/hang'",
		"name: t, stream: chat, url: '"+h.url+"/t'",
	))
	s := serve(t, nil, args...)
	h.start()
	var want []string
	write := func(n int) {
		for range n {
			next := fmt.Sprint(len(want))
			s.set("chat", "room", "m", next)
			want = append(want, next)
		}
	}
	write(20)
	eventually(t, "the handler is told", func() bool { return len(h.told("/t")) > 0 })
	h.kill()
	write(20)
	s.kill()
	s = serve(t, nil, args...)
	write(20)
	h.start()
	s.kill() // perhaps while it hands over
	s = serve(t, nil, args...)
	write(20)
	eventually(t, "the handler is told everything", func() bool { return len(h.frames("/t", value)) == len(want) })
	if got := h.frames("/t", value); !slices.Equal(got, want) {
		t.Errorf("told: %v", got)
	}
	one := h.first("/t").Header
	if !strings.HasPrefix(one.Get(headerHookSignature), "t=") || one.Get(headerAttempt) == "" || one.Get(headerFence) == "" {
		t.Errorf("the header of a call: %v", one)
	}
	h.first("/hang")
	s.stop()
}

func TestAParkedChangeIsSeenAndReplayed(t *testing.T) {
	h := newHandler(t)
	s := serve(t, nil, kept(t, "--items-triggers", triggerFileOf(t, "name: t, stream: chat, attempts: 1, url: '"+h.url+"/t'"))...)
	s.set("chat", "room", "m", "1")
	var parked struct {
		Items []struct {
			ID    string `json:"id"`
			Value struct {
				Error string `json:"error"`
			} `json:"value"`
		} `json:"items"`
	}
	list := func() string {
		_, body := s.request(http.MethodGet, "/v1/items/runnel.parked/t", "")
		return body
	}
	eventually(t, "the change is parked", func() bool {
		return json.Unmarshal([]byte(list()), &parked) == nil && len(parked.Items) == 1
	})
	if !strings.Contains(parked.Items[0].Value.Error, "connection refused") {
		t.Errorf("parked because of %q", parked.Items[0].Value.Error)
	}
	h.start()
	if code, body := s.request(http.MethodPatch, "/v1/items/runnel.parked/t/"+parked.Items[0].ID, `[{"type":"set","path":"replay","value":true}]`); code != 200 {
		t.Fatalf("%d %s", code, body)
	}
	eventually(t, "the change is not parked any more", func() bool { return strings.Contains(list(), `"items":[]`) })
	if got := h.frames("/t", value); !slices.Equal(got, []string{"1"}) {
		t.Errorf("told: %v", got)
	}
}

func TestWhatIsParkedIsLookedAfterFromTheShell(t *testing.T) {
	h := newHandler(t)
	s := serve(t, nil, kept(t, "--items-triggers", triggerFileOf(t,
		"name: t, stream: chat, attempts: 1, url: '"+h.url+"/t'",
		"name: u, stream: jobs, attempts: 1, url: '"+h.url+"/u'",
	))...)
	parked := func(args ...string) string { return s.must("", append([]string{"items", "parked"}, args...)...) }
	if got := parked("ls", "t"); got != "" {
		t.Errorf("before anything is parked: %s", got)
	}
	for _, item := range []string{"a", "b", "c"} {
		s.set("chat", "room", item, `"`+item+`"`)
	}
	s.set("jobs", "eu", "j", "1")
	eventually(t, "all is parked", func() bool { return strings.Count(parked("ls", "--json"), "\n") == 4 })
	list := parked("ls")
	for _, want := range []string{"TRIGGER", "chat/room", "jobs/eu", "create", "connection refused"} {
		if !strings.Contains(list, want) {
			t.Errorf("the list is without %s: %s", want, list)
		}
	}
	id := make(map[string]string) // by item
	for line := range strings.Lines(list) {
		if fields := strings.Fields(line); fields[0] != "TRIGGER" {
			id[fields[3]] = fields[1]
		}
	}
	if got := parked("show", "t", id["a"]); !strings.Contains(got, `"error": `) || !strings.Contains(got, `"data": "a"`) {
		t.Errorf("shown: %s", got)
	}
	parked("drop", "t", id["c"])
	h.start()
	parked("replay", "t", id["a"])
	eventually(t, "one is not parked any more", func() bool { return strings.Count(parked("ls", "t", "--json"), "\n") == 1 })
	parked("replay", "t", "--all")
	eventually(t, "none is parked any more", func() bool { return parked("ls", "t") == "" })
	if got := h.frames("/t", value); !slices.Equal(got, []string{`"a"`, `"b"`}) {
		t.Errorf("told: %v", got)
	}
	parked("drop", "u", "--all")
	if got := parked("ls"); got != "" {
		t.Errorf("left: %s", got)
	}
	for want, args := range map[string][]string{
		"give ids, or --all":             {"items", "parked", "drop", "t"},
		"of t: ":                         {"items", "parked", "replay", "t", id["a"]},
		"say whose subscriptions":        {"items", "revoke"},
		"the context must be JSON":       {"items", "revoke", "--context", "{"},
		"there is no such item or group": {"items", "parked", "show", "t", "none"},
	} {
		if o := s.say("", "", args...); o.code == 0 || !strings.Contains(o.stderr, want) {
			t.Errorf("%v: ended with %d: %s", args, o.code, o.stderr)
		}
	}
}

func TestSubscriptionsAreRevokedFromTheShell(t *testing.T) {
	file := filepath.Join(t.TempDir(), "tokens")
	ops := mustToken(t, "create", "--tokens", file, "ops", "runnel:admin")
	ann := mustToken(t, "create", "--tokens", file, "ann", "runnel:read:chat")
	bob := mustToken(t, "create", "--tokens", file, "bob", "runnel:read:chat")
	s := inMemory(t, "--tokens", file)
	s.must("", "items", "set", "chat", "room", "m", "1", "--token", ops)
	revoke := func(want string, args ...string) {
		t.Helper()
		got := s.must("", append([]string{"items", "revoke", "--token", ops}, args...)...)
		if strings.TrimSpace(got) != `{"revoked":`+want+`}` {
			t.Errorf("revoke %v: %s", args, got)
		}
	}
	anns, bobs := s.socket("/stream/chat/room?token="+ann), s.socket("/stream/chat/room?token="+bob)
	anns.next("sync")
	bobs.next("sync")
	events := s.open(http.MethodGet, "room", "?offset=-1&live=sse", "Authorization", "Bearer "+ann)
	until(t, events, `"value":1`)
	revoke("0", "chat", "attic")
	revoke("2", "--subject", "ann", "--message", "bye")
	if f := anns.next("unauthorized"); !strings.Contains(f, "bye") {
		t.Errorf("told %s", f)
	}
	if _, err := io.ReadAll(events.Body); err != nil {
		t.Errorf("the events did not end well: %v", err)
	}
	revoke("1", "chat", "room", "--subscription", "url")
	bobs.next("unauthorized")
	if o := s.say("", "", "items", "revoke", "chat", "--token", ann); o.code == 0 || !strings.Contains(o.stderr, "runnel:admin:chat") {
		t.Errorf("by who may not: %d %s", o.code, o.stderr)
	}
}

func TestATriggerOfTheServerIsToldOfWhatIsSent(t *testing.T) {
	h := newHandler(t)
	h.start()
	s := serve(t, nil, kept(t, "--items-triggers", triggerFileOf(t, "name: t, stream: chat, events: [event], when: 'event_type == \"typing\"', url: '"+h.url+"/t'"))...)
	s.must("", "items", "send", "chat", "room", "other", `0`)
	s.must("", "items", "send", "chat", "room", "typing", `{"who":"ann"}`)
	eventually(t, "the handler is told", func() bool { return len(h.told("/t")) == 1 })
	if got := string(h.told("/t")[0].Body); !strings.Contains(got, `"event":{"type":"typing","data":{"who":"ann"}}`) {
		t.Errorf("told: %s", got)
	}
}

// Targets inside a network are refused when the server starts, if their text says so, and otherwise when they
// are connected to.
func TestURLsOfItemsAreThoseThatWebhooksMayHave(t *testing.T) {
	for _, c := range []struct{ want, flag, url string }{
		{"items-connect-url", "--items-connect-url", "http://127.0.0.1:1/"},
		{"items-join-url", "--items-join-url", "http://auth.example.com/"},
		{"items-leave-url", "--items-leave-url", "https://169.254.169.254/"},
		{"trigger t", "--items-triggers", triggerFileOf(t, "name: t, stream: chat, url: 'https://10.0.0.1/'")},
		{"trigger t", "--items-triggers", triggerFileOf(t, "name: t, stream: chat, url: 'ftp://example.com/'")},
		{"trigger t", "--items-triggers", triggerFileOf(t, "name: t, events: [join, update], url: 'https://example.com/'")},
		{"trigger t", "--items-triggers", triggerFileOf(t, "name: t, events: [sometimes], stream: chat, url: 'https://example.com/'")},
		{"trigger t", "--items-triggers", triggerFileOf(t, "name: t, stream: chat, when: 'group', url: 'https://example.com/'")},
		{"name of its own", "--items-triggers", triggerFileOf(t, "name: join-leave-url, stream: chat, url: 'https://example.com/'")},
	} {
		o := runnelIn(t, nil, nil, "serve", "--driver", "memory", "--addr", "127.0.0.1:0", c.flag, c.url)
		if o.code != 1 || !strings.Contains(o.stderr, c.want) {
			t.Errorf("%s %s: ended with %d: %s", c.flag, c.url, o.code, o.stderr)
		}
	}
}

// The server is killed while it has subscribers: each leave is told by the next one, once, and those of
// subscriptions that end well are told while it runs.
func TestLeavesAreToldThoughTheServerIsKilled(t *testing.T) {
	h := newHandler(t)
	h.start()
	args := kept(t, "--items-triggers", triggerFileOf(t,
		"name: guard, events: [join], stream: chat, group: secret, url: '"+h.url+"/guard?answer=%7B%22unauthorized%22:true%7D'",
		"name: door, events: [join, leave], stream: chat, url: '"+h.url+"/door?answer=%7B%7D'",
	))
	s := serve(t, nil, args...)
	c := s.socket("/v1/items/")
	for _, id := range []string{"a", "b", "c"} {
		c.send(`{"type":"join","data":{"subscriptionId":"` + id + `","streamName":"chat","groupId":"room"}}`)
		c.next("sync")
	}
	c.send(`{"type":"join","data":{"subscriptionId":"x","streamName":"chat","groupId":"secret"}}`)
	c.next("unauthorized")
	c.send(`{"type":"join","data":{"subscriptionId":"y","streamName":"chat","groupPrefix":""}}`) // the secret is part of it
	c.next("unauthorized")
	c.send(`{"type":"leave","data":{"subscriptionId":"a","streamName":"chat","groupId":"room"}}`)
	of := func(kind string) (ids []string) {
		for _, one := range h.told("/door") {
			var sub struct {
				Type string `json:"type"`
				ID   string `json:"subscription_id"`
			}
			if err := json.Unmarshal(one.Body, &sub); err != nil {
				t.Fatal(err)
			}
			if sub.Type == kind {
				ids = append(ids, sub.ID)
			}
		}
		slices.Sort(ids)
		return slices.Compact(ids)
	}
	eventually(t, "a leave is told", func() bool { return slices.Equal(of("leave"), []string{"a"}) })
	s.kill()
	s = serve(t, nil, args...)
	eventually(t, "the leaves of the server that was killed are told", func() bool { return slices.Equal(of("leave"), []string{"a", "b", "c"}) })
	if joined := of("join"); !slices.Equal(joined, []string{"a", "b", "c"}) {
		t.Errorf("joined: %v", joined)
	}
	s.stop()
}

// A member of a group is shown for as long as its connection lives, and not for ever after the server was killed.
func TestPresenceHealsAfterTheServerIsKilled(t *testing.T) {
	args := kept(t, "--items-presence-ttl", "1s")
	s := serve(t, nil, args...)
	members := func() string {
		_, body := s.request(http.MethodPost, "/v1/items/call/list", `{"stream_name":"chat/presence","group_id":"room"}`)
		return body
	}
	join := func(who string) *socket {
		c := s.socket("/v1/items/")
		c.send(`{"type":"join","data":{"subscriptionId":"s","streamName":"chat","groupId":"room","presence":"` + who + `"}}`)
		c.next("sync")
		eventually(t, who+" is shown", func() bool { return strings.Contains(members(), who) })
		return c
	}
	join("ann")
	bob := join("bob")
	_ = bob.ws.Close(websocket.StatusNormalClosure, "")
	eventually(t, "bob is gone", func() bool { return !strings.Contains(members(), "bob") })
	if !strings.Contains(members(), "ann") {
		t.Errorf("ann is gone too: %s", members())
	}
	s.kill()
	s = serve(t, nil, args...)
	w := s.socket("/stream/chat%2Fpresence/room")
	join("eve")
	eventually(t, "only eve is shown", func() bool { got := members(); return strings.Contains(got, "eve") && !strings.Contains(got, "ann") })
	if f := w.next("delete", "sync"); strings.Contains(f, `"delete"`) && !strings.Contains(f, "ann") {
		t.Errorf("who watches is told %s", f)
	}
}

// What the auth function is asked, what becomes of its answer, and that whatever goes wrong is a refusal.
func TestTheAuthFunctionDecides(t *testing.T) {
	h := newHandler(t)
	s := serve(t, nil, kept(t, "--items-hook-timeout", "1s", "--items-connect-url", h.url+"/auth?answer=%7B%22context%22:%7B%22user%22:%22ann%22%7D%7D",
		"--items-join-url", h.url+"/join?answer=%7B%7D", "--items-leave-url", h.url+"/leave")...)
	dial := func() (*websocket.Conn, *http.Response, error) {
		return websocket.Dial(t.Context(), s.url+"/stream/chat/room?room=a%20b&room=c", &websocket.DialOptions{
			HTTPHeader: http.Header{"X-User": {"ann"}, "Authorization": {"Bearer secret"}},
		})
	}
	refused := func(what string) {
		t.Helper()
		ws, resp, err := dial() //nolint:bodyclose // the library has read it
		if err == nil {
			_ = ws.CloseNow()
			t.Fatalf("an auth function that %s lets in", what)
		}
		if resp.StatusCode != http.StatusUnauthorized {
			t.Errorf("an auth function that %s: %d", what, resp.StatusCode)
		}
	}
	refused("is down")
	h.start()
	ws, _, err := dial() //nolint:bodyclose // the library has read it
	if err != nil {
		t.Fatal(err)
	}
	c := &socket{t, ws}
	c.next("sync")
	var asked struct {
		Headers map[string]string   `json:"headers"`
		Path    string              `json:"path"`
		Query   map[string][]string `json:"query_params"`
		Addr    string              `json:"addr"`
	}
	if err := json.Unmarshal(h.first("/auth").Body, &asked); err != nil {
		t.Fatal(err)
	}
	if asked.Headers["x-user"] != "ann" || asked.Headers["authorization"] != "Bearer secret" || asked.Path != "/stream/chat/room" ||
		!slices.Equal(asked.Query["room"], []string{"a b", "c"}) || !strings.HasPrefix(asked.Addr, "127.0.0.1:") {
		t.Errorf("asked with %+v", asked)
	}
	if got := string(h.first("/join").Body); !strings.Contains(got, `"context":{"user":"ann"}`) || !strings.Contains(got, `"type":"join"`) {
		t.Errorf("the join is asked for with %s", got)
	}
	if code, body := s.request(http.MethodPost, "/v1/items/call/revoke", `{"context":{"user":"ann"},"message":"banned"}`); code != 200 || body != `{"revoked":1}` {
		t.Errorf("revoke: %d %s", code, body)
	}
	if f := c.next("unauthorized"); !strings.Contains(f, "banned") {
		t.Errorf("%s", f)
	}
	eventually(t, "the leave is told", func() bool { return len(h.told("/leave")) == 1 })
	h.freeze()
	refused("is frozen")
	h.thaw()
	for _, answer := range []string{"", "no", `[]`, `{"context":`, `{"expires_in":"soon"}`} {
		u := h.url + "/auth?answer=" + strings.NewReplacer("{", "%7B", "}", "%7D", `"`, "%22").Replace(answer)
		s = serve(t, nil, kept(t, "--items-connect-url", u)...)
		refused("answers " + answer)
		s.kill()
	}
	s = serve(t, nil, kept(t, "--items-connect-url", h.url+"/auth?answer=%7B%22expires_in%22:0.5%7D")...)
	c = s.socket("/stream/chat/room")
	c.next("unauthorized")
}

// The scopes of a token hold for what is written, read, sent and followed, of a stream, a group and an item; and
// a subscription ends with the token that it was made with.
func TestScopesHoldForItems(t *testing.T) {
	file := filepath.Join(t.TempDir(), "tokens")
	admin := mustToken(t, "create", "--tokens", file, "ops", "runnel:admin")
	ann := mustToken(t, "create", "--tokens", file, "ann", "runnel:read:chat/room", "runnel:write:chat/room#m1", "runnel:send:chat/room")
	s := inMemory(t, "--tokens", file)
	call := func(token, name, input string) int {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.url+"/v1/items/call/"+name, strings.NewReader(input))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+token)
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	if code := call(admin, "set", `{"stream_name":"chat","group_id":"room","item_id":"m1","data":1}`); code != 200 {
		t.Fatalf("set: %d", code)
	}
	for _, c := range []struct {
		name, input string
		status      int
	}{
		{"get", `{"stream_name":"chat","group_id":"room","item_id":"m1"}`, 200},
		{"list", `{"stream_name":"chat","group_id":"room"}`, 200},
		{"list", `{"stream_name":"chat","group_id":"attic"}`, 403},
		{"set", `{"stream_name":"chat","group_id":"room","item_id":"m1","data":2}`, 200},
		{"update", `{"stream_name":"chat","group_id":"room","item_id":"m1","ops":[]}`, 200},
		{"set", `{"stream_name":"chat","group_id":"room","item_id":"m2","data":2}`, 403},
		{"delete", `{"stream_name":"chat","group_id":"room","item_id":"m2"}`, 403},
		{"send", `{"stream_name":"chat","group_id":"room","type":"t","data":2}`, 200},
		{"send", `{"stream_name":"chat","group_id":"attic","type":"t","data":2}`, 403},
		{"revoke", `{"stream_name":"chat"}`, 403},
		{"revoke", `{"context":{}}`, 403},
	} {
		if code := call(ann, c.name, c.input); code != c.status {
			t.Errorf("%s %s: %d, not %d", c.name, c.input, code, c.status)
		}
	}
	c := s.socket("/stream/chat/room?token=" + ann)
	c.next("sync")
	for _, more := range []string{`"groupId":"attic"`, `"groupPrefix":""`, `"groupPrefix":"room"`} {
		c.send(`{"type":"join","data":{"subscriptionId":"no","streamName":"chat",` + more + `}}`)
		c.next("unauthorized")
	}
	mustToken(t, "revoke", "--tokens", file, "--subject", "ann")
	c.next("unauthorized")
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	if _, _, err := c.ws.Read(ctx); websocket.CloseStatus(err) != websocket.StatusPolicyViolation {
		t.Errorf("then: %v", err)
	}
}
