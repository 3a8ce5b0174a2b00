package items

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/items/ops"
	"github.com/runnelhq/runnel/wire"
)

// A function takes a JSON object and returns a JSON text, or nil for no result at all.
type function struct {
	code string // of its errors
	run  func(*Handler, context.Context, runnel.Store, *input) ([]byte, error)
}

var functions = map[string]function{
	"set":         {"STREAM_SET_ERROR", (*Handler).callSet},
	"get":         {"STREAM_GET_ERROR", (*Handler).callGet},
	"delete":      {"STREAM_DELETE_ERROR", (*Handler).callDelete},
	"update":      {"STREAM_UPDATE_ERROR", (*Handler).callUpdate},
	"send":        {"STREAM_SEND_ERROR", (*Handler).callSend},
	"list":        {"STREAM_GET_GROUP_ERROR", (*Handler).callList},
	"list_groups": {"STREAM_LIST_GROUPS_ERROR", (*Handler).callListGroups},
	"list_all":    {"STREAM_LIST_ALL_ERROR", (*Handler).callListAll},
	"compact":     {"STREAM_COMPACT_ERROR", (*Handler).callCompact},
	"revoke":      {"STREAM_REVOKE_ERROR", (*Handler).callRevoke},
}

// codeDeserialization is the code of an input that lacks a field, or has one of another type.
const codeDeserialization = "deserialization_error"

// input is what functions are called with. Fields that a function does not know are ignored.
type input struct {
	Stream *string         `json:"stream_name"`
	Group  *string         `json:"group_id"`
	Item   *string         `json:"item_id"`
	Data   json.RawMessage `json:"data"`
	Ops    json.RawMessage `json:"ops"`
	Type   *string         `json:"type"`
	ID     *string         `json:"id"`

	// Subscription addresses one subscription in a send or a revoke, Context those whose connections were given one
	// that holds it, and Subject those of a caller.
	Subscription *string         `json:"subscription_id"`
	Context      json.RawMessage `json:"context"`
	Subject      *string         `json:"subject"`
	// Message is told to those whose subscriptions are revoked.
	Message string `json:"message"`
	// Atomic applies all operations of an update, or none.
	Atomic bool `json:"atomic"`
	conditions
	// Prefix, After and Limit page through lists.
	Prefix string `json:"prefix"`
	After  string `json:"after"`
	Limit  int    `json:"limit"`

	raw []byte
}

// conditions are fields of every write, of a function or inside a list of writes.
type conditions struct {
	IfVersion *uint64  `json:"if_version"`
	IfAbsent  bool     `json:"if_absent"`
	TTL       *float64 `json:"ttl"`
	Key       string   `json:"idempotency_key"`
	TxID      string   `json:"txid"`
}

// functionError is the answer to a call that failed.
type functionError struct {
	Code    string       `json:"code"`
	Message string       `json:"message"`
	Detail  *wire.Detail `json:"detail,omitempty"`
	// Errors are those of operations that were to be applied all or not at all.
	Errors []ops.Error `json:"errors,omitempty"`
}

// inputError is what is wrong with an input.
type inputError struct{ message string }

func (e *inputError) Error() string { return e.message }

func (e *inputError) Is(target error) bool { return target == runnel.ErrInvalid }

func invalid(format string, args ...any) error {
	return wire.Invalid(wire.CodeInvalidRequest, fmt.Sprintf(format, args...))
}

// call answers POST {prefix}call/{function}.
func (h *Handler) call(w http.ResponseWriter, r *http.Request, store runnel.Store, name string) error {
	f, ok := functions[strings.TrimPrefix(name, "stream::")]
	if !ok {
		return &wire.Error{
			Status: http.StatusNotFound,
			Detail: wire.Detail{Code: wire.CodeNotFound, Message: fmt.Sprintf("there is no function %.100q", name)},
		}
	}
	if r.Method != http.MethodPost {
		return notAllowed(w, "POST")
	}
	body, err := h.body(w, r)
	if err != nil {
		return err
	}
	in, err := parseInput(body)
	var result []byte
	if err == nil {
		if key := r.Header.Get("Idempotency-Key"); key != "" {
			in.Key = key
		}
		if tx := r.Header.Get(headerTxID); tx != "" {
			in.TxID = tx
		}
		result, err = f.run(h, r.Context(), store, in)
	}
	switch {
	case err != nil:
		h.failCall(w, r, f, err)
	case result == nil:
		w.Header()["Cache-Control"] = noStore
		w.WriteHeader(http.StatusNoContent)
	default:
		answer(w, r, http.StatusOK, result)
	}
	return nil
}

