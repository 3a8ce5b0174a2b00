package record_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"runtime"
	"testing"

	"pgregory.net/rapid"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/record"
)

func payloads(s ...string) []runnel.Record {
	records := make([]runnel.Record, len(s))
	for i := range s {
		records[i].Payload = []byte(s[i])
	}
	return records
}

// encode returns the value of a run and the sequence of its last entry.
func encode(records []runnel.Record, place record.Place) ([]byte, runnel.Sequence) {
	body := record.NewBody(records)
	value := append(body.AppendHeader(nil, &place), body.Bytes()...)
	return value, place.First + runnel.Sequence(len(records)) - 1
}

// tb is what a test, a fuzz target and a check of rapid have in common.
type tb interface {
	Helper()
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}

func decode(t tb, last runnel.Sequence, value []byte) *record.Run {
	t.Helper()
	run, err := record.DecodeRun(last, value)
	if err != nil {
		t.Fatal(err)
	}
	return run
}

// wantRun compares a run with the records that it was made of.
func wantRun(t tb, run *record.Run, records []runnel.Record, place record.Place) {
	t.Helper()
	if run.Len() != len(records) || run.First() != place.First || run.Last() != place.First+runnel.Sequence(len(records))-1 {
		t.Fatalf("run of %d entries from %d to %d", run.Len(), run.First(), run.Last())
	}
	if run.Place() != place {
		t.Fatalf("place %+v, want %+v", run.Place(), place)
	}
	var all []byte
	for i := range records {
		all = append(all, records[i].Payload...)
		entry := run.Entry(i)
		if !bytes.Equal(entry.Payload, records[i].Payload) || !bytes.Equal(run.Payload(i), records[i].Payload) {
			t.Fatalf("entry %d has payload %q, want %q", i, entry.Payload, records[i].Payload)
		}
		if !maps.Equal(entry.Metadata, records[i].Metadata) {
			t.Fatalf("entry %d has metadata %v, want %v", i, entry.Metadata, records[i].Metadata)
		}
		if entry.Sequence != place.First+runnel.Sequence(i) || entry.Position != place.Position+runnel.Position(i) ||
			entry.Transaction != place.Transaction || !entry.Time.Equal(place.Time()) {
			t.Fatalf("entry %d is at %+v", i, entry)
		}
		if got, want := run.BytesThrough(i), place.BytesBefore+uint64(len(all)); got != want {
			t.Fatalf("%d bytes through entry %d, want %d", got, i, want)
		}
	}
	if !bytes.Equal(run.Payloads(), all) || run.PayloadBytes() != uint64(len(all)) {
		t.Fatalf("payloads %q, want %q", run.Payloads(), all)
	}
}

var somePlace = record.Place{First: 7, Position: 99, Transaction: 90, Micros: 1_700_000_000_000_000, BytesBefore: 12345}

func TestARunComesBackAsItWasWritten(t *testing.T) {
	all := map[string]string{"key": "value", "": "", "a": "\x00\xff"}
	for _, tc := range []struct {
		name    string
		records []runnel.Record
	}{
		{"one entry", payloads("one")},
		{"one empty entry", payloads("")},
		{"entries of one length", payloads("aa", "bb", "cc")},
		{"entries of several lengths", payloads("a", "", "ccc")},
		{"only empty entries", payloads("", "", "")},
		{"metadata", []runnel.Record{{Payload: []byte("x"), Metadata: all}, {Payload: []byte("y")}, {Metadata: all}}},
		{"metadata and one length", []runnel.Record{{Payload: []byte("x")}, {Payload: []byte("y"), Metadata: all}}},
		{"a long payload", payloads(string(make([]byte, 300_000)))},
	} {
		for _, place := range []record.Place{
			somePlace,
			{First: 1, Position: 1, Transaction: 1},
			{First: runnel.MaxSequence - 10, Position: 1 << 62, Transaction: 1, Micros: 1 << 60, BytesBefore: 1 << 61},
		} {
			t.Run(fmt.Sprintf("%s at %d", tc.name, place.First), func(t *testing.T) {
				value, last := encode(tc.records, place)
				wantRun(t, decode(t, last, value), tc.records, place)
				wantRun(t, record.NewBody(tc.records).At(&place), tc.records, place)
				head, err := record.DecodeHead(last, value)
				if err != nil {
					t.Fatal(err)
				}
				want := place
				want.BytesBefore = 0
				through := place.BytesBefore + record.NewBody(tc.records).PayloadBytes()
				if head.Place != want || head.Len() != len(tc.records) || head.BytesThrough != through {
					t.Fatalf("head %+v of %d entries, want %+v through %d", head, head.Len(), want, through)
				}
			})
		}
	}
}

