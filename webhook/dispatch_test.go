package webhook

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/runnelhq/runnel"
)

// outbox keeps deliveries in memory, as an engine keeps them on disk. Several dispatchers may share it.
type outbox struct {
	mu       sync.Mutex
	rows     map[Key]*row
	watchers map[chan struct{}]struct{}
	failure  error
	claims   int
}

type row struct {
	Delivery
	due      time.Time
	claimed  time.Time // until when
	pending  bool
	outcomes []Outcome
}

func newOutbox() *outbox {
	return &outbox{rows: make(map[Key]*row), watchers: make(map[chan struct{}]struct{})}
}

func (o *outbox) changed() {
	for c := range o.watchers {
		notify(c)
	}
}

// wake puts a delivery of a subscription in the outbox.
func (o *outbox) wake(name, url string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	key := Key{Subscription: name}
	r := o.rows[key]
	if r == nil {
		r = &row{Delivery: Delivery{Wake: Wake{Key: key}, URL: url}}
		o.rows[key] = r
	}
	r.Generation++
	r.WakeID = fmt.Sprintf("w_%d", r.Generation)
	r.pending, r.due, r.claimed = true, time.Time{}, time.Time{}
	o.changed()
}

func (o *outbox) Pending(ctx context.Context) iter.Seq2[Pending, error] {
	return func(yield func(Pending, error) bool) {
		c := make(chan struct{}, 1)
		o.mu.Lock()
		o.watchers[c] = struct{}{}
		o.mu.Unlock()
		defer func() {
			o.mu.Lock()
			delete(o.watchers, c)
			o.mu.Unlock()
		}()
		for ctx.Err() == nil {
			o.mu.Lock()
			failure := o.failure
			var all []Pending
			for _, key := range slices.SortedFunc(maps.Keys(o.rows), func(a, b Key) int { return strings.Compare(a.Subscription, b.Subscription) }) {
				if r := o.rows[key]; r.pending && !time.Now().Before(r.claimed) {
					all = append(all, Pending{Key: r.Key, URL: r.URL, Due: r.due, Generation: r.Generation})
				}
			}
			o.mu.Unlock()
			if failure != nil {
				yield(Pending{}, failure)
				return
			}
			for _, p := range all {
				if !yield(p, nil) {
					return
				}
			}
			select {
			case <-c:
			case <-time.After(5 * time.Second): // claims that have run out
			case <-ctx.Done():
			}
		}
	}
}

func (o *outbox) Claim(ctx context.Context, key Key, until time.Time) (Delivery, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.claims++
	r, now := o.rows[key], time.Now()
	switch {
	case ctx.Err() != nil:
		return Delivery{}, ctx.Err()
	case o.failure != nil:
		return Delivery{}, o.failure
	case r == nil || !r.pending || now.Before(r.due) || now.Before(r.claimed):
		return Delivery{}, ErrGone
	}
	r.claimed = until
	return r.Delivery, nil
}

func (o *outbox) Settle(_ context.Context, d Delivery, out Outcome) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	r := o.rows[d.Key]
	switch {
	case o.failure != nil:
		return o.failure
	case r == nil || !r.pending || r.WakeID != d.WakeID:
		return ErrGone
	}
	r.claimed, r.due = time.Time{}, out.Next
	r.Failures, r.FailingSince = out.Failures, out.FailingSince
	r.pending = out.Result == Retry
	r.outcomes = append(r.outcomes, out)
	o.changed()
	return nil
}

func (o *outbox) outcomes(name string) []Outcome {
	o.mu.Lock()
	defer o.mu.Unlock()
	if r := o.rows[Key{Subscription: name}]; r != nil {
		return slices.Clone(r.outcomes)
	}
	return nil
}

func (o *outbox) fail(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.failure = err
}

// receivers answers by the host of a URL, and counts.
type receivers struct {
	mu      sync.Mutex
	answer  map[string]func(ctx context.Context, d Delivery) answer
	sent    map[string][]time.Time
	running map[string]int
	most    map[string]int
}

func newReceivers() *receivers {
	return &receivers{
		answer: make(map[string]func(context.Context, Delivery) answer),
		sent:   make(map[string][]time.Time), running: make(map[string]int), most: make(map[string]int),
	}
}

