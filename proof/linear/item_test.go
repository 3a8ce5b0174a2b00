package linear

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/maphash"
	"strings"

	"github.com/runnelhq/runnel"
)

// The item model: two items of a group are set, counted up and deleted, under conditions and without, one at a time and
// both in one commit, with idempotency keys that are used again, and read alone and together; groups are deleted and made
// again, and followed from a snapshot on. A version is the place of the entry that gave it, so the model knows each one.
// Checked group by group.
var itemModel = &model{
	name:     "item",
	offers:   func(k kind) bool { return !k.http },
	prepare:  followItems,
	play:     playItems,
	conclude: concludeItems,
	states:   powerset(groups{}),
	sometimes: []string{
		"outcome unknown", "refused: " + itemMoved, "refused: " + notFound, "refused: " + keyReused, "restarts",
		"restarts after failures", "calls cancelled", "commits that happen late", "writes recognised when they were repeated",
		"answers that were lost", "requests that were lost", "changes told", "subscriptions that went on",
	},
}

const (
	// itemPayload is the value of an item that is set.
	itemPayload = `{"v":%s,"n":0}`
	// increment counts an item up, from 0 if there is none.
	increment = `[{"type":"increment","path":"n","by":1}]`
	// keysEach is how many idempotency keys a client has.
	keysEach = 1
)

// itemKeys are the items of a group.
var itemKeys = [...]string{"x", "y"}

func playItems(c *client) {
	seen := make(map[string]runnel.Sequence) // versions by group and key
	var again itemWriting                    // with an idempotency key
	for c.more() {
		group, key := pick(c, "a", "a", "b"), pick(c, itemKeys[:]...)
		at := group + key
		op := itemWriting{group: group, writes: []itemWrite{{key: key, kind: sets}}}
		switch w := &op.writes[0]; c.rng.IntN(15) {
		case 0:
			w.value = c.payloads(1)[0]
		case 1, 2, 3:
			version := seen[at]
			w.value, w.expect = c.payloads(1)[0], &version
		case 4, 5:
			w.kind = counts
		case 6:
			w.kind, w.present = counts, true
		case 7:
			if w.kind = deletes; c.chance(2) {
				version := seen[at]
				w.expect = &version
			}
		case 8:
			version := seen[at]
			w.value, w.expect = c.payloads(1)[0], &version
			op.writes = append(op.writes, itemWrite{key: itemKeys[1-indexOfItem(key)], kind: pick(c, sets, counts, deletes), value: w.value})
		case 9:
			w.value = c.payloads(1)[0]
			op.useKey(c)
			again = op
		case 10:
			if again.request == 0 || c.chance(3) {
				w.kind = counts
				op.useKey(c)
				op.request = uint64(1 + indexOfItem(key)) // whenever it is sent it is the same request
				again = op
			}
			op = again
		case 11:
			if a, ok := c.do(itemReading{group: group, item: key}); ok {
				v, _ := a.value.(item)
				seen[at] = v.version
			}
			continue
		case 12:
			if a, ok := c.do(itemsReading{group: group}); ok && a.done() {
				for i, key := range itemKeys {
					seen[group+key] = a.value.(board).items[i].version
				}
			}
			continue
		case 13:
			if c.chance(2) {
				c.do(groupDeletion{group: group})
			}
			continue
		case 14:
			c.subscribe(group)
			continue
		}
		switch a, ok := c.do(op); {
		case !ok:
		case a.refused.kind == itemMoved:
			seen[at] = runnel.Sequence(a.refused.number)
		case a.done():
			told := a.value.(itemsTold)
			if seen[op.group+op.writes[0].key] = told.items[indexOfItem(op.writes[0].key)].version; told.duplicate {
				c.h.tally.count("writes recognised when they were repeated")
			}
		}
	}
}

func indexOfItem(key string) int { return int(key[0] - 'x') }

// item is an item; the zero item is none. Its value is a text, that nobody else writes, and a count.
type item struct {
	version runnel.Sequence
	value   itemValue
}

type itemValue struct {
	Text  string `json:"v"`
	Count int    `json:"n"`
}

