package linear

import (
	"context"
	"fmt"
	"hash/maphash"
	"strings"

	"github.com/runnelhq/runnel"
)

// The transact model: transactions over two segments, each write under its own condition, that move a
// cursor to where their client has read; next to readers of the segments and of the cursor. Checked as one.
var transactModel = &model{
	name:    "transact",
	offers:  func(k kind) bool { return !k.http && !k.items },
	prepare: func(c *client) { c.lay("a", "b") },
	play:    playTransact,
	conclude: func(c *client) {
		c.do(entryReading{reading{name: "a"}})
		c.do(entryReading{reading{name: "b"}})
		c.do(placeReading{cursorReading{cursorName: progressOfA}})
	},
	whole:  true,
	states: powerset(ledger{}),
	sometimes: []string{
		"outcome unknown", "unknown, and it happened", "unknown, and nobody saw it", "refused: " + tailMoved, "refused: " + cursorAt,
		"transactions that moved a cursor", "restarts", "restarts after failures",
	},
}

// progressOfA is how far a has been read by those who write b.
var progressOfA = cursorName{"a", "p"}

// ledger is the state of two segments and a cursor.
type ledger struct {
	segments [2]*content
	cursor   cursor
}

func (s ledger) equal(o ledger) bool { return s.hash() == o.hash() && s.cursor == o.cursor }

func (s ledger) hash() uint64 {
	return maphash.Comparable(hashing, [3]uint64{s.segments[0].hash(), s.segments[1].hash(), s.cursor.hash()})
}

func (s ledger) String() string {
	return fmt.Sprintf("a: %d entries; b: %d entries; cursor at %s", s.segments[0].tail(), s.segments[1].tail(), s.cursor)
}

var _ = []stepper[ledger]{transaction{}, entryReading{}, placeReading{}}

type transaction struct {
	write
	writes []appending
	move   *move
}

func (o transaction) key() string { return "" }

func (o transaction) sends() []string { return o.writes[0].payloads }

func (o transaction) String() string {
	var parts []string
	for _, w := range o.writes {
		parts = append(parts, w.String())
	}
	if o.move != nil {
		parts = append(parts, o.move.String())
	}
	return "transact " + strings.Join(parts, " and ")
}

// transacted is what the writes of a transaction were told.
type transacted [2]appended

func (o transaction) do(ctx context.Context, l log) (any, error) {
	var t runnel.Transaction
	for _, w := range o.writes {
		t.Writes = append(t.Writes, runnel.Write{Segment: w.name, Options: w.o, Records: recordsOf(w.payloads)})
	}
	if o.move != nil {
		t.Cursors = append(t.Cursors, o.move.of())
	}
	c, err := l.Transact(ctx, t)
	var v transacted
	if err == nil {
		for i, w := range o.writes {
			v[i] = toldAppended(&c.Appended[i], &w.o, len(w.payloads))
		}
	}
	return v, err
}

// step does all of the transaction, or nothing. Writes speak before the cursor.
func (o transaction) step(s ledger, a answer) []ledger {
	next := s
	var want transacted
	for i, w := range o.writes {
		c := next.segments[index(w.name)]
		if w.o.Expect != nil && *w.o.Expect != c.tail() {
			return written(s, s, refusal{tailMoved, uint64(c.tail())}, a, nil)
		}
		want[i].first = c.tail() + 1
		c = c.add(w.payloads...)
		want[i].tail = c.tail()
		next.segments[index(w.name)] = c
	}
	if m := o.move; m != nil {
		if refused := m.refused(s.cursor, s.segments[index(m.segment)].tail()); refused != (refusal{}) {
			return written(s, s, refused, a, nil)
		}
		next.cursor = cursor{true, m.place}
	}
	return written(s, next, refusal{}, a, func() bool { return a.value == want })
}

// entryReading reads one of the segments.
type entryReading struct{ reading }

func (o entryReading) key() string { return "" }

func (o entryReading) step(s ledger, a answer) []ledger {
	c := s.segments[index(o.name)]
	v, _ := a.value.(snapshot)
	return written(s, s, refusal{}, a, func() bool {
		return v.tail == c.tail() && runnel.Sequence(len(v.payloads)) == v.tail && c.holds(0, v.payloads)
	})
}

// placeReading reads the cursor.
type placeReading struct{ cursorReading }

func (o placeReading) key() string { return "" }

func (o placeReading) step(s ledger, a answer) []ledger {
	if len(o.cursorReading.step(s.cursor, a)) == 0 {
		return nil
	}
	return []ledger{s}
}

func playTransact(c *client) {
	tails, place := make(known), uint64(0)
	for c.more() {
		switch c.rng.IntN(6) {
		case 0, 1, 2:
			op := c.transaction(tails, place)
			a, ok := c.do(op)
			v, _ := a.value.(transacted)
			switch {
			case ok && a.done():
				for i, w := range op.writes {
					tails[w.name] = max(tails[w.name], v[i].tail)
				}
				if op.move != nil {
					place = op.move.place
					c.h.tally.count("transactions that moved a cursor")
				}
			case a.refused.kind == cursorAt:
				place = a.refused.number
			}
		case 3:
			if a, ok := c.do(placeReading{cursorReading{cursorName: progressOfA}}); ok && a.done() {
				place, _ = a.value.(uint64)
			}
		default:
			name := pick(c, "a", "b")
			a, _ := c.do(entryReading{reading{name: name}})
			tails.learn(name, a)
		}
	}
}

// transaction prepares one that writes one segment or both, in any order.
func (c *client) transaction(tails known, place uint64) transaction {
	var op transaction
	for _, i := range c.rng.Perm(2)[:1+c.rng.IntN(2)] {
		w := appending{name: names[i], payloads: c.payloads(2)}
		if c.chance(4) {
			expect := tails[w.name]
			w.o.Expect = &expect
		}
		op.writes = append(op.writes, w)
	}
	if c.chance(2) {
		op.move = &move{cursorName: progressOfA, place: max(place, uint64(tails["a"]))}
		if c.chance(2) {
			op.move.expect = &place
		}
	}
	return op
}
