package dsclient

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/runnelhq/runnel"
)

// Claim is a wake of a pull-wake subscription that a worker holds. All methods may be called concurrently.
type Claim struct {
	// Streams are those of the subscription, first those that have something to work on.
	Streams []SubscribedStream
	// Generation counts the wakes of the subscription.
	Generation uint64
	// LeaseTTL is how long the worker may be silent.
	LeaseTTL time.Duration

	c      *Client
	id     string
	wakeID string
	token  string

	mu    sync.Mutex
	acked map[string]Offset // not told yet
}

// Claim claims the wake of a subscription for a worker. It fails with runnel.ErrNoWork when there is
// nothing to work on, and with runnel.ErrLeaseHeld when another worker has claimed it.
func (c *Client) Claim(ctx context.Context, subscription, worker string) (*Claim, error) {
	var answer struct {
		WakeID     string             `json:"wake_id"`
		Generation uint64             `json:"generation"`
		Token      string             `json:"token"`
		Streams    []SubscribedStream `json:"streams"`
		LeaseTTL   int64              `json:"lease_ttl_ms"`
	}
	body := struct {
		Worker string `json:"worker"`
	}{worker}
	if _, err := c.control(ctx, control{method: http.MethodPost, path: pathOf(subscription) + "/claim", body: body}, &answer); err != nil {
		return nil, err
	}
	return &Claim{
		Streams: answer.Streams, Generation: answer.Generation, LeaseTTL: time.Duration(answer.LeaseTTL) * time.Millisecond,
		c: c, id: subscription, wakeID: answer.WakeID, token: answer.Token, acked: make(map[string]Offset),
	}, nil
}

// Progress notes that a stream has been worked on up to and including an offset. The server is told with
// the next heartbeat, or at the end.
func (w *Claim) Progress(stream string, through Offset) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.acked[stream] = through
}

// Ack tells the server of all progress and lengthens the lease, or ends the claim if it is done. It returns
// whether another wake follows. It fails with runnel.ErrFenced when the claim is over; nothing has been
// moved then.
func (w *Claim) Ack(ctx context.Context, done bool) (more bool, err error) {
	type ack struct {
		Stream string `json:"stream"`
		Offset Offset `json:"offset"`
	}
	body := struct {
		WakeID     string `json:"wake_id"`
		Generation uint64 `json:"generation"`
		Acks       []ack  `json:"acks"`
		Done       bool   `json:"done"`
	}{WakeID: w.wakeID, Generation: w.Generation, Acks: []ack{}, Done: done}
	w.mu.Lock()
	for stream, through := range w.acked {
		body.Acks = append(body.Acks, ack{stream, through})
	}
	w.mu.Unlock()
	var answer struct {
		NextWake bool `json:"next_wake"`
	}
	if _, err := w.c.control(ctx, control{method: http.MethodPost, path: pathOf(w.id) + "/ack", token: w.token, body: body}, &answer); err != nil {
		return false, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, told := range body.Acks {
		if w.acked[told.Stream] == told.Offset {
			delete(w.acked, told.Stream)
		}
	}
	return answer.NextWake, nil
}

// Release gives the claim back. What was told with Ack stays.
func (w *Claim) Release(ctx context.Context) error {
	body := struct {
		WakeID     string `json:"wake_id"`
		Generation uint64 `json:"generation"`
	}{w.wakeID, w.Generation}
	_, err := w.c.control(ctx, control{method: http.MethodPost, path: pathOf(w.id) + "/release", token: w.token, body: body}, nil)
	return err
}

// WorkOptions say how a worker works. The zero value is right for most.
type WorkOptions struct {
	// Worker is the name that others are told; empty for "worker".
	Worker string
	// Look is how often the worker looks for work although nobody has told it of any. 0 means 30 s.
	Look time.Duration
	// Retrying, if not nil, is told why something failed, and how long the worker waits.
	Retrying func(err error, wait time.Duration)
}

// Work claims the wakes of a subscription one after the other and gives each to do, until ctx ends or the
// subscription is gone. While do works, the lease is kept, and what it notes with Claim.Progress is told to
// the server. When do returns nil, what it noted is acknowledged and the claim is over; otherwise the claim is
// released, for any worker to be claimed again, after a pause. The context that do is given ends when the claim
// is lost. When ctx ends, do is given the time it needs, and its progress is kept.
func (c *Client) Work(ctx context.Context, subscription string, o WorkOptions, do func(ctx context.Context, w *Claim) error) error {
	o.Worker, o.Look = cmp.Or(o.Worker, "worker"), cmp.Or(o.Look, 30*time.Second)
	sub, err := c.Subscription(ctx, subscription)
	if err != nil {
		return err
	}
	pause := time.Second
	for ctx.Err() == nil {
		// Where the wake stream ends is asked before there is found to be no work, so that no wake is missed.
		info, err := c.Stat(ctx, sub.WakeStream)
		var w *Claim
		if err == nil {
			w, err = c.Claim(ctx, subscription, o.Worker)
		}
		switch {
		case err == nil:
			err = c.work(ctx, w, do)
		case errors.Is(err, runnel.ErrNoWork) || errors.Is(err, runnel.ErrLeaseHeld):
			c.awaitWake(ctx, sub.WakeStream, info.Offset, o.Look)
			continue
		case errors.Is(err, runnel.ErrNotFound):
			return err
		}
		if err == nil {
			pause = time.Second
			continue
		}
		if o.Retrying != nil && ctx.Err() == nil {
			o.Retrying(err, pause)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
		pause = min(2*pause, time.Minute)
	}
	return ctx.Err()
}

// work lets do work on a claim, and keeps the lease meanwhile.
func (c *Client) work(ctx context.Context, w *Claim, do func(ctx context.Context, w *Claim) error) error {
	held := context.WithoutCancel(ctx) // the end of ctx is no reason to leave something half done
	inside, lost := context.WithCancelCause(ctx)
	defer lost(nil)
	stop := make(chan struct{})
	var beating sync.WaitGroup
	beating.Go(func() {
		tick := time.NewTicker(max(w.LeaseTTL/3, 100*time.Millisecond))
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				if _, err := w.Ack(held, false); errors.Is(err, runnel.ErrFenced) || errors.Is(err, runnel.ErrNotFound) {
					lost(err)
					return
				}
			}
		}
	})
	err := do(inside, w)
	close(stop)
	beating.Wait()
	if err != nil {
		_, _ = w.Ack(held, false)
		return errors.Join(fmt.Errorf("dsclient: work on subscription %s: %w", w.id, err), w.Release(held))
	}
	_, err = w.Ack(held, true)
	return err
}

// awaitWake returns when there is something in the wake stream after a place, or after some time.
func (c *Client) awaitWake(ctx context.Context, stream string, after Offset, atMost time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, atMost)
	defer cancel()
	for batch, err := range c.Tail(ctx, stream, after, TailOptions{LongPoll: true}) {
		if err != nil || len(batch.Data) > len("[]") {
			return
		}
	}
}
