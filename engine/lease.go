package engine

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/record"
	"github.com/runnelhq/runnel/storage"
)

// AcquireLease claims a key of a space for a time, and returns when the claim is durable. It is given
// when nobody holds the key, when the time of the holder is over, or when the holder itself asks.
//
// It fails with runnel.ErrLeaseHeld, if the request does not wait, with ErrInvalid and ErrTooLarge, and
// with ErrUnknown as Append does; if it happened then, nobody else is given the key before the time is
// over.
func (e *Engine) AcquireLease(ctx context.Context, space runnel.Space, q runnel.LeaseRequest) (runnel.Lease, error) {
	if err := checkLease(space, &q); err != nil {
		return runnel.Lease{}, err
	}
	for {
		lease, err := e.acquireLease(ctx, space, &q)
		var held *runnel.LeaseHeldError
		if !q.Wait || !errors.As(err, &held) {
			return lease, err
		}
		if err := e.waitLease(ctx, space, &held.Lease); err != nil {
			return runnel.Lease{}, err
		}
	}
}

func checkLease(space runnel.Space, q *runnel.LeaseRequest) error {
	if err := space.Validate(); err != nil {
		return err
	}
	if err := checkText("lease key", q.Key, runnel.MaxLeaseBytes); err != nil {
		return err
	}
	if err := checkText("lease holder", q.Holder, runnel.MaxLeaseBytes); err != nil {
		return err
	}
	if q.TTL < runnel.MinLeaseTTL || q.TTL > runnel.MaxLeaseTTL {
		return &runnel.InvalidError{What: "lease ttl", Rule: fmt.Sprintf("must be between %v and %v, not %v", runnel.MinLeaseTTL, runnel.MaxLeaseTTL, q.TTL)}
	}
	size := 0
	for name, value := range q.Metadata {
		size += len(name) + len(value)
	}
	if size > runnel.MaxLeaseMetadataBytes {
		return &runnel.TooLargeError{What: "lease metadata", Limit: runnel.MaxLeaseMetadataBytes, Got: int64(size)}
	}
	return nil
}

// checkText applies the rules for keys and names that are not those of segments.
func checkText(what, text string, most int) error {
	switch {
	case text == "":
		return &runnel.InvalidError{What: what, Rule: "must not be empty"}
	case len(text) > most:
		return &runnel.TooLargeError{What: what, Limit: int64(most), Got: int64(len(text))}
	case !utf8.ValidString(text):
		return &runnel.InvalidError{What: what, Rule: "must be UTF-8"}
	}
	return nil
}

// leaseRowBytes bounds what a lease takes in a batch.
const leaseRowBytes = 4*rowBytes + 2*runnel.MaxLeaseBytes + 2*runnel.MaxLeaseMetadataBytes

func (e *Engine) acquireLease(ctx context.Context, part runnel.Space, q *runnel.LeaseRequest) (runnel.Lease, error) {
	return retry(func() (runnel.Lease, error) { return e.tryAcquireLease(ctx, part, q) })
}

func (e *Engine) tryAcquireLease(ctx context.Context, space runnel.Space, q *runnel.LeaseRequest) (runnel.Lease, error) {
	var lease runnel.Lease
	err := e.writeLease(ctx, space, q.Key, func(t *tx) error {
		held, err := t.lease(q.Key)
		if err != nil {
			return err
		}
		if held != nil && (held.Holder != q.Holder || held.Metadata[runnel.LeaseSubject] != q.Metadata[runnel.LeaseSubject]) {
			return &runnel.LeaseHeldError{Lease: leaseOf(space, q.Key, held)}
		}
		next := record.Lease{
			Holder: q.Holder, Number: uint64(t.sp.position + 1), TTL: q.TTL, Metadata: maps.Clone(q.Metadata),
			Granted: t.micros, Deadline: t.micros + q.TTL.Microseconds(),
		}
		row := next.Append(nil)
		if most := e.fragment(); len(row) > most {
			return &runnel.TooLargeError{What: "lease", Limit: int64(most), Got: int64(len(row))}
		}
		if err := t.grow(); err != nil {
			return err
		}
		t.change(record.Leased, 0, t.take(1), 0, 0)
		t.setLease(q.Key, row)
		lease = leaseOf(space, q.Key, &next)
		return nil
	})
	return lease, err
}

// RenewLease begins the time of a lease again, and returns when that is durable. It fails with
// runnel.ErrLeaseLost when the lease is not held under the number any more, and with ErrUnknown as
// Append does.
func (e *Engine) RenewLease(ctx context.Context, space runnel.Space, f runnel.Fence) (runnel.Lease, error) {
	if err := checkFence(space, f); err != nil {
		return runnel.Lease{}, err
	}
	return retry(func() (lease runnel.Lease, err error) {
		err = e.writeLease(ctx, space, f.Key, func(t *tx) error {
			held, err := t.fence(f)
			if err != nil {
				return err
			}
			next := *held
			next.Deadline = t.micros + held.TTL.Microseconds()
			t.setRow(leaseKey(f.Key), next.Append(nil))
			lease = leaseOf(space, f.Key, &next)
			return nil
		})
		return lease, err
	})
}

