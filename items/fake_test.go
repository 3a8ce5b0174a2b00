package items_test

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/items/ops"
)

// fakeLog keeps items in memory the way that the engine does, for tests of what stands before it.
type fakeLog struct {
	mu        sync.Mutex
	spaces    map[runnel.Space]*fakeSpace
	moved     chan struct{} // closed and replaced with each change
	listeners []fakeListener
	failing   error // of reads and writes
	cursors   map[runnel.CursorName]uint64
	leases    map[leaseName]runnel.Lease
	fences    uint64
}

type fakeListener struct {
	ended func() error
	space runnel.Space
	heard func(runnel.ItemEvent)
}

type leaseName struct {
	space runnel.Space
	key   string
}

type fakeSpace struct {
	head   runnel.Position
	lastID uint64
	stamp  int64 // of the last deletion
	groups map[string]*fakeGroup
	log    []runnel.ItemBatch
}

type fakeGroup struct {
	info  runnel.Info
	items map[string]runnel.Item
	lead  int64
	keys  map[string]runnel.ItemsWritten
	sums  map[string]uint64
}

func newFake() *fakeLog {
	return &fakeLog{spaces: make(map[runnel.Space]*fakeSpace), moved: make(chan struct{}), cursors: make(map[runnel.CursorName]uint64), leases: make(map[leaseName]runnel.Lease)}
}

func (f *fakeLog) wake() {
	close(f.moved)
	f.moved = make(chan struct{})
}

func (f *fakeLog) space(space runnel.Space) *fakeSpace {
	s := f.spaces[space]
	if s == nil {
		s = &fakeSpace{groups: make(map[string]*fakeGroup)}
		f.spaces[space] = s
	}
	return s
}

func (f *fakeLog) WriteItems(_ context.Context, space runnel.Space, all ...runnel.ItemWrites) ([]runnel.ItemsWritten, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.writeItems(space, all...)
}

func (f *fakeLog) writeItems(space runnel.Space, all ...runnel.ItemWrites) ([]runnel.ItemsWritten, error) {
	if f.failing != nil {
		return nil, f.failing
	}
	w := all[0]
	s := f.space(space)
	seg := space.Segment(w.Segment)
	if err := seg.Validate(); err != nil {
		return nil, err
	}
	g := s.groups[w.Segment]
	if g == nil {
		g = &fakeGroup{lead: s.stamp + 1, info: runnel.Info{Segment: seg, ContentType: "application/json"}, items: make(map[string]runnel.Item), keys: make(map[string]runnel.ItemsWritten), sums: make(map[string]uint64)}
	}
	if before, ok := g.keys[w.Key]; ok && w.Key != "" {
		if g.sums[w.Key] != w.Sum {
			return nil, runnel.ErrKeyReused
		}
		before.Duplicate = true
		return []runnel.ItemsWritten{before}, nil
	}
	now := time.Now().Truncate(time.Microsecond)
	var result runnel.ItemsWritten
	batch := runnel.ItemBatch{Segment: seg}
	tail, head, lead := g.info.Tail, s.head, g.lead
	for _, one := range w.Writes {
		one.ItemKey = one.WithDefaults()
		old, exists := g.items[one.Key]
		if one.IfVersion != nil && *one.IfVersion != old.Version || one.IfExists && !exists {
			return nil, &runnel.ItemMovedError{Segment: seg, Item: one.ItemKey, Want: one.IfVersion, Have: old.Version}
		}
		r := runnel.ItemResult{}
		if exists {
			r.Old = &old
		}
		value := one.Value
		if one.Ops != nil {
			var err error
			if value, err = operate(seg, &one, &r); err != nil {
				return nil, err
			}
		}
		if value == nil && !exists {
			result.Results = append(result.Results, r)
			continue
		}
		tail, head = tail+1, head+1
		lead = runnel.ItemLead(lead, tail, now.UnixMicro())
		c := runnel.ItemChange{ItemKey: one.ItemKey, Op: runnel.ItemDeleted, Old: old.Value, Sequence: tail, Position: head, Time: now, TxID: w.TxID, Stamp: runnel.ItemStamp(lead, tail)}
		if value != nil {
			r.New = &runnel.Item{ItemKey: one.ItemKey, Value: value, Version: tail, Created: now, Updated: now}
			c.Op, c.Value, c.Old = runnel.ItemCreated, value, nil
			if exists {
				r.New.Created, c.Op = old.Created, runnel.ItemUpdated
			}
			if one.TTL > 0 {
				r.New.Expires = now.Add(one.TTL)
			}
		}
		batch.Changes = append(batch.Changes, c)
		result.Results = append(result.Results, r)
	}
	if g.info.ID == 0 {
		s.lastID++
		g.info.ID = s.lastID
		s.groups[w.Segment] = g
	}
	for _, r := range result.Results {
		if r.New != nil {
			g.items[r.New.Key] = *r.New
		} else if r.Old != nil {
			delete(g.items, r.Old.Key)
		}
	}
	g.info.Tail, s.head, g.lead = tail, head, lead
	batch.ID, batch.Last, batch.LastPosition, batch.Lead = g.info.ID, tail, head, lead
	s.log = append(s.log, batch)
	result.Tail = tail
	if w.Key != "" {
		g.keys[w.Key], g.sums[w.Key] = result, w.Sum
	}
	f.wake()
	return []runnel.ItemsWritten{result}, nil
}

