package engine

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/record"
)

// DefaultContentType is what a segment has that was created without one.
const DefaultContentType = "application/octet-stream"

// maxContentTypeBytes bounds what is kept with every segment.
const maxContentTypeBytes = 256

// Create makes a segment, with its first entries, or finds that one of the same configuration is there
// already and changes nothing. It returns when what it speaks of is durable.
//
// It fails with runnel.ErrExists when the name has another configuration, ErrSoftDeleted when forks hold
// it back, and with ErrInvalid, ErrTooLarge, ErrStorageFull or ErrUnknown as Append does. For a fork it also fails with
// ErrNotFound or ErrSoftDeleted of the source, ErrContentType when the type is not the source's,
// ErrTrimmed when the source no longer has what would be inherited, and ErrBeyondTail when it does not
// have it yet. The records are not kept.
func (e *Engine) Create(ctx context.Context, addr runnel.Segment, o runnel.CreateOptions) (runnel.Created, error) {
	if err := addr.Validate(); err != nil {
		return runnel.Created{}, err
	}
	if err := checkCreate(&o); err != nil {
		return runnel.Created{}, err
	}
	if o.Fork != nil {
		return e.createFork(ctx, addr, &o)
	}
	return e.create(ctx, addr, &o, nil)
}

func checkCreate(o *runnel.CreateOptions) error {
	if len(o.ContentType) > maxContentTypeBytes {
		return &runnel.TooLargeError{What: "content type", Limit: maxContentTypeBytes, Got: int64(len(o.ContentType))}
	}
	if o.TTL < 0 {
		return &runnel.InvalidError{What: "ttl", Rule: "must not be negative"}
	}
	if (o.TTL > 0 || o.HasTTL) && !o.ExpiresAt.IsZero() {
		return &runnel.InvalidError{What: "ttl and expiry", Rule: "exclude each other"}
	}
	if o.Retention.Age < 0 {
		return &runnel.InvalidError{What: "retention age", Rule: "must not be negative"}
	}
	if o.Items {
		if err := checkItemSegment(o); err != nil {
			return err
		}
	}
	return fit(o.Records, o.Retention)
}

// checkItemSegment checks what only holds for item segments.
func checkItemSegment(o *runnel.CreateOptions) error {
	var rule string
	switch {
	case o.ContentType != "" && !runnel.IsJSON(o.ContentType):
		rule = fmt.Sprintf("must have the content type application/json, not %q", o.ContentType)
	case o.Fork != nil:
		rule = "cannot be a fork"
	case o.Retention != (runnel.Retention{}):
		rule = "cannot bound what it retains"
	default:
		return nil
	}
	return &runnel.InvalidError{What: "item segment", Rule: rule}
}

// contentType is that of a segment made with these options and no fork.
func contentType(o *runnel.CreateOptions) string {
	switch {
	case o.ContentType != "":
		return o.ContentType
	case o.Items:
		return "application/json"
	}
	return DefaultContentType
}

// fit returns nil if each of the records can be retained.
func fit(records []runnel.Record, bounds runnel.Retention) error {
	for i := range records {
		if n := uint64(len(records[i].Payload)); bounds.Bytes > 0 && n > bounds.Bytes {
			return &runnel.TooLargeError{What: "record of a segment that retains so many bytes", Limit: int64(bounds.Bytes), Got: int64(n)}
		}
	}
	return nil
}

// create makes the segment that o describes, beginning as branch says, or where branch is nil, empty.
func (e *Engine) create(ctx context.Context, addr runnel.Segment, o *runnel.CreateOptions, from *branch) (runnel.Created, error) {
	records := o.Records
	if from != nil && from.partial != nil {
		records = append([]runnel.Record{*from.partial}, records...)
	}
	bodies, _, _, _ := e.bodies(records)
	size, ops := e.cost(bodies)
	size += 16*rowBytes + len(o.ContentType) + 2*runnel.MaxSpaceBytes
	ops += 12
	if from != nil {
		size += descriptorBytes(&record.Descriptor{Fork: from.fork})
	}
	var entries []itemEntry
	if o.Items {
		var err error
		if entries, err = e.parseEntries(records); err != nil {
			return runnel.Created{}, err
		}
		s, n := itemsCost(entries)
		size += s
		ops += n
	}
	for {
		created, err := e.tryCreate(ctx, addr, o, from, bodies, entries, size, ops)
		if !errors.Is(err, errRetry) {
			return created, err
		}
	}
}

