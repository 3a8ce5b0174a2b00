package engine_test

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/engine"
	"github.com/runnelhq/runnel/storage/pebblestore"
)

// BenchmarkAppendWithSubscriptions compares appends to streams that one of 10,000 subscriptions matches
// with appends where there are none, among 100,000 streams each, in turns. The ratio is that of times; at
// most 1.3 is wanted. In standing every stream has work already; in fresh most have none yet, so that
// appends put marks and begin wakes.
func BenchmarkAppendWithSubscriptions(b *testing.B) {
	const streams, subscriptions, writers, turn = 100_000, 10_000, 64, 500 * time.Millisecond
	plain := benchStreams(b, streams, 0)
	for _, kind := range []string{"standing", "fresh"} {
		b.Run(kind, func(b *testing.B) {
			subscribed := benchStreams(b, streams, subscriptions)
			among := streams
			if kind == "standing" {
				among = subscriptions
				benchAppends(b, subscribed, among, writers, 0)
			}
			var without, with int64
			for b.Loop() {
				without += benchAppends(b, plain, among, writers, turn)
				with += benchAppends(b, subscribed, among, writers, turn)
			}
			b.ReportMetric(float64(without)/float64(with), "ratio")
			b.ReportMetric(float64(with)/(float64(b.N)*turn.Seconds()), "appends/s")
		})
	}
}

func benchPath(i int) runnel.Segment {
	return runnel.Segment{Space: fmt.Sprintf("events/%d", i%10_000), Name: fmt.Sprint(i / 10_000)}
}

func benchStreams(b *testing.B, streams, subscriptions int) *engine.Engine {
	b.Helper()
	driver, err := pebblestore.Open(b.TempDir(), pebblestore.Config{})
	if err != nil {
		b.Fatal(err)
	}
	e, err := engine.Open(driver, engine.Config{Logger: slog.New(slog.DiscardHandler), MaxSegments: 2 * streams})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		e.Close()
		driver.Close()
	})
	inParallel(b, streams, func(i int) error {
		_, err := e.Create(b.Context(), benchPath(i), runnel.CreateOptions{})
		return err
	})
	if subscriptions > 0 {
		if _, err := e.Create(b.Context(), runnel.Segment{Space: "wake", Name: "pool"}, runnel.CreateOptions{}); err != nil {
			b.Fatal(err)
		}
	}
	inParallel(b, subscriptions, func(i int) error {
		_, _, err := e.CreateSubscription(b.Context(), noStore, fmt.Sprint(i), runnel.SubscriptionConfig{
			Type: runnel.PullWake, Pattern: fmt.Sprintf("events/%d/*", i), WakeStream: "wake/pool",
		})
		return err
	})
	return e
}

func inParallel(b *testing.B, n int, do func(i int) error) {
	b.Helper()
	var next atomic.Int64
	var wg sync.WaitGroup
	for range 256 {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				if err := do(i); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// benchAppends appends to random streams for a time, or for none, to each of them once, and returns how
// often.
func benchAppends(b *testing.B, e *engine.Engine, among, writers int, turn time.Duration) int64 {
	b.Helper()
	one := runnel.Record{Payload: make([]byte, 100)}
	if turn == 0 {
		inParallel(b, among, func(i int) error {
			_, err := e.Append(b.Context(), benchPath(i), runnel.AppendOptions{}, one)
			return err
		})
		return int64(among)
	}
	ctx, cancel := context.WithTimeout(b.Context(), turn)
	defer cancel()
	var count atomic.Int64
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for ctx.Err() == nil {
				if _, err := e.Append(b.Context(), benchPath(rand.IntN(among)), runnel.AppendOptions{}, one); err != nil {
					b.Error(err)
					return
				}
				count.Add(1)
			}
		})
	}
	wg.Wait()
	return count.Load()
}
