package oracle

import (
	"fmt"
	"sync"
	"time"
)

// The invariants of subscriptions that wake somebody, as the output names them.
const (
	WakesForAll   = "every append to a matching stream is part of a wake that is acknowledged in the end"
	WakesForward  = "generations never go back, and each is one wake"
	FencedIsStill = "who is fenced moves nothing"
	KeepsProgress = "what was acknowledged as worked on stays so"
	KeepsSchedule = "a stored next attempt is kept, and none is made before it"
	StaysParked   = "a parked delivery stays parked until it is replayed"
)

// WakeInvariants returns all of them.
func WakeInvariants() []string {
	return []string{WakesForAll, WakesForward, FencedIsStill, KeepsProgress, KeepsSchedule, StaysParked}
}

// clocks is how far the clock of the log and that of who receives may be apart, with rounding.
const clocks = 20 * time.Millisecond

// Wakes judges one subscription from the side of who is woken. Streams are named by their paths, and places in them
// are how many entries are before. The zero Wakes is ready. It may be used by several goroutines.
type Wakes struct {
	mu         sync.Mutex
	generation uint64 // the furthest that was sent
	said       uint64 // the furthest that the subscription was said to be at
	wakes      map[uint64]string
	finished   uint64 // every generation up to it is over
	inHand     map[string]map[int]bool
	acked      map[string]int
	attempts   int
	next       time.Time // when the next attempt is to be made; zero: nobody knows of one
	parked     bool
	violations []Violation
}

// Subscription is what a subscription is said to be while nobody works on it.
type Subscription struct {
	Generation uint64
	Acked      map[string]int
	// Attempts is how many have failed in a row, and Next when the next one is made.
	Attempts int
	Next     time.Time
	Parked   bool
}

func (w *Wakes) violated(invariant, format string, args ...any) {
	w.violations = append(w.violations, Violation{invariant, fmt.Sprintf(format, args...)})
}

// Violations returns what has been found since it was called last.
func (w *Wakes) Violations() []Violation {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := w.violations
	w.violations = nil
	return all
}

// Sent says that a wake came, at a moment. One may come that was ended by a callback while it was on its way.
func (w *Wakes) Sent(generation uint64, wake string, at time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if generation < w.generation {
		w.violated(WakesForward, "generation %d is sent after %d", generation, w.generation)
	}
	if was, ok := w.wakes[generation]; ok && was != wake {
		w.violated(WakesForward, "generation %d was wake %s, and is wake %s", generation, was, wake)
	}
	if w.parked {
		w.violated(StaysParked, "generation %d is sent", generation)
	}
	if at.Add(clocks).Before(w.next) {
		w.violated(KeepsSchedule, "generation %d is sent at %v, and its next attempt was to be made at %v", generation, at, w.next)
	}
	if w.wakes == nil {
		w.wakes = make(map[uint64]string)
	}
	w.wakes[generation] = wake
	w.generation, w.finished = max(w.generation, generation), max(w.finished, max(generation, 1)-1)
	w.next, w.attempts = time.Time{}, 0
}

// InHand says that somebody has had the entries of a stream in hand that stand from one place up to another.
func (w *Wakes) InHand(path string, from, to int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.inHand == nil {
		w.inHand = make(map[string]map[int]bool)
	}
	if w.inHand[path] == nil {
		w.inHand[path] = make(map[int]bool)
	}
	for at := from; at < to; at++ {
		w.inHand[path][at] = true
	}
}

// Call is an ack, by callback or by a worker.
type Call struct {
	wakes      *Wakes
	generation uint64
	over       bool // before it was sent
}

// Calling says that somebody is about to ack a wake.
func (w *Wakes) Calling(generation uint64) *Call {
	w.mu.Lock()
	defer w.mu.Unlock()
	return &Call{wakes: w, generation: generation, over: generation <= w.finished}
}

// Over tells whether the wake was over before the call, so that it must be fenced.
func (c *Call) Over() bool { return c.over }

// Accepted says that the answer is a success; done that the wake was to end with it.
func (c *Call) Accepted(done bool) {
	w := c.wakes
	w.mu.Lock()
	defer w.mu.Unlock()
	if c.over {
		w.violated(FencedIsStill, "an ack of generation %d is accepted, and that was over", c.generation)
	}
	if done {
		w.finished = max(w.finished, c.generation)
	}
}

// Scheduled says that the subscription was said to be tried again at a moment, after so many failures; zero that
// nobody knows when. Only who answers with success or failure to each attempt, and never calls back, may say so.
func (w *Wakes) Scheduled(attempts int, next time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if next.IsZero() {
		w.violated(KeepsSchedule, "%d attempts have failed, and there is no time for the next one", attempts)
	}
	if next.After(w.next) {
		w.attempts, w.next = attempts, next
	}
}

// Parked says that the subscription was said to be parked, under the same condition.
func (w *Wakes) Parked() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.parked = true
}

// Replayed says that somebody is about to ask for an attempt.
func (w *Wakes) Replayed() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.parked, w.next, w.attempts = false, time.Time{}, 0
}

// Check looks at what a subscription is said to be. No later than at is when that was asked for.
func (w *Wakes) Check(sub *Subscription, at time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.said = max(w.said, w.generation); sub.Generation < w.said {
		w.violated(WakesForward, "the subscription was at generation %d, and is at %d", w.said, sub.Generation)
	}
	w.said = max(w.said, sub.Generation)
	if w.parked && !sub.Parked {
		w.violated(StaysParked, "the subscription is not parked any more")
	}
	if w.next.After(at.Add(clocks)) && (!sub.Next.Equal(w.next) || sub.Attempts != w.attempts) {
		w.violated(KeepsSchedule, "after %d failures the next attempt was to be made at %v, and is at %v, after %d", w.attempts, w.next, sub.Next, sub.Attempts)
	}
	for path, was := range w.acked {
		if acked, ok := sub.Acked[path]; !ok || acked < was {
			w.violated(KeepsProgress, "%s was worked on up to %d, and is up to %d", path, was, acked)
		}
	}
	for path, acked := range sub.Acked {
		for place := w.acked[path]; place < acked; place++ {
			if !w.inHand[path][place] {
				w.violated(WakesForAll, "entry %d of %s is acknowledged, and nobody had it in hand", place, path)
				break
			}
		}
		if w.acked == nil {
			w.acked = make(map[string]int)
		}
		w.acked[path] = max(w.acked[path], acked)
	}
}

// CheckDone looks at a stream of a subscription that has nothing to do any more; tail is how many entries it has.
func (w *Wakes) CheckDone(path string, tail int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if acked := w.acked[path]; acked != tail {
		w.violated(WakesForAll, "%s has %d entries, and is worked on up to %d", path, tail, acked)
	}
}
