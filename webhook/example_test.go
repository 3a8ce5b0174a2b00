package webhook_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/webhook"
)

// inMemory is a vault for examples. A server keeps its keys with its data.
type inMemory struct {
	data    []byte
	version uint64
}

func (m *inMemory) LoadKeys(context.Context, runnel.Store) ([]byte, uint64, error) {
	return m.data, m.version, nil
}

func (m *inMemory) StoreKeys(_ context.Context, _ runnel.Store, data []byte, version uint64) error {
	if version != m.version {
		return webhook.ErrMoved
	}
	m.data, m.version = data, version+1
	return nil
}

// A receiver believes what is signed with a key that the server publishes.
func ExampleVerifier_Verify() {
	ctx := context.Background()
	keys := webhook.NewKeys(new(inMemory), webhook.KeysConfig{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		document, _ := keys.JWKS(r.Context(), runnel.Store{})
		w.Header().Set("Content-Type", "application/jwk-set+json")
		_, _ = w.Write(document)
	}))
	defer server.Close()

	verifier := webhook.NewVerifier(server.URL, webhook.VerifierConfig{})
	body := []byte(`{"subscription_id":"sub-1"}`)
	header, _ := keys.Sign(ctx, runnel.Store{}, body, time.Now())
	fmt.Println(verifier.Verify(ctx, header, body))
	fmt.Println(verifier.Verify(ctx, header, []byte(`{"subscription_id":"sub-2"}`)) != nil)
	// Output:
	// <nil>
	// true
}

// A receiver that does its work while the server waits for the answer. Work that takes longer answers false
// and calls [webhook.Notification.Ack] from where it goes on.
func ExampleNewHandler() {
	keys := webhook.NewKeys(new(inMemory), webhook.KeysConfig{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		document, _ := keys.JWKS(r.Context(), runnel.Store{})
		_, _ = w.Write(document)
	}))
	defer server.Close()

	verifier := webhook.NewVerifier(server.URL, webhook.VerifierConfig{Subscriptions: []string{"sub-1"}})
	receiver := httptest.NewServer(webhook.NewHandler(verifier, func(_ context.Context, n *webhook.Notification) (bool, error) {
		for _, stream := range n.Streams {
			if stream.HasPending {
				fmt.Println("read", stream.Path, "after", stream.AckedOffset)
			}
		}
		return true, nil
	}))
	defer receiver.Close()

	body := `{"subscription_id":"sub-1","wake_id":"w_1","generation":1,"streams":[
		{"path":"events/a","link_type":"glob","acked_offset":"-1","tail_offset":"0000000000000000_0000000000000003","has_pending":true}]}`
	header, _ := keys.Sign(context.Background(), runnel.Store{}, []byte(body), time.Now())
	request, _ := http.NewRequestWithContext(context.Background(), http.MethodPost, receiver.URL, strings.NewReader(body))
	request.Header.Set(webhook.HeaderSignature, header)
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer answer.Body.Close()
	fmt.Println(answer.StatusCode)
	// Output:
	// read events/a after -1
	// 200
}
