package crash

import (
	"bytes"
	"context"
	"errors"
	"iter"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/record"
	"github.com/runnelhq/runnel/storage"
	"github.com/runnelhq/runnel/wire"
)

// committing is a driver that commits in its own way.
type committing struct {
	storage.Driver
	commit func(ctx context.Context, d storage.Driver, p storage.Partition, b *storage.Batch) (storage.Version, error)
}

func (c committing) Commit(ctx context.Context, p storage.Partition, b *storage.Batch) (storage.Version, error) {
	return c.commit(ctx, c.Driver, p, b)
}

// brokenCommits makes a variant of how commits reach Pebble.
func brokenCommits(commit func(ctx context.Context, d storage.Driver, p storage.Partition, b *storage.Batch) (storage.Version, error)) func() variant {
	return func() variant {
		return variant{driver: func(d storage.Driver) storage.Driver { return committing{d, commit} }}
	}
}

// copied is a batch that outlives the call it was handed to.
func copied(b *storage.Batch) *storage.Batch {
	c := *b
	c.Ops = slices.Clone(b.Ops)
	for i := range c.Ops {
		o := &c.Ops[i]
		o.Key, o.Head, o.Body = bytes.Clone(o.Key), bytes.Clone(o.Head), bytes.Clone(o.Body)
	}
	return &c
}

// without is a batch without some of its changes.
func without(drop func(o *storage.Op) bool) func(context.Context, storage.Driver, storage.Partition, *storage.Batch) (storage.Version, error) {
	return func(ctx context.Context, d storage.Driver, p storage.Partition, b *storage.Batch) (storage.Version, error) {
		left := *b
		left.Ops = slices.DeleteFunc(slices.Clone(b.Ops), func(o storage.Op) bool { return drop(&o) })
		return d.Commit(ctx, p, &left)
	}
}

// mutation is a way in which the system could be wrong.
type mutation struct {
	name string
	make func() variant
	// under is the workload that it is looked for in; the zero profile is one that is drawn.
	under profile
}

// mutations are ways in which the system could be wrong, and is made so from outside. The first byte of
// a key says what a row is; see engine/keys.go.
var mutations = []mutation{
	{name: "a commit is acknowledged before it is synced", make: brokenCommits(func(ctx context.Context, d storage.Driver, p storage.Partition, b *storage.Batch) (storage.Version, error) {
		go d.Commit(ctx, p, copied(b)) //nolint:errcheck // that nobody asks is the point
		return 0, nil
	})},
	{name: "appends are shown before they are synced", make: func() variant { return variant{log: func(l log) log { return &eager{log: l} }} }},
	{name: "the state of producers is not written", make: brokenCommits(without(func(o *storage.Op) bool { return o.Key[0] == 'p' && !o.Delete }))},
	{name: "directories are not synced", make: func() variant { return variant{disk: func(d *disk) { d.lies = true }} }},
	{name: "a commit that failed is taken for one that was not made, and its sequences are given again", make: brokenCommits(func(ctx context.Context, d storage.Driver, p storage.Partition, b *storage.Batch) (storage.Version, error) {
		v, err := d.Commit(ctx, p, b)
		if errors.Is(err, storage.ErrFailed) {
			return 0, storage.ErrRefused
		}
		return v, err
	})},
	{name: "a deletion is not written", make: brokenCommits(without(func(o *storage.Op) bool { return o.Key[0] == 'm' && o.Delete }))},
	{name: "what was known before a crash is shown after it", make: func() variant {
		known := make(map[runnel.Segment]runnel.Info)
		return variant{log: func(l log) log { return &stale{log: l, known: known} }}
	}},
	{name: "retention keeps one entry too many", make: func() variant { return variant{log: func(l log) log { return generous{l} }} }},
	{name: "a commit is made in two halves", make: brokenCommits(func(ctx context.Context, d storage.Driver, p storage.Partition, b *storage.Batch) (storage.Version, error) {
		first, second := *b, *b
		first.Ops, second.Ops = b.Ops[:len(b.Ops)/2], b.Ops[len(b.Ops)/2:]
		if _, err := d.Commit(ctx, p, &first); err != nil {
			return 0, err
		}
		return d.Commit(ctx, p, &second)
	})},
	{name: "a space forgets at a restart how far its clock has come, and timestamps follow the wall clock back", make: brokenReads(func(key, value []byte, _ storage.Range) ([]byte, bool) {
		if key[0] != 'c' {
			return value, true
		}
		c, err := record.DecodeCommit(value)
		must(err)
		c.Micros = 0
		return c.Append(nil), true
	})},
	{name: "what a fork has inherited is cut with its source", make: brokenReads(func(key, value []byte, r storage.Range) ([]byte, bool) {
		return value, key[0] != 'r' || len(r.From) != 1+8 // who asks for the references of one segment is about to cut it
	}), under: profile{name: "forks of what is bounded", times: map[string]int{"fork": 6, "append": 3}, bounded: 8}},
	{name: "a TTL is forgotten at a restart", make: brokenReads(func(key, value []byte, _ storage.Range) ([]byte, bool) {
		if key[0] != 'm' {
			return value, true
		}
		desc, err := record.DecodeDescriptor(value)
		must(err)
		desc.TTL = 0
		return desc.Append(nil), true
	})},
	{name: "the last use of a segment is forgotten at a restart", make: brokenReads(func(key, value []byte, _ storage.Range) ([]byte, bool) {
		if key[0] != 's' {
			return value, true
		}
		m, err := record.DecodeMutable(value)
		must(err)
		m.Accessed, m.Slack = 0, 0
		return m.Append(nil), true
	})},
	{name: "a reader of events resumes an entry late", make: resumingAt(+1)},
	{name: "a reader of events resumes an entry early", make: resumingAt(-1)},
}

