package durablestreams

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/runnelhq/runnel"
)

func FuzzSplitJSONAgreesWithTheStandardLibrary(f *testing.F) {
	for _, seed := range []string{
		``, ` `, `[]`, `[ ]`, `[1]`, `[1,]`, `[,1]`, `{}`, `{"a":1}`, `{"a":1,}`, `{"a" : [1 , {"b":null}]} `, `tru`, `true`, `nulll`,
		`-0`, `01`, `1.`, `1.5e+7`, `1e`, `-`, `"a\u12fG"`, `"a\u12fa"`, `"\x"`, "\"\x01\"", "\"\x7f\"", `"日本語"`, "\"\xff\"", `[[1,2],[3]]`,
		`[[[]]]`, `[1 2]`, `1 2`, `[1]]`, `["a","b\\"]`, `{"a":{"a":{"a":[]}}}`, "\ufeff1", `"12345678\"12345678"`, `{"a":1,"a":2}`, `{1:2}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		records, err := splitJSON(nil, body, 1<<20, DefaultMaxJSONDepth)
		valid := json.Valid(body) && utf8.Valid(body)
		if (err == nil) != valid {
			if err != nil && strings.Contains(err.Error(), "deeper") {
				return
			}
			t.Fatalf("splitJSON(%q) = %v, json.Valid says %v", body, err, valid)
		}
		if err != nil {
			return
		}
		var want []json.RawMessage
		if trimmed := bytes.TrimLeft(body, " \t\r\n"); trimmed[0] == '[' {
			if err := json.Unmarshal(body, &want); err != nil {
				t.Fatal(err)
			}
		} else {
			want = []json.RawMessage{bytes.Trim(body, " \t\r\n")}
		}
		if len(records) != len(want) {
			t.Fatalf("splitJSON(%q): %d messages, want %d", body, len(records), len(want))
		}
		for i := range want {
			if !bytes.Equal(records[i].Payload, bytes.Trim(want[i], " \t\r\n")) {
				t.Fatalf("splitJSON(%q): message %d is %q, want %q", body, i, records[i].Payload, want[i])
			}
		}
	})
}

func TestJSONIsRefusedWithThePlaceAndTheLimit(t *testing.T) {
	for _, c := range []struct{ name, body, want string }{
		{"nothing but space", "  \n", "holds no JSON value"},
		{"bytes that are not UTF-8", "\"\xff\"", "not valid UTF-8"},
		{"a value cut short", `{"a":`, "at byte 5 of 5"},
		{"a second value", `{} {}`, "at byte 3 of 5: there is more"},
		{"nesting over the limit", strings.Repeat("[", 11) + strings.Repeat("]", 11), "deeper than the limit of 10"},
		{"more messages than the limit", `[1,2,3,4,5]`, "limit of 4"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := splitJSON(nil, []byte(c.body), 4, 10)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v, want an error with %q", err, c.want)
			}
		})
	}
	if _, err := splitJSON(nil, []byte(strings.Repeat("[", 10)+strings.Repeat("]", 10)), 4, 10); err != nil {
		t.Errorf("nesting at the limit: %v", err)
	}
}

func BenchmarkSplitJSON(b *testing.B) {
	text := []byte(`{"id":12345,"type":"token","headers":{"operation":"insert"},"value":"`)
	for len(text) < 1022 {
		text = append(text, "some words, "...)
	}
	text = append(text[:1022], `"}`...)
	var dense bytes.Buffer
	dense.WriteString(`{"a":[0`)
	for i := 0; dense.Len() < 990; i++ {
		fmt.Fprintf(&dense, `,{"k%d":%d,"t":true}`, i, i*7)
	}
	dense.WriteString(`]}`)
	for name, message := range map[string][]byte{"text": text, "dense": dense.Bytes()} {
		b.Run(fmt.Sprintf("%s/message=%dB", name, len(message)), func(b *testing.B) {
			body := append([]byte{'['}, bytes.Repeat(append(message, ','), 16)...)
			body[len(body)-1] = ']'
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			var records []runnel.Record
			for b.Loop() {
				var err error
				if records, err = splitJSON(records[:0], body, 1<<10, DefaultMaxJSONDepth); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
