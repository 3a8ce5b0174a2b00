package delivery

import (
	"flag"
	"testing"
	"time"
)

var (
	runs  = flag.Int("runs", 2, "how many runs to make")
	lasts = flag.Duration("for", 0, "make runs for so long, instead of so many")
	seed  = flag.Uint64("seed", 1, "the seed of the first run")
)

// standard is what a run does.
var standard = scale{streams: 21, readers: 10, writers: 4, writeEvery: 12, load: 1200 * time.Millisecond, arrival: 30 * time.Second}

// TestEveryReaderGetsEveryEntryOnceAndInOrder makes runs, and prints what they have met.
func TestEveryReaderGetsEveryEntryOnceAndInOrder(t *testing.T) {
	cover := new(coverage)
	began := time.Now()
	n := 0
	for ; *lasts > 0 && time.Since(began) < *lasts || *lasts == 0 && n < *runs; n++ {
		s := *seed + uint64(n)
		if found, story := play(s, standard, variant{}, cover); found != nil {
			t.Fatalf("seed %d violates\n  %s\n\n%s\n\ngo test ./proof/delivery -run %s -runs 1 -seed %d", s, found, story, t.Name(), s)
		}
	}
	if *lasts >= time.Minute {
		for _, what := range sometimes {
			if cover.count(what) == 0 {
				t.Errorf("no run has met this: %s", what)
			}
		}
	}
	t.Logf("%d runs from seed %d in %v:\n%s", n, *seed, time.Since(began).Round(time.Millisecond), cover)
}

// sometimes are what many runs together must have met, or they prove little.
var sometimes = []string{
	"a slow reader was dropped by the server",
	"an offset in the middle of a batch",
	"fell out of the tail cache and came back",
	"overtaken by retention",
	"followed a re-created name and was told",
	"the SDK's tail was told that the stream is gone",
	"told that the stream is gone",
	"stalled in a frame",
	"a response was cut and asked for again",
	"an SSE response was ended by the server, and another one asked for",
	"an SSE connection was lost, and another one asked for",
	"a heartbeat came",
	"a long-poll ended without data",
	"told the end of a closed stream",
	"an append came after the close",
	"the outcome of an append is not known",
	"a commit of several segments was made",
	"a view was left before its end",
	"a reader in the process waits",
	"a tail in the process brought data",
	"a fork was followed",
	"a fork was followed after its source was deleted",
	"a name was created again",
	"the server was shut down and started again",
	"the server was cut off and started again",
}
