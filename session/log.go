package session

import (
	"context"
	"errors"
	"iter"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/session/internal/pb"
)

// Append adds records to the end of a segment.
func (c *Client) Append(ctx context.Context, segment runnel.Segment, o runnel.AppendOptions, records ...runnel.Record) (runnel.Appended, error) {
	req := &pb.Request{Operation: &pb.Request_Append_{Append: putAppend(segment, &o, records)}}
	resp, err := c.call(ctx, againAppend(&o), req)
	return getAppended(resp.GetAppended()), err
}

func againAppend(o *runnel.AppendOptions) again {
	switch {
	case o.Producer != nil || o.Key != "":
		return asIs
	case o.Expect != nil:
		return ifNotMoved
	}
	return never
}

// Transact makes one commit to a space.
func (c *Client) Transact(ctx context.Context, space runnel.Space, t runnel.Transaction) (runnel.Committed, error) {
	if err := checkItems(&t); err != nil {
		return runnel.Committed{}, err
	}
	req := &pb.Request{Operation: &pb.Request_Transact_{Transact: putTransaction(space, &t)}}
	resp, err := c.call(ctx, againTransact(&t), req)
	var committed runnel.Committed
	if err == nil {
		committed.Appended = make([]runnel.Appended, len(t.Writes))
		for i, a := range resp.GetCommitted().GetAppended() {
			if i < len(committed.Appended) {
				committed.Appended[i] = getAppended(a)
			}
		}
		for _, w := range resp.GetCommitted().GetItems() {
			committed.Items = append(committed.Items, getItemsWritten(w))
		}
	}
	return committed, err
}

// againTransact knows a commit again by any of its writes. One that only moves cursors forwards finds
// them where it would move them, or, if others have moved them on since, further.
func againTransact(t *runnel.Transaction) again {
	for i := range t.Writes {
		if againAppend(&t.Writes[i].Options) != asIs {
			return never
		}
	}
	for i := range t.Items {
		if t.Items[i].Key == "" {
			return never
		}
	}
	if len(t.Writes) > 0 || len(t.Items) > 0 {
		return asIs
	}
	for i := range t.Cursors {
		if t.Cursors[i].Expect != nil || t.Cursors[i].Rewind {
			return never
		}
	}
	return ifNotMoved
}

// Create makes a segment. One that was made although the answer was lost is said to have existed.
func (c *Client) Create(ctx context.Context, segment runnel.Segment, o runnel.CreateOptions) (runnel.Created, error) {
	req := &pb.Request{Operation: &pb.Request_Create_{Create: &pb.Request_Create{Segment: putSegment(segment), Options: putCreate(&o)}}}
	resp, err := c.call(ctx, asIs, req)
	return runnel.Created{Info: getInfoIf(resp.GetCreated().GetInfo()), Existed: resp.GetCreated().GetExisted()}, err
}

// getInfoIf is the zero Info where there is none.
func getInfoIf(m *pb.Info) runnel.Info {
	if m == nil {
		return runnel.Info{}
	}
	return getInfo(m)
}

// Delete removes a segment.
func (c *Client) Delete(ctx context.Context, segment runnel.Segment) error {
	_, err := c.call(ctx, never, &pb.Request{Operation: &pb.Request_Delete{Delete: putSegment(segment)}})
	return err
}

// Stat describes a segment.
func (c *Client) Stat(ctx context.Context, segment runnel.Segment) (runnel.Info, error) {
	resp, err := c.call(ctx, asIs, &pb.Request{Operation: &pb.Request_Stat{Stat: putSegment(segment)}})
	return getInfoIf(resp.GetInfo()), err
}

// StatSpace describes a space.
func (c *Client) StatSpace(ctx context.Context, space runnel.Space) (runnel.SpaceInfo, error) {
	resp, err := c.call(ctx, asIs, &pb.Request{Operation: &pb.Request_StatSpace{StatSpace: putSpace(space)}})
	m := resp.GetSpaceInfo()
	return runnel.SpaceInfo{Space: getSpace(m.GetSpace()), Head: runnel.Position(m.GetHead()), Time: getTime(m.GetTime())}, err
}

