package client_test

import (
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/client"
	"github.com/runnelhq/runnel/engine"
	"github.com/runnelhq/runnel/storage/faulty"
)

var errDisk = errors.New("a sector is unreadable")

// breakRead lets the n-th call fail that reads storage from here on, after it has yielded some of what it
// was to yield. It returns what tells whether that has happened.
func (w *world) breakRead(n int64) (happened func() bool) {
	var calls atomic.Int64
	for _, d := range w.drivers {
		d.SetRules(faulty.Rule{
			When: func(c faulty.Call) bool {
				switch c.Op {
				case faulty.Get, faulty.Scan, faulty.Stores, faulty.Partitions:
					return calls.Add(1) == n
				default:
					return false
				}
			},
			Then: faulty.Midway(1, errDisk),
		})
	}
	return func() bool { return calls.Load() >= n }
}

func (w *world) mend() {
	for _, d := range w.drivers {
		d.SetRules()
	}
}

// collect returns what a sequence yields before its error, which is the last thing it yields. It leaves
// one that does not end by itself when it has what is wanted.
func collect[T any](t *testing.T, all iter.Seq2[T, error], text func(T) string, most int) (texts []string, err error) {
	t.Helper()
	for one, err := range all {
		if err != nil {
			return texts, err
		}
		if s := text(one); s != "" {
			texts = append(texts, s)
		}
		if len(texts) == most {
			break
		}
	}
	return texts, nil
}

func payload(e client.Entry) string { return string(e.Payload[:5]) }

