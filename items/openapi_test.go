package items_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/runnelhq/runnel/items"
)

// documented is a request for each operation of the document, in an order in which they succeed.
var documented = []struct {
	operation, path, body string
	status                int
}{
	{"call_set", "", `{"stream_name":"s","group_id":"g","item_id":"i","data":{"a":1},"ttl":60,"txid":"t"}`, 200},
	{"call_get", "", `{"stream_name":"s","group_id":"g","item_id":"i"}`, 200},
	{"call_get", "", `{"stream_name":"s","group_id":"g","item_id":"none"}`, 204},
	{"call_update", "", `{"stream_name":"s","group_id":"g","item_id":"i","ops":[{"type":"increment","path":"a","by":1},{"type":"append","path":"a","value":1}]}`, 200},
	{"call_update", "", `{"stream_name":"s","group_id":"g","item_id":"i","atomic":true,"ops":[{"type":"append","path":"a","value":1}]}`, 422},
	{"call_send", "", `{"stream_name":"s","group_id":"g","type":"t","data":null}`, 200},
	{"call_list", "", `{"stream_name":"s","group_id":"g"}`, 200},
	{"call_list_groups", "", `{"stream_name":"s"}`, 200},
	{"call_list_all", "", `{}`, 200},
	{"call_compact", "", `{"stream_name":"s","group_id":"g"}`, 200},
	{"call_compact", "", `{"stream_name":"s"}`, 400},
	{"call_revoke", "", `{"stream_name":"s","group_id":"g","context":{"user":"ann"},"message":"bye"}`, 200},
	{"call_revoke", "", `{"subject":"ann"}`, 200},
	{"call_revoke", "", `{"message":"bye"}`, 400},
	{"call_delete", "", `{"stream_name":"s","group_id":"g","item_id":"i"}`, 200},
	{"call_delete", "", `{"stream_name":"s"}`, 400},
	{"putItem", "/v1/items/s/g/i", `{"a":1}`, 201},
	{"putItem", "/v1/items/s/g/i", `{"a":1}`, 200},
	{"getItem", "/v1/items/s/g/i", ``, 200},
	{"getItem", "/v1/items/s/g/none", ``, 404},
	{"patchItem", "/v1/items/s/g/i", `[{"type":"set","path":["b","c"],"value":[]}]`, 200},
	{"patchItem", "/v1/items/s/g/i", `[{"type":"increment","path":"","by":1}]`, 422},
	{"writeItems", "/v1/items/s/g", `{"writes":[{"id":"i","delete":true},{"id":"j","value":1,"if_absent":true},{"id":"k","ops":[]}]}`, 200},
	{"listItems", "/v1/items/s/g?limit=1", ``, 200},
	{"listGroups", "/v1/items/s", ``, 200},
	{"listStreams", "/v1/items/", ``, 200},
	{"deleteItem", "/v1/items/s/g/j", ``, 200},
	{"deleteGroup", "/v1/items/s/g", ``, 204},
	{"deleteStream", "/v1/items/s", ``, 200},
}

type operation struct {
	ID        string                     `json:"operationId"`
	Responses map[string]json.RawMessage `json:"responses"`
	Body      json.RawMessage            `json:"requestBody"`
	path      string
	method    string
}

func TestTheDocumentDescribesTheServer(t *testing.T) {
	s := serve(t, items.Config{})
	got := s.do("GET", "/v1/items/openapi.json", "")
	document, err := jsonschema.UnmarshalJSON(strings.NewReader(got.body))
	if err != nil {
		t.Fatal(err)
	}
	compiler := jsonschema.NewCompiler()
	if err := compiler.AddResource("openapi.json", document); err != nil {
		t.Fatal(err)
	}
	var doc struct {
		Paths map[string]map[string]operation `json:"paths"`
	}
	if err := json.Unmarshal([]byte(got.body), &doc); err != nil {
		t.Fatal(err)
	}
	operations := make(map[string]operation)
	for path, methods := range doc.Paths {
		for method, op := range methods {
			op.path, op.method = path, method
			operations[op.ID] = op
		}
	}
	pointer := strings.NewReplacer("~", "~0", "/", "~1", "{", "%7B", "}", "%7D")
	validate := func(op operation, part, body string) {
		t.Helper()
		schema, err := compiler.Compile("openapi.json#/paths/" + pointer.Replace(op.path) + "/" + op.method + "/" + part + "/content/application~1json/schema")
		if err != nil {
			t.Fatalf("%s: %v", op.ID, err)
		}
		value, err := jsonschema.UnmarshalJSON(strings.NewReader(body))
		if err != nil {
			t.Fatalf("%s: %s: %v", op.ID, body, err)
		}
		if err := schema.Validate(value); err != nil {
			t.Errorf("%s: %s is not as described: %v", op.ID, body, err)
		}
	}
	called := make(map[string]bool)
	for _, d := range documented {
		op, ok := operations[d.operation]
		if !ok {
			t.Fatalf("the document has no operation %s", d.operation)
		}
		path := d.path
		if path == "" {
			path = op.path
		}
		a := s.do(strings.ToUpper(op.method), path, d.body)
		if a.status != d.status {
			t.Errorf("%s %s: %d %s, want %d", d.operation, d.body, a.status, a.body, d.status)
			continue
		}
		if d.body != "" && a.status/100 == 2 {
			validate(op, "requestBody", d.body)
		}
		called[op.ID] = true
		status := fmt.Sprint(a.status)
		if op.Responses[status] == nil {
			if a.status/100 == 2 {
				t.Errorf("%s does not describe %d", op.ID, a.status)
			}
			status = "default"
		}
		if a.body != "" {
			validate(op, "responses/"+status, a.body)
		}
	}
	for id := range operations {
		if !called[id] {
			t.Errorf("no request of this test is %s", id)
		}
	}
	// Every method of every path that is not described is refused.
	for path, methods := range doc.Paths {
		at := strings.NewReplacer("{stream}", "s", "{group}", "g", "{item}", "i").Replace(path)
		for _, method := range []string{"GET", "PUT", "POST", "PATCH", "DELETE"} {
			if _, ok := methods[strings.ToLower(method)]; ok {
				continue
			}
			if a := s.do(method, at, ""); a.status != http.StatusMethodNotAllowed {
				t.Errorf("%s %s is not described, and answers %d %s", method, path, a.status, a.body)
			}
		}
	}
}
