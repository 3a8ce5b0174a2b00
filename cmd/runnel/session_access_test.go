package main

import (
	"context"
	"errors"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/client"
	"github.com/runnelhq/runnel/session"
)

// dial opens a session as whoever has a token.
func (s *server) dial(token string) (*client.Client, error) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), within)
	defer cancel()
	c, err := client.Dial(ctx, s.url, client.Config{Token: func(context.Context) (string, error) { return token, nil }})
	if err == nil {
		s.t.Cleanup(func() { c.Close() })
	}
	return c, err
}

func TestASessionIsForWhoHasATokenAndDoesWhatThatAllows(t *testing.T) {
	file := filepath.Join(t.TempDir(), "tokens")
	admin := mustToken(t, "create", "--tokens", file, "ops", "runnel:admin@*")
	reader := mustToken(t, "create", "--tokens", file, "web", "runnel:read:chats")
	s := inMemory(t, "--tokens", file)
	for token, want := range map[string]string{
		"": "runnel: unauthorized: a token is needed", "rnl_x": "runnel: unauthorized: the token is not known, or has been revoked", "x": "runnel: unauthorized: the token is of no kind that is known here",
	} {
		begin := time.Now()
		_, err := s.dial(token)
		if unauthorized, ok := errors.AsType[*runnel.UnauthorizedError](err); !ok || unauthorized.Error() != want {
			t.Errorf("%q: %v", token, err)
		}
		if took := time.Since(begin); took > time.Second {
			t.Errorf("%q: the refusal took %s", token, took)
		}
	}
	root, err := s.dial(admin)
	if err != nil {
		t.Fatal(err)
	}
	web, err := s.dial(reader)
	if err != nil {
		t.Fatal(err)
	}
	room := runnel.Segment{Space: "chats", Name: "42"}
	if _, err := root.Publish(t.Context(), room, runnel.Record{Payload: []byte("x")}); err != nil {
		t.Fatal(err)
	}
	_, err = web.Publish(t.Context(), room, runnel.Record{})
	if forbidden, ok := errors.AsType[*runnel.ForbiddenError](err); !ok || forbidden.Scope != "runnel:write:chats/42" || forbidden.What != "segment chats/42" {
		t.Errorf("%v", err)
	}
	if _, err := web.Peek(t.Context(), runnel.Segment{Store: runnel.Store{1}, Space: "chats", Name: "42"}); !errors.Is(err, runnel.ErrForbidden) {
		t.Errorf("another store: %v", err)
	}
	lease, err := root.AcquireLease(t.Context(), room.In(), runnel.LeaseRequest{Key: "k", Holder: "h", TTL: time.Minute, Metadata: map[string]string{runnel.LeaseSubject: "web"}})
	if err != nil || lease.Metadata[runnel.LeaseSubject] != "ops" {
		t.Errorf("%+v, %v", lease, err)
	}
	revoked := false
	for _, err = range web.Tail(t.Context(), client.Segment(room, 0)) {
		if err != nil {
			break
		}
		mustToken(t, "revoke", "--tokens", file, "--subject", "web")
		revoked = true
	}
	if !revoked || !errors.Is(err, runnel.ErrUnauthorized) {
		t.Errorf("the tail ended with %v", err)
	}
	if _, err := web.Peek(t.Context(), room); !errors.Is(err, runnel.ErrUnauthorized) {
		t.Errorf("on an open connection: %v", err)
	}
	if _, err := root.Peek(t.Context(), room); err != nil {
		t.Errorf("who was not revoked: %v", err)
	}
}

func TestABrowserBringsTheTokenOfASessionAsASubprotocol(t *testing.T) {
	file := filepath.Join(t.TempDir(), "tokens")
	token := mustToken(t, "create", "--tokens", file, "web", "runnel:read")
	s := inMemory(t, "--tokens", file, "--log-level", "debug")
	open := func(query, origin string, protocols ...string) (status int, protocol string) {
		t.Helper()
		header := http.Header{}
		if origin != "" {
			header.Set("Origin", origin)
		}
		ws, resp, err := websocket.Dial(t.Context(), s.url+session.Path+query, &websocket.DialOptions{Subprotocols: protocols, HTTPHeader: header}) //nolint:bodyclose // Dial has read it
		if err != nil {
			return resp.StatusCode, ""
		}
		defer func() { _ = ws.CloseNow() }()
		return resp.StatusCode, ws.Subprotocol()
	}
	for _, c := range []struct {
		query, origin string
		protocols     []string
		status        int
	}{
		{"", "", []string{session.Subprotocol, "runnel.bearer." + token}, 101},
		{"", "", []string{"runnel.bearer." + token, session.Subprotocol}, 101},
		{"?token=" + token, "", []string{session.Subprotocol}, 101},
		{"?token=" + token, s.url, []string{session.Subprotocol}, 101},
		{"", "", []string{session.Subprotocol}, 401},
		{"", "", []string{session.Subprotocol, "runnel.bearer.x"}, 401},
		{"", "", []string{session.Subprotocol, "Authorization", token}, 101},
		{"", "", []string{"Authorization", token, session.Subprotocol}, 101},
		{"", "", []string{session.Subprotocol, "Authorization", "x"}, 401},
		{"", "", []string{session.Subprotocol, "Authorization"}, 401},
		{"?token=" + token, "", []string{session.Subprotocol, "runnel.bearer." + token}, 400},
		{"?token=" + token, "https://evil.example", []string{session.Subprotocol}, 403},
		{"?token=" + token, "null", []string{session.Subprotocol}, 403},
		{"", "https://evil.example", []string{session.Subprotocol}, 401},
	} {
		status, protocol := open(c.query, c.origin, c.protocols...)
		if status != c.status || status == 101 && protocol != session.Subprotocol {
			t.Errorf("%+v: %d %q", c, status, protocol)
		}
	}
	if s.stop(); strings.Contains(s.stderr.String(), token) {
		t.Errorf("the log shows the token\n%s", s.stderr)
	}
}
