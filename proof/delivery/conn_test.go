package delivery

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// temper is what the connections of a client are like.
type temper int

const (
	steady  temper = iota // nothing happens
	cutting               // they break after some bytes
	stalling
	trickling // a few bytes at a time
	starved   // little bandwidth
	tempers
)

func (t temper) String() string {
	return [...]string{"steady", "cutting", "stalling", "trickling", "starved"}[t]
}

// network is the way between a client and the server. It may be calm for all, from some moment on.
type network struct {
	temper temper
	calm   <-chan struct{}
	dial   func(ctx context.Context) (net.Conn, error)
	last   atomic.Pointer[conn]

	mu sync.Mutex
	r  *rand.Rand
}

var errCut = errors.New("the network was cut")

// transport returns what sends requests over the network.
func (n *network) transport() *http.Transport {
	return &http.Transport{
		DialContext:         func(ctx context.Context, _, _ string) (net.Conn, error) { return n.connect(ctx) },
		MaxIdleConnsPerHost: 2,
		IdleConnTimeout:     5 * time.Second,
	}
}

func (n *network) connect(ctx context.Context) (net.Conn, error) {
	inner, err := n.dial(ctx)
	if err != nil {
		return nil, err
	}
	c := &conn{Conn: inner, calm: n.calm, closed: make(chan struct{})}
	n.last.Store(c)
	if c.isCalm() {
		return c, nil
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	// From a few bytes to much, all magnitudes alike.
	some := func(least, magnitudes int) int64 {
		return int64(float64(least) * (1 + n.r.Float64()) * float64(int64(1)<<n.r.IntN(magnitudes)))
	}
	switch n.temper {
	case cutting:
		c.cutAfter, c.cutWrite = some(100, 13), n.r.IntN(3) == 0
		c.cuts = true
	case stalling:
		c.stallAfter, c.stall = some(60, 12), time.Duration(some(20, 6))*time.Millisecond
		c.narrow = true
	case trickling:
		c.most, c.pause = int(some(16, 6)), 2*time.Millisecond
	case starved:
		c.most = 4 << 10
		c.pause = time.Duration(some(5, 4)) * time.Millisecond
		c.narrow = true
	case steady:
	}
	if c.narrow {
		c.room(8 << 10) // what does not fit waits in the server
		go c.cutWhenCalm()
	}
	return c, nil
}

// conn is a connection on which something happens.
type conn struct {
	net.Conn
	calm   <-chan struct{}
	closed chan struct{}
	once   sync.Once

	cuts       bool
	cutWrite   bool // in what is sent, else in what is received
	cutAfter   int64
	stallAfter int64
	stall      time.Duration
	most       int // bytes a read brings; 0: any number
	pause      time.Duration
	narrow     bool // it has little room for what comes

	read, written int64
	stalls        atomic.Int64 // that have happened
	wasCut        atomic.Bool
}

// room says how much may have come that was not read yet.
func (c *conn) room(bytes int) {
	if tcp, ok := c.Conn.(*net.TCPConn); ok {
		_ = tcp.SetReadBuffer(bytes)
	}
}

func (c *conn) isCalm() bool {
	select {
	case <-c.calm:
		return true
	default:
		return false
	}
}

// wait lets time pass, unless the network gets calm or the connection is closed.
func (c *conn) wait(d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-c.calm:
	case <-c.closed:
	}
}

func (c *conn) Read(p []byte) (int, error) {
	if c.isCalm() {
		return c.Conn.Read(p)
	}
	if c.most > 0 {
		p = p[:min(len(p), c.most)]
		c.wait(c.pause)
	}
	if c.stallAfter > 0 {
		if c.read >= c.stallAfter {
			c.stalls.Add(1)
			c.stallAfter *= 2
			c.wait(c.stall)
		}
		p = p[:min(int64(len(p)), max(1, c.stallAfter-c.read))]
	}
	if c.cuts && !c.cutWrite {
		if c.read >= c.cutAfter {
			c.cut()
			return 0, errCut
		}
		p = p[:min(int64(len(p)), c.cutAfter-c.read)]
	}
	n, err := c.Conn.Read(p)
	c.read += int64(n)
	return n, err
}

func (c *conn) Write(p []byte) (int, error) {
	if c.cuts && c.cutWrite && !c.isCalm() && c.written+int64(len(p)) > c.cutAfter {
		n, _ := c.Conn.Write(p[:max(0, c.cutAfter-c.written)])
		c.cut()
		return n, errCut
	}
	n, err := c.Conn.Write(p)
	c.written += int64(n)
	return n, err
}

// cutWhenCalm ends a connection with little room. It would stay slow in a network that is calm: the kernel of the
// server has come to probe for room a few times a second, and sends no more than what there is each time, which for
// an answer of some megabytes takes minutes.
func (c *conn) cutWhenCalm() {
	select {
	case <-c.calm:
		c.cut()
	case <-c.closed:
	}
}

func (c *conn) cut() {
	c.wasCut.Store(true)
	_ = c.Close()
}

func (c *conn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}
