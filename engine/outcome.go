package engine

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/storage"
)

// On a driver that other processes write too, the outcome of a commit can stay unknown, and the guard
// tells it only until the next commit, which may be somebody else's. So each engine keeps a row of its
// own in every partition, its witness, which each of its commits sets to that commit's id. An engine
// has one commit to a partition under way at a time: where the witness has another id, the commit has
// not happened, and once the guard has moved it will not.

// witnessBytes is what the witness takes in a batch.
const witnessBytes = 64

// witnessLife is how long a witness is kept that is not written any more. No engine looks for the
// outcome of a commit for so long.
const witnessLife = 24 * time.Hour

// testify adds to a batch what its outcome can be told by.
func (e *Engine) testify(b *batch) {
	value := binary.BigEndian.AppendUint64(b.ID[:], uint64(e.now()))
	b.Set(witnessKey(e.id), value, nil)
}

// commit hands a batch to the driver until its outcome is known, or until the engine has tried for long
// enough while it is closing.
func (sp *space) commit(b *batch) (storage.Version, error) {
	e := sp.e
	if err := e.Err(); err != nil {
		return 0, err
	}
	unknown := false // an attempt may have happened
	for pause := time.Millisecond; ; pause = min(2*pause, time.Second) {
		version, err := e.driver.Commit(e.ctx, sp.part, &b.Batch)
		switch {
		case err == nil:
			return version, nil
		case errors.Is(err, storage.ErrConflict) && !unknown:
			return 0, errRetry
		case errors.Is(err, storage.ErrRefused) && !unknown:
			return 0, fmt.Errorf("%w: %w", runnel.ErrUnavailable, err)
		case errors.Is(err, storage.ErrFull) && !unknown:
			return 0, fullError(err)
		case errors.Is(err, storage.ErrUnknown) && b.Guarded:
			unknown = true
		case !errors.Is(err, storage.ErrConflict) && !errors.Is(err, storage.ErrRefused) && !errors.Is(err, storage.ErrFull):
			e.fail(err)
			return 0, e.Err()
		}
		// Where nothing has been committed since, the same batch is handed in once more: it can only win
		// once. Where that is not to be had from storage, both are tried again.
		switch happened, known := sp.outcome(b); {
		case happened:
			return b.Expect + 1, nil
		case known:
			return 0, errRetry
		}
		if pause == time.Second && e.isClosing() {
			return 0, fmt.Errorf("%w: %w", runnel.ErrUnknown, err)
		}
		select {
		case <-time.After(pause):
		case <-e.ctx.Done():
		}
	}
}

// outcome tells whether a guarded batch has happened. It is not known while it still may.
func (sp *space) outcome(b *batch) (happened, known bool) {
	ctx := context.WithoutCancel(sp.e.ctx)
	version, id, err := sp.e.driver.Guard(ctx, sp.part)
	switch {
	case err != nil || version <= b.Expect:
		return false, false
	case id == b.ID:
		return true, true
	}
	value, err := sp.e.driver.Get(ctx, sp.part, witnessKey(sp.e.id))
	if err != nil && !errors.Is(err, storage.ErrKeyNotFound) {
		return false, false
	}
	return bytes.HasPrefix(value, b.ID[:]), true
}

// witnesses removes those of engines that are no more.
func (c *cleaner) witnesses(ctx context.Context, part storage.Partition) error {
	if c.e.limits.Exclusive {
		return nil
	}
	var old [][]byte
	for pair, err := range c.e.driver.Scan(ctx, part, kindRange(keyWitness)) {
		if err != nil {
			return err
		}
		if len(pair.Value) < 24 || c.e.now()-int64(binary.BigEndian.Uint64(pair.Value[16:])) > witnessLife.Microseconds() {
			old = append(old, bytes.Clone(pair.Key))
		}
	}
	if len(old) == 0 {
		return nil
	}
	sp, err := c.e.enter(ctx, part)
	if err != nil {
		return err
	}
	defer sp.leave()
	return sp.removeRows(ctx, old)
}
