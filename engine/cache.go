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
	// have left, and so have others, of segments that were given back.
	kept []*keptRun
	head int
	left int // how many of the others
}

// keptRun is a run in memory. When it leaves, run is nil.
type keptRun struct {
	inc  *incarnation
	run  *record.Run
	cost int64
}

// runOverhead is what a run takes in memory besides its payload, in bytes.
const runOverhead = 320

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
			cost := int64(run.MemoryBytes()) + runOverhead
			if inc.ended || cost > c.budget/4 {
				c.clear(inc) // what follows would not join
				continue
			}
			k := &keptRun{inc: inc, run: run, cost: cost}
			inc.runs = append(inc.runs, k)
			c.kept = append(c.kept, k)
			c.size += cost
		}
		inc.mu.Unlock()
	}
	for c.size > c.budget {
		c.dropOldest()
	}
	if gone := c.head + c.left; gone > len(c.kept)/2 && gone > 1024 {
		c.compact()
	}
}

func (c *tailCache) dropOldest() {
	k := c.kept[c.head]
	c.kept[c.head] = nil
	c.head++
	if k.run == nil {
		c.left--
		return
	}
	k.inc.mu.Lock()
	k.inc.runs[0] = nil // it is the oldest of its segment's too
	k.inc.runs = k.inc.runs[1:]
	k.inc.mu.Unlock()
	c.size -= k.cost
	k.run = nil
}

// compact forgets the runs that have left.
func (c *tailCache) compact() {
	n := 0
	for _, k := range c.kept[c.head:] {
		if k.run != nil {
			c.kept[n] = k
			n++
		}
	}
	clear(c.kept[n:])
	c.kept, c.head, c.left = c.kept[:n], 0, 0
}

// drop takes out what is kept of an incarnation.
func (c *tailCache) drop(inc *incarnation) {
	c.mu.Lock()
	defer c.mu.Unlock()
	inc.mu.Lock()
	defer inc.mu.Unlock()
	c.clear(inc)
}

// clear takes out what is kept of an incarnation, with both locks held.
func (c *tailCache) clear(inc *incarnation) {
	for _, k := range inc.runs {
		c.size -= k.cost
		c.left++
		k.inc, k.run = nil, nil
	}
	inc.runs = nil
}

// cached returns some runs from memory, in order, the first of which holds the entry after a place; none
// if that is not in memory.
func (inc *incarnation) cached(after, through runnel.Sequence) []*record.Run {
	inc.mu.Lock()
	defer inc.mu.Unlock()
	runs := inc.runs
	if len(runs) == 0 || runs[0].run.First() > after+1 {
		return nil
	}
	i, found := slices.BinarySearchFunc(runs, after+1, func(k *keptRun, seq runnel.Sequence) int {
		if k.run.Last() < seq {
			return -1
		}
		if k.run.First() > seq {
			return 1
		}
		return 0
	})
	if !found {
		return nil
	}
	var taken []*record.Run
	for ; i < len(runs) && len(taken) < cacheBatch && runs[i].run.First() <= through; i++ {
		taken = append(taken, runs[i].run)
	}
	return taken
}

// cachedAt returns the run from memory that holds an entry near the tail, nil if it is not in memory.
func (inc *incarnation) cachedAt(at runnel.Sequence) *record.Run {
	inc.mu.Lock()
	defer inc.mu.Unlock()
	for _, k := range slices.Backward(inc.runs) {
		if k.run.First() <= at {
			if k.run.Last() < at {
				return nil
			}
			return k.run
		}
	}
	return nil
}
