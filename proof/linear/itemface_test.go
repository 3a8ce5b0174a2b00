package linear

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/coder/websocket"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/engine"
	"github.com/runnelhq/runnel/items"
	"github.com/runnelhq/runnel/wire"
)

// overItems calls a server of items: resources and functions over HTTP, and subscriptions over a WebSocket.
type overItems struct {
	log    // what the face has not: it is nil
	url    string
	client *http.Client
	turn   *atomic.Uint64 // writes take resources and functions in turn
}

// serveItems puts a server of items before an engine. Connections break where a world has faults.
func (w *world) serveItems(engine func() *engine.Engine, broken mutation) log {
	var own items.Log = boards{engine}
	if broken.items != nil {
		own = broken.items(own)
	}
	h := items.New(own, items.Config{Logger: quiet})
	var face http.Handler = h
	if broken.face != nil {
		face = broken.face(face)
	}
	if w.kind.faults {
		face = &breaking{Handler: face, w: w, rng: rand.New(rand.NewPCG(w.rng.Uint64(), 0)), left: 2}
	}
	s := httptest.NewServer(face)
	w.stop = append(w.stop, func() error {
		defer s.Close()
		return h.Shutdown(context.Background())
	})
	return overItems{url: s.URL, client: s.Client(), turn: new(atomic.Uint64)}
}

// breaking loses requests before they are read, and answers after what was asked for is done.
type breaking struct {
	http.Handler
	w *world

	mu   sync.Mutex
	rng  *rand.Rand
	left int // how many more writes it breaks
}

func (b *breaking) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	lot := b.rng.IntN(20)
	reads := r.Method == http.MethodGet
	switch {
	case lot > 1, b.left == 0 && !reads, r.Header.Get("Upgrade") != "":
		lot = -1
	case !reads:
		b.left--
	}
	b.mu.Unlock()
	switch lot {
	case 0:
		b.w.tally.count("requests that were lost")
		panic(http.ErrAbortHandler)
	case 1:
		b.w.tally.count("answers that were lost")
		b.Handler.ServeHTTP(httptest.NewRecorder(), r)
		panic(http.ErrAbortHandler)
	}
	b.Handler.ServeHTTP(w, r)
}

// request is what goes to the server.
type request struct {
	method, path string
	header       http.Header
	body         []byte
}

// once is a body that the client cannot send a second time by itself.
type once struct{ io.Reader }

func (f overItems) send(ctx context.Context, q request) (http.Header, []byte, error) {
	r, err := http.NewRequestWithContext(ctx, q.method, f.url+items.DefaultPrefix+q.path, once{bytes.NewReader(q.body)})
	if err != nil {
		return nil, nil, err
	}
	if q.body == nil {
		r.Body = http.NoBody
	}
	maps.Copy(r.Header, q.header)
	resp, err := f.client.Do(r)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, nil, err
	}
	if resp.StatusCode/100 == 2 {
		return resp.Header, answer, nil
	}
	var refused struct {
		wire.Body
		Detail *wire.Detail `json:"detail"` // where a function failed
	}
	if err := json.Unmarshal(answer, &refused); err != nil {
		return nil, nil, fmt.Errorf("an answer with status %d: %w", resp.StatusCode, err)
	}
	if refused.Detail != nil {
		refused.Error = *refused.Detail
	}
	return nil, nil, refused.Err(resp.StatusCode)
}

// itemAnswer is an item as answers have it.
type itemAnswer struct {
	ID        string          `json:"id"`
	Value     json.RawMessage `json:"value"`
	Version   runnel.Sequence `json:"version"`
	OldValue  json.RawMessage `json:"old_value"`
	NewValue  json.RawMessage `json:"new_value"` // in the place of a value, where a function answers
	Duplicate bool            `json:"duplicate"`
}

func (a *itemAnswer) result() runnel.ItemResult {
	if a.Value == nil {
		a.Value = a.NewValue
	}
	var r runnel.ItemResult
	if a.Version > 0 {
		r.New = &runnel.Item{Value: a.Value, Version: a.Version}
	}
	if old := string(a.OldValue); old != "" && old != "null" {
		r.Old = &runnel.Item{Value: a.OldValue}
	}
	return r
}

