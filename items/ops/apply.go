package ops

import "fmt"

// The ends of the codes of errors, after the kind of the operation and a dot.
const (
	tooDeep        = "path.too_deep"
	emptySegment   = "path.empty_segment"
	segmentTooLong = "path.segment_too_long"
	pathPolluted   = "path.proto_polluted"
	notAnObject    = "value.not_an_object"
	tooManyKeys    = "value.too_many_keys"
	valuePolluted  = "value.proto_polluted"
	valueTooDeep   = "value.too_deep"
	targetNoObject = "target_not_object"
	notNumber      = "not_number"
	typeMismatch   = "type_mismatch"
)

// DocURL is where the codes are described.
const DocURL = "https://github.com/runnelhq/runnel/blob/main/docs/items.md#errors-of-operations"

// Error says why an operation changed nothing.
type Error struct {
	// Index is the place of the operation in the list, counted from 0.
	Index   int    `json:"op_index"`
	Code    string `json:"code"`
	Message string `json:"message"`
	DocURL  string `json:"doc_url"`
}

func (e *Error) Error() string { return fmt.Sprintf("ops[%d]: %s: %s", e.Index, e.Code, e.Message) }

// Mode says what becomes of a list of which an operation fails.
type Mode int

const (
	// Partial keeps what the other operations of the list do. What stands in the way of a merge or an
	// append with several keys in its path, and is no object, becomes one.
	Partial Mode = iota
	// Whole applies all operations, or none. Nothing that stands in the way is replaced: the operation
	// fails.
	Whole
)

// Apply returns what a value is after a list of operations, and which of them failed. Before is JSON, or
// nil where there is no value yet: then operations on keys begin with an empty object. In mode
// Whole the value is nil if any failed.
func Apply(before []byte, list []Op, mode Mode) (after []byte, failed []Error) {
	a := applier{root: &node{raw: before}, missing: before == nil, mode: mode}
	if a.missing {
		a.root.raw = empty
	}
	for i := range list {
		op := &list[i]
		f := check(op)
		if f == nil {
			f = a.apply(op)
		}
		if f != nil {
			failed = append(failed, Error{Index: i, Code: string(op.Kind) + "." + f.code, Message: f.message, DocURL: DocURL})
			continue
		}
		a.missing = false
	}
	if mode == Whole && len(failed) > 0 {
		return nil, failed
	}
	return a.root.append(make([]byte, 0, len(before)+64)), failed
}

// failure is an Error without its place.
type failure struct{ code, message string }

func fail(code, format string, args ...any) *failure {
	return &failure{code, fmt.Sprintf(format, args...)}
}

// check finds what is wrong with an operation whatever it is applied to.
func check(op *Op) *failure {
	if n := len(op.Path); n > MaxSegments {
		return fail(tooDeep, "the path has %d segments, the limit is %d", n, MaxSegments)
	}
	for i, key := range op.Path {
		switch {
		case key == "":
			return fail(emptySegment, "segment %d of the path is empty", i)
		case len(key) > MaxSegmentBytes:
			return fail(segmentTooLong, "segment %d of the path has %d bytes, the limit is %d", i, len(key), MaxSegmentBytes)
		case reserved(key):
			return fail(pathPolluted, "segment %d of the path is %q, which JavaScript gives a meaning", i, key)
		}
	}
	if op.Value == nil {
		return nil
	}
	if op.Kind == Merge {
		if op.Value[0] != '{' {
			return fail(notAnObject, "only an object can be merged")
		}
		if n := len(members(op.Value)); n > MaxMergeKeys {
			return fail(tooManyKeys, "the value has %d keys, the limit is %d", n, MaxMergeKeys)
		}
		if n := depth(op.Value); n > MaxMergeDepth {
			return fail(valueTooDeep, "the value is nested %d levels deep, the limit is %d", n, MaxMergeDepth)
		}
	}
	if key := pollutes(op.Value); key != "" {
		return fail(valuePolluted, "the value has the key %q, to which JavaScript gives a meaning", key)
	}
	if n := depth(op.Value) + len(op.Path) + 1; n > MaxDepth { // an append may put it into an array
		return fail(valueTooDeep, "the value would be nested %d levels deep, the limit is %d", n, MaxDepth)
	}
	return nil
}

type applier struct {
	root    *node
	missing bool // nothing was there, and no operation has succeeded yet
	mode    Mode
}

