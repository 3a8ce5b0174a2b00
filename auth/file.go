package auth

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"
)

// fileStamp tells one state of a file from another.
type fileStamp struct {
	size    int64
	modTime time.Time
}

// readStamped reads a file, and returns the state that it had at the latest.
func readStamped(path string) ([]byte, fileStamp, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fileStamp{}, err
	}
	data, err := os.ReadFile(path)
	return data, fileStamp{size: info.Size(), modTime: info.ModTime()}, err
}

// differs tells whether a file may have changed since it was read. A clock of files is coarse: what was written
// lately may have changed again at the same time.
func (s fileStamp) differs(info fs.FileInfo) bool {
	return info.Size() != s.size || !info.ModTime().Equal(s.modTime) || time.Since(info.ModTime()) < 3*time.Second
}

// lookInterval is how often a file is looked at.
const lookInterval = time.Second

// watchFile looks at a file now and then until ctx is done, and says once what is wrong.
func watchFile(ctx context.Context, log *slog.Logger, wrong string, look func() error) {
	tick := time.NewTicker(lookInterval)
	defer tick.Stop()
	var said string
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		err := look()
		switch {
		case err == nil:
			said = ""
		case err.Error() != said:
			said = err.Error()
			log.ErrorContext(ctx, wrong, "err", err)
		}
	}
}

// editFile replaces the content of a file by what edit returns. The file is made where it is missing, and whoever
// reads it sees the old or the new one. Edits by several programs come one after the other.
func editFile(path string, edit func([]byte) ([]byte, error)) error {
	unlock, err := lock(path + ".lock")
	if err != nil {
		return err
	}
	return errors.Join(replaceFile(path, edit), unlock())
}

// A lock is held for as long as a small file takes to be written; one that is older was left by a program
// that was killed.
const (
	lockAge  = 10 * time.Second
	lockLook = 10 * time.Millisecond
)

// lock makes a file that is not there yet.
func lock(path string) (unlock func() error, err error) {
	tick := time.NewTicker(lockLook)
	defer tick.Stop()
	for {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err == nil {
			return func() error { return os.Remove(path) }, f.Close()
		}
		if !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
		if info, err := os.Stat(path); err == nil && time.Since(info.ModTime()) > lockAge {
			_ = os.Remove(path) // whoever is first makes it anew
			continue
		}
		<-tick.C
	}
}

func replaceFile(path string, edit func([]byte) ([]byte, error)) (err error) {
	before, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	after, err := edit(before)
	if err != nil {
		return err
	}
	mode := fs.FileMode(0o600)
	if info, err := os.Stat(path); err == nil {
		mode = info.Mode().Perm()
	}
	next, err := os.CreateTemp(filepath.Dir(path), ".tokens-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(next.Name()) // what failed is told
		}
	}()
	_, err = next.Write(after)
	if err = errors.Join(err, next.Chmod(mode), next.Sync(), next.Close()); err != nil {
		return err
	}
	return os.Rename(next.Name(), path)
}
