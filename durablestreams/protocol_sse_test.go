package durablestreams_test

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/durablestreams"
	"github.com/runnelhq/runnel/wire"
)

func TestSection58TheHeadOfALiveResponse(t *testing.T) {
	s := serve(t, durablestreams.Config{})
	for contentType, encoding := range map[string]string{
		"text/plain": "", "text/html; charset=utf-8": "", "TEXT/CSV": "", "application/json": "", "application/json; charset=utf-8": "", "Application/JSON": "",
		"application/octet-stream": "base64", "application/ndjson": "base64", "image/png": "base64", "application/vnd.api+json": "base64",
	} {
		name := strings.ReplaceAll(contentType, "/", "-")
		name = strings.NewReplacer(" ", "", ";", "", "=", "").Replace(name)
		s.put(name, contentType, "").want(201)
		for _, closed := range []bool{false, true} {
			if closed {
				s.post(name, "", "", "Stream-Closed", "true").want(204)
			}
			e := s.live(name + "?offset=-1&live=sse")
			for _, h := range []struct{ name, want string }{
				{"Content-Type", "text/event-stream"}, {"Stream-Sse-Data-Encoding", encoding}, {"Content-Length", ""},
				{"Cache-Control", "no-cache, no-transform"}, {"X-Accel-Buffering", "no"}, {"X-Content-Type-Options", "nosniff"},
			} {
				if got := e.resp.Header.Get(h.name); got != h.want {
					t.Errorf("%s, closed %v: %s is %q, want %q", contentType, closed, h.name, got, h.want)
				}
			}
			if e.resp.Header.Get("Date") == "" {
				t.Errorf("%s, closed %v: no Date", contentType, closed)
			}
			e.close()
		}
	}
	s.get("nothing?offset=-1&live=sse").wantError(404, wire.CodeNotFound)
}

