package crash

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"iter"
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
	told    map[toldChange]bool
	gone    map[string]uint64 // by group, how many deletions it was called after
}

// toldChange is what a write did to a group.
type toldChange struct{ group, tag string }

func newItemTrigger(w *itemWorld) *itemTrigger {
	return &itemTrigger{w: w, handled: make(map[runnel.Position]bool), last: make(map[string]runnel.Position), told: make(map[toldChange]bool), gone: make(map[string]uint64)}
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
		t.tell(e.Group, e.Kind, e.TxID)
	}
	t.calls = nil
}

// tell notes that a change, or a deletion, has come to the trigger.
func (t *itemTrigger) tell(group, kind, tag string) {
	if kind == "deleted" {
		t.gone[group]++
		t.w.cover.hit("items: a trigger was told that a group was deleted")
		return
	}
	t.told[toldChange{group, tag}] = true
	g := t.w.groups[runnel.Segment{Store: guestStore, Space: boardGroups[0].Space, Name: group}]
	if x := t.w.writes[tag]; x != nil && slices.ContainsFunc(g.deletes, func(d *itemDelete) bool { return d.op > x.op && d.fate == done }) {
		t.w.cover.hit("items: a trigger was told of a change after its group had been deleted")
	}
}

// departed checks that whatever was done to groups has come to the trigger, also when they were deleted since, and
// so have their deletions. Where histories are long that is kept for a minute only.
func (t *itemTrigger) departed() {
	if t.w.long {
		return
	}
	for it := range t.parkedItems() {
		var p struct {
			TxID  string `json:"txid"`
			Event struct {
				Group string `json:"groupId"`
				Event struct {
					Type string `json:"type"`
				} `json:"event"`
			} `json:"event"`
		}
		must(json.Unmarshal(it.Value, &p))
		t.tell(p.Event.Group, p.Event.Event.Type, p.TxID)
	}
	for _, tag := range slices.Sorted(maps.Keys(t.w.writes)) {
		x := t.w.writes[tag]
		for _, target := range x.targets {
			if x.fate == done && target.makes() && target.group.Space == boardGroups[0].Space {
				t.w.check(itemsDeparted, t.told[toldChange{target.group.Name, tag}], "the trigger was not told what %s did to %s", tag, target.group)
			}
		}
	}
	for _, at := range boardGroups {
		if at.Space != boardGroups[0].Space {
			continue
		}
		least, most := uint64(0), uint64(0)
		for _, d := range t.w.groups[at].deletes {
			switch d.fate {
			case done:
				least++
				most++
			case unknown:
				most++
			}
		}
		n := t.gone[at.Name]
		t.w.check(itemsDeparted, least <= n && n <= most, "the trigger was told of %d deletions of %s, which was deleted %d times, and perhaps %d", n, at, least, most)
	}
}

// parkedItems are the changes that the trigger has given up on.
func (t *itemTrigger) parkedItems() iter.Seq[*runnel.Item] {
	v, err := t.w.log.Items(t.w.ctx, runnel.Segment{Store: guestStore, Space: items.ParkedStream, Name: "t"}, runnel.ItemQuery{})
	if err != nil && !errors.Is(err, runnel.ErrNotFound) {
		panic(err)
	}
	return func(yield func(*runnel.Item) bool) {
		for i := range v.Items {
			if !yield(&v.Items[i]) {
				return
			}
		}
	}
}

// missed checks that everything that the log of a group tells was handled, or is parked.
func (t *itemTrigger) missed(at runnel.Segment, fold *itemFold, tail runnel.Sequence) {
	if at.Space != boardGroups[0].Space {
		return
	}
	parked := make(map[string]bool)
	for it := range t.parkedItems() {
		_, position, _ := strings.Cut(it.Key, "-")
		parked[strings.TrimLeft(position, "0")] = true
		t.w.cover.hit("items: an event was parked")
	}
	for _, position := range slices.Sorted(maps.Keys(fold.changes)) {
		t.w.check(itemsTriggered, t.handled[position] || parked[fmt.Sprint(position)], "the trigger has missed position %d of %s, whose tail is %d: %s", position, at, tail, fold.changes[position])
	}
}
