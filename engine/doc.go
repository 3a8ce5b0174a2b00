// Package engine is the log: every rule of it, once, above any storage driver.
//
// # How a write travels
//
//	caller      loads what the write needs, encodes its records, and stages it
//	space       checks it against the staged state of its segments and gives it its place
//	committer   makes everything staged so far durable with one commit of the driver
//	publish     the durable state moves, then whoever waits for it wakes
//
// Each segment has two states: the staged one, as the commits under way will leave it, against which
// writes are checked, and the durable one, which is all that a reader ever sees. While one batch syncs
// the next is staged. An answer that depends on something staged — a refusal because the segment is
// closed, a duplicate of a producer's write — is given only when that is durable too.
//
// # How a reader follows
//
// A reader has a place, not a queue. It asks for what follows its place, and when there is nothing it
// waits for the durable state to move. What was appended lately comes from memory, shared by all
// readers; everything else from the driver. A writer never waits for a reader.
//
// # What costs nothing
//
// A segment that nobody uses has no goroutine and no timer, and its memory is given back. A space has a
// goroutine only while something of it is being committed. Expiry, retention and what deletions leave
// behind are swept in the background.
package engine
