package linear

import (
	"context"
	"errors"
	"iter"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"sync"
	"testing"

	"github.com/anishathalye/porcupine"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/items"
	"github.com/runnelhq/runnel/items/ops"
	"github.com/runnelhq/runnel/storage"
)

// mutation makes a world wrong from outside: the log as clients see it, or the driver as engines do; or a server of
// items, or the log as it sees it. The zero mutation changes nothing.
type mutation struct {
	log    func(l log) log
	driver func(d storage.Driver) storage.Driver
	face   func(h http.Handler) http.Handler
	items  func(l items.Log) items.Log
}

// wrong is a way to be wrong, with a model and a world in which it must be seen.
type wrong struct {
	name  string
	model *model
	kind  kind
	make  func() mutation
}

// mutations are ways to be wrong about segments and items.
var mutations = []wrong{
	{"a read is stale now and then", appendModel, kind{driver: "memory"}, ofLog(func(l log) log { return &stale{log: l, seen: make(map[string]snapshot)} })},
	{"an append is acknowledged and lost", appendModel, kind{driver: "pebble"}, ofLog(func(l log) log { return losing{l} })},
	{"an append of unknown outcome is made again", appendModel, kind{driver: "memory"}, ofLog(func(l log) log { return again{l} })},
	{"a lost answer of the driver is taken for a conflict", appendModel, kind{driver: "shared", faults: true}, func() mutation {
		return mutation{driver: func(d storage.Driver) storage.Driver { return lying{d} }}
	}},
	{"an expected tail is ignored", appendModel, kind{driver: "shared"}, ofLog(func(l log) log { return careless{l} })},
	{"a live read misses a batch", appendModel, kind{driver: "memory"}, ofLog(func(l log) log { return skipping{l} })},
	{"the tail of a refusal is off by one", appendModel, kind{driver: "memory"}, ofLog(func(l log) log { return imprecise{l} })},
	{"a stale read over HTTP", appendModel, kind{driver: "memory", http: true}, ofLog(func(l log) log { return &stale{log: l, seen: make(map[string]snapshot)} })},
	{"the fence of a producer is forgotten", producerModel, kind{driver: "memory"}, ofLog(func(l log) log { return unfenced{l} })},
	{"a producer's repetition is stored", producerModel, kind{driver: "pebble"}, ofLog(func(l log) log { return repeating{l} })},
	{"a gap of a producer is let through", producerModel, kind{driver: "shared"}, ofLog(func(l log) log { return gaping{l} })},
	{"a deleted segment can be read", lifeModel, kind{driver: "memory"}, ofLog(func(l log) log { return &haunted{log: l, seen: make(map[string]snapshot)} })},
	{"a closed segment is written", lifeModel, kind{driver: "pebble"}, ofLog(func(l log) log { return reopening{l} })},
	{"a name with another configuration is found to be the same", lifeModel, kind{driver: "shared"}, ofLog(func(l log) log { return agreeing{l} })},
	{"a commit is seen half", commitModel, kind{driver: "memory"}, ofLog(func(l log) log { return halving{l} })},
	{"a refused commit leaves its first write", commitModel, kind{driver: "memory"}, ofLog(func(l log) log { return partial{l} })},
	{"the condition of a write to an item is checked before it, and not with it", itemModel, kind{driver: "memory"}, ofLog(func(l log) log { return hasty{l} })},
	{"an item is shown as it was", itemModel, kind{driver: "shared"}, ofLog(func(l log) log { return &reminiscing{log: l, seen: make(map[string]runnel.Item)} })},
	{"a commit to two items is made in two", itemModel, kind{driver: "pebble"}, ofLog(func(l log) log { return splitting{l} })},
	{"items are counted up from what is durable", itemModel, kind{driver: "memory"}, ofLog(func(l log) log { return counting{l} })},
	{"a fork at the tail misses the last entry", forkModel, kind{driver: "memory"}, ofLog(func(l log) log { return short{l} })},
}

func ofLog(wrap func(l log) log) func() mutation {
	return func() mutation { return mutation{log: wrap} }
}

