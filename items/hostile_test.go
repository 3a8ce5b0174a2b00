package items_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/items"
)

// What clients do that mean no good, or know no better.

func TestFramesThatAreNoneAreAnsweredAndEndNothing(t *testing.T) {
	s := serve(t, items.Config{})
	c := s.dial("/")
	for _, frame := range []string{
		`{`, `[]`, `"join"`, `null`, `0`, "\x00", "{\"type\":\"join\"} {}", `{"type":5}`, `{"type":"join","data":[]}`, `{"type":"join","data":"x"}`,
		`{"type":"join","data":null}`, `{"type":"join"}`, `{"type":"leave"}`, `{"type":"JOIN","data":{}}`, `{"type":"sync","data":{}}`,
		`{"type":"join","data":{"subscriptionId":1,"streamName":"chat","groupId":"room"}}`,
		`{"type":"join","data":{"subscriptionId":"s","streamName":"","groupId":"room"}}`,
		`{"type":"join","data":{"subscriptionId":"s","streamName":"chat","groupId":""}}`,
		`{"type":"join","data":{"subscriptionId":"s","streamName":"a/../b","groupId":"room"}}`,
		`{"type":"join","data":{"subscriptionId":"s","streamName":"chat","groupId":"a\u0000b"}}`,
		`{"type":"join","data":{"subscriptionId":"s","streamName":"chat","groupId":"` + strings.Repeat("x", 5000) + `"}}`,
		`{"type":"join","data":{"subscriptionId":"` + strings.Repeat("x", 257) + `","streamName":"chat","groupId":"room"}}`,
		`{"type":"join","data":{"subscriptionId":"s","streamName":"chat","groupId":"room","id":"a","prefix":"b"}}`,
		`{"type":"join","data":{"subscriptionId":"s","streamName":"chat","groupPrefix":"r","id":"a"}}`,
		`{"type":"join","data":{"subscriptionId":"s","streamName":"chat","groupPrefix":"r","since":"1-1"}}`,
		`{"type":"leave","data":{"subscriptionId":"s","streamName":"chat","groupId":"room"}}`,
		strings.Repeat("[", 30_000),
		`{"type":"join","data":{"subscriptionId":"s","streamName":"chat","groupId":"room","presence":` + strings.Repeat("[", 20_000) + strings.Repeat("]", 20_000) + `}}`,
		"{\"type\":\"join\",\"data\":{\"subscriptionId\":\"\xff\",\"streamName\":\"chat\",\"groupId\":\"room\"}}",
	} {
		for _, kind := range []websocket.MessageType{websocket.MessageText, websocket.MessageBinary} {
			if err := c.ws.Write(t.Context(), kind, []byte(frame)); err != nil {
				t.Fatalf("%.60q: %v", frame, err)
			}
			if f := c.next(); f.Event.Type != "error" || f.ID != nil {
				t.Errorf("%.60q is answered with %.200s", frame, f.raw)
			}
		}
	}
	for range 3 {
		c.send("") // is nothing
	}
	if err := c.ws.Write(t.Context(), websocket.MessageBinary, []byte(`{"type":"join","data":{"subscriptionId":"s","streamName":"chat","groupId":"room","unknown":{}}}`)); err != nil {
		t.Fatal(err)
	}
	c.want(`sync - []`)
}

func TestAFrameThatIsTooLargeEndsTheConnection(t *testing.T) {
	s := serve(t, items.Config{MaxFrameBytes: 1000})
	c := s.dial("/")
	_ = c.ws.Write(t.Context(), websocket.MessageText, []byte(strings.Repeat(" ", 1001))) // which may end too early
	if _, _, err := c.ws.Read(t.Context()); websocket.CloseStatus(err) != websocket.StatusMessageTooBig {
		t.Errorf("%v", err)
	}
	s.dial("/stream/chat/room").want(`sync - []`)
}

// A client that sends and does not read is not listened to any more, instead of answers being kept for it.
func TestAFloodOfFramesIsNotAnsweredIntoMemory(t *testing.T) {
	s := serve(t, items.Config{MaxQueueBytes: 64 << 10, WriteTimeout: time.Second})
	c := s.dial("/")
	const more = 1_000_000 // answers to so many would be 200 MB
	for range more {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		err := c.ws.Write(ctx, websocket.MessageText, []byte(`{}`))
		cancel()
		if err != nil {
			return
		}
	}
	t.Error("all of it was taken")
}

