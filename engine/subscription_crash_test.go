package engine_test

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/runnelhq/runnel"
)

// Each step may be followed by a crash, at once or when all is quiet: also between an append and its wake,
// and between a wake and its event.
func TestEveryAppendIsPartOfAnAcknowledgedWakeWhateverCrashes(t *testing.T) {
	for seed := range uint64(60) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			bubble(t, func(t *testing.T) { newCrashing(t, seed).run() })
		})
	}
}

// crashing is a subscription, its streams and its workers, while the process dies again and again.
type crashing struct {
	*world
	t *testing.T
	r *rand.Rand

	tails      map[string]runnel.Sequence // of streams, as acknowledged
	acked      map[string]runnel.Sequence // of streams, as acknowledged
	generation uint64
	held       *runnel.Wake
	stale      []runnel.Wake
}

func newCrashing(t *testing.T, seed uint64) *crashing {
	c := &crashing{
		world: inMemory(t), t: t, r: rand.New(rand.NewPCG(seed, 1)),
		tails: make(map[string]runnel.Sequence), acked: make(map[string]runnel.Sequence),
	}
	if _, err := c.Create(ctx, c.path("wake"), runnel.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"events/old", "other/old"} {
		c.append(path)
		c.acked[path] = 1
	}
	_, _, err := c.CreateSubscription(ctx, noStore, "sub", runnel.SubscriptionConfig{
		Type: runnel.PullWake, Pattern: "events/**", Streams: []string{"other/old"}, WakeStream: "wake", LeaseTTL: time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *crashing) path(path string) runnel.Segment {
	seg, err := runnel.ParsePath(noStore, path)
	if err != nil {
		c.t.Fatal(err)
	}
	return seg
}

func (c *crashing) append(path string) {
	c.t.Helper()
	a, err := c.Append(ctx, c.path(path), runnel.AppendOptions{Create: &runnel.CreateOptions{}}, runnel.Record{Payload: []byte("x")})
	if err != nil {
		c.t.Fatal(err)
	}
	c.tails[path] = a.Tail
}

func (c *crashing) run() {
	paths := []string{"events/old", "other/old", "events/a", "events/deep/b", "events"}
	for range 40 {
		switch c.r.IntN(8) {
		case 0, 1, 2:
			c.append(paths[c.r.IntN(len(paths))])
		case 3:
			c.claim()
		case 4:
			c.ack(false)
		case 5:
			c.ack(true)
		case 6:
			pass(time.Duration(c.r.IntN(1500)) * time.Millisecond)
		case 7:
			if len(c.stale) > 0 {
				c.fenced(c.stale[c.r.IntN(len(c.stale))])
			}
		}
		if c.r.IntN(3) == 0 {
			synctest.Wait()
		}
		if c.r.IntN(5) == 0 {
			c.crash()
		}
	}
	c.drain()
}

// sees checks that what a claim says is what was acknowledged.
func (c *crashing) sees(w *runnel.Wake) {
	c.t.Helper()
	if w.Generation < c.generation {
		c.t.Fatalf("generation %d after %d", w.Generation, c.generation)
	}
	c.generation = w.Generation
	for _, l := range w.Streams {
		if l.Acked != c.acked[l.Path] || l.Tail != c.tails[l.Path] {
			c.t.Fatalf("%+v, want acked %d and tail %d", l, c.acked[l.Path], c.tails[l.Path])
		}
	}
}

func (c *crashing) claim() bool {
	w, err := c.ClaimWake(ctx, noStore, "sub", "worker")
	switch {
	case errors.Is(err, runnel.ErrNoWork) || errors.Is(err, runnel.ErrLeaseHeld):
		if errors.Is(err, runnel.ErrNoWork) {
			c.nothingLeft()
		}
		return false
	case err != nil:
		c.t.Fatal(err)
	}
	c.sees(&w)
	if c.held != nil {
		c.stale = append(c.stale, *c.held)
	}
	c.held = &w
	return true
}

// nothingLeft checks that all that was appended has been acknowledged.
func (c *crashing) nothingLeft() {
	c.t.Helper()
	for path, tail := range c.tails {
		if c.acked[path] != tail {
			c.t.Fatalf("%s ends at %d, is acknowledged through %d, and there is no work", path, tail, c.acked[path])
		}
	}
}

func (c *crashing) ack(done bool) {
	if c.held == nil {
		return
	}
	var acks []runnel.WakeAck
	for _, l := range c.held.Streams {
		if at := max(c.acked[l.Path], runnel.Sequence(c.r.Uint64N(uint64(l.Tail)+1))); c.r.IntN(2) == 0 {
			acks = append(acks, runnel.WakeAck{Path: l.Path, Acked: at})
		}
	}
	_, err := c.AckWake(ctx, c.held.WakeRef, acks, done)
	if errors.Is(err, runnel.ErrFenced) {
		c.stale = append(c.stale, *c.held)
		c.held = nil
		return
	}
	if err != nil {
		c.t.Fatal(err)
	}
	for _, ack := range acks {
		c.acked[ack.Path] = ack.Acked
	}
	if done {
		c.stale = append(c.stale, *c.held)
		c.held = nil
	}
}

// fenced checks that a wake that is over moves nothing.
func (c *crashing) fenced(w runnel.Wake) {
	c.t.Helper()
	var acks []runnel.WakeAck
	for _, l := range w.Streams {
		acks = append(acks, runnel.WakeAck{Path: l.Path, Acked: l.Tail})
	}
	if _, err := c.AckWake(ctx, w.WakeRef, acks, c.r.IntN(2) == 0); !errors.Is(err, runnel.ErrFenced) {
		c.t.Fatalf("an ack of a wake that is over: %v", err)
	}
}

// drain lets workers do all that there is, each time they are told of a wake, and checks that then all is
// acknowledged.
func (c *crashing) drain() {
	pass(2 * time.Second)
	for range 100 {
		synctest.Wait()
		view, err := c.Read(ctx, c.path("wake"), 0, 0)
		if err != nil {
			c.t.Fatal(err)
		}
		if view.Tail == 0 && c.generation > 0 {
			c.t.Fatal("there were wakes, and the wake stream is empty")
		}
		if !c.claim() {
			c.nothingLeft()
			for _, path := range slices.Sorted(maps.Keys(c.tails)) {
				if _, ok := c.acked[path]; !ok {
					c.t.Fatalf("%s was never part of a wake", path)
				}
			}
			return
		}
		var acks []runnel.WakeAck
		for _, l := range c.held.Streams {
			acks = append(acks, runnel.WakeAck{Path: l.Path, Acked: l.Tail})
			c.acked[l.Path] = l.Tail
		}
		if _, err := c.AckWake(ctx, c.held.WakeRef, acks, true); err != nil {
			c.t.Fatal(err)
		}
		c.held = nil
		if c.r.IntN(3) == 0 {
			c.crash()
		}
	}
	c.t.Fatal("the work has no end")
}
