package durablestreams_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/durablestreams"
	"github.com/runnelhq/runnel/engine"
	"github.com/runnelhq/runnel/storage/memory"
	"github.com/runnelhq/runnel/wire"
)

// server is the whole stack, from the client's connection down to a driver in memory.
type server struct {
	t       testing.TB
	url     string // of the host, without a path
	log     *engine.Engine
	handler *durablestreams.Handler
	client  *http.Client
	dial    func() (net.Conn, error)
}

// serve starts a server on a real connection.
func serve(t testing.TB, cfg durablestreams.Config) *server {
	t.Helper()
	return serveLog(t, cfg, nil)
}

// serveLog starts a server over a log that may wrap the engine.
func serveLog(t testing.TB, cfg durablestreams.Config, wrap func(durablestreams.Log) durablestreams.Log) *server {
	t.Helper()
	log, handler := open(t, cfg, wrap)
	host := httptest.NewUnstartedServer(handler)
	host.Config.Protocols = new(http.Protocols)
	host.Config.Protocols.SetHTTP1(true)
	host.Config.Protocols.SetUnencryptedHTTP2(true)
	host.Start()
	t.Cleanup(host.Close)
	t.Cleanup(func() { _ = handler.Close() })
	s := &server{t: t, url: host.URL, log: log, handler: handler, client: host.Client()}
	s.dial = func() (net.Conn, error) {
		return new(net.Dialer).DialContext(t.Context(), "tcp", host.Listener.Addr().String())
	}
	return s
}

func open(t testing.TB, cfg durablestreams.Config, wrap func(durablestreams.Log) durablestreams.Log) (*engine.Engine, *durablestreams.Handler) {
	t.Helper()
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	log, err := engine.Open(new(memory.Driver), engine.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = log.Close() })
	var l durablestreams.Log = log
	if wrap != nil {
		l = wrap(log)
	}
	return log, durablestreams.New(l, cfg)
}

// serveInBubble starts a server on pipes, for tests inside a synctest bubble. The caller must run the
// result's stop before the bubble ends.
func serveInBubble(t testing.TB, cfg durablestreams.Config) (s *server, stop func()) {
	t.Helper()
	return serveLogInBubble(t, cfg, nil)
}

func serveLogInBubble(t testing.TB, cfg durablestreams.Config, wrap func(*engine.Engine, *durablestreams.Config) durablestreams.Log) (s *server, stop func()) {
	t.Helper()
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	log, err := engine.Open(new(memory.Driver), engine.Config{})
	if err != nil {
		t.Fatal(err)
	}
	var l durablestreams.Log = log
	if wrap != nil {
		l = wrap(log, &cfg)
	}
	handler := durablestreams.New(l, cfg)
	listener := &pipeListener{conns: make(chan net.Conn), done: make(chan struct{})}
	host := &http.Server{Handler: handler, ReadHeaderTimeout: time.Minute}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = host.Serve(listener)
	}()
	transport := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
		conn, err := listener.dial()
		return patientConn{conn}, err
	}}
	s = &server{t: t, url: "http://pipe", log: log, handler: handler, client: &http.Client{Transport: transport}, dial: listener.dial}
	return s, func() {
		transport.CloseIdleConnections()
		_ = handler.Close()
		_ = host.Close()
		<-served
		_ = log.Close()
	}
}

// patientConn lets a client that is still sending read the answer that the server gave before it closed
// the connection. A socket does so by itself; a pipe fails the write, and the answer is lost.
type patientConn struct{ net.Conn }

func (c patientConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	if errors.Is(err, io.ErrClosedPipe) {
		return len(p), nil
	}
	return n, err
}

// pipeListener makes connections that live inside the process, which is what a bubble needs.
type pipeListener struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func (l *pipeListener) dial() (net.Conn, error) {
	here, there := net.Pipe()
	select {
	case l.conns <- there:
		return here, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

func (l *pipeListener) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "pipe"} }

// answer is a whole response.
type answer struct {
	t      testing.TB
	what   string
	status int
	header http.Header
	body   string
}

