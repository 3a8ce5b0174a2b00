package linear

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"math/rand/v2"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/durablestreams"
	"github.com/runnelhq/runnel/durablestreams/dsclient"
	"github.com/runnelhq/runnel/engine"
	"github.com/runnelhq/runnel/storage"
	"github.com/runnelhq/runnel/storage/faulty"
	"github.com/runnelhq/runnel/storage/memory"
	"github.com/runnelhq/runnel/storage/pebblestore"
)

// kind is what a world is made of.
type kind struct {
	driver string // "memory", "shared" (two engines over one memory) or "pebble"
	faults bool   // commits fail in all ways that the contract knows, and reads now and then
	tight  bool   // next to nothing is kept in memory
	http   bool   // the clients are on the other side of a connection
	remote bool   // so they are, and it is a session
	items  bool   // so they are, and it is a server of items, over HTTP and WebSocket
}

// kinds are the worlds that every model is tried in, where it can be had.
var kinds = []kind{
	{driver: "memory"},
	{driver: "memory", faults: true},
	{driver: "memory", faults: true, tight: true},
	{driver: "shared"},
	{driver: "shared", tight: true},
	{driver: "shared", faults: true},
	{driver: "shared", faults: true, tight: true},
	{driver: "pebble"},
	{driver: "pebble", tight: true},
	{driver: "pebble", faults: true},
	{driver: "memory", http: true},
	{driver: "shared", faults: true, http: true},
	{driver: "pebble", faults: true, tight: true, http: true},
	{driver: "memory", remote: true},
	{driver: "shared", faults: true, remote: true},
	{driver: "pebble", faults: true, tight: true, remote: true},
	{driver: "memory", items: true},
	{driver: "memory", faults: true, items: true},
	{driver: "shared", faults: true, items: true},
	{driver: "pebble", items: true},
	{driver: "pebble", faults: true, tight: true, items: true},
}

func (k kind) String() string {
	parts := []string{k.driver}
	for _, p := range []struct {
		on   bool
		text string
	}{{k.faults, "faults"}, {k.tight, "tight"}, {k.http, "http"}, {k.remote, "remote"}, {k.items, "items"}} {
		if p.on {
			parts = append(parts, p.text)
		}
	}
	return strings.Join(parts, " ")
}

// away tells whether the clients are on the other side of a connection.
func (k kind) away() bool { return k.http || k.remote || k.items }

func (k kind) file() string { return strings.ReplaceAll(k.String(), " ", "-") }

// world is a log and what it stands on.
type world struct {
	kind  kind
	tally *tally
	rng   *rand.Rand
	cfg   engine.Config
	clock clock
	// restarts says that an engine is closed and opened in the middle.
	restarts bool

	kept    storage.Driver
	drivers []*faulty.Driver // each engine's own way to what is kept
	fronts  []log            // each engine's own
	stop    []func() error
	late    sync.WaitGroup // commits that happen after their answer

	followers []*follower // of groups of items

	mu      sync.RWMutex
	engines []*engine.Engine

	budget sync.Mutex
	spend  int // how many more outcomes the driver leaves unknown
}

var quiet = slog.New(slog.DiscardHandler)

// open makes a world. Nothing of it is broken but what broken says.
func open(k kind, seed uint64, t *tally, broken mutation) (*world, error) {
	w := &world{kind: k, tally: t, rng: rand.New(rand.NewPCG(seed, uint64(slices.Index(kinds, k))<<32)), spend: 2}
	w.restarts = w.rng.IntN(4) == 0
	w.cfg = engine.Config{Now: w.clock.read, PollInterval: 2 * time.Millisecond, SweepInterval: 20 * time.Millisecond, Logger: quiet}
	if k.tight {
		w.cfg.TailCacheBytes, w.cfg.MaxSegments = 1, 1
	}
	engines := 1
	switch k.driver {
	case "memory":
		w.kept = new(memory.Driver)
	case "shared":
		w.kept = &memory.Driver{Shared: true}
		engines = 2
	case "pebble":
		d, err := pebblestore.Open("db", pebblestore.Config{FS: vfs.NewMem(), MemTableBytes: 1 << 20, CacheBytes: 1 << 20, Logger: quiet})
		if err != nil {
			return nil, err
		}
		w.kept = d
	}
	if broken.driver != nil {
		w.kept = broken.driver(w.kept)
	}
	for i := range engines {
		w.drivers = append(w.drivers, faulty.New(w.kept))
		e, err := engine.Open(w.drivers[i], w.cfg)
		if err != nil {
			return nil, err
		}
		w.engines = append(w.engines, e)
		current := func() *engine.Engine { return w.engine(i) }
		own := func() runnel.Log { return current() }
		var front log = inProcess{current, coordinating{own}, itemsOf{own}}
		switch {
		case k.http:
			front = w.serve(i)
		case k.items:
			front = w.serveItems(current, broken)
		case k.remote:
			if front, err = w.serveSession(current); err != nil {
				return nil, err
			}
		}
		if broken.log != nil {
			front = broken.log(front)
		}
		w.fronts = append(w.fronts, front)
	}
	return w, nil
}

