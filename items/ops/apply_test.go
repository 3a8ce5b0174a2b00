package ops_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/runnelhq/runnel/items/ops"
)

// absent stands for an item that does not exist.
const absent = ""

func apply(t *testing.T, before, list string, mode ops.Mode) (after string, codes []string) {
	t.Helper()
	parsed, err := ops.Parse([]byte(list))
	if err != nil {
		t.Fatalf("Parse(%s): %v", list, err)
	}
	var b []byte
	if before != absent {
		b = []byte(before)
	}
	got, failed := ops.Apply(b, parsed, mode)
	if string(b) != before {
		t.Fatalf("%s was changed to %s", before, b)
	}
	for _, f := range failed {
		codes = append(codes, fmt.Sprintf("%d:%s", f.Index, f.Code))
	}
	return string(got), codes
}

func TestOperations(t *testing.T) {
	long := strings.Repeat("k", 257)
	deep := `["` + strings.Repeat(`a","`, 32) + `a"]`
	for _, c := range []struct{ name, before, ops, after, failed string }{
		// set
		{"set replaces the root", `{"a":1}`, `[{"type":"set","path":"","value":[1]}]`, `[1]`, ""},
		{"set stores null at the root", `{"a":1}`, `[{"type":"set","path":"","value":null}]`, `null`, ""},
		{"set without a value is null", `{"a":1}`, `[{"type":"set","path":"a"}]`, `{"a":null}`, ""},
		{"set of a key keeps the order", `{"a":1,"b":2,"c":3}`, `[{"type":"set","path":"b","value":{"x": 1}}]`, `{"a":1,"b":{"x":1},"c":3}`, ""},
		{"set makes an item", absent, `[{"type":"set","path":"a","value":1}]`, `{"a":1}`, ""},
		{"a dot is part of a key", `{"a":{"b":1}}`, `[{"type":"set","path":"a.b","value":2}]`, `{"a":{"b":1},"a.b":2}`, ""},
		{"set of a key needs an object", `[1,2]`, `[{"type":"set","path":"f","value":1}]`, `[1,2]`, "0:set.target_not_object"},
		{"set of a key needs an object, not null", `null`, `[{"type":"set","path":"f","value":1}]`, `null`, "0:set.target_not_object"},
		{"set goes down", `{"a":{"b":1}}`, `[{"type":"set","path":["a","c","d"],"value":2}]`, `{"a":{"b":1,"c":{"d":2}}}`, ""},
		{"set goes through null", `{"a":null}`, `[{"type":"set","path":["a","b"],"value":2}]`, `{"a":{"b":2}}`, ""},
		{"set replaces nothing on its way", `{"a":[1]}`, `[{"type":"set","path":["a","b"],"value":2}]`, `{"a":[1]}`, "0:set.target_not_object"},
		// increment, decrement
		{"increment", `{"n":41}`, `[{"type":"increment","path":"n","by":1}]`, `{"n":42}`, ""},
		{"increment of nothing is by", `{}`, `[{"type":"increment","path":"n","by":5}]`, `{"n":5}`, ""},
		{"decrement of nothing is -by", `{}`, `[{"type":"decrement","path":"n","by":5}]`, `{"n":-5}`, ""},
		{"increment of an absent item is by", absent, `[{"type":"increment","path":"","by":3}]`, `3`, ""},
		{"decrement of an absent item is -by", absent, `[{"type":"decrement","path":"","by":3}]`, `-3`, ""},
		{"increment of null is an error", `{"n":null}`, `[{"type":"increment","path":"n","by":1}]`, `{"n":null}`, "0:increment.not_number"},
		{"increment of a string is an error", `{"n":"1"}`, `[{"type":"increment","path":"n","by":1}]`, `{"n":"1"}`, "0:increment.not_number"},
		{"decrement of an object at the root is an error", `{}`, `[{"type":"decrement","path":"","by":1}]`, `{}`, "0:decrement.not_number"},
		{"increment of a key needs an object", `7`, `[{"type":"increment","path":"n","by":1}]`, `7`, "0:increment.target_not_object"},
		{"decrement of a key needs an object", `"x"`, `[{"type":"decrement","path":"n","by":1}]`, `"x"`, "0:decrement.target_not_object"},
		{"increment goes beyond 64 bits", `{"n":18446744073709551615}`, `[{"type":"increment","path":"n","by":1}]`, `{"n":18446744073709551616}`, ""},
		{"decrement goes beyond 64 bits", `{"n":-9223372036854775808}`, `[{"type":"decrement","path":"n","by":1}]`, `{"n":-9223372036854775809}`, ""},
		{"by may be of any size", `{"n":1}`, `[{"type":"increment","path":"n","by":100000000000000000000000}]`, `{"n":100000000000000000000001}`, ""},
		{"fractions are exact", `{"n":0.1}`, `[{"type":"increment","path":"n","by":1},{"type":"decrement","path":"n","by":3}]`, `{"n":-1.9}`, ""},
		{"small fractions are exact", `{"n":1e-20}`, `[{"type":"increment","path":"n","by":1}]`, `{"n":1.00000000000000000001}`, ""},
		{"a fraction that adds up", `{"n":-1.50}`, `[{"type":"decrement","path":"n","by":2}]`, `{"n":-3.5}`, ""},
		{"an exponent is written out", `{"n":1e3}`, `[{"type":"increment","path":"n","by":1}]`, `{"n":1001}`, ""},
		{"a number too long to write out", `{"n":1e2000}`, `[{"type":"increment","path":"n","by":1}]`, `{"n":1e2000}`, "0:increment.not_number"},
		{"an exponent too large for anything", `{"n":1e99999999999999999999}`, `[{"type":"increment","path":"n","by":1}]`, `{"n":1e99999999999999999999}`, "0:increment.not_number"},
		{"numbers that are not reached stay as they are", `{"big":1700000000000123,"f":1.000,"n":1}`, `[{"type":"increment","path":"n","by":1}]`, `{"big":1700000000000123,"f":1.000,"n":2}`, ""},
		{"empty arrays stay arrays", `{"list":[],"n":1}`, `[{"type":"increment","path":"n","by":1}]`, `{"list":[],"n":2}`, ""},
		{"increment goes down", `{"a":{"n":1}}`, `[{"type":"increment","path":["a","n"],"by":1},{"type":"increment","path":["b","n"],"by":1}]`, `{"a":{"n":2},"b":{"n":1}}`, ""},
		// append
		{"append to an array", `{"l":[1]}`, `[{"type":"append","path":"l","value":2},{"type":"append","path":"l","value":[3]}]`, `{"l":[1,2,[3]]}`, ""},
		{"append to an empty array", `[ ]`, `[{"type":"append","value":1},{"type":"append","value":2}]`, `[ 1,2]`, ""},
		{"append to a string", `{"s":"a"}`, `[{"type":"append","path":"s","value":"b"},{"type":"append","path":"s","value":"\n"}]`, `{"s":"ab\n"}`, ""},
		{"append a string to nothing", `{}`, `[{"type":"append","path":"s","value":"a"}]`, `{"s":"a"}`, ""},
		{"append a string to null", `{"s":null}`, `[{"type":"append","path":"s","value":"a"}]`, `{"s":"a"}`, ""},
		{"append another value to nothing", `{}`, `[{"type":"append","path":"s","value":1}]`, `{"s":[1]}`, ""},
		{"append another value to null", `{"s":null}`, `[{"type":"append","path":"s","value":1}]`, `{"s":[1]}`, ""},
		{"append a string to nothing, below", `{}`, `[{"type":"append","path":["a","s"],"value":"x"}]`, `{"a":{"s":["x"]}}`, ""},
		{"append a string to null, below", `{"a":{"s":null}}`, `[{"type":"append","path":["a","s"],"value":"x"}]`, `{"a":{"s":"x"}}`, ""},
		{"append another value to null, below", `{"a":{"s":null}}`, `[{"type":"append","path":["a","s"],"value":2}]`, `{"a":{"s":[2]}}`, ""},
		{"append with an array of one key is that key", `{}`, `[{"type":"append","path":["s"],"value":"a"}]`, `{"s":"a"}`, ""},
		{"append a string to an absent item", absent, `[{"type":"append","path":"","value":"x"}]`, `"x"`, ""},
		{"append to an absent item", absent, `[{"type":"append","path":[],"value":1}]`, `[1]`, ""},
		{"append to null at the root", `null`, `[{"type":"append","path":null,"value":1}]`, `[1]`, ""},
		{"append a number to a string", `{"s":"a"}`, `[{"type":"append","path":"s","value":1}]`, `{"s":"a"}`, "0:append.type_mismatch"},
		{"append to an object", `{"o":{}}`, `[{"type":"append","path":"o","value":"v"}]`, `{"o":{}}`, "0:append.type_mismatch"},
		{"append to a number", `1`, `[{"type":"append","value":"v"}]`, `1`, "0:append.type_mismatch"},
		{"append to a boolean", `true`, `[{"type":"append","value":"v"}]`, `true`, "0:append.type_mismatch"},
		{"append below what is no object", `[]`, `[{"type":"append","path":"a","value":"v"}]`, `[]`, "0:append.target_not_object"},
		{"append replaces what stands in its way", `{"a":1}`, `[{"type":"append","path":["a","b"],"value":1}]`, `{"a":{"b":[1]}}`, ""},
		// merge
		{"merge is shallow", `{"a":{"x":1},"b":2}`, `[{"type":"merge","value":{"a":{"y":1},"c":3}}]`, `{"a":{"y":1},"b":2,"c":3}`, ""},
		{"merge below keeps the siblings", `{"a":{"x":1},"b":2}`, `[{"type":"merge","path":"a","value":{"y":1}}]`, `{"a":{"x":1,"y":1},"b":2}`, ""},
		{"merge makes what is missing", absent, `[{"type":"merge","path":["a","b"],"value":{"y":1}}]`, `{"a":{"b":{"y":1}}}`, ""},
		{"merge replaces what stands in its way", `{"a":[1]}`, `[{"type":"merge","path":["a","b"],"value":{"y":1}}]`, `{"a":{"b":{"y":1}}}`, ""},
		{"merge of an absent item", absent, `[{"type":"merge","path":"","value":{"y":1}}]`, `{"y":1}`, ""},
		{"merge of an array", `{}`, `[{"type":"merge","value":[]}]`, `{}`, "0:merge.value.not_an_object"},
		{"merge into an array says so", `[1]`, `[{"type":"merge","value":{"a":1}}]`, `[1]`, "0:merge.target_not_object"},
		{"merge below an array does not replace it", `[1]`, `[{"type":"merge","path":["a"],"value":{"a":1}}]`, `[1]`, "0:merge.target_not_object"},
		{"merge of a polluting key", `{}`, `[{"type":"merge","value":{"__proto__":{}}}]`, `{}`, "0:merge.value.proto_polluted"},
		{"merge of a polluting key deep down", `{}`, `[{"type":"merge","value":{"a":[{"constructor":1}]}}]`, `{}`, "0:merge.value.proto_polluted"},
		{"merge of what is too deep", `{}`, `[{"type":"merge","value":{"a":` + strings.Repeat("[", 16) + strings.Repeat("]", 16) + `}}]`, `{}`, "0:merge.value.too_deep"},
		{"merge of what is just not too deep", `{}`, `[{"type":"merge","value":{"a":` + strings.Repeat("[", 15) + strings.Repeat("]", 15) + `}}]`, `{"a":` + strings.Repeat("[", 15) + strings.Repeat("]", 15) + `}`, ""},
		// remove
		{"remove", `{"a":1,"b":2}`, `[{"type":"remove","path":"a"}]`, `{"b":2}`, ""},
		{"remove of nothing", `{"b":2}`, `[{"type":"remove","path":"a"}]`, `{"b":2}`, ""},
		{"remove of the root leaves null", `{"b":2}`, `[{"type":"remove","path":""}]`, `null`, ""},
		{"remove needs an object", `[]`, `[{"type":"remove","path":"a"}]`, `[]`, "0:remove.target_not_object"},
		{"remove goes down", `{"a":{"x":1,"y":2}}`, `[{"type":"remove","path":["a","x"]},{"type":"remove","path":["n","x"]}]`, `{"a":{"y":2}}`, ""},
		{"what is removed and set again comes last", `{"a":1,"b":2}`, `[{"type":"remove","path":"a"},{"type":"set","path":"a","value":3}]`, `{"b":2,"a":3}`, ""},
		// paths
		{"a reserved key", `{}`, `[{"type":"set","path":"__proto__","value":1},{"type":"remove","path":"constructor"},{"type":"increment","path":["a","prototype"],"by":1}]`, `{}`, "0:set.path.proto_polluted 1:remove.path.proto_polluted 2:increment.path.proto_polluted"},
		{"an empty key", `{}`, `[{"type":"append","path":["a",""],"value":1}]`, `{}`, "0:append.path.empty_segment"},
		{"a long key", `{}`, `[{"type":"decrement","path":"` + long + `","by":1}]`, `{}`, "0:decrement.path.segment_too_long"},
		{"a long path", `{}`, `[{"type":"merge","path":` + deep + `,"value":{}},{"type":"append","path":` + deep + `,"value":1},{"type":"set","path":` + deep + `}]`, `{}`, "0:merge.path.too_deep 1:append.path.too_deep 2:set.path.too_deep"},
		{"a polluting key in a value that is set", `{}`, `[{"type":"set","path":"a","value":{"b":{"__proto__":1}}}]`, `{}`, "0:set.value.proto_polluted"},
		{"keys are compared by what they mean", `{"\u0061":1}`, `[{"type":"increment","path":"a","by":1}]`, `{"\u0061":2}`, ""},
		{"the last of equal keys counts", `{"a":1,"a":2,"b":0}`, `[{"type":"increment","path":"a","by":1}]`, `{"a":3,"b":0}`, ""},
		// lists
		{"no operations on an absent item", absent, `[]`, `{}`, ""},
		{"no operations", `{"a":[ ]}`, `[]`, `{"a":[ ]}`, ""},
		{"what fails does not stop the others", `{"s":"x","n":1}`, `[{"type":"increment","path":"n","by":1},{"type":"increment","path":"s","by":1},{"type":"set","path":"done","value":true}]`, `{"s":"x","n":2,"done":true}`, "1:increment.not_number"},
		{"all of them fail on an absent item", absent, `[{"type":"set","path":"__proto__"}]`, `{}`, "0:set.path.proto_polluted"},
	} {
		t.Run(c.name, func(t *testing.T) {
			after, failed := apply(t, c.before, c.ops, ops.Partial)
			if after != c.after || strings.Join(failed, " ") != c.failed {
				t.Errorf("%s after %s\nis   %s %v\nwant %s %s", c.before, c.ops, after, failed, c.after, c.failed)
			}
		})
	}
}

