package runnel

import (
	"context"
	"iter"
	"time"
)

// Log is every operation of the log. An engine is one, and so is a connection to a server; access control
// and telemetry wrap one. Whoever needs less declares the smaller interface that it needs.
//
// On every Log the same call is answered with the same results, in the same order, and fails with errors
// of the same types; the methods of engine.Engine say which. Over a network two things are added: an
// operation that cannot reach the server fails with ErrUnavailable, and a write whose answer was lost
// with ErrUnknown.
//
// Records belong to the caller again when the call returns. What a Log returns may be shared with
// others: it must not be changed, and may be kept.
type Log interface {
	// Append adds records to the end of a segment, all or none.
	Append(ctx context.Context, segment Segment, o AppendOptions, records ...Record) (Appended, error)
	// Transact makes one commit to a space, of several writes under conditions, all or nothing.
	Transact(ctx context.Context, space Space, t Transaction) (Committed, error)
	// Create makes a segment.
	Create(ctx context.Context, segment Segment, o CreateOptions) (Created, error)
	// Delete removes a segment.
	Delete(ctx context.Context, segment Segment) error

	// Stat describes a segment.
	Stat(ctx context.Context, segment Segment) (Info, error)
	// StatSpace describes a space.
	StatSpace(ctx context.Context, space Space) (SpaceInfo, error)
	// Peek returns the last entry of a segment, and the zero Entry where it holds none.
	Peek(ctx context.Context, segment Segment) (Entry, error)
	// SequenceAt returns the place in a segment before the first entry of a time or later.
	SequenceAt(ctx context.Context, segment Segment, t time.Time) (Sequence, error)
	// PositionAt returns the place in a space before the first entry of a time or later.
	PositionAt(ctx context.Context, space Space, t time.Time) (Position, error)
	// Query reads entries, and follows what is appended if asked to.
	Query(ctx context.Context, q Query) iter.Seq2[SpaceBatch, error]

	// Stores yields the stores, beginning behind one.
	Stores(ctx context.Context, after Store) iter.Seq2[Store, error]
	// Spaces yields the spaces of a store whose names have a prefix, beginning behind one.
	Spaces(ctx context.Context, store Store, prefix, after string) iter.Seq2[Space, error]
	// List yields segments of a store.
	List(ctx context.Context, store Store, o ListOptions) iter.Seq2[Info, error]
	// WatchSegments yields what segments there are and each one that changes.
	WatchSegments(ctx context.Context, store Store, w SegmentWatch) iter.Seq2[Status, error]

	// Item returns an item.
	Item(ctx context.Context, segment Segment, key ItemKey) (Item, error)
	// Items returns items of a segment as of one moment.
	Items(ctx context.Context, segment Segment, q ItemQuery) (ItemView, error)
	// WatchItems yields the items that there are, and then each change, and each event that is sent. Transact
	// writes items.
	WatchItems(ctx context.Context, w ItemWatch) iter.Seq2[ItemNews, error]
	// SendItem tells those who watch a group of an event.
	SendItem(ctx context.Context, e ItemEvent) error

	// Cursor returns the stored place of a reader.
	Cursor(ctx context.Context, name CursorName) (Cursor, error)
	// Cursors yields the cursors of a segment, or of a space, whose names have a prefix, behind one.
	Cursors(ctx context.Context, space Space, segment, prefix, after string) iter.Seq2[Cursor, error]
	// DeleteCursor removes a cursor. Transact moves one.
	DeleteCursor(ctx context.Context, name CursorName) error

	// AcquireLease claims a key of a space for a time.
	AcquireLease(ctx context.Context, space Space, q LeaseRequest) (Lease, error)
	// RenewLease begins the time of a lease again.
	RenewLease(ctx context.Context, space Space, f Fence) (Lease, error)
	// ReleaseLease ends a lease.
	ReleaseLease(ctx context.Context, space Space, f Fence) error
	// Leases yields the leases of a space whose keys have a prefix, behind one.
	Leases(ctx context.Context, space Space, prefix, after string) iter.Seq2[Lease, error]
	// WatchLeases yields the leases that are held and each one that is given or ends.
	WatchLeases(ctx context.Context, space Space, prefix string) iter.Seq2[LeaseEvent, error]
}

// SubscriptionLog is what callers ask of the subscriptions of a store. An engine is one, and access control wraps
// one. Acks and releases of a wake are not among them: they come with the token of that wake, which is good for
// nothing else. Each fails as the method of engine.Engine says.
type SubscriptionLog interface {
	// CreateSubscription makes a subscription, or finds that there is one of the same configuration.
	CreateSubscription(ctx context.Context, store Store, id string, config SubscriptionConfig) (sub Subscription, existed bool, err error)
	// Subscription returns a subscription.
	Subscription(ctx context.Context, store Store, id string) (Subscription, error)
	// Subscriptions yields the subscriptions of a store, beginning behind one.
	Subscriptions(ctx context.Context, store Store, after string) iter.Seq2[Subscription, error]
	// SubscriptionLinks yields the streams of a subscription.
	SubscriptionLinks(ctx context.Context, store Store, id string) iter.Seq2[SubscriptionLink, error]
	// DeleteSubscription removes a subscription.
	DeleteSubscription(ctx context.Context, store Store, id string) error
	// LinkStreams links streams to a subscription by name, and UnlinkStream takes one away.
	LinkStreams(ctx context.Context, store Store, id string, paths []string) error
	UnlinkStream(ctx context.Context, store Store, id, path string) error
	// ClaimWake gives a worker the wake of a pull-wake subscription, with a lease on it.
	ClaimWake(ctx context.Context, store Store, id, worker string) (Wake, error)
	// ReplayDelivery lets a delivery that is parked, or fails, be tried at once. DropDelivery ends its wake as if all
	// had been worked on.
	ReplayDelivery(ctx context.Context, store Store, id string) error
	DropDelivery(ctx context.Context, store Store, id string) error
}
