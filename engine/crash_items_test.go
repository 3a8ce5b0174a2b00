package engine_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"testing"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/engine"
	"github.com/runnelhq/runnel/storage/faulty"
	"github.com/runnelhq/runnel/storage/memory"
)

// Power fails while writes to items are under way, some of which the disk has got. What was acknowledged
// stays, the items are what their log says, and what a reader was told is the beginning of that.
func TestItemsEqualTheFoldOfTheirLogAtEveryCrash(t *testing.T) {
	for seed := range uint64(60) {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			bubble(t, func(t *testing.T) { crashItems(t, rand.New(rand.NewPCG(seed, 1))) })
		})
	}
}

func crashItems(t *testing.T, r *rand.Rand) {
	cache := faulty.NewWriteCache(new(memory.Driver))
	d, err := cache.Open()
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, d, engine.Config{SweepInterval: -1})
	w.set("s/g", "a", `{"x":1,"y":1}`, "b", "1")
	for range 4 {
		cache.Hold()
		var answers []<-chan error
		for i := range 1 + r.IntN(5) {
			key := string(rune('a' + r.IntN(4)))
			value := []string{"", fmt.Sprintf(`{"x":%d}`, i), fmt.Sprintf(`{"x":%d,"y":2}`, i), fmt.Sprint(i)}[r.IntN(4)]
			answers = append(answers, later(func() error { _, err := w.trySet("s/g", runnel.ItemWrites{}, key, value); return err }))
			if r.IntN(2) == 0 {
				pass(0)
			}
		}
		read := later(func() *runnel.ItemView {
			v, err := w.Items(ctx, at("s/g"), runnel.ItemQuery{})
			if err != nil {
				return nil
			}
			return &v
		})
		pass(0)
		crashed := r.IntN(2) == 0
		if crashed {
			cache.Crash(r.IntN(3))
			pass(0)
		}
		cache.Release()
		pass(0)
		acknowledged := 0
		for _, answer := range answers {
			if err := <-answer; err == nil {
				acknowledged++
			}
		}
		v := <-read
		if crashed {
			_ = w.Close()
			if w.kept, err = cache.Open(); err != nil {
				t.Fatal(err)
			}
			w.open()
		} else if acknowledged < len(answers) {
			t.Fatalf("%d of %d writes were acknowledged", acknowledged, len(answers))
		}
		now, err := w.Items(ctx, at("s/g"), runnel.ItemQuery{})
		if err != nil {
			t.Fatal(err)
		}
		log := w.texts("s/g")
		if got, want := viewMap(&now), foldLog(log); !maps.Equal(got, want) || int(now.Tail) != len(log) {
			t.Fatalf("the table is %v, and the fold of the log %v", got, want)
		}
		if v == nil {
			continue
		}
		if int(v.Tail) > len(log) {
			t.Fatalf("a reader was told of %d entries, and there are %d", v.Tail, len(log))
		}
		if got, want := viewMap(v), foldLog(log[:v.Tail]); !maps.Equal(got, want) {
			t.Fatalf("a reader was told of %v at %d, which is %v", got, v.Tail, want)
		}
	}
	_ = w.Close()
}
