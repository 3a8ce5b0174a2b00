package storagetest

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"

	"github.com/runnelhq/runnel/storage"
)

// guarded returns a batch that sets one key on the version that it expects.
func guarded(expect storage.Version, id storage.CommitID, key, value string) *storage.Batch {
	b := &storage.Batch{Guarded: true, Expect: expect, ID: id}
	b.Set([]byte(key), nil, []byte(value))
	return b
}

// wantCommit commits a guarded batch and checks the version that it made.
func (f *fixture) wantCommit(p storage.Partition, b *storage.Batch, want storage.Version) {
	f.Helper()
	v, err := f.driver.Commit(context.Background(), p, b)
	if err != nil || v != want {
		f.Fatalf("Commit on version %d = %d, %v; want %d", b.Expect, v, err, want)
	}
	f.wantGuard(p, want, b.ID)
}

func (f *fixture) wantGuard(p storage.Partition, version storage.Version, id storage.CommitID) {
	f.Helper()
	if v, got := f.guard(p); v != version || got != id {
		f.Fatalf("guard of %q is version %d, id %x; want version %d, id %x", p.Name, v, got, version, id)
	}
}

func (f *fixture) wantError(p storage.Partition, b *storage.Batch, want error) {
	f.Helper()
	v, err := f.driver.Commit(context.Background(), p, b)
	if !errors.Is(err, want) {
		f.Fatalf("Commit = %d, %v; want %v", v, err, want)
	}
}

var guardTests = []test{
	{"a partition without a guarded commit has version 0 and no id", func(f *fixture) {
		f.wantGuard(here, 0, storage.CommitID{})
	}},
	{"a guarded commit raises the version by one and leaves its id", func(f *fixture) {
		for v := range storage.Version(3) {
			f.wantCommit(here, guarded(v, newID(), "key", fmt.Sprint(v)), v+1)
			f.wantValue(here, "key", fmt.Sprint(v))
		}
		f.wantGuard(there, 0, storage.CommitID{})
	}},
	{"a guarded commit of nothing raises the version", func(f *fixture) {
		f.wantCommit(here, &storage.Batch{Guarded: true, ID: newID()}, 1)
		f.wantKeys(here, storage.Range{})
		f.wantCommit(here, guarded(1, newID(), "key", "value"), 2)
	}},
	{"a conflict changes nothing", func(f *fixture) {
		f.wantError(here, guarded(1, newID(), "key", "too early"), storage.ErrConflict)
		f.wantAbsent(here, "key")
		f.wantGuard(here, 0, storage.CommitID{})

		id := newID()
		f.wantCommit(here, guarded(0, id, "key", "right"), 1)
		for _, expect := range []storage.Version{0, 2, 1 << 40} {
			b := guarded(expect, newID(), "key", "wrong")
			b.Set([]byte("other"), nil, nil)
			b.Delete([]byte("key"))
			f.wantError(here, b, storage.ErrConflict)
			f.wantError(here, &storage.Batch{Guarded: true, Expect: expect}, storage.ErrConflict)
			f.wantValue(here, "key", "right")
			f.wantKeys(here, storage.Range{}, "key")
			f.wantGuard(here, 1, id)
		}
		f.reopen()
		f.wantKeys(here, storage.Range{}, "key")
		f.wantCommit(here, guarded(1, newID(), "key", "next"), 2)
	}},
	{"partitions have guards of their own", func(f *fixture) {
		id := newID()
		f.wantCommit(here, guarded(0, id, "key", "here"), 1)
		f.wantCommit(there, guarded(0, newID(), "key", "there"), 1)
		f.wantCommit(there, guarded(1, newID(), "key", "there"), 2)
		f.wantGuard(here, 1, id)
	}},
	{"a guard is no key of its partition", func(f *fixture) {
		b := &storage.Batch{Guarded: true, ID: newID()}
		f.wantCommit(here, b, 1)
		f.wantKeys(here, storage.Range{})
		f.drop(here, storage.Range{})
		f.wantGuard(here, 1, b.ID)
	}},
	{"a commit without a guard leaves the guard alone, or is refused where others write too", func(f *fixture) {
		id := newID()
		f.wantCommit(here, guarded(0, id, "key", "guarded"), 1)
		var b storage.Batch
		b.Set([]byte("key"), nil, []byte("bare"))
		v, err := f.driver.Commit(context.Background(), here, &b)
		if f.exclusive() {
			if err != nil || v != 0 {
				f.Fatalf("Commit = %d, %v", v, err)
			}
			f.wantValue(here, "key", "bare")
		} else {
			if !errors.Is(err, storage.ErrRefused) {
				f.Fatalf("Commit = %v, want ErrRefused", err)
			}
			f.wantValue(here, "key", "guarded")
		}
		f.wantGuard(here, 1, id)
	}},
	{"of concurrent commits on one version exactly one happens", func(f *fixture) {
		const writers, rounds = 8, 6
		for round := range storage.Version(rounds) {
			var wg sync.WaitGroup
			errs := make([]error, writers)
			ids := make([]storage.CommitID, writers)
			for i := range writers {
				ids[i] = newID()
				wg.Go(func() {
					b := guarded(round, ids[i], "winner", strconv.Itoa(i))
					b.Set(fmt.Appendf(nil, "round %d writer %d", round, i), nil, nil)
					_, errs[i] = f.driver.Commit(context.Background(), here, b)
				})
			}
			wg.Wait()
			winner := -1
			for i, err := range errs {
				switch {
				case errors.Is(err, storage.ErrConflict):
				case err != nil:
					f.Fatal(err)
				case winner >= 0:
					f.Fatalf("round %d: writers %d and %d both committed", round, winner, i)
				default:
					winner = i
				}
			}
			if winner < 0 {
				f.Fatalf("round %d: nobody committed", round)
			}
			f.wantGuard(here, round+1, ids[winner])
			f.wantValue(here, "winner", strconv.Itoa(winner))
		}
		if n := len(f.keys(here, span("round", "s"))); n != rounds {
			f.Fatalf("%d batches left a key, want %d", n, rounds)
		}
	}},
	{"no increment of concurrent guarded writers is lost", func(f *fixture) {
		const writers, each = 4, 10
		errs := make(chan error, writers)
		for range writers {
			go func() {
				for range each {
					if err := increment(f.driver, here); err != nil {
						errs <- err
						return
					}
				}
				errs <- nil
			}()
		}
		for range writers {
			if err := <-errs; err != nil {
				f.Fatal(err)
			}
		}
		f.wantValue(here, "counter", strconv.Itoa(writers*each))
		if v, _ := f.guard(here); v != writers*each {
			f.Fatalf("version %d, want %d", v, writers*each)
		}
	}},
}

// increment adds one to a counter, as often as it takes to do so on an unchanged version.
func increment(d storage.Driver, p storage.Partition) error {
	ctx := context.Background()
	for {
		v, _, err := d.Guard(ctx, p)
		if err != nil {
			return err
		}
		n := 0
		value, err := d.Get(ctx, p, []byte("counter"))
		if err == nil {
			n, err = strconv.Atoi(string(value))
		}
		if err != nil && !errors.Is(err, storage.ErrKeyNotFound) {
			return err
		}
		_, err = d.Commit(ctx, p, guarded(v, newID(), "counter", strconv.Itoa(n+1)))
		if !errors.Is(err, storage.ErrConflict) {
			return err
		}
	}
}
