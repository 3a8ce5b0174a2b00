package auth

import (
	"context"
	"iter"
	"maps"

	"github.com/runnelhq/runnel"
)

// Cursor needs read or write of the segment, or of the space; that of a subscription read of the store.
func (g *Guard) Cursor(ctx context.Context, name runnel.CursorName) (runnel.Cursor, error) {
	if err := mayDoAt(ctx, "look at a cursor of", Read|Write, name.Space, name.Segment); err != nil {
		return runnel.Cursor{}, err
	}
	if id, ok := name.Subscription(); ok {
		if err := mayWith(ctx, "look at the cursors of", Read, name.Space.Store, id); err != nil {
			return runnel.Cursor{}, err
		}
	}
	return g.log.Cursor(ctx, name)
}

// Cursors needs read of the segment, or of the space. It leaves those of subscriptions out unless there is read of
// the store.
func (g *Guard) Cursors(ctx context.Context, space runnel.Space, segment, prefix, after string) iter.Seq2[runnel.Cursor, error] {
	may := mayDoAt(ctx, "list the cursors of", Read, space, segment)
	return following(ctx, may, func(ctx context.Context) iter.Seq2[runnel.Cursor, error] {
		all := g.log.Cursors(ctx, space, segment, prefix, after)
		if mayWith(ctx, "list the cursors of", Read, space.Store, "") == nil {
			return all
		}
		return func(yield func(runnel.Cursor, error) bool) {
			for c, err := range all {
				if _, ok := c.Subscription(); ok && err == nil {
					continue
				}
				if !yield(c, err) {
					return
				}
			}
		}
	})
}

// DeleteCursor needs write of the segment, or of the space.
func (g *Guard) DeleteCursor(ctx context.Context, name runnel.CursorName) error {
	if err := mayDoAt(ctx, "delete a cursor of", Write, name.Space, name.Segment); err != nil {
		return err
	}
	return g.log.DeleteCursor(ctx, name)
}

// AcquireLease needs write of the space. The lease is the subject's: nobody else renews or releases it, or
// is given it under the same holder's name.
func (g *Guard) AcquireLease(ctx context.Context, space runnel.Space, q runnel.LeaseRequest) (runnel.Lease, error) {
	if err := mayDoIn(ctx, "acquire a lease of", Write, space); err != nil {
		return runnel.Lease{}, err
	}
	q.Metadata = maps.Clone(q.Metadata)
	if q.Metadata == nil {
		q.Metadata = make(map[string]string)
	}
	q.Metadata[runnel.LeaseSubject] = PrincipalOf(ctx).Subject()
	return bound(ctx, func(ctx context.Context) (runnel.Lease, error) { return g.log.AcquireLease(ctx, space, q) })
}

// RenewLease needs write of the space, and to be the subject that has the lease.
func (g *Guard) RenewLease(ctx context.Context, space runnel.Space, f runnel.Fence) (runnel.Lease, error) {
	if err := g.mayHold(ctx, "renew a lease of", space, f); err != nil {
		return runnel.Lease{}, err
	}
	return g.log.RenewLease(ctx, space, f)
}

// ReleaseLease needs write of the space, and to be the subject that has the lease, or admin.
func (g *Guard) ReleaseLease(ctx context.Context, space runnel.Space, f runnel.Fence) error {
	if mayDoIn(ctx, "release a lease of", Admin, space) != nil {
		if err := g.mayHold(ctx, "release a lease of", space, f); err != nil {
			return err
		}
	}
	return g.log.ReleaseLease(ctx, space, f)
}

// mayHold refuses whoever is not the subject of a lease that is held under a number, for numbers are no
// secret. Whose a lease is does not change while it has its number.
func (g *Guard) mayHold(ctx context.Context, action string, space runnel.Space, f runnel.Fence) error {
	if err := mayDoIn(ctx, action, Write, space); err != nil {
		return err
	}
	for held, err := range g.log.Leases(ctx, space, f.Key, "") {
		if err != nil {
			return err
		}
		if held.Key == f.Key && held.Number == f.Number && held.Metadata[runnel.LeaseSubject] != PrincipalOf(ctx).Subject() {
			r := Request{Action: action, Needs: Admin, Kind: "another subject, in space", Store: space.Store, Path: space.Name}
			return r.forbidden()
		}
		break // the key itself comes before all others that begin with it
	}
	return nil
}

// Leases needs read of the space.
func (g *Guard) Leases(ctx context.Context, space runnel.Space, prefix, after string) iter.Seq2[runnel.Lease, error] {
	return following(ctx, mayDoIn(ctx, "list the leases of", Read, space), func(ctx context.Context) iter.Seq2[runnel.Lease, error] {
		return g.log.Leases(ctx, space, prefix, after)
	})
}

// WatchLeases needs read of the space.
func (g *Guard) WatchLeases(ctx context.Context, space runnel.Space, prefix string) iter.Seq2[runnel.LeaseEvent, error] {
	return following(ctx, mayDoIn(ctx, "watch the leases of", Read, space), func(ctx context.Context) iter.Seq2[runnel.LeaseEvent, error] {
		return g.log.WatchLeases(ctx, space, prefix)
	})
}
