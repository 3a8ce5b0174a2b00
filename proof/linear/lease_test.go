package linear

import (
	"context"
	"fmt"
	"hash/maphash"
	"strings"
	"time"

	"github.com/runnelhq/runnel"
)

// The lease model: clients acquire two keys of a space, wait for one, renew, release, and append under the
// fencing numbers that they were given, which may be outdated by then; and now and then the clock of all
// engines is set forward. Numbers rise over all keys, so the space is checked as one.
var leaseModel = &model{
	name:     "lease",
	offers:   func(k kind) bool { return !k.http && !k.items },
	prepare:  func(c *client) { c.lay("a") },
	play:     playLease,
	conclude: concludeLease,
	whole:    true,
	states:   powerset(leases{}),
	sometimes: []string{
		"outcome unknown", "unknown, and it happened", "unknown, and nobody saw it", "refused: " + leaseHeld, "refused: " + leaseLost,
		"restarts", "restarts after failures", "leases that were waited for", "leases that nobody had any more",
		"appends under a fencing number", "appends under an outdated number",
	},
}

// leases is the state of both keys, and of the segment that is written under their numbers.
type leases struct {
	keys    [2]grant
	last    uint64 // the highest number that somebody was told
	content *content
}

// grant is a lease; the zero grant is none.
type grant struct {
	holder string
	// number is 0 where nobody was told yet; it is then beyond.
	number, beyond uint64
	ttl, deadline  int64 // ticks
}

func (g *grant) heldAt(t int64) bool { return g.holder != "" && g.deadline > t }

// is takes note of a number that was told, and says whether it can be the lease's.
func (g *grant) is(number uint64) bool {
	if g.number == 0 && number > g.beyond {
		g.number = number
	}
	return g.number == number
}

func (s leases) equal(o leases) bool {
	return s.keys == o.keys && s.last == o.last && s.content.tail() == o.content.tail() && s.content.hash() == o.content.hash()
}

func (s leases) hash() uint64 {
	return maphash.Comparable(hashing, [3]uint64{maphash.Comparable(hashing, s.keys), s.last, s.content.hash()})
}

func (s leases) String() string {
	var parts []string
	for i, g := range s.keys {
		if g.holder != "" {
			parts = append(parts, fmt.Sprintf("%s: %s under %d until %d", leaseKey(i), g.holder, g.number, g.deadline))
		}
	}
	return strings.Join(append(parts, fmt.Sprintf("%d entries", s.content.tail())), "; ")
}

func leaseKey(i int) string { return string(rune('k' + i)) }

func (s leases) with(key int, g grant) leases {
	s.keys[key] = g
	return s
}

var _ = []stepper[leases]{acquisition{}, renewal{}, release{}, fencedAppend{}, noteReading{}}

// leaseTold is what an acquisition or a renewal was told.
type leaseTold struct {
	number   uint64
	deadline time.Time
}

// timed is an operation that goes by the clock.
type timed struct {
	write
	which int
	at    *moments
}

func (timed) key() string { return "" }

// each collects what may follow, of which step says it for one moment.
func (o timed) each(a answer, step func(t int64) []leases) (all []leases) {
	for t := range o.at.between(a.unknown) {
		for _, next := range step(t) {
			known := false
			for i := range all {
				known = known || all[i].equal(next)
			}
			if !known {
				all = append(all, next)
			}
		}
	}
	return all
}

// refusedLease is how an operation ends that a lease stands against, whose number it is told.
func refusedLease(s leases, key int, kind string, a answer) []leases {
	g := s.keys[key]
	if !a.unknown && (a.refused.kind != kind || !g.is(a.refused.number)) {
		return nil
	}
	return []leases{s.with(key, g)}
}

type acquisition struct {
	timed
	holder string
	ttl    int64 // ticks
	wait   bool
}

func (o acquisition) String() string {
	return fmt.Sprintf("acquire %s for %s, %d ticks%s, at %d to %d", leaseKey(o.which), o.holder, o.ttl, when(o.wait, ", waiting"), o.at.from, o.at.to)
}

func (o acquisition) do(ctx context.Context, l log) (any, error) {
	if o.wait {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, waiting)
		defer cancel()
	}
	lease, err := l.Acquire(ctx, runnel.LeaseRequest{Key: leaseKey(o.which), Holder: o.holder, TTL: time.Duration(o.ttl) * tick, Wait: o.wait})
	return leaseTold{lease.Number, lease.Deadline}, err
}

func (o acquisition) step(s leases, a answer) []leases {
	v, _ := a.value.(leaseTold)
	return o.each(a, func(t int64) []leases {
		if g := s.keys[o.which]; g.heldAt(t) && g.holder != o.holder {
			if o.wait && !a.unknown {
				return nil // it would wait
			}
			return refusedLease(s, o.which, leaseHeld, a)
		}
		g := grant{holder: o.holder, beyond: s.last, ttl: o.ttl, deadline: t + o.ttl}
		next := s
		if !a.unknown {
			g.number, next.last = v.number, v.number
		}
		next = next.with(o.which, g)
		return written(s, next, refusal{}, a, func() bool { return v.number > s.last && v.deadline.Equal(timeOf(g.deadline)) })
	})
}

// fence is a number that is demanded.
type fence struct {
	timed
	number uint64
}

func (o fence) demand() runnel.Fence { return runnel.Fence{Key: leaseKey(o.which), Number: o.number} }

// under says what follows if the lease is held under the number at a moment, and what if not.
func (o fence) under(s leases, a answer, then func(t int64, g grant) []leases) []leases {
	return o.each(a, func(t int64) []leases {
		g := s.keys[o.which]
		switch {
		case !g.heldAt(t):
			next := s.with(o.which, grant{}) // that it is lost stays so
			if a.unknown {
				return []leases{s, next}
			}
			return written(s, next, refusal{kind: leaseLost}, answer{refused: a.refused}, nil)
		case g.number != o.number:
			return refusedLease(s, o.which, leaseLost, a)
		}
		return then(t, g)
	})
}

