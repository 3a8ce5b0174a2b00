package chaos

import (
	"fmt"
	"slices"
	"strings"
	"sync"
)

// sometimes names everything that must happen at least once in a long run: a run in which it never did has
// proved less than it seems.
type sometimes string

const (
	killedUnderLoad  sometimes = "killed under load"
	killedInStart    sometimes = "killed before it was ready"
	frozenShortly    sometimes = "frozen for less than a client waits"
	frozenLong       sometimes = "frozen for longer than a client waits"
	frozenInStart    sometimes = "frozen before it was ready"
	frozenThenKilled sometimes = "frozen and then killed"

	doubtWritten    sometimes = "an unknown outcome was: written"
	doubtNotWritten sometimes = "an unknown outcome was: not written"
	doubtClose      sometimes = "the outcome of a close was unknown"
	doubtDelete     sometimes = "the outcome of a deletion was unknown"
	doubtCreate     sometimes = "the outcome of a creation was unknown"
	doubtBatch      sometimes = "the outcome of a batch was unknown"

	retryKnown     sometimes = "a producer's retry was recognised"
	retryNew       sometimes = "a producer's retry was the first to arrive"
	retryLate      sometimes = "a producer's retry after a check was recognised"
	epochBumped    sometimes = "a producer took a new epoch"
	epochFenced    sometimes = "a write of an old epoch was fenced"
	tailMoved      sometimes = "a conditional append was refused"
	tailExplained  sometimes = "a conditional append in doubt was found written"
	tailUnwritten  sometimes = "a conditional append in doubt was found not written"
	seqRefused     sometimes = "an append with a used Stream-Seq was refused"
	seqExplained   sometimes = "an append with Stream-Seq in doubt was found written"
	seqUnwritten   sometimes = "an append with Stream-Seq in doubt was found not written"
	closeRefuses   sometimes = "an append to a closed stream was refused"
	recreated      sometimes = "a deleted name was created again"
	forkMade       sometimes = "a fork was made"
	forkOrphaned   sometimes = "a fork outlived its deleted source"
	retentionCut   sometimes = "retention had dropped entries"
	expired        sometimes = "a stream expired"
	notYetExpired  sometimes = "a stream was there shortly before its expiry"
	largeEntry     sometimes = "an entry was larger than a run"
	partlyReceived sometimes = "an answer broke off after some of its entries"
	doubtItem      sometimes = "the outcome of a write to an item was unknown"
	itemMoved      sometimes = "a write to an item that had changed was refused"
	itemRepeated   sometimes = "a write to an item was recognised when it was repeated"
	watcherResumed sometimes = "a subscriber of items went on from its place"
	wakeClaimed    sometimes = "a wake was claimed"
	wakeReleased   sometimes = "a wake was given back"
	wakeFenced     sometimes = "a worker whose lease was over was fenced"

	hookDone       sometimes = "a webhook was answered with done"
	hookFailed     sometimes = "a webhook was answered with an error"
	hookHung       sometimes = "a webhook was not answered in time"
	hookCalled     sometimes = "a receiver of a webhook called back"
	hookCalledLate sometimes = "a receiver of a webhook called back after a kill"
	hookFenced     sometimes = "a callback of a wake that was over was fenced"
	hookKept       sometimes = "a stored next attempt was there after a kill"
	hookParked     sometimes = "a webhook was parked"
	hookStayed     sometimes = "a webhook was parked after a kill, too"
	hookReplayed   sometimes = "a parked webhook was replayed"
)

// resumed are the names of what a reader of a transport must sometimes do.
func resumed(k transport, after string) sometimes {
	return sometimes(fmt.Sprintf("a reader resumed after a %s: %s", after, k))
}

// counts says how often what happened.
type counts struct {
	mu sync.Mutex
	n  map[sometimes]int
}

func newCounts() *counts {
	c := &counts{n: make(map[sometimes]int)}
	for _, s := range []sometimes{
		killedUnderLoad, killedInStart, frozenShortly, frozenLong, frozenInStart, frozenThenKilled,
		doubtWritten, doubtNotWritten, doubtClose, doubtDelete, doubtCreate, doubtBatch,
		retryKnown, retryNew, retryLate, epochBumped, epochFenced, tailMoved, tailExplained, tailUnwritten,
		seqRefused, seqExplained, seqUnwritten, closeRefuses, recreated, forkMade, forkOrphaned, retentionCut, expired, notYetExpired, largeEntry,
		partlyReceived, doubtItem, itemMoved, itemRepeated, watcherResumed, wakeClaimed, wakeReleased, wakeFenced,
		hookDone, hookFailed, hookHung, hookCalled, hookCalledLate, hookFenced, hookKept, hookParked, hookStayed, hookReplayed,
	} {
		c.n[s] = 0
	}
	for _, k := range transports {
		c.n[resumed(k, "kill")], c.n[resumed(k, "freeze")] = 0, 0
	}
	return c
}

func (c *counts) hit(s sometimes) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.n[s]; !ok {
		panic("chaos: not in the list: " + string(s))
	}
	c.n[s]++
}

// never returns what has not happened.
func (c *counts) never() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var names []string
	for s, n := range c.n {
		if n == 0 {
			names = append(names, string(s))
		}
	}
	slices.Sort(names)
	return names
}

func (c *counts) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var lines []string
	for s, n := range c.n {
		lines = append(lines, fmt.Sprintf("%-60s %7d\n", s, n))
	}
	slices.Sort(lines)
	return strings.Join(lines, "")
}
