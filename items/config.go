package items

import (
	"cmp"
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/seats"
)

// The defaults of a [Config] are stated only here.
const (
	DefaultPrefix           = "/v1/items/"
	DefaultMaxBodyBytes     = 8 << 20
	DefaultMaxWrites        = 1000
	DefaultMaxPage          = 1000
	DefaultMaxQueueBytes    = 1 << 20
	DefaultMaxSubscriptions = 1000
	DefaultMaxFrameBytes    = 64 << 10
	DefaultPingInterval     = 30 * time.Second
	DefaultWriteTimeout     = 30 * time.Second
	DefaultHookTimeout      = 5 * time.Second
	DefaultPresenceTTL      = time.Minute
)

// Config holds what can be set. The zero Config is right for most programs; it is copied, never written to.
type Config struct {
	// Prefix is the path under which functions and resources live; it begins and ends with a slash. Empty
	// means DefaultPrefix.
	Prefix string
	// Store tells whose data a request is about. Nil means the default store for all requests.
	Store func(*http.Request) (runnel.Store, error)
	// Admit says who asks, or refuses. It may return a request whose context says so to the Log. Nil admits
	// everybody.
	Admit func(*http.Request) (*http.Request, error)
	// Bind returns a context that ends when who asks may not be served any longer. Nil: never.
	Bind func(context.Context) (context.Context, context.CancelFunc)
	// Own is what the handler does of itself with, such as to follow a space for all its subscribers. Nil
	// is the log that New was given.
	Own Log

	// MayRevoke says whether the one that a context is about may end the subscriptions of others to a group,
	// or to a stream if the segment has no name, or to all if it has no space either. Nil lets everybody.
	MayRevoke func(ctx context.Context, of runnel.Segment) error

	// Connect is asked before a WebSocket is accepted, and on each request of whoever follows a group by another
	// way in ([Handler.Follow]). An error, a panic, or HookTimeout passing refuses. Nil accepts.
	Connect func(context.Context, Handshake) (Admission, error)
	// Join is asked before a subscription is given anything; an error, a panic, or HookTimeout passing
	// refuses it. Nil accepts. [Hooks] has one that asks several, and pairs joins with leaves over crashes.
	Join func(context.Context, Subscription) error
	// Leave is told of the end of each subscription that Join has accepted, once, and of those that Join
	// accepted too late. It is not told of those of a process that has crashed. Nil tells nobody.
	Leave func(context.Context, Subscription)
	// HookTimeout is how long Connect, Join and Leave may take. 0 means DefaultHookTimeout.
	HookTimeout time.Duration

	// AllowedOrigins are the origins, such as "https://app.example.com", of pages that may connect; hosts
	// may have wildcards. Empty allows all.
	AllowedOrigins []string
	// InjectID puts the item's id into values that subscribers are given, as the field id, where the value is
	// an object without one. A connection may ask for it with the query parameter inject_id.
	InjectID bool

	// MaxBodyBytes is the largest body of a request, in bytes. 0 means DefaultMaxBodyBytes.
	MaxBodyBytes int64
	// MaxWrites is how many items one request may write. 0 means DefaultMaxWrites.
	MaxWrites int
	// MaxPage is how many items or names one page of a resource may list. 0 means DefaultMaxPage.
	MaxPage int
	// MaxQueueBytes bounds what waits for one connection, in bytes, snapshots aside; beyond it changes are
	// dropped, and the subscriber is told so and given a snapshot. 0 means DefaultMaxQueueBytes.
	MaxQueueBytes int
	// MaxSubscriptions is how many a connection may have. 0 means DefaultMaxSubscriptions.
	MaxSubscriptions int
	// MaxFrameBytes is the largest frame of a client. 0 means DefaultMaxFrameBytes.
	MaxFrameBytes int64
	// Seats bounds how many WebSocket connections there are at a time, in all and of one caller. Nil: any number.
	Seats *seats.Seats
	// Caller names who the context of an admitted request is of. Nil, or an empty name: nobody is known.
	Caller func(context.Context) string
	// PingInterval is how often a connection is checked. 0 means DefaultPingInterval, less than 0 never.
	PingInterval time.Duration
	// WriteTimeout is how long a frame, or each megabyte of one, may take to be written, and a ping to be answered,
	// before the connection is closed. 0 means DefaultWriteTimeout.
	WriteTimeout time.Duration

	// PresenceTTL is how long a member of a group is shown after the server that had its connection has crashed;
	// three times as often it is renewed. 0 means DefaultPresenceTTL.
	PresenceTTL time.Duration

	// Logger gets what no client is told. Nil means slog.Default.
	Logger *slog.Logger
}

