package items_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/engine"
	"github.com/runnelhq/runnel/items"
	"github.com/runnelhq/runnel/storage/memory"
)

// guests is a hook that remembers who came and who went.
type guests struct {
	mu     sync.Mutex
	joined []string
	left   []string
	refuse error
	fail   int // so many leaves fail first
}

func (g *guests) join(_ context.Context, s items.Subscription) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.joined = append(g.joined, s.ID)
	return g.refuse
}

func (g *guests) leave(_ context.Context, l *items.Left) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.fail--; g.fail >= 0 {
		return errors.New("not now")
	}
	g.left = append(g.left, l.ID+" "+l.Group)
	return nil
}

func (g *guests) want(t *testing.T, joined, left []string) {
	t.Helper()
	g.mu.Lock()
	defer g.mu.Unlock()
	slices.Sort(g.left)
	if !slices.Equal(g.joined, joined) || !slices.Equal(g.left, left) {
		t.Errorf("joined: %q, left: %q; want %q and %q", g.joined, g.left, joined, left)
	}
}

// receive starts hooks, and returns what ends them.
func receive(t *testing.T, log items.TriggerLog, cfg items.HooksConfig, all ...items.Hook) (h *items.Hooks, stop func()) {
	t.Helper()
	cfg.Logger = slog.New(slog.DiscardHandler)
	h, err := items.NewHooks(log, all, cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		if err := h.Run(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("Run: %v", err)
		}
	})
	synctest.Wait()
	return h, func() {
		cancel()
		running.Wait()
	}
}

func sub(connection uint64, id, group string) items.Subscription {
	return items.Subscription{ID: id, Stream: "chat", Group: group, Connection: connection, Context: json.RawMessage(`{"user":"ann"}`)}
}

func TestAHookIsAboutWhatASubscriptionCouldBeGiven(t *testing.T) {
	item := func(s items.Subscription, id string) items.Subscription { s.Item = &id; return s }
	prefixed := func(s items.Subscription, prefix string) items.Subscription { s.Prefix = prefix; return s }
	room := sub(1, "s", "room")
	for _, c := range []struct {
		what  string
		hook  items.Hook
		sub   items.Subscription
		asked bool
	}{
		{"everything", items.Hook{}, room, true},
		{"a stream", items.Hook{Stream: "chat"}, room, true},
		{"another stream", items.Hook{Stream: "board"}, room, false},
		{"another store", items.Hook{Store: &runnel.Store{1}}, room, false},
		{"the group", items.Hook{Group: "room"}, room, true},
		{"another group", items.Hook{Group: "attic"}, room, false},
		{"groups that begin so", items.Hook{GroupPrefix: "ro"}, room, true},
		{"groups that begin otherwise", items.Hook{GroupPrefix: "at"}, room, false},
		{"an item, of a subscription to it", items.Hook{Item: "m1"}, item(room, "m1"), true},
		{"an item, of one to another", items.Hook{Item: "m1"}, item(room, "m2"), false},
		{"an item, of one to its group", items.Hook{Item: "m1"}, room, true},
		{"an item, of one to items that begin like it", items.Hook{Item: "m1"}, prefixed(room, "m"), true},
		{"an item, of one to items that begin otherwise", items.Hook{Item: "m1"}, prefixed(room, "x"), false},
		{"items, of one of them", items.Hook{Prefix: "m"}, item(room, "m1"), true},
		{"items, of another", items.Hook{Prefix: "m"}, item(room, "x"), false},
		{"items, of more", items.Hook{Prefix: "m1"}, prefixed(room, "m"), true},
		{"items, of fewer", items.Hook{Prefix: "m"}, prefixed(room, "m1"), true},
		{"a group, of one to all groups", items.Hook{Group: "room"}, sub(1, "s", ""), true},
		{"a group, of one to groups that begin like it", items.Hook{Group: "room"}, prefixed(sub(1, "s", ""), "r"), true},
		{"a group, of one to groups that begin otherwise", items.Hook{Group: "room"}, prefixed(sub(1, "s", ""), "a"), false},
		{"groups, of one to more", items.Hook{GroupPrefix: "room"}, prefixed(sub(1, "s", ""), "r"), true},
		{"an item, of one to all groups", items.Hook{Item: "m1"}, sub(1, "s", ""), true},
		{"a condition that holds", items.Hook{When: when(t, `group == "room" && context.user == "ann" && !several`)}, room, true},
		{"a condition that does not", items.Hook{When: when(t, `item != ""`)}, room, false},
	} {
		var g guests
		c.hook.Name, c.hook.Join = "h", g.join
		h, err := items.NewHooks(newFake(), []items.Hook{c.hook}, items.HooksConfig{})
		if err != nil {
			t.Fatal(err)
		}
		if err := h.Join(t.Context(), c.sub); err != nil {
			t.Fatal(err)
		}
		if asked := len(g.joined) == 1; asked != c.asked {
			t.Errorf("a hook on %s: asked: %t", c.what, asked)
		}
	}
}

