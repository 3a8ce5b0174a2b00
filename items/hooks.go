package items

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/runnelhq/runnel"
)

// SystemStore is where a server keeps what is its own: the joins of which it has not told the leave.
var SystemStore = runnel.Store(uuid.MustParse("00000000-0000-8000-8000-72756e6e656c"))

// JoinsStream is the stream of [SystemStore] in which open joins are: a group for each [Hook] with a Leave, an
// item for each subscription.
const JoinsStream = "runnel.joins"

// ErrRefused is what a Join returns that refuses and has done nothing that a Leave would undo.
var ErrRefused = errors.New("items: the subscription was refused")

// Hook is asked before subscriptions are given anything, and told of their ends.
//
// Stream, Group, GroupPrefix, Item and Prefix select subscriptions that could be given something of what they
// name: a hook on one item is also asked about a subscription to its whole group, and to all groups. Empty: all.
type Hook struct {
	// Name is that of the group of open joins, and of what is parked. It must be a valid name of a segment,
	// and stay the same.
	Name string
	// Store narrows it down to a store. Nil: all.
	Store                                    *runnel.Store
	Stream, Group, GroupPrefix, Item, Prefix string
	// When lets subscriptions pass by the hook where it is false. Nil: none. [HookCondition] makes one of an
	// expression. One that fails refuses the subscription.
	When func(*Subscription) (bool, error)
	// Join is asked, one after the other in the order of the hooks. An error, a panic, or Timeout passing refuses
	// the subscription. Nil accepts.
	Join func(context.Context, Subscription) error
	// Leave is told of the end of each subscription that was accepted, or of which it is not known whether Join
	// has, in case that this was to be paired: unless Join returned ErrRefused. It is told at least once, also
	// after a crash of the server, and again if it fails, as a [Trigger] is. Nil tells nobody.
	Leave func(context.Context, *Left) error
	// Timeout is how long Join and Leave may take, Join within [Config.HookTimeout]. 0 means
	// DefaultTriggerTimeout. Attempts and Backoff are about Leave, and as in a Trigger.
	Timeout  time.Duration
	Attempts int
	Backoff  time.Duration
}

// Left is the end of a subscription.
type Left struct {
	Subscription
	// Key is the same whenever the end is told, and that of no other.
	Key string `json:"-"`
	// Attempt counts from 1.
	Attempt int `json:"-"`
}

// HooksConfig holds what can be set about hooks.
type HooksConfig struct {
	// Holder is as in a [Trigger].
	Holder string
	// Lost is called when the process was away for so long that others have told its leaves: it should end
	// its connections, as [Handler.Reconnect] does.
	Lost func()
	// Logger gets what goes wrong. Nil means slog.Default.
	Logger *slog.Logger
}

// Hooks asks and tells several hooks. Its Join and Leave are for a [Config], and Run has to run meanwhile.
//
// A join that is to be paired is stored before it is asked for, as an item, and a leave is the deletion of that
// item: whatever a trigger promises of changes holds for leaves. The items of a process that has crashed are
// deleted by whoever sees that its lease is over.
type Hooks struct {
	log    TriggerLog
	hooks  []Hook
	cfg    HooksConfig
	paired bool // some hook has a Leave

	mu    sync.Mutex
	held  chan struct{} // closed while there is a lease
	fence runnel.Fence
	open  map[subscriber][]openItem
	due   []openItem // to be deleted; that failed
	count uint64
}

// subscriber tells the subscriptions of a process apart.
type subscriber struct {
	connection uint64
	id         string
}

// openItem is the item of an open join.
type openItem struct{ hook, key string }

// openJoin is its value.
type openJoin struct {
	Subscription
	Store runnel.Store `json:"store"`
	// Owner and Number are those of the lease of the process that has the connection.
	Owner  string    `json:"owner"`
	Number uint64    `json:"number"`
	Joined time.Time `json:"joined"`
}

