package engine

import (
	"context"
	"errors"
	"iter"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/runnelhq/runnel"
)

// Whoever watches segments has a set of those that have changed, not a queue of changes: each is
// described as it is when its turn comes, so that a slow watcher is told less and never anything old.

// statuses are those who watch segments.
type statuses struct {
	count atomic.Int32 // of all; while it is 0, nothing else is looked at
	mu    sync.Mutex
	all   map[*statusWatcher]struct{}
}

// statusWatcher is one of them.
type statusWatcher struct {
	store runnel.Store
	of    runnel.SegmentWatch
	wake  chan struct{} // has room for one

	mu      sync.Mutex
	changed map[string]runnel.Segment // by path
	behind  bool                      // too much has changed to remember what
}

// maxChanged is how many changed segments are remembered for a watcher.
var maxChanged = 64 << 10

// note tells watchers what a batch has touched. It never waits for one.
func (s *statuses) note(sp *space, all []touched) {
	if s.count.Load() == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for w := range s.all {
		if w.store == sp.part.Store {
			w.note(sp.part, all)
		}
	}
}

func (w *statusWatcher) note(part runnel.Space, all []touched) {
	w.mu.Lock()
	for i := range all {
		addr := part.Segment(all[i].seg.name)
		path := addr.Path()
		if w.behind || !w.of.Match(path) {
			continue
		}
		if w.changed[path] = addr; len(w.changed) > maxChanged {
			w.behind = true
			clear(w.changed)
		}
	}
	some := w.behind || len(w.changed) > 0
	w.mu.Unlock()
	if some {
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}
}

// take returns what has changed since the last call, ordered by path, and whether the watcher has
// fallen behind.
func (w *statusWatcher) take() (changed []runnel.Segment, behind bool) {
	w.mu.Lock()
	all, behind := w.changed, w.behind
	w.changed, w.behind = make(map[string]runnel.Segment), false
	w.mu.Unlock()
	for _, path := range slices.Sorted(maps.Keys(all)) { // while commits may go on
		changed = append(changed, all[path])
	}
	return changed, behind
}

func (e *Engine) addWatcher(store runnel.Store, of runnel.SegmentWatch) *statusWatcher {
	w := &statusWatcher{store: store, of: of, wake: make(chan struct{}, 1), changed: make(map[string]runnel.Segment)}
	s := &e.statuses
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all == nil {
		s.all = make(map[*statusWatcher]struct{})
	}
	s.all[w] = struct{}{}
	s.count.Add(1)
	return w
}

func (e *Engine) removeWatcher(w *statusWatcher) {
	s := &e.statuses
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.all, w)
	s.count.Add(-1)
}

// WatchSegments yields the segments of a store that a watch is for: all there are, in the order of List, then a mark, and then each one that changes. Of a segment that changes often the watcher is told
// as often as it can take it, and of its latest state. What is told of one segment never goes back. It
// ends with ctx.Err() or runnel.ErrShutdown.
func (e *Engine) WatchSegments(ctx context.Context, store runnel.Store, of runnel.SegmentWatch) iter.Seq2[runnel.Status, error] {
	return func(yield func(runnel.Status, error) bool) {
		w := e.addWatcher(store, of)
		defer e.removeWatcher(w)
		t := statusTeller{e: e, w: w, yield: yield}
		if !e.limits.Exclusive {
			t.known = make(map[string]runnel.Info)
		}
		if err := t.tell(ctx); err != nil && !t.done {
			yield(runnel.Status{}, err)
		}
	}
}

// statusTeller tells a watcher.
type statusTeller struct {
	e     *Engine
	w     *statusWatcher
	yield func(runnel.Status, error) bool
	done  bool // the watcher wants no more
	// known is what was told, by path, where others write to the driver too, so that looking at everything
	// again now and then tells only of what has changed.
	known map[string]runnel.Info
}

func (t *statusTeller) say(s runnel.Status) {
	if !t.done {
		t.done = !t.yield(s, nil)
	}
}

func (t *statusTeller) tell(ctx context.Context) error {
	if err := t.snapshot(ctx, false); err != nil || t.done {
		return err
	}
	t.say(runnel.Status{Live: true, Mark: true})
	var poll <-chan time.Time
	if t.known != nil {
		ticker := time.NewTicker(t.e.cfg.PollInterval)
		defer ticker.Stop()
		poll = ticker.C
	}
	for !t.done {
		select {
		case <-t.w.wake:
			if err := t.changes(ctx); err != nil {
				return err
			}
		case <-poll:
			if err := t.look(ctx); err != nil {
				return err
			}
		case <-t.e.closed:
			return runnel.ErrShutdown
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// all yields the segments that are watched, as they are.
func (t *statusTeller) all(ctx context.Context) iter.Seq2[runnel.Info, error] {
	of := t.w.of
	if !of.Exact {
		return t.e.List(ctx, t.w.store, runnel.ListOptions{Prefix: of.Prefix, Direct: of.Direct})
	}
	return func(yield func(runnel.Info, error) bool) {
		addr, err := runnel.ParsePath(t.w.store, of.Prefix)
		if err != nil {
			yield(runnel.Info{}, err)
			return
		}
		info, err := t.e.Stat(ctx, addr)
		if !errors.Is(err, runnel.ErrNotFound) && !errors.Is(err, runnel.ErrSoftDeleted) {
			yield(info, err)
		}
	}
}

// snapshot tells of all segments.
func (t *statusTeller) snapshot(ctx context.Context, live bool) error {
	for info, err := range t.all(ctx) {
		if err != nil {
			return err
		}
		if t.remember(info) || !live {
			t.say(runnel.Status{Info: info, Live: live})
		}
		if t.done {
			return nil
		}
	}
	return nil
}

// changes tells of what has changed.
func (t *statusTeller) changes(ctx context.Context) error {
	changed, behind := t.w.take()
	if behind {
		t.say(runnel.Status{Mark: true})
		if err := t.snapshot(ctx, false); err != nil {
			return err
		}
		t.say(runnel.Status{Live: true, Mark: true})
		return nil
	}
	for _, addr := range changed {
		if err := t.one(ctx, addr); err != nil || t.done {
			return err
		}
	}
	return nil
}

// one tells of a segment as it is now.
func (t *statusTeller) one(ctx context.Context, addr runnel.Segment) error {
	info, err := t.e.Stat(ctx, addr)
	switch {
	case errors.Is(err, runnel.ErrNotFound), errors.Is(err, runnel.ErrSoftDeleted):
		path := addr.Path()
		if _, told := t.known[path]; t.known != nil && !told {
			return nil
		}
		delete(t.known, path)
		t.say(runnel.Status{Info: runnel.Info{Segment: addr}, Gone: true, Live: true})
		return nil
	case err != nil:
		return err
	}
	t.remember(info)
	t.say(runnel.Status{Info: info, Live: true})
	return nil
}

// look tells of what another process has changed.
func (t *statusTeller) look(ctx context.Context) error {
	before := maps.Clone(t.known)
	for info, err := range t.all(ctx) {
		if err != nil {
			return err
		}
		delete(before, info.Segment.Path())
		if t.remember(info) {
			t.say(runnel.Status{Info: info, Live: true})
		}
		if t.done {
			return nil
		}
	}
	for _, info := range before {
		if err := t.one(ctx, info.Segment); err != nil || t.done {
			return err
		}
	}
	return nil
}

// remember tells whether a segment is not as it was told last.
func (t *statusTeller) remember(info runnel.Info) bool {
	if t.known == nil {
		return true
	}
	path := info.Segment.Path()
	was := t.known[path]
	t.known[path] = info
	return was != info
}
