package crash

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/wire"
)

// reader follows a segment live, over restarts and crashes.
type reader struct {
	kind string
	addr runnel.Segment
	life *life
	last *segment        // as the reader last saw it
	at   runnel.Sequence // checked up to here

	cancel context.CancelFunc
	feed   *feed
	client *client // of one that takes its time
}

// feed is what a reader has got and nobody has looked at yet.
type feed struct {
	mu     sync.Mutex
	pieces []piece
	over   bool // the reader has come to an end, by itself
	err    error
	met    []string
}

// meet notes something for the coverage.
func (f *feed) meet(what string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.met = append(f.met, what)
}

// piece is what a reader got at once: the entries after one place and up to another.
type piece struct {
	from, to runnel.Sequence
	text     string
	entries  []runnel.Entry
}

func (f *feed) add(p piece) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.pieces = append(f.pieces, p)
}

func (f *feed) end(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.over, f.err = true, err
}

// makeFollow starts a live reader, which is no operation: it goes on.
func makeFollow(s *sim, r *rand.Rand) *call {
	addr, _ := s.where(r, true)
	sg := s.spaces[addr.Space].base[addr.Name]
	if len(s.readers) >= 6 || s.broken || sg.verdict(s.now()) != alive || !s.readable(addr) {
		return nil
	}
	from := sg.earliest(s.now())
	from += runnel.Sequence(r.IntN(int(sg.tail()-from) + 1))
	x := &reader{kind: []string{"tail", "long-poll", "sse", "slow sse"}[r.IntN(4)], addr: addr, life: sg.life, last: sg, at: from}
	s.note("follow %s after %d by %s", addr, from, x.kind)
	s.readers = append(s.readers, x)
	s.follow(x)
	s.settle()
	return nil
}

func (s *sim) follow(x *reader) {
	var ctx context.Context
	ctx, x.cancel = context.WithCancel(s.ctx)
	x.feed = new(feed)
	f, l, h, at, addr, contentType := x.feed, s.log, s.web, x.at, x.addr, x.life.contentType
	id := x.life.id
	switch x.kind {
	case "tail":
		go func() { f.end(tail(ctx, l, addr, id, at, f)) }()
	case "long-poll":
		go func() { f.end(poll(ctx, h, addr, at, f)) }()
	default:
		if x.kind == "slow sse" {
			x.client = newClient(200)
		}
		c := x.client
		go func() { f.end(events(ctx, h, addr, at, contentType, c, f)) }()
	}
}

func tail(ctx context.Context, l log, addr runnel.Segment, id uint64, at runnel.Sequence, f *feed) error {
	for b, err := range l.Tail(ctx, addr, id, at) {
		if err != nil {
			return err
		}
		p := piece{from: b.First() - 1, to: b.Last()}
		for i := range b.Len() {
			p.entries = append(p.entries, b.Entry(i))
		}
		f.add(p)
	}
	return nil
}

func poll(ctx context.Context, h http.Handler, addr runnel.Segment, at runnel.Sequence, f *feed) error {
	for ctx.Err() == nil {
		w, err := overHTTP{h}.do(ctx, "GET", addr.Path()+"?live=long-poll&offset="+at.Offset(), "")
		if err != nil {
			return err
		}
		next, err := runnel.ParseOffset(w.Header().Get(wire.HeaderNextOffset))
		if err != nil {
			return err
		}
		if w.Code == http.StatusNoContent && ctx.Err() == nil {
			f.meet("a long-poll timed out")
		}
		if w.Code == http.StatusOK && next > at {
			f.add(piece{from: at, to: next, text: w.Body.String()})
		}
		if at = next; w.Header().Get(wire.HeaderClosed) != "" {
			return nil
		}
	}
	return ctx.Err()
}

func events(ctx context.Context, h http.Handler, addr runnel.Segment, at runnel.Sequence, contentType string, c *client, f *feed) error {
	closed := false
	for ctx.Err() == nil && !closed {
		r := httptest.NewRequestWithContext(ctx, "GET", prefix+addr.Path()+"?live=sse&offset="+at.Offset(), nil)
		var text string
		var broken error
		w := &eventStream{header: make(http.Header), code: http.StatusOK, client: c}
		w.event = func(name, data string) {
			switch name {
			case wire.EventData:
				if !isJSON(contentType) && !strings.HasPrefix(contentType, "text/") {
					b, err := base64.StdEncoding.DecodeString(data)
					broken = errors.Join(broken, err)
					data = string(b)
				}
				text += data
			case wire.EventControl:
				var c struct {
					StreamNextOffset string `json:"streamNextOffset"`
					StreamClosed     bool   `json:"streamClosed"`
				}
				broken = errors.Join(broken, json.Unmarshal([]byte(data), &c))
				next, err := runnel.ParseOffset(c.StreamNextOffset)
				broken = errors.Join(broken, err)
				if next > at || text != "" {
					f.add(piece{from: at, to: next, text: text})
				}
				at, text, closed = next, "", closed || c.StreamClosed
			}
		}
		if serve(h, w, r) && ctx.Err() == nil {
			f.meet("a slow reader was dropped, and came back")
		}
		if broken != nil {
			return fmt.Errorf("an event cannot be read: %w", broken)
		}
		if w.code >= 400 {
			var b wire.Body
			if err := json.Unmarshal(w.rest, &b); err != nil {
				return fmt.Errorf("status %d with body %q", w.code, w.rest)
			}
			return b.Err(w.code)
		}
	}
	return ctx.Err()
}

