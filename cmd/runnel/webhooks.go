package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"time"

	"github.com/runnelhq/runnel/webhook"
)

// webhookFlags say where webhooks may be sent, and how many at a time.
type webhookFlags struct {
	Allow       []string      `help:"Send webhooks to these targets although they are inside a network: addresses, ranges such as 10.0.0.0/8, host names, *.names; separated by commas." env:"RUNNEL_WEBHOOK_ALLOW" placeholder:"TARGET"`
	OnlyAllowed bool          `help:"Send webhooks to the targets of webhook-allow only." env:"RUNNEL_WEBHOOK_ONLY_ALLOWED"`
	Ports       []uint16      `help:"Send webhooks to these ports only, separated by commas; otherwise to 443 and those from 1024 on." env:"RUNNEL_WEBHOOK_PORTS" placeholder:"PORT"`
	Development bool          `help:"Send webhooks to localhost too, by http as well. For development only." env:"RUNNEL_WEBHOOK_DEVELOPMENT"`
	Timeout     time.Duration `help:"Give a receiver this long to answer, at most the lease of its subscription." default:"30s" env:"RUNNEL_WEBHOOK_TIMEOUT" placeholder:"TIME"`
	Concurrency int           `help:"Send this many webhooks at a time." default:"512" env:"RUNNEL_WEBHOOK_CONCURRENCY" placeholder:"COUNT"`
	ParkAfter   time.Duration `help:"Park a webhook that has failed for this long, until it is replayed; 0 is never." default:"72h" env:"RUNNEL_WEBHOOK_PARK_AFTER" placeholder:"TIME"`
	Proxy       string        `help:"Send webhooks through this proxy, which must then refuse targets inside the network itself." env:"RUNNEL_WEBHOOK_PROXY" placeholder:"URL"`
}

// validate checks what the types of the settings cannot.
func (f webhookFlags) validate() error {
	var errs []error
	if _, err := webhook.NewPolicy(f.policy()); err != nil {
		errs = append(errs, fmt.Errorf("webhook-allow: %w", err))
	}
	if f.OnlyAllowed && len(f.Allow) == 0 {
		errs = append(errs, errors.New("webhook-only-allowed needs targets in webhook-allow"))
	}
	if f.Timeout < 100*time.Millisecond || f.Timeout > 10*time.Minute {
		errs = append(errs, fmt.Errorf("webhook-timeout must be between 100ms and 10m0s, got %s", f.Timeout))
	}
	if f.Concurrency < 1 || f.Concurrency > 1<<16 {
		errs = append(errs, fmt.Errorf("webhook-concurrency must be between 1 and 65536, got %d", f.Concurrency))
	}
	if f.ParkAfter < 0 {
		errs = append(errs, fmt.Errorf("webhook-park-after must be at least 0, got %s", f.ParkAfter))
	}
	if _, err := f.proxy(); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (f webhookFlags) policy() webhook.PolicyConfig {
	return webhook.PolicyConfig{Allow: f.Allow, Exclusive: f.OnlyAllowed, Ports: f.Ports, Development: f.Development}
}

func (f webhookFlags) proxy() (*url.URL, error) {
	if f.Proxy == "" {
		return nil, nil
	}
	u, err := url.Parse(f.Proxy)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" && u.Scheme != "socks5" {
		return nil, errors.New("webhook-proxy must be an http, https or socks5 URL") // it may hold a password
	}
	return u, nil
}

func (f webhookFlags) config(log *slog.Logger) (webhook.Config, error) {
	proxy, err := f.proxy()
	if err != nil {
		return webhook.Config{}, err
	}
	return webhook.Config{
		Timeout: f.Timeout, MaxInFlight: f.Concurrency, ParkAfter: offIfZero(f.ParkAfter), Proxy: proxy, Logger: log,
	}, nil
}
