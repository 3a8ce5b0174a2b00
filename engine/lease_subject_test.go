package engine_test

import (
	"testing"
	"time"

	"github.com/runnelhq/runnel"
)

func TestHoldersOfOneNameUnderDifferentSubjectsAreDifferent(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := inMemory(t)
		ask := func(subject string) (runnel.Lease, error) {
			return w.AcquireLease(ctx, leases, runnel.LeaseRequest{
				Key: "k", Holder: "worker", TTL: time.Minute, Metadata: map[string]string{runnel.LeaseSubject: subject},
			})
		}
		first, err := ask("alice")
		if err != nil {
			t.Fatal(err)
		}
		_, err = ask("bob")
		wantError(t, err, runnel.ErrLeaseHeld)
		_, err = w.lease("k", "worker", time.Minute)
		wantError(t, err, runnel.ErrLeaseHeld)
		if again, err := ask("alice"); err != nil || again.Number <= first.Number {
			t.Errorf("%+v, %v", again, err)
		}
	})
}
