package runnel

import (
	"iter"
	"math"
	"time"
)

// Latest, as a place to read from, is wherever the tail is at that moment.
const Latest Sequence = math.MaxUint64

// CreateOptions says what a new segment is. The zero value is an open, empty segment of type
// application/octet-stream that is kept for ever.
type CreateOptions struct {
	// ContentType is kept as given. Empty means the source's for a fork, else application/octet-stream.
	ContentType string
	// TTL expires the segment when it is neither read nor written for so long. 0: never. A fork with
	// neither TTL nor ExpiresAt inherits its source's.
	TTL time.Duration
	// HasTTL gives a TTL of 0 its own meaning: the segment expires at once.
	HasTTL bool
	// ExpiresAt expires the segment at a time. Zero: never. TTL and ExpiresAt exclude each other.
	ExpiresAt time.Time
	// Retention bounds the entries kept. A fork whose options leave it zero inherits its source's.
	Retention Retention
	// Closed creates the segment closed: Records are all it will ever hold.
	Closed bool
	// Records are the first entries, committed together with the creation.
	Records []Record
	// Fork makes the segment begin with entries of another one; nil for none.
	Fork *ForkFrom
	// Items makes an item segment, whose entries are messages of the State Protocol and whose content type
	// is application/json. It can neither be a fork nor bound what it retains.
	Items bool
}

// ForkFrom says where a fork branches off.
type ForkFrom struct {
	// Source is the segment to fork. It must be of the same store.
	Source Segment
	// At is the last entry that is inherited whole. It counts only if Latest is false.
	At Sequence
	// Latest forks at the source's tail at the time of the commit.
	Latest bool
	// Sub reaches further than At: by so many entries if the source IsJSON, else by so many bytes of the
	// payloads that follow, which may end inside an entry. It needs Latest to be false, or to be 0.
	Sub uint64
}

// Created is the answer to a creation.
type Created struct {
	Info
	// Existed says that the segment was there already, with the same configuration, and that nothing
	// was written.
	Existed bool
}

// AppendOptions are the conditions and effects of an append. The zero value appends to an open segment
// of any content type without conditions.
type AppendOptions struct {
	// ContentType must be the segment's, by MediaType. Empty is not checked.
	ContentType string
	// Producer makes the append idempotent; nil for none.
	Producer *Producer
	// StreamSeq, if HasStreamSeq, must be bytewise greater than that of every append before it.
	StreamSeq    string
	HasStreamSeq bool
	// Expect, if not nil, must be the segment's tail. A segment that is to be made has none, so 0 is what
	// to expect of it.
	Expect *Sequence
	// Create makes the segment, with these options, when there is none. Nil leaves that to a creation:
	// the append fails with ErrNotFound. Its Records, Closed and Fork must be zero.
	Create *CreateOptions
	// Absent demands that there is no such segment, and needs Create; otherwise the append fails with
	// ErrExists.
	Absent bool
	// Key makes the append idempotent without a producer: repeated with the same key and the same
	// records it is answered as it was the first time, but for Duplicate and Created, for as long as the
	// segment lives, and with other records it fails with ErrKeyReused. Each key takes a row in storage. Empty for none; at most
	// MaxKeyBytes bytes.
	Key string
	// Close lets no entry follow this append, which may then have no records.
	Close bool
}

// Producer identifies one write of an idempotent producer. Source: PROTOCOL.md, section 5.2.1.
type Producer struct {
	// ID names the producer over restarts. It is not empty and has at most MaxProducerBytes bytes.
	ID string
	// Epoch fences: a write of a higher one shuts out all lower ones. A new epoch starts at Seq 0.
	Epoch uint64
	// Seq numbers the writes of an epoch: 0, 1, 2 …
	Seq uint64
}

// MaxProducerBytes is the longest producer id, in bytes.
const MaxProducerBytes = 256

// MaxKeyBytes is the longest idempotency key, in bytes.
const MaxKeyBytes = 256

// MaxProducerNumber is the largest epoch and the largest sequence of a producer. Source: PROTOCOL.md,
// section 5.2.1 (the integers that JavaScript holds exactly).
const MaxProducerNumber = 1<<53 - 1

