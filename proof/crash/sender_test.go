package crash

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/engine"
	"github.com/runnelhq/runnel/proof/oracle"
	"github.com/runnelhq/runnel/storage"
	"github.com/runnelhq/runnel/storage/pebblestore"
	"github.com/runnelhq/runnel/webhook"
)

// TestSenders lets what sends webhooks live through losses of power: the real one, with its schedule, its breakers,
// its keys and tokens, on the real log. Its receivers are functions that are asked in place of a network. Power fails
// right before or right after a commit, of an append, a claim, an outcome, a callback, a mark or the keys. The sender
// draws how long it waits, so a seed makes a failure likely to come back.
func TestSenders(t *testing.T) {
	cover := newCoverage()
	n := max(1, *seeds/2)
	began := time.Now()
	done := 0
	for more := true; more; {
		s := &senders{seed: *seed + uint64(done), cover: cover}
		if found := s.run(t); len(found) > 0 {
			t.Fatalf("seed %d violates\n  %v\ngo test ./proof/crash -run %s -args -seeds 1 -seed %d", s.seed, found, t.Name(), s.seed)
		}
		if done++; *duration > 0 {
			more = time.Since(began) < *duration
		} else {
			more = done < n
		}
	}
	const many = 50
	if done >= many {
		for _, text := range cover.missing(senderSometimes, nil) {
			t.Error(text)
		}
	}
	t.Logf("%d seeds from %d in %v:\n%s", done, *seed, time.Since(began).Round(time.Millisecond), cover)
}

var senderSometimes = []string{
	"power failed with an attempt under way", "power failed with a breaker open", "power failed with a delivery parked",
	"power failed before the next attempt", "an attempt that power cut off was made again",
	"a receiver was done", "a receiver failed", "a receiver hung", "a receiver called back", "a receiver called back after power failed",
	"a callback was fenced", "a delivery was replayed",
}

// TestTheMachineryCanSeeSenders breaks what senders rest on in ways that must be noticed.
func TestTheMachineryCanSeeSenders(t *testing.T) {
	for _, m := range senderMutations {
		t.Run(m.name, func(t *testing.T) {
			for seed := uint64(1); seed <= 100; seed++ {
				s := &senders{seed: seed, cover: newCoverage(), broken: m.make}
				if found := s.run(t); len(found) > 0 {
					t.Logf("seen by seed %d: %.200v", seed, found[0])
					return
				}
			}
			t.Fatal("not seen in 100 seeds")
		})
	}
}

// senders is one run: lives of a log and its sender, and what their receivers know.
type senders struct {
	seed      uint64
	cover     *coverage
	broken    func(webhook.Log) webhook.Log
	receivers []*hookEnd
	tails     map[string]runnel.Sequence // as far as appends are acknowledged
	keys      string

	drawing sync.Mutex
	random  *rand.Rand

	mu    sync.Mutex // of what follows, and of what receivers know
	lives int
	last  bool // no power fails any more
	*senderLife
	found []oracle.Violation
}

// senderLife is from one start to the loss of power.
type senderLife struct {
	left   int        // commits until power fails
	image  *vfs.MemFS // what the next life begins with; nil while there is power
	driver *pebblestore.Driver
	engine *engine.Engine
	log    webhook.Log
	subs   *webhook.Subscriptions
	end    context.CancelFunc
	ended  chan struct{}
}

// hookEnd is a receiver, and its subscription.
type hookEnd struct {
	id      string
	replies []string
	wakes   oracle.Wakes
	waits   bool // nobody asks for an attempt, nor calls back, so each has its time

	under  int // attempts under way
	cut    bool
	parked bool
	old    []*webhook.Notification
}

var senderPaths = []string{"hooked/a", "hooked/b", "hooked/c"}

func (s *senders) run(t *testing.T) []oracle.Violation {
	t.Helper()
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	s.random = rand.New(rand.NewPCG(s.seed, 7))
	s.tails = make(map[string]runnel.Sequence)
	s.receivers = []*hookEnd{
		{id: "calls", replies: []string{"done", "calls", "calls", "calls", "fails", "hangs"}},
		{id: "fails", waits: true, replies: []string{"fails", "fails", "fails", "fails", "hangs", "done"}},
		{id: "parks", replies: []string{"gone", "done"}},
	}
	synctest.Test(t, func(*testing.T) {
		mem := vfs.NewCrashableMem()
		for range 2 + s.draw(4) {
			s.open(mem)
			for range 40 + s.draw(60) {
				s.step()
				if s.off() {
					break
				}
			}
			mem = s.lose()
		}
		s.last = true
		s.open(mem)
		s.finish()
		s.quit()
	})
	return s.found
}

