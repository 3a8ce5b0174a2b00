package session

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/session/internal/pb"
)

// sentinels pairs what an error may match with its code.
var sentinels = []struct {
	code pb.Error_Code
	err  error
}{
	{pb.Error_CODE_INVALID, runnel.ErrInvalid},
	{pb.Error_CODE_TOO_LARGE, runnel.ErrTooLarge},
	{pb.Error_CODE_NOT_FOUND, runnel.ErrNotFound},
	{pb.Error_CODE_SOFT_DELETED, runnel.ErrSoftDeleted},
	{pb.Error_CODE_EXISTS, runnel.ErrExists},
	{pb.Error_CODE_CLOSED, runnel.ErrClosed},
	{pb.Error_CODE_CONTENT_TYPE, runnel.ErrContentType},
	{pb.Error_CODE_STREAM_SEQ, runnel.ErrStreamSeq},
	{pb.Error_CODE_PRODUCER_FENCED, runnel.ErrProducerFenced},
	{pb.Error_CODE_PRODUCER_GAP, runnel.ErrProducerGap},
	{pb.Error_CODE_TAIL_MOVED, runnel.ErrTailMoved},
	{pb.Error_CODE_ITEM_MOVED, runnel.ErrItemMoved},
	{pb.Error_CODE_TRIMMED, runnel.ErrTrimmed},
	{pb.Error_CODE_BEYOND_TAIL, runnel.ErrBeyondTail},
	{pb.Error_CODE_CURSOR_MOVED, runnel.ErrCursorMoved},
	{pb.Error_CODE_LEASE_HELD, runnel.ErrLeaseHeld},
	{pb.Error_CODE_LEASE_LOST, runnel.ErrLeaseLost},
	{pb.Error_CODE_UNAUTHORIZED, runnel.ErrUnauthorized},
	{pb.Error_CODE_FORBIDDEN, runnel.ErrForbidden},
	{pb.Error_CODE_KEY_REUSED, runnel.ErrKeyReused},
	{pb.Error_CODE_UNKNOWN, runnel.ErrUnknown},
	{pb.Error_CODE_UNAVAILABLE, runnel.ErrUnavailable},
	{pb.Error_CODE_STORAGE_FULL, runnel.ErrStorageFull},
	{pb.Error_CODE_FAILED, runnel.ErrFailed},
	{pb.Error_CODE_SHUTDOWN, runnel.ErrShutdown},
	{pb.Error_CODE_CANCELED, context.Canceled},
	{pb.Error_CODE_DEADLINE_EXCEEDED, context.DeadlineExceeded},
}

// putError returns what the other end needs to make the same error of it: what it says, what it matches,
// and the numbers of the type that has some.
func putError(err error) *pb.Error {
	m := &pb.Error{Message: err.Error()}
	for _, s := range sentinels {
		if errors.Is(err, s.err) {
			m.Codes = append(m.Codes, s.code)
		}
	}
	putDetail(m, err)
	return m
}

// putDetail looks for an error with numbers.
func putDetail(m *pb.Error, err error) {
	for ; err != nil && m.Detail == nil; err = errors.Unwrap(err) {
		if several, ok := err.(interface{ Unwrap() []error }); ok {
			for _, one := range several.Unwrap() {
				putDetail(m, one)
			}
			return
		}
		m.Detail = nil
		putTyped(m, err)
	}
}

