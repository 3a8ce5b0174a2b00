package engine_test

import (
	"testing"

	"github.com/runnelhq/runnel"
)

var closing = runnel.AppendOptions{Close: true}

func closingAs(id string, epoch, seq uint64) runnel.AppendOptions {
	o := producing(id, epoch, seq)
	o.Close = true
	return o
}

func TestClosingIsAtomicWithTheLastAppend(t *testing.T) {
	w := inMemory(t)
	w.create("a", runnel.CreateOptions{}, "first")
	got, err := w.tryAppend("a", closing, "last")
	if err != nil || !got.Closed || got.Tail != 2 || got.First != 2 {
		t.Fatalf("%+v, %v", got, err)
	}
	for range 2 {
		if info := w.stat("a"); !info.Closed || info.Tail != 2 {
			t.Fatalf("%+v", info)
		}
		w.want("a", "first", "last")
		_, err = w.tryAppend("a", runnel.AppendOptions{}, "more")
		if e := as[*runnel.ClosedError](t, err); e.Tail != 2 {
			t.Errorf("%+v", e)
		}
		w.reopen()
	}
}

func TestWhatAClosedSegmentAnswers(t *testing.T) {
	// The segment is closed by the second write of producer p in epoch 1.
	for _, tc := range []struct {
		name string
		o    runnel.AppendOptions
		text []string
		want error // nil: a success that writes nothing
	}{
		{"closing again", closing, nil, nil},
		{"closing again with records", closing, []string{"x"}, runnel.ErrClosed},
		{"appending", runnel.AppendOptions{}, []string{"x"}, runnel.ErrClosed},
		{"appending what else would be refused", runnel.AppendOptions{ContentType: "text/html", Expect: expecting(99)}, []string{"x"}, runnel.ErrClosed},
		{"the write that closed it, again", closingAs("p", 1, 1), []string{"last"}, nil},
		{"the write that closed it, without closing", producing("p", 1, 1), []string{"last"}, nil},
		{"an older write of its producer", producing("p", 1, 0), []string{"first"}, runnel.ErrClosed},
		{"the next write of its producer", producing("p", 1, 2), []string{"x"}, runnel.ErrClosed},
		{"a gap of its producer", producing("p", 1, 9), []string{"x"}, runnel.ErrClosed},
		{"a new epoch of its producer", closingAs("p", 2, 0), nil, runnel.ErrClosed},
		{"the same sequence in a new epoch", closingAs("p", 2, 1), nil, runnel.ErrClosed},
		{"an old epoch of its producer", closingAs("p", 0, 1), nil, runnel.ErrProducerFenced},
		{"another producer", closingAs("q", 1, 1), nil, runnel.ErrClosed},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := inMemory(t)
			w.create("a", runnel.CreateOptions{ContentType: "text/plain"})
			for seq, o := range []runnel.AppendOptions{producing("p", 1, 0), closingAs("p", 1, 1)} {
				if _, err := w.tryAppend("a", o, []string{"first", "last"}[seq]); err != nil {
					t.Fatal(err)
				}
			}
			for range 2 {
				got, err := w.tryAppend("a", tc.o, tc.text...)
				if tc.want != nil {
					wantError(t, err, tc.want)
				} else if err != nil || !got.Duplicate || !got.Closed || got.Tail != 2 || tc.o.Producer != nil && got.ProducerSeq != 1 {
					t.Fatalf("%+v, %v", got, err)
				}
				w.want("a", "first", "last")
				w.crash()
			}
		})
	}
}

func TestAnEmptySegmentCanBeClosedByAProducer(t *testing.T) {
	w := inMemory(t)
	w.create("a", runnel.CreateOptions{})
	for i := range 3 {
		got, err := w.tryAppend("a", closingAs("p", 0, 0))
		if err != nil || !got.Closed || got.Duplicate != (i > 0) || got.Tail != 0 {
			t.Fatalf("%+v, %v", got, err)
		}
		w.reopen()
	}
}
