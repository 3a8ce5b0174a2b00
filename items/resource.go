package items

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/items/ops"
	"github.com/runnelhq/runnel/wire"
)

// resource answers requests about everything, a stream, a group, or an item, by how many names there are.
func (h *Handler) resource(w http.ResponseWriter, r *http.Request, store runnel.Store, names []string) error {
	switch len(names) {
	case 0:
		return h.resourceRoot(w, r, store)
	case 1:
		return h.resourceStream(w, r, store, names[0])
	}
	seg, err := segment(store, names[0], names[1])
	if err != nil {
		return err
	}
	if len(names) == 2 {
		return h.resourceGroup(w, r, seg)
	}
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		return h.getItem(w, r, seg, names[2])
	case http.MethodPut:
		return h.putItem(w, r, seg, names[2])
	case http.MethodPatch:
		return h.patchItem(w, r, seg, names[2])
	case http.MethodDelete:
		return h.removeItem(w, r, seg, names[2])
	}
	return notAllowed(w, "GET, HEAD, PUT, PATCH, DELETE")
}

// page is what a listing asks for.
type page struct {
	prefix, after string
	limit         int
}

func (h *Handler) page(r *http.Request) (page, error) {
	q := r.URL.Query()
	p := page{prefix: q.Get("prefix"), after: q.Get("after"), limit: h.cfg.MaxPage}
	if text := q.Get("limit"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > h.cfg.MaxPage {
			return p, invalid("limit must be between 1 and %d, got %.40q", h.cfg.MaxPage, text)
		}
		p.limit = n
	}
	return p, nil
}

// next is what a page ends with: the name to continue after, or null at the end.
func next(names []string, more bool) *string {
	if !more || len(names) == 0 {
		return nil
	}
	return &names[len(names)-1]
}

func (h *Handler) resourceRoot(w http.ResponseWriter, r *http.Request, store runnel.Store) error {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return notAllowed(w, "GET, HEAD")
	}
	p, err := h.page(r)
	if err != nil {
		return err
	}
	names, more, err := h.streams(r.Context(), store, p.prefix, p.after, p.limit)
	if err != nil {
		return err
	}
	answer(w, r, http.StatusOK, encode(struct {
		Streams []string `json:"streams"`
		Next    *string  `json:"next"`
	}{names, next(names, more)}))
	return nil
}

func (h *Handler) resourceStream(w http.ResponseWriter, r *http.Request, store runnel.Store, stream string) error {
	space := runnel.Space{Store: store, Name: stream}
	if err := space.Validate(); err != nil {
		return inOurWords(err)
	}
	switch r.Method {
	case http.MethodGet, http.MethodHead:
	case http.MethodDelete:
		return h.deleteStream(w, r, space)
	default:
		return notAllowed(w, "GET, HEAD, DELETE")
	}
	p, err := h.page(r)
	if err != nil {
		return err
	}
	names, more, err := h.groups(r.Context(), store, stream, p.prefix, p.after, p.limit)
	if err != nil {
		return err
	}
	answer(w, r, http.StatusOK, encode(struct {
		Groups []string `json:"groups"`
		Next   *string  `json:"next"`
	}{names, next(names, more)}))
	return nil
}

func (h *Handler) deleteStream(w http.ResponseWriter, r *http.Request, space runnel.Space) error {
	groups, err := h.log.DeleteItemSpace(r.Context(), space)
	if err != nil {
		return err
	}
	answer(w, r, http.StatusOK, encode(map[string]int{"groups": groups}))
	return nil
}

func (h *Handler) resourceGroup(w http.ResponseWriter, r *http.Request, seg runnel.Segment) error {
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		return h.listItems(w, r, seg)
	case http.MethodPost:
		return h.writeItems(w, r, seg)
	case http.MethodDelete:
		if err := h.log.Delete(r.Context(), seg); err != nil {
			return err
		}
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
	return notAllowed(w, "GET, HEAD, POST, DELETE")
}

func (h *Handler) listItems(w http.ResponseWriter, r *http.Request, seg runnel.Segment) error {
	p, err := h.page(r)
	if err != nil {
		return err
	}
	view, err := h.readGroup(r.Context(), seg, runnel.ItemQuery{Prefix: p.prefix, After: p.after, Limit: p.limit})
	if err != nil {
		return err
	}
	size := bodyBytes
	for i := range view.Items {
		size += len(view.Items[i].Key) + len(view.Items[i].Value) + bodyBytes
	}
	b := appendItems(append(make([]byte, 0, size), `{"items":`...), view.Items)
	b = append(b, `,"next":`...)
	if view.More {
		b = appendText(b, view.Next)
	} else {
		b = append(b, null...)
	}
	// The version is the sequence that the items are at, and the cursor what a subscription may join since.
	b = strconv.AppendUint(append(b, `,"version":`...), uint64(view.Tail), 10)
	b = append(append(b, `,"cursor":"`...), cursor(view.ID, view.Tail)...)
	answer(w, r, http.StatusOK, append(b, `"}`...))
	return nil
}

