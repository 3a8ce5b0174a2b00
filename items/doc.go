// Package items is the way in for live, keyed state: items of groups of streams, which are read and
// written one by one or together over HTTP, and followed over WebSocket.
//
// Group room-1 of stream chat is segment room-1 of space chat. What an item is follows from the entries of
// that segment, and changes with them in one commit; so a subscriber is given the items as they are at one
// sequence, and then each change after it: nothing is missed, doubled, or overtaken by something older.
//
//	/v1/items/call/stream::set               one function a call, with a JSON object in and its result out
//	/v1/items/{stream}/{group}/{item}        the same as resources; names are percent-encoded
//	/v1/items/openapi.json                   all of it, described
//	/stream/{stream}/{group}[/{item}]        WebSocket; so are the paths of resources, and /v1/items/
//
// A [Trigger] calls a handler after changes, a [Hook] is asked about joins and told of leaves; both keep their
// place in the log, under a lease, so that they survive whatever process they run in.
//
// A subscriber that is slow is sent the latest change of each item, and if that is too much, a gap notice
// and all items again. It holds up nobody.
package items
