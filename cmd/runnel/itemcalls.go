package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/items"
	"github.com/runnelhq/runnel/webhook"
)

// itemCalls are the URLs that are asked or told about items.
type itemCalls struct {
	connect  func(context.Context, items.Handshake) (items.Admission, error) // nil: nobody is asked
	hooks    []items.Hook
	triggers []items.Trigger
}

// triggerFile is what the file of triggers holds.
type triggerFile struct {
	Triggers []triggerEntry `yaml:"triggers"`
}

type triggerEntry struct {
	Name        string        `yaml:"name"`
	URL         string        `yaml:"url"`
	Store       string        `yaml:"store"`
	Stream      string        `yaml:"stream"`
	Group       string        `yaml:"group"`
	GroupPrefix string        `yaml:"group-prefix"`
	Item        string        `yaml:"item"`
	Prefix      string        `yaml:"prefix"`
	Events      []string      `yaml:"events"`
	When        string        `yaml:"when"`
	Timeout     time.Duration `yaml:"timeout"`
	Attempts    int           `yaml:"attempts"`
}

// flagsHook is the name of the hook that items-join-url and items-leave-url make.
const flagsHook = "join-leave-url"

// newItemCalls reads which URLs are called, and makes sure that they may be.
func (c *serveCmd) newItemCalls(log *slog.Logger) (*itemCalls, error) {
	policy, err := webhook.NewPolicy(webhook.PolicyConfig{
		Allow: c.Webhook.Allow, Exclusive: c.Webhook.OnlyAllowed, Ports: c.Webhook.Ports, Development: c.Webhook.Development, PlainAllowed: true,
	})
	if err != nil {
		return nil, fmt.Errorf("webhook-allow: %w", err)
	}
	proxy, err := c.Webhook.proxy()
	if err != nil {
		return nil, err
	}
	b := &callsBuilder{policy: policy, caller: &caller{client: webhook.NewClient(policy, proxy), secret: []byte(c.Items.HookSecret)}, log: log}
	if err := errors.Join(b.fromFlags(&c.Items), b.fromFile(c.Items.Triggers)); err != nil {
		return nil, err
	}
	return &b.itemCalls, nil
}

// callsBuilder collects calls.
type callsBuilder struct {
	itemCalls
	policy *webhook.Policy
	caller *caller
	log    *slog.Logger
}

func (b *callsBuilder) fromFlags(f *itemsFlags) error {
	var errs []error
	for _, given := range [][2]string{{"connect", f.ConnectURL}, {"join", f.JoinURL}, {"leave", f.LeaveURL}} {
		if given[1] == "" {
			continue
		}
		if _, err := b.policy.CheckURL(given[1]); err != nil {
			errs = append(errs, fmt.Errorf("items-%s-url: %w", given[0], err))
		}
	}
	if f.ConnectURL != "" {
		b.connect = b.caller.connect(f.ConnectURL)
	}
	if f.JoinURL != "" || f.LeaveURL != "" {
		h := items.Hook{Name: flagsHook}
		if f.JoinURL != "" {
			h.Join = b.caller.join(f.JoinURL)
		}
		if f.LeaveURL != "" {
			h.Leave = b.caller.leave(f.LeaveURL)
		}
		b.hooks = append(b.hooks, h)
	}
	return errors.Join(errs...)
}

func (b *callsBuilder) fromFile(path string) error {
	if path == "" {
		return nil
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("items-triggers: %w", err)
	}
	var file triggerFile
	d := yaml.NewDecoder(bytes.NewReader(data))
	d.KnownFields(true)
	if err := d.Decode(&file); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("items-triggers %s: %w", path, err)
	}
	names := map[string]bool{flagsHook: true}
	for i := range file.Triggers {
		in := &file.Triggers[i]
		if in.Name == "" || names[in.Name] {
			return fmt.Errorf("items-triggers %s: trigger %d needs a name of its own", path, i+1)
		}
		names[in.Name] = true
		if err := b.add(in); err != nil {
			return fmt.Errorf("items-triggers %s: trigger %s: %w", path, in.Name, err)
		}
	}
	return nil
}

