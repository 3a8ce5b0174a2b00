package main

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/storage/memory"
	"github.com/runnelhq/runnel/webhook"
)

// inbox keeps what a receiver is sent, and answers as it is told to.
type inbox struct {
	mu     sync.Mutex
	got    []*webhook.Notification
	answer func(*webhook.Notification) (int, string)
}

func (b *inbox) receive(n *webhook.Notification) (int, string) {
	b.mu.Lock()
	b.got = append(b.got, n)
	answer := b.answer
	b.mu.Unlock()
	return answer(n)
}

// all returns what has come.
func (b *inbox) all() []*webhook.Notification {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.got)
}

// say has what comes from now on answered so.
func (b *inbox) say(status int, body string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.answer = says(status, body)
}

func says(status int, body string) func(*webhook.Notification) (int, string) {
	return func(*webhook.Notification) (int, string) { return status, body }
}

const done = `{"done": true}`

var hookConfig = object{"type": "webhook", "pattern": "events/*", "webhook": object{"url": "https://example.com/hook"}, "lease_ttl_ms": 2000}

// withHook runs f with the subscription sub-1, whose webhooks come into the inbox. The server and the receiver
// take turns: what the inbox has is looked at while nothing is on its way.
func withHook(t *testing.T, answer func(*webhook.Notification) (int, string), f func(s *subscribing, b *inbox)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := &inbox{answer: answer}
		s := &subscribing{T: t, driver: new(memory.Driver), host: "localhost:4437", to: b.receive}
		s.start()
		defer func() { s.stop() }()
		s.ask("PUT", sub, "", hookConfig, 201)
		s.stream("events/a")
		f(s, b)
	})
}

func pass(d time.Duration) {
	time.Sleep(d) //nolint:forbidigo // time is fake
	synctest.Wait()
}

// wantWakes checks how many webhooks came, and that their wakes and generations are what they have to be.
func (s *subscribing) wantWakes(b *inbox, want int) *webhook.Notification {
	s.Helper()
	synctest.Wait()
	got := b.all()
	if len(got) != want {
		s.Fatalf("%d webhooks came, want %d", len(got), want)
	}
	wakes := make(map[string]uint64)
	for i, n := range got {
		if g, known := wakes[n.WakeID]; known && g != n.Generation || i > 0 && n.Generation < got[i-1].Generation {
			s.Fatalf("%+v", n)
		}
		wakes[n.WakeID] = n.Generation
	}
	if want == 0 {
		return nil
	}
	return got[want-1]
}

// acked is how far the subscription has come on a stream.
func (s *subscribing) acked(path string) any {
	s.Helper()
	for _, l := range s.ask("GET", sub, "", nil, 200)["streams"].([]any) {
		if l.(object)["path"] == path {
			return l.(object)["acked_offset"]
		}
	}
	return nil
}

// back is the body of a callback.
func back(n *webhook.Notification, done bool, at ...any) object {
	return ackOf(object{"wake_id": n.WakeID, "generation": n.Generation}, done, at...)
}

func TestSection62TheConfigurationOfAWebhookIsComparedWhole(t *testing.T) {
	inBubble(t, func(s *subscribing) {
		config := object{"type": "webhook", "pattern": "events/*", "webhook": object{"url": "https://EXAMPLE.com/hook"}}
		s.ask("PUT", sub, "", config, 201)
		same := maps.Clone(config)
		same["lease_ttl_ms"], same["webhook"], same["description"] = 30000, object{"url": "https://example.com/hook"}, ""
		s.ask("PUT", sub, "", same, 200)
		for field, other := range map[string]any{
			"webhook": object{"url": "https://example.com/other"}, "lease_ttl_ms": 1000, "streams": []string{"a"}, "description": "x",
		} {
			differs := maps.Clone(config)
			differs[field] = other
			s.wantCode(s.ask("PUT", sub, "", differs, 409), "SUBSCRIPTION_ALREADY_EXISTS")
		}
		pull := object{"type": "pull-wake", "pattern": "events/*", "wake_stream": "w"}
		s.wantCode(s.ask("PUT", sub, "", pull, 409), "SUBSCRIPTION_ALREADY_EXISTS")
	})
}