func TestWhatStorageBreaksOffIsNeverTakenForComplete(t *testing.T) {
	everywhereWith(t, engine.Config{TailCacheBytes: 1, SweepInterval: -1}, func(t *testing.T, w *world) {
		other := runnel.Space{Name: "other"}
		filling := strings.Repeat("x", 20_000) // several reads of storage, and more than a window of the WebSocket
		for i := range 40 {
			for _, segment := range []runnel.Segment{orders.Segment(fmt.Sprint(i % 2)), other.Segment("s")} {
				_, err := w.Publish(t.Context(), segment, records(fmt.Sprintf("%05d%s", i, filling))...)
				must(t, err)
			}
		}
		reader := w.Reader(runnel.CursorName{Space: orders, Segment: "1", Name: "one"})
		for _, name := range []string{"one", "two", "three"} {
			_, err := w.Transact(t.Context(), orders, runnel.Transaction{Cursors: []runnel.CursorMove{{Segment: "1", Name: name, Place: 3}}})
			must(t, err)
			_, err = w.AcquireLease(t.Context(), orders, runnel.LeaseRequest{Key: name, Holder: "h", TTL: time.Hour})
			must(t, err)
		}
		query := func(q runnel.Query, change func(q *runnel.Query)) func(int) ([]string, error) {
			change(&q)
			return func(most int) ([]string, error) { return collect(t, w.Consume(t.Context(), q), payload, most) }
		}
		as := func(*runnel.Query) {}
		follow := func(q *runnel.Query) { q.Follow = true }
		infos := func(i runnel.Info) string { return i.Segment.Path() }
		for name, read := range map[string]func(most int) ([]string, error){
			"a segment":                query(client.Segment(orders.Segment("1"), 0), as),
			"a segment backwards":      query(client.Segment(orders.Segment("1"), 0), func(q *runnel.Query) { q.Backwards = true }),
			"the last of a segment":    query(client.Segment(orders.Segment("1"), 0), func(q *runnel.Query) { q.Last = 15 }),
			"a tail of a segment":      query(client.Segment(orders.Segment("1"), 0), follow),
			"a space":                  query(client.Space(orders, 0), as),
			"a space backwards":        query(client.Space(orders, 0), func(q *runnel.Query) { q.Backwards = true }),
			"the last of a space":      query(client.Space(orders, 0), func(q *runnel.Query) { q.Last = 15 }),
			"a space since a time":     query(client.Space(orders, 0), func(q *runnel.Query) { q.Since = time.Unix(1, 0) }),
			"a space through a filter": query(client.Space(orders, 0), func(q *runnel.Query) { q.Filter.SegmentPrefix = "1" }),
			"a tail of a space":        query(client.Space(orders, 0), follow),
			"several spaces":           query(client.Spaces(orders, other), as),
			"a tail of several":        query(client.Spaces(orders, other), follow),
			"a reader with a cursor": func(most int) ([]string, error) {
				return collect(t, reader.Consume(t.Context(), runnel.Query{}), payload, most)
			},
			"the segments": func(most int) ([]string, error) {
				return collect(t, w.List(t.Context(), runnel.Store{}, runnel.ListOptions{}), infos, most)
			},
			"the spaces": func(most int) ([]string, error) {
				return collect(t, w.Spaces(t.Context(), runnel.Store{}, "", ""), func(s runnel.Space) string { return s.Name }, most)
			},
			"the cursors": func(most int) ([]string, error) {
				return collect(t, w.Cursors(t.Context(), orders, "1", "", ""), func(c runnel.Cursor) string { return c.Name }, most)
			},
			"the leases": func(most int) ([]string, error) {
				return collect(t, w.Leases(t.Context(), orders, "", ""), func(l runnel.Lease) string { return l.Key }, most)
			},
			"a watch of segments": func(most int) ([]string, error) {
				return collect(t, w.WatchSpace(t.Context(), orders), func(s runnel.Status) string {
					if s.Mark {
						return "that is all"
					}
					return infos(s.Info)
				}, most)
			},
			"a watch of leases": func(most int) ([]string, error) {
				return collect(t, w.WatchLeases(t.Context(), orders, ""), func(e runnel.LeaseEvent) string {
					if e.Mark {
						return "that is all"
					}
					return e.Lease.Key
				}, most)
			},
		} {
			endless := map[string]int{
				"a tail of a segment": 20, "a tail of a space": 40, "a tail of several": 80, "a watch of segments": 3, "a watch of leases": 4,
			}
			whole, err := read(endless[name])
			must(t, err)
			refused := 0
			for n := int64(1); n < 60; n++ {
				happened := w.breakRead(n)
				got, err := read(endless[name])
				w.mend()
				switch {
				case err == nil && !slices.Equal(got, whole):
					t.Errorf("%s, broken off at read %d: %d of %d, and no error", name, n, len(got), len(whole))
				case err != nil && !strings.Contains(err.Error(), errDisk.Error()):
					t.Errorf("%s, broken off at read %d: %v", name, n, err)
				case err != nil && !slices.Equal(got, whole[:min(len(got), len(whole))]):
					t.Errorf("%s, broken off at read %d: other things than those that are there", name, n)
				case err != nil:
					refused++
				}
				if !happened() {
					break
				}
			}
			if refused == 0 {
				t.Errorf("%s: it has not read storage", name)
			}
			again, err := read(endless[name])
			must(t, err)
			want(t, slices.Equal(again, whole), true)
		}
	})
}

func TestAReadThatStorageHasBrokenOffIsGoneOnWithFromTheLastEntry(t *testing.T) {
	everywhereWith(t, engine.Config{TailCacheBytes: 1}, func(t *testing.T, w *world) {
		for i := range 200 {
			_, err := w.Publish(t.Context(), order1, records(fmt.Sprintf("%05d%s", i, strings.Repeat("x", 10_000)))...)
			must(t, err)
		}
		after, breaks := runnel.Position(0), 0
		for next := 0; next < 200; {
			w.breakRead(int64(4 + breaks)) // later each time, so that something is read
			for e, err := range w.Tail(t.Context(), client.Space(orders, after)) {
				if err != nil {
					breaks++
					break
				}
				want(t, payload(e), fmt.Sprintf("%05d", next))
				after = e.Position
				if next++; next == 200 {
					break
				}
			}
			w.mend()
		}
		if breaks == 0 {
			t.Error("storage has broken nothing off")
		}
	})
}
