package engine_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/engine"
	"github.com/runnelhq/runnel/storage"
	"github.com/runnelhq/runnel/storage/faulty"
	"github.com/runnelhq/runnel/storage/memory"
)

func forkOf(source string, after runnel.Sequence, sub uint64) runnel.CreateOptions {
	return runnel.CreateOptions{Fork: &runnel.ForkFrom{Source: at(source), At: after, Sub: sub}}
}

var bytesType, jsonType = runnel.CreateOptions{ContentType: "text/plain"}, runnel.CreateOptions{ContentType: "application/json"}

func TestAForkBeginsWithItsSourceAndGoesItsOwnWay(t *testing.T) {
	for _, path := range []string{"s/fork", "other/fork", "fork"} {
		t.Run(path, func(t *testing.T) {
			w := inMemory(t)
			w.create("s/a", bytesType, "one", "two", "three")
			info := w.fork(path, "s/a", 2, "mine")
			if info.Tail != 3 || info.Earliest != 0 || info.Bytes != 10 || info.ContentType != "text/plain" || info.Closed {
				t.Fatalf("%+v", info)
			}
			w.append("s/a", "four")
			w.append(path, "my own")
			for range 2 {
				w.want(path, "one", "two", "mine", "my own")
				w.wantFrom(path, 1, "two", "mine", "my own")
				w.wantFrom(path, 2, "mine", "my own")
				w.wantFrom(path, 4)
				w.want("s/a", "one", "two", "three", "four")
				w.reopen()
			}
		})
	}
}

func TestAForkBranchesOffWhereItIsTold(t *testing.T) {
	for _, tc := range []struct {
		name   string
		source runnel.CreateOptions
		o      runnel.ForkFrom
		want   []string
		err    error
	}{
		{"at the beginning", bytesType, runnel.ForkFrom{}, nil, nil},
		{"after an entry", bytesType, runnel.ForkFrom{At: 2}, []string{"aaa", "bb"}, nil},
		{"after the last entry", bytesType, runnel.ForkFrom{At: 4}, []string{"aaa", "bb", "", "cccc"}, nil},
		{"at the tail", bytesType, runnel.ForkFrom{Latest: true}, []string{"aaa", "bb", "", "cccc"}, nil},
		{"beyond the tail", bytesType, runnel.ForkFrom{At: 5}, nil, runnel.ErrBeyondTail},
		{"inside the first entry", bytesType, runnel.ForkFrom{Sub: 2}, []string{"aa"}, nil},
		{"as far as an entry reaches", bytesType, runnel.ForkFrom{Sub: 3}, []string{"aaa"}, nil},
		{"inside an entry further on", bytesType, runnel.ForkFrom{Sub: 4}, []string{"aaa", "b"}, nil},
		{"over an empty entry", bytesType, runnel.ForkFrom{At: 2, Sub: 1}, []string{"aaa", "bb", "", "c"}, nil},
		{"all bytes", bytesType, runnel.ForkFrom{Sub: 9}, []string{"aaa", "bb", "", "cccc"}, nil},
		{"a byte too many", bytesType, runnel.ForkFrom{Sub: 10}, nil, runnel.ErrInvalid},
		{"a byte too many after an entry", bytesType, runnel.ForkFrom{At: 4, Sub: 1}, nil, runnel.ErrInvalid},
		{"very many bytes", bytesType, runnel.ForkFrom{At: 1, Sub: 1<<64 - 1}, nil, runnel.ErrInvalid},
		{"messages", jsonType, runnel.ForkFrom{Sub: 2}, []string{"aaa", "bb"}, nil},
		{"messages after an entry", jsonType, runnel.ForkFrom{At: 1, Sub: 3}, []string{"aaa", "bb", "", "cccc"}, nil},
		{"a message too many", jsonType, runnel.ForkFrom{At: 1, Sub: 4}, nil, runnel.ErrInvalid},
		{"very many messages", jsonType, runnel.ForkFrom{At: 1, Sub: 1<<64 - 1}, nil, runnel.ErrInvalid},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := inMemory(t)
			w.create("a", tc.source, "aaa", "bb")
			w.append("a", "", "cccc")
			tc.o.Source = at("a")
			_, err := w.tryCreate("fork", runnel.CreateOptions{Fork: &tc.o}, "mine")
			if tc.err != nil {
				wantError(t, err, tc.err)
				wantError(t, w.statErr("fork"), runnel.ErrNotFound)
				w.delete("a")
				wantError(t, w.statErr("a"), runnel.ErrNotFound) // and not kept for a fork that is not there
				return
			}
			wantError(t, err, nil)
			want := append(slices.Clone(tc.want), "mine")
			for range 2 {
				w.want("fork", want...)
				if got := w.stat("fork").Bytes; got != uint64(len(strings.Join(want, ""))) {
					t.Errorf("%d bytes", got)
				}
				w.reopen()
			}
		})
	}
}

