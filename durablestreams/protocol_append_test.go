package durablestreams_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/durablestreams"
	"github.com/runnelhq/runnel/wire"
)

// producer returns the headers of a write of a producer.
func producer(id string, epoch, seq int) []string {
	return []string{"Producer-Id", id, "Producer-Epoch", strconv.Itoa(epoch), "Producer-Seq", strconv.Itoa(seq)}
}

func TestSection52AnAppendAnswersWithTheNewTail(t *testing.T) {
	s := serve(t, durablestreams.Config{})
	s.put("a", "text/plain", "")
	s.post("a", "text/plain", "one").want(204, "Stream-Next-Offset", offset(1), "Stream-Closed", "-", "Producer-Epoch", "-").wantBody("")
	s.post("a", "Text/PLAIN; charset=utf-8", "two").want(204, "Stream-Next-Offset", offset(2))
	s.doReader("POST", "a", chunked("three"), "Content-Type", "text/plain").want(204, "Stream-Next-Offset", offset(3))
	s.post("a", "text/plain", "four", "Stream-Closed", "true").want(204, "Stream-Next-Offset", offset(4), "Stream-Closed", "true")
	s.get("a").wantBody("onetwothreefour")
}

func TestSection52AnEmptyBodyIsRefusedUnlessItCloses(t *testing.T) {
	s := serve(t, durablestreams.Config{})
	s.put("a", "application/json", "[]")
	s.post("a", "application/json", "").wantError(400, wire.CodeEmptyBody)
	s.doReader("POST", "a", chunked(""), "Content-Type", "application/json").wantError(400, wire.CodeEmptyBody)
	s.post("a", "application/json", " [ ] ").wantError(400, wire.CodeEmptyBody)
	s.post("a", "application/json", "[]", "Stream-Closed", "true").wantError(400, wire.CodeEmptyBody)
	s.doReader("POST", "a", chunked(""), "Content-Type", "image/png; nonsense", "Stream-Closed", "true").
		want(204, "Stream-Closed", "true", "Stream-Next-Offset", offset(0))
}

func TestSection52ABodyNeedsAContentType(t *testing.T) {
	s := serve(t, durablestreams.Config{})
	s.put("a", "text/plain", "")
	s.post("a", "", "x").wantError(400, wire.CodeMissingContentType)
	s.post("a", "", "x", "Stream-Closed", "true").wantError(400, wire.CodeMissingContentType)
	s.post("a", "text/html", "x").wantError(409, wire.CodeContentType)
	s.post("a", "application/json", "not json").wantError(409, wire.CodeContentType)
}

func TestSection52TheClosedStateComesFirst(t *testing.T) {
	s := serve(t, durablestreams.Config{})
	s.put("a", "text/plain", "x")
	s.post("a", "text/plain", "y", "Stream-Seq", "b").want(204)
	s.post("a", "", "", "Stream-Closed", "true").want(204)
	closed := []string{"Stream-Closed", "true", "Stream-Next-Offset", offset(2)}
	for _, c := range []struct {
		name        string
		contentType string
		body        string
		headers     []string
	}{
		{"an append", "text/plain", "z", nil},
		{"an append that closes", "text/plain", "z", []string{"Stream-Closed", "true"}},
		{"another content type", "text/html", "z", nil},
		{"JSON that is none", "application/json", "{", nil},
		{"a Stream-Seq that does not increase", "text/plain", "z", []string{"Stream-Seq", "a"}},
		{"an If-Match that does not hold", "text/plain", "z", []string{"If-Match", offset(1)}},
		{"all of it", "application/json", "{", []string{"Stream-Seq", "a", "If-Match", offset(1)}},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := s.post("a", c.contentType, c.body, c.headers...)
			a.t = t
			if d := a.wantError(409, wire.CodeClosed, closed...); d.NextOffset != offset(2) || !d.Closed {
				t.Errorf("the error says %+v", d)
			}
		})
	}
	s.post("a", "", "", "Stream-Closed", "true").want(204, closed...)
	s.get("a").wantBody("xy")
}

