package wire

// Headers of the protocol (PROTOCOL.md, sections 4.2, 5 and 13.2), in the canonical form of package
// net/textproto, so that they can be used as keys of an [net/http.Header] directly.
const (
	HeaderNextOffset      = "Stream-Next-Offset"
	HeaderUpToDate        = "Stream-Up-To-Date"
	HeaderClosed          = "Stream-Closed"
	HeaderCursor          = "Stream-Cursor"
	HeaderSeq             = "Stream-Seq"
	HeaderTTL             = "Stream-Ttl"
	HeaderExpiresAt       = "Stream-Expires-At"
	HeaderForkedFrom      = "Stream-Forked-From"
	HeaderForkOffset      = "Stream-Fork-Offset"
	HeaderForkSubOffset   = "Stream-Fork-Sub-Offset"
	HeaderSSEDataEncoding = "Stream-Sse-Data-Encoding"

	HeaderProducerID          = "Producer-Id"
	HeaderProducerEpoch       = "Producer-Epoch"
	HeaderProducerSeq         = "Producer-Seq"
	HeaderProducerExpectedSeq = "Producer-Expected-Seq"
	HeaderProducerReceivedSeq = "Producer-Received-Seq"
)

// Headers that Runnel adds. A client that does not know them loses nothing.
const (
	// HeaderEarliestOffset is, on a stream that has dropped entries, the earliest place to read from.
	HeaderEarliestOffset = "Stream-Earliest-Offset"
	// HeaderRetentionAge, on PUT and HEAD, is how long entries are kept, in seconds.
	HeaderRetentionAge = "Stream-Retention-Age"
	// HeaderRetentionBytes, on PUT and HEAD, is how many bytes of payload are kept.
	HeaderRetentionBytes = "Stream-Retention-Bytes"
	// HeaderRetentionCount, on PUT and HEAD, is how many entries are kept: messages of a JSON stream,
	// appends of any other.
	HeaderRetentionCount = "Stream-Retention-Count"
	// HeaderState is "true" on a read from the start that is answered with what the stream has come to, in
	// the place of all messages before Stream-Next-Offset.
	HeaderState = "Stream-State"
	// HeaderItems, on PUT and HEAD, is "true" for a stream whose messages are those of the State Protocol and
	// make items.
	HeaderItems = "Stream-Items"
)

// What access control reads from a request, and answers.
const (
	HeaderAuthorization = "Authorization"
	// HeaderAuthenticate, on 401 and 403, says what is missing, as RFC 6750, section 3 has it.
	HeaderAuthenticate = "Www-Authenticate"
	// HeaderStore is the store that the request is about, a UUID, where the token leaves a choice.
	HeaderStore = "Runnel-Store"
	// QueryStore says what HeaderStore does, for clients that cannot set headers.
	QueryStore = "store"
	// QueryToken is the token of a GET whose client cannot set headers, which is what browsers do for an
	// EventSource and a WebSocket. URLs end up in histories and in the logs of proxies: such a token should be
	// for reading only, and not for long.
	QueryToken = "token"
	// HeaderSubprotocol is where the client of a WebSocket may put a token without it showing in the URL:
	// as a subprotocol that begins with SubprotocolToken, or as the one after HeaderAuthorization, which is how
	// published clients of iii's streams are told to send it. It is taken out before the handler looks.
	HeaderSubprotocol = "Sec-Websocket-Protocol"
	SubprotocolToken  = "runnel.bearer."
)

// Headers of HTTP itself that both ends use, in canonical form.
const (
	HeaderAllow        = "Allow"
	HeaderCacheControl = "Cache-Control"
	HeaderContentType  = "Content-Type"
	HeaderETag         = "Etag"
	HeaderIfMatch      = "If-Match"
	HeaderIfNoneMatch  = "If-None-Match"
	HeaderLastEventID  = "Last-Event-Id"
	HeaderLocation     = "Location"
	HeaderRetryAfter   = "Retry-After"
)

// Query parameters of a read.
const (
	QueryOffset  = "offset"
	QueryLive    = "live"
	QueryCursor  = "cursor"
	QueryTimeout = "timeout"
)

// Values of the query parameter live.
const (
	LiveLongPoll = "long-poll"
	LiveSSE      = "sse"
)

// Offsets that stand for a place rather than being one. Source: PROTOCOL.md, section 8.
const (
	OffsetStart = "-1"
	OffsetNow   = "now"
)

// Events of a live read, and the fields of the control event. Source: PROTOCOL.md, section 5.8.
const (
	EventData    = "data"
	EventControl = "control"

	FieldNextOffset = "streamNextOffset"
	FieldCursor     = "streamCursor"
	FieldUpToDate   = "upToDate"
	FieldClosed     = "streamClosed"
)
