package chaos

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/runnelhq/runnel/proof/oracle"
	"github.com/runnelhq/runnel/wire"
)

// forks make streams that begin with a part of another one, write to both, and later delete the source, and
// then now and then the fork.
type forks struct {
	streams
	pairs []*pair
}

// pair is a source and its fork.
type pair struct {
	source, fork   string
	contentType    string
	rounds         int
	sourceDeleted  bool
	sourceRemained bool
}

func (p *forks) name() string { return "forks" }

func (p *forks) run(ctx context.Context, w *world) {
	for _, pr := range p.pairs {
		p.end(ctx, w, pr)
	}
	p.pairs = slices.DeleteFunc(p.pairs, func(pr *pair) bool { return pr.rounds >= 3 })
	for ctx.Err() == nil {
		p.make(ctx, w)
		w.wait(ctx, 20*time.Millisecond)
	}
}

// end deletes what earlier rounds have made: only that, so that no creation is still under way.
func (p *forks) end(ctx context.Context, w *world, pr *pair) {
	pr.rounds++
	switch r := w.rand(); {
	case pr.rounds == 1 && r.IntN(2) == 0:
		pr.sourceDeleted = w.delete(ctx, pr.source)
	case pr.rounds < 3:
	case r.IntN(2) == 0 && w.delete(ctx, pr.fork) || w.closeStream(ctx, pr.fork):
		p.retire(pr.source)
		p.retire(pr.fork)
	default:
		pr.rounds-- // the next round tries again
	}
}

// delete deletes a stream that is never created again, and tells whether that was answered.
func (w *world) delete(ctx context.Context, path string) bool {
	return w.attempt(ctx, doubtDelete, func() (*oracle.Operation, request) {
		return w.ledger.BeginDelete(path), request{method: http.MethodDelete, path: path}
	})
}

func (p *forks) make(ctx context.Context, w *world) {
	r := w.rand()
	n := w.streams.Add(1)
	pr := &pair{
		source: fmt.Sprintf("source/%d", n), fork: fmt.Sprintf("fork/%d", n),
		contentType: []string{text, messages}[r.IntN(2)],
	}
	p.add(pr.source, pr.contentType)
	made := false
	defer func() {
		if !made { // it is only checked from now on
			p.retire(pr.source)
			p.retire(pr.fork)
		}
	}()
	if !w.create(ctx, pr.source, pr.contentType) {
		return
	}
	from := &lane{path: pr.source, contentType: pr.contentType, producer: "source"}
	var entries []string
	for range 1 + r.IntN(6) {
		entry, ok := w.insistOn(ctx, from)
		if !ok {
			return
		}
		entries = append(entries, entry)
	}
	inherited := entries[:1+r.IntN(len(entries))]
	p.add(pr.fork, pr.contentType)
	q := request{method: http.MethodPut, path: pr.fork, contentType: pr.contentType, header: []string{
		wire.HeaderForkedFrom, "/v1/stream/" + pr.source,
		wire.HeaderForkOffset, offset(len(inherited)),
	}}
	switch a, ok := w.insist(ctx, w.ledger.BeginCreate(pr.fork, inherited...), q, doubtCreate); {
	case !ok:
		return
	case !a.ok():
		w.fail("forking %s at %d: %v", pr.source, len(inherited), a)
		return
	}
	made = true
	w.counts.hit(forkMade)
	w.followUntil(pr.fork, pr.contentType, true, anyTransport(r))
	p.pairs = append(p.pairs, pr)
	to := &lane{path: pr.fork, contentType: pr.contentType, producer: "fork"}
	for range r.IntN(4) {
		for _, l := range []*lane{to, from} {
			if _, ok := w.insistOn(ctx, l); !ok {
				return
			}
		}
	}
}

// insistOn appends one entry as a producer, and returns it.
func (w *world) insistOn(ctx context.Context, l *lane) (string, bool) {
	entry := name(l.producer, l.n, l.n%50)
	l.n++
	q := l.request(0, l.seq, encode(l.contentType, entry))
	l.seq++
	a, ok := w.insist(ctx, w.ledger.Begin(l.path, entry), q, "")
	if ok && !a.ok() {
		w.fail("append to %s: %v", l.path, a)
	}
	return entry, ok && a.ok()
}

func (p *forks) check(w *world, all bool) {
	p.streams.check(w, others(all))
	for _, pr := range p.pairs {
		if pr.sourceDeleted && !pr.sourceRemained && w.read(pr.fork, pr.contentType).exists {
			pr.sourceRemained = true
			w.counts.hit(forkOrphaned)
		}
	}
}