func TestAPlaceInsideAnEntryKeepsItsMetadata(t *testing.T) {
	w := inMemory(t)
	w.create("a", bytesType)
	if _, err := w.Append(ctx, at("a"), runnel.AppendOptions{}, runnel.Record{Payload: []byte("abc"), Metadata: map[string]string{"k": "v"}}); err != nil {
		t.Fatal(err)
	}
	w.create("fork", forkOf("a", 0, 1))
	got, err := w.readErr("fork", 0)
	if err != nil || len(got) != 1 || string(got[0].Payload) != "a" || got[0].Metadata["k"] != "v" {
		t.Fatalf("%+v, %v", got, err)
	}
}

func TestAChainOfForksReadsThroughAllOfThem(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := inMemory(t)
		w.cfg.TailCacheBytes = 1 // from storage
		w.reopen()
		w.create("s0/f", runnel.CreateOptions{}, "0a", "0b")
		want := []string{"0a", "0b"}
		for i := 1; i <= 5; i++ {
			mine := []string{fmt.Sprint(i, "a"), fmt.Sprint(i, "b")}
			w.fork(fmt.Sprintf("s%d/f", i), fmt.Sprintf("s%d/f", i-1), runnel.Sequence(len(want)), mine...)
			want = append(want, mine...)
		}
		// Deleted from the source on: all of them stay for the last.
		for i := range 5 {
			w.delete(fmt.Sprintf("s%d/f", i))
			wantError(t, w.statErr(fmt.Sprintf("s%d/f", i)), runnel.ErrSoftDeleted)
		}
		pass(time.Hour)
		w.crash()
		for from := range want {
			w.wantFrom("s5/f", runnel.Sequence(from), want[from:]...)
		}
		w.append("s5/f", "last")
		w.want("s5/f", append(slices.Clone(want), "last")...)

		// And with the last all of them go.
		w.delete("s5/f")
		pass(time.Minute)
		for i := range 6 {
			space := fmt.Sprintf("s%d", i)
			wantError(t, w.statErr(space+"/f"), runnel.ErrNotFound)
			w.wantRows(space, map[string]int{"e": 0, "m": 0, "r": 0, "o": 0, "t": 0, "s": 0})
		}
		w.create("s0/f", runnel.CreateOptions{}, "anew")
		w.want("s0/f", "anew")
	})
}

func TestTheChainIsTakenBackAlsoAfterACrash(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := inMemory(t)
		w.create("s0/f", runnel.CreateOptions{}, "x")
		for i := 1; i <= 3; i++ {
			w.fork(fmt.Sprintf("s%d/f", i), fmt.Sprintf("s%d/f", i-1), 1)
			w.delete(fmt.Sprintf("s%d/f", i-1))
		}
		w.delete("s3/f")
		w.crash()
		pass(time.Hour)
		for i := range 4 {
			w.wantRows(fmt.Sprintf("s%d", i), map[string]int{"e": 0, "m": 0, "r": 0, "o": 0, "t": 0})
		}
	})
}

func TestASourceStaysForTheLastOfItsForks(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := inMemory(t)
		w.cfg.TailCacheBytes = 1
		w.reopen()
		w.create("a", runnel.CreateOptions{}, "x")
		for i := range 3 {
			w.fork(fmt.Sprint("s/", i), "a", 1)
		}
		w.delete("a")
		for i := range 3 {
			for k := i; k < 3; k++ {
				w.want(fmt.Sprint("s/", k), "x")
			}
			wantError(t, w.statErr("a"), runnel.ErrSoftDeleted)
			w.delete(fmt.Sprint("s/", i))
			pass(time.Minute)
			w.crash()
		}
		wantError(t, w.statErr("a"), runnel.ErrNotFound)
		w.wantRows("", map[string]int{"e": 0, "r": 0, "m": 0})
	})
}