func TestSection58TheBytesOfEvents(t *testing.T) {
	s := serve(t, durablestreams.Config{})
	s.put("a", "text/plain", "line1\nline2")
	cursor := fmt.Sprint(int64(time.Since(time.Date(2024, 10, 9, 0, 0, 0, 0, time.UTC)) / (20 * time.Second)))
	e := s.live("a?offset=-1&live=sse")
	want := "event: data\ndata:line1\ndata:line2\n\nevent: control\ndata:{\"streamNextOffset\":\"" + offset(1) +
		"\",\"streamCursor\":\"" + cursor + "\",\"upToDate\":true}\nid:" + offset(1) + "\n\n"
	got := make([]byte, len(want))
	if _, err := io.ReadFull(e.lines, got); err != nil || string(got) != want {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
	s.post("a", "", "", "Stream-Closed", "true")
	rest, err := io.ReadAll(e.lines)
	want = "event: control\ndata:{\"streamNextOffset\":\"" + offset(1) + "\",\"upToDate\":true,\"streamClosed\":true}\nid:" + offset(1) + ":closed\n\n"
	if err != nil || string(rest) != want {
		t.Errorf("got %q, %v, want %q", rest, err, want)
	}
}

func TestSection58PayloadsComeThroughEvents(t *testing.T) {
	s := serve(t, durablestreams.Config{})
	for i, c := range []struct{ payload, want string }{
		{"plain", "plain"}, {"a\nb", "a\nb"}, {"a\r\nb", "a\nb"}, {"a\rb", "a\nb"}, {"a\r\rb", "a\n\nb"}, {"a\n\rb", "a\n\nb"}, {"\n", "\n"}, {"\r\n\r\n", "\n\n"},
		{"ends\n", "ends\n"}, {" space", " space"}, {"a\n b\n  c", "a\n b\n  c"}, {"  two", "  two"}, {":colon", ":colon"},
		{"x\n\nevent: control\ndata: {}\n\n", "x\n\nevent: control\ndata: {}\n\n"}, {"日本語 😀", "日本語 😀"}, {"\x00", "\x00"}, {"\ufeffx", "\ufeffx"},
	} {
		name := fmt.Sprint(i)
		s.put(name, "text/plain", c.payload)
		live := s.live(name + "?offset=now&live=sse")
		live.pair()
		s.post(name, "text/plain", c.payload)
		if data, _, _ := live.pair(); data != c.want {
			t.Errorf("live: %q came as %q", c.payload, data)
		}
		late := s.live(name + "?offset=-1&live=sse")
		for range 2 {
			if data, _, _ := late.pair(); data != c.want {
				t.Errorf("caught up: %q came as %q", c.payload, data)
			}
		}
	}
	s.put("json", "application/json", "[{\"a\":\n1},\" \",[2]]")
	if data, _, _ := s.live("json?offset=-1&live=sse").pair(); data != "[{\"a\":\n1},\" \",[2]]" {
		t.Errorf("JSON came as %q", data)
	}
	for _, n := range []int{1, 2, 3, 4, 5, 1000} {
		name := fmt.Sprintf("binary%d", n)
		s.put(name, "application/octet-stream", "")
		piece := strings.Repeat("\xff", n)
		for range 3 {
			s.post(name, "application/octet-stream", piece)
		}
		e := s.live(name + "?offset=-1&live=sse")
		for range 3 {
			data, _, _ := e.pair()
			if got, err := base64.StdEncoding.DecodeString(strings.ReplaceAll(data, "\n", "")); err != nil || string(got) != piece {
				t.Errorf("binary came as %q, %v", got, err)
			}
		}
	}
}

func TestSection58ACharacterThatSpansAppendsComesWhole(t *testing.T) {
	s := serve(t, durablestreams.Config{})
	s.put("a", "text/plain", "a\xf0")
	for _, p := range []string{"\x9f", "\x98", "\x80b", "c\xe2", "d", "\x80", "\xc3", "\xc3\xa4", "\u00e4"} {
		s.post("a", "text/plain", p)
	}
	e := s.live("a?offset=-1&live=sse")
	for _, want := range []struct {
		data string
		end  int
	}{{"a\U0001F600b", 4}, {"c\xe2", 5}, {"d", 6}, {"\x80", 7}, {"\xc3", 8}, {"\u00e4", 9}, {"\u00e4", 10}} {
		if data, _, c := e.pair(); data != want.data || c.StreamNextOffset != offset(want.end) || c.UpToDate != (want.end == 10) {
			t.Errorf("got %q, %+v, want %q", data, c, want.data)
		}
	}
}

func TestSection58EachDataEventHasAControlEventAndOffsetsIncrease(t *testing.T) {
	s := serve(t, durablestreams.Config{})
	for _, contentType := range []string{"text/plain", "application/json", "application/octet-stream"} {
		name := strings.ReplaceAll(contentType, "/", "-")
		s.put(name, contentType, "")
		body := `"` + strings.Repeat("x", 30_000) + `"`
		for range 10 {
			s.post(name, contentType, body).want(204)
		}
		e := s.live(name + "?offset=-1&live=sse")
		last, pairs := "", 0
		for {
			data, has, c := e.pair()
			pairs++
			if !has || c.StreamNextOffset <= last || c.StreamCursor == "" || len(data) > 100_000 {
				t.Fatalf("%s: %d bytes, %+v after %s", contentType, len(data), c, last)
			}
			if contentType == "application/json" && !json.Valid([]byte(data)) {
				t.Fatalf("a data event of %q", data)
			}
			if last = c.StreamNextOffset; c.UpToDate {
				break
			}
		}
		if last != offset(10) || contentType != "application/json" && pairs != 10 || pairs < 4 || pairs > 10 {
			t.Errorf("%s: caught up at %s after %d pairs", contentType, last, pairs)
		}
	}
}

func TestSection58AReaderWhoComesBackIsUpToDateOnlyWhenItHasWhatWasThere(t *testing.T) {
	s := serve(t, durablestreams.Config{})
	s.put("a", "text/plain", "one")
	ahead := s.live("a?offset=-1&live=sse")
	ahead.pair()
	for _, more := range []string{"two", "three", "four"} {
		s.post("a", "text/plain", more)
		if _, _, c := ahead.pair(); !c.UpToDate {
			t.Errorf("got %+v", c)
		}
	}
	behind := s.live("a?offset=" + offset(1) + "&live=sse")
	for end := 2; end <= 4; end++ {
		if _, _, c := behind.pair(); c.StreamNextOffset != offset(end) || c.UpToDate != (end == 4) {
			t.Errorf("got %+v, want the offset %s", c, offset(end))
		}
	}
	s.post("a", "text/plain", "five")
	for _, e := range []*events{ahead, behind} {
		if data, _, c := e.pair(); data != "five" || !c.UpToDate {
			t.Errorf("got %q, %+v", data, c)
		}
	}
}

func TestSection58AnEntryIsNeverSplit(t *testing.T) {
	s := serve(t, durablestreams.Config{})
	s.put("a", "text/plain", strings.Repeat("x", 3<<20))
	e := s.live("a?offset=-1&live=sse")
	if data, _, c := e.pair(); len(data) != 3<<20 || !c.UpToDate {
		t.Errorf("got %d bytes, %+v", len(data), c)
	}
	s.post("a", "text/plain", strings.Repeat("y", 5<<20))
	if data, _, c := e.pair(); len(data) != 5<<20 || !c.UpToDate {
		t.Errorf("got %d bytes, %+v", len(data), c)
	}
}

func TestSection58AClosedStreamEndsTheResponse(t *testing.T) {
	s := serve(t, durablestreams.Config{})
	s.put("a", "text/plain", "one")
	fromStart, fromTail := s.live("a?offset=-1&live=sse"), s.live("a?offset="+offset(1)+"&live=sse")
	if data, _, c := fromStart.pair(); data != "one" || c.StreamClosed {
		t.Errorf("got %q, %+v", data, c)
	}
	if _, has, c := fromTail.pair(); has || c.StreamClosed || !c.UpToDate {
		t.Errorf("got %+v", c)
	}
	s.post("a", "text/plain", "two", "Stream-Closed", "true")
	for _, e := range []*events{fromStart, fromTail} {
		if data, _, c := e.pair(); data != "two" || !c.StreamClosed || !c.UpToDate || c.StreamCursor != "" || c.StreamNextOffset != offset(2) {
			t.Errorf("got %q, %+v", data, c)
		}
		e.wantEnd()
	}
	late := s.live("a?offset=" + offset(1) + "&live=sse")
	if data, _, c := late.pair(); data != "two" || !c.StreamClosed {
		t.Errorf("got %q, %+v", data, c)
	}
	late.wantEnd()
	atEnd := s.live("a?offset=" + offset(2) + "&live=sse")
	if _, has, c := atEnd.pair(); has || !c.StreamClosed || !c.UpToDate || c.StreamNextOffset != offset(2) {
		t.Errorf("got %+v", c)
	}
	atEnd.wantEnd()
}

func TestSection58ADeletedOrExpiredStreamEndsTheResponse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, stop := serveInBubble(t, durablestreams.Config{})
		defer stop()
		s.put("deleted", "text/plain", "")
		s.put("expired", "text/plain", "", "Stream-Expires-At", time.Now().Add(5*time.Second).Format(time.RFC3339))
		deleted, expired := s.live("deleted?offset=-1&live=sse"), s.live("expired?offset=-1&live=sse")
		deleted.pair()
		expired.pair()
		s.do("DELETE", "deleted", "")
		s.put("deleted", "text/plain", "new data that is not for old readers")
		deleted.wantEnd()
		expired.wantEnd()
	})
}

