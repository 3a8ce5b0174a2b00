package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/auth"
	"github.com/runnelhq/runnel/engine"
	"github.com/runnelhq/runnel/items"
	"github.com/runnelhq/runnel/seats"
	"github.com/runnelhq/runnel/storage"
)

// itemsFlags say how items are served, and who is asked or told about them.
type itemsFlags struct {
	Addr        string        `help:"Serve items on this host and port too, with WebSocket at its root." env:"RUNNEL_ITEMS_ADDR" placeholder:"HOST:PORT"`
	InjectID    bool          `help:"Put the id of an item into values that subscribers are given, where they have none." env:"RUNNEL_ITEMS_INJECT_ID"`
	ConnectURL  string        `name:"connect-url" help:"Ask this URL before a WebSocket is accepted; anything but a JSON answer with a 2xx status refuses it." env:"RUNNEL_ITEMS_CONNECT_URL" placeholder:"URL"`
	JoinURL     string        `name:"join-url" help:"Ask this URL before a subscription is given anything; anything but a JSON answer with a 2xx status and without {\"unauthorized\": true} refuses it." env:"RUNNEL_ITEMS_JOIN_URL" placeholder:"URL"`
	LeaveURL    string        `name:"leave-url" help:"Tell this URL of the end of each subscription." env:"RUNNEL_ITEMS_LEAVE_URL" placeholder:"URL"`
	HookTimeout time.Duration `help:"Give connect-url, join-url and leave-url this long to answer." default:"5s" env:"RUNNEL_ITEMS_HOOK_TIMEOUT" placeholder:"TIME"`
	PresenceTTL time.Duration `name:"presence-ttl" help:"Show a member of a group for this long after the server that had its connection has crashed." default:"1m" env:"RUNNEL_ITEMS_PRESENCE_TTL" placeholder:"TIME"`
	HookSecret  string        `help:"Sign what is sent to these URLs, and to those of triggers, with this secret (HMAC-SHA256)." env:"RUNNEL_ITEMS_HOOK_SECRET" placeholder:"SECRET"`
	History     string        `help:"Keep the changes of items for at least this long, for readers that come back; forever keeps all of them. Items themselves are kept whatever their history." default:"24h" env:"RUNNEL_ITEMS_HISTORY" placeholder:"TIME"`
	Triggers    string        `help:"Call URLs after changes of items, after events, and about subscriptions, as this YAML file says." env:"RUNNEL_ITEMS_TRIGGERS" placeholder:"FILE"`
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
	if f.PresenceTTL < time.Second || f.PresenceTTL > time.Hour {
		errs = append(errs, fmt.Errorf("items-presence-ttl must be between 1s and 1h0m0s, got %s", f.PresenceTTL))
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

// newItems returns the handler of items, behind a guard if there is anybody who says who asks, and a function
// that runs the triggers and hooks until its context ends.
func (c *serveCmd) newItems(eng *engine.Engine, who *auth.Authenticator, places *seats.Seats, holder string, log *slog.Logger) (*items.Handler, func(context.Context), error) {
	called, err := c.newItemCalls(log)
	if err != nil {
		return nil, nil, err
	}
	var live *items.Handler
	hooks, err := items.NewHooks(eng, called.hooks, items.HooksConfig{Holder: holder, Lost: func() { live.Reconnect() }, Logger: log})
	if err != nil {
		return nil, nil, fmt.Errorf("items-triggers: %w", err)
	}
	cfg := items.Config{
		Store: auth.Store, AllowedOrigins: c.AllowOrigin, InjectID: c.Items.InjectID, HookTimeout: c.Items.HookTimeout,
		PresenceTTL: c.Items.PresenceTTL, Connect: called.connect, Seats: places, Logger: log,
	}
	if len(called.hooks) > 0 {
		cfg.Join, cfg.Leave = hooks.Join, hooks.Leave
	}
	if who == nil {
		live = items.New(eng, cfg)
	} else {
		live = items.New(auth.NewGuard(eng), guarded(cfg, eng, who))
	}
	for _, t := range called.triggers {
		if err := t.Begin(context.Background(), eng); err != nil {
			return nil, nil, fmt.Errorf("items-triggers: trigger %s: %w", t.Name, err)
		}
	}
	return live, func(ctx context.Context) {
		var running sync.WaitGroup
		defer running.Wait()
		running.Go(func() { _ = hooks.Run(ctx) }) // it ends with ctx
		for _, t := range called.triggers {
			t.Holder = holder
			running.Go(func() {
				if err := t.Run(ctx, eng); err != nil && ctx.Err() == nil {
					log.Error("a trigger has ended", "trigger", t.Name, "err", err)
				}
			})
		}
	}, nil
}

// guarded asks who it is that does something.
func guarded(cfg items.Config, own items.Log, who *auth.Authenticator) items.Config {
	cfg.Admit, cfg.Own = who.Admit, own
	cfg.Bind, cfg.Caller = auth.BindPrincipal, auth.SubjectOf
	cfg.MayRevoke = func(ctx context.Context, of runnel.Segment) error {
		r := auth.Request{Action: "revoke subscriptions to", Needs: auth.Admin, Kind: "segment", Store: of.Store, Path: of.Path()}
		if of.Name == "" {
			r.Kind, r.Path = "space", of.Space
		}
		return auth.Check(ctx, r)
	}
	return cfg
}

// holder names the process to others that run the same triggers. Where there can be no others it is always the
// same, so that the next process need not wait for the leases of one that has crashed.
func holder(driver storage.Driver) string {
	if driver.Limits().Exclusive {
		return "serve"
	}
	return ""
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
