// Package storage is the contract between the log and the place where its bytes are kept.
//
// A driver keeps partitions of ordered keys and changes one partition atomically. It knows nothing of
// segments, sequences, producers or readers: every rule of the log lives once, in package engine. What
// a driver promises is checked by package storagetest; a driver is finished when that suite is green.
//
// # Partitions, keys and values
//
// A [Partition] is one space of one store. Its keys are non-empty byte strings of at most
// [MaxKeyBytes], ordered bytewise. Values are bytes, possibly none, of at most Limits.MaxValueBytes.
// Partitions come into being with their first commit and never share a key, whatever their names are.
//
// # One guard for a partition
//
// A partition has one conditional row, its guard: a version that every guarded commit raises by one,
// and the id of the commit that raised it last. A commit that names the version it was built on either
// happens whole and durably, or changes nothing. Two processes that both believe that they write a
// partition therefore cause conflicts, never damage. A driver that says Limits.Exclusive lets its one
// caller skip the guard ([Batch.Guarded] false) and keep the version in memory; such a caller orders
// its own commits to a partition.
//
// # Durable, then visible
//
// When Commit returns nil the batch survives a crash of the process and of the machine. A driver may
// make a batch readable before that: Pebble does. Callers show nothing to their own readers before
// Commit has returned.
//
// # How other engines keep the contract
//
// PostgreSQL, CockroachDB, YugabyteDB: one table (store, space, key, value) with the key in bytea and
// one guard table. A commit is a transaction that updates the guard row where it still has the expected
// version, and returns ErrConflict when no row was updated or the engine answers 40001; the connection
// breaking between COMMIT and its answer is ErrUnknown. Scans page by key.
//
// Azure Table Storage: a table for each store, the partition key is the escaped space, the row key the
// key in an order-preserving text form. A commit is one entity group transaction whose guard entity
// carries the expected ETag. Its limits, 100 operations and 4 MiB for a transaction, 64 KiB for a
// property and 1 MiB for an entity, are Limits of 99 operations, a little under 4 MiB, and values of
// under 1 MiB spread over properties of 64 KiB. HTTP 412 is ErrConflict, a time-out ErrUnknown.
//
// Redis, Valkey: the partition is a hash slot ({store/space}); a sorted set with equal scores orders
// the keys (ZRANGEBYLEX), a hash holds the values, and one Lua script checks the guard and applies the
// batch. Durable means appendfsync always. A connection lost after sending is ErrUnknown.
package storage

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"github.com/runnelhq/runnel"
)

// MaxKeyBytes is the longest key a driver must take.
const MaxKeyBytes = 512

// Partition is what a commit is atomic in: one space of one store.
type Partition = runnel.Space

// Version counts the guarded commits of a partition. 0: there has been none.
type Version uint64

// CommitID tells one attempted commit from every other, so that a caller that was told ErrUnknown can
// recognise its own.
type CommitID [16]byte

// Driver keeps partitions of ordered keys. All methods may be called concurrently. Slices passed in
// belong to the caller again when the method returns.
type Driver interface {
	// Limits never change while the driver is open.
	Limits() Limits

	// Commit makes every change of b durable, or none. The error matches one of ErrConflict, ErrRefused,
	// ErrFull, ErrUnknown and ErrFailed; see there what the caller may conclude. A context that ends while the
	// commit is under way gives ErrUnknown. The version returned is the guard's after a guarded commit,
	// and 0 after any other.
	Commit(ctx context.Context, p Partition, b *Batch) (Version, error)

	// Guard returns the version of the partition and the id of the last guarded commit, zero if there
	// has been none. It is linearizable.
	Guard(ctx context.Context, p Partition) (Version, CommitID, error)

	// Get returns a copy of the value of a key, or ErrKeyNotFound. It is linearizable: it sees every
	// commit that returned before it was called.
	Get(ctx context.Context, p Partition, key []byte) ([]byte, error)

	// Scan yields the pairs of a range in key order. It sees every commit that returned before Scan was
	// ranged over, and may see later ones. A pair's slices are valid until the next step. An error ends
	// the scan.
	Scan(ctx context.Context, p Partition, r Range) iter.Seq2[Pair, error]

	// Drop removes every key of a range. It need not be atomic, may be repeated, and may be called while
	// commits to other keys of the partition run. Its effect is durable no later than the next Commit to
	// the partition that succeeds. Where space runs out it counts as a batch with Batch.Reserve.
	Drop(ctx context.Context, p Partition, r Range) error

	// Stores yields every store that holds a partition, ordered by id.
	Stores(ctx context.Context) iter.Seq2[runnel.Store, error]

	// Partitions yields the partitions of a store that hold a key, ordered by the bytes of their names,
	// beginning at the name from, itself included.
	Partitions(ctx context.Context, store runnel.Store, from string) iter.Seq2[Partition, error]

	// Close waits for commits under way and releases what the driver holds. No method may be called
	// after it.
	Close() error
}