func TestAForkOfAForkInsideWhatIsInheritedDoesNotNeedTheMiddle(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := inMemory(t)
		w.create("a", runnel.CreateOptions{}, "1", "2", "3", "4")
		w.fork("b", "a", 3, "b4", "b5")
		w.fork("c", "b", 2, "c3")
		w.fork("d", "b", 0, "d1")
		w.fork("e", "c", 2)
		for range 2 {
			w.want("b", "1", "2", "3", "b4", "b5")
			w.want("c", "1", "2", "c3")
			w.want("d", "d1")
			w.want("e", "1", "2")
			w.crash()
		}
		w.delete("b")
		w.delete("a")
		pass(time.Hour)
		w.want("c", "1", "2", "c3")
		w.want("e", "1", "2")
		for _, path := range []string{"c", "d", "e"} {
			w.delete(path)
		}
		pass(time.Hour)
		w.wantRows("", map[string]int{"e": 0, "m": 0, "r": 0, "o": 0, "t": 0})
	})
}

func TestASoftDeletedSourceHoldsItsName(t *testing.T) {
	w := inMemory(t)
	w.create("a", runnel.CreateOptions{}, "x")
	w.fork("fork", "a", 1)
	w.delete("a")
	for range 2 {
		_, create := w.tryCreate("a", runnel.CreateOptions{})
		_, fork := w.tryCreate("another", forkOf("a", 1, 0))
		_, onto := w.tryCreate("a", forkOf("fork", 1, 0))
		_, read := w.readErr("a", 0)
		_, add := w.tryAppend("a", runnel.AppendOptions{}, "x")
		_, wait := w.Wait(ctx, at("a"), 0, 1)
		for i, err := range []error{create, fork, onto, read, add, wait, w.statErr("a"), w.Delete(ctx, at("a"))} {
			if e := as[*runnel.SoftDeletedError](t, err); e.Segment != at("a") {
				t.Errorf("%d: %v", i, err)
			}
		}
		for info, err := range w.List(ctx, runnel.Store{}, runnel.ListOptions{}) {
			if err != nil || info.Segment != at("fork") {
				t.Errorf("listed: %+v, %v", info, err)
			}
		}
		w.want("fork", "x")
		w.crash()
	}
}

func TestASourceLivesOnWhenItsForksGo(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := inMemory(t)
		w.create("a", runnel.CreateOptions{}, "x")
		for range 3 {
			w.fork("fork", "a", 1, "mine")
			w.delete("fork")
			pass(time.Minute)
		}
		w.want("a", "x")
		w.wantRows("", map[string]int{"e": 1, "r": 0, "o": 0, "m": 1, "t": 0})
		w.delete("a")
		wantError(t, w.statErr("a"), runnel.ErrNotFound)
	})
}

func TestAForkOfAClosedSegmentIsOpen(t *testing.T) {
	w := inMemory(t)
	w.create("a", runnel.CreateOptions{Closed: true}, "x")
	w.fork("fork", "a", 1)
	w.append("fork", "mine")
	w.want("fork", "x", "mine")
	if w.stat("fork").Closed {
		t.Error("closed")
	}
}

func TestAForkInheritsNothingOfItsSourcesWriters(t *testing.T) {
	w := inMemory(t)
	w.create("a", runnel.CreateOptions{})
	o := producing("p", 3, 0)
	o.HasStreamSeq, o.StreamSeq = true, "z"
	if _, err := w.tryAppend("a", o, "x"); err != nil {
		t.Fatal(err)
	}
	w.fork("fork", "a", 1)
	o.Producer.Epoch, o.StreamSeq = 0, "a"
	if got, err := w.tryAppend("fork", o, "by p"); err != nil || got.Duplicate {
		t.Fatalf("%+v, %v", got, err)
	}
	w.want("fork", "x", "by p")
}

func TestAForksContentTypeIsItsSources(t *testing.T) {
	w := inMemory(t)
	w.create("a", runnel.CreateOptions{ContentType: "text/plain; charset=utf-8"}, "x")
	o := forkOf("a", 1, 0)
	o.ContentType = "text/html"
	_, err := w.tryCreate("fork", o)
	if e := as[*runnel.ContentTypeError](t, err); e.Have != "text/plain; charset=utf-8" || e.Got != "text/html" {
		t.Errorf("%+v", e)
	}
	o.ContentType = "TEXT/plain"
	if got := w.create("fork", o).ContentType; got != "TEXT/plain" {
		t.Errorf("%q", got)
	}
}