func TestTenThousandSubscriptionsOfOneSocket(t *testing.T) {
	s := serve(t, items.Config{MaxSubscriptions: 10_000})
	s.set("m", `{"n":1}`)
	c := s.dial("/")
	const n = 10_000
	go func() {
		for i := range n + 1 {
			frame := fmt.Sprintf(`{"type":"join","data":{"subscriptionId":"%d","streamName":"chat","groupId":"room%d"}}`, i, i%100)
			if c.ws.Write(context.Background(), websocket.MessageText, []byte(frame)) != nil {
				return
			}
		}
	}()
	for range n {
		if f := c.next(); f.Event.Type != "sync" {
			t.Fatalf("%s", f.raw)
		}
	}
	if f := c.next(); !strings.Contains(f.raw, "too_many_subscriptions") || !strings.Contains(f.raw, "10000") {
		t.Fatalf("%s", f.raw)
	}
	s.call("set", `{"stream_name":"chat","group_id":"room7","item_id":"m","data":1}`)
	c.want(`create m 1`) // once
	s.call("set", `{"stream_name":"chat","group_id":"room8","item_id":"m","data":2}`)
	c.want(`create m 2`)
}

// Each join under an id that is taken ends the one before; each is paired.
func TestAJoinUnderAnIDThatIsTakenEndsTheOther(t *testing.T) {
	left := make(chan string, 10)
	s := serve(t, items.Config{Leave: func(_ context.Context, sub items.Subscription) { left <- sub.Group }})
	c := s.dial("/")
	c.join("a", room)
	c.join("a", room)
	c.join("a", `,"groupId":"attic"`)
	c.want(`sync - []`, `sync - []`, `sync - []`)
	s.set("m", `1`)
	// A leave that names another group than the one of the subscription is none.
	c.send(`{"type":"leave","data":{"subscriptionId":"a","streamName":"chat","groupId":"room"}}`)
	if f := c.next(); !strings.Contains(f.raw, "unknown_subscription") {
		t.Errorf("%s", f.raw)
	}
	c.send(`{"type":"leave","data":{"subscriptionId":"a","streamName":"chat","groupId":"attic"}}`)
	for _, want := range []string{"room", "room", "attic"} {
		if got := <-left; got != want {
			t.Errorf("left: %s, not %s", got, want)
		}
	}
}

func TestNumbersStayExactOnTheirWay(t *testing.T) {
	s := serve(t, items.Config{})
	for i, number := range []string{
		"123456789012345678901234567890", "-0.1234567890123456789", "1e400", "9007199254740993", strings.Repeat("9", 1000), "1E-1000",
	} {
		item := fmt.Sprint("n", i)
		c := s.dial("/stream/chat/room/" + item)
		c.want("sync " + item + " null")
		s.set(item, number)
		c.want("create " + item + " " + number)
		s.dial("/stream/chat/room/" + item).want("sync " + item + " " + number)
	}
	s.set("sum", `{"n":99999999999999999999999999}`)
	s.call("update", `{"stream_name":"chat","group_id":"room","item_id":"sum","ops":[{"type":"increment","path":"n","by":100000000000000000000000001}]}`)
	s.dial("/stream/chat/room/sum").want(`sync sum {"n":200000000000000000000000000}`)
}

// A client that comes back after more than a snapshot holds is told of a gap, and given the snapshot.
func TestASinceThatIsFarBackIsAGap(t *testing.T) {
	s := serve(t, items.Config{MaxQueueBytes: 8 << 10})
	c := s.dial("/stream/chat/room")
	c.want(`sync - []`)
	s.set("m", `0`)
	first := c.next().Cursor
	for i := 1; i <= 100; i++ {
		s.set("m", fmt.Sprint(i))
	}
	d := s.dial("/")
	d.join("g", room+`,"since":"`+first+`"`)
	if gap := d.next(); gap.Event.Type != "gap" {
		t.Errorf("%s", gap.raw)
	}
	d.want(`sync - [100]`)
	for _, since := range []string{"1-18446744073709551615", "18446744073709551616-1", "-1--1", "1", "1-2-3", strings.Repeat("9", 1000)} {
		e := s.dial("/")
		e.join("g", room+`,"since":"`+since+`"`)
		if gap := e.next(); gap.Event.Type != "gap" {
			t.Errorf("since %.30s: %s", since, gap.raw)
		}
		e.want(`sync - [100]`)
	}
}

