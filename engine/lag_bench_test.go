package engine_test

import (
	"fmt"
	"log/slog"
	"testing"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/engine"
	"github.com/runnelhq/runnel/storage/pebblestore"
)

// BenchmarkLags looks at how far all readers are behind, as metrics are sampled, where there are 100,000 spaces and a
// reader in some of them.
func BenchmarkLags(b *testing.B) {
	const spaces = 100_000
	for _, readers := range []int{0, 1000, spaces} {
		b.Run(fmt.Sprintf("spaces=%d/readers=%d", spaces, readers), func(b *testing.B) {
			driver, err := pebblestore.Open(b.TempDir(), pebblestore.Config{})
			if err != nil {
				b.Fatal(err)
			}
			e, err := engine.Open(driver, engine.Config{Logger: slog.New(slog.DiscardHandler)})
			if err != nil {
				b.Fatal(err)
			}
			b.Cleanup(func() {
				e.Close()
				driver.Close()
			})
			inParallel(b, spaces, func(i int) error {
				seg := runnel.Segment{Space: fmt.Sprint("tenant/", i), Name: "s"}
				_, err := e.Append(b.Context(), seg, runnel.AppendOptions{Create: &runnel.CreateOptions{}}, runnel.Record{Payload: []byte("x")})
				if err == nil && i < readers {
					_, err = e.Transact(b.Context(), seg.In(), runnel.Transaction{Cursors: []runnel.CursorMove{{Segment: "s", Name: "reader", Place: 1}}})
				}
				return err
			})
			b.ReportAllocs()
			found := 0
			for b.Loop() {
				found = 0
				for _, err := range e.Lags(b.Context(), nil) {
					if err != nil {
						b.Fatal(err)
					}
					found++
				}
			}
			if found != readers {
				b.Fatalf("%d readers were found, %d are there", found, readers)
			}
		})
	}
}
