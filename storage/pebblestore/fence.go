package pebblestore

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// fence is the file system that Pebble works on. Reads pass. The first change that fails, and that
// Pebble could not survive, sets the stop; from then on no change reaches the files, and no goroutine
// that attempts one ever returns.
//
// Returning the error is not an option. When a log file cannot be closed or created Pebble panics
// without the mutex that a deferred call then unlocks, which the runtime answers by ending the process;
// when the manifest cannot be synced, a later edit may follow one that is not on disk. Nor can Close end these
// goroutines: ending one runs the same deferred calls. So what they hold stays in memory until the process ends.
type fence struct {
	vfs.FS
	stop *stop
	room *room
	fill int64 // how far a log is filled ahead at a time, in bytes

	// changes is held shared by every change under way, and taken by drain.
	changes sync.RWMutex

	mu   sync.Mutex
	lock io.Closer // the directory's; nil when it is not held
}

// drain waits for the changes under way. It must be called after the stop, so that no other follows.
func (f *fence) drain() {
	f.changes.Lock()
	f.changes.Unlock() //nolint:staticcheck // an empty critical section is the point
}

// change runs op, which changes what name names, unless everything has stopped.
func (f *fence) change(name, verb string, op func() error) error {
	f.changes.RLock()
	if f.stop.cause() == nil {
		err := op()
		if err == nil || survivable(name) {
			f.changes.RUnlock()
			f.pause(err)
			return err
		}
		f.stop.set(fmt.Errorf("%s %s: %w", verb, name, explain(err)))
	}
	f.changes.RUnlock()
	select {}
}

// fullPause is how long a table for which there is no space waits until Pebble is told. Pebble tries
// again at once, and may have written much by the time it finds that there is still none.
const fullPause = 5 * time.Second

// pause waits for space to come if err says that there is none.
func (f *fence) pause(err error) {
	if !errors.Is(err, syscall.ENOSPC) {
		return
	}
	select {
	case <-time.After(fullPause):
	case <-f.room.closing:
	case <-f.stop.ch:
	}
}

// explain says what to do about an error of the disk, where that is known.
func explain(err error) error {
	if errors.Is(err, syscall.ENOSPC) {
		return fmt.Errorf("%w: the disk is full; nothing is lost, make space and start again", err)
	}
	return err
}

// survivable tells whether Pebble recovers from errors on a file: on tables, whose content it still
// has elsewhere and which it writes again under another name.
func survivable(name string) bool {
	switch path.Ext(name) {
	case ".sst", ".blob":
		return true
	}
	return false
}

// create runs op, which makes or opens a file for writing.
func (f *fence) create(name, verb string, category vfs.DiskWriteCategory, op func() (vfs.File, error)) (vfs.File, error) {
	var file vfs.File
	compaction := compacts(category)
	err := f.change(name, verb, func() (err error) {
		if compaction {
			if err := f.room.compact(0); err != nil {
				return err
			}
		}
		file, err = op()
		return err
	})
	if err != nil {
		return nil, err
	}
	fenced := &fencedFile{File: file, fence: f, name: name, compaction: compaction}
	if isLog(name) {
		return newLogFile(fenced), nil
	}
	return fenced, nil
}

// compacts tells whether a file of the category is written by a compaction.
func compacts(category vfs.DiskWriteCategory) bool {
	return category == "pebble-compaction" || category == "pebble-blob-file-rewrite"
}

// Create syncs the directory before it makes a marker. A marker names another file, of which Pebble has
// not seen to it that its entry in the directory is kept (cockroachdb/pebble#5825), and without which
// the database cannot be opened.
func (f *fence) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	return f.create(name, "create", category, func() (vfs.File, error) {
		if strings.HasPrefix(path.Base(name), "marker.") {
			if err := syncDir(f.FS, path.Dir(name)); err != nil {
				return nil, err
			}
		}
		return f.FS.Create(name, category)
	})
}

func syncDir(fs vfs.FS, name string) error {
	dir, err := fs.OpenDir(name)
	if err != nil {
		return err
	}
	if err := dir.Sync(); err != nil {
		_ = dir.Close() // the sync's error is the one that counts
		return err
	}
	return dir.Close()
}

