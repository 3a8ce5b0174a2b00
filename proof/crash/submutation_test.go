package crash

import (
	"context"
	"errors"
	"iter"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/record"
	"github.com/runnelhq/runnel/storage"
)

// TestTheMachineryCanSeeSubscriptions breaks subscriptions in ways that the simulator must notice.
func TestTheMachineryCanSeeSubscriptions(t *testing.T) { see(t, subMutations, newSubWorld) }

// underSubs is the workload that mistakes in subscriptions are looked for in.
var underSubs = profile{name: "subscriptions"}

// subMutations are ways in which subscriptions could be wrong. Their rows begin with an S, the marks of streams that
// have work with a q, and keys with a K; see engine/subscriptions.go.
var subMutations = []mutation{
	{name: "that a stream has work is not in the commit of what is appended", under: underSubs, make: brokenCommits(without(func(o *storage.Op) bool { return o.Key[0] == 'q' && !o.Delete }))},
	{name: "that a stream has work is taken back when it is claimed", under: underSubs, make: func() variant {
		return variant{subs: func(l subLog) subLog { return grabbing{l} }}
	}},
	{name: "a generation is forgotten at a restart", under: underSubs, make: brokenSubscriptions(func(x *record.Subscription) { x.Generation = min(x.Generation, 1) })},
	{name: "the schedule of attempts is forgotten at a restart", under: underSubs, make: brokenSubscriptions(func(x *record.Subscription) { x.NextAttempt, x.Failures, x.FailingSince = 0, 0, 0 })},
	{name: "that a delivery is parked is forgotten at a restart", under: underSubs, make: brokenSubscriptions(func(x *record.Subscription) { x.Parked = false })},
	{name: "a lease is forgotten at a restart, and the wake with it is given again", under: underSubs, make: brokenSubscriptions(func(x *record.Subscription) { x.Holder = "" })},
	{name: "a worker is not fenced", under: underSubs, make: func() variant {
		return variant{subs: func(l subLog) subLog { return &trusting{subLog: l} }}
	}},
	{name: "an ack is answered, and not stored", under: underSubs, make: func() variant {
		return variant{subs: func(l subLog) subLog { return careless{l} }}
	}},
	{name: "an ack of several streams stores the first only", under: underSubs, make: func() variant {
		return variant{subs: func(l subLog) subLog { return halfhearted{l} }}
	}},
	{name: "an ack counts for the stream that takes the path", under: underSubs, make: func() variant {
		l := &byPath{acked: make(map[byPathKey]runnel.Sequence)}
		return variant{subs: func(log subLog) subLog { l.subLog = log; return l }}
	}},
	{name: "an attempt is made before its time", under: underSubs, make: func() variant {
		return variant{subs: func(l subLog) subLog { return impatient{l} }}
	}},
	{name: "a wake stream that was made again is not told of the wake that nobody has", under: underSubs, make: func() variant {
		return variant{subs: func(l subLog) subLog { return reticent{l} }}
	}},
	{name: "keys are not stored", under: underSubs, make: brokenCommits(without(func(o *storage.Op) bool { return o.Key[0] == 'K' && !o.Delete }))},
	{name: "a deleted subscription is there again after a restart", under: underSubs, make: brokenCommits(without(func(o *storage.Op) bool { return o.Key[0] == 'S' && o.Delete }))},
}

// brokenSubscriptions makes a variant of what is read of subscriptions from storage.
func brokenSubscriptions(spoil func(x *record.Subscription)) func() variant {
	return brokenReads(func(key, value []byte, _ storage.Range) ([]byte, bool) {
		if key[0] != 'S' {
			return value, true
		}
		x, err := record.DecodeSubscription(value)
		must(err)
		spoil(&x)
		return x.Append(nil), true
	})
}

// grabbing acks all streams that it gives to a worker, who may then die.
type grabbing struct{ subLog }

func (l grabbing) ClaimWake(ctx context.Context, store runnel.Store, id, worker string) (runnel.Wake, error) {
	wake, err := l.subLog.ClaimWake(ctx, store, id, worker)
	if err != nil {
		return wake, err
	}
	var acks []runnel.WakeAck
	for _, s := range wake.Streams {
		acks = append(acks, runnel.WakeAck{Path: s.Path, Acked: s.Tail})
	}
	_, err = l.AckWake(ctx, wake.WakeRef, acks, false)
	return wake, err
}

// trusting lets whoever is fenced act in the place of the one who holds the wake.
type trusting struct {
	subLog
	mu     sync.Mutex
	latest runnel.WakeRef
}

