package auth

import (
	"context"
	"iter"

	"github.com/runnelhq/runnel"
)

// mayWith checks what is asked of a subscription, which may be to any stream of its store.
func mayWith(ctx context.Context, action string, needs Verb, store runnel.Store, id string) error {
	return Check(ctx, Request{Action: action + " subscription " + id + " of", Needs: needs, Kind: "the root space", Store: store})
}

// CreateSubscription needs admin of the store.
func (g *Guard) CreateSubscription(ctx context.Context, store runnel.Store, id string, config runnel.SubscriptionConfig) (sub runnel.Subscription, existed bool, err error) {
	if err := mayWith(ctx, "create", Admin, store, id); err != nil {
		return runnel.Subscription{}, false, err
	}
	return g.log.CreateSubscription(ctx, store, id, config)
}

// Subscription needs read of the store.
func (g *Guard) Subscription(ctx context.Context, store runnel.Store, id string) (runnel.Subscription, error) {
	if err := mayWith(ctx, "read", Read, store, id); err != nil {
		return runnel.Subscription{}, err
	}
	return g.log.Subscription(ctx, store, id)
}

// Subscriptions needs read of the store.
func (g *Guard) Subscriptions(ctx context.Context, store runnel.Store, after string) iter.Seq2[runnel.Subscription, error] {
	return following(ctx, mayWith(ctx, "list", Read, store, ""), func(ctx context.Context) iter.Seq2[runnel.Subscription, error] {
		return g.log.Subscriptions(ctx, store, after)
	})
}

// SubscriptionLinks needs read of the store. It is asked for whatever an answer tells of a subscription, also to
// whoever creates it.
func (g *Guard) SubscriptionLinks(ctx context.Context, store runnel.Store, id string) iter.Seq2[runnel.SubscriptionLink, error] {
	return following(ctx, mayWith(ctx, "read", Read, store, id), func(ctx context.Context) iter.Seq2[runnel.SubscriptionLink, error] {
		return g.log.SubscriptionLinks(ctx, store, id)
	})
}

// DeleteSubscription needs admin of the store.
func (g *Guard) DeleteSubscription(ctx context.Context, store runnel.Store, id string) error {
	if err := mayWith(ctx, "delete", Admin, store, id); err != nil {
		return err
	}
	return g.log.DeleteSubscription(ctx, store, id)
}

// LinkStreams needs admin of the store.
func (g *Guard) LinkStreams(ctx context.Context, store runnel.Store, id string, paths []string) error {
	if err := mayWith(ctx, "link streams to", Admin, store, id); err != nil {
		return err
	}
	return g.log.LinkStreams(ctx, store, id, paths)
}

// UnlinkStream needs admin of the store.
func (g *Guard) UnlinkStream(ctx context.Context, store runnel.Store, id, path string) error {
	if err := mayWith(ctx, "unlink a stream from", Admin, store, id); err != nil {
		return err
	}
	return g.log.UnlinkStream(ctx, store, id, path)
}

// ClaimWake needs write of the store.
func (g *Guard) ClaimWake(ctx context.Context, store runnel.Store, id, worker string) (runnel.Wake, error) {
	if err := mayWith(ctx, "claim", Write, store, id); err != nil {
		return runnel.Wake{}, err
	}
	return g.log.ClaimWake(ctx, store, id, worker)
}

// ReplayDelivery needs admin of the store.
func (g *Guard) ReplayDelivery(ctx context.Context, store runnel.Store, id string) error {
	if err := mayWith(ctx, "replay", Admin, store, id); err != nil {
		return err
	}
	return g.log.ReplayDelivery(ctx, store, id)
}

// DropDelivery needs admin of the store.
func (g *Guard) DropDelivery(ctx context.Context, store runnel.Store, id string) error {
	if err := mayWith(ctx, "drop a wake of", Admin, store, id); err != nil {
		return err
	}
	return g.log.DropDelivery(ctx, store, id)
}
