package engine_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/engine"
	"github.com/runnelhq/runnel/storage/faulty"
	"github.com/runnelhq/runnel/storage/memory"
)

// found is an entry that a query yields, as the tests tell it.
type found struct {
	space, segment string
	runnel.Entry
}

func (f found) String() string { return fmt.Sprintf("%s/%s:%s", f.space, f.segment, f.Payload) }

// query runs a query to its end.
func (w *world) query(q runnel.Query) ([]found, error) {
	var all []found
	for b, err := range w.Query(ctx, q) {
		if err != nil {
			return all, err
		}
		if b.Len() == 0 || b.Entry(0).Sequence != b.First() || b.Entry(b.Len()-1).Sequence != b.Last() {
			return all, fmt.Errorf("batch of %d from %d to %d", b.Len(), b.First(), b.Last())
		}
		joined := ""
		for i := range b.Len() {
			e := b.Entry(i)
			if string(b.Payload(i)) != string(e.Payload) {
				return all, fmt.Errorf("payload %d of the batch is %q, and that of its entry %q", i, b.Payload(i), e.Payload)
			}
			joined += string(e.Payload)
			all = append(all, found{b.Segment.Space, b.Segment.Name, e})
		}
		if joined != string(b.Payloads()) {
			return all, fmt.Errorf("payloads %q of %q", b.Payloads(), joined)
		}
	}
	return all, nil
}

func (w *world) mustQuery(q runnel.Query) []string {
	w.t.Helper()
	all, err := w.query(q)
	if err != nil {
		w.t.Fatalf("%+v: %v", q, err)
	}
	return foundTexts(all)
}

func foundTexts(all []found) []string {
	texts := make([]string, len(all))
	for i, f := range all {
		texts[i] = f.String()
	}
	return texts
}

func ofSegment(path string) runnel.Source {
	seg := at(path)
	return runnel.Source{Space: seg.In(), Segment: seg.Name}
}

func ofSpace(name string) runnel.Source { return runnel.Source{Space: runnel.Space{Name: name}} }

// matches tells whether a query without Last, Limit and places selects an entry.
func matches(q *runnel.Query, f found) bool {
	return !f.Time.Before(q.Since) && (q.Until.IsZero() || f.Time.Before(q.Until)) &&
		strings.HasPrefix(f.segment, q.Filter.SegmentPrefix) && q.Filter.MatchMetadata(f.Metadata)
}

