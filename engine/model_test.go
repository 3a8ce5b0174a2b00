package engine_test

import (
	"cmp"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/runnelhq/runnel"
)

// The model holds the rules of the log in the plainest form: a map of names, and a slice of entries for
// each segment. What every engine answers is compared with it after every step; see machine.
type model struct {
	now      time.Time
	segments map[runnel.Segment]*modelSegment
	events   map[string]int // what has come and gone, and how often
}

type modelSegment struct {
	addr        runnel.Segment
	contentType string
	created     time.Time
	entries     []modelEntry // all of them, what retention has cut included
	earliest    int
	closed      bool
	closedBy    *runnel.Producer
	ttl         time.Duration
	expiresAt   time.Time
	accessed    time.Time
	readers     int // those who wait for entries; while there are any, the TTL does not run out
	retention   runnel.Retention
	producers   map[string]runnel.Producer
	streamSeq   *string
	fork        *runnel.ForkFrom
	ownExpiry   bool
	ownKeeping  bool
	source      *modelSegment
	references  int
	softDeleted bool
	ended       bool
}

// modelEntry is an entry. Positions are the engines' own, and are learnt from the first answer of each
// player that tells them; forks have those of their sources.
type modelEntry struct {
	payload   string
	metadata  map[string]string
	time      time.Time
	positions []runnel.Position
}

func (s *modelSegment) bytes() (n int) {
	for i := range s.entries {
		n += len(s.entries[i].payload)
	}
	return n
}

func (s *modelSegment) tail() runnel.Sequence { return runnel.Sequence(len(s.entries)) }

// retain moves the earliest entry as the bounds say.
func (s *modelSegment) retain(now time.Time) {
	r := s.retention
	for s.earliest < len(s.entries) {
		kept, size := s.entries[s.earliest:], 0
		for i := range kept {
			size += len(kept[i].payload)
		}
		over := r.Entries > 0 && uint64(len(kept)) > r.Entries ||
			r.Bytes > 0 && uint64(size) > r.Bytes ||
			r.Age > 0 && now.Sub(kept[0].time) > r.Age
		if !over {
			return
		}
		s.earliest++
	}
}

func (s *modelSegment) expired(now time.Time) bool {
	return !s.expiresAt.IsZero() && !now.Before(s.expiresAt) ||
		s.ttl > 0 && s.readers == 0 && now.Sub(s.accessed) >= s.ttl.Truncate(time.Microsecond)
}

// slack is how much longer than its window a segment may live where a crash has lost its last access, or
// where that is known to another engine only.
func (s *modelSegment) slack() time.Duration { return min(s.ttl/8, time.Minute) }

func (s *modelSegment) info() runnel.Info {
	return runnel.Info{
		Segment: s.addr, ContentType: s.contentType, Created: s.created,
		Tail: s.tail(), Earliest: runnel.Sequence(s.earliest), Bytes: uint64(s.bytes()), Closed: s.closed,
		TTL: s.ttl, ExpiresAt: s.expiresAt, Retention: s.retention,
	}
}

// told notes that whoever watches hears of a segment.
func (m *model) told(verb string, s *modelSegment) { m.events[verb+" "+s.addr.String()]++ }

// end takes a segment away, or keeps it for its forks.
func (m *model) end(s *modelSegment) {
	if !s.softDeleted {
		m.told("deleted", s)
	}
	if s.references > 0 {
		s.softDeleted = true
		return
	}
	s.ended = true
	delete(m.segments, s.addr)
	if src := s.source; src != nil {
		if src.references--; src.references == 0 && (src.softDeleted || src.expired(m.now)) {
			m.end(src)
		}
	}
}

// look finds a segment for an operation, and is what ends it when its time is over.
func (m *model) look(addr runnel.Segment) (*modelSegment, error) {
	s := m.segments[addr]
	if s != nil && !s.softDeleted && s.expired(m.now) {
		m.end(s)
		s = m.segments[addr]
	}
	switch {
	case s == nil:
		return nil, runnel.ErrNotFound
	case s.softDeleted:
		return nil, runnel.ErrSoftDeleted
	}
	s.retain(m.now)
	return s, nil
}

