package client_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/client"
)

var chat = runnel.Space{Name: "chat"}

func itemsOf(w *world) client.Items { return w.ItemsIn(chat) }

// told shows news on a line, but for values that are times.
func told(n runnel.ItemNews) string {
	var b strings.Builder
	switch {
	case n.Complete:
		return "complete"
	case n.Event != nil:
		return fmt.Sprintf("%s: event %s %s", n.Segment.Name, n.Event.Type, n.Event.Data)
	case n.Snapshot:
		fmt.Fprintf(&b, "%s: snapshot", n.Segment.Name)
		for _, item := range n.Items {
			fmt.Fprintf(&b, " %s=%s", item.Key, item.Value)
		}
		return b.String()
	}
	fmt.Fprintf(&b, "%s:", n.Segment.Name)
	for _, c := range n.Changes {
		fmt.Fprintf(&b, " %v %s=%s", c.Op, c.Key, c.Value)
	}
	return b.String()
}

// watching pulls what is told of a watch, step by step.
type watching struct {
	t    *testing.T
	next func() (runnel.ItemNews, error, bool)
}

func watch(t *testing.T, news iter.Seq2[runnel.ItemNews, error]) *watching {
	t.Helper()
	next, stop := iter.Pull2(news)
	t.Cleanup(stop)
	return &watching{t, next}
}

func (w *watching) step() runnel.ItemNews {
	w.t.Helper()
	n, err, ok := w.next()
	if err != nil || !ok {
		w.t.Fatal(err, ok)
	}
	return n
}

func (w *watching) tells(lines ...string) (last runnel.ItemNews) {
	w.t.Helper()
	for _, line := range lines {
		last = w.step()
		want(w.t, told(last), line)
	}
	return last
}

func TestAnItemIsSetReadListedAndDeleted(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		items := itemsOf(w)
		_, err := items.Get(t.Context(), "room-1", "m1")
		want(t, errors.Is(err, runnel.ErrNotFound), true)
		empty, err := items.List(t.Context(), "room-1", client.ItemList{})
		must(t, err)
		want(t, len(empty.Items), 0)
		gone, err := items.Delete(t.Context(), "room-1", "m1")
		must(t, err)
		want(t, gone.Old == nil, true)
		names, err := items.Groups(t.Context(), client.ItemList{})
		must(t, err)
		want(t, names, []string{}) // nothing was made by looking, nor by deleting nothing

		type message struct {
			Text string `json:"text"`
		}
		r, err := items.Set(t.Context(), "room-1", "m1", message{"a < b"})
		must(t, err)
		want(t, []any{r.Old == nil, string(r.New.Value), r.New.Version}, []any{true, `{"text":"a < b"}`, 1})
		r, err = items.Set(t.Context(), "room-1", "m1", json.RawMessage(` {"text": "c" } `))
		must(t, err)
		want(t, []any{string(r.Old.Value), r.Old.Version, string(r.New.Value)}, []any{`{"text":"a < b"}`, 1, `{"text": "c" }`})
		_, err = items.Set(t.Context(), "room-1", "m2", nil)
		must(t, err)

		item, err := itemsOf(&world{Client: w.another()}).Get(t.Context(), "room-1", "m1")
		must(t, err)
		v, err := client.Value[message](item)
		must(t, err)
		want(t, []any{v.Text, item.Created.Before(item.Updated), item.Expires.IsZero()}, []any{"c", true, true})
		list, err := items.List(t.Context(), "room-1", client.ItemList{Prefix: "m", Limit: 1})
		must(t, err)
		want(t, []any{len(list.Items), list.Items[0].Key, list.More}, []any{1, "m1", true})
		list, err = items.List(t.Context(), "room-1", client.ItemList{After: list.Next})
		must(t, err)
		want(t, []any{len(list.Items), string(list.Items[0].Value), list.More}, []any{1, "null", false})

		r, err = items.Delete(t.Context(), "room-1", "m1")
		must(t, err)
		want(t, []any{string(r.Old.Value), r.New == nil}, []any{`{"text": "c" }`, true})
		_, err = items.Get(t.Context(), "room-1", "m1")
		missing, ok := errors.AsType[*runnel.ItemNotFoundError](err)
		want(t, ok && missing.Segment == chat.Segment("room-1") && missing.Item.Key == "m1", true)
		_, err = items.Set(t.Context(), "room-1", "m1", json.RawMessage(`{`))
		want(t, errors.Is(err, runnel.ErrInvalid), true)
		_, err = items.Set(t.Context(), "room-1", "m1", func() {})
		want(t, errors.Is(err, runnel.ErrInvalid), true)
		_, err = items.Set(t.Context(), "room/1", "m1", 1)
		if _, ok := errors.AsType[*runnel.NameError](err); !ok {
			t.Errorf("got %v", err)
		}
	})
}

