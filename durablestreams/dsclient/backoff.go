package dsclient

import (
	"cmp"
	"context"
	"errors"
	"math/rand/v2"
	"time"
)

// Backoff is how long to wait between attempts: a random time up to a bound that doubles with every
// failure, from First to Most. The zero Backoff has the defaults.
type Backoff struct {
	// First is the bound after the first failure. 0 means 100 ms.
	First time.Duration
	// Most is where the bound stops growing. 0 means 10 s.
	Most time.Duration
}

// mostRetryAfter bounds how long a server can keep a client away with Retry-After.
const mostRetryAfter = 5 * time.Minute

// after returns the wait after so many failures in a row, at least 1, the last of which was err.
func (b Backoff) after(failures int, err error) time.Duration {
	bound := cmp.Or(b.First, 100*time.Millisecond)
	most := cmp.Or(b.Most, 10*time.Second)
	for range failures - 1 {
		if bound *= 2; bound >= most {
			break
		}
	}
	wait := rand.N(min(bound, most)) + 1
	if refused := (*Error)(nil); errors.As(err, &refused) {
		wait = max(wait, min(refused.RetryAfter, mostRetryAfter))
	}
	return wait
}

// pause waits for d or until ctx ends, and returns the context's error then.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// temporary tells whether trying again can help: everything but a refusal that stays one, a request that
// cannot even be made, and the end of the context.
func temporary(ctx context.Context, err error) bool {
	if ctx.Err() != nil {
		return false
	}
	if refused := (*Error)(nil); errors.As(err, &refused) {
		return refused.temporary()
	}
	final := (*finalError)(nil)
	return !errors.As(err, &final)
}

// finalError marks a failure that is not the network's.
type finalError struct{ err error }

func (e *finalError) Error() string { return e.err.Error() }
func (e *finalError) Unwrap() error { return e.err }