// Peek returns the last entry of a segment.
func (c *Client) Peek(ctx context.Context, segment runnel.Segment) (runnel.Entry, error) {
	resp, err := c.call(ctx, asIs, &pb.Request{Operation: &pb.Request_Peek{Peek: putSegment(segment)}})
	if err != nil {
		return runnel.Entry{}, err
	}
	return getEntry(resp.GetEntry())
}

// SequenceAt returns the place in a segment before the first entry of a time or later.
func (c *Client) SequenceAt(ctx context.Context, segment runnel.Segment, t time.Time) (runnel.Sequence, error) {
	req := &pb.Request_SequenceAt{Segment: putSegment(segment), Time: putTime(t)}
	resp, err := c.call(ctx, asIs, &pb.Request{Operation: &pb.Request_SequenceAt_{SequenceAt: req}})
	return runnel.Sequence(resp.GetPlace().GetValue()), err
}

// PositionAt returns the place in a space before the first entry of a time or later.
func (c *Client) PositionAt(ctx context.Context, space runnel.Space, t time.Time) (runnel.Position, error) {
	req := &pb.Request_PositionAt{Space: putSpace(space), Time: putTime(t)}
	resp, err := c.call(ctx, asIs, &pb.Request{Operation: &pb.Request_PositionAt_{PositionAt: req}})
	return runnel.Position(resp.GetPlace().GetValue()), err
}

// Cursor returns the stored place of a reader.
func (c *Client) Cursor(ctx context.Context, name runnel.CursorName) (runnel.Cursor, error) {
	resp, err := c.call(ctx, asIs, &pb.Request{Operation: &pb.Request_Cursor{Cursor: putCursorName(name)}})
	return getCursor(resp.GetCursor()), err
}

// DeleteCursor removes a cursor.
func (c *Client) DeleteCursor(ctx context.Context, name runnel.CursorName) error {
	_, err := c.call(ctx, never, &pb.Request{Operation: &pb.Request_DeleteCursor{DeleteCursor: putCursorName(name)}})
	return err
}

// AcquireLease claims a key of a space for a time. If an answer is lost it asks again, and then the number
// of the first lease is good for nothing.
func (c *Client) AcquireLease(ctx context.Context, space runnel.Space, q runnel.LeaseRequest) (runnel.Lease, error) {
	req := &pb.Request_AcquireLease{Space: putSpace(space), Key: q.Key, Holder: q.Holder, TtlNanos: int64(q.TTL), Wait: q.Wait, Metadata: q.Metadata}
	resp, err := c.call(ctx, asIs, &pb.Request{Operation: &pb.Request_AcquireLease_{AcquireLease: req}})
	return getLease(resp.GetLease()), err
}

// RenewLease begins the time of a lease again.
func (c *Client) RenewLease(ctx context.Context, space runnel.Space, f runnel.Fence) (runnel.Lease, error) {
	req := &pb.Request_Fenced{Space: putSpace(space), Fence: putFence(f)}
	resp, err := c.call(ctx, asIs, &pb.Request{Operation: &pb.Request_RenewLease{RenewLease: req}})
	return getLease(resp.GetLease()), err
}

// ReleaseLease ends a lease.
func (c *Client) ReleaseLease(ctx context.Context, space runnel.Space, f runnel.Fence) error {
	req := &pb.Request_Fenced{Space: putSpace(space), Fence: putFence(f)}
	_, err := c.call(ctx, never, &pb.Request{Operation: &pb.Request_ReleaseLease{ReleaseLease: req}})
	if errors.Is(err, runnel.ErrUnknown) && ctx.Err() == nil {
		_, err = c.call(ctx, never, &pb.Request{Operation: &pb.Request_ReleaseLease{ReleaseLease: req}})
		if errors.Is(err, runnel.ErrLeaseLost) {
			return nil // it is not held, which is what was wanted
		}
	}
	return err
}

