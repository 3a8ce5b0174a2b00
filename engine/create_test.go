package engine_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/runnelhq/runnel"
)

func TestCreateMakesASegmentWithItsFirstEntries(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := inMemory(t)
		expires := time.Now().Add(time.Hour)
		info := w.create("a/b", runnel.CreateOptions{
			ContentType: "Text/Plain; charset=UTF-8",
			ExpiresAt:   expires,
			Retention:   runnel.Retention{Entries: 10, Bytes: 100, Age: time.Hour},
		}, "one", "two")
		for range 2 {
			if info.Segment != at("a/b") || info.ContentType != "Text/Plain; charset=UTF-8" || info.Tail != 2 || info.Bytes != 6 ||
				info.Earliest != 0 || info.Closed || info.TTL != 0 || !info.ExpiresAt.Equal(expires) ||
				info.Retention != (runnel.Retention{Entries: 10, Bytes: 100, Age: time.Hour}) || !info.Created.Equal(time.Now()) || info.ID == 0 {
				t.Fatalf("%+v", info)
			}
			w.want("a/b", "one", "two")
			w.reopen()
			info = w.stat("a/b")
		}
	})
}

func TestASegmentWithoutAContentTypeHoldsBytes(t *testing.T) {
	w := inMemory(t)
	if got := w.create("a", runnel.CreateOptions{}).ContentType; got != "application/octet-stream" {
		t.Error(got)
	}
}

func TestASegmentCanBeCreatedClosed(t *testing.T) {
	w := inMemory(t)
	w.create("empty", runnel.CreateOptions{Closed: true})
	w.create("full", runnel.CreateOptions{Closed: true}, "all", "there is")
	for range 2 {
		w.want("empty")
		w.want("full", "all", "there is")
		for _, path := range []string{"empty", "full"} {
			if !w.stat(path).Closed {
				t.Errorf("%s is open", path)
			}
			_, err := w.tryAppend(path, runnel.AppendOptions{}, "x")
			wantError(t, err, runnel.ErrClosed)
		}
		w.reopen()
	}
}

func TestCreateFindsWhatIsThereOrSaysInWhatItDiffers(t *testing.T) {
	bubble(t, func(t *testing.T) {
		future := time.Now().Add(time.Hour)
		type options = runnel.CreateOptions
		configurations := []struct {
			name string
			o    options
		}{
			{"plain", options{}},
			{"text", options{ContentType: "text/plain"}},
			{"ttl", options{TTL: time.Minute}},
			{"another ttl", options{TTL: time.Minute + time.Second}},
			{"expiry", options{ExpiresAt: future}},
			{"another expiry", options{ExpiresAt: future.Add(time.Microsecond)}},
			{"retention", options{Retention: runnel.Retention{Entries: 5}}},
			{"another retention", options{Retention: runnel.Retention{Bytes: 5}}},
			{"closed", options{Closed: true}},
			{"a fork", options{Fork: &runnel.ForkFrom{Source: at("source"), At: 1}}},
			{"a fork of another place", options{Fork: &runnel.ForkFrom{Source: at("source"), At: 2}}},
			{"a fork of a place inside", options{Fork: &runnel.ForkFrom{Source: at("source"), At: 1, Sub: 1}}},
			{"a fork of the tail", options{Fork: &runnel.ForkFrom{Source: at("source"), Latest: true}}},
			{"a fork of another source", options{Fork: &runnel.ForkFrom{Source: at("other"), At: 1}}},
			{"a fork with a ttl", options{TTL: time.Minute, Fork: &runnel.ForkFrom{Source: at("source"), At: 1}}},
			{"a fork with retention", options{Retention: runnel.Retention{Entries: 5}, Fork: &runnel.ForkFrom{Source: at("source"), At: 1}}},
			{"a closed fork", options{Closed: true, Fork: &runnel.ForkFrom{Source: at("source"), At: 1}}},
		}
		for _, have := range configurations {
			for _, reopened := range []bool{false, true} {
				w := inMemory(t)
				w.create("source", options{}, "one", "two")
				w.create("other", options{}, "one", "two")
				w.create("a", have.o)
				before := w.rows("")
				if reopened {
					w.reopen()
				}
				for _, want := range configurations {
					got, err := w.tryCreate("a", want.o)
					if have.name != want.name {
						if e := as[*runnel.ExistsError](t, err); e.Have == e.Want || e.Field == "" {
							t.Errorf("%s is %s: %v", have.name, want.name, err)
						}
						wantError(t, err, runnel.ErrExists)
						continue
					}
					if err != nil || !got.Existed {
						t.Errorf("%s is not found again: %+v, %v", have.name, got, err)
					}
				}
				for kind, n := range w.rows("") {
					if kind != "s" && kind != "c" && before[kind] != n { // the last access is written at closing
						t.Errorf("%s: asking again wrote rows of kind %s", have.name, kind)
					}
				}
				if err := w.Close(); err != nil {
					t.Fatal(err)
				}
			}
		}
	})
}

