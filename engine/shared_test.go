package engine_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/engine"
	"github.com/runnelhq/runnel/storage"
	"github.com/runnelhq/runnel/storage/faulty"
	"github.com/runnelhq/runnel/storage/memory"
)

// twoEngines are two processes that share one storage.
func twoEngines(t testing.TB, cfg engine.Config) (a, b *world) {
	t.Helper()
	d := &memory.Driver{Shared: true}
	return newWorld(t, d, cfg), newWorld(t, d, cfg)
}

func TestWhatOneEngineWritesTheOtherReads(t *testing.T) {
	bubble(t, func(t *testing.T) {
		a, b := twoEngines(t, engine.Config{})
		a.create("s/a", runnel.CreateOptions{}, "1")
		b.want("s/a", "1")
		b.append("s/a", "2")
		a.want("s/a", "1", "2")
		a.append("s/a", "3")
		b.want("s/a", "1", "2", "3")
		if _, err := b.tryAppend("s/a", closing); err != nil {
			t.Fatal(err)
		}
		_, err := a.tryAppend("s/a", runnel.AppendOptions{}, "4")
		wantError(t, err, runnel.ErrClosed)
		b.fork("s/fork", "s/a", 2, "mine")
		a.want("s/fork", "1", "2", "mine")
		a.delete("s/a")
		wantError(t, b.statErr("s/a"), runnel.ErrSoftDeleted)
		b.delete("s/fork")
		wantError(t, a.statErr("s/fork"), runnel.ErrNotFound)
		pass(time.Minute)
		wantError(t, a.statErr("s/a"), runnel.ErrNotFound)
		b.create("s/a", runnel.CreateOptions{}, "anew")
		a.want("s/a", "anew")
		if got, want := strings.Join(a.list(runnel.ListOptions{}), " "), "s/a"; got != want {
			t.Errorf("%q", got)
		}
	})
}

func TestProducersAreKnownToAllEngines(t *testing.T) {
	a, b := twoEngines(t, engine.Config{})
	a.create("a", runnel.CreateOptions{})
	for i := range 10 {
		one, other := a, b
		if i%2 == 1 {
			one, other = b, a
		}
		if got, err := one.tryAppend("a", producing("p", 0, uint64(i)), fmt.Sprint(i)); err != nil || got.Duplicate {
			t.Fatalf("%+v, %v", got, err)
		}
		if got, err := other.tryAppend("a", producing("p", 0, uint64(i)), fmt.Sprint(i)); err != nil || !got.Duplicate {
			t.Fatalf("%+v, %v", got, err)
		}
	}
	a.want("a", "0", "1", "2", "3", "4", "5", "6", "7", "8", "9")
}

func TestAWaiterLooksByItselfForWhatOthersWrite(t *testing.T) {
	for _, after := range []runnel.Sequence{1, runnel.Latest} {
		for what, do := range map[string]func(b *world) error{
			"append": func(b *world) error { _, err := b.tryAppend("a", runnel.AppendOptions{}, "x"); return err },
			"close":  func(b *world) error { _, err := b.tryAppend("a", closing); return err },
			"delete": func(b *world) error { return b.Delete(ctx, at("a")) },
			"recreate": func(b *world) error {
				if err := b.Delete(ctx, at("a")); err != nil {
					return err
				}
				_, err := b.tryCreate("a", runnel.CreateOptions{}, "x", "y")
				return err
			},
		} {
			t.Run(fmt.Sprintf("%s, after %d", what, after), func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					a, b := twoEngines(t, engine.Config{PollInterval: time.Second})
					a.create("a", runnel.CreateOptions{}, "first")
					waiter := a.waiting("a", 0, after)
					pass(1500 * time.Millisecond)
					pending(t, waiter, "waiting")
					wantError(t, do(b), nil)
					pass(2 * time.Second)
					select {
					case got := <-waiter:
						switch {
						case what == "append" && (got.err != nil || got.info.Tail != 2), what == "close" && !got.info.Closed:
							t.Errorf("%+v", got)
						case strings.HasSuffix(what, "e") && what != "close":
							wantError(t, got.err, runnel.ErrNotFound)
						}
					default:
						t.Error("still waiting")
						a.Close()
					}
				})
			})
		}
	}
}