// neverJoined is the TxID of the deletion of an item of which no leave is told.
const neverJoined = "refused"

// NewHooks returns hooks that keep their open joins in log. It fails if two have the same name, or one has
// none.
func NewHooks(log TriggerLog, hooks []Hook, cfg HooksConfig) (*Hooks, error) {
	cfg.Holder = cmp.Or(cfg.Holder, uuid.NewString())
	if cfg.Lost == nil {
		cfg.Lost = func() {}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	h := &Hooks{log: log, hooks: append([]Hook(nil), hooks...), cfg: cfg, held: make(chan struct{}), open: make(map[subscriber][]openItem)}
	names := make(map[string]bool)
	for i := range h.hooks {
		k := &h.hooks[i]
		if err := joinsSpace().Segment(k.Name).Validate(); err != nil {
			return nil, err
		}
		if names[k.Name] {
			return nil, &runnel.InvalidError{What: "hook " + k.Name, Rule: "has the name of another"}
		}
		names[k.Name] = true
		k.Timeout = cmp.Or(k.Timeout, DefaultTriggerTimeout)
		h.paired = h.paired || k.Leave != nil
	}
	return h, nil
}

func joinsSpace() runnel.Space { return runnel.Space{Store: SystemStore, Name: JoinsStream} }

// concerns tells whether the hook is about a subscription.
func (k *Hook) concerns(s *Subscription) (bool, error) {
	if k.Store != nil && *k.Store != s.Store || !k.overlaps(s) {
		return false, nil
	}
	if k.When == nil {
		return true, nil
	}
	ok, err := k.When(s)
	if err != nil {
		return false, fmt.Errorf("the condition of hook %s: %w", k.Name, err)
	}
	return ok, nil
}

// overlaps tells whether a subscription could be given something that the hook selects.
func (k *Hook) overlaps(s *Subscription) bool {
	switch {
	case k.Stream != "" && s.Stream != k.Stream:
		return false
	case s.Group == "": // groups that begin with a prefix
		return (k.Group == "" || strings.HasPrefix(k.Group, s.Prefix)) && beginAlike(k.GroupPrefix, s.Prefix)
	case k.Group != "" && s.Group != k.Group, !strings.HasPrefix(s.Group, k.GroupPrefix):
		return false
	case s.Item != nil:
		return (k.Item == "" || *s.Item == k.Item) && strings.HasPrefix(*s.Item, k.Prefix)
	}
	return (k.Item == "" || strings.HasPrefix(k.Item, s.Prefix)) && beginAlike(k.Prefix, s.Prefix)
}

// beginAlike tells whether a name may begin with both.
func beginAlike(a, b string) bool { return strings.HasPrefix(a, b) || strings.HasPrefix(b, a) }

// Join asks the hooks that a subscription concerns, until one refuses.
func (h *Hooks) Join(ctx context.Context, s Subscription) error {
	var open []openItem
	for i := range h.hooks {
		item, err := h.ask(ctx, &h.hooks[i], &s)
		if item != nil {
			open = append(open, *item)
		}
		if err != nil {
			h.end(ctx, open, "")
			return err
		}
	}
	if len(open) > 0 {
		h.mu.Lock()
		h.open[subscriber{s.Connection, s.ID}] = open
		h.mu.Unlock()
	}
	return nil
}

// ask asks one hook. It returns the item of a join that is to be paired with a leave.
func (h *Hooks) ask(ctx context.Context, k *Hook, s *Subscription) (*openItem, error) {
	concerned, err := k.concerns(s)
	if err != nil || !concerned {
		return nil, err
	}
	var item *openItem
	if k.Leave != nil {
		if item, err = h.begin(ctx, k, s); err != nil {
			return item, err
		}
	}
	if k.Join == nil {
		return item, nil
	}
	err = hook(ctx, k.Timeout, func(ctx context.Context) error { return k.Join(ctx, *s) }, nil)
	if item != nil && errors.Is(err, ErrRefused) {
		h.end(ctx, []openItem{*item}, neverJoined)
		item = nil
	}
	return item, err
}

// begin stores that a join is about to be asked for. If that fails it may have happened all the same.
func (h *Hooks) begin(ctx context.Context, k *Hook, s *Subscription) (*openItem, error) {
	h.mu.Lock()
	held := h.held
	h.mu.Unlock()
	select {
	case <-held:
	case <-ctx.Done():
		return nil, errors.Join(&runnel.UnavailableError{Reason: "the server is not ready for joins that are paired with leaves"}, ctx.Err())
	}
	h.mu.Lock()
	h.count++
	fence := h.fence
	item := &openItem{k.Name, fmt.Sprintf("%s-%d-%d", h.cfg.Holder, fence.Number, h.count)}
	h.mu.Unlock()
	value := encode(openJoin{Subscription: *s, Store: s.Store, Owner: h.cfg.Holder, Number: fence.Number, Joined: time.Now().UTC()})
	_, err := h.log.Transact(ctx, joinsSpace(), runnel.Transaction{
		Items:  []runnel.ItemWrites{{Segment: item.hook, Writes: []runnel.ItemWrite{{ItemKey: runnel.ItemKey{Key: item.key}, Value: value}}}},
		Fences: []runnel.Fence{fence},
	})
	return item, err
}

// Leave tells the hooks that a subscription has ended, which Join has accepted.
func (h *Hooks) Leave(ctx context.Context, s Subscription) {
	who := subscriber{s.Connection, s.ID}
	h.mu.Lock()
	open := h.open[who]
	delete(h.open, who)
	h.mu.Unlock()
	h.end(ctx, open, "")
}

// end deletes the items of joins. Those that it cannot delete are left to Run.
func (h *Hooks) end(ctx context.Context, open []openItem, why string) {
	if len(open) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), DefaultHookTimeout)
	defer cancel()
	for i := range open {
		if err := h.delete(ctx, open[i].hook, why, runnel.ItemWrite{ItemKey: runnel.ItemKey{Key: open[i].key}}); err != nil {
			h.cfg.Logger.Warn("the end of a subscription is stored later", "hook", open[i].hook, "err", err)
			h.mu.Lock()
			h.due = append(h.due, open[i:]...)
			h.mu.Unlock()
			return
		}
	}
}

