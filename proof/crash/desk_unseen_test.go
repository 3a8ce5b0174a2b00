package crash

import (
	"testing"
	"time"

	"github.com/runnelhq/runnel"
)

// TestALeaseThatARestartDidNotShowIsWhateverItMayBe follows a lease whose renewal nobody was told of, through a
// restart when its time is over either way, until the clock is set back and shows which it was.
func TestALeaseThatARestartDidNotShowIsWhateverItMayBe(t *testing.T) {
	at := func(d time.Duration) time.Time { return start().Add(d) }
	given := &claim{key: "k", holder: "ann", ttl: 20 * time.Second, op: 1, number: 7, low: at(20 * time.Second), high: at(20 * time.Second)}
	f := runnel.Fence{Key: "k", Number: 7}
	before := new(desk).withClaim("k", given)
	now := moment{at(5 * time.Second), at(5 * time.Second)}
	renewed := before.renew(now, f).next
	released := renewed.release(now, f).next
	taken := released.acquire(4, now, runnel.LeaseRequest{Key: "k", Holder: "ben", TTL: 2 * time.Second}).next
	over := moment{at(time.Hour), at(time.Hour)}
	back := moment{at(6 * time.Second), at(time.Hour)}

	for _, c := range []struct {
		name   string
		states []*desk // the latest first
		holder string
		number uint64
		until  time.Duration
		wrong  bool
	}{
		{name: "as it was before", states: []*desk{renewed, before}, holder: "ann", number: 7, until: 20 * time.Second},
		{name: "renewed", states: []*desk{renewed, before}, holder: "ann", number: 7, until: 25 * time.Second},
		{name: "in between", states: []*desk{renewed, before}, holder: "ann", number: 7, until: 22 * time.Second, wrong: true},
		{name: "under another number", states: []*desk{renewed, before}, holder: "ann", number: 8, until: 25 * time.Second, wrong: true},
		{name: "not renewed, where the renewal was durable", states: []*desk{renewed}, holder: "ann", number: 7, until: 20 * time.Second, wrong: true},
		{name: "not released", states: []*desk{released, renewed}, holder: "ann", number: 7, until: 25 * time.Second},
		{name: "held, where its end was durable", states: []*desk{released}, holder: "ann", number: 7, until: 25 * time.Second, wrong: true},
		{name: "given to the next holder", states: []*desk{taken, released, renewed, before}, holder: "ben", number: 9, until: 7 * time.Second},
		{name: "not given to the next holder", states: []*desk{taken, released, renewed, before}, holder: "ann", number: 7, until: 25 * time.Second},
		{name: "given to the next holder under a number that was given", states: []*desk{taken, released}, holder: "ben", number: 7, until: 7 * time.Second, wrong: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			after := new(desk).withClaim("k", unseenClaim("k", c.states))
			if d := after.explainClaims("", nil, []*claim{given}, over); d != "" {
				t.Errorf("when its time is over: %s", d)
			}
			if d := after.explainClaims("", nil, []*claim{given}, back); d != "" {
				t.Errorf("when it is not there, though the clock is back: %s", d)
			}
			listed := runnel.Lease{Space: deskSpace(), Key: "k", Holder: c.holder, Number: c.number, TTL: 20 * time.Second, Granted: at(0), Deadline: at(c.until)}
			if c.holder == "ben" {
				listed.TTL = 2 * time.Second
			}
			d := after.explainClaims("", []runnel.Lease{listed}, []*claim{given}, back)
			if c.wrong != (d != "") {
				t.Errorf("when the clock shows that it is held until %v: %q", c.until, d)
			}
			if d := after.explainClaims("", []runnel.Lease{listed}, []*claim{given}, over); d == "" {
				t.Error("it is listed when its time is over, and nobody minds")
			}
		})
	}
}
