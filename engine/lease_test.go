package engine_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/engine"
	"github.com/runnelhq/runnel/storage/faulty"
	"github.com/runnelhq/runnel/storage/memory"
)

var leases = runnel.Space{Name: "s"}

func (w *world) lease(key, holder string, ttl time.Duration) (runnel.Lease, error) {
	return w.AcquireLease(ctx, leases, runnel.LeaseRequest{Key: key, Holder: holder, TTL: ttl})
}

func (w *world) mustLease(key, holder string, ttl time.Duration) runnel.Lease {
	w.t.Helper()
	l, err := w.lease(key, holder, ttl)
	if err != nil {
		w.t.Fatal(err)
	}
	return l
}

func TestALeaseIsHeldByOneUntilItsTimeIsOver(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := inMemory(t)
		a := w.mustLease("k", "a", 10*time.Second)
		if a.Holder != "a" || a.Deadline.Sub(a.Granted) != 10*time.Second || a.Number == 0 {
			t.Fatalf("%+v", a)
		}
		pass(9 * time.Second)
		for range 2 { // also after a crash
			_, err := w.lease("k", "b", time.Second)
			wantError(t, err, runnel.ErrLeaseHeld)
			if e := as[*runnel.LeaseHeldError](t, err); e.Lease.Holder != "a" || !e.Lease.Deadline.Equal(a.Deadline) {
				t.Errorf("%+v", e)
			}
			w.crash()
		}
		renewed, err := w.RenewLease(ctx, leases, a.Fence())
		if err != nil || renewed.Number != a.Number || renewed.Deadline.Sub(a.Deadline) != 9*time.Second {
			t.Fatalf("%+v, %v", renewed, err)
		}
		pass(10 * time.Second)
		_, err = w.RenewLease(ctx, leases, a.Fence())
		wantError(t, err, runnel.ErrLeaseLost)
		b := w.mustLease("k", "b", time.Second)
		if b.Number <= a.Number {
			t.Fatalf("%d after %d", b.Number, a.Number)
		}
		_, err = w.RenewLease(ctx, leases, a.Fence())
		wantError(t, err, runnel.ErrLeaseLost)
		if e := as[*runnel.LeaseLostError](t, err); e.Current != b.Number {
			t.Errorf("%+v", e)
		}
		wantError(t, w.ReleaseLease(ctx, leases, a.Fence()), runnel.ErrLeaseLost)
		if err := w.ReleaseLease(ctx, leases, b.Fence()); err != nil {
			t.Fatal(err)
		}
		wantError(t, w.ReleaseLease(ctx, leases, b.Fence()), runnel.ErrLeaseLost)
		if c := w.mustLease("k", "c", time.Second); c.Number <= b.Number {
			t.Fatalf("%d after %d", c.Number, b.Number)
		}
	})
}

func TestAHolderThatAsksAgainIsGivenANewNumber(t *testing.T) {
	w := inMemory(t)
	first := w.mustLease("k", "a", time.Hour)
	second := w.mustLease("k", "a", time.Hour)
	if second.Number <= first.Number {
		t.Fatalf("%d after %d", second.Number, first.Number)
	}
	_, err := w.RenewLease(ctx, leases, first.Fence())
	wantError(t, err, runnel.ErrLeaseLost)
}

func TestAFencedWriteNeedsItsLease(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := inMemory(t)
		w.create("s/a", runnel.CreateOptions{})
		write := func(l runnel.Lease, payload string) error {
			_, err := w.Transact(ctx, leases, runnel.Transaction{
				Writes: []runnel.Write{{Segment: "a", Records: records(payload)}},
				Fences: []runnel.Fence{l.Fence()},
			})
			return err
		}
		old := w.mustLease("k", "old", time.Second)
		if err := write(old, "1"); err != nil {
			t.Fatal(err)
		}
		pass(2 * time.Second)
		wantError(t, write(old, "too late"), runnel.ErrLeaseLost)
		next := w.mustLease("k", "new", time.Second)
		wantError(t, write(old, "fenced"), runnel.ErrLeaseLost)
		if err := write(next, "2"); err != nil {
			t.Fatal(err)
		}
		w.want("s/a", "1", "2")
	})
}

