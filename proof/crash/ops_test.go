package crash

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/runnelhq/runnel"
)

// operation is something that clients do.
type operation struct {
	name string
	// weight is how often it is picked, beside the others. A profile may multiply it.
	weight int
	// make prepares it, or returns nil if there is nothing to do it with now. What the model says of it is in
	// the call, next to how it is done.
	make func(s *sim, r *rand.Rand) *call
}

// operations are all that clients do.
var operations = []operation{
	{"create", 14, makeCreate},
	{"append", 26, makeAppend},
	{"produce", 18, makeProduce},
	{"retry", 6, makeRetry},
	{"takeover", 3, makeTakeOver},
	{"commit", 8, makeCommit},
	{"close", 3, makeClose},
	{"delete", 5, makeDelete},
	{"read", 14, makeRead},
	{"stat", 4, makeStat},
	{"follow", 5, makeFollow},
	{"fork", 5, makeFork},
	{"lease", 12, makeLease},
	{"cursor", 6, makeMove},
	{"transaction", 12, makeTransaction},
	{"follow space", 3, makeFollowSpace},
}

var (
	spaceNames   = []string{"", "a", "b/c"}
	segmentNames = []string{"x", "y", "z"}
	contentTypes = []string{"text/plain", "application/json", "application/octet-stream"}
)

// choose picks an operation.
func (s *sim) choose(r *rand.Rand) *call {
	sum := 0
	for i := range operations {
		sum += s.profile.weight(&operations[i])
	}
	n := r.IntN(sum)
	for i := range operations {
		if n -= s.profile.weight(&operations[i]); n < 0 {
			return operations[i].make(s, r)
		}
	}
	return nil
}

func (s *sim) front(r *rand.Rand) front { return s.fronts[r.IntN(len(s.fronts))] }

// where picks a segment: in most cases one that is there.
func (s *sim) where(r *rand.Rand, there bool) (runnel.Segment, *segment) {
	space := spaceNames[r.IntN(len(spaceNames))]
	name := segmentNames[r.IntN(len(segmentNames))]
	st := s.spaces[space].latest()
	if _, ok := st[name]; ok != there && r.IntN(8) > 0 {
		for _, other := range segmentNames {
			if _, ok := st[other]; ok == there {
				name = other
				break
			}
		}
	}
	addr := runnel.Segment{Space: space, Name: name}
	s.resolve(addr)
	sg := s.spaces[space].latest()[name]
	if sg.verdict(s.now()) != alive {
		sg = nil
	}
	return addr, sg
}

// resolve finds out about a segment of which the model cannot say whether it has expired, or what it retains.
func (s *sim) resolve(addr runnel.Segment) {
	h := s.spaces[addr.Space]
	s.reclaim(h.latest()[addr.Name])
	gated := s.gated
	for tries := 0; !s.broken; tries++ {
		s.check(itRuns, tries < 20, "whether %s has expired is never known", addr)
		sg := h.latest()[addr.Name]
		unclear := sg.verdict(s.now()) == unsure
		if !unclear && (sg == nil || sg.retention.Age == 0 || s.behind() == 0) {
			break
		}
		s.catchUp()
		if unclear && h.latest()[addr.Name].verdict(s.now()) == unsure {
			s.lookAt(addr)
		}
	}
	if s.gated != gated {
		s.setGate(gated)
	}
}

// lookAt reads a segment to see whether it has expired.
func (s *sim) lookAt(addr runnel.Segment) {
	s.drain()
	s.disk.setFault(nil)
	s.setGate(false)
	if s.broken || s.behind() > 0 || s.spaces[addr.Space].latest()[addr.Name].verdict(s.now()) != unsure {
		return
	}
	gen := s.gen
	_, err := s.log.Read(s.ctx, addr, 0, runnel.Latest)
	if s.settle(); s.gen != gen || s.broken {
		return // power failed, and what is there has been looked at; or the disk did, and nobody can tell
	}
	s.expiryFound(addr, err == nil)
}

