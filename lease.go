package runnel

import (
	"fmt"
	"time"
)

// Limits of leases.
const (
	// MaxLeaseBytes is the longest key and the longest holder of a lease, in bytes.
	MaxLeaseBytes = 256
	// MaxLeaseMetadataBytes bounds the names and values of a lease's metadata together.
	MaxLeaseMetadataBytes = 4 << 10
	// MinLeaseTTL and MaxLeaseTTL bound how long a lease is given for at a time.
	MinLeaseTTL = 100 * time.Millisecond
	MaxLeaseTTL = 24 * time.Hour
)

// LeaseSubject is the name in a lease's metadata under which access control keeps the subject that has the
// lease. Holders of one name but under different subjects are different holders.
const LeaseSubject = "runnel.subject"

// Lease is a claim on a key of a space, until a deadline. It is durable: it outlives the process that
// gave it.
type Lease struct {
	Space Space
	Key   string
	// Holder says who has it.
	Holder string
	// Number is the fencing number. It is greater than that of every lease that was given on a key of the
	// space before.
	Number uint64
	// Granted and Deadline are times of the server's clock. A holder should go by its own: the lease is
	// its for TTL after it sent the request.
	Granted  time.Time
	Deadline time.Time
	TTL      time.Duration
	Metadata map[string]string
}

// Fence is the fencing number of a lease.
func (l Lease) Fence() Fence { return Fence{Key: l.Key, Number: l.Number} }

// LeaseRequest asks for a lease.
type LeaseRequest struct {
	// Key is not empty, is UTF-8, and has at most MaxLeaseBytes bytes.
	Key string
	// Holder is who asks; the rules are those of Key. One who asks for a lease that it holds is given a
	// new one, and the number of the old one is good for nothing any more.
	Holder string
	// TTL is between MinLeaseTTL and MaxLeaseTTL.
	TTL time.Duration
	// Wait lets the request wait, until its context ends, for a lease that somebody else holds. Without
	// it such a request fails with ErrLeaseHeld. One that is given up just as the lease comes free may still
	// be given it, which then lasts for its TTL.
	Wait     bool
	Metadata map[string]string
}

// Fence demands that a lease is held, under that number, when a commit is made.
type Fence struct {
	Key    string
	Number uint64
}

// LeaseHeldError says who holds the lease, and until when. It matches ErrLeaseHeld.
type LeaseHeldError struct {
	Lease Lease
}

func (e *LeaseHeldError) Error() string {
	return fmt.Sprintf("runnel: lease %s is held by %s until %s", quote(e.Lease.Key), quote(e.Lease.Holder), e.Lease.Deadline.Format(time.RFC3339Nano))
}

func (e *LeaseHeldError) Is(target error) bool { return target == ErrLeaseHeld }

// LeaseLostError says that a lease is not held under a number any more. It matches ErrLeaseLost.
type LeaseLostError struct {
	Key    string
	Number uint64
	// Current is the number under which the lease is held now, 0 if nobody holds it.
	Current uint64
}

func (e *LeaseLostError) Error() string {
	if e.Current == 0 {
		return fmt.Sprintf("runnel: lease %s is not held under number %d any more, nor by anybody else", quote(e.Key), e.Number)
	}
	return fmt.Sprintf("runnel: lease %s is not held under number %d any more, but under %d", quote(e.Key), e.Number, e.Current)
}

func (e *LeaseLostError) Is(target error) bool { return target == ErrLeaseLost }

// LeaseEvent is what one who watches leases is told.
type LeaseEvent struct {
	Lease Lease
	// Gone says that the lease is not held any more: it was released, its time is over, or the key was
	// given under another number, of which the next event tells.
	Gone bool
	// Live is false for what was held when the watching began.
	Live bool
	// Mark says that this is about no lease: everything that was held has been told.
	Mark bool
}
