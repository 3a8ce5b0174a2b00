package ops

import (
	"bytes"
	"encoding/json"
)

var (
	null  = []byte("null")
	empty = []byte("{}")
)

// indexFrom is from how many members on an object is searched with an index.
const indexFrom = 16

// A node is a JSON value that is taken apart only where an operation reaches into it.
type node struct {
	raw   []byte // the value, unless it was taken apart
	owned bool   // raw is not the caller's and may be appended to
	*object
}

// object is what a node was taken apart to.
type object struct {
	members []member
	index   map[string]int // nil for a small object
}

type member struct {
	key    string
	quoted []byte // the key as it is written
	value  *node  // nil when it was removed
}

func (n *node) kind() byte {
	if n.object != nil {
		return '{'
	}
	switch c := n.raw[0]; c {
	case '{', '[', '"', 't', 'f', 'n':
		return c
	}
	return '0'
}

// set makes n another value.
func (n *node) set(raw []byte) { *n = node{raw: raw} }

// open takes an object apart.
func (n *node) open() *object {
	if n.object == nil {
		o := &object{}
		for _, m := range members(n.raw) {
			if at := o.find(m.key); at >= 0 {
				o.members[at].value = m.value // the last of equal keys counts
				continue
			}
			o.add(m)
		}
		*n = node{object: o}
	}
	return n.object
}

func (o *object) find(key string) int {
	if o.index != nil {
		if at, ok := o.index[key]; ok {
			return at
		}
		return -1
	}
	for i := range o.members {
		if o.members[i].key == key && o.members[i].value != nil {
			return i
		}
	}
	return -1
}

func (o *object) add(m member) {
	o.members = append(o.members, m)
	switch {
	case o.index != nil:
		o.index[m.key] = len(o.members) - 1
	case len(o.members) == indexFrom:
		o.index = make(map[string]int, 2*indexFrom)
		for i := range o.members {
			if o.members[i].value != nil {
				o.index[o.members[i].key] = i
			}
		}
	}
}

// get returns the value under a key, or nil.
func (o *object) get(key string) *node {
	if at := o.find(key); at >= 0 {
		return o.members[at].value
	}
	return nil
}

// put makes value the one under a key. A key that was removed comes back at the end.
func (o *object) put(key string, value *node) {
	if at := o.find(key); at >= 0 {
		o.members[at].value = value
		return
	}
	o.add(member{key: key, quoted: quote(key), value: value})
}

// remove leaves a member without a value and without a place in the search.
func (o *object) remove(key string) {
	at := o.find(key)
	if at < 0 {
		return
	}
	o.members[at].value = nil
	if o.index != nil {
		delete(o.index, key)
	}
}

func (n *node) append(b []byte) []byte {
	if n.object == nil {
		return append(b, n.raw...)
	}
	b = append(b, '{')
	first := true
	for i := range n.members {
		m := &n.members[i]
		if m.value == nil {
			continue
		}
		if !first {
			b = append(b, ',')
		}
		first = false
		b = append(b, m.quoted...)
		b = append(b, ':')
		b = m.value.append(b)
	}
	return append(b, '}')
}

// own lets raw be appended to without touching what it was made of.
func (n *node) own() {
	if !n.owned {
		n.raw = append(make([]byte, 0, len(n.raw)+64), n.raw...)
		n.owned = true
	}
}

func quote(s string) []byte {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err) // a string always has a JSON form
	}
	return b
}

func unquote(raw []byte) string {
	if bytes.IndexByte(raw, '\\') < 0 {
		return string(raw[1 : len(raw)-1])
	}
	var s string
	if err := json.Unmarshal(raw, &s); err != nil {
		panic(err) // the value has been checked
	}
	return s
}

// members takes apart an object that is known to be valid.
func members(raw []byte) []member {
	var all []member
	for i := space(raw, 1); raw[i] != '}'; {
		end := skip(raw, i)
		m := member{key: unquote(raw[i:end]), quoted: raw[i:end]}
		i = space(raw, space(raw, end)+1) // over the colon
		end = skip(raw, i)
		m.value = &node{raw: raw[i:end:end]}
		all = append(all, m)
		if i = space(raw, end); raw[i] == ',' {
			i = space(raw, i+1)
		}
	}
	return all
}

// elements takes apart an array that is known to be valid.
func elements(raw []byte) [][]byte {
	var all [][]byte
	for i := space(raw, 1); raw[i] != ']'; {
		end := skip(raw, i)
		all = append(all, raw[i:end:end])
		if i = space(raw, end); raw[i] == ',' {
			i = space(raw, i+1)
		}
	}
	return all
}

func space(raw []byte, i int) int {
	for i < len(raw) && (raw[i] == ' ' || raw[i] == '\n' || raw[i] == '\t' || raw[i] == '\r') {
		i++
	}
	return i
}

// skip returns the end of the value that begins at i.
func skip(raw []byte, i int) int {
	switch raw[i] {
	case '"':
		return skipString(raw, i)
	case '{', '[':
		for nested := 0; ; i++ {
			switch raw[i] {
			case '"':
				i = skipString(raw, i) - 1
			case '{', '[':
				nested++
			case '}', ']':
				if nested--; nested == 0 {
					return i + 1
				}
			}
		}
	}
	for i < len(raw) {
		switch raw[i] {
		case ',', '}', ']', ' ', '\n', '\t', '\r':
			return i
		}
		i++
	}
	return i
}

func skipString(raw []byte, i int) int {
	for i++; i < len(raw); i++ {
		switch raw[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return len(raw)
}

// depth returns how deep arrays and objects are nested in what may be JSON.
func depth(raw []byte) int {
	deep, deepest := 0, 0
	for i := 0; i < len(raw); i++ {
		switch raw[i] {
		case '"':
			i = skipString(raw, i) - 1
		case '{', '[':
			deep++
			deepest = max(deepest, deep)
		case '}', ']':
			deep--
		}
	}
	return deepest
}

// loose tells whether there is white space between the tokens of a value.
func loose(raw []byte) bool {
	for i := 0; i < len(raw); i++ {
		switch raw[i] {
		case '"':
			i = skipString(raw, i) - 1
		case ' ', '\n', '\t', '\r':
			return true
		}
	}
	return false
}

// reserved tells whether a key may reach into the prototype of a JavaScript object.
func reserved(key string) bool {
	return key == "__proto__" || key == "constructor" || key == "prototype"
}

// pollutes returns a reserved key at any depth of a value, or "".
func pollutes(raw []byte) string {
	switch raw[0] {
	case '{':
		for _, m := range members(raw) {
			if reserved(m.key) {
				return m.key
			}
			if key := pollutes(m.value.raw); key != "" {
				return key
			}
		}
	case '[':
		for _, e := range elements(raw) {
			if key := pollutes(e); key != "" {
				return key
			}
		}
	}
	return ""
}
