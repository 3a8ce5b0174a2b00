package engine

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/record"
	"github.com/runnelhq/runnel/storage"
)

// A wake begins with a commit that raises the generation. It is in flight until it is done, released, or
// its lease has ended; then the next one begins, if there is work. Everything that is done to one
// subscription happens under its gate, one after the other.
//
// An ack names a stream by its path, and another stream may have taken the path since the wake was given to somebody.
// So the commit that gives a wake brings the cursors to the streams that it tells of, and nothing else does before the
// wake has ended. An ack moves a cursor only while the stream that it is on has the path, and if the cursor was on it
// when the wake was given.

// change is a commit to a subscription under way.
type change struct {
	t   *tx
	s   *subscriber
	row record.Subscription
}

// change makes one commit to the subscription and to its cursors on the paths. f checks, and then stages.
// It waits for the outcome whatever becomes of ctx, so that the next one finds it durable.
func (s *subscriber) change(ctx context.Context, paths []string, f func(c *change) error) error {
	e := s.of.e
	return again(func() error {
		if err := ctx.Err(); err != nil {
			return err
		}
		sp, err := e.enter(ctx, controlOf(s.of.store))
		if err != nil {
			return err
		}
		defer sp.leave()
		rows := heldRows{sp: sp}
		defer rows.release()
		if err := rows.load(ctx, subscriptionKey(s.id)); err != nil {
			return err
		}
		size := subscriptionBytes(&s.config)
		for _, path := range paths {
			if err := rows.load(ctx, subscriptionCursorKey(s.instance, path)); err != nil {
				return err
			}
			size += cursorBytes(len(path))
		}
		if !e.limits.Exclusive {
			if err := sp.ensure(ctx); err != nil { // what was read at different moments is stale then
				return err
			}
		}
		return sp.write(context.WithoutCancel(ctx), size, subscriptionOps+len(paths), func(t *tx) error {
			r := t.row(subscriptionKey(s.id))
			if r == nil {
				return errRetry
			}
			t.dependOnRow(r)
			if r.value == nil {
				return &runnel.SubscriptionNotFoundError{ID: s.id}
			}
			row, err := record.DecodeSubscription(r.value)
			if err != nil {
				return err
			}
			if row.Instance != s.instance {
				return &runnel.SubscriptionNotFoundError{ID: s.id}
			}
			return f(&change{t: t, s: s, row: row})
		})
	})
}

// subscriptionBytes bounds the row of a subscription in a batch, and what else a change to it writes.
func subscriptionBytes(c *runnel.SubscriptionConfig) int {
	size := 8*rowBytes + 2*runnel.MaxSubscriptionBytes + reasonBytes
	for _, text := range []string{c.Pattern, c.WebhookURL, c.WakeStream, c.Description, c.Base} {
		size += len(text)
	}
	for _, path := range c.Streams {
		size += len(path) + pathBytes
	}
	return size
}

const (
	// subscriptionOps is what a change writes besides cursors: the row, and when it is deleted, two more.
	subscriptionOps = 3
	// pathBytes is what a path takes in a row besides its length, and longestPath the length of the longest.
	pathBytes   = 4
	longestPath = runnel.MaxSpaceBytes + 1 + runnel.MaxSegmentBytes
)

// maxSubscriptionBytes bounds subscriptionBytes, so that the row is a value that storage takes, and leaves room for
// cursors in a batch.
func (e *Engine) maxSubscriptionBytes() int {
	most := e.fragment()
	if bytes := e.limits.MaxBatchBytes; bytes > 0 {
		most = min(most, bytes/2)
	}
	return most
}

// cursorBytes bounds the row of the cursor of a subscription on a path of so many bytes in a batch.
func cursorBytes(path int) int { return path + 2*rowBytes }

// maxAcks is how many cursors of a subscription one commit can move together with its wake.
func (e *Engine) maxAcks() int {
	most := runnel.MaxSubscriptionStreams
	if ops := e.limits.MaxBatchOps; ops > 0 {
		most = min(most, ops-commitRowOps-subscriptionOps)
	}
	if bytes := e.limits.MaxBatchBytes; bytes > 0 {
		most = min(most, (bytes-e.maxSubscriptionBytes()-commitRowBytes)/cursorBytes(longestPath))
	}
	return most
}

