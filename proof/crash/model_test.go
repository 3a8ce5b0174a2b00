package crash

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/runnelhq/runnel"
)

// The model is the log as a reader of the documentation would write it down: no storage, no concurrency,
// no caches. A state never changes; every operation makes another one.

// state is a space: its segments by name.
type state map[string]*segment

// segment is one incarnation of a name at one moment.
type segment struct {
	*life
	entries   []*entry // the entry of sequence n is entries[n-1]
	closed    bool
	closedBy  runnel.Producer // zero for none
	producers map[string]producer
	streamSeq string
	hasSeq    bool
	soft      bool
	refs      []*life // forks that read it
}

// life is what never changes about an incarnation, and what is not subject to commits.
type life struct {
	space, name string
	born        int    // the operation that made it
	id          uint64 // 0 until somebody was told
	contentType string
	created     time.Time
	createdLate time.Time // unless somebody was told, it may be up to here
	ttl         time.Duration
	expires     time.Time
	retention   runnel.Retention
	// The last read or write that slides the TTL is between low and high; sure is what a crash leaves of
	// low. Out of memory and back, a segment may live longer by an eighth of its TTL, at most a minute.
	low, high, sure time.Time
	// waited is when somebody waited for entries last, which is as good as a read, but is written down only
	// now and then.
	waited time.Time

	source *life // of a fork
	base   int   // inherited entries
	floor  runnel.Sequence
}

// entry is one entry. A fork shares those that it inherits.
type entry struct {
	payload string
	op      int
	time    time.Time
	late    time.Time // unless somebody was told, it may be up to here
	// What an observer was told of it.
	seen     bool
	position runnel.Position
	together runnel.Position
}

type producer struct{ epoch, seq uint64 }

func (l *life) addr() runnel.Segment { return runnel.Segment{Space: l.space, Name: l.name} }

func (st state) with(sg *segment) state {
	next := maps.Clone(st)
	if next == nil {
		next = make(state)
	}
	next[sg.name] = sg
	return next
}

func (st state) without(name string) state {
	next := maps.Clone(st)
	delete(next, name)
	return next
}

// verdict is whether a segment is there at a moment.
type verdict int

const (
	gone verdict = iota
	alive
	held   // gone for users, kept for forks
	unsure // a crash may have let it live a little longer, or the clock is behind
)

func (sg *segment) verdict(now moment) verdict {
	switch {
	case sg == nil:
		return gone
	case sg.soft:
		return held
	}
	over, perhaps := false, false
	if !sg.expires.IsZero() {
		over, perhaps = !now.at.Before(sg.expires), !now.latest.Before(sg.expires)
	}
	if sg.ttl > 0 {
		slack := min(sg.ttl/8, time.Minute)
		over = over || !now.at.Before(sg.high.Add(slack+sg.ttl))
		perhaps = perhaps || !now.latest.Before(sg.low.Add(sg.ttl)) && !now.latest.Before(sg.waited.Add(sg.ttl))
	}
	switch {
	case !perhaps:
		return alive
	case !over:
		return unsure
	case len(sg.refs) > 0:
		return held
	}
	return gone
}

// forget leaves of the last use what storage knows for certain.
func (l *life) forget() { l.low, l.waited = l.sure, time.Time{} }

// touch renews the TTL.
func (l *life) touch(now moment) {
	if now.at.After(l.low) {
		l.low = now.at
	}
	if now.latest.After(l.high) {
		l.high = now.latest
	}
}

// earliest is the place before the first entry that retention keeps.
func (sg *segment) earliest(now moment) runnel.Sequence {
	at, n, keep := int(sg.floor), len(sg.entries), sg.retention
	if most := int(keep.Entries); most > 0 {
		at = max(at, n-most)
	}
	size := uint64(0)
	for _, e := range sg.entries[at:] {
		size += uint64(len(e.payload))
	}
	for ; at < n; at++ {
		e := sg.entries[at]
		if !(keep.Bytes > 0 && size > keep.Bytes || keep.Age > 0 && now.at.Sub(e.time) > keep.Age) {
			break
		}
		size -= uint64(len(e.payload))
	}
	return runnel.Sequence(at)
}

func (sg *segment) tail() runnel.Sequence { return runnel.Sequence(len(sg.entries)) }

func (sg *segment) info(now moment) runnel.Info {
	in := runnel.Info{
		Segment: sg.addr(), ID: sg.id, ContentType: sg.contentType, Created: sg.created, Tail: sg.tail(),
		Earliest: sg.earliest(now), Closed: sg.closed, TTL: sg.ttl, ExpiresAt: sg.expires, Retention: sg.retention,
	}
	for _, e := range sg.entries {
		in.Bytes += uint64(len(e.payload))
	}
	return in
}

// told is an answer that describes the segment.
func (sg *segment) told(now moment) answer {
	info := sg.info(now)
	return answer{Info: &info, late: sg.createdLate}
}

