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

// BenchmarkItems compares, on Pebble on a real disk, an append of some bytes with setting an item to them,
// and with updating one.
func BenchmarkItems(b *testing.B) {
	value := []byte(fmt.Sprintf(`{"text":"%0100d"}`, 0))
	message := fmt.Sprintf(`{"type":"item","key":"k","value":%s,"headers":{"operation":"update","timestamp":"2026-01-01T00:00:00.000Z"}}`, value)
	write := func(e *engine.Engine, one runnel.ItemWrite, i int64) error {
		one.Key = fmt.Sprint(i % 1000)
		_, err := e.WriteItems(ctx, runnel.Space{}, runnel.ItemWrites{Segment: "g", Writes: []runnel.ItemWrite{one}})
		return err
	}
	for _, tc := range []struct {
		name string
		do   func(e *engine.Engine, i int64) error
	}{
		{"append", func(e *engine.Engine, _ int64) error {
			_, err := e.Append(ctx, at("g"), runnel.AppendOptions{Create: &runnel.CreateOptions{}}, runnel.Record{Payload: []byte(message)})
			return err
		}},
		{"set", func(e *engine.Engine, i int64) error { return write(e, runnel.ItemWrite{Value: value}, i) }},
		{"update", func(e *engine.Engine, i int64) error {
			return write(e, runnel.ItemWrite{Apply: func(*runnel.Item) ([]byte, error) { return value, nil }}, i)
		}},
	} {
		for _, writers := range []int{1, 64} {
			b.Run(fmt.Sprintf("%s/writers=%d", tc.name, writers), func(b *testing.B) {
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
				b.ReportAllocs()
				b.ResetTimer()
				var next atomic.Int64
				var work sync.WaitGroup
				for range writers {
					work.Go(func() {
						for i := next.Add(1); i <= int64(b.N); i = next.Add(1) {
							if err := tc.do(e, i); err != nil {
								b.Error(err)
								return
							}
						}
					})
				}
				work.Wait()
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "writes/s")
			})
		}
	}
}
