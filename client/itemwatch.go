package client

import (
	"context"
	"iter"
	"strconv"
	"strings"

	"github.com/runnelhq/runnel"
)

// Watch says what of a stream is watched. The zero Watch is all of it.
type Watch struct {
	// Group is one group, which need not exist yet. Empty means all groups whose names begin with
	// GroupPrefix.
	Group       string
	GroupPrefix string
	// Item is one item of the group; empty means all whose ids begin with Prefix.
	Item   string
	Prefix string
	// Since is a Cursor that was told of the same group: then what came after it is told, and no snapshot,
	// as far as it is still kept. It is the cursor of the WebSocket too.
	Since string
}

// Cursor is a place in a group, to go on behind it with Watch.Since.
func Cursor(n runnel.ItemNews) string {
	return strconv.FormatUint(n.ID, 10) + "-" + strconv.FormatUint(uint64(n.Last), 10)
}

func parseCursor(text string) (id uint64, at runnel.Sequence, err error) {
	first, second, _ := strings.Cut(text, "-")
	id, err = strconv.ParseUint(first, 10, 64)
	if err == nil {
		var n uint64
		n, err = strconv.ParseUint(second, 10, 64)
		at = runnel.Sequence(n)
	}
	if err != nil {
		return 0, 0, &runnel.InvalidError{What: "cursor " + strconv.Quote(text), Rule: "must be one that was told"}
	}
	return id, at, nil
}

// Watch yields what there is, and then each change as it becomes durable, and each event that is sent,
// without a seam: a snapshot of the group at one moment, or of each group and then ItemNews.Complete, and from
// then on everything that follows, in order and once. Another snapshot of a group means that what was told
// of it before is past: it was deleted, or ItemNews.Gap says why changes were left out.
//
// It ends when the consumer wants no more, and otherwise with an error as the last thing it yields. Over a
// connection that was lost it goes on by itself.
func (it Items) Watch(ctx context.Context, w Watch) iter.Seq2[runnel.ItemNews, error] {
	q := runnel.ItemWatch{Space: it.space, Group: w.Group, GroupPrefix: w.GroupPrefix, Prefix: w.Prefix}
	if w.Item != "" {
		q.Item = &w.Item
	}
	if w.Since != "" {
		var err error
		if q.ID, q.After, err = parseCursor(w.Since); err != nil {
			return func(yield func(runnel.ItemNews, error) bool) { yield(runnel.ItemNews{}, err) }
		}
	}
	return it.c.WatchItems(ctx, q)
}

// Send tells those who watch a group now, here and over WebSockets of the same server, of an event. It is not
// kept, and holds up nobody. The data is given as the value of an item is.
func (it Items) Send(ctx context.Context, group, kind string, data any) error {
	return it.send(ctx, runnel.ItemEvent{Segment: it.space.Segment(group), Type: kind}, data)
}

// SendTo is Send that leaves out those who watch other items of the group only.
func (it Items) SendTo(ctx context.Context, group, item, kind string, data any) error {
	return it.send(ctx, runnel.ItemEvent{Segment: it.space.Segment(group), Item: &item, Type: kind}, data)
}

func (it Items) send(ctx context.Context, e runnel.ItemEvent, data any) error {
	var err error
	if e.Data, err = encode(data); err != nil {
		return err
	}
	return it.c.SendItem(ctx, e)
}
