package crash

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing/synctest"
	"time"

	"github.com/runnelhq/runnel"
	message "github.com/runnelhq/runnel/state"
)

// foldedItem is what a log makes of a key.
type foldedItem struct {
	value   string
	version runnel.Sequence
	expires time.Time
	tag     string // of the write
}

// itemFold is a log, and what it makes of its keys after each entry.
type itemFold struct {
	id      uint64
	entries []runnel.Entry
	tables  []map[string]string // after so many entries
	last    map[string]foldedItem
	present map[*itemWrite]bool
	changes map[runnel.Position]string // what the tail tells at a position
}

// verify compares all that is there with what clients were told and shown.
func (w *itemWorld) verify() {
	folds := make(map[runnel.Segment]*itemFold)
	for _, at := range boardGroups {
		folds[at] = w.verifyGroup(w.groups[at])
	}
	w.verifyWrites(folds)
	w.shown = nil
	w.followers = slices.DeleteFunc(w.followers, func(f *itemFollower) bool {
		fold := folds[f.group]
		if fold == nil || fold.id != f.id {
			return true
		}
		if f.feed == nil {
			w.cover.hit("items: a follower went on after a restart")
			w.tail(f)
		}
		return false
	})
}

// verifyGroup reads a group in all ways, nil if it is not there, and checks what was shown of it.
func (w *itemWorld) verifyGroup(g *itemGroup) *itemFold {
	var v runnel.ItemView
	var fold *itemFold
	for tries := 0; fold == nil || runnel.Sequence(len(fold.entries)) != v.Tail; tries++ {
		w.check(itRuns, tries < 50, "%s does not come to rest", g.at)
		var err error
		if v, err = w.log.Items(w.ctx, g.at, runnel.ItemQuery{}); err != nil {
			w.check(itemsAgree, errors.Is(err, runnel.ErrNotFound), "%s: %v", g.at, err)
			_, err := w.log.Read(w.ctx, g.at, 0, runnel.Latest)
			w.check(itemsAgree, errors.Is(err, runnel.ErrNotFound), "%s is no group, and its log is there: %v", g.at, err)
			return nil
		}
		synctest.Wait()
		if fold = w.fold(g); fold == nil {
			return nil
		}
	}
	w.show("a snapshot of a group", &v)
	want := fold.tables[len(fold.entries)]
	w.check(itemsFold, maps.Equal(tableOf(&v), want), "%s is\n  %v, and its log makes\n  %v", g.at, tableOf(&v), want)
	for i := range v.Items {
		it, is := &v.Items[i], fold.last[v.Items[i].Key]
		w.check(itemsFold, it.Version == is.version && it.Expires.Equal(is.expires), "%s#%s is at version %d until %v, and in its log at %d until %v", g.at, it.Key, it.Version, it.Expires, is.version, is.expires)
	}
	w.verifyReads(g, &v)
	for _, was := range w.shown {
		if was.group != g.at || was.id != v.ID {
			continue
		}
		w.check(itemsSeen, int(was.tail) <= len(fold.entries), "%s of %s was at %d, and there are %d entries", was.how, g.at, was.tail, len(fold.entries))
		rule := itemsSeen
		if strings.Contains(was.how, "tail") {
			rule = itemsOneRead
		}
		w.check(rule, maps.Equal(was.table, fold.tables[was.tail]), "%s of %s was at %d\n  %v, which is\n  %v", was.how, g.at, was.tail, was.table, fold.tables[was.tail])
	}
	if len(g.entries) > 1 {
		w.cover.hit("items: a group was made again")
	}
	w.verifyStart(g, want)
	return fold
}

