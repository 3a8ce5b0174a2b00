package engine

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/record"
	"github.com/runnelhq/runnel/storage"
)

// batch is what one commit of the driver makes durable: the staged writes of many callers.
type batch struct {
	storage.Batch
	number  uint64 // in the order in which batches of the space commit
	size    int
	writers int // who have staged something
	first   runnel.Position
	last    runnel.Position
	micros  int64
	changes []record.Change
	touched []touched
	events  []runnel.Event
	leases  []string      // keys of those that are given, or end
	kicks   []*subscriber // who has work by it
	retell  []*subscriber // whose wake stream it makes
	arena   []byte        // keys and headers are cut from it
	scratch *scratch

	// done is closed when the outcome is known; err is set before. It is nil, errRetry, or an error for
	// the caller.
	done chan struct{}
	err  error
}

// touched is what a batch leaves a segment as.
type touched struct {
	seg   *segment
	state *state
	// runs are the entries that were appended to the incarnation that state belongs to.
	runs []*record.Run
	// gone are incarnations that the batch ended.
	gone []*incarnation
}

// What a batch costs besides the operations that callers stage: the commit row, its share for each
// change, and the witness.
const (
	commitRowBytes    = 64 + witnessBytes
	commitRowOps      = 2
	commitChangeBytes = 32
)

// tx stages one atomic write. It lives while sp.mu is held.
type tx struct {
	sp     *space
	b      *batch
	micros int64
	// wait is the batch whose outcome the answer depends on: the one that was staged into, or the one
	// that a refusal was based on.
	wait *batch
	// staged says that something was added to b.
	staged bool
	// grows says that it takes space, and not only gives some back.
	grows bool
}

// write runs stage under the space's lock, and returns what it returned once everything that the answer
// rests on is durable. stage first checks everything, and then, if nothing stands against it, stages
// through the tx without failing. size and ops bound what it adds.
//
// An error of errRetry means that the caller must enter the space again. runnel.ErrUnknown means that
// the write was staged and that nobody can say what became of it.
func (sp *space) write(ctx context.Context, size, ops int, stage func(t *tx) error) error {
	e := sp.e
	if err := e.Err(); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := e.full(true); err != nil {
		return err
	}
	size += commitRowBytes
	if most := e.limits.MaxBatchBytes; most > 0 && size > most {
		return &runnel.TooLargeError{What: "commit", Limit: int64(most), Got: int64(size)}
	}
	if most := e.limits.MaxBatchOps; most > 0 && ops+commitRowOps > most {
		return &runnel.InvalidError{What: "commit", Rule: fmt.Sprintf("needs %d operations of storage, the driver takes %d", ops+commitRowOps, most)}
	}
	sp.mu.Lock()
	if !sp.loaded {
		sp.mu.Unlock()
		return errRetry
	}
	t := tx{sp: sp, b: sp.room(size, ops), micros: max(e.now(), sp.clock)}
	err := stage(&t)
	if t.staged {
		t.b.writers++
		t.wait = t.b
		sp.startCommitter()
	} else {
		sp.giveBack(t.b, size)
	}
	sp.mu.Unlock()
	if t.wait == nil {
		return err
	}
	select {
	case <-t.wait.done:
	case <-ctx.Done():
		if t.staged {
			return fmt.Errorf("%w: %w", runnel.ErrUnknown, ctx.Err())
		}
		return ctx.Err()
	}
	switch {
	case t.wait.err == nil:
		return err
	case t.staged && !t.grows && errors.Is(t.wait.err, runnel.ErrStorageFull) && !t.wait.Reserve:
		return errRetry // it was refused with others, which take more space
	case t.staged:
		return t.wait.err
	default:
		// The refusal rested on something that did not come to be.
		if errors.Is(t.wait.err, runnel.ErrFailed) {
			return t.wait.err
		}
		return errRetry
	}
}

