package runnel

import (
	"fmt"
	"strings"
	"time"
)

// MaxCursorBytes is the longest name of a cursor, in bytes.
const MaxCursorBytes = 256

// CursorName names a stored place of a reader.
type CursorName struct {
	Space Space
	// Segment is the segment that is read; empty for the timeline of the space. The cursors of a segment
	// go away with it.
	Segment string
	// Name is not empty, is UTF-8, and has at most MaxCursorBytes bytes. That of a subscription is as
	// SubscriptionCursor says; no other begins with ReservedElement and a slash.
	Name string
}

// SubscriptionCursor is the name that the cursor of a subscription has on each of its streams.
func SubscriptionCursor(id string) string { return ReservedElement + "/" + id }

// Subscription returns the id of the subscription whose cursor this is, and false for that of a reader.
func (n CursorName) Subscription() (id string, ok bool) {
	return strings.CutPrefix(n.Name, ReservedElement+"/")
}

func (n CursorName) String() string {
	if n.Segment == "" {
		return fmt.Sprintf("%s of space %s", quote(n.Name), quote(n.Space.Name))
	}
	return fmt.Sprintf("%s of segment %s", quote(n.Name), quote(n.Space.Segment(n.Segment).String()))
}

// Cursor is the stored place of a reader.
type Cursor struct {
	CursorName
	// Place is what the reader has done with: a Sequence of the segment, or a Position of the space.
	Place uint64
	// Updated is when the place was stored.
	Updated time.Time
	// End is the tail of the segment, or the head of the space.
	End uint64
	// LagBytes is how many bytes the payloads have that the segment keeps after the place. It is -1 for the
	// timeline of a space, where that is not known.
	LagBytes int64
}

// Lag is how far the reader is behind: in entries of a segment, or in positions of a space, some of
// which are not those of entries.
func (c Cursor) Lag() uint64 { return c.End - min(c.Place, c.End) }

// ReaderLag says how far one reader is behind, over everything in a space that it has a cursor on; a subscription,
// whatever spaces its streams are of.
type ReaderLag struct {
	Store Store
	// Space is empty for a subscription, too.
	Space string
	// Cursor is the name of its cursors.
	Cursor string
	// Behind is how many of them are not at the end, Entries and Bytes are the sums of their lags. Of the timeline of
	// a space, the positions count as entries, and no bytes.
	Behind         int
	Entries, Bytes uint64
	// Parked says that the webhook of a subscription is not tried any more.
	Parked bool
}

// CursorMove stores the place of a reader, as part of a commit. The cursor is made when there is none.
//
// The cursor of a subscription is moved by its acks. A move by hand is a commit to nothing but cursors of one
// subscription. It ends the wake in flight, if there is one, so that whoever was told of it is fenced, and is
// refused with a LeaseHeldError while somebody works on it.
type CursorMove struct {
	// Segment and Name are as in CursorName, in the space of the commit.
	Segment, Name string
	// Place is a Sequence of the segment, or a Position of the space. It must have been given.
	Place uint64
	// Expect, if not nil, must be the place stored before; 0 stands for none, too.
	Expect *uint64
	// Rewind lets the place go back. Without it a lower place than the stored one is refused.
	Rewind bool
}

// CursorMovedError says where the cursor is. It matches ErrCursorMoved.
type CursorMovedError struct {
	Cursor CursorName
	// Want is the place that was expected, or that the cursor was to be moved to.
	Want  uint64
	Place uint64
}

func (e *CursorMovedError) Error() string {
	return fmt.Sprintf("runnel: cursor %s is at %d, not at or before %d", e.Cursor, e.Place, e.Want)
}

func (e *CursorMovedError) Is(target error) bool { return target == ErrCursorMoved }

// CursorNotFoundError names the cursor that does not exist. It matches ErrNotFound.
type CursorNotFoundError struct{ Cursor CursorName }

func (e *CursorNotFoundError) Error() string {
	return fmt.Sprintf("runnel: cursor %s not found", e.Cursor)
}

func (e *CursorNotFoundError) Is(target error) bool { return target == ErrNotFound }
