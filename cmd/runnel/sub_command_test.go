package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/runnelhq/runnel/webhook"
)

// A subscription whose receiver wants nothing more is parked, found, replayed, rewound and dropped from the shell.
func TestSubscriptionsAreLookedAfterFromTheShell(t *testing.T) {
	s := inMemory(t, "--webhook-development")
	var gone atomic.Bool
	gone.Store(true)
	h := newHook(t)
	h.answer = func(*webhook.Notification) (int, string) {
		if gone.Load() {
			return http.StatusGone, ""
		}
		return http.StatusOK, `{"done":true}`
	}
	s.must("", "create", "orders/1")
	create := []string{"sub", "create", "mail", "--pattern", "orders/*", "--webhook", h.URL, "--lease", "5s", "--description", "to whoever ordered"}
	if out := s.must("", create...); out != "" {
		t.Errorf("a creation printed %q", out)
	}
	if o := s.say("", "", create...); o.code != 0 || !strings.Contains(o.stderr, "mail was there already") {
		t.Errorf("ended with %d: %s", o.code, o.stderr)
	}
	s.must("paid", "append", "orders/1")
	eventually(t, "the delivery is parked", func() bool { return strings.Contains(s.must("", "sub", "ls", "--parked"), "mail") })
	if list := s.must("", "sub", "ls"); !strings.Contains(list, "SUBSCRIPTION") || !strings.Contains(list, "parked") || !strings.Contains(list, h.URL) {
		t.Error(list)
	}
	var shown struct {
		Status, Description string
		Streams             []struct {
			Path, LinkType string
			Lag            int
		}
		Failure struct {
			Status int
			Parked bool
		}
	}
	if err := json.Unmarshal([]byte(s.must("", "sub", "show", "mail")), &shown); err != nil {
		t.Fatal(err)
	}
	if shown.Status != "failed" || shown.Description != "to whoever ordered" || !shown.Failure.Parked || shown.Failure.Status != http.StatusGone ||
		len(shown.Streams) != 1 || shown.Streams[0].Path != "orders/1" || shown.Streams[0].Lag != 1 {
		t.Errorf("%+v", shown)
	}
	var cursor cursorLine
	if err := json.Unmarshal([]byte(s.must("", "cursor", "ls", "--json", "orders/1")), &cursor); err != nil {
		t.Fatal(err)
	}
	if cursor.Cursor != "__ds/mail" || cursor.Lag != 1 || cursor.Bytes == nil || *cursor.Bytes != 4 {
		t.Errorf("%+v", cursor)
	}

	gone.Store(false)
	s.must("", "sub", "replay", "mail")
	place := func() string { return strings.TrimSpace(s.must("", "cursor", "get", "orders/1", "__ds/mail")) }
	eventually(t, "it is worked on", func() bool { return place() == "1" })
	h.mu.Lock()
	before := h.generation
	h.mu.Unlock()
	s.must("", "cursor", "set", "--rewind", "orders/1", "__ds/mail", "0")
	eventually(t, "it is worked on again", func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		return h.generation > before
	})
	eventually(t, "the cursor is at the end", func() bool { return place() == "1" })

	gone.Store(true)
	s.must("sent", "append", "orders/1")
	eventually(t, "the next one is parked", func() bool { return strings.Contains(s.must("", "sub", "ls", "--parked", "--json"), `"mail"`) })
	s.must("", "sub", "drop", "mail")
	if got := place(); got != "2" {
		t.Errorf("what was dropped counts as worked on, and the cursor is at %s", got)
	}
	s.must("", "sub", "rm", "mail", "mail")
	if left := s.must("", "sub", "ls"); left != "" {
		t.Error(left)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.failures) > 0 {
		t.Error(h.failures)
	}
}

