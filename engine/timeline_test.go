package engine_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"runtime"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"pgregory.net/rapid"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/engine"
	"github.com/runnelhq/runnel/storage"
	"github.com/runnelhq/runnel/storage/memory"
	"github.com/runnelhq/runnel/storage/pebblestore"
)

// placed is an entry of a timeline as the tests tell it: "segment payload".
type placed struct {
	position runnel.Position
	text     string
}

// timeline reads what a space holds after a place, and checks that positions and times only grow.
func (w *world) timeline(space string, from runnel.Position) []placed {
	w.t.Helper()
	v, err := w.ReadSpace(ctx, runnel.Space{Name: space}, from)
	if err != nil {
		w.t.Fatalf("read space %q after %d: %v", space, from, err)
	}
	var all []placed
	last := v.From
	var clock time.Time
	for b, err := range v.Batches {
		if err != nil {
			w.t.Fatalf("space %q after %d: %v", space, last, err)
		}
		for i := range b.Len() {
			e := b.Entry(i)
			if e.Position <= last || e.Position > v.Head || e.Time.Before(clock) {
				w.t.Fatalf("space %q: position %d at %v follows %d at %v; the head is %d", space, e.Position, e.Time, last, clock, v.Head)
			}
			last, clock = e.Position, e.Time
			all = append(all, placed{e.Position, b.Segment.Name + " " + string(e.Payload)})
		}
	}
	return all
}

// pebbleInMemory is Pebble on a file system that needs no disk.
func pebbleInMemory(t testing.TB) storage.Driver {
	t.Helper()
	d, err := pebblestore.Open("db", pebblestore.Config{FS: vfs.NewMem(), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d
}

func placedTexts(all []placed) []string {
	var texts []string
	for _, p := range all {
		texts = append(texts, p.text)
	}
	return texts
}

func (w *world) wantTimeline(space string, want ...string) {
	w.t.Helper()
	if got := placedTexts(w.timeline(space, 0)); !slices.Equal(got, want) {
		w.t.Fatalf("the timeline of %q is %s, want %s", space, short(got), short(want))
	}
}

func TestATimelineHoldsAllSegmentsInTheOrderOfTheirCommits(t *testing.T) {
	w := inMemory(t)
	w.create("s/a", runnel.CreateOptions{}, "1", "2")
	w.create("s/b", runnel.CreateOptions{})
	w.create("other/c", runnel.CreateOptions{}, "elsewhere")
	w.append("s/b", "3")
	w.append("s/a", "4", "5")
	if _, err := w.Commit(ctx, runnel.Space{Name: "s"},
		runnel.Write{Segment: "b", Records: records("6", "7")},
		runnel.Write{Segment: "a", Records: records("8")},
	); err != nil {
		t.Fatal(err)
	}
	want := []string{"a 1", "a 2", "b 3", "a 4", "a 5", "b 6", "b 7", "a 8"}
	for range 2 {
		w.wantTimeline("s", want...)
		// Every place is one to begin at, also one inside a batch or a commit.
		all := w.timeline("s", 0)
		for i, p := range all {
			if got := placedTexts(w.timeline("s", p.position)); !slices.Equal(got, want[i+1:]) {
				t.Fatalf("after %d: %s, want %s", p.position, short(got), short(want[i+1:]))
			}
		}
		w.wantTimeline("other", "c elsewhere")
		w.wantTimeline("nobody wrote here")
		w.reopen()
	}
}

func TestATimelineIsReadFromPlacesThatWereGiven(t *testing.T) {
	w := inMemory(t)
	w.create("s/a", runnel.CreateOptions{}, "1")
	v, err := w.ReadSpace(ctx, runnel.Space{Name: "s"}, runnel.LatestPosition)
	if err != nil || v.From != v.Head || v.Head == 0 {
		t.Fatalf("%+v, %v", v, err)
	}
	for range v.Batches {
		t.Fatal("there is something after the head")
	}
	_, err = w.ReadSpace(ctx, runnel.Space{Name: "s"}, v.Head+1)
	wantError(t, err, runnel.ErrBeyondTail)
	if e := as[*runnel.BeyondHeadError](t, err); e.From != v.Head+1 || e.Head != v.Head {
		t.Errorf("%+v", e)
	}
	_, err = w.ReadSpace(ctx, runnel.Space{Name: "a//b"}, 0)
	wantError(t, err, runnel.ErrInvalid)
}

func TestATimelineLeavesOutWhatIsGone(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := inMemory(t)
		w.create("s/deleted", runnel.CreateOptions{}, "1")
		w.create("s/again", runnel.CreateOptions{}, "2")
		w.create("s/expired", runnel.CreateOptions{TTL: time.Minute}, "3")
		w.create("s/cut", runnel.CreateOptions{Retention: runnel.Retention{Entries: 2}}, "4", "5", "6")
		w.create("s/source", runnel.CreateOptions{}, "7")
		w.fork("s/fork", "s/source", 1, "8")
		w.delete("s/deleted")
		w.delete("s/again")
		w.delete("s/source")
		w.create("s/again", runnel.CreateOptions{}, "9")
		pass(2 * time.Minute)
		for range 2 {
			w.wantTimeline("s", "cut 5", "cut 6", "fork 8", "again 9")
			w.reopen()
		}
	})
}

