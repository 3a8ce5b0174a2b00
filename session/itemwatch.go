package session

import (
	"context"
	"iter"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/session/internal/pb"
)

func putItemWatch(w *runnel.ItemWatch) *pb.Request_WatchItems {
	return &pb.Request_WatchItems{
		Space: putSpace(w.Space), Group: w.Group, GroupPrefix: w.GroupPrefix, Type: w.Type, Prefix: w.Prefix, Item: putText(w.Item),
		Id: w.ID, After: uint64(w.After),
	}
}

func getItemWatch(m *pb.Request_WatchItems) runnel.ItemWatch {
	return runnel.ItemWatch{
		Space: getSpace(m.GetSpace()), Group: m.GetGroup(), GroupPrefix: m.GetGroupPrefix(), Type: m.GetType(), Prefix: m.GetPrefix(),
		Item: getText(m.GetItem()), ID: m.GetId(), After: runnel.Sequence(m.GetAfter()),
	}
}

// putItemNews returns news but for the items.
func putItemNews(n *runnel.ItemNews) *pb.ItemNews {
	m := &pb.ItemNews{
		Segment: putSegment(n.Segment), Id: n.ID, Last: uint64(n.Last), Position: uint64(n.Position), Snapshot: n.Snapshot, Gap: n.Gap,
		Complete: n.Complete, Lead: n.Lead,
	}
	for i := range n.Changes {
		m.Changes = append(m.Changes, putItemChange(&n.Changes[i]))
	}
	if n.Event != nil {
		m.Event = putItemEvent(n.Event)
	}
	return m
}

func getItemNews(m *pb.ItemNews) runnel.ItemNews {
	n := runnel.ItemNews{
		Segment: getSegment(m.GetSegment()), ID: m.GetId(), Last: runnel.Sequence(m.GetLast()), Position: runnel.Position(m.GetPosition()),
		Snapshot: m.GetSnapshot(), Items: getItems(nil, m.GetItems()), Gap: m.GetGap(), Complete: m.GetComplete(), Lead: m.GetLead(),
	}
	for _, c := range m.GetChanges() {
		n.Changes = append(n.Changes, getItemChange(c))
	}
	if m.GetEvent() != nil {
		e := getItemEvent(m.GetEvent())
		n.Event = &e
	}
	return n
}

func putItemChange(c *runnel.ItemChange) *pb.ItemChange {
	return &pb.ItemChange{
		Item: putItemKey(c.ItemKey), Op: uint32(c.Op), Value: c.Value, Old: c.Old, Sequence: uint64(c.Sequence), Position: uint64(c.Position),
		Time: putTime(c.Time), TxId: c.TxID, Expires: putTime(c.Expires), Stamp: c.Stamp,
	}
}

func getItemChange(m *pb.ItemChange) runnel.ItemChange {
	return runnel.ItemChange{
		ItemKey: getItemKey(m.GetItem()), Op: runnel.ItemOp(m.GetOp()), Value: m.GetValue(), Old: m.GetOld(), Sequence: runnel.Sequence(m.GetSequence()),
		Position: runnel.Position(m.GetPosition()), Time: getTime(m.GetTime()), TxID: m.GetTxId(), Expires: getTime(m.GetExpires()), Stamp: m.GetStamp(),
	}
}

func putItemEvent(e *runnel.ItemEvent) *pb.ItemEvent {
	return &pb.ItemEvent{
		Segment: putSegment(e.Segment), Item: putText(e.Item), Subscription: putText(e.Subscription), Type: e.Type, Data: e.Data,
		Id: e.ID, Tail: uint64(e.Tail),
	}
}

func getItemEvent(m *pb.ItemEvent) runnel.ItemEvent {
	return runnel.ItemEvent{
		Segment: getSegment(m.GetSegment()), Item: getText(m.GetItem()), Subscription: getText(m.GetSubscription()), Type: m.GetType(),
		Data: m.GetData(), ID: m.GetId(), Tail: runnel.Sequence(m.GetTail()),
	}
}

