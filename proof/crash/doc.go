// Package crash is a proof by simulation: seeded runs of the engine and of the HTTP handler on Pebble, on
// a disk in memory that can be held in the middle of a sync, fail, and lose power, next to a plain model
// that says what must be so.
//
//	go test ./proof/crash -seeds 2000          many seeds, from -seed on
//	go test ./proof/crash -seed 17 -seeds 1 -v one seed, with its history
//
// A run has many operations under way at once and starts them one at a time, so that the order in which
// they are staged is known; the same seed makes the same run. Time is fake. What the disk keeps of what
// it was not asked to sync is drawn too: nothing, all, single blocks, or a torn end.
//
// The oracle is outside of the system: a sequential model predicts each answer, and after a crash each
// space must be what the model was after some prefix of its operations, one that includes everything
// that was acknowledged and everything that any reader saw. See invariants for the names of what is
// checked and table for the operations; to add one is to add an entry there.
package crash