// wakeStreams is how many streams a wake lists, so that all of them can be acked at once.
func (e *Engine) wakeStreams() int { return min(runnel.MaxWakeStreams, e.maxAcks()) }

func (c *change) save() { c.t.setRow(subscriptionKey(c.s.id), c.row.Append(nil)) }

// cursor returns the cursor on a stream as staged, nil if there is none.
func (c *change) cursor(path string) (*record.Cursor, error) {
	r := c.t.row(subscriptionCursorKey(c.s.instance, path))
	if r == nil {
		return nil, errRetry
	}
	c.t.dependOnRow(r)
	if r.value == nil {
		return nil, nil
	}
	row, err := record.DecodeCursor(r.value)
	return &row, err
}

func (c *change) setCursor(row *record.Cursor) {
	row.Updated = c.t.micros
	c.t.setRow(subscriptionCursorKey(c.s.instance, row.Path), row.Append(nil))
}

// expire ends the wake if its lease is over, and tells whether it was.
func (c *change) expire() bool {
	over := c.row.Deadline > 0 && c.row.Deadline <= c.t.micros
	if over {
		c.clear()
	}
	return over
}

// clear ends the wake that is in flight.
func (c *change) clear() {
	r := &c.row
	r.WakeID, r.Holder, r.Deadline, r.Attempt, r.Engine, r.Accepted = "", "", 0, 0, "", false
}

// begin begins the next wake.
func (c *change) begin() {
	c.clear()
	c.row.Generation++
	var id [16]byte
	_, _ = rand.Read(id[:]) // which never fails
	c.row.WakeID = "w_" + hex.EncodeToString(id[:])
}

// current returns nil if the wake is the one in flight, and in somebody's hands. Whoever is told that it is not stays
// fenced even if the clock goes back: a wake whose lease is over ends with the answer.
func (c *change) current(ref runnel.WakeRef) error {
	r := &c.row
	if ref.Generation != r.Generation || ref.WakeID != r.WakeID || r.WakeID == "" {
		return runnel.ErrFenced
	}
	if c.expire() {
		c.save()
		return runnel.ErrFenced
	}
	// While another attempt is waited for, who got an earlier one may call back.
	if r.Deadline == 0 && r.Config.Type != runnel.Webhook {
		return runnel.ErrFenced
	}
	return nil
}

// ttl is how long a lease is given for, in microseconds.
func (s *subscriber) ttl() int64 { return s.config.LeaseTTL.Microseconds() }

// place is where a stream is.
type place struct {
	id   uint64 // 0: there is no such stream
	tail runnel.Sequence
	base runnel.Sequence // what it inherited when it was made
}

// place returns where a stream is. It is no access to the stream.
func (e *Engine) place(ctx context.Context, addr runnel.Segment) (place, error) {
	return retry(func() (place, error) {
		seg, err := e.acquire(ctx, addr)
		if err != nil {
			return place{}, err
		}
		defer seg.release()
		st := seg.durable.Load()
		if st.life(e.now()) != lifeLive {
			return place{}, nil
		}
		p := place{id: st.inc.id, tail: st.tail}
		if f := st.desc.Fork; f != nil {
			p.base = f.Base
		}
		return p, nil
	})
}

// acked is how far a stream has been worked on. One that came after the subscription begins with what it
// did not inherit; so does one that took the name of another.
func (p place) acked(row *record.Cursor) runnel.Sequence {
	if row == nil || row.Segment != p.id {
		return p.base
	}
	return runnel.Sequence(row.Place)
}

// standing is how far a subscription has come on a stream.
type standing struct {
	place
	stored *record.Cursor // nil if there is none
	// cursor is the stored one, or what it would be, brought to the stream that has the path.
	cursor record.Cursor
	// linked says that the stream is one of the subscription.
	linked bool
}