func TestABodyKeepsNothingOfItsRecords(t *testing.T) {
	records := payloads("abc", "de")
	body := record.NewBody(records)
	records[0].Payload[0] = 'X'
	records[1].Payload[1] = 'X'
	wantRun(t, body.At(&somePlace), payloads("abc", "de"), somePlace)
}

func anyRecords(t *rapid.T) []runnel.Record {
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) runnel.Record {
		r := runnel.Record{Payload: rapid.SliceOfN(rapid.Byte(), 0, 6).Draw(t, "payload")}
		if rapid.IntRange(0, 3).Draw(t, "has metadata") == 0 {
			r.Metadata = rapid.MapOfN(rapid.StringN(0, 3, 6), rapid.StringN(0, 3, 6), 1, 3).Draw(t, "metadata")
		}
		return r
	}), 1, 9).Draw(t, "records")
}

func TestAfterAndThroughCutARunLikeASlice(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		records := anyRecords(t)
		place := somePlace
		value, last := encode(records, place)
		run := decode(t, last, value)
		from := place.First + runnel.Sequence(rapid.IntRange(-2, len(records)+1).Draw(t, "after"))
		to := place.First + runnel.Sequence(rapid.IntRange(-2, len(records)+1).Draw(t, "through"))

		// The cut by hand: entries with from < sequence ≤ to.
		want, at := records, place
		for len(want) > 0 && at.First <= from {
			at.BytesBefore += uint64(len(want[0].Payload))
			at.First++
			at.Position++
			want = want[1:]
		}
		for len(want) > 0 && at.First+runnel.Sequence(len(want))-1 > to {
			want = want[:len(want)-1]
		}
		for _, order := range []string{"after then through", "through then after"} {
			cut := run
			if order == "after then through" {
				if cut = cut.After(from); cut != nil {
					cut = cut.Through(to)
				}
			} else if cut = cut.Through(to); cut != nil {
				cut = cut.After(from)
			}
			if len(want) == 0 {
				if cut != nil {
					t.Fatalf("%s: after %d through %d is a run from %d to %d, want none", order, from, to, cut.First(), cut.Last())
				}
				continue
			}
			if cut == nil {
				t.Fatalf("%s: after %d through %d is nothing, want %d entries", order, from, to, len(want))
			}
			wantRun(t, cut, want, at)
		}
		if run.After(place.First-1) != run || run.Through(last) != run {
			t.Fatal("a cut that leaves everything made a new run")
		}
	})
}

func TestAFlippedBitInARunIsDetected(t *testing.T) {
	for _, records := range [][]runnel.Record{
		payloads("aa", "bb"),
		payloads("a", "", "ccc"),
		{{Payload: []byte("x"), Metadata: map[string]string{"k": "v"}}, {Payload: []byte("yy")}},
	} {
		value, last := encode(records, somePlace)
		for bit := range 8 * len(value) {
			broken := bytes.Clone(value)
			broken[bit/8] ^= 1 << (bit % 8)
			if _, err := record.DecodeRun(last, broken); !errors.Is(err, record.ErrCorrupt) {
				t.Errorf("bit %d of %x: %v", bit, value, err)
			}
		}
		for n := range value {
			if _, err := record.DecodeRun(last, value[:n]); !errors.Is(err, record.ErrCorrupt) {
				t.Errorf("cut to %d of %d bytes: %v", n, len(value), err)
			}
		}
		if _, err := record.DecodeRun(last, append(bytes.Clone(value), 0)); !errors.Is(err, record.ErrCorrupt) {
			t.Errorf("with a byte more: %v", err)
		}
	}
}

