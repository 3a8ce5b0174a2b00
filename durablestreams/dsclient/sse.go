package dsclient

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
)

// event is one server-sent event.
type event struct {
	name string
	// data is the data lines joined with line feeds. It is valid until the next call of next.
	data []byte
}

// events reads server-sent events as the HTML standard defines them: lines end with LF, CR or CRLF, and an
// event that the end of the stream cuts short does not count.
type events struct {
	r      *bufio.Reader
	limit  int  // bytes of data of one event
	skipLF bool // the last line ended with CR, so a LF that comes next belongs to it
	begun  bool
	line   []byte
	data   []byte
}

func newEvents(r io.Reader, limit int) *events {
	return &events{r: bufio.NewReaderSize(r, 64<<10), limit: limit}
}

// next returns the next event that has data. It returns io.EOF at the end of the stream.
func (e *events) next() (event, error) {
	name, hasData := "", false
	e.data = e.data[:0]
	for {
		line, err := e.readLine()
		if err != nil {
			return event{}, err
		}
		if len(line) == 0 {
			if hasData {
				return event{name: name, data: e.data[:len(e.data)-1]}, nil
			}
			name = ""
			continue
		}
		field, value, _ := bytes.Cut(line, []byte{':'})
		value = bytes.TrimPrefix(value, []byte{' '})
		switch string(field) { // the empty field is a comment
		case "event":
			name = string(value)
		case "data":
			if len(e.data)+len(value) > e.limit {
				return event{}, &finalError{fmt.Errorf("dsclient: an event is larger than the limit of %d bytes", e.limit)}
			}
			hasData = true
			e.data = append(append(e.data, value...), '\n')
		}
	}
}

// readLine returns the next line without its end. A line that the end of the stream cuts short is none.
func (e *events) readLine() ([]byte, error) {
	e.line = e.line[:0]
	for {
		if _, err := e.r.Peek(1); err != nil {
			return nil, err
		}
		chunk, _ := e.r.Peek(e.r.Buffered())
		if e.skipLF {
			e.skipLF = false
			if chunk[0] == '\n' {
				if _, err := e.r.Discard(1); err != nil {
					return nil, err
				}
				continue
			}
		}
		end := bytes.IndexByte(chunk, '\n')
		if cr := bytes.IndexByte(chunk[:max(end, 0)], '\r'); end >= 0 && cr >= 0 {
			end = cr
		} else if end < 0 {
			end = bytes.IndexByte(chunk, '\r')
		}
		take := chunk
		if end >= 0 {
			take = chunk[:end]
			e.skipLF = chunk[end] == '\r'
		}
		if len(e.line)+len(take) > e.limit+len("data: ") {
			return nil, &finalError{fmt.Errorf("dsclient: a line of an event is larger than the limit of %d bytes", e.limit)}
		}
		e.line = append(e.line, take...)
		if _, err := e.r.Discard(min(len(take)+1, len(chunk))); err != nil {
			return nil, err
		}
		if end >= 0 {
			return e.begin(e.line), nil
		}
	}
}

// begin removes the byte order mark that may stand at the beginning of a stream.
func (e *events) begin(line []byte) []byte {
	if e.begun {
		return line
	}
	e.begun = true
	return bytes.TrimPrefix(line, []byte("\xef\xbb\xbf"))
}
