package linear

import (
	"context"
	"fmt"
	"hash/maphash"

	"github.com/runnelhq/runnel"
)

// The cursor model: clients move cursors of a segment and of its space, forwards, back where that is
// allowed, and under conditions; they read and remove them. Checked cursor by cursor.
var cursorModel = &model{
	name:   "cursor",
	offers: func(k kind) bool { return !k.http && !k.items },
	prepare: func(c *client) {
		c.lay("a")
		_, _ = c.h.w.front(c.id).Append(context.Background(), "a", runnel.AppendOptions{}, make([]string, farthest)...) // else the moves are refused
	},
	play: playCursor,
	conclude: func(c *client) {
		for _, name := range cursors {
			c.do(cursorReading{cursorName: name})
		}
	},
	states: powerset(cursor{}),
	sometimes: []string{
		"outcome unknown", "refused: " + cursorAt, "refused: " + notFound, "refused: " + beyondTail, "cursors that went back",
		"conditions of cursors that held", "restarts", "restarts after failures",
	},
}

// farthest is how many entries there are.
const farthest = 8

type cursorName struct{ segment, name string }

func (n cursorName) key() string    { return n.segment + "/" + n.name }
func (n cursorName) String() string { return n.key() }

var cursors = []cursorName{{"a", "p"}, {"a", "q"}, {"", "p"}}

// cursor is the state of one.
type cursor struct {
	exists bool
	place  uint64
}

func (s cursor) equal(o cursor) bool { return s == o }
func (s cursor) hash() uint64        { return maphash.Comparable(hashing, s) }

func (s cursor) String() string {
	if !s.exists {
		return "none"
	}
	return fmt.Sprint(s.place)
}

var _ = []stepper[cursor]{move{}, cursorReading{}, cursorRemoval{}}

// move moves a cursor by a commit that does nothing else.
type move struct {
	write
	cursorName
	place  uint64
	expect *uint64
	rewind bool
}

func (o move) String() string {
	text := fmt.Sprintf("move %s to %d", o.cursorName, o.place)
	if o.expect != nil {
		text += fmt.Sprintf(" from %d", *o.expect)
	}
	return text + when(o.rewind, " or back")
}

func (o move) do(ctx context.Context, l log) (any, error) {
	_, err := l.Transact(ctx, runnel.Transaction{Cursors: []runnel.CursorMove{o.of()}})
	return nil, err
}

func (o move) of() runnel.CursorMove {
	return runnel.CursorMove{Segment: o.segment, Name: o.name, Place: o.place, Expect: o.expect, Rewind: o.rewind}
}

// refused says what stands against the move.
func (o move) refused(s cursor, end runnel.Sequence) refusal {
	switch {
	case o.expect != nil && *o.expect != s.place, o.place < s.place && !o.rewind:
		return refusal{cursorAt, s.place}
	case o.segment != "" && o.place > uint64(end):
		return refusal{beyondTail, uint64(end)}
	}
	return refusal{}
}

func (o move) step(s cursor, a answer) []cursor {
	return written(s, cursor{true, o.place}, o.refused(s, farthest), a, func() bool { return true })
}

type cursorReading struct {
	read
	cursorName
}

func (o cursorReading) String() string { return "read cursor " + o.key() }

func (o cursorReading) do(ctx context.Context, l log) (any, error) {
	c, err := l.Cursor(ctx, o.segment, o.name)
	return c.Place, err
}

func (o cursorReading) step(s cursor, a answer) []cursor {
	if !s.exists {
		return written(s, s, refusal{kind: notFound}, a, nil)
	}
	return written(s, s, refusal{}, a, func() bool { return a.value == s.place })
}

type cursorRemoval struct {
	write
	cursorName
}

func (o cursorRemoval) String() string { return "delete cursor " + o.key() }

func (o cursorRemoval) do(ctx context.Context, l log) (any, error) {
	return nil, l.DeleteCursor(ctx, o.segment, o.name)
}

func (o cursorRemoval) step(s cursor, a answer) []cursor {
	if !s.exists {
		return written(s, s, refusal{kind: notFound}, a, nil)
	}
	return written(s, cursor{}, refusal{}, a, func() bool { return true })
}

func playCursor(c *client) {
	places := make(map[cursorName]uint64)
	for c.more() {
		name := pick(c, cursors...)
		switch n := c.rng.IntN(10); {
		case n < 6:
			c.move(name, places)
		case n < 9:
			if a, ok := c.do(cursorReading{cursorName: name}); ok && a.done() {
				places[name], _ = a.value.(uint64)
			}
		default:
			c.do(cursorRemoval{cursorName: name})
		}
	}
}

// move moves a cursor from where the client has seen it last.
func (c *client) move(name cursorName, places map[cursorName]uint64) {
	at := places[name]
	op := move{cursorName: name, place: min(at+uint64(c.rng.IntN(3)), farthest), rewind: c.chance(4)}
	if op.rewind {
		op.place = uint64(c.rng.IntN(int(at) + 1))
	}
	if c.chance(20) {
		op.place = farthest + 1
	}
	if c.chance(2) {
		op.expect = &at
	}
	a, ok := c.do(op)
	switch {
	case !ok:
	case a.refused.kind == cursorAt:
		places[name] = a.refused.number
	case a.done():
		places[name] = op.place
		if op.expect != nil {
			c.h.tally.count("conditions of cursors that held")
		}
		if op.place < at {
			c.h.tally.count("cursors that went back")
		}
	}
}
