package engine_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/engine"
	"github.com/runnelhq/runnel/storage"
	"github.com/runnelhq/runnel/storage/faulty"
	"github.com/runnelhq/runnel/storage/memory"
)

// onDisk is a world over a write cache that holds: what is committed can be read in storage at once,
// as with Pebble, but is durable only when the cache is synced.
func onDisk(t testing.TB) (*world, *faulty.WriteCache) {
	t.Helper()
	cache := faulty.NewWriteCache(new(memory.Driver))
	d, err := cache.Open()
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, d, engine.Config{SweepInterval: -1})
	t.Cleanup(cache.Release)
	return w, cache
}

func TestNothingIsSeenBeforeItIsDurable(t *testing.T) {
	for name, write := range map[string]func(w *world) error{
		"append": func(w *world) error { _, err := w.tryAppend("s/a", runnel.AppendOptions{}, "new"); return err },
		"close":  func(w *world) error { _, err := w.tryAppend("s/a", closing, "new"); return err },
		"delete": func(w *world) error { return w.Delete(ctx, at("s/a")) },
		"create": func(w *world) error { _, err := w.tryCreate("s/new", runnel.CreateOptions{}, "new"); return err },
		"commit": func(w *world) error {
			_, err := w.Commit(ctx, theSpace, writeTo("a", runnel.AppendOptions{}, "new"), writeTo("b", runnel.AppendOptions{}, "new"))
			return err
		},
		"create after deleting": func(w *world) error {
			_, err := w.tryCreate("s/a", runnel.CreateOptions{ContentType: "text/plain"}, "new")
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w, cache := onDisk(t)
				w.create("s/a", runnel.CreateOptions{}, "old")
				w.create("s/b", runnel.CreateOptions{}, "old")
				before := w.stat("s/a")
				waiter := w.waiting("s/a", 0, 1)
				pending(t, waiter, "waiting")
				events := make(chan runnel.Event, 10)
				go func() {
					for event := range w.Watch(t.Context(), runnel.Store{}) {
						events <- event
					}
				}()
				pass(0)
				cache.Hold()
				if name == "create after deleting" {
					deleted := later(func() error { return w.Delete(ctx, at("s/a")) })
					pending(t, deleted, "the deletion")
				}
				written := later(func() error { return write(w) })
				for range 3 {
					pending(t, written, "a write that is not durable")
					if got := w.stat("s/a"); got != before {
						t.Errorf("%+v", got)
					}
					w.want("s/a", "old")
					w.want("s/b", "old")
					wantError(t, w.statErr("s/new"), runnel.ErrNotFound)
					pending(t, waiter, "waiting for what is not durable")
					pending(t, events, "watching what is not durable")
					pass(time.Second)
				}
				cache.Release()
				wantError(t, <-written, nil)
				if got := w.stat("s/b"); name != "commit" && got.Tail != 1 {
					t.Errorf("%+v", got)
				}
				w.Close()
			})
		})
	}
}

