package main

import (
	"errors"
	"log/slog"
	"reflect"
	"testing"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/auth"
	"github.com/runnelhq/runnel/durablestreams"
	"github.com/runnelhq/runnel/engine"
	"github.com/runnelhq/runnel/storage/memory"
	"github.com/runnelhq/runnel/webhook"
)

// Whatever the control paths can call is checked by a guard, needs the token of a wake, or is about the keys of a
// server. A method that the engine lends unseen would be open to everybody.
func TestNoMethodOfSubscriptionsReachesTheEngineUnchecked(t *testing.T) {
	without := map[string]bool{
		"AckWake": true, "ReleaseWake": true, "VerifyToken": true, "ClaimToken": true, // by the token of a wake, or for one
		"CheckWebhook": true, "KeySet": true, "SigningKey": true, // public, or about no subscription
	}
	guarded := reflect.TypeFor[runnel.SubscriptionLog]()
	for asked := range reflect.TypeFor[durablestreams.Subscriptions]().Methods() {
		if _, is := guarded.MethodByName(asked.Name); is == without[asked.Name] {
			t.Errorf("%s: guarded: %v, needs no guard: %v", asked.Name, is, without[asked.Name])
		}
	}
	subs := guardedSubscriptions(t)
	if _, is := subs.SubscriptionLog.(*auth.Guard); !is {
		t.Errorf("where tokens are needed %T stands before subscriptions", subs.SubscriptionLog)
	}
}

// guardedSubscriptions are those of an empty engine that is served where tokens are needed.
func guardedSubscriptions(t *testing.T) *webhook.Subscriptions {
	t.Helper()
	eng, err := engine.Open(new(memory.Driver), engine.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { eng.Close() })
	got, err := parseServe(t)
	if err != nil {
		t.Fatal(err)
	}
	subs, err := got.newSubscriptions(eng, auth.New(auth.Config{}), slog.Default())
	if err != nil {
		t.Fatal(err)
	}
	return subs
}

func TestWhoMayNotCreateASubscriptionIsToldThatFirst(t *testing.T) {
	subs := guardedSubscriptions(t)
	config := runnel.SubscriptionConfig{
		Type: runnel.Webhook, Pattern: "a", WebhookURL: "https://example.com/hook", Base: "http://evil.example/v1/stream",
	}
	for verb, want := range map[auth.Verb]error{auth.Write: runnel.ErrForbidden, auth.Admin: runnel.ErrInvalid} {
		who := auth.NewPrincipal("who", time.Time{}, auth.Scope{Verbs: verb})
		if _, _, err := subs.CreateSubscription(auth.WithPrincipal(t.Context(), who), runnel.Store{}, "s", config); !errors.Is(err, want) {
			t.Errorf("%v: %v", verb, err)
		}
	}
	if _, _, err := subs.CreateSubscription(t.Context(), runnel.Store{}, "s", config); !errors.Is(err, runnel.ErrUnauthorized) {
		t.Errorf("nobody: %v", err)
	}
}