// stand finds out how far it has come on a stream. Under the gate what is stored is durable.
func (s *subscriber) stand(ctx context.Context, addr runnel.Segment) (st standing, err error) {
	path := addr.Path()
	value, err := s.of.e.driver.Get(ctx, controlOf(s.of.store), subscriptionCursorKey(s.instance, path))
	switch {
	case errors.Is(err, storage.ErrKeyNotFound):
	case err != nil:
		return st, storageError(err)
	default:
		row, err := record.DecodeCursor(value)
		if err != nil {
			return st, err
		}
		st.stored = &row
	}
	if st.place, err = s.of.e.place(ctx, addr); err != nil {
		return st, err
	}
	st.cursor = record.Cursor{Path: path, Segment: st.id, Place: uint64(st.acked(st.stored)), Glob: linksGlob(&s.config, path)}
	if st.stored != nil {
		st.cursor.Explicit, st.cursor.Updated, st.cursor.Since = st.stored.Explicit, st.stored.Updated, st.stored.Since
	}
	st.linked = st.cursor.Explicit || st.cursor.Glob && (st.id != 0 || st.stored != nil)
	return st, nil
}

// stays tells whether a cursor, nil if there is none, is still that of the stream that it was of. Another process may
// have brought it to another one, linked or unlinked it since.
func (st *standing) stays(have *record.Cursor) bool {
	if have == nil || st.stored == nil {
		return have == st.stored
	}
	return have.Segment == st.stored.Segment && have.Since == st.stored.Since
}

// untouched tells whether a cursor, nil if there is none, is the one that was stored.
func (st *standing) untouched(have *record.Cursor) bool {
	if have == nil || st.stored == nil {
		return have == st.stored
	}
	return *have == *st.stored
}

// outlook is what a subscription has to do.
type outlook struct {
	pending []runnel.SubscriptionLink // of marked streams that have work, at most MaxWakeStreams
	stands  []standing                // on the pending ones
	idle    []idleMark
}

// idleMark is a marked stream on which there is no work.
type idleMark struct {
	*mark
	acked runnel.Sequence // beyond this there was nothing
}

// marks returns the streams on which there may be work, in a fixed order, so that a simulated run can be repeated.
func (s *subscriber) marks() []*mark {
	s.of.mu.Lock()
	marks := slices.Collect(maps.Keys(s.pending))
	s.of.mu.Unlock()
	slices.SortFunc(marks, func(a, b *mark) int {
		return cmp.Or(strings.Compare(a.addr.Path(), b.addr.Path()), cmp.Compare(a.id, b.id))
	})
	return marks
}

// look finds out what there is to do. It is called under the gate. Enough is how many streams with work
// are looked for; moved says how far some will have been worked on.
func (s *subscriber) look(ctx context.Context, enough int, moved map[string]runnel.Sequence) (outlook, error) {
	var o outlook
	for _, m := range s.marks() {
		if len(o.pending) >= enough {
			break
		}
		at, err := s.stand(ctx, m.addr)
		if err != nil {
			return o, err
		}
		if at.id != m.id { // gone, or to come: nothing of it has been worked on
			o.idle = append(o.idle, idleMark{m, 0})
			continue
		}
		if !at.linked {
			o.idle = append(o.idle, idleMark{m, at.tail})
			continue
		}
		path := at.cursor.Path
		acked := max(runnel.Sequence(at.cursor.Place), moved[path])
		if at.tail <= acked {
			o.idle = append(o.idle, idleMark{m, acked})
			continue
		}
		o.stands = append(o.stands, at)
		o.pending = append(o.pending, runnel.SubscriptionLink{Path: path, Explicit: at.cursor.Explicit, Acked: acked, Tail: at.tail})
	}
	return o, nil
}

// find is look where marks that other processes have left may not have been found yet. They are looked for once for each
// generation of wakes.
func (s *subscriber) find(ctx context.Context, enough int, generation uint64) (outlook, error) {
	if s.unfound(generation) {
		if err := s.of.find(ctx); err != nil {
			return outlook{}, err
		}
		s.sought = generation
	}
	return s.look(ctx, enough, nil)
}

