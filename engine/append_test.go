package engine_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/engine"
	"github.com/runnelhq/runnel/storage/faulty"
	"github.com/runnelhq/runnel/storage/memory"
)

func TestAppendGivesEveryEntryItsPlace(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := inMemory(t)
		w.create("s/a", runnel.CreateOptions{})
		w.create("s/b", runnel.CreateOptions{})
		began := time.Now().UTC()
		first := w.append("s/a", "one", "two")
		if first.First != 1 || first.Tail != 2 || first.Duplicate || first.Closed || !first.Time.Equal(began) {
			t.Fatalf("%+v", first)
		}
		pass(time.Second)
		other := w.append("s/b", "x")
		second := w.append("s/a", "three")
		if second.First != 3 || second.Tail != 3 || other.First != 1 {
			t.Fatalf("%+v, %+v", second, other)
		}
		if other.Position != first.Position+2 || second.Position != other.Position+1 {
			t.Fatalf("positions %d, %d, %d", first.Position, other.Position, second.Position)
		}
		got, err := w.readErr("s/a", 0)
		if err != nil {
			t.Fatal(err)
		}
		for i, want := range []runnel.Entry{
			{Sequence: 1, Position: first.Position, Transaction: first.Position, Time: first.Time},
			{Sequence: 2, Position: first.Position + 1, Transaction: first.Position, Time: first.Time},
			{Sequence: 3, Position: second.Position, Transaction: second.Position, Time: second.Time},
		} {
			g := got[i]
			if g.Sequence != want.Sequence || g.Position != want.Position || g.Transaction != want.Transaction || !g.Time.Equal(want.Time) {
				t.Errorf("entry %+v, want %+v", g, want)
			}
		}
		if !second.Time.Equal(began.Add(time.Second)) {
			t.Errorf("appended at %v, want %v", second.Time, began.Add(time.Second))
		}
	})
}

func TestAppendKeepsPayloadsAndMetadataAsTheyAre(t *testing.T) {
	w := inMemory(t)
	w.create("a", runnel.CreateOptions{})
	payload := []byte("\x00\xff\n")
	metadata := map[string]string{"k": "v"}
	if _, err := w.Append(ctx, at("a"), runnel.AppendOptions{}, runnel.Record{Payload: payload, Metadata: metadata}, runnel.Record{}); err != nil {
		t.Fatal(err)
	}
	payload[0], metadata["k"] = 'X', "X"
	for range 2 {
		got, err := w.readErr("a", 0)
		if err != nil {
			t.Fatal(err)
		}
		if string(got[0].Payload) != "\x00\xff\n" || got[0].Metadata["k"] != "v" || len(got[1].Payload) != 0 || got[1].Metadata != nil {
			t.Fatalf("%+v", got)
		}
		w.reopen()
	}
	if got := w.stat("a").Bytes; got != 3 {
		t.Errorf("%d bytes", got)
	}
}

func TestAppendIsRefusedInTheOrderOfItsRules(t *testing.T) {
	// What stands against the append is taken away one rule after the other, so each refusal shows
	// that its rule comes before all that follow.
	w := inMemory(t)
	o := runnel.AppendOptions{
		ContentType: "text/html",
		Producer:    &runnel.Producer{ID: "p", Epoch: 1, Seq: 7},
		Expect:      expecting(99),
		StreamSeq:   "a", HasStreamSeq: true,
	}
	refused := func(want error) {
		t.Helper()
		_, err := w.tryAppend("s/a", o, "x")
		wantError(t, err, want)
	}
	refused(runnel.ErrNotFound)

	source := func() {
		w.create("s/a", runnel.CreateOptions{ContentType: "text/plain"})
		if _, err := w.tryAppend("s/a", runnel.AppendOptions{StreamSeq: "m", HasStreamSeq: true, Producer: &runnel.Producer{ID: "p", Epoch: 2}}, "x"); err != nil {
			t.Fatal(err)
		}
	}
	source()
	w.fork("s/fork", "s/a", 1)
	w.delete("s/a")
	refused(runnel.ErrSoftDeleted)

	w = inMemory(t)
	source()
	if _, err := w.tryAppend("s/a", runnel.AppendOptions{Close: true}); err != nil {
		t.Fatal(err)
	}
	o.Producer.Epoch = 2
	refused(runnel.ErrClosed)

	w = inMemory(t)
	source()
	o.Producer.Epoch = 1
	refused(runnel.ErrProducerFenced)
	o.Producer.Epoch = 2
	refused(runnel.ErrProducerGap)
	o.Producer.Seq = 1
	refused(runnel.ErrContentType)
	o.ContentType = "TEXT/plain; charset=utf-8"
	refused(runnel.ErrTailMoved)
	o.Expect = expecting(1)
	refused(runnel.ErrStreamSeq)
	o.StreamSeq = "n"
	if _, err := w.tryAppend("s/a", o, "x"); err != nil {
		t.Fatal(err)
	}
	w.want("s/a", "x", "x")
}

