package items

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/runnelhq/runnel"
)

// maxEventWait is how long something waits for the changes before it where it is not known that there are any: a
// position need not be that of a change.
const maxEventWait = 50 * time.Millisecond

// maxEventsWaiting is how many bytes of events wait to be told. Of more, the oldest are not told.
const maxEventsWaiting = 2 * runnel.MaxItemEventBytes

// feedRetry is how long a feed waits after reading failed.
const feedRetry = time.Second

// A feed follows one space for all connections that have subscriptions to its groups. It reads each change
// once, and hands it to those that may want it without waiting for any.
type feed struct {
	h     *Handler
	space runnel.Space
	stop  context.CancelFunc

	telling sync.Mutex // of events, one after the other

	mu     sync.Mutex
	groups map[string]map[*conn]int // how many subscriptions a connection has to a group
	whole  map[*conn]int            // and to several
	stamps map[string]int64         // the latest of groups that have changed
	places map[string]place         // how far groups that have changed, or were sent events, have been handed on
	at     runnel.Position          // everything up to it has been handed on, or waited for
	events []*waiting               // in the order in which they were sent
	size   int                      // bytes of them
	awake  chan struct{}            // has room for one: there is an event
}

// place is one of an incarnation of a group.
type place struct {
	id   uint64
	last runnel.Sequence
}

// waiting is an event that waits for the changes before it; or, without one, somebody who waits for all changes up
// to a position, who is behind no event.
type waiting struct {
	sent  *runnel.ItemEvent
	after runnel.Position
	done  chan struct{}
	due   bool // the time is over
	late  *time.Timer
}

// ready tells whether nothing is left to wait for. The lock is held.
func (f *feed) ready(w *waiting) bool {
	if w.due || w.after <= f.at {
		return true
	}
	if w.sent == nil {
		return false
	}
	at, known := f.places[w.sent.Segment.Name]
	return w.sent.ID == 0 || known && (at.id > w.sent.ID || at.id == w.sent.ID && at.last >= w.sent.Tail)
}

// remind makes it due when it has waited for long enough.
func (f *feed) remind(w *waiting, wait time.Duration) {
	w.late = time.AfterFunc(wait, func() {
		f.mu.Lock()
		w.due = true
		f.mu.Unlock()
		f.tellEvents()
	})
}

// caughtUp waits until all changes that there are have been handed on, or maxEventWait has passed.
func (f *feed) caughtUp(ctx context.Context) {
	info, err := f.h.cfg.Own.StatSpace(ctx, f.space)
	if err != nil {
		return
	}
	w := &waiting{after: info.Head, done: make(chan struct{})}
	f.mu.Lock()
	f.events = append(f.events, w)
	if !f.ready(w) {
		f.remind(w, maxEventWait)
	}
	f.mu.Unlock()
	f.tellEvents()
	select {
	case <-w.done:
	case <-ctx.Done():
	}
}

// tellEvents tells what need not wait any longer. Once it returns, what was ready before has been told.
func (f *feed) tellEvents() {
	f.telling.Lock()
	defer f.telling.Unlock()
	for {
		w := f.nextReady()
		switch {
		case w == nil:
			return
		case w.sent == nil:
			close(w.done)
		default:
			f.tellEvent(w.sent)
		}
	}
}

// nextReady takes the next that need not wait. An event comes after those that were sent before it.
func (f *feed) nextReady() *waiting {
	f.mu.Lock()
	defer f.mu.Unlock()
	blocked := false
	for i, w := range f.events {
		if blocked && w.sent != nil {
			continue
		}
		if !f.ready(w) {
			blocked = blocked || w.sent != nil
			continue
		}
		f.take(i)
		if w.sent == nil {
			f.at = max(f.at, w.after) // what comes after it need not wait for the same again
			return w
		}
		if len(f.groups[w.sent.Segment.Name]) > 0 || len(f.whole) > 0 {
			f.come(w.sent.Segment.Name, place{w.sent.ID, w.sent.Tail})
		}
		return w
	}
	return nil
}

