//go:build linux

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// machine is where a run takes place: it starts processes, pinned and with data on the disk, and ends
// exactly those.
type machine struct {
	opts    options
	dir     string
	running []*process
	dirs    int
	limits  map[string]float64 // measured in this repetition
}

// process is a child that listens.
type process struct {
	cmd  *exec.Cmd
	out  *bufio.Reader
	addr string
	data string
	err  *os.File
}

// start runs a program on the server's cores and returns when it has printed a line with its address.
func (m *machine) start(env []string, name string, args ...string) (*process, error) {
	cmd := exec.Command(name, args...)
	if runtimeCPUs > 1 {
		cmd = exec.Command("taskset", append([]string{"-c", m.serverCPUs(), name}, args...)...)
	}
	cmd.Env = append(os.Environ(), env...)
	// If this program is killed the child must not stay behind.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	stderr, err := os.CreateTemp(m.dir, "stderr-")
	if err != nil {
		return nil, err
	}
	cmd.Stderr = stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &process{cmd: cmd, out: bufio.NewReader(stdout), err: stderr}
	m.running = append(m.running, p)
	return p, nil
}

// runtimeCPUs is how many cores the machine has; runtime.NumCPU would only tell those of this process.
var runtimeCPUs = func() int {
	content, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return runtime.NumCPU()
	}
	return strings.Count(string(content), "\nprocessor") + 1
}()

func (m *machine) serverCPUs() string { return "0-" + strconv.Itoa(m.opts.cpus-1) }

// line waits for the next line of output.
func (p *process) line() (string, error) {
	type read struct {
		line string
		err  error
	}
	got := make(chan read, 1)
	go func() {
		line, err := p.out.ReadString('\n')
		got <- read{strings.TrimSpace(line), err}
	}()
	select {
	case r := <-got:
		if r.err != nil {
			content, _ := os.ReadFile(p.err.Name())
			return "", fmt.Errorf("%s ended early: %s", p.cmd.Path, tailOf(content))
		}
		return r.line, nil
	case <-time.After(5 * time.Minute):
		return "", fmt.Errorf("%s printed nothing for 5 min", p.cmd.Path)
	}
}

func tailOf(b []byte) string {
	return strings.TrimSpace(string(b[max(0, len(b)-2000):]))
}

// stop ends a child with a signal and waits for it.
func (p *process) stop(s syscall.Signal) error {
	if p.cmd.ProcessState != nil {
		return nil
	}
	if err := p.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	timer := time.AfterFunc(30*time.Second, func() { _ = p.cmd.Process.Kill() })
	defer timer.Stop()
	err := p.cmd.Wait()
	_ = p.err.Close()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && s == syscall.SIGKILL {
		return nil
	}
	return err
}

func (m *machine) stopAll() {
	for _, p := range m.running {
		_ = p.stop(syscall.SIGKILL)
		if p.data != "" {
			_ = os.RemoveAll(p.data)
		}
	}
	m.running = nil
}

// serve starts the server over a directory, a new one if data is empty, with the settings of a user who
// sets nothing.
func (m *machine) serve(data string, env ...string) (*process, error) {
	if data == "" {
		m.dirs++
		data = filepath.Join(m.dir, "data-"+strconv.Itoa(m.dirs))
	}
	p, err := m.start(env, m.opts.binary, "serve", "--addr", "127.0.0.1:0", "--data", data, "--log-level", "warn")
	if err != nil {
		return nil, err
	}
	p.data = data
	line, err := p.line()
	if err != nil {
		return nil, err
	}
	_, rest, _ := strings.Cut(line, "http://")
	p.addr, _, _ = strings.Cut(rest, "/")
	if _, _, err := net.SplitHostPort(p.addr); err != nil {
		return nil, fmt.Errorf("the server printed %q instead of its URL", line)
	}
	return p, waitReady(p.addr)
}

func waitReady(addr string) error {
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	deadline := time.Now().Add(60 * time.Second)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		resp, err := client.Get("http://" + addr + "/readyz")
		if err == nil {
			_, err = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
			if err == nil && resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the server was not ready after 60 s: %w", err)
		}
		<-tick.C
	}
}

// peer starts one of the limits as a process of its own, pinned as the server is.
func (m *machine) peer(kind string, args ...string) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p, err := m.start([]string{envPeer + "=" + kind}, self, args...)
	if err != nil {
		return nil, err
	}
	p.addr, err = p.line()
	return p, err
}

// disk measures the disk without a server: synced appends of size bytes.
func (m *machine) disk(ctx context.Context, size int, pace time.Duration) (diskResult, error) {
	p, err := m.peer("disk", m.dir, strconv.Itoa(size), m.opts.duration.String(), pace.String())
	if err != nil {
		return diskResult{}, err
	}
	var r diskResult
	if err := json.Unmarshal([]byte(p.addr), &r); err != nil {
		return r, fmt.Errorf("disk: %w", err)
	}
	return r, errors.Join(ctx.Err(), p.stop(syscall.SIGKILL))
}

// cpuTime is the processor time that a child has used, in steps of 10 ms; 0 if there is no child.
func (p *process) cpuTime() (time.Duration, error) {
	if p == nil {
		return 0, nil
	}
	content, err := os.ReadFile("/proc/" + strconv.Itoa(p.cmd.Process.Pid) + "/stat")
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(content), ") ") // behind the name
	fields := strings.Fields(rest)
	if len(fields) < 13 {
		return 0, errors.New("/proc tells nothing of the server's processor time")
	}
	var ticks int
	for _, field := range fields[11:13] { // in programs, and in the system
		n, err := strconv.Atoi(field)
		if err != nil {
			return 0, err
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond, nil
}

// rss returns the resident memory of a child now, and the most it ever was, in bytes.
func (p *process) rss() (now, peak float64, err error) {
	content, err := os.ReadFile("/proc/" + strconv.Itoa(p.cmd.Process.Pid) + "/status")
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(content)) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		kb, _ := strconv.ParseFloat(fields[1], 64)
		switch fields[0] {
		case "VmRSS:":
			now = kb * 1024
		case "VmHWM:":
			peak = kb * 1024
		}
	}
	return now, peak, nil
}
