package engine_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/engine"
	"github.com/runnelhq/runnel/storage"
	"github.com/runnelhq/runnel/storage/faulty"
	"github.com/runnelhq/runnel/storage/memory"
)

var ctx = context.Background()

// world is an engine over storage that outlives it, in the words of the tests. All its methods end the
// test when what they do fails, unless they return the error.
type world struct {
	*engine.Engine
	t      testing.TB
	kept   storage.Driver // what outlives the engine
	driver *faulty.Driver // through which the engine reaches it
	cfg    engine.Config
}

func newWorld(t testing.TB, kept storage.Driver, cfg engine.Config) *world {
	t.Helper()
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	w := &world{t: t, kept: kept, cfg: cfg}
	w.open()
	return w
}

// inMemory is a world over memory that only it uses.
func inMemory(t testing.TB) *world {
	t.Helper()
	return newWorld(t, new(memory.Driver), engine.Config{})
}

func (w *world) open() {
	w.t.Helper()
	w.driver = faulty.New(w.kept)
	e, err := engine.Open(w.driver, w.cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	w.Engine = e
	w.t.Cleanup(func() { _ = e.Close() })
}

// reopen closes the engine as it should be, and opens another one.
func (w *world) reopen() {
	w.t.Helper()
	if err := w.Close(); err != nil {
		w.t.Fatal(err)
	}
	w.open()
}

// crash opens another engine as if the process had died: nothing of the old one reaches storage.
func (w *world) crash() {
	w.t.Helper()
	w.driver.SetRules(faulty.Rule{Then: faulty.Before(storage.ErrFailed)})
	w.open()
}

// blocked makes commits to a space wait until the function it returns is called.
func (w *world) blocked(space string) (release func()) {
	let := make(chan struct{})
	hook := func(ctx context.Context) error {
		select {
		case <-let:
			return nil
		case <-ctx.Done():
			return storage.ErrUnknown
		}
	}
	here := func(c faulty.Call) bool { return c.Op == faulty.Commit && c.Partition.Name == space }
	w.driver.SetRules(faulty.Rule{When: here, Then: faulty.Wait(hook, faulty.Through)})
	once := sync.OnceFunc(func() { close(let) })
	w.t.Cleanup(once)
	return func() {
		w.driver.SetRules()
		once()
	}
}

// at is the segment of a path in the default store.
func at(path string) runnel.Segment {
	seg, err := runnel.ParsePath(runnel.Store{}, path)
	if err != nil {
		panic(err)
	}
	return seg
}

func records(payloads ...string) []runnel.Record {
	rs := make([]runnel.Record, len(payloads))
	for i := range payloads {
		rs[i].Payload = []byte(payloads[i])
	}
	return rs
}

func (w *world) create(path string, o runnel.CreateOptions, payloads ...string) runnel.Info {
	w.t.Helper()
	created, err := w.tryCreate(path, o, payloads...)
	if err != nil {
		w.t.Fatalf("create %s: %v", path, err)
	}
	if created.Existed {
		w.t.Fatalf("create %s: it was there already", path)
	}
	return created.Info
}

func (w *world) tryCreate(path string, o runnel.CreateOptions, payloads ...string) (runnel.Created, error) {
	o.Records = append(o.Records, records(payloads...)...)
	return w.Create(ctx, at(path), o)
}

// fork creates a fork of a source after an entry.
func (w *world) fork(path, source string, after runnel.Sequence, payloads ...string) runnel.Info {
	w.t.Helper()
	return w.create(path, runnel.CreateOptions{Fork: &runnel.ForkFrom{Source: at(source), At: after}}, payloads...)
}

func (w *world) append(path string, payloads ...string) runnel.Appended {
	w.t.Helper()
	a, err := w.tryAppend(path, runnel.AppendOptions{}, payloads...)
	if err != nil {
		w.t.Fatalf("append to %s: %v", path, err)
	}
	return a
}

func (w *world) tryAppend(path string, o runnel.AppendOptions, payloads ...string) (runnel.Appended, error) {
	return w.Append(ctx, at(path), o, records(payloads...)...)
}

func (w *world) delete(path string) {
	w.t.Helper()
	if err := w.Delete(ctx, at(path)); err != nil {
		w.t.Fatalf("delete %s: %v", path, err)
	}
}

func (w *world) stat(path string) runnel.Info {
	w.t.Helper()
	info, err := w.Stat(ctx, at(path))
	if err != nil {
		w.t.Fatalf("stat %s: %v", path, err)
	}
	return info
}

func (w *world) statErr(path string) error {
	_, err := w.Stat(ctx, at(path))
	return err
}

// readErr reads a segment from a place to its end.
func (w *world) readErr(path string, from runnel.Sequence) ([]runnel.Entry, error) {
	v, err := w.Read(ctx, at(path), 0, from)
	if err != nil {
		return nil, err
	}
	return entriesOf(v)
}

// entriesOf drains a view, and checks that it holds what it says it does: everything after its place
// through its tail, in order, both ways in which it can be had.
func entriesOf(v runnel.View) ([]runnel.Entry, error) {
	var all []runnel.Entry
	next := v.From + 1
	for b, err := range v.Batches {
		if err != nil {
			return all, err
		}
		if b.Len() == 0 || b.First() != next || b.Last() != next+runnel.Sequence(b.Len())-1 {
			return all, fmt.Errorf("batch of %d entries from %d to %d, want it to begin at %d", b.Len(), b.First(), b.Last(), next)
		}
		for i := range b.Len() {
			e := b.Entry(i)
			if e.Sequence != next || e.Transaction > e.Position {
				return all, fmt.Errorf("entry %+v, want sequence %d", e, next)
			}
			all = append(all, e)
			next++
		}
	}
	if next != v.Tail+1 {
		return all, fmt.Errorf("the view ends at %d and not at its tail %d", next-1, v.Tail)
	}
	return all, sameStream(v, all)
}

// sameStream checks that the stream of a view yields the entries that its batches did.
func sameStream(v runnel.View, all []runnel.Entry) error {
	i, size := 0, 0
	for b, err := range v.Stream {
		if err != nil {
			return err
		}
		for k := range b.Len() {
			if e := b.Entry(k); e.Sequence != all[i].Sequence || e.Position != all[i].Position || !bytes.Equal(e.Payload, all[i].Payload) {
				return fmt.Errorf("the stream has %+v, the batches %+v", e, all[i])
			}
			i++
		}
		size += len(b.Payloads())
	}
	if i != len(all) || v.PayloadBytes >= 0 && v.PayloadBytes != int64(size) {
		return fmt.Errorf("the stream has %d entries of %d bytes, want %d of %d", i, size, len(all), v.PayloadBytes)
	}
	return nil
}

// wantOrder checks that neither positions nor times go back.
func wantOrder(t testing.TB, entries []runnel.Entry) {
	t.Helper()
	for i := 1; i < len(entries); i++ {
		if a, b := entries[i-1], entries[i]; b.Position <= a.Position || b.Time.Before(a.Time) {
			t.Fatalf("entry %d at position %d, %v follows position %d, %v", b.Sequence, b.Position, b.Time, a.Position, a.Time)
		}
	}
}

func texts(entries []runnel.Entry) []string {
	all := make([]string, len(entries))
	for i := range entries {
		all[i] = string(entries[i].Payload)
	}
	return all
}

// want checks all that a segment still holds.
func (w *world) want(path string, payloads ...string) {
	w.t.Helper()
	w.wantFrom(path, w.stat(path).Earliest, payloads...)
}

func (w *world) wantFrom(path string, from runnel.Sequence, payloads ...string) {
	w.t.Helper()
	got, err := w.readErr(path, from)
	if err != nil {
		w.t.Fatalf("read %s after %d: %v", path, from, err)
	}
	if !slices.Equal(texts(got), payloads) {
		w.t.Fatalf("%s holds %s after %d, want %s", path, short(texts(got)), from, short(payloads))
	}
}

func short(payloads []string) string {
	s := fmt.Sprintf("%q", payloads)
	if len(s) > 300 {
		s = fmt.Sprintf("%s… (%d)", s[:300], len(payloads))
	}
	return s
}

func wantError(t testing.TB, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Fatalf("got error %v, want %v", got, want)
	}
}

