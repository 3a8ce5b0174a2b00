package record_test

import (
	"encoding/binary"
	"errors"
	"testing"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/record"
)

var someCommit = record.Commit{First: 100, Micros: 1_700_000_000_000_000, Changes: []record.Change{
	{Segment: 5, Kind: record.Created, Position: 100, Last: 0},
	{Segment: 5, Kind: record.Appended, Position: 101, Last: 3, Count: 3},
	{Segment: 9, Kind: record.Closed, Position: 104, Last: 77},
	{Segment: 9, Kind: record.Deleted, Position: 105, Last: 77},
	{Segment: 5, Kind: record.Trimmed, Position: 106, Last: 2},
}}

var someDescriptor = record.Descriptor{
	ID:          42,
	ContentType: "application/json; charset=utf-8",
	Created:     1_700_000_000_000_000,
	TTL:         time.Hour + 1,
	ExpiresAt:   1_800_000_000_000_000,
	Retention:   runnel.Retention{Age: time.Minute, Bytes: 1 << 40, Entries: 12},
	Closed:      true,
	ClosedBy:    &record.ProducerWrite{ID: "producer", Epoch: 3, Seq: 1<<53 - 1},
	SoftDeleted: true,
	References:  2,
	Fork: &record.Fork{
		Space: "a/b", Segment: "source", SourceID: 41,
		Reference: [16]byte{1, 2, 3, 15: 16},
		At:        9, Latest: true, Sub: 8, OwnExpiry: true, OwnRetention: true,
		Base: 17, BaseBytes: 1234, Earliest: 3,
		Extents: []record.Extent{{Space: "", Segment: 1, Through: 5}, {Space: "a/b", Segment: 41, Through: 17}},
	},
}

var someMutable = record.Mutable{
	Earliest: 5, Accessed: 1_700_000_000_000_000, Slack: time.Minute, Tail: 9, Bytes: 77,
	HasStreamSeq: true, StreamSeq: "2024-01-01",
}

var someProducer = record.Producer{Epoch: 7, Seq: 1<<53 - 1, Tail: 1234}

var someReference = record.Reference{Source: "source", Space: "a/b", Segment: "fork", From: 5, Created: 1_700_000_000_000_000}

var someRelease = record.Release{Space: "a/b", Segment: "source", SourceID: 41}

var someCursor = record.Cursor{Place: 1 << 60, Updated: 1_700_000_000_000_000}

var someLease = record.Lease{
	Holder: "worker-7", Number: 1234, Granted: 1_700_000_000_000_000, Deadline: 1_700_000_030_000_000, TTL: 30 * time.Second,
	Metadata: map[string]string{"host": "a", "empty": "", "": "no name"},
}

var someSubscription = record.Subscription{
	Instance: 1<<63 - 1,
	Config: runnel.SubscriptionConfig{
		Type: runnel.Webhook, Pattern: "events/**", Streams: []string{"a", "b/c"}, WebhookURL: "https://example.com/hook", WakeStream: "wake/pool",
		LeaseTTL: 30 * time.Second, Description: "all of it", Base: "http://localhost:4437/v1/stream",
	},
	Created: 1_700_000_000_000_000, Linking: true, Generation: 7, WakeID: "w_1", Holder: "worker-7", Deadline: 1_700_000_030_000_000,
	Attempt: 1_700_000_031_000_000, Engine: "0123", Accepted: true, Parked: true,
	Failures: 3, FailingSince: 1_700_000_000_000_001, NextAttempt: 1_700_000_060_000_000, LastStatus: 503, LastReason: "no",
}

// movableCursor is one that acks of some wakes move, and of earlier ones do not.
var movableCursor = record.Cursor{Place: 7, Updated: 1_700_000_000_000_000, Path: "a/b", Segment: 42, Glob: true, Since: 300}

var subscribedCursor = record.Cursor{Place: 7, Updated: 1_700_000_000_000_000, Path: "a/b", Segment: 42, Explicit: true, Glob: true}

var someKey = record.Key{First: 8, Tail: 9, Position: 77, Micros: 1_700_000_000_000_000, Sum: 1<<63 + 5, Closed: true}

