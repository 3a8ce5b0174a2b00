package session

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/session/internal/pb"
)

// What the two ends say to each other, as messages and back. A message from outside may hold anything that
// its type allows; the log checks what it means.

func putTime(t time.Time) *pb.Time {
	if t.IsZero() {
		return nil
	}
	return &pb.Time{Seconds: t.Unix(), Nanos: int32(t.Nanosecond())}
}

func getTime(t *pb.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return time.Unix(t.Seconds, int64(t.Nanos)).UTC()
}

func putStore(s runnel.Store) []byte {
	if s == (runnel.Store{}) {
		return nil
	}
	return s[:]
}

func getStore(b []byte) (s runnel.Store) {
	copy(s[:], b)
	return s
}

func putSpace(s runnel.Space) *pb.Space { return &pb.Space{Store: putStore(s.Store), Name: s.Name} }

func getSpace(s *pb.Space) runnel.Space {
	return runnel.Space{Store: getStore(s.GetStore()), Name: s.GetName()}
}

func putSegment(s runnel.Segment) *pb.Segment {
	return &pb.Segment{Store: putStore(s.Store), Space: s.Space, Name: s.Name}
}

func getSegment(s *pb.Segment) runnel.Segment {
	return runnel.Segment{Store: getStore(s.GetStore()), Space: s.GetSpace(), Name: s.GetName()}
}

func putNumber[T ~uint64](n *T) *pb.Number {
	if n == nil {
		return nil
	}
	return &pb.Number{Value: uint64(*n)}
}

func getNumber[T ~uint64](n *pb.Number) *T {
	if n == nil {
		return nil
	}
	v := T(n.Value)
	return &v
}

func putRetention(r runnel.Retention) *pb.Retention {
	if r == (runnel.Retention{}) {
		return nil
	}
	return &pb.Retention{AgeNanos: int64(r.Age), Bytes: r.Bytes, Entries: r.Entries}
}

func getRetention(r *pb.Retention) runnel.Retention {
	return runnel.Retention{Age: time.Duration(r.GetAgeNanos()), Bytes: r.GetBytes(), Entries: r.GetEntries()}
}

func putRecords(records []runnel.Record) *pb.Records {
	var p packer
	for i := range records {
		p.add(len(records), records[i].Payload, records[i].Metadata)
	}
	return p.done()
}

// packer packs records.
type packer struct {
	out     pb.Records
	differs bool // the lengths
}

func (p *packer) add(of int, payload []byte, metadata map[string]string) {
	r := &p.out
	if r.Count == 0 {
		r.Uniform = uint32(len(payload))
		r.Payloads = make([]byte, 0, of*len(payload))
	}
	if !p.differs && uint32(len(payload)) != r.Uniform {
		p.differs = true
		r.Lengths = slices.Grow(r.Lengths, of)
		for range r.Count {
			r.Lengths = append(r.Lengths, r.Uniform)
		}
	}
	if p.differs {
		r.Lengths = append(r.Lengths, uint32(len(payload)))
	}
	if len(metadata) > 0 && r.Pairs == nil {
		r.Pairs = make([]uint32, r.Count, of)
	}
	if r.Pairs != nil {
		r.Pairs = append(r.Pairs, uint32(len(metadata)))
		for _, name := range slices.Sorted(maps.Keys(metadata)) {
			r.Texts = append(r.Texts, name, metadata[name])
		}
	}
	r.Payloads = append(r.Payloads, payload...)
	r.Count++
}

func (p *packer) done() *pb.Records {
	switch {
	case p.differs:
		p.out.Uniform = 0
	case p.out.Uniform == 0 && p.out.Count > maxEmpty:
		p.out.Lengths = make([]uint32, p.out.Count)
	}
	return &p.out
}

// column is packed records that have been checked.
type column struct {
	payloads []byte
	count    int
	uniform  int
	ends     []int
	metadata []map[string]string
}

