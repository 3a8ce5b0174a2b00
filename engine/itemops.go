package engine

import (
	"fmt"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/items/ops"
)

// operate makes a write apply its operations, which are data, as a function does.
func (a *appending) operate(i int) error {
	w := &a.writes.Writes[i]
	if w.Apply != nil || w.Value != nil {
		return &runnel.InvalidError{What: "write to an item", Rule: "must have one of a value, a function and operations"}
	}
	list, err := ops.Parse(w.Ops)
	if err != nil {
		return fmt.Errorf("%w: %w", &runnel.InvalidError{What: "operations on item " + w.ItemKey.String(), Rule: "cannot be read"}, err)
	}
	mode := ops.Whole
	if w.Partial {
		mode = ops.Partial
	}
	key := w.ItemKey
	w.Apply = func(old *runnel.Item) ([]byte, error) {
		var before []byte
		if old != nil {
			before = old.Value
		}
		after, errs := ops.Apply(before, list, mode)
		var failed []runnel.FailedOperation
		for j := range errs {
			failed = append(failed, runnel.FailedOperation{Index: errs[j].Index, Code: errs[j].Code, Message: errs[j].Message})
		}
		if after == nil {
			return nil, &runnel.OperationsError{Segment: a.seg.addr(), Item: key, Failed: failed}
		}
		a.results[i].Failed = failed
		return after, nil
	}
	return nil
}
