package engine_test

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"pgregory.net/rapid"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/engine"
	"github.com/runnelhq/runnel/storage"
	"github.com/runnelhq/runnel/storage/faulty"
	"github.com/runnelhq/runnel/storage/memory"
	"github.com/runnelhq/runnel/storage/pebblestore"
)

// The model holds the rules of the log in the plainest form: a map of names, and a slice of entries for
// each segment. What an engine answers is compared with it after every step.
type model struct {
	now      time.Time
	segments map[string]*modelSegment
}

type modelSegment struct {
	path        string
	contentType string
	entries     []modelEntry // all of them, what retention has cut included
	earliest    int
	closed      bool
	closedBy    *runnel.Producer
	ttl         time.Duration
	expiresAt   time.Time
	accessed    time.Time
	// hazy says that a crash may have added something to the window, and grace how much it has at least.
	hazy        bool
	grace       time.Duration
	retention   runnel.Retention
	producers   map[string]runnel.Producer
	streamSeq   *string
	fork        *runnel.ForkFrom
	ownExpiry   bool
	ownKeeping  bool
	source      *modelSegment
	references  int
	softDeleted bool
}

type modelEntry struct {
	payload string
	time    time.Time
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
	return !s.expiresAt.IsZero() && !now.Before(s.expiresAt) || s.ttl > 0 && now.Sub(s.accessed) >= s.ttl+s.grace
}

func (s *modelSegment) use(now time.Time) { s.accessed, s.hazy, s.grace = now, false, 0 }

// end takes a segment away, or keeps it for its forks.
func (m *model) end(s *modelSegment) {
	if s.references > 0 {
		s.softDeleted = true
		return
	}
	delete(m.segments, s.path)
	if src := s.source; src != nil {
		if src.references--; src.references == 0 && (src.softDeleted || src.expired(m.now)) {
			m.end(src)
		}
	}
}

