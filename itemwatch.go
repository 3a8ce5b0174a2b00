package runnel

import (
	"encoding/json"
	"strings"
	"unicode/utf8"
)

const (
	// MaxItemEventTypeBytes is the longest type of an ItemEvent, in bytes of UTF-8.
	MaxItemEventTypeBytes = 256
	// MaxItemEventBytes is the largest ItemEvent, its type and its data together, in bytes.
	MaxItemEventBytes = 512 << 10
)

// ItemWatch selects what a watcher of items is told of: all items of one group, those whose keys begin with
// a Prefix, one Item, or the items of all groups whose names begin with GroupPrefix.
type ItemWatch struct {
	Space Space
	// Group is a segment of the space, which need not exist yet. Empty means several groups.
	Group string
	// GroupPrefix is what the names of groups begin with; empty is every group of the space. It excludes
	// Group.
	GroupPrefix string
	// Type is the collection; empty is DefaultItemType, and AllItemTypes is all of them.
	Type string
	// Prefix is what the keys begin with.
	Prefix string
	// Item, if not nil, is the key of the only item. It excludes Prefix and AllItemTypes.
	Item *string
	// ID and After continue behind a place that ItemNews has told: the incarnation of the Group, and the last
	// sequence. If what follows it is not kept any more a snapshot comes in its place. ID 0 begins with a
	// snapshot.
	ID    uint64
	After Sequence
}

// Validate checks what does not depend on the log.
func (w *ItemWatch) Validate() error {
	if err := w.Space.Validate(); err != nil {
		return err
	}
	switch {
	case w.Group != "" && w.GroupPrefix != "":
		return &InvalidError{What: "group of a watch", Rule: "excludes a prefix of groups"}
	case w.Group == "" && (w.ID != 0 || w.After != 0):
		return &InvalidError{What: "place of a watch", Rule: "needs a group"}
	case w.Item != nil && (w.Prefix != "" || w.Type == AllItemTypes):
		return &InvalidError{What: "item of a watch", Rule: "excludes a prefix and all types"}
	case w.Group != "":
		return w.Space.Segment(w.Group).Validate()
	}
	return nil
}

// Wants tells whether the watch is about an item of a group that it is about.
func (w *ItemWatch) Wants(key ItemKey) bool {
	key = key.WithDefaults()
	own := ItemKey{Type: w.Type}.WithDefaults().Type
	switch {
	case own != AllItemTypes && key.Type != own:
		return false
	case w.Item != nil:
		return key.Key == *w.Item
	}
	return strings.HasPrefix(key.Key, w.Prefix)
}

// WantsEvent tells whether the watch is about an event: of a group that it is about, and of no item or of one
// that it is about. Events for one subscription of a WebSocket client are for nobody else.
func (w *ItemWatch) WantsEvent(e *ItemEvent) bool {
	switch name := e.Segment.Name; {
	case e.Subscription != nil, e.Segment.In() != w.Space:
		return false
	case w.Group != "" && name != w.Group, !strings.HasPrefix(name, w.GroupPrefix):
		return false
	}
	return e.Item == nil || w.Wants(ItemKey{Key: *e.Item})
}

// ItemNews is what a watcher of items is told: a snapshot, changes, an event, or that the snapshot is
// complete.
type ItemNews struct {
	// Segment is the group, and ID its incarnation, 0 if there is no such group.
	Segment Segment
	ID      uint64
	// Last is the place in the group, and Position that in the space, that the watcher has come to.
	Last     Sequence
	Position Position
	// Snapshot says that Items are all there are in the group, whatever has been told of it before.
	Snapshot bool
	Items    []Item
	// Gap is why a snapshot comes in the place of changes, empty if that is not so.
	Gap string
	// Complete says that every group has been told: what follows happens from then on. It is about no group. If
	// it comes again, groups of which there was no snapshot since the last time are gone.
	Complete bool
	// Changes are in their order, of one commit or several.
	Changes []ItemChange
	// Event, if not nil, was sent after the changes that have been told of the group.
	Event *ItemEvent
	// Lead is what stamps are reckoned from.
	Lead int64
}

// ItemEvent is told to those who watch a group when it is sent. It is not kept.
type ItemEvent struct {
	Segment Segment
	// Item, if not nil, leaves out those who watch other items only.
	Item *string
	// Subscription, if not nil, is the only subscription of a WebSocket client that is told.
	Subscription *string
	Type         string
	// Data is a JSON text.
	Data []byte
	// ID and Tail are the incarnation of the group and its last sequence when the event was sent; the log sets
	// them.
	ID   uint64
	Tail Sequence
}

// Validate checks what does not depend on the log.
func (e *ItemEvent) Validate() error {
	switch n := len(e.Type) + len(e.Data); {
	case len(e.Type) > MaxItemEventTypeBytes:
		return &TooLargeError{What: "type of an event", Limit: MaxItemEventTypeBytes, Got: int64(len(e.Type))}
	case n > MaxItemEventBytes:
		return &TooLargeError{What: "event", Limit: MaxItemEventBytes, Got: int64(n)}
	case !utf8.ValidString(e.Type):
		return &InvalidError{What: "type of an event", Rule: "must be UTF-8"}
	case !json.Valid(e.Data) || !utf8.Valid(e.Data):
		return &InvalidError{What: "data of an event", Rule: "must be a JSON text"}
	}
	return e.Segment.Validate()
}
