package engine_test

import (
	"context"
	"testing"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/storage"
	"github.com/runnelhq/runnel/storage/faulty"
)

func TestWhatIsStagedBehindARefusedCommitIsTriedAgain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := inMemory(t)
		w.create("a", runnel.CreateOptions{})
		let := make(chan struct{})
		w.driver.SetRules(faulty.Rule{
			When: faulty.Nth(faulty.Commit, w.driver.Calls(faulty.Commit)+1),
			Then: faulty.Wait(func(context.Context) error { <-let; return nil }, faulty.Before(storage.ErrRefused)),
		})
		refused := later(func() error { _, err := w.tryAppend("a", runnel.AppendOptions{}, "refused"); return err })
		pending(t, refused, "the first append")
		behind := later(func() error { _, err := w.tryAppend("a", runnel.AppendOptions{}, "behind"); return err })
		pending(t, behind, "the second append")
		close(let)
		wantError(t, <-refused, runnel.ErrUnavailable)
		wantError(t, <-behind, nil)
		w.want("a", "behind")
	})
}
