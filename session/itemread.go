package session

import (
	"context"
	"iter"
	"slices"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/session/internal/pb"
)

// partBytes is about how many bytes of items go into one message. What has more is told in parts.
const partBytes = 256 << 10

// parts cuts items into parts that are not much larger than partBytes; there is at least one, and continued
// says that another one follows.
func parts(items []runnel.Item) iter.Seq2[[]*pb.Item, bool] {
	return func(yield func([]*pb.Item, bool) bool) {
		for {
			n, size := 0, 0
			for n < len(items) && size < partBytes {
				size += len(items[n].Value) + len(items[n].Key) + 64
				n++
			}
			part := make([]*pb.Item, n)
			for i := range part {
				part[i] = putItem(&items[i])
			}
			items = items[n:]
			if !yield(part, len(items) > 0) || len(items) == 0 {
				return
			}
		}
	}
}

func getItems(all []runnel.Item, m []*pb.Item) []runnel.Item {
	all = slices.Grow(all, len(m))
	for _, one := range m {
		if item := getItem(one); item != nil {
			all = append(all, *item)
		}
	}
	return all
}

func putText(s *string) *pb.Text {
	if s == nil {
		return nil
	}
	return &pb.Text{Text: *s}
}

func getText(m *pb.Text) *string {
	if m == nil {
		return nil
	}
	s := m.GetText()
	return &s
}

// putItemView returns a view but for its items.
func putItemView(v *runnel.ItemView) *pb.ItemView {
	return &pb.ItemView{Info: putInfo(&v.Info), More: v.More, Next: v.Next, Lead: v.Lead}
}

func getItemView(m *pb.ItemView) runnel.ItemView {
	return runnel.ItemView{Info: getInfoIf(m.GetInfo()), Items: getItems(nil, m.GetItems()), More: m.GetMore(), Next: m.GetNext(), Lead: m.GetLead()}
}

func putItemQuery(segment runnel.Segment, q *runnel.ItemQuery) *pb.Request_ReadItems {
	return &pb.Request_ReadItems{Segment: putSegment(segment), Type: q.Type, Prefix: q.Prefix, After: q.After, Limit: int64(q.Limit)}
}

func getItemQuery(m *pb.Request_ReadItems) (runnel.Segment, runnel.ItemQuery) {
	return getSegment(m.GetSegment()), runnel.ItemQuery{Type: m.GetType(), Prefix: m.GetPrefix(), After: m.GetAfter(), Limit: int(m.GetLimit())}
}

// Item returns an item.
func (c *Client) Item(ctx context.Context, segment runnel.Segment, key runnel.ItemKey) (runnel.Item, error) {
	req := &pb.Request_ReadItem{Segment: putSegment(segment), Item: putItemKey(key)}
	resp, err := c.call(ctx, asIs, &pb.Request{Operation: &pb.Request_Item{Item: req}})
	if item := getItem(resp.GetItem()); err == nil && item != nil {
		return *item, nil
	}
	return runnel.Item{}, err
}

// Items returns items of a segment as of one moment.
func (c *Client) Items(ctx context.Context, segment runnel.Segment, q runnel.ItemQuery) (v runnel.ItemView, err error) {
	err = c.stream(ctx, flow{
		request: func() (*pb.Request, error) {
			v = runnel.ItemView{} // as of another moment
			return &pb.Request{Operation: &pb.Request_Items{Items: putItemQuery(segment, &q)}}, nil
		},
		take: func(resp *pb.Response) (bool, error) {
			m := resp.GetItemView()
			if m.GetInfo() == nil {
				v.Items = getItems(v.Items, m.GetItems())
			} else {
				v = getItemView(m)
			}
			return true, nil
		},
	})
	if err != nil {
		return runnel.ItemView{}, err
	}
	return v, nil
}

// items answers with the items of a segment, in parts.
func (o *operation) items(ctx context.Context, m *pb.Request_ReadItems) error {
	segment, q := getItemQuery(m)
	v, err := o.log.Items(ctx, segment, q)
	if err != nil {
		return err
	}
	part := putItemView(&v)
	for items, continued := range parts(v.Items) {
		part.Items, part.Continued = items, continued
		if err := o.out.send(&pb.Response{Content: &pb.Response_ItemView{ItemView: part}}); err != nil {
			return err
		}
		part = new(pb.ItemView)
	}
	return nil
}
