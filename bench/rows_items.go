//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"slices"
	"strconv"
	"sync/atomic"
	"time"
)

const (
	itemsPath       = "/v1/items/"
	itemSubscribers = 1000
	itemTurns       = 5
)

// itemValue is an object of about recordBytes that names the number n as payload does.
func itemValue(n int) []byte {
	return fmt.Appendf(nil, `{"text":"%s","votes":1}`, payload(n, recordBytes-22))
}

// itemMessage is what an item of this value is as an entry of its stream.
func itemMessage(value []byte) []byte {
	return fmt.Appendf(nil, `{"type":"item","key":"k000","value":%s,"headers":{"operation":"update","timestamp":"2026-01-01T00:00:00.000Z"}}`, value)
}

// turns measures loads one after the other, several times, so that whatever else the machine does meets all
// of them. Rates and cores are means of the turns, latencies medians.
func turns(ctx context.Context, duration time.Duration, loads ...load) ([]loadResult, error) {
	all := make([][]loadResult, len(loads))
	for range itemTurns {
		for i, l := range loads {
			r, err := l.run(ctx, duration/itemTurns)
			if err != nil {
				return nil, err
			}
			all[i] = append(all[i], r)
		}
	}
	means := make([]loadResult, len(loads))
	for i, rs := range all {
		var p50, p99 []time.Duration
		for _, r := range rs {
			means[i].requests += r.requests
			means[i].perSecond += r.perSecond / itemTurns
			means[i].cpu += r.cpu / itemTurns
			p50, p99 = append(p50, r.p50), append(p99, r.p99)
		}
		slices.Sort(p50)
		slices.Sort(p99)
		means[i].p50, means[i].p99 = p50[itemTurns/2], p99[itemTurns/2]
	}
	return means, nil
}

// itemWrites measures items that are set and updated, against appends of the bytes that they are in the
// log, over so many connections to the same server.
func itemWrites(conns int) func(context.Context, *machine) ([]result, error) {
	return func(ctx context.Context, m *machine) ([]result, error) {
		p, err := m.serve("")
		if err != nil {
			return nil, err
		}
		if err := create(ctx, p.addr, "items-append-", jsonType, 1); err != nil {
			return nil, err
		}
		const keys = 1000
		set, update := make([][]byte, keys), make([][]byte, keys)
		for i := range keys {
			set[i] = request("PUT", fmt.Sprintf("%sbench/group/k%03d", itemsPath, i), jsonType, itemValue(i))
			update[i] = request("POST", itemsPath+"call/update", jsonType, fmt.Appendf(nil,
				`{"stream_name":"bench","group_id":"group","item_id":"k%03d","ops":[{"type":"increment","path":"votes","by":1}]}`, i))
		}
		appended := request("POST", streamPath("items-append-0"), jsonType, itemMessage(itemValue(0)))
		key := func(c, i int) int { return (i*conns + c) % keys }
		r, err := turns(ctx, 3*m.opts.duration,
			load{addr: p.addr, conns: conns, next: func(int, int) []byte { return appended }},
			load{addr: p.addr, conns: conns, next: func(c, i int) []byte { return set[key(c, i)] }},
			load{addr: p.addr, conns: conns, next: func(c, i int) []byte { return update[key(c, i)] }})
		if err != nil {
			return nil, err
		}
		row := func(name string, r, limit loadResult, target float64) result {
			return result{
				Name: fmt.Sprintf("items/%s/%d", name, conns), Value: r.perSecond, Unit: "/s",
				Limit: limit.perSecond, LimitName: "appends of the same bytes", Target: target,
				GeneratorCPU: r.cpu, LimitCPU: limit.cpu, Note: latencies(r),
			}
		}
		return []result{row("set", r[1], r[0], 0.8), row("update", r[2], r[0], 0.6)}, nil
	}
}

