package session

import (
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/session/internal/pb"
)

// checkItems refuses what cannot be sent: a function runs only in the process of the log.
func checkItems(t *runnel.Transaction) error {
	for i := range t.Items {
		for j := range t.Items[i].Writes {
			if t.Items[i].Writes[j].Apply != nil {
				return &runnel.InvalidError{What: "item write", Rule: "must have a value or operations over a connection, not a function"}
			}
		}
	}
	return nil
}

func putItemKey(k runnel.ItemKey) *pb.ItemKey { return &pb.ItemKey{Type: k.Type, Key: k.Key} }

func getItemKey(m *pb.ItemKey) runnel.ItemKey {
	return runnel.ItemKey{Type: m.GetType(), Key: m.GetKey()}
}

func putItemWrites(w *runnel.ItemWrites) *pb.Request_ItemWrites {
	m := &pb.Request_ItemWrites{Segment: w.Segment, Create: putCreate(w.Create), TxId: w.TxID, Key: w.Key, Sum: w.Sum}
	for i := range w.Writes {
		one := &w.Writes[i]
		m.Writes = append(m.Writes, &pb.Request_ItemWrite{
			Item: putItemKey(one.ItemKey), IfVersion: putNumber(one.IfVersion), IfExists: one.IfExists,
			HasValue: one.Value != nil || one.Ops != nil, Value: one.Value, TtlNanos: int64(one.TTL), KeepTtl: one.KeepTTL,
			HasOps: one.Ops != nil, Ops: one.Ops, Partial: one.Partial,
		})
	}
	return m
}

func getItemWrites(m *pb.Request_ItemWrites) (runnel.ItemWrites, error) {
	create, err := getCreate(m.GetCreate())
	w := runnel.ItemWrites{Segment: m.GetSegment(), Create: create, TxID: m.GetTxId(), Key: m.GetKey(), Sum: m.GetSum()}
	for _, one := range m.GetWrites() {
		write := runnel.ItemWrite{
			ItemKey: getItemKey(one.Item), IfVersion: getNumber[runnel.Sequence](one.IfVersion), IfExists: one.IfExists,
			TTL: time.Duration(one.TtlNanos), KeepTTL: one.KeepTtl, Partial: one.Partial,
		}
		if one.HasValue && !(one.HasOps && len(one.Value) == 0) {
			write.Value = append([]byte{}, one.Value...)
		}
		if one.HasOps {
			write.Ops = append([]byte{}, one.Ops...)
		}
		w.Writes = append(w.Writes, write)
	}
	return w, err
}

func putItem(i *runnel.Item) *pb.Item {
	if i == nil {
		return nil
	}
	return &pb.Item{
		Item: putItemKey(i.ItemKey), Value: i.Value, Version: uint64(i.Version), Created: putTime(i.Created), Updated: putTime(i.Updated),
		Expires: putTime(i.Expires),
	}
}

func getItem(m *pb.Item) *runnel.Item {
	if m == nil {
		return nil
	}
	return &runnel.Item{
		ItemKey: getItemKey(m.Item), Value: m.Value, Version: runnel.Sequence(m.Version), Created: getTime(m.Created), Updated: getTime(m.Updated),
		Expires: getTime(m.Expires),
	}
}

func putFailed(all []runnel.FailedOperation) (m []*pb.FailedOperation) {
	for _, f := range all {
		m = append(m, &pb.FailedOperation{Index: int64(f.Index), Code: f.Code, Message: f.Message})
	}
	return m
}

func getFailed(m []*pb.FailedOperation) (all []runnel.FailedOperation) {
	for _, f := range m {
		all = append(all, runnel.FailedOperation{Index: int(f.GetIndex()), Code: f.GetCode(), Message: f.GetMessage()})
	}
	return all
}

func putItemsWritten(w *runnel.ItemsWritten) *pb.ItemsWritten {
	m := &pb.ItemsWritten{Appended: putAppended(&w.Appended)}
	for _, r := range w.Results {
		m.Results = append(m.Results, &pb.ItemsWritten_Result{Old: putItem(r.Old), New: putItem(r.New), Failed: putFailed(r.Failed)})
	}
	return m
}

func getItemsWritten(m *pb.ItemsWritten) runnel.ItemsWritten {
	w := runnel.ItemsWritten{Appended: getAppended(m.GetAppended())}
	for _, r := range m.GetResults() {
		w.Results = append(w.Results, runnel.ItemResult{Old: getItem(r.Old), New: getItem(r.New), Failed: getFailed(r.Failed)})
	}
	return w
}
