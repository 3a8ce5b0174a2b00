package auth

import (
	"context"
	"errors"
	"iter"
	"time"

	"github.com/runnelhq/runnel"
)

// Log is all that a [Guard] can stand before: what the ways in need of an engine.
type Log interface {
	runnel.Log
	runnel.SubscriptionLog

	Commit(ctx context.Context, space runnel.Space, writes ...runnel.Write) ([]runnel.Appended, error)
	Read(ctx context.Context, seg runnel.Segment, id uint64, from runnel.Sequence) (runnel.View, error)
	ReadStart(ctx context.Context, seg runnel.Segment) (runnel.View, error)
	Wait(ctx context.Context, seg runnel.Segment, id uint64, after runnel.Sequence) (runnel.Info, error)
	Tail(ctx context.Context, seg runnel.Segment, id uint64, from runnel.Sequence) iter.Seq2[runnel.Batch, error]
	ReadSpace(ctx context.Context, space runnel.Space, from runnel.Position) (runnel.Timeline, error)
	WaitSpace(ctx context.Context, space runnel.Space, after runnel.Position) (runnel.Position, error)
	TailSpace(ctx context.Context, space runnel.Space, from runnel.Position) iter.Seq2[runnel.SpaceBatch, error]
	Watch(ctx context.Context, store runnel.Store) iter.Seq[runnel.Event]

	WriteItems(ctx context.Context, space runnel.Space, writes ...runnel.ItemWrites) ([]runnel.ItemsWritten, error)
	TailItems(ctx context.Context, seg runnel.Segment, id uint64, after runnel.Sequence) iter.Seq2[runnel.ItemBatch, error]
	SpaceItems(ctx context.Context, space runnel.Space, groupPrefix string, q runnel.ItemQuery) (runnel.SpaceItemView, error)
	TailSpaceItems(ctx context.Context, space runnel.Space, groupPrefix string, after runnel.Position) iter.Seq2[runnel.ItemBatch, error]
	FollowItems(ctx context.Context, place runnel.CursorName, groupPrefix string, after runnel.Position) iter.Seq2[runnel.ItemBatch, error]
	ItemGroups(ctx context.Context, space runnel.Space, prefix, after string) iter.Seq2[runnel.Info, error]
	ItemSpaces(ctx context.Context, store runnel.Store, prefix, after string) iter.Seq2[runnel.Space, error]
	CompactItems(ctx context.Context, seg runnel.Segment) (runnel.Info, error)
	DeleteItemSpace(ctx context.Context, space runnel.Space) (int, error)
	HearItemEvents(ctx context.Context, space runnel.Space, heard func(runnel.ItemEvent)) error
}

// Guard is a log that does what the principal in the context may do, and refuses the rest: with
// runnel.ErrUnauthorized where there is no principal, or not any more, and with runnel.ErrForbidden where
// its scopes do not cover what is asked for. It passes on everything else as it is.
//
// Whatever reads, waits or follows when the principal expires or is revoked ends with
// runnel.ErrUnauthorized. A write that is under way then is finished.
type Guard struct{ log Log }

// NewGuard returns a guard before a log.
func NewGuard(log Log) *Guard { return &Guard{log: log} }

// mayDo checks what is asked of a segment.
func mayDo(ctx context.Context, action string, needs Verb, seg runnel.Segment) error {
	if err := seg.Validate(); err != nil { // a name that is none is covered by nothing
		return known(ctx, err)
	}
	return Check(ctx, Request{Action: action, Needs: needs, Kind: "segment", Store: seg.Store, Path: seg.Path()})
}

// mayDoIn checks what is asked of a space.
func mayDoIn(ctx context.Context, action string, needs Verb, space runnel.Space) error {
	if err := space.Validate(); err != nil {
		return known(ctx, err)
	}
	kind := "space"
	if space.Name == "" {
		kind = "the root space"
	}
	return Check(ctx, Request{Action: action, Needs: needs, Kind: kind, Store: space.Store, Path: space.Name})
}

// mayDoAt checks what is asked of a segment of a space, or of the space where the name is empty.
func mayDoAt(ctx context.Context, action string, needs Verb, space runnel.Space, segment string) error {
	if segment == "" {
		return mayDoIn(ctx, action, needs, space)
	}
	return mayDo(ctx, action, needs, space.Segment(segment))
}

// known returns err to somebody who is known, and refuses anybody else.
func known(ctx context.Context, err error) error {
	p := PrincipalOf(ctx)
	if p == nil {
		return &runnel.UnauthorizedError{}
	}
	if ended := p.Err(); ended != nil {
		return ended
	}
	return err
}

// bound calls do with a context that ends with the principal, and tells that from other ends.
func bound[T any](ctx context.Context, do func(context.Context) (T, error)) (T, error) {
	ctx, release := PrincipalOf(ctx).Bind(ctx)
	defer release()
	result, err := do(ctx)
	return result, cause(ctx, err)
}

// cause is the error to tell of a call that failed under a context that Bind returned.
func cause(ctx context.Context, err error) error {
	if err == nil || ctx.Err() == nil {
		return err
	}
	if ended, ok := errors.AsType[*runnel.UnauthorizedError](context.Cause(ctx)); ok {
		return ended
	}
	return err
}

