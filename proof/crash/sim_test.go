package crash

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/http"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/durablestreams"
	"github.com/runnelhq/runnel/engine"
	"github.com/runnelhq/runnel/storage"
	"github.com/runnelhq/runnel/storage/pebblestore"
)

// variant breaks the system on purpose. The zero variant is the system as it is.
type variant struct {
	driver func(storage.Driver) storage.Driver
	log    func(log) log
	disk   func(*disk)
	web    func(http.Handler) http.Handler
	items  func(itemLog) itemLog
	subs   func(subLog) subLog
}

// plan says what to run.
type plan struct {
	seed    uint64
	steps   int
	skip    map[int]bool
	variant variant
	profile *profile // nil to draw one
	cover   *coverage
	// invite lets another part of the system live through the run; nil for none.
	invite func(s *sim) guest
}

// run simulates a plan. It returns the history, and what was violated, nil if nothing.
func run(t *testing.T, p plan) (lines []string, found *violation) {
	t.Helper()
	// With one processor it is the simulator that decides what happens next, and a seed repeats its run.
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	s := &sim{plan: p, spaces: make(map[string]*history), born: make(map[runnel.Segment]bool), desk: newDesk(), chronicles: make(map[string]*chronicle)}
	defer func() {
		// Pebble's goroutines stand still for good after a failure of the disk, and the bubble says so.
		if r := recover(); r != nil {
			if text := fmt.Sprint(r); !strings.Contains(text, "blocked goroutines remain") || !s.stuck && s.found == nil {
				panic(r)
			}
		}
		lines, found = s.lines, s.found
	}()
	s.outside = make(chan func())
	defer close(s.outside)
	go func() {
		for do := range s.outside {
			do()
		}
	}()
	const most = 3 * time.Minute
	defer time.AfterFunc(most, func() { panic(fmt.Sprintf("seed %d takes more than %v", p.seed, most)) }).Stop()
	synctest.Test(t, func(*testing.T) { s.run() })
	return s.lines, s.found
}

// sim is one run.
type sim struct {
	plan
	lines []string
	found *violation
	stuck bool // a disk has failed, and goroutines of Pebble will not end

	// outside runs something outside of the bubble, which it need not leave at rest.
	outside chan func()
	disk    *disk
	door    *door
	driver  *pebblestore.Driver
	engine  *engine.Engine
	log     log
	handler *durablestreams.Handler
	web     http.Handler // the handler, or what a variant makes of it
	fronts  []front
	ctx     context.Context //nolint:containedctx // that of the clients of one generation
	cancel  context.CancelFunc

	large   int // bytes of large entries
	heavy   int // entries to come that fill a memtable
	wall    wall
	jumped  bool // the clock was set forward in this generation: those who wait are late to say that they do
	spaces  map[string]*history
	marks   *marks
	flights []*flight
	readers []*reader
	retries []retry
	born    map[runnel.Segment]bool // names that have been in use
	ops     int
	gen     int
	guest   guest // nil for none
	// itemHistory is for how long the past of items is kept; 0 is the default, which is longer than a run.
	itemHistory time.Duration
	gated       bool
	calm        bool // see calmDown
	broken      bool // the disk has failed
	forking     bool // a fork is between its two commits, and nothing else is under way
	armed       bool // the disk fails, or takes an image, some time soon

	desk *deskHistory
	// chronicles are what was shown of the timelines of spaces.
	chronicles map[string]*chronicle
}

// marks say, by space, how many operations are staged, and how many of them the door has seen made
// durable.
type marks struct {
	mu              sync.Mutex
	staged, durable map[string]int
}

func (m *marks) stage(space string, n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.staged[space] = n
}

func (m *marks) enter(v *visit) {
	m.mu.Lock()
	defer m.mu.Unlock()
	v.upto = m.staged[v.space]
}

func (m *marks) leave(v *visit, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err == nil && !v.drop {
		m.durable[v.space] = max(m.durable[v.space], v.upto)
	}
}

// upto returns how many operations of a space are durable.
func (m *marks) upto(space string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.durable[space]
}

// history is what the model knows of a space.
type history struct {
	space  string
	first  int   // operations that base includes
	base   state // as it is durable
	staged []staged
}

