package items

import (
	"context"

	"github.com/runnelhq/runnel"
)

// callCompact lets go of the history of a group, as far as no stored place has yet to pass it.
func (h *Handler) callCompact(ctx context.Context, store runnel.Store, in *input) ([]byte, error) {
	if err := in.need("stream_name", "group_id"); err != nil {
		return nil, err
	}
	seg, err := segment(store, *in.Stream, *in.Group)
	if err != nil {
		return nil, err
	}
	info, err := h.log.CompactItems(ctx, seg)
	if err != nil {
		return nil, err
	}
	return encode(struct {
		Kept runnel.Sequence `json:"kept"`
		Tail runnel.Sequence `json:"tail"`
	}{info.Tail - info.Earliest, info.Tail}), nil
}
