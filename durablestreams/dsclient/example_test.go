package dsclient_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http/httptest"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/durablestreams"
	"github.com/runnelhq/runnel/durablestreams/dsclient"
	"github.com/runnelhq/runnel/engine"
	"github.com/runnelhq/runnel/storage/memory"
)

// serve starts a server for an example. A program would give the URL of a server that runs somewhere.
func serve() (base string, stop func()) {
	e, err := engine.Open(new(memory.Driver), engine.Config{})
	if err != nil {
		panic(err)
	}
	streams := durablestreams.New(e, durablestreams.Config{})
	server := httptest.NewServer(streams)
	return server.URL + "/v1/stream", func() {
		err := streams.Shutdown(context.Background())
		server.Close()
		if err := errors.Join(err, e.Close()); err != nil {
			panic(err)
		}
	}
}

func Example() {
	base, stop := serve()
	defer stop()
	ctx := context.Background()
	c := &dsclient.Client{Base: base}

	if _, err := c.Create(ctx, "notes/today", dsclient.CreateOptions{ContentType: "text/plain"}); err != nil {
		panic(err)
	}
	for _, line := range []string{"buy milk\n", "call home\n"} {
		if _, err := c.Append(ctx, "notes/today", []byte(line), dsclient.AppendOptions{ContentType: "text/plain"}); err != nil {
			panic(err)
		}
	}
	r, err := c.Read(ctx, "notes/today", dsclient.Start)
	if err != nil {
		panic(err)
	}
	defer r.Close()
	data, err := io.ReadAll(r)
	fmt.Printf("%s%v\n", data, err)
	// Output:
	// buy milk
	// call home
	// <nil>
}

// A tail yields what is there and what comes, until the stream is closed.
func ExampleClient_Tail() {
	base, stop := serve()
	defer stop()
	ctx := context.Background()
	c := &dsclient.Client{Base: base}
	const stream, jsonType = "answers/42", "application/json"
	if _, err := c.Create(ctx, stream, dsclient.CreateOptions{ContentType: jsonType}); err != nil {
		panic(err)
	}

	written := make(chan error, 1)
	go func() {
		w := c.NewWriter(ctx, stream, dsclient.WriterOptions{ContentType: jsonType, CloseStream: true})
		encoder := json.NewEncoder(w) // every value is one message
		for _, word := range []string{"so", "it", "goes"} {
			if err := encoder.Encode(map[string]string{"word": word}); err != nil {
				written <- err
				return
			}
		}
		written <- w.Close()
	}()

	for batch, err := range c.Tail(ctx, stream, dsclient.Start, dsclient.TailOptions{}) {
		if err != nil {
			panic(err)
		}
		for message, err := range batch.Messages() {
			if err != nil {
				panic(err)
			}
			fmt.Println(string(message))
		}
	}
	fmt.Println(<-written)
	// Output:
	// {"word":"so"}
	// {"word":"it"}
	// {"word":"goes"}
	// <nil>
}

// A writer that is given the same name and the same data again adds only what is missing, so a program
// that was interrupted can start over.
func ExampleClient_NewWriter() {
	base, stop := serve()
	defer stop()
	ctx := context.Background()
	c := &dsclient.Client{Base: base}
	if _, err := c.Create(ctx, "import", dsclient.CreateOptions{}); err != nil {
		panic(err)
	}
	for range 2 {
		w := c.NewWriter(ctx, "import", dsclient.WriterOptions{Producer: "import-2026-01-31", Linger: -1})
		if _, err := io.WriteString(w, "a long file"); err != nil {
			panic(err)
		}
		if err := w.Close(); err != nil {
			panic(err)
		}
		acked := w.Acked()
		fmt.Println(acked.Bytes, "bytes,", acked.Duplicates, "of", acked.Batches, "batches were there")
	}
	r, err := c.Read(ctx, "import", dsclient.Start)
	if err != nil {
		panic(err)
	}
	defer r.Close()
	data, err := io.ReadAll(r)
	fmt.Println(string(data), err)
	// Output:
	// 11 bytes, 0 of 1 batches were there
	// 11 bytes, 1 of 1 batches were there
	// a long file <nil>
}

func ExampleError() {
	base, stop := serve()
	defer stop()
	c := &dsclient.Client{Base: base}
	_, err := c.Read(context.Background(), "missing", dsclient.Start)
	fmt.Println(errors.Is(err, runnel.ErrNotFound))
	if refused := (*dsclient.Error)(nil); errors.As(err, &refused) {
		fmt.Println(refused.Status, refused.Detail.Code, refused.Detail.Message)
	}
	// Output:
	// true
	// 404 not_found there is no such stream
}

// An append can insist on the place that the writer has read up to.
func ExampleClient_Append_expect() {
	base, stop := serve()
	defer stop()
	ctx := context.Background()
	c := &dsclient.Client{Base: base}
	created, err := c.Create(ctx, "ledger", dsclient.CreateOptions{})
	if err != nil {
		panic(err)
	}
	for range 2 {
		_, err := c.Append(ctx, "ledger", []byte("opened"), dsclient.AppendOptions{Expect: created.Offset})
		fmt.Println(errors.Is(err, runnel.ErrTailMoved))
	}
	// Output:
	// false
	// true
}

func ExampleClient_List() {
	base, stop := serve()
	defer stop()
	ctx := context.Background()
	c := &dsclient.Client{Base: base}
	for _, name := range []string{"orders/1", "orders/2", "users/1"} {
		if _, err := c.Create(ctx, name, dsclient.CreateOptions{ContentType: "text/plain"}); err != nil {
			panic(err)
		}
	}
	for s, err := range c.List(ctx, "orders/") {
		fmt.Println(s.Stream, s.ContentType, err)
	}
	// Output:
	// orders/1 text/plain <nil>
	// orders/2 text/plain <nil>
}
