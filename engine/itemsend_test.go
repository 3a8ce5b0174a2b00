package engine_test

import (
	"context"
	"errors"
	"testing"

	"github.com/runnelhq/runnel"
)

func TestAnEventIsHeardBeforeItsSenderIsAnswered(t *testing.T) {
	w := inMemory(t)
	var heard []runnel.ItemEvent
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := w.HearItemEvents(ctx, runnel.Space{Name: "s"}, func(e runnel.ItemEvent) { heard = append(heard, e) }); err != nil {
		t.Fatal(err)
	}
	send := func(path string) {
		t.Helper()
		if err := w.SendItem(ctx, runnel.ItemEvent{Segment: at(path), Type: "t", Data: []byte(`1`)}); err != nil {
			t.Fatal(err)
		}
	}
	send("s/nobody")
	w.set("s/a", "1", "1")
	w.set("s/a", "1", "2")
	send("s/a")
	send("other/a")
	if len(heard) != 2 {
		t.Fatalf("%+v", heard)
	}
	if none, two := heard[0], heard[1]; none.ID != 0 || none.Tail != 0 || two.ID == 0 || two.Tail < 2 {
		t.Errorf("%+v and %+v do not say what comes before them", none, two)
	}
	if err := w.HearItemEvents(ctx, runnel.Space{Name: "a/../b"}, nil); !errors.Is(err, runnel.ErrInvalid) {
		t.Errorf("%v", err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := w.HearItemEvents(ctx, runnel.Space{Name: "s"}, nil); !errors.Is(err, runnel.ErrShutdown) {
		t.Errorf("%v", err)
	}
}
