package pebblestore_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/runnelhq/runnel/storage"
	"github.com/runnelhq/runnel/storage/pebblestore"
	"github.com/runnelhq/runnel/storage/storagetest"
)

var ctx = context.Background()

// small makes log files and tables come and go within a few hundred commits.
func small(fs vfs.FS) pebblestore.Config {
	return pebblestore.Config{FS: fs, MemTableBytes: 32 << 10, CacheBytes: 1 << 20, Logger: slog.New(slog.DiscardHandler)}
}

func mustOpen(t *testing.T, cfg pebblestore.Config) *pebblestore.Driver {
	t.Helper()
	d, err := pebblestore.Open("data/runnel", cfg)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	return d
}

// writer writes 0, 1, 2 … under keys that sort in that order.
type writer struct {
	p    storage.Partition
	next int          // to be tried
	done atomic.Int64 // acknowledged: all below this
}

func newWriters(n int) []*writer {
	ws := make([]*writer, n)
	for i := range ws {
		ws[i] = &writer{p: storage.Partition{Name: fmt.Sprint("w", i)}}
	}
	return ws
}

func (w *writer) write(d storage.Driver) error {
	var b storage.Batch
	b.Set(fmt.Appendf(nil, "%06d", w.next), []byte("head "), []byte(strings.Repeat("b", 300)))
	if _, err := d.Commit(ctx, w.p, &b); err != nil {
		return err
	}
	w.next++
	w.done.Store(int64(w.next))
	return nil
}

// check says what is wrong with what d holds of the writer, when at least atLeast were acknowledged.
func (w *writer) check(d storage.Driver, atLeast int64) error {
	n := 0
	for kv, err := range d.Scan(ctx, w.p, storage.Range{}) {
		if err != nil {
			return err
		}
		if want := fmt.Sprintf("%06d", n); string(kv.Key) != want || len(kv.Value) != 305 {
			return fmt.Errorf("%s: key %q with %d bytes, want %s", w.p.Name, kv.Key, len(kv.Value), want)
		}
		n++
	}
	if int64(n) < atLeast {
		return fmt.Errorf("%s: %d entries, %d were acknowledged", w.p.Name, n, atLeast)
	}
	return nil
}

func TestConformanceOnMemFS(t *testing.T) {
	storagetest.Run(t, func(*testing.T) storagetest.Open {
		cfg := small(vfs.NewMem())
		return func() (storage.Driver, error) { return pebblestore.Open("data", cfg) }
	})
}

func TestACrashLosesNothingAcknowledged(t *testing.T) {
	for seed := range uint64(3) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			rng := rand.New(rand.NewPCG(seed, 0))
			fs := vfs.NewCrashableMem()
			writers := newWriters(3)
			for range 3 { // generations: each goes on from what the crash before it left
				var crashed []*vfs.MemFS
				var acknowledged [][]int64
				crash := func() {
					// What is acknowledged now must be in every state of the disk from now on.
					var acked []int64
					for _, w := range writers {
						acked = append(acked, w.done.Load())
					}
					cfg := vfs.CrashCloneCfg{UnsyncedDataPercent: 50 * rng.IntN(3), RNG: rng}
					crashed = append(crashed, fs.CrashClone(cfg))
					acknowledged = append(acknowledged, acked)
				}

				d := mustOpen(t, small(fs))
				var wg sync.WaitGroup
				for _, w := range writers {
					wg.Go(func() {
						for range 80 {
							if err := w.write(d); err != nil {
								t.Errorf("Commit: %v", err)
								return
							}
						}
					})
				}
				finished := make(chan struct{})
				go func() { wg.Wait(); close(finished) }()
				for running := true; running && len(crashed) < 12; {
					select {
					case <-finished:
						running = false
					default:
						crash()
					}
				}
				<-finished
				crash()
				if err := d.Close(); err != nil {
					t.Fatal(err)
				}

				for i, disk := range crashed {
					d := mustOpen(t, small(disk))
					for j, w := range writers {
						if err := w.check(d, acknowledged[i][j]); err != nil {
							t.Fatalf("crash %d: %v", i, err)
						}
					}
					if err := d.Close(); err != nil {
						t.Fatal(err)
					}
				}
				fs = crashed[len(crashed)-1]
			}
		})
	}
}

