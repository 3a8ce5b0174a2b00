package items_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/items"
)

// run starts a trigger, and returns what ends it as a crash of its process does: without being asked.
func run(t *testing.T, log *fakeLog, trigger items.Trigger) (stop func()) {
	t.Helper()
	trigger.Logger = slog.New(slog.DiscardHandler)
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		if err := trigger.Run(ctx, log); !errors.Is(err, context.Canceled) {
			t.Errorf("Run: %v", err)
		}
	})
	synctest.Wait()
	return func() {
		cancel()
		running.Wait()
	}
}

func put(t *testing.T, log *fakeLog, group, item, value string) {
	t.Helper()
	w := runnel.ItemWrite{ItemKey: runnel.ItemKey{Key: item}, Value: []byte(value)}
	if value == "" {
		w.Value = nil
	}
	if _, err := log.WriteItems(t.Context(), runnel.Space{Name: "chat"}, runnel.ItemWrites{Segment: group, Writes: []runnel.ItemWrite{w}}); err != nil {
		t.Fatal(err)
	}
}

// recorder is a handler that remembers.
type recorder struct {
	mu   sync.Mutex
	seen []string
	fail func(*items.TriggerEvent) error
}

func (r *recorder) handle(_ context.Context, e *items.TriggerEvent) error {
	if r.fail != nil {
		if err := r.fail(e); err != nil {
			return err
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seen = append(r.seen, strings.TrimSpace(fmt.Sprintf("%s %s/%s %s", e.Kind, e.Group, e.Item, e.Value)))
	return nil
}

func (r *recorder) want(t *testing.T, want ...string) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if !slices.Equal(r.seen, want) {
		t.Errorf("handled: %q\nwant     %q", r.seen, want)
	}
	r.seen = nil
}

func condition(t *testing.T, expression string) func(*items.TriggerEvent) (bool, error) {
	t.Helper()
	when, err := items.Condition(expression)
	if err != nil {
		t.Fatal(err)
	}
	return when
}

func TestATriggerIsToldOfChangesThatMatch(t *testing.T) {
	for name, c := range map[string]struct {
		trigger items.Trigger
		want    []string
	}{
		"all":          {items.Trigger{}, []string{`create room/a1 {"n":1}`, `update room/a1 {"n":2}`, `create room/b1 3`, `create attic/a1 4`, `delete room/a1 {"n":2}`}},
		"a group":      {items.Trigger{Group: "attic"}, []string{`create attic/a1 4`}},
		"groups":       {items.Trigger{GroupPrefix: "a"}, []string{`create attic/a1 4`}},
		"an item":      {items.Trigger{Group: "room", Item: "b1"}, []string{`create room/b1 3`}},
		"a prefix":     {items.Trigger{Group: "room", Prefix: "b"}, []string{`create room/b1 3`}},
		"an event":     {items.Trigger{Events: []string{"delete", "update"}}, []string{`update room/a1 {"n":2}`, `delete room/a1 {"n":2}`}},
		"a condition":  {items.Trigger{When: condition(t, `event != "delete" && value.n > 1`)}, []string{`update room/a1 {"n":2}`}},
		"of integers":  {items.Trigger{When: condition(t, `event == "update" && value.n % 2 == 0`)}, []string{`update room/a1 {"n":2}`}},
		"of the names": {items.Trigger{When: condition(t, `stream == "chat" && group.startsWith("att") && item == "a1"`)}, []string{`create attic/a1 4`}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log, seen := newFake(), &recorder{}
				c.trigger.Name, c.trigger.Stream, c.trigger.Handle = "t", "chat", seen.handle
				put(t, log, "room", "before", `0`)
				stop := run(t, log, c.trigger)
				put(t, log, "room", "a1", `{"n":1}`)
				put(t, log, "room", "a1", `{"n":2}`)
				put(t, log, "room", "b1", `3`)
				synctest.Wait()
				put(t, log, "attic", "a1", `4`)
				synctest.Wait()
				put(t, log, "room", "a1", ``)
				synctest.Wait()
				seen.want(t, c.want...)
				stop()
			})
		})
	}
}