// list is an operation that yields things one after the other, of which each says where to go on.
func list[T any](c *Client, ctx context.Context, request func(after *T) *pb.Request, get func(*pb.Response) T) iter.Seq2[T, error] { //nolint:revive // a method cannot have the type parameter
	return func(yield func(T, error) bool) {
		var last *T
		done := false
		err := c.stream(ctx, flow{
			request: func() (*pb.Request, error) { return request(last), nil },
			take: func(resp *pb.Response) (bool, error) {
				one := get(resp)
				last = &one
				done = !yield(one, nil)
				return !done, nil
			},
		})
		if err != nil && !done {
			var none T
			yield(none, err)
		}
	}
}

// Stores yields the stores, beginning behind one.
func (c *Client) Stores(ctx context.Context, after runnel.Store) iter.Seq2[runnel.Store, error] {
	return list(c, ctx, func(last *runnel.Store) *pb.Request {
		if last == nil {
			last = &after
		}
		return &pb.Request{Operation: &pb.Request_Stores_{Stores: &pb.Request_Stores{After: putStore(*last)}}}
	}, func(resp *pb.Response) runnel.Store { return getStore(resp.GetStore()) })
}

// Spaces yields the spaces of a store.
func (c *Client) Spaces(ctx context.Context, store runnel.Store, prefix, after string) iter.Seq2[runnel.Space, error] {
	return list(c, ctx, func(last *runnel.Space) *pb.Request {
		m := &pb.Request_Spaces{Store: putStore(store), Prefix: prefix, After: after}
		if last != nil {
			m.After = last.Name
		}
		return &pb.Request{Operation: &pb.Request_Spaces_{Spaces: m}}
	}, func(resp *pb.Response) runnel.Space { return getSpace(resp.GetSpace()) })
}

// List yields segments of a store.
func (c *Client) List(ctx context.Context, store runnel.Store, o runnel.ListOptions) iter.Seq2[runnel.Info, error] {
	return func(yield func(runnel.Info, error) bool) {
		left := o.Limit
		for info, err := range c.list(ctx, store, o, &left) {
			left--
			if !yield(info, err) || err != nil {
				return
			}
		}
	}
}

func (c *Client) list(ctx context.Context, store runnel.Store, o runnel.ListOptions, left *int) iter.Seq2[runnel.Info, error] {
	return list(c, ctx, func(last *runnel.Info) *pb.Request {
		m := &pb.Request_List{Store: putStore(store), Prefix: o.Prefix, Direct: o.Direct, After: o.After, Limit: int64(*left)}
		if last != nil {
			m.After = last.Segment.Path()
			if o.Limit > 0 && *left == 0 {
				return nil
			}
		}
		return &pb.Request{Operation: &pb.Request_List_{List: m}}
	}, func(resp *pb.Response) runnel.Info { return getInfo(resp.GetInfo()) })
}

// Cursors yields the cursors of a segment, or of a space.
func (c *Client) Cursors(ctx context.Context, space runnel.Space, segment, prefix, after string) iter.Seq2[runnel.Cursor, error] {
	return list(c, ctx, func(last *runnel.Cursor) *pb.Request {
		m := &pb.Request_Cursors{Space: putSpace(space), Segment: segment, Prefix: prefix, After: after}
		if last != nil {
			m.After = last.Name
		}
		return &pb.Request{Operation: &pb.Request_Cursors_{Cursors: m}}
	}, func(resp *pb.Response) runnel.Cursor { return getCursor(resp.GetCursor()) })
}

// Leases yields the leases of a space.
func (c *Client) Leases(ctx context.Context, space runnel.Space, prefix, after string) iter.Seq2[runnel.Lease, error] {
	return list(c, ctx, func(last *runnel.Lease) *pb.Request {
		m := &pb.Request_Leases{Space: putSpace(space), Prefix: prefix, After: after}
		if last != nil {
			m.After = last.Key
		}
		return &pb.Request{Operation: &pb.Request_Leases_{Leases: m}}
	}, func(resp *pb.Response) runnel.Lease { return getLease(resp.GetLease()) })
}
