package auth

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/runnelhq/runnel"
)

// Verb is what may be done, as a set.
type Verb uint8

// The verbs. The package comment says what each of them is for.
const (
	Read Verb = 1 << iota
	Write
	Send
	Admin
)

// verbs are the names in the order in which they are written.
var verbs = [...]struct {
	verb Verb
	name string
}{{Read, "read"}, {Write, "write"}, {Send, "send"}, {Admin, "admin"}}

// with returns the set with what its verbs include.
func (v Verb) with() Verb {
	if v&Admin != 0 {
		return Read | Write | Send | Admin
	}
	if v&Write != 0 {
		v |= Send
	}
	return v
}

func (v Verb) String() string {
	var names []string
	for _, known := range verbs {
		if v&known.verb != 0 {
			names = append(names, known.name)
		}
	}
	return strings.Join(names, "+")
}

// Scope allows verbs somewhere. The zero Scope allows nothing.
type Scope struct {
	Verbs Verb
	// AnyStore is for all stores; otherwise the scope is for Store.
	AnyStore bool
	Store    runnel.Store
	// Path is what the scope covers, with what is below. Empty for the whole store.
	Path string
	// Item is the one item of the segment Path that the scope covers; empty for no restriction.
	Item string
}

// Prefix is what the scopes of Runnel begin with.
const Prefix = "runnel:"

// maxScopeBytes is the longest text of a scope: the longest names, with every byte escaped.
const maxScopeBytes = 4 << 10

// ParseScope reads a scope. The error is a [*ScopeError].
func ParseScope(text string) (Scope, error) {
	s, rule := parseScope(text)
	if rule != "" {
		return Scope{}, &ScopeError{Text: text, Rule: rule}
	}
	return s, nil
}

// ParseScopes reads scopes.
func ParseScopes(texts ...string) ([]Scope, error) {
	scopes := make([]Scope, 0, len(texts))
	for _, text := range texts {
		s, err := ParseScope(text)
		if err != nil {
			return nil, err
		}
		scopes = append(scopes, s)
	}
	return scopes, nil
}

// ScopeError says which rule a scope breaks. It matches runnel.ErrInvalid.
type ScopeError struct{ Text, Rule string }

func (e *ScopeError) Error() string { return fmt.Sprintf("auth: the scope %.200q %s", e.Text, e.Rule) }

func (e *ScopeError) Is(target error) bool { return target == runnel.ErrInvalid }

func parseScope(text string) (s Scope, rule string) {
	if len(text) > maxScopeBytes {
		return s, fmt.Sprintf("has %d bytes, the limit is %d", len(text), maxScopeBytes)
	}
	rest, ok := strings.CutPrefix(text, Prefix)
	if !ok {
		return s, "does not begin with " + Prefix
	}
	head, path, hasPath := strings.Cut(rest, ":")
	names, store, hasStore := strings.Cut(head, "@")
	for name := range strings.SplitSeq(names, "+") {
		i := slices.IndexFunc(verbs[:], func(known struct {
			verb Verb
			name string
		}) bool {
			return known.name == name
		})
		if i < 0 {
			return s, fmt.Sprintf("has the verb %.40q, which is none of read, write, send and admin", name)
		}
		s.Verbs |= verbs[i].verb
	}
	switch {
	case store == "*":
		s.AnyStore = true
	case hasStore:
		var err error
		if s.Store, err = runnel.ParseStore(store); err != nil || store == "" {
			return s, "must have a UUID or a star after the @"
		}
	}
	if !hasPath {
		return s, ""
	}
	path, item, hasItem := strings.Cut(path, "#")
	if s.Path, rule = unescape(path); rule == "" {
		rule = pathRule(s.Path)
	}
	if rule != "" || !hasItem {
		return s, rule
	}
	if s.Item, rule = unescape(item); rule == "" && s.Item == "" {
		rule = "has no item after the #"
	}
	return s, rule
}

// unescape decodes a name of a scope.
func unescape(text string) (name, rule string) {
	if i := strings.IndexAny(text, "*"); i >= 0 {
		return "", "has a star in its path; a path covers all that is below it, and in a name a star is %2A"
	}
	if strings.ContainsFunc(text, func(r rune) bool {
		return r == '"' || r == '\\' || r == '#' || unicode.IsSpace(r) || unicode.IsControl(r)
	}) {
		return "", "has a character in its path that must be percent-encoded"
	}
	name, err := url.PathUnescape(text)
	switch {
	case err != nil:
		return "", "has an escape that is none"
	case !utf8.ValidString(name):
		return "", "must be UTF-8"
	case strings.ContainsFunc(name, unicode.IsControl):
		return "", "must not contain control characters"
	}
	return name, ""
}

// pathRule says which rule of names a path breaks.
func pathRule(path string) string {
	if len(path) > runnel.MaxSpaceBytes+1+runnel.MaxSegmentBytes {
		return fmt.Sprintf("has a path of %d bytes, the limit is %d", len(path), runnel.MaxSpaceBytes+1+runnel.MaxSegmentBytes)
	}
	for element := range strings.SplitSeq(path, "/") {
		switch element {
		case "":
			return "has an empty element in its path; a path neither begins nor ends with a slash, and for the whole store there is none"
		case ".", "..":
			return fmt.Sprintf("has the element %q in its path", element)
		}
	}
	return ""
}

// String returns the text that [ParseScope] reads.
func (s Scope) String() string {
	var b strings.Builder
	b.WriteString(Prefix)
	b.WriteString(s.Verbs.String())
	switch {
	case s.AnyStore:
		b.WriteString("@*")
	case s.Store != runnel.Store{}:
		b.WriteString("@" + s.Store.String())
	}
	if s.Path != "" {
		b.WriteByte(':')
		escape(&b, s.Path)
	}
	if s.Item != "" {
		b.WriteByte('#')
		escape(&b, s.Item)
	}
	return b.String()
}

// escape writes a name such that it can stand in a scope, in a header and in a URL.
func escape(b *strings.Builder, name string) {
	const plain = "-._~/:@!$&'()+,;="
	for _, c := range []byte(name) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', strings.IndexByte(plain, c) >= 0:
			b.WriteByte(c)
		default:
			fmt.Fprintf(b, "%%%02X", c)
		}
	}
}

// within tells whether the scope is for a store.
func (s *Scope) within(store runnel.Store) bool { return s.AnyStore || s.Store == store }

// covers tells whether the scope is for a path of a store, or for an item of it.
func (s *Scope) covers(store runnel.Store, path, item string) bool {
	return s.within(store) && below(path, s.Path) && (s.Item == "" || s.Item == item && s.Path == path)
}

// below tells whether a path is another one, or below it. Everything is below the empty one.
func below(path, top string) bool {
	return top == "" || strings.HasPrefix(path, top) && (len(path) == len(top) || path[len(top)] == '/')
}
