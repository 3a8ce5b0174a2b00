package engine_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/engine"
	"github.com/runnelhq/runnel/storage"
	"github.com/runnelhq/runnel/storage/faulty"
	"github.com/runnelhq/runnel/storage/memory"
)

// told returns what a follower of a space is told after a position, until it has come to the head.
func (w *world) told(space string, after runnel.Position) (news []string, err error) {
	w.t.Helper()
	part := runnel.Space{Name: space}
	info, err := w.StatSpace(ctx, part)
	if err != nil {
		w.t.Fatal(err)
	}
	if after == info.Head {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	for b, err := range w.TailSpaceItems(ctx, part, "", after) {
		if err != nil {
			return news, err
		}
		for _, c := range b.Changes {
			news = append(news, fmt.Sprintf("%s/%s %s", b.Segment.Name, c.Key, c.Op))
		}
		if b.Deleted {
			news = append(news, b.Segment.Name+" is gone")
		}
		if b.LastPosition >= info.Head {
			break
		}
	}
	return news, nil
}

func TestADeletionIsToldInItsPlace(t *testing.T) {
	w := inMemory(t)
	w.set("s/a", "1", "1")
	w.set("s/b", "1", "1")
	w.create("s/plain", runnel.CreateOptions{}, "x")
	for _, path := range []string{"s/a", "s/plain"} {
		if err := w.Delete(ctx, at(path)); err != nil {
			t.Fatal(err)
		}
	}
	w.set("s/b", "2", "2")
	w.set("s/a", "3", "3")
	w.create("s/short", runnel.CreateOptions{Items: true, ExpiresAt: time.Now().Add(-time.Second)})
	if err := w.statErr("s/short"); !errors.Is(err, runnel.ErrNotFound) {
		t.Fatal(err)
	}
	w.set("s/b", "4", "4")
	const want = "b/1 create, a is gone, b/2 create, a/3 create, short is gone, b/4 create"
	for range 2 {
		if news, err := w.told("s", 0); err != nil || strings.Join(news, ", ") != want {
			t.Fatalf("%q, %v, want %q", strings.Join(news, ", "), err, want)
		}
		w.crash()
	}
}

func TestADeletionIsForgottenAfterAWhileButNotByWhoHasAPlace(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, new(memory.Driver), engine.Config{ItemHistory: time.Hour})
		defer w.Close()
		w.set("s/a", "1", "1")
		place := runnel.CursorMove{Name: "trigger/t", Place: 2}
		if _, err := w.Transact(ctx, at("s/a").In(), runnel.Transaction{Cursors: []runnel.CursorMove{place}}); err != nil {
			t.Fatal(err)
		}
		if err := w.Delete(ctx, at("s/a")); err != nil {
			t.Fatal(err)
		}
		pass(2 * time.Hour)
		if news, err := w.told("s", 2); err != nil || fmt.Sprint(news) != "[a is gone]" {
			t.Fatalf("%q, %v", news, err)
		}
		info, err := w.StatSpace(ctx, at("s/a").In())
		if err != nil {
			t.Fatal(err)
		}
		place.Place = uint64(info.Head)
		if _, err := w.Transact(ctx, at("s/a").In(), runnel.Transaction{Cursors: []runnel.CursorMove{place}}); err != nil {
			t.Fatal(err)
		}
		pass(time.Minute)
		var trimmed *runnel.TrimmedError
		if _, err := w.told("s", 2); !errors.As(err, &trimmed) || trimmed.Earliest != runnel.Sequence(info.Head) {
			t.Fatalf("who has no place is told %v", err)
		}
		w.reopen()
		if _, err := w.told("s", 2); !errors.Is(err, runnel.ErrTrimmed) {
			t.Fatalf("who has no place is told %v", err)
		}
		w.set("s/b", "1", "1")
		if news, err := w.told("s", info.Head); err != nil || fmt.Sprint(news) != "[b/1 create]" {
			t.Fatalf("%q, %v", news, err)
		}
	})
}

