// Command embed keeps a log in the directory "data", appends to it, and follows it.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/engine"
	"github.com/runnelhq/runnel/storage/pebblestore"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	driver := must(pebblestore.Open("data", pebblestore.Config{}))
	defer driver.Close()
	log := must(engine.Open(driver, engine.Config{}))
	defer log.Close()

	orders := runnel.Segment{Space: "shop", Name: "orders"}
	create := runnel.AppendOptions{Create: &runnel.CreateOptions{}}
	at := must(log.Append(ctx, orders, create, runnel.Record{Payload: []byte("placed")}))
	fmt.Println("on disk at", at.Tail)
	for batch, err := range log.Tail(ctx, orders, 0, 0) { // what there is, then what comes
		for i := 0; ctx.Err() == nil && i < must(batch, err).Len(); i++ {
			fmt.Println(batch.Entry(i).Sequence, string(batch.Payload(i)))
		}
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
