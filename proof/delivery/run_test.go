package delivery

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/proof/patience"
)

// scale is how much a run does.
type scale struct {
	streams    int
	readers    int // of each stream, about
	writers    int
	writeEvery int           // milliseconds that a writer waits at most
	load       time.Duration // how long there is load
	arrival    time.Duration // how long readers may stand still, and not have arrived, when there is none any more
}

// run is one run.
type run struct {
	seed    uint64
	scale   scale
	cover   *coverage
	server  *server
	ledger  ledger
	streams []*stream
	began   time.Time
	calm    chan struct{}

	ctx    context.Context //nolint:containedctx // that of all clients of the run
	cancel context.CancelFunc
	work   sync.WaitGroup // readers

	mu      sync.Mutex
	readers []*reader
	found   *violation
	story   string
	tags    map[string]*life // by stream and tag
	births  chan struct{}    // closed at the next birth
}

// variant breaks the system on purpose. The zero variant is the system as it is.
type variant struct {
	log func(log) log
}

// play makes a run. It returns what was violated, nil if nothing, and the history of the reader concerned.
func play(seed uint64, sc scale, v variant, cover *coverage) (*violation, string) {
	r := &run{seed: seed, scale: sc, cover: cover, began: time.Now(), calm: make(chan struct{}),
		tags: make(map[string]*life), births: make(chan struct{})}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	defer r.cancel()
	r.server = newServer(r.rand(1), v, r.calm)
	if err := r.server.start(); err != nil {
		return &violation{protocol, err.Error()}, ""
	}
	r.check(r.load())
	if r.violated() == nil {
		r.check(r.arrive())
	}
	if r.violated() == nil {
		r.check(r.compare())
	}
	r.cancel()
	if err := r.server.stop(false); err != nil {
		r.check(violated(protocol, "the server stops with %v", err))
	}
	r.work.Wait()
	for _, rd := range r.readers {
		marks.Delete(rd.name)
		rd.http.CloseIdleConnections()
	}
	return r.found, r.story
}

func (r *run) rand(of uint64) *rand.Rand { return rand.New(rand.NewPCG(r.seed, of)) }

func (r *run) violated() *violation {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.found
}

// check ends the run if err is a violation.
func (r *run) check(err error) {
	if v, ok := errors.AsType[*violation](err); ok {
		r.fail(v, nil)
	} else if err != nil && r.ctx.Err() == nil {
		r.fail(&violation{protocol, err.Error()}, nil)
	}
}

// fail ends the run. Only the first violation counts.
func (r *run) fail(v *violation, rd *reader) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.found != nil || r.ctx.Err() != nil {
		return
	}
	r.found = v
	if rd != nil {
		r.story = fmt.Sprintf("%s, on a %s network, of %s:\n    %s", rd.name, rd.network.temper, rd.stream.name, rd.story())
	}
	r.cancel()
}

// tagged returns the life that a tag stands for, nil if nobody knows yet.
func (r *run) tagged(s *stream, tag string) *life {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.tags[s.name+" "+tag]
}

func (r *run) tag(s *stream, tag string, l *life) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	key := s.name + " " + tag
	if was := r.tags[key]; was != nil && was != l {
		return violated(noMixing, "%s stands for %s, and for %s", tag, was, l)
	}
	r.tags[key] = l
	return nil
}

// born wakes readers that wait for the next life of their stream.
func (r *run) born(*stream) {
	r.mu.Lock()
	defer r.mu.Unlock()
	close(r.births)
	r.births = make(chan struct{})
}

// awaitNext waits until the stream of a reader that has come to its end has another life.
func (r *run) awaitNext(ctx context.Context, rd *reader) {
	for {
		r.mu.Lock()
		births := r.births
		r.mu.Unlock()
		if l := rd.stream.now(); rd.life != nil && l != nil && l != rd.life && l.there() {
			return
		}
		select {
		case <-births:
		case <-ctx.Done():
			return
		}
	}
}

