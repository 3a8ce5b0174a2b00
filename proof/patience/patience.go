// Package patience lets proofs tell what hangs from what is slow. How long something takes on a busy
// machine says nothing about it. So patience is spent in turns, each of which the waiting goroutine has to be
// given by the machine, and is whole again whenever what is waited for gets on.
package patience

import (
	"context"
	"time"
)

// turn is how long one who waits sleeps between two looks, on a machine that has nothing else to do.
const turn = 10 * time.Millisecond

// Patience is how many turns are left for something that does not get on. A machine that lets turns come late
// makes it last longer. It is used by one goroutine at a time.
type Patience struct {
	most, left int
	best       int64
}

// For returns patience that lasts for d on a machine that has nothing else to do.
func For(d time.Duration) *Patience {
	n := max(1, int(d/turn))
	return &Patience{most: n, left: n}
}

// Wait lets a turn pass and says whether there is patience left. Progress is how far that has come which is
// waited for; when it is farther than ever, patience is whole again. Coming back to where it has been is no
// progress.
func (p *Patience) Wait(progress int64) bool {
	if progress > p.best {
		p.best, p.left = progress, p.most
	}
	timer := time.NewTimer(turn)
	defer timer.Stop()
	<-timer.C
	p.left--
	return p.left > 0
}

// Context returns a context that ends when parent does, or when patience that lasts for d is spent. It must be
// cancelled.
func Context(parent context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(parent)
	p := For(d)
	go func() {
		for ctx.Err() == nil && p.Wait(0) {
		}
		cancel()
	}()
	return ctx, cancel
}
