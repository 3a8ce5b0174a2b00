package durablestreams_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/durablestreams"
	"github.com/runnelhq/runnel/wire"
)

func TestSection56ACatchUpReadReachesTheTail(t *testing.T) {
	s := serve(t, durablestreams.Config{})
	s.put("a", "text/plain", "")
	s.get("a").want(200, "Stream-Next-Offset", offset(0), "Stream-Up-To-Date", "true", "Stream-Closed", "-", "Content-Type", "text/plain",
		"Content-Length", "0").wantBody("")
	s.post("a", "text/plain", "one")
	s.post("a", "text/plain", "two")
	for _, query := range []string{"", "?offset=-1", "?offset=" + offset(0), "?unknown=1&offset=-1&x", "?offset=-1&", "?%zz&offset=-1"} {
		s.get("a"+query).want(200, "Stream-Next-Offset", offset(2), "Stream-Up-To-Date", "true", "Content-Length", "6").wantBody("onetwo")
	}
	s.get("a?offset="+offset(1)).want(200, "Stream-Next-Offset", offset(2), "Stream-Up-To-Date", "true").wantBody("two")
	s.get("a?offset="+offset(2)).want(200, "Stream-Next-Offset", offset(2), "Stream-Up-To-Date", "true").wantBody("")
	s.get("a?offset=" + offset(1)[:16] + "%5F" + offset(1)[17:]).want(200).wantBody("two")
}

func TestSection8MalformedOffsetsAreRefused(t *testing.T) {
	s := serve(t, durablestreams.Config{})
	s.put("a", "text/plain", "x")
	for _, value := range []string{"", "1", "-2", "NOW", "Now", "now ", "0,1", "0 1", "0+1", "a/b", "..%2F..", "%00", "%0d%0a", "0000000000000001", offset(1) + "0", "%",
		"00000000000000x1_0000000000000000", "0000000000000001-0000000000000000", "0000000000000000_0000000000000001", strings.Repeat("9", 1000)} {
		for _, mode := range []string{"", "&live=long-poll", "&live=sse"} {
			a := s.do("GET", "a?offset="+strings.ReplaceAll(value, " ", "%20")+mode, "")
			if a.status != 400 {
				t.Errorf("offset=%q%s: status %d, want 400", value, mode, a.status)
			}
		}
	}
	s.get("a?offset=-1&offset=-1").wantError(400, wire.CodeInvalidRequest)
	s.get("a?offset="+offset(2)).wantError(400, wire.CodeBeyondTail)
	s.get("a?offset="+offset(2)+"&live=long-poll").wantError(400, wire.CodeBeyondTail)
	s.get("a?offset="+offset(2)+"&live=sse").wantError(400, wire.CodeBeyondTail)
	s.get("a?offset=9999999999999999_9999999999999999").wantError(400, wire.CodeBeyondTail)
	s.get("a?offset=-1&live=tail").wantError(400, wire.CodeInvalidRequest)
	s.get("a?offset=-1&live=").wantError(400, wire.CodeInvalidRequest)
	s.get("a?offset=-1&live=sse&live=sse").wantError(400, wire.CodeInvalidRequest)
	s.get("a?live=long-poll").wantError(400, wire.CodeInvalidOffset)
	s.get("a?live=sse").wantError(400, wire.CodeInvalidOffset)
}

func TestSection8OffsetsSortAsTextAndFitAURL(t *testing.T) {
	s := serve(t, durablestreams.Config{})
	last := s.put("a", "text/plain", "").next()
	for range 120 {
		next := s.post("a", "text/plain", "x").next()
		if next <= last || strings.ContainsAny(next, ",&=?/ ") || next == "-1" || next == "now" || len(next) > 255 {
			t.Fatalf("the offset %q follows %q", next, last)
		}
		last = next
	}
}

func TestSection8NowSkipsWhatIsThere(t *testing.T) {
	s := serve(t, durablestreams.Config{})
	s.put("text", "text/plain", "x")
	s.put("json", "application/json", "[1]")
	for name, empty := range map[string]string{"text": "", "json": "[]"} {
		s.get(name+"?offset=now", "If-None-Match", "*").want(200, "Stream-Next-Offset", offset(1), "Stream-Up-To-Date", "true",
			"Cache-Control", "no-store", "ETag", "-", "Stream-Closed", "-").wantBody(empty)
		s.get(name+"?offset=now&live=long-poll&timeout=0").want(204, "Stream-Next-Offset", offset(1), "Stream-Up-To-Date", "true", "Stream-Cursor", "+", "Stream-Closed", "-", "ETag", "+")
		s.post(name, "", "", "Stream-Closed", "true")
		s.get(name+"?offset=now").want(200, "Stream-Next-Offset", offset(1), "Stream-Up-To-Date", "true", "Stream-Closed", "true", "ETag", "-").wantBody(empty)
		s.get(name+"?offset=now&live=long-poll").want(204, "Stream-Next-Offset", offset(1), "Stream-Up-To-Date", "true", "Stream-Closed", "true")
		e := s.live(name + "?offset=now&live=sse")
		for _, h := range []struct{ name, want string }{{"Stream-Closed", "true"}, {"Stream-Up-To-Date", "true"}, {"Stream-Next-Offset", offset(1)}} {
			if got := e.resp.Header.Get(h.name); got != h.want {
				t.Errorf("SSE from now on a closed stream: %s is %q, want %q", h.name, got, h.want)
			}
		}
		if _, has, c := e.pair(); has || !c.StreamClosed || !c.UpToDate || c.StreamNextOffset != offset(1) || c.StreamCursor != "" {
			t.Errorf("SSE from now on a closed stream: %+v", c)
		}
		e.wantEnd()
	}
}