func tooLarge(records []runnel.Record, bounds runnel.Retention) bool {
	return bounds.Bytes > 0 && slices.ContainsFunc(records, func(r runnel.Record) bool {
		return uint64(len(r.Payload)) > bounds.Bytes
	})
}

// valid answers an append as far as no segment is looked at.
func valid(o *runnel.AppendOptions, records []runnel.Record) error {
	p := o.Producer
	switch {
	case len(records) == 0 && !o.Close, p != nil && p.ID == "":
		return runnel.ErrInvalid
	case p != nil && len(p.ID) > runnel.MaxProducerBytes:
		return runnel.ErrTooLarge
	case p != nil && (p.Epoch > runnel.MaxProducerNumber || p.Seq > runnel.MaxProducerNumber):
		return runnel.ErrInvalid
	}
	return nil
}

// check answers an append as far as nothing is written.
func (m *model) check(addr runnel.Segment, o *runnel.AppendOptions, records []runnel.Record) (*modelSegment, runnel.Appended, error) {
	var a runnel.Appended
	p := o.Producer
	s, err := m.look(addr)
	if err != nil {
		return nil, a, err
	}
	var known runnel.Producer
	exists := false
	if p != nil {
		known, exists = s.producers[p.ID]
	}
	duplicate := runnel.Appended{Tail: s.tail(), Duplicate: true, Closed: s.closed}
	if s.closed {
		switch {
		case exists && p.Epoch < known.Epoch:
			return s, a, runnel.ErrProducerFenced
		case p != nil && s.closedBy != nil && *s.closedBy == *p:
			duplicate.ProducerSeq = p.Seq
			return s, duplicate, nil
		case o.Close && len(records) == 0 && p == nil:
			return s, duplicate, nil
		}
		return s, a, runnel.ErrClosed
	}
	if p != nil {
		switch {
		case !exists && p.Seq > 0:
			return s, a, runnel.ErrProducerGap
		case exists && p.Epoch < known.Epoch:
			return s, a, runnel.ErrProducerFenced
		case exists && p.Epoch > known.Epoch && p.Seq > 0:
			return s, a, runnel.ErrInvalid
		case exists && p.Epoch == known.Epoch && p.Seq <= known.Seq:
			duplicate.ProducerSeq = known.Seq
			return s, duplicate, nil
		case exists && p.Epoch == known.Epoch && p.Seq > known.Seq+1:
			return s, a, runnel.ErrProducerGap
		}
	}
	switch {
	case len(records) > 0 && o.ContentType != "" && runnel.MediaType(o.ContentType) != runnel.MediaType(s.contentType):
		return s, a, runnel.ErrContentType
	case o.Expect != nil && *o.Expect != s.tail():
		return s, a, runnel.ErrTailMoved
	case o.HasStreamSeq && s.streamSeq != nil && o.StreamSeq <= *s.streamSeq:
		return s, a, runnel.ErrStreamSeq
	case tooLarge(records, s.retention):
		return s, a, runnel.ErrTooLarge
	}
	return s, a, nil
}

// apply is what an append that nothing stands against does.
func (m *model) apply(s *modelSegment, o *runnel.AppendOptions, records []runnel.Record) runnel.Appended {
	var a runnel.Appended
	if len(records) > 0 {
		a.First, a.Time = s.tail()+1, m.now
		m.write(s, records)
	}
	if p := o.Producer; p != nil {
		s.producers[p.ID] = *p
		a.ProducerSeq = p.Seq
	}
	if o.HasStreamSeq {
		s.streamSeq = &o.StreamSeq
	}
	if o.Close {
		s.closed, s.closedBy = true, o.Producer
	}
	s.accessed = m.now
	a.Tail, a.Closed = s.tail(), o.Close
	return a
}

func (m *model) write(s *modelSegment, records []runnel.Record) {
	for i := range records {
		s.entries = append(s.entries, modelEntry{
			payload: string(records[i].Payload), metadata: records[i].Metadata, time: m.now,
			positions: make([]runnel.Position, players),
		})
	}
}