// ReleaseLease ends a lease, and returns when that is durable. It fails as RenewLease does.
func (e *Engine) ReleaseLease(ctx context.Context, space runnel.Space, f runnel.Fence) error {
	if err := checkFence(space, f); err != nil {
		return err
	}
	return again(func() error {
		return e.writeLease(ctx, space, f.Key, func(t *tx) error {
			if _, err := t.fence(f); err != nil {
				return err
			}
			t.setLease(f.Key, nil)
			return nil
		})
	})
}

func checkFence(space runnel.Space, f runnel.Fence) error {
	if err := space.Validate(); err != nil {
		return err
	}
	return checkText("lease key", f.Key, runnel.MaxLeaseBytes)
}

// fenced returns nil if a lease is held under the number that a fence demands.
func fenced(f runnel.Fence, held *record.Lease) error {
	switch {
	case held == nil:
		return &runnel.LeaseLostError{Key: f.Key, Number: f.Number}
	case held.Number != f.Number:
		return &runnel.LeaseLostError{Key: f.Key, Number: f.Number, Current: held.Number}
	}
	return nil
}

// writeLease runs stage with the row of a lease in memory.
func (e *Engine) writeLease(ctx context.Context, space runnel.Space, key string, stage func(t *tx) error) error {
	sp, err := e.enter(ctx, space)
	if err != nil {
		return err
	}
	defer sp.leave()
	if err := sp.loadRow(ctx, leaseKey(key)); err != nil {
		return err
	}
	return sp.write(ctx, leaseRowBytes, 1, stage)
}

// fence returns the lease that a fence demands. That it is lost stays so even if the clock goes back: the
// row of one whose time is over goes with the answer.
func (t *tx) fence(f runnel.Fence) (*record.Lease, error) {
	held, err := t.lease(f.Key)
	if err != nil {
		return nil, err
	}
	if held == nil && t.row(leaseKey(f.Key)).value != nil {
		t.setLease(f.Key, nil)
	}
	return held, fenced(f, held)
}

// setLease stages that a lease is given, or ends.
func (t *tx) setLease(key string, value []byte) {
	t.setRow(leaseKey(key), value)
	t.b.leases = append(t.b.leases, key)
}

// lease returns who holds a key as staged, nil if nobody does or the time is over.
func (t *tx) lease(key string) (*record.Lease, error) {
	l, err := t.lastLease(key)
	switch {
	case l == nil || l.Deadline > t.micros:
		return l, err
	case !t.sp.e.limits.Exclusive && l.Deadline > t.sp.looked:
		return nil, errRetry // another process may have renewed it while there was time
	}
	return nil, nil //nolint:nilnil // nobody is an answer
}

// lastLease returns the last lease of a key as staged, also if its time is over, and nil if there is no row of one.
func (t *tx) lastLease(key string) (*record.Lease, error) {
	r := t.row(leaseKey(key))
	if r == nil {
		return nil, errRetry
	}
	t.dependOnRow(r)
	if r.value == nil {
		return nil, nil //nolint:nilnil // none is an answer
	}
	l, err := record.DecodeLease(r.value)
	if err != nil {
		return nil, err
	}
	return &l, nil
}

func leaseOf(space runnel.Space, key string, l *record.Lease) runnel.Lease {
	return runnel.Lease{
		Space: space, Key: key, Holder: l.Holder, Number: l.Number, TTL: l.TTL, Metadata: l.Metadata,
		Granted: time.UnixMicro(l.Granted).UTC(), Deadline: time.UnixMicro(l.Deadline).UTC(),
	}
}

// Leases yields the leases of a space that are held and whose keys have a prefix, in the order of their
// keys, beginning behind the key after, which need not exist.
func (e *Engine) Leases(ctx context.Context, space runnel.Space, prefix, after string) iter.Seq2[runnel.Lease, error] {
	return func(yield func(runnel.Lease, error) bool) {
		after := after
		for {
			page, now, err := e.leasePage(ctx, space, prefix, after)
			if err != nil {
				yield(runnel.Lease{}, err)
				return
			}
			for _, l := range page {
				after = l.Key
				if l.Deadline.UnixMicro() > now && !yield(l, nil) {
					return
				}
			}
			if len(page) < listPage {
				return
			}
		}
	}
}