// unfound tells whether there may be work on streams whose marks are not known.
func (s *subscriber) unfound(generation uint64) bool {
	return !s.of.e.limits.Exclusive && s.sought < generation
}

// settle takes back the marks of streams on which there is no work, and tells whether some has come.
func (s *subscriber) settle(ctx context.Context, idle []idleMark) (more bool, err error) {
	for _, m := range idle {
		came, err := s.settleOne(ctx, m)
		if err != nil {
			return more, err
		}
		more = more || came
	}
	return more, nil
}

func (s *subscriber) settleOne(ctx context.Context, m idleMark) (came bool, err error) {
	ss, e := s.of, s.of.e
	err = again(func() error {
		seg, err := e.acquire(ctx, m.addr)
		if err != nil {
			return err
		}
		defer seg.release()
		return seg.sp.write(context.WithoutCancel(ctx), markBytes, 1, func(t *tx) error {
			if seg.stale.Load() {
				return errRetry
			}
			st := seg.staged
			same := st.inc != nil && st.inc.id == m.id && st.life(t.micros) == lifeLive
			if came = same && st.tail > m.acked; came {
				t.dependOn(seg)
				return nil
			}
			ss.mu.Lock()
			delete(m.subs, s)
			delete(s.pending, m.mark)
			last := len(m.subs) == 0
			if last {
				delete(ss.marks, markID{m.addr.Space, m.id})
			}
			last = last && ss.found.Load()
			ss.mu.Unlock()
			if !same {
				return nil
			}
			in := &st.inc.marked
			in.noted = false
			// Another process may know of others that have work.
			if last && (e.limits.Exclusive || in.known && len(in.subs) == 1) {
				t.remove(markKey(m.id))
				in.stands = false
			}
			return nil
		})
	})
	return came, err
}

// stir sees to it that the subscription is looked after because a mark has come. While a wake is in flight the
// mark waits for its end, so that an append costs nothing more than the mark.
func (s *subscriber) stir() {
	s.mu.Lock()
	resting := s.resting
	s.mu.Unlock()
	if !resting {
		s.kick()
	}
}

// kick sees to it that the subscription is looked after. Whatever ends a wake calls it afterwards.
func (s *subscriber) kick() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.resting = false
	if s.gone {
		return
	}
	if s.running {
		s.again = true
		return
	}
	e := s.of.e
	if e.begin() != nil {
		return
	}
	s.running = true
	go func() {
		defer e.operations.Done()
		s.run(e.subscriptions.ctx)
	}()
}

func (s *subscriber) run(ctx context.Context) {
	e := s.of.e
	for {
		rests := false
		err := e.subscriptions.slots.Acquire(ctx, 1)
		if err == nil {
			rests, err = s.work(ctx)
			e.subscriptions.slots.Release(1)
		}
		if err != nil && !e.isClosing() && !errors.Is(err, runnel.ErrNotFound) && e.Err() == nil {
			e.cfg.Logger.Warn("a subscription could not be looked after; it will be tried again", "subscription", s.id, "error", err)
			s.kickIn(time.Second)
		}
		s.mu.Lock()
		if !s.again || ctx.Err() != nil || s.gone {
			s.resting = rests && !s.again
			s.running, s.again = false, false
			s.mu.Unlock()
			return
		}
		s.again = false
		s.mu.Unlock()
	}
}

// kickIn kicks after a time, in the place of any other.
func (s *subscriber) kickIn(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.timer != nil {
		s.timer.Stop()
	}
	if !s.gone && !s.of.e.isClosing() {
		s.timer = time.AfterFunc(max(d, time.Millisecond), s.kick)
	}
}

func (s *subscriber) kickAt(micros int64) {
	s.kickIn(time.Duration(micros-s.of.e.now()) * time.Microsecond)
}

