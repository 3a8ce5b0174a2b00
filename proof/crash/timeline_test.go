package crash

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"

	"github.com/runnelhq/runnel"
)

var (
	timelineStays = invariant("the timeline of a space is never taken back nor reordered")
	timelineOnce  = invariant("the timeline of a space has every entry exactly once")
)

// timelineOften is what a few runs together must have met.
var timelineOften = []string{
	"a timeline was read again after a crash",
	"a timeline was read over several segments",
	"a timeline left out what is not retained",
	"a follower of a space got something live",
	"a follower of a space went on after a restart",
}

// shown is an entry as a timeline showed it.
type shown struct {
	name     string
	id       uint64
	sequence runnel.Sequence
	payload  string
}

// chronicle is what anybody was shown of the timeline of a space.
type chronicle struct {
	space    string
	at       map[runnel.Position]shown
	places   map[shown]runnel.Position
	follower *follower
}

// follower follows a space, over restarts and crashes.
type follower struct {
	from, at runnel.Position
	got      map[runnel.Position]bool
	cancel   context.CancelFunc
	feed     *spaceFeed
}

// spaceFeed is what a follower has got and nobody has looked at yet.
type spaceFeed struct {
	mu      sync.Mutex
	entries []spaceEntry
	over    bool
	err     error
}

type spaceEntry struct {
	shown
	runnel.Entry
}

func entriesOf(b runnel.SpaceBatch) []spaceEntry {
	all := make([]spaceEntry, b.Len())
	for i := range all {
		e := b.Entry(i)
		all[i] = spaceEntry{shown{b.Segment.Name, b.ID, e.Sequence, string(e.Payload)}, e}
	}
	return all
}

func (s *sim) chronicle(space string) *chronicle {
	c := s.chronicles[space]
	if c == nil {
		c = &chronicle{space: space, at: make(map[runnel.Position]shown), places: make(map[shown]runnel.Position)}
		s.chronicles[space] = c
	}
	return c
}

// show keeps that an entry was shown, which must be where it was shown before.
func (s *sim) show(c *chronicle, e *spaceEntry) {
	was, known := c.at[e.Position]
	s.check(timelineStays, !known || was == e.shown, "position %d of space %q was %s %d, %s, and is %s %d, %s",
		e.Position, c.space, was.name, was.sequence, short([]string{was.payload}), e.name, e.sequence, short([]string{e.payload}))
	place, known := c.places[e.shown]
	s.check(timelineOnce, !known || place == e.Position, "%s %d of space %q is at %d, and was at %d", e.name, e.sequence, c.space, e.Position, place)
	c.at[e.Position], c.places[e.shown] = e.shown, e.Position
}

// owned is what a segment has in the timeline of its space, as it is durable.
type owned struct {
	entries []*entry
	base    int // of which so many are a source's
	id      uint64
	// Entries after perhaps can be there, and those after sure are. Only time can tell which of those between.
	perhaps, sure runnel.Sequence
}

// owned returns what there is of a name, nil for none.
func (s *sim) owned(space, name string) *owned {
	if space == deskName {
		if sh := s.desk.base.sheets[name]; sh != nil {
			return &owned{entries: sh.entries}
		}
		return nil
	}
	sg, now := s.spaces[space].base[name], s.now()
	switch sg.verdict(now) {
	case alive:
		return &owned{entries: sg.entries, base: sg.life.base, id: sg.id, perhaps: sg.earliest(now), sure: sg.earliest(now.last())}
	case unsure:
		return &owned{entries: sg.entries, base: sg.life.base, id: sg.id, sure: sg.tail()}
	}
	return nil
}

func namesOf(space string) []string {
	if space == deskName {
		return sheetNames
	}
	return segmentNames
}