func TestAWholeListIsAppliedOrNothingIs(t *testing.T) {
	for _, c := range []struct{ name, before, ops, after, failed string }{
		{"all succeed", `{"n":1}`, `[{"type":"increment","path":"n","by":1},{"type":"set","path":"a","value":1}]`, `{"n":2,"a":1}`, ""},
		{"one fails", `{"n":1}`, `[{"type":"increment","path":"n","by":1},{"type":"increment","path":"","by":1}]`, ``, "1:increment.not_number"},
		{"an append replaces nothing", `{"a":1}`, `[{"type":"append","path":["a","b"],"value":1}]`, ``, "0:append.target_not_object"},
		{"a merge replaces nothing", `{"a":[1]}`, `[{"type":"merge","path":"a","value":{"b":1}}]`, ``, "0:merge.target_not_object"},
		{"a merge fills in for null", `{"a":null}`, `[{"type":"merge","path":"a","value":{"b":1}}]`, `{"a":{"b":1}}`, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			after, failed := apply(t, c.before, c.ops, ops.Whole)
			if after != c.after || strings.Join(failed, " ") != c.failed {
				t.Errorf("%s after %s is %s %v", c.before, c.ops, after, failed)
			}
		})
	}
}

func TestAMergeOfTooManyKeys(t *testing.T) {
	many := func(n int) string {
		keys := make(map[string]int)
		for i := range n {
			keys[fmt.Sprint(i)] = i
		}
		b, err := json.Marshal(keys)
		if err != nil {
			t.Fatal(err)
		}
		return `[{"type":"merge","value":` + string(b) + `}]`
	}
	if after, failed := apply(t, `{"5":0}`, many(1024), ops.Partial); failed != nil || strings.Count(after, ":") != 1024 {
		t.Errorf("1024 keys: %v", failed)
	}
	if _, failed := apply(t, `{}`, many(1025), ops.Partial); len(failed) != 1 || failed[0] != "0:merge.value.too_many_keys" {
		t.Errorf("1025 keys: %v", failed)
	}
}