// draw returns a number from 0 up to n.
func (s *senders) draw(n int) int {
	s.drawing.Lock()
	defer s.drawing.Unlock()
	return s.random.IntN(n)
}

func (s *senders) violated(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.found = append(s.found, oracle.Violation{Invariant: "the sender", Text: fmt.Sprintf(format, args...)})
}

// judge takes what the oracle has found.
func (s *senders) judge(x *hookEnd) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.found = append(s.found, x.wakes.Violations()...)
}

// with does something that only counts while there is power, and tells whether there is.
func (s *senders) with(do func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.image != nil {
		return false
	}
	do()
	return true
}

func (s *senders) off() bool { return !s.with(func() {}) }

// open begins a life.
func (s *senders) open(mem *vfs.MemFS) {
	quiet := slog.New(slog.DiscardHandler)
	driver, err := pebblestore.Open("data", pebblestore.Config{FS: mem, MemTableBytes: 64 << 10, CacheBytes: 64 << 10, Logger: quiet})
	must(err)
	life := &senderLife{driver: driver, left: 1 << 40, ended: make(chan struct{})}
	life.engine, err = engine.Open(&cuttable{Driver: driver, run: s, life: life, mem: mem, random: rand.New(rand.NewPCG(s.seed, uint64(s.lives)))}, engine.Config{Logger: quiet})
	must(err)
	life.log = life.engine
	if s.broken != nil {
		life.log = s.broken(life.engine)
	}
	life.subs, err = webhook.NewSubscriptions(life.log, webhook.SubscriptionsConfig{Send: webhook.Config{
		Transport: s, Timeout: 2 * time.Second, OpenAfter: 2, Grace: -1, Logger: quiet,
	}})
	must(err)
	s.mu.Lock()
	s.senderLife = life
	s.lives++
	s.mu.Unlock()
	if s.lives == 1 {
		s.begin()
	} else {
		s.verify()
	}
	ctx, end := context.WithCancel(context.Background())
	life.end = end
	go func() {
		defer close(life.ended)
		life.subs.Run(ctx)
	}()
	if !s.last {
		s.with(func() { life.left = 1 + s.draw(120) })
	}
}

// begin makes what is there from the beginning.
func (s *senders) begin() {
	ctx := context.Background()
	for _, x := range s.receivers {
		_, _, err := s.subs.CreateSubscription(ctx, runnel.Store{}, x.id, runnel.SubscriptionConfig{
			Type: runnel.Webhook, Pattern: "hooked/*", WebhookURL: "https://receiver.example.com/" + x.id,
			Base: "http://localhost/v1/stream", LeaseTTL: wakeLease,
		})
		must(err)
	}
	_, err := s.subs.SigningKey(ctx, runnel.Store{})
	must(err)
	keys, err := s.subs.KeySet(ctx, runnel.Store{})
	must(err)
	s.keys = string(keys)
}

// verify compares what is found after a loss of power with what was known.
func (s *senders) verify() {
	ctx := context.Background()
	keys, err := s.subs.KeySet(ctx, runnel.Store{})
	must(err)
	if string(keys) != s.keys {
		s.violated("the keys were %s, and are %s", s.keys, keys)
	}
	for _, x := range s.receivers {
		sub, links := s.look(x)
		acked := make(map[string]int)
		for _, l := range links {
			acked[l.Path] = int(l.Acked)
		}
		now := time.Now()
		if sub.NextAttempt.After(now) {
			s.cover.hit("power failed before the next attempt")
		}
		x.wakes.Check(&oracle.Subscription{Generation: sub.Generation, Acked: acked, Attempts: sub.Failures, Next: sub.NextAttempt, Parked: sub.Parked}, now)
		s.judge(x)
	}
	for path, tail := range s.tails {
		info, err := s.engine.Stat(ctx, segmentOf(path))
		if err != nil || info.Tail < tail {
			s.violated("%s had %d entries, and has %d: %v", path, tail, info.Tail, err)
		}
	}
}

