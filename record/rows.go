package record

import (
	"encoding/binary"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/runnelhq/runnel"
)

const rowVersion = 1

// Change is what a commit did to one segment.
type Change struct {
	// Segment is the id of the segment.
	Segment uint64
	// Kind says what was done.
	Kind ChangeKind
	// Position is the first position the change takes. It takes one, or one for each entry.
	Position runnel.Position
	// Last is the segment's last sequence after the change.
	Last runnel.Sequence
	// Count is the number of entries that an Appended change brought; 0 for the others.
	Count uint64
}

// End is the last position the change takes.
func (ch *Change) End() runnel.Position {
	return ch.Position + runnel.Position(max(ch.Count, 1)) - 1
}

// ChangeKind is what was done to a segment. Its values are bytes at rest.
type ChangeKind byte

// The kinds of change. The gap between the numbers is for kinds to come.
const (
	Appended ChangeKind = 1
	Created  ChangeKind = 2
	Closed   ChangeKind = 3
	Deleted  ChangeKind = 4
	Trimmed  ChangeKind = 5
	// Leased is the giving of a lease. Segment and Last are 0.
	Leased ChangeKind = 6
)

// Commit is the row that one commit to a space leaves in the space's timeline, under a key that ends in
// the last position it took. It is how the space's order is read, and how its head is found at start.
//
//	byte 0      format version, 1
//	uvarint     first position
//	uvarint     time, microseconds since 1970
//	uvarint     number of changes, and for each, in order:
//	  byte      kind
//	  uvarint   segment id
//	  uvarint   last sequence
//	  uvarint   number of entries, only for kind 1
type Commit struct {
	First   runnel.Position
	Micros  int64
	Changes []Change
}

// Append appends the encoded commit to dst.
func (c *Commit) Append(dst []byte) []byte {
	dst = append(dst, rowVersion)
	dst = binary.AppendUvarint(dst, uint64(c.First))
	dst = binary.AppendUvarint(dst, uint64(c.Micros))
	dst = binary.AppendUvarint(dst, uint64(len(c.Changes)))
	for i := range c.Changes {
		ch := &c.Changes[i]
		dst = append(dst, byte(ch.Kind))
		dst = binary.AppendUvarint(dst, ch.Segment)
		dst = binary.AppendUvarint(dst, uint64(ch.Last))
		if ch.Kind == Appended {
			dst = binary.AppendUvarint(dst, ch.Count)
		}
	}
	return dst
}

// DecodeCommit reads a commit. The error matches ErrCorrupt.
func DecodeCommit(value []byte) (*Commit, error) {
	if len(value) == 0 || value[0] != rowVersion {
		return nil, corrupt("commit has an unknown format")
	}
	d := decoder{rest: value[1:]}
	c := &Commit{First: runnel.Position(d.uvarint()), Micros: int64(d.uvarint())}
	n := d.uvarint()
	if n > uint64(len(d.rest)) {
		return nil, corrupt("commit has more changes than bytes")
	}
	c.Changes = make([]Change, n)
	position := c.First
	for i := range c.Changes {
		ch := &c.Changes[i]
		if len(d.rest) == 0 {
			return nil, corrupt("commit ends early")
		}
		ch.Kind = ChangeKind(d.rest[0])
		d.rest = d.rest[1:]
		ch.Segment = d.uvarint()
		ch.Last = runnel.Sequence(d.uvarint())
		ch.Position = position
		if ch.Kind == Appended {
			ch.Count = d.uvarint()
			position += runnel.Position(ch.Count)
		} else {
			position++
		}
	}
	if d.bad || len(d.rest) != 0 {
		return nil, corrupt("commit has broken changes")
	}
	return c, nil
}

// Descriptor is what is fixed about a segment, or changes rarely. It is kept under the segment's name.
// It is a version byte, 1, followed by fields in the wire format of Protocol Buffers, so that fields
// can be added; the numbers are in the code and are never given a new meaning.
type Descriptor struct {
	// ID is unique in the space and never used again. It is the position of the creation.
	ID uint64
	// ContentType is kept as given.
	ContentType string
	// Created is in microseconds since 1970.
	Created int64
	// TTL is the sliding window, 0 if there is none.
	TTL time.Duration
	// ExpiresAt is in microseconds since 1970, 0 if there is no such time.
	ExpiresAt int64
	Retention runnel.Retention
	// Closed says that no entry follows.
	Closed bool
	// ClosedBy is the producer whose write closed the segment, with its epoch and sequence; nil if the
	// closing request named none.
	ClosedBy *ProducerWrite
	// SoftDeleted says that the segment is gone for its users and kept for its forks.
	SoftDeleted bool
	// References counts the forks that read this segment.
	References uint64
	// Fork is nil for a segment that is not a fork.
	Fork *Fork
	// Items says that the entries are messages of the State Protocol, and make items.
	Items bool
}

