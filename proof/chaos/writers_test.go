package chaos

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"
)

// writers are plain: they send each entry once, and never learn what became of one without an answer. Two of
// them share each stream. In the last round of a stream it is closed while they write.
type writers struct {
	streams
	rounds int
	paths  []string
	n      int
}

func (p *writers) name() string { return "plain writers" }

func (p *writers) run(ctx context.Context, w *world) {
	if p.rounds%roundsOfAStream == 0 && !p.rotate(ctx, w) {
		return
	}
	p.rounds++
	var work sync.WaitGroup
	for _, path := range p.paths {
		for range 2 {
			p.n++
			writer := fmt.Sprint("writer-", p.n)
			work.Go(func() { w.writePlainly(ctx, path, text, writer) })
		}
		if p.rounds%roundsOfAStream == 0 {
			work.Go(func() {
				if r := w.rand(); w.wait(ctx, time.Duration(r.IntN(600))*time.Millisecond) {
					w.closeStream(ctx, path)
				}
			})
		}
	}
	work.Wait()
}

// rotate makes new streams.
func (p *writers) rotate(ctx context.Context, w *world) bool {
	for _, path := range p.paths {
		if !w.closeStream(ctx, path) { // again, if the round ended before
			return false
		}
		p.retire(path)
	}
	p.paths = nil
	for range 2 {
		path := fmt.Sprint("plain/", w.streams.Add(1))
		if !w.create(ctx, path, text) {
			return false
		}
		p.add(path, text)
		p.paths = append(p.paths, path)
		w.follow(path, text, overSSE, anyTransport(w.rand()))
	}
	return true
}

// writePlainly appends until ctx ends, or the stream is closed or gone.
func (w *world) writePlainly(ctx context.Context, path, contentType, writer string) {
	r := w.rand()
	for n := 0; ctx.Err() == nil; n++ {
		pad := padding(r)
		if pad > 128<<10 {
			w.counts.hit(largeEntry)
		}
		entry := name(writer, n, pad)
		op := w.ledger.Begin(path, entry)
		q := request{method: http.MethodPost, path: path, contentType: contentType, body: encode(contentType, entry)}
		switch a := w.write(ctx, op, q, false); {
		case a.ok():
		case !a.known():
			w.doubt(op, "")
			w.wait(ctx, 2*time.Millisecond)
		case a.status == http.StatusServiceUnavailable || a.status == http.StatusRequestTimeout:
			w.wait(ctx, 2*time.Millisecond)
		case a.status == http.StatusConflict && a.closed():
			w.counts.hit(closeRefuses)
			return
		case a.status == http.StatusNotFound:
			w.wait(ctx, 2*time.Millisecond)
		default:
			w.fail("%s: append to %s: %v", writer, path, a)
			return
		}
	}
}

func (p *writers) check(w *world, all bool) { p.streams.check(w, others(all)) }
