package crash

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/runnelhq/runnel"
)

// TestSubscriptions simulates runs in which streams that subscriptions wait for are written to, come and go, while
// workers claim, ack and release, and webhooks are delivered, fail and are tried again.
func TestSubscriptions(t *testing.T) {
	simulate(t, plan{invite: newSubWorld, profile: &profile{name: "subscriptions"}}, max(1, *seeds/2), demands{
		invariants: subInvariants, few: 20, many: 200,
		often: []string{
			"subscriptions: a stream came later", "subscriptions: a stream was deleted", "subscriptions: several streams in one commit",
			"subscriptions: a wake was claimed", "subscriptions: a claim found nothing to do", "subscriptions: a wake was held by another",
			"subscriptions: an ack was done", "subscriptions: an ack was fenced", "subscriptions: a worker of before was fenced",
			"subscriptions: a wake was released", "subscriptions: a lease was over", "subscriptions: a wake was claimed, and the process died",
			"subscriptions: an ack has an unknown outcome", "subscriptions: a webhook was delivered", "subscriptions: a webhook is to be tried again",
			"subscriptions: a schedule of attempts was there after a restart", "subscriptions: a stream that the pattern links was named",
			"subscriptions: an attempt came too early", "subscriptions: a subscription was deleted", "subscriptions: a subscription was made again",
			"subscriptions: keys were stored", "subscriptions: work was left at the end",
			"subscriptions: a wake stream was made again while nobody had the wake", "subscriptions: the wake stream was made again",
			"subscriptions: the wake stream was being made again, and the process died", "subscriptions: the wake stream was gone after a restart",
		},
		sometimes: []string{
			"subscriptions: a webhook was parked", "subscriptions: a webhook called back",
			"subscriptions: an ack was of a stream whose path another has taken",
			"subscriptions: an ack turned out to be: done", "subscriptions: an ack turned out to be: not done",
			"subscriptions: keys turned out to be: stored", "subscriptions: keys turned out to be: not stored",
		},
	})
}

var subInvariants []string

func subInvariant(name string) string {
	subInvariants = append(subInvariants, name)
	return name
}

var (
	subsWoken   = subInvariant("subscriptions: every append to a matching stream is part of a wake that is acknowledged in the end")
	subsListed  = subInvariant("subscriptions: a wake lists all that was durable before it was claimed")
	subsForward = subInvariant("subscriptions: generations never go back, and each is claimed once")
	subsFenced  = subInvariant("subscriptions: a fenced worker moves nothing")
	subsAcked   = subInvariant("subscriptions: what was acknowledged as worked on stays so, and nothing else does")
	subsKept    = subInvariant("subscriptions: subscriptions and streams survive, and deleted ones stay deleted")
	subsRetried = subInvariant("subscriptions: the schedule of attempts survives, and no attempt is made before its time")
	subsKeyed   = subInvariant("subscriptions: keys survive, and are replaced only by who knows them")
	subsTold    = subInvariant("subscriptions: a wake stream is told of each wake once, in order")
)

// subLog is what the world of subscriptions uses of an engine. A broken variant wraps it.
type subLog interface {
	CreateSubscription(ctx context.Context, store runnel.Store, id string, config runnel.SubscriptionConfig) (runnel.Subscription, bool, error)
	Subscription(ctx context.Context, store runnel.Store, id string) (runnel.Subscription, error)
	SubscriptionLinks(ctx context.Context, store runnel.Store, id string) iter.Seq2[runnel.SubscriptionLink, error]
	DeleteSubscription(ctx context.Context, store runnel.Store, id string) error
	LinkStreams(ctx context.Context, store runnel.Store, id string, paths []string) error
	UnlinkStream(ctx context.Context, store runnel.Store, id, path string) error
	ClaimWake(ctx context.Context, store runnel.Store, id, worker string) (runnel.Wake, error)
	AckWake(ctx context.Context, ref runnel.WakeRef, acks []runnel.WakeAck, done bool) (bool, error)
	ReleaseWake(ctx context.Context, ref runnel.WakeRef) error
	WebhookPending(ctx context.Context) iter.Seq[runnel.WebhookPending]
	ClaimDelivery(ctx context.Context, store runnel.Store, id string, until time.Time) (runnel.WebhookDelivery, error)
	SettleDelivery(ctx context.Context, d runnel.WebhookDelivery, o runnel.WebhookOutcome) error
	ReplayDelivery(ctx context.Context, store runnel.Store, id string) error
	LoadKeys(ctx context.Context, store runnel.Store) (data []byte, version uint64, err error)
	StoreKeys(ctx context.Context, store runnel.Store, data []byte, version uint64) error

	Create(ctx context.Context, seg runnel.Segment, o runnel.CreateOptions) (runnel.Created, error)
	Append(ctx context.Context, seg runnel.Segment, o runnel.AppendOptions, records ...runnel.Record) (runnel.Appended, error)
	Commit(ctx context.Context, space runnel.Space, writes ...runnel.Write) ([]runnel.Appended, error)
	Delete(ctx context.Context, seg runnel.Segment) error
	Stat(ctx context.Context, seg runnel.Segment) (runnel.Info, error)
	Read(ctx context.Context, seg runnel.Segment, id uint64, from runnel.Sequence) (runnel.View, error)
}

