package runnel

import (
	"errors"
	"fmt"
	"strconv"
	"time"
)

// Every failure that a caller can act on matches one of these with errors.Is. Most come as a type that
// also carries the numbers.
var (
	// ErrInvalid: the request breaks a rule whatever the state of the log is.
	ErrInvalid = errors.New("runnel: invalid request")
	// ErrTooLarge: a body, a batch or a name is over a limit. It is an ErrInvalid too.
	ErrTooLarge = errors.New("runnel: too large")
	// ErrNotFound: there is no such segment, or it has expired.
	ErrNotFound = errors.New("runnel: not found")
	// ErrSoftDeleted: the segment was deleted, and its name is held back while forks read its data.
	ErrSoftDeleted = errors.New("runnel: deleted, but still read by forks")
	// ErrExists: the name is taken by a segment of another configuration.
	ErrExists = errors.New("runnel: exists with another configuration")
	// ErrClosed: the segment takes no more entries.
	ErrClosed = errors.New("runnel: closed")
	// ErrContentType: the content type is not the segment's.
	ErrContentType = errors.New("runnel: content type differs")
	// ErrStreamSeq: the writer's sequence string does not increase.
	ErrStreamSeq = errors.New("runnel: stream sequence does not increase")
	// ErrProducerFenced: a newer epoch of the producer has written.
	ErrProducerFenced = errors.New("runnel: producer epoch is stale")
	// ErrProducerGap: an earlier write of the producer has not arrived.
	ErrProducerGap = errors.New("runnel: producer sequence has a gap")
	// ErrTailMoved: the tail is not where the append expects it.
	ErrTailMoved = errors.New("runnel: tail moved")
	// ErrItemMoved: the item is not at the version that the write expects.
	ErrItemMoved = errors.New("runnel: item moved")
	// ErrTrimmed: retention has dropped entries that the read asks for.
	ErrTrimmed = errors.New("runnel: no longer retained")
	// ErrBeyondTail: the place has not been written yet.
	ErrBeyondTail = errors.New("runnel: beyond the tail")
	// ErrCursorMoved: the cursor is not where the move expects it, or beyond where it would go.
	ErrCursorMoved = errors.New("runnel: cursor moved")
	// ErrLeaseHeld: somebody else holds the lease.
	ErrLeaseHeld = errors.New("runnel: lease is held")
	// ErrLeaseLost: the lease is not held under that number any more.
	ErrLeaseLost = errors.New("runnel: lease lost")
	// ErrUnauthorized: it is not known who asks, or not any more.
	ErrUnauthorized = errors.New("runnel: unauthorized")
	// ErrForbidden: who asks may not do this.
	ErrForbidden = errors.New("runnel: forbidden")
	// ErrKeyReused: the idempotency key was used for another write.
	ErrKeyReused = errors.New("runnel: idempotency key reused")
	// ErrUnknown: the write may or may not have happened. It stays what it turned out to be; a retry with
	// a producer or an expected tail finds out.
	ErrUnknown = errors.New("runnel: outcome unknown")
	// ErrUnavailable: the log takes no writes for now; nothing was written and a retry may succeed.
	ErrUnavailable = errors.New("runnel: unavailable")
	// ErrStorageFull: storage has too little space left for the write; nothing was written, and a retry
	// succeeds once there is more. What gives space back is taken for longer. It is an ErrUnavailable too.
	ErrStorageFull = errors.New("runnel: storage full")
	// ErrFailed: the storage failed in a way that a retry cannot mend. Nothing is acknowledged any more
	// until the process is started again.
	ErrFailed = errors.New("runnel: storage failed")
	// ErrShutdown: the engine is closing.
	ErrShutdown = errors.New("runnel: shutting down")
)

// NameError says which rule a name breaks.
type NameError struct {
	Kind string // "store", "space", "segment" or "path"
	Name string
	Rule string
}

func (e *NameError) Error() string {
	return fmt.Sprintf("runnel: %s name %s %s", e.Kind, quote(e.Name), e.Rule)
}

func (e *NameError) Is(target error) bool { return target == ErrInvalid }

func (e *OffsetError) Is(target error) bool { return target == ErrInvalid }

// InvalidError says which argument breaks which rule.
type InvalidError struct {
	What string
	Rule string
}

