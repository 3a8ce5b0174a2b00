package runnel

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// Limits of subscriptions. Source of the bounds of a lease: PROTOCOL.md, section 6.2.
const (
	// MaxSubscriptionBytes is the longest id of a subscription, and the longest name of a worker, in bytes.
	MaxSubscriptionBytes = 256
	// MaxSubscriptionStreams is how many streams one request may link.
	MaxSubscriptionStreams = 1024
	// MaxPatternBytes bounds a pattern, MaxDescriptionBytes a description and MaxWebhookBytes a URL.
	MaxPatternBytes     = 1024
	MaxDescriptionBytes = 1024
	MaxWebhookBytes     = 2048

	MinWakeLease     = time.Second
	MaxWakeLease     = 10 * time.Minute
	DefaultWakeLease = 30 * time.Second
)

// SubscriptionType is how a subscription is told of work.
type SubscriptionType string

// The types of subscriptions.
const (
	// Webhook sends a request to a URL.
	Webhook SubscriptionType = "webhook"
	// PullWake appends to a stream that workers read.
	PullWake SubscriptionType = "pull-wake"
)

// SubscriptionConfig is what a subscription is created with. It does not change afterwards.
type SubscriptionConfig struct {
	Type SubscriptionType
	// Pattern links all streams whose paths it matches: * is one element of a path, ** any number of them,
	// also none. Empty for no pattern.
	Pattern string
	// Streams are linked by name, whether they exist or not.
	Streams []string
	// WebhookURL is for Webhook, WakeStream, the path of a stream, for PullWake.
	WebhookURL string
	WakeStream string
	// LeaseTTL is how long a worker may be silent. 0 means DefaultWakeLease.
	LeaseTTL    time.Duration
	Description string
	// Base is the URL of the stream root as the one who created it saw it; webhooks are told of URLs under
	// it. It does not tell configurations apart.
	Base string
}

// Subscription is a durable reader of streams that is woken when there is something to read.
type Subscription struct {
	Store Store
	ID    string
	// Instance tells those apart that had the same id one after the other.
	Instance uint64
	SubscriptionConfig
	Created time.Time

	// Generation counts wakes. It never goes back.
	Generation uint64
	// WakeID is that of the wake in flight; empty if there is none.
	WakeID string
	// Holder is the worker that has claimed the wake, and Deadline when its lease ends.
	Holder   string
	Deadline time.Time

	// Failures counts deliveries that failed since one succeeded; the rest tells of the last one.
	Failures     int
	FailingSince time.Time
	NextAttempt  time.Time
	LastStatus   int
	LastReason   string
	// Parked says that no further delivery is tried until somebody asks for it.
	Parked bool
}

// SubscriptionLink is a stream of a subscription.
type SubscriptionLink struct {
	Path string
	// Explicit is false for a stream that only the pattern links.
	Explicit bool
	// Acked is the last entry that has been worked on, Tail the last one there is.
	Acked, Tail Sequence
}

// Pending tells whether there is something to work on.
func (l SubscriptionLink) Pending() bool { return l.Tail > l.Acked }

// WakeRef names a wake. Whoever acts on one that is not the current one is fenced.
type WakeRef struct {
	Store        Store
	Subscription string
	Instance     uint64
	Generation   uint64
	WakeID       string
}

// Wake is what a worker is given: the streams of the subscription, those with work first, at most
// MaxWakeStreams of them, and no more than storage can ack in one commit.
type Wake struct {
	WakeRef
	Streams  []SubscriptionLink
	LeaseTTL time.Duration
}

// MaxWakeStreams is how many streams a wake lists. Those left out are listed by a later wake.
const MaxWakeStreams = 256

// WakeAck says that a stream has been worked on up to and including an entry.
type WakeAck struct {
	Path  string
	Acked Sequence
}

// WebhookDelivery is one attempt to deliver a wake.
type WebhookDelivery struct {
	Wake
	URL, Base    string
	Failures     int
	FailingSince time.Time
}

// WebhookPending is a wake to be delivered, at Due.
type WebhookPending struct {
	Store        Store
	Subscription string
	Generation   uint64
	URL          string
	Due          time.Time
}

