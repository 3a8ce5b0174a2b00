package engine_test

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"pgregory.net/rapid"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/engine"
	"github.com/runnelhq/runnel/state"
	"github.com/runnelhq/runnel/storage"
	"github.com/runnelhq/runnel/storage/memory"
)

// itemModel is items in the plainest form: what each key holds, in groups.
type itemModel map[string]map[string]modelItem

type modelItem struct {
	value   string
	version runnel.Sequence
	expires time.Time
}

// foldLog makes items of a log, by the rules of the State Protocol alone.
func foldLog(texts []string) map[string]string {
	fold := make(map[string]string)
	for i, text := range texts {
		c, err := state.Parse([]byte(text))
		if err != nil {
			return map[string]string{"error": err.Error()}
		}
		if fold[c.Key] = fmt.Sprintf("%s#%d", state.Unwrap(c.Value), i+1); c.Operation == state.Delete {
			delete(fold, c.Key)
		}
	}
	return fold
}

func viewMap(v *runnel.ItemView) map[string]string {
	all := make(map[string]string)
	for _, it := range v.Items {
		all[it.Key] = fmt.Sprintf("%s#%d", it.Value, it.Version)
	}
	return all
}

// Whatever is done to items, through whichever engine, they are what was done, what their log says, and what
// a snapshot of the space and of the group says; also after a restart, a crash, and refused commits.
func TestItemsAreWhatWasDoneToThem(t *testing.T) {
	for name, driver := range map[string]func() storage.Driver{
		"exclusive": func() storage.Driver { return new(memory.Driver) },
		"shared":    func() storage.Driver { return &memory.Driver{Shared: true} },
	} {
		t.Run(name, func(t *testing.T) {
			rapid.Check(t, func(rt *rapid.T) { playItems(t, rt, driver(), name == "shared") })
		})
	}
}

func playItems(t *testing.T, rt *rapid.T, kept storage.Driver, shared bool) {
	var clock atomic.Pointer[time.Time] // read in the background, too
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	clock.Store(&now)
	cfg := engine.Config{Now: func() time.Time { return *clock.Load() }, SweepInterval: -1}
	worlds := []*world{newWorld(t, kept, cfg)}
	if shared {
		worlds = append(worlds, newWorld(t, kept, cfg))
	}
	defer func() {
		for _, w := range worlds {
			_ = w.Close()
		}
	}()
	m := make(itemModel)
	groups, keys := []string{"s/g1", "s/g2"}, []string{"a", "b", "c", "d"}
	values := []string{`1`, `null`, `{"x":1}`, `{"x":1,"y":2}`, `{"y":12345678901234567890}`, `{"value":1}`, `[]`}
	for range rapid.IntRange(1, 30).Draw(rt, "steps") {
		w := rapid.SampledFrom(worlds).Draw(rt, "engine")
		group := rapid.SampledFrom(groups).Draw(rt, "group")
		now := clock.Load().Add(time.Duration(rapid.IntRange(0, 2).Draw(rt, "seconds")) * time.Second)
		clock.Store(&now)
		for _, g := range m {
			maps.DeleteFunc(g, func(_ string, it modelItem) bool { return !it.expires.IsZero() && !now.Before(it.expires) })
		}
		switch rapid.SampledFrom([]string{"write", "write", "write", "post", "delete", "restart", "crash"}).Draw(rt, "step") {
		case "write":
			m.write(rt, w, group, keys, values, now)
		case "post":
			key, value := rapid.SampledFrom(keys).Draw(rt, "key"), rapid.SampledFrom(values[2:5]).Draw(rt, "value")
			c := state.Change{Type: runnel.DefaultItemType, Key: key, Operation: rapid.SampledFrom([]state.Operation{state.Insert, state.Update, state.Delete}).Draw(rt, "operation"), Value: []byte(value)}
			if c.Operation == state.Delete {
				c.Value = nil
			}
			a, err := w.tryAppend(group, runnel.AppendOptions{Create: &runnel.CreateOptions{Items: true}}, string(c.Append(nil)))
			if err != nil {
				rt.Fatal(err)
			}
			if m[group] == nil {
				m[group] = make(map[string]modelItem)
			}
			if m[group][key] = (modelItem{value: value, version: a.Tail}); c.Operation == state.Delete {
				delete(m[group], key)
			}
		case "delete":
			if err := w.Delete(ctx, at(group)); err != nil && !errors.Is(err, runnel.ErrNotFound) {
				rt.Fatal(err)
			}
			delete(m, group)
		case "restart":
			w.reopen()
		case "crash":
			w.crash()
		}
		m.compare(rt, rapid.SampledFrom(worlds).Draw(rt, "reader"), groups)
	}
}