type renewal struct{ fence }

func (o renewal) String() string {
	return fmt.Sprintf("renew %s under %d, at %d to %d", leaseKey(o.which), o.number, o.at.from, o.at.to)
}

func (o renewal) do(ctx context.Context, l log) (any, error) {
	lease, err := l.Renew(ctx, o.demand())
	return leaseTold{lease.Number, lease.Deadline}, err
}

func (o renewal) step(s leases, a answer) []leases {
	v, _ := a.value.(leaseTold)
	return o.under(s, a, func(t int64, g grant) []leases {
		g.deadline = t + g.ttl
		return written(s, s.with(o.which, g), refusal{}, a, func() bool {
			return v.number == o.number && v.deadline.Equal(timeOf(g.deadline))
		})
	})
}

type release struct{ fence }

func (o release) String() string {
	return fmt.Sprintf("release %s under %d, at %d to %d", leaseKey(o.which), o.number, o.at.from, o.at.to)
}

func (o release) do(ctx context.Context, l log) (any, error) { return nil, l.Release(ctx, o.demand()) }

func (o release) step(s leases, a answer) []leases {
	return o.under(s, a, func(int64, grant) []leases {
		return written(s, s.with(o.which, grant{}), refusal{}, a, func() bool { return true })
	})
}

// fencedAppend appends to a segment, if a lease is held.
type fencedAppend struct {
	fence
	payloads []string
}

func (o fencedAppend) sends() []string { return o.payloads }

func (o fencedAppend) String() string {
	return fmt.Sprintf("append %s under %s/%d, at %d to %d", strings.Join(o.payloads, " "), leaseKey(o.which), o.number, o.at.from, o.at.to)
}

func (o fencedAppend) do(ctx context.Context, l log) (any, error) {
	c, err := l.Transact(ctx, runnel.Transaction{
		Writes: []runnel.Write{{Segment: "a", Records: recordsOf(o.payloads)}},
		Fences: []runnel.Fence{o.demand()},
	})
	if err != nil {
		return appended{}, err
	}
	return toldAppended(&c.Appended[0], new(runnel.AppendOptions), len(o.payloads)), nil
}

func (o fencedAppend) step(s leases, a answer) []leases {
	return o.under(s, a, func(int64, grant) []leases {
		next := s
		next.content = s.content.add(o.payloads...)
		return written(s, next, refusal{}, a, func() bool {
			return a.value == appended{first: s.content.tail() + 1, tail: next.content.tail()}
		})
	})
}

// noteReading reads what was written under leases.
type noteReading struct{ reading }

func (o noteReading) key() string { return "" }

func (o noteReading) step(s leases, a answer) []leases {
	v, _ := a.value.(snapshot)
	return written(s, s, refusal{}, a, func() bool {
		return v.tail == s.content.tail() && runnel.Sequence(len(v.payloads)) == v.tail && s.content.holds(0, v.payloads)
	})
}

func playLease(c *client) {
	holder := pick(c, "ann", "ben", "cid")
	numbers := [2][]uint64{{never}, {never}}
	for c.more() {
		if c.chance(6) {
			c.h.w.clock.advance()
		}
		o := timed{which: c.rng.IntN(2), at: c.moments()}
		known := numbers[o.which]
		f := fence{o, known[len(known)-1]}
		if c.chance(4) {
			f.number = known[max(0, len(known)-2)]
		}
		switch n := c.rng.IntN(10); {
		case n < 4 || len(known) == 1 && n < 8:
			op := acquisition{timed: o, holder: holder, ttl: int64(2 + 2*c.rng.IntN(3)), wait: c.chance(4)}
			a, ok := c.doTimed(op, o)
			v, _ := a.value.(leaseTold)
			if ok && a.done() {
				numbers[o.which] = append(known, v.number)
				if op.wait {
					c.h.tally.count("leases that were waited for")
				}
			}
		case n < 6:
			c.demand(renewal{f}, f)
		case n < 7:
			c.demand(release{f}, f)
		case n < 9:
			a, ok := c.demand(fencedAppend{f, c.payloads(2)}, f)
			switch {
			case ok && a.done():
				c.h.tally.count("appends under a fencing number")
			case a.refused.kind == leaseLost && f.number != never:
				c.h.tally.count("appends under an outdated number")
			}
		default:
			c.do(noteReading{reading{name: "a"}})
		}
	}
}

// never is a number that is never given.
const never = 1 << 40

// moments begins those of an operation.
func (c *client) moments() *moments {
	now := c.h.w.clock.ticks.Load()
	return &moments{clock: &c.h.w.clock, from: now, to: now}
}

// doTimed makes a call that goes by the clock.
func (c *client) doTimed(op operation, o timed) (a answer, ok bool) {
	a, ok = c.do(op)
	o.at.to = c.h.w.clock.ticks.Load()
	return a, ok
}

// demand makes a call under a number.
func (c *client) demand(op operation, f fence) (a answer, ok bool) {
	a, ok = c.doTimed(op, f.timed)
	if a.refused.kind == leaseLost && f.number != never && a.refused.number == 0 {
		c.h.tally.count("leases that nobody had any more")
	}
	return a, ok
}

// concludeLease finds out who holds what, and what was written.
func concludeLease(c *client) {
	for key := range 2 {
		o := timed{which: key, at: c.moments()}
		c.doTimed(renewal{fence{o, never}}, o)
	}
	c.do(noteReading{reading{name: "a"}})
}