// WebhookResult is what became of an attempt.
type WebhookResult int

// The results.
const (
	// WebhookDone: the receiver has worked on everything that the delivery listed.
	WebhookDone WebhookResult = iota
	// WebhookAccepted: the receiver will call back before the lease ends.
	WebhookAccepted
	// WebhookRetry: another attempt is made at NextAttempt.
	WebhookRetry
	// WebhookParked: no further attempt is made until somebody asks for it.
	WebhookParked
)

// WebhookOutcome is what is kept of an attempt.
type WebhookOutcome struct {
	Result       WebhookResult
	Status       int
	Reason       string
	Failures     int
	FailingSince time.Time
	NextAttempt  time.Time
}

var (
	// ErrFenced: the wake is not the current one any more.
	ErrFenced = errors.New("runnel: fenced")
	// ErrNoWork: the subscription has nothing to claim.
	ErrNoWork = errors.New("runnel: no pending work")
	// ErrSubscriptionLimit: the store has as many subscriptions as it may have.
	ErrSubscriptionLimit = errors.New("runnel: too many subscriptions")
	// ErrAck: an ack names a place that it cannot move to.
	ErrAck = errors.New("runnel: ack refused")
)

// SubscriptionExistsError names a subscription of another configuration. It matches ErrExists.
type SubscriptionExistsError struct{ ID string }

func (e *SubscriptionExistsError) Error() string {
	return fmt.Sprintf("runnel: subscription %s exists with another configuration", quote(e.ID))
}

func (e *SubscriptionExistsError) Is(target error) bool { return target == ErrExists }

// SubscriptionLimitError says how many subscriptions a store may have. It matches ErrSubscriptionLimit.
type SubscriptionLimitError struct{ Limit int }

func (e *SubscriptionLimitError) Error() string {
	return fmt.Sprintf("runnel: the store has as many subscriptions as it may have, %d", e.Limit)
}

func (e *SubscriptionLimitError) Is(target error) bool { return target == ErrSubscriptionLimit }

// SubscriptionNotFoundError names the subscription that does not exist. It matches ErrNotFound.
type SubscriptionNotFoundError struct{ ID string }

func (e *SubscriptionNotFoundError) Error() string {
	return fmt.Sprintf("runnel: subscription %s not found", quote(e.ID))
}

func (e *SubscriptionNotFoundError) Is(target error) bool { return target == ErrNotFound }

// WakeHeldError says who has claimed the wake. It matches ErrLeaseHeld.
type WakeHeldError struct {
	Subscription, Holder string
	Generation           uint64
}

func (e *WakeHeldError) Error() string {
	return fmt.Sprintf("runnel: wake %d of subscription %s is claimed by %s", e.Generation, quote(e.Subscription), quote(e.Holder))
}

func (e *WakeHeldError) Is(target error) bool { return target == ErrLeaseHeld }

// AckError says why an ack is refused. It matches ErrAck.
type AckError struct{ Path, Rule string }

func (e *AckError) Error() string {
	return fmt.Sprintf("runnel: ack of stream %s %s", quote(e.Path), e.Rule)
}

func (e *AckError) Is(target error) bool { return target == ErrAck }

// MatchPattern tells whether a pattern of a subscription matches a path.
func MatchPattern(pattern, path string) bool {
	return matchElements(strings.Split(pattern, "/"), strings.Split(path, "/"))
}

// matchElements keeps the last ** to come back to, so that the work is at most the product of the two.
func matchElements(pattern, path []string) bool {
	p, s, star, from := 0, 0, -1, 0
	for s < len(path) {
		switch {
		case p < len(pattern) && pattern[p] == "**":
			star, from = p, s
			p++
		case p < len(pattern) && (pattern[p] == "*" || pattern[p] == path[s]):
			p++
			s++
		case star >= 0:
			from++
			p, s = star+1, from
		default:
			return false
		}
	}
	for p < len(pattern) && pattern[p] == "**" {
		p++
	}
	return p == len(pattern)
}
