package session

import (
	"io"
	"sync"

	"github.com/runnelhq/runnel/session/internal/pb"
)

// sendBytes is how much a sender gathers before whoever sends has to wait.
const sendBytes = 64 << 10

// sender writes responses. What comes while a write is under way is gathered and goes with the next one,
// so that many small responses take few writes, and none waits.
type sender struct {
	w io.Writer

	mu      sync.Mutex
	changed sync.Cond
	next    []byte // gathered
	spare   []byte
	writing bool
	err     error
}

func newSender(w io.Writer) *sender {
	s := &sender{w: w}
	s.changed.L = &s.mu
	return s
}

// send takes a response, of which nothing is kept. It fails when the stream has ended.
func (s *sender) send(m *pb.Response) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.writing && len(s.next) >= sendBytes && s.err == nil {
		s.changed.Wait()
	}
	if s.err != nil {
		return s.err
	}
	var err error
	if s.next, err = appendMessage(s.next, m); err != nil {
		s.err = err
		return err
	}
	if !s.writing {
		s.writing = true
		go s.write()
	}
	return nil
}

// write writes what is gathered until there is nothing.
func (s *sender) write() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.next) > 0 && s.err == nil {
		out := s.next
		s.next = s.spare[:0]
		s.changed.Broadcast()
		s.mu.Unlock()
		_, err := s.w.Write(out)
		s.mu.Lock()
		s.err = err
		if s.spare = out; cap(out) > 8*sendBytes {
			s.spare = nil
		}
	}
	s.writing = false
	s.changed.Broadcast()
}

// end sends the last response, and returns when everything is written.
func (s *sender) end(m *pb.Response) {
	s.mu.Lock()
	for s.writing {
		s.changed.Wait()
	}
	if s.err != nil {
		s.mu.Unlock()
		return
	}
	out, err := appendMessage(s.next, m)
	s.mu.Unlock()
	if err == nil {
		_, _ = s.w.Write(out) // a client that has gone need not be told
	}
}
