// Package sessiontest breaks connections on cue.
package sessiontest

import (
	"errors"
	"net"
	"sync"
	"time"
)

// Link stands between clients and a server: it passes on what the ends send to each other, until it is told
// to cut, stall or throttle it. All methods may be called concurrently.
type Link struct {
	listener net.Listener
	target   string
	all      sync.WaitGroup

	mu       sync.Mutex
	pairs    map[*pair]struct{}
	accepted int
	refusing bool
	stalled  [2]bool
	rate     int           // bytes in a second, 0 for no bound
	changed  chan struct{} // closed when one of these has changed
	closed   bool
}

// Direction is one of the two ways over a Link.
type Direction int

const (
	// ToServer is what clients send.
	ToServer Direction = iota
	// ToClient is what the server sends.
	ToClient
)

// pair is one connection with its two ends.
type pair struct {
	client, server net.Conn
	done           chan struct{}
	once           sync.Once
}

func (p *pair) cut() {
	p.once.Do(func() {
		close(p.done)
		_ = p.client.Close()
		_ = p.server.Close()
	})
}

// NewLink returns a link to a server at a host and port.
func NewLink(target string) (*Link, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	l := &Link{listener: listener, target: target, pairs: make(map[*pair]struct{}), changed: make(chan struct{})}
	l.all.Go(l.accept)
	return l, nil
}

// URL is where clients find the link.
func (l *Link) URL() string { return "http://" + l.listener.Addr().String() }

// Close cuts everything, for good.
func (l *Link) Close() error {
	err := l.listener.Close()
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.Cut()
	l.all.Wait()
	return err
}

// Accepted is how many connections there have been.
func (l *Link) Accepted() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.accepted
}

// Cut ends the connections that there are.
func (l *Link) Cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for p := range l.pairs {
		p.cut()
	}
	l.change()
}

// Refuse lets no connection in, or lets them in again.
func (l *Link) Refuse(refuse bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.refusing = refuse
}

// Stall keeps back what is sent in a direction, or lets it go on.
func (l *Link) Stall(d Direction, stall bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stalled[d] = stall
	l.change()
}

// Throttle lets so many bytes pass in a second; 0 is no bound.
func (l *Link) Throttle(rate int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rate = rate
	l.change()
}

func (l *Link) change() {
	close(l.changed)
	l.changed = make(chan struct{})
}

func (l *Link) accept() {
	for {
		client, err := l.listener.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			continue
		}
		l.all.Go(func() { l.join(client) })
	}
}

func (l *Link) join(client net.Conn) {
	server, err := net.Dial("tcp", l.target)
	if err != nil {
		_ = client.Close()
		return
	}
	p := &pair{client: client, server: server, done: make(chan struct{})}
	l.mu.Lock()
	if l.refusing || l.closed {
		l.mu.Unlock()
		p.cut()
		return
	}
	l.accepted++
	l.pairs[p] = struct{}{}
	l.mu.Unlock()
	var both sync.WaitGroup
	both.Go(func() { l.pass(p, ToServer, p.client, p.server) })
	both.Go(func() { l.pass(p, ToClient, p.server, p.client) })
	both.Wait()
	l.mu.Lock()
	delete(l.pairs, p)
	l.mu.Unlock()
}

// pass passes on what one end sends. It ends both when one ends.
func (l *Link) pass(p *pair, d Direction, from, to net.Conn) {
	defer p.cut()
	buf := make([]byte, 16<<10)
	for {
		n, err := from.Read(buf)
		if err != nil || !l.wait(p, d, n) {
			return
		}
		if _, err := to.Write(buf[:n]); err != nil {
			return
		}
	}
}

// wait returns when bytes may pass, and false when the connection is cut.
func (l *Link) wait(p *pair, d Direction, n int) bool {
	paid := false
	for {
		l.mu.Lock()
		stalled, rate, changed := l.stalled[d], l.rate, l.changed
		l.mu.Unlock()
		switch {
		case stalled:
			select {
			case <-p.done:
				return false
			case <-changed:
			}
		case rate > 0 && !paid:
			timer := time.NewTimer(time.Duration(n) * time.Second / time.Duration(rate))
			select {
			case <-p.done:
			case <-changed:
			case <-timer.C:
				paid = true
			}
			timer.Stop()
		default:
			select {
			case <-p.done:
				return false
			default:
				return true
			}
		}
	}
}
