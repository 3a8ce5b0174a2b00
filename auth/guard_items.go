package auth

import (
	"context"
	"iter"

	"github.com/runnelhq/runnel"
)

// mayDoItem checks what is asked of an item.
func mayDoItem(ctx context.Context, action string, needs Verb, seg runnel.Segment, key runnel.ItemKey) error {
	if err := seg.Validate(); err != nil {
		return known(ctx, err)
	}
	r := Request{Action: action, Needs: needs, Kind: "segment", Store: seg.Store, Path: seg.Path()}
	if key.WithDefaults().Type == runnel.DefaultItemType { // scopes name no others
		r.Item = key.Key
	}
	return Check(ctx, r)
}

func mayWriteItems(ctx context.Context, space runnel.Space, w *runnel.ItemWrites) error {
	seg := space.Segment(w.Segment)
	if w.Create != nil || len(w.Writes) == 0 {
		if err := mayDo(ctx, "create", Write, seg); err != nil {
			return err
		}
		if err := mayFork(ctx, w.Create); err != nil {
			return err
		}
	}
	for i := range w.Writes {
		if err := mayDoItem(ctx, "write to", Write, seg, w.Writes[i].ItemKey); err != nil {
			return err
		}
	}
	return nil
}

// WriteItems needs write of each item that is written, and of the segment where options to create it are given.
func (g *Guard) WriteItems(ctx context.Context, space runnel.Space, writes ...runnel.ItemWrites) ([]runnel.ItemsWritten, error) {
	if err := known(ctx, nil); err != nil {
		return nil, err
	}
	for i := range writes {
		if err := mayWriteItems(ctx, space, &writes[i]); err != nil {
			return nil, err
		}
	}
	return g.log.WriteItems(ctx, space, writes...)
}

// Item needs read of the item.
func (g *Guard) Item(ctx context.Context, seg runnel.Segment, key runnel.ItemKey) (runnel.Item, error) {
	if err := mayDoItem(ctx, "read", Read, seg, key); err != nil {
		return runnel.Item{}, err
	}
	return g.log.Item(ctx, seg, key)
}

// Items needs read.
func (g *Guard) Items(ctx context.Context, seg runnel.Segment, q runnel.ItemQuery) (runnel.ItemView, error) {
	if err := mayDo(ctx, "read", Read, seg); err != nil {
		return runnel.ItemView{}, err
	}
	return g.log.Items(ctx, seg, q)
}

// TailItems needs read.
func (g *Guard) TailItems(ctx context.Context, seg runnel.Segment, id uint64, after runnel.Sequence) iter.Seq2[runnel.ItemBatch, error] {
	return following(ctx, mayDo(ctx, "read", Read, seg), func(ctx context.Context) iter.Seq2[runnel.ItemBatch, error] {
		return g.log.TailItems(ctx, seg, id, after)
	})
}

// SpaceItems needs read of the space.
func (g *Guard) SpaceItems(ctx context.Context, space runnel.Space, groupPrefix string, q runnel.ItemQuery) (runnel.SpaceItemView, error) {
	if err := mayDoIn(ctx, "read", Read, space); err != nil {
		return runnel.SpaceItemView{}, err
	}
	return g.log.SpaceItems(ctx, space, groupPrefix, q)
}

// TailSpaceItems needs read of the space.
func (g *Guard) TailSpaceItems(ctx context.Context, space runnel.Space, groupPrefix string, after runnel.Position) iter.Seq2[runnel.ItemBatch, error] {
	return following(ctx, mayDoIn(ctx, "read", Read, space), func(ctx context.Context) iter.Seq2[runnel.ItemBatch, error] {
		return g.log.TailSpaceItems(ctx, space, groupPrefix, after)
	})
}

// FollowItems needs read and write of the space: it is for who moves the cursor.
func (g *Guard) FollowItems(ctx context.Context, place runnel.CursorName, groupPrefix string, after runnel.Position) iter.Seq2[runnel.ItemBatch, error] {
	may := mayDoIn(ctx, "read", Read, place.Space)
	if may == nil {
		may = mayDoIn(ctx, "move a cursor of", Write, place.Space)
	}
	return following(ctx, may, func(ctx context.Context) iter.Seq2[runnel.ItemBatch, error] {
		return g.log.FollowItems(ctx, place, groupPrefix, after)
	})
}

