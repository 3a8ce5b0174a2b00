package client

import "errors"

// Op is an operation on the value of an item. docs/items.md describes each.
type Op struct {
	kind  string
	path  []string
	value any
}

// MarshalJSON writes the operation in the form that package items/ops reads.
func (o Op) MarshalJSON() ([]byte, error) {
	path := o.path
	if path == nil {
		path = []string{}
	}
	switch o.kind {
	case "increment", "decrement":
		return encode(map[string]any{"type": o.kind, "path": path, "by": o.value})
	case "remove":
		return encode(map[string]any{"type": o.kind, "path": path})
	case "":
		return nil, errors.New("an operation has no kind")
	}
	return encode(map[string]any{"type": o.kind, "path": path, "value": o.value})
}

// A path is the keys that lead to what an operation is about; none is the whole value.

// SetField replaces a value.
func SetField(value any, path ...string) Op { return Op{kind: "set", path: path, value: value} }

// Merge puts the keys of an object into one.
func Merge(object any, path ...string) Op { return Op{kind: "merge", path: path, value: object} }

// Increment adds to a number, and Decrement subtracts. What is not there counts as 0.
func Increment(by int64, path ...string) Op { return Op{kind: "increment", path: path, value: by} }

// Decrement subtracts from a number.
func Decrement(by int64, path ...string) Op { return Op{kind: "decrement", path: path, value: by} }

// Push adds an element to an array, or text to a string.
func Push(value any, path ...string) Op { return Op{kind: "append", path: path, value: value} }

// Remove removes a key.
func Remove(path ...string) Op { return Op{kind: "remove", path: path} }
