package durablestreams

import (
	"cmp"
	"context"
	"log/slog"
	"net/http"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/seats"
)

// The defaults of a [Config] are stated only here.
const (
	DefaultPrefix            = "/v1/stream/"
	DefaultLongPollTimeout   = 30 * time.Second
	DefaultSSERotation       = time.Minute
	DefaultHeartbeat         = 15 * time.Second
	DefaultProgressTimeout   = 30 * time.Second
	DefaultMinBodyRate       = 1 << 10
	DefaultMaxBodyBytes      = 64 << 20
	DefaultMaxInflightBytes  = 512 << 20
	DefaultMaxReadBytes      = 256 << 20
	DefaultInflightTimeout   = 2 * time.Second
	DefaultMaxMessages       = 1 << 18
	DefaultMaxJSONDepth      = 1000
	DefaultMaxContentType    = 256
	DefaultRegistryReconcile = 5 * time.Minute
)

// Config holds what can be set. The zero Config is right for most programs; it is copied, never written to.
type Config struct {
	// Prefix is the path under which streams live; it begins and ends with a slash. Empty means
	// DefaultPrefix. The handler looks at the whole path of a request, so mount it without StripPrefix.
	Prefix string
	// Store tells whose data a request is about. Nil means the default store for all requests. Its error is
	// answered by wire.ErrorOf, so it may be a *wire.Error of any status, 401 for instance.
	Store func(*http.Request) (runnel.Store, error)
	// Admit finds out who asks, before anything else is looked at, and returns the request with what it found
	// in its context, from which the Log and Store take it. Its error is answered as Store's is. Preflights of browsers are answered without it. Nil admits everybody.
	//
	// What access control needs besides is Bind, Own and Private.
	Admit func(*http.Request) (*http.Request, error)
	// Bind returns a context below ctx that also ends when whoever the request was admitted for is not to be
	// served any more. Live reads that outlive the request, or share one follower, end by it. Nil means never.
	Bind func(ctx context.Context, r *http.Request) (context.Context, context.CancelFunc)
	// Follow is asked before a reader of an item segment is given anything: live is how it reads, "sse" or "long-poll",
	// or FollowRead or FollowFork. The request has been admitted. An error refuses the reader, and is answered as Store's
	// is. The reader is served until the context ends; its cause is then answered where nothing has been yet, unless it is
	// runnel.ErrShutdown, after which a client comes back. End is called once when the reader has been served, and must
	// not wait. Nil lets everybody read whom the log lets.
	Follow func(r *http.Request, seg runnel.Segment, live string) (served context.Context, end func(), err error)
	// ItemsNoStore forbids caches to keep what is read of item segments: set it where Follow refuses some who are
	// given the same by a cache.
	ItemsNoStore bool
	// Seats bounds how many live readers there are at a time, in all and of one caller: those of SSE, and long-polls that
	// wait. Nil: any number.
	Seats *seats.Seats
	// Caller names who the context of an admitted request is of. Nil, or an empty name: nobody is known.
	Caller func(context.Context) string
	// Own is the log that the handler uses for itself: to follow a stream for live readers who have been let
	// in, and to keep registries. Nil means the log that New is given, which does where that asks nobody who they are.
	Own Log
	// BaseURL is the scheme and host that Location shows, for example "https://streams.example.com". Empty
	// means what the request came with.
	BaseURL string
	// TrustForwarded lets X-Forwarded-Proto and X-Forwarded-Host decide the scheme and host of Location
	// when BaseURL is empty. Set it only behind a proxy that overwrites both.
	TrustForwarded bool

	// LongPollTimeout is how long a long-poll waits for data. The query parameter timeout may shorten it.
	// 0 means DefaultLongPollTimeout.
	LongPollTimeout time.Duration
	// SSERotation is after how long an SSE response ends, give or take a twentieth, so that readers spread
	// over servers and collapse in caches. 0 means DefaultSSERotation, less than 0 never.
	SSERotation time.Duration
	// KeepConnections serves SSE over HTTP/1.1 inside net/http too, instead of taking the connection over.
	// It costs several times the memory; set it when something around the handler must see the end of
	// each response, for example to count them.
	KeepConnections bool
	// Heartbeat is after how long without an event an SSE response carries a comment. 0 means
	// DefaultHeartbeat, less than 0 never.
	Heartbeat time.Duration
	// ProgressTimeout is how long a client may let a connection stand still in the middle of a body, in
	// either direction, before it is dropped. 0 means DefaultProgressTimeout.
	ProgressTimeout time.Duration
	// MinBodyRate is how fast the body of a PUT or POST must arrive, in bytes a second on the average since
	// it began, once ProgressTimeout has passed; else it is refused with 408. 0 means DefaultMinBodyRate,
	// less than 0 any rate.
	MinBodyRate int64

	// MaxBodyBytes is the largest body of a PUT or POST, in bytes. 0 means DefaultMaxBodyBytes.
	MaxBodyBytes int64
	// MaxInflightBytes bounds the bodies that are in memory at the same time, in bytes; those of up to
	// 4 KiB do not count. It is at least MaxBodyBytes. 0 means DefaultMaxInflightBytes.
	MaxInflightBytes int64
	// InflightTimeout is how long a body waits for room within MaxInflightBytes before it is refused with
	// 503. 0 means DefaultInflightTimeout.
	InflightTimeout time.Duration
	// MaxReadBytes bounds what large entries take in memory at the same time while they are written to
	// readers, in bytes; those of up to 1 MiB do not count. A larger one waits for its turn; one that is
	// larger than all of it waits until it is alone. 0 means DefaultMaxReadBytes.
	MaxReadBytes int64
	// MaxMessages is how many messages one JSON body may hold. 0 means DefaultMaxMessages.
	MaxMessages int
	// MaxJSONDepth is how deep arrays and objects of a message may be nested. 0 means DefaultMaxJSONDepth,
	// which is also the most.
	MaxJSONDepth int

	// AllowedOrigins are the origins that browsers may use the streams from, for example
	// "https://app.example.com". Empty means all of them.
	AllowedOrigins []string
	// Private marks cacheable responses as private to the client: set it when streams hold data of
	// particular users and a shared cache does not tell users apart. Source: PROTOCOL.md, section 10.1.
	Private bool

	// Subscriptions serves the paths under __ds. Nil: they are answered with 501.
	Subscriptions Subscriptions

	// NoRegistry leaves out the __registry__ stream.
	NoRegistry bool
	// RegistryReconcile is how old the last comparison of the registry with the streams there are may be
	// before a read of it compares them again. 0 means DefaultRegistryReconcile.
	RegistryReconcile time.Duration

	// Logger takes defects and failures of the storage. Nil means slog.Default.
	Logger *slog.Logger
}

