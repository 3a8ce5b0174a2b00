package durablestreams

import (
	"bytes"
	"encoding/base64"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/wire"
)

// frameBytes is how much a frame gathers. A single entry may be larger; it is never split, because a
// reader could not say where in it to go on.
const frameBytes = 64 << 10

// frame is what readers of a place are sent in one piece: data events, each with its control event, or a
// control event alone. It never changes, and all readers share it.
//
// In a JSON stream the entries of a frame share one data event, an array. In all others each entry has a
// data event of its own, so that what was appended together stays together and apart from the rest; in a
// text stream one that ends inside a character is joined with the next.
type frame struct {
	base, end runnel.Sequence // it holds the entries after base up to and including end
	closed    bool            // nothing follows

	chunk  []byte // the text as a chunk of HTTP/1.1; nil if the frame is a heavy entry that was left out
	text   []byte // the part of chunk between the framing
	number cursor // the cursor in the text
	where  []int  // its places in text; none if the only control event is that of a closed stream
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
// whether the reader is level with the stream, and whether the stream is closed. A heavy entry has a frame
// of its own, for which weigh makes room; without one its frame has no text.
func (c codec) frames(v runnel.View, through runnel.Sequence, number cursor, weigh weigher, yield func(*frame) error) error {
	if through <= v.From {
		return nil
	}
	e := encoder{codec: c, base: v.From, number: number}
	at := v.From
	for b, err := range v.Stream {
		if err != nil {
			return err
		}
		for i := range b.Len() {
			p := b.Payload(i)
			joined := e.continues(p)
			if e.open && !joined && len(e.b)+len(p) > frameBytes {
				e.control(at, false, false)
				if err := yield(e.frame(at)); err != nil {
					return err
				}
			}
			if e.open && !joined && c != codecJSON {
				e.control(at, false, false)
			}
			at++
			level := at == v.Tail
			if len(p) > heavyBytes {
				if err := e.heavy(p, at, level, level && v.Closed, weigh, yield); err != nil || at == through {
					return err
				}
				continue
			}
			e.add(p)
			if at == through {
				e.control(at, level, level && v.Closed)
				return yield(e.frame(at))
			}
		}
	}
	return errIncomplete
}

// heavy yields the frame of one heavy entry, and has it in memory no longer than that.
func (e *encoder) heavy(p []byte, at runnel.Sequence, level, closed bool, weigh weigher, yield func(*frame) error) error {
	if weigh == nil {
		f := &frame{base: e.base, end: at, closed: closed}
		*e = encoder{codec: e.codec, base: at, number: e.number}
		return yield(f)
	}
	release, err := weigh(e.codec.sizeOf(p))
	if err != nil {
		return err
	}
	defer release()
	e.add(p)
	e.control(at, level, closed)
	return yield(e.frame(at))
}

// continues tells whether the data event ends inside a UTF-8 sequence that an entry goes on with. Events are
// decoded one by one, so that the two halves of a character would be lost in two of them.
func (e *encoder) continues(p []byte) bool {
	if !e.open || e.codec != codecText || len(p) == 0 || len(e.b)+len(p) > heavyBytes {
		return false
	}
	for n := 1; n < utf8.UTFMax; n++ {
		end := e.b[len(e.b)-n:] // which is never short, as the event begins with its name
		if !utf8.RuneStart(end[0]) {
			continue
		}
		if utf8.FullRune(end) {
			return false
		}
		var both [2 * utf8.UTFMax]byte
		whole := append(append(both[:0], end...), p[:min(len(p), utf8.UTFMax-1)]...)
		r, size := utf8.DecodeRune(whole)
		return !utf8.FullRune(whole) || r != utf8.RuneError || size > 1
	}
	return false
}

// sizeOf is about how many bytes an event of an entry takes.
func (c codec) sizeOf(p []byte) int {
	if c == codecBinary {
		return base64.StdEncoding.EncodedLen(len(p))
	}
	return len(p) + len(p)/8
}

// control returns a frame without data.
func (c codec) control(at runnel.Sequence, number cursor, level, closed bool) *frame {
	e := encoder{codec: c, base: at, number: number}
	e.control(at, level, closed)
	return e.frame(at)
}

// encoder gathers entries for a frame. It keeps nothing of what it is given.
type encoder struct {
	codec  codec
	base   runnel.Sequence
	number cursor
	b      []byte
	open   bool // a data event has begun
	closed bool
	where  []int
}

const (
	chunkHead    = 18  // room for the length of a chunk and the end of its line
	controlBytes = 256 // what the rest of a frame takes, at most, if the cursor is a usual one
)

// room makes sure that so much, and a control event, can be added.
func (e *encoder) room(n int) {
	if e.b == nil {
		e.b = make([]byte, chunkHead, chunkHead+n+controlBytes)
	} else {
		e.b = slices.Grow(e.b, n+controlBytes)
	}
}

// add takes one entry.
func (e *encoder) add(p []byte) {
	if !e.open {
		e.room(e.codec.sizeOf(p) + 32)
		e.b = append(e.b, "event: data\ndata:"...)
		if e.codec == codecJSON {
			e.b = append(e.b, '[')
		}
		e.open = true
	} else if e.codec == codecJSON {
		e.b = append(e.b, ',')
	}
	if e.codec == codecBinary {
		e.b = base64.StdEncoding.AppendEncode(e.b, p)
		return
	}
	if len(p) > 0 && p[0] == ' ' && bytes.HasSuffix(e.b, dataField) {
		e.b = append(e.b, ' ')
	}
	e.b = appendLines(e.b, p)
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

// control ends the data event, if there is one, and adds its control event.
func (e *encoder) control(at runnel.Sequence, level, closed bool) {
	if e.open {
		if e.codec == codecJSON {
			e.b = append(e.b, ']')
		}
		e.b = append(e.b, "\n\n"...)
		e.open = false
	}
	e.room(0)
	b := append(e.b, "event: control\ndata:{\""+wire.FieldNextOffset+"\":\""...)
	b = at.AppendOffset(b)
	if !closed {
		b = append(b, `","`+wire.FieldCursor+`":"`...)
		e.where = append(e.where, len(b)-chunkHead)
		b = append(b, e.number...)
	}
	b = append(b, '"')
	if level || closed {
		b = append(b, `,"`+wire.FieldUpToDate+`":true`...)
	}
	if closed {
		b = append(b, `,"`+wire.FieldClosed+`":true`...)
	}
	b = append(b, "}\nid:"...)
	b = at.AppendOffset(b)
	if closed {
		b = append(b, closedSuffix...)
	}
	e.b = append(b, "\n\n"...)
	e.closed = closed
}

// frame returns what was gathered, and begins anew after it.
func (e *encoder) frame(end runnel.Sequence) *frame {
	f := &frame{base: e.base, end: end, closed: e.closed, number: e.number, where: e.where}
	f.setText(e.b)
	*e = encoder{codec: e.codec, base: end, number: e.number}
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
	more := len(number) - len(f.number)
	b := make([]byte, chunkHead, chunkHead+len(f.text)+len(f.where)*max(more, 0)+2)
	g.number, g.where = number, make([]int, len(f.where))
	from := 0
	for i, at := range f.where {
		b = append(b, f.text[from:at]...)
		g.where[i] = at + i*more
		b = append(b, number...)
		from = at + len(f.number)
	}
	g.setText(append(b, f.text[from:]...))
	return &g
}

// atLeast returns the frame with cursors that are not less than one that the reader was sent before.
func (f *frame) atLeast(number cursor) *frame {
	if len(f.where) == 0 || !f.number.less(number) {
		return f
	}
	return f.with(number)
}

// closedSuffix marks the event id of the end of a closed stream, so that a browser's EventSource that
// comes back after it can be told to stop. An offset never has a colon.
const closedSuffix = ":closed"
