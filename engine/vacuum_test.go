package engine_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/engine"
	"github.com/runnelhq/runnel/storage"
	"github.com/runnelhq/runnel/storage/faulty"
	"github.com/runnelhq/runnel/storage/memory"
)

func TestTheTimelineOfWhatIsGoneIsGivenBack(t *testing.T) {
	for name, end := range map[string]func(*world){"": func(*world) {}, "crashed": (*world).crash} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := inMemory(t)
				w.create("s/stays", runnel.CreateOptions{}, "x")
				w.create("s/trimmed", runnel.CreateOptions{Retention: runnel.Retention{Entries: 3}})
				w.create("s/goes", runnel.CreateOptions{})
				for range 60 {
					w.append("s/goes", numbered("", 50)...)
					w.append("s/trimmed", numbered("", 50)...)
				}
				w.append("s/stays", "y")
				before := w.rows("s")["c"]
				if before < 120 {
					t.Fatalf("%d commits", before)
				}
				w.delete("s/goes")
				last := w.append("s/stays", "z")
				pass(time.Minute)
				if got := w.rows("s")["c"]; got > 20 {
					t.Errorf("%d commits of %d are left", got, before)
				}
				end(w)
				w.want("s/stays", "x", "y", "z")
				w.want("s/trimmed", "48", "49", "50")
				if got := w.append("s/stays", "more"); got.Position <= last.Position {
					t.Errorf("position %d after %d", got.Position, last.Position)
				}
			})
		})
	}
}

func TestAnEmptiedSpaceKeepsItsHead(t *testing.T) {
	// Positions and ids go on where they were, also if the commit that the vacuum took for the last
	// one never was.
	bubble(t, func(t *testing.T) {
		d := &memory.Driver{Shared: true}
		a, b := newWorld(t, d, engine.Config{}), newWorld(t, d, engine.Config{SweepInterval: -1})
		a.create("s/a", runnel.CreateOptions{})
		for range 100 {
			a.append("s/a", numbered("", 50)...)
		}
		last := a.stat("s/a")
		// Everything goes, and while the vacuum runs an append is staged that loses to the other engine.
		b.create("s/c", runnel.CreateOptions{})
		a.delete("s/a")
		pass(0)
		lose := make(chan struct{})
		lost := false
		a.driver.SetRules(faulty.Rule{
			When: func(c faulty.Call) bool { return c.Op == faulty.Commit && !lost && setsRun(c.Batch) },
			Then: func(context.Context, faulty.Call, func(context.Context) error) error {
				lost = true
				<-lose
				return storage.ErrConflict
			},
		})
		appended := later(func() error { _, err := a.tryAppend("s/c", runnel.AppendOptions{}, "x", "y", "z"); return err })
		pending(t, appended, "the append")
		pass(time.Minute)
		b.delete("s/c")
		close(lose)
		wantError(t, <-appended, runnel.ErrNotFound)
		pass(time.Minute)
		if n := a.rows("s")["c"]; n == 0 || n > 50 {
			t.Fatalf("%d commits are left", n)
		}
		fresh := a.create("s/b", runnel.CreateOptions{})
		if fresh.ID <= last.ID+uint64(last.Tail) {
			t.Errorf("id %d after %d", fresh.ID, last.ID)
		}
	})
}

// setsRun tells whether a batch appends to a segment.
func setsRun(b *storage.Batch) bool {
	for i := range b.Ops {
		if b.Ops[i].Key[0] == 'e' {
			return true
		}
	}
	return false
}

func TestManyNamesThatAreNotThereAreToldWithoutStorage(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, new(memory.Driver), engine.Config{MaxSegments: 50})
		path := func(i int) string { return fmt.Sprint("s/", i) }
		for i := range 100 {
			w.create(path(i), runnel.CreateOptions{}, path(i))
		}
		w.reopen()
		for i := 1000; i < 3000; i++ {
			wantError(t, w.statErr(path(i)), runnel.ErrNotFound)
			if i%3 == 0 {
				w.create(path(i), runnel.CreateOptions{}, path(i))
			}
		}
		pass(time.Second)
		before := w.driver.Calls(faulty.Get)
		for i := 5000; i < 6000; i++ {
			w.create(path(i), runnel.CreateOptions{}, path(i))
		}
		if n := w.driver.Calls(faulty.Get) - before; n > 200 {
			t.Errorf("%d reads for 1000 creations", n)
		}
		w.delete(path(5))
		w.create(path(5), runnel.CreateOptions{}, path(5))
		for _, i := range []int{0, 5, 99, 1002, 2997, 5000, 5999} {
			w.want(path(i), path(i))
			got, err := w.tryCreate(path(i), runnel.CreateOptions{})
			if err != nil || !got.Existed {
				t.Errorf("%s: %+v, %v", path(i), got, err)
			}
		}
	})
}
