package engine

import (
	"context"

	"github.com/runnelhq/runnel"
)

// DropDelivery ends the wake of a webhook that is parked, or fails, as if everything there is had been worked
// on. It fails with runnel.ErrNoWork if there is no such wake.
func (e *Engine) DropDelivery(ctx context.Context, store runnel.Store, id string) error {
	s, err := e.subscriber(ctx, store, id)
	if err != nil {
		return err
	}
	var paths []string
	for l, err := range e.SubscriptionLinks(ctx, store, id) {
		if err != nil {
			return err
		}
		if l.Pending() {
			paths = append(paths, l.Path)
		}
	}
	if err := s.gate.enter(ctx); err != nil {
		return err
	}
	defer s.gate.leave()
	most := e.maxAcks()
	for ; len(paths) > most; paths = paths[most:] {
		if err := s.drop(ctx, paths[:most], false); err != nil {
			return err
		}
	}
	err = s.drop(ctx, paths, true)
	s.kick()
	return err
}

// drop counts all that there is on some streams as worked on. The wake ends with the last of them; before, another takes
// its place, so that nobody who was told of it acks it.
func (s *subscriber) drop(ctx context.Context, paths []string, last bool) error {
	stands := make([]standing, 0, len(paths))
	for _, path := range paths {
		addr, err := runnel.ParsePath(s.of.store, path)
		if err != nil {
			return err
		}
		at, err := s.stand(ctx, addr)
		if err != nil {
			return err
		}
		if at.linked {
			stands = append(stands, at)
		}
	}
	return s.change(ctx, paths, func(c *change) error {
		r := &c.row
		if r.WakeID == "" || !r.Parked && r.Failures == 0 {
			return runnel.ErrNoWork
		}
		for i := range stands {
			at := &stands[i]
			next := at.cursor
			have, err := c.cursor(next.Path)
			if err != nil {
				return err
			}
			if !at.stays(have) {
				continue // another process has brought it to another stream, or unlinked that
			}
			next.Place = uint64(at.tail)
			if have != nil {
				next.Explicit = have.Explicit
				if have.Segment == next.Segment {
					next.Place = max(next.Place, have.Place) // by way of another process
				}
			}
			c.setCursor(&next)
		}
		if last {
			c.clear()
			r.Parked, r.Failures, r.FailingSince, r.NextAttempt = false, 0, 0, 0
		} else {
			c.begin()
		}
		c.save()
		return nil
	})
}
