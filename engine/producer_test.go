package engine_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/storage/faulty"
)

func TestAProducerThatWritesAndIsForgottenDuringALookupIsStillKnown(t *testing.T) {
	// The lookup finds nothing in storage, and by the time it is over the producer has written and has
	// left memory again, because of many others.
	bubble(t, func(t *testing.T) {
		w := inMemory(t)
		w.create("a", runnel.CreateOptions{}, "x")
		w.reopen()
		w.stat("a")
		let := make(chan struct{})
		w.driver.SetRules(faulty.Rule{
			When: faulty.Nth(faulty.Get, w.driver.Calls(faulty.Get)+1),
			Then: faulty.WaitAfter(func(context.Context) error { <-let; return nil }, faulty.Through),
		})
		write := func() (runnel.Appended, error) { return w.tryAppend("a", producing("p", 0, 0), "once") }
		retried := make(chan bool, 1)
		go func() {
			got, err := write()
			if err != nil {
				t.Error(err)
			}
			retried <- got.Duplicate
		}()
		pending(t, retried, "the lookup")
		if got, err := write(); err != nil || got.Duplicate {
			t.Fatalf("%+v, %v", got, err)
		}
		for i := range 5000 {
			if _, err := w.tryAppend("a", producing(fmt.Sprint(i), 0, 0), "y"); err != nil {
				t.Fatal(err)
			}
		}
		close(let)
		if duplicate := <-retried; !duplicate {
			t.Error("a write of a producer is taken twice")
		}
	})
}
