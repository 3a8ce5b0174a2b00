package durablestreams_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/runnelhq/runnel/durablestreams"
	"github.com/runnelhq/runnel/wire"
)

// The tests of these files follow the sections of PROTOCOL.md, beyond what the public suite covers.

func TestSection41OnlyTheValueTrueClosesAStream(t *testing.T) {
	s := serve(t, durablestreams.Config{})
	for i, value := range []string{"false", "yes", "1", "", "true,", "truee", "true, true"} {
		name := fmt.Sprintf("open%d", i)
		s.put(name, "text/plain", "", "Stream-Closed", value).want(201, "Stream-Closed", "-")
		s.post(name, "text/plain", "x", "Stream-Closed", value).want(204, "Stream-Closed", "-")
		s.post(name, "text/plain", "", "Stream-Closed", value).wantError(400, wire.CodeEmptyBody)
	}
	for i, value := range []string{"true", "TRUE", "True"} {
		s.put(fmt.Sprintf("closed%d", i), "text/plain", "", "Stream-Closed", value).want(201, "Stream-Closed", "true")
	}
}

func TestSection41AClosedStreamStaysReadable(t *testing.T) {
	s := serve(t, durablestreams.Config{})
	s.put("a", "text/plain", "one")
	s.post("a", "text/plain", "two", "Stream-Closed", "true").want(204, "Stream-Closed", "true", "Stream-Next-Offset", offset(2))
	s.get("a").want(200, "Stream-Closed", "true").wantBody("onetwo")
	s.get("a?offset="+offset(1)).want(200, "Stream-Closed", "true").wantBody("two")
	s.get("a?offset="+offset(2)).want(200, "Stream-Closed", "true", "Stream-Up-To-Date", "true").wantBody("")
}

func TestSection42TheLifetimeOfAForkFollowsTheTable(t *testing.T) {
	s := serve(t, durablestreams.Config{})
	early := time.Now().Add(time.Hour).UTC().Truncate(time.Second).Format(time.RFC3339)
	late := time.Now().Add(2 * time.Hour).UTC().Truncate(time.Second).Format(time.RFC3339)
	for i, c := range []struct {
		source, fork    []string
		ttl, expires    string
		whatTheForkGets string
	}{
		{nil, nil, "-", "-", "no expiry"},
		{nil, []string{"Stream-TTL", "60"}, "60", "-", "own TTL"},
		{nil, []string{"Stream-Expires-At", late}, "-", late, "own Expires-At"},
		{[]string{"Stream-TTL", "60"}, nil, "60", "-", "the source's TTL"},
		{[]string{"Stream-TTL", "60"}, []string{"Stream-TTL", "120"}, "120", "-", "requested TTL"},
		{[]string{"Stream-TTL", "60"}, []string{"Stream-Expires-At", late}, "-", late, "requested Expires-At"},
		{[]string{"Stream-Expires-At", early}, nil, "-", early, "the source's Expires-At"},
		{[]string{"Stream-Expires-At", early}, []string{"Stream-TTL", "60"}, "60", "-", "requested TTL"},
		{[]string{"Stream-Expires-At", early}, []string{"Stream-Expires-At", late}, "-", late, "requested Expires-At, past the parent's"},
	} {
		t.Run(c.whatTheForkGets, func(t *testing.T) {
			source, fork := fmt.Sprintf("source%d", i), fmt.Sprintf("fork%d", i)
			s.put(source, "text/plain", "x", c.source...).want(201)
			s.put(fork, "", "", append(c.fork, "Stream-Forked-From", "/v1/stream/"+source)...).want(201)
			s.head(fork).want(200, "Stream-TTL", c.ttl, "Stream-Expires-At", c.expires)
		})
	}
}

