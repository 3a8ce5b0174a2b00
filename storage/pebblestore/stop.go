package pebblestore

import (
	"log/slog"
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
		s.log.Error("pebblestore: failed; nothing is committed any more", append([]any{"error", err}, attrs...)...)
		s.err = err
		close(s.ch)
	})
}

// seal stops a database that never opened, which Open reports.
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
