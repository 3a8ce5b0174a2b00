// Package dsclient reads and writes durable streams over HTTP, of this server or of any other that speaks
// the Durable Streams protocol.
//
// A [Client] knows under which URL the streams are. Its methods are the operations of the protocol, one
// request each, and are never repeated behind the caller's back, because a plain append that is sent twice
// may be there twice. Three things do repeat themselves:
//
//   - [Client.Read] returns what a stream holds as an [io.ReadCloser]. It follows pages until it is up to
//     date, and takes up a connection that broke at the byte where it broke.
//   - [Client.Tail] goes on for ever: it yields what a stream holds and what is still to come, in order and
//     once, over as many connections as it takes.
//   - [Client.NewWriter] returns an [io.WriteCloser] that sends batches as an idempotent producer: each is
//     sent until the server has accepted it, and is there once however often it was sent.
//
// All three wait with exponential back-off and jitter between attempts, and no shorter than the server
// asks for with Retry-After.
//
// What a server refuses comes back as an [*Error], which also matches the errors of package runnel:
//
//	if errors.Is(err, runnel.ErrNotFound) { … }
//
// Source of everything that is said about the wire: PROTOCOL.md of the Durable Streams project.
package dsclient
