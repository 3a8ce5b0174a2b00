package webhook

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// claimSlack is how much longer a claim is than the attempt may take: time to store the outcome.
	claimSlack = 15 * time.Second
	// outboxRetry is how long to wait when the outbox has failed, and settleRetry when it did not take an
	// outcome.
	outboxRetry = time.Second
	settleRetry = 250 * time.Millisecond
	// settleAtEnd is how long outcomes may take to be stored when the dispatcher has no more patience.
	settleAtEnd = 2 * time.Second
	// refillEvery is how often the outbox is read again for what there was no room for.
	refillEvery = time.Minute
)

// Dispatcher sends what is in an outbox. Make one with [NewDispatcher] and let it [Dispatcher.Run].
//
// Deliveries wait in line before their target, and targets take turns, so one with many deliveries, or one
// that is slow, delays only its own.
type Dispatcher struct {
	outbox Outbox
	send   func(context.Context, Delivery) answer
	idle   func() // closes connections that nobody uses
	cfg    Config

	mu      sync.Mutex
	lines   lines
	wake    chan struct{} // holds a token when there is something to look at
	refill  chan struct{} // holds a token when the outbox is to be read again
	running sync.WaitGroup

	done, accepted, failed, parked, lost atomic.Uint64
}

// Stats says what a dispatcher has done since it was made, and does.
type Stats struct {
	Done, Accepted, Failed, Parked uint64 // attempts by result; Failed are to be repeated
	Lost                           uint64 // outcomes that did not count, or could not be stored
	InFlight, Slow                 int    // attempts being made, and those of them that take long
	Waiting                        int    // deliveries that are known of
	Open                           int    // targets that are only tried from time to time
}

// NewDispatcher returns a dispatcher for an outbox.
func NewDispatcher(outbox Outbox, keys *Keys, policy *Policy, cfg Config) *Dispatcher {
	cfg = cfg.withDefaults()
	s := newSender(keys, policy, cfg)
	return &Dispatcher{
		outbox: outbox, send: s.send, idle: s.client.CloseIdleConnections, cfg: cfg,
		lines: newLines(cfg),
		wake:  make(chan struct{}, 1), refill: make(chan struct{}, 1),
	}
}

// Stats returns what the dispatcher has done, and does.
func (d *Dispatcher) Stats() Stats {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := Stats{
		Done: d.done.Load(), Accepted: d.accepted.Load(), Failed: d.failed.Load(), Parked: d.parked.Load(), Lost: d.lost.Load(),
		InFlight: d.lines.fast + d.lines.slow, Slow: d.lines.slow, Waiting: len(d.lines.items),
	}
	for _, t := range d.lines.targets {
		if t.breaker.open(d.cfg.OpenAfter) {
			s.Open++
		}
	}
	return s
}

// Run sends until ctx is done. Then it starts no attempt any more, gives those under way the Grace of the
// configuration, and returns when none is left; what was cut off is due at once for whoever comes next.
func (d *Dispatcher) Run(ctx context.Context) {
	attempts, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	var listening sync.WaitGroup
	listening.Go(func() { d.listen(ctx) })
	d.schedule(ctx, attempts)
	patience := time.AfterFunc(max(d.cfg.Grace, 0), cut)
	defer patience.Stop()
	d.running.Wait()
	listening.Wait()
	d.idle()
}

// listen takes what the outbox tells of, again and again.
func (d *Dispatcher) listen(ctx context.Context) {
	for ctx.Err() == nil {
		if err := d.listenOnce(ctx); err != nil && ctx.Err() == nil {
			d.cfg.Logger.LogAttrs(ctx, slog.LevelWarn, "webhooks cannot be read from the outbox", slog.Any("err", err))
			pause(ctx, outboxRetry)
		}
	}
}

// listenOnce takes what the outbox tells of until that ends, or is to be read from the start.
func (d *Dispatcher) listenOnce(parent context.Context) error {
	ctx, end := context.WithCancel(parent)
	var waiting sync.WaitGroup
	defer waiting.Wait()
	defer end()
	waiting.Go(func() {
		select {
		case <-d.refill:
			end()
		case <-ctx.Done():
		}
	})
	for p, err := range d.outbox.Pending(ctx) {
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		d.mu.Lock()
		d.lines.offer(p, time.Now())
		d.mu.Unlock()
		d.poke()
	}
	if ctx.Err() == nil {
		return errors.New("webhook: the outbox came to an end")
	}
	return nil
}

// schedule starts attempts when their time comes, until ctx is done.
func (d *Dispatcher) schedule(ctx, attempts context.Context) {
	alarm := time.NewTimer(0)
	defer alarm.Stop()
	refilled := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-d.wake:
		case <-alarm.C:
		}
		now := time.Now()
		next, full := d.advance(attempts, now)
		if full {
			if now.Sub(refilled) >= refillEvery {
				refilled = now
				d.mu.Lock()
				d.lines.full = false
				d.mu.Unlock()
				notify(d.refill)
			}
			next = min(next, refillEvery)
		}
		alarm.Reset(next)
	}
}

// advance starts what may be started. It returns how long until there may be something else to do, and
// whether something was left in the outbox for lack of room.
func (d *Dispatcher) advance(attempts context.Context, now time.Time) (next time.Duration, full bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lines.ring(now)
	for it := d.lines.take(now); it != nil; it = d.lines.take(now) {
		d.running.Go(func() { d.attempt(attempts, it) })
	}
	return d.lines.later.next(now), d.lines.full
}

// poke makes the schedule look.
func (d *Dispatcher) poke() { notify(d.wake) }

