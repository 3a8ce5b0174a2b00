package chaos

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/proof/oracle"
	"github.com/runnelhq/runnel/wire"
)

// clientTimeout is how long a client waits for an answer before it gives up. Some freezes last longer.
const clientTimeout = time.Second

// world is what all workloads share: the server, the ledger, and the readers.
type world struct {
	t      testing.TB
	s      *server
	seed   uint64
	http   *http.Client
	ledger oracle.Ledger
	counts *counts

	streams atomic.Uint64 // of random numbers
	acked   atomic.Int64
	entries atomic.Int64 // received by readers
	failed  atomic.Bool

	mu        sync.Mutex
	doubts    []doubt
	followers map[string][]*follower
	reading   sync.WaitGroup
	stopRead  []func()
}

// doubt is an operation whose client does not know what became of it.
type doubt struct {
	op   *oracle.Operation
	kind sometimes // besides what it turns out to be
}

func newWorld(t testing.TB, s *server, seed uint64) *world {
	return &world{
		t: t, s: s, seed: seed, counts: newCounts(), followers: make(map[string][]*follower),
		http: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}},
	}
}

// rand returns random numbers of their own for a goroutine.
func (w *world) rand() *rand.Rand { return rand.New(rand.NewPCG(w.seed, w.streams.Add(1))) }

// fail reports what must not be.
func (w *world) fail(format string, args ...any) {
	w.failed.Store(true)
	w.t.Errorf("seed %d: %s", w.seed, fmt.Sprintf(format, args...))
}

// report fails for each violation.
func (w *world) report(violations []oracle.Violation) {
	for i, v := range violations {
		if i == 10 {
			w.fail("and %d more", len(violations)-i)
			return
		}
		w.fail("violated: %v", v)
	}
}

// request is one to a stream.
type request struct {
	method, path, query string
	contentType, body   string
	header              []string // names and values
}

// answer is what came back. Status 0 says that nothing did: then nobody can say what became of the request.
type answer struct {
	status int
	header http.Header
	body   []byte
	broken bool // the body ended too early
}

func (a answer) ok() bool { return a.status >= 200 && a.status < 300 }

// known tells whether the answer says what became of a write.
func (a answer) known() bool { return a.status != 0 && a.status != http.StatusInternalServerError }

// entries is how many the stream has, by the answer.
func (a answer) entries() (int, bool) {
	n, err := runnel.ParseOffset(a.header.Get(wire.HeaderNextOffset))
	return int(n), err == nil
}

func (a answer) closed() bool { return strings.EqualFold(a.header.Get(wire.HeaderClosed), "true") }

func (a answer) String() string { return fmt.Sprintf("%d %.200s", a.status, a.body) }

// send sends a request once and waits for the answer, but not for long. It goes on when ctx ends, so that
// the end of a round leaves no doubts that the server did not cause.
func (w *world) send(ctx context.Context, q request) answer {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), clientTimeout)
	defer cancel()
	res, err := w.open(ctx, q)
	if err != nil {
		return answer{}
	}
	a, err := readAll(res)
	a.broken = err != nil
	return a
}

// readAll reads an answer to its end.
func readAll(res *http.Response) (a answer, err error) {
	defer res.Body.Close()
	a = answer{status: res.StatusCode, header: res.Header}
	a.body, err = io.ReadAll(res.Body)
	return a, err
}

func (w *world) open(ctx context.Context, q request) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, q.method, w.s.url("/v1/stream/"+q.path+q.query), strings.NewReader(q.body))
	if err != nil {
		panic(err)
	}
	if q.contentType != "" {
		req.Header.Set(wire.HeaderContentType, q.contentType)
	}
	for i := 0; i < len(q.header); i += 2 {
		req.Header.Set(q.header[i], q.header[i+1])
	}
	return w.http.Do(req)
}

// write sends an operation once and tells the ledger how it ended. After doubt, a refusal leaves the outcome
// unknown.
func (w *world) write(ctx context.Context, op *oracle.Operation, q request, inDoubt bool) answer {
	a := w.send(ctx, q)
	tail, told := a.entries()
	switch {
	case !a.known() || !a.ok() && inDoubt:
		op.Unknown()
	case !a.ok():
		op.Refused()
	case told && !duplicate(q, a):
		w.acked.Add(1)
		op.AcknowledgedAt(tail)
	default:
		w.acked.Add(1)
		op.Acknowledged()
	}
	return a
}

// duplicate tells whether the answer is to something that was there already, so that the tail in it is not
// that after the request.
func duplicate(q request, a answer) bool {
	if q.method == http.MethodPut {
		return a.status == http.StatusOK
	}
	for i := 0; i < len(q.header); i += 2 {
		if q.header[i] == wire.HeaderProducerID {
			return a.status == http.StatusNoContent
		}
	}
	return false
}