func TestTheSubCommandSaysWhatIsWrong(t *testing.T) {
	s := inMemory(t)
	s.must("", "sub", "create", "jobs", "--stream", "a", "--wake-stream", "wakes")
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"create", "x"}, exitUsage, "--webhook and --wake-stream"},
		{[]string{"create", "x", "--webhook", "https://example.com", "--wake-stream", "w", "--pattern", "a"}, exitUsage, "--webhook and --wake-stream"},
		{[]string{"create", "x", "--wake-stream", "w"}, exitUsage, "--pattern or --stream"},
		{[]string{"create", "x", "--wake-stream", "w", "--pattern", "a", "--lease", "1ms"}, exitUsage, "between 1s and 10m0s"},
		{[]string{"create", "x", "--wake-stream", "w", "--pattern", "a", "--lease", "soon"}, exitUsage, "lease"},
		{[]string{"create", "x", "--wake-stream", "__ds/w", "--pattern", "a"}, exitFailure, "__ds"},
		{[]string{"create", "x", "--wake-stream", "w", "--stream", "w"}, exitFailure, "each wake would lead to another"},
		{[]string{"create", "x", "--pattern", "a", "--webhook", "https://10.0.0.1/"}, exitFailure, "a private network"},
		{[]string{"create", "x", "--pattern", "a", "--webhook", "http://localhost/"}, exitFailure, "development only"},
		{[]string{"create", "jobs", "--stream", "b", "--wake-stream", "wakes"}, exitFailure, "another configuration"},
		{[]string{"create", strings.Repeat("x", 257), "--stream", "b", "--wake-stream", "wakes"}, exitFailure, "256"},
		{[]string{"show", "none"}, exitFailure, `"none" not found`},
		{[]string{"show"}, exitUsage, "<id>"},
		{[]string{"replay", "none"}, exitFailure, `"none" not found`},
		{[]string{"drop", "none"}, exitFailure, `"none" not found`},
		{[]string{"drop", "jobs"}, exitFailure, "no pending work"},
		{[]string{"rm"}, exitUsage, "<id>"},
	} {
		if o := s.say("", "", append([]string{"sub"}, c.args...)...); o.code != c.code || !strings.Contains(o.stderr, c.want) || o.stdout != "" {
			t.Errorf("sub %s ended with %d, want %d: %s%s", strings.Join(c.args, " "), o.code, c.code, o.stdout, o.stderr)
		}
	}
	if o := s.say("", "", "sub", "ls", "--url", "http://127.0.0.1:1/v1/stream"); o.code != exitFailure || !strings.Contains(o.stderr, "refused") {
		t.Errorf("ended with %d: %s", o.code, o.stderr)
	}
}

func TestMetricsAreForWhoMayReadEverything(t *testing.T) {
	file := filepath.Join(t.TempDir(), "tokens")
	admin := mustToken(t, "create", "--tokens", file, "ops", "runnel:admin")
	scraper := mustToken(t, "create", "--tokens", file, "prometheus", "runnel:read@*")
	s := serve(t, []string{"RUNNEL_TOKENS=" + file}, "--addr", "127.0.0.1:0", "--driver", "memory")
	fetch := func(token string) (int, string) {
		r := httptest.NewRequest(http.MethodGet, s.url+"/metrics", nil).WithContext(t.Context())
		r.RequestURI = ""
		if token != "" {
			r.Header.Set("Authorization", "Bearer "+token)
		}
		resp, err := new(http.Client).Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		var body strings.Builder
		if err := resp.Write(&body); err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, body.String()
	}
	if code, body := fetch(""); code != http.StatusUnauthorized {
		t.Error(code, body)
	}
	if code, body := fetch(admin); code != http.StatusForbidden || !strings.Contains(body, "runnel:read@*") {
		t.Error(code, body)
	}
	code, body := fetch(scraper)
	for _, want := range []string{"runnel_webhook_attempts_total", "runnel_webhook_waiting", "go_goroutines"} {
		if code != http.StatusOK || !strings.Contains(body, want) {
			t.Errorf("%d, and no %s in\n%s", code, want, body)
		}
	}
}
