package engine

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/record"
	"github.com/runnelhq/runnel/storage"
)

// A subscription is a row of its store's control partition, whose name nobody can use, and so is its cursor on
// each stream. A claim, an ack or a release is one commit there, with its conditions.
//
// Which subscriptions a stream belongs to follows from its path, and an index in memory tells it at a
// cost that does not grow with the number of the others. An append to such a stream puts a mark on it in
// the same commit, unless one stands; the mark goes when all of them have worked on everything. So what
// is marked is all that a restart has to look at, and a stream that has work already costs an append
// nothing.

// keys of the control partition.
const (
	keySubscription = 'S' // id → record.Subscription
	keyLink         = 'L' // instance, digest of the path → a cursor in its first form, see record.DecodeLink
	keySecrets      = 'K' // → version, and bytes that are not looked into
	keyEpoch        = 'V' // → changed with the set of subscriptions
)

// keyMark is in the partition of a stream: id → nothing. Somebody may have work on the stream.
const keyMark = 'q'

func controlOf(store runnel.Store) storage.Partition {
	return storage.Partition{Store: store, Name: runnel.ReservedElement}
}

func subscriptionKey(id string) []byte { return append([]byte{keySubscription}, id...) }

// subscriptionCursorKey is the key of the cursor of a subscription on a stream. Paths are longer than keys may be.
func subscriptionCursorKey(instance uint64, path string) []byte {
	sum := sha256.Sum256([]byte(path))
	return cursorKey(instance, string(sum[:16]))
}

func markKey(id uint64) []byte { return segmentKey(nil, keyMark, id) }

// subscriptions are those of all stores.
type subscriptions struct {
	e      *Engine
	ctx    context.Context //nolint:containedctx // ends when the engine closes
	cancel context.CancelFunc
	slots  *semaphore.Weighted // how many subscriptions are looked after at a time
	ready  deliveries

	mu     sync.Mutex
	stores map[runnel.Store]*subscribers
}

// wakeSlots bounds how many subscriptions are looked after at the same time. Their commits join.
const wakeSlots = 256

func (s *subscriptions) start(e *Engine) {
	s.e = e
	s.ctx, s.cancel = context.WithCancel(e.ctx)
	s.slots = semaphore.NewWeighted(wakeSlots)
	s.stores = make(map[runnel.Store]*subscribers)
	s.ready.changed = make(chan struct{}, 1)
	if err := e.begin(); err == nil {
		go func() {
			defer e.operations.Done()
			s.recover(s.ctx)
		}()
	}
}

// stop ends what waits for a time: a timer would keep the engine, and its driver, in memory until then. The
// engine is closing, and so no timer is set any more.
func (s *subscriptions) stop() {
	s.cancel()
	s.mu.Lock()
	stores := slices.Collect(maps.Values(s.stores))
	s.mu.Unlock()
	for _, ss := range stores {
		ss.mu.Lock()
		subs := slices.Collect(maps.Values(ss.byID))
		ss.mu.Unlock()
		for _, sub := range subs {
			sub.mu.Lock()
			if sub.timer != nil {
				sub.timer.Stop()
			}
			sub.mu.Unlock()
		}
	}
}

// of returns what is known of a store's subscriptions, which may not be loaded.
func (s *subscriptions) of(store runnel.Store) *subscribers {
	s.mu.Lock()
	defer s.mu.Unlock()
	ss := s.stores[store]
	if ss == nil {
		ss = &subscribers{e: s.e, store: store, loading: newGate(), searching: newGate()}
		s.stores[store] = ss
	}
	return ss
}

// subscribers are the subscriptions of one store.
type subscribers struct {
	e     *Engine
	store runnel.Store

	loading gate
	loaded  atomic.Bool
	// found says that marks holds all that storage does.
	searching gate
	found     atomic.Bool
	count     atomic.Int64
	version   atomic.Uint64 // of the index
	epoch     []byte        // loading guards it

	adding sync.Mutex // one at a time makes the index know a subscription

	mu       sync.Mutex
	byID     map[string]*subscriber
	patterns patternNode
	explicit map[string][]*subscriber
	told     map[string][]*subscriber // by their wake stream
	marks    map[markID]*mark
}

type markID struct {
	space string
	id    uint64
}

// mark is a stream on which somebody may have work.
type mark struct {
	addr runnel.Segment
	id   uint64
	subs map[*subscriber]struct{} // who may have
}

