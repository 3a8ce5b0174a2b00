package client_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/client"
)

var (
	orders = runnel.Space{Name: "orders"}
	order1 = orders.Segment("1")
	order2 = orders.Segment("2")
)

func TestPublishMakesTheSegmentAndNumbersItsEntriesFromOne(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		first, err := w.Publish(t.Context(), order1, records("a", "b")...)
		must(t, err)
		second, err := w.Publish(t.Context(), order1, records("c")...)
		must(t, err)
		want(t, []any{first.Created, first.First, first.Tail, second.Created, second.First, second.Tail}, []any{true, 1, 2, false, 3, 3})
		want(t, w.texts(client.Segment(order1, 0)), []string{"a", "b", "c"})
	})
}

func TestWhatWasPublishedIsReadByItsWriterAtOnce(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		for i := range 50 {
			_, err := w.Publish(t.Context(), order1, numbered(i, 1)...)
			must(t, err)
			last, err := w.Peek(t.Context(), order1)
			must(t, err)
			want(t, []any{last.Sequence, string(last.Payload)}, []any{i + 1, i})
			info, err := w.Stat(t.Context(), order1)
			must(t, err)
			want(t, info.Tail, i+1)
		}
	})
}

func TestAnAppendIsRefusedWhenWhatItExpectsIsNotSo(t *testing.T) {
	type outcome struct {
		expect client.Expect
		err    error
	}
	everywhere(t, func(t *testing.T, w *world) {
		try := func(expect client.Expect) error {
			_, err := w.Produce(t.Context(), order1, client.Production{Expect: expect}, records("x")...)
			return err
		}
		for _, o := range []outcome{ // in this order, on a segment that is not there at first
			{client.Exists(), runnel.ErrNotFound},
			{client.At(1), runnel.ErrNotFound},
			{client.At(0), nil},
			{client.At(0), runnel.ErrTailMoved},
			{client.None(), runnel.ErrExists},
			{client.Exists(), nil},
			{client.At(1), runnel.ErrTailMoved},
			{client.At(2), nil},
			{client.At(4), runnel.ErrTailMoved},
			{client.Any(), nil},
		} {
			if err := try(o.expect); !errors.Is(err, o.err) {
				t.Fatalf("%+v: got %v, want %v", o.expect, err, o.err)
			}
		}
		moved, ok := errors.AsType[*runnel.TailMovedError](try(client.At(9)))
		if !ok || *moved != (runnel.TailMovedError{Segment: order1, Want: 9, Tail: 4}) {
			t.Fatalf("got %+v", moved)
		}
	})
}

func TestTheCallerMayGiveTheSequences(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		_, err := w.ProduceAt(t.Context(), order1, 0, records("x")...)
		want(t, errors.Is(err, runnel.ErrInvalid), true)
		_, err = w.ProduceAt(t.Context(), order1, 1, records("a", "b")...)
		must(t, err)
		_, err = w.ProduceAt(t.Context(), order1, 2, records("again")...)
		want(t, errors.Is(err, runnel.ErrTailMoved), true)
		_, err = w.ProduceAt(t.Context(), order1, 4, records("gap")...)
		want(t, errors.Is(err, runnel.ErrTailMoved), true)
		_, err = w.ProduceAt(t.Context(), order1, 3, records("c")...)
		must(t, err)
		want(t, w.texts(client.Segment(order1, 0)), []string{"a", "b", "c"})
	})
}

func TestOfCompetingProducersExactlyOneWins(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		const writers, rounds = 4, 12
		clients := make([]*client.Client, writers)
		for i := range clients {
			clients[i] = w.another()
		}
		for round := range rounds {
			var won atomic.Int32
			var all sync.WaitGroup
			for i, c := range clients {
				all.Go(func() {
					_, err := c.ProduceAt(t.Context(), order1, runnel.Sequence(round+1), records(fmt.Sprintf("round %d, writer %d", round, i))...)
					switch {
					case err == nil:
						won.Add(1)
					case !errors.Is(err, runnel.ErrTailMoved) && !errors.Is(err, runnel.ErrNotFound):
						t.Error(err)
					}
				})
			}
			all.Wait()
			want(t, won.Load(), 1)
		}
		want(t, len(w.texts(client.Segment(order1, 0))), rounds)
		want(t, len(w.texts(client.Space(orders, 0))), rounds) // segment and timeline agree
	})
}

