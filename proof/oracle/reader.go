package oracle

// reader is one reader of one stream.
type reader struct {
	attached int // before its request was sent
	placed   bool
	next     int
}

// Attach says that a reader is about to ask for a stream anew, from any place. Without it the reader is
// taken to begin with the first thing it sees. Readers of a name that is deleted and created again attach
// with every request, because an offset does not say of which life it is.
func (l *Ledger) Attach(name, path string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stream(path).readers[name] = &reader{attached: l.tick()}
}

// Saw says that a reader received entries, the first of which has from entries before it. A reader goes on
// where it left off, over as many connections as it takes.
func (l *Ledger) Saw(name, path string, from int, payloads ...string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.stream(path)
	r := l.goesOn(s, name, from)
	for i, p := range payloads {
		l.saw(s, r, name, from+i, p)
	}
	r.next = from + len(payloads)
}

// SawClosed says that a reader was told that nothing follows the first at entries.
func (l *Ledger) SawClosed(name, path string, at int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.stream(path)
	r := l.goesOn(s, name, at)
	if s.endSeen > s.lastDelete() && s.ends != at {
		s.violated(NothingAfterClose, "%s: %s sees it closed at %d, it was closed at %d", s.path, name, at, s.ends)
	}
	if s.closedByNobody() {
		s.violated(NoForeign, "%s: %s sees it closed, and nobody closed it", s.path, name)
	}
	if r.attached > s.lastDelete() { // else it may speak of an earlier life
		s.ends, s.endSeen = at, r.attached
	}
}

// goesOn returns the reader, which is at a place now.
func (l *Ledger) goesOn(s *stream, name string, from int) *reader {
	r := s.readers[name]
	if r == nil {
		r = &reader{attached: l.tick()}
		s.readers[name] = r
	}
	switch {
	case !r.placed:
	case from > r.next:
		s.violated(GaplessReader, "%s: %s goes on at %d, it was at %d", s.path, name, from, r.next)
	case from < r.next:
		s.violated(GaplessReader, "%s: %s is given %d again, it was at %d", s.path, name, from, r.next)
	}
	r.placed, r.next = true, from
	return r
}

func (l *Ledger) saw(s *stream, r *reader, name string, place int, payload string) {
	e := s.entries[payload]
	switch {
	case e == nil:
		s.violated(NoForeign, "%s: %s sees %.60q at %d", s.path, name, payload, place)
		return
	case e.op.outcome == refused:
		s.violated(NoRefused, "%s: %s sees %.60q at %d", s.path, name, payload, place)
	case e.op.outcome == absent:
		s.violated(StaysFound, "%s: %s sees %.60q at %d, which was not there before", s.path, name, payload, place)
	case e.place >= 0 && e.place != place && e.seen:
		s.violated(StoredOnce, "%s: %s sees %.60q at %d, it was seen at %d", s.path, name, payload, place, e.place)
	case e.place >= 0 && e.place != place:
		s.violated(ToldPlace, "%s: %s sees %.60q at %d, its answer said %d", s.path, name, payload, place, e.place)
	case s.endSeen > s.lastDelete() && place >= s.ends:
		s.violated(NothingAfterClose, "%s: %s sees %.60q at %d, it was closed at %d", s.path, name, payload, place, s.ends)
	case l.old(s, e, r):
		s.violated(NoOldByte, "%s: %s sees %.60q at %d, which was deleted before it asked", s.path, name, payload, place)
	}
	was := s.places[place]
	if was != nil && was != e {
		if !s.apart(was.op, e.op) {
			s.violated(OneContent, "%s: %s sees %.60q at %d, where %.60q was seen", s.path, name, payload, place, was.payload)
		}
		if was.op.begun > e.op.begun {
			e.place, e.seen = place, true
			return
		}
	}
	s.places[place] = e
	e.place, e.seen = place, true
}

// old tells whether an entry was certainly deleted before the reader asked.
func (l *Ledger) old(s *stream, e *entry, r *reader) bool {
	for _, d := range s.deletes {
		if d.outcome == acknowledged && e.op.end() < d.begun && d.finished < r.attached {
			return true
		}
	}
	return false
}

// apart tells whether two operations may be of different lives of the name.
func (s *stream) apart(a, b *Operation) bool {
	if s.expires {
		return true
	}
	for _, d := range s.deletes {
		if d.happened() && (d.end() > a.begun && b.end() > d.begun || d.end() > b.begun && a.end() > d.begun) {
			return true
		}
	}
	return false
}
