package client

import (
	"context"
	"errors"
	"iter"

	"github.com/runnelhq/runnel"
)

// Reader reads from a named place that the server keeps: it begins behind what it has done with, whichever
// process that was in. A Reader holds nothing itself, and need not be closed.
type Reader struct {
	c    *Client
	name runnel.CursorName
}

// Reader returns the reader of a name, of a segment or of the timeline of a space. The name need not exist:
// then the reader begins at the beginning.
func (c *Client) Reader(name runnel.CursorName) *Reader { return &Reader{c: c, name: name} }

// Cursor returns the place of the reader, and with it its lag. Of a name that does not exist the place
// is 0.
func (r *Reader) Cursor(ctx context.Context) (runnel.Cursor, error) {
	cursor, err := r.c.Log.Cursor(ctx, r.name)
	if _, missing := errors.AsType[*runnel.CursorNotFoundError](err); !missing {
		return cursor, err
	}
	cursor.CursorName = r.name
	if r.name.Segment == "" {
		info, err := r.c.StatSpace(ctx, r.name.Space)
		cursor.End = uint64(info.Head)
		return cursor, err
	}
	info, err := r.c.Stat(ctx, r.name.Space.Segment(r.name.Segment))
	cursor.End = uint64(info.Tail)
	return cursor, err
}

// Consume yields the entries behind the stored place, and ends with what there is at the moment. The query
// may bound and filter them; its Sources are the reader's.
func (r *Reader) Consume(ctx context.Context, q runnel.Query) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		cursor, err := r.Cursor(ctx)
		if err != nil {
			yield(Entry{}, err)
			return
		}
		q.Sources = []runnel.Source{{Space: r.name.Space, Segment: r.name.Segment, After: cursor.Place}}
		r.c.Consume(ctx, q)(yield)
	}
}

// Tail is Consume that goes on with what is appended.
func (r *Reader) Tail(ctx context.Context, q runnel.Query) iter.Seq2[Entry, error] {
	q.Follow = true
	return r.Consume(ctx, q)
}

// Commit stores that the reader has done with an entry and with everything before it. It returns when that
// is durable. If another process has come further under the same name it fails with a
// [*runnel.CursorMovedError].
func (r *Reader) Commit(ctx context.Context, done Entry) error {
	_, err := r.c.Transact(ctx, r.name.Space, runnel.Transaction{Cursors: []runnel.CursorMove{r.Move(done)}})
	return err
}

// Move is what Commit does, for a transaction that also writes what came of the entry: then both happen,
// or neither.
func (r *Reader) Move(done Entry) runnel.CursorMove {
	place := uint64(done.Position)
	if r.name.Segment != "" {
		place = uint64(done.Sequence)
	}
	return runnel.CursorMove{Segment: r.name.Segment, Name: r.name.Name, Place: place}
}
