package chaos

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"
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

// server is a runnel process that is started again on the same data and address after each kill.
type server struct {
	t    testing.TB
	addr string
	data string
	args []string

	mu  sync.Mutex
	cmd *exec.Cmd
	log bytes.Buffer
}

func newServer(t testing.TB, args ...string) *server {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &server{t: t, addr: l.Addr().String(), data: t.TempDir(), args: args}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.kill)
	return s
}

func (s *server) url(path string) string { return "http://" + s.addr + path }

// start returns when the server is ready, and how long that took.
func (s *server) start() time.Duration {
	s.t.Helper()
	began := time.Now()
	s.mu.Lock()
	s.cmd = exec.Command(binary, append([]string{"serve", "--addr", s.addr, "--data", s.data}, s.args...)...)
	s.log.Reset()
	s.cmd.Stdout, s.cmd.Stderr = &s.log, &s.log
	err := s.cmd.Start()
	s.mu.Unlock()
	if err != nil {
		s.t.Fatal(err)
	}
	for time.Since(began) < 30*time.Second {
		if get(s.url("/readyz")) == http.StatusOK {
			return time.Since(began)
		}
		pause(2 * time.Millisecond)
	}
	s.kill()
	s.t.Fatalf("the server did not become ready:\n%s", s.log.String())
	return 0
}

// kill ends the process the hard way.
func (s *server) kill() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cmd == nil {
		return
	}
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
	s.cmd = nil
}

func get(url string) int {
	res, err := http.Get(url)
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
