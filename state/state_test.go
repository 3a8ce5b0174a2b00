package state_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/state"
)

// messages are what is written, byte for byte: StreamDB and others read them.
var messages = []struct {
	change state.Change
	want   string
}{
	{
		state.Change{Type: "task", Key: "t1", Operation: state.Insert, Value: []byte(`{"id":"t1","n":1}`), TxID: "c0ffee", Timestamp: time.Date(2026, 11, 21, 20, 0, 0, 7e6, time.UTC)},
		`{"type":"task","key":"t1","value":{"id":"t1","n":1},"headers":{"operation":"insert","txid":"c0ffee","timestamp":"2026-11-21T20:00:00.007Z"}}`,
	},
	{
		state.Change{Type: "item", Key: "a\"b\\c\nd\u007f e", Operation: state.Update, Value: []byte(`{"big":123456789012345678901234567890.10}`)},
		`{"type":"item","key":"a\"b\\c\u000ad\u007f e","value":{"big":123456789012345678901234567890.10},"headers":{"operation":"update"}}`,
	},
	{
		state.Change{Type: "item", Key: "k", Operation: state.Delete, OldValue: []byte(`{"x":null}`)},
		`{"type":"item","key":"k","old_value":{"x":null},"headers":{"operation":"delete"}}`,
	},
}

func TestMessagesAreWrittenByteForByteAndReadBack(t *testing.T) {
	for _, m := range messages {
		got := m.change.Append(nil)
		if string(got) != m.want {
			t.Errorf("wrote\n%s, want\n%s", got, m.want)
		}
		back, err := state.Parse(got)
		if err != nil || !reflect.DeepEqual(back, m.change) {
			t.Errorf("read back\n%+v, %v, want\n%+v", back, err, m.change)
		}
	}
}

func TestWhatClientsSendIsRead(t *testing.T) {
	for _, text := range []string{
		` { "headers" : { "operation" : "upsert", "from": "x" }, "value" : { "n" : 1 }, "key" : "k", "type" : "t", "more": [ { "key": 1 } ] } `,
		`{"type":"no","type":"t","key":"k","value":{"n":0},"value":{ "n" : 1 },"headers":{"operation":"upsert"}}`,
		`{"type":"\u0074","key":"k","value":{ "n" : 1 },"old_value":null,"headers":{"operation":"upsert","timestamp":"yesterday"}}`,
	} {
		c, err := state.Parse([]byte(text))
		if err != nil || c.Type != "t" || c.Key != "k" || c.Operation != state.Upsert || string(c.Value) != `{ "n" : 1 }` {
			t.Errorf("%s: %+v, %v", text, c, err)
		}
	}
}

func TestWhatWouldBreakAReaderIsRefused(t *testing.T) {
	for _, tc := range []struct{ text, rule string }{
		{`{`, "not valid JSON"},
		{"\"\xff\"", "not valid JSON"},
		{`[]`, "must be an object"},
		{`{"type":"t","key":"k","value":{}}`, "needs headers"},
		{`{"type":"t","key":"k","value":{},"headers":{}}`, "needs the operation"},
		{`{"headers":{"control":"reset"}}`, "control message"},
		{`{"key":"k","value":{},"headers":{"operation":"insert"}}`, "needs a type"},
		{`{"type":"","key":"k","value":{},"headers":{"operation":"insert"}}`, "empty type"},
		{`{"type":"t","key":7,"value":{},"headers":{"operation":"insert"}}`, "needs a key"},
		{`{"type":"t","key":"\ud800","value":{},"headers":{"operation":"insert"}}`, "needs a key"},
		{`{"type":"*","key":"k","value":{},"headers":{"operation":"insert"}}`, "kept for all types"},
		{`{"type":"t","key":"` + strings.Repeat("k", 257) + `","value":{},"headers":{"operation":"insert"}}`, "257"},
		{`{"type":"t","key":"k","headers":{"operation":"insert"}}`, "needs a value"},
		{`{"type":"t","key":"k","value":1,"headers":{"operation":"update"}}`, "needs a value"},
		{`{"type":"t","key":"k","value":null,"headers":{"operation":"update"}}`, "needs a value"},
		{`{"type":"t","key":"k","headers":{"operation":"delete","txid":1}}`, "txid"},
	} {
		_, err := state.Parse([]byte(tc.text))
		if !errors.Is(err, runnel.ErrInvalid) || !strings.Contains(fmt.Sprint(err), tc.rule) {
			t.Errorf("%.80s: %v, want %q", tc.text, err, tc.rule)
		}
	}
}