// serve puts a server before an engine.
func (w *world) serve(i int) log {
	h := durablestreams.New(current{func() *engine.Engine { return w.engine(i) }}, durablestreams.Config{NoRegistry: true, Logger: quiet})
	s := httptest.NewServer(h)
	w.stop = append(w.stop, func() error {
		defer s.Close()
		return h.Close()
	})
	return overHTTP{
		client: &dsclient.Client{
			Base:    s.URL + strings.TrimSuffix(durablestreams.DefaultPrefix, "/"),
			HTTP:    s.Client(),
			Backoff: dsclient.Backoff{First: time.Millisecond, Most: 10 * time.Millisecond},
		},
		longPoll: w.rng.IntN(2) == 0,
	}
}

func (w *world) engine(i int) *engine.Engine {
	w.mu.RLock()
	defer w.mu.RUnlock()
	return w.engines[i]
}

// front is a client's way to the log.
func (w *world) front(client int) log { return w.fronts[client%len(w.fronts)] }

// reopen closes a client's engine and opens another one over the same driver, as a restart does. Unless
// forced, it does so only if storage has failed and nobody else has done it.
func (w *world) reopen(client int, force bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	i := client % len(w.engines)
	if w.engines[i].Err() == nil && !force {
		return
	}
	if w.engines[i].Err() != nil {
		w.tally.count("restarts after failures")
	} else {
		w.tally.count("restarts")
	}
	_ = w.engines[i].Close() // which says that storage has failed, if it has
	e, err := engine.Open(w.drivers[i], w.cfg)
	if err != nil {
		panic(err)
	}
	w.engines[i] = e
}

// calm ends delays and faults.
func (w *world) calm() {
	for _, d := range w.drivers {
		d.SetRules()
	}
	w.late.Wait()
	for i := range w.engines {
		w.reopen(i, false)
	}
}

func (w *world) close() error {
	var errs []error
	for _, stop := range w.stop {
		errs = append(errs, stop())
	}
	for _, e := range w.engines {
		if err := e.Close(); !errors.Is(err, runnel.ErrFailed) { // something in the background met the last fault
			errs = append(errs, err)
		}
	}
	return errors.Join(append(errs, w.kept.Close())...)
}

// errNoAnswer is what a read of storage says that fails.
var errNoAnswer = errors.New("no answer")

// disturb makes the drivers slow, and faulty if the world is.
func (w *world) disturb() {
	delayed := w.rng.IntN(4) > 0
	for i, d := range w.drivers {
		rng := rand.New(rand.NewPCG(w.rng.Uint64(), uint64(i)))
		var rules []faulty.Rule
		if w.kind.faults {
			rules = w.faults(rng)
		}
		if delayed {
			rules = append(rules, delays(rng)...)
		}
		d.SetRules(rules...)
	}
}

// delays make calls overlap. The answer to a commit that has happened may come late.
func delays(rng *rand.Rand) []faulty.Rule {
	wait := func(most time.Duration) func(context.Context) error {
		return func(ctx context.Context) error {
			pause(ctx, rand.N(most))
			return nil
		}
	}
	return []faulty.Rule{
		{When: faulty.All(faulty.On(faulty.Commit), faulty.Chance(rng, 0.4)), Then: faulty.Wait(wait(500*time.Microsecond), faulty.Through)},
		{When: faulty.All(faulty.On(faulty.Commit), faulty.Chance(rng, 0.6)), Then: faulty.WaitAfter(wait(time.Millisecond), faulty.Through)},
		{When: faulty.All(isRead, faulty.Chance(rng, 0.1)), Then: faulty.WaitAfter(wait(300*time.Microsecond), faulty.Through)},
	}
}

