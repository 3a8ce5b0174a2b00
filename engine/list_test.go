package engine_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/engine"
	"github.com/runnelhq/runnel/storage/memory"
)

func (w *world) list(o runnel.ListOptions) []string {
	w.t.Helper()
	var all []string
	for info, err := range w.List(ctx, runnel.Store{}, o) {
		if err != nil {
			w.t.Fatal(err)
		}
		all = append(all, info.Segment.Path())
	}
	return all
}

// listed is the order of a listing: by space, then by name, both bytewise.
func listed(paths []string) []string {
	sorted := slices.Clone(paths)
	slices.SortFunc(sorted, func(a, b string) int {
		x, y := at(a), at(b)
		return strings.Compare(x.Space+"\x00"+x.Name, y.Space+"\x00"+y.Name)
	})
	return sorted
}

var manyPaths = []string{
	"a", "b", "a-b", "ab", "z", "é",
	"a/b", "a/bc", "a/z", "a/b/c", "a/b/d", "a/bc/d", "a!/x", "a0/x", "ab/x", "b/a", "é/a", "a/b/c/d", "zz/top", " /x", "a/ ",
}

func TestListYieldsBySpaceAndName(t *testing.T) {
	w := inMemory(t)
	for _, path := range manyPaths {
		w.create(path, runnel.CreateOptions{}, path)
	}
	for range 2 {
		if got, want := w.list(runnel.ListOptions{}), listed(manyPaths); !slices.Equal(got, want) {
			t.Fatalf("%q, want %q", got, want)
		}
		for info, err := range w.List(ctx, runnel.Store{}, runnel.ListOptions{}) {
			if err != nil || info != w.stat(info.Segment.Path()) {
				t.Fatalf("%+v, %v", info, err)
			}
		}
		w.crash()
	}
}

func TestListByPrefixAfterAndLimit(t *testing.T) {
	w := inMemory(t)
	for _, path := range manyPaths {
		w.create(path, runnel.CreateOptions{})
	}
	all := listed(manyPaths)
	prefixes := []string{"", "a", "a/", "a/b", "a/b/", "a/b/c", "a/b/c/", "a!", "ab", "b", "z", "zz", "zz/", "none", "é", "a/bc", "a-", " ", "/"}
	afters := append([]string{"", "0", "a/", "a/b/cc", "none/at/all", "~", "b/", "zzz/zzz", "~/~"}, manyPaths...)
	for _, prefix := range prefixes {
		for _, after := range afters {
			var want, direct []string
			for _, path := range all {
				space, name := "", after
				if i := strings.LastIndexByte(after, '/'); i >= 0 {
					space, name = after[:i], after[i+1:]
				}
				seg := at(path)
				if strings.HasPrefix(path, prefix) && (after == "" || seg.Space > space || seg.Space == space && seg.Name > name) {
					want = append(want, path)
					if !strings.Contains(path[len(prefix):], "/") {
						direct = append(direct, path)
					}
				}
			}
			if got := w.list(runnel.ListOptions{Prefix: prefix, Direct: true, After: after}); !slices.Equal(got, direct) {
				t.Errorf("directly under prefix %q after %q: %q, want %q", prefix, after, got, direct)
			}
			for _, limit := range []int{0, 1, 3, 1000} {
				want := want
				if limit > 0 {
					want = want[:min(limit, len(want))]
				}
				if got := w.list(runnel.ListOptions{Prefix: prefix, After: after, Limit: limit}); !slices.Equal(got, want) {
					t.Errorf("prefix %q after %q limit %d: %q, want %q", prefix, after, limit, got, want)
				}
			}
		}
	}
}

func TestListPagesOverManySegments(t *testing.T) {
	w := newWorld(t, new(memory.Driver), engine.Config{MaxSegments: 20})
	var want []string
	for i := range 700 {
		path := fmt.Sprintf("s/%04d", i)
		w.create(path, runnel.CreateOptions{})
		want = append(want, path)
	}
	if got := w.list(runnel.ListOptions{}); !slices.Equal(got, want) {
		t.Fatalf("%d listed, want %d", len(got), len(want))
	}
	var got []string
	after := ""
	for {
		page := w.list(runnel.ListOptions{After: after, Limit: 99})
		if len(page) == 0 {
			break
		}
		got = append(got, page...)
		after = page[len(page)-1]
		w.delete(after) // it need not be there any more
	}
	if !slices.Equal(got, want) {
		t.Fatalf("%d listed, want %d", len(got), len(want))
	}
}

