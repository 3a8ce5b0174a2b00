package wire

import (
	"context"
	"errors"
	"iter"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/runnelhq/runnel"
)

// mutation makes the system wrong: the log as clients have it, or as the server has it. That a reader resumes
// elsewhere is made at the server, where only one who resumes asks for what follows a place.
type mutation struct {
	name           string
	client, server func(l runnel.Log) runnel.Log
}

// mutations are ways to be wrong that the proof must see.
var mutations = []mutation{
	{name: "a reader resumes an entry late", server: func(l runnel.Log) runnel.Log { return resuming{l, 1} }},
	{name: "a reader resumes an entry early", server: func(l runnel.Log) runnel.Log { return resuming{l, -1} }},
	{name: "a write that nothing knows again is repeated when its answer is lost", client: func(l runnel.Log) runnel.Log { return repeating{l} }},
	{name: "a repetition that is known again is stored", server: func(l runnel.Log) runnel.Log { return storing{l} }},
	{name: "an answer is given to another call", server: func(l runnel.Log) runnel.Log { return &mixing{Log: l} }},
	{name: "the window of a reader is not opened again", server: func(l runnel.Log) runnel.Log { return &stopping{Log: l} }},
	{name: "a write is answered and not made", server: func(l runnel.Log) runnel.Log { return hasty{l} }},
	{name: "the calls of somebody are never answered", server: func(l runnel.Log) runnel.Log { return silent{l} }},
}

// TestTheMachineryCanSee breaks the system in ways that the proof must see.
func TestTheMachineryCanSee(t *testing.T) {
	const most = 20
	for _, m := range mutations {
		t.Run(m.name, func(t *testing.T) {
			for n := range uint64(most) {
				ctx, cancel := context.WithCancel(t.Context())
				var once sync.Once
				seen := ""
				p := &proof{T: t, broken: &m, seed: *seed + n, patient: 3 * time.Second, ctx: ctx}
				p.found = func(text string) {
					once.Do(func() { seen = text })
					cancel()
				}
				p.run(20_000, 150)
				cancel()
				if seen != "" {
					t.Logf("seen in run %d: %.200s", n+1, seen)
					return
				}
			}
			t.Fatalf("not seen in %d runs", most)
		})
	}
}

func sometimes() bool { return rand.IntN(8) == 0 }

// resuming goes on elsewhere than where a reader has come to.
type resuming struct {
	runnel.Log
	by int
}

func (l resuming) Query(ctx context.Context, q runnel.Query) iter.Seq2[runnel.SpaceBatch, error] {
	if s := &q.Sources[0]; s.After > 0 && s.After != uint64(runnel.Latest) {
		s.After = uint64(int(s.After) + l.by)
	}
	return l.Log.Query(ctx, q)
}

// repeating makes a write again whose outcome it was not told.
type repeating struct{ runnel.Log }

func (l repeating) Append(ctx context.Context, segment runnel.Segment, o runnel.AppendOptions, records ...runnel.Record) (runnel.Appended, error) {
	a, err := l.Log.Append(ctx, segment, o, records...)
	for errors.Is(err, runnel.ErrUnknown) && o.Expect == nil && ctx.Err() == nil {
		a, err = l.Log.Append(ctx, segment, o, records...)
	}
	return a, err
}

// storing stores what is repeated.
type storing struct{ runnel.Log }

func (l storing) Append(ctx context.Context, segment runnel.Segment, o runnel.AppendOptions, records ...runnel.Record) (runnel.Appended, error) {
	a, err := l.Log.Append(ctx, segment, o, records...)
	if err == nil && a.Duplicate {
		return l.Log.Append(ctx, segment, runnel.AppendOptions{}, records...)
	}
	return a, err
}

// mixing answers with what somebody else asked for.
type mixing struct {
	runnel.Log
	mu   sync.Mutex
	last runnel.Entry
}

func (l *mixing) Peek(ctx context.Context, segment runnel.Segment) (runnel.Entry, error) {
	e, err := l.Log.Peek(ctx, segment)
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil {
		e, l.last = l.last, e
	}
	return e, err
}

// stopping hands over some batches of the archive, and then no more.
type stopping struct {
	runnel.Log
	handed atomic.Int64
}

func (l *stopping) Query(ctx context.Context, q runnel.Query) iter.Seq2[runnel.SpaceBatch, error] {
	if q.Sources[0].Segment != archive.Name {
		return l.Log.Query(ctx, q)
	}
	return func(yield func(runnel.SpaceBatch, error) bool) {
		for b, err := range l.Log.Query(ctx, q) {
			if l.handed.Add(1) > 5 {
				<-ctx.Done()
			}
			if !yield(b, err) {
				return
			}
		}
	}
}

// hasty answers some writes without making them.
type hasty struct{ runnel.Log }

func (l hasty) Append(ctx context.Context, segment runnel.Segment, o runnel.AppendOptions, records ...runnel.Record) (runnel.Appended, error) {
	if o.Expect == nil && o.Producer == nil && sometimes() {
		return runnel.Appended{First: 1, Tail: 1}, nil
	}
	return l.Log.Append(ctx, segment, o, records...)
}

// silent does not answer one of the callers.
type silent struct{ runnel.Log }

func (l silent) Stat(ctx context.Context, segment runnel.Segment) (runnel.Info, error) {
	if segment == calls.Segment("3") {
		<-ctx.Done()
	}
	return l.Log.Stat(ctx, segment)
}
