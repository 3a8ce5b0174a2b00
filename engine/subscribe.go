package engine

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/record"
)

// CreateSubscription makes a subscription, or finds that there is one of the same configuration. It
// returns when it is durable and every stream that was there before is linked at its tail; what is
// appended from then on wakes. It fails with a *runnel.SubscriptionExistsError, ErrSubscriptionLimit, ErrInvalid
// or ErrTooLarge.
func (e *Engine) CreateSubscription(ctx context.Context, store runnel.Store, id string, config runnel.SubscriptionConfig) (_ runnel.Subscription, existed bool, err error) {
	if err := checkText("subscription id", id, runnel.MaxSubscriptionBytes); err != nil {
		return runnel.Subscription{}, false, err
	}
	config, err = checkSubscription(store, config)
	if err != nil {
		return runnel.Subscription{}, false, err
	}
	if got, most := subscriptionBytes(&config), e.maxSubscriptionBytes(); got > most {
		return runnel.Subscription{}, false, &runnel.TooLargeError{What: "subscription with its streams", Limit: int64(most), Got: int64(got)}
	}
	ss := e.subscriptions.of(store)
	var row record.Subscription
	key := subscriptionKey(id)
	err = again(func() error {
		sp, err := e.enter(ctx, controlOf(store))
		if err != nil {
			return err
		}
		defer sp.leave()
		if _, err := e.subscriber(ctx, store, id); err != nil && !errors.Is(err, runnel.ErrNotFound) {
			return err
		}
		if err := sp.loadRow(ctx, key); err != nil {
			return err
		}
		return sp.write(context.WithoutCancel(ctx), subscriptionBytes(&config), subscriptionOps, func(t *tx) error {
			r := t.row(key)
			if r == nil {
				return errRetry
			}
			t.dependOnRow(r)
			if r.value != nil {
				existed = true
				if row, err = record.DecodeSubscription(r.value); err != nil {
					return err
				}
				if !sameSubscription(&row.Config, &config) {
					return &runnel.SubscriptionExistsError{ID: id}
				}
				return nil
			}
			if most := e.cfg.MaxSubscriptions; ss.count.Load() >= int64(most) {
				return &runnel.SubscriptionLimitError{Limit: most}
			}
			if err := t.grow(); err != nil {
				return err
			}
			var instance [8]byte
			_, _ = rand.Read(instance[:]) // which never fails
			row = record.Subscription{
				Instance: max(binary.BigEndian.Uint64(instance[:])>>1, 1), Config: config, Created: t.micros, Linking: true,
			}
			existed = false
			t.setRow(key, row.Append(nil))
			t.put([]byte{keyEpoch}, instance[:])
			return nil
		})
	})
	if err != nil {
		return runnel.Subscription{}, false, err
	}
	s := ss.get(id)
	if s == nil || s.instance != row.Instance {
		s = ss.addOnce(id, &row)
	}
	if row.Linking {
		if err := s.linkAll(ctx); err != nil {
			return runnel.Subscription{}, false, err
		}
	}
	return s.describe(&row), existed, nil
}

// addOnce makes the index know a subscription, unless somebody else has.
func (ss *subscribers) addOnce(id string, row *record.Subscription) *subscriber {
	ss.adding.Lock()
	defer ss.adding.Unlock()
	if s := ss.get(id); s != nil && s.instance == row.Instance {
		return s
	}
	return ss.add(id, row)
}

