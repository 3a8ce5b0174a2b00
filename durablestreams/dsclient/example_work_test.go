package dsclient_test

import (
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"sync"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/durablestreams"
	"github.com/runnelhq/runnel/durablestreams/dsclient"
	"github.com/runnelhq/runnel/engine"
	"github.com/runnelhq/runnel/storage/memory"
)

// pullWakes serves subscriptions by pull-wake. Its tokens are the ids of wakes; those of a server are signed.
type pullWakes struct {
	*engine.Engine
	mu    sync.Mutex
	wakes map[string]runnel.WakeRef
}

func (p *pullWakes) ClaimToken(_ context.Context, ref runnel.WakeRef) (string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wakes[ref.WakeID] = ref
	return ref.WakeID, nil
}

func (p *pullWakes) VerifyToken(_ context.Context, _ bool, token string) (runnel.WakeRef, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	ref, ok := p.wakes[token]
	if !ok {
		return ref, runnel.ErrUnauthorized
	}
	return ref, nil
}

var errNoWebhooks = errors.New("there are no webhooks here")

func (p *pullWakes) CheckWebhook(string) (string, error) { return "", errNoWebhooks }

func (p *pullWakes) KeySet(context.Context, runnel.Store) ([]byte, error) { return nil, errNoWebhooks }

func (p *pullWakes) SigningKey(context.Context, runnel.Store) (string, error) {
	return "", errNoWebhooks
}

// A worker works on what is appended to the streams of a subscription, and says how far it has come. However many
// there are, and whichever of them die, each wake is in the hands of one of them at a time.
func ExampleClient_Work() {
	log, err := engine.Open(new(memory.Driver), engine.Config{})
	if err != nil {
		panic(err)
	}
	defer log.Close()
	streams := durablestreams.New(log, durablestreams.Config{Subscriptions: &pullWakes{Engine: log, wakes: make(map[string]runnel.WakeRef)}})
	defer streams.Close()
	server := httptest.NewServer(streams)
	defer server.Close()

	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	c := &dsclient.Client{Base: server.URL + "/v1/stream"}
	if _, err := c.Create(ctx, "wakes", dsclient.CreateOptions{ContentType: "application/json"}); err != nil {
		panic(err)
	}
	// As "runnel sub create jobs --pattern 'jobs/*' --wake-stream wakes" does.
	if _, _, err := c.CreateSubscription(ctx, "jobs", dsclient.SubscriptionOptions{Type: runnel.PullWake, Pattern: "jobs/*", WakeStream: "wakes"}); err != nil {
		panic(err)
	}
	if _, err := c.Create(ctx, "jobs/1", dsclient.CreateOptions{ContentType: "text/plain"}); err != nil {
		panic(err)
	}
	if _, err := c.Append(ctx, "jobs/1", []byte("resize"), dsclient.AppendOptions{ContentType: "text/plain"}); err != nil {
		panic(err)
	}

	// Work goes on until ctx ends, and then gives the worker the time it needs.
	err = c.Work(ctx, "jobs", dsclient.WorkOptions{Worker: "w1"}, func(_ context.Context, w *dsclient.Claim) error {
		for _, s := range w.Streams {
			fmt.Println(s.Path, "has work:", s.Acked < s.Tail)
			w.Progress(s.Path, s.Tail)
		}
		stop()
		return nil
	})
	fmt.Println(errors.Is(err, context.Canceled))
	at, err := log.Cursor(context.Background(), runnel.CursorName{Space: runnel.Space{Name: "jobs"}, Segment: "1", Name: runnel.SubscriptionCursor("jobs")})
	fmt.Println("worked on", at.Place, "of", at.End, err)
	// Output:
	// jobs/1 has work: true
	// true
	// worked on 1 of 1 <nil>
}