// append answers an append to one segment.
func (m *model) append(addr runnel.Segment, o *runnel.AppendOptions, records []runnel.Record) (runnel.Appended, error) {
	if err := valid(o, records); err != nil {
		return runnel.Appended{}, err
	}
	s, a, err := m.check(addr, o, records)
	if err != nil || a.Duplicate {
		return a, err
	}
	return m.apply(s, o, records), nil
}

// commit answers appends to several segments, all of them or none.
func (m *model) commit(writes []runnel.Write) ([]runnel.Appended, error) {
	all := make([]runnel.Appended, len(writes))
	segments := make([]*modelSegment, len(writes))
	for i := range writes {
		if err := valid(&writes[i].Options, writes[i].Records); err != nil {
			return nil, err
		}
	}
	duplicates := 0
	for i := range writes {
		var err error
		segments[i], all[i], err = m.check(theSpace.Segment(writes[i].Segment), &writes[i].Options, writes[i].Records)
		if err != nil {
			return nil, err
		}
		if all[i].Duplicate {
			duplicates++
		}
	}
	switch duplicates {
	case len(writes):
		return all, nil
	case 0:
	default:
		return nil, runnel.ErrInvalid
	}
	for i := range writes {
		all[i] = m.apply(segments[i], &writes[i].Options, writes[i].Records)
	}
	return all, nil
}

// create answers a creation.
func (m *model) create(addr runnel.Segment, o *runnel.CreateOptions) (runnel.Created, error) {
	var from branched
	switch {
	case (o.TTL > 0 || o.HasTTL) && !o.ExpiresAt.IsZero():
		return runnel.Created{}, runnel.ErrInvalid
	case tooLarge(o.Records, o.Retention):
		return runnel.Created{}, runnel.ErrTooLarge
	case o.Fork != nil && (o.Fork.Source.Store != addr.Store || o.Fork.Latest && o.Fork.Sub > 0):
		return runnel.Created{}, runnel.ErrInvalid
	}
	s, err := m.look(addr)
	switch {
	case err == nil:
		return m.find(s, o)
	case !errors.Is(err, runnel.ErrNotFound):
		return runnel.Created{}, err
	}
	if o.Fork != nil {
		if from, err = m.branch(o); err != nil {
			return runnel.Created{}, err
		}
	}
	s = m.add(addr, o, from)
	s.retain(m.now)
	return runnel.Created{Info: s.info()}, nil
}

// find answers a creation where there is a segment already.
func (m *model) find(s *modelSegment, o *runnel.CreateOptions) (runnel.Created, error) {
	ownExpiry := o.TTL > 0 || o.HasTTL || !o.ExpiresAt.IsZero()
	ownKeeping := o.Retention != runnel.Retention{}
	fork := func(f *runnel.ForkFrom) runnel.ForkFrom {
		if f == nil {
			return runnel.ForkFrom{}
		}
		c := *f
		if c.Latest {
			c.At = 0
		}
		return c
	}
	contentType := cmp.Or(o.ContentType, "application/octet-stream")
	same := fork(o.Fork) == fork(s.fork) && (o.Fork == nil) == (s.fork == nil) && o.Closed == s.closed &&
		(o.Fork != nil && o.ContentType == "" || runnel.MediaType(contentType) == runnel.MediaType(s.contentType)) &&
		(o.Fork != nil && !ownExpiry && !s.ownExpiry || window(o) == s.ttl && o.ExpiresAt.Equal(s.expiresAt)) &&
		(o.Fork != nil && !ownKeeping && !s.ownKeeping || o.Retention == s.retention)
	if !same {
		return runnel.Created{}, runnel.ErrExists
	}
	return runnel.Created{Info: s.info(), Existed: true}, nil
}

// window is the TTL that a creation asks for. One of zero is over at once.
func window(o *runnel.CreateOptions) time.Duration {
	if o.HasTTL {
		return max(o.TTL, 1)
	}
	return o.TTL
}

// branched is what a fork begins with.
type branched struct {
	source  *modelSegment
	base    int
	partial *modelEntry
}

