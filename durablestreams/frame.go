package durablestreams

import (
	"bytes"
	"encoding/base64"
	"strconv"
	"strings"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/wire"
)

// frameBytes is how much payload a frame gathers. A single entry may be larger; it is never split, because
// a reader could not say where in it to go on.
const frameBytes = 64 << 10

// frame is what readers of a place are sent: the data event of some entries and the control event after
// it, or a control event alone. It never changes, and all readers share it.
type frame struct {
	base, end runnel.Sequence // it holds the entries after base up to and including end
	closed    bool            // nothing follows

	chunk  []byte // the text as a chunk of HTTP/1.1
	text   []byte // the part of chunk between the framing
	number cursor // the cursor in the text; empty when closed
	where  int    // its place in text
}

// codec turns entries of a content type into events. Source: PROTOCOL.md, section 5.8.
type codec byte

const (
	codecBinary codec = iota
	codecText
	codecJSON
)

func codecOf(contentType string) codec {
	switch t := runnel.MediaType(contentType); {
	case t == "application/json":
		return codecJSON
	case strings.HasPrefix(t, "text/"):
		return codecText
	}
	return codecBinary
}

// frames yields the frames of the entries of a view up to and including one of them. The last one says
// whether the reader is level with the stream, and whether the stream is closed.
func (c codec) frames(v runnel.View, through runnel.Sequence, number cursor, yield func(*frame) error) error {
	if through <= v.From {
		return nil
	}
	e := encoder{codec: c, base: v.From}
	at := v.From
	for b, err := range v.Stream {
		if err != nil {
			return err
		}
		for i := range b.Len() {
			p := b.Payload(i)
			if e.entries > 0 && e.size+len(p) > frameBytes {
				if err := yield(e.frame(at, number, false, false)); err != nil {
					return err
				}
			}
			e.add(p)
			at++
			if at == through {
				level := at == v.Tail
				return yield(e.frame(at, number, level, level && v.Closed))
			}
		}
	}
	return errIncomplete
}

// control returns a frame without data.
func (c codec) control(at runnel.Sequence, number cursor, level, closed bool) *frame {
	e := encoder{codec: c, base: at}
	return e.frame(at, number, level, closed)
}

// encoder gathers entries for a frame. It keeps nothing of what it is given.
type encoder struct {
	codec   codec
	base    runnel.Sequence
	entries int
	size    int
	b       []byte
	rest    [2]byte // what has yet to become base64, which takes three bytes at a time
	resting int
}

const (
	chunkHead    = 18  // room for the length of a chunk and the end of its line
	controlBytes = 256 // what the rest of a frame takes, at most, if the cursor is a usual one
)

func (e *encoder) start(room int) {
	e.b = make([]byte, chunkHead, chunkHead+room+controlBytes)
}

// add takes one entry.
func (e *encoder) add(p []byte) {
	if e.entries == 0 {
		room := len(p) + len(p)/8 + 16
		if e.codec == codecBinary {
			room = base64.StdEncoding.EncodedLen(len(p)) + 16
		}
		e.start(room)
		e.b = append(e.b, "event: data\ndata:"...)
		if e.codec == codecJSON {
			e.b = append(e.b, '[')
		}
	} else if e.codec == codecJSON {
		e.b = append(e.b, ',')
	}
	if e.codec == codecBinary {
		e.addBinary(p)
	} else {
		if len(p) > 0 && p[0] == ' ' && bytes.HasSuffix(e.b, dataField) {
			e.b = append(e.b, ' ')
		}
		e.b = appendLines(e.b, p)
	}
	e.entries++
	e.size += len(p)
}

