package session_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/coder/websocket"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/session"
	"github.com/runnelhq/runnel/wire"
)

// refusal is the answer to whoever gets no connection.
type refusal struct {
	status int
	header http.Header
	detail wire.Detail
}

// connection is one that asks for nothing.
type connection struct {
	*websocket.Conn
	ended chan error // has room for what it ends with
}

// open opens a connection in the name of a caller, or returns what that is refused with.
func open(t *testing.T, url, caller string) (*connection, *refusal) {
	t.Helper()
	ws, resp, err := websocket.Dial(t.Context(), url, &websocket.DialOptions{ //nolint:bodyclose // Dial has read it
		Subprotocols: []string{session.Subprotocol}, HTTPHeader: http.Header{"Caller": {caller}},
	})
	if err != nil {
		var body wire.Body
		must(t, json.NewDecoder(resp.Body).Decode(&body))
		return nil, &refusal{resp.StatusCode, resp.Header, body.Error}
	}
	c := &connection{Conn: ws, ended: make(chan error, 1)}
	t.Cleanup(func() { _ = ws.CloseNow() })
	go func() {
		var err error
		for err == nil { // and the end is answered
			_, _, err = ws.Read(context.Background())
		}
		c.ended <- err
	}()
	return c, nil
}

type callerKey struct{}

// byCaller puts the name of the caller into the context of a request.
func byCaller(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), callerKey{}, r.Header.Get("Caller"))))
	})
}

func TestMoreConnectionsThanTheLimitAreRefusedWithTheNumber(t *testing.T) {
	w := newWorld(t, session.Config{}, session.ClientConfig{})
	h := session.NewHandler(w.log, session.Config{
		MaxConnections: 3, MaxConnectionsEach: 2,
		Caller: func(ctx context.Context) string { name, _ := ctx.Value(callerKey{}).(string); return name },
	})
	server := httptest.NewServer(byCaller(h))
	defer server.Close()
	defer func() { must(t, h.Shutdown(context.Background())) }()
	refused := func(caller string, status int, limit int64, says string) {
		t.Helper()
		_, r := open(t, server.URL, caller)
		if r == nil {
			t.Fatalf("%s: there are more than %d", caller, limit)
		}
		if r.status != status || r.detail.Limit != limit || !strings.Contains(r.detail.Message, says) || r.header.Get("Retry-After") == "" {
			t.Errorf("%s: %+v", caller, r)
		}
	}
	one, _ := open(t, server.URL, "a")
	if ws, _ := open(t, server.URL, "a"); one == nil || ws == nil {
		t.Fatal("two are not too many")
	}
	refused("a", http.StatusTooManyRequests, 2, `"a" has 2 sessions`)
	if ws, _ := open(t, server.URL, "b"); ws == nil {
		t.Fatal("the limit for one caller has kept out another one")
	}
	refused("c", http.StatusServiceUnavailable, 3, "the server has 3 sessions")
	must(t, one.Close(websocket.StatusNormalClosure, ""))
	eventually(t, "a place is free again", func() bool {
		ws, _ := open(t, server.URL, "a")
		return ws != nil
	})
}

func TestAConnectionIsClosedWithTheReasonWhenItsCallerMayNotBeServedAnyMore(t *testing.T) {
	w := newWorld(t, session.Config{}, session.ClientConfig{})
	w.fill(1)
	revoked, revoke := context.WithCancelCause(context.Background())
	h := session.NewHandler(w.log, session.Config{Bind: func(ctx context.Context) (context.Context, context.CancelFunc) {
		bound, cancel := context.WithCancelCause(ctx)
		stop := context.AfterFunc(revoked, func() { cancel(context.Cause(revoked)) })
		return bound, func() { stop(); cancel(nil) }
	}})
	server := httptest.NewServer(h)
	defer server.Close()
	defer func() { must(t, h.Shutdown(context.Background())) }()
	c, err := session.Dial(t.Context(), server.URL, session.ClientConfig{})
	must(t, err)
	defer c.Close()
	idle, _ := open(t, server.URL, "")

	// A write that is under way is answered before the connection ends.
	w.log.hold = make(chan struct{})
	before := w.log.appends.Load()
	under := make(chan error, 1)
	go func() {
		_, err := c.Append(t.Context(), segment, runnel.AppendOptions{}, runnel.Record{Payload: []byte("under way")})
		under <- err
	}()
	eventually(t, "a write is under way", func() bool { return w.log.appends.Load() > before })
	revoke(&runnel.UnauthorizedError{Reason: "has been revoked"})
	err = <-idle.ended
	var closed websocket.CloseError
	if !errors.As(err, &closed) || closed.Code != websocket.StatusPolicyViolation || closed.Reason != "runnel: unauthorized: the token has been revoked" {
		t.Errorf("the connection ended with %v", err)
	}
	eventually(t, "what begins then is refused", func() bool { // each connection is told by itself
		_, err := c.Stat(t.Context(), segment)
		return errors.Is(err, runnel.ErrUnauthorized)
	})
	close(w.log.hold)
	must(t, <-under)
}

func TestWhatCanBeWrittenCanBeRead(t *testing.T) {
	const limit = 1 << 20
	w := newWorld(t, session.Config{MaxMessageBytes: limit}, session.ClientConfig{StreamBytes: 64 << 10})
	n := 0
	for below := range 300 { // through where the first one fits
		payload := bytes.Repeat([]byte{byte(below)}, limit-below)
		_, err := w.client.Append(t.Context(), segment, runnel.AppendOptions{Create: &runnel.CreateOptions{}}, runnel.Record{Payload: payload})
		if errors.Is(err, runnel.ErrTooLarge) {
			continue
		}
		must(t, err)
		if n++; n == 3 {
			break
		}
		last, err := w.client.Peek(t.Context(), segment)
		must(t, err)
		if !bytes.Equal(last.Payload, payload) {
			t.Fatalf("%d bytes below the limit: %d of %d are read", below, len(last.Payload), len(payload))
		}
	}
	got := 0
	for b, err := range w.client.Query(t.Context(), query(false)) {
		must(t, err)
		got += b.Len()
	}
	if n != 3 || got != 3 || w.link.Accepted() != 1 {
		t.Errorf("%d were written, %d read, over %d connections", n, got, w.link.Accepted())
	}
}
