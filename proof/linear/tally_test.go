package linear

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/anishathalye/porcupine"
)

// tally counts what the histories of one model have met.
type tally struct {
	mu     sync.Mutex
	counts map[string]int
}

func (t *tally) count(what string) { t.add(what, 1) }

func (t *tally) add(what string, n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.counts == nil {
		t.counts = make(map[string]int)
	}
	t.counts[what] += n
}

func (t *tally) of(what string) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.counts[what]
}

func (t *tally) told(a answer) {
	t.count("operations")
	switch {
	case a.unknown:
		t.count("outcome unknown")
	case a.refused != refusal{}:
		t.count("refused: " + a.refused.kind)
	}
}

// history counts one, and what became of its unknown outcomes as far as any read shows it.
func (t *tally) history(all []porcupine.Operation) {
	t.count("histories")
	seen := make(map[string]bool)
	for i := range all {
		if v, ok := all[i].Output.(answer).value.(interface{ shows() []string }); ok {
			for _, payload := range v.shows() {
				seen[payload] = true
			}
		}
	}
	for i := range all {
		sends, ok := all[i].Input.(interface{ sends() []string })
		if !ok || !all[i].Output.(answer).unknown || len(sends.sends()) == 0 {
			continue
		}
		if seen[sends.sends()[0]] {
			t.count("unknown, and it happened")
		} else {
			t.count("unknown, and nobody saw it")
		}
	}
}

func (t *tally) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var parts []string
	for _, what := range slices.Sorted(maps.Keys(t.counts)) {
		parts = append(parts, fmt.Sprintf("%s: %d", what, t.counts[what]))
	}
	return strings.Join(parts, "\n    ")
}
