package engine_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/engine"
	"github.com/runnelhq/runnel/storage/faulty"
	"github.com/runnelhq/runnel/storage/memory"
)

func TestADropMovesNothingBackThatAnotherProcessHasBroughtToAnotherStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := dropElsewhere(t, "events/*")
		s.with(func() {
			s.other.remake("events/a", 3)
			if err := s.other.ReplayDelivery(t.Context(), noStore, "hook"); err != nil {
				t.Error(err)
			}
			d := s.other.attempt()
			if _, err := s.other.AckWake(t.Context(), d.WakeRef, []runnel.WakeAck{{Path: "events/a", Acked: 2}}, true); err != nil {
				t.Error(err)
			}
			s.other.failDelivery()
		})
		if err := s.DropDelivery(t.Context(), noStore, "hook"); err != nil || !s.was {
			t.Fatalf("the drop was overtaken: %v; and answered with %v", s.was, err)
		}
		for l, err := range s.other.SubscriptionLinks(t.Context(), noStore, "hook") {
			if err != nil || l.Acked != 2 || l.Tail != 3 {
				t.Errorf("%+v, %v", l, err)
			}
		}
	})
}

func TestADropLinksNothingAgainThatAnotherProcessHasUnlinked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := dropElsewhere(t, "")
		s.with(func() {
			if err := s.other.UnlinkStream(t.Context(), noStore, "hook", "events/a"); err != nil {
				t.Error(err)
			}
		})
		if err := s.DropDelivery(t.Context(), noStore, "hook"); err != nil || !s.was {
			t.Fatalf("the drop was overtaken: %v; and answered with %v", s.was, err)
		}
		for l, err := range s.other.SubscriptionLinks(t.Context(), noStore, "hook") {
			t.Errorf("%+v, %v", l, err)
		}
	})
}

// dropElsewhere are two processes over one storage, with a webhook whose delivery of two entries of events/a has failed.
func dropElsewhere(t *testing.T, pattern string) *overtaken {
	t.Helper()
	s := overtake(t)
	config := runnel.SubscriptionConfig{Type: runnel.Webhook, Pattern: pattern, WebhookURL: "https://worker.example.com/hooks"}
	if pattern == "" {
		config.Streams = []string{"events/a"}
	}
	if _, _, err := s.CreateSubscription(t.Context(), noStore, "hook", config); err != nil {
		t.Fatal(err)
	}
	s.put("events/a")
	s.put("events/a")
	s.failDelivery()
	return s
}

// overtaken is a process that another one on the same storage overtakes.
type overtaken struct {
	*subscribed
	shared *memory.Driver
	driver *faulty.Driver
	other  *subscribed
	was    bool
}

func overtake(t *testing.T) *overtaken {
	t.Helper()
	shared := &memory.Driver{Shared: true}
	driver := faulty.New(shared)
	s := subscribe(t, driver, "events/*")
	e, err := engine.Open(shared, engine.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	return &overtaken{subscribed: s, shared: shared, driver: driver, other: &subscribed{t, e}}
}

// with does something by way of the other process when this one is about to commit to a subscription.
func (o *overtaken) with(do func()) {
	synctest.Wait()
	o.driver.SetRules(faulty.Rule{
		When: func(c faulty.Call) bool { return c.Op == faulty.Commit && c.Partition.Name == runnel.ReservedElement },
		Then: func(ctx context.Context, _ faulty.Call, through func(context.Context) error) error {
			o.driver.SetRules()
			o.was = true
			do()
			return through(ctx)
		},
	})
}

// attempt takes the wake of the webhook to deliver it.
func (s *subscribed) attempt() runnel.WebhookDelivery {
	s.Helper()
	synctest.Wait()
	d, err := s.ClaimDelivery(s.Context(), noStore, "hook", time.Now().Add(time.Second))
	if err != nil {
		s.Error(err)
	}
	return d
}

// failDelivery lets an attempt to deliver it fail.
func (s *subscribed) failDelivery() {
	s.Helper()
	failed := runnel.WebhookOutcome{Result: runnel.WebhookRetry, Failures: 1, NextAttempt: time.Now().Add(time.Minute)}
	if err := s.SettleDelivery(s.Context(), s.attempt(), failed); err != nil {
		s.Error(err)
	}
	synctest.Wait()
}
