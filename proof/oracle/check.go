package oracle

import (
	"fmt"
	"slices"
)

// Check compares what a stream holds with what must be true, and returns what is violated. Content is all
// of its entries, closed and exists what the server says of it.
//
// What is found is remembered, and must stay: from now on an operation of unknown outcome counts as done if
// it was found, and as not done if it was not. So Check is for a stream at rest, at which nothing is still
// under way that a client has given up: after a restart for instance. Operations that have not ended may
// be there or not.
func (l *Ledger) Check(path string, content []string, closed, exists bool) []Violation {
	return l.CheckFrom(path, 0, content, closed, exists)
}

// CheckFrom is Check for a stream of which retention has dropped the first from entries.
func (l *Ledger) CheckFrom(path string, from int, content []string, closed, exists bool) []Violation {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.stream(path)
	c := &check{
		stream: s, now: l.tick(), from: from, content: content, closed: closed, exists: exists,
		mayEnd: s.lastDelete(), ended: s.surelyDeleted(), at: make(map[*entry]int, len(content)),
	}
	c.existence()
	if exists {
		c.presence()
		c.order()
		c.closure()
	}
	c.absence()
	c.settle()
	return append(c.violations, s.found...)
}

type check struct {
	*stream
	now            int
	from           int
	content        []string
	closed, exists bool
	mayEnd         int // what began before it may be gone
	ended          int // what ended before it is gone
	at             map[*entry]int
	violations     []Violation
}

func (c *check) fail(invariant, format string, args ...any) {
	c.violations = append(c.violations, Violation{invariant, c.path + ": " + fmt.Sprintf(format, args...)})
}

// existence looks at whether the stream may, or must, be there.
func (c *check) existence() {
	if !c.exists {
		last := c.stream.exists
		for _, ops := range [][]*Operation{c.creates, c.closes} {
			for _, o := range ops {
				if o.outcome == acknowledged {
					last = max(last, o.begun)
				}
			}
		}
		if last > c.mayEnd {
			c.fail(KeepsAcknowledged, "the stream is gone")
		}
		return
	}
	made := false
	for _, o := range c.creates {
		made = made || o.happened() && o.end() > c.ended
	}
	switch {
	case made:
	case c.ended > 0:
		c.fail(StaysEnded, "the stream was deleted, and is there")
	default:
		c.fail(NoForeign, "the stream is there, and nobody created it")
	}
}

// presence looks at everything that is there.
func (c *check) presence() {
	for i, p := range c.content {
		place := c.from + i
		e := c.entries[p]
		if e == nil {
			c.fail(NoForeign, "%.60q at %d", p, place)
			continue
		}
		if first, twice := c.at[e]; twice {
			c.fail(StoredOnce, "%.60q at %d and at %d", p, first, place)
			continue
		}
		c.at[e] = place
		switch o := e.op; {
		case o.outcome == refused:
			c.fail(NoRefused, "%.60q at %d", p, place)
		case o.outcome == absent:
			c.fail(StaysFound, "%.60q at %d, which was not there before", p, place)
		case o.end() < c.ended:
			c.fail(NoOldByte, "%.60q at %d was deleted", p, place)
		case e.place >= 0 && e.place != place && e.seen:
			c.fail(KeepsSeen, "%.60q at %d, it was seen at %d", p, place, e.place)
		case e.place >= 0 && e.place != place:
			c.fail(ToldPlace, "%.60q at %d, its answer said %d", p, place, e.place)
		}
	}
}

// absence looks at everything that is not there.
func (c *check) absence() {
	for _, e := range c.stream.order {
		if _, there := c.at[e]; there || e.op.begun < c.mayEnd {
			continue
		}
		if c.from > 0 && e.place < c.from {
			continue // dropped by retention, or nobody knows
		}
		switch {
		case e.op.outcome == acknowledged:
			c.fail(KeepsAcknowledged, "%.60q", e.payload)
		case e.op.outcome == present:
			c.fail(StaysFound, "%.60q was there before, and is not", e.payload)
		case e.seen:
			c.fail(KeepsSeen, "%.60q was seen at %d, and is not there", e.payload, e.place)
		}
	}
}

