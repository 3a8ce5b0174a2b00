package crash

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/runnelhq/runnel"
)

// makeLease starts something about leases or workers.
func makeLease(s *sim, r *rand.Rand) *call {
	s.settleClaims()
	key := claimKeys[r.IntN(len(claimKeys))]
	switch n := r.IntN(10); {
	case n < 5:
		s.ask(s.acquiring(r, key))
	case n < 8:
		s.ask(s.renewing(s.number(r, key)))
	case n < 9:
		s.ask(s.releasing(s.number(r, key)))
	default:
		s.ask(s.listing(r))
	}
	return nil
}

// makeMove starts something about cursors alone.
func makeMove(s *sim, r *rand.Rand) *call {
	switch n := r.IntN(10); {
	case n < 5:
		m, ok := s.moving(r)
		if ok {
			s.ask(s.transacting("cursor move", runnel.Transaction{Cursors: []runnel.CursorMove{m}}, false))
		}
	case n < 9:
		s.ask(s.readingSpot(s.spot(r)))
	default:
		s.ask(s.removingSpot(s.spot(r)))
	}
	return nil
}

// makeTransaction starts a transaction, or an append, which is one of a single write.
func makeTransaction(s *sim, r *rand.Rand) *call {
	s.settleClaims()
	h := s.desk
	if n := len(h.again); n > 0 && r.IntN(2) == 0 {
		e := h.again[n-1]
		h.again = h.again[:n-1]
		s.ask(e)
		return nil
	}
	if r.IntN(12) == 0 {
		s.ask(s.deleting(sheetNames[r.IntN(len(sheetNames))]))
		return nil
	}
	var t runnel.Transaction
	key := ""
	if r.IntN(3) == 0 {
		key = onceKeys[r.IntN(len(onceKeys))]
	}
	for _, name := range sheetNames {
		if r.IntN(3) > 0 {
			t.Writes = append(t.Writes, s.writing(r, name, key))
		}
	}
	single := len(t.Writes) == 1 && r.IntN(2) == 0
	if !single {
		for range r.IntN(3) {
			if m, ok := s.moving(r); ok && !slices.ContainsFunc(t.Cursors, func(o runnel.CursorMove) bool { return o.Segment == m.Segment && o.Name == m.Name }) {
				t.Cursors = append(t.Cursors, m)
			}
		}
		if r.IntN(2) == 0 {
			t.Fences = append(t.Fences, s.number(r, s.heldKey(r)))
		}
	}
	if len(t.Writes) > 0 {
		s.ask(s.transacting("transaction", t, single))
	}
	return nil
}

// acquiring asks for a lease.
func (s *sim) acquiring(r *rand.Rand, key string) *deskCall {
	q := runnel.LeaseRequest{Key: key, Holder: holders[r.IntN(len(holders))], TTL: claimTTLs[r.IntN(len(claimTTLs))]}
	if isWorker(key) {
		q.Holder = strings.TrimPrefix(key, workerStart)
	}
	var before *claim
	var now moment
	return &deskCall{
		kind: "lease", what: fmt.Sprintf("acquire %s for %s, %v", q.Key, q.Holder, q.TTL),
		stage: func(d *desk, op int, at moment) deskOutcome {
			before, now = d.claims[key], at
			return d.acquire(op, at, q)
		},
		run: func(ctx context.Context, l log) (deskAnswer, error) {
			lease, err := l.AcquireLease(ctx, deskSpace(), q)
			return deskAnswer{lease: lease}, err
		},
		done: func(*deskOutcome) {
			switch {
			case before == nil:
			case isWorker(key) && before.verdict(now) == alive:
				s.cover.hit("a worker took the place of one of its name")
			case before.verdict(now) == gone && before.holder != q.Holder:
				s.cover.hit("a lease was over by the clock, and given to another holder")
			}
		},
	}
}

