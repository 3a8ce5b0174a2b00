//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"syscall"
	"time"

	"github.com/runnelhq/runnel/storage/pebblestore"
)

// settled waits until the server's resident memory has not grown for half a second, for five at most.
func (p *process) settled(ctx context.Context) (float64, error) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	most, quiet := 0.0, 0
	for range 50 {
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-tick.C:
		}
		now, _, err := p.rss()
		if err != nil {
			return 0, err
		}
		if quiet++; now > most*1.01 {
			most, quiet = now, 0
		}
		if quiet == 5 {
			return now, nil
		}
	}
	return most, nil
}

// openFiles returns how many connections can be open, n at most.
func openFiles(n int) (int, error) {
	var limit syscall.Rlimit
	err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit)
	return min(n, int(limit.Cur)-200), err
}

// idleStreams measures what 100,000 streams cost that nobody uses, and how long a restart with them takes.
func idleStreams(ctx context.Context, m *machine) ([]result, error) {
	const streams, spaces, conns = 100_000, 100, 16
	p, err := m.serve("")
	if err != nil {
		return nil, err
	}
	empty, err := p.settled(ctx)
	if err != nil {
		return nil, err
	}
	name := func(i int) string {
		return streamPath("space-" + strconv.Itoa(i%spaces) + "/stream-" + strconv.Itoa(i))
	}
	body := payload(0, recordBytes)
	created, err := load{
		addr: p.addr, conns: conns, most: streams,
		next: func(c, i int) []byte { return request("PUT", name(i*conns+c), octets, body) },
		ok:   func(status int) bool { return status == 201 },
	}.run(ctx, 0)
	if err != nil {
		return nil, err
	}
	full, err := p.settled(ctx)
	if err != nil {
		return nil, err
	}
	if err := p.stop(syscall.SIGTERM); err != nil {
		return nil, err
	}

	began := time.Now()
	if p, err = m.serve(p.data); err != nil {
		return nil, err
	}
	c, err := dial(p.addr)
	if err != nil {
		return nil, err
	}
	defer c.hangUp()
	status, err := c.do(request("GET", name(streams/2)+"?offset=-1", "", nil))
	took := time.Since(began)
	if err != nil || status != 200 {
		return nil, errors.Join(err, fmt.Errorf("the first read was answered with status %d", status))
	}
	restarted, err := p.settled(ctx)
	if err != nil {
		return nil, err
	}
	note := fmt.Sprintf("%d streams with %d B each; the empty server has %s MB", streams, recordBytes, number(empty/1e6))
	return []result{
		{
			Name: "idle/streams/memory", Value: (full - empty) / 1e6, Unit: "MB",
			Limit: 100, LimitName: "agreed", Target: 1, Less: true, GeneratorCPU: created.cpu,
			Note: note + fmt.Sprintf("; created %s/s", number(created.perSecond)),
		},
		{
			Name: "idle/streams/memory-restarted", Value: (restarted - empty) / 1e6, Unit: "MB",
			Limit: 100, LimitName: "agreed", Target: 1, Less: true, Note: note,
		},
		{
			Name: "idle/streams/restart", Value: took.Seconds() * 1e3, Unit: "ms",
			Limit: 1000, LimitName: "agreed", Target: 1, Less: true, Note: "from the start of the process to the answer of a read",
		},
	}, nil
}

// bytesAtRest measures what a record takes on disk once all is compacted.
func bytesAtRest(ctx context.Context, m *machine) (rows []result, err error) {
	const conns, batch, requests = 16, 100, 4000
	p, err := m.serve("")
	if err != nil {
		return nil, err
	}
	if err := create(ctx, p.addr, "rest-", jsonType, conns); err != nil {
		return nil, err
	}
	r, err := load{
		addr: p.addr, conns: conns, most: requests,
		next: func(c, _ int) []byte {
			return request("POST", streamPath("rest-"+strconv.Itoa(c)), jsonType, jsonBatch(batch, recordBytes))
		},
	}.run(ctx, 0)
	if err != nil {
		return nil, err
	}
	if err := p.stop(syscall.SIGTERM); err != nil {
		return nil, err
	}
	driver, err := pebblestore.Open(p.data, pebblestore.Config{})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, driver.Close()) }()
	if err := driver.Compact(ctx); err != nil {
		return nil, err
	}
	tables, all := driver.Metrics().Total().TablesSize, driver.DiskUsage()
	records := float64(batch * requests)
	return []result{{
		Name: "disk/bytes", Value: float64(tables) / records, Unit: "B a record",
		Limit: 130, LimitName: "agreed", Target: 1, Less: true, GeneratorCPU: r.cpu,
		Note: fmt.Sprintf("%.0f random JSON strings of %d B in batches of %d; %s MB in tables, %s MB in all", records, recordBytes, batch, number(float64(tables)/1e6), number(float64(all)/1e6)),
	}}, nil
}
