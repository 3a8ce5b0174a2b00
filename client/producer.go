package client

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/runnelhq/runnel"
)

// ProducerConfig tunes a Producer. The zero ProducerConfig is right for most programs.
type ProducerConfig struct {
	// ID names the producer over restarts, with an Epoch that is higher each time. Empty means a name that
	// nobody else has.
	ID    string
	Epoch uint64
	// MaxBatchBytes is about how many bytes go with one write. 0 means DefaultBatchBytes.
	MaxBatchBytes int
	// MaxBatchRecords is how many records go with one write. 0 means DefaultBatchRecords.
	MaxBatchRecords int
	// Linger is how long a record waits for others to go with. 0 means not at all; those that come while a
	// write is under way always go together.
	Linger time.Duration
	// MaxBufferedBytes is how many bytes may wait before Send does. 0 means 4 × MaxBatchBytes.
	MaxBufferedBytes int
	// Create says what a segment that is made becomes. Its Records, Closed and Fork must be zero.
	Create runnel.CreateOptions
}

// Defaults of ProducerConfig.
const (
	DefaultBatchBytes   = 1 << 20
	DefaultBatchRecords = 10_000
)

func (c ProducerConfig) withDefaults() ProducerConfig {
	c.ID = cmp.Or(c.ID, "producer-"+uuid.NewString())
	c.MaxBatchBytes = cmp.Or(c.MaxBatchBytes, DefaultBatchBytes)
	c.MaxBatchRecords = cmp.Or(c.MaxBatchRecords, DefaultBatchRecords)
	c.MaxBufferedBytes = cmp.Or(c.MaxBufferedBytes, 4*c.MaxBatchBytes)
	return c
}

// Producer appends a sequence of records to a segment, in order and each once, also over lost connections.
// While one write is under way the next one gathers, so that Send does not wait for each record. After a
// write has failed all that follow fail with the same error: nothing is left out in between. All methods
// may be called concurrently.
type Producer struct {
	c       *Client
	segment runnel.Segment
	cfg     ProducerConfig

	mu      sync.Mutex
	waiting []*Ack // in order
	records []runnel.Record
	bytes   int           // of all records that are not acknowledged
	pending int           // bytes of those that are not on their way
	room    chan struct{} // closed when there may be room
	flush   bool          // do not linger
	err     error
	closed  bool
	wake    chan struct{} // has room for one
	ended   chan struct{}
	stop    context.CancelCauseFunc
}

// Ack is the answer to a record that was sent.
type Ack struct {
	done     chan struct{}
	sequence runnel.Sequence
	err      error
}

// Done is closed when the record is durable, or is known not to be written by this producer.
func (a *Ack) Done() <-chan struct{} { return a.done }