// breaking is a log whose views break off before their first entry.
type breaking struct{ durablestreams.Log }

func (l breaking) Read(ctx context.Context, seg runnel.Segment, id uint64, from runnel.Sequence) (runnel.View, error) {
	v, err := l.Log.Read(ctx, seg, id, from)
	v.Stream = func(yield func(runnel.Batch, error) bool) { yield(nil, &runnel.NotFoundError{Segment: seg}) }
	return v, err
}

func (l breaking) ReadStart(ctx context.Context, seg runnel.Segment) (runnel.View, error) {
	return l.Read(ctx, seg, 0, 0)
}

func TestSection58AResponseThatEndsBeforeItsFirstEventIsOneNevertheless(t *testing.T) {
	for _, keep := range []bool{false, true} {
		s := serveLog(t, durablestreams.Config{KeepConnections: keep}, func(l durablestreams.Log) durablestreams.Log { return breaking{l} })
		s.put("a", "text/plain", "one")
		s.live("a?offset=-1&live=sse").wantEnd()
	}
}

func TestSection58AForkIsFollowedAlone(t *testing.T) {
	s := serve(t, durablestreams.Config{})
	s.put("source", "text/plain", "inherited")
	s.put("fork", "", "", "Stream-Forked-From", "/v1/stream/source")
	s.post("source", "text/plain", "not for the fork")
	e := s.live("fork?offset=-1&live=sse")
	if data, _, c := e.pair(); data != "inherited" || !c.UpToDate {
		t.Errorf("got %q, %+v", data, c)
	}
	s.post("source", "text/plain", "nor this")
	s.post("fork", "text/plain", "own")
	if data, _, c := e.pair(); data != "own" || c.StreamNextOffset != offset(2) {
		t.Errorf("got %q, %+v", data, c)
	}
}

