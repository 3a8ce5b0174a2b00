package runnel

import (
	"strings"
	"time"
)

// Record is what a producer hands in. The callee keeps no reference to it after the call returns.
type Record struct {
	// Payload is kept byte for byte. Nil and empty are the same.
	Payload []byte
	// Metadata travels with the payload and is not interpreted. Nil and empty are the same.
	Metadata map[string]string
}

// Entry is a record with its place. Its payload and metadata may be shared with other readers and must
// not be changed.
type Entry struct {
	// Sequence is the entry's place in its segment.
	Sequence Sequence
	// Position is the entry's place in its space.
	Position Position
	// Transaction is the position of the first entry of the atomic commit that brought this one.
	Transaction Position
	// Time is when the entry was committed, by the clock of the server, in whole microseconds. It never
	// goes back inside a space, and all entries of one commit share it.
	Time time.Time

	Payload  []byte
	Metadata map[string]string
}

// Retention bounds what a segment keeps. Entries that fall out are gone for every reader at once, the
// oldest first; a read from before the earliest kept entry fails with a [*TrimmedError]. The strictest
// bound wins. The zero Retention keeps everything.
type Retention struct {
	// Age drops entries committed longer ago than this. 0 means no bound.
	Age time.Duration
	// Bytes drops the oldest entries while the payloads together are larger. 0 means no bound.
	Bytes uint64
	// Entries drops the oldest entries while there are more. 0 means no bound.
	Entries uint64
}

// Info describes a segment at one moment. Everything in it is durable.
type Info struct {
	// Segment is the address.
	Segment Segment
	// ID tells incarnations of a name apart: a name that was deleted and created again has another ID.
	// It is unique within the space and never used again.
	ID uint64
	// ContentType is kept as it was given at creation.
	ContentType string
	// Created is when the segment was created.
	Created time.Time
	// Tail is the sequence of the last entry, 0 when there has been none.
	Tail Sequence
	// Earliest is the place before the first entry that is still kept: reading from here, or from any
	// later place, misses nothing. It is 0 while nothing has been dropped.
	Earliest Sequence
	// Bytes counts the payload bytes that were ever appended, inherited ones of a fork included.
	Bytes uint64
	// Closed says that no entry will ever follow Tail.
	Closed bool
	// TTL is the sliding window after the last read or write at whose end the segment expires. 0: none.
	TTL time.Duration
	// ExpiresAt is the absolute time at which the segment expires. Zero: none.
	ExpiresAt time.Time
	// Retention is what bounds the entries kept.
	Retention Retention
	// Items says that it is an item segment.
	Items bool
}

// MediaType returns the type of a Content-Type value in lower case and without its parameters, which is
// what content types are compared by. The empty string stays empty.
func MediaType(contentType string) string {
	t, _, _ := strings.Cut(contentType, ";")
	return strings.ToLower(strings.TrimSpace(t))
}

// IsJSON tells whether segments of this content type hold JSON messages: one value an entry, in which
// sub-offsets count messages. In all others they count bytes. Source: PROTOCOL.md, sections 4.2 and 9.1.
func IsJSON(contentType string) bool { return MediaType(contentType) == "application/json" }
