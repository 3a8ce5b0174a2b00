package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"syscall"
	"time"

	"github.com/alecthomas/kong"

	"github.com/runnelhq/runnel/auth"
	"github.com/runnelhq/runnel/durablestreams"
	"github.com/runnelhq/runnel/engine"
	"github.com/runnelhq/runnel/items"
	"github.com/runnelhq/runnel/seats"
	"github.com/runnelhq/runnel/session"
	"github.com/runnelhq/runnel/storage"
	"github.com/runnelhq/runnel/storage/memory"
	"github.com/runnelhq/runnel/storage/pebblestore"
	"github.com/runnelhq/runnel/webhook"
)

const (
	// A client that does not finish its request headers in this time is cut off.
	readHeaderTimeout = 10 * time.Second
	// A kept-alive connection without a request is closed after this time. It is longer than the idle
	// time-outs of common proxies, so that they, and not we, close first.
	idleTimeout    = 120 * time.Second
	maxHeaderBytes = 64 << 10
)

type serveCmd struct {
	Config          string        `help:"Read settings from this YAML file. Its keys are the names of these flags, without the dashes in front." env:"RUNNEL_CONFIG" placeholder:"FILE"`
	Addr            string        `help:"Listen on this host and port; port 0 takes a free one." default:"127.0.0.1:4437" env:"RUNNEL_ADDR" placeholder:"HOST:PORT"`
	Data            string        `help:"Keep the data in this directory, which is created where it is missing." default:"./data" env:"RUNNEL_DATA" placeholder:"DIR"`
	Driver          string        `help:"Keep the data with this driver: pebble (on disk) or memory (lost at the end)." default:"pebble" env:"RUNNEL_DRIVER" placeholder:"NAME"`
	LongPollTimeout time.Duration `help:"Answer a long-poll that found nothing after this time." default:"30s" env:"RUNNEL_LONG_POLL_TIMEOUT" placeholder:"TIME"`
	SSERotation     time.Duration `name:"sse-rotation" help:"End server-sent events after about this time, so that readers come back and spread; 0 is never." default:"1m" env:"RUNNEL_SSE_ROTATION" placeholder:"TIME"`
	Heartbeat       time.Duration `help:"Send a comment on server-sent events that were silent for this time; 0 is never." default:"15s" env:"RUNNEL_HEARTBEAT" placeholder:"TIME"`
	MaxBody         byteSize      `help:"Refuse request bodies larger than this." default:"64MiB" env:"RUNNEL_MAX_BODY" placeholder:"SIZE"`
	BlockCache      byteSize      `help:"Memory for blocks read from disk; the page cache of the system comes on top." default:"32MiB" env:"RUNNEL_BLOCK_CACHE" placeholder:"SIZE"`
	KeepFree        byteSize      `help:"Refuse writes that would leave less than this free on the disk of the data, so that it is never full; deletes and reads go on. 0 keeps nothing free." default:"256MiB" env:"RUNNEL_KEEP_FREE" placeholder:"SIZE"`
	Compress        bool          `help:"Compress what is on disk: about half the space for text, read back at about a third of the speed." env:"RUNNEL_COMPRESS"`
	TailCache       byteSize      `help:"Memory for the latest entries of all streams, from which live readers are served." default:"32MiB" env:"RUNNEL_TAIL_CACHE" placeholder:"SIZE"`
	DrainTimeout    time.Duration `help:"At the end, give requests under way this long to finish." default:"10s" env:"RUNNEL_DRAIN_TIMEOUT" placeholder:"TIME"`
	BaseURL         string        `name:"base-url" help:"The scheme and host that clients see, for Location; otherwise that of each request." env:"RUNNEL_BASE_URL" placeholder:"URL"`
	TrustForwarded  bool          `help:"Believe X-Forwarded-Proto, X-Forwarded-Host and the last address of X-Forwarded-For, behind a proxy that sets them." env:"RUNNEL_TRUST_FORWARDED"`
	AllowOrigin     []string      `help:"Let the pages of these origins only use the server from browsers, separated by commas; * is all. Otherwise, without tokens those of this machine, and with tokens or --open all." env:"RUNNEL_ALLOW_ORIGIN" placeholder:"ORIGIN"`
	Private         bool          `help:"Mark answers as private to the client, for caches that do not tell users apart." env:"RUNNEL_PRIVATE"`
	MaxSessions     int           `help:"Serve this many connections of the Go SDK at a time, and answer more with 503; 0 is any number." default:"10000" env:"RUNNEL_MAX_SESSIONS" placeholder:"N"`
	MaxSessionsEach int           `help:"Serve this many of them to one subject, and answer more with 429; 0 is any number." default:"1000" env:"RUNNEL_MAX_SESSIONS_EACH" placeholder:"N"`
	MaxLive         int           `help:"Serve this many live readers at a time, those of server-sent events, long-polls that wait and WebSockets of items together, and answer more with 503; 0 is any number." default:"100000" env:"RUNNEL_MAX_LIVE" placeholder:"N"`
	MaxLiveEach     int           `help:"Serve this many of them to one subject, and answer more with 429; 0 is any number." default:"10000" env:"RUNNEL_MAX_LIVE_EACH" placeholder:"N"`
	Webhook         webhookFlags  `embed:"" prefix:"webhook-"`
	Items           itemsFlags    `embed:"" prefix:"items-"`
	MaxSubs         int           `name:"max-subscriptions" help:"Refuse to make more subscriptions than this in a store." default:"100000" env:"RUNNEL_MAX_SUBSCRIPTIONS" placeholder:"N"`
	TLSCert         string        `name:"tls-cert" help:"Serve TLS with this certificate chain in PEM." env:"RUNNEL_TLS_CERT" placeholder:"FILE"`
	TLSKey          string        `name:"tls-key" help:"The private key of the certificate in PEM." env:"RUNNEL_TLS_KEY" placeholder:"FILE"`
	access
	LogFormat string `help:"Write the log as text or json." default:"text" env:"RUNNEL_LOG_FORMAT" placeholder:"FORMAT"`
	LogLevel  string `help:"Log from this level on: debug, info, warn or error." default:"info" env:"RUNNEL_LOG_LEVEL" placeholder:"LEVEL"`
}

