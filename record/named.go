package record

import (
	"maps"
	"slices"
	"time"

	"github.com/runnelhq/runnel"
)

// Cursor is the stored place of a reader, in the form of a [Descriptor]. One that a reader moves itself is kept
// under the id of the segment that is read, 0 for the timeline of the space, and the cursor's name; one of a
// subscription, elsewhere, under the subscription's instance and a digest of the stream's path.
type Cursor struct {
	// Place is a sequence or a position.
	Place uint64
	// Updated is in microseconds since 1970.
	Updated int64

	// Path is that of the stream of a subscription, and Segment the id of what Place is a place in, 0 if there
	// was no stream. Of a reader's own cursor the key says both.
	Path    string
	Segment uint64
	// Explicit says that the subscription names the stream, and Glob that its pattern matches it.
	Explicit, Glob bool
	// Since is the generation of the first wake whose acks may move it: whoever got an earlier one was told of no
	// stream under the path, or of another.
	Since uint64
}

// Append appends the encoded row to dst.
func (c *Cursor) Append(dst []byte) []byte {
	dst = append(dst, rowVersion)
	dst = appendUint(dst, 1, c.Place)
	dst = appendUint(dst, 2, uint64(c.Updated))
	dst = appendText(dst, 3, c.Path)
	dst = appendUint(dst, 4, c.Segment)
	dst = appendFlag(dst, 5, c.Explicit)
	dst = appendFlag(dst, 6, c.Glob)
	return appendUint(dst, 7, c.Since)
}

// DecodeCursor reads the row. The error matches ErrCorrupt.
func DecodeCursor(value []byte) (Cursor, error) {
	var c Cursor
	err := decodeRow("cursor", value, func(f field) {
		switch f.number {
		case 1:
			c.Place = f.uint
		case 2:
			c.Updated = int64(f.uint)
		case 3:
			c.Path = string(f.bytes)
		case 4:
			c.Segment = f.uint
		case 5:
			c.Explicit = f.uint != 0
		case 6:
			c.Glob = f.uint != 0
		case 7:
			c.Since = f.uint
		}
	})
	return c, err
}

// DecodeLink reads the cursor of a subscription in its first form, in which none is written. It is kept under the
// subscription's instance and a digest of the stream's path, too. The error matches ErrCorrupt.
func DecodeLink(value []byte) (Cursor, error) {
	var c Cursor
	err := decodeRow("link", value, func(f field) {
		switch f.number {
		case 1:
			c.Path = string(f.bytes)
		case 2:
			c.Segment = f.uint
		case 3:
			c.Place = f.uint
		case 4:
			c.Explicit = f.uint != 0
		case 5:
			c.Glob = f.uint != 0
		case 6:
			c.Updated = int64(f.uint)
		}
	})
	return c, err
}

// Lease is a claim on a key of a space. It is kept under the key, in the form of a [Descriptor].
type Lease struct {
	Holder string
	// Number is the fencing number: the position that was taken when the lease was given.
	Number uint64
	// Granted and Deadline are in microseconds since 1970.
	Granted, Deadline int64
	TTL               time.Duration
	Metadata          map[string]string
}

// Append appends the encoded row to dst.
func (l *Lease) Append(dst []byte) []byte {
	dst = append(dst, rowVersion)
	dst = appendText(dst, 1, l.Holder)
	dst = appendUint(dst, 2, l.Number)
	dst = appendUint(dst, 3, uint64(l.Granted))
	dst = appendUint(dst, 4, uint64(l.Deadline))
	dst = appendUint(dst, 5, uint64(l.TTL))
	for _, name := range slices.Sorted(maps.Keys(l.Metadata)) {
		var m []byte
		m = appendText(m, 1, name)
		m = appendText(m, 2, l.Metadata[name])
		dst = appendMessage(dst, 6, m)
	}
	return dst
}

// DecodeLease reads the row. The error matches ErrCorrupt.
func DecodeLease(value []byte) (Lease, error) {
	var l Lease
	err := decodeRow("lease", value, func(f field) {
		switch f.number {
		case 1:
			l.Holder = string(f.bytes)
		case 2:
			l.Number = f.uint
		case 3:
			l.Granted = int64(f.uint)
		case 4:
			l.Deadline = int64(f.uint)
		case 5:
			l.TTL = time.Duration(f.uint)
		case 6:
			var name, value string
			f.message(func(f field) {
				switch f.number {
				case 1:
					name = string(f.bytes)
				case 2:
					value = string(f.bytes)
				}
			})
			if l.Metadata == nil {
				l.Metadata = make(map[string]string)
			}
			l.Metadata[name] = value
		}
	})
	return l, err
}

// Key is what an idempotency key was used for. It is kept under the id of the segment and the key, in
// the form of a [Descriptor].
type Key struct {
	// First and Tail are the sequence of the first entry and of the last one that the write brought.
	First, Tail runnel.Sequence
	// Position is that of the first entry.
	Position runnel.Position
	// Micros is when, in microseconds since 1970.
	Micros int64
	// Sum is a checksum of what was written, see [Body.Sum].
	Sum uint64
	// Closed says that the write closed the segment.
	Closed bool
}

// Append appends the encoded row to dst.
func (k *Key) Append(dst []byte) []byte {
	dst = append(dst, rowVersion)
	dst = appendUint(dst, 1, uint64(k.First))
	dst = appendUint(dst, 2, uint64(k.Tail))
	dst = appendUint(dst, 3, uint64(k.Position))
	dst = appendUint(dst, 4, uint64(k.Micros))
	dst = appendUint(dst, 5, k.Sum)
	return appendFlag(dst, 6, k.Closed)
}

// DecodeKey reads the row. The error matches ErrCorrupt.
func DecodeKey(value []byte) (Key, error) {
	var k Key
	err := decodeRow("key", value, func(f field) {
		switch f.number {
		case 1:
			k.First = runnel.Sequence(f.uint)
		case 2:
			k.Tail = runnel.Sequence(f.uint)
		case 3:
			k.Position = runnel.Position(f.uint)
		case 4:
			k.Micros = int64(f.uint)
		case 5:
			k.Sum = f.uint
		case 6:
			k.Closed = f.uint != 0
		}
	})
	return k, err
}