// branch finds what a fork begins with.
func (m *model) branch(o *runnel.CreateOptions) (branched, error) {
	src, err := m.look(o.Fork.Source)
	switch {
	case err != nil:
		return branched{}, err
	case o.ContentType != "" && runnel.MediaType(o.ContentType) != runnel.MediaType(src.contentType):
		return branched{}, runnel.ErrContentType
	case o.Retention == (runnel.Retention{}) && tooLarge(o.Records, src.retention):
		return branched{}, runnel.ErrTooLarge
	}
	tail, at, sub := len(src.entries), int(o.Fork.At), int(o.Fork.Sub)
	switch {
	case o.Fork.Latest:
		return branched{source: src, base: tail}, nil
	case at > tail:
		return branched{}, runnel.ErrBeyondTail
	case at < src.earliest:
		return branched{}, runnel.ErrTrimmed
	case runnel.IsJSON(src.contentType) && at+sub > tail:
		return branched{}, runnel.ErrInvalid
	case runnel.IsJSON(src.contentType):
		return branched{source: src, base: at + sub}, nil
	}
	base := at
	for ; sub > 0; base++ {
		if base == tail {
			return branched{}, runnel.ErrInvalid
		}
		e := src.entries[base]
		if sub < len(e.payload) {
			e.payload, e.positions = e.payload[:sub], nil
			return branched{source: src, base: base, partial: &e}, nil
		}
		sub -= len(e.payload)
	}
	return branched{source: src, base: base}, nil
}

// add is what a creation that nothing stands against does.
func (m *model) add(addr runnel.Segment, o *runnel.CreateOptions, from branched) *modelSegment {
	s := &modelSegment{
		addr: addr, contentType: o.ContentType, created: m.now, closed: o.Closed,
		ttl: window(o), expiresAt: o.ExpiresAt, retention: o.Retention,
		producers: make(map[string]runnel.Producer), fork: o.Fork, source: from.source, accessed: m.now,
		ownExpiry: o.TTL > 0 || o.HasTTL || !o.ExpiresAt.IsZero(), ownKeeping: o.Retention != runnel.Retention{},
	}
	if src := from.source; src != nil {
		src.references++
		s.contentType = cmp.Or(s.contentType, src.contentType)
		if !s.ownExpiry {
			s.ttl, s.expiresAt = src.ttl, src.expiresAt
		}
		if !s.ownKeeping {
			s.retention = src.retention
		}
		s.entries = slices.Clone(src.entries[:from.base])
		s.earliest = min(src.earliest, from.base)
		if e := from.partial; e != nil {
			m.write(s, []runnel.Record{{Payload: []byte(e.payload), Metadata: e.metadata}})
		}
	}
	s.contentType = cmp.Or(s.contentType, "application/octet-stream")
	m.write(s, o.Records)
	m.segments[addr] = s
	m.told("created", s)
	return s
}

func (m *model) delete(addr runnel.Segment) error {
	s, err := m.look(addr)
	if err == nil {
		m.end(s)
	}
	return err
}

// open answers a reader that comes with a place, which it fixes.
func (m *model) open(addr runnel.Segment, from *runnel.Sequence) (*modelSegment, error) {
	s, err := m.look(addr)
	if err != nil {
		return nil, err
	}
	s.accessed = m.now
	if *from == runnel.Latest {
		*from = s.tail()
	}
	switch {
	case *from > s.tail():
		return nil, runnel.ErrBeyondTail
	case int(*from) < s.earliest:
		return nil, runnel.ErrTrimmed
	}
	return s, nil
}

// list answers a listing, by space and then by name.
func (m *model) list(store runnel.Store, o runnel.ListOptions) []runnel.Info {
	byPlace := func(a, b runnel.Segment) int {
		return cmp.Or(strings.Compare(a.Space, b.Space), strings.Compare(a.Name, b.Name))
	}
	after := runnel.Segment{Name: o.After}
	if i := strings.LastIndexByte(o.After, '/'); i >= 0 {
		after = runnel.Segment{Space: o.After[:i], Name: o.After[i+1:]}
	}
	var all []runnel.Info
	for _, addr := range slices.SortedFunc(maps.Keys(m.segments), byPlace) {
		if addr.Store != store || !strings.HasPrefix(addr.Path(), o.Prefix) || o.After != "" && byPlace(addr, after) <= 0 {
			continue
		}
		if s, err := m.look(addr); err == nil && (o.Limit == 0 || len(all) < o.Limit) {
			all = append(all, s.info())
		}
	}
	return all
}