// do sends a request. A path without a leading slash is the name of a stream. Headers are names and
// values in turn.
func (s *server) do(method, path, body string, headers ...string) *answer {
	s.t.Helper()
	return s.doReader(method, path, strings.NewReader(body), headers...)
}

func (s *server) doReader(method, path string, body io.Reader, headers ...string) *answer {
	s.t.Helper()
	a, err := s.try(method, path, body, headers...)
	if err != nil {
		s.t.Fatalf("%s %s: %v", method, path, err)
	}
	return a
}

func (s *server) try(method, path string, body io.Reader, headers ...string) (*answer, error) {
	resp, err := s.start(s.t.Context(), method, path, body, headers...)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	return &answer{t: s.t, what: method + " " + path, status: resp.StatusCode, header: resp.Header, body: string(b)}, nil
}

// start sends a request and returns when the head of the response is there.
func (s *server) start(ctx context.Context, method, path string, body io.Reader, headers ...string) (*http.Response, error) {
	if !strings.HasPrefix(path, "/") {
		path = durablestreams.DefaultPrefix + path
	}
	req, err := http.NewRequestWithContext(ctx, method, s.url+path, body)
	if err != nil {
		return nil, err
	}
	for i := 0; i < len(headers); i += 2 {
		if headers[i] == "Host" {
			req.Host = headers[i+1]
			continue
		}
		req.Header.Add(headers[i], headers[i+1])
	}
	return s.client.Do(req)
}

func (s *server) put(path, contentType, body string, headers ...string) *answer {
	s.t.Helper()
	if contentType != "" {
		headers = append([]string{"Content-Type", contentType}, headers...)
	}
	return s.do("PUT", path, body, headers...)
}

func (s *server) post(path, contentType, body string, headers ...string) *answer {
	s.t.Helper()
	if contentType != "" {
		headers = append([]string{"Content-Type", contentType}, headers...)
	}
	return s.do("POST", path, body, headers...)
}

func (s *server) get(path string, headers ...string) *answer {
	s.t.Helper()
	return s.do("GET", path, "", headers...)
}

func (s *server) head(path string, headers ...string) *answer {
	s.t.Helper()
	return s.do("HEAD", path, "", headers...)
}

// want checks the status, and headers given as names and values in turn. The value "-" means that the
// header must not be there, and "+" that it must, with any value.
func (a *answer) want(status int, headers ...string) *answer {
	a.t.Helper()
	if a.status != status {
		a.t.Errorf("%s: status %d, want %d; body %.300q", a.what, a.status, status, a.body)
	}
	for i := 0; i < len(headers); i += 2 {
		name, want := headers[i], headers[i+1]
		got, there := a.header.Get(name), len(a.header.Values(name)) > 0
		switch {
		case want == "-" && there:
			a.t.Errorf("%s: has %s: %q", a.what, name, got)
		case want == "+" && !there:
			a.t.Errorf("%s: has no %s", a.what, name)
		case want != "-" && want != "+" && got != want:
			a.t.Errorf("%s: %s is %q, want %q", a.what, name, got, want)
		}
	}
	return a
}

func (a *answer) wantBody(want string) *answer {
	a.t.Helper()
	if a.body != want {
		a.t.Errorf("%s: body %.300q, want %.300q", a.what, a.body, want)
	}
	return a
}

// wantError checks status and code, and that the body has the one shape of errors.
func (a *answer) wantError(status int, code wire.Code, headers ...string) wire.Detail {
	a.t.Helper()
	a.want(status, headers...)
	a.want(status, "Content-Type", "application/json", "Cache-Control", "no-store", "X-Content-Type-Options", "nosniff")
	var body wire.Body
	d := json.NewDecoder(strings.NewReader(a.body))
	d.DisallowUnknownFields()
	if err := d.Decode(&body); err != nil {
		a.t.Fatalf("%s: body %.300q: %v", a.what, a.body, err)
	}
	if body.Error.Code != code || body.Error.Message == "" {
		a.t.Errorf("%s: error %+v, want the code %s and a message", a.what, body.Error, code)
	}
	return body.Error
}

func (a *answer) next() string { return a.header.Get("Stream-Next-Offset") }