// followed returns what a reader is told that has stored a place in a space, in five seconds of fake time.
func (w *world) followed(place runnel.CursorName) (news []string) {
	w.t.Helper()
	at, err := w.Cursor(ctx, place)
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	stamp := int64(0)
	for b, err := range w.FollowItems(ctx, place, "", runnel.Position(at.Place)) {
		if errors.Is(err, context.DeadlineExceeded) {
			break
		}
		if err != nil {
			w.t.Fatal(err)
		}
		for _, c := range b.Changes {
			news = append(news, fmt.Sprintf("%s/%s %s", b.Segment.Name, c.Key, c.Op))
			if c.Stamp <= stamp {
				w.t.Errorf("%s is stamped %d after %d", news[len(news)-1], c.Stamp, stamp)
			}
			stamp = c.Stamp
		}
		if b.Deleted {
			news, stamp = append(news, b.Segment.Name+" is gone"), b.Stamp
		}
	}
	return news
}

// come stores a place.
func (w *world) come(place runnel.CursorName, to runnel.Position) {
	w.t.Helper()
	if _, err := w.Transact(ctx, place.Space, runnel.Transaction{Cursors: []runnel.CursorMove{{Name: place.Name, Place: uint64(to)}}}); err != nil {
		w.t.Fatal(err)
	}
}

// head is the last position of the space s.
func (w *world) head() runnel.Position {
	w.t.Helper()
	info, err := w.StatSpace(ctx, runnel.Space{Name: "s"})
	if err != nil {
		w.t.Fatal(err)
	}
	return info.Head
}

var triggerPlace = runnel.CursorName{Space: runnel.Space{Name: "s"}, Name: "trigger/t"}

func TestWhoHasAPlaceIsToldWhatADeletedGroupHad(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, new(memory.Driver), engine.Config{ItemHistory: time.Hour})
		defer func() { _ = w.Close() }()
		w.set("s/before", "1", "1")
		from := w.head()
		w.come(triggerPlace, from)
		w.set("s/g", "a", "1", "b", "2")
		w.set("s/g", "a", "3")
		w.set("s/g", "b", "")
		if err := w.Delete(ctx, at("s/g")); err != nil {
			t.Fatal(err)
		}
		w.set("s/g", "c", "4")
		const all = "g/a create, g/b create, g/a update, g/b delete, g is gone, g/c create"
		for range 3 {
			pass(15 * time.Minute) // sweeps find nothing to drop, and the timeline stays
			if news := strings.Join(w.followed(triggerPlace), ", "); news != all {
				t.Fatalf("%s\nwant %s", news, all)
			}
			if news, err := w.told("s", from); err != nil || strings.Join(news, ", ") != "g is gone, g/c create" {
				t.Fatalf("who has no place is told %q, %v", news, err)
			}
			w.crash()
		}
		pass(30 * time.Minute)
		if news := strings.Join(w.followed(triggerPlace), ", "); news != "g is gone, g/c create" {
			t.Fatalf("after the while that history is kept it is told %s", news)
		}
	})
}

func TestWhatADeletedGroupHadGoesWhenAllPlacesHavePassed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		kept := new(memory.Driver)
		w := newWorld(t, kept, engine.Config{})
		defer w.Close()
		rows := func() (n int) {
			for _, err := range kept.Scan(ctx, at("s/g").In(), storage.Range{From: []byte{'e'}, To: []byte{'f'}}) {
				if n++; err != nil {
					t.Fatal(err)
				}
			}
			return n
		}
		other := runnel.CursorName{Space: triggerPlace.Space, Name: "other"}
		w.set("s/stays", "a", "1")
		w.come(triggerPlace, w.head())
		w.come(other, w.head())
		for range 100 {
			w.set("s/g", "a", "1")
		}
		for _, place := range []runnel.CursorName{triggerPlace, other} {
			if err := w.Delete(ctx, at("s/g")); err != nil && !errors.Is(err, runnel.ErrNotFound) {
				t.Fatal(err)
			}
			pass(time.Minute)
			if n := rows(); n != 101 {
				t.Fatalf("%d runs are left of 101 while places have not passed the deletion", n)
			}
			w.come(place, w.head())
		}
		pass(time.Minute)
		if n := rows(); n != 1 {
			t.Fatalf("%d runs are left of 1 when all places have passed the deletion", n)
		}
		// Nobody has a place before it: it goes at once.
		w.set("s/g", "a", "1")
		w.come(triggerPlace, w.head())
		w.come(other, w.head())
		if err := w.DeleteCursor(ctx, other); err != nil {
			t.Fatal(err)
		}
		if err := w.DeleteCursor(ctx, triggerPlace); err != nil {
			t.Fatal(err)
		}
		if err := w.Delete(ctx, at("s/g")); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if n := rows(); n != 1 {
			t.Fatalf("%d runs are left of 1 when there are no places", n)
		}
	})
}