// load lets readers read and writers write, while things happen.
func (r *run) load() error {
	draw := r.rand(2)
	w := r.writer(3)
	for i := range r.scale.streams {
		s := &stream{name: fmt.Sprintf("d%d/s%d", i%4, i), kind: kind(i % int(kinds))}
		switch i % 7 {
		case 1:
			s.config.keepCount = 20 + draw.IntN(60)
		case 2, 5:
			s.config.mortal = true
		case 3:
			s.config.large = true
		case 4:
			s.config.closes = true
		case 6:
			s.config.keepBytes = 2000 + draw.IntN(4000)
		}
		r.streams = append(r.streams, s)
		if err := w.create(r.ctx, s, nil, 0); err != nil {
			return err
		}
		if n := s.config.keepCount + s.config.keepBytes/100; n > 0 { // nearly as much as is kept
			if err := w.append(r.ctx, s, slices.Repeat([]int{30}, max(1, n-6)), true); err != nil {
				return err
			}
		}
	}
	for _, s := range r.streams {
		r.follow(draw, s, r.scale.readers)
	}
	ctx, stop := context.WithTimeout(r.ctx, r.scale.load)
	defer stop()
	var writing sync.WaitGroup
	streams := slices.Clone(r.streams)
	for i := range r.scale.writers {
		w := r.writer(uint64(100 + i))
		w.streams = streams
		// A writer that is cut short would not know what became of its append.
		writing.Go(func() { r.check(w.write(untilStopped{r.ctx, ctx})) })
	}
	err := r.happen(ctx, draw, w)
	writing.Wait()
	close(r.calm)
	return err
}

// untilStopped is a context whose operations go on for as long as outer does; Err says when to stop.
type untilStopped struct {
	context.Context                 //nolint:containedctx // it is a context
	stop            context.Context //nolint:containedctx // the same
}

func (u untilStopped) Err() error {
	if err := u.stop.Err(); err != nil {
		return err
	}
	return u.Context.Err()
}

// happen lets things happen until ctx ends.
func (r *run) happen(ctx context.Context, draw *rand.Rand, w *writer) error {
	var forks, restarts int
	closing := r.withConfig(func(c streamConfig) bool { return c.closes })
	pause(ctx, r.scale.load/4)
	for _, s := range r.withConfig(func(c streamConfig) bool { return c.keepCount+c.keepBytes > 0 }) {
		if err := w.append(r.ctx, s, slices.Repeat([]int{30}, 100), true); err != nil { // and more than that
			return err
		}
	}
	mortal := r.withConfig(func(c streamConfig) bool { return c.mortal })
	if err := r.recreate(w, mortal[0], 40*time.Millisecond); err != nil {
		return err
	}
	for {
		pause(ctx, time.Duration(10+draw.IntN(int(r.scale.load.Milliseconds()/8)))*time.Millisecond)
		select {
		case <-ctx.Done():
			return nil
		default:
		}
		var err error
		switch n := draw.IntN(10); {
		case n < 1 || n < 4 && restarts == 0:
			restarts++
			err = r.restart(draw)
		case n < 7:
			err = r.recreate(w, mortal[draw.IntN(len(mortal))], time.Duration(max(0, draw.IntN(60)-30))*time.Millisecond)
		case n < 8 && len(closing) > 0:
			err = w.finish(r.ctx, closing[0])
			closing = closing[1:]
		case forks < 3:
			forks++
			err = r.fork(draw, w, forks)
		}
		if err != nil {
			return err
		}
	}
}

func (r *run) withConfig(want func(streamConfig) bool) (found []*stream) {
	for _, s := range r.streams {
		if want(s.config) {
			found = append(found, s)
		}
	}
	return found
}

// restart stops the server and starts it again.
func (r *run) restart(draw *rand.Rand) error {
	graceful := draw.IntN(2) == 0
	r.cover.hit(map[bool]string{true: "the server was shut down and started again", false: "the server was cut off and started again"}[graceful])
	if err := r.server.stop(graceful); err != nil {
		return violated(protocol, "the server stops with %v", err)
	}
	pause(r.ctx, time.Duration(draw.IntN(20))*time.Millisecond)
	return r.server.start()
}