func TestAnAppendThatBreaksARuleIsRefusedWhateverTheStateIs(t *testing.T) {
	w := inMemory(t)
	w.create("a", runnel.CreateOptions{})
	for _, tc := range []struct {
		name string
		o    runnel.AppendOptions
		rs   []runnel.Record
		want error
	}{
		{"nothing to append", runnel.AppendOptions{}, nil, runnel.ErrInvalid},
		{"a producer without a name", producing("", 0, 0), records("x"), runnel.ErrInvalid},
		{"a producer of a long name", producing(big("p", runnel.MaxProducerBytes+1), 0, 0), records("x"), runnel.ErrTooLarge},
		{"an epoch that JavaScript cannot count", producing("p", runnel.MaxProducerNumber+1, 0), records("x"), runnel.ErrInvalid},
		{"a sequence that JavaScript cannot count", producing("p", 0, runnel.MaxProducerNumber+1), records("x"), runnel.ErrInvalid},
		{"a long writer sequence", runnel.AppendOptions{HasStreamSeq: true, StreamSeq: big("s", runnel.MaxStreamSeqBytes+1)}, records("x"), runnel.ErrTooLarge},
	} {
		for _, path := range []string{"a", "missing"} {
			t.Run(tc.name+" to "+path, func(t *testing.T) {
				_, err := w.Append(ctx, at(path), tc.o, tc.rs...)
				wantError(t, err, tc.want)
			})
		}
	}
	if _, err := w.Append(ctx, runnel.Segment{Name: "a/b"}, runnel.AppendOptions{}, records("x")...); !errors.Is(err, runnel.ErrInvalid) {
		t.Errorf("a broken name: %v", err)
	}
	w.want("a")
}

func TestAContentTypeIsComparedByMediaTypeAndOnlyWithRecords(t *testing.T) {
	w := inMemory(t)
	w.create("a", runnel.CreateOptions{ContentType: "text/plain; charset=utf-8"})
	for _, ok := range []string{"", "text/plain", "Text/Plain;charset=latin1"} {
		if _, err := w.tryAppend("a", runnel.AppendOptions{ContentType: ok}, "x"); err != nil {
			t.Errorf("%q: %v", ok, err)
		}
	}
	_, err := w.tryAppend("a", runnel.AppendOptions{ContentType: "text/html"}, "x")
	if e := as[*runnel.ContentTypeError](t, err); e.Have != "text/plain; charset=utf-8" || e.Got != "text/html" {
		t.Errorf("%+v", e)
	}
	if _, err := w.tryAppend("a", runnel.AppendOptions{ContentType: "text/html", Close: true}); err != nil {
		t.Errorf("closing without records: %v", err)
	}
}

func TestAnExpectedTailLetsOneOfTwoWritersThrough(t *testing.T) {
	w := inMemory(t)
	w.create("a", runnel.CreateOptions{})
	const writers = 8
	won := make(chan int, writers)
	var wg sync.WaitGroup
	for i := range writers {
		wg.Go(func() {
			_, err := w.tryAppend("a", runnel.AppendOptions{Expect: expecting(0)}, fmt.Sprint(i))
			switch {
			case err == nil:
				won <- i
			default:
				var moved *runnel.TailMovedError
				if !errors.As(err, &moved) || moved.Tail != 1 || moved.Want != 0 {
					t.Errorf("%v", err)
				}
			}
		})
	}
	wg.Wait()
	close(won)
	if len(won) != 1 {
		t.Fatalf("%d writers won", len(won))
	}
	w.want("a", fmt.Sprint(<-won))
}

func TestStreamSequencesIncreaseBytewise(t *testing.T) {
	w := inMemory(t)
	w.create("a", runnel.CreateOptions{})
	for _, step := range []struct {
		seq string
		ok  bool
	}{
		{"", true}, {"", false}, {"10", true}, {"9", true}, {"10", false}, {"9", false}, {"9\x00", true}, {"Z", true}, {"a", true}, {"Z", false}, {"é", true}, {"z", false},
	} {
		_, err := w.tryAppend("a", runnel.AppendOptions{HasStreamSeq: true, StreamSeq: step.seq}, step.seq)
		if step.ok != (err == nil) || err != nil && !errors.Is(err, runnel.ErrStreamSeq) {
			t.Fatalf("%q: %v", step.seq, err)
		}
		w.append("a", "one without a writer sequence changes nothing")
		w.reopen()
	}
	_, err := w.tryAppend("a", runnel.AppendOptions{HasStreamSeq: true, StreamSeq: "b"}, "x")
	if e := as[*runnel.StreamSeqError](t, err); e.Last != "é" || e.Got != "b" {
		t.Errorf("%+v", e)
	}
}

