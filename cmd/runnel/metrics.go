package main

import (
	"context"
	"log/slog"
	"net/http"

	"github.com/runnelhq/runnel/auth"
	"github.com/runnelhq/runnel/engine"
	"github.com/runnelhq/runnel/telemetry"
	"github.com/runnelhq/runnel/webhook"
	"github.com/runnelhq/runnel/wire"
)

// metricsPath is where Prometheus fetches from.
const metricsPath = "/metrics"

// newMetrics returns the handler of what is measured, and what measures. It is about all stores, so with access
// control it takes read everywhere.
func newMetrics(eng *engine.Engine, webhooks *webhook.Subscriptions, who *auth.Authenticator, log *slog.Logger) (handler http.Handler, measure func(context.Context), err error) {
	provider, shown, err := telemetry.NewPrometheus()
	if err != nil {
		return nil, nil, err
	}
	meter := provider.Meter("github.com/runnelhq/runnel")
	if err := telemetry.MeasureWebhooks(meter, func() telemetry.Webhooks { return telemetry.Webhooks(webhooks.Stats()) }); err != nil {
		return nil, nil, err
	}
	lag, err := telemetry.NewLag(eng, meter, telemetry.LagConfig{Logger: log})
	if err != nil {
		return nil, nil, err
	}
	if who == nil {
		return shown, lag.Run, nil
	}
	return who.Before(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := auth.CheckEverywhere(r.Context(), "read the metrics of", auth.Read); err != nil {
			wire.Refuse(w, err)
			return
		}
		shown.ServeHTTP(w, r)
	})), lag.Run, nil
}
