package engine

import (
	"cmp"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"iter"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/record"
	"github.com/runnelhq/runnel/storage"
)

// deliveries are the webhooks that are to be called.
type deliveries struct {
	mu      sync.Mutex
	waiting map[deliveryKey]runnel.WebhookPending
	fresh   map[deliveryKey]struct{} // those of them that have yet to be told of
	changed chan struct{}            // holds a token when there are fresh ones
}

type deliveryKey struct {
	store runnel.Store
	id    string
}

func (d *deliveries) add(p runnel.WebhookPending) {
	d.mu.Lock()
	if d.waiting == nil {
		d.waiting, d.fresh = make(map[deliveryKey]runnel.WebhookPending), make(map[deliveryKey]struct{})
	}
	key := deliveryKey{p.Store, p.Subscription}
	d.waiting[key], d.fresh[key] = p, struct{}{}
	d.mu.Unlock()
	select {
	case d.changed <- struct{}{}:
	default:
	}
}

// drop says that the wake of a subscription is not to be delivered, or not yet.
func (d *deliveries) drop(store runnel.Store, id string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.waiting, deliveryKey{store, id})
	delete(d.fresh, deliveryKey{store, id})
}

// take returns what has been added since it was called last, or all that waits, the earliest due first.
func (d *deliveries) take(everything bool) []runnel.WebhookPending {
	d.mu.Lock()
	defer d.mu.Unlock()
	all := make([]runnel.WebhookPending, 0, len(d.fresh))
	for key, p := range d.waiting {
		if _, fresh := d.fresh[key]; fresh || everything {
			all = append(all, p)
		}
	}
	clear(d.fresh)
	slices.SortFunc(all, func(a, b runnel.WebhookPending) int {
		return cmp.Or(a.Due.Compare(b.Due), strings.Compare(a.Subscription, b.Subscription))
	})
	return all
}

// WebhookPending yields the wakes that are to be delivered: first all that there are, and then each one that
// begins, is to be tried again, or whose attempt was not settled in time. It may repeat itself. There is one
// who ranges over it at a time. It ends with ctx, or when the engine closes.
func (e *Engine) WebhookPending(ctx context.Context) iter.Seq[runnel.WebhookPending] {
	return func(yield func(runnel.WebhookPending) bool) {
		for everything := true; ; everything = false {
			for _, p := range e.subscriptions.ready.take(everything) {
				if !yield(p) {
					return
				}
			}
			select {
			case <-e.subscriptions.ready.changed:
			case <-ctx.Done():
				return
			case <-e.closed:
				return
			}
		}
	}
}

// attempting tells whether somebody may be delivering.
func (s *subscriber) attempting(row *record.Subscription, micros int64) bool {
	if s.of.e.limits.Exclusive && row.Engine != s.of.e.name() {
		return false // whoever began is no more
	}
	return row.Attempt > micros
}

// name tells the engine from every other, in rows.
func (e *Engine) name() string { return hex.EncodeToString(e.id[:]) }

// tellWebhook hands a wake out that is to be delivered, and sees to it that its end is not missed.
func (s *subscriber) tellWebhook(row *record.Subscription) {
	ready := &s.of.e.subscriptions.ready
	switch now := s.of.e.now(); {
	case row.WakeID == "" || row.Parked:
		ready.drop(s.of.store, s.id)
	case row.Accepted:
		ready.drop(s.of.store, s.id)
		s.kickAt(row.Deadline)
	case s.attempting(row, now):
		ready.drop(s.of.store, s.id)
		s.kickAt(row.Attempt)
	default:
		p := runnel.WebhookPending{Store: s.of.store, Subscription: s.id, Generation: row.Generation, URL: row.Config.WebhookURL}
		if row.NextAttempt > 0 {
			p.Due = time.UnixMicro(row.NextAttempt).UTC()
		}
		ready.add(p)
	}
}

// ClaimDelivery takes a wake to deliver it, until a time, and gives it a lease from this moment on. It
// fails with runnel.ErrFenced if there is nothing to deliver, or not yet, or somebody else does.
func (e *Engine) ClaimDelivery(ctx context.Context, store runnel.Store, id string, until time.Time) (runnel.WebhookDelivery, error) {
	s, err := e.subscriber(ctx, store, id)
	if err != nil {
		if errors.Is(err, runnel.ErrNotFound) {
			e.subscriptions.ready.drop(store, id)
		}
		return runnel.WebhookDelivery{}, err
	}
	if err := s.gate.enter(ctx); err != nil {
		return runnel.WebhookDelivery{}, err
	}
	defer s.gate.leave()
	var row record.Subscription
	o, err := s.offer(ctx, func(c *change, o *outlook) error {
		defer func() { row = c.row }()
		r := &c.row
		switch {
		case r.Config.Type != runnel.Webhook || r.WakeID == "" || r.Accepted || r.Parked:
			return runnel.ErrFenced
		case r.NextAttempt > c.t.micros || s.attempting(r, c.t.micros):
			return runnel.ErrFenced
		}
		if err := c.give(o.stands); err != nil {
			return err
		}
		r.Attempt, r.Engine = max(until.UnixMicro(), c.t.micros+1), e.name()
		r.Deadline = c.t.micros + s.ttl()
		r.Accepted = false
		if len(o.pending) == 0 {
			c.clear() // its streams are gone
		}
		c.save()
		return nil
	})
	if err == nil || errors.Is(err, runnel.ErrFenced) {
		s.tellWebhook(&row) // another process may have changed it, and not have told this one
	}
	if err != nil {
		return runnel.WebhookDelivery{}, err
	}
	if row.WakeID == "" {
		s.kick()
		return runnel.WebhookDelivery{}, runnel.ErrFenced
	}
	w, err := s.wake(ctx, &row, o)
	d := runnel.WebhookDelivery{Wake: w, URL: row.Config.WebhookURL, Base: row.Config.Base, Failures: int(row.Failures)}
	if row.FailingSince > 0 {
		d.FailingSince = time.UnixMicro(row.FailingSince).UTC()
	}
	return d, err
}

