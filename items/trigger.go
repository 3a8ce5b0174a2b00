package items

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/runnelhq/runnel"
)

// ParkedStream is the stream in which events are kept that a trigger has given up on: a group for each
// trigger, an item for each event. Setting the field replay of such an item to true tries it again, and when
// that succeeds the item is deleted.
const ParkedStream = "runnel.parked"

// The defaults of a [Trigger] are stated only here.
const (
	DefaultTriggerTimeout  = 30 * time.Second
	DefaultTriggerAttempts = 12
	DefaultTriggerBackoff  = 100 * time.Millisecond
	maxTriggerBackoff      = time.Minute
	maxTriggerInFlight     = 1000
	triggerSave            = 100 * time.Millisecond
)

// TriggerLog is what triggers need of an engine.
type TriggerLog interface {
	Log
	Cursor(ctx context.Context, name runnel.CursorName) (runnel.Cursor, error)
	Transact(ctx context.Context, space runnel.Space, t runnel.Transaction) (runnel.Committed, error)
}

// Trigger calls a handler after changes of items.
//
// Each change that matches is handed over at least once, in order within its group; groups do not wait for
// each other. How far it has come is a cursor of the space, so it goes on there after a crash. A handler that
// fails is called again, later and later; after Attempts the event is parked.
type Trigger struct {
	// Name is that of the cursor, and of the group of what is parked. It must be a valid name of a segment.
	Name string
	// Store and Stream are what is watched.
	Store  runnel.Store
	Stream string
	// Group, GroupPrefix, Item and Prefix narrow it down: to a group, to groups whose names begin so, to an
	// item, to items whose ids begin so. Empty: all.
	Group, GroupPrefix, Item, Prefix string
	// Events are the kinds of change: "create", "update", "delete". Empty: all.
	Events []string
	// When lets changes through. Nil: all. [Condition] makes one of an expression. One that fails lets nothing
	// through, and the failure is logged.
	When func(*TriggerEvent) (bool, error)
	// Handle is called with a context that ends after Timeout. It may be called again with the same event.
	Handle func(ctx context.Context, e *TriggerEvent) error
	// Timeout is how long a call may take. 0 means DefaultTriggerTimeout.
	Timeout time.Duration
	// Attempts is how often an event is tried before it is parked. 0 means DefaultTriggerAttempts.
	Attempts int
	// Backoff is how long the second attempt waits; each one waits twice as long as the one before, at most a
	// minute. 0 means DefaultTriggerBackoff.
	Backoff time.Duration
	// Logger gets what goes wrong. Nil means slog.Default.
	Logger *slog.Logger
}

// TriggerEvent is a change on its way to a handler.
type TriggerEvent struct {
	// Key is the same whenever the event is handed over, and that of no other: who handles events keeps it to
	// tell repetitions.
	Key string
	// Stream, Group and Item say what has changed, and Kind how: "create", "update" or "delete".
	Stream, Group, Item, Kind string
	// Value is the value of the item from then on, or what it was before a deletion.
	Value json.RawMessage
	// Frame is the whole event, as subscribers are given it over WebSocket.
	Frame json.RawMessage
	// Position is the place in the space.
	Position runnel.Position
	// Attempt counts from 1.
	Attempt int
}

// triggerRun is a trigger that runs.
type triggerRun struct {
	Trigger
	log   TriggerLog
	space runnel.Space

	mu      sync.Mutex
	room    sync.Cond
	lanes   map[string][]*TriggerEvent // what waits, by group; a group is here while a goroutine works on it
	order   []*mark                    // in the order of positions
	place   runnel.Position            // everything up to it is done
	saved   runnel.Position
	saving  bool
	working sync.WaitGroup
}

// mark is a position that is to be passed when it is done.
type mark struct {
	at   runnel.Position
	done bool
}

