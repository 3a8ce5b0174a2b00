package crash

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/wire"
)

// log is what the simulator uses of an engine. A broken variant wraps it.
type log interface {
	Create(ctx context.Context, seg runnel.Segment, o runnel.CreateOptions) (runnel.Created, error)
	Append(ctx context.Context, seg runnel.Segment, o runnel.AppendOptions, records ...runnel.Record) (runnel.Appended, error)
	Commit(ctx context.Context, space runnel.Space, writes ...runnel.Write) ([]runnel.Appended, error)
	Delete(ctx context.Context, seg runnel.Segment) error
	Stat(ctx context.Context, seg runnel.Segment) (runnel.Info, error)
	Read(ctx context.Context, seg runnel.Segment, id uint64, from runnel.Sequence) (runnel.View, error)
	ReadStart(ctx context.Context, seg runnel.Segment) (runnel.View, error)
	Wait(ctx context.Context, seg runnel.Segment, id uint64, after runnel.Sequence) (runnel.Info, error)
	Tail(ctx context.Context, seg runnel.Segment, id uint64, from runnel.Sequence) iter.Seq2[runnel.Batch, error]
	List(ctx context.Context, store runnel.Store, o runnel.ListOptions) iter.Seq2[runnel.Info, error]
	Watch(ctx context.Context, store runnel.Store) iter.Seq[runnel.Event]
	coordination
}

// front is a way in.
type front interface {
	name() string
	create(ctx context.Context, at runnel.Segment, o runnel.CreateOptions) (answer, error)
	append(ctx context.Context, at runnel.Segment, o runnel.AppendOptions, payloads []string) (answer, error)
	delete(ctx context.Context, at runnel.Segment) error
	stat(ctx context.Context, at runnel.Segment) (answer, error)
	read(ctx context.Context, at runnel.Segment, from runnel.Sequence) (answer, error)
}

// inProcess is the engine as a library.
type inProcess struct{ log }

func (inProcess) name() string { return "go" }

func (f inProcess) create(ctx context.Context, at runnel.Segment, o runnel.CreateOptions) (answer, error) {
	c, err := f.Create(ctx, at, o)
	return answer{Info: &c.Info, Existed: c.Existed}, err
}

func (f inProcess) append(ctx context.Context, at runnel.Segment, o runnel.AppendOptions, payloads []string) (answer, error) {
	a, err := f.Append(ctx, at, o, recordsOf(payloads)...)
	return answer{Appended: a}, err
}

func (f inProcess) delete(ctx context.Context, at runnel.Segment) error { return f.Delete(ctx, at) }

func (f inProcess) stat(ctx context.Context, at runnel.Segment) (answer, error) {
	info, err := f.Stat(ctx, at)
	return answer{Info: &info}, err
}

func (f inProcess) read(ctx context.Context, at runnel.Segment, from runnel.Sequence) (answer, error) {
	v, err := f.Read(ctx, at, 0, from)
	if err != nil {
		return answer{}, err
	}
	a := answer{Info: &v.Info, From: v.From}
	next := v.From + 1
	for b, err := range v.Batches {
		if err != nil {
			return answer{}, err
		}
		if b.First() != next || b.Last() != next+runnel.Sequence(b.Len())-1 {
			return answer{}, fmt.Errorf("a batch of %d entries from %d to %d where %d comes next", b.Len(), b.First(), b.Last(), next)
		}
		for i := range b.Len() {
			e := b.Entry(i)
			if e.Sequence != next {
				return answer{}, fmt.Errorf("entry %d where %d comes next", e.Sequence, next)
			}
			next++
			a.Payloads = append(a.Payloads, string(e.Payload))
			a.Entries = append(a.Entries, e)
		}
	}
	if next != v.Tail+1 {
		return answer{}, fmt.Errorf("the view ends at %d and its tail is %d", next-1, v.Tail)
	}
	return a, nil
}

// overHTTP is the engine behind the handler.
type overHTTP struct{ h http.Handler }

func (overHTTP) name() string { return "http" }

const prefix = "/v1/stream/"

func (f overHTTP) do(ctx context.Context, method, target, body string, header ...string) (*httptest.ResponseRecorder, error) {
	r := httptest.NewRequestWithContext(ctx, method, prefix+target, strings.NewReader(body))
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	f.h.ServeHTTP(w, r)
	if w.Code < 400 {
		return w, nil
	}
	if w.Code == 499 {
		return w, ctx.Err()
	}
	var b wire.Body
	if err := json.Unmarshal(w.Body.Bytes(), &b); err != nil || b.Error.Code == "" {
		return w, fmt.Errorf("status %d with body %q", w.Code, w.Body.String())
	}
	return w, b.Err(w.Code)
}

func isJSON(contentType string) bool { return contentType == "application/json" }

// bodyOf makes one body of payloads: a JSON array, or else all of them run together.
func bodyOf(contentType string, payloads []string) string {
	if isJSON(contentType) && len(payloads) > 0 {
		return "[" + strings.Join(payloads, ",") + "]"
	}
	return strings.Join(payloads, "")
}

