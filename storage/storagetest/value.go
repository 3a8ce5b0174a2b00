package storagetest

import (
	"context"
	"strings"

	"github.com/runnelhq/runnel/storage"
)

var valueTests = []test{
	{"a key that is not there is ErrKeyNotFound", func(f *fixture) {
		f.wantAbsent(here, "a")
		f.wantKeys(here, storage.Range{})
		f.setKeys(here, "ab")
		f.wantAbsent(here, "a")
		f.wantAbsent(here, "abc")
		f.wantAbsent(there, "ab")
	}},
	{"a value is its head followed by its body", func(f *fixture) {
		var b storage.Batch
		b.Set([]byte("both"), []byte("head "), []byte("body"))
		b.Set([]byte("head"), []byte("only"), nil)
		b.Set([]byte("body"), nil, []byte("only"))
		b.Set([]byte("none"), nil, nil)
		f.commit(here, &b)
		f.wantValue(here, "both", "head body")
		f.wantValue(here, "head", "only")
		f.wantValue(here, "body", "only")
		f.wantValue(here, "none", "")
	}},
	{"a later commit replaces and deletes", func(f *fixture) {
		f.set(here, pair{"a", "1"}, pair{"b", "1"}, pair{"c", "1"})
		var b storage.Batch
		b.Set([]byte("a"), nil, []byte("2"))
		b.Delete([]byte("b"))
		b.Delete([]byte("never there"))
		f.commit(here, &b)
		f.wantValue(here, "a", "2")
		f.wantAbsent(here, "b")
		f.wantValue(here, "c", "1")
		f.wantKeys(here, storage.Range{}, "a", "c")
	}},
	{"of several changes to one key the last one counts", func(f *fixture) {
		f.setKeys(here, "deleted", "kept")
		var b storage.Batch
		b.Set([]byte("twice"), nil, []byte("first"))
		b.Set([]byte("twice"), []byte("sec"), []byte("ond"))
		b.Set([]byte("deleted"), nil, []byte("again"))
		b.Delete([]byte("deleted"))
		b.Delete([]byte("kept"))
		b.Set([]byte("kept"), nil, []byte("again"))
		f.commit(here, &b)
		f.wantValue(here, "twice", "second")
		f.wantAbsent(here, "deleted")
		f.wantValue(here, "kept", "again")
		f.wantKeys(here, storage.Range{}, "kept", "twice")
	}},
	{"slices handed in belong to the caller again", func(f *fixture) {
		key, head, body := []byte("key"), []byte("head "), []byte("body")
		var b storage.Batch
		b.Set(key, head, body)
		f.commit(here, &b)
		scribble(key, head, body)
		f.wantKeys(here, storage.Range{}, "key")
		f.wantValue(here, "key", "head body")

		key = []byte("key")
		if _, err := f.driver.Get(context.Background(), here, key); err != nil {
			f.Fatal(err)
		}
		scribble(key)
		from, to := []byte("key"), []byte("kez")
		f.drop(here, storage.Range{From: from, To: to})
		scribble(from, to)
		f.setKeys(here, "after")
		f.wantKeys(here, storage.Range{}, "after")
	}},
	{"what Get returns belongs to the caller", func(f *fixture) {
		f.set(here, pair{"a", "value"})
		value, err := f.driver.Get(context.Background(), here, []byte("a"))
		if err != nil {
			f.Fatal(err)
		}
		scribble(value)
		f.wantValue(here, "a", "value")

		kept, err := f.driver.Get(context.Background(), here, []byte("a"))
		if err != nil {
			f.Fatal(err)
		}
		f.set(here, pair{"a", "other"})
		f.drop(here, storage.Range{})
		if string(kept) != "value" {
			f.Fatalf("the value became %q after later commits", kept)
		}
	}},
	{"large values and batches come back whole", func(f *fixture) {
		const most = 1 << 20
		limits := f.driver.Limits()
		value := largest(limits.MaxValueBytes, most)
		ops := min(3, largest(limits.MaxBatchOps, 3))
		value = min(value, largest(limits.MaxBatchBytes, most*ops)/ops-16)
		var b storage.Batch
		for i := range ops {
			large := strings.Repeat(string(rune('a'+i)), value)
			b.Set([]byte{byte('0' + i)}, []byte(large[:value/3]), []byte(large[value/3:]))
		}
		f.commit(here, &b)
		check := func() {
			for i, kv := range f.scan(here, storage.Range{}) {
				if kv.value != strings.Repeat(string(rune('a'+i)), value) {
					f.Fatalf("value %d differs", i)
				}
			}
			f.wantValue(here, "0", strings.Repeat("a", value))
		}
		check()
		f.reopen()
		check()
	}},
}

// largest returns the limit, or most if that is less or there is no limit.
func largest(limit, most int) int {
	if limit == 0 {
		return most
	}
	return min(limit, most)
}
