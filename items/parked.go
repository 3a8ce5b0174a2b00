package items

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/runnelhq/runnel"
)

// ParkedStream is the stream in which changes are kept that a trigger has given up on: a group for each
// trigger, an item for each change. Setting the field replay of such an item to true tries it again, and when
// that succeeds the item is deleted.
const ParkedStream = "runnel.parked"

// parkedPage is how many parked changes are read at a time.
const parkedPage = 100

// parked is the value of an item of the parked stream.
type parked struct {
	Key      string          `json:"key"`
	Position runnel.Position `json:"position"`
	Event    json.RawMessage `json:"event"`
	TxID     string          `json:"txid,omitempty"`
	Error    string          `json:"error"`
	Attempts int             `json:"attempts"`
	Parked   time.Time       `json:"parked"`
	Replay   bool            `json:"replay"`
}

func (t *Trigger) parkedSpace() runnel.Space {
	return runnel.Space{Store: t.Store, Name: ParkedStream}
}

// park stores an event that is not tried any more unless somebody asks for it.
func (r *term) park(ctx context.Context, e *TriggerEvent, why error) error {
	value := encode(parked{
		Key: e.Key, Position: e.Position, Event: e.Frame, TxID: e.TxID,
		Error: reason(why), Attempts: e.Attempt, Parked: time.Now().UTC(),
	})
	_, err := r.log.WriteItems(ctx, r.parkedSpace(), runnel.ItemWrites{Segment: r.Name, Writes: []runnel.ItemWrite{{
		ItemKey: runnel.ItemKey{Key: fmt.Sprintf("%s-%016d", strings.ReplaceAll(r.Stream, "/", "."), e.Position)}, Value: value,
	}}})
	if err == nil {
		r.Logger.Warn("an event was parked", "trigger", r.Name, "key", e.Key, "attempts", e.Attempt, "err", why)
	}
	return err
}

// reason is the text of an error, which somebody else may have written.
func reason(why error) string {
	const longest = 1000
	text := why.Error()
	return strings.ToValidUTF8(text[:min(len(text), longest)], "")
}

// replayParked tries parked events again when somebody asks for it.
func (r *term) replayParked(ctx context.Context) {
	for ctx.Err() == nil {
		err := r.replays(ctx)
		if ctx.Err() == nil {
			r.Logger.Warn("parked events are looked at again later", "trigger", r.Name, "err", err)
			pause(ctx, time.Second)
		}
	}
}

func (r *term) replays(ctx context.Context) error {
	space := r.parkedSpace()
	info, err := r.log.StatSpace(ctx, space)
	if err != nil {
		return err
	}
	for page := (runnel.ItemQuery{Limit: parkedPage}); ; {
		view, err := r.log.Items(ctx, space.Segment(r.Name), page)
		if errors.Is(err, runnel.ErrNotFound) {
			break
		}
		if err != nil {
			return err
		}
		for i := range view.Items {
			r.replay(ctx, view.Items[i].Key, view.Items[i].Version, view.Items[i].Value)
		}
		if page.After = view.Next; !view.More {
			break
		}
	}
	for batch, err := range r.log.TailSpaceItems(ctx, space, r.Name, info.Head) {
		if err != nil {
			return err
		}
		for i := range batch.Changes {
			if c := &batch.Changes[i]; batch.Segment.Name == r.Name && c.Op != runnel.ItemDeleted {
				r.replay(ctx, c.Key, c.Sequence, c.Value)
			}
		}
	}
	return ctx.Err()
}

func (r *term) replay(ctx context.Context, key string, version runnel.Sequence, value []byte) {
	var p parked
	if json.Unmarshal(value, &p) != nil || !p.Replay {
		return
	}
	e, ok := p.event(r.Stream)
	if !ok {
		return
	}
	e.Fence = r.fence.Number
	write := runnel.ItemWrite{ItemKey: runnel.ItemKey{Key: key}, IfVersion: &version}
	if err := hook(ctx, r.Timeout, func(ctx context.Context) error { return r.Handle(ctx, e) }, nil); err != nil {
		p.Error, p.Attempts, p.Replay = reason(err), e.Attempt, false
		write.Value = encode(p)
	}
	_, err := r.log.WriteItems(ctx, r.parkedSpace(), runnel.ItemWrites{Segment: r.Name, Writes: []runnel.ItemWrite{write}})
	if err != nil && !errors.Is(err, runnel.ErrItemMoved) && ctx.Err() == nil {
		r.Logger.Warn("what became of a parked event was not stored", "trigger", r.Name, "err", err)
	}
}

// event is what was parked, for another attempt.
func (p *parked) event(stream string) (*TriggerEvent, bool) {
	var f struct {
		Group string `json:"groupId"`
		Item  string `json:"id"`
		Event struct {
			Type string          `json:"type"`
			Data json.RawMessage `json:"data"`
		} `json:"event"`
	}
	if json.Unmarshal(p.Event, &f) != nil {
		return nil, false
	}
	return &TriggerEvent{
		Key: p.Key, Stream: stream, Group: f.Group, Item: f.Item, Kind: f.Event.Type, Value: f.Event.Data, TxID: p.TxID,
		Frame: p.Event, Position: p.Position, Attempt: p.Attempts + 1,
	}, true
}