func (f *fence) OpenReadWrite(name string, category vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	return f.create(name, "open", category, func() (vfs.File, error) { return f.FS.OpenReadWrite(name, category, opts...) })
}

func (f *fence) ReuseForWrite(oldname, newname string, category vfs.DiskWriteCategory) (vfs.File, error) {
	return f.create(newname, "reuse", category, func() (vfs.File, error) { return f.FS.ReuseForWrite(oldname, newname, category) })
}

// OpenDir wraps the directory because syncing it is a change.
func (f *fence) OpenDir(name string) (vfs.File, error) {
	file, err := f.FS.OpenDir(name)
	if err != nil {
		return nil, err
	}
	return &fencedFile{File: file, fence: f, name: name}, nil
}

func (f *fence) Link(oldname, newname string) error {
	return f.change(newname, "link", func() error { return f.FS.Link(oldname, newname) })
}

func (f *fence) Rename(oldname, newname string) error {
	return f.change(newname, "rename", func() error { return f.FS.Rename(oldname, newname) })
}

func (f *fence) MkdirAll(dir string, perm os.FileMode) error {
	return f.change(dir, "mkdir", func() error { return f.FS.MkdirAll(dir, perm) })
}

// Remove and RemoveAll never set the stop: a file that stays too long does no harm.

func (f *fence) Remove(name string) error { return f.remove(name, f.FS.Remove) }

func (f *fence) RemoveAll(name string) error { return f.remove(name, f.FS.RemoveAll) }

func (f *fence) remove(name string, op func(string) error) (err error) {
	_ = f.change(name, "remove", func() error {
		err = op(name)
		return nil
	})
	return err
}

// Lock keeps hold of the lock on the directory, so that it can be given up without Pebble.
func (f *fence) Lock(name string) (io.Closer, error) {
	c, err := f.FS.Lock(name)
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lock = c
	return closerFunc(f.unlock), nil
}

// unlock gives up the lock on the directory. Calling it again does nothing.
func (f *fence) unlock() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.lock == nil {
		return nil
	}
	c := f.lock
	f.lock = nil
	return c.Close()
}

// Unwrap returns the file system below, as vfs.Root asks.
func (f *fence) Unwrap() vfs.FS { return f.FS }

type closerFunc func() error

func (c closerFunc) Close() error { return c() }

// fencedFile is a file that was opened to be changed. The methods that it inherits only read or advise.
type fencedFile struct {
	vfs.File
	fence      *fence
	name       string
	compaction bool
}

func (f *fencedFile) Write(p []byte) (n int, err error) {
	err = f.fence.change(f.name, "write", func() (err error) {
		if f.compaction {
			if err := f.fence.room.compact(len(p)); err != nil {
				return err
			}
		}
		n, err = f.File.Write(p)
		if survivable(f.name) {
			f.fence.room.wrote(n)
		}
		return err
	})
	return n, err
}

// Preallocate sets nothing aside of what is to be kept free. Log files are given somewhat more than a
// memtable when they are made, whatever they will hold.
func (f *fencedFile) Preallocate(offset, length int64) error {
	if !f.fence.room.spare(length) {
		return nil
	}
	return f.File.Preallocate(offset, length)
}

func (f *fencedFile) WriteAt(p []byte, off int64) (n int, err error) {
	err = f.fence.change(f.name, "write", func() (err error) {
		n, err = f.File.WriteAt(p, off)
		return err
	})
	return n, err
}

func (f *fencedFile) Sync() error { return f.fence.change(f.name, "sync", f.File.Sync) }

func (f *fencedFile) SyncData() error { return f.fence.change(f.name, "sync", f.File.SyncData) }

func (f *fencedFile) SyncTo(length int64) (full bool, err error) {
	err = f.fence.change(f.name, "sync", func() (err error) {
		full, err = f.File.SyncTo(length)
		return err
	})
	return full, err
}

// Stat is here although it only reads: on a log file that is about to be written over, Pebble ends the
// process when it fails.
func (f *fencedFile) Stat() (info vfs.FileInfo, err error) {
	err = f.fence.change(f.name, "stat", func() (err error) {
		info, err = f.File.Stat()
		return err
	})
	return info, err
}

func (f *fencedFile) Close() error { return f.fence.change(f.name, "close", f.File.Close) }
