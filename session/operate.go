package session

import (
	"context"
	"errors"
	"iter"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/session/internal/pb"
)

// operate does what a request asks for, and answers it.
func (c *serverConn) operate(ctx context.Context, req *pb.Request, out *sender) {
	if req.TimeoutNanos > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(req.TimeoutNanos))
		defer cancel()
	}
	ctx, end := c.h.cfg.Observe.begin(ctx, &Operation{Name: operationName(req), Carrier: req.Carrier})
	o := operation{log: c.h.log, out: out, drain: c.h.drain}
	last, err := o.do(ctx, req)
	end(err)
	out.end(lastResponse(last, err))
}

// lastResponse returns what ends an operation: what there is to say last, which may be nothing, or why it failed.
func lastResponse(last *pb.Response, err error) *pb.Response {
	switch {
	case errors.Is(err, errComeBack) || errors.Is(err, runnel.ErrShutdown) && !errors.Is(err, runnel.ErrUnknown):
		return &pb.Response{Content: &pb.Response_ComeBack{ComeBack: &pb.ComeBack{}}}
	case err != nil:
		return errorResponse(err)
	case last == nil:
		return &pb.Response{Content: &pb.Response_End{End: &pb.End{}}}
	}
	return last
}

// errComeBack ends what has no end by itself when the server goes away.
var errComeBack = errors.New("session: the server goes away")

// operationName is what telemetry calls the operation.
func operationName(req *pb.Request) string {
	m := req.ProtoReflect()
	if f := m.WhichOneof(m.Descriptor().Oneofs().ByName("operation")); f != nil {
		return string(f.Name())
	}
	return "unknown"
}

// operation is one operation of a log for a client.
type operation struct {
	log   runnel.Log
	out   *sender
	drain <-chan struct{}
}

// do returns the last response; nil for one that says nothing but that all is told.
func (o *operation) do(ctx context.Context, req *pb.Request) (*pb.Response, error) {
	switch r := req.Operation.(type) {
	case *pb.Request_Append_:
		segment, options, records, err := getAppend(r.Append)
		if err != nil {
			return nil, err
		}
		a, err := o.log.Append(ctx, segment, options, records...)
		return &pb.Response{Content: &pb.Response_Appended{Appended: putAppended(&a)}}, err
	case *pb.Request_Transact_:
		return o.transact(ctx, r.Transact)
	case *pb.Request_Create_:
		options, err := getCreate(r.Create.GetOptions())
		if err != nil {
			return nil, err
		}
		if options == nil {
			options = new(runnel.CreateOptions)
		}
		created, err := o.log.Create(ctx, getSegment(r.Create.GetSegment()), *options)
		return &pb.Response{Content: &pb.Response_Created{Created: &pb.Created{Info: putInfo(&created.Info), Existed: created.Existed}}}, err
	case *pb.Request_Delete:
		return nil, o.log.Delete(ctx, getSegment(r.Delete))
	case *pb.Request_Query_:
		return nil, o.query(ctx, r.Query)
	case *pb.Request_Items:
		return nil, o.items(ctx, r.Items)
	case *pb.Request_WatchItems_:
		return nil, o.watchItems(ctx, r.WatchItems)
	case *pb.Request_SendItem:
		return nil, o.log.SendItem(ctx, getItemEvent(r.SendItem))
	default:
		if last, known, err := o.look(ctx, req); known {
			return last, err
		}
		if known, err := o.list(ctx, req); known {
			return nil, err
		}
		return o.coordinate(ctx, req)
	}
}

func (o *operation) transact(ctx context.Context, m *pb.Request_Transact) (*pb.Response, error) {
	space, t, err := getTransaction(m)
	if err != nil {
		return nil, err
	}
	committed, err := o.log.Transact(ctx, space, t)
	if err != nil {
		return nil, err
	}
	answer := new(pb.Committed)
	for i := range committed.Appended {
		answer.Appended = append(answer.Appended, putAppended(&committed.Appended[i]))
	}
	for i := range committed.Items {
		answer.Items = append(answer.Items, putItemsWritten(&committed.Items[i]))
	}
	return &pb.Response{Content: &pb.Response_Committed{Committed: answer}}, nil
}