func TestARepeatedWriteIsAnsweredAndNotWrittenAgain(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		byKey := client.Production{Key: "event 7"}
		first, err := w.Produce(t.Context(), order1, byKey, records("a", "b")...)
		must(t, err)
		again, err := w.another().Produce(t.Context(), order1, byKey, records("a", "b")...)
		must(t, err)
		want(t, []any{again.Duplicate, again.First, again.Tail}, []any{true, first.First, first.Tail})
		_, err = w.Produce(t.Context(), order1, byKey, records("other")...)
		reused, ok := errors.AsType[*runnel.KeyReusedError](err)
		if !ok || *reused != (runnel.KeyReusedError{Segment: order1, Key: "event 7", First: 1}) {
			t.Fatalf("got %v", err)
		}

		byProducer := client.Production{Producer: &runnel.Producer{ID: "p", Epoch: 1, Seq: 0}}
		_, err = w.Produce(t.Context(), order1, byProducer, records("c")...)
		must(t, err)
		again, err = w.Produce(t.Context(), order1, byProducer, records("c")...)
		must(t, err)
		want(t, again.Duplicate, true)
		_, err = w.Produce(t.Context(), order1, client.Production{Producer: &runnel.Producer{ID: "p", Epoch: 1, Seq: 2}}, records("e")...)
		gap, ok := errors.AsType[*runnel.ProducerGapError](err)
		if !ok || *gap != (runnel.ProducerGapError{Producer: "p", Expected: 1, Got: 2}) {
			t.Fatalf("got %v", err)
		}
		_, err = w.Produce(t.Context(), order1, client.Production{Producer: &runnel.Producer{ID: "p", Epoch: 0, Seq: 0}}, records("e")...)
		want(t, errors.Is(err, runnel.ErrProducerFenced), true)
		want(t, w.texts(client.Segment(order1, 0)), []string{"a", "b", "c"})
	})
}

func TestABatchIsWrittenAsAWholeOrNotAtAll(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		all := numbered(1, 25_000) // more than any transaction of the seed
		a, err := w.ProduceAt(t.Context(), order1, 1, all...)
		must(t, err)
		want(t, a.Tail, 25_000)
		_, err = w.ProduceAt(t.Context(), order1, 1, all...)
		want(t, errors.Is(err, runnel.ErrTailMoved), true)
		transactions := make(map[runnel.Position]int)
		next := 1
		for e, err := range w.Consume(t.Context(), client.Segment(order1, 0)) {
			must(t, err)
			if string(e.Payload) != fmt.Sprint(next) || e.Sequence != runnel.Sequence(next) {
				t.Fatalf("entry %d is %d: %s", next, e.Sequence, e.Payload)
			}
			transactions[e.Transaction]++
			next++
		}
		want(t, []any{next, len(transactions)}, []any{25_001, 1})
	})
}

func TestOneCommitWritesSeveralSegmentsOrNone(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		write := func(segment string, expect client.Expect, texts ...string) runnel.Write {
			return runnel.Write{Segment: segment, Options: client.Production{Expect: expect}.Options(), Records: records(texts...)}
		}
		done, err := w.Transact(t.Context(), orders, runnel.Transaction{Writes: []runnel.Write{
			write("1", client.None(), "a"), write("2", client.None(), "b", "c"),
		}})
		must(t, err)
		want(t, []any{len(done.Appended), done.Appended[1].First, done.Appended[1].Tail}, []any{2, 1, 2})

		_, err = w.Transact(t.Context(), orders, runnel.Transaction{Writes: []runnel.Write{
			write("1", client.At(1), "d"), write("2", client.At(1), "e"),
		}})
		want(t, errors.Is(err, runnel.ErrTailMoved), true)
		want(t, w.texts(client.Space(orders, 0)), []string{"a", "b", "c"})

		var transactions []runnel.Position
		for e, err := range w.Consume(t.Context(), client.Space(orders, 0)) {
			must(t, err)
			transactions = append(transactions, e.Transaction)
		}
		want(t, transactions, []runnel.Position{1, 1, 1})
	})
}

func TestARefusedWriteSaysWhichRuleAndTheNumbers(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		_, err := w.Publish(t.Context(), orders.Segment("a/b"), records("x")...)
		name, ok := errors.AsType[*runnel.NameError](err)
		if !ok || name.Kind != "segment" || name.Name != "a/b" {
			t.Fatalf("got %v", err)
		}
		_, err = w.Publish(t.Context(), orders.Segment("\xff"), records("x")...)
		if name, ok = errors.AsType[*runnel.NameError](err); !ok || name.Name != "\xff" {
			t.Fatalf("got %v", err)
		}
		_, err = w.Publish(t.Context(), order1)
		want(t, errors.Is(err, runnel.ErrInvalid), true)

		_, err = w.Produce(t.Context(), order1, client.Production{Close: true}, records("last")...)
		must(t, err)
		_, err = w.Publish(t.Context(), order1, records("late")...)
		closed, ok := errors.AsType[*runnel.ClosedError](err)
		if !ok || *closed != (runnel.ClosedError{Segment: order1, Tail: 1}) {
			t.Fatalf("got %v", err)
		}
		want(t, w.texts(client.Segment(order1, 0)), []string{"last"})
	})
}

