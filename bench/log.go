//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/engine"
	"github.com/runnelhq/runnel/storage/pebblestore"
)

// A row of the log in process is measured by a process of its own, which has all cores and embeds the
// log as a program would. Where the limit is the disk, the two are measured in turns, because the disk
// of a machine that others use is not the same for long.

// logRounds is how often the log and its limit take turns.
const logRounds = 5

// logResult is what the log and the limit came to, in operations a second over all rounds, and the ratio
// of the round that is in the middle.
type logResult struct {
	PerSecond float64 `json:"per_second"`
	Limit     float64 `json:"limit"`
	MedianMS  float64 `json:"median_ms"`
	LimitMS   float64 `json:"limit_ms"`
}

// runLog is the main of such a process.
func runLog(kind string, args []string) error {
	dir := args[0]
	duration, err := time.ParseDuration(args[1])
	if err != nil {
		return err
	}
	n, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	measure := map[string]func(dir string, duration time.Duration, n int) (logResult, error){
		"log-append-own":      appendOwn,
		"log-append-hot":      appendHot,
		"log-append-fresh":    appendFresh,
		"log-batch":           appendBatches,
		"log-consume-segment": consumeSegment,
		"log-consume-space":   consumeSpace,
		"log-peek":            peekMany,
	}[kind]
	if measure == nil {
		return fmt.Errorf("no such peer: %q", kind)
	}
	r, err := measure(dir, duration, n)
	if err != nil {
		return err
	}
	out, err := json.Marshal(r)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(os.Stdout, string(out))
	return err
}

// withLog opens a log in a directory, with the settings of a program that sets nothing.
func withLog(dir string, use func(*engine.Engine) error) (err error) {
	quiet := slog.New(slog.DiscardHandler)
	driver, err := pebblestore.Open(dir, pebblestore.Config{Logger: quiet})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, driver.Close()) }()
	e, err := engine.Open(driver, engine.Config{Logger: quiet})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, e.Close()) }()
	return use(e)
}

func appendOwn(dir string, duration time.Duration, writers int) (logResult, error) {
	return appendSingles(dir, duration, writers, writers)
}

func appendHot(dir string, duration time.Duration, writers int) (logResult, error) {
	return appendSingles(dir, duration, writers, 1)
}

// appendSingles measures durable appends of one record by so many writers to so many segments of a space.
// The limit is how often the disk syncs such a record when nothing else is written.
func appendSingles(dir string, duration time.Duration, writers, segments int) (r logResult, err error) {
	return r, withLog(filepath.Join(dir, "log"), func(e *engine.Engine) error {
		record := runnel.Record{Payload: text(recordBytes)}
		r, err = inTurns(dir, duration, writers, func(ctx context.Context, writer, _ int) error {
			_, err := e.Append(ctx, benchSegment(writer%segments), creating, record)
			return err
		})
		return err
	})
}

// appendBatches measures durable appends of 1,000 records by so many writers, in records a second. The
// limit is what the disk does with so many bytes at a time.
func appendBatches(dir string, duration time.Duration, writers int) (r logResult, err error) {
	return r, withLog(filepath.Join(dir, "log"), func(e *engine.Engine) error {
		records := someRecords(batchRecords)
		r, err = inTurns(dir, duration, writers, func(ctx context.Context, writer, _ int) error {
			_, err := e.Append(ctx, benchSegment(writer), creating, records...)
			return err
		})
		r.PerSecond *= batchRecords
		return err
	})
}

const batchRecords = 1000

var creating = runnel.AppendOptions{Create: &runnel.CreateOptions{}}

func benchSegment(n int) runnel.Segment {
	return runnel.Segment{Space: "bench", Name: strconv.Itoa(n)}
}

func someRecords(n int) []runnel.Record {
	records := make([]runnel.Record, n)
	for i := range records {
		records[i].Payload = text(recordBytes)
	}
	return records
}

// inTurns lets so many workers do something again and again, and then syncs single records to a file, in
// rounds of which the first is not counted.
func inTurns(dir string, duration time.Duration, workers int, do func(ctx context.Context, worker, n int) error) (logResult, error) {
	var r logResult
	var took, bare []time.Duration
	each := duration / logRounds
	for round := range logRounds + 1 {
		latencies, err := work(each, workers, do)
		if err != nil {
			return r, err
		}
		syncs, err := syncs(dir, recordBytes, each/2)
		if err != nil {
			return r, err
		}
		if round == 0 {
			continue
		}
		took, bare = append(took, latencies...), append(bare, syncs...)
	}
	slices.Sort(took)
	slices.Sort(bare)
	r.PerSecond = float64(len(took)) / (each * logRounds).Seconds()
	r.Limit = float64(len(bare)) / (each / 2 * logRounds).Seconds()
	r.MedianMS, r.LimitMS = took[len(took)/2].Seconds()*1e3, bare[len(bare)/2].Seconds()*1e3
	return r, nil
}