// expiryFound settles whether a segment has expired.
func (s *sim) expiryFound(addr runnel.Segment, there bool) {
	h := s.spaces[addr.Space]
	sg := h.latest()[addr.Name]
	s.note("%s has expired: %v", addr, !there)
	switch {
	case there:
		sg.touch(s.now())
	case len(sg.refs) > 0:
		next := *sg
		next.soft = true
		h.base = h.base.with(&next)
	default:
		h.base = h.base.without(addr.Name)
	}
}

// payloads makes new ones, which are like no other.
func (s *sim) payloads(r *rand.Rand, contentType string, n int) []string {
	all := make([]string, n)
	for i := range all {
		size := r.IntN(40)
		switch k := r.IntN(100); {
		case k < 10:
			size = 500 + r.IntN(2500)
		case k < 11:
			size = 10000 + r.IntN(15000)
		}
		if s.heavy > 0 {
			s.heavy--
			size = 8000 + r.IntN(16000)
		}
		size = max(size, s.largeSize(r))
		p := fmt.Sprintf("%d.%d|%s", s.ops+1, i, strings.Repeat("abcdefgh", size/8+1)[:size])
		if isJSON(contentType) {
			p = `"` + p + `"`
		}
		all[i] = p
	}
	return all
}

// count is how many entries an append brings.
func count(r *rand.Rand, f front, contentType string) int {
	if f.name() == "http" && !isJSON(contentType) {
		return 1 // the body is the entry
	}
	return 1 + r.IntN(1+r.IntN(4))
}

func makeCreate(s *sim, r *rand.Rand) *call {
	addr, have := s.where(r, false)
	f := s.front(r)
	o := runnel.CreateOptions{ContentType: contentTypes[r.IntN(len(contentTypes))], Closed: r.IntN(12) == 0}
	if r.IntN(3) == 0 || o.Closed {
		o.Records = recordsOf(s.payloads(r, o.ContentType, count(r, f, o.ContentType)))
	}
	switch s.profile.kind(r) {
	case 0:
		o.TTL = time.Duration(8+r.IntN(60)) * time.Second
	case 1:
		o.ExpiresAt = s.now().at.Add(time.Duration(1+r.IntN(60)) * time.Second)
	case 2:
		o.Retention.Entries = uint64(1 + r.IntN(5))
	case 3:
		o.Retention.Bytes = uint64(100 + r.IntN(3000))
	case 4:
		s.catchUp()
		o.Retention.Age = time.Duration(1+r.IntN(60)) * time.Second
	}
	for _, p := range o.Records {
		if most := o.Retention.Bytes; most > 0 && uint64(len(p.Payload)) > most {
			o.Retention.Bytes = 0
		}
	}
	if have != nil && r.IntN(2) == 0 { // the same again
		o = runnel.CreateOptions{ContentType: have.contentType, TTL: have.ttl, ExpiresAt: have.expires, Retention: have.retention, Closed: have.closed}
	}
	return &call{
		what: fmt.Sprintf("create %s %s", addr, describe(o)), space: addr.Space, names: []string{addr.Name}, front: f, largest: largest(payloadsOf(o.Records)),
		stage: func(st state, op int, now moment) outcome {
			out := st.create(op, now, addr, o)
			if out.err == nil && !out.ok.Existed {
				if s.born[addr] {
					s.cover.hit("a name was created again")
				}
				s.born[addr] = true
			}
			return out
		},
		run: func(ctx context.Context) (answer, error) { return f.create(ctx, addr, o) },
	}
}

func describe(o runnel.CreateOptions) string {
	text := o.ContentType
	if o.TTL > 0 {
		text += fmt.Sprintf(" ttl %v", o.TTL)
	}
	if !o.ExpiresAt.IsZero() {
		text += fmt.Sprintf(" until %v", o.ExpiresAt.Sub(start()))
	}
	if o.Retention != (runnel.Retention{}) {
		text += fmt.Sprintf(" keep %+v", o.Retention)
	}
	if o.Closed {
		text += " closed"
	}
	if o.Fork != nil {
		text += fmt.Sprintf(" fork of %s at %d", o.Fork.Source, o.Fork.At)
		if o.Fork.Latest {
			text = strings.TrimSuffix(text, "0") + "its tail"
		}
		if o.Fork.Sub > 0 {
			text += fmt.Sprintf("+%d", o.Fork.Sub)
		}
	}
	return text + " " + short(payloadsOf(o.Records))
}