const wakeLease = 5 * time.Second

// The streams that are written to, and who waits for them.
var (
	subPaths   = []string{"jobs/a", "jobs/b", "jobs/deep/c", "other/x", "other/y"}
	subConfigs = map[string]runnel.SubscriptionConfig{
		"pull": {Type: runnel.PullWake, Pattern: "jobs/**", Streams: []string{"other/x"}, WakeStream: "wakes/pull", LeaseTTL: wakeLease},
		"hook": {Type: runnel.Webhook, Pattern: "jobs/*", WebhookURL: "https://worker.example.com/hooks", LeaseTTL: wakeLease},
	}
	subIDs = []string{"hook", "pull"}
)

// subWorld is writers, workers and receivers, and what they know.
type subWorld struct {
	*sim
	errands errands
	log     subLog

	streams map[string]*subStream
	subs    map[string]*subKnown
	keys    subKeys
	wakes   subWakes
	made    int // how often a subscription was made again, perhaps

	mu      sync.Mutex
	pending map[string]runnel.WebhookPending
}

// subWakes is what is known of the wake stream.
type subWakes struct {
	id     uint64 // 0 while it is not there
	events int    // of it that a worker has read
	busy   bool   // it is being made again
	// unclear says that it may have been deleted, or made, since the last restart.
	unclear bool
}

// subStream is what is known of a stream.
type subStream struct {
	path string
	at   runnel.Segment
	id   uint64          // 0 while it is not there, or nobody knows
	tail runnel.Sequence // as far as it is acknowledged
	// unclear says that it may have been deleted since the last restart.
	unclear bool
}

// subKnown is what is known of a subscription.
type subKnown struct {
	id       string
	instance uint64
	there    bool
	// unclear says that it may have come or gone since the last restart.
	unclear    bool
	generation uint64 // the furthest that somebody was told
	claimed    uint64 // the last generation that a worker was given
	acked      map[string]*subAcked
	held       []subHeld
	over       []runnel.WakeRef // wakes that are over for certain
	attempts   []runnel.WebhookDelivery
	busy       int    // calls under way that may change the schedule
	parked     uint64 // the last generation that was parked: it stays so, whatever becomes of another attempt
	expect     *runnel.WebhookOutcome
}

type subHeld struct {
	runnel.Wake
	since  time.Time
	clear  map[string]bool // the paths of which it was known, when it was given, which stream had them
	others map[string]bool // the paths that another stream has taken since
	vague  map[string]bool // the paths that another stream may have taken since
}

// hold returns a wake that somebody is given.
func (w *subWorld) hold(wake runnel.Wake, since time.Time) subHeld {
	h := subHeld{Wake: wake, since: since, clear: make(map[string]bool), others: make(map[string]bool), vague: make(map[string]bool)}
	for path, s := range w.streams {
		h.clear[path] = s.id != 0 && !s.unclear
		h.vague[path] = s.unclear
	}
	return h
}

// of returns the acks that may move something: those of streams that still have their paths, for certain or perhaps.
func (h *subHeld) of(acks []runnel.WakeAck) (certain, perhaps []runnel.WakeAck) {
	for _, ack := range acks {
		switch {
		case h.others[ack.Path]:
		case h.vague[ack.Path]:
			perhaps = append(perhaps, ack)
		default:
			certain = append(certain, ack)
		}
	}
	return certain, perhaps
}

// subAcked is how far a stream has been worked on, and what acks may move it to.
type subAcked struct {
	floor runnel.Sequence
	open  []runnel.Sequence
}

func (a *subAcked) most() runnel.Sequence {
	return max(a.floor, slices.Max(append([]runnel.Sequence{0}, a.open...)))
}

// drop forgets an ack that was refused.
func (a *subAcked) drop(at runnel.Sequence) {
	if i := slices.Index(a.open, at); i >= 0 {
		a.open = slices.Delete(a.open, i, i+1)
	}
}

// subKeys is what is known of the keys of a store.
type subKeys struct {
	version uint64
	data    string
	busy    bool
	maybe   string // what may have taken their place
}

func newSubWorld(s *sim) guest {
	w := &subWorld{sim: s, errands: errands{s: s}, streams: make(map[string]*subStream), subs: make(map[string]*subKnown)}
	for _, path := range subPaths {
		at, err := runnel.ParsePath(guestStore, path)
		must(err)
		w.streams[path] = &subStream{path: path, at: at}
	}
	return w
}