func TestALeaseCanBeWaitedFor(t *testing.T) {
	ask := func(w *world, ctx context.Context, holder string) <-chan error {
		return later(func() error {
			_, err := w.AcquireLease(ctx, leases, runnel.LeaseRequest{Key: "k", Holder: holder, TTL: time.Minute, Wait: true})
			return err
		})
	}
	t.Run("until it is released", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			w := inMemory(t)
			held := w.mustLease("k", "a", time.Hour)
			waiting := ask(w, ctx, "b")
			pending(t, waiting, "waiting")
			began := time.Now()
			if err := errors.Join(w.ReleaseLease(ctx, leases, held.Fence()), <-waiting); err != nil {
				t.Fatal(err)
			}
			if time.Since(began) > 0 {
				t.Fatal("it took", time.Since(began))
			}
		})
	})
	t.Run("until its time is over", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			w := inMemory(t)
			w.mustLease("k", "a", time.Minute)
			began := time.Now()
			if err := <-ask(w, ctx, "b"); err != nil || time.Since(began) != time.Minute {
				t.Fatal(err, time.Since(began))
			}
		})
	})
	t.Run("by many, of whom one has it at a time", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			w := inMemory(t)
			var work sync.WaitGroup
			var mu sync.Mutex
			holders, last := 0, uint64(0)
			for i := range 50 {
				work.Go(func() {
					l, err := w.AcquireLease(ctx, leases, runnel.LeaseRequest{Key: "k", Holder: fmt.Sprint(i), TTL: time.Minute, Wait: true})
					if err != nil {
						t.Error(err)
						return
					}
					mu.Lock()
					if holders++; holders > 1 || l.Number <= last {
						t.Errorf("%d hold it, number %d after %d", holders, l.Number, last)
					}
					last = l.Number
					mu.Unlock()
					time.Sleep(time.Second) //nolint:forbidigo // in a bubble
					mu.Lock()
					holders--
					mu.Unlock()
					if err := w.ReleaseLease(ctx, leases, l.Fence()); err != nil {
						t.Error(err)
					}
				})
			}
			work.Wait()
		})
	})
	t.Run("until nobody wants it any more", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			w := inMemory(t)
			w.mustLease("k", "a", time.Hour)
			c, cancel := context.WithCancel(ctx)
			waiting := ask(w, c, "b")
			pending(t, waiting, "waiting")
			cancel()
			wantError(t, <-waiting, context.Canceled)
			waiting = ask(w, ctx, "b")
			synctest.Wait()
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			wantError(t, <-waiting, runnel.ErrShutdown)
		})
	})
	t.Run("also when another process releases it", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			shared := &memory.Driver{Shared: true}
			one, two := newWorld(t, shared, engine.Config{}), newWorld(t, shared, engine.Config{})
			held := one.mustLease("k", "a", time.Hour)
			waiting := ask(two, ctx, "b")
			pending(t, waiting, "waiting")
			if err := one.ReleaseLease(ctx, leases, held.Fence()); err != nil {
				t.Fatal(err)
			}
			if err := <-waiting; err != nil {
				t.Fatal(err)
			}
		})
	})
}

func TestLeasesAreListedWhileTheyAreHeld(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := inMemory(t)
		for i := range 300 {
			w.mustLease(fmt.Sprintf("worker/%03d", i), "h", time.Hour)
		}
		w.mustLease("worker/short", "h", time.Second)
		w.mustLease("x", "h", time.Hour)
		pass(time.Minute)
		n := 0
		for l, err := range w.Leases(ctx, leases, "worker/", "worker/009") {
			if err != nil {
				t.Fatal(err)
			}
			if want := fmt.Sprintf("worker/%03d", n+10); l.Key != want || l.Holder != "h" {
				t.Fatalf("%+v, want %s", l, want)
			}
			n++
		}
		if n != 290 {
			t.Fatal(n)
		}
		// What is over leaves nothing behind.
		pass(2 * time.Hour)
		w.wantRows("s", map[string]int{"l": 0})
	})
}

