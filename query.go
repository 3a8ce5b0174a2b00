package runnel

import (
	"fmt"
	"strings"
	"time"
)

// Source is where a query reads: a segment, or the timeline of a space.
type Source struct {
	Space Space
	// Segment is the name of the segment; empty for the timeline of the space.
	Segment string
	// ID, if not 0, is the incarnation of the segment that is meant.
	ID uint64
	// After is the place to begin after: a Sequence of the segment, or a Position of the space. 0 is the
	// beginning, and uint64(Latest) the end at that moment. It must not be before what a segment retains.
	After uint64
}

func (s Source) String() string {
	if s.Segment == "" {
		return "space " + quote(s.Space.Name)
	}
	return "segment " + quote(s.Space.Segment(s.Segment).String())
}

// Query selects entries. Every bound is optional, and all that are given hold together. Times follow one
// rule: Since is the first moment that is meant, and Until the first one that is not.
type Query struct {
	// Sources is one source, or several spaces, whose timelines are merged by time. What a query that follows
	// is told beyond what there was comes as it comes: a space that is silent holds up no other. The order of
	// each is kept.
	Sources []Source
	// Through is the last Sequence, or Position, to read; 0 for no bound. It needs a single source.
	Through uint64
	// Since and Until bound the times of the entries: Since ≤ time < Until. Zero: no bound.
	Since, Until time.Time
	// Last skips all but so many of the entries that the other bounds leave, before the filter; 0 skips
	// none. It needs a single source, and no Follow.
	Last uint64
	// Limit ends the query after so many entries, which the filter has let through. 0: no limit.
	Limit uint64
	// Backwards yields the last entry first. It needs a single source, and no Follow.
	Backwards bool
	// Follow goes on with what is appended, as it becomes durable, without a seam. The query then ends
	// at Limit, Through or Until, or after the last entry of a closed segment.
	Follow bool
	Filter Filter
}

// Validate returns nil if the bounds go together, and otherwise an error that matches ErrInvalid and says
// which do not.
func (q *Query) Validate() error {
	several := len(q.Sources) > 1
	invalid := func(rule string) error { return &InvalidError{What: "query", Rule: rule} }
	switch {
	case len(q.Sources) == 0:
		return invalid("needs a source")
	case several && (q.Through > 0 || q.Last > 0 || q.Backwards):
		return invalid("of several spaces cannot have a last place, ask for the last entries, or read backwards")
	case q.Follow && (q.Last > 0 || q.Backwards):
		return invalid("that follows cannot ask for the last entries or read backwards")
	case !q.Since.IsZero() && !q.Until.IsZero() && q.Until.Before(q.Since):
		return invalid(fmt.Sprintf("ends at %v, before it begins at %v", q.Until, q.Since))
	}
	seen := make(map[Space]bool)
	for i := range q.Sources {
		s := &q.Sources[i]
		switch {
		case several && s.Segment != "":
			return invalid("of several sources takes whole spaces, not segments")
		case several && seen[s.Space]:
			return invalid(fmt.Sprintf("names space %s twice", quote(s.Space.Name)))
		}
		seen[s.Space] = true
		if err := s.Space.Validate(); err != nil {
			return err
		}
		if s.Segment != "" {
			if err := s.Space.Segment(s.Segment).Validate(); err != nil {
				return err
			}
		}
	}
	return nil
}

// Filter lets entries through. The zero Filter lets all of them through.
type Filter struct {
	// SegmentPrefix is what the names of the segments begin with.
	SegmentPrefix string
	// Metadata must be among the entry's, each with this value.
	Metadata map[string]string
	// MetadataPrefix must be among the entry's metadata, each with a value that begins so.
	MetadataPrefix map[string]string
}

// IsZero tells whether everything is let through.
func (f *Filter) IsZero() bool { return f.SegmentPrefix == "" && !f.readsEntries() }

func (f *Filter) readsEntries() bool { return len(f.Metadata) > 0 || len(f.MetadataPrefix) > 0 }

// MatchSegment tells whether entries of a segment of this name may be let through.
func (f *Filter) MatchSegment(name string) bool { return strings.HasPrefix(name, f.SegmentPrefix) }

// MatchMetadata tells whether an entry with this metadata is let through, the name of its segment aside.
func (f *Filter) MatchMetadata(metadata map[string]string) bool {
	for name, want := range f.Metadata {
		if got, ok := metadata[name]; !ok || got != want {
			return false
		}
	}
	for name, prefix := range f.MetadataPrefix {
		if got, ok := metadata[name]; !ok || !strings.HasPrefix(got, prefix) {
			return false
		}
	}
	return true
}

// Apply returns what a batch of a segment is with this filter: the batch itself, a batch of some of its
// entries, or nil.
func (f *Filter) Apply(name string, b Batch) Batch {
	if !f.MatchSegment(name) {
		return nil
	}
	if !f.readsEntries() {
		return b
	}
	n := b.Len()
	var picked []int
	for i := range n {
		if f.MatchMetadata(b.Entry(i).Metadata) {
			picked = append(picked, i)
		}
	}
	switch len(picked) {
	case 0:
		return nil
	case n:
		return b
	}
	return &pickedBatch{Batch: b, picked: picked}
}

// pickedBatch is some entries of a batch.
type pickedBatch struct {
	Batch
	picked []int
}

func (b *pickedBatch) First() Sequence      { return b.Batch.First() + Sequence(b.picked[0]) }
func (b *pickedBatch) Last() Sequence       { return b.Batch.First() + Sequence(b.picked[len(b.picked)-1]) }
func (b *pickedBatch) Len() int             { return len(b.picked) }
func (b *pickedBatch) Payload(i int) []byte { return b.Batch.Payload(b.picked[i]) }
func (b *pickedBatch) Entry(i int) Entry    { return b.Batch.Entry(b.picked[i]) }

func (b *pickedBatch) Payloads() []byte {
	var all []byte
	for i := range b.picked {
		all = append(all, b.Payload(i)...)
	}
	return all
}