func (*serveCmd) Help() string {
	return `A flag wins over its environment variable, that over the configuration file, and that over the default.

GET /healthz answers as long as the process does. GET /readyz answers 200 while requests are welcome and
503, with the reason, when the storage has failed or the server is on its way down. While writes are
refused because the disk is nearly full it answers 200 with the status "full": reads and deletes go on.
GET /metrics is for Prometheus: how far subscriptions and named readers are behind, and how webhooks do. Where
tokens are needed it takes one of runnel:read for all stores.

Who may do what is said by tokens: those of a file that "runnel token" keeps, and JWTs that you or an
identity provider sign. Without any of these everybody may do everything, which is refused where others
than this machine can connect, unless --open says that it is meant. The health checks need no token.

SIGTERM or an interrupt ends the server cleanly: live readers are told to come back, requests under way
finish, the storage is closed. A second one ends it at once, which loses nothing that was acknowledged.`
}

// BeforeResolve loads the configuration file, once flags and environment have said which one it is.
func (c *serveCmd) BeforeResolve(kctx *kong.Context) error {
	var known []string
	path := ""
	for _, flag := range kctx.Selected().Flags {
		if flag.Name == "config" {
			path, _ = kctx.FlagValue(flag).(string)
		} else {
			known = append(known, flag.Name)
		}
	}
	if path == "" {
		return nil
	}
	file, err := loadConfig(path, known)
	if err != nil {
		return err
	}
	kctx.AddResolver(file)
	return nil
}

// Validate checks what the types of the settings cannot. Every message begins with the key.
func (c *serveCmd) Validate() error {
	oneOf := func(key, value string, allowed ...string) error {
		if slices.Contains(allowed, value) {
			return nil
		}
		return fmt.Errorf("%s must be one of %q, got %q", key, allowed, value)
	}
	between := func(key string, value, least, most time.Duration) error {
		if value >= least && value <= most {
			return nil
		}
		return fmt.Errorf("%s must be between %s and %s, got %s", key, least, most, value)
	}
	errs := []error{
		oneOf("driver", c.Driver, "pebble", "memory"),
		oneOf("log-format", c.LogFormat, "text", "json"),
		oneOf("log-level", c.LogLevel, "debug", "info", "warn", "error"),
		between("long-poll-timeout", c.LongPollTimeout, time.Millisecond, 10*time.Minute),
		between("sse-rotation", c.SSERotation, 0, 24*time.Hour),
		between("heartbeat", c.Heartbeat, 0, time.Hour),
		between("drain-timeout", c.DrainTimeout, 0, time.Hour),
		c.Webhook.validate(),
		c.Items.validate(),
	}
	if _, _, err := net.SplitHostPort(c.Addr); err != nil {
		errs = append(errs, fmt.Errorf("addr must be a host and a port such as 127.0.0.1:4437, got %q", c.Addr))
	}
	for _, size := range []struct {
		key   string
		value byteSize
	}{{"max-body", c.MaxBody}, {"block-cache", c.BlockCache}, {"tail-cache", c.TailCache}} {
		if size.value < 1 {
			errs = append(errs, fmt.Errorf("%s must be at least 1 byte, got %d", size.key, size.value))
		}
	}
	for _, limit := range []struct {
		key   string
		value int
	}{
		{"max-sessions", c.MaxSessions}, {"max-sessions-each", c.MaxSessionsEach},
		{"max-live", c.MaxLive}, {"max-live-each", c.MaxLiveEach},
	} {
		if limit.value < 0 {
			errs = append(errs, fmt.Errorf("%s must not be negative, got %d", limit.key, limit.value))
		}
	}
	if c.MaxSubs < 1 {
		errs = append(errs, fmt.Errorf("max-subscriptions must be at least 1, got %d", c.MaxSubs))
	}
	if (c.TLSCert == "") != (c.TLSKey == "") {
		errs = append(errs, errors.New("tls-cert and tls-key must be given together"))
	}
	if c.Driver == "pebble" && c.Data == "" {
		errs = append(errs, errors.New("data must name a directory for the driver pebble"))
	}
	errs = append(errs, c.access.check())
	return errors.Join(errs...)
}