// ProducerWrite identifies one write of an idempotent producer.
type ProducerWrite struct {
	ID    string
	Epoch uint64
	Seq   uint64
}

// Fork is where a forked segment comes from.
type Fork struct {
	// Source is the segment that was named as the source; its store is the fork's.
	Space, Segment string
	// SourceID is the id of the source.
	SourceID uint64
	// Reference is the key of the reference that the fork holds on its source.
	Reference [16]byte
	// At, Latest and Sub are what the request asked for: the anchor, whether it was left to the tail,
	// and the sub-offset past it.
	At     runnel.Sequence
	Latest bool
	Sub    uint64
	// OwnExpiry and OwnRetention say that the request named them, and did not leave them to the source.
	OwnExpiry, OwnRetention bool
	// Base is the last inherited entry, and BaseBytes the payload bytes through it.
	Base      runnel.Sequence
	BaseBytes uint64
	// Earliest is the place from which the source could be read when the fork was made.
	Earliest runnel.Sequence
	// Extents say which segment holds which inherited entries, in order.
	Extents []Extent
}

// Extent is a run of inherited entries: those of the segment with this id, in this space, that follow
// the previous extent, up to and including Through.
type Extent struct {
	Space   string
	Segment uint64
	Through runnel.Sequence
}

// Append appends the encoded descriptor to dst.
func (x *Descriptor) Append(dst []byte) []byte {
	dst = append(dst, rowVersion)
	dst = appendUint(dst, 1, x.ID)
	dst = appendText(dst, 2, x.ContentType)
	dst = appendUint(dst, 3, uint64(x.Created))
	dst = appendUint(dst, 4, uint64(x.TTL))
	dst = appendUint(dst, 5, uint64(x.ExpiresAt))
	dst = appendUint(dst, 6, uint64(x.Retention.Age))
	dst = appendUint(dst, 7, x.Retention.Bytes)
	dst = appendUint(dst, 8, x.Retention.Entries)
	dst = appendFlag(dst, 9, x.Closed)
	if x.ClosedBy != nil {
		dst = appendMessage(dst, 10, x.ClosedBy.append(nil))
	}
	dst = appendFlag(dst, 11, x.SoftDeleted)
	dst = appendUint(dst, 12, x.References)
	if x.Fork != nil {
		dst = appendMessage(dst, 13, x.Fork.append(nil))
	}
	return appendFlag(dst, 14, x.Items)
}

func (w *ProducerWrite) append(dst []byte) []byte {
	dst = appendText(dst, 1, w.ID)
	dst = appendUint(dst, 2, w.Epoch)
	return appendUint(dst, 3, w.Seq)
}

func (f *Fork) append(dst []byte) []byte {
	dst = appendText(dst, 1, f.Space)
	dst = appendText(dst, 2, f.Segment)
	dst = appendUint(dst, 3, f.SourceID)
	dst = appendMessage(dst, 4, f.Reference[:])
	dst = appendUint(dst, 5, uint64(f.At))
	dst = appendFlag(dst, 6, f.Latest)
	dst = appendUint(dst, 7, f.Sub)
	dst = appendUint(dst, 8, uint64(f.Base))
	dst = appendUint(dst, 9, f.BaseBytes)
	dst = appendUint(dst, 10, uint64(f.Earliest))
	dst = appendFlag(dst, 12, f.OwnExpiry)
	dst = appendFlag(dst, 13, f.OwnRetention)
	for i := range f.Extents {
		x := &f.Extents[i]
		var m []byte
		m = appendText(m, 1, x.Space)
		m = appendUint(m, 2, x.Segment)
		m = appendUint(m, 3, uint64(x.Through))
		dst = appendMessage(dst, 11, m)
	}
	return dst
}

// DecodeDescriptor reads a descriptor. It keeps no reference to value. The error matches ErrCorrupt.
func DecodeDescriptor(value []byte) (*Descriptor, error) {
	x := new(Descriptor)
	err := decodeRow("descriptor", value, func(f field) {
		switch f.number {
		case 1:
			x.ID = f.uint
		case 2:
			x.ContentType = string(f.bytes)
		case 3:
			x.Created = int64(f.uint)
		case 4:
			x.TTL = time.Duration(f.uint)
		case 5:
			x.ExpiresAt = int64(f.uint)
		case 6:
			x.Retention.Age = time.Duration(f.uint)
		case 7:
			x.Retention.Bytes = f.uint
		case 8:
			x.Retention.Entries = f.uint
		case 9:
			x.Closed = f.uint != 0
		case 10:
			x.ClosedBy = new(ProducerWrite)
			f.message(x.ClosedBy.set)
		case 11:
			x.SoftDeleted = f.uint != 0
		case 12:
			x.References = f.uint
		case 13:
			x.Fork = new(Fork)
			f.message(x.Fork.set)
		case 14:
			x.Items = f.uint != 0
		}
	})
	if err != nil {
		return nil, err
	}
	return x, nil
}

