package crash

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"path"
	"strings"
	"sync/atomic"
	"time"

	"github.com/runnelhq/runnel/storage/pebblestore"
)

// fault is a way in which the disk fails from some moment on, until power has failed too.
type fault struct {
	what string
	// op and on say which changes fail, and err with what.
	op  string
	on  func(name string) bool
	err error
	// survived says that the system goes on: it does the same again, elsewhere. Such a fault goes away.
	survived bool
	// slow says that changes do not fail, but take long.
	slow bool
}

// What a disk answers when it fails.
var (
	errIO      = errors.New("input/output error")
	errNoSpace = errors.New("no space left on device")
)

var faults = []fault{
	{what: "syncs of the log fail", op: "sync", on: isLog, err: errIO},
	{what: "writes to the log fail", op: "write", on: isLog, err: errIO},
	{what: "there is no space for the log", op: "write", on: isLog, err: errNoSpace},
	{what: "logs cannot be begun", op: "create", on: isLog, err: errNoSpace},
	{what: "logs cannot be closed", op: "close", on: isLog, err: errIO},
	{what: "syncs of the log are slow", op: "sync", on: isLog, slow: true},
	{what: "writes to the manifest fail", op: "write", on: isManifest, err: errIO},
	{what: "there is no space for the manifest", op: "write", on: isManifest, err: errNoSpace},
	{what: "syncs of the manifest fail", op: "sync", on: isManifest, err: errIO},
	{what: "syncs of the directory fail", op: "sync directory", on: isAny, err: errIO},
	{what: "files cannot be renamed", op: "rename", on: isAny, err: errIO},
	{what: "markers cannot be made", op: "create", on: isMarker, err: errNoSpace},
	{what: "files cannot be removed", op: "remove", on: isAny, err: errIO, survived: true},
	{what: "tables cannot be made", op: "create", on: isTable, err: errNoSpace, survived: true},
	{what: "tables cannot be written", op: "write", on: isTable, err: errIO, survived: true},
	{what: "syncs of tables fail", op: "sync", on: isTable, err: errIO, survived: true},
	{what: "tables cannot be closed", op: "close", on: isTable, err: errIO, survived: true},
}

func isAny(string) bool           { return true }
func isLog(name string) bool      { return path.Ext(name) == ".log" }
func isTable(name string) bool    { return path.Ext(name) == ".sst" }
func isManifest(name string) bool { return strings.HasPrefix(path.Base(name), "MANIFEST-") }
func isMarker(name string) bool   { return strings.HasPrefix(path.Base(name), "marker.") }

// onDisk lets changes of the disk fail after so many that could, and tells how many have failed.
func (f *fault) onDisk(d *disk, cover *coverage, when string, after int) *atomic.Int64 {
	failed, left := new(atomic.Int64), new(atomic.Int64)
	left.Store(1 << 30)
	if f.survived {
		left.Store(3)
	}
	var seen atomic.Int64
	d.setFault(func(op, name string) error {
		if op != f.op || !f.on(name) || seen.Add(1) <= int64(after) || left.Add(-1) < 0 {
			return nil
		}
		if failed.Add(1) == 1 {
			cover.hit(when + f.what)
		}
		return fmt.Errorf("%s %s: %w", op, name, f.err)
	})
	return failed
}

// openBroken lets the disk fail while the database is opened. It says so, or opens well; either way power
// fails afterwards. Pebble, whose goroutines then stand still while they hold locks, is left behind outside of
// the bubble.
func (s *sim) openBroken(r *rand.Rand, cfg pebblestore.Config) {
	f := &faults[r.IntN(len(faults))]
	if f.slow {
		return
	}
	s.note("while it starts, %s", f.what)
	failed := f.onDisk(s.disk, s.cover, "disk at a start: ", r.IntN(3))
	s.disk.arm(1 << 40)
	var err error
	s.outside <- func() {
		var d *pebblestore.Driver
		if d, err = pebblestore.Open("data", cfg); err == nil {
			_ = d.Close() // whether that failed is of no interest: power fails
		}
	}
	s.outside <- func() {} // which is taken when the other is done
	s.disk.setFault(nil)
	s.check(alwaysOpens, err == nil || failed.Load() > 0, "%v", err)
	if err != nil {
		s.cover.hit("a disk that failed during a restart was told of")
		s.note("it does not start")
	}
}

// breakDisk makes the disk fail from now on.
func (s *sim) breakDisk(r *rand.Rand) {
	if s.broken || s.armed {
		return
	}
	f := &faults[r.IntN(len(faults))]
	for r.IntN(3) == 0 && !f.slow { // the only one that harms nothing
		f = &faults[r.IntN(len(faults))]
	}
	s.note("from now on %s", f.what)
	if f.slow {
		s.disk.setSlow(time.Duration(1+r.IntN(1<<(3+r.IntN(10))))*time.Millisecond, func() { s.cover.hit("disk: " + f.what) })
		return
	}
	s.armed, s.stuck = !f.survived, true
	s.heavy = 8 // so that tables are written, and another log is begun
	f.onDisk(s.disk, s.cover, "disk: ", r.IntN(3))
}