func TestStreamsAndGroupsAreListedInOrderAndDeleted(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		below := runnel.Space{Name: "chat/old"}
		for _, group := range []runnel.Segment{chat.Segment("b"), chat.Segment("a"), chat.Segment("ab"), below.Segment("a"), {Space: "board", Name: "a"}} {
			_, err := w.ItemsIn(group.In()).Set(t.Context(), group.Name, "1", 1)
			must(t, err)
		}
		_, err := w.Publish(t.Context(), chat.Segment("log"), records("no item")...)
		must(t, err)
		items := itemsOf(w)
		for _, page := range []struct {
			list client.ItemList
			want []string
		}{
			{client.ItemList{}, []string{"a", "ab", "b"}},
			{client.ItemList{Prefix: "a"}, []string{"a", "ab"}},
			{client.ItemList{After: "a"}, []string{"ab", "b"}},
			{client.ItemList{After: "aa", Limit: 1}, []string{"ab"}},
		} {
			names, err := items.Groups(t.Context(), page.list)
			must(t, err)
			want(t, names, page.want)
		}
		all, err := w.ItemStreams(t.Context(), runnel.Store{})
		must(t, err)
		var text []string
		for _, s := range all {
			text = append(text, fmt.Sprint(s.Space.Name, s.Groups))
		}
		want(t, text, []string{"board[a]", "chat[a ab b]", "chat/old[a]"})
		must(t, items.DeleteGroup(t.Context(), "a"))
		want(t, errors.Is(items.DeleteGroup(t.Context(), "a"), runnel.ErrNotFound), true)
		must(t, items.DeleteGroups(t.Context()))
		names, err := items.Groups(t.Context(), client.ItemList{})
		must(t, err)
		want(t, names, []string{})
		want(t, w.texts(client.Segment(chat.Segment("log"), 0)), []string{"no item"})
	})
}

func TestAWriteOfAnItemIsRefusedWhereItsConditionDoesNotHold(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		items := itemsOf(w)
		moved := func(err error, want runnel.Sequence, any bool, have runnel.Sequence) {
			t.Helper()
			e, ok := errors.AsType[*runnel.ItemMovedError](err)
			if !ok || e.Segment != chat.Segment("r") || e.Item.Key != "k" || (e.Want == nil) != any || e.Want != nil && *e.Want != want || e.Have != have {
				t.Errorf("got %v", err)
			}
		}
		_, err := items.With(client.ItemOptions{Expect: client.Exists()}).Set(t.Context(), "r", "k", 1)
		moved(err, 0, true, 0)
		_, err = items.With(client.ItemOptions{Expect: client.None()}).Set(t.Context(), "r", "k", 1)
		must(t, err)
		_, err = items.With(client.ItemOptions{Expect: client.None()}).Set(t.Context(), "r", "k", 1)
		moved(err, 0, false, 1)
		_, err = items.With(client.ItemOptions{Expect: client.At(7)}).Update(t.Context(), "r", "k", client.Increment(1))
		moved(err, 7, false, 1)
		_, err = items.With(client.ItemOptions{Expect: client.At(7)}).Delete(t.Context(), "r", "k")
		moved(err, 7, false, 1)
		r, err := items.With(client.ItemOptions{Expect: client.At(1)}).Update(t.Context(), "r", "k", client.Increment(1))
		must(t, err)
		want(t, string(r.New.Value), "2")
		_, err = items.With(client.ItemOptions{Expect: client.At(r.New.Version)}).Delete(t.Context(), "r", "k")
		must(t, err)
	})
}

