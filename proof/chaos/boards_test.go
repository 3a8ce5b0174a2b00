package chaos

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/proof/oracle"
	"github.com/runnelhq/runnel/proof/patience"
)

// boards writes to the items of a group while subscribers follow it. Each item counts its changes: by updates, and
// by writes on the condition that it is as it was read. The stream of the group has an entry for each change, and
// so the ledger judges it.
type boards struct {
	rounds int
	board  *board
	done   []*board
	n      int
}

// board is one group.
type board struct {
	path     string // of its stream
	watchers []*watcher
}

// boardItems are the items of a group, of which several clients write to each.
var boardItems = []string{"a", "b", "c"}

func (p *boards) name() string { return "items" }

func (p *boards) run(ctx context.Context, w *world) {
	if p.rounds%roundsOfAStream == 0 && !p.rotate(ctx, w) {
		return
	}
	p.rounds++
	var work sync.WaitGroup
	for range 3 {
		p.n++
		writer := fmt.Sprint("writer-", p.n)
		work.Go(func() {
			for r, n := w.rand(), 0; ctx.Err() == nil; n++ {
				w.count(ctx, r, p.board.path, boardItems[r.IntN(len(boardItems))], name(writer, n, 0))
			}
		})
	}
	work.Wait()
}

// rotate makes another group, by the first write to it.
func (p *boards) rotate(ctx context.Context, w *world) bool {
	if p.board != nil {
		p.done = append(p.done, p.board)
		p.board.leave()
	}
	b := &board{path: fmt.Sprint("boards/", w.streams.Add(1))}
	first := name("first", 0, 0)
	op := w.ledger.BeginCreate(b.path, first)
	q := itemRequest{
		method: http.MethodPut, board: b.path, item: boardItems[0], body: fmt.Sprintf(`{"by":%q,"n":1}`, first),
		header: []string{"Idempotency-Key", first},
	}
	if !w.insistOnItem(ctx, op, q) {
		p.board = nil
		p.rounds = 0 // and another one the next time
		return false
	}
	p.board = b
	for range 3 {
		b.watchers = append(b.watchers, w.watch(b.path))
	}
	return true
}

// itemRequest is one to an item.
type itemRequest struct {
	method, board, item, body string
	header                    []string
}

// sendItem sends a request once, and returns the version of the item that the answer tells.
func (w *world) sendItem(ctx context.Context, q itemRequest) (answer, int) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), clientTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, q.method, w.s.url("/v1/items/"+q.board+"/"+q.item), strings.NewReader(q.body))
	if err != nil {
		panic(err)
	}
	for i := 0; i < len(q.header); i += 2 {
		req.Header.Set(q.header[i], q.header[i+1])
	}
	res, err := w.http.Do(req)
	if err != nil {
		return answer{}, 0
	}
	defer res.Body.Close()
	a := answer{status: res.StatusCode, header: res.Header}
	if a.body, err = io.ReadAll(res.Body); err != nil {
		return answer{}, 0
	}
	version, _ := strconv.Atoi(strings.Trim(a.header.Get("ETag"), `"`))
	return a, version
}

// writeItem sends an operation once and tells the ledger how it ended.
func (w *world) writeItem(ctx context.Context, op *oracle.Operation, q itemRequest, inDoubt bool) answer {
	a, version := w.sendItem(ctx, q)
	switch {
	case !a.known() || !a.ok() && inDoubt:
		op.Unknown()
	case !a.ok():
		op.Refused()
	case version > 0 && !strings.Contains(string(a.body), `"duplicate":true`):
		w.acked.Add(1)
		op.AcknowledgedAt(version)
	default:
		w.counts.hit(itemRepeated)
		op.Acknowledged()
	}
	return a
}

// insistOnItem repeats a write with an idempotency key until there is an answer, and tells whether it is done.
func (w *world) insistOnItem(ctx context.Context, op *oracle.Operation, q itemRequest) bool {
	for tries, inDoubt := 0, false; ; tries++ {
		if tries > 0 {
			op.Again()
		}
		switch a := w.writeItem(ctx, op, q, inDoubt); {
		case a.ok():
			return true
		case a.known() && a.status != http.StatusServiceUnavailable:
			w.fail("%s %s of %s: %v", q.method, q.item, q.board, a)
			return false
		case !a.known():
			inDoubt = true
		}
		if !w.wait(ctx, 5*time.Millisecond) {
			if inDoubt {
				w.doubt(op, "")
			}
			return false
		}
	}
}

// count counts an item up by one, in one of three ways.
func (w *world) count(ctx context.Context, r *rand.Rand, board, item, entry string) {
	update := itemRequest{
		method: http.MethodPatch, board: board, item: item,
		body: fmt.Sprintf(`[{"type":"set","path":"by","value":%q},{"type":"increment","path":"n","by":1}]`, entry),
	}
	switch r.IntN(4) {
	case 0:
		w.once(ctx, w.ledger.Begin(board, entry), update)
	case 1:
		update.header = []string{"Idempotency-Key", entry}
		w.insistOnItem(ctx, w.ledger.Begin(board, entry), update)
	default:
		w.countFrom(ctx, board, item, entry)
	}
}

