package session_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/engine"
	"github.com/runnelhq/runnel/session"
	"github.com/runnelhq/runnel/session/sessiontest"
	"github.com/runnelhq/runnel/storage/memory"
)

// spy is a log that tells how much is read from it, and whose writes can be held up.
type spy struct {
	*engine.Engine
	batches atomic.Int64 // yielded by queries
	queries atomic.Int64 // under way
	appends atomic.Int64
	hold    chan struct{} // appends wait, after they have happened, until it is closed; nil for not at all
}

func (s *spy) Query(ctx context.Context, q runnel.Query) iter.Seq2[runnel.SpaceBatch, error] {
	return func(yield func(runnel.SpaceBatch, error) bool) {
		s.queries.Add(1)
		defer s.queries.Add(-1)
		for b, err := range s.Engine.Query(ctx, q) {
			s.batches.Add(1)
			if !yield(b, err) {
				return
			}
		}
	}
}

func (s *spy) Append(ctx context.Context, segment runnel.Segment, o runnel.AppendOptions, records ...runnel.Record) (runnel.Appended, error) {
	a, err := s.Engine.Append(ctx, segment, o, records...)
	s.appends.Add(1)
	if s.hold != nil {
		<-s.hold
	}
	return a, err
}

func (s *spy) Transact(ctx context.Context, space runnel.Space, t runnel.Transaction) (runnel.Committed, error) {
	c, err := s.Engine.Transact(ctx, space, t)
	s.appends.Add(1)
	if s.hold != nil {
		<-s.hold
	}
	return c, err
}

// world is a client, a server, and the link between them.
type world struct {
	t       *testing.T
	log     *spy
	handler *session.Handler
	server  *httptest.Server
	link    *sessiontest.Link
	client  *session.Client
}

var quick = session.KeepAlive{Interval: 50 * time.Millisecond, Timeout: 200 * time.Millisecond}

func newWorld(t *testing.T, cfg session.Config, ccfg session.ClientConfig) *world {
	t.Helper()
	e, err := engine.Open(new(memory.Driver), engine.Config{})
	must(t, err)
	w := &world{t: t, log: &spy{Engine: e}}
	w.handler = session.NewHandler(w.log, cfg)
	w.server = httptest.NewServer(w.handler)
	w.link, err = sessiontest.NewLink(strings.TrimPrefix(w.server.URL, "http://"))
	must(t, err)
	w.client, err = session.Dial(t.Context(), w.link.URL(), ccfg)
	must(t, err)
	t.Cleanup(func() {
		must(t, w.client.Close())
		must(t, w.link.Close())
		must(t, w.handler.Shutdown(context.Background()))
		w.server.Close()
		must(t, e.Close())
	})
	return w
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// eventually waits for what must come to be.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !is() {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not after 10 s", what)
		}
		time.Sleep(time.Millisecond) //nolint:forbidigo // looks again
	}
}

var segment = runnel.Segment{Space: "a", Name: "b"}

// fill appends so many batches of 1000 entries of 100 bytes.
func (w *world) fill(batches int) {
	w.t.Helper()
	for range batches {
		_, err := w.log.Engine.Append(w.t.Context(), segment, runnel.AppendOptions{Create: &runnel.CreateOptions{}}, hundredBytes(1000)...)
		must(w.t, err)
	}
}

func query(follow bool) runnel.Query {
	return runnel.Query{Sources: []runnel.Source{{Space: segment.In(), Segment: segment.Name}}, Follow: follow}
}

func TestASlowReaderSlowsOnlyItself(t *testing.T) {
	w := newWorld(t, session.Config{}, session.ClientConfig{StreamBytes: 128 << 10})
	w.fill(300) // 30 MB
	next, stop := iter.Pull2(w.client.Query(t.Context(), query(false)))
	defer stop()
	_, err, _ := next()
	must(t, err)
	// It reads no further. Others have the connection to themselves, and the server waits for it.
	for range 200 {
		_, err := w.client.Stat(t.Context(), segment)
		must(t, err)
	}
	if n := w.log.batches.Load(); n > 30 {
		t.Errorf("the server has read %d batches of 100 kB for a reader that takes none", n)
	}
	entries := 1000
	for b, err := range seq(next) {
		must(t, err)
		entries += b.Len()
	}
	if entries != 300_000 {
		t.Errorf("it has read %d entries", entries)
	}
}

