package dsclient

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
)

// splitter takes the elements out of JSON arrays that stand one after the other. It follows strings and
// brackets and leaves the rest of the grammar to whoever reads the elements, so that it keeps up with a
// stream of hundreds of megabytes a second.
type splitter struct {
	r       *bufio.Reader
	inArray bool
	first   bool
	element []byte
}

// maxMessageBytes bounds one message, so that a wrong or hostile server cannot take all memory.
const maxMessageBytes = 256 << 20

var errNotArrays = errors.New("dsclient: the data is not an array of JSON messages")

func newSplitter(r io.Reader) *splitter {
	return &splitter{r: bufio.NewReaderSize(r, 64<<10)}
}

// next returns the next element without the space around it, valid until the next call, or io.EOF after
// the last array.
func (s *splitter) next() ([]byte, error) {
	for {
		if !s.inArray {
			c, err := s.nonSpace()
			if err != nil {
				return nil, err
			}
			if c != '[' {
				return nil, errNotArrays
			}
			s.inArray, s.first = true, true
		}
		element, last, err := s.scan()
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return nil, err
		}
		first := s.first
		s.first, s.inArray = false, !last
		if len(element) > 0 {
			return element, nil
		}
		if !first || !last {
			return nil, errNotArrays
		}
	}
}

// nonSpace returns the next byte that is not JSON white space.
func (s *splitter) nonSpace() (byte, error) {
	for {
		c, err := s.r.ReadByte()
		if err != nil || !isSpace(c) {
			return c, err
		}
	}
}

func isSpace(c byte) bool { return c == ' ' || c == '\t' || c == '\n' || c == '\r' }

// scan reads up to the comma or bracket that ends an element, and says whether it ended the array.
func (s *splitter) scan() (element []byte, last bool, err error) {
	s.element = s.element[:0]
	depth, inString, escaped := 0, false, false
	for {
		if _, err := s.r.Peek(1); err != nil {
			return nil, false, err
		}
		chunk, _ := s.r.Peek(s.r.Buffered())
		end := -1
		for i := 0; i < len(chunk) && end < 0; i++ {
			switch c := chunk[i]; {
			case escaped:
				escaped = false
			case inString:
				// The bulk of a message is inside strings: jump to what can end one.
				switch c {
				case '"':
					inString = false
				case '\\':
					escaped = true
				default:
					i += plain(chunk[i:]) - 1
				}
			case c == '"':
				inString = true
			case c == '[' || c == '{':
				depth++
			case c == '}' || c == ']' && depth > 0:
				if depth--; depth < 0 {
					return nil, false, errNotArrays
				}
			case depth == 0 && (c == ',' || c == ']'):
				end, last = i, c == ']'
			}
		}
		take := chunk
		if end >= 0 {
			take = chunk[:end]
		}
		if len(s.element)+len(take) > maxMessageBytes {
			return nil, false, fmt.Errorf("dsclient: a message is larger than the limit of %d bytes", maxMessageBytes)
		}
		s.element = append(s.element, take...)
		if end >= 0 {
			_, err := s.r.Discard(end + 1)
			return bytes.Trim(s.element, " \t\r\n"), last, err
		}
		if _, err := s.r.Discard(len(chunk)); err != nil {
			return nil, false, err
		}
	}
}

// plain returns how many bytes of b, at least 1, come before the first quote or backslash.
func plain(b []byte) int {
	n := len(b)
	if i := bytes.IndexByte(b, '"'); i >= 0 {
		n = i
	}
	if i := bytes.IndexByte(b[:n], '\\'); i >= 0 {
		n = i
	}
	return max(n, 1)
}