// unpack checks packed records, and takes no more memory than a small multiple of theirs.
func unpack(r *pb.Records) (*column, error) {
	c := &column{payloads: r.GetPayloads(), count: int(r.GetCount()), uniform: int(r.GetUniform())}
	switch lengths := r.GetLengths(); {
	case len(lengths) > 0:
		if len(lengths) != c.count {
			return nil, malformed("%d records have %d lengths", c.count, len(lengths))
		}
		c.ends = make([]int, c.count)
		end := 0
		for i, n := range lengths {
			end += int(n)
			c.ends[i] = end
		}
		if end != len(c.payloads) {
			return nil, malformed("%d records of %d bytes come with %d", c.count, end, len(c.payloads))
		}
	case c.count*c.uniform != len(c.payloads) || c.uniform == 0 && c.count > maxEmpty:
		return nil, malformed("%d records of %d bytes each come with %d", c.count, c.uniform, len(c.payloads))
	}
	return c, c.unpackMetadata(r.GetPairs(), r.GetTexts())
}

// maxEmpty is how many records without payload a message may hold that says nothing else of each, so that
// few bytes do not become many records.
const maxEmpty = 4096

func (c *column) unpackMetadata(pairs []uint32, texts []string) error {
	if len(pairs) == 0 {
		return nil
	}
	if len(pairs) != c.count {
		return malformed("%d records have metadata of %d", c.count, len(pairs))
	}
	c.metadata = make([]map[string]string, c.count)
	for i, n := range pairs {
		if uint64(n)*2 > uint64(len(texts)) {
			return malformed("record %d lacks metadata", i)
		}
		if n == 0 {
			continue
		}
		m := make(map[string]string, n)
		for range n {
			m[texts[0]], texts = texts[1], texts[2:]
		}
		c.metadata[i] = m
	}
	if len(texts) > 0 {
		return malformed("there are %d texts too many", len(texts))
	}
	return nil
}

func (c *column) payload(i int) []byte {
	if c.ends == nil {
		return c.payloads[i*c.uniform : (i+1)*c.uniform : (i+1)*c.uniform]
	}
	start := 0
	if i > 0 {
		start = c.ends[i-1]
	}
	return c.payloads[start:c.ends[i]:c.ends[i]]
}

func (c *column) meta(i int) map[string]string {
	if c.metadata == nil {
		return nil
	}
	return c.metadata[i]
}

func getRecords(r *pb.Records) ([]runnel.Record, error) {
	c, err := unpack(r)
	if err != nil || c.count == 0 {
		return nil, err
	}
	records := make([]runnel.Record, c.count)
	for i := range records {
		records[i] = runnel.Record{Payload: c.payload(i), Metadata: c.meta(i)}
	}
	return records, nil
}

func malformed(format string, args ...any) error {
	return &runnel.InvalidError{What: "message", Rule: "is malformed: " + fmt.Sprintf(format, args...)}
}

func putCreate(o *runnel.CreateOptions) *pb.CreateOptions {
	if o == nil {
		return nil
	}
	m := &pb.CreateOptions{
		ContentType: o.ContentType, TtlNanos: int64(o.TTL), HasTtl: o.HasTTL, ExpiresAt: putTime(o.ExpiresAt),
		Retention: putRetention(o.Retention), Closed: o.Closed, Items: o.Items,
	}
	if len(o.Records) > 0 {
		m.Records = putRecords(o.Records)
	}
	if f := o.Fork; f != nil {
		m.Fork = &pb.CreateOptions_Fork{Source: putSegment(f.Source), At: uint64(f.At), Latest: f.Latest, Sub: f.Sub}
	}
	return m
}

func getCreate(m *pb.CreateOptions) (*runnel.CreateOptions, error) {
	if m == nil {
		return nil, nil //nolint:nilnil // no options are none
	}
	records, err := getRecords(m.Records)
	o := &runnel.CreateOptions{
		ContentType: m.ContentType, TTL: time.Duration(m.TtlNanos), HasTTL: m.HasTtl, ExpiresAt: getTime(m.ExpiresAt),
		Retention: getRetention(m.Retention), Closed: m.Closed, Records: records, Items: m.Items,
	}
	if f := m.Fork; f != nil {
		o.Fork = &runnel.ForkFrom{Source: getSegment(f.Source), At: runnel.Sequence(f.At), Latest: f.Latest, Sub: f.Sub}
	}
	return o, err
}

