//go:build linux

package main

import (
	"context"
	"fmt"
	"strconv"
)

// scenario measures rows that share a server or a limit.
type scenario struct {
	rows    []string
	measure func(context.Context, *machine) ([]result, error)
}

var scenarios = []scenario{
	{rows: []string{"append/own/1", "append/hot/1"}, measure: appends(1, 0)},
	{rows: []string{"append/own/16", "append/hot/16"}, measure: appends(16, 0)},
	{rows: []string{"append/own/64", "append/hot/64"}, measure: appends(64, 0.45)},
	{rows: []string{"append/own/256", "append/hot/256"}, measure: appends(256, 0.40)},
	{rows: []string{"append/gomaxprocs=1/256"}, measure: appendsOnOneThread},
	{rows: []string{"create/16"}, measure: creates(16)},
	{rows: []string{"create/64"}, measure: creates(64)},
	{rows: []string{"batch/json"}, measure: batches},
	{rows: []string{"catchup/bytes", "catchup/bytes/memory"}, measure: catchUp("application/octet-stream")},
	{rows: []string{"catchup/json", "catchup/json/memory"}, measure: catchUp("application/json")},
	{rows: []string{"delivery/sse"}, measure: delivery},
	{rows: []string{"fanout/1000/max", "fanout/1000/ahead"}, measure: streamFeed.fanOut(aheadRow{"fanout/1000/max", 0, 0.5}, aheadRow{"fanout/1000/ahead", 16, 0})},
	{rows: []string{"fanout/1000/p99"}, measure: streamFeed.latency("")},
	{rows: []string{"idle/readers"}, measure: streamFeed.idle},
	{rows: []string{"idle/streams/memory", "idle/streams/memory-restarted", "idle/streams/restart"}, measure: idleStreams},
	{rows: []string{"disk/bytes"}, measure: bytesAtRest},
	{rows: []string{"log/append/1"}, measure: logLatency},
	{rows: []string{"log/append/own/16", "log/append/hot/16"}, measure: logAppends(16, 0.4, 0)},
	{rows: []string{"log/append/own/64", "log/append/hot/64"}, measure: logAppends(64, 0, 100_000)},
	{rows: []string{"log/append/subscribed"}, measure: logSubscribed},
	{rows: []string{"log/batch/1"}, measure: logBatches(1)},
	{rows: []string{"log/batch/4"}, measure: logBatches(4)},
	{rows: []string{"log/consume/segment"}, measure: logReads("log/consume/segment", "log-consume-segment", 1000, "entries/s", 8e6, "appended 1,000 at a time")},
	{rows: []string{"log/consume/segment/10"}, measure: logReads("log/consume/segment/10", "log-consume-segment", 10, "entries/s", 0, "appended 10 at a time")},
	{rows: []string{"log/consume/space"}, measure: logReads("log/consume/space", "log-consume-space", 1000, "entries/s", 4e6, "16 segments in turns, 1,000 at a time")},
	{rows: []string{"log/consume/space/10"}, measure: logReads("log/consume/space/10", "log-consume-space", 10, "entries/s", 0, "16 segments in turns, 10 at a time")},
	{rows: []string{"log/peek"}, measure: logReads("log/peek", "log-peek", 2, "/s", 5e5, "two readers over 16 segments")},
	{rows: []string{"session/produce/1"}, measure: sessionBatches(1)},
	{rows: []string{"session/produce/4"}, measure: sessionBatches(4)},
	{rows: []string{"session/consume"}, measure: sessionConsume},
	{rows: []string{"items/set/1", "items/update/1"}, measure: itemWrites(1)},
	{rows: []string{"items/set/16", "items/update/16"}, measure: itemWrites(16)},
	{rows: []string{"items/get/16"}, measure: itemReads},
	{rows: []string{"items/fanout/1000/max"}, measure: itemFeed.fanOut(aheadRow{"fanout/1000/max", 0, 0.5})},
	{rows: []string{"items/fanout/1000/p99", "items/fanout/1000/stalled"}, measure: itemFeed.latency("fanout/1000/stalled")},
	{rows: []string{"items/idle/subscribers"}, measure: itemFeed.idle},
	{rows: []string{"items/join/10000"}, measure: itemJoin},
	{rows: []string{"webhook/1000"}, measure: webhooks},
	{rows: []string{"session/produce/latency"}, measure: sessionLatency},
}

const (
	recordBytes = 100
	octets      = "application/octet-stream"
	jsonType    = "application/json"
)

func streamPath(name string) string { return "/v1/stream/" + name }

// payload is a record that names the number n behind a mark that is nowhere else in it.
func payload(n, size int) []byte {
	b := text(size)
	copy(b, fmt.Sprintf("~%08d", n))
	return b
}

const mark = '~'

// empty measures the empty handler with the same requests.
func (m *machine) empty(ctx context.Context, conns int, req []byte) (loadResult, error) {
	p, err := m.peer("empty")
	if err != nil {
		return loadResult{}, err
	}
	r, err := load{addr: p.addr, conns: conns, next: func(int, int) []byte { return req }}.run(ctx, m.opts.duration)
	m.stopAll()
	return r, err
}