func TestSection102ALiveResponseEndsAfterAboutAMinute(t *testing.T) {
	for _, keep := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			s, stop := serveInBubble(t, durablestreams.Config{KeepConnections: keep})
			defer stop()
			s.put("a", "text/plain", "")
			begin := time.Now()
			e := s.live("a?offset=-1&live=sse")
			e.pair()
			e.wantEnd()
			if took := time.Since(begin); took < 55*time.Second || took > 65*time.Second {
				t.Errorf("ended after %s", took)
			}
			if e.comment < 3 || e.comment > 4 {
				t.Errorf("%d comments in a quiet minute", e.comment)
			}
		})
	}
}

func TestAResponseCanGoOnForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, stop := serveInBubble(t, durablestreams.Config{SSERotation: -1, Heartbeat: -1})
		defer stop()
		s.put("a", "text/plain", "")
		e := s.live("a?offset=-1&live=sse")
		e.pair()
		time.Sleep(time.Hour) //nolint:forbidigo // the time of the bubble
		s.post("a", "text/plain", "late")
		if data, _, _ := e.pair(); data != "late" || e.comment != 0 {
			t.Errorf("got %q after %d comments", data, e.comment)
		}
	})
}

func TestABrowserGoesOnWhereItWas(t *testing.T) {
	s := serve(t, durablestreams.Config{})
	s.put("a", "text/plain", "one")
	s.post("a", "text/plain", "two")
	url := "a?offset=-1&live=sse"
	if data, _, _ := s.live(url, "Last-Event-ID", offset(1)).pair(); data != "two" {
		t.Errorf("got %q", data)
	}
	s.get(url, "Last-Event-ID", "nonsense").wantError(400, wire.CodeInvalidOffset)
	s.post("a", "", "", "Stream-Closed", "true")
	if _, has, c := s.live(url, "Last-Event-ID", offset(2)).pair(); has || !c.StreamClosed {
		t.Errorf("got %+v", c)
	}
	s.get(url, "Last-Event-ID", offset(2)+":closed").want(204, "Stream-Closed", "true", "Stream-Next-Offset", offset(2))
}

func TestCursorsOfALiveResponseNeverGoBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, stop := serveInBubble(t, durablestreams.Config{SSERotation: time.Hour})
		defer stop()
		s.put("a", "text/plain", "")
		first := s.live("a?offset=-1&live=sse")
		_, _, c := first.pair()
		readers := []*events{first, s.live("a?offset=-1&live=sse&cursor=" + c.StreamCursor), s.live("a?offset=-1&live=sse&cursor=99999999999")}
		last := []string{c.StreamCursor}
		for _, e := range readers[1:] {
			_, _, c := e.pair()
			last = append(last, c.StreamCursor)
		}
		for range 300 {
			time.Sleep(7 * time.Second) //nolint:forbidigo // the time of the bubble
			s.post("a", "text/plain", "x")
			for i, e := range readers {
				_, _, c := e.pair()
				if len(c.StreamCursor) < len(last[i]) || len(c.StreamCursor) == len(last[i]) && c.StreamCursor < last[i] {
					t.Fatalf("reader %d: the cursor %s follows %s", i, c.StreamCursor, last[i])
				}
				last[i] = c.StreamCursor
			}
		}
	})
}

// readAll reads JSON events from a stream of numbers, coming back as often as it must, and checks that
// each comes once, in order.
func readNumbers(t *testing.T, s *server, until int, get func(from string) (*events, error)) {
	from, next := "-1", 0
	for next < until {
		e, err := get(from)
		if err != nil {
			t.Error(err)
			return
		}
		for next < until {
			ev, err := e.next()
			if err != nil {
				break // it goes on from the last control event
			}
			if ev.name == "control" {
				from = ev.id
				continue
			}
			var numbers []int
			if err := json.Unmarshal([]byte(ev.data), &numbers); err != nil {
				t.Errorf("%q: %v", ev.data, err)
				return
			}
			for _, n := range numbers {
				if n != next {
					t.Errorf("got %d, want %d", n, next)
					return
				}
				next++
			}
		}
		e.close()
	}
}

