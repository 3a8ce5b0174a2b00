package chaos

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/durablestreams/dsclient"
	"github.com/runnelhq/runnel/proof/oracle"
	"github.com/runnelhq/runnel/proof/patience"
	"github.com/runnelhq/runnel/webhook"
	"github.com/runnelhq/runnel/wire"
)

// hooks are receivers of webhooks about streams that come and go, while producers write to them. They are outside of
// what is killed, and each has a subscription of its own: one calls back, early, late and when it is over; one fails
// and hangs; one has its deliveries parked, and replayed. What they know goes to the oracle.
type hooks struct {
	fleet
	receivers []*receiver
	keys      string
	made      bool
	calls     sync.WaitGroup // callbacks under way, over rounds
	stop      context.CancelFunc
}

const (
	hookTimeout = 500 * time.Millisecond
	hookLease   = time.Second
)

func (p *hooks) name() string { return "receivers of webhooks" }

func (p *hooks) run(ctx context.Context, w *world) {
	if !p.made && !p.subscribe(ctx, w) || !p.ready(ctx, w) {
		return
	}
	var work sync.WaitGroup
	work.Go(func() { p.write(ctx, w) })
	for _, x := range p.receivers {
		if x.calls {
			work.Go(func() { x.haunt(ctx) })
		} else {
			work.Go(func() { x.watch(ctx) })
		}
	}
	work.Wait()
}

// subscribe starts the receivers, and makes their subscriptions.
func (p *hooks) subscribe(ctx context.Context, w *world) bool {
	if p.receivers == nil {
		p.receivers = []*receiver{
			{id: "calls", calls: true, replies: []reply{hangs, fails, calls, calls, calls, done, done, done}},
			{id: "fails", waits: true, replies: []reply{hangs, fails, fails, fails, done, done}},
			{id: "parks", replies: []reply{gone, done, done}},
		}
		living, stop := context.WithCancel(context.Background())
		p.stop = stop
		for _, x := range p.receivers {
			x.world, x.random, x.living, x.calling = w, w.rand(), living, &p.calls
			x.client = &dsclient.Client{Base: w.s.url("/v1/stream"), HTTP: &http.Client{Timeout: clientTimeout, Transport: w.http.Transport}}
			x.verifier = webhook.NewVerifier(w.s.url("/v1/stream/__ds/jwks.json"), webhook.VerifierConfig{Subscriptions: []string{x.id}})
			x.server = httptest.NewServer(x)
		}
		w.t.Cleanup(p.end)
	}
	for _, x := range p.receivers {
		if !x.subscribe(ctx, p.folder+"/**") {
			return false
		}
	}
	p.made = true
	return true
}

// end stops the receivers.
func (p *hooks) end() {
	p.stop()
	p.calls.Wait()
	for _, x := range p.receivers {
		x.server.CloseClientConnections()
		x.server.Close()
	}
}

func (p *hooks) check(w *world, all bool) {
	p.streams.check(w, others(all))
	if !p.made {
		return
	}
	p.checkKeys(w)
	for _, x := range p.receivers {
		x.checkKept()
		if !x.waits || all {
			p.finish(x)
		}
		w.report(x.wakes.Violations())
	}
}

// checkKeys checks that the keys are what they have been, so that receivers may keep them.
func (p *hooks) checkKeys(w *world) {
	a := w.readOnce("__ds/jwks.json", "-1")
	if a.status != http.StatusOK || p.keys != "" && string(a.body) != p.keys {
		w.fail("the keys were %s, and are %v", p.keys, a)
	}
	p.keys = string(a.body)
}

// finish lets a receiver do all that it is told of, and checks that nothing is left then.
func (p *hooks) finish(x *receiver) {
	x.setWilling(true)
	defer x.setWilling(false)
	if !x.waits {
		x.replay(context.Background())
	}
	w := x.world
	for left := patience.For(webhook.MaxBackoff + arrival); ; {
		sub, asked, err := x.subscription(context.Background())
		if err == nil && !slices.ContainsFunc(sub.Streams, func(s dsclient.SubscribedStream) bool { return s.Pending }) {
			x.wakes.Check(stateOf(&sub), asked)
			break
		}
		if !left.Wait(x.steps()) || w.failed.Load() {
			w.fail("work is left that %s is not told of: %+v, %v", x.id, sub, err)
			return
		}
	}
	for path := range p.active {
		x.wakes.CheckDone(path, len(w.read(path, text).entries))
	}
}

// reply is how a receiver answers.
type reply int

const (
	done  reply = iota
	fails       // and is to be asked again
	gone        // for good
	hangs       // for longer than it is waited for
	calls       // back, after a while
)

