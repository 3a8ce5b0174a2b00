package session

import (
	"bufio"
	"encoding/binary"
	"io"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/runnelhq/runnel"
)

// A message is its length as a varint, and then so many bytes.

// messageStep is how much memory is taken for a message at a time, so that a length that is only claimed
// takes none.
const messageStep = 256 << 10

// reader reads messages from a stream.
type reader struct {
	*bufio.Reader
	limit int64
	buf   []byte
}

func newReader(r io.Reader, limit int64) *reader {
	return &reader{Reader: bufio.NewReaderSize(r, 16<<10), limit: limit}
}

// read reads a message. It fails with a [*runnel.TooLargeError] when there is one above the limit, which it
// has then skipped.
func (r *reader) read(m proto.Message) error {
	n, err := binary.ReadUvarint(r)
	if err != nil {
		return err
	}
	if n > uint64(r.limit) {
		if err := r.skip(n); err != nil {
			return err
		}
		return &runnel.TooLargeError{What: "message", Limit: r.limit, Got: int64(min(n, 1<<62))}
	}
	r.buf = r.buf[:0]
	for left := int(n); left > 0; {
		step := min(left, max(messageStep, len(r.buf))) // no more than there has been
		at := len(r.buf)
		r.buf = slices.Grow(r.buf, step)[:at+step]
		if _, err := io.ReadFull(r, r.buf[at:]); err != nil {
			return unexpected(err)
		}
		left -= step
	}
	err = proto.Unmarshal(r.buf, m)
	if cap(r.buf) > 4*messageStep {
		r.buf = nil
	}
	if err != nil {
		return malformed("%v", err)
	}
	return nil
}

// skip reads over what is too large, so that the other end comes to listen to why it is refused.
func (r *reader) skip(n uint64) error {
	for n > 0 {
		step := min(n, 1<<30)
		if _, err := io.CopyN(io.Discard, r, int64(step)); err != nil {
			return unexpected(err)
		}
		n -= step
	}
	return nil
}

func unexpected(err error) error {
	if err == io.EOF { //nolint:errorlint // what a reader returns as it is
		return io.ErrUnexpectedEOF
	}
	return err
}

// appendMessage appends a message as it goes over a stream.
func appendMessage(b []byte, m proto.Message) ([]byte, error) {
	size := proto.Size(m)
	b = slices.Grow(b, size+binary.MaxVarintLen64)
	b = binary.AppendUvarint(b, uint64(size))
	return proto.MarshalOptions{UseCachedSize: true}.MarshalAppend(b, m)
}