func (r *receivers) send(ctx context.Context, d Delivery) answer {
	_, host := targetOf(d.URL)
	host = strings.TrimPrefix(host, "https://")
	r.mu.Lock()
	r.sent[host] = append(r.sent[host], time.Now())
	r.running[host]++
	r.most[host] = max(r.most[host], r.running[host])
	do := r.answer[host]
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		r.running[host]--
		r.mu.Unlock()
	}()
	if do == nil {
		return answer{status: 200, done: true}
	}
	return do(ctx, d)
}

func (r *receivers) count(host string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.sent[host])
}

func (r *receivers) times(host string) []time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.sent[host])
}

func (r *receivers) set(host string, do func(context.Context, Delivery) answer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answer[host] = do
}

func hung(ctx context.Context, _ Delivery) answer {
	<-ctx.Done()
	return answer{failure: causeOf(ctx, ctx.Err())}
}

func failing(status int) func(context.Context, Delivery) answer {
	return func(context.Context, Delivery) answer {
		return answer{status: status, failure: fmt.Sprintf("the answer is %d", status)}
	}
}

// start runs a dispatcher on an outbox until the test or what it returns ends it.
func start(t *testing.T, o Outbox, r *receivers, cfg Config) (d *Dispatcher, stop func()) {
	t.Helper()
	cfg.Logger = slog.New(slog.DiscardHandler)
	d = NewDispatcher(o, nil, nil, cfg)
	d.send = r.send
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		d.Run(ctx)
	}()
	return d, func() {
		cancel()
		<-done
	}
}

func TestAWakeIsSentOnceAndItsOutcomeStored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, r := newOutbox(), newReceivers()
		r.set("later.example", func(context.Context, Delivery) answer { return answer{status: 202} })
		d, stop := start(t, o, r, Config{})
		defer stop()
		o.wake("a", "https://done.example/h")
		o.wake("b", "https://later.example/h")
		wait(time.Minute)
		if got := o.outcomes("a"); len(got) != 1 || got[0] != (Outcome{Result: Done, Status: 200}) {
			t.Errorf("done: %+v", got)
		}
		if got := o.outcomes("b"); len(got) != 1 || got[0] != (Outcome{Result: Accepted, Status: 202}) {
			t.Errorf("accepted: %+v", got)
		}
		if s := d.Stats(); s != (Stats{Done: 1, Accepted: 1}) {
			t.Errorf("%+v", s)
		}
		o.wake("a", "https://done.example/h")
		wait(time.Second)
		if r.count("done.example") != 2 {
			t.Error("the next wake was not sent")
		}
	})
}

// PROTOCOL.md, section 7.1: exponential backoff from 1 second up to 60 seconds with 20% jitter.
func TestRetriesBackOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, r := newOutbox(), newReceivers()
		r.set("bad.example", failing(500))
		_, stop := start(t, o, r, Config{OpenAfter: 1000})
		defer stop()
		begin := time.Now()
		o.wake("a", "https://bad.example/h")
		wait(10 * time.Minute)
		times := r.times("bad.example")
		for i := 1; i < len(times); i++ {
			want := min(time.Second<<(i-1), time.Minute)
			if got := times[i].Sub(times[i-1]); got < want*8/10 || got > want*12/10+time.Millisecond {
				t.Errorf("retry %d came after %s, want about %s", i, got, want)
			}
		}
		if len(times) < 12 {
			t.Errorf("%d attempts in 10 minutes", len(times))
		}
		last := o.outcomes("a")[len(times)-1]
		if last.Result != Retry || last.Failures != len(times) || !last.FailingSince.Equal(begin) || !last.Next.After(times[len(times)-1]) || last.Reason != "the answer is 500" {
			t.Errorf("%+v", last)
		}
		r.set("bad.example", nil)
		wait(2 * time.Minute)
		if got := o.outcomes("a"); got[len(got)-1] != (Outcome{Result: Done, Status: 200}) {
			t.Errorf("%+v", got[len(got)-1])
		}
	})
}