// countFrom reads an item, and writes on the condition that it is still that.
func (w *world) countFrom(ctx context.Context, board, item, entry string) {
	a, version := w.sendItem(ctx, itemRequest{method: http.MethodGet, board: board, item: item})
	condition := []string{"If-None-Match", "*"}
	var was change
	switch {
	case a.status == http.StatusOK && version > 0:
		condition = []string{"If-Match", fmt.Sprintf("%q", strconv.Itoa(version))}
		if err := json.Unmarshal(a.body, &was.Value); err != nil {
			w.fail("%s of %s is %.100q: %v", item, board, a.body, err)
		}
	case a.status != http.StatusNotFound:
		w.wait(ctx, 2*time.Millisecond)
		return
	}
	w.once(ctx, w.ledger.Begin(board, entry), itemRequest{
		method: http.MethodPut, board: board, item: item, header: condition,
		body: fmt.Sprintf(`{"by":%q,"n":%d}`, entry, was.Value.N+1),
	})
}

// once sends a write once, and never learns what became of it if there is no answer.
func (w *world) once(ctx context.Context, op *oracle.Operation, q itemRequest) {
	switch a := w.writeItem(ctx, op, q, false); {
	case a.ok():
	case !a.known():
		w.doubt(op, doubtItem)
		w.wait(ctx, 2*time.Millisecond)
	case a.status == http.StatusServiceUnavailable || a.status == http.StatusRequestTimeout:
		w.wait(ctx, 2*time.Millisecond)
	case a.status == http.StatusPreconditionFailed:
		w.counts.hit(itemMoved)
	default:
		w.fail("%s %s of %s: %v", q.method, q.item, q.board, a)
	}
}

// change is a message of the stream of a group.
type change struct {
	Key   string `json:"key"`
	Value struct {
		By string `json:"by"`
		N  int    `json:"n"`
	} `json:"value"`
	Headers struct {
		Operation string `json:"operation"`
	} `json:"headers"`
}

// check compares the stream of each group with the ledger, and its items with its stream, and waits for those
// who follow it.
func (p *boards) check(w *world, all bool) {
	if p.board != nil {
		p.board.check(w)
	}
	for i, b := range p.done {
		if i < others(all) {
			b.check(w)
		}
	}
}

func (b *board) check(w *world) {
	changes := b.read(w)
	var names []string
	table := make(map[string]string)
	counts := make(map[string]int)
	for i, c := range changes {
		names = append(names, c.Value.By)
		if c.Value.N != counts[c.Key]+1 {
			w.fail("%s of %s is %d after %d, by entry %d, %s", c.Key, b.path, c.Value.N, counts[c.Key], i, c.Value.By)
		}
		counts[c.Key], table[c.Key] = c.Value.N, c.Value.By
	}
	w.report(w.ledger.Check(b.path, names, false, true))
	if is := b.table(w); !maps.Equal(is, table) {
		w.fail("the items of %s are %v, and its stream makes %v", b.path, is, table)
	}
	for _, x := range b.watchers {
		x.arrive(w, names, table)
	}
}

// read reads the stream of a group, from its first entry: a reader that only begins is given the items of one that
// is long.
func (b *board) read(w *world) []change {
	for range 20 {
		var changes []change
		if a := w.readOnce(b.path, runnel.Sequence(0).Offset()); a.status == http.StatusOK && !a.broken {
			if err := json.Unmarshal(a.body, &changes); err != nil {
				w.fail("%s: %v", b.path, err)
			}
			return changes
		}
		pause(20 * time.Millisecond)
	}
	w.fail("%s cannot be read", b.path)
	return nil
}

// table reads the items of a group, and who has written them.
func (b *board) table(w *world) map[string]string {
	table := make(map[string]string)
	for range 20 {
		a, _ := w.sendItem(context.Background(), itemRequest{method: http.MethodGet, board: b.path})
		if a.status != http.StatusOK {
			pause(20 * time.Millisecond)
			continue
		}
		var list struct {
			Items []struct {
				ID    string `json:"id"`
				Value struct {
					By string `json:"by"`
				} `json:"value"`
			} `json:"items"`
		}
		if err := json.Unmarshal(a.body, &list); err != nil {
			w.fail("the items of %s: %v", b.path, err)
		}
		for _, it := range list.Items {
			table[it.ID] = it.Value.By
		}
		return table
	}
	w.fail("the items of %s cannot be read", b.path)
	return table
}

func (b *board) leave() {
	for _, x := range b.watchers {
		x.stop()
	}
	b.watchers = nil
}

// watcher follows a group over WebSocket, through all that happens to the server, and keeps its items.
type watcher struct {
	id   string
	path string
	stop context.CancelFunc

	mu     sync.Mutex
	cursor string // where to go on from
	at     int    // the version that it has come to
	stamp  int64
	table  map[string]string
	seen   map[int]string // by version, who has written what it was told
}

