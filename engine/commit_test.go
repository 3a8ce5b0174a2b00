package engine_test

import (
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/runnelhq/runnel"
)

var theSpace = runnel.Space{Name: "s"}

func writeTo(segment string, o runnel.AppendOptions, payloads ...string) runnel.Write {
	return runnel.Write{Segment: segment, Options: o, Records: records(payloads...)}
}

func TestACommitOverSeveralSegmentsIsOneTransaction(t *testing.T) {
	w := inMemory(t)
	for _, path := range []string{"s/a", "s/b", "s/c"} {
		w.create(path, runnel.CreateOptions{})
	}
	got, err := w.Commit(ctx, theSpace,
		writeTo("b", runnel.AppendOptions{}, "b1", "b2"),
		writeTo("a", runnel.AppendOptions{Close: true}, "a1"),
		writeTo("c", runnel.AppendOptions{Close: true}),
	)
	if err != nil {
		t.Fatal(err)
	}
	if got[0].First != 1 || got[0].Tail != 2 || got[0].Closed || got[1].First != 1 || !got[1].Closed || got[2].First != 0 || !got[2].Closed {
		t.Fatalf("%+v", got)
	}
	if got[1].Position != got[0].Position+2 || !got[1].Time.Equal(got[0].Time) {
		t.Fatalf("%+v", got)
	}
	for range 2 {
		w.want("s/a", "a1")
		w.want("s/b", "b1", "b2")
		w.want("s/c")
		for _, path := range []string{"s/a", "s/b"} {
			all, err := w.readErr(path, 0)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range all {
				if e.Transaction != got[0].Position || !e.Time.Equal(got[0].Time) {
					t.Errorf("%s: %+v, want transaction %d", path, e, got[0].Position)
				}
			}
		}
		if !w.stat("s/a").Closed || w.stat("s/b").Closed || !w.stat("s/c").Closed {
			t.Error("closed are the wrong ones")
		}
		w.reopen()
	}
}

func TestACommitIsRefusedWhole(t *testing.T) {
	for _, tc := range []struct {
		name string
		bad  runnel.Write
		want error
	}{
		{"a segment is missing", writeTo("missing", runnel.AppendOptions{}, "x"), runnel.ErrNotFound},
		{"a segment is closed", writeTo("closed", runnel.AppendOptions{}, "x"), runnel.ErrClosed},
		{"a tail has moved", writeTo("b", runnel.AppendOptions{Expect: expecting(3)}, "x"), runnel.ErrTailMoved},
		{"a content type differs", writeTo("b", runnel.AppendOptions{ContentType: "text/html"}, "x"), runnel.ErrContentType},
		{"a producer has a gap", writeTo("b", producing("p", 0, 1), "x"), runnel.ErrProducerGap},
		{"a segment is named twice", writeTo("a", runnel.AppendOptions{}, "x"), runnel.ErrInvalid},
		{"a write is empty", writeTo("b", runnel.AppendOptions{}), runnel.ErrInvalid},
		{"a name is broken", writeTo("x/y", runnel.AppendOptions{}, "x"), runnel.ErrInvalid},
	} {
		for _, first := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, first: %v", tc.name, first), func(t *testing.T) {
				w := inMemory(t)
				w.create("s/a", runnel.CreateOptions{}, "before")
				w.create("s/b", runnel.CreateOptions{}, "before")
				w.create("s/closed", runnel.CreateOptions{Closed: true})
				writes := []runnel.Write{writeTo("a", producing("q", 0, 0), "x"), tc.bad}
				if first {
					writes[0], writes[1] = writes[1], writes[0]
				}
				_, err := w.Commit(ctx, theSpace, writes...)
				wantError(t, err, tc.want)
				for range 2 {
					w.want("s/a", "before")
					w.want("s/b", "before")
					w.reopen()
				}
				if got, err := w.tryAppend("s/a", producing("q", 0, 0), "x"); err != nil || got.Duplicate {
					t.Fatalf("the refused write was noted: %+v, %v", got, err)
				}
			})
		}
	}
}

func TestACommitIsRepeatedWholeOrNotAtAll(t *testing.T) {
	w := inMemory(t)
	w.create("s/a", runnel.CreateOptions{})
	w.create("s/b", runnel.CreateOptions{})
	both := []runnel.Write{writeTo("a", producing("p", 0, 0), "x"), writeTo("b", producing("p", 0, 0), "y")}
	if _, err := w.Commit(ctx, theSpace, both...); err != nil {
		t.Fatal(err)
	}
	got, err := w.Commit(ctx, theSpace, both...)
	if err != nil || !got[0].Duplicate || !got[1].Duplicate {
		t.Fatalf("%+v, %v", got, err)
	}
	_, err = w.Commit(ctx, theSpace, both[0], writeTo("b", producing("p", 0, 1), "z"))
	wantError(t, err, runnel.ErrInvalid)
	w.want("s/a", "x")
	w.want("s/b", "y")
}

func TestAnEmptyCommitIsNothing(t *testing.T) {
	w := inMemory(t)
	if got, err := w.Commit(ctx, theSpace); err != nil || len(got) != 0 {
		t.Fatalf("%+v, %v", got, err)
	}
}

func TestConcurrentCommitsAreSeenWholeInEverySegment(t *testing.T) {
	w := inMemory(t)
	w.create("s/a", runnel.CreateOptions{})
	w.create("s/b", runnel.CreateOptions{})
	var wg sync.WaitGroup
	for i := range 6 {
		wg.Go(func() {
			for j := range 30 {
				name := fmt.Sprint(i, "-", j)
				writes := []runnel.Write{writeTo("a", runnel.AppendOptions{}, name), writeTo("b", runnel.AppendOptions{}, name)}
				if j%2 == 0 {
					writes[0], writes[1] = writes[1], writes[0]
				}
				if _, err := w.Commit(ctx, theSpace, writes...); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	a, err := w.readErr("s/a", 0)
	b, err2 := w.readErr("s/b", 0)
	if err := errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	for i := range a {
		if string(a[i].Payload) != string(b[i].Payload) || a[i].Transaction != b[i].Transaction {
			t.Fatalf("entry %d is %+v in one and %+v in the other", i, a[i], b[i])
		}
	}
}
