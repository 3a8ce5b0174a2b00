package wire_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/wire"
)

var segment = runnel.Segment{Space: "a", Name: "b"}

func TestEachErrorHasItsStatusCodeAndHeaders(t *testing.T) {
	two := runnel.Sequence(2).Offset()
	for _, c := range []struct {
		err     error
		status  int
		code    wire.Code
		headers []string
	}{
		{&runnel.NameError{Kind: "path", Name: "x", Rule: "must not"}, 400, wire.CodeInvalidPath, nil},
		{&runnel.OffsetError{Token: "x"}, 400, wire.CodeInvalidOffset, nil},
		{&runnel.InvalidError{What: "ttl", Rule: "must not"}, 400, wire.CodeInvalidRequest, nil},
		{&runnel.BeyondTailError{Segment: segment, From: 3, Tail: 2}, 400, wire.CodeBeyondTail, nil},
		{&runnel.UnauthorizedError{}, 401, wire.CodeUnauthorized, []string{"Www-Authenticate", "Bearer"}},
		{&runnel.UnauthorizedError{Reason: `has "expired"`}, 401, wire.CodeUnauthorized, []string{
			"Www-Authenticate", `Bearer error="invalid_token", error_description="the token has 'expired'"`,
		}},
		{&runnel.ForbiddenError{Action: "append to", What: "segment a/b", Scope: "runnel:write:a/b"}, 403, wire.CodeForbidden, []string{
			"Www-Authenticate", `Bearer error="insufficient_scope", scope="runnel:write:a/b"`,
		}},
		{&runnel.ProducerFencedError{Producer: "p", Epoch: 3, Got: 1}, 403, wire.CodeProducerFenced, []string{"Producer-Epoch", "3"}},
		{&runnel.NotFoundError{Segment: segment}, 404, wire.CodeNotFound, nil},
		{&runnel.ExistsError{Segment: segment, Field: "ttl", Have: "1", Want: "2"}, 409, wire.CodeExists, nil},
		{&runnel.ClosedError{Segment: segment, Tail: 2}, 409, wire.CodeClosed, []string{"Stream-Closed", "true", "Stream-Next-Offset", two}},
		{&runnel.ContentTypeError{Segment: segment, Have: "a/b", Got: "c/d"}, 409, wire.CodeContentType, nil},
		{&runnel.StreamSeqError{Segment: segment, Last: "b", Got: "a"}, 409, wire.CodeStreamSeq, nil},
		{&runnel.ProducerGapError{Producer: "p", Expected: 1, Got: 3}, 409, wire.CodeProducerGap, []string{"Producer-Expected-Seq", "1", "Producer-Received-Seq", "3"}},
		{&runnel.SoftDeletedError{Segment: segment}, 410, wire.CodeSoftDeleted, nil},
		{&runnel.TrimmedError{Segment: segment, From: 1, Earliest: 2}, 410, wire.CodeTrimmed, []string{"Stream-Earliest-Offset", two}},
		{&runnel.TailMovedError{Segment: segment, Want: 1, Tail: 2}, 412, wire.CodePrecondition, []string{"Stream-Next-Offset", two}},
		{&runnel.TooLargeError{What: "body", Limit: 10}, 413, wire.CodeTooLarge, nil},
		{&runnel.UnavailableError{Reason: "moving", RetryAfter: 1500 * time.Millisecond}, 503, wire.CodeUnavailable, []string{"Retry-After", "2"}},
		{&runnel.StorageFullError{Free: 5, Keep: 7, Need: 1}, 507, wire.CodeStorageFull, []string{"Retry-After", "5"}},
		{runnel.ErrShutdown, 503, wire.CodeShutdown, []string{"Retry-After", "1"}},
		{runnel.ErrUnknown, 500, wire.CodeUnknown, nil},
		{runnel.ErrFailed, 500, wire.CodeFailed, nil},
		{errors.New("secret"), 500, wire.CodeInternal, nil},
	} {
		f := wire.ErrorOf(fmt.Errorf("somewhere: %w", c.err))
		if f.Status != c.status || f.Detail.Code != c.code || !slices.Equal(f.Headers, c.headers) {
			t.Errorf("%v: %d %s %v, want %d %s %v", c.err, f.Status, f.Detail.Code, f.Headers, c.status, c.code, c.headers)
		}
		if f.Detail.Message == "" || strings.Contains(f.Detail.Message, "secret") || strings.Contains(f.Detail.Message, "runnel: ") {
			t.Errorf("%v: the message is %q", c.err, f.Detail.Message)
		}
		if !errors.Is(f, c.err) {
			t.Errorf("%v: the cause is lost", c.err)
		}
		for i := 0; i < len(f.Headers); i += 2 {
			if f.Headers[i] != http.CanonicalHeaderKey(f.Headers[i]) {
				t.Errorf("%v: the header %s is not in canonical form", c.err, f.Headers[i])
			}
		}
	}
}

