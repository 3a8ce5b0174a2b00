package linear

import (
	"context"
	"fmt"
	"hash/maphash"
	"strconv"
	"strings"

	"github.com/runnelhq/runnel"
)

// The item model: two items of a group are set, counted up and deleted, under conditions and without, one at a time and
// both in one commit, and read alone and together. A version is the place of the entry that gave it, so the model
// knows each one. Checked group by group.
var itemModel = &model{
	name:     "item",
	offers:   func(k kind) bool { return !k.http && !k.remote },
	play:     playItems,
	conclude: func(c *client) { readItems(c, "a", "b") },
	states:   powerset(groups{}),
	sometimes: []string{
		"outcome unknown", "refused: " + itemMoved, "refused: " + notFound, "restarts", "restarts after failures",
		"calls cancelled", "commits that happen late",
	},
}

// itemKeys are the items of a group.
var itemKeys = [...]string{"x", "y"}

func playItems(c *client) {
	seen := make(map[string]runnel.Sequence) // versions by group and key
	for c.more() {
		group, key := pick(c, "a", "a", "b"), pick(c, itemKeys[:]...)
		at := group + key
		op := itemWriting{group: group, writes: []itemWrite{{key: key}}}
		switch w := &op.writes[0]; c.rng.IntN(10) {
		case 0, 1:
			w.value = c.payloads(1)[0]
		case 2, 3, 4:
			version := seen[at]
			w.value, w.expect = c.payloads(1)[0], &version
		case 5:
			w.counts = true
		case 6:
			if version := seen[at]; c.chance(2) {
				w.expect = &version
			}
		case 7:
			version := seen[at]
			w.value, w.expect = c.payloads(1)[0], &version
			op.writes = append(op.writes, itemWrite{key: itemKeys[1-indexOfItem(key)], value: w.value, counts: c.chance(2)})
		case 8:
			if a, ok := c.do(itemReading{group: group, item: key}); ok {
				v, _ := a.value.(item)
				seen[at] = v.version
			}
			continue
		case 9:
			if a, ok := c.do(itemsReading{group: group}); ok && a.done() {
				for i, key := range itemKeys {
					seen[group+key] = a.value.(board).items[i].version
				}
			}
			continue
		}
		switch a, ok := c.do(op); {
		case !ok:
		case a.refused.kind == itemMoved:
			seen[at] = runnel.Sequence(a.refused.number)
		default:
			told, _ := a.value.(board)
			seen[at] = told.items[indexOfItem(key)].version
		}
	}
}

func readItems(c *client, groups ...string) {
	for range 2 {
		for _, group := range groups {
			c.do(itemsReading{group: group})
		}
	}
}

func indexOfItem(key string) int { return int(key[0] - 'x') }

// item is an item; the zero item is none.
type item struct {
	version runnel.Sequence
	value   string
}

// board is a group: its items, and how many entries it has. One without entries does not exist.
type board struct {
	tail  runnel.Sequence
	items [len(itemKeys)]item
}

// groups is the state of all groups.
type groups [len(names)]board

func (g groups) equal(o groups) bool { return g == o }
func (g groups) hash() uint64        { return maphash.Comparable(hashing, g) }

func (g groups) String() string {
	var parts []string
	for i := range g {
		if g[i].tail > 0 {
			parts = append(parts, fmt.Sprintf("%s: %v", names[i], g[i]))
		}
	}
	return strings.Join(parts, "; ")
}

var _ = []stepper[groups]{itemWriting{}, itemReading{}, itemsReading{}}

// itemWriting is a commit to items of a group.
type itemWriting struct {
	write
	group  string
	writes []itemWrite
}

// itemWrite sets an item, deletes it, or counts it up from 0.
type itemWrite struct {
	key    string
	value  string
	counts bool
	expect *runnel.Sequence
}

func (o itemWriting) key() string { return o.group }

func (o itemWriting) String() string {
	var parts []string
	for _, w := range o.writes {
		what := "delete " + w.key
		if w.counts {
			what = "count " + w.key
		} else if w.value != "" {
			what = "set " + w.key + " to " + w.value
		}
		if w.expect != nil {
			what += fmt.Sprintf(" at %d", *w.expect)
		}
		parts = append(parts, what)
	}
	return o.group + ": " + strings.Join(parts, ", ")
}

