package webhook

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/runnelhq/runnel"
)

// Log keeps subscriptions and their wakes: an engine.
type Log interface {
	runnel.SubscriptionLog
	AckWake(ctx context.Context, ref runnel.WakeRef, acks []runnel.WakeAck, done bool) (more bool, err error)
	ReleaseWake(ctx context.Context, ref runnel.WakeRef) error

	WebhookPending(ctx context.Context) iter.Seq[runnel.WebhookPending]
	ClaimDelivery(ctx context.Context, store runnel.Store, id string, until time.Time) (runnel.WebhookDelivery, error)
	SettleDelivery(ctx context.Context, d runnel.WebhookDelivery, o runnel.WebhookOutcome) error

	LoadKeys(ctx context.Context, store runnel.Store) (data []byte, version uint64, err error)
	StoreKeys(ctx context.Context, store runnel.Store, data []byte, version uint64) error
}

// SubscriptionsConfig holds what can be set. The zero SubscriptionsConfig sends to public addresses, and takes
// webhooks only from requests that came to localhost: set BaseURL.
type SubscriptionsConfig struct {
	// Guard, if not nil, returns what stands before requests of whoever does not bring the token of a wake. What these
	// are refused for is told to nobody whom the guard refuses.
	Guard func(runnel.SubscriptionLog) runnel.SubscriptionLog
	// BaseURL is where receivers reach the streams, such as https://streams.example.com/v1/stream, and so where they
	// call back with the token of the wake. Empty means what the request came to that made the subscription.
	BaseURL string
	// CheckBase returns why receivers must not be told to call back below a URL that only a request says; it is asked
	// if BaseURL is empty. Nil lets only names and addresses pass that always mean this machine.
	CheckBase func(base string) error
	// Policy says where may be sent, Keys how keys are replaced, and Send how and how much is sent.
	Policy PolicyConfig
	Keys   KeysConfig
	Send   Config
}

// Subscriptions serves the control paths of package durablestreams, as its interface of that name, and sends
// webhooks. It joins a log with keys, a policy, and a dispatcher. Make one with [NewSubscriptions], and let it
// [Subscriptions.Run].
type Subscriptions struct {
	runnel.SubscriptionLog // based, or a guard before it

	log        Log // for who brings the token of a wake
	cfg        SubscriptionsConfig
	keys       *Keys
	policy     *Policy
	dispatcher *Dispatcher
}

// NewSubscriptions returns the subscriptions that a log keeps. It fails if the policy is not valid.
func NewSubscriptions(log Log, cfg SubscriptionsConfig) (*Subscriptions, error) {
	policy, err := NewPolicy(cfg.Policy)
	if err != nil {
		return nil, err
	}
	cfg.BaseURL = strings.TrimSuffix(cfg.BaseURL, "/")
	if cfg.CheckBase == nil {
		cfg.CheckBase = onThisMachine
	}
	s := &Subscriptions{SubscriptionLog: based{log, &cfg}, log: log, cfg: cfg, keys: NewKeys(logVault{log}, cfg.Keys), policy: policy}
	if cfg.Guard != nil {
		s.SubscriptionLog = cfg.Guard(s.SubscriptionLog)
	}
	s.dispatcher = NewDispatcher(logOutbox{s}, s.keys, policy, cfg.Send)
	return s, nil
}

// Run sends webhooks until ctx is done; see [Dispatcher.Run]. The log must stay open until it returns.
func (s *Subscriptions) Run(ctx context.Context) { s.dispatcher.Run(ctx) }

// Stats returns what has been sent, and is.
func (s *Subscriptions) Stats() Stats { return s.dispatcher.Stats() }

// based is a log whose webhooks call back where the server is.
type based struct {
	runnel.SubscriptionLog
	cfg *SubscriptionsConfig
}

// CreateSubscription also checks where the receiver of a webhook would be told to call back.
func (b based) CreateSubscription(ctx context.Context, store runnel.Store, id string, config runnel.SubscriptionConfig) (runnel.Subscription, bool, error) {
	if config.Type == runnel.Webhook && b.cfg.BaseURL == "" {
		if err := b.cfg.CheckBase(config.Base); err != nil {
			return runnel.Subscription{}, false, err
		}
	}
	return b.SubscriptionLog.CreateSubscription(ctx, store, id, config)
}

// AckWake needs no permission but the token of the wake.
func (s *Subscriptions) AckWake(ctx context.Context, ref runnel.WakeRef, acks []runnel.WakeAck, done bool) (more bool, err error) {
	return s.log.AckWake(ctx, ref, acks, done)
}

// ReleaseWake needs no permission but the token of the wake.
func (s *Subscriptions) ReleaseWake(ctx context.Context, ref runnel.WakeRef) error {
	return s.log.ReleaseWake(ctx, ref)
}

// CheckWebhook is [Policy.CheckURL].
func (s *Subscriptions) CheckWebhook(raw string) (string, error) { return s.policy.CheckURL(raw) }

// KeySet is [Keys.JWKS].
func (s *Subscriptions) KeySet(ctx context.Context, store runnel.Store) ([]byte, error) {
	return s.keys.JWKS(ctx, store)
}

// SigningKey is [Keys.SigningKey].
func (s *Subscriptions) SigningKey(ctx context.Context, store runnel.Store) (string, error) {
	return s.keys.SigningKey(ctx, store)
}

