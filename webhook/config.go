package webhook

import (
	"cmp"
	"log/slog"
	"net/http"
	"net/url"
	"time"
)

// The defaults of a [Config] are stated only here.
const (
	DefaultTimeout       = 30 * time.Second
	DefaultSlowAfter     = 500 * time.Millisecond
	DefaultMaxRetryAfter = 10 * time.Minute
	DefaultParkAfter     = 72 * time.Hour
	DefaultMaxAnswer     = 64 << 10
	DefaultMaxHeader     = 16 << 10
	DefaultMaxInFlight   = 512
	DefaultMaxSlow       = 2048
	DefaultMaxPerHost    = 64
	DefaultMaxPerTarget  = 8
	DefaultMaxWaiting    = 1 << 18
	DefaultOpenAfter     = 5
	DefaultGrace         = 10 * time.Second
)

// The schedule of retries. Source: PROTOCOL.md, section 7.1.
const (
	MinBackoff = time.Second
	MaxBackoff = 60 * time.Second
	jitter     = 0.2
)

// Config holds what can be set. The zero Config is right for most programs; it is copied, never written to.
type Config struct {
	// Timeout bounds one attempt, from the look-up of the name to the end of the answer. The lease of the
	// subscription bounds it too. 0 means DefaultTimeout.
	Timeout time.Duration
	// SlowAfter is after how long an attempt stops to count against MaxInFlight and MaxPerHost, and counts
	// against MaxSlow instead; if there is no room, it is ended. So receivers that hang take nothing from
	// the others. 0 means DefaultSlowAfter.
	SlowAfter time.Duration
	// MaxRetryAfter is the longest Retry-After that is honoured. 0 means DefaultMaxRetryAfter.
	MaxRetryAfter time.Duration
	// ParkAfter is for how long attempts may fail before the delivery is parked. 0 means DefaultParkAfter,
	// less than 0 never.
	ParkAfter time.Duration
	// MaxAnswerBytes is how much of an answer's body is read, and MaxHeaderBytes of its header. 0 means
	// DefaultMaxAnswer and DefaultMaxHeader.
	MaxAnswerBytes int64
	MaxHeaderBytes int64

	// MaxInFlight is how many attempts are made at a time, MaxSlow how many of those that take long,
	// MaxPerHost how many to one host and port, and MaxPerTarget to one URL without its query. Subscriptions
	// of different stores never share the latter two. 0 means the default of each.
	MaxInFlight, MaxSlow, MaxPerHost, MaxPerTarget int
	// MaxWaiting is how many deliveries are known of at a time, about 300 bytes each. More of them stay in
	// the outbox until some are made. 0 means DefaultMaxWaiting.
	MaxWaiting int
	// OpenAfter is how many attempts to one URL must fail in a row before only one at a time is made, to see
	// whether it is well again. 0 means DefaultOpenAfter.
	OpenAfter int
	// Grace is how long attempts under way may take when the dispatcher ends. 0 means DefaultGrace, less
	// than 0 no time.
	Grace time.Duration

	// Proxy, if not nil, is what all requests go through. It resolves the names then, so it must be the
	// one that refuses addresses inside networks. Proxies of the environment are never used.
	Proxy *url.URL
	// Transport, if not nil, makes all requests, and no connection is checked: it must be what refuses addresses
	// inside networks. URLs are checked as ever.
	Transport http.RoundTripper
	// UserAgent is sent with each request. Empty means "runnel".
	UserAgent string
	// Logger takes changes for the worse and for the better. Nil means slog.Default.
	Logger *slog.Logger
}

func (c Config) withDefaults() Config {
	c.Timeout = cmp.Or(c.Timeout, DefaultTimeout)
	c.SlowAfter = cmp.Or(c.SlowAfter, DefaultSlowAfter)
	c.MaxRetryAfter = cmp.Or(c.MaxRetryAfter, DefaultMaxRetryAfter)
	c.ParkAfter = cmp.Or(c.ParkAfter, DefaultParkAfter)
	c.MaxAnswerBytes = cmp.Or(c.MaxAnswerBytes, DefaultMaxAnswer)
	c.MaxHeaderBytes = cmp.Or(c.MaxHeaderBytes, DefaultMaxHeader)
	c.MaxInFlight = cmp.Or(c.MaxInFlight, DefaultMaxInFlight)
	c.MaxSlow = cmp.Or(c.MaxSlow, DefaultMaxSlow)
	c.MaxPerHost = cmp.Or(c.MaxPerHost, DefaultMaxPerHost)
	c.MaxPerTarget = cmp.Or(c.MaxPerTarget, DefaultMaxPerTarget)
	c.MaxWaiting = cmp.Or(c.MaxWaiting, DefaultMaxWaiting)
	c.OpenAfter = cmp.Or(c.OpenAfter, DefaultOpenAfter)
	c.Grace = cmp.Or(c.Grace, DefaultGrace)
	c.UserAgent = cmp.Or(c.UserAgent, "runnel")
	c.Logger = cmp.Or(c.Logger, slog.Default())
	return c
}