// appending makes a call of an append.
func appending(what string, addr runnel.Segment, f front, o runnel.AppendOptions, payloads []string) *call {
	if p := o.Producer; p != nil {
		what += fmt.Sprintf(" by %s %d/%d", p.ID, p.Epoch, p.Seq)
	}
	if o.Expect != nil {
		what += fmt.Sprintf(" after %d", *o.Expect)
	}
	if o.HasStreamSeq {
		what += fmt.Sprintf(" seq %s", o.StreamSeq)
	}
	if o.Close {
		what += " and close"
	}
	c := &call{
		what: what + " " + short(payloads), space: addr.Space, names: []string{addr.Name}, front: f,
		largest: largest(payloads),
		stage:   func(st state, op int, now moment) outcome { return st.appendOne(op, now, addr, o, payloads) },
		run:     func(ctx context.Context) (answer, error) { return f.append(ctx, addr, o, payloads) },
	}
	if o.Producer != nil {
		c.retry = &retry{addr: addr, o: o, payloads: payloads}
	}
	return c
}

func largest(payloads []string) int {
	most := 0
	for _, p := range payloads {
		most = max(most, len(p))
	}
	return most
}

func typeOf(r *rand.Rand, sg *segment) string {
	if sg == nil {
		return contentTypes[r.IntN(len(contentTypes))]
	}
	return sg.contentType
}

func makeAppend(s *sim, r *rand.Rand) *call {
	addr, sg := s.where(r, true)
	f := s.front(r)
	o := runnel.AppendOptions{ContentType: typeOf(r, sg)}
	payloads := s.payloads(r, o.ContentType, count(r, f, o.ContentType))
	switch r.IntN(12) {
	case 0:
		if o.ContentType = "text/other"; isJSON(typeOf(r, sg)) {
			payloads = payloads[:1]
		}
	case 1, 2:
		o.HasStreamSeq, o.StreamSeq = true, fmt.Sprintf("%06d", max(0, s.ops-r.IntN(20)))
	case 3, 4:
		if sg != nil {
			tail := sg.tail()
			if r.IntN(3) == 0 {
				tail += runnel.Sequence(r.IntN(2))
			}
			o.Expect = &tail
		}
	case 5:
		if r.IntN(3) == 0 {
			o.Close = true
		}
	}
	return appending("append "+addr.String(), addr, f, o, payloads)
}

func makeProduce(s *sim, r *rand.Rand) *call {
	addr, sg := s.where(r, true)
	f := s.front(r)
	o := runnel.AppendOptions{ContentType: typeOf(r, sg), Producer: &runnel.Producer{ID: []string{"p", "q"}[r.IntN(2)]}}
	var known producer
	knows := false
	if sg != nil {
		known, knows = sg.producers[o.Producer.ID]
	}
	p := o.Producer
	if p.Epoch = known.epoch; knows {
		p.Seq = known.seq + 1
	}
	switch r.IntN(12) {
	case 0:
		p.Epoch, p.Seq = p.Epoch+1, 0
	case 1:
		p.Seq += uint64(r.IntN(3))
	case 2, 3:
		p.Seq -= min(p.Seq, uint64(r.IntN(3)))
	case 4:
		p.Epoch -= min(p.Epoch, 1)
	case 5:
		p.Epoch++
	case 6:
		o.Close = r.IntN(3) == 0
	}
	return appending("produce "+addr.String(), addr, f, o, s.payloads(r, o.ContentType, count(r, f, o.ContentType)))
}

// makeRetry repeats a write of a producer whose outcome its client does not know.
func makeRetry(s *sim, r *rand.Rand) *call {
	if len(s.retries) == 0 {
		return nil
	}
	i := r.IntN(len(s.retries))
	again := s.retries[i]
	s.retries = slices.Delete(s.retries, i, i+1)
	s.resolve(again.addr)
	f := s.front(r)
	if !isJSON(again.o.ContentType) && len(again.payloads) > 1 {
		f = s.fronts[0]
	}
	c := appending("retry "+again.addr.String(), again.addr, f, again.o, again.payloads)
	stage := c.stage
	c.stage = func(st state, op int, now moment) outcome {
		out := stage(st, op, now)
		if out.err == nil {
			s.cover.hit(map[bool]string{true: "a producer's retry was recognised", false: "a producer's retry was stored"}[out.ok.Duplicate])
		}
		return out
	}
	return c
}