// expire lets a segment be over in all states that a crash may leave, because somebody was told. It is
// the only thing that the operation of the index has changed.
func (h *history) expire(index int, next state) {
	before := h.base
	if n := index - h.first; n > 0 {
		before = h.staged[n-1].after
	}
	for name, sg := range before {
		if next[name] == sg {
			continue
		}
		over := func(st state) state {
			was := st[name]
			switch {
			case was == nil || was.life != sg.life:
				return st
			case next[name] != nil:
				return st.with(next[name])
			}
			return st.without(name)
		}
		h.base = over(h.base)
		for i := range h.staged {
			h.staged[i].after = over(h.staged[i].after)
		}
	}
}

// staged is an operation that was staged after the durable ones.
type staged struct {
	flight *flight
	after  state
}

func (h *history) total() int { return h.first + len(h.staged) }

func (h *history) latest() state {
	if n := len(h.staged); n > 0 {
		return h.staged[n-1].after
	}
	return h.base
}

// states are the durable one and those that were staged after it.
func (h *history) states() []state {
	all := []state{h.base}
	for i := range h.staged {
		all = append(all, h.staged[i].after)
	}
	return all
}

// since is the index of the operation that has left a segment as it is, -1 if that is durable.
func (h *history) since(name string) int {
	is := h.latest()[name]
	n := len(h.staged)
	for n > 0 && h.staged[n-1].after[name] == is {
		n--
	}
	if n == 0 && h.base[name] == is {
		return -1
	}
	if f := h.staged[n].flight; f != nil && f.want.err != nil {
		return -1 // it has expired, which may have been written down before anybody asked
	}
	return h.first + n
}

// advance makes operations durable.
func (h *history) advance(upto int) {
	if n := upto - h.first; n > 0 {
		h.base = h.staged[n-1].after
		h.staged = slices.Clone(h.staged[n:])
		h.first = upto
	}
}

// call is an operation that a client is about to start.
type call struct {
	what  string
	space string
	names []string // of the segments written, in the order of the answers
	front front
	// stage is what the model makes of it. The answer to a read is that of the durable state.
	reads   bool
	largest int // bytes of the largest entry that it brings
	stage   func(st state, op int, now moment) outcome
	run     func(ctx context.Context) (answer, error)
	// retry is set for writes of producers, which may be repeated.
	retry *retry
	fork  bool
}

// retry is a write of a producer whose client does not know what became of it.
type retry struct {
	addr     runnel.Segment
	o        runnel.AppendOptions
	payloads []string
}

// flight is an operation that was started.
type flight struct {
	*call
	op        int
	want      outcome
	of        state // that the answer is about
	index     int   // of the operation in the space's history, -1 if it changes nothing
	rests     int   // index of the operation that the answer of one that changes nothing rests on, -1 for none
	late      bool  // the disk had failed before it was started
	cancelled bool
	cancel    context.CancelFunc
	result    chan result
}

type result struct {
	answer answer
	err    error
}

func (s *sim) note(format string, args ...any) {
	s.lines = append(s.lines, fmt.Sprintf("%-12v ", time.Since(start()))+fmt.Sprintf(format, args...))
}

func (s *sim) rand(stream uint64) *rand.Rand { return rand.New(rand.NewPCG(s.seed, stream)) }

func (s *sim) run() {
	defer func() {
		r := recover()
		s.cover.look(itRuns)
		if r != nil {
			v, ok := r.(*violation)
			if !ok {
				v = &violation{itRuns, fmt.Sprintf("panic: %v\n%s", r, debug.Stack())}
			}
			s.found = v
			s.note("VIOLATED %s", v)
		}
		s.quit()
	}()
	for _, space := range spaceNames {
		s.spaces[space] = &history{space: space}
	}
	s.drawProfile(s.rand(1 << 43))
	if s.invite != nil {
		s.guest = s.invite(s)
	}
	s.open(s.rand(1<<40), vfs.NewCrashableMem())
	for i := range s.steps {
		if !s.skip[i] {
			s.step(s.rand(uint64(i)))
		}
	}
	r := s.rand(1<<40 + 1)
	s.crash(r, s.disk.snap(), "at the end")
	s.restart(r)
	if s.guest != nil {
		s.calmDown()
		s.guest.finish()
	}
}

// calmDown lets power stay, and holds nothing any more.
func (s *sim) calmDown() {
	s.calm = true
	s.disk.arm(1 << 40)
	s.settle() // power may have failed by now
	s.drain()
	s.setGate(false)
}