func (it item) shows() []string { return []string{fmt.Sprintf("%q", it.value.Text)} }

func valueOf(text []byte) itemValue {
	var v itemValue
	if err := json.Unmarshal(text, &v); err != nil {
		v.Text = fmt.Sprintf("%q: %v", text, err) // which nobody has written
	}
	return v
}

// board is a group: its items, how many entries it has, and the idempotency keys that were used. One without entries
// does not exist.
type board struct {
	id    uint64 // 0: nobody has been told
	tail  runnel.Sequence
	items [len(itemKeys)]item
	keys  [4 * keysEach]usedKey
	gone  uint64 // the id of the incarnation before
}

// usedKey is what an idempotency key was used for, and the entries that the write made.
type usedKey struct {
	request     uint64
	first, last runnel.Sequence
}

func (b board) shows() []string {
	var all []string
	for _, it := range b.items {
		all = append(all, it.shows()...)
	}
	return all
}

// is takes note of an id that was told, and says whether it can be the group's.
func (b *board) is(id uint64) bool {
	if id == 0 {
		return true
	}
	if b.id == 0 && id != b.gone {
		b.id = id
	}
	return b.id == id
}

// groups is the state of all groups.
type groups [len(names)]board

func (g groups) equal(o groups) bool { return g == o }
func (g groups) hash() uint64        { return maphash.Comparable(hashing, g) }

func (g groups) String() string {
	var parts []string
	for i := range g {
		if g[i].tail > 0 {
			parts = append(parts, fmt.Sprintf("%s: %v through %d%s", names[i], g[i].items, g[i].tail, identity(g[i].id)))
		}
	}
	return strings.Join(parts, "; ")
}

// with is the groups with another state of one.
func (g groups) with(name string, b board) groups {
	g[index(name)] = b
	return g
}

var _ = []stepper[groups]{itemWriting{}, itemReading{}, itemsReading{}, groupDeletion{}, subscribed{}, itemChanged{}}

// itemWriting is a commit to items of a group.
type itemWriting struct {
	write
	group  string
	writes []itemWrite
	// once is an idempotency key of the client, if request is not 0, and request tells what it is used for.
	once    int
	request uint64
}

// useKey gives the writes an idempotency key, which may have been used.
func (o *itemWriting) useKey(c *client) {
	c.sent++
	o.once, o.request = c.id%4*keysEach+c.rng.IntN(keysEach), uint64(1+c.id)<<32+uint64(c.sent)
}

// change is what becomes of an item.
type change int

const (
	sets change = iota
	counts
	deletes
)

// itemWrite sets an item, deletes it, or counts it up from 0.
type itemWrite struct {
	key     string
	kind    change
	value   string // in quotes
	expect  *runnel.Sequence
	present bool // demands that there is one
}

func (o itemWriting) key() string { return o.group }

func (o itemWriting) sends() []string {
	var all []string
	for i := range o.writes {
		if o.writes[i].value != "" {
			all = append(all, o.writes[i].value)
		}
	}
	return all
}

func (o itemWriting) String() string {
	var parts []string
	for _, w := range o.writes {
		what := [...]string{"set " + w.key + " to " + w.value, "count " + w.key, "delete " + w.key}[w.kind]
		if w.expect != nil {
			what += fmt.Sprintf(" at %d", *w.expect)
		}
		parts = append(parts, what+when(w.present, " if it is there"))
	}
	return o.group + ": " + strings.Join(parts, ", ") + when(o.request != 0, fmt.Sprintf(" once, as %s", onceKey(o.once)))
}

func onceKey(n int) string { return fmt.Sprintf("k%d", n) }

// next is what a write makes of an item, but for its version. The zero value is that of none.
func (w *itemWrite) next(old itemValue) (value itemValue, exists bool) {
	switch w.kind {
	case sets:
		return itemValue{Text: strings.Trim(w.value, `"`)}, true
	case counts:
		old.Count++
		return old, true
	}
	return itemValue{}, false
}

// itemsTold is what the client of a write is told: the items that were written, and what they were before.
type itemsTold struct {
	items     [len(itemKeys)]item
	was       [len(itemKeys)]itemValue
	duplicate bool
}