func TestAForksLifetimeFollowsTheTable(t *testing.T) {
	// Source: PROTOCOL.md, section 4.2.
	bubble(t, func(t *testing.T) {
		soon, late := time.Now().Add(time.Hour), time.Now().Add(2*time.Hour)
		type o = runnel.CreateOptions
		for _, tc := range []struct{ source, fork, want o }{
			{o{}, o{}, o{}},
			{o{}, o{TTL: time.Minute}, o{TTL: time.Minute}},
			{o{}, o{ExpiresAt: soon}, o{ExpiresAt: soon}},
			{o{TTL: time.Minute}, o{}, o{TTL: time.Minute}},
			{o{TTL: time.Minute}, o{TTL: time.Hour}, o{TTL: time.Hour}},
			{o{TTL: time.Minute}, o{ExpiresAt: soon}, o{ExpiresAt: soon}},
			{o{ExpiresAt: soon}, o{}, o{ExpiresAt: soon}},
			{o{ExpiresAt: soon}, o{TTL: time.Minute}, o{TTL: time.Minute}},
			{o{ExpiresAt: soon}, o{ExpiresAt: late}, o{ExpiresAt: late}},
		} {
			w := inMemory(t)
			w.create("a", tc.source, "x")
			tc.fork.Fork = &runnel.ForkFrom{Source: at("a"), At: 1}
			got := w.create("fork", tc.fork)
			if got.TTL != tc.want.TTL || !got.ExpiresAt.Equal(tc.want.ExpiresAt) {
				t.Errorf("%+v of %+v: %+v", tc.fork, tc.source, got)
			}
			if again, err := w.tryCreate("fork", tc.fork); err != nil || !again.Existed {
				t.Errorf("%+v of %+v is not found again: %v", tc.fork, tc.source, err)
			}
		}
	})
}

func TestAnExpiredSourceIsKeptForItsForks(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := inMemory(t)
		w.create("a", runnel.CreateOptions{TTL: time.Minute}, "x", "y")
		o := forkOf("a", 2, 0)
		o.ExpiresAt = time.Now().Add(24 * time.Hour)
		w.create("other/fork", o, "z")
		pass(2 * time.Minute)
		for range 2 {
			wantError(t, w.statErr("a"), runnel.ErrSoftDeleted)
			_, err := w.tryCreate("a", runnel.CreateOptions{})
			wantError(t, err, runnel.ErrSoftDeleted)
			w.want("other/fork", "x", "y", "z")
			w.crash()
			pass(time.Hour)
		}
		pass(25 * time.Hour)
		wantError(t, w.statErr("other/fork"), runnel.ErrNotFound)
		wantError(t, w.statErr("a"), runnel.ErrNotFound)
		for _, space := range []string{"", "other"} {
			w.wantRows(space, map[string]int{"e": 0, "m": 0, "r": 0, "o": 0, "t": 0, "x": 0})
		}
	})
}

func TestAnExpirySeenByACreationHolds(t *testing.T) {
	// With forks of it, an expired segment is in the way. Whoever was told so is told so after a crash.
	bubble(t, func(t *testing.T) {
		w := inMemory(t)
		w.cfg.SweepInterval = -1
		w.reopen()
		w.create("a", runnel.CreateOptions{TTL: 80 * time.Second}, "x")
		o := forkOf("a", 1, 0)
		o.TTL = time.Hour
		w.create("fork", o)
		pass(80 * time.Second)
		_, err := w.tryCreate("a", forkOf("fork", 0, 0))
		wantError(t, err, runnel.ErrSoftDeleted)
		w.crash()
		wantError(t, w.statErr("a"), runnel.ErrSoftDeleted)
	})
}

func TestAForkOfARecreatedNameReadsTheNewOne(t *testing.T) {
	w := inMemory(t)
	w.create("a", runnel.CreateOptions{}, "old")
	w.delete("a")
	w.create("a", runnel.CreateOptions{}, "new")
	w.fork("fork", "a", 1)
	w.want("fork", "new")
}