func (e *InvalidError) Error() string { return "runnel: " + e.What + " " + e.Rule }

func (e *InvalidError) Is(target error) bool { return target == ErrInvalid }

// TooLargeError says what is over which limit. Sizes are in bytes unless What says otherwise; Got is 0
// when reading stopped at the limit.
type TooLargeError struct {
	What  string
	Limit int64
	Got   int64
}

func (e *TooLargeError) Error() string {
	if e.Got == 0 {
		return fmt.Sprintf("runnel: %s is larger than the limit of %d bytes", e.What, e.Limit)
	}
	return fmt.Sprintf("runnel: %s has %d bytes, the limit is %d", e.What, e.Got, e.Limit)
}

func (e *TooLargeError) Is(target error) bool { return target == ErrTooLarge || target == ErrInvalid }

// NotFoundError names the segment that does not exist.
type NotFoundError struct{ Segment Segment }

func (e *NotFoundError) Error() string {
	return fmt.Sprintf("runnel: segment %s not found", quote(e.Segment.String()))
}

func (e *NotFoundError) Is(target error) bool { return target == ErrNotFound }

// SoftDeletedError names the segment whose data is only kept for its forks.
type SoftDeletedError struct{ Segment Segment }

func (e *SoftDeletedError) Error() string {
	return fmt.Sprintf("runnel: segment %s is deleted; its data is kept only for its forks", quote(e.Segment.String()))
}

func (e *SoftDeletedError) Is(target error) bool { return target == ErrSoftDeleted }

// ExistsError says in what an existing segment differs from the one asked for. The Field is empty where no segment
// was to be there.
type ExistsError struct {
	Segment Segment
	Field   string // "content type", "ttl", "expiry", "retention", "closed", "fork" or ""
	Have    string
	Want    string
}

func (e *ExistsError) Error() string {
	if e.Field == "" {
		return fmt.Sprintf("runnel: segment %s exists, and was expected not to", quote(e.Segment.String()))
	}
	return fmt.Sprintf("runnel: segment %s exists with %s %s, not %s", quote(e.Segment.String()), e.Field, e.Have, e.Want)
}

func (e *ExistsError) Is(target error) bool { return target == ErrExists }

// ClosedError says where the closed segment ends.
type ClosedError struct {
	Segment Segment
	Tail    Sequence
}

func (e *ClosedError) Error() string {
	return fmt.Sprintf("runnel: segment %s is closed at %d", quote(e.Segment.String()), e.Tail)
}

func (e *ClosedError) Is(target error) bool { return target == ErrClosed }

// ContentTypeError says which type the segment has.
type ContentTypeError struct {
	Segment Segment
	Have    string
	Got     string
}

func (e *ContentTypeError) Error() string {
	return fmt.Sprintf("runnel: segment %s has content type %s, not %s", quote(e.Segment.String()), quote(e.Have), quote(e.Got))
}

func (e *ContentTypeError) Is(target error) bool { return target == ErrContentType }

// StreamSeqError says which writer sequence was accepted last.
type StreamSeqError struct {
	Segment Segment
	Last    string
	Got     string
}

func (e *StreamSeqError) Error() string {
	return fmt.Sprintf("runnel: stream sequence %s is not greater than the last one, %s", quote(e.Got), quote(e.Last))
}

func (e *StreamSeqError) Is(target error) bool { return target == ErrStreamSeq }

// ProducerFencedError says which epoch the producer has reached.
type ProducerFencedError struct {
	Producer string
	Epoch    uint64 // the current one
	Got      uint64
}

func (e *ProducerFencedError) Error() string {
	return fmt.Sprintf("runnel: producer %s is at epoch %d, got %d", quote(e.Producer), e.Epoch, e.Got)
}

func (e *ProducerFencedError) Is(target error) bool { return target == ErrProducerFenced }

// ProducerGapError says which sequence of the producer must come next.
type ProducerGapError struct {
	Producer string
	Expected uint64
	Got      uint64
}

func (e *ProducerGapError) Error() string {
	return fmt.Sprintf("runnel: producer %s must continue at sequence %d, got %d", quote(e.Producer), e.Expected, e.Got)
}

func (e *ProducerGapError) Is(target error) bool { return target == ErrProducerGap }

// TailMovedError says where the tail is now, so that the caller can read up and retry.
type TailMovedError struct {
	Segment Segment
	Want    Sequence
	Tail    Sequence
}

