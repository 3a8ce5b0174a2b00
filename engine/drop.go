package engine

import (
	"context"

	"github.com/runnelhq/runnel"
)

// DropDelivery ends the wake of a webhook that is parked, or fails, as if everything there is had been worked
// on. It fails with runnel.ErrNoWork if there is no such wake.
func (e *Engine) DropDelivery(ctx context.Context, store runnel.Store, id string) error {
	sub, err := e.Subscription(ctx, store, id)
	if err != nil {
		return err
	}
	if sub.WakeID == "" || !sub.Parked && sub.Failures == 0 {
		return runnel.ErrNoWork
	}
	wake := runnel.WakeRef{Store: store, Subscription: id, Instance: sub.Instance, Generation: sub.Generation, WakeID: sub.WakeID}
	var acks []runnel.WakeAck
	for l, err := range e.SubscriptionLinks(ctx, store, id) {
		if err != nil {
			return err
		}
		if !l.Pending() {
			continue
		}
		acks = append(acks, runnel.WakeAck{Path: l.Path, Acked: l.Tail})
		if len(acks) == runnel.MaxSubscriptionStreams {
			if _, err := e.endWake(ctx, wake, acks, false, true); err != nil {
				return err
			}
			acks = acks[:0]
		}
	}
	_, err = e.endWake(ctx, wake, acks, true, true)
	return err
}
