package session

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"
	"github.com/xtaci/smux"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/wire"
)

// Path is where a session is served by convention.
const Path = "/v1/session"

// Client is a log on a server. All methods may be called concurrently.
type Client struct {
	url string
	cfg ClientConfig

	ctx     context.Context //nolint:containedctx // the client's own life, not an operation's
	cancel  context.CancelFunc
	dialing sync.WaitGroup

	mu       sync.Mutex
	current  *link
	attempt  *attempt
	failures int       // in a row
	earliest time.Time // of the next attempt
	closed   bool
}

var _ runnel.Log = (*Client)(nil)

// attempt is one to open a connection, which everybody waits for who needs one.
type attempt struct {
	done chan struct{}
	link *link
	err  error
}

// Dial connects to a server. The scheme of the address is http, https, ws or wss; where it has no path,
// Path is meant. It returns when there is a connection, or when there will be none: after the first
// refusal, after the Patience, or when the context ends. The context has no meaning afterwards.
func Dial(ctx context.Context, address string, cfg ClientConfig) (*Client, error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, &runnel.InvalidError{What: "address", Rule: "must be a URL: " + err.Error()}
	}
	switch u.Scheme {
	case "ws":
		u.Scheme = "http"
	case "wss":
		u.Scheme = "https"
	case "http", "https":
	default:
		return nil, &runnel.InvalidError{What: "address", Rule: fmt.Sprintf("must begin with http, https, ws or wss, not %q", u.Scheme)}
	}
	if u.Path == "" || u.Path == "/" {
		u.Path = Path
	}
	c := &Client{url: u.String(), cfg: cfg.withDefaults()}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	if _, err := c.connect(ctx, c.newPatience(false)); err != nil {
		_ = c.Close()
		return nil, err
	}
	return c, nil
}

// Close ends the connection. What is under way fails with runnel.ErrShutdown, or with runnel.ErrUnknown
// if it is a write that may have happened.
func (c *Client) Close() error {
	c.mu.Lock()
	c.closed = true
	l := c.current
	c.mu.Unlock()
	c.cancel()
	if l != nil {
		_ = l.session.Close()
	}
	c.dialing.Wait()
	return nil
}

// patience is how long an operation tries to reach the server.
type patience struct {
	limit time.Duration
	until time.Time // zero: without end
	last  error
}

func (c *Client) newPatience(endless bool) *patience {
	p := &patience{limit: c.cfg.Patience}
	if !endless {
		p.until = time.Now().Add(p.limit)
	}
	return p
}

// progress begins the time again.
func (p *patience) progress() {
	if !p.until.IsZero() {
		p.until = time.Now().Add(p.limit)
	}
}

// endless lets the operation try for ever.
func (p *patience) endless() { p.until = time.Time{} }

// over returns the error to give up with, or nil.
func (p *patience) over(last error) error {
	if last != nil {
		p.last = last
	}
	if p.until.IsZero() || time.Now().Before(p.until) {
		return nil
	}
	return &runnel.UnavailableError{Reason: fmt.Sprintf("the server could not be reached for %v: %v", p.limit, p.last), RetryAfter: time.Second}
}

// connect returns a connection, and opens one if there is none.
func (c *Client) connect(ctx context.Context, p *patience) (*link, error) {
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		l, a, err := c.linkOrAttempt()
		if l != nil || err != nil {
			return l, err
		}
		var over <-chan time.Time
		if !p.until.IsZero() {
			timer := time.NewTimer(time.Until(p.until))
			defer timer.Stop()
			over = timer.C
		}
		select {
		case <-a.done:
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-over:
			return nil, p.over(errors.New("an attempt to connect has not ended"))
		}
		if a.err == nil {
			return a.link, nil
		}
		if permanent(a.err) {
			return nil, a.err
		}
		if err := p.over(a.err); err != nil {
			return nil, err
		}
	}
}

// linkOrAttempt returns the connection if there is one, and otherwise the attempt to open it that is
// under way.
func (c *Client) linkOrAttempt() (*link, *attempt, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, nil, runnel.ErrShutdown
	}
	if c.current != nil && c.current.usable() {
		return c.current, nil, nil
	}
	if c.attempt == nil {
		a := &attempt{done: make(chan struct{})}
		wait := time.Until(c.earliest)
		c.attempt = a
		c.dialing.Go(func() { c.try(a, wait) })
	}
	return nil, c.attempt, nil
}

// try opens a connection, after a while.
func (c *Client) try(a *attempt, wait time.Duration) {
	if wait > 0 {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-c.ctx.Done():
		}
	}
	a.link, a.err = c.open(c.ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.attempt = nil
	switch {
	case c.closed:
		if a.link != nil {
			_ = a.link.session.Close()
		}
		a.link, a.err = nil, runnel.ErrShutdown
	case a.err == nil:
		c.current = a.link
		c.cfg.Logger.Info("connected", "url", c.url)
	default:
		c.backOff()
		c.cfg.Logger.Warn("could not connect", "url", c.url, "error", a.err)
	}
	close(a.done)
}

