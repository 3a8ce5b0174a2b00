//go:build linux

package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// conn is one HTTP/1.1 connection with no more around it than a benchmark needs: requests are bytes that
// were put together before, and of an answer it looks at the status, the length and what is asked for.
type conn struct {
	net.Conn
	buf  []byte
	have int // bytes in buf
	head []byte
	// raw, if not nil, is looked at without waiting, again and again, until there is something; looks counts
	// that, and idle those that found nothing.
	raw         syscall.RawConn
	looks, idle int
}

// dial connects with a buffer of 4 KiB, which holds every answer but those of large reads.
func dial(addr string) (*conn, error) {
	c, err := net.DialTimeout("tcp", addr, 10*time.Second)
	if err != nil {
		return nil, err
	}
	return &conn{Conn: c, buf: make([]byte, 4096)}, nil
}

// hangUp closes the connection. All that counts has been read.
func (c *conn) hangUp() { _ = c.Close() }

// request puts a request together.
func request(method, path, contentType string, body []byte) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: localhost\r\n", method, path)
	if contentType != "" {
		fmt.Fprintf(&b, "Content-Type: %s\r\n", contentType)
	}
	if method == "PUT" || method == "POST" {
		fmt.Fprintf(&b, "Content-Length: %d\r\n", len(body))
	}
	b.WriteString("\r\n")
	b.Write(body)
	return b.Bytes()
}

// do sends a request and reads the whole answer, whose body must be short and not chunked.
func (c *conn) do(req []byte) (status int, err error) {
	if _, err := c.Write(req); err != nil {
		return 0, err
	}
	status, err = c.readHead()
	if err != nil {
		return 0, err
	}
	length := 0
	if v := c.header("Content-Length"); v != nil {
		if length, err = strconv.Atoi(string(v)); err != nil {
			return 0, err
		}
	}
	for c.have < length {
		if err := c.fill(); err != nil {
			return 0, err
		}
	}
	c.drop(length)
	return status, nil
}

// readHead reads up to the empty line. What follows it is left in buf.
func (c *conn) readHead() (status int, err error) {
	for {
		if end := bytes.Index(c.buf[:c.have], []byte("\r\n\r\n")); end >= 0 {
			c.head = append(c.head[:0], c.buf[:end+2]...)
			c.drop(end + 4)
			break
		}
		if err := c.fill(); err != nil {
			return 0, err
		}
	}
	if len(c.head) < len("HTTP/1.1 200") {
		return 0, errors.New("not an answer of HTTP")
	}
	return strconv.Atoi(string(c.head[9:12]))
}

// header returns a header of the last answer, nil if it is not there.
func (c *conn) header(name string) []byte {
	rest := c.head
	for {
		i := bytes.IndexByte(rest, '\n')
		if i < 0 {
			return nil
		}
		line := rest[:i]
		rest = rest[i+1:]
		if len(line) > len(name) && line[len(name)] == ':' && bytes.EqualFold(line[:len(name)], []byte(name)) {
			return bytes.TrimSpace(line[len(name)+1:])
		}
	}
}

// load is a closed loop: every connection sends its next request when it has the answer to the last.
type load struct {
	// of is who serves at addr; nil if its processor time is not of interest.
	of    *process
	addr  string
	conns int
	// next returns the request number i of a connection; it must not keep it.
	next func(conn, i int) []byte
	// ok is what a status must satisfy.
	ok func(status int) bool
	// most bounds the requests of all connections; 0 leaves that to the duration.
	most int
	// awake keeps the generator from sleeping while it waits. Whoever answers one that sleeps has to wake it, and
	// that costs the core of the server much: an interrupt of another core. A server that is fast enough to keep
	// the generator busy is spared it, which is no merit of that server.
	awake bool
}

// loadResult is what a load came to.
type loadResult struct {
	requests  int
	perSecond float64
	p50, p99  time.Duration
	cpu       float64       // cores used by this process, or, of one that is kept awake, the share of looks that found something
	server    time.Duration // processor time of the server a request
}

func success(status int) bool { return status >= 200 && status < 300 }

// run opens the connections, lets them warm up, and measures for the duration.
func (l load) run(ctx context.Context, duration time.Duration) (loadResult, error) {
	if l.ok == nil {
		l.ok = success
	}
	conns := make([]*conn, l.conns)
	defer func() {
		for _, c := range conns {
			if c != nil {
				_ = c.Close()
			}
		}
	}()
	for i := range conns {
		var err error
		if conns[i], err = dial(l.addr); err != nil {
			return loadResult{}, err
		}
		if l.awake {
			if err := conns[i].stayAwake(); err != nil {
				return loadResult{}, err
			}
		}
	}
	warmUp := min(duration/5, 500*time.Millisecond)
	if l.most > 0 {
		warmUp = 0
		duration = 5 * time.Minute
	}
	from := time.Now().Add(warmUp)
	until := from.Add(duration)
	var cpu usage
	counted := time.AfterFunc(warmUp, func() { cpu.begin() })
	defer counted.Stop()

	latencies := make([][]time.Duration, l.conns)
	answered := make([]int, l.conns) // in the warm-up, too
	errs := make([]error, l.conns)
	before, err := l.of.cpuTime()
	if err != nil {
		return loadResult{}, err
	}
	var wg sync.WaitGroup
	for i, c := range conns {
		_ = c.SetDeadline(until.Add(30 * time.Second))
		wg.Go(func() { latencies[i], answered[i], errs[i] = l.work(ctx, i, c, from, until) })
	}
	wg.Wait()
	end := time.Now()
	if l.most == 0 {
		end = until
	}
	used := cpu.end()
	after, err := l.of.cpuTime()
	if err != nil {
		return loadResult{}, err
	}
	// What fails on one connection mostly fails on all of them. One error says it.
	errs = slices.DeleteFunc(errs, func(err error) bool { return err == nil })
	if err := cmp.Or(ctx.Err(), errors.Join(errs[:min(1, len(errs))]...)); err != nil {
		return loadResult{}, err
	}
	all := slices.Concat(latencies...)
	if len(all) == 0 {
		return loadResult{}, errors.New("not one request was answered in the time")
	}
	slices.Sort(all)
	requests := 0
	for _, n := range answered {
		requests += n
	}
	if l.awake {
		used = busy(conns)
	}
	return loadResult{
		server:    (after - before) / time.Duration(requests),
		requests:  len(all),
		perSecond: float64(len(all)) / end.Sub(from).Seconds(),
		p50:       all[len(all)/2],
		p99:       all[len(all)*99/100],
		cpu:       used,
	}, nil
}

