package dsclient

import (
	"bufio"
	"fmt"
	"io"
	"strings"
)

// A page of a JSON stream is an array, and what is appended before the page is asked for again makes it
// longer: where it ended with a bracket, the next element then follows. So a page of which everything
// through that bracket has been returned goes on as an array of its own.

// arrayEnd finds where the array of a page ends. The zero value is before the page.
type arrayEnd struct {
	at       int64 // bytes of the page that were looked at
	end      int64 // the index of the bracket that ends the array
	ended    bool
	some     bool // the array has an element
	depth    int
	inString bool
	escaped  bool
}

// look goes over the next bytes of the page.
func (a *arrayEnd) look(b []byte) {
	for i, c := range b {
		switch {
		case a.ended:
		case a.escaped:
			a.escaped = false
		case a.inString:
			a.escaped, a.inString = c == '\\', c != '"'
		case c == ']', c == '}':
			if a.depth--; a.depth == 0 {
				a.ended, a.end = true, a.at+int64(i)
			}
		default:
			a.some = a.some || a.depth > 0 && !isSpace(c)
			a.inString = c == '"'
			if c == '[' || c == '{' {
				a.depth++
			}
		}
	}
	a.at += int64(len(b))
}

// goOn skips what was returned of a page whose array has ended, and returns the rest, how many bytes of
// the page were skipped, and that the rest is to be looked at as a page of its own.
func (a *arrayEnd) goOn(page io.Reader) (rest io.Reader, skipped int64, err error) {
	r := bufio.NewReader(page)
	if _, err := io.CopyN(io.Discard, r, a.end); err != nil {
		return nil, 0, err
	}
	c, err := r.ReadByte()
	switch {
	case err != nil:
		return nil, 0, err
	case c == ']': // nothing was added
		_, err := io.Copy(io.Discard, r)
		return strings.NewReader(""), a.end + 1, err
	case c == ',':
		return io.MultiReader(strings.NewReader("["), r), a.end, nil
	case a.some:
		return nil, 0, &finalError{fmt.Errorf("%w: the page that was asked for again is another one at byte %d", errNotArrays, a.end)}
	}
	// The array was empty, and this begins its first element.
	return io.MultiReader(strings.NewReader("["+string(c)), r), a.end - 1, nil
}