// Run runs the trigger until ctx ends. A trigger that has never run begins with what comes next.
func (t Trigger) Run(ctx context.Context, log TriggerLog) error {
	t.Timeout = cmp.Or(t.Timeout, DefaultTriggerTimeout)
	t.Attempts = cmp.Or(t.Attempts, DefaultTriggerAttempts)
	t.Backoff = cmp.Or(t.Backoff, DefaultTriggerBackoff)
	if t.Logger == nil {
		t.Logger = slog.Default()
	}
	r := &triggerRun{Trigger: t, log: log, space: runnel.Space{Store: t.Store, Name: t.Stream}, lanes: make(map[string][]*TriggerEvent)}
	r.room.L = &r.mu
	if err := r.validate(); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, r.room.Broadcast)
	defer stop()
	defer r.working.Wait()
	for wait := t.Backoff; ; wait = min(2*wait, maxTriggerBackoff) {
		err := r.begin(ctx)
		if err == nil {
			r.working.Go(func() { r.replayParked(ctx) })
			break
		}
		if !r.pause(ctx, wait) {
			return ctx.Err()
		}
		r.Logger.Warn("a trigger could not begin", "trigger", t.Name, "err", err)
	}
	for ctx.Err() == nil {
		if err := r.follow(ctx); err != nil && ctx.Err() == nil {
			r.Logger.Warn("a trigger goes on later", "trigger", t.Name, "err", err)
			r.pause(ctx, time.Second)
		}
	}
	return ctx.Err()
}

func (r *triggerRun) validate() error {
	if r.Handle == nil {
		return &runnel.InvalidError{What: "trigger " + r.Name, Rule: "has no handler"}
	}
	for _, kind := range r.Events {
		if kind != "create" && kind != "update" && kind != "delete" {
			return &runnel.InvalidError{What: "trigger " + r.Name, Rule: fmt.Sprintf("is on create, update and delete, not on %q", kind)}
		}
	}
	if _, err := segment(r.Store, r.Stream, r.Name); err != nil {
		return err
	}
	return r.space.Validate()
}

func (r *triggerRun) cursor() string { return "trigger/" + r.Name }

// begin finds the place to go on from, and stores one if there is none.
func (r *triggerRun) begin(ctx context.Context) error {
	c, err := r.log.Cursor(ctx, runnel.CursorName{Space: r.space, Name: r.cursor()})
	if err == nil {
		r.place = runnel.Position(c.Place)
		r.saved = r.place
		return nil
	}
	if !errors.Is(err, runnel.ErrNotFound) {
		return err
	}
	info, err := r.log.StatSpace(ctx, r.space)
	if err != nil {
		return err
	}
	r.place = info.Head
	return r.store(ctx, r.place)
}

func (r *triggerRun) store(ctx context.Context, at runnel.Position) error {
	_, err := r.log.Transact(ctx, r.space, runnel.Transaction{Cursors: []runnel.CursorMove{{Name: r.cursor(), Place: uint64(at)}}})
	return err
}

// follow hands over what comes after the place, until reading fails.
func (r *triggerRun) follow(ctx context.Context) error {
	r.mu.Lock()
	at := r.place
	if n := len(r.order); n > 0 {
		at = r.order[n-1].at // under way already
	}
	r.mu.Unlock()
	for batch, err := range r.log.TailSpaceItems(ctx, r.space, cmp.Or(r.Group, r.GroupPrefix), at) {
		if err != nil {
			return err
		}
		for i := range batch.Changes {
			c := &change{group: batch.Segment, id: batch.ID, ItemChange: batch.Changes[i]}
			if e := r.match(c); e != nil {
				r.enqueue(ctx, e)
			}
		}
		r.pass(ctx, batch.LastPosition)
	}
	return ctx.Err()
}