// look finds a segment for an operation, and is what ends it when its time is over.
func (m *model) look(path string) (*modelSegment, error) {
	s := m.segments[path]
	if s != nil && !s.softDeleted && s.expired(m.now) {
		m.end(s)
		s = m.segments[path]
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

func (m *model) append(path string, o runnel.AppendOptions, payloads []string) (*modelSegment, runnel.Appended, error) {
	var a runnel.Appended
	s, err := m.look(path)
	if err != nil {
		return nil, a, err
	}
	p := o.Producer
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
		case o.Close && len(payloads) == 0 && p == nil:
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
	case len(payloads) > 0 && o.ContentType != "" && runnel.MediaType(o.ContentType) != runnel.MediaType(s.contentType):
		return s, a, runnel.ErrContentType
	case o.Expect != nil && *o.Expect != s.tail():
		return s, a, runnel.ErrTailMoved
	case o.HasStreamSeq && s.streamSeq != nil && o.StreamSeq <= *s.streamSeq:
		return s, a, runnel.ErrStreamSeq
	}
	for _, payload := range payloads {
		if s.retention.Bytes > 0 && uint64(len(payload)) > s.retention.Bytes {
			return s, a, runnel.ErrTooLarge
		}
	}
	return s, a, nil
}

// apply is what an append that nothing stands against does.
func (m *model) apply(s *modelSegment, o runnel.AppendOptions, payloads []string) runnel.Appended {
	var a runnel.Appended
	if len(payloads) > 0 {
		a.First = s.tail() + 1
		for _, payload := range payloads {
			s.entries = append(s.entries, modelEntry{payload, m.now})
		}
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
	s.use(m.now)
	a.Tail, a.Closed = s.tail(), o.Close
	return a
}

// create answers a creation that names no fork, or the part of one that is about the name.
func (m *model) create(path string, o runnel.CreateOptions) (existed bool, err error) {
	s, err := m.look(path)
	switch {
	case errors.Is(err, runnel.ErrNotFound):
		return false, nil
	case err != nil:
		return true, err
	}
	ownExpiry := o.TTL > 0 || !o.ExpiresAt.IsZero()
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
		(o.Fork != nil && !ownExpiry && !s.ownExpiry || o.TTL == s.ttl && o.ExpiresAt.Equal(s.expiresAt)) &&
		(o.Fork != nil && !ownKeeping && !s.ownKeeping || o.Retention == s.retention)
	if !same {
		return true, runnel.ErrExists
	}
	return true, nil
}

// inherit finds what a fork begins with.
func (m *model) inherit(o *runnel.CreateOptions, payloads []string) (src *modelSegment, base int, partial string, err error) {
	src, err = m.look(o.Fork.Source.Path())
	if err != nil {
		return nil, 0, "", err
	}
	if o.ContentType != "" && runnel.MediaType(o.ContentType) != runnel.MediaType(src.contentType) {
		return nil, 0, "", runnel.ErrContentType
	}
	if o.Retention == (runnel.Retention{}) && src.retention.Bytes > 0 {
		for _, payload := range payloads {
			if uint64(len(payload)) > src.retention.Bytes {
				return nil, 0, "", runnel.ErrTooLarge
			}
		}
	}
	base = len(src.entries)
	if o.Fork.Latest {
		return src, base, "", nil
	}
	at, sub := int(o.Fork.At), int(o.Fork.Sub)
	switch {
	case at > base:
		return nil, 0, "", runnel.ErrBeyondTail
	case at < src.earliest:
		return nil, 0, "", runnel.ErrTrimmed
	}
	if runnel.IsJSON(src.contentType) {
		if at+sub > base {
			return nil, 0, "", runnel.ErrInvalid
		}
		return src, at + sub, "", nil
	}
	for base = at; sub > 0; base++ {
		if base == len(src.entries) {
			return nil, 0, "", runnel.ErrInvalid
		}
		payload := src.entries[base].payload
		if sub < len(payload) {
			return src, base, payload[:sub], nil
		}
		sub -= len(payload)
	}
	return src, base, "", nil
}

func (m *model) add(path string, o *runnel.CreateOptions, payloads []string, src *modelSegment, base int, partial string) {
	s := &modelSegment{
		path: path, contentType: o.ContentType, closed: o.Closed, ttl: o.TTL, expiresAt: o.ExpiresAt, retention: o.Retention,
		producers: make(map[string]runnel.Producer), fork: o.Fork, source: src, accessed: m.now,
		ownExpiry: o.TTL > 0 || !o.ExpiresAt.IsZero(), ownKeeping: o.Retention != runnel.Retention{},
	}
	if src != nil {
		src.references++
		s.contentType = cmp.Or(s.contentType, src.contentType)
		if !s.ownExpiry {
			s.ttl, s.expiresAt = src.ttl, src.expiresAt
		}
		if !s.ownKeeping {
			s.retention = src.retention
		}
		s.entries = slices.Clone(src.entries[:base])
		s.earliest = min(src.earliest, base)
		if partial != "" {
			s.entries = append(s.entries, modelEntry{partial, m.now})
		}
	}
	s.contentType = cmp.Or(s.contentType, "application/octet-stream")
	for _, payload := range payloads {
		s.entries = append(s.entries, modelEntry{payload, m.now})
	}
	m.segments[path] = s
}

// machine runs the same steps on engines and on the model.
type machine struct {
	model
	mu      sync.Mutex
	kept    storage.Driver
	engines []*engine.Engine
	drivers []*faulty.Driver
	names   []string
}

func (m *machine) clock() time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.now
}

func (m *machine) open(t *rapid.T) {
	for i := range m.engines {
		m.drivers[i] = faulty.New(m.kept)
		e, err := engine.Open(m.drivers[i], engine.Config{
			Now: m.clock, SweepInterval: -1, MaxSegments: 3, TailCacheBytes: 2000, Logger: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		m.engines[i] = e
	}
}

func (m *machine) close() error {
	var all error
	for _, e := range m.engines {
		all = errors.Join(all, e.Close())
	}
	return all
}

// any draws one of the engines.
func (m *machine) any(t *rapid.T) *engine.Engine {
	return m.engines[rapid.IntRange(0, len(m.engines)-1).Draw(t, "engine")]
}

func (m *machine) path(t *rapid.T) string { return rapid.SampledFrom(m.names).Draw(t, "path") }

func (m *machine) advance(by time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.now = m.now.Add(by)
}

// settle waits until nothing that deletions have left is still to be cleared, so that the model need
// not know how far that has come.
func (m *machine) settle(t *rapid.T) {
	deadline := time.Now().Add(20 * time.Second)
	for {
		busy := false
		for part := range m.kept.Partitions(ctx, runnel.Store{}, "") {
			for _, kind := range "ot" {
				for range m.kept.Scan(ctx, part, storage.Range{From: []byte{byte(kind)}, To: []byte{byte(kind) + 1}, Limit: 1}) {
					busy = true
				}
			}
		}
		if !busy {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("deletions have left something that is never cleared")
		}
		runtime.Gosched()
	}
}

// certain asks for segments whose window a crash may have made longer, in the time in which they may be
// there or not.
func (m *machine) certain(t *rapid.T, e *engine.Engine) {
	for _, path := range slices.Sorted(maps.Keys(m.segments)) {
		s := m.segments[path]
		if s == nil || s.softDeleted || s.ttl == 0 || m.now.Sub(s.accessed) < s.ttl || !s.hazy && len(m.engines) == 1 {
			continue
		}
		_, err := e.Stat(ctx, at(path))
		switch late := m.now.Sub(s.accessed) - s.ttl; {
		case err != nil:
			s.grace = 0  // the model finds it expired too
			m.look(path) //nolint:errcheck // to end it
			m.settle(t)
		case late >= s.ttl/8:
			t.Fatalf("%s is there %v after its time", path, late)
		default:
			s.grace = late + 1
		}
	}
}

func wantSame(t *rapid.T, what string, got, want error) {
	t.Helper()
	if want == nil && got != nil || want != nil && !errors.Is(got, want) {
		t.Fatalf("%s: %v, want %v", what, got, want)
	}
}

func drawPayloads(t *rapid.T, atLeast int) []string {
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) string {
		c := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "letter")
		return strings.Repeat(c, rapid.SampledFrom([]int{0, 1, 2, 5, 60, 700, 5000}).Draw(t, "length"))
	}), atLeast, 4).Draw(t, "payloads")
}

