package items

import (
	"context"
	"runtime"
	"sync"
	"time"

	"github.com/runnelhq/runnel"
)

// The items of a whole group are read and encoded once for all who join it before it changes: many do so
// together, after a restart for instance.

// maxSnapshots is how many bytes of encoded snapshots a handler keeps.
const maxSnapshots = 16 << 20

// encodedItems are items as a sync frame has them.
type encodedItems struct {
	body []byte // the end of the frame
	// id and tail are as of when they were.
	id   uint64
	tail runnel.Sequence
	// expires is when the first of them goes away by itself. Zero: none does.
	expires time.Time
}

func encodeItems(view *runnel.ItemView, inject bool) *encodedItems {
	e := &encodedItems{id: view.ID, tail: view.Tail}
	size := 64
	for i := range view.Items {
		size += len(view.Items[i].Value) + len(view.Items[i].Key) + 4
	}
	b := append(make([]byte, 0, size), '[')
	for i := range view.Items {
		item := &view.Items[i]
		if i > 0 {
			b = append(b, ',')
		}
		value := item.Value
		if inject {
			value = withID(value, item.Key)
		}
		b = append(b, value...)
		if !item.Expires.IsZero() && (e.expires.IsZero() || item.Expires.Before(e.expires)) {
			e.expires = item.Expires
		}
	}
	b = append(b, `]},"ids":[`...)
	for i := range view.Items {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendText(b, view.Items[i].Key)
	}
	e.body = append(b, `]}`...)
	return e
}

// is tells whether they are the items of a view of the same group.
func (e *encodedItems) is(view *runnel.ItemView) bool {
	return e.id == view.ID && e.tail == view.Tail && (e.expires.IsZero() || time.Now().Before(e.expires))
}

// snapshotOf is what a snapshot is of.
type snapshotOf struct {
	group  runnel.Segment
	inject bool
}

// snapshots are the encoded items of whole groups, as they were last.
type snapshots struct {
	reading chan struct{} // has room for those who may read at the same time

	mu   sync.Mutex
	all  map[snapshotOf]*encodedItems
	size int
}

func newSnapshots() snapshots {
	return snapshots{reading: make(chan struct{}, 2*runtime.GOMAXPROCS(0)), all: make(map[snapshotOf]*encodedItems)}
}

func (k *snapshots) get(of snapshotOf) *encodedItems {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.all[of]
}

// put keeps a snapshot, in the place of others if they are too many.
func (k *snapshots) put(of snapshotOf, e *encodedItems) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.remove(of)
	if e.id == 0 || len(e.body) > maxSnapshots/2 {
		return
	}
	k.all[of] = e
	k.size += len(e.body)
	for other := range k.all {
		if k.size <= maxSnapshots {
			return
		}
		if other != of {
			k.remove(other)
		}
	}
}

// remove is called with the lock held.
func (k *snapshots) remove(of snapshotOf) {
	if e := k.all[of]; e != nil {
		k.size -= len(e.body)
		delete(k.all, of)
	}
}

// whole reads the items of a whole group. The view that it returns does not have them.
func (c *conn) whole(ctx context.Context, s *subscription) (runnel.ItemView, *encodedItems, error) {
	k := &c.h.snapshots
	select {
	case k.reading <- struct{}{}:
	case <-ctx.Done():
		return runnel.ItemView{}, nil, ctx.Err()
	}
	defer func() { <-k.reading }()
	of := snapshotOf{s.seg, c.inject}
	e := k.get(of)
	if e != nil {
		// The log says whether the group may be read, and where it is.
		view, err := c.h.log.Items(ctx, s.seg, runnel.ItemQuery{Limit: 1})
		if view.Items = nil; err == nil && e.is(&view) {
			return view, e, nil
		}
	}
	view, err := c.orNone(c.h.log.Items(ctx, s.seg, runnel.ItemQuery{}))
	if err != nil {
		return runnel.ItemView{}, nil, err
	}
	e = encodeItems(&view, c.inject)
	view.Items = nil
	k.put(of, e)
	return view, e, nil
}