// itemReads measures reads of single items.
func itemReads(ctx context.Context, m *machine) ([]result, error) {
	const conns, keys = 16, 1000
	bare, err := m.peer("empty")
	if err != nil {
		return nil, err
	}
	p, err := m.serve("")
	if err != nil {
		return nil, err
	}
	get := make([][]byte, keys)
	for i := range keys {
		get[i] = request("GET", fmt.Sprintf("%sbench/group/k%03d", itemsPath, i), "", nil)
	}
	if err := setItems(p.addr, keys); err != nil {
		return nil, err
	}
	next := func(c, i int) []byte { return get[(i*conns+c)%keys] }
	r, err := turns(ctx, 2*m.opts.duration, load{addr: bare.addr, conns: conns, next: next}, load{addr: p.addr, conns: conns, next: next})
	if err != nil {
		return nil, err
	}
	return []result{{
		Name: "items/get/16", Value: r[1].perSecond, Unit: "/s", Limit: r[0].perSecond, LimitName: "empty handler", Target: 0.7,
		GeneratorCPU: r[1].cpu, LimitCPU: r[0].cpu, Note: latencies(r[1]),
	}}, nil
}

// setItems sets so many items of one group, 500 at a time.
func setItems(addr string, n int) error {
	const batch = 500
	c, err := dial(addr)
	if err != nil {
		return err
	}
	defer c.hangUp()
	c.buf = make([]byte, 1<<20) // an answer has all values
	for from := 0; from < n; from += batch {
		var b bytes.Buffer
		b.WriteString(`{"writes":[`)
		for k := from; k < min(n, from+batch); k++ {
			if k > from {
				b.WriteByte(',')
			}
			fmt.Fprintf(&b, `{"id":"k%03d","value":%s}`, k, itemValue(k))
		}
		b.WriteString(`]}`)
		status, err := c.do(request("POST", itemsPath+"bench/group", jsonType, b.Bytes()))
		if err != nil {
			return err
		}
		if !success(status) {
			return fmt.Errorf("writes to items were answered with status %d", status)
		}
	}
	return nil
}

// upgrade asks for a WebSocket that joins a group at once.
func upgrade(group string) []byte {
	return fmt.Appendf(nil, "GET /stream/bench/%s HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", group)
}

// joined opens n WebSockets that are subscribed to a group of few items, and have been told of them.
func joined(addr, group string, n int) (_ *readers, err error) {
	rs := &readers{}
	defer func() {
		if err != nil {
			rs.close()
		}
	}()
	req := upgrade(group)
	for range n {
		c, err := dial(addr)
		if err != nil {
			return nil, err
		}
		rs.conns = append(rs.conns, c)
		if _, err := c.Write(req); err != nil {
			return nil, err
		}
	}
	for _, c := range rs.conns {
		_ = c.SetReadDeadline(time.Now().Add(time.Minute))
		status, err := c.readHead()
		if err == nil && status != 101 {
			err = fmt.Errorf("a WebSocket was answered with status %d", status)
		}
		if err != nil {
			return nil, err
		}
		if _, err := c.frame(nil); err != nil {
			return nil, err
		}
		_ = c.SetReadDeadline(time.Time{})
	}
	return rs, nil
}

// frame reads a WebSocket frame, and returns how long its content is. The content goes to w, if it is not
// nil.
func (c *conn) frame(w io.Writer) (n int, err error) {
	need := func(n int) error {
		for c.have < n {
			if err := c.fill(); err != nil {
				return err
			}
		}
		return nil
	}
	if err := need(2); err != nil {
		return 0, err
	}
	head := 2
	switch n = int(c.buf[1]); n {
	case 126:
		head = 4
		if err := need(head); err != nil {
			return 0, err
		}
		n = int(binary.BigEndian.Uint16(c.buf[2:]))
	case 127:
		head = 10
		if err := need(head); err != nil {
			return 0, err
		}
		n = int(binary.BigEndian.Uint64(c.buf[2:]))
	}
	c.drop(head)
	for left := n; left > 0; {
		if c.have == 0 {
			if err := c.fill(); err != nil {
				return 0, err
			}
		}
		part := min(left, c.have)
		if w != nil {
			if _, err := w.Write(c.buf[:part]); err != nil {
				return 0, err
			}
		}
		c.drop(part)
		left -= part
	}
	return n, nil
}

// setOne sets the item that all subscribers are told of.
func setOne(writer *conn, n int) error {
	status, err := writer.do(request("PUT", itemsPath+"bench/live/k", jsonType, itemValue(n)))
	if err == nil && !success(status) {
		err = fmt.Errorf("a set was answered with status %d", status)
	}
	return err
}

