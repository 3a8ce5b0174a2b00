package items

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// hook runs a function of somebody else's, for so long; a panic is an error. One that succeeds after it was
// given up is told to late, unless that is nil: its caller was told otherwise.
func hook(ctx context.Context, timeout time.Duration, f func(context.Context) error, late func()) error {
	over := fmt.Errorf("there was no answer within %s: %w", timeout, context.DeadlineExceeded)
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, over)
	var mu sync.Mutex
	givenUp := false
	done := make(chan error, 1)
	go func() {
		defer cancel()
		err := protect(ctx, f)
		mu.Lock()
		defer mu.Unlock()
		if done <- err; givenUp && err == nil && late != nil {
			go late()
		}
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	mu.Lock()
	defer mu.Unlock()
	select {
	case err := <-done:
		return err
	default:
		givenUp = true
		return context.Cause(ctx)
	}
}

// protect makes an error of a panic.
func protect(ctx context.Context, f func(context.Context) error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	return f(ctx)
}
