package main

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/runnelhq/runnel/webhook"
)

func TestSettingsOfWebhooks(t *testing.T) {
	got, err := parseServe(t)
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := got.Webhook.config(slog.Default())
	if err != nil || cfg.Timeout != 30*time.Second || cfg.ParkAfter != 72*time.Hour || cfg.Proxy != nil {
		t.Errorf("defaults: %+v, %v", cfg, err)
	}
	policy, err := webhook.NewPolicy(got.Webhook.policy())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := policy.CheckURL("http://127.0.0.1:9/"); err == nil {
		t.Error("the local machine is allowed by default")
	}
	path := writeConfig(t, "webhook-allow: 10.0.0.0/8,hooks.internal\nwebhook-development: true\nwebhook-park-after: 0s\n")
	if got, err = parseServe(t, "--config", path); err != nil {
		t.Fatal(err)
	}
	if policy, err = webhook.NewPolicy(got.Webhook.policy()); err != nil {
		t.Fatal(err)
	}
	for _, url := range []string{"https://10.1.2.3/", "https://hooks.internal/", "http://127.0.0.1:9/"} {
		if _, err := policy.CheckURL(url); err != nil {
			t.Error(err)
		}
	}
	if cfg, err := got.Webhook.config(slog.Default()); err != nil || cfg.ParkAfter >= 0 {
		t.Errorf("%+v, %v", cfg, err)
	}
	for _, args := range []string{
		"--webhook-allow=127.1", "--webhook-only-allowed", "--webhook-timeout=1ms", "--webhook-concurrency=0", "--webhook-proxy=x", "--webhook-ports=70000",
	} {
		if _, err := parseServe(t, args); err == nil || !strings.Contains(err.Error(), "webhook-") {
			t.Errorf("%s: %v", args, err)
		}
	}
}
