package durablestreams

import (
	"context"
	"errors"
	"iter"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/wire"
)

// Log is all that the handler needs of an engine. Everything that it returns is durable, and its errors
// match those of package runnel.
type Log interface {
	Create(ctx context.Context, seg runnel.Segment, o runnel.CreateOptions) (runnel.Created, error)
	Append(ctx context.Context, seg runnel.Segment, o runnel.AppendOptions, records ...runnel.Record) (runnel.Appended, error)
	Delete(ctx context.Context, seg runnel.Segment) error
	// Stat does not renew the time to live.
	Stat(ctx context.Context, seg runnel.Segment) (runnel.Info, error)
	// Read renews the time to live. An id that is not 0 must be that of the segment, else it does not
	// exist. From may be runnel.Latest.
	Read(ctx context.Context, seg runnel.Segment, id uint64, from runnel.Sequence) (runnel.View, error)
	// ReadStart is Read from the earliest place there is. Where the view has a State, that comes first.
	ReadStart(ctx context.Context, seg runnel.Segment) (runnel.View, error)
	// Wait returns when there is something after a place, or when there never will be. The segment does
	// not expire meanwhile.
	Wait(ctx context.Context, seg runnel.Segment, id uint64, after runnel.Sequence) (runnel.Info, error)
	// List yields segments in the order of their space names, then of their own.
	List(ctx context.Context, store runnel.Store, o runnel.ListOptions) iter.Seq2[runnel.Info, error]
	// Watch yields hints that segments came or went, until ctx is done.
	Watch(ctx context.Context, store runnel.Store) iter.Seq[runnel.Event]
}

// guard is a Log that refuses some callers, and tells so beforehand: before a body is received that would
// not be taken, and before something is done for a reader who is not let in.
type guard interface {
	MayRead(ctx context.Context, seg runnel.Segment) error
	MayWrite(ctx context.Context, seg runnel.Segment) error
}

// Handler serves the Durable Streams protocol. Make one with [New] and end it with [Handler.Shutdown] or
// [Handler.Close].
type Handler struct {
	log      Log   // on behalf of callers
	own      Log   // of itself
	guard    guard // nil if log lets everybody do everything
	cfg      Config
	root     string              // the prefix without its last slash
	origins  map[string][]string // nil: all
	inflight *semaphore.Weighted // bytes of request bodies
	heavy    *semaphore.Weighted // bytes of large entries under way to readers
	cache    cachePolicy
	hubs     hubs
	registry registries

	ended context.Context //nolint:containedctx // ends live reads and what runs in the background
	end   context.CancelFunc

	mu       sync.Mutex
	readers  map[*reader]struct{} // whose connections were taken over
	draining bool
	live     sync.WaitGroup // live readers, and what runs in the background
}

// New returns a handler that serves the segments of log.
func New(log Log, cfg Config) *Handler {
	cfg = cfg.withDefaults()
	h := &Handler{
		log:      log,
		own:      cfg.Own,
		cfg:      cfg,
		root:     strings.TrimSuffix(cfg.Prefix, "/"),
		inflight: semaphore.NewWeighted(cfg.MaxInflightBytes),
		heavy:    semaphore.NewWeighted(cfg.MaxReadBytes),
		cache:    newCachePolicy(cfg.Private),
		readers:  make(map[*reader]struct{}),
	}
	h.ended, h.end = context.WithCancel(context.Background())
	for _, origin := range cfg.AllowedOrigins {
		if origin == "*" {
			h.origins = nil
			break
		}
		if h.origins == nil {
			h.origins = make(map[string][]string)
		}
		h.origins[origin] = []string{origin}
	}
	if h.own == nil {
		h.own = log
	}
	h.guard, _ = log.(guard)
	h.hubs.h = h
	h.registry.h = h
	if !cfg.NoRegistry {
		h.live.Go(func() { h.registry.resume(h.ended) })
	}
	return h
}

// ServeHTTP answers one request.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.decorate(w.Header(), r)
	if err := h.serve(w, r); err != nil {
		h.fail(w, r, err)
	}
}