func (f overItems) WriteItems(ctx context.Context, writes runnel.ItemWrites) ([]runnel.ItemsWritten, error) {
	if len(writes.Writes) > 1 {
		return f.writeAll(ctx, &writes)
	}
	w := &writes.Writes[0]
	q := f.resource(&writes, w)
	if writes.Key == "" && !w.IfExists && f.turn.Add(1)%2 == 0 {
		q = f.function(&writes, w)
	}
	_, answer, err := f.send(ctx, q)
	if refused, ok := errors.AsType[*wire.Error](err); ok && w.Ops == nil && w.Value == nil && refused.Status == http.StatusNotFound {
		return []runnel.ItemsWritten{{Results: make([]runnel.ItemResult, 1)}}, nil // there was nothing to delete
	}
	var done itemAnswer
	if err == nil {
		err = json.Unmarshal(answer, &done)
	}
	if err != nil {
		return nil, err
	}
	return []runnel.ItemsWritten{{Appended: runnel.Appended{Duplicate: done.Duplicate}, Results: []runnel.ItemResult{done.result()}}}, nil
}

// resource writes to an item as a resource.
func (f overItems) resource(writes *runnel.ItemWrites, w *runnel.ItemWrite) request {
	q := request{method: http.MethodPut, path: spaceName + "/" + writes.Segment + "/" + w.Key, header: make(http.Header), body: w.Value}
	switch {
	case w.Ops != nil:
		q.method, q.body = http.MethodPatch, w.Ops
	case w.Value == nil:
		q.method = http.MethodDelete
	}
	switch {
	case w.IfExists:
		q.header.Set("If-Match", "*")
	case w.IfVersion != nil && *w.IfVersion > 0:
		q.header.Set("If-Match", fmt.Sprintf("%q", fmt.Sprint(*w.IfVersion)))
	case w.IfVersion != nil:
		q.header.Set("If-None-Match", "*")
	}
	if writes.Key != "" {
		q.header.Set("Idempotency-Key", writes.Key)
	}
	return q
}

// function writes to an item by a function.
func (f overItems) function(writes *runnel.ItemWrites, w *runnel.ItemWrite) request {
	in := struct {
		Stream    string           `json:"stream_name"`
		Group     string           `json:"group_id"`
		Item      string           `json:"item_id"`
		Data      json.RawMessage  `json:"data,omitempty"`
		Ops       json.RawMessage  `json:"ops,omitempty"`
		IfVersion *runnel.Sequence `json:"if_version,omitempty"`
		Atomic    bool             `json:"atomic"`
	}{spaceName, writes.Segment, w.Key, w.Value, w.Ops, w.IfVersion, true}
	name := "set"
	switch {
	case w.Ops != nil:
		name = "update"
	case w.Value == nil:
		name = "delete"
	}
	return request{method: http.MethodPost, path: "call/stream::" + name, body: encoded(in)}
}

// writeAll writes to several items at once.
func (f overItems) writeAll(ctx context.Context, writes *runnel.ItemWrites) ([]runnel.ItemsWritten, error) {
	type one struct {
		ID        string           `json:"id"`
		Value     json.RawMessage  `json:"value,omitempty"`
		Ops       json.RawMessage  `json:"ops,omitempty"`
		Delete    bool             `json:"delete,omitempty"`
		IfVersion *runnel.Sequence `json:"if_version,omitempty"`
	}
	var in struct {
		Writes []one `json:"writes"`
	}
	for i := range writes.Writes {
		w := &writes.Writes[i]
		in.Writes = append(in.Writes, one{w.Key, w.Value, w.Ops, w.Value == nil && w.Ops == nil, w.IfVersion})
	}
	_, answer, err := f.send(ctx, request{method: http.MethodPost, path: spaceName + "/" + writes.Segment, body: encoded(in)})
	var out struct {
		Items []itemAnswer `json:"items"`
	}
	if err == nil {
		err = json.Unmarshal(answer, &out)
	}
	if err != nil {
		return nil, err
	}
	done := runnel.ItemsWritten{}
	for i := range out.Items {
		done.Results = append(done.Results, out.Items[i].result())
	}
	return []runnel.ItemsWritten{done}, nil
}

