package main

import (
	"context"
	"errors"
	"iter"
	"log/slog"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/auth"
	"github.com/runnelhq/runnel/durablestreams"
	"github.com/runnelhq/runnel/engine"
	"github.com/runnelhq/runnel/webhook"
)

// subscriptions joins the engine, which keeps subscriptions, with the keys and the policy of webhooks. It
// is what the control paths are served from.
type subscriptions struct {
	auth.SubscriptionLog                // the engine, or a guard before it
	eng                  *engine.Engine // for who brings the token of a wake
	keys                 *webhook.Keys
	policy               *webhook.Policy
	calls                callbacks
}

// newSubscriptions returns it, and what sends the webhooks.
func (c *serveCmd) newSubscriptions(eng *engine.Engine, who *auth.Authenticator, log *slog.Logger) (*subscriptions, *webhook.Dispatcher, error) {
	policy, err := c.Webhook.policy()
	if err != nil {
		return nil, nil, err
	}
	cfg, err := c.Webhook.config(log)
	if err != nil {
		return nil, nil, err
	}
	calls, err := c.newCallbacks()
	if err != nil {
		return nil, nil, err
	}
	keys := webhook.NewKeys(vault{eng}, webhook.KeysConfig{})
	s := &subscriptions{SubscriptionLog: eng, eng: eng, keys: keys, policy: policy, calls: calls}
	if who != nil {
		s.SubscriptionLog = auth.NewGuard(eng)
	}
	return s, webhook.NewDispatcher(outbox{eng, calls}, keys, policy, cfg), nil
}

// CreateSubscription also checks where the receiver of a webhook would be told to call back.
func (s *subscriptions) CreateSubscription(ctx context.Context, store runnel.Store, id string, config runnel.SubscriptionConfig) (runnel.Subscription, bool, error) {
	if config.Type == runnel.Webhook {
		if err := s.calls.check(config.Base); err != nil {
			return runnel.Subscription{}, false, err
		}
	}
	return s.SubscriptionLog.CreateSubscription(ctx, store, id, config)
}

func (s *subscriptions) AckWake(ctx context.Context, ref runnel.WakeRef, acks []runnel.WakeAck, done bool) (more bool, err error) {
	return s.eng.AckWake(ctx, ref, acks, done)
}

func (s *subscriptions) ReleaseWake(ctx context.Context, ref runnel.WakeRef) error {
	return s.eng.ReleaseWake(ctx, ref)
}

func (s *subscriptions) CheckWebhook(raw string) (string, error) { return s.policy.CheckURL(raw) }

func (s *subscriptions) KeySet(ctx context.Context, store runnel.Store) ([]byte, error) {
	return s.keys.JWKS(ctx, store)
}

func (s *subscriptions) SigningKey(ctx context.Context, store runnel.Store) (string, error) {
	return s.keys.SigningKey(ctx, store)
}

func (s *subscriptions) ClaimToken(ctx context.Context, ref runnel.WakeRef) (string, error) {
	return s.keys.Token(ctx, webhook.ClaimToken, wakeOf(ref))
}

func (s *subscriptions) VerifyToken(ctx context.Context, callback bool, token string) (runnel.WakeRef, error) {
	kind := webhook.ClaimToken
	if callback {
		kind = webhook.CallbackToken
	}
	w, err := s.keys.VerifyToken(ctx, kind, token)
	switch {
	case errors.Is(err, webhook.ErrTokenExpired):
		return runnel.WakeRef{}, durablestreams.ErrTokenExpired
	case errors.Is(err, webhook.ErrTokenInvalid):
		return runnel.WakeRef{}, runnel.ErrUnauthorized
	}
	return refOf(w), err
}

func wakeOf(r runnel.WakeRef) webhook.Wake {
	return webhook.Wake{
		Key: webhook.Key{Store: r.Store, Subscription: r.Subscription}, Instance: r.Instance, Generation: r.Generation, WakeID: r.WakeID,
	}
}

func refOf(w webhook.Wake) runnel.WakeRef {
	return runnel.WakeRef{Store: w.Store, Subscription: w.Subscription, Instance: w.Instance, Generation: w.Generation, WakeID: w.WakeID}
}

// vault keeps the keys of webhooks in the log.
type vault struct{ eng *engine.Engine }

func (v vault) LoadKeys(ctx context.Context, store runnel.Store) ([]byte, uint64, error) {
	return v.eng.LoadKeys(ctx, store)
}

func (v vault) StoreKeys(ctx context.Context, store runnel.Store, data []byte, version uint64) error {
	err := v.eng.StoreKeys(ctx, store, data, version)
	if errors.Is(err, runnel.ErrFenced) {
		return webhook.ErrMoved
	}
	return err
}

// outbox shows a dispatcher the wakes of webhook subscriptions.
type outbox struct {
	eng   *engine.Engine
	calls callbacks
}

func (o outbox) Pending(ctx context.Context) iter.Seq2[webhook.Pending, error] {
	return func(yield func(webhook.Pending, error) bool) {
		for p := range o.eng.WebhookPending(ctx) {
			key := webhook.Key{Store: p.Store, Subscription: p.Subscription}
			if !yield(webhook.Pending{Key: key, URL: p.URL, Due: p.Due, Generation: p.Generation}, nil) {
				return
			}
		}
	}
}

func (o outbox) Claim(ctx context.Context, key webhook.Key, until time.Time) (webhook.Delivery, error) {
	d, err := o.eng.ClaimDelivery(ctx, key.Store, key.Subscription, until)
	if err != nil {
		return webhook.Delivery{}, gone(err)
	}
	streams := make([]webhook.Stream, 0, len(d.Streams))
	for _, l := range d.Streams {
		kind := "glob"
		if l.Explicit {
			kind = "explicit"
		}
		streams = append(streams, webhook.Stream{
			Path: l.Path, LinkType: kind, AckedOffset: l.Acked.Offset(), TailOffset: l.Tail.Offset(), HasPending: l.Pending(),
		})
	}
	return webhook.Delivery{
		Wake: wakeOf(d.WakeRef), URL: d.URL, Streams: streams, LeaseTTL: d.LeaseTTL, Failures: d.Failures, FailingSince: d.FailingSince,
		CallbackURL: o.calls.url(d.Base, d.Subscription),
	}, nil
}

func (o outbox) Settle(ctx context.Context, d webhook.Delivery, out webhook.Outcome) error {
	delivery := runnel.WebhookDelivery{Wake: runnel.Wake{WakeRef: refOf(d.Wake)}}
	for _, s := range d.Streams {
		tail, err := runnel.ParseOffset(s.TailOffset)
		if err != nil {
			return err
		}
		delivery.Streams = append(delivery.Streams, runnel.SubscriptionLink{Path: s.Path, Tail: tail})
	}
	results := map[webhook.Result]runnel.WebhookResult{
		webhook.Done: runnel.WebhookDone, webhook.Accepted: runnel.WebhookAccepted,
		webhook.Retry: runnel.WebhookRetry, webhook.Parked: runnel.WebhookParked,
	}
	return gone(o.eng.SettleDelivery(ctx, delivery, runnel.WebhookOutcome{
		Result: results[out.Result], Status: out.Status, Reason: out.Reason,
		Failures: out.Failures, FailingSince: out.FailingSince, NextAttempt: out.Next,
	}))
}

// gone translates what says that a delivery is not to be made any more.
func gone(err error) error {
	if errors.Is(err, runnel.ErrFenced) || errors.Is(err, runnel.ErrNotFound) {
		return webhook.ErrGone
	}
	return err
}