func (h *Handler) failCall(w http.ResponseWriter, r *http.Request, f function, err error) {
	if wrong := deserialization(err); wrong != nil {
		answer(w, r, http.StatusBadRequest, encode(functionError{Code: codeDeserialization, Message: wrong.Error()}))
		return
	}
	failure := h.failure(r.Context(), err)
	for i := 0; i+1 < len(failure.Headers); i += 2 {
		w.Header()[failure.Headers[i]] = []string{failure.Headers[i+1]}
	}
	out := functionError{Code: f.code, Message: failure.Detail.Message, Detail: &failure.Detail}
	if refused, ok := errors.AsType[*runnel.OperationsError](err); ok {
		failure.Status, out.Errors = http.StatusUnprocessableEntity, failures(refused.Failed)
		failure.Detail.Item = refused.Item.Key
	}
	answer(w, r, failure.Status, encode(out))
}

// deserialization returns what is wrong with the form of an input, or of the operations in it, nil if it is
// something else that failed.
func deserialization(err error) error {
	if wrong, ok := errors.AsType[*inputError](err); ok {
		return wrong
	}
	if wrong, ok := errors.AsType[*ops.ParseError](err); ok {
		return wrong
	}
	return nil
}

func parseInput(body []byte) (*input, error) {
	if err := ops.Check(body); err != nil {
		return nil, &inputError{"the body " + err.Error()}
	}
	in := &input{raw: body}
	if err := json.Unmarshal(body, in); err != nil {
		if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok && wrong.Field != "" {
			return nil, &inputError{fmt.Sprintf("%s must not be a %s", strings.TrimPrefix(wrong.Field, "conditions."), wrong.Value)}
		}
		return nil, &inputError{"the body must be an object"}
	}
	if i := strings.IndexByte(" \t\r\n", body[0]); i < 0 && body[0] != '{' {
		return nil, &inputError{"the body must be an object"}
	}
	if in.Limit < 0 {
		return nil, &inputError{fmt.Sprintf("limit must not be less than 0, got %d", in.Limit)}
	}
	return in, nil
}

// need fails if one of the named fields is not there.
func (in *input) need(fields ...string) error {
	for _, field := range fields {
		missing := false
		switch field {
		case "stream_name":
			missing = in.Stream == nil
		case "group_id":
			missing = in.Group == nil
		case "item_id":
			missing = in.Item == nil
		case "data":
			missing = in.Data == nil
		case "ops":
			missing = in.Ops == nil
		case "type":
			missing = in.Type == nil
		}
		if missing {
			return &inputError{"missing field " + field}
		}
	}
	return nil
}

// item returns the address of the item that the input is about.
func (in *input) item(store runnel.Store, more ...string) (runnel.Segment, string, error) {
	if err := in.need(append([]string{"stream_name", "group_id", "item_id"}, more...)...); err != nil {
		return runnel.Segment{}, "", err
	}
	seg, err := segment(store, *in.Stream, *in.Group)
	return seg, *in.Item, err
}

// write returns the write that the conditions describe, but for what is written.
func (c *conditions) write(item string) (runnel.ItemWrite, error) {
	w := runnel.ItemWrite{ItemKey: runnel.ItemKey{Key: item}}
	if c.IfVersion != nil {
		version := runnel.Sequence(*c.IfVersion)
		w.IfVersion = &version
	}
	if c.IfAbsent {
		if c.IfVersion != nil && *c.IfVersion != 0 {
			return w, &inputError{"if_absent and if_version exclude each other"}
		}
		w.IfVersion = new(runnel.Sequence)
	}
	var err error
	if c.TTL != nil {
		w.TTL, err = ttl(*c.TTL)
	}
	return w, err
}

// maxTTL is the longest life of an item.
const maxTTL = 100 * 365 * 24 * time.Hour

// ttl reads a life in seconds.
func ttl(seconds float64) (time.Duration, error) {
	if !(seconds >= 0.001 && seconds <= maxTTL.Seconds()) {
		return 0, invalid("ttl must be between 0.001 and %.0f seconds, got %v", maxTTL.Seconds(), seconds)
	}
	return time.Duration(seconds * float64(time.Second)), nil
}

