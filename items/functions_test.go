package items_test

import (
	"strings"
	"testing"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/items"
)

func TestFunctions(t *testing.T) {
	s := serve(t, items.Config{})
	const it = `"stream_name":"chat","group_id":"room","item_id":"m1"`
	for _, c := range []struct{ name, in, want string }{
		{"list", `{"stream_name":"chat","group_id":"room"}`, `[]`},
		{"list_groups", `{"stream_name":"chat"}`, `[]`},
		{"list_all", `{}`, `{"stream":[],"count":0}`},
		{"get", `{` + it + `}`, ``},
		{"delete", `{` + it + `}`, `{"old_value":null}`},
		{"list_all", `{}`, `{"stream":[],"count":0}`},
		{"set", `{` + it + `,"data":{"n": 9007199254740993}}`, `{"old_value":null,"new_value":{"n":9007199254740993},"version":1}`},
		{"set", `{` + it + `,"data":null,"unknown":1}`, `{"old_value":{"n":9007199254740993},"new_value":null,"version":2}`},
		{"get", `{` + it + `}`, `null`},
		{"update", `{` + it + `,"ops":[{"type":"set","path":"","value":{"a":1}},{"type":"increment","path":"a","by":1}]}`, `{"old_value":null,"new_value":{"a":2},"version":3}`},
		{"update", `{` + it + `,"ops":[{"type":"append","path":"a","value":"x"},{"type":"set","path":"b","value":[]}]}`,
			`{"old_value":{"a":2},"new_value":{"a":2,"b":[]},"errors":[{"op_index":0,"code":"append.type_mismatch","message":"nothing can be appended to an object, a number or a boolean","doc_url":"https://github.com/runnelhq/runnel/blob/main/docs/items.md#errors-of-operations"}],"version":4}`},
		{"update", `{` + it + `,"ops":[]}`, `{"old_value":{"a":2,"b":[]},"new_value":{"a":2,"b":[]},"version":5}`},
		{"set", `{"stream_name":"chat","group_id":"room","item_id":"m0","data":"zero"}`, `{"old_value":null,"new_value":"zero","version":6}`},
		{"list", `{"stream_name":"chat","group_id":"room"}`, `["zero",{"a":2,"b":[]}]`},
		{"list", `{"stream_name":"chat","group_id":"room","after":"m0","limit":5}`, `[{"a":2,"b":[]}]`},
		{"set", `{"stream_name":"chat","group_id":"attic","item_id":"x","data":1}`, `{"old_value":null,"new_value":1,"version":1}`},
		{"set", `{"stream_name":"a:b","group_id":"c","item_id":"x","data":1}`, `{"old_value":null,"new_value":1,"version":1}`},
		{"list", `{"stream_name":"a","group_id":"b:c"}`, `[]`},
		{"list_groups", `{"stream_name":"chat"}`, `["attic","room"]`},
		{"list_all", `{}`, `{"stream":[{"id":"a:b","groups":["c"]},{"id":"chat","groups":["attic","room"]}],"count":2}`},
		{"delete", `{` + it + `}`, `{"old_value":{"a":2,"b":[]}}`},
		{"get", `{` + it + `}`, ``},
		{"send", `{"stream_name":"chat","group_id":"nobody","type":"typing","data":{"who":1}}`, `null`},
	} {
		if got := s.call(c.name, c.in); got != c.want {
			t.Errorf("%s(%s)\nis   %s\nwant %s", c.name, c.in, got, c.want)
		}
	}
}

func TestAnInputThatDoesNotFitFailsBeforeAnything(t *testing.T) {
	s := serve(t, items.Config{})
	for _, c := range [][2]string{
		{"set", `{"stream_name":"chat","group_id":"room","item_id":"m1"}`},
		{"set", `{"stream_name":"chat","group_id":7,"item_id":"m1","data":1}`},
		{"set", `{"stream_name":null,"group_id":"room","item_id":"m1","data":1}`},
		{"send", `{"stream_name":"chat","group_id":"room","data":1}`},
		{"list_all", `null`},
		{"list_all", ``},
		{"list", `{"stream_name":"chat"`},
		{"update", `{"stream_name":"chat","group_id":"room","item_id":"m1"}`},
		{"update", `{"stream_name":"chat","group_id":"room","item_id":"m1","ops":[{"type":"set","path":"a","value":1},{"type":"increment","path":"n","by":0.5}]}`},
	} {
		a := s.do("POST", "/v1/items/call/"+c[0], c[1])
		if a.status != 400 || !strings.HasPrefix(a.body, `{"code":"deserialization_error"`) {
			t.Errorf("%s(%s): %d %s", c[0], c[1], a.status, a.body)
		}
	}
	if got := s.call("list_all", `{}`); got != `{"stream":[],"count":0}` {
		t.Errorf("there is %s", got)
	}
}

