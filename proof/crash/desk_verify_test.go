package crash

import (
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"

	"github.com/runnelhq/runnel"
)

// deskSight is what was found at the desk after a restart.
type deskSight struct {
	sheets map[string]*answer // nil for one that is not there
	leases []runnel.Lease
	spots  map[spotName]uint64
}

func collect[T any](all iter.Seq2[T, error]) (list []T, err error) {
	for one, err := range all {
		if err != nil {
			return list, err
		}
		list = append(list, one)
	}
	return list, nil
}

// verifyDesk compares what is found after a restart with the model, and goes on from there.
func (s *sim) verifyDesk() {
	now := s.now()
	found := s.deskSight()
	h := s.desk
	var explain []*desk // the latest first
	var made []int      // how many operations that were not durable each of them includes
	for n, st := range slices.Backward(h.states()) {
		if st.explainSheets(found) == "" && st.explainSpots(found) == "" && st.explainClaims("", found.leases, h.given, now) == "" {
			explain, made = append(explain, st), append(made, n)
		}
	}
	if len(explain) == 0 {
		s.blameDesk(found, now)
	}
	s.adoptDesk(explain, found, now, slices.Min(made), slices.Max(made))
	s.probeDesk()
}

// deskSight looks at all that there is.
func (s *sim) deskSight() *deskSight {
	found := &deskSight{sheets: make(map[string]*answer), spots: make(map[spotName]uint64)}
	goWay := s.fronts[0]
	for _, name := range sheetNames {
		a, err := goWay.read(s.ctx, deskSpace().Segment(name), 0)
		switch {
		case err == nil:
			found.sheets[name] = &a
		case !errors.Is(err, runnel.ErrNotFound):
			s.fail(alwaysOpens, "read %s: %v", name, err)
		}
	}
	for _, name := range append([]string{""}, sheetNames...) {
		if name != "" && found.sheets[name] == nil {
			continue
		}
		all, err := collect(s.log.Cursors(s.ctx, deskSpace(), name, "", ""))
		s.check(spotsStay, err == nil, "cursors of %q: %v", name, err)
		for _, c := range all {
			one, err := s.log.Cursor(s.ctx, c.CursorName)
			s.check(spotsStay, err == nil && one.Place == c.Place && one.End >= one.Place, "cursor %s is at %d in the list, and by its name at %d of %d, %v", c, c.Place, one.Place, one.End, err)
			found.spots[spotName{name, c.Name}] = c.Place
		}
	}
	var err error
	found.leases, err = collect(s.log.Leases(s.ctx, deskSpace(), "", ""))
	s.check(leaseLasts, err == nil, "%v", err)
	var watched []runnel.Lease
	for e, err := range s.log.WatchLeases(s.ctx, deskSpace(), "") {
		s.check(leaseLasts, err == nil, "%v", err)
		if e.Mark {
			break
		}
		watched = append(watched, e.Lease)
	}
	s.check(leaseLasts, slices.EqualFunc(found.leases, watched, func(a, b runnel.Lease) bool {
		return a.Key == b.Key && a.Number == b.Number && a.Holder == b.Holder
	}), "who watches is told of %+v, and listed is %+v", watched, found.leases)
	return found
}

// explainSheets returns in what the segments are not what was found, empty if they are.
func (d *desk) explainSheets(found *deskSight) string {
	for _, name := range sheetNames {
		h, is := d.sheets[name], found.sheets[name]
		switch {
		case h == nil && is == nil:
		case h == nil:
			return fmt.Sprintf("%s is to be gone, and holds %s", name, short(is.Payloads))
		case is == nil:
			return fmt.Sprintf("%s is gone, and is to hold %s", name, short(payloads(h.entries)))
		case !slices.Equal(is.Payloads, payloads(h.entries)):
			return fmt.Sprintf("%s is to hold %s, and holds %s", name, short(payloads(h.entries)), short(is.Payloads))
		}
	}
	return ""
}

// explainSpots returns in what the cursors are not what was found, empty if they are.
func (d *desk) explainSpots(found *deskSight) string {
	want := make(map[spotName]uint64)
	for name, p := range d.spots {
		want[name] = p.place
	}
	if !maps.Equal(want, found.spots) {
		return fmt.Sprintf("cursors are to be at %v, and are at %v", want, found.spots)
	}
	return ""
}

// explainClaims returns in what the leases are not those that were listed, empty if they are.
func (d *desk) explainClaims(prefix string, listed []runnel.Lease, given []*claim, now moment) string {
	last := ""
	for i := range listed {
		l := &listed[i]
		c := d.claims[l.Key]
		if l.Key <= last || !strings.HasPrefix(l.Key, prefix) {
			return fmt.Sprintf("%s after %s among those from %q", l.Key, last, prefix)
		}
		last = l.Key
		if _, differs := c.shown(l, given, now); differs != "" {
			return differs
		}
	}
	for _, key := range claimKeys {
		c := d.claims[key]
		if strings.HasPrefix(key, prefix) && c.verdict(now) == alive && !slices.ContainsFunc(listed, func(l runnel.Lease) bool { return l.Key == key }) {
			return fmt.Sprintf("%s is to be held by %s under %d until %v, and is not", key, c.holder, c.number, c.low)
		}
	}
	return ""
}