func TestReadersThatComeWhileDataFlowsMissNothingAndSeeNothingTwice(t *testing.T) {
	s := serve(t, durablestreams.Config{})
	s.put("a", "application/json", "[]")
	const total = 2000
	var wait sync.WaitGroup
	for i := range 40 {
		wait.Go(func() {
			begin := make(chan struct{})
			if i > 0 {
				// Each begins when the stream has come to another place.
				go func() {
					_, _ = s.log.Wait(context.Background(), runnel.Segment{Name: "a"}, 0, runnel.Sequence(i*total/60))
					close(begin)
				}()
			} else {
				close(begin)
			}
			<-begin
			readNumbers(t, s, total, func(from string) (*events, error) {
				ctx, cancel := context.WithCancel(t.Context())
				resp, err := s.start(ctx, "GET", "a?live=sse&offset="+from, nil) //nolint:bodyclose // events.close does
				if err != nil {
					cancel()
					return nil, err
				}
				return &events{t: t, resp: resp, lines: bufio.NewReader(resp.Body), cancel: cancel}, nil
			})
		})
	}
	for i := range total {
		if _, err := s.log.Append(t.Context(), runnel.Segment{Name: "a"}, runnel.AppendOptions{}, runnel.Record{Payload: fmt.Append(nil, i)}); err != nil {
			t.Fatal(err)
		}
	}
	wait.Wait()
}

func TestASlowReaderHoldsUpNobodyAndMissesNothing(t *testing.T) {
	s := serve(t, durablestreams.Config{})
	s.put("a", "text/plain", "")
	slow, err := s.dial()
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Close()
	fmt.Fprint(slow, "GET /v1/stream/a?offset=-1&live=sse HTTP/1.1\r\nHost: x\r\n\r\n")
	lines := bufio.NewReaderSize(slow, 1<<10)
	resp, err := http.ReadResponse(lines, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	e := &events{t: t, resp: resp, lines: bufio.NewReader(resp.Body), cancel: func() {}}
	e.pair() // from here on it is attached

	fast := s.live("a?offset=-1&live=sse")
	fast.pair()
	const total = 500
	piece := strings.Repeat("x", 50_000)
	for i := range total { // 25 MB, more than any buffer between the two
		s.post("a", "text/plain", fmt.Sprintf("%d %s", i, piece)).want(204)
		if data, _, _ := fast.pair(); !strings.HasPrefix(data, fmt.Sprint(i, " x")) {
			t.Fatalf("the fast reader got %.20q, want %d", data, i)
		}
	}
	seen := 0
	for seen < total {
		data, _, c := e.pair()
		if data != fmt.Sprint(seen, " ", piece) {
			t.Fatalf("the slow reader got %.20q, want %d", data, seen)
		}
		seen++
		if seen == total && !c.UpToDate {
			t.Errorf("at the end: %+v", c)
		}
	}
	s.post("a", "text/plain", "the end", "Stream-Closed", "true")
	if data, _, c := e.pair(); data != "the end" || !c.StreamClosed {
		t.Errorf("got %q, %+v", data, c)
	}
	e.wantEnd()
}

func TestAReaderThatTakesNothingIsDropped(t *testing.T) {
	for _, keep := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			s, stop := serveInBubble(t, durablestreams.Config{ProgressTimeout: 10 * time.Second, KeepConnections: keep})
			defer stop()
			s.put("a", "text/plain", "")
			e := s.live("a?offset=-1&live=sse")
			e.pair()
			s.post("a", "text/plain", strings.Repeat("x", 1<<20))
			time.Sleep(20 * time.Second) //nolint:forbidigo // the time of the bubble
			for {
				if _, err := e.next(); err != nil {
					if errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
						t.Error("the response ended as if it were whole")
					}
					break
				}
			}
		})
	}
}

func TestShutdownLetsReadersGoOnElsewhere(t *testing.T) {
	for _, proto := range []string{"HTTP/1.1", "HTTP/2"} {
		t.Run(proto, func(t *testing.T) {
			s := serve(t, durablestreams.Config{})
			if proto == "HTTP/2" {
				s.useHTTP2()
			}
			s.put("a", "text/plain", "x")
			var readers []*events
			for range 10 {
				e := s.live("a?offset=-1&live=sse")
				e.pair()
				readers = append(readers, e)
			}
			if err := s.handler.Shutdown(t.Context()); err != nil {
				t.Fatal(err)
			}
			for _, e := range readers {
				e.wantEnd()
			}
			s.get("a?offset=-1&live=sse").wantError(503, wire.CodeShutdown, "Retry-After", "1", "Stream-Sse-Data-Encoding", "-")
			s.get("a?offset=now&live=long-poll").wantError(503, wire.CodeShutdown)
			s.get("a?offset=-1&live=long-poll").want(200)
			s.post("a", "text/plain", "y").want(204)
		})
	}
}

