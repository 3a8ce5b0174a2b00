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
		if l.Pending() {
			acks = append(acks, runnel.WakeAck{Path: l.Path, Acked: l.Tail})
		}
	}
	// The wake goes on while there are more than one commit can move.
	for most := e.maxAcks(); len(acks) > most; acks = acks[most:] {
		if _, err := e.endWake(ctx, wake, acks[:most], false, true); err != nil {
			return err
		}
	}
	_, err = e.endWake(ctx, wake, acks, true, true)
	return err
}
