package runnel

import (
	"fmt"
	"iter"
	"math"
	"strings"
	"time"
)

// LatestPosition, as a place to read a space from, is wherever its head is at that moment.
const LatestPosition Position = math.MaxUint64

// SpaceBatch is a batch with the segment that it belongs to. In one of a Timeline the positions of the
// entries follow each other without a gap. A query may leave some out, or put the last one first.
type SpaceBatch struct {
	// Segment is the address, and ID the incarnation.
	Segment Segment
	ID      uint64
	Batch
}

// SpaceInfo describes a space at one moment. Everything in it is durable.
type SpaceInfo struct {
	Space Space
	// Head is the last position that the space has given, to an entry or to another change, and Time is
	// when. Both are zero for a space that nobody has written to.
	Head Position
	Time time.Time
}

// Timeline is a space at one moment, and what its segments then held after a place, in one order.
type Timeline struct {
	Space Space
	// From is the place the timeline begins after.
	From Position
	// Head is the last position that the space had given, to an entry or to another change. A reader
	// that has come to the end of Batches has seen everything through it.
	Head Position
	// Batches yields the entries after From up to and including Head in the order of their positions.
	// What is deleted, expired or no longer retained is left out: its positions are gaps. The reader looks
	// for that now and then, so what goes away shortly before its turn may still be yielded. Entries that a fork inherits are its source's, in the timeline too. It may be
	// ranged over more than once, reads as it goes, and holds little in memory.
	Batches iter.Seq2[SpaceBatch, error]
}

// BeyondHeadError says where the head of the space is. It matches ErrBeyondTail.
type BeyondHeadError struct {
	Space Space
	From  Position
	Head  Position
}

func (e *BeyondHeadError) Error() string {
	return fmt.Sprintf("runnel: position %d is beyond the head of space %s, which is %d", e.From, quote(e.Space.Name), e.Head)
}

func (e *BeyondHeadError) Is(target error) bool { return target == ErrBeyondTail }

// SegmentWatch says which segments of a store are watched. The zero SegmentWatch is for all of them.
type SegmentWatch struct {
	// Prefix is what their paths begin with. Empty: all.
	Prefix string
	// Direct leaves out what has another slash behind the prefix, as in ListOptions: what begins with the path
	// of a space and a slash, and with Direct, are the segments of that space.
	Direct bool
	// Exact is for the one segment whose path is the Prefix.
	Exact bool
}

// Match tells whether the segment of a path is watched.
func (w SegmentWatch) Match(path string) bool {
	if w.Exact {
		return path == w.Prefix
	}
	rest, ok := strings.CutPrefix(path, w.Prefix)
	return ok && !(w.Direct && strings.Contains(rest, "/"))
}

// Status is what one who watches segments is told.
type Status struct {
	// Info describes the segment. Of one that is gone it has only the address.
	Info Info
	Gone bool
	// Live is false in a snapshot, of what there was when the watching began.
	Live bool
	// Mark says that this is about no segment: if Live, that the snapshot is complete; if not, that the
	// watcher was so far behind that it is given another snapshot, and that what is not in it is gone.
	Mark bool
}
