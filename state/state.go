// Package state is the messages of an item segment: change messages of the State Protocol 1.0, as the
// entries of a JSON stream. It is pure: no I/O, no clock, no locks. Whatever it does not name it leaves
// alone, byte for byte: numbers of any size, the order of fields, escapes.
//
// # A message
//
//	{"type":"task","key":"t1","value":{…},"headers":{"operation":"insert","txid":"…","timestamp":"…"}}
//
// The value is the full row, never a patch. It is an object: clients that materialise a stream break off at
// any other value, and at any other message. An update that drops a field of the row is written as a delete
// and an insert in one append, since these clients keep fields that an update does not name.
//
// # Values that are no objects
//
// An item may be any JSON value. One that is not an object is the only field, named value, of the object
// that stands in the message; and so is an object that looks like that: see [Wrap].
package state

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/runnelhq/runnel"
)

// Operation is what a message does to the row under its key.
type Operation string

// The operations. Upsert is what some clients send; it is never written here.
const (
	Insert Operation = "insert"
	Update Operation = "update"
	Upsert Operation = "upsert"
	Delete Operation = "delete"
)

// Change is a change message.
type Change struct {
	Type, Key string
	Operation Operation
	// Value is the row, a JSON object. Nil for a deletion.
	Value []byte
	// OldValue is the row before, a JSON object, where the message tells it.
	OldValue []byte
	// TxID names the transaction that the writer knows; empty for none.
	TxID string
	// Timestamp is when, by the writer. Zero: not told.
	Timestamp time.Time
}

// changeBytes is about what a message takes besides what the change says.
const changeBytes = len(`{"type":"","key":"","value":,"old_value":,"headers":{"operation":"insert","txid":"","timestamp":"2006-01-02T15:04:05.000Z"}}`)

// Append appends the message to dst. The type and the key must be as [Parse] demands, and the values JSON
// objects.
func (c *Change) Append(dst []byte) []byte {
	dst = slices.Grow(dst, changeBytes+len(c.Type)+len(c.Key)+len(c.Value)+len(c.OldValue)+len(c.TxID))
	dst = append(dst, `{"type":`...)
	dst = appendText(dst, c.Type)
	dst = append(dst, `,"key":`...)
	dst = appendText(dst, c.Key)
	if c.Operation != Delete {
		dst = append(dst, `,"value":`...)
		dst = append(dst, c.Value...)
	}
	if c.OldValue != nil {
		dst = append(dst, `,"old_value":`...)
		dst = append(dst, c.OldValue...)
	}
	dst = append(dst, `,"headers":{"operation":"`...)
	dst = append(dst, c.Operation...)
	dst = append(dst, '"')
	if c.TxID != "" {
		dst = append(dst, `,"txid":`...)
		dst = appendText(dst, c.TxID)
	}
	if !c.Timestamp.IsZero() {
		dst = append(dst, `,"timestamp":"`...)
		dst = appendTime(dst, c.Timestamp.UTC())
		dst = append(dst, '"')
	}
	return append(dst, "}}"...)
}

// appendTime appends a time as Date.prototype.toISOString of JavaScript writes it, from a layout that package time
// has a quick way for.
func appendTime(dst []byte, t time.Time) []byte {
	dst = t.AppendFormat(dst, time.RFC3339)
	ms := t.Nanosecond() / int(time.Millisecond)
	return append(dst[:len(dst)-1], '.', byte('0'+ms/100), byte('0'+ms/10%10), byte('0'+ms%10), 'Z')
}

