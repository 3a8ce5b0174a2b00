package delivery

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"pgregory.net/rapid"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/engine"
	"github.com/runnelhq/runnel/storage"
	"github.com/runnelhq/runnel/storage/memory"
	"github.com/runnelhq/runnel/storage/pebblestore"
)

// pager reads a segment in pieces of its own choosing, over all that is done to the engine meanwhile.
type pager struct {
	at   runnel.Sequence
	view *runnel.View // that it is in the middle of; nil if it has none
}

// growing is an engine with segments that only grow, and pagers that read them.
type growing struct {
	driver   storage.Driver
	open     func() storage.Driver
	config   engine.Config
	engine   *engine.Engine
	segments map[string][]string
	pagers   map[string][]*pager
}

// names are the segments that there are at the beginning; forks come later.
var names = []string{"s/a", "s/b", "other/c"}

func at(path string) runnel.Segment {
	addr, err := runnel.ParsePath(runnel.Store{}, path)
	if err != nil {
		panic(err)
	}
	return addr
}

func (g *growing) must(t *rapid.T, err error) {
	if err != nil {
		t.Helper()
		t.Fatal(err)
	}
}

func (g *growing) start(t *rapid.T) {
	var err error
	g.driver = g.open()
	g.engine, err = engine.Open(g.driver, g.config)
	g.must(t, err)
}

func (g *growing) stop(t *rapid.T) {
	g.must(t, g.engine.Close())
	g.must(t, g.driver.Close())
	for _, all := range g.pagers {
		for _, p := range all {
			p.view = nil // views end with their engine
		}
	}
}

func (g *growing) name(t *rapid.T) string {
	known := make([]string, 0, len(g.segments))
	for name := range g.segments {
		known = append(known, name)
	}
	slices.Sort(known)
	return rapid.SampledFrom(known).Draw(t, "segment")
}

// take reads some batches of a view, which may be an old one, and checks them against what was appended.
func (g *growing) take(t *rapid.T, name string, p *pager, batches int, stream bool) {
	ctx := context.Background()
	all := g.segments[name]
	v := p.view
	if v == nil {
		fresh, err := g.engine.Read(ctx, at(name), 0, p.at)
		g.must(t, err)
		if int(fresh.Tail) != len(all) || fresh.From != p.at {
			t.Fatalf("%s: a view from %d to %d of %d entries", name, fresh.From, fresh.Tail, len(all))
		}
		v = &fresh
	}
	source := v.Batches
	if stream {
		source = v.Stream
	}
	place := v.From
	for b, err := range source {
		g.must(t, err)
		if b.First() != place+1 || b.Len() < 1 {
			t.Fatalf("%s: a batch from %d after %d", name, b.First(), place)
		}
		joined := ""
		for i := range b.Len() {
			place++
			want := all[place-1]
			if e := b.Entry(i); e.Sequence != place || string(e.Payload) != want || string(b.Payload(i)) != want {
				t.Fatalf("%s: entry %d is %d %.20q, want %.20q", name, place, e.Sequence, e.Payload, want)
			}
			joined += want
		}
		if b.Last() != place || string(b.Payloads()) != joined {
			t.Fatalf("%s: the batch to %d ends at %d with %d bytes, want %d", name, place, b.Last(), len(b.Payloads()), len(joined))
		}
		if batches--; batches == 0 {
			break
		}
	}
	if batches > 0 && place != v.Tail {
		t.Fatalf("%s: a view to %d ended at %d", name, v.Tail, place)
	}
	p.at = max(p.at, place)
	if p.view = nil; rapid.Bool().Draw(t, "keep the view") {
		p.view = v // and range over it again later, when the cache is another one
	}
}

