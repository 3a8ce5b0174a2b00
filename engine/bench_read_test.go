package engine_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/engine"
	"github.com/runnelhq/runnel/storage/pebblestore"
)

// BenchmarkCatchUp measures reading 64 MiB from storage, in runs of what one append brought.
func BenchmarkCatchUp(b *testing.B) {
	const total = 64 << 20
	for _, size := range []int{100, 1 << 10, 64 << 10, 1 << 20} {
		b.Run(fmt.Sprintf("record=%dB", size), func(b *testing.B) {
			ctx := context.Background()
			dir := b.TempDir()
			chacha := rand.NewChaCha8([32]byte{}) // what does not compress
			cfg := pebblestore.Config{CacheBytes: 32 << 20}
			d, err := pebblestore.Open(dir, cfg)
			if err != nil {
				b.Fatal(err)
			}
			e, err := engine.Open(d, engine.Config{})
			if err != nil {
				b.Fatal(err)
			}
			seg := runnel.Segment{Name: "s"}
			if _, err := e.Create(ctx, seg, runnel.CreateOptions{}); err != nil {
				b.Fatal(err)
			}
			records := make([]runnel.Record, max(1, 100<<10/size))
			for i := range records {
				records[i].Payload = make([]byte, size)
				_, _ = chacha.Read(records[i].Payload)
			}
			for range total / (size * len(records)) {
				if _, err := e.Append(ctx, seg, runnel.AppendOptions{}, records...); err != nil {
					b.Fatal(err)
				}
			}
			if err := e.Close(); err != nil {
				b.Fatal(err)
			}
			if err := d.Close(); err != nil {
				b.Fatal(err)
			}
			if d, err = pebblestore.Open(dir, cfg); err != nil {
				b.Fatal(err)
			}
			defer d.Close()
			if e, err = engine.Open(d, engine.Config{}); err != nil {
				b.Fatal(err)
			}
			defer e.Close()
			b.SetBytes(total)
			b.ReportAllocs()
			for b.Loop() {
				v, err := e.Read(ctx, seg, 0, 0)
				if err != nil {
					b.Fatal(err)
				}
				n := 0
				for batch, err := range v.Stream {
					if err != nil {
						b.Fatal(err)
					}
					n += len(batch.Payloads())
				}
				if n < total-size*len(records) {
					b.Fatal(n)
				}
			}
		})
	}
}
