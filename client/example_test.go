package client_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/client"
	"github.com/runnelhq/runnel/engine"
	"github.com/runnelhq/runnel/storage/memory"
)

// newExample returns a client of a log in memory. With client.Dial instead of client.New the examples are
// the same.
func newExample() (c *client.Client, end func()) {
	e, err := engine.Open(new(memory.Driver), engine.Config{})
	if err != nil {
		log.Fatal(err)
	}
	return client.New(e), func() { _ = e.Close() }
}

func text(s string) runnel.Record { return runnel.Record{Payload: []byte(s)} }

var (
	ctx   = context.Background()
	shop  = runnel.Space{Name: "shop"}
	order = shop.Segment("order-42")
)

func ExampleClient_Publish() {
	c, end := newExample()
	defer end()
	a, err := c.Publish(ctx, order, text("placed"), text("paid"))
	fmt.Println(a.First, a.Tail, err)
	// Output: 1 2 <nil>
}

func ExampleClient_Produce() {
	c, end := newExample()
	defer end()
	_, err := c.Produce(ctx, order, client.Production{Expect: client.None()}, text("placed"))
	fmt.Println(err)
	// Whoever has seen an older state is told where the tail is, and nothing is written.
	_, err = c.Produce(ctx, order, client.Production{Expect: client.At(0)}, text("cancelled"))
	moved, ok := errors.AsType[*runnel.TailMovedError](err)
	fmt.Println(ok, moved.Tail)
	// Output:
	// <nil>
	// true 1
}

func ExampleClient_Produce_idempotent() {
	c, end := newExample()
	defer end()
	for range 2 {
		a, err := c.Produce(ctx, order, client.Production{Key: "event-7"}, text("paid"))
		fmt.Println(a.First, a.Duplicate, err)
	}
	// Output:
	// 1 false <nil>
	// 1 true <nil>
}

func ExampleClient_Transact() {
	c, end := newExample()
	defer end()
	_, err := c.Transact(ctx, shop, runnel.Transaction{Writes: []runnel.Write{
		{Segment: "order-42", Options: client.Production{}.Options(), Records: []runnel.Record{text("paid")}},
		{Segment: "ledger", Options: client.Production{}.Options(), Records: []runnel.Record{text("+100")}},
	}})
	fmt.Println(err)
	for e, err := range c.Consume(ctx, client.Space(shop, 0)) {
		fmt.Println(e.Segment, string(e.Payload), err)
	}
	// Output:
	// <nil>
	// shop/order-42 paid <nil>
	// shop/ledger +100 <nil>
}

func ExampleClient_Consume() {
	c, end := newExample()
	defer end()
	_, _ = c.Publish(ctx, order, text("placed"), text("paid"), text("sent"))
	last := client.Segment(order, 0)
	last.Last = 2
	for e, err := range c.Consume(ctx, last) {
		fmt.Println(e.Sequence, string(e.Payload), err)
	}
	// Output:
	// 2 paid <nil>
	// 3 sent <nil>
}

func ExampleClient_Tail() {
	c, end := newExample()
	defer end()
	_, _ = c.Publish(ctx, order, text("placed"))
	go func() { _, _ = c.Publish(ctx, order, text("paid")) }()
	for e, err := range c.Tail(ctx, client.Space(shop, 0)) {
		fmt.Println(string(e.Payload), err)
		if e.Sequence == 2 {
			break
		}
	}
	// Output:
	// placed <nil>
	// paid <nil>
}

func ExampleClient_Tail_filtered() {
	c, end := newExample()
	defer end()
	_, _ = c.Publish(ctx, order,
		runnel.Record{Payload: []byte("42 placed"), Metadata: map[string]string{"type": "placed"}},
		runnel.Record{Payload: []byte("42 paid"), Metadata: map[string]string{"type": "paid"}})
	paid := client.Space(shop, 0)
	paid.Filter = runnel.Filter{SegmentPrefix: "order-", Metadata: map[string]string{"type": "paid"}}
	for e, err := range c.Tail(ctx, paid) {
		fmt.Println(string(e.Payload), err)
		break
	}
	// Output: 42 paid <nil>
}

func ExampleClient_Producer() {
	c, end := newExample()
	defer end()
	p := c.Producer(order, client.ProducerConfig{})
	for i := range 1000 {
		if _, err := p.Send(ctx, text(fmt.Sprint(i))); err != nil { // does not wait for the disk
			log.Fatal(err)
		}
	}
	fmt.Println(p.Close(ctx)) // does
	last, err := c.Peek(ctx, order)
	fmt.Println(last.Sequence, err)
	// Output:
	// <nil>
	// 1000 <nil>
}

func ExampleClient_Reader() {
	c, end := newExample()
	defer end()
	_, _ = c.Publish(ctx, order, text("placed"), text("paid"))
	billing := c.Reader(runnel.CursorName{Space: shop, Segment: "order-42", Name: "billing"})
	for e, err := range billing.Tail(ctx, runnel.Query{}) { // begins where any process has left off
		fmt.Println(string(e.Payload), err)
		if err := billing.Commit(ctx, e); err != nil {
			log.Fatal(err)
		}
		break
	}
	at, err := billing.Cursor(ctx)
	fmt.Println(at.Place, at.Lag(), err)
	// Output:
	// placed <nil>
	// 1 1 <nil>
}

