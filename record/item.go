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

func (d *decoder) varint() int64 {
	v, n := binary.Varint(d.rest)
	if n <= 0 {
		d.bad, d.rest = true, nil
		return 0
	}
	d.rest = d.rest[n:]
	return v
}
