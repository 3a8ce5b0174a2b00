package engine

import (
	"context"
	"errors"

	"github.com/runnelhq/runnel/storage"
)

// Cursors, leases and idempotency keys are rows that are looked at and replaced under the lock of their
// space. What is staged of them is in memory; before a write looks at one it is brought there.

// rows holds such rows by their keys in storage. sp.mu guards it, and what is in it.
type rows struct {
	known     map[string]*row
	forgotten uint64 // how many have left memory
	most      int    // how many there may be before some are forgotten; 0 is maxRows
	bytes     int    // of their values
	mostBytes int    // as most
}

// row is one of them, as staged.
type row struct {
	value []byte // nil: there is none
	batch *batch // the one that carries it, nil if it was loaded
	held  int    // how many operations need it to stay in memory
}

// maxRows is how many of them are kept in memory, and maxRowBytes how much their values may take.
const (
	maxRows     = 4096
	maxRowBytes = 256 << 10
)

// note keeps a row in memory.
func (r *rows) note(key, value []byte, b *batch) *row {
	if r.known == nil {
		r.known = make(map[string]*row)
	}
	x := r.known[string(key)]
	if len(r.known) >= max(r.most, maxRows) && x == nil || r.bytes+len(value) > max(r.mostBytes, maxRowBytes) {
		for key, row := range r.known {
			if row.held == 0 && (row.batch == nil || row.batch.finished()) {
				delete(r.known, key)
				r.bytes -= len(row.value)
				r.forgotten++
			}
		}
		r.most, r.mostBytes = 2*len(r.known), 2*r.bytes // so that looking for some is little work for each row
		x = r.known[string(key)]
	}
	if x == nil {
		x = &row{}
		r.known[string(key)] = x
	}
	r.bytes += len(value) - len(x.value)
	x.value, x.batch = value, b
	return x
}

// forget drops all that is in memory.
func (r *rows) forget() {
	r.known, r.bytes = nil, 0
	r.forgotten++
}

// heldRows are rows that an operation needs together.
type heldRows struct {
	sp   *space
	rows []*row
}

// load brings a row into memory, where it stays until release.
func (h *heldRows) load(ctx context.Context, key []byte) error {
	r, err := h.sp.bring(ctx, key, 1)
	if err == nil {
		h.rows = append(h.rows, r)
	}
	return err
}

// bytes is how much the values take of the rows that were loaded after the first so many.
func (h *heldRows) bytes(after int) (size int) {
	h.sp.mu.Lock()
	defer h.sp.mu.Unlock()
	for _, r := range h.rows[after:] {
		size += len(r.value)
	}
	return size
}

func (h *heldRows) release() {
	if len(h.rows) == 0 {
		return
	}
	h.sp.mu.Lock()
	defer h.sp.mu.Unlock()
	for _, r := range h.rows {
		r.held--
	}
}

// loadRow brings a row into memory.
func (sp *space) loadRow(ctx context.Context, key []byte) error {
	_, err := sp.bring(ctx, key, 0)
	return err
}

// bring brings a row into memory, to be held by so many more.
func (sp *space) bring(ctx context.Context, key []byte, holders int) (*row, error) {
	sp.mu.Lock()
	r, forgotten := sp.rows.known[string(key)], sp.rows.forgotten
	if r != nil {
		r.held += holders
	}
	sp.mu.Unlock()
	if r != nil {
		return r, nil
	}
	value, err := sp.e.driver.Get(ctx, sp.part, key)
	switch {
	case errors.Is(err, storage.ErrKeyNotFound):
		value = nil
	case err != nil:
		return nil, storageError(err)
	}
	sp.mu.Lock()
	defer sp.mu.Unlock()
	if sp.rows.forgotten != forgotten || !sp.loaded {
		return nil, errRetry // it may have been written since, and been forgotten
	}
	if r = sp.rows.known[string(key)]; r == nil {
		r = sp.rows.note(key, value, nil)
	}
	r.held += holders
	return r, nil
}

// row returns a row as staged, nil if it has left memory. It is one and the same row that setRow changes.
func (t *tx) row(key []byte) *row { return t.sp.rows.known[string(key)] }

// setRow stages another value of a row; nil removes it.
func (t *tx) setRow(key, value []byte) {
	if value == nil {
		t.remove(key)
	} else {
		t.put(key, value)
	}
	t.sp.rows.note(key, value, t.b)
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
