package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/runnelhq/runnel"
)

// subCmd groups the commands about subscriptions.
type subCmd struct {
	Create subCreateCmd `cmd:"" help:"Create a subscription, or confirm that it is there."`
	Ls     subLsCmd     `cmd:"" help:"List subscriptions."`
	Show   subShowCmd   `cmd:"" help:"Describe a subscription, with its streams, as JSON."`
	Rm     subRmCmd     `cmd:"" help:"Delete subscriptions."`
	Replay subReplayCmd `cmd:"" help:"Send the webhook of a subscription at once that failed, or was parked."`
	Drop   subDropCmd   `cmd:"" help:"Count what a webhook that failed, or was parked, was about as worked on."`
}

type subCreateCmd struct {
	ID          string        `arg:"" help:"The subscription's id."`
	Pattern     string        `help:"Subscribe to streams whose names match: * is one element, ** any number of them." placeholder:"PATTERN"`
	Stream      []string      `help:"Subscribe to these streams." placeholder:"NAME"`
	Webhook     string        `help:"Send wakes to this URL." placeholder:"URL"`
	WakeStream  string        `help:"Append wakes to this stream, for workers to claim." placeholder:"NAME"`
	Lease       time.Duration `help:"How long a receiver or worker may be silent." default:"30s" placeholder:"TIME"`
	Description string        `help:"What it is for." placeholder:"TEXT"`
	remote
}

// Validate checks what does not depend on the server.
func (c *subCreateCmd) Validate() error {
	switch {
	case (c.Webhook == "") == (c.WakeStream == ""):
		return errors.New("give one of --webhook and --wake-stream")
	case c.Pattern == "" && len(c.Stream) == 0:
		return errors.New("give --pattern or --stream")
	case c.Lease < runnel.MinWakeLease || c.Lease > runnel.MaxWakeLease:
		return fmt.Errorf("--lease must be between %s and %s", runnel.MinWakeLease, runnel.MaxWakeLease)
	}
	return nil
}

func (c *subCreateCmd) Run(ctx context.Context, std stdio) error {
	body := map[string]any{"type": runnel.PullWake, "lease_ttl_ms": c.Lease.Milliseconds()}
	for name, value := range map[string]string{"pattern": c.Pattern, "wake_stream": c.WakeStream, "description": c.Description} {
		if value != "" {
			body[name] = value
		}
	}
	if len(c.Stream) > 0 {
		body["streams"] = c.Stream
	}
	if c.Webhook != "" {
		body["type"] = runnel.Webhook
		body["webhook"] = map[string]string{"url": c.Webhook}
	}
	status, _, err := c.control(ctx, http.MethodPut, c.ID, "", "", body)
	if err == nil && status == http.StatusOK {
		std.note("%s was there already", c.ID)
	}
	return err
}

// subscriptionLine is what is looked at of a listed subscription.
type subscriptionLine struct {
	ID          string  `json:"id"`
	Type        string  `json:"type"`
	Pattern     *string `json:"pattern"`
	WakeStream  *string `json:"wake_stream"`
	Status      string  `json:"status"`
	Generation  uint64  `json:"generation"`
	NextAttempt string  `json:"next_attempt_at"`
	Failure     struct {
		Reason string `json:"reason"`
		Parked bool   `json:"parked"`
	} `json:"failure"`
	Webhook *struct {
		URL string `json:"url"`
	} `json:"webhook"`
}

func (l subscriptionLine) target() string {
	switch {
	case l.Webhook != nil:
		return l.Webhook.URL
	case l.WakeStream != nil:
		return *l.WakeStream
	}
	return ""
}

type subLsCmd struct {
	Parked bool `help:"List only those whose webhook is parked."`
	JSON   bool `name:"json" help:"Print one JSON object to a line."`
	remote
}

