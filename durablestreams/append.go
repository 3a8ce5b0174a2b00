package durablestreams

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/wire"
)

// append answers POST: it appends, closes, or both. Source: PROTOCOL.md, sections 5.2 and 5.3.
func (h *Handler) append(w http.ResponseWriter, r *http.Request, seg runnel.Segment) error {
	o := runnel.AppendOptions{Close: closes(r.Header)}
	if err := setConditions(&o, r.Header); err != nil {
		return err
	}
	ifMatch, err := h.expect(r, seg, &o)
	if err != nil {
		return err
	}
	contentType, _, err := single(r.Header, wire.HeaderContentType)
	if err != nil {
		return err
	}
	b, err := h.receive(w, r)
	if err != nil {
		return err
	}
	defer h.release(b)
	if len(b.bytes) > 0 {
		o.ContentType = contentType // and without a body it is ignored, whatever it says
		err = h.split(b, contentType, true)
	} else if !o.Close {
		err = wire.Invalid(wire.CodeEmptyBody, "there is nothing to append; an empty body needs Stream-Closed: true")
	}
	if err != nil {
		return h.preferState(r, seg, err)
	}
	done, err := h.log.Append(r.Context(), seg, o, b.records...)
	if err != nil {
		return explainAppend(err, o.Producer, ifMatch)
	}

	header := w.Header()
	v := new(values)
	v.setOffset(header, done.Tail)
	if done.Closed {
		header[wire.HeaderClosed] = valueTrue
	}
	status := http.StatusNoContent
	if o.Producer != nil {
		v.setProducer(header, o.Producer.Epoch, done.ProducerSeq)
		if !done.Duplicate && len(b.bytes) > 0 {
			header[headerContentLength] = valueZero
			status = http.StatusOK
		}
	}
	w.WriteHeader(status)
	return nil
}

// setConditions reads the headers of producers and of Stream-Seq.
func setConditions(o *runnel.AppendOptions, header http.Header) error {
	id, hasID, err := single(header, wire.HeaderProducerID)
	if err != nil {
		return err
	}
	epoch, hasEpoch, err := single(header, wire.HeaderProducerEpoch)
	if err != nil {
		return err
	}
	seq, hasSeq, err := single(header, wire.HeaderProducerSeq)
	if err != nil {
		return err
	}
	if hasID || hasEpoch || hasSeq {
		if o.Producer, err = parseProducer(id, epoch, seq, hasID && hasEpoch && hasSeq); err != nil {
			return err
		}
	}
	o.StreamSeq, o.HasStreamSeq, err = single(header, wire.HeaderSeq)
	switch {
	case err != nil:
		return err
	case o.HasStreamSeq && o.StreamSeq == "":
		return wire.Invalid(wire.CodeInvalidRequest, "Stream-Seq must not be empty")
	case len(o.StreamSeq) > runnel.MaxStreamSeqBytes:
		return wire.Invalid(wire.CodeInvalidRequest,
			fmt.Sprintf("Stream-Seq has %d bytes, the limit is %d", len(o.StreamSeq), runnel.MaxStreamSeqBytes))
	}
	return nil
}

func parseProducer(id, epoch, seq string, all bool) (*runnel.Producer, error) {
	switch {
	case !all:
		return nil, wire.Invalid(wire.CodeInvalidRequest, "Producer-Id, Producer-Epoch and Producer-Seq must be given together")
	case id == "":
		return nil, wire.Invalid(wire.CodeInvalidRequest, "Producer-Id must not be empty")
	case len(id) > runnel.MaxProducerBytes:
		return nil, wire.Invalid(wire.CodeInvalidRequest,
			fmt.Sprintf("Producer-Id has %d bytes, the limit is %d", len(id), runnel.MaxProducerBytes))
	}
	p := &runnel.Producer{ID: id}
	var err error
	if p.Epoch, err = parseInteger(wire.HeaderProducerEpoch, epoch, runnel.MaxProducerNumber); err != nil {
		return nil, err
	}
	p.Seq, err = parseInteger(wire.HeaderProducerSeq, seq, runnel.MaxProducerNumber)
	return p, err
}

// expect reads If-Match, whose tags are tail offsets, and returns whether it is there. With several of
// them the append expects the one that is the tail now, if any.
func (h *Handler) expect(r *http.Request, seg runnel.Segment, o *runnel.AppendOptions) (bool, error) {
	v := r.Header[wire.HeaderIfMatch]
	if len(v) == 0 {
		return false, nil
	}
	tails, any, err := parseIfMatch(v)
	if err != nil || any {
		return true, err
	}
	if len(tails) > 1 {
		info, err := h.log.Stat(r.Context(), seg)
		if err != nil {
			return true, explainAppend(err, nil, true)
		}
		for _, tail := range tails[1:] {
			if tail == info.Tail {
				tails[0] = tail
			}
		}
	}
	o.Expect = &tails[0]
	return true, nil
}