func TestSection42AForkThatCannotBeIsRefused(t *testing.T) {
	s := serve(t, durablestreams.Config{})
	s.put("source", "text/plain", "hello").want(201)
	s.put("deleted", "text/plain", "hello")
	s.put("keeper", "", "", "Stream-Forked-From", "/v1/stream/deleted")
	s.do("DELETE", "deleted", "").want(204)
	s.put("taken", "application/json", "[]")
	for _, c := range []struct {
		name    string
		status  int
		code    wire.Code
		headers []string
	}{
		{"the source does not exist", 404, wire.CodeNotFound, []string{"Stream-Forked-From", "/v1/stream/nothing"}},
		{"the offset is beyond the tail", 400, wire.CodeBeyondTail, []string{"Stream-Forked-From", "/v1/stream/source", "Stream-Fork-Offset", offset(2)}},
		{"the offset is malformed", 400, wire.CodeInvalidOffset, []string{"Stream-Forked-From", "/v1/stream/source", "Stream-Fork-Offset", "1"}},
		{"the offset is empty", 400, wire.CodeInvalidOffset, []string{"Stream-Forked-From", "/v1/stream/source", "Stream-Fork-Offset", ""}},
		{"the sub-offset is too large", 400, wire.CodeInvalidRequest, []string{"Stream-Forked-From", "/v1/stream/source", "Stream-Fork-Offset", offset(0), "Stream-Fork-Sub-Offset", "6"}},
		{"the sub-offset is negative", 400, wire.CodeInvalidRequest, []string{"Stream-Forked-From", "/v1/stream/source", "Stream-Fork-Offset", offset(0), "Stream-Fork-Sub-Offset", "-1"}},
		{"the sub-offset is empty", 400, wire.CodeInvalidRequest, []string{"Stream-Forked-From", "/v1/stream/source", "Stream-Fork-Offset", offset(0), "Stream-Fork-Sub-Offset", ""}},
		{"the sub-offset has no offset", 400, wire.CodeInvalidRequest, []string{"Stream-Forked-From", "/v1/stream/source", "Stream-Fork-Sub-Offset", "1"}},
		{"the sub-offset has no source", 400, wire.CodeInvalidRequest, []string{"Stream-Fork-Sub-Offset", "0"}},
		{"the offset has no source", 400, wire.CodeInvalidRequest, []string{"Stream-Fork-Offset", offset(0)}},
		{"the content type differs", 409, wire.CodeContentType, []string{"Stream-Forked-From", "/v1/stream/source", "Content-Type", "text/html"}},
		{"the source is deleted", 409, wire.CodeSoftDeleted, []string{"Stream-Forked-From", "/v1/stream/deleted"}},
		{"the source is on another server", 400, wire.CodeInvalidRequest, []string{"Stream-Forked-From", "http://elsewhere.example/v1/stream/source"}},
		{"the source is no path", 400, wire.CodeInvalidRequest, []string{"Stream-Forked-From", ""}},
		{"the source has a query", 400, wire.CodeInvalidRequest, []string{"Stream-Forked-From", "/v1/stream/source?offset=-1"}},
		{"the source is reserved", 400, wire.CodeInvalidPath, []string{"Stream-Forked-From", "/v1/stream/__ds/x"}},
		{"the source is given twice", 400, wire.CodeInvalidRequest, []string{"Stream-Forked-From", "/v1/stream/source", "Stream-Forked-From", "/v1/stream/source"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := s.do("PUT", "fork", "", c.headers...)
			a.t = t
			a.wantError(c.status, c.code)
			s.head("fork").want(404)
		})
	}
	s.put("taken", "", "", "Stream-Forked-From", "/v1/stream/source").wantError(409, wire.CodeExists)
}

func TestSection42ASourceMayBeNamedLikeAURL(t *testing.T) {
	s := serve(t, durablestreams.Config{})
	s.put("dir/a%20b", "text/plain", "x").want(201)
	for i, from := range []string{"/v1/stream/dir/a%20b", "/v1/stream/dir%2Fa%20b", s.url + "/v1/stream/dir/a%20b", "dir/a%20b", "/dir/a%20b"} {
		s.put(fmt.Sprintf("fork%d", i), "", "", "Stream-Forked-From", from).want(201)
		s.get(fmt.Sprintf("fork%d", i)).want(200).wantBody("x")
	}
}