func segmentOf(path string) runnel.Segment {
	at, err := runnel.ParsePath(runnel.Store{}, path)
	must(err)
	return at
}

func (s *senders) look(x *hookEnd) (runnel.Subscription, []runnel.SubscriptionLink) {
	sub, err := s.engine.Subscription(context.Background(), runnel.Store{}, x.id)
	must(err)
	var links []runnel.SubscriptionLink
	for l, err := range s.engine.SubscriptionLinks(context.Background(), runnel.Store{}, x.id) {
		must(err)
		links = append(links, l)
	}
	return sub, links
}

// step does one thing, or lets time pass.
func (s *senders) step() {
	switch n := s.draw(10); {
	case n < 5:
		path := senderPaths[s.draw(len(senderPaths))]
		a, err := s.engine.Append(context.Background(), segmentOf(path), runnel.AppendOptions{Create: &runnel.CreateOptions{}}, runnel.Record{Payload: []byte("x")})
		must(err)
		s.with(func() { s.tails[path] = max(s.tails[path], a.Tail) })
	case n < 9:
		time.Sleep(time.Duration(1+s.draw(1500)) * time.Millisecond) //nolint:forbidigo // in a bubble
	default:
		s.haunt()
	}
	for _, x := range s.receivers {
		s.watch(x)
	}
}

// watch tells the oracle what must stay so, and replays what is parked now and then.
func (s *senders) watch(x *hookEnd) {
	sub, _ := s.look(x)
	s.with(func() {
		if x.waits && sub.Failures > 0 {
			x.wakes.Scheduled(sub.Failures, sub.NextAttempt)
		}
		if x.parked = sub.Parked; x.parked {
			x.wakes.Parked()
		}
	})
	if x.parked && s.draw(10) == 0 {
		s.replay(x)
	}
}

func (s *senders) replay(x *hookEnd) {
	x.wakes.Replayed()
	x.parked = false
	s.cover.hit("a delivery was replayed")
	must(s.log.ReplayDelivery(context.Background(), runnel.Store{}, x.id))
}

// haunt calls back for a wake of before.
func (s *senders) haunt() {
	x := s.receivers[0]
	var old, latest *webhook.Notification
	s.with(func() {
		if n := len(x.old); n > 0 {
			old, latest = x.old[s.draw(n)], x.old[n-1]
		}
	})
	if old != nil && old.Generation < latest.Generation {
		s.callBack(x, old, latest, s.lives)
	}
}

// RoundTrip is what a receiver does.
func (s *senders) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	must(err)
	n := new(webhook.Notification)
	must(json.Unmarshal(body, n))
	verifier := webhook.NewVerifier("http://localhost/jwks.json", webhook.VerifierConfig{Client: &http.Client{Transport: keySet(s.keys)}})
	if err := verifier.Verify(context.Background(), r.Header.Get(webhook.HeaderSignature), body); err != nil {
		s.violated("%s: %v", n.Subscription, err)
	}
	var x *hookEnd
	how, life := "", 0
	if !s.with(func() {
		life = s.lives
		for _, x = range s.receivers {
			if x.id == n.Subscription {
				break
			}
		}
		x.wakes.Sent(n.Generation, n.WakeID, time.Now())
		if x.old = append(x.old, n); x.cut {
			s.cover.hit("an attempt that power cut off was made again")
		}
		x.cut, x.under = false, x.under+1
		if how = x.replies[s.draw(len(x.replies))]; s.last {
			how = "done"
		}
		if how == "done" || how == "calls" {
			for _, l := range n.Streams {
				from, err := runnel.ParseOffset(l.AckedOffset)
				must(err)
				to, err := runnel.ParseOffset(l.TailOffset)
				must(err)
				x.wakes.InHand(l.Path, int(from), int(to))
			}
		}
	}) {
		return nil, errors.New("power has failed")
	}
	status, answer := http.StatusOK, "{}"
	switch how {
	case "done":
		s.cover.hit("a receiver was done")
		answer = `{"done":true}`
	case "gone":
		status = http.StatusGone
	case "fails":
		s.cover.hit("a receiver failed")
		status = http.StatusInternalServerError
	case "hangs":
		s.cover.hit("a receiver hung")
		<-r.Context().Done()
		s.with(func() { x.under-- })
		return nil, r.Context().Err()
	case "calls":
		after := time.Duration(s.draw(3000)) * time.Millisecond
		if s.draw(5) == 0 {
			after += wakeLease
		}
		time.AfterFunc(after, func() { s.callBack(x, n, n, life) })
	}
	s.with(func() { x.under-- })
	return &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(answer)), Request: r}, nil
}

