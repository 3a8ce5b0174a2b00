package pebblestore

import (
	"fmt"
	"log/slog"
	"math"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/runnelhq/runnel/storage"
)

const (
	// lookEvery is for how long what the file system said about its free space is believed.
	lookEvery = 100 * time.Millisecond
	// lookBytes is how much may be written meanwhile.
	lookBytes = 8 << 20
)

// room keeps the write-ahead log from meeting a full disk, which it does not survive: it has batches
// refused while there is still space to be kept free. Who asks for more is given less:
//
//	keep         batches
//	keep/8       compactions, which need space before they give any back
//	keep/16      batches with Batch.Reserve
//	nothing      tables made of memtables, the log itself, the manifest
//
// Once batches have been refused there must be an eighth more before they are taken again, so that it
// does not go back and forth.
//
// The free space is looked at now and then, while batches are refused by itself, and what was written
// since is subtracted. What a batch may take is subtracted while it is under way; nobody knows how much
// of it a look has seen.
type room struct {
	fs   vfs.FS
	dir  string
	keep int64 // 0: whatever there is
	log  *slog.Logger

	// state is what Full tells, at the last look.
	state atomic.Pointer[roomState]

	closing chan struct{} // closed by close

	mu      sync.Mutex
	looked  time.Time
	free    int64 // at the last look
	written int64 // since then
	pending int64 // batches under way
	waiting bool  // to look again
	closed  bool
}

// roomState is what is refused, and with which numbers; nil is taken.
type roomState struct{ all, reserve *storage.FullError }

// newRoom returns the room in a directory, which need not be there yet. Zero bytes to keep take part in
// nothing.
func newRoom(fs vfs.FS, dir string, keep int64, log *slog.Logger) *room {
	r := &room{fs: fs, dir: dir, keep: keep, log: log, free: math.MaxInt64, closing: make(chan struct{})}
	r.state.Store(new(roomState))
	return r
}

func (r *room) resume() int64  { return r.keep + r.keep/8 }
func (r *room) reserve() int64 { return r.keep / 16 }

// take lets a batch that may take so many bytes begin, or returns a *storage.FullError. The caller
// settles what was taken.
func (r *room) take(need int64, reserve bool) error {
	if r.keep == 0 {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.fits(need, func() int64 { return r.limit(reserve) }) {
		r.judge(true)
		return &storage.FullError{Free: max(r.left(), 0), Keep: r.limit(reserve), Need: need}
	}
	r.pending += need
	return nil
}

// settle ends what take began. Half of what the batch may take has been written, to the log; the other
// half, a table, is subtracted when it is.
func (r *room) settle(need int64) {
	if r.keep == 0 {
		return
	}
	r.mu.Lock()
	r.pending -= need
	r.written += need / 2
	r.mu.Unlock()
}

// wrote subtracts what was written to a table.
func (r *room) wrote(n int) {
	if r.keep == 0 {
		return
	}
	r.mu.Lock()
	r.written += int64(n)
	r.mu.Unlock()
}

// errNoRoom is what a compaction gets to see as an error of the disk. It gives up, and with it the space
// that it has taken so far.
var errNoRoom = fmt.Errorf("pebblestore: too little space is left for a compaction: %w", syscall.ENOSPC)

// compact refuses a compaction that would write n more bytes.
func (r *room) compact(n int) error {
	if r.keep == 0 {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.fits(int64(n), func() int64 { return r.keep / 8 }) {
		return errNoRoom
	}
	return nil
}

// spare tells whether n bytes are there besides those to be kept free, and subtracts them.
func (r *room) spare(n int64) bool {
	if r.keep == 0 {
		return true
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.look()
	if r.left()-n < r.resume() {
		return false
	}
	r.written += n
	return true
}

// scarce tells whether batches are being refused.
func (r *room) scarce() bool { return r.state.Load().all != nil }

// full answers for Driver.Full.
func (r *room) full(reserve bool) error {
	state := r.state.Load()
	why := state.all
	if reserve {
		why = state.reserve
	}
	if why == nil {
		return nil
	}
	return why
}

// open looks for the first time.
func (r *room) open() {
	if r.keep > 0 {
		r.again()
	}
}

// again looks.
func (r *room) again() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.waiting = false
	if !r.closed {
		r.look()
	}
}

// close ends looking.
func (r *room) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.closed {
		r.closed = true
		close(r.closing)
	}
}

// left estimates what is free now, all batches under way subtracted.
func (r *room) left() int64 { return r.free - r.written - r.pending }

func (r *room) limit(reserve bool) int64 {
	switch {
	case reserve:
		return r.reserve()
	case r.scarce():
		return r.resume()
	}
	return r.keep
}

// fits tells whether keep bytes stay free when n more are taken. It looks before it says no, unless
// nothing was written since the last look.
func (r *room) fits(n int64, keep func() int64) bool {
	if r.written >= lookBytes || time.Since(r.looked) >= lookEvery {
		r.look()
	}
	if r.left()-n < keep() && r.written > 0 {
		r.look()
	}
	return r.left()-n >= keep()
}

// look asks the file system. Where it does not answer the last answer counts on, and before there was
// one nothing is refused: the log is then stopped by the disk itself.
func (r *room) look() {
	usage, err := r.fs.GetDiskUsage(r.dir)
	r.looked = time.Now()
	r.free -= r.written
	if err == nil {
		r.free = int64(min(usage.AvailBytes, math.MaxInt64))
	}
	r.written = 0
	r.judge(false)
}

// judge brings the state up to date, and says in the log when it changes. That a batch was refused makes
// the difference where there is about as much space as is kept.
func (r *room) judge(refused bool) {
	before, next := r.state.Load(), new(roomState)
	free := r.free - r.written
	if free < r.keep || free < r.resume() && (refused || before.all != nil) {
		next.all = &storage.FullError{Free: max(free, 0), Keep: r.resume()}
	}
	if free < r.reserve() {
		next.reserve = &storage.FullError{Free: max(free, 0), Keep: r.reserve()}
	}
	if *next == *before {
		return
	}
	r.state.Store(next)
	if next.all != nil && !r.waiting && !r.closed {
		r.waiting = true
		time.AfterFunc(lookEvery, r.again)
	}
	switch {
	case next.all != nil && before.all == nil:
		r.log.Error("pebblestore: the disk is nearly full; writes are refused, reads and deletes go on",
			"free", max(free, 0), "keep", r.keep, "resume", r.resume())
	case next.all == nil && before.all != nil:
		r.log.Warn("pebblestore: there is space on the disk again; writes are taken", "free", free, "keep", r.keep)
	}
}
