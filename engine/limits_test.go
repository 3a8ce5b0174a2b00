package engine_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/engine"
	"github.com/runnelhq/runnel/storage"
	"github.com/runnelhq/runnel/storage/memory"
)

// tight are the smallest limits that an engine runs on.
var tight = storage.Limits{MaxValueBytes: 4 << 10, MaxBatchBytes: 16 << 10, MaxBatchOps: 16}

func TestAnEngineSaysWhichLimitsAreTooTight(t *testing.T) {
	for _, limits := range []storage.Limits{
		{MaxBatchBytes: 16<<10 - 1}, {MaxBatchOps: 15}, {MaxValueBytes: 64}, {MaxValueBytes: 1},
	} {
		e, err := engine.Open(&memory.Driver{Max: limits}, engine.Config{})
		if err == nil {
			t.Errorf("%+v is taken", limits)
			_ = e.Close()
		}
	}
}

func TestLargeEntriesAreKeptInPieces(t *testing.T) {
	for name, limits := range map[string]storage.Limits{
		"no limits":     {},
		"tight":         tight,
		"small values":  {MaxValueBytes: 4 << 10},
		"small batches": {MaxBatchBytes: 16 << 10},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, &memory.Driver{Max: limits}, engine.Config{TailCacheBytes: 1})
			w.create("a", runnel.CreateOptions{})
			var want []string
			for _, n := range []int{4000, 4032, 4033, 4096, 4097, 8100, 12000, 14000, 100 << 10, 128 << 10, 1<<20 + 100_000} {
				if limits.MaxBatchBytes > 0 && n > 14000 {
					continue
				}
				add := []string{big("x", n-1) + "y", []string{"", "small"}[len(want)/2%2]}
				w.append("a", add...)
				want = append(want, add...)
			}
			for range 2 {
				w.want("a", want...)
				for from := 0; from < len(want); from += 3 {
					w.wantFrom("a", runnel.Sequence(from), want[from:]...)
				}
				w.crash()
			}
			w.append("a", "next")
			w.want("a", append(want, "next")...)
		})
	}
}

func TestAnAppendOfManyRecordsIsOneWhateverItsSize(t *testing.T) {
	w := newWorld(t, new(memory.Driver), engine.Config{TailCacheBytes: 1})
	w.create("a", runnel.CreateOptions{})
	all := make([]string, 3000)
	for i := range all {
		all[i] = big(fmt.Sprint(i%10), i%700)
	}
	w.append("a", all...)
	w.crash()
	w.want("a", all...)
	entries, err := w.readErr("a", 0)
	wantError(t, err, nil)
	for _, e := range entries {
		if e.Transaction != entries[0].Position {
			t.Fatalf("%d is of transaction %d", e.Sequence, e.Transaction)
		}
	}
}

func TestWhatNoBatchCanHoldIsRefused(t *testing.T) {
	w := newWorld(t, &memory.Driver{Max: tight}, engine.Config{})
	w.create("a", runnel.CreateOptions{}, "before")
	_, err := w.tryAppend("a", runnel.AppendOptions{}, big("x", 16<<10))
	if e := as[*runnel.TooLargeError](t, err); e.Limit != 16<<10 || e.Got <= e.Limit {
		t.Errorf("%+v", e)
	}
	_, err = w.tryCreate("b", runnel.CreateOptions{}, big("x", 16<<10))
	wantError(t, err, runnel.ErrTooLarge)
	var writes []runnel.Write
	for i := range 20 {
		w.create(fmt.Sprint("s/", i), runnel.CreateOptions{})
		writes = append(writes, writeTo(fmt.Sprint(i), runnel.AppendOptions{}, "x"))
	}
	_, err = w.Commit(ctx, theSpace, writes...)
	wantError(t, err, runnel.ErrInvalid)
	w.append("a", "after")
	w.want("a", "before", "after")
}

func TestTheNumberOfPiecesIsKnownBeforehand(t *testing.T) {
	limits := storage.Limits{MaxValueBytes: 4 << 10, MaxBatchOps: 500}
	w := newWorld(t, &memory.Driver{Max: limits}, engine.Config{})
	w.create("a", runnel.CreateOptions{})
	for pieces := 480; pieces < 505; pieces++ {
		_, err := w.tryAppend("a", runnel.AppendOptions{}, big("x", pieces*4000))
		if err != nil && !errors.Is(err, runnel.ErrInvalid) {
			t.Fatalf("about %d pieces: %v", pieces, err)
		}
	}
}