func TestARefusedFirstWriteLeavesNothingBehind(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		_, err := w.ProduceAt(t.Context(), order1, 5, records("x")...)
		want(t, errors.Is(err, runnel.ErrNotFound), true)
		_, err = w.ProduceAt(t.Context(), order1, 1, records("a")...)
		must(t, err)
		var listed []string
		for info, err := range w.List(t.Context(), runnel.Store{}, runnel.ListOptions{}) {
			must(t, err)
			listed = append(listed, info.Segment.Path())
		}
		want(t, listed, []string{"orders/1"})
	})
}

func TestPayloadsAndMetadataComeBackAsTheyWere(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		large := make([]byte, 3<<20)
		for i := range large {
			large[i] = byte(i * 7)
		}
		in := []runnel.Record{
			{Payload: []byte{}}, {Payload: nil, Metadata: map[string]string{"type": "empty", "": ""}},
			{Payload: []byte("\x00\xff"), Metadata: map[string]string{"\xff": "\x00"}}, {Payload: large},
		}
		_, err := w.Publish(t.Context(), order1, in...)
		must(t, err)
		i := 0
		for e, err := range w.Consume(t.Context(), client.Segment(order1, 0)) {
			must(t, err)
			if string(e.Payload) != string(in[i].Payload) || fmt.Sprint(e.Metadata) != fmt.Sprint(in[i].Metadata) {
				t.Fatalf("entry %d came back as %d bytes with %v", i, len(e.Payload), e.Metadata)
			}
			if e.Time.IsZero() || e.Position == 0 || e.Segment != order1 || e.ID == 0 {
				t.Fatalf("entry %d has no place: %+v", i, e.Entry.Time)
			}
			i++
		}
		want(t, i, len(in))
		peeked, err := w.Peek(t.Context(), order1)
		must(t, err)
		want(t, len(peeked.Payload), len(large))
	})
}

func TestRecordsAreTheCallersAgainAfterTheCall(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		r := runnel.Record{Payload: []byte("mine"), Metadata: map[string]string{"k": "v"}}
		_, err := w.Publish(t.Context(), order1, r)
		must(t, err)
		copy(r.Payload, "xxxx")
		r.Metadata["k"] = "x"
		last, err := w.Peek(t.Context(), order1)
		must(t, err)
		want(t, []any{string(last.Payload), last.Metadata["k"]}, []any{"mine", "v"})
	})
}

func TestAProducerKeepsOrderAndSaysWhereEachRecordIs(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		p := w.Producer(order1, client.ProducerConfig{MaxBatchRecords: 64, MaxBufferedBytes: 8 << 10})
		var acks []*client.Ack
		for _, r := range numbered(1, 2000) {
			ack, err := p.Send(t.Context(), r)
			must(t, err)
			acks = append(acks, ack)
		}
		must(t, p.Flush(t.Context()))
		for i, ack := range acks {
			seq, err := ack.Wait(t.Context())
			must(t, err)
			want(t, seq, i+1)
		}
		must(t, p.Close(t.Context()))
		got := w.texts(client.Segment(order1, 0))
		want(t, len(got), 2000)
		for i, text := range got {
			want(t, text, i+1)
		}
	})
}

func TestAProducerThatTricklesIsAcknowledgedRecordByRecord(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		p := w.Producer(order1, client.ProducerConfig{})
		for i, r := range numbered(1, 5) {
			ack, err := p.Send(t.Context(), r)
			must(t, err)
			seq, err := ack.Wait(t.Context()) // it is not closed, and far from full
			must(t, err)
			want(t, seq, i+1)
			// An open producer keeps nobody from seeing, or from writing.
			want(t, len(w.texts(client.Space(orders, 0))), 2*i+1)
			_, err = w.another().Publish(t.Context(), order2, records("other")...)
			must(t, err)
		}
		must(t, p.Close(t.Context()))
	})
}

func TestAProducerThatIsRefusedLeavesNothingOutInBetween(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		p := w.Producer(order1, client.ProducerConfig{MaxBatchRecords: 1})
		ack, err := p.Send(t.Context(), records("a")[0])
		must(t, err)
		_, err = ack.Wait(t.Context())
		must(t, err)
		_, err = w.Produce(t.Context(), order1, client.Production{Close: true})
		must(t, err)
		late, err := p.Send(t.Context(), records("b")[0])
		must(t, err)
		_, err = late.Wait(t.Context())
		want(t, errors.Is(err, runnel.ErrClosed), true)
		_, err = p.Send(t.Context(), records("c")[0])
		want(t, errors.Is(err, runnel.ErrClosed), true)
		want(t, errors.Is(p.Close(t.Context()), runnel.ErrClosed), true)
		want(t, w.texts(client.Segment(order1, 0)), []string{"a"})
	})
}

func TestNothingIsWrittenForACallerWhoHasGivenUpBefore(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := w.Publish(ctx, order1, records("x")...)
		if !errors.Is(err, context.Canceled) {
			t.Fatalf("got %v", err)
		}
		_, err = w.Stat(t.Context(), order1)
		if !errors.Is(err, runnel.ErrNotFound) && !errors.Is(err, runnel.ErrUnknown) {
			t.Fatalf("got %v", err)
		}
	})
}