func TestJitterSpreadsRetries(t *testing.T) {
	least, most := time.Hour, time.Duration(0)
	for range 1000 {
		d := backoff(3)
		least, most = min(least, d), max(most, d)
	}
	if least < 3200*time.Millisecond || most > 4800*time.Millisecond || most-least < time.Second {
		t.Fatalf("between %s and %s", least, most)
	}
	for _, n := range []int{0, 1, 7, 64, 1 << 30} {
		if d := backoff(n); d < 800*time.Millisecond || d > 72*time.Second {
			t.Errorf("after %d failures: %s", n, d)
		}
	}
}

// PROTOCOL.md, section 7.1: a freshly loaded object honors the prior retry schedule.
func TestTheScheduleOfRetriesOutlivesTheProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, r := newOutbox(), newReceivers()
		r.set("bad.example", failing(503))
		_, stop := start(t, o, r, Config{})
		o.wake("a", "https://bad.example/h")
		wait(17 * time.Second)
		stop()
		before := o.outcomes("a")
		next := before[len(before)-1].Next
		_, stop = start(t, o, r, Config{})
		defer stop()
		wait(2 * time.Minute)
		times := r.times("bad.example")
		if at := times[len(before)]; at.Before(next) || at.Sub(next) > 5*time.Second {
			t.Fatalf("planned for %s, tried at %s", next, at)
		}
		if o.outcomes("a")[len(before)].Failures != len(before)+1 {
			t.Fatal("failures were forgotten")
		}
	})
}

func TestRetryAfterIsHonouredWithinBounds(t *testing.T) {
	for _, tt := range []struct{ asked, least, most time.Duration }{
		{0, 800 * time.Millisecond, 1200 * time.Millisecond},
		{30 * time.Second, 30 * time.Second, 30 * time.Second},
		{24 * time.Hour, DefaultMaxRetryAfter, DefaultMaxRetryAfter},
	} {
		now := time.Now()
		o := Config{}.withDefaults().outcome(Delivery{}, answer{status: 503, failure: "x", retryAfter: tt.asked}, now)
		if got := o.Next.Sub(now); got < tt.least || got > tt.most {
			t.Errorf("asked for %s, got %s", tt.asked, got)
		}
	}
	if got := retryAfter(time.Now().Add(time.Minute).UTC().Format("Mon, 02 Jan 2006 15:04:05 GMT"), time.Now()); got < 58*time.Second || got > time.Minute {
		t.Errorf("a date: %s", got)
	}
}

func TestADeliveryIsParked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, r := newOutbox(), newReceivers()
		r.set("gone.example", failing(410))
		r.set("bad.example", failing(404))
		d, stop := start(t, o, r, Config{ParkAfter: time.Hour})
		defer stop()
		o.wake("a", "https://gone.example/h")
		o.wake("b", "https://bad.example/h")
		wait(2 * time.Hour)
		if got := o.outcomes("a"); len(got) != 1 || got[0].Result != Parked || got[0].Status != 410 {
			t.Errorf("gone: %+v", got)
		}
		got := o.outcomes("b")
		last := got[len(got)-1]
		if last.Result != Parked || last.FailingSince.IsZero() || len(got) < 40 {
			t.Errorf("after %d attempts: %+v", len(got), last)
		}
		if s := d.Stats(); s.Parked != 2 || s.Waiting != 0 {
			t.Errorf("%+v", s)
		}
	})
}

func TestATargetThatFailsIsOnlyProbed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, r := newOutbox(), newReceivers()
		r.set("bad.example", hung)
		d, stop := start(t, o, r, Config{Timeout: time.Second, MaxPerTarget: 4})
		defer stop()
		for i := range 200 {
			o.wake(fmt.Sprint("bad", i), "https://bad.example/h?"+fmt.Sprint(i))
		}
		wait(5 * time.Minute)
		if s := d.Stats(); s.Open != 1 {
			t.Errorf("%+v", s)
		}
		if n := r.count("bad.example"); n < 8 || n > 30 {
			t.Errorf("%d attempts at a target that hangs", n)
		}
		if r.most["bad.example"] != 4 {
			t.Errorf("%d attempts at a time", r.most["bad.example"])
		}
		r.set("bad.example", nil)
		wait(2 * time.Minute)
		if s := d.Stats(); s.Open != 0 || s.Done != 200 {
			t.Errorf("well again: %+v", s)
		}
	})
}

