// Package linear is a proof by history: concurrent clients call the log, what they called and were told is
// recorded with its times, and Porcupine looks for one order of all calls that explains every answer.
//
//	go test ./proof/linear                                a few histories of each model in each world
//	go test ./proof/linear -args -for 4m                  as many as fit into four minutes
//	go test ./proof/linear -run Histories/append -args -histories 200 -seed 17
//
// A model says what the clients do and what may be answered; each is a file: its operations, its step and
// its clients. A world is what they do it to: the engine over a driver, with faults, delays and small
// caches, or two engines over one driver, or the HTTP handler, a session or the server of items behind a real client. To add a model, write
// operations with a step over a state of your own, and an entry in models.
//
// An answer is one of three. A definite one, success or refusal, must be what the state allows at some
// moment between call and return. An unknown one may have happened at any moment after the call, or never.
// An error that promises that nothing was written leaves the history, so that an effect it had all the
// same has no explanation.
//
// The choice of operations follows from the seed; the interleaving is the scheduler's, so a seed that
// fails may need some tries. A failing history is written as a page that Porcupine draws.
package linear
