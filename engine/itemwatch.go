package engine

import (
	"cmp"
	"context"
	"errors"
	"iter"
	"slices"
	"sync"

	"github.com/runnelhq/runnel"
)

// A watcher of items has three sources: the log, from its place; the segments, for groups that come and go;
// and events. Two goroutines read the first two, each a step ahead of the watcher at most, so that it has a
// place and not a queue.

// WatchItems yields what items a watch selects, as of one moment, and then every change, as it becomes
// durable, and every event that is sent, without a seam. What is told of one group is in its order: an event
// comes after the changes that were there when it was sent. A group that does not exist, or is deleted, has an
// empty snapshot, and is told of when it is made.
//
// Several groups are as of the same moment: a snapshot of each, in the order of their names, and then
// ItemNews.Complete. Where what follows a place is not kept any more a snapshot is told in the place of
// changes. It ends without an error when the one group is closed, and else with ctx.Err(),
// runnel.ErrShutdown, or ErrInvalid when the segment is not one of items.
func (e *Engine) WatchItems(ctx context.Context, w runnel.ItemWatch) iter.Seq2[runnel.ItemNews, error] {
	return func(yield func(runnel.ItemNews, error) bool) {
		if err := w.Validate(); err != nil {
			yield(runnel.ItemNews{}, err)
			return
		}
		l := newItemListener(w.WantsEvent)
		e.listen(l)
		defer e.unlisten(l)
		var readers sync.WaitGroup
		defer readers.Wait()
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		t := itemTeller{e: e, w: &w, told: make(map[string]toldGroup), yield: yield}
		if w.ID != 0 {
			t.told[w.Group] = toldGroup{id: w.ID, last: w.After}
		}
		news := make(chan itemNews)
		readers.Go(func() {
			defer close(news)
			r := itemReader{e: e, w: &w, out: func(n runnel.ItemNews, err error) bool {
				select {
				case news <- itemNews{n, err}:
					return true
				case <-ctx.Done():
					return false
				}
			}}
			if w.Group != "" {
				r.group(ctx)
			} else {
				r.groups(ctx)
			}
		})
		var moved chan movedGroup
		if w.Group == "" {
			moved = make(chan movedGroup)
			readers.Go(func() { e.watchGroups(ctx, &w, moved) })
		}
		t.tell(ctx, news, moved, l)
	}
}

// itemNews is what the reader of the log hands to the teller.
type itemNews struct {
	runnel.ItemNews
	err error
}

// movedGroup is the name of a group that has gone, or has perhaps been made anew, empty for any, or why that cannot
// be told any more.
type movedGroup struct {
	name string
	err  error
}

// itemTeller tells a watcher.
type itemTeller struct {
	e    *Engine
	w    *runnel.ItemWatch
	told map[string]toldGroup // by name
	// complete says that all groups have been told; retold are those of a snapshot that is being told once
	// more, nil if none is.
	complete bool
	retold   map[string]bool
	// unseen says that groups may have gone while they were being told.
	unseen bool
	yield  func(runnel.ItemNews, error) bool
}

// toldGroup is how far a group has been told.
type toldGroup struct {
	id   uint64 // 0: that it is not there
	last runnel.Sequence
}

func (t *itemTeller) tell(ctx context.Context, news <-chan itemNews, moved <-chan movedGroup, l *itemListener) {
	more := true
	for more {
		select {
		case n, ok := <-news:
			switch {
			case !ok && ctx.Err() == nil:
				return // the group is closed
			case !ok:
				n.err = ctx.Err()
				fallthrough
			case n.err != nil:
				t.yield(runnel.ItemNews{}, n.err)
				return
			}
			// What was sent before a change comes before it.
			more = t.events(ctx, l) && t.take(ctx, &n.ItemNews)
		case m := <-moved:
			if m.err != nil {
				t.yield(runnel.ItemNews{}, m.err)
				return
			}
			more = t.look(ctx, m.name)
		case <-l.wake:
		case <-ctx.Done():
			t.yield(runnel.ItemNews{}, ctx.Err())
			return
		}
		more = more && t.events(ctx, l)
	}
}

// events tells the events that are due.
func (t *itemTeller) events(ctx context.Context, l *itemListener) bool {
	for _, event := range l.take(func(event *runnel.ItemEvent) bool { return t.due(ctx, event) }) {
		at := t.told[event.Segment.Name]
		if !t.yield(runnel.ItemNews{Segment: event.Segment, ID: at.id, Last: at.last, Event: &event}, nil) {
			return false
		}
	}
	return true
}

