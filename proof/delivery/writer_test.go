package delivery

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/wire"
)

// writer appends to streams, over HTTP and in the process.
type writer struct {
	run     *run
	r       *rand.Rand
	http    *http.Client // over a network on which nothing happens
	broken  *http.Client // over one that cuts
	streams []*stream
}

// write appends until ctx ends.
func (w *writer) write(ctx context.Context) error {
	for ctx.Err() == nil {
		s := w.streams[w.r.IntN(len(w.streams))]
		var err error
		switch n := w.r.IntN(100); {
		case n < 4:
			err = w.commit(ctx)
		case n < 8:
			err = w.append(ctx, s, w.sizes(s, 1000), true)
		case n < 30:
			err = w.append(ctx, s, w.sizes(s, 1+w.r.IntN(20)), true)
		case n < 40 && s.config.large:
			err = w.append(ctx, s, []int{w.large()}, false)
		default:
			err = w.append(ctx, s, w.sizes(s, 1), false)
		}
		if err != nil {
			return err
		}
		pause(ctx, time.Duration(w.r.IntN(w.run.scale.writeEvery))*time.Millisecond)
	}
	return nil
}

func (w *writer) large() int {
	if w.r.IntN(3) == 0 {
		return 1<<20 + w.r.IntN(300<<10)
	}
	return 128<<10 + w.r.IntN(200<<10)
}

// sizes draws the sizes of some payloads.
func (w *writer) sizes(s *stream, n int) []int {
	sizes := make([]int, n)
	for i := range sizes {
		sizes[i] = w.r.IntN(60)
		if w.r.IntN(40) == 0 {
			sizes[i] = w.r.IntN(6000)
		}
		if keep := s.config.keepBytes; keep > 0 {
			sizes[i] = min(sizes[i], keep/4)
		}
	}
	return sizes
}

// payloads begins an append to a life.
func payloads(r *rand.Rand, l *life, sizes []int) (app int, all [][]byte) {
	app = l.begin(len(sizes))
	for i, size := range sizes {
		all = append(all, payload(r, l.stream.kind, label{l.id, app, i}, size))
	}
	l.sized(app, all)
	return app, all
}

func records(all [][]byte) []runnel.Record {
	rs := make([]runnel.Record, len(all))
	for i := range all {
		rs[i].Payload = all[i]
	}
	return rs
}

// append appends to what lives under a name.
func (w *writer) append(ctx context.Context, s *stream, sizes []int, atOnce bool) error {
	s.writing.RLock()
	defer s.writing.RUnlock()
	l := s.now()
	if l == nil || !l.there() {
		return nil
	}
	app, all := payloads(w.r, l, sizes)
	if atOnce && s.kind != messages || w.r.IntN(4) == 0 {
		return w.appendInProcess(ctx, l, app, all)
	}
	client := w.http
	if !s.config.mortal && w.r.IntN(5) == 0 {
		client = w.broken // nobody knows when what is left on the way arrives, which may be in another life
	}
	return w.post(ctx, client, l, app, all, false)
}

func (l *life) there() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.created && !l.ending
}

func (w *writer) appendInProcess(ctx context.Context, l *life, app int, all [][]byte) error {
	log := w.run.server.current()
	if log == nil {
		return l.refused(app)
	}
	done, err := log.Append(ctx, l.stream.addr(), runnel.AppendOptions{}, records(all)...)
	return l.answered(app, int(done.Tail), err)
}

// answered notes what became of an append in the process.
func (l *life) answered(app, tail int, err error) error {
	switch {
	case err == nil:
		return l.acknowledged(app, tail)
	case errors.Is(err, runnel.ErrUnknown) || errors.Is(err, context.Canceled):
		return nil
	}
	return l.refused(app)
}

// body puts payloads together as the body of a request.
func body(k kind, all [][]byte) []byte {
	if k != messages {
		return bytes.Join(all, nil)
	}
	return append(append([]byte{'['}, bytes.Join(all, []byte{','})...), ']')
}

// post appends over HTTP.
func (w *writer) post(ctx context.Context, client *http.Client, l *life, app int, all [][]byte, closes bool) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, root+"/"+l.stream.name, bytes.NewReader(body(l.stream.kind, all)))
	if err != nil {
		return err
	}
	req.Header.Set(wire.HeaderContentType, l.stream.kind.contentType())
	if closes {
		req.Header.Set(wire.HeaderClosed, "true")
	}
	status, h := send(client, req)
	switch {
	case status == http.StatusNoContent || status == http.StatusOK:
		tail, err := runnel.ParseOffset(h.Get(wire.HeaderNextOffset))
		if err != nil {
			return violated(protocol, "an append is answered with the offset %q", h.Get(wire.HeaderNextOffset))
		}
		return l.acknowledged(app, int(tail))
	case status == 0 || status == http.StatusInternalServerError:
		w.run.cover.hit("the outcome of an append is not known")
		return nil
	case status == http.StatusConflict && h.Get(wire.HeaderClosed) == "true":
		w.run.cover.hit("an append came after the close")
	}
	return l.refused(app)
}

// send returns the status of the answer; 0 if there was none.
func send(client *http.Client, req *http.Request) (int, http.Header) {
	resp, err := client.Do(req)
	if err != nil {
		return 0, nil
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return 0, nil
	}
	return resp.StatusCode, resp.Header
}

