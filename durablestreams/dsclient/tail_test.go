package dsclient_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/durablestreams/dsclient"
)

func TestATailOverAnUnreliableNetworkBringsEverythingInOrderAndOnce(t *testing.T) {
	for _, contentType := range []string{"application/octet-stream", "application/json", "text/plain; charset=utf-8"} {
		for _, longPoll := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s longPoll=%t", contentType, longPoll), func(t *testing.T) {
				t.Parallel()
				c := newClient(t)
				create(t, c, "a", contentType)
				network := newUnreliable(1)
				reader := &dsclient.Client{Base: c.Base, Backoff: fast, HTTP: &http.Client{Transport: network}}

				const messages = 1000
				wrote := make(chan error, 1)
				go func() {
					for i := range messages {
						_, err := c.Append(t.Context(), "a", fmt.Appendf(nil, `"%d\u000a"`, i), dsclient.AppendOptions{
							ContentType: contentType, Close: i == messages-1,
						})
						if err != nil {
							wrote <- err
							return
						}
					}
					wrote <- nil
				}()
				var got, want []byte
				var last dsclient.Batch
				for batch, err := range reader.Tail(t.Context(), "a", dsclient.Start, dsclient.TailOptions{LongPoll: longPoll}) {
					if err != nil {
						t.Fatal(err)
					}
					if batch.Offset < last.Offset {
						t.Errorf("the offset went from %s to %s", last.Offset, batch.Offset)
					}
					last = batch
					if !runnel.IsJSON(contentType) {
						got = append(got, batch.Data...)
						continue
					}
					for message, err := range batch.Messages() {
						if err != nil {
							t.Fatal(err)
						}
						got = append(got, message...)
					}
				}
				if err := <-wrote; err != nil {
					t.Fatal(err)
				}
				for i := range messages {
					want = fmt.Appendf(want, `"%d\u000a"`, i)
				}
				if !bytes.Equal(got, want) {
					t.Errorf("got %d bytes, which differ from the %d appended", len(got), len(want))
				}
				if !last.Closed {
					t.Error("the last batch does not say that the stream is closed")
				}
				if network.faults == 0 {
					t.Error("nothing went wrong on the way")
				}
			})
		}
	}
}

func TestATailFromNowBringsOnlyWhatComes(t *testing.T) {
	for _, longPoll := range []bool{false, true} {
		c := newClient(t)
		create(t, c, "a", "")
		appendTo(t, c, "a", "before")
		var got []string
		appended := false
		for batch, err := range c.Tail(t.Context(), "a", dsclient.Now, dsclient.TailOptions{LongPoll: longPoll}) {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, string(batch.Data))
			if !appended && batch.UpToDate {
				appended = true
				appendTo(t, c, "a", "after")
			}
			if len(batch.Data) > 0 {
				break
			}
		}
		if strings.Join(got, "|") != "|after" {
			t.Errorf("longPoll=%t: got %q", longPoll, got)
		}
	}
}

func appendTo(tb testing.TB, c *dsclient.Client, stream, data string) dsclient.Offset {
	tb.Helper()
	a, err := c.Append(tb.Context(), stream, []byte(data), dsclient.AppendOptions{})
	if err != nil {
		tb.Fatal(err)
	}
	return a.Offset
}

func TestATailEndsWithAnErrorThatWillStay(t *testing.T) {
	c := newClient(t)
	for _, longPoll := range []bool{false, true} {
		calls := 0
		for _, err := range c.Tail(t.Context(), "missing", "", dsclient.TailOptions{LongPoll: longPoll}) {
			calls++
			if !errors.Is(err, runnel.ErrNotFound) {
				t.Errorf("got %v", err)
			}
		}
		if calls != 1 {
			t.Errorf("the loop ran %d times", calls)
		}
	}
}

func TestATailEndsWithItsContext(t *testing.T) {
	for _, longPoll := range []bool{false, true} {
		c := newClient(t)
		create(t, c, "a", "")
		ctx, cancel := context.WithCancel(t.Context())
		var last error
		for _, err := range c.Tail(ctx, "a", "", dsclient.TailOptions{LongPoll: longPoll}) {
			cancel()
			last = err
		}
		cancel()
		if !errors.Is(last, context.Canceled) {
			t.Errorf("longPoll=%t: got %v", longPoll, last)
		}
	}
}

func TestASilentConnectionIsTakenForDead(t *testing.T) {
	c := newClient(t)
	create(t, c, "a", "")
	appendTo(t, c, "a", "x")
	var requests atomic.Int64
	c.HTTP = &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
		if requests.Add(1) == 1 {
			<-r.Context().Done()
			return nil, context.Cause(r.Context())
		}
		return http.DefaultTransport.RoundTrip(r)
	})}
	for batch, err := range c.Tail(t.Context(), "a", "", dsclient.TailOptions{IdleTimeout: 50 * time.Millisecond}) {
		if err != nil || string(batch.Data) != "x" {
			t.Errorf("got %q %v", batch.Data, err)
		}
		break
	}
	if requests.Load() != 2 {
		t.Errorf("%d requests were made", requests.Load())
	}
}

