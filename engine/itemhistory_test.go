package engine_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/engine"
	"github.com/runnelhq/runnel/state"
	"github.com/runnelhq/runnel/storage"
	"github.com/runnelhq/runnel/storage/faulty"
	"github.com/runnelhq/runnel/storage/memory"
)

// mirror materialises a group as a client does: from the start, and then from where it is.
type mirror struct {
	w     *world
	path  string
	items map[string]string
	id    uint64
	at    runnel.Sequence
	bytes int // of the messages that it was given
}

func (w *world) mirror(path string) *mirror { return &mirror{w: w, path: path} }

// catchUp applies all that there is. It begins again where its place is gone, as it must be told.
func (f *mirror) catchUp() error {
	if f.items == nil {
		v, err := f.w.ReadStart(ctx, at(f.path))
		if err != nil {
			return err
		}
		f.items = make(map[string]string)
		if v.State != nil {
			for text, err := range v.State {
				if err != nil {
					f.items = nil
					return err
				}
				f.apply(text)
			}
		}
		f.id, f.at = v.ID, v.From
	}
	v, err := f.w.Read(ctx, at(f.path), f.id, f.at)
	if err != nil {
		return err
	}
	for b, err := range v.Batches {
		if err != nil {
			return err
		}
		for i := range b.Len() {
			f.apply(b.Payload(i))
		}
		f.at = b.Last()
	}
	return nil
}

func (f *mirror) apply(text []byte) {
	f.bytes += len(text)
	c, err := state.Parse(text)
	if err != nil {
		f.w.t.Fatal(err)
	}
	if f.items[c.Key] = string(state.Unwrap(c.Value)); c.Operation == state.Delete {
		delete(f.items, c.Key)
	}
}

// values are the items of a group, without their versions.
func (w *world) values(path string) map[string]string {
	w.t.Helper()
	v, err := w.Items(ctx, at(path), runnel.ItemQuery{})
	if err != nil {
		w.t.Fatal(err)
	}
	all := make(map[string]string)
	for _, it := range v.Items {
		all[it.Key] = string(it.Value)
	}
	return all
}

func wide(n int) string { return `"` + strings.Repeat("x", n) + `"` }

func TestWhoBeginsIsGivenTheStateAndNotThePast(t *testing.T) {
	w := inMemory(t)
	for i := range 1000 {
		w.set("s/g", fmt.Sprint("k", i%10), fmt.Sprintf(`{"n":%d,"pad":%s}`, i, wide(1000)))
	}
	w.set("s/g", "k3", "")
	f := w.mirror("s/g")
	if err := f.catchUp(); err != nil || !maps.Equal(f.items, w.values("s/g")) {
		t.Fatalf("%v, %v", f.items, err)
	}
	if f.bytes > 12_000 {
		t.Fatalf("9 items of 1,000 bytes took %d", f.bytes)
	}
	w.set("s/g", "k3", "3", "k4", "")
	w.reopen()
	if err := f.catchUp(); err != nil || !maps.Equal(f.items, w.values("s/g")) {
		t.Fatalf("%v, %v", f.items, err)
	}
	if texts := w.texts("s/g"); len(texts) != 1003 {
		t.Fatalf("of 1003 entries %d are kept, while they are young", len(texts))
	}
}

func TestAShortLogIsReadAsItIs(t *testing.T) {
	w := inMemory(t)
	w.set("s/g", "a", "1")
	w.set("s/g", "a", "")
	v, err := w.ReadStart(ctx, at("s/g"))
	if err != nil || v.State != nil || v.From != 0 || v.Tail != 2 || v.PayloadBytes <= 0 {
		t.Fatalf("%+v, %v", v, err)
	}
	w.create("plain", runnel.CreateOptions{Retention: runnel.Retention{Entries: 2}}, "a", "b", "c")
	v, err = w.ReadStart(ctx, at("plain"))
	if err != nil || v.State != nil || v.From != 1 {
		t.Fatalf("%+v, %v", v, err)
	}
}