// take takes one that waits. The lock is held.
func (f *feed) take(i int) {
	w := f.events[i]
	f.events = slices.Delete(f.events, i, i+1)
	if w.late != nil {
		w.late.Stop()
	}
	if w.sent != nil {
		f.size -= eventBytes(w.sent)
	}
}

// come notes how far a group has been handed on. The lock is held.
func (f *feed) come(group string, to place) {
	if at := f.places[group]; to.id > at.id || to.id == at.id && to.last > at.last {
		f.places[group] = to
	}
}

// passed notes that all changes of a group before one have been handed on, and tells the events that were sent
// before it.
func (f *feed) passed(group string, to place) {
	f.mu.Lock()
	if len(f.groups[group]) > 0 || len(f.whole) > 0 {
		f.come(group, to)
	}
	f.mu.Unlock()
	f.tellEvents()
}

// attach returns the feed of a space, from then on with a connection among its receivers. Group is empty
// for all groups. When it returns, the feed is at a place that no later view is before.
func (h *Handler) attach(ctx context.Context, space runnel.Space, group string, c *conn) (*feed, error) {
	h.mu.Lock()
	f := h.feeds[space]
	if f != nil {
		f.add(group, c)
		h.mu.Unlock()
		return f, nil
	}
	h.mu.Unlock()
	info, err := h.cfg.Own.StatSpace(ctx, space)
	if err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if f = h.feeds[space]; f == nil {
		if h.draining {
			return nil, runnel.ErrShutdown
		}
		f = &feed{h: h, space: space, groups: make(map[string]map[*conn]int), whole: make(map[*conn]int), stamps: make(map[string]int64), places: make(map[string]place), at: info.Head, awake: make(chan struct{}, 1)}
		var follow context.Context
		follow, f.stop = context.WithCancel(h.ended)
		if err := h.cfg.Own.HearItemEvents(follow, space, f.heard); err != nil {
			f.stop()
			return nil, err
		}
		h.feeds[space] = f
		h.live.Go(func() { f.follow(follow, info.Head) })
		h.live.Go(func() { f.hear(follow) })
	}
	f.add(group, c)
	return f, nil
}

func (f *feed) add(group string, c *conn) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if group == "" {
		f.whole[c]++
		return
	}
	if f.groups[group] == nil {
		f.groups[group] = make(map[*conn]int)
	}
	f.groups[group][c]++
}

// detach takes back one attach. A feed without receivers ends.
func (h *Handler) detach(f *feed, group string, c *conn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f.mu.Lock()
	defer f.mu.Unlock()
	receivers := f.whole
	if group != "" {
		receivers = f.groups[group]
	}
	if receivers[c]--; receivers[c] <= 0 {
		delete(receivers, c)
	}
	if group != "" && len(receivers) == 0 {
		delete(f.groups, group)
		if len(f.whole) == 0 {
			delete(f.stamps, group)
			delete(f.places, group)
		}
	}
	if len(f.whole) == 0 && group == "" {
		maps.DeleteFunc(f.stamps, func(name string, _ int64) bool { return len(f.groups[name]) == 0 })
		maps.DeleteFunc(f.places, func(name string, _ place) bool { return len(f.groups[name]) == 0 })
	}
	if len(f.groups) == 0 && len(f.whole) == 0 && h.feeds[f.space] == f {
		delete(h.feeds, f.space)
		f.stop()
	}
}

// receivers returns who may want to know about a group.
func (f *feed) receivers(group string) []*conn {
	all := slices.AppendSeq(make([]*conn, 0, len(f.groups[group])+len(f.whole)), maps.Keys(f.groups[group]))
	for c := range f.whole {
		if f.groups[group][c] == 0 {
			all = append(all, c)
		}
	}
	return all
}