func TestPowerMayFailWhileItOpens(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 0))
	mem := vfs.NewCrashableMem()
	w := newWriters(1)[0]
	for range 3 {
		var mu sync.Mutex // compactions change files too
		var crashed []*vfs.MemFS
		d := mustOpen(t, small(&faultFS{FS: mem, fault: func(string, string) error {
			mu.Lock()
			defer mu.Unlock()
			for range 8 { // the directory entries that were not synced, each kept or lost
				crashed = append(crashed, mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 50, RNG: rng}))
			}
			return nil
		}}))
		before := w.done.Load()
		if err := w.write(d); err != nil {
			t.Fatal(err)
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		for i, disk := range crashed {
			d := mustOpen(t, small(disk))
			if err := w.check(d, before); err != nil {
				t.Fatalf("crash %d: %v", i, err)
			}
			if err := d.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// errDisk is what the disk answers when it fails.
var errDisk = errors.New("input/output error")

// failing returns a file system on fs where operations on files whose base name matches the pattern
// fail, once on is set.
func failing(fs vfs.FS, on *atomic.Bool, pattern string, ops ...string) vfs.FS {
	return &faultFS{FS: fs, fault: func(op, base string) error {
		if match, _ := path.Match(pattern, base); match && on.Load() && slices.Contains(ops, op) {
			return errDisk
		}
		return nil
	}}
}

func TestAfterADiskErrorNothingIsAcknowledgedAndCloseReturns(t *testing.T) {
	for _, test := range []struct{ name, pattern, op string }{
		{"the log cannot be written", "*.log", "write"},
		{"the log cannot be synced", "*.log", "sync"},
		{"the log cannot be closed", "*.log", "close"},
		{"the next log cannot be made", "*.log", "create"},
		{"the next log cannot be looked at", "*.log", "stat"},
		{"the manifest cannot be written", "MANIFEST-*", "write"},
		{"the manifest cannot be synced", "MANIFEST-*", "sync"},
		{"the directory cannot be synced", "runnel", "sync"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			var on atomic.Bool
			mem := vfs.NewCrashableMem()
			d := mustOpen(t, small(failing(mem, &on, test.pattern, test.op)))
			writers := newWriters(4)
			for range 200 { // enough for log files to be recycled
				for _, w := range writers {
					if err := w.write(d); err != nil {
						t.Fatal(err)
					}
				}
			}

			on.Store(true)
			errs := make(chan error, len(writers))
			for _, w := range writers {
				go func() {
					for {
						if err := w.write(d); err != nil {
							errs <- err
							return
						}
					}
				}()
			}
			for range writers {
				if err := <-errs; !errors.Is(err, storage.ErrFailed) || !errors.Is(err, errDisk) {
					t.Fatalf("Commit = %v, want ErrFailed and the disk's error", err)
				}
			}
			on.Store(false) // that the disk works again does not matter
			for _, b := range []*storage.Batch{{}, {Guarded: true}} {
				if _, err := d.Commit(ctx, writers[0].p, b); !errors.Is(err, storage.ErrFailed) {
					t.Fatalf("Commit after the failure = %v, want ErrFailed", err)
				}
			}
			if err := d.Drop(ctx, writers[0].p, storage.Range{}); !errors.Is(err, storage.ErrFailed) {
				t.Fatalf("Drop after the failure = %v, want ErrFailed", err)
			}
			for _, w := range writers {
				if err := w.check(d, w.done.Load()); err != nil {
					t.Fatalf("read after the failure: %v", err)
				}
			}
			if err := d.Close(); !errors.Is(err, storage.ErrFailed) {
				t.Fatalf("Close = %v, want ErrFailed", err)
			}

			// The directory is free, and holds what was acknowledged: as it is, and after a crash.
			disks := []vfs.FS{mem.CrashClone(vfs.CrashCloneCfg{}), mem}
			for _, disk := range disks {
				d := mustOpen(t, small(disk))
				for _, w := range writers {
					if err := w.check(d, w.done.Load()); err != nil {
						t.Fatal(err)
					}
				}
				if err := d.Close(); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

func TestAFailureWhileClosingIsReported(t *testing.T) {
	var on atomic.Bool
	d := mustOpen(t, small(failing(vfs.NewMem(), &on, "*.log", "sync")))
	on.Store(true)
	if err := d.Close(); !errors.Is(err, storage.ErrFailed) {
		t.Fatalf("Close = %v, want ErrFailed", err)
	}
}

func TestATableThatCannotBeWrittenIsWrittenAgain(t *testing.T) {
	var on atomic.Bool
	d := mustOpen(t, small(failing(vfs.NewMem(), &on, "*.sst", "create", "write")))
	w := newWriters(1)[0]
	for i := range 300 {
		on.Store(i > 50 && i < 60)
		if err := w.write(d); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.check(d, 300); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestOpenReportsADiskErrorAndLeavesTheDirectoryFree(t *testing.T) {
	for _, pattern := range []string{"*.log", "MANIFEST-*", "runnel", "data", "temporary.*", "marker.*"} {
		t.Run(strings.Trim(pattern, "*.-"), func(t *testing.T) {
			var on atomic.Bool
			on.Store(true)
			fs := failing(vfs.NewMem(), &on, pattern, "create", "sync", "write")
			if d, err := pebblestore.Open("data/runnel", small(fs)); err == nil {
				_ = d.Close()
				t.Fatal("Open succeeded")
			}
			on.Store(false)
			if err := mustOpen(t, small(fs)).Close(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestOneDriverHasTheDirectory(t *testing.T) {
	dir := t.TempDir()
	d, err := pebblestore.Open(dir, pebblestore.Config{})
	if err != nil {
		t.Fatal(err)
	}
	if second, err := pebblestore.Open(dir, pebblestore.Config{}); err == nil {
		_ = second.Close()
		t.Fatal("a second Open succeeded")
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestACommitWhoseContextEndsIsUnknownAndGoesOn(t *testing.T) {
	for _, guarded := range []bool{false, true} {
		t.Run(fmt.Sprint("guarded ", guarded), func(t *testing.T) {
			mem := vfs.NewMem()
			reached, resume := make(chan struct{}), make(chan struct{})
			var hold atomic.Bool
			fs := &faultFS{FS: mem, fault: func(op, base string) error {
				if path.Ext(base) == ".log" && op == "sync" && hold.CompareAndSwap(true, false) {
					close(reached)
					<-resume
				}
				return nil
			}}
			d := mustOpen(t, small(fs))
			hold.Store(true)

			ctx, cancel := context.WithCancel(context.Background())
			p := storage.Partition{Name: "p"}
			go func() { <-reached; cancel() }()
			b := &storage.Batch{Guarded: guarded}
			b.Set([]byte("key"), nil, []byte("value"))
			if _, err := d.Commit(ctx, p, b); !errors.Is(err, storage.ErrUnknown) || !errors.Is(err, context.Canceled) {
				t.Fatalf("Commit = %v, want ErrUnknown", err)
			}

			// Nobody gets past a guarded commit that is still under way.
			next := make(chan error, 1)
			if guarded {
				go func() {
					_, err := d.Commit(context.Background(), p, &storage.Batch{Guarded: true})
					next <- err
				}()
			} else {
				next <- storage.ErrConflict
			}
			close(resume)
			if err := <-next; !errors.Is(err, storage.ErrConflict) {
				t.Fatalf("the next commit = %v, want ErrConflict", err)
			}
			if err := d.Close(); err != nil {
				t.Fatal(err)
			}
			d = mustOpen(t, small(mem))
			if value, err := d.Get(context.Background(), p, []byte("key")); err != nil || string(value) != "value" {
				t.Fatalf("Get = %q, %v", value, err)
			}
			if err := d.Close(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestANameWithNULIsRefused(t *testing.T) {
	d := mustOpen(t, small(vfs.NewMem()))
	defer d.Close()
	p := storage.Partition{Name: "a\x00b"}
	if _, err := d.Commit(ctx, p, &storage.Batch{}); !errors.Is(err, storage.ErrRefused) {
		t.Fatalf("Commit = %v, want ErrRefused", err)
	}
	if err := d.Drop(ctx, p, storage.Range{}); !errors.Is(err, storage.ErrRefused) {
		t.Fatalf("Drop = %v, want ErrRefused", err)
	}
}

func TestACommitMayBeLargerThanAMemTable(t *testing.T) {
	mem := vfs.NewCrashableMem()
	d := mustOpen(t, small(mem))
	p := storage.Partition{Name: "p"}
	var b storage.Batch
	for i := range 100 {
		b.Set(fmt.Appendf(nil, "%03d", i), nil, make([]byte, 10<<10))
	}
	if _, err := d.Commit(ctx, p, &b); err != nil {
		t.Fatal(err)
	}
	crashed := mustOpen(t, small(mem.CrashClone(vfs.CrashCloneCfg{})))
	n := 0
	for _, err := range crashed.Scan(ctx, p, storage.Range{}) {
		if err != nil {
			t.Fatal(err)
		}
		n++
	}
	if n != 100 {
		t.Fatalf("%d keys after the crash, want 100", n)
	}
	for _, d := range []*pebblestore.Driver{d, crashed} {
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestADropIsDurableWithTheNextCommit(t *testing.T) {
	for name, commit := range map[string]storage.Batch{
		"of something":         {Ops: []storage.Op{{Key: []byte("z")}}},
		"of nothing":           {},
		"of nothing, guarded":  {Guarded: true},
		"to another partition": {Ops: []storage.Op{{Key: []byte("z")}}},
	} {
		t.Run(name, func(t *testing.T) {
			mem := vfs.NewCrashableMem()
			d := mustOpen(t, small(mem))
			defer d.Close()
			p, to := storage.Partition{Name: "p"}, storage.Partition{Name: "p"}
			if name == "to another partition" {
				to.Name = "q"
			}
			var b storage.Batch
			b.Set([]byte("a"), nil, nil)
			if _, err := d.Commit(ctx, p, &b); err != nil {
				t.Fatal(err)
			}
			if err := d.Drop(ctx, p, storage.Range{To: []byte("b")}); err != nil {
				t.Fatal(err)
			}
			if _, err := d.Commit(ctx, to, &commit); err != nil {
				t.Fatal(err)
			}
			crashed := mustOpen(t, small(mem.CrashClone(vfs.CrashCloneCfg{})))
			defer crashed.Close()
			if _, err := crashed.Get(ctx, p, []byte("a")); !errors.Is(err, storage.ErrKeyNotFound) {
				t.Fatalf("Get after the crash = %v, want ErrKeyNotFound", err)
			}
		})
	}
}
