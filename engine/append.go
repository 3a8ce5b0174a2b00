package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/record"
	"github.com/runnelhq/runnel/storage"
)

const (
	// runBytes is how much payload a run holds before the next one begins: large enough that a key costs
	// nothing, small enough that a reader who is sent one of them holds little memory.
	runBytes = 128 << 10
	// fragmentBytes is the largest value written, whatever the driver takes, so that one large entry does
	// not take one large piece of every cache on its way.
	fragmentBytes = 1 << 20
	// rowBytes is what a row takes in a batch besides the bytes of its value.
	rowBytes = 96
	// entryBytes is what an entry takes in a run besides its payload and metadata.
	entryBytes = 8
	// headerBytes is what the headers of a fragment take at most.
	headerBytes = 64
)

// Append adds records to the end of a segment, all of them or none, and returns when they are durable.
//
// It fails with runnel.ErrNotFound, ErrExists, ErrSoftDeleted, ErrClosed, ErrProducerFenced,
// ErrProducerGap, ErrKeyReused, ErrContentType, ErrTailMoved or ErrStreamSeq when the segment's state
// stands against it, usually looked at in this order: a key or a producer whose write is there already is
// answered before; ErrInvalid and ErrTooLarge whatever the state is;
// ErrStorageFull when there is no space for it; ErrUnknown when nobody can say whether it happened, as
// after ctx ended while it was being committed. The records are not kept.
func (e *Engine) Append(ctx context.Context, addr runnel.Segment, o runnel.AppendOptions, records ...runnel.Record) (runnel.Appended, error) {
	a := [1]appending{{name: addr.Name, o: &o}}
	if err := a[0].encode(e, records); err != nil {
		return runnel.Appended{}, err
	}
	if err := e.commitAll(ctx, addr.In(), &transaction{appends: a[:]}); err != nil {
		return runnel.Appended{}, err
	}
	return a[0].result, nil
}

// Commit is Transact with writes alone.
func (e *Engine) Commit(ctx context.Context, space runnel.Space, writes ...runnel.Write) ([]runnel.Appended, error) {
	c, err := e.Transact(ctx, space, runnel.Transaction{Writes: writes})
	return c.Appended, err
}

// Transact makes one commit to a space: appends to several segments, each under its own conditions,
// moves of cursors, and leases that must be held; all of it or nothing. It fails with the error of the
// first lease, write or cursor, in this order, that stands against it, unless it repeats a commit: see RenewLease for the leases,
// Append for the writes; a cursor fails with runnel.ErrCursorMoved, ErrBeyondTail, or ErrNotFound of its
// segment. No segment may be written twice, and no cursor moved twice. If some writes are duplicates
// and others are not, the commit is refused with runnel.ErrInvalid; if all are, it is answered as
// before, and no cursor moves again.
func (e *Engine) Transact(ctx context.Context, space runnel.Space, tr runnel.Transaction) (runnel.Committed, error) {
	if id, ok, err := seeks(&tr); err != nil || ok {
		if err == nil {
			err = e.moveSubscription(ctx, space, id, tr.Cursors)
		}
		return runnel.Committed{}, err
	}
	work := transaction{appends: make([]appending, len(tr.Writes)+len(tr.Items)), moves: make([]moving, len(tr.Cursors)), fences: tr.Fences}
	var written distinct[string]
	for i := range tr.Writes {
		w := &tr.Writes[i]
		if !written.add(w.Segment) {
			return runnel.Committed{}, &runnel.InvalidError{What: "commit", Rule: fmt.Sprintf("names segment %q twice", w.Segment)}
		}
		work.appends[i] = appending{name: w.Segment, o: &w.Options}
		if err := work.appends[i].encode(e, w.Records); err != nil {
			return runnel.Committed{}, err
		}
	}
	items := work.appends[len(tr.Writes):]
	for i := range tr.Items {
		w := &tr.Items[i]
		if !written.add(w.Segment) {
			return runnel.Committed{}, &runnel.InvalidError{What: "commit", Rule: fmt.Sprintf("names segment %q twice", w.Segment)}
		}
		if err := e.itemWriting(&items[i], w); err != nil {
			return runnel.Committed{}, err
		}
	}
	var moved distinct[runnel.CursorName]
	for i := range tr.Cursors {
		m := &tr.Cursors[i]
		name := runnel.CursorName{Space: space, Segment: m.Segment, Name: m.Name}
		if err := checkCursor(name); err != nil {
			return runnel.Committed{}, err
		}
		if !moved.add(name) {
			return runnel.Committed{}, &runnel.InvalidError{What: "commit", Rule: fmt.Sprintf("moves cursor %s twice", name)}
		}
		work.moves[i] = moving{CursorMove: m, name: name}
	}
	for _, f := range tr.Fences {
		if err := checkFence(space, f); err != nil {
			return runnel.Committed{}, err
		}
	}
	if err := e.commitAll(ctx, space, &work); err != nil {
		return runnel.Committed{}, err
	}
	c := runnel.Committed{Appended: make([]runnel.Appended, len(tr.Writes))}
	for i := range tr.Writes {
		c.Appended[i] = work.appends[i].result
	}
	for i := range items {
		c.Items = append(c.Items, runnel.ItemsWritten{Appended: items[i].result, Results: items[i].results})
	}
	return c, nil
}

