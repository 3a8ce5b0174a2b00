package linear

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/proof/patience"
)

// place is one in an incarnation of a group. The zero place is that of a group which does not exist.
type place struct {
	id   uint64
	last runnel.Sequence
}

// news is what a subscriber of a group is told: all there is, or changes after what was told before.
type news struct {
	at place
	// snapshot says that items are all there are. Their versions may be unknown.
	snapshot bool
	items    [len(itemKeys)]itemValue
	exist    [len(itemKeys)]bool
	changes  []runnel.ItemChange
}

// shown is a group as a subscriber has it.
type shown struct {
	at    place
	items [len(itemKeys)]itemValue
	exist [len(itemKeys)]bool
}

// subscribed is a group as it is for one who has followed it: as it was at some moment between the beginning of the
// operation and its end.
type subscribed struct {
	read
	group string
}

func (o subscribed) key() string    { return o.group }
func (o subscribed) String() string { return "subscribe to " + o.group }

func (o subscribed) do(context.Context, log) (any, error) { panic("is recorded by those who follow") }

func (o subscribed) step(s groups, a answer) []groups {
	v, _ := a.value.(shown)
	b := s[index(o.group)]
	if b.tail == 0 {
		return written(s, s, refusal{}, a, func() bool { return v == shown{} })
	}
	matches := v.at.id != 0 && v.at.last == b.tail && b.is(v.at.id)
	for i, it := range b.items {
		matches = matches && v.items[i] == it.value && v.exist[i] == (it.version != 0)
	}
	return written(s, s.with(o.group, b), refusal{}, a, func() bool { return matches })
}

// itemChanged is a change that a subscriber was told of. At some moment since the subscription began it was the latest
// of its item.
type itemChanged struct {
	read
	group, item string
	at          place
	deleted     bool
}

func (o itemChanged) key() string { return o.group }

func (o itemChanged) String() string {
	return fmt.Sprintf("be told of %s of %s at %d%s", o.item, o.group, o.at.last, when(o.deleted, ", deleted"))
}

func (o itemChanged) do(context.Context, log) (any, error) { panic("is recorded by those who follow") }

func (o itemChanged) step(s groups, a answer) []groups {
	b := s[index(o.group)]
	it := b.items[indexOfItem(o.item)]
	matches := it == item{o.at.last, a.value.(itemValue)}
	if o.deleted {
		matches = it == item{} && b.tail >= o.at.last
	}
	matches = matches && b.is(o.at.id)
	return written(s, s.with(o.group, b), refusal{}, a, func() bool { return matches })
}

// subscribe follows a group until a write of its own is told, or for a while: the group may be deleted before that.
func (c *client) subscribe(group string) {
	ctx, cancel := patience.Context(context.Background(), liveness)
	defer cancel()
	began := c.h.now()
	var have shown
	var until runnel.Sequence
	for n, err := range c.h.w.front(c.id).FollowItems(ctx, group, place{}) {
		if err != nil {
			break
		}
		if wrong := have.take(&n); wrong != "" {
			c.h.stuck(fmt.Sprintf("a subscription to %s: %s", group, wrong))
			return
		}
		first := until == 0
		switch {
		case n.snapshot:
			c.record(subscribed{group: group}, began, have, nil)
			if !first {
				return
			}
		default:
			c.recordChanges(group, began, &n)
		}
		if first {
			op := itemWriting{group: group, writes: []itemWrite{{key: pick(c, itemKeys[:]...), kind: sets, value: c.payloads(1)[0]}}}
			a, ok := c.do(op)
			if !ok || !a.done() {
				return
			}
			until = a.value.(itemsTold).items[indexOfItem(op.writes[0].key)].version
			defer time.AfterFunc(10*waiting, cancel).Stop()
		}
		if have.at.last >= until {
			return
		}
	}
}

func (c *client) recordChanges(group string, began int64, n *news) {
	for i := range n.changes {
		ch := &n.changes[i]
		op := itemChanged{group: group, item: ch.Key, at: place{n.at.id, ch.Sequence}, deleted: ch.Value == nil}
		var value itemValue
		if !op.deleted {
			value = valueOf(ch.Value)
		}
		c.record(op, began, value, nil)
		c.h.tally.count("changes told")
	}
}

// take brings what a subscriber has up to what it is told, and says what is wrong with that.
func (h *shown) take(n *news) (wrong string) {
	if n.snapshot {
		*h = shown{n.at, n.items, n.exist}
		return ""
	}
	for i := range n.changes {
		ch := &n.changes[i]
		if h.at.id == 0 {
			h.at.id = n.at.id
		}
		switch {
		case n.at.id != h.at.id:
			return fmt.Sprintf("changes of incarnation %d follow those of %d", n.at.id, h.at.id)
		case ch.Sequence <= h.at.last:
			return fmt.Sprintf("change %d follows %d", ch.Sequence, h.at.last)
		}
		at := indexOfItem(ch.Key)
		h.at.last, h.items[at], h.exist[at] = ch.Sequence, itemValue{}, ch.Value != nil
		if h.exist[at] {
			h.items[at] = valueOf(ch.Value)
		}
	}
	return ""
}

