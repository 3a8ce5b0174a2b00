package items

import "github.com/runnelhq/runnel"

// A reader is behind when so many frames wait, or so large a part of what may wait: changes of the same item
// are then joined.
const (
	coalesceFrames = 256
	coalescePart   = 4
)

// A queue holds what waits to be written to one connection. Of each item only the latest change is kept once
// a reader is behind.
type queue struct {
	entries []queued
	next    int              // the first entry that has not been taken
	from    int              // the first entry that changes may be joined with: nothing moves over a snapshot
	size    int              // bytes of all entries that wait
	live    int              // bytes of those that may be dropped: changes and events
	latest  map[itemName]int // nil while the reader is not behind
}

type itemName struct{ space, group, key string }

// queued is a frame that waits; nil for one that was left out.
type queued struct {
	frame  []byte
	body   []byte // that others share, and the frame ends with
	change *change
	op     runnel.ItemOp
	live   bool
}

func (q *queue) len() int { return len(q.entries) - q.next }

func (q *queue) add(e queued) {
	q.entries = append(q.entries, e)
	q.size += len(e.frame) + len(e.body)
	if e.live {
		q.live += len(e.frame) + len(e.body)
	}
}

// control adds what must not be left out or overtaken.
func (q *queue) control(frame []byte) { q.snapshot(frame, nil) }

// snapshot adds a frame with its body, of which the same is true.
func (q *queue) snapshot(frame, body []byte) {
	q.add(queued{frame: frame, body: body})
	q.from, q.latest = len(q.entries), nil
}

// barrier adds a frame with its body that must not be overtaken, but may be dropped with the rest.
func (q *queue) barrier(frame, body []byte) {
	q.add(queued{frame: frame, body: body, live: true})
	q.from, q.latest = len(q.entries), nil
}

func (q *queue) event(frame []byte) { q.add(queued{frame: frame, live: true}) }

// push adds a change. Once the reader is behind, one of the same item that still waits is left out, and what
// the reader has not seen is told as one change. Limit is how many bytes may wait.
func (q *queue) push(c *change, inject bool, limit int) {
	op := c.Op
	name := c.name()
	if q.latest == nil && (q.len() >= coalesceFrames || q.live > limit/coalescePart) {
		q.latest = make(map[itemName]int)
		for at := max(q.from, q.next); at < len(q.entries); at++ {
			if e := &q.entries[at]; e.change != nil {
				q.latest[e.change.name()] = at
			}
		}
	}
	if at, ok := q.latest[name]; ok && at >= q.next {
		before := q.entries[at].op
		q.leaveOut(at)
		delete(q.latest, name)
		if op = joined(before, op); op == 0 {
			return
		}
	}
	q.add(queued{frame: c.frame(op, inject), change: c, op: op, live: true})
	if q.latest != nil {
		q.latest[name] = len(q.entries) - 1
	}
}

func (c *change) name() itemName { return itemName{c.group.Space, c.group.Name, c.Key} }

// joined is what two changes of an item are as one; 0 is nothing.
func joined(first, second runnel.ItemOp) runnel.ItemOp {
	switch {
	case first == runnel.ItemCreated && second == runnel.ItemDeleted:
		return 0
	case first == runnel.ItemCreated:
		return runnel.ItemCreated
	case second == runnel.ItemDeleted:
		return runnel.ItemDeleted
	}
	return runnel.ItemUpdated
}

func (q *queue) leaveOut(at int) {
	e := &q.entries[at]
	q.size -= len(e.frame) + len(e.body)
	if e.live {
		q.live -= len(e.frame) + len(e.body)
	}
	*e = queued{}
}

// drop leaves out all changes and events.
func (q *queue) drop() {
	for at := q.next; at < len(q.entries); at++ {
		if q.entries[at].live {
			q.leaveOut(at)
		}
	}
	clear(q.latest)
}

// take returns the next frame and its body, or nil at the end.
func (q *queue) take() (frame, body []byte) {
	for q.next < len(q.entries) {
		e := q.entries[q.next]
		q.entries[q.next] = queued{}
		q.next++
		if e.frame == nil {
			continue
		}
		q.size -= len(e.frame) + len(e.body)
		if e.live {
			q.live -= len(e.frame) + len(e.body)
		}
		if q.next > 64 && q.next*2 > len(q.entries) {
			q.compact()
		}
		return e.frame, e.body
	}
	*q = queue{} // an idle connection keeps nothing
	return nil, nil
}

// compact gives back the place of what was taken.
func (q *queue) compact() {
	n := copy(q.entries, q.entries[q.next:])
	clear(q.entries[n:])
	q.entries = q.entries[:n]
	for name, at := range q.latest {
		if at < q.next {
			delete(q.latest, name)
		} else {
			q.latest[name] = at - q.next
		}
	}
	q.from = max(0, q.from-q.next)
	q.next = 0
}
