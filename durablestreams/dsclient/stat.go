package dsclient

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/wire"
)

// Info describes a stream at one moment.
type Info struct {
	// ContentType is the stream's, as it was given.
	ContentType string
	// Offset is the tail.
	Offset Offset
	// Earliest is the earliest place that can be read. Empty when the server does not say, or when nothing
	// has been dropped.
	Earliest Offset
	// Closed says that nothing will follow Offset.
	Closed bool
	// TTL is the sliding window after whose end without a read or a write the stream expires. 0 means none.
	TTL time.Duration
	// ExpiresAt is when the stream expires. Zero means never.
	ExpiresAt time.Time
	// Retention bounds what the stream keeps.
	Retention runnel.Retention
}

// Stat describes a stream without reading it, and without counting as a read for its TTL.
func (c *Client) Stat(ctx context.Context, stream string) (Info, error) {
	resp, err := c.finish(ctx, request{method: http.MethodHead, stream: stream})
	if err != nil {
		return Info{}, err
	}
	h := resp.header
	info := Info{
		ContentType: h.Get(wire.HeaderContentType),
		Offset:      Offset(h.Get(wire.HeaderNextOffset)),
		Earliest:    Offset(h.Get(wire.HeaderEarliestOffset)),
		Closed:      isTrue(h, wire.HeaderClosed),
	}
	if info.TTL, err = duration(h, wire.HeaderTTL); err != nil {
		return Info{}, err
	}
	if info.Retention, err = retention(h); err != nil {
		return Info{}, err
	}
	if v := h.Get(wire.HeaderExpiresAt); v != "" {
		if info.ExpiresAt, err = time.Parse(time.RFC3339, v); err != nil {
			return Info{}, fmt.Errorf("dsclient: the server's %s: %w", wire.HeaderExpiresAt, err)
		}
	}
	return info, nil
}

func isTrue(h http.Header, name string) bool { return strings.EqualFold(h.Get(name), "true") }
