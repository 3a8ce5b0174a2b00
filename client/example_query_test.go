package client_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/client"
	"github.com/runnelhq/runnel/engine"
	"github.com/runnelhq/runnel/session"
	"github.com/runnelhq/runnel/storage/memory"
)

func ExampleDial() {
	// A server: any http.ServeMux mounts a session, and "runnel serve" does.
	e, err := engine.Open(new(memory.Driver), engine.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer e.Close()
	sessions := session.NewHandler(e, session.Config{})
	mux := http.NewServeMux()
	mux.Handle(session.Path, sessions)
	server := httptest.NewServer(mux)
	defer server.Close()
	defer func() { _ = sessions.Shutdown(ctx) }()

	// A client, which is the same as one in the process of the log.
	c, err := client.Dial(ctx, server.URL, client.Config{
		Token: func(context.Context) (string, error) { return "", nil }, // asked for at each connection
	})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	a, err := c.Publish(ctx, order, text("placed"))
	fmt.Println(a.Tail, err)
	// Output: 1 <nil>
}

func ExampleClient_ProduceAt() {
	c, end := newExample()
	defer end()
	for _, first := range []runnel.Sequence{1, 2, 2} {
		_, err := c.ProduceAt(ctx, order, first, text("x"))
		fmt.Println(errors.Is(err, runnel.ErrTailMoved), err)
	}
	// Output:
	// false <nil>
	// false <nil>
	// true runnel: the tail of segment "shop/order-42" is 2, not 1
}

func ExampleClient_Consume_between() {
	c, end := newExample()
	defer end()
	_, _ = c.Publish(ctx, order, text("placed"), text("paid"), text("sent"))
	q := client.Space(shop, 0)
	q.Since, q.Until = time.Now().Add(-time.Hour), time.Now().Add(time.Hour) // the end is not meant
	q.Limit = 2
	for e, err := range c.Consume(ctx, q) {
		fmt.Println(string(e.Payload), err)
	}
	// Output:
	// placed <nil>
	// paid <nil>
}

func ExampleClient_Consume_backwards() {
	c, end := newExample()
	defer end()
	_, _ = c.Publish(ctx, order, text("placed"), text("paid"), text("sent"))
	q := client.Segment(order, 0)
	q.Backwards = true
	for e, err := range c.Consume(ctx, q) {
		fmt.Println(e.Sequence, string(e.Payload), err)
		if e.Sequence == 2 {
			break
		}
	}
	// Output:
	// 3 sent <nil>
	// 2 paid <nil>
}

func ExampleClient_Consume_spaces() {
	c, end := newExample()
	defer end()
	stock := runnel.Space{Name: "stock"}
	_, _ = c.Publish(ctx, order, text("placed"))
	_, _ = c.Publish(ctx, stock.Segment("nails"), text("-1"))
	_, _ = c.Publish(ctx, order, text("sent"))
	n := 0
	for _, err := range c.Consume(ctx, client.Spaces(shop, stock)) { // merged by time
		if err != nil {
			log.Fatal(err)
		}
		n++
	}
	fmt.Println(n)
	// Output: 3
}

func ExampleClient_Segments() {
	c, end := newExample()
	defer end()
	for _, name := range []string{"order-1", "order-2", "ledger"} {
		_, _ = c.Publish(ctx, shop.Segment(name), text("x"))
	}
	for info, err := range c.Segments(ctx, shop, "order-", "") {
		fmt.Println(info.Segment, info.Tail, err)
	}
	// Output:
	// shop/order-1 1 <nil>
	// shop/order-2 1 <nil>
}

func ExampleClient_WatchSegment() {
	c, end := newExample()
	defer end()
	_, _ = c.Publish(ctx, order, text("placed"))
	for s, err := range c.WatchSegment(ctx, order) {
		switch {
		case err != nil:
			log.Fatal(err)
		case s.Mark: // that is how it is; from here on each change
			_, _ = c.Publish(ctx, order, text("paid"))
		default:
			fmt.Println(s.Info.Tail, s.Live)
		}
		if s.Info.Tail == 2 {
			break
		}
	}
	// Output:
	// 1 false
	// 2 true
}

func ExampleClient_AcquireLease() {
	c, end := newExample()
	defer end()
	lease, err := c.AcquireLease(ctx, shop, runnel.LeaseRequest{Key: "leader", Holder: "a", TTL: time.Minute})
	fmt.Println(lease.Number, err)
	_, err = c.AcquireLease(ctx, shop, runnel.LeaseRequest{Key: "leader", Holder: "b", TTL: time.Minute})
	held, _ := errors.AsType[*runnel.LeaseHeldError](err)
	fmt.Println("held by", held.Lease.Holder)
	fmt.Println(c.ReleaseLease(ctx, shop, lease.Fence()))
	// Output:
	// 1 <nil>
	// held by a
	// <nil>
}