func TestCreateComparesContentTypesByMediaType(t *testing.T) {
	w := inMemory(t)
	w.create("a", runnel.CreateOptions{ContentType: "text/plain; charset=utf-8"})
	if got, err := w.tryCreate("a", runnel.CreateOptions{ContentType: "TEXT/plain"}); err != nil || !got.Existed || got.ContentType != "text/plain; charset=utf-8" {
		t.Fatalf("%+v, %v", got, err)
	}
}

func TestCreateOfWhatIsThereWritesNothingAndTellsTheTail(t *testing.T) {
	w := inMemory(t)
	w.create("a", runnel.CreateOptions{}, "one")
	w.append("a", "two")
	got, err := w.tryCreate("a", runnel.CreateOptions{}, "three")
	if err != nil || !got.Existed || got.Tail != 2 {
		t.Fatalf("%+v, %v", got, err)
	}
	w.want("a", "one", "two")
}

func TestClosingCountsAsConfiguration(t *testing.T) {
	w := inMemory(t)
	w.create("a", runnel.CreateOptions{})
	if _, err := w.tryAppend("a", runnel.AppendOptions{Close: true}, "last"); err != nil {
		t.Fatal(err)
	}
	_, err := w.tryCreate("a", runnel.CreateOptions{})
	if e := as[*runnel.ExistsError](t, err); e.Field != "closed" || e.Have != "true" {
		t.Errorf("%+v", e)
	}
	if got, err := w.tryCreate("a", runnel.CreateOptions{Closed: true}); err != nil || !got.Existed {
		t.Fatalf("%+v, %v", got, err)
	}
}

func TestOptionsThatBreakARuleAreRefused(t *testing.T) {
	w := inMemory(t)
	w.create("source", runnel.CreateOptions{}, "one")
	tenant := runnel.Store{1}
	for name, tc := range map[string]struct {
		o    runnel.CreateOptions
		want error
	}{
		"a long content type":        {runnel.CreateOptions{ContentType: big("x", 257)}, runnel.ErrTooLarge},
		"a negative ttl":             {runnel.CreateOptions{TTL: -1}, runnel.ErrInvalid},
		"ttl and expiry":             {runnel.CreateOptions{TTL: 1, ExpiresAt: time.Now()}, runnel.ErrInvalid},
		"a ttl of zero and expiry":   {runnel.CreateOptions{HasTTL: true, ExpiresAt: time.Now()}, runnel.ErrInvalid},
		"a negative age":             {runnel.CreateOptions{Retention: runnel.Retention{Age: -1}}, runnel.ErrInvalid},
		"a record over the bound":    {runnel.CreateOptions{Retention: runnel.Retention{Bytes: 3}, Records: records("ok", "four")}, runnel.ErrTooLarge},
		"a fork across stores":       {runnel.CreateOptions{Fork: &runnel.ForkFrom{Source: runnel.Segment{Store: tenant, Name: "source"}}}, runnel.ErrInvalid},
		"a fork of a broken name":    {runnel.CreateOptions{Fork: &runnel.ForkFrom{Source: runnel.Segment{Name: ""}}}, runnel.ErrInvalid},
		"a place inside of the tail": {runnel.CreateOptions{Fork: &runnel.ForkFrom{Source: at("source"), Latest: true, Sub: 1}}, runnel.ErrInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := w.tryCreate("a", tc.o)
			wantError(t, err, tc.want)
			wantError(t, w.statErr("a"), runnel.ErrNotFound)
		})
	}
	_, err := w.Create(ctx, runnel.Segment{Name: ".."}, runnel.CreateOptions{})
	wantError(t, err, runnel.ErrInvalid)
}

