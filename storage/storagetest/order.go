package storagetest

import (
	"bytes"
	"context"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/storage"
)

// awkward are keys that a careless encoding orders wrongly or mixes up, in their right order.
var awkward = []string{
	"\x00", "\x00\x00", "\x00\x01", "\x00\xff", "\x01", "\x01\x00", "\x02", "/", "A", "a", "a\x00", "a\x00b", "a/b",
	"aa", "ab", "b", "é", "\xc3\xaa", "\xfe\xff\xff", "\xff", "\xff\x00", "\xff\xff", strings.Repeat("\xff", storage.MaxKeyBytes),
}

var orderTests = []test{
	{"keys come back in the order of their bytes, in either direction", func(f *fixture) {
		shuffled := slices.Clone(awkward)
		for i := range shuffled { // any order but the right one
			j := (i * 7) % len(shuffled)
			shuffled[i], shuffled[j] = shuffled[j], shuffled[i]
		}
		f.setKeys(here, shuffled...)

		f.wantKeys(here, storage.Range{}, awkward...)
		backwards := slices.Clone(awkward)
		slices.Reverse(backwards)
		f.wantKeys(here, storage.Range{Reverse: true}, backwards...)
		for _, key := range awkward {
			f.wantValue(here, key, "value of "+key)
		}
	}},
	{"a scan yields each key with its value", func(f *fixture) {
		want := []pair{{"a", "1"}, {"b", ""}, {"c", strings.Repeat("3", 3000)}}
		f.set(here, want...)
		if got := f.scan(here, storage.Range{}); !slices.Equal(got, want) {
			f.Fatalf("got %.200q, want %.200q", got, want)
		}
	}},
	{"a range includes From and excludes To, and nil is no bound", func(f *fixture) {
		f.setKeys(here, awkward...)
		ends := [][]byte{nil, {}, []byte("0"), []byte("aaa"), {0xff, 0xff, 0xff, 0xff}, bytes.Repeat([]byte{0xff}, storage.MaxKeyBytes+1)}
		for _, key := range awkward {
			ends = append(ends, []byte(key))
		}
		for _, from := range ends {
			for _, to := range ends {
				var want []string
				for _, key := range awkward {
					if bytes.Compare([]byte(key), from) >= 0 && (to == nil || bytes.Compare([]byte(key), to) < 0) {
						want = append(want, key)
					}
				}
				r := storage.Range{From: from, To: to}
				f.wantKeys(here, r, want...)
				slices.Reverse(want)
				f.wantKeys(here, reversed(r), want...)
			}
		}
	}},
	{"a limit ends a scan after so many pairs", func(f *fixture) {
		f.setKeys(here, "a", "b", "c", "d", "e")
		f.wantKeys(here, storage.Range{Limit: 1}, "a")
		f.wantKeys(here, storage.Range{Limit: 2, Reverse: true}, "e", "d")
		f.wantKeys(here, storage.Range{From: []byte("b"), To: []byte("e"), Limit: 2}, "b", "c")
		f.wantKeys(here, storage.Range{From: []byte("b"), To: []byte("e"), Limit: 2, Reverse: true}, "d", "c")
		f.wantKeys(here, storage.Range{Limit: 5}, "a", "b", "c", "d", "e")
		f.wantKeys(here, storage.Range{Limit: 6}, "a", "b", "c", "d", "e")
	}},
	{"a scan can be left early, and ranged over again", func(f *fixture) {
		f.setKeys(here, "a", "b", "c")
		seq := f.driver.Scan(context.Background(), here, storage.Range{})
		for range 2 {
			for kv, err := range seq {
				if err != nil || string(kv.Key) != "a" {
					f.Fatalf("first pair %q, %v", kv.Key, err)
				}
				break
			}
		}
		f.setKeys(here, "0")
		for kv, err := range seq { // it sees what was committed before this loop
			if err != nil || string(kv.Key) != "0" {
				f.Fatalf("first pair %q, %v", kv.Key, err)
			}
			break
		}
	}},
	{"many keys are all there, in order", func(f *fixture) {
		var keys []string
		for i := range 1200 { // more than one page of any engine
			keys = append(keys, string([]byte{'k', byte(i >> 8), byte(i)}))
		}
		f.setKeys(here, keys...)
		f.wantKeys(here, storage.Range{}, keys...)
		f.wantKeys(here, storage.Range{From: []byte(keys[100]), To: []byte(keys[1100])}, keys[100:1100]...)
		slices.Reverse(keys)
		f.wantKeys(here, storage.Range{Reverse: true}, keys...)
		f.wantKeys(here, storage.Range{Reverse: true, Limit: 1100}, keys[:1100]...)
	}},
	{"partitions with similar names never mix", func(f *fixture) {
		var all []storage.Partition
		for _, store := range []string{"00000000-0000-0000-0000-000000000000", "61000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff"} {
			for _, name := range []string{"", " ", "!", "/", "a", "a ", "a!", "a/b", "a/b/c", "a0", "aa", "ab", "b", "é", "\U0010ffff"} {
				all = append(all, storage.Partition{Store: runnel.Store(uuid.MustParse(store)), Name: name})
			}
		}
		keys := []string{"\x00", "\x01", "a", "b", "\xff", "\xff\xff"}
		mark := func(p storage.Partition, key string) string { return p.Store.String() + "|" + p.Name + "|" + key }
		for _, p := range all {
			var pairs []pair
			for _, key := range keys {
				pairs = append(pairs, pair{key, mark(p, key)})
			}
			f.set(p, pairs...)
		}
		check := func(p storage.Partition) {
			f.Helper()
			for _, r := range []storage.Range{{}, {Reverse: true}} {
				pairs := f.scan(p, r)
				if len(pairs) != len(keys) {
					f.Fatalf("partition %s %q has %d keys, want %d", p.Store, p.Name, len(pairs), len(keys))
				}
				for _, kv := range pairs {
					if kv.value != mark(p, kv.key) {
						f.Fatalf("partition %s %q: key %q has the value %q", p.Store, p.Name, kv.key, kv.value)
					}
				}
			}
			for _, key := range keys {
				f.wantValue(p, key, mark(p, key))
			}
		}
		for _, p := range all {
			check(p)
		}
		for i, p := range all { // and dropping one leaves the others
			if i%2 == 0 {
				f.drop(p, storage.Range{})
			}
		}
		for i, p := range all {
			if i%2 == 0 {
				f.wantKeys(p, storage.Range{})
			} else {
				check(p)
			}
		}
	}},
}
