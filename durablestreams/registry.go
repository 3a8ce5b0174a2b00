package durablestreams

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/wire"
)

// registryName is the stream that lists all others, as changes of the State Protocol. The official test
// interface finds streams in it.
const registryName = "__registry__"

const (
	// registryBatch is how many changes one append to a registry has at most.
	registryBatch = 1000
	// registryPending is how many changes may wait to be appended before some are left to a comparison.
	registryPending = 64 << 10
)

// registries are the registries of the stores that were asked for theirs.
type registries struct {
	h   *Handler
	mu  sync.Mutex
	all map[runnel.Store]*registry
}

// registry keeps the registry of one store current. Events say what comes and goes; because they may be
// lost, and nobody listens while the server is down, the registry is also compared with the streams
// there are: when it is asked for first, and then now and then as it is read.
type registry struct {
	h       *Handler
	seg     runnel.Segment
	mu      sync.Mutex // held while changes are appended
	watched bool
	exact   time.Time // when it was compared last; zero if it has to be

	pendingMu sync.Mutex
	pending   []runnel.Record
	more      chan struct{} // has room for one signal
}

// change is a message of a registry.
type change struct {
	Type    string        `json:"type"`
	Key     string        `json:"key"`
	Value   *registered   `json:"value,omitempty"`
	Headers changeHeaders `json:"headers"`
}

type changeHeaders struct {
	Operation string `json:"operation"`
}

// registered is what a registry says of a stream.
type registered struct {
	Path        string `json:"path"`
	ContentType string `json:"contentType"`
	CreatedAt   int64  `json:"createdAt"` // milliseconds since 1970
}

// The operations of the State Protocol.
const (
	opInsert = "insert"
	opUpdate = "update"
	opDelete = "delete"
)

func changeRecord(operation, path string, value *registered) runnel.Record {
	return runnel.Record{Payload: encodeJSON(change{Type: "stream", Key: path, Value: value, Headers: changeHeaders{Operation: operation}})}
}

func describe(info runnel.Info) registered {
	return registered{Path: info.Segment.Path(), ContentType: info.ContentType, CreatedAt: info.Created.UnixMilli()}
}

// prepareRegistry makes sure that the registry of a store is there and current before it is read. A stream
// of that name that cannot be one, because somebody made it otherwise, is served as it is.
func (h *Handler) prepareRegistry(w http.ResponseWriter, r *http.Request, store runnel.Store) error {
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodPut:
		err := h.registry.of(store).prepare(r.Context())
		if errors.Is(err, runnel.ErrExists) || errors.Is(err, runnel.ErrClosed) || errors.Is(err, runnel.ErrSoftDeleted) {
			return nil
		}
		return err
	}
	return notAllowed(w, valueRegistry)
}

func (rs *registries) of(store runnel.Store) *registry {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	g := rs.all[store]
	if g == nil {
		g = &registry{h: rs.h, seg: runnel.Segment{Store: store, Name: registryName}, more: make(chan struct{}, 1)}
		if rs.all == nil {
			rs.all = make(map[runnel.Store]*registry)
		}
		rs.all[store] = g
	}
	return g
}

// resume goes on with the registry of the default store, if there was one before the server was started.
func (rs *registries) resume(ctx context.Context) {
	g := rs.of(runnel.Store{})
	if _, err := rs.h.own.Stat(ctx, g.seg); err != nil {
		return
	}
	if err := g.prepare(ctx); err != nil {
		g.report(ctx, err)
	}
}

// prepare creates the registry if need be, begins to watch, and compares.
func (g *registry) prepare(ctx context.Context) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.watched {
		if err := g.h.enter(); err == nil { // else it is not kept current any more, but can be read
			g.watched = true
			events := g.h.own.Watch(g.h.ended, g.seg.Store) // from now on, before the comparison
			g.h.live.Go(func() {
				for event := range events {
					g.note(event)
				}
			})
			g.h.live.Go(func() { g.write(g.h.ended) })
			g.h.live.Done()
		}
	}
	if !g.exact.IsZero() && time.Since(g.exact) < g.h.cfg.RegistryReconcile {
		return nil
	}
	if _, err := g.h.own.Create(ctx, g.seg, runnel.CreateOptions{ContentType: "application/json"}); err != nil {
		return err
	}
	if err := g.compare(ctx); err != nil {
		return err
	}
	g.exact = time.Now()
	return nil
}

