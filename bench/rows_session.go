//go:build linux

package main

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/coder/websocket"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/client"
)

// dialSession starts a server and connects the Go SDK to it.
func (m *machine) dialSession(ctx context.Context) (*client.Client, error) {
	p, err := m.serve("")
	if err != nil {
		return nil, err
	}
	return client.Dial(ctx, "http://"+p.addr, client.Config{})
}

// sessionBatches measures batches of 1,000 records over one WebSocket, by so many writers.
func sessionBatches(writers int) func(context.Context, *machine) ([]result, error) {
	return func(ctx context.Context, m *machine) ([]result, error) {
		c, err := m.dialSession(ctx)
		if err != nil {
			return nil, err
		}
		defer func() { _ = c.Close() }() // what it wrote is acknowledged
		records := someRecords(batchRecords)
		do := func(ctx context.Context, writer, _ int) error {
			_, err := c.Publish(ctx, benchSegment(writer), records...)
			return err
		}
		took, cpu, err := m.warmed(writers, do)
		if err != nil {
			return nil, err
		}
		return []result{{
			Name: fmt.Sprintf("session/produce/%d", writers), Value: float64(len(took)*batchRecords) / m.opts.duration.Seconds(), Unit: "entries/s",
			Limit: 250_000, LimitName: "agreed", Target: 1, GeneratorCPU: cpu,
			Note: fmt.Sprintf("batches of %d, p50 %s ms", batchRecords, number(took[len(took)/2].Seconds()*1e3)),
		}}, nil
	}
}

// warmed measures work after a fifth of it that does not count. The durations are in order.
func (m *machine) warmed(workers int, do func(ctx context.Context, worker, n int) error) (took []time.Duration, cpu float64, err error) {
	if _, err := work(m.opts.duration/5, workers, do); err != nil {
		return nil, 0, err
	}
	var used usage
	used.begin()
	took, err = work(m.opts.duration, workers, do)
	if err == nil && len(took) == 0 {
		err = fmt.Errorf("nothing was done in %s", m.opts.duration)
	}
	slices.Sort(took)
	return took, used.end(), err
}

// sessionConsume measures one reader of a million entries over one WebSocket.
func sessionConsume(ctx context.Context, m *machine) ([]result, error) {
	c, err := m.dialSession(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { _ = c.Close() }() // there is nothing under way
	records := someRecords(batchRecords)
	for range stored / batchRecords {
		if _, err := c.Publish(ctx, benchSegment(0), records...); err != nil {
			return nil, err
		}
	}
	read := func() (n int, err error) {
		for entry, err := range c.Consume(ctx, client.Segment(benchSegment(0), 0)) {
			if err != nil {
				return n, err
			}
			if n++; entry.Sequence != runnel.Sequence(n) || len(entry.Payload) != recordBytes {
				return n, fmt.Errorf("entry %d of %d bytes came as number %d", entry.Sequence, len(entry.Payload), n)
			}
		}
		if n != stored {
			return n, fmt.Errorf("read %d entries", n)
		}
		return n, nil
	}
	if _, err := read(); err != nil {
		return nil, err
	}
	var used usage
	used.begin()
	total, began := 0, time.Now()
	for time.Since(began) < m.opts.duration {
		n, err := read()
		if err != nil {
			return nil, err
		}
		total += n
	}
	return []result{{
		Name: "session/consume", Value: float64(total) / time.Since(began).Seconds(), Unit: "entries/s",
		Limit: 600_000, LimitName: "agreed", Target: 1, GeneratorCPU: used.end(), Note: "one segment, appended 1,000 at a time",
	}}, nil
}

// sessionLatency measures how long a lone writer waits for the answer to a record over a WebSocket.
func sessionLatency(ctx context.Context, m *machine) ([]result, error) {
	echo, err := m.peer("echo")
	if err != nil {
		return nil, err
	}
	ws, answer, err := websocket.Dial(ctx, "ws://"+echo.addr, nil)
	if err != nil {
		return nil, err
	}
	if answer.Body != nil {
		_ = answer.Body.Close()
	}
	defer func() { _ = ws.CloseNow() }() // it has nothing left to say
	message := text(recordBytes)
	empty, _, err := m.warmed(1, func(ctx context.Context, _, _ int) error {
		if err := ws.Write(ctx, websocket.MessageBinary, message); err != nil {
			return err
		}
		_, _, err := ws.Read(ctx)
		return err
	})
	m.stopAll()
	if err != nil {
		return nil, err
	}
	disk, err := m.disk(ctx, recordBytes, 0)
	if err != nil {
		return nil, err
	}
	c, err := m.dialSession(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { _ = c.Close() }() // what it wrote is acknowledged
	record := runnel.Record{Payload: text(recordBytes)}
	took, cpu, err := m.warmed(1, func(ctx context.Context, _, _ int) error {
		_, err := c.Publish(ctx, benchSegment(0), record)
		return err
	})
	if err != nil {
		return nil, err
	}
	ms := func(sorted []time.Duration) float64 { return sorted[len(sorted)/2].Seconds() * 1e3 }
	return []result{{
		Name: "session/produce/latency", Value: ms(took), Unit: "ms",
		Limit: disk.MedianMS + ms(empty), LimitName: "median fdatasync + empty round trip", Target: 1.3, Less: true, GeneratorCPU: cpu,
		Note: fmt.Sprintf("p99 %s ms; fdatasync %s ms, empty round trip %s ms",
			number(took[len(took)*99/100].Seconds()*1e3), number(disk.MedianMS), number(ms(empty))),
	}}, nil
}

// serveEcho sends every message of a WebSocket back.
func serveEcho() error {
	l, err := listen()
	if err != nil {
		return err
	}
	return http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ws, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		defer func() { _ = ws.CloseNow() }() // the other end is gone
		for {
			kind, message, err := ws.Read(r.Context())
			if err != nil {
				return
			}
			if err := ws.Write(r.Context(), kind, message); err != nil {
				return
			}
		}
	}))
}