func TestATimelineDoesNotKeepSegmentsAlive(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := inMemory(t)
		w.create("s/a", runnel.CreateOptions{TTL: time.Minute}, "1")
		for range 3 {
			pass(25 * time.Second)
			w.timeline("s", 0)
		}
		wantError(t, w.statErr("s/a"), runnel.ErrNotFound)
	})
}

func TestATimelineShowsNothingBeforeItIsDurable(t *testing.T) {
	w := newWorld(t, pebbleInMemory(t), engine.Config{})
	w.create("s/a", runnel.CreateOptions{}, "1")
	w.create("s/b", runnel.CreateOptions{}, "2")
	release := w.blocked("s")
	appended := later(func() error { _, err := w.tryAppend("s/a", runnel.AppendOptions{}, "3"); return err })
	deleted := later(func() error { return w.Delete(ctx, at("s/b")) })
	w.wantTimeline("s", "a 1", "b 2")
	release()
	if err := errors.Join(<-appended, <-deleted); err != nil {
		t.Fatal(err)
	}
	w.wantTimeline("s", "a 1", "a 3")
}

func TestATimelineHoldsLargeEntriesAndLongRuns(t *testing.T) {
	w := newWorld(t, pebbleInMemory(t), engine.Config{TailCacheBytes: 1})
	w.create("s/a", runnel.CreateOptions{})
	w.create("s/b", runnel.CreateOptions{})
	var want []string
	for i := range 6 {
		large := big(string(rune('a'+i)), 1<<uint(18+i)) // to 8 MiB
		w.append("s/a", large)
		w.append("s/b", numbered(fmt.Sprint(i, "-"), 3000)...)
		want = append(want, "a "+large)
		for _, p := range numbered(fmt.Sprint(i, "-"), 3000) {
			want = append(want, "b "+p)
		}
	}
	w.wantTimeline("s", want...)
}

func TestWaitingForASpaceEnds(t *testing.T) {
	space := runnel.Space{Name: "s"}
	bubble(t, func(t *testing.T) {
		w := inMemory(t)
		type answer struct {
			head runnel.Position
			err  error
		}
		waiting := func(ctx context.Context, after runnel.Position) <-chan answer {
			return later(func() answer {
				head, err := w.WaitSpace(ctx, space, after)
				return answer{head, err}
			})
		}
		first := waiting(ctx, 0)
		pending(t, first, "waiting for the first change")
		w.create("s/a", runnel.CreateOptions{}, "1")
		if got := <-first; got.err != nil || got.head == 0 {
			t.Fatalf("%+v", got)
		}
		head, err := w.WaitSpace(ctx, space, 0)
		if err != nil {
			t.Fatal(err)
		}
		canceled, cancel := context.WithCancel(ctx)
		given := waiting(canceled, head)
		pending(t, given, "waiting for nothing")
		cancel()
		if got := <-given; !errors.Is(got.err, context.Canceled) {
			t.Fatalf("%+v", got)
		}
		last := waiting(ctx, head)
		synctest.Wait()
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if got := <-last; !errors.Is(got.err, runnel.ErrShutdown) {
			t.Fatalf("%+v", got)
		}
	})
}

