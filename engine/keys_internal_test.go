package engine

import (
	"testing"

	"github.com/google/uuid"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/storage/memory"
)

func TestWhoAsksForTheKeysOfStoresThatAreNotThereLeavesNothingInMemory(t *testing.T) {
	e, err := Open(new(memory.Driver), Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = e.Close() }()
	for range 100 {
		if data, version, err := e.LoadKeys(t.Context(), runnel.Store(uuid.New())); data != nil || version != 0 || err != nil {
			t.Fatal(data, version, err)
		}
	}
	if n, m := len(e.subscriptions.stores), len(e.spaces); n != 0 || m != 0 {
		t.Errorf("%d stores and %d spaces are in memory", n, m)
	}
}