func TestAClientGetsAnErrorThatMatchesTheServersOwn(t *testing.T) {
	for _, sentinel := range []error{
		runnel.ErrInvalid, runnel.ErrNotFound, runnel.ErrSoftDeleted, runnel.ErrExists, runnel.ErrClosed, runnel.ErrContentType,
		runnel.ErrStreamSeq, runnel.ErrProducerFenced, runnel.ErrProducerGap, runnel.ErrTailMoved, runnel.ErrTrimmed, runnel.ErrBeyondTail,
		runnel.ErrUnknown, runnel.ErrUnavailable, runnel.ErrStorageFull, runnel.ErrFailed, runnel.ErrTooLarge,
		runnel.ErrUnauthorized, runnel.ErrForbidden,
	} {
		f := wire.ErrorOf(sentinel)
		sent, err := json.Marshal(f.NewBody())
		if err != nil {
			t.Fatal(err)
		}
		var got wire.Body
		if err := json.Unmarshal(sent, &got); err != nil {
			t.Fatal(err)
		}
		if err := got.Err(f.Status); !errors.Is(err, sentinel) {
			t.Errorf("%v came as %v", sentinel, err)
		}
	}
	if err := (wire.Body{Error: wire.Detail{Code: "from the future"}}).Err(418); errors.Is(err, runnel.ErrInvalid) || errors.Is(err, nil) {
		t.Errorf("an unknown code matches something: %v", err)
	}
}

func TestAClientIsToldHowMuchSpaceThereIsAndThatARetryIsWelcome(t *testing.T) {
	f := wire.ErrorOf(&runnel.StorageFullError{Free: 0, Keep: 7, Need: 1})
	sent, err := json.Marshal(f.NewBody())
	if err != nil {
		t.Fatal(err)
	}
	want := `{"error":{"code":"storage_full","message":"nothing was written: storage is full: 0 bytes are free, 7 must stay free, and the write may take 1","free":0,"keep":7,"retry_after":5}}`
	if string(sent) != want {
		t.Errorf("sent %s", sent)
	}
	var got wire.Body
	if err := json.Unmarshal(sent, &got); err != nil {
		t.Fatal(err)
	}
	if err := got.Err(f.Status); !errors.Is(err, runnel.ErrStorageFull) || !errors.Is(err, runnel.ErrUnavailable) {
		t.Errorf("came as %v", err)
	}
}

func TestAnErrorOfTheWireIsKeptAsItIs(t *testing.T) {
	own := &wire.Error{Status: 401, Detail: wire.Detail{Code: "unauthorized", Message: "who are you?"}}
	if got := wire.ErrorOf(fmt.Errorf("resolving the store: %w", own)); got != own {
		t.Errorf("got %+v", got)
	}
}

func TestTheEarliestOffsetIsWhereOlderClientsLookForIt(t *testing.T) {
	body, err := json.Marshal(wire.ErrorOf(&runnel.TrimmedError{Segment: segment, Earliest: 2}).NewBody())
	if err != nil {
		t.Fatal(err)
	}
	var flat struct {
		EarliestOffset string `json:"earliest_offset"`
		Error          struct {
			EarliestOffset string `json:"earliest_offset"`
		}
	}
	if err := json.Unmarshal(body, &flat); err != nil || flat.EarliestOffset != runnel.Sequence(2).Offset() || flat.Error.EarliestOffset != flat.EarliestOffset {
		t.Errorf("%s, %v", body, err)
	}
}
