package delivery

import (
	"bytes"
	"context"
	"errors"
	"iter"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/runnelhq/runnel"
)

// lying is a log whose views are not always what they should be.
type lying struct {
	log
	read func(l log, ctx context.Context, seg runnel.Segment, id uint64, from runnel.Sequence) (runnel.View, error)
}

func (l lying) Read(ctx context.Context, seg runnel.Segment, id uint64, from runnel.Sequence) (runnel.View, error) {
	return l.read(l.log, ctx, seg, id, from)
}

// ReadStart is that of the engine, without items, over views that lie.
func (l lying) ReadStart(ctx context.Context, seg runnel.Segment) (runnel.View, error) {
	v, err := l.Read(ctx, seg, 0, 0)
	for {
		trimmed, ok := errors.AsType[*runnel.TrimmedError](err)
		if !ok {
			return v, err
		}
		v, err = l.Read(ctx, seg, 0, trimmed.Earliest)
	}
}

// Tail is that of the engine, over views that lie.
func (l lying) Tail(ctx context.Context, addr runnel.Segment, id uint64, from runnel.Sequence) iter.Seq2[runnel.Batch, error] {
	return func(yield func(runnel.Batch, error) bool) {
		for {
			v, err := l.Read(ctx, addr, id, from)
			if err != nil {
				yield(nil, err)
				return
			}
			for b, err := range v.Batches {
				if !yield(b, err) || err != nil {
					return
				}
			}
			if from = v.Tail; v.Closed {
				return
			}
			if _, err := l.Wait(ctx, addr, v.ID, from); err != nil {
				yield(nil, err)
				return
			}
		}
	}
}

// sometimesDo says now and then that it is time to lie.
type sometimesDo struct {
	mu sync.Mutex
	r  *rand.Rand
	of int
}

func (s *sometimesDo) now() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.r.IntN(s.of) == 0
}

// reading makes a variant of what some of the reads are answered with.
func reading(lie func(v runnel.View) runnel.View) func(seed uint64) variant {
	return func(seed uint64) variant {
		s := &sometimesDo{r: rand.New(rand.NewPCG(seed, 77)), of: 20}
		return variant{log: func(inner log) log {
			return lying{inner, func(l log, ctx context.Context, seg runnel.Segment, id uint64, from runnel.Sequence) (runnel.View, error) {
				v, err := l.Read(ctx, seg, id, from)
				if err == nil && v.Tail > v.From && s.now() {
					v = lie(v)
				}
				return v, err
			}}
		}}
	}
}

// both applies a change to what a view yields.
func both(v runnel.View, change func(iter.Seq2[runnel.Batch, error]) iter.Seq2[runnel.Batch, error]) runnel.View {
	v.PayloadBytes = -1
	v.Batches, v.Stream = change(v.Batches), change(v.Stream)
	return v
}

// altered is a batch with other payloads.
type altered struct {
	runnel.Batch
	payloads [][]byte
}

func (b altered) Payload(i int) []byte { return b.payloads[i] }
func (b altered) Payloads() []byte     { return bytes.Join(b.payloads, nil) }
func (b altered) Entry(i int) runnel.Entry {
	e := b.Batch.Entry(i)
	e.Payload = b.payloads[i]
	return e
}

// alter changes the payloads of the first batch of a view.
func alter(v runnel.View, change func(payloads [][]byte)) runnel.View {
	return both(v, func(all iter.Seq2[runnel.Batch, error]) iter.Seq2[runnel.Batch, error] {
		return func(yield func(runnel.Batch, error) bool) {
			changed := false
			for b, err := range all {
				if err == nil && !changed {
					changed = true
					a := altered{Batch: b}
					for i := range b.Len() {
						a.payloads = append(a.payloads, bytes.Clone(b.Payload(i)))
					}
					change(a.payloads)
					b = a
				}
				if !yield(b, err) {
					return
				}
			}
		}
	})
}

// remembering is a log that answers one of so many reads from a view that it has given before.
func remembering(of int, on func(now runnel.View, err error) bool) func(seed uint64) variant {
	return func(seed uint64) variant {
		s := &sometimesDo{r: rand.New(rand.NewPCG(seed, 78)), of: of}
		type key struct {
			seg  runnel.Segment
			from runnel.Sequence
		}
		var mu sync.Mutex
		known := make(map[key]runnel.View)
		return variant{log: func(inner log) log {
			mu.Lock()
			clear(known)
			mu.Unlock()
			return lying{inner, func(l log, ctx context.Context, seg runnel.Segment, id uint64, from runnel.Sequence) (runnel.View, error) {
				v, err := l.Read(context.WithoutCancel(ctx), seg, id, from)
				mu.Lock()
				defer mu.Unlock()
				old, ok := known[key{seg, from}]
				switch {
				case ok && on(v, err) && s.now() && (id == 0 || id == old.ID):
					return old, nil
				case err == nil && !ok:
					known[key{seg, from}] = held(v)
				}
				return v, err
			}}
		}}
	}
}