// subscriber is a subscription in memory.
type subscriber struct {
	of       *subscribers
	id       string
	instance uint64
	config   runnel.SubscriptionConfig

	gate gate // held while it is changed
	// linking says that its creation may not have come to its end.
	linking atomic.Bool

	// of.mu guards these.
	pending map[*mark]struct{}
	streams map[string]struct{} // linked by name

	mu      sync.Mutex
	running bool
	again   bool
	resting bool // a wake is in flight, and everybody told of it
	gone    bool
	timer   *time.Timer

	// gate guards these.
	emitted   uint64          // the last generation that the wake stream was told of
	emittedIn uint64          // the id that the wake stream had then
	failures  int             // in a row, of telling it
	sought    uint64          // the last generation for which the marks of other processes were looked for
	dead      []record.Cursor // of streams that were found gone, and that only the pattern linked; at most maxDead
}

// load reads the subscriptions of the store, once.
func (ss *subscribers) load(ctx context.Context) error {
	if ss.loaded.Load() {
		return nil
	}
	if err := ss.loading.enter(ctx); err != nil {
		return err
	}
	defer ss.loading.leave()
	if ss.loaded.Load() {
		return nil
	}
	return ss.reload(ctx)
}

// current sees to it that memory has the subscriptions that storage holds.
func (ss *subscribers) current(ctx context.Context) error {
	if ss.e.limits.Exclusive {
		return ss.load(ctx)
	}
	return ss.refresh(ctx)
}

// refresh reads them again if another process has changed them.
func (ss *subscribers) refresh(ctx context.Context) error {
	if err := ss.loading.enter(ctx); err != nil {
		return err
	}
	defer ss.loading.leave()
	epoch, err := ss.e.driver.Get(ctx, controlOf(ss.store), []byte{keyEpoch})
	if err != nil && !errors.Is(err, storage.ErrKeyNotFound) {
		return storageError(err)
	}
	if ss.loaded.Load() && string(epoch) == string(ss.epoch) {
		return nil
	}
	ss.epoch = epoch
	return ss.reload(ctx)
}

func (ss *subscribers) reload(ctx context.Context) error {
	part := controlOf(ss.store)
	known := make(map[string]bool)
	links, err := ss.hasLinks(ctx)
	if err != nil {
		return err
	}
	for pair, err := range ss.e.driver.Scan(ctx, part, kindRange(keySubscription)) {
		if err != nil {
			return storageError(err)
		}
		id := string(pair.Key[1:])
		row, err := record.DecodeSubscription(pair.Value)
		if err != nil {
			return err
		}
		known[id] = true
		if s := ss.get(id); s != nil && s.instance == row.Instance {
			continue
		}
		if links {
			if err := ss.takeLinks(ctx, row.Instance); err != nil {
				return err
			}
		}
		s := ss.addOnce(id, &row)
		for pair, err := range ss.e.driver.Scan(ctx, part, segmentRange(keyCursor, row.Instance)) {
			if err != nil {
				return storageError(err)
			}
			c, err := record.DecodeCursor(pair.Value)
			if err != nil {
				return err
			}
			if c.Explicit {
				ss.link(s, c.Path)
			}
		}
	}
	ss.mu.Lock()
	var gone []*subscriber
	for id, s := range ss.byID {
		if !known[id] {
			gone = append(gone, s)
		}
	}
	ss.mu.Unlock()
	for _, s := range gone {
		ss.remove(s)
	}
	ss.loaded.Store(true)
	return nil
}

// all returns those that are in memory, by id.
func (ss *subscribers) all() []*subscriber {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	return slices.SortedFunc(maps.Values(ss.byID), func(a, b *subscriber) int { return strings.Compare(a.id, b.id) })
}

func (ss *subscribers) get(id string) *subscriber {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	return ss.byID[id]
}

// add makes the index know a subscription, in the place of one of the same id.
func (ss *subscribers) add(id string, row *record.Subscription) *subscriber {
	s := &subscriber{
		of: ss, id: id, instance: row.Instance, config: row.Config, gate: newGate(),
		pending: make(map[*mark]struct{}), streams: make(map[string]struct{}),
	}
	s.linking.Store(row.Linking)
	if old := ss.get(id); old != nil {
		ss.remove(old)
	}
	ss.mu.Lock()
	defer ss.mu.Unlock()
	if ss.byID == nil {
		ss.byID = make(map[string]*subscriber)
		ss.explicit = make(map[string][]*subscriber)
		ss.told = make(map[string][]*subscriber)
		ss.marks = make(map[markID]*mark)
	}
	ss.byID[id] = s
	if p := row.Config.Pattern; p != "" {
		ss.patterns.add(strings.Split(p, "/"), s)
	}
	if path := row.Config.WakeStream; path != "" {
		ss.told[path] = append(ss.told[path], s)
	}
	ss.count.Add(1)
	ss.version.Add(1)
	return s
}

