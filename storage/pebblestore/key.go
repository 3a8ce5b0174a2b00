package pebblestore

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/storage"
)

const (
	storeLen = len(runnel.Store{})

	kindData  byte = 1
	kindGuard byte = 2

	guardLen = 8 + len(storage.CommitID{})
)

// appendPrefix appends what every key of one kind of the partition starts with.
func appendPrefix(b []byte, p storage.Partition, kind byte) []byte {
	b = append(b, p.Store[:]...)
	b = append(b, p.Name...)
	return append(b, 0, kind)
}

// prefixLen returns the length of what appendPrefix appends.
func prefixLen(p storage.Partition) int { return storeLen + len(p.Name) + 2 }

// bounds returns the first key of the range and the first one beyond it, and false if the range holds
// no key whatever is stored.
func bounds(p storage.Partition, r storage.Range) (lower, upper []byte, ok bool) {
	if r.From != nil && r.To != nil && bytes.Compare(r.From, r.To) >= 0 {
		return nil, nil, false
	}
	lower = append(appendPrefix(make([]byte, 0, prefixLen(p)+len(r.From)), p, kindData), r.From...)
	if r.To == nil {
		return lower, appendPrefix(make([]byte, 0, prefixLen(p)), p, kindData+1), true
	}
	upper = append(appendPrefix(make([]byte, 0, prefixLen(p)+len(r.To)), p, kindData), r.To...)
	return lower, upper, true
}

// splitKey reads the partition and the kind of a key.
func splitKey(key []byte) (p storage.Partition, kind byte, err error) {
	if len(key) > storeLen {
		if name, rest, ok := bytes.Cut(key[storeLen:], []byte{0}); ok && len(rest) > 0 {
			copy(p.Store[:], key)
			p.Name = string(name)
			return p, rest[0], nil
		}
	}
	return p, 0, fmt.Errorf("pebblestore: malformed key %x", key)
}

// afterPartition returns a key beyond every key of p and not beyond any of the next partition.
func afterPartition(p storage.Partition) []byte {
	b := append(make([]byte, 0, storeLen+len(p.Name)+1), p.Store[:]...)
	return append(append(b, p.Name...), 1)
}

// afterStore returns the first key beyond the store, or nil if there is no store beyond it.
func afterStore(s runnel.Store) []byte {
	for i := len(s) - 1; i >= 0; i-- {
		s[i]++
		if s[i] != 0 {
			return s[:]
		}
	}
	return nil
}

// checkPartition refuses a name that would not be told apart from others.
func checkPartition(p storage.Partition) error {
	if strings.IndexByte(p.Name, 0) >= 0 {
		return fmt.Errorf("pebblestore: %w: a space name contains a NUL byte", storage.ErrRefused)
	}
	return nil
}

func encodeGuard(b []byte, v storage.Version, id storage.CommitID) {
	binary.BigEndian.PutUint64(b, uint64(v))
	copy(b[8:], id[:])
}

func decodeGuard(b []byte) (v storage.Version, id storage.CommitID, err error) {
	if len(b) != guardLen {
		return 0, id, errors.New("pebblestore: malformed guard")
	}
	copy(id[:], b[8:])
	return storage.Version(binary.BigEndian.Uint64(b)), id, nil
}