// neverTail is a place that no tail is at.
const neverTail = runnel.Latest

// parseIfMatch reads a list of offsets, in quotes or bare, or the star, which any stream matches. Entity
// tags that are no offsets, those of GET for instance, match nothing.
func parseIfMatch(values []string) (tails []runnel.Sequence, any bool, err error) {
	for _, list := range values {
		for item := range strings.SplitSeq(list, ",") {
			item = strings.TrimSpace(item)
			if item == "*" {
				return nil, true, nil
			}
			tag := isEntityTag(item)
			if len(item) >= 2 && item[0] == '"' && item[len(item)-1] == '"' {
				item = item[1 : len(item)-1]
			}
			if item == wire.OffsetStart {
				tails = append(tails, 0)
				continue
			}
			tail, err := runnel.ParseOffset(item)
			if err != nil && tag {
				tail = neverTail
			} else if err != nil {
				return nil, false, wire.Invalid(wire.CodeInvalidOffset, "If-Match must be the offset of the tail, or a star, not "+shown(item))
			}
			tails = append(tails, tail)
		}
	}
	return tails, false, nil
}

// isEntityTag tells whether a value is an entity tag. Source: RFC 9110, section 8.8.3.
func isEntityTag(value string) bool {
	value = strings.TrimPrefix(value, "W/")
	if len(value) < 2 || value[0] != '"' || value[len(value)-1] != '"' {
		return false
	}
	for _, c := range []byte(value[1 : len(value)-1]) {
		if c <= ' ' || c == '"' || c == 0x7f {
			return false
		}
	}
	return true
}

// split makes records of a body that is not empty.
func (h *Handler) split(b *body, contentType string, post bool) error {
	if contentType == "" {
		return wire.Invalid(wire.CodeMissingContentType, "a body needs a Content-Type")
	}
	if err := checkContentType(contentType); err != nil {
		return err
	}
	if !isJSON(contentType) {
		b.records = append(b.records, runnel.Record{Payload: b.bytes})
		return nil
	}
	var err error
	b.records, err = splitJSON(b.records, b.bytes, h.cfg.MaxMessages, h.cfg.MaxJSONDepth)
	if err == nil && post && len(b.records) == 0 {
		err = wire.Invalid(wire.CodeEmptyBody, "the JSON array is empty; there is nothing to append")
	}
	return err
}

// preferState answers a bad body with what is wrong with the stream, if there is: that it does not exist,
// that it is closed, that it is of another type. A writer learns nothing from a complaint about a body
// that the stream would not have taken anyway. Source: PROTOCOL.md, section 5.2, "Error Precedence".
func (h *Handler) preferState(r *http.Request, seg runnel.Segment, err error) error {
	var f *wire.Error
	if !errors.As(err, &f) || f.Status != http.StatusBadRequest {
		return err
	}
	info, statErr := h.log.Stat(r.Context(), seg)
	switch {
	case errors.Is(statErr, runnel.ErrNotFound) || errors.Is(statErr, runnel.ErrSoftDeleted):
		return statErr
	case statErr != nil || f.Detail.Code != wire.CodeInvalidJSON && f.Detail.Code != wire.CodeMissingContentType:
		return err
	case info.Closed:
		return &runnel.ClosedError{Segment: seg, Tail: info.Tail}
	case f.Detail.Code == wire.CodeInvalidJSON && !isJSON(info.ContentType):
		return &runnel.ContentTypeError{Segment: seg, Have: info.ContentType, Got: r.Header.Get(wire.HeaderContentType)}
	}
	return err
}

// explainAppend adds to a failure what only the request knows.
func explainAppend(err error, p *runnel.Producer, ifMatch bool) error {
	switch {
	case p != nil && errors.Is(err, runnel.ErrClosed):
		// The published TypeScript client reads a 409 as a gap and, without an expected sequence, sends the
		// same again at once, for ever. One that is not below its own makes it stop.
		f := wire.ErrorOf(err)
		seq := strconv.FormatUint(p.Seq, 10)
		f.Headers = append(f.Headers, wire.HeaderProducerExpectedSeq, seq, wire.HeaderProducerReceivedSeq, seq)
		return f
	case ifMatch && errors.Is(err, runnel.ErrNotFound):
		f := wire.ErrorOf(err)
		f.Status, f.Detail.Code, f.Detail.Message = http.StatusPreconditionFailed, wire.CodePrecondition, "If-Match needs a stream, and there is none"
		return f
	}
	return err
}