func (m itemModel) write(rt *rapid.T, w *world, group string, keys, values []string, now time.Time) {
	o := runnel.ItemWrites{Segment: at(group).Name}
	next := maps.Clone(m[group])
	if next == nil {
		next = make(map[string]modelItem)
	}
	refused := false
	picked := rapid.SliceOfNDistinct(rapid.SampledFrom(keys), 1, 3, rapid.ID[string]).Draw(rt, "keys")
	for _, key := range picked {
		had, there := m[group][key]
		one := runnel.ItemWrite{ItemKey: runnel.ItemKey{Key: key}}
		if rapid.IntRange(0, 3).Draw(rt, "conditional") == 0 {
			version := rapid.SampledFrom([]runnel.Sequence{0, had.version, had.version + 1}).Draw(rt, "version")
			one.IfVersion = &version
			refused = refused || version != had.version
		}
		if one.IfExists = rapid.IntRange(0, 5).Draw(rt, "exists") == 0; one.IfExists {
			refused = refused || !there
		}
		value := rapid.SampledFrom(append([]string{""}, values...)).Draw(rt, "value")
		if rapid.Bool().Draw(rt, "apply") {
			one.Apply = func(old *runnel.Item) ([]byte, error) {
				if (old != nil) != there || there && string(old.Value) != had.value {
					return nil, fmt.Errorf("%s was %+v, want %+v", key, old, had)
				}
				if value == "" {
					return nil, nil
				}
				return []byte(value), nil
			}
		} else if value != "" {
			one.Value = []byte(value)
		}
		it := modelItem{value: value}
		if rapid.IntRange(0, 3).Draw(rt, "expires") == 0 {
			one.TTL = 3 * time.Second
			it.expires = now.Add(one.TTL)
		} else if one.KeepTTL = rapid.Bool().Draw(rt, "keep"); one.KeepTTL {
			it.expires = had.expires
		}
		if next[key] = it; value == "" {
			delete(next, key)
		}
		o.Writes = append(o.Writes, one)
	}
	done, err := w.WriteItems(ctx, at(group).In(), o)
	if refused {
		if !errors.Is(err, runnel.ErrItemMoved) {
			rt.Fatalf("a write whose condition does not hold: %v", err)
		}
		return
	}
	if err != nil {
		rt.Fatal(err)
	}
	for i, key := range picked {
		it, there := next[key]
		if r := done[0].Results[i]; (r.New != nil) != there {
			rt.Fatalf("%s is told to be %+v", key, r.New)
		} else if there {
			it.version = r.New.Version
			next[key] = it
		}
	}
	if done[0].Created || m[group] != nil || len(next) > 0 {
		m[group] = next
	}
}

func (m itemModel) compare(rt *rapid.T, w *world, groups []string) {
	space, err := w.SpaceItems(ctx, at(groups[0]).In(), "", runnel.ItemQuery{})
	if err != nil {
		rt.Fatal(err)
	}
	spaces := make(map[string]map[string]string)
	for i := range space.Groups {
		spaces[space.Groups[i].Segment.Path()] = viewMap(&space.Groups[i])
	}
	for _, group := range groups {
		v, err := w.Items(ctx, at(group), runnel.ItemQuery{})
		if m[group] == nil {
			if !errors.Is(err, runnel.ErrNotFound) || spaces[group] != nil {
				rt.Fatalf("%s is there: %v, %v", group, err, spaces[group])
			}
			continue
		}
		if err != nil {
			rt.Fatal(err)
		}
		want := make(map[string]string)
		for key, it := range m[group] {
			want[key] = fmt.Sprintf("%s#%d", it.value, it.version)
			one, err := w.Item(ctx, at(group), runnel.ItemKey{Key: key})
			if err != nil || string(one.Value) != it.value || one.Version != it.version || !one.Expires.Equal(it.expires) {
				rt.Fatalf("%s of %s is %+v, %v, want %+v", key, group, one, err, it)
			}
		}
		for what, got := range map[string]map[string]string{"table": viewMap(&v), "log": foldLog(w.texts(group)), "space": spaces[group]} {
			if !maps.Equal(got, want) {
				rt.Fatalf("the %s of %s is %v, want %v; the log is\n%s", what, group, got, want, strings.Join(w.texts(group), "\n"))
			}
		}
	}
}