func (f overHTTP) create(ctx context.Context, at runnel.Segment, o runnel.CreateOptions) (answer, error) {
	var header []string
	add := func(name, value string) { header = append(header, name, value) }
	if o.ContentType != "" {
		add(wire.HeaderContentType, o.ContentType)
	}
	if o.TTL > 0 {
		add(wire.HeaderTTL, strconv.Itoa(int(o.TTL/time.Second)))
	}
	if !o.ExpiresAt.IsZero() {
		add(wire.HeaderExpiresAt, o.ExpiresAt.Format(time.RFC3339Nano))
	}
	if o.Retention.Age > 0 {
		add(wire.HeaderRetentionAge, strconv.Itoa(int(o.Retention.Age/time.Second)))
	}
	if o.Retention.Bytes > 0 {
		add(wire.HeaderRetentionBytes, strconv.FormatUint(o.Retention.Bytes, 10))
	}
	if o.Retention.Entries > 0 {
		add(wire.HeaderRetentionCount, strconv.FormatUint(o.Retention.Entries, 10))
	}
	if o.Closed {
		add(wire.HeaderClosed, "true")
	}
	if fork := o.Fork; fork != nil {
		add(wire.HeaderForkedFrom, prefix+fork.Source.Path())
		if !fork.Latest {
			add(wire.HeaderForkOffset, fork.At.Offset())
		}
		if fork.Sub > 0 {
			add(wire.HeaderForkSubOffset, strconv.FormatUint(fork.Sub, 10))
		}
	}
	w, err := f.do(ctx, "PUT", at.Path(), bodyOf(o.ContentType, payloadsOf(o.Records)), header...)
	if err != nil {
		return answer{}, err
	}
	tail, err := runnel.ParseOffset(w.Header().Get(wire.HeaderNextOffset))
	info := runnel.Info{Tail: tail, ContentType: w.Header().Get(wire.HeaderContentType), Closed: w.Header().Get(wire.HeaderClosed) == "true"}
	return answer{Info: &info, Existed: w.Code == http.StatusOK}, err
}

func (f overHTTP) append(ctx context.Context, at runnel.Segment, o runnel.AppendOptions, payloads []string) (answer, error) {
	var header []string
	add := func(name, value string) { header = append(header, name, value) }
	if o.ContentType != "" {
		add(wire.HeaderContentType, o.ContentType)
	}
	if p := o.Producer; p != nil {
		add(wire.HeaderProducerID, p.ID)
		add(wire.HeaderProducerEpoch, strconv.FormatUint(p.Epoch, 10))
		add(wire.HeaderProducerSeq, strconv.FormatUint(p.Seq, 10))
	}
	if o.HasStreamSeq {
		add(wire.HeaderSeq, o.StreamSeq)
	}
	if o.Expect != nil {
		add(wire.HeaderIfMatch, o.Expect.Offset())
	}
	if o.Close {
		add(wire.HeaderClosed, "true")
	}
	w, err := f.do(ctx, "POST", at.Path(), bodyOf(o.ContentType, payloads), header...)
	if err != nil {
		return answer{}, err
	}
	var a answer
	if a.Tail, err = runnel.ParseOffset(w.Header().Get(wire.HeaderNextOffset)); err != nil {
		return a, err
	}
	a.Closed = w.Header().Get(wire.HeaderClosed) == "true"
	if o.Producer != nil {
		if a.ProducerSeq, err = strconv.ParseUint(w.Header().Get(wire.HeaderProducerSeq), 10, 64); err != nil {
			return a, err
		}
		a.Duplicate = w.Code == http.StatusNoContent
	}
	return a, nil
}

func (f overHTTP) delete(ctx context.Context, at runnel.Segment) error {
	_, err := f.do(ctx, "DELETE", at.Path(), "")
	return err
}

func (f overHTTP) stat(ctx context.Context, at runnel.Segment) (answer, error) {
	w, err := f.do(ctx, "HEAD", at.Path(), "")
	if err != nil {
		return answer{}, err
	}
	h := w.Header()
	var info runnel.Info
	if info.Tail, err = runnel.ParseOffset(h.Get(wire.HeaderNextOffset)); err != nil {
		return answer{}, err
	}
	if e := h.Get(wire.HeaderEarliestOffset); e != "" {
		if info.Earliest, err = runnel.ParseOffset(e); err != nil {
			return answer{}, err
		}
	}
	info.ContentType = h.Get(wire.HeaderContentType)
	info.Closed = h.Get(wire.HeaderClosed) == "true"
	return answer{Info: &info}, nil
}