func (c *serveCmd) Run(ctx context.Context, std stdio) (err error) {
	// A log that nobody reads any more must not end the server.
	signal.Ignore(syscall.SIGPIPE)
	log := c.logger(std.err)
	collectLessOften()

	listener, err := c.listen(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = listener.Close() }() // again, unless something below fails before it serves
	if err := c.admitNobodyElse("addr", listener.Addr(), log); err != nil {
		return err
	}
	who, endAccess, err := c.access.start(c.TrustForwarded, log)
	if err != nil {
		return err
	}
	defer endAccess()

	itemsListener, err := c.listenItems(ctx)
	if err != nil {
		return err
	}
	if itemsListener != nil {
		defer func() { _ = itemsListener.Close() }()
		if err := c.admitNobodyElse("items-addr", itemsListener.Addr(), log); err != nil {
			return err
		}
	}

	driver, eng, closeLog, err := c.openLog(log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeLog()) }()

	if d, ok := driver.(*pebblestore.Driver); ok && runtime.GOMAXPROCS(0) == 1 {
		log.Info("GOMAXPROCS is raised from 1 to 2 while there are writes, so that waiting for the disk does not hold up everything else")
		runtime.GOMAXPROCS(2)
		defer inBackground(slots{writes: d.Writes, set: func(n int) { runtime.GOMAXPROCS(n) }}.run)()
	}

	subs, err := c.newSubscriptions(eng, who, log)
	if err != nil {
		return err
	}
	defer inBackground(subs.Run)()

	places := seats.New(seats.Config{What: "live connections", Max: c.MaxLive, MaxEach: c.MaxLiveEach})
	sessions, mounted := c.newSessions(eng, who, log)
	live, runTriggers, err := c.newItems(eng, who, places, holder(driver), log)
	if err != nil {
		return err
	}
	streams := c.newStreams(eng, subs, live, who, places, log)
	defer inBackground(runTriggers)()
	metrics, measure, err := newMetrics(eng, subs, who, log)
	if err != nil {
		return err
	}
	defer inBackground(measure)()
	pages := c.newPages()
	health := &health{failed: eng.Err, full: fullness(driver), log: log}
	server := newServer(health.before(pages.before(at(metricsPath, metrics, withItems(live, at(session.Path, mounted, streams))))), log)
	// Not ctx: a request outlives the signal, and is ended by the drain.
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	endItems := c.serveItems(server, itemsListener, health.before(pages.before(live)))
	defer endItems()

	if _, err := fmt.Fprintf(std.out, "runnel listening on %s (%s)\n", c.url(listener.Addr()), c.where()); err != nil {
		log.Warn("nobody reads standard output", "err", err)
	}
	select {
	case err := <-served:
		return fmt.Errorf("serve on %s: %w", listener.Addr(), err)
	case <-ctx.Done():
	}

	stopHere := exitAtOnce(log)
	defer stopHere()
	health.draining.Store(true)
	log.Info("draining", "timeout", c.DrainTimeout)
	err = c.drain(server, streams, sessions, live)
	if serveErr := <-served; !errors.Is(serveErr, http.ErrServerClosed) {
		err = errors.Join(err, serveErr)
	}
	if err == nil {
		log.Info("stopped")
	}
	return err
}

