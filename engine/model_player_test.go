package engine_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"pgregory.net/rapid"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/engine"
	"github.com/runnelhq/runnel/storage"
	"github.com/runnelhq/runnel/storage/faulty"
	"github.com/runnelhq/runnel/storage/memory"
	"github.com/runnelhq/runnel/storage/pebblestore"
)

// A player is storage of one kind with an engine over it, or two, in a configuration of its own. All
// players are told the same history.
type player struct {
	number int // among the players
	kind   string
	clock  func() time.Time
	cfg    engine.Config
	kept   storage.Driver
	reopen func() storage.Driver // opens kept again; nil if there is nothing to open
	faults faults

	engines []*engine.Engine
	drivers []*faulty.Driver
	watched watched

	// late says since when this player may not know the last access of a segment exactly.
	late   map[*modelSegment]time.Time
	last   map[runnel.Space]runnel.Position // the last position that it has told of, in each space
	opened int                              // how often it was closed, or has crashed
}

// faults are what a player's storage does besides its work. None of it changes an answer.
type faults struct {
	unknown bool // answers are lost, of commits that have happened and of others, and commits conflict
	delays  bool // commits take their time
	refusal bool // commits are refused once in a while

	mu    sync.Mutex
	rng   *rand.Rand
	held  chan struct{} // commits wait until it is closed; nil when they do not
	armed atomic.Bool   // the next commit is refused
}

// hold makes commits wait until the function it returns is called.
func (f *faults) hold() (release func()) {
	held := make(chan struct{})
	f.set(held)
	return sync.OnceFunc(func() {
		f.set(nil)
		close(held)
	})
}

func (f *faults) set(held chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.held = held
}

func (f *faults) draw() (held chan struct{}, n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.held, f.rng.IntN(12)
}

// commit is what becomes of a commit.
func (f *faults) commit(ctx context.Context, c faulty.Call, do func(context.Context) error) error {
	held, n := f.draw()
	if held != nil {
		<-held
	}
	if f.armed.CompareAndSwap(true, false) {
		return storage.ErrRefused
	}
	then := faulty.Through
	switch {
	case !f.unknown:
	case n == 0:
		then = faulty.After(storage.ErrUnknown)
	case n == 1:
		then = faulty.Before(storage.ErrUnknown)
	case n == 2 && held == nil: // after which those who wait begin again, in any order
		then = faulty.Before(storage.ErrConflict)
	}
	if f.delays {
		time.Sleep(time.Duration(n) * time.Millisecond) //nolint:forbidigo // in a bubble
	}
	return then(ctx, c, do)
}

// watched are the events that a player has told of.
type watched struct {
	mu     sync.Mutex
	events map[string]int
}

func (w *watched) add(event runnel.Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	verb := "created "
	if event.Deleted {
		verb = "deleted "
	}
	w.events[verb+event.Info.Segment.String()]++
}

func (w *watched) equal(want map[string]int) (string, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return fmt.Sprint(w.events), maps.Equal(w.events, want)
}

// The stores that the histories are about.
var stores = []runnel.Store{{}, {1}}

// start opens one of the player's engines.
func (p *player) start(i int) error {
	p.drivers[i] = faulty.New(p.kept, faulty.Rule{When: faulty.On(faulty.Commit), Then: p.faults.commit})
	e, err := engine.Open(p.drivers[i], p.cfg)
	if err != nil {
		return err
	}
	p.engines[i] = e
	for _, store := range stores {
		events := e.Watch(ctx, store)
		go func() {
			for event := range events {
				p.watched.add(event)
			}
		}()
	}
	return nil
}

// crash opens another engine in the place of one, as if its process had died.
func (p *player) crash(i int) error {
	p.drivers[i].SetRules(faulty.Rule{Then: faulty.Before(storage.ErrFailed)})
	_ = p.engines[i].Close()
	return p.start(i)
}

// restart closes the player's engines and its storage, and opens them again.
func (p *player) restart() error {
	for _, e := range p.engines {
		if err := e.Close(); err != nil {
			return err
		}
	}
	if p.reopen != nil {
		if err := p.kept.Close(); err != nil {
			return err
		}
		p.kept = p.reopen()
	}
	for i := range p.engines {
		if err := p.start(i); err != nil {
			return err
		}
	}
	return nil
}

func (p *player) close() {
	for _, e := range p.engines {
		_ = e.Close()
	}
	_ = p.kept.Close()
}

func (p *player) String() string {
	l := p.kept.Limits()
	return fmt.Sprintf("%d: %s of %d engines, limits %+v, tail cache %d, segments %d, reads %d, sweeps %v, faults %v %v %v",
		p.number, p.kind, len(p.engines), l, p.cfg.TailCacheBytes, p.cfg.MaxSegments, p.cfg.MaxReadBytes, p.cfg.SweepInterval,
		p.faults.unknown, p.faults.delays, p.faults.refusal)
}

// pollInterval is how often engines that share storage look by themselves.
const pollInterval = time.Second

// players is how many play a history.
const players = 6