// shown returns which of those that it may be a lease is that was listed, or in what it is none of them.
func (c *claim) shown(l *runnel.Lease, given []*claim, now moment) (*claim, string) {
	if c.verdict(now) == gone {
		return nil, fmt.Sprintf("nobody is to have %s, and there is %+v", l.Key, *l)
	}
	differs := ""
	for _, o := range c.all() {
		switch {
		case o.number == 0 && slices.ContainsFunc(given, func(g *claim) bool { return g.op < o.op && l.Number <= g.number }):
			differs += fmt.Sprintf("%s has been given again, and there is %+v", l.Key, *l)
		case o.differs(l, now) != "":
			differs += o.differs(l, now)
		default:
			return o, ""
		}
	}
	return nil, differs
}

// adoptDesk goes on from what was found, with the first of the states that explain it, which are the latest first.
// Of the operations that were not durable, the first least were made, and those after the first most were not.
func (s *sim) adoptDesk(explain []*desk, found *deskSight, now moment, least, most int) {
	h, st := s.desk, explain[0]
	for i, op := range h.staged {
		made, not := "made", "not to be made"
		if op.flight.kind == "lease" {
			made, not = "given", "not to be given"
		}
		switch {
		case i < least:
			s.cover.hit("an unknown " + op.flight.kind + " turned out to be " + made)
			s.note("%d turned out to be written", op.flight.op)
		case i < most:
			s.cover.hit("an unknown " + op.flight.kind + " left nothing to see")
			s.note("nothing shows whether %d was written", op.flight.op)
		default:
			s.cover.hit("an unknown " + op.flight.kind + " turned out " + not)
			s.note("%d turned out not to be written", op.flight.op)
		}
	}
	for _, key := range claimKeys {
		i := slices.IndexFunc(found.leases, func(l runnel.Lease) bool { return l.Key == key })
		if i < 0 {
			st = st.withClaim(key, unseenClaim(key, explain))
			continue
		}
		is, _ := st.claims[key].shown(&found.leases[i], h.given, now)
		seen := *is
		seen.unseen, seen.or = false, nil
		st = st.withClaim(key, &seen)
	}
	h.first += len(h.staged)
	h.base, h.staged = st, nil
	for _, name := range []string{allOrNone, spotsStay, leaseLasts, fenceHolds, keepsAcked, noRefused, staysFound} {
		s.check(name, true, "")
	}
	for i := range found.leases {
		l := &found.leases[i]
		if c := st.claims[l.Key]; c.number > 0 {
			s.cover.hit("a lease was held over a crash")
		}
		s.learn(st.claims[l.Key], l)
	}
	for _, name := range sheetNames {
		is, sh := found.sheets[name], st.sheets[name]
		if is == nil {
			continue
		}
		for i, got := range is.Entries {
			s.place(sh.entries[i], got.Position, got.Transaction, got.Time)
			h.seen = max(h.seen, got.Position)
		}
	}
}

// probeDesk repeats writes with keys, and asks under numbers that were given before.
func (s *sim) probeDesk() {
	h := s.desk
	s.settleClaims()
	for _, name := range sheetNames {
		sh := h.base.sheets[name]
		if sh == nil {
			continue
		}
		for _, key := range slices.Sorted(maps.Keys(sh.keys)) {
			w := runnel.Write{Segment: name, Records: recordsOf(sh.keys[key].payloads), Options: runnel.AppendOptions{Key: key}}
			s.ask(s.transacting("transaction", runnel.Transaction{Writes: []runnel.Write{w}}, true))
		}
	}
	for i := len(h.given) - 1; i >= max(0, len(h.given)-3); i-- {
		c := h.given[i]
		if is := h.latest().claims[c.key]; is == nil || is.number != c.number {
			s.ask(s.renewing(runnel.Fence{Key: c.key, Number: c.number}))
		}
	}
}

// blameDesk says which invariant is broken by what was found.
func (s *sim) blameDesk(found *deskSight, now moment) {
	h := s.desk
	var text strings.Builder
	sheets, spots, claims := false, false, false
	known := make(map[string]bool)
	for i, st := range h.states() {
		a, b, c := st.explainSheets(found), st.explainSpots(found), st.explainClaims("", found.leases, h.given, now)
		sheets, spots, claims = sheets || a == "", spots || b == "", claims || c == ""
		fmt.Fprintf(&text, "\n  after %d of %d that are not durable: %s; %s; %s", i, len(h.staged), a, b, c)
		for _, sh := range st.sheets {
			for _, e := range sh.entries {
				known[e.payload] = true
			}
		}
	}
	for _, a := range found.sheets {
		for _, p := range a.Payloads {
			// What was stored before may be refused when it is repeated.
			s.check(fenceHolds, !h.fenced[p] || known[p], "%s was refused for its fencing number%s", short([]string{p}), text.String())
			s.check(noRefused, known[p], "%s%s", short([]string{p}), text.String())
		}
	}
	switch {
	case !claims:
		s.fail(leaseLasts, "%s", text.String())
	case !spots:
		s.fail(spotsStay, "%s", text.String())
	case !sheets:
		s.fail(keepsAcked, "%s", text.String())
	}
	s.fail(allOrNone, "%s", text.String())
}
