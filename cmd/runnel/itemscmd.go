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
	Names  []string `arg:"" optional:"" help:"STREAM, GROUP and ITEM, as many as there are."`
	Prefix string   `help:"Of a list, only what begins with this."`
	After  string   `help:"Of a list, only what comes behind this."`
	Limit  int      `help:"Print one page of a list, of at most so many; otherwise all of it, a page to a line." placeholder:"N"`
	remote
}

// itemConditions are flags of what gives a value to an item.
type itemConditions struct {
	IfAbsent bool   `help:"Demand that there is no such item."`
	If       uint64 `help:"Demand that the item is at this version." placeholder:"VERSION"`
	TTL      string `name:"ttl" help:"Let the item go away after so many seconds." placeholder:"SECONDS"`
	Key      string `help:"The idempotency key: with the same one again the same write changes nothing."`
}

type itemsSetCmd struct {
	Stream string `arg:""`
	Group  string `arg:""`
	Item   string `arg:""`
	Value  string `arg:"" optional:"" help:"The JSON value; otherwise standard input."`
	itemConditions
	remote
}

type itemsUpdateCmd struct {
	Stream  string `arg:""`
	Group   string `arg:""`
	Item    string `arg:""`
	Ops     string `arg:"" optional:"" help:"The list, such as '[{\"type\":\"increment\",\"path\":\"n\",\"by\":1}]'; otherwise standard input."`
	Partial bool   `help:"Keep what succeeds of the list; otherwise all of it is applied or nothing."`
	itemConditions
	remote
}

type itemsRmCmd struct {
	Stream string `arg:""`
	Group  string `arg:"" optional:""`
	Item   string `arg:"" optional:""`
	If     uint64 `help:"Demand that the item is at this version." placeholder:"VERSION"`
	Key    string `help:"The idempotency key, of the deletion of an item."`
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
	To     string `help:"Only to the subscription of this id." placeholder:"ID"`
	remote
}

type itemsWatchCmd struct {
	Stream      string `arg:""`
	Group       string `arg:"" optional:"" help:"The group; otherwise all of the stream."`
	Item        string `arg:"" optional:""`
	Prefix      string `help:"Only items whose ids begin with this."`
	GroupPrefix string `help:"Only groups whose names begin with this."`
	Since       string `help:"Go on after this cursor." placeholder:"CURSOR"`
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
	switch paged := c.Prefix != "" || c.After != "" || c.Limit != 0; {
	case len(c.Names) > 3:
		return usagef("an item has three names: STREAM, GROUP and ITEM")
	case len(c.Names) == 3 && paged:
		return usagef("--prefix, --after and --limit are for lists, and this is one item")
	case len(c.Names) == 3:
		return c.items(ctx, std, http.MethodGet, nil, nil, c.Names...)
	}
	target, header, err := c.itemsURL(c.Names...)
	if err != nil {
		return err
	}
	for after := c.After; ; {
		page, err := c.page(ctx, target, after, header)
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintf(std.out, "%s\n", page); err != nil {
			return err
		}
		var more struct {
			Next *string `json:"next"`
		}
		if err := json.Unmarshal(page, &more); err != nil {
			return err
		}
		if more.Next == nil || c.Limit != 0 {
			return nil
		}
		after = *more.Next
	}
}

// page returns the page of a list that comes after a name.
func (c *itemsGetCmd) page(ctx context.Context, target, after string, header http.Header) ([]byte, error) {
	query := make(url.Values)
	for name, value := range map[string]string{"prefix": c.Prefix, "after": after} {
		if value != "" {
			query.Set(name, value)
		}
	}
	if c.Limit != 0 {
		query.Set("limit", strconv.Itoa(c.Limit))
	}
	_, page, err := askServer(ctx, http.MethodGet, target+"?"+query.Encode(), nil, header)
	return page, err
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
	header, err := c.conditions()
	if err != nil {
		return err
	}
	return c.items(ctx, std, http.MethodPut, value, header, c.Stream, c.Group, c.Item)
}

// conditions are the headers that say them.
func (c *itemConditions) conditions() (http.Header, error) {
	header := make(http.Header)
	switch {
	case c.IfAbsent && c.If > 0:
		return nil, usagef("--if-absent and --if exclude each other")
	case c.IfAbsent:
		header.Set("If-None-Match", "*")
	case c.If > 0:
		header.Set("If-Match", versionTag(c.If))
	}
	if c.TTL != "" {
		header["Item-Ttl"] = []string{c.TTL}
	}
	if c.Key != "" {
		header.Set("Idempotency-Key", c.Key)
	}
	return header, nil
}

