package dsclient

import (
	"errors"
	"testing"
	"time"
)

func TestWaitsGrowUpToABoundAndAreNeverShorterThanAsked(t *testing.T) {
	b := Backoff{First: 100 * time.Millisecond, Most: time.Second}
	for failures, bound := range map[int]int{1: 100, 2: 200, 3: 400, 4: 800, 5: 1000, 500: 1000} {
		bound := time.Duration(bound) * time.Millisecond
		longest := time.Duration(0)
		for range 1000 {
			wait := b.after(failures, errors.New("x"))
			if wait <= 0 || wait > bound {
				t.Fatalf("after %d failures it waits for %s", failures, wait)
			}
			longest = max(longest, wait)
		}
		if longest < bound*8/10 {
			t.Errorf("after %d failures it never waits for longer than %s", failures, longest)
		}
	}
	if wait := b.after(1, &Error{RetryAfter: 3 * time.Second}); wait != 3*time.Second {
		t.Errorf("asked for 3 s, it waits for %s", wait)
	}
	if wait := b.after(1, &Error{RetryAfter: 24 * time.Hour}); wait != mostRetryAfter {
		t.Errorf("asked for a day, it waits for %s", wait)
	}
}

func TestRetryAfterIsReadAsSecondsOrADate(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for value, want := range map[string]time.Duration{
		"": 0, "0": 0, "7": 7 * time.Second, "-7": 0, "soon": 0, "1.5": 0,
		"Fri, 02 Jan 2026 03:04:15 GMT": 10 * time.Second,
		"Fri, 02 Jan 2026 03:04:00 GMT": 0,
	} {
		if got := retryAfter(value, now); got != want {
			t.Errorf("%q: got %s, want %s", value, got, want)
		}
	}
}