func encoded(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}

func (f overItems) Delete(ctx context.Context, group string) error {
	_, _, err := f.send(ctx, request{method: http.MethodDelete, path: spaceName + "/" + group})
	return err
}

func (f overItems) Item(ctx context.Context, group, key string) (runnel.Item, error) {
	header, value, err := f.send(ctx, request{method: http.MethodGet, path: spaceName + "/" + group + "/" + key})
	if err != nil {
		return runnel.Item{}, err
	}
	it := runnel.Item{Value: value}
	_, err = fmt.Sscanf(header.Get("ETag"), `"%d"`, &it.Version)
	return it, err
}

func (f overItems) Items(ctx context.Context, group string) (runnel.ItemView, error) {
	_, answer, err := f.send(ctx, request{method: http.MethodGet, path: spaceName + "/" + group})
	var list struct {
		Items   []itemAnswer    `json:"items"`
		Version runnel.Sequence `json:"version"`
		Cursor  string          `json:"cursor"`
	}
	if err == nil {
		err = json.Unmarshal(answer, &list)
	}
	var at place
	if err == nil {
		at, err = placeOf(list.Cursor)
	}
	switch {
	case err != nil:
		return runnel.ItemView{}, err
	case at == place{} && len(list.Items) == 0:
		return runnel.ItemView{}, &runnel.NotFoundError{Segment: theSpace.Segment(group)} // which a listing does not tell from an empty one
	case at.last != list.Version:
		return runnel.ItemView{}, fmt.Errorf("a listing at %d has cursor %s", list.Version, list.Cursor)
	}
	v := runnel.ItemView{Info: runnel.Info{ID: at.id, Tail: at.last}}
	for _, it := range list.Items {
		v.Items = append(v.Items, runnel.Item{ItemKey: runnel.ItemKey{Key: it.ID}, Value: it.Value, Version: it.Version})
	}
	return v, nil
}

// placeOf reads a cursor, which nobody but a test should.
func placeOf(cursor string) (p place, err error) {
	_, err = fmt.Sscanf(cursor, "%d-%d", &p.id, &p.last)
	return p, err
}

func cursorOf(p place) string { return fmt.Sprintf("%d-%d", p.id, p.last) }

// itemFrame is what a subscriber is sent.
type itemFrame struct {
	ID    *string `json:"id"`
	Event struct {
		Type string          `json:"type"`
		Data json.RawMessage `json:"data"`
	} `json:"event"`
	IDs     []string        `json:"ids"`
	Version runnel.Sequence `json:"version"`
	Cursor  string          `json:"cursor"`
}

func (f overItems) FollowItems(ctx context.Context, group string, since place) iter.Seq2[news, error] {
	return func(yield func(news, error) bool) {
		ws, resp, err := websocket.Dial(ctx, "ws"+strings.TrimPrefix(f.url, "http"), &websocket.DialOptions{HTTPClient: f.client})
		if err != nil {
			yield(news{}, err)
			return
		}
		if resp.Body != nil {
			_ = resp.Body.Close()
		}
		defer func() { _ = ws.CloseNow() }()
		join := map[string]string{"subscriptionId": "1", "streamName": spaceName, "groupId": group}
		if since.id != 0 {
			join["since"] = cursorOf(since)
		}
		if err := ws.Write(ctx, websocket.MessageText, encoded(map[string]any{"type": "join", "data": join})); err != nil {
			yield(news{}, err)
			return
		}
		for {
			_, text, err := ws.Read(ctx)
			var n news
			told := false
			if err == nil {
				n, told, err = newsOf(text)
			}
			if (told || err != nil) && !yield(n, err) || err != nil {
				return
			}
		}
	}
}

