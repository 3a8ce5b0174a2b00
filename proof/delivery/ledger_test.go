package delivery

import (
	"fmt"
	"sync"
)

// The invariants, as the output names them.
const (
	noGap       = "a reader gets every entry, once and in order"
	noMixing    = "a reader gets entries of its own stream and life only"
	noTorn      = "payloads arrive whole"
	begunFirst  = "no entry is shown before its append was begun, or after it was refused"
	keptOut     = "what retention dropped, or a deletion ended, is not shown again"
	sameOrder   = "all readers see one order, which is that of the acknowledgements"
	readsWrites = "a read shows all that was acknowledged, or seen by anybody, before it began"
	exactOffset = "an offset stands for exactly the data before it"
	upToDate    = "up-to-date is said at the tail only, and always there"
	closedOnce  = "the end of a closed stream is told once, after its last byte"
	exactCut    = "a reader that retention has overtaken is told the earliest entry kept"
	exactEnd    = "a stream that is there is found, and one that is not is not"
	noHang      = "every reader arrives"
	protocol    = "answers are as the protocol has them"
)

// violation is what ends a run.
type violation struct{ invariant, text string }

func (v *violation) Error() string { return v.invariant + ": " + v.text }

func violated(invariant, format string, args ...any) error {
	return &violation{invariant, fmt.Sprintf(format, args...)}
}

// ledger knows all lives of all streams. Safe for concurrent use.
type ledger struct {
	mu    sync.Mutex
	lives []*life
}

// life is one life of a name, from its creation to its deletion, as far as clients know it.
type life struct {
	id     int
	index  int // among the lives of the stream
	stream *stream
	source *life // that this one was forked from; nil if none
	base   int   // entries inherited from it
	config streamConfig

	mu       sync.Mutex
	created  bool // somebody was told that it is there
	ending   bool // a deletion was begun
	gone     bool // and acknowledged
	closing  bool // a close was begun
	closedAt int  // the last entry of a closed life, as it was told first; -1
	appends  []*appending
	at       []int // the append, counted from 1, that is at each place after base
	begun    int   // entries of appends that may be there
	known    int   // up to here there are entries for certain
	cut      int   // the most that retention was told to have dropped
}

// appending is an append that was begun.
type appending struct {
	first   int // sequence of the first entry; 0 while nobody knows
	sizes   []int
	after   int // that was known when it was begun
	refused bool
}

func (g *ledger) birth(s *stream, source *life, base int, c streamConfig) *life {
	g.mu.Lock()
	defer g.mu.Unlock()
	l := &life{id: len(g.lives), stream: s, source: source, base: base, config: c, closedAt: -1, begun: base, known: base}
	g.lives = append(g.lives, l)
	return l
}

// begin notes an append of entries of these sizes that is about to be sent.
func (l *life) begin(count int) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.appends = append(l.appends, &appending{sizes: make([]int, count), after: l.known})
	l.begun += count
	return len(l.appends) - 1
}

func (l *life) sized(app int, payloads [][]byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range payloads {
		l.appends[app].sizes[i] = len(payloads[i])
	}
}

// acknowledged notes that an append was answered with the tail after it.
func (l *life) acknowledged(app, tail int) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.place(app, tail-len(l.appends[app].sizes)+1)
}

func (l *life) refused(app int) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.appends[app]
	a.refused = true
	l.begun -= len(a.sizes)
	if a.first > 0 {
		return violated(begunFirst, "append %d of %s was refused and was seen at %d", app, l, a.first)
	}
	return nil
}

