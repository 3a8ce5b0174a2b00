package chaos

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/runnelhq/runnel/proof/oracle"
	"github.com/runnelhq/runnel/wire"
)

// contenders append to one stream on the condition that the tail is where they believe it is. One of them
// wins each place. Whoever has no answer finds out: by asking again, and then by looking who has won.
type contenders struct {
	streams
	rounds int
	path   string
	n      int
}

func (p *contenders) name() string { return "conditional appends" }

func (p *contenders) run(ctx context.Context, w *world) {
	if p.rounds%roundsOfAStream == 0 && !p.rotate(ctx, w) {
		return
	}
	p.rounds++
	var work sync.WaitGroup
	for range 3 {
		p.n++
		writer := fmt.Sprint("contender-", p.n)
		work.Go(func() {
			tail := 0
			for n := 0; ctx.Err() == nil; n++ {
				tail = w.contend(ctx, p.path, name(writer, n, 0), tail)
			}
		})
	}
	work.Wait()
}

func (p *contenders) rotate(ctx context.Context, w *world) bool {
	if p.path != "" {
		if !w.closeStream(ctx, p.path) {
			return false
		}
		p.retire(p.path)
	}
	p.path = fmt.Sprint("contended/", w.streams.Add(1))
	if !w.create(ctx, p.path, text) {
		p.path = ""
		return false
	}
	p.add(p.path, text)
	w.follow(p.path, text, overLongPoll, anyTransport(w.rand()))
	return true
}

// contend appends an entry if the tail is where it is expected, and returns where the tail is then.
func (w *world) contend(ctx context.Context, path, entry string, tail int) int {
	op := w.ledger.Begin(path, entry)
	q := request{
		method: http.MethodPost, path: path, contentType: text, body: encode(text, entry),
		header: []string{wire.HeaderIfMatch, `"` + offset(tail) + `"`},
	}
	for tries, inDoubt := 0, false; ; tries++ {
		if tries > 0 {
			op.Again()
		}
		a := w.write(ctx, op, q, inDoubt)
		now, told := a.entries()
		switch {
		case a.ok():
			if inDoubt {
				w.counts.hit(tailUnwritten)
			}
			if now != tail+1 {
				w.fail("an append to %s at %d answers that the tail is %d", path, tail, now)
			}
			return now
		case a.status == http.StatusPreconditionFailed && told:
			w.counts.hit(tailMoved)
			if inDoubt {
				w.explain(ctx, op, path, entry, tail)
			}
			return now
		case a.known() && a.status != http.StatusServiceUnavailable && a.status != http.StatusRequestTimeout:
			w.fail("conditional append to %s: %v", path, a)
			w.wait(ctx, time.Hour)
			return tail
		}
		inDoubt = inDoubt || !a.known()
		if !w.wait(ctx, 5*time.Millisecond) {
			if inDoubt {
				w.doubt(op, "")
			}
			return tail
		}
	}
}

// explain looks who has won a place, which tells what became of the operation that wanted it: it cannot
// happen any more.
func (w *world) explain(ctx context.Context, op *oracle.Operation, path, entry string, place int) {
	for {
		a := w.send(ctx, request{method: http.MethodGet, path: path, query: "?offset=" + offset(place)})
		if first, _, ok := bytes.Cut(a.body, []byte{'\n'}); a.status == http.StatusOK && ok && !a.broken {
			if decodeEntry(string(first)) == entry {
				w.counts.hit(tailExplained)
				op.Acknowledged()
			} else {
				op.Refused()
			}
			return
		}
		if !w.wait(ctx, 5*time.Millisecond) {
			w.doubt(op, "")
			return
		}
	}
}

func (p *contenders) check(w *world, all bool) { p.streams.check(w, others(all)) }
