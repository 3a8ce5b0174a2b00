package crash

import (
	"math/rand/v2"
	"sync/atomic"
	"time"
)

// The wall clock is not the clock that sleeps and timers go by: it is set, back and forth, also between two
// generations. While it is behind where it has been, nobody but the log can say what time an entry gets,
// because what the log does by itself, such as a trim, takes a place and a time too.

// wall is the wall clock.
type wall struct {
	offset atomic.Int64 // nanoseconds; read by the engine's goroutines
	latest time.Time    // that it has ever shown
}

// moment is a time as far as the model can know it: the log takes it for one from at through latest.
type moment struct{ at, latest time.Time }

// last is the moment taken for the latest that it may be.
func (m moment) last() moment { return moment{m.latest, m.latest} }

// start is when every bubble begins.
func start() time.Time { return time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC) }

// read is the clock as the engine reads it.
func (w *wall) read() time.Time {
	return time.Now().UTC().Round(0).Add(time.Duration(w.offset.Load()))
}

func (s *sim) now() moment {
	at := s.wall.read()
	if at.After(s.wall.latest) {
		s.wall.latest = at
	}
	return moment{at, s.wall.latest}
}

// behind is by how much the clock has been set back and not come forward since.
func (s *sim) behind() time.Duration {
	now := s.now()
	return now.latest.Sub(now.at)
}

// setClock sets the wall clock.
func (s *sim) setClock(r *rand.Rand) {
	s.now() // notes how far it has come
	d := []time.Duration{time.Millisecond, time.Second, 10 * time.Second, 2 * time.Minute}[min(r.IntN(8), 3)]
	d = time.Duration(1+r.IntN(int(d/time.Millisecond))) * time.Millisecond
	if r.IntN(3) > 0 {
		d = -d
		s.cover.hit("the clock was set back")
	} else {
		s.jumped = true
	}
	s.wall.offset.Add(int64(d))
	s.note("the clock is set by %v, to %v", d, s.now().at.Sub(start()))
	s.mayKeepAlive()
}

// setClockOver may set the clock between two generations. What memory alone knew of the last use of a
// segment is then taken for no later than the time to which the clock was set.
func (s *sim) setClockOver(r *rand.Rand) {
	if r.IntN(4) == 0 {
		s.setClock(r)
	}
	now := s.now()
	if !now.at.Before(now.latest) {
		return
	}
	s.cover.hit("the clock was behind at a restart")
	for _, h := range s.spaces {
		for _, st := range h.states() {
			for _, sg := range st {
				if now.at.Before(sg.low) {
					sg.low = now.at
				}
				sg.sure, sg.waited = sg.low, time.Time{}
			}
		}
	}
}

// catchUp lets time pass until the clock is not behind any more, where the model needs to know the time.
func (s *sim) catchUp() {
	for d := s.behind(); d > 0; d = s.behind() { // power may fail meanwhile, and the clock be set again
		s.cover.hit("the clock caught up")
		s.pass(d)
	}
}