// settle ends a segment whose time is over, as every operation that meets it does, and says why the
// segment cannot be used, if so.
func (st state) settle(addr runnel.Segment, now moment) (state, *segment, error) {
	sg := st[addr.Name]
	switch sg.verdict(now) {
	case alive:
		return st, sg, nil
	case held:
		if !sg.soft {
			next := *sg
			next.soft = true
			st = st.with(&next)
		}
		return st, nil, &runnel.SoftDeletedError{Segment: addr}
	}
	if sg != nil {
		st = st.without(addr.Name)
	}
	return st, nil, &runnel.NotFoundError{Segment: addr}
}

// outcome is what the model says of an operation.
type outcome struct {
	err  error
	ok   answer
	next state   // what the space is then
	used []*life // whose TTL begins again
}

// answer is what an operation is told. What a way in does not tell is not compared.
type answer struct {
	runnel.Appended
	Existed bool
	Info    *runnel.Info
	created bool      // the answer to a creation
	late    time.Time // where the model does not know a time, it is from the one in the answer through this
	// More are the answers to the other writes of a commit.
	More []runnel.Appended
	// Payloads are what was read after From.
	From     runnel.Sequence
	Payloads []string
	Entries  []runnel.Entry
}

func refuse(st state, err error) outcome { return outcome{err: err, next: st} }

// appendOne checks and makes one append.
func (st state) appendOne(op int, now moment, addr runnel.Segment, o runnel.AppendOptions, payloads []string) outcome {
	st, sg, err := st.settle(addr, now)
	if err != nil {
		return refuse(st, err)
	}
	p := o.Producer
	var known producer
	knows := false
	if p != nil {
		known, knows = sg.producers[p.ID]
		if knows && p.Epoch < known.epoch {
			return refuse(st, &runnel.ProducerFencedError{Producer: p.ID, Epoch: known.epoch, Got: p.Epoch})
		}
	}
	if sg.closed {
		told := answer{Appended: runnel.Appended{Tail: sg.tail(), Duplicate: true, Closed: true}}
		if p != nil && sg.closedBy == *p {
			told.ProducerSeq = p.Seq
			return outcome{ok: told, next: st}
		}
		if o.Close && len(payloads) == 0 && p == nil {
			return outcome{ok: told, next: st}
		}
		return refuse(st, &runnel.ClosedError{Segment: addr, Tail: sg.tail()})
	}
	switch {
	case p == nil:
	case !knows && p.Seq > 0:
		return refuse(st, &runnel.ProducerGapError{Producer: p.ID, Got: p.Seq})
	case knows && p.Epoch > known.epoch && p.Seq > 0:
		return refuse(st, &runnel.InvalidError{What: "producer", Rule: fmt.Sprintf("must start epoch %d at sequence 0, not %d; it is at epoch %d", p.Epoch, p.Seq, known.epoch)})
	case knows && p.Epoch == known.epoch && p.Seq <= known.seq:
		return outcome{ok: answer{Appended: runnel.Appended{Tail: sg.tail(), Duplicate: true, ProducerSeq: known.seq}}, next: st}
	case knows && p.Epoch == known.epoch && p.Seq > known.seq+1:
		return refuse(st, &runnel.ProducerGapError{Producer: p.ID, Expected: known.seq + 1, Got: p.Seq})
	}
	if o.ContentType != "" && len(payloads) > 0 && o.ContentType != sg.contentType {
		return refuse(st, &runnel.ContentTypeError{Segment: addr, Have: sg.contentType, Got: o.ContentType})
	}
	if o.Expect != nil && *o.Expect != sg.tail() {
		return refuse(st, &runnel.TailMovedError{Segment: addr, Want: *o.Expect, Tail: sg.tail()})
	}
	if o.HasStreamSeq && sg.hasSeq && o.StreamSeq <= sg.streamSeq {
		return refuse(st, &runnel.StreamSeqError{Segment: addr, Last: sg.streamSeq, Got: o.StreamSeq})
	}
	largest := uint64(0)
	for _, p := range payloads {
		largest = max(largest, uint64(len(p)))
	}
	if most := sg.retention.Bytes; most > 0 && largest > most {
		return refuse(st, &runnel.TooLargeError{What: "record of a segment that retains so many bytes", Limit: int64(most), Got: int64(largest)})
	}

	next := *sg
	told := answer{Appended: runnel.Appended{Tail: sg.tail() + runnel.Sequence(len(payloads)), Closed: o.Close}}
	next.entries = added(sg.entries, op, now, payloads)
	if len(payloads) > 0 {
		told.First, told.Time, told.late = sg.tail()+1, now.at, now.latest
	}
	if o.HasStreamSeq {
		next.hasSeq, next.streamSeq = true, o.StreamSeq
	}
	if p != nil {
		next.producers = maps.Clone(sg.producers)
		if next.producers == nil {
			next.producers = make(map[string]producer)
		}
		next.producers[p.ID] = producer{p.Epoch, p.Seq}
		told.ProducerSeq = p.Seq
	}
	if o.Close {
		next.closed = true
		if p != nil {
			next.closedBy = *p
		}
	}
	return outcome{ok: told, next: st.with(&next), used: []*life{next.life}}
}