func putTyped(m *pb.Error, err error) {
	place := func(segment runnel.Segment, want, have runnel.Sequence) *pb.Error_Place {
		return &pb.Error_Place{Segment: putSegment(segment), Want: uint64(want), Have: uint64(have)}
	}
	switch e := err.(type) { //nolint:errorlint // putDetail walks the tree
	case *runnel.NameError:
		m.Detail = &pb.Error_Name_{Name: &pb.Error_Name{Kind: e.Kind, Name: e.Name, Rule: e.Rule}}
	case *runnel.OffsetError:
		m.Detail = &pb.Error_Offset{Offset: &pb.Error_Text{Text: e.Token}}
	case *runnel.InvalidError:
		m.Detail = &pb.Error_Invalid_{Invalid: &pb.Error_Invalid{What: e.What, Rule: e.Rule}}
	case *runnel.TooLargeError:
		m.Detail = &pb.Error_TooLarge_{TooLarge: &pb.Error_TooLarge{What: e.What, Limit: e.Limit, Got: e.Got}}
	case *runnel.NotFoundError:
		m.Detail = &pb.Error_NotFound{NotFound: place(e.Segment, 0, 0)}
	case *runnel.SoftDeletedError:
		m.Detail = &pb.Error_SoftDeleted{SoftDeleted: place(e.Segment, 0, 0)}
	case *runnel.ExistsError:
		m.Detail = &pb.Error_Exists{Exists: &pb.Error_Differs{Segment: putSegment(e.Segment), Field: e.Field, Have: e.Have, Want: e.Want}}
	case *runnel.ClosedError:
		m.Detail = &pb.Error_Closed{Closed: place(e.Segment, 0, e.Tail)}
	case *runnel.ContentTypeError:
		m.Detail = &pb.Error_ContentType{ContentType: &pb.Error_Differs{Segment: putSegment(e.Segment), Have: e.Have, Want: e.Got}}
	case *runnel.StreamSeqError:
		m.Detail = &pb.Error_StreamSeq{StreamSeq: &pb.Error_Differs{Segment: putSegment(e.Segment), Have: e.Last, Want: e.Got}}
	case *runnel.ProducerFencedError:
		m.Detail = &pb.Error_ProducerFenced{ProducerFenced: &pb.Error_Producer{Producer: e.Producer, Want: e.Epoch, Got: e.Got}}
	case *runnel.ProducerGapError:
		m.Detail = &pb.Error_ProducerGap{ProducerGap: &pb.Error_Producer{Producer: e.Producer, Want: e.Expected, Got: e.Got}}
	case *runnel.TailMovedError:
		m.Detail = &pb.Error_TailMoved{TailMoved: place(e.Segment, e.Want, e.Tail)}
	case *runnel.TrimmedError:
		m.Detail = &pb.Error_Trimmed{Trimmed: place(e.Segment, e.From, e.Earliest)}
	case *runnel.KeyReusedError:
		m.Detail = &pb.Error_KeyReused_{KeyReused: &pb.Error_KeyReused{Segment: putSegment(e.Segment), Key: e.Key, First: uint64(e.First)}}
	case *runnel.BeyondTailError:
		m.Detail = &pb.Error_BeyondTail{BeyondTail: place(e.Segment, e.From, e.Tail)}
	case *runnel.BeyondHeadError:
		m.Detail = &pb.Error_BeyondHead_{BeyondHead: &pb.Error_BeyondHead{Space: putSpace(e.Space), From: uint64(e.From), Head: uint64(e.Head)}}
	case *runnel.CursorMovedError:
		m.Detail = &pb.Error_CursorMoved_{CursorMoved: &pb.Error_CursorMoved{Cursor: putCursorName(e.Cursor), Want: e.Want, Place: e.Place}}
	case *runnel.CursorNotFoundError:
		m.Detail = &pb.Error_CursorNotFound{CursorNotFound: putCursorName(e.Cursor)}
	case *runnel.LeaseHeldError:
		m.Detail = &pb.Error_LeaseHeld{LeaseHeld: putLease(&e.Lease)}
	case *runnel.LeaseLostError:
		m.Detail = &pb.Error_LeaseLost_{LeaseLost: &pb.Error_LeaseLost{Key: e.Key, Number: e.Number, Current: e.Current}}
	case *runnel.UnauthorizedError:
		m.Detail = &pb.Error_Unauthorized{Unauthorized: &pb.Error_Text{Text: e.Reason}}
	case *runnel.ForbiddenError:
		m.Detail = &pb.Error_Forbidden_{Forbidden: &pb.Error_Forbidden{Action: e.Action, What: e.What, Scope: e.Scope}}
	case *runnel.UnavailableError:
		m.Detail = &pb.Error_Unavailable_{Unavailable: &pb.Error_Unavailable{Reason: e.Reason, RetryAfterNanos: int64(e.RetryAfter)}}
	case *runnel.ItemMovedError:
		m.Detail = &pb.Error_ItemMoved_{ItemMoved: &pb.Error_ItemMoved{Segment: putSegment(e.Segment), Item: putItemKey(e.Item), Want: putNumber(e.Want), Have: uint64(e.Have)}}
	case *runnel.ItemNotFoundError:
		m.Detail = &pb.Error_ItemNotFound{ItemNotFound: &pb.Error_ItemMoved{Segment: putSegment(e.Segment), Item: putItemKey(e.Item)}}
	case *runnel.OperationsError:
		m.Detail = &pb.Error_Operations_{Operations: &pb.Error_Operations{Segment: putSegment(e.Segment), Item: putItemKey(e.Item), Failed: putFailed(e.Failed)}}
	case *runnel.StorageFullError:
		m.Detail = &pb.Error_StorageFull_{StorageFull: &pb.Error_StorageFull{Free: e.Free, Keep: e.Keep, Need: e.Need}}
	}
}