// transaction is what a commit is to do.
type transaction struct {
	appends []appending
	moves   []moving
	fences  []runnel.Fence
}

// appending is one append on its way.
type appending struct {
	name   string
	o      *runnel.AppendOptions
	bodies []*record.Body
	count  uint64
	bytes  uint64
	most   uint64 // the largest payload

	seg       *segment
	creates   bool
	duplicate bool
	result    runnel.Appended

	folding
}

// encode checks what does not depend on the segment, and builds the bodies of the runs.
func (a *appending) encode(e *Engine, records []runnel.Record) error {
	if len(records) == 0 && !a.o.Close {
		return &runnel.InvalidError{What: "append", Rule: "needs at least one record, or to close the segment"}
	}
	if p := a.o.Producer; p != nil {
		switch {
		case p.ID == "":
			return &runnel.InvalidError{What: "producer id", Rule: "must not be empty"}
		case len(p.ID) > runnel.MaxProducerBytes:
			return &runnel.TooLargeError{What: "producer id", Limit: runnel.MaxProducerBytes, Got: int64(len(p.ID))}
		case p.Epoch > runnel.MaxProducerNumber || p.Seq > runnel.MaxProducerNumber:
			return &runnel.InvalidError{What: "producer epoch and sequence", Rule: fmt.Sprintf("must be at most %d", uint64(runnel.MaxProducerNumber))}
		}
	}
	if len(a.o.Key) > runnel.MaxKeyBytes {
		return &runnel.TooLargeError{What: "idempotency key", Limit: runnel.MaxKeyBytes, Got: int64(len(a.o.Key))}
	}
	if a.o.Key != "" && a.o.Producer != nil {
		return &runnel.InvalidError{What: "idempotency key and producer", Rule: "exclude each other"}
	}
	if err := a.checkCreate(); err != nil {
		return err
	}
	if len(a.o.StreamSeq) > runnel.MaxStreamSeqBytes {
		return &runnel.TooLargeError{What: "stream sequence", Limit: runnel.MaxStreamSeqBytes, Got: int64(len(a.o.StreamSeq))}
	}
	a.bodies, a.count, a.bytes, a.most = e.bodies(records)
	a.records = records
	return nil
}

// checkCreate checks what the append would make a segment with.
func (a *appending) checkCreate() error {
	c := a.o.Create
	switch {
	case c == nil && a.o.Absent:
		return &runnel.InvalidError{What: "append to a segment that must be absent", Rule: "needs options to create it with"}
	case c == nil:
		return nil
	case c.Fork != nil || c.Closed || len(c.Records) > 0:
		return &runnel.InvalidError{What: "append that creates a segment", Rule: "cannot fork it, and takes no other records than its own"}
	}
	return checkCreate(c)
}

// bodies packs records into the bodies of runs.
func (e *Engine) bodies(records []runnel.Record) (bodies []*record.Body, count, bytes, most uint64) {
	for len(records) > 0 {
		n, size := 0, 0
		for n < len(records) && (n == 0 || size+recordBytes(&records[n]) <= runBytes) {
			size += recordBytes(&records[n])
			most = max(most, uint64(len(records[n].Payload)))
			n++
		}
		body := record.NewBody(records[:n])
		bodies = append(bodies, body)
		count += uint64(n)
		bytes += body.PayloadBytes()
		records = records[n:]
	}
	return bodies, count, bytes, most
}

