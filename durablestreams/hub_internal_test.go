package durablestreams

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/runnelhq/runnel"
)

func TestAHubKeepsLittleAndNotForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, beat := range []time.Duration{0, time.Hour, -1} {
			h := New(nowhere{}, Config{NoRegistry: true, Heartbeat: beat})
			b := &hub{h: h, quiet: time.Now()}
			publish := func(at runnel.Sequence, size int, want int) {
				b.publish(&frame{base: at - 1, end: at, chunk: make([]byte, size)})
				if len(b.recent) != want {
					t.Errorf("after a frame of %d bytes it keeps %d, want %d", size, len(b.recent), want)
				}
			}
			publish(1, 100, 1)
			publish(2, recentBytes, 1)
			publish(3, recentBytes+1, 0)
			publish(4, 100, 1)
			time.Sleep(10 * time.Second) //nolint:forbidigo // the time of the bubble
			publish(5, 100, 2)
			time.Sleep(10 * time.Second) //nolint:forbidigo // the time of the bubble
			b.mu.Lock()
			if len(b.recent) != 2 {
				t.Errorf("it keeps %d frames, want 2", len(b.recent))
			}
			b.mu.Unlock()
			time.Sleep(10 * time.Second) //nolint:forbidigo // the time of the bubble
			b.mu.Lock()
			if b.recent != nil || !b.due.IsZero() {
				t.Errorf("it still keeps %d frames, and its alarm is due %s", len(b.recent), b.due)
			}
			b.mu.Unlock()
			b.end()
		}
	})
}