// SettleDelivery stores what became of an attempt. It fails with runnel.ErrFenced if the wake is over.
func (e *Engine) SettleDelivery(ctx context.Context, d runnel.WebhookDelivery, o runnel.WebhookOutcome) error {
	if o.Result == runnel.WebhookDone {
		acks := make([]runnel.WakeAck, 0, len(d.Streams))
		for _, l := range d.Streams {
			if l.Pending() {
				acks = append(acks, runnel.WakeAck{Path: l.Path, Acked: l.Tail})
			}
		}
		_, err := e.endWake(ctx, d.WakeRef, acks, true, true)
		return err
	}
	s, err := e.subscriber(ctx, d.Store, d.Subscription)
	if err != nil {
		return err
	}
	if err := s.gate.enter(ctx); err != nil {
		return err
	}
	defer s.gate.leave()
	err = s.change(ctx, nil, func(c *change) error {
		r := &c.row
		if r.Instance != d.Instance || r.Generation != d.Generation || r.WakeID != d.WakeID || r.WakeID == "" || r.Accepted {
			return runnel.ErrFenced
		}
		r.Attempt, r.Engine = 0, ""
		r.Failures, r.LastStatus, r.LastReason = uint64(o.Failures), uint64(max(o.Status, 0)), clipText(o.Reason)
		r.FailingSince, r.NextAttempt = microsOrZero(o.FailingSince), microsOrZero(o.NextAttempt)
		switch o.Result {
		case runnel.WebhookAccepted:
			r.Accepted, r.Parked = true, false
			if r.Deadline == 0 { // another attempt has failed meanwhile
				r.Deadline = c.t.micros + s.ttl()
			}
		case runnel.WebhookParked:
			r.Parked, r.Deadline = true, 0
		default:
			r.Deadline = 0 // no lease runs while an attempt is waited for
		}
		c.save()
		return nil
	})
	s.kick()
	return err
}

// reasonBytes bounds a reason that is kept.
const reasonBytes = 256

func clipText(s string) string {
	return strings.ToValidUTF8(s[:min(len(s), reasonBytes)], "")
}

// ReplayDelivery lets a parked or failing delivery be tried at once.
func (e *Engine) ReplayDelivery(ctx context.Context, store runnel.Store, id string) error {
	s, err := e.subscriber(ctx, store, id)
	if err != nil {
		return err
	}
	if err := s.gate.enter(ctx); err != nil {
		return err
	}
	defer s.gate.leave()
	err = s.change(ctx, nil, func(c *change) error {
		c.row.Parked, c.row.NextAttempt = false, min(c.row.NextAttempt, c.t.micros)
		c.save()
		return nil
	})
	s.kick()
	return err
}

// LoadKeys returns what StoreKeys has kept for a store, and its version; nothing and 0 at first.
func (e *Engine) LoadKeys(ctx context.Context, store runnel.Store) (data []byte, version uint64, err error) {
	if known, err := e.hasKeys(ctx, store); !known {
		return nil, 0, err
	}
	sp, err := e.enter(ctx, controlOf(store))
	if err != nil {
		return nil, 0, err
	}
	defer sp.leave()
	value, err := sp.readRow(ctx, []byte{keySecrets})
	version, data = splitSecrets(value)
	return data, version, err
}

// hasKeys tells whether storage has keys of a store, which leaves nothing in memory: anybody may ask for those
// of any store.
func (e *Engine) hasKeys(ctx context.Context, store runnel.Store) (bool, error) {
	if err := e.begin(); err != nil {
		return false, err
	}
	defer e.operations.Done()
	switch _, err := e.driver.Get(ctx, controlOf(store), []byte{keySecrets}); {
	case errors.Is(err, storage.ErrKeyNotFound):
		return false, nil
	case err != nil:
		return false, storageError(err)
	}
	return true, nil
}

// StoreKeys keeps bytes for a store if those there have a version, and returns when they are durable. It
// fails with runnel.ErrFenced if they have another.
func (e *Engine) StoreKeys(ctx context.Context, store runnel.Store, data []byte, version uint64) error {
	key := []byte{keySecrets}
	return again(func() error {
		sp, err := e.enter(ctx, controlOf(store))
		if err != nil {
			return err
		}
		defer sp.leave()
		if err := sp.loadRow(ctx, key); err != nil {
			return err
		}
		return sp.write(ctx, len(data)+2*rowBytes, 1, func(t *tx) error {
			r := t.row(key)
			if r == nil {
				return errRetry
			}
			t.dependOnRow(r)
			if have, _ := splitSecrets(r.value); have != version {
				return runnel.ErrFenced
			}
			if err := t.grow(); err != nil {
				return err
			}
			t.setRow(key, append(binary.BigEndian.AppendUint64(nil, version+1), data...))
			return nil
		})
	})
}