// work returns how long everything took that was done within the duration.
func work(duration time.Duration, workers int, do func(ctx context.Context, worker, n int) error) ([]time.Duration, error) {
	ctx := context.Background()
	latencies := make([][]time.Duration, workers)
	errs := make([]error, workers)
	until := time.Now().Add(duration)
	var all sync.WaitGroup
	for w := range workers {
		all.Go(func() {
			now := time.Now()
			for n := 0; ; n++ {
				if err := do(ctx, w, n); err != nil {
					errs[w] = err
					return
				}
				done := time.Now()
				if done.After(until) {
					return
				}
				latencies[w] = append(latencies[w], done.Sub(now))
				now = done
			}
		})
	}
	all.Wait()
	return slices.Concat(latencies...), errors.Join(errs...)
}

// syncs appends size bytes to a new file and syncs it, again and again, and returns how long each took.
func syncs(dir string, size int, duration time.Duration) (each []time.Duration, err error) {
	f, err := os.CreateTemp(dir, "syncs-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close(), os.Remove(f.Name())) }()
	block := text(size)
	until := time.Now().Add(duration)
	for now := time.Now(); now.Before(until); {
		if _, err := f.Write(block); err != nil {
			return nil, err
		}
		if err := unix.Fdatasync(int(f.Fd())); err != nil {
			return nil, err
		}
		done := time.Now()
		each = append(each, done.Sub(now))
		now = done
	}
	return each, nil
}

// stored is how many entries the rows of reading read, and storedSegments over how many segments.
const (
	stored         = 1_000_000
	storedSegments = 16
)

func consumeSegment(dir string, duration time.Duration, batch int) (logResult, error) {
	return consume(dir, duration, batch, 1, runnel.Source{Space: benchSegment(0).In(), Segment: benchSegment(0).Name})
}

func consumeSpace(dir string, duration time.Duration, batch int) (logResult, error) {
	return consume(dir, duration, batch, storedSegments, runnel.Source{Space: benchSegment(0).In()})
}

// consume writes entries in batches to segments in turns, opens the log again so that nothing of it is in
// its memory, and measures one reader of all of it, who looks at every entry, in entries a second.
func consume(dir string, duration time.Duration, batch, segments int, source runnel.Source) (r logResult, err error) {
	data := filepath.Join(dir, "log")
	err = withLog(data, func(e *engine.Engine) error {
		records := someRecords(batch)
		var next atomic.Int64
		var writers errgroup.Group
		for range storedSegments {
			writers.Go(func() error {
				for n := int(next.Add(1)) - 1; n < stored/batch; n = int(next.Add(1)) - 1 {
					if _, err := e.Append(context.Background(), benchSegment(n%segments), creating, records...); err != nil {
						return err
					}
				}
				return nil
			})
		}
		return writers.Wait()
	})
	if err != nil {
		return r, err
	}
	return r, withLog(data, func(e *engine.Engine) error {
		if _, err := readEntries(e, source); err != nil { // which warms the cache of the system
			return err
		}
		read, began := 0, time.Now()
		for time.Since(began) < duration {
			n, err := readEntries(e, source)
			if err != nil {
				return err
			}
			read += n
		}
		r.PerSecond = float64(read) / time.Since(began).Seconds()
		return nil
	})
}

// readEntries reads a source to its end, and returns how many entries it has seen.
func readEntries(e *engine.Engine, source runnel.Source) (int, error) {
	seen, size := 0, 0
	var last runnel.Sequence
	for b, err := range e.Query(context.Background(), runnel.Query{Sources: []runnel.Source{source}}) {
		if err != nil {
			return 0, err
		}
		for i := range b.Len() {
			entry := b.Entry(i)
			size += len(entry.Payload)
			last = max(last, entry.Sequence)
			seen++
		}
	}
	if seen != stored || size != stored*recordBytes || last == 0 {
		return 0, fmt.Errorf("read %d entries of %d bytes, through %d", seen, size, last)
	}
	return seen, nil
}

// peekMany measures looks at the last entries of segments by so many readers.
func peekMany(dir string, duration time.Duration, readers int) (r logResult, err error) {
	return r, withLog(filepath.Join(dir, "log"), func(e *engine.Engine) error {
		record := runnel.Record{Payload: text(recordBytes)}
		for n := range storedSegments {
			if _, err := e.Append(context.Background(), benchSegment(n), creating, record); err != nil {
				return err
			}
		}
		counts := make([]int, readers)
		errs := make([]error, readers)
		began := time.Now()
		var all sync.WaitGroup
		for w := range readers {
			all.Go(func() {
				for n := 0; errs[w] == nil && (n%64 != 0 || time.Since(began) < duration); n++ {
					_, errs[w] = e.Peek(context.Background(), benchSegment(n%storedSegments))
					counts[w]++
				}
			})
		}
		all.Wait()
		for _, n := range counts {
			r.PerSecond += float64(n)
		}
		r.PerSecond /= time.Since(began).Seconds()
		return errors.Join(errs...)
	})
}
