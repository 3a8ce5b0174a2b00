package chaos

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/durablestreams/dsclient"
	"github.com/runnelhq/runnel/proof/patience"
)

// pullers work on streams that come and go in a pull-wake subscription, while producers write to them. Some workers
// give a wake back, and some keep silent until their lease is over, and then ack what they have not read: that
// may move nothing. In the end every entry must have been in somebody's hands before it was acknowledged.
type pullers struct {
	fleet
	made bool

	mu         sync.Mutex
	handled    map[string]map[string]bool // entries by stream
	claimed    map[uint64]string          // who was given a generation
	generation uint64
	acked      map[string]int
}

const (
	jobsSubscription = "jobs"
	jobsWakes        = "wakes/jobs"
	jobsLease        = time.Second
)

func (p *pullers) name() string { return "pull-wake workers" }

func (p *pullers) client(w *world) *dsclient.Client {
	return &dsclient.Client{Base: w.s.url("/v1/stream"), HTTP: w.http}
}

func (p *pullers) run(ctx context.Context, w *world) {
	if !p.made && !p.subscribe(ctx, w) || !p.ready(ctx, w) {
		return
	}
	var work sync.WaitGroup
	work.Go(func() { p.write(ctx, w) })
	for i := range 3 {
		worker := fmt.Sprintf("worker-%d-%d", p.rounds, i)
		work.Go(func() {
			for ctx.Err() == nil {
				p.work(ctx, w, worker, nil)
				w.wait(ctx, 20*time.Millisecond)
			}
		})
	}
	work.Go(func() { p.sleep(ctx, w, fmt.Sprint("sleeper-", p.rounds)) })
	work.Wait()
}

// subscribe makes the wake stream and the subscription.
func (p *pullers) subscribe(ctx context.Context, w *world) bool {
	p.handled, p.claimed, p.acked = make(map[string]map[string]bool), make(map[uint64]string), make(map[string]int)
	for {
		a := w.send(ctx, request{method: http.MethodPut, path: jobsWakes, contentType: messages})
		_, _, err := p.client(w).CreateSubscription(ctx, jobsSubscription, dsclient.SubscriptionOptions{
			Type: runnel.PullWake, Pattern: "jobs/**", WakeStream: jobsWakes, LeaseTTL: jobsLease,
		})
		if p.made = a.ok() && err == nil; p.made || !w.wait(ctx, 20*time.Millisecond) {
			return p.made
		}
	}
}

// work lets a worker do what there is until ctx ends. It tells of each claim, if somebody wants to know.
func (p *pullers) work(ctx context.Context, w *world, worker string, told func()) {
	r := w.rand()
	// How it ends is of no interest: the server may be down, and what it has acknowledged is looked at.
	_ = p.client(w).Work(ctx, jobsSubscription, dsclient.WorkOptions{Worker: worker, Look: time.Second}, func(ctx context.Context, c *dsclient.Claim) error {
		p.given(w, worker, c)
		if told != nil {
			told()
		}
		for _, s := range c.Streams {
			if !s.Pending {
				continue
			}
			through, err := p.handle(ctx, w, s)
			if err != nil {
				return err
			}
			c.Progress(s.Path, through)
			if told == nil && r.IntN(20) == 0 {
				w.counts.hit(wakeReleased)
				return errors.New("given back")
			}
		}
		return nil
	})
}

// given notes that a worker was given a wake, which nobody else was.
func (p *pullers) given(w *world, worker string, c *dsclient.Claim) {
	p.mu.Lock()
	defer p.mu.Unlock()
	w.counts.hit(wakeClaimed)
	if other, ok := p.claimed[c.Generation]; ok {
		w.fail("generation %d was given to %s, and is given to %s", c.Generation, other, worker)
	}
	p.claimed[c.Generation] = worker
}

