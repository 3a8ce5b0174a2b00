package webhook

import (
	"math/rand/v2"
	"time"
)

// backoff returns how long to wait after so many failures in a row: a second, doubled each time up to a
// minute, and up to a fifth more or less, so that what failed together is not repeated together.
func backoff(failures int) time.Duration {
	wait := MaxBackoff
	if n := failures - 1; n < 6 {
		wait = min(MinBackoff<<max(n, 0), MaxBackoff)
	}
	return wait + time.Duration((2*rand.Float64()-1)*jitter*float64(wait))
}

// outcome decides what comes after an answer.
func (c Config) outcome(d Delivery, a answer, now time.Time) Outcome {
	switch {
	case a.failure == "" && a.done:
		return Outcome{Result: Done, Status: a.status}
	case a.failure == "":
		return Outcome{Result: Accepted, Status: a.status}
	}
	o := Outcome{
		Result: Retry, Status: a.status, Reason: clip(a.failure),
		Failures: d.Failures + 1, FailingSince: d.FailingSince,
	}
	if d.Failures == 0 || d.FailingSince.IsZero() {
		o.FailingSince = now
	}
	const gone = 410
	if a.status == gone || c.ParkAfter > 0 && now.Sub(o.FailingSince) >= c.ParkAfter {
		o.Result = Parked
		return o
	}
	o.Next = now.Add(max(backoff(o.Failures), min(a.retryAfter, c.MaxRetryAfter)))
	return o
}
