package client

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/runnelhq/runnel"
)

// WithLease calls a function while it holds a lease, and releases it afterwards. The lease is renewed all
// the while. An empty Holder is given a name of its own.
//
// The function's context ends when the lease is lost, and no later than the lease does by the clock of
// this process, measured from before the request was sent: also when the server cannot be reached any
// more. Its cause is then a [*runnel.LeaseLostError]. What must not happen after that, however late, is
// written with the lease's Fence in the transaction.
//
// It fails with runnel.ErrLeaseHeld if somebody else holds the lease and the request does not wait, with
// the cause if the lease was lost while the function went on, and otherwise with the function's error.
func (c *Client) WithLease(ctx context.Context, space runnel.Space, q runnel.LeaseRequest, f func(ctx context.Context, l runnel.Lease) error) error {
	q.Holder = cmp.Or(q.Holder, uuid.NewString())
	h, err := c.hold(ctx, space, q)
	if err != nil {
		return err
	}
	err = f(h.ctx, h.lease)
	if lost := h.end(); lost != nil {
		return errors.Join(lost, err)
	}
	return err
}

// held is a lease that is renewed until end is called.
type held struct {
	c     *Client
	lease runnel.Lease
	// ctx ends with the lease.
	ctx    context.Context //nolint:containedctx // it is handed to whoever holds the lease
	cancel context.CancelCauseFunc
	stop   context.CancelFunc // of the renewals
	all    sync.WaitGroup

	mu   sync.Mutex
	lost error
}

// releaseTimeout bounds how long a release may take after everything is over. The lease then ends with
// its time.
const releaseTimeout = 5 * time.Second

// hold acquires a lease, and renews it until end is called.
func (c *Client) hold(ctx context.Context, space runnel.Space, q runnel.LeaseRequest) (*held, error) {
	sent := time.Now()
	lease, err := c.AcquireLease(ctx, space, q)
	if err != nil {
		return nil, err
	}
	if q.Wait && time.Since(sent) > lease.TTL/4 {
		// Some of that was spent waiting. A renewal tells from when on the lease is ours at least.
		sent = time.Now()
		if lease, err = c.RenewLease(ctx, space, lease.Fence()); err != nil {
			return nil, err
		}
	}
	h := &held{c: c, lease: lease}
	h.ctx, h.cancel = context.WithCancelCause(ctx)
	renewing, stop := context.WithCancel(h.ctx)
	h.stop = stop
	timer := time.AfterFunc(time.Until(sent.Add(mine(lease.TTL))), h.expire)
	h.all.Go(func() {
		defer timer.Stop()
		h.renew(renewing, sent, timer)
	})
	return h, nil
}

// mine is how long a holder counts on a lease after it sent the request: a little less than it was given,
// because two clocks do not run at quite the same rate.
func mine(ttl time.Duration) time.Duration { return ttl - ttl/128 }

// expire ends the context because the time of the lease is over here.
func (h *held) expire() { h.lose(&runnel.LeaseLostError{Key: h.lease.Key, Number: h.lease.Number}) }

func (h *held) lose(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.lost == nil {
		h.lost = err
		h.cancel(err)
	}
}

// renew renews the lease at a third of its time, and more often when that fails.
func (h *held) renew(ctx context.Context, sent time.Time, timer *time.Timer) {
	ttl := h.lease.TTL
	wait := ttl / 3
	next := time.NewTimer(time.Until(sent.Add(wait)))
	defer next.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-next.C:
		}
		sent := time.Now()
		attempt, cancel := context.WithTimeout(ctx, ttl/3)
		_, err := h.c.RenewLease(attempt, h.lease.Space, h.lease.Fence())
		cancel()
		switch {
		case err == nil:
			if !timer.Reset(time.Until(sent.Add(mine(ttl)))) && ctx.Err() == nil {
				// The time was over before the answer came: the context has ended, or is about to.
				return
			}
			next.Reset(time.Until(sent.Add(wait)))
		case errors.Is(err, runnel.ErrLeaseLost), errors.Is(err, runnel.ErrUnauthorized), errors.Is(err, runnel.ErrForbidden):
			h.lose(fmt.Errorf("renewing: %w", err))
			return
		default:
			next.Reset(ttl / 10)
		}
	}
}

// end releases the lease. It returns why the lease was lost before, nil if it was not.
func (h *held) end() error {
	h.stop()
	h.all.Wait()
	h.mu.Lock()
	lost := h.lost
	h.mu.Unlock()
	defer h.cancel(context.Canceled)
	if lost != nil {
		return lost
	}
	// The caller may have given up; the lease is released nevertheless.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(h.ctx), releaseTimeout)
	defer cancel()
	err := h.c.ReleaseLease(ctx, h.lease.Space, h.lease.Fence())
	if errors.Is(err, runnel.ErrLeaseLost) {
		return err
	}
	return nil // if it could not be released it ends by itself
}
