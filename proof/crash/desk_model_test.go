package crash

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/runnelhq/runnel"
)

// The desk is a space of its own, in which clients coordinate: they hold leases, write under their fencing
// numbers, keep cursors, and make transactions of all of it. Its model is another one than that of the other
// spaces, because what it keeps beside entries is the point.

const deskName = "desk"

func deskSpace() runnel.Space { return runnel.Space{Name: deskName} }

// Who coordinates, and about what. A worker is a lease whose holder is always the same, as client.Join has it.
var (
	sheetNames  = []string{"s", "t"}
	claimKeys   = []string{"k", "l", "worker/1", "worker/2"}
	holders     = []string{"ann", "ben", "cid"}
	spotNames   = []string{"here", "there"}
	onceKeys    = []string{"1", "2", "3"}
	claimTTLs   = []time.Duration{100 * time.Millisecond, 2 * time.Second, 20 * time.Second, 2 * time.Minute}
	workerStart = "worker/"
)

// desk is the space at one moment. It never changes; every operation makes another one.
type desk struct {
	sheets map[string]*sheet
	claims map[string]*claim
	spots  map[spotName]*spot
}

// sheet is one incarnation of a segment.
type sheet struct {
	born    int
	entries []*entry
	keys    map[string]*keyed
}

func (h *sheet) tail() runnel.Sequence { return runnel.Sequence(len(h.entries)) }

// keyed is a write with an idempotency key.
type keyed struct {
	payloads []string
	first    runnel.Sequence
	entry    *entry
}

// claim is a lease as it was given or renewed.
type claim struct {
	key, holder string
	ttl         time.Duration
	op          int    // that gave it
	number      uint64 // 0 until somebody was told
	// The deadline is between low and high, which are the same once somebody was told.
	low, high time.Time
	// unseen says that a restart did not show whether it was written down at all.
	unseen bool
	// or are what it may be instead: those before it, if a restart did not show how far things had come.
	or []*claim
}

// all are all that a lease may be, the latest first.
func (c *claim) all() []*claim { return append([]*claim{c}, c.or...) }

// end is when the time of a lease is over at the latest, whichever it is.
func (c *claim) end() time.Time {
	return slices.MaxFunc(c.all(), func(a, b *claim) int { return a.high.Compare(b.high) }).high
}

// verdict is whether the time of a lease is over.
func (c *claim) verdict(now moment) verdict {
	switch {
	case c == nil || !c.end().After(now.at):
		return gone
	case len(c.or) == 0 && c.low.After(now.latest):
		return alive
	}
	return unsure
}

// unseenClaim is what a key is after a restart that did not show it, because its time is over: what it is in any
// of the states that explain what was shown, of which the last one comes first, or nothing. The clock may go back
// and show it yet.
func unseenClaim(key string, states []*desk) *claim {
	var may []*claim
	for _, st := range states {
		if c := st.claims[key]; c != nil {
			for _, o := range c.all() {
				if !slices.ContainsFunc(may, func(m *claim) bool { return m.op == o.op && m.low.Equal(o.low) && m.high.Equal(o.high) }) {
					one := *o
					one.unseen, one.or = true, nil
					may = append(may, &one)
				}
			}
		}
	}
	if len(may) == 0 {
		return nil
	}
	may[0].or = may[1:]
	return may[0]
}

// forgotten tells whether storage may know nothing of a lease whose time is over.
func (c *claim) forgotten(now moment) bool {
	return c.unseen || now.latest.Sub(c.low) > time.Minute // when the background removes it
}

// spotName names a cursor. That of a segment goes with the incarnation.
type spotName struct {
	sheet string // empty for the timeline
	name  string
}

func (n spotName) cursor() runnel.CursorName {
	return runnel.CursorName{Space: deskSpace(), Segment: n.sheet, Name: n.name}
}

// spot is the place of a cursor.
type spot struct{ place uint64 }

func (p *spot) at() uint64 {
	if p == nil {
		return 0
	}
	return p.place
}

// deskOutcome is what the model says of an operation.
type deskOutcome struct {
	err    error
	claim  *claim // that is given or renewed, or that stands against it
	over   *claim // whose time is over, which is written down with the answer
	writes []wrote
	next   *desk
	// basis is what an answer that changes nothing rests on.
	basis func(d *desk) any
}

// wrote is what a write of a transaction is answered.
type wrote struct {
	runnel.Appended
	entry *entry // the first one
}

func (d *desk) refuse(err error, basis func(d *desk) any) deskOutcome {
	return deskOutcome{err: err, next: d, basis: basis}
}

