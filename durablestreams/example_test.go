package durablestreams_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/durablestreams"
	"github.com/runnelhq/runnel/engine"
	"github.com/runnelhq/runnel/storage/pebblestore"
)

// A program mounts the protocol on its own mux, and works on the same streams by itself.
func Example() {
	dir, err := os.MkdirTemp("", "runnel-example-")
	if err != nil {
		panic(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	driver, err := pebblestore.Open(dir, pebblestore.Config{})
	if err != nil {
		panic(err)
	}
	defer driver.Close()
	events, err := engine.Open(driver, engine.Config{})
	if err != nil {
		panic(err)
	}
	defer events.Close()
	streams := durablestreams.New(events, durablestreams.Config{})
	defer streams.Close()
	mux := http.NewServeMux()
	mux.Handle("/v1/stream/", streams)
	server := httptest.NewServer(mux)
	defer server.Close()

	// A client somewhere creates a stream with two messages, and closes it.
	url := server.URL + "/v1/stream/chats/42"
	req, err := http.NewRequest(http.MethodPut, url, strings.NewReader(`[{"token":"Hel"},{"token":"lo"}]`))
	if err != nil {
		panic(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Stream-Closed", "true")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		panic(err)
	}
	defer res.Body.Close()

	// The program follows it to its end.
	segment := runnel.Segment{Space: "chats", Name: "42"}
	for batch, err := range events.Tail(context.Background(), segment, 0, 0) {
		if err != nil {
			panic(err)
		}
		for i := range batch.Len() {
			entry := batch.Entry(i)
			fmt.Println(entry.Sequence, string(entry.Payload))
		}
	}
	// Output:
	// 1 {"token":"Hel"}
	// 2 {"token":"lo"}
}
