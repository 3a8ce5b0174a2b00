package engine_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/engine"
	"github.com/runnelhq/runnel/storage/faulty"
	"github.com/runnelhq/runnel/storage/memory"
)

// TestAPlaceIsFoundByTime compares with a look at every entry, for every moment.
func TestAPlaceIsFoundByTime(t *testing.T) {
	for _, tc := range []struct {
		name  string
		cache int64
	}{{"in memory", 0}, {"in storage", 1}} {
		t.Run(tc.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t, new(memory.Driver), engine.Config{TailCacheBytes: tc.cache})
				began := time.Now()
				w.create("s/a", runnel.CreateOptions{Retention: runnel.Retention{Entries: 55}})
				w.create("s/gone", runnel.CreateOptions{}, "1")
				for i := range 20 {
					pass(time.Duration(i%3) * time.Second) // some share a moment
					w.append("s/a", numbered(fmt.Sprint(i, "-"), i%5+1)...)
					w.create(fmt.Sprint("s/b-", i), runnel.CreateOptions{}, "x")
				}
				w.append("s/a", big("x", 3<<20))
				w.fork("s/fork", "s/a", 50, "own")
				w.delete("s/gone")
				for _, path := range []string{"s/a", "s/fork"} {
					info := w.stat(path)
					entries, err := w.readErr(path, info.Earliest)
					if err != nil {
						t.Fatal(err)
					}
					for when := began.Add(-time.Second); when.Before(time.Now().Add(2 * time.Second)); when = when.Add(500 * time.Millisecond) {
						want := info.Earliest
						for _, e := range entries {
							if e.Time.Before(when) {
								want = e.Sequence
							}
						}
						if got, err := w.SequenceAt(ctx, at(path), when); err != nil || got != want {
							t.Fatalf("%s at %v: %d, %v, want %d", path, when.Sub(began), got, err, want)
						}
					}
				}
				for when := began.Add(-time.Second); when.Before(time.Now().Add(2 * time.Second)); when = when.Add(500 * time.Millisecond) {
					from, err := w.PositionAt(ctx, runnel.Space{Name: "s"}, when)
					if err != nil {
						t.Fatal(err)
					}
					v, err := w.ReadSpace(ctx, runnel.Space{Name: "s"}, 0)
					if err != nil {
						t.Fatal(err)
					}
					for b, err := range v.Batches {
						if err != nil {
							t.Fatal(err)
						}
						for i := range b.Len() {
							if e := b.Entry(i); (e.Position > from) == e.Time.Before(when) {
								t.Fatalf("at %v: place %d, and position %d is of %v", when.Sub(began), from, e.Position, e.Time.Sub(began))
							}
						}
					}
				}
			})
		})
	}
	w := inMemory(t)
	_, err := w.SequenceAt(ctx, at("none"), time.Now())
	wantError(t, err, runnel.ErrNotFound)
	if p, err := w.PositionAt(ctx, runnel.Space{Name: "none"}, time.Now()); err != nil || p != 0 {
		t.Fatal(p, err)
	}
}

func TestAPlaceIsFoundInsideACommitOfSeveralWrites(t *testing.T) {
	for name, cache := range map[string]int64{"in memory": 0, "in storage": 1} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t, new(memory.Driver), engine.Config{TailCacheBytes: cache})
				for _, path := range []string{"s/a", "s/b", "s/gone"} {
					w.create(path, runnel.CreateOptions{})
				}
				release := w.blocked("s")
				var writes []<-chan error
				began := time.Now()
				for i := range 9 {
					path := []string{"s/a", "s/gone", "s/b"}[i%3]
					writes = append(writes, later(func() error {
						_, err := w.tryAppend(path, runnel.AppendOptions{}, fmt.Sprint(i))
						return err
					}))
					pass(time.Second)
				}
				release()
				for _, write := range writes {
					wantError(t, <-write, nil)
				}
				w.delete("s/gone")
				pass(time.Minute)
				for i := range 11 {
					var want []string
					for k := range min(i, 9) {
						if k%3 != 1 {
							want = append(want, fmt.Sprintf("s/%s:%d", []string{"a", "", "b"}[k%3], k))
						}
					}
					got := w.mustQuery(runnel.Query{Sources: []runnel.Source{ofSpace("s")}, Until: began.Add(time.Duration(i) * time.Second)})
					if !slices.Equal(got, want) {
						t.Fatalf("until second %d: %s, want %s", i, short(got), short(want))
					}
				}
			})
		})
	}
}

func TestAPlaceIsLookedForInASegmentThatGoesAway(t *testing.T) {
	for name, tc := range map[string]struct {
		do   func(w *world)
		want error
	}{
		"deleted": {func(w *world) { w.delete("s/a") }, runnel.ErrNotFound},
		"trimmed": {func(w *world) { w.append("s/a", numbered("more", 40)...) }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t, new(memory.Driver), engine.Config{TailCacheBytes: 1})
				w.create("s/a", runnel.CreateOptions{Retention: runnel.Retention{Entries: 20}})
				for i := range 20 {
					w.append("s/a", fmt.Sprint(i))
					pass(time.Second)
				}
				w.once(func(c faulty.Call) bool { return c.Op == faulty.Scan && c.Range.From[0] == 'e' }, func() {
					tc.do(w)
					pass(time.Minute)
				})
				_, err := w.SequenceAt(ctx, at("s/a"), time.Now().Add(-time.Hour))
				wantError(t, err, tc.want)
			})
		})
	}
}