func TestSection42ForksOfEveryPlace(t *testing.T) {
	s := serve(t, durablestreams.Config{})
	s.put("source", "application/json", `[1,2,3]`)
	for i, c := range []struct {
		headers []string
		want    string
	}{
		{nil, "[1,2,3]"},
		{[]string{"Stream-Fork-Offset", "-1"}, "[]"},
		{[]string{"Stream-Fork-Offset", "now"}, "[1,2,3]"},
		{[]string{"Stream-Fork-Offset", offset(2)}, "[1,2]"},
		{[]string{"Stream-Fork-Offset", offset(1), "Stream-Fork-Sub-Offset", "1"}, "[1,2]"},
		{[]string{"Stream-Fork-Offset", "-1", "Stream-Fork-Sub-Offset", "2"}, "[1,2]"},
	} {
		fork := fmt.Sprintf("fork%d", i)
		s.put(fork, "", "", append(c.headers, "Stream-Forked-From", "/v1/stream/source")...).want(201, "Content-Type", "application/json")
		s.get(fork).wantBody(c.want)
		s.put(fork, "", "", append(c.headers, "Stream-Forked-From", "/v1/stream/source")...).want(200)
	}
}

func TestSection42AForkIsIdempotentOnlyWithTheSamePlace(t *testing.T) {
	s := serve(t, durablestreams.Config{})
	s.put("source", "text/plain", "one")
	s.post("source", "text/plain", "two")
	s.put("fork", "", "", "Stream-Forked-From", "/v1/stream/source", "Stream-Fork-Offset", offset(1)).want(201)
	s.put("fork", "", "", "Stream-Forked-From", "/v1/stream/source", "Stream-Fork-Offset", offset(1)).want(200)
	s.put("fork", "", "", "Stream-Forked-From", "/v1/stream/source", "Stream-Fork-Offset", offset(2)).wantError(409, wire.CodeExists)
	s.put("fork", "", "", "Stream-Forked-From", "/v1/stream/other", "Stream-Fork-Offset", offset(1)).want(409)
}

func TestSection42AForkHasItsOwnBodyReadByTheTypeOfItsSource(t *testing.T) {
	s := serve(t, durablestreams.Config{})
	s.put("source", "application/json", `[1]`)
	s.put("fork", "", `[2,3]`, "Stream-Forked-From", "/v1/stream/source").want(201, "Stream-Next-Offset", offset(3))
	s.get("fork").wantBody(`[1,2,3]`)
	s.put("bad", "", `[2,`, "Stream-Forked-From", "/v1/stream/source").wantError(400, wire.CodeInvalidJSON)
	s.head("bad").want(404)
}

func TestSection42AForkStartsOpenAndWithoutTheStateOfWriters(t *testing.T) {
	s := serve(t, durablestreams.Config{})
	s.put("source", "text/plain", "")
	s.post("source", "text/plain", "x", "Producer-Id", "p", "Producer-Epoch", "3", "Producer-Seq", "0", "Stream-Seq", "b").want(200)
	s.post("source", "", "", "Stream-Closed", "true").want(204)
	s.put("fork", "", "", "Stream-Forked-From", "/v1/stream/source").want(201, "Stream-Closed", "-")
	s.post("fork", "text/plain", "y", "Producer-Id", "p", "Producer-Epoch", "0", "Producer-Seq", "0", "Stream-Seq", "a").want(200)
	s.get("fork").want(200, "Stream-Closed", "-").wantBody("xy")
	s.get("source").want(200, "Stream-Closed", "true").wantBody("x")
}

func TestSection42ADeletedSourceIsGoneForAllButItsForks(t *testing.T) {
	s := serve(t, durablestreams.Config{})
	s.put("source", "text/plain", "x")
	s.put("fork", "", "", "Stream-Forked-From", "/v1/stream/source")
	s.do("DELETE", "source", "").want(204)
	s.get("source").wantError(410, wire.CodeSoftDeleted)
	s.get("source?offset=now&live=long-poll").wantError(410, wire.CodeSoftDeleted)
	s.get("source?offset=now&live=sse").wantError(410, wire.CodeSoftDeleted)
	s.head("source").want(410)
	s.post("source", "text/plain", "y").wantError(410, wire.CodeSoftDeleted)
	s.post("source", "", "", "Stream-Closed", "true").wantError(410, wire.CodeSoftDeleted)
	s.do("DELETE", "source", "").wantError(410, wire.CodeSoftDeleted)
	s.put("source", "text/plain", "").wantError(409, wire.CodeSoftDeleted)
	s.get("fork").want(200).wantBody("x")
}