func TestAnAnswerOf4xxIsNoReasonToOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, r := newOutbox(), newReceivers()
		r.set("a.example", func(_ context.Context, d Delivery) answer {
			if d.Subscription == "bad" {
				return answer{status: 404, failure: "the answer is 404"}
			}
			return answer{status: 200, done: true}
		})
		d, stop := start(t, o, r, Config{OpenAfter: 1})
		defer stop()
		o.wake("bad", "https://a.example/h")
		wait(time.Minute)
		o.wake("good", "https://a.example/h")
		wait(time.Second)
		if s := d.Stats(); s.Done != 1 || s.Open != 0 {
			t.Errorf("%+v", s)
		}
	})
}

// Nobody's slowness is another's problem: however many receivers hang, one that does not is told at once.
func TestReceiversThatHangDelayNobodyElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, r := newOutbox(), newReceivers()
		cfg := Config{MaxInFlight: 8, MaxSlow: 16, MaxPerHost: 4, SlowAfter: time.Second}
		for i := range 100 {
			host := fmt.Sprintf("hung%d.example", i)
			r.set(host, hung)
			o.wake(fmt.Sprint("hung", i), "https://"+host+"/h")
		}
		d, stop := start(t, o, r, cfg)
		defer stop()
		wait(10 * time.Minute)
		var worst time.Duration
		for i := range 20 {
			begin := time.Now()
			o.wake("good", "https://good.example/h")
			for r.count("good.example") <= i {
				wait(10 * time.Millisecond)
			}
			worst = max(worst, time.Since(begin))
			wait(7 * time.Second)
		}
		if worst > 3*time.Second {
			t.Errorf("waited for %s", worst)
		}
		if s := d.Stats(); s.InFlight > 24 || s.Slow > 16 {
			t.Errorf("%+v", s)
		}
	})
}

func TestPathsOfOneHostShareItsLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, r := newOutbox(), newReceivers()
		r.set("a.example", func(context.Context, Delivery) answer {
			wait(100 * time.Millisecond)
			return answer{status: 200, done: true}
		})
		d, stop := start(t, o, r, Config{MaxPerHost: 5})
		defer stop()
		for i := range 100 {
			o.wake(fmt.Sprint("s", i), fmt.Sprintf("https://a.example/h%d", i))
		}
		wait(3 * time.Second)
		if s := d.Stats(); s.Done != 100 || r.most["a.example"] != 5 {
			t.Errorf("%d at a time, %+v", r.most["a.example"], s)
		}
		if len(d.lines.items)+len(d.lines.targets)+len(d.lines.hosts) != 0 {
			t.Errorf("what is done with is remembered: %d items, %d targets, %d hosts", len(d.lines.items), len(d.lines.targets), len(d.lines.hosts))
		}
	})
}

// The turn of a host is with a target whose only wake is put off then.
func TestATargetWithNothingToSendPassesTheTurnOfItsHostOn(t *testing.T) {
	l, now := newLines(Config{MaxPerHost: 1}.withDefaults()), time.Unix(0, 0)
	wake := func(path string, due time.Time) {
		l.offer(Pending{Key: Key{Subscription: path}, URL: "https://a.example/" + path, Due: due}, now)
	}
	for _, path := range []string{"one", "two", "three"} {
		wake(path, now)
	}
	one := l.take(now)
	if more := l.take(now); more != nil {
		t.Fatalf("%s is sent beside %s", more.url, one.url)
	}
	l.end(one, &Pending{Key: one.key, URL: one.url, Due: now.Add(time.Minute)}, now)
	wake("two", now.Add(time.Minute))
	if next := l.take(now); next == nil || next.key.Subscription != "three" {
		t.Errorf("the host has room, and what is sent is %+v", next)
	}
}

func TestProcessesThatShareAnOutboxSendAWakeOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, r := newOutbox(), newReceivers()
		for range 3 {
			_, stop := start(t, o, r, Config{})
			defer stop()
		}
		for round := range 5 {
			for i := range 100 {
				o.wake(fmt.Sprint("s", i), fmt.Sprintf("https://h%d.example/h", i))
			}
			wait(time.Minute)
			for i := range 100 {
				if n := r.count(fmt.Sprintf("h%d.example", i)); n != round+1 {
					t.Fatalf("round %d: %d attempts", round, n)
				}
			}
		}
	})
}