// add adds what an entry of the file says: a hook, if it is on join or leave, or a trigger.
func (b *callsBuilder) add(in *triggerEntry) error {
	store, err := runnel.ParseStore(in.Store)
	if err != nil {
		return err
	}
	if _, err := b.policy.CheckURL(in.URL); err != nil {
		return err
	}
	isHook := func(kind string) bool { return kind == "join" || kind == "leave" }
	switch {
	case in.Timeout < 0 || in.Attempts < 0:
		return errors.New("timeout and attempts must not be less than 0")
	case !slices.ContainsFunc(in.Events, isHook):
		return b.addTrigger(in, store)
	case slices.ContainsFunc(in.Events, func(kind string) bool { return !isHook(kind) }):
		return fmt.Errorf("events are join and leave, or other ones, not both: %q", in.Events)
	}
	h := items.Hook{
		Name: in.Name, Stream: in.Stream, Group: in.Group, GroupPrefix: in.GroupPrefix, Item: in.Item, Prefix: in.Prefix,
		Timeout: in.Timeout, Attempts: in.Attempts,
	}
	if in.Store != "" {
		h.Store = &store
	}
	if in.When != "" {
		if h.When, err = items.HookCondition(in.When); err != nil {
			return err
		}
	}
	if slices.Contains(in.Events, "join") {
		h.Join = b.caller.join(in.URL)
	}
	if slices.Contains(in.Events, "leave") {
		h.Leave = b.caller.leave(in.URL)
	}
	b.hooks = append(b.hooks, h)
	return nil
}

func (b *callsBuilder) addTrigger(in *triggerEntry, store runnel.Store) (err error) {
	if in.Stream == "" {
		return errors.New("it needs a stream")
	}
	t := items.Trigger{
		Name: in.Name, Store: store, Stream: in.Stream, Group: in.Group, GroupPrefix: in.GroupPrefix, Item: in.Item, Prefix: in.Prefix,
		Events: in.Events, Timeout: in.Timeout, Attempts: in.Attempts, Logger: b.log, Handle: b.caller.trigger(in.URL),
	}
	if in.When != "" {
		if t.When, err = items.Condition(in.When); err != nil {
			return err
		}
	}
	if err := t.Validate(); err != nil {
		return err
	}
	b.triggers = append(b.triggers, t)
	return nil
}

func (c *caller) connect(url string) func(context.Context, items.Handshake) (items.Admission, error) {
	return func(ctx context.Context, shake items.Handshake) (items.Admission, error) {
		var out struct {
			Context   json.RawMessage `json:"context"`
			ExpiresIn *float64        `json:"expires_in"`
		}
		if err := c.call(ctx, url, shake, &out); err != nil {
			return items.Admission{}, err
		}
		admitted := items.Admission{Context: out.Context}
		if out.ExpiresIn != nil {
			const most = 365 * 24 * time.Hour // beyond that it makes no difference
			admitted.Until = time.Now().Add(time.Duration(min(max(*out.ExpiresIn, 0), most.Seconds()) * float64(time.Second)))
		}
		return admitted, nil
	}
}

func (c *caller) join(url string) func(context.Context, items.Subscription) error {
	return func(ctx context.Context, s items.Subscription) error {
		var out struct {
			Unauthorized *bool `json:"unauthorized"`
		}
		if err := c.call(ctx, url, about{"join", &s}, &out); err != nil {
			return err
		}
		if out.Unauthorized != nil && *out.Unauthorized {
			return items.ErrRefused
		}
		return nil
	}
}

func (c *caller) leave(url string) func(context.Context, *items.Left) error {
	return func(ctx context.Context, l *items.Left) error {
		return c.call(ctx, url, about{"leave", &l.Subscription}, nil, headerEventKey, l.Key, headerAttempt, strconv.Itoa(l.Attempt))
	}
}

// about is what is told of a subscription.
type about struct {
	Type string `json:"type"`
	*items.Subscription
}

func (c *caller) trigger(url string) func(context.Context, *items.TriggerEvent) error {
	return func(ctx context.Context, e *items.TriggerEvent) error {
		header := []string{headerEventKey, e.Key, headerAttempt, strconv.Itoa(e.Attempt)}
		if e.Fence > 0 {
			header = append(header, headerFence, strconv.FormatUint(e.Fence, 10))
		}
		return c.call(ctx, url, e.Frame, nil, header...)
	}
}