// makeTakeOver lets a producer begin a new epoch while another process writes on in the old one, which does
// not know yet.
func makeTakeOver(s *sim, r *rand.Rand) *call {
	addr, sg := s.where(r, true)
	if sg == nil || sg.closed || len(sg.producers) == 0 || s.broken {
		return nil
	}
	ids := slices.Sorted(maps.Keys(sg.producers))
	id := ids[r.IntN(len(ids))]
	known := sg.producers[id]
	write := func(what string, epoch, seq uint64) *call {
		f := s.front(r)
		o := runnel.AppendOptions{ContentType: sg.contentType, Producer: &runnel.Producer{ID: id, Epoch: epoch, Seq: seq}}
		return appending(what+" "+addr.String(), addr, f, o, s.payloads(r, o.ContentType, count(r, f, o.ContentType)))
	}
	var before []*call
	if r.IntN(3) == 0 {
		before = append(before, write("produce", known.epoch, known.seq+1))
	}
	before = append(before, write("takeover", known.epoch+1, 0))
	if r.IntN(3) == 0 {
		before = append(before, write("takeover", known.epoch+1+uint64(r.IntN(2)), 0)) // so does a third
	}
	gen := s.gen
	for _, c := range before {
		if s.begin(c); s.gen != gen {
			return nil // power has failed, and what is there now is another matter
		}
	}
	c := write("fence", known.epoch, known.seq+1)
	stage := c.stage
	c.stage = func(st state, op int, now moment) outcome {
		out := stage(st, op, now)
		if errors.Is(out.err, runnel.ErrProducerFenced) {
			s.cover.hit("a producer of an old epoch was fenced")
		}
		return out
	}
	return c
}

func makeCommit(s *sim, r *rand.Rand) *call {
	first, _ := s.where(r, true)
	var writes []runnel.Write
	var what strings.Builder
	for _, name := range segmentNames {
		addr := runnel.Segment{Space: first.Space, Name: name}
		s.resolve(addr)
		sg := s.spaces[first.Space].latest()[name]
		if sg.verdict(s.now()) != alive && r.IntN(8) > 0 || r.IntN(5) == 0 {
			continue
		}
		w := runnel.Write{Segment: name, Records: recordsOf(s.payloads(r, typeOf(r, sg), 1+r.IntN(2)))}
		for i := range w.Records {
			w.Records[i].Payload = append(w.Records[i].Payload, name...) // unlike those of the other writes
		}
		if isJSON(typeOf(r, sg)) {
			for i := range w.Records {
				w.Records[i].Payload = fmt.Appendf(nil, `"%d.%d.%s|"`, s.ops+1, i, name)
			}
		}
		if sg != nil && r.IntN(4) == 0 {
			known, ok := sg.producers["m"]
			w.Options.Producer = &runnel.Producer{ID: "m", Epoch: known.epoch}
			if ok && r.IntN(3) > 0 {
				w.Options.Producer.Seq = known.seq + 1
			} else {
				w.Options.Producer.Seq = known.seq // once more
			}
		}
		w.Options.Close = r.IntN(25) == 0
		writes = append(writes, w)
		fmt.Fprintf(&what, " %s %s", name, short(payloadsOf(w.Records)))
	}
	if len(writes) == 0 {
		return nil
	}
	f := inProcess{s.log}
	var names []string
	for _, w := range writes {
		names = append(names, w.Segment)
	}
	return &call{
		what: "commit " + first.Space + what.String(), space: first.Space, names: names, front: f,
		stage: func(st state, op int, now moment) outcome {
			next, told, used, err := st.appendAll(op, now, first.Space, writes)
			out := outcome{err: err, next: next, used: used}
			if errors.Is(err, runnel.ErrInvalid) {
				s.cover.hit("a commit that repeats a part of what was written was refused")
			}
			if err == nil {
				out.ok = told[0]
				for _, a := range told[1:] {
					out.ok.More = append(out.ok.More, a.Appended)
				}
				if out.ok.Duplicate {
					s.cover.hit("a commit was repeated whole")
				} else if len(told) > 1 {
					s.cover.hit("a commit of several segments was staged")
				}
			}
			return out
		},
		run: func(ctx context.Context) (answer, error) {
			all, err := f.Commit(ctx, runnel.Space{Name: first.Space}, writes...)
			if err != nil {
				return answer{}, err
			}
			return answer{Appended: all[0], More: all[1:]}, nil
		},
	}
}

