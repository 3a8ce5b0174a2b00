package chaos

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"github.com/runnelhq/runnel/proof/oracle"
	"github.com/runnelhq/runnel/wire"
)

// closers take streams through short lives: created with an entry, filled, closed with a last one or
// without.
type closers struct {
	streams
	unfinished []string // at the end of a round
}

func (p *closers) name() string { return "closers" }

func (p *closers) run(ctx context.Context, w *world) {
	for _, path := range p.unfinished {
		if !w.closeStream(ctx, path) {
			return
		}
		p.retire(path)
	}
	p.unfinished = nil
	var work sync.WaitGroup
	for range 2 {
		work.Go(func() {
			for ctx.Err() == nil {
				p.live(ctx, w)
				w.wait(ctx, 10*time.Millisecond)
			}
		})
	}
	work.Wait()
}

func (p *closers) live(ctx context.Context, w *world) {
	r := w.rand()
	path := fmt.Sprint("life/", w.streams.Add(1))
	contentType := []string{text, octets, messages}[r.IntN(3)]
	p.add(path, contentType)
	first := name("first", 0, r.IntN(100))
	q := request{method: http.MethodPut, path: path, contentType: contentType, body: encode(contentType, first)}
	switch a, ok := w.insist(ctx, w.ledger.BeginCreate(path, first), q, doubtCreate); {
	case !ok:
		return
	case !a.ok():
		w.fail("creating %s: %v", path, a)
		return
	}
	w.follow(path, contentType, anyTransport(r))
	if p.fill(ctx, w, r, path, contentType) {
		p.retire(path)
		return
	}
	p.mu.Lock()
	p.unfinished = append(p.unfinished, path)
	p.mu.Unlock()
}

// fill appends to a stream and closes it, and tells whether it came to that.
func (p *closers) fill(ctx context.Context, w *world, r *rand.Rand, path, contentType string) bool {
	l := &lane{path: path, contentType: contentType, producer: "middle"}
	for range r.IntN(4) {
		for !w.produce(ctx, r, l, padding(r)) {
			if ctx.Err() != nil {
				return false
			}
		}
	}
	if r.IntN(2) == 0 {
		return w.closeStream(ctx, path)
	}
	last := name("last", 0, r.IntN(100))
	q := (&lane{path: path, contentType: contentType, producer: "closer"}).request(0, 0, encode(contentType, last))
	q.header = append(q.header, wire.HeaderClosed, "true")
	a, ok := w.insist(ctx, w.ledger.BeginClose(path, last), q, doubtClose)
	if ok && !a.ok() {
		w.fail("closing %s with an entry: %v", path, a)
	}
	return ok
}

func (p *closers) check(w *world, all bool) {
	p.streams.check(w, others(all))
}

// recreators delete streams and create them again under the same names, while others write to whatever life
// is there and look at it.
type recreators struct {
	streams
	n int
}

func (p *recreators) name() string { return "deleters and re-creators of the same name" }

func (p *recreators) run(ctx context.Context, w *world) {
	var work sync.WaitGroup
	for i := range 2 {
		path := fmt.Sprint("again/", i)
		contentType := []string{text, messages}[i]
		p.add(path, contentType)
		p.n++
		writer := fmt.Sprint("writer-", p.n)
		work.Go(func() { p.live(ctx, w, path, contentType) })
		work.Go(func() { w.writePlainly(ctx, path, contentType, writer) })
		for _, over := range []transport{overSSE, overCatchUp} {
			work.Go(func() {
				for r := w.rand(); ctx.Err() == nil; w.wait(ctx, 10*time.Millisecond) {
					w.glimpse(ctx, path, contentType, over, time.Duration(r.IntN(400))*time.Millisecond)
				}
			})
		}
	}
	work.Wait()
}

// live creates and deletes in turn. An attempt without an answer may still happen after a later one that has
// one, so each is an operation of its own.
func (p *recreators) live(ctx context.Context, w *world, path, contentType string) {
	r := w.rand()
	for deleted := false; ctx.Err() == nil; {
		made := w.attempt(ctx, doubtCreate, func() (*oracle.Operation, request) {
			first := name("first", int(w.streams.Add(1)), r.IntN(100))
			return w.ledger.BeginCreate(path, first), request{
				method: http.MethodPut, path: path, contentType: contentType, body: encode(contentType, first),
			}
		})
		if made && deleted {
			w.counts.hit(recreated)
		}
		w.wait(ctx, time.Duration(10+r.IntN(150))*time.Millisecond)
		deleted = w.attempt(ctx, doubtDelete, func() (*oracle.Operation, request) {
			return w.ledger.BeginDelete(path), request{method: http.MethodDelete, path: path}
		})
	}
}

// attempt makes operations until one has an answer, and tells whether that is that it happened.
func (w *world) attempt(ctx context.Context, kind sometimes, next func() (*oracle.Operation, request)) bool {
	for {
		op, q := next()
		a := w.send(ctx, q)
		switch {
		case !a.known():
			op.Unknown()
			w.doubt(op, kind)
		case a.status == http.StatusServiceUnavailable:
			op.Refused()
		case q.method == http.MethodPut && a.status == http.StatusOK:
			op.Refused() // another life is there, and what it was to begin with was not written
			return false
		case q.method == http.MethodDelete && (a.status == http.StatusNotFound || a.status == http.StatusGone):
			op.Acknowledged()
			return true
		case a.ok():
			w.acked.Add(1)
			op.Acknowledged()
			return true
		default:
			op.Refused()
			w.fail("%s %s: %v", q.method, q.path, a)
			return false
		}
		if !w.wait(ctx, 5*time.Millisecond) {
			return false
		}
	}
}

func (p *recreators) check(w *world, all bool) { p.streams.check(w, others(all)) }
