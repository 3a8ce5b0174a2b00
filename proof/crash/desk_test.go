package crash

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/runnelhq/runnel"
)

var (
	numbersRise = invariant("a fencing number never goes back and is never given twice, across crashes")
	fenceHolds  = invariant("no write under an outdated fencing number is stored")
	leaseLasts  = invariant("a lease is held until its time is over by the server's clock, across crashes, and no longer")
	spotsStay   = invariant("a cursor move that was acknowledged is neither lost nor taken back")
	allOrNone   = invariant("the writes and the cursor moves of a transaction are there together or not at all")
)

// deskOften is what a few runs together must have met of coordination, and deskSometimes many.
var (
	deskOften = []string{
		"a lease was held over a crash",
		"a lease was over by the clock, and given to another holder",
		"a lease was refused, because another holder has it",
		"a lease was renewed",
		"a lease was released",
		"a lease was lost to a later number",
		"a lease was lost because its time is over",
		"a worker took the place of one of its name",
		"a write under a fencing number was stored",
		"a write under an outdated fencing number was refused",
		"a cursor was refused to go back",
		"a cursor was rewound",
		"a cursor went with its segment",
		"an append made its segment",
		"an append with a key was repeated",
		"a key was refused for other records",
		"a cursor was read",
		"leases were listed",
		"power failed with a lease staged and not durable",
		"power failed with a cursor move staged and not durable",
	}
	deskSometimes = []string{
		"a transaction of writes, cursors and fences was stored",
		"an unknown lease turned out to be given",
		"an unknown lease turned out not to be given",
		"an unknown cursor move turned out to be made",
		"an unknown cursor move turned out not to be made",
		"an unknown transaction turned out to be made",
		"an unknown transaction turned out not to be made",
		"an append with a key was repeated, and its first outcome was unknown",
		"a transaction was repeated whole",
		"a transaction was repeated whole after its lease was lost",
		"the clock was set back while a lease was held",
	}
)

// coordination is what an engine does about leases, cursors, transactions and timelines.
type coordination interface {
	Transact(ctx context.Context, space runnel.Space, t runnel.Transaction) (runnel.Committed, error)
	Cursor(ctx context.Context, name runnel.CursorName) (runnel.Cursor, error)
	Cursors(ctx context.Context, space runnel.Space, segment, prefix, after string) iter.Seq2[runnel.Cursor, error]
	DeleteCursor(ctx context.Context, name runnel.CursorName) error
	AcquireLease(ctx context.Context, space runnel.Space, q runnel.LeaseRequest) (runnel.Lease, error)
	RenewLease(ctx context.Context, space runnel.Space, f runnel.Fence) (runnel.Lease, error)
	ReleaseLease(ctx context.Context, space runnel.Space, f runnel.Fence) error
	Leases(ctx context.Context, space runnel.Space, prefix, after string) iter.Seq2[runnel.Lease, error]
	WatchLeases(ctx context.Context, space runnel.Space, prefix string) iter.Seq2[runnel.LeaseEvent, error]
	ReadSpace(ctx context.Context, space runnel.Space, from runnel.Position) (runnel.Timeline, error)
	TailSpace(ctx context.Context, space runnel.Space, from runnel.Position) iter.Seq2[runnel.SpaceBatch, error]
}

// deskCall is an operation at the desk that a client is about to start.
type deskCall struct {
	kind  string // "lease", "cursor move" or "transaction", and "deletion" and "read"
	what  string
	stage func(d *desk, op int, now moment) deskOutcome
	// reads, in place of stage, tells whether a state explains the answer to a read.
	reads func(d *desk, now moment, a *deskAnswer) string
	run   func(ctx context.Context, l log) (deskAnswer, error)
	// done is called with the answer that was expected.
	done func(out *deskOutcome)
	// repeat, if not nil, is what to do when the outcome is unknown.
	repeat func() *deskCall
	// payloads are what it writes.
	payloads []string
	// invariant is what an answer to a read that nothing explains violates.
	invariant string
}

// deskAnswer is what an operation is told.
type deskAnswer struct {
	lease    runnel.Lease
	appended []runnel.Appended
	leases   []runnel.Lease
	cursor   runnel.Cursor
}

// deskFlight is an operation that was started.
type deskFlight struct {
	*deskCall
	op     int
	want   deskOutcome
	index  int // in the history, -1 if it changes nothing
	rests  int // index of the operation that the answer rests on, -1 for none
	began  moment
	late   bool // the disk had failed before it was started
	states []*desk
	from   int // how many operations the first of the states includes
	result chan deskResult
}

