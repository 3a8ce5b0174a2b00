package record

import (
	"encoding/binary"

	"github.com/runnelhq/runnel"
)

// Item is what the entries of an item segment make of one key: the latest row, or that there is none any
// more. It is kept under the segment's id, the type, a zero byte and the key, and commits with the entry it
// speaks of.
//
//	byte 0      format version, 1
//	byte 1      flags: 1 deleted, 2 expires, 4 held
//	uvarint     sequence of the entry
//	uvarint     when the item was created, microseconds since 1970; after an expiry 0
//	varint      time of the entry, microseconds after the creation
//	varint      lead of the segment's stamps, see runnel.ItemLead
//	uvarint     when it is to go, microseconds since 1970, only with the flag expires
//	uvarint     bytes of the messages that make the segment's items, only with the flag held
//	bytes       the row, a JSON object; nothing with the flag deleted
type Item struct {
	Version runnel.Sequence
	// Created and Updated are in microseconds since 1970.
	Created, Updated int64
	// Lead is that of the segment after the commit.
	Lead int64
	// Held is how many bytes the messages have that would make the items of the segment after the entry, and
	// no others; -1 where that is not told.
	Held int64
	// Expires is when the item, or what is left of a deleted one, is to go, in microseconds since 1970; 0
	// for never.
	Expires int64
	// Deleted says that there is no item.
	Deleted bool
	// Row is the JSON object that stands in the message.
	Row []byte
}

const (
	itemDeleted    = 1
	itemExpires    = 2
	itemHeld       = 4
	knownItemFlags = itemDeleted | itemExpires | itemHeld
)

// ItemHeaderBytes bounds what an item takes besides its row.
const ItemHeaderBytes = 2 + 6*binary.MaxVarintLen64

// Append appends the encoded item to dst.
func (x *Item) Append(dst []byte) []byte {
	flags := byte(0)
	if x.Deleted {
		flags |= itemDeleted
	}
	if x.Expires != 0 {
		flags |= itemExpires
	}
	if x.Held >= 0 {
		flags |= itemHeld
	}
	dst = append(dst, rowVersion, flags)
	dst = binary.AppendUvarint(dst, uint64(x.Version))
	dst = binary.AppendUvarint(dst, uint64(x.Created))
	dst = binary.AppendVarint(dst, x.Updated-x.Created)
	dst = binary.AppendVarint(dst, x.Lead)
	if x.Expires != 0 {
		dst = binary.AppendUvarint(dst, uint64(x.Expires))
	}
	if x.Held >= 0 {
		dst = binary.AppendUvarint(dst, uint64(x.Held))
	}
	return append(dst, x.Row...)
}

// DecodeItem reads an item, whose row refers to value. The error matches ErrCorrupt.
func DecodeItem(value []byte) (Item, error) {
	if len(value) < 2 || value[0] != rowVersion || value[1]&^knownItemFlags != 0 {
		return Item{}, corrupt("item has an unknown format")
	}
	d := decoder{rest: value[2:]}
	x := Item{Deleted: value[1]&itemDeleted != 0, Held: -1}
	x.Version = runnel.Sequence(d.uvarint())
	x.Created = int64(d.uvarint())
	x.Updated = x.Created + d.varint()
	x.Lead = d.varint()
	if value[1]&itemExpires != 0 {
		if x.Expires = int64(d.uvarint()); x.Expires == 0 {
			d.bad = true
		}
	}
	if value[1]&itemHeld != 0 {
		if x.Held = int64(d.uvarint()); x.Held < 0 {
			d.bad = true
		}
	}
	if d.bad || x.Deleted == (len(d.rest) > 0) {
		return Item{}, corrupt("item is broken")
	}
	if !x.Deleted {
		x.Row = d.rest
	}
	return x, nil
}