func TestAForkOfWhatRetentionHasCutBeginsThere(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := inMemory(t)
		w.create("a", runnel.CreateOptions{Retention: runnel.Retention{Entries: 3}}, "1", "2", "3", "4", "5")
		_, err := w.tryCreate("fork", forkOf("a", 1, 0))
		if e := as[*runnel.TrimmedError](t, err); e.Earliest != 2 || e.From != 1 {
			t.Errorf("%+v", e)
		}
		o := forkOf("a", 4, 0)
		o.Retention.Entries = 100
		info := w.create("fork", o, "mine")
		if info.Earliest != 2 || info.Tail != 5 {
			t.Fatalf("%+v", info)
		}
		for range 2 {
			w.wantFrom("fork", 2, "3", "4", "mine")
			_, err = w.readErr("fork", 1)
			wantError(t, err, runnel.ErrTrimmed)
			w.crash()
		}
		w.append("a", "6", "7", "8")
		w.want("a", "6", "7", "8")
		pass(time.Minute)
		w.wantFrom("fork", 2, "3", "4", "mine")

		// The entries that only the fork reads go with it.
		w.delete("fork")
		pass(time.Minute)
		w.wantRows("", map[string]int{"e": 1, "r": 0})
		w.want("a", "6", "7", "8")
	})
}

func TestAForksRetentionCutsWhatItInherits(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := inMemory(t)
		w.create("a", runnel.CreateOptions{}, "1", "22", "3")
		w.append("a", "4", "5")
		o := forkOf("a", 5, 0)
		o.Retention.Entries = 3
		w.create("s/fork", o)
		w.want("s/fork", "3", "4", "5")
		w.append("s/fork", "6")
		w.want("s/fork", "4", "5", "6")
		o.Retention = runnel.Retention{Bytes: 4}
		w.create("s/bytes", o)
		w.want("s/bytes", "3", "4", "5")
		pass(time.Minute)
		w.want("a", "1", "22", "3", "4", "5")
		w.crash()
		w.want("s/fork", "4", "5", "6")
		w.want("s/bytes", "3", "4", "5")
	})
}

func TestAForkInheritsRetention(t *testing.T) {
	w := inMemory(t)
	w.create("a", runnel.CreateOptions{Retention: runnel.Retention{Bytes: 3}}, "1", "2", "3")
	if got := w.fork("fork", "a", 3).Retention; got.Bytes != 3 {
		t.Errorf("%+v", got)
	}
	w.append("fork", "4")
	w.want("fork", "2", "3", "4")
	_, err := w.tryCreate("full", forkOf("a", 3, 0), "four")
	wantError(t, err, runnel.ErrTooLarge)
}

func TestTrimmingWaitsForAForkOnItsWay(t *testing.T) {
	// The fork's claim on its source is staged and not yet durable when retention cuts the source.
	bubble(t, func(t *testing.T) {
		w := inMemory(t)
		w.cfg.TailCacheBytes = 1
		w.reopen()
		w.create("a", runnel.CreateOptions{Retention: runnel.Retention{Age: time.Hour}}, "1", "2")
		w.append("a", "3")
		pass(time.Hour - time.Second)
		release := w.blocked("")
		forked := later(func() error {
			o := forkOf("a", 3, 0)
			o.Retention.Age = 100 * time.Hour
			_, err := w.tryCreate("s/fork", o)
			return err
		})
		pending(t, forked, "the fork")
		pass(2 * time.Second)
		if got := w.stat("a").Earliest; got != 3 {
			t.Fatalf("earliest %d", got)
		}
		pass(time.Second)
		release()
		wantError(t, <-forked, nil)
		pass(time.Minute)
		info := w.stat("s/fork")
		w.wantFrom("s/fork", info.Earliest, []string{"1", "2", "3"}[info.Earliest:]...)
	})
}

