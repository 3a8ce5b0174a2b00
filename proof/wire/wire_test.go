package wire

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/client"
	"github.com/runnelhq/runnel/engine"
	"github.com/runnelhq/runnel/session"
	"github.com/runnelhq/runnel/session/sessiontest"
	"github.com/runnelhq/runnel/storage/memory"
)

var (
	full    = flag.Bool("full", false, "read a million entries and make a hundred thousand calls, instead of a tenth and a fiftieth")
	seed    = flag.Uint64("seed", 0, "repeat the disturbances of a run; 0 takes a new seed")
	patient = flag.Duration("patient", time.Minute, "how long one call may take before it counts as hung")
)

var (
	archive = runnel.Segment{Space: "archive", Name: "a"}
	calls   = runnel.Space{Name: "calls"}
)

// keepAlive finds out in a moment that a connection is stalled.
var keepAlive = session.KeepAlive{Interval: 50 * time.Millisecond, Timeout: 300 * time.Millisecond}

// proof is one run.
type proof struct {
	*testing.T
	broken  *mutation       // nil for the system as it is
	patient time.Duration   // as the flag
	ctx     context.Context //nolint:containedctx // that of the run, which ends when a broken one was seen
	found   func(text string)
	log     *engine.Engine
	link    *sessiontest.Link
	seed    uint64

	disturbed [5]atomic.Int64
	unknown   atomic.Int64
	repeated  atomic.Int64
}

func TestNothingIsLostDoubledReorderedOrHung(t *testing.T) {
	p := &proof{T: t, seed: *seed, patient: *patient, ctx: t.Context()}
	if p.seed == 0 {
		p.seed = rand.Uint64()
	}
	t.Logf("-seed %d", p.seed)
	entries, each := 100_000, 250
	if *full {
		entries, each = 1_000_000, 12_500
	}
	p.run(entries, each)
	t.Logf("%d connections; cut %d times, stalled %d, throttled %d, refused %d; %d calls, of which %d with an unknown outcome and %d answered as repeated",
		p.link.Accepted(), p.disturbed[0].Load(), p.disturbed[1].Load()+p.disturbed[2].Load(), p.disturbed[3].Load(), p.disturbed[4].Load(),
		callers*each, p.unknown.Load(), p.repeated.Load())
	if p.link.Accepted() <= 2+2*callers {
		t.Error("there was hardly a disturbance")
	}
}

// run reads so many entries while each caller makes so many calls.
func (p *proof) run(entries, each int) {
	e, err := engine.Open(new(memory.Driver), engine.Config{})
	p.must(err)
	p.log = e
	var served runnel.Log = e
	if p.broken != nil && p.broken.server != nil {
		served = p.broken.server(e)
	}
	h := session.NewHandler(served, session.Config{KeepAlive: keepAlive})
	server := httptest.NewServer(h)
	p.link, err = sessiontest.NewLink(strings.TrimPrefix(server.URL, "http://"))
	p.must(err)
	defer func() {
		p.must(p.link.Close())
		p.must(h.Shutdown(context.Background()))
		server.Close()
		p.must(e.Close())
	}()
	p.fill(entries)

	ctx, stop := context.WithCancel(p.ctx)
	var disturbing, tails, work sync.WaitGroup
	disturbing.Go(func() { p.disturb(ctx) })
	for i := range callers {
		tails.Go(func() { p.follow(ctx, calls.Segment(fmt.Sprint(i))) })
	}
	tails.Go(func() { p.followSpace(ctx) })
	work.Go(func() { p.read(entries) })
	for i := range callers {
		work.Go(func() { p.call(i, each) })
	}
	work.Wait()
	stop()
	tails.Wait()
	disturbing.Wait()
}

// Context is that of the run.
func (p *proof) Context() context.Context { return p.ctx }

// Errorf tells of what must not be.
func (p *proof) Errorf(format string, args ...any) {
	p.Helper()
	if p.broken == nil {
		p.T.Errorf(format, args...)
		return
	}
	p.found(fmt.Sprintf(format, args...))
}