func TestARunInFragmentsComesBack(t *testing.T) {
	records := payloads(string(bytes.Repeat([]byte("abc"), 1000)), "tail")
	value, last := encode(records, somePlace)
	const part = 100
	count := (len(value) + part - 1) / part
	var joined []byte
	for i := range count {
		fragment := append(record.AppendFragment(nil, count), value[i*part:min((i+1)*part, len(value))]...)
		if !record.IsFragment(fragment) || record.IsFragment(value) {
			t.Fatal("a fragment and a run cannot be told apart")
		}
		if i == 0 {
			head, err := record.DecodeHead(last, fragment)
			if err != nil || head.Len() != len(records) || head.Position != somePlace.Position {
				t.Fatalf("head %+v, %v", head, err)
			}
		}
		n, piece, err := record.DecodeFragment(fragment)
		if err != nil || n != count {
			t.Fatalf("fragment %d of %d says %d, %v", i, count, n, err)
		}
		joined = append(joined, piece...)
	}
	wantRun(t, decode(t, last, joined), records, somePlace)
}

// fuzzRecords makes records of fuzzed bytes: the first byte of each says how long it is.
func fuzzRecords(data []byte) []runnel.Record {
	var records []runnel.Record
	for len(data) > 0 && len(records) < 1000 {
		n := min(int(data[0]>>2), len(data)-1)
		r := runnel.Record{Payload: data[1 : 1+n]}
		if data[0]&3 == 3 {
			r.Metadata = map[string]string{string(r.Payload): "v", "n": fmt.Sprint(n)}
		}
		records, data = append(records, r), data[1+n:]
	}
	return records
}

func FuzzRunRoundTrip(f *testing.F) {
	f.Add(uint64(1), uint64(1), uint64(0), int64(0), uint64(0), []byte("\x04a\x08bb\x07c"))
	f.Add(uint64(1<<40), uint64(1<<50), uint64(3), int64(1<<50), uint64(1<<40), []byte("\x04a\x04b\x04c"))
	f.Fuzz(func(t *testing.T, first, position, back uint64, micros int64, before uint64, data []byte) {
		records := fuzzRecords(data)
		if len(records) == 0 || first == 0 || first > uint64(runnel.MaxSequence) || position > 1<<62 || back > position ||
			before > 1<<62 {
			return
		}
		place := record.Place{
			First:       runnel.Sequence(first),
			Position:    runnel.Position(position),
			Transaction: runnel.Position(position - back),
			Micros:      micros,
			BytesBefore: before,
		}
		value, last := encode(records, place)
		run := decode(t, last, value)
		wantRun(t, run, records, place)
		if len(value) > 0 {
			bit := int(first+position+before) % (8 * len(value))
			value[bit/8] ^= 1 << (bit % 8)
			if _, err := record.DecodeRun(last, value); !errors.Is(err, record.ErrCorrupt) {
				t.Fatalf("flipping bit %d goes unnoticed: %v", bit, err)
			}
		}
	})
}

func FuzzDecodeRun(f *testing.F) {
	for _, records := range [][]runnel.Record{payloads("aa", "bb"), payloads("a", "", "ccc"), {{Metadata: map[string]string{"k": "v"}}}} {
		value, last := encode(records, somePlace)
		f.Add(uint64(last), value)
	}
	f.Fuzz(func(t *testing.T, last uint64, value []byte) {
		run, err := record.DecodeRun(runnel.Sequence(last), value)
		if err != nil {
			if !errors.Is(err, record.ErrCorrupt) {
				t.Fatal(err)
			}
			return
		}
		if run.Last() != runnel.Sequence(last) || run.PayloadBytes() > uint64(len(value)) {
			t.Fatalf("run to %d of %d bytes out of %d", run.Last(), run.PayloadBytes(), len(value))
		}
		for _, i := range []int{0, run.Len() / 2, run.Len() - 1} {
			run.Entry(i)
		}
	})
}