// writeOne commits one write.
func (h *Handler) writeOne(ctx context.Context, seg runnel.Segment, c *conditions, sum []byte, w runnel.ItemWrite) (runnel.ItemsWritten, error) {
	writes := runnel.ItemWrites{Segment: seg.Name, TxID: c.TxID, Writes: []runnel.ItemWrite{w}}
	return h.write(ctx, seg, writes, c.Key, sum)
}

func (h *Handler) write(ctx context.Context, seg runnel.Segment, writes runnel.ItemWrites, key string, sum []byte) (runnel.ItemsWritten, error) {
	if key != "" {
		hash := fnv.New64a()
		_, _ = hash.Write(sum) // never fails
		writes.Key, writes.Sum = key, hash.Sum64()
	}
	written, err := h.log.WriteItems(ctx, seg.In(), writes)
	if err != nil {
		return runnel.ItemsWritten{}, err
	}
	return written[0], nil
}

func valueOf(it *runnel.Item) []byte {
	if it == nil {
		return null
	}
	return it.Value
}

var null = []byte("null")

// changed is the result of a function that changes an item.
func changed(written *runnel.ItemsWritten, withNew bool) []byte {
	result := &written.Results[0]
	old, next := valueOf(result.Old), valueOf(result.New)
	b := make([]byte, 0, len(old)+len(next)+96)
	b = append(append(b, `{"old_value":`...), old...)
	if withNew {
		b = append(append(b, `,"new_value":`...), next...)
	}
	b = appendFailed(b, result.Failed)
	if result.New != nil {
		b = append(b, `,"version":`...)
		b = strconv.AppendUint(b, uint64(result.New.Version), 10)
	}
	if written.Duplicate {
		b = append(b, `,"duplicate":true`...)
	}
	return append(b, '}')
}

func (h *Handler) callSet(ctx context.Context, store runnel.Store, in *input) ([]byte, error) {
	seg, item, err := in.item(store, "data")
	if err != nil {
		return nil, err
	}
	w, err := in.write(item)
	if err != nil {
		return nil, err
	}
	w.Value = ops.Compact(in.Data)
	written, err := h.writeOne(ctx, seg, &in.conditions, in.raw, w)
	if err != nil {
		return nil, err
	}
	return changed(&written, true), nil
}

func (h *Handler) callGet(ctx context.Context, store runnel.Store, in *input) ([]byte, error) {
	seg, item, err := in.item(store)
	if err != nil {
		return nil, err
	}
	it, err := h.log.Item(ctx, seg, runnel.ItemKey{Key: item})
	switch {
	case errors.Is(err, runnel.ErrNotFound):
		return nil, nil // no result at all: a stored null is something else
	case err != nil:
		return nil, err
	}
	return it.Value, nil
}

func (h *Handler) callDelete(ctx context.Context, store runnel.Store, in *input) ([]byte, error) {
	seg, item, err := in.item(store)
	if err != nil {
		return nil, err
	}
	w, err := in.write(item)
	if err != nil {
		return nil, err
	}
	written, err := h.deleteItem(ctx, seg, &in.conditions, in.raw, w)
	if err != nil {
		return nil, err
	}
	return changed(&written, false), nil
}

// deleteItem deletes an item, and does not make a group to find that it is not there.
func (h *Handler) deleteItem(ctx context.Context, seg runnel.Segment, c *conditions, sum []byte, w runnel.ItemWrite) (runnel.ItemsWritten, error) {
	if _, err := h.log.Items(ctx, seg, runnel.ItemQuery{Prefix: w.Key, Limit: 1}); errors.Is(err, runnel.ErrNotFound) {
		if w.IfVersion != nil && *w.IfVersion > 0 || w.IfExists {
			return runnel.ItemsWritten{}, &runnel.ItemMovedError{Segment: seg, Item: w.ItemKey, Want: w.IfVersion}
		}
		return runnel.ItemsWritten{Results: make([]runnel.ItemResult, 1)}, nil
	} else if err != nil {
		return runnel.ItemsWritten{}, err
	}
	w.Value, w.TTL = nil, 0
	return h.writeOne(ctx, seg, c, sum, w)
}

func (h *Handler) callUpdate(ctx context.Context, store runnel.Store, in *input) ([]byte, error) {
	seg, item, err := in.item(store, "ops")
	if err != nil {
		return nil, err
	}
	w, err := in.write(item)
	if err != nil {
		return nil, err
	}
	w.Ops, w.Partial, w.KeepTTL = in.Ops, !in.Atomic, in.TTL == nil
	written, err := h.writeOne(ctx, seg, &in.conditions, in.raw, w)
	if err != nil {
		return nil, err
	}
	return changed(&written, true), nil
}