func (p *proof) must(err error) {
	p.Helper()
	if err != nil {
		p.Fatal(err)
	}
}

// connection is a client, and what ends it.
type connection struct {
	*client.Client
	dialled *client.Client
}

func (c *connection) Close() error { return c.dialled.Close() }

func (p *proof) dial() *connection {
	c, err := client.Dial(p.Context(), p.link.URL(), client.Config{
		KeepAlive: keepAlive, StreamBytes: 64 << 10, Patience: *patient, DialTimeout: time.Second,
	})
	if err != nil {
		p.Errorf("dial: %v", err)
		return nil
	}
	if p.broken != nil && p.broken.client != nil {
		return &connection{client.New(p.broken.client(c)), c}
	}
	return &connection{c, c}
}

func number(i int) runnel.Record { return runnel.Record{Payload: fmt.Append(nil, i)} }

// fill writes what the reader is to read.
func (p *proof) fill(entries int) {
	batch := make([]runnel.Record, 0, 1000)
	for i := 1; i <= entries; i++ {
		if batch = append(batch, number(i)); len(batch) == cap(batch) {
			_, err := p.log.Append(p.Context(), archive, runnel.AppendOptions{Create: &runnel.CreateOptions{}}, batch...)
			p.must(err)
			batch = batch[:0]
		}
	}
}

// disturb makes the connection bad, and good again, until the context ends. Then it is good.
func (p *proof) disturb(ctx context.Context) {
	r := rand.New(rand.NewPCG(p.seed, 1))
	wait := func(most time.Duration) {
		timer := time.NewTimer(time.Duration(r.Int64N(int64(most))))
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
	}
	for ctx.Err() == nil {
		wait(80 * time.Millisecond)
		kind := r.IntN(len(p.disturbed))
		switch kind {
		case 0:
			p.link.Cut()
		case 1, 2:
			direction := []sessiontest.Direction{sessiontest.ToServer, sessiontest.ToClient}[kind-1]
			p.link.Stall(direction, true)
			wait(2 * keepAlive.Timeout)
			if r.IntN(2) == 0 {
				p.link.Cut() // what was kept back never comes
			}
			p.link.Stall(direction, false)
		case 3:
			p.link.Throttle(20_000 + r.IntN(2_000_000))
			wait(300 * time.Millisecond)
			p.link.Throttle(0)
		case 4:
			p.link.Refuse(true)
			p.link.Cut()
			wait(50 * time.Millisecond)
			p.link.Refuse(false)
		}
		p.disturbed[kind].Add(1)
	}
}

// errHung is why a reader gives up.
var errHung = errors.New("nothing has come for too long")

// read reads the archive once, with a pause here and there.
func (p *proof) read(entries int) {
	c := p.dial()
	if c == nil {
		return
	}
	defer c.Close()
	ctx, cancel := context.WithCancelCause(p.Context())
	defer cancel(nil)
	hung := time.AfterFunc(p.patient, func() { cancel(errHung) })
	defer hung.Stop()
	next := 1
	for e, err := range c.Consume(ctx, client.Segment(archive, 0)) {
		if err != nil && errors.Is(context.Cause(ctx), errHung) {
			err = errHung
		}
		if err != nil {
			p.Errorf("the reader is at %d: %v", next-1, err)
			return
		}
		if e.Sequence != runnel.Sequence(next) || string(e.Payload) != fmt.Sprint(next) {
			p.Errorf("the reader got %d, %q, after %d", e.Sequence, e.Payload, next-1)
			return
		}
		if next%1000 == 0 {
			hung.Reset(p.patient)
		}
		if next++; next%20_000 == 0 {
			select {
			case <-time.After(20 * time.Millisecond): // the others go on
			case <-p.Context().Done():
			}
		}
	}
	if next != entries+1 {
		p.Errorf("the reader came to its end after %d of %d entries", next-1, entries)
	}
}

