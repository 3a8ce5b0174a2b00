package auth

import (
	"bytes"
	"cmp"
	"context"
	"iter"
	"slices"
	"strings"

	"github.com/runnelhq/runnel"
)

// Stores yields the stores in which the principal may do something.
func (g *Guard) Stores(ctx context.Context, after runnel.Store) iter.Seq2[runnel.Store, error] {
	return following(ctx, known(ctx, nil), func(ctx context.Context) iter.Seq2[runnel.Store, error] {
		p := PrincipalOf(ctx)
		if slices.ContainsFunc(p.scopes, func(s Scope) bool { return s.AnyStore }) {
			return g.log.Stores(ctx, after)
		}
		return g.storesOf(ctx, p, after)
	})
}

// storesOf looks for each store that the scopes name, so that nobody walks through those of others.
func (g *Guard) storesOf(ctx context.Context, p *Principal, after runnel.Store) iter.Seq2[runnel.Store, error] {
	var stores []runnel.Store
	for _, s := range p.scopes {
		stores = append(stores, s.Store)
	}
	order := func(a, b runnel.Store) int { return bytes.Compare(a[:], b[:]) }
	slices.SortFunc(stores, order)
	stores = slices.Compact(stores)
	return func(yield func(runnel.Store, error) bool) {
		for _, store := range stores {
			if after != (runnel.Store{}) && order(store, after) <= 0 {
				continue
			}
			for _, err := range g.log.Spaces(ctx, store, "", "") { // one that is there is enough
				if !yield(store, err) || err != nil {
					return
				}
				break
			}
		}
	}
}

// Spaces yields the spaces of which everything may be read.
func (g *Guard) Spaces(ctx context.Context, store runnel.Store, prefix, after string) iter.Seq2[runnel.Space, error] {
	return following(ctx, known(ctx, nil), func(ctx context.Context) iter.Seq2[runnel.Space, error] {
		var parts []iter.Seq2[runnel.Space, error]
		for _, top := range PrincipalOf(ctx).reads(store) {
			within, ok := narrow(prefix, top)
			if !ok {
				continue
			}
			parts = append(parts, func(yield func(runnel.Space, error) bool) {
				for space, err := range g.log.Spaces(ctx, store, within, after) {
					if err == nil && !below(space.Name, top) {
						continue
					}
					if !yield(space, err) || err != nil {
						return
					}
				}
			})
		}
		return merged(func(a, b runnel.Space) int { return strings.Compare(a.Name, b.Name) }, parts)
	})
}

// narrow returns the longer of a prefix that is asked for and the top of what may be read, and false if
// nothing begins with both.
func narrow(prefix, top string) (string, bool) {
	switch {
	case strings.HasPrefix(top, prefix):
		return top, true
	case below(prefix, top):
		return prefix, true
	}
	return "", false
}

// List yields the segments that may be read. What lies between them is not walked through.
func (g *Guard) List(ctx context.Context, store runnel.Store, o runnel.ListOptions) iter.Seq2[runnel.Info, error] {
	return following(ctx, known(ctx, nil), func(ctx context.Context) iter.Seq2[runnel.Info, error] {
		var parts []iter.Seq2[runnel.Info, error]
		for _, top := range PrincipalOf(ctx).reads(store) {
			within, ok := narrow(o.Prefix, top)
			switch {
			case !ok:
			case o.Direct && !(runnel.SegmentWatch{Prefix: o.Prefix, Direct: true}).Match(within):
			case within == top && top != "":
				parts = append(parts, g.listBelow(ctx, store, o, top))
			default:
				part := o
				part.Prefix = within
				parts = append(parts, g.log.List(ctx, store, part))
			}
		}
		return limited(o.Limit, merged(func(a, b runnel.Info) int {
			return cmp.Or(strings.Compare(a.Segment.Space, b.Segment.Space), strings.Compare(a.Segment.Name, b.Segment.Name))
		}, parts))
	})
}

