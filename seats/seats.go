// Package seats bounds how many connections there are at a time, in all and of one caller.
//
// Whoever is to be served for long takes a seat first, and gives it back at the end. Ways in that share the same
// [Seats] share its bounds.
package seats

import (
	"fmt"
	"sync"
	"time"

	"github.com/runnelhq/runnel/wire"
)

// RetryAfter is when it is worth it to try again where all seats were taken.
const RetryAfter = 5 * time.Second

// Config says how many seats there are.
type Config struct {
	// What names those who sit, in the plural, such as "sessions". Empty means "connections".
	What string
	// Max is how many seats there are. More are refused with 503. 0 or less means any number.
	Max int
	// MaxEach is how many of them one caller may have. More are refused with 429. 0 or less means any number.
	MaxEach int
}

// Seats counts connections. It may be used by several goroutines. Make one with [New]; nil has a seat for
// everybody.
type Seats struct {
	cfg Config

	mu    sync.Mutex
	taken int
	of    map[string]int // by caller
}

// New returns seats of which none is taken.
func New(cfg Config) *Seats {
	if cfg.What == "" {
		cfg.What = "connections"
	}
	return &Seats{cfg: cfg, of: make(map[string]int)}
}

// Take takes a seat for a caller, and returns what gives it back, which is to be called once. An empty name is
// nobody who is known, for whom only Max counts. Where no seat is left the error is a [*wire.Error], which says
// which bound it was and how many it allows.
func (s *Seats) Take(caller string) (giveBack func(), err error) {
	if s == nil {
		return func() {}, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch most, each := s.cfg.Max, s.cfg.MaxEach; {
	case most > 0 && s.taken >= most:
		f := wire.Unavailable(wire.CodeUnavailable, fmt.Sprintf("the server has %d %s, which is its limit", most, s.cfg.What), RetryAfter)
		f.Detail.Limit = int64(most)
		return nil, f
	case each > 0 && caller != "" && s.of[caller] >= each:
		return nil, wire.TooMany(fmt.Sprintf("%.200q has %d %s, which is the limit for one caller", caller, each, s.cfg.What), int64(each), RetryAfter)
	}
	s.taken++
	if caller != "" {
		s.of[caller]++
	}
	return func() { s.giveBack(caller) }, nil
}

func (s *Seats) giveBack(caller string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.taken--
	if caller == "" {
		return
	}
	if s.of[caller]--; s.of[caller] == 0 {
		delete(s.of, caller)
	}
}
