package dsclient

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http/httptrace"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/runnelhq/runnel"
)

// WriterOptions tune a Writer. The zero value writes bytes to a stream of type application/octet-stream as
// a producer that nobody else is.
type WriterOptions struct {
	// ContentType is the stream's. Empty means application/octet-stream.
	ContentType string
	// Producer names the writer. Empty means a random name. A writer that sends the same batches again under
	// the same name and epoch, after a crash for example, changes nothing: the server knows them.
	Producer string
	// Epoch is the producer's. A higher one shuts out all writers of lower ones, and starts anew.
	Epoch uint64
	// Claim takes the next epoch if the server says at the first batch that Epoch is over.
	Claim bool
	// BatchBytes is how much one request carries at most, unless one message is larger. 0 means 1 MiB.
	BatchBytes int
	// InFlight is how many batches may be under way. Write waits while there are more. 0 means 4.
	InFlight int
	// Linger is how long data may wait for more before it is sent. 0 means 5 ms. Less than 0 means for ever:
	// batches then depend only on what is written, and are the same when it is written again.
	Linger time.Duration
	// CloseStream makes Close close the stream behind the last data, in one step.
	CloseStream bool
	// Retrying, if not nil, is told why a batch is sent again and how long that waits. It may be called by
	// several goroutines at once.
	Retrying func(err error, wait time.Duration)
}

func (o WriterOptions) withDefaults() WriterOptions {
	o.ContentType = cmp.Or(o.ContentType, "application/octet-stream")
	if o.Producer == "" {
		o.Producer = uuid.NewString()
	}
	o.BatchBytes = max(cmp.Or(o.BatchBytes, 1<<20), utf8.UTFMax)
	o.InFlight = cmp.Or(o.InFlight, 4)
	o.Linger = cmp.Or(o.Linger, 5*time.Millisecond)
	return o
}

// Acked is how far a Writer's data has been accepted. What it speaks of is durable.
type Acked struct {
	// Offset is the stream's tail after the last accepted batch, where the server told it.
	Offset Offset
	// Batches and Bytes count what was accepted, duplicates included.
	Batches, Bytes int64
	// Duplicates counts the batches that an earlier attempt, or an earlier writer of the same name, had
	// already brought.
	Duplicates int64
	// Closed says that the stream is closed.
	Closed bool
}

// Writer appends to a stream as an idempotent producer. Data is collected into batches, a few of which are
// under way at a time; each is sent again until the server accepts it, in order and once, over broken
// connections and restarts of the server. Its methods may be called concurrently.
//
// In a JSON stream every call of Write hands in one message, which is what json.Encoder does; in any other
// the calls only bring bytes.
type Writer struct {
	client  *Client
	stream  string
	options WriterOptions
	json    bool
	text    bool

	mu     sync.Mutex // orders those who write; held while they wait for room
	filled []byte
	taken  int       // bytes that Write took for filled; it has separators too
	last   *outgoing // the batch sent last
	linger *time.Timer
	closed bool

	queue chan *outgoing
	// failed is closed once err is set, and idle when nothing is under way and nothing will be.
	failed, idle chan struct{}

	state sync.Mutex
	err   error
	acked Acked
	epoch uint64
	// known is one more than the highest sequence that the server has told it has.
	known uint64
}

// outgoing is a batch under way.
type outgoing struct {
	body  []byte
	bytes int // that Write took for it
	close bool
	seq   uint64
	prev  <-chan struct{} // closed when the batch before is accepted
	done  chan struct{}   // closed when this one is
	wrote chan struct{}   // closed when it has been sent for the first time
	once  sync.Once       // for wrote
}

// written is called whenever all of a request is on its way.
func (b *outgoing) written(httptrace.WroteRequestInfo) { b.once.Do(func() { close(b.wrote) }) }

// NewWriter returns a Writer for a stream that exists. When ctx ends, what has not been accepted is given
// up, and every method fails. The caller must call Close.
func (c *Client) NewWriter(ctx context.Context, stream string, o WriterOptions) *Writer {
	o = o.withDefaults()
	w := &Writer{
		client:  c,
		stream:  stream,
		options: o,
		json:    runnel.IsJSON(o.ContentType),
		text:    len(o.ContentType) > 5 && o.ContentType[:5] == "text/",
		queue:   make(chan *outgoing),
		failed:  make(chan struct{}),
		idle:    make(chan struct{}),
		epoch:   o.Epoch,
	}
	go w.run(ctx)
	return w
}