var someItem = record.Item{
	Version: 12, Created: 1_700_000_000_000_000, Updated: 1_700_000_000_500_000, Lead: 1_699_999_999_976, Held: -1,
	Expires: 1_800_000_000_000_000, Row: []byte(`{"n":1}`),
}

var deletedItem = record.Item{
	Version: 13, Created: 1_700_000_000_000_000, Updated: 1_700_000_000_600_000, Lead: -5, Held: -1,
	Expires: 1_700_000_086_400_000, Deleted: true,
}

var heldItem = record.Item{
	Version: 14, Created: 1_700_000_000_000_000, Updated: 1_700_000_000_700_000, Lead: 7, Held: 1 << 40, Row: []byte(`{}`),
}

var someItemSpace = record.ItemSpace{Stamp: 1_700_000_000_123, Cut: 77, Gone: 1 << 40}

var someGone = record.Gone{Segment: 42, Name: "room", Stamp: 1_700_000_000_122, Micros: 1_700_000_000_000_000}

var freedItemSpace = record.ItemSpace{Stamp: 1_700_000_000_123, Cut: 77, Gone: 1 << 40, Freed: 1 << 39}

var someEnded = record.Ended{Name: "room", Earliest: 12, Lead: -5}

var itemDescriptor = record.Descriptor{ID: 7, ContentType: "application/json", Created: 1_700_000_000_000_000, Items: true}

func roundTrip[T any](t *testing.T, values []T, encode func(*T) []byte, decode func([]byte) (T, error)) {
	t.Helper()
	for i := range values {
		got, err := decode(encode(&values[i]))
		if err != nil {
			t.Fatal(err)
		}
		equal(t, got, values[i])
	}
}

func TestRowsComeBackAsTheyWereWritten(t *testing.T) {
	roundTrip(t, []record.Commit{someCommit, {Changes: []record.Change{}}}, encodeCommit, decodeCommit)
	roundTrip(t, []record.Descriptor{
		someDescriptor,
		{},
		{Fork: &record.Fork{Extents: []record.Extent{{}}}},
		{ClosedBy: &record.ProducerWrite{}},
		itemDescriptor,
	}, encodeDescriptor, decodeDescriptor)
	roundTrip(t, []record.Mutable{someMutable, {}, {HasStreamSeq: true}}, encodeMutable, record.DecodeMutable)
	roundTrip(t, []record.Producer{someProducer, {}}, encodeProducer, record.DecodeProducer)
	roundTrip(t, []record.Reference{someReference, {}}, encodeReference, record.DecodeReference)
	roundTrip(t, []record.Release{someRelease, {}}, encodeRelease, record.DecodeRelease)
	roundTrip(t, []record.Cursor{someCursor, subscribedCursor, movableCursor, {}}, encodeCursor, record.DecodeCursor)
	roundTrip(t, []record.Cursor{subscribedCursor, {}}, encodeLink, record.DecodeLink)
	roundTrip(t, []record.Lease{someLease, {}}, encodeLease, record.DecodeLease)
	roundTrip(t, []record.Key{someKey, {}}, encodeKey, record.DecodeKey)
	roundTrip(t, []record.ItemSpace{someItemSpace, freedItemSpace, {}}, encodeItemSpace, record.DecodeItemSpace)
	roundTrip(t, []record.Ended{someEnded, {}}, encodeEnded, record.DecodeEnded)
	roundTrip(t, []record.Gone{someGone, {}}, encodeGone, record.DecodeGone)
	roundTrip(t, []record.Item{someItem, deletedItem, heldItem, {Created: 5, Updated: 3, Row: []byte("{}")}}, encodeItem, record.DecodeItem)
}