// due tells whether the changes before an event have been told.
func (t *itemTeller) due(ctx context.Context, event *runnel.ItemEvent) bool {
	at, known := t.told[event.Segment.Name]
	switch {
	case t.w.Group != "" && !known, t.w.Group == "" && (!t.complete || t.retold != nil):
		return false
	case event.ID == 0, at.id > event.ID:
		return true
	case at.id == event.ID:
		return at.last >= event.Tail
	case event.Tail == 0:
		return true // nothing had happened to the group yet, and so nothing of that is told
	}
	return !t.there(ctx, event.Segment, event.ID) // there is nothing to wait for
}

// there tells whether an incarnation of a group is still there, as far as that can be found out.
func (t *itemTeller) there(ctx context.Context, group runnel.Segment, id uint64) bool {
	info, _, err := t.e.itemInfo(ctx, group)
	return err == nil && info.ID == id || err != nil && !isGone(err)
}

// take tells what was read, and reports whether the watcher wants more.
func (t *itemTeller) take(ctx context.Context, n *runnel.ItemNews) bool {
	name := n.Segment.Name
	was, known := t.told[name]
	several := t.w.Group == ""
	switch {
	case n.Complete:
		return t.finish() && t.yield(*n, nil) && (!t.unseen || t.look(ctx, ""))
	case n.Snapshot:
		if several && t.complete && t.retold == nil {
			t.retold = make(map[string]bool)
		}
		if t.retold != nil {
			t.retold[name] = true
		}
		t.told[name] = toldGroup{id: n.ID, last: n.Last}
		return t.yield(*n, nil)
	case several && was.id != n.ID && !t.there(ctx, n.Segment, n.ID):
		return true // it was deleted after these changes
	case several && known && was.id != n.ID && !t.tellGone(n.Segment):
		return false
	}
	t.told[name] = toldGroup{id: n.ID, last: n.Last}
	n.Changes = t.wanted(n.Changes)
	return len(n.Changes) == 0 || t.yield(*n, nil)
}

// wanted leaves out what the watch does not select.
func (t *itemTeller) wanted(all []runnel.ItemChange) []runnel.ItemChange {
	out := func(c runnel.ItemChange) bool { return !t.w.Wants(c.ItemKey) }
	if !slices.ContainsFunc(all, out) {
		return all
	}
	return slices.DeleteFunc(slices.Clone(all), out)
}

// finish tells that groups which are not in a snapshot that was told once more are gone.
func (t *itemTeller) finish() bool {
	retold := t.retold
	again := t.complete
	t.complete, t.retold = true, nil
	if !again {
		return true
	}
	for name := range t.told {
		if !retold[name] && !t.tellGone(t.w.Space.Segment(name)) {
			return false
		}
	}
	return true
}

// tellGone tells that one of several groups is gone.
func (t *itemTeller) tellGone(group runnel.Segment) bool {
	delete(t.told, group.Name)
	return t.yield(runnel.ItemNews{Segment: group, Snapshot: true}, nil)
}

// look looks whether a group that has been told of is still there, or all of them if the name is empty.
func (t *itemTeller) look(ctx context.Context, name string) bool {
	if t.unseen = !t.complete || t.retold != nil; t.unseen {
		return true
	}
	if was, known := t.told[name]; name != "" && (!known || t.there(ctx, t.w.Space.Segment(name), was.id)) {
		return true
	}
	if name != "" {
		return t.tellGone(t.w.Space.Segment(name))
	}
	for name := range t.told {
		if !t.look(ctx, name) {
			return false
		}
	}
	return true
}

// watchGroups hands on which groups have gone, or have perhaps been made anew.
func (e *Engine) watchGroups(ctx context.Context, w *runnel.ItemWatch, moved chan<- movedGroup) {
	prefix := w.GroupPrefix
	if w.Space.Name != "" {
		prefix = w.Space.Name + "/" + prefix
	}
	known := make(map[string]uint64) // incarnations
	for s, err := range e.WatchSegments(ctx, w.Space.Store, runnel.SegmentWatch{Prefix: prefix, Direct: true}) {
		name := s.Info.Segment.Name
		switch {
		case err != nil:
		case s.Mark && s.Live: // what was gone before is not told
		case s.Mark, !s.Gone && !s.Info.Items:
			continue
		case s.Gone:
			delete(known, name)
		default:
			was := known[name]
			known[name] = s.Info.ID
			if was == 0 || was == s.Info.ID {
				continue
			}
		}
		select {
		case moved <- movedGroup{name, err}:
		case <-ctx.Done():
			return
		}
	}
}

// itemReader reads the log for a watcher.
type itemReader struct {
	e   *Engine
	w   *runnel.ItemWatch
	out func(runnel.ItemNews, error) bool // false when the watcher is gone
}

// query is what the snapshot asks for.
func (r *itemReader) query() runnel.ItemQuery {
	q := runnel.ItemQuery{Type: r.w.Type, Prefix: r.w.Prefix}
	if r.w.Item != nil {
		q.Prefix = *r.w.Item
	}
	return q
}

