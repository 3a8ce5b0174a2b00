//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const catchUpBytes = 200 << 20

// catchUp measures one reader of a stream of 200 MB, after a restart, so that the server has to read it.
func catchUp(contentType string) func(context.Context, *machine) ([]result, error) {
	return func(ctx context.Context, m *machine) ([]result, error) {
		name := "catchup/bytes"
		body := bytes.Repeat(text(64), 1024)
		if contentType == jsonType {
			name, body = "catchup/json", jsonBatch(100, 1024)
		}
		p, err := m.serve("")
		if err != nil {
			return nil, err
		}
		if err := create(ctx, p.addr, "catchup-", contentType, 1); err != nil {
			return nil, err
		}
		post := request("POST", streamPath("catchup-0"), contentType, body)
		_, err = load{
			addr: p.addr, conns: 4, most: catchUpBytes / len(body),
			next: func(int, int) []byte { return post },
		}.run(ctx, 0)
		if err != nil {
			return nil, err
		}
		if err := p.stop(syscall.SIGTERM); err != nil {
			return nil, err
		}
		if p, err = m.serve(p.data); err != nil {
			return nil, err
		}
		before, _, err := p.rss()
		if err != nil {
			return nil, err
		}
		// Once without counting, so that both sides read what is in memory: the page cache here.
		if _, err := readAll(p.addr, streamPath("catchup-0")); err != nil {
			return nil, err
		}
		value, err := readFor(ctx, p.addr, streamPath("catchup-0"), m.opts.duration)
		if err != nil {
			return nil, err
		}
		_, peak, err := p.rss()
		if err != nil {
			return nil, err
		}
		m.stopAll()
		if p, err = m.peer("memory", strconv.Itoa(catchUpBytes)); err != nil {
			return nil, err
		}
		limit, err := readFor(ctx, p.addr, "/", m.opts.duration)
		if err != nil {
			return nil, err
		}
		grown := (peak - before) / 1e6
		return []result{
			{
				Name: name, Value: value.perSecond, Unit: "MB/s",
				Limit: limit.perSecond, LimitName: "handler with the bytes in memory", Target: 0.4,
				GeneratorCPU: value.cpu, LimitCPU: limit.cpu,
				Note: fmt.Sprintf("first byte after %s ms", number(value.p50.Seconds()*1e3)),
			},
			{
				Name: name + "/memory", Value: grown, Unit: "MB",
				Note: fmt.Sprintf("resident %s MB before, %s MB at most", number(before/1e6), number(peak/1e6)),
			},
		}, nil
	}
}

// readFor reads a stream from its beginning, again and again. The result is in MB/s; p50 is the median
// time to the first byte.
func readFor(ctx context.Context, addr, path string, duration time.Duration) (loadResult, error) {
	var cpu usage
	cpu.begin()
	var first []time.Duration
	total, began := 0, time.Now()
	for len(first) < 3 || time.Since(began) < duration {
		if err := ctx.Err(); err != nil {
			return loadResult{}, err
		}
		r, err := readAll(addr, path)
		if err != nil {
			return loadResult{}, err
		}
		first = append(first, r.first)
		total += r.bytes
	}
	took := time.Since(began).Seconds()
	slices.Sort(first)
	return loadResult{
		requests: len(first), perSecond: float64(total) / 1e6 / took, p50: first[len(first)/2], cpu: cpu.end(),
	}, nil
}

type read struct {
	bytes int
	first time.Duration // from the request to the head of the answer
}

// readAll reads a stream from its beginning until it is up to date.
func readAll(addr, path string) (read, error) {
	c, err := dial(addr)
	if err != nil {
		return read{}, err
	}
	defer c.hangUp()
	c.buf = make([]byte, 256<<10)
	if err := c.SetDeadline(time.Now().Add(2 * time.Minute)); err != nil {
		return read{}, err
	}
	var r read
	for offset := "-1"; ; {
		began := time.Now()
		if _, err := c.Write(request("GET", path+"?offset="+offset, "", nil)); err != nil {
			return r, err
		}
		status, err := c.readHead()
		if err != nil {
			return r, err
		}
		if status != 200 {
			return r, fmt.Errorf("a read was answered with status %d", status)
		}
		if r.first == 0 {
			r.first = time.Since(began)
		}
		next, upToDate := string(c.header("Stream-Next-Offset")), c.header("Stream-Up-To-Date") != nil
		n, err := c.discardBody()
		if err != nil {
			return r, err
		}
		r.bytes += n
		if upToDate || next == "" || next == offset {
			break
		}
		offset = next
	}
	if r.bytes < catchUpBytes*9/10 {
		return r, fmt.Errorf("read %d bytes of a stream of %d", r.bytes, catchUpBytes)
	}
	return r, nil
}