func TestUpdatesOfManyClientsAreAllCounted(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		const clients, each = 4, 10
		var all sync.WaitGroup
		for range clients {
			items := w.another().ItemsIn(chat)
			all.Go(func() {
				for range each {
					if _, err := items.Update(t.Context(), "r", "counters", client.Increment(1, "deep", "down"), client.Push("x", "log")); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		all.Wait()
		item, err := itemsOf(w).Get(t.Context(), "r", "counters")
		must(t, err)
		want(t, string(item.Value), fmt.Sprintf(`{"deep":{"down":%d},"log":%q}`, clients*each, strings.Repeat("x", clients*each)))
	})
}

func TestOperationsAreAppliedAllOrAsFarAsTheyCanBe(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		items := itemsOf(w)
		_, err := items.Set(t.Context(), "r", "k", map[string]any{"name": "a", "big": json.Number("123456789012345678901234567890")})
		must(t, err)
		list := []client.Op{client.SetField([]int{1}, "list"), client.Increment(1, "name"), client.Decrement(1, "big"), client.Merge(map[string]int{"x": 1}, "object"), client.Remove("name"), client.Push("<", "list")}
		_, err = items.Update(t.Context(), "r", "k", list...)
		refused, ok := errors.AsType[*runnel.OperationsError](err)
		if !ok || len(refused.Failed) != 1 || refused.Failed[0].Index != 1 || refused.Failed[0].Code != "increment.not_number" || refused.Item.Key != "k" || !errors.Is(err, runnel.ErrInvalid) {
			t.Fatalf("got %v", err)
		}
		r, err := items.With(client.ItemOptions{Partial: true}).Update(t.Context(), "r", "k", list...)
		must(t, err)
		want(t, string(r.New.Value), `{"big":123456789012345678901234567889,"list":[1,"<"],"object":{"x":1}}`)
		want(t, []any{len(r.Failed), r.Failed[0].Index, r.Failed[0].Code}, []any{1, 1, "increment.not_number"})
		_, err = items.Update(t.Context(), "r", "k", client.Op{})
		want(t, errors.Is(err, runnel.ErrInvalid), true)
		_, err = items.Write(t.Context(), "r", runnel.ItemWrite{ItemKey: runnel.ItemKey{Key: "k"}, Ops: []byte("[7]")})
		want(t, errors.Is(err, runnel.ErrInvalid), true)
		_, err = items.Write(t.Context(), "r", runnel.ItemWrite{ItemKey: runnel.ItemKey{Key: "k"}, Ops: []byte("[]"), Value: []byte("1")})
		want(t, errors.Is(err, runnel.ErrInvalid), true)
	})
}

