package webhook_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/durablestreams"
	"github.com/runnelhq/runnel/durablestreams/dsclient"
	"github.com/runnelhq/runnel/engine"
	"github.com/runnelhq/runnel/storage/memory"
	"github.com/runnelhq/runnel/webhook"
)

// A program that embeds the log serves subscriptions, and sends their webhooks, by itself.
func ExampleSubscriptions() {
	eng, _ := engine.Open(new(memory.Driver), engine.Config{})
	defer eng.Close()
	subscriptions, _ := webhook.NewSubscriptions(eng, webhook.SubscriptionsConfig{
		Policy: webhook.PolicyConfig{Development: true}, // the receiver below is on this machine
	})
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		subscriptions.Run(ctx)
	}()
	streams := durablestreams.New(eng, durablestreams.Config{Subscriptions: subscriptions})
	server := httptest.NewServer(streams)

	told := make(chan string)
	verifier := webhook.NewVerifier(server.URL+"/v1/stream/__ds/jwks.json", webhook.VerifierConfig{})
	receiver := httptest.NewServer(webhook.NewHandler(verifier, func(_ context.Context, n *webhook.Notification) (bool, error) {
		told <- fmt.Sprint(n.Subscription, " is told of ", n.Streams[0].Path)
		return true, nil
	}))

	client := &dsclient.Client{Base: server.URL + "/v1/stream", HTTP: http.DefaultClient}
	_, _, err := client.CreateSubscription(ctx, "mail", dsclient.SubscriptionOptions{
		Type: runnel.Webhook, Pattern: "orders/*", WebhookURL: receiver.URL,
	})
	fmt.Println(err)
	_, _ = eng.Append(ctx, runnel.Segment{Space: "orders", Name: "42"}, runnel.AppendOptions{Create: &runnel.CreateOptions{}},
		runnel.Record{Payload: []byte("paid")})
	fmt.Println(<-told)

	stop()
	<-ended // before the log is closed
	receiver.Close()
	server.Close()
	_ = streams.Close()
	// Output:
	// <nil>
	// mail is told of orders/42
}
