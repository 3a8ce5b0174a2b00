package dsclient

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/runnelhq/runnel/wire"
)

// TailOptions tune a tail. The zero value is right for most.
type TailOptions struct {
	// LongPoll asks with one request after the other. Otherwise one long answer brings server-sent events,
	// which is faster and cheaper, but does not pass every proxy.
	LongPoll bool
	// IdleTimeout is how long a connection may bring nothing, not even a heartbeat, before it is taken for
	// dead and made anew. It must be longer than the server's long-poll time-out. 0 means 90 s.
	IdleTimeout time.Duration
	// MaxBatchBytes bounds one batch. A larger one ends the tail with an error. 0 means 256 MiB.
	MaxBatchBytes int
	// Retrying, if not nil, is told why a connection failed and how long the tail waits before the next.
	Retrying func(err error, wait time.Duration)
}

func (o TailOptions) withDefaults() TailOptions {
	o.IdleTimeout = cmp.Or(o.IdleTimeout, 90*time.Second)
	o.MaxBatchBytes = cmp.Or(o.MaxBatchBytes, 256<<20)
	return o
}

// Batch is what a tail brings at once. It belongs to whoever receives it.
type Batch struct {
	// Data is bytes of the stream; of a JSON stream an array of messages. It is empty in a batch that only
	// tells that the reader is up to date, or that the stream is closed.
	Data []byte
	// ContentType is the stream's. Server-sent events do not tell it, and leave it empty.
	ContentType string
	// Offset is the place after Data: where a later tail goes on.
	Offset Offset
	// UpToDate says that there was nothing after Offset when the server sent this.
	UpToDate bool
	// Closed says that nothing will ever follow. It is the last batch.
	Closed bool
}

// Messages yields the messages of a batch of a JSON stream.
func (b Batch) Messages() iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		s := newSplitter(bytes.NewReader(b.Data))
		for {
			message, err := s.next()
			if errors.Is(err, io.EOF) {
				return
			}
			if !yield(message, err) || err != nil {
				return
			}
		}
	}
}

// Tail yields what a stream holds after a place, and then what is appended, in order and once, until the
// stream is closed, ctx ends, or the loop is left. When a connection ends or fails it goes on from the last
// batch over another one, as long as it takes: only a refusal that will stay one ends it with an error, a
// deleted stream for example, even if another one has its name by then. The end of ctx is an error too.
//
// Server-sent events cannot tell CR, LF and CRLF apart, so a tail of a text stream has LF for all of them,
// unless it is a LongPoll. Other content types come as they were written.
func (c *Client) Tail(ctx context.Context, stream string, from Offset, o TailOptions) iter.Seq2[Batch, error] {
	return func(yield func(Batch, error) bool) {
		t := &tail{client: c, stream: stream, at: cmp.Or(from, Start), options: o.withDefaults(), yield: yield}
		connect := t.events
		if o.LongPoll {
			connect = t.poll
		}
		failures := 0
		for !t.left {
			began, before := time.Now(), t.batches
			err := connect(ctx)
			switch {
			case t.left:
				return
			case ctx.Err() != nil:
				yield(Batch{}, context.Cause(ctx))
				return
			case err != nil && !temporary(ctx, err):
				yield(Batch{}, err)
				return
			case t.batches > before:
				failures = 0
			}
			// Servers end live answers now and then. One that does nothing else must not be hammered.
			if err == nil && (t.batches > before || time.Since(began) > shortest) {
				continue
			}
			failures++
			wait := c.Backoff.after(failures, err)
			if o.Retrying != nil {
				o.Retrying(err, wait)
			}
			if err := pause(ctx, wait); err != nil {
				yield(Batch{}, err)
				return
			}
		}
	}
}

// shortest is how long a live answer without data takes from a server that means it.
const shortest = 100 * time.Millisecond

// tail is the state that outlives a connection.
type tail struct {
	client  *Client
	stream  string
	options TailOptions
	yield   func(Batch, error) bool

	at       Offset
	id       string // which stream of the name this is, as far as the server tells
	cursor   string
	upToDate bool
	batches  int // batches with data so far
	left     bool
}

// give hands a batch to the loop. It leaves out what the loop has been told already.
func (t *tail) give(b Batch) {
	if b.Offset == "" {
		b.Offset = t.at
	}
	news := len(b.Data) > 0 || b.Closed || b.Offset != t.at || b.UpToDate && !t.upToDate
	t.at, t.upToDate = b.Offset, b.UpToDate
	if len(b.Data) > 0 {
		t.batches++
	}
	if news && !t.yield(b, nil) {
		t.left = true
	}
	if b.Closed {
		t.left = true
	}
}

