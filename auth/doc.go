// Package auth says who may do what: it finds out who asks, from a token, and stands before the log with
// what they may do.
//
//	tokens, err := auth.OpenTokens("tokens")
//	who := auth.New(auth.Config{}, tokens)
//	guard := auth.NewGuard(engine)
//	streams := durablestreams.New(guard, durablestreams.Config{
//		Admit: who.Admit, Store: auth.Store, Bind: auth.BindRequest, Own: engine, Private: true,
//	})
//
// An [Authenticator] finds the token of a request and asks its verifiers whose it is: [Tokens], a file of
// tokens that are removed to revoke them, [JWT], signed tokens of an identity provider or of one's own, or any other
// [Verifier]. The [Principal] goes into the context, and the context goes wherever the request does.
//
// A [Guard] is the log with a check before every operation. It is the only place where anything is
// checked, whatever the way in: without a principal in the context nothing is done; with one, what its
// scopes cover; listings show what may be read; and what waits or follows ends when the principal expires
// or is revoked. What may not be done is refused before anything is looked up, so a refusal does not tell
// whether something exists.
//
// # Scopes
//
// A scope is a text, which tokens carry:
//
//	scope = "runnel:" verbs [ "@" store ] [ ":" path [ "#" item ] ]
//	verbs = verb *( "+" verb )
//	verb  = "read" / "write" / "send" / "admin"
//	store = a UUID / "*"
//
//	runnel:read                     read everything in the default store
//	runnel:read+write:chats         read and write the segment chats, the space chats, and all that is below
//	runnel:write:chats/42           append to /v1/stream/chats/42, and create it
//	runnel:admin@*                  everything, in every store
//	runnel:read@0192f0c1-5bd1-7cc3-a3b6-1b1f0c8e9d11:chats
//	runnel:write:presence/room-1#alice
//
// A path covers the segment and the space of that name and whatever is below, at the boundaries of elements:
// chats covers chats/42 and chats/a/b, but not chatsx. Without a path a scope covers its store. Without a store that is
// the default store, with a star each of them. An item is one key of a segment that holds items.
//
// Verbs:
//
//   - read is to see what is there: entries, names, cursors and leases.
//   - write is to create segments, append to and close them, move and delete cursors, and hold leases. It includes send.
//   - send is to pass on what is not kept.
//   - admin is to delete segments, and includes all others.
//
// What concerns a space, such as its timeline or its leases, needs a scope that covers the space. Metadata of a
// segment, that of HEAD, is shown to who may read or write it, and a fork needs read of its source.
//
// In paths and items bytes may be percent-encoded, and must be where they are white space, control characters, quotes,
// backslashes, "%", "#" or "*".
package auth