// recreate deletes a stream and creates it again, at once or a little later.
func (r *run) recreate(w *writer, s *stream, later time.Duration) error {
	if err := w.remove(r.ctx, s); err != nil || r.ctx.Err() != nil {
		return err
	}
	pause(r.ctx, later)
	r.cover.hit("a name was created again")
	return w.create(r.ctx, s, nil, 0)
}

// fork makes a fork of a stream, and sometimes deletes the source, whose data the fork goes on to read.
func (r *run) fork(draw *rand.Rand, w *writer, n int) error {
	sources := r.withConfig(func(c streamConfig) bool { return c == streamConfig{} })
	source := sources[draw.IntN(len(sources))]
	l := source.now()
	if l == nil {
		return nil
	}
	l.mu.Lock()
	base := l.known
	l.mu.Unlock()
	if draw.IntN(2) == 0 {
		base = draw.IntN(base + 1)
	}
	s := &stream{name: fmt.Sprintf("forks/f%d", n), kind: source.kind}
	if err := w.create(r.ctx, s, l, base); err != nil || r.ctx.Err() != nil {
		return err
	}
	r.streams = append(r.streams, s)
	r.follow(draw, s, r.scale.readers)
	r.cover.hit("a fork was followed")
	if draw.IntN(3) == 0 && len(sources) > 1 {
		r.cover.hit("a fork was followed after its source was deleted")
		return w.remove(r.ctx, source)
	}
	return w.append(r.ctx, s, w.sizes(s, 5), true)
}

func (r *run) writer(of uint64) *writer {
	clean := &network{temper: steady, calm: r.calm, dial: r.server.dial, r: r.rand(of + 1000)}
	cut := &network{temper: cutting, calm: r.calm, dial: r.server.dial, r: r.rand(of + 2000)}
	return &writer{run: r, r: r.rand(of), http: &http.Client{Transport: clean.transport()}, broken: &http.Client{Transport: cut.transport()}}
}

// follow lets readers of all kinds follow a stream.
func (r *run) follow(draw *rand.Rand, s *stream, n int) {
	for i := range n {
		way := ways[(i+draw.IntN(2)*len(ways)/2)%len(ways)]
		of := draw.Uint64()
		rd := &reader{run: r, stream: s, r: r.rand(of), mark: new(mark), polls: way.polls}
		rd.network = &network{temper: temper(draw.IntN(int(tempers))), calm: r.calm, dial: r.server.dial, r: r.rand(of + 1)}
		rd.http = &http.Client{Transport: rd.network.transport()}
		rd.step = way.step(rd)
		rd.restart(0)
		if draw.IntN(6) == 0 {
			rd.restart(unknown)
		}
		r.mu.Lock()
		rd.name = fmt.Sprintf("reader %d of run %d (%s)", len(r.readers), r.seed, way.name)
		r.readers = append(r.readers, rd)
		r.mu.Unlock()
		marks.Store(rd.name, rd.mark)
		r.work.Go(func() { rd.read(r.ctx) })
	}
}

// arrive writes to every stream once more, or closes it, and waits until all readers are there.
func (r *run) arrive() error {
	r.cover.add("readers", len(r.readers))
	w := r.writer(4)
	for _, s := range r.streams {
		l := s.now()
		if l == nil || !l.there() {
			continue
		}
		var err error
		l.mu.Lock()
		closing := l.closing
		l.mu.Unlock()
		switch {
		case closing: // and so it stays
		case s.config.closes:
			err = w.finish(r.ctx, s)
		default:
			app, all := payloads(w.r, l, []int{20})
			err = w.appendInProcess(r.ctx, l, app, all)
		}
		if err != nil {
			return err
		}
	}
	for left := patience.For(r.scale.arrival); ; {
		late, why, err := r.late()
		if err != nil || late == nil || r.ctx.Err() != nil {
			return err
		}
		if !left.Wait(r.progress()) {
			r.fail(&violation{noHang, why}, late)
			return nil
		}
	}
}

// progress is how far all readers have come together. There is an end to it when nobody writes.
func (r *run) progress() (sum int64) {
	for _, rd := range r.readers {
		at := rd.where()
		sum += int64(max(at.at, 0))
		for _, news := range []bool{at.level, at.ended, at.gone} {
			if news {
				sum++
			}
		}
	}
	return sum
}

