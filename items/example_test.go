package items_test

import (
	"context"
	"fmt"
	"sync"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/engine"
	"github.com/runnelhq/runnel/items"
	"github.com/runnelhq/runnel/storage/memory"
)

// A trigger calls a function after each change that matches, and goes on there after a crash.
func ExampleTrigger() {
	log, err := engine.Open(new(memory.Driver), engine.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer log.Close()
	failed, err := items.Condition(`value.status == "failed"`)
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	trigger := items.Trigger{
		Name: "failed-jobs", Stream: "jobs", When: failed,
		Handle: func(_ context.Context, e *items.TriggerEvent) error {
			fmt.Println(e.Kind, e.Group, e.Item, string(e.Value))
			cancel()
			return nil
		},
	}
	if err := trigger.Begin(ctx, log); err != nil { // so that it is called after what follows
		fmt.Println(err)
	}
	write := func(job, value string) {
		w := runnel.ItemWrites{Segment: "eu", Writes: []runnel.ItemWrite{{ItemKey: runnel.ItemKey{Key: job}, Value: []byte(value)}}}
		if _, err := log.WriteItems(ctx, runnel.Space{Name: "jobs"}, w); err != nil {
			fmt.Println(err)
		}
	}
	write("7", `{"status":"done"}`)
	write("8", `{"status":"failed"}`)
	fmt.Println(trigger.Run(ctx, log))
	// Output:
	// create eu 8 {"status":"failed"}
	// context canceled
}

// A hook is asked about joins, and told of their leaves, each at least once.
func ExampleHooks() {
	log, err := engine.Open(new(memory.Driver), engine.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer log.Close()
	left := make(chan string)
	hooks, err := items.NewHooks(log, []items.Hook{{
		Name: "door", Stream: "chat",
		Join: func(_ context.Context, s items.Subscription) error {
			if s.Group == "attic" {
				return items.ErrRefused
			}
			return nil
		},
		Leave: func(_ context.Context, l *items.Left) error {
			left <- l.ID
			return nil
		},
	}}, items.HooksConfig{})
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = hooks.Run(ctx) }) // it ends with ctx
	defer running.Wait()
	defer cancel()

	// These are for items.Config, and called by its handler.
	ann := items.Subscription{ID: "ann", Stream: "chat", Group: "room"}
	fmt.Println("room:", hooks.Join(ctx, ann))
	fmt.Println("attic:", hooks.Join(ctx, items.Subscription{ID: "bob", Stream: "chat", Group: "attic"}))
	hooks.Leave(ctx, ann)
	fmt.Println("left:", <-left)
	// Output:
	// room: <nil>
	// attic: items: the subscription was refused
	// left: ann
}