// do makes the commit.
func (o itemWriting) do(ctx context.Context, l log) (any, error) {
	all := runnel.ItemWrites{Segment: o.group}
	if o.request != 0 {
		all.Key, all.Sum = onceKey(o.once), o.request
	}
	for _, w := range o.writes {
		one := runnel.ItemWrite{ItemKey: runnel.ItemKey{Key: w.key}, IfVersion: w.expect, IfExists: w.present}
		switch w.kind {
		case sets:
			one.Value = fmt.Appendf(nil, itemPayload, w.value)
		case counts:
			one.Ops = []byte(increment)
		case deletes:
		}
		all.Writes = append(all.Writes, one)
	}
	done, err := l.WriteItems(ctx, all)
	if err != nil {
		return nil, err
	}
	told := itemsTold{duplicate: done[0].Duplicate}
	for i, w := range o.writes {
		at := indexOfItem(w.key)
		told.items[at] = toldItem(done[0].Results[i].New)
		told.was[at] = toldItem(done[0].Results[i].Old).value
	}
	return told, nil
}

func toldItem(it *runnel.Item) item {
	if it == nil {
		return item{}
	}
	return item{version: it.Version, value: valueOf(it.Value)}
}

func (o itemWriting) step(s groups, a answer) []groups {
	next, told, refused := s[index(o.group)].write(&o)
	return written(s, s.with(o.group, next), refused, a, func() bool { return a.value == told })
}

// write is what a commit makes of a group, and what its client is told, or why it is refused.
func (b board) write(o *itemWriting) (next board, told itemsTold, refused refusal) {
	next = b
	if used := b.keys[o.once]; o.request != 0 && used.request != 0 {
		if used.request != o.request {
			return b, told, refusal{kind: keyReused}
		}
		told.duplicate = true
		for i := range o.writes {
			at := indexOfItem(o.writes[i].key)
			if it := b.items[at]; used.first <= it.version && it.version <= used.last {
				told.items[at] = it
			}
		}
		return b, told, refusal{}
	}
	for i := range o.writes {
		w := &o.writes[i]
		at := indexOfItem(w.key)
		it := &next.items[at]
		if w.expect != nil && *w.expect != it.version || w.present && it.version == 0 {
			return b, itemsTold{}, refusal{itemMoved, uint64(it.version)}
		}
		value, exists := w.next(it.value)
		if !exists && it.version == 0 {
			continue
		}
		told.was[at] = it.value
		next.tail++
		if *it = (item{}); exists {
			*it = item{version: next.tail, value: value}
		}
		told.items[at] = *it
	}
	if o.request != 0 {
		next.keys[o.once] = usedKey{o.request, b.tail + 1, next.tail}
	}
	return next, told, refusal{}
}

// groupDeletion deletes a group.
type groupDeletion struct {
	write
	group string
}

func (o groupDeletion) key() string    { return o.group }
func (o groupDeletion) String() string { return "delete group " + o.group }

func (o groupDeletion) do(ctx context.Context, l log) (any, error) {
	return nil, l.Delete(ctx, o.group)
}

func (o groupDeletion) step(s groups, a answer) []groups {
	b := s[index(o.group)]
	if b.tail == 0 {
		return written(s, s, refusal{kind: notFound}, a, nil)
	}
	return written(s, s.with(o.group, board{gone: b.id}), refusal{}, a, func() bool { return true })
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
	b := board{id: v.ID, tail: v.Tail}
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
	v, _ := a.value.(board)
	matches := v.tail == b.tail && v.items == b.items && b.is(v.id)
	return written(s, s.with(o.group, b), refusal{}, a, func() bool { return matches })
}

// concludeItems reads everything twice, and asks of those who have followed a group that they have come to the same.
func concludeItems(c *client) {
	for range 2 {
		for _, group := range names[:2] {
			c.do(itemsReading{group: group})
		}
	}
	for _, f := range c.h.w.followers {
		c.settle(f)
	}
	c.h.w.stopFollowing()
}