// heldKey picks the key of a lease: in most cases one that somebody has.
func (s *sim) heldKey(r *rand.Rand) string {
	held := slices.Sorted(maps.Keys(s.desk.latest().claims))
	if len(held) == 0 || r.IntN(4) == 0 {
		held = claimKeys
	}
	return held[r.IntN(len(held))]
}

// neverGiven is a fencing number that no lease has.
const neverGiven = 1 << 40

// number picks a fencing number of a lease: in most cases the current one, or else one that was.
func (s *sim) number(r *rand.Rand, key string) runnel.Fence {
	f := runnel.Fence{Key: key, Number: neverGiven}
	if c := s.desk.latest().claims[key]; c != nil && c.number > 0 && r.IntN(4) > 0 {
		f.Number = c.number
		return f
	}
	var of []*claim
	for _, c := range s.desk.given {
		if c.key == key || r.IntN(8) == 0 {
			of = append(of, c)
		}
	}
	if len(of) > 0 {
		f.Number = of[len(of)-1-r.IntN(min(len(of), 4))].number
	}
	return f
}

func (s *sim) renewing(f runnel.Fence) *deskCall {
	return &deskCall{
		kind: "lease", what: fmt.Sprintf("renew %s under %d", f.Key, f.Number),
		stage: func(d *desk, _ int, now moment) deskOutcome { return d.renew(now, f) },
		run: func(ctx context.Context, l log) (deskAnswer, error) {
			lease, err := l.RenewLease(ctx, deskSpace(), f)
			return deskAnswer{lease: lease}, err
		},
		done: func(*deskOutcome) { s.cover.hit("a lease was renewed") },
	}
}

func (s *sim) releasing(f runnel.Fence) *deskCall {
	return &deskCall{
		kind: "lease", what: fmt.Sprintf("release %s under %d", f.Key, f.Number),
		stage: func(d *desk, _ int, now moment) deskOutcome { return d.release(now, f) },
		run: func(ctx context.Context, l log) (deskAnswer, error) {
			return deskAnswer{}, l.ReleaseLease(ctx, deskSpace(), f)
		},
		done: func(*deskOutcome) { s.cover.hit("a lease was released") },
	}
}

// listing lists all leases, or the workers.
func (s *sim) listing(r *rand.Rand) *deskCall {
	prefix := []string{"", workerStart}[r.IntN(2)]
	s.cover.hit("leases were listed")
	return &deskCall{
		kind: "read", what: fmt.Sprintf("list leases from %q", prefix), invariant: leaseLasts,
		reads: func(d *desk, now moment, a *deskAnswer) string {
			if a == nil {
				return "there is no answer"
			}
			return d.explainClaims(prefix, a.leases, s.desk.given, now)
		},
		run: func(ctx context.Context, l log) (deskAnswer, error) {
			all, err := collect(l.Leases(ctx, deskSpace(), prefix, ""))
			return deskAnswer{leases: all}, err
		},
	}
}

// spot picks a cursor.
func (s *sim) spot(r *rand.Rand) spotName {
	return spotName{[]string{"", sheetNames[0], sheetNames[1]}[r.IntN(3)], spotNames[r.IntN(len(spotNames))]}
}

// moving prepares a move of a cursor: in most cases forwards.
func (s *sim) moving(r *rand.Rand) (m runnel.CursorMove, ok bool) {
	name := s.spot(r)
	d := s.desk.latest()
	at, end := d.spots[name].at(), uint64(s.desk.seen)
	if name.sheet != "" {
		h := d.sheets[name.sheet]
		if h == nil && r.IntN(8) > 0 {
			return m, false
		}
		if end = 0; h != nil {
			end = uint64(h.tail())
		}
	}
	m = runnel.CursorMove{Segment: name.sheet, Name: name.name, Place: at}
	switch n := r.IntN(10); {
	case n < 6 && at < end:
		m.Place += 1 + r.Uint64N(min(end-at, 5))
	case n < 7:
		m.Place = at - min(at, 1+r.Uint64N(3))
	case n < 8:
		m.Place, m.Rewind = at-min(at, 1+r.Uint64N(3)), true
	case n < 9 && name.sheet != "":
		m.Place = end + 1
	}
	if r.IntN(3) == 0 {
		expect := at
		if r.IntN(4) == 0 {
			expect++
		}
		m.Expect = &expect
	}
	return m, true
}