// outgrown writes to a group until its log has outlived it, and returns how much it has written.
func (w *world) outgrown(path string) runnel.Sequence {
	w.t.Helper()
	for range 20 {
		w.set(path, "a", wide(10_000))
	}
	w.set(path, "a", "1", "b", "2", "gone", "3")
	w.set(path, "gone", "")
	return w.stat(path).Tail
}

func TestHistoryOfItemsIsLetGoOfAfterAWhile(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, new(memory.Driver), engine.Config{ItemHistory: time.Hour})
		defer w.Close()
		tail := w.outgrown("s/g")
		id := w.stat("s/g").ID
		pass(50 * time.Minute)
		if earliest := w.stat("s/g").Earliest; earliest != 0 {
			t.Fatalf("the history began after %d before its time", earliest)
		}
		// Nobody writes, and still it goes.
		pass(20 * time.Minute)
		info := w.stat("s/g")
		if info.Earliest < tail-3 || info.Tail != tail {
			t.Fatalf("the history began after %d of %d", info.Earliest, info.Tail)
		}
		n := 0
		for range w.kept.Scan(ctx, at("s/g").In(), storage.Range{From: []byte{'e'}, To: []byte{'f'}}) {
			n++
		}
		if n > 3 {
			t.Fatalf("%d runs are left", n)
		}
		if _, err := w.Read(ctx, at("s/g"), id, 0); !errors.Is(err, runnel.ErrTrimmed) {
			t.Fatalf("what is gone was read: %v", err)
		}
		want := map[string]string{"a": "1", "b": "2"}
		for range 2 {
			f := w.mirror("s/g")
			if err := f.catchUp(); err != nil || !maps.Equal(f.items, want) || !maps.Equal(w.values("s/g"), want) {
				t.Fatalf("%v, %v", f.items, err)
			}
			it, err := w.Item(ctx, at("s/g"), runnel.ItemKey{Key: "b"})
			if err != nil || it.Version != 22 {
				t.Fatalf("%+v, %v", it, err)
			}
			w.reopen()
		}
		v, err := w.SpaceItems(ctx, at("s/g").In(), "", runnel.ItemQuery{})
		if err != nil || len(v.Groups) != 1 || len(v.Groups[0].Items) != 2 {
			t.Fatalf("%+v, %v", v, err)
		}
	})
}

func TestAGroupIsCompactedOnCommand(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, new(memory.Driver), engine.Config{ItemHistory: -1})
		defer func() { _ = w.Close() }()
		w.set("s/g", "a", "1", "b", "2")
		w.set("s/g", "a", "3")
		w.come(triggerPlace, w.head())
		w.set("s/g", "a", "4")
		w.set("s/g", "b", "")
		w.set("s/g", "c", "5")
		compact := func(earliest runnel.Sequence) {
			t.Helper()
			for range 2 {
				info, err := w.CompactItems(ctx, at("s/g"))
				if err != nil || info.Earliest != earliest || info.Tail != 6 {
					t.Fatalf("it begins after %d of %d: %v; want %d", info.Earliest, info.Tail, err, earliest)
				}
			}
		}
		want := map[string]string{"a": "4", "c": "5"}
		compact(3) // what the trigger has yet to pass is kept
		if news := fmt.Sprint(w.followed(triggerPlace)); news != "[g/a update g/b delete g/c create]" {
			t.Fatal(news)
		}
		w.come(triggerPlace, w.head())
		compact(5)
		for range 2 {
			f := w.mirror("s/g")
			if err := f.catchUp(); err != nil || !maps.Equal(f.items, want) || !maps.Equal(w.values("s/g"), want) {
				t.Fatalf("who begins has %v, %v", f.items, err)
			}
			w.crash()
		}
		w.create("s/plain", runnel.CreateOptions{}, "x")
		if _, err := w.CompactItems(ctx, at("s/plain")); !errors.Is(err, runnel.ErrInvalid) {
			t.Fatalf("a segment without items: %v", err)
		}
		if _, err := w.CompactItems(ctx, at("s/none")); !errors.Is(err, runnel.ErrNotFound) {
			t.Fatalf("no segment: %v", err)
		}
	})
}