func notify(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// attempt makes one attempt and puts its item where it belongs then.
func (d *Dispatcher) attempt(ctx context.Context, it *item) {
	next, verdict := d.deliver(ctx, it)
	now := time.Now()
	d.mu.Lock()
	t := it.target
	changed := verdict != unjudged && t.breaker.note(now, verdict == well, d.cfg.OpenAfter)
	open := t.breaker.open(d.cfg.OpenAfter)
	host := t.key.host
	d.lines.end(it, next, now)
	d.mu.Unlock()
	d.poke()
	if changed && open {
		d.cfg.Logger.LogAttrs(ctx, slog.LevelWarn, "webhook target fails; it is tried from time to time", slog.String("host", host))
	} else if changed {
		d.cfg.Logger.LogAttrs(ctx, slog.LevelInfo, "webhook target is well again", slog.String("host", host))
	}
}

// verdict is what an attempt says about its target.
type verdict uint8

const (
	unjudged verdict = iota
	well
	unwell
)

// deliver claims a delivery, sends it and stores what came of it. It returns when to look at the item again,
// nil if the outbox will say.
func (d *Dispatcher) deliver(ctx context.Context, it *item) (*Pending, verdict) {
	again := func(at time.Time, generation uint64) *Pending {
		return &Pending{Key: it.key, URL: it.url, Due: at, Generation: generation}
	}
	until := time.Now().Add(d.cfg.Timeout + claimSlack)
	dl, err := d.outbox.Claim(ctx, it.key, until)
	switch {
	case errors.Is(err, ErrGone):
		return nil, unjudged
	case err != nil:
		if ctx.Err() == nil {
			d.cfg.Logger.LogAttrs(ctx, slog.LevelWarn, "webhook not claimed", slog.String("subscription", it.key.Subscription), slog.Any("err", err))
		}
		return again(time.Now().Add(outboxRetry), 0), unjudged
	}
	a := d.request(ctx, it, dl)
	now := time.Now()
	judged := unwell
	o := d.cfg.outcome(dl, a, now)
	switch {
	case a.failure != "" && (a.ours || ctx.Err() != nil):
		// The receiver is not to blame, so nothing is counted against it.
		judged = unjudged
		o = Outcome{
			Result: Retry, Reason: "the attempt was cut off by the server", Failures: dl.Failures, FailingSince: dl.FailingSince, Next: now,
		}
		if a.ours {
			o.Reason, o.Next = a.failure, now.Add(outboxRetry)
		}
	case a.failure == "" || a.status/100 == 4 && a.status != 408 && a.status != 429:
		judged = well // enough to answer
	}
	if !d.settle(ctx, dl, o, until) {
		return again(until, dl.Generation), judged
	}
	if o.Result == Retry {
		return again(o.Next, dl.Generation), judged
	}
	return nil, judged
}

// request sends a delivery. If that takes long it is counted among the slow ones, or ended.
func (d *Dispatcher) request(ctx context.Context, it *item, dl Delivery) answer {
	timeout := d.cfg.Timeout
	if dl.LeaseTTL > 0 {
		timeout = min(timeout, dl.LeaseTTL)
	}
	ctx, cut := context.WithCancelCause(ctx)
	defer cut(nil)
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var mu sync.Mutex // orders the end of the attempt and its being slow
	ended := false
	slow := time.AfterFunc(d.cfg.SlowAfter, func() {
		mu.Lock()
		defer mu.Unlock()
		if ended {
			return
		}
		d.mu.Lock()
		ok := d.lines.slowDown(it)
		d.mu.Unlock()
		if ok {
			d.poke()
		} else {
			cut(errSlow)
		}
	})
	defer slow.Stop()
	a := d.send(ctx, dl)
	mu.Lock()
	ended = true
	mu.Unlock()
	return a
}

// settle stores an outcome, for as long as the claim lasts. It returns false if the outbox did not take it.
func (d *Dispatcher) settle(ctx context.Context, dl Delivery, o Outcome, until time.Time) bool {
	// What has happened is stored even if the dispatcher is at its end, but then only if that is quick.
	end := ctx
	ctx, cancel := context.WithDeadline(context.WithoutCancel(ctx), until)
	defer cancel()
	defer context.AfterFunc(end, func() { time.AfterFunc(settleAtEnd, cancel) })()
	for {
		err := d.outbox.Settle(ctx, dl, o)
		switch {
		case err == nil:
			d.count(ctx, dl, o)
			return true
		case errors.Is(err, ErrGone):
			d.lost.Add(1)
			return true
		case ctx.Err() != nil:
			d.lost.Add(1)
			d.cfg.Logger.LogAttrs(ctx, slog.LevelWarn, "outcome of a webhook not stored; it will be sent again", slog.String("subscription", dl.Subscription), slog.Any("err", err))
			return false
		}
		pause(ctx, settleRetry)
	}
}

func (d *Dispatcher) count(ctx context.Context, dl Delivery, o Outcome) {
	switch o.Result {
	case Done:
		d.done.Add(1)
	case Accepted:
		d.accepted.Add(1)
	case Retry:
		d.failed.Add(1)
		d.cfg.Logger.LogAttrs(ctx, slog.LevelDebug, "webhook failed", slog.String("subscription", dl.Subscription),
			slog.Int("status", o.Status), slog.String("reason", o.Reason), slog.Int("failures", o.Failures), slog.Time("next", o.Next))
	case Parked:
		d.parked.Add(1)
		d.cfg.Logger.LogAttrs(ctx, slog.LevelWarn, "webhook parked", slog.String("subscription", dl.Subscription),
			slog.Int("status", o.Status), slog.String("reason", o.Reason), slog.Int("failures", o.Failures))
	}
}

func pause(ctx context.Context, wait time.Duration) {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
