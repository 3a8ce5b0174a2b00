package engine

import (
	"context"
	"errors"
	"iter"
	"maps"
	"slices"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/storage"
)

// lagSteps is after how many spaces, cursors and streams of subscriptions a look makes a pause.
const lagSteps = 256

// Lags yields how far every reader is behind: subscriptions and the names of cursors, store by store. It looks at every
// space for cursors, at each of those, and at the streams on which subscriptions have work, each as it is then; so it
// takes its time, and tells what was so while it ran. Pause, if not nil, is called now and then, so that the work can
// be spread; an error of it is the last thing that is yielded. So is runnel.ErrShutdown when the engine closes meanwhile.
func (e *Engine) Lags(ctx context.Context, pause func(context.Context) error) iter.Seq2[runnel.ReaderLag, error] {
	return func(yield func(runnel.ReaderLag, error) bool) {
		if err := e.begin(); err != nil {
			yield(runnel.ReaderLag{}, err)
			return
		}
		defer e.operations.Done()
		look := &lagLook{e: e, pause: pause, yield: yield}
		var stores []runnel.Store
		for store, err := range e.driver.Stores(ctx) {
			if err != nil {
				yield(runnel.ReaderLag{}, storageError(err))
				return
			}
			stores = append(stores, store)
		}
		for _, store := range stores {
			if !look.subscriptions(ctx, store) || !look.readers(ctx, store) {
				return
			}
		}
	}
}

// lagLook is one look at all lags.
type lagLook struct {
	e     *Engine
	pause func(context.Context) error
	steps int
	yield func(runnel.ReaderLag, error) bool
}

// rest makes a pause if one is due. No scan of storage is under way meanwhile: one keeps alive what it may yet come to.
func (l *lagLook) rest(ctx context.Context) error {
	if l.steps++; l.steps < lagSteps || l.pause == nil {
		return nil
	}
	l.steps = 0
	resting, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		select {
		case <-l.e.closed:
			stop() // who closes the engine does not wait for a pause
		case <-resting.Done():
		}
	}()
	err := l.pause(resting)
	stop()
	<-ended
	if l.e.isClosing() {
		return runnel.ErrShutdown
	}
	return err
}

// subscriptions yields the lags of the subscriptions of a store. It returns false when nobody wants more.
func (l *lagLook) subscriptions(ctx context.Context, store runnel.Store) bool {
	for _, s := range l.e.subscriptions.of(store).all() {
		lag, err := l.subscription(ctx, s)
		if errors.Is(err, runnel.ErrNotFound) {
			continue
		}
		if !l.yield(lag, err) || err != nil {
			return false
		}
	}
	return true
}

// subscription sums up how far one is behind. Where no mark stands there is nothing to do.
func (l *lagLook) subscription(ctx context.Context, s *subscriber) (runnel.ReaderLag, error) {
	lag := runnel.ReaderLag{Store: s.of.store, Cursor: runnel.SubscriptionCursor(s.id)}
	for _, m := range s.marks() {
		if err := l.rest(ctx); err != nil {
			return lag, err
		}
		name := runnel.CursorName{Space: m.addr.In(), Segment: m.addr.Name, Name: lag.Cursor}
		c, err := s.readCursor(ctx, name)
		if errors.Is(err, runnel.ErrNotFound) {
			continue
		}
		if err != nil {
			return lag, err
		}
		addLag(&lag, &c)
	}
	if lag.Behind == 0 {
		return lag, nil
	}
	sub, err := s.of.e.Subscription(ctx, s.of.store, s.id)
	lag.Parked = sub.Parked
	return lag, err
}

func addLag(sum *runnel.ReaderLag, c *runnel.Cursor) {
	if n := c.Lag(); n > 0 {
		sum.Behind++
		sum.Entries += n
		sum.Bytes += uint64(max(c.LagBytes, 0))
	}
}

// readers yields the lags of the cursors that readers move themselves. It returns false when nobody wants more.
func (l *lagLook) readers(ctx context.Context, store runnel.Store) bool {
	for from := ""; ; {
		var parts []storage.Partition
		for part, err := range l.e.driver.Partitions(ctx, store, from) {
			if err != nil {
				l.yield(runnel.ReaderLag{}, storageError(err))
				return false
			}
			if parts = append(parts, part); len(parts) == lagSteps {
				break
			}
		}
		for _, part := range parts {
			if err := l.rest(ctx); err != nil {
				l.yield(runnel.ReaderLag{}, err)
				return false
			}
			if part.Name != runnel.ReservedElement && !l.readersOf(ctx, part) { // the cursors there are of subscriptions
				return false
			}
		}
		if len(parts) < lagSteps {
			return true
		}
		from = parts[len(parts)-1].Name + "\x00"
	}
}

// readersOf yields those of a space.
func (l *lagLook) readersOf(ctx context.Context, part storage.Partition) bool {
	readers := make(map[string]*runnel.ReaderLag)
	for c, err := range l.e.cursorsIn(ctx, part) {
		if err != nil {
			l.yield(runnel.ReaderLag{}, err)
			return false
		}
		l.steps++
		if readers[c.Name] == nil {
			readers[c.Name] = &runnel.ReaderLag{Store: part.Store, Space: part.Name, Cursor: c.Name}
		}
		addLag(readers[c.Name], &c)
	}
	for _, name := range slices.Sorted(maps.Keys(readers)) {
		if !l.yield(*readers[name], nil) {
			return false
		}
	}
	return true
}

// cursorsIn yields the cursors of a space and of all its segments.
func (e *Engine) cursorsIn(ctx context.Context, part storage.Partition) iter.Seq2[runnel.Cursor, error] {
	return func(yield func(runnel.Cursor, error) bool) {
		r := kindRange(keyCursor)
		r.Limit = 1
		for {
			id, found := uint64(0), false
			for pair, err := range e.driver.Scan(ctx, part, r) {
				if err != nil {
					yield(runnel.Cursor{}, storageError(err))
					return
				}
				id, found = idOfKey(pair.Key), true
			}
			if !found {
				return
			}
			name, err := e.nameOf(ctx, part, id)
			if err == nil {
				for c, err := range e.ownCursors(ctx, part, name, "", "") {
					if errors.Is(err, runnel.ErrNotFound) || errors.Is(err, runnel.ErrSoftDeleted) {
						break // it is being deleted, and its cursors with it
					}
					if !yield(c, err) || err != nil {
						return
					}
				}
			} else if !errors.Is(err, storage.ErrKeyNotFound) {
				yield(runnel.Cursor{}, storageError(err))
				return
			}
			r.From = segmentKey(nil, keyCursor, id+1)
		}
	}
}

// nameOf returns the name of the segment that has an id, empty for the space itself.
func (e *Engine) nameOf(ctx context.Context, part storage.Partition, id uint64) (string, error) {
	if id == 0 {
		return "", nil
	}
	name, err := e.driver.Get(ctx, part, nameKey(id))
	return string(name), err
}
