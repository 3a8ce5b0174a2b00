package linear

import (
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/storage"
)

// coordinationMutations are ways to be wrong about leases, cursors and transactions.
var coordinationMutations = []wrong{
	{"a fencing number is given twice", leaseModel, kind{driver: "memory"}, ofLog(func(l log) log { return &numbering{log: l} })},
	{"a lease is given while somebody has it", leaseModel, kind{driver: "pebble"}, ofLog(func(l log) log { return generous{l} })},
	{"a fence is not looked at", leaseModel, kind{driver: "memory", remote: true}, ofLog(func(l log) log { return fenceless{l} })},
	{"a lease outlives its time", leaseModel, kind{driver: "memory"}, ofLog(func(l log) log { return enduring{l} })},
	{"a release is acknowledged and not made", leaseModel, kind{driver: "shared"}, ofLog(func(l log) log { return keeping{l} })},
	{"a cursor goes back", cursorModel, kind{driver: "memory"}, ofLog(func(l log) log { return rewinding{l} })},
	{"the condition of a cursor is not looked at", cursorModel, kind{driver: "shared"}, ofLog(func(l log) log { return unconditional{l} })},
	{"a cursor is read as it was", cursorModel, kind{driver: "memory", remote: true}, ofLog(func(l log) log { return &behind{log: l, seen: make(map[cursorName]runnel.Cursor)} })},
	{"a removal of a cursor is acknowledged and not made", cursorModel, kind{driver: "pebble"}, ofLog(func(l log) log { return attached{l} })},
	{"a transaction is made in halves", transactModel, kind{driver: "memory"}, ofLog(func(l log) log { return inHalves{l} })},
	{"a transaction leaves its cursor where it is", transactModel, kind{driver: "pebble"}, ofLog(func(l log) log { return unmoved{l} })},
	{"a transaction that its cursor stands against leaves its writes", transactModel, kind{driver: "memory", remote: true}, ofLog(func(l log) log { return leaving{l} })},
	{"a transaction whose answer was lost is made again", transactModel, kind{driver: "shared", faults: true}, func() mutation {
		return mutation{driver: func(d storage.Driver) storage.Driver { return lying{d} }}
	}},
}

// numbering gives numbers that it has given before.
type numbering struct {
	log
	mu   sync.Mutex
	last uint64
}

func (l *numbering) Acquire(ctx context.Context, q runnel.LeaseRequest) (runnel.Lease, error) {
	lease, err := l.log.Acquire(ctx, q)
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil && l.last > 0 && sometimesWrong() {
		lease.Number = l.last
	} else if err == nil {
		l.last = lease.Number
	}
	return lease, err
}

// generous gives a lease that somebody has.
type generous struct{ log }

func (l generous) Acquire(ctx context.Context, q runnel.LeaseRequest) (runnel.Lease, error) {
	lease, err := l.log.Acquire(ctx, q)
	if held, ok := errors.AsType[*runnel.LeaseHeldError](err); ok && sometimesWrong() {
		q.Holder = held.Lease.Holder
		return l.log.Acquire(ctx, q)
	}
	return lease, err
}

// fenceless makes transactions whoever has the leases.
type fenceless struct{ log }

func (l fenceless) Transact(ctx context.Context, t runnel.Transaction) (runnel.Committed, error) {
	t.Fences = nil
	return l.log.Transact(ctx, t)
}

// enduring gives leases for longer than it says.
type enduring struct{ log }

func (l enduring) Acquire(ctx context.Context, q runnel.LeaseRequest) (runnel.Lease, error) {
	ttl := q.TTL
	q.TTL += 4 * tick
	lease, err := l.log.Acquire(ctx, q)
	lease.TTL, lease.Deadline = ttl, lease.Deadline.Add(-4*tick)
	return lease, err
}

// keeping does not end leases.
type keeping struct{ log }

func (l keeping) Release(ctx context.Context, f runnel.Fence) error {
	_, err := l.log.Renew(ctx, f)
	return err
}

// rewinding lets cursors go back.
type rewinding struct{ log }

func (l rewinding) Transact(ctx context.Context, t runnel.Transaction) (runnel.Committed, error) {
	t.Cursors = slices.Clone(t.Cursors)
	for i := range t.Cursors {
		t.Cursors[i].Rewind = true
	}
	return l.log.Transact(ctx, t)
}

// unconditional moves cursors wherever they are.
type unconditional struct{ log }

func (l unconditional) Transact(ctx context.Context, t runnel.Transaction) (runnel.Committed, error) {
	t.Cursors = slices.Clone(t.Cursors)
	for i := range t.Cursors {
		t.Cursors[i].Expect = nil
	}
	return l.log.Transact(ctx, t)
}

// behind returns an earlier read of the same cursor.
type behind struct {
	log
	mu   sync.Mutex
	seen map[cursorName]runnel.Cursor
}

func (l *behind) Cursor(ctx context.Context, segment, name string) (runnel.Cursor, error) {
	c, err := l.log.Cursor(ctx, segment, name)
	l.mu.Lock()
	defer l.mu.Unlock()
	at := cursorName{segment, name}
	if was, ok := l.seen[at]; ok && err == nil && sometimesWrong() {
		return was, nil
	}
	if err == nil {
		l.seen[at] = c
	}
	return c, err
}

// attached keeps cursors that are removed.
type attached struct{ log }

func (l attached) DeleteCursor(ctx context.Context, segment, name string) error {
	_, err := l.Cursor(ctx, segment, name)
	return err
}

// inHalves makes the writes of a transaction one by one, and moves its cursors with the last.
type inHalves struct{ log }

func (l inHalves) Transact(ctx context.Context, t runnel.Transaction) (runnel.Committed, error) {
	if len(t.Writes) < 2 {
		return l.log.Transact(ctx, t)
	}
	first, err := l.log.Transact(context.WithoutCancel(ctx), runnel.Transaction{Writes: t.Writes[:1]})
	if err != nil {
		return first, err
	}
	t.Writes = t.Writes[1:]
	rest, err := l.log.Transact(context.WithoutCancel(ctx), t)
	rest.Appended = slices.Concat(first.Appended, rest.Appended)
	return rest, err
}

// unmoved makes the writes of a transaction only.
type unmoved struct{ log }

func (l unmoved) Transact(ctx context.Context, t runnel.Transaction) (runnel.Committed, error) {
	if len(t.Writes) > 0 && sometimesWrong() {
		t.Cursors = nil
	}
	return l.log.Transact(ctx, t)
}

// leaving makes the writes of a transaction that is refused for its cursor.
type leaving struct{ log }

func (l leaving) Transact(ctx context.Context, t runnel.Transaction) (runnel.Committed, error) {
	c, err := l.log.Transact(ctx, t)
	if errors.Is(err, runnel.ErrCursorMoved) {
		_, _ = l.log.Transact(context.WithoutCancel(ctx), runnel.Transaction{Writes: t.Writes})
	}
	return c, err
}