// held is a view that needs no storage any more.
func held(v runnel.View) runnel.View {
	var all []runnel.Batch
	for b, err := range v.Batches {
		if err != nil {
			return v
		}
		all = append(all, b)
	}
	return both(v, func(iter.Seq2[runnel.Batch, error]) iter.Seq2[runnel.Batch, error] {
		return func(yield func(runnel.Batch, error) bool) {
			for _, b := range all {
				if !yield(b, nil) {
					return
				}
			}
		}
	})
}

// forgetful is a log that does not wake all who wait.
type forgetful struct {
	log
	forgets *sometimesDo
}

func (l forgetful) Wait(ctx context.Context, seg runnel.Segment, id uint64, after runnel.Sequence) (runnel.Info, error) {
	info, err := l.log.Wait(ctx, seg, id, after)
	if err == nil && l.forgets.now() {
		<-ctx.Done()
		return info, ctx.Err()
	}
	return info, err
}

func (l forgetful) Tail(ctx context.Context, addr runnel.Segment, id uint64, from runnel.Sequence) iter.Seq2[runnel.Batch, error] {
	return lying{l, func(l log, ctx context.Context, seg runnel.Segment, id uint64, from runnel.Sequence) (runnel.View, error) {
		return l.Read(ctx, seg, id, from)
	}}.Tail(ctx, addr, id, from)
}

// careless is a log that does not do what it says about appends.
type careless struct {
	log
	lies    *sometimesDo
	refuses bool // what it appends; else it acknowledges what it does not
}

func (l careless) Append(ctx context.Context, seg runnel.Segment, o runnel.AppendOptions, records ...runnel.Record) (runnel.Appended, error) {
	if len(records) == 0 || o.Close || !l.lies.now() {
		return l.log.Append(ctx, seg, o, records...)
	}
	if l.refuses {
		if _, err := l.log.Append(ctx, seg, o, records...); err != nil {
			return runnel.Appended{}, err
		}
		return runnel.Appended{}, &runnel.UnavailableError{Reason: "a lie"}
	}
	info, err := l.Stat(ctx, seg)
	return runnel.Appended{First: info.Tail + 1, Tail: info.Tail + runnel.Sequence(len(records))}, err
}

func carelessly(refuses bool) func(seed uint64) variant {
	return func(seed uint64) variant {
		s := &sometimesDo{r: rand.New(rand.NewPCG(seed, 79)), of: 20}
		return variant{log: func(l log) log { return careless{l, s, refuses} }}
	}
}

// swapped is a log in which two streams are mixed up now and then.
func swapped(seed uint64) variant {
	s := &sometimesDo{r: rand.New(rand.NewPCG(seed, 80)), of: 20}
	var mu sync.Mutex
	last := make(map[string]runnel.View) // by content type
	return variant{log: func(inner log) log {
		mu.Lock()
		clear(last) // views end with their engine
		mu.Unlock()
		return lying{inner, func(l log, ctx context.Context, seg runnel.Segment, id uint64, from runnel.Sequence) (runnel.View, error) {
			v, err := l.Read(context.WithoutCancel(ctx), seg, id, from)
			if err != nil || v.Tail == v.From {
				return v, err
			}
			mu.Lock()
			defer mu.Unlock()
			other := last[v.ContentType]
			last[v.ContentType] = v
			if other.Batches != nil && other.From == v.From && other.Segment != v.Segment && s.now() {
				other.Info.ID, other.Info.Created, other.Info.Segment = v.ID, v.Created, v.Segment
				return other, nil
			}
			return v, nil
		}}
	}}
}

const forgottenWakeUp = "a wake-up is forgotten"

