package engine

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/record"
	"github.com/runnelhq/runnel/storage"
)

// A fork shares entries with its source without copying them. Source and fork may be of different
// spaces, which no commit spans, so forking takes two:
//
//  1. the source counts a reference, under a random key, which keeps its data from then on;
//  2. the fork is created, and names the reference in its descriptor.
//
// A crash between the two leaves a reference that no fork names; the cleaner finds and drops it. The
// other way round, the commit that ends a fork leaves a release row, and the cleaner takes the reference
// back before it removes that row. So data is kept too long at worst, never too short.

// branch is what a fork begins with.
type branch struct {
	fork   *record.Fork
	source *record.Descriptor
	// claimed is when the source was made to count the fork, in microseconds.
	claimed int64
	// partial is the beginning of the entry inside which the fork branches off. The fork gets it as an
	// entry of its own; nil when it branches off between entries.
	partial *runnel.Record
}

func requested(f *runnel.ForkFrom) *record.Fork {
	if f == nil {
		return nil
	}
	r := &record.Fork{Space: f.Source.Space, Segment: f.Source.Name, At: f.At, Latest: f.Latest, Sub: f.Sub}
	if f.Latest {
		r.At = 0
	}
	return r
}

func forkText(f *record.Fork) string {
	if f == nil {
		return "none"
	}
	path := runnel.Segment{Space: f.Space, Name: f.Segment}.Path()
	if f.Latest {
		return fmt.Sprintf("of %q at its tail", path)
	}
	return fmt.Sprintf("of %q at %d and %d", path, f.At, f.Sub)
}

func (e *Engine) createFork(ctx context.Context, addr runnel.Segment, o *runnel.CreateOptions) (runnel.Created, error) {
	source := o.Fork.Source
	if err := source.Validate(); err != nil {
		return runnel.Created{}, err
	}
	switch {
	case source.Store != addr.Store:
		return runnel.Created{}, &runnel.InvalidError{What: "fork", Rule: "must be of the same store as its source"}
	case o.Fork.Latest && o.Fork.Sub > 0:
		return runnel.Created{}, &runnel.InvalidError{What: "fork sub-offset", Rule: "needs a fork offset"}
	}
	// One that is there already, or in the way, must not pin the source.
	if created, done, err := e.findFork(ctx, addr, o); done {
		return created, err
	}
	var reference [16]byte
	if _, err := rand.Read(reference[:]); err != nil {
		return runnel.Created{}, fmt.Errorf("%w: %w", runnel.ErrUnavailable, err)
	}
	var from *branch
	for {
		var err error
		from, err = e.reference(ctx, addr, o, reference)
		if err == nil {
			break
		}
		if !errors.Is(err, errRetry) {
			if errors.Is(err, runnel.ErrUnknown) {
				e.cleaner.orphan(source.In())
			}
			return runnel.Created{}, err
		}
	}
	created, err := e.create(ctx, addr, o, from)
	switch {
	case errors.Is(err, runnel.ErrUnknown):
		e.cleaner.orphan(source.In()) // the cleaner will find out
	case err != nil || created.Existed:
		if err := e.dereference(context.WithoutCancel(ctx), source, from.fork.SourceID, reference); err != nil {
			e.cleaner.orphan(source.In())
		}
	}
	return created, err
}

// findFork answers the request if there is something under the name already.
func (e *Engine) findFork(ctx context.Context, addr runnel.Segment, o *runnel.CreateOptions) (_ runnel.Created, done bool, _ error) {
	for {
		seg, err := e.acquire(ctx, addr)
		if errors.Is(err, errRetry) {
			continue
		}
		if err != nil {
			return runnel.Created{}, true, err
		}
		var created runnel.Created
		free := false
		err = seg.sp.write(ctx, 16*rowBytes+seg.descriptorBytes(), 8, func(t *tx) error {
			if seg.stale.Load() {
				return errRetry
			}
			st := seg.staged
			t.dependOn(seg)
			switch st.life(t.micros) {
			case lifeNone:
				free = true
				return nil
			case lifeSoftDeleted:
				return t.live(seg, addr)
			}
			created = runnel.Created{Info: st.info(addr), Existed: true}
			return st.matches(addr, o)
		})
		seg.release()
		switch {
		case errors.Is(err, errRetry):
			continue
		case err != nil:
			return runnel.Created{}, true, err
		case free:
			return runnel.Created{}, false, nil
		}
		return created, true, nil
	}
}