func (w *subWorld) open() {
	w.log = w.engine
	if w.variant.subs != nil {
		w.log = w.variant.subs(w.engine)
	}
	w.mu.Lock()
	w.pending = make(map[string]runnel.WebhookPending)
	pending := w.pending
	w.mu.Unlock()
	ctx, log := w.ctx, w.log
	go func() {
		for p := range log.WebhookPending(ctx) {
			w.mu.Lock()
			pending[p.Subscription] = p
			w.mu.Unlock()
		}
	}()
	if w.gen > 1 {
		return
	}
	created, err := w.log.Create(ctx, w.wakeStream(), runnel.CreateOptions{ContentType: "application/json"})
	must(err)
	w.wakes.id = created.ID
	for _, id := range subIDs {
		sub, _, err := w.log.CreateSubscription(ctx, guestStore, id, subConfigs[id])
		must(err)
		w.subs[id] = newSubKnown(id, sub.Instance)
		for path := range w.streams {
			w.subs[id].acked[path] = new(subAcked)
		}
	}
}

func newSubKnown(id string, instance uint64) *subKnown {
	return &subKnown{id: id, instance: instance, there: instance != 0, acked: make(map[string]*subAcked)}
}

func (w *subWorld) wakeStream() runnel.Segment {
	at, err := runnel.ParsePath(guestStore, subConfigs["pull"].WakeStream)
	must(err)
	return at
}

// waits tells whether a subscription waits for a stream.
func (k *subKnown) waits(path string) bool {
	c := subConfigs[k.id]
	return slices.Contains(c.Streams, path) || runnel.MatchPattern(c.Pattern, path)
}

func (w *subWorld) park() {
	w.errands.lose()
	w.wakes.busy = false
	for _, k := range w.subs {
		k.busy = 0
		k.attempts = nil // whoever made them is no more
	}
}

func (w *subWorld) look() { w.errands.take() }

func (w *subWorld) act(r *rand.Rand) {
	if len(w.errands.list) >= 8 {
		w.move(r)
		return
	}
	pull, hook := w.subs["pull"], w.subs["hook"]
	switch n := r.IntN(82); {
	case n < 16:
		w.append(r)
	case n < 20:
		w.commit(r)
	case n < 21:
		w.deleteStream(r)
	case n < 22:
		w.nameStream(r, w.subs[subIDs[r.IntN(2)]])
	case n < 32:
		w.claim(r, pull)
	case n < 46:
		w.ack(r, []*subKnown{pull, hook}[r.IntN(2)])
	case n < 49:
		w.release(r, pull)
	case n < 60:
		w.deliver(r, hook)
	case n < 72:
		w.settleDelivery(r, hook)
	case n < 75:
		w.replay(hook)
	case n < 77:
		w.storeKeys(r)
	case n < 79:
		w.remakeWakes()
	default:
		w.comeOrGo(r, w.subs[subIDs[r.IntN(2)]])
	}
}

func (w *subWorld) stream(r *rand.Rand) *subStream { return w.streams[subPaths[r.IntN(len(subPaths))]] }

// appended takes the answer to an append.
func (w *subWorld) appended(s *subStream, a runnel.Appended) {
	if s.unclear {
		return
	}
	if s.tail == 0 {
		w.cover.hit("subscriptions: a stream came later")
	}
	s.tail = max(s.tail, a.Tail)
}

func (w *subWorld) append(r *rand.Rand) {
	s := w.stream(r)
	records := recordsOf([]string{"one", "two", "three"}[:1+r.IntN(3)])
	w.errands.run(fmt.Sprintf("append %d to %s", len(records), s.path), func(ctx context.Context) func() {
		a, err := w.log.Append(ctx, s.at, runnel.AppendOptions{Create: &runnel.CreateOptions{}}, records...)
		return func() {
			if w.fateOf("append to "+s.path, err, runnel.ErrNotFound) == done {
				w.appended(s, a)
			}
		}
	}, nil)
}

// commit appends to several streams of a space at once.
func (w *subWorld) commit(*rand.Rand) {
	all := []*subStream{w.streams["jobs/a"], w.streams["jobs/b"]}
	var writes []runnel.Write
	for _, s := range all {
		writes = append(writes, runnel.Write{Segment: s.at.Name, Options: runnel.AppendOptions{Create: &runnel.CreateOptions{}}, Records: recordsOf([]string{"both"})})
	}
	w.errands.run("append to jobs/a and jobs/b", func(ctx context.Context) func() {
		told, err := w.log.Commit(ctx, all[0].at.In(), writes...)
		return func() {
			if w.fateOf("commit", err, runnel.ErrNotFound) == done {
				w.cover.hit("subscriptions: several streams in one commit")
				for i, s := range all {
					w.appended(s, told[i])
				}
			}
		}
	}, nil)
}

