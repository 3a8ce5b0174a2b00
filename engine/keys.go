package engine

import (
	"encoding/binary"
	"strings"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/storage"
)

// The first byte of a key in a partition says what its value is. All numbers in keys are big endian, so
// that keys sort as the numbers do. Segments are known by id everywhere but in keyDescriptor: a name
// that is deleted and created again shares no key with what it was.
const (
	keyCommit     = 'c' // last position → record.Commit
	keyDescriptor = 'm' // name → record.Descriptor
	keyRun        = 'e' // id, last sequence, perhaps a fragment's index → record.Run
	keyProducer   = 'p' // id, producer → record.Producer
	keyMutable    = 's' // id → record.Mutable
	keyReference  = 'r' // id, reference → record.Reference
	keyName       = 'n' // id → name
	keyDue        = 'x' // microseconds, id → name of a segment to look at then
	keyTrash      = 't' // id → nothing: the data of a deleted segment is to be dropped
	keyRelease    = 'o' // reference → record.Release
	keyCursor     = 'u' // id, or 0 for the space, cursor's name → record.Cursor
	keyLease      = 'l' // lease's key → record.Lease
	keyOnce       = 'k' // id, idempotency key → record.Key
	keyItem       = 'i' // id, item's type, 0, item's key → record.Item
	keyItemDue    = 'y' // microseconds, and then as after keyItem → nothing: an item to look at then
	keyItemSpace  = 'z' // → record.ItemSpace
	keyGone       = 'g' // position → record.Gone
	keyEnded      = 'j' // id → record.Ended: the data of a deleted item segment, which is kept for a while
	keyWitness    = 'w' // engine → id of its last commit, microseconds
)

func commitKey(dst []byte, last runnel.Position) []byte {
	return binary.BigEndian.AppendUint64(append(dst, keyCommit), uint64(last))
}

func descriptorKey(name string) []byte {
	return append(append(make([]byte, 0, 1+len(name)), keyDescriptor), name...)
}

func segmentKey(dst []byte, kind byte, id uint64) []byte {
	return binary.BigEndian.AppendUint64(append(dst, kind), id)
}

func runKey(dst []byte, id uint64, last runnel.Sequence) []byte {
	return binary.BigEndian.AppendUint64(segmentKey(dst, keyRun, id), uint64(last))
}

func fragmentKey(dst []byte, id uint64, last runnel.Sequence, index int) []byte {
	return binary.BigEndian.AppendUint16(runKey(dst, id, last), uint16(index))
}

func producerKey(id uint64, producer string) []byte {
	return append(segmentKey(make([]byte, 0, 9+len(producer)), keyProducer, id), producer...)
}

func onceKey(id uint64, key string) []byte {
	return append(segmentKey(make([]byte, 0, 9+len(key)), keyOnce, id), key...)
}

func cursorKey(id uint64, name string) []byte {
	return append(segmentKey(make([]byte, 0, 9+len(name)), keyCursor, id), name...)
}

func leaseKey(key string) []byte {
	return append(append(make([]byte, 0, 1+len(key)), keyLease), key...)
}

// itemKey is the key of an item whose type is named.
func itemKey(id uint64, item runnel.ItemKey) []byte {
	key := append(segmentKey(make([]byte, 0, 10+len(item.Type)+len(item.Key)), keyItem, id), item.Type...)
	return append(append(key, 0), item.Key...)
}

// itemOfKey reads what itemKey wrote.
func itemOfKey(key []byte) runnel.ItemKey {
	typ, name, _ := strings.Cut(string(key[9:]), "\x00")
	return runnel.ItemKey{Type: typ, Key: name}
}

// itemDueKey says when to look at an item, which is named by its key.
func itemDueKey(micros int64, item []byte) []byte {
	key := make([]byte, 0, 8+len(item))
	return append(segmentKey(key, keyItemDue, uint64(max(micros, 0))), item[1:]...)
}

func goneKey(at runnel.Position) []byte { return segmentKey(nil, keyGone, uint64(at)) }

func mutableKey(id uint64) []byte { return segmentKey(nil, keyMutable, id) }

func nameKey(id uint64) []byte { return segmentKey(nil, keyName, id) }

func trashKey(id uint64) []byte { return segmentKey(nil, keyTrash, id) }

func endedKey(id uint64) []byte { return segmentKey(nil, keyEnded, id) }

func referenceKey(id uint64, reference [16]byte) []byte {
	return append(segmentKey(make([]byte, 0, 25), keyReference, id), reference[:]...)
}

func releaseKey(reference [16]byte) []byte {
	return append([]byte{keyRelease}, reference[:]...)
}

func witnessKey(engine [16]byte) []byte { return append([]byte{keyWitness}, engine[:]...) }

func dueKey(micros int64, id uint64) []byte {
	return binary.BigEndian.AppendUint64(segmentKey(nil, keyDue, uint64(max(micros, 0))), id)
}

// kindRange spans all keys of a kind.
func kindRange(kind byte) storage.Range {
	return storage.Range{From: []byte{kind}, To: []byte{kind + 1}}
}

// segmentRange spans all keys of a kind that belong to a segment.
func segmentRange(kind byte, id uint64) storage.Range {
	return storage.Range{From: segmentKey(nil, kind, id), To: segmentKey(nil, kind, id+1)}
}

// lastOfRunKey reads the last sequence off the key of a run or a fragment.
func lastOfRunKey(key []byte) runnel.Sequence {
	return runnel.Sequence(binary.BigEndian.Uint64(key[9:]))
}

func idOfKey(key []byte) uint64 { return binary.BigEndian.Uint64(key[1:]) }