func seq[T any](next func() (T, error, bool)) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		for {
			one, err, ok := next()
			if !ok || !yield(one, err) {
				return
			}
		}
	}
}

func TestWhatNobodyReadsAnyMoreStopsWithinABatch(t *testing.T) {
	for name, leave := range map[string]func(t *testing.T, w *world){
		"the loop is left": func(t *testing.T, w *world) {
			for _, err := range w.client.Query(t.Context(), query(false)) {
				must(t, err)
				return
			}
		},
		"the context ends": func(t *testing.T, w *world) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			for _, err := range w.client.Query(ctx, query(false)) {
				if err != nil && !errors.Is(err, context.Canceled) {
					t.Fatal(err)
				}
				cancel()
			}
		},
		"a tail waits": func(t *testing.T, w *world) {
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			for _, err := range w.client.Query(ctx, query(true)) {
				if err != nil && !errors.Is(err, context.DeadlineExceeded) {
					t.Fatal(err)
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			batches := 300
			if name == "a tail waits" {
				batches = 1
			}
			w := newWorld(t, session.Config{}, session.ClientConfig{StreamBytes: 128 << 10})
			w.fill(batches)
			leave(t, w)
			eventually(t, "the server ends the query", func() bool { return w.log.queries.Load() == 0 })
			if n := w.log.batches.Load(); n > 30 {
				t.Errorf("the server has read %d batches", n)
			}
			_, err := w.client.Stat(t.Context(), segment) // the connection is as good as before
			must(t, err)
			if n := w.link.Accepted(); n != 1 {
				t.Errorf("there were %d connections", n)
			}
		})
	}
}

func TestOperationsAboveTheLimitAreRefusedWithTheNumber(t *testing.T) {
	w := newWorld(t, session.Config{MaxStreams: 3}, session.ClientConfig{})
	w.fill(1)
	var tails sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	defer tails.Wait()
	defer cancel()
	for range 3 {
		tails.Go(func() {
			for _, err := range w.client.Query(ctx, query(true)) {
				if err != nil && !errors.Is(err, context.Canceled) {
					t.Error(err)
				}
			}
		})
	}
	eventually(t, "three tails are under way", func() bool { return w.log.queries.Load() == 3 })
	_, err := w.client.Stat(t.Context(), segment)
	if !errors.Is(err, runnel.ErrUnavailable) || !strings.Contains(err.Error(), "more than 3 operations") {
		t.Errorf("got %v", err)
	}
}

func TestAMessageAboveTheLimitIsRefusedWithTheNumber(t *testing.T) {
	w := newWorld(t, session.Config{MaxMessageBytes: 1 << 20}, session.ClientConfig{})
	for range 2 {
		_, err := w.client.Append(t.Context(), segment, runnel.AppendOptions{Create: &runnel.CreateOptions{}}, runnel.Record{Payload: make([]byte, 3<<20)})
		large, ok := errors.AsType[*runnel.TooLargeError](err)
		if !ok || large.Limit != 1<<20 || large.Got < 3<<20 {
			t.Fatalf("got %v", err)
		}
		// The largest that is taken can be read again, by everybody.
		_, err = w.client.Append(t.Context(), segment, runnel.AppendOptions{Create: &runnel.CreateOptions{}}, runnel.Record{Payload: make([]byte, 1<<20-100)})
		must(t, err)
		_, err = w.client.Peek(t.Context(), segment)
		must(t, err)
	}
	if n := w.link.Accepted(); n != 1 {
		t.Errorf("there were %d connections", n)
	}
}