// look answers what is answered at once.
func (o *operation) look(ctx context.Context, req *pb.Request) (last *pb.Response, known bool, err error) {
	last = new(pb.Response)
	switch r := req.Operation.(type) {
	case *pb.Request_Stat:
		info, serr := o.log.Stat(ctx, getSegment(r.Stat))
		last.Content, err = &pb.Response_Info{Info: putInfo(&info)}, serr
	case *pb.Request_StatSpace:
		info, serr := o.log.StatSpace(ctx, getSpace(r.StatSpace))
		answer := &pb.SpaceInfo{Space: putSpace(info.Space), Head: uint64(info.Head), Time: putTime(info.Time)}
		last.Content, err = &pb.Response_SpaceInfo{SpaceInfo: answer}, serr
	case *pb.Request_Peek:
		entry, perr := o.log.Peek(ctx, getSegment(r.Peek))
		last.Content, err = &pb.Response_Entry{Entry: putEntry(&entry)}, perr
	case *pb.Request_SequenceAt_:
		at, serr := o.log.SequenceAt(ctx, getSegment(r.SequenceAt.GetSegment()), getTime(r.SequenceAt.GetTime()))
		last.Content, err = &pb.Response_Place{Place: putNumber(&at)}, serr
	case *pb.Request_PositionAt_:
		at, perr := o.log.PositionAt(ctx, getSpace(r.PositionAt.GetSpace()), getTime(r.PositionAt.GetTime()))
		last.Content, err = &pb.Response_Place{Place: putNumber(&at)}, perr
	case *pb.Request_Cursor:
		cursor, cerr := o.log.Cursor(ctx, getCursorName(r.Cursor))
		last.Content, err = &pb.Response_Cursor{Cursor: putCursor(&cursor)}, cerr
	case *pb.Request_Item:
		item, ierr := o.log.Item(ctx, getSegment(r.Item.GetSegment()), getItemKey(r.Item.GetItem()))
		last.Content, err = &pb.Response_Item{Item: putItem(&item)}, ierr
	default:
		return nil, false, nil
	}
	return last, true, err
}

// list answers with one response for each thing that there is, or that happens.
func (o *operation) list(ctx context.Context, req *pb.Request) (known bool, err error) {
	switch r := req.Operation.(type) {
	case *pb.Request_Stores_:
		return true, each(ctx, o, o.log.Stores(ctx, getStore(r.Stores.GetAfter())), func(s runnel.Store) *pb.Response {
			return &pb.Response{Content: &pb.Response_Store{Store: s[:]}}
		})
	case *pb.Request_Spaces_:
		m := r.Spaces
		return true, each(ctx, o, o.log.Spaces(ctx, getStore(m.GetStore()), m.GetPrefix(), m.GetAfter()), func(s runnel.Space) *pb.Response {
			return &pb.Response{Content: &pb.Response_Space{Space: putSpace(s)}}
		})
	case *pb.Request_List_:
		m := r.List
		options := runnel.ListOptions{Prefix: m.GetPrefix(), Direct: m.GetDirect(), After: m.GetAfter(), Limit: int(m.GetLimit())}
		return true, each(ctx, o, o.log.List(ctx, getStore(m.GetStore()), options), func(i runnel.Info) *pb.Response {
			return &pb.Response{Content: &pb.Response_Info{Info: putInfo(&i)}}
		})
	case *pb.Request_WatchSegments_:
		m := r.WatchSegments
		ctx, cancel := o.untilDrain(ctx)
		defer cancel()
		return true, each(ctx, o, o.log.WatchSegments(ctx, getStore(m.GetStore()), getWatch(m)), func(s runnel.Status) *pb.Response {
			return &pb.Response{Content: &pb.Response_Status{Status: &pb.Status{Info: putInfo(&s.Info), Gone: s.Gone, Live: s.Live, Mark: s.Mark}}}
		})
	case *pb.Request_Cursors_:
		m := r.Cursors
		cursors := o.log.Cursors(ctx, getSpace(m.GetSpace()), m.GetSegment(), m.GetPrefix(), m.GetAfter())
		return true, each(ctx, o, cursors, func(c runnel.Cursor) *pb.Response {
			return &pb.Response{Content: &pb.Response_Cursor{Cursor: putCursor(&c)}}
		})
	case *pb.Request_Leases_:
		return true, each(ctx, o, o.log.Leases(ctx, getSpace(r.Leases.GetSpace()), r.Leases.GetPrefix(), r.Leases.GetAfter()), func(l runnel.Lease) *pb.Response {
			return &pb.Response{Content: &pb.Response_Lease{Lease: putLease(&l)}}
		})
	case *pb.Request_WatchLeases:
		m := r.WatchLeases
		ctx, cancel := o.untilDrain(ctx)
		defer cancel()
		return true, each(ctx, o, o.log.WatchLeases(ctx, getSpace(m.GetSpace()), m.GetPrefix()), func(e runnel.LeaseEvent) *pb.Response {
			return &pb.Response{Content: &pb.Response_LeaseEvent{LeaseEvent: &pb.LeaseEvent{Lease: putLease(&e.Lease), Gone: e.Gone, Live: e.Live, Mark: e.Mark}}}
		})
	}
	return false, nil
}