// offset is the token of the place after n entries.
func offset(n int) string { return runnel.Sequence(n).Offset() }

// event is one server-sent event, parsed as the standard for them says.
type event struct {
	name, data, id string
}

// events reads a live response.
type events struct {
	t       testing.TB
	resp    *http.Response
	lines   *bufio.Reader
	cancel  context.CancelFunc
	comment int
}

// live opens an SSE response.
func (s *server) live(path string, headers ...string) *events {
	s.t.Helper()
	ctx, cancel := context.WithCancel(s.t.Context())
	resp, err := s.start(ctx, "GET", path, nil, headers...) //nolint:bodyclose // events.close does
	if err != nil {
		s.t.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK {
		b, _ := io.ReadAll(resp.Body)
		s.t.Fatalf("GET %s: status %d: %s", path, resp.StatusCode, b)
	}
	e := &events{t: s.t, resp: resp, lines: bufio.NewReader(resp.Body), cancel: cancel}
	s.t.Cleanup(e.close)
	return e
}

func (e *events) close() {
	e.cancel()
	e.resp.Body.Close()
}

// next returns the next event, or io.EOF when the response has ended properly.
func (e *events) next() (event, error) {
	var ev event
	var data []string
	for {
		line, err := e.lines.ReadString('\n')
		if err != nil {
			if errors.Is(err, io.EOF) && line != "" {
				return ev, io.ErrUnexpectedEOF
			}
			return ev, err
		}
		line = strings.TrimSuffix(line, "\n")
		if strings.Contains(line, "\r") {
			e.t.Errorf("a line of the events holds a carriage return: %q", line)
		}
		field, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch {
		case line == "":
			if ev.name != "" {
				ev.data = strings.Join(data, "\n")
				return ev, nil
			}
		case field == "":
			e.comment++
		case field == "event":
			ev.name = value
		case field == "data":
			data = append(data, value)
		case field == "id":
			ev.id = value
		}
	}
}

// control is the content of a control event.
type control struct {
	StreamNextOffset string `json:"streamNextOffset"`
	StreamCursor     string `json:"streamCursor"`
	UpToDate         bool   `json:"upToDate"`
	StreamClosed     bool   `json:"streamClosed"`
}

// pair returns the next data event and its control event, or a control event without data.
func (e *events) pair() (data string, has bool, c control) {
	e.t.Helper()
	ev, err := e.next()
	if err == nil && ev.name == "data" {
		data, has = ev.data, true
		ev, err = e.next()
	}
	if err != nil {
		e.t.Fatalf("reading events: %v", err)
	}
	if ev.name != "control" {
		e.t.Fatalf("got the event %+v, want a control event", ev)
	}
	d := json.NewDecoder(strings.NewReader(ev.data))
	d.DisallowUnknownFields()
	if err := d.Decode(&c); err != nil {
		e.t.Fatalf("control event %q: %v", ev.data, err)
	}
	wantID := c.StreamNextOffset
	if c.StreamClosed {
		wantID += ":closed"
	}
	if ev.id != wantID {
		e.t.Errorf("control event has the id %q, want %q", ev.id, wantID)
	}
	return data, has, c
}

// wantEnd checks that the response ends properly, without another event.
func (e *events) wantEnd() {
	e.t.Helper()
	if ev, err := e.next(); !errors.Is(err, io.EOF) {
		e.t.Fatalf("got %+v, %v, want the end of the response", ev, err)
	}
}

// chunked hides the length of a body, so that it is sent in chunks.
func chunked(body string) io.Reader { return struct{ io.Reader }{bytes.NewReader([]byte(body))} }

// mustURL puts a path behind a host without cleaning it.
func mustURL(host, path string) *url.URL {
	u, err := url.Parse(host)
	if err != nil {
		panic(err)
	}
	u.Opaque = "//" + u.Host + path
	return u
}

// useHTTP2 makes the client speak HTTP/2 without TLS.
func (s *server) useHTTP2() {
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	transport := &http.Transport{Protocols: protocols}
	s.t.Cleanup(transport.CloseIdleConnections)
	s.client = &http.Client{Transport: transport}
}