// deleteStream deletes a stream, and sometimes makes it again at once.
func (w *subWorld) deleteStream(r *rand.Rand) {
	s := w.stream(r)
	s.unclear = true
	again := recordsOf([]string{"anew", "anew", "anew"}[:r.IntN(4)])
	w.errands.run(fmt.Sprintf("delete %s, and append %d", s.path, len(again)), func(ctx context.Context) func() {
		err := w.log.Delete(ctx, s.at)
		if err == nil && len(again) > 0 {
			_, err = w.log.Append(ctx, s.at, runnel.AppendOptions{Create: &runnel.CreateOptions{}}, again...)
		}
		return func() {
			if w.fateOf("delete "+s.path, err, runnel.ErrNotFound) == done {
				w.cover.hit("subscriptions: a stream was deleted")
			}
		}
	}, nil)
}

// remakeWakes deletes the wake stream, and makes it again. Power may fail in between.
func (w *subWorld) remakeWakes() {
	if w.wakes.busy {
		return
	}
	w.wakes.busy, w.wakes.unclear = true, true
	w.errands.run("make the wake stream again", func(ctx context.Context) func() {
		err := w.log.Delete(ctx, w.wakeStream())
		if err == nil || errors.Is(err, runnel.ErrNotFound) {
			_, err = w.log.Create(ctx, w.wakeStream(), runnel.CreateOptions{ContentType: "application/json"})
		}
		return func() {
			w.wakes.busy = false
			if w.fateOf("make the wake stream again", err) == done {
				w.cover.hit("subscriptions: the wake stream was made again")
			}
		}
	}, func() { w.cover.hit("subscriptions: the wake stream was being made again, and the process died") })
}

// nameStream names a stream that the pattern of a subscription links, or takes that back. It stays where it is.
func (w *subWorld) nameStream(r *rand.Rand, k *subKnown) {
	path := []string{"jobs/a", "jobs/b"}[r.IntN(2)]
	named := r.IntN(2) == 0
	w.errands.run(fmt.Sprintf("name %s to %s: %v", path, k.id, named), func(ctx context.Context) func() {
		var err error
		if named {
			err = w.log.LinkStreams(ctx, guestStore, k.id, []string{path})
		} else {
			err = w.log.UnlinkStream(ctx, guestStore, k.id, path)
		}
		return func() {
			if w.fateOf("name a stream", err, runnel.ErrNotFound) == done && named {
				w.cover.hit("subscriptions: a stream that the pattern links was named")
			}
		}
	}, nil)
}

// durable is how far streams are acknowledged.
func (w *subWorld) durable() map[string]runnel.Sequence {
	all := make(map[string]runnel.Sequence)
	for path, s := range w.streams {
		if !s.unclear {
			all[path] = s.tail
		}
	}
	return all
}

// see checks what a subscription is told to have worked on, and keeps it.
func (w *subWorld) see(k *subKnown, links []runnel.SubscriptionLink) {
	for _, l := range links {
		if s := w.streams[l.Path]; s == nil || s.unclear || k.unclear {
			continue
		}
		a := k.acked[l.Path]
		if a == nil {
			a = &subAcked{floor: l.Acked}
			k.acked[l.Path] = a
		}
		w.check(subsAcked, a.floor <= l.Acked && l.Acked <= a.most(), "%s has worked on %s up to %d, and is told %d; acks under way: %v", k.id, l.Path, a.floor, l.Acked, a.open)
		a.floor = l.Acked
	}
}

// complete checks that nothing is missing in a list of streams with work, which was asked for after some were durable.
func (w *subWorld) complete(k *subKnown, durable map[string]runnel.Sequence, links []runnel.SubscriptionLink) {
	if k.unclear {
		return
	}
	listed := make(map[string]runnel.Sequence)
	for _, l := range links {
		listed[l.Path] = l.Tail
	}
	for _, path := range subPaths {
		a, tail := k.acked[path], durable[path]
		if !k.waits(path) || w.streams[path].unclear || a == nil || tail <= a.most() {
			continue
		}
		w.check(subsListed, listed[path] >= tail, "%s was at %d, %s has worked on %d, and is told %v", path, tail, k.id, a.most(), links)
	}
}

// generation checks one that somebody is told of.
func (w *subWorld) generation(k *subKnown, instance, generation uint64) bool {
	if k.unclear {
		return false
	}
	w.check(subsKept, k.there && instance == k.instance, "subscription %s is instance %x, and there is %x", k.id, k.instance, instance)
	w.check(subsForward, generation >= k.generation, "%s was at generation %d, and is at %d", k.id, k.generation, generation)
	k.generation = generation
	return true
}

