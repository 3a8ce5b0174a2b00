package linear

import (
	"context"
	"fmt"
	"hash/maphash"
	"strings"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/proof/patience"
)

// content is what a segment holds, folded: how many entries, and a hash over all of them. What it held
// before stays reachable, for reads that begin in the middle and for forks. Nil is empty.
type content struct {
	length runnel.Sequence
	sum    uint64
	before *content
}

var hashing = maphash.MakeSeed()

func (c *content) tail() runnel.Sequence {
	if c == nil {
		return 0
	}
	return c.length
}

func (c *content) hash() uint64 {
	if c == nil {
		return 0
	}
	return c.sum
}

func (c *content) add(payloads ...string) *content {
	for _, payload := range payloads {
		link := [2]uint64{c.hash(), maphash.String(hashing, payload)}
		c = &content{length: c.tail() + 1, sum: maphash.Comparable(hashing, link), before: c}
	}
	return c
}

// through is the content up to an entry, which must be there.
func (c *content) through(last runnel.Sequence) *content {
	for c.tail() > last {
		c = c.before
	}
	return c
}

// holds tells whether the payloads are what follows a place.
func (c *content) holds(from runnel.Sequence, payloads []string) bool {
	last := from + runnel.Sequence(len(payloads))
	return last <= c.tail() && c.through(from).add(payloads...).hash() == c.through(last).hash()
}

// segment is the state of one name. The zero segment does not exist.
type segment struct {
	exists bool
	id     uint64 // 0: nobody has been told
	config uint64 // of the two that clients create with
	closed bool
	// by is the producer's write that closed it, if it was one's.
	by        runnel.Producer
	content   *content
	producers [2]progress
	// gone is the id of the incarnation before.
	gone uint64
}

// progress is how far an idempotent producer has come.
type progress struct {
	known      bool
	epoch, seq uint64
}

func (g *segment) equal(o *segment) bool {
	return g.exists == o.exists && g.id == o.id && g.config == o.config && g.closed == o.closed && g.by == o.by &&
		g.producers == o.producers && g.gone == o.gone && g.content.tail() == o.content.tail() && g.content.hash() == o.content.hash()
}

func (g *segment) String() string {
	if !g.exists {
		return "none"
	}
	text := fmt.Sprintf("%d entries (%04x)%s", g.content.tail(), uint16(g.content.hash()), when(g.closed, ", closed")+identity(g.id))
	for i, p := range g.producers {
		if p.known {
			text += fmt.Sprintf(", %s at %d.%d", producerID(i), p.epoch, p.seq)
		}
	}
	return text
}

func producerID(i int) string { return fmt.Sprintf("p%d", i) }

// is takes note of an id that was told, and says whether it can be the segment's.
func (g *segment) is(id uint64) bool {
	if id == 0 {
		return true
	}
	if g.id == 0 && id != g.gone {
		g.id = id
	}
	return g.id == id
}

// names are the segments that models use. A state has a place for each.
var names = [...]string{"a", "b", "c"}

// space is the state of all names.
type space [len(names)]segment

func index(name string) int { return int(name[0] - 'a') }

func (s space) equal(o space) bool {
	for i := range s {
		if !s[i].equal(&o[i]) {
			return false
		}
	}
	return true
}

func (s space) hash() uint64 {
	var sums [2 * len(names)]uint64
	for i := range s {
		sums[2*i], sums[2*i+1] = s[i].content.hash(), s[i].id
	}
	return maphash.Comparable(hashing, sums)
}

func (s space) String() string {
	var parts []string
	for i := range s {
		if s[i] != (segment{}) {
			parts = append(parts, names[i]+": "+s[i].String())
		}
	}
	return strings.Join(parts, "; ")
}

// with is the space with another state of a name.
func (s space) with(name string, g segment) space {
	s[index(name)] = g
	return s
}

var _ = []stepper[space]{creation{}, deletion{}, appending{}, reading{}, looking{}, delivery{}, ending{}}

