package items

import (
	"context"
	"iter"

	"github.com/runnelhq/runnel"
)

// Log is all that the handler needs of an engine. Everything that it returns is durable, and its errors
// match those of package runnel.
type Log interface {
	WriteItems(ctx context.Context, space runnel.Space, writes ...runnel.ItemWrites) ([]runnel.ItemsWritten, error)
	Item(ctx context.Context, seg runnel.Segment, key runnel.ItemKey) (runnel.Item, error)
	Items(ctx context.Context, seg runnel.Segment, q runnel.ItemQuery) (runnel.ItemView, error)
	SpaceItems(ctx context.Context, space runnel.Space, groupPrefix string, q runnel.ItemQuery) (runnel.SpaceItemView, error)
	// TailItems yields the changes of a segment after a sequence, for ever.
	TailItems(ctx context.Context, seg runnel.Segment, id uint64, after runnel.Sequence) iter.Seq2[runnel.ItemBatch, error]
	// TailSpaceItems yields the changes of all segments of a space after a position, and their deletions, for ever.
	TailSpaceItems(ctx context.Context, space runnel.Space, groupPrefix string, after runnel.Position) iter.Seq2[runnel.ItemBatch, error]
	ItemGroups(ctx context.Context, space runnel.Space, prefix, after string) iter.Seq2[runnel.Info, error]
	ItemSpaces(ctx context.Context, store runnel.Store, prefix, after string) iter.Seq2[runnel.Space, error]
	StatSpace(ctx context.Context, space runnel.Space) (runnel.SpaceInfo, error)
	Delete(ctx context.Context, seg runnel.Segment) error
	// CompactItems lets go of the history of a segment, as far as no stored place has yet to pass it.
	CompactItems(ctx context.Context, seg runnel.Segment) (runnel.Info, error)
	DeleteItemSpace(ctx context.Context, space runnel.Space) (int, error)
	// SendItem tells those who watch a group of an event.
	SendItem(ctx context.Context, e runnel.ItemEvent) error
	// HearItemEvents calls heard for each event that is sent to groups of a space, before the sender is answered,
	// until ctx is done. A call does not wait for anything.
	HearItemEvents(ctx context.Context, space runnel.Space, heard func(runnel.ItemEvent)) error
}
