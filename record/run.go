// Package record is the bytes at rest: what the log writes as values of the storage driver, and reads
// back. It is pure: no I/O, no clock, no locks. Every value starts with a format version, so that a
// later version of the program can read what an earlier one wrote.
//
// # A run
//
// A run holds entries that one append brought to one segment, in order. It is kept under a key that
// ends in the sequence of its last entry.
//
//	byte 0      format version, 1
//	byte 1      flags: 1 uniform, 2 metadata, 4 transaction
//	uvarint     number of entries, at least 1
//	uvarint     position of the first entry; the others follow without gaps
//	uvarint     how far back the transaction began, only with the flag transaction (else 0)
//	uvarint     time of the commit, microseconds since 1970
//	uvarint     payload bytes of the segment through the end of this run
//	4 bytes     CRC-32C of the body and then the bytes above, little endian
//	body:
//	  uvarint…  length of each payload; only one, which holds for all, with the flag uniform
//	  uvarint   bytes of metadata, and then the metadata, only with the flag metadata:
//	              for each entry the number of pairs, and for each pair, sorted by key,
//	              length and bytes of the key, length and bytes of the value
//	  bytes     the payloads, one after the other
//
// # A fragment
//
// A run whose value is larger than the driver takes is cut into fragments, which stand under the run's
// key followed by their index in two bytes, big endian:
//
//	byte 0      0xF1: a fragment, version 1
//	uvarint     number of fragments, at least 2
//	bytes       this fragment's part of the run
//
// The other values are described where they are: [Commit], [Descriptor], [Mutable], [Producer],
// [Reference], [Release], [Item].
package record

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"slices"
	"time"

	"github.com/runnelhq/runnel"
)

// ErrCorrupt is matched by every error that says that bytes at rest are not what was written.
var ErrCorrupt = errors.New("record: corrupt")