func TestSection52AContentTypeComesBeforeASequence(t *testing.T) {
	s := serve(t, durablestreams.Config{})
	s.put("a", "text/plain", "")
	s.post("a", "text/plain", "y", "Stream-Seq", "b").want(204)
	s.post("a", "text/html", "y", "Stream-Seq", "a").wantError(409, wire.CodeContentType)
}

func TestSection52StreamSeqIncreasesByteByByte(t *testing.T) {
	s := serve(t, durablestreams.Config{})
	s.put("a", "text/plain", "")
	for _, c := range []struct {
		seq    string
		status int
	}{
		{"10", 204}, {"10", 409}, {"09", 409}, {"1", 409}, {"100", 204}, {"2", 204}, {"10", 409}, {"A", 204}, {"a", 204}, {"B", 409},
		{strings.Repeat("b", 256), 204}, {strings.Repeat("c", 257), 400}, {"", 400},
	} {
		a := s.post("a", "text/plain", "x", "Stream-Seq", c.seq).want(c.status)
		if c.status == 409 {
			a.wantError(409, wire.CodeStreamSeq, "Stream-Closed", "-")
		}
	}
	s.post("a", "text/plain", "x", "Stream-Seq", "x", "Stream-Seq", "y").wantError(400, wire.CodeInvalidRequest)
	s.get("a").wantBody("xxxxxx")
}

func TestBodiesOverTheLimitAreRefusedWithTheLimit(t *testing.T) {
	s := serve(t, durablestreams.Config{MaxBodyBytes: 100_000, MaxMessages: 10})
	s.put("a", "text/plain", "")
	body := strings.Repeat("x", 100_000)
	s.post("a", "text/plain", body).want(204)
	s.doReader("POST", "a", chunked(body), "Content-Type", "text/plain").want(204)
	for _, over := range []*answer{
		s.post("a", "text/plain", body+"x"),
		s.doReader("POST", "a", chunked(body+"x"), "Content-Type", "text/plain"),
		s.doReader("POST", "a", chunked(strings.Repeat(body, 20)), "Content-Type", "text/plain"),
		s.put("b", "text/plain", body+"x"),
	} {
		if d := over.wantError(413, wire.CodeTooLarge); d.Limit != 100_000 || !strings.Contains(d.Message, "100000") {
			t.Errorf("the error says %+v", d)
		}
	}
	s.head("b").want(404)
	s.put("j", "application/json", "[]")
	if d := s.post("j", "application/json", "[1,2,3,4,5,6,7,8,9,10,11]").wantError(413, wire.CodeTooLarge); d.Limit != 10 {
		t.Errorf("the error says %+v", d)
	}
	s.head("a").want(200, "Stream-Next-Offset", offset(2))
}

func TestBodiesOfAllSizesAndFramingsArriveWhole(t *testing.T) {
	s := serve(t, durablestreams.Config{})
	for _, n := range []int{1, 4095, 4096, 4097, 65535, 65536, 65537, 200_000, 1 << 20} {
		body := strings.Repeat("0123456789abcdef", n/16+1)[:n]
		name := fmt.Sprintf("s%d", n)
		s.put(name, "text/plain", body).want(201)
		s.doReader("POST", name, chunked(body), "Content-Type", "text/plain").want(204)
		s.get(name).want(200).wantBody(body + body)
	}
}

func TestBodiesInMemoryAreBounded(t *testing.T) {
	s := serve(t, durablestreams.Config{MaxBodyBytes: 64 << 10, MaxInflightBytes: 64 << 10, InflightTimeout: 10 * time.Millisecond})
	s.put("a", "text/plain", "")
	r, w := io.Pipe()
	var first *answer
	var wait sync.WaitGroup
	wait.Go(func() {
		var err error
		if first, err = s.try("POST", "a", r, "Content-Type", "text/plain"); err != nil {
			t.Error(err)
		}
	})
	if _, err := w.Write(make([]byte, 32<<10)); err != nil { // it is under way, and holds all there is
		t.Fatal(err)
	}
	var refused *answer
	for refused == nil || refused.status == 204 { // until the first one has come to the handler
		refused = s.post("a", "text/plain", strings.Repeat("x", 32<<10))
	}
	refused.wantError(503, wire.CodeUnavailable, "Retry-After", "1")
	s.post("a", "text/plain", "small ones do not count").want(204)
	w.Close()
	wait.Wait()
	first.want(204)
	s.post("a", "text/plain", strings.Repeat("x", 32<<10)).want(204)
}