func TestALargeStreamIsOneResponse(t *testing.T) {
	s := serve(t, durablestreams.Config{})
	piece := strings.Repeat("0123456789abcdef", 4096) // 64 KiB
	s.put("text", "text/plain", "")
	s.put("json", "application/json", "[]")
	var want strings.Builder
	want.WriteByte('[')
	for i := range 100 {
		s.post("text", "text/plain", piece).want(204)
		s.post("json", "application/json", `"`+piece+`"`).want(204)
		if i > 0 {
			want.WriteByte(',')
		}
		want.WriteString(`"` + piece + `"`)
	}
	want.WriteByte(']')
	s.get("text").want(200, "Stream-Up-To-Date", "true", "Stream-Next-Offset", offset(100)).wantBody(strings.Repeat(piece, 100))
	s.get("json").want(200, "Stream-Up-To-Date", "true", "Stream-Next-Offset", offset(100)).wantBody(want.String())
}

func TestAnEntryOfManyMegabytesComesBack(t *testing.T) {
	s := serve(t, durablestreams.Config{})
	body := strings.Repeat("x", 10<<20)
	s.put("a", "application/octet-stream", "")
	s.post("a", "application/octet-stream", body).want(204)
	s.get("a").want(200, "Content-Disposition", "attachment").wantBody(body)
}

// endless has streams whose size no memory can hold: every read yields so many entries of a megabyte.
type endless struct {
	durablestreams.Log
	entries int
	breaks  int // the read fails after so many; 0 for never
	err     error
}

type bigBatch struct {
	runnel.Batch
	at      runnel.Sequence
	payload []byte
}

func (b bigBatch) First() runnel.Sequence { return b.at }
func (b bigBatch) Last() runnel.Sequence  { return b.at }
func (b bigBatch) Len() int               { return 1 }
func (b bigBatch) Payload(int) []byte     { return b.payload }
func (b bigBatch) Payloads() []byte       { return b.payload }

func (l endless) ReadStart(ctx context.Context, seg runnel.Segment) (runnel.View, error) {
	return l.Read(ctx, seg, 0, 0)
}

func (l endless) Read(_ context.Context, seg runnel.Segment, _ uint64, from runnel.Sequence) (runnel.View, error) {
	v := runnel.View{Info: runnel.Info{Segment: seg, ID: 1, ContentType: "text/plain", Tail: runnel.Sequence(l.entries)}, From: from}
	payload := make([]byte, 1<<20)
	v.PayloadBytes = -1
	if l.breaks == 0 {
		v.PayloadBytes = int64(v.Tail-from) << 20
	}
	v.Stream = func(yield func(runnel.Batch, error) bool) {
		for i := from; i < v.Tail; i++ {
			if l.breaks > 0 && int(i) == l.breaks-1 {
				yield(nil, l.err)
				return
			}
			if !yield(bigBatch{at: i + 1, payload: payload}, nil) {
				return
			}
		}
	}
	return v, nil
}

func TestReadingAGigabyteTakesBoundedMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("moves a gigabyte")
	}
	s := serveLog(t, durablestreams.Config{}, func(l durablestreams.Log) durablestreams.Log { return endless{Log: l, entries: 1024} })
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	resp, err := s.start(t.Context(), "GET", "a", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	n, err := io.Copy(io.Discard, resp.Body)
	if err != nil || n != 1<<30 {
		t.Fatalf("read %d bytes, %v", n, err)
	}
	runtime.ReadMemStats(&after)
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 16<<20 {
		t.Errorf("allocated %d bytes for it", grown)
	}
}

func TestAResponseThatCannotBeFinishedIsBrokenOff(t *testing.T) {
	for _, version := range []string{"HTTP/1.1", "HTTP/2"} {
		t.Run(version, func(t *testing.T) {
			s := serveLog(t, durablestreams.Config{}, func(l durablestreams.Log) durablestreams.Log {
				return endless{Log: l, entries: 10, breaks: 6, err: &runnel.NotFoundError{}}
			})
			if version == "HTTP/2" {
				s.useHTTP2()
			}
			resp, err := s.start(t.Context(), "GET", "a", nil)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			n, err := io.Copy(io.Discard, resp.Body)
			if err == nil || n > 5<<20 {
				t.Errorf("read %d bytes, %v, want an error after at most 5 MiB", n, err)
			}
		})
	}
}

