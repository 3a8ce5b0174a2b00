package record_test

import (
	"testing"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/record"
)

func TestTheMetadataOfALargeRunIsReadInALinearTime(t *testing.T) {
	const entries, patience = 1 << 16, 5 * time.Second // a few milliseconds, or a minute if each is looked for
	records := make([]runnel.Record, entries)
	for i := range records {
		records[i].Metadata = map[string]string{"k": "v"}
	}
	run := record.NewBody(records).At(&record.Place{First: 1, Position: 1, Transaction: 1})
	began := time.Now()
	for i := range run.Len() {
		if got := run.Entry(i).Metadata["k"]; got != "v" {
			t.Fatalf("entry %d has %q", i, got)
		}
		if i%1024 == 0 && time.Since(began) > patience {
			t.Fatalf("%d of %d entries took %v", i, entries, time.Since(began).Round(time.Second))
		}
	}
}