// step does one thing.
func (s *sim) step(r *rand.Rand) {
	if s.broken && r.IntN(6) == 0 {
		s.crash(r, s.disk.snap(), "after the disk failed")
		return
	}
	if s.forking {
		if r.IntN(5) == 0 {
			s.cover.hit("power failed while a fork was made")
			s.crash(r, s.disk.snap(), "now")
			return
		}
		s.move(r)
		return
	}
	switch n := r.IntN(100); {
	case n < 58:
		s.start(r)
	case n < 84:
		for range 1 + r.IntN(6) {
			if !s.move(r) {
				break
			}
		}
	case n < 89:
		s.drain()
	case n < 90:
		s.cancelOne(r)
	case n < 92:
		s.pass(time.Duration(1+r.IntN(40)) * time.Second)
	case n < 93:
		s.setClock(r)
	case n < 95:
		s.toggle()
	case n < 97:
		s.crash(r, s.disk.snap(), "now")
	case n < 98:
		s.note("power will fail at a change to come")
		s.disk.arm(1 + r.IntN(12))
	case n < 99:
		if s.broken {
			s.crash(r, s.disk.snap(), "after the disk failed")
			return
		}
		s.restart(r)
	default:
		s.breakDisk(r)
	}
}

// start starts an operation of a client, if there is room for one more.
func (s *sim) start(r *rand.Rand) {
	if len(s.flights) >= 12 {
		s.move(r)
		return
	}
	if r.IntN(4) > 0 {
		s.pass(time.Millisecond)
	}
	if s.guest != nil && r.IntN(8) > 0 {
		s.guest.act(r)
		return
	}
	if r.IntN(4) == 0 {
		s.readSlowly(r)
	}
	gen := s.gen
	c := s.choose(r)
	if c == nil || s.gen != gen { // power may have failed while it was chosen
		return
	}
	s.begin(c)
}

func (s *sim) begin(c *call) *flight {
	s.ops++
	f := &flight{call: c, op: s.ops, index: -1, rests: -1, late: s.broken, result: make(chan result, 1)}
	h := s.spaces[c.space]
	now := s.now()
	st := h.latest()
	if c.reads {
		st = h.base
	}
	f.want = c.stage(st, f.op, now)
	f.of = st
	if f.want.next != nil {
		f.of = f.want.next
	}
	for _, l := range f.want.used {
		l.touch(now)
	}
	s.note("%d %s over %s", f.op, c.what, c.front.name())
	if !c.reads && !s.broken && !maps.Equal(st, f.want.next) {
		f.index = h.total()
		h.staged = append(h.staged, staged{f, f.want.next})
		if !c.fork { // whose second commit is staged when the first one is durable
			s.marks.stage(c.space, h.total())
		}
	} else if !c.reads && (f.want.err == nil || len(c.names) == 1) {
		for _, name := range c.names {
			f.rests = max(f.rests, h.since(name))
		}
	}
	if c.largest >= runBytes && s.ops%2 == 0 && !s.calm {
		s.disk.arm(1 + s.ops%5) // power fails in the middle of it
	}
	s.flights = append(s.flights, f)
	var ctx context.Context
	ctx, f.cancel = context.WithCancel(s.ctx)
	go func() {
		a, err := c.run(ctx)
		f.result <- result{a, err}
	}()
	s.settle()
	return f
}

// move lets one thing that is held go on, and tells whether there was one.
func (s *sim) move(r *rand.Rand) bool {
	moves := s.door.moves()
	if len(moves) == 0 {
		return false
	}
	moves[r.IntN(len(moves))]()
	s.settle()
	return true
}

// drain lets everything that is held go on until nothing is.
func (s *sim) drain() {
	for moves := s.door.moves(); len(moves) > 0; moves = s.door.moves() {
		moves[0]()
		s.settle()
	}
	if s.broken {
		return
	}
	for _, h := range s.spaces {
		for _, sg := range h.latest() {
			if sg.sure = sg.low; !s.jumped && sg.waited.After(sg.sure) {
				sg.sure = sg.waited
			}
		}
	}
}

func (s *sim) cancelOne(r *rand.Rand) {
	if len(s.flights) == 0 || s.broken {
		return
	}
	f := s.flights[r.IntN(len(s.flights))]
	if f.cancelled || f.fork {
		return
	}
	s.note("%d is given up by its client", f.op)
	f.cancelled = true
	f.cancel()
	s.settle()
}

// pass lets time pass.
func (s *sim) pass(d time.Duration) {
	if d >= time.Second {
		if s.door.flushes() {
			s.drain() // Pebble flushes by itself, and nothing may be held then
		}
		s.note("%v pass", d)
	}
	time.Sleep(d) //nolint:forbidigo // in a bubble
	s.settle()
}

