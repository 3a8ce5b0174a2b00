package engine

import (
	"context"
	"errors"

	"github.com/runnelhq/runnel/storage"
)

// Cursors, leases and idempotency keys are rows that are looked at and replaced under the lock of their
// space. What is staged of them is in memory; before a write looks at one it is brought there.

// rows holds such rows by their keys in storage. sp.mu guards it.
type rows struct {
	known     map[string]*row
	forgotten uint64         // how many have left memory
	held      map[string]int // how many operations need a row to stay in memory
	most      int            // how many there may be before some are forgotten; 0 is maxRows
	bytes     int            // of their values
	mostBytes int            // as most
}

// row is one of them, as staged.
type row struct {
	value []byte // nil: there is none
	batch *batch // the one that carries it, nil if it was loaded
}

// maxRows is how many of them are kept in memory, and maxRowBytes how much their values may take.
const (
	maxRows     = 4096
	maxRowBytes = 256 << 10
)

// note keeps a row in memory.
func (r *rows) note(key string, to *row) {
	if r.known == nil {
		r.known = make(map[string]*row)
	}
	was := r.known[key]
	if len(r.known) >= max(r.most, maxRows) && was == nil || r.bytes+len(to.value) > max(r.mostBytes, maxRowBytes) {
		for key, row := range r.known {
			if r.held[key] == 0 && (row.batch == nil || row.batch.finished()) {
				delete(r.known, key)
				r.bytes -= len(row.value)
				r.forgotten++
			}
		}
		r.most, r.mostBytes = 2*len(r.known), 2*r.bytes // so that looking for some is little work for each row
		was = r.known[key]
	}
	if was != nil {
		r.bytes -= len(was.value)
	}
	r.bytes += len(to.value)
	r.known[key] = to
}

// forget drops all that is in memory.
func (r *rows) forget() {
	r.known, r.bytes = nil, 0
	r.forgotten++
}

// heldRows are rows that an operation needs together.
type heldRows struct {
	sp   *space
	keys []string
}

// load brings a row into memory, where it stays until release.
func (h *heldRows) load(ctx context.Context, key []byte) error {
	h.keys = append(h.keys, string(key))
	rows := &h.sp.rows
	h.sp.mu.Lock()
	if rows.held == nil {
		rows.held = make(map[string]int)
	}
	rows.held[h.keys[len(h.keys)-1]]++
	known, forgotten := rows.known[string(key)] != nil, rows.forgotten
	h.sp.mu.Unlock()
	if known {
		return nil
	}
	return h.sp.readInto(ctx, key, forgotten)
}

// bytes is how much the values take of the rows that were loaded after the first so many.
func (h *heldRows) bytes(after int) (size int) {
	h.sp.mu.Lock()
	defer h.sp.mu.Unlock()
	for _, key := range h.keys[after:] {
		if r := h.sp.rows.known[key]; r != nil {
			size += len(r.value)
		}
	}
	return size
}

func (h *heldRows) release() {
	if len(h.keys) == 0 {
		return
	}
	h.sp.mu.Lock()
	defer h.sp.mu.Unlock()
	held := h.sp.rows.held
	for _, key := range h.keys {
		if held[key]--; held[key] == 0 {
			delete(held, key)
		}
	}
}

// loadRow brings a row into memory.
func (sp *space) loadRow(ctx context.Context, key []byte) error {
	sp.mu.Lock()
	known, forgotten := sp.rows.known[string(key)] != nil, sp.rows.forgotten
	sp.mu.Unlock()
	if known {
		return nil
	}
	return sp.readInto(ctx, key, forgotten)
}

// readInto reads a row that was not in memory when so many had left it.
func (sp *space) readInto(ctx context.Context, key []byte, forgotten uint64) error {
	value, err := sp.e.driver.Get(ctx, sp.part, key)
	switch {
	case errors.Is(err, storage.ErrKeyNotFound):
		value = nil
	case err != nil:
		return storageError(err)
	}
	sp.mu.Lock()
	defer sp.mu.Unlock()
	if sp.rows.forgotten != forgotten || !sp.loaded {
		return errRetry // it may have been written since, and been forgotten
	}
	if sp.rows.known[string(key)] == nil {
		sp.rows.note(string(key), &row{value: value})
	}
	return nil
}

// row returns a row as staged, nil if it has left memory.
func (t *tx) row(key []byte) *row { return t.sp.rows.known[string(key)] }

// setRow stages another value of a row; nil removes it.
func (t *tx) setRow(key, value []byte) {
	if value == nil {
		t.remove(key)
	} else {
		t.put(key, value)
	}
	t.sp.rows.note(string(key), &row{value: value, batch: t.b})
}

// dependOnRow makes the answer wait for what is staged of a row.
func (t *tx) dependOnRow(r *row) { t.waitFor(r.batch) }

// waitFor makes the answer wait for a batch, nil for none, if it does not for a later one.
func (t *tx) waitFor(b *batch) {
	if b != nil && (t.wait == nil || b.number > t.wait.number) {
		t.wait = b
	}
}

// readRow returns a durable row, nil if there is none.
func (sp *space) readRow(ctx context.Context, key []byte) ([]byte, error) {
	value, err := sp.e.driver.Get(ctx, sp.part, key)
	if err != nil && !errors.Is(err, storage.ErrKeyNotFound) {
		return nil, storageError(err)
	}
	return value, sp.settled(ctx)
}

// settled returns when what storage shows by now is durable.
func (sp *space) settled(ctx context.Context) error {
	if err := sp.barrier(ctx); err != nil {
		return err
	}
	return sp.e.Err()
}