// follower follows a group through a whole history, and goes on where it was when its subscription ends.
type follower struct {
	group  string
	way    log
	rng    *rand.Rand
	tally  *tally
	cancel context.CancelFunc
	done   sync.WaitGroup

	mu    sync.Mutex
	have  shown
	told  int64
	wrong string
}

// followItems has each server followed.
func followItems(c *client) {
	for i, way := range c.h.w.fronts {
		for n, group := range names[:2] {
			f := &follower{group: group, way: way, tally: c.h.tally, rng: rand.New(rand.NewPCG(c.rng.Uint64(), uint64(i*2+n)))}
			var ctx context.Context
			ctx, f.cancel = context.WithCancel(context.Background())
			c.h.w.followers = append(c.h.w.followers, f)
			f.done.Go(func() { f.follow(ctx) })
		}
	}
}

func (f *follower) follow(ctx context.Context) {
	for ctx.Err() == nil {
		f.mu.Lock()
		at := f.have.at
		f.mu.Unlock()
		if at.id != 0 {
			f.tally.count("subscriptions that went on")
		}
		for n, err := range f.way.FollowItems(ctx, f.group, at) {
			if err != nil {
				break
			}
			f.mu.Lock()
			if wrong := f.have.take(&n); wrong != "" && f.wrong == "" {
				f.wrong = wrong
			}
			f.told++
			f.mu.Unlock()
			if f.rng.IntN(8) == 0 {
				break
			}
		}
		pause(ctx, time.Millisecond)
	}
}

// settle waits until one who follows a group has come to where it is, and records what he then has. Nobody writes any
// more, but for writes of unknown outcome that are still on their way.
func (c *client) settle(f *follower) {
	began := c.h.now()
	p := patience.For(liveness)
	for {
		at, err := c.whereIs(f.group)
		have, told, wrong := f.look()
		switch {
		case wrong != "":
			c.h.stuck(fmt.Sprintf("a subscription to %s: %s", f.group, wrong))
			return
		case err == nil && have.at == at:
			c.record(subscribed{group: f.group}, began, have, nil)
			return
		case !p.Wait(told):
			c.h.stuck(fmt.Sprintf("a subscription to %s came to %v, and not within %v to %v (%v)", f.group, have.at, liveness, at, err))
			return
		}
	}
}

// whereIs returns the place of the last change of a group.
func (c *client) whereIs(group string) (place, error) {
	v, err := c.h.w.front(c.id).Items(context.Background(), group)
	if errors.Is(err, runnel.ErrNotFound) {
		return place{}, nil
	}
	return place{v.ID, v.Tail}, err
}

func (f *follower) look() (shown, int64, string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.have, f.told, f.wrong
}

func (w *world) stopFollowing() {
	for _, f := range w.followers {
		f.cancel()
		f.done.Wait()
	}
}

// itemsOf is the items of a log.
type itemsOf struct{ log func() runnel.Log }

func (f itemsOf) WriteItems(ctx context.Context, writes runnel.ItemWrites) ([]runnel.ItemsWritten, error) {
	c, err := f.log().Transact(ctx, theSpace, runnel.Transaction{Items: []runnel.ItemWrites{writes}})
	return c.Items, err
}

func (f itemsOf) Item(ctx context.Context, group, key string) (runnel.Item, error) {
	return f.log().Item(ctx, theSpace.Segment(group), runnel.ItemKey{Key: key})
}

func (f itemsOf) Items(ctx context.Context, group string) (runnel.ItemView, error) {
	return f.log().Items(ctx, theSpace.Segment(group), runnel.ItemQuery{})
}

func (f itemsOf) FollowItems(ctx context.Context, group string, since place) iter.Seq2[news, error] {
	return func(yield func(news, error) bool) {
		for told, err := range f.log().WatchItems(ctx, runnel.ItemWatch{Space: theSpace, Group: group, ID: since.id, After: since.last}) {
			n := news{at: place{told.ID, told.Last}, snapshot: told.Snapshot, changes: told.Changes}
			for i := range told.Items {
				at := indexOfItem(told.Items[i].Key)
				n.items[at], n.exist[at] = valueOf(told.Items[i].Value), true
			}
			if (told.Complete || !told.Snapshot && len(told.Changes) == 0) && err == nil {
				continue
			}
			if !yield(n, err) {
				return
			}
		}
	}
}