// swap is an operation of the register that an item is.
type swap struct {
	expect runnel.Sequence // the version that the write expects; a read has write false
	value  int
	write  bool
}

type swapped struct {
	ok      bool
	version runnel.Sequence
	value   int
}

// register says what compare-and-set on an item may answer. Versions are learnt from the answers.
var register = porcupine.Model{
	Init: func() any { return swapped{} },
	Step: func(at, in, out any) (bool, any) {
		is, op, got := at.(swapped), in.(swap), out.(swapped)
		if !op.write {
			return got.version == is.version && got.value == is.value, is
		}
		if op.expect != is.version {
			return !got.ok, is
		}
		return got.ok && got.version > is.version, swapped{version: got.version, value: op.value}
	},
}

func TestCompareAndSetOfAnItemIsLinearizable(t *testing.T) {
	for name, kept := range map[string]storage.Driver{"exclusive": new(memory.Driver), "shared": &memory.Driver{Shared: true}} {
		t.Run(name, func(t *testing.T) {
			worlds := []*world{newWorld(t, kept, engine.Config{})}
			if name == "shared" {
				worlds = append(worlds, newWorld(t, kept, engine.Config{}))
			}
			history := playSwaps(t, worlds)
			if !porcupine.CheckOperations(register, history) {
				t.Fatal("no order explains the answers")
			}
			// The check would notice: an answer that another value was read is in no order.
			i := slices.IndexFunc(history, func(o porcupine.Operation) bool { return !o.Input.(swap).write })
			history[i].Output = swapped{version: history[i].Output.(swapped).version, value: -1}
			if porcupine.CheckOperations(register, history) {
				t.Fatal("an answer that nobody could give was explained")
			}
		})
	}
}

func playSwaps(t *testing.T, worlds []*world) []porcupine.Operation {
	var mu sync.Mutex
	var history []porcupine.Operation
	var work sync.WaitGroup
	began := time.Now()
	key := runnel.ItemKey{Key: "k"}
	for client := range 4 {
		work.Go(func() {
			w := worlds[client%len(worlds)]
			seen := runnel.Sequence(0)
			for i := range 40 {
				op := porcupine.Operation{ClientId: client, Call: int64(time.Since(began))}
				if i%3 == 0 {
					it, err := w.Item(ctx, at("r/g"), key)
					if err != nil && !errors.Is(err, runnel.ErrNotFound) {
						t.Error(err)
						return
					}
					value, _ := strconv.Atoi(string(it.Value))
					seen = it.Version
					op.Input, op.Output = swap{}, swapped{version: it.Version, value: value}
				} else {
					value := client*1000 + i + 1
					done, err := w.WriteItems(ctx, at("r/g").In(), runnel.ItemWrites{Segment: "g", Writes: []runnel.ItemWrite{
						{ItemKey: key, IfVersion: &seen, Value: []byte(strconv.Itoa(value))},
					}})
					op.Input = swap{write: true, expect: seen, value: value}
					switch {
					case err == nil:
						op.Output = swapped{ok: true, version: done[0].Results[0].New.Version}
						seen = done[0].Results[0].New.Version
					case errors.Is(err, runnel.ErrItemMoved):
						op.Output = swapped{}
					default:
						t.Error(err)
						return
					}
				}
				op.Return = int64(time.Since(began))
				mu.Lock()
				history = append(history, op)
				mu.Unlock()
			}
		})
	}
	work.Wait()
	return history
}