// TestTheMachineryCanSee breaks the log in ways that the histories must show.
func TestTheMachineryCanSee(t *testing.T) {
	const most = 300
	for _, m := range slices.Concat(mutations, coordinationMutations, itemFaceMutations) {
		t.Run(m.name, func(t *testing.T) {
			for n := range uint64(most) {
				got, err := run(m.model, m.kind, *firstSeed+n, new(tally), m.make())
				if what, ok := errors.AsType[hang](err); ok {
					t.Logf("seen in history %d: %v", n+1, what)
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				if got.result == porcupine.Illegal {
					_ = os.Remove(got.page) // it is no finding
					t.Logf("seen in history %d", n+1)
					return
				}
			}
			t.Fatalf("not seen in %d histories", most)
		})
	}
}

func sometimesWrong() bool { return rand.IntN(8) == 0 }

// stale returns an earlier read of the same.
type stale struct {
	log
	mu   sync.Mutex
	seen map[string]snapshot
}

func (l *stale) Read(ctx context.Context, name string, from runnel.Sequence) (snapshot, error) {
	got, err := l.log.Read(ctx, name, from)
	l.mu.Lock()
	defer l.mu.Unlock()
	if was, ok := l.seen[name]; ok && err == nil && from == 0 && sometimesWrong() {
		return was, nil
	}
	if err == nil && from == 0 {
		l.seen[name] = got
	}
	return got, err
}

// losing answers some appends without making them.
type losing struct{ log }

func (l losing) Append(ctx context.Context, name string, o runnel.AppendOptions, payloads ...string) (runnel.Appended, error) {
	info, err := l.Stat(ctx, name)
	if err != nil || !sometimesWrong() || o.Expect != nil {
		return l.log.Append(ctx, name, o, payloads...)
	}
	return runnel.Appended{First: info.Tail + 1, Tail: info.Tail + runnel.Sequence(len(payloads))}, nil
}

// again makes an append once more whose outcome it was not told.
type again struct{ log }

func (l again) Append(ctx context.Context, name string, o runnel.AppendOptions, payloads ...string) (runnel.Appended, error) {
	a, err := l.log.Append(ctx, name, o, payloads...)
	if errors.Is(err, runnel.ErrUnknown) {
		return l.log.Append(context.WithoutCancel(ctx), name, o, payloads...)
	}
	return a, err
}

// lying is a driver that calls some commits conflicts that have happened.
type lying struct{ storage.Driver }

func (d lying) Commit(ctx context.Context, p storage.Partition, b *storage.Batch) (storage.Version, error) {
	v, err := d.Driver.Commit(ctx, p, b)
	if err == nil && sometimesWrong() {
		return 0, storage.ErrConflict
	}
	return v, err
}

// careless appends wherever the tail is.
type careless struct{ log }

func (l careless) Append(ctx context.Context, name string, o runnel.AppendOptions, payloads ...string) (runnel.Appended, error) {
	o.Expect = nil
	return l.log.Append(ctx, name, o, payloads...)
}

// skipping leaves out some deliveries of live reads.
type skipping struct{ log }

func (l skipping) Tail(ctx context.Context, name string, from runnel.Sequence) iter.Seq2[[]string, error] {
	return func(yield func([]string, error) bool) {
		for payloads, err := range l.log.Tail(ctx, name, from) {
			if err == nil && sometimesWrong() {
				continue
			}
			if !yield(payloads, err) {
				return
			}
		}
	}
}

// imprecise refuses with a number that is not the tail.
type imprecise struct{ log }

func (l imprecise) Append(ctx context.Context, name string, o runnel.AppendOptions, payloads ...string) (runnel.Appended, error) {
	a, err := l.log.Append(ctx, name, o, payloads...)
	if moved, ok := errors.AsType[*runnel.TailMovedError](err); ok && sometimesWrong() {
		return a, &runnel.TailMovedError{Segment: moved.Segment, Want: moved.Want, Tail: moved.Tail + 1}
	}
	return a, err
}

// unfenced lets the producers of old epochs write.
type unfenced struct{ log }

func (l unfenced) Append(ctx context.Context, name string, o runnel.AppendOptions, payloads ...string) (runnel.Appended, error) {
	a, err := l.log.Append(ctx, name, o, payloads...)
	if errors.Is(err, runnel.ErrProducerFenced) {
		return l.log.Append(ctx, name, runnel.AppendOptions{Close: o.Close}, payloads...)
	}
	return a, err
}

// repeating stores what a producer repeats.
type repeating struct{ log }

func (l repeating) Append(ctx context.Context, name string, o runnel.AppendOptions, payloads ...string) (runnel.Appended, error) {
	a, err := l.log.Append(ctx, name, o, payloads...)
	if err == nil && a.Duplicate {
		_, err = l.log.Append(ctx, name, runnel.AppendOptions{}, payloads...)
	}
	return a, err
}

// gaping stores what a producer sends too early.
type gaping struct{ log }

func (l gaping) Append(ctx context.Context, name string, o runnel.AppendOptions, payloads ...string) (runnel.Appended, error) {
	a, err := l.log.Append(ctx, name, o, payloads...)
	if errors.Is(err, runnel.ErrProducerGap) {
		return l.log.Append(ctx, name, runnel.AppendOptions{Close: o.Close}, payloads...)
	}
	return a, err
}

// haunted shows what a name held before it was deleted.
type haunted struct {
	log
	mu   sync.Mutex
	seen map[string]snapshot
}

func (l *haunted) Read(ctx context.Context, name string, from runnel.Sequence) (snapshot, error) {
	got, err := l.log.Read(ctx, name, from)
	l.mu.Lock()
	defer l.mu.Unlock()
	if was, ok := l.seen[name]; ok && errors.Is(err, runnel.ErrNotFound) && from == 0 && sometimesWrong() {
		return was, nil
	}
	if err == nil && from == 0 {
		l.seen[name] = got
	}
	return got, err
}

// reopening appends to closed segments, as far as its own answers go.
type reopening struct{ log }

func (l reopening) Append(ctx context.Context, name string, o runnel.AppendOptions, payloads ...string) (runnel.Appended, error) {
	a, err := l.log.Append(ctx, name, o, payloads...)
	if closed, ok := errors.AsType[*runnel.ClosedError](err); ok && sometimesWrong() {
		return runnel.Appended{First: closed.Tail + 1, Tail: closed.Tail + runnel.Sequence(len(payloads)), Closed: o.Close}, nil
	}
	return a, err
}

// agreeing finds every name that is taken to be what is asked for.
type agreeing struct{ log }

func (l agreeing) Create(ctx context.Context, name string, o runnel.CreateOptions) (runnel.Created, error) {
	c, err := l.log.Create(ctx, name, o)
	if errors.Is(err, runnel.ErrExists) {
		info, err := l.Stat(ctx, name)
		return runnel.Created{Info: info, Existed: true}, err
	}
	return c, err
}

// halving makes the writes of a commit one by one.
type halving struct{ log }

func (l halving) Commit(ctx context.Context, writes ...runnel.Write) ([]runnel.Appended, error) {
	var all []runnel.Appended
	for _, w := range writes {
		a, err := l.Append(context.WithoutCancel(ctx), w.Segment, w.Options, payloadsOf(w.Records)...)
		if err != nil {
			return nil, err
		}
		all = append(all, a)
	}
	return all, nil
}

// partial leaves the first write of a commit that is refused.
type partial struct{ log }

func (l partial) Commit(ctx context.Context, writes ...runnel.Write) ([]runnel.Appended, error) {
	all, err := l.log.Commit(ctx, writes...)
	if errors.Is(err, runnel.ErrTailMoved) {
		_, _ = l.Append(ctx, writes[0].Segment, writes[0].Options, payloadsOf(writes[0].Records)...)
	}
	return all, err
}

// short forks a little before the tail.
type short struct{ log }

func (l short) Create(ctx context.Context, name string, o runnel.CreateOptions) (runnel.Created, error) {
	if f := o.Fork; f != nil && f.Latest && sometimesWrong() {
		if info, err := l.Stat(ctx, f.Source.Name); err == nil && info.Tail > 0 {
			o.Fork = &runnel.ForkFrom{Source: f.Source, At: info.Tail - 1}
		}
	}
	return l.log.Create(ctx, name, o)
}

// hasty looks at an item before it writes, in place of saying what it expects.
type hasty struct{ log }

func (l hasty) WriteItems(ctx context.Context, writes runnel.ItemWrites) ([]runnel.ItemsWritten, error) {
	for i := range writes.Writes {
		w := &writes.Writes[i]
		if w.IfVersion == nil {
			continue
		}
		it, err := l.Item(ctx, writes.Segment, w.Key)
		if err != nil && !errors.Is(err, runnel.ErrNotFound) {
			return nil, err
		}
		if it.Version != *w.IfVersion {
			return nil, &runnel.ItemMovedError{Segment: theSpace.Segment(writes.Segment), Item: w.ItemKey, Want: w.IfVersion, Have: it.Version}
		}
		w.IfVersion = nil
	}
	return l.log.WriteItems(ctx, writes)
}

// reminiscing shows items as it saw them first.
type reminiscing struct {
	log
	mu   sync.Mutex
	seen map[string]runnel.Item
}

func (l *reminiscing) Item(ctx context.Context, group, key string) (runnel.Item, error) {
	it, err := l.log.Item(ctx, group, key)
	l.mu.Lock()
	defer l.mu.Unlock()
	if was, ok := l.seen[group+key]; ok && err == nil && sometimesWrong() {
		return was, nil
	}
	if err == nil {
		l.seen[group+key] = it
	}
	return it, err
}

// splitting makes a commit of each write.
type splitting struct{ log }

func (l splitting) WriteItems(ctx context.Context, writes runnel.ItemWrites) ([]runnel.ItemsWritten, error) {
	var all []runnel.ItemsWritten
	for _, w := range writes.Writes {
		one := writes
		one.Writes = []runnel.ItemWrite{w}
		done, err := l.log.WriteItems(context.WithoutCancel(ctx), one)
		if err != nil {
			return nil, err
		}
		if all = append(all, done...); len(all) > 1 {
			all[0].Results = append(all[0].Results, done[0].Results...)
		}
	}
	return all, nil
}

// counting reads what it counts up, and then writes.
type counting struct{ log }

func (l counting) WriteItems(ctx context.Context, writes runnel.ItemWrites) ([]runnel.ItemsWritten, error) {
	for i := range writes.Writes {
		w := &writes.Writes[i]
		if w.Ops == nil {
			continue
		}
		it, err := l.Item(ctx, writes.Segment, w.Key)
		if err != nil && !errors.Is(err, runnel.ErrNotFound) {
			return nil, err
		}
		list, err := ops.Parse(w.Ops)
		if err != nil {
			return nil, err
		}
		w.Value, _ = ops.Apply(it.Value, list, ops.Whole)
		w.Ops = nil
	}
	return l.log.WriteItems(ctx, writes)
}
