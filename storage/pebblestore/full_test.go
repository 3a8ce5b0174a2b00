package pebblestore_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"path"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/runnelhq/runnel/storage"
	"github.com/runnelhq/runnel/storage/pebblestore"
)

// disk is a file system of a certain size, which the database in data/runnel shares with others.
type disk struct {
	faultFS
	mem    *vfs.MemFS
	size   int64
	others atomic.Int64 // bytes that other programs take
}

func newDisk(mem *vfs.MemFS, size int64) *disk {
	d := &disk{mem: mem, size: size}
	d.FS = mem
	d.fault = func(op, _ string) error {
		if op == "write" && d.free() <= 0 {
			return syscall.ENOSPC
		}
		return nil
	}
	return d
}

func (d *disk) free() int64 {
	free := d.size - d.others.Load()
	names, err := d.mem.List("data/runnel")
	if err != nil {
		return free
	}
	for _, name := range names {
		if info, err := d.mem.Stat(path.Join("data/runnel", name)); err == nil {
			free -= info.Size()
		}
	}
	return free
}

func (d *disk) GetDiskUsage(string) (vfs.DiskUsage, error) {
	free := uint64(max(d.free(), 0))
	return vfs.DiskUsage{AvailBytes: free, TotalBytes: uint64(d.size), UsedBytes: uint64(d.size) - free}, nil
}

// lines counts the lines of a log that contain a text.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.b.String(), text)
}

// onDisk is the configuration of a small database that keeps 1 MiB free.
func onDisk(d *disk) (pebblestore.Config, *lines) {
	log := new(lines)
	cfg := small(d)
	cfg.KeepFreeBytes = 1 << 20
	cfg.Logger = slog.New(slog.NewTextHandler(log, nil))
	return cfg, log
}

// fill writes until that is refused.
func (w *writer) fill(t *testing.T, d storage.Driver) *storage.FullError {
	t.Helper()
	for range 100_000 {
		if err := w.write(d); err != nil {
			full, ok := errors.AsType[*storage.FullError](err)
			if !ok || !errors.Is(err, storage.ErrFull) || errors.Is(err, storage.ErrRefused) {
				t.Fatalf("Commit = %v, want a FullError", err)
			}
			return full
		}
	}
	t.Fatal("the disk was never full")
	return nil
}

// remove removes everything that the writer has written, in a batch that gives space back.
func (w *writer) remove(d storage.Driver) error {
	if err := d.Drop(ctx, w.p, storage.Range{From: []byte("000001")}); err != nil {
		return err
	}
	b := storage.Batch{Reserve: true}
	b.Delete([]byte("000000"))
	_, err := d.Commit(ctx, w.p, &b)
	return err
}

func closed(t *testing.T, d *pebblestore.Driver) {
	t.Helper()
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestWritesAreRefusedBeforeTheDiskIsFullAndTakenAgainOnceThereIsSpace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := newDisk(vfs.NewCrashableMem(), 6<<20)
		cfg, log := onDisk(disk)
		d := mustOpen(t, cfg)
		defer closed(t, d)
		w, other := &writer{p: storage.Partition{Name: "a"}}, &writer{p: storage.Partition{Name: "b"}}
		if err := d.Full(false); err != nil {
			t.Fatalf("Full = %v on an empty disk", err)
		}
		full := w.fill(t, d)
		if full.Free-full.Need >= full.Keep || full.Keep < 1<<20 || disk.free() < 1<<19 {
			t.Errorf("refused with %+v, really free are %d", full, disk.free())
		}
		for range 100 {
			_ = other.fill(t, d)
		}
		if err := d.Full(false); !errors.Is(err, storage.ErrFull) {
			t.Errorf("Full = %v, want ErrFull", err)
		}
		if err := d.Full(true); err != nil {
			t.Errorf("Full(reserve) = %v, want what gives space back to be taken", err)
		}
		if err := w.check(d, w.done.Load()); err != nil {
			t.Errorf("read while it is full: %v", err)
		}
		if n := log.count("nearly full"); n != 1 {
			t.Errorf("it was said %d times that the disk is nearly full", n)
		}

		if err := w.remove(d); err != nil {
			t.Fatalf("removing while it is full: %v", err)
		}
		time.Sleep(5 * time.Second) //nolint:forbidigo // in a synctest bubble: in which the background work makes space
		if err := d.Full(false); err != nil {
			t.Errorf("Full = %v after everything was removed", err)
		}
		if err := other.write(d); err != nil {
			t.Errorf("Commit = %v after everything was removed", err)
		}
		if n := log.count("writes are taken"); n != 1 {
			t.Errorf("it was said %d times that writes are taken again", n)
		}
	})
}