// late returns a reader that has not arrived, and why it should.
func (r *run) late() (*reader, string, error) {
	log := r.server.current()
	tails := make(map[*stream]runnel.Info)
	for _, s := range r.streams {
		info, err := log.Stat(r.ctx, s.addr())
		if l := s.now(); (err == nil) != (l != nil) && r.ctx.Err() == nil {
			return nil, "", violated(exactEnd, "%s at the end: %v", s.name, err)
		}
		tails[s] = info
	}
	for _, rd := range r.readers {
		info, at := tails[rd.stream], rd.where()
		l := rd.stream.now()
		switch {
		case l == nil && !at.gone && !at.ended:
			return rd, fmt.Sprintf("%s is not told that the stream is gone, and is at %d", rd.name, at.at), nil
		case l == nil:
		case info.Closed && at.ended && at.at == unknown: // it began at the end
		case info.Closed && !at.ended:
			return rd, fmt.Sprintf("%s is not told that the stream is closed at %d, and is at %d", rd.name, info.Tail, at.at), nil
		case at.life == nil && (at.level || at.ended) && at.at == int(info.Tail): // there was nothing to tell by
		case at.life != l && rd.polls && at.at == int(info.Tail) && !info.Closed:
			// It waits at its place, and the answer, when there is something to answer, tells that this is the place
			// of another stream.
		case at.life != l:
			return rd, fmt.Sprintf("%s is not at %s, but at %v", rd.name, l, at.life), nil
		case at.at != int(info.Tail) || !at.level && !at.ended:
			return rd, fmt.Sprintf("%s is at %d of %d entries, up to date: %t", rd.name, at.at, info.Tail, at.level), nil
		}
	}
	return nil, "", nil
}

// compare reads all streams once more, in the process, from their exact beginning.
func (r *run) compare() error {
	log := r.server.current()
	for _, s := range r.streams {
		l := s.now()
		if l == nil {
			continue
		}
		info, err := log.Stat(r.ctx, s.addr())
		if err != nil {
			return err
		}
		cut := l.exactCut(int(info.Tail))
		if cut > 0 {
			_, err := log.Read(r.ctx, s.addr(), info.ID, runnel.Sequence(cut-1))
			var trimmed *runnel.TrimmedError
			if !errors.As(err, &trimmed) || int(trimmed.Earliest) != cut {
				return violated(exactCut, "%s: a read from %d gives %v, and the earliest is %d", l, cut-1, err, cut)
			}
		}
		v, err := log.Read(r.ctx, s.addr(), info.ID, runnel.Sequence(cut))
		if err != nil {
			return violated(exactCut, "%s: a read from the earliest, %d, gives %v", l, cut, err)
		}
		rd := &reader{run: r, stream: s, r: r.rand(5), life: l}
		a := &attempt{reader: rd, snapshot: s.snapshot(), life: l, at: cut}
		for b, err := range v.Batches {
			if err != nil {
				return err
			}
			if err := a.batch(b); err != nil {
				return err
			}
		}
		if l.mu.Lock(); a.at != l.known || l.known != int(info.Tail) {
			l.mu.Unlock()
			return violated(readsWrites, "%s holds %d entries, and %d are known", l, a.at, l.known)
		}
		l.mu.Unlock()
		r.cover.add("entries", int(info.Tail))
	}
	return nil
}

// coverage counts what the runs have met.
type coverage struct {
	mu     sync.Mutex
	counts map[string]int
}

func (c *coverage) hit(what string) { c.add(what, 1) }

func (c *coverage) add(what string, n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.counts == nil {
		c.counts = make(map[string]int)
	}
	c.counts[what] += n
}

func (c *coverage) count(what string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.counts[what]
}

func (c *coverage) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var lines []string
	for what, n := range c.counts {
		lines = append(lines, fmt.Sprintf("%9d  %s", n, what))
	}
	slices.SortFunc(lines, func(a, b string) int { return strings.Compare(a[11:], b[11:]) })
	return strings.Join(lines, "\n")
}