func (a *applier) apply(op *Op) *failure {
	if len(op.Path) == 0 {
		return a.applyRoot(op)
	}
	if a.root.kind() != '{' {
		return fail(targetNoObject, "the path leads into a value that is no object")
	}
	way, last := op.Path[:len(op.Path)-1], op.Path[len(op.Path)-1]
	if f := a.passable(op, way); f != nil {
		return f
	}
	if op.Kind == Remove {
		if parent := a.find(way); parent != nil {
			parent.open().remove(last)
		}
		return nil
	}
	var target *node
	if parent := a.find(way); parent != nil {
		target = parent.open().get(last)
	}
	after := &node{}
	if target != nil {
		after = target
	}
	if f := change(op, after, target == nil, a.mode); f != nil {
		return f
	}
	if target == nil {
		a.make(way).put(last, after)
	}
	return nil
}

// passable fails if something other than an object stands in the way, and may not be replaced.
func (a *applier) passable(op *Op, way []string) *failure {
	replace := a.mode == Partial && (op.Kind == Merge || op.Kind == Append)
	at := a.root
	for i, key := range way {
		if at = at.open().get(key); at == nil {
			return nil
		}
		switch k := at.kind(); {
		case k == '{':
		case k == 'n', replace:
			return nil
		default:
			return fail(targetNoObject, "segment %d of the path, %q, leads into a value that is no object", i, key)
		}
	}
	return nil
}

// find returns the object that a way leads to, or nil.
func (a *applier) find(way []string) *node {
	at := a.root
	for _, key := range way {
		if at = at.open().get(key); at == nil || at.kind() != '{' {
			return nil
		}
	}
	return at
}

// make returns the object that a way leads to, and makes what is missing.
func (a *applier) make(way []string) *object {
	at := a.root
	for _, key := range way {
		o := at.open()
		next := o.get(key)
		if next == nil || next.kind() != '{' {
			next = &node{raw: empty}
			o.put(key, next)
		}
		at = next
	}
	return at.open()
}

func (a *applier) applyRoot(op *Op) *failure {
	if op.Kind == Remove {
		a.root.set(null)
		return nil
	}
	if !a.missing || op.Kind == Merge {
		return change(op, a.root, false, a.mode)
	}
	after := &node{}
	if f := change(op, after, true, a.mode); f != nil {
		return f
	}
	a.root = after
	return nil
}

// change does to n, which may be missing, what an operation on it does.
func change(op *Op, n *node, missing bool, mode Mode) *failure {
	switch op.Kind {
	case Set:
		n.set(op.Value)
		return nil
	case Merge:
		return merge(op, n, missing, mode)
	case Increment, Decrement:
		return count(op, n, missing)
	case Append:
		return push(op, n, missing)
	}
	return fail("type", "there is no such operation")
}

func merge(op *Op, n *node, missing bool, mode Mode) *failure {
	switch {
	case missing:
		n.set(empty)
	case n.kind() != '{' && len(op.Path) == 0:
		return fail(targetNoObject, "the value is no object, so nothing can be merged into it")
	case n.kind() != '{' && n.kind() != 'n' && mode == Whole:
		return fail(targetNoObject, "the target is no object, so nothing can be merged into it")
	case n.kind() != '{':
		n.set(empty)
	}
	o := n.open()
	for _, m := range members(op.Value) {
		o.put(m.key, m.value)
	}
	return nil
}

func count(op *Op, n *node, missing bool) *failure {
	if missing {
		sum, ok := add([]byte("0"), op.By, op.Kind == Decrement)
		if !ok {
			return fail(notNumber, "the number would have more than %d digits", MaxDigits)
		}
		n.set(sum)
		return nil
	}
	if n.kind() != '0' {
		return fail(notNumber, "the target is no number")
	}
	sum, ok := add(n.raw, op.By, op.Kind == Decrement)
	if !ok {
		return fail(notNumber, "the number would have more than %d digits", MaxDigits)
	}
	n.set(sum)
	return nil
}

func push(op *Op, n *node, missing bool) *failure {
	text := op.Value[0] == '"'
	if missing || n.kind() == 'n' {
		if text && (!missing || len(op.Path) < 2) {
			n.set(op.Value)
			return nil
		}
		n.set(append(append([]byte{'['}, op.Value...), ']'))
		return nil
	}
	switch k := n.kind(); {
	case k == '[':
		n.own()
		end := len(n.raw) - 1
		n.raw = n.raw[:end]
		if space(n.raw, 1) < end {
			n.raw = append(n.raw, ',')
		}
		n.raw = append(append(n.raw, op.Value...), ']')
		return nil
	case k == '"' && text:
		n.own()
		n.raw = append(n.raw[:len(n.raw)-1], op.Value[1:]...)
		return nil
	case k == '"':
		return fail(typeMismatch, "only a string can be appended to a string")
	}
	return fail(typeMismatch, "nothing can be appended to an object, a number or a boolean")
}
