package crash

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/runnelhq/runnel"
)

// sight is what was found of a segment.
type sight struct {
	err    error
	answer answer
}

// verify compares what is found after a restart with the model, and goes on from there.
func (s *sim) verify() {
	s.check(staysFailed, true, "")
	for _, space := range spaceNames {
		s.verifySpace(s.spaces[space])
	}
	s.check(onePrefix, true, "")
	for _, h := range s.spaces {
		for _, sg := range h.base {
			if sg.orphaned(s) {
				s.cover.hit("a fork's claim on its source was left without the fork")
			}
		}
	}
	s.verifyDesk()
	s.verifyList()
	for _, space := range append([]string{deskName}, spaceNames...) {
		s.verifyTimeline(space)
	}
	if s.guest != nil {
		s.guest.verify()
	}
	s.readers = slices.DeleteFunc(s.readers, func(x *reader) bool { return !s.resume(x) })
	s.settle()
	s.probe()
}

// probe repeats the last write of every producer, and every last writer sequence: neither may be taken.
func (s *sim) probe() {
	for _, space := range spaceNames {
		for _, name := range segmentNames {
			sg := s.spaces[space].base[name]
			if sg.verdict(s.now()) != alive || sg.closed {
				continue
			}
			payload := s.payloads(s.rand(0), sg.contentType, 1)
			for _, id := range slices.Sorted(maps.Keys(sg.producers)) {
				p := sg.producers[id]
				o := runnel.AppendOptions{ContentType: sg.contentType, Producer: &runnel.Producer{ID: id, Epoch: p.epoch, Seq: p.seq}}
				s.begin(appending("probe "+sg.addr().String(), sg.addr(), s.fronts[s.ops%2], o, payload))
			}
			if sg.hasSeq {
				o := runnel.AppendOptions{ContentType: sg.contentType, HasStreamSeq: true, StreamSeq: sg.streamSeq}
				s.begin(appending("probe "+sg.addr().String(), sg.addr(), s.fronts[s.ops%2], o, payload))
			}
		}
	}
}

func (s *sim) verifySpace(h *history) {
	now := s.now()
	found := make(map[string]sight)
	for _, name := range segmentNames {
		found[name] = s.sight(runnel.Segment{Space: h.space, Name: name})
	}
	// The longest prefix that explains what is there.
	for n := len(h.staged); n >= 0; n-- {
		st := h.base
		if n > 0 {
			st = h.staged[n-1].after
		}
		if s.explains(st, found, now) == "" {
			s.adopt(h, n, st, found, now)
			return
		}
	}
	s.blame(h, found, now)
}

// sight reads all that there is of a segment, in both ways.
func (s *sim) sight(addr runnel.Segment) sight {
	goWay, web := s.fronts[0], s.fronts[1]
	a, err := goWay.stat(s.ctx, addr)
	if err != nil {
		if !errors.Is(err, runnel.ErrNotFound) && !errors.Is(err, runnel.ErrSoftDeleted) {
			s.fail(alwaysOpens, "stat %s: %v", addr, err)
		}
		_, again := web.stat(s.ctx, addr)
		if errors.Is(err, runnel.ErrSoftDeleted) && errors.Is(again, runnel.ErrNotFound) && s.claimEnds(addr) {
			return sight{err: again} // its last fork has just gone too
		}
		s.check(bothAgree, differsError(err, again) == "", "%s: %v and %v", addr, err, again)
		return sight{err: err}
	}
	from := a.Info.Earliest
	got, err := goWay.read(s.ctx, addr, from)
	if err != nil {
		s.fail(inOrder, "read %s after %d: %v", addr, from, err)
	}
	if d := differs(goWay, outcome{ok: answer{Info: a.Info}}, answer{Info: got.Info}, nil); d != "" {
		s.fail(inOrder, "stat and read of %s: %s", addr, d)
	}
	over, err := web.read(s.ctx, addr, from)
	d := differs(web, outcome{ok: got}, over, err)
	s.check(bothAgree, d == "", "%s: %s", addr, d)
	if from > 0 {
		_, err := goWay.read(s.ctx, addr, from-1)
		d := differsError(&runnel.TrimmedError{Segment: addr, From: from - 1, Earliest: from}, err)
		s.check(exactCut, d == "", "%s: %s", addr, d)
		_, err = web.read(s.ctx, addr, from-1)
		d = differsError(&runnel.TrimmedError{Segment: addr, From: from - 1, Earliest: from}, err)
		s.check(exactCut, d == "", "%s: %s", addr, d)
	}
	return sight{answer: got}
}