func TestHistoryStaysWhereItIsAskedFor(t *testing.T) {
	move := func(c ...runnel.CursorMove) func(w *world) {
		return func(w *world) {
			if _, err := w.Transact(ctx, at("s/g").In(), runnel.Transaction{Cursors: c}); err != nil {
				w.t.Fatal(err)
			}
		}
	}
	for _, tc := range []struct {
		name    string
		history time.Duration
		before  func(w *world)
		want    runnel.Sequence
	}{
		{"for ever", -1, func(*world) {}, 0},
		{"a stored place of the space has not come far", time.Hour, move(runnel.CursorMove{Name: "trigger/t", Place: 6}), 5},
		{"a stored place of the group has not come far", time.Hour, move(runnel.CursorMove{Segment: "g", Name: "c", Place: 7}), 7},
		{"a subscription has not come far", time.Hour, func(w *world) {
			config := runnel.SubscriptionConfig{Type: runnel.PullWake, Pattern: "s/*", WakeStream: "wakes"}
			if _, _, err := w.CreateSubscription(ctx, runnel.Store{}, "sub", config); err != nil {
				w.t.Fatal(err)
			}
			move(runnel.CursorMove{Segment: "g", Name: runnel.SubscriptionCursor("sub"), Place: 4, Rewind: true})(w)
		}, 4},
		{"one of two", time.Hour, move(runnel.CursorMove{Name: "c", Place: 9}, runnel.CursorMove{Segment: "g", Name: "c", Place: 3}), 3},
	} {
		t.Run(tc.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t, new(memory.Driver), engine.Config{ItemHistory: tc.history})
				defer w.Close()
				w.outgrown("s/g")
				tc.before(w)
				pass(3 * time.Hour)
				if got := w.stat("s/g").Earliest; got != tc.want {
					t.Fatalf("the history begins after %d, want %d", got, tc.want)
				}
			})
		})
	}
}

// Storage shows a write that a power failure can take back. Whoever begins then is not told that it has the whole
// state before the write is in the log, for it has been left out.
func TestTheStateIsWholeOnlyWhenWhatItLeavesOutIsDurable(t *testing.T) {
	for _, crashes := range []bool{false, true} {
		t.Run(fmt.Sprint("crashes=", crashes), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				cache := faulty.NewWriteCache(new(memory.Driver))
				d, err := cache.Open()
				if err != nil {
					t.Fatal(err)
				}
				w := newWorld(t, d, engine.Config{})
				defer func() { _ = w.Close() }()
				w.outgrown("s/g")
				cache.Hold()
				written := later(func() error { _, err := w.trySet("s/g", runnel.ItemWrites{}, "b", "4"); return err })
				pass(0)
				f := w.mirror("s/g")
				begun := later(f.catchUp)
				pending(t, begun, "a reader of the state")
				if crashes {
					cache.Crash(0)
				}
				cache.Release()
				pass(0)
				if err := <-written; (err != nil) != crashes {
					t.Fatal(err)
				}
				switch err := <-begun; {
				case crashes && err == nil:
					t.Fatalf("the state was said to be %v", f.items)
				case !crashes && (err != nil || f.items["b"] != "4"):
					t.Fatalf("%v, %v", f.items, err)
				}
			})
		})
	}
}

// Whatever is done to items, and whenever their history is cut: who begins, who goes on, and who looks see the
// same; and whose place is gone is told.
func TestFollowersSeeTheItemsWhateverIsCut(t *testing.T) {
	for name, driver := range map[string]func() storage.Driver{
		"exclusive": func() storage.Driver { return new(memory.Driver) },
		"shared":    func() storage.Driver { return &memory.Driver{Shared: true} },
	} {
		t.Run(name, func(t *testing.T) {
			rapid.Check(t, func(rt *rapid.T) { playHistory(t, rt, driver(), name == "shared") })
		})
	}
}