// verifyStart compares what a new reader of the stream of a group is given with its items.
func (w *itemWorld) verifyStart(g *itemGroup, want map[string]string) {
	v, err := w.log.ReadStart(w.ctx, g.at)
	must(err)
	table := make(map[string]string)
	take := func(payload []byte) {
		c, err := message.Parse(payload)
		must(err)
		if table[c.Key] = string(message.Unwrap(c.Value)); c.Operation == message.Delete {
			delete(table, c.Key)
		}
	}
	if v.State != nil {
		w.cover.hit("items: a new reader was given the state")
		for payload, err := range v.State {
			must(err)
			take(payload)
		}
	}
	for b, err := range v.Batches {
		must(err)
		for i := range b.Len() {
			take(b.Payload(i))
		}
	}
	if again, err := w.log.ReadStart(w.ctx, g.at); err != nil || again.Tail != runnel.Sequence(len(g.entries[v.ID])) {
		return // an item has expired meanwhile
	}
	w.check(itemsBegin, maps.Equal(table, want), "a new reader of %s makes\n  %v of it, and it is\n  %v", g.at, table, want)
}

// verifyReads compares the other ways to read a group with a view of it.
func (w *itemWorld) verifyReads(g *itemGroup, v *runnel.ItemView) {
	for _, key := range boardKeys {
		it, err := w.log.Item(w.ctx, g.at, runnel.ItemKey{Key: key})
		i := slices.IndexFunc(v.Items, func(it runnel.Item) bool { return it.Key == key })
		if i < 0 {
			w.check(itemsAgree, errors.Is(err, runnel.ErrNotFound), "%s#%s is not in a snapshot, and is %s, %v", g.at, key, it.Value, err)
			continue
		}
		if err != nil && errors.Is(err, runnel.ErrNotFound) && !v.Items[i].Expires.IsZero() {
			continue // meanwhile its time was over
		}
		w.check(itemsAgree, err == nil && string(it.Value) == string(v.Items[i].Value) && it.Version == v.Items[i].Version, "%s#%s is %s in a snapshot, and %s, %v", g.at, key, v.Items[i].Value, it.Value, err)
	}
	body, err := itemRequest(w.ctx, w.face, "GET", "/v1/items/"+strings.ReplaceAll(g.at.Space, "/", "%2F")+"/"+g.at.Name, "")
	must(err)
	var list struct {
		Version runnel.Sequence `json:"version"`
		Items   []struct {
			ID    string          `json:"id"`
			Value json.RawMessage `json:"value"`
		} `json:"items"`
	}
	must(json.Unmarshal(body, &list))
	if list.Version != v.Tail {
		return // an item has expired meanwhile
	}
	over := make(map[string]string)
	for _, it := range list.Items {
		over[it.ID] = string(it.Value)
	}
	w.check(itemsAgree, maps.Equal(over, tableOf(v)), "%s is %v over HTTP, and %v in Go", g.at, over, tableOf(v))
}

// keep reads what has become durable in the log of a group, before it may be let go of. It returns the incarnation, 0
// if there is no group.
func (w *itemWorld) keep(g *itemGroup) uint64 {
	v, err := w.log.Read(w.ctx, g.at, 0, runnel.Latest)
	if err != nil {
		return 0
	}
	known := runnel.Sequence(len(g.entries[v.ID]))
	if v.Tail > known && v.ID != g.blind {
		w.check(itemsSeen, v.Earliest <= known, "%s was seen up to %d, and is let go of up to %d", g.at, known, v.Earliest)
		w.readEntries(g, v.ID, known)
	}
	return v.ID
}

// readEntries reads the entries of a group after a place. Those that were seen before are what they were.
func (w *itemWorld) readEntries(g *itemGroup, id uint64, after runnel.Sequence) {
	v, err := w.log.Read(w.ctx, g.at, id, after)
	must(err)
	all := g.entries[id]
	w.check(itemsSeen, v.Tail >= runnel.Sequence(len(all)), "%s had %d entries, and has %d", g.at, len(all), v.Tail)
	for b, err := range v.Batches {
		must(err)
		for i := range b.Len() {
			e := b.Entry(i)
			if at := int(e.Sequence) - 1; at < len(all) {
				was := &all[at]
				w.check(itemsSeen, string(was.Payload) == string(e.Payload) && was.Position == e.Position && was.Time.Equal(e.Time), "entry %d of %s was %s, and is %s", e.Sequence, g.at, was.Payload, e.Payload)
				continue
			}
			all = append(all, e)
		}
	}
	g.entries[id] = all
}

