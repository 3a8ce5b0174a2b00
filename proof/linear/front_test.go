package linear

import (
	"context"
	"fmt"
	"iter"
	"strings"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/durablestreams/dsclient"
	"github.com/runnelhq/runnel/engine"
)

// log is a way to the segments of one space, in the words of the models.
type log interface {
	Create(ctx context.Context, name string, o runnel.CreateOptions) (runnel.Created, error)
	Append(ctx context.Context, name string, o runnel.AppendOptions, payloads ...string) (runnel.Appended, error)
	Commit(ctx context.Context, writes ...runnel.Write) ([]runnel.Appended, error)
	Delete(ctx context.Context, name string) error
	Stat(ctx context.Context, name string) (runnel.Info, error)
	Read(ctx context.Context, name string, from runnel.Sequence) (snapshot, error)
	// Tail ends without an error after the last entry of a closed segment.
	Tail(ctx context.Context, name string, from runnel.Sequence) iter.Seq2[[]string, error]
	coordination
	table
}

// table is what a way to a space offers of items.
type table interface {
	WriteItems(ctx context.Context, writes runnel.ItemWrites) ([]runnel.ItemsWritten, error)
	Item(ctx context.Context, group, key string) (runnel.Item, error)
	Items(ctx context.Context, group string) (runnel.ItemView, error)
	// FollowItems tells what there is, and then what changes, for ever. Since is a place that was told before: then
	// it may go on there.
	FollowItems(ctx context.Context, group string, since place) iter.Seq2[news, error]
}

// snapshot is what a read showed. An ID of 0 was not told.
type snapshot struct {
	id       uint64
	tail     runnel.Sequence
	closed   bool
	payloads []string
}

func (s snapshot) shows() []string { return s.payloads }

func (s snapshot) String() string {
	return fmt.Sprintf("%s through %d%s", strings.Join(s.payloads, " "), s.tail, when(s.closed, ", closed")+identity(s.id))
}

func when(on bool, text string) string {
	if on {
		return text
	}
	return ""
}

func identity(id uint64) string { return when(id != 0, fmt.Sprintf(", id %d", id)) }

const (
	spaceName   = "s"
	contentType = "application/json"
)

var theSpace = runnel.Space{Name: spaceName}

func recordsOf(payloads []string) []runnel.Record {
	all := make([]runnel.Record, len(payloads))
	for i, payload := range payloads {
		all[i].Payload = []byte(payload)
	}
	return all
}

// inProcess calls the engine that is open at the moment.
type inProcess struct {
	engine func() *engine.Engine
	coordinating
	itemsOf
}

func (f inProcess) Create(ctx context.Context, name string, o runnel.CreateOptions) (runnel.Created, error) {
	return f.engine().Create(ctx, theSpace.Segment(name), o)
}

func (f inProcess) Append(ctx context.Context, name string, o runnel.AppendOptions, payloads ...string) (runnel.Appended, error) {
	return f.engine().Append(ctx, theSpace.Segment(name), o, recordsOf(payloads)...)
}

func (f inProcess) Commit(ctx context.Context, writes ...runnel.Write) ([]runnel.Appended, error) {
	return f.engine().Commit(ctx, theSpace, writes...)
}

func (f inProcess) Delete(ctx context.Context, name string) error {
	return f.engine().Delete(ctx, theSpace.Segment(name))
}

func (f inProcess) Stat(ctx context.Context, name string) (runnel.Info, error) {
	return f.engine().Stat(ctx, theSpace.Segment(name))
}

func (f inProcess) Read(ctx context.Context, name string, from runnel.Sequence) (snapshot, error) {
	v, err := f.engine().Read(ctx, theSpace.Segment(name), 0, from)
	if err != nil {
		return snapshot{}, err
	}
	got := snapshot{id: v.ID, tail: v.Tail, closed: v.Closed}
	for b, err := range v.Batches {
		if err != nil {
			return snapshot{}, err
		}
		got.payloads = append(got.payloads, textsOf(b)...)
	}
	return got, nil
}

func (f inProcess) Tail(ctx context.Context, name string, from runnel.Sequence) iter.Seq2[[]string, error] {
	return func(yield func([]string, error) bool) {
		for b, err := range f.engine().Tail(ctx, theSpace.Segment(name), 0, from) {
			if err != nil {
				yield(nil, err)
				return
			}
			if !yield(textsOf(b), nil) {
				return
			}
		}
	}
}