// operate returns what operations make of the item that is in r.
func operate(seg runnel.Segment, w *runnel.ItemWrite, r *runnel.ItemResult) ([]byte, error) {
	list, err := ops.Parse(w.Ops)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", runnel.ErrInvalid, err)
	}
	var before []byte
	if r.Old != nil {
		before = r.Old.Value
	}
	mode := ops.Whole
	if w.Partial {
		mode = ops.Partial
	}
	value, errs := ops.Apply(before, list, mode)
	for _, e := range errs {
		r.Failed = append(r.Failed, runnel.FailedOperation{Index: e.Index, Code: e.Code, Message: e.Message})
	}
	if value == nil {
		return nil, &runnel.OperationsError{Segment: seg, Item: w.ItemKey, Failed: r.Failed}
	}
	return value, nil
}

func (f *fakeLog) group(seg runnel.Segment) (*fakeGroup, error) {
	if f.failing != nil {
		return nil, f.failing
	}
	if s := f.spaces[seg.In()]; s != nil && s.groups[seg.Name] != nil {
		return s.groups[seg.Name], nil
	}
	return nil, &runnel.NotFoundError{Segment: seg}
}

func (f *fakeLog) Item(_ context.Context, seg runnel.Segment, key runnel.ItemKey) (runnel.Item, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	g, err := f.group(seg)
	if err != nil {
		return runnel.Item{}, err
	}
	it, ok := g.items[key.Key]
	if !ok {
		return it, &runnel.ItemNotFoundError{Segment: seg, Item: key}
	}
	return it, nil
}

func (g *fakeGroup) view(q runnel.ItemQuery) runnel.ItemView {
	v := runnel.ItemView{Info: g.info, Lead: g.lead}
	for _, key := range slices.Sorted(maps.Keys(g.items)) {
		if key <= q.After && q.After != "" || !strings.HasPrefix(key, q.Prefix) {
			continue
		}
		if q.Limit > 0 && len(v.Items) == q.Limit {
			v.More, v.Next = true, v.Items[len(v.Items)-1].Key
			break
		}
		v.Items = append(v.Items, g.items[key])
	}
	return v
}

func (f *fakeLog) Items(_ context.Context, seg runnel.Segment, q runnel.ItemQuery) (runnel.ItemView, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	g, err := f.group(seg)
	if err != nil {
		return runnel.ItemView{}, err
	}
	return g.view(q), nil
}

func (f *fakeLog) SpaceItems(_ context.Context, space runnel.Space, prefix string, q runnel.ItemQuery) (runnel.SpaceItemView, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.space(space)
	view := runnel.SpaceItemView{Space: space, At: s.head}
	for _, name := range slices.Sorted(maps.Keys(s.groups)) {
		if strings.HasPrefix(name, prefix) {
			view.Groups = append(view.Groups, s.groups[name].view(q))
		}
	}
	return view, f.failing
}