type deskResult struct {
	answer deskAnswer
	err    error
}

type deskStaged struct {
	flight *deskFlight
	after  *desk
}

// deskHistory is what the model knows of the desk.
type deskHistory struct {
	first   int // operations that base includes
	base    *desk
	staged  []deskStaged
	flights []*deskFlight
	made    int             // writes
	seen    runnel.Position // the last one of the space that somebody was told
	given   []*claim        // whose number somebody was told
	fenced  map[string]bool // payloads of writes that were refused for their fence
	again   []*deskCall
}

func newDesk() *deskHistory { return &deskHistory{base: new(desk), fenced: make(map[string]bool)} }

func (h *deskHistory) total() int { return h.first + len(h.staged) }

func (h *deskHistory) latest() *desk {
	if n := len(h.staged); n > 0 {
		return h.staged[n-1].after
	}
	return h.base
}

func (h *deskHistory) states() []*desk {
	all := []*desk{h.base}
	for _, op := range h.staged {
		all = append(all, op.after)
	}
	return all
}

// since is the index of the operation that has left a part of the desk as it is, -1 if that is durable.
func (h *deskHistory) since(part func(d *desk) any) int {
	is := part(h.latest())
	n := len(h.staged)
	for n > 0 && part(h.staged[n-1].after) == is {
		n--
	}
	if n == 0 && part(h.base) == is {
		return -1
	}
	return h.first + n
}

func (h *deskHistory) advance(upto int) {
	if n := upto - h.first; n > 0 {
		h.base = h.staged[n-1].after
		h.staged = slices.Clone(h.staged[n:])
		h.first = upto
	}
}

// swept takes a lease, whose time has been over for long, from all states that a crash may leave: the
// background had removed it before the operation that was to do so.
func (h *deskHistory) swept(c *claim) {
	without := func(d *desk) *desk {
		if d.claims[c.key] == c {
			return d.withClaim(c.key, nil)
		}
		return d
	}
	h.base = without(h.base)
	for i := range h.staged {
		h.staged[i].after = without(h.staged[i].after)
	}
}

// ask starts an operation at the desk.
func (s *sim) ask(e *deskCall) {
	h := s.desk
	if e == nil || len(h.flights) >= 8 {
		return
	}
	s.ops++
	f := &deskFlight{deskCall: e, op: s.ops, index: -1, rests: -1, began: s.now(), late: s.broken, result: make(chan deskResult, 1)}
	s.note("%d desk: %s", f.op, e.what)
	switch st := h.latest(); {
	case e.reads != nil:
		f.states, f.from = h.states(), h.first
	default:
		f.want = e.stage(st, f.op, f.began)
		if f.want.next != st && !s.broken {
			f.index = h.total()
			h.staged = append(h.staged, deskStaged{f, f.want.next})
			s.marks.stage(deskName, h.total())
		} else if f.want.basis != nil {
			f.rests = h.since(f.want.basis)
		}
	}
	h.flights = append(h.flights, f)
	ctx, l := s.ctx, s.log
	go func() {
		a, err := e.run(ctx, l)
		f.result <- deskResult{a, err}
	}()
	s.settle()
}

// settleDesk looks at what has become durable, and takes the answers that have come.
func (s *sim) settleDesk() {
	h := s.desk
	if s.door.idle() && !s.broken {
		h.advance(h.total())
	}
	h.advance(s.marks.upto(deskName))
	h.flights = slices.DeleteFunc(h.flights, func(f *deskFlight) bool {
		select {
		case r := <-f.result:
			s.deskAnswered(f, r)
			return true
		default:
			return false
		}
	})
}

func (s *sim) deskAnswered(f *deskFlight, r deskResult) {
	h := s.desk
	switch {
	case s.broken && (r.err != nil || f.reads != nil):
		s.check(staysFailed, true, "")
		h.unknown(f)
		return
	case f.late && r.err == nil:
		s.fail(staysFailed, "%d %s: got %+v", f.op, f.what, r.answer)
	case s.armed && f.index >= 0 && errors.Is(r.err, runnel.ErrUnavailable):
		h.staged = h.staged[:min(len(h.staged), max(0, f.index-h.first))]
		s.note("%d was refused: %v", f.op, r.err)
		return
	case f.reads != nil:
		s.deskRead(f, r)
		return
	}
	s.deskCompare(f, r)
	durable := f.index < h.first
	if c := f.want.over; !durable && c != nil && c.forgotten(f.began) {
		h.swept(c)
		durable = true
	}
	if i := f.rests - h.first; i >= 0 {
		if by := h.staged[i].flight; by.want.over != nil && by.want.over.forgotten(by.began) {
			f.rests = -1
		}
	}
	s.check(durableFirst, durable, "%d %s was answered before it was durable", f.op, f.what)
	s.check(durableFirst, f.rests < h.first, "%d %s was answered before what the answer rests on was durable", f.op, f.what)
	s.note("%d answered%s", f.op, deskTold(&f.want))
	refused := ""
	if f.want.err != nil {
		refused = " refused"
		s.deskRefused(f)
	}
	s.cover.hit("op: desk " + firstWord(f.what) + refused)
	if f.done != nil && f.want.err == nil {
		f.done(&f.want)
	}
}

