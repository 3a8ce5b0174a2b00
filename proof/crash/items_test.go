package crash

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/durablestreams"
	"github.com/runnelhq/runnel/items"
	"github.com/runnelhq/runnel/items/ops"
	message "github.com/runnelhq/runnel/state"
	"github.com/runnelhq/runnel/wire"
)

// TestItems simulates runs in which clients write to items, follow them, and have a trigger on them.
func TestItems(t *testing.T) {
	simulate(t, plan{invite: newItemWorld, profile: &profile{name: "items"}}, max(1, *seeds/2), demands{
		invariants: itemInvariants, few: 20, many: 200,
		often: []string{
			"items: a write was done over go", "items: a write was done over http", "items: messages were posted",
			"items: a condition did not hold", "items: several groups in one commit", "items: an item expired",
			"items: a group was deleted", "items: a group was made again", "items: a write has an unknown outcome",
			"items: an unknown outcome turned out to be: done", "items: an unknown outcome turned out to be: refused",
			"items: a snapshot was shown while writes were not durable", "items: a follower went on after a restart",
			"items: a trigger went on after a restart", "items: a trigger was called again for an event", "items: an event was parked",
			"items: an update that drops a field", "items: a trigger was told that a group was deleted",
		},
		sometimes: []string{
			"items: a trigger was told of a change after its group had been deleted",
			"items: a write was recognised when it was repeated", "items: a write was repeated", "items: history was let go of", "items: a new reader was given the state",
			"items: the clock was behind when a stamp was given"},
	})
}

var itemInvariants []string

func itemInvariant(name string) string {
	itemInvariants = append(itemInvariants, name)
	return name
}

var (
	itemsFold      = itemInvariant("items: the table equals the fold of the log")
	itemsAgree     = itemInvariant("items: all ways to read items show the same")
	itemsBegin     = itemInvariant("items: what a new reader is given makes the table, however much history is gone")
	itemsOneRead   = itemInvariant("items: a snapshot and the tail behind it are the table")
	itemsAcked     = itemInvariant("items: no acknowledged write is lost")
	itemsSeen      = itemInvariant("items: nothing seen is taken back")
	itemsExplained = itemInvariant("items: every entry is what some client asked for, or an expiry that was due")
	itemsChecked   = itemInvariant("items: a condition is checked against what is written before")
	itemsTold      = itemInvariant("items: an answer says what the item was and is")
	itemsWhole     = itemInvariant("items: a commit to several groups is whole or not at all")
	itemsOnce      = itemInvariant("items: a write that is repeated under its key is done once")
	itemsEnded     = itemInvariant("items: a deleted group shows nothing again")
	itemsStamped   = itemInvariant("items: stamps and versions strictly increase, over restarts too")
	itemsExpire    = itemInvariant("items: what is due goes")
	itemsTriggered = itemInvariant("items: a trigger misses nothing, and keeps the order of a group")
	itemsDeparted  = itemInvariant("items: a trigger is told what a group had before it was deleted, and that it was")
)

// itemLog is what the world of items uses of an engine. A broken variant wraps it.
type itemLog interface {
	items.TriggerLog
	Read(ctx context.Context, seg runnel.Segment, id uint64, from runnel.Sequence) (runnel.View, error)
	ReadStart(ctx context.Context, seg runnel.Segment) (runnel.View, error)
	Append(ctx context.Context, seg runnel.Segment, o runnel.AppendOptions, records ...runnel.Record) (runnel.Appended, error)
}

var (
	boardGroups = []runnel.Segment{
		{Store: guestStore, Space: "board", Name: "g1"}, {Store: guestStore, Space: "board", Name: "g2"}, {Store: guestStore, Space: "cells/x", Name: "g1"},
	}
	boardKeys = []string{"a", "b", "c", "d"}
)

