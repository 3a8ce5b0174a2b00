package items

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/runnelhq/runnel"
)

// The defaults of a [Trigger] are stated only here.
const (
	DefaultTriggerTimeout  = 30 * time.Second
	DefaultTriggerAttempts = 12
	DefaultTriggerBackoff  = 100 * time.Millisecond
	maxTriggerBackoff      = time.Minute
)

// The kinds of what triggers are called after.
const (
	kindCreate = "create"
	kindUpdate = "update"
	kindDelete = "delete"
	kindGone   = "deleted"
	kindEvent  = "event"
)

// TriggerLog is what triggers need of an engine.
type TriggerLog interface {
	Log
	Cursor(ctx context.Context, name runnel.CursorName) (runnel.Cursor, error)
	// FollowItems is TailSpaceItems for who moves a cursor of the space: what was changed in groups before they were
	// deleted is told, too.
	FollowItems(ctx context.Context, place runnel.CursorName, groupPrefix string, after runnel.Position) iter.Seq2[runnel.ItemBatch, error]
	Transact(ctx context.Context, space runnel.Space, t runnel.Transaction) (runnel.Committed, error)
	AcquireLease(ctx context.Context, space runnel.Space, q runnel.LeaseRequest) (runnel.Lease, error)
	RenewLease(ctx context.Context, space runnel.Space, f runnel.Fence) (runnel.Lease, error)
	ReleaseLease(ctx context.Context, space runnel.Space, f runnel.Fence) error
	Leases(ctx context.Context, space runnel.Space, prefix, after string) iter.Seq2[runnel.Lease, error]
}

// Trigger calls a handler after changes of items, and after events that are sent.
//
// Each change that matches is handed over at least once, in order within its group; groups do not wait for
// each other. How far it has come is a cursor of the space, so it goes on there after a crash. A handler that
// fails is called again, later and later; after Attempts the change is parked. Of the processes that run a
// trigger of one name on one store, one does the work at a time: the one that holds a lease of the space.
//
// An event that is sent is not kept, so neither is its way to a handler: it is handed over at most once, by
// the process that it was sent through, in order within its group, and left out when too many wait.
type Trigger struct {
	// Name is that of the cursor, of the lease, and of the group of what is parked. It must be a valid name of
	// a segment.
	Name string
	// Store and Stream are what is watched.
	Store  runnel.Store
	Stream string
	// Group, GroupPrefix, Item and Prefix narrow it down: to a group, to groups whose names begin so, to an
	// item, to items whose ids begin so. Empty: all. An event without an item is about no item.
	Group, GroupPrefix, Item, Prefix string
	// Events are the kinds: "create", "update" and "delete" of items, "deleted" of a group, and "event" for what is
	// sent. Empty: all.
	Events []string
	// When lets changes through. Nil: all. [Condition] makes one of an expression. One that fails, or panics, lets
	// nothing through, and the failure is logged.
	When func(*TriggerEvent) (bool, error)
	// Handle is called with a context that ends after Timeout, or when the lease is lost. It may be called
	// again with the same change.
	Handle func(ctx context.Context, e *TriggerEvent) error
	// Holder names the process to others that run the trigger. One that comes back under its name after a crash
	// goes on at once; two that run at a time must not have the same. Empty means a name that nobody has, so that
	// the others, or the next one, wait until the lease of one that has crashed is over: 15 seconds.
	Holder string
	// Timeout is how long a call may take. 0 means DefaultTriggerTimeout.
	Timeout time.Duration
	// Attempts is how often a change is tried before it is parked. 0 means DefaultTriggerAttempts.
	Attempts int
	// Backoff is how long the second attempt waits; each one waits twice as long as the one before, at most a
	// minute. 0 means DefaultTriggerBackoff.
	Backoff time.Duration
	// Logger gets what goes wrong. Nil means slog.Default.
	Logger *slog.Logger

	// lane names what is handed over in order; others do not wait for it. Nil: the group.
	lane func(*TriggerEvent) string
	// fromStart lets a trigger that has never run begin with the first change.
	fromStart bool
}

// TriggerEvent is a change, or an event that was sent, on its way to a handler.
type TriggerEvent struct {
	// Key is the same whenever the event is handed over, and that of no other: who handles events keeps it to
	// tell repetitions.
	Key string
	// Stream, Group and Item say where it happened, and Kind what: "create", "update", "delete", "deleted"
	// or "event". Item is empty in an event without one, and where a group was deleted.
	Stream, Group, Item, Kind string
	// Value is the value of the item from then on, what it was before a deletion, or the data of an event.
	Value json.RawMessage
	// Type is that of an event that was sent.
	Type string
	// TxID is what the writer gave.
	TxID string
	// Frame is the whole event, as subscribers are given it over WebSocket.
	Frame json.RawMessage
	// Position is the place of a change in the space.
	Position runnel.Position
	// Attempt counts from 1.
	Attempt int
	// Fence is the number of the lease under which a change is handed over. It only grows: who remembers the
	// greatest can refuse a process that has lost the lease and does not know it.
	Fence uint64

	id       uint64 // of the group's incarnation
	sequence runnel.Sequence
}

