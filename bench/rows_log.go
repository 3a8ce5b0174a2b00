//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// logPeer measures the log in a process of its own, which has all cores.
func (m *machine) logPeer(ctx context.Context, kind string, n int) (logResult, error) {
	m.dirs++
	dir := filepath.Join(m.dir, "data-"+strconv.Itoa(m.dirs))
	if err := os.Mkdir(dir, 0o700); err != nil {
		return logResult{}, err
	}
	cpus := m.opts.cpus
	m.opts.cpus = runtimeCPUs
	p, err := m.peer(kind, dir, m.opts.duration.String(), strconv.Itoa(n))
	m.opts.cpus = cpus
	if err != nil {
		return logResult{}, err
	}
	p.data = dir
	var r logResult
	if err := json.Unmarshal([]byte(p.addr), &r); err != nil {
		return r, fmt.Errorf("%s: %w", kind, err)
	}
	return r, errors.Join(ctx.Err(), p.stop(syscall.SIGKILL))
}

// logAppends measures single records of so many writers. The target is a share of what the writers would
// do if each had the disk for itself, or a rate.
func logAppends(writers int, target, agreed float64) func(context.Context, *machine) ([]result, error) {
	return func(ctx context.Context, m *machine) ([]result, error) {
		var rows []result
		for _, kind := range []string{"own", "hot"} {
			r, err := m.logPeer(ctx, "log-append-"+kind, writers)
			if err != nil {
				return nil, err
			}
			row := result{
				Name: fmt.Sprintf("log/append/%s/%d", kind, writers), Value: r.PerSecond, Unit: "/s",
				Limit: r.Limit * float64(writers), LimitName: fmt.Sprintf("%d × fdatasync", writers), Target: target,
				Note: fmt.Sprintf("p50 %s ms; fdatasync %s/s, p50 %s ms", number(r.MedianMS), number(r.Limit), number(r.LimitMS)),
			}
			if agreed > 0 {
				row.Note += fmt.Sprintf("; %.2f of %s", row.ratio(), row.LimitName)
				row.Limit, row.LimitName, row.Target = agreed, "agreed", 1
			}
			rows = append(rows, row)
		}
		return rows, nil
	}
}

// logLatency measures how long a lone writer waits for the answer to a record.
func logLatency(ctx context.Context, m *machine) ([]result, error) {
	r, err := m.logPeer(ctx, "log-append-own", 1)
	if err != nil {
		return nil, err
	}
	return []result{{
		Name: "log/append/1", Value: r.MedianMS, Unit: "ms", Limit: r.LimitMS, LimitName: "median fdatasync", Less: true,
		Note: fmt.Sprintf("%s/s; fdatasync %s/s", number(r.PerSecond), number(r.Limit)),
	}}, nil
}

// logSubscribed measures what a subscription costs an append that leaves work for it.
func logSubscribed(ctx context.Context, m *machine) ([]result, error) {
	r, err := m.logPeer(ctx, "log-append-fresh", subscribedWriters)
	if err != nil {
		return nil, err
	}
	return []result{{
		Name: "log/append/subscribed", Value: r.MedianMS * 1e3, Unit: "µs",
		Limit: r.LimitMS * 1e3, LimitName: "without subscriptions", Target: 1.3, Less: true,
		Note: fmt.Sprintf("an append; %d writers, %d streams, %d subscriptions", subscribedWriters, subscribedStreams, subscriptions),
	}}, nil
}

// logBatches measures batches of 1,000 records by so many writers.
func logBatches(writers int) func(context.Context, *machine) ([]result, error) {
	return func(ctx context.Context, m *machine) ([]result, error) {
		r, err := m.logPeer(ctx, "log-batch", writers)
		if err != nil {
			return nil, err
		}
		return []result{{
			Name: fmt.Sprintf("log/batch/%d", writers), Value: r.PerSecond, Unit: "entries/s",
			Limit: 1_200_000, LimitName: "agreed", Target: 1,
			Note: fmt.Sprintf("batches of %d, p50 %s ms; fdatasync %s/s", batchRecords, number(r.MedianMS), number(r.Limit)),
		}}, nil
	}
}

// logReads measures reading, or peeking, at an agreed rate.
func logReads(name, kind string, n int, unit string, agreed float64, note string) func(context.Context, *machine) ([]result, error) {
	return func(ctx context.Context, m *machine) ([]result, error) {
		r, err := m.logPeer(ctx, kind, n)
		if err != nil {
			return nil, err
		}
		row := result{Name: name, Value: r.PerSecond, Unit: unit, Note: note}
		if agreed > 0 {
			row.Limit, row.LimitName, row.Target = agreed, "agreed", 1
		}
		return []result{row}, nil
	}
}
