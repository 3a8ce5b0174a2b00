package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/coder/websocket"

	"github.com/runnelhq/runnel/items"
)

// itemsCmd works with items from the shell.
type itemsCmd struct {
	Get     itemsGetCmd     `cmd:"" help:"Print an item, the items of a group, the groups of a stream, or the streams."`
	Set     itemsSetCmd     `cmd:"" help:"Set an item to a JSON value, from an argument or standard input."`
	Update  itemsUpdateCmd  `cmd:"" help:"Apply a JSON list of operations to an item, from an argument or standard input."`
	Rm      itemsRmCmd      `cmd:"" help:"Delete an item, a group or a stream."`
	Compact itemsCompactCmd `cmd:"" help:"Let go of the history of a group, however young it is, as far as no stored place has yet to pass it. The items stay as they are."`
	Send    itemsSendCmd    `cmd:"" help:"Send an event to the subscribers of a group."`
	Watch   itemsWatchCmd   `cmd:"" help:"Print what an item or a group is, and then each change, as it comes."`
	Revoke  itemsRevokeCmd  `cmd:"" help:"End live subscriptions of others."`
	Parked  itemsParkedCmd  `cmd:"" help:"See, try again or forget changes that triggers have given up on."`
}

type itemsGetCmd struct {
	Names []string `arg:"" optional:"" help:"STREAM, GROUP and ITEM, as many as there are."`
	remote
}

type itemsSetCmd struct {
	Stream   string `arg:""`
	Group    string `arg:""`
	Item     string `arg:""`
	Value    string `arg:"" optional:"" help:"The JSON value; otherwise standard input."`
	IfAbsent bool   `help:"Demand that there is no such item."`
	If       uint64 `help:"Demand that the item is at this version." placeholder:"VERSION"`
	TTL      string `name:"ttl" help:"Let the item go away after so many seconds." placeholder:"SECONDS"`
	remote
}

type itemsUpdateCmd struct {
	Stream string `arg:""`
	Group  string `arg:""`
	Item   string `arg:""`
	Ops    string `arg:"" optional:"" help:"The list, such as '[{\"type\":\"increment\",\"path\":\"n\",\"by\":1}]'; otherwise standard input."`
	remote
}

type itemsRmCmd struct {
	Stream string `arg:""`
	Group  string `arg:"" optional:""`
	Item   string `arg:"" optional:""`
	remote
}

type itemsCompactCmd struct {
	Stream string `arg:""`
	Group  string `arg:""`
	remote
}

type itemsSendCmd struct {
	Stream string `arg:""`
	Group  string `arg:""`
	Type   string `arg:""`
	Data   string `arg:"" optional:"" help:"The JSON value; otherwise null."`
	Item   string `help:"Only to subscribers of this item, and of the group."`
	remote
}

type itemsWatchCmd struct {
	Stream string `arg:""`
	Group  string `arg:""`
	Item   string `arg:"" optional:""`
	Since  string `help:"Go on after this cursor." placeholder:"CURSOR"`
	remote
}

// itemsURL returns the URL of names, and the headers of a request.
func (r remote) itemsURL(names ...string) (string, http.Header, error) {
	client, err := r.client()
	if err != nil {
		return "", nil, err
	}
	base, ok := strings.CutSuffix(client.Base, "/v1/stream")
	if !ok {
		return "", nil, usagef("url must end in /v1/stream, or have no path, for items; got %q", r.URL)
	}
	escaped := make([]string, len(names))
	for i, name := range names {
		if name == "" {
			return "", nil, usagef("a name must not be empty")
		}
		escaped[i] = url.PathEscape(name)
	}
	header := client.Header.Clone()
	if header == nil {
		header = make(http.Header)
	}
	return base + items.DefaultPrefix + strings.Join(escaped, "/"), header, nil
}

// askItems makes a request about what names say, and returns the answer.
func (r remote) askItems(ctx context.Context, method string, body []byte, header http.Header, names ...string) ([]byte, error) {
	target, own, err := r.itemsURL(names...)
	if err != nil {
		return nil, err
	}
	_, answer, err := askServer(ctx, method, target, body, own, header)
	return answer, err
}

