package durablestreams_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/runnelhq/runnel/durablestreams"
)

// rows applies messages of the State Protocol to what a client has.
func rows(t *testing.T, have map[string]string, messages string) map[string]string {
	t.Helper()
	var all []struct {
		Key     string          `json:"key"`
		Value   json.RawMessage `json:"value"`
		Headers struct {
			Operation string `json:"operation"`
		} `json:"headers"`
	}
	if err := json.Unmarshal([]byte(messages), &all); err != nil {
		t.Fatalf("%.200s: %v", messages, err)
	}
	for _, m := range all {
		if have[m.Key] = string(m.Value); m.Headers.Operation == "delete" {
			delete(have, m.Key)
		}
	}
	return have
}

// outlived makes a stream of items with a log that is much longer than what it has made: two items. It returns
// the place of its tail.
func (s *server) outlived(path string) string {
	s.t.Helper()
	s.put(path, "application/json", "", "Stream-Items", "true").want(201)
	for i := range 300 {
		s.post(path, "application/json", fmt.Sprintf(`[
			{"type":"item","key":"a","value":{"n":%d,"pad":"%s"},"headers":{"operation":"upsert"}},
			{"type":"item","key":"b","value":{"line":%q},"headers":{"operation":"upsert"}},
			{"type":"item","key":"gone","value":{},"headers":{"operation":"upsert"}}]`, i, strings.Repeat("x", 2000), "1\n\n2")).want(204)
	}
	return s.post(path, "application/json", `{"type":"item","key":"gone","headers":{"operation":"delete"}}`).want(204, "Stream-Next-Offset", offset(901)).next()
}

func wantRows(t *testing.T, have map[string]string, n int) {
	t.Helper()
	a := fmt.Sprintf(`{"n":%d,"pad":"%s"}`, n, strings.Repeat("x", 2000))
	if len(have) != 2 || have["a"] != a || have["b"] != `{"line":"1\n\n2"}` {
		t.Fatalf("%.300v", have)
	}
}

func TestWhoBeginsWithItemsDownloadsTheStateAndNotThePast(t *testing.T) {
	s := serve(t, durablestreams.Config{})
	tail := s.outlived("items")
	first := s.get("items?offset=-1").want(200, "Stream-Next-Offset", tail, "Stream-Up-To-Date", "-", "Stream-State", "true", "Cache-Control", "public, no-cache", "Content-Type", "application/json")
	if len(first.body) > 2500 {
		t.Fatalf("two items took %d bytes", len(first.body))
	}
	have := rows(t, make(map[string]string), first.body)
	wantRows(t, have, 299)
	s.get("items?offset="+tail).want(200, "Stream-Up-To-Date", "true", "Stream-State", "-").wantBody("[]")
	tag := first.header.Get("ETag")
	s.get("items", "If-None-Match", tag).want(304)
	s.get("items?offset=-1&live=long-poll").want(200, "Stream-Next-Offset", tail, "Stream-Up-To-Date", "-")

	s.post("items", "application/json", `{"type":"item","key":"a","value":{"n":300,"pad":"`+strings.Repeat("x", 2000)+`"},"headers":{"operation":"update"}}`).want(204)
	wantRows(t, rows(t, have, s.get("items?offset="+tail).want(200, "Stream-Up-To-Date", "true").body), 300)
	s.get("items", "If-None-Match", tag).want(200)
	// The past is there for who asks for it by its place.
	if all := s.get("items?offset="+offset(0)).want(200, "Stream-Up-To-Date", "true"); len(all.body) < 100_000 {
		t.Fatalf("%d bytes of 902 messages", len(all.body))
	}

	closed := s.post("items", "", "", "Stream-Closed", "true").want(204).next()
	s.get("items?offset=-1").want(200, "Stream-Next-Offset", closed, "Stream-Closed", "-", "Stream-Up-To-Date", "-")
	s.get("items?offset="+closed).want(200, "Stream-Closed", "true", "Stream-Up-To-Date", "true")
}

func TestWhoFollowsItemsWithEventsIsGivenTheStateAsOne(t *testing.T) {
	for _, keep := range []bool{false, true} {
		t.Run(fmt.Sprint("keep=", keep), func(t *testing.T) {
			s := serve(t, durablestreams.Config{KeepConnections: keep})
			tail := s.outlived("items")
			large := strings.Repeat("y", 300_000) // more than one piece, and weighed
			s.post("items", "application/json", `{"type":"item","key":"large","value":{"pad":"`+large+`"},"headers":{"operation":"insert"}}`).want(204)
			e := s.live("items?offset=-1&live=sse")
			if e.resp.Header.Get("Stream-Next-Offset") != "" {
				t.Fatal("the head says that the reader is at the tail")
			}
			data, has, c := e.pair()
			have := rows(t, make(map[string]string), data)
			if want := `{"pad":"` + large + `"}`; have["large"] != want {
				t.Fatalf("the large item came as %d bytes", len(have["large"]))
			}
			delete(have, "large")
			wantRows(t, have, 299)
			if !has || c.StreamNextOffset <= tail || c.UpToDate {
				t.Fatalf("%v, %+v", has, c)
			}
			if _, has, c = e.pair(); has || !c.UpToDate {
				t.Fatalf("the reader is not told that it is up to date: %v, %+v", has, c)
			}
			s.post("items", "application/json", `{"type":"item","key":"a","value":{"n":300,"pad":"`+strings.Repeat("x", 2000)+`"},"headers":{"operation":"update"}}`).want(204)
			data, _, c = e.pair()
			if wantRows(t, rows(t, have, data), 300); !c.UpToDate {
				t.Fatalf("%+v", c)
			}
			s.post("items", "", "", "Stream-Closed", "true").want(204)
			if _, _, c = e.pair(); !c.StreamClosed {
				t.Fatalf("%+v", c)
			}
			e = s.live("items?offset=-1&live=sse")
			data, _, _ = e.pair()
			have = rows(t, make(map[string]string), data)
			delete(have, "large")
			wantRows(t, have, 300)
			if _, _, c = e.pair(); !c.StreamClosed {
				t.Fatalf("%+v", c)
			}
			e.wantEnd()
		})
	}
}
