package chaos

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/durablestreams/dsclient"
	"github.com/runnelhq/runnel/proof/patience"
	"github.com/runnelhq/runnel/wire"
)

// transport is a way to follow a stream.
type transport string

const (
	overSSE      transport = "server-sent events"
	overLongPoll transport = "long-poll"
	overCatchUp  transport = "catch-up"
	overTail     transport = "the Go client's Tail"
	overTailPoll transport = "the Go client's Tail by long-poll"
)

var transports = []transport{overSSE, overLongPoll, overCatchUp, overTail, overTailPoll}

const (
	// readerPatience is how long a reader's connection may bring nothing before it is made anew. The server
	// sends a heartbeat, or answers a long-poll, more often.
	readerPatience = 3 * time.Second
	// arrival is how long a reader may stand still before the end of a stream at rest.
	arrival = 30 * time.Second
)

// follower is a live reader of one stream: from its beginning until it is told that the stream is closed,
// through all that happens to the server.
type follower struct {
	w           *world
	id          string
	path        string
	contentType string
	transport   transport

	mayEnd bool // the stream may be deleted
	slow   bool // it takes its time to read

	at             atomic.Int64 // entries received
	closed         atomic.Bool
	partial        int
	kills, freezes int64 // of the server, when something was received last
}

// follow starts readers of a stream that exists and is never deleted, one over each transport.
func (w *world) follow(path, contentType string, over ...transport) {
	w.followUntil(path, contentType, false, over...)
}

// followUntil starts readers that may find their stream deleted.
func (w *world) followUntil(path, contentType string, mayEnd bool, over ...transport) {
	for _, k := range over {
		ctx, stop := context.WithCancel(context.Background())
		f := w.newFollower(path, contentType, k)
		f.mayEnd = mayEnd
		w.mu.Lock()
		w.followers[path] = append(w.followers[path], f)
		w.stopRead = append(w.stopRead, stop)
		w.mu.Unlock()
		w.reading.Go(func() { f.run(ctx) })
	}
}

func (w *world) newFollower(path, contentType string, over transport) *follower {
	f := &follower{w: w, path: path, contentType: contentType, transport: over}
	f.id = fmt.Sprintf("reader %d over %s", w.streams.Add(1), over)
	f.kills, f.freezes = w.s.kills.Load(), w.s.freezes.Load()
	return f
}

// anyTransport chooses one.
func anyTransport(r *rand.Rand) transport { return transports[r.IntN(len(transports))] }

// stopReaders ends all readers.
func (w *world) stopReaders() {
	w.mu.Lock()
	for _, stop := range w.stopRead {
		stop()
	}
	w.mu.Unlock()
	w.reading.Wait()
}

// arrive waits until all readers of a stream have all of it.
func (w *world) arrive(path string, c content) {
	w.mu.Lock()
	followers := w.followers[path]
	w.mu.Unlock()
	want := int64(c.from + len(c.entries))
	began := time.Now()
	for _, f := range followers {
		left := patience.For(arrival)
		for c.exists && (f.at.Load() < want || c.closed && !f.closed.Load()) {
			if !left.Wait(f.at.Load()) || w.failed.Load() {
				w.fail("%s of %s stands at %d (closed: %v) after %v, the stream is at %d (closed: %v)",
					f.id, path, f.at.Load(), f.closed.Load(), time.Since(began).Round(time.Second), want, c.closed)
				break
			}
		}
	}
	if c.closed { // they have ended
		w.mu.Lock()
		delete(w.followers, path)
		w.mu.Unlock()
	}
}

func (f *follower) run(ctx context.Context) {
	if f.transport == overTail || f.transport == overTailPoll {
		f.tail(ctx)
		return
	}
	connect := map[transport]func(context.Context) error{
		overSSE: f.events, overLongPoll: f.poll, overCatchUp: f.catchUp,
	}[f.transport]
	for ctx.Err() == nil && !f.closed.Load() {
		if err := connect(ctx); err != nil && ctx.Err() == nil {
			f.w.wait(ctx, 10*time.Millisecond)
		}
	}
}

// offset is where the reader stands, as the server wants to hear it.
func (f *follower) offset() string {
	if at := f.at.Load(); at > 0 {
		return runnel.Sequence(at).Offset()
	}
	return wire.OffsetStart
}