func TestATailWaitsAsLongAsTheServerAsks(t *testing.T) {
	var requests atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if requests.Add(1) == 1 {
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusTooManyRequests)
			return
		}
		w.Header().Set("Stream-Closed", "true")
		w.Header().Set("Stream-Next-Offset", "0")
		w.WriteHeader(http.StatusNoContent)
	}))
	defer server.Close()
	c := &dsclient.Client{Backoff: fast}
	var waited time.Duration
	options := dsclient.TailOptions{LongPoll: true, Retrying: func(_ error, wait time.Duration) { waited = wait }}
	for _, err := range c.Tail(t.Context(), server.URL, "", options) {
		if err != nil {
			t.Error(err)
		}
	}
	if waited < time.Second {
		t.Errorf("it waited for %s", waited)
	}
}

func TestAServerThatEndsEveryLiveAnswerAtOnceIsNotHammered(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, "event: control\ndata:{\"streamNextOffset\":\"1\",\"upToDate\":true}\n\n")
	}))
	defer server.Close()
	c := &dsclient.Client{Backoff: fast}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	waits := 0
	options := dsclient.TailOptions{Retrying: func(error, time.Duration) {
		if waits++; waits == 3 {
			cancel()
		}
	}}
	batches := 0
	for _, err := range c.Tail(ctx, server.URL, "", options) {
		if err == nil {
			batches++
		}
	}
	if batches != 1 || waits != 3 {
		t.Errorf("%d batches and %d waits", batches, waits)
	}
}

func TestMalformedEventsEndATail(t *testing.T) {
	for name, body := range map[string]string{
		"a control event that is no JSON":   "event: control\ndata:{\n\n",
		"a control event without an offset": "event: control\ndata:{}\n\n",
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			_, _ = io.WriteString(w, body)
		}))
		c := &dsclient.Client{Backoff: fast}
		for _, err := range c.Tail(t.Context(), server.URL, "", dsclient.TailOptions{}) {
			if err == nil || !strings.Contains(err.Error(), "malformed control event") {
				t.Errorf("%s: %v", name, err)
			}
		}
		server.Close()
	}
}

func TestATailDoesNotGoOnInAnotherStreamOfItsName(t *testing.T) {
	for _, longPoll := range []bool{false, true} {
		c := newClient(t)
		create(t, c, "a", "")
		appendTo(t, c, "a", "old")
		var requests atomic.Int64
		reader := &dsclient.Client{Base: c.Base, Backoff: fast, HTTP: &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
			if requests.Add(1) == 2 {
				if err := c.Delete(t.Context(), "a"); err != nil {
					t.Error(err)
				}
				create(t, c, "a", "")
				appendTo(t, c, "a", "new 1")
				appendTo(t, c, "a", "new 2")
			}
			resp, err := http.DefaultTransport.RoundTrip(r)
			if err == nil && requests.Load() == 1 && !longPoll {
				resp.Body = &cutAfterEvent{ReadCloser: resp.Body}
			}
			return resp, err
		})}}
		var got []string
		var ended error
		for batch, err := range reader.Tail(t.Context(), "a", dsclient.Start, dsclient.TailOptions{LongPoll: longPoll}) {
			if ended = err; err == nil {
				got = append(got, string(batch.Data))
			}
			if len(got) > 1 {
				break
			}
		}
		if strings.Join(got, "|") != "old" || !errors.Is(ended, runnel.ErrNotFound) {
			t.Errorf("longPoll=%t: got %q, ended with %v", longPoll, got, ended)
		}
	}
}

// TestATailThatWaitsLearnsThatItsStreamWasReplaced lets the other stream be as long as the first one was, so
// that there is nothing to bring.
func TestATailThatWaitsLearnsThatItsStreamWasReplaced(t *testing.T) {
	for _, longPoll := range []bool{false, true} {
		c := newClient(t)
		create(t, c, "a", "")
		appendTo(t, c, "a", "old")
		var requests atomic.Int64
		reader := &dsclient.Client{Base: c.Base, Backoff: fast, HTTP: &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
			if requests.Add(1) == 2 {
				if err := c.Delete(t.Context(), "a"); err != nil {
					t.Error(err)
				}
				create(t, c, "a", "")
				appendTo(t, c, "a", "new")
			}
			q := r.URL.Query()
			q.Set("timeout", "0") // a poll that does not wait for long
			r.URL.RawQuery = q.Encode()
			resp, err := http.DefaultTransport.RoundTrip(r)
			if err == nil && requests.Load() == 1 && !longPoll {
				resp.Body = &cutAfterEvent{ReadCloser: resp.Body}
			}
			return resp, err
		})}}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		var ended error
		for _, err := range reader.Tail(ctx, "a", dsclient.Start, dsclient.TailOptions{LongPoll: longPoll}) {
			ended = err
		}
		if !errors.Is(ended, runnel.ErrNotFound) {
			t.Errorf("longPoll=%t: ended with %v", longPoll, ended)
		}
	}
}

// cutAfterEvent is a body that breaks after a control event.
type cutAfterEvent struct {
	io.ReadCloser
	got []byte
}

func (c *cutAfterEvent) Read(b []byte) (int, error) {
	if _, id, ok := bytes.Cut(c.got, []byte("\nid:")); ok && bytes.Contains(id, []byte("\n\n")) {
		return 0, io.ErrUnexpectedEOF
	}
	n, err := c.ReadCloser.Read(b)
	c.got = append(c.got, b[:n]...)
	return n, err
}
