package engine_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/engine"
	"github.com/runnelhq/runnel/storage/memory"
)

func TestThousandsOfCreationsFindEachOther(t *testing.T) {
	// Enough lookups in vain for the engine to build itself a filter of names, and names on both sides
	// of that moment, with segments leaving memory all the time.
	d := new(memory.Driver)
	for range 2 {
		e, err := engine.Open(d, engine.Config{MaxSegments: 64})
		if err != nil {
			t.Fatal(err)
		}
		for i := range 6000 {
			seg := runnel.Segment{Space: "many", Name: fmt.Sprint(i)}
			_, err := e.Create(t.Context(), seg, runnel.CreateOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if i%3 == 0 {
				if err := e.Delete(t.Context(), seg); err != nil {
					t.Fatal(err)
				}
			}
			if back := i / 2; back%3 != 0 {
				again, err := e.Create(t.Context(), runnel.Segment{Space: "many", Name: fmt.Sprint(back)}, runnel.CreateOptions{})
				if err != nil || !again.Existed {
					t.Fatalf("segment %d is created again: %+v, %v", back, again, err)
				}
			}
		}
		for i := range 6000 {
			_, err := e.Stat(t.Context(), runnel.Segment{Space: "many", Name: fmt.Sprint(i)})
			if missing := errors.Is(err, runnel.ErrNotFound); missing != (i%3 == 0) || err != nil && !missing {
				t.Fatalf("segment %d: %v", i, err)
			}
		}
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
