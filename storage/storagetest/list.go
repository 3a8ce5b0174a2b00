package storagetest

import (
	"context"
	"slices"

	"github.com/google/uuid"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/storage"
)

var listTests = []test{
	{"nothing is listed before the first commit", func(f *fixture) {
		if got := f.stores(); len(got) != 0 {
			f.Fatalf("stores %v", got)
		}
		if got := f.partitions(here.Store, ""); len(got) != 0 {
			f.Fatalf("partitions %q", got)
		}
	}},
	{"stores are listed by id, partitions by the bytes of their names, from a name on", func(f *fixture) {
		ids := []runnel.Store{
			{}, {15: 1}, {1: 0xff}, {1}, runnel.Store(uuid.MustParse("61616161-6161-6161-6161-616161616161")), {0xff},
			runnel.Store(uuid.Max),
		}
		names := []string{"", "!", "A", "a", "a!", "a/b", "a/b/c", "a0", "ab", "b", "z", "é", "\U0010ffff"}
		for i := range ids {
			for j := range names {
				// Written in another order than listed.
				p := storage.Partition{Store: ids[len(ids)-1-i], Name: names[(j*5+i)%len(names)]}
				f.setKeys(p, "\x00", "key", "\xff")
			}
		}
		check := func() {
			f.Helper()
			if got := f.stores(); !slices.Equal(got, ids) {
				f.Fatalf("stores %v, want %v", got, ids)
			}
			for _, id := range ids {
				for _, from := range append([]string{"a/", "aa", "zz", "\xff"}, names...) {
					i, _ := slices.BinarySearch(names, from)
					if got := f.partitions(id, from); !slices.Equal(got, names[i:]) {
						f.Fatalf("partitions of %v from %q: %q, want %q", id, from, got, names[i:])
					}
				}
			}
			if got := f.partitions(runnel.Store{7: 7}, ""); len(got) != 0 {
				f.Fatalf("a store without data has partitions %q", got)
			}
		}
		check()
		f.reopen()
		check()
	}},
	{"a listing can be left early", func(f *fixture) {
		f.setKeys(here, "key")
		f.setKeys(there, "key")
		for p, err := range f.driver.Partitions(context.Background(), here.Store, "") {
			if err != nil || p != here {
				f.Fatalf("first partition %v, %v", p, err)
			}
			break
		}
		for s, err := range f.driver.Stores(context.Background()) {
			if err != nil || s != here.Store {
				f.Fatalf("first store %v, %v", s, err)
			}
			break
		}
	}},
	{"a partition without keys is not listed, and its store only for another", func(f *fixture) {
		other := storage.Partition{Store: runnel.Store{1}, Name: "other"}
		want := func(stores []runnel.Store, partitions ...string) {
			f.Helper()
			if got := f.stores(); !slices.Equal(got, stores) {
				f.Fatalf("stores %v, want %v", got, stores)
			}
			if got := f.partitions(here.Store, ""); !slices.Equal(got, partitions) {
				f.Fatalf("partitions %q, want %q", got, partitions)
			}
		}
		f.wantCommit(here, guarded(0, newID(), "a", ""), 1)
		f.wantCommit(there, guarded(0, newID(), "a", ""), 1)
		f.wantCommit(other, guarded(0, newID(), "a", ""), 1)
		want([]runnel.Store{other.Store, here.Store}, "here", "there")

		f.drop(here, storage.Range{})
		want([]runnel.Store{other.Store, here.Store}, "there")
		f.drop(other, storage.Range{})
		want([]runnel.Store{here.Store}, "there")

		b := &storage.Batch{Guarded: true, Expect: 1, ID: newID()}
		b.Delete([]byte("a"))
		f.wantCommit(there, b, 2)
		want(nil)

		f.setKeys(here, "b")
		want([]runnel.Store{here.Store}, "here")
		f.reopen()
		want([]runnel.Store{here.Store}, "here")
	}},
}
