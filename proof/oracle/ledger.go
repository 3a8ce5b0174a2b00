package oracle

import (
	"fmt"
	"math"
	"sync"
)

// Ledger is what is known of a log from the outside: one for each run. The zero value is ready. Its methods
// and those of its operations may be called concurrently.
type Ledger struct {
	mu      sync.Mutex
	clock   int
	streams map[string]*stream
}

// stream is what is known of a name, over all of its lives.
type stream struct {
	path    string
	entries map[string]*entry
	order   []*entry // as they were begun
	places  map[int]*entry
	creates []*Operation
	closes  []*Operation
	deletes []*Operation
	exists  int // when it was last found to exist
	gone    int // when it was last found not to
	ends    int // how many entries there were when it was found to be closed, if endSeen
	endSeen int // when that was; 0: never
	expires bool
	readers map[string]*reader
	found   []Violation // by readers, and by answers
}

// entry is one payload.
type entry struct {
	payload string
	op      *Operation
	place   int  // -1: not known
	seen    bool // by a reader, or by a check; else the place is only what an answer said
}

type outcome int

const (
	open         outcome = iota // under way
	unknown                     // the client does not know
	acknowledged                // or found to have happened
	refused                     // or found not to have happened
	absent                      // unknown, and then not found
	present                     // unknown, and then found
)

// Operation is a write that a client sends: an append, a creation, a close or a deletion. After Begin one
// of its methods says how it ended.
type Operation struct {
	l        *Ledger
	s        *stream
	what     string
	entries  []*entry
	begun    int
	finished int
	outcome  outcome
}

// forever is the end of what may still happen.
const forever = math.MaxInt

// end is the latest time at which the operation may have taken effect.
func (o *Operation) end() int {
	if o.outcome == open || o.outcome == unknown {
		return forever
	}
	return o.finished
}

// happened tells whether the operation has happened, or may have, or may yet.
func (o *Operation) happened() bool { return o.outcome != refused && o.outcome != absent }

// Begin is called before an append is sent. Several payloads are one append, which is written as a whole or
// not at all.
func (l *Ledger) Begin(path string, payloads ...string) *Operation {
	return l.begin(path, "append", payloads, nil)
}

// BeginCreate is called before a creation is sent. The payloads are what the stream begins with: those of
// the request's body, or what a fork inherits.
func (l *Ledger) BeginCreate(path string, payloads ...string) *Operation {
	return l.begin(path, "create", payloads, func(s *stream) *[]*Operation { return &s.creates })
}

// BeginClose is called before a close is sent, which may bring the last payloads. A stream that is created
// closed has a creation and a close.
func (l *Ledger) BeginClose(path string, payloads ...string) *Operation {
	return l.begin(path, "close", payloads, func(s *stream) *[]*Operation { return &s.closes })
}

// BeginDelete is called before a deletion is sent.
func (l *Ledger) BeginDelete(path string) *Operation {
	return l.begin(path, "delete", nil, func(s *stream) *[]*Operation { return &s.deletes })
}

func (l *Ledger) begin(path, what string, payloads []string, list func(*stream) *[]*Operation) *Operation {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.stream(path)
	o := &Operation{l: l, s: s, what: what, begun: l.tick()}
	for _, p := range payloads {
		if s.entries[p] != nil {
			panic(fmt.Sprintf("oracle: the payload %.40q is used twice in %s", p, path))
		}
		e := &entry{payload: p, op: o, place: -1}
		s.entries[p] = e
		s.order = append(s.order, e)
		o.entries = append(o.entries, e)
	}
	if list != nil {
		ops := list(s)
		*ops = append(*ops, o)
	}
	return o
}

// Expires says that a stream may end by itself, at any time from now on: it has a TTL for instance.
func (l *Ledger) Expires(path string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stream(path).expires = true
}

// Acknowledged says that the client was told that it happened.
func (o *Operation) Acknowledged() { o.finish(acknowledged) }

// AcknowledgedAt says also how many entries the client was told the stream has with it.
func (o *Operation) AcknowledgedAt(tail int) {
	o.l.mu.Lock()
	for i, e := range o.entries {
		place := tail - len(o.entries) + i
		if e.place >= 0 && e.place != place {
			o.s.violated(ToldPlace, "%s: %.60q was seen at %d, and its answer says %d", o.s.path, e.payload, e.place, place)
		}
		e.place = place
	}
	o.l.mu.Unlock()
	o.finish(acknowledged)
}

// Refused says that the client was told that it did not happen. It does not hold for an operation that was
// sent before with an unknown outcome, unless the refusal speaks of that too.
func (o *Operation) Refused() { o.finish(refused) }

// Unknown says that the client does not know. The operation may still happen.
func (o *Operation) Unknown() { o.finish(unknown) }

// Again says that an operation that can be repeated without harm is about to be sent once more.
func (o *Operation) Again() { o.finish(open) }

func (o *Operation) finish(as outcome) {
	o.l.mu.Lock()
	defer o.l.mu.Unlock()
	o.outcome, o.finished = as, o.l.tick()
	if as == refused {
		for _, e := range o.entries {
			if e.seen {
				o.s.violated(NoRefused, "%s: %.60q was refused, and had been seen at %d", o.s.path, e.payload, e.place)
			}
		}
	}
}

// Settled returns how an operation of unknown outcome turned out, once a check has told, or false.
func (o *Operation) Settled() (happened, known bool) {
	o.l.mu.Lock()
	defer o.l.mu.Unlock()
	return o.outcome == present, o.outcome == present || o.outcome == absent
}

// Violations returns what readers and answers have violated so far, on any path. Check returns that of its
// path too.
func (l *Ledger) Violations() []Violation {
	l.mu.Lock()
	defer l.mu.Unlock()
	var all []Violation
	for _, s := range l.streams {
		all = append(all, s.found...)
	}
	return all
}

// Paths returns the paths of all streams that the ledger has heard of, in no order.
func (l *Ledger) Paths() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var paths []string
	for path := range l.streams {
		paths = append(paths, path)
	}
	return paths
}

func (l *Ledger) tick() int {
	l.clock++
	return l.clock
}

func (l *Ledger) stream(path string) *stream {
	if l.streams == nil {
		l.streams = make(map[string]*stream)
	}
	s := l.streams[path]
	if s == nil {
		s = &stream{
			path:    path,
			entries: make(map[string]*entry),
			places:  make(map[int]*entry),
			readers: make(map[string]*reader),
		}
		l.streams[path] = s
	}
	return s
}

func (s *stream) violated(invariant, format string, args ...any) {
	s.found = append(s.found, Violation{invariant, fmt.Sprintf(format, args...)})
}

// lastDelete returns the latest time at which the stream may have ended.
func (s *stream) lastDelete() int {
	if s.expires {
		return forever
	}
	last := 0
	for _, d := range s.deletes {
		if d.happened() {
			last = max(last, d.end())
		}
	}
	return last
}

// surelyDeleted returns the latest time after which the stream was certainly deleted, or found to be gone, 0
// for never: what ended before it is gone.
func (s *stream) surelyDeleted() int {
	last := s.gone
	for _, d := range s.deletes {
		if d.outcome == acknowledged {
			last = max(last, d.begun)
		}
	}
	return last
}
