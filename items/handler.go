package items

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/items/ops"
	"github.com/runnelhq/runnel/wire"
)

// Handler serves items over HTTP and WebSocket. Make one with [New] and end it with [Handler.Shutdown].
type Handler struct {
	log Log
	cfg Config

	ended context.Context //nolint:containedctx // ends connections and what runs in the background
	end   context.CancelFunc

	mu       sync.Mutex
	feeds    map[runnel.Space]*feed
	conns    map[*conn]struct{}
	follows  map[*follow]struct{}
	lastConn uint64
	draining bool
	live     sync.WaitGroup

	snapshots snapshots
}

// New returns a handler that serves the items of log.
func New(log Log, cfg Config) *Handler {
	h := &Handler{
		log:   log,
		cfg:   cfg.withDefaults(log),
		feeds: make(map[runnel.Space]*feed),
		conns: make(map[*conn]struct{}),

		follows:   make(map[*follow]struct{}),
		snapshots: newSnapshots(),
	}
	h.ended, h.end = context.WithCancel(context.Background())
	if h.cfg.PingInterval > 0 {
		h.live.Go(h.pingAll)
	}
	h.live.Go(h.renewMembers)
	return h
}

// Shutdown tells all connections to come back later, ends those who follow by other ways in, and returns when
// they have ended. When ctx ends before, it cuts off those that are left.
func (h *Handler) Shutdown(ctx context.Context) error {
	h.mu.Lock()
	h.draining = true
	h.mu.Unlock()
	for _, c := range h.connections() {
		h.live.Go(func() { c.goAway() })
	}
	h.endFollows()
	h.end()
	done := make(chan struct{})
	go func() {
		h.live.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		for _, c := range h.connections() {
			c.hangUp()
		}
		return ctx.Err()
	}
}

// ServeHTTP answers one request.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if h.preflight(w, r) {
		return
	}
	if err := h.serve(w, r); err != nil {
		h.fail(w, r, err)
	}
}

// serve finds what a request is about. A path is taken apart before it is decoded, so that a name may hold
// an escaped slash.
func (h *Handler) serve(w http.ResponseWriter, r *http.Request) error {
	path := r.URL.EscapedPath()
	rest, ours := strings.CutPrefix(path, h.cfg.Prefix)
	switch {
	case ours && rest == "openapi.json":
		return serveOpenAPI(w, r)
	case !ours && !upgrades(r):
		return &wire.Error{
			Status: http.StatusNotFound,
			Detail: wire.Detail{Code: wire.CodeNotFound, Message: "items are under " + h.cfg.Prefix + "; elsewhere there is only WebSocket"},
		}
	}
	r, err := h.cfg.Admit(r)
	if err != nil {
		return err
	}
	store, err := h.cfg.Store(r)
	if err != nil {
		return err
	}
	if upgrades(r) {
		if !ours {
			if rest, ours = strings.CutPrefix(path, "/stream/"); !ours && path != "/" {
				return &wire.Error{
					Status: http.StatusNotFound,
					Detail: wire.Detail{Code: wire.CodeNotFound, Message: "connect at / or at /stream/{stream}/{group}[/{item}]"},
				}
			}
		}
		names, err := splitPath(rest)
		if err != nil {
			return err
		}
		return h.accept(w, r, store, names)
	}
	if name, ok := strings.CutPrefix(rest, "call/"); ok {
		return h.call(w, r, store, name)
	}
	names, err := splitPath(rest)
	if err != nil {
		return err
	}
	return h.resource(w, r, store, names)
}

func upgrades(r *http.Request) bool { return strings.EqualFold(kept(r, "Upgrade"), "websocket") }

// kept returns a header of a request whose name is given in the form in which it is kept. What every read looks for, and
// few have, is not put into that form each time.
func kept(r *http.Request, name string) string {
	if values := r.Header[name]; len(values) > 0 {
		return values[0]
	}
	return ""
}

// splitPath returns the decoded names of a path.
func splitPath(path string) ([]string, error) {
	path = strings.TrimSuffix(path, "/")
	if path == "" {
		return nil, nil
	}
	names := strings.Split(path, "/")
	if strings.Contains(path, "%") {
		for i, name := range names {
			var err error
			if names[i], err = url.PathUnescape(name); err != nil {
				return nil, invalid("the path is not percent-encoded: %v", err)
			}
		}
	}
	if len(names) > 3 {
		return nil, invalid("the path has %d names, and an item has 3: stream, group and item; escape the slashes within names as %%2F", len(names))
	}
	return names, nil
}

// segment is where a group is kept.
func segment(store runnel.Store, stream, group string) (runnel.Segment, error) {
	if stream == "" {
		return runnel.Segment{}, &runnel.NameError{Kind: "stream", Name: stream, Rule: "must not be empty"}
	}
	seg := runnel.Segment{Store: store, Space: stream, Name: group}
	return seg, inOurWords(seg.Validate())
}

// inOurWords says what is wrong with the names of a stream or a group as those of a stream or a group.
func inOurWords(err error) error {
	wrong, ok := errors.AsType[*runnel.NameError](err)
	if !ok {
		return err
	}
	said := *wrong
	switch said.Kind {
	case "space":
		said.Kind = "stream"
	case "segment":
		said.Kind = "group"
	}
	if said.Name == "" {
		said.Rule = "must not be empty"
	}
	return &said
}

