package durablestreams

import (
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/wire"
)

// create answers PUT: it creates a stream, or a fork of one, or finds that it exists already. Source:
// PROTOCOL.md, sections 4.2 and 5.1.
func (h *Handler) create(w http.ResponseWriter, r *http.Request, seg runnel.Segment) error {
	o := runnel.CreateOptions{Closed: closes(r.Header)}
	var err error
	if o.ContentType, _, err = single(r.Header, wire.HeaderContentType); err != nil {
		return err
	}
	if o.ContentType != "" {
		if err := checkContentType(o.ContentType); err != nil {
			return err
		}
	}
	if err := setLifetime(&o, r.Header); err != nil {
		return err
	}
	if o.Fork, err = h.forkOf(r, seg.Store); err != nil {
		return err
	}
	if o.Fork != nil {
		if err := h.mayFork(r, o.Fork.Source); err != nil {
			return err
		}
	}
	createOnly, err := onlyIfNew(r.Header)
	if err != nil {
		return err
	}
	b, err := h.receive(w, r)
	if err != nil {
		return err
	}
	defer h.release(b)
	if len(b.bytes) > 0 {
		contentType := o.ContentType
		if contentType == "" && o.Fork != nil {
			source, err := h.log.Stat(r.Context(), o.Fork.Source)
			if err != nil {
				return explainCreate(err, false)
			}
			contentType = source.ContentType
		}
		if contentType == "" {
			contentType = "application/octet-stream"
		}
		if err := h.split(b, contentType, false); err != nil {
			return err
		}
		o.Records = b.records
	}
	created, err := h.log.Create(r.Context(), seg, o)
	if err != nil {
		return explainCreate(err, createOnly)
	}
	if created.Existed && createOnly {
		return alreadyExists(created.Tail)
	}

	header := w.Header()
	v := new(values)
	v.setOffset(header, created.Tail)
	header[wire.HeaderContentType] = []string{created.ContentType}
	header[headerContentLength] = valueZero
	if created.Closed {
		header[wire.HeaderClosed] = valueTrue
	}
	if created.Existed {
		w.WriteHeader(http.StatusOK)
		return nil
	}
	header[wire.HeaderLocation] = []string{h.location(r)}
	w.WriteHeader(http.StatusCreated)
	return nil
}

// setLifetime reads how long the stream, and what is in it, is kept, and whether that makes items.
func setLifetime(o *runnel.CreateOptions, header http.Header) error {
	ttl, hasTTL, err := single(header, wire.HeaderTTL)
	if err != nil {
		return err
	}
	if hasTTL {
		n, err := parseInteger("Stream-TTL", ttl, maxSeconds)
		if err != nil {
			return err
		}
		o.TTL, o.HasTTL = time.Duration(n)*time.Second, true
	}
	expires, hasExpires, err := single(header, wire.HeaderExpiresAt)
	if err != nil {
		return err
	}
	if hasExpires {
		if o.ExpiresAt, err = parseTime(wire.HeaderExpiresAt, expires); err != nil {
			return err
		}
	}
	if hasTTL && hasExpires {
		return wire.Invalid(wire.CodeInvalidRequest, "Stream-TTL and Stream-Expires-At exclude each other")
	}
	for _, bound := range [...]struct {
		name string
		most uint64
		set  func(uint64)
	}{
		{wire.HeaderRetentionAge, maxSeconds, func(n uint64) { o.Retention.Age = time.Duration(n) * time.Second }},
		{wire.HeaderRetentionBytes, maxInteger, func(n uint64) { o.Retention.Bytes = n }},
		{wire.HeaderRetentionCount, maxInteger, func(n uint64) { o.Retention.Entries = n }},
	} {
		value, given, err := single(header, bound.name)
		if err != nil {
			return err
		}
		if !given {
			continue
		}
		n, err := parseInteger(bound.name, value, bound.most)
		if err != nil {
			return err
		}
		bound.set(n)
	}
	items, given, err := single(header, wire.HeaderItems)
	if err != nil {
		return err
	}
	if o.Items = strings.EqualFold(items, "true"); given && !o.Items {
		return wire.Invalid(wire.CodeInvalidRequest, "Stream-Items must be true")
	}
	return nil
}

