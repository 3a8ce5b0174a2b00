package items_test

import (
	"context"
	"errors"
	"iter"
	"log/slog"
	"testing"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/items"
)

// losing is a log that loses the place of a follower on cue, and keeps back the items of one group.
type losing struct {
	*fakeLog
	lose   chan struct{} // taken from when a place is to be lost
	begun  chan struct{} // sent to when a follower begins
	handed chan struct{} // sent to when a follower has been handed a change
	asked  chan struct{} // sent to when somebody asks for the items of group slow
	answer chan struct{} // closed when he is answered
}

func (l *losing) Items(ctx context.Context, seg runnel.Segment, q runnel.ItemQuery) (runnel.ItemView, error) {
	if seg.Name == "slow" {
		select {
		case l.asked <- struct{}{}:
		case <-l.answer:
		}
		<-l.answer
	}
	return l.fakeLog.Items(ctx, seg, q)
}

func (l *losing) TailSpaceItems(ctx context.Context, space runnel.Space, prefix string, after runnel.Position) iter.Seq2[runnel.ItemBatch, error] {
	return func(yield func(runnel.ItemBatch, error) bool) {
		l.begun <- struct{}{}
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		go func() {
			select {
			case <-l.lose:
				cancel()
			case <-ctx.Done():
			}
		}()
		for batch, err := range l.fakeLog.TailSpaceItems(ctx, space, prefix, after) {
			if err != nil {
				err = errors.New("no storage")
			}
			if !yield(batch, err) {
				return
			}
			l.handed <- struct{}{}
		}
	}
}

func TestWhatWasMissedIsToldBeforeWhatCameAfterIt(t *testing.T) {
	log := &losing{
		fakeLog: newFake(), lose: make(chan struct{}), begun: make(chan struct{}, 8), handed: make(chan struct{}, 8),
		asked: make(chan struct{}), answer: make(chan struct{}),
	}
	s := serveHandler(t, items.New(log, items.Config{Logger: slog.New(slog.DiscardHandler)}))
	s.log = log.fakeLog
	c := s.dial("/")
	c.join("1", room)
	c.want("sync - []")
	<-log.begun
	c.join("2", `,"groupId":"slow"`)
	<-log.asked // while a subscription of the connection is being made
	log.lose <- struct{}{}
	s.set("x", "1") // which nobody is told of
	<-log.begun
	s.set("x", "2")
	<-log.handed
	close(log.answer)
	for gap := false; ; {
		switch f := c.next(); {
		case f.Subscription == "1" && f.Event.Type == "gap":
			gap = true
		case !gap && f.Event.Type == "create" || f.Event.Type == "update":
			t.Fatalf("%s comes before what was missed", f.raw)
		case f.Subscription == "1" && f.Event.Type == "sync":
			if got := f.String(); got != "sync - [2]" {
				t.Errorf("what was missed is told as %s", got)
			}
			return
		}
	}
}