// next is the value that a write gives to an item, empty for none.
func (w *itemWrite) next(old string) string {
	if !w.counts {
		return w.value
	}
	n, _ := strconv.Atoi(old) // what is no number counts as 0
	return strconv.Itoa(n + 1)
}

// do returns the items that were written as a board, without its tail.
func (o itemWriting) do(ctx context.Context, l log) (any, error) {
	all := runnel.ItemWrites{Segment: o.group}
	for _, w := range o.writes {
		one := runnel.ItemWrite{ItemKey: runnel.ItemKey{Key: w.key}, IfVersion: w.expect}
		switch {
		case w.counts:
			one.Apply = func(old *runnel.Item) ([]byte, error) {
				if old == nil {
					return []byte(w.next("")), nil
				}
				return []byte(w.next(string(old.Value))), nil
			}
		case w.value != "":
			one.Value = []byte(w.value)
		}
		all.Writes = append(all.Writes, one)
	}
	done, err := l.WriteItems(ctx, all)
	if err != nil {
		return nil, err
	}
	var told board
	for i, w := range o.writes {
		told.items[indexOfItem(w.key)] = toldItem(done[0].Results[i].New)
	}
	return told, nil
}

func toldItem(it *runnel.Item) item {
	if it == nil {
		return item{}
	}
	return item{version: it.Version, value: string(it.Value)}
}

func (o itemWriting) step(s groups, a answer) []groups {
	next, told, refused := s[index(o.group)].write(o.writes)
	after := s
	after[index(o.group)] = next
	return written(s, after, refused, a, func() bool { return a.value == told })
}

// write is what a commit makes of a group, and what its client is told, or why it is refused.
func (b board) write(writes []itemWrite) (next, told board, refused refusal) {
	next = b
	for i := range writes {
		w := &writes[i]
		it := &next.items[indexOfItem(w.key)]
		if w.expect != nil && *w.expect != it.version {
			return b, told, refusal{itemMoved, uint64(it.version)}
		}
		value := w.next(it.value)
		if value == "" && it.version == 0 {
			continue
		}
		next.tail++
		if *it = (item{}); value != "" {
			*it = item{version: next.tail, value: value}
		}
		told.items[indexOfItem(w.key)] = *it
	}
	return next, told, refusal{}
}

// itemReading reads an item; one that does not exist is the zero item.
type itemReading struct {
	read
	group, item string
}

func (o itemReading) key() string    { return o.group }
func (o itemReading) String() string { return "read " + o.item + " of " + o.group }

func (o itemReading) do(ctx context.Context, l log) (any, error) {
	it, err := l.Item(ctx, o.group, o.item)
	if err != nil {
		return nil, err
	}
	return toldItem(&it), nil
}

func (o itemReading) step(s groups, a answer) []groups {
	it := s[index(o.group)].items[indexOfItem(o.item)]
	if it == (item{}) {
		return written(s, s, refusal{kind: notFound}, a, nil)
	}
	return written(s, s, refusal{}, a, func() bool { return a.value == it })
}

// itemsReading reads all items of a group at one moment.
type itemsReading struct {
	read
	group string
}

func (o itemsReading) key() string    { return o.group }
func (o itemsReading) String() string { return "read all of " + o.group }

func (o itemsReading) do(ctx context.Context, l log) (any, error) {
	v, err := l.Items(ctx, o.group)
	if err != nil {
		return nil, err
	}
	b := board{tail: v.Tail}
	for i := range v.Items {
		b.items[indexOfItem(v.Items[i].Key)] = toldItem(&v.Items[i])
	}
	return b, nil
}

func (o itemsReading) step(s groups, a answer) []groups {
	b := s[index(o.group)]
	if b.tail == 0 {
		return written(s, s, refusal{kind: notFound}, a, nil)
	}
	return written(s, s, refusal{}, a, func() bool { return a.value == b })
}
