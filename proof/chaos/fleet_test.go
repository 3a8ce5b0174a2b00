package chaos

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// fleet are streams of one folder that come and go, each with a producer.
type fleet struct {
	folder string
	streams
	rounds int
	lanes  []*lane
}

// ready sees to it that there are streams to write to, and says whether there are.
func (f *fleet) ready(ctx context.Context, w *world) bool {
	if f.rounds%roundsOfAStream == 0 && !f.rotate(ctx, w) {
		return false
	}
	f.rounds++
	return true
}

// write writes to all streams until ctx ends.
func (f *fleet) write(ctx context.Context, w *world) {
	var work sync.WaitGroup
	for _, l := range f.lanes {
		work.Go(func() {
			for r := w.rand(); w.wait(ctx, 3*time.Millisecond); {
				w.produce(ctx, r, l, r.IntN(100))
			}
		})
	}
	work.Wait()
}

// rotate closes the streams and makes new ones, which subscriptions find by themselves.
func (f *fleet) rotate(ctx context.Context, w *world) bool {
	r := w.rand()
	for _, l := range f.lanes {
		for l.pending != nil {
			if !w.produce(ctx, r, l) && ctx.Err() != nil {
				return false
			}
		}
		if !w.closeStream(ctx, l.path) {
			return false
		}
		f.retire(l.path)
	}
	f.lanes = nil
	generation := w.streams.Add(1)
	var lanes []*lane
	for i := range 3 {
		path := fmt.Sprintf("%s/%d/%d", f.folder, generation, i)
		if !w.create(ctx, path, text) {
			return false
		}
		f.add(path, text)
		lanes = append(lanes, &lane{path: path, contentType: text, producer: "producer"})
	}
	f.lanes = lanes
	return true
}
