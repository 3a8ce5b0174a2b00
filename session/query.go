package session

import (
	"context"
	"iter"
	"slices"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/session/internal/pb"
)

// Query reads entries, and follows what is appended if asked to. After the connection was lost it goes on
// behind the last batch that was handed over.
func (c *Client) Query(ctx context.Context, q runnel.Query) iter.Seq2[runnel.SpaceBatch, error] {
	return func(yield func(runnel.SpaceBatch, error) bool) {
		if err := q.Validate(); err != nil {
			yield(runnel.SpaceBatch{}, err)
			return
		}
		p := progress{q: q}
		p.q.Sources = slices.Clone(q.Sources)
		done := false
		err := c.stream(ctx, flow{
			endless: q.Follow,
			request: p.request,
			take: func(resp *pb.Response) (bool, error) {
				if m := resp.GetStarted(); m != nil {
					p.started(m)
					return true, nil
				}
				b, err := getBatch(resp.GetBatch())
				if err != nil {
					return false, err
				}
				p.handed(&b)
				done = !yield(b, nil)
				return !done && !p.over, nil
			},
		})
		if err != nil && !done {
			yield(runnel.SpaceBatch{}, err)
		}
	}
}

// progress is what is left of a query.
type progress struct {
	q     runnel.Query
	begun bool // something was handed over
	over  bool // nothing is left
}

// request asks for the rest.
func (p *progress) request() (*pb.Request, error) {
	if p.over {
		return nil, nil
	}
	if p.begun && p.q.Backwards && p.q.Last > 0 && !p.q.Filter.IsZero() {
		return nil, &runnel.UnavailableError{
			Reason: "the connection was lost, and a query for the last entries, backwards and through a filter, cannot be gone on with",
		}
	}
	return &pb.Request{Operation: &pb.Request_Query_{Query: putQuery(&p.q)}}, nil
}

// started learns where the query begins.
func (p *progress) started(m *pb.Started) {
	if sources := getSources(m.Sources); len(sources) == len(p.q.Sources) {
		p.q.Sources = sources
	}
	p.q.Through = m.Through
}

// handed takes a batch off what is left.
func (p *progress) handed(b *runnel.SpaceBatch) {
	p.begun = true
	n := uint64(b.Len())
	last := b.Entry(b.Len() - 1)
	s := p.source(b)
	place := uint64(last.Position)
	if s.Segment != "" {
		place = uint64(last.Sequence)
	}
	if p.q.Backwards {
		p.q.Through = place - 1
		p.over = place <= 1
		if p.q.Last > 0 {
			p.over = p.over || p.q.Filter.IsZero() && n >= p.q.Last
			p.q.Last -= min(n, p.q.Last-1)
		}
	} else {
		s.After = place
	}
	if p.q.Limit > 0 {
		p.over = p.over || n >= p.q.Limit
		p.q.Limit -= min(n, p.q.Limit-1)
	}
}

// source is where a batch comes from.
func (p *progress) source(b *runnel.SpaceBatch) *runnel.Source {
	for i := range p.q.Sources {
		if s := &p.q.Sources[i]; s.Space == b.Segment.In() {
			return s
		}
	}
	return &p.q.Sources[0]
}