// verifyTimeline reads all of a space after a restart, compares it with the model and with what anybody was
// shown before, and lets its follower go on.
func (s *sim) verifyTimeline(space string) {
	c := s.chronicle(space)
	all, head := s.readTimeline(space, 0)
	if len(c.at) > 0 && len(all) > 0 {
		s.cover.hit("a timeline was read again after a crash")
	}
	there := make(map[string]*owned)
	count := make(map[string]int)
	for _, name := range namesOf(space) {
		there[name] = s.owned(space, name)
	}
	last := &entry{}
	for i := range all {
		e := &all[i]
		s.show(c, e)
		o := there[e.name]
		s.check(timelineOnce, o != nil && e.sequence > o.perhaps && e.sequence <= runnel.Sequence(len(o.entries)) && int(e.sequence) > o.base,
			"position %d of space %q is %s %d, which is not there", e.Position, space, e.name, e.sequence)
		is := o.entries[e.sequence-1]
		s.check(timelineOnce, is.payload == e.payload, "position %d of space %q is %s, and %s %d is %s",
			e.Position, space, short([]string{e.payload}), e.name, e.sequence, short([]string{is.payload}))
		s.check(timelineStays, is.op >= last.op, "%s of operation %d follows %s of operation %d", short([]string{is.payload}), is.op, short([]string{last.payload}), last.op)
		s.place(is, e.Position, e.Transaction, e.Time)
		if count[e.name]++; e.sequence <= o.sure {
			count[e.name]-- // it need not be there
		}
		last = is
	}
	for name, o := range there {
		if o == nil {
			continue
		}
		want := max(0, len(o.entries)-max(int(o.sure), o.base))
		s.check(timelineOnce, count[name] == want, "%d of %d entries of %s are in the timeline of space %q", count[name], want, name, space)
		if o.perhaps > 0 {
			s.cover.hit("a timeline left out what is not retained")
		}
	}
	if len(count) > 1 {
		s.cover.hit("a timeline was read over several segments")
	}
	if n := len(all); n > 0 {
		rest, _ := s.readTimeline(space, all[n/2].Position)
		s.check(timelineOnce, slices.EqualFunc(rest, all[n/2+1:], func(a, b spaceEntry) bool { return a.shown == b.shown }),
			"after position %d of space %q come %d entries, and %d when all is read", all[n/2].Position, space, len(rest), n-n/2-1)
	}
	s.resumeFollower(c, all, there, head)
}

// readTimeline returns what a space holds after a place, and its head.
func (s *sim) readTimeline(space string, from runnel.Position) (all []spaceEntry, head runnel.Position) {
	t, err := s.log.ReadSpace(s.ctx, runnel.Space{Name: space}, from)
	s.check(timelineStays, err == nil, "space %q after %d: %v", space, from, err)
	last := from
	for b, err := range t.Batches {
		s.check(timelineOnce, err == nil, "space %q after %d: %v", space, last, err)
		for _, e := range entriesOf(b) {
			s.check(timelineStays, e.Position > last && e.Position <= t.Head, "position %d of space %q, whose head is %d, follows %d", e.Position, space, t.Head, last)
			last = e.Position
			all = append(all, e)
		}
	}
	return all, t.Head
}

// makeFollowSpace starts a follower of a space, which is no operation: it goes on.
func makeFollowSpace(s *sim, r *rand.Rand) *call {
	space := append([]string{deskName}, spaceNames...)[r.IntN(1+len(spaceNames))]
	c := s.chronicle(space)
	if c.follower != nil || s.broken {
		return nil
	}
	x := &follower{got: make(map[runnel.Position]bool)}
	if n := len(c.at); n > 0 {
		x.from = c.someplace(r)
	}
	x.at = x.from
	c.follower = x
	s.note("follow space %q after %d", space, x.from)
	s.followSpace(c)
	s.settle()
	return nil
}