// got reports entries that were received, up to a place that the server told.
func (f *follower) got(entries []string, next string, closed bool) {
	end, err := runnel.ParseOffset(next)
	if err != nil {
		f.w.fail("%s of %s: %v", f.id, f.path, err)
		f.closed.Store(true)
		return
	}
	from := int(f.at.Load())
	f.w.ledger.Saw(f.id, f.path, from, entries...)
	f.w.ledger.Saw(f.id, f.path, int(end)) // which says that it must stand there now
	if closed {
		f.w.ledger.SawClosed(f.id, f.path, int(end))
	}
	f.at.Store(int64(end))
	if len(entries) > 0 {
		f.resumed()
	}
	if closed {
		f.closed.Store(true)
	}
	f.w.entries.Add(int64(len(entries)))
}

// resumed counts what has happened to the server since something was received.
func (f *follower) resumed() {
	if n := f.w.s.kills.Load(); n != f.kills {
		f.w.counts.hit(resumed(f.transport, "kill"))
		f.kills, f.freezes = n, f.w.s.freezes.Load()
	}
	if n := f.w.s.freezes.Load(); n != f.freezes {
		f.w.counts.hit(resumed(f.transport, "freeze"))
		f.freezes = n
	}
}

// gotPart reports entries of an answer that broke off. The reader asks for them again, but they have been
// seen.
func (f *follower) gotPart(entries []string) {
	if len(entries) == 0 || f.mayEnd {
		return
	}
	f.partial++
	f.w.counts.hit(partlyReceived)
	f.w.ledger.Saw(fmt.Sprintf("%s, part %d", f.id, f.partial), f.path, int(f.at.Load()), entries...)
}

// glimpse makes one connection of a reader of its own, and follows it for a while at most. It is for streams
// that are deleted and created again, or of which retention drops entries.
func (w *world) glimpse(ctx context.Context, path, contentType string, over transport, while time.Duration) {
	f := w.newFollower(path, contentType, over)
	f.mayEnd = true
	ctx, stop := context.WithTimeout(ctx, while)
	defer stop()
	w.ledger.Attach(f.id, path)
	connect := f.events
	if over == overCatchUp {
		connect = f.catchUp
	}
	_ = connect(ctx) // how it ends does not matter
}

// ask sends a GET that ends when nothing has come for a while; the caller calls alive when something has,
// and done.
func (f *follower) ask(ctx context.Context, live string) (res *http.Response, alive, done func(), err error) {
	ctx, cancel := context.WithCancel(ctx)
	timer := time.AfterFunc(readerPatience, cancel)
	done = func() {
		timer.Stop()
		cancel()
	}
	res, err = f.w.open(ctx, request{method: http.MethodGet, path: f.path, query: "?offset=" + f.offset() + live})
	if err == nil && res.StatusCode >= 300 {
		body, _ := io.ReadAll(io.LimitReader(res.Body, 300))
		_ = res.Body.Close()
		err = fmt.Errorf("status %d: %s", res.StatusCode, body)
		gone := res.StatusCode == http.StatusNotFound || res.StatusCode == http.StatusGone
		if res.StatusCode < 500 && res.StatusCode != http.StatusRequestTimeout && !(gone && f.mayEnd) {
			f.w.fail("%s of %s at %d: %v", f.id, f.path, f.at.Load(), err)
		}
		if res.StatusCode < 500 {
			f.closed.Store(true)
		}
	}
	if err != nil {
		done()
		return nil, nil, nil, err
	}
	alive = func() {
		timer.Reset(readerPatience)
		if f.slow {
			pause(time.Millisecond)
		}
	}
	return res, alive, done, nil
}

// catchUp reads what there is, and waits a little.
func (f *follower) catchUp(ctx context.Context) error {
	if err := f.page(ctx, ""); err != nil {
		return err
	}
	if !f.closed.Load() {
		f.w.wait(ctx, time.Duration(5+rand.IntN(150))*time.Millisecond)
	}
	return nil
}

func (f *follower) poll(ctx context.Context) error { return f.page(ctx, "&live=long-poll") }

