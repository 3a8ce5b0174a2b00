package telemetry

import (
	"cmp"
	"context"
	"iter"
	"log/slog"
	"slices"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/runnelhq/runnel"
)

// laggards is what lags are read from.
type laggards interface {
	Lags(ctx context.Context) iter.Seq2[runnel.ReaderLag, error]
}

// LagConfig tunes how lags are measured. The zero LagConfig is right for most programs.
type LagConfig struct {
	// Interval is how often all cursors are looked at, unless that takes more than a twentieth of it: then it is
	// twenty times as long as that. 0 means DefaultLagInterval.
	Interval time.Duration
	// MaxReaders is how many readers are reported one by one: those with most entries to work on. 0 means
	// DefaultMaxReaders.
	MaxReaders int
	// Logger is told why cursors could not be looked at. Nil means slog.Default.
	Logger *slog.Logger
}

// The defaults of a [LagConfig].
const (
	DefaultLagInterval = 15 * time.Second
	DefaultMaxReaders  = 1000
)

func (c LagConfig) withDefaults() LagConfig {
	c.Interval = cmp.Or(c.Interval, DefaultLagInterval)
	c.MaxReaders = cmp.Or(c.MaxReaders, DefaultMaxReaders)
	c.Logger = cmp.Or(c.Logger, slog.Default())
	return c
}

// Lag measures how far readers are behind. Make one with [NewLag] and let it [Lag.Run]. It looks by itself, so that
// however often somebody asks costs storage nothing.
type Lag struct {
	log laggards
	cfg LagConfig

	mu      sync.Mutex
	readers []runnel.ReaderLag // those that are reported
	left    int                // how many are not
	parked  map[runnel.Store]int
	at      time.Time // zero before the first look
}

// NewLag makes the instruments of lags.
func NewLag(log laggards, meter metric.Meter, cfg LagConfig) (*Lag, error) {
	l := &Lag{log: log, cfg: cfg.withDefaults()}
	var errs errorList
	gauge := func(name, unit, description string) metric.Int64ObservableGauge {
		g, err := meter.Int64ObservableGauge(name, metric.WithUnit(unit), metric.WithDescription(description))
		errs.add(err)
		return g
	}
	entries := gauge("runnel.cursor.lag.entries", "{entry}", "Entries that a reader has yet to work on.")
	size := gauge("runnel.cursor.lag.size", "By", "Bytes of the payloads that a reader has yet to work on.")
	behind := gauge("runnel.cursor.behind", "{segment}", "Segments of a reader on which it has yet to work.")
	left := gauge("runnel.cursor.unreported", "{reader}", "Readers that are not reported one by one.")
	age, err := meter.Float64ObservableGauge("runnel.cursor.sample.age", metric.WithUnit("s"), metric.WithDescription("How long ago the cursors were looked at."))
	errs.add(err)
	parked := gauge("runnel.subscription.parked", "{subscription}", "Subscriptions whose webhook is not tried any more.")
	_, err = meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.at.IsZero() {
			return nil
		}
		for i := range l.readers {
			r := &l.readers[i]
			of := metric.WithAttributes(attribute.String("store", r.Store.String()), attribute.String("space", r.Space), attribute.String("cursor", r.Cursor))
			o.ObserveInt64(entries, int64(r.Entries), of)
			o.ObserveInt64(size, int64(r.Bytes), of)
			o.ObserveInt64(behind, int64(r.Behind), of)
		}
		o.ObserveInt64(left, int64(l.left))
		o.ObserveFloat64(age, time.Since(l.at).Seconds())
		for store, n := range l.parked {
			o.ObserveInt64(parked, int64(n), metric.WithAttributes(attribute.String("store", store.String())))
		}
		return nil
	}, entries, size, behind, left, age, parked)
	errs.add(err)
	return l, errs.err()
}

// Run looks at all cursors at once, and then again and again until ctx ends.
func (l *Lag) Run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		began := time.Now()
		if err := l.Look(ctx); err != nil && ctx.Err() == nil {
			l.cfg.Logger.WarnContext(ctx, "the lag of readers could not be measured; it will be tried again", "err", err)
		}
		timer.Reset(max(l.cfg.Interval, 20*time.Since(began)))
	}
}

// Look looks at all cursors, once.
func (l *Lag) Look(ctx context.Context) error {
	var all []runnel.ReaderLag
	parked := make(map[runnel.Store]int)
	for r, err := range l.log.Lags(ctx) {
		if err != nil {
			return err
		}
		all = append(all, r)
		if parked[r.Store] += 0; r.Parked {
			parked[r.Store]++
		}
	}
	slices.SortStableFunc(all, func(a, b runnel.ReaderLag) int { return cmp.Compare(b.Entries, a.Entries) })
	reported := all[:min(len(all), l.cfg.MaxReaders)]
	l.mu.Lock()
	defer l.mu.Unlock()
	l.readers, l.left, l.parked, l.at = slices.Clip(reported), len(all)-len(reported), parked, time.Now()
	return nil
}