// following yields what begin does under a context that ends with the principal, after may has let it.
func following[T any](ctx context.Context, may error, begin func(context.Context) iter.Seq2[T, error]) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		var none T
		if may != nil {
			yield(none, may)
			return
		}
		p := PrincipalOf(ctx)
		ctx, release := p.Bind(ctx)
		defer release()
		for v, err := range begin(ctx) {
			if err == nil {
				err = p.Err()
			} else {
				err = cause(ctx, err)
			}
			if err != nil {
				yield(none, err)
				return
			}
			if !yield(v, nil) {
				return
			}
		}
	}
}

// while yields what a sequence does for as long as the principal may be served.
func while[T any](p *Principal, seq iter.Seq2[T, error]) iter.Seq2[T, error] {
	if seq == nil {
		return nil
	}
	return func(yield func(T, error) bool) {
		for v, err := range seq {
			if err == nil {
				err = p.Err()
			}
			if !yield(v, err) || err != nil {
				return
			}
		}
	}
}

// MayRead returns what a read of a segment would be refused with, nil if it would not be.
func (g *Guard) MayRead(ctx context.Context, seg runnel.Segment) error {
	return mayDo(ctx, "read", Read, seg)
}

// MayWrite returns what an append to a segment, or its creation, would be refused with.
func (g *Guard) MayWrite(ctx context.Context, seg runnel.Segment) error {
	return mayDo(ctx, "write to", Write, seg)
}

// Append needs write.
func (g *Guard) Append(ctx context.Context, seg runnel.Segment, o runnel.AppendOptions, records ...runnel.Record) (runnel.Appended, error) {
	if err := mayDo(ctx, "append to", Write, seg); err != nil {
		return runnel.Appended{}, err
	}
	if err := mayFork(ctx, o.Create); err != nil {
		return runnel.Appended{}, err
	}
	return g.log.Append(ctx, seg, o, records...)
}

// mayFork checks the source of what is created, if it has one.
func mayFork(ctx context.Context, o *runnel.CreateOptions) error {
	if o == nil || o.Fork == nil {
		return nil
	}
	return mayDo(ctx, "fork", Read, o.Fork.Source)
}

// Commit needs write of each segment.
func (g *Guard) Commit(ctx context.Context, space runnel.Space, writes ...runnel.Write) ([]runnel.Appended, error) {
	if err := mayTransact(ctx, space, runnel.Transaction{Writes: writes}); err != nil {
		return nil, err
	}
	return g.log.Commit(ctx, space, writes...)
}

// Transact needs write of each segment it writes to, of each item, or of the segment that holds it, of each
// segment or space whose cursors it moves, and of the space if it demands leases; and admin of the store to
// move cursors of a subscription. Who writes an item is told what it was.
func (g *Guard) Transact(ctx context.Context, space runnel.Space, t runnel.Transaction) (runnel.Committed, error) {
	if err := mayTransact(ctx, space, t); err != nil {
		return runnel.Committed{}, err
	}
	return g.log.Transact(ctx, space, t)
}

func mayTransact(ctx context.Context, space runnel.Space, t runnel.Transaction) error {
	for i := range t.Writes {
		w := &t.Writes[i]
		if err := mayDo(ctx, "append to", Write, space.Segment(w.Segment)); err != nil {
			return err
		}
		if err := mayFork(ctx, w.Options.Create); err != nil {
			return err
		}
	}
	for _, move := range t.Cursors {
		if err := mayDoAt(ctx, "move a cursor of", Write, space, move.Segment); err != nil {
			return err
		}
		if id, ok := (runnel.CursorName{Name: move.Name}).Subscription(); ok {
			if err := mayWith(ctx, "move a cursor of", Admin, space.Store, id); err != nil {
				return err
			}
		}
	}
	for i := range t.Items {
		if err := mayWriteItems(ctx, space, &t.Items[i]); err != nil {
			return err
		}
	}
	if len(t.Fences) > 0 || len(t.Writes)+len(t.Cursors)+len(t.Items) == 0 {
		return mayDoIn(ctx, "demand a lease of", Write, space)
	}
	return nil
}

// Create needs write, and for a fork read of its source.
func (g *Guard) Create(ctx context.Context, seg runnel.Segment, o runnel.CreateOptions) (runnel.Created, error) {
	if err := mayDo(ctx, "create", Write, seg); err != nil {
		return runnel.Created{}, err
	}
	if err := mayFork(ctx, &o); err != nil {
		return runnel.Created{}, err
	}
	return g.log.Create(ctx, seg, o)
}

// Delete needs admin.
func (g *Guard) Delete(ctx context.Context, seg runnel.Segment) error {
	if err := mayDo(ctx, "delete", Admin, seg); err != nil {
		return err
	}
	return g.log.Delete(ctx, seg)
}

// Stat needs read or write.
func (g *Guard) Stat(ctx context.Context, seg runnel.Segment) (runnel.Info, error) {
	if err := mayDo(ctx, "look at", Read|Write, seg); err != nil {
		return runnel.Info{}, err
	}
	return g.log.Stat(ctx, seg)
}

