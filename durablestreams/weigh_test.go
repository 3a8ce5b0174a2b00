package durablestreams_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/runnelhq/runnel/durablestreams"
)

func TestLargeEntriesWaitForTheirTurnToBeSent(t *testing.T) {
	large := strings.Repeat("x", 2<<20)
	for _, mode := range []string{"a?offset=-1&live=sse", "a"} {
		for _, state := range []string{"open", "closed"} {
			synctest.Test(t, func(t *testing.T) {
				s, stop := serveInBubble(t, durablestreams.Config{MaxReadBytes: 1, SSERotation: -1})
				defer stop()
				s.put("a", "text/plain", large)
				if state == "closed" {
					s.post("a", "", "", "Stream-Closed", "true")
				}
				stalled, err := s.start(t.Context(), "GET", mode, nil)
				if err != nil {
					t.Fatal(err)
				}
				defer stalled.Body.Close()
				begin := time.Now()
				resp, err := s.start(t.Context(), "GET", mode, nil)
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				got := make([]byte, 1<<20)
				for n := 0; n < len(got); {
					m, err := resp.Body.Read(got[n:])
					if n += m; err != nil {
						t.Fatal(err)
					}
				}
				if waited := time.Since(begin); waited < 29*time.Second || waited > time.Minute {
					t.Errorf("%s, %s: the second reader has waited for %s", mode, state, waited)
				}
			})
		}
	}
}

func TestALargeEntryReachesAllLiveReadersInItsPlace(t *testing.T) {
	for _, keep := range []bool{false, true} {
		s := serve(t, durablestreams.Config{KeepConnections: keep})
		s.put("a", "text/plain", "")
		var readers []*events
		for range 5 {
			e := s.live("a?offset=-1&live=sse")
			e.pair()
			readers = append(readers, e)
		}
		for range 3 {
			for _, n := range []int{1, 2 << 20, 2, 5 << 20, 300 << 10} {
				s.post("a", "text/plain", strings.Repeat("x", n))
			}
		}
		s.post("a", "text/plain", strings.Repeat("x", 2<<20), "Stream-Closed", "true")
		for _, e := range readers {
			for range 3 {
				for _, n := range []int{1, 2 << 20, 2, 5 << 20, 300 << 10} {
					if data, _, c := e.pair(); len(data) != n || c.StreamClosed {
						t.Fatalf("got %d bytes, want %d; %+v", len(data), n, c)
					}
				}
			}
			if data, _, c := e.pair(); len(data) != 2<<20 || !c.StreamClosed || !c.UpToDate {
				t.Fatalf("got %d bytes, %+v", len(data), c)
			}
			e.wantEnd()
		}
	}
}
