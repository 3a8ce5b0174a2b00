package crash

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/runnelhq/runnel"
)

// makeFork forks a segment. It takes two commits, so nothing else is started until both are done, or
// power fails in between.
func makeFork(s *sim, r *rand.Rand) *call {
	source, from := s.where(r, true)
	addr, have := s.where(r, false)
	s.drain()
	if s.broken || s.armed || from == nil || addr == source || have != nil && have.source != nil {
		return nil
	}
	from = s.spaces[source.Space].base[source.Name]
	if from.verdict(s.now()) != alive || s.murky(from) {
		return nil
	}
	if from.retention.Age > 0 && s.behind() > 0 {
		return nil // power has failed since the source was looked at, and the clock is not what it was
	}
	if to := s.spaces[addr.Space].latest()[addr.Name]; to.verdict(s.now()) == unsure || to != nil && s.murky(to) {
		return nil
	}
	f := s.front(r)
	o := runnel.CreateOptions{ContentType: from.contentType, Fork: &runnel.ForkFrom{Source: source}}
	if r.IntN(12) == 0 {
		o.ContentType = contentTypes[r.IntN(len(contentTypes))]
	}
	switch r.IntN(5) {
	case 0:
		o.Fork.Latest = true
	case 1, 2:
		o.Fork.At = runnel.Sequence(r.IntN(int(from.tail()) + 2))
	default:
		o.Fork.At = from.earliest(s.now()) + runnel.Sequence(r.IntN(int(from.tail()-from.earliest(s.now()))+1))
		o.Fork.Sub = uint64(r.IntN(3))
		if !isJSON(from.contentType) {
			o.Fork.Sub = uint64(r.IntN(60))
		}
	}
	if r.IntN(3) == 0 && o.ContentType == from.contentType {
		o.Records = recordsOf(s.payloads(r, from.contentType, count(r, f, from.contentType)))
	}
	if r.IntN(4) == 0 {
		o.Retention.Entries = uint64(1 + r.IntN(6))
	}
	switch s.profile.kind(r) {
	case 0:
		o.TTL = time.Duration(8+r.IntN(60)) * time.Second
	case 1:
		o.ExpiresAt = s.now().at.Add(time.Duration(1+r.IntN(60)) * time.Second)
	}
	now := s.now()
	st := s.spaces[addr.Space].latest()
	_, to, err := st.settle(addr, now)
	var claimed, fork *segment
	switch {
	case to != nil:
		err = &runnel.ExistsError{Segment: addr, Field: "fork"}
	case errors.Is(err, runnel.ErrNotFound):
		claimed, fork, err = from.fork(s.ops+1, now, addr, o)
	}
	c := &call{
		what: fmt.Sprintf("fork %s: %s", addr, describe(o)), space: addr.Space, names: []string{addr.Name}, front: f, fork: true,
		run: func(ctx context.Context) (answer, error) { return f.create(ctx, addr, o) },
	}
	if err != nil {
		c.fork = false
		c.stage = func(st state, _ int, _ moment) outcome { return refuse(st, err) }
		return c
	}
	h := s.spaces[source.Space]
	h.staged = append(h.staged, staged{&flight{call: c, op: s.ops + 1}, h.latest().with(claimed)})
	s.marks.stage(source.Space, h.total())
	s.forking = true
	c.stage = func(st state, _ int, now moment) outcome {
		told := fork.told(now)
		told.created = true
		st, _, _ = st.settle(addr, now)
		return outcome{ok: told, next: st.with(fork)}
	}
	return c
}

// fork returns a segment with another claim on it, and the fork that has it.
func (sg *segment) fork(op int, now moment, addr runnel.Segment, o runnel.CreateOptions) (claimed, fork *segment, err error) {
	source := o.Fork.Source
	if o.ContentType != sg.contentType {
		return nil, nil, &runnel.ContentTypeError{Segment: source, Have: sg.contentType, Got: o.ContentType}
	}
	keep := o.Retention
	if keep == (runnel.Retention{}) {
		keep = sg.retention
	}
	for _, p := range o.Records {
		if n := len(p.Payload); keep.Bytes > 0 && n > int(keep.Bytes) {
			return nil, nil, &runnel.TooLargeError{What: "record of a segment that retains so many bytes", Limit: int64(keep.Bytes), Got: int64(n)}
		}
	}
	base := int(o.Fork.At)
	if o.Fork.Latest {
		base = len(sg.entries)
	}
	if base > len(sg.entries) {
		return nil, nil, &runnel.BeyondTailError{Segment: source, From: o.Fork.At, Tail: sg.tail()}
	}
	earliest := sg.earliest(now)
	if runnel.Sequence(base) < earliest {
		return nil, nil, &runnel.TrimmedError{Segment: source, From: o.Fork.At, Earliest: earliest}
	}
	sub := int(o.Fork.Sub)
	var partial []string
	if isJSON(sg.contentType) {
		if rest := len(sg.entries) - base; sub > rest {
			return nil, nil, &runnel.InvalidError{What: "fork sub-offset", Rule: fmt.Sprintf("is %d messages, only %d follow the offset", sub, rest)}
		}
		base += sub
	} else {
		rest := 0
		for _, e := range sg.entries[base:] {
			rest += len(e.payload)
		}
		if sub > rest {
			return nil, nil, &runnel.InvalidError{What: "fork sub-offset", Rule: fmt.Sprintf("is %d bytes, only %d follow the offset", sub, rest)}
		}
		for sub > 0 {
			p := sg.entries[base].payload
			if sub < len(p) {
				partial = append(partial, p[:sub])
				break
			}
			sub -= len(p)
			base++
		}
	}
	l := &life{
		space: addr.Space, name: addr.Name, born: op, contentType: sg.contentType, created: now.at, createdLate: now.latest, retention: keep,
		source: sg.life, base: base, floor: min(earliest, runnel.Sequence(base)), low: now.at, high: now.latest, sure: now.at,
	}
	if l.ttl, l.expires = o.TTL, o.ExpiresAt; o.TTL == 0 && o.ExpiresAt.IsZero() {
		l.ttl, l.expires = sg.ttl, sg.expires
	}
	fork = &segment{life: l, entries: added(sg.entries[:base], op, now, append(partial, payloadsOf(o.Records)...))}
	next := *sg
	next.refs = append(slices.Clip(sg.refs), l)
	return &next, fork, nil
}

