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
	looked map[string]int
	met    map[string]int
}

func newCoverage() *coverage {
	return &coverage{looked: make(map[string]int), met: make(map[string]int)}
}

// look counts a look at an invariant.
func (c *coverage) look(invariant string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.looked[invariant]++
}

// hit counts what a run has met.
func (c *coverage) hit(what string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.met[what]++
}

// missing returns what the runs together should have met, or looked at, and have not.
func (c *coverage) missing(sometimes, invariants []string) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []string
	for _, what := range sometimes {
		if c.met[what] == 0 {
			all = append(all, "no run has met this: "+what)
		}
	}
	for _, name := range invariants {
		if c.looked[name] == 0 {
			all = append(all, "never looked at: "+name)
		}
	}
	return all
}

// String is a table of the invariants and one of what was met.
func (c *coverage) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var b strings.Builder
	b.WriteString("  checked  invariant\n")
	for _, name := range slices.Sorted(maps.Keys(c.looked)) {
		fmt.Fprintf(&b, "%9d  %s\n", c.looked[name], name)
	}
	b.WriteString("\n      met\n")
	for _, what := range slices.Sorted(maps.Keys(c.met)) {
		fmt.Fprintf(&b, "%9d  %s\n", c.met[what], what)
	}
	return b.String()
}
