package storagetest

import (
	"bytes"
	"fmt"

	"github.com/runnelhq/runnel/storage"
)

var limitTests = []test{
	{"a malformed key is refused and its batch changes nothing", func(f *fixture) {
		for _, key := range [][]byte{nil, {}, bytes.Repeat([]byte{'k'}, storage.MaxKeyBytes+1)} {
			var set, del storage.Batch
			set.Set([]byte("fine"), nil, nil)
			set.Set(key, nil, []byte("value"))
			f.wantRefused(here, &set)
			del.Set([]byte("fine"), nil, nil)
			del.Delete(key)
			f.wantRefused(here, &del)
		}
		f.setKeys(here, string(bytes.Repeat([]byte{'k'}, storage.MaxKeyBytes)))
	}},
	{"a value over the limit is refused and its batch changes nothing", func(f *fixture) {
		limit := f.driver.Limits().MaxValueBytes
		if limit == 0 {
			f.Skip("the driver has no such limit")
		}
		value := make([]byte, limit+1)
		for _, split := range []int{0, 1, limit} {
			var b storage.Batch
			b.Set([]byte("fine"), nil, nil)
			b.Set([]byte("large"), value[:split], value[split:])
			f.wantRefused(here, &b)
		}
	}},
	{"a batch over the limit of bytes is refused and changes nothing", func(f *fixture) {
		limits := f.driver.Limits()
		if limits.MaxBatchBytes == 0 {
			f.Skip("the driver has no such limit")
		}
		value := make([]byte, largest(limits.MaxValueBytes, limits.MaxBatchBytes)/2+1)
		var b storage.Batch
		for i := 0; b.Size() <= limits.MaxBatchBytes; i++ {
			if limits.MaxBatchOps > 0 && i == limits.MaxBatchOps {
				f.Skip("the limits of operations and values are reached first")
			}
			b.Set(fmt.Appendf(nil, "key %d", i), nil, value)
		}
		f.wantRefused(here, &b)
	}},
	{"a batch over the limit of changes is refused, and one at it is taken", func(f *fixture) {
		limit := f.driver.Limits().MaxBatchOps
		if limit == 0 {
			f.Skip("the driver has no such limit")
		}
		var b storage.Batch
		for i := range limit + 1 {
			b.Set(fmt.Appendf(nil, "key %d", i), nil, nil)
		}
		f.wantRefused(here, &b)
		b.Ops = b.Ops[:limit]
		f.commit(here, &b)
		if n := len(f.keys(here, storage.Range{})); n != limit {
			f.Fatalf("%d keys, want %d", n, limit)
		}
	}},
	{"a batch at the limit of bytes is taken", func(f *fixture) {
		limits := f.driver.Limits()
		if limits.MaxBatchBytes == 0 || limits.MaxBatchBytes > 8<<20 {
			f.Skip("the driver has no such limit, or one too large to try")
		}
		var b storage.Batch
		value := make([]byte, largest(limits.MaxValueBytes, limits.MaxBatchBytes))
		for i := 0; ; i++ {
			key := fmt.Appendf(nil, "key %6d", i)
			room := limits.MaxBatchBytes - b.Size() - len(key)
			if room < 0 || (limits.MaxBatchOps > 0 && i == limits.MaxBatchOps) {
				break
			}
			b.Set(key, nil, value[:min(len(value), room)])
		}
		f.commit(here, &b)
		if n := len(f.keys(here, storage.Range{})); n != len(b.Ops) {
			f.Fatalf("%d keys, want %d", n, len(b.Ops))
		}
	}},
}

// wantRefused commits b in the way the driver asks for, and checks that it changes nothing.
func (f *fixture) wantRefused(p storage.Partition, b *storage.Batch) {
	f.Helper()
	version, id := f.guard(p)
	b.Guarded, b.Expect, b.ID = !f.exclusive(), version, newID()
	f.wantError(p, b, storage.ErrRefused)
	f.wantKeys(p, storage.Range{})
	f.wantGuard(p, version, id)
}
