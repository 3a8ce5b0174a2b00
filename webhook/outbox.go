package webhook

import (
	"context"
	"errors"
	"iter"
	"time"
)

// MaxStreams is how many streams one delivery tells of at most. Those with something pending come first;
// what is left out is told by the wake after.
const MaxStreams = 256

// ErrGone is what an [Outbox] answers about a delivery that is not, or not any more, this process's to make.
var ErrGone = errors.New("webhook: the delivery is not there")

// Outbox keeps the wakes that are to be delivered, durably. A subscription has at most one at a time. Several
// processes may share what is behind it.
type Outbox interface {
	// Pending yields what is to be delivered: first what there is, then each one that appears, that is to be
	// tried again, or whose claim has run out. It may repeat itself. It ends with ctx or an error, and is
	// then begun again.
	Pending(ctx context.Context) iter.Seq2[Pending, error]
	// Claim makes a delivery this process's until a moment, durably. It fails with ErrGone if it is not to
	// be made, not yet, or is claimed by somebody else.
	Claim(ctx context.Context, key Key, until time.Time) (Delivery, error)
	// Settle stores the outcome of a delivery that was claimed, and ends the claim. It fails with ErrGone
	// if the wake is not current any more; then the outcome does not count.
	Settle(ctx context.Context, d Delivery, o Outcome) error
}

// Pending says that a subscription has a delivery to be made.
type Pending struct {
	Key
	URL string
	// Due is when it may be made. The zero time is at once.
	Due        time.Time
	Generation uint64
}

// Delivery is a wake to be sent.
type Delivery struct {
	Wake
	URL         string
	Streams     []Stream
	CallbackURL string
	// LeaseTTL bounds one attempt. 0: only the configuration does.
	LeaseTTL time.Duration
	// Failures is how many attempts have failed since one succeeded, and FailingSince when the first did.
	Failures     int
	FailingSince time.Time
}

// Result is what comes of an attempt.
type Result uint8

// The results of an attempt.
const (
	// Done: the receiver has processed everything that it was told of.
	Done Result = iota + 1
	// Accepted: the receiver has the wake and is going to call back.
	Accepted
	// Retry: the attempt failed and is to be repeated.
	Retry
	// Parked: the attempt failed and is not to be repeated until somebody says so.
	Parked
)

func (r Result) String() string {
	switch r {
	case Done:
		return "done"
	case Accepted:
		return "accepted"
	case Retry:
		return "retry"
	case Parked:
		return "parked"
	}
	return "none"
}

// Outcome is what an outbox stores about an attempt.
type Outcome struct {
	Result Result
	// Status is that of the answer; 0 if there was none.
	Status int
	// Reason says why the attempt failed, in printable text of at most MaxReasonBytes. It holds nothing
	// that the receiver sent.
	Reason string
	// Failures and FailingSince are those of the next Delivery, and Next is when it is due, for Retry.
	Failures     int
	FailingSince time.Time
	Next         time.Time
}

// MaxReasonBytes is the longest reason of an outcome, in bytes.
const MaxReasonBytes = 256
