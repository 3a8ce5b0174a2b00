package storagetest

import (
	"context"
	"encoding/binary"
	"errors"
	"maps"
	"slices"

	"pgregory.net/rapid"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/storage"
)

var modelTests = []test{
	{"any sequence of operations does what a sorted map does", func(f *fixture) {
		var run uint64
		rapid.Check(f.T, func(t *rapid.T) {
			// A store for each run: what other runs left behind must not matter.
			run++
			m := &model{t: t, f: f, parts: map[string]*modelPartition{}}
			binary.BigEndian.PutUint64(m.store[:], run)
			t.Repeat(map[string]func(*rapid.T){
				"":         m.check,
				"commit":   m.commit,
				"conflict": m.conflict,
				"drop":     m.drop,
				"scan":     m.scan,
				"get":      m.get,
				"list":     m.list,
				"reopen":   m.reopen,
			})
		})
	}},
}

// model is what a store should hold.
type model struct {
	t     *rapid.T
	f     *fixture
	store runnel.Store
	parts map[string]*modelPartition
}

type modelPartition struct {
	pairs   map[string]string
	version storage.Version
	id      storage.CommitID
}

func (p *modelPartition) keys() []string { return slices.Sorted(maps.Keys(p.pairs)) }

var (
	drawName  = rapid.SampledFrom([]string{"", "a", "a/b", "ab", "b"})
	drawKey   = rapid.SliceOfN(rapid.SampledFrom([]byte{0, 1, 'a', 'b', 0xff}), 1, 3)
	drawEnd   = rapid.OneOf(rapid.Just([]byte(nil)), drawKey)
	drawValue = rapid.SliceOfN(rapid.Byte(), 0, 20)
)

func (m *model) partition(t *rapid.T) (storage.Partition, *modelPartition) {
	name := drawName.Draw(t, "partition")
	if m.parts[name] == nil {
		m.parts[name] = &modelPartition{pairs: map[string]string{}}
	}
	return storage.Partition{Store: m.store, Name: name}, m.parts[name]
}

func (m *model) batch(t *rapid.T) (b *storage.Batch, apply func(map[string]string)) {
	b = &storage.Batch{}
	var changes []func(map[string]string)
	most := largest(m.f.driver.Limits().MaxBatchOps, 6)
	for range rapid.IntRange(0, most).Draw(t, "ops") {
		key := drawKey.Draw(t, "key")
		if rapid.IntRange(0, 3).Draw(t, "delete") == 0 {
			b.Delete(key)
			changes = append(changes, func(pairs map[string]string) { delete(pairs, string(key)) })
			continue
		}
		head, body := drawValue.Draw(t, "head"), drawValue.Draw(t, "body")
		b.Set(key, head, body)
		changes = append(changes, func(pairs map[string]string) { pairs[string(key)] = string(head) + string(body) })
	}
	return b, func(pairs map[string]string) {
		for _, change := range changes {
			change(pairs)
		}
	}
}

func (m *model) commit(t *rapid.T) {
	p, want := m.partition(t)
	b, apply := m.batch(t)
	if !m.f.exclusive() || rapid.Bool().Draw(t, "guarded") {
		b.Guarded, b.Expect, b.ID = true, want.version, newID()
		want.version, want.id = want.version+1, b.ID
	}
	v, err := m.f.driver.Commit(context.Background(), p, b)
	if err != nil || b.Guarded && v != want.version || !b.Guarded && v != 0 {
		t.Fatalf("Commit = %d, %v; the model's version is %d", v, err, want.version)
	}
	apply(want.pairs)
}

func (m *model) conflict(t *rapid.T) {
	p, want := m.partition(t)
	b, _ := m.batch(t)
	b.Guarded, b.Expect, b.ID = true, want.version+storage.Version(rapid.IntRange(1, 3).Draw(t, "ahead")), newID()
	if want.version > 0 && rapid.Bool().Draw(t, "behind") {
		b.Expect = want.version - 1
	}
	if _, err := m.f.driver.Commit(context.Background(), p, b); !errors.Is(err, storage.ErrConflict) {
		t.Fatalf("Commit = %v, want ErrConflict", err)
	}
}

