package dsclient

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/wire"
)

// CreateOptions say what a new stream is. The zero value is an open, empty stream of the server's default
// content type that is kept for ever.
type CreateOptions struct {
	// ContentType is kept as given. Empty leaves it to the server, which takes that of a fork's source.
	ContentType string
	// TTL expires the stream when it is neither read nor written for so long. It is rounded up to whole
	// seconds. 0 means never.
	TTL time.Duration
	// ExpiresAt expires the stream at a time. Zero means never. It excludes TTL.
	ExpiresAt time.Time
	// Retention bounds what the stream keeps. It is an extension of this server.
	Retention runnel.Retention
	// Closed creates the stream closed, so that Body is all it will ever hold.
	Closed bool
	// Body is the first content, written together with the creation. Nil means none.
	Body []byte
	// Fork makes the stream begin with the data of another one. Nil means none.
	Fork *Fork
}

// Fork says where a stream branches off another of the same server.
type Fork struct {
	// Source is the stream to fork, named as in a Client's methods.
	Source string
	// At is the place up to which the source's data is inherited. Empty means its tail.
	At Offset
	// Sub reaches further than At: by so many messages of a JSON stream, or bytes of any other.
	Sub uint64
}

// Created is the answer to a creation.
type Created struct {
	// Existed says that the stream was there already, with the same configuration, and that nothing was
	// written.
	Existed bool
	// ContentType is the stream's.
	ContentType string
	// Offset is the tail.
	Offset Offset
	// Closed says that the stream is closed.
	Closed bool
}

// Create makes a stream. If it exists with the same configuration that is fine too; with another one the
// error is an *Error with status 409.
func (c *Client) Create(ctx context.Context, stream string, o CreateOptions) (Created, error) {
	h := http.Header{}
	if o.ContentType != "" {
		h.Set(wire.HeaderContentType, o.ContentType)
	}
	if o.TTL != 0 {
		h.Set(wire.HeaderTTL, seconds(o.TTL))
	}
	if !o.ExpiresAt.IsZero() {
		h.Set(wire.HeaderExpiresAt, o.ExpiresAt.UTC().Format(time.RFC3339Nano))
	}
	setRetention(h, o.Retention)
	if o.Closed {
		h.Set(wire.HeaderClosed, "true")
	}
	if o.Fork != nil {
		if err := c.setFork(h, *o.Fork); err != nil {
			return Created{}, err
		}
	}
	resp, err := c.finish(ctx, request{method: http.MethodPut, stream: stream, header: h, body: o.Body})
	if err != nil {
		return Created{}, err
	}
	return Created{
		Existed:     resp.status == http.StatusOK,
		ContentType: resp.header.Get(wire.HeaderContentType),
		Offset:      Offset(resp.header.Get(wire.HeaderNextOffset)),
		Closed:      isTrue(resp.header, wire.HeaderClosed),
	}, nil
}

func (c *Client) setFork(h http.Header, f Fork) error {
	source, err := c.URL(f.Source)
	if err != nil {
		return err
	}
	u, err := url.Parse(source)
	if err != nil {
		return err
	}
	h.Set(wire.HeaderForkedFrom, u.EscapedPath())
	if f.At != "" {
		h.Set(wire.HeaderForkOffset, string(f.At))
	}
	if f.Sub > 0 {
		h.Set(wire.HeaderForkSubOffset, strconv.FormatUint(f.Sub, 10))
	}
	return nil
}