// barrier waits until everything that was staged in the space so far has an outcome.
func (sp *space) barrier(ctx context.Context) error {
	sp.mu.Lock()
	b := sp.inFlight
	if n := len(sp.queue); n > 0 {
		b = sp.queue[n-1]
	}
	sp.mu.Unlock()
	if b == nil {
		return nil
	}
	select {
	case <-b.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// newest returns the last batch that something is staged in, nil if all is durable. It is called with
// sp.mu held.
func (sp *space) newest() *batch {
	for _, b := range slices.Backward(sp.queue) {
		if len(b.Ops) > 0 {
			return b
		}
	}
	return sp.inFlight
}

// room returns the open batch, or a new one if it has no room for what is to be staged.
func (sp *space) room(size, ops int) *batch {
	if n := len(sp.queue); n > 0 {
		b := sp.queue[n-1]
		limits := &sp.e.limits
		fits := (limits.MaxBatchBytes == 0 || b.size+size <= limits.MaxBatchBytes) &&
			(limits.MaxBatchOps == 0 || len(b.Ops)+ops+commitRowOps <= limits.MaxBatchOps) &&
			commitRowBytes+(len(b.changes)+ops)*commitChangeBytes <= sp.e.fragment() &&
			b.size < softBatchBytes
		if fits || len(b.Ops) == 0 {
			b.size += size
			return b
		}
	}
	sp.batches++
	b := &batch{number: sp.batches, done: make(chan struct{}), size: size}
	b.Reserve = true // until something is staged that takes space
	s, _ := scratches.Get().(*scratch)
	b.scratch, b.Ops, b.changes, b.touched, b.arena = s, s.ops, s.changes, s.touched, s.arena
	sp.queue = append(sp.queue, b)
	return b
}

// scratch is memory that a batch needs until it is committed, and the next one can have afterwards.
type scratch struct {
	ops     []storage.Op
	changes []record.Change
	touched []touched
	arena   []byte
}

var scratches = sync.Pool{New: func() any { return new(scratch) }}

// scratchOps bounds what is kept for the next batch.
const scratchOps = 4096

// recycle gives the memory of a committed batch to the next one. The driver must be done with it.
func (b *batch) recycle() {
	if s := b.scratch; s != nil && len(b.Ops) <= scratchOps {
		clear(b.Ops)
		clear(b.touched)
		s.ops, s.changes, s.touched, s.arena = b.Ops[:0], b.changes[:0], b.touched[:0], b.arena[:0]
		scratches.Put(s)
	}
	// What still knows the batch, a producer for instance, must not keep all that it wrote.
	b.scratch, b.Ops, b.changes, b.touched, b.arena, b.leases = nil, nil, nil, nil, nil, nil
}

// giveBack takes back the room of a write that was refused, and the batch if nothing else is in it.
func (sp *space) giveBack(b *batch, size int) {
	b.size -= size
	if n := len(sp.queue); len(b.Ops) == 0 && n > 0 && sp.queue[n-1] == b {
		sp.queue = sp.queue[:n-1]
	}
}

// softBatchBytes is the size from which on a batch is not added to, so that the sync of much data does
// not hold up the answer to those who were first.
const softBatchBytes = 8 << 20

// startCommitter sees to it that what is staged gets committed. It is called with sp.mu held, by an
// operation.
func (sp *space) startCommitter() {
	if !sp.committing {
		sp.committing = true
		sp.e.committers.Add(1)
		go sp.commitLoop()
	}
}

// commitLoop commits what is staged, batch after batch, and ends when there is nothing left.
func (sp *space) commitLoop() {
	defer sp.e.committers.Done()
	for {
		sp.mu.Lock()
		if len(sp.queue) == 0 {
			sp.committing = false
			sp.mu.Unlock()
			sp.use()
			sp.unuse() // forgets the space if nothing else keeps it
			return
		}
		b := sp.queue[0]
		sp.queue = sp.queue[1:]
		sp.inFlight = b
		b.Expect = sp.version
		if b.Guarded = !sp.e.limits.Exclusive; b.Guarded {
			_, _ = rand.Read(b.ID[:]) // which never fails
		}
		sp.mu.Unlock()

		if b.last > 0 {
			row := record.Commit{First: b.first, Micros: b.micros, Changes: b.changes}
			b.Set(commitKey(nil, b.last), row.Append(make([]byte, 0, commitRowBytes+commitChangeBytes*len(b.changes))), nil)
		}
		if b.Guarded {
			sp.e.testify(b)
		}
		version, err := sp.commit(b)

		sp.mu.Lock()
		sp.inFlight = nil
		if err == nil {
			sp.version = version
			sp.publish(b)
			b.recycle()
		} else {
			b.err = err
			if sp.e.Err() != nil {
				// Storage may show what it failed to keep. What memory holds is durable, so readers
				// keep that, and nothing is read from storage that is not in memory yet.
				sp.refuse(err)
			} else {
				sp.forget(errRetry) // what is staged on top has not happened
			}
		}
		sp.mu.Unlock()
		if err == nil {
			for _, s := range b.kicks {
				s.stir()
			}
			for _, s := range b.retell {
				s.kick()
			}
			b.kicks, b.retell = nil, nil
			sp.e.watch.send(b.events) // before the answer: who watches from then on is not told of it
		}
		close(b.done)
		sp.gather(b.writers)
	}
}

const (
	// gatherTurns is how often the committer lets others run before it takes the next batch.
	gatherTurns = 4
	// gatherMost is up to how many writers wait for each other. What more of them stage takes about as
	// long as a sync, and is better done during one.
	gatherMost = 24
)

// gather lets the writers that were just answered stage what they write next. Few writers, each of whom
// waits for an answer before going on, would otherwise fall into two groups, of which one stages while the
// other's batch syncs, and every sync would serve half of them. It lasts for microseconds.
func (sp *space) gather(answered int) {
	if answered > gatherMost {
		return
	}
	for range gatherTurns {
		runtime.Gosched()
		sp.mu.Lock()
		staged := 0
		if len(sp.queue) > 0 {
			staged = sp.queue[0].writers
		}
		sp.mu.Unlock()
		if staged == 0 || staged > answered {
			return
		}
	}
}

// publish makes a durable batch visible: first the state of every segment moves, then waiters wake. It
// is called with sp.mu held.
func (sp *space) publish(b *batch) {
	sp.e.cache.add(b.touched)
	for i := range b.touched {
		t := &b.touched[i]
		t.seg.durable.Store(t.state)
		if t.seg.batch == b {
			t.seg.batch = nil
		}
		for _, inc := range t.gone {
			sp.e.cache.drop(inc)
			inc.wake()
		}
		if t.state.inc != nil {
			t.state.inc.wake()
		}
	}
	sp.advance(b)
	if len(b.leases) > 0 {
		sp.noteLeases(b.leases)
		sp.e.cleaner.vacuum.note(sp.part) // what a lease leaves in the timeline is of no use
	}
	sp.e.statuses.note(sp, b.touched)
}

// take gives the write n positions and returns the first.
func (t *tx) take(n uint64) runnel.Position {
	first := t.sp.position + 1
	t.sp.position += runnel.Position(n)
	if t.b.first == 0 {
		t.b.first = first
	}
	t.b.last = t.sp.position
	t.b.micros = t.micros
	t.sp.clock = t.micros
	t.staged = true
	return first
}

// put stages a row whose value is small.
func (t *tx) put(key, value []byte) {
	t.b.Set(key, value, nil)
	t.staged = true
}

// remove stages the removal of a row.
func (t *tx) remove(key []byte) {
	t.b.Delete(key)
	t.staged = true
}

// change notes what the write does to a segment in the space's timeline.
func (t *tx) change(kind record.ChangeKind, id uint64, position runnel.Position, last runnel.Sequence, count uint64) {
	t.b.size += commitChangeBytes
	t.b.changes = append(t.b.changes, record.Change{Segment: id, Kind: kind, Position: position, Last: last, Count: count})
}

// set moves the staged state of a segment.
func (t *tx) set(seg *segment, next *state) *touched {
	b := t.b
	if seg.batch != b {
		seg.batch = b
		seg.slot = len(b.touched)
		b.touched = append(b.touched, touched{seg: seg})
	}
	at := &b.touched[seg.slot]
	if prev := seg.staged.inc; prev != nil && prev != next.inc {
		at.gone = append(at.gone, prev)
		at.runs = nil
	}
	seg.staged = next
	at.state = next
	return at
}

// dependOn makes the answer wait for what is staged of a segment.
func (t *tx) dependOn(seg *segment) {
	t.waitFor(seg.batch)
}

// arenaBytes is how much room for keys and headers a batch takes at once.
const arenaBytes = 16 << 10

// cut reserves room in the batch for n bytes of keys or headers, and returns it empty.
func (t *tx) cut(n int) []byte {
	b := t.b
	if cap(b.arena)-len(b.arena) < n {
		b.arena = make([]byte, 0, max(n, arenaBytes))
	}
	start := len(b.arena)
	b.arena = b.arena[:start+n]
	return b.arena[start : start : start+n]
}