// variants are ways in which delivery could be wrong, and is made so from outside.
var variants = []struct {
	name string
	make func(seed uint64) variant
}{
	{"a reader that goes on skips an entry", func(seed uint64) variant {
		s := &sometimesDo{r: rand.New(rand.NewPCG(seed, 76)), of: 20}
		return variant{log: func(inner log) log {
			return lying{inner, func(l log, ctx context.Context, seg runnel.Segment, id uint64, from runnel.Sequence) (runnel.View, error) {
				v, err := l.Read(ctx, seg, id, from)
				if err != nil || v.From == 0 || v.Tail < v.From+2 || !s.now() {
					return v, err
				}
				skipped, err := l.Read(ctx, seg, v.ID, v.From+1)
				skipped.From = v.From
				return skipped, err
			}}
		}}
	}},
	{"a batch is delivered twice", reading(func(v runnel.View) runnel.View {
		return both(v, func(all iter.Seq2[runnel.Batch, error]) iter.Seq2[runnel.Batch, error] {
			return func(yield func(runnel.Batch, error) bool) {
				again := true
				for b, err := range all {
					if !yield(b, err) || again && err == nil && !yield(b, nil) {
						return
					}
					again = false
				}
			}
		})
	})},
	{"a view of before is served", remembering(20, func(_ runnel.View, err error) bool { return err == nil })},
	{"what retention has dropped is served from memory", remembering(2, func(_ runnel.View, err error) bool { return errors.Is(err, runnel.ErrTrimmed) })},
	{"what was deleted is served from memory", remembering(2, func(_ runnel.View, err error) bool { return errors.Is(err, runnel.ErrNotFound) })},
	{forgottenWakeUp, func(seed uint64) variant {
		s := &sometimesDo{r: rand.New(rand.NewPCG(seed, 81)), of: 60}
		return variant{log: func(l log) log { return forgetful{l, s} }}
	}},
	{"an entry is shown that nobody has begun to append", reading(func(v runnel.View) runnel.View {
		return alter(v, func(payloads [][]byte) {
			if l, err := labelOfAny(payloads[0]); err == nil {
				l.label.app += 1000
				payloads[0] = payload(rand.New(rand.NewPCG(1, 1)), l.kind, l.label, 10)
			}
		})
	})},
	{"an append is shown that was refused", carelessly(true)},
	{"an append is acknowledged that is not there", carelessly(false)},
	{"two streams are mixed", swapped},
	{"two entries change places", reading(func(v runnel.View) runnel.View {
		return alter(v, func(p [][]byte) { p[0], p[len(p)-1] = p[len(p)-1], p[0] })
	})},
	{"a byte changes", reading(func(v runnel.View) runnel.View {
		return alter(v, func(p [][]byte) { p[0][len(p[0])-2] ^= 1 })
	})},
	{"an open stream is said to be closed", reading(func(v runnel.View) runnel.View {
		v.Closed = true
		return v
	})},
	{"the earliest entry that is told is one too late", func(seed uint64) variant {
		return variant{log: func(inner log) log {
			return lying{inner, func(l log, ctx context.Context, seg runnel.Segment, id uint64, from runnel.Sequence) (runnel.View, error) {
				v, err := l.Read(ctx, seg, id, from)
				if trimmed, ok := errors.AsType[*runnel.TrimmedError](err); ok {
					late := *trimmed
					late.Earliest++
					return v, &late
				}
				return v, err
			}}
		}}
	}},
}

// labelled is the label of a payload of any kind.
type labelled struct {
	label label
	kind  kind
}

func labelOfAny(p []byte) (labelled, error) {
	for _, k := range []kind{messages, binary} {
		if l, err := labelOf(k, p); err == nil {
			return labelled{l, k}, nil
		}
	}
	return labelled{}, errors.New(strconv.Quote(string(p[:min(len(p), 20)])))
}

// small is a run in which what is broken shows soon.
var small = scale{streams: 7, readers: 9, writers: 2, writeEvery: 10, load: 400 * time.Millisecond, arrival: 4 * time.Second}

// TestTheMachineryCanSee breaks the system in ways that runs must notice.
func TestTheMachineryCanSee(t *testing.T) {
	for _, v := range variants {
		t.Run(v.name, func(t *testing.T) {
			t.Parallel()
			for seed := uint64(1); seed <= 30; seed++ {
				found, _ := play(seed, small, v.make(seed), new(coverage))
				// Much that is wrong also keeps readers from arriving, which is not how it should be seen.
				if found != nil && (found.invariant != noHang) == (v.name != forgottenWakeUp) {
					t.Logf("seen by seed %d: %.200s", seed, found.Error())
					return
				}
			}
			t.Fatal("not seen in 30 runs")
		})
	}
}