func TestAReadThatFailsBeforeItBeginsIsAnError(t *testing.T) {
	s := serveLog(t, durablestreams.Config{}, func(l durablestreams.Log) durablestreams.Log {
		return endless{Log: l, entries: 10, breaks: 1, err: &runnel.TrimmedError{Earliest: 7}}
	})
	s.get("a").wantError(410, wire.CodeTrimmed, "Stream-Earliest-Offset", offset(7), "ETag", "-", "Stream-Up-To-Date", "-", "Stream-Next-Offset", "-")
}

func TestAReaderThatStandsStillIsDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, stop := serveInBubble(t, durablestreams.Config{ProgressTimeout: 10 * time.Second})
		defer stop()
		s.put("a", "text/plain", strings.Repeat("x", 1<<20))
		resp, err := s.start(t.Context(), "GET", "a", nil)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		time.Sleep(time.Minute) //nolint:forbidigo // the time of the bubble
		if n, err := io.Copy(io.Discard, resp.Body); err == nil {
			t.Errorf("read %d bytes to the end, although nothing was read for a minute", n)
		}
	})
}

func TestSection57ALongPollAnswersWhenThereIsData(t *testing.T) {
	s := serve(t, durablestreams.Config{})
	s.put("a", "text/plain", "old")
	s.get("a?offset=-1&live=long-poll").want(200, "Stream-Cursor", "+", "Stream-Up-To-Date", "true", "Stream-Next-Offset", offset(1), "ETag", "+").wantBody("old")
	for _, from := range []string{offset(1), "now"} {
		got := make(chan *answer)
		go func() {
			a, err := s.try("GET", "a?offset="+from+"&live=long-poll", nil)
			if err != nil {
				t.Error(err)
			}
			got <- a
		}()
		var a *answer
		for a == nil { // appends until the poll has seen one, as it may begin late
			s.post("a", "text/plain", "new").want(204)
			select {
			case a = <-got:
			case <-time.After(5 * time.Millisecond):
			}
		}
		a.want(200, "Stream-Cursor", "+", "Stream-Up-To-Date", "true")
		if !strings.HasPrefix(a.body, "new") {
			t.Errorf("from %s: got %q", from, a.body)
		}
	}
}

func TestSection57ALongPollWithoutDataEndsInTime(t *testing.T) {
	for _, c := range []struct {
		query string
		want  time.Duration
	}{
		{"", 30 * time.Second},
		{"&timeout=5", 5 * time.Second},
		{"&timeout=0", 0},
		{"&timeout=3600", 30 * time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			s, stop := serveInBubble(t, durablestreams.Config{})
			defer stop()
			s.put("a", "text/plain", "x")
			begin := time.Now()
			s.get("a?offset="+offset(1)+"&live=long-poll"+c.query).want(204, "Stream-Next-Offset", offset(1), "Stream-Up-To-Date", "true",
				"Stream-Cursor", "+", "Stream-Closed", "-", "Cache-Control", "no-store").wantBody("")
			if took := time.Since(begin); took != c.want {
				t.Errorf("%s: took %s, want %s", c.query, took, c.want)
			}
		})
	}
	s := serve(t, durablestreams.Config{})
	s.put("a", "text/plain", "x")
	for _, value := range []string{"", "-1", "1.5", "x", "05", "1&timeout=2"} {
		s.get("a?offset=now&live=long-poll&timeout="+value).wantError(400, wire.CodeInvalidRequest)
	}
}

func TestSection57WhatHappensToAWaitingLongPoll(t *testing.T) {
	for _, c := range []struct {
		name    string
		happens func(s *server)
		status  int
		headers []string
	}{
		{"the stream is closed", func(s *server) { s.post("a", "", "", "Stream-Closed", "true") }, 204,
			[]string{"Stream-Closed", "true", "Stream-Up-To-Date", "true", "Stream-Next-Offset", offset(1)}},
		{"the stream is closed with data", func(s *server) { s.post("a", "text/plain", "last", "Stream-Closed", "true") }, 200,
			[]string{"Stream-Closed", "true", "Stream-Up-To-Date", "true", "Stream-Next-Offset", offset(2)}},
		{"the stream is deleted", func(s *server) { s.do("DELETE", "a", "") }, 404, nil},
		{"the stream is deleted and created again", func(s *server) { s.do("DELETE", "a", ""); s.put("a", "text/plain", "new") }, 404, nil},
		{"the stream expires", func(*server) {}, 404, nil},
		{"the handler is shut down", func(s *server) { _ = s.handler.Shutdown(s.t.Context()) }, 204,
			[]string{"Stream-Up-To-Date", "true", "Stream-Next-Offset", offset(1)}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, stop := serveInBubble(t, durablestreams.Config{})
				defer stop()
				s.put("a", "text/plain", "x", "Stream-Expires-At", time.Now().Add(20*time.Second).Format(time.RFC3339)).want(201)
				done := make(chan struct{})
				go func() {
					defer close(done)
					s.get("a?offset="+offset(1)+"&live=long-poll").want(c.status, c.headers...)
				}()
				synctest.Wait()
				c.happens(s)
				<-done
			})
		})
	}
}

