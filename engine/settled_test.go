package engine_test

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/engine"
	"github.com/runnelhq/runnel/storage/faulty"
	"github.com/runnelhq/runnel/storage/memory"
)

func TestALeaseThatIsSaidToBeLostStaysLostWhenTheClockGoesBack(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	w := newWorld(t, new(memory.Driver), engine.Config{Now: func() time.Time { return now }, SweepInterval: -1})
	l := w.mustLease("k", "a", time.Second)
	now = now.Add(1100 * time.Millisecond)
	_, err := w.RenewLease(ctx, leases, l.Fence())
	wantError(t, err, runnel.ErrLeaseLost)
	now = now.Add(-200 * time.Millisecond)
	_, err = w.RenewLease(ctx, leases, l.Fence())
	wantError(t, err, runnel.ErrLeaseLost)
}

func TestALeaseIsThereAgainWhenTheClockGoesBackAlsoIfAnEarlierOneOfItsKeyWasOldEnoughToGo(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var back atomic.Int64 // nanoseconds
		now := func() time.Time { return time.Now().Add(-time.Duration(back.Load())) }
		w := newWorld(t, new(memory.Driver), engine.Config{Now: now})
		w.mustLease("k", "a", time.Second)
		pass(time.Minute)
		var again runnel.Lease
		looks := func(c faulty.Call) bool { return c.Op == faulty.Scan && string(c.Range.From) == "l" }
		w.once(looks, func() { // while the background looks for leases that are over
			again = w.mustLease("k", "a", 2*time.Second)
			pass(10 * time.Second)
		})
		pass(time.Minute)
		if again.Number == 0 {
			t.Fatal("nobody looked for leases")
		}
		back.Store(int64(time.Since(again.Deadline) + time.Second))
		_, err := w.RenewLease(ctx, leases, again.Fence())
		wantError(t, err, nil)
	})
}

func TestALeaseThatStorageCannotKeepIsRefused(t *testing.T) {
	w := newWorld(t, &memory.Driver{Max: tight}, engine.Config{})
	_, err := w.AcquireLease(ctx, leases, runnel.LeaseRequest{
		Key: "k", Holder: strings.Repeat("h", runnel.MaxLeaseBytes), TTL: time.Minute,
		Metadata: map[string]string{"m": strings.Repeat("m", runnel.MaxLeaseMetadataBytes-1)},
	})
	wantError(t, err, runnel.ErrTooLarge)
}

func TestLeasesThatComeAndGoLeaveLittleBehind(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := inMemory(t)
		w.create("s/a", runnel.CreateOptions{}, "x")
		for range 6000 {
			l := w.mustLease("k", "a", time.Minute)
			wantError(t, w.ReleaseLease(ctx, leases, l.Fence()), nil)
		}
		pass(time.Minute)
		if n := w.rows("s")["c"]; n > 10 {
			t.Errorf("%d commits are left", n)
		}
	})
}

func TestACommitThatIsRepeatedAfterItsLeaseHasEndedIsAnsweredAsItWas(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := inMemory(t)
		w.create("s/a", runnel.CreateOptions{})
		l := w.mustLease("k", "a", time.Second)
		commit := func(key string) (runnel.Committed, error) {
			return w.Transact(ctx, leases, runnel.Transaction{
				Writes: []runnel.Write{{Segment: "a", Records: records("1"), Options: runnel.AppendOptions{Key: key}}},
				Fences: []runnel.Fence{l.Fence()},
			})
		}
		_, err := commit("once")
		wantError(t, err, nil)
		pass(2 * time.Second)
		again, err := commit("once")
		wantError(t, err, nil)
		if !again.Appended[0].Duplicate {
			t.Errorf("%+v", again)
		}
		_, err = commit("another")
		wantError(t, err, runnel.ErrLeaseLost)
		w.want("s/a", "1")
	})
}

func TestOneMayWaitForASpaceToMoveBeyondWhereItIs(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := inMemory(t)
		w.create("s/a", runnel.CreateOptions{}, "1")
		waiting := later(func() error { _, err := w.WaitSpace(ctx, runnel.Space{Name: "s"}, runnel.LatestPosition); return err })
		pending(t, waiting, "waiting")
		w.append("s/a", "2")
		synctest.Wait()
		select {
		case err := <-waiting:
			wantError(t, err, nil)
		default:
			t.Fatal("it still waits")
		}
	})
}

func TestACursorBeyondTheHeadIsToldOfADurableHead(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := inMemory(t)
		w.create("s/a", runnel.CreateOptions{}, "1")
		release := w.blocked("s")
		appended := later(func() error { _, err := w.tryAppend("s/a", runnel.AppendOptions{}, "2"); return err })
		synctest.Wait()
		moved := later(func() error {
			_, err := w.Transact(ctx, leases, runnel.Transaction{Cursors: []runnel.CursorMove{{Name: "c", Place: 1000}}})
			return err
		})
		pending(t, moved, "the refusal")
		release()
		wantError(t, <-appended, nil)
		wantError(t, <-moved, runnel.ErrBeyondTail)
	})
}

func TestSpacesThatAreMergedDoNotKeepLargeEntriesFromEachOther(t *testing.T) {
	bubble(t, func(t *testing.T) {
		const size = 5 << 20
		w := newWorld(t, new(memory.Driver), engine.Config{TailCacheBytes: 1, MaxReadBytes: size})
		var q runnel.Query
		for i := range 3 {
			w.create(fmt.Sprint(i, "/a"), runnel.CreateOptions{}, big("x", size))
			q.Sources = append(q.Sources, ofSpace(fmt.Sprint(i)))
		}
		n := 0
		for _, err := range w.Query(ctx, q) {
			wantError(t, err, nil)
			n++
		}
		if n != 3 {
			t.Errorf("%d entries", n)
		}
	})
}

func TestAPlaceBeyondAnEmptySpaceIsRefusedAmongSeveralToo(t *testing.T) {
	w := inMemory(t)
	beyond := ofSpace("none")
	beyond.After = 7
	_, err := w.query(runnel.Query{Sources: []runnel.Source{ofSpace("s"), beyond}})
	wantError(t, err, runnel.ErrBeyondTail)
}