func (f *follower) page(ctx context.Context, live string) error {
	res, alive, done, err := f.ask(ctx, live)
	if err != nil {
		return err
	}
	defer done()
	defer res.Body.Close()
	data, err := io.ReadAll(noting{res.Body, alive})
	if err != nil {
		entries, _ := decode(f.contentType, data)
		f.gotPart(entries)
		return err
	}
	if earliest, err := runnel.ParseOffset(res.Header.Get(wire.HeaderEarliestOffset)); err == nil && f.at.Load() == 0 {
		f.at.Store(int64(earliest)) // the beginning is where the kept entries begin
	}
	entries, rest := decode(f.contentType, data)
	if len(bytes.TrimSpace(rest)) > 0 {
		f.w.fail("%s of %s: an answer ends with %.60q", f.id, f.path, rest)
	}
	f.got(entries, res.Header.Get(wire.HeaderNextOffset), answer{header: res.Header}.closed())
	return nil
}

// noting calls alive for everything that is read.
type noting struct {
	r     io.Reader
	alive func()
}

func (n noting) Read(b []byte) (int, error) {
	read, err := n.r.Read(b)
	if read > 0 {
		n.alive()
	}
	return read, err
}

// events reads one answer of server-sent events to its end.
func (f *follower) events(ctx context.Context) error {
	res, alive, done, err := f.ask(ctx, "&live=sse")
	if err != nil {
		return err
	}
	defer done()
	defer res.Body.Close()
	lines := bufio.NewScanner(noting{res.Body, alive})
	lines.Buffer(make([]byte, 64<<10), 64<<20)
	var event, data string
	var entries []string
	for lines.Scan() {
		switch line := lines.Text(); {
		case line == "" && event == wire.EventData:
			entries = append(entries, f.decodeEvent(data, res.Header.Get(wire.HeaderSSEDataEncoding))...)
			event, data = "", ""
		case line == "" && event == wire.EventControl:
			f.control(entries, data)
			event, data, entries = "", "", nil
		case strings.HasPrefix(line, "event:"):
			event = strings.TrimSpace(line[len("event:"):])
		case strings.HasPrefix(line, "data:"):
			data += strings.TrimPrefix(line[len("data:"):], " ") + "\n"
		}
	}
	f.gotPart(entries) // without its control event it does not count
	return lines.Err()
}

func (f *follower) decodeEvent(data, encoding string) []string {
	data = strings.TrimSuffix(data, "\n")
	if encoding == "base64" {
		b, err := base64.StdEncoding.DecodeString(data)
		if err != nil {
			f.w.fail("%s of %s: %v", f.id, f.path, err)
		}
		data = string(b)
	}
	entries, rest := decode(f.contentType, []byte(data))
	if len(rest) > 0 {
		f.w.fail("%s of %s: an event ends with %.60q", f.id, f.path, rest)
	}
	return entries
}

func (f *follower) control(entries []string, data string) {
	var control struct {
		StreamNextOffset string `json:"streamNextOffset"`
		StreamClosed     bool   `json:"streamClosed"`
	}
	if err := json.Unmarshal([]byte(data), &control); err != nil {
		f.w.fail("%s of %s: control event %.100q: %v", f.id, f.path, data, err)
		return
	}
	f.got(entries, control.StreamNextOffset, control.StreamClosed)
}

// tail follows with the Go client.
func (f *follower) tail(ctx context.Context) {
	client := &dsclient.Client{Base: f.w.s.url("/v1/stream"), HTTP: f.w.http}
	options := dsclient.TailOptions{LongPoll: f.transport == overTailPoll, IdleTimeout: readerPatience}
	for b, err := range client.Tail(ctx, f.path, dsclient.Start, options) {
		if err != nil {
			gone := errors.Is(err, runnel.ErrNotFound) || errors.Is(err, runnel.ErrSoftDeleted)
			if ctx.Err() == nil && !(gone && f.mayEnd) {
				f.w.fail("%s of %s at %d ended: %v", f.id, f.path, f.at.Load(), err)
			}
			f.closed.Store(true)
			return
		}
		entries, rest := decode(f.contentType, b.Data)
		if len(bytes.TrimSpace(rest)) > 0 {
			f.w.fail("%s of %s: a batch ends with %.60q", f.id, f.path, rest)
		}
		if string(b.Offset) == wire.OffsetStart && len(entries) == 0 {
			continue
		}
		f.got(entries, string(b.Offset), b.Closed)
	}
}
