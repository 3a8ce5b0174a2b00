package chaos

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var rounds = flag.Int("rounds", 5, "how often the server is killed")

// client sends requests to a server that comes and goes.
type client struct {
	s    *server
	http *http.Client
}

// send returns the status of the answer, or 0 if there was none: then nobody can say what became of the
// request.
func (c *client) send(ctx context.Context, method, path, body string, header ...string) (int, http.Header) {
	req, err := http.NewRequestWithContext(ctx, method, c.s.url("/v1/stream/"+path), strings.NewReader(body))
	if err != nil {
		panic(err)
	}
	req.Header.Set("Content-Type", "text/plain")
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := c.http.Do(req)
	if err != nil {
		return 0, nil
	}
	defer res.Body.Close()
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		return 0, nil
	}
	return res.StatusCode, res.Header
}

// insist repeats a request that may safely be repeated until it is answered.
func (c *client) insist(ctx context.Context, method, path, body string, header ...string) int {
	for ctx.Err() == nil {
		if status, _ := c.send(ctx, method, path, body, header...); status != 0 && status < 500 {
			return status
		}
		pause(5 * time.Millisecond)
	}
	return 0
}

func (c *client) read(t testing.TB, path string) (string, http.Header, int) {
	t.Helper()
	res, err := c.http.Get(c.s.url("/v1/stream/" + path + "?offset=-1"))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatalf("reading %s: %v", path, err)
	}
	return string(body), res.Header, res.StatusCode
}

// TestKillUnderLoadLosesAndDoublesNothing kills the server in the middle of the work of many producers,
// plain writers, closers and deleters, and looks at what is left at the end.
func TestKillUnderLoadLosesAndDoublesNothing(t *testing.T) {
	const producers, plain, lives = 16, 8, 4
	s := newServer(t)
	s.start()
	c := &client{s: s, http: &http.Client{
		Transport: &http.Transport{MaxIdleConnsPerHost: 64},
		Timeout:   10 * time.Second,
	}}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var work sync.WaitGroup
	var acknowledged atomic.Int64

	// Producers share one stream, and each has one of its own; a write without an answer is repeated
	// under its number until it has one.
	for _, path := range append(ownStreams(producers), "hot") {
		if status := c.insist(ctx, "PUT", path, ""); status != 201 {
			t.Fatalf("creating %s: %d", path, status)
		}
	}
	counts := make([]int, producers)
	for i := range producers {
		work.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				line := fmt.Sprintf("%d:%d\n", i, n)
				for _, path := range []string{fmt.Sprint("own-", i), "hot"} {
					status := c.insist(context.WithoutCancel(ctx), "POST", path, line,
						"Producer-Id", strconv.Itoa(i), "Producer-Epoch", "0", "Producer-Seq", strconv.Itoa(n))
					if status != 200 && status != 204 {
						t.Errorf("producer %d, write %d: status %d", i, n, status)
						return
					}
					acknowledged.Add(1)
				}
				counts[i] = n + 1
			}
		})
	}

	// Plain writers cannot repeat: what had no answer may be there or not.
	type outcome struct{ acked, unknown map[int]bool }
	outcomes := make([]outcome, plain)
	for i := range plain {
		outcomes[i] = outcome{map[int]bool{}, map[int]bool{}}
		path := fmt.Sprint("plain-", i)
		if status := c.insist(ctx, "PUT", path, ""); status != 201 {
			t.Fatalf("creating %s: %d", path, status)
		}
		work.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				switch status, _ := c.send(context.WithoutCancel(ctx), "POST", path, fmt.Sprintln(n)); status {
				case 204:
					outcomes[i].acked[n] = true
					acknowledged.Add(1)
				case 0, 500, 503:
					outcomes[i].unknown[n] = true
					pause(2 * time.Millisecond)
				default:
					t.Errorf("plain writer %d: status %d", i, status)
					return
				}
			}
		})
	}

	// Lives are created, filled, closed and sometimes deleted; each step is known or not.
	var mu sync.Mutex
	closed, deleted := map[string]string{}, map[string]bool{}
	for i := range lives {
		work.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				path := fmt.Sprintf("life-%d/%d", i, n)
				body := fmt.Sprintf("begin %d %d\n", i, n)
				if status := c.insist(ctx, "PUT", path, body); status != 201 && status != 200 {
					continue
				}
				if status := c.insist(ctx, "POST", path, "end\n", "Stream-Closed", "true",
					"Producer-Id", "p", "Producer-Epoch", "0", "Producer-Seq", "0"); status != 200 && status != 204 {
					continue
				}
				mu.Lock()
				closed[path] = body + "end\n"
				mu.Unlock()
				if n%2 == 0 {
					continue
				}
				if status := c.insist(context.WithoutCancel(ctx), "DELETE", path, ""); status == 204 || status == 404 {
					mu.Lock()
					deleted[path] = true
					mu.Unlock()
				}
			}
		})
	}

	var slowest time.Duration
	for range *rounds {
		pause(time.Duration(150+rand.IntN(500)) * time.Millisecond)
		s.kill()
		slowest = max(slowest, s.start())
	}
	pause(200 * time.Millisecond)
	stop()
	work.Wait()

	hot := make([]int, producers)
	body, _, _ := c.read(t, "hot")
	for line := range strings.Lines(body) {
		var i, n int
		if _, err := fmt.Sscanf(line, "%d:%d\n", &i, &n); err != nil || n != hot[i] {
			t.Fatalf("hot: line %q where producer %d should be at %d", line, i, hot[i])
		}
		hot[i]++
	}
	for i := range producers {
		var want bytes.Buffer
		for n := range counts[i] {
			fmt.Fprintf(&want, "%d:%d\n", i, n)
		}
		if body, _, _ := c.read(t, fmt.Sprint("own-", i)); body != want.String() {
			t.Errorf("own-%d holds %d bytes, want %d: acknowledged writes are not there once and in order", i, len(body), want.Len())
		}
		if hot[i] != counts[i] {
			t.Errorf("hot holds %d writes of producer %d, want %d", hot[i], i, counts[i])
		}
	}
	for i := range plain {
		last, found := -1, map[int]bool{}
		body, _, _ := c.read(t, fmt.Sprint("plain-", i))
		for line := range strings.Lines(body) {
			n, err := strconv.Atoi(strings.TrimSpace(line))
			if err != nil || n <= last || !outcomes[i].acked[n] && !outcomes[i].unknown[n] {
				t.Fatalf("plain-%d: line %q after %d", i, line, last)
			}
			last, found[n] = n, true
		}
		for n := range outcomes[i].acked {
			if !found[n] {
				t.Errorf("plain-%d: acknowledged write %d is lost", i, n)
			}
		}
	}
	for path, want := range closed {
		body, header, status := c.read(t, path)
		switch {
		case deleted[path]:
			if status != 404 {
				t.Errorf("%s is deleted, and answers %d", path, status)
			}
		case status == 404:
			t.Errorf("%s was acknowledged and is gone", path)
		case body != want || header.Get("Stream-Closed") != "true":
			t.Errorf("%s holds %q, closed %q; want %q and closed", path, body, header.Get("Stream-Closed"), want)
		}
	}
	t.Logf("%d kills, %d acknowledged writes, %d closed streams, %d deleted; slowest restart %v",
		*rounds, acknowledged.Load(), len(closed), len(deleted), slowest.Round(time.Millisecond))
}

func ownStreams(n int) []string {
	var paths []string
	for i := range n {
		paths = append(paths, fmt.Sprint("own-", i))
	}
	return paths
}