func (e *TailMovedError) Error() string {
	return fmt.Sprintf("runnel: the tail of segment %s is %d, not %d", quote(e.Segment.String()), e.Tail, e.Want)
}

func (e *TailMovedError) Is(target error) bool { return target == ErrTailMoved }

// TrimmedError says from where the segment can still be read without a gap. Where the segment has no name it is
// the changes of items of the space that are not retained, and From and Earliest are positions.
type TrimmedError struct {
	Segment  Segment
	From     Sequence
	Earliest Sequence
}

func (e *TrimmedError) Error() string {
	if e.Segment.Name == "" {
		return fmt.Sprintf("runnel: changes of items after position %d of space %s are no longer retained; the earliest place to read from is %d", e.From, quote(e.Segment.Space), e.Earliest)
	}
	return fmt.Sprintf("runnel: entries after %d of segment %s are no longer retained; the earliest place to read from is %d", e.From, quote(e.Segment.String()), e.Earliest)
}

func (e *TrimmedError) Is(target error) bool { return target == ErrTrimmed }

// KeyReusedError says for which write of the segment an idempotency key was used first.
type KeyReusedError struct {
	Segment Segment
	Key     string
	First   Sequence
}

func (e *KeyReusedError) Error() string {
	return fmt.Sprintf("runnel: idempotency key %s of segment %s was used for other records, at %d", quote(e.Key), quote(e.Segment.String()), e.First)
}

func (e *KeyReusedError) Is(target error) bool { return target == ErrKeyReused }

// BeyondTailError says where the tail is.
type BeyondTailError struct {
	Segment Segment
	From    Sequence
	Tail    Sequence
}

func (e *BeyondTailError) Error() string {
	return fmt.Sprintf("runnel: place %d is beyond the tail of segment %s, which is %d", e.From, quote(e.Segment.String()), e.Tail)
}

func (e *BeyondTailError) Is(target error) bool { return target == ErrBeyondTail }

// UnauthorizedError says why it is not known who asks: there is no token, or it is not valid, or not any
// more. It matches ErrUnauthorized.
type UnauthorizedError struct {
	// Reason completes "the token …". It holds nothing of the token, and no secret. Empty if there is none.
	Reason string
}

func (e *UnauthorizedError) Error() string {
	if e.Reason == "" {
		return "runnel: unauthorized: a token is needed"
	}
	return "runnel: unauthorized: the token " + e.Reason
}

func (e *UnauthorizedError) Is(target error) bool { return target == ErrUnauthorized }

// ForbiddenError says what is not allowed, and what would allow it. It matches ErrForbidden.
type ForbiddenError struct {
	// Action is a verb, such as "append", and What the thing it was to be done to, such as "segment a/b".
	Action, What string
	// Scope would allow it, in the textual form that tokens carry.
	Scope string
}

func (e *ForbiddenError) Error() string {
	return fmt.Sprintf("runnel: forbidden: to %s %s needs the scope %s", e.Action, quote(e.What), quote(e.Scope))
}

func (e *ForbiddenError) Is(target error) bool { return target == ErrForbidden }

// UnavailableError says why, and when a retry is worth it.
type UnavailableError struct {
	Reason     string
	RetryAfter time.Duration
}

func (e *UnavailableError) Error() string { return "runnel: unavailable: " + e.Reason }

func (e *UnavailableError) Is(target error) bool { return target == ErrUnavailable }

// StorageFullError says why there is too little space, in bytes: what is free, less what the write may
// take, would be less than what is kept free. Need is 0 where no write is taken, however small.
type StorageFullError struct {
	Free, Keep, Need int64
}

func (e *StorageFullError) Error() string {
	s := fmt.Sprintf("runnel: storage is full: %d bytes are free, %d must stay free", e.Free, e.Keep)
	if e.Need > 0 {
		s += fmt.Sprintf(", and the write may take %d", e.Need)
	}
	return s
}

func (e *StorageFullError) Is(target error) bool {
	return target == ErrStorageFull || target == ErrUnavailable
}

// quote shows a name from outside in a message: escaped, and cut so that the message stays short.
func quote(s string) string {
	const most = 64
	if len(s) > most {
		return strconv.Quote(s[:most]) + "…"
	}
	return strconv.Quote(s)
}