// create makes n streams whose names are prefix and a number.
func create(ctx context.Context, addr, prefix, contentType string, n int) error {
	_, err := load{
		addr: addr, conns: min(n, 16), most: n,
		next: func(c, i int) []byte {
			return request("PUT", streamPath(prefix+strconv.Itoa(i*min(n, 16)+c)), contentType, nil)
		},
	}.run(ctx, 0)
	return err
}

func latencies(r loadResult) string {
	return fmt.Sprintf("p50 %s ms, p99 %s ms", number(r.p50.Seconds()*1e3), number(r.p99.Seconds()*1e3))
}

// appends measures durable appends of one record each, every connection to its own stream and all to one.
func appends(conns int, target float64) func(context.Context, *machine) ([]result, error) {
	return func(ctx context.Context, m *machine) ([]result, error) {
		limit, err := m.empty(ctx, conns, request("POST", streamPath("any"), octets, payload(0, recordBytes)))
		if err != nil {
			return nil, err
		}
		var rows []result
		for _, kind := range []string{"own", "hot"} {
			r, err := m.append(ctx, kind, conns)
			if err != nil {
				return nil, err
			}
			rows = append(rows, result{
				Name: fmt.Sprintf("append/%s/%d", kind, conns), Value: r.perSecond, Unit: "/s",
				Limit: limit.perSecond, LimitName: "empty handler", Target: target,
				GeneratorCPU: r.cpu, LimitCPU: limit.cpu, Note: latencies(r),
			})
		}
		return rows, nil
	}
}

// append measures appends to a new server.
func (m *machine) append(ctx context.Context, kind string, conns int, env ...string) (loadResult, error) {
	p, err := m.serve("", env...)
	if err != nil {
		return loadResult{}, err
	}
	defer m.stopAll()
	streams := 1
	if kind == "own" {
		streams = conns
	}
	if err := create(ctx, p.addr, "append-", octets, streams); err != nil {
		return loadResult{}, err
	}
	requests := make([][]byte, streams)
	for i := range requests {
		requests[i] = request("POST", streamPath("append-"+strconv.Itoa(i)), octets, payload(i, recordBytes))
	}
	return load{
		addr: p.addr, conns: conns,
		next: func(c, _ int) []byte { return requests[c%streams] },
	}.run(ctx, m.opts.duration)
}

// appendsOnOneThread shows that the server does not take a GOMAXPROCS of 1 at its word.
func appendsOnOneThread(ctx context.Context, m *machine) ([]result, error) {
	normal, err := m.append(ctx, "own", 256)
	if err != nil {
		return nil, err
	}
	one, err := m.append(ctx, "own", 256, "GOMAXPROCS=1")
	if err != nil {
		return nil, err
	}
	return []result{{
		Name: "append/gomaxprocs=1/256", Value: one.perSecond, Unit: "/s",
		Limit: normal.perSecond, LimitName: "without it", Target: 0.8,
		GeneratorCPU: one.cpu, LimitCPU: normal.cpu, Note: latencies(one),
	}}, nil
}

// creates measures the creation of streams without content.
func creates(conns int) func(context.Context, *machine) ([]result, error) {
	return func(ctx context.Context, m *machine) ([]result, error) {
		limit, err := m.empty(ctx, conns, request("PUT", streamPath("any"), octets, nil))
		if err != nil {
			return nil, err
		}
		p, err := m.serve("")
		if err != nil {
			return nil, err
		}
		r, err := load{
			addr: p.addr, conns: conns,
			next: func(c, i int) []byte {
				return request("PUT", streamPath("create/"+strconv.Itoa(c)+"-"+strconv.Itoa(i)), octets, nil)
			},
			ok: func(status int) bool { return status == 201 },
		}.run(ctx, m.opts.duration)
		if err != nil {
			return nil, err
		}
		return []result{{
			Name: fmt.Sprintf("create/%d", conns), Value: r.perSecond, Unit: "/s",
			Limit: limit.perSecond, LimitName: "empty handler", Target: 0.4,
			GeneratorCPU: r.cpu, LimitCPU: limit.cpu, Note: latencies(r),
		}}, nil
	}
}

// batches measures JSON arrays of 100 messages of 1 KiB.
func batches(ctx context.Context, m *machine) ([]result, error) {
	const conns, messages, size, kinds = 16, 100, 1024, 4
	disk, err := m.disk(ctx, 1<<20, 0)
	if err != nil {
		return nil, err
	}
	p, err := m.serve("")
	if err != nil {
		return nil, err
	}
	if err := create(ctx, p.addr, "batch-", jsonType, conns); err != nil {
		return nil, err
	}
	requests := make([][]byte, conns*kinds)
	for i := range requests {
		requests[i] = request("POST", streamPath("batch-"+strconv.Itoa(i/kinds)), jsonType, jsonBatch(messages, size))
	}
	r, err := load{
		addr: p.addr, conns: conns,
		next: func(c, i int) []byte { return requests[c*kinds+i%kinds] },
	}.run(ctx, m.opts.duration)
	if err != nil {
		return nil, err
	}
	return []result{{
		Name: "batch/json", Value: r.perSecond * messages * size / 1e6, Unit: "MB/s",
		Limit: disk.MBPerS, LimitName: "1 MiB write and fdatasync", Target: 0.25,
		GeneratorCPU: r.cpu, Note: fmt.Sprintf("%s messages/s, %s", number(r.perSecond*messages), latencies(r)),
	}}, nil
}
