package engine_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/engine"
	"github.com/runnelhq/runnel/storage"
	"github.com/runnelhq/runnel/storage/faulty"
	"github.com/runnelhq/runnel/storage/memory"
)

func TestRetentionByEntriesKeepsTheLast(t *testing.T) {
	w := inMemory(t)
	w.create("a", runnel.CreateOptions{Retention: runnel.Retention{Entries: 3}}, "1", "2")
	w.append("a", "3")
	w.want("a", "1", "2", "3")
	w.append("a", "4")
	for range 2 {
		w.want("a", "2", "3", "4")
		if got := w.stat("a"); got.Earliest != 1 || got.Tail != 4 || got.Bytes != 4 {
			t.Fatalf("%+v", got)
		}
		_, err := w.readErr("a", 0)
		if e := as[*runnel.TrimmedError](t, err); e.From != 0 || e.Earliest != 1 {
			t.Errorf("%+v", e)
		}
		_, err = w.Wait(ctx, at("a"), 0, 0)
		wantError(t, err, runnel.ErrTrimmed)
		w.crash()
	}
	w.append("a", "5", "6", "7", "8") // more than are kept, at once
	w.want("a", "6", "7", "8")
}

func TestACreationIsAnsweredWithTheEarliestEntryKept(t *testing.T) {
	for name, bounds := range map[string]runnel.Retention{
		"entries": {Entries: 2},
		"bytes":   {Bytes: 2},
	} {
		w := inMemory(t)
		o := runnel.CreateOptions{Retention: bounds, Records: []runnel.Record{{Payload: []byte("1")}, {Payload: []byte("2")}, {Payload: []byte("3")}}}
		for _, existed := range []bool{false, true} {
			created, err := w.Create(ctx, at("a"), o)
			if err != nil || created.Existed != existed || created.Tail != 3 || created.Earliest != 1 {
				t.Errorf("bounded by %s: %+v, %v; want existed %v, earliest 1, tail 3", name, created, err, existed)
			}
			w.crash() // so that memory holds no cut that somebody has looked for
		}
	}
}

func TestRetentionByBytesKeepsWhatFits(t *testing.T) {
	for _, crashed := range []bool{false, true} {
		w := inMemory(t)
		w.create("a", runnel.CreateOptions{Retention: runnel.Retention{Bytes: 10}})
		for _, step := range []struct {
			add  []string
			want []string
		}{
			{[]string{"aaaa", "bbbb"}, []string{"aaaa", "bbbb"}},
			{[]string{"cc"}, []string{"aaaa", "bbbb", "cc"}}, // exactly as many as fit
			{[]string{""}, []string{"aaaa", "bbbb", "cc", ""}},
			{[]string{"d"}, []string{"bbbb", "cc", "", "d"}}, // one too many
			{[]string{"eeeeeeeeee"}, []string{"eeeeeeeeee"}}, // as large as all
			{[]string{"", "f"}, []string{"", "f"}},
		} {
			w.append("a", step.add...)
			w.want("a", step.want...)
			if crashed {
				w.crash()
				w.want("a", step.want...)
			}
		}
		_, err := w.tryAppend("a", runnel.AppendOptions{}, "eleven byte")
		if e := as[*runnel.TooLargeError](t, err); e.Limit != 10 || e.Got != 11 {
			t.Errorf("%+v", e)
		}
	}
}

func TestRetentionByAgeKeepsWhatIsYoungEnough(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := inMemory(t)
		w.create("a", runnel.CreateOptions{Retention: runnel.Retention{Age: time.Hour}}, "1", "2")
		pass(time.Minute)
		w.append("a", "3")
		pass(time.Hour - time.Minute)
		w.want("a", "1", "2", "3") // as old as the bound
		pass(time.Microsecond)
		w.want("a", "3")
		pass(time.Minute - time.Microsecond)
		w.want("a", "3")
		w.crash()
		w.want("a", "3")
		pass(time.Microsecond)
		w.want("a")
		if got := w.stat("a"); got.Earliest != 3 || got.Tail != 3 || got.Bytes != 3 {
			t.Fatalf("%+v", got)
		}
	})
}

func TestTheStrictestBoundWins(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := inMemory(t)
		w.create("a", runnel.CreateOptions{Retention: runnel.Retention{Age: time.Hour, Bytes: 6, Entries: 4}}, "1", "2", "3", "4", "5")
		w.want("a", "2", "3", "4", "5")
		w.append("a", "6666")
		w.want("a", "4", "5", "6666")
		pass(59 * time.Minute)
		w.append("a", "")
		w.want("a", "4", "5", "6666", "")
		pass(2 * time.Minute)
		w.want("a", "")
	})
}

func TestWhatRetentionCutsIsDropped(t *testing.T) {
	for name, bounds := range map[string]runnel.Retention{
		"entries": {Entries: 10},
		"bytes":   {Bytes: 30},
		"age":     {Age: 10*time.Second - 1},
	} {
		for _, read := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, read: %v", name, read), func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					w := inMemory(t)
					w.create("s/a", runnel.CreateOptions{Retention: bounds})
					for i := range 1000 {
						w.append("s/a", fmt.Sprintf("%03d", i))
						if read && i%7 == 0 {
							w.stat("s/a")
						}
						pass(time.Second)
					}
					pass(time.Minute)
					w.crash()
					pass(time.Minute)
					want := numbered("", 0)
					if name != "age" {
						for i := 990; i < 1000; i++ {
							want = append(want, fmt.Sprintf("%03d", i))
						}
					}
					if kept := w.rows("s")["e"]; kept > len(want)+64 || name == "age" && kept > 0 {
						t.Errorf("%d runs are in storage, %d are retained", kept, len(want))
					}
					w.want("s/a", want...)
					if got := w.stat("s/a"); got.Tail != 1000 || got.Bytes != 3000 {
						t.Errorf("%+v", got)
					}
					w.append("s/a", "nxt")
					w.want("s/a", append(want[min(1, len(want)):], "nxt")...)
				})
			})
		}
	}
}

