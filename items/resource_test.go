package items_test

import (
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/runnelhq/runnel/items"
)

var times = regexp.MustCompile(`"(created|updated|expires)":"[^"]+",?`)

func TestResources(t *testing.T) {
	s := serve(t, items.Config{MaxPage: 2})
	for _, c := range []struct {
		method, path, body string
		header             []string
		status             int
		want               string
	}{
		{"GET", "/chat/room/m1", "", nil, 404, `{"error":{"code":"not_found"`},
		{"PUT", "/chat/room/m1", `{"a": 1}`, nil, 201, `{"id":"m1","value":{"a":1},"version":1,`},
		{"GET", "/chat/room/m1", "", nil, 200, `{"a":1}`},
		{"HEAD", "/chat/room/m1", "", nil, 200, ``},
		{"GET", "/chat/room/m1", "", []string{"If-None-Match", `"1"`}, 304, ``},
		{"PUT", "/chat/room/m1", `2`, []string{"If-None-Match", "*"}, 412, `{"error":{"code":"precondition_failed"`},
		{"PUT", "/chat/room/m1", `2`, []string{"If-Match", `"7"`}, 412, `{"error":{"code":"precondition_failed"`},
		{"PUT", "/chat/room/m1", `2`, []string{"If-Match", `7`}, 400, `{"error":{"code":"invalid_request"`},
		{"PUT", "/chat/room/m1", `2`, []string{"If-Match", `"1"`}, 200, `{"id":"m1","value":2,"version":2,`},
		{"PUT", "/chat/room/m2", `2`, []string{"If-Match", `*`}, 412, `{"error":{"code":"precondition_failed"`},
		{"PUT", "/chat/room/m2", `{`, nil, 400, `{"error":{"code":"invalid_json"`},
		{"PUT", "/chat/room/m2", "\"\xff\"", nil, 400, `{"error":{"code":"invalid_json"`},
		{"PATCH", "/chat/room/m1", `[{"type":"increment","path":"","by":40}]`, nil, 200, `{"id":"m1","value":42,"version":3,`},
		{"PATCH", "/chat/room/m1", `[{"type":"increment","path":"","by":1},{"type":"set","path":"a"}]`, nil, 422, `{"error":{"code":"invalid_request"`},
		{"PATCH", "/chat/room/m1?mode=partial", `[{"type":"increment","path":"","by":1},{"type":"set","path":"a"}]`, nil, 200, `{"id":"m1","value":43,"version":4,`},
		{"PATCH", "/chat/room/m1", `{}`, nil, 400, `{"error":{"code":"invalid_request"`},
		{"POST", "/chat/room", `{"writes":[{"id":"m1","delete":true,"if_version":4},{"id":"m2","value":"two"},{"id":"m/3","ops":[{"type":"set","path":"a","value":1}]}]}`, nil, 200, `{"items":[{"id":"m1","old_value":43,"deleted":true},{"id":"m2","value":"two","version":6,`},
		{"POST", "/chat/room", `{"writes":[{"id":"m2","value":1},{"id":"m4","value":1,"if_version":9}]}`, nil, 412, `{"error":{"code":"precondition_failed"`},
		{"POST", "/chat/room", `{"writes":[{"id":"m2","value":1,"delete":true}]}`, nil, 400, `{"error":{"code":"invalid_request"`},
		{"POST", "/chat/room", `{"writes":[]}`, nil, 400, `{"error":{"code":"invalid_request"`},
		{"GET", "/chat/room/m2", "", nil, 200, `"two"`},
		{"GET", "/chat/room/m%2F3", "", nil, 200, `{"a":1}`},
		{"PUT", "/chat/room/m4", `4`, []string{"Item-TTL", "60"}, 201, `{"id":"m4","value":4,"version":8,`},
		{"PUT", "/chat/room/m4", `4`, []string{"Item-TTL", "soon"}, 400, `{"error":{"code":"invalid_request"`},
		{"GET", "/chat/room?limit=1", "", nil, 200, `{"items":[{"id":"m/3","value":{"a":1},"version":7,`},
		{"GET", "/chat/room?after=m2", "", nil, 200, `{"items":[{"id":"m4","value":4,"version":8,`},
		{"GET", "/chat/room?prefix=z", "", nil, 200, `{"items":[],"next":null,"version":8,"cursor":"1-8"}`},
		{"GET", "/chat/room?limit=3", "", nil, 400, `{"error":{"code":"invalid_request"`},
		{"GET", "/chat/nobody", "", nil, 200, `{"items":[],"next":null,"version":0,"cursor":"0-0"}`},
		{"GET", "/chat", "", nil, 200, `{"groups":["room"],"next":null}`},
		{"PUT", "/a%2Fb/g/x", `1`, nil, 201, `{"id":"x","value":1,"version":1,`},
		{"GET", "/?limit=1", "", nil, 200, `{"streams":["a/b"],"next":"a/b"}`},
		{"GET", "/a/b/g/x", "", nil, 400, `{"error":{"code":"invalid_request"`},
		{"DELETE", "/chat/room/m4", "", []string{"If-Match", `"1"`}, 412, `{"error":{"code":"precondition_failed"`},
		{"DELETE", "/chat/room/m4", "", nil, 200, `{"id":"m4","old_value":4,"deleted":true}`},
		{"DELETE", "/chat/room/m4", "", nil, 404, `{"error":{"code":"not_found"`},
		{"DELETE", "/chat/room", "", nil, 204, ``},
		{"DELETE", "/chat/room", "", nil, 404, `{"error":{"code":"not_found"`},
		{"DELETE", "/a%2Fb", "", nil, 200, `{"groups":1}`},
		{"PUT", "/chat/room", "", nil, 405, `{"error":{"code":"method_not_allowed"`},
		{"POST", "/chat", "", nil, 405, `{"error":{"code":"method_not_allowed"`},
		{"GET", "/call/stream::get", "", nil, 405, `{"error":{"code":"method_not_allowed"`},
		{"GET", "/chat/%zz/x", "", nil, 400, ``},
	} {
		path := "/v1/items" + c.path
		if strings.Contains(path, "%zz") {
			continue // no client of Go's sends that
		}
		a := s.do(c.method, path, c.body, c.header...)
		if a.status != c.status || !strings.HasPrefix(times.ReplaceAllString(a.body, ""), times.ReplaceAllString(c.want, "")) {
			t.Errorf("%s %s %s %v: %d %s\nwant %d %s", c.method, c.path, c.body, c.header, a.status, a.body, c.status, c.want)
		}
	}
}