// receiver is one receiver of webhooks.
type receiver struct {
	id      string
	calls   bool    // it may call back, so that a wake may end at any time
	waits   bool    // nobody ever asks for an attempt, and so each one has its time
	replies []reply // it takes one of them each time

	*world
	wakes    oracle.Wakes
	server   *httptest.Server
	verifier *webhook.Verifier
	client   *dsclient.Client
	living   context.Context //nolint:containedctx // that of callbacks, which go on over rounds
	calling  *sync.WaitGroup

	mu       sync.Mutex
	random   *rand.Rand
	willing  bool // it answers everything with done
	failures int  // in a row
	last     []*webhook.Notification
	sent     int64

	// What who looks at the subscription knows: whether it is parked, and how many kills there were when it was to be
	// replayed and nobody knows whether it was, or -1.
	parked   bool
	replayed int64
}

func (x *receiver) subscribe(ctx context.Context, pattern string) bool {
	x.replayed = -1
	for {
		_, _, err := x.client.CreateSubscription(ctx, x.id, dsclient.SubscriptionOptions{
			Type: runnel.Webhook, Pattern: pattern, WebhookURL: x.server.URL + "/" + x.id, LeaseTTL: hookLease,
		})
		if err == nil {
			return true
		}
		if !x.wait(ctx, 20*time.Millisecond) {
			return false
		}
	}
}

// subscription returns the subscription, and when it was asked for.
func (x *receiver) subscription(ctx context.Context) (dsclient.Subscription, time.Time, error) {
	asked := time.Now()
	sub, err := x.client.Subscription(ctx, x.id)
	return sub, asked, err
}

func stateOf(sub *dsclient.Subscription) *oracle.Subscription {
	state := &oracle.Subscription{
		Generation: sub.Generation, Acked: make(map[string]int),
		Attempts: sub.Failure.Attempts, Next: sub.NextAttempt, Parked: sub.Failure.Parked,
	}
	for _, s := range sub.Streams {
		if at, err := runnel.ParseOffset(string(s.Acked)); err == nil {
			state.Acked[s.Path] = int(at)
		}
	}
	return state
}

func (x *receiver) setWilling(is bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.willing, x.failures = is, 0
}

func (x *receiver) steps() int64 {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.sent
}

// ServeHTTP answers a webhook. What it says is noted before anything is asked of the server, which may hang.
func (x *receiver) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	came := time.Now()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the server was killed
	}
	n := new(webhook.Notification)
	if err := json.Unmarshal(body, n); err != nil || n.Subscription != x.id {
		x.fail("%s is sent %.200q: %v", x.id, body, err)
		return
	}
	x.wakes.Sent(n.Generation, n.WakeID, came)
	kills := x.s.kills.Load()
	how := x.note(n)
	if err := x.verifier.Verify(r.Context(), r.Header.Get(webhook.HeaderSignature), body); err != nil {
		if errors.Is(err, webhook.ErrSignature) {
			x.fail("%s: %v", x.id, err)
		}
		how = fails
	}
	if how == done || how == calls {
		if err := x.take(r.Context(), n); err != nil {
			how = fails
		}
	}
	switch how {
	case done:
		x.counts.hit(hookDone)
		_, _ = io.WriteString(rw, `{"done":true}`)
	case fails:
		x.counts.hit(hookFailed)
		rw.WriteHeader(http.StatusInternalServerError)
	case gone:
		rw.WriteHeader(http.StatusGone)
	case hangs:
		x.counts.hit(hookHung)
		x.wait(r.Context(), 3*hookTimeout)
		rw.WriteHeader(http.StatusInternalServerError)
	case calls:
		x.calling.Go(func() { x.callBack(n, kills) })
		_, _ = io.WriteString(rw, `{}`)
	}
}

// note remembers what came, and chooses how to answer.
func (x *receiver) note(n *webhook.Notification) reply {
	const remembered = 20
	x.mu.Lock()
	defer x.mu.Unlock()
	x.sent++
	if x.last = append(x.last, n); len(x.last) > remembered {
		x.last = x.last[1:]
	}
	how := x.replies[x.random.IntN(len(x.replies))]
	const most = 2 // or attempts become rare
	if x.willing || x.failures >= most && how != gone {
		how = done
	}
	if x.failures++; how == done || how == calls {
		x.failures = 0
	}
	return how
}

// take reads everything that a receiver is told of.
func (x *receiver) take(ctx context.Context, n *webhook.Notification) error {
	ctx, cancel := context.WithTimeout(ctx, hookTimeout)
	defer cancel()
	for _, s := range n.Streams {
		from, err := runnel.ParseOffset(s.AckedOffset)
		to, err2 := runnel.ParseOffset(s.TailOffset)
		if err := errors.Join(err, err2); err != nil {
			x.fail("%s is told of %+v: %v", x.id, s, err)
			return err
		}
		for from < to {
			res, err := x.open(ctx, request{method: http.MethodGet, path: s.Path, query: "?offset=" + from.Offset()})
			if err != nil {
				return err
			}
			a, err := readAll(res)
			names, rest := decode(text, a.body)
			if next, ok := a.entries(); err != nil || a.status != http.StatusOK || len(rest) > 0 || !ok || next != int(from)+len(names) {
				return fmt.Errorf("%v: %w", a, errors.Join(err, errNotRead))
			}
			if len(names) == 0 {
				x.fail("%s is told that %s goes on up to %d, and it ends at %d", x.id, s.Path, to, from)
				return errNotRead
			}
			x.wakes.InHand(s.Path, int(from), min(int(from)+len(names), int(to)))
			from += runnel.Sequence(len(names))
		}
	}
	return nil
}

