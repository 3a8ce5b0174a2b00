package linear

import (
	"bytes"
	"context"
	"errors"
	"io"
	"iter"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/items"
	"github.com/runnelhq/runnel/items/ops"
)

// itemFaceMutations are ways in which a server of items can be wrong over a log that is right.
var itemFaceMutations = []wrong{
	{"If-Match is not looked at", itemModel, kind{driver: "memory", items: true}, ofFace(dropping("If-Match"))},
	{"an item that must be new may be there", itemModel, kind{driver: "memory", items: true}, ofFace(dropping("If-None-Match"))},
	{"an idempotency key is not handed on", itemModel, kind{driver: "pebble", items: true}, ofFace(dropping("Idempotency-Key"))},
	{"a cached answer is served", itemModel, kind{driver: "memory", items: true}, ofFace(caching)},
	{"a write is sent again by what stands before the server", itemModel, kind{driver: "memory", items: true}, ofFace(resending)},
	{"a deletion of a group is answered and not made", itemModel, kind{driver: "pebble", items: true}, ofFace(sparing)},
	{"operations are applied to what was read before", itemModel, kind{driver: "memory", items: true}, ofItems(func(l items.Log) items.Log { return outdated{l} })},
	{"a request to several items is made in several commits", itemModel, kind{driver: "memory", items: true}, ofItems(func(l items.Log) items.Log { return piecemeal{l} })},
	{"a subscriber misses what happens while it joins", itemModel, kind{driver: "memory", items: true}, ofItems(func(l items.Log) items.Log { return distracted{l} })},
	{"a subscriber is given an earlier snapshot", itemModel, kind{driver: "memory", items: true}, ofItems(func(l items.Log) items.Log {
		return &nostalgic{Log: l, seen: make(map[string]runnel.ItemView)}
	})},
	{"a subscriber that comes back is told only the last change", itemModel, kind{driver: "memory", items: true}, ofItems(func(l items.Log) items.Log { return forgetful{l} })},
	{"a refusal of the log is answered as done", itemModel, kind{driver: "memory", items: true}, ofItems(func(l items.Log) items.Log { return polite{l} })},
}

func ofFace(wrap func(h http.Handler) http.Handler) func() mutation {
	return func() mutation { return mutation{face: wrap} }
}

func ofItems(wrap func(l items.Log) items.Log) func() mutation {
	return func() mutation { return mutation{items: wrap} }
}

// dropping leaves out a header of requests.
func dropping(header string) func(h http.Handler) http.Handler {
	return func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			r.Header.Del(header)
			h.ServeHTTP(w, r)
		})
	}
}

// caching answers reads of items with what it has answered before, now and then.
func caching(h http.Handler) http.Handler {
	var mu sync.Mutex
	kept := make(map[string]*httptest.ResponseRecorder)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if names := strings.Count(r.URL.Path, "/"); r.Method != http.MethodGet || names != strings.Count(items.DefaultPrefix, "/")+2 {
			h.ServeHTTP(w, r)
			return
		}
		mu.Lock()
		answer := kept[r.URL.Path]
		mu.Unlock()
		if answer == nil || !sometimesWrong() {
			answer = httptest.NewRecorder()
			h.ServeHTTP(answer, r)
			mu.Lock()
			kept[r.URL.Path] = answer
			mu.Unlock()
		}
		maps.Copy(w.Header(), answer.Header())
		w.WriteHeader(answer.Code)
		_, _ = w.Write(answer.Body.Bytes())
	})
}

// resending sends updates again whose answer it takes for lost.
func resending(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPatch || !sometimesWrong() {
			h.ServeHTTP(w, r)
			return
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		for _, w := range []http.ResponseWriter{httptest.NewRecorder(), w} {
			r.Body = io.NopCloser(bytes.NewReader(body))
			h.ServeHTTP(w, r)
		}
	})
}

