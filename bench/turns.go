//go:build linux

package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"
)

// turnCount is how many turns each load gets. It is odd, so that there is a median.
const turnCount = 7

// turns measures loads one after the other, several times, so that whatever else the machine does meets all
// of them. Rates and latencies are medians of the turns, as what disturbs one turn is seldom there in most.
func turns(ctx context.Context, duration time.Duration, loads ...load) ([]loadResult, error) {
	all := make([][]loadResult, len(loads))
	for range turnCount {
		for i, l := range loads {
			r, err := l.run(ctx, duration/turnCount)
			if err != nil {
				return nil, err
			}
			all[i] = append(all[i], r)
		}
	}
	results := make([]loadResult, len(loads))
	for i := range all {
		results[i] = medians(all[i])
	}
	return results, nil
}

// medians makes one result of those of several turns.
func medians(rs []loadResult) loadResult {
	m := loadResult{
		perSecond: middle(rs, func(r loadResult) float64 { return r.perSecond }),
		p50:       middle(rs, func(r loadResult) time.Duration { return r.p50 }),
		p99:       middle(rs, func(r loadResult) time.Duration { return r.p99 }),
		cpu:       middle(rs, func(r loadResult) float64 { return r.cpu }),
		server:    middle(rs, func(r loadResult) time.Duration { return r.server }),
	}
	for _, r := range rs {
		m.requests += r.requests
	}
	return m
}

// middle returns the median of what of tells of some results.
func middle[T cmp.Ordered](rs []loadResult, of func(loadResult) T) T {
	var all []T
	for _, r := range rs {
		all = append(all, of(r))
	}
	slices.Sort(all)
	return all[len(all)/2]
}

// serverTimes says what each request took of the server's processor, and of that of the limit. Unlike rates
// these hardly change when other programs use the machine.
func serverTimes(r, limit loadResult) string {
	return fmt.Sprintf("%s of %s µs of processor a request", number(float64(r.server)/1e3), number(float64(limit.server)/1e3))
}