// The time between attempts doubles from the first to the last of these, and is then cut by up to a half,
// so that clients which were cut off together do not come back together.
const (
	firstBackOff = 50 * time.Millisecond
	lastBackOff  = 5 * time.Second
)

// backOff puts off the next attempt. It is called with the lock held.
func (c *Client) backOff() {
	wait := min(firstBackOff<<min(c.failures, 10), lastBackOff)
	c.failures++
	c.earliest = time.Now().Add(wait/2 + rand.N(wait/2))
}

// lost is told that a connection is of no use any more.
func (c *Client) lost(l *link, err error) {
	_ = l.session.Close()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.current != l {
		return
	}
	c.current = nil
	c.cfg.Logger.Warn("connection lost", "url", c.url, "error", err)
	c.backOff()
}

// away is told that the server of a connection goes away.
func (c *Client) away(l *link) {
	l.retire()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.current != l {
		return
	}
	c.current = nil
	c.cfg.Logger.Info("the server goes away", "url", c.url)
	c.backOff()
}

// worked is told that a connection has brought an answer.
func (c *Client) worked(l *link) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.current == l {
		c.failures = 0
	}
}

// refusedError is an answer to the request for a connection that another attempt will not change.
type refusedError struct{ err error }

func (e *refusedError) Error() string { return e.err.Error() }
func (e *refusedError) Unwrap() error { return e.err }

// permanent tells whether another attempt is of no use.
func permanent(err error) bool {
	var refused *refusedError
	return errors.As(err, &refused) || errors.Is(err, runnel.ErrUnauthorized) || errors.Is(err, runnel.ErrForbidden) || errors.Is(err, runnel.ErrShutdown)
}

// open opens a connection.
func (c *Client) open(ctx context.Context) (*link, error) {
	dialing, cancel := context.WithTimeout(ctx, c.cfg.DialTimeout)
	defer cancel()
	header := c.cfg.Header.Clone()
	if header == nil {
		header = make(http.Header)
	}
	token := ""
	if c.cfg.Token != nil {
		var err error
		if token, err = c.cfg.Token(dialing); err != nil {
			return nil, fmt.Errorf("runnel: no token: %w", err)
		}
		if token != "" {
			header.Set("Authorization", "Bearer "+token)
		}
	}
	ws, resp, err := websocket.Dial(dialing, c.url, &websocket.DialOptions{ //nolint:bodyclose // Dial has read it
		HTTPClient: c.cfg.HTTPClient, HTTPHeader: header, Subprotocols: []string{Subprotocol}, CompressionMode: websocket.CompressionDisabled,
	})
	if err != nil {
		return nil, dialError(resp, err)
	}
	if ws.Subprotocol() != Subprotocol {
		_ = ws.CloseNow()
		return nil, &refusedError{fmt.Errorf("%w: %s speaks no %s", runnel.ErrInvalid, c.url, Subprotocol)}
	}
	// The connection outlives the attempt.
	session, err := smux.Client(newConn(ctx, ws), streamsConfig(c.cfg.StreamBytes, c.cfg.KeepAlive))
	if err != nil {
		_ = ws.CloseNow()
		return nil, &refusedError{err}
	}
	return &link{session: session, limit: c.cfg.MaxResponseBytes, token: token}, nil
}

// dialError says why no connection could be opened.
func dialError(resp *http.Response, err error) error {
	if resp == nil || resp.StatusCode == http.StatusSwitchingProtocols {
		return err
	}
	message := answerOf(resp)
	switch status := resp.StatusCode; {
	case status == http.StatusUnauthorized:
		reason, _ := strings.CutPrefix(message, "the token ")
		if reason == wire.ErrorOf(&runnel.UnauthorizedError{}).Detail.Message {
			reason = ""
		}
		return &runnel.UnauthorizedError{Reason: reason}
	case status == http.StatusForbidden:
		return &refusedError{fmt.Errorf("%w: %s", runnel.ErrForbidden, message)}
	case status >= 500 || status == http.StatusTooManyRequests || status == http.StatusRequestTimeout:
		return fmt.Errorf("the server answered %s: %s", resp.Status, message)
	default:
		return &refusedError{fmt.Errorf("%w: there is no session at this address, the server answered %s: %s", runnel.ErrInvalid, resp.Status, message)}
	}
}

// answerOf returns the message of a response that is no session.
func answerOf(resp *http.Response) string {
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 1024)) // what has come says enough
	var known wire.Body
	if json.Unmarshal(body, &known) == nil && known.Error.Message != "" {
		return known.Error.Message
	}
	return strings.TrimSpace(string(body))
}
