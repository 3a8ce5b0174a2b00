package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/auth"
	"github.com/runnelhq/runnel/engine"
	"github.com/runnelhq/runnel/items"
)

// itemsFlags say how items are served, and who is asked or told about them.
type itemsFlags struct {
	Addr        string        `help:"Serve items on this host and port too, with WebSocket at its root." env:"RUNNEL_ITEMS_ADDR" placeholder:"HOST:PORT"`
	InjectID    bool          `help:"Put the id of an item into values that subscribers are given, where they have none." env:"RUNNEL_ITEMS_INJECT_ID"`
	ConnectURL  string        `name:"connect-url" help:"Ask this URL before a WebSocket is accepted; anything but a JSON answer with a 2xx status refuses it." env:"RUNNEL_ITEMS_CONNECT_URL" placeholder:"URL"`
	JoinURL     string        `name:"join-url" help:"Ask this URL before a subscription is given anything; anything but a JSON answer with a 2xx status and without {\"unauthorized\": true} refuses it." env:"RUNNEL_ITEMS_JOIN_URL" placeholder:"URL"`
	LeaveURL    string        `name:"leave-url" help:"Tell this URL of the end of each subscription." env:"RUNNEL_ITEMS_LEAVE_URL" placeholder:"URL"`
	HookTimeout time.Duration `help:"Give connect-url, join-url and leave-url this long to answer." default:"5s" env:"RUNNEL_ITEMS_HOOK_TIMEOUT" placeholder:"TIME"`
	HookSecret  string        `help:"Sign what is sent to these URLs, and to those of triggers, with this secret (HMAC-SHA256)." env:"RUNNEL_ITEMS_HOOK_SECRET" placeholder:"SECRET"`
	History     string        `help:"Keep the changes of items for at least this long, for readers that come back; forever keeps all of them. Items themselves are kept whatever their history." default:"24h" env:"RUNNEL_ITEMS_HISTORY" placeholder:"TIME"`
	Triggers    string        `help:"Call URLs after changes of items, as this YAML file says." env:"RUNNEL_ITEMS_TRIGGERS" placeholder:"FILE"`
}

// triggerFile is what the file of triggers holds.
type triggerFile struct {
	Triggers []struct {
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
	} `yaml:"triggers"`
}

func (f itemsFlags) validate() error {
	var errs []error
	if f.Addr != "" {
		if _, _, err := net.SplitHostPort(f.Addr); err != nil {
			errs = append(errs, fmt.Errorf("items-addr must be a host and a port such as 127.0.0.1:3112, got %q", f.Addr))
		}
	}
	if f.HookTimeout < time.Millisecond || f.HookTimeout > time.Minute {
		errs = append(errs, fmt.Errorf("items-hook-timeout must be between 1ms and 1m0s, got %s", f.HookTimeout))
	}
	if d, err := f.history(); err != nil || d < leastHistory && f.History != "forever" {
		errs = append(errs, fmt.Errorf("items-history must be a time of at least %s such as 24h, or forever, got %q", leastHistory, f.History))
	}
	for _, given := range [][2]string{{"connect", f.ConnectURL}, {"join", f.JoinURL}, {"leave", f.LeaveURL}} {
		if u := given[1]; u != "" && !strings.HasPrefix(u, "http://") && !strings.HasPrefix(u, "https://") {
			errs = append(errs, fmt.Errorf("items-%s-url must be an http or https URL, got %q", given[0], u))
		}
	}
	return errors.Join(errs...)
}

// leastHistory is longer than a reader takes to go on where it is.
const leastHistory = 10 * time.Minute

// history is how long changes of items are kept; negative for ever.
func (f itemsFlags) history() (time.Duration, error) {
	if f.History == "forever" {
		return -1, nil
	}
	return time.ParseDuration(f.History)
}

// newItems returns the handler of items, behind a guard if there is anybody who says who asks.
func (c *serveCmd) newItems(eng *engine.Engine, who *auth.Authenticator, log *slog.Logger) *items.Handler {
	cfg := items.Config{
		Store: auth.Store, AllowedOrigins: c.AllowOrigin, InjectID: c.Items.InjectID, HookTimeout: c.Items.HookTimeout, Logger: log,
	}
	caller := newCaller(c.Items.HookSecret)
	if c.Items.ConnectURL != "" {
		cfg.Connect = func(ctx context.Context, shake items.Handshake) (json.RawMessage, error) {
			var out struct {
				Context json.RawMessage `json:"context"`
			}
			err := caller.call(ctx, c.Items.ConnectURL, shake, &out)
			return out.Context, err
		}
	}
	if c.Items.JoinURL != "" {
		cfg.Join = func(ctx context.Context, sub items.Subscription) error {
			var out struct {
				Unauthorized *bool `json:"unauthorized"`
			}
			if err := caller.call(ctx, c.Items.JoinURL, sub, &out); err != nil {
				return err
			}
			if out.Unauthorized != nil && *out.Unauthorized {
				return errors.New("the URL says so")
			}
			return nil
		}
	}
	if c.Items.LeaveURL != "" {
		cfg.Leave = func(ctx context.Context, sub items.Subscription) {
			if err := caller.call(ctx, c.Items.LeaveURL, sub, nil); err != nil {
				log.Warn("a leave was not told", "err", err)
			}
		}
	}
	if who == nil {
		return items.New(eng, cfg)
	}
	cfg.Admit, cfg.Own = who.Admit, eng
	cfg.Bind = auth.BindPrincipal
	return items.New(auth.NewGuard(eng), cfg)
}

