package delivery

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/durablestreams/dsclient"
	"github.com/runnelhq/runnel/wire"
)

func (rd *reader) client() *dsclient.Client {
	return &dsclient.Client{
		Base: root, HTTP: rd.http, Header: http.Header{headerMark: {rd.name}},
		Backoff: dsclient.Backoff{First: 4 * time.Millisecond, Most: 20 * time.Millisecond},
	}
}

// sdkTail follows with the tail of the Go SDK, which it leaves now and then.
func sdkTail(rd *reader, poll bool) func(context.Context) error {
	client := rd.client()
	return func(ctx context.Context) error {
		if rd.at == unknown {
			return rd.once(ctx, "")
		}
		leave := 1 + rd.r.IntN(60)
		if rd.stream.config.mortal {
			leave = -1 // an offset alone does not say of which life it is
		}
		a := rd.begin()
		o := dsclient.TailOptions{LongPoll: poll, IdleTimeout: 3 * time.Minute}
		o.Retrying = func(err error, wait time.Duration) { rd.note("the SDK waits for %v after %v", wait, err) }
		if !poll {
			o.IdleTimeout = 10 * time.Second // there are heartbeats
		}
		for b, err := range client.Tail(ctx, rd.stream.name, dsclient.Offset(rd.token), o) {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err != nil {
				if errors.Is(err, runnel.ErrNotFound) {
					rd.run.cover.hit("the SDK's tail was told that the stream is gone")
				}
				return a.refused(err)
			}
			s := scanner{kind: rd.stream.kind}
			if err := s.feed(b.Data, a.entry); err != nil {
				return torn(err)
			}
			if err := s.end(); err != nil {
				return torn(err)
			}
			if len(b.Data) > 0 {
				if b.UpToDate {
					rd.note("batch: to %s, up to date", b.Offset)
				}
				rd.run.cover.hit("the SDK's tail brought data")
			}
			if err := a.arrive(string(b.Offset), b.UpToDate); err != nil {
				return err
			}
			a.keep(b.UpToDate)
			if b.Closed {
				return a.end()
			}
			if leave--; leave == 0 && len(b.Data) > 0 {
				return nil
			}
		}
		return violated(closedOnce, "a tail has ended without an error or the end of the stream")
	}
}

// sdkRead reads what there is with the Go SDK, which goes on by itself where a connection breaks.
func sdkRead(rd *reader) func(context.Context) error {
	client := rd.client()
	return func(ctx context.Context) error {
		if rd.at == unknown {
			return rd.once(ctx, "")
		}
		if rd.stream.config.mortal {
			rd.restart(0) // an offset alone does not say of which life it is
		}
		a := rd.begin()
		r, err := client.Read(ctx, rd.stream.name, dsclient.Offset(rd.token))
		if err != nil {
			return a.refused(err)
		}
		defer r.Close()
		s := scanner{kind: rd.stream.kind}
		buf := make([]byte, 1+rd.r.IntN(32<<10))
		for {
			n, err := r.Read(buf)
			if ferr := s.feed(buf[:n], a.entry); ferr != nil {
				return torn(ferr)
			}
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return a.refused(err)
			}
		}
		if err := s.end(); err != nil {
			return torn(err)
		}
		if err := a.arrive(string(r.Offset()), true); err != nil {
			return err
		}
		if a.at > rd.at {
			rd.note("read: %d to %d", rd.at, a.at)
		}
		a.keep(true)
		if r.Closed() {
			return a.end()
		}
		pause(ctx, time.Duration(rd.r.IntN(30))*time.Millisecond)
		return nil
	}
}

// know finds out which life a reader in the same process follows.
func (rd *reader) know(ctx context.Context, a *attempt, l log) (id uint64, err error) {
	if rd.tag != "" {
		_, err := fmt.Sscanf(rd.tag, "id:%d", &id)
		return id, err
	}
	info, err := l.Stat(ctx, rd.stream.addr())
	if err != nil {
		return 0, err
	}
	if a.life == nil {
		_, err = a.tagged(fmt.Sprintf("id:%d", info.ID))
	}
	return info.ID, err
}

// batch takes a batch of a reader in the same process.
func (a *attempt) batch(b runnel.Batch) error {
	if a.at == unknown {
		a.at = int(b.First()) - 1
	}
	if int(b.First()) != a.at+1 {
		return violated(noGap, "a batch begins at %d, after %d", b.First(), a.at)
	}
	for i := range b.Len() {
		e := b.Entry(i)
		if int(e.Sequence) != a.at+1 {
			return violated(exactOffset, "entry %d says that it is %d", a.at+1, e.Sequence)
		}
		l, err := labelOf(a.stream.kind, e.Payload)
		if err != nil {
			return torn(err)
		}
		if err := a.entry(l); err != nil {
			return err
		}
	}
	if int(b.Last()) != a.at {
		return violated(exactOffset, "a batch that ends at %d says that it does at %d", a.at, b.Last())
	}
	return nil
}