// follow follows one segment of the calls, and compares with the log what it got.
func (p *proof) follow(ctx context.Context, segment runnel.Segment) {
	c := p.dial()
	if c == nil {
		return
	}
	defer c.Close()
	if _, err := c.Create(p.Context(), segment, runnel.CreateOptions{}); err != nil {
		p.Errorf("create %s: %v", segment, err)
		return
	}
	var got []string
	for e, err := range c.Tail(ctx, client.Segment(segment, 0)) {
		if err != nil {
			if ctx.Err() == nil {
				p.Errorf("a tail of %s is at %d: %v", segment, len(got), err)
			}
			break
		}
		if e.Sequence != runnel.Sequence(len(got)+1) {
			p.Errorf("a tail of %s got %d after %d", segment, e.Sequence, len(got))
			break
		}
		got = append(got, string(e.Payload))
	}
	there := p.there(segment)
	if len(there) < len(got) {
		p.Errorf("a tail of %s got %d entries, and there are %d", segment, len(got), len(there))
		return
	}
	for i, text := range there[:len(got)] {
		if text != got[i] {
			p.Errorf("a tail of %s got %q as %d, which is %q", segment, got[i], i+1, text)
		}
	}
}

// followSpace follows all the calls.
func (p *proof) followSpace(ctx context.Context) {
	c := p.dial()
	if c == nil {
		return
	}
	defer c.Close()
	var at runnel.Position
	seen := make(map[string]runnel.Sequence)
	for e, err := range c.Tail(ctx, client.Space(calls, 0)) {
		if err != nil {
			if ctx.Err() == nil {
				p.Errorf("a tail of the space is at %d: %v", at, err)
			}
			return
		}
		if e.Position <= at || e.Sequence != seen[e.Segment.Name]+1 {
			p.Errorf("a tail of the space got %d, %s %d, after %d, %d", e.Position, e.Segment, e.Sequence, at, seen[e.Segment.Name])
			return
		}
		at, seen[e.Segment.Name] = e.Position, e.Sequence
	}
}

// there is what a segment holds, read beside the connection.
func (p *proof) there(segment runnel.Segment) (all []string) {
	for e, err := range client.New(p.log).Consume(context.Background(), client.Segment(segment, 0)) {
		if err != nil {
			p.Errorf("%s: %v", segment, err)
			return nil
		}
		all = append(all, string(e.Payload))
	}
	return all
}

const callers = 8

// caller makes calls to a segment of its own, whose producer it is.
type caller struct {
	*proof
	c       *connection
	r       *rand.Rand
	segment runnel.Segment
	cursor  runnel.CursorName
	place   uint64
	wrote   uint64         // by the producer
	must    map[string]int // how often a text is to be there; -1 for at most once
}

func (p *proof) call(i, calling int) {
	w := &caller{
		proof: p, r: rand.New(rand.NewPCG(p.seed, 100+uint64(i))), segment: calls.Segment(fmt.Sprint(i)), must: make(map[string]int),
		cursor: runnel.CursorName{Space: archive.In(), Segment: archive.Name, Name: fmt.Sprint(i)},
	}
	if w.c = p.dial(); w.c == nil {
		return
	}
	defer w.c.Close()
	for n := range calling {
		ctx, cancel := context.WithTimeout(p.Context(), p.patient)
		err := w.one(ctx, fmt.Sprintf("%d-%d", i, n))
		hung := ctx.Err()
		cancel()
		if err != nil || hung != nil {
			p.Errorf("call %d of caller %d: %v, %v", n, i, err, hung)
			return
		}
	}
	w.judge()
}

func (w *caller) one(ctx context.Context, text string) error {
	switch w.r.IntN(8) {
	case 0:
		return w.plain(ctx, text)
	case 1:
		return w.expecting(ctx, text)
	case 2:
		return w.once(ctx, text, client.Production{Key: text})
	case 3:
		w.wrote++
		return w.once(ctx, text, client.Production{Producer: &runnel.Producer{ID: "p", Epoch: 1, Seq: w.wrote - 1}})
	case 4:
		return w.move(ctx)
	case 5:
		return w.lease(ctx, text)
	case 6:
		last, err := w.c.Peek(ctx, w.segment)
		if errors.Is(err, runnel.ErrNotFound) {
			return nil // nobody has written yet
		}
		if err == nil && last.Sequence > 0 && w.must[string(last.Payload)] == 0 {
			return fmt.Errorf("the last entry is %q", last.Payload)
		}
		return err
	default:
		if _, err := w.c.Stat(ctx, w.segment); !errors.Is(err, runnel.ErrNotFound) {
			return err
		}
		return nil
	}
}

