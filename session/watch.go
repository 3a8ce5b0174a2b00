package session

import (
	"context"
	"iter"
	"maps"
	"slices"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/session/internal/pb"
)

// WatchSegments yields what segments there are and each one that changes. After the connection was lost it
// says that there is another snapshot, as it does to a watcher that is far behind.
func (c *Client) WatchSegments(ctx context.Context, store runnel.Store, w runnel.SegmentWatch) iter.Seq2[runnel.Status, error] {
	return func(yield func(runnel.Status, error) bool) {
		told, again, done := false, false, false
		say := func(s runnel.Status) bool {
			told = true
			done = !yield(s, nil)
			return !done
		}
		err := c.stream(ctx, flow{
			endless: true,
			request: func() (*pb.Request, error) {
				again = told
				return &pb.Request{Operation: &pb.Request_WatchSegments_{WatchSegments: putWatch(store, w)}}, nil
			},
			take: func(resp *pb.Response) (bool, error) {
				if again {
					again = false
					if !say(runnel.Status{Mark: true}) {
						return false, nil
					}
				}
				m := resp.GetStatus()
				return say(runnel.Status{Info: getInfoIf(m.GetInfo()), Gone: m.GetGone(), Live: m.GetLive(), Mark: m.GetMark()}), nil
			},
		})
		if err != nil && !done {
			yield(runnel.Status{}, err)
		}
	}
}

func putWatch(store runnel.Store, w runnel.SegmentWatch) *pb.Request_WatchSegments {
	return &pb.Request_WatchSegments{Store: putStore(store), Prefix: w.Prefix, Direct: w.Direct, Exact: w.Exact}
}

func getWatch(m *pb.Request_WatchSegments) runnel.SegmentWatch {
	return runnel.SegmentWatch{Prefix: m.GetPrefix(), Direct: m.GetDirect(), Exact: m.GetExact()}
}

// WatchLeases yields the leases that are held and each one that is given or ends. After the connection was
// lost it tells what has changed meanwhile.
func (c *Client) WatchLeases(ctx context.Context, space runnel.Space, prefix string) iter.Seq2[runnel.LeaseEvent, error] {
	return func(yield func(runnel.LeaseEvent, error) bool) {
		w := leaseWatch{known: make(map[string]runnel.Lease)}
		w.yield = func(e runnel.LeaseEvent) bool {
			w.done = !yield(e, nil)
			return !w.done
		}
		err := c.stream(ctx, flow{
			endless: true,
			request: func() (*pb.Request, error) {
				w.snapshot = make(map[string]runnel.Lease)
				return &pb.Request{Operation: &pb.Request_WatchLeases{WatchLeases: &pb.Request_Leases{Space: putSpace(space), Prefix: prefix}}}, nil
			},
			take: func(resp *pb.Response) (bool, error) {
				m := resp.GetLeaseEvent()
				return w.take(runnel.LeaseEvent{Lease: getLease(m.GetLease()), Gone: m.GetGone(), Live: m.GetLive(), Mark: m.GetMark()}), nil
			},
		})
		if err != nil && !w.done {
			yield(runnel.LeaseEvent{}, err)
		}
	}
}

// leaseWatch makes one sequence of events of those that come over several connections.
type leaseWatch struct {
	yield func(runnel.LeaseEvent) bool
	done  bool
	live  bool                    // the first snapshot has been told
	known map[string]runnel.Lease // what has been told, by key
	// snapshot is what came over this connection before it said that this is all, nil afterwards.
	snapshot map[string]runnel.Lease
}

func (w *leaseWatch) take(e runnel.LeaseEvent) bool {
	switch {
	case e.Mark:
		return w.complete()
	case w.snapshot != nil:
		w.snapshot[e.Lease.Key] = e.Lease
		return true
	case e.Gone:
		delete(w.known, e.Lease.Key)
	default:
		w.known[e.Lease.Key] = e.Lease
	}
	return w.yield(e)
}

// complete tells how a snapshot differs from what has been told.
func (w *leaseWatch) complete() bool {
	now := w.snapshot
	w.snapshot = nil
	for _, key := range slices.Sorted(maps.Keys(w.known)) {
		if was := w.known[key]; now[key].Number != was.Number {
			if !w.yield(runnel.LeaseEvent{Lease: was, Gone: true, Live: true}) {
				return false
			}
		}
	}
	for _, key := range slices.Sorted(maps.Keys(now)) {
		if l := now[key]; w.known[key].Number != l.Number {
			if !w.yield(runnel.LeaseEvent{Lease: l, Live: w.live}) {
				return false
			}
		}
	}
	w.known = now
	if w.live {
		return true
	}
	w.live = true
	return w.yield(runnel.LeaseEvent{Live: true, Mark: true})
}