var _ state[space] = space{}

// read is the part of an operation that reads.
type read struct{}

func (read) reads() bool { return true }

// write is the part of an operation that writes.
type write struct{}

func (write) reads() bool { return false }

// creation creates a segment with one of two configurations.
type creation struct {
	write
	name     string
	config   uint64
	closed   bool
	payloads []string
}

func (o creation) key() string     { return o.name }
func (o creation) sends() []string { return o.payloads }

func (o creation) String() string {
	return fmt.Sprintf("create %s as %d%s %s", o.name, o.config, when(o.closed, ", closed"), strings.Join(o.payloads, " "))
}

// created is what a creation was told.
type created struct {
	existed bool
	tail    runnel.Sequence
	closed  bool
	id      uint64
}

func told(c *runnel.Created) created {
	return created{existed: c.Existed, tail: c.Tail, closed: c.Closed, id: c.ID}
}

func (o creation) do(ctx context.Context, l log) (any, error) {
	c, err := l.Create(ctx, o.name, runnel.CreateOptions{
		ContentType: contentType,
		Retention:   runnel.Retention{Entries: 1000 * o.config}, // which nobody reaches
		Closed:      o.closed,
		Records:     recordsOf(o.payloads),
	})
	return told(&c), err
}

func (o creation) step(s space, a answer) []space {
	g := s[index(o.name)]
	if g.exists {
		return existing(s, o.name, a, g.config == o.config && g.closed == o.closed)
	}
	return fresh(s, o.name, a, segment{config: o.config, closed: o.closed, content: (*content)(nil).add(o.payloads...)})
}

// existing is how a creation ends that finds the name taken.
func existing(s space, name string, a answer, same bool) []space {
	if !same {
		return written(s, s, refusal{kind: exists}, a, nil)
	}
	g := s[index(name)]
	v, _ := a.value.(created)
	matches := v.existed && v.tail == g.content.tail() && v.closed == g.closed && g.is(v.id)
	return written(s, s.with(name, g), refusal{}, a, func() bool { return matches })
}

// fresh is how a creation ends that finds the name free.
func fresh(s space, name string, a answer, g segment) []space {
	g.exists, g.gone = true, s[index(name)].gone
	v, _ := a.value.(created)
	matches := !v.existed && v.tail == g.content.tail() && v.closed == g.closed && (v.id == 0 || v.id != g.gone)
	if !a.unknown {
		g.id = v.id
	}
	return written(s, s.with(name, g), refusal{}, a, func() bool { return matches })
}

// deletion deletes a segment.
type deletion struct {
	write
	name string
}

func (o deletion) key() string    { return o.name }
func (o deletion) String() string { return "delete " + o.name }

func (o deletion) do(ctx context.Context, l log) (any, error) { return nil, l.Delete(ctx, o.name) }

func (o deletion) step(s space, a answer) []space {
	g := s[index(o.name)]
	if !g.exists {
		return written(s, s, refusal{kind: notFound}, a, nil)
	}
	return written(s, s.with(o.name, segment{gone: g.id}), refusal{}, a, func() bool { return true })
}

// appending appends to a segment, closes it, or both, under conditions.
type appending struct {
	write
	name     string
	payloads []string
	o        runnel.AppendOptions
}

func (o appending) key() string     { return o.name }
func (o appending) sends() []string { return o.payloads }

func (o appending) String() string {
	text := when(len(o.payloads) > 0, fmt.Sprintf("append to %s: %s", o.name, strings.Join(o.payloads, " ")))
	text += when(o.o.Close, " close "+o.name)
	if o.o.Expect != nil {
		text += fmt.Sprintf(" at %d", *o.o.Expect)
	}
	if p := o.o.Producer; p != nil {
		text += fmt.Sprintf(" by %s %d.%d", p.ID, p.Epoch, p.Seq)
	}
	return text
}

// appended is what an append was told.
type appended struct {
	first, tail       runnel.Sequence
	duplicate, closed bool
	seq               uint64
}