// look checks what live readers have got.
func (s *sim) look() {
	s.readers = slices.DeleteFunc(s.readers, func(x *reader) bool {
		if x.feed == nil {
			return false
		}
		x.feed.mu.Lock()
		pieces, over, err := x.feed.pieces, x.feed.over, x.feed.err
		x.feed.pieces = nil
		for _, what := range x.feed.met {
			s.cover.hit(what)
		}
		x.feed.met = nil
		x.feed.mu.Unlock()
		sg := s.spaces[x.addr.Space].base[x.addr.Name]
		same := sg != nil && sg.life == x.life
		if same {
			x.last = sg
		}
		for _, p := range pieces {
			if !same && x.kind != "tail" {
				return true // the name may stand for another one by now, and HTTP does not tell
			}
			s.piece(x, p)
		}
		if over {
			s.ended(x, same, err)
			x.cancel()
		}
		return over
	})
}

func (s *sim) piece(x *reader, p piece) {
	s.check(gaplessReader, p.from == x.at && p.to > p.from, "%s of %s is at %d and got what is after %d up to %d", x.kind, x.addr, x.at, p.from, p.to)
	s.check(durableFirst, p.to <= x.last.tail(), "%s of %s got entries up to %d, of which %d are durable", x.kind, x.addr, p.to, x.last.tail())
	want := x.last.entries[p.from:p.to]
	x.at = p.to
	s.cover.hit("a live reader got something by " + x.kind)
	if x.kind != "tail" {
		body := bodyOf(x.life.contentType, payloads(want))
		s.check(gaplessReader, p.text == body, "%s of %s got %.200q in place of %s", x.kind, x.addr, p.text, short(payloads(want)))
		return
	}
	for i, e := range p.entries {
		s.check(gaplessReader, string(e.Payload) == want[i].payload && e.Sequence == p.from+runnel.Sequence(i)+1,
			"%s of %s got entry %d, %s, in place of %s", x.kind, x.addr, e.Sequence, short([]string{string(e.Payload)}), short([]string{want[i].payload}))
		s.place(want[i], e.Position, e.Transaction, e.Time)
	}
}

// ended checks why a live reader has come to its end.
func (s *sim) ended(x *reader, same bool, err error) {
	sg := x.last
	s.note("%s of %s ends at %d: %v", x.kind, x.addr, x.at, err)
	ok := false
	switch {
	case s.broken:
		ok = true
	case err == nil:
		ok = sg.closed && x.at == sg.tail() || x.kind != "tail"
	case errors.Is(err, runnel.ErrNotFound), errors.Is(err, runnel.ErrSoftDeleted):
		over := sg.verdict(s.now()) != alive
		ok = !same || over
		s.cover.hit("what a live reader followed went away")
		if same && over {
			s.cover.hit("what a live reader followed expired")
		}
		s.check(livesOn, ok || sg.ttl == 0, "%s of %s was there, and it is gone: %v", x.kind, x.addr, err)
	case errors.Is(err, runnel.ErrTrimmed):
		ok = x.at < sg.earliest(s.now().last())
		s.cover.hit("a live reader was overtaken by retention")
	case errors.Is(err, runnel.ErrBeyondTail):
		ok = !same && x.kind != "tail"
	}
	s.check(gaplessReader, ok, "%s of %s ended at %d of %d: %v", x.kind, x.addr, x.at, sg.tail(), err)
}

// keepAlive notes that the TTL of what live readers follow does not run out. One that reads slowly may have been sent
// all there is, and wait for nothing.
func (s *sim) keepAlive() {
	now := s.now()
	for _, x := range s.readers {
		if x.feed == nil || x.client != nil || x.life.ttl == 0 || s.broken {
			continue
		}
		if l := x.life; now.at.After(l.waited) {
			s.check(livesOn, true, "")
			l.waited = now.at
			if now.at.Sub(l.low) > l.ttl {
				s.cover.hit("a live reader kept a segment from expiring")
			}
		}
	}
	s.mayKeepAlive()
}

// mayKeepAlive notes that the TTL of what live readers follow may not have run out: it has not where they wait, also
// when the clock was set meanwhile, and it may have where they have yet to take what was sent to them.
func (s *sim) mayKeepAlive() {
	now := s.now()
	for _, x := range s.readers {
		if x.feed != nil && !s.broken && now.latest.After(x.life.high) {
			x.life.high = now.latest
		}
	}
}

// parkReaders ends what live readers read from. What they got and nobody has looked at is not theirs.
func (s *sim) parkReaders() {
	for _, x := range s.readers {
		x.cancel()
		if x.client != nil {
			x.client.hangUp()
		}
		x.feed = nil
	}
	s.parkFollowers()
}

// dropSlowReaders ends those who take their time: while they are there, nobody knows whether what they follow expires.
func (s *sim) dropSlowReaders() {
	s.mayKeepAlive()
	s.readers = slices.DeleteFunc(s.readers, func(x *reader) bool {
		if x.client == nil || x.feed == nil {
			return false
		}
		x.cancel()
		x.client.hangUp()
		return true
	})
	s.settle()
}

// readSlowly lets those who take their time take some more.
func (s *sim) readSlowly(r *rand.Rand) {
	for _, x := range s.readers {
		if x.client != nil && r.IntN(2) == 0 {
			x.client.take(1 + r.IntN(1<<(4+r.IntN(14))))
		}
	}
	s.settle()
}

// resume lets a reader go on after a restart, if what it follows is still there.
func (s *sim) resume(x *reader) bool {
	sg := s.spaces[x.addr.Space].base[x.addr.Name]
	if sg == nil || sg.life != x.life || sg.verdict(s.now()) != alive {
		return false
	}
	s.check(keepsSeen, x.at <= sg.tail(), "%s of %s has seen %d entries, and there are %d", x.kind, x.addr, x.at, sg.tail())
	s.cover.hit("a live reader went on after a restart")
	x.last = sg
	s.follow(x)
	return true
}
