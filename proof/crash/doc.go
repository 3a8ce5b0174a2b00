// Package crash is a proof by simulation: seeded runs of the engine and of the HTTP handler on Pebble, on
// a disk in memory that can be held in the middle of a sync, fail, and lose power, next to a plain model
// that says what must be so.
//
//	go test ./proof/crash -args -seeds 2000                          many seeds
//	go test ./proof/crash -run TestSeeds -v -args -for 1h -seed 5000 as many as an hour takes, from 5000 on
//	go test ./proof/crash -run TestSeeds -v -args -seed 17 -seeds 1  one seed, with its history
//
// At the end stands how often each invariant was looked at, and what the runs have met; a long run that
// has never looked at one of them, or never met what it should, fails. A seed that violates an invariant
// prints its history, with all steps left out that it takes not, and the command that repeats it.
//
// A run has many operations under way at once and starts them one at a time, so that the order in which
// they are staged is known. Only one processor runs Go code meanwhile, so the same seed makes the same run,
// nearly always: TestRepetition counts. Time is fake; the wall clock is another one, and is set back and
// forth. What the disk keeps of what it was not asked to sync is drawn too: nothing, all, single blocks, or
// a torn end.
//
// The oracle is outside of the system: a sequential model predicts each answer, and after a crash each
// space must be what the model was after some prefix of its operations, one that includes everything
// that was acknowledged and everything that any reader saw.
//
// Items live through such runs too, as a guest (TestItems): clients write to them in every way there is, keep
// tables by snapshots and tails, and have a trigger on them. There the oracle is the log that is found: each of its
// entries must be what somebody asked for, under a condition that held, and everything that was told or shown must be
// what it says. And so do subscriptions (TestSubscriptions): writers, workers and receivers of webhooks, over crashes
// between an append and its wake, a wake and its claim, a claim and its acks, an attempt and its outcome. In the end
// workers do what they are told of, and no more, and then nothing may be left. There the part of who sends webhooks is
// played. TestSenders is the real one, with its schedule, breakers, keys and tokens, on a log of its own: power fails
// before and after single commits, and package proof/oracle judges what receivers are sent.
//
// One space, the desk, has another model than the others: leases, cursors and transactions are what it is
// about. The timelines of all spaces are compared with all that anybody was ever shown of them.
//
// To add to it:
//
//   - an operation is an entry of operations; its call says what the model makes of it and how it is done;
//   - an invariant is a name in invariant_test.go, and a check of it wherever it can be looked at;
//   - a workload is an entry of profiles: weights over the operations, and what new segments are like;
//   - a way in which the disk fails is an entry of faults;
//   - a part of the system with a model of its own is a guest, with its own demands and mutations;
//   - what runs should meet is a name in often or sometimes, and a hit of it where it is met;
//   - a mistake that the simulator must see is an entry of mutations.
package crash
