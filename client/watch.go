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
	return c.watch(ctx, segment.Store, segment.Path(), func(s runnel.Segment) bool { return s == segment })
}

// WatchSpace is WatchSegment of all segments of a space, however many there are.
func (c *Client) WatchSpace(ctx context.Context, space runnel.Space) iter.Seq2[runnel.Status, error] {
	prefix := space.Name
	if prefix != "" {
		prefix += "/"
	}
	return c.watch(ctx, space.Store, prefix, func(s runnel.Segment) bool { return s.In() == space })
}

// watch yields the statuses of those segments with a prefix that are meant.
func (c *Client) watch(ctx context.Context, store runnel.Store, prefix string, meant func(runnel.Segment) bool) iter.Seq2[runnel.Status, error] {
	return func(yield func(runnel.Status, error) bool) {
		for s, err := range c.WatchSegments(ctx, store, prefix) {
			if err == nil && !s.Mark && !meant(s.Info.Segment) {
				continue
			}
			if !yield(s, err) || err != nil {
				return
			}
		}
	}
}