// producerSteps is what a server answers to the writes of producers, in order.
var producerSteps = []struct {
	name       string
	id         string
	epoch, seq uint64
	want       error // nil: accepted, or a duplicate
	duplicate  bool
	seqNow     uint64
}{
	{"a producer begins at 0", "p", 0, 1, runnel.ErrProducerGap, false, 0},
	{"the first write", "p", 0, 0, nil, false, 0},
	{"the first write again", "p", 0, 0, nil, true, 0},
	{"the next write", "p", 0, 1, nil, false, 1},
	{"a gap", "p", 0, 3, runnel.ErrProducerGap, false, 0},
	{"what the gap left out", "p", 0, 2, nil, false, 2},
	{"an old write again", "p", 0, 0, nil, true, 2},
	{"another producer", "q", 5, 0, nil, false, 0},
	{"a new epoch begins at 0", "p", 1, 1, runnel.ErrInvalid, false, 0},
	{"a new epoch", "p", 1, 0, nil, false, 0},
	{"the old epoch", "p", 0, 3, runnel.ErrProducerFenced, false, 0},
	{"the old epoch's duplicate", "p", 0, 2, runnel.ErrProducerFenced, false, 0},
	{"an epoch far ahead", "p", runnel.MaxProducerNumber, 0, nil, false, 0},
	{"and the one before", "p", runnel.MaxProducerNumber - 1, 0, runnel.ErrProducerFenced, false, 0},
}

func TestAProducersWritesAreTakenOnce(t *testing.T) {
	for _, between := range []struct {
		name string
		do   func(*world)
	}{
		{"in one engine", func(*world) {}},
		{"reopened after every write", (*world).reopen},
		{"crashed after every write", (*world).crash},
	} {
		t.Run(between.name, func(t *testing.T) {
			w := inMemory(t)
			w.create("a", runnel.CreateOptions{})
			var want []string
			for _, step := range producerSteps {
				before := w.stat("a").Tail
				got, err := w.tryAppend("a", producing(step.id, step.epoch, step.seq), step.name)
				if step.want != nil {
					wantError(t, err, step.want)
					continue
				}
				if err != nil || got.Duplicate != step.duplicate || got.ProducerSeq != step.seqNow {
					t.Fatalf("%s: %+v, %v", step.name, got, err)
				}
				if !step.duplicate {
					want = append(want, step.name)
				} else if got.Tail != before {
					t.Fatalf("%s: tail %d, want %d", step.name, got.Tail, before)
				}
				between.do(w)
			}
			w.want("a", want...)
		})
	}
}

func TestAProducerIsToldTheNumbers(t *testing.T) {
	w := inMemory(t)
	w.create("a", runnel.CreateOptions{})
	_, err := w.tryAppend("a", producing("p", 3, 0), "x")
	wantError(t, err, nil)
	_, err = w.tryAppend("a", producing("p", 3, 9), "x")
	if e := as[*runnel.ProducerGapError](t, err); e.Expected != 1 || e.Got != 9 || e.Producer != "p" {
		t.Errorf("%+v", e)
	}
	_, err = w.tryAppend("a", producing("p", 2, 0), "x")
	if e := as[*runnel.ProducerFencedError](t, err); e.Epoch != 3 || e.Got != 2 || e.Producer != "p" {
		t.Errorf("%+v", e)
	}
}

func TestProducersOfOneSegmentDoNotTouchThoseOfAnother(t *testing.T) {
	w := inMemory(t)
	w.create("a", runnel.CreateOptions{})
	w.create("b", runnel.CreateOptions{})
	for _, path := range []string{"a", "b"} {
		if got, err := w.tryAppend(path, producing("p", 0, 0), "x"); err != nil || got.Duplicate {
			t.Fatalf("%s: %+v, %v", path, got, err)
		}
	}
}