func TestWhatADeadProcessHadClaimedIsSentByAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, r := newOutbox(), newReceivers()
		o.wake("a", "https://a.example/h")
		if _, err := o.Claim(t.Context(), Key{Subscription: "a"}, time.Now().Add(45*time.Second)); err != nil {
			t.Fatal(err)
		}
		_, stop := start(t, o, r, Config{})
		defer stop()
		wait(44 * time.Second)
		if r.count("a.example") != 0 {
			t.Fatal("it was sent while it was claimed")
		}
		wait(10 * time.Second)
		if r.count("a.example") != 1 {
			t.Fatal("it was not sent")
		}
	})
}

func TestAnEndLetsAttemptsFinishAndThenCutsThemOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, r := newOutbox(), newReceivers()
		r.set("slow.example", func(ctx context.Context, d Delivery) answer {
			select {
			case <-time.After(5 * time.Second):
				return answer{status: 200, done: true}
			case <-ctx.Done():
				return answer{failure: "x"}
			}
		})
		r.set("hung.example", hung)
		_, stop := start(t, o, r, Config{Grace: 8 * time.Second})
		o.wake("slow", "https://slow.example/h")
		o.wake("hung", "https://hung.example/h")
		wait(time.Second)
		begin := time.Now()
		stop()
		if took := time.Since(begin); took > 8*time.Second {
			t.Errorf("the end took %s", took)
		}
		if got := o.outcomes("slow"); len(got) != 1 || got[0].Result != Done {
			t.Errorf("%+v", got)
		}
		got := o.outcomes("hung")
		if len(got) != 1 || got[0].Result != Retry || got[0].Failures != 0 || got[0].Next.After(time.Now()) {
			t.Errorf("what is cut off counts against nobody and is due at once: %+v", got)
		}
	})
}

func TestAnOutboxThatFailsIsAskedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, r := newOutbox(), newReceivers()
		r.set("a.example", func(context.Context, Delivery) answer {
			o.fail(runnel.ErrUnavailable) // the outcome cannot be stored
			return answer{status: 200, done: true}
		})
		_, stop := start(t, o, r, Config{})
		defer stop()
		o.wake("a", "https://a.example/h")
		wait(10 * time.Second)
		o.fail(nil)
		wait(10 * time.Second)
		if got := o.outcomes("a"); len(got) != 1 || r.count("a.example") != 1 {
			t.Errorf("sent %d times: %+v", r.count("a.example"), got)
		}
		r.set("a.example", nil)
		o.fail(runnel.ErrUnavailable)
		o.wake("a", "https://a.example/h")
		wait(time.Minute)
		o.fail(nil)
		wait(10 * time.Second)
		if got := o.outcomes("a"); len(got) != 2 {
			t.Errorf("not sent after the outbox was well again: %+v", got)
		}
	})
}

func TestMoreThanThereIsRoomForStaysInTheOutbox(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, r := newOutbox(), newReceivers()
		for i := range 500 {
			r.set(fmt.Sprintf("bad%d.example", i), failing(500))
			o.wake(fmt.Sprint("a-bad", i), fmt.Sprintf("https://bad%d.example/h", i))
		}
		d, stop := start(t, o, r, Config{MaxWaiting: 100})
		defer stop()
		wait(time.Minute)
		for i := range 300 {
			o.wake(fmt.Sprint("good", i), fmt.Sprintf("https://good%d.example/h", i))
		}
		for range 60 {
			wait(10 * time.Second)
			if s := d.Stats(); s.Waiting > 100 {
				t.Fatalf("%+v", s)
			}
		}
		if s := d.Stats(); s.Done != 300 {
			t.Errorf("%+v", s)
		}
		for i := range 500 {
			if r.count(fmt.Sprintf("bad%d.example", i)) < 2 {
				t.Fatalf("subscription %d is not tried again", i)
			}
		}
	})
}

func TestAnAttemptEndsWithItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, r := newOutbox(), newReceivers()
		r.set("hung.example", hung)
		_, stop := start(t, o, r, Config{Timeout: 20 * time.Second})
		defer stop()
		o.wake("a", "https://hung.example/h")
		o.mu.Lock()
		o.rows[Key{Subscription: "a"}].LeaseTTL = 3 * time.Second
		o.mu.Unlock()
		wait(3*time.Second + time.Millisecond)
		if got := o.outcomes("a"); len(got) != 1 || got[0].Reason != "no answer in time" {
			t.Errorf("%+v", got)
		}
	})
}

