package main

import (
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// progress shows on a terminal how far a transfer is, and nothing anywhere else.
type progress struct {
	bytes atomic.Int64
	verb  string
	began time.Time
	w     io.Writer // nil if nobody watches
	stop  chan struct{}
	done  sync.WaitGroup
}

// watch starts to show progress on w, if that is a terminal.
func watch(w io.Writer, verb string) *progress {
	p := &progress{verb: verb, began: time.Now(), stop: make(chan struct{})}
	if !isTerminal(w) {
		return p
	}
	p.w = w
	p.done.Go(func() {
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				_, _ = fmt.Fprintf(w, "\r\x1b[K%s", p.line())
			case <-p.stop:
				return
			}
		}
	})
	return p
}

// Write counts, so that a progress can be one end of an io.TeeReader.
func (p *progress) Write(b []byte) (int, error) {
	p.bytes.Add(int64(len(b)))
	return len(b), nil
}

func (p *progress) line() string {
	mb := float64(p.bytes.Load()) / 1e6
	return fmt.Sprintf("%s %.1f MB, %.1f MB/s", p.verb, mb, mb/max(time.Since(p.began).Seconds(), 1e-3))
}

// end takes the line away and leaves the last words in its place, if there are any.
func (p *progress) end(format string, args ...any) {
	close(p.stop)
	p.done.Wait()
	if p.w == nil {
		return
	}
	last := "\r\x1b[K"
	if format != "" {
		last += fmt.Sprintf(format, args...) + "\n"
	}
	_, _ = io.WriteString(p.w, last)
}

// isTerminal tells a terminal from files and pipes. It takes other character devices for terminals too,
// which does no harm: the most likely one is /dev/null.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