func TestCompressedBodiesAreRefused(t *testing.T) {
	s := serve(t, durablestreams.Config{})
	s.put("a", "text/plain", "")
	s.post("a", "text/plain", "x", "Content-Encoding", "gzip").wantError(415, wire.CodeContentEncoding, "Accept-Encoding", "identity")
	s.post("a", "text/plain", "x", "Content-Encoding", "identity").want(204)
}

func TestASenderThatStandsStillIsDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, stop := serveInBubble(t, durablestreams.Config{ProgressTimeout: 10 * time.Second})
		defer stop()
		s.put("a", "text/plain", "")
		for _, framing := range []string{"Content-Length: 10", "Transfer-Encoding: chunked"} {
			conn, err := s.dial()
			if err != nil {
				t.Fatal(err)
			}
			begin := time.Now()
			fmt.Fprintf(conn, "POST /v1/stream/a HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\n%s\r\n\r\n", framing)
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatal(err)
			}
			if resp.StatusCode != 408 || !resp.Close || time.Since(begin) > 11*time.Second {
				t.Errorf("%s: status %d, close %v after %s", framing, resp.StatusCode, resp.Close, time.Since(begin))
			}
			resp.Body.Close()
			conn.Close()
		}
		s.get("a").wantBody("")
	})
}

func TestASlowSenderThatGoesOnIsHeard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, stop := serveInBubble(t, durablestreams.Config{ProgressTimeout: 10 * time.Second, MinBodyRate: -1})
		defer stop()
		s.put("a", "text/plain", "")
		r, w := io.Pipe()
		go func() {
			for range 20 {
				fmt.Fprint(w, "token ")
				time.Sleep(8 * time.Second) //nolint:forbidigo // the time of the bubble
			}
			w.Close()
		}()
		s.doReader("POST", "a", r, "Content-Type", "text/plain").want(204)
		s.get("a").wantBody(strings.Repeat("token ", 20))
	})
}

func TestASenderMustKeepARate(t *testing.T) {
	for _, c := range []struct{ bytes, seconds, status int }{
		{1, 8, 408},         // every so many seconds
		{1000, 1, 408},      // a little too slow
		{100_000, 8, 204},   // in bursts
		{1100, 1, 204},      // just fast enough
		{200_000, 1, 204},   // fast
		{1_000_000, 0, 204}, // at once
	} {
		synctest.Test(t, func(t *testing.T) {
			s, stop := serveInBubble(t, durablestreams.Config{ProgressTimeout: 10 * time.Second})
			defer stop()
			s.put("a", "text/plain", "")
			r, w := io.Pipe()
			var sender sync.WaitGroup
			defer sender.Wait()
			sender.Go(func() {
				for range 60 {
					if _, err := w.Write(make([]byte, c.bytes)); err != nil {
						break
					}
					time.Sleep(time.Duration(c.seconds) * time.Second) //nolint:forbidigo // the time of the bubble
				}
				w.Close()
			})
			begin := time.Now()
			a := s.doReader("POST", "a", r, "Content-Type", "text/plain").want(c.status)
			r.Close()
			if c.status == 408 {
				d := a.wantError(408, wire.CodeBodyTimeout)
				if took := time.Since(begin); took > 12*time.Second || !strings.Contains(d.Message, "1024 a second") {
					t.Errorf("%+v: %q after %s", c, d.Message, took)
				}
			}
		})
	}
}

func TestABodyThatBreaksOffIsNotStored(t *testing.T) {
	s := serve(t, durablestreams.Config{})
	s.put("a", "text/plain", "")
	conn, err := s.dial()
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(conn, "POST /v1/stream/a HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nContent-Length: 10\r\n\r\nhalf")
	conn.Close()
	s.get("a?offset=-1&live=long-poll&timeout=0").want(204, "Stream-Next-Offset", offset(0))
}

