package engine_test

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/engine"
	"github.com/runnelhq/runnel/storage/pebblestore"
)

// BenchmarkAppend measures synced appends of 100-byte records to Pebble on a real disk.
func BenchmarkAppend(b *testing.B) {
	for _, writers := range []int{1, 4, 16, 64} {
		for _, hot := range []bool{false, true} {
			b.Run(fmt.Sprintf("writers=%d/hot=%v", writers, hot), func(b *testing.B) {
				d, err := pebblestore.Open(b.TempDir(), pebblestore.Config{})
				if err != nil {
					b.Fatal(err)
				}
				defer d.Close()
				e, err := engine.Open(d, engine.Config{})
				if err != nil {
					b.Fatal(err)
				}
				defer e.Close()
				segs := make([]runnel.Segment, writers)
				for i := range segs {
					segs[i] = runnel.Segment{Name: fmt.Sprint("s", i)}
					if hot {
						segs[i].Name = "s"
					}
					if _, err := e.Create(ctx, segs[i], runnel.CreateOptions{}); err != nil {
						b.Fatal(err)
					}
				}
				payload := make([]byte, 100)
				b.SetBytes(100)
				b.ReportAllocs()
				b.ResetTimer()
				var left atomic.Int64
				left.Store(int64(b.N))
				var wg sync.WaitGroup
				for i := range writers {
					wg.Go(func() {
						for left.Add(-1) >= 0 {
							if _, err := e.Append(ctx, segs[i], runnel.AppendOptions{}, runnel.Record{Payload: payload}); err != nil {
								b.Error(err)
								return
							}
						}
					})
				}
				wg.Wait()
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "appends/s")
			})
		}
	}
}