func TestAFullDiskSurvivesACrashAndServesReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		before := newDisk(vfs.NewCrashableMem(), 4<<20)
		cfg, _ := onDisk(before)
		d := mustOpen(t, cfg)
		defer closed(t, d)
		w := &writer{p: storage.Partition{Name: "a"}}
		_ = w.fill(t, d)

		disk := newDisk(before.mem.CrashClone(vfs.CrashCloneCfg{}), before.size)
		disk.others.Store(disk.free() - 1<<19) // less than is to be kept free
		cfg, log := onDisk(disk)
		crashed := mustOpen(t, cfg)
		defer closed(t, crashed)
		if err := w.check(crashed, w.done.Load()); err != nil {
			t.Error(err)
		}
		_ = w.fill(t, crashed)
		if n := log.count("nearly full"); n != 1 {
			t.Errorf("it was said %d times that the disk is nearly full", n)
		}
		disk.others.Store(-disk.size) // twice as much space as there was
		time.Sleep(time.Second)       //nolint:forbidigo // in a synctest bubble: the guard looks again
		if err := w.write(crashed); err != nil {
			t.Errorf("Commit = %v although there is space", err)
		}
	})
}

func TestWhatGivesSpaceBackIsRefusedLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := newDisk(vfs.NewMem(), 8<<20)
		cfg, _ := onDisk(disk)
		d := mustOpen(t, cfg)
		defer closed(t, d)
		w := &writer{p: storage.Partition{Name: "a"}}
		if err := w.write(d); err != nil {
			t.Fatal(err)
		}
		for _, test := range []struct {
			free             int64
			writes, reserves bool
		}{
			{4 << 20, true, true},
			{1 << 20, false, true},
			{1 << 17, false, true},
			{1 << 15, false, false},
			{1 << 20, false, true},
			{17 << 16, false, true}, // not the eighth more
			{5 << 18, true, true},
		} {
			disk.others.Add(disk.free() - test.free)
			time.Sleep(time.Second) //nolint:forbidigo // in a synctest bubble: the guard looks again
			_, err := d.Commit(ctx, w.p, &storage.Batch{})
			if (err == nil) != test.writes || err != nil && !errors.Is(err, storage.ErrFull) {
				t.Errorf("%d bytes are free: Commit = %v", test.free, err)
			}
			if err := d.Full(false); (err == nil) != test.writes {
				t.Errorf("%d bytes are free: Full = %v", test.free, err)
			}
			_, err = d.Commit(ctx, w.p, &storage.Batch{Reserve: true})
			if (err == nil) != test.reserves || err != nil && !errors.Is(err, storage.ErrFull) {
				t.Errorf("%d bytes are free: Commit of the reserve = %v", test.free, err)
			}
			if err := d.Drop(ctx, w.p, storage.Range{From: []byte("z")}); (err == nil) != test.reserves {
				t.Errorf("%d bytes are free: Drop = %v", test.free, err)
			}
			if err := d.Full(true); (err == nil) != test.reserves {
				t.Errorf("%d bytes are free: Full of the reserve = %v", test.free, err)
			}
		}
	})
}