func (w *subWorld) claim(r *rand.Rand, k *subKnown) {
	durable := w.durable()
	worker := []string{"w1", "w2"}[r.IntN(2)]
	w.errands.run("claim", func(ctx context.Context) func() {
		wake, err := w.log.ClaimWake(ctx, guestStore, k.id, worker)
		return func() { w.claimed(k, durable, &wake, err) }
	}, func() { w.cover.hit("subscriptions: a wake was claimed, and the process died") })
}

func (w *subWorld) claimed(k *subKnown, durable map[string]runnel.Sequence, wake *runnel.Wake, err error) bool {
	f := w.fateOf("claim", err, runnel.ErrNoWork, runnel.ErrLeaseHeld, runnel.ErrNotFound)
	w.note("a claim is %v: generation %d, %v", f, wake.Generation, err)
	switch {
	case errors.Is(err, runnel.ErrNoWork):
		w.cover.hit("subscriptions: a claim found nothing to do")
		w.complete(k, durable, nil)
	case errors.Is(err, runnel.ErrLeaseHeld):
		w.cover.hit("subscriptions: a wake was held by another")
	}
	if f != done || !w.generation(k, wake.Instance, wake.Generation) {
		return false
	}
	w.cover.hit("subscriptions: a wake was claimed")
	w.check(subsForward, wake.Generation > k.claimed, "generation %d of %s is claimed again, after %d", wake.Generation, k.id, k.claimed)
	k.claimed = wake.Generation
	w.see(k, wake.Streams)
	w.complete(k, durable, wake.Streams)
	for _, h := range k.held {
		k.over = append(k.over, h.WakeRef)
	}
	k.held = []subHeld{w.hold(*wake, w.now().at)}
	return true
}

// pick takes a wake that a worker holds, or sometimes one that is over.
func (k *subKnown) pick(r *rand.Rand) (h subHeld, over, ok bool) {
	if n := len(k.over); n > 0 && (len(k.held) == 0 || r.IntN(4) == 0) {
		h := subHeld{Wake: runnel.Wake{WakeRef: k.over[r.IntN(n)]}}
		for _, path := range subPaths {
			h.Streams = append(h.Streams, runnel.SubscriptionLink{Path: path, Tail: 1 << 20})
		}
		return h, true, true
	}
	if len(k.held) == 0 {
		return h, false, false
	}
	return k.held[r.IntN(len(k.held))], false, true
}

// end notes that a wake is over.
func (k *subKnown) end(ref runnel.WakeRef) {
	k.held = slices.DeleteFunc(k.held, func(h subHeld) bool { return h.WakeRef == ref })
	if !slices.Contains(k.over, ref) {
		k.over = append(k.over, ref)
	}
}

func (w *subWorld) ack(r *rand.Rand, k *subKnown) {
	h, over, ok := k.pick(r)
	if !ok {
		return
	}
	ends := r.IntN(2) == 0
	var acks []runnel.WakeAck
	for _, l := range h.Streams {
		at := l.Tail
		if a := k.acked[l.Path]; over && a != nil {
			at = max(a.floor, w.streams[l.Path].tail)
		} else if r.IntN(3) == 0 {
			at = max(l.Acked, at-min(at, runnel.Sequence(r.IntN(2))))
		}
		if r.IntN(4) > 0 {
			acks = append(acks, runnel.WakeAck{Path: l.Path, Acked: at})
		}
	}
	if over {
		w.ackOver(k, h.WakeRef, acks, ends)
		return
	}
	certain, perhaps := h.of(acks)
	w.attempt(k, certain)
	w.attempt(k, perhaps)
	if len(certain)+len(perhaps) < len(acks) {
		w.cover.hit("subscriptions: an ack was of a stream whose path another has taken")
	}
	k.busy++
	k.expect = nil
	w.errands.run(fmt.Sprintf("ack %s %d: %v, done %v", k.id, h.Generation, acks, ends), func(ctx context.Context) func() {
		_, err := w.log.AckWake(ctx, h.WakeRef, acks, ends)
		return func() {
			k.busy--
			f := w.fateOf("ack", err, runnel.ErrFenced, runnel.ErrAck, runnel.ErrNotFound)
			w.note("an ack of %s %d is %v: %v", k.id, h.Generation, f, err)
			w.acknowledged(k, h.Instance, certain, f)
			if f != done { // whether it was of the stream that is there, the next restart tells
				w.acknowledged(k, h.Instance, perhaps, f)
			}
			switch {
			case errors.Is(err, runnel.ErrFenced):
				k.end(h.WakeRef)
				w.cover.hit("subscriptions: an ack was fenced")
				if w.now().at.Sub(h.since) > wakeLease {
					w.cover.hit("subscriptions: a lease was over")
				}
			case f == done:
				w.cover.hit("subscriptions: an ack was done")
				if k.id == "hook" {
					w.cover.hit("subscriptions: a webhook called back")
				}
				if ends {
					k.end(h.WakeRef)
				}
			}
		}
	}, func() { w.cover.hit("subscriptions: an ack has an unknown outcome") })
}