// TestFollowingASpaceHasNoSeam lets readers follow a space from its beginning while it is written, one of
// them so slowly that what it needs has long left memory.
func TestFollowingASpaceHasNoSeam(t *testing.T) {
	const segments, rounds = 5, 1000
	for _, tc := range []struct {
		name string
		open func(t testing.TB) *world
	}{
		{"memory", inMemory},
		{"Pebble, nothing cached", func(t testing.TB) *world {
			return newWorld(t, pebbleInMemory(t), engine.Config{TailCacheBytes: 1})
		}},
		{"a driver that others write to", func(t testing.TB) *world {
			return newWorld(t, &memory.Driver{Shared: true}, engine.Config{PollInterval: time.Millisecond})
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := tc.open(t)
			stop, cancel := context.WithTimeout(ctx, time.Minute)
			defer cancel()
			follow := func(until <-chan struct{}) <-chan []string {
				return later(func() []string {
					var got []string
					last := runnel.Position(0)
					for b, err := range w.TailSpace(stop, runnel.Space{Name: "s"}, 0) {
						if err != nil {
							return append(got, err.Error())
						}
						<-until
						for i := range b.Len() {
							e := b.Entry(i)
							if e.Position <= last {
								return append(got, fmt.Sprintf("position %d after %d", e.Position, last))
							}
							last = e.Position
							got = append(got, b.Segment.Name+" "+string(e.Payload))
						}
						if len(got) == segments*rounds*2+1 {
							break
						}
					}
					return got
				})
			}
			always, written := make(chan struct{}), make(chan struct{})
			close(always)
			readers := []<-chan []string{follow(always), follow(always), follow(written)}
			for i := range segments {
				w.create(fmt.Sprint("s/", i), runnel.CreateOptions{})
			}
			var writers []<-chan error
			for i := range segments {
				writers = append(writers, later(func() error {
					for n := range rounds {
						if _, err := w.tryAppend(fmt.Sprint("s/", i), runnel.AppendOptions{}, fmt.Sprint(2*n), fmt.Sprint(2*n+1)); err != nil {
							return err
						}
					}
					return nil
				}))
			}
			for _, done := range writers {
				if err := <-done; err != nil {
					t.Fatal(err)
				}
			}
			w.create("s/end", runnel.CreateOptions{}, "end")
			close(written)
			want := placedTexts(w.timeline("s", 0))
			if len(want) != segments*rounds*2+1 {
				t.Fatalf("the timeline has %d entries", len(want))
			}
			for _, got := range readers {
				if got := <-got; !slices.Equal(got, want) {
					t.Fatalf("followed: %s, want %s", short(got[max(0, len(got)-5):]), short(want[len(want)-5:]))
				}
			}
		})
	}
}