func (h *Hooks) delete(ctx context.Context, group, why string, writes ...runnel.ItemWrite) error {
	_, err := h.log.WriteItems(ctx, joinsSpace(), runnel.ItemWrites{Segment: group, TxID: why, Writes: writes})
	if errors.Is(err, runnel.ErrItemMoved) || errors.Is(err, runnel.ErrNotFound) {
		return nil // somebody else was first
	}
	return err
}

// leaves is the trigger that tells a hook of leaves.
func (h *Hooks) leaves(k *Hook) Trigger {
	return Trigger{
		Name: k.Name, Store: SystemStore, Stream: JoinsStream, Group: k.Name, Events: []string{kindDelete},
		Timeout: k.Timeout, Attempts: k.Attempts, Backoff: k.Backoff, Holder: h.cfg.Holder, Logger: h.cfg.Logger,
		Handle: func(ctx context.Context, e *TriggerEvent) error {
			if e.TxID == neverJoined {
				return nil
			}
			var was openJoin
			if err := json.Unmarshal(e.Value, &was); err != nil {
				return err
			}
			was.Subscription.Store = was.Store
			return k.Leave(ctx, &Left{Subscription: was.Subscription, Key: e.Key, Attempt: e.Attempt})
		},
		lane: func(e *TriggerEvent) string {
			var was openJoin
			if json.Unmarshal(e.Value, &was) != nil {
				return ""
			}
			return was.Store.String() + "\x00" + was.Stream + "\x00" + was.Group
		},
		fromStart: true,
	}
}