var errWriterClosed = errors.New("dsclient: the writer is closed")

// Write takes p in. It waits while too much is under way, and returns before p is accepted: Flush and Close
// tell that. An error is for good, and says that what was written and is not in Acked may or may not have
// been accepted.
func (w *Writer) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return 0, errWriterClosed
	}
	if w.json {
		return w.writeMessage(p)
	}
	written := 0
	for len(p) > 0 {
		n := min(len(p), w.options.BatchBytes-len(w.filled))
		w.filled = append(w.filled, p[:n]...)
		w.taken += n
		if p = p[n:]; len(w.filled) >= w.options.BatchBytes {
			if err := w.send(false); err != nil {
				return written, err
			}
		}
		written += n
	}
	w.arm()
	return written, w.failure()
}

func (w *Writer) writeMessage(p []byte) (int, error) {
	if !json.Valid(p) {
		return 0, fmt.Errorf("dsclient: a message is not valid JSON: %.80q", p)
	}
	if len(w.filled) > 0 && len(w.filled)+len(p)+1 > w.options.BatchBytes {
		if err := w.send(false); err != nil {
			return 0, err
		}
	}
	// Always an array: the server takes off one level, so that a message that is an array stays one.
	separator := byte(',')
	if len(w.filled) == 0 {
		separator = '['
	}
	w.filled = append(append(w.filled, separator), p...)
	w.taken += len(p)
	w.arm()
	return len(p), w.failure()
}

// arm sees to it that data does not wait for longer than Linger.
func (w *Writer) arm() {
	if w.options.Linger < 0 || len(w.filled) == 0 || w.linger != nil {
		return
	}
	w.linger = time.AfterFunc(w.options.Linger, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.linger != nil && !w.closed {
			_ = w.send(false) // the next call will tell
		}
	})
}

// send hands what has been collected to run, and waits for room there. w.mu is held.
func (w *Writer) send(last bool) error {
	if w.linger != nil {
		w.linger.Stop()
		w.linger = nil
	}
	body, rest := w.filled, 0
	if w.text && !last {
		rest = partialRune(body)
	}
	if len(body)-rest == 0 && !(last && w.options.CloseStream) {
		return w.failure()
	}
	b := &outgoing{
		body:  body[:len(body)-rest],
		bytes: w.taken - rest,
		close: last && w.options.CloseStream,
		done:  make(chan struct{}),
		wrote: make(chan struct{}),
	}
	w.filled = append(make([]byte, 0, min(cap(body), 2*w.options.BatchBytes)), body[len(body)-rest:]...)
	if w.json && len(b.body) > 0 {
		b.body = append(b.body, ']')
	}
	w.taken = rest
	select {
	case w.queue <- b:
		w.last = b
		return nil
	case <-w.failed:
		return w.failure()
	}
}

// partialRune returns how many bytes at the end of b begin a character that does not end in b. They wait for
// the rest, so that a text stream is text after every append.
func partialRune(b []byte) int {
	for n := 1; n <= min(len(b), utf8.UTFMax-1); n++ {
		if c := b[len(b)-n]; utf8.RuneStart(c) {
			if !utf8.FullRune(b[len(b)-n:]) {
				return n
			}
			return 0
		}
	}
	return 0
}

// Flush waits until everything written so far is accepted, and returns how far that is.
func (w *Writer) Flush() (Acked, error) {
	w.mu.Lock()
	err := w.send(false)
	last := w.last
	w.mu.Unlock()
	if err != nil {
		return w.Acked(), err
	}
	if last != nil {
		select {
		case <-last.done:
		case <-w.failed:
		}
	}
	return w.Acked(), w.failure()
}

// Close sends what is left, waits until everything is accepted, and ends the Writer. Acked then tells how
// far it came.
func (w *Writer) Close() error {
	w.mu.Lock()
	if !w.closed {
		w.closed = true
		_ = w.send(true) // its error is the writer's
		close(w.queue)
	}
	w.mu.Unlock()
	<-w.idle
	return w.failure()
}

// Done returns a channel that is closed when the Writer has failed, or has been closed and everything is
// accepted.
func (w *Writer) Done() <-chan struct{} { return w.idle }

// Acked tells how far the data has been accepted.
func (w *Writer) Acked() Acked {
	w.state.Lock()
	defer w.state.Unlock()
	return w.acked
}