func TestAClaimWhoseForkNeverCameIsTakenBack(t *testing.T) {
	for _, deleted := range []bool{false, true} {
		t.Run(fmt.Sprintf("source deleted: %v", deleted), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := inMemory(t)
				w.create("a", runnel.CreateOptions{}, "x")
				// The process dies between the two commits: the second one never reaches storage.
				w.driver.SetRules(faulty.Rule{
					When: func(c faulty.Call) bool { return c.Op == faulty.Commit && c.Partition.Name == "s" },
					Then: faulty.Before(storage.ErrFailed),
				})
				_, err := w.tryCreate("s/fork", forkOf("a", 1, 0))
				wantError(t, err, runnel.ErrFailed)
				w.crash()
				w.wantRows("", map[string]int{"r": 1})
				if deleted {
					w.delete("a")
					wantError(t, w.statErr("a"), runnel.ErrSoftDeleted)
				}
				pass(10 * time.Minute)
				w.wantRows("", map[string]int{"r": 0})
				if !deleted {
					w.want("a", "x")
					w.delete("a")
				}
				pass(time.Minute)
				wantError(t, w.statErr("a"), runnel.ErrNotFound)
				w.wantRows("", map[string]int{"e": 0, "m": 0, "t": 0})
			})
		})
	}
}

func TestAForkThatIsSlowToComeKeepsItsClaim(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := inMemory(t)
		w.cfg.TailCacheBytes = 1
		w.reopen()
		w.create("a", runnel.CreateOptions{}, "x")
		release := w.blocked("s")
		forked := later(func() error {
			_, err := w.tryCreate("s/fork", forkOf("a", 1, 0))
			return err
		})
		pending(t, forked, "the fork")
		pass(10 * time.Minute)
		release()
		wantError(t, <-forked, nil)
		w.delete("a")
		pass(10 * time.Minute)
		w.want("s/fork", "x")
	})
}

func TestAForkIsNotMadeOnAClaimThatIsTooOld(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, new(memory.Driver), engine.Config{TailCacheBytes: 1})
		w.create("a", runnel.CreateOptions{}, "x")
		// The claim is durable for a long time before anybody is told.
		claim := w.driver.Calls(faulty.Commit) + 1
		w.driver.SetRules(faulty.Rule{When: faulty.Nth(faulty.Commit, claim), Then: faulty.WaitAfter(func(context.Context) error {
			time.Sleep(10 * time.Minute) //nolint:forbidigo // in a bubble
			return nil
		}, faulty.Through)})
		forked := later(func() error { _, err := w.tryCreate("s/fork", forkOf("a", 1, 0)); return err })
		err := <-forked
		w.delete("a")
		pass(10 * time.Minute)
		if err == nil {
			w.want("s/fork", "x")
			return
		}
		wantError(t, err, runnel.ErrUnavailable)
		wantError(t, w.statErr("a"), runnel.ErrNotFound)
	})
}

func TestForksAndDeletionsAtTheSameTimeLeaveNothingBehind(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := inMemory(t)
		var all []<-chan error
		for i := range 8 {
			all = append(all, later(func() error {
				fork, source := fmt.Sprint("s/", i%4), fmt.Sprint((i+1)%4)
				for range 30 {
					if _, err := w.tryCreate(source, runnel.CreateOptions{}, "x"); err != nil && !errors.Is(err, runnel.ErrSoftDeleted) {
						return err
					}
					_, err := w.tryCreate(fork, forkOf(source, 1, 0))
					switch {
					case err == nil:
						if got, err := w.readErr(fork, 0); err == nil && texts(got)[0] != "x" {
							return fmt.Errorf("%s reads %q", fork, texts(got))
						}
					case !errors.Is(err, runnel.ErrNotFound) && !errors.Is(err, runnel.ErrSoftDeleted) && !errors.Is(err, runnel.ErrExists):
						return err
					}
					for _, path := range []string{source, fork} {
						if err := w.Delete(ctx, at(path)); err != nil && !errors.Is(err, runnel.ErrNotFound) && !errors.Is(err, runnel.ErrSoftDeleted) {
							return err
						}
					}
				}
				return nil
			}))
		}
		for _, one := range all {
			wantError(t, <-one, nil)
		}
		pass(10 * time.Minute)
		for i := range 4 {
			for _, path := range []string{fmt.Sprint("s/", i), fmt.Sprint(i)} {
				if err := w.Delete(ctx, at(path)); err != nil && !errors.Is(err, runnel.ErrNotFound) {
					t.Errorf("%s: %v", path, err)
				}
			}
		}
		pass(10 * time.Minute)
		for _, space := range []string{"", "s"} {
			w.wantRows(space, map[string]int{"e": 0, "m": 0, "r": 0, "o": 0, "t": 0})
		}
	})
}
