package chaos

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"
)

// archive is a stream that is larger than what connections hold on their way, so that the server dies, or
// stands still, in the middle of answers. It is filled once, and then read slowly from the beginning, again
// and again.
type archive struct {
	streams
	lane *lane
}

const (
	archiveEntries = 250
	archivePadding = 64 << 10 // bytes, or up to twice as many
)

func (p *archive) name() string { return "readers of a large stream" }

func (p *archive) run(ctx context.Context, w *world) {
	r := w.rand()
	if p.lane == nil {
		path := fmt.Sprint("archive/", w.streams.Add(1))
		if !w.create(ctx, path, text) {
			return
		}
		p.add(path, text)
		p.lane = &lane{path: path, contentType: text, producer: "archivist"}
	}
	var work sync.WaitGroup
	for _, over := range []transport{overCatchUp, overSSE} {
		work.Go(func() {
			for ctx.Err() == nil {
				w.reread(ctx, p.lane.path, over)
			}
		})
	}
	for p.lane.n < archiveEntries && ctx.Err() == nil {
		w.produce(ctx, r, p.lane, archivePadding+r.IntN(archivePadding))
	}
	work.Wait()
}

// reread reads a stream from its beginning as one new reader, over one connection.
func (w *world) reread(ctx context.Context, path string, over transport) {
	f := w.newFollower(path, text, over)
	f.slow = true
	connect := f.catchUp
	if over == overSSE {
		connect = f.events
	}
	ctx, stop := context.WithTimeout(ctx, readerPatience)
	defer stop()
	if connect(ctx) != nil {
		w.wait(ctx, 10*time.Millisecond)
	}
}

func (p *archive) check(w *world, all bool) { p.streams.check(w, others(all)) }

// paddings chooses those of so many entries.
func paddings(r *rand.Rand, n int) []int {
	pads := make([]int, n)
	for i := range pads {
		pads[i] = padding(r)
	}
	return pads
}
