package engine_test

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"testing"
	"testing/synctest"
	"weak"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/engine"
	"github.com/runnelhq/runnel/storage"
	"github.com/runnelhq/runnel/storage/faulty"
	"github.com/runnelhq/runnel/storage/memory"
)

func TestAnAppendWakesAfterOneThatWasRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		driver := faulty.New(new(memory.Driver))
		s := subscribe(t, driver, "events/*")
		s.make("events/a", runnel.CreateOptions{})
		events := func(c faulty.Call) bool { return c.Op == faulty.Commit && c.Partition.Name == "events" }
		driver.SetRules(faulty.Rule{When: events, Then: faulty.Before(storage.ErrRefused)})
		synctest.Wait() // what the creation has begun is over
		record := runnel.Record{Payload: []byte("x")}
		if _, err := s.Append(t.Context(), s.path("events/a"), runnel.AppendOptions{}, record); err == nil {
			t.Fatal("the append was not refused")
		}
		driver.SetRules()
		synctest.Wait()
		s.put("events/a")
		if got := s.wakes(); len(got) != 1 {
			t.Fatalf("%d wakes, want 1", len(got))
		}
	})
}

func TestAClosedEngineIsNotKeptInMemoryByALease(t *testing.T) {
	// A driver is as large as what it keeps, and is what the engine holds on to.
	kept := claimAndClose(t)
	for range 10 {
		runtime.GC()
		if kept.Value() == nil {
			return
		}
	}
	t.Fatal("the driver of a closed engine is still in memory")
}

func claimAndClose(t *testing.T) weak.Pointer[memory.Driver] {
	t.Helper()
	driver := new(memory.Driver)
	e, err := engine.Open(driver, engine.Config{})
	if err != nil {
		t.Fatal(err)
	}
	config := runnel.SubscriptionConfig{Type: runnel.PullWake, Pattern: "events/*", WakeStream: "wake/pool", LeaseTTL: runnel.MaxWakeLease}
	if _, _, err := e.CreateSubscription(t.Context(), noStore, "sub", config); err != nil {
		t.Fatal(err)
	}
	addr := runnel.Segment{Store: noStore, Space: "events", Name: "a"}
	if _, err := e.Append(t.Context(), addr, runnel.AppendOptions{Create: &runnel.CreateOptions{}}, runnel.Record{Payload: []byte("x")}); err != nil {
		t.Fatal(err)
	}
	if _, err := e.ClaimWake(t.Context(), noStore, "sub", "worker"); err != nil && !errors.Is(err, runnel.ErrNoWork) {
		t.Fatal(err)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	return weak.Make(driver)
}

// TestASubscriptionWhoseCreationWasCutOffBeginsWhenItIsAskedFor cuts a creation off when the cursor is stored, and
// puts another stream in the place of the one that it is on, by way of a process that looks after nothing.
func TestASubscriptionWhoseCreationWasCutOffBeginsWhenItIsAskedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shared := &memory.Driver{Shared: true}
		driver, elsewhere := faulty.New(shared), faulty.New(shared)
		open := func(d storage.Driver) *subscribed {
			e, err := engine.Open(d, engine.Config{})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { e.Close() })
			return &subscribed{t, e}
		}
		s, other := open(driver), open(elsewhere)
		elsewhere.SetRules(faulty.Rule{
			When: func(c faulty.Call) bool { return c.Op == faulty.Commit && c.Partition.Name == runnel.ReservedElement },
			Then: func(context.Context, faulty.Call, func(context.Context) error) error { return storage.ErrRefused },
		})
		s.put("events/a")
		ctx, cut := context.WithCancel(t.Context())
		stored := false
		driver.SetRules(faulty.Rule{
			When: func(c faulty.Call) bool { return c.Op == faulty.Commit && c.Partition.Name == runnel.ReservedElement },
			Then: func(ctx context.Context, c faulty.Call, do func(context.Context) error) error {
				if stored {
					cut()
					return storage.ErrRefused
				}
				err := do(ctx)
				stored = stored || slices.ContainsFunc(c.Batch.Ops, func(op storage.Op) bool { return op.Key[0] == 'u' })
				return err
			},
		})
		config := runnel.SubscriptionConfig{Type: runnel.PullWake, Streams: []string{"events/a"}, WakeStream: "wake/pool"}
		if _, _, err := s.CreateSubscription(ctx, noStore, "sub", config); err == nil || !stored {
			t.Fatalf("the cursor was stored: %v; and the creation answered with %v", stored, err)
		}
		other.remake("events/a", 2)
		if info, err := s.Stat(t.Context(), s.path("events/a")); err != nil || info.Tail != 2 {
			t.Fatal(info, err)
		}
		driver.SetRules()
		for range 2 {
			for l, err := range s.SubscriptionLinks(t.Context(), noStore, "sub") {
				if err != nil || l.Path != "events/a" || l.Acked != 2 || l.Tail != 2 {
					t.Fatalf("%+v, %v", l, err)
				}
			}
			if _, err := s.ClaimWake(t.Context(), noStore, "sub", "one"); !errors.Is(err, runnel.ErrNoWork) {
				t.Fatal(err)
			}
		}
		s.put("events/a")
		if w := s.claim("one"); len(w.Streams) != 1 || w.Streams[0].Acked != 2 || w.Streams[0].Tail != 3 {
			t.Fatalf("%+v", w)
		}
	})
}

func TestAnAckThatAnotherProcessHasOvertakenMovesNothingBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shared := &memory.Driver{Shared: true}
		driver := faulty.New(shared)
		s := subscribe(t, driver, "events/*")
		other, err := engine.Open(shared, engine.Config{})
		if err != nil {
			t.Fatal(err)
		}
		defer other.Close()
		s.put("events/a")
		s.put("events/a")
		w := s.claim("worker")
		synctest.Wait()
		overtaken := false
		driver.SetRules(faulty.Rule{
			When: func(c faulty.Call) bool {
				return c.Op == faulty.Get && c.Partition.Name == runnel.ReservedElement && c.Key[0] == 'u' && !overtaken
			},
			Then: func(ctx context.Context, _ faulty.Call, do func(context.Context) error) error {
				overtaken = true
				err := do(ctx)
				if _, err := other.AckWake(ctx, w.WakeRef, []runnel.WakeAck{{Path: "events/a", Acked: 2}}, false); err != nil {
					t.Error(err)
				}
				return err
			},
		})
		_, err = s.AckWake(t.Context(), w.WakeRef, []runnel.WakeAck{{Path: "events/a", Acked: 1}}, false)
		if !errors.Is(err, runnel.ErrAck) || !overtaken {
			t.Fatalf("the ack was overtaken: %v; and answered with %v", overtaken, err)
		}
		for l, err := range other.SubscriptionLinks(t.Context(), noStore, "sub") {
			if err != nil || l.Acked != 2 {
				t.Fatal(l, err)
			}
		}
	})
}
