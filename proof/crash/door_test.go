package crash

import (
	"cmp"
	"context"
	"slices"
	"sync"

	"github.com/runnelhq/runnel/storage"
)

// door stands before the driver and holds each change twice: before Pebble has seen it, and when it is
// done and its caller has not been told. So every state in which a crash can find a commit can be had,
// and what happens next is drawn and not left to the scheduler.
type door struct {
	storage.Driver
	disk     *disk
	memTable int

	mu      sync.Mutex
	open    bool
	before  []*visit
	after   []*visit
	inside  int
	filled  int  // bytes in the memtable, no less than there are
	last    int  // of them, those that came last
	rotates bool // the change inside may begin another log
	dropped bool // a range was dropped, upon which Pebble flushes by the clock
	onEnter func(v *visit)
	onLeave func(v *visit, err error)
	// onRotate is called when Pebble has begun another log.
	onRotate func()
}

// visit is one change on its way.
type visit struct {
	space string
	drop  bool
	size  int
	upto  int // how many operations of the space were staged when the batch was closed
	let   chan struct{}
	err   error
}

func newDoor(d storage.Driver, disk *disk, memTable int) *door {
	w := &door{Driver: d, disk: disk, memTable: memTable, open: true}
	disk.onLog = func() {
		w.mu.Lock()
		w.filled = w.last // what made the log begin goes into it
		if w.onRotate != nil {
			w.onRotate()
		}
		w.mu.Unlock()
	}
	return w
}

// hold makes changes wait from now on, or lets all of them go.
func (w *door) hold(on bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.open = !on
	if on {
		return
	}
	for _, v := range append(w.before, w.after...) {
		close(v.let)
	}
	w.before, w.after = nil, nil
}

func (w *door) pass(v *visit, do func() error) error {
	w.mu.Lock()
	if w.onEnter != nil {
		w.onEnter(v)
	}
	v.let = make(chan struct{})
	if w.open {
		close(v.let)
	} else {
		w.before = append(w.before, v)
	}
	w.mu.Unlock()
	<-v.let

	w.mu.Lock()
	w.inside++
	w.rotates = w.rotates || w.risky(v)
	w.filled += v.size
	w.last = v.size
	w.mu.Unlock()
	err := do()
	w.mu.Lock()
	w.inside--
	w.rotates = false
	v.err = err
	v.let = make(chan struct{})
	if w.open {
		close(v.let)
	} else {
		w.after = append(w.after, v)
	}
	w.mu.Unlock()
	<-v.let
	w.mu.Lock()
	if w.onLeave != nil {
		w.onLeave(v, err)
	}
	w.mu.Unlock()
	return err
}

// risky tells whether a change may make Pebble begin another log. It does so under a lock, which nobody
// may wait for, because the bubble would not come to rest.
func (w *door) risky(v *visit) bool {
	return v.size > w.memTable/3 || w.filled+v.size > w.memTable*2/3
}

// moves returns what can be done next, in an order that does not depend on the scheduler.
func (w *door) moves() []func() {
	w.mu.Lock()
	defer w.mu.Unlock()
	order := func(a, b *visit) int {
		if a.drop != b.drop {
			if a.drop {
				return 1
			}
			return -1
		}
		return cmp.Compare(a.space, b.space)
	}
	slices.SortStableFunc(w.before, order)
	slices.SortStableFunc(w.after, order)
	var all []func()
	for _, v := range w.after {
		all = append(all, func() { w.let(&w.after, v) })
	}
	quiet := w.disk.waiting() == 0 && w.inside == 0
	if !quiet && w.disk.waiting() > 0 {
		all = append(all, w.disk.letSync)
	}
	for _, v := range w.before {
		if w.rotates || w.risky(v) && !quiet {
			continue
		}
		all = append(all, func() {
			if w.risky(v) {
				w.disk.hold(false) // nothing may wait while a log ends
			}
			w.let(&w.before, v)
		})
	}
	return all
}

func (w *door) let(from *[]*visit, v *visit) {
	w.mu.Lock()
	defer w.mu.Unlock()
	*from = slices.DeleteFunc(*from, func(x *visit) bool { return x == v })
	close(v.let)
}

// Commit holds the commit before and after.
func (w *door) Commit(ctx context.Context, p storage.Partition, b *storage.Batch) (version storage.Version, err error) {
	err = w.pass(&visit{space: p.Name, size: b.Size() + 200*len(b.Ops)}, func() (err error) {
		version, err = w.Driver.Commit(ctx, p, b)
		return err
	})
	return version, err
}

// Drop holds the drop before and after.
func (w *door) Drop(ctx context.Context, p storage.Partition, r storage.Range) error {
	return w.pass(&visit{space: p.Name, drop: true, size: 400}, func() error {
		w.mu.Lock()
		w.dropped = true
		w.mu.Unlock()
		return w.Driver.Drop(ctx, p, r)
	})
}

// idle tells whether no change is on its way.
func (w *door) idle() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.before)+len(w.after)+w.inside == 0
}

// flushes tells whether Pebble may flush by the clock.
func (w *door) flushes() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.dropped
}