func encodeItemSpace(x *record.ItemSpace) []byte   { return x.Append(nil) }
func encodeEnded(x *record.Ended) []byte           { return x.Append(nil) }
func encodeGone(x *record.Gone) []byte             { return x.Append(nil) }
func encodeCommit(c *record.Commit) []byte         { return c.Append(nil) }
func encodeDescriptor(d *record.Descriptor) []byte { return d.Append(nil) }
func encodeMutable(m *record.Mutable) []byte       { return m.Append(nil) }
func encodeProducer(p *record.Producer) []byte     { return p.Append(nil) }
func encodeReference(r *record.Reference) []byte   { return r.Append(nil) }
func encodeRelease(r *record.Release) []byte       { return r.Append(nil) }
func encodeCursor(c *record.Cursor) []byte         { return c.Append(nil) }
func encodeLease(l *record.Lease) []byte           { return l.Append(nil) }
func encodeKey(k *record.Key) []byte               { return k.Append(nil) }
func encodeItem(x *record.Item) []byte             { return x.Append(nil) }

func decodeCommit(value []byte) (record.Commit, error) { return deref(record.DecodeCommit(value)) }

func decodeDescriptor(value []byte) (record.Descriptor, error) {
	return deref(record.DecodeDescriptor(value))
}

func deref[T any](v *T, err error) (T, error) {
	if err != nil {
		var none T
		return none, err
	}
	return *v, nil
}

// decoders are all decoders of rows, by the name of their golden files.
var decoders = map[string]func([]byte) error{
	"commit":     func(b []byte) error { _, err := record.DecodeCommit(b); return err },
	"descriptor": func(b []byte) error { _, err := record.DecodeDescriptor(b); return err },
	"mutable":    func(b []byte) error { _, err := record.DecodeMutable(b); return err },
	"producer":   func(b []byte) error { _, err := record.DecodeProducer(b); return err },
	"reference":  func(b []byte) error { _, err := record.DecodeReference(b); return err },
	"release":    func(b []byte) error { _, err := record.DecodeRelease(b); return err },
	"cursor":     func(b []byte) error { _, err := record.DecodeCursor(b); return err },
	"lease":      func(b []byte) error { _, err := record.DecodeLease(b); return err },
	"link":       func(b []byte) error { _, err := record.DecodeLink(b); return err },
	"key":        func(b []byte) error { _, err := record.DecodeKey(b); return err },
	"item":       func(b []byte) error { _, err := record.DecodeItem(b); return err },
	"item space": func(b []byte) error { _, err := record.DecodeItemSpace(b); return err },
	"ended":      func(b []byte) error { _, err := record.DecodeEnded(b); return err },
	"gone":       func(b []byte) error { _, err := record.DecodeGone(b); return err },
	"fragment":   func(b []byte) error { _, _, err := record.DecodeFragment(b); return err },
	"run":        func(b []byte) error { _, err := record.DecodeRun(9, b); return err },
}

func TestAnUnknownFormatVersionIsRefused(t *testing.T) {
	for name, decode := range decoders {
		for _, value := range [][]byte{nil, {}, {0}, {2, 0, 0, 0, 0}, {0xF2, 2, 3}, {0xFF}} {
			if err := decode(value); !errors.Is(err, record.ErrCorrupt) {
				t.Errorf("%s of %x: %v", name, value, err)
			}
		}
	}
}

func TestAFieldOfALaterVersionIsPassedOver(t *testing.T) {
	unknown := []byte{
		200<<3&0x7f | 0x80, 200 >> 4, 5, // number 200, a varint
		0xA2, 0x0C, 2, 'h', 'i', // number 196, bytes
		0xA5, 0x0C, 1, 2, 3, 4, // number 196, 32 bits
	}
	got, err := record.DecodeDescriptor(append(someDescriptor.Append(nil), unknown...))
	if err != nil {
		t.Fatal(err)
	}
	equal(t, *got, someDescriptor)
}

func TestADescriptorKeepsNothingOfItsValue(t *testing.T) {
	value := someDescriptor.Append(nil)
	got, err := record.DecodeDescriptor(value)
	if err != nil {
		t.Fatal(err)
	}
	clear(value)
	equal(t, *got, someDescriptor)
}