// sparing answers that a group is deleted, and keeps it.
func sparing(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		group, ok := strings.CutPrefix(r.URL.Path, items.DefaultPrefix+spaceName+"/")
		if ok && r.Method == http.MethodDelete && !strings.Contains(group, "/") {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		h.ServeHTTP(w, r)
	})
}

// outdated applies operations to the item as it was read before the commit.
type outdated struct{ items.Log }

func (l outdated) WriteItems(ctx context.Context, space runnel.Space, writes ...runnel.ItemWrites) ([]runnel.ItemsWritten, error) {
	for i := range writes[0].Writes {
		w := &writes[0].Writes[i]
		if w.Ops == nil {
			continue
		}
		it, err := l.Item(ctx, space.Segment(writes[0].Segment), w.ItemKey)
		if err != nil && !errors.Is(err, runnel.ErrNotFound) {
			return nil, err
		}
		list, err := ops.Parse(w.Ops)
		if err != nil {
			return nil, err
		}
		w.Value, _ = ops.Apply(it.Value, list, ops.Whole)
		w.Ops = nil
	}
	return l.Log.WriteItems(ctx, space, writes...)
}

// piecemeal makes a commit of each write.
type piecemeal struct{ items.Log }

func (l piecemeal) WriteItems(ctx context.Context, space runnel.Space, writes ...runnel.ItemWrites) ([]runnel.ItemsWritten, error) {
	all := make([]runnel.ItemsWritten, 1)
	for _, w := range writes[0].Writes {
		one := writes[0]
		one.Writes = []runnel.ItemWrite{w}
		done, err := l.Log.WriteItems(context.WithoutCancel(ctx), space, one)
		if err != nil {
			return nil, err
		}
		done[0].Results = append(all[0].Results, done[0].Results...)
		all[0] = done[0]
	}
	return all, nil
}

// distracted leaves out changes of those who follow, now and then.
type distracted struct{ items.Log }

func (l distracted) TailSpaceItems(ctx context.Context, space runnel.Space, prefix string, after runnel.Position) iter.Seq2[runnel.ItemBatch, error] {
	return func(yield func(runnel.ItemBatch, error) bool) {
		for batch, err := range l.Log.TailSpaceItems(ctx, space, prefix, after) {
			if err == nil && !batch.Deleted && sometimesWrong() {
				batch.Changes = nil
			}
			if !yield(batch, err) {
				return
			}
		}
	}
}

// nostalgic shows groups as it saw them before.
type nostalgic struct {
	items.Log
	mu   sync.Mutex
	seen map[string]runnel.ItemView
}

func (l *nostalgic) Items(ctx context.Context, seg runnel.Segment, q runnel.ItemQuery) (runnel.ItemView, error) {
	v, err := l.Log.Items(ctx, seg, q)
	if q != (runnel.ItemQuery{}) || err != nil {
		return v, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if was, ok := l.seen[seg.Name]; ok && sometimesWrong() {
		return was, nil
	}
	l.seen[seg.Name] = v
	return v, nil
}

// forgetful tells only the last of what has happened since a place.
type forgetful struct{ items.Log }

func (l forgetful) TailItems(ctx context.Context, seg runnel.Segment, id uint64, after runnel.Sequence) iter.Seq2[runnel.ItemBatch, error] {
	return func(yield func(runnel.ItemBatch, error) bool) {
		for batch, err := range l.Log.TailItems(ctx, seg, id, after) {
			if n := len(batch.Changes); n > 1 {
				batch.Changes = batch.Changes[n-1:]
			}
			if !yield(batch, err) {
				return
			}
		}
	}
}

// polite answers a write whose condition does not hold as one that changed nothing.
type polite struct{ items.Log }

func (l polite) WriteItems(ctx context.Context, space runnel.Space, writes ...runnel.ItemWrites) ([]runnel.ItemsWritten, error) {
	done, err := l.Log.WriteItems(ctx, space, writes...)
	if errors.Is(err, runnel.ErrItemMoved) {
		return []runnel.ItemsWritten{{Results: make([]runnel.ItemResult, len(writes[0].Writes))}}, nil
	}
	return done, err
}
