package items

import (
	"context"
	"encoding/json"
	"sync"
	"time"

	"github.com/runnelhq/runnel"
)

const (
	// joinsLease begins the names of the leases of processes that have open joins.
	joinsLease = "joins/"
	// healPage is how many open joins are looked at, and deleted, at a time.
	healPage = 200
)

// Run keeps the lease under which joins are stored, and tells leaves, until ctx ends.
func (h *Hooks) Run(ctx context.Context) error {
	var running sync.WaitGroup
	defer running.Wait()
	for i := range h.hooks {
		if k := &h.hooks[i]; k.Leave != nil {
			running.Go(func() { _ = h.leaves(k).Run(ctx, h.log) }) // it is valid, so it ends with ctx
		}
	}
	if !h.paired {
		<-ctx.Done()
	}
	for ctx.Err() == nil {
		if err := h.serve(ctx); ctx.Err() == nil {
			h.cfg.Logger.Warn("subscriptions are refused until joins can be stored again", "err", err)
			pause(ctx, time.Second)
		}
	}
	return ctx.Err()
}

// serve holds the lease of the process for as long as it can.
func (h *Hooks) serve(ctx context.Context) error {
	lease, err := h.log.AcquireLease(ctx, joinsSpace(), runnel.LeaseRequest{Key: joinsLease + h.cfg.Holder, Holder: h.cfg.Holder, TTL: ownLease, Wait: true})
	if err != nil {
		return err
	}
	h.mu.Lock()
	h.fence = lease.Fence()
	close(h.held)
	h.mu.Unlock()
	working, stop := context.WithCancel(ctx)
	var healing sync.WaitGroup
	healing.Go(func() { h.healAll(working) })
	err = hold(ctx, h.log, lease)
	stop()
	healing.Wait()
	h.mu.Lock()
	h.held = make(chan struct{})
	lost := ctx.Err() == nil
	if lost {
		clear(h.open) // others tell these leaves
		h.due = nil
	}
	h.mu.Unlock()
	if lost {
		h.cfg.Lost()
	} else {
		release(ctx, h.log, lease)
	}
	return err
}

// healAll ends joins of processes that are gone, now and again, and of this one that could not be ended.
func (h *Hooks) healAll(ctx context.Context) {
	for {
		if err := h.heal(ctx); err != nil && ctx.Err() == nil {
			h.cfg.Logger.Warn("open joins of other processes are looked at again later", "err", err)
		}
		for range ownLease / time.Second {
			if !pause(ctx, time.Second) {
				return
			}
			h.mu.Lock()
			due := h.due
			h.due = nil
			h.mu.Unlock()
			h.end(ctx, due, "")
		}
	}
}

// heal deletes the items of joins whose process has no lease any more.
func (h *Hooks) heal(ctx context.Context) error {
	for info, err := range h.log.ItemGroups(ctx, joinsSpace(), "", "") {
		if err != nil {
			return err
		}
		if err := h.healGroup(ctx, info.Segment); err != nil {
			return err
		}
	}
	return nil
}

func (h *Hooks) healGroup(ctx context.Context, group runnel.Segment) error {
	for page := (runnel.ItemQuery{Limit: healPage}); ; {
		// First the items, then the leases: whoever stored one of them had its lease before.
		view, err := h.log.Items(ctx, group, page)
		if err != nil {
			return err
		}
		held := make(map[string]uint64)
		for lease, err := range h.log.Leases(ctx, joinsSpace(), joinsLease, "") {
			if err != nil {
				return err
			}
			held[lease.Holder] = lease.Number
		}
		var orphans []runnel.ItemWrite
		for i := range view.Items {
			it := &view.Items[i]
			var join openJoin
			if err := json.Unmarshal(it.Value, &join); err != nil || held[join.Owner] != join.Number {
				orphans = append(orphans, runnel.ItemWrite{ItemKey: it.ItemKey})
			}
		}
		if len(orphans) > 0 {
			if err := h.delete(ctx, group.Name, "", orphans...); err != nil {
				return err
			}
			h.cfg.Logger.Info("subscriptions of a server that is gone have ended", "hook", group.Name, "subscriptions", len(orphans))
		}
		if page.After = view.Next; !view.More {
			return nil
		}
	}
}