// Wait returns the sequence of the record when it is durable. The sequence is 0 if the first answer of the
// server was lost and others have written to the segment meanwhile: the record is there, once, but it is
// not known where.
func (a *Ack) Wait(ctx context.Context) (runnel.Sequence, error) {
	select {
	case <-a.done:
		return a.sequence, a.err
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// Producer returns a producer for a segment, which is made when there is none. It is to be closed.
func (c *Client) Producer(segment runnel.Segment, cfg ProducerConfig) *Producer {
	ctx, stop := context.WithCancelCause(context.Background())
	p := &Producer{
		c: c, segment: segment, cfg: cfg.withDefaults(), room: make(chan struct{}),
		wake: make(chan struct{}, 1), ended: make(chan struct{}), stop: stop,
	}
	go p.run(ctx)
	return p
}

// Send hands over a record, and returns at once unless too many bytes are waiting. The record must not be
// changed before it is acknowledged.
func (p *Producer) Send(ctx context.Context, record runnel.Record) (*Ack, error) {
	size := sizeOf(&record)
	for {
		p.mu.Lock()
		switch {
		case p.err != nil:
			defer p.mu.Unlock()
			return nil, p.err
		case p.closed:
			defer p.mu.Unlock()
			return nil, fmt.Errorf("%w: the producer is closed", runnel.ErrInvalid)
		case p.bytes == 0 || p.bytes+size <= p.cfg.MaxBufferedBytes:
			ack := &Ack{done: make(chan struct{})}
			p.waiting = append(p.waiting, ack)
			p.records = append(p.records, runnel.Record{Payload: record.Payload, Metadata: maps.Clone(record.Metadata)})
			p.bytes += size
			p.pending += size
			p.mu.Unlock()
			p.poke()
			return ack, nil
		}
		room := p.room
		p.mu.Unlock()
		select {
		case <-room:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// recordBytes is what a record takes besides its payload.
const recordBytes = 16

func sizeOf(r *runnel.Record) int {
	size := recordBytes + len(r.Payload)
	for name, value := range r.Metadata {
		size += len(name) + len(value)
	}
	return size
}

func (p *Producer) poke() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// Flush returns when everything that was sent before is durable.
func (p *Producer) Flush(ctx context.Context) error {
	p.mu.Lock()
	var last *Ack
	if n := len(p.waiting); n > 0 {
		last = p.waiting[n-1]
		p.flush = true
	}
	err := p.err
	p.mu.Unlock()
	if last == nil {
		return err
	}
	p.poke()
	_, err = last.Wait(ctx)
	return err
}

// Close waits until everything that was sent is durable, and ends the producer. When the context ends
// before, what is not durable is given up.
func (p *Producer) Close(ctx context.Context) error {
	p.mu.Lock()
	p.closed, p.flush = true, true
	p.mu.Unlock()
	p.poke()
	select {
	case <-p.ended:
	case <-ctx.Done():
		p.stop(ctx.Err())
		<-p.ended
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// run writes one batch after the other.
func (p *Producer) run(ctx context.Context) {
	defer close(p.ended)
	defer p.stop(nil)
	tail := runnel.Sequence(0) // after the last batch
	for seq := uint64(0); ; seq++ {
		records, acks := p.gather(ctx)
		if len(records) == 0 {
			return
		}
		options := Production{Producer: &runnel.Producer{ID: p.cfg.ID, Epoch: p.cfg.Epoch, Seq: seq}, Create: p.cfg.Create}
		appended, err := p.write(ctx, options, records)
		if err != nil {
			p.fail(err)
			return
		}
		first := appended.First
		if first == 0 && appended.Tail == tail+runnel.Sequence(len(records)) {
			first = tail + 1 // a repeated write is not told where it is, but there is nothing else
		}
		tail = appended.Tail
		for i, ack := range acks {
			if first > 0 {
				ack.sequence = first + runnel.Sequence(i)
			}
			close(ack.done)
		}
		p.acknowledged(records)
	}
}

// write writes a batch, and tries again while that is of use.
func (p *Producer) write(ctx context.Context, o Production, records []runnel.Record) (runnel.Appended, error) {
	wait := 10 * time.Millisecond
	for {
		appended, err := p.c.Produce(ctx, p.segment, o, records...)
		if !errors.Is(err, runnel.ErrUnavailable) && !errors.Is(err, runnel.ErrUnknown) {
			return appended, err
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return appended, errors.Join(context.Cause(ctx), err)
		}
		wait = min(2*wait, time.Second)
	}
}

// gather waits for records, and takes as many as go together; none when the producer is at its end.
func (p *Producer) gather(ctx context.Context) ([]runnel.Record, []*Ack) {
	var linger <-chan time.Time
	for {
		p.mu.Lock()
		n := len(p.records)
		full := p.pending >= p.cfg.MaxBatchBytes || n >= p.cfg.MaxBatchRecords
		ready := n > 0 && (full || p.flush || p.cfg.Linger <= 0)
		if !ready && n == 0 && p.closed {
			p.mu.Unlock()
			return nil, nil
		}
		if ready {
			defer p.mu.Unlock()
			return p.cut()
		}
		p.mu.Unlock()
		if n > 0 && linger == nil {
			timer := time.NewTimer(p.cfg.Linger)
			defer timer.Stop()
			linger = timer.C
		}
		select {
		case <-p.wake:
		case <-linger:
			p.mu.Lock()
			defer p.mu.Unlock()
			return p.cut()
		case <-ctx.Done():
			p.fail(context.Cause(ctx))
			return nil, nil
		}
	}
}

// cut takes out the records that go with the next write.
func (p *Producer) cut() (records []runnel.Record, acks []*Ack) {
	n, size := 0, 0
	for n < len(p.records) && n < p.cfg.MaxBatchRecords {
		next := sizeOf(&p.records[n])
		if n > 0 && size+next > p.cfg.MaxBatchBytes {
			break
		}
		size += next
		n++
	}
	records, p.records = p.records[:n:n], p.records[n:]
	acks = p.waiting[:n:n]
	p.pending -= size
	if len(p.records) == 0 {
		p.flush = p.closed
	}
	return records, acks
}

// acknowledged makes room.
func (p *Producer) acknowledged(records []runnel.Record) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.waiting = p.waiting[len(records):]
	for i := range records {
		p.bytes -= sizeOf(&records[i])
	}
	close(p.room)
	p.room = make(chan struct{})
}

// fail answers everybody who waits, for good.
func (p *Producer) fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.err = err
	for _, ack := range p.waiting {
		ack.err = err
		close(ack.done)
	}
	p.waiting, p.records = nil, nil
	close(p.room)
	p.room = make(chan struct{})
}