// callBack acks what a notification tells of with the token of a wake, which may be over.
func (s *senders) callBack(x *hookEnd, n, of *webhook.Notification, life int) {
	ctx := context.Background()
	var subs *webhook.Subscriptions
	if !s.with(func() { subs = s.subs }) {
		return
	}
	ref, err := subs.VerifyToken(ctx, true, n.CallbackToken)
	if err != nil {
		if !s.off() {
			s.violated("the token of generation %d of %s: %v", n.Generation, x.id, err)
		}
		return
	}
	var acks []runnel.WakeAck
	for _, a := range of.Tails() {
		at, err := runnel.ParseOffset(a.Offset)
		must(err)
		acks = append(acks, runnel.WakeAck{Path: a.Stream, Acked: at})
	}
	call := x.wakes.Calling(n.Generation)
	_, err = subs.AckWake(ctx, ref, acks, true)
	wrong := false
	s.with(func() {
		switch {
		case err == nil:
			call.Accepted(true)
			s.cover.hit("a receiver called back")
			if life < s.lives {
				s.cover.hit("a receiver called back after power failed")
			}
		case errors.Is(err, runnel.ErrFenced):
			s.cover.hit("a callback was fenced")
		case !errors.Is(err, runnel.ErrAck) && !errors.Is(err, runnel.ErrShutdown) || call.Over():
			wrong = true
		}
	})
	if wrong {
		s.violated("a callback of generation %d of %s: %v", n.Generation, x.id, err)
	}
}

// keySet is a server that serves a key set.
type keySet string

func (k keySet) RoundTrip(*http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(string(k)))}, nil
}

// lose ends a life by a loss of power, and returns what it leaves.
func (s *senders) lose() *vfs.MemFS {
	s.with(func() { s.left = 0 })
	for !s.off() { // the next commit is the last
		_, err := s.engine.Append(context.Background(), segmentOf("other/x"), runnel.AppendOptions{Create: &runnel.CreateOptions{}}, runnel.Record{Payload: []byte("x")})
		must(err)
	}
	if s.subs.Stats().Open > 0 {
		s.cover.hit("power failed with a breaker open")
	}
	s.mu.Lock()
	for _, x := range s.receivers {
		if x.under > 0 {
			s.cover.hit("power failed with an attempt under way")
		}
		if x.parked {
			s.cover.hit("power failed with a delivery parked")
		}
		x.cut, x.under = x.under > 0, 0
	}
	s.mu.Unlock()
	s.quit()
	return s.image
}

// quit lets a life go. What it still does counts for nothing.
func (s *senders) quit() {
	s.end()
	<-s.ended
	must(s.engine.Close())
	must(s.driver.Close())
}

// finish lets receivers do all that they are told of, and checks that nothing is left then.
func (s *senders) finish() {
	for _, x := range s.receivers {
		if !x.waits {
			s.replay(x)
		}
	}
	const most = 600
	for range most {
		time.Sleep(time.Second) //nolint:forbidigo // in a bubble
		if !s.pending() {
			break
		}
	}
	if s.pending() {
		s.violated("work is left after %d seconds that nobody is told of", most)
	}
	s.verify()
	for path := range s.tails {
		info, err := s.engine.Stat(context.Background(), segmentOf(path))
		must(err)
		for _, x := range s.receivers {
			x.wakes.CheckDone(path, int(info.Tail))
			s.judge(x)
		}
	}
}

func (s *senders) pending() bool {
	for _, x := range s.receivers {
		_, links := s.look(x)
		for _, l := range links {
			if l.Pending() {
				return true
			}
		}
	}
	return false
}

// cuttable is a driver under which power fails before or after a commit.
type cuttable struct {
	storage.Driver
	run    *senders
	life   *senderLife
	mem    *vfs.MemFS
	random *rand.Rand
}