func TestAnAnswerWaitsForWhatItRestsOn(t *testing.T) {
	// Each first write is not durable yet when the second one finds it in its way.
	for _, tc := range []struct {
		name   string
		first  func(w *world) error
		second func(w *world) error
		want   error // of the second when the first is durable
		alone  error // of the second when the first never was
	}{
		{
			"closed",
			func(w *world) error { _, err := w.tryAppend("a", closing); return err },
			func(w *world) error { _, err := w.tryAppend("a", runnel.AppendOptions{}, "x"); return err },
			runnel.ErrClosed, nil,
		},
		{
			"deleted",
			func(w *world) error { return w.Delete(ctx, at("a")) },
			func(w *world) error { _, err := w.tryAppend("a", runnel.AppendOptions{}, "x"); return err },
			runnel.ErrNotFound, nil,
		},
		{
			"the tail has moved",
			func(w *world) error { _, err := w.tryAppend("a", runnel.AppendOptions{}, "x"); return err },
			func(w *world) error {
				_, err := w.tryAppend("a", runnel.AppendOptions{Expect: expecting(0)}, "x")
				return err
			},
			runnel.ErrTailMoved, nil,
		},
		{
			"created",
			func(w *world) error {
				_, err := w.tryCreate("b", runnel.CreateOptions{ContentType: "text/plain"})
				return err
			},
			func(w *world) error {
				_, err := w.tryCreate("b", runnel.CreateOptions{ContentType: "text/html"})
				return err
			},
			runnel.ErrExists, nil,
		},
		{
			"a duplicate",
			func(w *world) error { _, err := w.tryAppend("a", producing("p", 0, 0), "x"); return err },
			func(w *world) error { _, err := w.tryAppend("a", producing("p", 0, 0), "x"); return err },
			nil, nil,
		},
		{
			"a gap",
			func(w *world) error { _, err := w.tryAppend("a", producing("p", 0, 0), "x"); return err },
			func(w *world) error { _, err := w.tryAppend("a", producing("p", 0, 5), "x"); return err },
			runnel.ErrProducerGap, runnel.ErrProducerGap,
		},
		{
			"a writer sequence",
			func(w *world) error {
				_, err := w.tryAppend("a", runnel.AppendOptions{HasStreamSeq: true, StreamSeq: "b"}, "x")
				return err
			},
			func(w *world) error {
				_, err := w.tryAppend("a", runnel.AppendOptions{HasStreamSeq: true, StreamSeq: "a"}, "x")
				return err
			},
			runnel.ErrStreamSeq, nil,
		},
		{
			"a fork of what is being deleted",
			func(w *world) error { return w.Delete(ctx, at("a")) },
			func(w *world) error { _, err := w.tryCreate("s/fork", forkOf("a", 0, 0)); return err },
			runnel.ErrNotFound, nil,
		},
	} {
		for _, refused := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, refused: %v", tc.name, refused), func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					w := inMemory(t)
					w.create("a", runnel.CreateOptions{})
					release := w.blocked("")
					if refused {
						let := make(chan struct{})
						first := w.driver.Calls(faulty.Commit) + 1
						w.driver.SetRules(faulty.Rule{
							When: faulty.Nth(faulty.Commit, first),
							Then: func(_ context.Context, _ faulty.Call, _ func(context.Context) error) error {
								<-let
								return storage.ErrRefused
							},
						})
						release = func() { close(let) }
					}
					first := later(func() error { return tc.first(w) })
					pending(t, first, "the first write")
					second := later(func() error { return tc.second(w) })
					pending(t, second, "the second write")
					release()
					if refused {
						wantError(t, <-first, runnel.ErrUnavailable)
						if err := <-second; !errors.Is(err, tc.alone) && !errors.Is(err, runnel.ErrUnavailable) {
							t.Errorf("%v, want %v", err, tc.alone)
						}
						return
					}
					wantError(t, <-first, nil)
					wantError(t, <-second, tc.want)
				})
			})
		}
	}
}

func TestADuplicateIsAnsweredWhenTheOriginalIsDurable(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w, cache := onDisk(t)
		w.create("a", runnel.CreateOptions{})
		cache.Hold()
		write := func() runnel.Appended {
			got, err := w.tryAppend("a", producing("p", 0, 0), "x")
			if err != nil {
				t.Error(err)
			}
			return got
		}
		original := later(write)
		pending(t, original, "the original")
		again := later(write)
		pending(t, again, "the duplicate")
		cache.Release()
		if got := <-original; got.Duplicate || got.Tail != 1 {
			t.Errorf("%+v", got)
		}
		if got := <-again; !got.Duplicate || got.Tail != 1 {
			t.Errorf("%+v", got)
		}
		w.want("a", "x")
	})
}

func TestARefusedAppendCostsNoCommit(t *testing.T) {
	w := inMemory(t)
	w.create("a", runnel.CreateOptions{}, "x")
	before := w.driver.Calls(faulty.Commit)
	for range 10 {
		_, err := w.tryAppend("a", runnel.AppendOptions{Expect: expecting(7)}, "x")
		wantError(t, err, runnel.ErrTailMoved)
	}
	if n := w.driver.Calls(faulty.Commit) - before; n != 0 {
		t.Errorf("%d commits", n)
	}
}