// ackOver acks for a wake that is over: that may do nothing.
func (w *subWorld) ackOver(k *subKnown, ref runnel.WakeRef, acks []runnel.WakeAck, ends bool) {
	w.errands.run(fmt.Sprintf("ack %s %d, which is over: %v", k.id, ref.Generation, acks), func(ctx context.Context) func() {
		_, err := w.log.AckWake(ctx, ref, acks, ends)
		return func() {
			f := w.fateOf("ack of a wake that is over", err, runnel.ErrFenced, runnel.ErrNotFound, runnel.ErrAck)
			w.check(subsFenced, f != done && !errors.Is(err, runnel.ErrAck), "generation %d of %s is over, and an ack of it is %v: %v", ref.Generation, k.id, f, err)
			w.cover.hit("subscriptions: a worker of before was fenced")
		}
	}, nil)
}

// attempt notes what acks may move.
func (w *subWorld) attempt(k *subKnown, acks []runnel.WakeAck) {
	for _, ack := range acks {
		if a := k.acked[ack.Path]; a != nil {
			a.open = append(a.open, ack.Acked)
		}
	}
}

// acknowledged notes what acks have moved.
func (w *subWorld) acknowledged(k *subKnown, instance uint64, acks []runnel.WakeAck, f fate) {
	if instance != k.instance || f == unknown {
		return
	}
	for _, ack := range acks {
		a := k.acked[ack.Path]
		if a == nil || f == done && w.streams[ack.Path].unclear {
			continue // whether it was of the stream that is there, the next restart tells
		}
		a.drop(ack.Acked)
		if f == done {
			a.floor = max(a.floor, ack.Acked)
		}
	}
}

func (w *subWorld) release(r *rand.Rand, k *subKnown) {
	h, over, ok := k.pick(r)
	if !ok || over {
		return
	}
	w.errands.run(fmt.Sprintf("release %s %d", k.id, h.Generation), func(ctx context.Context) func() {
		err := w.log.ReleaseWake(ctx, h.WakeRef)
		return func() {
			switch w.fateOf("release", err, runnel.ErrFenced, runnel.ErrNotFound) {
			case done:
				w.cover.hit("subscriptions: a wake was released")
				k.end(h.WakeRef)
			case refused:
				k.end(h.WakeRef)
			}
		}
	}, nil)
}

// deliver takes a webhook to deliver it.
func (w *subWorld) deliver(r *rand.Rand, k *subKnown) {
	now := w.now()
	early := k.busy == 0 && k.expect != nil && (k.expect.Result == runnel.WebhookParked || now.latest.Before(k.expect.NextAttempt))
	durable := w.durable()
	k.busy++
	if !early {
		k.expect = nil
	}
	w.errands.run("take the webhook", func(ctx context.Context) func() {
		d, err := w.log.ClaimDelivery(ctx, guestStore, k.id, now.at.Add(time.Duration(1+r.IntN(4))*time.Second))
		return func() {
			k.busy--
			f := w.fateOf("take the webhook", err, runnel.ErrFenced, runnel.ErrNotFound)
			w.note("taking the webhook is %v: generation %d, %v", f, d.Generation, err)
			if early {
				w.check(subsRetried, f != done, "a webhook was taken at %v, and its next attempt is at %v", now.at, k.expect)
				w.cover.hit("subscriptions: an attempt came too early")
			}
			if f == done && w.generation(k, d.Instance, d.Generation) {
				w.see(k, d.Streams)
				w.complete(k, durable, d.Streams)
				k.attempts = append(k.attempts, d)
			}
		}
	}, nil)
}

