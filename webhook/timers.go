package webhook

import (
	"container/heap"
	"time"
)

// timer is when an item or a target is looked at again. The zero timer is not set.
type timer struct {
	at     time.Time
	item   *item
	target *target
	place  int // in the heap, plus one
}

// timers are ordered by their time.
type timers struct{ heap timerHeap }

// set lets a timer go off at a moment, instead of the one it was set to.
func (t *timers) set(tm *timer, at time.Time) {
	tm.at = at
	if tm.place == 0 {
		heap.Push(&t.heap, tm)
	} else {
		heap.Fix(&t.heap, tm.place-1)
	}
}

func (t *timers) stop(tm *timer) {
	if tm.place > 0 {
		heap.Remove(&t.heap, tm.place-1)
	}
}

// due takes out a timer whose time has come, or returns nil.
func (t *timers) due(now time.Time) *timer {
	if len(t.heap) == 0 || t.heap[0].at.After(now) {
		return nil
	}
	tm := t.heap[0]
	t.stop(tm)
	return tm
}

// next returns how long until the first timer goes off.
func (t *timers) next(now time.Time) time.Duration {
	if len(t.heap) == 0 {
		return time.Hour
	}
	return max(t.heap[0].at.Sub(now), 0)
}

// late returns the item of some timer that goes off later than most, or nil.
func (t *timers) late() *item {
	if len(t.heap) == 0 {
		return nil
	}
	return t.heap[len(t.heap)-1].item
}

type timerHeap []*timer

func (h timerHeap) Len() int           { return len(h) }
func (h timerHeap) Less(i, j int) bool { return h[i].at.Before(h[j].at) }

func (h timerHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].place, h[j].place = i+1, j+1
}

func (h *timerHeap) Push(x any) {
	tm := x.(*timer) //nolint:errcheck // the heap holds nothing else
	*h = append(*h, tm)
	tm.place = len(*h)
}

func (h *timerHeap) Pop() any {
	old := *h
	tm := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	tm.place = 0
	return tm
}
