package client

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/runnelhq/runnel"
)

// A worker is a lease, so presence is as durable as everything else, holds by the clock of the server, and
// is one however many processes serve the space.

// WorkerPrefix is what the keys of the leases of workers begin with.
const WorkerPrefix = "worker/"

// DefaultWorkerTTL is how long a worker that is not heard of is still present.
const DefaultWorkerTTL = 30 * time.Second

// Worker is one who is present in a space.
type Worker struct {
	// ID names the worker; at most runnel.MaxLeaseBytes less the WorkerPrefix. Empty means a new one.
	ID string
	// Metadata is what observers are told of it; at most runnel.MaxLeaseMetadataBytes.
	Metadata map[string]string
	// TTL is how long it is still present after it was heard of last. 0 means DefaultWorkerTTL.
	TTL time.Duration
	// Number tells apart who has joined under the ID; the later has the higher one. It is the fencing number
	// of the worker's lease.
	Number uint64
	// Joined is when the worker has joined, by the clock of the server.
	Joined time.Time
}

// Membership is a worker's being present. It ends with Leave.
type Membership struct {
	Worker
	h *held
}

// Join makes a worker present until Leave is called. Whoever joins under an ID that is present takes its
// place: the other one is told by the end of its context, with a [*runnel.LeaseLostError] as cause.
func (c *Client) Join(ctx context.Context, space runnel.Space, w Worker) (*Membership, error) {
	w.ID = cmp.Or(w.ID, uuid.NewString())
	w.TTL = cmp.Or(w.TTL, DefaultWorkerTTL)
	// Holders of one name are one holder, so that the later one is given the lease.
	h, err := c.hold(ctx, space, runnel.LeaseRequest{Key: WorkerPrefix + w.ID, Holder: w.ID, TTL: w.TTL, Metadata: w.Metadata})
	if err != nil {
		return nil, err
	}
	return &Membership{Worker: workerOf(h.lease), h: h}, nil
}

// Context ends when the worker is not present any more: when another one has joined under its ID, or when it
// could not be renewed in time, with a [*runnel.LeaseLostError] as cause; or with the context of Join.
func (m *Membership) Context() context.Context { return m.h.ctx }

// Leave ends the presence, and tells observers at once. It returns why it had ended before, nil if it had
// not.
func (m *Membership) Leave() error {
	if err := m.h.end(); err != nil {
		return fmt.Errorf("worker %q: %w", m.ID, err)
	}
	return nil
}

// WorkerEvent is what an observer is told.
type WorkerEvent struct {
	Worker Worker
	// Left says that the worker is not present any more: it has left, its time is over, or another one has
	// taken its place, of which the next event tells.
	Left bool
	// Live is false for who was present when the observing began.
	Live bool
	// Complete says that this is about no worker: everybody who was present has been told.
	Complete bool
}

// Workers yields who is present in a space, then that this is all, and then each one that joins or leaves.
// It goes on until its context ends or the loop is left.
func (c *Client) Workers(ctx context.Context, space runnel.Space) iter.Seq2[WorkerEvent, error] {
	return func(yield func(WorkerEvent, error) bool) {
		for e, err := range c.WatchLeases(ctx, space, WorkerPrefix) {
			if err != nil {
				yield(WorkerEvent{}, err)
				return
			}
			event := WorkerEvent{Left: e.Gone, Live: e.Live, Complete: e.Mark}
			if !e.Mark {
				event.Worker = workerOf(e.Lease)
			}
			if !yield(event, nil) {
				return
			}
		}
	}
}

func workerOf(l runnel.Lease) Worker {
	return Worker{ID: strings.TrimPrefix(l.Key, WorkerPrefix), Metadata: l.Metadata, TTL: l.TTL, Number: l.Number, Joined: l.Granted}
}
