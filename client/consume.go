package client

import (
	"context"
	"iter"

	"github.com/runnelhq/runnel"
)

// Entry is an entry with the segment that it belongs to.
type Entry struct {
	runnel.Entry
	Segment runnel.Segment
	// ID is the incarnation of the segment.
	ID uint64
}

// Segment is a query of a segment after a place: 0 is the beginning, and runnel.Latest the end.
func Segment(segment runnel.Segment, after runnel.Sequence) runnel.Query {
	return runnel.Query{Sources: []runnel.Source{{Space: segment.In(), Segment: segment.Name, After: uint64(after)}}}
}

// Space is a query of the timeline of a space after a place: 0 is the beginning, and
// runnel.LatestPosition the end.
func Space(space runnel.Space, after runnel.Position) runnel.Query {
	return runnel.Query{Sources: []runnel.Source{{Space: space, After: uint64(after)}}}
}

// Spaces is a query of several spaces, from their beginnings, merged by time.
func Spaces(spaces ...runnel.Space) runnel.Query {
	q := runnel.Query{Sources: make([]runnel.Source, len(spaces))}
	for i, space := range spaces {
		q.Sources[i].Space = space
	}
	return q
}

// Consume yields the entries that a query selects, one by one. It ends with what there is at the moment,
// unless the query follows. An error is the last thing it yields: a sequence that ends without one is
// complete.
func (c *Client) Consume(ctx context.Context, q runnel.Query) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		for b, err := range c.Query(ctx, q) {
			if err != nil {
				yield(Entry{}, err)
				return
			}
			for i := range b.Len() {
				if !yield(Entry{Entry: b.Entry(i), Segment: b.Segment, ID: b.ID}, nil) {
					return
				}
			}
		}
	}
}

// Tail is Consume of a query that follows: what there is, and then each entry as it becomes durable,
// without a seam.
func (c *Client) Tail(ctx context.Context, q runnel.Query) iter.Seq2[Entry, error] {
	q.Follow = true
	return c.Consume(ctx, q)
}