// Of several writes it is said which one stands against them all.
func TestARefusalNamesTheItem(t *testing.T) {
	s := serve(t, items.Config{})
	s.set("a", `{"n":"x"}`)
	for writes, want := range map[string]string{
		`{"id":"b","value":1},{"id":"a","value":1,"if_version":7}`:                            `"have":"1","want":"7","item":"a"`,
		`{"id":"b","value":1},{"id":"a","ops":[{"type":"increment","path":"n","by":1}]}`:      `"item":"a"},"errors":[{"op_index":0`,
		`{"id":"b","value":1},{"id":"a","value":1,"ttl":-1}`:                                  `writes[1]: ttl must be between`,
		`{"id":"b","value":1},{"id":"a","value":1,"if_absent":true,"if_version":1}`:           `writes[1]: if_absent and if_version`,
		`{"id":"b","value":1},{"id":"a","ops":[{"type":"set","path":"n"},{"type":"turn"}]}`:   `writes[1]: ops[1] has the type`,
		`{"id":"b","value":1},{"id":"a","ops":[{"type":"increment","path":["n",""],"by":1}]}`: `"item":"a"},"errors":[{"op_index":0,"code":"increment.path.empty_segment"`,
	} {
		if a := s.do("POST", "/v1/items/chat/room", `{"writes":[`+writes+`]}`); a.status/100 != 4 || !strings.Contains(a.body, want) {
			t.Errorf("%s: %d %s", writes, a.status, a.body)
		}
	}
	for body, want := range map[string]string{
		`{"stream_name":"chat","group_id":"","item_id":"a","data":1}`:    `group name \"\" must not be empty`,
		`{"stream_name":"chat","group_id":"a/b","item_id":"a","data":1}`: `group name \"a/b\" must not contain a slash`,
		`{"stream_name":"a/../b","group_id":"a","item_id":"a","data":1}`: `stream name \"a/../b\" must not contain the element`,
	} {
		if a := s.do("POST", "/v1/items/call/set", body); a.status != 400 || !strings.Contains(a.body, want) {
			t.Errorf("%s: %d %s", body, a.status, a.body)
		}
	}
}

func TestAnItemIsDescribedByItsHeaders(t *testing.T) {
	s := serve(t, items.Config{})
	put := s.do("PUT", "/v1/items/chat/room/m1", `1`, "Item-TTL", "60")
	get := s.do("GET", "/v1/items/chat/room/m1", ``)
	for _, name := range []string{"Etag", "Item-Created", "Item-Updated", "Item-Expires"} {
		if v := get.header.Get(name); v == "" || v != put.header.Get(name) {
			t.Errorf("%s is %q, and %q in the answer to PUT", name, v, put.header.Get(name))
		}
	}
}

func TestARepeatedPutWithTheSameKeyIsOne(t *testing.T) {
	s := serve(t, items.Config{})
	for i := range 2 {
		a := s.do("PATCH", "/v1/items/chat/room/n", `[{"type":"increment","path":"","by":1}]`, "Idempotency-Key", "once")
		if a.status != http.StatusCreated-i || strings.Contains(a.body, `"duplicate":true`) != (i == 1) {
			t.Errorf("%d %s", a.status, a.body)
		}
	}
	if a := s.do("PATCH", "/v1/items/chat/room/n", `[{"type":"increment","path":"","by":2}]`, "Idempotency-Key", "once"); a.status/100 != 4 {
		t.Errorf("another request under the key: %d %s", a.status, a.body)
	}
	if a := s.do("GET", "/v1/items/chat/room/n", ""); a.body != "1" {
		t.Errorf("the item is %s", a.body)
	}
}

func TestWhatIsTooLargeIsRefusedWithTheNumbers(t *testing.T) {
	s := serve(t, items.Config{MaxBodyBytes: 10})
	if a := s.do("PUT", "/v1/items/chat/room/m", `"0123456789"`); a.status != 413 || !strings.Contains(a.body, `"limit":10`) {
		t.Errorf("%d %s", a.status, a.body)
	}
}
