package items

import (
	"context"
	"errors"
	"iter"
	"sync"
	"time"

	"github.com/runnelhq/runnel"
)

const (
	// ownLease is how long a process that has crashed keeps others from going on in its place.
	ownLease = 15 * time.Second
	// triggerSave is how long a trigger waits before it stores its place, so that many moves are one write.
	triggerSave = 100 * time.Millisecond
)

// errLeaseOver: the lease could not be renewed in its time.
var errLeaseOver = errors.New("the lease could not be renewed in its time")

// A term is the time in which one process holds the lease of a trigger. Whatever it stores is fenced by the
// lease, so a process that has lost it without knowing stores nothing.
type term struct {
	*Trigger
	log   TriggerLog
	fence runnel.Fence
	end   context.CancelCauseFunc

	mu      sync.Mutex
	room    sync.Cond // for another lane
	lanes   map[string]*lane
	read    runnel.Position // everything up to it has been read
	saved   runnel.Position // the place that is stored
	saving  bool
	working sync.WaitGroup
}

// lead waits for the lease of the trigger, and does its work for as long as it has it.
func (t *Trigger) lead(ctx context.Context, log TriggerLog) error {
	lease, err := log.AcquireLease(ctx, t.space(), runnel.LeaseRequest{Key: t.placeName(), Holder: t.Holder, TTL: ownLease, Wait: true})
	if err != nil {
		return err
	}
	work, end := context.WithCancelCause(ctx)
	r := &term{Trigger: t, log: log, fence: lease.Fence(), end: end, lanes: make(map[string]*lane)}
	r.room.L = &r.mu
	var holding sync.WaitGroup
	holding.Go(func() { r.end(hold(work, log, lease)) })
	stop := context.AfterFunc(work, r.room.Broadcast)
	defer func() {
		end(nil)
		stop()
		r.working.Wait()
		holding.Wait()
		release(ctx, log, lease)
	}()
	if err := t.Begin(work, log); err != nil {
		return err
	}
	if r.read, err = t.stored(work, log); err != nil {
		return err
	}
	r.saved = r.read
	r.working.Go(func() { r.replayParked(work) })
	for work.Err() == nil {
		if err := r.follow(work); work.Err() == nil {
			r.Logger.Warn("a trigger reads on later", "trigger", r.Name, "err", err)
			pause(work, time.Second)
		}
	}
	return context.Cause(work)
}

// hold renews a lease until ctx ends, or says why it is lost. A process that was stopped for a while finds out
// by its own clock.
func hold(ctx context.Context, log TriggerLog, lease runnel.Lease) error {
	until := time.Now().Add(ownLease) // at most so long ago it was given: the first renewal sets that right
	for wait := time.Duration(0); pause(ctx, wait); {
		sent := time.Now()
		asking, cancel := context.WithDeadline(ctx, until)
		_, err := log.RenewLease(asking, lease.Space, lease.Fence())
		cancel()
		switch {
		case err == nil:
			until, wait = sent.Add(ownLease), ownLease/3
		case errors.Is(err, runnel.ErrLeaseLost):
			return err
		case !time.Now().Before(until):
			return errors.Join(errLeaseOver, err)
		default:
			wait = ownLease / 30
		}
	}
	return context.Cause(ctx)
}

// release gives a lease back, so that another process need not wait. It does not matter if that fails.
func release(ctx context.Context, log TriggerLog, lease runnel.Lease) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_ = log.ReleaseLease(ctx, lease.Space, lease.Fence())
}

// placeName is the name of the cursor and of the lease.
func (t *Trigger) placeName() string { return "trigger/" + t.Name }

func (t *Trigger) cursor() runnel.CursorName {
	return runnel.CursorName{Space: t.space(), Name: t.placeName()}
}