func TestSection51CreatingAgainComparesTheConfiguration(t *testing.T) {
	s := serve(t, durablestreams.Config{})
	at := "2099-01-02T03:04:05Z"
	s.put("plain", "text/plain", "").want(201)
	s.put("closed", "text/plain", "", "Stream-Closed", "true").want(201)
	s.put("ttl", "text/plain", "", "Stream-TTL", "60").want(201)
	s.put("expiry", "text/plain", "", "Stream-Expires-At", at).want(201)
	for _, c := range []struct {
		name        string
		contentType string
		headers     []string
		status      int
	}{
		{"plain", "text/plain", nil, 200},
		{"plain", "TEXT/Plain; charset=utf-8", nil, 200},
		{"plain", "text/html", nil, 409},
		{"plain", "text/plain", []string{"Stream-Closed", "true"}, 409},
		{"plain", "text/plain", []string{"Stream-TTL", "60"}, 409},
		{"plain", "text/plain", []string{"Stream-Expires-At", at}, 409},
		{"plain", "text/plain", []string{"Stream-Retention-Count", "1"}, 409},
		{"closed", "text/plain", nil, 409},
		{"closed", "text/plain", []string{"Stream-Closed", "true"}, 200},
		{"ttl", "text/plain", []string{"Stream-TTL", "60"}, 200},
		{"ttl", "text/plain", []string{"Stream-TTL", "61"}, 409},
		{"ttl", "text/plain", nil, 409},
		{"expiry", "text/plain", []string{"Stream-Expires-At", at}, 200},
		{"expiry", "text/plain", []string{"Stream-Expires-At", "2099-01-02T04:04:05+01:00"}, 200},
		{"expiry", "text/plain", []string{"Stream-Expires-At", "2099-01-02T03:04:06Z"}, 409},
	} {
		a := s.put(c.name, c.contentType, "", c.headers...).want(c.status)
		if c.status == 409 {
			if d := a.wantError(409, wire.CodeExists); d.Field == "" {
				t.Errorf("PUT %s %v: the error does not say in what the stream differs: %+v", c.name, c.headers, d)
			}
		} else {
			a.want(200, "Content-Type", "text/plain", "Stream-Next-Offset", offset(0), "Location", "-")
		}
	}
	s.post("plain", "", "", "Stream-Closed", "true")
	s.put("plain", "text/plain", "").wantError(409, wire.CodeExists)
	s.put("plain", "text/plain", "", "Stream-Closed", "true").want(200, "Stream-Closed", "true")
}

func TestSection51TheAnswerToACreation(t *testing.T) {
	s := serve(t, durablestreams.Config{})
	s.put("a/b%20c", "text/plain;  charset=UTF-8", "hello").want(201,
		"Location", s.url+"/v1/stream/a/b%20c", "Content-Type", "text/plain;  charset=UTF-8",
		"Stream-Next-Offset", offset(1), "Stream-Closed", "-", "Content-Length", "0")
	s.put("default", "", "hello").want(201, "Content-Type", "application/octet-stream")
	s.put("empty", "text/plain", "", "Stream-Closed", "true").want(201, "Stream-Closed", "true", "Stream-Next-Offset", offset(0))
	s.put("whole", "text/plain", "all of it", "Stream-Closed", "true").want(201, "Stream-Closed", "true", "Stream-Next-Offset", offset(1))
	s.get("whole").want(200, "Stream-Closed", "true").wantBody("all of it")
	s.doReader("PUT", "chunked", chunked("sent in chunks"), "Content-Type", "text/plain").want(201)
	s.get("chunked").wantBody("sent in chunks")
	s.put("again", "text/plain", "first")
	s.put("again", "text/plain", "second").want(200)
	s.get("again").wantBody("first")
}