// TestATimelineIsTheCommitsOnWhateverStorage compares timelines with a list of what was written.
func TestATimelineIsTheCommitsOnWhateverStorage(t *testing.T) {
	drivers := map[string]func(t testing.TB) storage.Driver{
		"memory":        func(testing.TB) storage.Driver { return new(memory.Driver) },
		"shared memory": func(testing.TB) storage.Driver { return &memory.Driver{Shared: true} },
		"Pebble":        func(t testing.TB) storage.Driver { return pebbleInMemory(t) },
	}
	for name, driver := range drivers {
		t.Run(name, func(t *testing.T) {
			rapid.Check(t, func(rt *rapid.T) {
				cache := rapid.SampledFrom([]int64{1, 4 << 10, 0}).Draw(rt, "cache")
				w := newWorld(t, driver(t), engine.Config{TailCacheBytes: cache, MaxSegments: rapid.IntRange(1, 4).Draw(rt, "segments in memory")})
				defer w.Close()
				var want []string
				exists := map[string]bool{}
				for n := range rapid.IntRange(1, 40).Draw(rt, "steps") {
					name := rapid.SampledFrom([]string{"a", "b", "c", "d"}).Draw(rt, "name")
					payloads := numbered(fmt.Sprint(n, "."), rapid.IntRange(1, 5).Draw(rt, "entries"))
					switch {
					case !exists[name]:
						w.create("s/"+name, runnel.CreateOptions{}, payloads...)
						exists[name] = true
					case rapid.IntRange(0, 9).Draw(rt, "what") == 0:
						w.delete("s/" + name)
						exists[name] = false
						want = slices.DeleteFunc(want, func(text string) bool { return text[0] == name[0] })
						continue
					case rapid.IntRange(0, 19).Draw(rt, "what") == 0:
						w.reopen()
						continue
					default:
						w.append("s/"+name, payloads...)
					}
					for _, p := range payloads {
						want = append(want, name+" "+p)
					}
				}
				w.wantTimeline("s", want...)
				all := w.timeline("s", 0)
				if len(all) > 0 {
					i := rapid.IntRange(0, len(all)-1).Draw(rt, "place")
					if got := placedTexts(w.timeline("s", all[i].position)); !slices.Equal(got, want[i+1:]) {
						rt.Fatalf("after %d: %s, want %s", all[i].position, short(got), short(want[i+1:]))
					}
				}
			})
		})
	}
}

// heap is how much memory is in use.
func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// largeLog is a space of segments with one large entry each, none of which is in memory.
func largeLog(t *testing.T, segments, size int) *world {
	t.Helper()
	w := newWorld(t, new(memory.Driver), engine.Config{TailCacheBytes: 1})
	payload := big("x", size)
	for i := range segments {
		w.create(fmt.Sprint("s/", i), runnel.CreateOptions{}, payload)
	}
	return w
}

func TestAReaderOfASpaceHoldsLittleInMemory(t *testing.T) {
	const segments, size = 16, 5 << 20
	for name, q := range map[string]runnel.Query{
		"forwards":  {Sources: []runnel.Source{ofSpace("s")}},
		"backwards": {Sources: []runnel.Source{ofSpace("s")}, Backwards: true},
	} {
		t.Run(name, func(t *testing.T) {
			w := largeLog(t, segments, size)
			before, n := heap(), 0
			for _, err := range w.Query(ctx, q) {
				wantError(t, err, nil)
				if n++; n%8 == 0 {
					if held := heap() - before; held > 6*size {
						t.Fatalf("%d MiB are held at entry %d", held>>20, n)
					}
				}
			}
			if n != segments {
				t.Fatalf("%d entries, want %d", n, segments)
			}
		})
	}
}

func TestClosingDoesNotWaitForASlowReaderToReadOn(t *testing.T) {
	read := map[string]func(w *world) iter.Seq[error]{
		"of a space": func(w *world) iter.Seq[error] {
			return func(yield func(error) bool) {
				v, _ := w.ReadSpace(ctx, runnel.Space{Name: "s"}, 0)
				for _, err := range v.Batches {
					if !yield(err) {
						return
					}
				}
			}
		},
		"of a segment": func(w *world) iter.Seq[error] {
			return func(yield func(error) bool) {
				v, _ := w.Read(ctx, at("s/a"), 0, 0)
				for _, err := range v.Batches {
					if !yield(err) {
						return
					}
				}
			}
		},
	}
	for name, entries := range read {
		for _, cache := range []int64{0, 1} {
			t.Run(fmt.Sprintf("%s, cache of %d", name, cache), func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					w := newWorld(t, new(memory.Driver), engine.Config{TailCacheBytes: cache})
					w.create("s/a", runnel.CreateOptions{})
					for range 20 {
						w.append("s/a", "x")
					}
					n, last := 0, error(nil)
					var closed <-chan error
					for err := range entries(w) {
						if last = err; err != nil {
							break
						}
						if n++; n == 3 {
							closed = later(w.Close)
						}
						pass(time.Minute)
					}
					wantError(t, last, runnel.ErrShutdown)
					if n != 3 {
						t.Errorf("it was given %d entries", n)
					}
					wantError(t, <-closed, nil)
				})
			})
		}
	}
}