func added(entries []*entry, op int, now moment, payloads []string) []*entry {
	entries = slices.Clip(entries)
	for _, p := range payloads {
		entries = append(entries, &entry{payload: p, op: op, time: now.at, late: now.latest})
	}
	return entries
}

// appendAll makes several appends, all or none.
func (st state) appendAll(op int, now moment, space string, writes []runnel.Write) (next state, told []answer, used []*life, err error) {
	was := st
	duplicates := 0
	for _, w := range writes {
		out := st.appendOne(op, now, runnel.Segment{Space: space, Name: w.Segment}, w.Options, payloadsOf(w.Records))
		if out.err != nil {
			// What is refused changes nothing but that what has expired is ended.
			ended, _, _ := was.settle(runnel.Segment{Space: space, Name: w.Segment}, now)
			return ended, nil, nil, out.err
		}
		if out.ok.Duplicate {
			duplicates++
		}
		told = append(told, out.ok)
		used = append(used, out.used...)
		st = out.next
	}
	if duplicates > 0 && duplicates < len(writes) {
		return was, nil, nil, &runnel.InvalidError{What: "commit", Rule: fmt.Sprintf("repeats %d of its %d writes; a commit is repeated whole or not at all", duplicates, len(writes))}
	}
	return st, told, used, nil
}

func (st state) create(op int, now moment, addr runnel.Segment, o runnel.CreateOptions) outcome {
	st, sg, err := st.settle(addr, now)
	if sg == nil {
		if _, ok := st[addr.Name]; ok {
			return refuse(st, err)
		}
		l := &life{
			space: addr.Space, name: addr.Name, born: op, contentType: o.ContentType, created: now.at, createdLate: now.latest,
			ttl: o.TTL, expires: o.ExpiresAt, retention: o.Retention, low: now.at, high: now.latest, sure: now.at,
		}
		if l.contentType == "" {
			l.contentType = "application/octet-stream"
		}
		sg = &segment{life: l, closed: o.Closed}
		sg.entries = added(nil, op, now, payloadsOf(o.Records))
		told := sg.told(now)
		told.created = true
		return outcome{ok: told, next: st.with(sg)}
	}
	differs := ""
	switch contentType := o.ContentType; {
	case sg.source != nil:
		differs = "fork"
	case contentType != sg.contentType && (contentType != "" || sg.contentType != "application/octet-stream"):
		differs = "content type"
	case o.TTL != sg.ttl:
		differs = "ttl"
	case !o.ExpiresAt.Equal(sg.expires):
		differs = "expiry"
	case o.Retention != sg.retention:
		differs = "retention"
	case o.Closed != sg.closed:
		differs = "closed"
	}
	if differs != "" {
		return refuse(st, &runnel.ExistsError{Segment: addr, Field: differs})
	}
	told := sg.told(now)
	told.created, told.Existed = true, true
	return outcome{ok: told, next: st}
}

func (st state) delete(now moment, addr runnel.Segment) outcome {
	st, sg, err := st.settle(addr, now)
	switch {
	case err != nil:
		return refuse(st, err)
	case len(sg.refs) > 0:
		next := *sg
		next.soft = true
		return outcome{next: st.with(&next)}
	}
	return outcome{next: st.without(addr.Name)}
}

// read answers a read of a segment that is not about to expire.
func (st state) read(now moment, addr runnel.Segment, from runnel.Sequence) outcome {
	_, sg, err := st.settle(addr, now)
	if err != nil {
		return refuse(nil, err)
	}
	sg.touch(now)
	if from == runnel.Latest {
		from = sg.tail()
	}
	if from > sg.tail() {
		return refuse(nil, &runnel.BeyondTailError{Segment: addr, From: from, Tail: sg.tail()})
	}
	if earliest := sg.earliest(now); from < earliest {
		return refuse(nil, &runnel.TrimmedError{Segment: addr, From: from, Earliest: earliest})
	}
	told := sg.told(now)
	told.From = from
	for _, e := range sg.entries[from:] {
		told.Payloads = append(told.Payloads, e.payload)
	}
	return outcome{ok: told}
}

func payloadsOf(records []runnel.Record) []string {
	var all []string
	for i := range records {
		all = append(all, string(records[i].Payload))
	}
	return all
}

func recordsOf(payloads []string) []runnel.Record {
	var all []runnel.Record
	for _, p := range payloads {
		all = append(all, runnel.Record{Payload: []byte(p)})
	}
	return all
}

// short shows payloads by their beginnings.
func short(payloads []string) string {
	var b strings.Builder
	b.WriteByte('[')
	for i, p := range payloads {
		if i > 0 {
			b.WriteByte(' ')
		}
		if n := len(payloads); n > 12 && i == 6 {
			fmt.Fprintf(&b, "… %d more", n-6)
			break
		}
		head, _, _ := strings.Cut(p, "|")
		fmt.Fprintf(&b, "%s/%d", head, len(p))
	}
	b.WriteByte(']')
	return b.String()
}
