package pebblestore_test

import (
	"testing"

	"github.com/runnelhq/runnel/storage"
	"github.com/runnelhq/runnel/storage/pebblestore"
	"github.com/runnelhq/runnel/storage/storagetest"
)

func TestConformance(t *testing.T) {
	storagetest.Run(t, func(t *testing.T) storagetest.Open {
		dir := t.TempDir()
		return func() (storage.Driver, error) { return pebblestore.Open(dir, pebblestore.Config{}) }
	})
}