// MaxStreamSeqBytes is the longest writer sequence, in bytes.
const MaxStreamSeqBytes = 256

// Appended is the answer to an append. It is given only when everything it speaks of is durable.
type Appended struct {
	// First is the sequence of the first entry appended, 0 if there was none.
	First Sequence
	// Tail is the segment's last sequence after the append.
	Tail Sequence
	// Position is the position of the first entry, and Time that of all. Zero for a duplicate of a
	// producer's write.
	Position Position
	Time     time.Time
	// Duplicate says that the write of the producer or the key was there already, and nothing was written
	// again.
	Duplicate bool
	// Created says that the append made the segment.
	Created bool
	// ProducerSeq is the highest sequence accepted in the producer's epoch.
	ProducerSeq uint64
	// Closed says that the segment is closed, by this append or before.
	Closed bool
}

// Write is an append to one segment of a space, as part of a commit over several.
type Write struct {
	// Segment is the name inside the space.
	Segment string
	Options AppendOptions
	Records []Record
}

// Transaction is what one commit does to a space: all of it, or nothing.
type Transaction struct {
	// Writes are to segments that differ from each other.
	Writes []Write
	// Cursors are moved.
	Cursors []CursorMove
	// Fences are leases of the space that must be held.
	Fences []Fence
	// Items are writes to items of segments that differ from each other and from those of Writes.
	Items []ItemWrites
}

// Committed is the answer to a transaction. It is given only when everything in it is durable.
type Committed struct {
	// Appended has an answer for each write, in their order.
	Appended []Appended
	// Items has an answer for each of the writes to items, in their order.
	Items []ItemsWritten
}

// Batch is a run of entries of one segment that one append brought, in the form in which all readers
// share it. It never changes and may be kept; what it returns must not be changed.
type Batch interface {
	// First and Last are the sequences of the first and the last entry. Those between follow each other
	// without a gap, unless a Filter or a limit has left some out.
	First() Sequence
	Last() Sequence
	// Len is the number of entries, at least 1.
	Len() int
	// Payload returns the payload of entry i, counted from 0.
	Payload(i int) []byte
	// Payloads returns the payloads of all entries, one directly after the other.
	Payloads() []byte
	// Entry returns entry i, counted from 0.
	Entry(i int) Entry
}

// View is a segment at one moment, and what it then held after a place.
type View struct {
	Info
	// From is the place the view begins after.
	From Sequence
	// PayloadBytes is how many bytes the payloads in the view have together, or -1 where that is not
	// known without reading them.
	PayloadBytes int64
	// State, if not nil, is what the entries through From have made of an item segment, and stands for them: a
	// message of the State Protocol for each item. Together with all entries after From it makes the items;
	// one that has changed since From may be missing in it. It may be ranged over more than once, and reads as
	// it goes; a message is valid only until the next step. Only when it has come to its end without an error
	// is it whole.
	State iter.Seq2[[]byte, error]
	// Batches yields the entries after From up to and including Info.Tail, in order and without a gap.
	// It may be ranged over more than once, reads as it goes, and holds no more than a few batches in
	// memory. It ends with an error if the data goes away underway: ErrNotFound after a deletion,
	// ErrTrimmed when retention overtakes it.
	Batches iter.Seq2[Batch, error]
	// Stream yields what Batches does, for less: a batch, and all that it returns, is valid only until
	// the next step.
	Stream iter.Seq2[Batch, error]
}

// ListOptions choose the segments that a listing yields.
type ListOptions struct {
	// Prefix restricts the listing to paths that begin with it. Empty: all.
	Prefix string
	// Direct leaves out what has another slash behind the prefix: with "orders/" the segments of the spaces
	// below the space orders, and with no prefix those of all spaces but the root space.
	Direct bool
	// After continues behind this path, which need not exist any more. Empty: from the start.
	After string
	// Limit is the most segments to yield. 0: no limit.
	Limit int
}

// Event tells that a segment came into being or went away. Events are hints: they come after the fact,
// and one who falls behind misses some.
type Event struct {
	Info    Info
	Deleted bool
}
