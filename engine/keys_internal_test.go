package engine

import (
	"bytes"
	"cmp"
	"testing"

	"github.com/runnelhq/runnel"
)

// FuzzKeysSortAsWhatTheyName checks that the keys of a space say what they were made of, that those of a kind
// sort as their numbers do, and that each lies in the range of its kind, and of its segment, and in no other.
func FuzzKeysSortAsWhatTheyName(f *testing.F) {
	f.Add(uint64(0), uint64(0), uint64(0), uint64(0), "")
	f.Add(uint64(1), uint64(255), uint64(1), uint64(256), "p")
	f.Add(uint64(1)<<32, uint64(1)<<63-1, uint64(1)<<32-1, uint64(1)<<63, "\x00\xff/ü")
	f.Add(^uint64(0)-1, ^uint64(0), ^uint64(0), uint64(0), "e")
	f.Fuzz(func(t *testing.T, id, seq, otherID, otherSeq uint64, name string) {
		a, b := runKey(nil, id, runnel.Sequence(seq)), runKey(nil, otherID, runnel.Sequence(otherSeq))
		if idOfKey(a) != id || lastOfRunKey(a) != runnel.Sequence(seq) {
			t.Fatalf("the key of %d of segment %d names %d of %d", seq, id, lastOfRunKey(a), idOfKey(a))
		}
		if got, want := bytes.Compare(a, b), cmp.Or(cmp.Compare(id, otherID), cmp.Compare(seq, otherSeq)); got != want {
			t.Fatalf("the keys of %d:%d and %d:%d compare as %d, want %d", id, seq, otherID, otherSeq, got, want)
		}
		if got, want := bytes.Compare(commitKey(nil, runnel.Position(seq)), commitKey(nil, runnel.Position(otherSeq))), cmp.Compare(seq, otherSeq); got != want {
			t.Fatalf("the commits %d and %d compare as %d", seq, otherSeq, got)
		}
		fragment := fragmentKey(nil, id, runnel.Sequence(seq), int(otherSeq%(1<<16)))
		if idOfKey(fragment) != id || lastOfRunKey(fragment) != runnel.Sequence(seq) || !bytes.HasPrefix(fragment, a) {
			t.Fatalf("a fragment of %d of segment %d has the key %x", seq, id, fragment)
		}
		var reference [16]byte
		copy(reference[:], name)
		kinds := map[byte][]byte{
			keyCommit: commitKey(nil, runnel.Position(seq)), keyDescriptor: descriptorKey(name), keyRun: fragment,
			keyProducer: producerKey(id, name), keyMutable: mutableKey(id), keyReference: referenceKey(id, reference),
			keyDue: dueKey(int64(seq>>1), id), keyTrash: trashKey(id), keyRelease: releaseKey(reference), keyWitness: witnessKey(reference),
		}
		for kind, key := range kinds {
			for other := range kinds {
				if r := kindRange(other); (bytes.Compare(key, r.From) >= 0 && bytes.Compare(key, r.To) < 0) != (kind == other) {
					t.Fatalf("the key %x of kind %c is in the range of kind %c", key, kind, other)
				}
			}
		}
		if otherID != id && id < ^uint64(0) && otherID < ^uint64(0) {
			for _, kind := range []byte{keyRun, keyProducer, keyReference, keyMutable} {
				own, other := segmentRange(kind, id), segmentRange(kind, otherID)
				if key := kinds[kind]; bytes.Compare(key, own.From) < 0 || bytes.Compare(key, own.To) >= 0 ||
					bytes.Compare(key, other.From) >= 0 && bytes.Compare(key, other.To) < 0 {
					t.Fatalf("the key %x of segment %d is in the range of segment %d, or not in its own", key, id, otherID)
				}
			}
		}
	})
}