// discardBody drops the body of an answer, chunked or not, and returns its length.
func (c *conn) discardBody() (int, error) {
	if v := c.header("Content-Length"); v != nil {
		n, err := strconv.Atoi(string(v))
		if err != nil {
			return 0, err
		}
		return n, c.discard(n)
	}
	if !strings.EqualFold(string(c.header("Transfer-Encoding")), "chunked") {
		return 0, errors.New("an answer had no length")
	}
	total := 0
	for {
		line, err := c.readLine()
		if err != nil {
			return total, err
		}
		size, err := strconv.ParseInt(string(line), 16, 64)
		if err != nil {
			return total, err
		}
		if err := c.discard(int(size)); err != nil {
			return total, err
		}
		total += int(size)
		if line, err := c.readLine(); err != nil || len(line) > 0 {
			return total, errors.Join(err, errors.New("a chunk did not end where it should"))
		}
		if size == 0 {
			return total, nil
		}
	}
}

// readLine reads up to CRLF. It is valid until the next read.
func (c *conn) readLine() ([]byte, error) {
	for {
		if i := bytes.Index(c.buf[:c.have], []byte("\r\n")); i >= 0 {
			c.head = append(c.head[:0], c.buf[:i]...)
			c.drop(i + 2)
			return c.head, nil
		}
		if err := c.fill(); err != nil {
			return nil, err
		}
	}
}

// readers are connections that read server-sent events and look for the marks of records in them.
type readers struct {
	conns     []*conn
	delivered atomic.Int64
	wg        sync.WaitGroup
	mu        sync.Mutex
	err       error
}

// subscribe opens n readers at the tail of a stream, or of an answer of frames.
func subscribe(addr, path string, n int) (*readers, error) {
	rs := &readers{}
	for range n {
		c, err := dial(addr)
		if err != nil {
			rs.close()
			return nil, err
		}
		rs.conns = append(rs.conns, c)
		if _, err := c.Write(request("GET", path, "", nil)); err != nil {
			rs.close()
			return nil, err
		}
	}
	for _, c := range rs.conns {
		status, err := c.readHead()
		if err == nil && status != 200 {
			err = fmt.Errorf("a live read was answered with status %d", status)
		}
		if err != nil {
			rs.close()
			return nil, err
		}
	}
	return rs, nil
}

// start begins to read. seen, if not nil, is called with the number of every record and when it came.
func (rs *readers) start(seen func(reader, n int, at time.Time)) {
	for i, c := range rs.conns {
		rs.wg.Go(func() {
			if err := rs.read(i, c, seen); err != nil {
				rs.mu.Lock()
				defer rs.mu.Unlock()
				rs.err = errors.Join(rs.err, err)
			}
		})
	}
}

func (rs *readers) read(i int, c *conn, seen func(reader, n int, at time.Time)) error {
	for {
		n, err := c.Read(c.buf[c.have:])
		if err != nil {
			return unlessEnded(err)
		}
		at := time.Now()
		c.have += n
		rest := c.buf[:c.have]
		found := 0
		for {
			j := bytes.IndexByte(rest, mark)
			if j < 0 {
				rest = nil
				break
			}
			if len(rest) < j+9 {
				rest = rest[j:]
				break
			}
			if next := rest[j+1]; next < '0' || next > '9' {
				rest = rest[j+1:] // the length of a WebSocket frame, which is no mark
				continue
			}
			if seen != nil {
				number, err := strconv.Atoi(string(rest[j+1 : j+9]))
				if err != nil {
					return err
				}
				seen(i, number, at)
			}
			found++
			rest = rest[j+9:]
		}
		c.have = copy(c.buf, rest)
		if found > 0 {
			rs.delivered.Add(int64(found))
		}
	}
}