// FuzzDecodeUncheckedRun gives the decoder bodies whose checksum is right.
func FuzzDecodeUncheckedRun(f *testing.F) {
	for _, records := range [][]runnel.Record{payloads("aa", "bb"), payloads("a", "", "ccc"), {{Metadata: map[string]string{"k": "v"}}}} {
		body := record.NewBody(records)
		header := body.AppendHeader(nil, &somePlace)
		f.Add(header[:len(header)-4], body.Bytes())
	}
	f.Fuzz(func(t *testing.T, header, body []byte) {
		run, err := record.DecodeRun(1<<40, sealed(header, body))
		if err != nil {
			if !errors.Is(err, record.ErrCorrupt) {
				t.Fatal(err)
			}
			return
		}
		for i := range min(run.Len(), 100) {
			run.Entry(i)
		}
		run.After(run.First())
		run.Through(run.First())
	})
}

func FuzzDecodeHead(f *testing.F) {
	value, last := encode(payloads("aa", "bb"), somePlace)
	f.Add(uint64(last), value)
	f.Add(uint64(last), append(record.AppendFragment(nil, 3), value...))
	f.Fuzz(func(t *testing.T, last uint64, value []byte) {
		head, err := record.DecodeHead(runnel.Sequence(last), value)
		if err != nil {
			if !errors.Is(err, record.ErrCorrupt) {
				t.Fatal(err)
			}
			return
		}
		if head.First+runnel.Sequence(head.Len())-1 != runnel.Sequence(last) || head.First == 0 || head.Transaction > head.Position {
			t.Fatalf("head %+v of a run to %d", head, last)
		}
	})
}

func FuzzDecodeFragment(f *testing.F) {
	f.Add(2, []byte("part"))
	f.Add(1<<16, []byte{})
	f.Fuzz(func(t *testing.T, count int, part []byte) {
		if _, _, err := record.DecodeFragment(part); err != nil && !errors.Is(err, record.ErrCorrupt) {
			t.Fatal(err)
		}
		if count < 2 || count > 1<<16 {
			return
		}
		n, got, err := record.DecodeFragment(append(record.AppendFragment(nil, count), part...))
		if err != nil || n != count || !bytes.Equal(got, part) {
			t.Fatalf("%d, %q, %v", n, got, err)
		}
	})
}

func TestDecodingNeverAllocatesMoreThanItIsGiven(t *testing.T) {
	// A count of 2³¹ in a few bytes.
	header := []byte{1, 0, 0x80, 0x80, 0x80, 0x80, 0x08, 1, 0, 0}
	value := sealed(header, nil)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, err := record.DecodeRun(1<<40, value); err == nil {
		t.Fatal("decoded")
	}
	runtime.ReadMemStats(&after)
	allocated := after.TotalAlloc - before.TotalAlloc
	if allocated > 1<<20 {
		t.Fatalf("%d bytes allocated for %d", allocated, len(value))
	}
}

func BenchmarkNewBody(b *testing.B) {
	for _, size := range []int{100, 10_000} {
		for _, count := range []int{1, 100} {
			b.Run(fmt.Sprintf("entries=%d/payload=%dB", count, size), func(b *testing.B) {
				records := make([]runnel.Record, count)
				for i := range records {
					records[i].Payload = make([]byte, size+i%2)
				}
				b.SetBytes(int64(size * count))
				b.ReportAllocs()
				for b.Loop() {
					body := record.NewBody(records)
					body.At(&somePlace)
				}
			})
		}
	}
}

func BenchmarkDecodeRun(b *testing.B) {
	for _, metadata := range []bool{false, true} {
		for _, count := range []int{1, 100, 1000} {
			b.Run(fmt.Sprintf("entries=%d/payload=100B/metadata=%v", count, metadata), func(b *testing.B) {
				records := make([]runnel.Record, count)
				for i := range records {
					records[i].Payload = make([]byte, 100+i%2)
					if metadata {
						records[i].Metadata = map[string]string{"key": "value"}
					}
				}
				value, last := encode(records, somePlace)
				b.SetBytes(int64(len(value)))
				b.ReportAllocs()
				for b.Loop() {
					run, err := record.DecodeRun(last, value)
					if err != nil {
						b.Fatal(err)
					}
					for i := range run.Len() {
						run.Entry(i)
					}
				}
			})
		}
	}
}

// randomBytes is the same at every call with one seed.
func randomBytes(seed uint64, n int) []byte {
	rng := rand.New(rand.NewPCG(seed, 0))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return b
}

func equal[T any](t tb, got, want T) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("\ngot  %+v\nwant %+v", got, want)
	}
}