// ItemSpace is what a space keeps about items that are no more. It is kept under a key of its own, in the form
// of a [Descriptor].
type ItemSpace struct {
	// Stamp is before every stamp of an item segment that is made from now on, see runnel.ItemStamp.
	Stamp int64
	// Cut is the position of the last entry of an item segment that was let go of while its segment is there.
	Cut runnel.Position
	// Gone is the position of the last deletion of an item segment.
	Gone runnel.Position
	// Freed is the position of a deletion up to which nothing of what was deleted is kept any more.
	Freed runnel.Position
}

// Append appends the encoded row to dst.
func (x *ItemSpace) Append(dst []byte) []byte {
	dst = append(dst, rowVersion)
	dst = appendUint(dst, 1, uint64(x.Stamp))
	dst = appendUint(dst, 2, uint64(x.Cut))
	dst = appendUint(dst, 3, uint64(x.Gone))
	return appendUint(dst, 4, uint64(x.Freed))
}

// DecodeItemSpace reads the row. The error matches ErrCorrupt.
func DecodeItemSpace(value []byte) (ItemSpace, error) {
	var x ItemSpace
	err := decodeRow("item space", value, func(f field) {
		switch f.number {
		case 1:
			x.Stamp = int64(f.uint)
		case 2:
			x.Cut = runnel.Position(f.uint)
		case 3:
			x.Gone = runnel.Position(f.uint)
		case 4:
			x.Freed = runnel.Position(f.uint)
		}
	})
	return x, err
}

// Gone tells of the deletion of an item segment, for those who follow its space. It is kept under the position
// of the deletion, in the form of a [Descriptor].
type Gone struct {
	// Segment is the id, and Name the name inside the space.
	Segment uint64
	Name    string
	// Stamp is that of the deletion, see runnel.ItemStamp.
	Stamp int64
	// Micros is the time of the commit in microseconds since 1970.
	Micros int64
}

// Append appends the encoded row to dst.
func (x *Gone) Append(dst []byte) []byte {
	dst = append(dst, rowVersion)
	dst = appendUint(dst, 1, x.Segment)
	dst = appendText(dst, 2, x.Name)
	dst = appendUint(dst, 3, uint64(x.Stamp))
	return appendUint(dst, 4, uint64(x.Micros))
}

// DecodeGone reads the row. The error matches ErrCorrupt.
func DecodeGone(value []byte) (Gone, error) {
	var x Gone
	err := decodeRow("gone segment", value, func(f field) {
		switch f.number {
		case 1:
			x.Segment = f.uint
		case 2:
			x.Name = string(f.bytes)
		case 3:
			x.Stamp = int64(f.uint)
		case 4:
			x.Micros = int64(f.uint)
		}
	})
	return x, err
}

// Ended is what is kept of an item segment that was deleted, while its entries are kept for readers with a stored
// place that have yet to pass them. It is kept under the id of the segment, in the form of a [Descriptor].
type Ended struct {
	// Name is that inside the space.
	Name string
	// Earliest is the place before the first entry kept.
	Earliest runnel.Sequence
	// Lead is that of the segment's stamps, see runnel.ItemStamp.
	Lead int64
}

// Append appends the encoded row to dst.
func (x *Ended) Append(dst []byte) []byte {
	dst = append(dst, rowVersion)
	dst = appendText(dst, 1, x.Name)
	dst = appendUint(dst, 2, uint64(x.Earliest))
	return appendUint(dst, 3, uint64(x.Lead))
}

// DecodeEnded reads the row. The error matches ErrCorrupt.
func DecodeEnded(value []byte) (Ended, error) {
	var x Ended
	err := decodeRow("ended segment", value, func(f field) {
		switch f.number {
		case 1:
			x.Name = string(f.bytes)
		case 2:
			x.Earliest = runnel.Sequence(f.uint)
		case 3:
			x.Lead = int64(f.uint)
		}
	})
	return x, err
}

func (d *decoder) varint() int64 {
	v, n := binary.Varint(d.rest)
	if n <= 0 {
		d.bad, d.rest = true, nil
		return 0
	}
	d.rest = d.rest[n:]
	return v
}
