package wire

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/runnelhq/runnel"
)

// ErrTokenExpired is matched by what is wrong with the token of a wake that was good once.
var ErrTokenExpired = errors.New("runnel: the token of the wake has expired")

// Error is a failed request as it goes over the wire. It is an error, so that a handler may return one
// where no error of package runnel says enough.
type Error struct {
	// Status is the HTTP status.
	Status int
	// Headers are names in canonical form and their values, in turn.
	Headers []string
	// Detail is the content of the body.
	Detail Detail
	// Cause is what the failure was made of; it does not leave the server.
	Cause error
}

func (f *Error) Error() string { return f.Detail.Message }

func (f *Error) Unwrap() error { return f.Cause }

// Is makes a failure match the sentinel of package runnel that stands for its code.
func (f *Error) Is(target error) bool {
	own := sentinels[f.Detail.Code]
	return own != nil && (own == target || own == runnel.ErrStorageFull && target == runnel.ErrUnavailable)
}

// Body is the JSON object that every error response carries.
type Body struct {
	Error Detail `json:"error"`
	// EarliestOffset repeats that of the detail, where older clients look for it.
	EarliestOffset string `json:"earliest_offset,omitempty"`
}

// Detail says what went wrong, and with which numbers. Fields that do not apply are left out.
type Detail struct {
	Code    Code   `json:"code"`
	Message string `json:"message"`
	// NextOffset is the tail of the stream.
	NextOffset string `json:"next_offset,omitempty"`
	// EarliestOffset is the earliest place that can still be read from.
	EarliestOffset string `json:"earliest_offset,omitempty"`
	// Closed says that the stream is closed.
	Closed bool `json:"closed,omitempty"`
	// Limit is the limit that was exceeded.
	Limit int64 `json:"limit,omitempty"`
	// Field is in what an existing stream differs from the request.
	Field string `json:"field,omitempty"`
	// Have and Want are the two values of what differs.
	Have string `json:"have,omitempty"`
	Want string `json:"want,omitempty"`
	// Item is the id of the item that stands against the request.
	Item string `json:"item,omitempty"`
	// Scope would have allowed what is forbidden.
	Scope string `json:"scope,omitempty"`
	// Epoch is the current epoch of the producer.
	Epoch *uint64 `json:"epoch,omitempty"`
	// ExpectedSeq and ReceivedSeq are sequences of the producer.
	ExpectedSeq *uint64 `json:"expected_seq,omitempty"`
	ReceivedSeq *uint64 `json:"received_seq,omitempty"`
	// Free and Keep are the bytes of storage that are free, and that must stay free.
	Free *int64 `json:"free,omitempty"`
	Keep *int64 `json:"keep,omitempty"`
	// CurrentHolder is the worker that holds the lease of a subscription, and Generation that of its wake.
	CurrentHolder string `json:"current_holder,omitempty"`
	Generation    uint64 `json:"generation,omitempty"`
	// RetryAfter is when a retry is worth it, in seconds.
	RetryAfter int `json:"retry_after,omitempty"`
}

// NewBody returns the body of a failure.
func (f *Error) NewBody() Body {
	return Body{Error: f.Detail, EarliestOffset: f.Detail.EarliestOffset}
}

