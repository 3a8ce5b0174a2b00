package engine_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/engine"
	"github.com/runnelhq/runnel/storage/memory"
)

// ttl is the window in these tests; an eighth of it may be added by a crash.
const ttl = 80 * time.Second

func TestTheWindowSlidesWithEveryUse(t *testing.T) {
	for _, tc := range []struct {
		name   string
		use    func(*world) error
		slides bool
	}{
		{"read", func(w *world) error { _, err := w.readErr("a", 0); return err }, true},
		{"read at the tail", func(w *world) error { _, err := w.readErr("a", runnel.Latest); return err }, true},
		{"append", func(w *world) error { _, err := w.tryAppend("a", runnel.AppendOptions{}, "x"); return err }, true},
		{"close", func(w *world) error { _, err := w.tryAppend("a", closing); return err }, true},
		{"wait for what is there", func(w *world) error { _, err := w.Wait(ctx, at("a"), 0, 0); return err }, true},
		{"wait in vain", func(w *world) error {
			brief, cancel := context.WithTimeout(ctx, time.Nanosecond)
			defer cancel()
			if _, err := w.Wait(brief, at("a"), 0, runnel.Latest); !errors.Is(err, context.DeadlineExceeded) {
				return fmt.Errorf("waiting: %w", err)
			}
			return nil
		}, true},
		{"fork", func(w *world) error { _, err := w.tryCreate("fork", forkOf("a", 1, 0)); return err }, false},
		{"stat", func(w *world) error { return w.statErr("a") }, false},
		{"list", func(w *world) error {
			for _, err := range w.List(ctx, runnel.Store{}, runnel.ListOptions{}) {
				return err
			}
			return nil
		}, false},
		{"create again", func(w *world) error { _, err := w.tryCreate("a", runnel.CreateOptions{TTL: ttl}); return err }, false},
	} {
		for _, after := range []struct {
			name string
			do   func(*world)
			late time.Duration // how much later it may expire
		}{
			{"", func(*world) {}, 0},
			{", closed and reopened", (*world).reopen, 0},
			{", crashed", (*world).crash, ttl / 8},
		} {
			t.Run(tc.name+after.name, func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					w := inMemory(t)
					w.create("a", runnel.CreateOptions{TTL: ttl}, "x")
					pass(ttl * 3 / 4)
					wantError(t, tc.use(w), nil)
					pass(time.Millisecond)
					after.do(w)
					life := ttl - time.Millisecond // that is left
					if !tc.slides {
						life -= ttl * 3 / 4
					}
					if tc.name == "wait in vain" {
						life += 0
					}
					pass(life - 2*time.Microsecond)
					if err := w.statErr("a"); err != nil {
						t.Fatalf("it is gone before its time: %v", err)
					}
					pass(after.late + 2*time.Microsecond)
					if err := w.statErr("a"); !errors.Is(err, runnel.ErrNotFound) && !errors.Is(err, runnel.ErrSoftDeleted) {
						t.Fatalf("it is there after its time: %v", err)
					}
				})
			})
		}
	}
}

func TestASegmentThatNobodyUsedExpiresOnTimeAlsoAfterACleanClose(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := inMemory(t)
		w.create("a", runnel.CreateOptions{TTL: ttl}, "x")
		for range 5 {
			pass(10 * time.Second)
			w.reopen()
			w.stat("a")
		}
		pass(ttl - 50*time.Second - time.Microsecond)
		wantError(t, w.statErr("a"), nil)
		pass(time.Microsecond)
		wantError(t, w.statErr("a"), runnel.ErrNotFound)
	})
}

