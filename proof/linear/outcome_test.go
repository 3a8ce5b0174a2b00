package linear

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/durablestreams/dsclient"
	"github.com/runnelhq/runnel/wire"
)

// answer is what a client was told.
type answer struct {
	value   any     // of an operation that was done
	refused refusal // zero if it was not
	unknown bool    // it may have happened, or still happen
}

func (a answer) done() bool { return !a.unknown && a.refused == refusal{} }

func (a answer) String() string {
	switch {
	case a.unknown:
		return "unknown"
	case a.refused != refusal{}:
		return a.refused.String()
	}
	return fmt.Sprintf("%v", a.value)
}

// refusal is a definite no, with the number that the error carries: what it says of the state.
type refusal struct {
	kind   string
	number uint64
}

func (r refusal) String() string { return fmt.Sprintf("%s %d", r.kind, r.number) }

// The kinds of refusals, as the counters print them.
const (
	notFound    = "not found"
	softDeleted = "soft-deleted"
	exists      = "exists differently"
	closedAt    = "closed at"
	tailMoved   = "tail moved to"
	beyondTail  = "beyond tail"
	fenced      = "fenced by epoch"
	gap         = "gap before"
	invalid     = "invalid"
	itemMoved   = "item moved to"
	keyReused   = "idempotency key reused"
	leaseHeld   = "held under"
	leaseLost   = "lost to"
	cursorAt    = "cursor at"
)

// refusalOf reads a refusal from an error of the engine or of the client over HTTP.
func refusalOf(err error) (refusal, bool) {
	if r, ok := refusalOverHTTP(err); ok {
		return r, true
	}
	if r, ok := refusalOfItems(err); ok {
		return r, true
	}
	var closed *runnel.ClosedError
	var moved *runnel.TailMovedError
	var beyond *runnel.BeyondTailError
	var fence *runnel.ProducerFencedError
	var missing *runnel.ProducerGapError
	var item *runnel.ItemMovedError
	var held *runnel.LeaseHeldError
	var lost *runnel.LeaseLostError
	var at *runnel.CursorMovedError
	switch {
	case errors.As(err, &item):
		return refusal{itemMoved, uint64(item.Have)}, true
	case errors.As(err, &closed):
		return refusal{closedAt, uint64(closed.Tail)}, true
	case errors.As(err, &moved):
		return refusal{tailMoved, uint64(moved.Tail)}, true
	case errors.As(err, &beyond):
		return refusal{beyondTail, uint64(beyond.Tail)}, true
	case errors.As(err, &fence):
		return refusal{fenced, fence.Epoch}, true
	case errors.As(err, &missing):
		return refusal{gap, missing.Expected}, true
	case errors.As(err, &held):
		return refusal{leaseHeld, held.Lease.Number}, true
	case errors.As(err, &lost):
		return refusal{leaseLost, lost.Current}, true
	case errors.As(err, &at):
		return refusal{cursorAt, at.Place}, true
	}
	for _, plain := range [...]struct {
		err  error
		kind string
	}{
		{runnel.ErrNotFound, notFound},
		{runnel.ErrSoftDeleted, softDeleted},
		{runnel.ErrExists, exists},
		{runnel.ErrInvalid, invalid},
		{runnel.ErrKeyReused, keyReused},
	} {
		if errors.Is(err, plain.err) {
			return refusal{kind: plain.kind}, true
		}
	}
	return refusal{}, false
}

func refusalOverHTTP(err error) (refusal, bool) {
	e, ok := errors.AsType[*dsclient.Error](err)
	if !ok {
		return refusal{}, false
	}
	d := e.Detail
	tail, terr := runnel.ParseOffset(d.NextOffset)
	switch {
	case d.Code == wire.CodePrecondition && terr != nil:
		return refusal{kind: notFound}, true // If-Match needs a stream
	case d.Code == wire.CodePrecondition:
		return refusal{tailMoved, uint64(tail)}, true
	case d.Code == wire.CodeClosed && terr == nil:
		return refusal{closedAt, uint64(tail)}, true
	case d.Code == wire.CodeBeyondTail && terr == nil:
		return refusal{beyondTail, uint64(tail)}, true
	case d.Code == wire.CodeProducerFenced && d.Epoch != nil:
		return refusal{fenced, *d.Epoch}, true
	case d.Code == wire.CodeProducerGap && d.ExpectedSeq != nil:
		return refusal{gap, *d.ExpectedSeq}, true
	}
	return refusal{}, false
}

// refusalOfItems reads a refusal from an answer of a server of items.
func refusalOfItems(err error) (refusal, bool) {
	e, ok := errors.AsType[*wire.Error](err)
	if !ok {
		return refusal{}, false
	}
	switch d := e.Detail; d.Code {
	case wire.CodePrecondition:
		have, err := strconv.ParseUint(d.Have, 10, 64)
		return refusal{itemMoved, have}, err == nil
	case "idempotency_key_reused":
		return refusal{kind: keyReused}, true
	default:
		return refusal{}, false
	}
}

// verdict is what an error leaves open.
type verdict int

const (
	definite verdict = iota
	unknown
	void // nothing was written, and nothing was learned
)

// judge reads an error by what its documentation promises. Over HTTP an answer that never came leaves
// everything open, and so does a defect of the server.
func judge(err error, overHTTP bool) (refusal, verdict) {
	if err == nil {
		return refusal{}, definite
	}
	if r, ok := refusalOf(err); ok {
		return r, definite
	}
	if errors.Is(err, runnel.ErrUnavailable) || errors.Is(err, runnel.ErrShutdown) {
		return refusal{}, void
	}
	if overHTTP || errors.Is(err, runnel.ErrUnknown) || errors.Is(err, runnel.ErrFailed) {
		return refusal{}, unknown
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, errNoAnswer) {
		return refusal{}, void // before anything was staged
	}
	panic(fmt.Sprintf("an error of no known meaning: %v (%s)", err, strings.TrimSpace(fmt.Sprintf("%T", err))))
}