// getError makes an error of what the server said. It is the same type with the same numbers, inside one
// that says and matches the same where there was more to it.
func getError(m *pb.Error) error {
	detail := getTyped(m)
	var plain []error // what is matched, and not by the detail
	for _, code := range m.GetCodes() {
		for _, s := range sentinels {
			if s.code == code && !(detail != nil && errors.Is(detail, s.err)) {
				plain = append(plain, s.err)
			}
		}
	}
	switch {
	case detail != nil && len(plain) == 0 && detail.Error() == m.GetMessage():
		return detail
	case detail == nil && len(plain) == 1 && plain[0].Error() == m.GetMessage():
		return plain[0]
	case detail != nil:
		plain = append(plain, detail)
	}
	return &remoteError{message: m.GetMessage(), is: slices.Clip(plain)}
}

// remoteError says what an error of the server said, and matches what that matched.
type remoteError struct {
	message string
	is      []error
}

func (e *remoteError) Error() string   { return e.message }
func (e *remoteError) Unwrap() []error { return e.is }

func getTyped(m *pb.Error) error {
	seq := func(n uint64) runnel.Sequence { return runnel.Sequence(n) }
	switch d := m.GetDetail().(type) {
	case *pb.Error_Name_:
		return &runnel.NameError{Kind: d.Name.GetKind(), Name: d.Name.GetName(), Rule: d.Name.GetRule()}
	case *pb.Error_Offset:
		return &runnel.OffsetError{Token: d.Offset.GetText()}
	case *pb.Error_Invalid_:
		return &runnel.InvalidError{What: d.Invalid.GetWhat(), Rule: d.Invalid.GetRule()}
	case *pb.Error_TooLarge_:
		return &runnel.TooLargeError{What: d.TooLarge.GetWhat(), Limit: d.TooLarge.GetLimit(), Got: d.TooLarge.GetGot()}
	case *pb.Error_NotFound:
		return &runnel.NotFoundError{Segment: getSegment(d.NotFound.GetSegment())}
	case *pb.Error_SoftDeleted:
		return &runnel.SoftDeletedError{Segment: getSegment(d.SoftDeleted.GetSegment())}
	case *pb.Error_Exists:
		return &runnel.ExistsError{Segment: getSegment(d.Exists.GetSegment()), Field: d.Exists.GetField(), Have: d.Exists.GetHave(), Want: d.Exists.GetWant()}
	case *pb.Error_Closed:
		return &runnel.ClosedError{Segment: getSegment(d.Closed.GetSegment()), Tail: seq(d.Closed.GetHave())}
	case *pb.Error_ContentType:
		return &runnel.ContentTypeError{Segment: getSegment(d.ContentType.GetSegment()), Have: d.ContentType.GetHave(), Got: d.ContentType.GetWant()}
	case *pb.Error_StreamSeq:
		return &runnel.StreamSeqError{Segment: getSegment(d.StreamSeq.GetSegment()), Last: d.StreamSeq.GetHave(), Got: d.StreamSeq.GetWant()}
	case *pb.Error_ProducerFenced:
		return &runnel.ProducerFencedError{Producer: d.ProducerFenced.GetProducer(), Epoch: d.ProducerFenced.GetWant(), Got: d.ProducerFenced.GetGot()}
	case *pb.Error_ProducerGap:
		return &runnel.ProducerGapError{Producer: d.ProducerGap.GetProducer(), Expected: d.ProducerGap.GetWant(), Got: d.ProducerGap.GetGot()}
	case *pb.Error_TailMoved:
		return &runnel.TailMovedError{Segment: getSegment(d.TailMoved.GetSegment()), Want: seq(d.TailMoved.GetWant()), Tail: seq(d.TailMoved.GetHave())}
	case *pb.Error_Trimmed:
		return &runnel.TrimmedError{Segment: getSegment(d.Trimmed.GetSegment()), From: seq(d.Trimmed.GetWant()), Earliest: seq(d.Trimmed.GetHave())}
	case *pb.Error_KeyReused_:
		return &runnel.KeyReusedError{Segment: getSegment(d.KeyReused.GetSegment()), Key: d.KeyReused.GetKey(), First: seq(d.KeyReused.GetFirst())}
	case *pb.Error_BeyondTail:
		return &runnel.BeyondTailError{Segment: getSegment(d.BeyondTail.GetSegment()), From: seq(d.BeyondTail.GetWant()), Tail: seq(d.BeyondTail.GetHave())}
	case *pb.Error_BeyondHead_:
		return &runnel.BeyondHeadError{Space: getSpace(d.BeyondHead.GetSpace()), From: runnel.Position(d.BeyondHead.GetFrom()), Head: runnel.Position(d.BeyondHead.GetHead())}
	case *pb.Error_CursorMoved_:
		return &runnel.CursorMovedError{Cursor: getCursorName(d.CursorMoved.GetCursor()), Want: d.CursorMoved.GetWant(), Place: d.CursorMoved.GetPlace()}
	case *pb.Error_CursorNotFound:
		return &runnel.CursorNotFoundError{Cursor: getCursorName(d.CursorNotFound)}
	case *pb.Error_LeaseHeld:
		return &runnel.LeaseHeldError{Lease: getLease(d.LeaseHeld)}
	case *pb.Error_LeaseLost_:
		return &runnel.LeaseLostError{Key: d.LeaseLost.GetKey(), Number: d.LeaseLost.GetNumber(), Current: d.LeaseLost.GetCurrent()}
	case *pb.Error_Unauthorized:
		return &runnel.UnauthorizedError{Reason: d.Unauthorized.GetText()}
	case *pb.Error_Forbidden_:
		return &runnel.ForbiddenError{Action: d.Forbidden.GetAction(), What: d.Forbidden.GetWhat(), Scope: d.Forbidden.GetScope()}
	case *pb.Error_Unavailable_:
		return &runnel.UnavailableError{Reason: d.Unavailable.GetReason(), RetryAfter: time.Duration(d.Unavailable.GetRetryAfterNanos())}
	case *pb.Error_ItemMoved_:
		return &runnel.ItemMovedError{
			Segment: getSegment(d.ItemMoved.GetSegment()), Item: getItemKey(d.ItemMoved.GetItem()),
			Want: getNumber[runnel.Sequence](d.ItemMoved.GetWant()), Have: seq(d.ItemMoved.GetHave()),
		}
	case *pb.Error_ItemNotFound:
		return &runnel.ItemNotFoundError{Segment: getSegment(d.ItemNotFound.GetSegment()), Item: getItemKey(d.ItemNotFound.GetItem())}
	case *pb.Error_Operations_:
		return &runnel.OperationsError{Segment: getSegment(d.Operations.GetSegment()), Item: getItemKey(d.Operations.GetItem()), Failed: getFailed(d.Operations.GetFailed())}
	case *pb.Error_StorageFull_:
		return &runnel.StorageFullError{Free: d.StorageFull.GetFree(), Keep: d.StorageFull.GetKeep(), Need: d.StorageFull.GetNeed()}
	}
	return nil
}
