package linear

import "github.com/runnelhq/runnel"

// The producer model: clients in pairs share a producer's id on one segment. They number their writes,
// repeat one that they do not know the outcome of or just so, skip a number, claim the id with a higher
// epoch, and go on with an old one. Checked segment by segment.
var producerModel = &model{
	name:     "producer",
	prepare:  func(c *client) { createAll(c, "a") },
	play:     playProducer,
	conclude: func(c *client) { readAll(c, "a") },
	states:   powerset(space{}),
	sometimes: []string{
		"outcome unknown", "unknown, and it happened", "unknown, and nobody saw it", "refused: " + fenced, "refused: " + gap,
		"refused: " + invalid, "refused: " + closedAt, "duplicates", "restarts", "restarts after failures",
	},
}

func playProducer(c *client) {
	next := runnel.Producer{ID: producerID(c.id % 2)}
	last := appending{name: "a"}
	for c.more() {
		switch c.rng.IntN(12) {
		case 0:
			c.do(reading{name: "a"})
			continue
		case 1:
			c.do(looking{name: "a"})
			continue
		case 2:
			next.Epoch, next.Seq = next.Epoch+1, 0
		case 3:
			next.Seq++ // one is missing
		case 4:
			if last.o.Producer != nil {
				c.produce(&next, last) // once more
				continue
			}
		}
		p := next
		last = appending{name: "a", payloads: c.payloads(2), o: runnel.AppendOptions{Producer: &p, Close: c.chance(60)}}
		c.produce(&next, last)
	}
}

// produce makes a write, repeats it while its outcome is unknown, and goes on from what it is told.
func (c *client) produce(next *runnel.Producer, op appending) {
	for range 3 {
		a, ok := c.do(op)
		if !ok {
			continue
		}
		switch v, _ := a.value.(appended); {
		case a.refused.kind == fenced:
			next.Epoch = a.refused.number + uint64(c.rng.IntN(2))
			next.Seq = uint64(c.rng.IntN(2))
		case a.refused.kind == gap:
			next.Seq = a.refused.number
		case a.refused.kind == invalid:
			next.Seq = 0
		case a.done():
			if v.duplicate {
				c.h.tally.count("duplicates")
			}
			if *op.o.Producer == *next || v.duplicate {
				next.Seq = v.seq + 1
			}
		}
		return
	}
}