func size(payloads []string) (n int) {
	for _, payload := range payloads {
		n += len(payload)
	}
	return n
}

func drawAppend(t *rapid.T, s *modelSegment) (runnel.AppendOptions, []string) {
	o := runnel.AppendOptions{
		ContentType: rapid.SampledFrom([]string{"", "", "text/plain", "application/json"}).Draw(t, "content type"),
		Close:       rapid.IntRange(0, 15).Draw(t, "close") == 0,
	}
	if rapid.IntRange(0, 2).Draw(t, "has producer") == 0 {
		p := &runnel.Producer{
			ID:    rapid.SampledFrom([]string{"p", "q"}).Draw(t, "producer"),
			Epoch: rapid.Uint64Range(0, 2).Draw(t, "epoch"),
			Seq:   rapid.Uint64Range(0, 3).Draw(t, "seq"),
		}
		if s != nil && rapid.Bool().Draw(t, "next in line") {
			if known, ok := s.producers[p.ID]; ok {
				p.Epoch, p.Seq = known.Epoch, known.Seq+1
			} else {
				p.Seq = 0
			}
		}
		o.Producer = p
	}
	if rapid.IntRange(0, 4).Draw(t, "has writer sequence") == 0 {
		o.HasStreamSeq, o.StreamSeq = true, rapid.SampledFrom([]string{"", "a", "b", "c", "d"}).Draw(t, "writer sequence")
	}
	if rapid.IntRange(0, 4).Draw(t, "has expected tail") == 0 {
		tail := runnel.Sequence(rapid.IntRange(0, 5).Draw(t, "expected tail"))
		if s != nil && rapid.Bool().Draw(t, "the right one") {
			tail = s.tail()
		}
		o.Expect = &tail
	}
	atLeast := 1
	if o.Close {
		atLeast = 0
	}
	payloads := drawPayloads(t, atLeast)
	for size(payloads) > 9000 { // so that it fits into the tightest batch
		payloads = payloads[1:]
	}
	return o, payloads
}

