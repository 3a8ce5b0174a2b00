package runnel

import (
	"fmt"
	"time"
)

// An item segment holds messages of the State Protocol, and the latest value under each of their keys is
// an item. Items are a fold of the segment's entries, whichever way in these came, and change with them in
// the same commit.

// DefaultItemType is the collection of an item whose key names none.
const DefaultItemType = "item"

// AllItemTypes, as the type that a listing asks for, is every one.
const AllItemTypes = "*"

const (
	// MaxItemKeyBytes is the longest key of an item, in bytes of UTF-8.
	MaxItemKeyBytes = 256
	// MaxItemTypeBytes is the longest name of a collection of items, in bytes of UTF-8.
	MaxItemTypeBytes = 128
	// MaxItemBytes is the largest value of an item, in bytes. A storage driver may take less.
	MaxItemBytes = 1<<20 - 8<<10
	// MaxTxIDBytes is the longest transaction id that a writer of items may give, in bytes.
	MaxTxIDBytes = 256
)

// ItemKey names an item of a segment. Type is the collection, as the State Protocol calls it, in which the
// key is unique; empty means DefaultItemType.
type ItemKey struct {
	Type, Key string
}

// WithDefaults returns the key with its type named.
func (k ItemKey) WithDefaults() ItemKey {
	if k.Type == "" {
		k.Type = DefaultItemType
	}
	return k
}

func (k ItemKey) String() string {
	if k = k.WithDefaults(); k.Type == DefaultItemType {
		return quote(k.Key)
	}
	return quote(k.Key) + " of type " + quote(k.Type)
}

// Item is the latest value under a key of a segment.
type Item struct {
	ItemKey
	// Value is a JSON text. It may be shared with others and must not be changed.
	Value []byte
	// Version is the sequence of the entry that gave the item this value.
	Version Sequence
	// Created is when the item came into being, and Updated when it was given its value.
	Created, Updated time.Time
	// Expires is when the item goes away by itself. Zero: never.
	Expires time.Time
}

// ItemWrite is what is to become of one item, and under which condition.
type ItemWrite struct {
	ItemKey
	// IfVersion, if not nil, must be the item's version. 0 demands that there is no such item.
	IfVersion *Sequence
	// IfExists demands that there is such an item.
	IfExists bool
	// Value is the JSON text to store. Nil deletes the item, which if there is none changes nothing. It
	// counts only where Apply is nil.
	Value []byte
	// Apply tells the next value from the item as it is, nil if there is none; nil deletes it. It runs
	// while the space is held, so that no other write comes between, perhaps more than once: it must be
	// quick, depend on nothing else, and keep or change nothing of what it is given. An error refuses the
	// whole commit, and is returned as it is.
	Apply func(old *Item) ([]byte, error)
	// Ops, if not nil, tells the next value in the place of Value and Apply: a JSON list of operations, as
	// package items/ops reads it. All of them are applied, or the write is refused with an *OperationsError;
	// with Partial those that can be are, and ItemResult.Failed has the others.
	Ops     []byte
	Partial bool
	// TTL is how long after the write the item goes away by itself. 0: never, unless KeepTTL is set, which
	// leaves the expiry that the item has.
	TTL     time.Duration
	KeepTTL bool
}

// ItemWrites are writes to items of one segment, in one commit.
type ItemWrites struct {
	// Segment is the name inside the space.
	Segment string
	// Create is what the segment is made with when there is none. Nil is CreateOptions{Items: true}.
	Create *CreateOptions
	// TxID is written into the messages, for those who wait for their own write to come back. Empty: none.
	TxID string
	// Key is an idempotency key, as in AppendOptions. What tells the writes from others under the same key
	// is Sum, which the caller gives: a checksum of the request, for instance.
	Key string
	Sum uint64
	// Writes are to items that differ from each other. There is at least one.
	Writes []ItemWrite
}

// ItemsWritten is the answer to ItemWrites. Where Duplicate is set the results have only what the items
// are by now, if they are still at the version that the first write gave them.
type ItemsWritten struct {
	Appended
	// Results has an answer for each write, in their order.
	Results []ItemResult
}

// ItemResult is what an item was before a write, and is after it. Nil means that there is none.
type ItemResult struct {
	Old, New *Item
	// Failed are the operations of a partial list that could not be applied.
	Failed []FailedOperation
}

// ItemQuery selects items of a segment.
type ItemQuery struct {
	// Type is the collection; empty is DefaultItemType, and AllItemTypes is all of them.
	Type string
	// Prefix is what the keys begin with. With AllItemTypes it holds in each type.
	Prefix string
	// After continues behind this key, which need not exist any more. With AllItemTypes it is empty.
	After string
	// Limit is the most items to return; there may be fewer in a page, where they are large. 0: all of them, or an
	// error that matches ErrTooLarge where they take more memory than a view may.
	Limit int
}