// forkOf reads what the stream forks from, nil if from nothing.
func (h *Handler) forkOf(r *http.Request, store runnel.Store) (*runnel.ForkFrom, error) {
	from, hasFrom, err := single(r.Header, wire.HeaderForkedFrom)
	if err != nil {
		return nil, err
	}
	offset, hasOffset, err := single(r.Header, wire.HeaderForkOffset)
	if err != nil {
		return nil, err
	}
	sub, hasSub, err := single(r.Header, wire.HeaderForkSubOffset)
	if err != nil {
		return nil, err
	}
	if !hasFrom {
		if hasOffset || hasSub {
			return nil, wire.Invalid(wire.CodeInvalidRequest, "Stream-Fork-Offset and Stream-Fork-Sub-Offset need Stream-Forked-From")
		}
		return nil, nil
	}
	fork := &runnel.ForkFrom{Latest: true}
	if fork.Source, err = h.parseSource(r, store, from); err != nil {
		return nil, err
	}
	if hasOffset {
		p, err := parsePlace(offset)
		if err != nil {
			return nil, err
		}
		fork.Latest = p.now
		fork.At = p.after
	}
	if hasSub {
		if fork.Sub, err = parseInteger(wire.HeaderForkSubOffset, sub, maxInteger); err != nil {
			return nil, err
		}
		if fork.Sub > 0 && fork.Latest {
			return nil, wire.Invalid(wire.CodeInvalidRequest, "Stream-Fork-Sub-Offset needs a Stream-Fork-Offset that is an offset")
		}
	}
	return fork, nil
}

// parseSource reads the stream that is forked: the path of its URL, its whole URL, or its path below the
// prefix. A URL of another host is refused, because nothing is forked across servers.
func (h *Handler) parseSource(r *http.Request, store runnel.Store, from string) (runnel.Segment, error) {
	u, err := url.Parse(from)
	if err != nil || u.Opaque != "" || u.RawQuery != "" || u.Fragment != "" || u.Path == "" {
		return runnel.Segment{}, wire.Invalid(wire.CodeInvalidRequest, "Stream-Forked-From must be the path of a stream's URL, not "+shown(from))
	}
	if u.Host != "" && !strings.EqualFold(u.Host, r.Host) && !h.isBase(u) {
		return runnel.Segment{}, wire.Invalid(wire.CodeInvalidRequest, "Stream-Forked-From must be a stream of this server, not of "+shown(u.Host))
	}
	path, ok := strings.CutPrefix(u.Path, h.cfg.Prefix)
	if !ok {
		path = strings.TrimPrefix(u.Path, "/")
	}
	return runnel.ParsePath(store, path)
}

// isBase tells whether a URL is on the host that Location shows.
func (h *Handler) isBase(u *url.URL) bool {
	base, err := url.Parse(h.cfg.BaseURL)
	return err == nil && base.Host != "" && strings.EqualFold(base.Host, u.Host)
}

// onlyIfNew reads If-None-Match, of which PUT knows the star: the stream must not exist.
func onlyIfNew(header http.Header) (bool, error) {
	if len(header[wire.HeaderIfMatch]) > 0 {
		return false, wire.Invalid(wire.CodeInvalidRequest, "If-Match is not supported on PUT")
	}
	switch v := header[wire.HeaderIfNoneMatch]; {
	case len(v) == 0:
		return false, nil
	case len(v) == 1 && strings.TrimSpace(v[0]) == "*":
		return true, nil
	}
	return false, wire.Invalid(wire.CodeInvalidRequest, "If-None-Match on PUT must be a star")
}

// location is the URL of the request as the outside sees it.
func (h *Handler) location(r *http.Request) string {
	if h.cfg.BaseURL != "" {
		return strings.TrimSuffix(h.cfg.BaseURL, "/") + r.URL.EscapedPath()
	}
	scheme, host := "http", r.Host
	if r.TLS != nil {
		scheme = "https"
	}
	if h.cfg.TrustForwarded {
		if s := forwarded(r, "X-Forwarded-Proto"); s == "http" || s == "https" {
			scheme = s
		}
		if s := forwarded(r, "X-Forwarded-Host"); s != "" {
			host = s
		}
	}
	if host == "" { // HTTP/1.0 may leave it out, and a path alone is relative to what the client asked
		return r.URL.EscapedPath()
	}
	return scheme + "://" + host + r.URL.EscapedPath()
}

// forwarded is what the first of the proxies on the way said.
func forwarded(r *http.Request, name string) string {
	first, _, _ := strings.Cut(r.Header.Get(name), ",")
	return strings.TrimSpace(first)
}

// explainCreate answers a creation that was refused. A name, or a source, that is held back for forks is
// a conflict here, where elsewhere it is gone.
func explainCreate(err error, createOnly bool) error {
	switch {
	case errors.Is(err, runnel.ErrSoftDeleted):
		f := wire.ErrorOf(err)
		f.Status = http.StatusConflict
		return f
	case createOnly && errors.Is(err, runnel.ErrExists):
		return alreadyExists(0)
	}
	return err
}

func alreadyExists(tail runnel.Sequence) error {
	f := &wire.Error{
		Status: http.StatusPreconditionFailed,
		Detail: wire.Detail{Code: wire.CodePrecondition, Message: "If-None-Match: * needs a new stream, and this one exists"},
	}
	if tail > 0 {
		f.Detail.NextOffset = tail.Offset()
		f.Headers = []string{wire.HeaderNextOffset, f.Detail.NextOffset}
	}
	return f
}