func TestAReaderGoesOnWhereItWasHoweverOftenItIsCut(t *testing.T) {
	const batches = 60
	for name, q := range map[string]runnel.Query{
		"segment": query(false),
		"space":   {Sources: []runnel.Source{{Space: segment.In()}}},
		"spaces":  {Sources: []runnel.Source{{Space: segment.In()}, {Space: runnel.Space{Name: "other"}}}},
		"last":    {Sources: query(false).Sources, Last: 50_000},
		"limit":   {Sources: query(false).Sources, Limit: 50_000},
		"tail":    {Sources: query(false).Sources, Follow: true, Limit: 50_000},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, session.Config{StreamBytes: 64 << 10}, session.ClientConfig{StreamBytes: 64 << 10})
			w.fill(batches)
			seen, next, first := 0, runnel.Sequence(0), 0
			for b, err := range w.client.Query(t.Context(), q) {
				must(t, err)
				if next == 0 {
					next = b.First()
					first = int(next)
				}
				if b.First() != next {
					t.Fatalf("%d follows %d", b.First(), next-1)
				}
				seen += b.Len()
				next = b.Last() + 1
				if seen%7000 == 0 {
					w.link.Cut()
				}
			}
			want := map[string]string{"last": "10001 50000", "limit": "1 50000", "tail": "1 50000"}[name]
			if want == "" {
				want = "1 60000"
			}
			if got := fmt.Sprint(first, seen); got != want {
				t.Errorf("first and count are %s, want %s", got, want)
			}
			if w.link.Accepted() < 4 {
				t.Errorf("it was cut %d times", w.link.Accepted()-1)
			}
		})
	}
}

func TestAReaderBackwardsGoesOnWhereItWas(t *testing.T) {
	for name, last := range map[string]uint64{"all": 0, "some": 50_000} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, session.Config{}, session.ClientConfig{StreamBytes: 64 << 10})
			w.fill(60)
			q := query(false)
			q.Backwards, q.Last = true, last
			next, seen := runnel.Sequence(60_000), 0
			for b, err := range w.client.Query(t.Context(), q) {
				must(t, err)
				for i := range b.Len() {
					if e := b.Entry(i); e.Sequence != next {
						t.Fatalf("%d follows %d", e.Sequence, next+1)
					}
					next--
					seen++
				}
				if seen%9000 == 0 {
					w.link.Cut()
				}
			}
			want := 60_000
			if last > 0 {
				want = int(last)
			}
			if seen != want {
				t.Errorf("it has read %d entries", seen)
			}
		})
	}
}

func TestATailFromTheEndMissesNothingThatComesWhileItIsCut(t *testing.T) {
	w := newWorld(t, session.Config{}, session.ClientConfig{})
	w.fill(1)
	q := query(true)
	q.Sources[0].After = uint64(runnel.Latest)
	next, stop := iter.Pull2(w.client.Query(t.Context(), q))
	defer stop()
	got := make(chan runnel.Sequence, 1)
	go func() {
		b, err, _ := next()
		if err == nil {
			got <- b.First()
		} else {
			t.Error(err)
			close(got)
		}
	}()
	eventually(t, "the tail waits", func() bool { return w.log.queries.Load() == 1 })
	for range 10 { // where it begins was on its way before these answers
		_, err := w.client.Stat(t.Context(), segment)
		must(t, err)
	}
	w.link.Refuse(true)
	w.link.Cut()
	w.fill(1)
	w.link.Refuse(false)
	if first := <-got; first != 1001 {
		t.Errorf("the first entry is %d", first)
	}
}

func TestAConnectionThatIsSilentIsGivenUp(t *testing.T) {
	w := newWorld(t, session.Config{KeepAlive: quick}, session.ClientConfig{KeepAlive: quick})
	w.fill(1)
	_, err := w.client.Stat(t.Context(), segment)
	must(t, err)
	w.link.Stall(sessiontest.ToClient, true)
	go func() {
		eventually(t, "another connection", func() bool { return w.link.Accepted() > 1 })
		w.link.Stall(sessiontest.ToClient, false)
	}()
	_, err = w.client.Stat(t.Context(), segment)
	must(t, err)
}

// lose makes the answers to appends get lost: they have happened, and then the connection is cut.
func (w *world) lose(times int) {
	hold := make(chan struct{})
	w.log.hold = hold
	go func() {
		for i := range times {
			eventually(w.t, "an append", func() bool { return w.log.appends.Load() == int64(i+1) })
			w.link.Cut()
			eventually(w.t, "another connection", func() bool { return w.link.Accepted() > i+1 || times == i+1 })
		}
		close(hold)
	}()
}