// StatSpace needs read or write of the space.
func (g *Guard) StatSpace(ctx context.Context, space runnel.Space) (runnel.SpaceInfo, error) {
	if err := mayDoIn(ctx, "look at", Read|Write, space); err != nil {
		return runnel.SpaceInfo{}, err
	}
	return g.log.StatSpace(ctx, space)
}

// Peek needs read.
func (g *Guard) Peek(ctx context.Context, seg runnel.Segment) (runnel.Entry, error) {
	if err := mayDo(ctx, "read", Read, seg); err != nil {
		return runnel.Entry{}, err
	}
	return g.log.Peek(ctx, seg)
}

// SequenceAt needs read.
func (g *Guard) SequenceAt(ctx context.Context, seg runnel.Segment, t time.Time) (runnel.Sequence, error) {
	if err := mayDo(ctx, "read", Read, seg); err != nil {
		return 0, err
	}
	return g.log.SequenceAt(ctx, seg, t)
}

// PositionAt needs read of the space.
func (g *Guard) PositionAt(ctx context.Context, space runnel.Space, t time.Time) (runnel.Position, error) {
	if err := mayDoIn(ctx, "read", Read, space); err != nil {
		return 0, err
	}
	return g.log.PositionAt(ctx, space, t)
}

// Read needs read.
func (g *Guard) Read(ctx context.Context, seg runnel.Segment, id uint64, from runnel.Sequence) (runnel.View, error) {
	if err := mayDo(ctx, "read", Read, seg); err != nil {
		return runnel.View{}, err
	}
	v, err := g.log.Read(ctx, seg, id, from)
	p := PrincipalOf(ctx)
	v.Batches, v.Stream = while(p, v.Batches), while(p, v.Stream)
	return v, err
}

// ReadStart needs read.
func (g *Guard) ReadStart(ctx context.Context, seg runnel.Segment) (runnel.View, error) {
	if err := mayDo(ctx, "read", Read, seg); err != nil {
		return runnel.View{}, err
	}
	v, err := g.log.ReadStart(ctx, seg)
	p := PrincipalOf(ctx)
	v.State, v.Batches, v.Stream = while(p, v.State), while(p, v.Batches), while(p, v.Stream)
	return v, err
}

// Wait needs read.
func (g *Guard) Wait(ctx context.Context, seg runnel.Segment, id uint64, after runnel.Sequence) (runnel.Info, error) {
	if err := mayDo(ctx, "read", Read, seg); err != nil {
		return runnel.Info{}, err
	}
	return bound(ctx, func(ctx context.Context) (runnel.Info, error) { return g.log.Wait(ctx, seg, id, after) })
}

// Tail needs read.
func (g *Guard) Tail(ctx context.Context, seg runnel.Segment, id uint64, from runnel.Sequence) iter.Seq2[runnel.Batch, error] {
	return following(ctx, mayDo(ctx, "read", Read, seg), func(ctx context.Context) iter.Seq2[runnel.Batch, error] {
		return g.log.Tail(ctx, seg, id, from)
	})
}

// ReadSpace needs read of the space.
func (g *Guard) ReadSpace(ctx context.Context, space runnel.Space, from runnel.Position) (runnel.Timeline, error) {
	if err := mayDoIn(ctx, "read", Read, space); err != nil {
		return runnel.Timeline{}, err
	}
	t, err := g.log.ReadSpace(ctx, space, from)
	t.Batches = while(PrincipalOf(ctx), t.Batches)
	return t, err
}

// WaitSpace needs read of the space.
func (g *Guard) WaitSpace(ctx context.Context, space runnel.Space, after runnel.Position) (runnel.Position, error) {
	if err := mayDoIn(ctx, "read", Read, space); err != nil {
		return 0, err
	}
	return bound(ctx, func(ctx context.Context) (runnel.Position, error) { return g.log.WaitSpace(ctx, space, after) })
}

// TailSpace needs read of the space.
func (g *Guard) TailSpace(ctx context.Context, space runnel.Space, from runnel.Position) iter.Seq2[runnel.SpaceBatch, error] {
	return following(ctx, mayDoIn(ctx, "read", Read, space), func(ctx context.Context) iter.Seq2[runnel.SpaceBatch, error] {
		return g.log.TailSpace(ctx, space, from)
	})
}

// Query needs read of each source, whatever the filter would leave of it.
func (g *Guard) Query(ctx context.Context, q runnel.Query) iter.Seq2[runnel.SpaceBatch, error] {
	return following(ctx, mayQuery(ctx, &q), func(ctx context.Context) iter.Seq2[runnel.SpaceBatch, error] {
		return g.log.Query(ctx, q)
	})
}

func mayQuery(ctx context.Context, q *runnel.Query) error {
	for i := range q.Sources {
		if err := mayDoAt(ctx, "read", Read, q.Sources[i].Space, q.Sources[i].Segment); err != nil {
			return err
		}
	}
	return known(ctx, nil) // a query of nothing is refused by the log
}