func TestSeveralItemsAreWrittenTogetherOrNotAtAllAndOnceUnderAKey(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		items := itemsOf(w).With(client.ItemOptions{Key: "move-1", TxID: "tx-1"})
		one := runnel.Sequence(1)
		move := []runnel.ItemWrite{
			{ItemKey: runnel.ItemKey{Key: "from"}, IfVersion: &one},
			{ItemKey: runnel.ItemKey{Key: "to"}, Value: []byte("1")},
			{ItemKey: runnel.ItemKey{Key: "count"}, Ops: []byte(`[{"type":"increment","path":"","by":1}]`)},
		}
		_, err := items.Write(t.Context(), "r", move...)
		want(t, errors.Is(err, runnel.ErrItemMoved), true)
		_, err = itemsOf(w).Set(t.Context(), "r", "from", 1)
		must(t, err)
		for again := range 2 {
			written, err := items.Write(t.Context(), "r", move...)
			must(t, err)
			want(t, []any{written.Duplicate, len(written.Results), string(written.Results[2].New.Value)}, []any{again == 1, 3, "1"})
		}
		_, err = items.Write(t.Context(), "r", move[:2]...)
		want(t, errors.Is(err, runnel.ErrKeyReused), true)
		watch(t, itemsOf(w).Watch(t.Context(), client.Watch{Group: "r"})).tells("r: snapshot count=1 to=1")
		since := client.Cursor(runnel.ItemNews{ID: w.id(chat.Segment("r")), Last: 1})
		n := watch(t, itemsOf(w).Watch(t.Context(), client.Watch{Group: "r", Since: since})).tells("r: delete from= create to=1 create count=1")
		want(t, n.Changes[0].TxID, "tx-1")
	})
}

// id is the incarnation of a segment.
func (w *world) id(segment runnel.Segment) uint64 {
	w.t.Helper()
	info, err := w.Stat(w.t.Context(), segment)
	must(w.t, err)
	return info.ID
}

func TestAnItemWithATimeToLiveGoesAwayAndWatchersAreTold(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		items := itemsOf(w)
		seen := watch(t, items.Watch(t.Context(), client.Watch{Group: "r"}))
		seen.tells("r: snapshot")
		r, err := items.With(client.ItemOptions{TTL: 200 * time.Millisecond}).Set(t.Context(), "r", "k", 1)
		must(t, err)
		want(t, r.New.Expires.Equal(r.New.Updated.Add(200*time.Millisecond)), true)
		seen.tells("r: create k=1")
		for { // whoever looks finds that its time is over
			if _, err := items.Get(t.Context(), "r", "k"); errors.Is(err, runnel.ErrNotFound) {
				break
			}
		}
		seen.tells("r: delete k=")
	})
}

func TestASnapshotAndWhatFollowsItAreOneSequence(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		const writers, each = 3, 30
		var all sync.WaitGroup
		for i := range writers {
			items := w.another().ItemsIn(chat)
			all.Go(func() {
				for n := range each {
					id := fmt.Sprint((n + i) % 7)
					var err error
					if n%5 == 4 {
						_, err = items.Delete(t.Context(), "r", id)
					} else {
						_, err = items.Set(t.Context(), "r", id, map[string]int{"writer": i, "n": n})
					}
					if err != nil {
						t.Error(err)
						return
					}
				}
				if _, err := items.Set(t.Context(), "r", fmt.Sprint("done", i), true); err != nil {
					t.Error(err)
				}
			})
		}
		for range 3 { // who come at any time
			all.Go(func() {
				state, done := make(map[string]string), make(map[string]bool)
				last, stamp := runnel.Sequence(0), int64(0)
				for n, err := range w.another().ItemsIn(chat).Watch(t.Context(), client.Watch{Group: "r"}) {
					if err != nil {
						t.Error(err)
						return
					}
					if n.Snapshot {
						clear(state)
						for _, item := range n.Items {
							state[item.Key] = string(item.Value)
							done[item.Key] = strings.HasPrefix(item.Key, "done")
						}
						last = n.Last
					}
					for _, c := range n.Changes {
						if c.Sequence <= last || c.Stamp <= stamp {
							t.Errorf("change %d at %d follows %d at %d", c.Sequence, c.Stamp, last, stamp)
						}
						last, stamp = c.Sequence, c.Stamp
						if state[c.Key] = string(c.Value); c.Value == nil {
							delete(state, c.Key)
						}
						done[c.Key] = strings.HasPrefix(c.Key, "done")
					}
					if done["done0"] && done["done1"] && done["done2"] {
						break
					}
				}
				list, err := itemsOf(w).List(t.Context(), "r", client.ItemList{})
				if err != nil {
					t.Error(err)
					return
				}
				now := make(map[string]string)
				for _, item := range list.Items {
					now[item.Key] = string(item.Value)
				}
				if fmt.Sprint(now) != fmt.Sprint(state) {
					t.Errorf("\nthe table has %v\nthe watcher   %v", now, state)
				}
			})
		}
		all.Wait()
	})
}