func TestSection63AWebhookIsShownWithItsKeyAndNoSecret(t *testing.T) {
	withHook(t, says(200, done), func(s *subscribing, _ *inbox) {
		for _, shown := range []object{s.ask("GET", sub, "", nil, 200), s.ask("PUT", sub, "", hookConfig, 200)} {
			hook := shown["webhook"].(object)
			signing := hook["signing"].(object)
			keys := s.ask("GET", "__ds/jwks.json", "", nil, 200)["keys"].([]any)
			if len(hook) != 2 || len(signing) != 3 || signing["alg"] != "ed25519" || signing["jwks_url"] != "http://localhost:4437/v1/stream/__ds/jwks.json" {
				t.Errorf("%v", hook)
			}
			if !slices.ContainsFunc(keys, func(k any) bool { return k.(object)["kid"] == signing["kid"] }) {
				t.Errorf("%v is not the id of any of %v", signing["kid"], keys)
			}
			for _, k := range keys {
				if _, private := k.(object)["d"]; private {
					t.Error("a private key is published")
				}
			}
			if text := strings.ToLower(fmt.Sprint(shown)); strings.Contains(text, "secret") || strings.Contains(text, "token") {
				t.Error(text)
			}
		}
	})
}

func TestSection71DoneAcksTheSnapshotAndNothingAfterIt(t *testing.T) {
	var s *subscribing
	once := func(n *webhook.Notification) (int, string) {
		if n.Generation == 1 {
			seg := runnel.Segment{Space: "events", Name: "a"}
			if _, err := s.eng.Append(s.Context(), seg, runnel.AppendOptions{}, runnel.Record{Payload: []byte(`{"n":2}`)}); err != nil { // after the snapshot
				s.Error(err)
			}
		}
		return 200, done
	}
	withHook(t, once, func(server *subscribing, b *inbox) {
		s = server
		s.append("events/a")
		s.wantWakes(b, 2)
		first, second := b.all()[0], b.all()[1]
		if first.WakeID == second.WakeID || second.Generation != first.Generation+1 {
			t.Errorf("%+v and %+v", first, second)
		}
		if l := first.Streams[0]; l.Path != "events/a" || l.LinkType != "glob" || l.AckedOffset != offsetAt(0) || l.TailOffset != offsetAt(1) || !l.HasPending {
			t.Errorf("%+v", l)
		}
		if l := second.Streams[0]; l.AckedOffset != offsetAt(1) || l.TailOffset != offsetAt(2) {
			t.Errorf("%+v", l)
		}
		if got := s.acked("events/a"); got != offsetAt(2) {
			t.Error(got)
		}
		for _, late := range []*webhook.Notification{first, second} {
			s.wantCode(s.ask("POST", sub+"/callback", late.CallbackToken, back(late, true), 409), "FENCED")
		}
	})
}

func TestSection71NothingButTrueIsDone(t *testing.T) {
	for _, answer := range []string{"", "ok", `{"done": false}`, `{"done": 1}`, `{"done": "true"}`, `[true]`, `{"done": true`} {
		withHook(t, says(200, answer), func(s *subscribing, b *inbox) {
			s.append("events/a")
			s.wantWakes(b, 1)
			if got := s.acked("events/a"); got != offsetAt(0) {
				t.Errorf("%q has acked %v", answer, got)
			}
			b.say(200, done)
			pass(2100 * time.Millisecond) // nobody has called back
			if n := s.wantWakes(b, 2); n.Generation != 2 {
				t.Errorf("%+v", n)
			}
		})
	}
}

func TestSection71ACallbackAcksExtendsTheLeaseAndEndsTheWake(t *testing.T) {
	withHook(t, says(202, ""), func(s *subscribing, b *inbox) {
		s.append("events/a")
		s.append("events/a")
		n := s.wantWakes(b, 1)
		if n.CallbackURL != "http://localhost:4437/v1/stream/__ds/subscriptions/sub-1/callback" {
			t.Error(n.CallbackURL)
		}
		for at := range 2 {
			pass(1500 * time.Millisecond)
			got := s.ask("POST", sub+"/callback", n.CallbackToken, back(n, false, "events/a", at+1), 200)
			if got["ok"] != true || got["next_wake"] != false {
				t.Error(got)
			}
		}
		for _, bad := range []object{back(n, true, "events/a", 1), back(n, true, "events/a", 3), back(n, true, "other", 1)} {
			s.wantCode(s.ask("POST", sub+"/callback", n.CallbackToken, bad, 409), "INVALID_OFFSET")
		}
		s.append("events/a")
		if got := s.ask("POST", sub+"/callback", n.CallbackToken, back(n, true), 200); got["next_wake"] != true {
			t.Error(got)
		}
		if next := s.wantWakes(b, 2); next.Generation != 2 || next.Streams[0].AckedOffset != offsetAt(2) {
			t.Errorf("%+v", next)
		}
	})
}