func TestSection51LocationIsWhatTheOutsideSees(t *testing.T) {
	fixed := serve(t, durablestreams.Config{BaseURL: "https://streams.example.com/"})
	fixed.put("a", "text/plain", "").want(201, "Location", "https://streams.example.com/v1/stream/a")
	fixed.put("fork", "", "", "Stream-Forked-From", "https://streams.example.com/v1/stream/a").want(201)
	proxied := serve(t, durablestreams.Config{TrustForwarded: true})
	proxied.put("a", "text/plain", "", "X-Forwarded-Proto", "https", "X-Forwarded-Host", "out.example, in.example").
		want(201, "Location", "https://out.example/v1/stream/a")
	plain := serve(t, durablestreams.Config{})
	plain.put("a", "text/plain", "", "X-Forwarded-Proto", "https", "X-Forwarded-Host", "evil.example").want(201, "Location", plain.url+"/v1/stream/a")
}

func TestSection51ALifetimeHasAStrictForm(t *testing.T) {
	s := serve(t, durablestreams.Config{})
	for _, value := range []string{"", "-1", "+1", "01", "1.0", "1e3", "0x10", " ", "1 2", "９", "9223372037", "99999999999999999999999"} {
		s.put("ttl", "text/plain", "", "Stream-TTL", value).wantError(400, wire.CodeInvalidRequest)
	}
	for _, value := range []string{"", "tomorrow", "2099-01-02", "2099-01-02 03:04:05Z", "2099-01-02T03:04:05", "2099-13-02T03:04:05Z", "2099-02-30T03:04:05Z", "4070908800", "2099-01-02T3:04:05Z", "2099-01-02T03:04:05,5Z", "2099-01-02T03:04:05+25:00"} {
		s.put("expiry", "text/plain", "", "Stream-Expires-At", value).wantError(400, wire.CodeInvalidRequest)
	}
	for _, name := range []string{"Stream-Retention-Age", "Stream-Retention-Bytes", "Stream-Retention-Count"} {
		for _, value := range []string{"", "-1", "01", "1.5"} {
			s.put("retention", "text/plain", "", name, value).wantError(400, wire.CodeInvalidRequest)
		}
	}
	s.put("both", "text/plain", "", "Stream-TTL", "60", "Stream-Expires-At", "2099-01-02T03:04:05Z").wantError(400, wire.CodeInvalidRequest)
	s.put("twice", "text/plain", "", "Stream-TTL", "60", "Stream-TTL", "60").wantError(400, wire.CodeInvalidRequest)
	for _, value := range []string{"2099-01-02T03:04:05Z", "2099-01-02T03:04:05.678Z", "2099-01-02T03:04:05-07:00"} {
		s.put("at"+value, "text/plain", "", "Stream-Expires-At", value).want(201)
	}
	s.put("longest", "text/plain", "", "Stream-TTL", "9223372035").want(201)
}

func TestSection51TheWindowOfATTLSlidesWithReadsAndWritesButNotWithHEAD(t *testing.T) {
	for _, c := range []struct {
		name  string
		use   func(s *server)
		lives bool
	}{
		{"a catch-up read", func(s *server) { s.get("a") }, true},
		{"a read from now", func(s *server) { s.get("a?offset=now") }, true},
		{"a read answered with 304", func(s *server) { s.get("a", "If-None-Match", "*").want(304) }, true},
		{"a long-poll", func(s *server) { s.get("a?offset=now&live=long-poll&timeout=0") }, true},
		{"an append", func(s *server) { s.post("a", "text/plain", "x") }, true},
		{"a close", func(s *server) { s.post("a", "", "", "Stream-Closed", "true") }, true},
		{"HEAD", func(s *server) { s.head("a").want(200, "Stream-TTL", "10") }, false},
		{"a listing", func(s *server) { s.get("").want(200) }, false},
		{"nothing", func(*server) {}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, stop := serveInBubble(t, durablestreams.Config{})
				defer stop()
				s.put("a", "text/plain", "", "Stream-TTL", "10").want(201)
				time.Sleep(8 * time.Second) //nolint:forbidigo // the time of the bubble
				c.use(s)
				time.Sleep(8 * time.Second) //nolint:forbidigo // the time of the bubble
				if c.lives {
					s.head("a").want(200, "Stream-TTL", "10")
				} else {
					s.head("a").want(404)
				}
			})
		})
	}
}