func (h *Handler) callSend(ctx context.Context, store runnel.Store, in *input) ([]byte, error) {
	if err := in.need("stream_name", "group_id", "type", "data"); err != nil {
		return nil, err
	}
	seg, err := segment(store, *in.Stream, *in.Group)
	if err != nil {
		return nil, err
	}
	return null, h.send(ctx, seg, event{item: in.ID, subscription: in.Subscription, kind: *in.Type, data: ops.Compact(in.Data)})
}

// readGroup reads items of a group that need not exist.
func (h *Handler) readGroup(ctx context.Context, seg runnel.Segment, q runnel.ItemQuery) (runnel.ItemView, error) {
	view, err := h.log.Items(ctx, seg, q)
	if errors.Is(err, runnel.ErrNotFound) {
		return runnel.ItemView{Info: runnel.Info{Segment: seg}}, nil
	}
	return view, err
}

func (h *Handler) callList(ctx context.Context, store runnel.Store, in *input) ([]byte, error) {
	if err := in.need("stream_name", "group_id"); err != nil {
		return nil, err
	}
	seg, err := segment(store, *in.Stream, *in.Group)
	if err != nil {
		return nil, err
	}
	view, err := h.readGroup(ctx, seg, runnel.ItemQuery{Prefix: in.Prefix, After: in.After, Limit: in.Limit})
	if err != nil {
		return nil, err
	}
	return values(view.Items), nil
}

// values is a JSON array of the values of items.
func values(items []runnel.Item) []byte {
	n := 2
	for i := range items {
		n += len(items[i].Value) + 1
	}
	b := append(make([]byte, 0, n), '[')
	for i := range items {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, items[i].Value...)
	}
	return append(b, ']')
}

func (h *Handler) callListGroups(ctx context.Context, store runnel.Store, in *input) ([]byte, error) {
	if err := in.need("stream_name"); err != nil {
		return nil, err
	}
	names, _, err := h.groups(ctx, store, *in.Stream, in.Prefix, in.After, in.Limit)
	if err != nil {
		return nil, err
	}
	return encode(names), nil
}

// groups lists the groups of a stream by name, and whether there are more.
func (h *Handler) groups(ctx context.Context, store runnel.Store, stream, prefix, after string, limit int) ([]string, bool, error) {
	space := runnel.Space{Store: store, Name: stream}
	if err := space.Validate(); err != nil {
		return nil, false, inOurWords(err)
	}
	names := []string{}
	for info, err := range h.log.ItemGroups(ctx, space, prefix, after) {
		if err != nil {
			return nil, false, err
		}
		if limit > 0 && len(names) == limit {
			return names, true, nil
		}
		names = append(names, info.Segment.Name)
	}
	return names, false, nil
}

func (h *Handler) streams(ctx context.Context, store runnel.Store, prefix, after string, limit int) ([]string, bool, error) {
	names := []string{}
	for space, err := range h.log.ItemSpaces(ctx, store, prefix, after) {
		if err != nil {
			return nil, false, err
		}
		if limit > 0 && len(names) == limit {
			return names, true, nil
		}
		names = append(names, space.Name)
	}
	return names, false, nil
}

func (h *Handler) callListAll(ctx context.Context, store runnel.Store, in *input) ([]byte, error) {
	type stream struct {
		ID     string   `json:"id"`
		Groups []string `json:"groups"`
	}
	all := struct {
		Stream []stream `json:"stream"`
		Count  int      `json:"count"`
	}{Stream: []stream{}}
	names, _, err := h.streams(ctx, store, in.Prefix, in.After, in.Limit)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		groups, _, err := h.groups(ctx, store, name, "", "", 0)
		if err != nil {
			return nil, err
		}
		all.Stream = append(all.Stream, stream{name, groups})
	}
	all.Count = len(all.Stream)
	return encode(all), nil
}

func notAllowed(w http.ResponseWriter, allow string) error {
	w.Header().Set("Allow", allow)
	return &wire.Error{
		Status: http.StatusMethodNotAllowed,
		Detail: wire.Detail{Code: wire.CodeMethodNotAllowed, Message: "the method is not one of " + allow},
	}
}