func TestOneSpaceDoesNotWaitForAnother(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := inMemory(t)
		w.create("slow/a", runnel.CreateOptions{})
		w.create("fast/a", runnel.CreateOptions{})
		release := w.blocked("slow")
		slow := later(func() error { _, err := w.tryAppend("slow/a", runnel.AppendOptions{}, "x"); return err })
		pending(t, slow, "the slow append")
		w.append("fast/a", "x")
		w.want("slow/a")
		pending(t, slow, "the slow append")
		release()
		wantError(t, <-slow, nil)
	})
}

func TestWhatAFailedCommitLeavesInStorageIsNeverSeen(t *testing.T) {
	for name, then := range map[string]faulty.Effect{
		"before": faulty.Before(storage.ErrFailed),
		"after":  faulty.After(storage.ErrFailed),
		"none knows, on a driver that nobody else writes": faulty.After(storage.ErrUnknown),
		"an error of no kind":                             faulty.After(errors.New("odd")),
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t, new(memory.Driver), engine.Config{MaxSegments: 4, SweepInterval: time.Second})
				for i := range 4 {
					w.create(fmt.Sprint("s/", i), runnel.CreateOptions{TTL: time.Hour}, "old")
				}
				w.create("other/a", runnel.CreateOptions{}, "old")
				w.create("s/closed", runnel.CreateOptions{}, "old")
				let := make(chan struct{})
				here := func(c faulty.Call) bool { return c.Op == faulty.Commit && c.Partition.Name == "s" }
				w.driver.SetRules(faulty.Rule{When: here, Then: faulty.Wait(func(context.Context) error { <-let; return nil }, then)})
				var all []<-chan error
				for _, write := range []func() error{
					func() error { _, err := w.tryAppend("s/0", runnel.AppendOptions{}, "lost"); return err },
					func() error { _, err := w.tryAppend("s/1", runnel.AppendOptions{}, "staged behind"); return err },
					func() error {
						_, err := w.tryAppend("s/0", runnel.AppendOptions{Expect: expecting(2)}, "on top")
						return err
					},
					func() error { return w.Delete(ctx, at("s/2")) },
					func() error { _, err := w.tryCreate("s/new", runnel.CreateOptions{}); return err },
					func() error {
						_, err := w.tryAppend("s/0", runnel.AppendOptions{Expect: expecting(1)}, "refused")
						return err
					},
				} {
					all = append(all, later(write))
					pending(t, all[0], "the first write")
				}
				waiter := w.waiting("s/0", 0, 1)
				pending(t, waiter, "waiting")
				close(let)
				for i, one := range all {
					if err := <-one; !errors.Is(err, runnel.ErrFailed) {
						t.Errorf("write %d: %v", i, err)
					}
				}
				wantError(t, w.Err(), runnel.ErrFailed)
				for range 3 {
					for i := range 4 {
						path := fmt.Sprint("s/", i)
						if info, err := w.Stat(ctx, at(path)); err == nil {
							if info.Tail != 1 || info.Closed {
								t.Errorf("%+v", info)
							}
							if got, err := w.readErr(path, 0); err == nil && !slices.Equal(texts(got), []string{"old"}) {
								t.Errorf("%s shows %q", path, texts(got))
							}
						} else if !errors.Is(err, runnel.ErrFailed) {
							t.Errorf("%s: %v", path, err)
						}
					}
					if err := w.statErr("s/new"); err == nil {
						t.Error("a segment appears whose creation failed")
					}
					for info := range w.List(ctx, runnel.Store{}, runnel.ListOptions{}) {
						if info.Segment == at("s/new") {
							t.Error("a segment is listed whose creation failed")
						}
					}
					pending(t, waiter, "waiting for what failed")
					for _, path := range []string{"s/0", "s/closed", "other/a", "somewhere/else"} {
						if _, err := w.tryAppend(path, runnel.AppendOptions{}, "x"); !errors.Is(err, runnel.ErrFailed) {
							t.Errorf("append to %s: %v", path, err)
						}
						if _, err := w.tryCreate(path+"x", runnel.CreateOptions{}); !errors.Is(err, runnel.ErrFailed) {
							t.Errorf("create %sx: %v", path, err)
						}
					}
					pass(time.Minute)
				}
				wantError(t, w.Close(), runnel.ErrFailed)
				wantError(t, (<-waiter).err, runnel.ErrShutdown)
			})
		})
	}
}