func (t *Trigger) setDefaults() {
	t.Timeout = cmp.Or(t.Timeout, DefaultTriggerTimeout)
	t.Attempts = cmp.Or(t.Attempts, DefaultTriggerAttempts)
	t.Backoff = cmp.Or(t.Backoff, DefaultTriggerBackoff)
	t.Holder = cmp.Or(t.Holder, uuid.NewString())
	if t.Logger == nil {
		t.Logger = slog.Default()
	}
	if t.lane == nil {
		t.lane = func(e *TriggerEvent) string { return e.Group }
	}
}

func (t *Trigger) space() runnel.Space { return runnel.Space{Store: t.Store, Name: t.Stream} }

// Run runs the trigger until ctx ends. A trigger that has never run begins with what comes next.
func (t Trigger) Run(ctx context.Context, log TriggerLog) error {
	t.setDefaults()
	if err := t.Validate(); err != nil {
		return err
	}
	if t.isOn(kindEvent) {
		hearing, err := t.hear(ctx, log)
		if err != nil {
			return err
		}
		defer hearing.end()
	}
	if !t.isOn(kindCreate, kindUpdate, kindDelete, kindGone) {
		<-ctx.Done()
	}
	for wait := t.Backoff; ctx.Err() == nil; wait = min(2*wait, maxTriggerBackoff) {
		began := time.Now()
		err := t.lead(ctx, log)
		if ctx.Err() != nil {
			break
		}
		if time.Since(began) > maxTriggerBackoff {
			wait = t.Backoff
		}
		t.Logger.Warn("a trigger goes on later", "trigger", t.Name, "err", err)
		pause(ctx, wait)
	}
	return ctx.Err()
}

// Validate says what is wrong with the trigger, which Run would refuse.
func (t *Trigger) Validate() error {
	if t.Handle == nil {
		return &runnel.InvalidError{What: "trigger " + t.Name, Rule: "has no handler"}
	}
	for _, kind := range t.Events {
		if !slices.Contains([]string{kindCreate, kindUpdate, kindDelete, kindGone, kindEvent}, kind) {
			return &runnel.InvalidError{What: "trigger " + t.Name, Rule: fmt.Sprintf("is on create, update, delete, deleted and event, not on %q", kind)}
		}
	}
	if _, err := segment(t.Store, t.Stream, t.Name); err != nil {
		return err
	}
	return t.space().Validate()
}

// isOn tells whether the trigger is on one of the kinds.
func (t *Trigger) isOn(kinds ...string) bool {
	return len(t.Events) == 0 || slices.ContainsFunc(kinds, func(kind string) bool { return slices.Contains(t.Events, kind) })
}

// match returns the event that a change is for the trigger, or nil.
func (t *Trigger) match(c *change) *TriggerEvent {
	if c.Type != runnel.DefaultItemType || !t.isOn(c.Op.String()) || !t.isAbout(c.group.Name, &c.Key) {
		return nil
	}
	e := &TriggerEvent{
		Key:    fmt.Sprintf("%s/%s/%s/%d", t.Name, t.Store, t.Stream, c.Position),
		Stream: t.Stream, Group: c.group.Name, Item: c.Key, Kind: c.Op.String(), Value: c.Value, TxID: c.TxID,
		Frame: content(c.frame(c.Op, false)), Position: c.Position, id: c.id, sequence: c.Sequence,
	}
	if c.Op == runnel.ItemDeleted {
		e.Value = c.Old
	}
	if !t.lets(e) {
		return nil
	}
	return e
}

// matchGone returns the event that the deletion of a group is for the trigger, or nil.
func (t *Trigger) matchGone(c *change) *TriggerEvent {
	if !t.isOn(kindGone) || !t.isAbout(c.group.Name, nil) {
		return nil
	}
	e := &TriggerEvent{
		Key:    fmt.Sprintf("%s/%s/%s/%d", t.Name, t.Store, t.Stream, c.Position),
		Stream: t.Stream, Group: c.group.Name, Kind: kindGone, Value: json.RawMessage(null),
		Frame: content(goneFrame(c.group, c.Stamp)), Position: c.Position, id: c.id, sequence: c.Sequence,
	}
	if !t.lets(e) {
		return nil
	}
	return e
}

// isAbout tells whether the trigger is about an item of a group; nil is none of them.
func (t *Trigger) isAbout(group string, item *string) bool {
	switch {
	case t.Group != "" && group != t.Group, !strings.HasPrefix(group, t.GroupPrefix):
		return false
	case t.Item == "" && t.Prefix == "":
		return true
	case item == nil, t.Item != "" && *item != t.Item:
		return false
	}
	return strings.HasPrefix(*item, t.Prefix)
}

// lets asks the condition.
func (t *Trigger) lets(e *TriggerEvent) bool {
	if t.When == nil {
		return true
	}
	var ok bool
	err := protect(context.Background(), func(context.Context) (err error) {
		ok, err = t.When(e)
		return err
	})
	if err != nil {
		t.Logger.Warn("the condition of a trigger failed", "trigger", t.Name, "group", e.Group, "item", e.Item, "err", err)
	}
	return ok && err == nil
}

// pause waits, and tells whether it did so to the end.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