// as returns an error as the type that carries its numbers.
func as[T error](t testing.TB, err error) T {
	t.Helper()
	var typed T
	if !errors.As(err, &typed) {
		t.Fatalf("got error %v, want a %T", err, typed)
	}
	return typed
}

// rows counts the keys of a space in storage by their kinds, of which keys.go has the list.
func (w *world) rows(space string) map[string]int {
	w.t.Helper()
	kinds := make(map[string]int)
	for pair, err := range w.kept.Scan(ctx, storage.Partition{Name: space}, storage.Range{}) {
		if err != nil {
			w.t.Fatal(err)
		}
		kinds[string(pair.Key[:1])]++
	}
	return kinds
}

// wantRows checks how many keys of some kinds a space has in storage.
func (w *world) wantRows(space string, want map[string]int) {
	w.t.Helper()
	got := w.rows(space)
	for kind, n := range want {
		if got[kind] != n {
			w.t.Fatalf("space %q has %d rows of kind %s, want %d (all: %v)", space, got[kind], kind, n, got)
		}
	}
}

// bubble runs a test in which time passes only when everybody waits for it.
func bubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, f)
}

// pass lets time pass in a bubble, and what it sets off come to rest.
func pass(d time.Duration) {
	time.Sleep(d) //nolint:forbidigo // in a bubble
	synctest.Wait()
}

// later runs something on the side and returns where its result will come from.
func later[T any](f func() T) <-chan T {
	result := make(chan T, 1)
	go func() { result <- f() }()
	return result
}

// pending checks in a bubble that there is no result yet.
func pending[T any](t testing.TB, result <-chan T, what string) {
	t.Helper()
	synctest.Wait()
	select {
	case v := <-result:
		t.Fatalf("%s ended with %v", what, v)
	default:
	}
}

// numbered returns n payloads: a prefix and their number, from 1.
func numbered(prefix string, n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprint(prefix, i+1)
	}
	return all
}

func big(c string, n int) string { return strings.Repeat(c, n) }

// producing makes the options of a producer's write.
func producing(id string, epoch, seq uint64) runnel.AppendOptions {
	return runnel.AppendOptions{Producer: &runnel.Producer{ID: id, Epoch: epoch, Seq: seq}}
}

func expecting(tail runnel.Sequence) *runnel.Sequence { return new(tail) }
