package chaos

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/runnelhq/runnel/proof/oracle"
	"github.com/runnelhq/runnel/wire"
)

// sequenced is a writer that numbers its appends with Stream-Seq, and so finds out what became of one by
// sending it again: it is refused if it was written.
type sequenced struct {
	streams
	rounds int
	path   string
	n      int
	// pending is the append whose outcome is not known at the end of a round, nil if there is none.
	pending *oracle.Operation
}

func (p *sequenced) name() string { return "a writer with Stream-Seq" }

func (p *sequenced) run(ctx context.Context, w *world) {
	if p.rounds%roundsOfAStream == 0 && p.pending == nil && !p.rotate(ctx, w) {
		return
	}
	p.rounds++
	for r := w.rand(); ctx.Err() == nil; {
		if p.append(ctx, w) && r.IntN(10) == 0 {
			p.appendLate(ctx, w, r.IntN(p.n)+1)
		}
	}
}

func (p *sequenced) rotate(ctx context.Context, w *world) bool {
	if p.path != "" {
		if !w.closeStream(ctx, p.path) {
			return false
		}
		p.retire(p.path)
	}
	p.path = fmt.Sprint("sequenced/", w.streams.Add(1))
	p.n = 0
	if !w.create(ctx, p.path, text) {
		p.path = ""
		return false
	}
	p.add(p.path, text)
	w.follow(p.path, text, anyTransport(w.rand()))
	return true
}

// request is that of an append, and seq its number.
func (p *sequenced) request(entry string, seq int) request {
	return request{
		method: http.MethodPost, path: p.path, contentType: text, body: encode(text, entry),
		header: []string{wire.HeaderSeq, fmt.Sprintf("%08d", seq)},
	}
}

// append sends the next append, or the pending one, until there is an answer or ctx ends.
func (p *sequenced) append(ctx context.Context, w *world) bool {
	inDoubt := p.pending != nil
	entry := name("sequenced", p.n, 0)
	op := p.pending
	if op == nil {
		op = w.ledger.Begin(p.path, entry)
	}
	for again := inDoubt; ; again = true {
		if again {
			op.Again()
		}
		a := w.write(ctx, op, p.request(entry, p.n+1), inDoubt)
		switch {
		case a.ok():
			if inDoubt {
				w.counts.hit(seqUnwritten)
			}
			p.pending, p.n = nil, p.n+1
			return true
		case a.status == http.StatusConflict && inDoubt:
			w.counts.hit(seqExplained)
			op.Acknowledged()
			p.pending, p.n = nil, p.n+1
			return true
		case a.known() && a.status != http.StatusServiceUnavailable && a.status != http.StatusRequestTimeout:
			w.fail("append %d to %s: %v", p.n+1, p.path, a)
			w.wait(ctx, time.Hour)
			return false
		}
		inDoubt = inDoubt || !a.known()
		if !w.wait(ctx, 5*time.Millisecond) {
			if inDoubt {
				p.pending = op
				w.doubt(op, "")
				return false
			}
			p.n++ // the number of one that was refused
			return false
		}
	}
}

// appendLate sends an append with a number that has been used.
func (p *sequenced) appendLate(ctx context.Context, w *world, seq int) {
	entry := name("late", int(w.streams.Add(1)), 0)
	switch a := w.write(ctx, w.ledger.Begin(p.path, entry), p.request(entry, seq), false); {
	case a.ok():
		w.fail("append %d to %s was accepted after %d", seq, p.path, p.n)
	case a.status == http.StatusConflict:
		w.counts.hit(seqRefused)
	}
}

func (p *sequenced) check(w *world, all bool) { p.streams.check(w, others(all)) }