// versionTag is the entity tag of a version.
func versionTag(version uint64) string { return `"` + strconv.FormatUint(version, 10) + `"` }

func (c *itemsUpdateCmd) Run(ctx context.Context, std stdio) error {
	list, err := given(std, c.Ops)
	if err != nil {
		return err
	}
	header, err := c.conditions()
	if err != nil {
		return err
	}
	target, own, err := c.itemsURL(c.Stream, c.Group, c.Item)
	if err != nil {
		return err
	}
	if c.Partial {
		target += "?mode=partial"
	}
	_, answer, err := askServer(ctx, http.MethodPatch, target, list, own, header)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(std.out, "%s\n", answer)
	return err
}

func (c *itemsRmCmd) Run(ctx context.Context, std stdio) error {
	names := []string{c.Stream}
	for _, name := range []string{c.Group, c.Item} {
		if name != "" {
			names = append(names, name)
		}
	}
	header := make(http.Header)
	if c.If > 0 {
		header.Set("If-Match", versionTag(c.If))
	}
	if c.Key != "" {
		header.Set("Idempotency-Key", c.Key)
	}
	if len(header) > 0 && len(names) < 3 {
		return usagef("--if and --key are for one item")
	}
	return c.items(ctx, std, http.MethodDelete, nil, header, names...)
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
	if c.To != "" {
		in["subscription_id"] = c.To
	}
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	_, err = c.askItems(ctx, http.MethodPost, body, nil, "call", "send")
	return err
}

// join is what the command joins with, nil where its URL says it all.
func (c *itemsWatchCmd) join() (frame []byte, err error) {
	switch {
	case c.Group != "" && c.GroupPrefix != "":
		return nil, usagef("--group-prefix is in the place of a group")
	case c.Item != "" && c.Prefix != "":
		return nil, usagef("--prefix is in the place of an item")
	case c.Group == "" && (c.Prefix != "" || c.Since != ""):
		return nil, usagef("--prefix and --since are for one group")
	case c.Group != "" && c.Prefix == "":
		return nil, nil
	}
	data := map[string]string{"subscriptionId": "watch", "streamName": c.Stream}
	if c.Group == "" {
		data["groupPrefix"] = c.GroupPrefix
	} else {
		data["groupId"], data["prefix"], data["since"] = c.Group, c.Prefix, c.Since
	}
	return json.Marshal(map[string]any{"type": "join", "data": data})
}

func (c *itemsWatchCmd) Run(ctx context.Context, std stdio) error {
	join, err := c.join()
	if err != nil {
		return err
	}
	var names []string
	if join == nil {
		names = []string{c.Stream, c.Group}
		if c.Item != "" {
			names = append(names, c.Item)
		}
	}
	target, header, err := c.itemsURL(names...)
	if err != nil {
		return err
	}
	if join == nil && c.Since != "" {
		target += "?" + url.Values{"since": {c.Since}}.Encode()
	}
	ws, resp, err := websocket.Dial(ctx, target, &websocket.DialOptions{HTTPHeader: header}) //nolint:bodyclose // the library has read it
	if err != nil {
		if resp == nil {
			return err
		}
		why, _ := io.ReadAll(resp.Body) // of which the library has kept the beginning
		return refusal(resp, why)
	}
	defer func() { _ = ws.CloseNow() }()
	ws.SetReadLimit(-1)
	if join != nil {
		if err := ws.Write(ctx, websocket.MessageText, join); err != nil {
			return err
		}
	}
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
		if err := ended(frame); err != nil {
			return err
		}
	}
}

// ended tells why nothing follows a frame, nil if something may.
func ended(frame []byte) error {
	var in struct {
		Event struct {
			Type string          `json:"type"`
			Data json.RawMessage `json:"data"`
		} `json:"event"`
	}
	if err := json.Unmarshal(frame, &in); err != nil {
		return fmt.Errorf("the server sent something else than a frame: %w", err)
	}
	if in.Event.Type != "unauthorized" && in.Event.Type != "error" {
		return nil
	}
	var why struct {
		Message string `json:"message"`
	}
	if err := json.Unmarshal(in.Event.Data, &why); err != nil || why.Message == "" {
		return errors.New("the subscription was refused")
	}
	return errors.New(why.Message)
}
