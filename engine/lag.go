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

// Lags yields how far every reader is behind: subscriptions and the names of cursors, store by store. It looks at every
// cursor of readers and at the streams on which subscriptions have work, each as it is then; so it takes its time,
// and tells what was so while it ran.
func (e *Engine) Lags(ctx context.Context) iter.Seq2[runnel.ReaderLag, error] {
	return func(yield func(runnel.ReaderLag, error) bool) {
		if err := e.begin(); err != nil {
			yield(runnel.ReaderLag{}, err)
			return
		}
		defer e.operations.Done()
		for store, err := range e.driver.Stores(ctx) {
			if err != nil {
				yield(runnel.ReaderLag{}, storageError(err))
				return
			}
			if !e.subscriptionLags(ctx, store, yield) || !e.readerLags(ctx, store, yield) {
				return
			}
		}
	}
}

// subscriptionLags yields those of the subscriptions of a store. It returns false when nobody wants more.
func (e *Engine) subscriptionLags(ctx context.Context, store runnel.Store, yield func(runnel.ReaderLag, error) bool) bool {
	for _, s := range e.subscriptions.of(store).all() {
		lag, err := s.lag(ctx)
		if errors.Is(err, runnel.ErrNotFound) {
			continue
		}
		if !yield(lag, err) || err != nil {
			return false
		}
	}
	return true
}

// lag sums up how far a subscription is behind. Where no mark stands there is nothing to do.
func (s *subscriber) lag(ctx context.Context) (runnel.ReaderLag, error) {
	lag := runnel.ReaderLag{Store: s.of.store, Cursor: runnel.SubscriptionCursor(s.id)}
	for _, m := range s.marks() {
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

// readerLags yields those of the cursors that readers move themselves. It returns false when nobody wants more.
func (e *Engine) readerLags(ctx context.Context, store runnel.Store, yield func(runnel.ReaderLag, error) bool) bool {
	for part, err := range e.driver.Partitions(ctx, store, "") {
		if err != nil {
			yield(runnel.ReaderLag{}, storageError(err))
			return false
		}
		if part.Name == runnel.ReservedElement {
			continue // the cursors there are of subscriptions
		}
		readers := make(map[string]*runnel.ReaderLag)
		for c, err := range e.cursorsIn(ctx, part) {
			if err != nil {
				yield(runnel.ReaderLag{}, err)
				return false
			}
			if readers[c.Name] == nil {
				readers[c.Name] = &runnel.ReaderLag{Store: store, Space: part.Name, Cursor: c.Name}
			}
			addLag(readers[c.Name], &c)
		}
		for _, name := range slices.Sorted(maps.Keys(readers)) {
			if !yield(*readers[name], nil) {
				return false
			}
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
