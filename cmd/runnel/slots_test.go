package main

import (
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestASecondSlotIsThereWhileThereAreWrites goes through a server that starts, rests, writes and rests again.
func TestASecondSlotIsThereWhileThereAreWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var writes atomic.Uint64
		var mu sync.Mutex
		var set []int
		go slots{writes: writes.Load, set: func(n int) {
			mu.Lock()
			defer mu.Unlock()
			set = append(set, n)
		}}.run(t.Context())
		second := func(more uint64, want ...int) {
			t.Helper()
			writes.Add(more)
			time.Sleep(slotsEvery) //nolint:forbidigo // time is fake
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
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