// settleDelivery stores what became of an attempt.
func (w *subWorld) settleDelivery(r *rand.Rand, k *subKnown) {
	if len(k.attempts) == 0 {
		return
	}
	i := r.IntN(len(k.attempts))
	d := k.attempts[i]
	k.attempts = slices.Delete(k.attempts, i, i+1)
	now := w.now()
	since := now.latest.Truncate(time.Microsecond)
	o := runnel.WebhookOutcome{Result: runnel.WebhookDone, Status: 200}
	switch n := r.IntN(8); {
	case n < 2:
		o.Result, o.Status = runnel.WebhookAccepted, 202
	case n < 5:
		o = runnel.WebhookOutcome{Result: runnel.WebhookRetry, Status: 500 + r.IntN(20), Reason: "it failed", Failures: d.Failures + 1, FailingSince: since, NextAttempt: since.Add(time.Millisecond << r.IntN(13))}
	case n < 6:
		o = runnel.WebhookOutcome{Result: runnel.WebhookParked, Status: 410, Reason: "gone", Failures: d.Failures + 1, FailingSince: since}
	}
	var acks []runnel.WakeAck
	if o.Result == runnel.WebhookDone {
		for _, l := range d.Streams {
			acks = append(acks, runnel.WakeAck{Path: l.Path, Acked: l.Tail})
		}
		w.attempt(k, acks)
	}
	alone := k.busy == 0
	k.busy++
	k.expect = nil
	w.errands.run(fmt.Sprintf("the webhook %d is settled with %d", d.Generation, o.Status), func(ctx context.Context) func() {
		err := w.log.SettleDelivery(ctx, d, o)
		return func() {
			k.busy--
			f := w.fateOf("settle", err, runnel.ErrFenced, runnel.ErrNotFound)
			w.note("settling %d is %v: %v", d.Generation, f, err)
			w.acknowledged(k, d.Instance, acks, f)
			if f != done {
				return
			}
			switch o.Result {
			case runnel.WebhookDone:
				w.cover.hit("subscriptions: a webhook was delivered")
				k.end(d.WakeRef)
			case runnel.WebhookAccepted:
				k.held = append(k.held, w.hold(d.Wake, now.at))
			case runnel.WebhookRetry:
				w.cover.hit("subscriptions: a webhook is to be tried again")
			case runnel.WebhookParked:
				w.cover.hit("subscriptions: a webhook was parked")
				k.parked = d.Generation
			}
			if alone && k.busy == 0 && !k.unclear && (o.Result == runnel.WebhookParked || o.Result == runnel.WebhookRetry && k.parked != d.Generation) {
				k.expect = &o
			}
		}
	}, nil)
}

func (w *subWorld) replay(k *subKnown) {
	k.busy++
	k.expect = nil
	w.errands.run("replay the webhook", func(ctx context.Context) func() {
		err := w.log.ReplayDelivery(ctx, guestStore, k.id)
		return func() {
			k.busy--
			w.fateOf("replay", err, runnel.ErrNotFound)
		}
	}, nil)
}

func (w *subWorld) storeKeys(r *rand.Rand) {
	k := &w.keys
	if k.busy {
		return
	}
	version, stale := k.version, r.IntN(4) == 0
	if stale {
		version += uint64(1 + r.IntN(3))
	} else {
		k.maybe = fmt.Sprintf("keys %d", w.rand(uint64(len(w.lines))).Uint64())
	}
	data := k.maybe
	k.busy = true
	w.errands.run(fmt.Sprintf("store keys behind version %d", version), func(ctx context.Context) func() {
		err := w.log.StoreKeys(ctx, guestStore, []byte(data), version)
		return func() {
			k.busy = false
			f := w.fateOf("store keys", err, runnel.ErrFenced)
			if stale || f == refused {
				w.check(subsKeyed, f != done && stale || w.armed, "keys behind version %d are %v, and there is %d", version, f, k.version)
				k.maybe = ""
				return
			}
			if f == done {
				w.cover.hit("subscriptions: keys were stored")
				k.version, k.data, k.maybe = version+1, data, ""
			}
		}
	}, func() {
		if stale {
			k.maybe = ""
		}
	})
}

// comeOrGo deletes a subscription, or makes it again.
func (w *subWorld) comeOrGo(r *rand.Rand, k *subKnown) {
	if k.unclear || k.there && r.IntN(2) == 0 {
		return
	}
	k.unclear = true
	k.expect = nil
	if k.there {
		w.errands.run("delete subscription "+k.id, func(ctx context.Context) func() {
			err := w.log.DeleteSubscription(ctx, guestStore, k.id)
			return func() {
				if w.fateOf("delete subscription", err) == done {
					w.cover.hit("subscriptions: a subscription was deleted")
					w.forget(k, 0)
				}
			}
		}, nil)
		return
	}
	w.made++
	w.errands.run("create subscription "+k.id, func(ctx context.Context) func() {
		sub, existed, err := w.log.CreateSubscription(ctx, guestStore, k.id, subConfigs[k.id])
		return func() {
			if w.fateOf("create subscription", err) == done {
				w.check(subsKept, !existed, "subscription %s was deleted, and is there", k.id)
				w.cover.hit("subscriptions: a subscription was made again")
				w.forget(k, sub.Instance)
			}
		}
	}, nil)
}