func TestAWriteWhoseAnswerIsLostIsUnknownUnlessItCanBeAskedAgain(t *testing.T) {
	zero := runnel.Sequence(0)
	create := &runnel.CreateOptions{}
	for name, c := range map[string]struct {
		options runnel.AppendOptions
		unknown bool
		tail    runnel.Sequence
	}{
		"plain":           {runnel.AppendOptions{Create: create}, true, 1},
		"with a tail":     {runnel.AppendOptions{Create: create, Expect: &zero}, true, 1},
		"with a key":      {runnel.AppendOptions{Create: create, Key: "k"}, false, 1},
		"with a producer": {runnel.AppendOptions{Create: create, Producer: &runnel.Producer{ID: "p"}}, false, 1},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, session.Config{}, session.ClientConfig{})
			w.lose(1)
			a, err := w.client.Append(t.Context(), segment, c.options, runnel.Record{Payload: []byte("x")})
			if errors.Is(err, runnel.ErrUnknown) != c.unknown || err != nil && !c.unknown {
				t.Fatalf("got %v", err)
			}
			if !c.unknown && (!a.Duplicate || a.Tail != 1) {
				t.Errorf("got %+v", a)
			}
			info, err := w.log.Stat(t.Context(), segment)
			must(t, err)
			if info.Tail != c.tail {
				t.Errorf("there are %d entries", info.Tail)
			}
		})
	}
}

// The move is asked for again, and is told from one that never happened only while nobody has moved the cursor on.
func TestACursorMoveWhoseAnswerIsLostIsNeverCalledRefused(t *testing.T) {
	for name, overtaken := range map[string]bool{"alone": false, "overtaken": true} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, session.Config{}, session.ClientConfig{})
			w.fill(1)
			space := segment.In()
			move := func(to uint64) runnel.Transaction {
				return runnel.Transaction{Cursors: []runnel.CursorMove{{Name: "reader", Segment: segment.Name, Place: to}}}
			}
			hold := make(chan struct{})
			w.log.hold = hold
			before := w.log.appends.Load()
			go func() {
				defer close(hold)
				eventually(t, "the move", func() bool { return w.log.appends.Load() > before })
				if overtaken {
					if _, err := w.log.Engine.Transact(t.Context(), space, move(7)); err != nil {
						t.Error(err)
					}
				}
				w.link.Cut()
				eventually(t, "another connection", func() bool { return w.link.Accepted() > 1 })
			}()
			_, err := w.client.Transact(t.Context(), space, move(5))
			if errors.Is(err, runnel.ErrUnknown) != overtaken || err != nil && !overtaken {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestAWriteThatWaitsForAConnectionIsDefinite(t *testing.T) {
	w := newWorld(t, session.Config{}, session.ClientConfig{Patience: 100 * time.Millisecond})
	w.link.Refuse(true)
	w.link.Cut()
	eventually(t, "the write is not sent", func() bool {
		_, err := w.client.Append(t.Context(), segment, runnel.AppendOptions{Create: &runnel.CreateOptions{}}, runnel.Record{})
		return errors.Is(err, runnel.ErrUnavailable) && !errors.Is(err, runnel.ErrUnknown)
	})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err := w.client.Append(ctx, segment, runnel.AppendOptions{}, runnel.Record{})
	if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, runnel.ErrUnknown) {
		t.Errorf("got %v", err)
	}
	if n := w.log.appends.Load(); n > 1 {
		t.Errorf("%d writes have arrived", n)
	}
	w.link.Refuse(false)
	eventually(t, "the server is reached", func() bool {
		_, err = w.client.Append(t.Context(), segment, runnel.AppendOptions{Create: &runnel.CreateOptions{}}, runnel.Record{})
		return err == nil
	})
}

