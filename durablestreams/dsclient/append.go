package dsclient

import (
	"context"
	"net/http"
	"strconv"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/wire"
)

// AppendOptions are the conditions and effects of an append. The zero value appends bytes without
// conditions to a stream of type application/octet-stream.
type AppendOptions struct {
	// ContentType must be the stream's. Empty means application/octet-stream.
	ContentType string
	// Producer makes the append idempotent. Nil means none.
	Producer *runnel.Producer
	// StreamSeq, if not empty, must be greater, as text, than that of every append before it.
	StreamSeq string
	// Expect, if not empty, must be the stream's tail; otherwise nothing is written and the error matches
	// runnel.ErrTailMoved. It is an extension of this server.
	Expect Offset
	// Close lets nothing follow this append.
	Close bool
}

// Appended is the answer to an append. What it speaks of is durable.
type Appended struct {
	// Offset is the tail after the append.
	Offset Offset
	// Duplicate says that the producer's write was there already, and nothing was written again.
	Duplicate bool
	// ProducerSeq is the highest sequence that was accepted in the producer's epoch.
	ProducerSeq uint64
	// Closed says that the stream is closed now.
	Closed bool
}

// Append writes body to the end of a stream. In a JSON stream body is one message, or an array of messages.
// An error that is no *Error leaves open whether it was written; only an append with a Producer, a
// StreamSeq or an Expect can then be sent again without harm.
func (c *Client) Append(ctx context.Context, stream string, body []byte, o AppendOptions) (Appended, error) {
	h := http.Header{}
	switch {
	case o.ContentType != "":
		h.Set(wire.HeaderContentType, o.ContentType)
	case len(body) > 0:
		h.Set(wire.HeaderContentType, "application/octet-stream")
	}
	if o.Producer != nil {
		h.Set(wire.HeaderProducerID, o.Producer.ID)
		h.Set(wire.HeaderProducerEpoch, strconv.FormatUint(o.Producer.Epoch, 10))
		h.Set(wire.HeaderProducerSeq, strconv.FormatUint(o.Producer.Seq, 10))
	}
	if o.StreamSeq != "" {
		h.Set(wire.HeaderSeq, o.StreamSeq)
	}
	if o.Expect != "" {
		h.Set(wire.HeaderIfMatch, strconv.Quote(string(o.Expect)))
	}
	if o.Close {
		h.Set(wire.HeaderClosed, "true")
	}
	resp, err := c.finish(ctx, request{method: http.MethodPost, stream: stream, header: h, body: body})
	if err != nil {
		return Appended{}, err
	}
	a := Appended{
		Offset:    Offset(resp.header.Get(wire.HeaderNextOffset)),
		Duplicate: o.Producer != nil && len(body) > 0 && resp.status == http.StatusNoContent,
		Closed:    isTrue(resp.header, wire.HeaderClosed),
	}
	if seq := number(resp.header, wire.HeaderProducerSeq); seq != nil {
		a.ProducerSeq = *seq
	}
	return a, nil
}

// Close lets nothing more be appended to a stream. It may be repeated.
func (c *Client) Close(ctx context.Context, stream string) (Appended, error) {
	return c.Append(ctx, stream, nil, AppendOptions{Close: true})
}

// Delete removes a stream. While forks read its data, the server keeps that and holds the name back.
func (c *Client) Delete(ctx context.Context, stream string) error {
	_, err := c.finish(ctx, request{method: http.MethodDelete, stream: stream})
	return err
}
