package engine_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/engine"
	"github.com/runnelhq/runnel/storage"
	"github.com/runnelhq/runnel/storage/memory"
)

var noStore runnel.Store

// subscribed is an engine with a pull-wake subscription to events/**.
type subscribed struct {
	*testing.T
	*engine.Engine
}

func subscribe(t *testing.T, driver storage.Driver, pattern string) *subscribed {
	t.Helper()
	e, err := engine.Open(driver, engine.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	return subscribeTo(t, e, pattern)
}

func subscribeTo(t *testing.T, e *engine.Engine, pattern string) *subscribed {
	t.Helper()
	s := &subscribed{t, e}
	s.make("wake/pool", runnel.CreateOptions{ContentType: "application/json"})
	if _, _, err := e.CreateSubscription(t.Context(), noStore, "sub", runnel.SubscriptionConfig{
		Type: runnel.PullWake, Pattern: pattern, WakeStream: "wake/pool", LeaseTTL: time.Second,
	}); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *subscribed) path(path string) runnel.Segment {
	s.Helper()
	seg, err := runnel.ParsePath(noStore, path)
	if err != nil {
		s.Fatal(err)
	}
	return seg
}

func (s *subscribed) make(path string, o runnel.CreateOptions) {
	s.Helper()
	if _, err := s.Create(s.Context(), s.path(path), o); err != nil {
		s.Fatal(err)
	}
}

func (s *subscribed) put(path string) {
	s.Helper()
	if _, err := s.Append(s.Context(), s.path(path), runnel.AppendOptions{Create: &runnel.CreateOptions{}}, runnel.Record{Payload: []byte("x")}); err != nil {
		s.Fatal(err)
	}
}

func (s *subscribed) wakes() []string {
	s.Helper()
	synctest.Wait()
	view, err := s.Read(s.Context(), s.path("wake/pool"), 0, 0)
	if err != nil {
		s.Fatal(err)
	}
	var all []string
	for batch, err := range view.Batches {
		if err != nil {
			s.Fatal(err)
		}
		for i := range batch.Len() {
			all = append(all, string(batch.Entry(i).Payload))
		}
	}
	return all
}

func (s *subscribed) claim(worker string) runnel.Wake {
	s.Helper()
	w, err := s.ClaimWake(s.Context(), noStore, "sub", worker)
	if err != nil {
		s.Fatal(err)
	}
	return w
}

func (s *subscribed) ack(w runnel.Wake, path string, at runnel.Sequence, done bool) bool {
	s.Helper()
	more, err := s.AckWake(s.Context(), w.WakeRef, []runnel.WakeAck{{Path: path, Acked: at}}, done)
	if err != nil {
		s.Fatal(err)
	}
	return more
}

// The process that makes the wake stream again has not found the mark that the other one has left on a stream.
func TestAWakeIsToldAgainByAnotherProcessWithItsStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := overtake(t)
		synctest.Wait()
		s.put("events/a")
		told := s.wakes()
		if err := s.other.Delete(t.Context(), s.path("wake/pool")); err != nil {
			t.Fatal(err)
		}
		s.other.make("wake/pool", runnel.CreateOptions{ContentType: "application/json"})
		if got := s.wakes(); len(told) != 1 || !slices.Equal(got, told) {
			t.Fatalf("the wake was told as %v, and again as %v", told, got)
		}
	})
}

// TestAWakeStreamThatIsMadeAgainIsToldOfTheWakesThatNobodyHas deletes the stream in which a wake was told before
// anybody claimed it.
func TestAWakeStreamThatIsMadeAgainIsToldOfTheWakesThatNobodyHas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := subscribe(t, new(memory.Driver), "events/*")
		again := func() {
			t.Helper()
			if err := s.Delete(t.Context(), s.path("wake/pool")); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			s.make("wake/pool", runnel.CreateOptions{ContentType: "application/json"})
		}
		again()
		if got := s.wakes(); len(got) != 0 {
			t.Fatalf("there is no wake, and it was told of %v", got)
		}
		s.put("events/a")
		told := s.wakes()
		for range 2 {
			again()
			if got := s.wakes(); len(got) != 1 || got[0] != told[0] {
				t.Fatalf("the wake is %v, and the stream was told of %v", told, got)
			}
		}
		w := s.claim("one")
		again()
		if got := s.wakes(); len(got) != 0 {
			t.Fatalf("somebody has the wake, and the stream was told of %v", got)
		}
		s.put("events/b")
		if !s.ack(w, "events/a", 1, true) {
			t.Fatal("events/b has work")
		}
		if got := s.wakes(); len(got) != 1 || !strings.Contains(got[0], `"generation":2`) {
			t.Fatal(got)
		}
	})
}

