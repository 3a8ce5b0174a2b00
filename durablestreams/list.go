package durablestreams

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/wire"
)

const (
	defaultListLimit = 100
	maxListLimit     = 1000
)

// listing is the answer to a GET of the prefix itself.
type listing struct {
	Streams []listed `json:"streams"`
	// Next is what the next request gives as after. It is left out at the end.
	Next string `json:"next,omitempty"`
}

// listed describes one stream.
type listed struct {
	Path           string `json:"path"`
	ContentType    string `json:"contentType"`
	CreatedAt      int64  `json:"createdAt"` // milliseconds since 1970
	NextOffset     string `json:"nextOffset"`
	EarliestOffset string `json:"earliestOffset,omitempty"`
	Closed         bool   `json:"closed"`
	TTL            int64  `json:"ttl,omitempty"`       // seconds
	ExpiresAt      int64  `json:"expiresAt,omitempty"` // milliseconds since 1970
}

// serveList answers requests for the prefix itself.
func (h *Handler) serveList(w http.ResponseWriter, r *http.Request) error {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return notAllowed(w, valueReadOnly)
	}
	store, err := h.cfg.Store(r)
	if err != nil {
		return err
	}
	o, err := parseListing(r.URL.RawQuery)
	if err != nil {
		return err
	}
	limit := o.Limit
	o.Limit++ // to see whether there are more
	answer := listing{Streams: []listed{}}
	for info, err := range h.log.List(r.Context(), store, o) {
		if err != nil {
			return err
		}
		if len(answer.Streams) == limit {
			answer.Next = answer.Streams[limit-1].Path
			break
		}
		one := listed{
			Path:        info.Segment.Path(),
			ContentType: info.ContentType,
			CreatedAt:   info.Created.UnixMilli(),
			NextOffset:  info.Tail.Offset(),
			Closed:      info.Closed,
			TTL:         int64(info.TTL.Seconds()),
		}
		if info.Earliest > 0 {
			one.EarliestOffset = info.Earliest.Offset()
		}
		if !info.ExpiresAt.IsZero() {
			one.ExpiresAt = info.ExpiresAt.UnixMilli()
		}
		answer.Streams = append(answer.Streams, one)
	}
	body := encodeJSON(answer)
	header := w.Header()
	header[wire.HeaderContentType] = valueJSON
	header[wire.HeaderCacheControl] = valueNoStore
	header[headerContentLength] = []string{strconv.Itoa(len(body))}
	w.WriteHeader(http.StatusOK)
	if r.Method == http.MethodGet {
		w.Write(body)
	}
	return nil
}

// parseListing reads the query of a listing.
func parseListing(raw string) (runnel.ListOptions, error) {
	o := runnel.ListOptions{Limit: defaultListLimit}
	values, err := url.ParseQuery(raw)
	if err != nil {
		return o, wire.Invalid(wire.CodeInvalidRequest, "the query is malformed")
	}
	for _, name := range [...]string{"prefix", "after", "limit"} {
		v := values[name]
		switch {
		case len(v) == 0:
			continue
		case len(v) > 1:
			return o, wire.Invalid(wire.CodeInvalidRequest, "the parameter "+name+" is given more than once")
		}
		const most = runnel.MaxSpaceBytes + 1 + runnel.MaxSegmentBytes
		if len(v[0]) > most {
			return o, wire.Invalid(wire.CodeInvalidRequest, fmt.Sprintf("the parameter %s has %d bytes, the limit is %d", name, len(v[0]), most))
		}
		switch name {
		case "prefix":
			o.Prefix = v[0]
		case "after":
			o.After = v[0]
		case "limit":
			n, err := parseInteger("the parameter limit", v[0], maxListLimit)
			if err != nil || n == 0 {
				return o, wire.Invalid(wire.CodeInvalidRequest, fmt.Sprintf("the parameter limit must be an integer from 1 to %d, not %s", maxListLimit, shown(v[0])))
			}
			o.Limit = int(n)
		}
	}
	return o, nil
}
