package webhook

import "time"

// breaker says how much is sent to one target. It is closed as long as attempts succeed; after so many
// failures in a row it opens, and lets one attempt through from time to time, until one succeeds.
type breaker struct {
	failures int
	until    time.Time // when the next attempt may be made, if it is open
}

func (b *breaker) open(after int) bool { return b.failures >= after }

// admits says whether one more attempt may be made beside those that are running.
func (b *breaker) admits(now time.Time, running, limit, after int) bool {
	if !b.open(after) {
		return running < limit
	}
	return running == 0 && !now.Before(b.until)
}

// note counts an attempt, and returns whether the breaker has opened or closed with it.
func (b *breaker) note(now time.Time, ok bool, after int) (changed bool) {
	was := b.open(after)
	if ok {
		b.failures = 0
	} else {
		b.failures++
		if b.open(after) {
			b.until = now.Add(backoff(b.failures - after + 1))
		}
	}
	return b.open(after) != was
}
