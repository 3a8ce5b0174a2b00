package telemetry

import (
	"context"
	"errors"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// Webhooks is what a dispatcher of webhooks tells of itself. The first line counts since it began, the second one
// is how things are.
type Webhooks struct {
	Done, Accepted, Failed, Parked, Lost uint64
	InFlight, Slow, Waiting, Open        int
}

// MeasureWebhooks makes the instruments of webhooks, which ask read whenever somebody asks them.
func MeasureWebhooks(meter metric.Meter, read func() Webhooks) error {
	var errs errorList
	attempts, err := meter.Int64ObservableCounter("runnel.webhook.attempts", metric.WithUnit("{attempt}"), metric.WithDescription("Attempts to deliver a webhook, by result."))
	errs.add(err)
	gauge := func(name, unit, description string) metric.Int64ObservableGauge {
		g, err := meter.Int64ObservableGauge(name, metric.WithUnit(unit), metric.WithDescription(description))
		errs.add(err)
		return g
	}
	inFlight := gauge("runnel.webhook.in_flight", "{attempt}", "Attempts being made.")
	slow := gauge("runnel.webhook.slow", "{attempt}", "Attempts being made that take long.")
	waiting := gauge("runnel.webhook.waiting", "{delivery}", "Deliveries known of.")
	open := gauge("runnel.webhook.targets.open", "{target}", "Targets that fail, and are only tried from time to time.")
	_, err = meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		w := read()
		for _, of := range []struct {
			result string
			count  uint64
		}{{"done", w.Done}, {"accepted", w.Accepted}, {"failed", w.Failed}, {"parked", w.Parked}, {"lost", w.Lost}} {
			o.ObserveInt64(attempts, int64(of.count), metric.WithAttributes(attribute.String("result", of.result)))
		}
		o.ObserveInt64(inFlight, int64(w.InFlight))
		o.ObserveInt64(slow, int64(w.Slow))
		o.ObserveInt64(waiting, int64(w.Waiting))
		o.ObserveInt64(open, int64(w.Open))
		return nil
	}, attempts, inFlight, slow, waiting, open)
	errs.add(err)
	return errs.err()
}

// errorList collects what went wrong in making instruments.
type errorList []error

func (l *errorList) add(err error) { *l = append(*l, err) }

func (l *errorList) err() error { return errors.Join(*l...) }
