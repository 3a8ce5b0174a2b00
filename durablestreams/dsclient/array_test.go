package dsclient_test

import (
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
	"github.com/runnelhq/runnel/wire"
)

// TestAPageThatIsAskedForAgainMayHaveGrown cuts the answer to a read at every byte, appends, and lets the
// client ask again.
func TestAPageThatIsAskedForAgainMayHaveGrown(t *testing.T) {
	elements := []string{`{"a":["]"]}`, `"\"]["`, `[]`, `1`, `[1,{"b":"}"}]`}
	page := func(n int) string { return "[" + strings.Join(elements[:n], ",") + "]" }
	for had := range len(elements) {
		for cut := 0; cut <= len(page(had)); cut++ {
			for has := had; has <= len(elements); has++ {
				t.Run(fmt.Sprintf("%d elements of %d, cut after %d bytes", had, has, cut), func(t *testing.T) {
					t.Parallel()
					// Each answer but the last is cut; the second one twice as far.
					bodies := []string{page(had)[:cut], page(has)[:min(2*cut, len(page(has)))], page(has)}
					answers := 0
					s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
						w.Header().Set(wire.HeaderContentType, "application/json")
						w.Header().Set(wire.HeaderNextOffset, "9")
						w.Header().Set(wire.HeaderUpToDate, "true")
						_, _ = io.WriteString(w, bodies[answers])
						if answers++; answers < len(bodies) {
							_ = http.NewResponseController(w).Flush()
							panic(http.ErrAbortHandler)
						}
					}))
					defer s.Close()
					c := &dsclient.Client{Base: s.URL, Backoff: dsclient.Backoff{First: time.Microsecond}}
					r, err := c.Read(context.Background(), "s", dsclient.Start)
					if err != nil {
						t.Fatal(err)
					}
					defer r.Close()
					var got []string
					for message, err := range r.Messages() {
						if err != nil {
							t.Fatalf("after %q: %v", got, err)
						}
						got = append(got, string(message))
					}
					if want := elements[:has]; strings.Join(got, " ") != strings.Join(want, " ") {
						t.Fatalf("got %q, want %q", got, want)
					}
				})
			}
		}
	}
}

// TestAReadFromTheStartDoesNotMixWhatRetentionMoved cuts the answer in the middle of a message, and lets
// retention cut the stream before the client asks again.
func TestAReadFromTheStartDoesNotMixWhatRetentionMoved(t *testing.T) {
	c := newClient(t)
	_, err := c.Create(t.Context(), "a", dsclient.CreateOptions{ContentType: "application/json", Retention: runnel.Retention{Entries: 2}})
	if err != nil {
		t.Fatal(err)
	}
	add := func(message string) {
		if _, err := c.Append(context.Background(), "a", []byte(message), dsclient.AppendOptions{ContentType: "application/json"}); err != nil {
			t.Error(err)
		}
	}
	add(`"one, which goes"`)
	add(`"two"`)
	var requests atomic.Int64
	reader := &dsclient.Client{Base: c.Base, Backoff: fast, HTTP: &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
		if requests.Add(1) == 2 {
			add(`"three"`)
		}
		resp, err := http.DefaultTransport.RoundTrip(r)
		if err == nil && requests.Load() == 1 {
			resp.Body = &cutAfter{resp.Body, 7}
		}
		return resp, err
	})}}
	r, err := reader.Read(t.Context(), "a", dsclient.Start)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	got, err := io.ReadAll(r)
	if string(got) != `["one, ` || !errors.Is(err, runnel.ErrTrimmed) {
		t.Fatalf("got %q, %v", got, err)
	}
}

// cutAfter is a body that breaks after so many bytes.
type cutAfter struct {
	io.ReadCloser
	left int
}

func (c *cutAfter) Read(b []byte) (int, error) {
	if c.left == 0 {
		return 0, io.ErrUnexpectedEOF
	}
	n, err := c.ReadCloser.Read(b[:min(len(b), c.left)])
	c.left -= n
	return n, err
}
