package dsclient

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"time"

	"github.com/runnelhq/runnel"
)

// subscriptionsPath is where subscriptions are, below the root of the streams.
const subscriptionsPath = runnel.ReservedElement + "/subscriptions"

// SubscriptionOptions says what a subscription is. Source: PROTOCOL.md, section 6.2.
type SubscriptionOptions struct {
	// Type is runnel.Webhook or runnel.PullWake.
	Type runnel.SubscriptionType
	// Pattern links all streams that match it, Streams those that are named.
	Pattern string
	Streams []string
	// WebhookURL is for webhooks, WakeStream, which must exist, for pull-wake.
	WebhookURL string
	WakeStream string
	// LeaseTTL is how long a worker may be silent, in whole milliseconds. 0 leaves it to the server.
	LeaseTTL    time.Duration
	Description string
}

// Subscription is a subscription as the server shows it. Servers other than this one leave some fields out.
type Subscription struct {
	ID         string             `json:"id"`
	Type       string             `json:"type"`
	Pattern    string             `json:"pattern"`
	Streams    []SubscribedStream `json:"streams"`
	Webhook    SubscribedWebhook  `json:"webhook"`
	WakeStream string             `json:"wake_stream"`
	// LeaseTTLMillis is how long a worker may be silent.
	LeaseTTLMillis int64     `json:"lease_ttl_ms"`
	Created        time.Time `json:"created_at"`
	// Status is active, or failed while deliveries fail.
	Status      string              `json:"status"`
	Description string              `json:"description"`
	Generation  uint64              `json:"generation"`
	Holder      string              `json:"holder"`
	NextAttempt time.Time           `json:"next_attempt_at"`
	Failure     SubscriptionFailure `json:"failure"`
}

// SubscribedWebhook says where webhooks are sent, and how they are signed.
type SubscribedWebhook struct {
	URL     string `json:"url"`
	Signing struct {
		KeyID   string `json:"kid"`
		JWKSURL string `json:"jwks_url"`
	} `json:"signing"`
}

// SubscriptionFailure tells of deliveries that fail.
type SubscriptionFailure struct {
	Attempts int       `json:"attempts"`
	Since    time.Time `json:"since"`
	Status   int       `json:"status"`
	Reason   string    `json:"reason"`
	// Parked says that nothing is tried any more until ReplaySubscription.
	Parked bool `json:"parked"`
}

// SubscribedStream is a stream of a subscription.
type SubscribedStream struct {
	Path string `json:"path"`
	// LinkType is explicit or glob.
	LinkType string `json:"link_type"`
	// Acked is what has been worked on, inclusive: read on from there. Tail is where the stream ends.
	Acked   Offset `json:"acked_offset"`
	Tail    Offset `json:"tail_offset"`
	Pending bool   `json:"has_pending"`
	// Lag is how many messages or appends the subscription is behind.
	Lag uint64 `json:"lag"`
}

// CreateSubscription makes a subscription, or finds that there is one of the same configuration. One of
// another is runnel.ErrExists.
func (c *Client) CreateSubscription(ctx context.Context, id string, o SubscriptionOptions) (sub Subscription, existed bool, err error) {
	type hook struct {
		URL string `json:"url"`
	}
	body := struct {
		Type        string   `json:"type"`
		Pattern     string   `json:"pattern,omitempty"`
		Streams     []string `json:"streams,omitempty"`
		Webhook     *hook    `json:"webhook,omitempty"`
		WakeStream  string   `json:"wake_stream,omitempty"`
		LeaseTTL    int64    `json:"lease_ttl_ms,omitempty"`
		Description string   `json:"description,omitempty"`
	}{
		Type: string(o.Type), Pattern: o.Pattern, Streams: o.Streams, WakeStream: o.WakeStream,
		LeaseTTL: o.LeaseTTL.Milliseconds(), Description: o.Description,
	}
	if o.WebhookURL != "" {
		body.Webhook = &hook{o.WebhookURL}
	}
	status, err := c.control(ctx, control{method: http.MethodPut, path: pathOf(id), body: body}, &sub)
	return sub, status == http.StatusOK, err
}

// Subscription returns a subscription with its streams.
func (c *Client) Subscription(ctx context.Context, id string) (sub Subscription, err error) {
	_, err = c.control(ctx, control{method: http.MethodGet, path: pathOf(id)}, &sub)
	return sub, err
}

// Subscriptions yields the subscriptions, without their streams, in the order of their ids. It is an
// extension of this server.
func (c *Client) Subscriptions(ctx context.Context) iter.Seq2[Subscription, error] {
	return func(yield func(Subscription, error) bool) {
		for after := ""; ; {
			var page struct {
				Subscriptions []Subscription `json:"subscriptions"`
				Next          string         `json:"next"`
			}
			if _, err := c.control(ctx, control{method: http.MethodGet, query: url.Values{"after": {after}}}, &page); err != nil {
				yield(Subscription{}, err)
				return
			}
			for _, sub := range page.Subscriptions {
				if !yield(sub, nil) {
					return
				}
			}
			if page.Next == "" {
				return
			}
			after = page.Next
		}
	}
}

// DeleteSubscription deletes a subscription. One that is not there is as good as deleted.
func (c *Client) DeleteSubscription(ctx context.Context, id string) error {
	_, err := c.control(ctx, control{method: http.MethodDelete, path: pathOf(id)}, nil)
	return err
}

// ReplaySubscription lets a webhook that is parked, or waits for its next attempt, be tried at once. It is
// an extension of this server.
func (c *Client) ReplaySubscription(ctx context.Context, id string) error {
	_, err := c.control(ctx, control{method: http.MethodPost, path: pathOf(id) + "/replay", body: struct{}{}}, nil)
	return err
}

// control is a request about subscriptions.
type control struct {
	method string
	path   string // below that of all of them
	query  url.Values
	token  string // of a wake, if not empty
	body   any    // if not nil
}

func pathOf(id string) string { return "/" + url.PathEscape(id) }

// control makes a request, and decodes the answer into what into points to, if it is not nil.
func (c *Client) control(ctx context.Context, q control, into any) (status int, err error) {
	root, err := c.URL(subscriptionsPath)
	if err != nil {
		return 0, err
	}
	r := request{method: q.method, query: q.query, header: http.Header{}}
	if q.body != nil {
		if r.body, err = json.Marshal(q.body); err != nil {
			return 0, err
		}
		r.header.Set("Content-Type", "application/json")
	}
	if q.token != "" {
		r.header.Set("Authorization", "Bearer "+q.token)
	}
	resp, err := c.doURL(ctx, root+q.path, r)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	defer drain(resp.Body)
	if into == nil {
		return resp.StatusCode, nil
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxPageBytes)).Decode(into); err != nil {
		return 0, fmt.Errorf("dsclient: the server's answer about a subscription: %w", err)
	}
	return resp.StatusCode, nil
}