func (w *ProducerWrite) set(f field) {
	switch f.number {
	case 1:
		w.ID = string(f.bytes)
	case 2:
		w.Epoch = f.uint
	case 3:
		w.Seq = f.uint
	}
}

func (f *Fork) set(v field) {
	switch v.number {
	case 1:
		f.Space = string(v.bytes)
	case 2:
		f.Segment = string(v.bytes)
	case 3:
		f.SourceID = v.uint
	case 4:
		copy(f.Reference[:], v.bytes)
	case 5:
		f.At = runnel.Sequence(v.uint)
	case 6:
		f.Latest = v.uint != 0
	case 7:
		f.Sub = v.uint
	case 8:
		f.Base = runnel.Sequence(v.uint)
	case 9:
		f.BaseBytes = v.uint
	case 10:
		f.Earliest = runnel.Sequence(v.uint)
	case 12:
		f.OwnExpiry = v.uint != 0
	case 13:
		f.OwnRetention = v.uint != 0
	case 11:
		var e Extent
		v.message(func(v field) {
			switch v.number {
			case 1:
				e.Space = string(v.bytes)
			case 2:
				e.Segment = v.uint
			case 3:
				e.Through = runnel.Sequence(v.uint)
			}
		})
		f.Extents = append(f.Extents, e)
	}
}

// Mutable is what changes about a segment and cannot be told from its runs. It is kept under the
// segment's id, in the form of a [Descriptor], and only once there is something to say.
type Mutable struct {
	// Earliest is the place before the first entry kept; bytes of earlier entries may be gone.
	Earliest runnel.Sequence
	// Accessed is the last read or write that slides the TTL window, in microseconds since 1970.
	Accessed int64
	// Slack is added to the window when the segment is loaded: later accesses may have gone unwritten
	// for so long.
	Slack time.Duration
	// Tail and Bytes are the segment's last sequence and its payload bytes when Earliest was set: the
	// runs that would tell may be gone.
	Tail  runnel.Sequence
	Bytes uint64
	// HasStreamSeq tells an empty StreamSeq from none.
	HasStreamSeq bool
	// StreamSeq is the writer sequence accepted last.
	StreamSeq string
}

// Append appends the encoded row to dst.
func (m *Mutable) Append(dst []byte) []byte {
	dst = append(dst, rowVersion)
	dst = appendUint(dst, 1, uint64(m.Earliest))
	dst = appendUint(dst, 2, uint64(m.Accessed))
	dst = appendUint(dst, 3, uint64(m.Slack))
	dst = appendFlag(dst, 4, m.HasStreamSeq)
	dst = appendText(dst, 5, m.StreamSeq)
	dst = appendUint(dst, 6, uint64(m.Tail))
	return appendUint(dst, 7, m.Bytes)
}

// DecodeMutable reads the row. The error matches ErrCorrupt.
func DecodeMutable(value []byte) (Mutable, error) {
	var m Mutable
	err := decodeRow("mutable row", value, func(f field) {
		switch f.number {
		case 1:
			m.Earliest = runnel.Sequence(f.uint)
		case 2:
			m.Accessed = int64(f.uint)
		case 3:
			m.Slack = time.Duration(f.uint)
		case 4:
			m.HasStreamSeq = f.uint != 0
		case 5:
			m.StreamSeq = string(f.bytes)
		case 6:
			m.Tail = runnel.Sequence(f.uint)
		case 7:
			m.Bytes = f.uint
		}
	})
	return m, err
}

// Producer is how far an idempotent producer has come in a segment. It is kept under the segment's id
// and the producer's, and commits with the entries it speaks of.
//
//	byte 0      format version, 1
//	uvarint     epoch
//	uvarint     sequence accepted last in this epoch
//	uvarint     the segment's last sequence after that write
type Producer struct {
	Epoch uint64
	Seq   uint64
	Tail  runnel.Sequence
}

// Append appends the encoded row to dst.
func (p *Producer) Append(dst []byte) []byte {
	dst = append(dst, rowVersion)
	dst = binary.AppendUvarint(dst, p.Epoch)
	dst = binary.AppendUvarint(dst, p.Seq)
	return binary.AppendUvarint(dst, uint64(p.Tail))
}

