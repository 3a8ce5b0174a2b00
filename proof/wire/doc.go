// Package wire proves what the Go SDK promises over a connection that is bad: it is cut, stalled in one
// direction, throttled and refused at random, under a reader of a million entries and under a hundred
// thousand small calls, of which each kind says what must have become of it.
//
//   - The reader, and the tails that follow what the calls write, get every entry once and in order.
//   - A write with a key, or of a producer, is there exactly once, and its answer says so.
//   - A write that was answered is there once, one that was refused is not, and one whose outcome is said
//     to be unknown is there at most once.
//   - A cursor never goes back, and of those who move it under a condition each move has one author.
//   - Nothing hangs: every call is answered while connections come and go.
//
// What is there is read from the log itself, beside the connection. TestTheMachineryCanSee breaks the client and
// the server in ways that must be seen; a mistake to add is an entry of mutations.
package wire
