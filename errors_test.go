package runnel_test

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/runnelhq/runnel"
)

var sentinels = []error{
	runnel.ErrInvalid, runnel.ErrTooLarge, runnel.ErrNotFound, runnel.ErrSoftDeleted, runnel.ErrExists, runnel.ErrClosed,
	runnel.ErrContentType, runnel.ErrStreamSeq, runnel.ErrProducerFenced, runnel.ErrProducerGap, runnel.ErrTailMoved,
	runnel.ErrTrimmed, runnel.ErrBeyondTail, runnel.ErrUnknown, runnel.ErrUnavailable, runnel.ErrStorageFull, runnel.ErrFailed, runnel.ErrShutdown,
	runnel.ErrUnauthorized, runnel.ErrForbidden,
}

func TestAnErrorMatchesItsSentinelsAndNoOther(t *testing.T) {
	seg := runnel.Segment{Space: "a", Name: "b"}
	for _, tc := range []struct {
		err  error
		is   []error
		says []string
	}{
		{&runnel.NameError{Kind: "space", Name: "a\n", Rule: "is odd"}, []error{runnel.ErrInvalid}, []string{`"a\n"`, "is odd"}},
		{&runnel.OffsetError{Token: "x"}, []error{runnel.ErrInvalid}, []string{`"x"`}},
		{&runnel.InvalidError{What: "ttl", Rule: "must not be negative"}, []error{runnel.ErrInvalid}, []string{"ttl must not"}},
		{&runnel.TooLargeError{What: "body", Limit: 5, Got: 7}, []error{runnel.ErrTooLarge, runnel.ErrInvalid}, []string{"7 bytes", "5"}},
		{&runnel.TooLargeError{What: "body", Limit: 5}, []error{runnel.ErrTooLarge, runnel.ErrInvalid}, []string{"5 bytes"}},
		{&runnel.NotFoundError{Segment: seg}, []error{runnel.ErrNotFound}, []string{`"a/b"`}},
		{&runnel.SoftDeletedError{Segment: seg}, []error{runnel.ErrSoftDeleted}, []string{`"a/b"`, "forks"}},
		{&runnel.ExistsError{Segment: seg, Field: "ttl", Have: "1s", Want: "2s"}, []error{runnel.ErrExists}, []string{`"a/b"`, "ttl 1s", "2s"}},
		{&runnel.ClosedError{Segment: seg, Tail: 9}, []error{runnel.ErrClosed}, []string{`"a/b"`, "9"}},
		{&runnel.ContentTypeError{Segment: seg, Have: "x/y", Got: "z"}, []error{runnel.ErrContentType}, []string{"x/y", "z"}},
		{&runnel.StreamSeqError{Segment: seg, Last: "b", Got: "a"}, []error{runnel.ErrStreamSeq}, []string{`"a"`, `"b"`}},
		{&runnel.ProducerFencedError{Producer: "p", Epoch: 3, Got: 2}, []error{runnel.ErrProducerFenced}, []string{`"p"`, "3", "2"}},
		{&runnel.ProducerGapError{Producer: "p", Expected: 3, Got: 5}, []error{runnel.ErrProducerGap}, []string{`"p"`, "3", "5"}},
		{&runnel.TailMovedError{Segment: seg, Want: 3, Tail: 5}, []error{runnel.ErrTailMoved}, []string{"3", "5"}},
		{&runnel.TrimmedError{Segment: seg, From: 3, Earliest: 5}, []error{runnel.ErrTrimmed}, []string{"3", "5"}},
		{&runnel.BeyondTailError{Segment: seg, From: 7, Tail: 5}, []error{runnel.ErrBeyondTail}, []string{"7", "5"}},
		{&runnel.UnauthorizedError{}, []error{runnel.ErrUnauthorized}, []string{"a token is needed"}},
		{&runnel.UnauthorizedError{Reason: "has expired"}, []error{runnel.ErrUnauthorized}, []string{"the token has expired"}},
		{&runnel.ForbiddenError{Action: "append to", What: "segment a/b", Scope: "*:a:write"}, []error{runnel.ErrForbidden}, []string{"to append to", "segment a/b", `"*:a:write"`}},
		{&runnel.UnavailableError{Reason: "the disk is full"}, []error{runnel.ErrUnavailable}, []string{"the disk is full"}},
		{&runnel.StorageFullError{Free: 5, Keep: 7, Need: 1}, []error{runnel.ErrStorageFull, runnel.ErrUnavailable}, []string{"5 bytes are free", "7 must stay free", "take 1"}},
	} {
		t.Run(fmt.Sprintf("%T", tc.err), func(t *testing.T) {
			wrapped := fmt.Errorf("above: %w", tc.err)
			for _, sentinel := range sentinels {
				want := false
				for _, is := range tc.is {
					want = want || is == sentinel //nolint:errorlint // the very value is meant
				}
				if got := errors.Is(wrapped, sentinel); got != want {
					t.Errorf("matches %v: %v", sentinel, got)
				}
			}
			as := reflect.New(reflect.TypeOf(tc.err))
			if !errors.As(wrapped, as.Interface()) || as.Elem().Interface() != tc.err { //nolint:errorlint // the very value is meant
				t.Error("cannot be had back with errors.As")
			}
			for _, part := range append(tc.says, "runnel: ") {
				if !strings.Contains(tc.err.Error(), part) {
					t.Errorf("%q does not say %q", tc.err, part)
				}
			}
		})
	}
}

func TestAMessageStaysShortWhateverTheNameIs(t *testing.T) {
	err := &runnel.NameError{Kind: "space", Name: strings.Repeat("\xff", 10_000), Rule: "is odd"}
	if n := len(err.Error()); n > 400 {
		t.Errorf("%d bytes", n)
	}
}