// body reads all of a request.
func (h *Handler) body(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	limit := h.cfg.MaxBodyBytes
	if r.ContentLength > limit {
		return nil, &runnel.TooLargeError{What: "request body", Limit: limit, Got: r.ContentLength}
	}
	var body []byte
	var err error
	if r.ContentLength >= 0 {
		body, err = readFull(r.Body, int(r.ContentLength))
	} else {
		body, err = io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	}
	if err != nil {
		if over, ok := errors.AsType[*http.MaxBytesError](err); ok {
			return nil, &runnel.TooLargeError{What: "request body", Limit: over.Limit}
		}
		return nil, &wire.Error{
			Status: http.StatusBadRequest,
			Detail: wire.Detail{Code: wire.CodeInvalidRequest, Message: "the request body broke off: " + err.Error()},
			Cause:  err,
		}
	}
	return body, nil
}

// trust is how much memory a body is given before anything of it has come, in bytes.
const trust = 64 << 10

// readFull reads a body of n bytes. Beyond trust it takes at most twice the memory of what has come.
func readFull(r io.Reader, n int) ([]byte, error) {
	body, have := make([]byte, min(n, trust)), 0
	for {
		more, err := io.ReadFull(r, body[have:])
		if have += more; err != nil || have == n {
			return body[:have], err
		}
		grown := make([]byte, min(n, 2*have))
		copy(grown, body)
		body = grown
	}
}

// fail answers an error.
func (h *Handler) fail(w http.ResponseWriter, r *http.Request, err error) {
	f := h.failure(r.Context(), err)
	for i := 0; i+1 < len(f.Headers); i += 2 {
		w.Header()[f.Headers[i]] = []string{f.Headers[i+1]}
	}
	if refused, ok := errors.AsType[*runnel.OperationsError](err); ok {
		f.Detail.Item = refused.Item.Key
		answer(w, r, http.StatusUnprocessableEntity, encode(struct {
			Error  wire.Detail `json:"error"`
			Errors []ops.Error `json:"errors"`
		}{f.Detail, failures(refused.Failed)}))
		return
	}
	answer(w, r, f.Status, encode(f.NewBody()))
}

func (h *Handler) failure(ctx context.Context, err error) *wire.Error {
	if known, ok := errors.AsType[*wire.Error](err); ok {
		return known
	}
	if errors.Is(err, context.DeadlineExceeded) {
		err = &runnel.UnavailableError{Reason: "the time for the request is over", RetryAfter: time.Second}
	}
	if moved, ok := errors.AsType[*runnel.ItemMovedError](err); ok {
		return &wire.Error{
			Status: http.StatusPreconditionFailed,
			Detail: wire.Detail{
				Code: wire.CodePrecondition, Message: strings.TrimPrefix(moved.Error(), "runnel: "),
				Field: "version", Have: strconv.FormatUint(uint64(moved.Have), 10), Want: wanted(moved), Item: moved.Item.Key,
			},
		}
	}
	if errors.Is(err, runnel.ErrKeyReused) {
		return &wire.Error{
			Status: http.StatusUnprocessableEntity,
			Detail: wire.Detail{Code: codeKeyReused, Message: "the idempotency key was used for another request"},
		}
	}
	f := wire.ErrorOf(err)
	if f.Detail.Code == wire.CodeNotFound {
		f.Detail.Message = "there is no such item or group"
	}
	if f.Status >= http.StatusInternalServerError && f.Cause != nil && ctx.Err() == nil {
		h.cfg.Logger.LogAttrs(ctx, slog.LevelError, "request for items failed",
			slog.String("code", string(f.Detail.Code)), slog.Any("error", f.Cause))
	}
	return f
}

// codeKeyReused: the idempotency key came with another request before.
const codeKeyReused wire.Code = "idempotency_key_reused"

func wanted(moved *runnel.ItemMovedError) string {
	if moved.Want == nil {
		return "*"
	}
	return strconv.FormatUint(uint64(*moved.Want), 10)
}

// answer writes a body of JSON.
func answer(w http.ResponseWriter, r *http.Request, status int, body []byte) {
	header := w.Header()
	header["Content-Type"] = jsonType
	header["Cache-Control"] = noStore
	header["X-Content-Type-Options"] = noSniff
	// The length of a body below 2 KiB is told by net/http, for less.
	if r.Method == http.MethodHead || len(body) >= 2<<10 {
		header["Content-Length"] = []string{strconv.Itoa(len(body))}
	}
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(body) // the reader has gone; there is nobody to tell
	}
}

var (
	jsonType = []string{"application/json"}
	noStore  = []string{"no-store"}
	noSniff  = []string{"nosniff"}
)

// encode returns v as JSON without the escapes that only HTML needs. V always has a JSON form.
func encode(v any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		panic(err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

// preflight lets the pages of allowed origins use the answers, and tells whether the request only asks so.
func (h *Handler) preflight(w http.ResponseWriter, r *http.Request) bool {
	origin := kept(r, "Origin")
	if origin == "" || upgrades(r) {
		return false
	}
	header := w.Header()
	header.Add("Vary", "Origin")
	if !h.allowed(origin) {
		return false
	}
	header.Set("Access-Control-Allow-Origin", origin)
	header.Set("Access-Control-Expose-Headers", "ETag, Item-Created, Item-Updated, Item-Expires, Retry-After")
	if r.Method != http.MethodOptions || r.Header.Get("Access-Control-Request-Method") == "" {
		return false
	}
	header.Set("Access-Control-Allow-Methods", "GET, HEAD, PUT, POST, PATCH, DELETE")
	header.Set("Access-Control-Allow-Headers", "Authorization, Content-Type, If-Match, If-None-Match, Idempotency-Key, Item-TTL, Item-TxID, Runnel-Store")
	header.Set("Access-Control-Max-Age", "600")
	_, _ = io.Copy(io.Discard, r.Body)
	w.WriteHeader(http.StatusNoContent)
	return true
}