// appendText appends a JSON text of valid UTF-8, as it is but for what must be escaped.
func appendText(dst []byte, s string) []byte {
	const hex = "0123456789abcdef"
	dst = append(dst, '"')
	start := 0
	for i := range len(s) {
		c := s[i]
		if c >= ' ' && c != '"' && c != '\\' && c != 0x7f {
			continue
		}
		dst = append(dst, s[start:i]...)
		start = i + 1
		switch c {
		case '"', '\\':
			dst = append(dst, '\\', c)
		default:
			dst = append(dst, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		}
	}
	return append(append(dst, s[start:]...), '"')
}

// Parse reads a message. Its values are parts of payload. The error says what is wrong with it, and matches
// runnel.ErrInvalid.
//
// Where a name stands in an object twice, the last one counts, as it does for JSON.parse.
func Parse(payload []byte) (Change, error) {
	var c Change
	if !utf8.Valid(payload) || !json.Valid(payload) {
		return c, invalid("is not valid JSON")
	}
	if kind(payload) != '{' {
		return c, invalid("must be an object")
	}
	var typ, key, value, old, headers []byte
	for name, raw := range fields(payload) {
		switch name {
		case "type":
			typ = raw
		case "key":
			key = raw
		case "value":
			value = raw
		case "old_value":
			old = raw
		case "headers":
			headers = raw
		}
	}
	if kind(headers) != '{' {
		return c, invalid("needs headers, an object")
	}
	if err := c.readHeaders(headers); err != nil {
		return c, err
	}
	var err error
	if c.Type, err = readName("type", typ, runnel.MaxItemTypeBytes); err != nil {
		return c, err
	}
	if strings.ContainsRune(c.Type, 0) || c.Type == runnel.AllItemTypes {
		return c, invalid("has a type with a zero character, or the type " + strconv.Quote(runnel.AllItemTypes) + ", which is kept for all types")
	}
	if c.Key, err = readName("key", key, runnel.MaxItemKeyBytes); err != nil {
		return c, err
	}
	if kind(old) == '{' {
		c.OldValue = old
	}
	if c.Operation == Delete {
		return c, nil
	}
	if kind(value) != '{' {
		return c, invalid("needs a value that is an object, for clients that materialise the stream break off at any other")
	}
	c.Value = value
	return c, nil
}

func (c *Change) readHeaders(headers []byte) error {
	var operation, control string
	for name, raw := range fields(headers) {
		switch name {
		case "operation":
			operation, _ = readText(raw)
		case "control":
			control, _ = readText(raw)
		case "txid":
			txid, ok := readText(raw)
			if !ok && kind(raw) != 'n' {
				return invalid("has a txid that is not a text")
			}
			c.TxID = txid
		case "timestamp":
			if text, ok := readText(raw); ok {
				c.Timestamp, _ = time.Parse(time.RFC3339Nano, text)
			}
		}
	}
	switch c.Operation = Operation(operation); c.Operation {
	case Insert, Update, Upsert, Delete:
		return nil
	}
	if control != "" {
		return invalid("is a control message, " + short(control) + ", of which an item segment takes none")
	}
	return invalid("needs the operation insert, update or delete in its headers, not " + short(operation))
}

// readName reads a text that must be there.
func readName(what string, raw []byte, most int) (string, error) {
	text, ok := readText(raw)
	switch {
	case !ok:
		return "", invalid("needs a " + what + " that is a text")
	case text == "":
		return "", invalid("has an empty " + what)
	case len(text) > most:
		return "", &runnel.TooLargeError{What: what + " of an item", Limit: int64(most), Got: int64(len(text))}
	}
	return text, nil
}

// CheckKey returns nil if an item can have the key, and otherwise an error that matches runnel.ErrInvalid.
func CheckKey(k runnel.ItemKey) error {
	for _, part := range []struct {
		what, text string
		most       int
	}{{"type", k.Type, runnel.MaxItemTypeBytes}, {"key", k.Key, runnel.MaxItemKeyBytes}} {
		rule := ""
		switch {
		case part.text == "":
			rule = "must not be empty"
		case len(part.text) > part.most:
			return &runnel.TooLargeError{What: part.what + " of an item", Limit: int64(part.most), Got: int64(len(part.text))}
		case !utf8.ValidString(part.text):
			rule = "must be UTF-8"
		case part.what == "type" && (strings.ContainsRune(part.text, 0) || part.text == runnel.AllItemTypes):
			rule = "must not contain a zero character, or be " + strconv.Quote(runnel.AllItemTypes)
		}
		if rule != "" {
			return &runnel.InvalidError{What: part.what + " of an item", Rule: rule}
		}
	}
	return nil
}

func invalid(rule string) error {
	return &runnel.InvalidError{What: "message of an item segment", Rule: rule}
}

func short(s string) string { return fmt.Sprintf("%.64q", s) }

// readText reads a JSON text that is valid.
func readText(raw []byte) (string, bool) {
	if kind(raw) != '"' {
		return "", false
	}
	inner := raw[1 : len(raw)-1]
	if bytes.IndexByte(inner, '\\') < 0 {
		return string(inner), true
	}
	var text string
	if json.Unmarshal(raw, &text) != nil {
		return "", false
	}
	// A lone surrogate has no UTF-8: two texts would become one.
	if strings.ContainsRune(text, utf8.RuneError) && bytes.Contains(bytes.ToLower(raw), []byte(`\ud`)) {
		return "", false
	}
	return text, true
}
