package engine

import (
	"testing"

	"github.com/runnelhq/runnel"
)

func TestWhoSendsAnEventDoesNotWaitForWhoLooksAtTheLast(t *testing.T) {
	l := &itemListener{wake: make(chan struct{}, 1)}
	event := func(size int) *runnel.ItemEvent { return &runnel.ItemEvent{Type: "x", Data: make([]byte, size)} }
	l.add(event(1))
	l.add(event(2))
	const half = runnel.MaxItemEventBytes / 2
	first := true
	events := l.take(func(*runnel.ItemEvent) bool {
		if first {
			first = false
			l.add(event(3))
			for range 5 { // so many that those before are missed
				l.add(event(half))
			}
		}
		return true
	})
	for i, want := range []int{1, half, half, half} {
		if i >= len(events) || len(events[i].Data) != want {
			t.Fatalf("%d events, and not %d bytes at %d", len(events), want, i)
		}
	}
	if len(l.queue) != 0 || l.queued != 0 {
		t.Fatalf("%d events of %d bytes are left", len(l.queue), l.queued)
	}
}