func TestAForkKeepsWhatADeletedGroupHadForWhoHasAPlace(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, new(memory.Driver), engine.Config{})
		defer w.Close()
		w.come(triggerPlace, 0)
		w.set("s/g", "a", "1")
		w.create("forks/f", runnel.CreateOptions{Fork: &runnel.ForkFrom{Source: at("s/g"), Latest: true}})
		if err := w.Delete(ctx, at("s/g")); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if news := strings.Join(w.followed(triggerPlace), ", "); news != "g/a create, g is gone" {
				t.Fatal(news)
			}
			if err := w.Delete(ctx, at("forks/f")); err != nil && !errors.Is(err, runnel.ErrNotFound) {
				t.Fatal(err)
			}
			pass(time.Minute)
		}
		w.come(triggerPlace, w.head())
		pass(time.Minute)
		if items, err := w.Items(ctx, at("s/g"), runnel.ItemQuery{}); !errors.Is(err, runnel.ErrNotFound) {
			t.Fatalf("%v, %v", items, err)
		}
	})
}

func TestOnlyWhoHasAPlaceFollows(t *testing.T) {
	w := inMemory(t)
	w.set("s/g", "a", "1")
	for name, c := range map[string]struct {
		place runnel.CursorName
		after runnel.Position
		want  error
	}{
		"no cursor":                  {runnel.CursorName{Space: triggerPlace.Space, Name: "none"}, 1, runnel.ErrNotFound},
		"one of a group":             {runnel.CursorName{Space: triggerPlace.Space, Segment: "g", Name: "c"}, 1, runnel.ErrInvalid},
		"from before the stored one": {triggerPlace, 0, runnel.ErrInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			w.come(triggerPlace, 1)
			if _, err := w.Transact(ctx, triggerPlace.Space, runnel.Transaction{Cursors: []runnel.CursorMove{{Segment: "g", Name: "c", Place: 1}}}); err != nil {
				t.Fatal(err)
			}
			for _, err := range w.FollowItems(ctx, c.place, "", c.after) {
				if !errors.Is(err, c.want) {
					t.Fatalf("%v, want %v", err, c.want)
				}
				return
			}
			t.Fatal("it ended")
		})
	}
}

func TestWhoFollowsASpaceIsToldThatHistoryIsGone(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, new(memory.Driver), engine.Config{ItemHistory: time.Hour})
		defer w.Close()
		w.outgrown("s/g")
		pass(2 * time.Hour)
		if _, err := w.told("s", 3); !errors.Is(err, runnel.ErrTrimmed) {
			t.Fatalf("%v", err)
		}
		v, err := w.SpaceItems(ctx, at("s/g").In(), "", runnel.ItemQuery{})
		if err != nil {
			t.Fatal(err)
		}
		w.set("s/g", "b", "3")
		if news, err := w.told("s", v.At); err != nil || fmt.Sprint(news) != "[g/b update]" {
			t.Fatalf("%q, %v", news, err)
		}
	})
}

// Stamps run ahead of the clock where changes come faster than milliseconds. A group that is made again goes on
// after those of the one before, also after a crash.
func TestStampsIncreaseOverDeletions(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, new(memory.Driver), engine.Config{})
		defer func() { _ = w.Close() }()
		latest := int64(0)
		for range 3 {
			for i := range 500 {
				w.set("s/g", "a", fmt.Sprint(i))
			}
			v, err := w.Items(ctx, at("s/g"), runnel.ItemQuery{})
			if err != nil {
				t.Fatal(err)
			}
			if first := v.Stamp(1); first <= latest {
				t.Fatalf("a group that was made again is stamped %d, after %d", first, latest)
			}
			latest = v.Stamp(v.Tail) + 1
			if err := w.Delete(ctx, at("s/g")); err != nil {
				t.Fatal(err)
			}
			gone := int64(0)
			for b, err := range w.TailSpaceItems(ctx, at("s/g").In(), "", 0) {
				if err != nil {
					t.Fatal(err)
				}
				if gone = b.Stamp; b.Deleted && b.ID == v.ID {
					break
				}
			}
			if gone <= latest {
				t.Fatalf("the deletion is stamped %d, after %d", gone, latest)
			}
			latest = gone + 1
			w.crash()
			w.create("s/g", runnel.CreateOptions{Items: true})
			empty, err := w.Items(ctx, at("s/g"), runnel.ItemQuery{})
			if err != nil || empty.Stamp(0)+1 <= latest {
				t.Fatalf("an empty group is stamped %d, after %d, %v", empty.Stamp(0)+1, latest, err)
			}
			w.crash()
		}
	})
}