// withItems serves the paths of items with one handler, and all others with another.
func withItems(one, others http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if p := r.URL.Path; strings.HasPrefix(p, items.DefaultPrefix) || strings.HasPrefix(p, "/stream/") {
			one.ServeHTTP(w, r)
			return
		}
		others.ServeHTTP(w, r)
	})
}

// listenItems opens the port that serves nothing but items; nil if there is none.
func (c *serveCmd) listenItems(ctx context.Context) (net.Listener, error) {
	if c.Items.Addr == "" {
		return nil, nil
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", c.Items.Addr)
	if err != nil {
		return nil, fmt.Errorf("items-addr: %w", err)
	}
	return c.secure(listener)
}

// startTriggers runs the triggers of the file. The returned function ends them.
func (c *serveCmd) startTriggers(eng *engine.Engine, log *slog.Logger) (end func(), err error) {
	triggers, err := c.Items.load(log)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	for _, t := range triggers {
		running.Go(func() {
			if err := t.Run(ctx, eng); err != nil && ctx.Err() == nil {
				log.Error("a trigger has ended", "trigger", t.Name, "err", err)
			}
		})
	}
	return func() {
		cancel()
		running.Wait()
	}, nil
}

func (f itemsFlags) load(log *slog.Logger) ([]items.Trigger, error) {
	if f.Triggers == "" {
		return nil, nil
	}
	data, err := os.ReadFile(f.Triggers)
	if err != nil {
		return nil, fmt.Errorf("items-triggers: %w", err)
	}
	var file triggerFile
	d := yaml.NewDecoder(bytes.NewReader(data))
	d.KnownFields(true)
	if err := d.Decode(&file); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("items-triggers %s: %w", f.Triggers, err)
	}
	caller := newCaller(f.HookSecret)
	var all []items.Trigger
	names := make(map[string]bool)
	for i, in := range file.Triggers {
		if in.Name == "" || in.URL == "" || in.Stream == "" || names[in.Name] {
			return nil, fmt.Errorf("items-triggers %s: trigger %d needs a name of its own, a url and a stream", f.Triggers, i+1)
		}
		names[in.Name] = true
		store, err := runnel.ParseStore(in.Store)
		if err != nil {
			return nil, fmt.Errorf("items-triggers %s: trigger %s: %w", f.Triggers, in.Name, err)
		}
		t := items.Trigger{
			Name: in.Name, Store: store, Stream: in.Stream, Group: in.Group, GroupPrefix: in.GroupPrefix, Item: in.Item, Prefix: in.Prefix,
			Events: in.Events, Timeout: in.Timeout, Attempts: in.Attempts, Logger: log,
			Handle: func(ctx context.Context, e *items.TriggerEvent) error {
				return caller.call(ctx, in.URL, e.Frame, nil, headerEventKey, e.Key)
			},
		}
		if in.When != "" {
			if t.When, err = items.Condition(in.When); err != nil {
				return nil, fmt.Errorf("items-triggers %s: trigger %s: %w", f.Triggers, in.Name, err)
			}
		}
		all = append(all, t)
	}
	return all, nil
}

// serveItems serves the port of items, like the main one. The returned function waits for its end.
func (c *serveCmd) serveItems(main *http.Server, listener net.Listener, handler http.Handler) (end func()) {
	if listener == nil {
		return func() {}
	}
	server := &http.Server{
		Handler: handler, ReadHeaderTimeout: main.ReadHeaderTimeout, IdleTimeout: main.IdleTimeout,
		MaxHeaderBytes: main.MaxHeaderBytes, ErrorLog: main.ErrorLog,
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(listener) // it ends when it is closed
	}()
	main.RegisterOnShutdown(func() { _ = server.Shutdown(context.Background()) })
	return func() {
		_ = server.Close()
		<-done
	}
}
