package oracle_test

import (
	"slices"
	"testing"
	"time"

	"github.com/runnelhq/runnel/proof/oracle"
)

var noon = time.Date(2000, 1, 1, 12, 0, 0, 0, time.UTC)

// said is a subscription at a generation whose orders are acknowledged up to a place.
func said(generation uint64, acked int) *oracle.Subscription {
	return &oracle.Subscription{Generation: generation, Acked: map[string]int{orders: acked}}
}

func TestEachInvariantOfWakesCanFail(t *testing.T) {
	cases := []struct {
		name      string
		invariant string
		run       func(*oracle.Wakes)
	}{
		{"a wake of an earlier generation comes", oracle.WakesForward, func(w *oracle.Wakes) {
			w.Sent(2, "b", noon)
			w.Sent(1, "a", noon)
		}},
		{"a generation is two wakes", oracle.WakesForward, func(w *oracle.Wakes) {
			w.Sent(1, "a", noon)
			w.Sent(1, "b", noon)
		}},
		{"the subscription goes back", oracle.WakesForward, func(w *oracle.Wakes) {
			w.Sent(3, "c", noon)
			w.Check(said(2, 0), noon)
		}},
		{"an ack is accepted after the next wake has come", oracle.FencedIsStill, func(w *oracle.Wakes) {
			w.Sent(1, "a", noon)
			w.Sent(2, "b", noon)
			w.Calling(1).Accepted(false)
		}},
		{"an ack is accepted after the end of the wake", oracle.FencedIsStill, func(w *oracle.Wakes) {
			w.Sent(1, "a", noon)
			w.Calling(1).Accepted(true)
			w.Calling(1).Accepted(false)
		}},
		{"an entry is acknowledged that nobody had in hand", oracle.WakesForAll, func(w *oracle.Wakes) {
			w.InHand(orders, 0, 1)
			w.InHand(orders, 2, 3)
			w.Check(said(1, 3), noon)
		}},
		{"an append is never told of", oracle.WakesForAll, func(w *oracle.Wakes) {
			w.InHand(orders, 0, 2)
			w.Check(said(1, 2), noon)
			w.CheckDone(orders, 3)
		}},
		{"a stream is never told of", oracle.WakesForAll, func(w *oracle.Wakes) {
			w.Check(&oracle.Subscription{}, noon)
			w.CheckDone(orders, 1)
		}},
		{"progress goes back", oracle.KeepsProgress, func(w *oracle.Wakes) {
			w.InHand(orders, 0, 2)
			w.Check(said(1, 2), noon)
			w.Check(said(1, 1), noon)
		}},
		{"progress is gone", oracle.KeepsProgress, func(w *oracle.Wakes) {
			w.InHand(orders, 0, 2)
			w.Check(said(1, 2), noon)
			w.Check(&oracle.Subscription{Generation: 1}, noon)
		}},
		{"an attempt is made before its time", oracle.KeepsSchedule, func(w *oracle.Wakes) {
			w.Sent(1, "a", noon)
			w.Scheduled(1, noon.Add(time.Second))
			w.Sent(1, "a", noon.Add(time.Second/2))
		}},
		{"the next attempt is forgotten", oracle.KeepsSchedule, func(w *oracle.Wakes) {
			w.Scheduled(1, noon.Add(time.Second))
			w.Check(said(1, 0), noon)
		}},
		{"a failure is stored without a next attempt", oracle.KeepsSchedule, func(w *oracle.Wakes) {
			w.Sent(1, "a", noon)
			w.Scheduled(1, time.Time{})
		}},
		{"how often it failed is forgotten", oracle.KeepsSchedule, func(w *oracle.Wakes) {
			w.Scheduled(2, noon.Add(time.Second))
			w.Check(&oracle.Subscription{Generation: 1, Attempts: 1, Next: noon.Add(time.Second)}, noon)
		}},
		{"a parked delivery is tried", oracle.StaysParked, func(w *oracle.Wakes) {
			w.Parked()
			w.Sent(1, "a", noon)
		}},
		{"that a delivery is parked is forgotten", oracle.StaysParked, func(w *oracle.Wakes) {
			w.Parked()
			w.Check(said(1, 0), noon)
		}},
	}
	seen := make(map[string]bool)
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			var w oracle.Wakes
			c.run(&w)
			found := w.Violations()
			if !slices.ContainsFunc(found, func(v oracle.Violation) bool { return v.Invariant == c.invariant }) {
				t.Errorf("found %v, want %q", found, c.invariant)
			}
			seen[c.invariant] = true
		})
	}
	for _, name := range oracle.WakeInvariants() {
		if !seen[name] {
			t.Errorf("nothing violates %q", name)
		}
	}
}

func TestWakesThatAreAsTheyShouldBe(t *testing.T) {
	cases := []struct {
		name string
		run  func(*oracle.Wakes)
	}{
		{"a wake is sent until it is answered, and then the next one", func(w *oracle.Wakes) {
			w.Sent(1, "a", noon)
			w.Scheduled(1, noon.Add(time.Second))
			w.Check(&oracle.Subscription{Generation: 1, Attempts: 1, Next: noon.Add(time.Second)}, noon)
			w.Sent(1, "a", noon.Add(time.Second))
			w.InHand(orders, 0, 2)
			w.Check(said(1, 2), noon.Add(2*time.Second))
			w.CheckDone(orders, 2)
			w.Sent(2, "b", noon.Add(2*time.Second))
		}},
		{"an ack is under way while the next wake comes", func(w *oracle.Wakes) {
			w.Sent(1, "a", noon)
			call := w.Calling(1)
			w.Sent(2, "b", noon)
			call.Accepted(true)
		}},
		{"a wake is ended while it is sent once more", func(w *oracle.Wakes) {
			w.Sent(1, "a", noon)
			w.Calling(1).Accepted(true)
			w.Check(said(2, 0), noon)
			w.Sent(1, "a", noon)
			w.Sent(2, "b", noon)
		}},
		{"a parked delivery is replayed", func(w *oracle.Wakes) {
			w.Sent(1, "a", noon)
			w.Parked()
			w.Check(&oracle.Subscription{Generation: 1, Parked: true}, noon)
			w.Replayed()
			w.Sent(1, "a", noon)
		}},
		{"what is said of the next attempt is heard late", func(w *oracle.Wakes) {
			w.Sent(1, "a", noon.Add(time.Second))
			w.Scheduled(1, noon.Add(time.Second))
			w.Sent(2, "b", noon.Add(time.Second))
		}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			var w oracle.Wakes
			c.run(&w)
			if found := w.Violations(); len(found) > 0 {
				t.Error(found)
			}
		})
	}
}