// readingSpot reads a cursor by its name.
func (s *sim) readingSpot(name spotName) *deskCall {
	s.cover.hit("a cursor was read")
	return &deskCall{
		kind: "read", what: fmt.Sprintf("read cursor %s", name.cursor()), invariant: spotsStay,
		reads: func(d *desk, _ moment, a *deskAnswer) string {
			p := d.spots[name]
			switch {
			case p == nil && a == nil:
				return ""
			case p == nil || a == nil || a.cursor.Place != p.place || a.cursor.End < p.place:
				return fmt.Sprintf("want %+v, got %+v", p, a)
			}
			return ""
		},
		run: func(ctx context.Context, l log) (deskAnswer, error) {
			c, err := l.Cursor(ctx, name.cursor())
			return deskAnswer{cursor: c}, err
		},
	}
}

// removingSpot deletes a cursor, if it is known which incarnation of its segment is meant.
func (s *sim) removingSpot(name spotName) *deskCall {
	a, b := s.desk.base.sheets[name.sheet], s.desk.latest().sheets[name.sheet]
	if (a == nil) != (b == nil) || a != nil && a.born != b.born {
		return nil
	}
	return &deskCall{
		kind: "cursor move", what: fmt.Sprintf("delete cursor %s", name.cursor()),
		stage: func(d *desk, _ int, _ moment) deskOutcome { return d.removeSpot(name) },
		run: func(ctx context.Context, l log) (deskAnswer, error) {
			return deskAnswer{}, l.DeleteCursor(ctx, name.cursor())
		},
	}
}

func (s *sim) deleting(name string) *deskCall {
	cursors := false
	return &deskCall{
		kind: "deletion", what: "delete " + name,
		stage: func(d *desk, _ int, _ moment) deskOutcome {
			for at := range d.spots {
				cursors = cursors || at.sheet == name
			}
			return d.remove(name)
		},
		run: func(ctx context.Context, l log) (deskAnswer, error) {
			return deskAnswer{}, l.Delete(ctx, deskSpace().Segment(name))
		},
		done: func(*deskOutcome) {
			if cursors {
				s.cover.hit("a cursor went with its segment")
			}
		},
	}
}

// writing prepares a write to a segment, which makes it where there is none.
func (s *sim) writing(r *rand.Rand, name, key string) runnel.Write {
	s.desk.made++
	var payloads []string
	for i := range 1 + r.IntN(3) {
		payloads = append(payloads, fmt.Sprintf("%s%d.%d|%s", name, s.desk.made, i, strings.Repeat("desk", r.IntN(20))))
	}
	w := runnel.Write{Segment: name, Records: recordsOf(payloads), Options: runnel.AppendOptions{Key: key}}
	if r.IntN(8) > 0 {
		w.Options.Create = new(runnel.CreateOptions)
		w.Options.Absent = r.IntN(10) == 0
	}
	if r.IntN(4) == 0 {
		expect := runnel.Sequence(0)
		if h := s.desk.latest().sheets[name]; h != nil {
			expect = h.tail()
		}
		if r.IntN(4) == 0 {
			expect++
		}
		w.Options.Expect = &expect
	}
	return w
}