// ClaimToken returns the token of a wake that was claimed.
func (s *Subscriptions) ClaimToken(ctx context.Context, ref runnel.WakeRef) (string, error) {
	return s.keys.Token(ctx, ClaimToken, wakeOf(ref))
}

// VerifyToken returns the wake that a token is of. Its error matches runnel.ErrUnauthorized or [ErrTokenExpired] if
// the token is at fault.
func (s *Subscriptions) VerifyToken(ctx context.Context, callback bool, token string) (runnel.WakeRef, error) {
	kind := ClaimToken
	if callback {
		kind = CallbackToken
	}
	w, err := s.keys.VerifyToken(ctx, kind, token)
	if errors.Is(err, ErrTokenInvalid) {
		return runnel.WakeRef{}, runnel.ErrUnauthorized
	}
	return refOf(w), err
}

// callback is where the receiver of a wake calls back, of a subscription that was made by a request to a URL.
func (s *Subscriptions) callback(made, subscription string) string {
	base := s.cfg.BaseURL
	if base == "" {
		base = made
	}
	return base + "/" + runnel.ReservedElement + "/subscriptions/" + url.PathEscape(subscription) + "/callback"
}

// onThisMachine lets a URL pass whose host always means this machine.
func onThisMachine(base string) error {
	u, err := url.Parse(base)
	if err == nil {
		host := strings.ToLower(strings.TrimSuffix(u.Hostname(), "."))
		addr, err := netip.ParseAddr(host)
		if host == "localhost" || strings.HasSuffix(host, ".localhost") || err == nil && addr.IsLoopback() {
			return nil
		}
	}
	return &runnel.InvalidError{What: "webhook subscription", Rule: fmt.Sprintf(
		"would have receivers call back below %.200q, which only the request says; the server must be given its URL", base)}
}

func wakeOf(r runnel.WakeRef) Wake {
	return Wake{Key: Key{Store: r.Store, Subscription: r.Subscription}, Instance: r.Instance, Generation: r.Generation, WakeID: r.WakeID}
}

func refOf(w Wake) runnel.WakeRef {
	return runnel.WakeRef{Store: w.Store, Subscription: w.Subscription, Instance: w.Instance, Generation: w.Generation, WakeID: w.WakeID}
}

// logVault keeps keys in a log.
type logVault struct{ log Log }

func (v logVault) LoadKeys(ctx context.Context, store runnel.Store) ([]byte, uint64, error) {
	return v.log.LoadKeys(ctx, store)
}

func (v logVault) StoreKeys(ctx context.Context, store runnel.Store, data []byte, version uint64) error {
	err := v.log.StoreKeys(ctx, store, data, version)
	if errors.Is(err, runnel.ErrFenced) {
		return ErrMoved
	}
	return err
}

// logOutbox shows a dispatcher the wakes of a log.
type logOutbox struct{ *Subscriptions }

func (o logOutbox) Pending(ctx context.Context) iter.Seq2[Pending, error] {
	return func(yield func(Pending, error) bool) {
		for p := range o.log.WebhookPending(ctx) {
			key := Key{Store: p.Store, Subscription: p.Subscription}
			if !yield(Pending{Key: key, URL: p.URL, Due: p.Due, Generation: p.Generation}, nil) {
				return
			}
		}
	}
}

func (o logOutbox) Claim(ctx context.Context, key Key, until time.Time) (Delivery, error) {
	d, err := o.log.ClaimDelivery(ctx, key.Store, key.Subscription, until)
	if err != nil {
		return Delivery{}, gone(err)
	}
	streams := make([]Stream, 0, len(d.Streams))
	for _, l := range d.Streams {
		kind := "glob"
		if l.Explicit {
			kind = "explicit"
		}
		streams = append(streams, Stream{
			Path: l.Path, LinkType: kind, AckedOffset: l.Acked.Offset(), TailOffset: l.Tail.Offset(), HasPending: l.Pending(),
		})
	}
	return Delivery{
		Wake: wakeOf(d.WakeRef), URL: d.URL, Streams: streams, LeaseTTL: d.LeaseTTL, Failures: d.Failures, FailingSince: d.FailingSince,
		CallbackURL: o.callback(d.Base, d.Subscription),
	}, nil
}

func (o logOutbox) Settle(ctx context.Context, d Delivery, out Outcome) error {
	delivery := runnel.WebhookDelivery{Wake: runnel.Wake{WakeRef: refOf(d.Wake)}}
	for _, s := range d.Streams {
		tail, err := runnel.ParseOffset(s.TailOffset)
		if err != nil {
			return err
		}
		delivery.Streams = append(delivery.Streams, runnel.SubscriptionLink{Path: s.Path, Tail: tail})
	}
	results := map[Result]runnel.WebhookResult{
		Done: runnel.WebhookDone, Accepted: runnel.WebhookAccepted, Retry: runnel.WebhookRetry, Parked: runnel.WebhookParked,
	}
	return gone(o.log.SettleDelivery(ctx, delivery, runnel.WebhookOutcome{
		Result: results[out.Result], Status: out.Status, Reason: out.Reason,
		Failures: out.Failures, FailingSince: out.FailingSince, NextAttempt: out.Next,
	}))
}

// gone translates what says that a delivery is not to be made any more.
func gone(err error) error {
	if errors.Is(err, runnel.ErrFenced) || errors.Is(err, runnel.ErrNotFound) {
		return ErrGone
	}
	return err
}
