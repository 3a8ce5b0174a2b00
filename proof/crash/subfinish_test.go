package crash

import (
	"encoding/json"
	"errors"
	"time"

	"github.com/runnelhq/runnel"
)

// readWakes reads the wake stream from its beginning, and tells how many wakes there are that the worker has not read, and
// the generation of the last one.
func (w *subWorld) readWakes() (unread int, last uint64) {
	info, err := w.log.Stat(w.ctx, w.wakeStream())
	w.check(subsKept, err == nil || errors.Is(err, runnel.ErrNotFound), "the wake stream: %v", err)
	if info.ID != w.wakes.id {
		w.check(subsKept, w.wakes.unclear, "the wake stream was %d, and is %d", w.wakes.id, info.ID)
		w.wakes.id, w.wakes.events = info.ID, 0
	}
	if w.wakes.unclear = false; info.ID == 0 {
		return 0, 0
	}
	v, err := w.log.Read(w.ctx, w.wakeStream(), 0, 0)
	must(err)
	n, again := 0, 0
	for b, err := range v.Batches {
		must(err)
		for i := range b.Len() {
			var e struct {
				Subscription string `json:"subscription_id"`
				Generation   uint64 `json:"generation"`
			}
			must(json.Unmarshal(b.Entry(i).Payload, &e))
			if n++; e.Generation <= last {
				again++
			}
			w.check(subsTold, e.Subscription == "pull" && again <= w.made, "the wake stream tells of generation %d of %s after %d, and the subscription was made again %d times", e.Generation, e.Subscription, last, w.made)
			last = e.Generation
		}
	}
	w.check(subsTold, n >= w.wakes.events, "a worker has read %d wakes, and there are %d", w.wakes.events, n)
	unread = n - w.wakes.events
	w.wakes.events = n
	return unread, last
}

// finish lets workers and receivers do all that they are told of, and checks that then nothing is left. A worker that
// starts asks once by itself; from then on it only acts upon a wake. So does one that finds the wake stream made again.
func (w *subWorld) finish() {
	w.catchUp()
	for _, id := range subIDs {
		if k := w.subs[id]; !k.there {
			w.made++
			sub, _, err := w.log.CreateSubscription(w.ctx, guestStore, id, subConfigs[id])
			must(err)
			w.forget(k, sub.Instance)
		}
	}
	w.subs["hook"].expect = nil
	must(w.log.ReplayDelivery(w.ctx, guestStore, "hook")) // it may be parked
	w.settle()
	if !w.idle() {
		w.cover.hit("subscriptions: work was left at the end")
	}
	_, _ = w.readWakes()
	if w.wakes.id != 0 && w.rand(1<<42).IntN(2) == 0 {
		w.workOff(true)
	} else {
		sub, err := w.log.Subscription(w.ctx, guestStore, "pull")
		must(err)
		if sub.WakeID != "" && sub.Holder == "" {
			w.cover.hit("subscriptions: a wake stream was made again while nobody had the wake")
		}
		w.remakeWakes()
	}
	const most = 120
	for range most {
		if w.idle() {
			break
		}
		w.pass(time.Second)
		w.receive()
		if unread, _ := w.readWakes(); unread > 0 {
			w.workOff(false)
		}
	}
	if !w.idle() {
		for _, id := range subIDs {
			sub, err := w.log.Subscription(w.ctx, guestStore, id)
			w.note("%+v, %v; to be delivered: %+v", sub, err, w.pending[id])
		}
	}
	w.check(subsWoken, w.idle(), "nobody is told of work that there is: %+v", w.left())
	w.verify()
}

// workOff claims for as long as it is given something.
func (w *subWorld) workOff(starting bool) {
	k := w.subs["pull"]
	for {
		w.settle()
		durable := w.durable()
		wake, err := w.log.ClaimWake(w.ctx, guestStore, "pull", "last")
		if !w.claimed(k, durable, &wake, err) {
			return
		}
		var acks []runnel.WakeAck
		for _, l := range wake.Streams {
			acks = append(acks, runnel.WakeAck{Path: l.Path, Acked: l.Tail})
		}
		w.attempt(k, acks)
		_, err = w.log.AckWake(w.ctx, wake.WakeRef, acks, true)
		must(err)
		w.acknowledged(k, wake.Instance, acks, done)
		k.end(wake.WakeRef)
		if !starting {
			return // the next one is told of
		}
	}
}

// receive delivers the webhooks whose time has come.
func (w *subWorld) receive() {
	k := w.subs["hook"]
	w.mu.Lock()
	p, ok := w.pending["hook"]
	if ok = ok && !w.now().at.Before(p.Due); ok {
		delete(w.pending, "hook")
	}
	w.mu.Unlock()
	if !ok {
		return
	}
	d, err := w.log.ClaimDelivery(w.ctx, guestStore, "hook", w.now().at.Add(time.Second))
	if w.fateOf("take the webhook", err, runnel.ErrFenced) != done {
		return
	}
	w.generation(k, d.Instance, d.Generation)
	w.see(k, d.Streams)
	var acks []runnel.WakeAck
	for _, l := range d.Streams {
		acks = append(acks, runnel.WakeAck{Path: l.Path, Acked: l.Tail})
	}
	w.attempt(k, acks)
	must(w.log.SettleDelivery(w.ctx, d, runnel.WebhookOutcome{Result: runnel.WebhookDone, Status: 200}))
	w.acknowledged(k, d.Instance, acks, done)
	w.settle()
}

// left is the work that there is.
func (w *subWorld) left() map[string][]runnel.SubscriptionLink {
	all := make(map[string][]runnel.SubscriptionLink)
	for _, id := range subIDs {
		for l, err := range w.log.SubscriptionLinks(w.ctx, guestStore, id) {
			must(err)
			if l.Pending() {
				all[id] = append(all[id], l)
			}
		}
	}
	for _, s := range w.streams {
		if s.unclear {
			continue
		}
		for _, id := range subIDs {
			if k := w.subs[id]; k.waits(s.path) && k.acked[s.path] != nil && k.acked[s.path].floor < s.tail {
				all[id] = append(all[id], runnel.SubscriptionLink{Path: s.path, Acked: k.acked[s.path].floor, Tail: s.tail})
			}
		}
	}
	return all
}

func (w *subWorld) idle() bool { return len(w.left()) == 0 }
