// Package durablestreams serves the Durable Streams protocol: every URL below a prefix is a durable,
// append-only stream that is written with PUT and POST and read with GET, from any place, once or live.
//
//	h := durablestreams.New(engine, durablestreams.Config{})
//	defer h.Close()
//	http.Handle("/v1/stream/", h)
//
// It is an [net/http.Handler] over any [Log], which package engine provides. The path after the prefix is
// the name of the stream: /v1/stream/a/b/c is segment c of space a/b. It is taken as it is, with escapes
// decoded, so an escaped slash is a slash; names with empty, "." or ".." elements are refused, nothing is
// cleaned or redirected. Paths under __ds are those of subscriptions, see below.
//
// Where PROTOCOL.md leaves a choice or asks for a word, this is what the package does.
//
// # Subscriptions
//
// With [Config.Subscriptions] the paths under __ds are those of PROTOCOL.md, sections 6 and 7.
//
//   - A path below __ds that means nothing is 404. An id is one path element, in which a slash is escaped.
//   - A stream that the pattern matches and that came after the subscription is linked before its first
//     append: from its beginning, or for a fork from where it branched off. Streams that were there, and
//     streams added by name, are linked at their tails. One added by name need not exist.
//   - A stream that is deleted or expires has nothing pending. If it is created again it is another one, and
//     pending from its beginning. Where retention has dropped what was not acknowledged, the stream stays
//     pending, and the worker is told by its read (410) from where it can go on.
//   - The own wake stream is never linked by the pattern, and refused by name: each wake would lead to
//     another.
//   - A wake lists at most 256 streams, those with something pending first. A claim with nothing pending is
//     409 NO_PENDING_WORK.
//   - A wake stream that is missing, or takes no appends, holds up nothing but the event: it is appended
//     later, and the wake can be claimed meanwhile.
//   - An ack is all or nothing. One that goes back, is beyond the tail, or is of another stream, is 409
//     INVALID_OFFSET. A token of another subscription, of another kind or of nobody is 401; that of a
//     subscription that is gone is 404, also when there is another of the same id.
//   - Beyond the protocol: GET __ds/subscriptions lists subscriptions, 1,000 at a time, behind the query
//     parameter after; POST to …/{id}/replay lets a parked webhook be tried at once; a subscription shows
//     its generation, holder, failures and the lag of each stream.
//
// # Creating
//
//   - A stream that was deleted, or that expired, may be created again at the same URL. It is then a new
//     one: no reader sees the old data, an ETag of the old one never matches, a live reader of the old one
//     is ended.
//   - Stream-TTL together with Stream-Expires-At is refused with 400.
//   - PUT with If-None-Match: * creates or fails with 412, where a plain PUT also answers 200 for a stream
//     that exists with the same configuration. Other conditions on PUT and DELETE are refused with 400
//     rather than ignored.
//   - Stream-Forked-From may be the path of the source's URL, with the prefix, the whole URL, or the name
//     alone; it is decoded like a URL. Stream-Fork-Offset may also be -1 or now.
//   - A fork is compared with what was asked for: one that was created without Stream-Fork-Offset, at the
//     tail of that moment, differs from one that names the same tail, and a PUT of the other is 409.
//   - Location is the URL of the request, or its path if it came without a host; see [Config] for what stands behind a proxy.
//
// # Appending
//
//   - The scope of Stream-Seq is the stream. It may have up to 256 bytes.
//   - The state of producers is part of the stream, committed together with the data, and kept as long as
//     the stream is. Producer-Id may have up to 256 bytes.
//   - If-Match on POST holds an offset, in quotes or bare: the append happens only if that is the tail, else
//     412 with the tail in Stream-Next-Offset. Of several offsets one must be the tail; an entity tag that
//     is no offset, that of a GET for instance, matches nothing. A star matches any
//     stream; without one it is 412 rather than 404.
//   - When several things are wrong, this is what is told, the first first: malformed headers (400), no
//     such stream (404, 410), closed (409) unless the producer is fenced (403) or this is the repetition of
//     the write that closed it (204), producer fenced (403) or ahead (409), content type (409), If-Match
//     (412), Stream-Seq (409). A body that is no JSON is reported only if the stream would have taken one.
//   - The 409 for a closed stream repeats a producer's own sequence in Producer-Expected-Seq, because the
//     published TypeScript client would otherwise repeat the write without end.
//   - Bodies are whole or nothing, whatever their framing. Content-Encoding is refused with 415, since bytes
//     are stored as sent.
//   - A JSON body is checked against RFC 8259 and for UTF-8. Every message is kept byte for byte, without
//     the white space around it: numbers keep their digits, and names may repeat.
//
// # Reading
//
//   - A catch-up read is never cut into pages. It reaches to the tail of the moment it begins, so
//     Stream-Up-To-Date and Stream-Next-Offset are in the head of every response. If the data goes away
//     underway, the connection is broken off; a response that ends properly is whole.
//   - Successful reads carry Cache-Control: public (or private, [Config]), max-age=60,
//     stale-while-revalidate=300; both together are no longer than Stream-TTL, Stream-Retention-Age and what
//     is left until Stream-Expires-At, and below a second it is no-store. An empty answer at the tail of an open stream is no-cache instead, as it
//     would hide what comes next; reads from offset=now, HEAD, long-polls without data and errors are
//     no-store; SSE is no-cache.
//   - The ETag names incarnation, with the time of its creation, place, tail and closure. If-None-Match may be a list, weak, or a star, and
//     is answered with 304 on HEAD too. SSE carries a weak one, whose first part tells a client that comes
//     back whether the stream is still the same.
//   - A long-poll waits up to [Config].LongPollTimeout. The query parameter timeout, in whole seconds,
//     shortens that; it never lengthens it.
//   - Stream-Cursor is the number of 20-second intervals since 9 October 2024, and always greater than the
//     one that the client sends.
//
// # Server-sent events
//
// Each data event is followed by its control event in the same write. In a JSON stream it is an array of
// one or more messages; in all others it is exactly one append, so that what was written together, a
// fragment of HTML for instance, arrives together. An append of text that ends inside a UTF-8 character is
// joined with the one that goes on with it, up to 1 MiB, if both are there when the event is made; at the
// tail it is sent at once, incomplete, because text of another charset looks the same and nothing may
// follow. A writer that is read live with SSE ends its appends between characters. CR, LF and CRLF in text all begin a new data line.
// Responses end after about a minute, and carry a comment after 15 seconds without an event.
//
// Control events have an id, so that a browser's EventSource comes back with Last-Event-ID, which goes
// before the offset in the URL. Having been told that the stream is closed, it is answered with 204,
// upon which it stops.
//
// Over HTTP/1.1 the handler takes the connection over, so that a waiting reader costs a few kilobytes and
// one write serves them all; see [Handler.Shutdown] for what that means when a server stops, and
// [Config].KeepConnections for how to do without.
//
// # Retention
//
// PUT takes Stream-Retention-Age (seconds), Stream-Retention-Bytes and Stream-Retention-Count, of which the
// strictest counts; HEAD shows them. A read from before the earliest kept entry is 410 with
// Stream-Earliest-Offset, and so is a live one. Offset -1, or none, begins at what is kept. A reader that
// has had everything up to the cut goes on without noticing. One append that brings more than retention
// keeps can cut before what a live reader that was level has had of it: its response ends, and on its return
// it is told 410.
//
// # Items
//
// PUT with Stream-Items: true makes a JSON stream of State Protocol messages, whose latest values are items;
// HEAD shows it. An append to it changes the items in the same commit. A message that would end a client which
// materialises the stream is refused with 400, and so are retention and a fork.
//
// A read from -1 of a stream of items that has a long past is answered with its state: an insert message for each item,
// with Stream-State: true, in one response or one event. It stands for everything before Stream-Next-Offset, from where the
// reader goes on, and only when it has done so is it told that it is up to date.
//
// # Listing
//
// GET of the prefix itself lists streams in the order of their spaces, then names, as
// {"streams":[{"path","contentType","createdAt","nextOffset","closed"}],"next"}; prefix, after and limit
// (100, at most 1000) choose, and next is the after of the following page.
//
// The stream __registry__ lists all streams as changes of the State Protocol. It comes into being when it
// is asked for first and is kept current from then on. Only the server writes to it.
//
// # Limits
//
// Unless [Config] says otherwise a body has up to 64 MiB and 262144 messages, JSON nests up to 1000 deep,
// and all bodies in memory together have up to 512 MiB; beyond that requests wait for two seconds and are
// then refused with 503. Entries of more than 1 MiB that are under way to readers have up to 256 MiB
// together, and further ones wait for their turn. A client that stands still in the middle of a body, in either direction, is
// dropped after 30 seconds, and so is one that after this time has sent less than 1 KiB a second of its
// body. Rate limits are for what stands before the handler.
//
// # Access
//
// [Config].Admit finds out who asks, and a [Log] that refuses them, such as the guard of package auth, what they may do.
// Preflights are answered without it. A refusal, 401 or 403, comes before the body of a request is received, says in
// WWW-Authenticate what is missing, and does not tell whether a stream exists. Live reads end when whoever
// they are for is not to be served any more: see [Config].Bind. Whoever may read the stream __registry__ knows
// the names of all streams.
//
// Set [net/http.Server].ReadHeaderTimeout. WriteTimeout and ReadTimeout may be set too; long bodies and
// live reads are given their own deadlines.
//
// # Errors
//
// Every error has a JSON body, {"error":{"code":"closed","message":"…", …}}, with the numbers that belong
// to it. The codes are listed in package wire. 503 and 507 say that nothing was written and that a
// retry is welcome; with 507 the disk is nearly full, and reads and deletes go on. 500 with the code outcome_unknown says that the write may or may not have happened; to find
// out, repeat it with the same producer headers or If-Match.
package durablestreams