func TestSection51AStreamWithALiveReaderDoesNotExpire(t *testing.T) {
	for _, mode := range []string{"sse", "long-poll"} {
		t.Run(mode, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, stop := serveInBubble(t, durablestreams.Config{})
				defer stop()
				s.put("a", "text/plain", "", "Stream-TTL", "5").want(201)
				done := make(chan struct{})
				go func() {
					defer close(done)
					if mode == "sse" {
						e := s.live("a?offset=now&live=sse")
						for {
							if _, err := e.next(); err != nil {
								break
							}
						}
						e.close()
					} else {
						s.get("a?offset=now&live=long-poll").want(204)
					}
				}()
				time.Sleep(20 * time.Second) //nolint:forbidigo // the time of the bubble
				s.head("a").want(200)
				<-done
			})
		})
	}
}

func TestPUTWithIfNoneMatchStarOnlyCreates(t *testing.T) {
	s := serve(t, durablestreams.Config{})
	s.put("a", "text/plain", "x", "If-None-Match", "*").want(201)
	s.put("a", "text/plain", "x", "If-None-Match", "*").wantError(412, wire.CodePrecondition, "Stream-Next-Offset", offset(1))
	s.put("a", "text/html", "", "If-None-Match", "*").wantError(412, wire.CodePrecondition)
	s.put("a", "text/plain", "", "If-None-Match", `"x"`).wantError(400, wire.CodeInvalidRequest)
	s.put("a", "text/plain", "", "If-Match", "*").wantError(400, wire.CodeInvalidRequest)
	s.do("DELETE", "a", "", "If-Match", `"x"`).wantError(400, wire.CodeInvalidRequest)
	s.get("a").wantBody("x")
}

func TestAContentTypeMustBeAMediaType(t *testing.T) {
	s := serve(t, durablestreams.Config{})
	s.put("a", "text/plain", "")
	for _, value := range []string{"text", "text/", "/plain", "text/pl ain", "text/plain; charset", "a/b/c", strings.Repeat("a", 200) + "/" + strings.Repeat("b", 200)} {
		s.put("b", value, "").wantError(400, wire.CodeInvalidRequest)
		s.post("a", value, "x").wantError(400, wire.CodeInvalidRequest)
	}
	s.put("b", "application/vnd.api+json; q=1", "").want(201)
	s.do("PUT", "c", "", "Content-Type", "text/plain", "Content-Type", "text/html").wantError(400, wire.CodeInvalidRequest)
}

func TestSection54DeletingAStream(t *testing.T) {
	s := serve(t, durablestreams.Config{})
	s.put("a", "text/plain", "old data")
	s.post("a", "text/plain", "x", "Producer-Id", "p", "Producer-Epoch", "5", "Producer-Seq", "0").want(200)
	old := s.get("a").header.Get("ETag")
	s.do("DELETE", "a", "").want(204)
	s.do("DELETE", "a", "").wantError(404, wire.CodeNotFound)
	s.get("a").wantError(404, wire.CodeNotFound)
	s.head("a").want(404)
	s.post("a", "text/plain", "x").wantError(404, wire.CodeNotFound)
	s.post("a", "", "", "Stream-Closed", "true").wantError(404, wire.CodeNotFound)
	s.post("a", "text/plain", "").wantError(404, wire.CodeNotFound)
	s.post("a", "application/json", "{").wantError(404, wire.CodeNotFound)

	s.put("a", "text/plain", "").want(201, "Stream-Next-Offset", offset(0))
	s.get("a").wantBody("")
	s.post("a", "text/plain", "new", "Producer-Id", "p", "Producer-Epoch", "0", "Producer-Seq", "0").want(200)
	s.post("a", "text/plain", " data").want(204)
	s.get("a", "If-None-Match", old).want(200).wantBody("new data")
}

