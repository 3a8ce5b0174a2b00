package durablestreams_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/durablestreams"
)

// BenchmarkFanOut is one append to a stream with a thousand SSE readers, until all have it, beside a loop
// that writes the same bytes to as many sockets. Run it with -cpu 1.
func BenchmarkFanOut(b *testing.B) {
	const readers = 1000
	payload := strings.Repeat("x", 100)
	b.Run(fmt.Sprintf("runnel/readers=%d", readers), func(b *testing.B) {
		s := serve(b, durablestreams.Config{SSERotation: -1, Heartbeat: -1})
		s.put("a", "text/plain", "")
		var got sync.WaitGroup
		size := 0
		for range readers {
			conn, err := s.dial()
			if err != nil {
				b.Fatal(err)
			}
			b.Cleanup(func() { conn.Close() })
			fmt.Fprint(conn, "GET /v1/stream/a?offset=now&live=sse HTTP/1.1\r\nHost: x\r\n\r\n")
			lines := bufio.NewReader(conn)
			for line := ""; !strings.HasPrefix(line, "id:"); {
				if line, err = lines.ReadString('\n'); err != nil {
					b.Fatal(err)
				}
			}
			if _, err := lines.Discard(3); err != nil {
				b.Fatal(err)
			}
			if size == 0 { // what one append brings
				s.post("a", "text/plain", payload)
				for line := ""; line != "\r\n"; size += len(line) {
					if line, err = lines.ReadString('\n'); err != nil {
						b.Fatal(err)
					}
				}
			}
			go drain(conn, size, &got)
		}
		b.ResetTimer()
		for b.Loop() {
			got.Add(readers)
			if _, err := s.log.Append(b.Context(), runnel.Segment{Name: "a"}, runnel.AppendOptions{}, runnel.Record{Payload: []byte(payload)}); err != nil {
				b.Fatal(err)
			}
			got.Wait()
		}
	})
	b.Run(fmt.Sprintf("bare/readers=%d", readers), func(b *testing.B) {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		defer listener.Close()
		frame := bytes.Repeat([]byte{'x'}, 294)
		var got sync.WaitGroup
		var conns []net.Conn
		for range readers {
			client, err := net.Dial("tcp", listener.Addr().String())
			if err != nil {
				b.Fatal(err)
			}
			conn, err := listener.Accept()
			if err != nil {
				b.Fatal(err)
			}
			b.Cleanup(func() { client.Close(); conn.Close() })
			conns = append(conns, conn)
			go drain(client, len(frame), &got)
		}
		b.ResetTimer()
		for b.Loop() {
			got.Add(readers)
			for _, conn := range conns {
				if _, err := conn.Write(frame); err != nil {
					b.Fatal(err)
				}
			}
			got.Wait()
		}
	})
}

// drain counts frames of a size.
func drain(r io.Reader, size int, got *sync.WaitGroup) {
	b := make([]byte, size)
	for {
		if _, err := io.ReadFull(r, b); err != nil {
			return
		}
		got.Done()
	}
}

// BenchmarkIdleReaders reports what a waiting SSE reader costs the process in heap and stacks, the
// client's end of the connection included, on one stream and with a stream for each.
func BenchmarkIdleReaders(b *testing.B) {
	for _, streams := range []int{1, 1000} {
		b.Run(fmt.Sprintf("streams=%d", streams), func(b *testing.B) {
			const readers = 1000
			for b.Loop() {
				s := serve(b, durablestreams.Config{})
				for i := range streams {
					s.put(fmt.Sprint(i), "text/plain", "")
				}
				before := resident()
				var conns []net.Conn
				for i := range readers {
					conn, err := s.dial()
					if err != nil {
						b.Fatal(err)
					}
					conns = append(conns, conn)
					fmt.Fprintf(conn, "GET /v1/stream/%d?offset=now&live=sse HTTP/1.1\r\nHost: x\r\n\r\n", i%streams)
					lines := bufio.NewReaderSize(conn, 512)
					for line := ""; !strings.HasPrefix(line, "id:"); {
						if line, err = lines.ReadString('\n'); err != nil {
							b.Fatal(err)
						}
					}
				}
				b.ReportMetric(float64(resident()-before)/readers, "B/reader")
				for _, conn := range conns {
					conn.Close()
				}
			}
		})
	}
}

func resident() int64 {
	runtime.GC()
	runtime.GC() // what a pool still held
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapInuse + m.StackInuse)
}

// BenchmarkPost is one append over HTTP on each of some connections, beside a handler that does nothing
// but read the body.
func BenchmarkPost(b *testing.B) {
	const connections = 64
	payload := strings.Repeat("x", 100)
	request := []byte("POST /v1/stream/a HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nContent-Length: 100\r\n\r\n" + payload)
	run := func(b *testing.B, dial func() (net.Conn, error)) {
		b.Helper()
		var wait sync.WaitGroup
		work := make(chan struct{}, connections)
		for range connections {
			conn, err := dial()
			if err != nil {
				b.Fatal(err)
			}
			wait.Go(func() {
				defer conn.Close()
				in := bufio.NewReader(conn)
				for range work {
					if _, err := conn.Write(request); err != nil {
						b.Error(err)
						return
					}
					for {
						line, err := in.ReadSlice('\n')
						if err != nil {
							b.Error(err)
							return
						}
						if len(line) == 2 {
							break
						}
					}
				}
			})
		}
		b.ReportAllocs()
		b.ResetTimer()
		for b.Loop() {
			work <- struct{}{}
		}
		close(work)
		wait.Wait()
	}
	b.Run("runnel", func(b *testing.B) {
		s := serve(b, durablestreams.Config{})
		s.put("a", "text/plain", "")
		run(b, s.dial)
	})
	b.Run("empty", func(b *testing.B) {
		host := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			w.WriteHeader(http.StatusNoContent)
		}))
		defer host.Close()
		run(b, func() (net.Conn, error) { return net.DialTimeout("tcp", host.Listener.Addr().String(), time.Second) })
	})
}

// BenchmarkCatchUp reads a stream of JSON messages from its beginning.
func BenchmarkCatchUp(b *testing.B) {
	for _, mebibytes := range []int{1, 64} {
		b.Run(fmt.Sprintf("stream=%dMiB/message=1KiB", mebibytes), func(b *testing.B) {
			s := serve(b, durablestreams.Config{})
			s.put("a", "application/json", "")
			body := "[" + strings.Repeat(`"`+strings.Repeat("x", 1021)+`",`, 1023) + `"` + strings.Repeat("x", 1021) + `"]`
			for range mebibytes {
				s.post("a", "application/json", body).want(204)
			}
			b.SetBytes(int64(mebibytes) << 20)
			b.ReportAllocs()
			for b.Loop() {
				resp, err := s.start(b.Context(), "GET", "a", nil)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := io.Copy(io.Discard, resp.Body); err != nil {
					b.Fatal(err)
				}
				resp.Body.Close()
			}
		})
	}
}
