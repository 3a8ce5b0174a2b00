package engine_test

import (
	"bytes"
	"encoding/binary"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/engine"
	"github.com/runnelhq/runnel/record"
	"github.com/runnelhq/runnel/storage"
	"github.com/runnelhq/runnel/storage/memory"
)

// inFirstForm puts the cursors of all subscriptions into their first form.
func inFirstForm(t *testing.T, driver storage.Driver) (n int) {
	t.Helper()
	control := storage.Partition{Name: runnel.ReservedElement}
	var b storage.Batch
	for pair, err := range driver.Scan(t.Context(), control, storage.Range{From: []byte{'u'}, To: []byte{'u' + 1}}) {
		if err != nil {
			t.Fatal(err)
		}
		c, err := record.DecodeCursor(pair.Value)
		if err != nil {
			t.Fatal(err)
		}
		row := append(binary.AppendUvarint([]byte{1, 1<<3 | 2}, uint64(len(c.Path))), c.Path...)
		for i, v := range []uint64{c.Segment, c.Place, flag(c.Explicit), flag(c.Glob), uint64(c.Updated)} {
			if v > 0 {
				row = binary.AppendUvarint(append(row, byte(i+2)<<3), v)
			}
		}
		b.Set(append([]byte{'L'}, pair.Key[1:]...), row, nil)
		b.Delete(bytes.Clone(pair.Key))
		n++
	}
	version, _, err := driver.Guard(t.Context(), control)
	if err != nil {
		t.Fatal(err)
	}
	b.Guarded, b.Expect = !driver.Limits().Exclusive, version
	if _, err := driver.Commit(t.Context(), control, &b); err != nil {
		t.Fatal(err)
	}
	return n
}

func flag(set bool) uint64 {
	if set {
		return 1
	}
	return 0
}

func TestCursorsInTheirFirstFormGoOnWhereTheyAre(t *testing.T) {
	for name, driver := range map[string]*memory.Driver{
		"alone": {}, "shared": {Shared: true}, "shared and narrow": {Shared: true, Max: storage.Limits{MaxBatchOps: 24}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := subscribe(t, driver, "events/*")
				var named []string
				for _, path := range []string{"named/a", "named/b", "named/c", "named/d"} {
					s.put(path)
					named = append(named, path)
				}
				if err := s.LinkStreams(t.Context(), noStore, "sub", named); err != nil {
					t.Fatal(err)
				}
				for range 3 {
					s.put("events/a")
				}
				s.ack(s.claim("one"), "events/a", 2, true)
				before := s.paths(t)
				s.Close()
				if n := inFirstForm(t, driver); n != 5 {
					t.Fatalf("%d cursors", n)
				}
				e, err := engine.Open(driver, engine.Config{})
				if err != nil {
					t.Fatal(err)
				}
				defer e.Close()
				s.Engine = e
				if after := s.paths(t); !slices.Equal(after, before) {
					t.Fatalf("%+v, which were %+v", after, before)
				}
				if c := s.place("events/a"); c.Place != 2 {
					t.Fatalf("%+v", c)
				}
				s.put("named/d")
				s.ack(s.claim("one"), "events/a", 3, true)
				if w := s.claim("one"); w.Streams[0].Path != "named/d" {
					t.Fatalf("%+v", w)
				}
			})
		})
	}
}

// paths are the streams of the subscription, in their order.
func (s *subscribed) paths(t *testing.T) (all []runnel.SubscriptionLink) {
	t.Helper()
	for l, err := range s.SubscriptionLinks(t.Context(), noStore, "sub") {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, l)
	}
	return all
}