func (f *fakeLog) TailItems(ctx context.Context, seg runnel.Segment, id uint64, after runnel.Sequence) iter.Seq2[runnel.ItemBatch, error] {
	f.mu.Lock()
	g, err := f.group(seg)
	f.mu.Unlock()
	if err == nil && g.info.ID != id {
		err = &runnel.NotFoundError{Segment: seg}
	}
	if err != nil {
		return func(yield func(runnel.ItemBatch, error) bool) { yield(runnel.ItemBatch{}, err) }
	}
	return f.tail(ctx, seg.In(), func(b *runnel.ItemBatch) bool { return b.Segment == seg && b.ID == id && b.Last > after })
}

func (f *fakeLog) TailSpaceItems(ctx context.Context, space runnel.Space, prefix string, after runnel.Position) iter.Seq2[runnel.ItemBatch, error] {
	return f.tail(ctx, space, func(b *runnel.ItemBatch) bool {
		return b.LastPosition > after && strings.HasPrefix(b.Segment.Name, prefix)
	})
}

func (f *fakeLog) FollowItems(ctx context.Context, place runnel.CursorName, prefix string, after runnel.Position) iter.Seq2[runnel.ItemBatch, error] {
	if _, err := f.Cursor(ctx, place); err != nil {
		return func(yield func(runnel.ItemBatch, error) bool) { yield(runnel.ItemBatch{}, err) }
	}
	return f.TailSpaceItems(ctx, place.Space, prefix, after)
}

func (f *fakeLog) tail(ctx context.Context, space runnel.Space, wanted func(*runnel.ItemBatch) bool) iter.Seq2[runnel.ItemBatch, error] {
	return func(yield func(runnel.ItemBatch, error) bool) {
		for next := 0; ; {
			f.mu.Lock()
			log, moved := f.space(space).log, f.moved
			f.mu.Unlock()
			for ; next < len(log); next++ {
				if wanted(&log[next]) && !yield(log[next], nil) {
					return
				}
			}
			select {
			case <-ctx.Done():
				yield(runnel.ItemBatch{}, ctx.Err())
				return
			case <-moved:
			}
		}
	}
}

func (f *fakeLog) ItemGroups(_ context.Context, space runnel.Space, prefix, after string) iter.Seq2[runnel.Info, error] {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []runnel.Info
	for name, g := range f.space(space).groups {
		if strings.HasPrefix(name, prefix) && name > after {
			all = append(all, g.info)
		}
	}
	slices.SortFunc(all, func(a, b runnel.Info) int { return cmp.Compare(a.Segment.Name, b.Segment.Name) })
	return pairs(all)
}

func (f *fakeLog) ItemSpaces(_ context.Context, _ runnel.Store, prefix, after string) iter.Seq2[runnel.Space, error] {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []runnel.Space
	for space, s := range f.spaces {
		if strings.HasPrefix(space.Name, prefix) && space.Name > after && len(s.groups) > 0 {
			all = append(all, space)
		}
	}
	slices.SortFunc(all, func(a, b runnel.Space) int { return cmp.Compare(a.Name, b.Name) })
	return pairs(all)
}

func pairs[T any](all []T) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		for _, one := range all {
			if !yield(one, nil) {
				return
			}
		}
	}
}

func (f *fakeLog) StatSpace(_ context.Context, space runnel.Space) (runnel.SpaceInfo, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return runnel.SpaceInfo{Space: space, Head: f.space(space).head}, nil
}

func (f *fakeLog) Delete(_ context.Context, seg runnel.Segment) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	g, err := f.group(seg)
	if err != nil {
		return err
	}
	f.spaces[seg.In()].delete(g)
	f.wake()
	return nil
}

func (s *fakeSpace) delete(g *fakeGroup) {
	delete(s.groups, g.info.Segment.Name)
	s.head++
	next := g.info.Tail + 1
	s.stamp = runnel.ItemStamp(runnel.ItemLead(g.lead, next, time.Now().UnixMicro()), next)
	s.log = append(s.log, runnel.ItemBatch{Segment: g.info.Segment, ID: g.info.ID, LastPosition: s.head, Deleted: true, Stamp: s.stamp})
}

func (f *fakeLog) CompactItems(_ context.Context, seg runnel.Segment) (runnel.Info, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	g, err := f.group(seg)
	if err != nil {
		return runnel.Info{}, err
	}
	info := g.info
	info.Earliest = info.Tail - 1
	return info, nil
}

func (f *fakeLog) DeleteItemSpace(_ context.Context, space runnel.Space) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.space(space)
	n := len(s.groups)
	for _, g := range s.groups {
		s.delete(g)
	}
	f.wake()
	return n, nil
}

