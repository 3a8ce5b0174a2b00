package items_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/items"
)

// run starts a trigger, and returns what ends it as a crash of its process does: without being asked.
func run(t *testing.T, log *fakeLog, trigger items.Trigger) (stop func()) {
	t.Helper()
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

func TestATriggerIsToldOfChangesThatMatch(t *testing.T) {
	condition := func(expression string) func(*items.TriggerEvent) (bool, error) {
		when, err := items.Condition(expression)
		if err != nil {
			t.Fatal(err)
		}
		return when
	}
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
		"a condition":  {items.Trigger{When: condition(`event != "delete" && value.n > 1`)}, []string{`update room/a1 {"n":2}`}},
		"of the names": {items.Trigger{When: condition(`stream == "chat" && group.startsWith("att") && item == "a1"`)}, []string{`create attic/a1 4`}},
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