func TestSection55HEADShowsTheMetadataAndNothingElse(t *testing.T) {
	s := serve(t, durablestreams.Config{})
	s.put("a", "text/plain", "hello", "Stream-TTL", "3600", "Stream-Retention-Age", "60", "Stream-Retention-Bytes", "1000", "Stream-Retention-Count", "10")
	s.head("a").want(200, "Content-Type", "text/plain", "Stream-Next-Offset", offset(1), "Stream-TTL", "3600", "Stream-Expires-At", "-",
		"Stream-Closed", "-", "Cache-Control", "no-store", "ETag", "+", "Stream-Retention-Age", "60", "Stream-Retention-Bytes", "1000",
		"Stream-Retention-Count", "10", "Stream-Earliest-Offset", "-").wantBody("")
	s.put("b", "text/plain", "", "Stream-Expires-At", "2099-01-02T04:04:05+01:00", "Stream-Closed", "true")
	s.head("b").want(200, "Stream-Expires-At", "2099-01-02T03:04:05Z", "Stream-TTL", "-", "Stream-Closed", "true", "Stream-Retention-Count", "-")
	s.head("nothing").want(404, "Cache-Control", "no-store").wantBody("")
	tag := s.head("a").header.Get("ETag")
	if got := s.get("a").header.Get("ETag"); got != tag {
		t.Errorf("HEAD shows the ETag %s, GET %s", tag, got)
	}
	s.head("a", "If-None-Match", tag).want(304)
}

func TestReservedPathsAreNotServed(t *testing.T) {
	s := serve(t, durablestreams.Config{})
	for _, method := range []string{"GET", "PUT", "POST", "DELETE"} {
		s.do(method, "__ds/subscriptions/x", "").wantError(501, wire.CodeNotImplemented)
		s.do(method, "__ds", "").wantError(501, wire.CodeNotImplemented)
		s.do(method, "__ds%2Fjwks.json", "").wantError(501, wire.CodeNotImplemented)
	}
	s.put("a/__ds/b", "text/plain", "").want(201)
	s.put("__dsx", "text/plain", "").want(201)
}

func TestPathsAreTakenAsTheyAre(t *testing.T) {
	s := serve(t, durablestreams.Config{})
	for _, path := range []string{"a//b", "/a", "a/", "a/../b", "..", ".", "a/./b", "a%00b", "a%0Ab", "%ff", "a/%2e%2e/b", strings.Repeat("x", 257)} {
		resp, err := s.client.Do(&http.Request{Method: "PUT", URL: mustURL(s.url, "/v1/stream/"+path), Header: http.Header{"Content-Type": {"text/plain"}}})
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != 400 {
			t.Errorf("PUT %s: status %d, want 400", path, resp.StatusCode)
		}
	}
	s.put("a%2Fb", "text/plain", "slash").want(201)
	s.get("a/b").want(200).wantBody("slash")
	s.do("DELETE", "a%2Fb", "").want(204)
	s.put(".hidden/.updates", "text/plain", "").want(201)
	s.put("%E6%97%A5%E6%9C%AC/%F0%9F%98%80", "text/plain", "").want(201)
	s.do("GET", "/elsewhere", "").wantError(404, wire.CodeNotFound)
	s.do("GET", "/v1/streams/a", "").wantError(404, wire.CodeNotFound)
}

func TestThePrefixCanBeChosen(t *testing.T) {
	s := serve(t, durablestreams.Config{Prefix: "/api/logs/"})
	s.put("/api/logs/x/y", "text/plain", "hi").want(201, "Location", s.url+"/api/logs/x/y")
	s.put("/api/logs/z", "", "", "Stream-Forked-From", "/api/logs/x/y").want(201)
	s.get("/api/logs/z").want(200).wantBody("hi")
	s.get("/v1/stream/z").want(404)
	s.get("/api/logs").want(200)
}

