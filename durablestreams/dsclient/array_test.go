package dsclient_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

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
