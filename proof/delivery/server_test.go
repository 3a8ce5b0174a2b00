package delivery

import (
	"context"
	"errors"
	"iter"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/durablestreams"
	"github.com/runnelhq/runnel/engine"
	"github.com/runnelhq/runnel/storage"
	"github.com/runnelhq/runnel/storage/memory"
	"github.com/runnelhq/runnel/storage/pebblestore"
)

// log is an engine as the handler and readers in the same process use it.
type log interface {
	durablestreams.Log
	Tail(ctx context.Context, addr runnel.Segment, id uint64, from runnel.Sequence) iter.Seq2[runnel.Batch, error]
	Commit(ctx context.Context, space runnel.Space, writes ...runnel.Write) ([]runnel.Appended, error)
}

// server is a server that comes and goes.
type server struct {
	open    func() (storage.Driver, error)
	engine  engine.Config
	handler durablestreams.Config
	variant variant
	calm    <-chan struct{} // from then on, only the machine is slow

	generation atomic.Int64 // how often it was begun or ended

	mu      sync.Mutex
	address string // empty while it is down
	log     log    // nil while it is down
	driver  storage.Driver
	inner   *engine.Engine
	served  *durablestreams.Handler
	http    *http.Server
}

// newServer draws a server.
func newServer(r *rand.Rand, v variant, calm <-chan struct{}) *server {
	s := &server{variant: v, calm: calm}
	quiet := slog.New(slog.DiscardHandler)
	if r.IntN(2) == 0 {
		kept := new(memory.Driver)
		s.open = func() (storage.Driver, error) { return kept, nil }
	} else {
		fs := vfs.NewMem()
		s.open = func() (storage.Driver, error) {
			return pebblestore.Open("db", pebblestore.Config{FS: fs, CacheBytes: 4 << 20, MemTableBytes: 1 << 20, Logger: quiet})
		}
	}
	s.engine = engine.Config{SweepInterval: 50 * time.Millisecond, Logger: quiet}
	if r.IntN(2) == 0 {
		s.engine.TailCacheBytes = 64 << 10 // so that readers fall out of it
		s.engine.MaxSegments = 8
	}
	if r.IntN(2) == 0 {
		s.engine.MaxReadBytes = 2 << 20
	}
	s.handler = durablestreams.Config{
		LongPollTimeout: time.Minute,
		SSERotation:     -1,
		Heartbeat:       100 * time.Millisecond,
		ProgressTimeout: time.Duration(100+r.IntN(400)) * time.Millisecond,
		KeepConnections: r.IntN(4) == 0,
		NoRegistry:      true,
		Logger:          quiet,
	}
	if r.IntN(2) == 0 { // else a wake-up that is lost is not made up for
		s.handler.LongPollTimeout = 300 * time.Millisecond
		s.handler.SSERotation = 500 * time.Millisecond
	}
	if r.IntN(2) == 0 {
		s.handler.MaxReadBytes = 3 << 20
	}
	return s
}

// start begins to serve.
func (s *server) start() error {
	driver, err := s.open()
	if err != nil {
		return err
	}
	inner, err := engine.Open(watched{driver}, s.engine)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.driver, s.inner, s.log = driver, inner, inner
	if s.variant.log != nil {
		s.log = s.variant.log(inner)
	}
	s.served = durablestreams.New(s.log, s.handler)
	handler := s.served
	s.http = &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if m := markOf(r.Header.Get(headerMark)); m != nil {
				r = r.WithContext(context.WithValue(r.Context(), markKey{}, m))
			}
			handler.ServeHTTP(w, r)
		}),
		ReadHeaderTimeout: 5 * time.Second,
		ErrorLog:          slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
	}
	s.address = listener.Addr().String()
	server := s.http
	go func() { _ = server.Serve(smallBuffers{listener, s.calm}) }()
	s.generation.Add(1)
	return nil
}

// stop ends serving, with patience or without, and returns when no request can do anything any more.
func (s *server) stop(graceful bool) error {
	s.mu.Lock()
	s.address, s.log = "", nil
	s.mu.Unlock()
	s.generation.Add(1)
	if graceful {
		ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
		defer cancel()
		_ = s.served.Shutdown(ctx) // readers that are stuck are closed
		_ = s.http.Shutdown(ctx)
	}
	_ = s.served.Close()
	_ = s.http.Close()
	return errors.Join(s.inner.Close(), s.driver.Close())
}

// current returns the log; nil while the server is down.
func (s *server) current() log {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.log
}

var errDown = errors.New("the server is down")

func (s *server) dial(ctx context.Context) (net.Conn, error) {
	s.mu.Lock()
	address := s.address
	s.mu.Unlock()
	if address == "" {
		return nil, errDown
	}
	var d net.Dialer
	return d.DialContext(ctx, "tcp", address)
}

// smallBuffers gives connections little room, so that a slow reader is felt soon.
type smallBuffers struct {
	net.Listener
	calm <-chan struct{}
}

func (l smallBuffers) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if tcp, ok := c.(*net.TCPConn); ok && err == nil {
		_ = tcp.SetWriteBuffer(32 << 10)
		return patientConn{tcp, l.calm}, nil
	}
	return c, err
}

// patientConn is the server's end of a connection. Once networks are calm, a reader that has stood still for the
// short while that the server waits for one was kept waiting by the machine, which may do so any number of
// times: deadlines are then farther away.
type patientConn struct {
	*net.TCPConn
	calm <-chan struct{}
}

func (c patientConn) SetReadDeadline(t time.Time) error { return c.TCPConn.SetReadDeadline(c.later(t)) }
func (c patientConn) SetWriteDeadline(t time.Time) error {
	return c.TCPConn.SetWriteDeadline(c.later(t))
}

func (c patientConn) later(t time.Time) time.Time {
	select {
	case <-c.calm:
		if time.Until(t) > 0 { // else it is none, or ends what goes on
			return t.Add(time.Minute)
		}
	default:
	}
	return t
}

// mark tells whether the reads of one reader have come to storage.
type mark struct{ scanned atomic.Bool }

type markKey struct{}

// headerMark names the mark of the reader that sends a request.
const headerMark = "X-Delivery-Mark"

var marks sync.Map // by name

func markOf(name string) *mark {
	if m, ok := marks.Load(name); ok && name != "" {
		return m.(*mark)
	}
	return nil
}

// watched is a driver that notes who reads from it.
type watched struct{ storage.Driver }

func (w watched) Scan(ctx context.Context, p storage.Partition, r storage.Range) iter.Seq2[storage.Pair, error] {
	if m, ok := ctx.Value(markKey{}).(*mark); ok {
		m.scanned.Store(true)
	}
	return w.Driver.Scan(ctx, p, r)
}
