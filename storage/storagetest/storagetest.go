// Package storagetest is the contract of package storage as a test suite. A driver is finished when its
// own test file, which is little more than a call of [Run], is green under the race detector.
package storagetest

import (
	"bytes"
	"context"
	"errors"
	"iter"
	"slices"
	"testing"

	"github.com/google/uuid"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/storage"
)

// Open opens the driver under test. All opens within one test see the same data; the suite closes the
// one before it opens the next.
type Open func() (storage.Driver, error)

// Run runs the suite. It calls fresh once in each test, for a place that holds nothing yet.
//
//	storagetest.Run(t, func(t *testing.T) storagetest.Open {
//		dir := t.TempDir()
//		return func() (storage.Driver, error) { return pebblestore.Open(dir, pebblestore.Config{}) }
//	})
func Run(t *testing.T, fresh func(t *testing.T) Open) {
	for _, group := range [][]test{orderTests, valueTests, guardTests, limitTests, dropTests, listTests, lifeTests, modelTests} {
		for _, test := range group {
			t.Run(test.name, func(t *testing.T) {
				t.Parallel()
				f := &fixture{T: t, open: fresh(t)}
				f.reopen()
				t.Cleanup(func() {
					if err := f.driver.Close(); err != nil {
						t.Errorf("Close: %v", err)
					}
				})
				test.run(f)
			})
		}
	}
}

type test struct {
	name string
	run  func(f *fixture)
}

// fixture is an open driver, with the words that the tests are written in. Its methods end the test on
// any error; those that are called on other goroutines return errors instead.
type fixture struct {
	*testing.T
	open   Open
	driver storage.Driver
}

// Two partitions of one store, for tests that need no more.
var (
	here  = storage.Partition{Store: runnel.Store(uuid.MustParse("6ba7b810-9dad-11d1-80b4-00c04fd430c8")), Name: "here"}
	there = storage.Partition{Store: here.Store, Name: "there"}
)

// pair is a key and its value as text, which compares and prints well.
type pair struct{ key, value string }

// reopen closes the driver, if it is open, and opens it.
func (f *fixture) reopen() {
	f.Helper()
	if f.driver != nil {
		if err := f.driver.Close(); err != nil {
			f.Fatalf("Close: %v", err)
		}
	}
	d, err := f.open()
	if err != nil {
		f.Fatalf("Open: %v", err)
	}
	f.driver = d
}

func (f *fixture) exclusive() bool { return f.driver.Limits().Exclusive }

// write commits b in the way the driver asks for: bare if it is exclusive, else on the version that the
// guard has now.
func (f *fixture) write(p storage.Partition, b *storage.Batch) error {
	if !f.exclusive() {
		v, _, err := f.driver.Guard(context.Background(), p)
		if err != nil {
			return err
		}
		b.Guarded, b.Expect, b.ID = true, v, newID()
	}
	_, err := f.driver.Commit(context.Background(), p, b)
	return err
}

func (f *fixture) commit(p storage.Partition, b *storage.Batch) {
	f.Helper()
	if err := f.write(p, b); err != nil {
		f.Fatalf("Commit: %v", err)
	}
}

// set commits each pair, in as few batches as the driver's limits allow.
func (f *fixture) set(p storage.Partition, pairs ...pair) {
	f.Helper()
	most := len(pairs)
	if limit := f.driver.Limits().MaxBatchOps; limit > 0 {
		most = min(most, limit)
	}
	for chunk := range slices.Chunk(pairs, max(most, 1)) {
		var b storage.Batch
		for _, kv := range chunk {
			b.Set([]byte(kv.key), nil, []byte(kv.value))
		}
		f.commit(p, &b)
	}
}

// setKeys commits keys whose values do not matter.
func (f *fixture) setKeys(p storage.Partition, keys ...string) {
	f.Helper()
	pairs := make([]pair, len(keys))
	for i, key := range keys {
		pairs[i] = pair{key, "value of " + key}
	}
	f.set(p, pairs...)
}