// TestAQuerySelectsWhatItsBoundsSay draws a log and queries of it, and compares with a look at every entry.
func TestAQuerySelectsWhatItsBoundsSay(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		now := time.Unix(1_700_000_000, 0)
		w := newWorld(t, new(memory.Driver), engine.Config{
			TailCacheBytes: rapid.SampledFrom([]int64{1, 0}).Draw(rt, "cache"),
			Now:            func() time.Time { return now },
			SweepInterval:  -1,
		})
		defer w.Close()
		paths := []string{"s/a", "s/ab", "s/b", "z/a"}
		w.create("s/a", runnel.CreateOptions{Retention: runnel.Retention{Entries: rapid.SampledFrom([]uint64{0, 10}).Draw(rt, "kept")}})
		for _, path := range paths[1:] {
			w.create(path, runnel.CreateOptions{})
		}
		for range rapid.IntRange(0, 60).Draw(rt, "appends") {
			now = now.Add(time.Duration(rapid.IntRange(0, 2).Draw(rt, "pause")) * time.Second)
			var rs []runnel.Record
			for range rapid.IntRange(1, 4).Draw(rt, "batch") {
				rs = append(rs, runnel.Record{
					Payload:  []byte(rapid.StringMatching("[a-z]{0,3}").Draw(rt, "payload")),
					Metadata: rapid.SampledFrom([]map[string]string{nil, {"type": "x1"}, {"type": "x2", "k": ""}}).Draw(rt, "metadata"),
				})
			}
			if _, err := w.Append(ctx, at(rapid.SampledFrom(paths).Draw(rt, "path")), runnel.AppendOptions{}, rs...); err != nil {
				rt.Fatal(err)
			}
		}
		for range 10 {
			src := rapid.SampledFrom([]runnel.Source{ofSegment("s/a"), ofSegment("s/b"), ofSpace("s"), ofSpace("z"), ofSpace("none")}).Draw(rt, "source")
			whole, err := w.query(runnel.Query{Sources: []runnel.Source{src}})
			if err != nil {
				rt.Fatal(err)
			}
			moment := rapid.SampledFrom([]time.Time{{}, time.Unix(1_700_000_000, 0), time.Unix(1_700_000_007, 500), time.Unix(1_700_000_020, 0), time.Unix(1_800_000_000, 0)})
			q := runnel.Query{
				Since: moment.Draw(rt, "since"), Until: moment.Draw(rt, "until"),
				Last:  rapid.SampledFrom([]uint64{0, 0, 1, 5, 1000}).Draw(rt, "last"),
				Limit: rapid.SampledFrom([]uint64{0, 0, 1, 5, 1000}).Draw(rt, "limit"),
				Filter: runnel.Filter{
					SegmentPrefix:  rapid.SampledFrom([]string{"", "", "a"}).Draw(rt, "prefix"),
					Metadata:       rapid.SampledFrom([]map[string]string{nil, {"type": "x1"}, {"k": ""}}).Draw(rt, "with"),
					MetadataPrefix: rapid.SampledFrom([]map[string]string{nil, {"type": "x"}}).Draw(rt, "with prefix"),
				},
				Backwards: rapid.Bool().Draw(rt, "backwards"),
			}
			if len(whole) > 0 {
				place := func(name string) uint64 {
					e := rapid.SampledFrom(whole).Draw(rt, name)
					if src.Segment != "" {
						return uint64(e.Sequence)
					}
					return uint64(e.Position)
				}
				if rapid.Bool().Draw(rt, "from a place") {
					src.After = place("after")
				}
				if rapid.Bool().Draw(rt, "to a place") {
					q.Through = place("through")
				}
			}
			q.Sources = []runnel.Source{src}
			if !q.Until.IsZero() && q.Until.Before(q.Since) {
				continue
			}
			var want []found
			for _, f := range whole {
				place := uint64(f.Position)
				if src.Segment != "" {
					place = uint64(f.Sequence)
				}
				if place > src.After && (q.Through == 0 || place <= q.Through) && !f.Time.Before(q.Since) && (q.Until.IsZero() || f.Time.Before(q.Until)) {
					want = append(want, f)
				}
			}
			if n := int(q.Last); n > 0 && len(want) > n {
				want = want[len(want)-n:]
			}
			want = slices.DeleteFunc(want, func(f found) bool { return !matches(&q, f) })
			if q.Backwards {
				slices.Reverse(want)
			}
			if n := int(q.Limit); n > 0 && len(want) > n {
				want = want[:n]
			}
			got, err := w.query(q)
			if err != nil || !slices.Equal(foundTexts(got), foundTexts(want)) {
				rt.Fatalf("%+v\n got %s, %v\nwant %s\nof %s", q, short(foundTexts(got)), err, short(foundTexts(want)), short(foundTexts(whole)))
			}
		}
		// Several spaces are one by time, and each keeps its order.
		merged := w.mustQuery(runnel.Query{Sources: []runnel.Source{ofSpace("s"), ofSpace("z"), ofSpace("none")}})
		one, _ := w.query(runnel.Query{Sources: []runnel.Source{ofSpace("s")}})
		two, _ := w.query(runnel.Query{Sources: []runnel.Source{ofSpace("z")}})
		want := append(one, two...)
		slices.SortStableFunc(want, func(a, b found) int { return a.Time.Compare(b.Time) })
		if !slices.Equal(merged, foundTexts(want)) {
			rt.Fatalf("merged %s, want %s", short(merged), short(foundTexts(want)))
		}
	})
}