// insist sends an operation that may be repeated without harm until the answer says what became of it. It
// gives up when ctx ends, and says so; the outcome is then unknown.
func (w *world) insist(ctx context.Context, op *oracle.Operation, q request, kind sometimes) (answer, bool) {
	for tries, inDoubt := 0, false; ; tries++ {
		if tries > 0 {
			op.Again()
		}
		a := w.write(ctx, op, q, inDoubt)
		if a.known() && a.status != http.StatusServiceUnavailable {
			return a, true
		}
		if !a.known() {
			inDoubt = true
			if kind != "" {
				w.counts.hit(kind)
			}
		}
		if !w.wait(ctx, 5*time.Millisecond) {
			if inDoubt {
				w.doubt(op, "")
			}
			return a, false
		}
	}
}

// doubt remembers an operation of unknown outcome, so that what became of it is counted.
func (w *world) doubt(op *oracle.Operation, kind sometimes) {
	if kind != "" {
		w.counts.hit(kind)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.doubts = append(w.doubts, doubt{op, kind})
}

// resolve counts what became of the doubts that a check has resolved.
func (w *world) resolve() {
	w.mu.Lock()
	defer w.mu.Unlock()
	var left []doubt
	for _, d := range w.doubts {
		happened, known := d.op.Settled()
		switch {
		case !known:
			left = append(left, d)
		case happened:
			w.counts.hit(doubtWritten)
		default:
			w.counts.hit(doubtNotWritten)
		}
	}
	w.doubts = left
}

// wait waits, and tells whether ctx goes on.
func (w *world) wait(ctx context.Context, d time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	<-ctx.Done()
	return errors.Is(ctx.Err(), context.DeadlineExceeded)
}

// create makes a stream that nobody else makes, and insists on it.
func (w *world) create(ctx context.Context, path, contentType string, header ...string) bool {
	q := request{method: http.MethodPut, path: path, contentType: contentType, header: header}
	a, ok := w.insist(ctx, w.ledger.BeginCreate(path), q, doubtCreate)
	if ok && !a.ok() {
		w.fail("creating %s: %v", path, a)
	}
	return ok && a.ok()
}

// closeStream closes a stream, and insists on it.
func (w *world) closeStream(ctx context.Context, path string) bool {
	q := request{method: http.MethodPost, path: path, header: []string{wire.HeaderClosed, "true"}}
	a, ok := w.insist(ctx, w.ledger.BeginClose(path), q, doubtClose)
	if ok && !a.ok() {
		w.fail("closing %s: %v", path, a)
	}
	return ok && a.ok()
}

// content is what a stream holds.
type content struct {
	from    int
	entries []string
	closed  bool
	exists  bool
}

// read reads all of a stream of a server that is up.
func (w *world) read(path, contentType string) content {
	for range 20 {
		a := w.readOnce(path, "-1")
		switch {
		case a.status == http.StatusNotFound || a.status == http.StatusGone:
			return content{}
		case a.status != http.StatusOK || a.broken:
			pause(20 * time.Millisecond)
			continue
		}
		c := content{closed: a.closed(), exists: true}
		var rest []byte
		if c.entries, rest = decode(contentType, a.body); len(bytes.TrimSpace(rest)) > 0 {
			w.fail("%s ends with %.60q", path, rest)
		}
		if earliest := a.header.Get(wire.HeaderEarliestOffset); earliest != "" {
			n, err := runnel.ParseOffset(earliest)
			if err != nil {
				w.fail("%s: %v", path, err)
			}
			c.from = int(n)
		}
		if tail, ok := a.entries(); !ok || tail != c.from+len(c.entries) {
			w.fail("%s has %d entries from %d on, its tail is said to be %d", path, len(c.entries), c.from, tail)
		}
		return c
	}
	w.fail("%s cannot be read", path)
	return content{}
}

func (w *world) readOnce(path, offset string) answer {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	res, err := w.open(ctx, request{method: http.MethodGet, path: path, query: "?offset=" + offset})
	if err != nil {
		return answer{}
	}
	defer res.Body.Close()
	a := answer{status: res.StatusCode, header: res.Header}
	a.body, err = io.ReadAll(res.Body)
	a.broken = err != nil
	return a
}

// verify checks a stream at rest, and that its readers get there.
func (w *world) verify(path, contentType string) content {
	c := w.read(path, contentType)
	w.report(w.ledger.CheckFrom(path, c.from, c.entries, c.closed, c.exists))
	w.arrive(path, c)
	return c
}
