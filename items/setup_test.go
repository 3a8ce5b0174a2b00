package items_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/runnelhq/runnel/items"
)

// server is a handler on a port of its own.
type server struct {
	t   *testing.T
	log *fakeLog
	*httptest.Server
}

func serve(t *testing.T, cfg items.Config) *server {
	t.Helper()
	log := newFake()
	s := serveHandler(t, items.New(log, cfg))
	s.log = log
	return s
}

func serveHandler(t *testing.T, h *items.Handler) *server {
	t.Helper()
	s := &server{t: t, Server: httptest.NewServer(h)}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := h.Shutdown(ctx); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
		s.Close()
	})
	return s
}

// answer is what came back.
type answer struct {
	status int
	header http.Header
	body   string
}

func (s *server) do(method, path, body string, header ...string) answer {
	s.t.Helper()
	r, err := http.NewRequestWithContext(s.t.Context(), method, s.URL+path, strings.NewReader(body))
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
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return answer{resp.StatusCode, resp.Header, string(b)}
}

// call calls a function, and fails if that does.
func (s *server) call(name, in string) string {
	s.t.Helper()
	a := s.do("POST", "/v1/items/call/stream::"+name, in)
	if a.status/100 != 2 {
		s.t.Fatalf("%s(%s): %d %s", name, in, a.status, a.body)
	}
	return a.body
}

// set sets an item of group room of stream chat.
func (s *server) set(item, value string) {
	s.t.Helper()
	s.call("set", fmt.Sprintf(`{"stream_name":"chat","group_id":"room","item_id":%q,"data":%s}`, item, value))
}

// client is a WebSocket connection.
type client struct {
	t  *testing.T
	ws *websocket.Conn
}

func (s *server) dial(path string, protocols ...string) *client {
	s.t.Helper()
	ws, resp, err := websocket.Dial(s.t.Context(), s.URL+path, &websocket.DialOptions{Subprotocols: protocols})
	if err != nil {
		s.t.Fatalf("dial %s: %v", path, err)
	}
	if resp.Body != nil {
		resp.Body.Close()
	}
	ws.SetReadLimit(-1)
	s.t.Cleanup(func() { _ = ws.CloseNow() })
	return &client{s.t, ws}
}

func (c *client) send(frame string) {
	c.t.Helper()
	if err := c.ws.Write(c.t.Context(), websocket.MessageText, []byte(frame)); err != nil {
		c.t.Fatal(err)
	}
}

func (c *client) join(id, more string) {
	c.t.Helper()
	c.send(fmt.Sprintf(`{"type":"join","data":{"subscriptionId":%q,"streamName":"chat"%s}}`, id, more))
}

const room = `,"groupId":"room"`

type frame struct {
	Type      string  `json:"type"`
	Timestamp int64   `json:"timestamp"`
	Stream    string  `json:"streamName"`
	Group     string  `json:"groupId"`
	ID        *string `json:"id"`
	Event     struct {
		Type  string          `json:"type"`
		Data  json.RawMessage `json:"data"`
		Event json.RawMessage `json:"event"`
	} `json:"event"`
	Subscription string `json:"subscriptionId"`
	Cursor       string `json:"cursor"`
	raw          string
}

// String is what most tests look at: event, id and data.
func (f frame) String() string {
	id := "-"
	if f.ID != nil {
		id = *f.ID
	}
	data := f.Event.Data
	if f.Event.Type == "event" {
		data = f.Event.Event
	}
	return strings.TrimSpace(fmt.Sprintf("%s %s %s", f.Event.Type, id, data))
}

func (c *client) next() frame {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 10*time.Second)
	defer cancel()
	_, b, err := c.ws.Read(ctx)
	if err != nil {
		c.t.Fatalf("no frame: %v", err)
	}
	f := frame{raw: string(b)}
	d := json.NewDecoder(bytes.NewReader(b))
	if err := d.Decode(&f); err != nil {
		c.t.Fatalf("%s: %v", b, err)
	}
	if f.Type != "stream" {
		c.t.Errorf("%s is of another type", b)
	}
	return f
}

func (c *client) want(frames ...string) {
	c.t.Helper()
	for _, want := range frames {
		if got := c.next().String(); got != want {
			c.t.Fatalf("the frame is %s\nwant         %s", got, want)
		}
	}
}
