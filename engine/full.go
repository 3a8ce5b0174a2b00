package engine

import (
	"errors"
	"fmt"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/storage"
)

// Storage that has little space left refuses what takes more of it, and goes on to take what gives some
// back: deletions, expiry, trims and all that cleans up after them. A commit is either of the one kind or
// of the other, and is of the first as soon as one of the writes in it is. A write of the second kind
// that was refused in such company begins again. By then storage says by itself that it is full, and no
// write of the first kind is staged any more: nothing is forgotten over them, and readers stay where they
// are.

// full returns an error that matches runnel.ErrStorageFull while storage is known to refuse writes;
// reserve asks about those that give space back.
func (e *Engine) full(reserve bool) error {
	if e.gauge == nil {
		return nil
	}
	if err := e.gauge.Full(reserve); err != nil {
		return fullError(err)
	}
	return nil
}

// grow says that the write takes space, and returns why it cannot have any. It is called when nothing
// else stands against the write and nothing is staged yet.
func (t *tx) grow() error {
	if err := t.sp.e.full(false); err != nil {
		return err
	}
	t.grows, t.b.Reserve = true, false
	return nil
}

// fullError turns the driver's refusal into one for the caller.
func fullError(err error) error {
	if full, ok := errors.AsType[*storage.FullError](err); ok {
		return &runnel.StorageFullError{Free: full.Free, Keep: full.Keep, Need: full.Need}
	}
	return fmt.Errorf("%w: %w", runnel.ErrStorageFull, err)
}
