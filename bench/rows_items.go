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
	"time"
)

const itemsPath = "/v1/items/"

// itemValue is an object of about recordBytes that names the number n as payload does.
func itemValue(n int) []byte {
	return fmt.Appendf(nil, `{"text":"%s","votes":1}`, payload(n, recordBytes-22))
}

// itemMessage is what an item of this value is as an entry of its stream.
func itemMessage(value []byte) []byte {
	return fmt.Appendf(nil, `{"type":"item","key":"k000","value":%s,"headers":{"operation":"update","timestamp":"2026-01-01T00:00:00.000Z"}}`, value)
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
			load{of: p, addr: p.addr, conns: conns, next: func(int, int) []byte { return appended }},
			load{of: p, addr: p.addr, conns: conns, next: func(c, i int) []byte { return set[key(c, i)] }},
			load{of: p, addr: p.addr, conns: conns, next: func(c, i int) []byte { return update[key(c, i)] }})
		if err != nil {
			return nil, err
		}
		row := func(name string, r, limit loadResult, target float64) result {
			return result{
				Name: fmt.Sprintf("items/%s/%d", name, conns), Value: r.perSecond, Unit: "/s",
				Limit: limit.perSecond, LimitName: "appends of the same bytes", Target: target,
				GeneratorCPU: r.cpu, LimitCPU: limit.cpu, Note: latencies(r) + "; " + serverTimes(r, limit),
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
	if err := unwritten(ctx); err != nil {
		return nil, err
	}
	next := func(c, i int) []byte { return get[(i*conns+c)%keys] }
	r, err := turns(ctx, 2*m.opts.duration,
		load{of: bare, addr: bare.addr, conns: conns, next: next, awake: true},
		load{of: p, addr: p.addr, conns: conns, next: next, awake: true})
	if err != nil {
		return nil, err
	}
	return []result{{
		Name: "items/get/16", Value: r[1].perSecond, Unit: "/s", Limit: r[0].perSecond, LimitName: "empty handler", Target: 0.7,
		GeneratorCPU: r[1].cpu, LimitCPU: r[0].cpu, Note: latencies(r[1]) + "; " + serverTimes(r[1], r[0]),
	}}, nil
}

// unwritten waits until a server has given back what it takes while there are writes: the second slot of Go's
// scheduler, which it looks after every second.
func unwritten(ctx context.Context) error {
	select {
	case <-time.After(2500 * time.Millisecond):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
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
func (m *machine) subscribedItems(_ context.Context, n int) (p *process, rs *readers, writer *conn, err error) {
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
	if err := unwritten(ctx); err != nil {
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