// changed is a copy of m with another value under a key, and with none if v is nil.
func changed[K comparable, V any](m map[K]*V, key K, v *V) map[K]*V {
	next := make(map[K]*V, len(m)+1)
	maps.Copy(next, m)
	if next[key] = v; v == nil {
		delete(next, key)
	}
	return next
}

func (d *desk) withClaim(key string, c *claim) *desk {
	next := *d
	next.claims = changed(d.claims, key, c)
	return &next
}

func (d *desk) withSheet(name string, h *sheet) *desk {
	next := *d
	next.sheets = changed(d.sheets, name, h)
	return &next
}

func (d *desk) withSpot(name spotName, p *spot) *desk {
	next := *d
	next.spots = changed(d.spots, name, p)
	return &next
}

func claimOf(key string) func(d *desk) any { return func(d *desk) any { return d.claims[key] } }
func sheetOf(name string) func(d *desk) any {
	return func(d *desk) any { return d.sheets[name] }
}
func spotOf(name spotName) func(d *desk) any { return func(d *desk) any { return d.spots[name] } }

// acquire gives a lease, unless another holder has it. The time of none that it meets may be uncertain.
func (d *desk) acquire(op int, now moment, q runnel.LeaseRequest) deskOutcome {
	if held := d.claims[q.Key]; held.verdict(now) == alive && held.holder != q.Holder {
		out := d.refuse(&runnel.LeaseHeldError{}, claimOf(q.Key))
		out.claim = held
		return out
	}
	c := &claim{key: q.Key, holder: q.Holder, ttl: q.TTL, op: op, low: now.at.Add(q.TTL), high: now.latest.Add(q.TTL)}
	return deskOutcome{claim: c, next: d.withClaim(q.Key, c)}
}

// fence looks for the lease that a fence demands. That it is lost because its time is over is written down.
func (d *desk) fence(now moment, f runnel.Fence) deskOutcome {
	held := d.claims[f.Key]
	if held.verdict(now) == gone {
		out := d.refuse(&runnel.LeaseLostError{Key: f.Key, Number: f.Number}, claimOf(f.Key))
		if held != nil {
			out.over, out.next = held, d.withClaim(f.Key, nil)
		}
		return out
	}
	if held.number != f.Number { // one that nobody was told has another number than any that is demanded
		out := d.refuse(&runnel.LeaseLostError{Key: f.Key, Number: f.Number, Current: held.number}, claimOf(f.Key))
		out.claim = held
		return out
	}
	return deskOutcome{claim: held, next: d}
}

func (d *desk) renew(now moment, f runnel.Fence) deskOutcome {
	out := d.fence(now, f)
	if out.err == nil {
		c := *out.claim
		c.low, c.high = now.at.Add(c.ttl), now.latest.Add(c.ttl)
		out.claim, out.next = &c, d.withClaim(f.Key, &c)
	}
	return out
}

func (d *desk) release(now moment, f runnel.Fence) deskOutcome {
	out := d.fence(now, f)
	if out.err == nil {
		out.claim, out.next = nil, d.withClaim(f.Key, nil)
	}
	return out
}

// check decides whether a write can be made, and tells what a repeated one is answered.
func (d *desk) check(w *runnel.Write) (again *wrote, refused deskOutcome) {
	addr, h := deskSpace().Segment(w.Segment), d.sheets[w.Segment]
	o := &w.Options
	if h == nil {
		switch {
		case o.Create == nil:
			return nil, d.refuse(&runnel.NotFoundError{Segment: addr}, sheetOf(w.Segment))
		case o.Expect != nil && *o.Expect != 0:
			return nil, d.refuse(&runnel.TailMovedError{Segment: addr, Want: *o.Expect}, sheetOf(w.Segment))
		}
		return nil, deskOutcome{}
	}
	if known := h.keys[o.Key]; o.Key != "" && known != nil {
		basis := func(d *desk) any {
			if h := d.sheets[w.Segment]; h != nil {
				return h.keys[o.Key]
			}
			return nil
		}
		if !slices.Equal(known.payloads, payloadsOf(w.Records)) {
			return nil, d.refuse(&runnel.KeyReusedError{Segment: addr, Key: o.Key, First: known.first}, basis)
		}
		tail := known.first + runnel.Sequence(len(known.payloads)) - 1
		return &wrote{Appended: runnel.Appended{First: known.first, Tail: tail, Duplicate: true}, entry: known.entry}, deskOutcome{basis: basis}
	}
	switch {
	case o.Absent:
		return nil, d.refuse(&runnel.ExistsError{Segment: addr}, sheetOf(w.Segment))
	case o.Expect != nil && *o.Expect != h.tail():
		return nil, d.refuse(&runnel.TailMovedError{Segment: addr, Want: *o.Expect, Tail: h.tail()}, sheetOf(w.Segment))
	}
	return nil, deskOutcome{}
}

