package engine_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/storage/faulty"
	"github.com/runnelhq/runnel/storage/memory"
)

// remake deletes a stream and makes it again with so many entries.
func (s *subscribed) remake(path string, entries int) {
	s.Helper()
	if err := s.Delete(s.Context(), s.path(path)); err != nil {
		s.Fatal(err)
	}
	for range entries {
		s.put(path)
	}
	synctest.Wait()
}

// pending returns what a wake tells of a stream with work.
func (s *subscribed) pending(w *runnel.Wake, path string) runnel.SubscriptionLink {
	s.Helper()
	for _, l := range w.Streams {
		if l.Path == path && l.Pending() {
			return l
		}
	}
	s.Fatalf("%s has no work in %+v", path, w.Streams)
	return runnel.SubscriptionLink{}
}

func TestAnAckDoesNotMoveAStreamThatTookTheNameOfTheOneToldOf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := subscribe(t, new(memory.Driver), "events/*")
		s.put("events/a")
		s.put("events/a")
		s.put("events/b")
		w := s.claim("one")
		s.remake("events/a", 3)
		more, err := s.AckWake(t.Context(), w.WakeRef, []runnel.WakeAck{{Path: "events/a", Acked: 2}, {Path: "events/b", Acked: 1}}, true)
		if err != nil || !more {
			t.Fatal(more, err)
		}
		w = s.claim("two")
		if l := s.pending(&w, "events/a"); l.Acked != 0 || l.Tail != 3 {
			t.Fatalf("of the stream made again a wake tells %+v", l)
		}
		if more := s.ack(w, "events/a", 3, true); more {
			t.Fatal("there is no more work")
		}
	})
}

func TestWhatAWakeTellsOfCanBeAcked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		driver := faulty.New(new(memory.Driver))
		s := subscribe(t, driver, "events/*")
		if err := s.LinkStreams(t.Context(), noStore, "sub", []string{"other"}); err != nil {
			t.Fatal(err)
		}
		s.put("events/a")
		s.wakes()
		// The other stream is made when the wake has been given, and is being described.
		cursors := func(c faulty.Call) bool {
			return c.Op == faulty.Scan && len(c.Range.From) > 0 && c.Range.From[0] == 'u'
		}
		driver.SetRules(faulty.Rule{When: cursors, Then: faulty.Wait(func(context.Context) error {
			driver.SetRules()
			s.put("other")
			return nil
		}, letThrough)})
		w := s.claim("one")
		if driver.SetRules(); len(w.Streams) != 2 {
			t.Fatal(w.Streams)
		}
		var acks []runnel.WakeAck
		for _, l := range w.Streams {
			acks = append(acks, runnel.WakeAck{Path: l.Path, Acked: l.Tail})
		}
		if more, err := s.AckWake(t.Context(), w.WakeRef, acks, true); err != nil || !more {
			t.Fatal(more, err)
		}
		told := make(map[string]runnel.Sequence)
		for _, ack := range acks {
			told[ack.Path] = ack.Acked
		}
		for l, err := range s.SubscriptionLinks(t.Context(), noStore, "sub") {
			if err != nil || l.Acked != told[l.Path] {
				t.Errorf("%s was acked up to %d, and is at %d: %v", l.Path, told[l.Path], l.Acked, err)
			}
		}
		w = s.claim("two")
		s.pending(&w, "other")
	})
}

func TestAnAckOfAStreamThatIsGoneOrHasLessIsNoMistake(t *testing.T) {
	for _, entries := range []int{0, 1} {
		synctest.Test(t, func(t *testing.T) {
			s := subscribe(t, new(memory.Driver), "events/*")
			s.put("events/a")
			s.put("events/a")
			w := s.claim("one")
			s.remake("events/a", entries)
			if more := s.ack(w, "events/a", 2, true); more != (entries > 0) {
				t.Fatal(more)
			}
			if entries > 0 {
				w = s.claim("two")
				s.pending(&w, "events/a")
			}
		})
	}
}

func TestAnAckDoesNotMoveAStreamThatTheWakeDidNotTellOf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := subscribe(t, new(memory.Driver), "events/*")
		s.put("events/a")
		w := s.claim("one")
		s.put("events/b")
		s.remake("events/b", 1)
		if more := s.ack(w, "events/b", 1, false); more {
			t.Fatal("the wake goes on")
		}
		if more := s.ack(w, "events/a", 1, true); !more {
			t.Fatal("events/b has work")
		}
		w = s.claim("two")
		s.pending(&w, "events/b")
	})
}

