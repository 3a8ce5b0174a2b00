package chaos

import "sync"

// streams are those of a workload, with their content types: active ones, which are checked after every
// round, and those that are done with, of which a few are checked again and in the end all.
type streams struct {
	mu     sync.Mutex
	active map[string]string
	done   map[string]string
}

func (s *streams) add(path, contentType string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.active == nil {
		s.active, s.done = make(map[string]string), make(map[string]string)
	}
	s.active[path] = contentType
}

// retire says that nothing more is written to a stream.
func (s *streams) retire(path string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if contentType, ok := s.active[path]; ok {
		s.done[path] = contentType
		delete(s.active, path)
	}
}

// check verifies the active streams, and of the others so many.
func (s *streams) check(w *world, others int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for path, contentType := range s.active {
		w.verify(path, contentType)
	}
	for path, contentType := range s.done { // in no order
		if others--; others < 0 {
			return
		}
		w.verify(path, contentType)
	}
}