// TestCursorsOfStreamsThatAreGoneAreRemoved works on many streams that do not live long, one of which somebody may
// ack to the end.
func TestCursorsOfStreamsThatAreGoneAreRemoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		driver := new(memory.Driver)
		s := subscribe(t, driver, "events/*")
		cursors := func(want int) {
			t.Helper()
			synctest.Wait()
			n := 0
			for _, err := range driver.Scan(t.Context(), storage.Partition{Name: runnel.ReservedElement}, storage.Range{From: []byte{'u'}, To: []byte{'u' + 1}}) {
				if err != nil {
					t.Fatal(err)
				}
				n++
			}
			if n != want {
				t.Fatalf("there are %d cursors, want %d", n, want)
			}
		}
		for i := range 10 {
			path := fmt.Sprintf("events/%d", i)
			s.put(path)
			s.ack(s.claim("one"), path, 1, true)
			if err := s.Delete(t.Context(), s.path(path)); err != nil {
				t.Fatal(err)
			}
		}
		cursors(1) // of the last, which no wake has come by
		s.put("events/stays")
		w := s.claim("one")
		cursors(2)
		if err := s.Delete(t.Context(), s.path("events/stays")); err != nil {
			t.Fatal(err)
		}
		s.put("events/stays")
		if s.ack(w, "events/stays", 1, false) {
			t.Fatal("it was of another stream")
		}
		cursors(2)
		s.ack(w, "events/stays", 1, true)
		w = s.claim("one")
		if l := w.Streams[0]; l.Path != "events/stays" || l.Acked != 0 || l.Tail != 1 {
			t.Fatal(w)
		}
		s.ack(w, "events/stays", 1, true)
		cursors(1)
	})
}

func TestAppendsWakeASubscriptionOnceUntilTheyAreAcknowledged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := subscribe(t, new(memory.Driver), "events/*")
		s.put("events/a")
		s.put("events/a")
		s.put("events/b")
		s.put("other/a")
		if got := s.wakes(); len(got) != 1 || !strings.Contains(got[0], `"generation":1`) {
			t.Fatal(got)
		}
		w := s.claim("one")
		if len(w.Streams) != 2 || w.Generation != 1 || !w.Streams[0].Pending() {
			t.Fatal(w)
		}
		var held *runnel.WakeHeldError
		if _, err := s.ClaimWake(t.Context(), noStore, "sub", "two"); !errors.As(err, &held) || held.Holder != "one" {
			t.Fatal(err)
		}
		if more := s.ack(w, "events/a", 2, true); !more {
			t.Fatal("events/b has work")
		}
		if got := s.wakes(); len(got) != 2 {
			t.Fatal(got)
		}
		w = s.claim("two")
		if more := s.ack(w, "events/b", 1, true); more {
			t.Fatal("there is no more work")
		}
		if got := s.wakes(); len(got) != 2 {
			t.Fatal(got)
		}
		if _, err := s.ClaimWake(t.Context(), noStore, "sub", "two"); !errors.Is(err, runnel.ErrNoWork) {
			t.Fatal(err)
		}
		s.put("events/a")
		if got := s.wakes(); len(got) != 3 {
			t.Fatal(got)
		}
	})
}

