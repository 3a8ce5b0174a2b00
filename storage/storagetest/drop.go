package storagetest

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/runnelhq/runnel/storage"
)

var dropTests = []test{
	{"Drop removes the keys of its range and no other", func(f *fixture) {
		keys := []string{"\x00", "a", "aa", "ab", "b", "c", "\xff", "\xff\xff"}
		f.setKeys(there, keys...)
		for _, r := range []storage.Range{
			span("a", "b"), span("aa", "ab"), span("", "a"), span("c", ""), span("\xff", "\xff\xff"), span("d", "e"),
			span("b", "a"), span("a", "a"), {}, {From: []byte("a"), To: []byte("c"), Limit: 1}, {From: []byte("b"), Reverse: true, Limit: 1},
		} {
			f.setKeys(here, keys...)
			f.drop(here, r)
			var left []string
			for _, key := range keys {
				if key < string(r.From) || (r.To != nil && key >= string(r.To)) {
					left = append(left, key)
				}
			}
			f.wantKeys(here, storage.Range{}, left...)
			f.wantKeys(there, storage.Range{}, keys...)
		}
	}},
	{"Drop may be repeated, and of nothing", func(f *fixture) {
		f.drop(here, storage.Range{})
		f.setKeys(here, "a", "b", "c")
		for range 3 {
			f.drop(here, span("b", ""))
			f.wantKeys(here, storage.Range{}, "a")
			f.wantAbsent(here, "b")
		}
	}},
	{"a dropped key can be written again", func(f *fixture) {
		f.setKeys(here, "a", "b")
		for i := range 3 {
			f.drop(here, storage.Range{})
			f.wantKeys(here, storage.Range{})
			f.set(here, pair{"b", fmt.Sprint(i)})
			f.wantKeys(here, storage.Range{}, "b")
			f.wantValue(here, "b", fmt.Sprint(i))
		}
		f.reopen()
		f.wantKeys(here, storage.Range{}, "b")
	}},
	{"a dropped range stays dropped once a later commit has returned", func(f *fixture) {
		f.setKeys(here, "a", "b", "c")
		f.setKeys(there, "a")
		f.drop(here, span("b", ""))
		f.setKeys(here, "d")
		f.reopen()
		f.wantKeys(here, storage.Range{}, "a", "d")
		f.drop(here, storage.Range{})
		if f.exclusive() { // a commit of nothing is a commit
			f.commit(here, &storage.Batch{})
		} else {
			f.setKeys(here, "e")
			f.drop(here, storage.Range{})
			f.commit(here, &storage.Batch{})
		}
		f.reopen()
		f.wantKeys(here, storage.Range{})
		f.wantKeys(there, storage.Range{}, "a")
	}},
	{"Drop leaves the guard", func(f *fixture) {
		id := newID()
		f.wantCommit(here, guarded(0, id, "key", "value"), 1)
		f.drop(here, storage.Range{})
		f.wantGuard(here, 1, id)
		f.wantError(here, guarded(0, newID(), "key", "value"), storage.ErrConflict)
		f.wantCommit(here, guarded(1, newID(), "key", "value"), 2)
	}},
	{"Drop runs while commits to other keys of the partition run", func(f *fixture) {
		const n = 20
		var old []string
		for i := range n {
			old = append(old, fmt.Sprintf("old %03d", i))
		}
		f.setKeys(here, old...)

		committed := make(chan error, 1)
		go func() {
			for i := range n {
				var b storage.Batch
				b.Set(fmt.Appendf(nil, "new %03d", i), nil, nil)
				b.Set(fmt.Appendf(nil, "older than new %03d", i), nil, nil)
				if err := f.write(here, &b); err != nil {
					committed <- err
					return
				}
			}
			committed <- nil
		}()
		for i := range n {
			r := storage.Range{From: []byte("old "), To: fmt.Appendf(nil, "old %03d", i+1)}
			if err := f.driver.Drop(context.Background(), here, r); err != nil {
				f.Fatal(err)
			}
		}
		if err := <-committed; err != nil {
			f.Fatal(err)
		}
		keys := f.keys(here, storage.Range{})
		if len(keys) != 2*n || slices.ContainsFunc(keys, func(key string) bool { return strings.HasPrefix(key, "old ") }) {
			f.Fatalf("%d keys left, want %d: %q", len(keys), 2*n, keys)
		}
	}},
}