// itemFrame is a change as a WebSocket carries it.
func itemFrame() []byte {
	content := fmt.Appendf(nil, `{"type":"stream","timestamp":1764340000000,"streamName":"bench","groupId":"live","id":"k","event":{"type":"update","data":%s},"version":10000,"cursor":"1-10000"}`, itemValue(0))
	return append([]byte{0x81, 126, byte(len(content) >> 8), byte(len(content))}, content...)
}

// subscribedItems starts a server with one item, n subscribers of its group, and a connection for a writer.
func (m *machine) subscribedItems(n int) (p *process, rs *readers, writer *conn, err error) {
	if p, err = m.serve(""); err != nil {
		return nil, nil, nil, err
	}
	if writer, err = dial(p.addr); err != nil {
		return nil, nil, nil, err
	}
	if err = setOne(writer, 0); err != nil {
		return nil, nil, nil, err
	}
	rs, err = joined(p.addr, "live", n)
	return p, rs, writer, err
}

// itemFanOut measures how fast changes reach 1,000 subscribers, with a writer that waits until all have the
// last one.
func itemFanOut(ctx context.Context, m *machine) ([]result, error) {
	bare, err := m.peer("frames", strconv.Itoa(itemSubscribers), "items")
	if err != nil {
		return nil, err
	}
	limit, err := subscribe(bare.addr, "/", itemSubscribers)
	if err != nil {
		return nil, err
	}
	limit.start(nil)
	limitRate, limitCPU, err := limit.rate(ctx, m.opts.duration, func(int) error {
		return limit.await(ctx, limit.delivered.Load()+1)
	})
	limit.close()
	m.stopAll()
	if err != nil {
		return nil, err
	}
	_, rs, writer, err := m.subscribedItems(itemSubscribers)
	if err != nil {
		return nil, err
	}
	defer writer.hangUp()
	defer rs.close()
	rs.start(nil)
	rate, cpu, err := rs.rate(ctx, m.opts.duration, func(n int) error {
		if err := rs.await(ctx, int64(n)*itemSubscribers); err != nil {
			return err
		}
		return setOne(writer, n)
	})
	if err != nil {
		return nil, err
	}
	return []result{{
		Name: "items/fanout/1000/max", Value: rate, Unit: "/s", Limit: limitRate, LimitName: "bare write loop", Target: 0.5,
		GeneratorCPU: cpu, LimitCPU: limitCPU, Note: number(rate/itemSubscribers) + " changes/s",
	}}, nil
}

// itemLatency measures the time from a change to its arrival at each of 1,000 subscribers, with 50 changes a
// second: first while all of them read, and then with one more that does not.
func itemLatency(ctx context.Context, m *machine) ([]result, error) {
	p, rs, writer, err := m.subscribedItems(itemSubscribers)
	if err != nil {
		return nil, err
	}
	defer writer.hangUp()
	defer rs.close()
	const perSecond = 50
	changes := int(m.opts.duration.Seconds() * perSecond)
	sent := make([]atomic.Int64, 2*changes+1)
	epoch := time.Now()
	took := make([][]time.Duration, itemSubscribers)
	rs.start(func(reader, n int, at time.Time) {
		took[reader] = append(took[reader], at.Sub(epoch)-time.Duration(sent[n].Load()))
	})
	pass := func(from int) (float64, error) {
		var cpu usage
		cpu.begin()
		tick := time.NewTicker(time.Second / perSecond)
		defer tick.Stop()
		for n := from; n < from+changes; n++ {
			<-tick.C
			sent[n].Store(int64(time.Since(epoch)))
			if err := setOne(writer, n); err != nil {
				return 0, err
			}
		}
		return cpu.end(), rs.await(ctx, int64(from+changes-1)*itemSubscribers)
	}
	used, err := pass(1)
	if err != nil {
		return nil, err
	}
	stalled, err := joined(p.addr, "live", 1)
	if err != nil {
		return nil, err
	}
	defer stalled.close()
	if _, err := pass(1 + changes); err != nil {
		return nil, err
	}
	rs.close()
	var alone, beside []time.Duration
	for _, one := range took {
		alone, beside = append(alone, one[:changes]...), append(beside, one[changes:]...)
	}
	slices.Sort(alone)
	slices.Sort(beside)
	p99 := func(all []time.Duration) float64 { return all[len(all)*99/100].Seconds() * 1e3 }
	return []result{
		{
			Name: "items/fanout/1000/p99", Value: p99(alone), Unit: "ms", Limit: 50, LimitName: "agreed", Target: 1, Less: true, GeneratorCPU: used,
			Note: fmt.Sprintf("50 changes/s; p50 %s ms, worst %s ms", number(alone[len(alone)/2].Seconds()*1e3), number(alone[len(alone)-1].Seconds()*1e3)),
		},
		{
			Name: "items/fanout/1000/stalled", Value: p99(beside), Unit: "ms", Limit: p99(alone), LimitName: "without it", Target: 1.3, Less: true,
			Note: "99th percentile beside a subscriber that reads nothing",
		},
	}, nil
}

