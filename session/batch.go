package session

import (
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/session/internal/pb"
)

// putBatch packs a batch of a query.
func putBatch(b *runnel.SpaceBatch) *pb.Batch {
	n := b.Len()
	var p packer
	var m *pb.Batch
	var sequence, position steps
	for i := range n {
		e := b.Entry(i)
		if i == 0 {
			m = putPlace(&e)
			m.Segment, m.Id = putSegment(b.Segment), b.ID
		}
		p.add(n, e.Payload, e.Metadata)
		sequence.add(uint64(e.Sequence))
		position.add(uint64(e.Position))
	}
	m.Records, m.Sequences, m.Positions = p.done(), sequence.done(), position.done()
	return m
}

// putPlace makes a batch at the place of its first entry.
func putPlace(e *runnel.Entry) *pb.Batch {
	m := &pb.Batch{Sequence: uint64(e.Sequence), Position: uint64(e.Position), Transaction: uint64(e.Transaction)}
	if !e.Time.IsZero() {
		m.Micros = e.Time.UnixMicro()
	}
	return m
}

// steps packs numbers of which each is usually as much above the one before it as that above its own.
type steps struct {
	count int
	last  uint64
	step  int64
	all   []int64 // nil while they are the same
}

func (s *steps) add(n uint64) {
	step := int64(n - s.last)
	switch {
	case s.count == 0:
	case s.count == 1:
		s.step = step
	case s.all == nil && step != s.step:
		for range s.count - 1 {
			s.all = append(s.all, s.step)
		}
		s.all = append(s.all, step)
	case s.all != nil:
		s.all = append(s.all, step)
	}
	s.last = n
	s.count++
}

func (s *steps) done() []int64 {
	if s.all == nil && s.count > 1 && s.step != 1 {
		return []int64{s.step}
	}
	return s.all
}

// places is packed numbers that have been checked.
type places struct {
	first uint64
	step  uint64
	all   []uint64
}

func unpackPlaces(first uint64, steps []int64, count int) (places, error) {
	p := places{first: first, step: 1}
	switch {
	case len(steps) == 1:
		p.step = uint64(steps[0])
	case len(steps) > 1:
		if len(steps) != count-1 {
			return p, malformed("%d entries have %d places", count, len(steps)+1)
		}
		p.all = make([]uint64, 1, count)
		p.all[0] = first
		for _, step := range steps {
			first += uint64(step)
			p.all = append(p.all, first)
		}
	}
	return p, nil
}

func (p *places) at(i int) uint64 {
	if p.all != nil {
		return p.all[i]
	}
	return p.first + uint64(i)*p.step
}

// batch is a runnel.Batch that came in a message.
type batch struct {
	*column
	sequences, positions places
	transaction          runnel.Position
	time                 time.Time
}

func getBatch(m *pb.Batch) (runnel.SpaceBatch, error) {
	c, err := unpack(m.GetRecords())
	if err != nil {
		return runnel.SpaceBatch{}, err
	}
	if c.count == 0 {
		return runnel.SpaceBatch{}, malformed("a batch is empty")
	}
	b := &batch{column: c, transaction: runnel.Position(m.Transaction), time: time.UnixMicro(m.Micros).UTC()}
	if b.sequences, err = unpackPlaces(m.Sequence, m.Sequences, c.count); err != nil {
		return runnel.SpaceBatch{}, err
	}
	if b.positions, err = unpackPlaces(m.Position, m.Positions, c.count); err != nil {
		return runnel.SpaceBatch{}, err
	}
	return runnel.SpaceBatch{Segment: getSegment(m.Segment), ID: m.Id, Batch: b}, nil
}

func (b *batch) First() runnel.Sequence { return runnel.Sequence(b.sequences.at(0)) }
func (b *batch) Last() runnel.Sequence  { return runnel.Sequence(b.sequences.at(b.count - 1)) }
func (b *batch) Len() int               { return b.count }
func (b *batch) Payload(i int) []byte   { return b.payload(i) }
func (b *batch) Payloads() []byte       { return b.payloads }

func (b *batch) Entry(i int) runnel.Entry {
	return runnel.Entry{
		Sequence: runnel.Sequence(b.sequences.at(i)), Position: runnel.Position(b.positions.at(i)),
		Transaction: b.transaction, Time: b.time, Payload: b.payload(i), Metadata: b.meta(i),
	}
}

// putEntry packs the entry of a peek; there may be none.
func putEntry(e *runnel.Entry) *pb.Batch {
	if e.Sequence == 0 {
		return &pb.Batch{}
	}
	m := putPlace(e)
	m.Records = putRecords([]runnel.Record{{Payload: e.Payload, Metadata: e.Metadata}})
	return m
}

func getEntry(m *pb.Batch) (runnel.Entry, error) {
	if m.GetRecords().GetCount() == 0 {
		return runnel.Entry{}, nil
	}
	b, err := getBatch(m)
	if err != nil {
		return runnel.Entry{}, err
	}
	return b.Entry(0), nil
}