func TestARefusedCallerLearnsItInOneRoundTrip(t *testing.T) {
	var asked atomic.Int32
	status := http.StatusUnauthorized
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		w.WriteHeader(status)
		_, _ = w.Write([]byte(`{"error":{"code":"unauthorized","message":"the token has expired"}}`))
	}))
	defer server.Close()
	_, err := session.Dial(t.Context(), server.URL, session.ClientConfig{})
	refused, ok := errors.AsType[*runnel.UnauthorizedError](err)
	if !ok || refused.Reason != "has expired" {
		t.Errorf("got %v", err)
	}
	status = http.StatusForbidden
	_, err = session.Dial(t.Context(), server.URL, session.ClientConfig{})
	if !errors.Is(err, runnel.ErrForbidden) {
		t.Errorf("got %v", err)
	}
	status = http.StatusNotFound
	_, err = session.Dial(t.Context(), server.URL, session.ClientConfig{})
	if !errors.Is(err, runnel.ErrInvalid) {
		t.Errorf("got %v", err)
	}
	if n := asked.Load(); n != 3 {
		t.Errorf("the server was asked %d times", n)
	}
}

// closing is a log that lets in those whose token is the current one.
type closing struct {
	*engine.Engine
	current *atomic.Value
}

type tokenKey struct{}

func (c closing) Stat(ctx context.Context, s runnel.Segment) (runnel.Info, error) {
	if ctx.Value(tokenKey{}) != c.current.Load() {
		return runnel.Info{}, &runnel.UnauthorizedError{Reason: "has expired"}
	}
	return c.Engine.Stat(ctx, s)
}

func TestAnExpiredTokenIsRenewedOnceAndOneThatStaysIsRefusedAtOnce(t *testing.T) {
	e, err := engine.Open(new(memory.Driver), engine.Config{})
	must(t, err)
	defer e.Close()
	_, err = e.Create(t.Context(), segment, runnel.CreateOptions{})
	must(t, err)
	var current, own atomic.Value
	current.Store("one")
	own.Store("one")
	h := session.NewHandler(closing{e, &current}, session.Config{})
	var dials atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		dials.Add(1)
		token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
		h.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), tokenKey{}, token)))
	}))
	defer server.Close()
	c, err := session.Dial(t.Context(), server.URL, session.ClientConfig{Token: func(context.Context) (string, error) { return own.Load().(string), nil }})
	must(t, err)
	defer c.Close()
	_, err = c.Stat(t.Context(), segment)
	must(t, err)
	current.Store("two")
	_, err = c.Stat(t.Context(), segment)
	if refused, ok := errors.AsType[*runnel.UnauthorizedError](err); !ok || refused.Reason != "has expired" {
		t.Errorf("got %v", err)
	}
	own.Store("two")
	_, err = c.Stat(t.Context(), segment)
	must(t, err)
	if n := dials.Load(); n != 2 {
		t.Errorf("there were %d connections", n)
	}
}

func TestAServerThatGoesAwaySendsItsClientsToTheNext(t *testing.T) {
	w := newWorld(t, session.Config{}, session.ClientConfig{})
	w.fill(2)
	// The next server is there before the first one goes, behind the same address.
	next := session.NewHandler(w.log, session.Config{})
	current := w.handler
	var mu sync.Mutex
	front := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		mu.Lock()
		h := current
		mu.Unlock()
		h.ServeHTTP(rw, r)
	}))
	defer front.Close()
	defer func() { must(t, next.Shutdown(t.Context())) }()
	c, err := session.Dial(t.Context(), front.URL, session.ClientConfig{})
	must(t, err)
	defer c.Close()

	pull, stop := iter.Pull2(c.Query(t.Context(), query(true)))
	defer stop()
	for range 2 {
		_, err, _ := pull()
		must(t, err)
	}
	mu.Lock()
	current = next
	mu.Unlock()
	w.log.hold = make(chan struct{})
	under := make(chan error, 1)
	go func() {
		_, err := c.Append(t.Context(), segment, runnel.AppendOptions{}, runnel.Record{Payload: []byte("under way")})
		under <- err
	}()
	eventually(t, "a write is under way", func() bool { return w.log.appends.Load() == 1 })
	down := make(chan error, 1)
	go func() { down <- w.handler.Shutdown(t.Context()) }()
	time.AfterFunc(20*time.Millisecond, func() { close(w.log.hold) })
	must(t, <-under) // it is answered, and not unknown
	must(t, <-down)
	b, err, _ := pull()
	must(t, err)
	if b.First() != 2001 {
		t.Errorf("the tail goes on with %d", b.First())
	}
}