func when(t *testing.T, expression string) func(*items.Subscription) (bool, error) {
	t.Helper()
	f, err := items.HookCondition(expression)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestAConditionThatFailsRefuses(t *testing.T) {
	h, err := items.NewHooks(newFake(), []items.Hook{{Name: "h", When: when(t, `context.admin`)}}, items.HooksConfig{})
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Join(t.Context(), sub(1, "s", "room")); err == nil {
		t.Error("it was let through")
	}
}

func TestHooksHaveNamesOfTheirOwn(t *testing.T) {
	for _, hooks := range [][]items.Hook{{{}}, {{Name: "a/b"}}, {{Name: "a"}, {Name: "a"}}} {
		if _, err := items.NewHooks(newFake(), hooks, items.HooksConfig{}); !errors.Is(err, runnel.ErrInvalid) {
			t.Errorf("%+v: %v", hooks, err)
		}
	}
}

func TestEachJoinIsPairedWithALeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g guests
		g.fail = 2
		h, stop := receive(t, newFake(), items.HooksConfig{}, items.Hook{Name: "g", Join: g.join, Leave: g.leave})
		defer stop()
		for _, s := range []items.Subscription{sub(1, "a", "room"), sub(1, "b", "room"), sub(2, "a", "attic")} {
			if err := h.Join(t.Context(), s); err != nil {
				t.Fatal(err)
			}
		}
		h.Leave(t.Context(), sub(1, "a", "room"))
		h.Leave(t.Context(), sub(1, "a", "room")) // it has gone already
		h.Leave(t.Context(), sub(2, "a", "attic"))
		h.Leave(t.Context(), sub(3, "a", "room")) // it has never come
		time.Sleep(time.Minute)                   //nolint:forbidigo // fake time
		g.want(t, []string{"a", "b", "a"}, []string{"a attic", "a room"})
	})
}

// Who refuses has nothing to undo; who has let in before the other refused, or has not answered, is told.
func TestAJoinThatIsRefusedIsPairedToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var before, refuses, after, hangs guests
		released := make(chan struct{})
		defer close(released)
		refuses.refuse = fmt.Errorf("not today: %w", items.ErrRefused)
		h, stop := receive(t, newFake(), items.HooksConfig{},
			items.Hook{Name: "before", Join: before.join, Leave: before.leave},
			items.Hook{Name: "hangs", Group: "attic", Leave: hangs.leave, Timeout: time.Second, Join: func(ctx context.Context, _ items.Subscription) error {
				<-released // whatever its context says
				return nil
			}},
			items.Hook{Name: "refuses", Join: refuses.join, Leave: refuses.leave},
			items.Hook{Name: "after", Join: after.join, Leave: after.leave},
		)
		defer stop()
		if err := h.Join(t.Context(), sub(1, "a", "room")); !errors.Is(err, items.ErrRefused) {
			t.Errorf("%v", err)
		}
		if err := h.Join(t.Context(), sub(1, "b", "attic")); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v", err)
		}
		time.Sleep(time.Minute) //nolint:forbidigo // fake time
		before.want(t, []string{"a", "b"}, []string{"a room", "b attic"})
		hangs.want(t, nil, []string{"b attic"})
		refuses.want(t, []string{"a"}, nil)
		after.want(t, nil, nil)
	})
}

// A process that is killed says nothing. The next one of its name tells the leaves at once, another one when
// the lease is over; a subscription that lives on elsewhere is let alone.
func TestLeavesAreToldAfterACrash(t *testing.T) {
	for name, second := range map[string]struct {
		holder string
		within time.Duration
	}{
		"by the same":    {"serve", time.Second},
		"by another one": {"other", 40 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				driver := &memory.Driver{Shared: true}
				open := func() *engine.Engine {
					e, err := engine.Open(driver, engine.Config{})
					if err != nil {
						t.Fatal(err)
					}
					return e
				}
				var g guests
				hook := items.Hook{Name: "g", Join: g.join, Leave: g.leave}
				crashed, living := open(), open()
				defer living.Close()
				first, stop := receive(t, crashed, items.HooksConfig{Holder: "serve"}, hook)
				third, end := receive(t, living, items.HooksConfig{Holder: "third"}, items.Hook{Name: "g", Join: g.join})
				defer end()
				for _, s := range []items.Subscription{sub(1, "a", "room"), sub(1, "b", "room")} {
					if err := first.Join(t.Context(), s); err != nil {
						t.Fatal(err)
					}
				}
				if err := third.Join(t.Context(), sub(1, "c", "room")); err != nil {
					t.Fatal(err)
				}
				crashed.Close() // so nothing that it does reaches the storage
				stop()
				next := open()
				defer next.Close()
				_, stop = receive(t, next, items.HooksConfig{Holder: second.holder}, hook)
				defer stop()
				time.Sleep(second.within) //nolint:forbidigo // fake time
				synctest.Wait()
				g.want(t, []string{"a", "b", "c"}, []string{"a room", "b room"})
			})
		})
	}
}