func TestSection52AClosedStreamSaysSoBeforeTheTypeIsMissed(t *testing.T) {
	s := serve(t, durablestreams.Config{})
	s.put("a", "text/plain", "x")
	s.post("a", "", "y").wantError(400, wire.CodeMissingContentType)
	s.post("nothing", "", "y").wantError(404, wire.CodeNotFound)
	s.post("a", "", "", "Stream-Closed", "true")
	s.post("a", "", "y").wantError(409, wire.CodeClosed, "Stream-Closed", "true", "Stream-Next-Offset", offset(1))
}

func TestIfMatchAppendsOnlyAtTheTail(t *testing.T) {
	s := serve(t, durablestreams.Config{})
	s.put("a", "text/plain", "x")
	s.post("a", "text/plain", "y", "If-Match", `"`+offset(1)+`"`).want(204, "Stream-Next-Offset", offset(2))
	s.post("a", "text/plain", "z", "If-Match", offset(2)).want(204, "Stream-Next-Offset", offset(3))
	d := s.post("a", "text/plain", "!", "If-Match", `"`+offset(2)+`"`).wantError(412, wire.CodePrecondition, "Stream-Next-Offset", offset(3))
	if d.NextOffset != offset(3) {
		t.Errorf("the error says %+v", d)
	}
	s.post("a", "text/plain", "!", "If-Match", offset(4)).wantError(412, wire.CodePrecondition, "Stream-Next-Offset", offset(3))
	s.post("a", "text/plain", "!", "If-Match", "-1").wantError(412, wire.CodePrecondition, "Stream-Next-Offset", offset(3))
	s.post("a", "text/plain", "w", "If-Match", offset(1)+`, "`+offset(3)+`"`).want(204, "Stream-Next-Offset", offset(4))
	s.post("a", "text/plain", "v", "If-Match", "*").want(204, "Stream-Next-Offset", offset(5))
	for _, tag := range []string{`"something"`, `W/"something"`, s.get("a").header.Get("ETag"), `"a", "b"`} {
		s.post("a", "text/plain", "!", "If-Match", tag).wantError(412, wire.CodePrecondition, "Stream-Next-Offset", offset(5))
		s.post("nothing", "text/plain", "!", "If-Match", tag).wantError(412, wire.CodePrecondition)
	}
	for _, value := range []string{"something", `"some thing"`, `"`, `"x`, `W/x`, ""} {
		s.post("a", "text/plain", "!", "If-Match", value).wantError(400, wire.CodeInvalidOffset)
	}
	s.post("nothing", "text/plain", "!", "If-Match", "*").wantError(412, wire.CodePrecondition)
	s.post("nothing", "text/plain", "!", "If-Match", offset(0)).wantError(412, wire.CodePrecondition)
	s.post("nothing", "text/plain", "!", "If-Match", offset(0)+","+offset(1)).wantError(412, wire.CodePrecondition)
	s.post("a", "", "", "Stream-Closed", "true", "If-Match", offset(1)).wantError(412, wire.CodePrecondition, "Stream-Closed", "-")
	s.post("a", "", "", "Stream-Closed", "true", "If-Match", offset(5)).want(204, "Stream-Closed", "true")
	s.get("a").wantBody("xyzwv")
}