// ItemGroups leaves out what may not be read.
func (g *Guard) ItemGroups(ctx context.Context, space runnel.Space, prefix, after string) iter.Seq2[runnel.Info, error] {
	return following(ctx, known(ctx, space.Validate()), func(ctx context.Context) iter.Seq2[runnel.Info, error] {
		return func(yield func(runnel.Info, error) bool) {
			for info, err := range g.log.ItemGroups(ctx, space, prefix, after) {
				if err == nil && mayDo(ctx, "read", Read, info.Segment) != nil {
					continue
				}
				if !yield(info, err) || err != nil {
					return
				}
			}
		}
	})
}

// ItemSpaces leaves out what may not be read.
func (g *Guard) ItemSpaces(ctx context.Context, store runnel.Store, prefix, after string) iter.Seq2[runnel.Space, error] {
	return following(ctx, known(ctx, nil), func(ctx context.Context) iter.Seq2[runnel.Space, error] {
		return func(yield func(runnel.Space, error) bool) {
			for space, err := range g.log.ItemSpaces(ctx, store, prefix, after) {
				if err == nil && mayDoIn(ctx, "read", Read, space) != nil {
					continue
				}
				if !yield(space, err) || err != nil {
					return
				}
			}
		}
	})
}

// CompactItems needs admin of the segment.
func (g *Guard) CompactItems(ctx context.Context, seg runnel.Segment) (runnel.Info, error) {
	if err := mayDo(ctx, "compact", Admin, seg); err != nil {
		return runnel.Info{}, err
	}
	return g.log.CompactItems(ctx, seg)
}

// DeleteItemSpace needs admin of the space.
func (g *Guard) DeleteItemSpace(ctx context.Context, space runnel.Space) (int, error) {
	if err := mayDoIn(ctx, "delete", Admin, space); err != nil {
		return 0, err
	}
	return g.log.DeleteItemSpace(ctx, space)
}

// WatchItems needs read of the item, of the group, or of the space where several groups are watched.
func (g *Guard) WatchItems(ctx context.Context, w runnel.ItemWatch) iter.Seq2[runnel.ItemNews, error] {
	return following(ctx, mayWatch(ctx, &w), func(ctx context.Context) iter.Seq2[runnel.ItemNews, error] {
		return g.log.WatchItems(ctx, w)
	})
}

func mayWatch(ctx context.Context, w *runnel.ItemWatch) error {
	if err := w.Validate(); err != nil {
		return known(ctx, err)
	}
	switch {
	case w.Group == "":
		return mayDoIn(ctx, "read", Read, w.Space)
	case w.Item == nil:
		return mayDo(ctx, "read", Read, w.Space.Segment(w.Group))
	}
	return mayDoItem(ctx, "read", Read, w.Space.Segment(w.Group), runnel.ItemKey{Type: w.Type, Key: *w.Item})
}

// SendItem needs send of the group, or of the item that the event is about.
func (g *Guard) SendItem(ctx context.Context, e runnel.ItemEvent) error {
	key := runnel.ItemKey{}
	if e.Item != nil {
		key.Key = *e.Item
	}
	if err := mayDoItem(ctx, "send to", Send, e.Segment, key); err != nil {
		return err
	}
	return g.log.SendItem(ctx, e)
}

// HearItemEvents needs read of the space, and ends when the principal is not served any more.
func (g *Guard) HearItemEvents(ctx context.Context, space runnel.Space, heard func(runnel.ItemEvent)) error {
	if err := mayDoIn(ctx, "read", Read, space); err != nil {
		return err
	}
	ctx, release := PrincipalOf(ctx).Bind(ctx)
	context.AfterFunc(ctx, release)
	return g.log.HearItemEvents(ctx, space, func(event runnel.ItemEvent) {
		if ctx.Err() == nil {
			heard(event)
		}
	})
}
