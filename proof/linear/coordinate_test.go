package linear

import (
	"context"
	"fmt"
	"iter"
	"net/http/httptest"
	"sync/atomic"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/engine"
	"github.com/runnelhq/runnel/session"
)

// coordination is what a way to a space offers for those who coordinate.
type coordination interface {
	Acquire(ctx context.Context, q runnel.LeaseRequest) (runnel.Lease, error)
	Renew(ctx context.Context, f runnel.Fence) (runnel.Lease, error)
	Release(ctx context.Context, f runnel.Fence) error
	Transact(ctx context.Context, t runnel.Transaction) (runnel.Committed, error)
	Cursor(ctx context.Context, segment, name string) (runnel.Cursor, error)
	DeleteCursor(ctx context.Context, segment, name string) error
}

// coordinating is the coordination of a log.
type coordinating struct{ log func() runnel.Log }

func (f coordinating) Acquire(ctx context.Context, q runnel.LeaseRequest) (runnel.Lease, error) {
	return f.log().AcquireLease(ctx, theSpace, q)
}

func (f coordinating) Renew(ctx context.Context, fence runnel.Fence) (runnel.Lease, error) {
	return f.log().RenewLease(ctx, theSpace, fence)
}

func (f coordinating) Release(ctx context.Context, fence runnel.Fence) error {
	return f.log().ReleaseLease(ctx, theSpace, fence)
}

func (f coordinating) Transact(ctx context.Context, t runnel.Transaction) (runnel.Committed, error) {
	return f.log().Transact(ctx, theSpace, t)
}

func (f coordinating) Cursor(ctx context.Context, segment, name string) (runnel.Cursor, error) {
	return f.log().Cursor(ctx, runnel.CursorName{Space: theSpace, Segment: segment, Name: name})
}

func (f coordinating) DeleteCursor(ctx context.Context, segment, name string) error {
	return f.log().DeleteCursor(ctx, runnel.CursorName{Space: theSpace, Segment: segment, Name: name})
}

// overSession calls a server through a session. It is told no ids by reads, nor whether a segment is closed.
type overSession struct {
	coordinating
	itemsOf
	session *session.Client
}

// serveSession puts a server of sessions before an engine.
func (w *world) serveSession(engine func() *engine.Engine) (log, error) {
	h := session.NewHandler(reopened{engine: engine}, session.Config{Logger: quiet})
	s := httptest.NewServer(h)
	c, err := session.Dial(context.Background(), s.URL, session.ClientConfig{})
	if err != nil {
		return nil, err
	}
	w.stop = append(w.stop, func() error {
		defer s.Close()
		if err := c.Close(); err != nil {
			return err
		}
		return h.Shutdown(context.Background())
	})
	own := func() runnel.Log { return c }
	return overSession{coordinating{own}, itemsOf{own}, c}, nil
}

func (f overSession) Create(ctx context.Context, name string, o runnel.CreateOptions) (runnel.Created, error) {
	return f.session.Create(ctx, theSpace.Segment(name), o)
}

func (f overSession) Append(ctx context.Context, name string, o runnel.AppendOptions, payloads ...string) (runnel.Appended, error) {
	return f.session.Append(ctx, theSpace.Segment(name), o, recordsOf(payloads)...)
}

func (f overSession) Commit(ctx context.Context, writes ...runnel.Write) ([]runnel.Appended, error) {
	c, err := f.Transact(ctx, runnel.Transaction{Writes: writes})
	return c.Appended, err
}

func (f overSession) Delete(ctx context.Context, name string) error {
	return f.session.Delete(ctx, theSpace.Segment(name))
}

func (f overSession) Stat(ctx context.Context, name string) (runnel.Info, error) {
	return f.session.Stat(ctx, theSpace.Segment(name))
}

func (f overSession) Read(ctx context.Context, name string, from runnel.Sequence) (snapshot, error) {
	got := snapshot{tail: from}
	for b, err := range f.session.Query(ctx, runnel.Query{Sources: []runnel.Source{{Space: theSpace, Segment: name, After: uint64(from)}}}) {
		if err != nil {
			return snapshot{}, err
		}
		if b.First() != got.tail+1 {
			return snapshot{}, fmt.Errorf("entry %d follows %d", b.First(), got.tail)
		}
		got.payloads, got.tail = append(got.payloads, textsOf(b)...), b.Last()
	}
	return got, nil
}