// recordBytes is about what a record takes in a run.
func recordBytes(r *runnel.Record) int {
	size := len(r.Payload) + entryBytes
	for k, v := range r.Metadata {
		size += len(k) + len(v)
	}
	return size
}

// cost bounds what the bodies add to a batch.
func (e *Engine) cost(bodies []*record.Body) (size, ops int) {
	for _, b := range bodies {
		n := len(b.Bytes())/(e.fragment()-headerBytes) + 1
		size += len(b.Bytes()) + n*rowBytes
		ops += n
	}
	return size, ops
}

// fragment is the largest value that the engine writes.
func (e *Engine) fragment() int {
	if most := e.limits.MaxValueBytes; most > 0 {
		return min(most, fragmentBytes)
	}
	return fragmentBytes
}

func (e *Engine) commitAll(ctx context.Context, part runnel.Space, work *transaction) error {
	if n, most := len(work.appends)+len(work.moves)+len(work.fences), (e.fragment()-commitRowBytes)/(2*commitChangeBytes); n > most {
		return &runnel.InvalidError{What: "commit", Rule: fmt.Sprintf("has %d parts, storage takes at most %d", n, most)}
	}
	size := len(work.moves)*(storage.MaxKeyBytes+rowBytes) + len(work.fences)*(runnel.MaxLeaseBytes+rowBytes)
	ops := len(work.moves) + len(work.fences)
	for i := range work.appends {
		a := &work.appends[i]
		if err := part.Segment(a.name).Validate(); err != nil {
			return err
		}
		s, n := e.cost(a.bodies)
		// Besides the runs, at most a mark for subscriptions, what changes, the producer or the key, and the end.
		size += s + 8*rowBytes + len(a.o.StreamSeq) + len(a.o.Key)
		ops += n + 6
		if c := a.o.Create; c != nil {
			size += 8*rowBytes + len(c.ContentType) + 2*runnel.MaxSpaceBytes
			ops += 7
		}
	}
	for {
		err := e.tryCommit(ctx, part, work, size, ops)
		if !errors.Is(err, errRetry) {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
}

func (e *Engine) tryCommit(ctx context.Context, part runnel.Space, work *transaction, size, ops int) error {
	sp, err := e.enter(ctx, part)
	if err != nil {
		return err
	}
	defer sp.leave()
	rows := heldRows{sp: sp}
	defer rows.release()
	for i := range work.appends {
		a := &work.appends[i]
		if a.seg, err = e.acquire(ctx, part.Segment(a.name)); err != nil {
			return err
		}
		defer a.seg.release()
		if err := a.load(ctx, &rows); err != nil {
			return err
		}
		s, n := a.itemsRoom()
		size += s
		ops += n
		if a.o.Close {
			size += a.seg.descriptorBytes()
		}
	}
	ends := false
	for i := range work.moves {
		m := &work.moves[i]
		if m.Segment != "" {
			if !ends { // the first that is found to be over is ended, and nothing else is done then
				ends, size, ops = true, size+endBytes, ops+endOps
			}
			if m.seg, err = e.acquire(ctx, part.Segment(m.Segment)); err != nil {
				return err
			}
			defer m.seg.release()
			m.id = m.seg.stagedID()
			size += 2 * m.seg.descriptorBytes()
		}
		m.key = cursorKey(m.id, m.Name)
		if err := rows.load(ctx, m.key); err != nil {
			return err
		}
	}
	for _, f := range work.fences {
		if err := rows.load(ctx, leaseKey(f.Key)); err != nil {
			return err
		}
	}
	if work.looksTwice() {
		// What it is checked against may have been read at different moments, between which another
		// process has written. Entering once more makes it stale then.
		if err := sp.ensure(ctx); err != nil {
			return err
		}
	}
	err = sp.write(ctx, size, ops, func(t *tx) error { return work.stage(t) })
	for i := range work.appends {
		e.outgrown(work.appends[i].seg)
	}
	return err
}

// looksTwice tells whether the transaction is checked against more than one segment.
func (work *transaction) looksTwice() bool {
	if len(work.appends) != 1 || len(work.moves)+len(work.fences) > 0 {
		return true
	}
	a := &work.appends[0]
	return a.o.Producer != nil || a.o.Key != "" || a.items
}

// load brings into memory what the append is checked against.
func (a *appending) load(ctx context.Context, rows *heldRows) error {
	if err := a.loadItems(ctx, rows); err != nil {
		return err
	}
	if p := a.o.Producer; p != nil {
		return a.seg.loadProducer(ctx, p.ID)
	}
	if id := a.seg.stagedID(); a.o.Key != "" && id != 0 {
		return rows.load(ctx, onceKey(id, a.o.Key))
	}
	return nil
}

// stage checks everything, and then stages it all.
func (work *transaction) stage(t *tx) error {
	as := work.appends
	duplicates, checked, refused := work.checkAppends(t)
	if errors.Is(refused, errRetry) {
		return refused
	}
	// A commit that has happened stays so when its leases have ended since.
	if refused != nil || duplicates == 0 || duplicates < len(as) {
		if err := work.checkFences(t); err != nil {
			return err
		}
	}
	if refused != nil {
		work.dependOn(t, checked, 0)
		return refused
	}
	if duplicates > 0 {
		work.dependOn(t, len(as), 0)
		if duplicates < len(as) {
			return &runnel.InvalidError{What: "commit", Rule: fmt.Sprintf("repeats %d of its %d writes; a commit is repeated whole or not at all", duplicates, len(as))}
		}
		return nil
	}
	for i := range work.moves {
		m := &work.moves[i]
		if m.seg != nil && m.seg.stale.Load() {
			return errRetry
		}
		if err := m.check(t); err != nil {
			work.dependOn(t, len(as), i+1)
			return err
		}
	}
	if len(as) > 0 || slices.ContainsFunc(work.moves, func(m moving) bool { return m.creates }) {
		if err := t.grow(); err != nil {
			return err
		}
	}
	first := t.sp.position + 1
	for i := range as {
		as[i].stage(t, first)
	}
	for i := range work.moves {
		work.moves[i].stage(t)
	}
	return nil
}

// checkFences decides whether the leases that the commit needs are held.
func (work *transaction) checkFences(t *tx) error {
	for _, f := range work.fences {
		if _, err := t.fence(f); err != nil {
			return err
		}
	}
	return nil
}

// checkAppends counts the appends that are duplicates, and those it has looked at: all, or those through
// the first that is refused.
func (work *transaction) checkAppends(t *tx) (duplicates, checked int, err error) {
	idle := 0
	for i := range work.appends {
		a := &work.appends[i]
		if a.seg.stale.Load() {
			return duplicates, i, errRetry
		}
		if err := a.check(t); err != nil {
			return duplicates, i + 1, err
		}
		switch {
		case a.duplicate:
			duplicates++
		case a.idle():
			a.result = runnel.Appended{Tail: a.seg.staged.tail}
			idle++
		}
	}
	if duplicates > 0 {
		duplicates += idle // which may have left nothing to know them by, and would do nothing again
	}
	return duplicates, len(work.appends), nil
}

// idle tells whether the append, which is no duplicate, is writes to items that change nothing.
func (a *appending) idle() bool { return a.writes != nil && a.nothing }

// dependOn makes a refusal wait for what the first appends and moves were checked against: that the last
// of them is what stands against the transaction says that the others do not.
func (work *transaction) dependOn(t *tx, appends, moves int) {
	for i := range work.appends[:appends] {
		t.dependOn(work.appends[i].seg)
	}
	for i := range work.moves[:moves] {
		if m := &work.moves[i]; m.seg != nil {
			t.dependOn(m.seg)
		}
	}
}

// check decides whether the staged state of the segment lets the append happen.
func (a *appending) check(t *tx) error {
	st, o := a.seg.staged, a.o
	a.duplicate, a.creates, a.nothing = false, false, false
	addr := a.seg.addr()
	if o.Create != nil && st.life(t.micros) == lifeNone {
		a.creates = true
		if err := a.checkNew(t, addr); err != nil {
			return err
		}
		return a.checkItems(t, st)
	}
	if err := t.live(a.seg, addr); err != nil {
		return err
	}
	if o.Key != "" {
		if known, err := a.checkKey(t, st, addr); known || err != nil {
			return err
		}
	}
	if o.Absent {
		return &runnel.ExistsError{Segment: addr}
	}
	var known *producer
	if o.Producer != nil {
		if known = st.inc.producers[o.Producer.ID]; known == nil && !st.inc.fresh {
			return errRetry // the segment was created again since the producer was looked up
		}
	}
	if st.desc.Closed {
		return a.checkClosed(t, st, known)
	}
	if o.Producer != nil {
		if err := a.checkProducer(t, st, known); err != nil || a.duplicate {
			return err
		}
	}
	if a.count > 0 && o.ContentType != "" && o.ContentType != st.desc.ContentType &&
		runnel.MediaType(o.ContentType) != runnel.MediaType(st.desc.ContentType) {
		return &runnel.ContentTypeError{Segment: addr, Have: st.desc.ContentType, Got: o.ContentType}
	}
	if o.Expect != nil && *o.Expect != st.tail {
		return &runnel.TailMovedError{Segment: addr, Want: *o.Expect, Tail: st.tail}
	}
	if m := st.mutable; o.HasStreamSeq && m != nil && m.HasStreamSeq && o.StreamSeq <= m.StreamSeq {
		return &runnel.StreamSeqError{Segment: addr, Last: m.StreamSeq, Got: o.StreamSeq}
	}
	if most := st.desc.Retention.Bytes; most > 0 && a.most > most {
		return &runnel.TooLargeError{What: "record of a segment that retains so many bytes", Limit: int64(most), Got: int64(a.most)}
	}
	if st.tail+runnel.Sequence(a.count) > runnel.MaxSequence-1 {
		return &runnel.InvalidError{What: "append", Rule: fmt.Sprintf("would pass the last sequence, %d", runnel.MaxSequence-1)}
	}
	return a.checkItems(t, st)
}

// checkNew decides whether an append may make its segment.
func (a *appending) checkNew(t *tx, addr runnel.Segment) error {
	t.dependOn(a.seg)
	o := a.o
	if o.Producer != nil {
		if err := a.checkProducer(t, nil, nil); err != nil {
			return err
		}
	}
	if have := contentType(o.Create); a.count > 0 && o.ContentType != "" && runnel.MediaType(o.ContentType) != runnel.MediaType(have) {
		return &runnel.ContentTypeError{Segment: addr, Have: have, Got: o.ContentType}
	}
	if o.Expect != nil && *o.Expect != 0 {
		return &runnel.TailMovedError{Segment: addr, Want: *o.Expect}
	}
	if most := o.Create.Retention.Bytes; most > 0 && a.most > most {
		return &runnel.TooLargeError{What: "record of a segment that retains so many bytes", Limit: int64(most), Got: int64(a.most)}
	}
	return nil
}

// checkKey answers an append whose idempotency key has been used, and tells whether it has.
func (a *appending) checkKey(t *tx, st *state, addr runnel.Segment) (known bool, err error) {
	r := t.row(onceKey(st.inc.id, a.o.Key))
	if r == nil {
		return false, errRetry
	}
	if r.value == nil {
		return false, nil
	}
	t.dependOnRow(r)
	k, err := record.DecodeKey(r.value)
	if err != nil {
		return false, err
	}
	if k.Sum != a.sum() {
		return false, &runnel.KeyReusedError{Segment: addr, Key: a.o.Key, First: k.First}
	}
	a.duplicate = true
	a.result = runnel.Appended{
		First: k.First, Tail: k.Tail, Position: k.Position, Time: time.UnixMicro(k.Micros).UTC(),
		Duplicate: true, Closed: k.Closed,
	}
	if a.writes != nil {
		return true, a.repeated(t)
	}
	return true, nil
}

// sum tells what is appended from anything else.
func (a *appending) sum() uint64 {
	if a.writes != nil {
		return a.writes.Sum
	}
	sum := uint64(0)
	for _, b := range a.bodies {
		sum = sum*31 + b.Sum()
	}
	return sum
}

// checkClosed answers an append to a closed segment. Closing again is a success, and so is the repetition
// of the very write that closed it. Source: PROTOCOL.md, sections 5.2 and 5.2.1.
func (a *appending) checkClosed(t *tx, st *state, known *producer) error {
	o := a.o
	a.result = runnel.Appended{Tail: st.tail, Duplicate: true, Closed: true}
	if p := o.Producer; p != nil {
		if known != nil && known.exists && p.Epoch < known.Epoch {
			return &runnel.ProducerFencedError{Producer: p.ID, Epoch: known.Epoch, Got: p.Epoch}
		}
		if by := st.desc.ClosedBy; by != nil && by.ID == p.ID && by.Epoch == p.Epoch && by.Seq == p.Seq {
			a.duplicate = true
			a.result.ProducerSeq = p.Seq
			return nil
		}
	}
	if o.Close && a.count == 0 && o.Producer == nil {
		a.duplicate = true
		return nil
	}
	return &runnel.ClosedError{Segment: a.seg.addr(), Tail: st.tail}
}

func (a *appending) checkProducer(t *tx, st *state, known *producer) error {
	p := a.o.Producer
	switch {
	case known == nil || !known.exists:
		if p.Seq != 0 {
			return &runnel.ProducerGapError{Producer: p.ID, Expected: 0, Got: p.Seq}
		}
	case p.Epoch < known.Epoch:
		return &runnel.ProducerFencedError{Producer: p.ID, Epoch: known.Epoch, Got: p.Epoch}
	case p.Epoch > known.Epoch:
		if p.Seq != 0 {
			return &runnel.InvalidError{What: "producer", Rule: fmt.Sprintf("must start epoch %d at sequence 0, not %d; it is at epoch %d", p.Epoch, p.Seq, known.Epoch)}
		}
	case p.Seq <= known.Seq:
		a.duplicate = true
		a.result = runnel.Appended{Tail: st.tail, Duplicate: true, ProducerSeq: known.Seq}
	case p.Seq > known.Seq+1:
		return &runnel.ProducerGapError{Producer: p.ID, Expected: known.Seq + 1, Got: p.Seq}
	}
	return nil
}

// stage gives the append its place. It cannot fail.
func (a *appending) stage(t *tx, transaction runnel.Position) {
	seg, o := a.seg, a.o
	a.result = runnel.Appended{Created: a.creates}
	if a.nothing {
		a.result.Tail = seg.staged.tail
		a.remember(t)
		return
	}
	if a.creates {
		t.expire(seg)
		t.create(seg, o.Create, nil, nil, nil)
		t.b.events = append(t.b.events, runnel.Event{Info: seg.staged.info(seg.addr())})
	}
	if a.count > 0 {
		first, position := t.append(seg, a.bodies, transaction)
		a.result.First, a.result.Position = first, position
		a.result.Time = time.UnixMicro(t.micros).UTC()
		if seg.staged.desc.Items {
			t.foldItems(seg, a.entries, first)
		}
	}
	st := seg.staged
	st.inc.renew(t.micros)
	if o.HasStreamSeq || a.count == 0 && st.desc.TTL > 0 {
		next := *st
		m := st.mutableCopy()
		if o.HasStreamSeq {
			m.HasStreamSeq, m.StreamSeq = true, o.StreamSeq
		}
		st.noteAccess(&m)
		next.mutable = &m
		t.set(seg, &next)
		t.put(mutableKey(st.inc.id), m.Append(nil))
		st = seg.staged
	}
	if p := o.Producer; p != nil {
		st.inc.note(p.ID, &producer{
			Producer: record.Producer{Epoch: p.Epoch, Seq: p.Seq, Tail: st.tail},
			exists:   true,
			batch:    t.b,
		})
		row := record.Producer{Epoch: p.Epoch, Seq: p.Seq, Tail: st.tail}
		t.put(producerKey(st.inc.id, p.ID), row.Append(nil))
		a.result.ProducerSeq = p.Seq
	}
	if o.Close {
		t.close(seg, o.Producer)
	}
	a.result.Tail, a.result.Closed = st.tail, o.Close
	a.remember(t)
}

// remember stages the idempotency key of the append, if it has one and there is a segment to keep it under: what
// changed nothing must not change something when it is repeated.
func (a *appending) remember(t *tx) {
	st := a.seg.staged
	if a.o.Key == "" || st.life(t.micros) == lifeNone {
		return
	}
	row := record.Key{
		First: a.result.First, Tail: st.tail, Position: a.result.Position, Micros: t.micros,
		Sum: a.sum(), Closed: a.o.Close,
	}
	t.setRow(onceKey(st.inc.id, a.o.Key), row.Append(nil))
}

// append stages runs at the tail of a segment.
func (t *tx) append(seg *segment, bodies []*record.Body, transaction runnel.Position) (runnel.Sequence, runnel.Position) {
	st := seg.staged
	count := uint64(0)
	for _, b := range bodies {
		count += uint64(b.Len())
	}
	place := record.Place{
		First:       st.tail + 1,
		Position:    t.take(count),
		Transaction: transaction,
		Micros:      t.micros,
		BytesBefore: st.bytes,
	}
	first, position := place.First, place.Position
	runs := make([]*record.Run, len(bodies))
	for i, b := range bodies {
		run := b.At(&place)
		runs[i] = run
		t.putRun(st.inc.id, run.Last(), b, &place)
		place.First += runnel.Sequence(b.Len())
		place.Position += runnel.Position(b.Len())
		place.BytesBefore += b.PayloadBytes()
	}
	at := t.set(seg, &state{desc: st.desc, mutable: st.mutable, inc: st.inc, tail: place.First - 1, bytes: place.BytesBefore, lead: st.lead, held: st.held})
	if at.runs == nil {
		at.runs = runs
	} else {
		at.runs = append(at.runs, runs...)
	}
	t.change(record.Appended, st.inc.id, position, place.First-1, count)
	t.mark(seg)
	return first, position
}

// putRun stages the value of a run, in fragments if it is larger than a value may be.
func (t *tx) putRun(id uint64, last runnel.Sequence, b *record.Body, place *record.Place) {
	header := b.AppendHeader(t.cut(headerBytes), place)
	body := b.Bytes()
	most := t.sp.e.fragment()
	if len(header)+len(body) <= most {
		t.b.Set(runKey(t.cut(17), id, last), header, body)
		return
	}
	part := most - headerBytes
	count := (len(header) + len(body) + part - 1) / part
	for i := range count {
		head := record.AppendFragment(t.cut(2*headerBytes), count)
		room := part
		if i == 0 {
			head = append(head, header...)
			room -= len(header)
		}
		room = min(room, len(body))
		t.b.Set(fragmentKey(t.cut(19), id, last, i), head, body[:room])
		body = body[room:]
	}
}

// close stages that no entry follows.
func (t *tx) close(seg *segment, by *runnel.Producer) {
	st := seg.staged
	desc := *st.desc
	desc.Closed = true
	if by != nil {
		desc.ClosedBy = &record.ProducerWrite{ID: by.ID, Epoch: by.Epoch, Seq: by.Seq}
	}
	t.describe(seg, &desc)
	t.change(record.Closed, desc.ID, t.take(1), st.tail, 0)
}

// describe stages another descriptor of a living segment.
func (t *tx) describe(seg *segment, desc *record.Descriptor) {
	next := *seg.staged
	next.desc = desc
	t.set(seg, &next)
	t.put(descriptorKey(seg.name), desc.Append(nil))
}

func (st *state) mutableCopy() record.Mutable {
	if st.mutable == nil {
		return record.Mutable{}
	}
	return *st.mutable
}

// producer is how far an idempotent producer has come, as staged.
type producer struct {
	record.Producer
	exists bool   // false: storage was asked, and knows none
	batch  *batch // the one that carries the write, nil if it was loaded
}

// maxProducers is how many producers of a segment are kept in memory.
const maxProducers = 4096

// note keeps a producer's staged state in memory. It is called with sp.mu held.
func (inc *incarnation) note(id string, p *producer) {
	if inc.producers == nil {
		inc.producers = make(map[string]*producer)
	}
	if len(inc.producers) >= maxProducers && inc.producers[id] == nil {
		for id, p := range inc.producers {
			if p.batch == nil || p.batch.finished() {
				delete(inc.producers, id)
				inc.fresh = false
				inc.forgotten++
			}
		}
	}
	inc.producers[id] = p
}

func (b *batch) finished() bool {
	select {
	case <-b.done:
		return true
	default:
		return false
	}
}

// loadProducer brings a producer's state into memory, if storage may hold one.
func (seg *segment) loadProducer(ctx context.Context, id string) error {
	sp := seg.sp
	sp.mu.Lock()
	inc := seg.staged.inc
	known := inc == nil || inc.fresh || inc.producers[id] != nil
	forgotten := uint64(0)
	if inc != nil {
		forgotten = inc.forgotten
	}
	sp.mu.Unlock()
	if known {
		return nil
	}
	p := &producer{}
	value, err := sp.e.driver.Get(ctx, sp.part, producerKey(inc.id, id))
	switch {
	case err == nil:
		if p.Producer, err = record.DecodeProducer(value); err != nil {
			return err
		}
		p.exists = true
	case !errors.Is(err, storage.ErrKeyNotFound):
		return storageError(err)
	}
	sp.mu.Lock()
	defer sp.mu.Unlock()
	if inc.forgotten != forgotten {
		return errRetry // the producer may have written since, and been forgotten
	}
	if inc.producers[id] == nil {
		inc.note(id, p)
	}
	return nil
}
