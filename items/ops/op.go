package ops

import (
	"bytes"
	"encoding/json"
	"fmt"
	"unicode/utf8"
)

// Limits of operations.
const (
	// MaxOps is how many operations one list may have.
	MaxOps = 1000
	// MaxSegments is how many keys a path may have.
	MaxSegments = 32
	// MaxSegmentBytes is the longest key of a path, in bytes of UTF-8.
	MaxSegmentBytes = 256
	// MaxMergeKeys is how many keys the value of a merge may have at its top.
	MaxMergeKeys = 1024
	// MaxMergeDepth is how deep the value of a merge may be nested; objects and arrays count.
	MaxMergeDepth = 16
	// MaxDepth is how deep any value may be nested, that of an item included.
	MaxDepth = 128
	// MaxDigits is how many digits a number that was counted up or down may have, written out.
	MaxDigits = 1000
)

// Kind is what an operation does.
type Kind string

// The kinds of operations.
const (
	Set       Kind = "set"
	Merge     Kind = "merge"
	Increment Kind = "increment"
	Decrement Kind = "decrement"
	Append    Kind = "append"
	Remove    Kind = "remove"
)

// Op is one operation. Its JSON form is {"type": …, "path": …, "value": …} or with "by" for a value.
type Op struct {
	Kind Kind
	// Path leads to the target. Empty is the root.
	Path []string
	// Literal says that the path was given as a string, so that it is at most one key.
	Literal bool
	// Value is the JSON value of a set, a merge or an append.
	Value []byte
	// By is the integer of an increment or a decrement, of any size.
	By []byte
}

// ParseError says why a list of operations cannot be read. Nothing of it is applied.
type ParseError struct {
	// Index is the operation that is wrong, counted from 0, or -1 when it is the list.
	Index int
	Rule  string
}

func (e *ParseError) Error() string {
	if e.Index < 0 {
		return "ops " + e.Rule
	}
	return fmt.Sprintf("ops[%d] %s", e.Index, e.Rule)
}

// Parse reads the JSON form of a list. The error is a [*ParseError].
func Parse(list []byte) ([]Op, error) {
	if err := Check(list); err != nil {
		return nil, &ParseError{Index: -1, Rule: err.Error()}
	}
	var raw []json.RawMessage
	if err := json.Unmarshal(list, &raw); err != nil || raw == nil {
		return nil, &ParseError{Index: -1, Rule: "must be an array of operations"}
	}
	if len(raw) > MaxOps {
		return nil, &ParseError{Index: -1, Rule: fmt.Sprintf("has %d operations, the limit is %d", len(raw), MaxOps)}
	}
	parsed := make([]Op, len(raw))
	for i, one := range raw {
		op, rule := parseOp(one)
		if rule != "" {
			return nil, &ParseError{Index: i, Rule: rule}
		}
		parsed[i] = op
	}
	return parsed, nil
}

func parseOp(raw []byte) (op Op, rule string) {
	if raw[0] != '{' {
		return op, "must be an object"
	}
	var path, value, by []byte
	var kind string
	for _, m := range members(raw) {
		switch m.key {
		case "type":
			if err := json.Unmarshal(m.value.raw, &kind); err != nil {
				return op, "must have a string as type"
			}
		case "path":
			path = m.value.raw
		case "value":
			value = m.value.raw
		case "by":
			by = m.value.raw
		}
	}
	op.Kind = Kind(kind)
	optional := false
	switch op.Kind {
	case Set:
		if value == nil {
			value = null
		}
	case Merge, Append:
		optional = true
		if value == nil {
			return op, "must have a value"
		}
	case Increment, Decrement:
		if !isInteger(by) {
			return op, "must have an integer as by"
		}
		op.By = bytes.Clone(by)
	case Remove:
	default:
		return op, fmt.Sprintf("has the type %q, which is not one of set, merge, increment, decrement, append and remove", kind)
	}
	if op.Kind == Set || optional {
		op.Value = compact(value)
	}
	switch {
	case path == nil && !optional, bytes.Equal(path, null) && !optional:
		return op, "must have a path"
	case path == nil, bytes.Equal(path, null):
		op.Literal = true
		return op, ""
	case path[0] == '"':
		op.Literal = true
		if key := unquote(path); key != "" {
			op.Path = []string{key}
		}
		return op, ""
	}
	if path[0] != '[' {
		return op, "must have a string or an array of strings as path"
	}
	for _, e := range elements(path) {
		if e[0] != '"' {
			return op, "must have a string or an array of strings as path"
		}
		op.Path = append(op.Path, unquote(e))
	}
	return op, ""
}

// Check returns nil if b is one JSON value in UTF-8, nested no deeper than MaxDepth.
func Check(b []byte) error {
	if !utf8.Valid(b) {
		return fmt.Errorf("must be valid UTF-8")
	}
	if deep := depth(b); deep > MaxDepth {
		return fmt.Errorf("is nested %d levels deep, the limit is %d", deep, MaxDepth)
	}
	if !json.Valid(b) {
		return fmt.Errorf("must be valid JSON")
	}
	return nil
}

// Compact returns a JSON value without the white space between its tokens: the value itself if there is none.
func Compact(value []byte) []byte {
	if !loose(value) {
		return value
	}
	return compact(value)
}

func compact(value []byte) []byte {
	var b bytes.Buffer
	b.Grow(len(value))
	if err := json.Compact(&b, value); err != nil {
		panic(err) // the value has been checked
	}
	return b.Bytes()
}

// HasKey tells whether an object, as JSON, has a key at its top.
func HasKey(object []byte, key string) bool {
	for _, m := range members(object) {
		if m.key == key {
			return true
		}
	}
	return false
}
