// Package session carries a runnel.Log over one WebSocket: [Handler] serves one, and [Dial] returns a
// [Client], which is one.
//
// A session is a WebSocket of the subprotocol "runnel.session.v1" with many logical streams. Each operation
// takes a stream: a request, and then responses, in order. The streams have windows of their own, so that
// a slow reader slows only itself. An operation whose caller gives up, or whose time is over, ends its
// stream, and with it the work of the server within a batch; streams whose operation has ended are used
// again. Messages are Protocol Buffers, described in session.proto; entries travel packed, a batch at a time.
//
// A Client dials again when the connection is lost, and goes on with reads and watches from the last thing
// it has handed over. A write is sent again when it has not been sent yet, or when the server can tell
// that it is the same: one with a producer or a key, a creation, a lease by its holder. A write under an
// expected tail is sent again too, and the answer may then still be runnel.ErrUnknown: the tail has
// moved, and nobody can say by whom. Any other write whose answer was lost fails with runnel.ErrUnknown.
package session

//go:generate sh -c "cd internal/pb && go run ../gen"