// itemWorld is the clients of items, and what they know.
type itemWorld struct {
	*sim
	errands errands
	log     itemLog
	face    *items.Handler
	streams *durablestreams.Handler

	writes    map[string]*itemWrite // by tag
	groups    map[runnel.Segment]*itemGroup
	shown     []itemSnapshot // that the next restart must explain
	followers []*itemFollower
	unsure    []*itemWrite // with idempotency keys, whose clients do not know what became of them
	trigger   *itemTrigger
	count     int
	long      bool // histories are long, and let go of after a while
}

// itemGroup is what is known of a group, whatever its incarnation.
type itemGroup struct {
	at      runnel.Segment
	deletes []*itemDelete
	known   map[string]runnel.Sequence // the version that somebody was told last, by key
	lead    map[uint64]int64           // by incarnation, the furthest that somebody was told
	entries map[uint64][]runnel.Entry  // by incarnation, those that were seen to be durable
	// blind is an incarnation of which nothing more is known: the clock was set ahead at a restart, and entries that
	// nobody had seen were let go of at once.
	blind uint64
}

type itemDelete struct {
	op   int
	fate fate
	// by is the last operation that had begun when it was over; 0 while it may be under way, beside all of them.
	by int
}

// itemWrite is a write as its client knows it. It writes its tag into the messages.
type itemWrite struct {
	op      int
	tag     string
	fate    fate
	by      int // as of an itemDelete
	targets []*itemTarget
	// again makes it once more under its idempotency key; nil if it has none.
	again func()
}

// itemTarget is what a write does to one item.
type itemTarget struct {
	group     runnel.Segment
	key       string
	ifVersion *runnel.Sequence
	ifExists  bool
	next      func(old []byte) []byte // nil deletes
	told      *runnel.ItemResult
}

// makes tells whether the target surely leaves an entry.
func (t *itemTarget) makes() bool { return t.next(nil) != nil }

// marks tells whether the write surely leaves something by which it is known again in each of so many groups.
func (x *itemWrite) marks(groups int) bool {
	in := make(map[runnel.Segment]bool)
	for _, t := range x.targets {
		if t.makes() {
			in[t.group] = true
		}
	}
	return len(in) == groups
}

// itemSnapshot is a table that was shown.
type itemSnapshot struct {
	group runnel.Segment
	id    uint64
	tail  runnel.Sequence
	table map[string]string
	how   string
}

// itemFollower keeps a table by a snapshot and what follows it.
type itemFollower struct {
	group runnel.Segment
	id    uint64
	at    runnel.Sequence
	stamp int64
	table map[string]string

	feed   *itemFeed
	cancel context.CancelFunc
}

type itemFeed struct {
	mu      sync.Mutex
	batches []runnel.ItemBatch
	over    bool
	err     error
}

func newItemWorld(s *sim) guest {
	w := &itemWorld{sim: s, errands: errands{s: s}, writes: make(map[string]*itemWrite), groups: make(map[runnel.Segment]*itemGroup)}
	for _, at := range boardGroups {
		w.groups[at] = &itemGroup{at: at, known: make(map[string]runnel.Sequence), lead: make(map[uint64]int64), entries: make(map[uint64][]runnel.Entry)}
	}
	w.trigger = newItemTrigger(w)
	if w.long = s.rand(1<<44).IntN(3) == 0; w.long {
		s.itemHistory = time.Minute
	}
	return w
}

func (w *itemWorld) open() {
	w.log = w.engine
	if w.variant.items != nil {
		w.log = w.variant.items(w.engine)
	}
	store := func(*http.Request) (runnel.Store, error) { return guestStore, nil }
	quiet := slog.New(slog.DiscardHandler)
	w.face = items.New(w.log, items.Config{Store: store, PingInterval: -1, Logger: quiet})
	w.streams = durablestreams.New(w.engine, durablestreams.Config{Store: store, NoRegistry: true, Heartbeat: -1, KeepConnections: true, Logger: quiet})
	w.trigger.start()
}