func TestTailFollowsWhatOthersWrite(t *testing.T) {
	bubble(t, func(t *testing.T) {
		a, b := twoEngines(t, engine.Config{PollInterval: 10 * time.Millisecond})
		a.create("a", runnel.CreateOptions{})
		const total = 60
		ended := later(func() error {
			next := 1
			for batch, err := range a.Tail(ctx, at("a"), 0, 0) {
				if err != nil {
					return err
				}
				for i := range batch.Len() {
					if got := string(batch.Payload(i)); got != fmt.Sprint(next) {
						return fmt.Errorf("%q, want %d", got, next)
					}
					next++
				}
			}
			if next != total+1 {
				return fmt.Errorf("ended before %d", next)
			}
			return nil
		})
		for i := 1; i <= total; i++ {
			w := []*world{a, b}[i/7%2]
			if _, err := w.tryAppend("a", runnel.AppendOptions{Close: i == total}, fmt.Sprint(i)); err != nil {
				t.Fatal(err)
			}
			if i%3 == 0 {
				pass(7 * time.Millisecond)
			}
		}
		wantError(t, <-ended, nil)
	})
}

func TestConcurrentAppendsOfTwoEnginesLoseAndDoubleNothing(t *testing.T) {
	a, b := twoEngines(t, engine.Config{MaxSegments: 2})
	paths := []string{"s/0", "s/1", "s/2"}
	for _, path := range paths {
		a.create(path, runnel.CreateOptions{})
	}
	const writers, writes = 3, 25
	var wg sync.WaitGroup
	for i, w := range []*world{a, b} {
		for k := range writers {
			wg.Go(func() {
				for n := range writes {
					payload := fmt.Sprint(i, "-", k, "-", n)
					var err error
					if n%5 == 4 {
						_, err = w.Commit(ctx, theSpace, writeTo("0", runnel.AppendOptions{}, payload), writeTo("1", runnel.AppendOptions{}, payload))
					} else {
						_, err = w.tryAppend(paths[n%3], runnel.AppendOptions{}, payload)
					}
					if err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		wg.Go(func() {
			for range 100 {
				for _, path := range paths {
					if _, err := w.readErr(path, 0); err != nil {
						t.Error(err)
						return
					}
				}
			}
		})
	}
	wg.Wait()
	seen := make(map[string]int)
	positions := make(map[runnel.Position]bool)
	for _, path := range paths {
		got, err := a.readErr(path, 0)
		wantError(t, err, nil)
		wantOrder(t, got)
		other, err := b.readErr(path, 0)
		wantError(t, err, nil)
		if !slices.Equal(texts(got), texts(other)) {
			t.Fatalf("the engines differ on %s", path)
		}
		for _, e := range got {
			if positions[e.Position] {
				t.Fatalf("position %d twice", e.Position)
			}
			positions[e.Position] = true
			seen[string(e.Payload)]++
		}
	}
	for payload, n := range seen {
		want := 1
		if payload[len(payload)-1] == '4' || payload[len(payload)-1] == '9' {
			want = 2
		}
		if n != want {
			t.Errorf("%s is there %d times, want %d", payload, n, want)
		}
	}
	if want := 2 * writers * writes; len(seen) != want {
		t.Errorf("%d payloads, want %d", len(seen), want)
	}
}

func TestWhatOneEngineHasShownIsNotOldForTheOneThatWritesIt(t *testing.T) {
	for name, read := range map[string]func(w *world) string{
		"stat": func(w *world) string { return fmt.Sprint(w.stat("s/a").Tail) },
		"read": func(w *world) string {
			got, err := w.readErr("s/a", 0)
			return fmt.Sprint(len(got), err)
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				a, b := twoEngines(t, engine.Config{SweepInterval: -1})
				a.create("s/a", runnel.CreateOptions{})
				answered := make(chan struct{})
				a.driver.SetRules(faulty.Rule{When: faulty.On(faulty.Commit), Then: faulty.WaitAfter(func(context.Context) error {
					<-answered
					return nil
				}, faulty.Through)})
				written := later(func() error { _, err := a.tryAppend("s/a", runnel.AppendOptions{}, "x"); return err })
				pass(time.Second)
				want := read(b) // the commit has happened, and its writer has not been told
				got := make(chan string, 1)
				go func() { got <- read(a) }()
				pass(time.Second)
				close(answered)
				wantError(t, <-written, nil)
				if got := <-got; got != want {
					t.Errorf("%s after another engine had shown %s", got, want)
				}
			})
		})
	}
}

// unknowns are the ways in which the outcome of a commit can stay unknown, or be against it.
var unknowns = map[string]faulty.Effect{
	"unknown, and it happened": faulty.After(storage.ErrUnknown),
	"unknown, and it did not":  faulty.Before(storage.ErrUnknown),
	"a conflict that is none":  faulty.Before(storage.ErrConflict),
}

// unknown lets something happen after the next commit of a world, and, if blind, no guard be read until
// the commit is tried again.
func (w *world) unknown(then faulty.Effect, after func(), blind bool) {
	var committed atomic.Bool
	w.driver.SetRules(
		faulty.Rule{
			When: func(c faulty.Call) bool {
				if c.Op == faulty.Commit && committed.Load() {
					blind = false
				}
				return c.Op == faulty.Commit && !committed.Load()
			},
			Then: func(ctx context.Context, c faulty.Call, do func(context.Context) error) error {
				committed.Store(true)
				err := then(ctx, c, do)
				after()
				return err
			},
		},
		faulty.Rule{
			When: func(c faulty.Call) bool { return c.Op == faulty.Guard && committed.Load() && blind },
			Then: faulty.Before(errors.New("no answer")),
		})
}

func TestAnUnknownOutcomeIsFoundOut(t *testing.T) {
	for name, then := range unknowns {
		for _, blind := range []bool{false, true} { // the guard cannot be read for a while
			for _, overtaken := range []bool{false, true} { // another engine commits before we look
				if blind && strings.HasPrefix(name, "a conflict") {
					continue // nothing happened, and the writer is told that storage cannot be read
				}
				t.Run(fmt.Sprintf("%s, blind: %v, overtaken: %v", name, blind, overtaken), func(t *testing.T) {
					bubble(t, func(t *testing.T) {
						a, b := twoEngines(t, engine.Config{SweepInterval: -1})
						a.create("s/a", runnel.CreateOptions{})
						b.create("s/b", runnel.CreateOptions{})
						for i, write := range []func() error{
							func() error { _, err := a.tryAppend("s/a", runnel.AppendOptions{}, "1", "2"); return err },
							func() error {
								_, err := a.tryAppend("s/a", runnel.AppendOptions{Expect: expecting(2)}, "3")
								return err
							},
							func() error { _, err := a.tryAppend("s/a", producing("p", 0, 0), "4"); return err },
							func() error {
								_, err := a.tryAppend("s/a", runnel.AppendOptions{StreamSeq: "s", HasStreamSeq: true}, "5")
								return err
							},
							func() error { _, err := a.tryCreate("s/new", runnel.CreateOptions{}, "x"); return err },
							func() error { return a.Delete(ctx, at("s/new")) },
							func() error { _, err := a.tryCreate("s/fork", forkOf("s/a", 2, 0), "x"); return err },
							func() error { return a.Delete(ctx, at("s/fork")) },
							func() error { _, err := a.tryAppend("s/a", closing, "6"); return err },
						} {
							pass(time.Second) // the cleaner comes to rest
							a.unknown(then, func() {
								if overtaken {
									b.append("s/b", fmt.Sprint(i))
								}
							}, blind)
							if err := write(); err != nil {
								t.Fatalf("write %d: %v", i, err)
							}
							a.driver.SetRules()
						}
						for _, w := range []*world{a, b} {
							w.want("s/a", "1", "2", "3", "4", "5", "6")
							wantError(t, w.statErr("s/new"), runnel.ErrNotFound)
						}
						a.delete("s/a")
						pass(time.Minute)
						wantError(t, b.statErr("s/a"), runnel.ErrNotFound) // the fork is not counted twice
					})
				})
			}
		}
	}
}

func TestUnluckyEnginesWriteEverythingOnce(t *testing.T) {
	for seed := range uint64(6) {
		bubble(t, func(t *testing.T) {
			a, b := twoEngines(t, engine.Config{SweepInterval: -1})
			a.create("s/a", runnel.CreateOptions{})
			for i, w := range []*world{a, b} {
				rng := rand.New(rand.NewPCG(seed, uint64(i)))
				w.driver.SetRules(
					faulty.Rule{When: faulty.All(faulty.On(faulty.Commit), faulty.Chance(rng, 0.15)), Then: faulty.After(storage.ErrUnknown)},
					faulty.Rule{When: faulty.All(faulty.On(faulty.Commit), faulty.Chance(rng, 0.15)), Then: faulty.Before(storage.ErrUnknown)},
				)
			}
			var want []string
			var all []<-chan error
			for i, w := range []*world{a, b} {
				for k := range 4 {
					for n := range 15 {
						want = append(want, fmt.Sprint(i, "-", k, "-", n))
					}
					all = append(all, later(func() error {
						for n := range 15 {
							if _, err := w.tryAppend("s/a", runnel.AppendOptions{}, fmt.Sprint(i, "-", k, "-", n)); err != nil {
								return err
							}
						}
						return nil
					}))
				}
			}
			for _, one := range all {
				wantError(t, <-one, nil)
			}
			a.driver.SetRules()
			b.driver.SetRules()
			got, err := a.readErr("s/a", 0)
			wantError(t, err, nil)
			sorted := texts(got)
			slices.Sort(sorted)
			slices.Sort(want)
			if !slices.Equal(sorted, want) {
				t.Errorf("seed %d: %d entries, want %d", seed, len(sorted), len(want))
			}
		})
	}
}

func TestAnEngineClosesAlthoughStorageNeverKnows(t *testing.T) {
	bubble(t, func(t *testing.T) {
		a, _ := twoEngines(t, engine.Config{})
		a.create("a", runnel.CreateOptions{})
		a.driver.SetRules(faulty.Rule{When: faulty.On(faulty.Commit), Then: faulty.Before(storage.ErrUnknown)})
		written := later(func() error { _, err := a.tryAppend("a", runnel.AppendOptions{}, "x"); return err })
		pass(time.Minute)
		pending(t, written, "the append")
		closed := later(a.Close)
		pass(time.Minute)
		select {
		case <-closed:
			wantError(t, <-written, runnel.ErrUnknown)
		default:
			t.Error("still closing")
			a.driver.SetRules()
		}
	})
}

func TestASegmentIsNotReadHalfBeforeAndHalfAfterAnotherEnginesWrite(t *testing.T) {
	// Whenever one engine reads a row of a segment's state, the other one has just changed it.
	for name, change := range map[string]func(b *world){
		"trimmed": func(b *world) {
			b.append("s/a", numbered("y", 100)...)
			b.stat("s/a")
			pass(time.Second)
		},
		"deleted": func(b *world) {
			b.delete("s/a")
			pass(time.Minute)
		},
		"created again": func(b *world) {
			b.delete("s/a")
			b.create("s/a", runnel.CreateOptions{Retention: runnel.Retention{Entries: 10, Bytes: 1000}}, "anew")
			pass(time.Minute)
		},
		"written and closed": func(b *world) {
			_, err := b.tryAppend("s/a", closing, "last")
			wantError(b.t, err, nil)
		},
	} {
		for nth := range 8 {
			t.Run(fmt.Sprintf("%s before look %d", name, nth), func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					a, b := twoEngines(t, engine.Config{TailCacheBytes: 1})
					b.create("s/a", runnel.CreateOptions{Retention: runnel.Retention{Entries: 10, Bytes: 1000}}, numbered("x", 10)...)
					n := 0
					a.driver.SetRules(faulty.Rule{
						When: func(c faulty.Call) bool {
							if c.Partition.Name != "s" || c.Op == faulty.Commit {
								return false
							}
							n++
							return n == nth+1
						},
						Then: func(ctx context.Context, _ faulty.Call, do func(context.Context) error) error {
							change(b)
							return do(ctx)
						},
					})
					info, err := a.Stat(ctx, at("s/a"))
					if err != nil {
						wantError(t, err, runnel.ErrNotFound)
					} else if info.Tail != 10 && info.Tail != 11 && info.Tail != 110 && info.Tail != 1 ||
						info.Bytes == 0 || info.Closed != (info.Tail == 11) {
						t.Errorf("%+v", info)
					}
					got, err := a.readErr("s/a", info.Earliest)
					switch {
					case errors.Is(err, runnel.ErrNotFound), errors.Is(err, runnel.ErrTrimmed):
					case err != nil:
						t.Errorf("read: %v", err)
					case len(got) > 10:
						t.Errorf("read: %d entries", len(got))
					}
				})
			})
		}
	}
}

