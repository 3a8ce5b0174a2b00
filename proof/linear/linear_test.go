package linear

import (
	"flag"
	"fmt"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

var (
	histories = flag.Int("histories", 3, "how many histories of each model in each world")
	duration  = flag.Duration("for", 0, "make histories for so long, however many that are")
	firstSeed = flag.Uint64("seed", 1, "the seed of the first history")
	only      = flag.String("world", "", "the only world to make histories in, as \"shared faults\"; empty is all of them")
)

var models = []*model{
	appendModel, producerModel, lifeModel, commitModel, forkModel, itemModel, leaseModel, cursorModel, transactModel,
}

// enough is how many histories of a model must have met everything that it is about.
const enough = 500

// TestHistories makes histories of each model in each world and checks them.
func TestHistories(t *testing.T) {
	for _, m := range models {
		t.Run(m.name, func(t *testing.T) {
			met := new(tally)
			began := time.Now()
			limit := *duration / time.Duration(len(models))
			for n := 0; n < *histories && limit == 0 || time.Since(began) < limit; n++ {
				for _, k := range kinds {
					if m.offered(k) && (*only == "" || *only == k.String()) {
						try(t, m, k, *firstSeed+uint64(n), met)
					}
				}
			}
			t.Logf("%s, in %v:\n    %s", m.name, time.Since(began).Round(time.Millisecond), met)
			if met.of("histories") < enough {
				return
			}
			for _, what := range m.sometimes {
				if met.of(what) == 0 {
					t.Errorf("no history has met this: %s", what)
				}
			}
		})
	}
}

// try makes one history and fails if nothing explains it. One that Porcupine could not check in time is
// counted and reported, and fails nothing.
func try(t *testing.T, m *model, k kind, seed uint64, met *tally) {
	t.Helper()
	got, err := run(m, k, seed, met, mutation{})
	switch again := fmt.Sprintf("go test ./proof/linear -run 'TestHistories/%s$' -args -world %q -histories 200 -seed %d", m.name, k, seed); {
	case err != nil:
		t.Fatalf("%s, world %q, seed %d: %v\n%s", m.name, k, seed, err, again)
	case got.result == porcupine.Illegal:
		t.Fatalf("%s, world %q, seed %d: no order of the calls explains the answers; see %s\n%s%s", m.name, k, seed, got.page, got.lines, again)
	case got.result == porcupine.Unknown:
		t.Logf("%s, world %q, seed %d: not checked within %v", m.name, k, seed, thinking)
	}
}
