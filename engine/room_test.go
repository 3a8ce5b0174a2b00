package engine_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/engine"
	"github.com/runnelhq/runnel/storage"
	"github.com/runnelhq/runnel/storage/faulty"
	"github.com/runnelhq/runnel/storage/memory"
)

func TestAMoveThatFindsItsSegmentExpiredFitsIntoTheBatch(t *testing.T) {
	bubble(t, func(t *testing.T) {
		const most = 24
		w := newWorld(t, &memory.Driver{Max: storage.Limits{MaxBatchOps: most}}, engine.Config{SweepInterval: -1})
		defer w.Close()
		w.create("s/g", runnel.CreateOptions{Items: true, ExpiresAt: time.Now().Add(time.Minute)})
		pass(2 * time.Minute)
		move := func(segment, name string) <-chan error {
			result := later(func() error {
				m := runnel.CursorMove{Segment: segment, Name: name}
				_, err := w.Transact(ctx, at("s/g").In(), runnel.Transaction{Cursors: []runnel.CursorMove{m}})
				return err
			})
			synctest.Wait()
			return result
		}
		release, held := make(chan struct{}), false
		once := func(c faulty.Call) bool {
			was := held
			held = held || c.Op == faulty.Commit
			return c.Op == faulty.Commit && !was
		}
		largest := 0
		w.driver.SetRules(faulty.Rule{When: once, Then: faulty.Wait(func(context.Context) error {
			<-release
			return nil
		}, letThrough)}, faulty.Rule{When: faulty.On(faulty.Commit), Then: func(ctx context.Context, c faulty.Call, do func(context.Context) error) error {
			largest = max(largest, len(c.Batch.Ops))
			return do(ctx)
		}})
		var moves []<-chan error
		for i := range 1 + most - 3 {
			moves = append(moves, move("", fmt.Sprint("r", i)))
		}
		gone := move("g", "r")
		close(release)
		for _, m := range moves {
			if err := <-m; err != nil {
				t.Error(err)
			}
		}
		if err := <-gone; !errors.Is(err, runnel.ErrNotFound) {
			t.Error(err)
		}
		if largest > most {
			t.Errorf("a batch of %d operations, where storage takes %d", largest, most)
		}
	})
}