func TestAQueryIsCheckedBeforeItIsRun(t *testing.T) {
	w := inMemory(t)
	now := time.Now()
	for name, q := range map[string]runnel.Query{
		"no source":                {},
		"two segments":             {Sources: []runnel.Source{ofSegment("s/a"), ofSegment("s/b")}},
		"a space twice":            {Sources: []runnel.Source{ofSpace("s"), ofSpace("s")}},
		"two spaces backwards":     {Sources: []runnel.Source{ofSpace("s"), ofSpace("z")}, Backwards: true},
		"two spaces to a place":    {Sources: []runnel.Source{ofSpace("s"), ofSpace("z")}, Through: 1},
		"the last of two spaces":   {Sources: []runnel.Source{ofSpace("s"), ofSpace("z")}, Last: 1},
		"following backwards":      {Sources: []runnel.Source{ofSpace("s")}, Follow: true, Backwards: true},
		"following the last":       {Sources: []runnel.Source{ofSpace("s")}, Follow: true, Last: 1},
		"ends before it begins":    {Sources: []runnel.Source{ofSpace("s")}, Since: now, Until: now.Add(-1)},
		"a name that cannot be":    {Sources: []runnel.Source{ofSpace("s//t")}},
		"a segment that cannot be": {Sources: []runnel.Source{{Segment: "a/b"}}},
	} {
		_, err := w.query(q)
		if err == nil || !isInvalid(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, err := w.query(runnel.Query{Sources: []runnel.Source{ofSegment("none")}})
	wantError(t, err, runnel.ErrNotFound)
	w.create("s/a", runnel.CreateOptions{Retention: runnel.Retention{Entries: 1}}, "1", "2", "3")
	src := ofSegment("s/a")
	src.After = 1
	_, err = w.query(runnel.Query{Sources: []runnel.Source{src}})
	wantError(t, err, runnel.ErrTrimmed)
	beyond := ofSpace("s")
	src.After, beyond.After = 4, 100
	for _, of := range []runnel.Source{src, beyond} {
		for _, follow := range []bool{false, true} {
			_, err = w.query(runnel.Query{Sources: []runnel.Source{of}, Follow: follow})
			wantError(t, err, runnel.ErrBeyondTail)
		}
	}
	src.ID = 12345
	_, err = w.query(runnel.Query{Sources: []runnel.Source{src}})
	wantError(t, err, runnel.ErrNotFound)
}

func isInvalid(err error) bool {
	return strings.Contains(fmt.Sprint(err), "must") || strings.Contains(fmt.Sprint(err), "query")
}

func TestAQueryFollows(t *testing.T) {
	for _, tc := range []struct {
		name    string
		sources []runnel.Source
	}{
		{"a segment", []runnel.Source{ofSegment("s/a")}},
		{"a space", []runnel.Source{ofSpace("s")}},
		{"several spaces, some of which come later", []runnel.Source{ofSpace("s"), ofSpace("later"), ofSpace("later still")}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := inMemory(t)
				w.create("s/a", runnel.CreateOptions{}, "1", "2")
				c, cancel := context.WithCancel(ctx)
				defer cancel()
				arrived := make(chan string, 100)
				ended := later(func() error {
					for b, err := range w.Query(c, runnel.Query{Sources: tc.sources, Follow: true}) {
						if err != nil {
							return err
						}
						for i := range b.Len() {
							arrived <- b.Segment.Space + ":" + string(b.Payload(i))
						}
					}
					return nil
				})
				want := func(texts ...string) {
					t.Helper()
					synctest.Wait()
					for _, text := range texts {
						if got := <-arrived; got != text {
							t.Fatalf("%s, want %s", got, text)
						}
					}
					if len(arrived) > 0 {
						t.Fatal(<-arrived)
					}
				}
				want("s:1", "s:2")
				w.append("s/a", "3")
				want("s:3")
				if len(tc.sources) > 1 {
					w.create("later/x", runnel.CreateOptions{}, "4")
					want("later:4")
					w.append("s/a", "5")
					want("s:5")
				}
				cancel()
				wantError(t, <-ended, context.Canceled)
			})
		})
	}
}

func TestAQueryThatFollowsEnds(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := inMemory(t)
		w.create("s/a", runnel.CreateOptions{}, "1")
		run := func(q runnel.Query) <-chan []string {
			q.Follow = true
			return later(func() []string {
				all, err := w.query(q)
				if err != nil {
					return []string{err.Error()}
				}
				return foundTexts(all)
			})
		}
		until := time.Now().Add(time.Minute)
		queries := map[string]<-chan []string{
			"s/a:1 s/a:2":       run(runnel.Query{Sources: []runnel.Source{ofSegment("s/a")}, Limit: 2}),
			"s/a:1 s/a:2 s/a:3": run(runnel.Query{Sources: []runnel.Source{ofSpace("s")}, Through: 4}),
			"s/a:2 s/a:3":       run(runnel.Query{Sources: []runnel.Source{{Space: at("s/a").In(), Segment: "a", After: uint64(runnel.Latest)}}}), // until it is closed
			"s/a:3":             run(runnel.Query{Sources: []runnel.Source{ofSpace("s"), ofSpace("z")}, Since: time.Now().Add(time.Second), Until: until}),
		}
		synctest.Wait()
		w.append("s/a", "2")
		pass(time.Second)
		if _, err := w.tryAppend("s/a", runnel.AppendOptions{Close: true}, "3"); err != nil {
			t.Fatal(err)
		}
		for want, got := range queries {
			if got := strings.Join(<-got, " "); got != want {
				t.Errorf("got %s, want %s", got, want)
			}
		}
		if now := time.Now(); !now.Equal(until) {
			t.Errorf("it took until %v, not %v", now, until)
		}
	})
}

func TestAQueryOfSeveralSpacesThatCannotBeginLeavesNothingBehind(t *testing.T) {
	bubble(t, func(t *testing.T) { // which ends only when nothing is left running in it
		w := newWorld(t, new(memory.Driver), engine.Config{TailCacheBytes: 1})
		for _, path := range []string{"s/a", "t/a"} {
			w.create(path, runnel.CreateOptions{}, "1")
		}
		w.driver.SetRules(faulty.Rule{
			When: func(c faulty.Call) bool { return c.Op == faulty.Scan && c.Partition.Name == "t" },
			Then: faulty.Before(errors.New("the disk is gone")),
		})
		if _, err := w.query(runnel.Query{Sources: []runnel.Source{ofSpace("s"), ofSpace("t")}}); err == nil {
			t.Error("storage failed, and the query did not")
		}
	})
}
