package linear

import (
	"context"
	"fmt"
	"strings"

	"github.com/runnelhq/runnel"
)

// The commit model: commits over two or three segments of a space, each write with its own condition, next
// to single appends and to readers of single segments. All or nothing is a matter between segments, so the
// space is checked as one.
var commitModel = &model{
	name:   "commit",
	offers: func(k kind) bool { return !k.away() },
	prepare: func(c *client) {
		createAll(c, "a", "b", "c")
		for i := range padding {
			_, _ = c.h.w.front(c.id).Create(context.Background(), paddingName(i), runnel.CreateOptions{}) // else the commits are refused
		}
	},
	play:     playCommit,
	conclude: func(c *client) { readAll(c, "a", "b", "c") },
	whole:    true,
	states:   powerset(space{}),
	sometimes: []string{
		"outcome unknown", "unknown, and it happened", "unknown, and nobody saw it", "refused: " + tailMoved,
		"refused: " + closedAt, "restarts", "restarts after failures",
	},
}

func playCommit(c *client) {
	tails := make(known)
	for c.more() {
		switch c.rng.IntN(8) {
		case 0, 1, 2:
			c.commit(tails)
		case 3:
			name := pick(c, names[:]...)
			c.tell(tails, appending{name: name, payloads: c.payloads(1)})
		case 4:
			c.tell(tails, reading{name: pick(c, names[:]...)})
		default:
			// One segment after another is how a commit would be seen that is only half there.
			for _, i := range c.rng.Perm(len(names)) {
				c.tell(tails, looking{name: names[i]})
			}
		}
	}
}

// commit commits to some of the segments, in any order.
func (c *client) commit(tails known) {
	op := commit{padded: c.chance(2)}
	for _, i := range c.rng.Perm(len(names))[:2+c.rng.IntN(2)] {
		w := appending{name: names[i], payloads: c.payloads(2)}
		if c.chance(3) {
			expect := tails[w.name]
			w.o.Expect = &expect
		}
		w.o.Close = c.chance(60)
		op.writes = append(op.writes, w)
	}
	a, ok := c.do(op)
	if all, done := a.value.(committed); ok && done && a.done() {
		for i, w := range op.writes {
			tails[w.name] = max(tails[w.name], all[i].tail)
		}
	}
}

var _ stepper[space] = commit{}

// commit writes to several segments at once.
type commit struct {
	write
	writes []appending
	padded bool
}

func (o commit) key() string     { return "" }
func (o commit) sends() []string { return o.writes[0].payloads }

func (o commit) String() string {
	var parts []string
	for _, w := range o.writes {
		parts = append(parts, w.String())
	}
	return "commit " + strings.Join(parts, " and ")
}

// committed is what the writes of a commit were told.
type committed [len(names)]appended

func (v committed) String() string { return fmt.Sprint([len(names)]appended(v)) }

func (o commit) do(ctx context.Context, l log) (any, error) {
	var writes []runnel.Write
	for i, w := range o.writes {
		if i == 1 && o.padded {
			for n := range padding {
				writes = append(writes, runnel.Write{Segment: paddingName(n), Records: recordsOf([]string{"0"})})
			}
		}
		writes = append(writes, runnel.Write{Segment: w.name, Options: w.o, Records: recordsOf(w.payloads)})
	}
	all, err := l.Commit(ctx, writes...)
	var v committed
	for i, w := range o.writes {
		if err != nil {
			break
		}
		at := i
		if i > 0 {
			at += len(writes) - len(o.writes)
		}
		v[i] = toldAppended(&all[at], &w.o, len(w.payloads))
	}
	return v, err
}

// padding is how many segments a commit may write besides, between those that are looked at, so that it
// takes longer to become visible.
const padding = 30

func paddingName(i int) string { return fmt.Sprint("padding-", i) }

// step makes all writes, or none. The first that is refused speaks for all.
func (o commit) step(s space, a answer) []space {
	next := s
	var want committed
	for i, w := range o.writes {
		g, told, refused := s[index(w.name)].append(&w.o, w.payloads)
		if refused != (refusal{}) {
			return written(s, s, refused, a, nil)
		}
		next, want[i] = next.with(w.name, g), told
	}
	return written(s, next, refusal{}, a, func() bool { return a.value == want })
}