func TestACommitToVeryManySegmentsIsTakenOrRefused(t *testing.T) {
	w := newWorld(t, &memory.Driver{Max: storage.Limits{MaxValueBytes: 4 << 10}}, engine.Config{})
	var writes []runnel.Write
	for i := range 600 {
		w.create(fmt.Sprint("s/", i), runnel.CreateOptions{})
		writes = append(writes, writeTo(fmt.Sprint(i), runnel.AppendOptions{}, "x"))
		if i%50 == 20 {
			if _, err := w.Commit(ctx, theSpace, writes...); err != nil && !errors.Is(err, runnel.ErrInvalid) {
				t.Fatalf("%d segments: %v", i, err)
			}
		}
	}
}

func TestManyWritesAreSpreadOverTightBatches(t *testing.T) {
	for name, limits := range map[string]storage.Limits{
		"tight":        tight,
		"small values": {MaxValueBytes: 4 << 10},
		"few changes":  {MaxBatchOps: 16},
		"few bytes":    {MaxBatchBytes: 16 << 10},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t, &memory.Driver{Max: limits}, engine.Config{TailCacheBytes: 1})
				w.create("a", runnel.CreateOptions{})
				release := w.blocked("")
				const appends = 1500
				var wg sync.WaitGroup
				for i := range appends {
					wg.Go(func() {
						if _, err := w.tryAppend("a", producing(fmt.Sprint(i), 0, 0), fmt.Sprint(i, big("x", i%200))); err != nil {
							t.Error(err)
						}
					})
				}
				pass(time.Second)
				release()
				wg.Wait()
				if got := w.stat("a"); got.Tail != appends {
					t.Errorf("%+v", got)
				}
			})
		})
	}
}

func TestEveryOperationFitsIntoTightBatches(t *testing.T) {
	// With the longest names, types and ids, and everything of a segment used.
	bubble(t, func(t *testing.T) {
		w := newWorld(t, &memory.Driver{Max: tight}, engine.Config{})
		space := strings.Repeat("s", runnel.MaxSpaceBytes)
		name := func(i int) string {
			return space + "/" + fmt.Sprintf("%03d", i) + strings.Repeat("n", runnel.MaxSegmentBytes-3)
		}
		o := runnel.CreateOptions{ContentType: "text/" + strings.Repeat("t", 251), TTL: time.Hour, Retention: runnel.Retention{Entries: 100}}
		w.create(name(0), o, big("x", 1000))
		for i := 1; i < 6; i++ {
			w.create(name(i), runnel.CreateOptions{Fork: &runnel.ForkFrom{Source: at(name(i - 1)), At: 1}, TTL: time.Duration(i) * time.Hour}, "x")
		}
		for i := range 6 {
			a := closingAs(strings.Repeat("p", runnel.MaxProducerBytes), 1, 0)
			a.HasStreamSeq, a.StreamSeq = true, strings.Repeat("q", runnel.MaxStreamSeqBytes)
			if _, err := w.tryAppend(name(i), a, "last"); err != nil {
				t.Fatal(err)
			}
		}
		w.crash()
		for i := range 6 {
			w.delete(name(i))
			pass(time.Second)
		}
		pass(10 * time.Hour)
		w.wantRows(space, map[string]int{"e": 0, "m": 0, "p": 0, "r": 0, "o": 0, "t": 0, "s": 0})
	})
}

func TestAForkWhoseDescriptionNoValueHoldsIsRefused(t *testing.T) {
	// Every fork of a chain through long names makes the list of who holds its entries longer.
	w := newWorld(t, &memory.Driver{Max: tight}, engine.Config{})
	space := func(i int) string { return fmt.Sprintf("%03d", i) + strings.Repeat("s", runnel.MaxSpaceBytes-3) }
	w.create(space(0)+"/a", runnel.CreateOptions{}, "x")
	for i := 1; i < 40; i++ {
		_, err := w.tryCreate(space(i)+"/a", runnel.CreateOptions{Fork: &runnel.ForkFrom{Source: at(space(i-1) + "/a"), Latest: true}}, "x")
		if err != nil {
			if !errors.Is(err, runnel.ErrTooLarge) {
				t.Fatalf("fork %d: %v", i, err)
			}
			for k := range i { // all before can be used to the end
				if _, err := w.tryAppend(space(k)+"/a", closing, "x"); err != nil {
					t.Fatal(err)
				}
				w.delete(space(k) + "/a")
			}
			return
		}
	}
	t.Fatal("none was refused")
}
