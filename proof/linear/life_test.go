package linear

import "github.com/runnelhq/runnel"

// The life model: names are created with one of two configurations, open or closed, written, closed, deleted
// and created again, all at a time. Ids tell the lives of a name apart. Checked name by name.
var lifeModel = &model{
	name:     "life",
	play:     playLife,
	conclude: func(c *client) { readAll(c, "a", "b") },
	states:   powerset(space{}),
	sometimes: []string{
		"outcome unknown", "refused: " + notFound, "refused: " + exists, "refused: " + closedAt, "refused: " + beyondTail,
		"live deliveries", "live reads that end at the close", "restarts", "restarts after failures",
	},
}

func playLife(c *client) {
	tails := make(known)
	for c.more() {
		name := pick(c, "a", "b")
		switch c.rng.IntN(11) {
		case 0, 1, 2:
			op := creation{name: name, config: uint64(c.rng.IntN(4) / 3), closed: c.chance(8)}
			if c.chance(2) {
				op.payloads = c.payloads(2)
			}
			c.tell(tails, op)
		case 3:
			c.do(deletion{name: name})
			tails[name] = 0
		case 4, 5:
			c.tell(tails, appending{name: name, payloads: c.payloads(2), o: runnel.AppendOptions{Close: c.chance(6)}})
		case 6:
			c.do(appending{name: name, o: runnel.AppendOptions{Close: true}})
		case 7:
			c.tell(tails, reading{name: name})
		case 8:
			c.tell(tails, reading{name: name, from: tails[name]})
		case 9:
			c.tell(tails, looking{name: name})
		case 10:
			c.follow(name, 0, tails[name]+1, false)
		}
	}
}
