package linear

import "github.com/runnelhq/runnel"

// The append model: appends to two segments, with and without an expected tail, reads from the beginning
// and from the middle, looks at the tail, and live reads. Segments are apart from each other, so each is
// checked alone.
var appendModel = &model{
	name:     "append",
	prepare:  func(c *client) { createAll(c, "a", "b") },
	play:     playAppend,
	conclude: func(c *client) { readAll(c, "a", "b") },
	states:   powerset(space{}),
	sometimes: []string{
		"outcome unknown", "unknown, and it happened", "unknown, and nobody saw it", "refused: " + tailMoved,
		"refused: " + beyondTail, "live deliveries", "restarts", "restarts after failures", "calls cancelled",
		"commits that happen late", "nothing told",
	},
}

// known is what a client knows of tails, which is how it chooses conditions and places.
type known map[string]runnel.Sequence

// learn takes a tail from an answer.
func (k known) learn(name string, a answer) {
	switch v := a.value.(type) {
	case appended:
		k[name] = max(k[name], v.tail)
	case snapshot:
		k[name] = max(k[name], v.tail)
	}
	if a.refused.kind == tailMoved {
		k[name] = max(k[name], runnel.Sequence(a.refused.number))
	}
}

func playAppend(c *client) {
	tails := make(known)
	for c.more() {
		name := pick(c, "a", "a", "b")
		switch c.rng.IntN(8) {
		case 0, 1:
			c.tell(tails, appending{name: name, payloads: c.payloads(3)})
		case 2, 3:
			expect := tails[name]
			c.tell(tails, appending{name: name, payloads: c.payloads(2), o: runnel.AppendOptions{Expect: &expect}})
		case 4:
			c.tell(tails, looking{name: name})
		case 5:
			c.tell(tails, reading{name: name, from: tails[name] + pick(c, runnel.Sequence(0), 0, 0, 1)})
		case 6:
			c.tell(tails, reading{name: name})
		case 7:
			c.watch(name, tails[name])
		}
	}
}

// tell makes a call and learns from its answer.
func (c *client) tell(tails known, op operation) {
	if a, ok := c.do(op); ok {
		tails.learn(op.key(), a)
	}
}

// watch reads live: through a tail that is known, or beyond it for a while.
func (c *client) watch(name string, tail runnel.Sequence) {
	from := tail - min(tail, runnel.Sequence(c.rng.IntN(4)))
	if tail > from && c.chance(2) {
		c.follow(name, from, tail, true)
		return
	}
	c.follow(name, from, tail+2, false)
}

func createAll(c *client, names ...string) {
	for _, name := range names {
		c.do(creation{name: name})
	}
}

// readAll reads everything twice, so that what is still to happen shows if it does.
func readAll(c *client, names ...string) {
	for range 2 {
		for _, name := range names {
			c.do(reading{name: name})
		}
	}
}