func (l *trusting) ClaimWake(ctx context.Context, store runnel.Store, id, worker string) (runnel.Wake, error) {
	wake, err := l.subLog.ClaimWake(ctx, store, id, worker)
	if err == nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.latest = wake.WakeRef
	}
	return wake, err
}

func (l *trusting) AckWake(ctx context.Context, ref runnel.WakeRef, acks []runnel.WakeAck, done bool) (bool, error) {
	more, err := l.subLog.AckWake(ctx, ref, acks, done)
	l.mu.Lock()
	latest := l.latest
	l.mu.Unlock()
	if errors.Is(err, runnel.ErrFenced) && ref.Instance == latest.Instance && ref != latest {
		return l.subLog.AckWake(ctx, latest, acks, done)
	}
	return more, err
}

// careless ends wakes without what was worked on.
type careless struct{ subLog }

func (l careless) AckWake(ctx context.Context, ref runnel.WakeRef, _ []runnel.WakeAck, done bool) (bool, error) {
	return l.subLog.AckWake(ctx, ref, nil, done)
}

// halfhearted stores the first of several acks.
type halfhearted struct{ subLog }

func (l halfhearted) AckWake(ctx context.Context, ref runnel.WakeRef, acks []runnel.WakeAck, done bool) (bool, error) {
	return l.subLog.AckWake(ctx, ref, slices.Clip(acks[:min(len(acks), 1)]), done)
}

// byPath keeps what has been acked by the path of a stream, whichever stream has it.
type byPath struct {
	subLog
	mu    sync.Mutex
	acked map[byPathKey]runnel.Sequence
}

type byPathKey struct {
	instance uint64
	path     string
}

func (l *byPath) AckWake(ctx context.Context, ref runnel.WakeRef, acks []runnel.WakeAck, done bool) (bool, error) {
	more, err := l.subLog.AckWake(ctx, ref, acks, done)
	if err == nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		for _, ack := range acks {
			key := byPathKey{ref.Instance, ack.Path}
			l.acked[key] = max(l.acked[key], ack.Acked)
		}
	}
	return more, err
}

func (l *byPath) ClaimWake(ctx context.Context, store runnel.Store, id, worker string) (runnel.Wake, error) {
	wake, err := l.subLog.ClaimWake(ctx, store, id, worker)
	for i := range wake.Streams {
		l.move(wake.Instance, &wake.Streams[i])
	}
	return wake, err
}

func (l *byPath) ClaimDelivery(ctx context.Context, store runnel.Store, id string, until time.Time) (runnel.WebhookDelivery, error) {
	d, err := l.subLog.ClaimDelivery(ctx, store, id, until)
	for i := range d.Streams {
		l.move(d.Instance, &d.Streams[i])
	}
	return d, err
}

func (l *byPath) SubscriptionLinks(ctx context.Context, store runnel.Store, id string) iter.Seq2[runnel.SubscriptionLink, error] {
	return func(yield func(runnel.SubscriptionLink, error) bool) {
		sub, err := l.Subscription(ctx, store, id)
		if err != nil {
			yield(runnel.SubscriptionLink{}, err)
			return
		}
		for link, err := range l.subLog.SubscriptionLinks(ctx, store, id) {
			l.move(sub.Instance, &link)
			if !yield(link, err) {
				return
			}
		}
	}
}

func (l *byPath) move(instance uint64, link *runnel.SubscriptionLink) {
	l.mu.Lock()
	defer l.mu.Unlock()
	link.Acked = max(link.Acked, min(link.Tail, l.acked[byPathKey{instance, link.Path}]))
}

// reticent shows nothing of what a wake stream that was made again is told first.
type reticent struct{ subLog }

func (l reticent) Read(ctx context.Context, seg runnel.Segment, id uint64, from runnel.Sequence) (runnel.View, error) {
	if info, err := l.Stat(ctx, seg); err == nil && info.ID > 1 {
		from = max(from, min(info.Tail, 1))
	}
	return l.subLog.Read(ctx, seg, id, from)
}

// impatient asks for an attempt at once whenever there is none.
type impatient struct{ subLog }

func (l impatient) ClaimDelivery(ctx context.Context, store runnel.Store, id string, until time.Time) (runnel.WebhookDelivery, error) {
	d, err := l.subLog.ClaimDelivery(ctx, store, id, until)
	if errors.Is(err, runnel.ErrFenced) && l.ReplayDelivery(ctx, store, id) == nil {
		return l.subLog.ClaimDelivery(ctx, store, id, until)
	}
	return d, err
}
