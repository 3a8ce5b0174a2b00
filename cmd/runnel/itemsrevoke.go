package main

import (
	"context"
	"encoding/json"
	"net/http"
)

type itemsRevokeCmd struct {
	Stream       string `arg:"" optional:"" help:"Subscriptions to this stream."`
	Group        string `arg:"" optional:"" help:"Subscriptions to this group of it."`
	Subscription string `help:"Subscriptions of this id." placeholder:"ID"`
	Subject      string `help:"Subscriptions made with tokens of this subject." placeholder:"NAME"`
	Context      string `help:"Subscriptions of connections whose context is this JSON value, or an object with all of its fields." placeholder:"JSON"`
	Message      string `help:"What the subscribers are told." placeholder:"TEXT"`
	remote
}

// Validate checks what does not depend on the server.
func (c *itemsRevokeCmd) Validate() error {
	switch {
	case c.Stream == "" && c.Subscription == "" && c.Subject == "" && c.Context == "":
		return usagef("say whose subscriptions: STREAM, --subscription, --subject or --context")
	case c.Context != "" && !json.Valid([]byte(c.Context)):
		return usagef("the context must be JSON, got %q", c.Context)
	}
	return nil
}

func (c *itemsRevokeCmd) Run(ctx context.Context, std stdio) error {
	in := make(map[string]any)
	for name, value := range map[string]string{
		"stream_name": c.Stream, "group_id": c.Group, "subscription_id": c.Subscription, "subject": c.Subject, "message": c.Message,
	} {
		if value != "" {
			in[name] = value
		}
	}
	if c.Context != "" {
		in["context"] = json.RawMessage(c.Context)
	}
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	return c.items(ctx, std, http.MethodPost, body, nil, "call", "revoke")
}