// checkSubscription returns the configuration in its one form, in which equal ones are the same.
func checkSubscription(store runnel.Store, c runnel.SubscriptionConfig) (runnel.SubscriptionConfig, error) {
	invalid := func(what, rule string) (runnel.SubscriptionConfig, error) {
		return c, &runnel.InvalidError{What: what, Rule: rule}
	}
	if c.LeaseTTL == 0 {
		c.LeaseTTL = runnel.DefaultWakeLease
	}
	c.Pattern = strings.Trim(c.Pattern, "/")
	switch {
	case c.Type != runnel.Webhook && c.Type != runnel.PullWake:
		return invalid("subscription type", fmt.Sprintf("must be %q or %q", runnel.Webhook, runnel.PullWake))
	case c.Pattern == "" && len(c.Streams) == 0:
		return invalid("subscription", "needs a pattern or streams")
	case c.LeaseTTL < runnel.MinWakeLease || c.LeaseTTL > runnel.MaxWakeLease:
		return invalid("lease", fmt.Sprintf("must be between %s and %s, not %s", runnel.MinWakeLease, runnel.MaxWakeLease, c.LeaseTTL))
	case c.Type == runnel.Webhook && c.WebhookURL == "":
		return invalid("webhook subscription", "needs a URL")
	case c.Type == runnel.PullWake && c.WakeStream == "":
		return invalid("pull-wake subscription", "needs a wake stream")
	case len(c.Streams) > runnel.MaxSubscriptionStreams:
		return invalid("streams", fmt.Sprintf("are %d, the limit is %d; more can be added", len(c.Streams), runnel.MaxSubscriptionStreams))
	}
	for _, part := range []struct {
		what, text string
		most       int
	}{
		{"pattern", c.Pattern, runnel.MaxPatternBytes}, {"description", c.Description, runnel.MaxDescriptionBytes},
		{"webhook URL", c.WebhookURL, runnel.MaxWebhookBytes},
	} {
		if part.text == "" {
			continue
		}
		if err := checkText(part.what, part.text, part.most); err != nil {
			return c, err
		}
	}
	if strings.Contains(c.Pattern, "//") {
		return invalid("pattern", "must not contain an empty element")
	}
	if c.Type == runnel.PullWake {
		c.WebhookURL, c.WakeStream = "", strings.Trim(c.WakeStream, "/")
		if _, err := runnel.ParsePath(store, c.WakeStream); err != nil {
			return c, err
		}
	} else {
		c.WakeStream = ""
	}
	streams, err := checkStreams(store, &c, c.Streams)
	c.Streams = streams
	return c, err
}

// checkStreams returns paths in their one form: without slashes around them, sorted, each once.
func checkStreams(store runnel.Store, c *runnel.SubscriptionConfig, paths []string) ([]string, error) {
	var all []string
	for _, path := range paths {
		path = strings.Trim(path, "/")
		if _, err := runnel.ParsePath(store, path); err != nil {
			return nil, err
		}
		if path == c.WakeStream {
			return nil, &runnel.InvalidError{What: "streams", Rule: "must not contain the wake stream: each wake would lead to another"}
		}
		all = append(all, path)
	}
	slices.Sort(all)
	return slices.Compact(all), nil
}

func sameSubscription(a, b *runnel.SubscriptionConfig) bool {
	return a.Type == b.Type && a.Pattern == b.Pattern && slices.Equal(a.Streams, b.Streams) && a.WebhookURL == b.WebhookURL &&
		a.WakeStream == b.WakeStream && a.LeaseTTL == b.LeaseTTL && a.Description == b.Description
}

// linkAll links the streams that are there at their tails. A crash in between leaves a row that says so,
// and it is done again, by whoever asks for the subscription next or after the restart.
func (s *subscriber) linkAll(ctx context.Context) error {
	if err := s.gate.enter(ctx); err != nil {
		return err
	}
	defer s.gate.leave()
	return s.linkHeld(ctx)
}

// linkHeld is linkAll under the gate.
func (s *subscriber) linkHeld(ctx context.Context) error {
	for _, path := range s.config.Streams {
		s.of.link(s, path)
	}
	// Whatever was staged before the index knew the subscription is durable then, and is seen below.
	if err := s.of.e.settleStore(ctx, s.of.store); err != nil {
		return err
	}
	if err := s.linkStreams(ctx, s.config.Streams, true); err != nil {
		return err
	}
	if err := s.linkPattern(ctx); err != nil {
		return err
	}
	err := s.change(ctx, nil, func(c *change) error {
		c.row.Linking = false
		c.save()
		return nil
	})
	if err == nil {
		s.linking.Store(false)
	}
	s.kick()
	return err
}

// finish brings the creation of a subscription to its end, if that was cut off. Before, it does not say where the
// subscription is on its streams.
func (s *subscriber) finish(ctx context.Context) error {
	if err := s.gate.enter(ctx); err != nil {
		return err
	}
	defer s.gate.leave()
	if !s.linking.Load() {
		return nil
	}
	linking := false
	err := s.change(ctx, nil, func(c *change) error {
		linking = c.row.Linking
		return nil
	})
	switch {
	case err != nil:
		return err
	case linking:
		return s.linkHeld(ctx)
	}
	s.linking.Store(false) // by way of another process
	return nil
}