func toldAppended(a *runnel.Appended, o *runnel.AppendOptions, payloads int) appended {
	v := appended{first: a.First, tail: a.Tail, duplicate: a.Duplicate, closed: a.Closed, seq: a.ProducerSeq}
	if payloads == 0 || o.Producer == nil {
		v.duplicate = false // not told over HTTP
	}
	return v
}

func (o appending) do(ctx context.Context, l log) (any, error) {
	a, err := l.Append(ctx, o.name, o.o, o.payloads...)
	return toldAppended(&a, &o.o, len(o.payloads)), err
}

func (o appending) step(s space, a answer) []space {
	next, want, refused := s[index(o.name)].append(&o.o, o.payloads)
	return written(s, s.with(o.name, next), refused, a, func() bool { return a.value == want })
}

// append is what an append does, or why it is refused. The order of the checks is that of the
// documentation of the engine.
func (g segment) append(o *runnel.AppendOptions, payloads []string) (next segment, want appended, refused refusal) {
	tail := g.content.tail()
	p := o.Producer
	duplicate := appended{tail: tail, closed: g.closed, duplicate: len(payloads) > 0 && p != nil}
	switch {
	case !g.exists:
		return g, want, refusal{kind: notFound}
	case g.closed:
		if p != nil && g.progressOf(p).epoch > p.Epoch {
			return g, want, refusal{fenced, g.progressOf(p).epoch}
		}
		if p != nil && *p == g.by {
			duplicate.seq = p.Seq
			return g, duplicate, refusal{}
		}
		if o.Close && len(payloads) == 0 && p == nil {
			return g, duplicate, refusal{}
		}
		return g, want, refusal{closedAt, uint64(tail)}
	}
	if p != nil {
		again, refused := g.progressOf(p).next(p)
		if refused != (refusal{}) {
			return g, want, refused
		}
		if again {
			duplicate.seq = g.progressOf(p).seq
			return g, duplicate, refusal{}
		}
		want.seq = p.Seq
	}
	if o.Expect != nil && *o.Expect != tail {
		return g, want, refusal{tailMoved, uint64(tail)}
	}
	if len(payloads) > 0 {
		want.first = tail + 1
		g.content = g.content.add(payloads...)
	}
	if p != nil {
		*g.progressOf(p) = progress{known: true, epoch: p.Epoch, seq: p.Seq}
	}
	if o.Close {
		g.closed, want.closed = true, true
		if p != nil {
			g.by = *p
		}
	}
	want.tail = g.content.tail()
	return g, want, refusal{}
}

func (g *segment) progressOf(p *runnel.Producer) *progress { return &g.producers[p.ID[1]-'0'] }

// next says whether a producer's write is a repetition, or why it is refused.
func (at *progress) next(p *runnel.Producer) (again bool, refused refusal) {
	switch {
	case !at.known && p.Seq != 0:
		return false, refusal{gap, 0}
	case !at.known:
		return false, refusal{}
	case p.Epoch < at.epoch:
		return false, refusal{fenced, at.epoch}
	case p.Epoch > at.epoch && p.Seq != 0:
		return false, refusal{kind: invalid}
	case p.Epoch > at.epoch:
		return false, refusal{}
	case p.Seq > at.seq+1:
		return false, refusal{gap, at.seq + 1}
	}
	return p.Seq <= at.seq, refusal{}
}

// reading reads from a place to the tail.
type reading struct {
	read
	name string
	from runnel.Sequence
}

func (o reading) key() string    { return o.name }
func (o reading) String() string { return fmt.Sprintf("read %s from %d", o.name, o.from) }

func (o reading) do(ctx context.Context, l log) (any, error) {
	return l.Read(ctx, o.name, o.from)
}

