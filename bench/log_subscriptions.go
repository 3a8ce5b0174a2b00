//go:build linux

package main

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/engine"
)

// How many streams and subscriptions the row of appends to subscribed streams has, and how many appends a turn.
const (
	subscribedStreams = 100_000
	subscriptions     = 10_000
	subscribedTurn    = 5_000
	subscribedWriters = 64
)

// subscribedStream returns the n-th stream. The subscriptions take turns.
func subscribedStream(n int) runnel.Segment {
	return runnel.Segment{Space: "events/" + strconv.Itoa(n%subscriptions), Name: strconv.Itoa(n / subscriptions)}
}

var wakes = runnel.Segment{Space: "wakes", Name: "pool"}

// appendFresh measures appends of one record, each to a stream that one of the subscriptions matches and on
// which it has no work yet, so that the append leaves a mark. A wake of each subscription is in flight. The
// limit is the same appends where there are no subscriptions, in turns; both are microseconds an append, of
// the turn that is in the middle by their ratio.
func appendFresh(dir string, _ time.Duration, _ int) (r logResult, err error) {
	return r, withLog(filepath.Join(dir, "plain"), func(plain *engine.Engine) error {
		return withLog(filepath.Join(dir, "subscribed"), func(subscribed *engine.Engine) error {
			if err := prepareSubscribed(plain, false); err != nil {
				return err
			}
			if err := prepareSubscribed(subscribed, true); err != nil {
				return err
			}
			var turns []logResult
			for from := subscriptions; from < subscribedStreams; from += subscribedTurn {
				var turn logResult
				for _, side := range []struct {
					e    *engine.Engine
					took *float64
				}{{plain, &turn.LimitMS}, {subscribed, &turn.MedianMS}} {
					began := time.Now()
					if err := appendEach(side.e, from, subscribedTurn); err != nil {
						return err
					}
					*side.took = time.Since(began).Seconds() * 1e3 / subscribedTurn
				}
				turns = append(turns, turn)
			}
			slices.SortFunc(turns, func(a, b logResult) int { return int(sign(a.MedianMS/a.LimitMS - b.MedianMS/b.LimitMS)) })
			r = turns[len(turns)/2]
			return nil
		})
	})
}

// prepareSubscribed makes the subscriptions, if they are wanted, and the streams, and appends to the first
// stream of each of these, so that its wake begins.
func prepareSubscribed(e *engine.Engine, subscribe bool) error {
	ctx := context.Background()
	if _, err := e.Create(ctx, wakes, runnel.CreateOptions{}); err != nil {
		return err
	}
	if subscribe {
		if err := inParallel(0, subscriptions, func(n int) error {
			_, _, err := e.CreateSubscription(ctx, runnel.Store{}, strconv.Itoa(n), runnel.SubscriptionConfig{
				Type: runnel.PullWake, Pattern: fmt.Sprintf("events/%d/*", n), WakeStream: wakes.Path(),
			})
			return err
		}); err != nil {
			return err
		}
	}
	if err := inParallel(0, subscribedStreams, func(n int) error {
		_, err := e.Create(ctx, subscribedStream(n), runnel.CreateOptions{})
		return err
	}); err != nil {
		return err
	}
	if err := appendEach(e, 0, subscriptions); err != nil || !subscribe {
		return err
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for ; ; <-tick.C {
		info, err := e.Stat(ctx, wakes)
		if err != nil || info.Tail >= subscriptions {
			return err
		}
	}
}

// appendEach appends a record to each of n streams.
func appendEach(e *engine.Engine, from, n int) error {
	record := runnel.Record{Payload: text(recordBytes)}
	return inParallel(from, n, func(n int) error {
		_, err := e.Append(context.Background(), subscribedStream(n), runnel.AppendOptions{}, record)
		return err
	})
}

// inParallel does something for n numbers, beginning with from.
func inParallel(from, n int, do func(n int) error) error {
	var next atomic.Int64
	var all errgroup.Group
	for range subscribedWriters {
		all.Go(func() error {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				if err := do(from + i); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return all.Wait()
}