func ExampleReader_Move() {
	c, end := newExample()
	defer end()
	_, _ = c.Publish(ctx, order, text("paid"))
	billing := c.Reader(runnel.CursorName{Space: shop, Name: "billing"})
	for e, err := range billing.Consume(ctx, runnel.Query{}) {
		if err != nil {
			log.Fatal(err)
		}
		// The invoice is written and the entry is done with, or neither.
		_, err = c.Transact(ctx, shop, runnel.Transaction{
			Writes:  []runnel.Write{{Segment: "invoices", Options: client.Production{}.Options(), Records: []runnel.Record{text("42")}}},
			Cursors: []runnel.CursorMove{billing.Move(e)},
		})
		fmt.Println(err)
	}
	// Output: <nil>
}

func ExampleClient_WithLease() {
	c, end := newExample()
	defer end()
	err := c.WithLease(ctx, shop, runnel.LeaseRequest{Key: "leader", TTL: 10 * time.Second, Wait: true}, func(ctx context.Context, l runnel.Lease) error {
		// ctx ends when the lease does. A write that must not be late demands the lease.
		_, err := c.Transact(ctx, shop, runnel.Transaction{
			Fences: []runnel.Fence{l.Fence()},
			Writes: []runnel.Write{{Segment: "ledger", Options: client.Production{}.Options(), Records: []runnel.Record{text("closed")}}},
		})
		return err
	})
	fmt.Println(err)
	// Output: <nil>
}

func ExampleClient_Workers() {
	c, end := newExample()
	defer end()
	me, err := c.Join(ctx, shop, client.Worker{ID: "worker-1", Metadata: map[string]string{"zone": "a"}})
	if err != nil {
		log.Fatal(err)
	}
	for e, err := range c.Workers(ctx, shop) {
		switch {
		case err != nil:
			log.Fatal(err)
		case e.Complete:
			fmt.Println("that is all", me.Leave())
		case e.Left:
			fmt.Println(e.Worker.ID, "left")
			return
		default:
			fmt.Println(e.Worker.ID, "is there in zone", e.Worker.Metadata["zone"])
		}
	}
	// Output:
	// worker-1 is there in zone a
	// that is all <nil>
	// worker-1 left
}

func ExampleClient_WatchSpace() {
	c, end := newExample()
	defer end()
	_, _ = c.Publish(ctx, order, text("placed"))
	for s, err := range c.WatchSpace(ctx, shop) {
		if err != nil || s.Mark {
			break // everything that is there has been told; what follows is live
		}
		fmt.Println(s.Info.Segment, s.Info.Tail)
	}
	// Output: shop/order-42 1
}

func ExampleClient_ItemsIn() {
	c, end := newExample()
	defer end()
	type message struct {
		Text string `json:"text"`
	}
	chat := c.ItemsIn(runnel.Space{Name: "chat"})
	_, _ = chat.Set(ctx, "room-1", "m1", message{"hello"})
	item, err := chat.Get(ctx, "room-1", "m1")
	m, _ := client.Value[message](item)
	fmt.Println(m.Text, item.Version, err)
	list, err := chat.List(ctx, "room-1", client.ItemList{})
	fmt.Println(len(list.Items), err)
	// Output:
	// hello 1 <nil>
	// 1 <nil>
}

func ExampleItems_With() {
	c, end := newExample()
	defer end()
	board := c.ItemsIn(runnel.Space{Name: "board"})
	_, _ = board.Set(ctx, "game", "turn", "white")
	_, _ = board.Set(ctx, "game", "turn", "black")
	// Whoever has seen an older version is told which one there is, and changes nothing.
	_, err := board.With(client.ItemOptions{Expect: client.At(1)}).Set(ctx, "game", "turn", "white")
	moved, ok := errors.AsType[*runnel.ItemMovedError](err)
	fmt.Println(ok, moved.Have)
	// Output: true 2
}

func ExampleItems_Update() {
	c, end := newExample()
	defer end()
	votes := c.ItemsIn(runnel.Space{Name: "votes"})
	for range 3 {
		_, _ = votes.Update(ctx, "election", "result", client.Increment(1, "yes"), client.Push("ann", "voters"))
	}
	item, err := votes.Get(ctx, "election", "result")
	fmt.Println(string(item.Value), err)
	// Output: {"yes":3,"voters":"annannann"} <nil>
}

func ExampleItems_Write() {
	c, end := newExample()
	defer end()
	tasks := c.ItemsIn(runnel.Space{Name: "tasks"})
	_, _ = tasks.Set(ctx, "sprint", "todo/7", "write tests")
	// The task moves, or nothing happens.
	written, err := tasks.With(client.ItemOptions{Key: "move-7"}).Write(ctx, "sprint",
		runnel.ItemWrite{ItemKey: runnel.ItemKey{Key: "todo/7"}, IfExists: true},
		runnel.ItemWrite{ItemKey: runnel.ItemKey{Key: "done/7"}, Value: []byte(`"write tests"`)})
	fmt.Println(written.Results[0].New == nil, string(written.Results[1].New.Value), err)
	// Output: true "write tests" <nil>
}

func ExampleItems_Watch() {
	c, end := newExample()
	defer end()
	chat := c.ItemsIn(runnel.Space{Name: "chat"})
	_, _ = chat.Set(ctx, "room-1", "m1", "hello")
	for n, err := range chat.Watch(ctx, client.Watch{Group: "room-1"}) {
		switch {
		case err != nil:
			log.Fatal(err)
		case n.Snapshot:
			fmt.Println("there is", len(n.Items))
			go func() {
				_, _ = chat.Set(ctx, "room-1", "m2", "good morning")
				_ = chat.Send(ctx, "room-1", "typing", "ann")
			}()
		case n.Event != nil:
			fmt.Println(n.Event.Type, string(n.Event.Data))
			return
		}
		for _, change := range n.Changes {
			fmt.Println(change.Op, change.Key, string(change.Value))
		}
	}
	// Output:
	// there is 1
	// create m2 "good morning"
	// typing "ann"
}