// work does what there is to do: it ends a wake whose lease is over, begins one if there is work, and
// tells of it. It rests if there is nothing more to do before that wake has ended, which no other process can do.
func (s *subscriber) work(ctx context.Context) (rests bool, err error) {
	if err := s.gate.enter(ctx); err != nil {
		return false, err
	}
	defer s.gate.leave()
	for {
		o, err := s.look(ctx, 1, nil)
		if err != nil {
			return false, err
		}
		row, err := s.next(ctx, o)
		if err != nil {
			return false, err
		}
		if row.Linking {
			return false, s.linkHeld(ctx) // a creation has not come to its end
		}
		if err := s.tell(ctx, row, o); err != nil {
			return false, err
		}
		if err := s.bury(ctx); err != nil {
			return false, err
		}
		more, err := s.settle(ctx, o.idle)
		if err != nil {
			return false, err
		}
		if row.WakeID != "" {
			return s.of.e.limits.Exclusive, nil
		}
		if !more {
			return false, nil
		}
	}
}

// next commits what becomes of the subscription, and returns it as it is then.
func (s *subscriber) next(ctx context.Context, o outlook) (row record.Subscription, err error) {
	err = s.change(ctx, nil, func(c *change) error {
		defer func() { row = c.row }()
		if c.row.Linking {
			return nil
		}
		before := c.row.WakeID
		c.expire()
		if c.row.WakeID == "" && len(o.pending) > 0 {
			c.begin()
		}
		if c.row.WakeID != before {
			c.save()
		}
		return nil
	})
	return row, err
}

