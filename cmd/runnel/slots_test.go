package main

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// TestASecondSlotIsThereWhileThereAreWrites goes through a server that starts, rests, writes and rests again.
func TestASecondSlotIsThereWhileThereAreWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var writes uint64
		var set []int
		go slots{writes: func() uint64 { return writes }, set: func(n int) { set = append(set, n) }}.run(t.Context())
		second := func(more uint64, want ...int) {
			t.Helper()
			writes += more
			time.Sleep(slotsEvery) //nolint:forbidigo // time is fake
			synctest.Wait()
			if !slices.Equal(set, want) {
				t.Fatalf("set %v, want %v", set, want)
			}
		}
		synctest.Wait()
		second(3)
		second(0, 1)
		second(0, 1)
		second(1, 1, 2)
		second(5, 1, 2)
		second(0, 1, 2, 1)
	})
}