func (c *subLsCmd) Run(ctx context.Context, std stdio) error {
	table := tabwriter.NewWriter(std.out, 0, 0, 2, ' ', 0)
	after, first := "", true
	for {
		query := url.Values{}
		if after != "" {
			query.Set("after", after)
		}
		_, data, err := c.control(ctx, http.MethodGet, "", "", query.Encode(), nil)
		if err != nil {
			return err
		}
		var page struct {
			Subscriptions []json.RawMessage `json:"subscriptions"`
			Next          string            `json:"next"`
		}
		if err := json.Unmarshal(data, &page); err != nil {
			return fmt.Errorf("read the list: %w", err)
		}
		for _, raw := range page.Subscriptions {
			var line subscriptionLine
			if err := json.Unmarshal(raw, &line); err != nil {
				return fmt.Errorf("read the list: %w", err)
			}
			if c.Parked && !line.Failure.Parked {
				continue
			}
			if c.JSON {
				if _, err := fmt.Fprintf(std.out, "%s\n", raw); err != nil {
					return err
				}
				continue
			}
			if first {
				_, _ = fmt.Fprintln(table, "SUBSCRIPTION\tTYPE\tTO\tSTATUS\tWAKES\t")
				first = false
			}
			status := line.Status
			if line.Failure.Parked {
				status = "parked"
			}
			_, _ = fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%d\t%s\n", line.ID, line.Type, line.target(), status, line.Generation, line.Failure.Reason)
		}
		if err := table.Flush(); err != nil || page.Next == "" {
			return err
		}
		after = page.Next
	}
}

type subShowCmd struct {
	ID string `arg:"" help:"The subscription's id."`
	remote
}

func (c *subShowCmd) Run(ctx context.Context, std stdio) error {
	_, data, err := c.control(ctx, http.MethodGet, c.ID, "", "", nil)
	if err != nil {
		return err
	}
	return printPretty(std, data)
}

// printPretty prints JSON for people.
func printPretty(std stdio, data []byte) error {
	var pretty bytes.Buffer
	if err := json.Indent(&pretty, data, "", "  "); err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	_, err := fmt.Fprintln(std.out, strings.TrimSpace(pretty.String()))
	return err
}

type subRmCmd struct {
	IDs []string `arg:"" name:"id" help:"Ids of subscriptions."`
	remote
}

func (c *subRmCmd) Run(ctx context.Context) error {
	for _, id := range c.IDs {
		if _, _, err := c.control(ctx, http.MethodDelete, id, "", "", nil); err != nil {
			return err
		}
	}
	return nil
}

type subReplayCmd struct {
	IDs []string `arg:"" name:"id" help:"Ids of subscriptions."`
	remote
}

func (c *subReplayCmd) Run(ctx context.Context) error { return c.each(ctx, c.IDs, "replay") }

type subDropCmd struct {
	IDs []string `arg:"" name:"id" help:"Ids of subscriptions."`
	remote
}

func (c *subDropCmd) Run(ctx context.Context) error { return c.each(ctx, c.IDs, "drop") }

func (r remote) each(ctx context.Context, ids []string, action string) error {
	for _, id := range ids {
		if _, _, err := r.control(ctx, http.MethodPost, id, action, "", nil); err != nil {
			return err
		}
	}
	return nil
}

// control asks the server about a subscription, or about all of them if id is empty.
func (r remote) control(ctx context.Context, method, id, action, query string, body any) (status int, answer []byte, err error) {
	c, err := r.client()
	if err != nil {
		return 0, nil, err
	}
	at := c.Base + "/" + runnel.ReservedElement + "/subscriptions"
	if id != "" {
		at += "/" + url.PathEscape(id)
	}
	if action != "" {
		at += "/" + action
	}
	if query != "" {
		at += "?" + query
	}
	var content []byte
	if body != nil {
		if content, err = json.Marshal(body); err != nil {
			return 0, nil, err
		}
	}
	return askServer(ctx, method, at, content, c.Header)
}