func (c Config) withDefaults() Config {
	c.Prefix = cmp.Or(c.Prefix, DefaultPrefix)
	c.LongPollTimeout = cmp.Or(c.LongPollTimeout, DefaultLongPollTimeout)
	c.SSERotation = cmp.Or(c.SSERotation, DefaultSSERotation)
	c.Heartbeat = cmp.Or(c.Heartbeat, DefaultHeartbeat)
	c.ProgressTimeout = cmp.Or(c.ProgressTimeout, DefaultProgressTimeout)
	c.MinBodyRate = cmp.Or(c.MinBodyRate, DefaultMinBodyRate)
	c.MaxBodyBytes = cmp.Or(c.MaxBodyBytes, DefaultMaxBodyBytes)
	c.MaxInflightBytes = max(cmp.Or(c.MaxInflightBytes, DefaultMaxInflightBytes), c.MaxBodyBytes)
	c.MaxReadBytes = cmp.Or(c.MaxReadBytes, DefaultMaxReadBytes)
	c.InflightTimeout = cmp.Or(c.InflightTimeout, DefaultInflightTimeout)
	c.MaxMessages = cmp.Or(c.MaxMessages, DefaultMaxMessages)
	c.MaxJSONDepth = min(cmp.Or(c.MaxJSONDepth, DefaultMaxJSONDepth), DefaultMaxJSONDepth)
	c.RegistryReconcile = cmp.Or(c.RegistryReconcile, DefaultRegistryReconcile)
	if c.Store == nil {
		c.Store = func(*http.Request) (runnel.Store, error) { return runnel.Store{}, nil }
	}
	if c.Caller == nil {
		c.Caller = func(context.Context) string { return "" }
	}
	if c.Bind == nil {
		c.Bind = func(ctx context.Context, _ *http.Request) (context.Context, context.CancelFunc) {
			return ctx, func() {}
		}
	}
	c.Logger = cmp.Or(c.Logger, slog.Default())
	return c
}