func TestAnIdleConnectionIsClosedAndOpenedAgain(t *testing.T) {
	w := newWorld(t, session.Config{IdleTimeout: 20 * time.Millisecond}, session.ClientConfig{})
	w.fill(1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	time.AfterFunc(200*time.Millisecond, cancel)
	for _, err := range w.client.Query(ctx, query(true)) {
		if err != nil && !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
	}
	if n := w.link.Accepted(); n != 1 {
		t.Errorf("a connection with a tail counts as idle: there were %d", n)
	}
	eventually(t, "the client dials again", func() bool {
		_, err := w.client.Stat(t.Context(), segment)
		must(t, err)
		time.Sleep(50 * time.Millisecond) //nolint:forbidigo // is idle
		return w.link.Accepted() > 1
	})
}

func TestAWatcherIsToldOfWhatChangedWhileItWasCut(t *testing.T) {
	w := newWorld(t, session.Config{}, session.ClientConfig{})
	space := segment.In()
	lease := func(key string) runnel.Lease {
		l, err := w.log.AcquireLease(t.Context(), space, runnel.LeaseRequest{Key: key, Holder: "h", TTL: time.Hour})
		must(t, err)
		return l
	}
	stays, goes := lease("stays"), lease("goes")
	_ = stays
	leases, stopLeases := iter.Pull2(w.client.WatchLeases(t.Context(), space, ""))
	defer stopLeases()
	w.fill(1)
	segments, stopSegments := iter.Pull2(w.client.WatchSegments(t.Context(), runnel.Store{}, runnel.SegmentWatch{}))
	defer stopSegments()
	event := func() string {
		e, err, _ := leases()
		must(t, err)
		return fmt.Sprintf("%s gone=%v live=%v mark=%v", e.Lease.Key, e.Gone, e.Live, e.Mark)
	}
	status := func() string {
		s, err, _ := segments()
		must(t, err)
		return fmt.Sprintf("%s %d live=%v mark=%v", s.Info.Segment, s.Info.Tail, s.Live, s.Mark)
	}
	expect := func(got, want string) {
		t.Helper()
		if got != want {
			t.Fatalf("got %q, want %q", got, want)
		}
	}
	expect(event(), "goes gone=false live=false mark=false")
	expect(event(), "stays gone=false live=false mark=false")
	expect(event(), " gone=false live=true mark=true")
	expect(status(), "a/b 1000 live=false mark=false")
	expect(status(), " 0 live=true mark=true")

	w.link.Refuse(true)
	w.link.Cut()
	must(t, w.log.ReleaseLease(t.Context(), space, goes.Fence()))
	lease("comes")
	w.fill(1)
	w.link.Refuse(false)

	expect(event(), "goes gone=true live=true mark=false")
	expect(event(), "comes gone=false live=true mark=false")
	// A watcher of segments is given another snapshot, and told so.
	expect(status(), " 0 live=false mark=true")
	expect(status(), "a/b 2000 live=false mark=false")
	expect(status(), " 0 live=true mark=true")
}

func TestAWatcherOfItemsMissesNoChangeAndSeesNoneTwiceHoweverOftenItIsCut(t *testing.T) {
	w := newWorld(t, session.Config{}, session.ClientConfig{})
	space := runnel.Space{Name: "chat"}
	set := func(group string, n int) {
		_, err := w.log.WriteItems(t.Context(), space, runnel.ItemWrites{Segment: group, Writes: []runnel.ItemWrite{{
			ItemKey: runnel.ItemKey{Key: fmt.Sprint(n % 7)}, Value: fmt.Append(nil, n),
		}}})
		must(t, err)
	}
	const changes = 200
	set("room", 0)
	watched := make(chan struct{})
	go func() {
		for n := 1; n < changes; n++ {
			if n%20 == 0 {
				w.link.Cut()
			}
			set("room", n)
		}
		close(watched)
	}()
	next := 0
	for n, err := range w.client.WatchItems(t.Context(), runnel.ItemWatch{Space: space, Group: "room"}) {
		must(t, err)
		if n.Snapshot {
			if next > 0 {
				t.Fatalf("there is another snapshot at %d", n.Last)
			}
			next = int(n.Last)
		}
		for _, c := range n.Changes {
			if string(c.Value) != fmt.Sprint(next) || int(c.Sequence) != next+1 {
				t.Fatalf("change %d is %s, want %d", c.Sequence, c.Value, next)
			}
			next++
		}
		if next == changes {
			break
		}
	}
	<-watched
}

func TestAWatcherOfAStreamIsToldOfGroupsThatWentWhileItWasCut(t *testing.T) {
	w := newWorld(t, session.Config{}, session.ClientConfig{})
	space := runnel.Space{Name: "chat"}
	set := func(group string) {
		_, err := w.log.WriteItems(t.Context(), space, runnel.ItemWrites{Segment: group, Writes: []runnel.ItemWrite{{
			ItemKey: runnel.ItemKey{Key: "k"}, Value: []byte("1"),
		}}})
		must(t, err)
	}
	set("goes")
	set("stays")
	next, stop := iter.Pull2(w.client.WatchItems(t.Context(), runnel.ItemWatch{Space: space}))
	defer stop()
	expect := func(want string) {
		t.Helper()
		n, err, _ := next()
		must(t, err)
		if got := fmt.Sprintf("%s %d items complete=%v", n.Segment.Name, len(n.Items)+len(n.Changes), n.Complete); got != want {
			t.Fatalf("got %q, want %q", got, want)
		}
	}
	expect("goes 1 items complete=false")
	expect("stays 1 items complete=false")
	expect(" 0 items complete=true")
	w.link.Refuse(true)
	w.link.Cut()
	must(t, w.log.Delete(t.Context(), space.Segment("goes")))
	set("comes")
	w.link.Refuse(false)
	expect("comes 1 items complete=false")
	expect("stays 1 items complete=false")
	expect("goes 0 items complete=false")
	expect(" 0 items complete=true")
	set("stays")
	expect("stays 1 items complete=false")
}

func TestACloseEndsWhatIsUnderWay(t *testing.T) {
	w := newWorld(t, session.Config{}, session.ClientConfig{})
	w.fill(1)
	ended := make(chan error, 1)
	go func() {
		var last error
		for _, err := range w.client.Query(t.Context(), query(true)) {
			last = err
		}
		ended <- last
	}()
	eventually(t, "the tail waits", func() bool { return w.log.queries.Load() == 1 })
	must(t, w.client.Close())
	if err := <-ended; !errors.Is(err, runnel.ErrShutdown) {
		t.Errorf("got %v", err)
	}
	if _, err := w.client.Stat(t.Context(), segment); !errors.Is(err, runnel.ErrShutdown) {
		t.Errorf("got %v", err)
	}
}

func TestOperationsAreObservedFromBeginningToEnd(t *testing.T) {
	var mu sync.Mutex
	var seen []string
	observe := func(side string, act func(o *session.Operation)) session.Observe {
		return func(ctx context.Context, o *session.Operation) (context.Context, func(error)) {
			act(o)
			name := side + " " + o.Name + " of " + o.Carrier["trace"]
			return ctx, func(err error) {
				mu.Lock()
				defer mu.Unlock()
				seen = append(seen, fmt.Sprint(name, ": ", err))
			}
		}
	}
	w := newWorld(t, session.Config{Observe: observe("server", func(*session.Operation) {})},
		session.ClientConfig{Observe: observe("client", func(o *session.Operation) { o.Carrier["trace"] = "t1" })})
	w.fill(1)
	for _, err := range w.client.Query(t.Context(), query(false)) {
		must(t, err)
	}
	eventually(t, "both are seen", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(seen) == 2
	})
	if got := fmt.Sprint(seen); got != "[server query of t1: <nil> client query of t1: <nil>]" {
		t.Errorf("got %s", got)
	}
}
