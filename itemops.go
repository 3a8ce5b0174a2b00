package runnel

import "fmt"

// FailedOperation is an operation of ItemWrite.Ops that could not be applied.
type FailedOperation struct {
	// Index is the place of the operation in the list, counted from 0.
	Index int
	// Code is the name of the rule, such as "increment.not_number". docs/items.md lists them.
	Code    string
	Message string
}

// OperationsError refuses a list of operations that was to be applied as a whole. It matches ErrInvalid.
type OperationsError struct {
	Segment Segment
	Item    ItemKey
	// Failed are the operations that could not be applied. There is at least one.
	Failed []FailedOperation
}

func (e *OperationsError) Error() string {
	text := fmt.Sprintf("runnel: %d of the operations on item %s of segment %s failed, so none was applied", len(e.Failed), e.Item, quote(e.Segment.String()))
	if len(e.Failed) > 0 {
		text += ": " + e.Failed[0].Message
	}
	return text
}

func (e *OperationsError) Is(target error) bool { return target == ErrInvalid }