func playHistory(t *testing.T, rt *rapid.T, kept storage.Driver, shared bool) {
	var clock atomic.Pointer[time.Time] // read in the background, too
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	clock.Store(&now)
	cfg := engine.Config{Now: func() time.Time { return *clock.Load() }, SweepInterval: -1, ItemHistory: 5 * time.Second}
	worlds := []*world{newWorld(t, kept, cfg)}
	if shared {
		worlds = append(worlds, newWorld(t, kept, cfg))
	}
	defer func() {
		for _, w := range worlds {
			_ = w.Close()
		}
	}()
	worlds[0].create("s/g", runnel.CreateOptions{Items: true})
	var followers []*mirror
	values := []string{"", `1`, `{"x":1}`, `{"x":1,"y":2}`, wide(20_000), wide(40_000)}
	for range rapid.IntRange(1, 40).Draw(rt, "steps") {
		w := rapid.SampledFrom(worlds).Draw(rt, "engine")
		switch rapid.SampledFrom([]string{"write", "write", "write", "write", "cut", "cut", "wait", "delete", "restart", "crash", "begin"}).Draw(rt, "step") {
		case "write":
			var pairs []string
			for _, key := range rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"a", "b", "c", "d"}), 1, 3, rapid.ID[string]).Draw(rt, "keys") {
				pairs = append(pairs, key, values[rapid.IntRange(0, len(values)-1).Draw(rt, "value")])
			}
			w.set("s/g", pairs...)
		case "cut":
			if err := w.CutHistory(ctx, at("s/g")); err != nil {
				rt.Fatal(err)
			}
		case "wait":
			now := clock.Load().Add(time.Duration(rapid.IntRange(1, 4).Draw(rt, "seconds")) * time.Second)
			clock.Store(&now)
		case "delete":
			if rapid.IntRange(0, 3).Draw(rt, "really") > 0 {
				break
			}
			if err := w.Delete(ctx, at("s/g")); err != nil {
				rt.Fatal(err)
			}
			w.create("s/g", runnel.CreateOptions{Items: true})
		case "restart":
			w.reopen()
		case "crash":
			w.crash()
		case "begin":
			followers = append(followers, w.mirror("s/g"))
		}
		if len(followers) == 0 {
			continue
		}
		f := rapid.SampledFrom(followers).Draw(rt, "follower")
		switch err := f.catchUp(); {
		case errors.Is(err, runnel.ErrTrimmed), errors.Is(err, runnel.ErrNotFound):
			f.items = nil
			err = f.catchUp()
			if err == nil {
				break
			}
			fallthrough
		case err != nil:
			rt.Fatal(err)
		}
		reader := rapid.SampledFrom(worlds).Draw(rt, "reader")
		if want := reader.values("s/g"); !maps.Equal(f.items, want) {
			rt.Fatalf("a follower has %.200v, want %.200v", f.items, want)
		}
		if held := reader.HeldBytes(ctx, at("s/g")); held != reader.stateBytes("s/g") {
			rt.Fatalf("%d bytes are said to be held, and there are %d", held, reader.stateBytes("s/g"))
		}
	}
}

// stateBytes is how many bytes the messages have that make the items.
func (w *world) stateBytes(path string) int64 {
	w.t.Helper()
	v, err := w.Items(ctx, at(path), runnel.ItemQuery{Type: runnel.AllItemTypes})
	if err != nil {
		w.t.Fatal(err)
	}
	n := 0
	for _, it := range v.Items {
		c := state.Change{Type: it.Type, Key: it.Key, Operation: state.Insert, Value: state.Wrap(it.Value)}
		n += len(c.Append(nil))
	}
	return int64(n)
}