func TestATriggerIsToldThatAGroupWasDeleted(t *testing.T) {
	remove := func(t *testing.T, log *fakeLog, group string) {
		t.Helper()
		if err := log.Delete(t.Context(), runnel.Segment{Space: "chat", Name: group}); err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		trigger items.Trigger
		want    []string
	}{
		"all":         {items.Trigger{}, []string{`create room/a 1`, `deleted room/ null`, `create room/a 2`, `create attic/a 3`, `deleted attic/ null`}},
		"deletions":   {items.Trigger{Events: []string{"deleted"}}, []string{`deleted room/ null`, `deleted attic/ null`}},
		"a group":     {items.Trigger{Group: "attic", Events: []string{"deleted"}}, []string{`deleted attic/ null`}},
		"no items":    {items.Trigger{Item: "a"}, []string{`create room/a 1`, `create room/a 2`, `create attic/a 3`}},
		"a condition": {items.Trigger{When: condition(t, `event == "deleted" && value == null && item == ""`)}, []string{`deleted room/ null`, `deleted attic/ null`}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log, seen := newFake(), &recorder{}
				c.trigger.Name, c.trigger.Stream, c.trigger.Handle = "t", "chat", seen.handle
				stop := run(t, log, c.trigger)
				put(t, log, "room", "a", `1`)
				synctest.Wait()
				remove(t, log, "room")
				put(t, log, "room", "a", `2`)
				synctest.Wait()
				put(t, log, "attic", "a", `3`)
				synctest.Wait()
				remove(t, log, "attic")
				synctest.Wait()
				seen.want(t, c.want...)
				stop()
			})
		})
	}
	t.Run("while its handler hangs", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			log, hangs := newFake(), make(chan struct{})
			seen := &recorder{fail: func(*items.TriggerEvent) error { <-hangs; return nil }}
			stop := run(t, log, items.Trigger{Name: "t", Stream: "chat", Handle: seen.handle, Timeout: time.Hour})
			for range 40 { // far more than wait in memory
				put(t, log, "room", "a", `1`)
			}
			remove(t, log, "room")
			put(t, log, "room", "a", `2`)
			synctest.Wait()
			close(hangs)
			synctest.Wait()
			stop()
			// What could not be read again is left out, the deletion is not.
			if n := len(seen.seen); n < 3 || seen.seen[n-2] != `deleted room/ null` || seen.seen[n-1] != `create room/a 2` {
				t.Fatalf("%q", seen.seen)
			}
		})
	})
}

func TestAConditionThatPanicsLetsNothingThrough(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, seen := newFake(), &recorder{}
		when := func(e *items.TriggerEvent) (bool, error) {
			if string(e.Value) == "1" {
				panic("one")
			}
			return true, nil
		}
		defer run(t, log, items.Trigger{Name: "t", Stream: "chat", Handle: seen.handle, When: when})()
		put(t, log, "room", "a", "1")
		put(t, log, "room", "a", "2")
		synctest.Wait()
		seen.want(t, "update room/a 2")
	})
}

func TestAConditionThatIsNoneIsRefused(t *testing.T) {
	for _, expression := range []string{"", "1 +", "group", "nobody == 1", `"text"`} {
		if _, err := items.Condition(expression); err == nil {
			t.Errorf("%q is a condition", expression)
		}
	}
}

func TestATriggerGoesOnWhereItWas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, seen := newFake(), &recorder{}
		trigger := items.Trigger{Name: "t", Stream: "chat", Handle: seen.handle}
		stop := run(t, log, trigger)
		put(t, log, "room", "a", `1`)
		time.Sleep(time.Second) //nolint:forbidigo // fake time
		stop()
		put(t, log, "room", "a", `2`)
		put(t, log, "room", "a", `3`)
		stop = run(t, log, trigger)
		seen.want(t, `create room/a 1`, `update room/a 2`, `update room/a 3`)
		stop()
	})
}

// The changes of a space are kept for as long as a place of it has yet to pass them.
func TestATriggerWhoseGroupIsQuietMovesItsPlaceAllTheSame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newFake()
		var handled recorder
		stop := run(t, log, items.Trigger{Name: "quiet", Stream: "chat", Group: "room", Handle: handled.handle})
		defer stop()
		for _, group := range []string{"attic", "room-2", "attic"} {
			put(t, log, group, "m", "1")
		}
		time.Sleep(time.Second) //nolint:forbidigo // fake time
		c, err := log.Cursor(t.Context(), runnel.CursorName{Space: runnel.Space{Name: "chat"}, Name: "trigger/quiet"})
		if err != nil || c.Place != 3 {
			t.Errorf("the place is %d: %v", c.Place, err)
		}
		handled.want(t)
	})
}

func TestAHandlerThatCrashesIsCalledAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newFake()
		failures := 0
		seen := &recorder{fail: func(e *items.TriggerEvent) error {
			if failures++; failures < 4 {
				panic("crashed")
			}
			return nil
		}}
		defer run(t, log, items.Trigger{Name: "t", Stream: "chat", Handle: seen.handle})()
		put(t, log, "room", "a", `1`)
		put(t, log, "room", "a", `2`)
		time.Sleep(time.Minute) //nolint:forbidigo // fake time
		seen.want(t, `create room/a 1`, `update room/a 2`)
	})
}

