package main

import (
	"context"
	"log/slog"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/auth"
	"github.com/runnelhq/runnel/engine"
	"github.com/runnelhq/runnel/webhook"
)

// newSubscriptions returns what the control paths are served from, and webhooks are sent by.
func (c *serveCmd) newSubscriptions(eng *engine.Engine, who *auth.Authenticator, log *slog.Logger) (*webhook.Subscriptions, error) {
	calls, err := c.newCallbacks()
	if err != nil {
		return nil, err
	}
	cfg := webhook.SubscriptionsConfig{BaseURL: calls.base, CheckBase: calls.check, Policy: c.Webhook.policy()}
	if cfg.Send, err = c.Webhook.config(log); err != nil {
		return nil, err
	}
	if who != nil {
		cfg.Guard = func(r runnel.SubscriptionLog) runnel.SubscriptionLog { return auth.NewGuard(requested{eng, r}) }
	}
	return webhook.NewSubscriptions(eng, cfg)
}

// requested is a log whose subscriptions are made by way of others.
type requested struct {
	*engine.Engine
	subs runnel.SubscriptionLog
}

func (r requested) CreateSubscription(ctx context.Context, store runnel.Store, id string, config runnel.SubscriptionConfig) (runnel.Subscription, bool, error) {
	return r.subs.CreateSubscription(ctx, store, id, config)
}