// leasePage returns some leases, and a time before they were read: a lease whose time was not over then
// is held, or was just now.
func (e *Engine) leasePage(ctx context.Context, space runnel.Space, prefix, after string) (page []runnel.Lease, now int64, err error) {
	if err := space.Validate(); err != nil {
		return nil, 0, err
	}
	sp, err := e.enter(ctx, space)
	if err != nil {
		return nil, 0, err
	}
	defer sp.leave()
	now = sp.time()
	r := namedRange(leaseKey(""), prefix, after)
	for pair, err := range e.driver.Scan(ctx, space, r) {
		if err != nil {
			return nil, 0, storageError(err)
		}
		l, err := record.DecodeLease(pair.Value)
		if err != nil {
			return nil, 0, err
		}
		page = append(page, leaseOf(space, string(pair.Key[1:]), &l))
	}
	return page, now, sp.settled(ctx)
}

// namedRange spans a page of the rows under a key whose names have a prefix and follow a name.
func namedRange(under []byte, prefix, after string) storage.Range {
	from := append(append([]byte(nil), under...), prefix...)
	if after >= prefix && after != "" {
		from = append(append(append([]byte(nil), under...), after...), 0)
	}
	return storage.Range{From: from, To: prefixEnd(append(append([]byte(nil), under...), prefix...)), Limit: listPage}
}

// prefixEnd is the first key beyond all that begin with a prefix, nil if there is none.
func prefixEnd(prefix []byte) []byte {
	for i, b := range slices.Backward(prefix) {
		if b < 0xff {
			return append(prefix[:i:i], b+1)
		}
	}
	return nil
}

// waitLease returns when it is worth asking for a lease again.
func (e *Engine) waitLease(ctx context.Context, space runnel.Space, held *runnel.Lease) error {
	sp, err := e.enter(ctx, space)
	if err != nil {
		return err
	}
	defer sp.leave()
	w := sp.waitFreed(held.Key)
	defer sp.unwaitFreed(held.Key, w)
	// It may have been freed before anybody was there to be told.
	row, err := sp.readRow(ctx, leaseKey(held.Key))
	if err != nil || row == nil {
		return err
	}
	now, err := record.DecodeLease(row)
	if err != nil {
		return err
	}
	wait := max(time.UnixMicro(now.Deadline).Sub(e.cfg.Now()), time.Millisecond)
	if !e.limits.Exclusive {
		wait = min(wait, e.cfg.PollInterval)
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-w.freed:
		return nil
	case <-timer.C:
		return nil
	case <-e.closed:
		return runnel.ErrShutdown
	case <-ctx.Done():
		return ctx.Err()
	}
}

// leaseWait is what those who wait for a lease share.
type leaseWait struct {
	freed chan struct{} // closed when the lease is given to somebody, or ends
	users int
}

func (sp *space) waitFreed(key string) *leaseWait {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	w := sp.leaseWaits[key]
	if w == nil {
		w = &leaseWait{freed: make(chan struct{})}
		if sp.leaseWaits == nil {
			sp.leaseWaits = make(map[string]*leaseWait)
		}
		sp.leaseWaits[key] = w
	}
	w.users++
	return w
}

func (sp *space) unwaitFreed(key string, w *leaseWait) {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	if w.users--; w.users == 0 && sp.leaseWaits[key] == w {
		delete(sp.leaseWaits, key)
	}
}

// noteLeases wakes those who wait for leases, or watch them, when a commit that gives or ends some is
// durable, whether or not whoever asked for it is still there. It is called with sp.mu held.
func (sp *space) noteLeases(keys []string) {
	for _, key := range keys {
		if w := sp.leaseWaits[key]; w != nil {
			close(w.freed)
			delete(sp.leaseWaits, key)
		}
	}
	if sp.leases != nil {
		close(sp.leases)
		sp.leases = nil
	}
}

// expiredLeases removes the leases of a partition whose time has been over for a while.
func (e *Engine) expiredLeases(ctx context.Context, part storage.Partition) error {
	until := e.now() - leaseKept.Microseconds()
	var over []string
	for pair, err := range e.driver.Scan(ctx, part, kindRange(keyLease)) {
		if err != nil {
			return storageError(err)
		}
		l, err := record.DecodeLease(pair.Value)
		if err != nil {
			return err
		}
		if l.Deadline < until {
			over = append(over, string(pair.Key[1:]))
		}
	}
	for _, key := range over {
		err := again(func() error {
			return e.writeLease(ctx, part, key, func(t *tx) error {
				// The key may have been given again since, so its last lease may have to be kept for a while yet.
				last, err := t.lastLease(key)
				if last != nil && last.Deadline < until {
					t.setRow(leaseKey(key), nil)
				}
				return err
			})
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// leaseKept is how long a lease that is over keeps its row.
const leaseKept = time.Minute
