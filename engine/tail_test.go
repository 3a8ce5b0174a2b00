package engine_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/engine"
	"github.com/runnelhq/runnel/storage/memory"
)

// waiting waits on the side for what follows a place.
func (w *world) waiting(path string, id uint64, after runnel.Sequence) <-chan waited {
	e := w.Engine
	return later(func() waited {
		info, err := e.Wait(ctx, at(path), id, after)
		return waited{info, err}
	})
}

type waited struct {
	info runnel.Info
	err  error
}

func TestWaitReturnsAtOnceWhenThereIsSomething(t *testing.T) {
	w := inMemory(t)
	w.create("a", runnel.CreateOptions{}, "1", "2")
	for after := range runnel.Sequence(2) {
		if info, err := w.Wait(ctx, at("a"), 0, after); err != nil || info.Tail != 2 {
			t.Fatalf("%+v, %v", info, err)
		}
	}
	if _, err := w.tryAppend("a", closing); err != nil {
		t.Fatal(err)
	}
	for _, after := range []runnel.Sequence{2, runnel.Latest} {
		if info, err := w.Wait(ctx, at("a"), 0, after); err != nil || !info.Closed {
			t.Fatalf("%+v, %v", info, err)
		}
	}
	_, err := w.Wait(ctx, at("a"), 0, 3)
	if e := as[*runnel.BeyondTailError](t, err); e.From != 3 || e.Tail != 2 {
		t.Errorf("%+v", e)
	}
}

func TestWaitEndsWhenSomethingHappens(t *testing.T) {
	for _, tc := range []struct {
		name string
		do   func(w *world, stop context.CancelFunc) error
		want error
		tail runnel.Sequence
	}{
		{"an append", func(w *world, _ context.CancelFunc) error {
			_, err := w.tryAppend("a", runnel.AppendOptions{}, "x")
			return err
		}, nil, 2},
		{"a commit", func(w *world, _ context.CancelFunc) error {
			_, err := w.Commit(ctx, runnel.Space{}, writeTo("b", runnel.AppendOptions{}, "x"), writeTo("a", runnel.AppendOptions{}, "x"))
			return err
		}, nil, 2},
		{"closing", func(w *world, _ context.CancelFunc) error {
			_, err := w.tryAppend("a", closing)
			return err
		}, nil, 1},
		{"deletion", func(w *world, _ context.CancelFunc) error { return w.Delete(ctx, at("a")) }, runnel.ErrNotFound, 0},
		{"soft deletion", func(w *world, _ context.CancelFunc) error {
			if _, err := w.tryCreate("fork", forkOf("a", 1, 0)); err != nil {
				return err
			}
			return w.Delete(ctx, at("a"))
		}, runnel.ErrSoftDeleted, 0},
		{"giving up", func(_ *world, stop context.CancelFunc) error { stop(); return nil }, context.Canceled, 0},
		{"closing the engine", func(w *world, _ context.CancelFunc) error { return w.Close() }, runnel.ErrShutdown, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := inMemory(t)
				w.create("a", runnel.CreateOptions{}, "first")
				w.create("b", runnel.CreateOptions{})
				stopping, stop := context.WithCancel(ctx)
				defer stop()
				for _, after := range []runnel.Sequence{1, runnel.Latest} {
					_ = after
				}
				var all []<-chan waited
				for _, after := range []runnel.Sequence{1, runnel.Latest} {
					all = append(all, later(func() waited {
						info, err := w.Wait(stopping, at("a"), 0, after)
						return waited{info, err}
					}))
				}
				w.append("b", "no concern of theirs")
				pending(t, all[0], "waiting")
				pending(t, all[1], "waiting for the latest")
				wantError(t, tc.do(w, stop), nil)
				for _, one := range all {
					got := <-one
					wantError(t, got.err, tc.want)
					if got.info.Tail != tc.tail {
						t.Errorf("%+v", got.info)
					}
				}
			})
		})
	}
}

