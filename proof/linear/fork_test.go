package linear

import (
	"context"
	"fmt"
	"strings"

	"github.com/runnelhq/runnel"
)

// The fork model: a source that grows, and forks of it, at the tail and at a place before it, which are
// written, read, deleted and made again. The source is not deleted. Source and forks are one state.
//
// A fork takes two commits, and nobody promises that it is one moment: what it inherits is what the source
// held at one moment of the call, and it exists from another one on. So it goes into the history as two
// operations: a look at the source's tail, and a creation that begins with so many entries.
var forkModel = &model{
	name:     "fork",
	prepare:  func(c *client) { createAll(c, "a") },
	play:     playFork,
	conclude: func(c *client) { readAll(c, "a", "b", "c") },
	whole:    true,
	states:   powerset(space{}),
	sometimes: []string{
		"outcome unknown", "forks at the tail", "forks at a place", "refused: " + beyondTail, "refused: " + exists,
		"refused: " + notFound, "restarts", "restarts after failures",
	},
}

func playFork(c *client) {
	tails := make(known)
	for c.more() {
		name := pick(c, names[:]...)
		switch c.rng.IntN(9) {
		case 0, 1:
			c.tell(tails, appending{name: "a", payloads: c.payloads(2)})
		case 2:
			c.tell(tails, appending{name: name, payloads: c.payloads(1)})
		case 3, 4:
			c.fork(tails)
		case 5:
			if name != "a" {
				c.do(deletion{name: name})
			}
		case 6:
			c.tell(tails, looking{name: name})
		default:
			c.tell(tails, reading{name: name})
		}
	}
}

// fork makes "b" of "a", or "c" of "a", and records the two moments of it.
func (c *client) fork(tails known) {
	op := forking{name: pick(c, "b", "c"), source: "a", latest: c.chance(2)}
	if !op.latest {
		op.at = tails["a"] - min(tails["a"], runnel.Sequence(c.rng.IntN(3))) + runnel.Sequence(c.rng.IntN(8)/7)
	}
	if c.chance(2) {
		op.payloads = c.payloads(1)
	}
	call := c.h.now()
	a, ok := c.do(op)
	v, _ := a.value.(created)
	if !ok || !a.done() || v.existed {
		return
	}
	if !op.latest {
		c.h.tally.count("forks at a place")
		return
	}
	c.h.tally.count("forks at the tail")
	c.h.add(c.id, inherited{source: "a"}, call, c.h.now(), answer{value: v.tail - runnel.Sequence(len(op.payloads))})
}

var _ = []stepper[space]{forking{}, inherited{}}

// forking creates a fork. Of one at the tail it says that the fork begins with no more than its source has.
type forking struct {
	write
	name, source string
	latest       bool
	at           runnel.Sequence
	payloads     []string
}

func (o forking) key() string     { return "" }
func (o forking) sends() []string { return o.payloads }

func (o forking) String() string {
	where := "its tail"
	if !o.latest {
		where = fmt.Sprint(o.at)
	}
	return fmt.Sprintf("fork %s at %s as %s %s", o.source, where, o.name, strings.Join(o.payloads, " "))
}

func (o forking) do(ctx context.Context, l log) (any, error) {
	c, err := l.Create(ctx, o.name, runnel.CreateOptions{
		Fork:    &runnel.ForkFrom{Source: theSpace.Segment(o.source), At: o.at, Latest: o.latest},
		Records: recordsOf(o.payloads),
	})
	return told(&c), err
}

// origin is the configuration of a fork, by which one that is asked for is found to exist already.
func (o forking) origin() uint64 {
	if o.latest {
		return 1
	}
	return 2 + uint64(o.at)
}

func (o forking) step(s space, a answer) []space {
	g, source := s[index(o.name)], s[index(o.source)].content
	beyond := refusal{beyondTail, uint64(source.tail())}
	switch {
	case !o.latest && o.at > source.tail() && (!g.exists || a.refused == beyond): // the name was free a moment before
		return written(s, s, beyond, a, nil)
	case g.exists:
		return existing(s, o.name, a, g.config == o.origin())
	}
	from, through := o.at, o.at
	if v, _ := a.value.(created); o.latest {
		from, through = 0, source.tail() // where its outcome is unknown
		if a.done() {
			from = v.tail - min(v.tail, runnel.Sequence(len(o.payloads)))
			through = min(from, through)
		}
	}
	var next []space
	if a.unknown {
		next = append(next, s)
	}
	for base := from; base <= through; base++ {
		all := fresh(s, o.name, a, segment{config: o.origin(), content: source.through(base).add(o.payloads...)})
		if n := len(all); n > 0 {
			next = append(next, all[n-1]) // the one in which it happened
		}
	}
	return next
}

// inherited is the moment at which a fork's source had what the fork begins with, and no more.
type inherited struct {
	read
	source string
}

func (o inherited) key() string    { return "" }
func (o inherited) String() string { return "fork looks at the tail of " + o.source }

func (o inherited) do(context.Context, log) (any, error) { panic("is recorded by fork") }

func (o inherited) step(s space, a answer) []space {
	return written(s, s, refusal{}, a, func() bool { return a.value == s[index(o.source)].content.tail() })
}