func TestAWatcherIsToldOfWhatItAskedFor(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		items := itemsOf(w)
		set := func(id string, value any) {
			t.Helper()
			_, err := items.Set(t.Context(), "r", id, value)
			must(t, err)
		}
		set("a1", 1)
		set("a10", 2)
		set("b1", 3)
		one := watch(t, items.Watch(t.Context(), client.Watch{Group: "r", Item: "a1"}))
		none := watch(t, items.Watch(t.Context(), client.Watch{Group: "r", Item: "a"}))
		prefix := watch(t, items.Watch(t.Context(), client.Watch{Group: "r", Prefix: "a"}))
		one.tells("r: snapshot a1=1")
		none.tells("r: snapshot")
		at := prefix.tells("r: snapshot a1=1 a10=2")
		set("a10", 4)
		set("b1", 5)
		set("a1", 6)
		set("a", 7)
		one.tells("r: update a1=6")
		none.tells("r: create a=7")
		prefix.tells("r: update a10=4", "r: update a1=6", "r: create a=7")
		// Who has been there comes back to what has happened since.
		watch(t, items.Watch(t.Context(), client.Watch{Group: "r", Item: "a1", Since: client.Cursor(at)})).tells("r: update a1=6")
		_, _, err := first(items.Watch(t.Context(), client.Watch{Group: "r", Since: "yesterday"}))
		want(t, errors.Is(err, runnel.ErrInvalid), true)
		_, _, err = first(items.Watch(t.Context(), client.Watch{Group: "r", GroupPrefix: "r"}))
		want(t, errors.Is(err, runnel.ErrInvalid), true)
	})
}

func TestAWatcherWaitsForAGroupAndSeesItGoAndComeBack(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		items, other := itemsOf(w), w.another().ItemsIn(chat)
		seen := watch(t, items.Watch(t.Context(), client.Watch{Group: "r"}))
		seen.tells("r: snapshot")
		_, err := other.Set(t.Context(), "r-2", "k", 0)
		must(t, err)
		_, err = other.Set(t.Context(), "r", "k", 1)
		must(t, err)
		at := seen.tells("r: create k=1")
		must(t, other.DeleteGroup(t.Context(), "r"))
		seen.tells("r: snapshot")
		_, err = other.Set(t.Context(), "r", "k", 2)
		must(t, err)
		again := seen.tells("r: create k=2")
		if again.ID == at.ID {
			t.Errorf("two incarnations have the id %d", at.ID)
		}
		// The place of what is gone is answered with a snapshot.
		watch(t, items.Watch(t.Context(), client.Watch{Group: "r", Since: client.Cursor(at)})).tells("r: snapshot k=2")
		_, err = w.Publish(t.Context(), chat.Segment("log"), records("x")...)
		must(t, err)
		_, _, err = first(items.Watch(t.Context(), client.Watch{Group: "log"}))
		want(t, errors.Is(err, runnel.ErrInvalid), true)
	})
}