// listBelow yields the segment of a path, which comes before all that are below, and those.
func (g *Guard) listBelow(ctx context.Context, store runnel.Store, o runnel.ListOptions, top string) iter.Seq2[runnel.Info, error] {
	return func(yield func(runnel.Info, error) bool) {
		for info, err := range g.log.List(ctx, store, runnel.ListOptions{Prefix: top, After: o.After, Limit: 1}) {
			if (err != nil || info.Segment.Path() == top) && (!yield(info, err) || err != nil) {
				return
			}
		}
		if o.Direct {
			return
		}
		for info, err := range g.log.List(ctx, store, runnel.ListOptions{Prefix: top + "/", After: o.After, Limit: o.Limit}) {
			if !yield(info, err) || err != nil {
				return
			}
		}
	}
}

// limited yields no more than so many; 0 is no limit.
func limited[T any](most int, seq iter.Seq2[T, error]) iter.Seq2[T, error] {
	if most <= 0 {
		return seq
	}
	return func(yield func(T, error) bool) {
		left := most
		for v, err := range seq {
			if !yield(v, err) {
				return
			}
			if left--; left == 0 {
				return
			}
		}
	}
}

// merged yields what several sequences do, each of which is in order, in that order.
func merged[T any](order func(a, b T) int, parts []iter.Seq2[T, error]) iter.Seq2[T, error] {
	if len(parts) == 1 {
		return parts[0]
	}
	return func(yield func(T, error) bool) {
		type head struct {
			v    T
			next func() (T, error, bool)
		}
		var heads []head
		for _, part := range parts {
			next, stop := iter.Pull2(part)
			defer stop()
			v, err, ok := next()
			if err != nil {
				yield(v, err)
				return
			}
			if ok {
				heads = append(heads, head{v, next})
			}
		}
		for len(heads) > 0 {
			first := 0
			for i := range heads {
				if order(heads[i].v, heads[first].v) < 0 {
					first = i
				}
			}
			h := &heads[first]
			if !yield(h.v, nil) {
				return
			}
			v, err, ok := h.next()
			switch {
			case err != nil:
				yield(v, err)
				return
			case ok:
				h.v = v
			default:
				heads = slices.Delete(heads, first, first+1)
			}
		}
	}
}

// WatchSegments tells of the segments that may be read.
func (g *Guard) WatchSegments(ctx context.Context, store runnel.Store, w runnel.SegmentWatch) iter.Seq2[runnel.Status, error] {
	return following(ctx, known(ctx, nil), func(ctx context.Context) iter.Seq2[runnel.Status, error] {
		var tops []string
		common := ""
		for _, top := range PrincipalOf(ctx).reads(store) {
			within, ok := narrow(w.Prefix, top)
			switch {
			case !ok:
				continue
			case len(tops) == 0:
				common = within
			default:
				common = shared(common, within)
			}
			tops = append(tops, top)
		}
		if len(tops) == 0 || w.Exact {
			common = w.Prefix // and where nothing may be read, nothing is told of it
		}
		within := w
		within.Prefix = common
		return func(yield func(runnel.Status, error) bool) {
			for s, err := range g.log.WatchSegments(ctx, store, within) {
				if path := s.Info.Segment.Path(); err == nil && !s.Mark && !(w.Match(path) && covered(path, tops)) {
					continue
				}
				if !yield(s, err) || err != nil {
					return
				}
			}
		}
	})
}

// shared is what two texts both begin with.
func shared(a, b string) string {
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return a[:n]
}

func covered(path string, tops []string) bool {
	return slices.ContainsFunc(tops, func(top string) bool { return below(path, top) })
}

// Watch tells of the segments that may be read, and ends when the principal is not served any more. Where
// nobody is known to ask it ends at once.
func (g *Guard) Watch(ctx context.Context, store runnel.Store) iter.Seq[runnel.Event] {
	if known(ctx, nil) != nil {
		return func(func(runnel.Event) bool) {}
	}
	tops := PrincipalOf(ctx).reads(store)
	ctx, release := PrincipalOf(ctx).Bind(ctx)
	events := g.log.Watch(ctx, store) // listens from here on
	return func(yield func(runnel.Event) bool) {
		defer release()
		for event := range events {
			if covered(event.Info.Segment.Path(), tops) && (ctx.Err() != nil || !yield(event)) {
				return
			}
		}
	}
}