// reading is a driver that reads in its own way.
type reading struct {
	storage.Driver
	read func(key, value []byte, r storage.Range) ([]byte, bool)
}

// brokenReads makes a variant of what is read from storage. What read does not return a value for is not
// there. A row that is read by its key has a zero range.
func brokenReads(read func(key, value []byte, r storage.Range) ([]byte, bool)) func() variant {
	return func() variant {
		return variant{driver: func(d storage.Driver) storage.Driver { return reading{d, read} }}
	}
}

func (d reading) Get(ctx context.Context, p storage.Partition, key []byte) ([]byte, error) {
	value, err := d.Driver.Get(ctx, p, key)
	if err != nil {
		return nil, err
	}
	value, ok := d.read(key, value, storage.Range{})
	if !ok {
		return nil, storage.ErrKeyNotFound
	}
	return value, nil
}

func (d reading) Scan(ctx context.Context, p storage.Partition, r storage.Range) iter.Seq2[storage.Pair, error] {
	return func(yield func(storage.Pair, error) bool) {
		for pair, err := range d.Driver.Scan(ctx, p, r) {
			there := true
			if err == nil {
				pair.Value, there = d.read(pair.Key, pair.Value, r)
			}
			if there && !yield(pair, err) {
				return
			}
		}
	}
}

// resumingAt makes a variant in which a reader of events that is not at the beginning begins elsewhere.
func resumingAt(by int) func() variant {
	return func() variant {
		return variant{web: func(h http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				q := r.URL.Query()
				if at, err := runnel.ParseOffset(q.Get("offset")); q.Get("live") == wire.LiveSSE && err == nil && at > 0 {
					q.Set("offset", runnel.Sequence(int(at)+by).Offset())
					r.URL.RawQuery = q.Encode()
				}
				h.ServeHTTP(w, r)
			})
		}}
	}
}

// TestTheMachineryCanSee breaks the system in ways that the simulator must notice.
func TestTheMachineryCanSee(t *testing.T) { see(t, slices.Concat(mutations, deskMutations), nil) }

