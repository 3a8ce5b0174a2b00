package storagetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/runnelhq/runnel/storage"
)

var lifeTests = []test{
	{"limits do not change", func(f *fixture) {
		before := f.driver.Limits()
		f.setKeys(here, "key")
		f.reopen()
		if after := f.driver.Limits(); after != before {
			f.Fatalf("limits %+v became %+v", before, after)
		}
	}},
	{"everything survives opening again", func(f *fixture) {
		id := newID()
		f.wantCommit(here, guarded(0, id, "guarded", "1"), 1)
		var want []pair
		for i := range 30 {
			want = append(want, pair{fmt.Sprintf("key %03d", i), fmt.Sprint(i)})
		}
		for range 2 {
			f.set(there, want...)
			f.reopen()
			f.wantGuard(here, 1, id)
			f.wantValue(here, "guarded", "1")
			if got := f.scan(there, storage.Range{}); !slices.Equal(got, want) {
				f.Fatalf("got %v, want %v", got, want)
			}
		}
		f.wantCommit(here, guarded(1, newID(), "guarded", "2"), 2)
	}},
	{"a context that has ended changes nothing", func(f *fixture) {
		id := newID()
		f.wantCommit(here, guarded(0, id, "key", "value"), 1)
		ctx, cancel := context.WithCancel(context.Background())
		cancel()

		batches := []*storage.Batch{guarded(1, newID(), "key", "late")}
		if f.exclusive() {
			batches = append(batches, &storage.Batch{Ops: batches[0].Ops})
		}
		for _, b := range batches {
			_, err := f.driver.Commit(ctx, here, b)
			if !errors.Is(err, context.Canceled) {
				f.Fatalf("Commit = %v, want context.Canceled", err)
			}
			if !errors.Is(err, storage.ErrRefused) && !errors.Is(err, storage.ErrUnknown) {
				f.Fatalf("Commit = %v, want ErrRefused or ErrUnknown too", err)
			}
		}
		if err := f.driver.Drop(ctx, here, storage.Range{}); !errors.Is(err, context.Canceled) {
			f.Fatalf("Drop = %v, want context.Canceled", err)
		}
		for _, err := range f.driver.Scan(ctx, here, storage.Range{}) {
			if err != nil && !errors.Is(err, context.Canceled) {
				f.Fatalf("Scan = %v, want context.Canceled", err)
			}
		}
		f.wantValue(here, "key", "value")
		f.wantGuard(here, 1, id)
	}},
	{"a context that ends during a scan ends the scan with its error", func(f *fixture) {
		f.setKeys(here, "a", "b", "c")
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		var got []error
		for _, err := range f.driver.Scan(ctx, here, storage.Range{}) {
			got = append(got, err)
			cancel()
		}
		// A driver that reads by the page may have had all three already.
		if last := got[len(got)-1]; last != nil && !errors.Is(last, context.Canceled) || last == nil && len(got) != 3 {
			f.Fatalf("the scan yielded %v", got)
		}
	}},
	{"a scan sees every commit that returned before it", func(f *fixture) {
		const n = 40
		var returned atomic.Int64
		done := make(chan error, 1)
		go func() {
			for i := range n {
				var b storage.Batch
				b.Set(fmt.Appendf(nil, "%03d", i), nil, fmt.Append(nil, i))
				if err := f.write(here, &b); err != nil {
					done <- err
					return
				}
				returned.Add(1)
			}
			done <- nil
		}()
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() {
				for seen := 0; seen < n && !f.Failed(); {
					before := int(returned.Load())
					pairs, err := scan(f.driver, here, storage.Range{})
					if err != nil {
						f.Errorf("Scan: %v", err)
						return
					}
					if seen = len(pairs); seen < before {
						f.Errorf("the scan has %d keys, %d were committed", seen, before)
					}
					if before == 0 {
						continue
					}
					if _, err := f.driver.Get(context.Background(), here, fmt.Appendf(nil, "%03d", before-1)); err != nil {
						f.Errorf("Get of a key that was committed: %v", err)
					}
				}
			})
		}
		if err := <-done; err != nil {
			f.Error(err)
		}
		wg.Wait()
	}},
	{"readers and writers of many partitions do not disturb each other", func(f *fixture) {
		const writers, each = 6, 12
		var wg sync.WaitGroup
		for w := range writers {
			p := storage.Partition{Store: here.Store, Name: fmt.Sprint("p", w)}
			wg.Go(func() {
				for i := range each {
					var b storage.Batch
					b.Set([]byte("last"), nil, fmt.Append(nil, i))
					b.Set(fmt.Appendf(nil, "%03d", i), fmt.Append(nil, w, " "), fmt.Append(nil, i))
					if err := f.write(p, &b); err != nil {
						f.Errorf("Commit: %v", err)
						return
					}
				}
			})
			wg.Go(func() {
				for seen := 0; seen <= each && !f.Failed(); {
					pairs, err := scan(f.driver, p, storage.Range{Reverse: true})
					if err != nil {
						f.Errorf("Scan: %v", err)
						return
					}
					seen = len(pairs)
					for _, kv := range pairs {
						if kv.key != "last" && kv.value[:2] != fmt.Sprint(w, " ") {
							f.Errorf("partition %d holds %q", w, kv.value)
						}
					}
					if _, _, err := f.driver.Guard(context.Background(), p); err != nil {
						f.Errorf("Guard: %v", err)
					}
					for _, err := range f.driver.Partitions(context.Background(), here.Store, "") {
						if err != nil {
							f.Errorf("Partitions: %v", err)
						}
					}
				}
			})
		}
		wg.Wait()
		f.reopen()
		for w := range writers {
			p := storage.Partition{Store: here.Store, Name: fmt.Sprint("p", w)}
			if n := len(f.keys(p, storage.Range{})); n != each+1 {
				f.Fatalf("partition %d has %d keys, want %d", w, n, each+1)
			}
		}
	}},
}