func (f *fakeLog) SendItem(_ context.Context, e runnel.ItemEvent) error {
	if err := e.Validate(); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if g, err := f.group(e.Segment); err == nil {
		e.ID, e.Tail = g.info.ID, g.info.Tail
	}
	for _, l := range f.listeners {
		if l.ended() == nil && l.space == e.Segment.In() {
			l.heard(e)
		}
	}
	return nil
}

func (f *fakeLog) HearItemEvents(ctx context.Context, space runnel.Space, heard func(runnel.ItemEvent)) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.listeners = append(f.listeners, fakeListener{ctx.Err, space, heard})
	return nil
}

func (f *fakeLog) Cursor(_ context.Context, name runnel.CursorName) (runnel.Cursor, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	place, ok := f.cursors[name]
	if !ok {
		return runnel.Cursor{}, &runnel.CursorNotFoundError{Cursor: name}
	}
	return runnel.Cursor{CursorName: name, Place: place}, nil
}

func (f *fakeLog) Transact(_ context.Context, space runnel.Space, t runnel.Transaction) (runnel.Committed, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, fence := range t.Fences {
		if _, err := f.fenced(space, fence); err != nil {
			return runnel.Committed{}, err
		}
	}
	for _, move := range t.Cursors {
		name := runnel.CursorName{Space: space, Segment: move.Segment, Name: move.Name}
		if place := f.cursors[name]; move.Expect != nil && place != *move.Expect {
			return runnel.Committed{}, &runnel.CursorMovedError{Cursor: name, Want: *move.Expect, Place: place}
		}
	}
	if len(t.Items) > 0 {
		if _, err := f.writeItems(space, t.Items...); err != nil {
			return runnel.Committed{}, err
		}
	}
	for _, move := range t.Cursors {
		f.cursors[runnel.CursorName{Space: space, Segment: move.Segment, Name: move.Name}] = move.Place
	}
	return runnel.Committed{}, nil
}

func (f *fakeLog) fenced(space runnel.Space, fence runnel.Fence) (runnel.Lease, error) {
	lease := f.leases[leaseName{space, fence.Key}]
	if lease.Number != fence.Number || !time.Now().Before(lease.Deadline) {
		return lease, &runnel.LeaseLostError{Key: fence.Key, Number: fence.Number, Current: lease.Number}
	}
	return lease, nil
}

func (f *fakeLog) AcquireLease(ctx context.Context, space runnel.Space, q runnel.LeaseRequest) (runnel.Lease, error) {
	for {
		f.mu.Lock()
		held := f.leases[leaseName{space, q.Key}]
		left := time.Until(held.Deadline)
		if left <= 0 || held.Holder == q.Holder {
			f.fences++
			lease := runnel.Lease{Space: space, Key: q.Key, Holder: q.Holder, Number: f.fences, TTL: q.TTL, Deadline: time.Now().Add(q.TTL)}
			f.leases[leaseName{space, q.Key}] = lease
			f.mu.Unlock()
			return lease, nil
		}
		moved := f.moved
		f.mu.Unlock()
		select {
		case <-ctx.Done():
			return runnel.Lease{}, ctx.Err()
		case <-moved:
		case <-time.After(left):
		}
	}
}

func (f *fakeLog) RenewLease(_ context.Context, space runnel.Space, fence runnel.Fence) (runnel.Lease, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	lease, err := f.fenced(space, fence)
	if err == nil {
		lease.Deadline = time.Now().Add(lease.TTL)
		f.leases[leaseName{space, fence.Key}] = lease
	}
	return lease, err
}

func (f *fakeLog) ReleaseLease(_ context.Context, space runnel.Space, fence runnel.Fence) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, err := f.fenced(space, fence)
	if err == nil {
		delete(f.leases, leaseName{space, fence.Key})
		f.wake()
	}
	return err
}

func (f *fakeLog) Leases(_ context.Context, space runnel.Space, prefix, _ string) iter.Seq2[runnel.Lease, error] {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []runnel.Lease
	for name, lease := range f.leases {
		if name.space == space && strings.HasPrefix(name.key, prefix) && time.Now().Before(lease.Deadline) {
			all = append(all, lease)
		}
	}
	return pairs(all)
}