// remove makes the index forget it.
func (ss *subscribers) remove(s *subscriber) {
	s.mu.Lock()
	s.gone = true
	if s.timer != nil {
		s.timer.Stop()
	}
	s.mu.Unlock()
	ss.mu.Lock()
	defer ss.mu.Unlock()
	if ss.byID[s.id] != s {
		return
	}
	delete(ss.byID, s.id)
	ss.e.subscriptions.ready.drop(ss.store, s.id)
	if p := s.config.Pattern; p != "" {
		ss.patterns.remove(strings.Split(p, "/"), s)
	}
	if path := s.config.WakeStream; path != "" {
		without(ss.told, path, s)
	}
	for path := range s.streams {
		without(ss.explicit, path, s)
	}
	for m := range s.pending {
		delete(m.subs, s)
	}
	s.pending = nil
	ss.count.Add(-1)
	ss.version.Add(1)
}

// link makes the index know a stream that is linked by name.
func (ss *subscribers) link(s *subscriber, path string) {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	if _, known := s.streams[path]; known || ss.byID[s.id] != s {
		return
	}
	s.streams[path] = struct{}{}
	ss.explicit[path] = append(ss.explicit[path], s)
	ss.version.Add(1)
}

func (ss *subscribers) unlink(s *subscriber, path string) {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	if _, known := s.streams[path]; !known {
		return
	}
	delete(s.streams, path)
	without(ss.explicit, path, s)
	ss.version.Add(1)
}

// without takes a subscription from those of a path.
func without(by map[string][]*subscriber, path string, s *subscriber) {
	left := slices.DeleteFunc(by[path], func(other *subscriber) bool { return other == s })
	if len(left) == 0 {
		delete(by, path)
	} else {
		by[path] = left
	}
}

// toldIn returns the subscriptions whose wakes are told in a stream.
func (ss *subscribers) toldIn(path string) []*subscriber {
	if ss.count.Load() == 0 {
		return nil
	}
	ss.mu.Lock()
	defer ss.mu.Unlock()
	return slices.Clone(ss.told[path])
}

// match returns the subscriptions that a stream belongs to, and the version of the index that says so.
func (ss *subscribers) match(path string) ([]*subscriber, uint64) {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	found := slices.Clone(ss.explicit[path])
	ss.patterns.match(path, func(s *subscriber) {
		if s.config.WakeStream != path && !slices.Contains(found, s) {
			found = append(found, s)
		}
	})
	return found, ss.version.Load()
}

// linksGlob tells whether the pattern of a subscription links a stream. Its own wake stream is never
// linked so: each wake would lead to another.
func linksGlob(c *runnel.SubscriptionConfig, path string) bool {
	return c.Pattern != "" && path != c.WakeStream && runnel.MatchPattern(c.Pattern, path)
}

// note says that subscriptions may have work on a stream, and returns those that it was not said of yet; all
// of them if whoever was to be told may not have been.
func (ss *subscribers) note(addr runnel.Segment, id uint64, subs []*subscriber, all bool) []*subscriber {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	key := markID{addr.Space, id}
	m := ss.marks[key]
	if m == nil {
		if ss.marks == nil {
			ss.marks = make(map[markID]*mark)
		}
		m = &mark{addr: addr, id: id, subs: make(map[*subscriber]struct{}, len(subs))}
		ss.marks[key] = m
	}
	var told []*subscriber
	for _, s := range subs {
		if _, known := m.subs[s]; (all || !known) && s.pending != nil {
			m.subs[s] = struct{}{}
			s.pending[m] = struct{}{}
			told = append(told, s)
		}
	}
	return told
}

// marked is what an incarnation of a segment knows of who waits for it. sp.mu guards it.
type marked struct {
	version uint64 // of the index that subs is from
	known   bool
	subs    []*subscriber
	stands  bool // there is a mark in storage, or in a batch before that of any later one
	noted   bool // all of subs may have work, as far as they know
}

// mark stages that there is work on a segment, if somebody waits for it who does not know.
func (t *tx) mark(seg *segment) {
	ss := t.sp.subs
	if ss.count.Load() == 0 {
		return // a subscription that comes later waits for what is staged here before it links streams at their tails
	}
	inc := seg.staged.inc
	m := &inc.marked
	fresh := !m.known // what an earlier one in memory has staged may have failed, and nobody was kicked
	if version := ss.version.Load(); !m.known || m.version != version {
		m.subs, m.version = ss.match(seg.addr().Path())
		m.known, m.noted = true, false
	}
	if len(m.subs) == 0 || m.stands && m.noted {
		return
	}
	if !m.stands {
		t.put(markKey(inc.id), nil)
		m.stands = true
	}
	m.noted = true
	t.b.kicks = append(t.b.kicks, ss.note(seg.addr(), inc.id, m.subs, fresh)...)
}

// markBytes is what a mark takes in a batch.
const markBytes = rowBytes