// toggle begins or ends to hold what reaches the disk.
func (s *sim) toggle() {
	if s.gated {
		s.drain()
	}
	s.setGate(!s.gated)
}

func (s *sim) setGate(on bool) {
	s.gated = on
	s.door.hold(on)
	// Long histories fill memtables faster than the door can tell, and a log may not end while a sync is held.
	s.disk.hold(on && s.itemHistory == 0)
}

// settle waits until nothing moves any more, and looks at what has come of it.
func (s *sim) settle() {
	synctest.Wait()
	if i := s.disk.taken(); i != nil {
		s.mayKeepAlive()
		s.crash(s.rand(1<<41+uint64(s.gen)), i, "in the middle of a change")
		return
	}
	if s.engine.Err() != nil && !s.broken {
		s.check(staysFailed, s.armed, "the engine failed although the disk did not: %v", s.engine.Err())
		s.broken = true
		s.note("the disk has failed")
		s.cover.hit("the disk failed")
	}
	s.disk.hold(s.gated && s.itemHistory == 0)
	for space, h := range s.spaces {
		if s.door.idle() && !s.broken {
			h.advance(h.total())
		}
		h.advance(s.marks.upto(space))
	}
	s.collect()
	s.settleDesk()
	s.look()
	s.lookAtFollowers()
	s.keepAlive()
	if s.guest != nil {
		s.guest.look()
	}
}

// collect takes the answers that have come.
func (s *sim) collect() {
	s.flights = slices.DeleteFunc(s.flights, func(f *flight) bool {
		select {
		case r := <-f.result:
			f.cancel()
			s.answered(f, r)
			return true
		default:
			return false
		}
	})
}

func (s *sim) answered(f *flight, r result) {
	durable := f.index < s.spaces[f.space].first
	switch {
	case s.broken && r.err != nil:
		s.check(staysFailed, true, "")
		s.unknown(f)
		return
	case s.broken && f.reads && r.err == nil && f.want.err == nil:
		// Memory still serves what is durable, as far as it holds it.
		d := differs(f.front, f.want, r.answer, nil)
		s.check(staysFailed, d == "", "%d %s over %s: %s", f.op, f.what, f.front.name(), d)
		return
	case f.late && !f.reads && r.err == nil:
		s.fail(staysFailed, "%d %s: got %+v", f.op, f.what, r.answer)
	case f.cancelled && unresolved(r.err):
		if f.index >= 0 {
			s.cover.hit("the client gave up, outcome unknown")
			s.unknown(f)
		}
		return
	}
	if s.armed && f.index >= 0 && errors.Is(r.err, runnel.ErrUnavailable) {
		// It says that nothing was written, so nothing may be found.
		h := s.spaces[f.space]
		h.staged = h.staged[:min(len(h.staged), max(0, f.index-h.first))]
		s.note("%d was refused: %v", f.op, r.err)
		return
	}
	if f.fork {
		s.forking = false
		h := s.spaces[f.space]
		s.marks.stage(f.space, h.total())
		if h.advance(h.total()); r.err == nil {
			durable = true
		}
	}
	if d := differs(f.front, f.want, r.answer, r.err); d != "" {
		if strings.HasPrefix(f.what, "probe") || strings.HasPrefix(f.what, "retry") {
			s.fail(storedOnce, "%d %s over %s: %s", f.op, f.what, f.front.name(), d)
		}
		s.fail(exactAnswers, "%d %s over %s: %s", f.op, f.what, f.front.name(), d)
	}
	s.check(exactAnswers, true, "")
	if f.want.ok.Duplicate && f.retry != nil {
		s.check(storedOnce, true, "")
	}
	if f.want.err != nil && !durable {
		// That a segment has expired may have been written down before anybody asked. Now somebody knows.
		s.spaces[f.space].expire(f.index, f.want.next)
		durable = true
	}
	s.check(durableFirst, durable, "%d %s was answered before it was durable", f.op, f.what)
	s.check(durableFirst, f.rests < s.spaces[f.space].first, "%d %s was answered before what the answer rests on was durable", f.op, f.what)
	if errors.Is(f.want.err, runnel.ErrTailMoved) {
		s.cover.hit("an append was refused for its expected sequence")
	}
	s.note("%d answered%s", f.op, told(f.want))
	s.cover.hit("op: " + firstWord(f.what) + outcomeWord(f.want))
	s.remember(f, r.answer)
}

