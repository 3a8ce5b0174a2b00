package pebblestore

import (
	"cmp"
	"log/slog"
	"runtime"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/vfs"
)

const (
	// DefaultCacheBytes is the default of Config.CacheBytes.
	DefaultCacheBytes = 32 << 20
	// DefaultMemTableBytes is the default of Config.MemTableBytes.
	DefaultMemTableBytes = 32 << 20
	// DefaultMaxOpenFiles is the default of Config.MaxOpenFiles.
	DefaultMaxOpenFiles = 1000

	// memTablesKeptFree is the default of Config.KeepFreeBytes in memtables.
	memTablesKeptFree = 8
	// mostKeptFree leaves room for calculating: no disk is as large.
	mostKeptFree = 1 << 60
)

// Config holds what an operator may want to choose. The zero Config is right for most servers.
type Config struct {
	// FS is where the files are. Nil is the operating system's file system, watched for slow
	// operations. Tests pass vfs.NewCrashableMem().
	FS vfs.FS

	// CacheBytes bounds the memory for blocks read from tables, together with the memtables in use.
	// 0 means DefaultCacheBytes.
	CacheBytes int64

	// MemTableBytes is how much is written before a table is made of it. Larger values write less in
	// all and take longer to recover; up to four memtables exist while writes are faster than the
	// disk. Write-ahead log files are about as large, and up to six stay on disk, most of them to be
	// written over, until the database is opened again. 0 means DefaultMemTableBytes.
	MemTableBytes int

	// Compress makes tables smaller, about by half where they hold text, and slower to read back, to
	// about a third. False leaves payloads as they are: a reader that catches up is then served at the
	// speed of the page cache, without a large cache of Pebble's own.
	Compress bool

	// MaxOpenFiles bounds the table files that are kept open. 0 means DefaultMaxOpenFiles.
	MaxOpenFiles int

	// MaxCompactions is how many compactions may run at a time when one alone falls behind. 0 means
	// half the processors that Go may use, and at least 2.
	MaxCompactions int

	// KeepFreeBytes is how much of the file system is kept free. Commit refuses what would leave less with
	// ErrFull, and takes it again once there is an eighth more; batches with Batch.Reserve are taken down
	// to a sixteenth. 0 means 8 times MemTableBytes: up to four memtables have yet to be written out when
	// the last batch is taken, and as much is left for compactions, which need space before they give any
	// back, and for the log. With less it is more likely that a disk which is really full stops the log
	// for good. Negative keeps nothing free.
	KeepFreeBytes int64

	// Logger is told about failures and stalls, and at debug level about what Pebble does in the
	// background. Nil means slog.Default.
	Logger *slog.Logger
}

func (c Config) withDefaults() Config {
	c.CacheBytes = cmp.Or(c.CacheBytes, DefaultCacheBytes)
	c.MemTableBytes = cmp.Or(c.MemTableBytes, DefaultMemTableBytes)
	c.MaxOpenFiles = cmp.Or(c.MaxOpenFiles, DefaultMaxOpenFiles)
	c.MaxCompactions = cmp.Or(c.MaxCompactions, max(2, runtime.GOMAXPROCS(0)/2))
	c.KeepFreeBytes = cmp.Or(c.KeepFreeBytes, memTablesKeptFree*int64(c.MemTableBytes))
	c.KeepFreeBytes = min(max(c.KeepFreeBytes, 0), mostKeptFree)
	c.Logger = cmp.Or(c.Logger, slog.Default())
	return c
}

// options returns what Pebble is opened with, except for FS. c has its defaults.
func (c Config) options(stop *stop) *pebble.Options {
	log := &logger{to: c.Logger, stop: stop}
	o := &pebble.Options{
		// The newest, by its name: a newer Pebble must not upgrade a directory, which cannot be undone,
		// before somebody has decided so.
		FormatMajorVersion: pebble.FormatValueSeparation,
		Logger:             log,
		EventListener:      log.events(),

		CacheSize:    c.CacheBytes,
		MaxOpenFiles: c.MaxOpenFiles,
		MemTableSize: uint64(c.MemTableBytes),

		// Two more than the default: a burst of writes is taken in at the speed of the log while a
		// memtable is written out. It also bounds the log files that are kept to be written over.
		MemTableStopWritesThreshold: 4,

		// Level 0 holds what a log just wrote, in key order within each partition. It is compacted
		// early, because reads pay for each sublevel, and stops writes late, because a stop is felt by
		// every writer at once.
		L0CompactionThreshold: 2,
		L0StopWritesThreshold: 64,
		LBaseMaxBytes:         64 << 20,

		CompactionConcurrencyRange: func() (int, int) { return 1, c.MaxCompactions },

		// A dropped range gives its space back only after it has left the memtable.
		FlushDelayDeleteRange: flushDelay,

		// Tables that compactions have replaced are removed at a bounded rate, because some disks stall
		// syncs while they discard.
		TargetByteDeletionRate: 128 << 20,
	}
	for i := range o.Levels {
		l := &o.Levels[i]
		// Values are runs of entries, often around 10 KiB: a few of them to a block keep the index
		// small and still let one entry be read without much around it.
		l.BlockSize = 32 << 10
		l.IndexBlockSize = 256 << 10
		// Also on the last level, where most keys are: looking for keys that are not there, producers
		// and items above all, is a common read.
		l.FilterPolicy = bloom.FilterPolicy(10)
	}
	compression := pebble.DBCompressionNone
	if c.Compress {
		compression = pebble.DBCompressionFastest
	}
	o.ApplyCompressionSettings(func() pebble.DBCompressionSettings { return compression })
	return o
}