// handle reads what is new in a stream, and returns how far that is.
func (p *pullers) handle(ctx context.Context, w *world, s dsclient.SubscribedStream) (dsclient.Offset, error) {
	res, err := w.open(ctx, request{method: http.MethodGet, path: s.Path, query: "?offset=" + string(s.Acked)})
	if err != nil {
		return "", err
	}
	a, err := readAll(res)
	if err != nil || a.status != http.StatusOK {
		return "", fmt.Errorf("%v: %w", a, errors.Join(err, errNotRead))
	}
	names, rest := decode(text, a.body)
	if len(rest) > 0 {
		return "", errNotRead
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.handled[s.Path] == nil {
		p.handled[s.Path] = make(map[string]bool)
	}
	for _, name := range names {
		p.handled[s.Path][name] = true
	}
	n, ok := a.entries()
	if !ok {
		return "", errNotRead
	}
	return dsclient.Offset(offset(n)), nil
}

// errNotRead says that a stream could not be read.
var errNotRead = errors.New("not read")

// sleep claims now and then, keeps silent for longer than the lease, and then acks what it has not read.
func (p *pullers) sleep(ctx context.Context, w *world, worker string) {
	for w.wait(ctx, 200*time.Millisecond) {
		c, err := p.client(w).Claim(ctx, jobsSubscription, worker)
		if err != nil {
			continue
		}
		p.given(w, worker, c)
		if !w.wait(ctx, jobsLease+jobsLease/2) {
			return
		}
		for _, s := range c.Streams {
			c.Progress(s.Path, s.Tail)
		}
		switch _, err := c.Ack(context.WithoutCancel(ctx), true); {
		case err == nil:
			w.fail("%s was silent for longer than its lease, and its ack of generation %d is accepted", worker, c.Generation)
		case errors.Is(err, runnel.ErrFenced):
			w.counts.hit(wakeFenced)
		}
	}
}

// check lets a worker do what is left, and then compares what was acknowledged with what somebody had in hand.
func (p *pullers) check(w *world, all bool) {
	p.streams.check(w, others(all))
	if !p.made {
		return
	}
	ctx, stop := context.WithCancel(context.Background())
	var work sync.WaitGroup
	defer work.Wait()
	defer stop()
	var claims progress
	work.Go(func() {
		for ctx.Err() == nil {
			p.work(ctx, w, fmt.Sprint("last-", p.rounds), claims.step)
			w.wait(ctx, 20*time.Millisecond)
		}
	})
	for left := patience.For(arrival); ; {
		sub, err := p.client(w).Subscription(ctx, jobsSubscription)
		if err == nil && !slices.ContainsFunc(sub.Streams, func(s dsclient.SubscribedStream) bool { return s.Pending }) {
			p.compare(w, &sub)
			return
		}
		if !left.Wait(claims.steps()) || w.failed.Load() {
			w.fail("work is left that nobody is told of: %+v, %v", sub, err)
			return
		}
	}
}

// progress counts.
type progress struct {
	mu sync.Mutex
	n  int64
}

func (p *progress) step() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.n++
}

func (p *progress) steps() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.n
}

// compare looks at a subscription that has nothing to do any more.
func (p *pullers) compare(w *world, sub *dsclient.Subscription) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if sub.Generation < p.generation {
		w.fail("the subscription was at generation %d, and is at %d", p.generation, sub.Generation)
	}
	p.generation = sub.Generation
	for path := range p.claimed {
		if path > sub.Generation {
			w.fail("generation %d was given to %s, and the subscription is at %d", path, p.claimed[path], sub.Generation)
		}
	}
	for _, s := range sub.Streams {
		at, err := runnel.ParseOffset(string(s.Acked))
		if err != nil || int(at) < p.acked[s.Path] {
			w.fail("%s was acknowledged up to %d, and is up to %s: %v", s.Path, p.acked[s.Path], s.Acked, err)
		}
		if int(at) == p.acked[s.Path] {
			continue
		}
		p.acked[s.Path] = int(at)
		for i, name := range w.read(s.Path, text).entries {
			if !p.handled[s.Path][name] {
				w.fail("entry %d of %s, %s, is acknowledged, and nobody had it in hand", i, s.Path, name)
				break
			}
		}
	}
	for path := range p.active {
		if !slices.ContainsFunc(sub.Streams, func(s dsclient.SubscribedStream) bool { return s.Path == path }) && len(w.read(path, text).entries) > 0 {
			w.fail("%s is not in the subscription", path)
		}
	}
}
