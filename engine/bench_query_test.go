package engine_test

import (
	"fmt"
	"sync"
	"testing"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/engine"
	"github.com/runnelhq/runnel/storage/pebblestore"
)

// BenchmarkQuery measures going over 500,000 entries of 100 bytes that storage holds and the cache of the
// system keeps, of a segment and of a space of 16 of them.
func BenchmarkQuery(b *testing.B) {
	const total = 500_000
	for _, segments := range []int{1, 16} {
		for _, batch := range []int{10, 1000} {
			b.Run(fmt.Sprintf("segments=%d/batch=%d", segments, batch), func(b *testing.B) {
				d, err := pebblestore.Open(b.TempDir(), pebblestore.Config{})
				if err != nil {
					b.Fatal(err)
				}
				defer d.Close()
				e, err := engine.Open(d, engine.Config{TailCacheBytes: 1})
				if err != nil {
					b.Fatal(err)
				}
				defer e.Close()
				records := make([]runnel.Record, batch)
				for i := range records {
					records[i].Payload = make([]byte, 100)
				}
				var all sync.WaitGroup
				for s := range 16 { // writers share syncs
					all.Go(func() {
						for n := s; n < total/batch; n += 16 {
							seg := runnel.Segment{Space: "s", Name: fmt.Sprint(n % segments)}
							if _, err := e.Append(ctx, seg, creating(), records...); err != nil {
								b.Error(err)
							}
						}
					})
				}
				all.Wait()
				q := runnel.Query{Sources: []runnel.Source{{Space: runnel.Space{Name: "s"}}}}
				if segments == 1 {
					q.Sources[0].Segment = "0"
				}
				b.ReportAllocs()
				for b.Loop() {
					n := 0
					for batch, err := range e.Query(ctx, q) {
						if err != nil {
							b.Fatal(err)
						}
						for i := range batch.Len() {
							n += len(batch.Entry(i).Payload)
						}
					}
					if n != total*100 {
						b.Fatal(n)
					}
				}
				b.ReportMetric(float64(total*b.N)/b.Elapsed().Seconds(), "entries/s")
			})
		}
	}
}