func TestSection57ALongPollOfAForkWaitsForTheForkAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, stop := serveInBubble(t, durablestreams.Config{})
		defer stop()
		s.put("source", "text/plain", "inherited")
		s.put("fork", "", "", "Stream-Forked-From", "/v1/stream/source").want(201)
		s.get("fork?offset=-1&live=long-poll").want(200).wantBody("inherited")
		done := make(chan struct{})
		begin := time.Now()
		go func() {
			defer close(done)
			s.get("fork?offset=" + offset(1) + "&live=long-poll").want(200).wantBody("own")
			if time.Since(begin) != 10*time.Second {
				t.Errorf("answered after %s", time.Since(begin))
			}
		}()
		synctest.Wait()
		s.post("source", "text/plain", "not for the fork")
		time.Sleep(10 * time.Second) //nolint:forbidigo // the time of the bubble
		s.post("fork", "text/plain", "own")
		<-done
	})
}

func TestRetentionAnswersGoneWithTheEarliestOffset(t *testing.T) {
	s := serve(t, durablestreams.Config{})
	s.put("a", "application/json", "[1,2,3,4,5]", "Stream-Retention-Count", "2").want(201)
	s.head("a").want(200, "Stream-Earliest-Offset", offset(3), "Stream-Next-Offset", offset(5))
	for _, mode := range []string{"", "&live=long-poll", "&live=sse"} {
		a := s.get("a?offset=" + offset(2) + mode)
		d := a.wantError(410, wire.CodeTrimmed, "Stream-Earliest-Offset", offset(3))
		var body struct {
			EarliestOffset string `json:"earliest_offset"`
		}
		if err := json.Unmarshal([]byte(a.body), &body); err != nil || body.EarliestOffset != offset(3) || d.EarliestOffset != offset(3) {
			t.Errorf("body %s, %v", a.body, err)
		}
	}
	s.get("a?offset="+offset(3)).want(200, "Stream-Earliest-Offset", offset(3)).wantBody("[4,5]")
	s.get("a?offset=-1").want(200, "Stream-Earliest-Offset", offset(3), "Stream-Next-Offset", offset(5)).wantBody("[4,5]")
	s.get("a").want(200).wantBody("[4,5]")
	s.get("a?offset=" + offset(5)).want(200).wantBody("[]")
	if _, _, c := s.live("a?offset=-1&live=sse").pair(); c.StreamNextOffset != offset(5) {
		t.Errorf("SSE from the beginning: %+v", c)
	}
}

func TestSection101CacheControl(t *testing.T) {
	for _, scope := range []string{"public", "private"} {
		s := serve(t, durablestreams.Config{Private: scope == "private"})
		cacheable, level := scope+", max-age=60, stale-while-revalidate=300", scope+", no-cache"
		s.put("a", "text/plain", "x")
		s.get("a").want(200, "Cache-Control", cacheable)
		s.get("a?offset=-1&live=long-poll").want(200, "Cache-Control", cacheable)
		s.get("a?offset="+offset(1)).want(200, "Cache-Control", level)
		s.get("a?offset=now").want(200, "Cache-Control", "no-store")
		s.get("a?offset=now&live=long-poll&timeout=0").want(204, "Cache-Control", "no-store")
		s.head("a").want(200, "Cache-Control", "no-store")
		s.get("nothing").want(404, "Cache-Control", "no-store")
		s.post("a", "", "", "Stream-Closed", "true")
		s.get("a").want(200, "Cache-Control", cacheable)
		s.get("a?offset="+offset(1)).want(200, "Cache-Control", cacheable)
		s.get("a?offset=now").want(200, "Cache-Control", "no-store")
	}
}

func TestSection56NothingIsCachedForLongerThanItLasts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, stop := serveInBubble(t, durablestreams.Config{})
		defer stop()
		in := func(d time.Duration) string { return time.Now().Add(d).Format(time.RFC3339Nano) }
		for i, c := range []struct{ name, value, want string }{
			{"Stream-Expires-At", in(time.Hour), "public, max-age=60, stale-while-revalidate=300"},
			{"Stream-Expires-At", in(90*time.Second + time.Millisecond), "public, max-age=60, stale-while-revalidate=30"},
			{"Stream-Expires-At", in(2500 * time.Millisecond), "public, max-age=2"},
			{"Stream-Expires-At", in(900 * time.Millisecond), "no-store"},
			{"Stream-TTL", "360", "public, max-age=60, stale-while-revalidate=300"},
			{"Stream-TTL", "61", "public, max-age=60, stale-while-revalidate=1"},
			{"Stream-TTL", "60", "public, max-age=60"},
			{"Stream-TTL", "5", "public, max-age=5"},
			{"Stream-Retention-Age", "100", "public, max-age=60, stale-while-revalidate=40"},
			{"Stream-Retention-Age", "1", "public, max-age=1"},
		} {
			name := fmt.Sprint(i)
			s.put(name, "text/plain", "x", c.name, c.value).want(201)
			s.get(name).want(200, "Cache-Control", c.want)
		}
	})
}

