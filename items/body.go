package items

import (
	"strconv"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/items/ops"
)

// bodyBytes is about what the body of an item takes besides its values.
const bodyBytes = 256

// appendItem appends an item as listings and answers show it, without the brace that ends it.
func appendItem(b []byte, it *runnel.Item) []byte {
	b = appendText(append(b, `{"id":`...), it.Key)
	b = append(append(b, `,"value":`...), it.Value...)
	b = strconv.AppendUint(append(b, `,"version":`...), uint64(it.Version), 10)
	b = appendTime(append(b, `,"created":`...), it.Created)
	b = appendTime(append(b, `,"updated":`...), it.Updated)
	if !it.Expires.IsZero() {
		b = appendTime(append(b, `,"expires":`...), it.Expires)
	}
	return b
}

func appendTime(b []byte, t time.Time) []byte {
	return append(t.UTC().AppendFormat(append(b, '"'), time.RFC3339Nano), '"')
}

// appendItems appends a list of items.
func appendItems(b []byte, items []runnel.Item) []byte {
	b = append(b, '[')
	for i := range items {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(appendItem(b, &items[i]), '}')
	}
	return append(b, ']')
}

// appendResult appends what became of the item of a write.
func appendResult(b []byte, id string, result *runnel.ItemResult, duplicate bool) []byte {
	if result.New != nil {
		b = appendItem(b, result.New)
	} else {
		b = appendText(append(b, `{"id":`...), id)
	}
	if result.Old != nil {
		b = append(append(b, `,"old_value":`...), result.Old.Value...)
	}
	if result.New == nil && !duplicate {
		b = append(b, `,"deleted":true`...)
	}
	b = appendFailed(b, result.Failed)
	if duplicate {
		b = append(b, `,"duplicate":true`...)
	}
	return append(b, '}')
}

// appendFailed appends the operations that could not be applied, if there are some.
func appendFailed(b []byte, failed []runnel.FailedOperation) []byte {
	if len(failed) == 0 {
		return b
	}
	return append(append(b, `,"errors":`...), encode(failures(failed))...)
}

// failures are operations that could not be applied, as answers tell them.
func failures(failed []runnel.FailedOperation) []ops.Error {
	errs := make([]ops.Error, len(failed))
	for i, f := range failed {
		errs[i] = ops.Error{Index: f.Index, Code: f.Code, Message: f.Message, DocURL: ops.DocURL}
	}
	return errs
}
