package engine

import (
	"context"
	"fmt"
	"testing"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/record"
	"github.com/runnelhq/runnel/storage/memory"
)

func TestAReaderHoldsAPageOfDeletionsHoweverManyThereAre(t *testing.T) {
	const deletions = 100_000
	e, err := Open(new(memory.Driver), Config{SweepInterval: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = e.Close() }()
	ctx := context.Background()
	sp, err := e.enter(ctx, runnel.Space{Name: "s"})
	if err != nil {
		t.Fatal(err)
	}
	defer sp.leave()
	for next := 1; next <= deletions; next += 1000 {
		err := sp.write(ctx, 1000*2*rowBytes, 1001, func(x *tx) error {
			for i := next; i < next+1000; i++ {
				row := record.Gone{Segment: uint64(i), Name: fmt.Sprint("g", i), Stamp: int64(i)}
				x.put(goneKey(runnel.Position(i)), row.Append(nil))
			}
			x.sp.items.Gone = runnel.Position(next + 999)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	r := goneReader{sp: sp, through: deletions - 1}
	for want := runnel.Position(1); ; want++ {
		g, err := r.first(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if g == nil && want == deletions {
			r.through = deletions // the last one becomes durable
			g, err = r.first(ctx)
		}
		switch {
		case err != nil:
			t.Fatal(err)
		case g == nil && want == deletions+1:
			return
		case g == nil || g.at != want:
			t.Fatalf("%v is next, want one at %d", g, want)
		case len(r.page) > 1000:
			t.Fatalf("%d deletions are held", len(r.page))
		}
		r.take()
	}
}