func TestShutdownDoesNotWaitForeverForAStuckReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, stop := serveInBubble(t, durablestreams.Config{ProgressTimeout: time.Hour})
		defer stop()
		s.put("a", "text/plain", strings.Repeat("x", 1<<20))
		conn, err := s.dial()
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprint(conn, "GET /v1/stream/a?offset=-1&live=sse HTTP/1.1\r\nHost: x\r\n\r\n")
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := s.handler.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Shutdown: %v", err)
		}
		if err := s.handler.Shutdown(t.Context()); err != nil {
			t.Errorf("Shutdown after it: %v", err)
		}
	})
}

func TestAReaderThatLeavesLeavesNothingBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, stop := serveInBubble(t, durablestreams.Config{})
		defer stop()
		s.put("a", "text/plain", "", "Stream-TTL", "10")
		for range 5 {
			e := s.live("a?offset=-1&live=sse")
			e.pair()
			e.close()
		}
		time.Sleep(15 * time.Second) //nolint:forbidigo // the time of the bubble
		s.head("a").want(404)        // nobody is waiting any more, or it would not have expired
	})
}

func TestLiveReadsGoOverTLS(t *testing.T) {
	_, handler := open(t, durablestreams.Config{}, nil)
	host := httptest.NewUnstartedServer(handler)
	host.EnableHTTP2 = false // so that the connection is taken over
	host.StartTLS()
	t.Cleanup(host.Close)
	t.Cleanup(func() { _ = handler.Close() })
	s := &server{t: t, url: host.URL, handler: handler, client: host.Client()}
	s.put("a", "text/plain", "one").want(201, "Location", host.URL+"/v1/stream/a")
	e := s.live("a?offset=-1&live=sse")
	if data, _, c := e.pair(); data != "one" || !c.UpToDate {
		t.Errorf("got %q, %+v", data, c)
	}
	for i := range 10 {
		s.post("a", "text/plain", fmt.Sprint(i))
		if data, _, c := e.pair(); data != fmt.Sprint(i) || !c.UpToDate {
			t.Errorf("got %q, %+v", data, c)
		}
	}
	s.post("a", "", "", "Stream-Closed", "true")
	if _, _, c := e.pair(); !c.StreamClosed {
		t.Errorf("got %+v", c)
	}
	e.wantEnd()
}

func TestLiveReadsGoThroughAnyResponseWriter(t *testing.T) {
	log, handler := open(t, durablestreams.Config{}, nil)
	t.Cleanup(func() { _ = handler.Close() })
	seg := runnel.Segment{Name: "a"}
	if _, err := log.Create(t.Context(), seg, runnel.CreateOptions{ContentType: "text/plain"}); err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	done := make(chan struct{})
	go func() {
		defer close(done)
		handler.ServeHTTP(w, httptest.NewRequest("GET", "/v1/stream/a?offset=-1&live=sse", nil))
	}()
	for i := range 3 {
		if _, err := log.Append(t.Context(), seg, runnel.AppendOptions{Close: i == 2}, runnel.Record{Payload: fmt.Append(nil, i)}); err != nil {
			t.Fatal(err)
		}
	}
	<-done
	var data strings.Builder
	for line := range strings.Lines(w.Body.String()) {
		if d, ok := strings.CutPrefix(line, "data:"); ok && !strings.HasPrefix(d, "{") {
			data.WriteString(strings.TrimSpace(d))
		}
	}
	if data.String() != "012" || !strings.Contains(w.Body.String(), `"streamClosed":true`) || !w.Flushed {
		t.Errorf("got %q", w.Body)
	}
}

func TestOldClientsGetLiveReadsToo(t *testing.T) {
	s := serve(t, durablestreams.Config{})
	s.put("a", "text/plain", "x")
	conn, err := s.dial()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "GET /v1/stream/a?offset=-1&live=sse HTTP/1.0\r\nHost: x\r\n\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	e := &events{t: t, resp: resp, lines: bufio.NewReader(resp.Body), cancel: func() {}}
	if data, _, _ := e.pair(); data != "x" || len(resp.TransferEncoding) > 0 {
		t.Errorf("got %q with %v", data, resp.TransferEncoding)
	}
	s.post("a", "text/plain", "y", "Stream-Closed", "true")
	if data, _, c := e.pair(); data != "y" || !c.StreamClosed {
		t.Errorf("got %q, %+v", data, c)
	}
	e.wantEnd()
}