func TestSection101AnotherDatabaseHasOtherETags(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var before string
		for range 2 {
			s, stop := serveInBubble(t, durablestreams.Config{})
			s.put("a", "text/plain", "x")
			tag := s.get("a").header.Get("ETag")
			if tag == before {
				t.Errorf("both have %s", tag)
			}
			before = tag
			time.Sleep(time.Millisecond) //nolint:forbidigo // the time of the bubble
			stop()
		}
	})
}

func TestSection101ETagsNameWhatIsInAResponse(t *testing.T) {
	s := serve(t, durablestreams.Config{})
	s.put("a", "text/plain", "x")
	seen := map[string]string{}
	note := func(what string, a *answer) string {
		tag := a.want(200, "ETag", "+").header.Get("ETag")
		if len(tag) < 3 || tag[0] != '"' || tag[len(tag)-1] != '"' {
			t.Errorf("%s: malformed ETag %s", what, tag)
		}
		if before, ok := seen[tag]; ok {
			t.Errorf("%s has the ETag of %s: %s", what, before, tag)
		}
		seen[tag] = what
		return tag
	}
	first := note("one entry", s.get("a"))
	if again := s.get("a?offset=-1").header.Get("ETag"); again != first {
		t.Errorf("the same bytes have the ETags %s and %s", first, again)
	}
	note("its tail", s.get("a?offset="+offset(1)))
	s.post("a", "text/plain", "y")
	note("two entries", s.get("a"))
	open := note("the tail of two", s.get("a?offset="+offset(2)))
	s.get("a?offset="+offset(2), "If-None-Match", open).want(304)
	s.post("a", "", "", "Stream-Closed", "true")
	note("two entries, closed", s.get("a"))
	note("the tail of two, closed", s.get("a?offset="+offset(2)))
	s.get("a?offset="+offset(2), "If-None-Match", open).want(200, "Stream-Closed", "true")
	s.do("DELETE", "a", "")
	s.put("a", "text/plain", "x")
	note("another stream of the same name", s.get("a"))
}

func TestSection101IfNoneMatch(t *testing.T) {
	s := serve(t, durablestreams.Config{})
	s.put("a", "text/plain", "x")
	tag := s.get("a").header.Get("ETag")
	for _, c := range []struct {
		value  string
		status int
	}{
		{tag, 304}, {"W/" + tag, 304}, {"*", 304}, {`"x", ` + tag, 304}, {`"x",W/` + tag + `,"y"`, 304}, {`"a,b", ` + tag, 304}, {" , " + tag, 304},
		{`"x"`, 200}, {`W/"x"`, 200}, {"", 200}, {strings.Trim(tag, `"`), 200}, {`"` + tag, 200}, {tag[:len(tag)-1], 200}, {`"unfinished`, 200}, {"W/", 200},
	} {
		a := s.get("a", "If-None-Match", c.value).want(c.status)
		if c.status == 304 {
			a.want(304, "ETag", tag, "Cache-Control", "public, max-age=60, stale-while-revalidate=300", "Stream-Next-Offset", offset(1),
				"Stream-Up-To-Date", "true", "Content-Type", "-", "X-Content-Type-Options", "nosniff").wantBody("")
		} else {
			a.wantBody("x")
		}
	}
	s.get("a", "If-None-Match", `"x"`, "If-None-Match", tag).want(304)
	s.get("a?offset=-1&live=long-poll", "If-None-Match", tag).want(304)
}

