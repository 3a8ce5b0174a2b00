package dsclient

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/wire"
)

// answering is a transport that gives every request the same answer.
type answering struct {
	status int
	header http.Header
	body   string
}

func (a answering) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: a.status, Header: a.header, Body: io.NopCloser(strings.NewReader(a.body)), Request: r}, nil
}

func (a answering) client() *Client {
	return &Client{Base: "http://example.com/v1/stream", HTTP: &http.Client{Transport: a}}
}

// answers is a transport that gives one answer after the other.
type answers []*http.Response

func (a *answers) RoundTrip(r *http.Request) (*http.Response, error) {
	resp := (*a)[0]
	*a, resp.Request = (*a)[1:], r
	return resp, nil
}

func TestARefusalWhoseReasonBreaksOffIsAskedForAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reason := `{"error":{"code":"offset_beyond_tail","message":"the stream ends before"}}`
		half := io.MultiReader(strings.NewReader(reason[:20]), iotest.ErrReader(io.ErrUnexpectedEOF))
		all := &answers{
			{StatusCode: http.StatusBadRequest, Body: io.NopCloser(half)},
			{StatusCode: http.StatusBadRequest, Body: io.NopCloser(strings.NewReader(reason))},
		}
		c := &Client{Base: "http://example.com/v1/stream", HTTP: &http.Client{Transport: all}}
		for _, err := range c.Tail(t.Context(), "a", "5", TailOptions{}) {
			if !errors.Is(err, runnel.ErrBeyondTail) || len(*all) != 0 {
				t.Fatalf("%v, and %d answers are left", err, len(*all))
			}
			return
		}
		t.Fatal("there is nothing to be had, and nothing was said")
	})
}

func FuzzRefusals(f *testing.F) {
	f.Add(409, `{"error":{"code":"closed","message":"m","next_offset":"1","closed":true}}`, "Stream-Closed", "true", "5")
	f.Add(404, "", "", "", "")
	f.Add(410, "<html>", "Stream-Earliest-Offset", "7", "Sun, 22 Nov 2026 01:00:00 GMT")
	f.Add(503, `{"error":{"code":"unavailable","retry_after":-1}}`, "Producer-Expected-Seq", "18446744073709551616", "-1")
	f.Add(500, "{\"error\":{\"code\":7}}\xff", "Producer-Epoch", "x", "99999999999")
	f.Fuzz(func(t *testing.T, status int, body, name, value, retry string) {
		if status < 300 || status > 999 {
			return
		}
		header := http.Header{"Retry-After": {retry}}
		header.Set(name, value)
		resp, _ := answering{status, header, body}.RoundTrip(httptest.NewRequest(http.MethodGet, "/a", nil)) //nolint:bodyclose // readError does
		err := readError(resp)
		if err.Status != status || err.Error() == "" || err.RetryAfter < 0 {
			t.Fatalf("%d %q is %+v", status, body, err)
		}
		var sent wire.Body
		if json.Unmarshal([]byte(body), &sent) == nil && len(body) < maxErrorBytes && (err.Detail.Code != sent.Error.Code || err.Detail.Message != sent.Error.Message) {
			t.Fatalf("%q is %+v", body, err.Detail)
		}
	})
}

func FuzzRetryAfter(f *testing.F) {
	for _, seed := range []string{"", "0", "5", "-5", "+5", "2147483647", "2147483648", "1e3", "Sun, 22 Nov 2026 02:00:00 GMT", "Sunday, 22-Nov-26 02:00:00 GMT", "Mon, 01 Jan 0001 00:00:00 GMT", "Fri, 31 Dec 9999 23:59:59 GMT"} {
		f.Add(seed)
	}
	now := time.Date(2026, 11, 22, 1, 0, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, value string) {
		wait := retryAfter(value, now)
		if wait < 0 {
			t.Fatalf("%q asks to wait for %s", value, wait)
		}
		if n, err := strconv.ParseInt(value, 10, 32); err == nil && n >= 0 && value[0] != '+' && wait != time.Duration(n)*time.Second {
			t.Fatalf("%q asks to wait for %s", value, wait)
		}
	})
}