func deskTold(out *deskOutcome) string {
	switch {
	case out.err != nil:
		return fmt.Sprintf(": refused, %T", out.err)
	case out.claim != nil:
		return fmt.Sprintf(": %s is held under %d until %v", out.claim.key, out.claim.number, out.claim.low.Sub(start()))
	}
	return ""
}

// deskRefused notes what a refusal stands for.
func (s *sim) deskRefused(f *deskFlight) {
	var lost *runnel.LeaseLostError
	var moved *runnel.CursorMovedError
	switch err := f.want.err; {
	case errors.As(err, &lost):
		s.check(fenceHolds, true, "")
		for _, p := range f.payloads {
			s.desk.fenced[p] = true
			s.cover.hit("a write under an outdated fencing number was refused")
		}
		if f.want.claim != nil {
			s.cover.hit("a lease was lost to a later number")
		} else if f.want.over != nil {
			s.cover.hit("a lease was lost because its time is over")
		}
	case errors.Is(err, runnel.ErrLeaseHeld):
		s.cover.hit("a lease was refused, because another holder has it")
	case errors.As(err, &moved):
		s.cover.hit("a cursor was refused to go back")
	case errors.Is(err, runnel.ErrKeyReused):
		s.cover.hit("a key was refused for other records")
	}
}

// deskCompare compares an answer with the model's.
func (s *sim) deskCompare(f *deskFlight, r deskResult) {
	want, got := &f.want, &r.answer
	named := exactAnswers
	var lost *runnel.LeaseLostError
	switch {
	case errors.As(want.err, &lost) && r.err == nil:
		named = fenceHolds
	case want.err == nil && (errors.Is(r.err, runnel.ErrLeaseLost) || errors.Is(r.err, runnel.ErrLeaseHeld)):
		named = leaseLasts
	case errors.Is(want.err, runnel.ErrLeaseHeld) && r.err == nil:
		named = leaseLasts
	case errors.Is(want.err, runnel.ErrCursorMoved) != errors.Is(r.err, runnel.ErrCursorMoved):
		named = spotsStay
	case slices.ContainsFunc(want.writes, func(w wrote) bool { return w.Duplicate }):
		named = storedOnce
	}
	if d := s.deskDiffers(f.began, want, got, r.err); d != "" {
		s.fail(named, "%d %s: %s", f.op, f.what, d)
	}
	s.check(exactAnswers, true, "")
	if named != exactAnswers {
		s.check(named, true, "")
	}
	if c := want.claim; c != nil && want.err == nil {
		s.learn(c, &got.lease)
	}
	for i, w := range want.writes {
		a := got.appended[i]
		s.place(w.entry, a.Position, 0, a.Time)
		s.desk.seen = max(s.desk.seen, a.Position)
	}
	if f.kind == "cursor move" && want.err == nil {
		s.check(spotsStay, true, "")
	}
}

// deskDiffers says in what an answer is not the model's.
func (s *sim) deskDiffers(now moment, want *deskOutcome, got *deskAnswer, err error) string {
	if want.err != nil || err != nil {
		return s.deskErrorDiffers(now, want, err)
	}
	if c := want.claim; c != nil {
		if d := c.differs(&got.lease, now); d != "" {
			return d
		}
	}
	if len(want.writes) != len(got.appended) {
		return fmt.Sprintf("want %d writes, got %d", len(want.writes), len(got.appended))
	}
	for i, w := range want.writes {
		g := got.appended[i]
		g.Position, g.Time = 0, time.Time{}
		if w.Appended != g {
			return fmt.Sprintf("write %d: want %+v, got %+v", i, w.Appended, got.appended[i])
		}
	}
	return ""
}