// engineTail follows with the tail of the engine.
func engineTail(rd *reader) func(context.Context) error {
	return func(ctx context.Context) error {
		l := rd.run.server.current()
		if l == nil {
			return errDown
		}
		a := rd.begin()
		id, err := rd.know(ctx, a, l)
		if err != nil {
			return a.refused(err)
		}
		leave := 1 + rd.r.IntN(200)
		from := runnel.Sequence(rd.at)
		if rd.at == unknown {
			v, err := l.Read(ctx, rd.stream.addr(), id, runnel.Latest)
			if err != nil {
				return a.refused(err)
			}
			from, a.at = v.From, int(v.From)
			a.keep(true) // perhaps nothing ever follows
		} else {
			a.at = rd.at
		}
		for b, err := range l.Tail(ctx, rd.stream.addr(), id, from) {
			if err != nil {
				return a.refused(err)
			}
			if err := a.batch(b); err != nil {
				return err
			}
			rd.run.cover.hit("a tail in the process brought data")
			a.keep(true)
			if rd.r.IntN(8) == 0 {
				pause(ctx, time.Duration(rd.r.IntN(40))*time.Millisecond)
			}
			if leave--; leave == 0 {
				return nil
			}
		}
		if a.at == unknown {
			return errEnded // of a stream that was closed at the beginning
		}
		return a.end()
	}
}

// engineRead reads views in the same process, not always to their end, and waits for more.
func engineRead(rd *reader) func(context.Context) error {
	return func(ctx context.Context) error {
		l := rd.run.server.current()
		if l == nil {
			return errDown
		}
		a := rd.begin()
		id, err := rd.know(ctx, a, l)
		if err != nil {
			return a.refused(err)
		}
		from := runnel.Sequence(max(rd.at, 0))
		if rd.at == unknown {
			from = runnel.Latest
		}
		ctx = context.WithValue(ctx, markKey{}, rd.mark)
		v, err := l.Read(ctx, rd.stream.addr(), id, from)
		if err != nil {
			return a.refused(err)
		}
		if a.at == unknown {
			a.at = int(v.From)
		}
		if int(v.From) != a.at || a.life == nil && a.live != nil && a.certain() == a.live && int(v.Tail) < a.floor || a.life == a.live && a.life != nil && int(v.Tail) < a.floor {
			return violated(readsWrites, "a view from %d to %d of a read from %d, when there were %d entries", v.From, v.Tail, rd.at, a.floor)
		}
		if err := a.view(v); err != nil {
			return a.refused(err)
		}
		rd.cached(a.at > rd.at)
		level := a.at == int(v.Tail)
		a.keep(level)
		switch {
		case level && v.Closed:
			return a.end()
		case level:
			rd.run.cover.hit("a reader in the process waits")
			_, err = l.Wait(ctx, rd.stream.addr(), id, runnel.Sequence(a.at))
		}
		if err != nil {
			return a.refused(err)
		}
		return nil
	}
}

// view reads a view, or a part of it.
func (a *attempt) view(v runnel.View) error {
	batches := v.Batches
	if a.r.IntN(2) == 0 {
		batches = v.Stream
	}
	size := int64(0)
	leave := a.r.IntN(12) // 0: never
	for b, err := range batches {
		if err != nil {
			return err
		}
		size += int64(len(b.Payloads()))
		if err := a.batch(b); err != nil {
			return err
		}
		if leave--; leave == 0 {
			a.run.cover.hit("a view was left before its end")
			return nil
		}
	}
	if a.at != int(v.Tail) {
		return violated(noGap, "a view to %d has ended at %d", v.Tail, a.at)
	}
	if v.PayloadBytes >= 0 && v.PayloadBytes != size {
		return violated(exactOffset, "a view of %d bytes says that it has %d", size, v.PayloadBytes)
	}
	return nil
}

// ways are the ways to read.
var ways = []struct {
	name  string
	step  func(*reader) func(context.Context) error
	polls bool // by long-poll
}{
	{"catch-up", catchUp, false},
	{"long-poll", longPoll, true},
	{"SSE", func(rd *reader) func(context.Context) error { return serverSent(rd, false) }, false},
	{"EventSource", func(rd *reader) func(context.Context) error { return serverSent(rd, true) }, false},
	{"SDK tail, SSE", func(rd *reader) func(context.Context) error { return sdkTail(rd, false) }, false},
	{"SDK tail, " + wire.LiveLongPoll, func(rd *reader) func(context.Context) error { return sdkTail(rd, true) }, true},
	{"SDK read", sdkRead, false},
	{"engine tail", engineTail, false},
	{"engine read", engineRead, false},
}