// addBinary appends base64 of as many times three bytes as there are.
func (e *encoder) addBinary(p []byte) {
	if e.resting > 0 && e.resting+len(p) >= 3 {
		var three [3]byte
		n := copy(three[:], e.rest[:e.resting])
		p = p[copy(three[n:], p):]
		e.b = base64.StdEncoding.AppendEncode(e.b, three[:])
		e.resting = 0
	}
	if e.resting == 0 {
		n := len(p) - len(p)%3
		e.b = base64.StdEncoding.AppendEncode(e.b, p[:n])
		p = p[n:]
	}
	e.resting += copy(e.rest[e.resting:], p)
}

var dataField = []byte("\ndata:")

// appendLines appends text to a data field, beginning another one after each end of a line: CR, LF, or
// both. A reader drops one space after the colon, so a line that begins with one gets another.
func appendLines(b, p []byte) []byte {
	for {
		i := bytes.IndexByte(p, '\n')
		line := p
		if i >= 0 {
			line = p[:i]
		}
		if j := bytes.IndexByte(line, '\r'); j >= 0 {
			i = j
		}
		if i < 0 {
			return append(b, p...)
		}
		b = append(b, p[:i]...)
		b = append(b, dataField...)
		if p[i] == '\r' && i+1 < len(p) && p[i+1] == '\n' {
			i++
		}
		p = p[i+1:]
		if len(p) > 0 && p[0] == ' ' {
			b = append(b, ' ')
		}
	}
}

// frame returns what was gathered, and begins anew after it.
func (e *encoder) frame(end runnel.Sequence, number cursor, level, closed bool) *frame {
	switch {
	case e.entries == 0:
		e.start(0)
	case e.codec == codecBinary:
		e.b = base64.StdEncoding.AppendEncode(e.b, e.rest[:e.resting])
		e.b = append(e.b, "\n\n"...)
	case e.codec == codecJSON:
		e.b = append(e.b, "]\n\n"...)
	default:
		e.b = append(e.b, "\n\n"...)
	}
	f := &frame{base: e.base, end: end, closed: closed}
	b := append(e.b, "event: control\ndata:{\""+wire.FieldNextOffset+"\":\""...)
	b = end.AppendOffset(b)
	if !closed {
		b = append(b, `","`+wire.FieldCursor+`":"`...)
		f.number, f.where = number, len(b)-chunkHead
		b = append(b, number...)
	}
	b = append(b, '"')
	if level || closed {
		b = append(b, `,"`+wire.FieldUpToDate+`":true`...)
	}
	if closed {
		b = append(b, `,"`+wire.FieldClosed+`":true`...)
	}
	b = append(b, "}\nid:"...)
	b = end.AppendOffset(b)
	if closed {
		b = append(b, closedSuffix...)
	}
	b = append(b, "\n\n"...)
	f.setText(b)
	*e = encoder{codec: e.codec, base: end}
	return f
}

// setText makes a chunk of a text that begins chunkHead bytes into b.
func (f *frame) setText(b []byte) {
	end := len(b)
	var digits [16]byte
	head := strconv.AppendInt(digits[:0], int64(end-chunkHead), 16)
	b = append(b, "\r\n"...)
	start := chunkHead - len(head) - 2
	copy(b[start:], head)
	copy(b[chunkHead-2:], "\r\n")
	f.chunk, f.text = b[start:], b[chunkHead:end:end]
}

// with returns the frame with another cursor, in place of its own.
func (f *frame) with(number cursor) *frame {
	g := *f
	b := make([]byte, chunkHead, chunkHead+len(f.text)+len(number)+2)
	b = append(b, f.text[:f.where]...)
	b = append(b, number...)
	b = append(b, f.text[f.where+len(f.number):]...)
	g.number = number
	g.setText(b)
	return &g
}

// atLeast returns the frame with a cursor that is not less than one that the reader was sent before.
func (f *frame) atLeast(number cursor) *frame {
	if f.closed || !f.number.less(number) {
		return f
	}
	return f.with(number)
}

// closedSuffix marks the event id of the end of a closed stream, so that a browser's EventSource that
// comes back after it can be told to stop. An offset never has a colon.
const closedSuffix = ":closed"