func putAppend(segment runnel.Segment, o *runnel.AppendOptions, records []runnel.Record) *pb.Request_Append {
	m := &pb.AppendOptions{
		ContentType: o.ContentType, StreamSeq: o.StreamSeq, HasStreamSeq: o.HasStreamSeq, Expect: putNumber(o.Expect),
		Create: putCreate(o.Create), Absent: o.Absent, Key: o.Key, Close: o.Close,
	}
	if p := o.Producer; p != nil {
		m.Producer = &pb.AppendOptions_Producer{Id: p.ID, Epoch: p.Epoch, Seq: p.Seq}
	}
	return &pb.Request_Append{Segment: putSegment(segment), Options: m, Records: putRecords(records)}
}

func getAppend(m *pb.Request_Append) (segment runnel.Segment, o runnel.AppendOptions, records []runnel.Record, err error) {
	if records, err = getRecords(m.GetRecords()); err != nil {
		return segment, o, nil, err
	}
	from := m.GetOptions()
	o = runnel.AppendOptions{
		ContentType: from.GetContentType(), StreamSeq: from.GetStreamSeq(), HasStreamSeq: from.GetHasStreamSeq(),
		Expect: getNumber[runnel.Sequence](from.GetExpect()), Absent: from.GetAbsent(), Key: from.GetKey(), Close: from.GetClose(),
	}
	if p := from.GetProducer(); p != nil {
		o.Producer = &runnel.Producer{ID: p.Id, Epoch: p.Epoch, Seq: p.Seq}
	}
	o.Create, err = getCreate(from.GetCreate())
	return getSegment(m.GetSegment()), o, records, err
}

func putTransaction(space runnel.Space, t *runnel.Transaction) *pb.Request_Transact {
	m := &pb.Request_Transact{Space: putSpace(space)}
	for i := range t.Writes {
		w := &t.Writes[i]
		m.Writes = append(m.Writes, putAppend(runnel.Segment{Name: w.Segment}, &w.Options, w.Records))
	}
	for i := range t.Cursors {
		c := &t.Cursors[i]
		m.Cursors = append(m.Cursors, &pb.Request_CursorMove{Segment: c.Segment, Name: c.Name, Place: c.Place, Expect: putNumber(c.Expect), Rewind: c.Rewind})
	}
	for _, f := range t.Fences {
		m.Fences = append(m.Fences, putFence(f))
	}
	for i := range t.Items {
		m.Items = append(m.Items, putItemWrites(&t.Items[i]))
	}
	return m
}

func getTransaction(m *pb.Request_Transact) (space runnel.Space, t runnel.Transaction, err error) {
	for _, w := range m.Writes {
		segment, o, records, err := getAppend(w)
		if err != nil {
			return space, t, err
		}
		t.Writes = append(t.Writes, runnel.Write{Segment: segment.Name, Options: o, Records: records})
	}
	for _, c := range m.Cursors {
		t.Cursors = append(t.Cursors, runnel.CursorMove{Segment: c.Segment, Name: c.Name, Place: c.Place, Expect: getNumber[uint64](c.Expect), Rewind: c.Rewind})
	}
	for _, f := range m.Fences {
		t.Fences = append(t.Fences, getFence(f))
	}
	for _, w := range m.Items {
		writes, err := getItemWrites(w)
		if err != nil {
			return space, t, err
		}
		t.Items = append(t.Items, writes)
	}
	return getSpace(m.Space), t, nil
}

func putFence(f runnel.Fence) *pb.Fence { return &pb.Fence{Key: f.Key, Number: f.Number} }

func getFence(f *pb.Fence) runnel.Fence {
	return runnel.Fence{Key: f.GetKey(), Number: f.GetNumber()}
}

func putAppended(a *runnel.Appended) *pb.Appended {
	return &pb.Appended{
		First: uint64(a.First), Tail: uint64(a.Tail), Position: uint64(a.Position), Time: putTime(a.Time),
		Duplicate: a.Duplicate, Created: a.Created, ProducerSeq: a.ProducerSeq, Closed: a.Closed,
	}
}

func getAppended(m *pb.Appended) runnel.Appended {
	return runnel.Appended{
		First: runnel.Sequence(m.GetFirst()), Tail: runnel.Sequence(m.GetTail()), Position: runnel.Position(m.GetPosition()),
		Time: getTime(m.GetTime()), Duplicate: m.GetDuplicate(), Created: m.GetCreated(), ProducerSeq: m.GetProducerSeq(), Closed: m.GetClosed(),
	}
}