// Begin makes sure that the trigger has a place, so that it is called after what comes next, however late it
// is run. One that has a place keeps it.
func (t Trigger) Begin(ctx context.Context, log TriggerLog) error {
	if _, err := t.stored(ctx, log); !errors.Is(err, runnel.ErrNotFound) {
		return err
	}
	var place runnel.Position
	if !t.fromStart {
		info, err := log.StatSpace(ctx, t.space())
		if err != nil {
			return err
		}
		place = info.Head
	}
	_, err := log.Transact(ctx, t.space(), runnel.Transaction{
		Cursors: []runnel.CursorMove{{Name: t.placeName(), Place: uint64(place), Expect: new(uint64)}},
	})
	if errors.Is(err, runnel.ErrCursorMoved) {
		return nil // another process was first
	}
	return err
}

// stored returns the place of the trigger.
func (t *Trigger) stored(ctx context.Context, log TriggerLog) (runnel.Position, error) {
	c, err := log.Cursor(ctx, t.cursor())
	return runnel.Position(c.Place), err
}

func (r *term) store(ctx context.Context, at runnel.Position) error {
	_, err := r.log.Transact(ctx, r.space(), runnel.Transaction{
		Cursors: []runnel.CursorMove{{Name: r.placeName(), Place: uint64(at)}},
		Fences:  []runnel.Fence{r.fence},
	})
	return err
}

// follow hands over what comes after the place, until reading fails.
func (r *term) follow(ctx context.Context) error {
	// All groups are read, so that the place moves on, and no history is kept for it, while its own are quiet.
	for batch, err := range r.changes(ctx, "", r.read) {
		if err != nil {
			return err
		}
		if batch.Deleted {
			if e := r.matchGone(goneGroup(&batch)); e != nil {
				r.enqueue(ctx, e)
			}
		}
		for i := range batch.Changes {
			if e := r.match(&change{group: batch.Segment, id: batch.ID, ItemChange: batch.Changes[i]}); e != nil {
				r.enqueue(ctx, e)
			}
		}
		r.mu.Lock()
		r.read = max(r.read, batch.LastPosition)
		r.moved(ctx)
		r.mu.Unlock()
	}
	return ctx.Err()
}

// changes yields what comes after a position that the place of the trigger is not beyond. The place is stored again
// if somebody has deleted it.
func (r *term) changes(ctx context.Context, groups string, after runnel.Position) iter.Seq2[runnel.ItemBatch, error] {
	return func(yield func(runnel.ItemBatch, error) bool) {
		for again := true; again; {
			again = false
			for batch, err := range r.log.FollowItems(ctx, r.cursor(), groups, after) {
				if errors.Is(err, runnel.ErrNotFound) {
					r.mu.Lock()
					at := r.place()
					r.mu.Unlock()
					if err = r.store(ctx, at); err == nil {
						again = true
						break
					}
				}
				if !yield(batch, err) {
					return
				}
			}
		}
	}
}

// place is where the trigger has come to: everything up to it is done. The lock is held.
func (r *term) place() runnel.Position {
	at := r.read
	for _, l := range r.lanes {
		at = min(at, l.first()-1)
	}
	return at
}

// moved stores the place in a moment. The lock is held.
func (r *term) moved(ctx context.Context) {
	if !r.saving {
		r.saving = true
		r.working.Go(func() { r.save(ctx) })
	}
}

func (r *term) save(ctx context.Context) {
	pause(ctx, triggerSave)
	for {
		r.mu.Lock()
		at := r.place()
		if at <= r.saved {
			r.saving = false
			r.mu.Unlock()
			return
		}
		r.mu.Unlock()
		// Not ctx: what was done is noted at the end too.
		noted, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.Timeout)
		err := r.store(noted, at)
		cancel()
		if errors.Is(err, runnel.ErrLeaseLost) {
			r.end(err)
		}
		r.mu.Lock()
		if err == nil || ctx.Err() != nil {
			r.saved = at
		}
		r.mu.Unlock()
		if err != nil && ctx.Err() == nil {
			r.Logger.Warn("the place of a trigger was not stored", "trigger", r.Name, "err", err)
			pause(ctx, time.Second)
		}
	}
}