func (f overSession) Tail(context.Context, string, runnel.Sequence) iter.Seq2[[]string, error] {
	panic("live reads over a session belong to other proofs")
}

// reopened is the engine that is open at the moment, for a server of sessions that outlives it. What is not
// here is called by no model.
type reopened struct {
	runnel.Log
	engine func() *engine.Engine
}

func (r reopened) Create(ctx context.Context, segment runnel.Segment, o runnel.CreateOptions) (runnel.Created, error) {
	return r.engine().Create(ctx, segment, o)
}

func (r reopened) Append(ctx context.Context, segment runnel.Segment, o runnel.AppendOptions, records ...runnel.Record) (runnel.Appended, error) {
	return r.engine().Append(ctx, segment, o, records...)
}

func (r reopened) Transact(ctx context.Context, space runnel.Space, t runnel.Transaction) (runnel.Committed, error) {
	return r.engine().Transact(ctx, space, t)
}

func (r reopened) Delete(ctx context.Context, segment runnel.Segment) error {
	return r.engine().Delete(ctx, segment)
}

func (r reopened) Stat(ctx context.Context, segment runnel.Segment) (runnel.Info, error) {
	return r.engine().Stat(ctx, segment)
}

func (r reopened) Query(ctx context.Context, q runnel.Query) iter.Seq2[runnel.SpaceBatch, error] {
	return r.engine().Query(ctx, q)
}

func (r reopened) Item(ctx context.Context, segment runnel.Segment, key runnel.ItemKey) (runnel.Item, error) {
	return r.engine().Item(ctx, segment, key)
}

func (r reopened) Items(ctx context.Context, segment runnel.Segment, q runnel.ItemQuery) (runnel.ItemView, error) {
	return r.engine().Items(ctx, segment, q)
}

func (r reopened) WatchItems(ctx context.Context, w runnel.ItemWatch) iter.Seq2[runnel.ItemNews, error] {
	return r.engine().WatchItems(ctx, w)
}

func (r reopened) Cursor(ctx context.Context, name runnel.CursorName) (runnel.Cursor, error) {
	return r.engine().Cursor(ctx, name)
}

func (r reopened) DeleteCursor(ctx context.Context, name runnel.CursorName) error {
	return r.engine().DeleteCursor(ctx, name)
}

func (r reopened) AcquireLease(ctx context.Context, space runnel.Space, q runnel.LeaseRequest) (runnel.Lease, error) {
	return r.engine().AcquireLease(ctx, space, q)
}

func (r reopened) RenewLease(ctx context.Context, space runnel.Space, f runnel.Fence) (runnel.Lease, error) {
	return r.engine().RenewLease(ctx, space, f)
}

func (r reopened) ReleaseLease(ctx context.Context, space runnel.Space, f runnel.Fence) error {
	return r.engine().ReleaseLease(ctx, space, f)
}

// lay makes segments without a record of it, for models in which they are always there.
func (c *client) lay(names ...string) {
	for _, name := range names {
		_, _ = c.h.w.front(c.id).Create(context.Background(), name, runnel.CreateOptions{}) // else everything is refused
	}
}

// clock is what all engines of a world go by. It stands still until a client sets it forward.
type clock struct{ ticks atomic.Int64 }

// tick is a step of the clock. The shortest lease is two.
const tick = 50 * time.Millisecond

func (c *clock) read() time.Time { return timeOf(c.ticks.Load()) }

func timeOf(ticks int64) time.Time {
	return time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(ticks) * tick)
}

func (c *clock) advance() { c.ticks.Add(1) }

// moments are those between a call and its answer, of which the log takes one for the time of the
// operation. One of unknown outcome may happen until the history is over.
type moments struct {
	clock    *clock
	from, to int64
}

// between yields the moments of an operation.
func (m *moments) between(unknown bool) iter.Seq[int64] {
	to := m.to
	if unknown {
		to = m.clock.ticks.Load()
	}
	return func(yield func(int64) bool) {
		for t := m.from; t <= to; t++ {
			if !yield(t) {
				return
			}
		}
	}
}