// serve finds what the request is about. The path is the decoded one: an escaped slash is a slash, and
// nothing is cleaned or redirected, because names may not contain what cleaning would remove.
func (h *Handler) serve(w http.ResponseWriter, r *http.Request) error {
	path, ok := strings.CutPrefix(r.URL.Path, h.cfg.Prefix)
	if !ok && r.URL.Path != h.root {
		return &wire.Error{
			Status: http.StatusNotFound,
			Detail: wire.Detail{Code: wire.CodeNotFound, Message: "streams are under " + h.cfg.Prefix},
		}
	}
	if r.Method == http.MethodOptions {
		h.preflight(w)
		return nil
	}
	var err error
	control, isControl := h.controlPath(r)
	if isControl && control.own() {
		return h.serveControl(w, r, control)
	}
	if h.cfg.Admit != nil {
		if r, err = h.cfg.Admit(r); err != nil {
			return err
		}
	}
	if !ok || path == "" {
		return h.serveList(w, r)
	}
	if isControl {
		return h.serveControl(w, r, control)
	}
	store, err := h.cfg.Store(r)
	if err != nil {
		return err
	}
	seg, err := runnel.ParsePath(store, path)
	if err != nil {
		return err
	}
	if err := h.mayAct(r, seg); err != nil {
		return err
	}
	if path == registryName && !h.cfg.NoRegistry {
		if err := h.prepareRegistry(w, r, store); err != nil {
			return err
		}
	}
	switch r.Method {
	case http.MethodPost:
		return h.append(w, r, seg)
	case http.MethodGet:
		return h.read(w, r, seg)
	case http.MethodHead:
		return h.head(w, r, seg)
	case http.MethodPut:
		return h.create(w, r, seg)
	case http.MethodDelete:
		return h.delete(w, r, seg)
	}
	return notAllowed(w, valueMethods)
}

// mayAct refuses at once what the log is going to refuse. A delete has nothing that would be done before.
func (h *Handler) mayAct(r *http.Request, seg runnel.Segment) error {
	if h.guard == nil {
		return nil
	}
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		if seg.Name == registryName && seg.Space == "" {
			return h.guard.MayRead(r.Context(), seg)
		}
	case http.MethodPut, http.MethodPost:
		return h.guard.MayWrite(r.Context(), seg)
	}
	return nil
}

// notAllowed returns the failure of a method that the URL does not know.
func notAllowed(w http.ResponseWriter, allow []string) error {
	w.Header()[wire.HeaderAllow] = allow
	return &wire.Error{
		Status: http.StatusMethodNotAllowed,
		Detail: wire.Detail{Code: wire.CodeMethodNotAllowed, Message: "the method is not one of " + allow[0]},
	}
}

// statusClientGone is what logs and metrics see of a request whose client went away before its answer.
const statusClientGone = 499

// fail answers an error. A client that has gone gets nothing.
func (h *Handler) fail(w http.ResponseWriter, r *http.Request, err error) {
	if errors.Is(err, context.Canceled) && r.Context().Err() != nil {
		w.WriteHeader(statusClientGone)
		return
	}
	if errors.Is(err, context.DeadlineExceeded) && r.Context().Err() != nil {
		err = &runnel.UnavailableError{Reason: "the time for the request is over", RetryAfter: time.Second}
	}
	f := wire.ErrorOf(err)
	if f.Status >= http.StatusInternalServerError && f.Cause != nil {
		level := slog.LevelError
		switch f.Status {
		case http.StatusServiceUnavailable:
			level = slog.LevelWarn
		case http.StatusInsufficientStorage:
			level = slog.LevelDebug // the storage says once that it is full
		}
		h.cfg.Logger.LogAttrs(r.Context(), level, "request failed",
			slog.String("method", r.Method), slog.String("path", r.URL.Path),
			slog.String("code", string(f.Detail.Code)), slog.Any("error", f.Cause))
	}
	writeFailure(w, f)
}

// enter counts what is to go on, unless the handler is shutting down. Whoever entered calls live.Done.
func (h *Handler) enter() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.draining {
		return runnel.ErrShutdown
	}
	h.live.Add(1)
	return nil
}

// enterReader counts a live reader, unless there are too many of them. The returned function ends the count.
func (h *Handler) enterReader(r *http.Request) (leave func(), err error) {
	giveBack, err := h.cfg.Seats.Take(h.cfg.Caller(r.Context()))
	if err != nil {
		return nil, err
	}
	if err := h.enter(); err != nil {
		giveBack()
		return nil, err
	}
	return func() {
		giveBack()
		h.live.Done()
	}, nil
}

// forget ends the count of a reader whose connection was taken over.
func (h *Handler) forget(r *reader) {
	h.mu.Lock()
	delete(h.readers, r)
	h.mu.Unlock()
	r.leave()
}

// Shutdown ends live reads in a way that lets their clients go on elsewhere, answers waiting long-polls,
// refuses new live reads with 503, and waits until none is left or ctx is done; then it closes their
// connections. Everything else is served as before.
//
// Call it before [net/http.Server.Shutdown], which knows nothing of the connections of SSE readers that
// the handler has taken over, and would wait for long-polls.
func (h *Handler) Shutdown(ctx context.Context) error {
	h.mu.Lock()
	h.draining = true
	h.mu.Unlock()
	h.end()
	done := make(chan struct{})
	go func() {
		defer close(done)
		h.live.Wait()
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
	}
	h.mu.Lock()
	for r := range h.readers {
		_ = r.conn.Close() // its watcher notices
	}
	h.mu.Unlock()
	return ctx.Err()
}

// Close ends live reads at once. It is Shutdown without patience.
func (h *Handler) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), closePatience)
	defer cancel()
	return h.Shutdown(ctx)
}

// closePatience is enough for readers whose connections are not stuck.
const closePatience = 100 * time.Millisecond