// What is left to do is looked for while the deletion of a stream and the one that takes its name are on their way to
// storage, so that readers see the old one, which has as many entries.
func TestWorkIsToldOfAStreamThatComesWhileTheOneBeforeIsWorkedOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		driver := faulty.New(new(memory.Driver))
		s := subscribe(t, driver, "events/*")
		s.put("events/a")
		s.put("events/a")
		w := s.claim("one")
		let := make(chan struct{})
		driver.SetRules(faulty.Rule{
			When: func(c faulty.Call) bool { return c.Op == faulty.Commit && c.Partition.Name == "events" },
			Then: faulty.Wait(func(context.Context) error { <-let; return nil }, faulty.Through),
		})
		deleted := later(func() error { return s.Delete(t.Context(), s.path("events/a")) })
		synctest.Wait()
		made := later(func() error {
			_, err := s.Append(t.Context(), s.path("events/a"), runnel.AppendOptions{Create: &runnel.CreateOptions{}}, records("x", "y")...)
			return err
		})
		synctest.Wait()
		s.ack(w, "events/a", 2, true)
		synctest.Wait()
		close(let)
		if err := errors.Join(<-deleted, <-made); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		w = s.claim("two")
		if l := s.pending(&w, "events/a"); l.Acked != 0 || l.Tail != 2 {
			t.Fatalf("of the stream that came a wake tells %+v", l)
		}
	})
}

// Storage is made to wait once the wake is given, so that a stream comes before the others are listed.
func TestAWakeShowsNoWorkThatItsAcksWouldNotCountFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		driver := faulty.New(new(memory.Driver))
		s := subscribe(t, driver, "events/*")
		if err := s.LinkStreams(t.Context(), noStore, "sub", []string{"other/a"}); err != nil {
			t.Fatal(err)
		}
		s.put("events/a")
		synctest.Wait()
		came := false
		driver.SetRules(faulty.Rule{
			When: func(c faulty.Call) bool { return c.Op == faulty.Scan && !came },
			Then: func(ctx context.Context, _ faulty.Call, do func(context.Context) error) error {
				came = true
				s.put("other/a")
				return do(ctx)
			},
		})
		w := s.claim("one")
		if !came || w.Streams[len(w.Streams)-1] != (runnel.SubscriptionLink{Path: "other/a", Explicit: true}) {
			t.Fatalf("it came: %v; %+v", came, w.Streams)
		}
		if more := s.ack(w, "events/a", 1, true); !more {
			t.Fatal("other/a has work")
		}
	})
}

// However a subscription comes by a stream while a wake is in flight, only the next one is of it.
func TestAnAckDoesNotMoveAStreamThatWasLinkedSinceTheWakeWasGiven(t *testing.T) {
	for _, pattern := range []string{"events/*", "other"} {
		synctest.Test(t, func(t *testing.T) {
			s := subscribe(t, new(memory.Driver), pattern)
			link := func() {
				t.Helper()
				if err := s.LinkStreams(t.Context(), noStore, "sub", []string{"events/a"}); err != nil {
					t.Fatal(err)
				}
			}
			link()
			s.put("events/a")
			w := s.claim("one")
			if err := s.UnlinkStream(t.Context(), noStore, "sub", "events/a"); err != nil {
				t.Fatal(err)
			}
			s.remake("events/a", 1)
			link()
			s.put("events/a")
			s.put("events/a")
			if more := s.ack(w, "events/a", 3, true); !more {
				t.Fatal("the stream made again has work")
			}
			w = s.claim("two")
			want := runnel.Sequence(1) // where it was linked
			if pattern == "events/*" {
				want = 0 // it was linked before it was named
			}
			if l := s.pending(&w, "events/a"); l.Acked != want || l.Tail != 3 || !l.Explicit {
				t.Fatalf("%+v", l)
			}
			if more := s.ack(w, "events/a", 3, true); more {
				t.Fatal("there is no more work")
			}
		})
	}
}

func TestNamingAStreamThatThePatternLinksSkipsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := subscribe(t, new(memory.Driver), "events/*")
		s.put("events/a")
		if err := s.LinkStreams(t.Context(), noStore, "sub", []string{"events/a"}); err != nil {
			t.Fatal(err)
		}
		w := s.claim("one")
		if l := s.pending(&w, "events/a"); l.Acked != 0 {
			t.Fatalf("%+v", l)
		}
	})
}

// hook makes a webhook subscription to events/*, and returns what takes its wakes to deliver them.
func (s *subscribed) hook() (deliver func() runnel.WebhookDelivery) {
	s.Helper()
	if _, _, err := s.CreateSubscription(s.Context(), noStore, "hook", runnel.SubscriptionConfig{
		Type: runnel.Webhook, Pattern: "events/*", WebhookURL: "https://worker.example.com/hooks", LeaseTTL: 5 * time.Second,
	}); err != nil {
		s.Fatal(err)
	}
	return s.attempt
}