func TestListLeavesOutWhatIsGone(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, new(memory.Driver), engine.Config{SweepInterval: -1})
		w.create("s/stays", runnel.CreateOptions{})
		w.create("s/deleted", runnel.CreateOptions{})
		w.create("s/source", runnel.CreateOptions{}, "x")
		w.create("s/expired", runnel.CreateOptions{TTL: time.Second})
		w.fork("s/fork", "s/source", 1)
		w.delete("s/deleted")
		w.delete("s/source")
		pass(time.Minute)
		if got := w.list(runnel.ListOptions{}); !slices.Equal(got, []string{"s/fork", "s/stays"}) {
			t.Fatalf("%q", got)
		}
	})
}

func TestListShowsOnlyWhatIsDurable(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := inMemory(t)
		w.create("s/a", runnel.CreateOptions{})
		w.create("s/b", runnel.CreateOptions{}, "x")
		release := w.blocked("s")
		e := w.Engine
		results := []<-chan error{
			later(func() error { _, err := w.tryCreate("s/c", runnel.CreateOptions{}); return err }),
			later(func() error { return e.Delete(ctx, at("s/a")) }),
			later(func() error { _, err := w.tryAppend("s/b", runnel.AppendOptions{}, "y"); return err }),
		}
		for _, one := range results {
			pending(t, one, "a write")
		}
		got := later(func() string {
			var all string
			for info, err := range e.List(ctx, runnel.Store{}, runnel.ListOptions{}) {
				all += fmt.Sprint(info.Segment, " ", info.Tail, " ", err, "; ")
			}
			return all
		})
		pass(time.Minute)
		select {
		case all := <-got:
			if all != "s/a 0 <nil>; s/b 1 <nil>; " {
				t.Errorf("%s", all)
			}
		default:
			release() // it waits for what it has read to become durable
			if all := <-got; all != "s/b 2 <nil>; s/c 0 <nil>; " && all != "s/b 2 <nil>; " {
				t.Errorf("%s", all)
			}
			return
		}
		release()
	})
}

func TestListWaitsForADeletionThatStorageAlreadyShows(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w, cache := onDisk(t)
		w.create("s/a", runnel.CreateOptions{})
		w.create("s/b", runnel.CreateOptions{})
		cache.Hold()
		deleted := later(func() error { return w.Delete(ctx, at("s/a")) })
		pending(t, deleted, "the deletion")
		e := w.Engine
		listed := later(func() (all []string) {
			for info, err := range e.List(ctx, runnel.Store{}, runnel.ListOptions{}) {
				all = append(all, fmt.Sprint(info.Segment, err))
			}
			return all
		})
		synctest.Wait()
		select {
		case all := <-listed:
			if len(all) != 2 {
				t.Errorf("%q", all)
			}
			cache.Release()
		default:
			cache.Release()
			if all := <-listed; len(all) != 1 {
				t.Errorf("%q", all)
			}
		}
		wantError(t, <-deleted, nil)
	})
}

func TestListStopsWhenTheConsumerDoes(t *testing.T) {
	w := inMemory(t)
	for i := range 10 {
		w.create(fmt.Sprint(i), runnel.CreateOptions{})
	}
	n := 0
	for range w.List(ctx, runnel.Store{}, runnel.ListOptions{}) {
		if n++; n == 3 {
			break
		}
	}
	gone, giveUp := context.WithCancel(ctx)
	giveUp()
	failed := false
	for _, err := range w.List(gone, runnel.Store{}, runnel.ListOptions{}) {
		failed = failed || err != nil
	}
	if !failed {
		t.Error("a listing that was given up ends without an error")
	}
}

func TestAListCanBeGoneOverAgain(t *testing.T) {
	w := inMemory(t)
	s := runnel.Space{Name: "s"}
	w.create("s/a", runnel.CreateOptions{}, "1")
	for _, key := range []string{"1", "2"} {
		if _, err := w.AcquireLease(ctx, s, runnel.LeaseRequest{Key: key, Holder: "h", TTL: time.Hour}); err != nil {
			t.Fatal(err)
		}
		move := runnel.CursorMove{Name: key, Place: 1}
		if _, err := w.Transact(ctx, s, runnel.Transaction{Cursors: []runnel.CursorMove{move}}); err != nil {
			t.Fatal(err)
		}
	}
	leases, cursors, spaces := w.Leases(ctx, s, "", ""), w.Cursors(ctx, s, "", "", ""), w.Spaces(ctx, runnel.Store{}, "", "")
	for range 2 {
		n := 0
		for range leases {
			n++
		}
		for range cursors {
			n++
		}
		for range spaces {
			n++
		}
		if n != 5 {
			t.Fatalf("%d, want two leases, two cursors and a space", n)
		}
	}
}
