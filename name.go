package runnel

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"
)

// Limits on names. They are counted in bytes of UTF-8 so that every storage driver can keep any valid
// name inside its own key limit (the tightest is Azure Table Storage: 1 KiB for each half of a key).
const (
	// MaxSpaceBytes is the longest space name, in bytes of UTF-8.
	MaxSpaceBytes = 512
	// MaxSegmentBytes is the longest segment name, in bytes of UTF-8.
	MaxSegmentBytes = 256
)

// ReservedElement is the first path element kept for the control paths of the Durable Streams
// protocol (PROTOCOL.md, section 6). No space or segment may start with it.
const ReservedElement = "__ds"

// Store identifies a tenant. Data, quotas, keys and restores of one store never touch another's.
// The zero Store is the default store, which programs with a single tenant use without naming it.
type Store uuid.UUID

// ParseStore reads a store from the text form of a UUID. The empty string is the default store.
func ParseStore(s string) (Store, error) {
	if s == "" {
		return Store{}, nil
	}
	id, err := uuid.Parse(s)
	if err != nil {
		return Store{}, &NameError{Kind: "store", Name: s, Rule: "must be a UUID"}
	}
	return Store(id), nil
}

// String returns the UUID in its 36-character text form.
func (s Store) String() string { return uuid.UUID(s).String() }

// Space names a group of segments of one store. The zero Space is the root space of the default store,
// whose name is the empty string.
type Space struct {
	Store Store
	Name  string
}

// Segment returns the address of a segment of the space.
func (s Space) Segment(name string) Segment {
	return Segment{Store: s.Store, Space: s.Name, Name: name}
}

// Validate checks the space name against the rules of [Segment.Validate].
func (s Space) Validate() error {
	if s.Name == "" {
		return nil
	}
	if err := checkName("space", s.Name, MaxSpaceBytes); err != nil {
		return err
	}
	for element := range strings.SplitSeq(s.Name, "/") {
		if rule := elementRule(element); rule != "" {
			return &NameError{Kind: "space", Name: s.Name, Rule: rule}
		}
	}
	return checkReserved("space", s.Name)
}

// Segment is the address of one segment.
type Segment struct {
	Store Store
	Space string // empty for the root space
	Name  string // never empty, never contains a slash
}

// ParsePath reads the address that a slash-separated path has in a store: the last element is the
// segment, what stands before it is the space. The result has been validated.
func ParsePath(store Store, path string) (Segment, error) {
	seg := Segment{Store: store, Name: path}
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		seg.Space, seg.Name = path[:i], path[i+1:]
		if seg.Space == "" {
			return Segment{}, &NameError{Kind: "path", Name: path, Rule: "must not start with a slash"}
		}
	}
	return seg, seg.Validate()
}

// Path returns the slash-separated form that [ParsePath] reads.
func (s Segment) Path() string {
	if s.Space == "" {
		return s.Name
	}
	return s.Space + "/" + s.Name
}

// String returns the path, with the store before it when it is not the default one.
func (s Segment) String() string {
	if s.Store == (Store{}) {
		return s.Path()
	}
	return s.Store.String() + ":" + s.Path()
}

// In returns the space that holds the segment.
func (s Segment) In() Space { return Space{Store: s.Store, Name: s.Space} }

// Validate checks both names. A valid name is UTF-8 without control characters, of at most
// [MaxSpaceBytes] or [MaxSegmentBytes] bytes, none of whose slash-separated elements is empty, "." or
// "..". A segment name has no slash and is not empty. Nothing starts with the element
// [ReservedElement]. The error is a [*NameError].
func (s Segment) Validate() error {
	if err := s.In().Validate(); err != nil {
		return err
	}
	if err := checkName("segment", s.Name, MaxSegmentBytes); err != nil {
		return err
	}
	if strings.Contains(s.Name, "/") {
		return &NameError{Kind: "segment", Name: s.Name, Rule: "must not contain a slash"}
	}
	if rule := elementRule(s.Name); rule != "" {
		return &NameError{Kind: "segment", Name: s.Name, Rule: rule}
	}
	if s.Space == "" {
		return checkReserved("segment", s.Name)
	}
	return nil
}

func checkName(kind, name string, limit int) error {
	rule := ""
	switch {
	case len(name) > limit:
		rule = fmt.Sprintf("has %d bytes, the limit is %d", len(name), limit)
	case !utf8.ValidString(name):
		rule = "must be valid UTF-8"
	case strings.ContainsFunc(name, unicode.IsControl):
		rule = "must not contain control characters"
	}
	if rule != "" {
		return &NameError{Kind: kind, Name: name, Rule: rule}
	}
	return nil
}

func elementRule(element string) string {
	switch element {
	case "":
		return "must not contain an empty element"
	case ".", "..":
		return fmt.Sprintf("must not contain the element %q", element)
	}
	return ""
}

func checkReserved(kind, name string) error {
	if first, _, _ := strings.Cut(name, "/"); first == ReservedElement {
		return &NameError{Kind: kind, Name: name, Rule: fmt.Sprintf("must not start with the reserved element %q", ReservedElement)}
	}
	return nil
}