func record(text string) runnel.Record { return runnel.Record{Payload: []byte(text)} }

// outcome notes what an answer says of a text.
func (w *caller) outcome(text string, err error) error {
	switch {
	case err == nil:
		w.must[text] = 1
	case errors.Is(err, runnel.ErrUnknown):
		w.unknown.Add(1)
		w.must[text] = -1
	default:
		return err
	}
	return nil
}

// plain writes without anything by which the write could be known again.
func (w *caller) plain(ctx context.Context, text string) error {
	_, err := w.c.Publish(ctx, w.segment, record(text))
	return w.outcome(text, err)
}

// expecting writes behind what it sees. Nobody else writes to the segment.
func (w *caller) expecting(ctx context.Context, text string) error {
	info, err := w.c.Stat(ctx, w.segment)
	if err != nil && !errors.Is(err, runnel.ErrNotFound) {
		return err
	}
	_, err = w.c.Produce(ctx, w.segment, client.Production{Expect: client.At(info.Tail)}, record(text))
	if errors.Is(err, runnel.ErrTailMoved) && !errors.Is(err, runnel.ErrUnknown) {
		return nil // by a write before, whose outcome was unknown
	}
	return w.outcome(text, err)
}

// once writes what is known again.
func (w *caller) once(ctx context.Context, text string, as client.Production) error {
	w.must[text] = 1
	a, err := w.c.Produce(ctx, w.segment, as, record(text))
	if a.Duplicate {
		w.repeated.Add(1)
	}
	return err
}

// move moves a cursor forwards.
func (w *caller) move(ctx context.Context) error {
	w.place++
	_, err := w.c.Transact(ctx, w.cursor.Space, runnel.Transaction{Cursors: []runnel.CursorMove{{Segment: w.cursor.Segment, Name: w.cursor.Name, Place: w.place}}})
	if err != nil {
		return err
	}
	at, err := w.c.Cursor(ctx, w.cursor)
	if err == nil && at.Place != w.place {
		err = fmt.Errorf("the cursor is at %d, not at %d", at.Place, w.place)
	}
	return err
}

// lease takes a lease that nobody else wants, writes under it, and lets it go.
func (w *caller) lease(ctx context.Context, text string) error {
	l, err := w.c.AcquireLease(ctx, calls, runnel.LeaseRequest{Key: w.segment.Name, Holder: w.segment.Name, TTL: time.Hour})
	if err != nil {
		return fmt.Errorf("acquire: %w", err)
	}
	_, err = w.c.Transact(ctx, calls, runnel.Transaction{
		Fences: []runnel.Fence{l.Fence()},
		Writes: []runnel.Write{{Segment: w.segment.Name, Options: client.Production{}.Options(), Records: []runnel.Record{record(text)}}},
	})
	if err := w.outcome(text, err); err != nil {
		// An acquisition whose answer was lost may arrive late, and take the number away.
		if !errors.Is(err, runnel.ErrLeaseLost) {
			return fmt.Errorf("write: %w", err)
		}
	}
	if err := w.c.ReleaseLease(ctx, calls, l.Fence()); err != nil && !errors.Is(err, runnel.ErrLeaseLost) && !errors.Is(err, runnel.ErrUnknown) {
		return fmt.Errorf("release: %w", err)
	}
	return nil
}

// judge compares what is there with what the answers said.
func (w *caller) judge() {
	count := make(map[string]int)
	for _, text := range w.there(w.segment) {
		count[text]++
	}
	for text, must := range w.must {
		if got := count[text]; must > 0 && got != must || got > 1 {
			w.Errorf("%q is there %d times, not %d", text, got, must)
		}
		delete(count, text)
	}
	for text := range count {
		w.Errorf("%q is there, although it was refused", text)
	}
}