// Handshake is what is known of a WebSocket connection, or of a request, before it is accepted.
type Handshake struct {
	// Headers have names in lower case, and the last value of each.
	Headers map[string]string `json:"headers"`
	Path    string            `json:"path"`
	// QueryParams are decoded.
	QueryParams map[string][]string `json:"query_params"`
	// Addr is the address and port of the peer, which may be a proxy.
	Addr string `json:"addr"`
}

// Admission is what is known of a WebSocket connection that is accepted.
type Admission struct {
	// Context is handed to Join and Leave. Nil is null.
	Context json.RawMessage
	// Until is when the connection ends, with unauthorized frames. Zero: not by itself.
	Until time.Time
}

// The transports of subscriptions. All but a WebSocket are ways to read the Durable Stream of a group.
const (
	OverWebSocket = "websocket"
	OverSSE       = "sse"
	OverLongPoll  = "long-poll"
	// OverRead is one request for what there is.
	OverRead = "read"
	// OverFork makes a stream with what there is.
	OverFork = "fork"
)

// Subscription is what a connection has joined.
type Subscription struct {
	// ID is what the client calls it; the name of its transport where that is no WebSocket.
	ID     string       `json:"subscription_id"`
	Store  runnel.Store `json:"-"`
	Stream string       `json:"stream_name"`
	// Group is empty in a subscription to several groups.
	Group string `json:"group_id"`
	// Item is nil in a subscription to a group.
	Item *string `json:"id"`
	// Prefix is what the ids of items, or without a Group the names of groups, begin with.
	Prefix string `json:"prefix,omitempty"`
	// Context is what Connect has returned.
	Context json.RawMessage `json:"context"`
	// Transport is how it is served, such as OverWebSocket.
	Transport string `json:"transport"`
	// Subject is who asks, as Config.Caller names them; empty if nobody is known.
	Subject string `json:"subject,omitempty"`
	// Connection tells connections of a process apart.
	Connection uint64 `json:"-"`
}

func (c Config) withDefaults(log Log) Config {
	c.Prefix = cmp.Or(c.Prefix, DefaultPrefix)
	if c.Store == nil {
		c.Store = func(*http.Request) (runnel.Store, error) { return runnel.Store{}, nil }
	}
	if c.Admit == nil {
		c.Admit = func(r *http.Request) (*http.Request, error) { return r, nil }
	}
	if c.Caller == nil {
		c.Caller = func(context.Context) string { return "" }
	}
	if c.Bind == nil {
		c.Bind = context.WithCancel
	}
	if c.Own == nil {
		c.Own = log
	}
	c.HookTimeout = cmp.Or(c.HookTimeout, DefaultHookTimeout)
	c.MaxBodyBytes = cmp.Or(c.MaxBodyBytes, DefaultMaxBodyBytes)
	c.MaxWrites = cmp.Or(c.MaxWrites, DefaultMaxWrites)
	c.MaxPage = cmp.Or(c.MaxPage, DefaultMaxPage)
	c.MaxQueueBytes = cmp.Or(c.MaxQueueBytes, DefaultMaxQueueBytes)
	c.MaxSubscriptions = cmp.Or(c.MaxSubscriptions, DefaultMaxSubscriptions)
	c.MaxFrameBytes = cmp.Or(c.MaxFrameBytes, DefaultMaxFrameBytes)
	c.PingInterval = cmp.Or(c.PingInterval, DefaultPingInterval)
	c.WriteTimeout = cmp.Or(c.WriteTimeout, DefaultWriteTimeout)
	c.PresenceTTL = cmp.Or(c.PresenceTTL, DefaultPresenceTTL)
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return c
}