// forget begins to know a subscription anew. What was held of the one before is over.
func (w *subWorld) forget(k *subKnown, instance uint64) {
	over := k.over
	for _, h := range k.held {
		over = append(over, h.WakeRef)
	}
	w.check(subsKept, instance == 0 || instance != k.instance, "subscription %s was made again as instance %x", k.id, instance)
	busy := k.busy
	*k = *newSubKnown(k.id, instance)
	k.over, k.busy = over, busy
}

// verify compares all that is there with what workers and writers were told.
func (w *subWorld) verify() {
	synctest.Wait()
	for _, path := range subPaths {
		w.verifyStream(w.streams[path])
	}
	for _, id := range subIDs {
		w.verifySub(w.subs[id])
	}
	w.verifyKeys()
	w.verifyWakes()
}

// verifyWakes checks that the wake stream is told of the wake that nobody has.
func (w *subWorld) verifyWakes() {
	synctest.Wait()
	_, told := w.readWakes()
	if w.wakes.id == 0 {
		w.cover.hit("subscriptions: the wake stream was gone after a restart")
		return
	}
	sub, err := w.log.Subscription(w.ctx, guestStore, "pull")
	if err == nil && sub.WakeID != "" && sub.Holder == "" {
		w.check(subsTold, told == sub.Generation, "nobody has the wake %d, and the wake stream was told of %d", sub.Generation, told)
	}
}

func (w *subWorld) verifyStream(s *subStream) {
	info, err := w.log.Stat(w.ctx, s.at)
	w.check(subsKept, err == nil || errors.Is(err, runnel.ErrNotFound), "%s: %v", s.path, err)
	same := err == nil && info.ID == s.id || s.id == 0 && s.tail == 0
	w.check(subsKept, s.unclear || (same || s.id == 0) && info.Tail >= s.tail, "%s was %d with %d entries, and is %d with %d: %v", s.path, s.id, s.tail, info.ID, info.Tail, err)
	if s.unclear && (!same || s.id == 0) {
		for _, k := range w.subs {
			a := k.acked[s.path]
			if a != nil && len(a.open) == 0 && s.id != 0 {
				k.acked[s.path] = new(subAcked) // it is another stream, and nothing of it has been acked
			} else {
				delete(k.acked, s.path)
			}
			for _, h := range k.held {
				h.others[s.path] = h.others[s.path] || h.clear[s.path] && !same
				h.vague[s.path] = true
			}
		}
	}
	s.id, s.tail, s.unclear = info.ID, info.Tail, false
}

func (w *subWorld) verifySub(k *subKnown) {
	sub, err := w.log.Subscription(w.ctx, guestStore, k.id)
	w.check(subsKept, err == nil || errors.Is(err, runnel.ErrNotFound), "%s: %v", k.id, err)
	there := err == nil
	w.check(subsKept, k.unclear || there == k.there, "subscription %s was there: %v, and is: %v", k.id, k.there, there)
	if k.unclear && (there != k.there || sub.Instance != k.instance) {
		w.forget(k, sub.Instance)
	}
	if k.unclear = false; !there {
		return
	}
	w.generation(k, sub.Instance, sub.Generation)
	if o := k.expect; o != nil {
		w.check(subsRetried, sub.Failures == o.Failures && sub.NextAttempt.Equal(o.NextAttempt) && sub.FailingSince.Equal(o.FailingSince) && sub.LastStatus == o.Status && sub.LastReason == o.Reason && sub.Parked == (o.Result == runnel.WebhookParked),
			"%+v was settled, and the subscription is %+v", *o, sub)
		w.cover.hit("subscriptions: a schedule of attempts was there after a restart")
	}
	var links []runnel.SubscriptionLink
	for l, err := range w.log.SubscriptionLinks(w.ctx, guestStore, k.id) {
		must(err)
		links = append(links, l)
	}
	unsure := make(map[string]runnel.Sequence)
	for path, a := range k.acked {
		if a.most() > a.floor {
			unsure[path] = a.floor
		}
	}
	w.see(k, links)
	for path, floor := range unsure {
		if k.acked[path].floor > floor {
			w.cover.hit("subscriptions: an ack turned out to be: done")
		} else {
			w.cover.hit("subscriptions: an ack turned out to be: not done")
		}
	}
	for _, a := range k.acked {
		a.open = nil
	}
}

func (w *subWorld) verifyKeys() {
	k := &w.keys
	data, version, err := w.log.LoadKeys(w.ctx, guestStore)
	must(err)
	if k.busy = false; k.maybe != "" {
		if version == k.version+1 && string(data) == k.maybe {
			w.cover.hit("subscriptions: keys turned out to be: stored")
			k.version, k.data = version, k.maybe
		} else {
			w.cover.hit("subscriptions: keys turned out to be: not stored")
		}
		k.maybe = ""
	}
	w.check(subsKeyed, version == k.version && string(data) == k.data, "keys %q of version %d were stored, and there are %q of %d", k.data, k.version, data, version)
}