func isRead(c faulty.Call) bool {
	return c.Op == faulty.Get || c.Op == faulty.Guard || c.Op == faulty.Scan
}

// faults are the ways in which the contract of storage lets a driver be unlucky. On an exclusive driver
// an unknown outcome ends the engine, and a client opens another one.
func (w *world) faults(rng *rand.Rand) []faulty.Rule {
	shared := w.kind.driver == "shared"
	odds := 0.04
	if shared {
		odds = 0.08
	}
	rules := []faulty.Rule{
		{When: faulty.All(faulty.On(faulty.Commit), faulty.Chance(rng, odds), w.afford), Then: faulty.After(storage.ErrUnknown)},
		{When: faulty.All(faulty.On(faulty.Commit), faulty.Chance(rng, odds), w.afford), Then: faulty.Before(storage.ErrUnknown)},
		{When: faulty.All(faulty.On(faulty.Commit), faulty.Chance(rng, 0.04)), Then: faulty.Before(storage.ErrRefused)},
		{When: faulty.All(faulty.On(faulty.Commit), faulty.Chance(rng, 0.06)), Then: faulty.Before(storage.ErrConflict)},
		{When: faulty.All(isRead, faulty.Chance(rng, 0.01)), Then: faulty.Before(errNoAnswer)},
	}
	if shared {
		rules = append(rules, faulty.Rule{When: faulty.All(faulty.On(faulty.Commit), faulty.Chance(rng, odds)), Then: w.later})
	}
	return rules
}

// afford bounds how many outcomes the driver of an exclusive world leaves unknown.
func (w *world) afford(faulty.Call) bool {
	w.budget.Lock()
	defer w.budget.Unlock()
	if w.kind.driver == "shared" {
		w.tally.count("commits of unknown outcome") // the engine finds out
		return true
	}
	if w.spend == 0 {
		return false
	}
	w.spend--
	w.tally.count("commits of unknown outcome")
	return true
}

// later lets a commit happen, if its guard still allows that, some time after its outcome was called unknown.
func (w *world) later(_ context.Context, c faulty.Call, _ func(context.Context) error) error {
	b := *c.Batch
	b.Ops = slices.Clone(b.Ops)
	for i := range b.Ops {
		o := &b.Ops[i]
		o.Key, o.Head, o.Body = slices.Clone(o.Key), slices.Clone(o.Head), slices.Clone(o.Body)
	}
	w.tally.count("commits that happen late")
	w.late.Go(func() {
		pause(context.Background(), rand.N(3*time.Millisecond))
		_, _ = w.kept.Commit(context.Background(), c.Partition, &b) // if it still can
	})
	return fmt.Errorf("late: %w", storage.ErrUnknown)
}

// current is the engine that is open at the moment, for a handler that outlives it.
type current struct{ engine func() *engine.Engine }

func (c current) Create(ctx context.Context, seg runnel.Segment, o runnel.CreateOptions) (runnel.Created, error) {
	return c.engine().Create(ctx, seg, o)
}

func (c current) Append(ctx context.Context, seg runnel.Segment, o runnel.AppendOptions, records ...runnel.Record) (runnel.Appended, error) {
	return c.engine().Append(ctx, seg, o, records...)
}

func (c current) Delete(ctx context.Context, seg runnel.Segment) error {
	return c.engine().Delete(ctx, seg)
}

func (c current) Stat(ctx context.Context, seg runnel.Segment) (runnel.Info, error) {
	return c.engine().Stat(ctx, seg)
}

func (c current) Read(ctx context.Context, seg runnel.Segment, id uint64, from runnel.Sequence) (runnel.View, error) {
	return c.engine().Read(ctx, seg, id, from)
}

func (c current) ReadStart(ctx context.Context, seg runnel.Segment) (runnel.View, error) {
	return c.engine().ReadStart(ctx, seg)
}

func (c current) Wait(ctx context.Context, seg runnel.Segment, id uint64, after runnel.Sequence) (runnel.Info, error) {
	return c.engine().Wait(ctx, seg, id, after)
}

func (c current) List(ctx context.Context, store runnel.Store, o runnel.ListOptions) iter.Seq2[runnel.Info, error] {
	return c.engine().List(ctx, store, o)
}

func (c current) Watch(ctx context.Context, store runnel.Store) iter.Seq[runnel.Event] {
	return c.engine().Watch(ctx, store)
}
