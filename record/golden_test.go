package record_test

import (
	"bytes"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/record"
)

// With -update a golden file is written for each format that has none yet. One that is there is never
// written again: it is what an earlier version of the program has left on somebody's disk.
var update = flag.Bool("update", false, "write the golden files that are missing")

var goldenRecords = []runnel.Record{
	{Payload: []byte("first")},
	{Payload: []byte("the second"), Metadata: map[string]string{"b": "2", "a": "1"}},
	{},
}

// golden is one value at rest: what a file of testdata says, and what it must be read as.
type golden struct {
	name  string
	value []byte
	check func(t *testing.T, value []byte)
}

func goldens() []golden {
	run, last := encode(goldenRecords, somePlace)
	uniform, uniformLast := encode(payloads("aa", "bb"), record.Place{First: 1, Position: 2, Transaction: 2, Micros: 3})
	return []golden{
		row("subscription.v1", someSubscription, encodeSubscription, record.DecodeSubscription),
		row("link.v1", subscribedCursor, encodeLink, record.DecodeLink),
		{"run.v1", run, func(t *testing.T, value []byte) {
			wantRun(t, decode(t, last, value), goldenRecords, somePlace)
		}},
		{"run-uniform.v1", uniform, func(t *testing.T, value []byte) {
			wantRun(t, decode(t, uniformLast, value), payloads("aa", "bb"), record.Place{First: 1, Position: 2, Transaction: 2, Micros: 3})
		}},
		{"fragment.v1", append(record.AppendFragment(nil, 300), "a part"...), func(t *testing.T, value []byte) {
			count, part, err := record.DecodeFragment(value)
			if err != nil || count != 300 || string(part) != "a part" {
				t.Fatalf("%d, %q, %v", count, part, err)
			}
		}},
		row("commit.v1", someCommit, encodeCommit, decodeCommit),
		row("descriptor.v1", someDescriptor, encodeDescriptor, decodeDescriptor),
		row("mutable.v1", someMutable, encodeMutable, record.DecodeMutable),
		row("producer.v1", someProducer, encodeProducer, record.DecodeProducer),
		row("reference.v1", someReference, encodeReference, record.DecodeReference),
		row("release.v1", someRelease, encodeRelease, record.DecodeRelease),
		row("cursor.v1", someCursor, encodeCursor, record.DecodeCursor),
		row("cursor-since.v1", movableCursor, encodeCursor, record.DecodeCursor),
		row("cursor-of-subscription.v1", subscribedCursor, encodeCursor, record.DecodeCursor),
		row("lease.v1", someLease, encodeLease, record.DecodeLease),
		row("descriptor-items.v1", itemDescriptor, encodeDescriptor, decodeDescriptor),
		row("item.v1", someItem, encodeItem, record.DecodeItem),
		row("item-deleted.v1", deletedItem, encodeItem, record.DecodeItem),
		row("item-space.v1", someItemSpace, encodeItemSpace, record.DecodeItemSpace),
		row("item-space-freed.v1", freedItemSpace, encodeItemSpace, record.DecodeItemSpace),
		row("ended.v1", someEnded, encodeEnded, record.DecodeEnded),
		row("gone.v1", someGone, encodeGone, record.DecodeGone),
		row("item-held.v1", heldItem, encodeItem, record.DecodeItem),
		row("key.v1", someKey, encodeKey, record.DecodeKey),
	}
}

func row[T any](name string, want T, encode func(*T) []byte, decode func([]byte) (T, error)) golden {
	return golden{name, encode(&want), func(t *testing.T, value []byte) {
		got, err := decode(value)
		if err != nil {
			t.Fatal(err)
		}
		equal(t, got, want)
	}}
}

func TestGoldenFilesStayReadable(t *testing.T) {
	known := make(map[string]bool)
	for _, g := range goldens() {
		t.Run(g.name, func(t *testing.T) {
			path := filepath.Join("testdata", g.name+".hex")
			known[path] = true
			text, err := os.ReadFile(path)
			if os.IsNotExist(err) && *update {
				text = dump(g.value)
				err = os.WriteFile(path, text, 0o644)
			}
			if err != nil {
				t.Fatal(err)
			}
			value, err := undump(text)
			if err != nil {
				t.Fatal(err)
			}
			g.check(t, value)
			if !bytes.Equal(value, g.value) {
				t.Errorf("written today as\n%s\nwhich needs a format version of its own, or a golden file besides\n%s", dump(g.value), text)
			}
		})
	}
	files, err := filepath.Glob("testdata/*.hex")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range files {
		if !known[path] {
			t.Errorf("nothing reads %s", path)
		}
	}
}

// dump writes a value as lines of 16 bytes, so that a change of format can be read in a diff.
func dump(value []byte) []byte {
	var b bytes.Buffer
	for len(value) > 0 {
		n := min(16, len(value))
		fmt.Fprintf(&b, "%x\n", value[:n])
		value = value[n:]
	}
	return b.Bytes()
}

func undump(text []byte) ([]byte, error) {
	return hex.DecodeString(strings.Join(strings.Fields(string(text)), ""))
}
