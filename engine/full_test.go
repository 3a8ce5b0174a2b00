package engine_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/engine"
	"github.com/runnelhq/runnel/storage"
	"github.com/runnelhq/runnel/storage/memory"
)

// confined is a driver with little space: it refuses what does not give some back. Those that know how
// much they have say so before they are asked to commit.
type confined struct {
	storage.Driver
	full    atomic.Bool // for all but what gives space back
	reserve atomic.Bool // for that too
	commits atomic.Int64
}

func (d *confined) Full(reserve bool) error {
	if d.reserve.Load() || d.full.Load() && !reserve {
		return &storage.FullError{Free: 5, Keep: 7}
	}
	return nil
}

func (d *confined) Commit(ctx context.Context, p storage.Partition, b *storage.Batch) (storage.Version, error) {
	d.commits.Add(1)
	if err := d.Full(b.Reserve); err != nil {
		return 0, fmt.Errorf("confined: %w", err)
	}
	return d.Driver.Commit(ctx, p, b)
}

// inLittleSpace runs a test over a driver that knows how much space it has, and over one that only finds
// out when it commits.
func inLittleSpace(t *testing.T, test func(t *testing.T, w *world, d *confined)) {
	for _, gauge := range []bool{true, false} {
		t.Run(fmt.Sprint("gauge ", gauge), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, d := inConfinement(t, gauge)
				defer w.Close()
				test(t, w, d)
			})
		})
	}
}