// claimEnds tells whether a segment may be kept only for forks that are gone, or going.
func (s *sim) claimEnds(addr runnel.Segment) bool {
	for _, st := range s.spaces[addr.Space].states() {
		if s.murky(st[addr.Name]) {
			return true
		}
	}
	return false
}

// explains returns in what a state is not what was found, empty if it is.
func (s *sim) explains(st state, found map[string]sight, now moment) string {
	for _, name := range segmentNames {
		if d := s.explainsOne(st[name], found[name], now); d != "" {
			return name + ": " + d
		}
	}
	return ""
}

func (s *sim) explainsOne(sg *segment, is sight, now moment) string {
	switch v := sg.verdict(now); {
	case v == unsure && is.err != nil:
		if soft := errors.Is(is.err, runnel.ErrSoftDeleted); soft && len(sg.refs) == 0 || !soft && len(sg.refs) > 0 && !s.murky(sg) {
			return fmt.Sprintf("it may have expired, got %v", is.err)
		}
		return ""
	case v == held && s.murky(sg) && errors.Is(is.err, runnel.ErrNotFound):
		return ""
	case v == gone || v == held:
		want := runnel.ErrNotFound
		if v == held {
			want = runnel.ErrSoftDeleted
		}
		if !errors.Is(is.err, want) {
			return fmt.Sprintf("want %v, got %v with %s", want, is.err, short(is.answer.Payloads))
		}
		return ""
	case is.err != nil:
		return fmt.Sprintf("want %s, got %v", short(payloads(sg.entries)), is.err)
	}
	want := outcome{ok: sg.told(now)}
	want.ok.From = is.answer.From
	if at := is.answer.Info.Earliest; sg.retention.Age > 0 && at > want.ok.Info.Earliest && at <= sg.earliest(now.last()) {
		want.ok.Info.Earliest = at // cut before the clock was set back
	}
	if at := int(is.answer.From); at <= len(sg.entries) {
		want.ok.Payloads = payloads(sg.entries[at:])
	}
	return differs(inProcess{}, want, is.answer, nil)
}

func payloads(entries []*entry) []string {
	var all []string
	for _, e := range entries {
		all = append(all, e.payload)
	}
	return all
}

// adopt goes on from what was found: the state after the first n operations that were not durable.
func (s *sim) adopt(h *history, n int, st state, found map[string]sight, now moment) {
	for i, op := range h.staged {
		if op.flight == nil {
			continue
		}
		if i < n {
			s.cover.hit("an unknown outcome turned out to be: written")
			s.note("%d turned out to be written", op.flight.op)
		} else {
			s.cover.hit("an unknown outcome turned out to be: not written")
			s.note("%d turned out not to be written", op.flight.op)
		}
	}
	h.first += len(h.staged)
	h.base, h.staged = st, nil
	s.check(keepsAcked, true, "")
	s.check(noRefused, true, "")
	s.check(staysFound, true, "")
	s.check(staysEnded, true, "")
	for _, name := range segmentNames {
		is, sg := found[name], st[name]
		if is.err != nil {
			s.gone(h, sg, is.err)
			continue
		}
		if src := sg.source; src != nil && sg.base > 0 {
			if kept := s.spaces[src.space].base[src.name]; kept == nil || kept.life != src || kept.verdict(now) != alive {
				s.cover.hit("a fork of a deleted source was read")
			}
			if src.source != nil {
				s.cover.hit("a fork of a fork was read")
			}
		}
		sg.touch(now)
		s.identify(sg.life, is.answer.Info)
		s.observe(sg, is.answer.From, is.answer.Entries)
	}
	s.ordered(h)
}