func TestACrashNeverShortensALife(t *testing.T) {
	// Whatever was the last use, and whatever was written down before it.
	uses := map[string]func(*world) error{
		"read":   func(w *world) error { _, err := w.readErr("a", runnel.Latest); return err },
		"append": func(w *world) error { _, err := w.tryAppend("a", runnel.AppendOptions{}, "x"); return err },
		"writer": func(w *world) error {
			_, err := w.tryAppend("a", runnel.AppendOptions{HasStreamSeq: true, StreamSeq: time.Now().String()}, "x")
			return err
		},
		"trim": func(w *world) error { // all entries go, and the last one was the last use
			if _, err := w.tryAppend("a", runnel.AppendOptions{}, "x"); err != nil {
				return err
			}
			pass(6 * time.Second)
			w.stat("a")
			pass(time.Second)
			w.create(fmt.Sprint(time.Now().UnixNano()), runnel.CreateOptions{})
			return nil
		},
		"wait": func(w *world) error {
			brief, cancel := context.WithTimeout(ctx, 5*time.Minute)
			defer cancel()
			_, err := w.Wait(brief, at("a"), 0, runnel.Latest)
			if errors.Is(err, context.DeadlineExceeded) {
				err = nil
			}
			return err
		},
	}
	for first, use1 := range uses {
		for second, use2 := range uses {
			for _, restart := range []func(*world){(*world).crash, (*world).reopen} {
				for _, gap := range []time.Duration{time.Second, 9 * time.Second, 11 * time.Second, 79 * time.Second} {
					bubble(t, func(t *testing.T) {
						w := inMemory(t)
						w.create("a", runnel.CreateOptions{TTL: ttl, Retention: runnel.Retention{Age: 5 * time.Second}})
						wantError(t, use1(w), nil)
						restart(w)
						pass(gap - seconds(7, first == "trim" && gap > 70*time.Second))
						wantError(t, use2(w), nil)
						pass(0)
						w.crash()
						pass(ttl - seconds(8, second == "trim") - time.Microsecond)
						if err := w.statErr("a"); err != nil {
							t.Errorf("%s, %v later %s, and a crash: %v", first, gap, second, err)
						}
					})
				}
			}
		}
	}
}

// seconds is n of them if it is so, and none if not.
func seconds(n int, so bool) time.Duration {
	if so {
		return time.Duration(n) * time.Second
	}
	return 0
}

func TestReadersKeepASegmentAlive(t *testing.T) {
	for _, crashed := range []bool{false, true} {
		bubble(t, func(t *testing.T) {
			w := inMemory(t)
			w.create("a", runnel.CreateOptions{TTL: ttl})
			waiting := later(func() runnel.Info {
				info, err := w.Wait(ctx, at("a"), 0, 0)
				if err != nil && !crashed {
					t.Error(err)
				}
				return info
			})
			pass(time.Hour)
			if crashed {
				old := w.Engine
				w.crash()
				_ = old.Close()
				pass(ttl - time.Second)
				wantError(t, w.statErr("a"), nil)
				return
			}
			wantError(t, w.statErr("a"), nil)
			w.append("a", "x")
			if got := <-waiting; got.Tail != 1 {
				t.Fatalf("%+v", got)
			}
			pass(ttl - time.Second)
			wantError(t, w.statErr("a"), nil)
			pass(time.Second)
			wantError(t, w.statErr("a"), runnel.ErrNotFound)
		})
	}
}

func TestAnExpiryThatWasSeenHolds(t *testing.T) {
	for name, see := range map[string]func(*world) error{
		"stat":   func(w *world) error { return w.statErr("a") },
		"read":   func(w *world) error { _, err := w.readErr("a", 0); return err },
		"append": func(w *world) error { _, err := w.tryAppend("a", runnel.AppendOptions{}, "x"); return err },
		"delete": func(w *world) error { return w.Delete(ctx, at("a")) },
		"wait":   func(w *world) error { _, err := w.Wait(ctx, at("a"), 0, 0); return err },
		"fork":   func(w *world) error { _, err := w.tryCreate("fork", forkOf("a", 0, 0)); return err },
		"commit": func(w *world) error {
			_, err := w.Commit(ctx, runnel.Space{}, writeTo("b", runnel.AppendOptions{}, "x"), writeTo("a", runnel.AppendOptions{}, "x"))
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t, new(memory.Driver), engine.Config{SweepInterval: -1})
				w.create("a", runnel.CreateOptions{TTL: ttl}, "x")
				w.create("b", runnel.CreateOptions{})
				pass(ttl)
				wantError(t, see(w), runnel.ErrNotFound)
				w.crash() // which would give it a little longer
				wantError(t, w.statErr("a"), runnel.ErrNotFound)
				w.want("b")
				w.create("a", runnel.CreateOptions{}, "anew")
				w.want("a", "anew")
			})
		})
	}
}

func TestAnExpiredNameIsFree(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := inMemory(t)
		old := w.create("a", runnel.CreateOptions{TTL: ttl}, "old")
		pass(ttl)
		if got := w.create("a", runnel.CreateOptions{TTL: time.Hour}, "new"); got.ID == old.ID || got.Tail != 1 {
			t.Fatalf("%+v", got)
		}
		pass(time.Minute)
		w.want("a", "new")
		_, err := w.Read(ctx, at("a"), old.ID, 0)
		wantError(t, err, runnel.ErrNotFound)
		w.wantRows("", map[string]int{"e": 1, "t": 0})
	})
}