// fuzzRow checks that whatever a decoder accepts is written and read again as the same.
func fuzzRow[T any](f *testing.F, seeds []T, encode func(*T) []byte, decode func([]byte) (T, error)) {
	f.Helper()
	for i := range seeds {
		f.Add(encode(&seeds[i]))
	}
	f.Add(randomBytes(1, 40))
	f.Fuzz(func(t *testing.T, value []byte) {
		x, err := decode(value)
		if err != nil {
			if !errors.Is(err, record.ErrCorrupt) {
				t.Fatal(err)
			}
			return
		}
		again, err := decode(encode(&x))
		if err != nil {
			t.Fatalf("%+v cannot be read again: %v", x, err)
		}
		equal(t, again, x)
	})
}

func FuzzDecodeCommit(f *testing.F) {
	fuzzRow(f, []record.Commit{someCommit, {}}, encodeCommit, decodeCommit)
}

func FuzzDecodeDescriptor(f *testing.F) {
	fuzzRow(f, []record.Descriptor{someDescriptor, {}}, encodeDescriptor, decodeDescriptor)
}

func FuzzDecodeMutable(f *testing.F) {
	fuzzRow(f, []record.Mutable{someMutable, {}}, encodeMutable, record.DecodeMutable)
}

func FuzzDecodeProducer(f *testing.F) {
	fuzzRow(f, []record.Producer{someProducer, {}}, encodeProducer, record.DecodeProducer)
}

func FuzzDecodeReference(f *testing.F) {
	fuzzRow(f, []record.Reference{someReference, {}}, encodeReference, record.DecodeReference)
}

func FuzzDecodeRelease(f *testing.F) {
	fuzzRow(f, []record.Release{someRelease, {}}, encodeRelease, record.DecodeRelease)
}

func FuzzDecodeCursor(f *testing.F) {
	fuzzRow(f, []record.Cursor{someCursor, subscribedCursor, movableCursor, {}}, encodeCursor, record.DecodeCursor)
}

func FuzzDecodeSubscription(f *testing.F) {
	fuzzRow(f, []record.Subscription{someSubscription, {}}, encodeSubscription, record.DecodeSubscription)
}

func FuzzDecodeLink(f *testing.F) {
	fuzzRow(f, []record.Cursor{subscribedCursor, {}}, encodeLink, record.DecodeLink)
}

func FuzzDecodeLease(f *testing.F) {
	fuzzRow(f, []record.Lease{someLease, {}}, encodeLease, record.DecodeLease)
}

func FuzzDecodeKey(f *testing.F) {
	fuzzRow(f, []record.Key{someKey, {}}, encodeKey, record.DecodeKey)
}

func FuzzDecodeItemSpace(f *testing.F) {
	fuzzRow(f, []record.ItemSpace{someItemSpace, {}}, encodeItemSpace, record.DecodeItemSpace)
}

func FuzzDecodeEnded(f *testing.F) {
	fuzzRow(f, []record.Ended{someEnded, {}}, encodeEnded, record.DecodeEnded)
}

func FuzzDecodeGone(f *testing.F) {
	fuzzRow(f, []record.Gone{someGone, {}}, encodeGone, record.DecodeGone)
}

func FuzzDecodeItem(f *testing.F) {
	fuzzRow(f, []record.Item{someItem, deletedItem, heldItem}, encodeItem, record.DecodeItem)
}

func BenchmarkDecodeCommit(b *testing.B) {
	value := someCommit.Append(nil)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := record.DecodeCommit(value); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDecodeDescriptor(b *testing.B) {
	value := someDescriptor.Append(nil)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := record.DecodeDescriptor(value); err != nil {
			b.Fatal(err)
		}
	}
}

func encodeSubscription(s *record.Subscription) []byte { return s.Append(nil) }

// encodeLink writes the first form of the cursor of a subscription, which is only read.
func encodeLink(c *record.Cursor) []byte {
	row := []byte{1}
	number := func(field byte, v uint64) {
		if v != 0 {
			row = binary.AppendUvarint(append(row, field<<3), v)
		}
	}
	flag := map[bool]uint64{true: 1}
	if c.Path != "" {
		row = append(binary.AppendUvarint(append(row, 1<<3|2), uint64(len(c.Path))), c.Path...)
	}
	number(2, c.Segment)
	number(3, c.Place)
	number(4, flag[c.Explicit])
	number(5, flag[c.Glob])
	number(6, uint64(c.Updated))
	return row
}