func (m *machine) drawCreate(t *rapid.T) runnel.CreateOptions {
	o := runnel.CreateOptions{
		ContentType: rapid.SampledFrom([]string{"", "text/plain", "application/json"}).Draw(t, "content type"),
		Closed:      rapid.IntRange(0, 15).Draw(t, "closed") == 0,
	}
	switch rapid.IntRange(0, 5).Draw(t, "lifetime") {
	case 0:
		o.TTL = rapid.SampledFrom([]time.Duration{time.Minute, time.Hour}).Draw(t, "ttl")
	case 1:
		o.ExpiresAt = m.now.Add(rapid.SampledFrom([]time.Duration{time.Minute, time.Hour}).Draw(t, "expiry"))
	}
	switch rapid.IntRange(0, 5).Draw(t, "retention") {
	case 0:
		o.Retention.Entries = rapid.Uint64Range(1, 6).Draw(t, "entries")
	case 1:
		o.Retention.Bytes = rapid.SampledFrom([]uint64{3, 100, 6000}).Draw(t, "bytes")
	case 2:
		o.Retention.Age = rapid.SampledFrom([]time.Duration{time.Minute, time.Hour}).Draw(t, "age")
	}
	return o
}

func (m *machine) steps() map[string]func(*rapid.T) {
	appending := func(t *rapid.T) {
		e, path := m.any(t), m.path(t)
		m.certain(t, e)
		o, payloads := drawAppend(t, m.segments[path])
		s, want, wantErr := m.append(path, o, payloads)
		got, err := e.Append(ctx, at(path), o, records(payloads...)...)
		wantSame(t, "append to "+path, err, wantErr)
		m.settle(t)
		if wantErr != nil {
			return
		}
		if !want.Duplicate {
			want = m.apply(s, o, payloads)
		}
		if got.First != want.First || got.Tail != want.Tail || got.Duplicate != want.Duplicate ||
			got.ProducerSeq != want.ProducerSeq || got.Closed != want.Closed {
			t.Fatalf("append to %s: %+v, want %+v", path, got, want)
		}
	}
	creating := func(t *rapid.T) {
		e, path, o := m.any(t), m.path(t), m.drawCreate(t)
		m.certain(t, e)
		payloads := drawPayloads(t, 0)
		for size(payloads) > 6000 {
			payloads = payloads[1:]
		}
		o.Records = records(payloads...)
		wantErr := error(nil)
		for _, payload := range payloads {
			if o.Retention.Bytes > 0 && uint64(len(payload)) > o.Retention.Bytes {
				wantErr = runnel.ErrTooLarge
			}
		}
		existed := false
		if wantErr == nil {
			if existed, wantErr = m.create(path, o); !existed {
				m.add(path, &o, payloads, nil, 0, "")
			}
		}
		got, err := e.Create(ctx, at(path), o)
		wantSame(t, "create "+path, err, wantErr)
		if err == nil && got.Existed != existed {
			t.Fatalf("create %s: existed %v, want %v", path, got.Existed, existed)
		}
		m.settle(t)
	}
	forking := func(t *rapid.T) {
		e, path, o := m.any(t), m.path(t), m.drawCreate(t)
		m.certain(t, e)
		source := m.path(t)
		o.Fork = &runnel.ForkFrom{Source: at(source), Latest: rapid.IntRange(0, 3).Draw(t, "latest") == 0}
		if rapid.Bool().Draw(t, "the source's content type") {
			o.ContentType = ""
		}
		if !o.Fork.Latest {
			most := 3
			if s := m.segments[source]; s != nil {
				most = len(s.entries) + 1
			}
			o.Fork.At = runnel.Sequence(rapid.IntRange(0, most).Draw(t, "at"))
			if rapid.Bool().Draw(t, "inside") {
				o.Fork.Sub = rapid.Uint64Range(0, 70).Draw(t, "sub")
			}
		}
		payloads := drawPayloads(t, 0)
		for size(payloads) > 3000 {
			payloads = payloads[1:]
		}
		o.Records = records(payloads...)
		existed, wantErr := false, error(nil)
		for _, payload := range payloads {
			if o.Retention.Bytes > 0 && uint64(len(payload)) > o.Retention.Bytes {
				wantErr = runnel.ErrTooLarge
			}
		}
		if wantErr == nil {
			if existed, wantErr = m.create(path, o); !existed {
				var src *modelSegment
				var base int
				var partial string
				if src, base, partial, wantErr = m.inherit(&o, payloads); wantErr == nil {
					m.add(path, &o, payloads, src, base, partial)
				}
			}
		}
		got, err := e.Create(ctx, at(path), o)
		wantSame(t, "fork "+path+" of "+source, err, wantErr)
		if err == nil && got.Existed != existed {
			t.Fatalf("fork %s: existed %v, want %v", path, got.Existed, existed)
		}
		m.settle(t)
	}
	return map[string]func(*rapid.T){
		"append":       appending,
		"append again": appending,
		"append more":  appending,
		"create":       creating,
		"create again": creating,
		"fork":         forking,
		"fork again":   forking,
		"commit": func(t *rapid.T) {
			e := m.any(t)
			m.certain(t, e)
			var writes []runnel.Write
			var all [][]string
			var segments []*modelSegment
			wantErr, duplicates := error(nil), 0
			for _, name := range rapid.Permutation([]string{"a", "b", "c"}).Draw(t, "segments")[:2] {
				o, payloads := drawAppend(t, m.segments["s/"+name])
				if size(payloads) > 3000 {
					payloads = []string{"x"}
				}
				writes, all = append(writes, writeTo(name, o, payloads...)), append(all, payloads)
			}
			for i := range writes {
				s, a, err := m.append("s/"+writes[i].Segment, writes[i].Options, all[i])
				if err != nil {
					wantErr = err
					break
				}
				segments = append(segments, s)
				if a.Duplicate {
					duplicates++
				}
			}
			if wantErr == nil && duplicates == 1 {
				wantErr = runnel.ErrInvalid
			}
			_, err := e.Commit(ctx, theSpace, writes...)
			wantSame(t, "commit", err, wantErr)
			if err == nil && duplicates == 0 {
				for i := range writes {
					m.apply(segments[i], writes[i].Options, all[i])
				}
			}
			m.settle(t)
		},
		"delete": func(t *rapid.T) {
			e, path := m.any(t), m.path(t)
			m.certain(t, e)
			s, wantErr := m.look(path)
			if wantErr == nil {
				m.end(s)
			}
			wantSame(t, "delete "+path, e.Delete(ctx, at(path)), wantErr)
			m.settle(t)
		},
		"read": func(t *rapid.T) {
			e, path := m.any(t), m.path(t)
			m.certain(t, e)
			from := runnel.Sequence(rapid.IntRange(0, 12).Draw(t, "from"))
			s, wantErr := m.look(path)
			if wantErr == nil {
				s.use(m.now)
				switch {
				case from > s.tail():
					wantErr = runnel.ErrBeyondTail
				case int(from) < s.earliest:
					wantErr = runnel.ErrTrimmed
				}
			}
			v, err := e.Read(ctx, at(path), 0, from)
			wantSame(t, "read "+path, err, wantErr)
			m.rest(t, e)
			if err == nil {
				m.compare(t, v, s)
			}
			m.settle(t)
		},
		"let time pass": func(t *rapid.T) {
			m.advance(rapid.SampledFrom([]time.Duration{time.Microsecond, time.Second, 29 * time.Second, 59 * time.Minute}).Draw(t, "for"))
		},
		"forget": func(t *rapid.T) {
			e := m.any(t)
			for i := range 8 {
				_, err := e.Stat(ctx, at(fmt.Sprint("s/missing", i)))
				wantSame(t, "stat of what is missing", err, runnel.ErrNotFound)
			}
		},
		"list": func(t *rapid.T) {
			e := m.any(t)
			m.certain(t, e)
			var want, got []string
			for _, path := range m.names {
				if _, err := m.look(path); err == nil {
					want = append(want, path)
				}
			}
			for info, err := range e.List(ctx, runnel.Store{}, runnel.ListOptions{}) {
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, info.Segment.Path())
			}
			if want = listed(want); !slices.Equal(got, want) {
				t.Fatalf("listed %q, want %q", got, want)
			}
			m.settle(t)
		},
		"reopen": func(t *rapid.T) {
			if err := m.close(); err != nil {
				t.Fatal(err)
			}
			if len(m.engines) > 1 {
				m.fog() // the other engine closes after what this one has written
			}
			m.open(t)
		},
		"crash": func(t *rapid.T) {
			for _, e := range m.engines {
				m.rest(t, e)
			}
			for _, d := range m.drivers {
				d.SetRules(faulty.Rule{Then: faulty.Before(storage.ErrFailed)})
			}
			_ = m.close()
			m.fog()
			m.open(t)
		},
		"": func(t *rapid.T) {
			e := m.any(t)
			m.certain(t, e)
			for _, path := range m.names {
				s, wantErr := m.look(path)
				info, err := e.Stat(ctx, at(path))
				wantSame(t, "stat of "+path, err, wantErr)
				if err == nil && (info.Tail != s.tail() || int(info.Earliest) != s.earliest || info.Bytes != uint64(s.bytes()) || info.Closed != s.closed ||
					info.ContentType != s.contentType || info.TTL != s.ttl || !info.ExpiresAt.Equal(s.expiresAt) || info.Retention != s.retention) {
					t.Fatalf("%s is %+v, want %+v", path, info, s)
				}
				m.settle(t)
			}
		},
	}
}

