package memory_test

import (
	"testing"

	"github.com/runnelhq/runnel/storage"
	"github.com/runnelhq/runnel/storage/memory"
	"github.com/runnelhq/runnel/storage/storagetest"
)

// reopening hands out the same driver again, which is what opening again means here.
func reopening(d *memory.Driver) storagetest.Open {
	return func() (storage.Driver, error) { return d, nil }
}

func TestExclusive(t *testing.T) {
	storagetest.Run(t, func(*testing.T) storagetest.Open { return reopening(new(memory.Driver)) })
}

func TestShared(t *testing.T) {
	storagetest.Run(t, func(*testing.T) storagetest.Open { return reopening(&memory.Driver{Shared: true}) })
}

func TestTightLimits(t *testing.T) {
	limits := storage.Limits{MaxValueBytes: 1 << 20, MaxBatchBytes: 4<<20 - 64<<10, MaxBatchOps: 99} // Azure Table Storage
	storagetest.Run(t, func(*testing.T) storagetest.Open { return reopening(&memory.Driver{Shared: true, Max: limits}) })
}