// Refuse answers a request with an error, in the form that all ways in have.
func Refuse(w http.ResponseWriter, err error) {
	f := ErrorOf(err)
	for i := 0; i+1 < len(f.Headers); i += 2 {
		w.Header().Set(f.Headers[i], f.Headers[i+1])
	}
	w.Header().Set(HeaderContentType, "application/json")
	w.Header().Set(HeaderCacheControl, "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(f.Status)
	_ = json.NewEncoder(w).Encode(f.NewBody()) // whoever is gone needs no answer
}

// Err returns the error that a client reports for a body: it matches the sentinel of package runnel that
// stands for the code, if there is one.
func (b Body) Err(status int) error { return &Error{Status: status, Detail: b.Error} }

// Invalid returns the failure of a request that breaks a rule whatever the state of the stream is.
func Invalid(code Code, message string) *Error {
	return &Error{Status: http.StatusBadRequest, Detail: Detail{Code: code, Message: message}}
}

// TooLarge returns the failure of a request that is over a limit.
func TooLarge(message string, limit int64) *Error {
	return &Error{
		Status: http.StatusRequestEntityTooLarge,
		Detail: Detail{Code: CodeTooLarge, Message: message, Limit: limit},
	}
}

// Unavailable returns the failure of a request that had no effect and may be tried again.
func Unavailable(code Code, message string, after time.Duration) *Error {
	seconds := max(1, int((after+time.Second-1)/time.Second))
	return &Error{
		Status:  http.StatusServiceUnavailable,
		Headers: []string{HeaderRetryAfter, strconv.Itoa(seconds)},
		Detail:  Detail{Code: code, Message: message, RetryAfter: seconds},
	}
}

// TooMany returns the failure of a request of a caller who has too much of something, and may try again.
func TooMany(message string, limit int64, after time.Duration) *Error {
	f := Unavailable(CodeTooMany, message, after)
	f.Status, f.Detail.Limit = http.StatusTooManyRequests, limit
	return f
}

// storageFullRetry is when a retry is worth it where space has run out: it takes somebody to make some.
const storageFullRetry = 5 * time.Second

// storageFull returns the failure of a write for which there is too little space. It is no 503: proxies
// and load balancers take that to be about the whole server, which goes on to serve readers.
func storageFull(why string) *Error {
	f := Unavailable(CodeStorageFull, "nothing was written: "+why, storageFullRetry)
	f.Status = http.StatusInsufficientStorage
	return f
}

// ErrorOf says how an error is answered. This is the only place where errors become statuses.
//
// 503 and 507 promise that nothing was written. A write whose outcome is unknown is therefore a 500 with a code
// of its own: a client that repeats it needs a producer or If-Match to be sure that it is written once.
// An error that is none of package runnel is a defect, and its text stays inside.
func ErrorOf(err error) *Error {
	if known, ok := errors.AsType[*Error](err); ok {
		return known
	}
	f := conflict(err)
	if f == nil {
		f = refused(err)
	}
	if f == nil {
		f = broken(err)
	}
	f.Cause = err
	return f
}

// conflict explains errors that come from the state of the stream.
func conflict(err error) *Error {
	var closed *runnel.ClosedError
	var exists *runnel.ExistsError
	var contentType *runnel.ContentTypeError
	var streamSeq *runnel.StreamSeqError
	var fenced *runnel.ProducerFencedError
	var gap *runnel.ProducerGapError
	var moved *runnel.TailMovedError
	var trimmed *runnel.TrimmedError
	switch {
	case errors.As(err, &closed):
		tail := closed.Tail.Offset()
		return &Error{
			Status:  http.StatusConflict,
			Headers: []string{HeaderClosed, "true", HeaderNextOffset, tail},
			Detail:  Detail{Code: CodeClosed, Message: "the stream is closed at offset " + tail, NextOffset: tail, Closed: true},
		}
	case errors.As(err, &exists):
		return &Error{
			Status: http.StatusConflict,
			Detail: Detail{
				Code:    CodeExists,
				Message: existsAs(exists),
				Field:   exists.Field, Have: exists.Have, Want: exists.Want,
			},
		}
	case errors.As(err, &contentType):
		return &Error{
			Status: http.StatusConflict,
			Detail: Detail{
				Code:    CodeContentType,
				Message: fmt.Sprintf("the stream has content type %q, not %q", contentType.Have, contentType.Got),
				Field:   "content type", Have: contentType.Have, Want: contentType.Got,
			},
		}
	case errors.As(err, &streamSeq):
		return &Error{
			Status: http.StatusConflict,
			Detail: Detail{
				Code:    CodeStreamSeq,
				Message: fmt.Sprintf("%s %q is not greater than the last one, %q", HeaderSeq, streamSeq.Got, streamSeq.Last),
				Field:   HeaderSeq, Have: streamSeq.Last, Want: streamSeq.Got,
			},
		}
	case errors.As(err, &fenced):
		return &Error{
			Status:  http.StatusForbidden,
			Headers: []string{HeaderProducerEpoch, decimal(fenced.Epoch)},
			Detail: Detail{
				Code:    CodeProducerFenced,
				Message: fmt.Sprintf("the producer is at epoch %d, got %d", fenced.Epoch, fenced.Got),
				Epoch:   &fenced.Epoch,
			},
		}
	case errors.As(err, &gap):
		return &Error{
			Status:  http.StatusConflict,
			Headers: []string{HeaderProducerExpectedSeq, decimal(gap.Expected), HeaderProducerReceivedSeq, decimal(gap.Got)},
			Detail: Detail{
				Code:        CodeProducerGap,
				Message:     fmt.Sprintf("the producer must continue at sequence %d, got %d", gap.Expected, gap.Got),
				ExpectedSeq: &gap.Expected, ReceivedSeq: &gap.Got,
			},
		}
	case errors.As(err, &moved):
		tail := moved.Tail.Offset()
		return &Error{
			Status:  http.StatusPreconditionFailed,
			Headers: []string{HeaderNextOffset, tail},
			Detail: Detail{
				Code:       CodePrecondition,
				Message:    "the tail of the stream is " + tail + ", not " + moved.Want.Offset(),
				NextOffset: tail,
			},
		}
	case errors.As(err, &trimmed):
		earliest := trimmed.Earliest.Offset()
		return &Error{
			Status:  http.StatusGone,
			Headers: []string{HeaderEarliestOffset, earliest},
			Detail: Detail{
				Code:           CodeTrimmed,
				Message:        "data after offset " + trimmed.From.Offset() + " is no longer retained; the earliest offset is " + earliest,
				EarliestOffset: earliest,
			},
		}
	}
	for _, c := range plain {
		if errors.Is(err, c.err) {
			return &Error{Status: c.status, Detail: Detail{Code: c.code, Message: c.message}}
		}
	}
	return nil
}

// plain explains errors without numbers. All but the first two usually come as a type that has them.
var plain = [...]struct {
	err     error
	status  int
	code    Code
	message string
}{
	{runnel.ErrNotFound, http.StatusNotFound, CodeNotFound, "there is no such stream"},
	{runnel.ErrSoftDeleted, http.StatusGone, CodeSoftDeleted, "the stream is deleted; its data is kept only for its forks"},
	{runnel.ErrClosed, http.StatusConflict, CodeClosed, "the stream is closed"},
	{runnel.ErrExists, http.StatusConflict, CodeExists, "the stream exists with another configuration"},
	{runnel.ErrContentType, http.StatusConflict, CodeContentType, "the content type is not the stream's"},
	{runnel.ErrStreamSeq, http.StatusConflict, CodeStreamSeq, HeaderSeq + " does not increase"},
	{runnel.ErrProducerFenced, http.StatusForbidden, CodeProducerFenced, "a newer epoch of the producer has written"},
	{runnel.ErrProducerGap, http.StatusConflict, CodeProducerGap, "an earlier write of the producer has not arrived"},
	{runnel.ErrTailMoved, http.StatusPreconditionFailed, CodePrecondition, "the tail of the stream has moved"},
	{runnel.ErrTrimmed, http.StatusGone, CodeTrimmed, "the data is no longer retained"},
}

// refused explains errors that come from the request alone.
func refused(err error) *Error {
	var unauthorized *runnel.UnauthorizedError
	var forbidden *runnel.ForbiddenError
	var large *runnel.TooLargeError
	var beyond *runnel.BeyondTailError
	var offset *runnel.OffsetError
	var name *runnel.NameError
	switch {
	case errors.As(err, &unauthorized):
		return notKnown(unauthorized.Reason)
	case errors.Is(err, runnel.ErrUnauthorized):
		return notKnown("")
	case errors.As(err, &forbidden):
		return notAllowed(strings.TrimPrefix(message(forbidden), "forbidden: "), forbidden.Scope)
	case errors.Is(err, runnel.ErrForbidden):
		return notAllowed("the token does not allow it", "")
	case errors.As(err, &large):
		return TooLarge(message(err), large.Limit)
	case errors.As(err, &beyond):
		tail := beyond.Tail.Offset()
		return &Error{
			Status: http.StatusBadRequest,
			Detail: Detail{Code: CodeBeyondTail, Message: "the offset is beyond the tail of the stream, which is " + tail, NextOffset: tail},
		}
	case errors.As(err, &offset):
		return Invalid(CodeInvalidOffset, message(err))
	case errors.As(err, &name):
		return Invalid(CodeInvalidPath, message(err))
	case errors.Is(err, runnel.ErrTooLarge):
		return TooLarge(message(err), 0)
	case errors.Is(err, runnel.ErrBeyondTail):
		return Invalid(CodeBeyondTail, message(err))
	case errors.Is(err, runnel.ErrInvalid):
		return Invalid(CodeInvalidRequest, message(err))
	}
	return nil
}

// notKnown returns the failure of a request of which it is not known who asks. The reason completes "the
// token …"; it is empty where there is no token, and then RFC 6750, section 3.1 wants no error in the header.
func notKnown(reason string) *Error {
	challenge, text := "Bearer", "a token is needed"
	if reason != "" {
		text = "the token " + reason
		challenge += ` error="invalid_token", error_description=` + quoted(text)
	}
	return &Error{
		Status:  http.StatusUnauthorized,
		Headers: []string{HeaderAuthenticate, challenge},
		Detail:  Detail{Code: CodeUnauthorized, Message: text},
	}
}

// notAllowed returns the failure of a request that needs a scope.
func notAllowed(text, scope string) *Error {
	challenge := `Bearer error="insufficient_scope"`
	if scope != "" {
		challenge += ", scope=" + quoted(scope)
	}
	return &Error{
		Status:  http.StatusForbidden,
		Headers: []string{HeaderAuthenticate, challenge},
		Detail:  Detail{Code: CodeForbidden, Message: text, Scope: scope},
	}
}

// quoted is a value in quotes with what a header may hold there: printable ASCII but quotes and backslashes.
func quoted(s string) string {
	return `"` + strings.Map(func(r rune) rune {
		switch {
		case r == '"' || r == '\\':
			return '\''
		case r < ' ' || r > '~':
			return '?'
		}
		return r
	}, s) + `"`
}

// existsAs says in what an existing stream differs, if that is why it is in the way.
func existsAs(e *runnel.ExistsError) string {
	if e.Field == "" {
		return "the stream exists"
	}
	return fmt.Sprintf("the stream exists with %s %s, not %s", e.Field, e.Have, e.Want)
}

// broken explains errors that are nobody's fault, or the server's.
func broken(err error) *Error {
	var unavailable *runnel.UnavailableError
	var full *runnel.StorageFullError
	switch {
	case errors.As(err, &full):
		f := storageFull(message(full))
		f.Detail.Free, f.Detail.Keep = &full.Free, &full.Keep
		return f
	case errors.Is(err, runnel.ErrStorageFull):
		return storageFull("storage is full")
	case errors.As(err, &unavailable):
		return Unavailable(CodeUnavailable, "nothing was written: "+unavailable.Reason, unavailable.RetryAfter)
	case errors.Is(err, runnel.ErrUnavailable):
		return Unavailable(CodeUnavailable, "nothing was written", time.Second)
	case errors.Is(err, runnel.ErrShutdown):
		return Unavailable(CodeShutdown, "nothing was written: the server is shutting down", time.Second)
	case errors.Is(err, runnel.ErrUnknown):
		return &Error{
			Status: http.StatusInternalServerError,
			Detail: Detail{Code: CodeUnknown, Message: "the write may or may not have happened; a retry with producer headers or If-Match finds out"},
		}
	case errors.Is(err, runnel.ErrFailed):
		return &Error{
			Status: http.StatusInternalServerError,
			Detail: Detail{Code: CodeFailed, Message: "the storage failed; nothing is acknowledged until the server is started again"},
		}
	}
	return &Error{
		Status: http.StatusInternalServerError,
		Detail: Detail{Code: CodeInternal, Message: "internal error"},
	}
}

// message is the text of an error of package runnel without the name of the package.
func message(err error) string { return strings.ReplaceAll(err.Error(), "runnel: ", "") }

func decimal(n uint64) string { return strconv.FormatUint(n, 10) }