// DecodeProducer reads the row. The error matches ErrCorrupt.
func DecodeProducer(value []byte) (Producer, error) {
	if len(value) == 0 || value[0] != rowVersion {
		return Producer{}, corrupt("producer has an unknown format")
	}
	d := decoder{rest: value[1:]}
	p := Producer{Epoch: d.uvarint(), Seq: d.uvarint(), Tail: runnel.Sequence(d.uvarint())}
	if d.bad || len(d.rest) != 0 {
		return Producer{}, corrupt("producer is broken")
	}
	return p, nil
}

// Reference is the row that a fork leaves in the partition of its source, under the source's id and a
// key of its own: it keeps the source's data. It has the form of a [Descriptor].
type Reference struct {
	// Source is the name of the source in its space.
	Source string
	// Space and Segment name the fork.
	Space, Segment string
	// From is the place after which the fork may read the source's entries.
	From runnel.Sequence
	// Created is in microseconds since 1970.
	Created int64
}

// Append appends the encoded row to dst.
func (r *Reference) Append(dst []byte) []byte {
	dst = append(dst, rowVersion)
	dst = appendText(dst, 1, r.Space)
	dst = appendText(dst, 2, r.Segment)
	dst = appendUint(dst, 3, uint64(r.From))
	dst = appendUint(dst, 4, uint64(r.Created))
	return appendText(dst, 5, r.Source)
}

// DecodeReference reads the row. The error matches ErrCorrupt.
func DecodeReference(value []byte) (Reference, error) {
	var r Reference
	err := decodeRow("reference", value, func(f field) {
		switch f.number {
		case 1:
			r.Space = string(f.bytes)
		case 2:
			r.Segment = string(f.bytes)
		case 3:
			r.From = runnel.Sequence(f.uint)
		case 4:
			r.Created = int64(f.uint)
		case 5:
			r.Source = string(f.bytes)
		}
	})
	return r, err
}

// Release is the row that a deleted fork leaves in its own partition until its reference on the source
// has been taken back. It has the form of a [Descriptor].
type Release struct {
	// Space, Segment and SourceID name the source.
	Space, Segment string
	SourceID       uint64
}

// Append appends the encoded row to dst.
func (r *Release) Append(dst []byte) []byte {
	dst = append(dst, rowVersion)
	dst = appendText(dst, 1, r.Space)
	dst = appendText(dst, 2, r.Segment)
	return appendUint(dst, 3, r.SourceID)
}

// DecodeRelease reads the row. The error matches ErrCorrupt.
func DecodeRelease(value []byte) (Release, error) {
	var r Release
	err := decodeRow("release", value, func(f field) {
		switch f.number {
		case 1:
			r.Space = string(f.bytes)
		case 2:
			r.Segment = string(f.bytes)
		case 3:
			r.SourceID = f.uint
		}
	})
	return r, err
}

// field is one field of a row in the wire format of Protocol Buffers. bytes refers to the row.
type field struct {
	number protowire.Number
	uint   uint64
	bytes  []byte
	bad    *bool
}

// message reads the field as a message of its own.
func (f field) message(set func(field)) {
	if !decodeFields(f.bytes, f.bad, set) {
		*f.bad = true
	}
}

func decodeRow(what string, value []byte, set func(field)) error {
	if len(value) == 0 || value[0] != rowVersion {
		return corrupt("%s has an unknown format", what)
	}
	bad := false
	if !decodeFields(value[1:], &bad, set) || bad {
		return corrupt("%s is broken", what)
	}
	return nil
}

func decodeFields(b []byte, bad *bool, set func(field)) bool {
	for len(b) > 0 {
		number, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return false
		}
		b = b[n:]
		f := field{number: number, bad: bad}
		switch kind {
		case protowire.VarintType:
			f.uint, n = protowire.ConsumeVarint(b)
		case protowire.BytesType:
			f.bytes, n = protowire.ConsumeBytes(b)
		default:
			n = protowire.ConsumeFieldValue(number, kind, b)
			if n >= 0 {
				b = b[n:]
				continue
			}
		}
		if n < 0 {
			return false
		}
		b = b[n:]
		set(f)
	}
	return true
}

func appendUint(dst []byte, number protowire.Number, v uint64) []byte {
	if v == 0 {
		return dst
	}
	return protowire.AppendVarint(protowire.AppendTag(dst, number, protowire.VarintType), v)
}

func appendFlag(dst []byte, number protowire.Number, v bool) []byte {
	if !v {
		return dst
	}
	return appendUint(dst, number, 1)
}

func appendText(dst []byte, number protowire.Number, s string) []byte {
	if s == "" {
		return dst
	}
	return protowire.AppendString(protowire.AppendTag(dst, number, protowire.BytesType), s)
}

func appendMessage(dst []byte, number protowire.Number, m []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(dst, number, protowire.BytesType), m)
}
