package dsclient

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strings"

	"github.com/runnelhq/runnel/wire"
)

// Offset is a place in a stream: after some of its data, before the rest. Servers hand offsets out, and
// clients keep them and give them back without looking inside. Offsets of one stream sort as text.
type Offset string

const (
	// Start is before all data. The empty Offset means the same.
	Start Offset = wire.OffsetStart
	// Now is wherever the tail is when the request arrives.
	Now Offset = wire.OffsetNow
)

// Client reaches the streams of one server. Its fields must not change while it is in use; its methods may
// be called concurrently.
//
// Methods take the name of a stream: a path below Base, such as "orders/42", as it is and not escaped; or
// an absolute http or https URL, which is taken as it stands.
type Client struct {
	// Base is the URL below which the streams are, for example "http://127.0.0.1:4437/v1/stream". It may
	// be empty if every stream is named by its URL.
	Base string
	// HTTP sends the requests. It must not have a Timeout if streams are tailed. Nil means a client of this
	// package that keeps enough connections open for a pipelining Writer.
	HTTP *http.Client
	// Header is added to every request, for Authorization above all.
	Header http.Header
	// Backoff is how long Read, Tail and Writer wait before they try again.
	Backoff Backoff
}

var defaultHTTP = &http.Client{Transport: defaultTransport()}

func defaultTransport() http.RoundTripper {
	t, ok := http.DefaultTransport.(*http.Transport)
	if !ok {
		return http.DefaultTransport // the program has put its own in place, which is then what it wants
	}
	t = t.Clone()
	t.MaxIdleConnsPerHost = 64
	return t
}

// URL returns the URL of a stream.
func (c *Client) URL(stream string) (string, error) {
	if strings.HasPrefix(stream, "http://") || strings.HasPrefix(stream, "https://") {
		u, err := url.Parse(stream)
		if err != nil {
			return "", &finalError{fmt.Errorf("dsclient: stream URL: %w", err)}
		}
		u.RawQuery, u.Fragment = "", ""
		return u.String(), nil
	}
	if c.Base == "" {
		return "", &finalError{fmt.Errorf("dsclient: stream %q is not a URL, and the client has no Base", stream)}
	}
	if stream == "" {
		return "", &finalError{errors.New("dsclient: a stream needs a name")}
	}
	elements := strings.Split(stream, "/")
	for i, e := range elements {
		elements[i] = url.PathEscape(e)
	}
	return strings.TrimSuffix(c.Base, "/") + "/" + strings.Join(elements, "/"), nil
}

// request is one request to be sent, once or again.
type request struct {
	method string
	stream string
	query  url.Values
	header http.Header
	body   []byte
}

// do sends r. An answer with a status outside 200–299 is returned as an *Error. The caller closes the body.
func (c *Client) do(ctx context.Context, r request) (*http.Response, error) {
	target, err := c.URL(r.stream)
	if err != nil {
		return nil, err
	}
	return c.doURL(ctx, target, r)
}

func (c *Client) doURL(ctx context.Context, target string, r request) (*http.Response, error) {
	if len(r.query) > 0 {
		target += "?" + r.query.Encode() // sorted, as caches like it
	}
	var body io.Reader
	if r.body != nil {
		body = bytes.NewReader(r.body)
	}
	req, err := http.NewRequestWithContext(ctx, r.method, target, body)
	if err != nil {
		return nil, &finalError{fmt.Errorf("dsclient: %w", err)}
	}
	maps.Copy(req.Header, c.Header)
	maps.Copy(req.Header, r.header)
	client := c.HTTP
	if client == nil {
		client = defaultHTTP
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("dsclient: %w", err)
	}
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return nil, readError(resp)
	}
	return resp, nil
}

// answer is a response of which the body is of no interest.
type answer struct {
	status int
	header http.Header
}

// finish sends r and drops the body of the response, so that the connection can be used again.
func (c *Client) finish(ctx context.Context, r request) (answer, error) {
	resp, err := c.do(ctx, r)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	drain(resp.Body)
	return answer{resp.StatusCode, resp.Header}, nil
}

// drain reads the little that may be left of a body, and closes it. An error here only costs the
// connection.
func drain(body io.ReadCloser) {
	_, _ = io.CopyN(io.Discard, body, 64<<10)
	_ = body.Close()
}