func TestSection101CursorsCountIntervalsAndNeverGoBack(t *testing.T) {
	s := serve(t, durablestreams.Config{})
	s.put("a", "text/plain", "x")
	interval := func() int64 {
		return int64(time.Since(time.Date(2024, 10, 9, 0, 0, 0, 0, time.UTC)) / (20 * time.Second))
	}
	cursorOf := func(mode, client string) string {
		switch mode {
		case "data":
			return s.get("a?offset=-1&live=long-poll&cursor=" + client).want(200).header.Get("Stream-Cursor")
		case "timeout":
			return s.get("a?offset=now&live=long-poll&timeout=0&cursor=" + client).want(204).header.Get("Stream-Cursor")
		}
		e := s.live("a?offset=-1&live=sse&cursor=" + client)
		defer e.close()
		_, _, c := e.pair()
		return c.StreamCursor
	}
	for _, mode := range []string{"data", "timeout", "sse"} {
		for _, client := range []string{"", "0", "1000", "abc", "-5", "1.5", "%20"} {
			before := interval()
			got, err := strconv.ParseInt(cursorOf(mode, client), 10, 64)
			if err != nil || got < before || got > interval() {
				t.Errorf("%s, client %q: cursor %d, %v, want the current interval", mode, client, got, err)
			}
		}
		now := interval()
		for _, ahead := range []int64{0, 1, 100, 1 << 40} {
			got, err := strconv.ParseInt(cursorOf(mode, fmt.Sprint(now+ahead)), 10, 64)
			if err != nil || got <= now+ahead || got > now+ahead+181 {
				t.Errorf("%s, client %d ahead: cursor %d, %v", mode, ahead, got-now, err)
			}
		}
		for _, huge := range []string{"9223372036854775807", "18446744073709551615", "99999999999999999999999999"} {
			got := cursorOf(mode, huge)
			if len(got) < len(huge) || len(got) == len(huge) && got <= huge {
				t.Errorf("%s, client %s: cursor %s goes back", mode, huge, got)
			}
		}
	}
	s.get("a?offset=-1&live=long-poll&cursor="+strings.Repeat("9", 65)).wantError(400, wire.CodeInvalidRequest)
	s.get("a?offset=-1&live=long-poll&cursor=1&cursor=2").wantError(400, wire.CodeInvalidRequest)
}

// answers makes one request for each kind of response there is.
func (s *server) answers(headers ...string) map[string]*answer {
	s.t.Helper()
	s.put("a", "text/plain", "x")
	s.put("closed", "text/plain", "x", "Stream-Closed", "true")
	s.put("trimmed", "application/json", "[1,2]", "Stream-Retention-Count", "1")
	with := func(more ...string) []string { return append(more, headers...) }
	return map[string]*answer{
		"201":              s.put("b", "text/plain", "", headers...).want(201),
		"200 PUT":          s.put("b", "text/plain", "", headers...).want(200),
		"204 POST":         s.post("a", "text/plain", "y", headers...).want(204),
		"200 POST":         s.post("a", "text/plain", "y", with(producer("p", 0, 0)...)...).want(200),
		"200 GET":          s.get("a", headers...).want(200),
		"304":              s.get("a", with("If-None-Match", "*")...).want(304),
		"204 long-poll":    s.get("a?offset=now&live=long-poll&timeout=0", headers...).want(204),
		"200 HEAD":         s.head("a", headers...).want(200),
		"204 DELETE":       s.do("DELETE", "b", "", headers...).want(204),
		"200 listing":      s.get("", headers...).want(200),
		"204 OPTIONS":      s.do("OPTIONS", "a", "", headers...).want(204),
		"400":              s.get("a?offset=x", headers...).want(400),
		"400 path":         s.get("a/../b", headers...),
		"403":              s.post("a", "text/plain", "y", with(producer("p", 0, 1)...)...),
		"404":              s.get("nothing", headers...).want(404),
		"404 HEAD":         s.head("nothing", headers...).want(404),
		"404 elsewhere":    s.get("/elsewhere", headers...).want(404),
		"405":              s.do("PATCH", "a", "", headers...).want(405),
		"409":              s.post("closed", "text/plain", "y", headers...).want(409),
		"410":              s.get("trimmed?offset="+offset(0), headers...).want(410),
		"412":              s.post("a", "text/plain", "y", with("If-Match", offset(0))...).want(412),
		"413":              s.post("a", "text/plain", strings.Repeat("x", 101), headers...).want(413),
		"415":              s.post("a", "text/plain", "y", with("Content-Encoding", "br")...).want(415),
		"501":              s.get("__ds/x", headers...).want(501),
		"200 SSE closed":   s.get("closed?offset=-1&live=sse", headers...).want(200),
		"204 EventSource":  s.get("closed?offset=-1&live=sse", with("Last-Event-ID", offset(1)+":closed")...).want(204),
		"200 HEAD listing": s.head("", headers...).want(200),
	}
}

func TestSection127SecurityHeadersAreOnEveryResponse(t *testing.T) {
	s := serve(t, durablestreams.Config{MaxBodyBytes: 100})
	all := s.answers()
	e := s.live("a?offset=now&live=sse")
	all["200 SSE"] = &answer{t: t, what: "SSE", status: 200, header: e.resp.Header}
	for what, a := range all {
		a.what = what
		a.want(a.status, "X-Content-Type-Options", "nosniff", "Cross-Origin-Resource-Policy", "cross-origin", "Access-Control-Allow-Origin", "*")
		if a.status >= 400 {
			a.want(a.status, "Cache-Control", "no-store")
		}
	}
}