// coordinate answers what leases and cursors need.
func (o *operation) coordinate(ctx context.Context, req *pb.Request) (*pb.Response, error) {
	var lease runnel.Lease
	var err error
	switch r := req.Operation.(type) {
	case *pb.Request_DeleteCursor:
		return nil, o.log.DeleteCursor(ctx, getCursorName(r.DeleteCursor))
	case *pb.Request_AcquireLease_:
		m := r.AcquireLease
		ctx, cancel := o.untilDrain(ctx)
		defer cancel()
		lease, err = o.log.AcquireLease(ctx, getSpace(m.GetSpace()), runnel.LeaseRequest{
			Key: m.GetKey(), Holder: m.GetHolder(), TTL: time.Duration(m.GetTtlNanos()), Wait: m.GetWait(), Metadata: m.GetMetadata(),
		})
		err = o.orComeBack(ctx, err)
	case *pb.Request_RenewLease:
		lease, err = o.log.RenewLease(ctx, getSpace(r.RenewLease.GetSpace()), getFence(r.RenewLease.GetFence()))
	case *pb.Request_ReleaseLease:
		return nil, o.log.ReleaseLease(ctx, getSpace(r.ReleaseLease.GetSpace()), getFence(r.ReleaseLease.GetFence()))
	default:
		return nil, &runnel.InvalidError{What: "operation", Rule: "must be one that this server knows"}
	}
	return &pb.Response{Content: &pb.Response_Lease{Lease: putLease(&lease)}}, err
}

// untilDrain returns a context that ends when the server goes away, too.
func (o *operation) untilDrain(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	ended := make(chan struct{})
	go func() {
		select {
		case <-o.drain:
			cancel(errComeBack)
		case <-ended:
		}
	}()
	return ctx, func() {
		close(ended)
		cancel(nil)
	}
}

// orComeBack says why a context that untilDrain has made has ended.
func (o *operation) orComeBack(ctx context.Context, err error) error {
	if err != nil && errors.Is(context.Cause(ctx), errComeBack) {
		return errComeBack
	}
	return err
}

// each answers with a response for each thing of a sequence, until the client goes away.
func each[T any](ctx context.Context, o *operation, all iter.Seq2[T, error], response func(T) *pb.Response) error {
	for one, err := range all {
		if err != nil {
			return o.orComeBack(ctx, err)
		}
		if err := o.out.send(response(one)); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return o.orComeBack(ctx, ctx.Err())
		}
	}
	return nil
}

// query answers a query with its batches, after where it begins.
func (o *operation) query(ctx context.Context, m *pb.Request_Query) error {
	q := getQuery(m)
	ctx, cancel := o.untilDrain(ctx)
	defer cancel()
	if q.Validate() == nil {
		if err := o.settle(ctx, &q); err != nil {
			return o.orComeBack(ctx, err)
		}
		started := &pb.Started{Sources: putSources(q.Sources), Through: q.Through}
		if err := o.out.send(&pb.Response{Content: &pb.Response_Started{Started: started}}); err != nil {
			return err
		}
	}
	return each(ctx, o, o.log.Query(ctx, q), func(b runnel.SpaceBatch) *pb.Response {
		return &pb.Response{Content: &pb.Response_Batch{Batch: putBatch(&b)}}
	})
}

// settle puts numbers where a query says "the end", and "as it is now", so that they mean the same to
// another connection.
func (o *operation) settle(ctx context.Context, q *runnel.Query) error {
	for i := range q.Sources {
		s := &q.Sources[i]
		var end uint64
		switch {
		case s.Segment != "":
			info, err := o.log.Stat(ctx, s.Space.Segment(s.Segment))
			if err != nil {
				return err
			}
			if s.ID != 0 && s.ID != info.ID {
				return &runnel.NotFoundError{Segment: info.Segment}
			}
			s.ID, end = info.ID, uint64(info.Tail)
		case s.After == uint64(runnel.LatestPosition) || len(q.Sources) == 1 && !q.Follow:
			info, err := o.log.StatSpace(ctx, s.Space)
			if err != nil {
				return err
			}
			end = uint64(info.Head)
		}
		if s.After == uint64(runnel.Latest) {
			s.After = end
		}
		if len(q.Sources) == 1 && !q.Follow && end > 0 && (q.Through == 0 || q.Through > end) {
			q.Through = end
		}
	}
	return nil
}
