package durablestreams

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/nowait"
)

// hubs are the streams that have live readers.
type hubs struct {
	h   *Handler
	mu  sync.Mutex
	all map[hubKey]*hub
}

// hubKey is one incarnation of a segment.
type hubKey struct {
	seg runnel.Segment
	id  uint64
}

// hub follows a segment for all its live readers: it waits for entries once, encodes them once, and
// writes the same bytes to each. It exists while it has readers.
//
// A reader that is level and whose connection can be written to without waiting is attached: it has no
// writing goroutine, and the hub writes to it. All others follow in goroutines of their own and take the
// hub's frames when they are at the right place. One that is attached and whose connection takes no more
// is detached and goes on by itself until it is level again. Because attaching compares places under the
// lock under which frames are published, nothing is missed and nothing comes twice.
type hub struct {
	h      *Handler
	key    hubKey
	codec  codec
	cancel context.CancelFunc
	users  int // guarded by hubs.mu

	mu       sync.Mutex
	at       runnel.Sequence // published up to here
	recent   []*frame        // the last frames, one after the other, ending at at
	attached []*reader
	changed  chan struct{} // closed when at moves or the hub ends; nil while nobody waits for it
	ended    bool
	quiet    time.Time // since when nothing was written to the attached ones
	alarm    *time.Timer
	due      time.Time // when the alarm goes off
	try      nowait.Writer
}

// What a hub keeps for readers that are a little behind, and for how long after the last of it.
const (
	recentFrames = 16
	recentBytes  = 256 << 10
	recentFor    = 15 * time.Second
)

// join returns the hub of a segment, which begins at a place if it does not exist yet. Leave gives it back.
func (hs *hubs) join(key hubKey, c codec, at runnel.Sequence) *hub {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	b := hs.all[key]
	if b == nil {
		ctx, cancel := context.WithCancel(hs.h.ended)
		b = &hub{h: hs.h, key: key, codec: c, at: at, cancel: cancel, quiet: time.Now()}
		if hs.all == nil {
			hs.all = make(map[hubKey]*hub)
		}
		hs.all[key] = b
		hs.h.live.Go(func() {
			defer cancel()
			b.run(ctx)
			hs.forget(b)
			b.end()
		})
	}
	b.users++
	return b
}

// leave ends the hub with its last reader.
func (hs *hubs) leave(b *hub) {
	hs.mu.Lock()
	b.users--
	last := b.users == 0
	if last && hs.all[b.key] == b {
		delete(hs.all, b.key)
	}
	hs.mu.Unlock()
	if last {
		b.cancel()
	}
}

// forget lets the next reader of the segment begin with another hub.
func (hs *hubs) forget(b *hub) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	if hs.all[b.key] == b {
		delete(hs.all, b.key)
	}
}

// run publishes what is appended until the segment is closed or goes away, or nobody is left. It is made
// of two steps so that while it waits, which is nearly always, its stack is small.
func (b *hub) run(ctx context.Context) {
	for at, ok := b.at, true; ok && b.wait(ctx, at) == nil; {
		at, ok = b.step(ctx, at)
	}
}

//go:noinline
func (b *hub) wait(ctx context.Context, at runnel.Sequence) error {
	_, err := b.h.own.Wait(ctx, b.key.seg, b.key.id, at)
	return err
}

// step publishes what follows a place, and returns the next one, and whether there will be more.
//
//go:noinline
func (b *hub) step(ctx context.Context, at runnel.Sequence) (runnel.Sequence, bool) {
	v, err := b.h.own.Read(ctx, b.key.seg, b.key.id, at)
	if err != nil {
		return at, false
	}
	number := cursorAt(time.Now())
	err = b.codec.frames(v, v.Tail, number, nil, func(f *frame) error {
		b.publish(f)
		return nil
	})
	if err == nil && v.Closed && v.Tail == at {
		b.publish(b.codec.control(at, number, true, true))
	}
	return v.Tail, err == nil && !v.Closed
}

// publish writes a frame to all who are attached. A heavy entry each of them reads by itself: shared frames
// are as many as there are places at which readers stand still, and nothing bounds that.
func (b *hub) publish(f *frame) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.at = f.end
	b.remember(f)
	b.notify()
	b.quiet = time.Now()
	if f.chunk == nil {
		readers := b.attached
		b.attached = nil
		for _, r := range readers {
			r.index = -1
			go r.resume(nil, f.base)
		}
		return
	}
	own := f // the frame with the cursor of the reader before
	for i := 0; i < len(b.attached); {
		r := b.attached[i]
		g := f
		if f.number.less(r.cursor) {
			if own.number != r.cursor {
				own = f.atLeast(r.cursor)
			}
			g = own
		}
		if b.write(r, g.chunk, f.end) {
			i++
		}
	}
}

// write sends p to an attached reader and returns true, or lets the reader go and returns false. The
// reader will be at a place when it has got all of p.
func (b *hub) write(r *reader, p []byte, at runnel.Sequence) bool {
	n, err := b.try.Try(r.raw, p)
	if err == nil && n == len(p) {
		return true
	}
	b.detach(r)
	if err != nil {
		go r.drop()
	} else {
		go r.resume(p[n:], at)
	}
	return false
}

