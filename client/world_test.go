package client_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/client"
	"github.com/runnelhq/runnel/engine"
	"github.com/runnelhq/runnel/session"
	"github.com/runnelhq/runnel/storage"
	"github.com/runnelhq/runnel/storage/faulty"
	"github.com/runnelhq/runnel/storage/memory"
	"github.com/runnelhq/runnel/storage/pebblestore"
)

// The tests whose names begin with Test and a sentence are the contract of the log as a Go service sees it.
// Each runs in process and over a WebSocket, on every driver; where processes share the driver, each client
// talks to another one of two.

// world is a log on one of the drivers, behind one of the transports.
type world struct {
	*client.Client // the first one; others come from another
	t              *testing.T
	remote         bool
	drivers        []*faulty.Driver // what each process uses
	logs           []runnel.Log
	urls           []string
	next           atomic.Int64
	ended          chan struct{} // has one when a server has seen the end of a session
}

// everywhere runs a scenario on each transport and each driver.
func everywhere(t *testing.T, scenario func(t *testing.T, w *world)) {
	t.Helper()
	everywhereWith(t, engine.Config{}, scenario)
}

func everywhereWith(t *testing.T, cfg engine.Config, scenario func(t *testing.T, w *world)) {
	t.Helper()
	drivers := map[string]func(t *testing.T) (d storage.Driver, engines int){
		"memory":        func(*testing.T) (storage.Driver, int) { return new(memory.Driver), 1 },
		"memory shared": func(*testing.T) (storage.Driver, int) { return &memory.Driver{Shared: true}, 2 },
		"pebble": func(t *testing.T) (storage.Driver, int) {
			d, err := pebblestore.Open(t.TempDir(), pebblestore.Config{})
			must(t, err)
			t.Cleanup(func() { must(t, d.Close()) })
			return d, 1
		},
	}
	for _, transport := range []string{"in process", "websocket"} {
		for driver, open := range drivers {
			t.Run(transport+", "+driver, func(t *testing.T) {
				t.Parallel()
				w := &world{t: t, remote: transport == "websocket", ended: make(chan struct{}, 1)}
				d, engines := open(t)
				for range engines {
					w.open(d, cfg)
				}
				w.Client = w.another()
				scenario(t, w)
			})
		}
	}
}

// open begins one more process that uses a driver.
func (w *world) open(d storage.Driver, cfg engine.Config) {
	w.t.Helper()
	faults := faulty.New(d)
	w.drivers = append(w.drivers, faults)
	e, err := engine.Open(faults, cfg)
	must(w.t, err)
	w.t.Cleanup(func() { must(w.t, e.Close()) })
	w.logs = append(w.logs, e)
	if !w.remote {
		return
	}
	h := session.NewHandler(e, session.Config{})
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		h.ServeHTTP(rw, r)
		select {
		case w.ended <- struct{}{}:
		default:
		}
	}))
	w.t.Cleanup(server.Close)
	w.t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_ = h.Shutdown(ctx)
	})
	w.urls = append(w.urls, server.URL)
}

// another returns one more client, of the next process.
func (w *world) another() *client.Client {
	w.t.Helper()
	i := int(w.next.Add(1)-1) % len(w.logs)
	if !w.remote {
		return client.New(w.logs[i])
	}
	c, err := client.Dial(w.t.Context(), w.urls[i], client.Config{})
	must(w.t, err)
	w.t.Cleanup(func() { _ = c.Close() })
	return c
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// records makes records of texts.
func records(texts ...string) []runnel.Record {
	r := make([]runnel.Record, len(texts))
	for i, text := range texts {
		r[i].Payload = []byte(text)
	}
	return r
}

// numbered makes so many records with the numbers from one on.
func numbered(first, n int) []runnel.Record {
	r := make([]runnel.Record, n)
	for i := range r {
		r[i].Payload = fmt.Appendf(nil, "%d", first+i)
	}
	return r
}

// texts are the payloads of what a query selects.
func (w *world) texts(q runnel.Query) []string {
	w.t.Helper()
	return texts(w.t, w.Client, q)
}

func texts(t testing.TB, c *client.Client, q runnel.Query) []string {
	t.Helper()
	var all []string
	for e, err := range c.Consume(t.Context(), q) {
		must(t, err)
		all = append(all, string(e.Payload))
	}
	return all
}

func want(t testing.TB, got, want any) {
	t.Helper()
	if g, w := fmt.Sprintf("%v", got), fmt.Sprintf("%v", want); g != w {
		t.Fatalf("got  %.2000s\nwant %.2000s", g, w)
	}
}