// reference commits to the source that a fork reads it, and says what the fork inherits.
func (e *Engine) reference(ctx context.Context, addr runnel.Segment, o *runnel.CreateOptions, reference [16]byte) (*branch, error) {
	source := o.Fork.Source
	seg, err := e.acquire(ctx, source)
	if err != nil {
		return nil, err
	}
	defer seg.release()
	st := seg.durable.Load()
	if err := e.usable(ctx, seg, st, e.now()); err != nil {
		return nil, err
	}
	if o.ContentType != "" && runnel.MediaType(o.ContentType) != runnel.MediaType(st.desc.ContentType) {
		return nil, &runnel.ContentTypeError{Segment: source, Have: st.desc.ContentType, Got: o.ContentType}
	}
	if o.Retention == (runnel.Retention{}) {
		if err := fit(o.Records, st.desc.Retention); err != nil {
			return nil, err
		}
	}
	if _, err := e.retain(ctx, seg, st); err != nil {
		return nil, err
	}
	from := &branch{fork: requested(o.Fork)}
	if !o.Fork.Latest {
		if err := e.resolve(ctx, seg.sp, source, st, from); err != nil {
			return nil, seg.sp.moved(ctx, err)
		}
	}
	id := st.desc.ID
	size := 16*rowBytes + 2*runnel.MaxSpaceBytes + seg.descriptorBytes()
	err = seg.sp.write(ctx, size, 4, func(t *tx) error {
		st := seg.staged
		if seg.stale.Load() {
			return errRetry
		}
		if st.desc == nil || st.desc.ID != id {
			t.dependOn(seg) // its end, which is staged, has yet to become durable
			return errRetry
		}
		if err := t.live(seg, source); err != nil {
			return err
		}
		f := from.fork
		if f.Latest {
			f.Base, f.BaseBytes = st.tail, st.bytes
		}
		f.SourceID, f.Reference = id, reference
		f.Earliest = min(st.inc.retained.get(), f.Base)
		f.Extents = extents(seg.sp.part.Name, st.desc, f.Base)
		if got, most := descriptorBytes(&record.Descriptor{ContentType: st.desc.ContentType, Fork: f}), e.fragment(); got > most {
			return &runnel.TooLargeError{What: "list of segments that the fork would read", Limit: int64(most), Got: int64(got)}
		}
		f.OwnExpiry = o.TTL > 0 || o.HasTTL || !o.ExpiresAt.IsZero()
		f.OwnRetention = o.Retention != (runnel.Retention{})
		if err := t.grow(); err != nil {
			return err
		}
		row := record.Reference{Source: source.Name, Space: addr.Space, Segment: addr.Name, From: f.Earliest, Created: t.micros}
		t.put(referenceKey(id, reference), row.Append(nil))
		desc := *st.desc
		desc.References++
		t.describe(seg, &desc)
		from.source, from.claimed = &desc, e.now()
		return nil
	})
	if err != nil {
		return nil, err
	}
	return from, nil
}

// resolve finds the entry after which, or the one inside which, a fork branches off.
func (e *Engine) resolve(ctx context.Context, sp *space, source runnel.Segment, st *state, from *branch) error {
	f := from.fork
	if f.At > st.tail {
		return &runnel.BeyondTailError{Segment: source, From: f.At, Tail: st.tail}
	}
	if earliest := st.inc.retained.get(); f.At < earliest {
		return &runnel.TrimmedError{Segment: source, From: f.At, Earliest: earliest}
	}
	json := runnel.IsJSON(st.desc.ContentType)
	if json {
		if f.Sub > uint64(st.tail-f.At) {
			return &runnel.InvalidError{What: "fork sub-offset", Rule: fmt.Sprintf("is %d messages, only %d follow the offset", f.Sub, st.tail-f.At)}
		}
		f.Base = f.At + runnel.Sequence(f.Sub)
	} else {
		f.Base = f.At
	}
	bytesThrough, err := e.bytesThrough(ctx, sp, st, f.Base)
	if err != nil {
		return err
	}
	f.BaseBytes = bytesThrough
	if json || f.Sub == 0 {
		return nil
	}
	if rest := st.bytes - bytesThrough; f.Sub > rest {
		return &runnel.InvalidError{What: "fork sub-offset", Rule: fmt.Sprintf("is %d bytes, only %d follow the offset", f.Sub, rest)}
	}
	wanted := bytesThrough + f.Sub
	for run, err := range e.runs(ctx, sp, st, f.At, st.tail, borrow) {
		if err != nil {
			return err
		}
		for i := range run.Len() {
			through := run.BytesThrough(i)
			if through <= wanted {
				f.Base, f.BaseBytes = run.First()+runnel.Sequence(i), through
			}
			if through == wanted {
				return nil
			}
			if through > wanted {
				entry := run.Entry(i)
				head := entry.Payload[:wanted-f.BaseBytes]
				from.partial = &runnel.Record{Payload: bytes.Clone(head), Metadata: entry.Metadata}
				return nil
			}
		}
	}
	return fmt.Errorf("%w: segment ends before its %d bytes do", record.ErrCorrupt, st.bytes)
}

