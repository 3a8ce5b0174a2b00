package client_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/client"
	"github.com/runnelhq/runnel/engine"
	"github.com/runnelhq/runnel/storage/memory"
)

// unreachable is a log that cannot be reached any more, once it is cut.
type unreachable struct {
	*engine.Engine
	cut chan struct{}
}

func (u *unreachable) RenewLease(ctx context.Context, space runnel.Space, f runnel.Fence) (runnel.Lease, error) {
	select {
	case <-u.cut:
		<-ctx.Done()
		return runnel.Lease{}, ctx.Err()
	default:
		return u.Engine.RenewLease(ctx, space, f)
	}
}

// inBubble runs a scenario in fake time.
func inBubble(t *testing.T, scenario func(t *testing.T, e *engine.Engine)) {
	synctest.Test(t, func(t *testing.T) {
		e, err := engine.Open(new(memory.Driver), engine.Config{SweepInterval: -1})
		must(t, err)
		defer func() { must(t, e.Close()) }()
		scenario(t, e)
	})
}

func TestALeaseIsKeptForAsLongAsItIsWanted(t *testing.T) {
	inBubble(t, func(t *testing.T, e *engine.Engine) {
		c := client.New(e)
		must(t, c.WithLease(t.Context(), orders, runnel.LeaseRequest{Key: "k", TTL: time.Second}, func(ctx context.Context, _ runnel.Lease) error {
			time.Sleep(time.Hour) //nolint:forbidigo // in a bubble
			_, err := c.AcquireLease(ctx, orders, runnel.LeaseRequest{Key: "k", Holder: "other", TTL: time.Second})
			want(t, errors.Is(err, runnel.ErrLeaseHeld), true)
			return ctx.Err()
		}))
	})
}

func TestAHolderThatIsCutOffEndsBeforeAnotherOneBegins(t *testing.T) {
	inBubble(t, func(t *testing.T, e *engine.Engine) {
		log := &unreachable{Engine: e, cut: make(chan struct{})}
		first, second := client.New(log), client.New(e)
		begin := time.Now()
		var ended time.Duration
		err := first.WithLease(t.Context(), orders, runnel.LeaseRequest{Key: "k", TTL: time.Second}, func(ctx context.Context, l runnel.Lease) error {
			time.Sleep(10 * time.Second) //nolint:forbidigo // in a bubble
			close(log.cut)
			next, err := second.AcquireLease(ctx, orders, runnel.LeaseRequest{Key: "k", Holder: "second", TTL: time.Second, Wait: true})
			if err == nil && ctx.Err() == nil {
				t.Errorf("leases %d and %d are held at once", l.Number, next.Number)
			}
			<-ctx.Done()
			ended = time.Since(begin)
			if _, ok := errors.AsType[*runnel.LeaseLostError](context.Cause(ctx)); !ok {
				t.Errorf("the cause is %v", context.Cause(ctx))
			}
			return nil
		})
		want(t, errors.Is(err, runnel.ErrLeaseLost), true)
		if ended <= 10*time.Second || ended > 11*time.Second {
			t.Errorf("it ended after %v", ended)
		}
	})
}

func TestAWorkerThatIsReplacedIsTold(t *testing.T) {
	inBubble(t, func(t *testing.T, e *engine.Engine) {
		c := client.New(e)
		older, err := c.Join(t.Context(), orders, client.Worker{ID: "w"})
		must(t, err)
		newer, err := c.Join(t.Context(), orders, client.Worker{ID: "w"})
		must(t, err)
		<-older.Context().Done()
		lost, ok := errors.AsType[*runnel.LeaseLostError](context.Cause(older.Context()))
		if !ok || lost.Current != newer.Number {
			t.Errorf("the cause is %v", context.Cause(older.Context()))
		}
		want(t, errors.Is(older.Leave(), runnel.ErrLeaseLost), true)
		must(t, newer.Leave())
	})
}

func TestAProducerLingersToWriteRecordsTogether(t *testing.T) {
	inBubble(t, func(t *testing.T, e *engine.Engine) {
		c := client.New(e)
		p := c.Producer(order1, client.ProducerConfig{Linger: time.Second})
		begin := time.Now()
		var last *client.Ack
		for _, r := range numbered(1, 5) {
			ack, err := p.Send(t.Context(), r)
			must(t, err)
			last = ack
		}
		_, err := last.Wait(t.Context())
		must(t, err)
		want(t, time.Since(begin), time.Second)
		e1, _, err := first(c.Consume(t.Context(), client.Segment(order1, 4)))
		must(t, err)
		e0, _, err := first(c.Consume(t.Context(), client.Segment(order1, 0)))
		must(t, err)
		want(t, e1.Transaction, e0.Transaction)
		must(t, p.Close(t.Context()))
	})
}