// recover finds the work that was left, or that other processes have left.
func (s *subscriptions) recover(ctx context.Context) {
	for {
		err := s.search(ctx)
		if ctx.Err() != nil || errors.Is(err, runnel.ErrShutdown) || errors.Is(err, runnel.ErrFailed) {
			return
		}
		if err == nil && s.e.limits.Exclusive {
			return
		}
		pause := time.Second
		if err == nil {
			pause = max(s.e.cfg.SweepInterval, time.Second)
		} else {
			s.e.cfg.Logger.Warn("subscriptions could not be looked after; it will be tried again", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

func (s *subscriptions) search(ctx context.Context) error {
	for store, err := range s.e.driver.Stores(ctx) {
		if err != nil {
			return storageError(err)
		}
		if err := s.of(store).search(ctx, false); err != nil {
			return err
		}
	}
	return nil
}

// search finds the marks of the store's streams. Once is enough for who only needs to know those that were
// left before.
func (ss *subscribers) search(ctx context.Context, once bool) error {
	if once && ss.found.Load() {
		return nil
	}
	if err := ss.searching.enter(ctx); err != nil {
		return err
	}
	defer ss.searching.leave()
	if ss.found.Load() && (once || ss.e.limits.Exclusive) {
		return nil
	}
	if err := ss.current(ctx); err != nil || ss.count.Load() == 0 {
		return err
	}
	if err := ss.find(ctx); err != nil {
		return err
	}
	ss.mu.Lock()
	ss.found.Store(true)
	ss.mu.Unlock()
	for _, sub := range ss.all() {
		sub.kick()
	}
	return nil
}

// find brings the marks that storage has into memory.
func (ss *subscribers) find(ctx context.Context) error {
	e := ss.e
	for part, err := range e.driver.Partitions(ctx, ss.store, "") {
		if err != nil {
			return storageError(err)
		}
		for pair, err := range e.driver.Scan(ctx, part, kindRange(keyMark)) {
			if err != nil {
				return storageError(err)
			}
			id := idOfKey(pair.Key)
			name, err := e.driver.Get(ctx, part, nameKey(id))
			if errors.Is(err, storage.ErrKeyNotFound) {
				continue // deleted; the cleaner takes the mark away
			}
			if err != nil {
				return storageError(err)
			}
			addr := part.Segment(string(name))
			subs, _ := ss.match(addr.Path())
			ss.note(addr, id, subs, true)
		}
	}
	return nil
}

// patternNode is a node of the tree of all patterns, by their elements.
type patternNode struct {
	next map[string]*patternNode
	ends []*subscriber
}

func (n *patternNode) add(elements []string, s *subscriber) {
	if len(elements) == 0 {
		n.ends = append(n.ends, s)
		return
	}
	if n.next == nil {
		n.next = make(map[string]*patternNode)
	}
	child := n.next[elements[0]]
	if child == nil {
		child = new(patternNode)
		n.next[elements[0]] = child
	}
	child.add(elements[1:], s)
}

func (n *patternNode) remove(elements []string, s *subscriber) {
	if len(elements) == 0 {
		n.ends = slices.DeleteFunc(n.ends, func(other *subscriber) bool { return other == s })
		return
	}
	child := n.next[elements[0]]
	if child == nil {
		return
	}
	child.remove(elements[1:], s)
	if len(child.next) == 0 && len(child.ends) == 0 {
		delete(n.next, elements[0])
	}
}

// match yields whose patterns match a path; the same one may come more than once. All nodes that a prefix
// of the path can lead to are followed at the same time, so that no pattern makes it slow.
func (n *patternNode) match(path string, yield func(*subscriber)) {
	type stand struct {
		node *patternNode
		deep bool // behind a **, which takes any number of elements more
	}
	var at []stand
	seen := make(map[stand]bool)
	enter := func(node *patternNode, deep bool) {
		for {
			if s := (stand{node, deep}); !seen[s] {
				seen[s] = true
				at = append(at, s)
			}
			more := node.next["**"]
			if more == nil {
				return
			}
			node, deep = more, true
		}
	}
	enter(n, false)
	for element := range strings.SplitSeq(path, "/") {
		before := at
		at = nil
		clear(seen)
		for _, s := range before {
			if s.deep {
				enter(s.node, true)
			}
			if child := s.node.next[element]; child != nil && element != "*" && element != "**" {
				enter(child, false)
			}
			if child := s.node.next["*"]; child != nil {
				enter(child, false)
			}
		}
	}
	for _, s := range at {
		for _, sub := range s.node.ends {
			yield(sub)
		}
	}
}

// version of a row of secrets, and the rest of it.
func splitSecrets(value []byte) (uint64, []byte) {
	if len(value) < 8 {
		return 0, nil
	}
	return binary.BigEndian.Uint64(value), value[8:]
}
