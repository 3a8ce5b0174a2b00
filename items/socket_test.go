package items_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/runnelhq/runnel/items"
)

func TestASubscriberIsGivenASnapshotAndThenEachChange(t *testing.T) {
	s := serve(t, items.Config{})
	s.set("m1", `{"id":"m1","n":1}`)
	c := s.dial("/")
	c.join("g", room)
	c.want(`sync - [{"id":"m1","n":1}]`)
	s.set("m1", `{"id":"m1","n":2}`)
	s.set("m2", `{"id":"m2"}`)
	s.call("update", `{"stream_name":"chat","group_id":"room","item_id":"m2","ops":[]}`)
	s.call("delete", `{"stream_name":"chat","group_id":"room","item_id":"m2"}`)
	s.call("delete", `{"stream_name":"chat","group_id":"room","item_id":"m2"}`)
	s.call("send", `{"stream_name":"chat","group_id":"room","type":"typing","data":[1]}`)
	c.want(`update m1 {"id":"m1","n":2}`, `create m2 {"id":"m2"}`, `update m2 {"id":"m2"}`, `delete m2 {"id":"m2"}`, `event - {"type":"typing","data":[1]}`)
}

func TestAFrameHasAllKeysOfTheEnvelope(t *testing.T) {
	s := serve(t, items.Config{})
	c := s.dial("/")
	c.join("g", room)
	frames := []frame{c.next()}
	s.set("m1", `1`)
	s.call("send", `{"stream_name":"chat","group_id":"room","type":"t","data":null}`)
	frames = append(frames, c.next(), c.next())
	for _, f := range frames {
		var keys map[string]json.RawMessage
		if err := json.Unmarshal([]byte(f.raw), &keys); err != nil {
			t.Fatal(err)
		}
		for _, key := range []string{"type", "timestamp", "streamName", "groupId", "id", "event"} {
			if keys[key] == nil {
				t.Errorf("%s has no %s", f.raw, key)
			}
		}
	}
}

func TestAnItemSubscriptionIsAboutThatItem(t *testing.T) {
	s := serve(t, items.Config{})
	c := s.dial("/")
	c.join("i", room+`,"id":"m1"`)
	c.want(`sync m1 null`)
	s.set("m10", `10`)
	s.set("m1", `1`)
	s.call("send", `{"stream_name":"chat","group_id":"room","type":"all","data":1}`)
	s.call("send", `{"stream_name":"chat","group_id":"room","type":"one","data":1,"id":"m1"}`)
	c.want(`create m1 1`, `event m1 {"type":"one","data":1}`)
	d := s.dial("/")
	d.join("i", room+`,"id":"m1"`)
	d.want(`sync m1 1`)
	d.join("j", room+`,"id":"m"`)
	d.want(`sync m null`)
}

func TestSubscriptionsByPrefixAndToAWholeStream(t *testing.T) {
	s := serve(t, items.Config{})
	s.set("a1", `1`)
	s.set("b1", `2`)
	c := s.dial("/")
	c.join("p", room+`,"prefix":"a"`)
	c.want(`sync - [1]`)
	w := s.dial("/")
	w.join("w", `,"groupPrefix":""`)
	w.want(`sync - [1,2]`, `complete - null`)
	s.set("b2", `3`)
	s.set("a2", `4`)
	s.call("set", `{"stream_name":"chat","group_id":"attic","item_id":"x","data":5}`)
	c.want(`create a2 4`)
	w.want(`create b2 3`, `create a2 4`)
	if f := w.next(); f.String() != `create x 5` || f.Group != "attic" {
		t.Errorf("%s", f.raw)
	}
}

