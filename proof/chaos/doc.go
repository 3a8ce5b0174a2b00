// Package chaos is a proof by violence: it runs the real binary on a real disk, kills and freezes it under
// the load of many kinds of clients, again and again, and looks at what is left. Package proof/oracle, which
// is told everything that clients were told and that live readers saw, says what must be true of it.
//
//	go test ./proof/chaos -v -args -for 10m
//
// A run has rounds. In each the server is killed, killed before it is ready, or frozen, while all workloads
// write and readers follow over every transport; readers go on from round to round. Then the workloads rest,
// the server is killed and started once more, so that nothing is under way that a client has given up, and
// every stream is compared with the ledger. The flags are -rounds, -for and -seed. The seed chooses the
// disturbances and what clients do; how they meet is up to the machine, so a seed makes a failure likely to
// come back and no more.
//
// A run ends with how often what happened, and a long one fails if something never did. One that fails keeps
// the server's data and log, and says where.
package chaos