// remember keeps a frame for those who are a little behind.
func (b *hub) remember(f *frame) {
	if f.chunk == nil || len(f.chunk) > recentBytes {
		b.recent = nil // what is kept has no gaps
		return
	}
	b.recent = append(b.recent, f)
	b.schedule(time.Now().Add(recentFor))
	size := 0
	for i, old := range slices.Backward(b.recent) {
		size += len(old.chunk)
		if n := len(b.recent) - i; n > 1 && (n > recentFrames || size > recentBytes) {
			b.recent = slices.Delete(b.recent, 0, i+1)
			return
		}
	}
}

// notify wakes those who follow by themselves.
func (b *hub) notify() {
	if b.changed != nil {
		close(b.changed)
		b.changed = nil
	}
}

// step is what a reader that follows by itself does next: write frames, or read the log up to a place, or
// wait.
type step struct {
	frames []*frame
	read   runnel.Sequence
	wait   <-chan struct{}
	ended  bool
}

func (b *hub) next(at runnel.Sequence) step {
	b.mu.Lock()
	defer b.mu.Unlock()
	if at < b.at {
		for i, f := range b.recent {
			if f.base == at && f.end > at {
				return step{frames: slices.Clone(b.recent[i:])}
			}
		}
		if !b.ended {
			return step{read: b.at}
		}
	}
	if b.ended {
		return step{ended: true}
	}
	if b.changed == nil {
		b.changed = make(chan struct{})
	}
	return step{wait: b.changed}
}

// attach takes a reader over if it is level. From then on only the hub writes to it.
func (b *hub) attach(r *reader, at runnel.Sequence) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ended || at != b.at {
		return false
	}
	if r.gone.Load() || r.ctx.Err() != nil {
		return false
	}
	r.index = len(b.attached)
	b.attached = append(b.attached, r)
	next := r.ends
	if beat := b.h.cfg.Heartbeat; beat > 0 {
		if t := b.quiet.Add(beat); b.due.IsZero() || t.Before(b.due) {
			next = earlier(next, t)
		}
	}
	b.schedule(next)
	return true
}

// detach lets go of a reader that may be attached. The caller holds the lock.
func (b *hub) detach(r *reader) {
	i := r.index
	if i < 0 {
		return
	}
	last := len(b.attached) - 1
	b.attached[i] = b.attached[last]
	b.attached[i].index = i
	b.attached[last] = nil
	b.attached = b.attached[:last]
	r.index = -1
}

// schedule lets the alarm go off no later than at a time. The zero time is never.
func (b *hub) schedule(t time.Time) {
	if t.IsZero() || !b.due.IsZero() && !t.Before(b.due) {
		return
	}
	b.due = t
	if b.alarm == nil {
		b.alarm = time.AfterFunc(time.Until(t), b.tick)
	} else {
		b.alarm.Reset(time.Until(t))
	}
}

// alarmGrain is how far apart the alarms of a hub are at least, so that readers whose time is up at about
// the same moment go together.
const alarmGrain = 250 * time.Millisecond

// tick sends a comment to all who are attached if it has been quiet, and ends those whose time is up. It
// lets go of the frames that whoever follows has had the time to take.
func (b *hub) tick() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.due = time.Time{}
	if b.ended {
		return
	}
	now := time.Now()
	var next time.Time
	if len(b.recent) > 0 {
		if now.Sub(b.quiet) >= recentFor {
			b.recent = nil
		} else {
			next = b.quiet.Add(recentFor)
		}
	}
	if beat := b.h.cfg.Heartbeat; beat > 0 && len(b.attached) > 0 {
		if now.Sub(b.quiet) >= beat {
			b.recent = nil
			b.quiet = now
			for i := 0; i < len(b.attached); {
				if b.write(b.attached[i], heartbeatChunk, b.at) {
					i++
				}
			}
		}
		next = earlier(next, b.quiet.Add(beat))
	}
	for i := 0; i < len(b.attached); {
		r := b.attached[i]
		if !r.ends.IsZero() && now.After(r.ends.Add(-alarmGrain)) {
			b.detach(r)
			go r.finish()
			continue
		}
		next = earlier(next, r.ends)
		i++
	}
	b.schedule(next)
}

// earlier returns the earlier of two times, of which the zero time is never.
func earlier(t, u time.Time) time.Time {
	if t.IsZero() || !u.IsZero() && u.Before(t) {
		return u
	}
	return t
}

// end lets all readers go: those attached are finished, the others see it at their next step.
func (b *hub) end() {
	b.mu.Lock()
	b.ended = true
	b.notify()
	if b.alarm != nil {
		b.alarm.Stop()
	}
	readers := b.attached
	b.attached = nil
	for _, r := range readers {
		r.index = -1
	}
	b.mu.Unlock()
	var try nowait.Writer
	for _, r := range readers {
		if n, err := try.Try(r.raw, lastChunk); err != nil || n == len(lastChunk) {
			r.drop()
		} else {
			go r.finish()
		}
	}
}
