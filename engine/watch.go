package engine

import (
	"context"
	"iter"
	"sync"

	"github.com/runnelhq/runnel"
)

// watchers are those who want to know of segments that come and go.
type watchers struct {
	mu  sync.Mutex
	all map[*watcher]struct{}
}

type watcher struct {
	store  runnel.Store
	events chan runnel.Event
}

// watchQueue is how many events a watcher may be behind before it misses some.
const watchQueue = 1024

// send tells all watchers. It never waits for one.
func (w *watchers) send(events []runnel.Event) {
	if len(events) == 0 {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for one := range w.all {
		for _, event := range events {
			if event.Info.Segment.Store != one.store {
				continue
			}
			select {
			case one.events <- event:
			default:
			}
		}
	}
}

// Watch yields the segments of a store that come into being or go away, in this process, while it is
// ranged over. Events are hints: one who falls more than about a thousand behind misses some. It ends
// with ctx, or when the engine closes.
func (e *Engine) Watch(ctx context.Context, store runnel.Store) iter.Seq[runnel.Event] {
	one := &watcher{store: store, events: make(chan runnel.Event, watchQueue)}
	e.watch.mu.Lock()
	if e.watch.all == nil {
		e.watch.all = make(map[*watcher]struct{})
	}
	e.watch.all[one] = struct{}{}
	e.watch.mu.Unlock()
	stop := context.AfterFunc(ctx, func() { e.unwatch(one) })
	return func(yield func(runnel.Event) bool) {
		defer stop()
		defer e.unwatch(one)
		for {
			select {
			case event := <-one.events:
				if !yield(event) {
					return
				}
			case <-ctx.Done():
				return
			case <-e.closed:
				return
			}
		}
	}
}

func (e *Engine) unwatch(one *watcher) {
	e.watch.mu.Lock()
	delete(e.watch.all, one)
	e.watch.mu.Unlock()
}