func TestSection521ProducerHeadersComeTogetherAndAreIntegers(t *testing.T) {
	s := serve(t, durablestreams.Config{})
	s.put("a", "text/plain", "")
	names := []string{"Producer-Id", "Producer-Epoch", "Producer-Seq"}
	for mask := 1; mask < 7; mask++ {
		var headers []string
		for i, name := range names {
			if mask&(1<<i) != 0 {
				headers = append(headers, name, "0")
			}
		}
		s.post("a", "text/plain", "x", headers...).wantError(400, wire.CodeInvalidRequest)
		s.post("a", "", "", append(headers, "Stream-Closed", "true")...).wantError(400, wire.CodeInvalidRequest)
	}
	for _, value := range []string{"", "-1", "+1", "1.0", "1e3", "01", "abc", "1abc", "0x1", "9007199254740992", "99999999999999999999999"} {
		s.post("a", "text/plain", "x", "Producer-Id", "p", "Producer-Epoch", value, "Producer-Seq", "0").wantError(400, wire.CodeInvalidRequest)
		s.post("a", "text/plain", "x", "Producer-Id", "p", "Producer-Epoch", "0", "Producer-Seq", value).wantError(400, wire.CodeInvalidRequest)
	}
	s.post("a", "text/plain", "x", "Producer-Id", "", "Producer-Epoch", "0", "Producer-Seq", "0").wantError(400, wire.CodeInvalidRequest)
	s.post("a", "text/plain", "x", "Producer-Id", "  ", "Producer-Epoch", "0", "Producer-Seq", "0").wantError(400, wire.CodeInvalidRequest)
	s.post("a", "text/plain", "x", "Producer-Id", strings.Repeat("p", 257), "Producer-Epoch", "0", "Producer-Seq", "0").wantError(400, wire.CodeInvalidRequest)
	s.post("a", "text/plain", "x", "Producer-Id", strings.Repeat("p", 256), "Producer-Epoch", "9007199254740991", "Producer-Seq", "0").
		want(200, "Producer-Epoch", "9007199254740991")
	s.get("a").wantBody("x")
}

func TestSection521TheValidationOfProducers(t *testing.T) {
	s := serve(t, durablestreams.Config{})
	s.put("a", "text/plain", "")
	for i, c := range []struct {
		epoch, seq int
		status     int
		headers    []string
	}{
		{0, 0, 200, []string{"Producer-Epoch", "0", "Producer-Seq", "0", "Stream-Next-Offset", offset(1)}},
		{0, 1, 200, []string{"Producer-Epoch", "0", "Producer-Seq", "1", "Stream-Next-Offset", offset(2)}},
		{0, 2, 200, []string{"Producer-Epoch", "0", "Producer-Seq", "2"}},
		{0, 0, 204, []string{"Producer-Epoch", "0", "Producer-Seq", "2", "Stream-Next-Offset", "+"}},
		{0, 2, 204, []string{"Producer-Epoch", "0", "Producer-Seq", "2"}},
		{0, 4, 409, []string{"Producer-Expected-Seq", "3", "Producer-Received-Seq", "4", "Stream-Closed", "-"}},
		{1, 1, 400, nil},
		{2, 0, 200, []string{"Producer-Epoch", "2", "Producer-Seq", "0"}},
		{1, 0, 403, []string{"Producer-Epoch", "2"}},
		{0, 3, 403, []string{"Producer-Epoch", "2"}},
		{2, 1, 200, []string{"Producer-Epoch", "2", "Producer-Seq", "1"}},
	} {
		a := s.post("a", "text/plain", strconv.Itoa(i), producer("p", c.epoch, c.seq)...).want(c.status, c.headers...)
		switch c.status {
		case 403:
			if d := a.wantError(403, wire.CodeProducerFenced); d.Epoch == nil || *d.Epoch != 2 {
				t.Errorf("the error says %+v", d)
			}
		case 409:
			if d := a.wantError(409, wire.CodeProducerGap); d.ExpectedSeq == nil || *d.ExpectedSeq != 3 {
				t.Errorf("the error says %+v", d)
			}
		}
	}
	s.post("a", "text/plain", "other", producer("q", 0, 0)...).want(200)
	s.post("a", "text/plain", "late", producer("r", 0, 1)...).want(409, "Producer-Expected-Seq", "0", "Producer-Received-Seq", "1")
	s.get("a").wantBody("012710other")
}

func TestSection521DuplicatesAreFoundBeforeStreamSeq(t *testing.T) {
	s := serve(t, durablestreams.Config{})
	s.put("a", "text/plain", "")
	s.post("a", "text/plain", "x", append(producer("p", 0, 0), "Stream-Seq", "a")...).want(200)
	s.post("a", "text/plain", "x", append(producer("p", 0, 0), "Stream-Seq", "a")...).want(204)
	s.post("a", "text/plain", "y", append(producer("p", 0, 1), "Stream-Seq", "a")...).wantError(409, wire.CodeStreamSeq)
	s.post("a", "text/plain", "y", append(producer("p", 0, 1), "Stream-Seq", "b")...).want(200)
}

