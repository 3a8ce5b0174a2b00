package engine_test

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/engine"
	"github.com/runnelhq/runnel/state"
	"github.com/runnelhq/runnel/storage/memory"
)

// set writes items of a group, given as key and JSON text in turn; an empty text deletes.
func (w *world) set(path string, pairs ...string) runnel.ItemsWritten {
	w.t.Helper()
	done, err := w.trySet(path, runnel.ItemWrites{}, pairs...)
	if err != nil {
		w.t.Fatalf("set %s %q: %v", path, pairs, err)
	}
	return done
}

func (w *world) trySet(path string, o runnel.ItemWrites, pairs ...string) (runnel.ItemsWritten, error) {
	seg := at(path)
	o.Segment = seg.Name
	for i := 0; i < len(pairs); i += 2 {
		one := runnel.ItemWrite{ItemKey: runnel.ItemKey{Key: pairs[i]}}
		if pairs[i+1] != "" {
			one.Value = []byte(pairs[i+1])
		}
		o.Writes = append(o.Writes, one)
	}
	done, err := w.WriteItems(ctx, seg.In(), o)
	if err != nil {
		return runnel.ItemsWritten{}, err
	}
	return done[0], nil
}

// table shows the items of a group, "a=1 b=2", and at which sequence.
func (w *world) table(path string) string {
	w.t.Helper()
	v, err := w.Items(ctx, at(path), runnel.ItemQuery{Type: runnel.AllItemTypes})
	if err != nil {
		w.t.Fatalf("items of %s: %v", path, err)
	}
	return tableText(&v)
}

func tableText(v *runnel.ItemView) string {
	var b strings.Builder
	fmt.Fprintf(&b, "@%d", v.Tail)
	for _, it := range v.Items {
		typ := ""
		if it.Type != runnel.DefaultItemType {
			typ = it.Type + "/"
		}
		fmt.Fprintf(&b, " %s%s=%s#%d", typ, it.Key, it.Value, it.Version)
	}
	return b.String()
}

func (w *world) wantTable(path, want string) {
	w.t.Helper()
	if got := w.table(path); got != want {
		w.t.Fatalf("items of %s are\n%s, want\n%s", path, got, want)
	}
}

