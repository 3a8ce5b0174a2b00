package pebblestore_test

import (
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/runnelhq/runnel/storage"
	"github.com/runnelhq/runnel/storage/pebblestore"
)

// BenchmarkCommit puts one value of 100 bytes in each commit, to a partition of each writer's own.
func BenchmarkCommit(b *testing.B) {
	for _, writers := range []int{1, 16, 256} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			d, err := pebblestore.Open(b.TempDir(), pebblestore.Config{})
			if err != nil {
				b.Fatal(err)
			}
			defer d.Close()
			var next, writer atomic.Int64
			value := make([]byte, 100)
			b.SetBytes(100)
			b.ReportAllocs()
			b.ResetTimer()
			done := make(chan error)
			for range writers {
				go func() {
					p := storage.Partition{Name: fmt.Sprint("space ", writer.Add(1))}
					var batch storage.Batch
					for i := next.Add(1); i <= int64(b.N); i = next.Add(1) {
						batch.Ops = batch.Ops[:0]
						batch.Set(fmt.Appendf(nil, "%016d", i), nil, value)
						if _, err := d.Commit(ctx, p, &batch); err != nil {
							done <- err
							return
						}
					}
					done <- nil
				}()
			}
			for range writers {
				if err := <-done; err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkSync is what the disk allows: one small write and fdatasync after another.
func BenchmarkSync(b *testing.B) {
	f, err := os.Create(filepath.Join(b.TempDir(), "file"))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	record := make([]byte, 128)
	for b.Loop() {
		if _, err := f.Write(record); err != nil {
			b.Fatal(err)
		}
		if err := f.Sync(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkAtRest keeps incompressible entries of 100 bytes, 100 to a value, and reports what one takes
// on disk after compaction.
func BenchmarkAtRest(b *testing.B) {
	const values, entries, size = 4000, 100, 100
	for b.Loop() {
		d, err := pebblestore.Open(b.TempDir(), pebblestore.Config{})
		if err != nil {
			b.Fatal(err)
		}
		p := storage.Partition{Name: "orders/eu"}
		value := make([]byte, entries*size)
		for first := 0; first < values; first += 100 {
			var batch storage.Batch
			for i := range 100 {
				rand.Read(value)
				batch.Set(fmt.Appendf(nil, "segment-%d-%010d", (first+i)%10, first+i), nil, append([]byte{}, value...))
			}
			if _, err := d.Commit(ctx, p, &batch); err != nil {
				b.Fatal(err)
			}
		}
		if err := d.Compact(ctx); err != nil {
			b.Fatal(err)
		}
		m := d.Metrics()
		tables := m.Total().TablesSize
		b.ReportMetric(float64(tables)/(values*entries), "table-B/entry")
		b.ReportMetric(float64(d.DiskUsage())/(values*entries), "disk-B/entry")
		if err := d.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