// Gauge is implemented by drivers that know how much space they have left. They refuse with ErrFull
// before there is none, and take batches again by themselves once there is enough.
type Gauge interface {
	// Full returns nil while small batches are taken, and otherwise a *FullError; reserve asks about those
	// with Batch.Reserve. It answers from memory, so that it can be asked before every write, and what it
	// says may be a moment old.
	Full(reserve bool) error
}

// Limits is what a driver can take. A zero field means: as much as memory allows.
type Limits struct {
	// MaxValueBytes is the largest value.
	MaxValueBytes int
	// MaxBatchBytes is the largest sum of keys and values in one batch.
	MaxBatchBytes int
	// MaxBatchOps is the largest number of changes in one batch.
	MaxBatchOps int
	// Exclusive says that no other process can write what this driver holds while it is open.
	Exclusive bool
}

// Batch is a set of changes to one partition. The zero Batch is empty and unguarded. Of several changes
// to one key the last one counts.
type Batch struct {
	// Guarded asks for the condition: the partition's version must be Expect. Drivers that are not
	// exclusive refuse a batch without it.
	Guarded bool
	// Expect is the version the batch was built on.
	Expect Version
	// ID becomes the guard's id when a guarded batch commits.
	ID CommitID
	// Reserve lets the batch have some of the space that is kept back when it runs out. It is for what
	// leads to more space, and for little else.
	Reserve bool

	Ops []Op
}

// Op is one change: a key is set to Head followed by Body, or deleted. A value in two parts lets the
// caller put a header before bytes it already holds without copying them.
type Op struct {
	Key        []byte
	Head, Body []byte
	Delete     bool
}

// Set adds a change that gives key the value head followed by body.
func (b *Batch) Set(key, head, body []byte) {
	b.Ops = append(b.Ops, Op{Key: key, Head: head, Body: body})
}

// Delete adds a change that removes key, if it is there.
func (b *Batch) Delete(key []byte) {
	b.Ops = append(b.Ops, Op{Key: key, Delete: true})
}

// Size returns the bytes of all keys and values, which Limits.MaxBatchBytes bounds.
func (b *Batch) Size() int {
	n := 0
	for i := range b.Ops {
		n += b.Ops[i].Size()
	}
	return n
}

// Size returns the bytes of the change's key and value.
func (o *Op) Size() int { return len(o.Key) + len(o.Head) + len(o.Body) }

// Range is a run of keys: From ≤ key < To. A nil From is the first key, a nil To is beyond the last.
type Range struct {
	From, To []byte
	// Reverse yields the last key first.
	Reverse bool
	// Limit ends a scan after so many pairs. 0 means no limit. Drop ignores it.
	Limit int
}

// Pair is a key and its value.
type Pair struct {
	Key, Value []byte
}

var (
	// ErrKeyNotFound is what Get answers for a key that is not there.
	ErrKeyNotFound = errors.New("storage: key not found")
	// ErrConflict: the guard has another version. Nothing changed; read the guard and try again.
	ErrConflict = errors.New("storage: conflict")
	// ErrRefused: the driver does not take this batch, because it is over a limit or malformed. Nothing
	// changed, and the same batch will be refused again.
	ErrRefused = errors.New("storage: refused")
	// ErrFull: there is too little space for the batch. Nothing changed, and the same batch may be taken
	// once there is more. It comes as a *FullError.
	ErrFull = errors.New("storage: full")
	// ErrUnknown: the batch happened whole, or not at all, or will still happen until a later guarded
	// commit to the partition is answered. The guard's id tells which.
	ErrUnknown = errors.New("storage: outcome unknown")
	// ErrFailed: the driver can promise nothing any more. The batch is in the state of ErrUnknown, and
	// every further commit fails.
	ErrFailed = errors.New("storage: failed")
)

// FullError says why there is too little space, in bytes: what is free, less what the batch may take,
// would be less than what is kept free. Need is 0 where no batch is taken, however small.
type FullError struct {
	Free, Keep, Need int64
}

func (e *FullError) Error() string {
	s := fmt.Sprintf("storage: full: %d bytes are free, %d must stay free", e.Free, e.Keep)
	if e.Need > 0 {
		s += fmt.Sprintf(", and the batch may take %d", e.Need)
	}
	return s
}

func (e *FullError) Is(target error) bool { return target == ErrFull }