// itemIdle measures what a subscriber costs while nothing changes.
func itemIdle(ctx context.Context, m *machine) ([]result, error) {
	n, err := openFiles(5000)
	if err != nil {
		return nil, err
	}
	p, rs, writer, err := m.subscribedItems(1)
	if err != nil {
		return nil, err
	}
	defer writer.hangUp()
	defer rs.close()
	before, err := p.settled(ctx)
	if err != nil {
		return nil, err
	}
	more, err := joined(p.addr, "live", n)
	if err != nil {
		return nil, err
	}
	defer more.close()
	more.start(nil)
	after, err := p.settled(ctx)
	if err != nil {
		return nil, err
	}
	// They must be subscribers indeed.
	if err := setOne(writer, 1); err != nil {
		return nil, err
	}
	if err := more.await(ctx, int64(n)); err != nil {
		return nil, err
	}
	return []result{{
		Name: "items/idle/subscribers", Value: (after - before) / 1024 / float64(n), Unit: "KiB each",
		Limit: 16, LimitName: "agreed", Target: 1, Less: true, Note: fmt.Sprintf("%d subscribers", n),
	}}, nil
}

// itemJoin measures how long it takes to join a group of 10,000 items, against writing the same bytes.
func itemJoin(ctx context.Context, m *machine) ([]result, error) {
	const items = 10_000
	p, err := m.serve("")
	if err != nil {
		return nil, err
	}
	if err := setItems(p.addr, items); err != nil {
		return nil, err
	}
	join := func() (time.Duration, int, error) {
		c, err := dial(p.addr)
		if err != nil {
			return 0, 0, err
		}
		defer c.hangUp()
		c.buf = make([]byte, 64<<10)
		_ = c.SetDeadline(time.Now().Add(time.Minute))
		began := time.Now()
		if _, err := c.Write(upgrade("group")); err != nil {
			return 0, 0, err
		}
		if _, err := c.readHead(); err != nil {
			return 0, 0, err
		}
		n, err := c.frame(nil)
		return time.Since(began), n, err
	}
	_, size, err := join()
	if err != nil {
		return nil, err
	}
	bare, err := m.peer("memory", strconv.Itoa(size))
	if err != nil {
		return nil, err
	}
	read := func() (took time.Duration, err error) {
		c, err := dial(bare.addr)
		if err != nil {
			return 0, err
		}
		defer c.hangUp()
		c.buf = make([]byte, 64<<10)
		_ = c.SetDeadline(time.Now().Add(time.Minute))
		began := time.Now()
		if _, err := c.Write(request("GET", "/", "", nil)); err != nil {
			return 0, err
		}
		if _, err := c.readHead(); err != nil {
			return 0, err
		}
		err = c.discard(size)
		return time.Since(began), err
	}
	var joins, reads []time.Duration
	for began := time.Now(); time.Since(began) < m.opts.duration || len(joins) < 5; {
		took, _, err := join()
		if err != nil {
			return nil, err
		}
		joins = append(joins, took)
		if took, err = read(); err != nil {
			return nil, err
		}
		reads = append(reads, took)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
	slices.Sort(joins)
	slices.Sort(reads)
	return []result{{
		Name: "items/join/10000", Value: joins[len(joins)/2].Seconds() * 1e3, Unit: "ms",
		Limit: reads[len(reads)/2].Seconds() * 1e3, LimitName: "a handler that writes the bytes", Target: 1.5, Less: true,
		Note: fmt.Sprintf("medians of %d, %s MB", len(joins), number(float64(size)/1e6)),
	}}, nil
}
