package chaos

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/runnelhq/runnel/proof/patience"
)

var binary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "runnel-chaos-")
	if err != nil {
		panic(err)
	}
	binary = filepath.Join(dir, "runnel")
	build := exec.Command("go", "build", "-o", binary, "github.com/runnelhq/runnel/cmd/runnel")
	build.Stdout, build.Stderr = os.Stderr, os.Stderr
	if err := build.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "building runnel:", err)
		os.Exit(1)
	}
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// server is a runnel process that is started again on the same data and address after each kill. Its
// directory, with the data and the log of all its lives, is kept if the test fails.
type server struct {
	t    testing.TB
	addr string
	dir  string
	data string
	args []string

	mu  sync.Mutex
	cmd *exec.Cmd
	log *os.File

	kills, freezes atomic.Int64
}

func newServer(t testing.TB, args ...string) *server {
	t.Helper()
	dir, err := os.MkdirTemp("", "runnel-chaos-data-") //nolint:usetesting // it outlives a test that fails
	if err != nil {
		t.Fatal(err)
	}
	s := &server{t: t, addr: freeAddress(t), dir: dir, data: filepath.Join(dir, "data"), args: args}
	if s.log, err = os.Create(filepath.Join(dir, "log")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.end)
	return s
}

// freeAddress returns an address whose port is not one that the system gives to connections: while the
// server is down, nobody else may come to have it.
func freeAddress(t testing.TB) string {
	t.Helper()
	var last error
	for range 100 {
		addr := fmt.Sprintf("127.0.0.1:%d", 10000+rand.IntN(20000))
		l, err := net.Listen("tcp", addr)
		if err != nil {
			last = err
			continue
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		return addr
	}
	t.Fatalf("no port is free: %v", last)
	return ""
}

// end is the end of the test.
func (s *server) end() {
	s.kill()
	_ = s.log.Close()
	if !s.t.Failed() {
		_ = os.RemoveAll(s.dir)
		return
	}
	s.t.Logf("the data and the log of the server are kept in %s; the end of the log is\n%s", s.dir, s.output())
}

// output returns the end of what the server has logged in all its lives.
func (s *server) output() string {
	const most = 8 << 10
	b, err := os.ReadFile(s.log.Name())
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-most):])
}

func (s *server) url(path string) string { return "http://" + s.addr + path }

// start returns when the server is ready, and how long that took.
func (s *server) start() time.Duration {
	s.t.Helper()
	began := time.Now()
	s.launch()
	for left := patience.For(30 * time.Second); left.Wait(0); {
		if s.ready() {
			return time.Since(began)
		}
	}
	s.kill()
	s.t.Fatalf("the server did not become ready:\n%s", s.output())
	return 0
}

// launch starts the process and does not wait for it.
func (s *server) launch() {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cmd = exec.Command(binary, append([]string{"serve", "--addr", s.addr, "--data", s.data}, s.args...)...)
	s.cmd.Stdout, s.cmd.Stderr = s.log, s.log
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
}

func (s *server) ready() bool { return get(s.url("/readyz")) == http.StatusOK }

// kill ends the process the hard way, frozen or not.
func (s *server) kill() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cmd == nil {
		return
	}
	s.kills.Add(1)
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
	s.cmd = nil
}

// freeze stops the process where it is: it does nothing, and its connections stay.
func (s *server) freeze() {
	s.t.Helper()
	s.freezes.Add(1)
	s.signal(sigStop)
}

// thaw lets a frozen process go on.
func (s *server) thaw() {
	s.t.Helper()
	s.signal(sigContinue)
}

func (s *server) signal(sig os.Signal) {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.cmd.Process.Signal(sig); err != nil {
		s.t.Fatalf("%v: %v", sig, err)
	}
}

// get returns the status of a GET, 0 if there is no answer.
func get(url string) int {
	client := http.Client{Timeout: 5 * time.Second}
	res, err := client.Get(url)
	if err != nil {
		return 0
	}
	_, _ = io.Copy(io.Discard, res.Body)
	_ = res.Body.Close()
	return res.StatusCode
}

// pause waits in real time: another process is being waited for.
func pause(d time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	<-ctx.Done()
}
