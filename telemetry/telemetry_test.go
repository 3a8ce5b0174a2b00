package telemetry_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/telemetry"
)

// behind are readers that are behind, and an error after them.
type behind struct {
	readers []runnel.ReaderLag
	err     error
}

func (b *behind) Lags(context.Context, func(context.Context) error) iter.Seq2[runnel.ReaderLag, error] {
	return func(yield func(runnel.ReaderLag, error) bool) {
		for _, r := range b.readers {
			if !yield(r, nil) {
				return
			}
		}
		if b.err != nil {
			yield(runnel.ReaderLag{}, b.err)
		}
	}
}

// fetch returns the lines about us that Prometheus is given.
func fetch(t testing.TB, h http.Handler) string {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	body, err := io.ReadAll(w.Body)
	if err != nil || w.Code != http.StatusOK {
		t.Fatal(w.Code, err)
	}
	var lines []string
	for line := range strings.Lines(string(body)) {
		if strings.HasPrefix(line, "runnel_") {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "")
}

func wantLines(t testing.TB, got string, want ...string) {
	t.Helper()
	for _, line := range want {
		if !strings.Contains(got, line+"\n") {
			t.Errorf("there is no line %s in\n%s", line, got)
		}
	}
}

const store = `store="00000000-0000-0000-0000-000000000000"`

func TestTheReadersThatAreFurthestBehindAreReportedOneByOne(t *testing.T) {
	provider, shown, err := telemetry.NewPrometheus()
	if err != nil {
		t.Fatal(err)
	}
	log := &behind{readers: []runnel.ReaderLag{
		{Space: "events", Cursor: "reader", Behind: 1, Entries: 1, Bytes: 10},
		{Cursor: runnel.SubscriptionCursor("mail"), Behind: 2, Entries: 7, Bytes: 70, Parked: true},
		{Space: "events", Cursor: "idle"},
	}}
	lag, err := telemetry.NewLag(log, provider.Meter("test"), telemetry.LagConfig{MaxReaders: 2, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	if got := fetch(t, shown); got != "" {
		t.Fatal("before the first look: ", got)
	}
	if err := lag.Look(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := fetch(t, shown)
	wantLines(t, got,
		`runnel_cursor_lag_entries{cursor="__ds/mail",space="",`+store+`} 7`,
		`runnel_cursor_lag_size_bytes{cursor="__ds/mail",space="",`+store+`} 70`,
		`runnel_cursor_behind{cursor="__ds/mail",space="",`+store+`} 2`,
		`runnel_cursor_lag_entries{cursor="reader",space="events",`+store+`} 1`,
		`runnel_cursor_unreported 1`,
		`runnel_subscription_parked{`+store+`} 1`,
	)
	if !strings.Contains(got, "runnel_cursor_sample_age_seconds ") {
		t.Error(got)
	}
	// What cannot be looked at is reported as it was, and grows old.
	log.err = errors.New("no storage")
	log.readers = nil
	if err := lag.Look(t.Context()); !errors.Is(err, log.err) {
		t.Fatal(err)
	}
	wantLines(t, fetch(t, shown), `runnel_cursor_lag_entries{cursor="__ds/mail",space="",`+store+`} 7`)
}

func TestWebhooksAreCountedByResult(t *testing.T) {
	provider, shown, err := telemetry.NewPrometheus()
	if err != nil {
		t.Fatal(err)
	}
	now := telemetry.Webhooks{Done: 1, Accepted: 2, Failed: 3, Parked: 4, Lost: 5, InFlight: 6, Slow: 7, Waiting: 8, Open: 9}
	if err := telemetry.MeasureWebhooks(provider.Meter("test"), func() telemetry.Webhooks { return now }); err != nil {
		t.Fatal(err)
	}
	wantLines(t, fetch(t, shown),
		`runnel_webhook_attempts_total{result="done"} 1`, `runnel_webhook_attempts_total{result="accepted"} 2`,
		`runnel_webhook_attempts_total{result="failed"} 3`, `runnel_webhook_attempts_total{result="parked"} 4`,
		`runnel_webhook_attempts_total{result="lost"} 5`,
		`runnel_webhook_in_flight 6`, `runnel_webhook_slow 7`, `runnel_webhook_waiting 8`, `runnel_webhook_targets_open 9`,
	)
}

func Example() {
	provider, shown, err := telemetry.NewPrometheus()
	if err != nil {
		panic(err)
	}
	log := &behind{readers: []runnel.ReaderLag{{Space: "orders", Cursor: "mail", Behind: 1, Entries: 3, Bytes: 120}}}
	lag, err := telemetry.NewLag(log, provider.Meter("example"), telemetry.LagConfig{})
	if err != nil {
		panic(err)
	}
	if err := lag.Look(context.Background()); err != nil { // Run looks again and again
		panic(err)
	}
	w := httptest.NewRecorder()
	shown.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	for line := range strings.Lines(w.Body.String()) {
		if strings.HasPrefix(line, "runnel_cursor_lag_entries") {
			fmt.Print(line)
		}
	}
	// Output: runnel_cursor_lag_entries{cursor="mail",space="orders",store="00000000-0000-0000-0000-000000000000"} 3
}

// many are readers of whom each takes a while to be looked at.
type many struct {
	n    int
	work time.Duration
}

func (m *many) Lags(ctx context.Context, pause func(context.Context) error) iter.Seq2[runnel.ReaderLag, error] {
	return func(yield func(runnel.ReaderLag, error) bool) {
		for i := range m.n {
			time.Sleep(m.work) //nolint:forbidigo // in fake time
			if !yield(runnel.ReaderLag{Cursor: fmt.Sprint(i), Entries: uint64(i)}, nil) {
				return
			}
			if err := pause(ctx); err != nil {
				yield(runnel.ReaderLag{}, err)
				return
			}
		}
	}
}

func TestALookAtManyReadersIsSpreadAndKeepsFew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		provider, shown, err := telemetry.NewPrometheus()
		if err != nil {
			t.Fatal(err)
		}
		lag, err := telemetry.NewLag(&many{n: 100, work: 10 * time.Millisecond}, provider.Meter("test"), telemetry.LagConfig{MaxReaders: 3})
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if err := lag.Look(t.Context()); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took != 20*time.Second {
			t.Errorf("work of a second took %v", took)
		}
		wantLines(t, fetch(t, shown), `runnel_cursor_lag_entries{cursor="99",space="",`+store+`} 99`, `runnel_cursor_lag_entries{cursor="97",space="",`+store+`} 97`, `runnel_cursor_unreported 97`)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := lag.Look(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a look that was given up ended with %v", err)
		}
	})
}