func TestARepetitionIsAnsweredWithATailThatHasTheWrite(t *testing.T) {
	for nth := range 12 {
		t.Run(fmt.Sprint("look ", nth), func(t *testing.T) {
			a, b := twoEngines(t, engine.Config{SweepInterval: -1})
			b.create("s/a", runnel.CreateOptions{}, "1")
			looks := 0
			a.driver.SetRules(faulty.Rule{
				When: func(c faulty.Call) bool { looks++; return looks == nth+1 },
				Then: func(ctx context.Context, _ faulty.Call, do func(context.Context) error) error {
					if _, err := b.tryAppend("s/a", producing("p", 0, 0), "2"); err != nil {
						t.Error(err)
					}
					return do(ctx)
				},
			})
			got, err := a.tryAppend("s/a", producing("p", 0, 0), "2")
			a.driver.SetRules()
			if err != nil || got.Tail != 2 {
				t.Errorf("%+v, %v", got, err)
			}
		})
	}
}

func TestACommitOverSegmentsIsAnsweredFromOneMomentOfAllOfThem(t *testing.T) {
	// Whenever one engine looks at storage for its commit, the other one has just made the very same one.
	for name, c := range map[string]struct {
		o    func() runnel.AppendOptions
		want func(err error) bool
	}{
		"conditions": {
			o: func() runnel.AppendOptions { return runnel.AppendOptions{Expect: expecting(1)} },
			want: func(err error) bool {
				var moved *runnel.TailMovedError
				return errors.As(err, &moved) && moved.Segment.Name == "a" && moved.Tail == 2
			},
		},
		"producers": {
			o:    func() runnel.AppendOptions { return producing("p", 0, 0) },
			want: func(err error) bool { return err == nil },
		},
	} {
		for nth := range 16 {
			t.Run(fmt.Sprintf("%s, look %d", name, nth), func(t *testing.T) {
				a, b := twoEngines(t, engine.Config{SweepInterval: -1})
				b.create("s/a", runnel.CreateOptions{}, "1")
				b.create("s/b", runnel.CreateOptions{}, "1")
				commit := func(w *world) error {
					_, err := w.Commit(ctx, theSpace, writeTo("a", c.o(), "2"), writeTo("b", c.o(), "2"))
					return err
				}
				looks, done := 0, false
				a.driver.SetRules(faulty.Rule{
					When: func(c faulty.Call) bool { looks++; return looks == nth+1 },
					Then: func(ctx context.Context, _ faulty.Call, do func(context.Context) error) error {
						if err := commit(b); err != nil {
							t.Error(err)
						}
						done = true
						return do(ctx)
					},
				})
				err := commit(a)
				a.driver.SetRules()
				if done && !c.want(err) || !done && err != nil {
					t.Errorf("done by the other: %v; %v", done, err)
				}
				a.want("s/a", "1", "2")
				a.want("s/b", "1", "2")
			})
		}
	}
}