func TestWhatIsNoListOfOperationsIsRefusedBeforeAnything(t *testing.T) {
	for list, want := range map[string]string{
		`{}`:                           "ops must be an array of operations",
		`null`:                         "ops must be an array of operations",
		`[1]`:                          "ops[0] must be an object",
		`[{"type":"set"}]`:             "ops[0] must have a path",
		`[{"type":"set","path":null}]`: "ops[0] must have a path",
		`[{"type":"set","path":1}]`:    "ops[0] must have a string or an array of strings as path",
		`[{"type":"append","path":[1],"value":1}]`:                                "ops[0] must have a string or an array of strings as path",
		`[{"type":"remove","path":"a"},{"type":"increment","path":"a","by":1.5}]`: "ops[1] must have an integer as by",
		`[{"type":"increment","path":"a"}]`:                                       "ops[0] must have an integer as by",
		`[{"type":"append","path":"a"}]`:                                          "ops[0] must have a value",
		`[{"type":"merge","path":"a"}]`:                                           "ops[0] must have a value",
		`[{"path":"a"}]`:                                                          `ops[0] has the type "", which is not one of set, merge, increment, decrement, append and remove`,
		`[{"type":7}]`:                                                            "ops[0] must have a string as type",
		`[`:                                                                       "ops must be valid JSON",
		"[\"\xff\"]":                                                              "ops must be valid UTF-8",
		strings.Repeat("[", 129) + strings.Repeat("]", 129):                       "ops is nested 129 levels deep, the limit is 128",
		"[" + strings.Repeat(`{},`, ops.MaxOps) + "{}]":                           "ops has 1001 operations, the limit is 1000",
	} {
		if _, err := ops.Parse([]byte(list)); err == nil || err.Error() != want {
			t.Errorf("Parse(%.60s) = %v, want %s", list, err, want)
		}
	}
}

