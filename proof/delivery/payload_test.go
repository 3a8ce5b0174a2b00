package delivery

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"strconv"
)

// kind is how the entries of a stream are told apart.
type kind int

const (
	text kind = iota
	binary
	messages
	kinds
)

func (k kind) contentType() string {
	return [...]string{"text/plain; charset=utf-8", "application/octet-stream", "application/json"}[k]
}

// label says which entry a payload is: entry index of append number app of a life.
type label struct{ life, app, index int }

func (l label) String() string { return fmt.Sprintf("%d.%d.%d", l.life, l.app, l.index) }

// payload makes the payload of an entry, of about so many bytes.
func payload(r *rand.Rand, k kind, l label, size int) []byte {
	body := make([]byte, 0, size+8)
	switch k {
	case binary:
		for len(body) < size {
			body = append(body, byte(r.UintN(256)))
			if n := min(size-len(body), len(body)); len(body) >= 64 && n > 0 {
				body = append(body, body[:n]...)
			}
		}
	case text, messages:
		words := [...]string{"a", " ", "é", "€", ":", "data: ", "{}", "[,]", "\U0001f600", "\n", "\n\n", "\n ", "id:"}
		usable := len(words)
		if k == messages {
			usable -= 4 // which a JSON string would have to escape
		}
		for len(body) < size {
			body = append(body, words[r.IntN(usable)]...)
			if n := len(body); n >= 512 && 2*n <= size {
				body = append(body, body...)
			}
		}
	}
	head := fmt.Appendf(nil, "#%d.%d.%d.%d.", l.life, l.app, l.index, len(body))
	sum := crc32.Update(crc32.ChecksumIEEE(head), crc32.IEEETable, body)
	p := make([]byte, 0, len(head)+len(body)+11)
	if k == messages {
		p = append(p, '"')
	}
	p = fmt.Appendf(append(p, head...), "%08x:", sum)
	p = append(p, body...)
	if k == messages {
		p = append(p, '"')
	}
	return p
}

var errTorn = errors.New("the bytes are not whole entries")

// scanner takes entries out of a run of bytes, which for JSON is arrays of messages.
type scanner struct {
	kind  kind
	buf   []byte
	need  int // bytes that buf must have before it is worth a look
	state int // of JSON
}

// The states of a scanner of JSON.
const (
	before = iota // an array
	first         // message, or the end of the array
	next          // message
	after         // a message
)

// feed adds bytes and yields the entries that are complete.
func (s *scanner) feed(p []byte, yield func(label) error) error {
	s.buf = append(s.buf, p...)
	if len(s.buf) < s.need {
		return nil
	}
	s.need = 0
	at := 0
	for at < len(s.buf) {
		if s.kind == messages && s.state != first && s.state != next {
			if err := s.structure(s.buf[at]); err != nil {
				return err
			}
			at++
			continue
		}
		if s.kind == messages && s.state == first && s.buf[at] == ']' {
			s.state = before
			at++
			continue
		}
		l, n, err := s.entry(s.buf[at:])
		if err != nil {
			return err
		}
		if n == 0 {
			break
		}
		at += n
		s.state = after
		if err := yield(l); err != nil {
			return err
		}
	}
	s.buf = append(s.buf[:0], s.buf[at:]...)
	return nil
}

func (s *scanner) structure(c byte) error {
	switch {
	case s.state == before && c == '[':
		s.state = first
	case s.state == after && c == ',':
		s.state = next
	case s.state == after && c == ']':
		s.state = before
	default:
		return fmt.Errorf("%w: %q in JSON state %d", errTorn, c, s.state)
	}
	return nil
}

// entry reads the entry that b begins with. n is 0 if it is not complete.
func (s *scanner) entry(b []byte) (l label, n int, err error) {
	quote := 0
	if s.kind == messages {
		quote = 1
		if b[0] != '"' {
			return l, 0, fmt.Errorf("%w: %.60q", errTorn, b)
		}
	}
	const mostHead = 80
	colon := bytes.IndexByte(b[:min(len(b), mostHead)], ':')
	if colon < 0 {
		if len(b) >= mostHead {
			return l, 0, fmt.Errorf("%w: %.60q", errTorn, b)
		}
		return l, 0, nil
	}
	head := b[quote:colon]
	fields := bytes.Split(bytes.TrimPrefix(head, []byte{'#'}), []byte{'.'})
	if len(head) == 0 || head[0] != '#' || len(fields) != 5 {
		return l, 0, fmt.Errorf("%w: %.60q", errTorn, b)
	}
	var numbers [4]int
	for i := range numbers {
		if numbers[i], err = strconv.Atoi(string(fields[i])); err != nil {
			return l, 0, fmt.Errorf("%w: %.60q", errTorn, b)
		}
	}
	body := colon + 1
	end := body + numbers[3]
	if len(b) < end+quote {
		s.need = end + quote
		return l, 0, nil
	}
	sum := crc32.Update(crc32.ChecksumIEEE(head[:len(head)-8]), crc32.IEEETable, b[body:end])
	if fmt.Sprintf("%08x", sum) != string(fields[4]) || quote == 1 && b[end] != '"' {
		return l, 0, fmt.Errorf("%w: checksum of %.60q", errTorn, b)
	}
	return label{numbers[0], numbers[1], numbers[2]}, end + quote, nil
}

// pending says how many bytes of an entry that is not complete there are.
func (s *scanner) pending() int { return len(s.buf) }

// end returns nil if nothing is missing.
func (s *scanner) end() error {
	if len(s.buf) > 0 || s.kind == messages && s.state != before {
		return fmt.Errorf("%w: it ends inside one, with %.60q", errTorn, s.buf)
	}
	return nil
}

// labelOf reads a payload that is one entry.
func labelOf(k kind, p []byte) (label, error) {
	s := scanner{kind: k, state: next}
	if len(p) == 0 {
		return label{}, errTorn
	}
	l, n, err := s.entry(p)
	if err == nil && n != len(p) {
		err = errTorn
	}
	return l, err
}
