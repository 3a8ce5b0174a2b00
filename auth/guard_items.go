package auth

import (
	"context"

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