// FuzzDescriptions gives the headers that describe a stream.
func FuzzDescriptions(f *testing.F) {
	f.Add("text/plain", "1", "0", "", "60", "100", "5")
	f.Add("", "", "9223372036", "2030-01-02T03:04:05Z", "9223372037", "18446744073709551615", "18446744073709551616")
	f.Add("x", "y", "-1", "soon", "1.5", "+1", "0x1")
	f.Fuzz(func(t *testing.T, contentType, offset, ttl, expires, age, size, count string) {
		header := http.Header{}
		for name, value := range map[string]string{
			"Content-Type": contentType, "Stream-Next-Offset": offset, "Stream-TTL": ttl, "Stream-Expires-At": expires,
			"Stream-Retention-Age": age, "Stream-Retention-Bytes": size, "Stream-Retention-Count": count,
		} {
			header.Set(name, value)
		}
		info, err := answering{200, header, ""}.client().Stat(context.Background(), "a")
		if err != nil {
			return
		}
		back := http.Header{}
		setRetention(back, info.Retention)
		for name, given := range map[string]string{"Stream-Retention-Age": age, "Stream-Retention-Bytes": size, "Stream-Retention-Count": count} {
			is, _ := strconv.ParseUint(given, 10, 64)
			was, _ := strconv.ParseUint(back.Get(name), 10, 64)
			if is != was && !strings.HasPrefix(given, "+") {
				t.Fatalf("%s: %q comes back as %q", name, given, back.Get(name))
			}
		}
		if info.ContentType != contentType || info.Offset != Offset(offset) || info.TTL < 0 || info.Retention.Age < 0 {
			t.Fatalf("%q is %+v", header, info)
		}
	})
}

func FuzzListingPages(f *testing.F) {
	for _, seed := range []string{
		`{"streams":[]}`, `{"streams":[{"path":"a","contentType":"x","createdAt":5,"nextOffset":"1","ttl":60,"expiresAt":7}]}`, `{"streams":null,"next":""}`,
		`{"streams":[{"path":"a"}],"next":"a"}`, `[]`, `null`, ``, `{"streams":[{"ttl":9223372036854775807}]}`, `{"streams":[{"path":7}]}`, "{\"streams\":[{\"path\":\"\xff\"}]}",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, body string) {
		var want listing
		valid := json.Unmarshal([]byte(body), &want) == nil
		n := 0
		for s, err := range (answering{200, http.Header{}, body}).client().List(context.Background(), "") {
			if err != nil {
				if valid {
					t.Fatalf("%q: %v", body, err)
				}
				return
			}
			// A page that names itself as the next one is asked for once more, and then ends the listing.
			if one := want.Streams[n%len(want.Streams)]; s.Stream != one.Path || s.ContentType != one.ContentType || s.Offset != one.NextOffset || s.Closed != one.Closed {
				t.Fatalf("%q: stream %d is %+v", body, n, s)
			}
			if n++; n > 2*len(want.Streams) {
				t.Fatalf("%q: the listing does not end", body)
			}
		}
		if !valid {
			t.Fatalf("%q is a listing of %d", body, n)
		}
	})
}