func etag(version runnel.Sequence) string { return `"` + strconv.FormatUint(uint64(version), 10) + `"` }

// matches tells whether a list of entity tags has that of a version.
func matches(list string, version runnel.Sequence) bool {
	for tag := range strings.SplitSeq(list, ",") {
		if tag = strings.TrimPrefix(strings.TrimSpace(tag), "W/"); tag == "*" || tag == etag(version) {
			return true
		}
	}
	return false
}

func (h *Handler) getItem(w http.ResponseWriter, r *http.Request, seg runnel.Segment, item string) error {
	it, err := h.log.Item(r.Context(), seg, runnel.ItemKey{Key: item})
	if err != nil {
		return err
	}
	describe(w, &it)
	if list := kept(r, "If-None-Match"); list != "" && matches(list, it.Version) {
		w.Header()["Cache-Control"] = noStore
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	answer(w, r, http.StatusOK, it.Value)
	return nil
}

// describe tells the version and the times of an item in headers.
func describe(w http.ResponseWriter, it *runnel.Item) {
	// The values share one text and one list: this is a good part of what a read of a small item costs.
	b := append(strconv.AppendUint(append(make([]byte, 0, 128), '"'), uint64(it.Version), 10), '"')
	version := len(b)
	b = it.Created.UTC().AppendFormat(b, time.RFC3339Nano)
	created, updated := len(b), len(b)
	if !it.Updated.Equal(it.Created) { // otherwise one text says both
		b = it.Updated.UTC().AppendFormat(b, time.RFC3339Nano)
		updated = len(b)
	}
	if !it.Expires.IsZero() {
		b = it.Expires.UTC().AppendFormat(b, time.RFC3339Nano)
	}
	text := string(b)
	values := []string{text[:version], text[version:created], text[created:updated], text[updated:]}
	if values[2] == "" {
		values[2] = values[1]
	}
	header := w.Header()
	header["Etag"], header["Item-Created"], header["Item-Updated"] = values[0:1:1], values[1:2:2], values[2:3:3]
	if values[3] != "" {
		header["Item-Expires"] = values[3:]
	}
}

// Headers of writes, in the form in which they are kept.
const (
	headerTTL  = "Item-Ttl"
	headerTxID = "Item-Txid"
)

// conditionsOf reads the headers of a write to an item.
func conditionsOf(r *http.Request, item string) (conditions, runnel.ItemWrite, error) {
	header := r.Header
	c := conditions{Key: header.Get("Idempotency-Key"), TxID: header.Get(headerTxID)}
	w := runnel.ItemWrite{ItemKey: runnel.ItemKey{Key: item}}
	switch match, none := header.Get("If-Match"), header.Get("If-None-Match"); {
	case match != "" && none != "":
		return c, w, invalid("If-Match and If-None-Match exclude each other")
	case none != "" && none != "*":
		return c, w, invalid("If-None-Match of a write must be *, got %.40q", none)
	case none == "*":
		w.IfVersion = new(runnel.Sequence)
	case match == "*":
		w.IfExists = true
	case match != "":
		n, err := strconv.ParseUint(strings.Trim(match, `"`), 10, 64)
		if err != nil || etag(runnel.Sequence(n)) != match || n == 0 {
			return c, w, invalid("If-Match must be * or one version such as \"7\", got %.40q", match)
		}
		version := runnel.Sequence(n)
		w.IfVersion = &version
	}
	if text := header.Get(headerTTL); text != "" {
		seconds, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return c, w, invalid("Item-TTL must be a number of seconds, got %.40q", text)
		}
		if w.TTL, err = ttl(seconds); err != nil {
			return c, w, err
		}
	}
	return c, w, nil
}

// sumOf is what an idempotency key stands for, nil if there is no key.
func sumOf(r *http.Request, key, item string, body []byte) []byte {
	if key == "" {
		return nil
	}
	return fmt.Appendf(nil, "%s %q %s", r.Method, item, body)
}

func (h *Handler) putItem(w http.ResponseWriter, r *http.Request, seg runnel.Segment, item string) error {
	body, err := h.body(w, r)
	if err != nil {
		return err
	}
	if err := ops.Check(body); err != nil {
		return wire.Invalid(wire.CodeInvalidJSON, "the body "+err.Error())
	}
	c, write, err := conditionsOf(r, item)
	if err != nil {
		return err
	}
	write.Value = ops.Compact(body)
	written, err := h.writeOne(r.Context(), seg, &c, sumOf(r, c.Key, item, body), write)
	if err != nil {
		return err
	}
	return answerWrite(w, r, item, &written)
}

func (h *Handler) patchItem(w http.ResponseWriter, r *http.Request, seg runnel.Segment, item string) error {
	body, err := h.body(w, r)
	if err != nil {
		return err
	}
	c, write, err := conditionsOf(r, item)
	if err != nil {
		return err
	}
	switch mode := r.URL.Query().Get("mode"); mode {
	case "", "whole":
	case "partial":
		write.Partial = true
	default:
		return invalid("mode must be whole or partial, got %.40q", mode)
	}
	write.Ops, write.KeepTTL = body, write.TTL == 0
	written, err := h.writeOne(r.Context(), seg, &c, sumOf(r, c.Key, item, body), write)
	if err != nil {
		return err
	}
	return answerWrite(w, r, item, &written)
}