func TestBrowsersMayReadEveryHeaderTheyNeed(t *testing.T) {
	s := serve(t, durablestreams.Config{MaxBodyBytes: 100})
	for what, a := range s.answers("Origin", "https://app.example") {
		exposed := strings.ToLower(strings.ReplaceAll(a.header.Get("Access-Control-Expose-Headers"), " ", ""))
		list := strings.Split(exposed, ",")
		for name := range a.header {
			switch strings.ToLower(name) {
			case "x-content-type-options", "cross-origin-resource-policy", "connection", "vary", "accept-encoding", "content-disposition", "x-accel-buffering":
				continue // for the browser, not for scripts
			}
			if strings.HasPrefix(name, "Access-Control-") {
				continue
			}
			if !strings.Contains(","+strings.Join(list, ",")+",", ","+strings.ToLower(name)+",") {
				t.Errorf("%s: %s is not exposed", what, name)
			}
		}
	}
}

func TestPreflightsAllowWhatClientsSend(t *testing.T) {
	s := serve(t, durablestreams.Config{})
	a := s.do("OPTIONS", "a", "", "Origin", "https://app.example", "Access-Control-Request-Method", "POST", "Access-Control-Request-Headers", "producer-id")
	a.want(204, "Access-Control-Allow-Origin", "*", "Access-Control-Max-Age", "+")
	for _, method := range []string{"GET", "HEAD", "POST", "PUT", "DELETE"} {
		if !strings.Contains(a.header.Get("Access-Control-Allow-Methods"), method) {
			t.Errorf("%s is not allowed", method)
		}
	}
	for _, name := range []string{"authorization", "content-type", "if-match", "if-none-match", "last-event-id", "stream-seq", "stream-ttl", "stream-expires-at", "stream-closed",
		"stream-forked-from", "stream-fork-offset", "stream-fork-sub-offset", "stream-retention-age", "producer-id", "producer-epoch", "producer-seq"} {
		if !strings.Contains(strings.ToLower(a.header.Get("Access-Control-Allow-Headers")), name) {
			t.Errorf("%s is not allowed", name)
		}
	}
}

func TestOnlyAllowedOriginsAreAllowed(t *testing.T) {
	s := serve(t, durablestreams.Config{AllowedOrigins: []string{"https://app.example", "https://other.example"}})
	s.put("a", "text/plain", "x")
	for _, method := range []string{"GET", "OPTIONS"} {
		s.do(method, "a", "", "Origin", "https://app.example").want(map[string]int{"GET": 200, "OPTIONS": 204}[method],
			"Access-Control-Allow-Origin", "https://app.example", "Access-Control-Expose-Headers", "+", "Vary", "Origin")
		s.do(method, "a", "", "Origin", "https://evil.example").want(map[string]int{"GET": 200, "OPTIONS": 204}[method],
			"Access-Control-Allow-Origin", "-", "Access-Control-Allow-Methods", "-", "Vary", "Origin")
		s.do(method, "a", "").want(map[string]int{"GET": 200, "OPTIONS": 204}[method], "Access-Control-Allow-Origin", "-", "Vary", "Origin")
	}
	s.get("nothing", "Origin", "https://app.example").want(404, "Access-Control-Allow-Origin", "https://app.example")
}

func TestTheStoreOfARequestIsAMatterOfTheProgram(t *testing.T) {
	one, two := runnel.Store{1}, runnel.Store{2}
	s := serve(t, durablestreams.Config{Store: func(r *http.Request) (runnel.Store, error) {
		switch r.Header.Get("Authorization") {
		case "one":
			return one, nil
		case "two":
			return two, nil
		}
		return runnel.Store{}, &wire.Error{Status: 401, Detail: wire.Detail{Code: "unauthorized", Message: "who are you?"}}
	}})
	s.put("a", "text/plain", "of one", "Authorization", "one").want(201)
	s.get("a", "Authorization", "one").want(200).wantBody("of one")
	s.get("a", "Authorization", "two").want(404)
	s.put("fork", "", "", "Authorization", "two", "Stream-Forked-From", "/v1/stream/a").want(404)
	s.get("a").wantError(401, "unauthorized")
	s.get("").wantError(401, "unauthorized")
	s.get("", "Authorization", "two").wantBody("{\"streams\":[]}\n")
	s.do("OPTIONS", "a", "").want(204)
}

func TestHTTP2ServesEverything(t *testing.T) {
	s := serve(t, durablestreams.Config{})
	s.useHTTP2()
	s.put("a", "application/json", `[1]`).want(201)
	s.doReader("POST", "a", chunked(`[2,3]`), "Content-Type", "application/json").want(204)
	a := s.get("a").want(200)
	a.wantBody("[1,2,3]")
	e := s.live("a?offset=" + offset(2) + "&live=sse")
	if e.resp.ProtoMajor != 2 {
		t.Fatalf("spoken is %s", e.resp.Proto)
	}
	if data, _, c := e.pair(); data != "[3]" || !c.UpToDate {
		t.Errorf("got %q, %+v", data, c)
	}
	s.post("a", "application/json", `[4,5]`)
	if data, _, c := e.pair(); data != "[4,5]" || !c.UpToDate || c.StreamNextOffset != offset(5) {
		t.Errorf("got %q, %+v", data, c)
	}
	s.post("a", "", "", "Stream-Closed", "true")
	if _, has, c := e.pair(); has || !c.StreamClosed {
		t.Errorf("got %+v", c)
	}
	e.wantEnd()
}

