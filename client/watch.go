package client

import (
	"context"
	"iter"

	"github.com/runnelhq/runnel"
)

// WatchSegment yields the status of one segment: what it is, if it is there, then a mark, and then each
// change, of which a slow watcher is told the latest. See WatchSegments for several by the beginning of
// their paths, and for what is told.
func (c *Client) WatchSegment(ctx context.Context, segment runnel.Segment) iter.Seq2[runnel.Status, error] {
	if err := segment.Validate(); err != nil { // its path may be that of another one
		return func(yield func(runnel.Status, error) bool) { yield(runnel.Status{}, err) }
	}
	return c.WatchSegments(ctx, segment.Store, runnel.SegmentWatch{Prefix: segment.Path(), Exact: true})
}

// WatchSpace is WatchSegment of all segments of a space, however many there are. Those of spaces below it are
// not among them.
func (c *Client) WatchSpace(ctx context.Context, space runnel.Space) iter.Seq2[runnel.Status, error] {
	return c.WatchSegments(ctx, space.Store, runnel.SegmentWatch{Prefix: within(space), Direct: true})
}

// Segments yields the segments of a space whose names have a prefix, in the order of their names, behind one.
func (c *Client) Segments(ctx context.Context, space runnel.Space, prefix, after string) iter.Seq2[runnel.Info, error] {
	o := runnel.ListOptions{Prefix: within(space) + prefix, Direct: true}
	if after != "" {
		o.After = within(space) + after
	}
	return c.List(ctx, space.Store, o)
}

// within is what the paths of the segments of a space begin with.
func within(space runnel.Space) string {
	if space.Name == "" {
		return ""
	}
	return space.Name + "/"
}
