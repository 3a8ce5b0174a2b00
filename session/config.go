package session

import (
	"cmp"
	"context"
	"log/slog"
	"net/http"
	"time"
)

// KeepAlive says how the ends of a connection know of each other.
type KeepAlive struct {
	// Interval is how often something is sent. 0 means DefaultKeepAlive.Interval.
	Interval time.Duration
	// Timeout is after how long without anything from the other end the connection counts as lost. It is
	// at least the Interval. 0 means DefaultKeepAlive.Timeout.
	Timeout time.Duration
}

// DefaultKeepAlive is what the zero KeepAlive means.
var DefaultKeepAlive = KeepAlive{Interval: 10 * time.Second, Timeout: 30 * time.Second}

func (k KeepAlive) withDefaults() KeepAlive {
	k.Interval = cmp.Or(k.Interval, DefaultKeepAlive.Interval)
	k.Timeout = max(cmp.Or(k.Timeout, DefaultKeepAlive.Timeout), k.Interval)
	return k
}

// Operation is one operation, as telemetry sees it.
type Operation struct {
	// Name is that of the method of runnel.Log in lower case, with underscores.
	Name string
	// Carrier is what telemetry of the client tells that of the server: the client's fills it in, the
	// server's reads it.
	Carrier map[string]string
}

// Observe is called where an operation begins. The operation goes on in the context that it returns, and
// end is called with the operation's error when it ends.
type Observe func(ctx context.Context, o *Operation) (_ context.Context, end func(error))

func (o Observe) begin(ctx context.Context, op *Operation) (context.Context, func(error)) {
	if o == nil {
		return ctx, func(error) {}
	}
	return o(ctx, op)
}

// Config tunes a Handler. The zero Config is right for most servers.
type Config struct {
	// MaxConnections is how many connections there may be at a time. More are refused with 503 before they
	// are made. 0 means DefaultMaxConnections, and less means any number.
	MaxConnections int
	// MaxConnectionsEach is how many of them one caller may have. More are refused with 429. 0 means
	// DefaultMaxConnectionsEach, and less means any number.
	MaxConnectionsEach int
	// Caller names who the context of a request is of. Nil, or an empty name: nobody is known, and only
	// MaxConnections counts.
	Caller func(context.Context) string
	// Bind returns a context that also ends when who asks in it may do so no longer, with the
	// *runnel.UnauthorizedError as its cause. The connection is then closed as soon as the operations that
	// are under way have been answered, with the close code 1008 and the reason. Nil: connections go on.
	Bind func(context.Context) (context.Context, context.CancelFunc)
	// MaxStreams is how many operations one connection may have under way. More are refused with
	// runnel.ErrUnavailable. 0 means DefaultMaxStreams.
	MaxStreams int
	// MaxMessageBytes is the largest request. A larger one is refused with runnel.ErrTooLarge. 0 means
	// DefaultMaxMessageBytes.
	MaxMessageBytes int64
	// StreamBytes is how much one operation may send before the server has read it. 0 means
	// DefaultStreamBytes.
	StreamBytes int
	// IdleTimeout is after how long without an operation a connection is closed. A client then dials
	// again for its next one. 0 means DefaultIdleTimeout, and less means never.
	IdleTimeout time.Duration
	KeepAlive   KeepAlive
	// AllowedOrigins are the hosts from whose pages browsers may connect, besides the server's own; in the
	// form of path.Match.
	AllowedOrigins []string
	// Observe is told of each operation; nil for nobody.
	Observe Observe
	// Logger is told what goes wrong that no client is to blame for. Nil means slog.Default().
	Logger *slog.Logger
}

// Defaults of Config and ClientConfig.
const (
	DefaultMaxConnections     = 10_000
	DefaultMaxConnectionsEach = 1000
	DefaultMaxStreams         = 1024
	DefaultMaxMessageBytes    = 64 << 20
	DefaultStreamBytes        = 1 << 20
	DefaultIdleTimeout        = 10 * time.Minute
	DefaultMaxResponseBytes   = 1 << 30
	DefaultDialTimeout        = 10 * time.Second
	DefaultPatience           = 30 * time.Second
)

func (c Config) withDefaults() Config {
	c.MaxConnections = cmp.Or(c.MaxConnections, DefaultMaxConnections)
	c.MaxConnectionsEach = cmp.Or(c.MaxConnectionsEach, DefaultMaxConnectionsEach)
	if c.Caller == nil {
		c.Caller = func(context.Context) string { return "" }
	}
	if c.Bind == nil {
		c.Bind = context.WithCancel
	}
	c.MaxStreams = cmp.Or(c.MaxStreams, DefaultMaxStreams)
	c.MaxMessageBytes = cmp.Or(c.MaxMessageBytes, DefaultMaxMessageBytes)
	c.StreamBytes = cmp.Or(c.StreamBytes, DefaultStreamBytes)
	c.IdleTimeout = cmp.Or(c.IdleTimeout, DefaultIdleTimeout)
	c.KeepAlive = c.KeepAlive.withDefaults()
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return c
}

// ClientConfig tunes a Client. The zero ClientConfig is right for most programs.
type ClientConfig struct {
	// Token returns what the server is to know the caller by, for each connection and again after the
	// server has refused one; nil or an empty token for none.
	Token func(ctx context.Context) (string, error)
	// Header is sent with the request that opens a connection.
	Header http.Header
	// HTTPClient opens connections. Its Timeout must be 0. Nil means a client of its own with the
	// defaults of net/http.
	HTTPClient *http.Client
	// DialTimeout is how long opening a connection may take. 0 means DefaultDialTimeout.
	DialTimeout time.Duration
	// Patience is how long an operation tries to reach the server before it fails with
	// runnel.ErrUnavailable. What follows or watches has no end to it once it has begun. 0 means
	// DefaultPatience.
	Patience time.Duration
	// StreamBytes is how much one operation may be sent before it is read here: the memory that a slow
	// reader takes. 0 means DefaultStreamBytes.
	StreamBytes int
	// MaxResponseBytes is the largest response that is taken. 0 means DefaultMaxResponseBytes.
	MaxResponseBytes int64
	KeepAlive        KeepAlive
	// Observe is told of each operation; nil for nobody.
	Observe Observe
	// Logger is told when the connection is lost and when it is there again. Nil means nobody is.
	Logger *slog.Logger
}

func (c ClientConfig) withDefaults() ClientConfig {
	if c.HTTPClient == nil {
		c.HTTPClient = &http.Client{}
	}
	c.DialTimeout = cmp.Or(c.DialTimeout, DefaultDialTimeout)
	c.Patience = cmp.Or(c.Patience, DefaultPatience)
	c.StreamBytes = cmp.Or(c.StreamBytes, DefaultStreamBytes)
	c.MaxResponseBytes = cmp.Or(c.MaxResponseBytes, DefaultMaxResponseBytes)
	c.KeepAlive = c.KeepAlive.withDefaults()
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}
