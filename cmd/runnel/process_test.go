package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// binary is the program under test, built once.
var binary string

func TestMain(m *testing.M) {
	if addr := os.Getenv(envHandler); addr != "" {
		fmt.Fprintln(os.Stderr, runHandler(addr))
		os.Exit(1)
	}
	code, err := func() (int, error) {
		dir, err := os.MkdirTemp("", "runnel-test-")
		if err != nil {
			return 0, err
		}
		defer func() { _ = os.RemoveAll(dir) }()
		binary = filepath.Join(dir, "runnel")
		if out, err := exec.Command("go", "build", "-o", binary, ".").CombinedOutput(); err != nil {
			return 0, fmt.Errorf("go build: %w\n%s", err, out)
		}
		return m.Run(), nil
	}()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// within is how long anything may take that should take no time.
const within = 20 * time.Second

// buffer is a bytes.Buffer for two goroutines.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// command prepares a process that has no settings from the environment of the test and ends with it.
func command(t *testing.T, env []string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), binary, args...)
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, "RUNNEL_") && !strings.HasPrefix(e, "STREAM_") && !strings.HasPrefix(e, "GOMAXPROCS=") {
			cmd.Env = append(cmd.Env, e)
		}
	}
	cmd.Env = append(cmd.Env, env...)
	return cmd
}

// server is a running "runnel serve".
type server struct {
	t      *testing.T
	cmd    *exec.Cmd
	stderr *buffer
	line   string // the line that says where it listens
	url    string // without the path
	exited chan struct{}
}

// serve starts a server on a free port and waits until it listens.
func serve(t *testing.T, env []string, args ...string) *server {
	t.Helper()
	s := &server{t: t, cmd: command(t, env, append([]string{"serve"}, args...)...), stderr: new(buffer), exited: make(chan struct{})}
	s.cmd.Stderr = s.stderr
	stdout, err := s.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := make(chan string, 1)
	go func() {
		line, _ := bufio.NewReader(stdout).ReadString('\n')
		lines <- line
		_, _ = io.Copy(io.Discard, stdout)
		_ = s.cmd.Wait()
		close(s.exited)
	}()
	t.Cleanup(s.kill)
	select {
	case s.line = <-lines:
	case <-time.After(within):
	}
	_, rest, ok := strings.Cut(s.line, "://")
	if !ok {
		t.Fatalf("the server printed %q instead of its URL\n%s", s.line, s.stderr)
	}
	host, _, _ := strings.Cut(rest, "/")
	scheme, _, _ := strings.Cut(s.line[strings.Index(s.line, "http"):], ":")
	s.url = scheme + "://" + host
	return s
}

// inMemory starts a server that keeps nothing.
func inMemory(t *testing.T, args ...string) *server {
	t.Helper()
	return serve(t, nil, append([]string{"--addr", "127.0.0.1:0", "--driver", "memory"}, args...)...)
}

func (s *server) streams() string { return s.url + "/v1/stream" }

func (s *server) signal(sig os.Signal) {
	s.t.Helper()
	if err := s.cmd.Process.Signal(sig); err != nil {
		s.t.Fatal(err)
	}
}

// wait returns the exit code.
func (s *server) wait() int {
	s.t.Helper()
	select {
	case <-s.exited:
		return s.cmd.ProcessState.ExitCode()
	case <-time.After(within):
		s.t.Fatalf("the server did not end\n%s", s.stderr)
		return 0
	}
}

func (s *server) kill() {
	_ = s.cmd.Process.Signal(syscall.SIGKILL)
	<-s.exited
}

// stop ends the server as an operator does.
func (s *server) stop() {
	s.t.Helper()
	s.signal(syscall.SIGTERM)
	if code := s.wait(); code != 0 {
		s.t.Fatalf("the server ended with %d\n%s", code, s.stderr)
	}
}

// get returns the status and the body of an answer.
func get(t *testing.T, url string) (int, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := new(http.Client).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

// eventually waits until a condition holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(within); !holds(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", within, what)
		}
	}
}

// outcome is how a command ended.
type outcome struct {
	stdout, stderr string
	code           int
}

// runnelIn executes a command with standard input.
func runnelIn(t *testing.T, env []string, stdin io.Reader, args ...string) outcome {
	t.Helper()
	cmd := command(t, env, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &stdout, &stderr
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return outcome{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// must executes a client command that has to succeed, and returns what it printed.
func (s *server) must(stdin string, args ...string) string {
	s.t.Helper()
	o := runnelIn(s.t, []string{"RUNNEL_URL=" + s.streams()}, strings.NewReader(stdin), args...)
	if o.code != 0 {
		s.t.Fatalf("runnel %s ended with %d\n%s", strings.Join(args, " "), o.code, o.stderr)
	}
	return o.stdout
}
