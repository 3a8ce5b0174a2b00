//go:build linux

package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"
)

func testServer(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

func TestTheGeneratorSendsWholeRequestsAndReadsWholeAnswers(t *testing.T) {
	addr := testServer(t, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || string(body) != "body" || r.Header.Get("Content-Type") != "a/b" {
			w.WriteHeader(http.StatusTeapot)
			return
		}
		if r.URL.Path == "/empty" {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		w.Header().Set("X-Length", "1000")
		_, _ = w.Write(make([]byte, 1000))
	})
	c, err := dial(addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for range 3 {
		for path, want := range map[string]int{"/empty": 204, "/full": 200} {
			if got, err := c.do(request("POST", path, "a/b", []byte("body"))); err != nil || got != want {
				t.Fatalf("%s: got %d %v", path, got, err)
			}
		}
	}
	if _, err := c.do(request("POST", "/full", "a/b", []byte("body"))); err != nil || string(c.header("x-length")) != "1000" {
		t.Errorf("the header is %q, %v", c.header("x-length"), err)
	}
}

func TestALoadCountsWhatWasAnswered(t *testing.T) {
	addr := testServer(t, func(http.ResponseWriter, *http.Request) {})
	req := request("GET", "/", "", nil)
	r, err := load{addr: addr, conns: 3, most: 10, next: func(int, int) []byte { return req }}.run(t.Context(), 0)
	if err != nil || r.requests != 10 || r.p50 <= 0 || r.p99 < r.p50 {
		t.Errorf("got %+v %v", r, err)
	}
	refused := testServer(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusConflict) })
	if _, err := (load{addr: refused, conns: 1, most: 1, next: func(int, int) []byte { return req }}).run(t.Context(), 0); err == nil {
		t.Error("a refusal was counted")
	}
}

func TestALargeAnswerIsReadToItsEndChunkedOrNot(t *testing.T) {
	content := bytes.Repeat([]byte("x"), catchUpBytes/2)
	addr := testServer(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Stream-Next-Offset", "middle")
		if r.URL.Query().Get("offset") == "middle" {
			w.Header().Set("Stream-Next-Offset", "end")
			w.Header().Set("Stream-Up-To-Date", "true")
			w.Header().Set("Content-Length", fmt.Sprint(len(content)))
		}
		_, _ = w.Write(content)
	})
	if r, err := readAll(addr, "/"); err != nil || r.bytes != catchUpBytes {
		t.Errorf("got %+v %v", r, err)
	}
}

func TestMarksAreFoundWhereverReadsEnd(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		_, _ = c.Read(make([]byte, 1000))
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
		var frames []byte
		for n := range 20 {
			frames = fmt.Appendf(frames, "data:%s\n\n", payload(n, 20))
		}
		for part := range slices.Chunk(frames, 7) {
			_, _ = c.Write(part)
		}
	}()
	rs, err := subscribe(l.Addr().String(), "/", 1)
	if err != nil {
		t.Fatal(err)
	}
	defer rs.close()
	var got []int
	rs.start(func(_, n int, _ time.Time) { got = append(got, n) })
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := rs.await(ctx, 20); err != nil {
		t.Fatal(err)
	}
	rs.close()
	for n := range got {
		if got[n] != n {
			t.Fatalf("got %v", got)
		}
	}
}

func TestTheMedianIsByRatio(t *testing.T) {
	got := median([]result{
		{Name: "a", Value: 1, Limit: 10}, {Name: "b", Value: 7},
		{Name: "a", Value: 9, Limit: 10}, {Name: "a", Value: 8, Limit: 16},
	})
	if len(got) != 2 || got[0].Value != 8 || got[1].Value != 7 {
		t.Errorf("got %+v", got)
	}
}

func TestARowThatMissesItsTargetSaysSo(t *testing.T) {
	for _, c := range []struct {
		r    result
		want string
	}{
		{result{Value: 5, Limit: 10, Target: 0.5}, "pass"},
		{result{Value: 4, Limit: 10, Target: 0.5}, "**miss**"},
		{result{Value: 11, Limit: 10, Target: 1, Less: true}, "**miss**"},
		{result{Value: 9, Limit: 10, Target: 1, Less: true}, "pass"},
		{result{Value: 9, Limit: 10}, ""},
	} {
		if got := c.r.verdict(); got != c.want {
			t.Errorf("%+v: %s", c.r, got)
		}
	}
}