// commit appends to several streams of one space at once.
func (w *writer) commit(ctx context.Context) error {
	log := w.run.server.current()
	from := w.r.IntN(len(w.streams))
	var writes []runnel.Write
	var lives []*life
	var apps []int
	var space runnel.Space
	for i := range w.streams {
		s := w.streams[(from+i)%len(w.streams)]
		if len(lives) > 0 && s.addr().In() != lives[0].stream.addr().In() || len(lives) == 3 {
			continue
		}
		if s.config.closes || !s.writing.TryRLock() { // one that is closed refuses all
			continue
		}
		defer s.writing.RUnlock()
		l := s.now()
		if l == nil || !l.there() {
			continue
		}
		app, all := payloads(w.r, l, w.sizes(s, 1+w.r.IntN(5)))
		space = runnel.Space{Store: s.addr().Store, Name: s.addr().Space}
		writes = append(writes, runnel.Write{Segment: s.addr().Name, Records: records(all)})
		lives, apps = append(lives, l), append(apps, app)
	}
	if len(lives) == 0 {
		return nil
	}
	if log == nil {
		for i, l := range lives {
			if err := l.refused(apps[i]); err != nil {
				return err
			}
		}
		return nil
	}
	done, err := log.Commit(ctx, space, writes...)
	if err == nil && len(writes) > 1 {
		w.run.cover.hit("a commit of several segments was made")
	}
	for i, l := range lives {
		tail := 0
		if err == nil {
			tail = int(done[i].Tail)
		}
		if err := l.answered(apps[i], tail, err); err != nil {
			return err
		}
	}
	return nil
}

// insist sends a request that may be repeated until it is answered with something that is not for now.
func (w *writer) insist(ctx context.Context, make func() *http.Request) (int, http.Header) {
	for ctx.Err() == nil {
		if status, h := send(w.http, make()); status > 0 && status < 500 && status != http.StatusRequestTimeout {
			return status, h
		}
		pause(ctx, 5*time.Millisecond)
	}
	return 0, nil
}

// create makes a stream, or a fork of a life up to an entry.
func (w *writer) create(ctx context.Context, s *stream, source *life, base int) error {
	l := w.run.ledger.birth(s, source, base, s.config)
	app, all := -1, [][]byte(nil)
	if w.r.IntN(2) == 0 {
		n := 1
		if s.kind == messages {
			n += w.r.IntN(5)
		}
		app, all = payloads(w.r, l, w.sizes(s, n))
	}
	s.add(l)
	status, h := w.insist(ctx, func() *http.Request {
		req, err := http.NewRequestWithContext(ctx, http.MethodPut, root+"/"+s.name, bytes.NewReader(bodyOf(s.kind, all)))
		if err != nil {
			panic(err)
		}
		req.Header.Set(wire.HeaderContentType, s.kind.contentType())
		if n := s.config.keepCount; n > 0 {
			req.Header.Set(wire.HeaderRetentionCount, strconv.Itoa(n))
		}
		if n := s.config.keepBytes; n > 0 {
			req.Header.Set(wire.HeaderRetentionBytes, strconv.Itoa(n))
		}
		if source != nil {
			req.Header.Set(wire.HeaderForkedFrom, "/v1/stream/"+source.stream.name)
			req.Header.Set(wire.HeaderForkOffset, runnel.Sequence(base).Offset())
		}
		return req
	})
	if err := ctx.Err(); err != nil {
		return err
	}
	if status != http.StatusCreated && status != http.StatusOK {
		return violated(protocol, "%s: PUT is answered with %d", l, status)
	}
	if app >= 0 && status == http.StatusCreated {
		tail, err := runnel.ParseOffset(h.Get(wire.HeaderNextOffset))
		if err != nil {
			return violated(protocol, "PUT is answered with the offset %q", h.Get(wire.HeaderNextOffset))
		}
		if err := l.acknowledged(app, int(tail)); err != nil {
			return err
		}
	}
	l.mu.Lock()
	l.created = true
	l.mu.Unlock()
	w.run.born(s)
	return nil
}

func bodyOf(k kind, all [][]byte) []byte {
	if len(all) == 0 {
		return nil
	}
	return body(k, all)
}

// remove deletes what lives under a name.
func (w *writer) remove(ctx context.Context, s *stream) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	l := s.now()
	l.mu.Lock()
	l.ending = true
	l.mu.Unlock()
	status, _ := w.insist(ctx, func() *http.Request {
		req, err := http.NewRequestWithContext(ctx, http.MethodDelete, root+"/"+s.name, nil)
		if err != nil {
			panic(err)
		}
		return req
	})
	if err := ctx.Err(); err != nil {
		return err
	}
	if status != http.StatusNoContent && status != http.StatusNotFound && status != http.StatusGone {
		return violated(protocol, "%s: DELETE is answered with %d", l, status)
	}
	s.mu.Lock()
	l.mu.Lock()
	l.gone = true
	l.mu.Unlock()
	s.mu.Unlock()
	return nil
}

// finish closes a stream, with a last entry or without. It is repeated until it is known to be closed.
func (w *writer) finish(ctx context.Context, s *stream) error {
	l := s.now()
	l.mu.Lock()
	l.closing = true
	l.mu.Unlock()
	if w.r.IntN(2) == 0 {
		app, all := payloads(w.r, l, w.sizes(s, 1))
		if err := w.post(ctx, w.http, l, app, all, true); err != nil {
			return err
		}
	}
	status, h := w.insist(ctx, func() *http.Request {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, root+"/"+s.name, nil)
		if err != nil {
			panic(err)
		}
		req.Header.Set(wire.HeaderClosed, "true")
		return req
	})
	if err := ctx.Err(); err != nil {
		return err
	}
	tail, err := runnel.ParseOffset(h.Get(wire.HeaderNextOffset))
	if status != http.StatusNoContent || err != nil {
		return violated(protocol, "%s: the close is answered with %d at %q", l, status, h.Get(wire.HeaderNextOffset))
	}
	return l.closed(int(tail))
}
