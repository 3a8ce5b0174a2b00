package faulty_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/runnelhq/runnel/storage"
	"github.com/runnelhq/runnel/storage/faulty"
	"github.com/runnelhq/runnel/storage/memory"
	"github.com/runnelhq/runnel/storage/storagetest"
)

var (
	ctx  = context.Background()
	here = storage.Partition{Name: "here"}
)

func set(key, value string) *storage.Batch {
	b := &storage.Batch{}
	b.Set([]byte(key), nil, []byte(value))
	return b
}

func commit(d storage.Driver, key, value string) error {
	_, err := d.Commit(ctx, here, set(key, value))
	return err
}

func keys(t *testing.T, d storage.Driver) []string {
	t.Helper()
	var keys []string
	for kv, err := range d.Scan(ctx, here, storage.Range{}) {
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, string(kv.Key))
	}
	return keys
}

func wantKeys(t *testing.T, d storage.Driver, want ...string) {
	t.Helper()
	if got := keys(t, d); !slices.Equal(got, want) {
		t.Fatalf("keys %q, want %q", got, want)
	}
}

func wantError(t *testing.T, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Fatalf("error %v, want %v", got, want)
	}
}

func TestWithoutRulesADriverKeepsTheContract(t *testing.T) {
	storagetest.Run(t, func(*testing.T) storagetest.Open {
		d := new(memory.Driver)
		return faulty.Opening(func() (storage.Driver, error) { return d, nil })
	})
}

func TestACacheThatDoesNotHoldKeepsTheContract(t *testing.T) {
	storagetest.Run(t, func(*testing.T) storagetest.Open {
		return faulty.NewWriteCache(new(memory.Driver)).Open
	})
}

func TestTheNthCommitFailsBeforeItHappens(t *testing.T) {
	for _, err := range []error{storage.ErrConflict, storage.ErrRefused, storage.ErrFailed, storage.ErrUnknown} {
		d := faulty.New(new(memory.Driver), faulty.Rule{When: faulty.Nth(faulty.Commit, 2), Then: faulty.Before(err)})
		wantError(t, commit(d, "a", ""), nil)
		wantError(t, commit(d, "b", ""), err)
		wantError(t, commit(d, "c", ""), nil)
		wantKeys(t, d, "a", "c")
	}
}

func TestACommitHappensAndItsAnswerIsLost(t *testing.T) {
	d := faulty.New(new(memory.Driver), faulty.Rule{When: faulty.On(faulty.Commit), Then: faulty.After(storage.ErrUnknown)})
	b := set("a", "")
	b.Guarded, b.ID = true, storage.CommitID{1}
	v, err := d.Commit(ctx, here, b)
	wantError(t, err, storage.ErrUnknown)
	if v != 0 {
		t.Fatalf("version %d with an error", v)
	}
	wantKeys(t, d, "a")
	if v, id, err := d.Guard(ctx, here); v != 1 || id != b.ID || err != nil {
		t.Fatalf("guard %d, %x, %v", v, id, err)
	}
	_, err = d.Commit(ctx, here, b) // what fails by itself says why
	wantError(t, err, storage.ErrConflict)
}

func TestEveryMethodCanFail(t *testing.T) {
	broken := errors.New("broken")
	d := faulty.New(new(memory.Driver), faulty.Rule{Then: faulty.Before(broken)})
	wantError(t, commit(d, "a", ""), broken)
	_, _, err := d.Guard(ctx, here)
	wantError(t, err, broken)
	_, err = d.Get(ctx, here, []byte("a"))
	wantError(t, err, broken)
	wantError(t, d.Drop(ctx, here, storage.Range{}), broken)
	wantError(t, d.Close(), broken)
	for _, err := range d.Scan(ctx, here, storage.Range{}) {
		wantError(t, err, broken)
	}
	for _, err := range d.Stores(ctx) {
		wantError(t, err, broken)
	}
	for _, err := range d.Partitions(ctx, here.Store, "") {
		wantError(t, err, broken)
	}
	for op := faulty.Commit; op <= faulty.Close; op++ {
		if n := d.Calls(op); n != 1 {
			t.Errorf("%d calls of %v, want 1", n, op)
		}
	}
}