func TestWhatComesWhileAWakeIsInFlightIsFoundAtItsEnd(t *testing.T) {
	for _, way := range []struct {
		name string
		end  func(s *subscribed, w runnel.Wake) error
	}{
		{"it is done", func(s *subscribed, w runnel.Wake) error {
			_, err := s.AckWake(s.Context(), w.WakeRef, []runnel.WakeAck{{Path: "events/a", Acked: 1}}, true)
			return err
		}},
		{"it is released", func(s *subscribed, w runnel.Wake) error { return s.ReleaseWake(s.Context(), w.WakeRef) }},
		{"its lease ends", func(_ *subscribed, w runnel.Wake) error {
			time.Sleep(w.LeaseTTL + time.Second) //nolint:forbidigo // time is fake
			return nil
		}},
	} {
		t.Run(way.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := subscribe(t, new(memory.Driver), "events/*")
				s.put("events/a")
				s.wakes() // waits until nothing more is done
				w := s.claim("one")
				s.wakes()
				s.put("events/b")
				if got := s.wakes(); len(got) != 1 {
					t.Fatal(got)
				}
				if err := way.end(s, w); err != nil {
					t.Fatal(err)
				}
				if got := s.wakes(); len(got) != 2 {
					t.Fatal(got)
				}
				if w = s.claim("two"); !slices.ContainsFunc(w.Streams, func(l runnel.SubscriptionLink) bool { return l.Path == "events/b" && l.Pending() }) {
					t.Fatal(w)
				}
			})
		})
	}
}

func TestALeaseThatEndsFencesItsHolderAndBeginsTheNextWake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := subscribe(t, new(memory.Driver), "events/*")
		s.put("events/a")
		s.wakes()
		w := s.claim("one")
		time.Sleep(900 * time.Millisecond) //nolint:forbidigo // time is fake
		s.ack(w, "events/a", 0, false)     // a heartbeat
		time.Sleep(900 * time.Millisecond) //nolint:forbidigo // time is fake
		s.ack(w, "events/a", 0, false)
		time.Sleep(1100 * time.Millisecond) //nolint:forbidigo // time is fake
		_, err := s.AckWake(t.Context(), w.WakeRef, []runnel.WakeAck{{Path: "events/a", Acked: 1}}, true)
		if !errors.Is(err, runnel.ErrFenced) {
			t.Fatal(err)
		}
		if got := s.wakes(); len(got) != 2 || !strings.Contains(got[1], `"generation":2`) {
			t.Fatal(got)
		}
		next := s.claim("two")
		if next.Generation != 2 || next.Streams[0].Acked != 0 {
			t.Fatal(next)
		}
	})
}

func TestAWorkerThatIsSaidToBeFencedStaysFencedWhenTheClockGoesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ahead atomic.Int64
		e, err := engine.Open(new(memory.Driver), engine.Config{Now: func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }})
		if err != nil {
			t.Fatal(err)
		}
		defer e.Close()
		s := subscribeTo(t, e, "events/*")
		s.put("events/a")
		s.wakes()
		w := s.claim("one")
		acks := []runnel.WakeAck{{Path: "events/a", Acked: 1}}
		ahead.Store(int64(1100 * time.Millisecond))
		if _, err := s.AckWake(t.Context(), w.WakeRef, acks, true); !errors.Is(err, runnel.ErrFenced) {
			t.Fatal(err)
		}
		ahead.Store(0)
		if _, err := s.AckWake(t.Context(), w.WakeRef, acks, true); !errors.Is(err, runnel.ErrFenced) {
			t.Fatalf("a worker that was fenced is told %v", err)
		}
		s.wakes()
		if next := s.claim("two"); next.Generation != 2 || next.Streams[0].Acked != 0 {
			t.Fatal(next)
		}
	})
}

func TestSubscriptionsSurviveARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		driver := new(memory.Driver)
		s := subscribe(t, driver, "events/**")
		s.put("events/a")
		s.wakes()
		w := s.claim("one")
		s.ack(w, "events/a", 1, false)
		s.put("events/a")
		s.put("events/deep/b")
		s.Close()
		e, err := engine.Open(driver, engine.Config{})
		if err != nil {
			t.Fatal(err)
		}
		defer e.Close()
		s = &subscribed{t, e}
		synctest.Wait()
		var held *runnel.WakeHeldError
		if _, err := s.ClaimWake(t.Context(), noStore, "sub", "two"); !errors.As(err, &held) {
			t.Fatal(err)
		}
		if more := s.ack(w, "events/a", 2, true); !more {
			t.Fatal("events/deep/b has work")
		}
		if got := s.wakes(); len(got) != 2 {
			t.Fatal(got)
		}
		next := s.claim("two")
		if next.Generation != 2 || next.Streams[0].Path != "events/deep/b" || next.Streams[0].Acked != 0 {
			t.Fatal(next)
		}
	})
}

