package engine

import (
	"context"
	"encoding/binary"
	"sync"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/record"
	"github.com/runnelhq/runnel/storage"
)

// The timeline of a space keeps a row for each commit, also when all that the commit wrote is gone. The
// vacuum reads a timeline now and then, and removes the rows that nothing stands behind any more. It
// does so when something has gone and the timeline has grown by as much as the last pass has left of
// it, so that its work is a constant part of the work of writing.
type vacuum struct {
	mu   sync.Mutex
	gone map[storage.Partition]struct{} // something was dropped since the last pass
	next map[storage.Partition]runnel.Position
}

// vacuumRows is how many commits a timeline must have grown by before it is worth a pass.
const vacuumRows = 4096

// vacuumParts is of how many partitions it is remembered when the next pass is worth it.
const vacuumParts = 4096

// note says that something of a partition was dropped.
func (v *vacuum) note(part storage.Partition) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.gone == nil {
		v.gone = make(map[storage.Partition]struct{})
		v.next = make(map[storage.Partition]runnel.Position)
	}
	v.gone[part] = struct{}{}
}

// run passes over the timeline of a partition, if that is worth it.
func (v *vacuum) run(ctx context.Context, e *Engine, part storage.Partition) error {
	v.mu.Lock()
	_, gone := v.gone[part]
	next := max(v.next[part], vacuumRows)
	v.mu.Unlock()
	if !gone {
		return nil
	}
	sp, err := e.enter(ctx, part)
	if err != nil {
		return err
	}
	defer sp.leave()
	sp.mu.Lock()
	end := sp.position
	sp.mu.Unlock()
	if end < next {
		return nil
	}
	// What the pass reads must not be taken back by a crash.
	if err := sp.barrier(ctx); err != nil {
		return err
	}
	// The position may have been that of a commit which another process has overtaken.
	head, _, err := sp.readHead(ctx)
	if err != nil {
		return err
	}
	end = min(end, head)
	v.mu.Lock()
	delete(v.gone, part)
	v.mu.Unlock()
	kept, err := e.vacuumSpace(ctx, sp, end)
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.next) >= vacuumParts {
		clear(v.next) // their next passes come early
	}
	v.next[part] = end + runnel.Position(max(vacuumRows, kept))
	return err
}

// vacuumSpace removes the commit rows before a position that stand for nothing any more, and counts
// those it leaves. The last row stays: it is the head of the space.
func (e *Engine) vacuumSpace(ctx context.Context, sp *space, end runnel.Position) (kept int, err error) {
	live, err := e.liveSegments(ctx, sp)
	if err != nil {
		return 0, err
	}
	var dead [][]byte
	for pair, err := range e.driver.Scan(ctx, sp.part, storage.Range{From: []byte{keyCommit}, To: commitKey(nil, end)}) {
		if err != nil {
			return kept, storageError(err)
		}
		c, err := record.DecodeCommit(pair.Value)
		if err != nil {
			return kept, err
		}
		if live.any(c) {
			kept++
			continue
		}
		dead = append(dead, append([]byte(nil), pair.Key...))
	}
	return kept, sp.removeRows(ctx, dead)
}

// liveSet says from which sequence on the entries of a segment are kept, by the segment's id.
type liveSet map[uint64]runnel.Sequence

func (l liveSet) any(c *record.Commit) bool {
	for i := range c.Changes {
		ch := &c.Changes[i]
		after, ok := l[ch.Segment]
		switch {
		case !ok, ch.Kind == record.Appended && ch.Last <= after, ch.Kind == record.Trimmed && ch.Last < after:
		default:
			return true
		}
	}
	return false
}

// liveSegments finds the segments of a space that exist, or whose entries are kept, soft-deleted ones included. A
// fork reads its source by sequence and not by position, so what only forks still read needs no row.
func (e *Engine) liveSegments(ctx context.Context, sp *space) (liveSet, error) {
	live := make(liveSet)
	for pair, err := range e.driver.Scan(ctx, sp.part, kindRange(keyDescriptor)) {
		if err != nil {
			return nil, storageError(err)
		}
		desc, err := record.DecodeDescriptor(pair.Value)
		if err != nil {
			return nil, err
		}
		live[desc.ID] = 0
	}
	for pair, err := range e.driver.Scan(ctx, sp.part, kindRange(keyEnded)) {
		if err != nil {
			return nil, storageError(err)
		}
		ended, err := record.DecodeEnded(pair.Value)
		if err != nil {
			return nil, err
		}
		live[idOfKey(pair.Key)] = ended.Earliest
	}
	for pair, err := range e.driver.Scan(ctx, sp.part, kindRange(keyMutable)) {
		if err != nil {
			return nil, storageError(err)
		}
		m, err := record.DecodeMutable(pair.Value)
		if err != nil {
			return nil, err
		}
		if id := binary.BigEndian.Uint64(pair.Key[1:]); m.Earliest > 0 {
			if _, ok := live[id]; ok {
				live[id] = m.Earliest
			}
		}
	}
	return live, nil
}