// work returns the latencies that count, and how many requests were answered in all.
func (l load) work(ctx context.Context, i int, c *conn, from, until time.Time) ([]time.Duration, int, error) {
	share := l.most / l.conns
	if i < l.most%l.conns {
		share++
	}
	latencies := make([]time.Duration, 0, 4096)
	now := time.Now()
	n := 0
	for ; (l.most == 0 || n < share) && now.Before(until) && ctx.Err() == nil; n++ {
		status, err := c.do(l.next(i, n))
		if err != nil {
			return nil, n, err
		}
		if !l.ok(status) {
			return nil, n, fmt.Errorf("answered with status %d: %s", status, c.buf[:min(c.have, 200)])
		}
		done := time.Now()
		if !now.Before(from) && !done.After(until) {
			latencies = append(latencies, done.Sub(now))
		}
		now = done
	}
	return latencies, n, nil
}

// usage measures how many cores this process takes.
type usage struct {
	mu   sync.Mutex
	at   time.Time
	used time.Duration
}

func (u *usage) begin() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.at, u.used = time.Now(), cpuTime()
}

func (u *usage) end() float64 {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.at.IsZero() {
		return 0
	}
	return (cpuTime() - u.used).Seconds() / time.Since(u.at).Seconds()
}

func cpuTime() time.Duration {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		return 0
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// others measures how many cores processes take that are not part of the measurement.
type others struct {
	at         time.Time
	busy, ours time.Duration
}

func beginOthers() others { return others{time.Now(), machineTime(), cpuTime() + childrenTime()} }

func (o others) end() float64 {
	took := machineTime() - o.busy - (cpuTime() + childrenTime() - o.ours)
	return took.Seconds() / time.Since(o.at).Seconds()
}

// childrenTime is the processor time of the children that have ended.
func childrenTime() time.Duration {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_CHILDREN, &r); err != nil {
		return 0
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// machineTime is the time that all processors were busy since the machine started.
func machineTime() time.Duration {
	content, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0
	}
	line, _, _ := strings.Cut(string(content), "\n")
	var busy time.Duration
	for i, field := range strings.Fields(line)[1:] {
		ticks, err := strconv.ParseInt(field, 10, 64)
		if err != nil || i == 3 || i == 4 || i > 7 { // idle, waiting for the disk, and guests, who are counted already
			continue
		}
		busy += time.Duration(ticks) * 10 * time.Millisecond // Linux counts in hundredths for programs
	}
	return busy
}

const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

// text returns n random letters, 64 kinds, that no compressor makes less than three quarters of.
func text(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	for i := range b {
		b[i] = letters[b[i]%64]
	}
	return b
}

// jsonBatch returns an array of count strings of size bytes each, quotes included.
func jsonBatch(count, size int) []byte {
	b := []byte{'['}
	for i := range count {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(append(append(b, '"'), text(size-2)...), '"')
	}
	return append(b, ']')
}

// discard drops n bytes of the body.
func (c *conn) discard(n int) error {
	for {
		taken := min(n, c.have)
		c.drop(taken)
		if n -= taken; n == 0 {
			return nil
		}
		if err := c.fill(); err != nil {
			return err
		}
	}
}

// drop takes n bytes off the front of buf.
func (c *conn) drop(n int) { c.have = copy(c.buf, c.buf[n:c.have]) }

// fill reads what there is room for in buf.
func (c *conn) fill() error {
	if c.have == len(c.buf) {
		return errors.New("an answer was larger than expected")
	}
	if c.raw != nil {
		return c.look()
	}
	n, err := c.Read(c.buf[c.have:])
	c.have += n
	return err
}

// stayAwake makes fill look for what comes instead of sleeping until it does.
func (c *conn) stayAwake() (err error) {
	tcp, ok := c.Conn.(*net.TCPConn)
	if !ok {
		return errors.New("only TCP can be looked at without waiting")
	}
	c.raw, err = tcp.SyscallConn()
	return err
}

// look reads what there is room for in buf, and lets others look when there is nothing yet.
func (c *conn) look() error {
	for {
		var n int
		var err error
		looked := c.raw.Read(func(fd uintptr) bool {
			n, err = syscall.Read(int(fd), c.buf[c.have:])
			return true // whatever was there: it is not to be waited for
		})
		if looked != nil {
			return looked // the deadline is over
		}
		c.looks++
		switch {
		case errors.Is(err, syscall.EAGAIN), errors.Is(err, syscall.EINTR):
			c.idle++
			runtime.Gosched()
			continue
		case err != nil:
			return err
		case n == 0:
			return io.ErrUnexpectedEOF
		}
		c.have += n
		return nil
	}
}

// busy is the share of looks that found something. Near 1, whoever looks is what is waited for.
func busy(conns []*conn) float64 {
	looks, idle := 0, 0
	for _, c := range conns {
		looks += c.looks
		idle += c.idle
	}
	return 1 - float64(idle)/float64(max(looks, 1))
}
