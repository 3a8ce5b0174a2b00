package pebblestore_test

import (
	"path"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// faultFS asks before each operation that changes a file, or looks at one that was opened to be
// changed, whether it fails. Pebble's errorfs does not see log files that are written over, nor closing.
type faultFS struct {
	vfs.FS
	// fault returns the error of an operation on the file with this base name; nil to let it happen.
	fault func(op, base string) error
}

func (f *faultFS) file(op, name string, open func() (vfs.File, error)) (vfs.File, error) {
	if err := f.fault(op, path.Base(name)); err != nil {
		return nil, err
	}
	file, err := open()
	if err != nil {
		return nil, err
	}
	return &faultFile{File: file, fs: f, base: path.Base(name)}, nil
}

func (f *faultFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return f.file("create", name, func() (vfs.File, error) { return f.FS.Create(name, c) })
}

func (f *faultFS) ReuseForWrite(oldname, newname string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return f.file("create", newname, func() (vfs.File, error) { return f.FS.ReuseForWrite(oldname, newname, c) })
}

func (f *faultFS) OpenDir(name string) (vfs.File, error) {
	return f.file("open", name, func() (vfs.File, error) { return f.FS.OpenDir(name) })
}

func (f *faultFS) Rename(oldname, newname string) error {
	if err := f.fault("rename", path.Base(newname)); err != nil {
		return err
	}
	return f.FS.Rename(oldname, newname)
}

func (f *faultFS) Unwrap() vfs.FS { return f.FS }

type faultFile struct {
	vfs.File
	fs   *faultFS
	base string
}

func (f *faultFile) Write(p []byte) (int, error) {
	if err := f.fs.fault("write", f.base); err != nil {
		return 0, err
	}
	return f.File.Write(p)
}

func (f *faultFile) WriteAt(p []byte, off int64) (int, error) {
	if err := f.fs.fault("write at", f.base); err != nil {
		return 0, err
	}
	return f.File.WriteAt(p, off)
}

func (f *faultFile) Sync() error {
	if err := f.fs.fault("sync", f.base); err != nil {
		return err
	}
	return f.File.Sync()
}

func (f *faultFile) SyncData() error {
	if err := f.fs.fault("sync", f.base); err != nil {
		return err
	}
	return f.File.SyncData()
}

func (f *faultFile) SyncTo(length int64) (bool, error) {
	if err := f.fs.fault("sync", f.base); err != nil {
		return false, err
	}
	return f.File.SyncTo(length)
}

func (f *faultFile) Stat() (vfs.FileInfo, error) {
	if err := f.fs.fault("stat", f.base); err != nil {
		return nil, err
	}
	return f.File.Stat()
}

func (f *faultFile) Close() error {
	if err := f.fs.fault("close", f.base); err != nil {
		return err
	}
	return f.File.Close()
}