// note takes an event, to be appended soon.
func (g *registry) note(event runnel.Event) {
	path := event.Info.Segment.Path()
	if path == registryName {
		return
	}
	var record runnel.Record
	if event.Deleted {
		record = changeRecord(opDelete, path, nil)
	} else {
		value := describe(event.Info)
		record = changeRecord(opInsert, path, &value)
	}
	g.pendingMu.Lock()
	if len(g.pending) < registryPending {
		g.pending = append(g.pending, record)
	}
	g.pendingMu.Unlock()
	select {
	case g.more <- struct{}{}:
	default:
	}
}

// write appends what was noted, until ctx is done.
func (g *registry) write(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-g.more:
		}
		g.pendingMu.Lock()
		records := g.pending
		g.pending = nil
		g.pendingMu.Unlock()
		g.mu.Lock()
		err := g.append(ctx, records)
		if err != nil || len(records) == registryPending {
			g.exact = time.Time{}
		}
		g.mu.Unlock()
		if err != nil {
			g.report(ctx, err)
		}
	}
}

// append appends changes. The caller holds the lock.
func (g *registry) append(ctx context.Context, records []runnel.Record) error {
	for len(records) > 0 {
		n := min(len(records), registryBatch)
		if _, err := g.h.own.Append(ctx, g.seg, runnel.AppendOptions{}, records[:n]...); err != nil {
			return err
		}
		records = records[n:]
	}
	return nil
}

// compare appends the differences between what the registry says and the streams there are.
func (g *registry) compare(ctx context.Context) error {
	says, err := g.fold(ctx)
	if err != nil {
		return err
	}
	var records []runnel.Record
	o := runnel.ListOptions{Limit: registryBatch}
	for {
		n := 0
		for info, err := range g.h.own.List(ctx, g.seg.Store, o) {
			if err != nil {
				return err
			}
			n++
			o.After = info.Segment.Path()
			is := describe(info)
			if is.Path == registryName {
				continue
			}
			said, ok := says[is.Path]
			delete(says, is.Path)
			switch {
			case !ok:
				records = append(records, changeRecord(opInsert, is.Path, &is))
			case said != is:
				records = append(records, changeRecord(opUpdate, is.Path, &is))
			}
		}
		if err := g.append(ctx, records); err != nil {
			return err
		}
		records = records[:0]
		if n < registryBatch {
			break
		}
	}
	for path := range says {
		records = append(records, changeRecord(opDelete, path, nil))
	}
	return g.append(ctx, records)
}

// fold reads what the registry says.
func (g *registry) fold(ctx context.Context) (map[string]registered, error) {
	v, err := g.h.own.Read(ctx, g.seg, 0, 0)
	if err != nil {
		return nil, err
	}
	says := make(map[string]registered)
	for b, err := range v.Stream {
		if err != nil {
			return nil, err
		}
		for i := range b.Len() {
			var c change
			if json.Unmarshal(b.Payload(i), &c) != nil || c.Type != "stream" {
				continue // written by somebody else, who may
			}
			if c.Headers.Operation == opDelete {
				delete(says, c.Key)
			} else if c.Value != nil {
				says[c.Key] = *c.Value
			}
		}
	}
	return says, nil
}

func (g *registry) report(ctx context.Context, err error) {
	if ctx.Err() != nil || errors.Is(err, runnel.ErrShutdown) {
		return
	}
	g.h.cfg.Logger.LogAttrs(ctx, slog.LevelWarn, "the registry of streams is behind",
		slog.String("store", g.seg.Store.String()), slog.String("code", string(wire.ErrorOf(err).Detail.Code)), slog.Any("error", err))
}
