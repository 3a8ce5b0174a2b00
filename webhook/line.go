package webhook

import (
	"container/list"
	"time"

	"github.com/runnelhq/runnel"
)

// hostKey and targetKey keep the stores apart: a tenant's hung receivers are no reason to delay another's.
type hostKey struct {
	store runnel.Store
	host  string
}

type targetKey struct {
	hostKey
	url string
}

// host counts what goes to one host and port.
type host struct {
	targets int       // that there are
	running int       // attempts that are not slow yet
	blocked list.List // of *target: those that wait for room
}

// target is one URL that is sent to.
type target struct {
	key     targetKey
	host    *host
	items   int       // that there are
	line    list.List // of *item: those whose time has come
	running int
	breaker breaker
	timer   timer         // for when the breaker admits one
	place   *list.Element // among the ready ones, or the blocked ones of the host
	blocked bool          // which of the two
}

// item is one subscription with a delivery to be made.
type item struct {
	key     Key
	url     string
	target  *target
	place   *list.Element // in the line of its target
	timer   timer
	running bool
	slow    bool
	again   *Pending // what was told of it while it ran
}

// lines is what the dispatcher knows of, and in which order it is done. Every item is in exactly one of three
// places: in line before its target, waiting for its time, or running. Targets with somebody in line take
// turns. It starts nothing and has no lock of its own.
type lines struct {
	cfg     Config
	items   map[Key]*item
	targets map[targetKey]*target
	hosts   map[hostKey]*host
	ready   list.List // of *target: those that may be admitted
	later   timers
	fast    int // attempts that are not slow yet
	slow    int
	full    bool // something was left in the outbox for lack of room
}

func newLines(cfg Config) lines {
	return lines{
		cfg:     cfg,
		items:   make(map[Key]*item),
		targets: make(map[targetKey]*target),
		hosts:   make(map[hostKey]*host),
	}
}

// offer takes a delivery into account.
func (l *lines) offer(p Pending, now time.Time) {
	it := l.items[p.Key]
	if it != nil && it.running {
		it.again = &p
		return
	}
	if it == nil && len(l.items) >= l.cfg.MaxWaiting {
		l.full = true
		late := l.later.late()
		if p.Due.After(now) || late == nil || late.running {
			return // it is durable where it is
		}
		l.drop(late) // so is that one, and its time has not come
	}
	if it == nil {
		it = &item{key: p.Key}
		it.timer.item = it
		l.items[p.Key] = it
	}
	l.put(it, p, now)
}

// put lets an item wait for its time, or in line, where it keeps a place that it has.
func (l *lines) put(it *item, p Pending, now time.Time) {
	if it.target == nil || it.url != p.URL {
		l.leave(it)
		l.join(it, p.URL)
	}
	if p.Due.After(now) {
		l.unline(it)
		l.later.set(&it.timer, p.Due)
		return
	}
	l.later.stop(&it.timer)
	l.enqueue(it)
}

func (l *lines) enqueue(it *item) {
	if it.place == nil {
		it.place = it.target.line.PushBack(it)
	}
	l.markReady(it.target)
}

func (l *lines) unline(it *item) {
	if it.place != nil {
		it.target.line.Remove(it.place)
		it.place = nil
	}
	if t := it.target; t.line.Len() == 0 && t.place != nil {
		turn := !t.blocked
		l.unready(t)
		if turn {
			l.unblock(t.host) // another one at the host takes it
		}
	}
}

func (l *lines) drop(it *item) {
	l.leave(it)
	delete(l.items, it.key)
}

// join makes an item one of its target.
func (l *lines) join(it *item, url string) {
	u, name := targetOf(url)
	key := targetKey{hostKey{it.key.Store, name}, u}
	t := l.targets[key]
	if t == nil {
		h := l.hosts[key.hostKey]
		if h == nil {
			h = new(host)
			l.hosts[key.hostKey] = h
		}
		h.targets++
		t = &target{key: key, host: h}
		t.timer.target = t
		l.targets[key] = t
	}
	t.items++
	it.target, it.url = t, url
}

// leave is the reverse of join. A target without items is forgotten.
func (l *lines) leave(it *item) {
	t := it.target
	if t == nil {
		return
	}
	l.unline(it)
	l.later.stop(&it.timer)
	it.target = nil
	if t.items--; t.items > 0 {
		return
	}
	l.unready(t)
	l.later.stop(&t.timer)
	delete(l.targets, t.key)
	if t.host.targets--; t.host.targets == 0 {
		delete(l.hosts, t.key.hostKey)
	} else {
		l.unblock(t.host)
	}
}

func (l *lines) markReady(t *target) {
	if t.place == nil && t.line.Len() > 0 {
		t.place, t.blocked = l.ready.PushBack(t), false
	}
}

func (l *lines) unready(t *target) {
	switch {
	case t.place == nil:
	case t.blocked:
		t.host.blocked.Remove(t.place)
	default:
		l.ready.Remove(t.place)
	}
	t.place = nil
}

// unblock lets the next target of a host have its turn, if the host has room.
func (l *lines) unblock(h *host) {
	if front := h.blocked.Front(); front != nil && h.running < l.cfg.MaxPerHost {
		t := front.Value.(*target) //nolint:errcheck // the list holds nothing else
		l.unready(t)
		l.markReady(t)
	}
}

// ring looks after what waited for its time.
func (l *lines) ring(now time.Time) {
	for tm := l.later.due(now); tm != nil; tm = l.later.due(now) {
		if tm.item != nil {
			l.enqueue(tm.item)
		} else {
			l.markReady(tm.target)
		}
	}
}

// take returns the next item to be attempted, or nil.
func (l *lines) take(now time.Time) *item {
	for l.fast < l.cfg.MaxInFlight && l.ready.Len() > 0 {
		t := l.ready.Front().Value.(*target) //nolint:errcheck // the list holds nothing else
		l.unready(t)
		if !t.breaker.admits(now, t.running, l.cfg.MaxPerTarget, l.cfg.OpenAfter) {
			if t.running == 0 {
				l.later.set(&t.timer, t.breaker.until)
			} // else it is ready again when one of those ends
			l.unblock(t.host)
			continue
		}
		if t.host.running >= l.cfg.MaxPerHost {
			t.place, t.blocked = t.host.blocked.PushBack(t), true
			continue
		}
		it := t.line.Front().Value.(*item) //nolint:errcheck // the list holds nothing else
		l.unline(it)
		it.running = true
		t.running++
		t.host.running++
		l.fast++
		l.markReady(t)
		l.unblock(t.host)
		return it
	}
	return nil
}

// slowDown counts an attempt as slow, if there is room for one more.
func (l *lines) slowDown(it *item) bool {
	if l.slow >= l.cfg.MaxSlow {
		return false
	}
	it.slow = true
	l.fast--
	l.slow++
	it.target.host.running--
	l.unblock(it.target.host)
	return true
}

// end takes an attempt back. What is to be done with its item afterwards, if anything, is next.
func (l *lines) end(it *item, next *Pending, now time.Time) {
	t := it.target
	it.running = false
	t.running--
	if it.slow {
		it.slow = false
		l.slow--
	} else {
		l.fast--
		t.host.running--
	}
	l.markReady(t)
	l.unblock(t.host)
	again := it.again
	it.again = nil
	switch {
	case next == nil && again == nil:
		l.drop(it)
	case next == nil || again != nil && again.Generation > next.Generation:
		l.put(it, *again, now)
	default:
		l.put(it, *next, now)
	}
}