func TestCreatingOverTheExpiredGivesBackWhatItHeld(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, new(memory.Driver), engine.Config{SweepInterval: -1})
		w.create("a", runnel.CreateOptions{TTL: ttl}, "old", "older")
		w.append("a", "oldest")
		pass(ttl)
		w.create("a", runnel.CreateOptions{}, "new")
		w.want("a", "new")
		w.cfg.SweepInterval = time.Second
		w.reopen()
		pass(time.Minute)
		w.wantRows("", map[string]int{"e": 1, "t": 0})
		w.want("a", "new")
	})
}

func TestTrimmingKeepsTheLastUse(t *testing.T) {
	// The last append was the last use, and then it is dropped.
	bubble(t, func(t *testing.T) {
		w := inMemory(t)
		w.create("a", runnel.CreateOptions{TTL: ttl, Retention: runnel.Retention{Age: 5 * time.Second}})
		pass(ttl / 2)
		w.append("a", "x")
		pass(30 * time.Second)
		w.wantRows("", map[string]int{"e": 0})
		w.crash()
		pass(ttl - 30*time.Second - time.Microsecond)
		wantError(t, w.statErr("a"), nil)
	})
}

func TestAWindowOfZeroIsOverAtOnce(t *testing.T) {
	w := inMemory(t)
	w.create("a", runnel.CreateOptions{HasTTL: true}, "x")
	wantError(t, w.statErr("a"), runnel.ErrNotFound)
	w.create("a", runnel.CreateOptions{}, "y")
	w.want("a", "y")
}

func TestAnAbsoluteExpiryDoesNotSlide(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := inMemory(t)
		w.create("a", runnel.CreateOptions{ExpiresAt: time.Now().Add(time.Hour)}, "x")
		waiting := later(func() error { _, err := w.Wait(ctx, at("a"), 0, 1); return err })
		pass(time.Hour - time.Microsecond)
		w.append("a", "y")
		wantError(t, <-waiting, nil)
		w.want("a", "x", "y")
		waiting = later(func() error { _, err := w.Wait(ctx, at("a"), 0, 2); return err })
		pending(t, waiting, "waiting")
		pass(time.Microsecond)
		wantError(t, <-waiting, runnel.ErrNotFound)
		wantError(t, w.statErr("a"), runnel.ErrNotFound)
	})
}

func TestAnExpiryInThePastIsOverAtOnce(t *testing.T) {
	w := inMemory(t)
	w.create("a", runnel.CreateOptions{ExpiresAt: time.Unix(-5, 0)}, "x")
	wantError(t, w.statErr("a"), runnel.ErrNotFound)
}

func TestTheExpiredAreSweptAlthoughNobodyLooks(t *testing.T) {
	for _, crashed := range []bool{false, true} {
		bubble(t, func(t *testing.T) {
			w := inMemory(t)
			for i := range 20 {
				w.create(fmt.Sprint("s/ttl", i), runnel.CreateOptions{TTL: ttl}, "x")
				w.create(fmt.Sprint("s/at", i), runnel.CreateOptions{ExpiresAt: time.Now().Add(ttl)}, "x")
			}
			w.create("s/stays", runnel.CreateOptions{TTL: ttl}, "x")
			if crashed {
				w.crash()
			}
			pass(ttl / 2)
			w.readErr("s/stays", 0) //nolint:errcheck // to renew it
			pass(ttl/2 + ttl/8 + 20*time.Second)
			w.wantRows("s", map[string]int{"m": 1, "e": 1, "t": 0})
			w.want("s/stays", "x")
		})
	}
}

func TestCrashesDoNotAddUpToALongerLife(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, new(memory.Driver), engine.Config{MaxSegments: 1})
		w.create("s/x", runnel.CreateOptions{TTL: 80 * time.Second})
		for range 40 {
			pass(time.Millisecond)
			if _, err := w.readErr("s/x", 0); err != nil {
				t.Fatal(err)
			}
			_ = w.statErr("s/y") // takes its room in memory
			_ = w.statErr("s/z")
			pass(0)
			w.crash()
		}
		pass(95 * time.Second)
		wantError(t, w.statErr("s/x"), runnel.ErrNotFound)
	})
}
