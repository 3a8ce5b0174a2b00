package engine_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/engine"
	"github.com/runnelhq/runnel/storage"
	"github.com/runnelhq/runnel/storage/faulty"
)

func TestAWindowIsNotWidenedByHandingASegmentFromEngineToEngine(t *testing.T) {
	bubble(t, func(t *testing.T) {
		a, b := twoEngines(t, engine.Config{MaxSegments: 1, SweepInterval: -1})
		a.create("s/a", runnel.CreateOptions{TTL: ttl})
		for i := range 40 {
			one, other := a, b
			if i%2 == 1 {
				one, other = b, a
			}
			o := runnel.AppendOptions{HasStreamSeq: true, StreamSeq: fmt.Sprintf("%03d", i)}
			if _, err := one.tryAppend("s/a", o, "x"); err != nil {
				t.Fatal(err)
			}
			other.stat("s/a")
			for k := range 100 { // which takes the room of s/a, whichever leave memory first
				wantError(t, other.statErr(fmt.Sprint("s/missing", k)), runnel.ErrNotFound)
			}
			pass(time.Millisecond)
		}
		pass(ttl - time.Second)
		wantError(t, a.statErr("s/a"), nil)
		pass(time.Second + ttl/8)
		wantError(t, a.statErr("s/a"), runnel.ErrNotFound)
	})
}

func TestAReadRenewsTheWindowAlsoWhereAnotherEngineWinsAgainstItsCommit(t *testing.T) {
	bubble(t, func(t *testing.T) {
		a, b := twoEngines(t, engine.Config{SweepInterval: -1})
		a.create("s/a", runnel.CreateOptions{TTL: ttl}, "x")
		pass(ttl / 2)
		a.driver.SetRules(faulty.Rule{
			When: faulty.Nth(faulty.Commit, a.driver.Calls(faulty.Commit)+1), Then: faulty.Before(storage.ErrConflict),
		})
		a.want("s/a", "x")
		pass(ttl * 3 / 4)
		wantError(t, b.statErr("s/a"), nil)
		wantError(t, a.statErr("s/a"), nil)
		pass(ttl/4 + ttl/8)
		wantError(t, b.statErr("s/a"), runnel.ErrNotFound)
	})
}
