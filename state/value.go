package state

import (
	"bytes"
	"encoding/json"
	"iter"
	"unicode/utf8"

	"github.com/runnelhq/runnel"
)

// wrapper is the field of a row that holds a value which is not one.
const wrapper = "value"

// Wrap returns the row that stands for a value in messages: the value itself if it is an object, unless its
// only field is value. The result may share its bytes with value, which must be valid JSON.
func Wrap(value []byte) []byte {
	if kind(value) == '{' && !wrapped(value) {
		return value
	}
	row := make([]byte, 0, len(value)+len(`{"value":}`))
	row = append(row, `{"value":`...)
	row = append(row, value...)
	return append(row, '}')
}

// Unwrap returns the value that a row stands for. It shares its bytes with row, which must be a valid JSON
// object.
func Unwrap(row []byte) []byte {
	if !wrapped(row) {
		return row
	}
	for _, raw := range fields(row) {
		return raw
	}
	return row
}

// wrapped tells whether the only field of a row is value.
func wrapped(row []byte) bool {
	n := 0
	for name := range fields(row) {
		if n++; n > 1 || name != wrapper {
			return false
		}
	}
	return n == 1
}

// CheckValue returns the text of a value without the white space around it, or an error that matches
// runnel.ErrInvalid if it is not valid JSON.
func CheckValue(value []byte) ([]byte, error) {
	if !utf8.Valid(value) || !json.Valid(value) {
		return nil, &runnel.InvalidError{What: "value of an item", Rule: "is not valid JSON"}
	}
	return bytes.Trim(value, " \t\r\n"), nil
}

// Drops tells whether the row next lacks a field that the row old has.
func Drops(old, next []byte) bool {
	var kept map[string]struct{}
	for name := range fields(old) {
		if kept == nil {
			kept = make(map[string]struct{})
			for name := range fields(next) {
				kept[name] = struct{}{}
			}
		}
		if _, ok := kept[name]; !ok {
			return true
		}
	}
	return false
}

// kind is the first character of a JSON value, 0 if there is none.
func kind(raw []byte) byte {
	raw = bytes.TrimLeft(raw, " \t\r\n")
	if len(raw) == 0 {
		return 0
	}
	return raw[0]
}

// fields yields the names and the values of a JSON object that is valid. The values are without the white
// space around them.
func fields(object []byte) iter.Seq2[string, []byte] {
	return func(yield func(string, []byte) bool) {
		b := object
		i := space(b, 0)
		if i == len(b) || b[i] != '{' {
			return
		}
		for i = space(b, i+1); i < len(b) && b[i] != '}'; {
			end := text(b, i)
			name := fieldName(b[i:end])
			i = space(b, space(b, end)+1) // behind the colon
			end = skip(b, i)
			if !yield(name, b[i:end:end]) {
				return
			}
			if i = space(b, end); i < len(b) && b[i] == ',' {
				i = space(b, i+1)
			}
		}
	}
}

// fieldName reads a name. One that has no UTF-8 stands for itself.
func fieldName(raw []byte) string {
	if name, ok := readText(raw); ok {
		return name
	}
	return string(raw)
}

func space(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\n' || b[i] == '\t' || b[i] == '\r') {
		i++
	}
	return i
}

// text returns where the JSON text that begins at i ends.
func text(b []byte, i int) int {
	for i++; i < len(b); i++ {
		switch b[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return len(b)
}

// skip returns where the JSON value that begins at i ends.
func skip(b []byte, i int) int {
	depth := 0
	for i < len(b) {
		switch b[i] {
		case '"':
			if i = text(b, i); depth == 0 {
				return i
			}
			continue
		case '{', '[':
			depth++
		case '}', ']':
			if depth == 0 {
				return i // the end of a number or a literal inside the object
			}
			if depth--; depth == 0 {
				return i + 1
			}
		case ',', ' ', '\n', '\t', '\r':
			if depth == 0 {
				return i
			}
		}
		i++
	}
	return i
}