func (g *growing) steps() map[string]func(*rapid.T) {
	ctx := context.Background()
	payloads := func(t *rapid.T, label string) []string {
		sizes := rapid.SliceOfN(rapid.SampledFrom([]int{0, 1, 10, 200, 3000, 50_000}), 1, 5).Draw(t, label)
		if rapid.IntRange(0, 29).Draw(t, "many") == 0 {
			sizes = slices.Repeat(sizes[:1], min(1000, 150_000/(sizes[0]+1)+1))
		}
		all := make([]string, len(sizes))
		for i, size := range sizes {
			all[i] = fmt.Sprintf("%d:%0*d", size, size, i)
		}
		return all
	}
	records := func(all []string) []runnel.Record {
		rs := make([]runnel.Record, len(all))
		for i := range all {
			rs[i].Payload = []byte(all[i])
		}
		return rs
	}
	read := func(t *rapid.T) {
		name := g.name(t)
		if len(g.pagers[name]) == 0 || rapid.IntRange(0, 3).Draw(t, "from another place") == 0 {
			from := rapid.IntRange(0, len(g.segments[name])).Draw(t, "from")
			g.pagers[name] = append(g.pagers[name], &pager{at: runnel.Sequence(from)})
		}
		p := rapid.SampledFrom(g.pagers[name]).Draw(t, "pager")
		g.take(t, name, p, rapid.IntRange(0, 4).Draw(t, "batches"), rapid.Bool().Draw(t, "stream"))
	}
	return map[string]func(*rapid.T){
		"append": func(t *rapid.T) {
			name, all := g.name(t), payloads(t, "sizes")
			_, err := g.engine.Append(ctx, at(name), runnel.AppendOptions{}, records(all)...)
			g.must(t, err)
			g.segments[name] = append(g.segments[name], all...)
		},
		"commit": func(t *rapid.T) {
			a, b := payloads(t, "a"), payloads(t, "b")
			_, err := g.engine.Commit(ctx, runnel.Space{Name: "s"},
				runnel.Write{Segment: "a", Records: records(a)}, runnel.Write{Segment: "b", Records: records(b)})
			g.must(t, err)
			g.segments["s/a"] = append(g.segments["s/a"], a...)
			g.segments["s/b"] = append(g.segments["s/b"], b...)
		},
		"fork": func(t *rapid.T) {
			if len(g.segments) > 6 {
				t.Skip("enough forks")
			}
			source := g.name(t)
			base := rapid.IntRange(0, len(g.segments[source])).Draw(t, "base")
			name := fmt.Sprintf("forks/%d", len(g.segments))
			_, err := g.engine.Create(ctx, at(name), runnel.CreateOptions{Fork: &runnel.ForkFrom{Source: at(source), At: runnel.Sequence(base)}})
			g.must(t, err)
			g.segments[name] = slices.Clone(g.segments[source][:base])
		},
		"read":       read,
		"read again": read,
		"tail": func(t *rapid.T) {
			name := g.name(t)
			all := g.segments[name]
			from := rapid.IntRange(0, len(all)).Draw(t, "from")
			if from == len(all) {
				t.Skip("there is nothing to wait for")
			}
			place := from
			for b, err := range g.engine.Tail(ctx, at(name), 0, runnel.Sequence(from)) {
				g.must(t, err)
				for i := range b.Len() {
					place++
					if string(b.Payload(i)) != all[place-1] {
						t.Fatalf("%s: the tail brings %.20q at %d, want %.20q", name, b.Payload(i), place, all[place-1])
					}
				}
				if place >= len(all) {
					break
				}
			}
		},
		"forget segments": func(t *rapid.T) { // more of them than there is room for
			for i := range 4 {
				_, _ = g.engine.Stat(ctx, at(fmt.Sprint("s/missing", i))) // there is none
			}
		},
		"reopen": func(t *rapid.T) {
			g.stop(t)
			g.start(t)
		},
	}
}

// TestEntriesAreTheSameHoweverTheyAreRead draws appends, evictions, reopenings and reads in pieces of any
// size from any place, through views that may be older than all of that.
func TestEntriesAreTheSameHoweverTheyAreRead(t *testing.T) {
	quiet := slog.New(slog.DiscardHandler)
	drivers := map[string]func() func() storage.Driver{
		"memory": func() func() storage.Driver {
			d := new(memory.Driver)
			return func() storage.Driver { return d }
		},
		"memory with small values and batches": func() func() storage.Driver {
			d := &memory.Driver{Max: storage.Limits{MaxValueBytes: 40 << 10}}
			return func() storage.Driver { return d }
		},
		"Pebble": func() func() storage.Driver {
			fs := vfs.NewMem()
			return func() storage.Driver {
				d, err := pebblestore.Open("db", pebblestore.Config{FS: fs, CacheBytes: 1 << 20, MemTableBytes: 256 << 10, Logger: quiet})
				if err != nil {
					panic(err)
				}
				return d
			}
		},
	}
	rapid.Check(t, func(t *rapid.T) {
		driver := drivers[rapid.SampledFrom(slices.Sorted(maps.Keys(drivers))).Draw(t, "driver")]
		g := &growing{
			open: driver(),
			config: engine.Config{
				TailCacheBytes: rapid.SampledFrom([]int64{1, 100_000, 0}).Draw(t, "cache"),
				MaxSegments:    2, MaxReadBytes: 300_000, SweepInterval: -1, Logger: quiet,
			},
			segments: make(map[string][]string),
			pagers:   make(map[string][]*pager),
		}
		g.start(t)
		for _, name := range names {
			_, err := g.engine.Create(context.Background(), at(name), runnel.CreateOptions{})
			g.must(t, err)
			g.segments[name] = nil
		}
		defer func() {
			_ = g.engine.Close()
			_ = g.driver.Close()
		}()
		t.Repeat(g.steps())
	})
}
