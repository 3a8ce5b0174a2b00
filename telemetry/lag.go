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
	Lags(ctx context.Context, pause func(context.Context) error) iter.Seq2[runnel.ReaderLag, error]
}

// LagConfig tunes how lags are measured. The zero LagConfig is right for most programs.
type LagConfig struct {
	// Interval is how long after a look at all cursors the next one begins. A look works for a twentieth of the time
	// at most, and rests for the others; so where there is much to look at it takes twenty times as long as its work.
	// 0 means DefaultLagInterval.
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
		if err := l.Look(ctx); err != nil && ctx.Err() == nil {
			l.cfg.Logger.WarnContext(ctx, "the lag of readers could not be measured; it will be tried again", "err", err)
		}
		timer.Reset(l.cfg.Interval)
	}
}

// Look looks at all cursors, once, and takes its time. It is called by one goroutine at a time.
func (l *Lag) Look(ctx context.Context) error {
	var first []runnel.ReaderLag // those that may be reported
	found := 0
	parked := make(map[runnel.Store]int)
	for r, err := range l.log.Lags(ctx, pacer()) {
		if err != nil {
			return err
		}
		found++
		if first = append(first, r); len(first) >= 2*l.cfg.MaxReaders {
			first = furthestBehind(first, l.cfg.MaxReaders)
		}
		if parked[r.Store] += 0; r.Parked {
			parked[r.Store]++
		}
	}
	first = furthestBehind(first, l.cfg.MaxReaders)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.readers, l.left, l.parked, l.at = slices.Clip(first), found-len(first), parked, time.Now()
	return nil
}

// furthestBehind keeps so many of the readers, in their order.
func furthestBehind(readers []runnel.ReaderLag, most int) []runnel.ReaderLag {
	slices.SortStableFunc(readers, func(a, b runnel.ReaderLag) int { return cmp.Compare(b.Entries, a.Entries) })
	return readers[:min(len(readers), most)]
}

// rest is how many times as long as it works a look rests.
const rest = 19

// pacer returns what makes a pause for the work that was done since the one before.
func pacer() func(context.Context) error {
	began := time.Now()
	return func(ctx context.Context) error {
		timer := time.NewTimer(rest * time.Since(began))
		defer timer.Stop()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
		}
		began = time.Now()
		return nil
	}
}