func TestABatchThatWouldNotFitIsRefusedAloneAndWithItsNeed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := newDisk(vfs.NewMem(), 8<<20)
		cfg, log := onDisk(disk)
		d := mustOpen(t, cfg)
		defer closed(t, d)
		var large storage.Batch
		large.Set([]byte("k"), nil, make([]byte, 4<<20))
		_, err := d.Commit(ctx, storage.Partition{Name: "a"}, &large)
		full, ok := errors.AsType[*storage.FullError](err)
		if !ok || full.Keep != 1<<20 || full.Need < 8<<20 || full.Free < 7<<20 {
			t.Errorf("Commit = %v", err)
		}
		if err := d.Full(false); err != nil || log.count("nearly full") != 0 {
			t.Errorf("Full = %v after one batch that was too large", err)
		}
		if err := newWriters(1)[0].write(d); err != nil {
			t.Errorf("a small one: %v", err)
		}
	})
}

func TestManyWritersTogetherDoNotPassTheLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := newDisk(vfs.NewMem(), 8<<20)
		cfg, _ := onDisk(disk)
		d := mustOpen(t, cfg)
		defer closed(t, d)
		var wg sync.WaitGroup
		for i := range 32 {
			wg.Go(func() {
				var b storage.Batch
				b.Set([]byte("k"), nil, make([]byte, 1<<19))
				_, err := d.Commit(ctx, storage.Partition{Name: fmt.Sprint(i)}, &b)
				if err != nil && !errors.Is(err, storage.ErrFull) {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if free := disk.free(); free < 1<<19 {
			t.Errorf("%d bytes are free", free)
		}
	})
}

func TestWithNothingKeptFreeTheDiskItselfStopsTheLog(t *testing.T) {
	disk := newDisk(vfs.NewCrashableMem(), 2<<20)
	cfg, log := onDisk(disk)
	cfg.KeepFreeBytes, cfg.MemTableBytes = -1, 4<<20 // so that the log meets it first
	d := mustOpen(t, cfg)
	w := &writer{p: storage.Partition{Name: "a"}}
	var err error
	for err == nil {
		err = w.write(d)
	}
	if !errors.Is(err, storage.ErrFailed) || !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "make space and start again") {
		t.Errorf("Commit = %v", err)
	}
	if err := w.check(d, w.done.Load()); err != nil {
		t.Errorf("read after the failure: %v", err)
	}
	if err := d.Close(); !errors.Is(err, storage.ErrFailed) {
		t.Errorf("Close = %v", err)
	}
	if n := log.count("will be tried again"); n > 1 {
		t.Errorf("%d lines about background work without space", n)
	}

	// It opens after space was made, from what a crash leaves as well.
	for _, mem := range []*vfs.MemFS{disk.mem.CrashClone(vfs.CrashCloneCfg{}), disk.mem} {
		larger := newDisk(mem, 8<<20)
		d := mustOpen(t, small(larger))
		if err := w.check(d, w.done.Load()); err != nil {
			t.Error(err)
		}
		closed(t, d)
	}
}

func TestATrickleOfSmallRemovalsMakesSpaceToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := newDisk(vfs.NewMem(), 6<<20)
		cfg, _ := onDisk(disk)
		cfg.KeepFreeBytes = 4 << 20 // enough for a compaction of everything: there is only one level so far
		d := mustOpen(t, cfg)
		defer closed(t, d)
		w := &writer{p: storage.Partition{Name: "a"}}
		_ = w.fill(t, d)
		pauses := 0
		for i := range w.next {
			b := storage.Batch{Reserve: true}
			b.Delete(fmt.Appendf(nil, "%06d", i))
			_, err := d.Commit(ctx, w.p, &b)
			for ; errors.Is(err, storage.ErrFull) && pauses < 30; pauses++ {
				time.Sleep(time.Second) //nolint:forbidigo // in a synctest bubble: the background work has yet to keep up
				_, err = d.Commit(ctx, w.p, &b)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(2 * time.Minute) //nolint:forbidigo // in a synctest bubble: the guard looks again
		if err := d.Full(false); err != nil {
			t.Errorf("Full = %v after everything was removed", err)
		}
	})
}