// unlessEnded returns an error of a read that is not the end of the connection.
func unlessEnded(err error) error {
	if errors.Is(err, net.ErrClosed) || errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

func (rs *readers) close() {
	for _, c := range rs.conns {
		_ = c.Close()
	}
	rs.wg.Wait()
}

// await waits until so many records have been delivered to all readers together.
func (rs *readers) await(ctx context.Context, n int64) error {
	tick := time.NewTicker(50 * time.Microsecond)
	defer tick.Stop()
	deadline := time.Now().Add(30 * time.Second)
	for rs.delivered.Load() < n {
		if time.Now().After(deadline) {
			rs.mu.Lock()
			defer rs.mu.Unlock()
			return errors.Join(fmt.Errorf("%d of %d deliveries came in 30 s", rs.delivered.Load(), n), rs.err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
	return nil
}

const live = "?offset=now&live=sse"

// subscribed starts a server with one text stream and n readers of it, and a connection for a writer.
func (m *machine) subscribed(ctx context.Context, n int) (p *process, rs *readers, writer *conn, err error) {
	if p, err = m.serve(""); err != nil {
		return nil, nil, nil, err
	}
	if err = create(ctx, p.addr, "live-", "text/plain", 1); err != nil {
		return nil, nil, nil, err
	}
	if rs, err = subscribe(p.addr, streamPath("live-0")+live, n); err != nil {
		return nil, nil, nil, err
	}
	writer, err = dial(p.addr)
	return p, rs, writer, err
}

func publish(writer *conn, n int) error {
	status, err := writer.do(request("POST", streamPath("live-0"), "text/plain", payload(n, recordBytes)))
	if err == nil && !success(status) {
		err = fmt.Errorf("an append was answered with status %d", status)
	}
	return err
}

// deliveryPace is how often something happens on a machine that is idle but for that. What the machine
// does in between, putting processors and threads to sleep, is part of every latency, and so of the
// limits too.
const deliveryPace = 2 * time.Millisecond

// emptyPaced measures the median time of a request to the empty handler, one every deliveryPace.
func (m *machine) emptyPaced() (time.Duration, error) {
	p, err := m.peer("empty")
	if err != nil {
		return 0, err
	}
	defer m.stopAll()
	c, err := dial(p.addr)
	if err != nil {
		return 0, err
	}
	defer c.hangUp()
	req := request("POST", streamPath("any"), octets, payload(0, recordBytes))
	var took []time.Duration
	tick := time.NewTicker(deliveryPace)
	defer tick.Stop()
	for n := 0; n < 1000 && time.Duration(n)*deliveryPace < m.opts.duration; n++ {
		<-tick.C
		began := time.Now()
		if _, err := c.do(req); err != nil {
			return 0, err
		}
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	return took[len(took)/2], nil
}

// delivery measures from just before an append to its arrival at a reader, while nothing else happens.
func delivery(ctx context.Context, m *machine) ([]result, error) {
	disk, err := m.disk(ctx, 128, deliveryPace)
	if err != nil {
		return nil, err
	}
	empty, err := m.emptyPaced()
	if err != nil {
		return nil, err
	}
	_, rs, writer, err := m.subscribed(ctx, 1)
	if err != nil {
		return nil, err
	}
	defer writer.hangUp()
	defer rs.close()
	arrived := make(chan time.Time, 1)
	rs.start(func(_, _ int, at time.Time) { arrived <- at })
	var took []time.Duration
	tick := time.NewTicker(deliveryPace)
	defer tick.Stop()
	for n := 0; n < 1000 && time.Duration(n)*deliveryPace < m.opts.duration; n++ {
		<-tick.C
		began := time.Now()
		if err := publish(writer, n); err != nil {
			return nil, err
		}
		select {
		case at := <-arrived:
			took = append(took, at.Sub(began))
		case <-time.After(10 * time.Second):
			return nil, errors.New("a record did not arrive in 10 s")
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	slices.Sort(took)
	median := took[len(took)/2].Seconds() * 1e3
	return []result{{
		Name: "delivery/sse", Value: median, Unit: "ms",
		Limit: disk.MedianMS + empty.Seconds()*1e3, LimitName: "median fdatasync + empty request", Target: 1.5, Less: true,
		Note: fmt.Sprintf("p99 %s ms; fdatasync %s ms, empty request %s ms", number(took[len(took)*99/100].Seconds()*1e3),
			number(disk.MedianMS), number(empty.Seconds()*1e3)),
	}}, nil
}

// rate repeats step for the duration, after a warm-up, and returns the deliveries in a second and the
// cores that this process used.
func (rs *readers) rate(ctx context.Context, duration time.Duration, step func(n int) error) (loadResult, error) {
	var cpu usage
	var before int64
	var counted time.Time
	began := time.Now()
	for n := 0; ; n++ {
		if counted.IsZero() && time.Since(began) > duration/5 {
			counted, before = time.Now(), rs.delivered.Load()
			cpu.begin()
		}
		if !counted.IsZero() && time.Since(counted) > duration {
			break
		}
		if err := errors.Join(ctx.Err(), step(n)); err != nil {
			return loadResult{}, err
		}
	}
	return loadResult{perSecond: float64(rs.delivered.Load()-before) / time.Since(counted).Seconds(), cpu: cpu.end()}, nil
}
