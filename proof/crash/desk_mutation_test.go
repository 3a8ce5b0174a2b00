package crash

import (
	"context"
	"errors"
	"iter"
	"slices"
	"sync"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/record"
	"github.com/runnelhq/runnel/storage"
)

// coordinating is the workload that mistakes about leases, cursors and transactions are looked for in.
var coordinating = profile{name: "mostly coordination", times: map[string]int{"lease": 8, "cursor": 8, "transaction": 8, "follow space": 4}}

// deskMutations are ways in which coordination could be wrong.
var deskMutations = []mutation{
	{name: "a fencing number is forgotten at a restart, and given again", make: brokenCommits(without(func(o *storage.Op) bool { return o.Key[0] == 'c' && !o.Delete && ofLeases(o) })), under: coordinating},
	{name: "fencing numbers are not looked at", make: ofLog(func(l log) log { return fenceless{l} }), under: coordinating},
	{name: "a renewal is acknowledged and not written", make: brokenCommits(func(ctx context.Context, d storage.Driver, p storage.Partition, b *storage.Batch) (storage.Version, error) {
		left := *b
		if !slices.ContainsFunc(b.Ops, func(o storage.Op) bool { return o.Key[0] == 'c' }) { // who is given a lease takes a position
			left.Ops = slices.DeleteFunc(slices.Clone(b.Ops), func(o storage.Op) bool { return o.Key[0] == 'l' && !o.Delete })
		}
		return d.Commit(ctx, p, &left)
	}), under: coordinating},
	{name: "a release is not written", make: brokenCommits(without(func(o *storage.Op) bool { return o.Key[0] == 'l' && o.Delete })), under: coordinating},
	{name: "a lease outlives its time, and the next holder waits", make: brokenReads(leaseRows(func(l *record.Lease) { l.Deadline += time.Minute.Microseconds() })), under: coordinating},
	{name: "a lease is over when the server starts again", make: brokenReads(leaseRows(func(l *record.Lease) { l.Deadline = l.Granted })), under: coordinating},
	{name: "cursors are not in the commit that moves them", make: brokenCommits(without(func(o *storage.Op) bool { return o.Key[0] == 'u' && !o.Delete })), under: coordinating},
	{name: "the cursors of a transaction are written behind its entries", make: brokenCommits(func(ctx context.Context, d storage.Driver, p storage.Partition, b *storage.Batch) (storage.Version, error) {
		rest, cursors := *b, *b
		isCursor := func(o storage.Op) bool { return o.Key[0] == 'u' }
		rest.Ops = slices.DeleteFunc(slices.Clone(b.Ops), isCursor)
		cursors.Ops = slices.DeleteFunc(slices.Clone(b.Ops), func(o storage.Op) bool { return !isCursor(o) })
		if len(rest.Ops) == 0 || len(cursors.Ops) == 0 {
			return d.Commit(ctx, p, b)
		}
		if _, err := d.Commit(ctx, p, &rest); err != nil {
			return 0, err
		}
		return d.Commit(ctx, p, &cursors)
	}), under: coordinating},
	{name: "a cursor goes back", make: ofLog(func(l log) log { return rewinding{l} }), under: coordinating},
	{name: "the cursors of a segment stay when it goes", make: ofLog(func(l log) log { return haunting{l, new(sync.Mutex), make(map[runnel.CursorName]runnel.Cursor)} }), under: coordinating},
	{name: "a transaction is made one write at a time", make: ofLog(func(l log) log { return oneByOne{l} }), under: coordinating},
	{name: "idempotency keys are not written", make: brokenCommits(without(func(o *storage.Op) bool { return o.Key[0] == 'k' && !o.Delete })), under: coordinating},
	{name: "a timeline forgets a commit at a restart", make: brokenReads(func(key, value []byte, r storage.Range) ([]byte, bool) {
		return value, key[0] != 'c' || len(r.From) == 0 || r.Reverse || key[8]%5 != 0
	})},
	{name: "a follower of a space resumes a position late", make: ofLog(func(l log) log { return elsewhere{l, 1} }), under: coordinating},
	{name: "a follower of a space resumes a position early", make: ofLog(func(l log) log { return elsewhere{l, -1} }), under: coordinating},
}

func ofLog(wrap func(l log) log) func() variant {
	return func() variant { return variant{log: wrap} }
}

// ofLeases tells whether the row of a commit tells of leases alone.
func ofLeases(o *storage.Op) bool {
	c, err := record.DecodeCommit(slices.Concat(o.Head, o.Body))
	must(err)
	return !slices.ContainsFunc(c.Changes, func(ch record.Change) bool { return ch.Kind != record.Leased })
}

// leaseRows changes leases as they are read.
func leaseRows(change func(l *record.Lease)) func(key, value []byte, r storage.Range) ([]byte, bool) {
	return func(key, value []byte, _ storage.Range) ([]byte, bool) {
		if key[0] != 'l' {
			return value, true
		}
		l, err := record.DecodeLease(value)
		must(err)
		change(&l)
		return l.Append(nil), true
	}
}

// fenceless makes transactions whoever has the leases.
type fenceless struct{ log }

func (l fenceless) Transact(ctx context.Context, space runnel.Space, t runnel.Transaction) (runnel.Committed, error) {
	t.Fences = nil
	return l.log.Transact(ctx, space, t)
}

// rewinding lets every cursor go back.
type rewinding struct{ log }

func (l rewinding) Transact(ctx context.Context, space runnel.Space, t runnel.Transaction) (runnel.Committed, error) {
	t.Cursors = slices.Clone(t.Cursors)
	for i := range t.Cursors {
		t.Cursors[i].Rewind = true
	}
	return l.log.Transact(ctx, space, t)
}

// haunting shows where a cursor was before its segment went.
type haunting struct {
	log
	mu    *sync.Mutex
	known map[runnel.CursorName]runnel.Cursor
}

func (l haunting) DeleteCursor(ctx context.Context, name runnel.CursorName) error {
	l.mu.Lock()
	delete(l.known, name)
	l.mu.Unlock()
	return l.log.DeleteCursor(ctx, name)
}

func (l haunting) Cursor(ctx context.Context, name runnel.CursorName) (runnel.Cursor, error) {
	c, err := l.log.Cursor(ctx, name)
	l.mu.Lock()
	defer l.mu.Unlock()
	if was, ok := l.known[name]; ok && errors.Is(err, runnel.ErrNotFound) {
		return was, nil
	}
	if err == nil {
		l.known[name] = c
	}
	return c, err
}

// oneByOne makes the writes of a transaction one by one, and then moves its cursors.
type oneByOne struct{ log }

func (l oneByOne) Transact(ctx context.Context, space runnel.Space, t runnel.Transaction) (runnel.Committed, error) {
	var all runnel.Committed
	for _, w := range t.Writes {
		c, err := l.log.Transact(ctx, space, runnel.Transaction{Writes: []runnel.Write{w}, Fences: t.Fences})
		if err != nil {
			return runnel.Committed{}, err
		}
		all.Appended = append(all.Appended, c.Appended...)
	}
	_, err := l.log.Transact(ctx, space, runnel.Transaction{Cursors: t.Cursors, Fences: t.Fences})
	return all, err
}

// elsewhere follows spaces from another place than is asked for.
type elsewhere struct {
	log
	by int
}

func (l elsewhere) TailSpace(ctx context.Context, space runnel.Space, from runnel.Position) iter.Seq2[runnel.SpaceBatch, error] {
	if from > 0 {
		from = runnel.Position(int(from) + l.by)
	}
	return l.log.TailSpace(ctx, space, from)
}