func TestStreamsThatWereThereAreLinkedAtTheirTails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		driver := new(memory.Driver)
		e, _ := engine.Open(driver, engine.Config{})
		s := &subscribed{t, e}
		s.put("events/old")
		s.put("events/old")
		e.Close()
		s = subscribe(t, driver, "events/*")
		if got := s.wakes(); len(got) != 0 {
			t.Fatal(got)
		}
		s.put("events/old")
		s.put("events/new")
		w := s.claim("one")
		got := map[string]runnel.SubscriptionLink{}
		for _, l := range w.Streams {
			got[l.Path] = l
		}
		if got["events/old"].Acked != 2 || got["events/new"].Acked != 0 {
			t.Fatal(got)
		}
	})
}

func TestADeletedSubscriptionMovesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := subscribe(t, new(memory.Driver), "events/*")
		s.put("events/a")
		w := s.claim("one")
		if err := s.DeleteSubscription(t.Context(), noStore, "sub"); err != nil {
			t.Fatal(err)
		}
		if _, err := s.AckWake(t.Context(), w.WakeRef, nil, true); !errors.Is(err, runnel.ErrNotFound) {
			t.Fatal(err)
		}
		s.put("events/a")
	})
}

func TestPatterns(t *testing.T) {
	for _, c := range []struct {
		pattern, path string
		want          bool
	}{
		{"events/*", "events/a", true},
		{"events/*", "events", false},
		{"events/*", "events/a/b", false},
		{"events/**", "events", true},
		{"events/**", "events/a/b", true},
		{"**", "a", true},
		{"**/z", "z", true},
		{"**/z", "a/b/z", true},
		{"**/z", "a/z/b", false},
		{"a/**/m/*/z", "a/m/m/x/z", true},
		{"a/**/m/*/z", "a/m/x/y/z", false},
		{"a/b", "a/b", true},
		{"a/*b", "a/xb", false},
	} {
		if got := runnel.MatchPattern(c.pattern, c.path); got != c.want {
			t.Errorf("%s %s: %v", c.pattern, c.path, got)
		}
		synctest.Test(t, func(t *testing.T) {
			s := subscribe(t, new(memory.Driver), c.pattern)
			s.put(c.path)
			if got := len(s.wakes()) == 1; got != c.want {
				t.Errorf("the index: %s %s: %v", c.pattern, c.path, got)
			}
		})
	}
}

// An attempt that outlives its time is made again beside it. Whichever of the two is accepted has a lease, at the
// end of which there is another wake, if nobody has called back.
func TestAnAttemptThatIsAcceptedAfterAnotherHasFailedHasALease(t *testing.T) {
	for _, failed := range []runnel.WebhookResult{runnel.WebhookRetry, runnel.WebhookParked} {
		synctest.Test(t, func(t *testing.T) {
			s := subscribe(t, new(memory.Driver), "other")
			if _, _, err := s.CreateSubscription(t.Context(), noStore, "hook", runnel.SubscriptionConfig{
				Type: runnel.Webhook, Pattern: "events/*", WebhookURL: "https://worker.example.com/hooks", LeaseTTL: 5 * time.Second,
			}); err != nil {
				t.Fatal(err)
			}
			s.put("events/a")
			synctest.Wait()
			var attempts []runnel.WebhookDelivery
			for range 2 {
				d, err := s.ClaimDelivery(t.Context(), noStore, "hook", time.Now().Add(time.Second))
				if err != nil {
					t.Fatal(err)
				}
				attempts = append(attempts, d)
				pass(2 * time.Second)
			}
			for i, o := range []runnel.WebhookOutcome{
				{Result: failed, Failures: 1, NextAttempt: time.Now().Add(time.Minute)},
				{Result: runnel.WebhookAccepted},
			} {
				if err := s.SettleDelivery(t.Context(), attempts[i], o); err != nil {
					t.Fatal(err)
				}
			}
			pass(6 * time.Second)
			d, err := s.ClaimDelivery(t.Context(), noStore, "hook", time.Now().Add(time.Second))
			if err != nil || d.Generation != attempts[0].Generation+1 {
				t.Errorf("when the lease is over: generation %d after %d, %v", d.Generation, attempts[0].Generation, err)
			}
		})
	}
}
