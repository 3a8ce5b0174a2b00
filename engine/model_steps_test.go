package engine_test

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/engine"
)

// machine plays one history to the model and to all players at once, and compares.
type machine struct {
	model
	large     bool
	players   []*player
	names     []runnel.Segment
	followers []*follower
	views     []*heldView

	mu      sync.Mutex
	flowing time.Time // since when the log's time goes with the bubble's; zero while it stands still
}

func (m *machine) clock() time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.flowing.IsZero() {
		return m.now
	}
	return m.now.Add(time.Since(m.flowing))
}

// advance lets time pass, and with it whatever the engines do in the background.
func (m *machine) advance(by time.Duration) {
	m.mu.Lock()
	m.flowing = time.Now()
	m.mu.Unlock()
	pass(by)
	m.mu.Lock()
	m.now, m.flowing = m.now.Add(by), time.Time{}
	m.mu.Unlock()
	m.settle()
}

func (m *machine) settle() { settle(len(m.followers) > 0) }

func (p *player) engine(which int) *engine.Engine { return p.engines[which%len(p.engines)] }

func drawEngine(t *rapid.T) int { return rapid.IntRange(0, 5).Draw(t, "engine") }

func (m *machine) name(t *rapid.T) runnel.Segment {
	return rapid.SampledFrom(m.names).Draw(t, "segment")
}

// place draws one to read from, most of them inside the segment.
func (m *machine) place(t *rapid.T, s *modelSegment) runnel.Sequence {
	least, most := 0, 3
	if s != nil {
		least, most = max(s.earliest-1, 0), len(s.entries)+1
	}
	from := runnel.Sequence(rapid.IntRange(least, most).Draw(t, "from"))
	if rapid.IntRange(0, 5).Draw(t, "latest") == 0 {
		from = runnel.Latest
	}
	return from
}

// idMeant says which incarnation a reader names.
type idMeant string

func drawID(t *rapid.T) idMeant {
	return rapid.SampledFrom([]idMeant{"any", "any", "the current id", "a stale id"}).Draw(t, "id")
}

func (m *machine) meant(addr runnel.Segment, id idMeant) (*modelSegment, error) {
	s, err := m.look(addr)
	if err == nil && id == "a stale id" {
		err = runnel.ErrNotFound
	}
	return s, err
}

func (p *player) id(e *engine.Engine, addr runnel.Segment, id idMeant) uint64 {
	if id == "any" {
		return 0
	}
	info, err := e.Stat(ctx, addr)
	if err != nil || id == "a stale id" {
		return 1 << 50
	}
	return info.ID
}

// play asks all players.
func (m *machine) play(t *rapid.T, c *call) {
	t.Helper()
	which, refuse := drawEngine(t), c.once && rapid.IntRange(0, 7).Draw(t, "refused at first") == 0
	for _, p := range m.players {
		if refuse && p.faults.refusal {
			m.blur(p)
		}
		got := c.run(p, p.engine(which), refuse)
		c.heard(t, p, &got)
	}
}

// blur says that a player may not know the last access of a segment exactly.
func (m *machine) blur(p *player) {
	for _, s := range m.segments {
		p.late[s] = m.now
	}
}

// exact tells whether a player knows when the window of a segment ends.
func (p *player) exact(s *modelSegment) bool {
	at, blurred := p.late[s]
	return p.kept.Limits().Exclusive && (!blurred || s.accessed.After(at))
}

// pass lets time pass, and more of it where a player may not know exactly whether a segment is still
// there: never too early, and not long.
func (m *machine) pass(t *rapid.T, by time.Duration) {
	m.advance(by)
	for {
		var more time.Duration
		for _, s := range m.segments {
			late := m.now.Sub(s.accessed) - s.ttl
			if s.softDeleted || s.slack() == 0 || s.readers > 0 || late < 0 || late > s.slack() {
				continue
			}
			more = max(more, s.slack()-late+time.Microsecond)
			for _, p := range m.players {
				_, err := p.engines[0].Stat(ctx, s.addr)
				if err == nil && p.exact(s) {
					t.Fatalf("%s is there %v after its time\nof player %s", s.addr, late, p)
				}
				if err != nil && !errors.Is(err, runnel.ErrNotFound) && !errors.Is(err, runnel.ErrSoftDeleted) {
					t.Fatalf("stat %s: %v\nof player %s", s.addr, err, p)
				}
			}
		}
		if more == 0 {
			return
		}
		m.advance(more)
	}
}