func TestThePathOfAConnectionJoins(t *testing.T) {
	s := serve(t, items.Config{})
	s.set("m1", `1`)
	for path, want := range map[string]string{
		"/stream/chat/room":      `sync - [1]`,
		"/stream/chat/room/m1":   `sync m1 1`,
		"/v1/items/chat/room":    `sync - [1]`,
		"/v1/items/chat/room/m1": `sync m1 1`,
	} {
		s.dial(path).want(want)
	}
	for path, status := range map[string]int{"/elsewhere": 404, "/stream/chat": 400, "/stream/a/b/c/d": 400} {
		_, resp, err := websocket.Dial(t.Context(), s.URL+path, nil) //nolint:bodyclose // the library has read it
		if err == nil || resp.StatusCode != status {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func TestEachChangeComesOnceASocket(t *testing.T) {
	s := serve(t, items.Config{})
	c := s.dial("/")
	for _, id := range []string{"1", "2", "3"} {
		c.join(id, room)
		c.want(`sync - []`)
	}
	c.join("4", `,"groupPrefix":"r"`)
	c.want(`complete - null`)
	c.join("5", room+`,"id":"m1"`)
	c.want(`sync m1 null`)
	s.set("m1", `1`)
	s.set("m2", `2`)
	c.want(`create m1 1`, `create m2 2`)
}

// Who was told that there is no group, and comes back with the cursor of that, has missed nothing.
func TestACursorOfNoGroupGoesOn(t *testing.T) {
	s := serve(t, items.Config{})
	c := s.dial("/")
	c.join("g", room)
	cursor := `,"since":"` + c.next().Cursor + `"`
	d := s.dial("/")
	d.join("g", room+cursor)
	d.join("other", `,"groupId":"attic"`)
	d.want(`sync - []`)
	s.set("m1", `1`)
	s.set("m1", `2`)
	d.want(`create m1 1`, `update m1 2`)
	e := s.dial("/")
	e.join("g", room+cursor)
	e.want(`create m1 1`, `update m1 2`)
}

func TestAFieldOfTheWrongTypeIsNamed(t *testing.T) {
	s := serve(t, items.Config{})
	c := s.dial("/")
	c.send(`{"type":"join","data":{"subscriptionId":"s","streamName":"chat","groupId":5}}`)
	if f := c.next(); !strings.Contains(f.raw, `groupId must not be a number`) || f.Subscription != "s" {
		t.Errorf("%s", f.raw)
	}
}

func TestTimestampsOfAGroupStrictlyIncrease(t *testing.T) {
	s := serve(t, items.Config{})
	c := s.dial("/")
	c.join("g", room)
	first := c.next()
	last, cursor := first.Timestamp, first.Cursor
	for i := range 50 {
		s.set("m", fmt.Sprint(i))
		if i%10 == 9 {
			c.join(fmt.Sprint(i), room)
		}
	}
	for range 55 {
		f := c.next()
		// Two snapshots of one moment have its timestamp.
		if f.Timestamp <= last && (f.Event.Type != "sync" || f.Cursor != cursor || f.Timestamp != last) {
			t.Fatalf("%s does not come after %d", f.raw, last)
		}
		last, cursor = f.Timestamp, f.Cursor
	}
}

// The changes of a group are held back while a snapshot is read, however many there are.
func TestSnapshotAndChangesAreOneSequence(t *testing.T) {
	s := serve(t, items.Config{})
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := 1; ; i++ {
			select {
			case <-stop:
				return
			default:
				s.do("POST", "/v1/items/call/set", fmt.Sprintf(`{"stream_name":"chat","group_id":"room","item_id":"n","data":{"n":%d}}`, i))
			}
		}
	}()
	for range 20 {
		c := s.dial("/stream/chat/room")
		var seen int
		for i := range 10 {
			f := c.next()
			var one struct{ N int }
			var all []struct{ N int }
			if i == 0 {
				if f.Event.Type != "sync" || json.Unmarshal(f.Event.Data, &all) != nil {
					t.Fatalf("the first frame is %s", f.raw)
				}
				if len(all) > 0 {
					seen = all[0].N
				}
				continue
			}
			if err := json.Unmarshal(f.Event.Data, &one); err != nil {
				t.Fatal(err)
			}
			if one.N != seen+1 {
				t.Fatalf("%d comes after %d", one.N, seen)
			}
			seen = one.N
		}
		_ = c.ws.CloseNow()
	}
	close(stop)
	<-done
}

func TestASubscriberComesBackSinceACursor(t *testing.T) {
	s := serve(t, items.Config{})
	c := s.dial("/stream/chat/room")
	c.want(`sync - []`)
	s.set("m1", `1`)
	f := c.next()
	_ = c.ws.CloseNow()
	s.set("m1", `2`)
	s.set("m2", `3`)
	s.call("delete", `{"stream_name":"chat","group_id":"room","item_id":"m1"}`)
	d := s.dial("/")
	d.join("g", room+`,"since":"`+f.Cursor+`"`)
	d.want(`update m1 2`, `create m2 3`, `delete m1 2`)
	s.set("m3", `4`)
	d.want(`create m3 4`)
	for _, since := range []string{"nonsense", "77-1", "1-99"} {
		e := s.dial("/")
		e.join("g", room+`,"since":"`+since+`"`)
		if gap := e.next(); gap.Event.Type != "gap" || !strings.Contains(gap.raw, "reason") {
			t.Errorf("since %s: %s", since, gap.raw)
		}
		e.want(`sync - [3,4]`)
	}
}

func TestASubscriberComesBackToWhatHasNotChanged(t *testing.T) {
	s := serve(t, items.Config{})
	s.set("m1", `1`)
	c := s.dial("/stream/chat/room")
	last := c.next()
	_ = c.ws.CloseNow()
	d := s.dial("/")
	d.join("g", room+`,"since":"`+last.Cursor+`"`)
	d.join("o", `,"groupId":"other"`)
	if first := d.next(); first.Group != "other" {
		t.Fatalf("there is nothing new, and %s", first.raw)
	}
	s.set("m2", `2`)
	d.want(`create m2 2`)
}

func TestWhatAClientSaysWrongIsToldToIt(t *testing.T) {
	s := serve(t, items.Config{MaxSubscriptions: 1})
	c := s.dial("/")
	for _, x := range [][2]string{
		{`{`, "invalid_frame"},
		{`{"type":"publish","data":{}}`, "unknown_type"},
		{`{"type":"join","data":{"subscriptionId":"s","streamName":"chat"}}`, "missing_field"},
		{`{"type":"join","data":{"subscriptionId":"s","streamName":"chat","groupId":"a/b"}}`, "invalid_name"},
		{`{"type":"leave","data":{"subscriptionId":"s","streamName":"chat","groupId":"room"}}`, "unknown_subscription"},
	} {
		c.send(x[0])
		f := c.next()
		if f.Event.Type != "error" || f.ID != nil || !strings.Contains(string(f.Event.Data), x[1]) {
			t.Errorf("%s: %s", x[0], f.raw)
		}
	}
	c.join("a", room)
	c.want(`sync - []`)
	c.join("b", room)
	if f := c.next(); !strings.Contains(f.raw, "too_many_subscriptions") {
		t.Errorf("%s", f.raw)
	}
	c.join("a", `,"groupId":"attic"`) // in the place of the other
	c.want(`sync - []`)
	s.set("m", `1`)
	s.call("set", `{"stream_name":"chat","group_id":"attic","item_id":"x","data":5}`)
	c.want(`create x 5`)
}

func TestALeaveEndsASubscription(t *testing.T) {
	s := serve(t, items.Config{})
	c := s.dial("/")
	c.join("g", room)
	c.join("i", room+`,"id":"m2"`)
	c.want(`sync - []`, `sync m2 null`)
	c.send(`{"type":"leave","data":{"subscriptionId":"g","streamName":"chat","groupId":"room"}}`)
	c.send(`{"type":"x"}`)
	c.next()
	s.set("m1", `1`)
	s.set("m2", `2`)
	c.want(`create m2 2`)
}

func TestASendReachesOneSubscription(t *testing.T) {
	s := serve(t, items.Config{})
	a, b := s.dial("/"), s.dial("/")
	a.join("a", room)
	b.join("b", room)
	a.want(`sync - []`)
	b.want(`sync - []`)
	s.call("send", `{"stream_name":"chat","group_id":"room","type":"t","data":1,"subscription_id":"b"}`)
	s.call("send", `{"stream_name":"chat","group_id":"room","type":"t","data":2}`)
	a.want(`event - {"type":"t","data":2}`)
	b.want(`event - {"type":"t","data":1}`, `event - {"type":"t","data":2}`)
}

func TestThatAGroupWasDeletedIsToldInItsPlace(t *testing.T) {
	s := serve(t, items.Config{})
	s.set("m1", `1`)
	c := s.dial("/stream/chat/room")
	c.want(`sync - [1]`)
	one := s.dial("/stream/chat/room/m1")
	one.want(`sync m1 1`)
	all := s.dial("/")
	all.send(`{"type":"join","data":{"subscriptionId":"all","streamName":"chat","groupPrefix":""}}`)
	all.want(`sync - [1]`, `complete - null`)
	for n := range 3 {
		s.set("m1", `2`)
		s.do("DELETE", "/v1/items/chat/room", "")
		s.set("m1", `3`)
		c.want(`update m1 2`, `deleted - null`, `sync - []`, `create m1 3`)
		one.want(`update m1 2`, `deleted - null`, `sync m1 null`, `create m1 3`)
		all.want(`update m1 2`, `deleted - null`, `sync - []`, `create m1 3`)
		if n == 1 {
			s.set("m2", `4`) // who joins again sees what there is
			again := s.dial("/stream/chat/room")
			again.want(`sync - [3,4]`)
			c.want(`create m2 4`)
			all.want(`create m2 4`)
			s.do("DELETE", "/v1/items/chat/room/m2", "")
			c.want(`delete m2 4`)
			all.want(`delete m2 4`)
		}
	}
}

func TestIDsAreInjectedForThoseWhoAsk(t *testing.T) {
	s := serve(t, items.Config{})
	s.set("m1", `{"a":1}`)
	s.set("m2", `{"id":"own"}`)
	c := s.dial("/stream/chat/room?inject_id")
	c.want(`sync - [{"id":"m1","a":1},{"id":"own"}]`)
	s.set("m3", `{}`)
	s.set("m4", `4`)
	c.want(`create m3 {"id":"m3"}`, `create m4 4`)
}

func TestTheFirstSubProtocolIsEchoedAndNoToken(t *testing.T) {
	s := serve(t, items.Config{})
	for want, offered := range map[string][]string{
		"Authorization": {"Authorization", "secret"},
		"runnel":        {"runnel.bearer.secret", "runnel"},
		"":              nil,
	} {
		if c := s.dial("/", offered...); c.ws.Subprotocol() != want {
			t.Errorf("of %v comes %q", offered, c.ws.Subprotocol())
		}
	}
}

func TestPagesOfOtherOriginsMayNotConnect(t *testing.T) {
	s := serve(t, items.Config{AllowedOrigins: []string{"https://*.example.com"}})
	for origin, ok := range map[string]bool{"https://app.example.com": true, "https://evil.example.org": false} {
		ws, resp, err := websocket.Dial(t.Context(), s.URL, &websocket.DialOptions{HTTPHeader: http.Header{"Origin": {origin}}}) //nolint:bodyclose // the library has read it
		if (err == nil) != ok {
			t.Errorf("%s: %v", origin, err)
		}
		if err == nil {
			_ = ws.CloseNow()
		} else if resp.StatusCode != http.StatusForbidden {
			t.Errorf("%s: %d", origin, resp.StatusCode)
		}
	}
}

func TestAHookRefusesConnectionsAndFailsClosed(t *testing.T) {
	for name, hook := range map[string]func(context.Context, items.Handshake) (items.Admission, error){
		"refuses": func(context.Context, items.Handshake) (items.Admission, error) {
			return items.Admission{}, errors.New("no")
		},
		"panics": func(context.Context, items.Handshake) (items.Admission, error) { panic("broken") },
		"hangs": func(ctx context.Context, _ items.Handshake) (items.Admission, error) {
			select {}
		},
	} {
		s := serve(t, items.Config{Connect: hook, HookTimeout: 20 * time.Millisecond})
		_, resp, err := websocket.Dial(t.Context(), s.URL, nil) //nolint:bodyclose // the library has read it
		if err == nil || resp.StatusCode != http.StatusUnauthorized {
			t.Errorf("one that %s: %v", name, err)
		}
	}
}

func TestAJoinIsRefusedBeforeAnyDataFlows(t *testing.T) {
	left := make(chan items.Subscription, 10)
	s := serve(t, items.Config{
		Connect: func(_ context.Context, shake items.Handshake) (items.Admission, error) {
			return items.Admission{Context: json.RawMessage(fmt.Sprintf(`{"user":%q}`, shake.QueryParams["user"][0]))}, nil
		},
		Join: func(_ context.Context, sub items.Subscription) error {
			switch {
			case sub.Group == "panic":
				panic("broken")
			case string(sub.Context) != `{"user":"ann"}`:
				return errors.New("not ann")
			}
			return nil
		},
		Leave: func(_ context.Context, sub items.Subscription) { left <- sub },
	})
	s.set("m", `"secret"`)
	bob := s.dial("/?user=bob")
	bob.join("g", room)
	if f := bob.next(); f.Event.Type != "unauthorized" || strings.Contains(f.raw, "secret") {
		t.Errorf("%s", f.raw)
	}
	ann := s.dial("/?user=ann")
	ann.join("x", `,"groupId":"panic"`)
	if f := ann.next(); f.Event.Type != "unauthorized" {
		t.Errorf("%s", f.raw)
	}
	ann.join("g", room)
	ann.want(`sync - ["secret"]`)
	_ = ann.ws.CloseNow()
	_ = bob.ws.CloseNow()
	if sub := <-left; sub.ID != "g" || string(sub.Context) != `{"user":"ann"}` {
		t.Errorf("left: %+v", sub)
	}
	select {
	case sub := <-left:
		t.Errorf("left though it never joined: %+v", sub)
	case <-time.After(20 * time.Millisecond):
	}
}

func TestALiveSubscriptionEndsWithItsAuthorization(t *testing.T) {
	revoke := make(chan struct{})
	s := serve(t, items.Config{Bind: func(ctx context.Context) (context.Context, context.CancelFunc) {
		ctx, cancel := context.WithCancel(ctx)
		go func() {
			select {
			case <-revoke:
				cancel()
			case <-ctx.Done():
			}
		}()
		return ctx, cancel
	}})
	c := s.dial("/stream/chat/room")
	c.want(`sync - []`)
	close(revoke)
	if f := c.next(); f.Event.Type != "unauthorized" {
		t.Errorf("%s", f.raw)
	}
	if _, _, err := c.ws.Read(t.Context()); websocket.CloseStatus(err) != websocket.StatusPolicyViolation {
		t.Errorf("then: %v", err)
	}
}

// A client that stops reading holds up neither writers nor others, and is told that it missed changes.
func TestAFrozenClientIsNobodysProblem(t *testing.T) {
	s := serve(t, items.Config{MaxQueueBytes: 64 << 10})
	frozen, healthy := s.dial("/stream/chat/room"), s.dial("/stream/chat/room")
	frozen.want(`sync - []`)
	healthy.want(`sync - []`)
	pad := strings.Repeat("x", 16<<10)
	const n = 800 // more than sockets take
	for i := range n {
		s.set(fmt.Sprint("m", i%20), fmt.Sprintf(`{"n":%d,"pad":%q}`, i, pad))
		if f := healthy.next(); !strings.Contains(f.raw, fmt.Sprintf(`"n":%d,`, i)) {
			t.Fatalf("after %d: %.200s", i, f.raw)
		}
	}
	if f := s.dial("/stream/chat/room").next(); f.Event.Type != "sync" { // who comes does not wait either
		t.Errorf("%.100s", f.raw)
	}
	state := make(map[string]int)
	gap := false
	var last int64
	for len(state) == 0 || state["m"+fmt.Sprint((n-1)%20)] != n-1 {
		f := frozen.next()
		gap = gap || f.Event.Type == "gap"
		if f.Event.Type != "gap" && f.Timestamp <= last {
			t.Fatalf("%d comes after %d", f.Timestamp, last)
		}
		if f.Event.Type != "gap" {
			last = f.Timestamp
		}
		var one struct{ N int }
		var all []struct{ N int }
		switch f.Event.Type {
		case "sync":
			if err := json.Unmarshal(f.Event.Data, &all); err != nil {
				t.Fatal(err)
			}
			for _, it := range all {
				state[fmt.Sprint("m", it.N%20)] = it.N
			}
		case "create", "update":
			if err := json.Unmarshal(f.Event.Data, &one); err != nil {
				t.Fatal(err)
			}
			if one.N < state[*f.ID] {
				t.Fatalf("%d comes after %d", one.N, state[*f.ID])
			}
			state[*f.ID] = one.N
		}
	}
	for i := n - 20; i < n; i++ {
		if state[fmt.Sprint("m", i%20)] != i {
			t.Errorf("item %d is %d, not %d", i%20, state[fmt.Sprint("m", i%20)], i)
		}
	}
	if !gap {
		t.Error("nothing was said of what was left out")
	}
}

func TestAConnectionThatDoesNotAnswerPingsIsClosed(t *testing.T) {
	s := serve(t, items.Config{PingInterval: 16 * time.Millisecond, WriteTimeout: 30 * time.Millisecond})
	c := s.dial("/")
	// Only reading answers pings.
	deadline := time.After(10 * time.Second)
	for {
		if err := c.ws.Write(t.Context(), websocket.MessageText, []byte(`{}`)); err != nil {
			return
		}
		select {
		case <-deadline:
			t.Fatal("the connection is still there")
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func TestMembersOfAGroupAreItems(t *testing.T) {
	s := serve(t, items.Config{PresenceTTL: 60 * time.Millisecond})
	w := s.dial("/stream/chat%2Fpresence/room")
	w.want(`sync - []`)
	c := s.dial("/")
	c.join("g", room+`,"presence":{"name": "ann"}`)
	c.want(`sync - []`)
	f := w.next()
	if f.Event.Type != "create" || !strings.Contains(string(f.Event.Data), `"data":{"name":"ann"}`) {
		t.Errorf("%s", f.raw)
	}
	if again := w.next(); again.Event.Type != "update" || *again.ID != *f.ID {
		t.Errorf("it is renewed by %s", again.raw)
	}
	_ = c.ws.CloseNow()
	for {
		if f := w.next(); f.Event.Type == "delete" {
			break
		}
	}
	if got := s.call("list", `{"stream_name":"chat/presence","group_id":"room"}`); got != `[]` {
		t.Errorf("members: %s", got)
	}
}