// fog says that windows may last longer than the model knows.
func (m *machine) fog() {
	for _, s := range m.segments {
		s.hazy = true
	}
}

// rest waits until what an engine has staged is durable.
func (m *machine) rest(t *rapid.T, e *engine.Engine) {
	for _, prefix := range []string{"~", "s/~", "other/~"} { // which names nothing
		for _, err := range e.List(ctx, runnel.Store{}, runnel.ListOptions{Prefix: prefix}) {
			t.Fatal(err)
		}
	}
}

// compare checks the entries of a view.
func (m *machine) compare(t *rapid.T, v runnel.View, s *modelSegment) {
	t.Helper()
	got, err := entriesOf(v)
	if err != nil {
		t.Fatalf("read %s: %v", s.path, err)
	}
	want := s.entries[v.From:]
	if len(got) != len(want) {
		t.Fatalf("%s holds %d entries after %d, want %d", s.path, len(got), v.From, len(want))
	}
	for i := range got {
		if string(got[i].Payload) != want[i].payload || !got[i].Time.Equal(want[i].time) {
			t.Fatalf("%s: entry %d is %q of %v, want %q of %v", s.path, got[i].Sequence, got[i].Payload, got[i].Time, want[i].payload, want[i].time)
		}
	}
}

func testModel(t *testing.T, engines int, open func() storage.Driver) {
	t.Helper()
	rapid.Check(t, func(t *rapid.T) {
		m := &machine{
			model:   model{now: time.Unix(1_700_000_000, 0).UTC(), segments: make(map[string]*modelSegment)},
			kept:    open(),
			engines: make([]*engine.Engine, engines),
			drivers: make([]*faulty.Driver, engines),
			names:   []string{"s/a", "s/b", "s/c", "other/d", "e"},
		}
		m.open(t)
		defer func() {
			_ = m.close()
			_ = m.kept.Close()
		}()
		t.Repeat(m.steps())
	})
}

func TestModelOnMemory(t *testing.T) {
	testModel(t, 1, func() storage.Driver { return new(memory.Driver) })
}

func TestModelOnSharedMemoryWithTwoEngines(t *testing.T) {
	testModel(t, 2, func() storage.Driver { return &memory.Driver{Shared: true} })
}

func TestModelWithinTightLimits(t *testing.T) {
	testModel(t, 1, func() storage.Driver { return &memory.Driver{Max: tight} })
}

func TestModelOnPebble(t *testing.T) {
	testModel(t, 1, func() storage.Driver {
		d, err := pebblestore.Open("db", pebblestore.Config{
			FS: vfs.NewMem(), CacheBytes: 1 << 20, MemTableBytes: 256 << 10, Logger: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		return d
	})
}