// fold reads the log of a group, and checks that each entry is there for a reason. It is nil for one of which not
// enough is known.
func (w *itemWorld) fold(g *itemGroup) *itemFold {
	v, err := w.log.Read(w.ctx, g.at, 0, runnel.Latest)
	must(err)
	if v.Earliest > 0 {
		w.cover.hit("items: history was let go of")
		w.check(itemsSeen, w.long, "%s is let go of up to %d", g.at, v.Earliest)
		if int(v.Earliest) > len(g.entries[v.ID]) {
			g.blind = v.ID
		}
	}
	if v.ID == g.blind {
		return nil
	}
	w.readEntries(g, v.ID, v.Earliest)
	f := &itemFold{id: v.ID, tables: []map[string]string{{}}, last: make(map[string]foldedItem), present: make(map[*itemWrite]bool), changes: make(map[runnel.Position]string)}
	f.entries = g.entries[v.ID]
	for i := 0; i < len(f.entries); {
		j := i + 1
		for j < len(f.entries) && f.entries[j].Transaction == f.entries[i].Transaction {
			j++
		}
		w.foldCommit(g, f, f.entries[i:j])
		i = j
	}
	return f
}

// foldCommit takes in the entries of one commit.
func (w *itemWorld) foldCommit(g *itemGroup, f *itemFold, entries []runnel.Entry) {
	var write *itemWrite
	before := make(map[string]foldedItem)
	told := func(key string) {
		if _, ok := before[key]; !ok {
			before[key] = f.last[key]
		}
	}
	for i := range entries {
		e := &entries[i]
		w.check(itemsStamped, e.Sequence == runnel.Sequence(len(f.tables)), "entry %d of %s is at %d", len(f.tables), g.at, e.Sequence)
		c, err := message.Parse(e.Payload)
		must(err)
		_, expired := e.Metadata["item-expired"]
		if expired {
			was, ok := f.last[c.Key]
			w.check(itemsExplained, ok && !was.expires.IsZero() && !e.Time.Before(was.expires), "%s#%s expires at %v, and it was to do so at %v", g.at, c.Key, e.Time, was.expires)
			w.cover.hit("items: an item expired")
		}
		if c.TxID != "" {
			x := w.writes[c.TxID]
			w.check(itemsExplained, x != nil && (write == nil || write == x) && x.fate != refused, "entry %d of %s is of %s, which was refused, or never made", e.Sequence, g.at, c.TxID)
			write = x
		} else {
			w.check(itemsExplained, expired, "entry %d of %s is nobody's: %s", e.Sequence, g.at, e.Payload)
		}
		if !expired {
			told(c.Key)
		}
		next := foldedItem{value: string(message.Unwrap(c.Value)), version: e.Sequence, tag: c.TxID}
		if at := e.Metadata["item-expires"]; at != "" {
			micros, err := strconv.ParseInt(at, 10, 64)
			must(err)
			next.expires = time.UnixMicro(micros)
		}
		f.changes[e.Position] = string(c.Operation)
		if f.last[c.Key] = next; c.Operation == message.Delete {
			delete(f.last, c.Key)
			if i+1 < len(entries) && !expired {
				if after, err := message.Parse(entries[i+1].Payload); err == nil && after.Key == c.Key && after.Operation == message.Insert {
					delete(f.changes, e.Position) // the two are one change
					w.cover.hit("items: an update that drops a field")
				}
			}
		}
		table := make(map[string]string, len(f.last))
		for key, it := range f.last {
			table[key] = it.value
		}
		f.tables = append(f.tables, table)
	}
	if write == nil {
		return
	}
	w.check(itemsOnce, !f.present[write], "%s stands in the log of %s twice", write.tag, g.at)
	f.present[write] = true
	for _, t := range write.targets {
		if t.group == g.at {
			told(t.key)
			w.explain(g, write, t, before[t.key], f.last[t.key])
		}
	}
}