// bytesThrough counts the payload bytes of a segment up to and including an entry that is retained.
func (e *Engine) bytesThrough(ctx context.Context, sp *space, st *state, seq runnel.Sequence) (uint64, error) {
	if seq == 0 {
		return 0, nil
	}
	if seq == st.tail {
		return st.bytes, nil
	}
	for run, err := range e.runs(ctx, sp, st, seq, st.tail, borrow) {
		if err != nil {
			return 0, err
		}
		return run.Place().BytesBefore, nil
	}
	return st.bytes, nil
}

// extents lists who holds the entries of a segment up to and including base.
func extents(space string, desc *record.Descriptor, base runnel.Sequence) []record.Extent {
	var list []record.Extent
	if desc.Fork != nil {
		for _, x := range desc.Fork.Extents {
			if n := len(list); n > 0 && list[n-1].Through >= base {
				return list
			}
			x.Through = min(x.Through, base)
			list = append(list, x)
		}
		if base <= desc.Fork.Base {
			return list
		}
	}
	if base == 0 {
		return list
	}
	return append(list, record.Extent{Space: space, Segment: desc.ID, Through: base})
}

// inherit gives the fork what it takes over from its source and the request leaves open. Source:
// PROTOCOL.md, section 4.2, the table of lifetimes.
func (from *branch) inherit(desc *record.Descriptor, o *runnel.CreateOptions) {
	fork := *from.fork
	desc.Fork = &fork
	if desc.ContentType == "" {
		desc.ContentType = from.source.ContentType
	}
	if !fork.OwnExpiry {
		desc.TTL, desc.ExpiresAt = from.source.TTL, from.source.ExpiresAt
	}
	if !fork.OwnRetention {
		desc.Retention = from.source.Retention
	}
}

// dereference takes a fork's reference back from its source, and ends a source that was only kept for
// it. Doing it again changes nothing.
func (e *Engine) dereference(ctx context.Context, source runnel.Segment, id uint64, reference [16]byte) error {
	if err := e.unreference.enter(ctx); err != nil {
		return err
	}
	defer e.unreference.leave()
	for {
		err := e.tryDereference(ctx, source, id, reference)
		if !errors.Is(err, errRetry) {
			return err
		}
	}
}

func (e *Engine) tryDereference(ctx context.Context, source runnel.Segment, id uint64, reference [16]byte) error {
	seg, err := e.acquire(ctx, source)
	if err != nil {
		return err
	}
	defer seg.release()
	if _, err := e.driver.Get(ctx, seg.sp.part, referenceKey(id, reference)); err != nil {
		if errors.Is(err, storage.ErrKeyNotFound) {
			return nil
		}
		return storageError(err)
	}
	ended := false
	size := 34*rowBytes + 2*runnel.MaxSpaceBytes + 2*seg.descriptorBytes()
	err = seg.sp.write(ctx, size, 14, func(t *tx) error {
		if seg.stale.Load() {
			return errRetry
		}
		t.remove(referenceKey(id, reference))
		st := seg.staged
		if st.desc == nil || st.desc.ID != id || st.desc.References == 0 {
			return nil
		}
		desc := *st.desc
		desc.References--
		t.describe(seg, &desc)
		if desc.References == 0 && seg.staged.life(t.micros) != lifeLive {
			if !desc.SoftDeleted {
				t.b.events = append(t.b.events, runnel.Event{Info: st.info(source), Deleted: true})
			}
			t.end(seg)
			ended = true
		}
		return nil
	})
	switch st := seg.durable.Load(); {
	case err != nil:
	case ended:
		e.cleaner.tidy(seg.sp.part)
	case st.inc != nil && st.inc.retained.get() > 0:
		e.cleaner.trim(source, id) // the fork may have kept what retention has cut
	}
	return err
}