const (
	runVersion      = 1
	fragmentVersion = 0xF1

	flagUniform     = 1
	flagMetadata    = 2
	flagTransaction = 4
	knownFlags      = flagUniform | flagMetadata | flagTransaction
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Body is the part of a run that does not depend on its place: it is built once, before the place is
// known. A Body owns its bytes and is not changed after it was built.
type Body struct {
	count   int
	flags   byte
	crc     uint32
	bytes   []byte // as described in the package comment
	payload int    // where in bytes the payloads begin
	ends    []uint32
	metadata
}

// NewBody copies the records, of which there must be at least one, into a body. Their payloads together
// must be under 4 GiB.
func NewBody(records []runnel.Record) *Body {
	b := &Body{count: len(records), flags: flagUniform}
	size := 0
	for i := range records {
		size += len(records[i].Payload)
		if len(records[i].Payload) != len(records[0].Payload) {
			b.flags &^= flagUniform
		}
		if len(records[i].Metadata) > 0 {
			b.flags |= flagMetadata
		}
	}
	if b.flags&flagMetadata != 0 {
		b.metadata = newMetadata(records)
	}
	lengths := binary.MaxVarintLen32
	if b.flags&flagUniform == 0 {
		lengths *= len(records)
	}
	b.bytes = make([]byte, 0, lengths+binary.MaxVarintLen32+len(b.pairs)+size)
	if b.flags&flagUniform != 0 {
		b.bytes = binary.AppendUvarint(b.bytes, uint64(len(records[0].Payload)))
	} else {
		b.ends = make([]uint32, len(records))
		end := 0
		for i := range records {
			b.bytes = binary.AppendUvarint(b.bytes, uint64(len(records[i].Payload)))
			end += len(records[i].Payload)
			b.ends[i] = uint32(end)
		}
	}
	if b.flags&flagMetadata != 0 {
		b.bytes = binary.AppendUvarint(b.bytes, uint64(len(b.pairs)))
		b.bytes = append(b.bytes, b.pairs...)
	}
	b.payload = len(b.bytes)
	for i := range records {
		b.bytes = append(b.bytes, records[i].Payload...)
	}
	b.crc = crc32.Checksum(b.bytes, castagnoli)
	return b
}

// Len is the number of entries.
func (b *Body) Len() int { return b.count }

// PayloadBytes is the sum of the payloads' lengths.
func (b *Body) PayloadBytes() uint64 { return uint64(len(b.bytes) - b.payload) }

// Sum is a checksum of the entries and how many they are.
func (b *Body) Sum() uint64 { return uint64(b.crc)<<32 | uint64(uint32(b.count)) }

// Bytes is the encoded body, which must not be changed.
func (b *Body) Bytes() []byte { return b.bytes }

// Place is what a run's entries are given by the commit that makes them durable.
type Place struct {
	// First is the sequence of the first entry.
	First runnel.Sequence
	// Position is the position of the first entry.
	Position runnel.Position
	// Transaction is the position of the first entry of the commit.
	Transaction runnel.Position
	// Micros is the time of the commit in microseconds since 1970.
	Micros int64
	// BytesBefore counts the payload bytes of the segment before this run.
	BytesBefore uint64
}

// Time is the time of the commit.
func (p *Place) Time() time.Time { return time.UnixMicro(p.Micros).UTC() }

// AppendHeader appends to dst what precedes the body of a run at this place. First is not part of it:
// it follows from the key and the number of entries.
func (b *Body) AppendHeader(dst []byte, p *Place) []byte {
	start := len(dst)
	flags := b.flags
	if p.Transaction != p.Position {
		flags |= flagTransaction
	}
	dst = append(dst, runVersion, flags)
	dst = binary.AppendUvarint(dst, uint64(b.count))
	dst = binary.AppendUvarint(dst, uint64(p.Position))
	if flags&flagTransaction != 0 {
		dst = binary.AppendUvarint(dst, uint64(p.Position-p.Transaction))
	}
	dst = binary.AppendUvarint(dst, uint64(p.Micros))
	dst = binary.AppendUvarint(dst, p.BytesBefore+b.PayloadBytes())
	return binary.LittleEndian.AppendUint32(dst, crc32.Update(b.crc, castagnoli, dst[start:]))
}

// Run is a decoded run: entries of one segment with their places. It is not changed after it was made,
// and may be shared.
type Run struct {
	place   Place
	count   int
	uniform int      // length of each payload, when ends is nil
	ends    []uint32 // where each payload ends
	payload []byte
	metadata
}

// At gives the body its place. The run shares the body's bytes.
func (b *Body) At(p *Place) *Run {
	r := &Run{place: *p, count: b.count, ends: b.ends, payload: b.bytes[b.payload:], metadata: b.metadata}
	if b.ends == nil {
		r.uniform = len(r.payload) / b.count
	}
	return r
}

// DecodeRun reads a run whose last entry is last. The run refers to value, which must not change
// afterwards. The error matches ErrCorrupt.
func DecodeRun(last runnel.Sequence, value []byte) (*Run, error) {
	h, d, err := decodeHeader(last, value)
	if err != nil {
		return nil, err
	}
	r := &Run{place: h.Place, count: h.count}
	body := d.rest
	if len(body) < 4 {
		return nil, corrupt("run %d ends in its header", last)
	}
	sum := binary.LittleEndian.Uint32(body)
	body = body[4:]
	head := value[:len(value)-len(d.rest)]
	if got := crc32.Update(crc32.Checksum(body, castagnoli), castagnoli, head); got != sum {
		return nil, corrupt("run %d has checksum %08x, want %08x", last, got, sum)
	}
	d.rest = body
	total := uint64(0)
	if h.flags&flagUniform != 0 {
		length := d.uvarint()
		if length > uint64(len(body)) {
			return nil, corrupt("run %d has payloads longer than itself", last)
		}
		r.uniform = int(length)
		total = length * uint64(h.count)
	} else {
		if h.count > len(body) {
			return nil, corrupt("run %d has more entries than bytes", last)
		}
		r.ends = make([]uint32, h.count)
		for i := range r.ends {
			total += d.uvarint()
			if total > uint64(len(body)) {
				return nil, corrupt("run %d has payloads longer than itself", last)
			}
			r.ends[i] = uint32(total)
		}
	}
	if h.flags&flagMetadata != 0 {
		if r.metadata, err = readMetadata(d.bytes(), h.count); err != nil {
			return nil, err
		}
	}
	r.payload = d.rest
	if d.bad || total != uint64(len(r.payload)) || total > h.BytesThrough {
		return nil, corrupt("run %d has %d bytes of payloads, want %d", last, len(r.payload), total)
	}
	r.place.BytesBefore = h.BytesThrough - total
	return r, nil
}

// Head is what a run says of itself before its body. BytesBefore of its place is not known.
type Head struct {
	Place
	// BytesThrough counts the payload bytes of the segment through the end of the run.
	BytesThrough uint64
	count        int
	flags        byte
}

// Len is the number of entries.
func (h *Head) Len() int { return h.count }

// DecodeHead reads the beginning of a run, or of its first fragment, without checking the body.
func DecodeHead(last runnel.Sequence, value []byte) (Head, error) {
	if len(value) > 0 && value[0] == fragmentVersion {
		d := decoder{rest: value[1:]}
		d.uvarint()
		value = d.rest
	}
	h, _, err := decodeHeader(last, value)
	return h, err
}

func decodeHeader(last runnel.Sequence, value []byte) (Head, decoder, error) {
	var h Head
	if len(value) < 2 || value[0] != runVersion {
		return h, decoder{}, corrupt("run %d has an unknown format", last)
	}
	h.flags = value[1]
	if h.flags&^knownFlags != 0 {
		return h, decoder{}, corrupt("run %d has unknown flags %08b", last, h.flags)
	}
	d := decoder{rest: value[2:]}
	count := d.uvarint()
	h.Position = runnel.Position(d.uvarint())
	h.Transaction = h.Position
	if h.flags&flagTransaction != 0 {
		h.Transaction -= runnel.Position(d.uvarint())
	}
	h.Micros = int64(d.uvarint())
	h.BytesThrough = d.uvarint()
	if d.bad || count == 0 || count > uint64(last) || count > 1<<31 || h.Transaction > h.Position {
		return h, d, corrupt("run %d has a broken header", last)
	}
	h.count = int(count)
	h.First = last - runnel.Sequence(count) + 1
	return h, d, nil
}

// Place is what the run's first entry was given by its commit.
func (r *Run) Place() Place { return r.place }

// First is the sequence of the first entry.
func (r *Run) First() runnel.Sequence { return r.place.First }

// Last is the sequence of the last entry.
func (r *Run) Last() runnel.Sequence { return r.place.First + runnel.Sequence(r.count) - 1 }

// Len is the number of entries.
func (r *Run) Len() int { return r.count }

// PayloadBytes is the sum of the payloads' lengths.
func (r *Run) PayloadBytes() uint64 { return uint64(len(r.payload)) }

// MemoryBytes is about what the contents of the run take in memory.
func (r *Run) MemoryBytes() int {
	return len(r.payload) + 4*len(r.ends) + len(r.pairs) + 4*len(r.starts)
}

// BytesThrough counts the payload bytes of the segment up to and including entry i of the run.
func (r *Run) BytesThrough(i int) uint64 { return r.place.BytesBefore + uint64(r.end(i)) }

// Payloads returns the payloads of all entries, one after the other. It must not be changed.
func (r *Run) Payloads() []byte { return r.payload }

// Payload returns the payload of entry i, counted from 0. It must not be changed.
func (r *Run) Payload(i int) []byte {
	start := 0
	if i > 0 {
		start = r.end(i - 1)
	}
	end := r.end(i)
	return r.payload[start:end:end]
}

func (r *Run) end(i int) int {
	if r.ends == nil {
		return (i + 1) * r.uniform
	}
	return int(r.ends[i])
}

// Entry returns entry i, counted from 0. It shares the run's bytes.
func (r *Run) Entry(i int) runnel.Entry {
	return runnel.Entry{
		Sequence:    r.place.First + runnel.Sequence(i),
		Position:    r.place.Position + runnel.Position(i),
		Transaction: r.place.Transaction,
		Time:        r.place.Time(),
		Payload:     r.Payload(i),
		Metadata:    r.metadata.at(i),
	}
}

// After returns the part of the run that follows entry seq: the run itself, a part of it, or nil.
func (r *Run) After(seq runnel.Sequence) *Run {
	switch {
	case seq < r.place.First:
		return r
	case seq >= r.Last():
		return nil
	}
	return r.slice(int(seq-r.place.First)+1, r.count)
}

// Through returns the part of the run up to and including entry seq: the run itself, a part, or nil.
func (r *Run) Through(seq runnel.Sequence) *Run {
	switch {
	case seq >= r.Last():
		return r
	case seq < r.place.First:
		return nil
	}
	return r.slice(0, int(seq-r.place.First)+1)
}

func (r *Run) slice(from, to int) *Run {
	part := *r
	part.place.First += runnel.Sequence(from)
	part.place.Position += runnel.Position(from)
	part.count = to - from
	start := 0
	if from > 0 {
		start = r.end(from - 1)
	}
	part.place.BytesBefore += uint64(start)
	part.payload = r.payload[start:r.end(to-1)]
	if r.ends != nil {
		part.ends = make([]uint32, part.count)
		for i := range part.ends {
			part.ends[i] = r.ends[from+i] - uint32(start)
		}
	}
	if r.starts != nil {
		part.starts = r.starts[from:to]
	}
	return &part
}

// AppendFragment appends to dst the header of one of count fragments of a run.
func AppendFragment(dst []byte, count int) []byte {
	return binary.AppendUvarint(append(dst, fragmentVersion), uint64(count))
}

// IsFragment tells whether a value is a fragment of a run and not a whole one.
func IsFragment(value []byte) bool { return len(value) > 0 && value[0] == fragmentVersion }

// DecodeFragment returns the number of fragments and this one's part of the run, which refers to value.
func DecodeFragment(value []byte) (count int, part []byte, err error) {
	if !IsFragment(value) {
		return 0, nil, corrupt("not a fragment")
	}
	d := decoder{rest: value[1:]}
	n := d.uvarint()
	if d.bad || n < 2 || n > 1<<16 {
		return 0, nil, corrupt("fragment has a broken header")
	}
	return int(n), d.rest, nil
}

// metadata is that of the entries of a run, zero if none of them has any.
type metadata struct {
	pairs  []byte
	starts []uint32 // where in pairs each entry's begin
}

func newMetadata(records []runnel.Record) metadata {
	m := metadata{starts: make([]uint32, len(records))}
	var keys []string
	for i := range records {
		m.starts[i] = uint32(len(m.pairs))
		keys = slices.AppendSeq(keys[:0], maps.Keys(records[i].Metadata))
		slices.Sort(keys)
		m.pairs = binary.AppendUvarint(m.pairs, uint64(len(keys)))
		for _, k := range keys {
			m.pairs = appendString(m.pairs, k)
			m.pairs = appendString(m.pairs, records[i].Metadata[k])
		}
	}
	return m
}

// readMetadata finds the metadata of each entry of a run.
func readMetadata(pairs []byte, count int) (metadata, error) {
	if count > len(pairs) {
		return metadata{}, corrupt("metadata has more entries than bytes")
	}
	m := metadata{pairs: pairs, starts: make([]uint32, count)}
	d := decoder{rest: pairs}
	for i := range m.starts {
		m.starts[i] = uint32(len(pairs) - len(d.rest))
		for n := d.uvarint(); n > 0 && !d.bad; n-- {
			d.bytes()
			d.bytes()
		}
	}
	if d.bad || len(d.rest) != 0 {
		return metadata{}, corrupt("metadata is broken")
	}
	return m, nil
}

// at returns the metadata of entry i.
func (m *metadata) at(i int) map[string]string {
	if m.starts == nil {
		return nil
	}
	d := decoder{rest: m.pairs[m.starts[i]:]}
	n := d.uvarint()
	if n == 0 {
		return nil
	}
	all := make(map[string]string, n)
	for range n {
		k := string(d.bytes())
		all[k] = string(d.bytes())
	}
	return all
}

func appendString(dst []byte, s string) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(s))), s...)
}

// decoder takes fields off the front of rest. After the first that is not there, bad is set and every
// further one is zero.
type decoder struct {
	rest []byte
	bad  bool
}

func (d *decoder) uvarint() uint64 {
	if len(d.rest) > 0 && d.rest[0] < 0x80 {
		v := uint64(d.rest[0])
		d.rest = d.rest[1:]
		return v
	}
	v, n := binary.Uvarint(d.rest)
	if n <= 0 {
		d.bad, d.rest = true, nil
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

func (d *decoder) bytes() []byte {
	n := d.uvarint()
	if n > uint64(len(d.rest)) {
		d.bad, d.rest = true, nil
		return nil
	}
	b := d.rest[:n:n]
	d.rest = d.rest[n:]
	return b
}

func corrupt(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrCorrupt, fmt.Sprintf(format, args...))
}