func TestAHandlerThatHangsHoldsUpNobodyElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, seen, other := newFake(), &recorder{}, &recorder{}
		hang := func(ctx context.Context, e *items.TriggerEvent) error {
			if e.Group == "hangs" {
				<-ctx.Done()
				return ctx.Err()
			}
			return seen.handle(ctx, e)
		}
		defer run(t, log, items.Trigger{Name: "t", Stream: "chat", Handle: hang})()
		defer run(t, log, items.Trigger{Name: "o", Stream: "chat", Handle: other.handle})()
		put(t, log, "hangs", "a", `1`)
		synctest.Wait()
		put(t, log, "room", "a", `1`)
		synctest.Wait()
		seen.want(t, `create room/a 1`)
		other.want(t, `create hangs/a 1`, `create room/a 1`)
	})
}

func TestAnEventIsParkedAndReplayed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newFake()
		broken := true
		seen := &recorder{fail: func(e *items.TriggerEvent) error {
			if broken && e.Item == "a" {
				return errors.New("out of order")
			}
			return nil
		}}
		defer run(t, log, items.Trigger{Name: "t", Stream: "chat", Handle: seen.handle, Attempts: 3})()
		put(t, log, "room", "a", `1`)
		put(t, log, "room", "b", `2`)
		time.Sleep(time.Minute) //nolint:forbidigo // fake time
		seen.want(t, `create room/b 2`)

		group := runnel.Segment{Space: items.ParkedStream, Name: "t"}
		view, err := log.Items(t.Context(), group, runnel.ItemQuery{})
		if err != nil || len(view.Items) != 1 || !strings.Contains(string(view.Items[0].Value), `"error":"out of order","attempts":3`) {
			t.Fatalf("parked: %v, %v", view.Items, err)
		}
		replay := func() {
			t.Helper()
			value := strings.Replace(string(view.Items[0].Value), `"replay":false`, `"replay":true`, 1)
			if _, err := log.WriteItems(t.Context(), group.In(), runnel.ItemWrites{Segment: "t", Writes: []runnel.ItemWrite{{ItemKey: view.Items[0].ItemKey, Value: []byte(value)}}}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Minute) //nolint:forbidigo // fake time
			if view, err = log.Items(t.Context(), group, runnel.ItemQuery{}); err != nil {
				t.Fatal(err)
			}
		}
		replay()
		if len(view.Items) != 1 || !strings.Contains(string(view.Items[0].Value), `"attempts":4`) {
			t.Fatalf("parked after it failed again: %v", view.Items)
		}
		broken = false
		replay()
		if len(view.Items) != 0 {
			t.Errorf("still parked: %s", view.Items[0].Value)
		}
		seen.want(t, `create room/a 1`)
	})
}

func TestATriggerIsToldOfWhatIsSent(t *testing.T) {
	for name, c := range map[string]struct {
		trigger items.Trigger
		want    []string
	}{
		"all":           {items.Trigger{}, []string{`event room/ {"who":"ann"}`, `event room/m1 1`, `event attic/m1 2`}},
		"a group":       {items.Trigger{Group: "attic"}, []string{`event attic/m1 2`}},
		"an item":       {items.Trigger{Item: "m1"}, []string{`event room/m1 1`, `event attic/m1 2`}},
		"a prefix":      {items.Trigger{GroupPrefix: "r", Prefix: "m"}, []string{`event room/m1 1`}},
		"events only":   {items.Trigger{Events: []string{"event"}}, []string{`event room/ {"who":"ann"}`, `event room/m1 1`, `event attic/m1 2`}},
		"no events":     {items.Trigger{Events: []string{"create", "update", "delete"}}, nil},
		"by their type": {items.Trigger{When: condition(t, `event_type == "typing" && value.who == "ann"`)}, []string{`event room/ {"who":"ann"}`}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log, seen := newFake(), &recorder{}
				c.trigger.Name, c.trigger.Stream, c.trigger.Handle = "t", "chat", seen.handle
				defer run(t, log, c.trigger)()
				room := runnel.Segment{Space: "chat", Name: "room"}
				m1 := "m1"
				for _, sent := range []runnel.ItemEvent{
					{Segment: room, Type: "typing", Data: []byte(`{"who":"ann"}`)},
					{Segment: room, Item: &m1, Type: "t", Data: []byte(`1`)},
					{Segment: runnel.Segment{Space: "other", Name: "room"}, Type: "t", Data: []byte(`0`)},
					{Segment: runnel.Segment{Space: "chat", Name: "attic"}, Item: &m1, Type: "t", Data: []byte(`2`)},
				} {
					if err := log.SendItem(t.Context(), sent); err != nil {
						t.Fatal(err)
					}
					synctest.Wait()
				}
				seen.want(t, c.want...)
			})
		})
	}
}

