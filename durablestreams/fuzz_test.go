package durablestreams_test

import (
	"bufio"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/durablestreams"
	"github.com/runnelhq/runnel/wire"
)

// FuzzRequestsAreAnsweredWithoutADefect gives the handler whole requests, as they come over the wire. No
// request brings out a defect of the server, every refusal says why in the same form, and an offset that is
// handed out can be read from.
func FuzzRequestsAreAnsweredWithoutADefect(f *testing.F) {
	for _, seed := range []string{
		"GET /v1/stream/a?offset=-1 HTTP/1.1\nHost: x\n\n",
		"GET /v1/stream/a?offset=now&live=long-poll&timeout=0 HTTP/1.1\nHost: x\nIf-None-Match: \"1-x:0:2\"\n\n",
		"GET /v1/stream/json?offset=-1&live=sse HTTP/1.1\nHost: x\nLast-Event-ID: 3\n\n",
		"HEAD /v1/stream/a HTTP/1.1\nHost: x\n\n",
		"GET /v1/stream/?prefix=a&limit=1 HTTP/1.1\nHost: x\n\n",
		"GET /v1/stream/__registry__?offset=-1 HTTP/1.1\nHost: x\n\n",
		"GET /v1/stream/__ds/subscriptions HTTP/1.1\nHost: x\n\n",
		"PUT /v1/stream/b HTTP/1.1\nHost: x\nContent-Type: application/json\nStream-TTL: 5\nContent-Length: 5\n\n[1,2]",
		"PUT /v1/stream/b HTTP/1.1\nHost: x\nStream-Forked-From: /v1/stream/a\nStream-Fork-Offset: 0000000000000001_0000000000000000\nStream-Fork-Sub-Offset: 1\n\n",
		"POST /v1/stream/a HTTP/1.1\nHost: x\nContent-Type: text/plain\nProducer-Id: p\nProducer-Epoch: 0\nProducer-Seq: 0\nContent-Length: 1\n\nx",
		"POST /v1/stream/json HTTP/1.1\nHost: x\nContent-Type: application/json\nContent-Length: 3\n\n[\xff]",
		"POST /v1/stream/a HTTP/1.1\nHost: x\nStream-Closed: true\nIf-Match: \"-1\"\n\n",
		"POST /v1/stream/a HTTP/1.1\nHost: x\nContent-Type: text/plain\nTransfer-Encoding: chunked\n\n1\r\nx\r\n0\r\n\r\n",
		"DELETE /v1/stream/%2e%2e HTTP/1.1\nHost: x\n\n",
		"OPTIONS * HTTP/1.1\nHost: x\n\n",
		"GET http://x/v1/stream/a%00b HTTP/1.0\n\n",
		"PATCH /v1/stream/a HTTP/1.1\nHost: x\nContent-Encoding: gzip\n\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(string(raw))))
		if err != nil || r.ContentLength > 1<<20 {
			return
		}
		log, handler := open(t, durablestreams.Config{LongPollTimeout: time.Millisecond, SSERotation: time.Millisecond}, nil)
		defer func() { _ = handler.Close() }()
		for path, contentType := range map[string]string{"a": "text/plain", "json": "application/json"} {
			o := runnel.CreateOptions{ContentType: contentType, Records: []runnel.Record{{Payload: []byte("1")}, {Payload: []byte("2")}}}
			if _, err := log.Create(t.Context(), runnel.Segment{Name: path}, o); err != nil {
				t.Fatal(err)
			}
		}
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r.WithContext(t.Context()))
		answer := w.Result()
		defer answer.Body.Close()
		if w.Code == http.StatusInternalServerError || answer.Header.Get("X-Content-Type-Options") != "nosniff" {
			t.Fatalf("%q: %d %s", raw, w.Code, w.Body)
		}
		if w.Code >= 400 && r.Method != http.MethodHead {
			var body wire.Body
			if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil || body.Error.Code == "" || body.Error.Message == "" {
				t.Fatalf("%q is refused with %d and %q, %v", raw, w.Code, w.Body, err)
			}
		}
		if next := answer.Header.Get("Stream-Next-Offset"); next != "" {
			if at, err := runnel.ParseOffset(next); err != nil || at.Offset() != next {
				t.Fatalf("%q: the offset %q is handed out, %v", raw, next, err)
			}
		}
	})
}