func TestAnInputThatDoesNotFitIsNamedAsCallersNameIt(t *testing.T) {
	s := serve(t, items.Config{})
	const it = `{"stream_name":"chat","group_id":"room","item_id":"m1",`
	for _, c := range [][3]string{
		{"list", it + `"limit":-1}`, `limit must not be less than 0, got -1`},
		{"set", it + `"data":1,"if_version":"1"}`, `if_version must not be a string`},
		{"set", `{"stream_name":"chat","group_id":7,"item_id":"m1","data":1}`, `group_id must not be a number`},
	} {
		if a := s.do("POST", "/v1/items/call/"+c[0], c[1]); a.status != 400 || !strings.Contains(a.body, `"message":"`+c[2]+`"`) {
			t.Errorf("%s(%s): %d %s, want %s", c[0], c[1], a.status, a.body, c[2])
		}
	}
}

func TestAFunctionThatFailsSaysSoUnderItsName(t *testing.T) {
	s := serve(t, items.Config{})
	s.log.failing = runnel.ErrFailed
	const it = `{"stream_name":"chat","group_id":"room","item_id":"m1","data":1,"ops":[],"type":"x"}`
	for name, code := range map[string]string{
		"set": "STREAM_SET_ERROR", "get": "STREAM_GET_ERROR", "delete": "STREAM_DELETE_ERROR", "update": "STREAM_UPDATE_ERROR", "list": "STREAM_GET_GROUP_ERROR",
	} {
		if a := s.do("POST", "/v1/items/call/stream::"+name, it); a.status != 500 || !strings.HasPrefix(a.body, `{"code":"`+code+`"`) {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		}
	}
	if a := s.do("POST", "/v1/items/call/send", strings.Replace(it, "room", "a/b", 1)); a.status != 400 || !strings.HasPrefix(a.body, `{"code":"STREAM_SEND_ERROR"`) {
		t.Errorf("send: %d %s", a.status, a.body)
	}
	if a := s.do("POST", "/v1/items/call/frob", `{}`); a.status != 404 {
		t.Errorf("frob: %d %s", a.status, a.body)
	}
}

func TestAnAtomicUpdateChangesNothingWhenAnOperationFails(t *testing.T) {
	s := serve(t, items.Config{})
	s.set("m1", `{"n":1}`)
	a := s.do("POST", "/v1/items/call/stream::update", `{"stream_name":"chat","group_id":"room","item_id":"m1","atomic":true,"ops":[{"type":"increment","path":"n","by":1},{"type":"increment","path":"","by":1}]}`)
	if a.status != 422 || !strings.Contains(a.body, `"errors":[{"op_index":1,"code":"increment.not_number"`) {
		t.Errorf("%d %s", a.status, a.body)
	}
	if got := s.call("list", `{"stream_name":"chat","group_id":"room"}`); got != `[{"n":1}]` {
		t.Errorf("the item is %s", got)
	}
}

func TestConditionsAndKeysOfFunctions(t *testing.T) {
	s := serve(t, items.Config{})
	const it = `"stream_name":"chat","group_id":"room","item_id":"m1"`
	s.call("set", `{`+it+`,"data":1,"if_absent":true}`)
	if a := s.do("POST", "/v1/items/call/set", `{`+it+`,"data":2,"if_absent":true}`); a.status != 412 || !strings.Contains(a.body, `"have":"1"`) {
		t.Errorf("if_absent: %d %s", a.status, a.body)
	}
	s.call("set", `{`+it+`,"data":2,"if_version":1}`)
	if a := s.do("POST", "/v1/items/call/set", `{`+it+`,"data":3,"if_version":1}`); a.status != 412 {
		t.Errorf("if_version: %d %s", a.status, a.body)
	}
	const update = `{` + it + `,"ops":[{"type":"increment","path":"","by":1}],"idempotency_key":"k"}`
	first, again := s.call("update", update), s.call("update", update)
	if first != `{"old_value":2,"new_value":3,"version":3}` || !strings.Contains(again, `"new_value":3`) || !strings.Contains(again, `"duplicate":true`) {
		t.Errorf("%s, then %s", first, again)
	}
}