func TestAValueThatIsNoObjectIsWrapped(t *testing.T) {
	for value, row := range map[string]string{
		`1`:                   `{"value":1}`,
		`null`:                `{"value":null}`,
		`[{"a":1}]`:           `{"value":[{"a":1}]}`,
		`"text"`:              `{"value":"text"}`,
		`{}`:                  `{}`,
		`{"a":1}`:             `{"a":1}`,
		`{"value":1,"b":2}`:   `{"value":1,"b":2}`,
		`{"value":1}`:         `{"value":{"value":1}}`,
		`{"\u0076alue":true}`: `{"value":{"\u0076alue":true}}`,
	} {
		if got := state.Wrap([]byte(value)); string(got) != row {
			t.Errorf("%s is wrapped as %s, want %s", value, got, row)
		}
		if got := state.Unwrap([]byte(row)); string(got) != value {
			t.Errorf("%s is unwrapped as %s, want %s", row, got, value)
		}
	}
}

func TestAFieldThatIsDroppedIsSeen(t *testing.T) {
	for _, tc := range []struct {
		old, next string
		want      bool
	}{
		{`{}`, `{}`, false},
		{`{"a":1}`, `{"a":2,"b":3}`, false},
		{`{"a":1}`, `{"\u0061":2}`, false},
		{`{"a":{"x":1}}`, `{"a":{}}`, false},
		{`{"a":1,"b":2}`, `{"b":2}`, true},
		{`{"a":1}`, `{}`, true},
	} {
		if got := state.Drops([]byte(tc.old), []byte(tc.next)); got != tc.want {
			t.Errorf("from %s to %s: %v", tc.old, tc.next, got)
		}
	}
}

// What is read is written again as a message that means the same; and no value changes on its way through
// a row and back.
func FuzzParse(f *testing.F) {
	for _, m := range messages {
		f.Add([]byte(m.want))
	}
	f.Add([]byte(` {"type":"t","key":"\u00e9","value":{"value":[1e400,-0.0]},"headers":{"operation":"upsert","x":{}}} `))
	f.Add([]byte(`{"headers":{"control":"snapshot-start"}}`))
	f.Fuzz(func(t *testing.T, payload []byte) {
		if value, err := state.CheckValue(payload); err == nil {
			row := state.Wrap(value)
			if back := state.Unwrap(row); string(back) != string(value) {
				t.Fatalf("%s became %s and then %s", value, row, back)
			}
			if state.Drops(row, row) {
				t.Fatalf("%s lacks a field of its own", row)
			}
		}
		c, err := state.Parse(payload)
		if err != nil {
			if !errors.Is(err, runnel.ErrInvalid) {
				t.Fatal(err)
			}
			return
		}
		if err := state.CheckKey(runnel.ItemKey{Type: c.Type, Key: c.Key}); err != nil {
			t.Fatal(err)
		}
		c.Timestamp = c.Timestamp.Truncate(time.Millisecond).UTC()
		if y := c.Timestamp.Year(); y < 0 || y > 9999 {
			return
		}
		again := c.Append(nil)
		if !json.Valid(again) {
			t.Fatalf("%s was written as %s", payload, again)
		}
		back, err := state.Parse(again)
		if err != nil || !reflect.DeepEqual(back, c) {
			t.Fatalf("%s was read as\n%+v and then as\n%+v, %v", payload, c, back, err)
		}
	})
}