// A handler that hangs leaves out events beyond those that may wait, keeps none, and delays no one who sends.
func TestAHandlerOfSentEventsThatHangsLeavesThemOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newFake()
		var calls atomic.Int64
		hang := func(ctx context.Context, _ *items.TriggerEvent) error {
			calls.Add(1)
			<-ctx.Done()
			return ctx.Err()
		}
		defer run(t, log, items.Trigger{Name: "t", Stream: "chat", Events: []string{"event"}, Handle: hang, Timeout: time.Second})()
		for range 3000 {
			if err := log.SendItem(t.Context(), runnel.ItemEvent{Segment: runnel.Segment{Space: "chat", Name: "room"}, Type: "t", Data: []byte(`1`)}); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Hour) //nolint:forbidigo // fake time
		if n := calls.Load(); n < 1000 || n > 1001 {
			t.Errorf("it was called %d times", n)
		}
		if view, err := log.Items(t.Context(), runnel.Segment{Space: items.ParkedStream, Name: "t"}, runnel.ItemQuery{}); !errors.Is(err, runnel.ErrNotFound) {
			t.Errorf("parked: %v, %v", view, err)
		}
	})
}

// A group whose handler hangs has room for a few events; what comes behind them is read from the log when it
// is their turn, and other groups do not wait, however much it is.
func TestAGroupThatHangsTakesNoRoomOfOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, seen := newFake(), &recorder{}
		var hangs atomic.Bool
		hangs.Store(true)
		var mu sync.Mutex
		var order []string
		handle := func(ctx context.Context, e *items.TriggerEvent) error {
			if e.Group != "hangs" {
				return seen.handle(ctx, e)
			}
			if hangs.Load() {
				<-ctx.Done()
				return ctx.Err()
			}
			mu.Lock()
			defer mu.Unlock()
			order = append(order, string(e.Value))
			return nil
		}
		trigger := items.Trigger{Name: "t", Stream: "chat", Handle: handle, Attempts: 1000, Timeout: 10 * time.Second}
		stop := run(t, log, trigger)
		const n = 500
		for i := range n {
			put(t, log, "hangs", "a", fmt.Sprint(i))
		}
		put(t, log, "room", "a", `1`)
		synctest.Wait()
		seen.want(t, `create room/a 1`)
		stop()

		defer run(t, log, trigger)()
		seen.want(t, `create room/a 1`) // again: the place is before what hangs
		hangs.Store(false)
		time.Sleep(time.Hour) //nolint:forbidigo // fake time
		mu.Lock()
		defer mu.Unlock()
		if len(order) != n {
			t.Fatalf("%d changes of the group were handed over, not %d", len(order), n)
		}
		for i, value := range order {
			if value != fmt.Sprint(i) {
				t.Fatalf("change %d is %s", i, value)
			}
		}
	})
}

// A group that is deleted and made again while its handler hangs: all that happened to it is told, in its order.
func TestAGroupIsDeletedWhileItsHandlerHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, seen := newFake(), &recorder{}
		var hangs atomic.Bool
		hangs.Store(true)
		handle := func(ctx context.Context, e *items.TriggerEvent) error {
			if hangs.Load() {
				<-ctx.Done()
				return ctx.Err()
			}
			return seen.handle(ctx, e)
		}
		defer run(t, log, items.Trigger{Name: "t", Stream: "chat", Handle: handle, Attempts: 1000, Timeout: time.Second})()
		for i := range 100 {
			put(t, log, "room", "a", fmt.Sprint(i))
		}
		synctest.Wait()
		if err := log.Delete(t.Context(), runnel.Segment{Space: "chat", Name: "room"}); err != nil {
			t.Fatal(err)
		}
		put(t, log, "room", "a", `"anew"`)
		synctest.Wait()
		hangs.Store(false)
		time.Sleep(time.Hour) //nolint:forbidigo // fake time
		want := []string{"create room/a 0"}
		for i := 1; i < 100; i++ {
			want = append(want, fmt.Sprintf("update room/a %d", i))
		}
		seen.want(t, append(want, "deleted room/ null", `create room/a "anew"`)...)
	})
}

