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
	if kind(value) == '{' {
		if _, ok := wrapped(value); !ok {
			return value
		}
	}
	row := make([]byte, 0, len(value)+len(`{"value":}`))
	row = append(row, `{"value":`...)
	row = append(row, value...)
	return append(row, '}')
}

// Unwrap returns the value that a row stands for. It shares its bytes with row, which must be a valid JSON
// object.
func Unwrap(row []byte) []byte {
	if value, ok := wrapped(row); ok {
		return value
	}
	return row
}

// wrapped returns what is in a row whose only field is value.
func wrapped(row []byte) (value []byte, ok bool) {
	o := open(row)
	if !names(o.name(), wrapper) {
		return nil, false // without a look at what may be a long value
	}
	_, value, _ = o.next()
	_, _, more := o.next()
	return value, !more
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
	// Most updates write the same fields in the same order.
	was, now := open(old), open(next)
	for {
		at := was
		name, _, ok := was.next()
		if !ok {
			return false
		}
		if same, _, _ := now.next(); !bytes.Equal(name, same) {
			was = at
			break
		}
	}
	kept := make(map[string]struct{})
	for name := range fields(next) {
		kept[name] = struct{}{}
	}
	for name, _, ok := was.next(); ok; name, _, ok = was.next() {
		if _, ok := kept[fieldName(name)]; !ok {
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
		o := open(object)
		for name, value, ok := o.next(); ok; name, value, ok = o.next() {
			if !yield(fieldName(name), value) {
				return
			}
		}
	}
}

// object is a JSON object that is being read, field by field.
type object struct {
	b []byte
	i int // where the next field begins, or the end
}

// open begins to read a JSON value that is valid. One that is no object has no fields.
func open(b []byte) object {
	i := space(b, 0)
	if i == len(b) || b[i] != '{' {
		return object{}
	}
	return object{b, space(b, i+1)}
}

// name returns the name of the next field, as it is written; nil at the end.
func (o *object) name() []byte {
	if o.i >= len(o.b) || o.b[o.i] == '}' {
		return nil
	}
	return o.b[o.i:text(o.b, o.i)]
}

// next returns the name of the next field, as it is written, and its value; ok is false at the end.
func (o *object) next() (name, value []byte, ok bool) {
	if name = o.name(); name == nil {
		return nil, nil, false
	}
	b := o.b
	i := space(b, space(b, o.i+len(name))+1) // behind the colon
	end := skip(b, i)
	value = b[i:end:end]
	if i = space(b, end); i < len(b) && b[i] == ',' {
		i = space(b, i+1)
	}
	o.i = i
	return name, value, true
}

// names tells whether a name, as it is written, is a given one.
func names(raw []byte, name string) bool {
	if bytes.IndexByte(raw, '\\') >= 0 {
		return fieldName(raw) == name
	}
	return len(raw) == len(name)+2 && string(raw[1:len(raw)-1]) == name
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
