package session_test

import (
	"net/http/httptest"
	"testing"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/engine"
	"github.com/runnelhq/runnel/session"
	"github.com/runnelhq/runnel/storage/pebblestore"
)

// newBench returns a client of a server with a store on disk.
func newBench(b *testing.B) *session.Client {
	b.Helper()
	d, err := pebblestore.Open(b.TempDir(), pebblestore.Config{})
	if err != nil {
		b.Fatal(err)
	}
	e, err := engine.Open(d, engine.Config{})
	if err != nil {
		b.Fatal(err)
	}
	server := httptest.NewServer(session.NewHandler(e, session.Config{}))
	c, err := session.Dial(b.Context(), server.URL, session.ClientConfig{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _, _, _, _ = c.Close(), e.Close(), d.Close(), server })
	b.ReportAllocs()
	return c
}

var benchSegment = runnel.Segment{Space: "bench", Name: "s"}

func hundredBytes(n int) []runnel.Record {
	records := make([]runnel.Record, n)
	for i := range records {
		records[i].Payload = make([]byte, 100)
	}
	return records
}

func appendTo(b *testing.B, c *session.Client, records []runnel.Record) {
	b.Helper()
	if _, err := c.Append(b.Context(), benchSegment, runnel.AppendOptions{Create: &runnel.CreateOptions{}}, records...); err != nil {
		b.Fatal(err)
	}
}

func BenchmarkAppendBatchesOf1000(b *testing.B) {
	c := newBench(b)
	batch := hundredBytes(1000)
	n := 0
	for b.Loop() {
		appendTo(b, c, batch)
		n += len(batch)
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "entries/s")
}

func BenchmarkAppendOne(b *testing.B) {
	c := newBench(b)
	one := hundredBytes(1)
	for b.Loop() {
		appendTo(b, c, one)
	}
}

func BenchmarkStat(b *testing.B) {
	c := newBench(b)
	appendTo(b, c, hundredBytes(1))
	for b.Loop() {
		if _, err := c.Stat(b.Context(), benchSegment); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkStatSideBySide(b *testing.B) {
	c := newBench(b)
	appendTo(b, c, hundredBytes(1))
	b.SetParallelism(16)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := c.Stat(b.Context(), benchSegment); err != nil {
				b.Error(err)
			}
		}
	})
}

func benchmarkQuery(b *testing.B, size int) {
	c := newBench(b)
	const total = 200_000
	batch := hundredBytes(size)
	for n := 0; n < total; n += size {
		appendTo(b, c, batch)
		if size == 1 && n == 20_000 {
			break
		}
	}
	n := 0
	for b.Loop() {
		for batch, err := range c.Query(b.Context(), runnel.Query{Sources: []runnel.Source{{Space: benchSegment.In(), Segment: benchSegment.Name}}}) {
			if err != nil {
				b.Fatal(err)
			}
			for i := range batch.Len() {
				n += min(len(batch.Entry(i).Payload), 1)
			}
		}
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "entries/s")
}

func BenchmarkQueryOfBatchesOf1000(b *testing.B) { benchmarkQuery(b, 1000) }
func BenchmarkQueryOfSingleEntries(b *testing.B) { benchmarkQuery(b, 1) }