func (f *fixture) get(p storage.Partition, key string) string {
	f.Helper()
	value, err := f.driver.Get(context.Background(), p, []byte(key))
	if err != nil {
		f.Fatalf("Get(%q): %v", key, err)
	}
	return string(value)
}

func (f *fixture) wantValue(p storage.Partition, key, want string) {
	f.Helper()
	if got := f.get(p, key); got != want {
		f.Fatalf("Get(%q) = %.100q, want %.100q", key, got, want)
	}
}

func (f *fixture) wantAbsent(p storage.Partition, key string) {
	f.Helper()
	value, err := f.driver.Get(context.Background(), p, []byte(key))
	if !errors.Is(err, storage.ErrKeyNotFound) {
		f.Fatalf("Get(%q) = %.100q, %v; want ErrKeyNotFound", key, value, err)
	}
}

func (f *fixture) scan(p storage.Partition, r storage.Range) []pair {
	f.Helper()
	pairs, err := scan(f.driver, p, r)
	if err != nil {
		f.Fatalf("Scan: %v", err)
	}
	return pairs
}

func scan(d storage.Driver, p storage.Partition, r storage.Range) ([]pair, error) {
	var pairs []pair
	for kv, err := range d.Scan(context.Background(), p, r) {
		if err != nil {
			return nil, err
		}
		pairs = append(pairs, pair{string(kv.Key), string(kv.Value)})
	}
	return pairs, nil
}

func (f *fixture) keys(p storage.Partition, r storage.Range) []string {
	f.Helper()
	var keys []string
	for _, kv := range f.scan(p, r) {
		keys = append(keys, kv.key)
	}
	return keys
}

func (f *fixture) wantKeys(p storage.Partition, r storage.Range, want ...string) {
	f.Helper()
	if got := f.keys(p, r); !slices.Equal(got, want) {
		f.Fatalf("partition %q, range %q to %q, reverse %v, limit %d: keys %.300q, want %.300q", p.Name, r.From, r.To, r.Reverse, r.Limit, got, want)
	}
}

func (f *fixture) drop(p storage.Partition, r storage.Range) {
	f.Helper()
	if err := f.driver.Drop(context.Background(), p, r); err != nil {
		f.Fatalf("Drop: %v", err)
	}
}

func (f *fixture) guard(p storage.Partition) (storage.Version, storage.CommitID) {
	f.Helper()
	v, id, err := f.driver.Guard(context.Background(), p)
	if err != nil {
		f.Fatalf("Guard: %v", err)
	}
	return v, id
}

func (f *fixture) stores() []runnel.Store {
	f.Helper()
	return collect(f, f.driver.Stores(context.Background()))
}

func (f *fixture) partitions(s runnel.Store, from string) []string {
	f.Helper()
	var names []string
	for _, p := range collect(f, f.driver.Partitions(context.Background(), s, from)) {
		if p.Store != s {
			f.Fatalf("Partitions of store %s yields one of store %s", s, p.Store)
		}
		names = append(names, p.Name)
	}
	return names
}

func collect[T any](f *fixture, seq iter.Seq2[T, error]) []T {
	f.Helper()
	var all []T
	for v, err := range seq {
		if err != nil {
			f.Fatal(err)
		}
		all = append(all, v)
	}
	return all
}

// newID returns an id that no other commit has.
func newID() storage.CommitID { return storage.CommitID(uuid.New()) }

// span is the range between two keys, where the empty string is no bound.
func span(from, to string) storage.Range {
	var r storage.Range
	if from != "" {
		r.From = []byte(from)
	}
	if to != "" {
		r.To = []byte(to)
	}
	return r
}

// reversed returns r the other way round.
func reversed(r storage.Range) storage.Range {
	r.Reverse = !r.Reverse
	return r
}

// scribble spoils slices that were handed in for whoever kept them.
func scribble(slices ...[]byte) {
	for _, s := range slices {
		copy(s, bytes.Repeat([]byte{'!'}, len(s)))
	}
}