// bury has everybody look at what is over, in whatever order that ends forks and their sources.
func (m *machine) bury() {
	over := false
	for _, s := range m.segments {
		over = over || !s.softDeleted && s.expired(m.now)
	}
	if !over {
		return
	}
	for _, addr := range m.names {
		_, _ = m.look(addr)
	}
	for _, p := range m.players {
		for _, addr := range m.names {
			_, _ = p.engines[0].Stat(ctx, addr)
		}
	}
	m.settle()
}

// compare is what follows every step.
func (m *machine) compare(t *rapid.T) {
	m.settle()
	m.bury()
	m.checkFollowers(t)
	which := drawEngine(t)
	for _, addr := range m.names {
		s, err := m.look(addr)
		c := &call{what: "stat " + addr.String(), want: answer{err: err}, do: func(e *engine.Engine) answer {
			in, err := e.Stat(ctx, addr)
			return answer{infos: []runnel.Info{plainInfo(in)}, err: err}
		}}
		if err == nil {
			c.want.infos = []runnel.Info{s.info()}
		}
		for _, p := range m.players {
			got := c.run(p, p.engine(which), false)
			c.heard(t, p, &got)
		}
	}
	m.settle()
	for _, p := range m.players {
		if got, ok := p.watched.equal(m.events); !ok {
			t.Fatalf("events %v, want %v\nof player %s", got, m.events, p)
		}
	}
}

// sameEntries compares what a player has shown of a segment after a place with what it must be.
func sameEntries(player int, from runnel.Sequence, got []runnel.Entry, want []modelEntry) error {
	if len(got) != len(want) {
		return fmt.Errorf("%d entries after %d, want %d", len(got), from, len(want))
	}
	for i := range got {
		e, w := &got[i], &want[i]
		if e.Sequence != from+runnel.Sequence(i)+1 || string(e.Payload) != w.payload || !e.Time.Equal(w.time) || !maps.Equal(e.Metadata, w.metadata) {
			return fmt.Errorf("entry %d is %s of %v with %v, want %s of %v with %v", e.Sequence,
				short([]string{string(e.Payload)}), e.Time, e.Metadata, short([]string{w.payload}), w.time, w.metadata)
		}
		if w.positions[player] == 0 {
			w.positions[player] = e.Position
		}
		if e.Position != w.positions[player] {
			return fmt.Errorf("entry %d is at position %d, and was at %d", e.Sequence, e.Position, w.positions[player])
		}
	}
	return nil
}

// appended checks that positions only grow, and notes those of new entries.
func (m *machine) appended(p *player, addr runnel.Segment, s *modelSegment, a *runnel.Appended, n int) error {
	if a.First == 0 {
		return nil
	}
	if last := p.last[addr.In()]; a.Position <= last {
		return fmt.Errorf("position %d follows %d", a.Position, last)
	}
	for i := range n {
		s.entries[int(a.First)-1+i].positions[p.number] = a.Position + runnel.Position(i)
	}
	p.last[addr.In()] = a.Position + runnel.Position(n) - 1
	return nil
}

// spec is a record as the output of a failed test shows it.
type spec struct {
	letter string
	length int
	tagged bool
}

func (m *machine) drawRecords(t *rapid.T, atLeast, bytes int) []runnel.Record {
	lengths := []int{0, 1, 2, 5, 60, 700, 5000}
	if m.large {
		lengths = append(lengths, 40_000, 130_000, 300_000, 1_200_000)
		bytes = 2_000_000
	}
	specs := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) spec {
		return spec{
			letter: rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "letter"),
			length: rapid.SampledFrom(lengths).Draw(t, "length"),
			tagged: rapid.IntRange(0, 4).Draw(t, "has metadata") == 0,
		}
	}), atLeast, 4).Draw(t, "records")
	var all []runnel.Record
	for _, one := range specs {
		r := runnel.Record{Payload: []byte(strings.Repeat(one.letter, one.length))}
		if one.tagged {
			r.Metadata = map[string]string{"k": one.letter, "": ""}
		}
		all = append(all, r)
	}
	for size(all) > bytes {
		all = all[1:]
	}
	return all
}

