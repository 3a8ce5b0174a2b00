package engine_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/engine"
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
