package dsclient

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/wire"
)

// Error is what a server refused. It matches the error of package runnel that means the same, as far as
// the answer tells, with errors.Is.
type Error struct {
	// Method and URL are those of the request.
	Method, URL string
	// Status is the HTTP status.
	Status int
	// Detail is what the server says about it. Its Code and Message are empty when the answer is not the
	// JSON of this server; the numbers that the protocol has headers for are there nevertheless.
	Detail wire.Detail
	// RetryAfter is how long the server asks to wait; 0 if it does not.
	RetryAfter time.Duration

	torn bool // the body broke off, and with it what it would have said
}

func (e *Error) Error() string {
	message := cmp.Or(e.Detail.Message, http.StatusText(e.Status))
	if e.Detail.Code != "" {
		message = string(e.Detail.Code) + ": " + message
	}
	return fmt.Sprintf("%s %s: %d %s", e.Method, e.URL, e.Status, message)
}

// Is reports whether the answer means target, one of the errors of package runnel. The code tells, and for
// servers that have none the status and the headers.
func (e *Error) Is(target error) bool {
	if e.Detail.Code != "" && errors.Is(wire.Body{Error: e.Detail}.Err(e.Status), target) {
		return true
	}
	switch target {
	case runnel.ErrNotFound:
		return e.Status == http.StatusNotFound
	case runnel.ErrTrimmed:
		return e.Status == http.StatusGone && e.Detail.EarliestOffset != ""
	case runnel.ErrSoftDeleted:
		return e.Status == http.StatusGone && e.Detail.EarliestOffset == ""
	case runnel.ErrClosed:
		return e.Status == http.StatusConflict && e.Detail.Closed
	case runnel.ErrProducerGap:
		return e.Status == http.StatusConflict && !e.Detail.Closed && e.Detail.ExpectedSeq != nil
	case runnel.ErrProducerFenced:
		return e.Status == http.StatusForbidden && e.Detail.Epoch != nil
	case runnel.ErrUnauthorized:
		return e.Status == http.StatusUnauthorized
	case runnel.ErrForbidden:
		return e.Status == http.StatusForbidden && e.Detail.Epoch == nil
	case runnel.ErrTailMoved:
		return e.Status == http.StatusPreconditionFailed
	case runnel.ErrTooLarge:
		return e.Status == http.StatusRequestEntityTooLarge
	case runnel.ErrInvalid:
		return e.Status == http.StatusBadRequest || e.Status == http.StatusRequestEntityTooLarge
	case runnel.ErrUnavailable:
		return e.Status == http.StatusServiceUnavailable || e.Status == http.StatusTooManyRequests
	}
	return false
}

// temporary says that the same request may be answered otherwise later, or more fully.
func (e *Error) temporary() bool {
	if e.torn {
		return true
	}
	switch e.Status {
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
		return true
	}
	return e.Status >= 500 && e.Status != http.StatusNotImplemented
}

// maxErrorBytes is how much of an error's body is read.
const maxErrorBytes = 64 << 10

// readError turns a refusal into an Error and closes its body.
func readError(resp *http.Response) *Error {
	defer drain(resp.Body)
	// A body that cannot be read leaves the status and the headers, which say the most, but not all.
	content, torn := io.ReadAll(io.LimitReader(resp.Body, maxErrorBytes))
	var body wire.Body
	if err := json.Unmarshal(content, &body); err != nil {
		body = wire.Body{}
	}
	h, d := resp.Header, body.Error
	d.NextOffset = cmp.Or(d.NextOffset, h.Get(wire.HeaderNextOffset))
	d.EarliestOffset = cmp.Or(d.EarliestOffset, h.Get(wire.HeaderEarliestOffset))
	d.Closed = d.Closed || isTrue(h, wire.HeaderClosed)
	d.Epoch = cmp.Or(d.Epoch, number(h, wire.HeaderProducerEpoch))
	d.ExpectedSeq = cmp.Or(d.ExpectedSeq, number(h, wire.HeaderProducerExpectedSeq))
	d.ReceivedSeq = cmp.Or(d.ReceivedSeq, number(h, wire.HeaderProducerReceivedSeq))
	d.Scope = cmp.Or(d.Scope, challenge(h, "scope"))
	d.Message = cmp.Or(d.Message, challenge(h, "error_description"))
	if d.Message == "" && d.Scope != "" { // the answer to a HEAD has no body
		d.Message = "the scope " + d.Scope + " is needed"
	}
	return &Error{
		Method:     resp.Request.Method,
		URL:        resp.Request.URL.Redacted(),
		Status:     resp.StatusCode,
		Detail:     d,
		RetryAfter: retryAfter(h.Get(wire.HeaderRetryAfter), time.Now()),
		torn:       torn != nil,
	}
}

// retryAfter reads a Retry-After header, in seconds or as a date; 0 if there is none that makes sense.
func retryAfter(value string, now time.Time) time.Duration {
	if seconds, err := strconv.ParseUint(value, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second
	}
	if at, err := http.ParseTime(value); err == nil {
		return max(0, at.Sub(now))
	}
	return 0
}

// challenge returns a parameter of a WWW-Authenticate header, as RFC 6750, section 3 has them; empty if it
// is not there.
func challenge(h http.Header, name string) string {
	_, rest, _ := strings.Cut(h.Get(wire.HeaderAuthenticate), name+`="`)
	value, _, _ := strings.Cut(rest, `"`)
	return value
}

// number returns the integer of a header, nil if there is none.
func number(h http.Header, name string) *uint64 {
	n, err := strconv.ParseUint(h.Get(name), 10, 64)
	if err != nil {
		return nil
	}
	return &n
}