func TestALeaseRequestIsChecked(t *testing.T) {
	w := inMemory(t)
	good := runnel.LeaseRequest{Key: "k", Holder: "h", TTL: time.Second}
	for name, spoil := range map[string]func(q *runnel.LeaseRequest){
		"no key":           func(q *runnel.LeaseRequest) { q.Key = "" },
		"long key":         func(q *runnel.LeaseRequest) { q.Key = strings.Repeat("k", runnel.MaxLeaseBytes+1) },
		"key is not UTF-8": func(q *runnel.LeaseRequest) { q.Key = "\xff" },
		"no holder":        func(q *runnel.LeaseRequest) { q.Holder = "" },
		"short ttl":        func(q *runnel.LeaseRequest) { q.TTL = runnel.MinLeaseTTL - 1 },
		"long ttl":         func(q *runnel.LeaseRequest) { q.TTL = runnel.MaxLeaseTTL + 1 },
		"too much metadata": func(q *runnel.LeaseRequest) {
			q.Metadata = map[string]string{"m": strings.Repeat("m", runnel.MaxLeaseMetadataBytes)}
		},
	} {
		q := good
		spoil(&q)
		_, err := w.AcquireLease(ctx, leases, q)
		if !errors.Is(err, runnel.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAWatcherOfLeasesIsToldWhoComesAndGoes(t *testing.T) {
	for name, shared := range map[string]bool{"alone": false, "shared": true} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t, &memory.Driver{Shared: shared}, engine.Config{})
				w.mustLease("worker/a", "a", 10*time.Second)
				w.mustLease("other", "o", time.Hour)
				var mu sync.Mutex
				var told []string
				c, cancel := context.WithCancel(ctx)
				ended := later(func() error {
					for ev, err := range w.WatchLeases(c, leases, "worker/") {
						if err != nil {
							return err
						}
						text := "+" + ev.Lease.Key
						switch {
						case ev.Mark:
							text = "complete"
						case ev.Gone:
							text = "-" + ev.Lease.Key
						}
						mu.Lock()
						told = append(told, text)
						mu.Unlock()
					}
					return nil
				})
				want := func(texts ...string) {
					t.Helper()
					pass(time.Second / 2)
					mu.Lock()
					defer mu.Unlock()
					if got := strings.Join(told, " "); got != strings.Join(texts, " ") {
						t.Fatalf("told %s, want %s", got, texts)
					}
					told = nil
				}
				want("+worker/a", "complete")
				b := w.mustLease("worker/b", "b", 5*time.Second)
				want("+worker/b")
				pass(4 * time.Second)
				if _, err := w.RenewLease(ctx, leases, b.Fence()); err != nil {
					t.Fatal(err)
				}
				want()
				pass(2 * time.Second)
				want()
				pass(3 * time.Second)
				want("-worker/a", "-worker/b")
				d := w.mustLease("worker/d", "d", time.Minute)
				want("+worker/d")
				w.mustLease("worker/d", "d", time.Minute)
				want("-worker/d", "+worker/d")
				wantError(t, w.ReleaseLease(ctx, leases, d.Fence()), runnel.ErrLeaseLost)
				want()
				cancel()
				wantError(t, <-ended, context.Canceled)
			})
		})
	}
}

// once makes the next call that matches take longer: do runs before it is answered.
func (w *world) once(when func(c faulty.Call) bool, do func()) {
	var done atomic.Bool
	hook := func(context.Context) error {
		if !done.Swap(true) {
			do()
		}
		return nil
	}
	w.driver.SetRules(faulty.Rule{When: when, Then: faulty.WaitAfter(hook, faulty.Through)})
}

func TestALeaseIsHeldAllTheTimeWhileItIsRenewed(t *testing.T) {
	renewing := func(t *testing.T, by *world, l runnel.Lease) func() {
		return func() {
			if _, err := by.RenewLease(ctx, leases, l.Fence()); err != nil {
				t.Error(err)
			}
			pass(2 * time.Second) // until the time that it was given for at first is over
		}
	}
	t.Run("so it is listed", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			w := inMemory(t)
			l := w.mustLease("k", "a", 10*time.Second)
			pass(9 * time.Second)
			w.once(func(c faulty.Call) bool { return c.Op == faulty.Scan && c.Range.From[0] == 'l' }, renewing(t, w, l))
			for held, err := range w.Leases(ctx, leases, "", "") {
				if err != nil || held.Number != l.Number {
					t.Fatalf("%+v, %v", held, err)
				}
				return
			}
			t.Fatal("nobody holds it")
		})
	})
	// An engine looks at the guard last, and then at the clock.
	for name, do := range map[string]func(w *world, l runnel.Lease) error{
		"so a write behind it is made, by another engine": func(w *world, l runnel.Lease) error {
			_, err := w.Transact(ctx, leases, runnel.Transaction{
				Writes: []runnel.Write{{Segment: "a", Records: records("1")}},
				Fences: []runnel.Fence{l.Fence()},
			})
			return err
		},
		"so another engine renews it": func(w *world, l runnel.Lease) error {
			_, err := w.RenewLease(ctx, leases, l.Fence())
			return err
		},
		"so another engine releases it": func(w *world, l runnel.Lease) error {
			return w.ReleaseLease(ctx, leases, l.Fence())
		},
	} {
		for looks := 1; looks <= 3; looks++ {
			t.Run(fmt.Sprintf("%s, after look %d", name, looks), func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					one, other := twoEngines(t, engine.Config{})
					l := one.mustLease("k", "a", 10*time.Second)
					other.create("s/a", runnel.CreateOptions{})
					if _, err := other.RenewLease(ctx, leases, l.Fence()); err != nil {
						t.Fatal(err) // and so it is in memory there
					}
					pass(9 * time.Second)
					nth := other.driver.Calls(faulty.Guard) + looks
					other.once(func(c faulty.Call) bool { return c.Op == faulty.Guard && c.N == nth }, renewing(t, one, l))
					if err := do(other, l); err != nil {
						t.Fatal(err)
					}
				})
			})
		}
	}
}