func textsOf(b runnel.Batch) []string {
	all := make([]string, b.Len())
	for i := range all {
		all[i] = string(b.Payload(i))
	}
	return all
}

// overHTTP calls a server through the client that users have. It is not told ids.
type overHTTP struct {
	coordination // which the protocol has not: it is nil
	table        // nor this
	client       *dsclient.Client
	longPoll     bool
}

func stream(name string) string { return spaceName + "/" + name }

func body(payloads []string) []byte {
	if len(payloads) == 0 {
		return nil
	}
	return []byte("[" + strings.Join(payloads, ",") + "]")
}

func (f overHTTP) Create(ctx context.Context, name string, o runnel.CreateOptions) (runnel.Created, error) {
	h := dsclient.CreateOptions{ContentType: o.ContentType, Retention: o.Retention, Closed: o.Closed, Body: body(payloadsOf(o.Records))}
	if o.Fork != nil {
		h.Fork = &dsclient.Fork{Source: stream(o.Fork.Source.Name)}
		if !o.Fork.Latest {
			h.Fork.At = dsclient.Offset(o.Fork.At.Offset())
		}
	}
	done, err := f.client.Create(ctx, stream(name), h)
	if err != nil {
		return runnel.Created{}, err
	}
	tail, err := runnel.ParseOffset(string(done.Offset))
	return runnel.Created{Info: runnel.Info{Tail: tail, Closed: done.Closed}, Existed: done.Existed}, err
}

func payloadsOf(records []runnel.Record) []string {
	var all []string
	for _, r := range records {
		all = append(all, string(r.Payload))
	}
	return all
}

func (f overHTTP) Append(ctx context.Context, name string, o runnel.AppendOptions, payloads ...string) (runnel.Appended, error) {
	h := dsclient.AppendOptions{Producer: o.Producer, Close: o.Close}
	if len(payloads) > 0 {
		h.ContentType = contentType
	}
	if o.Expect != nil {
		h.Expect = dsclient.Offset(o.Expect.Offset())
	}
	done, err := f.client.Append(ctx, stream(name), body(payloads), h)
	if err != nil {
		return runnel.Appended{}, err
	}
	tail, err := runnel.ParseOffset(string(done.Offset))
	told := runnel.Appended{Tail: tail, Duplicate: done.Duplicate, ProducerSeq: done.ProducerSeq, Closed: done.Closed}
	if n := runnel.Sequence(len(payloads)); n > 0 && !done.Duplicate {
		told.First = tail - n + 1
	}
	return told, err
}

func (f overHTTP) Commit(context.Context, ...runnel.Write) ([]runnel.Appended, error) {
	panic("the protocol has no commit")
}

func (f overHTTP) Delete(ctx context.Context, name string) error {
	return f.client.Delete(ctx, stream(name))
}

func (f overHTTP) Stat(ctx context.Context, name string) (runnel.Info, error) {
	got, err := f.client.Stat(ctx, stream(name))
	if err != nil {
		return runnel.Info{}, err
	}
	tail, err := runnel.ParseOffset(string(got.Offset))
	return runnel.Info{Tail: tail, Closed: got.Closed}, err
}

func (f overHTTP) Read(ctx context.Context, name string, from runnel.Sequence) (snapshot, error) {
	r, err := f.client.Read(ctx, stream(name), dsclient.Offset(from.Offset()))
	if err != nil {
		return snapshot{}, err
	}
	defer r.Close()
	var got snapshot
	for message, err := range r.Messages() {
		if err != nil {
			return snapshot{}, err
		}
		got.payloads = append(got.payloads, string(message))
	}
	got.closed = r.Closed()
	got.tail, err = runnel.ParseOffset(string(r.Offset()))
	return got, err
}

func (f overHTTP) Tail(ctx context.Context, name string, from runnel.Sequence) iter.Seq2[[]string, error] {
	return func(yield func([]string, error) bool) {
		place := dsclient.Offset(from.Offset())
		for b, err := range f.client.Tail(ctx, stream(name), place, dsclient.TailOptions{LongPoll: f.longPoll}) {
			if err != nil {
				yield(nil, err)
				return
			}
			var payloads []string
			for message, err := range b.Messages() {
				if err != nil {
					yield(nil, err)
					return
				}
				payloads = append(payloads, string(message))
			}
			if len(payloads) > 0 && !yield(payloads, nil) {
				return
			}
		}
	}
}
