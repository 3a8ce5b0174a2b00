package pebblestore

import (
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2"
)

// logger is what Pebble reports to.
type logger struct {
	to       *slog.Logger
	stop     *stop
	toldFull atomic.Int64 // when it was said last that there is no space, in nanoseconds
}

func (l *logger) Infof(format string, args ...any) {
	l.to.Debug("pebble: " + fmt.Sprintf(format, args...))
}

func (l *logger) Errorf(format string, args ...any) {
	l.to.Error("pebble: " + fmt.Sprintf(format, args...))
}

// Fatalf must not return. Errors of the disk do not come here, the fence keeps them away; what does is
// Pebble finding its own state impossible. On a goroutine of ours the panic is recovered and the driver
// has failed; on one of Pebble's own it ends the process, which is what Pebble asks for.
func (l *logger) Fatalf(format string, args ...any) {
	err := fmt.Errorf("pebble: "+format, args...)
	l.stop.set(err, "stack", string(debug.Stack()))
	panic(err)
}

// fullSilence is for how long it is not said again that background work finds no space.
const fullSilence = time.Minute

// background is told of work that failed and is tried again, over and over where there is no space.
func (l *logger) background(err error) {
	switch {
	case errors.Is(err, errNoRoom):
		l.to.Debug("pebblestore: a compaction waits for space") // which room has spoken of
		return
	case errors.Is(err, syscall.ENOSPC):
		now, told := time.Now().UnixNano(), l.toldFull.Load()
		if now-told < int64(fullSilence) || !l.toldFull.CompareAndSwap(told, now) {
			return
		}
	}
	l.to.Error("pebblestore: background work failed and will be tried again", "error", err)
}

// events names the events that an operator should hear of.
func (l *logger) events() *pebble.EventListener {
	return &pebble.EventListener{
		BackgroundError: l.background,
		// Pebble's own answer to a damaged block is to end the process. The read that met it gets the
		// error; all else goes on.
		DataCorruption: func(info pebble.DataCorruptionInfo) {
			l.to.Error("pebblestore: data is damaged", "detail", info.String())
		},
		DiskSlow: func(info pebble.DiskSlowInfo) {
			l.to.Warn("pebblestore: the disk is slow", "detail", info.String())
		},
		LowDiskSpace: func(info pebble.LowDiskSpaceInfo) {
			l.to.Warn("pebblestore: the disk is nearly full", "detail", info.String())
		},
		WriteStallBegin: func(info pebble.WriteStallBeginInfo) {
			l.to.Warn("pebblestore: writes wait for background work", "reason", info.Reason)
		},
		WriteStallEnd: func() { l.to.Warn("pebblestore: writes go on") },
	}
}