// tell tells of a wake that is in flight, and sees to it that its end is not missed. A wake stream that was made
// since is told again. It is called under the gate.
func (s *subscriber) tell(ctx context.Context, row record.Subscription, o outlook) error {
	switch {
	case row.Config.Type == runnel.Webhook:
		s.tellWebhook(&row)
		return nil
	case row.WakeID == "":
		return nil
	case row.Holder != "":
		s.kickAt(row.Deadline)
		return nil
	}
	addr, err := runnel.ParsePath(s.of.store, row.Config.WakeStream)
	if err != nil {
		return err
	}
	in, err := s.of.e.place(ctx, addr)
	if err != nil {
		return err
	}
	if s.emitted >= row.Generation && s.emittedIn == in.id {
		return nil
	}
	path := ""
	if len(o.pending) == 0 {
		if o, err = s.find(ctx, 1, row.Generation); err != nil {
			return err
		}
	}
	if len(o.pending) > 0 {
		path = o.pending[0].Path
	}
	err = s.emit(ctx, addr, &row, path)
	if err == nil {
		s.emitted, s.emittedIn, s.failures = row.Generation, in.id, 0
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if s.failures++; s.failures == 1 {
		s.of.e.cfg.Logger.Warn("a wake stream takes no wake; it will be tried again", "subscription", s.id, "stream", row.Config.WakeStream, "error", err)
	}
	s.kickIn(min(time.Second<<min(s.failures-1, 6), time.Minute))
	return nil
}

// wakeEvent is what a wake stream is told. Source: PROTOCOL.md, section 7.2.
type wakeEvent struct {
	Type         string `json:"type"`
	Subscription string `json:"subscription_id"`
	Stream       string `json:"stream"`
	Generation   uint64 `json:"generation"`
	Millis       int64  `json:"ts"`
}

// emit appends to the wake stream that there is a wake, once for each generation: the producer's epoch is
// the generation, so that doing it again after a crash changes nothing.
func (s *subscriber) emit(ctx context.Context, addr runnel.Segment, row *record.Subscription, path string) error {
	body, err := json.Marshal(wakeEvent{Type: "wake", Subscription: s.id, Stream: path, Generation: row.Generation, Millis: s.of.e.now() / 1000})
	if err != nil {
		return err
	}
	producer := runnel.Producer{ID: fmt.Sprintf("%s/%016x", runnel.ReservedElement, s.instance), Epoch: row.Generation}
	_, err = s.of.e.Append(ctx, addr, runnel.AppendOptions{Producer: &producer}, runnel.Record{Payload: body})
	if errors.Is(err, runnel.ErrProducerFenced) {
		return nil // a later one is there
	}
	return err
}

// subscriber returns a subscription of a store.
func (e *Engine) subscriber(ctx context.Context, store runnel.Store, id string) (*subscriber, error) {
	if err := e.begin(); err != nil {
		return nil, err
	}
	defer e.operations.Done()
	ss := e.subscriptions.of(store)
	if err := ss.current(ctx); err != nil {
		return nil, err
	}
	if s := ss.get(id); s != nil {
		if err := ss.search(ctx, true); err != nil { // what was left before is part of the answer
			return nil, err
		}
		if s.linking.Load() {
			if err := s.finish(ctx); err != nil {
				return nil, err
			}
		}
		return s, nil
	}
	return nil, &runnel.SubscriptionNotFoundError{ID: id}
}

// ClaimWake gives a worker the wake of a pull-wake subscription, with a lease on it, and returns when that
// is durable. It fails with runnel.ErrNotFound, ErrNoWork, or a *runnel.WakeHeldError.
func (e *Engine) ClaimWake(ctx context.Context, store runnel.Store, id, worker string) (runnel.Wake, error) {
	if err := checkText("worker", worker, runnel.MaxSubscriptionBytes); err != nil {
		return runnel.Wake{}, err
	}
	s, err := e.subscriber(ctx, store, id)
	if err != nil {
		return runnel.Wake{}, err
	}
	if s.config.Type != runnel.PullWake {
		return runnel.Wake{}, &runnel.InvalidError{What: "claim", Rule: "is for pull-wake subscriptions"}
	}
	if err := s.gate.enter(ctx); err != nil {
		return runnel.Wake{}, err
	}
	defer s.gate.leave()
	var row record.Subscription
	o, err := s.offer(ctx, func(c *change, o *outlook) error {
		defer func() { row = c.row }()
		c.expire()
		switch {
		case c.row.Holder != "":
			return &runnel.WakeHeldError{Subscription: id, Holder: c.row.Holder, Generation: c.row.Generation}
		case len(o.pending) == 0 || c.row.Linking:
			return runnel.ErrNoWork
		case c.row.WakeID == "":
			c.begin()
		}
		if err := c.give(o.stands); err != nil {
			return err
		}
		c.row.Holder, c.row.Deadline = worker, c.t.micros+s.ttl()
		c.save()
		return nil
	})
	if err != nil {
		return runnel.Wake{}, err
	}
	s.kickAt(row.Deadline)
	return s.wake(ctx, &row, o)
}

// offer looks for work, and makes the commit that gives somebody the wake. f checks, and then stages. It looks again where
// another process has overtaken it, or has begun a wake for work that this one does not know of. It is called under the
// gate.
func (s *subscriber) offer(ctx context.Context, f func(c *change, o *outlook) error) (outlook, error) {
	most := s.of.e.wakeStreams()
	o, err := s.look(ctx, most, nil)
	for err == nil {
		paths := make([]string, len(o.stands))
		for i := range o.stands {
			paths[i] = o.stands[i].cursor.Path
		}
		stale, generation := false, uint64(0)
		err = s.change(ctx, paths, func(c *change) error {
			generation = c.row.Generation
			if stale = len(paths) == 0 && c.row.WakeID != "" && c.row.Holder == "" && s.unfound(generation); stale {
				return nil
			}
			for i := range o.stands {
				have, err := c.cursor(paths[i])
				if err != nil {
					return err
				}
				if stale = !o.stands[i].stays(have); stale {
					return nil
				}
			}
			return f(c, &o)
		})
		if err != nil || !stale {
			break
		}
		o, err = s.find(ctx, most, generation)
	}
	return o, err
}

func pathsOf(cursors []record.Cursor) []string {
	paths := make([]string, len(cursors))
	for i := range cursors {
		paths[i] = cursors[i].Path
	}
	return paths
}

// given tells whether somebody may have been told of the wake in flight. An attempt that was cut off counts as no
// failure, but leaves when the next one is due.
func (c *change) given() bool {
	r := &c.row
	return r.WakeID != "" && (r.Holder != "" || r.Attempt != 0 || r.Accepted || r.Parked || r.Failures > 0 || r.NextAttempt != 0)
}

// next is the generation of the wake that somebody is given next.
func (c *change) next() uint64 {
	if c.row.WakeID == "" || c.given() {
		return c.row.Generation + 1
	}
	return c.row.Generation
}

// give stages that somebody is told of the wake, and of the streams that there is work on. If somebody was told of it
// before, and of another stream under one of the paths, it is the next wake that is given.
func (c *change) give(stands []standing) error {
	var moved []record.Cursor
	given, another := c.given(), false
	for i := range stands {
		next := stands[i].cursor
		have, err := c.cursor(next.Path)
		if err != nil {
			return err
		}
		if onto(have, next.Segment, c.row.Generation) {
			continue
		}
		if have != nil {
			another = another || have.Segment != 0 || have.Since > c.row.Generation
			next.Explicit = have.Explicit
		}
		moved = append(moved, next)
	}
	if given && another {
		c.begin()
	}
	for i := range moved {
		moved[i].Since = c.row.Generation
		c.setCursor(&moved[i])
	}
	return nil
}

// onto tells whether a cursor, nil if none is stored, is on a stream, and was when the wake of a generation was given.
func onto(have *record.Cursor, stream, generation uint64) bool {
	return have != nil && have.Segment == stream && have.Since <= generation
}

// wake describes the wake in flight: first the streams that have work, then others.
func (s *subscriber) wake(ctx context.Context, row *record.Subscription, o outlook) (runnel.Wake, error) {
	w := runnel.Wake{
		WakeRef:  runnel.WakeRef{Store: s.of.store, Subscription: s.id, Instance: s.instance, Generation: row.Generation, WakeID: row.WakeID},
		Streams:  o.pending,
		LeaseTTL: row.Config.LeaseTTL,
	}
	most := s.of.e.wakeStreams()
	if len(w.Streams) >= most {
		return w, nil
	}
	listed := make(map[string]bool, len(w.Streams))
	for _, l := range w.Streams {
		listed[l.Path] = true
	}
	for l, err := range s.links(ctx) {
		if err != nil {
			return w, err
		}
		if !listed[l.Path] {
			l.Tail = min(l.Tail, l.Acked) // work that has come since is told by a wake that is given with it
			w.Streams = append(w.Streams, l)
		}
		if len(w.Streams) >= most {
			break
		}
	}
	return w, nil
}

// AckWake stores how far streams have been worked on, all of them or none, and extends the lease, or ends
// the wake if it is done. An ack of a stream that has been deleted since the wake was given does nothing, whatever has
// its path, and so does one of a stream that came later: another wake tells of that. It tells whether there is more to
// do, for which another wake has begun. It fails with runnel.ErrFenced if the wake is not the current one any more, and
// moves nothing then; with runnel.ErrAck if an ack is behind what was acked, or beyond the tail, or of no stream of the
// subscription.
func (e *Engine) AckWake(ctx context.Context, ref runnel.WakeRef, acks []runnel.WakeAck, done bool) (more bool, err error) {
	return e.endWake(ctx, ref, acks, done, false)
}

// ReleaseWake ends a wake of which nothing more was done. It fails with runnel.ErrFenced.
func (e *Engine) ReleaseWake(ctx context.Context, ref runnel.WakeRef) error {
	_, err := e.endWake(ctx, ref, nil, true, false)
	return err
}

func (e *Engine) endWake(ctx context.Context, ref runnel.WakeRef, acks []runnel.WakeAck, done, clip bool) (more bool, err error) {
	if most := e.maxAcks(); len(acks) > most {
		return false, &runnel.InvalidError{What: "acks", Rule: fmt.Sprintf("are %d, the limit is %d", len(acks), most)}
	}
	s, err := e.subscriber(ctx, ref.Store, ref.Subscription)
	if err != nil {
		return false, err
	}
	if s.instance != ref.Instance {
		return false, &runnel.SubscriptionNotFoundError{ID: ref.Subscription}
	}
	if err := s.gate.enter(ctx); err != nil {
		return false, err
	}
	defer s.gate.leave()
	// Whoever is fenced is told so, and nothing about the streams.
	if err := s.change(ctx, nil, func(c *change) error { return c.current(ref) }); err != nil {
		if errors.Is(err, runnel.ErrFenced) {
			s.kick() // its wake may have ended with that, and another one is due
		}
		return false, err
	}
	moves, err := s.moves(ctx, ref.Generation, acks, clip)
	if err != nil {
		return false, err
	}
	moved := make(map[string]runnel.Sequence, len(moves))
	paths := make([]string, len(moves))
	for i := range moves {
		moved[moves[i].Path], paths[i] = runnel.Sequence(moves[i].Place), moves[i].Path
	}
	var o outlook
	if done {
		if o, err = s.look(ctx, 1, moved); err != nil {
			return false, err
		}
	}
	var row record.Subscription
	err = s.change(ctx, paths, func(c *change) error {
		if err := c.current(ref); err != nil {
			return err
		}
		for i := range moves {
			if err := c.move(&moves[i]); err != nil {
				return err
			}
		}
		c.row.Deadline = c.t.micros + s.ttl()
		if c.row.Config.Type == runnel.Webhook {
			c.row.Accepted, c.row.Parked = true, false
			c.row.Failures, c.row.FailingSince, c.row.NextAttempt = 0, 0, 0
		}
		if done {
			c.clear()
			if len(o.pending) > 0 {
				c.begin()
			}
		}
		c.save()
		row = c.row
		return nil
	})
	if err != nil {
		return false, err
	}
	if done {
		s.kick() // tells of the next wake, and takes marks back
	} else {
		s.kickAt(row.Deadline)
	}
	return row.WakeID != "" && done, nil
}

// move stages an ack. It checks against the cursor as staged what was checked against the one that was stored: by way
// of another process the same wake may have been worked on since.
func (c *change) move(to *record.Cursor) error {
	have, err := c.cursor(to.Path)
	if err != nil || !onto(have, to.Segment, c.row.Generation) {
		return err
	}
	if err := c.s.advance(to.Path, have.Place, to.Place, to.Place); err != nil {
		return err
	}
	c.setCursor(to)
	return nil
}

// advance returns why an ack may not move a cursor.
func (s *subscriber) advance(path string, at, to, end uint64) error {
	name := runnel.CursorName{Segment: path, Name: runnel.SubscriptionCursor(s.id)}
	switch err := advance(name, at, &runnel.CursorMove{Place: to}, end); {
	case errors.Is(err, runnel.ErrCursorMoved):
		return &runnel.AckError{Path: path, Rule: fmt.Sprintf("goes back from %d to %d", at, to)}
	case err != nil:
		return &runnel.AckError{Path: path, Rule: fmt.Sprintf("is at %d, beyond the tail, %d", to, end)}
	}
	return nil
}

// moves checks acks of a wake, and returns the cursors as they leave them. An ack of a place again is no mistake, nor
// is one of a stream that is not the one the wake was given with, which is left out. Clip leaves out what has no meaning
// any more instead of refusing it.
func (s *subscriber) moves(ctx context.Context, generation uint64, acks []runnel.WakeAck, clip bool) ([]record.Cursor, error) {
	var cursors []record.Cursor
	at := make(map[string]int, len(acks))
	for _, ack := range acks {
		addr, err := runnel.ParsePath(s.of.store, ack.Path)
		if err != nil {
			return nil, &runnel.AckError{Path: ack.Path, Rule: "names no stream"}
		}
		st, err := s.stand(ctx, addr)
		if err != nil {
			return nil, err
		}
		if st.linked && !onto(st.stored, st.id, generation) {
			continue
		}
		next := st.cursor
		i, twice := at[ack.Path]
		if twice {
			next = cursors[i]
		}
		var refused error
		if st.linked {
			refused = s.advance(ack.Path, next.Place, uint64(ack.Acked), uint64(st.tail))
		} else {
			refused = &runnel.AckError{Path: ack.Path, Rule: "is of no stream of the subscription"}
		}
		if refused != nil && clip {
			continue
		}
		if refused != nil {
			return nil, refused
		}
		next.Place = uint64(ack.Acked)
		if twice {
			cursors[i] = next
		} else {
			at[ack.Path] = len(cursors)
			cursors = append(cursors, next)
		}
	}
	return cursors, nil
}