// Nothing follows the end of a closed group, so nothing of it can change any more: an item whose time is over
// stays, in the table as in the log.
func TestAClosedGroupIsFrozen(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, new(memory.Driver), engine.Config{})
		defer w.Close()
		if _, err := w.WriteItems(ctx, at("s/g").In(), runnel.ItemWrites{Segment: "g", Writes: []runnel.ItemWrite{
			{ItemKey: runnel.ItemKey{Key: "a"}, Value: []byte("1"), TTL: time.Minute},
			{ItemKey: runnel.ItemKey{Key: "b"}, Value: []byte("2"), TTL: time.Hour},
		}}); err != nil {
			t.Fatal(err)
		}
		pass(2 * time.Minute)
		if _, err := w.tryAppend("s/g", runnel.AppendOptions{Close: true}); err != nil {
			t.Fatal(err)
		}
		const want = "@3 b=2#2"
		w.wantTable("s/g", want)
		pass(48 * time.Hour)
		for range 2 {
			w.wantTable("s/g", want)
			if it, err := w.Item(ctx, at("s/g"), runnel.ItemKey{Key: "b"}); err != nil || string(it.Value) != "2" {
				t.Fatalf("%+v, %v", it, err)
			}
			f := w.mirror("s/g")
			if err := f.catchUp(); err != nil || fmt.Sprint(f.items) != "map[b:2]" {
				t.Fatalf("%v, %v", f.items, err)
			}
			w.reopen()
		}
		if err := w.Delete(ctx, at("s/g")); err != nil {
			t.Fatal(err)
		}
	})
}

func TestChangesOfADeletedGroupAreNotStampedAfterTheNext(t *testing.T) {
	for n := range 8 { // the group is made anew while the watcher looks at the space for the nth time
		bubble(t, func(t *testing.T) {
			w := newWorld(t, &memory.Driver{Shared: true}, engine.Config{SweepInterval: -1})
			defer w.Close()
			other := newWorld(t, w.kept, engine.Config{SweepInterval: -1})
			defer other.Close()
			for range 5 {
				w.set("s/g", "k", "1", "l", "2")
			}
			old, err := w.Stat(ctx, at("s/g"))
			if err != nil {
				t.Fatal(err)
			}
			read := make(chan struct{}) // until then what the old group has on storage stays
			cleaning := func(c faulty.Call) bool {
				return c.Op == faulty.Scan && !c.Range.Reverse && c.Range.Limit > 1 && len(c.Range.From) >= 9 && binary.BigEndian.Uint64(c.Range.From[1:]) == old.ID
			}
			other.driver.SetRules(faulty.Rule{When: cleaning, Then: faulty.Wait(func(context.Context) error {
				<-read
				return nil
			}, letThrough)})
			looks := 0
			nth := func(c faulty.Call) bool {
				if c.Op != faulty.Guard {
					return false
				}
				looks++
				return looks == n+1
			}
			w.driver.SetRules(faulty.Rule{When: nth, Then: faulty.Wait(func(context.Context) error {
				w.driver.SetRules()
				if err := other.Delete(ctx, at("s/g")); err != nil {
					return err
				}
				other.set("s/g", "k", "3")
				return nil
			}, letThrough)})
			var gone, last int64
			ctx, cancel := context.WithTimeout(ctx, time.Minute)
			defer cancel()
			for b, err := range w.TailItems(ctx, at("s/g"), old.ID, 0) {
				if err != nil {
					break
				}
				for _, c := range b.Changes {
					last = max(last, c.Stamp)
				}
			}
			w.driver.SetRules()
			close(read)
			for b, err := range other.TailSpaceItems(ctx, at("s/g").In(), "", 0) {
				if err != nil || b.Deleted {
					gone = b.Stamp
					break
				}
			}
			if last > gone {
				t.Errorf("a change that came before the deletion is stamped %d, and that %d", last, gone)
			}
		})
	}
}