// request is a GET that ends when nothing came for a while; alive says that something did.
func (t *tail) request(ctx context.Context, live string) (resp *http.Response, alive func(), done func(), err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	idle := fmt.Errorf("dsclient: nothing came for %s", t.options.IdleTimeout)
	timer := time.AfterFunc(t.options.IdleTimeout, func() { cancel(idle) })
	alive = func() { timer.Reset(t.options.IdleTimeout) }
	done = func() {
		timer.Stop()
		cancel(nil)
	}
	query := url.Values{wire.QueryOffset: {string(t.at)}, wire.QueryLive: {live}}
	if t.cursor != "" {
		query.Set(wire.QueryCursor, t.cursor)
	}
	resp, err = t.client.do(ctx, request{method: http.MethodGet, stream: t.stream, query: query})
	if err != nil {
		done()
		return nil, nil, nil, err
	}
	if err := sameStream(&t.id, resp.Header); err != nil {
		_ = resp.Body.Close()
		done()
		return nil, nil, nil, err
	}
	alive()
	return resp, alive, done, nil
}

// poll makes one long-poll.
func (t *tail) poll(ctx context.Context) error {
	resp, alive, done, err := t.request(ctx, wire.LiveLongPoll)
	if err != nil {
		return err
	}
	defer done()
	defer resp.Body.Close()
	limit := int64(t.options.MaxBatchBytes)
	data, err := io.ReadAll(io.LimitReader(&noted{resp.Body, alive}, limit+1))
	if err != nil {
		return fmt.Errorf("dsclient: %w", err)
	}
	if int64(len(data)) > limit {
		return &finalError{fmt.Errorf("dsclient: an answer is larger than the limit of %d bytes; catch up with Read first", limit)}
	}
	h := resp.Header
	t.cursor = cmp.Or(h.Get(wire.HeaderCursor), t.cursor)
	b := Batch{
		ContentType: h.Get(wire.HeaderContentType),
		Data:        data,
		Offset:      Offset(h.Get(wire.HeaderNextOffset)),
		Closed:      isTrue(h, wire.HeaderClosed),
		UpToDate:    isTrue(h, wire.HeaderUpToDate),
	}
	if b.Offset == "" || b.Offset == t.at {
		b.Data = nil // an empty JSON array, at most
	}
	t.give(b)
	return nil
}

// events reads one answer of server-sent events to its end.
func (t *tail) events(ctx context.Context) error {
	resp, alive, done, err := t.request(ctx, wire.LiveSSE)
	if err != nil {
		return err
	}
	defer done()
	defer resp.Body.Close()
	if ct := resp.Header.Get(wire.HeaderContentType); !strings.HasPrefix(strings.ToLower(ct), "text/event-stream") {
		return &finalError{fmt.Errorf("dsclient: the server answered with %q instead of server-sent events", ct)}
	}
	encoded := strings.EqualFold(resp.Header.Get(wire.HeaderSSEDataEncoding), "base64")
	// Base64 is four thirds of what it encodes, and its lines may be short.
	in := newEvents(&noted{resp.Body, alive}, 2*t.options.MaxBatchBytes)
	var data []byte // waits for the control event that says where it ends
	for !t.left {
		e, err := in.next()
		if errors.Is(err, io.EOF) {
			return nil // without its control event data does not count, and will come again
		}
		if err != nil {
			return fmt.Errorf("dsclient: %w", err)
		}
		switch e.name {
		case wire.EventData:
			if data, err = appendEvent(data, e.data, encoded, t.options.MaxBatchBytes); err != nil {
				return &finalError{err}
			}
		case wire.EventControl:
			var control struct {
				StreamNextOffset Offset `json:"streamNextOffset"`
				StreamCursor     string `json:"streamCursor"`
				UpToDate         bool   `json:"upToDate"`
				StreamClosed     bool   `json:"streamClosed"`
			}
			if err := json.Unmarshal(e.data, &control); err != nil || control.StreamNextOffset == "" {
				return &finalError{fmt.Errorf("dsclient: the server sent a malformed control event")}
			}
			t.cursor = cmp.Or(control.StreamCursor, t.cursor)
			t.give(Batch{
				Data:     data,
				Offset:   control.StreamNextOffset,
				UpToDate: control.UpToDate || control.StreamClosed,
				Closed:   control.StreamClosed,
			})
			data = nil
		}
	}
	return nil
}

// appendEvent adds the data of an event to that of the events before it.
func appendEvent(data, event []byte, encoded bool, limit int) ([]byte, error) {
	if encoded {
		var err error
		// The decoder skips line ends by itself.
		if data, err = base64.StdEncoding.AppendDecode(data, event); err != nil {
			return nil, fmt.Errorf("dsclient: the server's base64: %w", err)
		}
	} else {
		data = append(data, event...)
	}
	if len(data) > limit {
		return nil, fmt.Errorf("dsclient: a batch is larger than the limit of %d bytes", limit)
	}
	return data, nil
}

// noted calls alive for everything that is read.
type noted struct {
	r     io.Reader
	alive func()
}

func (n *noted) Read(b []byte) (int, error) {
	read, err := n.r.Read(b)
	if read > 0 {
		n.alive()
	}
	return read, err
}
