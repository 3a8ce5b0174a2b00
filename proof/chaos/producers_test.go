package chaos

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/proof/oracle"
	"github.com/runnelhq/runnel/wire"
)

// producers are idempotent: each writes to a stream that all share and to one of its own, and repeats a
// write under its number until it has an answer, over restarts and checks. Now and then one takes a new
// epoch, and something that still has the old one tries to write.
type producers struct {
	id          string
	contentType string
	count       int
	largest     int // append, in entries

	streams
	rounds int
	lanes  [][]*lane // by producer
}

// lane is a producer in one stream.
type lane struct {
	path, contentType, producer string

	epoch, seq uint64
	n          int
	// pending is the write whose outcome is not known, nil if there is none.
	pending *oracle.Operation
	body    string
}

func (p *producers) name() string { return "idempotent producers of " + p.id }

func (p *producers) run(ctx context.Context, w *world) {
	if p.rounds%roundsOfAStream == 0 && !p.rotate(ctx, w) {
		return
	}
	p.rounds++
	var work sync.WaitGroup
	for _, lanes := range p.lanes {
		work.Go(func() {
			for r := w.rand(); ctx.Err() == nil; {
				for _, l := range lanes {
					w.produce(ctx, r, l, paddings(r, 1+r.IntN(p.largest))...)
				}
			}
		})
	}
	work.Wait()
}

// rotate closes the streams and makes new ones.
func (p *producers) rotate(ctx context.Context, w *world) bool {
	r := w.rand()
	for _, lanes := range p.lanes {
		for _, l := range lanes {
			for l.pending != nil {
				if !w.produce(ctx, r, l) && ctx.Err() != nil {
					return false
				}
			}
		}
	}
	for path := range p.active {
		if !w.closeStream(ctx, path) {
			return false
		}
		p.retire(path)
	}
	p.lanes = nil
	generation := w.streams.Add(1)
	shared := fmt.Sprintf("%s/shared-%d", p.id, generation)
	if !p.open(ctx, w, shared, transports...) {
		return false
	}
	for i := range p.count {
		own := fmt.Sprintf("%s/own-%d-%d", p.id, generation, i)
		if !p.open(ctx, w, own, anyTransport(r)) {
			return false
		}
		producer := fmt.Sprint("producer-", i)
		p.lanes = append(p.lanes, []*lane{
			{path: shared, contentType: p.contentType, producer: producer},
			{path: own, contentType: p.contentType, producer: producer},
		})
	}
	return true
}

func (p *producers) open(ctx context.Context, w *world, path string, over ...transport) bool {
	if !w.create(ctx, path, p.contentType) {
		return false
	}
	p.add(path, p.contentType)
	w.follow(path, p.contentType, over...)
	return true
}

// produce sends the next write, of entries with these paddings, or instead the pending one again. It tells
// whether there was an answer.
func (w *world) produce(ctx context.Context, r *rand.Rand, l *lane, pads ...int) bool {
	again := l.pending != nil
	found, checked := false, false
	if again {
		found, checked = l.pending.Settled()
		l.pending.Again()
	} else {
		if l.seq > 0 && r.IntN(80) == 0 {
			w.counts.hit(epochBumped)
			l.epoch, l.seq = l.epoch+1, 0
		}
		var names []string
		for _, pad := range pads {
			if pad > 128<<10 {
				w.counts.hit(largeEntry)
			}
			names = append(names, name(l.producer, l.n, pad))
			l.n++
		}
		l.body = encode(l.contentType, names...)
		l.pending = w.ledger.Begin(l.path, names...)
	}
	a := w.write(ctx, l.pending, l.request(l.epoch, l.seq, l.body), true)
	switch {
	case !a.known() || a.status == http.StatusServiceUnavailable:
		w.doubtOnce(l, again, len(pads))
		w.wait(ctx, 5*time.Millisecond)
		return false
	case !a.ok():
		w.fail("%s, epoch %d, write %d to %s: %v", l.producer, l.epoch, l.seq, l.path, a)
		w.wait(ctx, time.Hour)
		return true
	}
	known := a.status == http.StatusNoContent
	switch {
	case known && !again:
		w.fail("%s, epoch %d, write %d to %s is new and is taken for a repetition", l.producer, l.epoch, l.seq, l.path)
	case checked && found != known:
		w.fail("%s, epoch %d, write %d to %s: it was there: %v; its repetition was recognised: %v",
			l.producer, l.epoch, l.seq, l.path, found, known)
	case checked && known:
		w.counts.hit(retryLate)
	case known:
		w.counts.hit(retryKnown)
	case again:
		w.counts.hit(retryNew)
	}
	l.pending = nil
	l.seq++
	if l.epoch > 0 && l.seq == 1 {
		w.writeOfOldEpoch(ctx, l)
	}
	return true
}

// doubtOnce counts what a write whose outcome is not known turns out to be.
func (w *world) doubtOnce(l *lane, again bool, entries int) {
	if again {
		return
	}
	kind := sometimes("")
	if entries > 1 {
		kind = doubtBatch
	}
	w.doubt(l.pending, kind)
}

// writeOfOldEpoch sends what a former self of the producer might, which must not be written.
func (w *world) writeOfOldEpoch(ctx context.Context, l *lane) {
	stale := name(l.producer+"-stale", l.n, 0)
	l.n++
	op := w.ledger.Begin(l.path, stale)
	switch a := w.write(ctx, op, l.request(l.epoch-1, 0, encode(l.contentType, stale)), false); {
	case a.status == http.StatusForbidden:
		w.counts.hit(epochFenced)
	case a.ok() && a.status == http.StatusOK:
		w.fail("%s: a write of epoch %d to %s was accepted after epoch %d", l.producer, l.epoch-1, l.path, l.epoch)
	case a.known() && a.status != http.StatusServiceUnavailable:
		w.fail("%s: a write of epoch %d to %s after epoch %d: %v", l.producer, l.epoch-1, l.path, l.epoch, a)
	}
}

func (l *lane) request(epoch, seq uint64, body string) request {
	return request{
		method: http.MethodPost, path: l.path, contentType: l.contentType, body: body,
		header: []string{
			wire.HeaderProducerID, l.producer,
			wire.HeaderProducerEpoch, strconv.FormatUint(epoch, 10),
			wire.HeaderProducerSeq, strconv.FormatUint(seq, 10),
		},
	}
}

func (p *producers) check(w *world, all bool) { p.streams.check(w, others(all)) }

// offset is the place after so many entries.
func offset(entries int) string { return runnel.Sequence(entries).Offset() }