// follow hands on what happens after a position.
func (f *feed) follow(ctx context.Context, at runnel.Position) {
	for ctx.Err() == nil {
		for batch, err := range f.h.cfg.Own.TailSpaceItems(ctx, f.space, "", at) {
			if err != nil {
				f.lost(ctx, err, &at)
				break
			}
			at = max(at, batch.LastPosition)
			group, last := batch.Segment.Name, batch.Last
			if batch.Deleted {
				last = runnel.MaxSequence
			} else if len(batch.Changes) > 0 {
				f.passed(group, place{batch.ID, batch.Changes[0].Sequence - 1})
			}
			f.publish(&batch)
			f.mu.Lock()
			f.at = max(f.at, at)
			f.mu.Unlock()
			f.passed(group, place{batch.ID, last})
		}
	}
}

func (f *feed) publish(batch *runnel.ItemBatch) {
	if batch.Deleted {
		f.deleted(batch)
		return
	}
	f.mu.Lock()
	receivers := f.receivers(batch.Segment.Name)
	if len(receivers) > 0 && len(batch.Changes) > 0 {
		f.stamps[batch.Segment.Name] = batch.Changes[len(batch.Changes)-1].Stamp
	}
	f.mu.Unlock()
	if len(receivers) == 0 {
		return
	}
	for i := range batch.Changes {
		if batch.Changes[i].Type != runnel.DefaultItemType {
			continue
		}
		c := &change{group: batch.Segment, id: batch.ID, ItemChange: batch.Changes[i]}
		for _, to := range receivers {
			to.offer(c)
		}
	}
}

// deleted hands on that a group was deleted.
func (f *feed) deleted(batch *runnel.ItemBatch) {
	f.mu.Lock()
	receivers := f.receivers(batch.Segment.Name)
	if len(receivers) > 0 {
		f.stamps[batch.Segment.Name] = batch.Stamp + 1
	}
	f.mu.Unlock()
	gone := goneGroup(batch)
	for _, to := range receivers {
		to.offer(gone)
	}
}

// lost goes on at the end when what comes next cannot be read, and gives everybody a snapshot instead.
func (f *feed) lost(ctx context.Context, err error, at *runnel.Position) {
	if ctx.Err() != nil {
		return
	}
	if !errors.Is(err, runnel.ErrNotFound) && !errors.Is(err, runnel.ErrTrimmed) {
		f.h.cfg.Logger.Warn("following items failed; subscribers are given a snapshot", "stream", f.space.Name, "err", err)
	}
	wait := time.NewTimer(feedRetry)
	defer wait.Stop()
	select {
	case <-ctx.Done():
		return
	case <-wait.C:
	}
	info, err := f.h.cfg.Own.StatSpace(ctx, f.space)
	if err != nil {
		return
	}
	*at = info.Head
	f.mu.Lock()
	f.at = max(f.at, info.Head)
	for _, w := range f.events {
		w.due = true
	}
	all := make(map[*conn]bool)
	for c := range f.whole {
		all[c] = true
	}
	for _, receivers := range f.groups {
		for c := range receivers {
			all[c] = true
		}
	}
	f.mu.Unlock()
	f.tellEvents()
	for c := range all {
		c.miss() // before what follows comes
		c.resync(runnel.Space{}, "", "the place of a subscription was lost")
	}
}

// miss lets a connection drop changes until it is given snapshots.
func (c *conn) miss() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gap = true
}

// inFlight is longer than a commit takes from the moment that gives it its time until it is told.
const inFlight = 10 * time.Second

// stamp is a timestamp for what is told about a group between two changes of it: after the latest that this
// server has told, and before the next one, which may have been given its time a while ago.
func (h *Handler) stamp(group runnel.Segment) int64 {
	stamp := time.Now().Add(-inFlight).UnixMilli()
	h.mu.Lock()
	f := h.feeds[group.In()]
	h.mu.Unlock()
	if f == nil {
		return stamp
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return max(stamp, f.stamps[group.Name]+1)
}

// told notes the latest stamp of a group, for what is told next.
func (f *feed) told(group string, stamp int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.groups[group]) > 0 || len(f.whole) > 0 {
		f.stamps[group] = max(f.stamps[group], stamp)
	}
}