// explain checks that a write has done to an item what was asked for.
func (w *itemWorld) explain(g *itemGroup, x *itemWrite, t *itemTarget, was, is foldedItem) {
	what := fmt.Sprintf("%s of %s#%s, which was %q at version %d and is %q at %d", x.tag, g.at, t, was.value, was.version, is.value, is.version)
	w.check(itemsChecked, (t.ifVersion == nil || *t.ifVersion == was.version) && (!t.ifExists || was.version > 0), "%s", what)
	var old []byte
	if was.version > 0 {
		old = []byte(was.value)
	}
	next := t.next(old)
	w.check(itemsExplained, string(next) == is.value && (next == nil) == (is.version == 0) && (next == nil || is.tag == x.tag), "%s, and should be %q", what, next)
	if t.told == nil {
		return
	}
	ok := (t.told.Old == nil) == (old == nil) && (t.told.New == nil) == (next == nil)
	ok = ok && (old == nil || string(t.told.Old.Value) == was.value && t.told.Old.Version == was.version)
	ok = ok && (next == nil || string(t.told.New.Value) == is.value && t.told.New.Version == is.version)
	w.check(itemsTold, ok, "%s, and its client was told %+v", what, *t.told)
}

// ended tells whether a group may have been deleted after a write that began as an operation.
func (g *itemGroup) ended(op int) bool {
	return slices.ContainsFunc(g.deletes, func(d *itemDelete) bool { return d.fate != refused && (d.by == 0 || d.by >= op) })
}

// verifyWrites checks that all writes that were acknowledged are there, and whole, and settles what is unknown.
func (w *itemWorld) verifyWrites(folds map[runnel.Segment]*itemFold) {
	for _, tag := range slices.Sorted(maps.Keys(w.writes)) {
		x := w.writes[tag]
		if x.fate == pending {
			continue // it is under way again
		}
		there, missing := false, ""
		for _, t := range x.targets {
			fold, g := folds[t.group], w.groups[t.group]
			switch {
			case fold != nil && fold.present[x]:
				there = true
				ended := slices.ContainsFunc(g.deletes, func(d *itemDelete) bool { return x.by > 0 && d.op > x.by && d.fate == done })
				w.check(itemsEnded, !ended, "%s is in %s, which was deleted since", x.tag, t.group)
			case t.makes() && !g.ended(x.op) && g.blind == 0:
				missing = t.group.String()
			}
		}
		w.check(itemsAcked, x.fate != done || missing == "", "%s was acknowledged, and is not in %s", x.tag, missing)
		w.check(itemsWhole, !there || missing == "", "%s is there, but not in %s", x.tag, missing)
		if x.fate != unknown {
			continue
		}
		if there {
			x.fate = done
		} else if missing != "" {
			x.fate = refused
		} else {
			continue
		}
		x.by = w.count
		w.cover.hit("items: an unknown outcome turned out to be: " + x.fate.String())
	}
	for _, g := range w.groups {
		for _, d := range g.deletes {
			if d.by == 0 && d.fate != pending {
				d.by = w.count // whoever was to make it is no more
			}
		}
	}
}

// finish lets all come to rest: then nothing is there that is due, and the trigger has had everything.
func (w *itemWorld) finish() {
	for range 4 {
		w.catchUp()
		w.pass(40 * time.Second)
	}
	w.verify()
	now := w.now().at
	for _, at := range boardGroups {
		v, err := w.log.Items(w.ctx, at, runnel.ItemQuery{})
		if errors.Is(err, runnel.ErrNotFound) {
			continue
		}
		must(err)
		fold := w.fold(w.groups[at])
		if fold == nil {
			continue
		}
		for key, it := range fold.last {
			w.check(itemsExpire, it.expires.IsZero() || it.expires.After(now.Add(-time.Second)), "%s#%s was due at %v, and it is %v", at, key, it.expires, now)
		}
		w.trigger.missed(at, fold, v.Tail)
	}
	w.trigger.departed()
}
