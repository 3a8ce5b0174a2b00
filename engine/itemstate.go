package engine

import (
	"context"
	"iter"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/record"
	message "github.com/runnelhq/runnel/state"
	"github.com/runnelhq/runnel/storage"
)

// Who begins to follow an item segment wants its items, and not how they came about. So it is given their
// rows in the place of the entries that made them, and then the entries that follow. Nothing is written for
// that, and nothing held while a slow reader takes it: rows are read a page at a time, those that have
// changed since the reader began are left out, and the entries after its place tell what became of them.

// The state is given in the place of a log that is more than longHistory times as long, and by more than
// shortHistory bytes. Such a log is cut, too.
const (
	longHistory  = 2
	shortHistory = 64 << 10
)

// outlived tells whether a log of so many bytes is much longer than what it has made.
func (st *state) outlived(bytes uint64) bool {
	return bytes > longHistory*uint64(max(st.held, 0))+shortHistory
}

// ReadStart is Read for those who begin: it returns a view from the earliest place that is retained. That of
// an item segment whose beginning is gone, or whose log is much longer than what it has made, has its items
// as View.State instead, and begins at the tail.
func (e *Engine) ReadStart(ctx context.Context, addr runnel.Segment) (runnel.View, error) {
	return retry(func() (runnel.View, error) {
		seg, err := e.find(ctx, addr)
		if err != nil {
			return runnel.View{}, err
		}
		defer seg.release()
		from := runnel.Latest
		st, err := e.open(ctx, seg, 0, &from)
		if err != nil {
			return runnel.View{}, err
		}
		earliest := min(st.inc.retained.get(), st.tail)
		v := runnel.View{Info: st.info(addr)}
		if st.desc.Items && (earliest > 0 || st.outlived(st.bytes)) {
			v.State = e.itemMessages(ctx, addr, st)
		} else {
			from = earliest
		}
		v.From, v.PayloadBytes = from, st.payloadBytes(from)
		v.Batches = e.batches(ctx, seg.sp, addr, st, from, keep)
		v.Stream = e.batches(ctx, seg.sp, addr, st, from, borrow)
		return v, nil
	})
}

// itemMessages yields messages that make the items of a segment, but for those that have changed since the
// durable state st.
func (e *Engine) itemMessages(ctx context.Context, addr runnel.Segment, st *state) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		sp, err := e.enter(ctx, addr.In()) // the one that was read may have left memory
		if err != nil {
			yield(nil, err)
			return
		}
		defer sp.leave()
		m := messageReader{st: st, yield: yield}
		more, err := m.read(ctx, sp)
		if err == nil && more {
			err = e.told(ctx, sp, addr, st, m.latest)
		}
		if err != nil {
			yield(nil, err)
		}
	}
}

// told waits until the changes through a version, which a reader of the state has left out, are in the log for
// it to read, and tells whether it can go on there.
func (e *Engine) told(ctx context.Context, sp *space, addr runnel.Segment, st *state, latest runnel.Sequence) error {
	if latest > st.tail || e.Err() != nil {
		if err := sp.settled(ctx); err != nil {
			return err
		}
	}
	// Entering once more brings what other processes have written meanwhile.
	seg, err := e.acquire(ctx, addr)
	if err != nil {
		return err
	}
	defer seg.release()
	now := seg.durable.Load()
	if err := e.usable(ctx, seg, now, e.now()); err != nil {
		return err
	}
	switch earliest := now.inc.retained.get(); {
	case now.inc.id != st.inc.id:
		return &runnel.NotFoundError{Segment: addr}
	case earliest > st.tail:
		return &runnel.TrimmedError{Segment: addr, From: st.tail, Earliest: earliest}
	case latest > now.tail:
		return &runnel.UnavailableError{Reason: "a write to an item that was being read has failed", RetryAfter: time.Second}
	}
	return nil
}

// messageReader reads rows of items, and yields the messages that make them.
type messageReader struct {
	st      *state
	yield   func([]byte, error) bool
	latest  runnel.Sequence // of rows seen
	message []byte
}

// read reads all rows, and tells whether the consumer wants more. Storage is not held while the consumer works
// on a page.
func (m *messageReader) read(ctx context.Context, sp *space) (more bool, err error) {
	r := segmentRange(keyItem, m.st.inc.id)
	pg := itemPage{bytes: make([]byte, 0, pageBytes)}
	for {
		if sp.e.isClosing() {
			return false, runnel.ErrShutdown
		}
		end, err := pg.fill(ctx, sp, r)
		if err != nil {
			return false, err
		}
		for i := range pg.rows {
			key, value := pg.row(i)
			if more, err := m.row(key, value); err != nil || !more {
				return false, err
			}
		}
		if end {
			return true, nil
		}
		last, _ := pg.row(len(pg.rows) - 1)
		r.From = append(append(make([]byte, 0, len(last)+1), last...), 0)
	}
}

func (m *messageReader) row(key, value []byte) (more bool, err error) {
	row, err := record.DecodeItem(value)
	if err != nil {
		return false, err
	}
	m.latest = max(m.latest, row.Version)
	if row.Deleted || row.Version > m.st.tail {
		return true, nil
	}
	item := itemOfKey(key)
	c := message.Change{Type: item.Type, Key: item.Key, Operation: message.Insert, Value: row.Row}
	m.message = c.Append(m.message[:0])
	return m.yield(m.message, nil), nil
}

// itemPage is rows of items in memory.
type itemPage struct {
	bytes []byte
	rows  []struct{ key, end int } // where the key and the value end; both begin where what is before them ends
}

// fill reads the first rows of a range, and tells whether they are all of it.
func (pg *itemPage) fill(ctx context.Context, sp *space, r storage.Range) (end bool, err error) {
	pg.bytes, pg.rows = pg.bytes[:0], pg.rows[:0]
	for pair, err := range sp.e.driver.Scan(ctx, sp.part, r) {
		if err != nil {
			return false, storageError(err)
		}
		if n := len(pg.bytes) + len(pair.Key) + len(pair.Value); n > pageBytes && len(pg.rows) > 0 {
			return false, nil
		}
		pg.bytes = append(append(pg.bytes, pair.Key...), pair.Value...)
		pg.rows = append(pg.rows, struct{ key, end int }{len(pg.bytes) - len(pair.Value), len(pg.bytes)})
	}
	return true, nil
}

// row returns a key and a value, which are valid until the page is filled again.
func (pg *itemPage) row(i int) (key, value []byte) {
	start := 0
	if i > 0 {
		start = pg.rows[i-1].end
	}
	at := pg.rows[i]
	return pg.bytes[start:at.key:at.key], pg.bytes[at.key:at.end:at.end]
}