func TestAnEarlierAttemptDoesNotMoveWhatALaterOneWasToldOf(t *testing.T) {
	for _, answer := range []string{"done", "callback"} {
		synctest.Test(t, func(t *testing.T) {
			s := subscribe(t, new(memory.Driver), "other")
			deliver := s.hook()
			s.put("events/a")
			early := deliver()
			pass(2 * time.Second)
			s.remake("events/a", 2)
			late := deliver()
			if l := s.pending(&late.Wake, "events/a"); late.Generation != early.Generation+1 || l.Acked != 0 || l.Tail != 2 {
				t.Fatalf("%+v", late.Wake)
			}
			var err error
			if answer == "done" {
				err = s.SettleDelivery(t.Context(), early, runnel.WebhookOutcome{Result: runnel.WebhookDone})
			} else {
				_, err = s.AckWake(t.Context(), early.WakeRef, []runnel.WakeAck{{Path: "events/a", Acked: 1}}, true)
			}
			if !errors.Is(err, runnel.ErrFenced) {
				t.Fatal(answer, err)
			}
			if err := s.SettleDelivery(t.Context(), late, runnel.WebhookOutcome{Result: runnel.WebhookDone}); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if _, err := s.ClaimDelivery(t.Context(), noStore, "hook", time.Now().Add(time.Second)); !errors.Is(err, runnel.ErrFenced) {
				t.Fatal("there is no more work:", err)
			}
		})
	}
}

// An attempt that the server cuts off is not counted as a failure, and may have come to the receiver all the same.
func TestAnAttemptThatWasCutOffDoesNotMoveWhatALaterOneWasToldOf(t *testing.T) {
	for _, replayed := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			s := subscribe(t, new(memory.Driver), "other")
			deliver := s.hook()
			s.put("events/a")
			early := deliver()
			cut := runnel.WebhookOutcome{Result: runnel.WebhookRetry, NextAttempt: time.Now()}
			if err := s.SettleDelivery(t.Context(), early, cut); err != nil {
				t.Fatal(err)
			}
			s.remake("events/a", 2)
			if replayed {
				if err := s.ReplayDelivery(t.Context(), noStore, "hook"); err != nil {
					t.Fatal(err)
				}
			}
			late := deliver()
			if l := s.pending(&late.Wake, "events/a"); late.Generation != early.Generation+1 || l.Acked != 0 || l.Tail != 2 {
				t.Fatalf("%+v", late.Wake)
			}
			acks := []runnel.WakeAck{{Path: "events/a", Acked: 1}}
			if _, err := s.AckWake(t.Context(), early.WakeRef, acks, false); !errors.Is(err, runnel.ErrFenced) {
				t.Fatal(err)
			}
		})
	}
}

// Who is late may still call back for what an attempt told of, whatever streams have come since.
func TestAStreamThatComesBetweenTwoAttemptsFencesNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := subscribe(t, new(memory.Driver), "other")
		deliver := s.hook()
		s.put("events/a")
		early := deliver()
		pass(2 * time.Second)
		s.put("events/b")
		late := deliver()
		s.pending(&late.Wake, "events/b")
		if late.Generation != early.Generation {
			t.Fatalf("generation %d after %d", late.Generation, early.Generation)
		}
		if _, err := s.AckWake(t.Context(), early.WakeRef, []runnel.WakeAck{{Path: "events/a", Acked: 1}}, false); err != nil {
			t.Fatal(err)
		}
	})
}

// Another process makes a stream again and works on all of it while somebody is given the wake that was of the one
// before.
func TestAClaimMovesNothingBackThatAnotherProcessHasBroughtToAnotherStream(t *testing.T) {
	for _, kind := range []runnel.SubscriptionType{runnel.PullWake, runnel.Webhook} {
		synctest.Test(t, func(t *testing.T) {
			s := overtake(t)
			s.other.hook()
			s.put("events/a")
			synctest.Wait()
			claim, id := s.claimWake, "sub"
			if kind == runnel.Webhook {
				claim, id = s.claimDelivery, "hook"
			}
			s.with(func() {
				s.other.remake("events/a", 3)
				if kind == runnel.PullWake {
					s.other.ack(s.other.claim("one"), "events/a", 3, true)
				} else if err := s.other.SettleDelivery(t.Context(), s.other.attempt(), runnel.WebhookOutcome{Result: runnel.WebhookDone}); err != nil {
					t.Error(err)
				}
				s.other.put("events/a")
				synctest.Wait()
			})
			if err := claim(); !s.was || err != nil {
				t.Errorf("the claim was overtaken: %v; and answered with %v", s.was, err)
			}
			for l, err := range s.SubscriptionLinks(t.Context(), noStore, id) {
				if err != nil || l.Acked != 3 || l.Tail != 4 {
					t.Errorf("%s: %+v, %v", kind, l, err)
				}
			}
		})
	}
}

func (s *subscribed) claimWake() error {
	_, err := s.ClaimWake(s.Context(), noStore, "sub", "two")
	return err
}

func (s *subscribed) claimDelivery() error {
	_, err := s.ClaimDelivery(s.Context(), noStore, "hook", time.Now().Add(time.Second))
	return err
}

// A wake that another process has begun is given at once, also where the mark of its stream has not been found yet.
func TestAWakeIsGivenByAProcessThatHasNotFoundItsStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := overtake(t)
		s.other.hook()
		synctest.Wait()
		s.put("events/a")
		synctest.Wait()
		w := s.other.claim("one")
		s.pending(&w, "events/a")
		d := s.other.attempt()
		s.pending(&d.Wake, "events/a")
	})
}
