package engine

import (
	"context"
	"iter"
	"sync"

	"github.com/runnelhq/runnel"
)

// queryMerged yields the timelines of several spaces as one: what there is in the order of time, entries
// of one moment in the order of the sources, and then, if the query follows, everything as it comes.
func (e *Engine) queryMerged(ctx context.Context, s *selection) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	heads := make([]*strand, len(s.q.Sources))
	for i, src := range s.q.Sources {
		st := &strand{source: src, stop: func() {}}
		err := st.open(ctx, e, s.q)
		defer st.stop()
		if err != nil {
			return err
		}
		heads[i] = st
	}
	for {
		var first *strand
		for _, st := range heads {
			if !st.done && (first == nil || st.head.Entry(0).Time.Before(first.head.Entry(0).Time)) {
				first = st
			}
		}
		if first == nil {
			break
		}
		if err := s.take(first.head); err != nil {
			return err
		}
		if err := first.advance(); err != nil {
			return err
		}
	}
	if !s.q.Follow {
		return nil
	}
	return e.followMerged(ctx, cancel, s, heads)
}

// strand is one of the timelines that are merged.
type strand struct {
	source runnel.Source
	end    uint64 // where what is merged by time ends
	next   func() (runnel.SpaceBatch, error, bool)
	stop   func()
	head   runnel.SpaceBatch
	done   bool
}

func (st *strand) open(ctx context.Context, e *Engine, q *runnel.Query) error {
	r := &spaceReel{e: e, space: st.source.Space}
	_, last, _, err := r.ends(ctx)
	if err != nil {
		return err
	}
	if after := st.source.After; after > last && after != uint64(runnel.LatestPosition) {
		return r.beyond(after, last)
	}
	if st.end = last; last == 0 {
		st.done = true
		return nil
	}
	one := runnel.Query{Sources: []runnel.Source{st.source}, Since: q.Since, Until: q.Until, Through: last}
	st.next, st.stop = iter.Pull2(e.querySome(ctx, one, true))
	return st.advance()
}

func (st *strand) advance() error {
	b, err, ok := st.next()
	st.head, st.done = b, !ok
	return err
}

// followMerged yields what comes to any of the spaces.
func (e *Engine) followMerged(ctx context.Context, cancel context.CancelFunc, s *selection, all []*strand) error {
	type arrival struct {
		runnel.SpaceBatch
		err  error
		done bool
	}
	arrivals := make(chan arrival)
	send := func(a arrival) bool {
		select {
		case arrivals <- a:
			return true
		case <-ctx.Done():
			return false
		}
	}
	var work sync.WaitGroup
	defer work.Wait()
	defer cancel()
	for _, st := range all {
		src := st.source
		if src.After < st.end || src.After == uint64(runnel.LatestPosition) {
			src.After = st.end
		}
		one := runnel.Query{Sources: []runnel.Source{src}, Since: s.q.Since, Until: s.q.Until, Follow: true}
		work.Go(func() {
			for b, err := range e.querySome(ctx, one, true) {
				if !send(arrival{SpaceBatch: b, err: err}) || err != nil {
					return
				}
			}
			send(arrival{done: true})
		})
	}
	for left := len(all); left > 0; {
		select {
		case a := <-arrivals:
			switch {
			case a.err != nil:
				return a.err
			case a.done:
				left--
			default:
				if err := s.take(a.SpaceBatch); err != nil {
					return err
				}
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}