// A leave that cannot be stored is stored later.
func TestALeaveIsNotForgottenWhileTheStorageFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newFake()
		var g guests
		h, stop := receive(t, log, items.HooksConfig{}, items.Hook{Name: "g", Join: g.join, Leave: g.leave})
		defer stop()
		if err := h.Join(t.Context(), sub(1, "a", "room")); err != nil {
			t.Fatal(err)
		}
		log.mu.Lock()
		log.failing = errors.New("out of order")
		log.mu.Unlock()
		h.Leave(t.Context(), sub(1, "a", "room"))
		if err := h.Join(t.Context(), sub(1, "b", "room")); err == nil {
			t.Error("a join was accepted that could not be paired")
		}
		time.Sleep(10 * time.Second) //nolint:forbidigo // fake time
		g.want(t, []string{"a"}, nil)
		log.mu.Lock()
		log.failing = nil
		log.mu.Unlock()
		time.Sleep(2 * time.Minute) //nolint:forbidigo // fake time
		g.want(t, []string{"a"}, []string{"a room"})
	})
}

// A process that was frozen for longer than its lease ends its connections, for others have told their leaves.
func TestAProcessThatWasAwayForTooLongEndsItsConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newFake()
		var g guests
		var lost atomic.Int64
		h, stop := receive(t, log, items.HooksConfig{Lost: func() { lost.Add(1) }}, items.Hook{Name: "g", Join: g.join, Leave: g.leave})
		defer stop()
		if err := h.Join(t.Context(), sub(1, "a", "room")); err != nil {
			t.Fatal(err)
		}
		log.mu.Lock()
		clear(log.leases)
		log.mu.Unlock()
		if err := h.Join(t.Context(), sub(1, "b", "room")); !errors.Is(err, runnel.ErrLeaseLost) {
			t.Errorf("it still lets in: %v", err)
		}
		time.Sleep(time.Minute) //nolint:forbidigo // fake time
		h.Leave(t.Context(), sub(1, "a", "room"))
		if err := h.Join(t.Context(), sub(1, "a", "room")); err != nil {
			t.Errorf("it does not let in again: %v", err)
		}
		time.Sleep(time.Minute) //nolint:forbidigo // fake time
		if n := lost.Load(); n != 1 {
			t.Errorf("it lost its place %d times", n)
		}
		g.want(t, []string{"a", "a"}, []string{"a room"})
	})
}

// Two processes on one store hand over each change once, and go on for each other.
func TestTwoProcessesOnOneStoreRunATriggerOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		driver := &memory.Driver{Shared: true}
		var seen recorder
		var stops []func()
		var engines []*engine.Engine
		for range 2 {
			e, err := engine.Open(driver, engine.Config{})
			if err != nil {
				t.Fatal(err)
			}
			defer e.Close()
			ctx, cancel := context.WithCancel(t.Context())
			var running sync.WaitGroup
			running.Go(func() {
				_ = items.Trigger{Name: "t", Stream: "chat", Handle: seen.handle}.Run(ctx, e)
			})
			synctest.Wait()
			stops = append(stops, func() { cancel(); running.Wait() })
			engines = append(engines, e)
		}
		defer stops[1]()
		write := func(e *engine.Engine, value string) {
			t.Helper()
			w := runnel.ItemWrites{Segment: "room", Writes: []runnel.ItemWrite{{ItemKey: runnel.ItemKey{Key: "a"}, Value: []byte(value)}}}
			if _, err := e.WriteItems(t.Context(), runnel.Space{Name: "chat"}, w); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Minute) //nolint:forbidigo // fake time
			synctest.Wait()
		}
		write(engines[0], `1`)
		write(engines[1], `2`)
		stops[0]()
		write(engines[0], `3`)
		write(engines[1], `4`)
		seen.want(t, `create room/a 1`, `update room/a 2`, `update room/a 3`, `update room/a 4`)
	})
}
