package engine_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"pgregory.net/rapid"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/engine"
)

// A follower tails a segment, or waits at a place of it, while the history goes on. Every player has one.
type follower struct {
	what    string
	s       *modelSegment
	at      runnel.Sequence
	waits   bool // and does not tail
	want    []modelEntry
	first   runnel.Sequence // before what it is to see
	players []*following

	// ended says that it must have come to an end: cleanly with nil.
	ended bool
	err   error
	info  runnel.Info
}

// following is a follower at one player.
type following struct {
	cancel context.CancelFunc

	mu   sync.Mutex
	got  []runnel.Entry
	info runnel.Info
	done bool
	err  error
}

func (f *following) end(in runnel.Info, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.done, f.info, f.err = true, in, err
}

func (f *following) tail(ctx context.Context, e *engine.Engine, addr runnel.Segment, id uint64, from runnel.Sequence) {
	for b, err := range e.Tail(ctx, addr, id, from) {
		if err != nil {
			f.end(runnel.Info{}, err)
			return
		}
		f.mu.Lock()
		for i := range b.Len() {
			f.got = append(f.got, b.Entry(i))
		}
		f.mu.Unlock()
	}
	f.end(runnel.Info{}, nil)
}

func (f *following) wait(ctx context.Context, e *engine.Engine, addr runnel.Segment, id uint64, from runnel.Sequence) {
	in, err := e.Wait(ctx, addr, id, from)
	f.end(plainInfo(in), err)
}

// follow is where a follower has come to after what has happened to its segment.
func (m *model) follow(f *follower) {
	s := f.s
	switch {
	case f.ended:
		return
	case s.ended:
		f.end(runnel.ErrNotFound)
		return
	case s.softDeleted:
		f.end(runnel.ErrSoftDeleted)
		return
	}
	s.retain(m.now)
	switch tail := s.tail(); {
	case int(f.at) < s.earliest:
		f.leave(m, runnel.ErrTrimmed)
	case f.waits && (tail > f.at || s.closed):
		f.leave(m, nil)
		f.info = s.info()
	case !f.waits:
		f.want = append(f.want, s.entries[f.at:]...)
		f.at = tail
		if s.closed {
			f.leave(m, nil)
		}
	}
}

func (f *follower) end(err error) { f.ended, f.err = true, err }

// leave ends a follower of a segment that lives on.
func (f *follower) leave(m *model, err error) {
	f.end(err)
	f.s.readers--
	f.s.accessed = m.now
}

// startFollower begins to follow on every player.
func (m *machine) startFollower(t *rapid.T) {
	which, addr, id := drawEngine(t), m.name(t), drawID(t)
	from := m.place(t, m.segments[addr])
	waits := rapid.Bool().Draw(t, "waits")
	f := &follower{what: fmt.Sprintf("follow %s after %d, only waiting %v, %s", addr, from, waits, id), waits: waits}
	place := from
	s, err := m.meant(addr, id)
	if err == nil {
		s, err = m.open(addr, &place)
	}
	f.s, f.at, f.first = s, place, place
	if err != nil {
		f.end(err)
	} else {
		s.readers++
		m.follow(f)
	}
	for _, p := range m.players {
		e := p.engine(which)
		following, own := &following{}, p.id(e, addr, id)
		var ctx context.Context
		ctx, following.cancel = context.WithCancel(context.Background())
		f.players = append(f.players, following)
		if waits {
			go following.wait(ctx, e, addr, own, from)
		} else {
			go following.tail(ctx, e, addr, own, from)
		}
	}
	m.followers = append(m.followers, f)
}

// checkFollowers compares what all followers have seen with what they must have, and lets go of those
// that have come to an end.
func (m *machine) checkFollowers(t *rapid.T) {
	t.Helper()
	for _, f := range m.followers {
		m.follow(f)
		for i, p := range m.players {
			if err := f.check(i); err != nil {
				t.Fatalf("%s: %v\nof player %s", f.what, err, p)
			}
		}
	}
	m.followers = slices.DeleteFunc(m.followers, func(f *follower) bool {
		if f.ended {
			f.cancel()
		}
		return f.ended
	})
}

func (f *follower) cancel() {
	for _, p := range f.players {
		p.cancel()
	}
}

func (f *follower) check(player int) error {
	p := f.players[player]
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.done != f.ended {
		return fmt.Errorf("ended is %v with %w, want %v with %w", p.done, p.err, f.ended, f.err)
	}
	gone := errors.Is(f.err, runnel.ErrNotFound) && errors.Is(p.err, runnel.ErrSoftDeleted) // first one, then the other
	if f.ended && !gone && ((p.err == nil) != (f.err == nil) || f.err != nil && !errors.Is(p.err, f.err)) {
		return fmt.Errorf("ended with %w, want %w", p.err, f.err)
	}
	if p.info != f.info {
		return fmt.Errorf("returned %+v, want %+v", p.info, f.info)
	}
	return sameEntries(player, f.first, p.got, f.want)
}

// stopFollowers ends some followers.
func (m *machine) stopFollowers(t *rapid.T, which func(f *follower) bool) {
	t.Helper()
	var stopped []*follower
	m.followers = slices.DeleteFunc(m.followers, func(f *follower) bool {
		if which(f) {
			f.cancel()
			stopped = append(stopped, f)
			return true
		}
		return false
	})
	if len(stopped) == 0 {
		return
	}
	m.settle()
	for _, f := range stopped {
		f.leave(&m.model, context.Canceled)
		for i, p := range m.players {
			if err := f.check(i); err != nil {
				t.Fatalf("%s: %v\nof player %s", f.what, err, p)
			}
		}
	}
}

// heldView is a view that is ranged over later.
type heldView struct {
	s       *modelSegment
	from    runnel.Sequence
	want    []modelEntry
	views   []runnel.View
	opening []int // how often each player had been opened
}

// drain ranges over a view. What has gone meanwhile may be missing, and is never something else.
func (m *machine) drain(t *rapid.T, h *heldView) {
	t.Helper()
	for i, p := range m.players {
		got, err := entriesOf(h.views[i])
		whole := !h.s.ended && !h.s.softDeleted && h.s.earliest <= int(h.from) && p.opened == h.opening[i]
		if !whole && (errors.Is(err, runnel.ErrNotFound) || errors.Is(err, runnel.ErrSoftDeleted) ||
			errors.Is(err, runnel.ErrTrimmed) || errors.Is(err, runnel.ErrShutdown)) {
			err = nil
		}
		want := h.want
		if !whole {
			want = want[:min(len(got), len(want))]
		}
		if err == nil {
			err = sameEntries(i, h.from, got, want)
		}
		if err != nil {
			t.Fatalf("a view of %s after %d that was held: %v\nof player %s", h.s.addr, h.from, err, p)
		}
	}
}