// settleStore returns when what was staged in the spaces of a store is durable.
func (e *Engine) settleStore(ctx context.Context, store runnel.Store) error {
	e.mu.Lock()
	var spaces []*space
	for part, sp := range e.spaces {
		if part.Store == store {
			sp.users++
			spaces = append(spaces, sp)
		}
	}
	e.mu.Unlock()
	var err error
	for _, sp := range spaces {
		if err == nil {
			err = sp.barrier(ctx)
		}
		sp.unuse()
	}
	return err
}

// linkPage is how many streams are linked at once.
const linkPage = 256

// link stores the cursors of streams. One that is there stays where it is, also on a stream that has gone: until the
// next wake is given somebody may ack that.
func (s *subscriber) link(ctx context.Context, cursors []record.Cursor) error {
	for chunk := range slices.Chunk(cursors, min(linkPage, s.of.e.maxAcks())) {
		paths := make([]string, len(chunk))
		for i := range chunk {
			paths[i] = chunk[i].Path
		}
		err := s.change(ctx, paths, func(c *change) error {
			if err := c.t.grow(); err != nil {
				return err
			}
			for i := range chunk {
				have, err := c.cursor(chunk[i].Path)
				if err != nil {
					return err
				}
				next := chunk[i]
				next.Since = c.next()
				if have != nil && (have.Segment == next.Segment || !c.row.Linking) {
					next.Segment, next.Place, next.Since = have.Segment, have.Place, have.Since
					next.Explicit = next.Explicit || have.Explicit
					next.Glob = next.Glob || have.Glob
				}
				c.setCursor(&next)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// linkStreams links streams by name, at their tails; those that the pattern links where they are, unless the subscription
// begins. It is called under the gate.
func (s *subscriber) linkStreams(ctx context.Context, paths []string, begins bool) error {
	cursors := make([]record.Cursor, 0, len(paths))
	for _, path := range paths {
		addr, err := runnel.ParsePath(s.of.store, path)
		if err != nil {
			return err
		}
		at, err := s.stand(ctx, addr)
		if err != nil {
			return err
		}
		if begins || !at.linked {
			at.cursor.Place = uint64(at.tail)
		}
		at.cursor.Explicit = true
		cursors = append(cursors, at.cursor)
	}
	return s.link(ctx, cursors)
}

// linkPattern links the streams there are that the pattern matches.
func (s *subscriber) linkPattern(ctx context.Context) error {
	if s.config.Pattern == "" {
		return nil
	}
	var cursors []record.Cursor
	for info, err := range s.of.e.List(ctx, s.of.store, runnel.ListOptions{Prefix: literalPrefix(s.config.Pattern)}) {
		if err != nil {
			return err
		}
		if path := info.Segment.Path(); linksGlob(&s.config, path) {
			cursors = append(cursors, record.Cursor{Path: path, Segment: info.ID, Place: uint64(info.Tail), Glob: true})
		}
		if len(cursors) >= linkPage {
			if err := s.link(ctx, cursors); err != nil {
				return err
			}
			cursors = cursors[:0]
		}
	}
	return s.link(ctx, cursors)
}

// literalPrefix is what all paths that a pattern matches begin with.
func literalPrefix(pattern string) string {
	elements := strings.Split(pattern, "/")
	i := slices.IndexFunc(elements, func(e string) bool { return e == "*" || e == "**" })
	if i < 0 {
		return pattern
	}
	before := strings.Join(elements[:i], "/")
	if i > 0 && elements[i] == "*" {
		before += "/" // ** may stand for nothing
	}
	return before
}

// describe returns what a row says.
func (s *subscriber) describe(row *record.Subscription) runnel.Subscription {
	at := func(micros int64) time.Time {
		if micros == 0 {
			return time.Time{}
		}
		return time.UnixMicro(micros).UTC()
	}
	sub := runnel.Subscription{
		Store: s.of.store, ID: s.id, Instance: row.Instance, SubscriptionConfig: row.Config, Created: at(row.Created),
		Generation: row.Generation, WakeID: row.WakeID, Holder: row.Holder, Deadline: at(row.Deadline),
		Failures: int(row.Failures), FailingSince: at(row.FailingSince), NextAttempt: at(row.NextAttempt),
		LastStatus: int(row.LastStatus), LastReason: row.LastReason, Parked: row.Parked,
	}
	sub.Streams = slices.Clone(row.Config.Streams)
	return sub
}

// Subscription returns a subscription. It fails with runnel.ErrNotFound.
func (e *Engine) Subscription(ctx context.Context, store runnel.Store, id string) (runnel.Subscription, error) {
	s, err := e.subscriber(ctx, store, id)
	if err != nil {
		return runnel.Subscription{}, err
	}
	return retry(func() (runnel.Subscription, error) {
		sp, err := e.enter(ctx, controlOf(store))
		if err != nil {
			return runnel.Subscription{}, err
		}
		defer sp.leave()
		value, err := sp.readRow(ctx, subscriptionKey(id))
		if err != nil {
			return runnel.Subscription{}, err
		}
		if value == nil {
			return runnel.Subscription{}, &runnel.SubscriptionNotFoundError{ID: id}
		}
		row, err := record.DecodeSubscription(value)
		return s.describe(&row), err
	})
}

// Subscriptions yields the subscriptions of a store, ordered by id, beginning behind the id after.
func (e *Engine) Subscriptions(ctx context.Context, store runnel.Store, after string) iter.Seq2[runnel.Subscription, error] {
	return func(yield func(runnel.Subscription, error) bool) {
		if _, err := e.subscriber(ctx, store, ""); err != nil && !errors.Is(err, runnel.ErrNotFound) {
			yield(runnel.Subscription{}, err)
			return
		}
		ss := e.subscriptions.of(store)
		ss.mu.Lock()
		ids := make([]string, 0, len(ss.byID))
		for id := range ss.byID {
			if id > after {
				ids = append(ids, id)
			}
		}
		ss.mu.Unlock()
		slices.Sort(ids)
		for _, id := range ids {
			sub, err := e.Subscription(ctx, store, id)
			if errors.Is(err, runnel.ErrNotFound) {
				continue
			}
			if !yield(sub, err) || err != nil {
				return
			}
		}
	}
}

// SubscriptionLinks yields the streams of a subscription, in no particular order. Nothing else is done to the
// subscription until it ends.
func (e *Engine) SubscriptionLinks(ctx context.Context, store runnel.Store, id string) iter.Seq2[runnel.SubscriptionLink, error] {
	return func(yield func(runnel.SubscriptionLink, error) bool) {
		s, err := e.subscriber(ctx, store, id)
		if err == nil {
			err = s.gate.enter(ctx)
		}
		if err != nil {
			yield(runnel.SubscriptionLink{}, err)
			return
		}
		defer s.gate.leave()
		listed := make(map[string]bool)
		for l, err := range s.links(ctx) {
			listed[l.Path] = true
			if !yield(l, err) || err != nil {
				return
			}
		}
		// A stream that has just come may have no link in storage yet.
		o, err := s.look(ctx, runnel.MaxWakeStreams, nil)
		if err != nil {
			yield(runnel.SubscriptionLink{}, err)
			return
		}
		for _, l := range o.pending {
			if !listed[l.Path] && !yield(l, nil) {
				return
			}
		}
	}
}

// links yields the streams that have a cursor. One of a stream that is gone, and that only the pattern links, is
// none, and is noted for bury. It is called under the gate.
func (s *subscriber) links(ctx context.Context) iter.Seq2[runnel.SubscriptionLink, error] {
	return func(yield func(runnel.SubscriptionLink, error) bool) {
		e := s.of.e
		r := segmentRange(keyCursor, s.instance)
		r.Limit = listPage
		for {
			var page []record.Cursor
			for pair, err := range e.driver.Scan(ctx, controlOf(s.of.store), r) {
				var row record.Cursor
				if err == nil {
					row, err = record.DecodeCursor(pair.Value)
				}
				if err != nil {
					yield(runnel.SubscriptionLink{}, storageError(err))
					return
				}
				page = append(page, row)
				r.From = append(slices.Clone(pair.Key), 0)
			}
			for i := range page {
				row := &page[i]
				addr, err := runnel.ParsePath(s.of.store, row.Path)
				var p place
				if err == nil {
					p, err = e.place(ctx, addr)
				}
				if err == nil && p.id == 0 && !row.Explicit {
					if len(s.dead) < maxDead {
						s.dead = append(s.dead, *row)
					}
					continue
				}
				l := runnel.SubscriptionLink{Path: row.Path, Explicit: row.Explicit, Acked: p.acked(row), Tail: p.tail}
				if !yield(l, err) || err != nil {
					return
				}
			}
			if len(page) < listPage {
				return
			}
		}
	}
}

// maxDead is how many cursors a subscription removes between two wakes.
const maxDead = 4096

// bury removes the cursors of streams that were found gone, or every wake would come by them for ever. While somebody
// may ack a wake that they were given, they tell which stream that was. It is called under the gate.
func (s *subscriber) bury(ctx context.Context) error {
	for most := s.of.e.maxAcks(); len(s.dead) > 0; {
		page := s.dead[:min(len(s.dead), most)]
		given := false
		err := s.change(ctx, pathsOf(page), func(c *change) error {
			if given = c.given(); given {
				return nil
			}
			for i := range page {
				have, err := c.cursor(page[i].Path)
				if err != nil {
					return err
				}
				if have != nil && have.Segment == page[i].Segment && !have.Explicit {
					c.t.setRow(subscriptionCursorKey(s.instance, page[i].Path), nil)
				}
			}
			return nil
		})
		if err != nil || given {
			return err
		}
		s.dead = s.dead[len(page):]
	}
	s.dead = nil
	return nil
}

// DeleteSubscription removes a subscription, and returns when that is durable: whoever holds a wake of it
// can do nothing with it any more. It fails with runnel.ErrNotFound.
func (e *Engine) DeleteSubscription(ctx context.Context, store runnel.Store, id string) error {
	s, err := e.subscriber(ctx, store, id)
	if err != nil {
		return err
	}
	if err := s.gate.enter(ctx); err != nil {
		return err
	}
	defer s.gate.leave()
	err = s.change(ctx, nil, func(c *change) error {
		c.t.setRow(subscriptionKey(id), nil)
		c.t.put(trashKey(s.instance), nil) // its cursors are left to the cleaner
		c.t.put([]byte{keyEpoch}, binary.BigEndian.AppendUint64(nil, s.instance^1<<63))
		return nil
	})
	if err != nil {
		return err
	}
	s.of.remove(s)
	e.cleaner.tidy(controlOf(store))
	return nil
}

// LinkStreams links streams to a subscription by name, at their tails. Those that are linked stay where
// they are. It fails with runnel.ErrNotFound or ErrInvalid.
func (e *Engine) LinkStreams(ctx context.Context, store runnel.Store, id string, paths []string) error {
	s, err := e.subscriber(ctx, store, id)
	if err != nil {
		return err
	}
	if len(paths) > runnel.MaxSubscriptionStreams {
		return &runnel.InvalidError{What: "streams", Rule: fmt.Sprintf("are %d, the limit is %d", len(paths), runnel.MaxSubscriptionStreams)}
	}
	if paths, err = checkStreams(store, &s.config, paths); err != nil {
		return err
	}
	if err := s.gate.enter(ctx); err != nil {
		return err
	}
	defer s.gate.leave()
	for _, path := range paths {
		s.of.link(s, path)
	}
	if err := e.settleStore(ctx, store); err != nil {
		return err
	}
	if err := s.linkStreams(ctx, paths, false); err != nil {
		return err
	}
	s.kick()
	return s.touch(ctx)
}

// touch tells other processes that the set of streams has changed.
func (s *subscriber) touch(ctx context.Context) error {
	if s.of.e.limits.Exclusive {
		return nil
	}
	return s.change(ctx, nil, func(c *change) error {
		var epoch [8]byte
		_, _ = rand.Read(epoch[:]) // which never fails
		c.t.put([]byte{keyEpoch}, epoch[:])
		return nil
	})
}

// UnlinkStream takes back that a stream is linked by name. What the pattern links stays. It fails with
// runnel.ErrNotFound if there is no such subscription.
func (e *Engine) UnlinkStream(ctx context.Context, store runnel.Store, id, path string) error {
	s, err := e.subscriber(ctx, store, id)
	if err != nil {
		return err
	}
	path = strings.Trim(path, "/")
	if _, err := runnel.ParsePath(store, path); err != nil {
		return err
	}
	if err := s.gate.enter(ctx); err != nil {
		return err
	}
	defer s.gate.leave()
	err = s.change(ctx, []string{path}, func(c *change) error {
		row, err := c.cursor(path)
		if err != nil || row == nil || !row.Explicit {
			return err
		}
		row.Explicit, row.Glob = false, linksGlob(&s.config, path)
		if row.Glob {
			c.setCursor(row)
		} else {
			c.t.setRow(subscriptionCursorKey(s.instance, path), nil)
		}
		return nil
	})
	if err != nil {
		return err
	}
	s.of.unlink(s, path)
	s.kick()
	return s.touch(ctx)
}