// SendItem tells those who watch a group of an event. It is not sent twice: where the answer is lost it fails
// with runnel.ErrUnknown.
func (c *Client) SendItem(ctx context.Context, e runnel.ItemEvent) error {
	_, err := c.call(ctx, never, &pb.Request{Operation: &pb.Request_SendItem{SendItem: putItemEvent(&e)}})
	return err
}

// WatchItems yields the items that there are, and then each change, and each event that is sent. After the
// connection was lost it goes on behind the last change of the group that was handed over; several groups
// are told once more, as they are by then. Events that were sent meanwhile are lost.
func (c *Client) WatchItems(ctx context.Context, w runnel.ItemWatch) iter.Seq2[runnel.ItemNews, error] {
	return func(yield func(runnel.ItemNews, error) bool) {
		if err := w.Validate(); err != nil {
			yield(runnel.ItemNews{}, err)
			return
		}
		p := itemProgress{w: w, known: make(map[string]bool)}
		p.yield = func(n runnel.ItemNews) bool {
			p.done = !yield(n, nil)
			return !p.done
		}
		err := c.stream(ctx, flow{
			endless: true,
			request: func() (*pb.Request, error) {
				p.part, p.retold = nil, make(map[string]bool)
				return &pb.Request{Operation: &pb.Request_WatchItems_{WatchItems: putItemWatch(&p.w)}}, nil
			},
			take: func(resp *pb.Response) (bool, error) { return p.take(resp.GetItemNews()), nil },
		})
		if err != nil && !p.done {
			yield(runnel.ItemNews{}, err)
		}
	}
}

// itemProgress makes one sequence of news of those that come over several connections.
type itemProgress struct {
	w     runnel.ItemWatch // that goes on from here
	part  *runnel.ItemNews // the items of which have not all come
	yield func(runnel.ItemNews) bool
	done  bool
	// known are the groups of several that have been told, and retold those of the snapshot that comes over
	// this connection, nil when it is complete.
	known, retold map[string]bool
}

func (p *itemProgress) take(m *pb.ItemNews) bool {
	if p.part != nil {
		p.part.Items = getItems(p.part.Items, m.GetItems())
	} else {
		n := getItemNews(m)
		p.part = &n
	}
	if m.GetContinued() {
		return true
	}
	n := *p.part
	p.part = nil
	if p.w.Group != "" {
		if n.Event == nil {
			p.w.ID, p.w.After = n.ID, n.Last
		}
		return p.yield(n)
	}
	return p.several(n)
}

// several takes news of several groups.
func (p *itemProgress) several(n runnel.ItemNews) bool {
	switch name := n.Segment.Name; {
	case n.Complete:
		for name := range p.known {
			if p.retold != nil && !p.retold[name] {
				delete(p.known, name)
				if !p.yield(runnel.ItemNews{Segment: p.w.Space.Segment(name), Snapshot: true}) {
					return false
				}
			}
		}
		p.retold = nil
	case n.Event != nil:
	case n.Snapshot && n.ID == 0:
		delete(p.known, name)
	default:
		p.known[name] = true
		if p.retold != nil {
			p.retold[name] = true
		}
	}
	return p.yield(n)
}

// watchItems answers with news of items, in parts where there are many.
func (o *operation) watchItems(ctx context.Context, m *pb.Request_WatchItems) error {
	ctx, cancel := o.untilDrain(ctx)
	defer cancel()
	for n, err := range o.log.WatchItems(ctx, getItemWatch(m)) {
		if err != nil {
			return o.orComeBack(ctx, err)
		}
		part := putItemNews(&n)
		for items, continued := range parts(n.Items) {
			part.Items, part.Continued = items, continued
			if err := o.out.send(&pb.Response{Content: &pb.Response_ItemNews{ItemNews: part}}); err != nil {
				return err
			}
			part = new(pb.ItemNews)
		}
	}
	return nil
}