// ItemView is items of a segment as of one moment: exactly those that its entries through Info.Tail make.
// What follows that is the tail, and nothing is in between.
type ItemView struct {
	Info
	// Items are ordered by the bytes of their types, and then of their keys.
	Items []Item
	// More says that there may be items behind the last one, and Next what to continue after.
	More bool
	Next string
	// Lead is what stamps are reckoned from.
	Lead int64
}

// Stamp returns a time for the change at a sequence through Info.Tail, in milliseconds since 1970, that is
// close to the clock and strictly increases with the sequence, across restarts and servers, by at least two.
// So Stamp(Tail)+1 is after all that the view holds, and before everything that follows.
func (v *ItemView) Stamp(s Sequence) int64 { return ItemStamp(v.Lead, s) }

// ItemStamp is the stamp of a sequence, in milliseconds since 1970, where the segment has come to a lead.
// A lead never goes back.
func ItemStamp(lead int64, s Sequence) int64 { return lead + 2*int64(s) }

// ItemLead is the least lead, not less than the one before, by which the stamp of a sequence is not before
// a time in microseconds since 1970.
func ItemLead(before int64, s Sequence, micros int64) int64 {
	return max(before, micros/1000-2*int64(s))
}

// ItemOp is what happened to an item.
type ItemOp byte

// What happens to items. A change that gives a value to an item that is there is an update, whichever
// operation its message names, as far as that is known to the one who reads it.
const (
	ItemCreated ItemOp = iota + 1
	ItemUpdated
	ItemDeleted
)

func (o ItemOp) String() string {
	switch o {
	case ItemCreated:
		return "create"
	case ItemUpdated:
		return "update"
	case ItemDeleted:
		return "delete"
	}
	return fmt.Sprintf("operation %d", byte(o))
}

// ItemChange is a change of an item, as an entry tells it.
type ItemChange struct {
	ItemKey
	Op ItemOp
	// Value is what the item is from then on; nil after a deletion.
	Value []byte
	// Old is what the item was, as far as the entry says so: it does for deletions that came through writes
	// to items, and for expiries.
	Old []byte
	// Sequence is the version of the item after the change, and Position the place in the space.
	Sequence Sequence
	Position Position
	Time     time.Time
	// TxID is what the writer gave.
	TxID string
	// Expires is when the item goes away by itself. Zero: never.
	Expires time.Time
	// Stamp is that of ItemView, at this sequence.
	Stamp int64
}

// ItemBatch is changes of one segment in their order.
type ItemBatch struct {
	// Segment is the address, and ID the incarnation.
	Segment Segment
	ID      uint64
	// Last is the place to continue after, in the segment, and LastPosition in the space.
	Last         Sequence
	LastPosition Position
	Changes      []ItemChange
	// Deleted says that the segment was deleted, at LastPosition. There are no changes then, and Last is 0.
	Deleted bool
	// Stamp is, where Deleted is set, the stamp of that: it is after all of the segment, and before all of one that
	// is made under the name again.
	Stamp int64
	// Lead is what stamps are reckoned from.
	Lead int64
}

// SpaceItemView is the items of segments of a space as of one moment.
type SpaceItemView struct {
	Space Space
	// At is the position that all of them are at.
	At Position
	// Groups are the segments, ordered by name.
	Groups []ItemView
}

// ItemMovedError says at which version an item is, 0 if there is none. It matches ErrItemMoved.
type ItemMovedError struct {
	Segment Segment
	Item    ItemKey
	// Want is the version that was expected, nil for any.
	Want *Sequence
	Have Sequence
}

func (e *ItemMovedError) Error() string {
	have := "does not exist"
	if e.Have > 0 {
		have = fmt.Sprintf("is at version %d", e.Have)
	}
	want := "it was expected to exist"
	if e.Want != nil {
		want = "it was expected not to exist"
		if *e.Want > 0 {
			want = fmt.Sprintf("it was expected at version %d", *e.Want)
		}
	}
	return fmt.Sprintf("runnel: item %s of segment %s %s, %s", e.Item, quote(e.Segment.String()), have, want)
}

func (e *ItemMovedError) Is(target error) bool { return target == ErrItemMoved }

// ItemNotFoundError names the item that does not exist. It matches ErrNotFound.
type ItemNotFoundError struct {
	Segment Segment
	Item    ItemKey
}

func (e *ItemNotFoundError) Error() string {
	return fmt.Sprintf("runnel: segment %s has no item %s", quote(e.Segment.String()), e.Item)
}

func (e *ItemNotFoundError) Is(target error) bool { return target == ErrNotFound }