func told(o outcome) string {
	switch {
	case o.err != nil:
		return ": " + o.err.Error()
	case o.ok.Info != nil:
		return fmt.Sprintf(", tail %d", o.ok.Info.Tail)
	case o.ok.Tail > 0:
		return fmt.Sprintf(", tail %d", o.ok.Tail)
	}
	return ""
}

func firstWord(s string) string {
	w, _, _ := strings.Cut(s, " ")
	return w
}

func outcomeWord(o outcome) string {
	switch {
	case o.err != nil:
		return " refused"
	case o.ok.Duplicate:
		return " repeated"
	}
	return ""
}

// unknown notes that a client cannot know what became of its operation.
func (s *sim) unknown(f *flight) {
	if f.retry != nil {
		s.retries = append(s.retries, *f.retry)
	}
}

// remember keeps what a client was told of the places of entries.
func (s *sim) remember(f *flight, a answer) {
	if f.front.name() != "go" {
		return
	}
	if in := a.Info; in != nil {
		if sg := f.of[in.Segment.Name]; sg != nil {
			s.identify(sg.life, in)
		}
	}
	for i, a := range append([]runnel.Appended{a.Appended}, a.More...) {
		if a.First == 0 {
			continue
		}
		for j, e := range f.want.next[f.names[i]].entries[a.First-1:] {
			s.place(e, a.Position+runnel.Position(j), 0, a.Time)
		}
	}
}

// identify keeps the id of an incarnation, which no other one of its space may have, and when it was created.
func (s *sim) identify(l *life, in *runnel.Info) {
	id := in.ID
	l.created, l.createdLate = in.Created, in.Created
	if l.id == 0 {
		for _, sg := range s.spaces[l.space].latest() {
			s.check(noOldByte, sg.life == l || sg.id != id, "%s and %s have the same id %d", l.name, sg.name, id)
		}
		l.id = id
	}
	s.check(noOldByte, l.id == id, "%s/%s was %d and is %d", l.space, l.name, l.id, id)
}

// place keeps where an entry is, and when.
func (s *sim) place(e *entry, position, together runnel.Position, at time.Time) {
	s.check(inOrder, !at.Before(e.time) && !at.After(e.late), "%s was written from %v through %v and says %v", short([]string{e.payload}), e.time, e.late, at)
	if e.late.After(e.time) && at.After(e.time) {
		s.cover.hit("an entry got a time that the clock had gone back from")
	}
	e.time, e.late = at, at
	if !e.seen {
		e.seen, e.position = true, position
	}
	if e.together == 0 {
		e.together = together
	}
	s.check(keepsSeen, e.position == position && (together == 0 || e.together == together),
		"%s was at position %d of transaction %d and is at %d of %d", short([]string{e.payload}), e.position, e.together, position, together)
}