func TestAScanCanBreakOffAtItsEnd(t *testing.T) {
	broken := errors.New("broken")
	d := faulty.New(new(memory.Driver), faulty.Rule{When: faulty.On(faulty.Scan), Then: faulty.After(broken)})
	wantError(t, commit(d, "a", ""), nil)
	var got []string
	for kv, err := range d.Scan(ctx, here, storage.Range{}) {
		got = append(got, fmt.Sprint(string(kv.Key), " ", err))
	}
	if want := []string{"a <nil>", " broken"}; !slices.Equal(got, want) {
		t.Fatalf("got %q, want %q", got, want)
	}
	for range d.Scan(ctx, here, storage.Range{}) {
		break // and nothing is yielded to whoever has left
	}
}

func TestTheFirstRuleThatMatchesDecides(t *testing.T) {
	d := faulty.New(new(memory.Driver),
		faulty.Rule{When: func(c faulty.Call) bool { return c.Op == faulty.Commit && c.Batch.Guarded }, Then: faulty.Before(storage.ErrConflict)},
		faulty.Rule{When: faulty.From(faulty.Commit, 2), Then: faulty.Before(storage.ErrFailed)},
	)
	_, err := d.Commit(ctx, here, &storage.Batch{Guarded: true})
	wantError(t, err, storage.ErrConflict)
	wantError(t, commit(d, "a", ""), storage.ErrFailed)
	wantError(t, commit(d, "b", ""), storage.ErrFailed)
	d.SetRules()
	wantError(t, commit(d, "c", ""), nil)
	wantKeys(t, d, "c")
}

func TestTheSeedDecidesWhatChanceMatches(t *testing.T) {
	run := func(seed uint64) string {
		rng := rand.New(rand.NewPCG(seed, 0))
		d := faulty.New(new(memory.Driver), faulty.Rule{
			When: faulty.All(faulty.On(faulty.Commit), faulty.Chance(rng, 0.5)),
			Then: faulty.Before(storage.ErrUnknown),
		})
		for i := range 64 {
			_ = commit(d, fmt.Sprintf("%02d", i), "")
			_, _, _ = d.Guard(ctx, here) // draws nothing
		}
		return fmt.Sprint(keys(t, d))
	}
	if first, again := run(1), run(1); first != again || first == run(2) {
		t.Fatal("what happens does not follow from the seed")
	}
}

func TestACommitWaitsForTheTest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		let := make(chan struct{})
		hook := func(ctx context.Context) error {
			select {
			case <-let:
				return nil
			case <-ctx.Done():
				return fmt.Errorf("%w: %w", storage.ErrUnknown, ctx.Err())
			}
		}
		d := faulty.New(new(memory.Driver),
			faulty.Rule{When: faulty.Nth(faulty.Commit, 1), Then: faulty.Wait(hook, faulty.Through)},
			faulty.Rule{When: faulty.On(faulty.Commit), Then: faulty.WaitAfter(hook, faulty.Through)},
		)
		done := make(chan error, 2)
		go func() { done <- commit(d, "before", "") }()
		synctest.Wait()
		wantKeys(t, d)
		go func() { done <- commit(d, "after", "") }()
		synctest.Wait()
		wantKeys(t, d, "after")
		close(let)
		wantError(t, <-done, nil)
		wantError(t, <-done, nil)
		wantKeys(t, d, "after", "before")

		ctx, cancel := context.WithCancel(ctx)
		let = make(chan struct{})
		go func() {
			_, err := d.Commit(ctx, here, set("late", ""))
			done <- err
		}()
		synctest.Wait()
		cancel()
		wantError(t, <-done, storage.ErrUnknown)
	})
}

// holding returns a cache that holds, over a driver that has the key "old".
func holding(t *testing.T) (*faulty.WriteCache, *memory.Driver) {
	t.Helper()
	disk := new(memory.Driver)
	wantError(t, commit(disk, "old", ""), nil)
	cache := faulty.NewWriteCache(disk)
	cache.Hold()
	return cache, disk
}

func open(t *testing.T, cache *faulty.WriteCache) storage.Driver {
	t.Helper()
	d, err := cache.Open()
	wantError(t, err, nil)
	return d
}