func inConfinement(t *testing.T, gauge bool) (*world, *confined) {
	t.Helper()
	d := &confined{Driver: new(memory.Driver)}
	var driver storage.Driver = d
	if !gauge {
		driver = struct{ storage.Driver }{d}
	}
	e, err := engine.Open(driver, engine.Config{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return &world{Engine: e, t: t}, d
}

// wantFull fails the test unless err says that there is no space, and with which numbers.
func wantFull(t *testing.T, what string, err error) {
	t.Helper()
	full, ok := errors.AsType[*runnel.StorageFullError](err)
	if !ok || full.Free != 5 || full.Keep != 7 || !errors.Is(err, runnel.ErrStorageFull) || !errors.Is(err, runnel.ErrUnavailable) {
		t.Fatalf("%s = %v, want a StorageFullError", what, err)
	}
}

func TestWithoutSpaceWritesAreRefusedAndNothingIsLost(t *testing.T) {
	inLittleSpace(t, func(t *testing.T, w *world, d *confined) {
		w.create("s/a", runnel.CreateOptions{}, "one")
		d.full.Store(true)
		for range 3 {
			_, err := w.Append(ctx, at("s/a"), runnel.AppendOptions{}, records("refused")...)
			wantFull(t, "Append", err)
			_, err = w.tryCreate("s/b", runnel.CreateOptions{}, "refused")
			wantFull(t, "Create", err)
			_, err = w.tryCreate("t/fork", runnel.CreateOptions{Fork: &runnel.ForkFrom{Source: at("s/a"), At: 1}})
			wantFull(t, "fork", err)
			_, err = w.Append(ctx, at("s/a"), runnel.AppendOptions{Close: true})
			wantFull(t, "close", err)
			w.want("s/a", "one")
		}
		// What needs no space is answered as ever.
		if created, err := w.tryCreate("s/a", runnel.CreateOptions{}); err != nil || !created.Existed {
			t.Errorf("creating what is there: %+v, %v", created, err)
		}
		tail := runnel.Sequence(9)
		if _, err := w.Append(ctx, at("s/a"), runnel.AppendOptions{Expect: &tail}, records("x")...); !errors.Is(err, runnel.ErrTailMoved) {
			t.Errorf("a condition that does not hold: %v", err)
		}
		d.full.Store(false)
		w.append("s/a", "two")
		w.create("s/b", runnel.CreateOptions{}, "three")
		w.want("s/a", "one", "two")
		w.want("s/b", "three")
	})
}

func TestARefusedWriteOfAProducerIsStoredOnceWhenItIsRepeated(t *testing.T) {
	inLittleSpace(t, func(t *testing.T, w *world, d *confined) {
		w.create("a", runnel.CreateOptions{})
		write := func(seq uint64, payload string) (runnel.Appended, error) {
			o := runnel.AppendOptions{Producer: &runnel.Producer{ID: "p", Seq: seq}}
			return w.Append(ctx, at("a"), o, records(payload)...)
		}
		if _, err := write(0, "zero"); err != nil {
			t.Fatal(err)
		}
		d.full.Store(true)
		_, err := write(1, "one")
		wantFull(t, "Append", err)
		if got, err := write(0, "zero"); err != nil || !got.Duplicate {
			t.Errorf("a duplicate needs no space: %+v, %v", got, err)
		}
		d.full.Store(false)
		for _, duplicate := range []bool{false, true} {
			if got, err := write(1, "one"); err != nil || got.Duplicate != duplicate {
				t.Errorf("repeated: %+v, %v, want duplicate %v", got, err, duplicate)
			}
		}
		w.want("a", "zero", "one")
	})
}

func TestWithoutSpaceDeletionsPassAndGiveSpaceBack(t *testing.T) {
	inLittleSpace(t, func(t *testing.T, w *world, d *confined) {
		w.create("s/gone", runnel.CreateOptions{}, "a", "b")
		w.create("s/short", runnel.CreateOptions{TTL: time.Hour}, "c")
		w.create("s/bounded", runnel.CreateOptions{Retention: runnel.Retention{Age: time.Hour}}, "d")
		d.full.Store(true)
		if err := w.Delete(ctx, at("s/gone")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Hour) //nolint:forbidigo // in a synctest bubble
		if _, err := w.Stat(ctx, at("s/short")); !errors.Is(err, runnel.ErrNotFound) {
			t.Errorf("what has expired: %v", err)
		}
		time.Sleep(time.Minute) //nolint:forbidigo // in a synctest bubble
		for pair, err := range d.Scan(ctx, storage.Partition{Name: "s"}, storage.Range{}) {
			if err != nil {
				t.Fatal(err)
			}
			if pair.Key[0] == 'e' {
				t.Errorf("a run is still there: %q", pair.Key)
			}
		}
	})
}

func TestADeletionIsNotRefusedForTheCompanyItIsIn(t *testing.T) {
	inLittleSpace(t, func(t *testing.T, w *world, d *confined) {
		const n = 8
		for i := range n {
			w.create(fmt.Sprint("s/gone-", i), runnel.CreateOptions{})
		}
		w.create("s/a", runnel.CreateOptions{}, "one")
		d.full.Store(true)
		var work sync.WaitGroup
		for i := range n {
			work.Go(func() {
				if err := w.Delete(ctx, at(fmt.Sprint("s/gone-", i))); err != nil {
					t.Errorf("Delete = %v", err)
				}
			})
			work.Go(func() {
				_, err := w.Append(ctx, at("s/a"), runnel.AppendOptions{}, records("refused")...)
				if !errors.Is(err, runnel.ErrStorageFull) {
					t.Errorf("Append = %v", err)
				}
			})
		}
		work.Wait()
		w.want("s/a", "one")
	})
}

func TestWithoutAnySpaceAtAllReadsGoOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, d := inConfinement(t, true)
		defer w.Close()
		w.create("s/a", runnel.CreateOptions{TTL: time.Hour}, "one")
		d.full.Store(true)
		d.reserve.Store(true)
		wantFull(t, "Delete", w.Delete(ctx, at("s/a")))
		for range 10 {
			time.Sleep(30 * time.Minute) //nolint:forbidigo // in a synctest bubble
			w.want("s/a", "one")         // and does not expire, although nothing can be written down
		}
		d.reserve.Store(false)
		if err := w.Delete(ctx, at("s/a")); err != nil {
			t.Fatal(err)
		}
	})
}

func TestADriverThatSaysThatItIsFullIsNotAskedToCommit(t *testing.T) {
	w, d := inConfinement(t, true)
	defer w.Close()
	w.create("a", runnel.CreateOptions{})
	d.full.Store(true)
	before := d.commits.Load()
	for range 10 {
		_, err := w.Append(ctx, at("a"), runnel.AppendOptions{}, records("x")...)
		wantFull(t, "Append", err)
	}
	if n := d.commits.Load() - before; n != 0 {
		t.Errorf("%d commits were tried", n)
	}
}
