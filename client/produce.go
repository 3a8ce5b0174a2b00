package client

import (
	"context"

	"github.com/runnelhq/runnel"
)

// Expect is a condition on a segment. The zero Expect is Any.
type Expect struct {
	kind expectation
	at   runnel.Sequence
}

type expectation uint8

const (
	expectAny expectation = iota
	expectNone
	expectExists
	expectAt
)

// Any expects nothing: the segment is made when there is none.
func Any() Expect { return Expect{} }

// None expects that there is no such segment, and makes it. Otherwise the write fails with
// runnel.ErrExists.
func None() Expect { return Expect{kind: expectNone} }

// Exists expects that there is such a segment. Otherwise the write fails with runnel.ErrNotFound.
func Exists() Expect { return Expect{kind: expectExists} }

// At expects the last entry of the segment to be this one; 0 is met by an empty segment, and by none,
// which is then made. Otherwise the write fails with a [*runnel.TailMovedError].
func At(tail runnel.Sequence) Expect { return Expect{kind: expectAt, at: tail} }

// Production says how records are written. The zero Production writes them whatever there is, and makes
// the segment when there is none.
type Production struct {
	Expect Expect
	// Key makes the write idempotent: an event's id, for example. See runnel.AppendOptions.
	Key string
	// Producer makes the write idempotent; nil for none.
	Producer *runnel.Producer
	// Create says what a segment that is made becomes. Its Records, Closed and Fork must be zero.
	Create runnel.CreateOptions
	// Close lets no entry follow.
	Close bool
}

// Options are the same for an append, or for a write of a runnel.Transaction.
func (p Production) Options() runnel.AppendOptions {
	o := runnel.AppendOptions{Key: p.Key, Producer: p.Producer, Close: p.Close}
	switch p.Expect.kind {
	case expectExists:
		return o
	case expectNone:
		o.Absent = true
	case expectAt:
		at := p.Expect.at
		o.Expect = &at
		if at > 0 {
			return o
		}
	case expectAny:
	}
	create := p.Create
	o.Create = &create
	return o
}

// Publish appends records, and makes the segment when there is none. The records get the sequences that
// follow, whoever else writes.
func (c *Client) Publish(ctx context.Context, segment runnel.Segment, records ...runnel.Record) (runnel.Appended, error) {
	return c.Produce(ctx, segment, Production{}, records...)
}

// Produce appends records under a condition. They are all durable when it returns, or none is written.
func (c *Client) Produce(ctx context.Context, segment runnel.Segment, p Production, records ...runnel.Record) (runnel.Appended, error) {
	return c.Append(ctx, segment, p.Options(), records...)
}

// ProduceAt appends records under sequences that the caller gives: the first one gets the sequence first,
// which must be the next of the segment, and the others those that follow. Otherwise it fails with a
// [*runnel.TailMovedError] that says where the tail is, and writes nothing. Of several callers with the
// same sequence one wins.
func (c *Client) ProduceAt(ctx context.Context, segment runnel.Segment, first runnel.Sequence, records ...runnel.Record) (runnel.Appended, error) {
	if first == 0 {
		return runnel.Appended{}, &runnel.InvalidError{What: "sequence", Rule: "must be at least 1"}
	}
	return c.Produce(ctx, segment, Production{Expect: At(first - 1)}, records...)
}