func (f overHTTP) read(ctx context.Context, at runnel.Segment, from runnel.Sequence) (answer, error) {
	offset := wire.OffsetNow
	if from != runnel.Latest {
		offset = from.Offset()
	}
	w, err := f.do(ctx, "GET", at.Path()+"?offset="+offset, "")
	if err != nil {
		return answer{}, err
	}
	h := w.Header()
	var info runnel.Info
	if info.Tail, err = runnel.ParseOffset(h.Get(wire.HeaderNextOffset)); err != nil {
		return answer{}, err
	}
	if e := h.Get(wire.HeaderEarliestOffset); e != "" {
		if info.Earliest, err = runnel.ParseOffset(e); err != nil {
			return answer{}, err
		}
	}
	info.ContentType = h.Get(wire.HeaderContentType)
	info.Closed = h.Get(wire.HeaderClosed) == "true"
	return answer{Info: &info, From: from, Payloads: []string{w.Body.String()}}, nil
}

// differs says in what an answer is not the one that the model gives, as far as the way in tells.
func differs(f front, want outcome, got answer, err error) string {
	if want.err != nil || err != nil {
		return differsError(want.err, err)
	}
	if f.name() == "http" {
		return differsHTTP(want.ok, got)
	}
	w, g := want.ok, got
	if w.Info != nil {
		if g.Info == nil {
			return "there is no answer"
		}
		wi, gi := *w.Info, *g.Info
		if wi.ID == 0 {
			wi.ID = gi.ID
		}
		if w.created {
			wi.Earliest = gi.Earliest // as of when somebody last looked
		}
		if !gi.Created.Before(wi.Created) && !gi.Created.After(w.late) {
			wi.Created = gi.Created
		}
		if wi != gi {
			return fmt.Sprintf("want %+v, got %+v", wi, gi)
		}
	}
	if w.Existed != g.Existed || len(w.Payloads) != len(g.Payloads) {
		return fmt.Sprintf("want existed %v and %s, got %v and %s", w.Existed, short(w.Payloads), g.Existed, short(g.Payloads))
	}
	for i := range w.Payloads {
		if w.Payloads[i] != g.Payloads[i] {
			return fmt.Sprintf("entry %d of %s is %s", i+1, short(w.Payloads), short(g.Payloads))
		}
	}
	if len(w.More) != len(g.More) {
		return fmt.Sprintf("want %d more answers, got %d", len(w.More), len(g.More))
	}
	ws, gs := append([]runnel.Appended{w.Appended}, w.More...), append([]runnel.Appended{g.Appended}, g.More...)
	for i, w := range ws {
		g := gs[i]
		same := w.Time.Equal(g.Time) || !g.Time.Before(w.Time) && !g.Time.After(want.ok.late)
		w.Time, g.Time, g.Position = time.Time{}, time.Time{}, 0
		if !same || w != g {
			return fmt.Sprintf("write %d: want %+v, got %+v", i, ws[i], gs[i])
		}
	}
	return ""
}

func differsHTTP(w, g answer) string {
	if w.Info == nil {
		if w.Tail != g.Tail || w.Closed != g.Closed || w.ProducerSeq != g.ProducerSeq {
			return fmt.Sprintf("want %+v, got %+v", w.Appended, g.Appended)
		}
		return ""
	}
	if g.Info == nil || w.Info.Tail != g.Info.Tail || w.Info.Closed != g.Info.Closed || w.Info.ContentType != g.Info.ContentType || w.Existed != g.Existed {
		return fmt.Sprintf("want %+v, existed %v, got %+v, existed %v", *w.Info, w.Existed, g.Info, g.Existed)
	}
	if g.Payloads == nil {
		return ""
	}
	if w.Info.Earliest != g.Info.Earliest {
		return fmt.Sprintf("want the earliest place %d, got %d", w.Info.Earliest, g.Info.Earliest)
	}
	want := bodyOf(w.Info.ContentType, w.Payloads)
	if isJSON(w.Info.ContentType) && want == "" {
		want = "[]"
	}
	if want != g.Payloads[0] {
		return fmt.Sprintf("want the %d bytes of %s, got %d bytes, %.100q", len(want), short(w.Payloads), len(g.Payloads[0]), g.Payloads[0])
	}
	return ""
}

// differsError compares errors as a client of the wire sees them, with all their numbers.
func differsError(want, got error) string {
	if want == nil || got == nil {
		return fmt.Sprintf("want error %v, got %v", want, got)
	}
	w, g := wire.ErrorOf(want).Detail, wire.ErrorOf(got).Detail
	if w.Code == wire.CodeExists {
		w = wire.Detail{Code: w.Code, Field: w.Field}
		g = wire.Detail{Code: g.Code, Field: g.Field}
	}
	wantText, _ := json.Marshal(w) // of strings and numbers
	gotText, _ := json.Marshal(g)
	if string(wantText) != string(gotText) {
		return fmt.Sprintf("want error %s, got %s (%v)", wantText, gotText, got)
	}
	return ""
}

// unresolved tells whether an error leaves open what became of a write.
func unresolved(err error) bool {
	return errors.Is(err, runnel.ErrUnknown) || errors.Is(err, runnel.ErrFailed) ||
		errors.Is(err, context.Canceled) || errors.Is(err, runnel.ErrShutdown)
}