// transact makes a transaction, all of it or nothing. Leases speak before writes, and writes before cursors,
// but one that is repeated whole is answered as it was, whoever has its leases by now.
func (d *desk) transact(op int, now moment, t runnel.Transaction) deskOutcome {
	var again []wrote
	var refused deskOutcome
	for i := range t.Writes {
		known, no := d.check(&t.Writes[i])
		if refused = no; no.err != nil {
			break
		}
		if known != nil {
			again = append(again, *known)
		}
	}
	repeated := refused.err == nil && len(again) > 0 && len(again) == len(t.Writes)
	if !repeated {
		for _, f := range t.Fences {
			if out := d.fence(now, f); out.err != nil {
				return out
			}
		}
	}
	switch {
	case refused.err != nil:
		return refused
	case repeated:
		return deskOutcome{next: d, writes: again, basis: refused.basis}
	case len(again) > 0:
		return d.refuse(&runnel.InvalidError{What: "commit", Rule: fmt.Sprintf("repeats %d of its %d writes; a commit is repeated whole or not at all", len(again), len(t.Writes))}, nil)
	}
	for i := range t.Cursors {
		if out := d.checkMove(&t.Cursors[i]); out.err != nil {
			return out
		}
	}
	next, out := d, deskOutcome{}
	for i := range t.Writes {
		var told wrote
		next, told = next.write(op, now, &t.Writes[i])
		out.writes = append(out.writes, told)
	}
	for _, m := range t.Cursors {
		next = next.withSpot(spotName{m.Segment, m.Name}, &spot{m.Place})
	}
	out.next = next
	return out
}

func (d *desk) checkMove(m *runnel.CursorMove) deskOutcome {
	name := spotName{m.Segment, m.Name}
	h := d.sheets[m.Segment]
	if m.Segment != "" && h == nil {
		return d.refuse(&runnel.NotFoundError{Segment: deskSpace().Segment(m.Segment)}, sheetOf(m.Segment))
	}
	at := d.spots[name].at()
	switch {
	case m.Expect != nil && *m.Expect != at:
		return d.refuse(&runnel.CursorMovedError{Cursor: name.cursor(), Want: *m.Expect, Place: at}, spotOf(name))
	case m.Place < at && !m.Rewind:
		return d.refuse(&runnel.CursorMovedError{Cursor: name.cursor(), Want: m.Place, Place: at}, spotOf(name))
	case h != nil && runnel.Sequence(m.Place) > h.tail():
		return d.refuse(&runnel.BeyondTailError{Segment: deskSpace().Segment(m.Segment), From: runnel.Sequence(m.Place), Tail: h.tail()}, sheetOf(m.Segment))
	}
	return deskOutcome{}
}

// write makes a write that nothing stands against.
func (d *desk) write(op int, now moment, w *runnel.Write) (*desk, wrote) {
	next, told := sheet{born: op}, wrote{}
	if h := d.sheets[w.Segment]; h != nil {
		next = *h
	} else {
		told.Created = true
	}
	told.First = next.tail() + 1
	next.entries = added(next.entries, op, now, payloadsOf(w.Records))
	told.Tail, told.entry = next.tail(), next.entries[told.First-1]
	if key := w.Options.Key; key != "" {
		next.keys = maps.Clone(next.keys)
		if next.keys == nil {
			next.keys = make(map[string]*keyed)
		}
		next.keys[key] = &keyed{payloads: payloadsOf(w.Records), first: told.First, entry: told.entry}
	}
	return d.withSheet(w.Segment, &next), told
}

// remove deletes a segment, with its cursors.
func (d *desk) remove(name string) deskOutcome {
	if d.sheets[name] == nil {
		return d.refuse(&runnel.NotFoundError{Segment: deskSpace().Segment(name)}, sheetOf(name))
	}
	next := d.withSheet(name, nil)
	for s := range d.spots {
		if s.sheet == name {
			next = next.withSpot(s, nil)
		}
	}
	return deskOutcome{next: next}
}

// removeSpot deletes a cursor.
func (d *desk) removeSpot(name spotName) deskOutcome {
	switch {
	case name.sheet != "" && d.sheets[name.sheet] == nil:
		return d.refuse(&runnel.NotFoundError{Segment: deskSpace().Segment(name.sheet)}, nil)
	case d.spots[name] == nil:
		return d.refuse(&runnel.CursorNotFoundError{Cursor: name.cursor()}, spotOf(name))
	}
	return deskOutcome{next: d.withSpot(name, nil)}
}
