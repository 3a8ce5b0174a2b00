package wire

import "github.com/runnelhq/runnel"

// Code names the reason of a failure. Codes are part of the interface: they do not change, messages may.
type Code string

// The codes, with the status each one comes with.
const (
	CodeInvalidPath        Code = "invalid_path"                // 400: the URL is no stream name
	CodeInvalidOffset      Code = "invalid_offset"              // 400: not an offset that this server hands out
	CodeBeyondTail         Code = "offset_beyond_tail"          // 400: the offset has not been written yet
	CodeInvalidRequest     Code = "invalid_request"             // 400: a header or parameter breaks a rule
	CodeInvalidJSON        Code = "invalid_json"                // 400: the body is no JSON, or no UTF-8, or nested too deep
	CodeEmptyBody          Code = "empty_body"                  // 400: nothing to append, and not a close
	CodeMissingContentType Code = "missing_content_type"        // 400: a body without Content-Type
	CodeUnauthorized       Code = "unauthorized"                // 401: there is no token, or it is not valid, or not any more
	CodeForbidden          Code = "forbidden"                   // 403: the token does not allow it; scope says what would
	CodeProducerFenced     Code = "producer_fenced"             // 403: a newer epoch of the producer has written
	CodeNotFound           Code = "not_found"                   // 404: there is no such stream, or it expired
	CodeMethodNotAllowed   Code = "method_not_allowed"          // 405: not on this URL
	CodeBodyTimeout        Code = "body_timeout"                // 408: the body stopped arriving
	CodeExists             Code = "exists"                      // 409: the stream exists with another configuration
	CodeClosed             Code = "closed"                      // 409: the stream takes no more data
	CodeContentType        Code = "content_type"                // 409: not the content type of the stream
	CodeStreamSeq          Code = "stream_seq"                  // 409: Stream-Seq does not increase
	CodeProducerGap        Code = "producer_gap"                // 409: an earlier write of the producer is missing
	CodeSoftDeleted        Code = "soft_deleted"                // 410, or 409 on PUT: deleted, but forks still read it
	CodeTrimmed            Code = "trimmed"                     // 410: retention has dropped what the offset asks for
	CodePrecondition       Code = "precondition_failed"         // 412: If-Match or If-None-Match does not hold
	CodeSubscriptionExists Code = "SUBSCRIPTION_ALREADY_EXISTS" // 409: with another configuration
	CodeSubscriptionLimit  Code = "SUBSCRIPTION_LIMIT"          // 409: the store has as many as it may have
	CodeNoSubscription     Code = "SUBSCRIPTION_NOT_FOUND"      // 404: there is no such subscription, or no such control path
	CodeBadSubscription    Code = "INVALID_REQUEST"             // 400: a request about a subscription breaks a rule
	CodeWebhookURL         Code = "WEBHOOK_URL_REJECTED"        // 400: webhooks are not sent there
	CodeTokenInvalid       Code = "TOKEN_INVALID"               // 401: no token of this server, or none for this request
	CodeTokenExpired       Code = "TOKEN_EXPIRED"               // 401: the token was good once
	CodeFenced             Code = "FENCED"                      // 409: the wake is not the current one any more
	CodeAlreadyClaimed     Code = "ALREADY_CLAIMED"             // 409: another worker holds the lease
	CodeNoPendingWork      Code = "NO_PENDING_WORK"             // 409: there is nothing to claim
	CodeAck                Code = "INVALID_OFFSET"              // 409: an ack that goes back, or beyond the tail
	CodeTooLarge           Code = "too_large"                   // 413: the body is over a limit
	CodeContentEncoding    Code = "content_encoding"            // 415: the body is compressed
	CodeTooMany            Code = "too_many_requests"           // 429: too many of something from one caller, retry later
	CodeInternal           Code = "internal"                    // 500: a defect of the server
	CodeUnknown            Code = "outcome_unknown"             // 500: the write may or may not have happened
	CodeFailed             Code = "storage_failed"              // 500: the storage is broken until a restart
	CodeNotImplemented     Code = "not_implemented"             // 501: the URL is reserved
	CodeUnavailable        Code = "unavailable"                 // 503: nothing was written, retry later
	CodeShutdown           Code = "shutting_down"               // 503: nothing was written, retry later
	CodeStorageFull        Code = "storage_full"                // 507: nothing was written; deletes pass, retry when there is space
)

// sentinels pairs the codes with what they match on the side of a client.
var sentinels = map[Code]error{
	CodeInvalidPath:        runnel.ErrInvalid,
	CodeInvalidOffset:      runnel.ErrInvalid,
	CodeBeyondTail:         runnel.ErrBeyondTail,
	CodeInvalidRequest:     runnel.ErrInvalid,
	CodeInvalidJSON:        runnel.ErrInvalid,
	CodeEmptyBody:          runnel.ErrInvalid,
	CodeMissingContentType: runnel.ErrInvalid,
	CodeUnauthorized:       runnel.ErrUnauthorized,
	CodeForbidden:          runnel.ErrForbidden,
	CodeProducerFenced:     runnel.ErrProducerFenced,
	CodeNotFound:           runnel.ErrNotFound,
	CodeMethodNotAllowed:   runnel.ErrInvalid,
	CodeBodyTimeout:        runnel.ErrUnavailable,
	CodeExists:             runnel.ErrExists,
	CodeClosed:             runnel.ErrClosed,
	CodeContentType:        runnel.ErrContentType,
	CodeStreamSeq:          runnel.ErrStreamSeq,
	CodeProducerGap:        runnel.ErrProducerGap,
	CodeSoftDeleted:        runnel.ErrSoftDeleted,
	CodeTrimmed:            runnel.ErrTrimmed,
	CodePrecondition:       runnel.ErrTailMoved,
	CodeSubscriptionExists: runnel.ErrExists,
	CodeSubscriptionLimit:  runnel.ErrSubscriptionLimit,
	CodeNoSubscription:     runnel.ErrNotFound,
	CodeBadSubscription:    runnel.ErrInvalid,
	CodeWebhookURL:         runnel.ErrInvalid,
	CodeTokenInvalid:       runnel.ErrUnauthorized,
	CodeTokenExpired:       runnel.ErrUnauthorized,
	CodeFenced:             runnel.ErrFenced,
	CodeAlreadyClaimed:     runnel.ErrLeaseHeld,
	CodeNoPendingWork:      runnel.ErrNoWork,
	CodeAck:                runnel.ErrAck,
	CodeTooLarge:           runnel.ErrTooLarge,
	CodeContentEncoding:    runnel.ErrInvalid,
	CodeTooMany:            runnel.ErrUnavailable,
	CodeUnknown:            runnel.ErrUnknown,
	CodeFailed:             runnel.ErrFailed,
	CodeUnavailable:        runnel.ErrUnavailable,
	CodeShutdown:           runnel.ErrUnavailable,
	CodeStorageFull:        runnel.ErrStorageFull,
}
