package pebblestore_test

import (
	"log/slog"
	"path"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/runnelhq/runnel/storage"
	"github.com/runnelhq/runnel/storage/pebblestore"
)

// watchedLog counts the syncs of log files, and those of them that find the file larger than the last one.
type watchedLog struct {
	faultFS
	syncs, grown int
	size         int64
}

func watchLog(mem *vfs.MemFS) *watchedLog {
	w := new(watchedLog)
	w.FS = mem
	w.fault = func(op, base string) error {
		if op != "sync" || path.Ext(base) != ".log" {
			return nil
		}
		w.syncs++
		if info, err := mem.Stat(path.Join("data/runnel", base)); err == nil && info.Size() > w.size {
			w.grown++
			w.size = info.Size()
		}
		return nil
	}
	return w
}

func TestHardlyASyncOfTheLogFindsItGrown(t *testing.T) {
	const commits = 1000
	log := watchLog(vfs.NewMem())
	d := mustOpen(t, pebblestore.Config{FS: log, KeepFreeBytes: -1, Logger: slog.New(slog.DiscardHandler)})
	w := &writer{p: storage.Partition{Name: "a"}}
	for range commits {
		if err := w.write(d); err != nil {
			t.Fatal(err)
		}
	}
	closed(t, d)
	if log.syncs < commits || log.grown > commits/100 {
		t.Errorf("%d of %d syncs found the log grown", log.grown, log.syncs)
	}
}

func TestALogThatCannotBeFilledAheadIsWrittenAllTheSame(t *testing.T) {
	mem := vfs.NewCrashableMem()
	fs := &faultFS{FS: mem, fault: func(op, _ string) error {
		if op == "write at" {
			return syscall.EIO
		}
		return nil
	}}
	d := mustOpen(t, small(fs))
	defer closed(t, d)
	w := &writer{p: storage.Partition{Name: "a"}}
	for range 1000 {
		if err := w.write(d); err != nil {
			t.Fatal(err)
		}
	}
	crashed := mustOpen(t, small(mem.CrashClone(vfs.CrashCloneCfg{})))
	defer closed(t, crashed)
	if err := w.check(crashed, w.done.Load()); err != nil {
		t.Error(err)
	}
}