// openLog opens the storage and the log on it.
func (c *serveCmd) openLog(log *slog.Logger) (_ storage.Driver, _ *engine.Engine, closeAll func() error, err error) {
	history, err := c.Items.history()
	if err != nil {
		return nil, nil, nil, err
	}
	driver, err := c.openDriver(log)
	if err != nil {
		return nil, nil, nil, err
	}
	eng, err := engine.Open(driver, engine.Config{
		TailCacheBytes: int64(c.TailCache), ItemHistory: history, MaxSubscriptions: c.MaxSubs, Logger: log,
	})
	if err != nil {
		return nil, nil, nil, errors.Join(err, named("close the storage", driver.Close()))
	}
	return driver, eng, func() error {
		return errors.Join(named("close the log", eng.Close()), named("close the storage", driver.Close()))
	}, nil
}

func newServer(h http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: readHeaderTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		Protocols:         protocols(),
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}

// inBackground runs f until the returned function is called, which waits for its end.
func inBackground(f func(context.Context)) (end func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		f(ctx)
	}()
	return func() {
		cancel()
		<-done
	}
}

// at serves one path with one handler, and all others with another. It leaves paths as they are.
func at(path string, one, others http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == path {
			one.ServeHTTP(w, r)
			return
		}
		others.ServeHTTP(w, r)
	})
}

// drain ends live readers, waits for the other requests, and cuts off what is left at the time-out.
func (c *serveCmd) drain(server *http.Server, streams *durablestreams.Handler, sessions *session.Handler, live *items.Handler) error {
	ctx, cancel := context.WithTimeout(context.Background(), c.DrainTimeout)
	defer cancel()
	// The listener stays open meanwhile, so that whoever asks /readyz is told.
	err := errors.Join(sessions.Shutdown(ctx), live.Shutdown(ctx), streams.Shutdown(ctx))
	err = errors.Join(err, server.Shutdown(ctx))
	if err == nil {
		return nil
	}
	if closeErr := server.Close(); closeErr != nil {
		err = errors.Join(err, closeErr)
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("requests were cut off: they had not finished after the drain-timeout of %s", c.DrainTimeout)
	}
	return fmt.Errorf("drain: %w", err)
}

func (c *serveCmd) openDriver(log *slog.Logger) (storage.Driver, error) {
	if c.Driver == "memory" {
		return new(memory.Driver), nil
	}
	if err := makeDir(c.Data); err != nil {
		return nil, fmt.Errorf("data: %w", err)
	}
	driver, err := pebblestore.Open(c.Data, pebblestore.Config{
		CacheBytes: int64(c.BlockCache), Compress: c.Compress, KeepFreeBytes: offIfZero(int64(c.KeepFree)), Logger: log,
	})
	switch {
	case errors.Is(err, syscall.EAGAIN) || errors.Is(err, syscall.EACCES):
		// What a lock on a file answers that another process holds.
		return nil, fmt.Errorf("data: the directory %s is in use by another process: %w", c.Data, err)
	case err != nil:
		return nil, fmt.Errorf("data: %w", err)
	}
	return driver, nil
}

// fullness returns what tells why the driver takes no writes for lack of space.
func fullness(driver storage.Driver) func() error {
	gauge, ok := driver.(storage.Gauge)
	if !ok {
		return func() error { return nil }
	}
	return func() error { return gauge.Full(false) }
}

