package patience_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/runnelhq/runnel/proof/patience"
)

func TestPatienceEndsForWhatDoesNotGetOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		for p := patience.For(time.Second); p.Wait(7); {
		}
		if took := time.Since(began); took < time.Second || took > 1100*time.Millisecond {
			t.Fatalf("patience of a second lasted %v", took)
		}
	})
}

func TestPatienceLastsForWhatGetsOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := patience.For(50 * time.Millisecond)
		for i := range int64(100) {
			if !p.Wait(i / 4) {
				t.Fatalf("patience ended at %d", i)
			}
		}
	})
}

func TestPatienceEndsForWhatGoesToAndFro(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := patience.For(50 * time.Millisecond)
		turns := int64(0)
		for p.Wait(turns % 2) {
			turns++
		}
		if turns > 10 {
			t.Fatalf("patience lasted for %d turns", turns)
		}
	})
}

func TestAContextEndsWithItsPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		ctx, cancel := patience.Context(context.Background(), time.Second)
		defer cancel()
		<-ctx.Done()
		if took := time.Since(began); took < time.Second {
			t.Fatalf("patience of a second lasted %v", took)
		}
	})
}