// drawPlayers draws the configurations of all players. Large says that entries may be larger than the
// tightest limits take.
func drawPlayers(t *rapid.T, large bool, clock func() time.Time) []*player {
	kinds := []string{"memory", "memory", "shared", "shared", "pebble", "pebble"}
	all := make([]*player, players)
	for i := range all {
		p := &player{number: i, kind: kinds[i], clock: clock, late: make(map[*modelSegment]time.Time), last: make(map[runnel.Space]runnel.Position)}
		all[i] = p
		p.watched.events = make(map[string]int)
		p.faults.rng = rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed of the faults"), 0))
		p.cfg = engine.Config{
			TailCacheBytes: rapid.SampledFrom([]int64{1, 2000, 0}).Draw(t, "tail cache"),
			MaxSegments:    rapid.SampledFrom([]int{1, 3, 0}).Draw(t, "segments in memory"),
			MaxReadBytes:   rapid.SampledFrom([]int64{1, 0}).Draw(t, "bytes of large entries"),
			SweepInterval:  rapid.SampledFrom([]time.Duration{-1, time.Minute, time.Hour}).Draw(t, "sweeps"),
			PollInterval:   pollInterval,
			Now:            clock,
			Logger:         slog.New(slog.DiscardHandler),
		}
		var limits storage.Limits
		if p.kind != "pebble" && !large {
			limits = rapid.SampledFrom([]storage.Limits{{}, tight, {MaxBatchOps: 16}, {MaxValueBytes: 4 << 10}}).Draw(t, "limits")
		}
		engines := 1
		switch p.kind {
		case "memory":
			p.kept = &memory.Driver{Max: limits}
			p.faults.delays = rapid.Bool().Draw(t, "delays")
			p.faults.refusal = i == 1
		case "shared":
			engines = rapid.IntRange(1, 2).Draw(t, "engines") + i%2
			p.kept = &memory.Driver{Shared: true, Max: limits}
			p.faults.unknown = i == 3
			p.faults.delays = rapid.Bool().Draw(t, "delays")
		case "pebble":
			fs, compress := vfs.NewMem(), rapid.Bool().Draw(t, "compress")
			p.reopen = func() storage.Driver {
				d, err := pebblestore.Open("db", pebblestore.Config{
					FS: fs, CacheBytes: 1 << 20, MemTableBytes: 256 << 10, Compress: compress, Logger: slog.New(slog.DiscardHandler),
				})
				if err != nil {
					t.Fatal(err)
				}
				return d
			}
			p.kept = p.reopen()
			p.faults.delays, p.faults.refusal = i == 5, i == 5
		}
		p.engines, p.drivers = make([]*engine.Engine, engines), make([]*faulty.Driver, engines)
		for k := range engines {
			if err := p.start(k); err != nil {
				t.Fatal(err)
			}
		}
	}
	return all
}

// answer is what an operation answers, whoever is asked. What is a player's own, ids and positions, is
// not part of it.
type answer struct {
	appended []runnel.Appended
	infos    []runnel.Info
	existed  bool
	err      error
}

func (a *answer) String() string {
	return fmt.Sprintf("%+v, %+v, existed %v, %v", a.appended, a.infos, a.existed, a.err)
}

func plainInfo(in runnel.Info) runnel.Info {
	in.ID = 0
	in.ExpiresAt = in.ExpiresAt.UTC()
	return in
}

// same tells whether a player's answer is the model's.
func (a *answer) same(want *answer) bool {
	if (a.err == nil) != (want.err == nil) || want.err != nil && !errors.Is(a.err, want.err) {
		return false
	}
	if want.err != nil {
		return true
	}
	appended := slices.EqualFunc(a.appended, want.appended, func(x, y runnel.Appended) bool {
		x.Position, y.Position = 0, 0
		return x == y
	})
	return appended && a.existed == want.existed && slices.Equal(a.infos, want.infos)
}

// call is an operation, and what the model answers.
type call struct {
	what string
	do   func(e *engine.Engine) answer
	want answer
	// learn is told a player's own answer.
	learn func(p *player, got *answer) error
	// once says that the operation is one commit, which may be refused and asked for again.
	once bool
	// overtaken tells whether what the answer describes has gone or grown since, before it was asked for again: how
	// far retention had cut it then may not be known any more.
	overtaken func() bool
}

// run asks a player.
func (c *call) run(p *player, e *engine.Engine, refuse bool) answer {
	if refuse && c.once && p.faults.refusal {
		p.faults.armed.Store(true)
		defer p.faults.armed.Store(false)
	}
	got := c.do(e)
	if errors.Is(got.err, runnel.ErrUnavailable) {
		got = c.do(e)
	}
	return got
}

// heard checks what a player has answered.
func (c *call) heard(t *rapid.T, p *player, got *answer) {
	t.Helper()
	if c.overtaken != nil && len(got.infos) == 1 && len(c.want.infos) == 1 && c.overtaken() {
		got.infos[0].Earliest = c.want.infos[0].Earliest
	}
	if !got.same(&c.want) {
		t.Fatalf("%.400s: %s\nwant %s\nof player %s", c.what, got, &c.want, p)
	}
	if got.err == nil && c.learn != nil {
		if err := c.learn(p, got); err != nil {
			t.Fatalf("%s: %v\nof player %s", c.what, err, p)
		}
	}
}

// leavings returns the keys that are left in a player's storage, but for those that tell of the past.
func (p *player) leavings() (all []string, err error) {
	for store, err := range p.kept.Stores(ctx) {
		if err != nil {
			return nil, err
		}
		for part, err := range p.kept.Partitions(ctx, store, "") {
			if err != nil {
				return nil, err
			}
			for pair, err := range p.kept.Scan(ctx, part, storage.Range{}) {
				if err != nil {
					return nil, err
				}
				if !strings.Contains("cwx", string(pair.Key[:1])) { // commits, witnesses, what is due some day
					all = append(all, fmt.Sprintf("%s %q", part.Name, pair.Key))
				}
			}
		}
	}
	return all, nil
}

// settle lets everything come to rest that can without time passing for the log: the bubble's does, for
// commits that take their time, and if followers poll, for them to have looked.
func settle(polling bool) {
	span := 500 * time.Millisecond
	if polling {
		span += pollInterval
	}
	pass(span)
}