// Somebody deletes the place of a trigger that runs, to let history go. The trigger loses nothing that it has begun.
func TestATriggerWhosePlaceIsDeletedGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, seen := newFake(), &recorder{}
		var hangs atomic.Bool
		hangs.Store(true)
		handle := func(ctx context.Context, e *items.TriggerEvent) error {
			if hangs.Load() {
				<-ctx.Done()
				return ctx.Err()
			}
			return seen.handle(ctx, e)
		}
		defer run(t, log, items.Trigger{Name: "t", Stream: "chat", Handle: handle, Attempts: 1000, Timeout: time.Second})()
		var want []string
		for i := range 40 {
			put(t, log, fmt.Sprint("room", i/20), "a", fmt.Sprint(i))
			kind := "update"
			if i%20 == 0 {
				kind = "create"
			}
			want = append(want, fmt.Sprintf("%s room%d/a %d", kind, i/20, i))
		}
		synctest.Wait()
		for i := range 2 {
			if err := log.Delete(t.Context(), runnel.Segment{Space: "chat", Name: fmt.Sprint("room", i)}); err != nil {
				t.Fatal(err)
			}
			want = append(want, fmt.Sprintf("deleted room%d/ null", i))
		}
		log.mu.Lock()
		clear(log.cursors)
		log.mu.Unlock()
		hangs.Store(false)
		time.Sleep(time.Hour) //nolint:forbidigo // fake time
		seen.mu.Lock()
		slices.Sort(seen.seen)
		seen.mu.Unlock()
		slices.Sort(want)
		seen.want(t, want...)
	})
}

// Of several processes one does the work; when it ends, or is frozen, another goes on where it was.
func TestOneProcessRunsATriggerAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newFake()
		var seen [3]recorder
		var stops [3]func()
		for i := range seen {
			stops[i] = run(t, log, items.Trigger{Name: "t", Stream: "chat", Handle: seen[i].handle})
		}
		handled := func() (by int, what []string) {
			for i := range seen {
				seen[i].mu.Lock()
				defer seen[i].mu.Unlock()
				if len(seen[i].seen) > 0 {
					by, what = i, append(what, seen[i].seen...)
					seen[i].seen = nil
				}
			}
			return by, what
		}
		for n := range 3 {
			put(t, log, "room", "a", fmt.Sprint(n))
			time.Sleep(time.Minute) //nolint:forbidigo // fake time
			by, what := handled()
			if len(what) != 1 || !strings.HasSuffix(what[0], fmt.Sprint(n)) {
				t.Errorf("change %d was handled: %q", n, what)
			}
			stops[by]()
		}
	})
}

// A process that was away while its lease ran out stores nothing any more, and its handlers are told to end.
func TestAProcessThatHasLostItsLeaseStoresNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newFake()
		var mu sync.Mutex
		var fences []uint64
		ended := false
		trigger := items.Trigger{Name: "t", Stream: "chat", Handle: func(ctx context.Context, e *items.TriggerEvent) error {
			mu.Lock()
			defer mu.Unlock()
			if fences = append(fences, e.Fence); len(fences) > 1 {
				return nil
			}
			mu.Unlock()
			<-ctx.Done()
			mu.Lock()
			ended = true
			return nil // it says that it has done it, but too late
		}, Timeout: time.Hour}
		defer run(t, log, trigger)()
		put(t, log, "room", "a", `1`)
		synctest.Wait()
		log.mu.Lock()
		for name, lease := range log.leases {
			lease.Deadline = time.Now()
			log.leases[name] = lease
		}
		log.mu.Unlock()
		time.Sleep(time.Minute) //nolint:forbidigo // fake time
		mu.Lock()
		defer mu.Unlock()
		if !ended || len(fences) != 2 || fences[1] <= fences[0] {
			t.Errorf("under the numbers %v; told to end: %t", fences, ended)
		}
	})
}

func TestATriggerGoesOnAfterReadingFailed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, seen := newFake(), &recorder{}
		log.failing = errors.New("out of order")
		trigger := items.Trigger{Name: "t", Stream: "chat", Handle: seen.handle}
		stop := run(t, log, trigger)
		time.Sleep(time.Minute) //nolint:forbidigo // fake time
		log.mu.Lock()
		log.failing = nil
		log.mu.Unlock()
		time.Sleep(time.Minute) //nolint:forbidigo // fake time
		put(t, log, "room", "a", `1`)
		synctest.Wait()
		seen.want(t, `create room/a 1`)
		stop()
	})
}