// gone notes that a segment was found not to be there.
func (s *sim) gone(h *history, sg *segment, err error) {
	switch {
	case sg == nil:
	case errors.Is(err, runnel.ErrNotFound):
		if sg.soft {
			s.cover.hit("a deleted source went with its last fork")
		}
		h.base = h.base.without(sg.name)
	default:
		next := *sg
		next.soft = true
		h.base = h.base.with(&next)
	}
}

// observe keeps the places of entries that were read.
func (s *sim) observe(sg *segment, from runnel.Sequence, entries []runnel.Entry) {
	for i, got := range entries {
		e := sg.entries[int(from)+i]
		s.place(e, got.Position, got.Transaction, got.Time)
		if int(from)+i < sg.base {
			s.check(inherits, string(got.Payload) == e.payload, "%s", short([]string{e.payload}))
		}
	}
}

// ordered checks that positions are in the order of the operations, over all segments of a space.
func (s *sim) ordered(h *history) {
	type placed struct {
		*entry
		index int
	}
	var all []placed
	for _, name := range segmentNames {
		sg := h.base[name]
		if sg == nil {
			continue
		}
		for i, e := range sg.entries[sg.life.base:] {
			if e.seen {
				all = append(all, placed{e, i})
			}
		}
	}
	slices.SortStableFunc(all, func(a, b placed) int { return a.op - b.op })
	for i := 1; i < len(all); i++ {
		a, b := all[i-1], all[i]
		s.check(inOrder, a.position < b.position && !b.time.Before(a.time), "%s of operation %d is at position %d, %v, and %s of operation %d at %d, %v",
			short([]string{a.payload}), a.op, a.position, a.time, short([]string{b.payload}), b.op, b.position, b.time)
		s.check(onePrefix, (a.op == b.op) == (a.together == b.together) || a.together == 0 || b.together == 0, "operations %d and %d have transactions %d and %d", a.op, b.op, a.together, b.together)
	}
}

// blame says which invariant is broken by what was found.
func (s *sim) blame(h *history, found map[string]sight, now moment) {
	whole := h.latest()
	text := fmt.Sprintf("space %q\n  the durable state: %s\n  with all that was staged: %s", h.space, s.explains(h.base, found, now), s.explains(whole, found, now))
	for _, op := range h.staged {
		text += fmt.Sprintf("\n  up to %d: %s", op.flight.op, s.explains(op.after, found, now))
	}
	known := make(map[string]bool)
	for _, st := range append([]staged{{after: h.base}}, h.staged...) {
		for _, sg := range st.after {
			for _, e := range sg.entries {
				known[e.payload] = true
			}
		}
	}
	for _, name := range segmentNames {
		is, sg := found[name], h.base[name]
		if s.explainsOne(sg, is, now) == "" {
			continue
		}
		stays := true // nothing that was staged changes the segment
		for _, op := range h.staged {
			if op.after[name] != sg {
				stays = false
			}
		}
		if is.err != nil {
			if stays {
				s.fail(keepsAcked, "%s", text)
			}
			continue
		}
		for _, p := range is.answer.Payloads {
			if !known[p] {
				if sg != nil && sg.born > 0 && sg.verdict(now) == alive {
					s.fail(noRefused, "%s of segment %s\n%s", short([]string{p}), name, text)
				}
				s.fail(noOldByte, "%s of segment %s\n%s", short([]string{p}), name, text)
			}
		}
		switch v := sg.verdict(now); {
		case stays && v != alive:
			s.fail(staysEnded, "%s", text)
		case stays && is.answer.Info.Tail < sg.tail():
			s.fail(keepsAcked, "%s", text)
		case stays && sg.closed && !is.answer.Info.Closed:
			s.fail(staysEnded, "%s", text)
		case stays && is.answer.Info.Earliest != sg.earliest(now):
			s.fail(exactCut, "%s", text)
		}
	}
	s.fail(onePrefix, "%s", text)
}
