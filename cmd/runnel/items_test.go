package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/coder/websocket"
)

func TestItemsFromTheShell(t *testing.T) {
	s := inMemory(t)
	in := func(args ...string) string {
		return strings.TrimSpace(s.must("", append([]string{"items"}, args...)...))
	}
	if got := in("set", "chat", "room", "m1", `{"n":1}`, "--if-absent"); !strings.Contains(got, `"version":1`) {
		t.Errorf("set: %s", got)
	}
	in("update", "chat", "room", "m1", `[{"type":"increment","path":"n","by":1}]`)
	in("set", "chat", "room", "m/2", `2`)
	for want, names := range map[string][]string{
		`{"n":2}`:                          {"chat", "room", "m1"},
		`2`:                                {"chat", "room", "m/2"},
		`{"groups":["room"],"next":null}`:  {"chat"},
		`{"streams":["chat"],"next":null}`: {},
	} {
		if got := in(append([]string{"get"}, names...)...); got != want {
			t.Errorf("get %v: %s", names, got)
		}
	}
	in("send", "chat", "room", "typing", `{"who":"ann"}`)
	in("rm", "chat", "room", "m1")
	in("rm", "chat")
	if got := in("get"); got != `{"streams":[],"next":null}` {
		t.Errorf("there is %s", got)
	}
}

func TestItemsThatWereAcknowledgedSurviveAKill(t *testing.T) {
	args := []string{"--addr", "127.0.0.1:0", "--data", t.TempDir()}
	s := serve(t, nil, args...)
	for i := range 20 {
		s.must("", "items", "set", "chat", "room", fmt.Sprint("m", i), fmt.Sprint(i))
	}
	s.kill()
	s = serve(t, nil, args...)
	for i := range 20 {
		if status, body := get(t, s.url+fmt.Sprint("/v1/items/chat/room/m", i)); status != 200 || body != fmt.Sprint(i) {
			t.Errorf("m%d: %d %s", i, status, body)
		}
	}
}

func TestAHookThatIsDownRefuses(t *testing.T) {
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	s := inMemory(t, "--items-connect-url", gone.URL, "--webhook-allow", "127.0.0.1")
	if _, resp, err := websocket.Dial(t.Context(), s.url+"/stream/chat/room", nil); err == nil || resp.StatusCode != http.StatusUnauthorized { //nolint:bodyclose // the library has read it
		t.Errorf("%v", err)
	}
	s = inMemory(t, "--items-join-url", gone.URL, "--webhook-allow", "127.0.0.1")
	ws, _, err := websocket.Dial(t.Context(), s.url+"/stream/chat/room", nil) //nolint:bodyclose // the library has read it
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ws.CloseNow() }()
	if _, frame, err := ws.Read(t.Context()); err != nil || !strings.Contains(string(frame), `"unauthorized"`) {
		t.Errorf("%s, %v", frame, err)
	}
}

// A trigger goes on after its handler failed and the server was killed.
func TestATriggerSurvivesItsHandlerAndTheServer(t *testing.T) {
	var mu sync.Mutex
	broken := true
	seen := make(map[string]string)
	hook := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if broken {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		var e struct {
			ID    string `json:"id"`
			Event struct {
				Data json.RawMessage `json:"data"`
			} `json:"event"`
		}
		body, _ := io.ReadAll(r.Body)
		if json.Unmarshal(body, &e) != nil || r.Header.Get("Runnel-Event-Key") == "" || !strings.HasPrefix(r.Header.Get("Runnel-Signature"), "t=") {
			t.Errorf("%s %v", body, r.Header)
		}
		seen[e.ID] = string(e.Event.Data)
	}))
	defer hook.Close()
	file := filepath.Join(t.TempDir(), "triggers.yaml")
	if err := os.WriteFile(file, []byte("triggers:\n  - name: t\n    stream: chat\n    when: value > 0\n    url: "+hook.URL+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	args := []string{"--addr", "127.0.0.1:0", "--data", t.TempDir(), "--items-triggers", file, "--items-hook-secret", "secret", "--webhook-allow", "127.0.0.1"}
	s := serve(t, nil, args...)
	eventually(t, "the trigger begins", func() bool {
		status, _ := get(t, s.url+"/v1/items/")
		return status == 200
	})
	s.must("", "items", "set", "chat", "room", "zero", "0")
	s.must("", "items", "set", "chat", "room", "one", "1")
	s.kill()
	mu.Lock()
	broken = false
	mu.Unlock()
	s = serve(t, nil, args...)
	s.must("", "items", "set", "chat", "room", "two", "2")
	eventually(t, "the handler is told", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return seen["two"] == "2" && seen["one"] == "1" && len(seen) == 2
	})
	s.stop()
}

func TestAGroupIsCompactedFromTheShell(t *testing.T) {
	s := serve(t, nil, kept(t)...)
	for i := range 5 {
		s.must("", "items", "set", "chat", "room", "a", fmt.Sprint(i))
	}
	for range 2 {
		if out := s.must("", "items", "compact", "chat", "room"); strings.TrimSpace(out) != `{"kept":1,"tail":5}` {
			t.Errorf("compact: %s", out)
		}
	}
	if out := s.must("", "items", "get", "chat", "room", "a"); strings.TrimSpace(out) != "4" {
		t.Errorf("the item is %s", out)
	}
	if _, body := s.request(http.MethodGet, "/v1/stream/chat/room?offset=-1", ""); strings.Count(body, `"operation":"insert"`) != 1 || !strings.Contains(body, `4`) {
		t.Errorf("who begins is given %s", body)
	}
}
