package main

import (
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/coder/websocket"

	"github.com/runnelhq/runnel/items"
	"github.com/runnelhq/runnel/session"
)

// reply is an answer to a page.
type reply struct {
	status int
	header http.Header
	body   string
}

// page asks as a page of an origin does, under a name of the server.
func (s *server) page(method, path, host, origin string, header ...string) reply {
	s.t.Helper()
	r, err := http.NewRequestWithContext(s.t.Context(), method, s.url+path, http.NoBody)
	if err != nil {
		s.t.Fatal(err)
	}
	if host != "" {
		r.Host = host
	}
	if origin != "" {
		r.Header.Set("Origin", origin)
	}
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil {
		s.t.Fatal(err)
	}
	return reply{status: resp.StatusCode, header: resp.Header, body: string(body)}
}

func TestAServerWithoutTokensIsNotForThePagesOfStrangers(t *testing.T) {
	s := inMemory(t)
	_, port, err := net.SplitHostPort(strings.TrimPrefix(s.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	s.must("", "create", "a")
	for _, c := range []struct {
		host, origin string
		welcome      bool
	}{
		{"", "", true}, // no page
		{"localhost:" + port, "http://localhost:" + port, true},
		{"", "http://localhost:3000", true}, // a page that somebody develops
		{"", "http://app.localhost:3000", true},
		{"", "https://127.0.0.2", true},
		{"", "http://[::1]:8080", true},
		{"[::1]:" + port, "", true},
		{"LOCALHOST:" + port, "", true},
		{"", "https://evil.example", false},
		{"", "http://localhost.evil.example", false},
		{"", "http://127.0.0.1.evil.example", false},
		{"", "null", false},
		{"", "file://", false},
		// A name that was pointed at this machine.
		{"evil.example:" + port, "", false},
		{"evil.example:" + port, "http://evil.example:" + port, false},
		{"localhost.evil.example", "", false},
		{"192.0.2.1:" + port, "", false},
	} {
		for _, path := range []string{"/v1/stream/a", "/v1/stream/", "/v1/items/s/g", "/v1/session"} {
			if resp := s.page(http.MethodGet, path, c.host, c.origin); (resp.status != http.StatusForbidden) != c.welcome {
				t.Errorf("%+v: %s: %d", c, path, resp.status)
			}
		}
		preflight := s.page(http.MethodOptions, "/v1/stream/a", c.host, c.origin, "Access-Control-Request-Method", "POST")
		if allowed := preflight.header.Get("Access-Control-Allow-Origin") != ""; allowed != c.welcome {
			t.Errorf("%+v: the preflight was answered %d, %v", c, preflight.status, preflight.header)
		}
		if resp := s.page(http.MethodGet, "/healthz", c.host, c.origin); resp.status != http.StatusOK {
			t.Errorf("%+v: the health check was answered %d", c, resp.status)
		}
	}
	for _, path := range []string{session.Path, items.DefaultPrefix + "s/g"} {
		_, resp, err := websocket.Dial(t.Context(), s.url+path, &websocket.DialOptions{ //nolint:bodyclose // Dial has read it
			Subprotocols: []string{session.Subprotocol}, HTTPHeader: http.Header{"Origin": {"https://evil.example"}},
		})
		if err == nil || resp.StatusCode != http.StatusForbidden {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func TestWhosePagesAreWelcomeIsASetting(t *testing.T) {
	for _, c := range []struct {
		args             []string
		host, origin     string
		welcome, browser bool // is answered; may be read by the page
	}{
		{[]string{"--allow-origin", "https://app.example"}, "", "https://app.example", true, true},
		{[]string{"--allow-origin", "https://app.example"}, "", "http://localhost:3000", false, false},
		{[]string{"--allow-origin", "*"}, "", "https://app.example", true, true},
		{[]string{"--base-url", "https://log.example"}, "log.example", "", true, true},
		{[]string{"--base-url", "https://log.example"}, "log.example", "https://log.example", true, true},
		{[]string{"--base-url", "https://log.example"}, "evil.example", "", false, false},
		{[]string{"--base-url", "https://log.example"}, "log.example", "https://app.example", false, false},
		{[]string{"--open"}, "anything.example", "https://app.example", true, true},
		{[]string{"--jwt-secret", testSecret}, "anything.example", "https://app.example", true, true}, // but for the token
	} {
		s := inMemory(t, c.args...)
		resp := s.page(http.MethodGet, "/v1/stream/a", c.host, c.origin)
		if welcome, browser := resp.status != http.StatusForbidden, resp.header.Get("Access-Control-Allow-Origin") != ""; welcome != c.welcome || browser != c.browser && c.origin != "" {
			t.Errorf("%+v: %+v", c, resp)
		}
		s.stop()
	}
}