func (o reading) step(s space, a answer) []space {
	g := s[index(o.name)]
	switch {
	case !g.exists:
		return written(s, s, refusal{kind: notFound}, a, nil)
	case o.from > g.content.tail():
		return written(s, s, refusal{beyondTail, uint64(g.content.tail())}, a, nil)
	}
	v, _ := a.value.(snapshot)
	matches := v.tail == g.content.tail() && v.closed == g.closed && o.from+runnel.Sequence(len(v.payloads)) == v.tail &&
		g.content.holds(o.from, v.payloads) && g.is(v.id)
	return written(s, s.with(o.name, g), refusal{}, a, func() bool { return matches })
}

// looking asks where the tail is.
type looking struct {
	read
	name string
}

func (o looking) key() string    { return o.name }
func (o looking) String() string { return "stat " + o.name }

func (o looking) do(ctx context.Context, l log) (any, error) {
	info, err := l.Stat(ctx, o.name)
	return snapshot{id: info.ID, tail: info.Tail, closed: info.Closed}, err
}

func (o looking) step(s space, a answer) []space {
	g := s[index(o.name)]
	if !g.exists {
		return written(s, s, refusal{kind: notFound}, a, nil)
	}
	v, _ := a.value.(snapshot)
	matches := v.tail == g.content.tail() && v.closed == g.closed && g.is(v.id)
	return written(s, s.with(o.name, g), refusal{}, a, func() bool { return matches })
}

// delivery is a batch that a live read brought. At some moment between the beginning of the live read
// and then, the segment held it at its place.
type delivery struct {
	read
	name string
	from runnel.Sequence
}

func (o delivery) key() string    { return o.name }
func (o delivery) String() string { return fmt.Sprintf("live read of %s from %d", o.name, o.from) }

func (o delivery) do(context.Context, log) (any, error) { panic("is recorded by follow") }

// delivered is the batch.
type delivered []string

func (d delivered) shows() []string { return d }

func (o delivery) step(s space, a answer) []space {
	g := s[index(o.name)]
	v, _ := a.value.(delivered)
	switch {
	case !g.exists:
		return written(s, s, refusal{kind: notFound}, a, nil)
	case o.from > g.content.tail():
		return written(s, s, refusal{beyondTail, uint64(g.content.tail())}, a, nil)
	}
	return written(s, s, refusal{}, a, func() bool { return g.content.holds(o.from, v) })
}

// ending is a live read that ends by itself: the segment is closed, and there is nothing after the place.
type ending struct{ delivery }

func (o ending) String() string {
	return fmt.Sprintf("live read of %s ends after %d", o.name, o.from)
}

func (o ending) step(s space, a answer) []space {
	g := s[index(o.name)]
	if a.done() && (!g.exists || !g.closed || g.content.tail() != o.from) {
		return nil
	}
	return o.delivery.step(s, a)
}

// follow reads a segment live from a place, and records each delivery. It returns when it has come to a
// place, which must happen if the place has been acknowledged already, or when nothing comes any more.
func (c *client) follow(name string, from, until runnel.Sequence, must bool) {
	limit, within := patience.Context, liveness
	if !must {
		limit, within = context.WithTimeout, waiting
	}
	ctx, cancel := limit(context.Background(), within)
	defer cancel()
	began, at := c.h.now(), from
	for payloads, err := range c.h.w.front(c.id).Tail(ctx, name, from) {
		op := delivery{name: name, from: at}
		if err != nil && ctx.Err() != nil {
			if must {
				c.h.stuck(fmt.Sprintf("a live read of %s came to %d, and not within %v to %d", name, at, within, until))
			}
			return
		}
		if _, ok := c.record(op, began, delivered(payloads), err); !ok || err != nil {
			return
		}
		c.h.tally.count("live deliveries")
		if at += runnel.Sequence(len(payloads)); at >= until {
			return
		}
	}
	c.h.tally.count("live reads that end at the close")
	c.record(ending{delivery{name: name, from: at}}, began, delivered(nil), nil)
}

const (
	// liveness is within which what was acknowledged must come to a live reader.
	liveness = 10 * time.Second
	// waiting is how long a live reader waits for what may never come.
	waiting = 3 * time.Millisecond
)
