package dsclient

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Listed is a stream in a listing.
type Listed struct {
	// Stream is the name.
	Stream string
	// Created is when it was created.
	Created time.Time
	Info
}

// listPage is how many streams one request asks for. It is the most that the server gives.
const listPage = 1000

// maxPageBytes bounds a page. It is several times what the longest names and types come to.
const maxPageBytes = 16 << 20

// List yields the streams whose names begin with prefix, in the order of their directories and then of
// their own. It asks for one page after the other; what comes into being or goes away meanwhile may or may
// not be among them. It is an extension of this server. Retention is not part of a listing.
func (c *Client) List(ctx context.Context, prefix string) iter.Seq2[Listed, error] {
	return func(yield func(Listed, error) bool) {
		for after := ""; ; {
			page, err := c.list(ctx, prefix, after)
			if err != nil {
				yield(Listed{}, err)
				return
			}
			for _, s := range page.Streams {
				if !yield(s.listed(), nil) {
					return
				}
			}
			if page.Next == "" || page.Next == after {
				return
			}
			after = page.Next
		}
	}
}

// listing is a page as the server sends it.
type listing struct {
	Streams []listedStream `json:"streams"`
	Next    string         `json:"next"`
}

type listedStream struct {
	Path           string `json:"path"`
	ContentType    string `json:"contentType"`
	CreatedAt      int64  `json:"createdAt"` // milliseconds since 1970
	NextOffset     Offset `json:"nextOffset"`
	EarliestOffset Offset `json:"earliestOffset"`
	Closed         bool   `json:"closed"`
	TTL            int64  `json:"ttl"`       // seconds
	ExpiresAt      int64  `json:"expiresAt"` // milliseconds since 1970
}

func (s listedStream) listed() Listed {
	l := Listed{
		Stream:  s.Path,
		Created: time.UnixMilli(s.CreatedAt),
		Info: Info{
			ContentType: s.ContentType, Offset: s.NextOffset, Earliest: s.EarliestOffset, Closed: s.Closed,
			TTL: time.Duration(s.TTL) * time.Second,
		},
	}
	if s.ExpiresAt != 0 {
		l.ExpiresAt = time.UnixMilli(s.ExpiresAt)
	}
	return l
}

func (c *Client) list(ctx context.Context, prefix, after string) (page listing, err error) {
	query := url.Values{"limit": {strconv.Itoa(listPage)}}
	if prefix != "" {
		query.Set("prefix", prefix)
	}
	if after != "" {
		query.Set("after", after)
	}
	resp, err := c.doURL(ctx, strings.TrimSuffix(c.Base, "/")+"/", request{method: http.MethodGet, query: query})
	if err != nil {
		return page, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxPageBytes))
	if err == nil {
		err = json.Unmarshal(body, &page)
	}
	if err != nil {
		return page, fmt.Errorf("dsclient: the server's listing: %w", err)
	}
	return page, nil
}
