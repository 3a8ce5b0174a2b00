package engine

import (
	"bytes"
	"context"

	"github.com/runnelhq/runnel/record"
)

// The cursors of subscriptions have a first form, under a key of their own, which is replaced when the subscriptions
// of a store are read.

// hasLinks tells whether a store has cursors in their first form.
func (ss *subscribers) hasLinks(ctx context.Context) (bool, error) {
	r := kindRange(keyLink)
	r.Limit = 1
	for _, err := range ss.e.driver.Scan(ctx, controlOf(ss.store), r) {
		if err != nil {
			return false, storageError(err)
		}
		return true, nil
	}
	return false, nil
}

// takeLinks replaces those of one subscription.
func (ss *subscribers) takeLinks(ctx context.Context, instance uint64) error {
	r := segmentRange(keyLink, instance)
	r.Limit = max(min(linkPage, ss.e.maxAcks()/2), 1) // one row comes, and one goes
	for {
		var keys [][]byte
		var cursors []record.Cursor
		for pair, err := range ss.e.driver.Scan(ctx, controlOf(ss.store), r) {
			if err != nil {
				return storageError(err)
			}
			c, err := record.DecodeLink(pair.Value)
			if err != nil {
				return err
			}
			keys, cursors = append(keys, bytes.Clone(pair.Key)), append(cursors, c)
		}
		if len(keys) == 0 {
			return nil
		}
		if err := again(func() error { return ss.takePage(ctx, instance, keys, cursors) }); err != nil {
			return err
		}
	}
}

// takePage replaces rows in one commit. A cursor that is there stays: another process has made it of the same row.
func (ss *subscribers) takePage(ctx context.Context, instance uint64, keys [][]byte, cursors []record.Cursor) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	sp, err := ss.e.enter(ctx, controlOf(ss.store))
	if err != nil {
		return err
	}
	defer sp.leave()
	rows := heldRows{sp: sp}
	defer rows.release()
	size := 0
	for i := range keys {
		if err := rows.load(ctx, keys[i]); err != nil {
			return err
		}
		if err := rows.load(ctx, subscriptionCursorKey(instance, cursors[i].Path)); err != nil {
			return err
		}
		size += cursorBytes(len(cursors[i].Path)) + rowBytes
	}
	if !ss.e.limits.Exclusive {
		if err := sp.ensure(ctx); err != nil { // what was read at different moments is stale then
			return err
		}
	}
	return sp.write(ctx, size, 2*len(keys), func(t *tx) error {
		for i := range keys {
			link, cursor := t.row(keys[i]), t.row(subscriptionCursorKey(instance, cursors[i].Path))
			if link == nil || cursor == nil {
				return errRetry
			}
			if link.value == nil {
				t.dependOnRow(link)
			}
		}
		for i := range keys {
			key := subscriptionCursorKey(instance, cursors[i].Path)
			if t.row(keys[i]).value == nil {
				continue
			}
			if t.row(key).value == nil {
				t.setRow(key, cursors[i].Append(nil))
			}
			t.setRow(keys[i], nil)
		}
		return nil
	})
}