func makeClose(s *sim, r *rand.Rand) *call {
	addr, _ := s.where(r, true)
	return appending("close "+addr.String(), addr, s.front(r), runnel.AppendOptions{Close: true}, nil)
}

func makeDelete(s *sim, r *rand.Rand) *call {
	addr, _ := s.where(r, true)
	f := s.front(r)
	return &call{
		what: "delete " + addr.String(), space: addr.Space, names: []string{addr.Name}, front: f,
		stage: func(st state, _ int, now moment) outcome { return st.delete(now, addr) },
		run:   func(ctx context.Context) (answer, error) { return answer{}, f.delete(ctx, addr) },
	}
}

// readable tells whether what a reader of a segment sees does not depend on how far its end has come.
func (s *sim) readable(addr runnel.Segment) bool {
	now := s.now()
	h := s.spaces[addr.Space]
	sg := h.base[addr.Name]
	v := sg.verdict(now)
	return sg == nil || sg.soft || v == alive || v != unsure && sg == h.latest()[addr.Name]
}

func makeRead(s *sim, r *rand.Rand) *call {
	addr, _ := s.where(r, true)
	if !s.readable(addr) {
		return nil
	}
	f := s.front(r)
	from := runnel.Sequence(0)
	if sg := s.spaces[addr.Space].base[addr.Name]; sg != nil {
		switch r.IntN(8) {
		case 0:
			from = runnel.Latest
		case 1:
			from = sg.tail() + runnel.Sequence(r.IntN(2))
		case 2, 3:
			from = runnel.Sequence(r.IntN(int(sg.tail()) + 1))
		case 4:
			from = sg.earliest(s.now())
		case 5:
			from = max(sg.earliest(s.now()), 1) - 1
		}
	}
	what := fmt.Sprintf("read %s after %d", addr, from)
	if from == runnel.Latest {
		what = fmt.Sprintf("read %s at its tail", addr)
	}
	return s.reading(what, addr, f,
		func(st state, now moment) outcome { return st.read(now, addr, from) },
		func(ctx context.Context) (answer, error) { return f.read(ctx, addr, from) })
}

func makeStat(s *sim, r *rand.Rand) *call {
	addr, _ := s.where(r, true)
	if !s.readable(addr) {
		return nil
	}
	f := s.front(r)
	return s.reading("stat "+addr.String(), addr, f,
		func(st state, now moment) outcome {
			_, sg, err := st.settle(addr, now)
			if err != nil {
				return refuse(nil, err)
			}
			return outcome{ok: sg.told(now)}
		},
		func(ctx context.Context) (answer, error) { return f.stat(ctx, addr) })
}

// reading makes a call of a read. One that meets a segment whose time is over ends it, which is a write.
func (s *sim) reading(what string, addr runnel.Segment, f front, predict func(state, moment) outcome, run func(context.Context) (answer, error)) *call {
	c := &call{what: what, space: addr.Space, front: f, run: run}
	sg := s.spaces[addr.Space].base[addr.Name]
	if v := sg.verdict(s.now()); sg == nil || sg.soft || v == alive {
		c.reads = true
		c.stage = func(st state, _ int, now moment) outcome {
			out := predict(st, now)
			if out.err != nil && strings.Contains(out.err.Error(), "no longer retained") {
				s.cover.hit("a read was told that what it asks for is not retained")
			}
			return out
		}
		return c
	}
	s.cover.hit("a read met a segment whose time was over")
	c.stage = func(st state, _ int, now moment) outcome {
		next, _, err := st.settle(addr, now)
		return refuse(next, err)
	}
	return c
}