func (s *sim) deskErrorDiffers(now moment, want *deskOutcome, err error) string {
	var held *runnel.LeaseHeldError
	var lost *runnel.LeaseLostError
	switch {
	case want.err == nil || err == nil:
		return fmt.Sprintf("want error %v, got %v", want.err, err)
	case errors.Is(want.err, runnel.ErrLeaseHeld) && errors.As(err, &held):
		d := want.claim.differs(&held.Lease, now)
		if d == "" {
			s.learn(want.claim, &held.Lease)
		}
		return d
	case want.claim != nil && errors.As(err, &lost):
		s.give(want.claim, lost.Current)
		if lost.Current != want.claim.number || lost.Key != want.claim.key {
			return fmt.Sprintf("it is held under %d, got %v", want.claim.number, err)
		}
		return ""
	case want.err.Error() != err.Error():
		return fmt.Sprintf("want error %v, got %v", want.err, err)
	}
	return ""
}

// differs says in what a lease is not as it was told.
func (c *claim) differs(l *runnel.Lease, now moment) string {
	low, high := c.low.Truncate(time.Microsecond), c.high
	if l.Space != deskSpace() || l.Key != c.key || l.Holder != c.holder || l.TTL != c.ttl || c.number > 0 && l.Number != c.number ||
		l.Deadline.Before(low) || l.Deadline.After(high) || l.Granted.After(now.latest) {
		return fmt.Sprintf("want %s held by %s under %d until %v through %v, got %+v", c.key, c.holder, c.number, low, high, *l)
	}
	return ""
}

// learn keeps what somebody was told of a lease.
func (s *sim) learn(c *claim, l *runnel.Lease) {
	c.low, c.high = l.Deadline, l.Deadline
	s.give(c, l.Number)
}

// give keeps the number of a lease, which must be beyond those that were given before.
func (s *sim) give(c *claim, number uint64) {
	if c.number != 0 {
		return
	}
	for _, o := range s.desk.given {
		s.check(numbersRise, o.number != number && (o.op < c.op) == (o.number < number),
			"%s is given under %d, and %s was under %d by operation %d", c.key, number, o.key, o.number, o.op)
	}
	s.check(numbersRise, number > 0, "%s is given under %d", c.key, number)
	c.number = number
	s.desk.given = append(s.desk.given, c)
}

// deskRead checks the answer to a read: one of the states that were durable meanwhile explains it.
func (s *sim) deskRead(f *deskFlight, r deskResult) {
	if r.err != nil && !errors.Is(r.err, runnel.ErrNotFound) {
		s.fail(exactAnswers, "%d %s: %v", f.op, f.what, r.err)
	}
	a := &r.answer
	if r.err != nil {
		a = nil
	}
	text := ""
	for i, st := range f.states {
		if f.from+i > s.desk.first {
			break // not durable yet
		}
		d := f.reads(st, f.began, a)
		if d == "" {
			s.check(f.invariant, true, "")
			s.note("%d answered", f.op)
			return
		}
		text += "\n  " + d
	}
	s.fail(f.invariant, "%d %s: of what was durable nothing explains the answer%s", f.op, f.what, text)
}

// unknown notes that a client cannot know what became of its operation.
func (h *deskHistory) unknown(f *deskFlight) {
	if f.repeat != nil && len(h.again) < 8 {
		h.again = append(h.again, f.repeat())
	}
}

// loseDesk ends all operations at the desk with the generation.
func (s *sim) loseDesk() {
	h := s.desk
	for _, op := range h.staged {
		s.cover.hit("power failed with a " + op.flight.kind + " staged and not durable")
	}
	for _, f := range h.flights {
		h.unknown(f)
	}
	h.flights = nil
	for _, c := range h.latest().claims {
		if now := s.now(); now.at.Before(now.latest) && c.verdict(now) == alive {
			s.cover.hit("the clock was set back while a lease was held")
		}
	}
}

// settleClaims lets time pass until there is no lease of which the model cannot say whether it is over.
func (s *sim) settleClaims() {
	for tries := 0; !s.broken; tries++ {
		s.check(itRuns, tries < 50, "which leases are over is never known")
		var high time.Time
		for _, c := range s.desk.latest().claims {
			if c.verdict(s.now()) == unsure && c.end().After(high) {
				high = c.end()
			}
		}
		if high.IsZero() {
			return
		}
		if s.behind() > 0 {
			s.catchUp()
		} else {
			s.pass(high.Sub(s.now().at) + time.Millisecond)
		}
	}
}

func isWorker(key string) bool { return strings.HasPrefix(key, workerStart) }