func (w *itemWorld) park() {
	w.errands.lose()
	w.trigger.look()
	for _, f := range w.followers {
		if f.feed != nil {
			f.cancel()
			f.feed = nil
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = w.face.Shutdown(ctx)
	_ = w.streams.Close()
}

func (w *itemWorld) look() {
	w.errands.take()
	for _, f := range w.followers {
		w.takeFollower(f)
	}
	w.followers = slices.DeleteFunc(w.followers, func(f *itemFollower) bool { return f.feed != nil && f.feed.over && !w.broken })
	w.trigger.look()
	if w.long && !w.broken {
		for _, at := range boardGroups {
			w.keep(w.groups[at])
		}
	}
}

func (w *itemWorld) act(r *rand.Rand) {
	if len(w.errands.list) >= 10 {
		w.move(r)
		return
	}
	switch n := r.IntN(40); {
	case n < 14:
		w.write(r)
	case n < 20:
		w.writeOne(r)
	case n < 25:
		w.post(r)
	case n < 26:
		w.deleteGroup(r)
	case n < 33:
		w.snapshot(r)
	case n < 36:
		w.follow(r)
	case n < 38:
		w.repeat()
	default:
		w.readOne(r)
	}
}

func (w *itemWorld) group(r *rand.Rand) *itemGroup {
	return w.groups[boardGroups[r.IntN(len(boardGroups))]]
}

// newWrite notes a write that begins.
func (w *itemWorld) newWrite() *itemWrite {
	w.count++
	x := &itemWrite{op: w.count, tag: fmt.Sprint("op", w.count)}
	w.writes[x.tag] = x
	return x
}

// target draws what is done to an item. mark is like no other.
func (w *itemWorld) target(r *rand.Rand, g *itemGroup, key, mark string) (*itemTarget, runnel.ItemWrite) {
	t := &itemTarget{group: g.at, key: key}
	one := runnel.ItemWrite{ItemKey: runnel.ItemKey{Key: key}}
	switch r.IntN(8) {
	case 0, 1:
		version := []runnel.Sequence{0, g.known[key], g.known[key], g.known[key] + 1}[r.IntN(4)]
		t.ifVersion, one.IfVersion = &version, &version
	case 2:
		t.ifExists, one.IfExists = true, true
	}
	value := drawItem(r, mark)
	if w.long && r.IntN(2) == 0 {
		value = fmt.Sprintf(`{"by":%q,"text":%q}`, mark, strings.Repeat("abcdefgh", 2000+r.IntN(1000)))
	}
	switch r.IntN(6) {
	case 0:
		t.next = func([]byte) []byte { return nil }
	case 1, 2:
		list := drawOps(r, mark)
		parsed, err := ops.Parse([]byte(list))
		must(err)
		t.next = func(old []byte) []byte {
			after, _ := ops.Apply(old, parsed, ops.Partial)
			return after
		}
		one.Apply = func(old *runnel.Item) ([]byte, error) {
			if old == nil {
				return t.next(nil), nil
			}
			return t.next(old.Value), nil
		}
		one.KeepTTL = r.IntN(2) == 0
	default:
		t.next = func([]byte) []byte { return []byte(value) }
		one.Value = []byte(value)
	}
	if one.Value != nil && r.IntN(6) == 0 {
		one.TTL = time.Duration(1+r.IntN(20)) * time.Second
	}
	return t, one
}

// drawItem draws a value.
func drawItem(r *rand.Rand, mark string) string {
	switch r.IntN(8) {
	case 0:
		return `"` + mark + `"`
	case 1:
		return fmt.Sprintf(`{"by":%q,"n":1,"text":%q}`, mark, strings.Repeat("abcdefgh", r.IntN(1+r.IntN(1500))))
	case 2:
		return fmt.Sprintf(`{"by":%q}`, mark)
	case 3:
		return fmt.Sprintf(`{"value":%q}`, mark)
	}
	return fmt.Sprintf(`{"by":%q,"n":%d,"x":{"y":1}}`, mark, r.IntN(9))
}

func drawOps(r *rand.Rand, mark string) string {
	list := []string{
		fmt.Sprintf(`{"type":"set","path":"by","value":%q}`, mark),
		`{"type":"increment","path":"n","by":3}`,
	}
	if r.IntN(3) == 0 {
		list = append(list, `{"type":"remove","path":["x","y"]}`, `{"type":"append","path":"log","value":"!"}`)
	}
	return "[" + strings.Join(list, ",") + "]"
}

// write writes to items of one or two groups in one commit.
func (w *itemWorld) write(r *rand.Rand) {
	at := boardGroups[:1+r.IntN(2)]
	if r.IntN(3) == 0 {
		at = boardGroups[2:]
	} else if len(at) == 1 && r.IntN(2) == 0 {
		at = boardGroups[1:2]
	}
	x := w.newWrite()
	var writes []runnel.ItemWrites
	text := ""
	for _, at := range at {
		ws := runnel.ItemWrites{Segment: at.Name, TxID: x.tag}
		keys := slices.Clone(boardKeys)
		r.Shuffle(len(keys), func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
		for i, key := range keys[:1+r.IntN(2)] {
			t, one := w.target(r, w.groups[at], key, fmt.Sprintf("%s.%s.%d", x.tag, at.Name, i))
			x.targets = append(x.targets, t)
			ws.Writes = append(ws.Writes, one)
			text += " " + at.String() + "#" + t.String()
		}
		writes = append(writes, ws)
	}
	send := func() { w.send(x, at[0].In(), writes, text) }
	if r.IntN(3) == 0 && x.marks(len(writes)) {
		for i := range writes {
			writes[i].Key, writes[i].Sum = x.tag, 1
		}
		x.again = send
	}
	send()
}

// send makes a commit to items, perhaps not for the first time.
func (w *itemWorld) send(x *itemWrite, space runnel.Space, writes []runnel.ItemWrites, text string) {
	was := x.fate
	w.errands.run(fmt.Sprintf("%s: write%s", x.tag, text), func(ctx context.Context) func() {
		told, err := w.log.WriteItems(ctx, space, writes...)
		return func() {
			var results []runnel.ItemResult
			for i := range told {
				if told[i].Duplicate {
					w.cover.hit("items: a write was recognised when it was repeated")
					results = nil
					break
				}
				w.check(itemsOnce, was != done || len(told[i].Results) == 0 || told[i].First == 0, "%s was done, and is done again", x.tag)
				results = append(results, told[i].Results...)
			}
			if w.written(x, results, err) == done {
				w.cover.hit("items: a write was done over go")
				if len(writes) > 1 {
					w.cover.hit("items: several groups in one commit")
				}
			}
		}
	}, func() { w.lost(x) })
}

func (t *itemTarget) String() string {
	text := t.key
	if t.ifVersion != nil {
		text += fmt.Sprintf(" if %d", *t.ifVersion)
	}
	if t.ifExists {
		text += " if there"
	}
	if value := t.next(nil); value == nil {
		text += " deleted"
	} else {
		text += fmt.Sprintf(" %.40s", value)
	}
	return text
}

// written takes the answer to a write.
func (w *itemWorld) written(x *itemWrite, results []runnel.ItemResult, err error) fate {
	f := w.fateOf(x.tag, err, runnel.ErrItemMoved, runnel.ErrNotFound)
	w.note("%s is %v: %v", x.tag, f, err)
	if f == unknown && x.again != nil {
		w.unsure = append(w.unsure, x)
	}
	if x.fate == done {
		w.check(itemsOnce, f != refused || w.armed, "%s was done, and is refused when it is repeated: %v", x.tag, err)
		return f
	}
	if x.fate = f; f != unknown {
		x.by = w.count
	}
	switch {
	case x.fate == unknown:
		w.cover.hit("items: a write has an unknown outcome")
	case errors.Is(err, runnel.ErrItemMoved):
		w.cover.hit("items: a condition did not hold")
	}
	for i := range results {
		t := x.targets[i]
		t.told = &results[i]
		if it := results[i].New; it != nil {
			w.groups[t.group].known[t.key] = it.Version
		}
	}
	return x.fate
}

// repeat makes a write once more whose client does not know what became of it, unless that may have been deleted.
func (w *itemWorld) repeat() {
	for i, x := range w.unsure {
		ended := slices.ContainsFunc(x.targets, func(t *itemTarget) bool { return w.groups[t.group].ended(x.op) })
		if ended || x.fate != done && x.fate != refused {
			continue
		}
		w.unsure = slices.Delete(w.unsure, i, i+1)
		if w.cover.hit("items: a write was repeated"); x.fate == refused {
			w.count++
			x.op, x.fate, x.by = w.count, pending, 0
		}
		x.again()
		return
	}
}

func (w *itemWorld) lost(x *itemWrite) {
	if x.again != nil {
		w.unsure = append(w.unsure, x)
	}
	if x.fate == done {
		return // a repetition
	}
	x.fate = unknown
	w.cover.hit("items: a write has an unknown outcome")
}

// writeOne writes to one item over HTTP.
func (w *itemWorld) writeOne(r *rand.Rand) {
	g := w.group(r)
	key := boardKeys[r.IntN(len(boardKeys))]
	x := w.newWrite()
	t := &itemTarget{group: g.at, key: key}
	x.targets = []*itemTarget{t}
	header := []string{"Item-TxID", x.tag}
	switch r.IntN(6) {
	case 0:
		if t.ifVersion = new(runnel.Sequence); g.known[key] == 0 {
			header = append(header, "If-None-Match", "*")
			break
		}
		*t.ifVersion = g.known[key]
		header = append(header, "If-Match", fmt.Sprintf("%q", fmt.Sprint(g.known[key])))
	case 1:
		t.ifExists = true
		header = append(header, "If-Match", "*")
	}
	method, body, query := "PUT", drawItem(r, x.tag), ""
	t.next = func([]byte) []byte { return []byte(body) }
	switch r.IntN(4) {
	case 0:
		method, body = "DELETE", ""
		t.next = func([]byte) []byte { return nil }
	case 1:
		method, body, query = "PATCH", drawOps(r, x.tag), "?mode=partial"
		parsed, err := ops.Parse([]byte(body))
		must(err)
		t.next = func(old []byte) []byte {
			after, _ := ops.Apply(old, parsed, ops.Partial)
			return after
		}
	}
	w.errands.run(fmt.Sprintf("%s: %s %s#%s", x.tag, method, g.at, t), func(ctx context.Context) func() {
		_, err := itemRequest(ctx, w.face, method, "/v1/items/"+strings.ReplaceAll(g.at.Space, "/", "%2F")+"/"+g.at.Name+"/"+key+query, body, header...)
		return func() {
			if w.written(x, nil, err) == done {
				w.cover.hit("items: a write was done over http")
			}
		}
	}, func() { w.lost(x) })
}

// itemRequest makes a request of a handler.
func itemRequest(ctx context.Context, h http.Handler, method, target, body string, header ...string) ([]byte, error) {
	r := httptest.NewRequestWithContext(ctx, method, target, strings.NewReader(body))
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	a := httptest.NewRecorder()
	h.ServeHTTP(a, r)
	if a.Code < 400 {
		return a.Body.Bytes(), nil
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	var b wire.Body
	if err := json.Unmarshal(a.Body.Bytes(), &b); err != nil || b.Error.Code == "" {
		return nil, fmt.Errorf("status %d with body %q", a.Code, a.Body)
	}
	if a.Code == http.StatusPreconditionFailed {
		return nil, fmt.Errorf("%w: %s", runnel.ErrItemMoved, b.Error.Message)
	}
	return nil, b.Err(a.Code)
}

// post appends messages of the State Protocol to the stream of a group, as a StreamDB does.
func (w *itemWorld) post(r *rand.Rand) {
	g := w.group(r)
	x := w.newWrite()
	var messages []string
	for i, key := range []string{boardKeys[r.IntN(2)], boardKeys[2+r.IntN(2)]}[:1+r.IntN(2)] {
		value := fmt.Sprintf(`{"by":"%s.%d","posted":true}`, x.tag, i)
		c := message.Change{
			Type: runnel.DefaultItemType, Key: key, TxID: x.tag,
			Operation: []message.Operation{message.Insert, message.Update, message.Upsert, message.Delete}[r.IntN(4)],
		}
		t := &itemTarget{group: g.at, key: key, next: func([]byte) []byte { return []byte(value) }}
		if c.Value = []byte(value); c.Operation == message.Delete {
			c.Value = nil
			t.next = func([]byte) []byte { return nil }
		}
		x.targets = append(x.targets, t)
		messages = append(messages, string(c.Append(nil)))
	}
	body := "[" + strings.Join(messages, ",") + "]"
	w.errands.run(fmt.Sprintf("%s: post to %s %.200s", x.tag, g.at, body), func(ctx context.Context) func() {
		_, err := itemRequest(ctx, w.streams, "POST", prefix+g.at.Path(), body, "Content-Type", "application/json")
		return func() {
			if w.written(x, nil, err) == done {
				w.cover.hit("items: messages were posted")
			}
		}
	}, func() { w.lost(x) })
}

func (w *itemWorld) deleteGroup(r *rand.Rand) {
	g := w.group(r)
	w.count++
	d := &itemDelete{op: w.count}
	g.deletes = append(g.deletes, d)
	w.errands.run(fmt.Sprintf("op%d: delete %s", d.op, g.at), func(ctx context.Context) func() {
		err := w.log.Delete(ctx, g.at)
		return func() {
			if d.fate = w.fateOf("a deletion", err, runnel.ErrNotFound); d.fate != unknown {
				d.by = w.count
			}
			w.note("op%d is %v: %v", d.op, d.fate, err)
			if d.fate == done {
				w.cover.hit("items: a group was deleted")
			}
		}
	}, func() { d.fate = unknown })
}

// tableOf is a view as a table.
func tableOf(v *runnel.ItemView) map[string]string {
	all := make(map[string]string)
	for i := range v.Items {
		all[v.Items[i].Key] = string(v.Items[i].Value)
	}
	return all
}

// show keeps a table that was shown. What is shown of an item group is of the incarnation with the id.
func (w *itemWorld) show(how string, v *runnel.ItemView) {
	w.shown = append(w.shown, itemSnapshot{group: v.Segment, id: v.ID, tail: v.Tail, table: tableOf(v), how: how})
	g := w.groups[v.Segment]
	w.check(itemsStamped, v.Lead >= g.lead[v.ID], "%s was at lead %d, and is at %d", v.Segment, g.lead[v.ID], v.Lead)
	g.lead[v.ID] = v.Lead
	for i := range v.Items {
		g.known[v.Items[i].Key] = v.Items[i].Version
	}
	for _, x := range w.writes {
		if x.fate == pending {
			w.cover.hit("items: a snapshot was shown while writes were not durable")
			break
		}
	}
}

// snapshot reads a group, or all groups of a space at one moment.
func (w *itemWorld) snapshot(r *rand.Rand) {
	g := w.group(r)
	if r.IntN(2) == 0 {
		w.errands.run("look at "+g.at.String(), func(ctx context.Context) func() {
			v, err := w.log.Items(ctx, g.at, runnel.ItemQuery{})
			return func() {
				if w.fateOf("a snapshot", err, runnel.ErrNotFound) == done {
					w.show("a snapshot of a group", &v)
				}
			}
		}, nil)
		return
	}
	w.errands.run("look at all of "+g.at.Space, func(ctx context.Context) func() {
		v, err := w.log.SpaceItems(ctx, g.at.In(), "", runnel.ItemQuery{})
		return func() {
			if w.fateOf("a snapshot", err, runnel.ErrNotFound) == done {
				for i := range v.Groups {
					w.show("a snapshot of a space", &v.Groups[i])
				}
			}
		}
	}, nil)
}

// readOne reads one item.
func (w *itemWorld) readOne(r *rand.Rand) {
	g := w.group(r)
	key := boardKeys[r.IntN(len(boardKeys))]
	w.errands.run("read "+g.at.String()+"#"+key, func(ctx context.Context) func() {
		it, err := w.log.Item(ctx, g.at, runnel.ItemKey{Key: key})
		return func() {
			if w.fateOf("a read", err, runnel.ErrNotFound) == done {
				g.known[key] = it.Version
			}
		}
	}, nil)
}

// follow begins to follow a group, with a snapshot.
func (w *itemWorld) follow(r *rand.Rand) {
	if len(w.followers) >= 4 {
		return
	}
	g := w.group(r)
	w.errands.run("follow "+g.at.String(), func(ctx context.Context) func() {
		v, err := w.log.Items(ctx, g.at, runnel.ItemQuery{})
		return func() {
			if w.fateOf("a snapshot", err, runnel.ErrNotFound) != done || w.broken {
				return
			}
			w.show("a snapshot of a group", &v)
			f := &itemFollower{group: g.at, id: v.ID, at: v.Tail, stamp: v.Stamp(v.Tail) + 1, table: tableOf(&v)}
			w.followers = append(w.followers, f)
			w.tail(f)
		}
	}, nil)
}

func (w *itemWorld) tail(f *itemFollower) {
	var ctx context.Context
	ctx, f.cancel = context.WithCancel(w.ctx)
	feed := new(itemFeed)
	f.feed = feed
	log, group, id, at := w.log, f.group, f.id, f.at
	go func() {
		var err error
		for b, e := range log.TailItems(ctx, group, id, at) {
			if err = e; err != nil {
				break
			}
			feed.mu.Lock()
			feed.batches = append(feed.batches, b)
			feed.mu.Unlock()
		}
		feed.mu.Lock()
		defer feed.mu.Unlock()
		feed.over, feed.err = true, err
	}()
}

// takeFollower brings a table up to what its follower has got.
func (w *itemWorld) takeFollower(f *itemFollower) {
	if f.feed == nil {
		return
	}
	f.feed.mu.Lock()
	defer f.feed.mu.Unlock()
	for _, b := range f.feed.batches {
		for i := range b.Changes {
			c := &b.Changes[i]
			w.check(itemsStamped, c.Sequence > f.at && c.Stamp > f.stamp, "a follower of %s is at %d with stamp %d, and gets %d with stamp %d", f.group, f.at, f.stamp, c.Sequence, c.Stamp)
			if c.Stamp > w.now().at.UnixMilli()+1000 {
				w.cover.hit("items: the clock was behind when a stamp was given")
			}
			f.at, f.stamp = c.Sequence, c.Stamp
			if f.table[c.Key] = string(c.Value); c.Op == runnel.ItemDeleted {
				delete(f.table, c.Key)
			}
		}
		f.at = max(f.at, b.Last)
	}
	if len(f.feed.batches) > 0 {
		f.feed.batches = nil
		w.shown = append(w.shown, itemSnapshot{group: f.group, id: f.id, tail: f.at, table: maps.Clone(f.table), how: "a snapshot and the tail behind it"})
	}
	if f.feed.over && f.feed.err != nil && w.ctx.Err() == nil {
		w.fateOf("a follower of "+f.group.String(), f.feed.err, runnel.ErrNotFound, runnel.ErrTrimmed)
		if errors.Is(f.feed.err, runnel.ErrTrimmed) {
			w.check(itemsSeen, w.long, "a follower of %s: %v", f.group, f.feed.err)
		}
	}
}