// order looks at the order of the entries: that of the operations, where one ended before the other began,
// and each operation in one piece.
func (c *check) order() {
	latest := &entry{op: new(Operation)} // of the entries so far, the one that was begun last
	looked := make(map[*Operation]bool)
	for i, p := range c.content {
		e := c.entries[p]
		if e == nil || c.at[e] != c.from+i {
			continue
		}
		if e.op.end() < latest.op.begun {
			c.fail(RealTimeOrder, "%.60q at %d comes after %.60q, which was begun when it had been acknowledged", p, c.from+i, latest.payload)
		}
		if e.op.begun > latest.op.begun {
			latest = e
		}
		if !looked[e.op] {
			looked[e.op] = true
			c.whole(e)
		}
	}
}

// whole looks at the rest of the operation of an entry.
func (c *check) whole(e *entry) {
	o := e.op
	first := c.at[e] - slices.Index(o.entries, e)
	for i, other := range o.entries {
		at, there := c.at[other]
		dropped := c.from > 0 && first+i < c.from && !there
		if !dropped && (!there || at != first+i) {
			c.fail(WholeAppends, "%.60q is there without %.60q at %d", e.payload, other.payload, first+i)
		}
	}
	if o.what == "create" && first > 0 {
		c.fail(WholeAppends, "%.60q at %d is what the stream was created with", o.entries[0].payload, first)
	}
}

// closure looks at whether the stream may, or must, be closed, and at what stands behind.
func (c *check) closure() {
	tail := c.from + len(c.content)
	surely := c.endSeen > c.mayEnd
	ended := 0 // when the close had been acknowledged
	for _, o := range c.closes {
		if o.outcome == acknowledged && o.begun > c.mayEnd {
			surely = true
			ended = max(ended, o.finished)
		}
		if n := len(o.entries); n > 0 {
			if at, there := c.at[o.entries[n-1]]; there && at != tail-1 {
				c.fail(NothingAfterClose, "%d entries after %.60q", tail-1-at, o.entries[n-1].payload)
			}
		}
	}
	switch {
	case surely && !c.closed:
		c.fail(StaysEnded, "the stream was closed, and is open")
	case c.closed && c.closedByNobody():
		c.fail(NoForeign, "the stream is closed, and nobody closed it")
	}
	if c.endSeen > c.mayEnd && tail != c.ends {
		c.fail(NothingAfterClose, "the stream has %d entries, it was closed at %d", tail, c.ends)
	}
	for e, at := range c.at {
		if ended > 0 && e.op.begun > ended {
			c.fail(NothingAfterClose, "%.60q at %d was begun after the close", e.payload, at)
		}
	}
}

// closedByNobody tells that no close can be the one that closed the stream.
func (s *stream) closedByNobody() bool {
	ended := s.surelyDeleted()
	for _, o := range s.closes {
		if o.happened() && o.end() > ended {
			return false
		}
	}
	return true
}

// settle remembers what was found.
func (c *check) settle() {
	for e, at := range c.at {
		e.place, e.seen = at, true
		c.places[at] = e
	}
	for _, e := range c.stream.order {
		if e.op.outcome != unknown || len(e.op.entries) == 0 || e != e.op.entries[0] {
			continue
		}
		e.op.finished, e.op.outcome = c.now, absent
		if _, there := c.at[e]; there {
			e.op.outcome = present
		}
	}
	for _, ops := range [][]*Operation{c.creates, c.closes, c.deletes} {
		for _, o := range ops {
			if o.outcome == unknown {
				c.settleChange(o)
			}
		}
	}
	if c.exists {
		c.stream.exists = c.now
	} else {
		c.gone = c.now
	}
	if c.exists && c.closed {
		c.ends, c.endSeen = c.from+len(c.content), c.now
	}
}

// settleChange says how a creation, close or deletion turned out, as far as that is seen. Where it is not,
// it may have happened, and is over.
func (c *check) settleChange(o *Operation) {
	done := false
	switch o.what {
	case "create":
		done = c.exists
	case "close":
		done = c.exists && c.closed
	case "delete":
		done = !c.exists || slices.ContainsFunc(c.creates, func(again *Operation) bool {
			return again.happened() && again.end() > o.begun
		})
	}
	o.finished, o.outcome = c.now, absent
	if done {
		o.outcome = present
	}
}