func TestAHeldCommitIsReadableAtOnceAndReturnsWhenSynced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cache, disk := holding(t)
		d := open(t, cache)
		done := make(chan error, 2)
		go func() {
			b := set("new", "1")
			b.Delete([]byte("old"))
			b.Guarded, b.ID = true, storage.CommitID{7}
			v, err := d.Commit(ctx, here, b)
			if v != 1 {
				err = fmt.Errorf("version %d, %w", v, err)
			}
			done <- err
		}()
		synctest.Wait()
		go func() { done <- commit(d, "next", "") }()
		synctest.Wait()

		wantKeys(t, d, "new", "next")
		if v, id, err := d.Guard(ctx, here); v != 1 || id != (storage.CommitID{7}) || err != nil {
			t.Fatalf("guard %d, %x, %v", v, id, err)
		}
		_, err := d.Commit(ctx, here, &storage.Batch{Guarded: true})
		wantError(t, err, storage.ErrConflict)
		wantKeys(t, disk, "old")
		if n := cache.Held(); n != 2 || len(done) != 0 {
			t.Fatalf("%d changes held, %d returned", n, len(done))
		}

		cache.Sync()
		wantError(t, <-done, nil)
		wantError(t, <-done, nil)
		wantKeys(t, disk, "new", "next")
		wantKeys(t, d, "new", "next")
	})
}

func TestACrashLosesWhatWasNotSynced(t *testing.T) {
	for survivors := range 4 {
		synctest.Test(t, func(t *testing.T) {
			cache, _ := holding(t)
			before := open(t, cache)
			done := make(chan error, 2)
			go func() { done <- commit(before, "a", "") }()
			synctest.Wait()
			wantError(t, before.Drop(ctx, here, storage.Range{From: []byte("old")}), nil)
			go func() { done <- commit(before, "b", "") }()
			synctest.Wait()
			wantKeys(t, before, "a", "b")

			cache.Crash(survivors)
			wantError(t, <-done, storage.ErrUnknown)
			wantError(t, <-done, storage.ErrUnknown)
			wantError(t, commit(before, "c", ""), storage.ErrFailed)
			_, err := before.Get(ctx, here, []byte("old"))
			wantError(t, err, storage.ErrFailed)

			cache.Release()
			after := open(t, cache)
			wantKeys(t, after, [][]string{{"old"}, {"a", "old"}, {"a"}, {"a", "b"}}[survivors]...)
			wantError(t, commit(after, "c", ""), nil)
		})
	}
}

func TestAHeldCommitWhoseContextEndsIsUnknown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cache, disk := holding(t)
		d := open(t, cache)
		ctx, cancel := context.WithCancel(ctx)
		done := make(chan error)
		go func() {
			_, err := d.Commit(ctx, here, set("new", ""))
			done <- err
		}()
		synctest.Wait()
		cancel()
		wantError(t, <-done, storage.ErrUnknown)
		cache.Sync() // it was under way all the same
		wantKeys(t, disk, "new", "old")
	})
}

func TestAHoldingCacheThatIsSyncedKeepsTheContract(t *testing.T) {
	storagetest.Run(t, func(t *testing.T) storagetest.Open {
		cache := faulty.NewWriteCache(new(memory.Driver))
		cache.Hold()
		// Every commit is synced as soon as it waits.
		return faulty.Opening(cache.Open, faulty.Rule{When: faulty.On(faulty.Commit), Then: syncing(cache)})
	})
}

// syncing makes a call, and syncs until it has returned.
func syncing(cache *faulty.WriteCache) faulty.Effect {
	return func(ctx context.Context, _ faulty.Call, do func(context.Context) error) error {
		done := make(chan error, 1)
		go func() { done <- do(ctx) }()
		for {
			select {
			case err := <-done:
				return err
			default:
				if runtime.Gosched(); cache.Held() > 0 {
					cache.Sync()
				}
			}
		}
	}
}

func TestAScanFailsMidway(t *testing.T) {
	d := faulty.New(new(memory.Driver))
	for _, key := range []string{"a", "b", "c"} {
		wantError(t, commit(d, key, ""), nil)
	}
	for n, want := range []string{"", "a", "ab", "abc", "abc"} {
		d.SetRules(faulty.Rule{When: faulty.On(faulty.Scan), Then: faulty.Midway(n, storage.ErrFailed)})
		got, last := "", error(nil)
		for kv, err := range d.Scan(ctx, here, storage.Range{}) {
			if last = err; err == nil {
				got += string(kv.Key)
			}
		}
		if got != want {
			t.Errorf("after %d it has yielded %q, want %q", n, got, want)
		}
		wantError(t, last, storage.ErrFailed)
	}
	d.SetRules(faulty.Rule{When: faulty.On(faulty.Get), Then: faulty.Midway(1, storage.ErrFailed)})
	_, err := d.Get(ctx, here, []byte("a"))
	wantError(t, err, storage.ErrFailed)
}