func TestAWholeStreamIsWatchedAndGroupsThatComeAndGo(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		items, other := itemsOf(w), w.another().ItemsIn(chat)
		for _, group := range []string{"a", "b", "x"} {
			_, err := other.Set(t.Context(), group, "k", group)
			must(t, err)
		}
		all := watch(t, items.Watch(t.Context(), client.Watch{}))
		some := watch(t, items.Watch(t.Context(), client.Watch{GroupPrefix: "x"}))
		all.tells(`a: snapshot k="a"`, `b: snapshot k="b"`, `x: snapshot k="x"`, "complete")
		some.tells(`x: snapshot k="x"`, "complete")
		_, err := other.Set(t.Context(), "b", "k", 1)
		must(t, err)
		_, err = other.Set(t.Context(), "xy", "k", 2)
		must(t, err)
		all.tells("b: update k=1", "xy: create k=2")
		some.tells("xy: create k=2")
		must(t, other.DeleteGroup(t.Context(), "x"))
		all.tells("x: snapshot")
		some.tells("x: snapshot")
		_, err = other.Set(t.Context(), "x", "k", 3)
		must(t, err)
		all.tells("x: create k=3")
		some.tells("x: create k=3")
	})
}

func TestAnEventComesAfterTheChangesBeforeItAndIsNotKept(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		items := itemsOf(w)
		group := watch(t, items.Watch(t.Context(), client.Watch{Group: "r"}))
		item := watch(t, items.Watch(t.Context(), client.Watch{Group: "r", Item: "k"}))
		stream := watch(t, items.Watch(t.Context(), client.Watch{}))
		group.tells("r: snapshot")
		item.tells("r: snapshot")
		stream.tells("complete")
		must(t, items.Send(t.Context(), "r", "hello", nil)) // nobody has written to the group
		group.tells("r: event hello null")
		item.tells("r: event hello null")
		stream.tells("r: event hello null")
		for n := range 5 {
			_, err := items.Set(t.Context(), "r", "k", n)
			must(t, err)
			must(t, items.SendTo(t.Context(), "r", "k", "typing", n))
			must(t, items.SendTo(t.Context(), "r", "other", "typing", n))
			must(t, items.Send(t.Context(), "q", "typing", n))
		}
		op := "create"
		for n := range 5 {
			change, event := fmt.Sprintf("r: %s k=%d", op, n), fmt.Sprintf("r: event typing %d", n)
			op = "update"
			item.tells(change, event)
			group.tells(change, event, event)
			stream.tells(change, event, event, fmt.Sprintf("q: event typing %d", n))
		}
		watch(t, items.Watch(t.Context(), client.Watch{Group: "r"})).tells("r: snapshot k=4")
		err := items.Send(t.Context(), "r", strings.Repeat("x", runnel.MaxItemEventTypeBytes+1), nil)
		large, ok := errors.AsType[*runnel.TooLargeError](err)
		want(t, ok && large.Limit == runnel.MaxItemEventTypeBytes && large.Got == runnel.MaxItemEventTypeBytes+1, true)
		want(t, errors.Is(items.Send(t.Context(), "", "x", nil), runnel.ErrInvalid), true)
	})
}

func TestAGroupOfManyLargeItemsIsListedAndWatchedWhole(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		items := itemsOf(w)
		const n, size = 40, 40 << 10
		for from := 0; from < n; from += 8 {
			var writes []runnel.ItemWrite
			for i := range 8 {
				writes = append(writes, runnel.ItemWrite{ItemKey: runnel.ItemKey{Key: fmt.Sprintf("%03d", from+i)}, Value: fmt.Appendf(nil, "%q", strings.Repeat(fmt.Sprint(i), size))})
			}
			_, err := items.Write(t.Context(), "r", writes...)
			must(t, err)
		}
		list, err := items.List(t.Context(), "r", client.ItemList{})
		must(t, err)
		snapshot := watch(t, items.Watch(t.Context(), client.Watch{Group: "r"})).step()
		for _, all := range [][]runnel.Item{list.Items, snapshot.Items} {
			want(t, len(all), n)
			for i, item := range all {
				want(t, []any{item.Key, len(item.Value)}, []any{fmt.Sprintf("%03d", i), size + 2})
			}
		}
	})
}