// items makes a request, and prints the answer.
func (r remote) items(ctx context.Context, std stdio, method string, body []byte, header http.Header, names ...string) error {
	answer, err := r.askItems(ctx, method, body, header, names...)
	if err != nil || len(answer) == 0 {
		return err
	}
	_, err = fmt.Fprintf(std.out, "%s\n", answer)
	return err
}

func (c *itemsGetCmd) Run(ctx context.Context, std stdio) error {
	if len(c.Names) > 3 {
		return usagef("an item has three names: STREAM, GROUP and ITEM")
	}
	return c.items(ctx, std, http.MethodGet, nil, nil, c.Names...)
}

// given is an argument, or standard input where there is none.
func given(std stdio, argument string) ([]byte, error) {
	if argument != "" {
		return []byte(argument), nil
	}
	return io.ReadAll(std.in)
}

func (c *itemsSetCmd) Run(ctx context.Context, std stdio) error {
	value, err := given(std, c.Value)
	if err != nil {
		return err
	}
	header := make(http.Header)
	switch {
	case c.IfAbsent && c.If > 0:
		return usagef("--if-absent and --if exclude each other")
	case c.IfAbsent:
		header.Set("If-None-Match", "*")
	case c.If > 0:
		header.Set("If-Match", `"`+strconv.FormatUint(c.If, 10)+`"`)
	}
	if c.TTL != "" {
		header["Item-Ttl"] = []string{c.TTL}
	}
	return c.items(ctx, std, http.MethodPut, value, header, c.Stream, c.Group, c.Item)
}

func (c *itemsUpdateCmd) Run(ctx context.Context, std stdio) error {
	list, err := given(std, c.Ops)
	if err != nil {
		return err
	}
	return c.items(ctx, std, http.MethodPatch, list, nil, c.Stream, c.Group, c.Item)
}

func (c *itemsRmCmd) Run(ctx context.Context, std stdio) error {
	names := []string{c.Stream}
	for _, name := range []string{c.Group, c.Item} {
		if name != "" {
			names = append(names, name)
		}
	}
	return c.items(ctx, std, http.MethodDelete, nil, nil, names...)
}

func (c *itemsCompactCmd) Run(ctx context.Context, std stdio) error {
	body, err := json.Marshal(map[string]string{"stream_name": c.Stream, "group_id": c.Group})
	if err != nil {
		return err
	}
	return c.items(ctx, std, http.MethodPost, body, nil, "call", "compact")
}

func (c *itemsSendCmd) Run(ctx context.Context) error {
	in := map[string]any{"stream_name": c.Stream, "group_id": c.Group, "type": c.Type, "data": nil}
	if c.Data != "" {
		if !json.Valid([]byte(c.Data)) {
			return usagef("the data must be JSON, got %q", c.Data)
		}
		in["data"] = json.RawMessage(c.Data)
	}
	if c.Item != "" {
		in["id"] = c.Item
	}
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	_, err = c.askItems(ctx, http.MethodPost, body, nil, "call", "send")
	return err
}

func (c *itemsWatchCmd) Run(ctx context.Context, std stdio) error {
	names := []string{c.Stream, c.Group}
	if c.Item != "" {
		names = append(names, c.Item)
	}
	target, header, err := c.itemsURL(names...)
	if err != nil {
		return err
	}
	if c.Since != "" {
		target += "?" + url.Values{"since": {c.Since}}.Encode()
	}
	ws, _, err := websocket.Dial(ctx, target, &websocket.DialOptions{HTTPHeader: header}) //nolint:bodyclose // the library has read it
	if err != nil {
		return err
	}
	defer func() { _ = ws.CloseNow() }()
	ws.SetReadLimit(-1)
	for {
		_, frame, err := ws.Read(ctx)
		switch {
		case errors.Is(err, context.Canceled):
			return nil
		case err != nil:
			return err
		}
		if _, err := fmt.Fprintf(std.out, "%s\n", frame); err != nil {
			return err
		}
	}
}