func TestSection521ARefusedWriteLeavesTheProducerWhereItWas(t *testing.T) {
	s := serve(t, durablestreams.Config{})
	s.put("a", "application/json", "[]")
	s.post("a", "application/json", "{", producer("p", 0, 0)...).wantError(400, wire.CodeInvalidJSON)
	s.post("a", "text/plain", "x", producer("p", 0, 0)...).wantError(409, wire.CodeContentType)
	s.post("a", "application/json", "1", append(producer("p", 0, 0), "If-Match", offset(9))...).wantError(412, wire.CodePrecondition)
	s.post("a", "application/json", "1", producer("p", 0, 0)...).want(200)
}

func TestSection521AClosedStreamKnowsWhoClosedIt(t *testing.T) {
	s := serve(t, durablestreams.Config{})
	s.put("a", "text/plain", "")
	closing := []string{"Stream-Closed", "true"}
	s.post("a", "text/plain", "one", producer("p", 1, 0)...).want(200, "Stream-Closed", "-")
	s.post("a", "text/plain", "two", append(producer("p", 1, 1), closing...)...).want(200, "Stream-Closed", "true", "Producer-Seq", "1")
	s.post("a", "text/plain", "two", append(producer("p", 1, 1), closing...)...).
		want(204, "Stream-Closed", "true", "Stream-Next-Offset", offset(2), "Producer-Epoch", "1", "Producer-Seq", "1")
	s.post("a", "text/plain", "two", producer("p", 1, 1)...).want(204, "Stream-Closed", "true")
	for _, headers := range [][]string{
		producer("p", 1, 2), append(producer("p", 1, 2), closing...), producer("q", 0, 0), append(producer("q", 0, 0), closing...), producer("p", 2, 0),
	} {
		a := s.post("a", "text/plain", "late", headers...)
		a.wantError(409, wire.CodeClosed, "Stream-Closed", "true", "Stream-Next-Offset", offset(2),
			"Producer-Received-Seq", headers[5], "Producer-Expected-Seq", headers[5])
	}
	s.post("a", "text/plain", "late", producer("p", 0, 0)...).wantError(403, wire.CodeProducerFenced, "Producer-Epoch", "1")

	s.put("b", "text/plain", "")
	s.post("b", "", "", append(producer("p", 0, 0), closing...)...).want(204, "Stream-Closed", "true", "Producer-Epoch", "0", "Producer-Seq", "0")
	s.post("b", "", "", append(producer("p", 0, 0), closing...)...).want(204, "Stream-Closed", "true", "Producer-Epoch", "0", "Producer-Seq", "0")
	s.post("b", "", "", append(producer("p", 0, 1), closing...)...).wantError(409, wire.CodeClosed)
	s.post("b", "", "", closing...).want(204, "Stream-Closed", "true")
}

func TestSection521ConcurrentRetriesAreWrittenOnce(t *testing.T) {
	s := serve(t, durablestreams.Config{})
	s.put("a", "application/json", "[]")
	var wait sync.WaitGroup
	for seq := range 20 {
		for range 4 {
			wait.Go(func() {
				for {
					a, err := s.try("POST", "a", strings.NewReader(strconv.Itoa(seq)), append(producer("p", 0, seq), "Content-Type", "application/json")...)
					if err != nil || a.status != 409 {
						if err != nil || a.status/100 != 2 {
							t.Errorf("%v %+v", err, a)
						}
						return
					}
				}
			})
		}
	}
	wait.Wait()
	s.get("a").wantBody("[0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19]")
}