func TestTheTailOutlivesAllEntries(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := inMemory(t)
		w.create("s/a", runnel.CreateOptions{Retention: runnel.Retention{Age: time.Minute}}, numbered("x", 50)...)
		for i := range 50 {
			w.append("s/a", fmt.Sprint("y", i))
		}
		before := w.stat("s/a")
		pass(time.Hour)
		w.wantRows("s", map[string]int{"e": 0})
		for range 2 {
			got := w.stat("s/a")
			if got.Tail != 100 || got.Earliest != 100 || got.Bytes != before.Bytes || got.ID != before.ID {
				t.Fatalf("%+v after %+v", got, before)
			}
			w.wantFrom("s/a", 100)
			w.crash()
		}
		if got := w.append("s/a", "z"); got.First != 101 {
			t.Fatalf("%+v", got)
		}
		w.wantFrom("s/a", 100, "z")
		pass(time.Hour)
		w.crash()
		if got := w.append("s/a", "z"); got.First != 102 {
			t.Fatalf("%+v", got)
		}
	})
}

func TestAReaderThatRetentionOvertakesIsTold(t *testing.T) {
	for _, evicted := range []bool{false, true} {
		t.Run(fmt.Sprintf("the segment left memory: %v", evicted), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t, new(memory.Driver), engine.Config{TailCacheBytes: 1, MaxSegments: 1})
				w.create("s/a", runnel.CreateOptions{Retention: runnel.Retention{Entries: 100}})
				for i := range 100 {
					w.append("s/a", fmt.Sprint(i))
				}
				v, err := w.Read(ctx, at("s/a"), 0, 0)
				wantError(t, err, nil)
				if evicted {
					for i := range 10 {
						w.create(fmt.Sprint("s/other", i), runnel.CreateOptions{})
					}
				}
				w.append("s/a", numbered("", 100)...)
				w.stat("s/a")
				pass(time.Minute)
				_, err = entriesOf(v)
				if e := as[*runnel.TrimmedError](t, err); e.Earliest != 100 {
					t.Errorf("%+v", e)
				}
			})
		})
	}
}

func TestAnEntryThatIsReadIsNeverOlderThanTheEarliest(t *testing.T) {
	w := inMemory(t)
	w.create("a", runnel.CreateOptions{Retention: runnel.Retention{Entries: 1}})
	done := later(func() error {
		for range 2000 {
			if _, err := w.tryAppend("a", runnel.AppendOptions{}, "x", "y"); err != nil {
				return err
			}
		}
		return nil
	})
	for {
		select {
		case err := <-done:
			wantError(t, err, nil)
			return
		default:
		}
		if info := w.stat("a"); info.Earliest > info.Tail {
			t.Fatalf("%+v", info)
		}
		if _, err := w.Read(ctx, at("a"), 0, runnel.Latest); err != nil {
			t.Fatalf("from the latest: %v", err)
		}
		if _, err := w.readErr("a", 0); err != nil && !errors.Is(err, runnel.ErrTrimmed) {
			t.Fatal(err)
		}
	}
}

func TestKeepingFewEntriesDoesNotCostACommitForEachAppend(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := inMemory(t)
		w.create("a", runnel.CreateOptions{Retention: runnel.Retention{Entries: 1000}}, numbered("x", 1000)...)
		before := w.driver.Calls(faulty.Commit)
		const appends = 500
		for range appends {
			w.append("a", "x")
			w.stat("a")
			pass(time.Millisecond)
		}
		if n := w.driver.Calls(faulty.Commit) - before; n > appends+appends/4 {
			t.Errorf("%d commits for %d appends", n, appends)
		}
	})
}

// TestWhatRetentionHasCutIsNotWrittenDownOverAndOver lets the cut of a segment be refused by storage.
func TestWhatRetentionHasCutIsNotWrittenDownOverAndOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		driver := faulty.New(new(memory.Driver))
		e, err := engine.Open(driver, engine.Config{})
		if err != nil {
			t.Fatal(err)
		}
		defer e.Close()
		addr := runnel.Segment{Space: "logs", Name: "a"}
		o := runnel.CreateOptions{Retention: runnel.Retention{Age: time.Second}}
		for range 100 {
			if _, err := e.Append(t.Context(), addr, runnel.AppendOptions{Create: &o}, runnel.Record{Payload: []byte("x")}); err != nil {
				t.Fatal(err)
			}
		}
		refused := 0
		driver.SetRules(faulty.Rule{
			When: func(c faulty.Call) bool { return c.Op == faulty.Commit },
			Then: func(context.Context, faulty.Call, func(context.Context) error) error {
				if refused++; refused > 100 {
					panic("it is tried over and over")
				}
				return storage.ErrRefused
			},
		})
		time.Sleep(2 * time.Second) //nolint:forbidigo // time is fake
		if info, err := e.Stat(t.Context(), addr); err != nil || info.Earliest != 100 {
			t.Fatal(info, err)
		}
		synctest.Wait()
		if refused == 0 {
			t.Fatal("nothing was tried")
		}
		driver.SetRules()
	})
}