func TestSection73EveryStaleCallbackIsFencedAndMovesNothing(t *testing.T) {
	withHook(t, says(202, ""), func(s *subscribing, b *inbox) {
		s.append("events/a")
		n := s.wantWakes(b, 1)
		all := func(n *webhook.Notification) object { return back(n, true, "events/a", 1) }
		stale := all(n)
		stale["generation"] = n.Generation + 1
		s.wantCode(s.ask("POST", sub+"/callback", n.CallbackToken, stale, 409), "FENCED")
		stale = all(n)
		stale["wake_id"] = "w_other"
		s.wantCode(s.ask("POST", sub+"/callback", n.CallbackToken, stale, 409), "FENCED")
		s.wantCode(s.ask("POST", sub+"/callback", n.CallbackToken, object{}, 409), "FENCED")
		pass(2100 * time.Millisecond) // the lease ends, and the next wake begins
		next := s.wantWakes(b, 2)
		s.wantCode(s.ask("POST", sub+"/callback", n.CallbackToken, all(n), 409), "FENCED")
		// A token of one generation is none of another, whatever the body says.
		s.wantCode(s.ask("POST", sub+"/callback", n.CallbackToken, all(next), 409), "FENCED")
		if got := s.acked("events/a"); got != offsetAt(0) {
			t.Error("a stale callback moved the cursor to ", got)
		}
		s.ask("POST", sub+"/callback", next.CallbackToken, all(next), 200)
		s.wantCode(s.ask("POST", sub+"/callback", next.CallbackToken, all(next), 409), "FENCED")
	})
}

func TestSection129TokensAreOfOneWakeAndComeInTheHeader(t *testing.T) {
	withHook(t, says(202, ""), func(s *subscribing, b *inbox) {
		s.stream("wake/pool")
		s.ask("PUT", "__ds/subscriptions/pull", "", object{"type": "pull-wake", "pattern": "events/*", "wake_stream": "wake/pool"}, 201)
		s.append("events/a")
		n := s.wantWakes(b, 1)
		claim := s.ask("POST", "__ds/subscriptions/pull/claim", "", object{"worker": "w"}, 200)
		claimed := claim["token"].(string)
		body := back(n, true, "events/a", 1)
		refused := func(path, token string, body object) {
			t.Helper()
			s.wantCode(s.ask("POST", path, token, body, 401), "TOKEN_INVALID")
		}
		for _, token := range []string{"", "x", claimed, n.CallbackToken + "x", n.CallbackToken[1:]} {
			refused(sub+"/callback", token, body)
		}
		refused(sub+"/callback?token="+n.CallbackToken, "", body)
		refused(sub+"/callback?access_token="+n.CallbackToken, "", body)
		body["token"] = n.CallbackToken
		refused(sub+"/callback", "", body)
		refused(sub+"/ack", n.CallbackToken, body)
		refused(sub+"/release", n.CallbackToken, body)
		refused("__ds/subscriptions/pull/callback", n.CallbackToken, body)
		refused("__ds/subscriptions/pull/ack", n.CallbackToken, ackOf(claim, true))
		refused(sub+"/ack", claimed, ackOf(claim, true))
		refused("__ds/subscriptions/pull/callback", claimed, ackOf(claim, true))
		if got := s.acked("events/a"); got != offsetAt(0) {
			t.Error(got)
		}
		s.ask("POST", "__ds/subscriptions/pull/ack", claimed, ackOf(claim, true, "events/a", 1), 200)
		s.ask("POST", sub+"/callback", n.CallbackToken, back(n, true, "events/a", 1), 200)
	})
}

func TestSection71TheNextAttemptIsKeptOverARestart(t *testing.T) {
	withHook(t, says(500, ""), func(s *subscribing, b *inbox) {
		s.append("events/a")
		s.wantWakes(b, 1)
		for range 3 {
			pass(6 * time.Second)
		}
		tried := len(b.all())
		shown := s.ask("GET", sub, "", nil, 200)
		next, err := time.Parse(time.RFC3339, shown["next_attempt_at"].(string))
		if err != nil || shown["status"] != "failed" || tried < 3 {
			t.Fatal(shown, tried)
		}
		if f := shown["failure"].(object); f["attempts"] != float64(tried) || f["status"] != 500.0 || f["parked"] != false {
			t.Error(f)
		}
		s.stop()
		s.start()
		synctest.Wait()
		if again := s.ask("GET", sub, "", nil, 200); again["next_attempt_at"] != shown["next_attempt_at"] {
			t.Error(again)
		}
		pass(time.Until(next) - 50*time.Millisecond)
		s.wantWakes(b, tried)
		b.say(200, done)
		pass(time.Second)
		if n := s.wantWakes(b, tried+1); n.WakeID != b.all()[0].WakeID {
			t.Error("another attempt at a delivery is another wake")
		}
		if shown := s.ask("GET", sub, "", nil, 200); shown["status"] != "active" || shown["failure"] != nil || shown["next_attempt_at"] != nil {
			t.Error(shown)
		}
	})
}

