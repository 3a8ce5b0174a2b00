package chaos

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/runnelhq/runnel/wire"
)

// retained writes to streams that keep only so many entries.
type retained struct {
	streams
	rounds int
	path   string
	n      int
}

// kept is how many entries such a stream keeps.
const kept = 50

func (p *retained) name() string { return "retention" }

func (p *retained) run(ctx context.Context, w *world) {
	if p.rounds%roundsOfAStream == 0 && !p.rotate(ctx, w) {
		return
	}
	p.rounds++
	p.n++
	writer := fmt.Sprint("writer-", p.n)
	var work sync.WaitGroup
	work.Go(func() { w.writePlainly(ctx, p.path, text, writer) })
	work.Go(func() {
		for ; ctx.Err() == nil; w.wait(ctx, 20*time.Millisecond) {
			w.glimpse(ctx, p.path, text, overCatchUp, clientTimeout)
		}
	})
	work.Wait()
}

func (p *retained) rotate(ctx context.Context, w *world) bool {
	if p.path != "" {
		if !w.closeStream(ctx, p.path) {
			return false
		}
		p.retire(p.path)
	}
	p.path = fmt.Sprint("retained/", w.streams.Add(1))
	if !w.create(ctx, p.path, text, wire.HeaderRetentionCount, strconv.Itoa(kept)) {
		p.path = ""
		return false
	}
	p.add(p.path, text)
	return true
}

func (p *retained) check(w *world, all bool) {
	p.streams.check(w, others(all))
	if p.path == "" {
		return
	}
	c := w.read(p.path, text)
	if c.from > 0 {
		w.counts.hit(retentionCut)
	}
	if want := min(kept, c.from+len(c.entries)); len(c.entries) != want {
		w.fail("%s keeps %d entries of %d, want %d", p.path, len(c.entries), c.from+len(c.entries), want)
	}
}

// expiring makes streams that end at a time, and streams that end when nobody has used them for a while.
type expiring struct {
	streams []*mortal
}

// mortal is a stream that is there until lives at least, and is gone by ends at the latest.
type mortal struct {
	path        string
	lives, ends time.Time
	window      time.Duration // that a read begins anew; 0: none
	dead        bool
}

func (p *expiring) name() string { return "streams that expire" }

func (p *expiring) run(ctx context.Context, w *world) {
	for r := w.rand(); ctx.Err() == nil; w.wait(ctx, 100*time.Millisecond) {
		m := &mortal{path: fmt.Sprint("mortal/", w.streams.Add(1))}
		header := []string{wire.HeaderTTL, "2"}
		if r.IntN(2) == 0 {
			m.window = 2 * time.Second
		} else {
			m.ends = time.Now().Add(time.Duration(1000+r.IntN(4000)) * time.Millisecond).Truncate(time.Millisecond)
			m.lives = m.ends
			header = []string{wire.HeaderExpiresAt, m.ends.UTC().Format(time.RFC3339Nano)}
		}
		if w.makeMortal(ctx, m, header) {
			p.streams = append(p.streams, m)
		}
	}
}

// makeMortal creates the stream and appends to it once.
func (w *world) makeMortal(ctx context.Context, m *mortal, header []string) bool {
	first, second := name("first", 0, 10), name("second", 0, 10)
	used := time.Now()
	a := w.write(ctx, w.ledger.BeginCreate(m.path, first), request{
		method: http.MethodPut, path: m.path, contentType: text, body: encode(text, first), header: header,
	}, false)
	if a.status != http.StatusCreated {
		return false
	}
	if time.Now().Add(clientTimeout).Before(m.ends) || m.window > 0 {
		used = time.Now()
		a = w.write(ctx, w.ledger.Begin(m.path, second), request{
			method: http.MethodPost, path: m.path, contentType: text, body: encode(text, second),
		}, false)
		if !a.ok() {
			return false
		}
	}
	if m.window > 0 {
		m.lives, m.ends = used.Add(m.window), slack(time.Now(), m.window)
	}
	return true
}

// slack is when a stream is gone at the latest that was last used at a time: the time of its last use may be
// known to an eighth of its window only.
func slack(used time.Time, window time.Duration) time.Time { return used.Add(window + window/8) }

func (p *expiring) check(w *world, all bool) {
	for _, m := range p.streams {
		for all && time.Now().Before(m.ends) {
			pause(time.Until(m.ends) + time.Millisecond)
		}
		m.check(w)
	}
	p.streams = slices.DeleteFunc(p.streams, func(m *mortal) bool { return m.dead })
}

// check looks whether a stream is there when it must be, and is gone when it must be.
func (m *mortal) check(w *world) {
	const margin = 20 * time.Millisecond // two clocks of one machine, and rounding
	before := time.Now()
	if m.window > 0 && before.Before(m.ends) && before.After(m.lives.Add(-margin)) {
		return // a look might keep it alive
	}
	c := w.read(m.path, text)
	after := time.Now()
	if c.exists {
		w.report(w.ledger.Check(m.path, c.entries, c.closed, true))
	}
	switch {
	case c.exists && before.After(m.ends.Add(margin)):
		w.fail("%s should have expired at %v, and is there at %v", m.path, m.ends, before)
	case !c.exists && after.Before(m.lives.Add(-margin)):
		w.fail("%s should live until %v, and is gone at %v", m.path, m.lives, after)
	case c.exists:
		w.counts.hit(notYetExpired)
	default:
		m.dead = true
		w.counts.hit(expired)
	}
	if c.exists && m.window > 0 {
		m.lives, m.ends = before.Add(m.window), slack(after, m.window)
	}
}
