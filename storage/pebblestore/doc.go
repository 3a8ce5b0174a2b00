// Package pebblestore keeps partitions in one Pebble database in a directory. It is the driver of a
// single server, and the reference for what package storage promises.
//
// # One database
//
// All stores share one write-ahead log, so that commits to any partitions share syncs: while one sync
// is under way the log collects what arrives, and the next sync covers all of it. Every commit waits
// for its sync.
//
// A key of a partition is kept under
//
//	store        16 bytes
//	space name   its bytes; a name with a NUL byte is refused
//	0x00
//	kind         1 data, 2 guard
//	key          as the caller gave it; empty for the guard
//
// so that partitions are runs of keys, ordered as the contract asks, whatever their names are. The
// guard is a row of its own with the version (8 bytes, big-endian) and the id of the last commit. It
// sorts after the data: a partition whose first row is its guard holds no key.
//
// # Stopping
//
// Pebble cannot go on after an error on its write-ahead log or its manifest: it ends the process, in
// places without a way to intervene. A server that acknowledges nothing any more, says why and still
// answers reads is worth more. So Pebble never gets to see such an error: the file system handed to it
// parks the goroutine that met it, for good, and from then on every goroutine that would change a file.
// To the files this is what a crash is at that point; to callers it is ErrFailed from every commit,
// those under way included. What can still be read without Pebble's locks can be read. Close then
// gives up the directory and leaves Pebble's memory behind, so the process should be started again.
//
// Errors on tables, which Pebble writes in the background from what the log already holds, are no such
// case: Pebble discards the table and tries again.
package pebblestore
