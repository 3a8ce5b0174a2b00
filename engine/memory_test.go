package engine_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/engine"
	"github.com/runnelhq/runnel/storage/faulty"
	"github.com/runnelhq/runnel/storage/memory"
)

func TestSegmentsThatLeaveMemoryComeBackAsTheyWere(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, new(memory.Driver), engine.Config{MaxSegments: 3})
		const segments = 30
		path := func(i int) string { return fmt.Sprintf("s%d/%d", i%4, i) }
		for i := range segments {
			w.create(path(i), runnel.CreateOptions{TTL: time.Hour}, "first")
		}
		held := w.stat(path(0))
		view, err := w.Read(ctx, at(path(0)), 0, 0)
		wantError(t, err, nil)
		for round := range 4 {
			for i := range segments {
				o := producing("p", 0, uint64(round))
				o.HasStreamSeq, o.StreamSeq = true, fmt.Sprint(round)
				if got, err := w.tryAppend(path(i), o, fmt.Sprint(round)); err != nil || got.Duplicate {
					t.Fatalf("%s: %+v, %v", path(i), got, err)
				}
			}
			pass(time.Minute)
		}
		for i := range segments {
			w.want(path(i), "first", "0", "1", "2", "3")
			if got, err := w.tryAppend(path(i), producing("p", 0, 3), "again"); err != nil || !got.Duplicate {
				t.Fatalf("%+v, %v", got, err)
			}
			_, err := w.tryAppend(path(i), runnel.AppendOptions{HasStreamSeq: true, StreamSeq: "3"}, "again")
			wantError(t, err, runnel.ErrStreamSeq)
		}
		if got, err := entriesOf(view); err != nil || !slices.Equal(texts(got), []string{"first"}) || view.ID != held.ID {
			t.Fatalf("the view that was held shows %q, %v", texts(got), err)
		}
	})
}

func TestEvictionKeepsWindowsExact(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, new(memory.Driver), engine.Config{MaxSegments: 1, SweepInterval: -1})
		w.create("a", runnel.CreateOptions{TTL: ttl}, "x")
		pass(ttl / 2)
		_, err := w.readErr("a", 0)
		wantError(t, err, nil)
		for i := range 10 {
			pass(time.Second)
			w.create(fmt.Sprint(i), runnel.CreateOptions{})
			if i%3 == 0 {
				w.stat("a")
			}
		}
		pass(ttl - 10*time.Second - time.Microsecond)
		wantError(t, w.statErr("a"), nil)
		pass(time.Microsecond)
		wantError(t, w.statErr("a"), runnel.ErrNotFound)
	})
}

func TestSegmentsThatDoNotExistTakeNoRoomForLong(t *testing.T) {
	w := newWorld(t, new(memory.Driver), engine.Config{MaxSegments: 10})
	w.create("a", runnel.CreateOptions{}, "x")
	for i := range 1000 {
		wantError(t, w.statErr(fmt.Sprintf("space%d/missing", i)), runnel.ErrNotFound)
	}
	w.want("a", "x")
}

func TestReadsAreTheSameWhateverTheTailCacheHolds(t *testing.T) {
	for _, budget := range []int64{1, 1 << 10, 4 << 10, 64 << 10, 1 << 30} {
		t.Run(fmt.Sprintf("%d bytes", budget), func(t *testing.T) {
			w := newWorld(t, new(memory.Driver), engine.Config{TailCacheBytes: budget})
			rng := rand.New(rand.NewPCG(uint64(budget), 0))
			want := map[string][]string{"s/a": nil, "s/b": nil}
			for path := range want {
				w.create(path, runnel.CreateOptions{})
			}
			for step := range 200 {
				path := []string{"s/a", "s/b"}[rng.IntN(2)]
				var add []string
				for range 1 + rng.IntN(5) {
					add = append(add, big(string(rune('a'+step%26)), rng.IntN([]int{10, 300, 3000}[rng.IntN(3)])))
				}
				w.append(path, add...)
				want[path] = append(want[path], add...)
				from := rng.IntN(len(want[path]) + 1)
				w.wantFrom(path, runnel.Sequence(from), want[path][from:]...)
			}
			for path := range want {
				w.want(path, want[path]...)
			}
		})
	}
}

func TestReadersAtTheTailDoNotTouchStorage(t *testing.T) {
	w := inMemory(t)
	w.create("a", runnel.CreateOptions{}, "x")
	before := w.driver.Calls(faulty.Scan) + w.driver.Calls(faulty.Get) + w.driver.Calls(faulty.Guard)
	for i := range 100 {
		w.append("a", fmt.Sprint(i))
		w.wantFrom("a", runnel.Sequence(i+1), fmt.Sprint(i))
		w.want("a", append([]string{"x"}, func() (all []string) {
			for k := range i + 1 {
				all = append(all, fmt.Sprint(k))
			}
			return all
		}()...)...)
	}
	if n := w.driver.Calls(faulty.Scan) + w.driver.Calls(faulty.Get) + w.driver.Calls(faulty.Guard) - before; n != 0 {
		t.Errorf("%d reads of storage", n)
	}
}

func TestMetadataCountsInTheTailCache(t *testing.T) {
	w := newWorld(t, new(memory.Driver), engine.Config{TailCacheBytes: 1 << 20})
	w.create("a", runnel.CreateOptions{})
	before := w.driver.Calls(faulty.Scan)
	for range 64 {
		r := runnel.Record{Metadata: map[string]string{"k": big("v", 100<<10)}}
		if _, err := w.Append(ctx, at("a"), runnel.AppendOptions{}, r); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.readErr("a", 0); err != nil {
		t.Fatal(err)
	}
	if w.driver.Calls(faulty.Scan) == before {
		t.Error("6 MiB of metadata are kept in a cache of 1 MiB")
	}
}

func TestManyReadersAndWritersOfFewSegmentsInMemory(t *testing.T) {
	w := newWorld(t, new(memory.Driver), engine.Config{MaxSegments: 2, TailCacheBytes: 2 << 10})
	const segments, writes = 8, 100
	for i := range segments {
		w.create(fmt.Sprint("s/", i), runnel.CreateOptions{})
	}
	var wg sync.WaitGroup
	for i := range segments {
		path := fmt.Sprint("s/", i)
		wg.Go(func() {
			for k := range writes {
				if _, err := w.tryAppend(path, producing("p", 0, uint64(k)), fmt.Sprint(k)); err != nil {
					t.Error(err)
					return
				}
			}
		})
		wg.Go(func() {
			next := 0
			for b, err := range w.Tail(ctx, at(path), 0, 0) {
				if err != nil {
					t.Error(err)
					return
				}
				for k := range b.Len() {
					if got := string(b.Payload(k)); got != fmt.Sprint(next) {
						t.Errorf("%s: %q, want %d", path, got, next)
						return
					}
					next++
				}
				if next == writes {
					return
				}
			}
		})
	}
	wg.Wait()
}
