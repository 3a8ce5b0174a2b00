package engine_test

import (
	"errors"
	"runtime"
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