func (h *Handler) removeItem(w http.ResponseWriter, r *http.Request, seg runnel.Segment, item string) error {
	c, write, err := conditionsOf(r, item)
	if err != nil {
		return err
	}
	written, err := h.deleteItem(r.Context(), seg, &c, sumOf(r, c.Key, item, nil), write)
	if err != nil {
		return err
	}
	if written.Results[0].Old == nil && !written.Duplicate {
		return &runnel.ItemNotFoundError{Segment: seg, Item: write.ItemKey}
	}
	return answerWrite(w, r, item, &written)
}

// answerWrite tells what became of one item.
func answerWrite(w http.ResponseWriter, r *http.Request, item string, written *runnel.ItemsWritten) error {
	status := http.StatusOK
	result := &written.Results[0]
	size := bodyBytes
	if result.Old != nil {
		size += len(result.Old.Value)
	}
	if result.New != nil {
		size += len(result.New.Value)
		describe(w, result.New)
		if result.Old == nil && !written.Duplicate {
			status = http.StatusCreated
		}
	}
	answer(w, r, status, appendResult(make([]byte, 0, size), item, result, written.Duplicate))
	return nil
}

// writeItems answers POST to a group: writes to several items, all of them or none.
func (h *Handler) writeItems(w http.ResponseWriter, r *http.Request, seg runnel.Segment) error {
	body, err := h.body(w, r)
	if err != nil {
		return err
	}
	writes, err := h.parseWrites(r, seg, body)
	if err != nil {
		return invalidInput(err)
	}
	key := r.Header.Get("Idempotency-Key")
	written, err := h.write(r.Context(), seg, writes, key, sumOf(r, key, "", body))
	if _, unread := errors.AsType[*ops.ParseError](err); unread {
		err = whichUnread(&writes, err)
	}
	if err != nil {
		return err
	}
	b := []byte(`{"items":[`)
	for i := range written.Results {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendResult(b, writes.Writes[i].Key, &written.Results[i], written.Duplicate)
	}
	b = strconv.AppendUint(append(b, `],"version":`...), uint64(written.Tail), 10)
	answer(w, r, http.StatusOK, append(b, '}'))
	return nil
}

// whichUnread says of which write it is that operations cannot be read.
func whichUnread(writes *runnel.ItemWrites, err error) error {
	for i := range writes.Writes {
		if list := writes.Writes[i].Ops; list != nil {
			if _, wrong := ops.Parse(list); wrong != nil {
				return invalid("writes[%d]: %v", i, wrong)
			}
		}
	}
	return err
}

// invalidInput says what is wrong with an input in the form of resources.
func invalidInput(err error) error {
	if wrong, ok := errors.AsType[*inputError](err); ok {
		return wire.Invalid(wire.CodeInvalidRequest, wrong.message)
	}
	return err
}

func (h *Handler) parseWrites(r *http.Request, seg runnel.Segment, body []byte) (all runnel.ItemWrites, err error) {
	if err := ops.Check(body); err != nil {
		return all, wire.Invalid(wire.CodeInvalidJSON, "the body "+err.Error())
	}
	var in struct {
		TxID   string `json:"txid"`
		Writes []struct {
			ID     *string         `json:"id"`
			Value  json.RawMessage `json:"value"`
			Ops    json.RawMessage `json:"ops"`
			Delete bool            `json:"delete"`
			Atomic *bool           `json:"atomic"`
			conditions
		} `json:"writes"`
	}
	if err := json.Unmarshal(body, &in); err != nil {
		return all, invalid("the body must be {\"writes\": [{\"id\": …, \"value\": … or \"ops\": … or \"delete\": true}, …]}: %v", err)
	}
	if n := len(in.Writes); n == 0 || n > h.cfg.MaxWrites {
		return all, invalid("there are %d writes; a request may have between 1 and %d", n, h.cfg.MaxWrites)
	}
	all = runnel.ItemWrites{Segment: seg.Name, TxID: in.TxID}
	if tx := r.Header.Get(headerTxID); tx != "" {
		all.TxID = tx
	}
	for i := range in.Writes {
		one := &in.Writes[i]
		kinds := 0
		for _, given := range []bool{one.Value != nil, one.Ops != nil, one.Delete} {
			if given {
				kinds++
			}
		}
		if one.ID == nil || kinds != 1 {
			return all, invalid("writes[%d] must have an id and one of value, ops and delete", i)
		}
		w, err := one.write(*one.ID)
		if err != nil {
			return all, invalid("writes[%d]: %s", i, trim(err))
		}
		switch {
		case one.Value != nil:
			w.Value = ops.Compact(one.Value)
		case one.Ops != nil:
			w.Ops, w.Partial, w.KeepTTL = one.Ops, one.Atomic != nil && !*one.Atomic, one.TTL == nil
		}
		all.Writes = append(all.Writes, w)
	}
	return all, nil
}