func TestMoreProducersThanMemoryHoldsAreStillKnown(t *testing.T) {
	w := inMemory(t)
	w.create("a", runnel.CreateOptions{})
	const producers = 4096 + 512
	name := func(i int) string { return fmt.Sprint("producer ", i) }
	var wg sync.WaitGroup
	for part := range 4 {
		wg.Go(func() {
			for i := part; i < producers; i += 4 {
				if got, err := w.tryAppend("a", producing(name(i), 0, 0), name(i)); err != nil || got.Duplicate {
					t.Errorf("%d: %+v, %v", i, got, err)
					return
				}
			}
		})
	}
	wg.Wait()
	for i := 0; i < producers; i += 97 {
		if got, err := w.tryAppend("a", producing(name(i), 0, 0), "again"); err != nil || !got.Duplicate {
			t.Fatalf("%d again: %+v, %v", i, got, err)
		}
		if _, err := w.tryAppend("a", producing(name(i), 0, 2), "gap"); !errors.Is(err, runnel.ErrProducerGap) {
			t.Fatalf("%d with a gap: %v", i, err)
		}
		if got, err := w.tryAppend("a", producing(name(i), 0, 1), "next"); err != nil || got.Duplicate {
			t.Fatalf("%d next: %+v, %v", i, got, err)
		}
	}
}

func TestConcurrentWritersLoseAndDoubleNothing(t *testing.T) {
	w := inMemory(t)
	w.create("s/a", runnel.CreateOptions{})
	w.create("s/b", runnel.CreateOptions{})
	const writers, writes = 8, 50
	var wg sync.WaitGroup
	for writer := range writers {
		wg.Go(func() {
			for i := range writes {
				path := []string{"s/a", "s/b"}[i%2]
				if _, err := w.tryAppend(path, producing(fmt.Sprint(writer), 0, uint64(i/2)), fmt.Sprint(writer, ":", i), "second"); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	positions := make(map[runnel.Position]bool)
	for _, path := range []string{"s/a", "s/b"} {
		got, err := w.readErr(path, 0)
		if err != nil {
			t.Fatal(err)
		}
		if len(got) != writers*writes {
			t.Fatalf("%d entries in %s, want %d", len(got), path, writers*writes)
		}
		wantOrder(t, got)
		last := make(map[string]int)
		for i, e := range got {
			if positions[e.Position] {
				t.Fatalf("position %d is given twice", e.Position)
			}
			positions[e.Position] = true
			if i%2 == 1 {
				if string(e.Payload) != "second" || e.Transaction != got[i-1].Transaction || e.Position != got[i-1].Position+1 {
					t.Fatalf("one append is torn: %+v after %+v", e, got[i-1])
				}
				continue
			}
			var writer string
			var n int
			writer, number, _ := strings.Cut(string(e.Payload), ":")
			if _, err := fmt.Sscan(number, &n); err != nil {
				t.Fatal(err)
			}
			if was, seen := last[writer]; seen && n <= was {
				t.Fatalf("write %d of %s follows %d", n, writer, was)
			}
			last[writer] = n
		}
	}
}

func TestManyWritersShareACommit(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := inMemory(t)
		w.create("a", runnel.CreateOptions{})
		release := w.blocked("")
		before := w.driver.Calls(faulty.Commit)
		var all []<-chan error
		for i := range 100 {
			all = append(all, later(func() error {
				_, err := w.tryAppend("a", runnel.AppendOptions{}, fmt.Sprint(i))
				return err
			}))
			pending(t, all[0], "the first append")
		}
		release()
		for _, one := range all {
			wantError(t, <-one, nil)
		}
		if n := w.driver.Calls(faulty.Commit) - before; n != 2 {
			t.Errorf("%d commits, want 2", n)
		}
		want := make([]string, 100)
		for i := range want {
			want[i] = fmt.Sprint(i)
		}
		w.want("a", want...)
	})
}

func TestAnAppendThatIsGivenUpBeforeItBeginsWritesNothing(t *testing.T) {
	w := newWorld(t, new(memory.Driver), engine.Config{})
	w.create("a", runnel.CreateOptions{})
	gone, giveUp := context.WithCancel(ctx)
	giveUp()
	if _, err := w.Append(gone, at("a"), runnel.AppendOptions{}, records("x")...); err == nil || errors.Is(err, runnel.ErrUnknown) {
		t.Fatalf("%v", err)
	}
	w.want("a")
}

func TestAnAppendThatIsGivenUpUnderwayIsUnknownAndStillHappens(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := inMemory(t)
		w.create("a", runnel.CreateOptions{})
		release := w.blocked("")
		giving, giveUp := context.WithCancel(ctx)
		answer := later(func() error {
			_, err := w.Append(giving, at("a"), runnel.AppendOptions{}, records("x")...)
			return err
		})
		pending(t, answer, "the append")
		giveUp()
		wantError(t, <-answer, runnel.ErrUnknown)
		w.want("a")
		release()
		pass(0)
		w.want("a", "x")
	})
}
