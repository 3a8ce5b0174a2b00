package engine_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/engine"
	"github.com/runnelhq/runnel/storage/memory"
)

func TestPeekReturnsTheLastEntry(t *testing.T) {
	for _, tc := range []struct {
		name  string
		cache int64
	}{{"in memory", 0}, {"in storage", 1}} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t, new(memory.Driver), engine.Config{TailCacheBytes: tc.cache})
			peek := func(path, want string, seq runnel.Sequence) {
				t.Helper()
				e, err := w.Peek(ctx, at(path))
				if err != nil || string(e.Payload) != want || e.Sequence != seq {
					t.Fatalf("%s: %+v, %v; want %q at %d", path, e, err, want, seq)
				}
			}
			w.create("s/a", runnel.CreateOptions{})
			peek("s/a", "", 0)
			for i := range 300 {
				w.append("s/a", numbered(fmt.Sprint(i, "-"), i%4+1)...)
				peek("s/a", fmt.Sprint(i, "-", i%4+1), w.stat("s/a").Tail)
			}
			w.create("s/ab", runnel.CreateOptions{}, "of a longer name")
			peek("s/a", "299-4", 750)
			w.append("s/a", big("x", 3<<20))
			peek("s/a", big("x", 3<<20), 751)
			w.fork("s/fork", "s/a", 700)
			entries, err := w.readErr("s/a", 699)
			if err != nil {
				t.Fatal(err)
			}
			peek("s/fork", string(entries[0].Payload), 700)
			w.reopen()
			peek("s/a", big("x", 3<<20), 751)
			if _, err := w.Append(ctx, at("s/a"), runnel.AppendOptions{}, runnel.Record{Metadata: map[string]string{"k": "v"}}); err != nil {
				t.Fatal(err)
			}
			if e, err := w.Peek(ctx, at("s/a")); err != nil || e.Metadata["k"] != "v" || e.Position == 0 || e.Transaction != e.Position || e.Time.IsZero() {
				t.Fatalf("%+v, %v", e, err)
			}
			_, err = w.Peek(ctx, at("s/none"))
			wantError(t, err, runnel.ErrNotFound)
		})
	}
}

func TestPeekShowsOnlyWhatIsDurableAndRetained(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w, cache := onDisk(t)
		w.create("s/a", runnel.CreateOptions{Retention: runnel.Retention{Age: time.Hour}}, "1")
		cache.Hold()
		second := later(func() error { _, err := w.tryAppend("s/a", runnel.AppendOptions{}, "2"); return err })
		pending(t, second, "the append")
		if e, err := w.Peek(ctx, at("s/a")); err != nil || string(e.Payload) != "1" {
			t.Fatalf("%+v, %v", e, err)
		}
		cache.Release()
		wantError(t, <-second, nil)
		if e, err := w.Peek(ctx, at("s/a")); err != nil || string(e.Payload) != "2" {
			t.Fatalf("%+v, %v", e, err)
		}
		pass(2 * time.Hour)
		if e, err := w.Peek(ctx, at("s/a")); err != nil || e.Sequence != 0 {
			t.Fatalf("%+v, %v", e, err)
		}
	})
}

func TestPeekDoesNotRenewTheTTL(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := inMemory(t)
		w.create("s/a", runnel.CreateOptions{TTL: time.Hour}, "1")
		pass(40 * time.Minute)
		if _, err := w.Peek(ctx, at("s/a")); err != nil {
			t.Fatal(err)
		}
		pass(40 * time.Minute)
		_, err := w.Peek(ctx, at("s/a"))
		wantError(t, err, runnel.ErrNotFound)
	})
}