func ExampleApply() {
	list, err := ops.Parse([]byte(`[
		{"type": "increment", "path": ["votes", "up"], "by": 1},
		{"type": "append", "path": "tags", "value": "go"},
		{"type": "increment", "path": "title", "by": 1}
	]`))
	if err != nil {
		fmt.Println(err)
		return
	}
	after, failed := ops.Apply([]byte(`{"title":"Runnel","votes":{"up":9007199254740993}}`), list, ops.Partial)
	fmt.Println(string(after))
	for _, f := range failed {
		fmt.Println(f.Index, f.Code, f.Message)
	}
	// Output:
	// {"title":"Runnel","votes":{"up":9007199254740994},"tags":"go"}
	// 2 increment.not_number the target is no number
}

func FuzzApply(f *testing.F) {
	for _, seed := range [][2]string{
		{``, `[]`},
		{`{"a":[1,{"b":null}],"n":1.5e3}`, `[{"type":"append","path":["a"],"value":"x"},{"type":"decrement","path":"n","by":-99999999999999999999}]`},
		{`[ 1 , 2 ]`, `[{"type":"append","value":{"k":"\"]}"}},{"type":"remove","path":""}]`},
		{`"\ud83d"`, `[{"type":"append","value":"\ude00"}]`},
		{`{"a":1,"a":{"b":2}}`, `[{"type":"merge","path":["a","b"],"value":{"c":1}},{"type":"set","path":["x","y"],"value":null}]`},
		{`-0.0`, `[{"type":"increment","path":"","by":-0}]`},
	} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, before, list string) {
		parsed, err := ops.Parse([]byte(list))
		if err != nil {
			return
		}
		var b []byte
		if before != "" {
			if ops.Check([]byte(before)) != nil {
				return
			}
			b = ops.Compact([]byte(before))
		}
		was := string(b)
		for _, mode := range []ops.Mode{ops.Partial, ops.Whole} {
			after, failed := ops.Apply(b, parsed, mode)
			if string(b) != was {
				t.Fatalf("%s was changed to %s", was, b)
			}
			if mode == ops.Whole && len(failed) > 0 {
				if after != nil {
					t.Fatalf("%s though %v", after, failed)
				}
				continue
			}
			if !json.Valid(after) {
				t.Fatalf("%s after %s is %s", was, list, after)
			}
			again, _ := ops.Apply(b, parsed, mode)
			if string(again) != string(after) {
				t.Fatalf("%s, then %s", after, again)
			}
		}
	})
}