// makeDir makes a directory and those above it that are missing, so that they are still there after a power
// failure: what a server acknowledges would be lost with the directory it is in.
func makeDir(path string) error {
	path, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	switch info, err := os.Stat(path); {
	case err == nil && !info.IsDir():
		return fmt.Errorf("%s is not a directory", path)
	case err == nil:
		return nil
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	parent := filepath.Dir(path)
	if err := makeDir(parent); err != nil {
		return err
	}
	if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	above, err := os.Open(parent)
	if err != nil {
		return err
	}
	return errors.Join(above.Sync(), above.Close())
}

// named says what an error is about; nil stays nil.
func named(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}

// newStreams returns the handler of Durable Streams, behind a guard if there is anybody who says who asks. Whoever
// reads the stream of a group of items is a subscriber of it.
func (c *serveCmd) newStreams(eng *engine.Engine, subs *webhook.Subscriptions, live *items.Handler, who *auth.Authenticator, places *seats.Seats, log *slog.Logger) *durablestreams.Handler {
	cfg := c.streamsConfig(log)
	cfg.Subscriptions, cfg.Seats = subs, places
	cfg.Follow, cfg.ItemsNoStore = live.Follow, live.Asks()
	if who == nil {
		return durablestreams.New(eng, cfg)
	}
	cfg.Caller = auth.SubjectOf
	cfg.Admit, cfg.Bind, cfg.Own, cfg.Private = who.Admit, auth.BindRequest, eng, true
	return durablestreams.New(auth.NewGuard(eng), cfg)
}

// newSessions returns the handler of sessions, and the same behind whoever says who asks.
func (c *serveCmd) newSessions(eng *engine.Engine, who *auth.Authenticator, log *slog.Logger) (sessions *session.Handler, mounted http.Handler) {
	cfg := session.Config{
		MaxConnections: offIfZero(c.MaxSessions), MaxConnectionsEach: offIfZero(c.MaxSessionsEach),
		MaxMessageBytes: int64(c.MaxBody), AllowedOrigins: c.AllowOrigin, Logger: log,
	}
	if who == nil {
		sessions = session.NewHandler(eng, cfg)
		return sessions, sessions
	}
	cfg.Caller, cfg.Bind = auth.SubjectOf, auth.BindPrincipal
	sessions = session.NewHandler(auth.NewGuard(eng), cfg)
	return sessions, who.Before(sessions)
}

func (c *serveCmd) streamsConfig(log *slog.Logger) durablestreams.Config {
	return durablestreams.Config{
		Store:           auth.Store,
		BaseURL:         c.BaseURL,
		TrustForwarded:  c.TrustForwarded,
		LongPollTimeout: c.LongPollTimeout,
		SSERotation:     offIfZero(c.SSERotation),
		Heartbeat:       offIfZero(c.Heartbeat),
		MaxBodyBytes:    int64(c.MaxBody),
		AllowedOrigins:  c.AllowOrigin,
		Private:         c.Private,
		Logger:          log,
	}
}

// offIfZero translates a setting, where 0 is "never", into a Config, where 0 is the default.
func offIfZero[T ~int | ~int64](setting T) T {
	if setting == 0 {
		return -1
	}
	return setting
}

func (c *serveCmd) listen(ctx context.Context) (net.Listener, error) {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", c.Addr)
	if err != nil {
		return nil, fmt.Errorf("addr: %w", err)
	}
	return c.secure(listener)
}

// secure puts TLS before a listener, if there is a certificate.
func (c *serveCmd) secure(listener net.Listener) (net.Listener, error) {
	if c.TLSCert == "" {
		return listener, nil
	}
	certificate, err := tls.LoadX509KeyPair(c.TLSCert, c.TLSKey)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("tls-cert: %w", err), listener.Close())
	}
	return tls.NewListener(listener, &tls.Config{
		Certificates: []tls.Certificate{certificate},
		NextProtos:   []string{"h2", "http/1.1"},
		MinVersion:   tls.VersionTLS12,
	}), nil
}

// protocols are HTTP/1.1 and HTTP/2, the latter also without TLS for proxies that speak it.
func protocols() *http.Protocols {
	p := new(http.Protocols)
	p.SetHTTP1(true)
	p.SetHTTP2(true)
	p.SetUnencryptedHTTP2(true)
	return p
}

func (c *serveCmd) logger(w io.Writer) *slog.Logger {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.LogLevel)); err != nil {
		panic(err) // Validate has let through a level that slog does not know
	}
	opts := &slog.HandlerOptions{Level: level}
	if c.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(w, opts))
	}
	return slog.New(slog.NewTextHandler(w, opts))
}

func (c *serveCmd) where() string {
	if c.Driver == "memory" {
		return "in memory"
	}
	return "data in " + c.Data
}

// url is where a client on this machine finds the streams.
func (c *serveCmd) url(addr net.Addr) string {
	scheme := "http"
	if c.TLSCert != "" {
		scheme = "https"
	}
	host, _, err := net.SplitHostPort(c.Addr)
	if err != nil || net.ParseIP(host).IsUnspecified() {
		host = ""
	}
	_, port, _ := net.SplitHostPort(addr.String())
	return scheme + "://" + net.JoinHostPort(cmp.Or(host, "localhost"), port) + "/v1/stream"
}

// collectLessOften lets the heap triple between collections instead of double, unless GOGC says what is
// wanted. Requests leave much garbage on a small heap, and with the default a collection is always near.
func collectLessOften() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(200)
	}
}

// exitAtOnce makes the next signal end the process. The returned function undoes that.
func exitAtOnce(log *slog.Logger) (undo func()) {
	again := make(chan os.Signal, 1)
	signal.Notify(again, os.Interrupt, syscall.SIGTERM)
	done := make(chan struct{})
	go func() {
		select {
		case s := <-again:
			log.Warn("stopped at once, by a second signal", "signal", s.String())
			os.Exit(exitFailure)
		case <-done:
		}
	}()
	return func() {
		signal.Stop(again)
		close(done)
	}
}