func TestASpaceTellsItsHeadAndWhenThatWas(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w, cache := onDisk(t)
		space := runnel.Space{Name: "s"}
		if in, err := w.StatSpace(ctx, space); err != nil || in != (runnel.SpaceInfo{Space: space}) {
			t.Fatalf("%+v, %v", in, err)
		}
		w.create("s/a", runnel.CreateOptions{}, "1", "2")
		first, _ := w.Peek(ctx, at("s/a"))
		pass(time.Minute)
		cache.Hold()
		more := later(func() error { _, err := w.tryAppend("s/a", runnel.AppendOptions{}, "3"); return err })
		pending(t, more, "the append")
		if in, err := w.StatSpace(ctx, space); err != nil || in.Head != first.Position || !in.Time.Equal(first.Time) {
			t.Fatalf("%+v, %v, want what %+v left", in, err, first)
		}
		cache.Release()
		wantError(t, <-more, nil)
		for range 2 {
			last, _ := w.Peek(ctx, at("s/a"))
			if in, err := w.StatSpace(ctx, space); err != nil || in.Head != last.Position || !in.Time.Equal(last.Time) {
				t.Fatalf("%+v, %v, want what %+v left", in, err, last)
			}
			w.reopen()
		}
		_, err := w.StatSpace(ctx, runnel.Space{Name: "a//b"})
		wantError(t, err, runnel.ErrInvalid)
	})
}

func (w *world) spaces(prefix, after string) []string {
	w.t.Helper()
	var all []string
	for space, err := range w.Spaces(ctx, runnel.Store{}, prefix, after) {
		if err != nil {
			w.t.Fatal(err)
		}
		all = append(all, space.Name)
	}
	return all
}

func TestSpacesAreListedByPrefixAndAfter(t *testing.T) {
	w := inMemory(t)
	names := []string{"", "a", "a/b", "a0", "ab", "b", "é"}
	for _, name := range names {
		if _, err := w.Create(ctx, runnel.Space{Name: name}.Segment("x"), runnel.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for _, prefix := range append([]string{"none", "a/"}, names...) {
		for _, after := range append([]string{"0", "a/a", "zz"}, names...) {
			var want []string
			for _, name := range names {
				if len(name) >= len(prefix) && name[:len(prefix)] == prefix && (after == "" || name > after) {
					want = append(want, name)
				}
			}
			if got := w.spaces(prefix, after); !slices.Equal(got, want) {
				t.Errorf("prefix %q after %q: %q, want %q", prefix, after, got, want)
			}
		}
	}
	for i := range 600 {
		w.create(fmt.Sprintf("many/%03d/x", i), runnel.CreateOptions{})
	}
	if got := w.spaces("many/", ""); len(got) != 600 || got[599] != "many/599" {
		t.Fatalf("%d listed", len(got))
	}
}

func TestOnlyWhatIsDurablyWrittenIsListed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w, cache := onDisk(t)
		other := runnel.Store{7}
		w.create("s/a", runnel.CreateOptions{}, "1")
		// Looking at something, or being refused, makes nothing.
		_ = w.statErr("none/x")
		_, err := w.Append(ctx, runnel.Segment{Store: other, Space: "no", Name: "x"}, runnel.AppendOptions{}, records("1")...)
		wantError(t, err, runnel.ErrNotFound)
		cache.Hold()
		written := later(func() error {
			_, err := w.Append(ctx, runnel.Segment{Store: other, Space: "t", Name: "x"}, creating(), records("1")...)
			return err
		})
		pending(t, written, "the append")
		if got := w.stores(runnel.Store{}); !slices.Equal(got, []runnel.Store{{}}) {
			t.Errorf("%v", got)
		}
		cache.Release()
		wantError(t, <-written, nil)
		if got := w.stores(runnel.Store{}); !slices.Equal(got, []runnel.Store{{}, other}) {
			t.Errorf("%v", got)
		}
		if got := w.stores(other); len(got) > 0 {
			t.Errorf("%v", got)
		}
		if got := w.spaces("", ""); !slices.Equal(got, []string{"s"}) {
			t.Errorf("%q", got)
		}
	})
}

func (w *world) stores(after runnel.Store) []runnel.Store {
	w.t.Helper()
	var all []runnel.Store
	for store, err := range w.Stores(ctx, after) {
		if err != nil {
			w.t.Fatal(err)
		}
		all = append(all, store)
	}
	return all
}

// creating makes the segment with its first entry.
func creating() runnel.AppendOptions {
	return runnel.AppendOptions{Create: &runnel.CreateOptions{}}
}

// BenchmarkPeek measures looking at the last entry, of 100 bytes.
func BenchmarkPeek(b *testing.B) {
	w := inMemory(b)
	w.create("s/a", runnel.CreateOptions{}, big("x", 100))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := w.Peek(ctx, at("s/a")); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "peeks/s")
}