func TestTailYieldsEveryEntryOnceAndEndsWithTheSegment(t *testing.T) {
	for _, budget := range []int64{1, 500, 1 << 20} {
		t.Run(fmt.Sprintf("cache of %d bytes", budget), func(t *testing.T) {
			w := newWorld(t, new(memory.Driver), engine.Config{TailCacheBytes: budget})
			w.create("a", runnel.CreateOptions{}, numbered("", 10)...)
			const total = 400
			var wg sync.WaitGroup
			for reader := range 6 {
				wg.Go(func() {
					from := runnel.Sequence(reader * 2)
					next := int(from) + 1
					for b, err := range w.Tail(ctx, at("a"), 0, from) {
						if err != nil {
							t.Error(err)
							return
						}
						for i := range b.Len() {
							if e := b.Entry(i); string(e.Payload) != fmt.Sprint(next) || e.Sequence != runnel.Sequence(next) {
								t.Errorf("reader %d got %d %q, want %d", reader, e.Sequence, e.Payload, next)
								return
							}
							next++
						}
					}
					if next != total+1 {
						t.Errorf("reader %d ended before %d", reader, next)
					}
				})
			}
			for i := 11; i <= total; i++ {
				o := runnel.AppendOptions{Close: i == total}
				if _, err := w.tryAppend("a", o, fmt.Sprint(i)); err != nil {
					t.Fatal(err)
				}
			}
			wg.Wait()
		})
	}
}

func TestTailFromTheLatestYieldsOnlyWhatComes(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := inMemory(t)
		w.create("a", runnel.CreateOptions{}, "before")
		got := make(chan string, 10)
		go func() {
			for b, err := range w.Tail(ctx, at("a"), 0, runnel.Latest) {
				if err != nil {
					t.Error(err)
					return
				}
				got <- string(b.Payloads())
			}
			close(got)
		}()
		pending(t, got, "the tail")
		w.append("a", "1", "2")
		w.append("a", "3")
		if _, err := w.tryAppend("a", closing, "4"); err != nil {
			t.Fatal(err)
		}
		var all []string
		for one := range got {
			all = append(all, one)
		}
		if joined := fmt.Sprint(all); joined != "[12 3 4]" && joined != "[12 34]" {
			if want := []string{"1", "2", "3", "4"}; !slices.Equal(all, want) {
				t.Errorf("%q", all)
			}
		}
	})
}

func TestTailEndsWithAnErrorWhenItsSegmentGoes(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := inMemory(t)
		w.create("a", runnel.CreateOptions{}, "x")
		ended := later(func() error {
			for _, err := range w.Tail(ctx, at("a"), 0, 0) {
				if err != nil {
					return err
				}
			}
			return nil
		})
		pending(t, ended, "the tail")
		w.delete("a")
		w.create("a", runnel.CreateOptions{}, "another", "and more")
		wantError(t, <-ended, runnel.ErrNotFound)
	})
}

func TestAReaderThatIsTooSlowForRetentionIsTold(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := inMemory(t)
		w.create("a", runnel.CreateOptions{Retention: runnel.Retention{Entries: 3}}, "1")
		step := make(chan struct{})
		ended := later(func() error {
			for b, err := range w.Tail(ctx, at("a"), 0, 0) {
				if err != nil {
					return err
				}
				_ = b
				<-step
			}
			return nil
		})
		pending(t, ended, "the tail")
		w.append("a", numbered("", 10)...)
		close(step)
		if e := as[*runnel.TrimmedError](t, <-ended); e.From != 1 || e.Earliest != 8 {
			t.Errorf("%+v", e)
		}
	})
}

func TestManyWaitersWakeOnceEach(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := inMemory(t)
		w.create("a", runnel.CreateOptions{})
		var all []<-chan waited
		for range 500 {
			all = append(all, w.waiting("a", 0, 0))
		}
		pending(t, all[0], "waiting")
		w.append("a", "x")
		for _, one := range all {
			if got := <-one; got.err != nil || got.info.Tail != 1 {
				t.Fatalf("%+v", got)
			}
		}
	})
}

func TestAWaiterDoesNotKeepAnExpiryFromComing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := inMemory(t)
		w.create("a", runnel.CreateOptions{ExpiresAt: time.Now().Add(time.Minute)}, "x")
		one := w.waiting("a", 0, 1)
		pass(time.Minute - 1)
		pending(t, one, "waiting")
		pass(time.Microsecond)
		if got := <-one; !errors.Is(got.err, runnel.ErrNotFound) {
			t.Fatalf("%+v", got)
		}
	})
}