// watch starts a subscriber of a group.
func (w *world) watch(path string) *watcher {
	ctx, stop := context.WithCancel(context.Background())
	x := &watcher{id: fmt.Sprintf("subscriber %d", w.streams.Add(1)), path: path, stop: stop, table: make(map[string]string), seen: make(map[int]string)}
	w.mu.Lock()
	w.stopRead = append(w.stopRead, stop)
	w.mu.Unlock()
	w.reading.Go(func() {
		for ctx.Err() == nil {
			x.connect(ctx, w)
			w.wait(ctx, 20*time.Millisecond)
		}
	})
	return x
}

// connect follows until the connection breaks. The server pings, so one that brings nothing is not given up.
func (x *watcher) connect(ctx context.Context, w *world) {
	url := "ws" + strings.TrimPrefix(w.s.url("/v1/items/"+x.path), "http")
	x.mu.Lock()
	since := x.cursor
	x.mu.Unlock()
	if since != "" {
		url += "?since=" + since
	}
	dialing, cancel := context.WithTimeout(ctx, clientTimeout)
	c, res, err := websocket.Dial(dialing, url, nil)
	cancel()
	if res != nil && res.Body != nil {
		_ = res.Body.Close() // of a refusal; a connection is not the body
	}
	if err != nil {
		return
	}
	defer func() { _ = c.CloseNow() }()
	c.SetReadLimit(1 << 20)
	for first := true; ; first = false {
		reading, cancel := context.WithTimeout(ctx, readerPatience)
		_, data, err := c.Read(reading)
		cancel()
		if err != nil {
			return
		}
		var f itemFrame
		if err := json.Unmarshal(data, &f); err != nil {
			w.fail("%s of %s: %v in %.200q", x.id, x.path, err, data)
			return
		}
		if first && since != "" && f.Event.Type != "sync" {
			w.counts.hit(watcherResumed)
		}
		x.take(w, &f)
	}
}

// itemFrame is what a subscriber is sent.
type itemFrame struct {
	Timestamp int64    `json:"timestamp"`
	ID        *string  `json:"id"`
	IDs       []string `json:"ids"`
	Version   int      `json:"version"`
	Cursor    string   `json:"cursor"`
	Event     struct {
		Type string          `json:"type"`
		Data json.RawMessage `json:"data"`
	} `json:"event"`
}

// take takes in a frame. After a snapshot comes what is newer, and nothing else.
func (x *watcher) take(w *world, f *itemFrame) {
	type value struct {
		By string `json:"by"`
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	switch f.Event.Type {
	case "sync":
		var values []value
		if err := json.Unmarshal(f.Event.Data, &values); err != nil || len(values) != len(f.IDs) {
			w.fail("%s of %s: %d values and %d ids: %v", x.id, x.path, len(values), len(f.IDs), err)
			return
		}
		clear(x.table)
		for i, id := range f.IDs {
			x.table[id] = values[i].By
		}
		_, at, _ := strings.Cut(f.Cursor, "-")
		version, err := strconv.Atoi(at)
		if err != nil || version < x.at {
			w.fail("%s of %s was at version %d, and is given a snapshot at %q", x.id, x.path, x.at, f.Cursor)
		}
		x.at, x.cursor = version, f.Cursor
	case "create", "update":
		var v value
		if err := json.Unmarshal(f.Event.Data, &v); err != nil || f.ID == nil || f.Version <= x.at || f.Timestamp <= x.stamp {
			w.fail("%s of %s was at version %d, stamp %d, and is given version %d, stamp %d: %v", x.id, x.path, x.at, x.stamp, f.Version, f.Timestamp, err)
			return
		}
		w.entries.Add(1)
		x.table[*f.ID], x.seen[f.Version] = v.By, v.By
		x.at, x.cursor = f.Version, f.Cursor
		// What lies between may be left out for who is slow, so each change is a reader of its own to the ledger.
		w.ledger.Attach(x.id, x.path)
		w.ledger.Saw(x.id, x.path, f.Version-1, v.By)
	case "gap":
	default:
		w.fail("%s of %s is sent %q", x.id, x.path, f.Event.Type)
	}
	x.stamp = f.Timestamp
}

// arrive waits until the subscriber has the items of a group at rest. What it was told on the way stands in the
// stream.
func (x *watcher) arrive(w *world, names []string, table map[string]string) {
	has := func() (bool, int) {
		x.mu.Lock()
		defer x.mu.Unlock()
		return x.at == len(names) && maps.Equal(x.table, table), x.at
	}
	for left := patience.For(arrival); ; {
		ok, at := has()
		if ok {
			break
		}
		if !left.Wait(int64(at)) || w.failed.Load() {
			w.fail("%s of %s is at version %d of %d with %v, and the items are %v", x.id, x.path, at, len(names), x.table, table)
			return
		}
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	for version, by := range x.seen {
		if version > len(names) || names[version-1] != by {
			w.fail("%s of %s was told that version %d is by %s", x.id, x.path, version, by)
		}
	}
	clear(x.seen)
}