// newsOf reads a frame, and says whether it tells of items.
func newsOf(text []byte) (n news, told bool, err error) {
	var f itemFrame
	if err := json.Unmarshal(text, &f); err != nil {
		return n, false, err
	}
	switch f.Event.Type {
	case "sync":
		n.snapshot = true
		var values []json.RawMessage
		if n.at, err = placeOf(f.Cursor); err == nil {
			err = json.Unmarshal(f.Event.Data, &values)
		}
		if err == nil && len(values) != len(f.IDs) {
			err = fmt.Errorf("%d values have %d ids", len(values), len(f.IDs))
		}
		if err != nil {
			return n, false, err
		}
		for i, id := range f.IDs {
			at := indexOfItem(id)
			n.items[at], n.exist[at] = valueOf(values[i]), true
		}
		return n, true, nil
	case "deleted":
		return news{snapshot: true}, true, nil
	case "create", "update", "delete":
		ch := runnel.ItemChange{ItemKey: runnel.ItemKey{Key: *f.ID}, Sequence: f.Version, Value: f.Event.Data}
		if f.Event.Type == "delete" {
			ch.Value = nil
		}
		n.changes = []runnel.ItemChange{ch}
		n.at, err = placeOf(f.Cursor)
		return n, err == nil, err
	case "gap":
		return n, false, nil
	}
	return n, false, fmt.Errorf("a frame of type %s: %s", f.Event.Type, f.Event.Data)
}

// boards is the items of the engine that is open at the moment, for a handler that outlives it.
type boards struct{ engine func() *engine.Engine }

func (b boards) WriteItems(ctx context.Context, space runnel.Space, writes ...runnel.ItemWrites) ([]runnel.ItemsWritten, error) {
	return b.engine().WriteItems(ctx, space, writes...)
}

func (b boards) Item(ctx context.Context, seg runnel.Segment, key runnel.ItemKey) (runnel.Item, error) {
	return b.engine().Item(ctx, seg, key)
}

func (b boards) Items(ctx context.Context, seg runnel.Segment, q runnel.ItemQuery) (runnel.ItemView, error) {
	return b.engine().Items(ctx, seg, q)
}

func (b boards) SpaceItems(ctx context.Context, space runnel.Space, prefix string, q runnel.ItemQuery) (runnel.SpaceItemView, error) {
	return b.engine().SpaceItems(ctx, space, prefix, q)
}

func (b boards) TailItems(ctx context.Context, seg runnel.Segment, id uint64, after runnel.Sequence) iter.Seq2[runnel.ItemBatch, error] {
	return b.engine().TailItems(ctx, seg, id, after)
}

func (b boards) TailSpaceItems(ctx context.Context, space runnel.Space, prefix string, after runnel.Position) iter.Seq2[runnel.ItemBatch, error] {
	return b.engine().TailSpaceItems(ctx, space, prefix, after)
}

func (b boards) ItemGroups(ctx context.Context, space runnel.Space, prefix, after string) iter.Seq2[runnel.Info, error] {
	return b.engine().ItemGroups(ctx, space, prefix, after)
}

func (b boards) ItemSpaces(ctx context.Context, store runnel.Store, prefix, after string) iter.Seq2[runnel.Space, error] {
	return b.engine().ItemSpaces(ctx, store, prefix, after)
}

func (b boards) StatSpace(ctx context.Context, space runnel.Space) (runnel.SpaceInfo, error) {
	return b.engine().StatSpace(ctx, space)
}

func (b boards) Delete(ctx context.Context, seg runnel.Segment) error {
	return b.engine().Delete(ctx, seg)
}

func (b boards) CompactItems(ctx context.Context, seg runnel.Segment) (runnel.Info, error) {
	return b.engine().CompactItems(ctx, seg)
}

func (b boards) DeleteItemSpace(ctx context.Context, space runnel.Space) (int, error) {
	return b.engine().DeleteItemSpace(ctx, space)
}

func (b boards) SendItem(ctx context.Context, e runnel.ItemEvent) error {
	return b.engine().SendItem(ctx, e)
}

func (b boards) HearItemEvents(ctx context.Context, space runnel.Space, heard func(runnel.ItemEvent)) error {
	return b.engine().HearItemEvents(ctx, space, heard)
}
