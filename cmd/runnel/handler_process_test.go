package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// envHandler makes the test program a handler of triggers, which is a process of its own that can be killed:
// its value is the address to listen on. What it has been told it prints, one line a request, before it
// answers.
const envHandler = "RUNNEL_TEST_HANDLER"

// told is a line of a handler.
type told struct {
	Path   string          `json:"path"`
	Header http.Header     `json:"header"`
	Body   json.RawMessage `json:"body"`
}

// runHandler is the process. Of each path it answers what the query parameter answer says, or never at /hang.
func runHandler(addr string) error {
	handle := func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		if !json.Valid(body) {
			body = []byte(`"no JSON"`)
		}
		line, err := json.Marshal(told{r.URL.Path, r.Header, body})
		if err != nil {
			return
		}
		if _, err := os.Stdout.Write(append(line, '\n')); err != nil {
			return
		}
		if r.URL.Path == "/hang" {
			<-r.Context().Done()
			return
		}
		_, _ = io.WriteString(w, r.URL.Query().Get("answer")) // whoever asks has gone
	}
	server := &http.Server{Addr: addr, Handler: http.HandlerFunc(handle), ReadHeaderTimeout: time.Minute}
	return server.ListenAndServe()
}

// handler is such a process, of several lives at one address.
type handler struct {
	t   *testing.T
	url string
	cmd *exec.Cmd
	out *buffer
}

// newHandler returns one that has not been started.
func newHandler(t *testing.T) *handler {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	h := &handler{t: t, url: "http://" + l.Addr().String(), out: new(buffer)}
	t.Cleanup(h.kill)
	return h
}

func (h *handler) start() {
	h.t.Helper()
	self, err := os.Executable()
	if err != nil {
		h.t.Fatal(err)
	}
	h.cmd = exec.CommandContext(h.t.Context(), self)
	h.cmd.Env = append(os.Environ(), envHandler+"="+strings.TrimPrefix(h.url, "http://"))
	h.cmd.Stdout, h.cmd.Stderr = h.out, os.Stderr
	if err := h.cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	eventually(h.t, "the handler listens", func() bool {
		c, err := (&net.Dialer{Timeout: time.Second}).DialContext(h.t.Context(), "tcp", strings.TrimPrefix(h.url, "http://"))
		if err != nil {
			return false
		}
		return c.Close() == nil
	})
}

// kill ends the process, so that no request that it has got is answered any more.
func (h *handler) kill() {
	if h.cmd != nil {
		_ = h.cmd.Process.Signal(syscall.SIGKILL)
		_ = h.cmd.Wait()
		h.cmd = nil
	}
}

// told returns what the handler has been told at a path so far, over all of its lives.
func (h *handler) told(path string) (all []told) {
	h.t.Helper()
	for line := range strings.Lines(h.out.String()) {
		var one told
		if err := json.Unmarshal([]byte(line), &one); err != nil {
			continue // it was killed in the middle of it
		}
		if one.Path == path {
			all = append(all, one)
		}
	}
	return all
}

// first returns the first that the handler has been told at a path, which it may be about to print.
func (h *handler) first(path string) told {
	h.t.Helper()
	eventually(h.t, "the handler is told at "+path, func() bool { return len(h.told(path)) > 0 })
	return h.told(path)[0]
}

// frames returns one field of each event at a path, of each event once and in the order in which they came.
func (h *handler) frames(path string, show func(id, kind string, data json.RawMessage) string) (all []string) {
	h.t.Helper()
	seen := make(map[string]bool)
	for _, one := range h.told(path) {
		var f struct {
			ID    string `json:"id"`
			Event struct {
				Type string          `json:"type"`
				Data json.RawMessage `json:"data"`
			} `json:"event"`
		}
		if err := json.Unmarshal(one.Body, &f); err != nil {
			h.t.Fatal(err)
		}
		if key := one.Header.Get(headerEventKey); !seen[key] {
			seen[key] = true
			all = append(all, show(f.ID, f.Event.Type, f.Event.Data))
		}
	}
	return all
}

// triggerFileOf writes a file of triggers.
func triggerFileOf(t *testing.T, entries ...string) string {
	t.Helper()
	path := t.TempDir() + "/triggers.yaml"
	text := "triggers:\n"
	for _, e := range entries {
		text += "  - {" + e + "}\n"
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// request makes a request of a server and returns the answer's body.
func (s *server) request(method, path, body string) (int, string) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), within)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, s.url+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		s.t.Fatal(err)
	}
	return resp.StatusCode, string(answer)
}

// set sets an item, which has to succeed.
func (s *server) set(stream, group, item, value string) {
	s.t.Helper()
	if code, body := s.request(http.MethodPut, fmt.Sprintf("/v1/items/%s/%s/%s", stream, group, item), value); code/100 != 2 {
		s.t.Fatalf("set %s: %d %s", item, code, body)
	}
}