// match returns the event that a change is for the trigger, or nil.
func (r *triggerRun) match(c *change) *TriggerEvent {
	switch {
	case c.Type != runnel.DefaultItemType,
		r.Group != "" && c.group.Name != r.Group,
		r.Item != "" && c.Key != r.Item,
		!strings.HasPrefix(c.Key, r.Prefix),
		len(r.Events) > 0 && !slices.Contains(r.Events, c.Op.String()):
		return nil
	}
	e := &TriggerEvent{
		Key:    fmt.Sprintf("%s/%s/%s/%d", r.Name, r.Store, r.Stream, c.Position),
		Stream: r.Stream, Group: c.group.Name, Item: c.Key, Kind: c.Op.String(), Value: c.Value,
		Frame: c.frame(c.Op, false), Position: c.Position,
	}
	if c.Op == runnel.ItemDeleted {
		e.Value = c.Old
	}
	if r.When == nil {
		return e
	}
	ok, err := r.When(e)
	if err != nil {
		r.Logger.Warn("the condition of a trigger failed", "trigger", r.Name, "group", e.Group, "item", e.Item, "err", err)
	}
	if !ok || err != nil {
		return nil
	}
	return e
}

// enqueue puts an event in the lane of its group, when there are not too many under way.
func (r *triggerRun) enqueue(ctx context.Context, e *TriggerEvent) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(r.order) >= maxTriggerInFlight && ctx.Err() == nil {
		r.room.Wait()
	}
	r.order = append(r.order, &mark{at: e.Position})
	lane, busy := r.lanes[e.Group]
	r.lanes[e.Group] = append(lane, e)
	if !busy {
		r.working.Go(func() { r.work(ctx, e.Group) })
	}
}

// pass lets the place come to a position once everything before it is done.
func (r *triggerRun) pass(ctx context.Context, at runnel.Position) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.order = append(r.order, &mark{at: at, done: true})
	r.advance(ctx)
}

// work hands over the events of one group, one after the other.
func (r *triggerRun) work(ctx context.Context, group string) {
	for {
		r.mu.Lock()
		lane := r.lanes[group]
		if len(lane) == 0 || ctx.Err() != nil {
			delete(r.lanes, group)
			r.mu.Unlock()
			return
		}
		e := lane[0]
		r.lanes[group] = lane[1:]
		r.mu.Unlock()
		if !r.deliver(ctx, e) {
			continue // it has ended
		}
		r.mu.Lock()
		for _, m := range r.order {
			if m.at == e.Position && !m.done {
				m.done = true
				break
			}
		}
		r.advance(ctx)
		r.mu.Unlock()
	}
}

// advance moves the place over what is done. The lock is held.
func (r *triggerRun) advance(ctx context.Context) {
	n := 0
	for n < len(r.order) && r.order[n].done {
		r.place = max(r.place, r.order[n].at)
		n++
	}
	r.order = slices.Delete(r.order, 0, n)
	r.room.Broadcast()
	if r.place > r.saved && !r.saving {
		r.saving = true
		r.working.Go(func() { r.save(ctx) })
	}
}

// save stores the place, a moment after it has moved, so that many moves are one write.
func (r *triggerRun) save(ctx context.Context) {
	r.pause(ctx, triggerSave)
	for {
		r.mu.Lock()
		at := r.place
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
		r.mu.Lock()
		if err == nil || ctx.Err() != nil {
			r.saved = at
		}
		r.mu.Unlock()
		if err != nil && ctx.Err() == nil {
			r.Logger.Warn("the place of a trigger was not stored", "trigger", r.Name, "err", err)
			r.pause(ctx, time.Second)
		}
	}
}

// deliver calls the handler until it succeeds, or parks the event. It is false when ctx ends before.
func (r *triggerRun) deliver(ctx context.Context, e *TriggerEvent) bool {
	wait := r.Backoff
	for e.Attempt = 1; ; e.Attempt++ {
		err := hook(ctx, r.Timeout, func(ctx context.Context) error { return r.Handle(ctx, e) })
		if err == nil {
			return true
		}
		if ctx.Err() != nil {
			return false
		}
		if e.Attempt >= r.Attempts {
			if err = r.park(ctx, e, err); err == nil {
				return true
			}
			r.Logger.Warn("an event was not parked", "trigger", r.Name, "err", err)
		}
		if !r.pause(ctx, wait) {
			return false
		}
		wait = min(2*wait, maxTriggerBackoff)
	}
}