// seenIDs is what a registry says is there.
func (s *server) registered() (paths map[string]bool, next string) {
	s.t.Helper()
	a := s.get("__registry__").want(200, "Content-Type", "application/json")
	var changes []struct {
		Type  string
		Key   string
		Value *struct {
			Path, ContentType string
			CreatedAt         int64
		}
		Headers struct{ Operation string }
	}
	if err := json.Unmarshal([]byte(a.body), &changes); err != nil {
		s.t.Fatal(err)
	}
	paths = map[string]bool{}
	for _, c := range changes {
		switch {
		case c.Type != "stream":
			s.t.Errorf("a change of the type %q", c.Type)
		case c.Headers.Operation == "delete" && c.Value == nil:
			delete(paths, c.Key)
		case c.Headers.Operation == "insert" || c.Headers.Operation == "update":
			if c.Value == nil || c.Value.Path != c.Key || c.Value.ContentType != "text/plain" || c.Value.CreatedAt < 1e12 {
				s.t.Errorf("a change without its value: %+v", c)
			}
			paths[c.Key] = true
		default:
			s.t.Errorf("an odd change: %+v", c)
		}
	}
	return paths, a.next()
}

func TestTheRegistryListsTheStreamsThereAre(t *testing.T) {
	s := serve(t, durablestreams.Config{})
	s.put("a", "text/plain", "")
	s.put("b/c", "text/plain", "")
	paths, next := s.registered()
	if len(paths) != 2 || !paths["a"] || !paths["b/c"] {
		t.Errorf("registered are %v", paths)
	}
	s.put("d", "text/plain", "")
	s.do("DELETE", "a", "")
	for !strings.Contains(s.get("__registry__?live=long-poll&offset="+next).body, `"delete"`) {
		s.t.Log("waiting for the registry")
	}
	if paths, _ = s.registered(); len(paths) != 2 || !paths["d"] || !paths["b/c"] {
		t.Errorf("registered are %v", paths)
	}
	s.post("__registry__", "application/json", "{}").wantError(405, wire.CodeMethodNotAllowed, "Allow", "GET, HEAD, PUT, OPTIONS")
	s.do("DELETE", "__registry__", "").wantError(405, wire.CodeMethodNotAllowed)
	s.head("__registry__").want(200)
	s.put("__registry__", "application/json", "").want(200)
	s.put("__registry__", "text/plain", "").want(409)

	// What happens while no handler runs is found by the next one.
	_ = s.handler.Close()
	if err := s.log.Delete(t.Context(), runnel.Segment{Name: "d"}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.log.Create(t.Context(), runnel.Segment{Name: "e"}, runnel.CreateOptions{ContentType: "text/plain"}); err != nil {
		t.Fatal(err)
	}
	_, tail := s.registered()
	second := durablestreams.New(s.log, durablestreams.Config{})
	defer second.Close()
	from, err := runnel.ParseOffset(tail)
	if err != nil {
		t.Fatal(err)
	}
	for after := from; after < from+2; { // what came and what went may be two appends
		info, err := s.log.Wait(t.Context(), runnel.Segment{Name: "__registry__"}, 0, after)
		if err != nil {
			t.Fatal(err)
		}
		after = info.Tail
	}
	if paths, _ = s.registered(); len(paths) != 2 || !paths["e"] || !paths["b/c"] {
		t.Errorf("registered are %v", paths)
	}
}

// broken lists with an error.
type broken struct{ durablestreams.Log }

func (broken) List(context.Context, runnel.Store, runnel.ListOptions) iter.Seq2[runnel.Info, error] {
	return func(yield func(runnel.Info, error) bool) { yield(runnel.Info{}, errors.New("broken")) }
}

func TestAListingThatFailsIsAnError(t *testing.T) {
	s := serveLog(t, durablestreams.Config{}, func(l durablestreams.Log) durablestreams.Log { return broken{l} })
	s.get("").wantError(500, wire.CodeInternal)
	s.get("__registry__").wantError(500, wire.CodeInternal)
}

func TestAStreamThatOnlyHasTheNameOfTheRegistryIsLeftAlone(t *testing.T) {
	s := serve(t, durablestreams.Config{})
	if _, err := s.log.Create(t.Context(), runnel.Segment{Name: "__registry__"}, runnel.CreateOptions{
		ContentType: "text/plain", Records: []runnel.Record{{Payload: []byte("mine")}},
	}); err != nil {
		t.Fatal(err)
	}
	s.get("__registry__").want(200).wantBody("mine")
	off := serve(t, durablestreams.Config{NoRegistry: true})
	off.get("__registry__").want(404)
	off.put("__registry__", "text/plain", "x").want(201)
	off.do("DELETE", "__registry__", "").want(204)
}