// Power fails while items are written and their history is cut. Who begins afterwards, and who had begun
// before, see what the table says.
func TestPowerFailsWhileHistoryIsCut(t *testing.T) {
	for seed := range uint64(60) {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			bubble(t, func(t *testing.T) { crashHistory(t, rand.New(rand.NewPCG(seed, 2))) })
		})
	}
}

func crashHistory(t *testing.T, r *rand.Rand) {
	cache := faulty.NewWriteCache(new(memory.Driver))
	d, err := cache.Open()
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, d, engine.Config{SweepInterval: -1, ItemHistory: time.Second})
	w.outgrown("s/g")
	early := w.mirror("s/g")
	for range 4 {
		if err := early.catchUp(); errors.Is(err, runnel.ErrTrimmed) {
			early.items = nil
			err = early.catchUp()
			if err != nil {
				t.Fatal(err)
			}
		} else if err != nil {
			t.Fatal(err)
		}
		if want := w.values("s/g"); !maps.Equal(early.items, want) {
			t.Fatalf("a follower has %.200v, want %.200v", early.items, want)
		}
		pass(time.Duration(r.IntN(1500)) * time.Millisecond)
		cache.Hold()
		var answers []<-chan error
		for range 1 + r.IntN(8) {
			key := string(rune('a' + r.IntN(4)))
			value := []string{"", "1", wide(20_000), wide(40_000)}[r.IntN(4)]
			answers = append(answers, later(func() error { _, err := w.trySet("s/g", runnel.ItemWrites{}, key, value); return err }))
			if r.IntN(3) == 0 {
				answers = append(answers, later(func() error { return w.CutHistory(ctx, at("s/g")) }))
			}
			if r.IntN(2) == 0 {
				pass(0)
			}
		}
		late := w.mirror("s/g")
		begun := later(late.catchUp)
		pass(0)
		crashed := r.IntN(2) == 0
		if crashed {
			cache.Crash(r.IntN(4))
			pass(0)
		}
		cache.Release()
		pass(0)
		for _, answer := range answers {
			if err := <-answer; err != nil && !crashed {
				t.Fatal(err)
			}
		}
		if err := <-begun; err == nil {
			early = late // what it has seen is durable
		}
		if crashed {
			_ = w.Close()
			if w.kept, err = cache.Open(); err != nil {
				t.Fatal(err)
			}
			w.open()
		}
	}
	_ = w.Close()
}

func TestAStateIsWholeWhereItsSpaceHadLeftMemory(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, new(memory.Driver), engine.Config{MaxSegments: 1, SweepInterval: -1})
		defer w.Close()
		for i := range 100 {
			w.set("s/g", "k", fmt.Sprintf(`{"n":%d,"pad":%s}`, i, wide(2000)))
		}
		v, err := w.ReadStart(ctx, at("s/g"))
		if err != nil || v.State == nil {
			t.Fatal(err)
		}
		for i := range 4 {
			w.set(fmt.Sprintf("t%d/g", i), "k", "1")
		}
		stored, release := make(chan struct{}), make(chan struct{})
		w.driver.SetRules(faulty.Rule{When: faulty.On(faulty.Commit), Then: faulty.WaitAfter(func(context.Context) error {
			close(stored)
			<-release
			return nil
		}, letThrough)})
		written := later(func() error {
			_, err := w.WriteItems(ctx, at("s/g").In(), runnel.ItemWrites{Segment: "g", Writes: []runnel.ItemWrite{{ItemKey: runnel.ItemKey{Key: "k"}, Value: []byte("1")}}})
			return err
		})
		<-stored
		w.driver.SetRules()
		read := later(func() error {
			for _, err := range v.State {
				if err != nil {
					return err
				}
			}
			return nil
		})
		pending(t, read, "the state, of which a change is on its way to disk")
		close(release)
		if err := <-read; err != nil {
			t.Error(err)
		}
		if err := <-written; err != nil {
			t.Error(err)
		}
	})
}
