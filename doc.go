// Package runnel holds the words that every part of Runnel shares: how data is named, what a record
// and an entry are, how a place is written down, and how an operation fails.
//
// Runnel is one durable, ordered log. Its levels are
//
//	store    a tenant, named by a UUID
//	space    a named group of segments: the unit of order, atomicity and placement
//	segment  one strictly ordered, append-only sequence of entries
//	entry    one record with its place: sequence, position, timestamp, transaction
//
// A caller hands in a [Record] and gets back an [Entry]. Inside a segment entries are numbered by
// [Sequence] 1, 2, 3 … without gaps; inside a space they carry a strictly increasing [Position].
// Position order, commit order and timestamp order agree.
//
// The package imports nothing else of Runnel, does no I/O and starts nothing.
package runnel