func putInfo(i *runnel.Info) *pb.Info {
	return &pb.Info{
		Segment: putSegment(i.Segment), Id: i.ID, ContentType: i.ContentType, Created: putTime(i.Created), Tail: uint64(i.Tail),
		Earliest: uint64(i.Earliest), Bytes: i.Bytes, Closed: i.Closed, TtlNanos: int64(i.TTL), ExpiresAt: putTime(i.ExpiresAt),
		Retention: putRetention(i.Retention), Items: i.Items,
	}
}

func getInfo(m *pb.Info) runnel.Info {
	return runnel.Info{
		Segment: getSegment(m.GetSegment()), ID: m.GetId(), ContentType: m.GetContentType(), Created: getTime(m.GetCreated()),
		Tail: runnel.Sequence(m.GetTail()), Earliest: runnel.Sequence(m.GetEarliest()), Bytes: m.GetBytes(), Closed: m.GetClosed(),
		TTL: time.Duration(m.GetTtlNanos()), ExpiresAt: getTime(m.GetExpiresAt()), Retention: getRetention(m.GetRetention()),
		Items: m.GetItems(),
	}
}

func putQuery(q *runnel.Query) *pb.Request_Query {
	m := &pb.Request_Query{
		Through: q.Through, Since: putTime(q.Since), Until: putTime(q.Until), Last: q.Last, Limit: q.Limit, Backwards: q.Backwards,
		Follow: q.Follow, SegmentPrefix: q.Filter.SegmentPrefix, Metadata: q.Filter.Metadata, MetadataPrefix: q.Filter.MetadataPrefix,
	}
	m.Sources = putSources(q.Sources)
	return m
}

func getQuery(m *pb.Request_Query) runnel.Query {
	return runnel.Query{
		Sources: getSources(m.Sources), Through: m.Through, Since: getTime(m.Since), Until: getTime(m.Until), Last: m.Last, Limit: m.Limit,
		Backwards: m.Backwards, Follow: m.Follow,
		Filter: runnel.Filter{SegmentPrefix: m.SegmentPrefix, Metadata: m.Metadata, MetadataPrefix: m.MetadataPrefix},
	}
}

func putSources(sources []runnel.Source) []*pb.Source {
	m := make([]*pb.Source, len(sources))
	for i, s := range sources {
		m[i] = &pb.Source{Space: putSpace(s.Space), Segment: s.Segment, Id: s.ID, After: s.After}
	}
	return m
}

func getSources(m []*pb.Source) []runnel.Source {
	sources := make([]runnel.Source, len(m))
	for i, s := range m {
		sources[i] = runnel.Source{Space: getSpace(s.Space), Segment: s.Segment, ID: s.Id, After: s.After}
	}
	return sources
}

func putCursorName(n runnel.CursorName) *pb.CursorName {
	return &pb.CursorName{Space: putSpace(n.Space), Segment: n.Segment, Name: n.Name}
}

func getCursorName(m *pb.CursorName) runnel.CursorName {
	return runnel.CursorName{Space: getSpace(m.GetSpace()), Segment: m.GetSegment(), Name: m.GetName()}
}

func putCursor(c *runnel.Cursor) *pb.Cursor {
	return &pb.Cursor{Name: putCursorName(c.CursorName), Place: c.Place, Updated: putTime(c.Updated), End: c.End, LagBytes: c.LagBytes}
}

func getCursor(m *pb.Cursor) runnel.Cursor {
	return runnel.Cursor{CursorName: getCursorName(m.GetName()), Place: m.GetPlace(), Updated: getTime(m.GetUpdated()), End: m.GetEnd(), LagBytes: m.GetLagBytes()}
}

func putLease(l *runnel.Lease) *pb.Lease {
	return &pb.Lease{
		Space: putSpace(l.Space), Key: l.Key, Holder: l.Holder, Number: l.Number, Granted: putTime(l.Granted),
		Deadline: putTime(l.Deadline), TtlNanos: int64(l.TTL), Metadata: l.Metadata,
	}
}

func getLease(m *pb.Lease) runnel.Lease {
	return runnel.Lease{
		Space: getSpace(m.GetSpace()), Key: m.GetKey(), Holder: m.GetHolder(), Number: m.GetNumber(), Granted: getTime(m.GetGranted()),
		Deadline: getTime(m.GetDeadline()), TTL: time.Duration(m.GetTtlNanos()), Metadata: m.GetMetadata(),
	}
}
