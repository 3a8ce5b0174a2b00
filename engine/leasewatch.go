package engine

import (
	"context"
	"iter"
	"maps"
	"slices"
	"time"

	"github.com/runnelhq/runnel"
)

// WatchLeases yields the leases of a space whose keys have a prefix: those that are held, then a mark, and
// then each one that is given or ends. Renewals are not told. It ends with ctx.Err() or
// runnel.ErrShutdown.
func (e *Engine) WatchLeases(ctx context.Context, space runnel.Space, prefix string) iter.Seq2[runnel.LeaseEvent, error] {
	return func(yield func(runnel.LeaseEvent, error) bool) {
		w := leaseWatcher{e: e, space: space, prefix: prefix, yield: yield, known: make(map[string]runnel.Lease)}
		if err := w.run(ctx); err != nil && !w.done {
			yield(runnel.LeaseEvent{}, err)
		}
	}
}

// leaseWatcher compares what is held with what it has told.
type leaseWatcher struct {
	e      *Engine
	space  runnel.Space
	prefix string
	yield  func(runnel.LeaseEvent, error) bool
	known  map[string]runnel.Lease
	live   bool
	done   bool // the consumer wants no more
}

func (w *leaseWatcher) run(ctx context.Context) error {
	if err := w.space.Validate(); err != nil {
		return err
	}
	for !w.done {
		if err := w.round(ctx); err != nil {
			return err
		}
	}
	return nil
}

// round tells what there is to tell, and waits for more.
func (w *leaseWatcher) round(ctx context.Context) error {
	changed, leave, err := w.e.leasesChanged(ctx, w.space)
	if err != nil {
		return err
	}
	defer leave() // also if the consumer panics
	next, err := w.look(ctx)
	if err != nil || w.done {
		return err
	}
	if !w.live {
		w.live = true
		w.say(runnel.LeaseEvent{Live: true, Mark: true})
	}
	if w.done {
		return nil
	}
	return w.wait(ctx, changed, next)
}

// leasesChanged returns what is closed when a lease of a space is given or released. The space stays in
// memory until leave is called.
func (e *Engine) leasesChanged(ctx context.Context, part runnel.Space) (changed <-chan struct{}, leave func(), err error) {
	sp, err := e.enter(ctx, part)
	if err != nil {
		return nil, nil, err
	}
	sp.mu.Lock()
	defer sp.mu.Unlock()
	if sp.leases == nil {
		sp.leases = make(chan struct{})
	}
	return sp.leases, sp.leave, nil
}

func (w *leaseWatcher) say(event runnel.LeaseEvent) {
	if !w.done {
		w.done = !w.yield(event, nil)
	}
}

// look tells what is different from what was told, and returns when the first lease is over, zero if
// there is none.
func (w *leaseWatcher) look(ctx context.Context) (next time.Time, err error) {
	held := make(map[string]runnel.Lease)
	for l, err := range w.e.Leases(ctx, w.space, w.prefix, "") {
		if err != nil {
			return next, err
		}
		held[l.Key] = l
		if next.IsZero() || l.Deadline.Before(next) {
			next = l.Deadline
		}
	}
	for _, key := range slices.Sorted(maps.Keys(w.known)) {
		if was := w.known[key]; held[key].Number != was.Number {
			w.say(runnel.LeaseEvent{Lease: was, Gone: true, Live: true})
		}
	}
	for _, key := range slices.Sorted(maps.Keys(held)) {
		if l := held[key]; w.known[key].Number != l.Number {
			w.say(runnel.LeaseEvent{Lease: l, Live: w.live})
		}
	}
	w.known = held
	return next, nil
}

// wait returns when it is worth looking again.
func (w *leaseWatcher) wait(ctx context.Context, changed <-chan struct{}, next time.Time) error {
	wait := time.Hour
	if !next.IsZero() {
		wait = min(wait, max(next.Sub(w.e.cfg.Now()), time.Millisecond))
	}
	if !w.e.limits.Exclusive {
		wait = min(wait, w.e.cfg.PollInterval)
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-changed:
		return nil
	case <-timer.C:
		return nil
	case <-w.e.closed:
		return runnel.ErrShutdown
	case <-ctx.Done():
		return ctx.Err()
	}
}
