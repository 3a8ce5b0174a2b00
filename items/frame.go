package items

import (
	"encoding/json"
	"strconv"
	"strings"
	"sync"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/items/ops"
)

// cursor is where a subscriber of a group is: the group's incarnation and a sequence.
func cursor(id uint64, at runnel.Sequence) string {
	return strconv.FormatUint(id, 10) + "-" + strconv.FormatUint(uint64(at), 10)
}

func parseCursor(text string) (id uint64, at runnel.Sequence, ok bool) {
	first, second, found := strings.Cut(text, "-")
	id, err := strconv.ParseUint(first, 10, 64)
	n, err2 := strconv.ParseUint(second, 10, 64)
	return id, runnel.Sequence(n), found && err == nil && err2 == nil
}

// appendText appends a JSON text.
func appendText(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			return append(b, encode(s)...)
		}
	}
	return append(append(append(b, '"'), s...), '"')
}

// head begins a frame: all of the envelope but the event.
func head(b []byte, stamp int64, stream, group string, item *string) []byte {
	return envelope(append(b, `{"type":"stream",`...), stamp, stream, group, item)
}

// envelope is what every frame has, but for its type.
func envelope(b []byte, stamp int64, stream, group string, item *string) []byte {
	b = append(b, `"timestamp":`...)
	b = strconv.AppendInt(b, stamp, 10)
	b = appendText(append(b, `,"streamName":`...), stream)
	b = appendText(append(b, `,"groupId":`...), group)
	b = append(b, `,"id":`...)
	if item == nil {
		b = append(b, null...)
	} else {
		b = appendText(b, *item)
	}
	return append(b, `,"event":`...)
}

// change is one change of an item on its way to subscribers. Its frames are encoded once and shared by all.
type change struct {
	group runnel.Segment
	id    uint64 // of the group's incarnation
	gone  bool   // the group was deleted; the change is of none of its items
	runnel.ItemChange

	mu     sync.Mutex
	frames [4][2][]byte // by what happened, and by whether the id is put into the value
}

// goneGroup is the deletion of a group, after all of its changes.
func goneGroup(b *runnel.ItemBatch) *change {
	return &change{group: b.Segment, id: b.ID, gone: true, ItemChange: runnel.ItemChange{
		Sequence: runnel.MaxSequence, Position: b.LastPosition, Stamp: b.Stamp,
	}}
}

// goneFrame tells that a group was deleted.
func goneFrame(group runnel.Segment, stamp int64) []byte {
	return seal(append(head(begin(256), stamp, group.Space, group.Name, nil), `{"type":"deleted","data":null}}`...))
}

// frame returns the frame that tells the change as op, which differs from what happened where earlier
// changes of the item were left out.
func (c *change) frame(op runnel.ItemOp, inject bool) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	with := 0
	if inject {
		with = 1
	}
	if f := c.frames[op][with]; f != nil {
		return f
	}
	data := c.Value
	if op == runnel.ItemDeleted {
		if data = c.Old; data == nil {
			data = append(appendText([]byte(`{"id":`), c.Key), '}') // clients look for the id in what was deleted
		}
	}
	if inject {
		data = withID(data, c.Key)
	}
	b := head(begin(len(data)+256), c.Stamp, c.group.Space, c.group.Name, &c.Key)
	b = append(append(b, `{"type":"`...), op.String()...)
	b = append(append(b, `","data":`...), data...)
	b = append(b, `},"version":`...)
	b = strconv.AppendUint(b, uint64(c.Sequence), 10)
	b = append(append(b, `,"cursor":"`...), cursor(c.id, c.Sequence)...)
	c.frames[op][with] = seal(append(b, `"}`...))
	return c.frames[op][with]
}

// withID puts an id into an object that has none.
func withID(value []byte, id string) []byte {
	if len(value) == 0 || value[0] != '{' {
		return value
	}
	if ops.HasKey(value, "id") {
		return value
	}
	b := appendText([]byte(`{"id":`), id)
	if len(value) > 2 {
		b = append(b, ',')
	}
	return append(b, value[1:]...)
}

// syncFrame answers a join with what there is: items of a group, which are the body, or the one of a view
// that the subscription is about.
func syncFrame(s *subscription, group string, view *runnel.ItemView, items *encodedItems, stamp int64, inject bool) (frame, body []byte) {
	b := begin(512)
	b = append(b, `{"type":"stream","subscriptionId":`...)
	b = append(appendText(b, s.ID), `,"cursor":"`...)
	b = append(append(b, cursor(view.ID, view.Tail)...), `",`...)
	b = envelope(b, stamp, s.Stream, group, s.Item)
	b = append(b, `{"type":"sync","data":`...)
	if s.Item == nil {
		if items == nil {
			items = encodeItems(view, inject)
		}
		return sealBefore(b, len(items.body)), items.body
	}
	value := null
	if len(view.Items) > 0 {
		if value = view.Items[0].Value; inject {
			value = withID(value, view.Items[0].Key)
		}
	}
	return seal(append(append(b, value...), "}}"...)), nil
}

// notice is a frame about a subscription, not about an item.
func notice(s *Subscription, stamp int64, kind string, data any) []byte {
	b := head(begin(256), stamp, s.Stream, s.Group, nil)
	b = append(append(b, `{"type":"`...), kind...)
	b = append(append(b, `","data":`...), encode(data)...)
	b = appendText(append(b, `},"subscriptionId":`...), s.ID)
	return seal(append(b, '}'))
}

// unauthorized answers a join that was refused.
func unauthorized(s *Subscription, stamp int64, why string) []byte {
	b := head(begin(256), stamp, s.Stream, s.Group, s.Item)
	b = append(append(b, `{"type":"unauthorized","data":`...), encode(map[string]string{"message": why})...)
	b = appendText(append(b, `},"subscriptionId":`...), s.ID)
	return seal(append(b, '}'))
}

// event is one that is sent, and not kept.
type event struct {
	item, subscription *string
	kind               string
	data               json.RawMessage
}

func (e *event) frame(group runnel.Segment, stamp int64) []byte {
	b := head(begin(len(e.data)+256), stamp, group.Space, group.Name, e.item)
	b = appendText(append(b, `{"type":"event","event":{"type":`...), e.kind)
	b = append(append(b, `,"data":`...), e.data...)
	return seal(append(b, "}}}"...))
}