// someplace picks a position that somebody was shown, or the beginning.
func (c *chronicle) someplace(r *rand.Rand) runnel.Position {
	most := runnel.Position(0)
	for at := range c.at {
		most = max(most, at)
	}
	at := runnel.Position(r.Uint64N(uint64(most) + 1))
	for at > 0 {
		if _, ok := c.at[at]; ok {
			break
		}
		at--
	}
	return at
}

func (s *sim) followSpace(c *chronicle) {
	x := c.follower
	f := new(spaceFeed)
	var ctx context.Context
	ctx, x.cancel = context.WithCancel(s.ctx)
	x.feed = f
	l, at := s.log, x.at
	go func() {
		var failed error
		for b, err := range l.TailSpace(ctx, runnel.Space{Name: c.space}, at) {
			if failed = err; err != nil {
				break
			}
			f.mu.Lock()
			f.entries = append(f.entries, entriesOf(b)...)
			f.mu.Unlock()
		}
		f.mu.Lock()
		f.over, f.err = true, failed
		f.mu.Unlock()
	}()
}

// lookAtFollowers checks what followers of spaces have got.
func (s *sim) lookAtFollowers() {
	for _, space := range append([]string{deskName}, spaceNames...) {
		c := s.chronicles[space]
		if c == nil || c.follower == nil || c.follower.feed == nil {
			continue
		}
		x := c.follower
		x.feed.mu.Lock()
		entries, over, err := x.feed.entries, x.feed.over, x.feed.err
		x.feed.entries = nil
		x.feed.mu.Unlock()
		for i := range entries {
			s.followed(c, &entries[i])
		}
		if over {
			s.check(timelineStays, s.broken, "a follower of space %q is at %d: %v", space, x.at, err)
			x.cancel()
			x.feed = nil
		}
	}
}

// followed checks an entry that a follower got.
func (s *sim) followed(c *chronicle, e *spaceEntry) {
	x := c.follower
	s.check(timelineStays, e.Position > x.at, "a follower of space %q got position %d after %d", c.space, e.Position, x.at)
	s.show(c, e)
	x.at, x.got[e.Position] = e.Position, true
	s.cover.hit("a follower of a space got something live")
	if c.space == deskName {
		s.desk.seen = max(s.desk.seen, e.Position)
	}
	o := s.owned(c.space, e.name)
	if o == nil || o.id != e.id {
		return // the incarnation may be gone by now
	}
	s.check(durableFirst, int(e.sequence) <= len(o.entries), "a follower of space %q got %s %d, of which %d are durable", c.space, e.name, e.sequence, len(o.entries))
	is := o.entries[e.sequence-1]
	s.check(timelineOnce, is.payload == e.payload && int(e.sequence) > o.base, "a follower of space %q got %s as %s %d, which is %s",
		c.space, short([]string{e.payload}), e.name, e.sequence, short([]string{is.payload}))
	s.place(is, e.Position, e.Transaction, e.Time)
}

// parkFollowers ends what followers read from. What they got and nobody has looked at is not theirs.
func (s *sim) parkFollowers() {
	for _, c := range s.chronicles {
		if x := c.follower; x != nil {
			x.cancel()
			x.feed = nil
		}
	}
}

// resumeFollower checks that a follower has missed nothing of what there is, and lets it go on.
func (s *sim) resumeFollower(c *chronicle, all []spaceEntry, there map[string]*owned, head runnel.Position) {
	x := c.follower
	if x == nil {
		return
	}
	s.check(timelineStays, x.at <= head, "a follower of space %q has come to %d, and its head is %d", c.space, x.at, head)
	for i := range all {
		// What was not retained while the clock was ahead may be retained again.
		if at := all[i].Position; at > x.from && at <= x.at && all[i].sequence > there[all[i].name].sure {
			s.check(timelineOnce, x.got[at], "a follower of space %q has come from %d to %d and missed %d, %s %d", c.space, x.from, x.at, at, all[i].name, all[i].sequence)
		}
	}
	s.cover.hit("a follower of a space went on after a restart")
	s.followSpace(c)
}
