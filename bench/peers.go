//go:build linux

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// runPeer is the main of a process that stands in for a limit.
func runPeer(kind string, args []string) error {
	switch kind {
	case "empty":
		return serveEmpty()
	case "echo":
		return serveEcho()
	case "memory":
		size, err := strconv.Atoi(args[0])
		if err != nil {
			return err
		}
		return serveMemory(size)
	case "frames":
		n, err := strconv.Atoi(args[0])
		if err != nil {
			return err
		}
		return serveFrames(n, len(args) > 1)
	case "disk":
		size, err := strconv.Atoi(args[1])
		if err != nil {
			return err
		}
		duration, err := time.ParseDuration(args[2])
		if err != nil {
			return err
		}
		pace, err := time.ParseDuration(args[3])
		if err != nil {
			return err
		}
		return measureDisk(args[0], size, duration, pace)
	}
	return runLog(kind, args)
}

func listen() (net.Listener, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err == nil {
		_, err = fmt.Fprintln(os.Stdout, l.Addr())
	}
	return l, err
}

// serveEmpty is the least an HTTP server in Go can do with a request: read it and answer nothing.
func serveEmpty() error {
	l, err := listen()
	if err != nil {
		return err
	}
	return http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err == nil {
			w.WriteHeader(http.StatusNoContent)
		}
	}))
}

// serveMemory answers with bytes that it holds.
func serveMemory(size int) error {
	content := make([]byte, size)
	for i := range content {
		content[i] = byte(i * 7)
	}
	l, err := listen()
	if err != nil {
		return err
	}
	return http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set("Content-Length", strconv.Itoa(len(content)))
		_, _ = w.Write(content)
	}))
}

// serveFrames writes the same frame, of server-sent events or of items, to n connections in turn, from one
// goroutine, as fast as it can.
func serveFrames(n int, items bool) error {
	l, err := listen()
	if err != nil {
		return err
	}
	conns := make([]net.Conn, n)
	head := make([]byte, 4096)
	for i := range conns {
		if conns[i], err = l.Accept(); err != nil {
			return err
		}
		if _, err := conns[i].Read(head); err != nil {
			return err
		}
		if _, err := io.WriteString(conns[i], "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n\r\n"); err != nil {
			return err
		}
	}
	frame := []byte("event: data\ndata:" + string(payload(0, 100)) + "\n\nevent: control\n" +
		`data:{"streamNextOffset":"0000000000000001_0000000000000000","streamCursor":"1234567","upToDate":true}` + "\n\n")
	if items {
		frame = itemFrame()
	}
	for {
		for _, c := range conns {
			if _, err := c.Write(frame); err != nil {
				return err // the generator has seen enough
			}
		}
	}
}

// diskResult is what the disk does.
type diskResult struct {
	PerSecond float64 `json:"per_second"`
	MedianMS  float64 `json:"median_ms"`
	MBPerS    float64 `json:"mb_per_s"`
}

// measureDisk appends size bytes and syncs, again and again, to a new file: every pace, or without a
// pause if that is 0.
func measureDisk(dir string, size int, duration, pace time.Duration) (err error) {
	path := filepath.Join(dir, "disk-"+strconv.Itoa(os.Getpid()))
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close(), os.Remove(path)) }()
	block := make([]byte, size)
	for i := range block {
		block[i] = byte(i * 7)
	}
	var each []time.Duration
	began := time.Now()
	// No more than a gigabyte, whatever the disk can do.
	tick := time.NewTicker(max(pace, 1))
	defer tick.Stop()
	for time.Since(began) < duration && len(each)*size < 1<<30 {
		if pace > 0 {
			<-tick.C
		}
		start := time.Now()
		if _, err := f.Write(block); err != nil {
			return err
		}
		if err := unix.Fdatasync(int(f.Fd())); err != nil {
			return err
		}
		each = append(each, time.Since(start))
	}
	took := time.Since(began).Seconds()
	slices.Sort(each)
	out, err := json.Marshal(diskResult{
		PerSecond: float64(len(each)) / took,
		MedianMS:  each[len(each)/2].Seconds() * 1e3,
		MBPerS:    float64(len(each)*size) / 1e6 / took,
	})
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(os.Stdout, string(out))
	return err
}
