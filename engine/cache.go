package engine

import (
	"slices"
	"sync"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/record"
)

// tailCache keeps the latest runs of all segments, the oldest leaving first. Readers at the tail are
// served from it and share its bytes.
type tailCache struct {
	budget int64

	mu   sync.Mutex
	size int64
	// kept holds every run that is in memory, in the order in which they came; the first head of them
	// have left.
	kept []keptRun
	head int
}

type keptRun struct {
	inc *incarnation
	run *record.Run
}

// runOverhead is what a run takes in memory besides its payload, in bytes.
const runOverhead = 256

// cacheBatch is how many runs a reader takes out at once.
const cacheBatch = 256

func newTailCache(budget int64) *tailCache { return &tailCache{budget: budget} }

// add takes in what a batch has appended. The durable states still stand before the batch.
func (c *tailCache) add(all []touched) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range all {
		t := &all[i]
		if len(t.runs) == 0 {
			continue
		}
		inc := t.state.inc
		inc.mu.Lock()
		for _, run := range t.runs {
			cost := int64(run.PayloadBytes()) + runOverhead
			if inc.ended || cost > c.budget/4 {
				inc.runs = nil // what follows would not join
				continue
			}
			inc.runs = append(inc.runs, run)
			c.kept = append(c.kept, keptRun{inc: inc, run: run})
			c.size += cost
		}
		inc.mu.Unlock()
	}
	for c.size > c.budget {
		c.dropOldest()
	}
	if c.head > len(c.kept)/2 && c.head > 1024 {
		n := copy(c.kept, c.kept[c.head:])
		clear(c.kept[n:])
		c.kept, c.head = c.kept[:n], 0
	}
}

func (c *tailCache) dropOldest() {
	k := c.kept[c.head]
	c.kept[c.head] = keptRun{}
	c.head++
	c.size -= int64(k.run.PayloadBytes()) + runOverhead
	k.inc.mu.Lock()
	if len(k.inc.runs) > 0 && k.inc.runs[0] == k.run {
		k.inc.runs[0] = nil
		k.inc.runs = k.inc.runs[1:]
	}
	k.inc.mu.Unlock()
}

// drop takes an incarnation's runs out of its readers' sight. Their memory is given back as they become
// the oldest.
func (c *tailCache) drop(inc *incarnation) {
	inc.mu.Lock()
	inc.runs = nil
	inc.mu.Unlock()
}

// cached returns some runs from memory, in order, the first of which holds the entry after a place; none
// if that is not in memory.
func (inc *incarnation) cached(after, through runnel.Sequence) []*record.Run {
	inc.mu.Lock()
	defer inc.mu.Unlock()
	runs := inc.runs
	if len(runs) == 0 || runs[0].First() > after+1 {
		return nil
	}
	i, found := slices.BinarySearchFunc(runs, after+1, func(r *record.Run, seq runnel.Sequence) int {
		if r.Last() < seq {
			return -1
		}
		if r.First() > seq {
			return 1
		}
		return 0
	})
	if !found {
		return nil
	}
	end := i
	for end < len(runs) && end-i < cacheBatch && runs[end].First() <= through {
		end++
	}
	return slices.Clone(runs[i:end])
}