func TestManyWhoCreateTheSameMakeOne(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := inMemory(t)
		release := w.blocked("")
		var all []<-chan runnel.Created
		for i := range 10 {
			all = append(all, later(func() runnel.Created {
				got, err := w.tryCreate("a", runnel.CreateOptions{}, fmt.Sprint(i))
				if err != nil {
					t.Error(err)
				}
				return got
			}))
			pending(t, all[i], "creating what is not durable")
		}
		release()
		for i, one := range all {
			if got := <-one; got.Existed != (i > 0) {
				t.Errorf("%d: %+v", i, got)
			}
		}
		w.want("a", "0")
	})
}

func TestANameThatIsCreatedAgainIsAnotherSegment(t *testing.T) {
	for _, reopened := range []bool{false, true} {
		t.Run(fmt.Sprintf("reopened: %v", reopened), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := inMemory(t)
				old := w.create("a", runnel.CreateOptions{ContentType: "text/plain"}, "old", "older")
				if _, err := w.tryAppend("a", runnel.AppendOptions{Producer: &runnel.Producer{ID: "p"}, HasStreamSeq: true, StreamSeq: "z"}, "oldest"); err != nil {
					t.Fatal(err)
				}
				view, err := w.Read(ctx, at("a"), 0, 0)
				wantError(t, err, nil)
				waiting := later(func() error { _, err := w.Wait(ctx, at("a"), 0, 3); return err })
				pending(t, waiting, "waiting")
				w.delete("a")
				wantError(t, w.statErr("a"), runnel.ErrNotFound)
				wantError(t, <-waiting, runnel.ErrNotFound)
				if reopened {
					w.reopen()
				}
				fresh := w.create("a", runnel.CreateOptions{}, "new")
				if fresh.ID == old.ID || fresh.Tail != 1 || fresh.Bytes != 3 {
					t.Fatalf("%+v after %+v", fresh, old)
				}
				pass(time.Minute)
				w.want("a", "new")

				// Whoever holds something of the old one gets the old one or nothing.
				if got, err := entriesOf(view); err == nil {
					if fmt.Sprint(texts(got)) != "[old older oldest]" {
						t.Errorf("the old view shows %q", texts(got))
					}
				}
				_, err = w.Read(ctx, at("a"), old.ID, 0)
				wantError(t, err, runnel.ErrNotFound)
				_, err = w.Wait(ctx, at("a"), old.ID, 3)
				wantError(t, err, runnel.ErrNotFound)
				for _, err := range w.Tail(ctx, at("a"), old.ID, 3) {
					wantError(t, err, runnel.ErrNotFound)
				}
				if v, err := w.Read(ctx, at("a"), fresh.ID, 0); err != nil || v.Tail != 1 {
					t.Errorf("%+v, %v", v, err)
				}

				// Nothing that writers left behind counts any more.
				if got, err := w.tryAppend("a", runnel.AppendOptions{Producer: &runnel.Producer{ID: "p"}, HasStreamSeq: true, StreamSeq: "a"}, "by p"); err != nil || got.Duplicate {
					t.Fatalf("%+v, %v", got, err)
				}
				w.want("a", "new", "by p")
			})
		})
	}
}

func TestAnIDIsNeverUsedAgainEvenIfTheSpaceIsEmptied(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := inMemory(t)
		seen := make(map[uint64]bool)
		for range 20 {
			info := w.create("s/a", runnel.CreateOptions{}, "x")
			if seen[info.ID] {
				t.Fatalf("id %d twice", info.ID)
			}
			seen[info.ID] = true
			w.delete("s/a")
			pass(time.Minute)
			w.crash()
		}
	})
}