// FuzzControlEvents reads answers of server-sent events as Tail does, and as plainEvents says.
func FuzzControlEvents(f *testing.F) {
	for _, seed := range []string{
		"event: data\ndata: a\n\nevent: control\ndata: {\"streamNextOffset\":\"1\",\"upToDate\":true}\n\n",
		"event: data\ndata: YQ==\n\nevent: data\ndata: Yg\ndata: ==\n\nevent: control\ndata: {\"streamNextOffset\":\"2\",\"streamClosed\":true}\n\n",
		"event: control\ndata: {}\n\n", "event: control\ndata: {\"streamNextOffset\":5}\n\n", "event: data\ndata: lost\n\n", "event: other\ndata: x\n\nevent: control\ndata: null\n\n",
	} {
		f.Add(seed, false)
		f.Add(seed, true)
	}
	f.Fuzz(func(t *testing.T, stream string, encoded bool) {
		header := http.Header{"Content-Type": {"text/event-stream"}}
		if encoded {
			header.Set(wire.HeaderSSEDataEncoding, "base64")
		}
		var got []byte
		var last Batch
		tail := &tail{client: answering{200, header, stream}.client(), stream: "a", at: Start, options: TailOptions{}.withDefaults()}
		tail.yield = func(b Batch, _ error) bool {
			got, last = append(got, b.Data...), b
			return true
		}
		err := tail.events(context.Background())
		var want, waits []byte
		names, datas := plainEvents(stream)
		for i, name := range names {
			switch name {
			case "data":
				part := []byte(datas[i])
				if encoded {
					var derr error
					if part, derr = base64.StdEncoding.DecodeString(datas[i]); derr != nil {
						if err == nil {
							t.Fatalf("%q: no error for %v", stream, derr)
						}
						return
					}
				}
				waits = append(waits, part...)
			case "control":
				var c struct {
					StreamNextOffset string
					StreamClosed     bool
				}
				if json.Unmarshal([]byte(datas[i]), &c) != nil || c.StreamNextOffset == "" {
					if err == nil {
						t.Fatalf("%q: no error for the control event %q", stream, datas[i])
					}
					return
				}
				want, waits = append(want, waits...), nil
				if c.StreamClosed {
					if !last.Closed || !tail.left || !bytes.Equal(got, want) {
						t.Fatalf("%q brought %q and ended with %+v, want %q", stream, got, last, want)
					}
					return
				}
			}
		}
		if err != nil || !bytes.Equal(got, want) {
			t.Fatalf("%q brought %q, %v, want %q", stream, got, err, want)
		}
	})
}

func FuzzStreamNames(f *testing.F) {
	for _, seed := range []string{"a", "orders/42", "", "a?b#c", "ü/ö", "a%2Fb", "http://example.com/x?y#z", "https://", "http://[::1", "a//b", "..", "\xff", "a b", "http://u:p@h/a"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, stream string) {
		c := &Client{Base: "http://example.com/v1/stream/"}
		got, err := c.URL(stream)
		if err != nil {
			return
		}
		u, err := url.Parse(got)
		if err != nil || u.RawQuery != "" || u.Fragment != "" {
			t.Fatalf("%q has the URL %q, %v", stream, got, err)
		}
		if !strings.HasPrefix(stream, "http://") && !strings.HasPrefix(stream, "https://") && u.Path != "/v1/stream/"+stream {
			t.Fatalf("%q has the URL %q, of the path %q", stream, got, u.Path)
		}
	})
}

func FuzzStreamIdentity(f *testing.F) {
	for _, seed := range []string{`"1-x:0:5"`, `W/"1-x:0:5"`, `"1-x:0:5:c"`, `""`, `"`, ``, `"a"`, `"a:b"`, `"::"`, "\"\xff:1:2\""} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, tag string) {
		id := streamID(http.Header{"Etag": {tag}})
		if id == "" {
			return
		}
		if !strings.Contains(tag, id+":") || strings.Contains(id, ":") {
			t.Fatalf("%q names %q", tag, id)
		}
		is := id
		if err := sameStream(&is, http.Header{"Etag": {tag}}); err != nil || is != id {
			t.Fatalf("%q is not itself: %v", tag, err)
		}
		other := id + "x"
		if err := sameStream(&other, http.Header{"Etag": {tag}}); err == nil {
			t.Fatalf("%q is %q", tag, other)
		}
	})
}