// transacting makes a transaction, or a single append.
func (s *sim) transacting(kind string, t runnel.Transaction, single bool) *deskCall {
	e := &deskCall{
		kind: kind, what: describeTransaction(&t),
		stage: func(d *desk, op int, now moment) deskOutcome { return d.transact(op, now, t) },
		run: func(ctx context.Context, l log) (deskAnswer, error) {
			c, err := l.Transact(ctx, deskSpace(), t)
			return deskAnswer{appended: c.Appended}, err
		},
	}
	if single {
		w := t.Writes[0]
		e.what = "append" + strings.TrimPrefix(e.what, "transact")
		e.run = func(ctx context.Context, l log) (deskAnswer, error) {
			a, err := l.Append(ctx, deskSpace().Segment(w.Segment), w.Options, w.Records...)
			return deskAnswer{appended: []runnel.Appended{a}}, err
		}
	}
	for _, w := range t.Writes {
		e.payloads = append(e.payloads, payloadsOf(w.Records)...)
	}
	keyed := len(t.Writes) > 0 && t.Writes[0].Options.Key != ""
	e.done = func(out *deskOutcome) { s.transacted(&t, out, false) }
	if keyed {
		again := *e
		again.what = "retry of " + e.what
		again.done = func(out *deskOutcome) { s.transacted(&t, out, true) }
		again.repeat = func() *deskCall { return &again }
		e.repeat = again.repeat
		e.done = func(out *deskOutcome) {
			s.transacted(&t, out, false)
			if len(t.Fences) > 0 && len(s.desk.again) < 8 {
				s.desk.again = slices.Insert(s.desk.again, 0, &again) // by one who does not know, when the lease may be lost
			}
		}
	}
	return e
}

// transacted notes what a transaction has met.
func (s *sim) transacted(t *runnel.Transaction, out *deskOutcome, retried bool) {
	repeated := len(out.writes) > 0 && out.writes[0].Duplicate
	for i, w := range out.writes {
		switch {
		case w.Duplicate:
			s.cover.hit("an append with a key was repeated")
			if retried {
				s.cover.hit("an append with a key was repeated, and its first outcome was unknown")
			}
		case w.Created:
			s.cover.hit("an append made its segment")
		case t.Writes[i].Options.Key != "" && retried:
			s.cover.hit("an append with a key was stored at its second try")
		}
	}
	if repeated {
		if len(out.writes) > 1 || len(t.Cursors)+len(t.Fences) > 0 {
			s.cover.hit("a transaction was repeated whole")
		}
		for _, f := range t.Fences {
			if c := s.desk.latest().claims[f.Key]; c == nil || c.number != f.Number {
				s.cover.hit("a transaction was repeated whole after its lease was lost")
			}
		}
		return
	}
	if len(t.Fences) > 0 && len(out.writes) > 0 {
		s.cover.hit("a write under a fencing number was stored")
		if len(t.Cursors) > 0 && len(out.writes) > 1 {
			s.cover.hit("a transaction of writes, cursors and fences was stored")
		}
	}
	for _, m := range t.Cursors {
		if m.Rewind {
			s.cover.hit("a cursor was rewound")
		}
	}
}

func describeTransaction(t *runnel.Transaction) string {
	var b strings.Builder
	b.WriteString("transact")
	for _, f := range t.Fences {
		fmt.Fprintf(&b, " under %s/%d", f.Key, f.Number)
	}
	for _, w := range t.Writes {
		fmt.Fprintf(&b, " %s %s", w.Segment, short(payloadsOf(w.Records)))
		if o := w.Options; o.Key != "" {
			fmt.Fprintf(&b, " key %s", o.Key)
		}
		if w.Options.Expect != nil {
			fmt.Fprintf(&b, " after %d", *w.Options.Expect)
		}
		if w.Options.Create == nil {
			b.WriteString(" if there")
		} else if w.Options.Absent {
			b.WriteString(" if not there")
		}
	}
	for _, m := range t.Cursors {
		fmt.Fprintf(&b, " cursor %s to %d", spotName{m.Segment, m.Name}.cursor(), m.Place)
		if m.Expect != nil {
			fmt.Fprintf(&b, " from %d", *m.Expect)
		}
		if m.Rewind {
			b.WriteString(" or back")
		}
	}
	return b.String()
}
