package items_test

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/runnelhq/runnel/items"
)

// byUser gives a connection its query parameter user as its context.
func byUser(_ context.Context, shake items.Handshake) (items.Admission, error) {
	user, err := json.Marshal(map[string]string{"user": strings.Join(shake.QueryParams["user"], "")})
	return items.Admission{Context: user}, err
}

func TestALiveSubscriptionIsRevoked(t *testing.T) {
	left := make(chan items.Subscription, 10)
	s := serve(t, items.Config{Connect: byUser, Leave: func(_ context.Context, sub items.Subscription) { left <- sub }})
	ann, bob := s.dial("/?user=ann"), s.dial("/?user=bob")
	for _, c := range []*client{ann, bob} {
		c.join("room", room)
		c.join("attic", `,"groupId":"attic"`)
		c.want(`sync - []`, `sync - []`)
	}
	if got := s.call("revoke", `{"stream_name":"chat","group_id":"room","context":{"user":"ann"},"message":"no more"}`); got != `{"revoked":1}` {
		t.Errorf("revoked: %s", got)
	}
	if f := ann.next(); f.String() != `unauthorized - {"message":"no more"}` || f.Subscription != "room" {
		t.Errorf("%s", f.raw)
	}
	if sub := <-left; sub.ID != "room" || string(sub.Context) != `{"user":"ann"}` {
		t.Errorf("left: %+v", sub)
	}
	s.set("m", `1`)
	bob.want(`create m 1`)
	s.call("set", `{"stream_name":"chat","group_id":"attic","item_id":"x","data":2}`)
	ann.want(`create x 2`) // and not what is said in the room
	bob.want(`create x 2`)
	if got := s.call("revoke", `{"context":{"user":"ann"}}`); got != `{"revoked":1}` {
		t.Errorf("revoked: %s", got)
	}
	for in, want := range map[string]string{`{"subscription_id":"nobody"}`: `{"revoked":0}`, `{"context":null}`: `{"revoked":0}`, `{"stream_name":"chat"}`: `{"revoked":2}`} {
		if got := s.call("revoke", in); got != want {
			t.Errorf("%s: %s", in, got)
		}
	}
}

// A subscription that is revoked while its join is asked for is given nothing after that.
func TestASubscriptionIsRevokedWhileItIsMade(t *testing.T) {
	asked, answer := make(chan struct{}), make(chan struct{})
	left := make(chan items.Subscription, 10)
	s := serve(t, items.Config{
		Join:  func(context.Context, items.Subscription) error { close(asked); <-answer; return nil },
		Leave: func(_ context.Context, sub items.Subscription) { left <- sub },
	})
	c := s.dial("/")
	c.join("g", room)
	<-asked
	s.call("revoke", `{"stream_name":"chat"}`)
	close(answer)
	for f := c.next(); f.Event.Type != "unauthorized"; f = c.next() {
		if f.Event.Type != "sync" {
			t.Errorf("%s", f.raw)
		}
	}
	<-left
	s.set("m", `1`)
	c.send(`{"type":"x"}`)
	if f := c.next(); f.Event.Type != "error" {
		t.Errorf("%s", f.raw)
	}
}

func TestAConnectionEndsWhenItsAdmissionDoes(t *testing.T) {
	s := serve(t, items.Config{Connect: func(context.Context, items.Handshake) (items.Admission, error) {
		return items.Admission{Until: time.Now().Add(100 * time.Millisecond)}, nil
	}})
	c := s.dial("/stream/chat/room")
	c.want(`sync - []`)
	if f := c.next(); f.Event.Type != "unauthorized" {
		t.Errorf("%s", f.raw)
	}
	if _, _, err := c.ws.Read(t.Context()); websocket.CloseStatus(err) != websocket.StatusPolicyViolation {
		t.Errorf("then: %v", err)
	}
}

func TestConnectionsAreToldToComeBack(t *testing.T) {
	h := items.New(newFake(), items.Config{})
	s := serveHandler(t, h)
	c := s.dial("/stream/chat/room")
	c.want(`sync - []`)
	h.Reconnect()
	if _, _, err := c.ws.Read(t.Context()); websocket.CloseStatus(err) != websocket.StatusServiceRestart {
		t.Errorf("%v", err)
	}
	s.dial("/stream/chat/room").want(`sync - []`)
}

// A join that is accepted after it was given up on is ended again.
func TestAJoinThatComesTooLateIsPaired(t *testing.T) {
	answer := make(chan struct{})
	left := make(chan items.Subscription, 10)
	s := serve(t, items.Config{
		HookTimeout: 20 * time.Millisecond,
		Join:        func(context.Context, items.Subscription) error { <-answer; return nil },
		Leave:       func(_ context.Context, sub items.Subscription) { left <- sub },
	})
	c := s.dial("/")
	c.join("g", room)
	if f := c.next(); f.Event.Type != "unauthorized" {
		t.Errorf("%s", f.raw)
	}
	close(answer)
	if sub := <-left; sub.ID != "g" {
		t.Errorf("left: %+v", sub)
	}
}