// place notes where an append begins. The caller holds the lock.
func (l *life) place(app, first int) error {
	a := l.appends[app]
	last := first + len(a.sizes) - 1
	switch {
	case a.refused:
		return violated(begunFirst, "append %d of %s, which was refused, is at %d", app, l, first)
	case a.first == first:
		return nil
	case a.first > 0:
		return violated(noGap, "append %d of %s is at %d, and was at %d", app, l, first, a.first)
	case first <= l.base:
		return violated(noMixing, "append %d of %s is at %d, among the %d inherited ones", app, l, first, l.base)
	case first <= a.after:
		return violated(sameOrder, "append %d of %s is at %d, and when it was begun there were %d entries", app, l, first, a.after)
	case l.closedAt >= 0 && last > l.closedAt:
		return violated(closedOnce, "append %d of %s is at %d, and the stream is closed at %d", app, l, first, l.closedAt)
	}
	for len(l.at) < last-l.base {
		l.at = append(l.at, 0)
	}
	for i := first; i <= last; i++ {
		if other := l.at[i-l.base-1]; other > 0 {
			return violated(noGap, "append %d of %s is at %d, where append %d is", app, l, i, other-1)
		}
		l.at[i-l.base-1] = app + 1
	}
	a.first = first
	l.known = max(l.known, last) // an append is there whole or not at all
	return nil
}

// see notes that a reader got an entry at a place.
func (l *life) see(seq int, e label) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e.app >= len(l.appends) || e.index >= len(l.appends[e.app].sizes) {
		return violated(begunFirst, "%s shows entry %s, which nobody appended", l, e)
	}
	if first := l.appends[e.app].first; first > 0 && first+e.index != seq {
		return violated(noGap, "%s shows %s at %d, and it is at %d", l, e, seq, first+e.index)
	}
	return l.place(e.app, seq-e.index)
}

// owner is the life that an entry was appended to: this one, or the one that it was inherited from.
func (l *life) owner(seq int) *life {
	for l.source != nil && seq <= l.base {
		l = l.source
	}
	return l
}

// middle tells whether a place is inside of what one append brought.
func (l *life) middle(seq int) bool {
	l = l.owner(seq)
	l.mu.Lock()
	defer l.mu.Unlock()
	i := seq - l.base - 1
	return i >= 0 && i+1 < len(l.at) && l.at[i] > 0 && l.at[i] == l.at[i+1]
}

// closed notes that a reader was told that the stream ends at a place.
func (l *life) closed(seq int) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case !l.closing:
		return violated(closedOnce, "%s is told to be closed at %d, and nobody closes it", l, seq)
	case l.closedAt >= 0 && l.closedAt != seq:
		return violated(closedOnce, "%s is told to be closed at %d, and was at %d", l, seq, l.closedAt)
	case l.known > seq:
		return violated(closedOnce, "%s is told to be closed at %d, and has %d entries", l, seq, l.known)
	}
	l.closedAt = seq
	return nil
}

// trimmed notes that a reader of a place was told the earliest place kept; dropped were known to be gone
// when it asked.
func (l *life) trimmed(from, earliest, dropped int) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	most := l.cut
	if keep := l.config.keepCount; keep > 0 {
		most = max(most, l.begun-keep)
	}
	switch {
	case from >= earliest:
		return violated(exactCut, "%s: a read from %d is told that the earliest is %d", l, from, earliest)
	case l.config.keepCount == 0 && l.config.keepBytes == 0:
		return violated(exactCut, "%s keeps everything, and its earliest is told to be %d", l, earliest)
	case earliest < dropped:
		return violated(exactCut, "%s: the earliest is told to be %d, and before the read it was %d", l, earliest, dropped)
	case l.config.keepBytes == 0 && earliest > most:
		return violated(exactCut, "%s: the earliest is told to be %d, and it is at most %d", l, earliest, most)
	}
	l.cut = max(l.cut, earliest)
	return nil
}

// dropped is how many entries are gone for certain. The caller holds the lock.
func (l *life) dropped() int {
	n := l.cut
	if keep := l.config.keepCount; keep > 0 {
		n = max(n, l.known-keep)
	}
	return n
}

// exactCut is what retention leaves of a life that nobody writes to, with all that was seen.
func (l *life) exactCut(tail int) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	cut := 0
	if keep := l.config.keepCount; keep > 0 {
		cut = max(0, tail-keep)
	}
	if keep := l.config.keepBytes; keep > 0 {
		sum := 0
		for seq := tail; seq > l.base; seq-- {
			app := l.at[seq-l.base-1]
			a := l.appends[app-1]
			if sum += a.sizes[seq-a.first]; sum > keep {
				cut = max(cut, seq)
				break
			}
		}
	}
	return cut
}

func (l *life) String() string { return fmt.Sprintf("%s (life %d)", l.stream.name, l.id) }