// callBack acks a wake after a while, in parts or as a whole, and sometimes when its lease is over.
func (x *receiver) callBack(n *webhook.Notification, kills int64) {
	r := x.rand()
	after := time.Duration(r.IntN(200)) * time.Millisecond
	if r.IntN(5) == 0 {
		after += hookLease
	}
	if !x.wait(x.living, after) {
		return
	}
	acks := n.Tails()
	if r.IntN(2) == 0 {
		for _, ack := range acks {
			if !x.ack(x.living, n, []webhook.Ack{ack}, false, kills) {
				return
			}
		}
		acks = nil
	}
	x.ack(x.living, n, acks, true, kills)
}

// ack calls back until there is an answer or ctx ends, and tells whether it was a success.
func (x *receiver) ack(ctx context.Context, n *webhook.Notification, acks []webhook.Ack, ends bool, kills int64) bool {
	for {
		call := x.wakes.Calling(n.Generation)
		_, err := n.Ack(context.WithoutCancel(ctx), x.client.HTTP, acks, ends)
		refused, known := errors.AsType[*webhook.CallbackError](err)
		switch {
		case err == nil:
			call.Accepted(ends)
			x.counts.hit(hookCalled)
			if x.s.kills.Load() > kills {
				x.counts.hit(hookCalledLate)
			}
			return true
		case errors.Is(err, webhook.ErrFenced):
			if call.Over() {
				x.counts.hit(hookFenced)
			}
			return false
		case known && refused.Status == http.StatusConflict && refused.Code == string(wire.CodeAck) && !call.Over():
			return false // somebody who was sent the same wake later has come further
		case known && refused.Status < http.StatusInternalServerError && refused.Status != http.StatusRequestTimeout:
			x.fail("%s: a callback of generation %d: %v", x.id, n.Generation, err)
			return false
		}
		if !x.wait(ctx, 10*time.Millisecond) {
			return false
		}
	}
}

// haunt calls back, now and then, for a wake of before, about what a later one told of.
func (x *receiver) haunt(ctx context.Context) {
	for r := x.rand(); x.wait(ctx, 50*time.Millisecond); {
		x.mu.Lock()
		if len(x.last) == 0 {
			x.mu.Unlock()
			continue
		}
		old, latest := x.last[r.IntN(len(x.last))], x.last[len(x.last)-1]
		x.mu.Unlock()
		if old.Generation < latest.Generation {
			x.ack(ctx, old, latest.Tails(), r.IntN(2) == 0, x.s.kills.Load())
		}
	}
}

// watch looks at the subscription again and again, and tells the oracle what must stay so until it is changed. It
// replays what is parked now and then.
func (x *receiver) watch(ctx context.Context) {
	for r := x.rand(); x.wait(ctx, 20*time.Millisecond); {
		if x.look(ctx) && r.IntN(20) == 0 {
			x.replay(ctx)
			x.counts.hit(hookReplayed)
		}
	}
}

// look looks at the subscription once, and tells whether it is parked for certain.
func (x *receiver) look(ctx context.Context) bool {
	sub, _, err := x.subscription(ctx)
	if err != nil || x.replayed == x.s.kills.Load() {
		return false
	}
	if sub.Failure.Attempts > 0 && x.waits {
		x.wakes.Scheduled(sub.Failure.Attempts, sub.NextAttempt)
	}
	if x.parked = sub.Failure.Parked; x.parked {
		x.counts.hit(hookParked)
		x.wakes.Parked()
	}
	return x.parked
}

// replay asks for an attempt.
func (x *receiver) replay(ctx context.Context) {
	x.wakes.Replayed()
	x.parked, x.replayed = false, x.s.kills.Load()
	if x.client.ReplaySubscription(ctx, x.id) == nil {
		x.replayed = -1
	}
}

// checkKept looks at a subscription after a kill.
func (x *receiver) checkKept() {
	for left := patience.For(arrival); ; {
		sub, asked, err := x.subscription(context.Background())
		if err == nil {
			if x.parked && sub.Failure.Parked {
				x.counts.hit(hookStayed)
			}
			if sub.NextAttempt.After(asked) {
				x.counts.hit(hookKept)
			}
			x.wakes.Check(stateOf(&sub), asked)
			return
		}
		if !left.Wait(0) {
			x.fail("the subscription %s cannot be read: %v", x.id, err)
			return
		}
	}
}