// Producer returns the name and the epoch under which the Writer writes.
func (w *Writer) Producer() (name string, epoch uint64) {
	w.state.Lock()
	defer w.state.Unlock()
	return w.options.Producer, w.epoch
}

func (w *Writer) failure() error {
	w.state.Lock()
	defer w.state.Unlock()
	return w.err
}

// fail keeps the first error.
func (w *Writer) fail(err error) {
	w.state.Lock()
	defer w.state.Unlock()
	if w.err == nil {
		w.err = err
		close(w.failed)
	}
}

// run numbers the batches and keeps a bounded number of them under way. It ends when the queue is closed
// or the writer fails, and after all that it started.
func (w *Writer) run(ctx context.Context) {
	defer close(w.idle)
	ctx, cancel := context.WithCancel(ctx)
	var under sync.WaitGroup
	defer under.Wait()
	defer cancel()

	room := make(chan struct{}, w.options.InFlight)
	first := make(chan struct{})
	close(first)
	var prev <-chan struct{} = first
	for seq := uint64(0); ; seq++ {
		var b *outgoing
		select {
		case b = <-w.queue:
		case <-ctx.Done():
			w.fail(context.Cause(ctx))
			return
		case <-w.failed:
			return
		}
		if b == nil {
			under.Wait()
			return
		}
		b.seq, b.prev, prev = seq, prev, b.done
		room <- struct{}{} // given back by deliver, which ends when the context does
		under.Go(func() {
			defer func() { <-room }()
			if err := w.deliver(ctx, b); err != nil {
				w.fail(err)
				cancel()
			}
		})
		// The next batch waits until this one has been sent. They travel over different connections, and one
		// that arrives first is refused and sent again.
		wrote := b.wrote
		if seq == 0 {
			wrote = nil // The first goes alone: it establishes the producer, and may have to claim its epoch.
		}
		select {
		case <-wrote:
		case <-b.done:
		case <-w.failed:
			return
		}
	}
}

// deliver sends a batch until it is accepted.
func (w *Writer) deliver(ctx context.Context, b *outgoing) error {
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{WroteRequest: b.written})
	failures := 0
	for !w.has(b) {
		inOrder := isClosed(b.prev)
		appended, err := w.client.Append(ctx, w.stream, b.body, w.conditions(b))
		if err == nil {
			w.accept(b, appended)
			return nil
		}
		switch refused := (*Error)(nil); {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, runnel.ErrProducerGap) && !inOrder:
			// It overtook the batch before it, which must be accepted first.
			select {
			case <-b.prev:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
			continue
		case w.options.Claim && b.seq == 0 && errors.As(err, &refused) && refused.Detail.Epoch != nil && errors.Is(err, runnel.ErrProducerFenced):
			w.claim(*refused.Detail.Epoch + 1)
			continue
		case !temporary(ctx, err):
			return err
		}
		failures++
		wait := w.client.Backoff.after(failures, err)
		if w.options.Retrying != nil {
			w.options.Retrying(err, wait)
		}
		if err := pause(ctx, wait); err != nil {
			return err
		}
	}
	w.accept(b, Appended{Duplicate: true})
	return nil
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func (w *Writer) conditions(b *outgoing) AppendOptions {
	name, epoch := w.Producer()
	return AppendOptions{
		ContentType: w.options.ContentType,
		Producer:    &runnel.Producer{ID: name, Epoch: epoch, Seq: b.seq},
		Close:       b.close,
	}
}

func (w *Writer) claim(epoch uint64) {
	w.state.Lock()
	defer w.state.Unlock()
	w.epoch = epoch
}

// has tells whether the server is known to have a batch: an earlier attempt, or an earlier writer of this
// name, brought it. A batch that closes the stream is always sent.
func (w *Writer) has(b *outgoing) bool {
	w.state.Lock()
	defer w.state.Unlock()
	return b.seq < w.known && !b.close
}

func (w *Writer) accept(b *outgoing, a Appended) {
	w.state.Lock()
	defer w.state.Unlock()
	w.known = max(w.known, b.seq+1, a.ProducerSeq+1)
	w.acked.Batches++
	w.acked.Bytes += int64(b.bytes)
	if a.Duplicate {
		w.acked.Duplicates++
	}
	w.acked.Offset = max(w.acked.Offset, a.Offset)
	w.acked.Closed = w.acked.Closed || a.Closed
	close(b.done)
}