// open starts a generation on what is on the disk. Power may fail while it starts.
func (s *sim) open(r *rand.Rand, mem *vfs.MemFS) {
	s.gen++
	if s.gen > 1 {
		s.setClockOver(r)
	}
	memTable := []int{16, 32, 32, 64, 512}[r.IntN(5)] << 10
	quiet := slog.New(slog.DiscardHandler)
	for {
		s.disk = newDisk(mem)
		if s.variant.disk != nil {
			s.variant.disk(s.disk)
		}
		if s.gen > 1 && r.IntN(4) == 0 {
			s.disk.arm(1 + r.IntN(30))
		}
		cfg := pebblestore.Config{FS: s.disk, MemTableBytes: memTable, CacheBytes: 64 << 10, MaxOpenFiles: 100, MaxCompactions: 1, Logger: quiet}
		if s.gen > 1 && r.IntN(6) == 0 {
			s.openBroken(r, cfg)
			mem, _ = s.disk.snap().disk(r, loss(r.IntN(int(losses))))
			continue
		}
		var err error
		s.driver, err = pebblestore.Open("data", cfg)
		s.check(alwaysOpens, err == nil, "%v", err)
		synctest.Wait()
		i := s.disk.taken()
		if i == nil {
			s.disk.arm(1 << 40)
			break
		}
		s.cover.hit("power failed during a restart")
		s.note("power fails while it starts")
		must(s.driver.Close())
		mem, _ = i.disk(r, loss(r.IntN(int(losses))))
	}
	var d storage.Driver = s.driver
	if s.variant.driver != nil {
		d = s.variant.driver(d)
	}
	s.door = newDoor(d, s.disk, memTable)
	m := &marks{staged: make(map[string]int), durable: make(map[string]int)}
	for space, h := range s.spaces {
		m.stage(space, h.total())
	}
	m.stage(deskName, s.desk.total())
	s.marks, s.door.onEnter, s.door.onLeave = m, m.enter, m.leave
	s.door.onRotate = func() { s.cover.hit("a log file was begun under load") }
	e, err := engine.Open(s.door, engine.Config{
		TailCacheBytes: []int64{0, 1, 4000}[r.IntN(3)],
		Now:            s.wall.read,
		MaxSegments:    []int{0, -1}[r.IntN(2)], // the default, and none that is not in use
		SweepInterval:  []time.Duration{time.Second, 10 * time.Second}[r.IntN(2)],
		ItemHistory:    s.itemHistory,
		Logger:         quiet,
	})
	must(err)
	s.engine, s.log = e, e
	if s.variant.log != nil {
		s.log = s.variant.log(e)
	}
	s.handler = durablestreams.New(s.log, durablestreams.Config{NoRegistry: true, Heartbeat: -1, SSERotation: -1, LongPollTimeout: 5 * time.Second, ProgressTimeout: 3 * time.Second, KeepConnections: true, Logger: quiet})
	s.web = s.handler
	if s.variant.web != nil {
		s.web = s.variant.web(s.handler)
	}
	s.fronts = []front{inProcess{s.log}, overHTTP{s.web}}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.broken, s.armed, s.forking, s.jumped = false, false, false, false
	s.flights = nil
	s.gated = false
	if s.guest != nil {
		s.guest.open()
	}
}

// quit lets a generation go. What it still does is of no consequence to the disk of the next.
func (s *sim) quit() {
	if s.handler == nil {
		return
	}
	if s.guest != nil {
		s.guest.park()
	}
	if !s.broken {
		s.disk.setFault(nil)
	}
	s.disk.hold(false)
	s.door.hold(false)
	s.cancel()
	_ = s.handler.Close()
	_ = s.engine.Close() // what it could not write is not asked for
	synctest.Wait()
	_ = s.driver.Close()
	synctest.Wait()
	s.handler = nil
}

// restart closes everything as it should be and starts again.
func (s *sim) restart(r *rand.Rand) {
	if s.broken {
		return
	}
	s.drain()
	if s.broken {
		return
	}
	if s.armed {
		s.crash(r, s.disk.snap(), "instead of a restart")
		return
	}
	s.note("restart")
	s.cover.hit("clean restart")
	s.mayKeepAlive()
	for _, x := range s.readers {
		if x.client == nil {
			x.life.touch(s.now()) // as the last thing that it does
		}
	}
	s.parkReaders()
	if s.guest != nil {
		s.guest.park()
	}
	s.cancel()
	synctest.Wait()
	_ = s.handler.Close()
	s.setGate(false)
	must(s.engine.Close())
	synctest.Wait()
	must(s.driver.Close())
	synctest.Wait()
	s.handler = nil
	s.open(r, s.disk.mem)
	s.verify()
	s.setGate(r.IntN(4) > 0 && !s.calm)
}

// crash ends a generation with a loss of power, and starts the next one on what is left.
func (s *sim) crash(r *rand.Rand, i *image, when string) {
	l := loss(r.IntN(int(losses)))
	s.note("POWER FAILS %s, %s", when, l)
	s.cover.hit("power failed: " + l.String())
	for _, h := range s.spaces {
		if len(h.staged) > 0 {
			s.cover.hit("power failed with writes staged and not durable")
			break
		}
	}
	for _, f := range s.flights {
		if f.largest >= fragmentBytes {
			s.cover.hit("power failed while an entry of several fragments was written")
		} else if f.largest >= runBytes {
			s.cover.hit("power failed while a large entry was written")
		}
	}
	for _, f := range s.flights {
		s.unknown(f)
	}
	s.flights = nil
	s.loseDesk()
	s.parkReaders()
	s.quit()
	s.armed = false
	mem, torn := i.disk(r, l)
	for _, how := range torn {
		s.cover.hit("a log was recovered with " + how)
	}
	for _, h := range s.spaces {
		for _, st := range h.states() {
			for _, sg := range st {
				sg.forget()
			}
		}
	}
	s.open(r, mem)
	s.verify()
	s.setGate(r.IntN(4) > 0 && !s.calm)
}