func (c *cuttable) Commit(ctx context.Context, p storage.Partition, b *storage.Batch) (storage.Version, error) {
	before := c.run.draw(2) == 0
	if before {
		c.count()
	}
	v, err := c.Driver.Commit(ctx, p, b)
	if !before {
		c.count()
	}
	return v, err
}

// count lets power fail if it is time. Nobody has been told of the commit yet.
func (c *cuttable) count() {
	c.run.mu.Lock()
	defer c.run.mu.Unlock()
	l := c.life
	if l.left--; l.left <= 0 && l.image == nil {
		l.image = c.mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: c.random.IntN(101), RNG: c.random})
	}
}

// senderMutations are ways in which what senders rest on could be wrong.
var senderMutations = []struct {
	name string
	make func(webhook.Log) webhook.Log
}{
	{"the next attempt is not stored", func(l webhook.Log) webhook.Log { return unscheduled{l} }},
	{"attempts begin at once after a restart", func(l webhook.Log) webhook.Log { return &restless{Log: l} }},
	{"what waits is not told of after a restart", func(l webhook.Log) webhook.Log { return silent{l} }},
	{"a callback counts whatever its generation is", func(l webhook.Log) webhook.Log { return &believing{Log: l} }},
	{"a failed attempt counts as done", func(l webhook.Log) webhook.Log { return obliging{l} }},
	{"keys are made anew at each start", func(l webhook.Log) webhook.Log { return &rekeying{Log: l} }},
}

// unscheduled forgets when the next attempt is to be made.
type unscheduled struct{ webhook.Log }

func (l unscheduled) SettleDelivery(ctx context.Context, d runnel.WebhookDelivery, o runnel.WebhookOutcome) error {
	o.NextAttempt = time.Time{}
	return l.Log.SettleDelivery(ctx, d, o)
}

// restless replays all that there is when it begins.
type restless struct{ webhook.Log }

func (l *restless) WebhookPending(ctx context.Context) iter.Seq[runnel.WebhookPending] {
	for _, id := range []string{"calls", "fails", "parks"} {
		_ = l.ReplayDelivery(ctx, runnel.Store{}, id)
	}
	return l.Log.WebhookPending(ctx)
}

// silent tells only of what comes after a second.
type silent struct{ webhook.Log }

func (l silent) WebhookPending(ctx context.Context) iter.Seq[runnel.WebhookPending] {
	began := time.Now()
	return func(yield func(runnel.WebhookPending) bool) {
		for p := range l.Log.WebhookPending(ctx) {
			if time.Since(began) > time.Second && !yield(p) {
				return
			}
		}
	}
}

// believing lets an old callback act in the place of the latest wake.
type believing struct {
	webhook.Log
	mu     sync.Mutex
	latest map[string]runnel.WakeRef
}

func (l *believing) ClaimDelivery(ctx context.Context, store runnel.Store, id string, until time.Time) (runnel.WebhookDelivery, error) {
	d, err := l.Log.ClaimDelivery(ctx, store, id, until)
	if err == nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.latest == nil {
			l.latest = make(map[string]runnel.WakeRef)
		}
		l.latest[id] = d.WakeRef
	}
	return d, err
}

func (l *believing) AckWake(ctx context.Context, ref runnel.WakeRef, acks []runnel.WakeAck, done bool) (bool, error) {
	l.mu.Lock()
	if latest, ok := l.latest[ref.Subscription]; ok {
		ref = latest
	}
	l.mu.Unlock()
	return l.Log.AckWake(ctx, ref, acks, done)
}

// obliging takes every answer, and none at all, for done.
type obliging struct{ webhook.Log }

func (l obliging) SettleDelivery(ctx context.Context, d runnel.WebhookDelivery, o runnel.WebhookOutcome) error {
	o.Result = runnel.WebhookDone
	return l.Log.SettleDelivery(ctx, d, o)
}

// rekeying keeps keys in memory.
type rekeying struct {
	webhook.Log
	data    []byte
	version uint64
}

func (l *rekeying) LoadKeys(context.Context, runnel.Store) ([]byte, uint64, error) {
	return l.data, l.version, nil
}

func (l *rekeying) StoreKeys(_ context.Context, _ runnel.Store, data []byte, version uint64) error {
	l.data, l.version = data, version+1
	return nil
}