func (m *model) drop(t *rapid.T) {
	p, want := m.partition(t)
	r := storage.Range{From: drawEnd.Draw(t, "from"), To: drawEnd.Draw(t, "to")}
	if err := m.f.driver.Drop(context.Background(), p, r); err != nil {
		t.Fatalf("Drop: %v", err)
	}
	maps.DeleteFunc(want.pairs, func(key, _ string) bool { return inRange(key, r) })
}

func (m *model) scan(t *rapid.T) {
	p, want := m.partition(t)
	r := storage.Range{From: drawEnd.Draw(t, "from"), To: drawEnd.Draw(t, "to"), Reverse: rapid.Bool().Draw(t, "reverse"), Limit: rapid.IntRange(0, 4).Draw(t, "limit")}
	var pairs []pair
	for _, key := range want.keys() {
		if inRange(key, r) {
			pairs = append(pairs, pair{key, want.pairs[key]})
		}
	}
	if r.Reverse {
		slices.Reverse(pairs)
	}
	if r.Limit > 0 {
		pairs = pairs[:min(r.Limit, len(pairs))]
	}
	got, err := scan(m.f.driver, p, r)
	if err != nil || !slices.Equal(got, pairs) {
		t.Fatalf("Scan(%+v) = %q, %v; want %q", r, got, err, pairs)
	}
}

func (m *model) get(t *rapid.T) {
	p, want := m.partition(t)
	key := drawKey.Draw(t, "key")
	got, err := m.f.driver.Get(context.Background(), p, key)
	value, ok := want.pairs[string(key)]
	if ok && (err != nil || string(got) != value) || !ok && !errors.Is(err, storage.ErrKeyNotFound) {
		t.Fatalf("Get(%q) = %q, %v; want %q, %v", key, got, err, value, ok)
	}
}

func (m *model) list(t *rapid.T) {
	from := drawName.Draw(t, "from")
	var want, got []string
	for name, p := range m.parts {
		if len(p.pairs) > 0 && name >= from {
			want = append(want, name)
		}
	}
	slices.Sort(want)
	for p, err := range m.f.driver.Partitions(context.Background(), m.store, from) {
		if err != nil {
			t.Fatalf("Partitions: %v", err)
		}
		got = append(got, p.Name)
	}
	if !slices.Equal(got, want) {
		t.Fatalf("Partitions from %q = %q, want %q", from, got, want)
	}
}

// reopen is rare, because it is slow. A drop that no commit followed may be undone by it.
func (m *model) reopen(t *rapid.T) {
	if rapid.IntRange(0, 19).Draw(t, "reopen") != 0 {
		t.Skip("not this time")
	}
	for name, p := range m.parts {
		b := &storage.Batch{}
		if !m.f.exclusive() {
			b.Guarded, b.Expect, b.ID = true, p.version, newID()
			p.version, p.id = p.version+1, b.ID
		}
		if _, err := m.f.driver.Commit(context.Background(), storage.Partition{Store: m.store, Name: name}, b); err != nil {
			t.Fatalf("Commit: %v", err)
		}
	}
	m.f.reopen()
	for name := range m.parts {
		m.compare(t, name)
	}
}

// check runs after every operation.
func (m *model) check(t *rapid.T) {
	if len(m.parts) > 0 {
		m.compare(t, rapid.SampledFrom(slices.Sorted(maps.Keys(m.parts))).Draw(t, "compare"))
	}
}

func (m *model) compare(t *rapid.T, name string) {
	p, want := storage.Partition{Store: m.store, Name: name}, m.parts[name]
	got, err := scan(m.f.driver, p, storage.Range{})
	if err != nil {
		t.Fatalf("Scan: %v", err)
	}
	var pairs []pair
	for _, key := range want.keys() {
		pairs = append(pairs, pair{key, want.pairs[key]})
	}
	if !slices.Equal(got, pairs) {
		t.Fatalf("partition %q holds %q, want %q", name, got, pairs)
	}
	v, id, err := m.f.driver.Guard(context.Background(), p)
	if err != nil || v != want.version || id != want.id {
		t.Fatalf("guard of %q is %d, %x, %v; want %d, %x", name, v, id, err, want.version, want.id)
	}
}

func inRange(key string, r storage.Range) bool {
	return key >= string(r.From) && (r.To == nil || key < string(r.To))
}