func TestSection91JSONIsKeptByteForByte(t *testing.T) {
	s := serve(t, durablestreams.Config{})
	for i, c := range []struct{ body, want string }{
		{`{"a" : 1.0e+2 , "a":12345678901234567890123}`, `[{"a" : 1.0e+2 , "a":12345678901234567890123}]`},
		{` [ 1 , "two",[3,[4]] , {"five" : 6} ] `, `[1,"two",[3,[4]],{"five" : 6}]`},
		{`[[1,2],[3,4]]`, `[[1,2],[3,4]]`},
		{`[[[1,2,3]]]`, `[[[1,2,3]]]`},
		{`"日本\u65e5 😀 \ud800"`, `["日本\u65e5 😀 \ud800"]`},
		{"{\n\t\"a\": [\r\n1]}", "[{\n\t\"a\": [\r\n1]}]"},
		{`null`, `[null]`},
		{`-0.0`, `[-0.0]`},
		{`""`, `[""]`},
		{`[[]]`, `[[]]`},
	} {
		name := fmt.Sprint(i)
		s.put(name, "application/json; charset=utf-8", "[]").want(201, "Stream-Next-Offset", offset(0))
		s.post(name, "application/json", c.body).want(204)
		s.get(name).want(200, "Content-Type", "application/json; charset=utf-8").wantBody(c.want)
		s.put(name+"put", "application/json", c.body).want(201)
		s.get(name + "put").wantBody(c.want)
	}
}

func TestSection91InvalidJSONIsRefused(t *testing.T) {
	s := serve(t, durablestreams.Config{})
	s.put("a", "application/json", "").want(201)
	for _, body := range []string{
		`{`, `[1,]`, `{"a":}`, `{a:1}`, `'x'`, `1 2`, `[1][2]`, `nul`, `NaN`, `01`, `"\x"`, "\"\n\"", "\"\xff\"", `   `, "\ufeff{}", `[1,2`, `undefined`,
		strings.Repeat("[", 5000) + strings.Repeat("]", 5000),
	} {
		s.post("a", "application/json", body).wantError(400, wire.CodeInvalidJSON)
		s.put("b", "application/json", body).wantError(400, wire.CodeInvalidJSON)
	}
	if d := s.post("a", "application/json", strings.Repeat("[", 5000)+strings.Repeat("]", 5000)).wantError(400, wire.CodeInvalidJSON); !strings.Contains(d.Message, "1000") {
		t.Errorf("the error says %+v", d)
	}
	s.head("b").want(404)
	s.get("a").wantBody("[]")
}

// failing answers every append with an error.
type failing struct {
	durablestreams.Log
	err error
}

func (f failing) Append(context.Context, runnel.Segment, runnel.AppendOptions, ...runnel.Record) (runnel.Appended, error) {
	return runnel.Appended{}, f.err
}

func TestFailuresOfTheLogAreToldApart(t *testing.T) {
	for _, c := range []struct {
		err    error
		status int
		code   wire.Code
		retry  string
	}{
		{&runnel.UnavailableError{Reason: "fail-over", RetryAfter: 2500 * time.Millisecond}, 503, wire.CodeUnavailable, "3"},
		{runnel.ErrUnavailable, 503, wire.CodeUnavailable, "1"},
		{&runnel.StorageFullError{Free: 5, Keep: 7, Need: 1}, 507, wire.CodeStorageFull, "5"},
		{runnel.ErrShutdown, 503, wire.CodeShutdown, "1"},
		{fmt.Errorf("commit: %w", runnel.ErrUnknown), 500, wire.CodeUnknown, "-"},
		{fmt.Errorf("disk: %w", runnel.ErrFailed), 500, wire.CodeFailed, "-"},
		{errors.New("a secret of the inside"), 500, wire.CodeInternal, "-"},
		{&runnel.TooLargeError{What: "commit", Limit: 10, Got: 11}, 413, wire.CodeTooLarge, "-"},
		{&runnel.InvalidError{What: "it", Rule: "must not"}, 400, wire.CodeInvalidRequest, "-"},
	} {
		t.Run(c.err.Error(), func(t *testing.T) {
			s := serveLog(t, durablestreams.Config{}, func(l durablestreams.Log) durablestreams.Log { return failing{l, c.err} })
			d := s.post("a", "text/plain", "x").wantError(c.status, c.code, "Retry-After", c.retry)
			if strings.Contains(d.Message, "secret") {
				t.Errorf("the error tells %q", d.Message)
			}
		})
	}
}