// there tells whether an incarnation is there for certain, or at least perhaps.
func (s *sim) there(l *life) (certainly, perhaps bool) {
	h := s.spaces[l.space]
	is := func(st state) bool { return st[l.name] != nil && st[l.name].life == l }
	certainly, perhaps = is(h.base), is(h.base)
	for _, op := range h.staged {
		certainly = certainly && is(op.after)
		perhaps = perhaps || is(op.after)
	}
	return certainly, perhaps
}

// murky tells whether a claim on a segment may have been taken back, or is about to be.
func (s *sim) murky(sg *segment) bool {
	if sg == nil {
		return false
	}
	return slices.ContainsFunc(sg.refs, func(l *life) bool { return !s.holds(l) })
}

// holds tells whether a fork keeps its claim for certain: it is there, or is kept itself.
func (s *sim) holds(l *life) bool {
	if certainly, _ := s.there(l); !certainly {
		return false
	}
	fork := s.spaces[l.space].latest()[l.name]
	switch fork.verdict(s.now()) {
	case alive:
		return true
	case held:
		return slices.ContainsFunc(fork.refs, s.holds)
	}
	return false
}

// lost tells whether a fork has no claim for certain: it never was, or is no more.
func (s *sim) lost(l *life) bool {
	if certainly, _ := s.there(l); !certainly {
		return true
	}
	return s.spaces[l.space].latest()[l.name].verdict(s.now()) == gone
}

// orphaned tells whether a claim is left of a fork that never came to be.
func (sg *segment) orphaned(s *sim) bool {
	return slices.ContainsFunc(sg.refs, func(l *life) bool {
		_, perhaps := s.there(l)
		return !perhaps && l.id == 0
	})
}

// reclaim waits until claims that nobody has any more are taken back. What only they have kept is gone
// then.
func (s *sim) reclaim(sg *segment) {
	if !s.murky(sg) || s.broken {
		return
	}
	gated := s.gated
	// A sweep that was held up keeps away for many times as long; a new engine begins with one.
	s.restart(s.rand(1<<42 + uint64(s.ops)))
	if s.broken {
		return
	}
	s.setGate(false)
	s.dropSlowReaders()
	s.note("claims of forks that are gone are taken back")
	for tries, again := 0, true; again && !s.broken; tries++ {
		s.check(itRuns, tries < 20, "claims are never taken back")
		gen := s.gen
		s.catchUp()
		lost := make(map[*life]bool)
		for _, h := range s.spaces {
			for _, sg := range h.base {
				for _, l := range sg.refs {
					lost[l] = s.lost(l)
				}
			}
		}
		s.pass(100 * time.Second)
		if s.gen != gen {
			s.setGate(false)
			continue // power failed at the end of it, and the time begins again
		}
		again = s.takeBack(lost)
	}
	s.setGate(gated)
}

// takeBack ends the claims of forks that have been lost for long, and tells whether there are more.
func (s *sim) takeBack(lost map[*life]bool) (more bool) {
	for _, space := range spaceNames {
		h := s.spaces[space]
		for _, name := range segmentNames {
			sg := h.base[name]
			if !s.murky(sg) {
				continue
			}
			if sg.orphaned(s) {
				s.cover.hit("an orphaned claim of a fork was reclaimed")
			}
			next := *sg
			next.refs = slices.DeleteFunc(slices.Clone(sg.refs), func(l *life) bool { return lost[l] })
			more = true
			if h.base = h.base.with(&next); next.soft && len(next.refs) == 0 {
				s.cover.hit("a deleted source went with its last fork")
				h.base = h.base.without(name)
				_, err := s.fronts[0].stat(s.ctx, sg.addr())
				s.check(inherits, errors.Is(err, runnel.ErrNotFound), "%s is only claimed by forks that are gone, and still there: %v", sg.addr(), err)
			}
		}
	}
	return more
}
