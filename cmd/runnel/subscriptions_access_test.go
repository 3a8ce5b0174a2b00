package main

import (
	"log/slog"
	"reflect"
	"testing"

	"github.com/runnelhq/runnel/auth"
	"github.com/runnelhq/runnel/durablestreams"
	"github.com/runnelhq/runnel/engine"
	"github.com/runnelhq/runnel/storage/memory"
)

// Whatever the control paths can call is checked by a guard, needs the token of a wake, or is about the keys of a
// server. A method that the engine lends unseen would be open to everybody.
func TestNoMethodOfSubscriptionsReachesTheEngineUnchecked(t *testing.T) {
	without := map[string]bool{
		"AckWake": true, "ReleaseWake": true, "VerifyToken": true, "ClaimToken": true, // by the token of a wake, or for one
		"CheckWebhook": true, "KeySet": true, "SigningKey": true, // public, or about no subscription
	}
	guarded := reflect.TypeFor[auth.SubscriptionLog]()
	for asked := range reflect.TypeFor[durablestreams.Subscriptions]().Methods() {
		if _, is := guarded.MethodByName(asked.Name); is == without[asked.Name] {
			t.Errorf("%s: guarded: %v, needs no guard: %v", asked.Name, is, without[asked.Name])
		}
	}
	eng, err := engine.Open(new(memory.Driver), engine.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer eng.Close()
	got, err := parseServe(t)
	if err != nil {
		t.Fatal(err)
	}
	subs, err := got.newSubscriptions(eng, auth.New(auth.Config{}), slog.Default())
	if err != nil {
		t.Fatal(err)
	}
	if _, is := subs.Requests.(*auth.Guard); !is {
		t.Errorf("where tokens are needed %T stands before subscriptions", subs.Requests)
	}
}