func TestOneWhoNeedsNoMoreThanTheLeasesThatAreHeldIsLetGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := inMemory(t)
		began := time.Now()
		for event, err := range w.WatchLeases(ctx, runnel.Space{Name: "jobs"}, "") {
			if err != nil {
				t.Fatal(err)
			}
			if event.Mark {
				break
			}
		}
		if took := time.Since(began); took > 0 {
			t.Errorf("it was let go after %v", took)
		}
	})
}

// TestALeaseThatChangesIsNoticedWhoeverAsked lets the caller go away while storage is slow: the change
// happens all the same.
func TestALeaseThatChangesIsNoticedWhoeverAsked(t *testing.T) {
	// abandoned runs a write that its caller does not wait for to the end.
	abandoned := func(t *testing.T, w *world, write func(c context.Context) error) {
		t.Helper()
		release := w.blocked("s")
		c, cancel := context.WithCancel(ctx)
		writing := later(func() error { return write(c) })
		synctest.Wait()
		cancel()
		wantError(t, <-writing, runnel.ErrUnknown)
		release()
		synctest.Wait()
	}
	waiting := func(w *world) <-chan error {
		asked := later(func() error {
			_, err := w.AcquireLease(ctx, leases, runnel.LeaseRequest{Key: "k", Holder: "b", TTL: time.Minute, Wait: true})
			return err
		})
		synctest.Wait()
		return asked
	}
	t.Run("by one who waits for it to be released", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			w := inMemory(t)
			held := w.mustLease("k", "a", 24*time.Hour)
			asked := waiting(w)
			began := time.Now()
			abandoned(t, w, func(c context.Context) error { return w.ReleaseLease(c, leases, held.Fence()) })
			if err := <-asked; err != nil || time.Since(began) > time.Second {
				t.Fatal(err, time.Since(began))
			}
		})
	})
	t.Run("by one who waits for its time to be over", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			w := inMemory(t)
			w.mustLease("k", "a", 24*time.Hour)
			asked := waiting(w)
			began := time.Now()
			w.mustLease("k", "a", time.Second)
			if err := <-asked; err != nil || time.Since(began) > 2*time.Second {
				t.Fatal(err, time.Since(began))
			}
		})
	})
	t.Run("by one who watches", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			w := inMemory(t)
			c, cancel := context.WithCancel(ctx)
			defer cancel()
			var told atomic.Int32
			watching := later(func() error {
				for ev, err := range w.WatchLeases(c, leases, "") {
					if err != nil {
						return err
					}
					if ev.Lease.Key == "k" {
						told.Add(1)
					}
				}
				return nil
			})
			pass(time.Second)
			abandoned(t, w, func(c context.Context) error {
				_, err := w.AcquireLease(c, leases, runnel.LeaseRequest{Key: "k", Holder: "a", TTL: time.Hour})
				return err
			})
			if told.Load() != 1 {
				t.Error("the watcher was not told")
			}
			cancel()
			wantError(t, <-watching, context.Canceled)
		})
	})
}

func TestAnEngineClosesAlthoughAWatcherOfLeasesHasPanicked(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := inMemory(t)
		w.mustLease("k", "a", time.Hour)
		func() {
			defer func() { _ = recover() }()
			for _, err := range w.WatchLeases(ctx, leases, "") {
				panic(err)
			}
		}()
		closed := later(w.Close)
		pass(time.Minute)
		select {
		case err := <-closed:
			wantError(t, err, nil)
		default:
			t.Fatal("it does not close")
		}
	})
}