// pause waits, unless ctx ends.
func (r *triggerRun) pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// parked is the value of an item of the parked stream.
type parked struct {
	Key      string          `json:"key"`
	Position runnel.Position `json:"position"`
	Event    json.RawMessage `json:"event"`
	Error    string          `json:"error"`
	Attempts int             `json:"attempts"`
	Parked   time.Time       `json:"parked"`
	Replay   bool            `json:"replay"`
}

func (r *triggerRun) parkedSpace() runnel.Space {
	return runnel.Space{Store: r.Store, Name: ParkedStream}
}

func (r *triggerRun) park(ctx context.Context, e *TriggerEvent, why error) error {
	const longest = 1000
	text := why.Error()
	value := encode(parked{Key: e.Key, Position: e.Position, Event: e.Frame, Error: text[:min(len(text), longest)], Attempts: e.Attempt, Parked: time.Now().UTC()})
	_, err := r.log.WriteItems(ctx, r.parkedSpace(), runnel.ItemWrites{Segment: r.Name, Writes: []runnel.ItemWrite{{
		ItemKey: runnel.ItemKey{Key: fmt.Sprintf("%s-%016d", strings.ReplaceAll(r.Stream, "/", "."), e.Position)}, Value: value,
	}}})
	if err == nil {
		r.Logger.Warn("an event was parked", "trigger", r.Name, "key", e.Key, "attempts", e.Attempt, "err", why)
	}
	return err
}

// replayParked tries parked events again when somebody asks for it.
func (r *triggerRun) replayParked(ctx context.Context) {
	for ctx.Err() == nil {
		err := r.replays(ctx)
		if ctx.Err() == nil {
			r.Logger.Warn("parked events are looked at again later", "trigger", r.Name, "err", err)
			r.pause(ctx, time.Second)
		}
	}
}

func (r *triggerRun) replays(ctx context.Context) error {
	space := r.parkedSpace()
	info, err := r.log.StatSpace(ctx, space)
	if err != nil {
		return err
	}
	view, err := r.log.Items(ctx, space.Segment(r.Name), runnel.ItemQuery{})
	if err != nil && !errors.Is(err, runnel.ErrNotFound) {
		return err
	}
	for i := range view.Items {
		r.replay(ctx, view.Items[i].Key, view.Items[i].Version, view.Items[i].Value)
	}
	for batch, err := range r.log.TailSpaceItems(ctx, space, r.Name, info.Head) {
		if err != nil {
			return err
		}
		for i := range batch.Changes {
			if c := &batch.Changes[i]; batch.Segment.Name == r.Name && c.Op != runnel.ItemDeleted {
				r.replay(ctx, c.Key, c.Sequence, c.Value)
			}
		}
	}
	return ctx.Err()
}

func (r *triggerRun) replay(ctx context.Context, key string, version runnel.Sequence, value []byte) {
	var p parked
	if json.Unmarshal(value, &p) != nil || !p.Replay {
		return
	}
	var f struct {
		Group string `json:"groupId"`
		Item  string `json:"id"`
		Event struct {
			Type string          `json:"type"`
			Data json.RawMessage `json:"data"`
		} `json:"event"`
	}
	if json.Unmarshal(p.Event, &f) != nil {
		return
	}
	e := &TriggerEvent{Key: p.Key, Stream: r.Stream, Group: f.Group, Item: f.Item, Kind: f.Event.Type, Value: f.Event.Data, Frame: p.Event, Position: p.Position, Attempt: p.Attempts + 1}
	write := runnel.ItemWrite{ItemKey: runnel.ItemKey{Key: key}, IfVersion: &version}
	if err := hook(ctx, r.Timeout, func(ctx context.Context) error { return r.Handle(ctx, e) }); err != nil {
		p.Error, p.Attempts, p.Replay = err.Error(), e.Attempt, false
		write.Value = encode(p)
	}
	if _, err := r.log.WriteItems(ctx, r.parkedSpace(), runnel.ItemWrites{Segment: r.Name, Writes: []runnel.ItemWrite{write}}); err != nil && !errors.Is(err, runnel.ErrItemMoved) {
		r.Logger.Warn("what became of a parked event was not stored", "trigger", r.Name, "err", err)
	}
}