func TestSection71AFailedAttemptMayStillCallBack(t *testing.T) {
	withHook(t, says(500, ""), func(s *subscribing, b *inbox) {
		s.append("events/a")
		n := s.wantWakes(b, 1) // it was received, and the answer was lost
		s.ask("POST", sub+"/callback", n.CallbackToken, back(n, true, "events/a", 1), 200)
		pass(2 * time.Minute)
		s.wantWakes(b, 1)
	})
}

func TestSection71ParkedIsParkedOverARestart(t *testing.T) {
	withHook(t, says(http.StatusGone, ""), func(s *subscribing, b *inbox) {
		s.append("events/a")
		n := s.wantWakes(b, 1)
		s.stop()
		s.start()
		s.append("events/a")
		pass(time.Hour)
		s.wantWakes(b, 1)
		if shown := s.ask("GET", sub, "", nil, 200); shown["failure"].(object)["parked"] != true {
			t.Error(shown)
		}
		b.say(200, done)
		s.ask("POST", sub+"/replay", "", nil, 204)
		again := s.wantWakes(b, 2)
		if again.WakeID != n.WakeID || again.Streams[0].TailOffset != offsetAt(2) {
			t.Errorf("%+v", again)
		}
	})
}

func TestSection63ADeletionIsTheEndOfWhatIsUnderWay(t *testing.T) {
	var s *subscribing
	deletes := func(*webhook.Notification) (int, string) {
		if err := s.eng.DeleteSubscription(s.Context(), runnel.Store{}, "sub-1"); err != nil {
			s.Error(err)
		}
		return 200, done
	}
	withHook(t, deletes, func(server *subscribing, b *inbox) {
		s = server
		s.append("events/a")
		n := s.wantWakes(b, 1)
		s.wantCode(s.ask("POST", sub+"/callback", n.CallbackToken, back(n, true, "events/a", 1), 404), "SUBSCRIPTION_NOT_FOUND")
		// One of the same name is another one.
		b.say(202, "")
		s.ask("PUT", sub, "", hookConfig, 201)
		s.append("events/a")
		next := s.wantWakes(b, 2)
		s.wantCode(s.ask("POST", sub+"/callback", n.CallbackToken, back(next, true, "events/a", 2), 409), "FENCED")
		if got := s.acked("events/a"); got != offsetAt(1) {
			t.Error(got)
		}
	})
	inBubble(t, func(s *subscribing) {
		s.pull(nil)
		s.stream("events/a")
		s.append("events/a")
		c, token := s.claim("w")
		s.ask("DELETE", sub, "", nil, 204)
		for _, action := range []string{"/ack", "/release"} {
			s.wantCode(s.ask("POST", sub+action, token, ackOf(c, true, "events/a", 1), 404), "SUBSCRIPTION_NOT_FOUND")
		}
	})
}

func TestSection72TheWakeStreamIsTheApplicationsToMake(t *testing.T) {
	inBubble(t, func(s *subscribing) {
		s.ask("PUT", sub, "", object{"type": "pull-wake", "pattern": "events/*", "wake_stream": "wake/pool"}, 201)
		s.stream("events/a")
		s.append("events/a")
		pass(10 * time.Second)
		s.ask("GET", "wake/pool", "", nil, 404)
		s.stream("wake/pool")
		pass(2 * time.Minute)
		if n := len(s.wakes()); n != 1 {
			t.Errorf("%d wakes, want the one that waited", n)
		}
	})
}

func TestSection72OnlyPullWakeIsClaimed(t *testing.T) {
	withHook(t, says(202, ""), func(s *subscribing, b *inbox) {
		s.append("events/a")
		s.wantWakes(b, 1)
		s.wantCode(s.ask("POST", sub+"/claim", "", object{"worker": "w"}, 400), "INVALID_REQUEST")
		s.wantCode(s.ask("POST", "__ds/subscriptions/none/claim", "", object{"worker": "w"}, 404), "SUBSCRIPTION_NOT_FOUND")
	})
}