// The schedule is checked against what it must keep, whatever happens in whatever order.
func FuzzLines(f *testing.F) {
	f.Add([]byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 200, 201, 202, 255})
	f.Add([]byte("offer, take, end, and take again"))
	f.Fuzz(func(t *testing.T, steps []byte) {
		l := newLines(Config{MaxInFlight: 4, MaxSlow: 2, MaxPerHost: 3, MaxPerTarget: 2, MaxWaiting: 12, OpenAfter: 2}.withDefaults())
		now := time.Unix(0, 0)
		var running []*item
		for i, step := range steps {
			arg := int(step) / 6
			switch step % 6 {
			case 0, 1:
				p := Pending{Key: Key{Subscription: fmt.Sprint(arg % 16)}, URL: fmt.Sprintf("https://h%d/%d", arg%2, arg%5)}
				if step%6 == 1 {
					p.Due = now.Add(time.Duration(arg) * time.Second)
				}
				l.offer(p, now)
			case 2:
				for it := l.take(now); it != nil; it = l.take(now) {
					running = append(running, it)
				}
			case 3:
				if len(running) > 0 && !running[0].slow {
					l.slowDown(running[0])
				}
			case 4:
				if len(running) == 0 {
					break
				}
				it := running[arg%len(running)]
				running = slices.DeleteFunc(running, func(x *item) bool { return x == it })
				var next *Pending
				if arg%3 > 0 {
					next = &Pending{Key: it.key, URL: it.url, Due: now.Add(time.Duration(arg%3-1) * time.Second)}
				}
				it.target.breaker.note(now, arg%2 == 0, l.cfg.OpenAfter)
				l.end(it, next, now)
			case 5:
				now = now.Add(time.Duration(arg) * time.Second)
				l.ring(now)
			}
			if err := l.check(running); err != nil {
				t.Fatalf("after step %d: %v", i, err)
			}
		}
		// With time, and answers, everything comes to its end.
		for range 10000 {
			now = now.Add(100 * time.Second)
			l.ring(now)
			for it := l.take(now); it != nil; it = l.take(now) {
				running = append(running, it)
			}
			if len(running) == 0 && len(l.items) == 0 {
				return
			}
			if len(running) > 0 {
				running[0].target.breaker.note(now, true, l.cfg.OpenAfter)
				l.end(running[0], nil, now)
				running = running[1:]
			}
		}
		t.Fatalf("%d items are stuck", len(l.items))
	})
}

// check says what does not fit together.
func (l *lines) check(running []*item) error {
	fast, slow, hosts := 0, 0, make(map[*host]int)
	for _, it := range running {
		if it.slow {
			slow++
		} else {
			fast++
			hosts[it.target.host]++
		}
	}
	if fast != l.fast || slow != l.slow || fast > l.cfg.MaxInFlight || slow > l.cfg.MaxSlow || len(l.items) > l.cfg.MaxWaiting {
		return fmt.Errorf("%d fast and %d slow attempts, counted as %d and %d; %d items", fast, slow, l.fast, l.slow, len(l.items))
	}
	for _, it := range l.items {
		places := 0
		for _, in := range []bool{it.running, it.place != nil, it.timer.place > 0} {
			if in {
				places++
			}
		}
		if places != 1 || l.targets[it.target.key] != it.target || l.hosts[it.target.key.hostKey] != it.target.host {
			return fmt.Errorf("item %s is in %d places", it.key.Subscription, places)
		}
	}
	for _, t := range l.targets {
		if t.line.Len() > 0 && t.place == nil && t.running == 0 && t.timer.place == 0 {
			return errors.New("a target with a line waits for nothing")
		}
		if t.items == 0 {
			return errors.New("a target without items is remembered")
		}
	}
	for _, h := range l.hosts {
		if h.running != hosts[h] || h.running > l.cfg.MaxPerHost {
			return fmt.Errorf("%d attempts at a host, counted as %d", hosts[h], h.running)
		}
		if h.blocked.Len() > 0 && h.running < l.cfg.MaxPerHost && l.ready.Len() == 0 {
			return errors.New("targets wait for a host that has room")
		}
	}
	return nil
}