func size(records []runnel.Record) (n int) {
	for i := range records {
		n += len(records[i].Payload)
	}
	return n
}

func drawAppend(t *rapid.T, s *modelSegment) runnel.AppendOptions {
	o := runnel.AppendOptions{
		ContentType: rapid.SampledFrom([]string{"", "", "text/plain", "Text/Plain; charset=x", "application/json"}).Draw(t, "content type"),
		Close:       rapid.IntRange(0, 15).Draw(t, "close") == 0,
	}
	if rapid.IntRange(0, 2).Draw(t, "has producer") == 0 {
		p := &runnel.Producer{
			ID:    rapid.SampledFrom([]string{"p", "q", "p", "q", "p", "q", "", strings.Repeat("p", runnel.MaxProducerBytes+1)}).Draw(t, "producer"),
			Epoch: rapid.Uint64Range(0, 2).Draw(t, "epoch"),
			Seq:   rapid.SampledFrom([]uint64{0, 0, 1, 2, 3, runnel.MaxProducerNumber, runnel.MaxProducerNumber + 1}).Draw(t, "seq"),
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
	return o
}

func (m *machine) drawCreate(t *rapid.T) runnel.CreateOptions {
	o := runnel.CreateOptions{
		ContentType: rapid.SampledFrom([]string{"", "text/plain", "application/json"}).Draw(t, "content type"),
		Closed:      rapid.IntRange(0, 15).Draw(t, "closed") == 0,
	}
	spans := rapid.SampledFrom([]time.Duration{time.Minute, time.Hour})
	switch rapid.IntRange(0, 7).Draw(t, "lifetime") {
	case 0, 1:
		o.TTL = spans.Draw(t, "ttl")
	case 2:
		o.ExpiresAt = m.now.Add(spans.Draw(t, "expiry"))
	case 3:
		if o.HasTTL = true; rapid.Bool().Draw(t, "both") {
			o.ExpiresAt = m.now.Add(time.Hour)
		}
	}
	if rapid.IntRange(0, 2).Draw(t, "retention") == 0 {
		o.Retention = runnel.Retention{
			Entries: rapid.SampledFrom([]uint64{0, 0, 1, 2, 6}).Draw(t, "entries"),
			Bytes:   rapid.SampledFrom([]uint64{0, 0, 3, 100, 6000}).Draw(t, "bytes"),
			Age:     rapid.SampledFrom([]time.Duration{0, 0, time.Minute, time.Hour}).Draw(t, "age"),
		}
	}
	return o
}

// appendCall draws an append. What it says about the model is so already when it returns.
func (m *machine) appendCall(t *rapid.T) *call {
	addr := m.name(t)
	s := m.segments[addr]
	o := drawAppend(t, s)
	records := m.drawRecords(t, 0, 9000) // which fit into the tightest batch
	if len(records) == 0 && rapid.IntRange(0, 9).Draw(t, "without records") > 0 {
		records = []runnel.Record{{Payload: []byte("x")}}
	}
	want, err := m.append(addr, &o, records)
	return &call{
		what: fmt.Sprintf("append %d records to %s with %+v", len(records), addr, o), once: true,
		want: answer{appended: []runnel.Appended{want}, err: err},
		do: func(e *engine.Engine) answer {
			a, err := e.Append(ctx, addr, o, records...)
			return answer{appended: []runnel.Appended{a}, err: err}
		},
		learn: func(p *player, got *answer) error { return m.appended(p, addr, s, &got.appended[0], len(records)) },
	}
}

func (m *machine) commitCall(t *rapid.T) *call {
	writes := make([]runnel.Write, 2) // which fit into the tightest batch
	for i, name := range rapid.Permutation([]string{"a", "b", "c"}).Draw(t, "segments")[:len(writes)] {
		writes[i] = runnel.Write{Segment: name, Options: drawAppend(t, m.segments[theSpace.Segment(name)])}
		writes[i].Records = append(m.drawRecords(t, 0, 2900), runnel.Record{Payload: []byte("last")})
	}
	segments := make([]*modelSegment, len(writes))
	for i := range writes {
		segments[i] = m.segments[theSpace.Segment(writes[i].Segment)]
	}
	want, err := m.commit(writes)
	return &call{
		what: fmt.Sprintf("commit %+v and %+v", writes[0].Options, writes[1].Options), once: true,
		want: answer{appended: want, err: err},
		do: func(e *engine.Engine) answer {
			all, err := e.Commit(ctx, theSpace, writes...)
			return answer{appended: all, err: err}
		},
		learn: func(p *player, got *answer) error {
			for i := range got.appended {
				if err := m.appended(p, segments[i].addr, segments[i], &got.appended[i], len(writes[i].Records)); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

// createCall draws a creation, of a fork if there is a source.
func (m *machine) createCall(t *rapid.T, o runnel.CreateOptions) *call {
	addr := m.name(t)
	o.Records = m.drawRecords(t, 0, 3000)
	want, err := m.create(addr, &o)
	s, tail := m.segments[addr], want.Tail
	return &call{
		overtaken: func() bool { return s != nil && (m.segments[addr] != s || s.tail() != tail) },
		what:      fmt.Sprintf("create %s with %+v", addr, o), once: o.Fork == nil,
		want: answer{infos: []runnel.Info{plainInfo(want.Info)}, existed: want.Existed, err: err},
		do: func(e *engine.Engine) answer {
			c, err := e.Create(ctx, addr, o)
			return answer{infos: []runnel.Info{plainInfo(c.Info)}, existed: c.Existed, err: err}
		},
	}
}

func (m *machine) drawFork(t *rapid.T) runnel.CreateOptions {
	o, source := m.drawCreate(t), m.name(t)
	o.Fork = &runnel.ForkFrom{Source: source, Latest: rapid.IntRange(0, 3).Draw(t, "at the tail") == 0}
	if rapid.Bool().Draw(t, "the source's content type") {
		o.ContentType = ""
	}
	if !o.Fork.Latest {
		most := 3
		if s := m.segments[source]; s != nil {
			most = len(s.entries) + 1
		}
		o.Fork.At = runnel.Sequence(rapid.IntRange(0, most).Draw(t, "at"))
	}
	if rapid.Bool().Draw(t, "inside") {
		o.Fork.Sub = rapid.Uint64Range(0, 70).Draw(t, "sub")
	}
	return o
}

func (m *machine) deleteCall(addr runnel.Segment) *call {
	return &call{
		what: "delete " + addr.String(), want: answer{err: m.delete(addr)},
		do: func(e *engine.Engine) answer { return answer{err: e.Delete(ctx, addr)} },
	}
}

// burst stages several writes while storage takes none, so that they gather in batches, and checks that
// each is answered as if those before it had happened, and that none of them shows before it is durable.
func (m *machine) burst(t *rapid.T) {
	before := maps.Clone(m.segments)
	shown := make(map[runnel.Segment]*call)
	for _, addr := range m.names {
		s, err := m.look(addr)
		c := &call{what: "stat during a burst " + addr.String(), want: answer{err: err}, do: func(e *engine.Engine) answer {
			in, err := e.Stat(ctx, addr)
			return answer{infos: []runnel.Info{plainInfo(in)}, err: err}
		}}
		if err == nil {
			c.want.infos = []runnel.Info{s.info()}
		}
		shown[addr] = c
	}
	var calls []*call
	for range rapid.IntRange(2, 8).Draw(t, "writes") {
		calls = append(calls, m.burstCall(t))
	}
	// Those who follow may see a part of it, or all.
	m.stopFollowers(t, func(f *follower) bool {
		return f.s.ended || f.s.softDeleted || f.s.retention != (runnel.Retention{}) || f.waits || before[f.s.addr] != f.s
	})
	which := drawEngine(t)
	play := func(p *player) {
		if len(p.engines) > 1 { // one of which may win against what another has staged
			for _, c := range calls {
				got := c.run(p, p.engine(which), false)
				c.heard(t, p, &got)
			}
			return
		}
		e, release := p.engine(which), p.faults.hold()
		defer release()
		answers := make([]<-chan answer, len(calls))
		for i, c := range calls {
			answers[i] = later(func() answer { return c.do(e) })
			synctest.Wait()
		}
		for _, addr := range m.names {
			got := shown[addr].do(e)
			shown[addr].heard(t, p, &got)
		}
		release()
		for i, c := range calls {
			got := <-answers[i]
			c.heard(t, p, &got)
		}
	}
	for _, p := range m.players {
		play(p)
	}
}

// burstCall draws a write that is one commit. A fork is not ended by one: its source hears of it later.
func (m *machine) burstCall(t *rapid.T) *call {
	switch kind := rapid.IntRange(0, 9).Draw(t, "kind"); kind {
	case 0, 1:
		o := m.drawCreate(t)
		o.HasTTL = false
		return m.createCall(t, o)
	case 2:
		if addr := m.name(t); m.segments[addr] == nil || m.segments[addr].source == nil {
			return m.deleteCall(addr)
		}
	case 3:
		return m.commitCall(t)
	}
	return m.appendCall(t)
}

// read reads a segment, some entries at a time, each time anew from its place.
func (m *machine) read(t *rapid.T) {
	addr, id := m.name(t), drawID(t)
	from, which := m.place(t, m.segments[addr]), drawEngine(t)
	page := rapid.SampledFrom([]int{0, 0, 1, 3}).Draw(t, "page")
	stream := rapid.Bool().Draw(t, "stream")
	place := from
	s, wantErr := m.meant(addr, id)
	if wantErr == nil {
		s, wantErr = m.open(addr, &place)
	}
	var held heldView
	for i, p := range m.players {
		e := p.engine(which)
		v, err := e.Read(ctx, addr, p.id(e, addr, id), from)
		c := call{what: fmt.Sprintf("read %s after %d, %s", addr, from, id), want: answer{err: wantErr}}
		if wantErr == nil {
			c.want.infos = []runnel.Info{s.info()}
		}
		c.heard(t, p, &answer{infos: []runnel.Info{plainInfo(v.Info)}, err: err})
		if err != nil {
			continue
		}
		got, err := entriesOf(v)
		if page > 0 && err == nil {
			got, err = paged(e, addr, place, v.Tail, page, stream)
		}
		if err == nil {
			err = sameEntries(i, place, got, s.entries[place:])
		}
		if err != nil {
			t.Fatalf("%s: %v\nof player %s", c.what, err, p)
		}
		held.views, held.opening = append(held.views, v), append(held.opening, p.opened)
	}
	if wantErr == nil && rapid.Bool().Draw(t, "held") {
		held.s, held.from, held.want = s, place, slices.Clone(s.entries[place:])
		m.views = append(m.views, &held)
	}
}

// paged reads from a place to another, so many entries at a time.
func paged(e *engine.Engine, addr runnel.Segment, from, to runnel.Sequence, page int, stream bool) ([]runnel.Entry, error) {
	var all []runnel.Entry
	for at := from; at < to; at = from + runnel.Sequence(len(all)) {
		v, err := e.Read(ctx, addr, 0, at)
		if err != nil {
			return nil, err
		}
		batches, left := v.Batches, page
		if stream {
			batches = v.Stream
		}
		for b, err := range batches {
			if err != nil {
				return nil, err
			}
			for i := 0; i < b.Len() && left > 0; i++ {
				one := b.Entry(i)
				one.Payload, one.Metadata = slices.Clone(one.Payload), maps.Clone(one.Metadata)
				all = append(all, one)
				left--
			}
			if left == 0 {
				break
			}
		}
	}
	return all, nil
}

func (m *machine) list(t *rapid.T) {
	store := rapid.SampledFrom(stores).Draw(t, "store")
	paths := []string{"", "", "s", "s/", "s/a", "s/b", "s/z", "s", "e", "x", "other/", "other/d", "/"}
	o := runnel.ListOptions{
		Prefix: rapid.SampledFrom(paths).Draw(t, "prefix"),
		After:  rapid.SampledFrom(paths[:len(paths)-1]).Draw(t, "after"),
		Limit:  rapid.IntRange(0, 4).Draw(t, "limit"),
	}
	m.play(t, &call{
		what: fmt.Sprintf("list %+v", o), want: answer{infos: m.model.list(store, o)},
		do: func(e *engine.Engine) (a answer) {
			for info, err := range e.List(ctx, store, o) {
				if err != nil {
					return answer{err: err}
				}
				a.infos = append(a.infos, plainInfo(info))
			}
			return a
		},
	})
}

// reopen closes, or crashes, engines of some players.
func (m *machine) reopen(t *rapid.T) {
	all := func(*follower) bool { return true }
	m.stopFollowers(t, all)
	m.settle()
	for _, p := range m.players {
		p.opened++
		var err error
		switch how := rapid.SampledFrom([]string{"not", "close", "crash"}).Draw(t, "how"); how {
		case "close":
			err = p.restart()
		case "crash":
			m.blur(p)
			err = p.crash(rapid.IntRange(0, len(p.engines)-1).Draw(t, "which"))
		default:
			p.opened--
		}
		if err != nil {
			t.Fatalf("opening again: %v\nof player %s", err, p)
		}
	}
}

func (m *machine) steps() map[string]func(*rapid.T) {
	appending := func(t *rapid.T) { m.play(t, m.appendCall(t)) }
	creating := func(t *rapid.T) { m.play(t, m.createCall(t, m.drawCreate(t))) }
	forking := func(t *rapid.T) { m.play(t, m.createCall(t, m.drawFork(t))) }
	return map[string]func(*rapid.T){
		"append":       appending,
		"append again": appending,
		"append more":  appending,
		"create":       creating,
		"create again": creating,
		"fork":         forking,
		"fork again":   forking,
		"commit":       func(t *rapid.T) { m.play(t, m.commitCall(t)) },
		"delete":       func(t *rapid.T) { m.play(t, m.deleteCall(m.name(t))) },
		"burst":        m.burst,
		"read":         m.read,
		"read again":   m.read,
		"list":         m.list,
		"follow":       m.startFollower,
		"stop following": func(t *rapid.T) {
			if len(m.followers) == 0 {
				t.Skip("nobody follows")
			}
			f := rapid.SampledFrom(m.followers).Draw(t, "follower")
			m.stopFollowers(t, func(one *follower) bool { return one == f })
		},
		"drain": func(t *rapid.T) {
			if len(m.views) == 0 {
				t.Skip("no view is held")
			}
			m.drain(t, m.views[0])
			m.views = m.views[1:]
		},
		"let time pass": func(t *rapid.T) {
			m.pass(t, rapid.SampledFrom([]time.Duration{time.Microsecond, time.Second, 29 * time.Second, time.Minute, 59 * time.Minute}).Draw(t, "for"))
		},
		"forget": func(t *rapid.T) {
			for i := range 8 {
				missing := at(fmt.Sprint("s/missing", i))
				m.play(t, &call{what: "stat of what is missing", want: answer{err: runnel.ErrNotFound}, do: func(e *engine.Engine) answer {
					_, err := e.Stat(ctx, missing)
					return answer{err: err}
				}})
			}
		},
		"reopen": m.reopen,
		"":       m.compare,
	}
}

// finish ends everything, and checks that nothing is left of it.
func (m *machine) finish(t *rapid.T) {
	m.stopFollowers(t, func(*follower) bool { return true })
	for _, addr := range m.names {
		if s := m.segments[addr]; s != nil && !s.softDeleted {
			m.play(t, m.deleteCall(addr))
			m.settle()
		}
	}
	m.compare(t)
	for _, p := range m.players {
		left, err := p.leavings()
		if err != nil || len(left) > 0 {
			t.Fatalf("deletions leave %q, %v\nof player %s", left, err, p)
		}
	}
}

// TestEveryDriverAndConfigurationAnswersAsTheModel plays histories in bubbles, where time passes only when
// they say so. Some have entries larger than the tightest limits take. More of them are played with
//
//	go test ./engine -run TestEveryDriverAndConfiguration -rapid.checks=2000
func TestEveryDriverAndConfigurationAnswersAsTheModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rapid.SyncTest(t, func(t *rapid.T) {
			large := rapid.IntRange(0, 7).Draw(t, "large") == 7
			m := &machine{large: large, model: model{
				now: time.Unix(1_700_000_000, 0).UTC(), segments: make(map[runnel.Segment]*modelSegment), events: make(map[string]int),
			}}
			for _, path := range []string{"s/a", "s/b", "s/c", "other/d", "e"} {
				m.names = append(m.names, at(path))
			}
			m.names = append(m.names, runnel.Segment{Store: stores[1], Space: "s", Name: "a"})
			defer func() {
				for _, f := range m.followers {
					f.cancel()
				}
				for _, p := range m.players {
					p.close()
				}
			}()
			m.players = drawPlayers(t, large, m.clock)
			t.Repeat(m.steps())
			m.finish(t)
		})
	})
}
