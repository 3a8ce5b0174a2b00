package pebblestore

import (
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
)

// stop is set once, by the first error that Pebble cannot survive.
type stop struct {
	log  *slog.Logger
	once sync.Once
	ch   chan struct{} // closed when set
	err  error         // valid once ch is closed
}

func newStop(log *slog.Logger) *stop { return &stop{log: log, ch: make(chan struct{})} }

// set keeps the first error and says so in the log.
func (s *stop) set(err error, attrs ...any) {
	s.once.Do(func() {
		s.log.Error("pebblestore: failed, nothing is written any more", append([]any{"error", err}, attrs...)...)
		s.err = err
		close(s.ch)
	})
}

// seal is set without a word in the log, for a database that did not open.
func (s *stop) seal(err error) {
	s.once.Do(func() {
		s.err = err
		close(s.ch)
	})
}

// cause returns nil until the stop is set.
func (s *stop) cause() error {
	select {
	case <-s.ch:
		return s.err
	default:
		return nil
	}
}

// recover sets the stop when Pebble panics: whatever the reason, its locks cannot be trusted any more.
// It must be deferred, on a goroutine that does nothing but call Pebble.
func (s *stop) recover() {
	if r := recover(); r != nil {
		s.set(fmt.Errorf("panic: %v", r), "stack", string(debug.Stack()))
	}
}
