// Package delivery is a proof by load: hundreds of readers of every kind follow tens of streams over real
// sockets that cut, stall, trickle and starve them, while writers write, retention cuts, streams are
// closed, deleted, created again and forked, and the server is restarted. Whatever happens, each reader
// must get a sequence without a gap, without a double and without a byte of another stream.
//
//	go test ./proof/delivery                       a few runs
//	go test ./proof/delivery -for 4m -v            runs for so long; all that can happen must have happened
//	go test ./proof/delivery -seed 17 -runs 1 -v   the run of one seed
//
// A seed decides the streams, the readers, the writers, and the faults of each connection. The order in
// which they meet is the scheduler's and the network's, so a failing seed fails again often, not always.
//
// Every entry says which life of which stream it belongs to, and carries a checksum, so that readers
// which get many entries as one run of bytes take them apart and check each. The ledger knows when each
// append, close, deletion and creation was begun and answered, and which entry somebody has seen at which
// place; a reader's answer is compared with what was known when its request began. Readers keep the
// offset that they were told last and go on from it, as PROTOCOL.md tells clients to.
package delivery