// selected are the items of a snapshot that the watch is about. The key that the snapshot of an item begins
// with sorts before those that are longer.
func (r *itemReader) selected(items []runnel.Item) []runnel.Item {
	if r.w.Item == nil {
		return items
	}
	if len(items) > 0 && items[0].Key == *r.w.Item {
		return items[:1:1]
	}
	return nil
}

// group follows one group.
func (r *itemReader) group(ctx context.Context) {
	addr := r.w.Space.Segment(r.w.Group)
	id, after, gap := r.w.ID, r.w.After, ""
	for {
		if id == 0 {
			q := r.query()
			if r.w.Item != nil {
				q.Limit = 1
			}
			view, err := r.e.Items(ctx, addr, q)
			switch {
			case isGone(err):
				if !r.out(runnel.ItemNews{Segment: addr, Snapshot: true, Gap: gap}, nil) {
					return
				}
				if id, err = r.made(ctx, addr); err != nil {
					r.out(runnel.ItemNews{}, err)
					return
				}
				after = 0
			case err != nil:
				r.out(runnel.ItemNews{}, err)
				return
			default:
				id, after = view.ID, view.Tail
				n := runnel.ItemNews{Segment: addr, ID: id, Last: after, Snapshot: true, Items: r.selected(view.Items), Lead: view.Lead, Gap: gap}
				if !r.out(n, nil) {
					return
				}
			}
		}
		err := r.follow(ctx, addr, id, after)
		switch {
		case err == nil:
			return
		case isGone(err):
			id, gap = 0, ""
		case isLost(err):
			id, gap = 0, "what follows the place is not kept any more"
		default:
			r.out(runnel.ItemNews{}, err)
			return
		}
	}
}

func isGone(err error) bool {
	return errors.Is(err, runnel.ErrNotFound) || errors.Is(err, runnel.ErrSoftDeleted)
}

func isLost(err error) bool {
	return errors.Is(err, runnel.ErrTrimmed) || errors.Is(err, runnel.ErrBeyondTail)
}

// follow hands on the changes of a group after a place. It returns nil when there is nothing more to tell.
func (r *itemReader) follow(ctx context.Context, addr runnel.Segment, id uint64, after runnel.Sequence) error {
	for b, err := range r.e.TailItems(ctx, addr, id, after) {
		if err != nil {
			return err
		}
		if !r.out(newsOf(&b), nil) {
			return nil
		}
	}
	return nil
}

func newsOf(b *runnel.ItemBatch) runnel.ItemNews {
	return runnel.ItemNews{Segment: b.Segment, ID: b.ID, Last: b.Last, Position: b.LastPosition, Changes: b.Changes, Lead: b.Lead}
}

// made waits until there is a group, and returns its incarnation.
func (r *itemReader) made(ctx context.Context, addr runnel.Segment) (uint64, error) {
	for s, err := range r.e.WatchSegments(ctx, addr.Store, runnel.SegmentWatch{Prefix: addr.Path(), Exact: true}) {
		switch {
		case err != nil:
			return 0, err
		case s.Mark || s.Gone:
		case !s.Info.Items:
			return 0, notItems(addr)
		default:
			return s.Info.ID, nil
		}
	}
	return 0, cmp.Or(ctx.Err(), runnel.ErrShutdown)
}

// groups follows several groups.
func (r *itemReader) groups(ctx context.Context) {
	for gap := ""; ; gap = "what follows the place is not kept any more" {
		views, err := r.e.SpaceItems(ctx, r.w.Space, r.w.GroupPrefix, r.query())
		if err != nil {
			r.out(runnel.ItemNews{}, err)
			return
		}
		for i := range views.Groups {
			v := &views.Groups[i]
			n := runnel.ItemNews{Segment: v.Segment, ID: v.ID, Last: v.Tail, Position: views.At, Snapshot: true, Items: r.selected(v.Items), Lead: v.Lead, Gap: gap}
			if !r.out(n, nil) {
				return
			}
		}
		if !r.out(runnel.ItemNews{Position: views.At, Complete: true, Gap: gap}, nil) {
			return
		}
		for b, err := range r.e.TailSpaceItems(ctx, r.w.Space, r.w.GroupPrefix, views.At) {
			if isLost(err) {
				break
			}
			if err != nil {
				r.out(runnel.ItemNews{}, err)
				return
			}
			if b.Deleted {
				continue // the watch of the segments tells it
			}
			if !r.out(newsOf(&b), nil) {
				return
			}
		}
		if ctx.Err() != nil {
			r.out(runnel.ItemNews{}, ctx.Err())
			return
		}
	}
}
