package crash

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing/synctest"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/items"
)

// itemTrigger is a trigger on a stream, whose handler fails now and then, and what it was called with.
type itemTrigger struct {
	w    *itemWorld
	disk *disk // of the generation

	mu      sync.Mutex
	calls   []items.TriggerEvent // that nobody has looked at
	handled map[runnel.Position]bool
	last    map[string]runnel.Position // by group, the furthest event that was handled
	ran     bool
}

func newItemTrigger(w *itemWorld) *itemTrigger {
	return &itemTrigger{w: w, handled: make(map[runnel.Position]bool), last: make(map[string]runnel.Position)}
}

// start runs the trigger in the generation that begins. It stores its first place before anything is written.
func (t *itemTrigger) start() {
	trigger := items.Trigger{
		Name: "t", Store: guestStore, Stream: boardGroups[0].Space, Attempts: 3, Handle: t.handle, Holder: "the server",
		Logger: slog.New(slog.DiscardHandler),
	}
	ctx, log := t.w.ctx, t.w.log
	t.disk = t.w.disk
	go func() { _ = trigger.Run(ctx, log) }() // it ends with the context
	synctest.Wait()
	if t.ran {
		t.w.cover.hit("items: a trigger went on after a restart")
	}
	t.ran = true
}

// handle fails by chance, which is the same for an event whenever it comes, and sometimes for good.
func (t *itemTrigger) handle(_ context.Context, e *items.TriggerEvent) error {
	sum := fnv.New32a()
	fmt.Fprintf(sum, "%d %s", t.w.seed, e.Key)
	if n := sum.Sum32() % 24; n == 0 || n < 6 && e.Attempt == 1 {
		return errors.New("by chance")
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.disk.taken() == nil { // or it comes after the moment that the next generation goes on from
		t.calls = append(t.calls, *e)
	}
	return nil
}

// look takes the calls that the handler has got. An event may come again, but none for the first time before one
// that came earlier in its group.
func (t *itemTrigger) look() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.w.found != nil {
		return
	}
	for i := range t.calls {
		e := &t.calls[i]
		if t.handled[e.Position] {
			t.w.cover.hit("items: a trigger was called again for an event")
			continue
		}
		t.w.check(itemsTriggered, e.Position > t.last[e.Group], "the trigger was called with position %d of %s first after %d", e.Position, e.Group, t.last[e.Group])
		t.handled[e.Position], t.last[e.Group] = true, e.Position
	}
	t.calls = nil
}

// missed checks that everything that the log of a group tells was handled, or is parked.
func (t *itemTrigger) missed(at runnel.Segment, fold *itemFold, tail runnel.Sequence) {
	if at.Space != boardGroups[0].Space {
		return
	}
	parked := make(map[string]bool)
	v, err := t.w.log.Items(t.w.ctx, runnel.Segment{Store: guestStore, Space: items.ParkedStream, Name: "t"}, runnel.ItemQuery{})
	if err == nil {
		for i := range v.Items {
			_, position, _ := strings.Cut(v.Items[i].Key, "-")
			parked[strings.TrimLeft(position, "0")] = true
			t.w.cover.hit("items: an event was parked")
		}
	} else if !errors.Is(err, runnel.ErrNotFound) {
		panic(err)
	}
	for _, position := range slices.Sorted(maps.Keys(fold.changes)) {
		t.w.check(itemsTriggered, t.handled[position] || parked[fmt.Sprint(position)], "the trigger has missed position %d of %s, whose tail is %d: %s", position, at, tail, fold.changes[position])
	}
}
