package crash

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
)

// coverage counts what the runs have met, and how often each invariant was looked at.
type coverage struct {
	mu     sync.Mutex
	counts map[string]int
}

func (c *coverage) hit(what string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.counts == nil {
		c.counts = make(map[string]int)
	}
	c.counts[what]++
}

func (c *coverage) count(what string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.counts[what]
}

func (c *coverage) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var b strings.Builder
	for _, what := range slices.Sorted(maps.Keys(c.counts)) {
		fmt.Fprintf(&b, "%9d  %s\n", c.counts[what], what)
	}
	return b.String()
}