func TestARefusedBatchHasHappenedToNobody(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := inMemory(t)
		w.create("a", runnel.CreateOptions{}, "old")
		w.driver.SetRules(faulty.Rule{When: faulty.On(faulty.Commit), Then: faulty.Before(storage.ErrRefused)})
		_, err := w.tryAppend("a", producing("p", 0, 0), "x")
		wantError(t, err, runnel.ErrUnavailable)
		w.want("a", "old")
		w.driver.SetRules()
		if got, err := w.tryAppend("a", producing("p", 0, 0), "x"); err != nil || got.Duplicate || got.Tail != 2 {
			t.Fatalf("%+v, %v", got, err)
		}
		w.want("a", "old", "x")
	})
}

func TestWhatWasAcknowledgedSurvivesAPowerCut(t *testing.T) {
	for survivors := range 4 {
		bubble(t, func(t *testing.T) {
			w, cache := onDisk(t)
			w.create("a", runnel.CreateOptions{})
			w.append("a", "acknowledged")
			cache.Hold()
			for i := range 3 {
				one := later(func() error { _, err := w.tryAppend("a", producing("p", 0, uint64(i)), fmt.Sprint(i)); return err })
				pending(t, one, "an append")
				if i == 0 {
					w.want("a", "acknowledged")
				}
			}
			old := w.Engine
			cache.Crash(survivors)
			cache.Release()
			_ = old.Close()
			d, err := cache.Open()
			wantError(t, err, nil)
			w.kept = d
			w.open()
			got, err := w.readErr("a", 0)
			wantError(t, err, nil)
			want := []string{"acknowledged", "0", "1", "2"}
			if !slices.Equal(texts(got), want[:len(got)]) {
				t.Fatalf("%q", texts(got))
			}
			for i := range 3 { // the producer sends all of them again
				if _, err := w.tryAppend("a", producing("p", 0, uint64(i)), fmt.Sprint(i)); err != nil {
					t.Fatal(err)
				}
			}
			w.want("a", want...)
		})
	}
}

// TestASegmentIsOfOneMomentAlsoWhenItsSpaceIsReadAnew reads the descriptor of a segment, lets storage refuse
// a commit, upon which the space forgets all it knew, and writes to the segment before its entries are read.
func TestASegmentIsOfOneMomentAlsoWhenItsSpaceIsReadAnew(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := inMemory(t)
		w.create("s/a", runnel.CreateOptions{})
		w.create("s/b", runnel.CreateOptions{})
		w.reopen()
		held, let := 0, make(chan struct{})
		w.driver.SetRules(
			faulty.Rule{
				When: func(c faulty.Call) bool {
					if c.Op == faulty.Scan && c.Range.Reverse && c.Range.From[0] == 'e' {
						held++
						return held == 1
					}
					return false
				},
				Then: faulty.Wait(func(context.Context) error { <-let; return nil }, faulty.Through),
			},
			faulty.Rule{When: func(c faulty.Call) bool { return c.Op == faulty.Commit && c.N == 1 }, Then: faulty.Before(storage.ErrRefused)},
		)
		looked := later(func() runnel.Info { info, _ := w.Stat(ctx, at("s/a")); return info })
		pending(t, looked, "the look")
		_, err := w.tryAppend("s/b", runnel.AppendOptions{}, "refused")
		wantError(t, err, runnel.ErrUnavailable)
		if _, err := w.tryAppend("s/a", closing, "last"); err != nil {
			t.Fatal(err)
		}
		close(let)
		if info := <-looked; info.Tail != 1 || !info.Closed {
			t.Fatalf("the segment is shown with %d entries, closed: %v", info.Tail, info.Closed)
		}
	})
}
