package pebblestore

import (
	"bytes"
	"cmp"
	"strings"
	"testing"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/storage"
)

// FuzzKeysOfPartitions checks that a row of the database says which partition it is of, and that rows sort by
// store, then by the bytes of the partition's name, then by key.
func FuzzKeysOfPartitions(f *testing.F) {
	f.Add([]byte{0}, "", []byte{0}, []byte{1}, "a", []byte{0xff})
	f.Add([]byte{0xff, 0xff}, "a", []byte("k"), []byte{0xff, 0xff}, "a/b", []byte("k"))
	f.Add([]byte("store"), "a\x01", []byte(""), []byte("store"), "a", []byte("\x01"))
	f.Add(bytes.Repeat([]byte{0xff}, 16), strings.Repeat("ü", 256), bytes.Repeat([]byte{0xff}, storage.MaxKeyBytes), []byte{}, "\xff", []byte{})
	f.Fuzz(func(t *testing.T, store []byte, name string, key, otherStore []byte, otherName string, otherKey []byte) {
		p, q := storage.Partition{Name: name}, storage.Partition{Name: otherName}
		copy(p.Store[:], store)
		copy(q.Store[:], otherStore)
		if checkPartition(p) != nil || checkPartition(q) != nil {
			return
		}
		a := append(appendPrefix(nil, p, kindData), key...)
		got, kind, err := splitKey(a)
		if err != nil || got != p || kind != kindData || len(a) != prefixLen(p)+len(key) {
			t.Fatalf("the row %x of %+v is of %+v, kind %d, %v", a, p, got, kind, err)
		}
		b := append(appendPrefix(nil, q, kindData), otherKey...)
		want := cmp.Or(bytes.Compare(p.Store[:], q.Store[:]), strings.Compare(name, otherName), bytes.Compare(key, otherKey))
		if got := bytes.Compare(a, b); got != want {
			t.Fatalf("%+v %x and %+v %x compare as %d, want %d", p, key, q, otherKey, got, want)
		}
		lower, upper, _ := bounds(p, storage.Range{})
		if inside := bytes.Compare(b, lower) >= 0 && bytes.Compare(b, upper) < 0; inside != (p == q) {
			t.Fatalf("a row of %+v in the bounds of %+v: %v", q, p, inside)
		}
		if guard := appendPrefix(nil, p, kindGuard); bytes.Compare(guard, lower) >= 0 && bytes.Compare(guard, upper) < 0 {
			t.Fatalf("the guard of %+v is among its keys", p)
		}
		next := afterPartition(p)
		if beyond := bytes.Compare(b, next) >= 0; beyond != (cmp.Or(bytes.Compare(p.Store[:], q.Store[:]), strings.Compare(name, otherName)) < 0) {
			t.Fatalf("a row of %+v beyond %+v: %v", q, p, beyond)
		}
		if next := afterStore(p.Store); next != nil && bytes.Compare(b, next) >= 0 != (bytes.Compare(q.Store[:], p.Store[:]) > 0) {
			t.Fatalf("a row of %+v and the end of the store %s", q, p.Store)
		}
	})
}

// FuzzRowsOfOthers gives the decoders of keys and guards what no driver has written.
func FuzzRowsOfOthers(f *testing.F) {
	f.Add([]byte{})
	f.Add(make([]byte, storeLen))
	f.Add(make([]byte, storeLen+1))
	f.Add(make([]byte, guardLen))
	f.Add(appendPrefix(nil, storage.Partition{Store: runnel.Store{1}, Name: "a"}, kindGuard))
	f.Fuzz(func(t *testing.T, row []byte) {
		if p, kind, err := splitKey(row); err == nil && !bytes.HasPrefix(row, appendPrefix(nil, p, kind)) {
			t.Fatalf("%x is read as kind %d of %+v", row, kind, p)
		}
		v, id, err := decodeGuard(row)
		if (err == nil) != (len(row) == guardLen) {
			t.Fatalf("a guard of %d bytes: %v", len(row), err)
		}
		if err == nil {
			again := make([]byte, guardLen)
			if encodeGuard(again, v, id); !bytes.Equal(again, row) {
				t.Fatalf("the guard %x comes back as %x", row, again)
			}
		}
	})
}
