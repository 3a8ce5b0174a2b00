package chaos

import (
	"context"
	"flag"
	"math/rand/v2"
	"sync"
	"testing"
	"time"
)

var (
	rounds  = flag.Int("rounds", 3, "after how many rounds of disturbances and checks the run ends")
	forTime = flag.Duration("for", 0, "run rounds until this time is over, instead of -rounds")
	seed    = flag.Uint64("seed", 0, "chooses the disturbances and what clients do, but not how they interleave; 0 takes one at random")
)

// longRun is from how many rounds on everything that happens sometimes must have happened.
const longRun = 60

// TestKillsAndFreezesUnderLoad kills and freezes the server in the middle of the work of all workloads. After
// every round, and at the end, it looks at what is left.
func TestKillsAndFreezesUnderLoad(t *testing.T) {
	if sigStop == nil {
		t.Skip("processes cannot be frozen here")
	}
	chosen := *seed
	for chosen == 0 {
		chosen = rand.Uint64()
	}
	t.Logf("seed %d", chosen)
	s := newServer(t)
	c := &chaos{world: newWorld(t, s, chosen), loads: workloads()}
	defer c.stopReaders()
	c.plan = c.rand()
	c.start()
	began := time.Now()
	done := 0
	for ; !t.Failed() && (done < *rounds && *forTime == 0 || time.Since(began) < *forTime); done++ {
		c.round(t.Context())
	}
	if !t.Failed() {
		c.check(true)
	}
	t.Logf("%d rounds in %v, %d kills, %d freezes, %d writes acknowledged, %d entries read live, slowest start %v\n%s",
		done, time.Since(began).Round(time.Second), s.kills.Load(), s.freezes.Load(), c.acked.Load(), c.entries.Load(),
		c.slowest.Round(time.Millisecond), c.counts)
	if never := c.counts.never(); done >= longRun && len(never) > 0 && !t.Failed() {
		t.Errorf("in %d rounds it never happened that: %q", done, never)
	}
}

// chaos disturbs a world.
type chaos struct {
	*world
	loads   []workload
	plan    *rand.Rand
	last    time.Duration // that a start took
	slowest time.Duration
}

// round disturbs all workloads, ends them, and looks at what is left. The kill at its end sees to it that
// nothing is still under way that a client has given up.
func (c *chaos) round(ctx context.Context) {
	working, stop := context.WithCancel(ctx)
	var work sync.WaitGroup
	defer work.Wait()
	defer stop()
	for _, l := range c.loads {
		work.Go(func() { l.run(working, c.world) })
	}
	for range 1 + c.plan.IntN(3) {
		c.letRun()
		c.disturb()
	}
	c.letRun()
	if c.plan.IntN(2) == 0 { // so that clients are in doubt when they rest, and go on from there
		c.counts.hit(killedUnderLoad)
		c.s.kill()
	}
	stop()
	work.Wait()
	c.s.kill()
	c.start()
	c.check(false)
}

// check looks at all streams, and at what readers have seen.
func (c *chaos) check(all bool) {
	for _, l := range c.loads {
		l.check(c.world, all)
		if c.failed.Load() {
			c.t.Logf("found in %s", l.name())
			break
		}
	}
	c.report(c.ledger.Violations())
	c.resolve()
}

// letRun gives the workloads some time.
func (c *chaos) letRun() { pause(time.Duration(50+c.plan.IntN(400)) * time.Millisecond) }

func (c *chaos) disturb() {
	switch c.plan.IntN(7) {
	case 0, 1:
		c.counts.hit(killedUnderLoad)
		c.s.kill()
		c.start()
	case 2:
		c.killInStart()
	case 3:
		c.freeze(time.Duration(5+c.plan.IntN(200)) * time.Millisecond)
		c.counts.hit(frozenShortly)
	case 4: // a stutter
		for range 5 + c.plan.IntN(10) {
			c.freeze(time.Duration(1+c.plan.IntN(20)) * time.Millisecond)
			pause(time.Duration(1+c.plan.IntN(20)) * time.Millisecond)
		}
		c.counts.hit(frozenShortly)
	case 5:
		c.freeze(clientTimeout + time.Duration(c.plan.IntN(2500))*time.Millisecond)
		c.counts.hit(frozenLong)
	case 6:
		c.s.freeze()
		pause(time.Duration(c.plan.IntN(1500)) * time.Millisecond)
		c.s.kill()
		c.start()
		c.counts.hit(frozenThenKilled)
	}
}

func (c *chaos) freeze(d time.Duration) {
	c.s.freeze()
	pause(d)
	c.s.thaw()
}

// killInStart kills the server, and a few times again before it is ready, or freezes it there.
func (c *chaos) killInStart() {
	c.counts.hit(killedUnderLoad)
	c.s.kill()
	for range 2 + c.plan.IntN(4) {
		c.s.launch()
		pause(time.Duration(c.plan.Int64N(int64(c.last))))
		if c.plan.IntN(4) == 0 {
			c.freeze(time.Duration(c.plan.IntN(100)) * time.Millisecond)
			c.counts.hit(frozenInStart)
		}
		if !c.s.ready() {
			c.counts.hit(killedInStart)
		}
		c.s.kill()
	}
	c.start()
}

// start starts the server, with other settings each time.
func (c *chaos) start() {
	c.s.args = []string{"--long-poll-timeout", "2s", "--heartbeat", "1s", "--sse-rotation", "5s", "--webhook-development", "--webhook-timeout", hookTimeout.String()}
	if c.plan.IntN(2) == 0 {
		c.s.args = append(c.s.args, "--compress")
	}
	if c.plan.IntN(2) == 0 {
		c.s.args = append(c.s.args, "--tail-cache", "64KiB") // so that readers must go to the disk
	}
	c.last = c.s.start()
	c.slowest = max(c.slowest, c.last)
}