func TestTheWindowSlidesForAllEngines(t *testing.T) {
	for reads := range 6 {
		for _, gap := range []time.Duration{time.Second, 3 * time.Second, 6 * time.Second, 9 * time.Second, 30 * time.Second} {
			bubble(t, func(t *testing.T) {
				a, b := twoEngines(t, engine.Config{SweepInterval: -1})
				a.create("a", runnel.CreateOptions{TTL: ttl}, "x")
				last := time.Now()
				pass(time.Second)
				b.stat("a")
				for range reads {
					pass(gap)
					_, err := a.readErr("a", 0)
					wantError(t, err, nil)
					last = time.Now()
				}
				pass(time.Until(last.Add(ttl - time.Millisecond)))
				if err := b.statErr("a"); err != nil {
					t.Errorf("%d reads every %v: %v", reads, gap, err)
				}
			})
		}
	}
}

func TestTheWitnessesOfEnginesThatAreNoMoreGo(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, &memory.Driver{Shared: true}, engine.Config{SweepInterval: time.Hour})
		w.create("s/a", runnel.CreateOptions{})
		for i := range 5 {
			w.append("s/a", fmt.Sprint(i))
			w.reopen()
		}
		w.append("s/a", "last")
		w.wantRows("s", map[string]int{"w": 6})
		pass(30 * time.Hour)
		w.append("s/a", "later")
		if n := w.rows("s")["w"]; n > 2 {
			t.Errorf("%d witnesses are left", n)
		}
	})
}