func TestOtherMethodsAreNotAllowed(t *testing.T) {
	s := serve(t, durablestreams.Config{})
	s.do("PATCH", "a", "").wantError(405, wire.CodeMethodNotAllowed, "Allow", "GET, HEAD, POST, PUT, DELETE, OPTIONS")
	s.do("POST", "", "").wantError(405, wire.CodeMethodNotAllowed, "Allow", "GET, HEAD, OPTIONS")
	s.do("DELETE", "", "").wantError(405, wire.CodeMethodNotAllowed)
}

func TestListingGoesThroughAllStreamsInPages(t *testing.T) {
	s := serve(t, durablestreams.Config{})
	s.get("").want(200, "Content-Type", "application/json", "Cache-Control", "no-store").wantBody("{\"streams\":[]}\n")
	want := []string{"b", "c", "a/x", "a/y", "a/b/z"}
	for _, name := range want {
		s.put(name, "text/plain", "x").want(201)
	}
	s.post("c", "", "", "Stream-Closed", "true")
	type page struct {
		Streams []struct {
			Path, ContentType, NextOffset string
			CreatedAt                     int64
			Closed                        bool
		}
		Next string
	}
	var got []string
	for after := ""; ; {
		var p page
		a := s.get("?limit=2&after=" + after).want(200)
		if err := json.Unmarshal([]byte(a.body), &p); err != nil {
			t.Fatal(err)
		}
		for _, one := range p.Streams {
			got = append(got, one.Path)
			if one.ContentType != "text/plain" || one.NextOffset != offset(1) || one.Closed != (one.Path == "c") || time.Since(time.UnixMilli(one.CreatedAt)) > time.Minute {
				t.Errorf("listed as %+v", one)
			}
		}
		if p.Next == "" {
			break
		}
		after = p.Next
	}
	if !slices.Equal(got, want) {
		t.Errorf("listed %v, want %v", got, want)
	}
	var p page
	if err := json.Unmarshal([]byte(s.get("?prefix=a/").want(200).body), &p); err != nil || len(p.Streams) != 3 {
		t.Errorf("the prefix a/ lists %+v, %v", p, err)
	}
	for _, query := range []string{"limit=0", "limit=1001", "limit=x", "limit=01", "limit=", "limit=1&limit=2", "prefix=a&prefix=b", "after=" + strings.Repeat("x", 1000)} {
		s.get("?"+query).wantError(400, wire.CodeInvalidRequest)
	}
	s.head("").want(200).wantBody("")
}

func TestLocationIsAPathIfThereIsNoHost(t *testing.T) {
	s := serve(t, durablestreams.Config{})
	conn, err := s.dial()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "PUT /v1/stream/a%20b HTTP/1.0\r\n\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if got := resp.Header.Get("Location"); resp.StatusCode != 201 || got != "/v1/stream/a%20b" {
		t.Errorf("status %d, Location %q", resp.StatusCode, got)
	}
}

func TestAStreamOfItemsTakesOnlyMessagesOfTheStateProtocol(t *testing.T) {
	s := serve(t, durablestreams.Config{})
	const set = `{"type":"item","key":"a","value":{"n":1},"headers":{"operation":"insert"}}`
	s.put("a", "application/json", "["+set+"]", "Stream-Items", "true").want(201)
	s.put("a", "application/json", "", "Stream-Items", "true").want(200)
	s.put("a", "application/json", "").want(409)
	s.head("a").want(200, "Stream-Items", "true")
	s.post("a", "application/json", set).want(204)
	s.post("a", "application/json", `{"type":"item","key":"a","value":1,"headers":{"operation":"update"}}`).want(400)
	s.post("a", "application/json", `[`+set+`,{}]`).want(400)
	s.get("a").want(200).wantBody("[" + set + "," + set + "]")
	s.put("b", "text/plain", "", "Stream-Items", "true").want(400)
	s.put("b", "application/json", "", "Stream-Items", "yes").want(400)
	s.put("b", "application/json", "", "Stream-Items", "true", "Stream-Retention-Count", "1").want(400)
}