func TestItemsAreAFoldOfTheirLog(t *testing.T) {
	w := inMemory(t)
	w.set("board/room", "b", `{"n":1,"m":2}`, "a", "12345678901234567890.5")
	w.set("board/room", "b", `{"n":2}`)
	w.set("board/room", "c", `{"value":1}`)
	w.set("board/room", "a", "", "never", "")
	want := []string{
		`insert b {"n":1,"m":2}`,
		`insert a {"value":12345678901234567890.5}`,
		`delete b `,
		`insert b {"n":2}`,
		`insert c {"value":{"value":1}}`,
		`delete a `,
	}
	var got []string
	for _, text := range w.texts("board/room") {
		c, err := state.Parse([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, fmt.Sprintf("%s %s %s", c.Operation, c.Key, c.Value))
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Fatalf("the log is\n%s, want\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	const table = `@6 b={"n":2}#4 c={"value":1}#5`
	w.wantTable("board/room", table)
	w.reopen()
	w.wantTable("board/room", table)
	w.crash()
	w.wantTable("board/room", table)
}

func (w *world) texts(path string) (texts []string) {
	w.t.Helper()
	v, err := w.Read(ctx, at(path), 0, 0)
	if err != nil {
		w.t.Fatal(err)
	}
	for b, err := range v.Batches {
		if err != nil {
			w.t.Fatal(err)
		}
		for i := range b.Len() {
			texts = append(texts, string(b.Payload(i)))
		}
	}
	return texts
}

func TestMessagesThatAreAppendedChangeTheItems(t *testing.T) {
	w := inMemory(t)
	w.create("db/tasks", runnel.CreateOptions{Items: true},
		`{"type":"task","key":"1","value":{"title":"x"},"headers":{"operation":"insert"}}`)
	w.append("db/tasks",
		`{"type":"task","key":"1","value":{"title":"y"},"headers":{"operation":"update"}}`,
		`{"type":"user","key":"1","value":{"name":"ada"},"headers":{"operation":"upsert"}}`,
		`{"type":"task","key":"2","value":{},"headers":{"operation":"insert"}}`,
		`{"type":"task","key":"2","headers":{"operation":"delete"}}`)
	w.wantTable("db/tasks", `@5 task/1={"title":"y"}#2 user/1={"name":"ada"}#3`)
	for _, bad := range []string{`{}`, `[]`, `{"type":"t","key":"k","value":7,"headers":{"operation":"insert"}}`} {
		if _, err := w.tryAppend("db/tasks", runnel.AppendOptions{}, bad); !errors.Is(err, runnel.ErrInvalid) {
			t.Errorf("%s: %v", bad, err)
		}
	}
	if _, err := w.tryCreate("db/more", runnel.CreateOptions{Items: true}, `{}`); !errors.Is(err, runnel.ErrInvalid) {
		t.Error(err)
	}
	w.wantTable("db/tasks", `@5 task/1={"title":"y"}#2 user/1={"name":"ada"}#3`)
}

func TestAnItemSegmentIsJSONAndKeepsEverything(t *testing.T) {
	w := inMemory(t)
	w.create("plain", runnel.CreateOptions{ContentType: "application/json"}, `1`)
	for name, o := range map[string]runnel.CreateOptions{
		"text":      {Items: true, ContentType: "text/plain"},
		"retention": {Items: true, Retention: runnel.Retention{Entries: 5}},
		"fork":      {Items: true, Fork: &runnel.ForkFrom{Source: at("plain"), Latest: true}},
	} {
		if _, err := w.tryCreate("items", o); !errors.Is(err, runnel.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := w.trySet("plain", runnel.ItemWrites{}, "a", "1"); !errors.Is(err, runnel.ErrInvalid) {
		t.Error(err)
	}
	if _, err := w.Items(ctx, at("plain"), runnel.ItemQuery{}); !errors.Is(err, runnel.ErrInvalid) {
		t.Error(err)
	}
	if _, err := w.tryCreate("plain", runnel.CreateOptions{ContentType: "application/json", Items: true}); !errors.Is(err, runnel.ErrExists) {
		t.Error(err)
	}
}

func TestAWriteToAnItemIsConditional(t *testing.T) {
	w := inMemory(t)
	write := func(o runnel.ItemWrite) error {
		o.Key = "k"
		_, err := w.WriteItems(ctx, at("g").In(), runnel.ItemWrites{Segment: "g", Writes: []runnel.ItemWrite{
			{ItemKey: runnel.ItemKey{Key: "other"}, Value: []byte("1")}, o,
		}})
		return err
	}
	version := func(n runnel.Sequence) *runnel.Sequence { return &n }
	if err := write(runnel.ItemWrite{IfExists: true, Value: []byte("1")}); !errors.Is(err, runnel.ErrItemMoved) {
		t.Fatal(err)
	}
	if _, err := w.Items(ctx, at("g"), runnel.ItemQuery{}); !errors.Is(err, runnel.ErrNotFound) {
		t.Fatal("a write that was refused has made the group:", err)
	}
	if err := write(runnel.ItemWrite{IfVersion: version(0), Value: []byte("1")}); err != nil {
		t.Fatal(err)
	}
	var moved *runnel.ItemMovedError
	if err := write(runnel.ItemWrite{IfVersion: version(0), Value: []byte("2")}); !errors.As(err, &moved) || moved.Have != 2 {
		t.Fatal(err)
	}
	if err := write(runnel.ItemWrite{IfVersion: version(2), Value: []byte("3")}); err != nil {
		t.Fatal(err)
	}
	if err := write(runnel.ItemWrite{IfVersion: version(2)}); !errors.As(err, &moved) || moved.Have != 4 {
		t.Fatal(err)
	}
	refusal := errors.New("no")
	if err := write(runnel.ItemWrite{Apply: func(*runnel.Item) ([]byte, error) { return nil, refusal }}); !errors.Is(err, refusal) {
		t.Fatal(err)
	}
	w.wantTable("g", `@4 k=3#4 other=1#3`)
}

func TestConcurrentUpdatesConverge(t *testing.T) {
	w := inMemory(t)
	const writers, each = 8, 50
	var work sync.WaitGroup
	for range writers {
		work.Go(func() {
			for range each {
				_, err := w.WriteItems(ctx, at("counters/all").In(), runnel.ItemWrites{Segment: "all", Writes: []runnel.ItemWrite{{
					ItemKey: runnel.ItemKey{Key: "n"},
					Apply: func(old *runnel.Item) ([]byte, error) {
						if old == nil {
							return []byte("1"), nil
						}
						n, err := strconv.Atoi(string(old.Value))
						return strconv.AppendInt(nil, int64(n+1), 10), err
					},
				}}})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	work.Wait()
	w.wantTable("counters/all", "@400 n=400#400")
}

func TestAWriteIsToldWhatWasAndWhatIs(t *testing.T) {
	w := inMemory(t)
	w.set("g", "a", "1")
	done := w.set("g", "a", "2", "b", "null", "none", "")
	show := func(it *runnel.Item) string {
		if it == nil {
			return "-"
		}
		return fmt.Sprintf("%s#%d", it.Value, it.Version)
	}
	var got []string
	for _, r := range done.Results {
		got = append(got, show(r.Old)+">"+show(r.New))
	}
	if s := strings.Join(got, " "); s != "1#1>2#2 ->null#3 ->-" || done.Tail != 3 {
		t.Fatal(s, done.Tail)
	}
	if done := w.set("nothing", "a", ""); done.Created || done.Tail != 0 {
		t.Fatalf("%+v", done)
	}
	if _, err := w.Stat(ctx, at("nothing")); !errors.Is(err, runnel.ErrNotFound) {
		t.Fatal(err)
	}
}

func TestAnIdempotencyKeyAnswersWritesToItems(t *testing.T) {
	w := inMemory(t)
	o := runnel.ItemWrites{Key: "once", Sum: 7}
	first, err := w.trySet("g", o, "a", "1")
	if err != nil || first.Duplicate {
		t.Fatal(first, err)
	}
	w.crash()
	again, err := w.trySet("g", o, "a", "1")
	if err != nil || !again.Duplicate || again.First != 1 || string(again.Results[0].New.Value) != "1" {
		t.Fatalf("%+v, %v", again, err)
	}
	o.Sum = 8
	if _, err := w.trySet("g", o, "a", "2"); !errors.Is(err, runnel.ErrKeyReused) {
		t.Fatal(err)
	}
	w.wantTable("g", "@1 a=1#1")
}

// What found nothing to delete must not delete, when it is repeated, what has come to be since.
func TestAnIdempotencyKeyIsKeptOfADeletionOfNothing(t *testing.T) {
	w := inMemory(t)
	w.set("g", "other", "1")
	o := runnel.ItemWrites{Key: "once", Sum: 7}
	if first, err := w.trySet("g", o, "a", ""); err != nil || first.Duplicate || first.Results[0].Old != nil {
		t.Fatalf("%+v, %v", first, err)
	}
	w.crash()
	w.set("g", "a", "2")
	again, err := w.trySet("g", o, "a", "")
	if err != nil || !again.Duplicate || again.Results[0].New != nil || again.Results[0].Old != nil {
		t.Errorf("%+v, %v", again, err)
	}
	w.wantTable("g", "@2 a=2#2 other=1#1")
	if _, err := w.trySet("g", runnel.ItemWrites{Key: "once", Sum: 8}, "a", "3"); !errors.Is(err, runnel.ErrKeyReused) {
		t.Errorf("the key was used for something else: %v", err)
	}
}

func TestOneCommitWritesItemsOfSeveralGroupsOrNone(t *testing.T) {
	w := inMemory(t)
	one := func(segment, value string, version *runnel.Sequence) runnel.ItemWrites {
		return runnel.ItemWrites{Segment: segment, Writes: []runnel.ItemWrite{{ItemKey: runnel.ItemKey{Key: "k"}, Value: []byte(value), IfVersion: version}}}
	}
	space := at("s/x").In()
	if _, err := w.WriteItems(ctx, space, one("x", "1", nil), one("y", "1", nil)); err != nil {
		t.Fatal(err)
	}
	two := runnel.Sequence(2)
	if _, err := w.WriteItems(ctx, space, one("x", "2", nil), one("y", "2", &two)); !errors.Is(err, runnel.ErrItemMoved) {
		t.Fatal(err)
	}
	if _, err := w.WriteItems(ctx, space, one("x", "2", nil), one("x", "3", nil)); !errors.Is(err, runnel.ErrInvalid) {
		t.Fatal(err)
	}
	w.wantTable("s/x", "@1 k=1#1")
	w.wantTable("s/y", "@1 k=1#1")
}

func TestACommitOfWhichAPartChangedNothingIsKnownAgain(t *testing.T) {
	w := inMemory(t)
	key := runnel.ItemKey{Key: "k"}
	commit := func() ([]runnel.ItemsWritten, error) {
		return w.WriteItems(ctx, at("s/x").In(),
			runnel.ItemWrites{Segment: "x", Key: "once", Writes: []runnel.ItemWrite{{ItemKey: key}}}, // deletes what is not there
			runnel.ItemWrites{Segment: "y", Key: "once", Writes: []runnel.ItemWrite{{ItemKey: key, Value: []byte("1")}}})
	}
	for i := range 2 {
		done, err := commit()
		if err != nil || done[0].Duplicate || done[1].Duplicate != (i == 1) {
			t.Fatalf("%d: %+v, %v", i, done, err)
		}
		w.crash()
	}
	w.wantTable("s/y", "@1 k=1#1")
	if _, err := w.Items(ctx, at("s/x"), runnel.ItemQuery{}); !errors.Is(err, runnel.ErrNotFound) {
		t.Fatal(err)
	}
}

func TestItemsAreListedInPages(t *testing.T) {
	w := inMemory(t)
	for i := range 10 {
		w.set("g", fmt.Sprintf("k%d", i), strconv.Itoa(i))
	}
	w.set("g", "k3", "", "other", "1")
	q := runnel.ItemQuery{Prefix: "k", Limit: 4}
	var pages []string
	for {
		v, err := w.Items(ctx, at("g"), q)
		if err != nil {
			t.Fatal(err)
		}
		page := ""
		for _, it := range v.Items {
			page += it.Key
		}
		pages = append(pages, page)
		if !v.More {
			break
		}
		q.After = v.Next
	}
	if got := strings.Join(pages, " "); got != "k0k1k2k4 k5k6k7k8 k9" {
		t.Fatal(got)
	}
}

func TestNoReaderSeesAnItemBeforeItIsDurable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := inMemory(t)
		w.set("g", "a", "1")
		release := w.blocked("")
		go func() { _, _ = w.trySet("g", runnel.ItemWrites{}, "a", "2", "b", "1") }()
		synctest.Wait()
		w.wantTable("g", "@1 a=1#1")
		it, err := w.Item(ctx, at("g"), runnel.ItemKey{Key: "a"})
		if err != nil || string(it.Value) != "1" {
			t.Fatal(it, err)
		}
		release()
		synctest.Wait()
		w.wantTable("g", "@3 a=2#2 b=1#3")
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestAnItemExpiresByAnEntry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, new(memory.Driver), engine.Config{SweepInterval: 10 * time.Second})
		ttl := func(key string, d time.Duration) {
			t.Helper()
			_, err := w.WriteItems(ctx, runnel.Space{}, runnel.ItemWrites{Segment: "g", Writes: []runnel.ItemWrite{{ItemKey: runnel.ItemKey{Key: key}, Value: []byte("1"), TTL: d}}})
			if err != nil {
				t.Fatal(err)
			}
		}
		ttl("short", time.Second)
		ttl("long", time.Hour)
		ttl("kept", time.Second)
		w.set("g", "kept", "2")                      // without a TTL
		time.Sleep(time.Second + 5*time.Millisecond) //nolint:forbidigo // in a bubble
		synctest.Wait()
		if got := w.texts("g"); len(got) != 5 || !strings.Contains(got[4], `"old_value":{"value":1},"headers":{"operation":"delete"`) {
			t.Fatalf("nobody has told of the expiry: %q", got)
		}
		w.wantTable("g", `@5 kept=2#4 long=1#2`)
		// What expires while no engine runs is gone for the first who looks.
		w.reopen()
		time.Sleep(2 * time.Hour) //nolint:forbidigo // in a bubble
		if _, err := w.Item(ctx, at("g"), runnel.ItemKey{Key: "long"}); !errors.Is(err, runnel.ErrNotFound) {
			t.Fatal(err)
		}
		w.wantTable("g", `@6 kept=2#4`)
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestAnExpiryIsNotToldAsTheChangeOfWhoFindsIt(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, new(memory.Driver), engine.Config{SweepInterval: -1})
		defer w.Close()
		one := runnel.ItemWrite{ItemKey: runnel.ItemKey{Key: "a"}, Value: []byte("1"), TTL: time.Second}
		remove := runnel.ItemWrite{ItemKey: one.ItemKey}
		for _, x := range []runnel.ItemWrite{one, remove} {
			done, err := w.WriteItems(ctx, runnel.Space{}, runnel.ItemWrites{Segment: "g", TxID: "mine", Writes: []runnel.ItemWrite{x}})
			if err != nil || done[0].Results[0].Old != nil {
				t.Fatalf("%+v, %v", done, err)
			}
			pass(2 * time.Second)
		}
		if got := w.texts("g"); len(got) != 2 || !strings.Contains(got[0], `"txid":"mine"`) || strings.Contains(got[1], "mine") {
			t.Fatalf("%q", got)
		}
	})
}

func TestSnapshotAndTailOfAGroupAreOneRead(t *testing.T) {
	w := inMemory(t)
	var work sync.WaitGroup
	defer work.Wait()
	const changes = 300
	work.Go(func() {
		for i := range changes {
			if i%7 == 3 {
				w.set("g", fmt.Sprint(i%5), "")
				continue
			}
			w.set("g", fmt.Sprint(i%5), fmt.Sprintf(`{"n":%d,"f%d":1}`, i, i%3))
		}
		w.set("g", "end", "1")
	})
	for {
		if _, err := w.Stat(ctx, at("g")); err == nil {
			break
		}
	}
	for {
		v, err := w.Items(ctx, at("g"), runnel.ItemQuery{})
		if err != nil {
			t.Fatal(err)
		}
		fold := make(map[string]string)
		for _, it := range v.Items {
			fold[it.Key] = string(it.Value)
		}
		stamp, last := v.Stamp(v.Tail)+1, v.Tail
		if _, done := fold["end"]; done {
			break
		}
		for b, err := range w.TailItems(ctx, at("g"), v.ID, v.Tail) {
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range b.Changes {
				if c.Sequence <= last || c.Stamp <= stamp {
					t.Fatalf("change %d at %d came after %d at %d", c.Sequence, c.Stamp, last, stamp)
				}
				_, had := fold[c.Key]
				if had != (c.Op != runnel.ItemCreated) {
					t.Fatalf("%v of %s, which was there: %v", c.Op, c.Key, had)
				}
				if fold[c.Key] = string(c.Value); c.Op == runnel.ItemDeleted {
					delete(fold, c.Key)
				}
				stamp, last = c.Stamp, c.Sequence
			}
			if _, done := fold["end"]; done {
				break
			}
		}
		now, err := w.Items(ctx, at("g"), runnel.ItemQuery{})
		if err != nil {
			t.Fatal(err)
		}
		same := len(now.Items) == len(fold)
		for _, it := range now.Items {
			same = same && fold[it.Key] == string(it.Value)
		}
		if !same {
			t.Fatalf("the fold has %v, the table %s", fold, tableText(&now))
		}
	}
}

func TestSnapshotAndTailOfASpaceAreOneRead(t *testing.T) {
	w := inMemory(t)
	space := runnel.Space{Name: "s"}
	w.create("s/plain", runnel.CreateOptions{ContentType: "application/json"}, `1`)
	w.set("s/room-1", "a", "1")
	w.set("s/room-2", "a", "1", "b", `{"x":1,"y":2}`)
	w.set("s/hall", "a", "1")
	v, err := w.SpaceItems(ctx, space, "room-", runnel.ItemQuery{})
	if err != nil {
		t.Fatal(err)
	}
	var groups []string
	for i := range v.Groups {
		groups = append(groups, v.Groups[i].Segment.Name+tableText(&v.Groups[i]))
	}
	if got := strings.Join(groups, "; "); got != `room-1@1 a=1#1; room-2@2 a=1#1 b={"x":1,"y":2}#2` {
		t.Fatal(got)
	}
	w.append("s/plain", "2")
	w.set("s/hall", "a", "2")
	w.set("s/room-2", "b", `{"x":1}`)
	w.set("s/room-3", "n", "1")
	w.set("s/room-1", "a", "")
	var told []string
	for b, err := range w.TailSpaceItems(ctx, space, "room-", v.At) {
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range b.Changes {
			told = append(told, fmt.Sprintf("%v %s/%s=%s was %s", c.Op, b.Segment.Name, c.Key, c.Value, c.Old))
		}
		if len(told) == 3 {
			break
		}
	}
	if got := strings.Join(told, "; "); got != `update room-2/b={"x":1} was {"x":1,"y":2}; create room-3/n=1 was ; delete room-1/a= was 1` {
		t.Fatal(got)
	}
}

func TestGroupsAndSpacesOfItemsAreListedAndDeleted(t *testing.T) {
	w := inMemory(t)
	w.set("one/b", "k", "1")
	w.set("one/a", "k", "1")
	w.create("one/plain", runnel.CreateOptions{})
	w.create("two/plain", runnel.CreateOptions{})
	list := func() (all []string) {
		for space, err := range w.ItemSpaces(ctx, runnel.Store{}, "", "") {
			if err != nil {
				t.Fatal(err)
			}
			for info, err := range w.ItemGroups(ctx, space, "", "") {
				if err != nil {
					t.Fatal(err)
				}
				all = append(all, info.Segment.Path())
			}
		}
		return all
	}
	if got := fmt.Sprint(list()); got != "[one/a one/b]" {
		t.Fatal(got)
	}
	if n, err := w.DeleteItemSpace(ctx, runnel.Space{Name: "one"}); n != 2 || err != nil {
		t.Fatal(n, err)
	}
	if got := list(); len(got) != 0 {
		t.Fatal(got)
	}
	w.set("one/a", "k2", "2")
	w.wantTable("one/a", "@1 k2=2#1")
}

func TestStampsIncreaseOverRestartsAndClocksThatGoBack(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	w := newWorld(t, new(memory.Driver), engine.Config{Now: func() time.Time { return now }, SweepInterval: -1})
	last := int64(0)
	for i := range 6 {
		if i%2 == 1 {
			w.set("g", "a", "")
		} else {
			w.set("g", "a", "1", "b", "2")
		}
		v, err := w.Items(ctx, at("g"), runnel.ItemQuery{})
		if err != nil {
			t.Fatal(err)
		}
		if got := v.Stamp(v.Tail); got <= last+1 || got > now.UnixMilli()+20 && i == 0 {
			t.Fatalf("stamp %d after %d", got, last)
		} else {
			last = got
		}
		now = now.Add(-time.Hour)
		w.crash()
	}
}

func TestALargeItemIsRefusedWithTheNumbers(t *testing.T) {
	w := inMemory(t)
	large := `"` + strings.Repeat("x", runnel.MaxItemBytes) + `"`
	var over *runnel.TooLargeError
	if _, err := w.trySet("g", runnel.ItemWrites{}, "a", large); !errors.As(err, &over) || over.Limit != runnel.MaxItemBytes {
		t.Fatal(err)
	}
	w.set("g", "a", `"`+strings.Repeat("x", runnel.MaxItemBytes-20)+`"`)
	w.set("g", "a", "")
	w.wantTable("g", "@2")
}

func TestAViewHoldsNoMoreThanItMay(t *testing.T) {
	w := newWorld(t, new(memory.Driver), engine.Config{MaxViewBytes: 5000})
	var want []string
	for i := range 10 {
		key := fmt.Sprint("k", i)
		w.set("s/g", key, wide(1000))
		want = append(want, key)
	}
	w.set("s/small", "k", "1")
	var large *runnel.TooLargeError
	if _, err := w.Items(ctx, at("s/g"), runnel.ItemQuery{}); !errors.As(err, &large) || large.Limit != 5000 || large.Got <= 5000 {
		t.Fatalf("all items at once: %v", err)
	}
	if _, err := w.SpaceItems(ctx, at("s/g").In(), "", runnel.ItemQuery{}); !errors.Is(err, runnel.ErrTooLarge) {
		t.Fatalf("all items of the space: %v", err)
	}
	for i := range 6 {
		w.set(fmt.Sprint("several/g", i), "k", wide(1000))
	}
	if _, err := w.SpaceItems(ctx, at("several/g0").In(), "", runnel.ItemQuery{}); !errors.Is(err, runnel.ErrTooLarge) {
		t.Fatalf("all items of small groups: %v", err)
	}
	if v, err := w.SpaceItems(ctx, at("several/g0").In(), "g1", runnel.ItemQuery{}); err != nil || len(v.Groups) != 1 {
		t.Fatalf("items of one of the groups: %+v, %v", v, err)
	}
	var got []string
	for after, more := "", true; more; {
		v, err := w.Items(ctx, at("s/g"), runnel.ItemQuery{Limit: 100, After: after})
		if err != nil || len(v.Items) > 4 {
			t.Fatalf("a page of %d, %v", len(v.Items), err)
		}
		for _, it := range v.Items {
			got = append(got, it.Key)
		}
		after, more = v.Next, v.More
	}
	if !slices.Equal(got, want) {
		t.Fatalf("pages have %q", got)
	}
	w.set("s/one", "k", wide(10_000)) // one that is larger by itself is read
	if v, err := w.Items(ctx, at("s/one"), runnel.ItemQuery{}); err != nil || len(v.Items) != 1 {
		t.Fatalf("%v", err)
	}
}