// The server says to all that they should come back, and cuts off who does not hear it.
func TestShutdownTellsConnectionsAndWaitsForNobodyForLong(t *testing.T) {
	log := newFake()
	h := items.New(log, items.Config{Logger: slog.New(slog.DiscardHandler)})
	s := &server{t: t, log: log, Server: httptest.NewServer(h)}
	defer s.Close()
	frozen, healthy := s.dial("/stream/chat/room"), s.dial("/stream/chat/room")
	frozen.want(`sync - []`)
	healthy.want(`sync - []`)
	pad := strings.Repeat("x", 256<<10)
	for range 60 { // more than sockets take
		s.set("m", fmt.Sprintf("%q", pad))
		healthy.next()
	}
	told := make(chan error, 1)
	go func() {
		_, _, err := healthy.ws.Read(context.Background())
		told <- err
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := h.Shutdown(ctx); err == nil {
		t.Error("the frozen client was waited for")
	}
	if err := <-told; websocket.CloseStatus(err) != websocket.StatusServiceRestart {
		t.Errorf("the healthy one is told %v", err)
	}
	if _, resp, err := websocket.Dial(t.Context(), s.URL, nil); err == nil || resp.StatusCode != http.StatusServiceUnavailable { //nolint:bodyclose // the library has read it
		t.Errorf("a connection during the shutdown: %v", err)
	}
	all, end := context.WithTimeout(t.Context(), 10*time.Second)
	defer end()
	if err := h.Shutdown(all); err != nil {
		t.Errorf("who was cut off is still there: %v", err)
	}
}

// What is sent after a change comes after it, and what is changed after a send comes after that.
func TestAnEventReachesOneSubscriptionInItsOrder(t *testing.T) {
	s := serve(t, items.Config{})
	c := s.dial("/stream/chat/room")
	c.want(`sync - []`)
	s.set("m", `"the first"`)
	c.want(`create m "the first"`)
	for i := range 20 {
		s.set("m", fmt.Sprint(i))
		s.call("send", fmt.Sprintf(`{"stream_name":"chat","group_id":"room","type":"t","data":%d}`, i))
	}
	for i := range 20 {
		c.want(fmt.Sprintf("update m %d", i), fmt.Sprintf(`event - {"type":"t","data":%d}`, i))
	}
}

// busySpace answers how far a space has come when the test lets it.
type busySpace struct {
	*fakeLog
	busy atomic.Pointer[chan struct{}]
}

func (b *busySpace) StatSpace(ctx context.Context, space runnel.Space) (runnel.SpaceInfo, error) {
	if busy := b.busy.Load(); busy != nil {
		select {
		case <-*busy:
		case <-ctx.Done():
		}
	}
	return b.fakeLog.StatSpace(ctx, space)
}

// An event to a group of which nothing has been told yet has to find out whether it may be told; what is changed
// meanwhile comes after it.
func TestAChangeDoesNotOvertakeAnEvent(t *testing.T) {
	log := &busySpace{fakeLog: newFake()}
	s := serveHandler(t, items.New(log, items.Config{}))
	s.log = log.fakeLog
	s.set("m", `"before anybody was subscribed"`)
	c := s.dial("/stream/chat/room")
	c.want(`sync - ["before anybody was subscribed"]`)
	busy := make(chan struct{})
	log.busy.Store(&busy)
	defer close(busy)
	s.call("send", `{"stream_name":"chat","group_id":"room","type":"t","data":1}`)
	s.set("m", `2`)
	c.want(`event - {"type":"t","data":1}`, `update m 2`)
}

// readHook lets a test do something while items are read.
type readHook struct {
	*fakeLog
	during func()
}

func (r *readHook) Items(ctx context.Context, seg runnel.Segment, q runnel.ItemQuery) (runnel.ItemView, error) {
	view, err := r.fakeLog.Items(ctx, seg, q)
	if during := r.during; during != nil {
		r.during = nil
		during()
	}
	return view, err
}

// While the snapshot of one subscription is read, what others of the connection are told stays in its order, and
// the one that is being made misses nothing.
func TestAnEventThatIsSentDuringAJoinComesInItsPlace(t *testing.T) {
	log := &readHook{fakeLog: newFake()}
	h := items.New(log, items.Config{Logger: slog.New(slog.DiscardHandler)})
	s := &server{t: t, log: log.fakeLog, Server: httptest.NewServer(h)}
	t.Cleanup(s.Close)
	c, other := s.dial("/stream/chat/room"), s.dial("/stream/chat/room")
	c.want(`sync - []`)
	other.want(`sync - []`)
	s.set("m", `0`)
	c.want(`create m 0`)
	other.want(`create m 0`)
	log.during = func() {
		s.set("m", `1`)
		s.call("send", `{"stream_name":"chat","group_id":"room","type":"t","data":1}`)
		s.call("send", `{"stream_name":"chat","group_id":"room","type":"t","id":"x","data":2}`)
		other.want(`update m 1`, `event - {"type":"t","data":1}`, `event x {"type":"t","data":2}`)
	}
	c.join("item", room+`,"id":"x"`)
	c.want(`update m 1`, `event - {"type":"t","data":1}`, `sync x null`, `event x {"type":"t","data":2}`)
}

func TestAContextThatIsNoJSONIsARefusal(t *testing.T) {
	s := serve(t, items.Config{Connect: func(context.Context, items.Handshake) (items.Admission, error) {
		return items.Admission{Context: json.RawMessage(`{`)}, nil
	}})
	if _, resp, err := websocket.Dial(t.Context(), s.URL, nil); err == nil || resp.StatusCode != http.StatusUnauthorized { //nolint:bodyclose // the library has read it
		t.Errorf("%v", err)
	}
}

// FuzzFrames: whatever a client says, it is answered with frames, or nothing, and the server is there afterwards.
func FuzzFrames(f *testing.F) {
	for _, seed := range []string{
		`{"type":"join","data":{"subscriptionId":"s","streamName":"chat","groupId":"room"}}`,
		`{"type":"join","data":{"subscriptionId":"s","streamName":"chat","groupPrefix":"","id":"x"}}`,
		`{"type":"join","data":{"subscriptionId":"s","streamName":"chat","groupId":"room","since":"1-1","prefix":"m"}}`,
		`{"type":"join","data":{"subscriptionId":"s","streamName":"chat","groupId":"room","presence":{"a":1e999}}}`,
		`{"type":"leave","data":{"subscriptionId":"g","streamName":"chat","groupId":"room"}}`,
		`{"type":"join","data":{"subscriptionId":"\ud800","streamName":"\u0000","groupId":".."}}`,
	} {
		f.Add([]byte(seed))
	}
	log := newFake()
	room := runnel.Segment{Space: "chat", Name: "room"}
	w := runnel.ItemWrites{Segment: room.Name, Writes: []runnel.ItemWrite{{ItemKey: runnel.ItemKey{Key: "m"}, Value: []byte(`1`)}}}
	if _, err := log.WriteItems(f.Context(), room.In(), w); err != nil {
		f.Fatal(err)
	}
	h := items.New(log, items.Config{Logger: slog.New(slog.DiscardHandler)})
	s := httptest.NewServer(h)
	f.Cleanup(s.Close)
	f.Fuzz(func(t *testing.T, frame []byte) {
		ws, _, err := websocket.Dial(t.Context(), s.URL, nil) //nolint:bodyclose // the library has read it
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = ws.CloseNow() }()
		ws.SetReadLimit(-1)
		for _, one := range [][]byte{frame, []byte(`{"type":"the last"}`)} {
			if err := ws.Write(t.Context(), websocket.MessageText, one); err != nil {
				return // it was too large
			}
		}
		for {
			_, answer, err := ws.Read(t.Context())
			if websocket.CloseStatus(err) == websocket.StatusMessageTooBig {
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if !json.Valid(answer) {
				t.Fatalf("%q", answer)
			}
			if strings.Contains(string(answer), "the last") {
				return
			}
		}
	})
}

// FuzzRequest: no request makes the server fail, and every answer with a body is what it says it is.
func FuzzRequest(f *testing.F) {
	for _, seed := range [][3]string{
		{"POST", "/v1/items/call/stream::set", `{"stream_name":"s","group_id":"g","item_id":"i","data":{"a":1},"ttl":1e300,"if_version":1}`},
		{"POST", "/v1/items/call/update", `{"stream_name":"s","group_id":"g","item_id":"i","ops":[{"type":"append","path":["a","b"],"value":"x"}]}`},
		{"POST", "/v1/items/call/send", `{"stream_name":"s","group_id":"g","type":"t","data":[[[]]],"subscription_id":null}`},
		{"POST", "/v1/items/call/revoke", `{"context":{"user":1e999}}`},
		{"POST", "/v1/items/s/g", `{"writes":[{"id":"i","delete":true},{"id":"i","value":1}]}`},
		{"GET", "/v1/items/s/g?limit=-1&after=%00&prefix=%ff", ""},
		{"PUT", "/v1/items/s/g/%2e%2e", "\xff"},
		{"PATCH", "/v1/items/s%2Ft/g/i?mode=partial", `[{"type":"increment","path":"","by":99999999999999999999}]`},
		{"DELETE", "/v1/items//g/", ""},
		{"GET", "/stream/s/g", ""},
	} {
		f.Add(seed[0], seed[1], []byte(seed[2]))
	}
	log := newFake()
	h := items.New(log, items.Config{Logger: slog.New(slog.DiscardHandler)})
	f.Fuzz(func(t *testing.T, method, path string, body []byte) {
		r, err := http.NewRequestWithContext(t.Context(), method, "http://server"+path, strings.NewReader(string(body)))
		if err != nil {
			return // no client sends it
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code >= 500 {
			t.Errorf("%s %q %q: %d %s", method, path, body, w.Code, w.Body)
		}
		if w.Header().Get("Content-Type") == "application/json" && method != http.MethodHead && !json.Valid(w.Body.Bytes()) {
			t.Errorf("%s %q %q: %q", method, path, body, w.Body)
		}
	})
}
