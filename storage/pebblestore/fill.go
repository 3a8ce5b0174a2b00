package pebblestore

import "path"

// fillBytes is how far a log file is filled ahead at a time, where a memtable, and so a log, is not smaller.
const fillBytes = 256 << 10

var zeros [fillBytes]byte

// logFile is a write-ahead log that is filled with zeros ahead of what is written to it.
//
// A sync of a file that has grown, or of blocks that were only set aside, has to write the journal of the
// file system, too. One of blocks that have been written before takes about two thirds of the time. Pebble
// writes over old logs for that reason, as soon as it has any. It reads a log up to the first record that is
// none, which zeros are as well as what is left of an older log.
type logFile struct {
	*fencedFile
	at     int64 // where the next write goes
	filled int64 // how far the file is filled; never less than at
}

func isLog(name string) bool { return path.Ext(name) == ".log" }

// newLogFile returns a file that is about to be written from its beginning. One that is written over is
// filled as far as it goes.
func newLogFile(file *fencedFile) *logFile {
	f := &logFile{fencedFile: file}
	if info, err := file.File.Stat(); err == nil {
		f.filled = info.Size()
	}
	return f
}

func (f *logFile) Write(p []byte) (n int, err error) {
	for f.filled < f.at+int64(len(p)) {
		f.fill()
	}
	n, err = f.fencedFile.Write(p)
	f.at += int64(n)
	return n, err
}

// fill fills a step more. Where that fails, or would take from what is to be kept free, the file grows over
// this step with what is written.
func (f *logFile) fill() {
	from, n := f.filled, f.fence.fill
	f.filled += n
	if !f.fence.room.spare(n) {
		return
	}
	_ = f.fence.change(f.name, "fill", func() error {
		_, _ = f.File.WriteAt(zeros[:n], from)
		return nil
	})
}