// see breaks the system in ways that runs with a guest must notice.
func see(t *testing.T, mutations []mutation, invite func(s *sim) guest) {
	t.Helper()
	for _, m := range mutations {
		t.Run(m.name, func(t *testing.T) {
			for seed := uint64(1); seed <= 300; seed++ {
				p := plan{seed: seed, steps: *steps, cover: newCoverage(), variant: m.make(), invite: invite}
				if m.under.name != "" {
					p.profile = &m.under
				}
				_, found := run(t, p)
				if found != nil {
					if found.invariant == itRuns {
						t.Fatal(found)
					}
					text, _, _ := strings.Cut(found.text, "\n")
					t.Logf("seen by seed %d, by %q: %.150s", seed, found.invariant, text)
					return
				}
			}
			t.Fatal("not seen in 300 seeds")
		})
	}
}

// eager shows what is being appended to those who read.
type eager struct {
	log
	mu      sync.Mutex
	pending map[runnel.Segment]int
}

func (l *eager) Append(ctx context.Context, seg runnel.Segment, o runnel.AppendOptions, records ...runnel.Record) (runnel.Appended, error) {
	l.add(seg, len(records))
	a, err := l.log.Append(ctx, seg, o, records...)
	l.add(seg, -len(records))
	return a, err
}

func (l *eager) add(seg runnel.Segment, n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.pending == nil {
		l.pending = make(map[runnel.Segment]int)
	}
	l.pending[seg] += n
}

func (l *eager) Stat(ctx context.Context, seg runnel.Segment) (runnel.Info, error) {
	info, err := l.log.Stat(ctx, seg)
	l.mu.Lock()
	defer l.mu.Unlock()
	info.Tail += runnel.Sequence(l.pending[seg])
	return info, err
}

// stale remembers what it was told of segments that it has not changed since.
type stale struct {
	log
	mu    sync.Mutex
	known map[runnel.Segment]runnel.Info
}

func (l *stale) Append(ctx context.Context, seg runnel.Segment, o runnel.AppendOptions, records ...runnel.Record) (runnel.Appended, error) {
	a, err := l.log.Append(ctx, seg, o, records...)
	l.forget(seg, err)
	return a, err
}

func (l *stale) Commit(ctx context.Context, space runnel.Space, writes ...runnel.Write) ([]runnel.Appended, error) {
	a, err := l.log.Commit(ctx, space, writes...)
	for _, w := range writes {
		l.forget(space.Segment(w.Segment), err)
	}
	return a, err
}

func (l *stale) Create(ctx context.Context, seg runnel.Segment, o runnel.CreateOptions) (runnel.Created, error) {
	c, err := l.log.Create(ctx, seg, o)
	l.forget(seg, err)
	return c, err
}

func (l *stale) Delete(ctx context.Context, seg runnel.Segment) error {
	err := l.log.Delete(ctx, seg)
	l.forget(seg, err)
	return err
}

func (l *stale) forget(seg runnel.Segment, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil {
		delete(l.known, seg)
	}
}

func (l *stale) Stat(ctx context.Context, seg runnel.Segment) (runnel.Info, error) {
	info, err := l.log.Stat(ctx, seg)
	l.mu.Lock()
	defer l.mu.Unlock()
	if was, ok := l.known[seg]; ok && err == nil && was.ID == info.ID {
		return was, nil
	}
	if err == nil {
		l.known[seg] = info
	}
	return info, err
}

// generous reads one entry more than is retained.
type generous struct{ log }

func (l generous) Read(ctx context.Context, seg runnel.Segment, id uint64, from runnel.Sequence) (runnel.View, error) {
	v, err := l.log.Read(ctx, seg, id, from)
	var trimmed *runnel.TrimmedError
	if errors.As(err, &trimmed) && trimmed.Earliest == from+1 {
		return l.log.Read(ctx, seg, id, trimmed.Earliest)
	}
	return v, err
}
