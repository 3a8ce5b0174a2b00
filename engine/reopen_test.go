package engine_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/engine"
	"github.com/runnelhq/runnel/storage/memory"
)

func TestEverythingIsThereAfterAnEndOfAnyKind(t *testing.T) {
	for name, end := range map[string]func(*world){"closed": (*world).reopen, "crashed": (*world).crash} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := inMemory(t)
				expires := time.Now().Add(time.Hour)
				w.create("s/a", runnel.CreateOptions{ContentType: "text/plain", ExpiresAt: expires, Retention: runnel.Retention{Entries: 5}}, numbered("a", 7)...)
				w.create("s/closed", runnel.CreateOptions{TTL: time.Hour}, "x")
				if _, err := w.tryAppend("s/closed", closing, "y"); err != nil {
					t.Fatal(err)
				}
				w.fork("fork", "s/a", 4, "f")
				if _, err := w.Append(ctx, at("s/a"), runnel.AppendOptions{}, runnel.Record{Payload: []byte("with"), Metadata: map[string]string{"k": "v"}}); err != nil {
					t.Fatal(err)
				}
				w.create("gone", runnel.CreateOptions{}, "x")
				w.delete("gone")
				before := map[string]runnel.Info{}
				entries := map[string]string{}
				for _, path := range []string{"s/a", "s/closed", "fork"} {
					before[path] = w.stat(path)
					all, err := w.readErr(path, before[path].Earliest)
					wantError(t, err, nil)
					entries[path] = fmt.Sprintf("%+v", all)
				}
				for range 3 {
					end(w)
					for path, want := range before {
						if got := w.stat(path); got != want {
							t.Errorf("%s is %+v, was %+v", path, got, want)
						}
						all, err := w.readErr(path, want.Earliest)
						wantError(t, err, nil)
						if got := fmt.Sprintf("%+v", all); got != entries[path] {
							t.Errorf("%s holds %s, held %s", path, got, entries[path])
						}
					}
					wantError(t, w.statErr("gone"), runnel.ErrNotFound)
				}
			})
		})
	}
}

func TestPlacesAndTimesNeverGoBack(t *testing.T) {
	// The clock jumps about, and the engine comes and goes.
	clock := time.Unix(1_700_000_000, 0)
	var mu sync.Mutex
	now := func() time.Time { mu.Lock(); defer mu.Unlock(); return clock }
	w := newWorld(t, new(memory.Driver), engine.Config{Now: now, SweepInterval: -1})
	w.create("s/a", runnel.CreateOptions{})
	w.create("s/b", runnel.CreateOptions{})
	var position runnel.Position
	var last time.Time
	for i := range 60 {
		mu.Lock()
		clock = clock.Add([]time.Duration{time.Second, -time.Hour, time.Minute, 0, -time.Microsecond}[i%5])
		mu.Unlock()
		switch i % 7 {
		case 3:
			w.reopen()
		case 5:
			w.crash()
		}
		got := w.append([]string{"s/a", "s/b"}[i%2], "x", "y")
		if got.Position <= position || got.Time.Before(last) {
			t.Fatalf("append %d is at %d, %v after %d, %v", i, got.Position, got.Time, position, last)
		}
		position, last = got.Position+1, got.Time
		if i%11 == 10 {
			w.delete("s/b")
			if info := w.create("s/b", runnel.CreateOptions{}); info.Created.Before(last) || info.ID <= uint64(position) {
				t.Fatalf("%+v after %v", info, last)
			}
		}
	}
	for _, path := range []string{"s/a", "s/b"} {
		all, err := w.readErr(path, 0)
		wantError(t, err, nil)
		wantOrder(t, all)
	}
}

func TestTimesAreInWholeMicroseconds(t *testing.T) {
	w := newWorld(t, new(memory.Driver), engine.Config{Now: func() time.Time { return time.Unix(1_700_000_000, 123_456_789) }})
	w.create("a", runnel.CreateOptions{})
	at := w.append("a", "x").Time
	if want := time.Unix(1_700_000_000, 123_456_000); !at.Equal(want) || at.Location() != time.UTC {
		t.Fatalf("%v, want %v", at, want)
	}
	all, err := w.readErr("a", 0)
	if err != nil || !all[0].Time.Equal(at) {
		t.Fatalf("%v, %v", all, err)
	}
}

func TestStoresAreKeptApart(t *testing.T) {
	w := inMemory(t)
	one, two := runnel.Store{1}, runnel.Store{2}
	for i, store := range []runnel.Store{one, two, {}} {
		seg := runnel.Segment{Store: store, Space: "s", Name: "a"}
		if _, err := w.Create(ctx, seg, runnel.CreateOptions{Records: records(fmt.Sprint(i))}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Delete(ctx, runnel.Segment{Store: two, Space: "s", Name: "a"}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		for store, want := range map[runnel.Store]string{one: "0", {}: "2"} {
			v, err := w.Read(ctx, runnel.Segment{Store: store, Space: "s", Name: "a"}, 0, 0)
			wantError(t, err, nil)
			all, err := entriesOf(v)
			if err != nil || len(all) != 1 || string(all[0].Payload) != want {
				t.Errorf("%v: %+v, %v", store, all, err)
			}
		}
		if _, err := w.Stat(ctx, runnel.Segment{Store: two, Space: "s", Name: "a"}); err == nil {
			t.Error("it is still there")
		}
		for info, err := range w.List(ctx, two, runnel.ListOptions{}) {
			t.Errorf("listed: %+v, %v", info, err)
		}
		w.reopen()
	}
}