func (e *Engine) tryCreate(ctx context.Context, addr runnel.Segment, o *runnel.CreateOptions, from *branch, bodies []*record.Body, entries []itemEntry, size, ops int) (runnel.Created, error) {
	seg, err := e.acquire(ctx, addr)
	if err != nil {
		return runnel.Created{}, err
	}
	defer seg.release()
	var created runnel.Created
	var told *state // what the answer describes
	size += seg.descriptorBytes()
	err = seg.sp.write(ctx, size, ops, func(t *tx) error {
		if seg.stale.Load() {
			return errRetry
		}
		st := seg.staged
		switch st.life(t.micros) {
		case lifeSoftDeleted:
			return t.live(seg, addr)
		case lifeLive:
			t.dependOn(seg)
			told = st
			created = runnel.Created{Info: st.info(addr), Existed: true}
			return st.matches(addr, o)
		}
		if from != nil && e.now()-from.claimed >= orphanAge.Microseconds()/2 {
			return &runnel.UnavailableError{Reason: "storage took too long to make a fork"}
		}
		if err := t.grow(); err != nil {
			return err
		}
		t.expire(seg)
		t.create(seg, o, from, bodies, entries)
		told = seg.staged
		created = runnel.Created{Info: told.info(addr)}
		t.b.events = append(t.b.events, runnel.Event{Info: created.Info})
		return nil
	})
	if err != nil {
		return runnel.Created{}, err
	}
	// It is durable by now, so the cut can be looked for. Where that fails, because the segment has gone or been
	// trimmed meanwhile for instance, the creation is still what happened.
	if c, err := e.cut(ctx, seg.sp, told, created.Earliest, e.now()); err == nil {
		created.Earliest = c.at
	}
	return created, nil
}

// create stages a segment where there is none.
func (t *tx) create(seg *segment, o *runnel.CreateOptions, from *branch, bodies []*record.Body, entries []itemEntry) {
	position := t.take(1)
	desc := &record.Descriptor{
		ID:          uint64(position),
		ContentType: o.ContentType,
		Created:     t.micros,
		Retention:   o.Retention,
		Closed:      o.Closed,
		Items:       o.Items,
	}
	switch {
	case o.TTL > 0:
		desc.TTL = o.TTL
	case o.HasTTL:
		desc.TTL = 1
	case !o.ExpiresAt.IsZero():
		desc.ExpiresAt = max(o.ExpiresAt.UnixMicro(), 1)
	}
	st := &state{desc: desc, inc: newIncarnation(desc.ID)}
	st.inc.fresh = true
	st.inc.accessed.Store(t.micros)
	if o.Items {
		st.lead = t.sp.items.Stamp
	}
	if from != nil {
		from.inherit(desc, o)
		st.tail, st.bytes = desc.Fork.Base, desc.Fork.BaseBytes
	}
	if desc.ContentType == "" {
		desc.ContentType = contentType(o)
	}
	st.inc.retained.start(st)
	t.set(seg, st)
	t.put(descriptorKey(seg.name), desc.Append(nil))
	t.put(nameKey(desc.ID), []byte(seg.name))
	t.sp.names.add(seg.name)
	t.b.retell = append(t.b.retell, t.sp.subs.toldIn(seg.addr().Path())...)
	t.change(record.Created, desc.ID, position, st.tail, 0)
	if due, ok := st.due(t.micros); ok {
		t.put(dueKey(due, desc.ID), []byte(seg.name))
	}
	if len(bodies) > 0 {
		first, _ := t.append(seg, bodies, position)
		if o.Items {
			t.foldItems(seg, entries, first)
		}
	}
	if o.Closed {
		t.change(record.Closed, desc.ID, t.take(1), seg.staged.tail, 0)
	}
}

// matches returns nil if a request to create the segment asks for what it already is.
func (st *state) matches(addr runnel.Segment, o *runnel.CreateOptions) error {
	d := st.desc
	differs := func(field, have, want string) error {
		return &runnel.ExistsError{Segment: addr, Field: field, Have: have, Want: want}
	}
	fork := d.Fork
	if (o.Fork == nil) != (fork == nil) {
		return differs("fork", forkText(fork), forkText(requested(o.Fork)))
	}
	if fork != nil {
		if want := requested(o.Fork); fork.Space != want.Space || fork.Segment != want.Segment ||
			fork.At != want.At || fork.Latest != want.Latest || fork.Sub != want.Sub {
			return differs("fork", forkText(fork), forkText(want))
		}
	}
	want := contentType(o)
	if o.ContentType == "" && fork != nil {
		want = d.ContentType
	}
	if runnel.MediaType(want) != runnel.MediaType(d.ContentType) {
		return differs("content type", d.ContentType, want)
	}
	if d.Items != o.Items {
		return differs("items", strconv.FormatBool(d.Items), strconv.FormatBool(o.Items))
	}
	ownExpiry := o.TTL > 0 || o.HasTTL || !o.ExpiresAt.IsZero()
	if fork == nil || ownExpiry || fork.OwnExpiry {
		want := o.TTL
		if o.HasTTL {
			want = max(want, 1)
		}
		if d.TTL != want {
			return differs("ttl", d.TTL.String(), o.TTL.String())
		}
		if expires := microsOrZero(o.ExpiresAt); d.ExpiresAt != expires {
			return differs("expiry", timeText(d.ExpiresAt), timeText(expires))
		}
	}
	if ownRetention := o.Retention != (runnel.Retention{}); fork == nil || ownRetention || fork.OwnRetention {
		if d.Retention != o.Retention {
			return differs("retention", fmt.Sprintf("%+v", d.Retention), fmt.Sprintf("%+v", o.Retention))
		}
	}
	if d.Closed != o.Closed {
		return differs("closed", strconv.FormatBool(d.Closed), strconv.FormatBool(o.Closed))
	}
	return nil
}

func microsOrZero(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return max(t.UnixMicro(), 1)
}

func timeText(micros int64) string {
	if micros == 0 {
		return "none"
	}
	return time.UnixMicro(micros).UTC().Format(time.RFC3339Nano)
}
