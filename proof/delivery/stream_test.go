package delivery

import (
	"sync"

	"github.com/runnelhq/runnel"
)

// streamConfig says what is done to a stream in a run.
type streamConfig struct {
	keepCount int  // entries that retention keeps; 0: all
	keepBytes int  // bytes that retention keeps; 0: all
	mortal    bool // it is deleted and created again
	closes    bool // it is closed before the end of the run
	large     bool // it has entries of more than 128 KiB, and of more than 1 MiB
}

// stream is a name, and the lives that it has had.
type stream struct {
	name   string
	kind   kind
	config streamConfig

	// writing is held for reading by whoever appends, and for writing by whoever ends a life, so that no
	// append of one life ends up in the next one.
	writing sync.RWMutex

	mu    sync.Mutex
	lives []*life
}

func (s *stream) addr() runnel.Segment {
	addr, err := runnel.ParsePath(runnel.Store{}, s.name)
	if err != nil {
		panic(err)
	}
	return addr
}

func (s *stream) add(l *life) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l.index = len(s.lives)
	s.lives = append(s.lives, l)
}

// now is the life that there may be; nil if there is none for certain.
func (s *stream) now() *life {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.lives) == 0 {
		return nil
	}
	l := s.lives[len(s.lives)-1]
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.gone {
		return nil
	}
	return l
}

// snapshot is what is known of a stream when a request begins.
type snapshot struct {
	since   int   // the index of the first life that may answer
	live    *life // the life that is there for certain; nil if that is not known
	floor   int   // entries that it has
	dropped int   // entries of it that are gone
}

func (s *stream) snapshot() snapshot {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.lives) == 0 {
		return snapshot{}
	}
	l := s.lives[len(s.lives)-1]
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.gone:
		return snapshot{since: l.index + 1}
	case !l.created || l.ending:
		return snapshot{since: l.index}
	}
	return snapshot{since: l.index, live: l, floor: l.known, dropped: l.dropped()}
}

// candidates are the lives that may answer a request that began at a snapshot.
func (s *stream) candidates(since int) []*life {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lives[min(since, len(s.lives)):len(s.lives):len(s.lives)]
}
